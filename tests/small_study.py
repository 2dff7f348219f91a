"""The whole study with small numbers: every stage, task and kind of method, run once for all tests of a session."""

import os
import shutil
import sys
from pathlib import Path

import yaml
from filelock import FileLock
from study_tree import call, copy_tree

from ecglib.pipeline.stages import ROOT

METHODS = ("supervised", "clef", "melp", "measure", "reconstruct", "restore", "heartlang_vq", "heartlang")

# Small numbers over those of params.yaml: a tiny study with every stage, task and method of the real one.
SMOKE = {
    "simulate": {"scale": 0.08, "days": {"patients": 15, "hours": 4, "signals": [1]}},
    "pretrain": {"warmup": 1, "batch_size": 8, "min_positives": 2},
    **{f"objectives.{name}": {"steps": 6} for name in METHODS},
    "objectives.multitask": {"steps": 6, "fresh": {"hospital": "A", "n_patients": 40, "seed": 7}},
    "probe": {"fractions": [0.5, 1.0], "seeds": 1, "epochs": 1, "min_steps": 2, "min_positives": 4}
    | {"rocket_dilations": 2, "folds": 3, "fold_seeds": 1},
    "finetune": {"fractions": [1.0], "seeds": 1},
    "from_scratch": {"epochs": 1},
    "tasks.single": {"label_names": ["SR", "AFIB", "PAC"]},
    "published.models": {"models": ["clef_small", "merl"]},
    "fine_tuning": {
        "targets": {
            "age": {"title": "Age", "kind": "number", "columns": "age", "unit": "years"},
            "sex": {"title": "Sex", "kind": "binary", "columns": "sex", "positive": {"is": "male"}},
        },
        **{
            "trained": ["age", "sex"],
            "shown": "sex",
            "mortality": "",
            "readers": {},
            "fractions": [0.5, 1.0],
            "seeds": 1,
        },
        **{"epochs": 1, "min_steps": 2, "n_resamples": 20},
    },
    "rhythm_and_beats": {
        "corpora": {"hospital A": {"corpus": "simulated", "root": "../data", "limit": 20}},
        "beats_of": {"corpus": "simulated", "root": "../data", "limit": 60},
        **{"epochs": 1, "n_folds": 3, "n_resamples": 20},
    },
    "robustness": {
        "encoders": {"random": "", **{name: f"../results/pretrain/twelve-{name}" for name in ("clef", "measure")}},
        **{"beside": ["features"], "n_records": 0, "shift_encoder": "clef", "disease": ["NORM"], "alpha": 0.3},
        "covariates": {"sex": "male"},
        "shifted": {"seeds": 1, "train_ratios": [1, 1], "ratios": [2, 1, 0.5], "shares": [0.4, 0.6], "prevalence": 0.5},
        **{"min_positives": 1, "edges": [1, 4], "n_resamples": 20},
        "damage": {"snrs": [12, 0], "kept": [6, 1], "rates": []},
        "cue": {"amplitudes": [0.1], "bands": [], "n": 32},
    },
    "explanation": {
        "encoders": {name: f"../results/pretrain/twelve-{name}" for name in ("supervised", "melp")},
        **{"controls": {"supervised": "random"}, "statements": ["AFIB", "LVH", "IMI", "ASMI"]},
        **{"per_statement": 1, "least": 1, "steps": 2, "n_resamples": 20},
    },
    "language_and_neighbours": {"ks": [1, 5], "draft_k": 3, "few": 0.5, "n_resamples": 20},
    "waves_and_leads": {
        "networks": {
            "simulated": {
                "learned": {"corpus": "simulated", "root": "../data", "splits": ["train"], "limit": 6},
                "held": {"corpus": "simulated", "root": "../data", "splits": ["val"], "limit": 2},
            }
        },
        "judged": {"hospital A": {"corpus": "simulated", "root": "../data", "splits": ["test"], "limit": 4}},
        **{"steps": 4, "batch_size": 4, "given": [["I", "II"]], "min_positives": 1, "n_resamples": 20},
    },
    "generation": {
        **{"size": "tiny", "vae_steps": 4, "wearable_steps": 2, "steps": 4, "n_records": 20, "n_steps": 2},
        **{"min_positives": 2, "min_tested": 1, "n_resamples": 20},
    },
    "holter": {"folds": 2, "step": 60, "steps": 20, "n_resamples": 20, "n_shown": 2},
    "ppg": {
        "target": {"kind": "binary", "columns": "sex", "positive": {"is": "male"}},
        "fractions": [0.5, 1.0],
        "seeds": 1,
        "epochs": 1,
        "min_steps": 2,
        "n_resamples": 20,
    },
    "external": {"n_resamples": 20},
    "noise": {"most": 1, "classifiers": ["logistic"], "n_resamples": 20},
    "figures": {"n_resamples": 20, "min_positives": 2, "fraction": 0.5},
}
# A method with labels, with metadata, with reports, with measurements, in two stages; each has tests of its own.
TWELVE = ["twelve-supervised", "twelve-clef", "twelve-melp", "twelve-measure"]
KEPT = {
    "pretraining": [*TWELVE, "twelve-reconstruct", "twelve-restore", "twelve-heartlang_vq", "single-supervised"],
    "probed": [*TWELVE, "twelve-heartlang", "single-supervised"],
    "finetuned": ["twelve-measure_finetune"],
    "baselines": [
        *(f"twelve-{name}" for name in ("random", "random_beat_transformer", "multirocket", "features", "scratch")),
        *(f"single-{name}" for name in ("random", "features", "scratch")),
    ],
}


