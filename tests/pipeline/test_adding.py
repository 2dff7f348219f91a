"""Adding a method is adding a file, and its name to params.yaml: it is in the list, the study and the contract."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml

from ecglib.pipeline.stages import ROOT

TOY = '''
"""Says how large an ECG is."""

import torch
from torch import nn

PAPER = "a toy"
ENCODER = "net1d"


class Objective(nn.Module):
    def __init__(self, encoder, power: float = 1.0):
        super().__init__()
        self.encoder, self.head, self.power = encoder, nn.Linear(encoder.dim, 1), power

    def forward(self, batch):
        x = batch.x[:, : self.encoder.n_leads]
        size = x.std((1, 2)).pow(self.power)
        error = (self.head(self.encoder(x))[:, 0].float() - size).square().mean()
        return error, {"size": size.mean()}
'''


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A copy of the repository with one more file, and a function that runs Python in it."""
    folder = tmp_path_factory.mktemp("toy")
    ignore = shutil.ignore_patterns("__pycache__", "cache", "tmp")
    for name in ("ecglib", "ecgsim", "notebooks", "tests", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("dvc.yaml", "params.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    (folder / "ecglib/objectives/toy.py").write_text(TOY)

    def call(*words):
        words, environment = [sys.executable, "-m", *words], {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(words, cwd=folder, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    return folder, call


def test_it_is_in_the_list(study):
    shown = study[1]("ecglib", "objectives", "toy", "simclr").splitlines()
    assert len(shown) == 3 and shown[1].split()[:3] == ["toy", "a", "toy"] and "net1d-small" in shown[1]


def test_two_lines_of_params_put_it_into_the_study(study):
    folder, call = study
    params = yaml.safe_load((folder / "params.yaml").read_text())
    item = {"task": "twelve", "objective": "toy", "external": "B"}
    params["objectives"]["toy"], params["pretraining"]["twelve-toy"], params["probed"]["twelve-toy"] = {}, item, item
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    names = call("dvc", "stage", "list", "--name-only").split()
    assert {"pretrain@twelve-toy", "probe@twelve-toy"} <= set(names)


def test_it_is_under_the_contract(study):
    shown = study[1]("pytest", "-q", "-p", "no:cacheprovider", "tests/objectives/test_objectives.py", "-k", "toy")
    assert " passed" in shown and "failed" not in shown and int(shown.split(" passed")[0].split()[-1]) >= 14
