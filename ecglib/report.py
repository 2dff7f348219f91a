"""From predictions to tables: every number of the study starts from `predictions.parquet` files and nothing else.

One row of such a file is one record, one label and one trained model: `COLUMNS`. Models are compared on one contract
only: the same cohort, split, labels, records, patients and truth. Anything else raises.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ecglib import metrics
from ecglib.page import figure, heading, links, provenance, table, text, versions, write_html
from ecglib.signals import EcgError

__all__ = [
    "calibration",
    "contract",
    "differences",
    "external",
    "figure",
    "heading",
    "links",
    "load",
    "provenance",
    "result_table",
    "scores",
    "table",
    "text",
    "versions",
    "write_html",
]

PLACE, MODEL = ["cohort", "split"], ["encoder", "mode", "fraction"]
COLUMNS = ["record_id", "patient_id", *PLACE, "label", "truth", "probability", *MODEL, "seed"]
MACRO, PROPORTIONS = "macro", {"sensitivity": "tp fn", "specificity": "tn fp", "ppv": "tp fp", "npv": "tn fn"}


def load(source):
    """Predictions (COLUMNS) of a file, of all predictions.parquet below a folder, or of a list of either, sorted.

    Raises EcgError, naming the file, for a missing column, a probability outside 0..1, a truth that is no label state,
    an unknown patient, and when two rows speak of the same record, label, model and seed.
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
    return tables


def _checked(file):
    if not Path(file).is_file():
        raise EcgError("no such file", file=file)
    predictions = pd.read_parquet(file)
    lacking = [name for name in COLUMNS if name not in predictions]
    if lacking:
        raise EcgError(f"lacks the columns {lacking}", file=file, field=lacking[0], fix=f"write {COLUMNS}")
    predictions = predictions[COLUMNS]
    if not predictions["probability"].between(0, 1).all():
        raise EcgError("holds values outside 0..1, or NaN", file=file, field="probability", fix="apply the sigmoid")
    if not predictions["truth"].isin((-1, 0, 1, 2)).all():
        raise EcgError("holds a state other than -1, 0, 1, 2", file=file, field="truth")
    if predictions["patient_id"].isna().any():
        raise EcgError("is empty for some record", file=file, field="patient_id", fix="use the record id when unknown")
    return predictions


class Place(NamedTuple):
    """One cohort and split: labels, patients (record,), y (record, label) with -1 for unknown and for possible,
    p: {(encoder, mode, fraction): {seed: (record, label)}}."""

    cohort: str
    split: str
    labels: list
    patients: np.ndarray
    y: np.ndarray
    p: dict


def places(predictions):
    """Sort predictions into one `Place` per cohort and split; raises EcgError where two models broke the contract."""
    return [_place(key, part) for key, part in predictions.groupby(PLACE, sort=True)]


def _place(key, part):
    same = ["record_id", "label", "patient_id", "truth"]
    first, p = None, {}
    for (encoder, mode, fraction, seed), one in part.groupby([*MODEL, "seed"], sort=True):
        one = one.sort_values(["record_id", "label"])
        facts = [one[name].to_numpy() for name in same]
        first = first or facts
        for name, left, right in zip(same, first, facts, strict=True):
            if len(left) != len(right) or (left != right).any():
                message = f"{encoder} ({mode}, {fraction:g}, seed {seed}) has another {name} than the first model"
                raise EcgError(message, field=f"{key[0]}/{key[1]}", fix="predict the same records and labels, or filter")
        shape = (-1, one["label"].nunique())
        if len(one) % shape[1] or (one["label"].to_numpy().reshape(shape) != one["label"].to_numpy()[: shape[1]]).any():
            raise EcgError(f"{encoder} lacks a label for some record", field=f"{key[0]}/{key[1]}", fix="truth = -1")
        p.setdefault((encoder, mode, fraction), {})[seed] = one["probability"].to_numpy(np.float64).reshape(shape)
    _, label, patient, truth = (values.reshape(shape) for values in first)
    return Place(*key, list(label[0]), patient[:, 0], np.where(truth == 2, -1, truth), p)


def contract(predictions):
    """What is compared: one row per cohort and split, with counts and the labels that lack a class by name."""
    rows = []
    for place in places(predictions):
        absent = [name for name, y in zip(place.labels, place.y.T, strict=True) if not {0, 1} <= set(y)]
        counts = [len(place.y), len(set(place.patients)), len(place.labels), len(place.p)]
        rows.append([place.cohort, place.split, *counts, ", ".join(place.labels), ", ".join(absent)])
    counts = ["n_records", "n_patients", "n_labels", "n_models"]
    return pd.DataFrame(rows, columns=[*PLACE, *counts, "labels", "without_a_class"])


def _replicates(place, model, metric, n, seed, thresholds=None):
    """Mean over the model's seeds of the statistic: point (label,), values (replicate, label), sd over seeds (label,).

    The resamples are the same for every model of a place. thresholds: {seed: (label,)} for operating statistics.
    """
    points, values = [], []
    for run, p in place.p[model].items():
        decided = p if thresholds is None else (p >= thresholds[run]).astype(float)
        point, value = metrics.replicates(place.y, decided, place.patients, n, seed, statistic=metric)
        undecided = np.isnan(thresholds[run]) if thresholds is not None else np.zeros(len(point), bool)
        points.append(np.where(undecided, np.nan, point))
        values.append(np.where(undecided, np.nan, value))
    with np.errstate(invalid="ignore"):
        spread = np.std(points, axis=0, ddof=1) if len(points) > 1 else np.full(len(points[0]), np.nan)
    return metrics.mean_known(np.stack(points, -1)), metrics.mean_known(np.stack(values, -1)), spread


