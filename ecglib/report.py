"""Tables of the study, from predictions alone: scores, paired differences, external evaluation, calibration; the page.

Every interval is over patients. Seeds (training runs, label subsets) are averaged inside each resample, so all models
of a cohort and split meet the same resamples, and the spread over seeds stands beside the interval, not in it.
`possible` and unknown truth are not scored. A column `note` says which models may have seen the cohort's corpus
(`ecglib.notes`); rows of recipe weights are in no table.
"""

import numpy as np
import pandas as pd

from ecglib import metrics, transfer
from ecglib.notes import mark, marked
from ecglib.predictions import (
    MODEL,
    PLACE,
    compared,
    contract,
    leaders,
    left_out,
    load,
    of_task,
    places,
    replicates,
)
from ecglib.signals import EcgError

__all__ = [
    "Replicates",
    "calibration",
    "contract",
    "differences",
    "external",
    "leaders",
    "left_out",
    "load",
    "not_external",
    "of_task",
    "result_table",
    "scores",
]

MACRO = "macro"
external, not_external = transfer.external, transfer.left_out


def _averages(place, point, min_positives):
    """{name: mask (label,)} of the macro averages: all labels with a value, those with enough positives."""
    known = ~np.isnan(point)
    masks = {MACRO: known, f"{MACRO} >= {min_positives}": known & (metrics.positives(place.y) >= min_positives)}
    return {name: mask for name, mask in masks.items() if mask.any()}


class Replicates:
    """`predictions.replicates` with a memory, so that scores and differences of one task are resampled once."""

    def __init__(self, n=1000, seed=0):
        self.n, self.seed, self._found = n, seed, {}

    def __call__(self, place, model, metric):
        key = (*place[:2], *model, metric)
        if key not in self._found:
            self._found[key] = replicates(place, model, metric, self.n, self.seed)
        return self._found[key]


def scores(
    predictions, names=("auroc", "auprc"), *, n=1000, seed=0, min_positives=10, policy="drop", level=0.95, drawn=None
):
    """Tidy table, a row per cohort, split, model, metric and label: "macro" over all labels that have both classes,
    "macro >= 10" over those with `min_positives`, then each label (NaN without both classes: named, never skipped).

    point, low, high; bias of the bootstrap; seed_sd: sd over the n_seeds runs (of the macro for macro rows);
    n_labels in the average and labels_used, the mean number of them in a replicate. names: keys of
    metrics.STATISTICS for probabilities. drawn: `Replicates` to share with `differences` (n and seed are then its own).
    Raises EcgError where models do not share one contract.
    """
    rows, drawn = [], drawn or Replicates(n, seed)
    for place in places(predictions):
        for model in place.p:
            for metric in names:
                found = drawn(place, model, metric)
                keys = [*PLACE, *MODEL, "note", "metric"]
                head = dict(zip(keys, [*place[:2], *model, place.notes[model], metric], strict=True))
                for name, mask in _averages(place, found[0], min_positives).items():
                    spread = _spread(place, model, metric, mask)
                    rows.append(head | {"label": name} | _row(place, mask, *found[:2], policy, level) | spread)
                for k, name in enumerate(place.labels):
                    spread = {"n_seeds": len(place.p[model]), "seed_sd": found[2][k]}
                    row = _row(place, np.arange(len(place.labels)) == k, *found[:2], "drop", level)
                    rows.append(head | {"label": name} | row | spread)
    return pd.DataFrame(rows)


def _row(place, mask, point, values, policy, level):
    kept = metrics.apply_policy(values[:, mask], policy)
    result = metrics.interval(point[mask].mean(), metrics.mean_known(kept), level)
    used, scored = (~np.isnan(kept)).sum(1), (place.y[:, mask] >= 0).any(1)
    return {
        "point": result.point,
        "low": result.low,
        "high": result.high,
        "bias": result.bias,
        "n_records": int(scored.sum()),
        "n_patients": len(set(place.patients[scored])),
        "n_positives": int(metrics.positives(place.y)[mask].sum()),
        "n_labels": int(mask.sum()),
        "labels_used": float(used[used > 0].mean()) if used.any() else 0.0,
    }


def _spread(place, model, metric, mask):
    runs = [np.mean(metrics.score(place.y[:, mask], p[:, mask], metric)) for p in place.p[model].values()]
    return {"n_seeds": len(runs), "seed_sd": float(np.std(runs, ddof=1)) if len(runs) > 1 else np.nan}


def differences(
    predictions, references=("random", "features", "scratch"), names=("auroc",), *, n=1000, seed=0, min_positives=0,
    drawn=None,
):  # fmt: skip
    """Macro score of every other encoder minus that of each reference encoder at the same label fraction, paired.

    point, low, high; p: two-sided bootstrap (`metrics.two_sided`); p_holm: adjusted over the methods that are compared
    with one reference, by one metric, at one label fraction of one cohort and split: each such question is a family.
    A model with a note stays in its family, since the test was made. reference_note: the note of the reference.
    A reference that was not run at a fraction leaves a row of NaN. drawn: `Replicates` to share with `scores`.
    Raises EcgError when a cohort and split has no reference at all.
    """
    rows, drawn = [], drawn or Replicates(n, seed)
    for place in places(predictions):
        if not any(model[0] in references for model in place.p):
            raise EcgError(f"none of {references} in {place.cohort}/{place.split}", field="encoder", fix="predict one")
        for metric in names:
            found = {model: drawn(place, model, metric)[:2] for model in place.p}
            ours = [model for model in found if model[0] not in references]
            for model, reference in ((model, reference) for model in ours for reference in references):
                rivals = [rival for rival in found if rival[0] == reference and rival[2] == model[2]]
                for rival in rivals or [(reference, "", np.nan)]:
                    said = place.notes[model], *rival[:2], place.notes.get(rival, "")
                    gap = _difference(place, found[model], found.get(rival), min_positives)
                    rows.append([*place[:2], *model, *said, metric, *gap])
    columns = [*PLACE, *MODEL, "note", "reference", "reference_mode", "reference_note"]
    columns += ["metric", "point", "low", "high", "p", "n_labels"]
    result = pd.DataFrame(rows, columns=columns)
    family = result.groupby([*PLACE, "fraction", "reference", "metric"])["p"]
    result.insert(len(columns) - 1, "p_holm", family.transform(lambda p: metrics.holm(p.to_numpy())))
    return result


