"""The search behind section `objectives` of params.yaml: equally many trials for every method, chosen on validation.

`python -m ecglib search [METHOD ...]` pretrains each on hospital A at a third of, exactly and three times its learning
rate, and scores linear probes at 10 % of the labels on validation patients (mean of five draws); lr 0 is the network
untrained. Finished trials are kept in results/scratch/tune; the table goes to docs/tuning.csv.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import models, objectives
from ecglib.data import cohort, splits
from ecglib.data.files import write_csv
from ecglib.evaluation import embeddings, metrics, predictions
from ecglib.evaluation.classifiers import linear
from ecglib.pipeline import schedule, stages

ROOT = stages.ROOT
FACTORS = (1 / 3, 1.0, 3.0)
HOME = ROOT / "results/cohorts/A"
TRIALS = ROOT / "results/scratch/tune"
TABLE = ROOT / "docs/tuning.csv"


def trials(names, params: dict) -> dict[str, dict]:
    """Name of a trial -> its method and learning rate. What is only the start of another method has one trial."""
    starts, planned = {objectives.trait(name, "FIRST") for name in objectives.names()}, {}
    for name in names:
        base = params["objectives"][name].get("lr", params["pretrain"]["lr"])
        for factor in (1.0,) if name in starts else FACTORS:
            lr = float(f"{base * factor:.1g}")
            planned[f"{name}-{lr:g}"] = {"method": name, "lr": lr}
    return planned


def command(trial: dict, out: Path) -> list[str]:
    words = [sys.executable, "-m", "ecglib", "run", "notebooks/02_pretraining.ipynb", "--params", "pretrain"]
    name, lr = trial["method"], f"{trial['lr']:g}"
    words += ["--params", f"objectives.{name}", "-p", f"objective={name}", "-p", f"lr={lr}", "--out", str(out)]
    first = objectives.trait(name, "FIRST")
    return words + (["-p", f"first=../{next(TRIALS.glob(f'{first}-*')).relative_to(ROOT)}"] if first else [])


def score(encoder, fraction: float = 0.1, seeds: int = 5, min_positives: int = 10) -> float:
    """Macro AUROC of probes of `encoder` on the validation patients of A, mean over draws of the labelled patients."""
    home = cohort.open(HOME)
    rows, val = home.rows("train"), home.rows("val")
    names = [n for n in home.labels if (home.states([n], rows) == 1).sum() >= min_positives]
    z, z_val = (embeddings.features(encoder, home, r) for r in (rows, val))
    y, y_val = (predictions.observed(predictions.label_states(home, r, names)) for r in (rows, val))
    table = pd.DataFrame(predictions.label_states(home, rows, names), columns=names)
    parts = splits.subsets(table, home.records["patient_id"].to_numpy()[rows], fraction, seeds)
    found = [linear(z[part], y[part], z_val, y_val).model(z_val) for part in parts]
    return float(np.mean([metrics.macro_auroc(y_val, p) for p in found]))


def run(names, params: dict) -> pd.DataFrame:
    """Run the trials of `names` (none: of all methods) and return the whole table: method, lr, validation."""
    names = names or objectives.names()
    wanted = trials(names, params)
    needs = {name: set() for name in wanted}
    for name, trial in wanted.items():
        first = objectives.trait(trial["method"], "FIRST")
        needs[name] |= {other for other in wanted if first and wanted[other]["method"] == first}

    def begin(name):
        out = TRIALS / name
        if (out / "encoder.json").is_file():
            return None
        return subprocess.Popen(command(wanted[name], out), cwd=ROOT, stdout=subprocess.DEVNULL).poll

    schedule.run(needs, begin, schedule.workers())
    known = pd.read_csv(TABLE).to_dict("records") if TABLE.is_file() else []
    rows = [r for r in known if r["method"] not in {trial["method"] for trial in wanted.values()}]
    rows += [{**trial, "validation": score(models.load(TRIALS / name)[0])} for name, trial in wanted.items()]
    for name in names:  # the network of a method before any training
        settings = params["pretrain"] | params["objectives"][name]
        untrained = models.build(settings["encoder"] or objectives.module(name).ENCODER, settings["size"])
        rows.append({"method": name, "lr": 0.0, "validation": score(untrained)})
    table = pd.DataFrame(rows).sort_values(["method", "lr"], ignore_index=True)
    write_csv(table.round(4), TABLE)
    return table
