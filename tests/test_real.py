"""The real study: stages run when something behind them changed, in the order of what they read."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_pipeline import STAGES, expanded

from ecglib import pipeline, real, schedule
from ecglib.__main__ import arguments, main
from ecglib.signals import EcgError

ROOT = pipeline.ROOT


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """A small library, with a wing, a table and a lazy import, in the place of the real one."""
    files = {
        "__init__.py": '"""Words only."""\n__version__ = "1"\n',
        "signals.py": "X = 1\n",
        "plots.py": "from ecglib.signals import X\n",
        "labels.py": "from pathlib import Path\nCODES = Path(__file__).parent / 'vocabulary'\n",
        "train.py": "import ecglib.labels\n\ndef fit():\n    from . import encoders\n    encoders.build('net')\n",
        "encoders/__init__.py": "import importlib\n",
        "encoders/net.py": "from ecglib.signals import X\n",
        "encoders/big.py": "from .net import X\n",
        "objectives/__init__.py": "import importlib\n",
        "objectives/jepa.py": "from .. import plots\n",
        "objectives/clef.py": "",
        "vocabulary/scp.csv": "code\n",
    }
    for name, text in files.items():
        path = tmp_path / "ecglib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(pipeline, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def ran(tree, monkeypatch) -> list[str]:
    """Stages that `real` runs, with a command that copies a file in the place of the real ones."""
    (tree / "data").mkdir()
    (tree / "data/raw").write_text("1")
    stages = {
        "first": {"cmd": "pack one --dataset d --root {data} --out results/real/one", "deps": ["{data}/raw"]},
        "second": {"cmd": "report --results results/real/one --out results/real/two", "deps": ["results/real/one"]},
    }
    (tree / "params.yaml").write_text(yaml.safe_dump({"real": {"stages": stages}}))
    calls = []

    def run(words, cwd):
        args = arguments(words[3:])
        calls.append(args.command)
        source = Path(args.root, "raw") if args.command == "pack" else cwd / args.results / "out"
        Path(cwd, args.out).mkdir(parents=True, exist_ok=True)
        (cwd / args.out / "out").write_text(str(int(source.read_text()) % 10))
        return subprocess.CompletedProcess(words, 1 if source.read_text() == "13" else 0)

    monkeypatch.setattr(schedule, "start", lambda words, cwd, label: lambda: run(words, cwd).returncode)
    monkeypatch.chdir(tree)
    return calls


def test_the_real_study_repeats_only_what_has_changed(tree, ran, capsys):
    def again() -> list[str]:
        ran.clear()
        real.run(tree / "data", tree / "params.yaml", arguments)
        return list(ran)

    assert again() == ["pack", "report"] and again() == []
    assert "nothing has changed" in capsys.readouterr().out
    (tree / "data/raw").write_text("11")  # other recordings, the same cohort
    assert again() == ["pack"]
    (tree / "data/raw").write_text("2")
    assert again() == ["pack", "report"]
    shutil.rmtree(tree / "results/real/two")
    assert again() == ["report"]
    (tree / "data/raw").write_text("13")
    with pytest.raises(EcgError, match="stage first failed"):
        again()
    (tree / "data/raw").write_text("3")
    assert again() == ["pack", "report"]


def test_the_real_study_sees_a_change_behind_a_parameter(tree, ran):
    """The notebook's paths count as inputs, listed or not, given or a default, one or several."""
    cells = [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": [NOTEBOOK]}]
    (tree / "notebooks").mkdir()
    (tree / "notebooks/a.ipynb").write_text(json.dumps({"cells": cells}))
    for name in ("kept", "one", "two", "left"):
        (tree / "results" / name).mkdir(parents=True)
        (tree / "results" / name / "x").write_text("1")
    args = arguments(
        ["run", "notebooks/a.ipynb", "-p", "several=../results/one,../results/two", "--out", "results/out"]
    )

    def mark() -> str:
        return real.mark({"cmd": "run"}, args, tree / "data")

    before = mark()
    for name in ("kept", "one", "two"):
        (tree / "results" / name / "x").write_text("2")
        assert mark() != before, name
        (tree / "results" / name / "x").write_text("1")
    (tree / "results/left/x").write_text("2")
    (tree / "results/one/.hidden").write_text("2")
    assert mark() == before


NOTEBOOK = """kept = "../results/kept"
several = ""
out_dir = "../results/scratch/left"
"""


def test_the_real_study_leaves_out_its_own_result(tree):
    args = arguments(["report", "--results", "results/real", "--out", "results/real/report"])
    (tree / "results/real/report").mkdir(parents=True)
    (tree / "results/real/x").write_text("1")
    before = real.mark({"cmd": "report"}, args, tree / "data")
    (tree / "results/real/report/index.html").write_text("1")
    assert real.mark({"cmd": "report"}, args, tree / "data") == before
    (tree / "results/real/x").write_text("2")
    assert real.mark({"cmd": "report"}, args, tree / "data") != before


def test_the_real_study_names_what_is_missing_before_the_first_stage(tree, ran):
    with pytest.raises(EcgError, match="no such folder"):
        real.run(tree / "nowhere", tree / "params.yaml", arguments)
    (tree / "data/raw").unlink()
    with pytest.raises(EcgError, match="no raw.*PhysioNet"):
        real.run(tree / "data", tree / "params.yaml", arguments)
    (tree / "data/raw").write_text("1")
    params = yaml.safe_load((tree / "params.yaml").read_text())
    params["real"]["stages"]["second"]["deps"].append("results/pretrain/twelve-supervised")
    (tree / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(EcgError, match="not there yet: results/pretrain/twelve-supervised.*make repro"):
        real.run(tree / "data", tree / "params.yaml", arguments)
    assert ran == []


def test_the_real_study_has_stages_whose_parameters_exist(monkeypatch):
    """And whose inputs are made by an earlier stage, by `make repro`, or lie in DATA."""
    monkeypatch.chdir(ROOT)
    data, made = ROOT / "nowhere", [ROOT / out for stage in STAGES.values() for out in expanded(stage, stage["outs"])]
    for name, stage in real.listed(ROOT / "params.yaml").items():
        args = arguments([word.replace("{data}", str(data)) for word in shlex.split(stage["cmd"])])
        assert args.out.startswith("results/real/"), name
        assert pipeline.needs(args), name
        for place in real.places(stage, args, data):
            known = data in place.parents or any(place == m or place in m.parents for m in made)
            assert known, f"{name}: {place}"
        made.append(ROOT / args.out)


def test_the_real_study_ends_with_its_tables_and_where_things_are(tmp_path, monkeypatch, capsys):
    rows = [
        {"task": task, "split": "test", "encoder": "random", "mode": "linear", "fraction": fraction, "label": "macro"}
        | {"metric": "auroc", "point": 0.5 + fraction / 8, "low": 0.4, "high": 0.9, "cohort": task}
        | {"n_records": 5, "n_patients": 4, "n_labels": 3}
        for task in ("ptbxl", "cinc2017")
        for fraction in (0.01, 0.1, 1.0)
    ]
    (tmp_path / "results/real/figures").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(tmp_path / "results/real/figures/scores.csv")
    (tmp_path / "results/real/figures/leaders.json").write_text('{"ptbxl": [], "cinc2017": []}')
    monkeypatch.setattr(pipeline, "ROOT", tmp_path)
    monkeypatch.setattr(real, "run", lambda *_: None)
    assert main(["real", "--data", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("0.625 (0.400 to 0.900)") == 2 and "cinc2017, 5 test records" in shown
    assert "results/real/report/index.html" in shown