def section(params: dict, name: str) -> dict:
    """The dotted section `name` itself, to change."""
    for part in name.split("."):
        params = params[part]
    return params


# What each process of a stage loads of the library, one module a line, at the moment it does: a kernel may end unasked.
TRACE = """
import os, sys

class Tell:
    folder = os.path.dirname(os.path.abspath(__file__))

    def find_spec(self, name, path=None, target=None):
        stage = os.environ.get("DVC_STAGE")
        if stage and name.startswith("ecglib."):
            with open(f"{self.folder}/{stage.split('@')[0]}.txt", "a") as out:
                out.write(f"{name}\\n")

sys.meta_path.insert(0, Tell())
"""


def finished(tmp_path_factory, name: str) -> Path:
    """A copy of its own, by `name`, of the study after `make repro`, which the first who asks runs for all."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the tests of a session run in several processes
        shared = shared.parent
    with FileLock(shared / "study.lock"):
        first = shared / "finished/study"
        if not first.exists():
            _run(shared / "running/study")
            (shared / "running").rename(first.parent)
    folder = shared / name / "study"
    shutil.copytree(first, folder, symlinks=True)
    return folder


def _run(folder: Path) -> None:
    """The study in a copy of the tree without git: its data, and what `make repro` calls."""
    copy_tree(folder)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, values in SMOKE.items():
        section(params, name).update(values)
    for name, keys in KEPT.items():
        params[name] = {key: params[name][key] for key in keys}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "trace").mkdir()
    (folder / "trace/sitecustomize.py").write_text(TRACE)
    call(folder, sys.executable, "-m", "ecglib", "generate", "--out", "data", "--params", "simulate")
    call(folder, "dvc", "add", "--quiet", "--no-commit", "data")
    (folder / "data.dvc").write_text((folder / "data.dvc").read_text() + "  cache: false\n")
    call(folder, sys.executable, "-m", "ecglib", "repro", PYTHONPATH=str(folder / "trace"))
    drawing = [sys.executable, "-m", "ecglib", "run", "notebooks/16_generation.ipynb"]  # no stage: `make draw`
    call(folder, *drawing, "--params", "generation", "--out", "results/generation")