def _macros(place, point, min_positives):
    """{name: label mask} of the macro averages: all labels that have a value, and those with enough positives."""
    known = ~np.isnan(point)
    masks = {MACRO: known, f"{MACRO} >= {min_positives}": known & (metrics.positives(place.y) >= min_positives)}
    return {name: mask for name, mask in masks.items() if mask.any()}


def scores(predictions, names=("auroc", "auprc"), *, n=1000, seed=0, min_positives=10, policy="drop", level=0.95):
    """Tidy table: a row per cohort, split, model, metric and label, first the macro average over all labels, then
    ("macro >= 10") over those with `min_positives`, then every label.

    Seeds are combined inside each resample (mean over seeds), so the interval [low, high] is over patients and
    `seed_sd` over seeds; intervals by patient-level bootstrap, see `metrics.bootstrap`. A label without both classes
    stays in the table with NaN. `labels_used`: mean number of labels of a replicate's macro. Possible is not scored.
    """
    rows = []
    for place in places(predictions):
        count, known = metrics.positives(place.y), (place.y >= 0).sum(0)
        for model in place.p:
            head = (place.cohort, place.split, *model)
            for metric in names:
                point, values, spread = _replicates(place, model, metric, n, seed)
                for name, mask in _macros(place, point, min_positives).items():
                    kept = metrics.apply_policy(values[:, mask], policy)
                    result = metrics.interval(point[mask].mean(), metrics.mean_known(kept), level)
                    used = (~np.isnan(kept)).sum(1)
                    facts = [len(place.y), int(count[mask].sum()), int(mask.sum()), float(used[used > 0].mean())]
                    sd = _macro_sd(place, model, metric, mask)
                    rows.append([*head, metric, name, *result[:3], result.bias, *facts, len(place.p[model]), sd])
                for k, name in enumerate(place.labels):
                    result = metrics.interval(point[k], values[:, k], level)
                    facts = [int(known[k]), int(count[k]), 1, 1.0, len(place.p[model]), spread[k]]
                    rows.append([*head, metric, name, *result[:3], result.bias, *facts])
    facts = ["bias", "n_records", "n_positives", "n_labels", "labels_used", "n_seeds", "seed_sd"]
    table = pd.DataFrame(rows, columns=[*PLACE, *MODEL, "metric", "label", "point", "low", "high", *facts])
    patients = {(place.cohort, place.split): len(set(place.patients)) for place in places(predictions)}
    table.insert(11, "n_patients", [patients[key] for key in zip(table["cohort"], table["split"], strict=True)])
    return table


def _macro_sd(place, model, metric, mask):
    runs = [metrics.score(place.y[:, mask], p[:, mask], metric).mean() for p in place.p[model].values()]
    return float(np.std(runs, ddof=1)) if len(runs) > 1 else np.nan


def differences(
    predictions, references=("random", "features", "scratch"), names=("auroc",), *, n=1000, seed=0, min_positives=0
):
    """Macro score of every other model minus that of each reference encoder at the same label fraction.

    Paired: the same resamples of patients, seeds averaged inside each. `p` is two-sided (`metrics.two_sided`),
    `p_holm` adjusted over the whole returned table: filter the predictions to define the family. A reference that was
    not run at that fraction leaves a row of NaN. Raises EcgError when no reference is there at all.
    """
    rows = []
    for place in places(predictions):
        if not any(model[0] in references for model in place.p):
            raise EcgError(f"none of {references} in {place.cohort}/{place.split}", field="encoder", fix="predict one")
        for metric in names:
            found = {model: _replicates(place, model, metric, n, seed)[:2] for model in place.p}
            for model in place.p:
                if model[0] not in references:
                    for reference in references:
                        rivals = [m for m in place.p if m[0] == reference and m[2] == model[2]] or [(reference, "", 0)]
                        for rival in rivals:
                            pair = _difference(place, found[model], found.get(rival), min_positives)
                            rows.append([place.cohort, place.split, *model, *rival[:2], metric, *pair])
    columns = [*PLACE, *MODEL, "reference", "reference_mode", "metric", "point", "low", "high", "p", "n_labels"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(12, "p_holm", metrics.holm(table["p"]))
    return table


def _difference(place, ours, theirs, min_positives):
    if theirs is None:
        return [np.nan] * 4 + [0]
    gap, values = ours[0] - theirs[0], ours[1] - theirs[1]
    mask = ~np.isnan(gap) & (metrics.positives(place.y) >= min_positives)
    if not mask.any():
        raise EcgError(f"no label with both classes and {min_positives} positives", field=f"{place.cohort}/{place.split}")
    result = metrics.interval(gap[mask].mean(), metrics.mean_known(values[:, mask]))
    return [*result[:3], metrics.two_sided(result.replicates), int(mask.sum())]
