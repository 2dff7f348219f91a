"""The waist of the study: `predictions.parquet`, one row per record, label and trained model.

Models are compared on one contract only: the same cohort, split, labels, records, patients and truth. An optional
column `note` says of a model and a cohort what `ecglib.notes` marks; rows of recipe weights are never compared.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ecglib import metrics, notes
from ecglib.signals import EcgError

PLACE, MODEL = ["cohort", "split"], ["encoder", "mode", "fraction"]
COLUMNS = ["record_id", "patient_id", *PLACE, "label", "truth", "probability", *MODEL, "seed"]


def load(source):
    """Predictions (COLUMNS, note) of a file, of all predictions.parquet below a folder, or of a list, sorted.

    Raises EcgError, naming the file, for a missing column, a probability outside 0..1, a truth that is no label state,
    an unknown patient or note, and when two rows speak of the same record, label, model and seed; and where a model has
    several notes for one cohort. A file without the column `note` says nothing: "".
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    files = [f for s in map(Path, sources) for f in (sorted(s.rglob("predictions.parquet")) if s.is_dir() else [s])]
    if not files:
        raise EcgError("no predictions.parquet here", file=sources, fix="run the probing stage first: `dvc repro`")
    tables = pd.concat([_checked(file) for file in files], ignore_index=True)
    keys = [*PLACE, *MODEL, "seed", "record_id", "label"]
    tables = tables.sort_values(keys, kind="stable", ignore_index=True)
    twice = tables.duplicated(keys)
    if twice.any():
        first = tables.loc[twice.idxmax(), keys].to_dict()
        raise EcgError(f"predicted twice: {first}", file=files[0], fix="load one task at a time, name encoders apart")
    several = tables.groupby(["encoder", "mode", "cohort"])["note"].nunique() > 1
    if several.any():
        message = f"{', '.join(several.idxmax())} has several notes"
        raise EcgError(message, file=files[0], field="note", fix="one note per encoder, mode and cohort")
    return tables


def of_task(probes, task: str, methods: str = ""):
    """`load` the predictions of one task below the folder `probes`, where each method has a folder TASK-METHOD.

    methods: names with commas between them; "" takes all that are there. Rows of recipe weights are `left_out`.
    """
    return compared(_of_task(probes, task, methods))


def left_out(probes, task: str, methods: str = ""):
    """Which models `of_task` leaves out: encoder, mode, why."""
    rows = _of_task(probes, task, methods)
    rows = rows.loc[rows["note"] == notes.RECIPE, ["encoder", "mode"]].drop_duplicates(ignore_index=True)
    return rows.assign(why=notes.NO_WEIGHTS)


def compared(predictions):
    """The rows that a claim may rest on, all but those of recipe weights, with the column `note` in any case."""
    if "note" not in predictions:
        return predictions.assign(note="")
    return predictions[predictions["note"] != notes.RECIPE]


def _of_task(probes, task, methods):
    chosen = [f"{task}-{name}" for name in methods.split(",")] if methods else f"{task}-*"
    folders = sorted(Path(probes).glob(chosen)) if isinstance(chosen, str) else [Path(probes) / name for name in chosen]
    return load([folder / "predictions.parquet" for folder in folders])


def _checked(file):
    if not Path(file).is_file():
        raise EcgError("no such file", file=file)
    predictions = pd.read_parquet(file)
    lacking = [name for name in COLUMNS if name not in predictions]
    if lacking:
        raise EcgError(f"lacks the columns {lacking}", file=file, field=lacking[0], fix=f"write {COLUMNS}")
    predictions = predictions[COLUMNS].assign(note=predictions["note"] if "note" in predictions else "")
    if not predictions["probability"].between(0, 1).all():
        raise EcgError("holds values outside 0..1, or NaN", file=file, field="probability", fix="apply the sigmoid")
    if not predictions["truth"].isin((-1, 0, 1, 2)).all():
        raise EcgError("holds a state other than -1, 0, 1, 2", file=file, field="truth")
    if predictions["patient_id"].isna().any():
        raise EcgError("is empty for some record", file=file, field="patient_id", fix="use the record id when unknown")
    unknown = set(predictions["note"]) - set(notes.KNOWN)
    if unknown:
        raise EcgError(f"unknown notes {unknown}", file=file, field="note", fix=f"one of {notes.KNOWN}")
    return predictions


class Place(NamedTuple):
    """One cohort and split: labels, patients (record,), y (record, label) with -1 for unknown and for possible,
    p: {(encoder, mode, fraction): {seed: (record, label)}}, notes: {(encoder, mode, fraction): note}."""

    cohort: str
    split: str
    labels: list
    patients: np.ndarray
    y: np.ndarray
    p: dict
    notes: dict


def places(predictions):
    """Sort `compared` predictions into one `Place` per cohort and split; raises EcgError where two models broke the
    contract."""
    return [_place(key, part) for key, part in compared(predictions).groupby(PLACE, sort=True)]