def _difference(place, ours, theirs, min_positives):
    if theirs is None:
        return [np.nan] * 4 + [0]
    gap, values = ours[0] - theirs[0], ours[1] - theirs[1]
    mask = ~np.isnan(gap) & (metrics.positives(place.y) >= min_positives)
    if not mask.any():
        raise EcgError(f"no label with {min_positives} positives", field=f"{place.cohort}/{place.split}")
    result = metrics.interval(gap[mask].mean(), metrics.mean_known(values[:, mask]))
    return [*result[:3], metrics.two_sided(result.replicates), int(mask.sum())]


def calibration(predictions, labels=None, *, bins=10, level=0.95):
    """Reliability curves: a row per cohort, split, model, label and occupied bin of equal width, all seeds together.

    labels: those to draw, None pools them all under "all". probability: mean in the bin; frequency: share of positives
    with its Wilson interval [low, high], whose number of trials is n_patients, the patients in the bin: several
    records, labels or seeds of one patient are no independent trials. n: pairs of truth and probability in the bin.
    Calibration error and Brier score with intervals: `scores(predictions, ("ece", "brier"))`.
    """
    known = compared(predictions)
    known = known[known["truth"].isin((0, 1))]
    if labels is not None:
        absent = sorted(set(labels) - set(known["label"]))
        if absent:
            raise EcgError(f"no such labels: {absent}", field="label", fix=f"one of {sorted(set(known['label']))}")
        known = known[known["label"].isin(labels)]
    place = np.clip(np.ceil(known["probability"].to_numpy(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    known = known.assign(bin=place, label="all" if labels is None else known["label"])
    groups = known.groupby([*PLACE, *MODEL, "note", "label", "bin"], observed=True)
    curve = groups.agg(
        probability=("probability", "mean"),
        frequency=("truth", "mean"),
        n=("truth", "size"),
        n_patients=("patient_id", "nunique"),
    ).reset_index()
    low, high = metrics.wilson(curve["frequency"] * curve["n_patients"], curve["n_patients"], level)
    return curve.assign(low=low, high=high)


def result_table(table, gaps=None, drops=None, *, fraction=1.0, references=("random", "features")):
    """The table of the paper as text, from `scores` and `differences`: a row per cohort, split and model.

    Columns: each macro average of each metric as "point (low to high)", the difference to each reference encoder with
    its Holm-adjusted p, with `drops` (of `external`) the change of the macro AUROC from home to the row's cohort over
    the labels of both, and the counts. "-": not there. fraction: None for all of them. Names carry the marks of
    `notes`, whose legend is its `footnote`. Raises EcgError when nothing was trained on it.
    """
    rows = table[table["label"].str.startswith(MACRO)]
    if fraction is not None:
        rows = rows[np.isclose(rows["fraction"], fraction)]
    if rows.empty:
        raise EcgError(f"no scores at fraction {fraction}", field="fraction", fix=f"one of {set(table['fraction'])}")
    result = []
    for key, part in rows.groupby([*PLACE, "fraction", *MODEL[:2]], sort=True):
        line = dict(zip([*PLACE, "labels", *MODEL[:2]], key, strict=True)) | {"labels": f"{100 * key[2]:g} %"}
        for row in part.itertuples():
            line[f"{row.metric.upper()} {row.label}"] = _text(row.point, row.low, row.high)
        for reference in references if gaps is not None else ():
            line[f"AUROC - {reference}"] = _gap(gaps, key, reference)
        if drops is not None:
            line["AUROC - at home"] = _drop(drops, key)
        line["encoder"] = marked(part)[0]
        counts = part.iloc[0][["n_records", "n_patients", "n_seeds"]]
        result.append(line | dict(zip(("records", "patients", "seeds"), counts, strict=True)))
    return pd.DataFrame(result).fillna("-")


def _text(point, low, high):
    return "-" if np.isnan(point) else f"{point:.3f} ({low:.3f} to {high:.3f})"


def _of(table, key):
    """The rows on the macro AUROC of one cohort, split and model."""
    same = table["metric"] == "auroc"
    for name, value in zip([*PLACE, "fraction", *MODEL[:2]], key, strict=True):
        same &= table[name] == value
    return table[same]


def _gap(gaps, key, reference):
    rows = _of(gaps[(gaps["reference"] == reference) & gaps["point"].notna()], key)
    if rows.empty:
        return "-"
    row = rows.iloc[0]
    words = f"{row['point']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}), p {row['p_holm']:.3f}"
    return mark(words, row.get("reference_note"))


def _drop(drops, key):
    rows = _of(drops[drops["label"] == MACRO], key)
    if rows.empty:
        return "-"
    row = rows.iloc[0]
    words = f"{row['drop']:+.3f} ({row['drop_low']:+.3f} to {row['drop_high']:+.3f})"
    return mark(words, row.get("note"))  # of the corpus at home