def _place(key, part):
    same = ["record_id", "label", "patient_id", "truth"]
    first, p, said = None, {}, {}
    for (encoder, mode, fraction, seed), one in part.groupby([*MODEL, "seed"], sort=True):
        one = one.sort_values(["record_id", "label"])
        facts = [one[name].to_numpy() for name in same]
        first = first or facts
        for name, left, right in zip(same, first, facts, strict=True):
            if len(left) != len(right) or (left != right).any():
                message = f"{encoder} ({mode}, {fraction:g}, seed {seed}) has another {name} than the first model"
                raise EcgError(message, field="/".join(key), fix="predict the same records and labels, or filter")
        shape = (-1, one["label"].nunique())
        if len(one) % shape[1] or (one["label"].to_numpy().reshape(shape) != one["label"].to_numpy()[: shape[1]]).any():
            raise EcgError(f"{encoder} lacks a label for some record", field="/".join(key), fix="truth = -1")
        p.setdefault((encoder, mode, fraction), {})[seed] = one["probability"].to_numpy(np.float64).reshape(shape)
        said[encoder, mode, fraction] = one["note"].iloc[0]
    _, label, patient, truth = (values.reshape(shape) for values in first)
    return Place(*key, list(label[0]), patient[:, 0], np.where(truth == 2, -1, truth), p, said)


def contract(predictions):
    """What is compared: one row per cohort and split, with counts, the labels that lack a class by name, and under
    `note` the models with a mark."""
    rows = []
    for place in places(predictions):
        absent = [name for name, y in zip(place.labels, place.y.T, strict=True) if not {0, 1} <= set(y)]
        counts = [len(place.y), len(set(place.patients)), len(place.labels), len(place.p)]
        named = dict.fromkeys(notes.mark(model[0], note) for model, note in place.notes.items() if note)
        rows.append([place.cohort, place.split, *counts, *map(", ".join, (place.labels, absent, named))])
    counts = ["n_records", "n_patients", "n_labels", "n_models"]
    return pd.DataFrame(rows, columns=[*PLACE, *counts, "labels", "without_a_class", "note"])


def replicates(place, model, metric, n=1000, seed=0, thresholds=None):
    """Point (label,), values (replicate, label) and sd over seeds (label,) of a statistic, averaged over seeds.

    Every model of a place meets the same resamples of its patients. thresholds: {seed: (label,)} for the statistics
    of decisions; NaN there gives NaN here.
    """
    points, values = [], []
    for run, p in place.p[model].items():
        decided = p if thresholds is None else (p >= thresholds[run]).astype(float)
        blind = np.zeros(p.shape[1]) if thresholds is None else np.where(np.isnan(thresholds[run]), np.nan, 0.0)
        point, value = metrics.replicates(place.y, decided, place.patients, n, seed, statistic=metric)
        points.append(point + blind)
        values.append(value + blind)
    spread = np.std(points, axis=0, ddof=1) if len(points) > 1 else np.full(len(points[0]), np.nan)
    return metrics.mean_known(np.stack(points, -1)), metrics.mean_known(np.stack(values, -1)), spread


def leaders(predictions, n: int = 4, fraction: float = 0.1, mode: str = "linear") -> list[str]:
    """The `n` encoders with the highest mean macro AUROC on validation records, best first.

    fraction: the label fraction looked at, or the one nearest to it that was probed.

    Baselines are left out, and every encoder with a note on any cohort. What a figure shows is chosen here, so that the
    test patients choose nothing, nor an encoder that may have seen them.
    """
    noted = predictions["encoder"][predictions["note"] != ""] if "note" in predictions else ()
    others = {"random", "features", "scratch", *noted}
    there = predictions[(predictions["mode"] == mode) & ~predictions["encoder"].isin(others)]
    distance = (there["fraction"] - fraction).abs()
    there = there[distance == distance.min()]
    found = {}
    for place in places(there[there["split"] == "val"]):
        for (encoder, *_), runs in place.p.items():
            found.setdefault(encoder, []).extend(metrics.macro_auroc(place.y, p) for p in runs.values())
    return sorted(found, key=lambda name: -np.mean(found[name]))[:n]


def validation(predictions, n=200, seed=0):
    """Macro AUROC on the validation records, a row per fraction and seed: auroc, low, high (over patients), n_labels.

    For looking while one works: every choice may use it, and the test split is not touched. It claims nothing, so
    recipe weights may be looked at.
    """
    rows = []
    for place in places(predictions[predictions["split"] == "val"].assign(note="")):
        for (_, _, fraction), runs in place.p.items():
            for run, p in runs.items():
                found = metrics.bootstrap(place.y, p, place.patients, n, seed)
                labels = int((~np.isnan(metrics.auroc(place.y, p))).sum())
                rows.append([place.cohort, fraction, run, *found[:3], labels])
    return pd.DataFrame(rows, columns=["cohort", "fraction", "seed", "auroc", "low", "high", "n_labels"])
