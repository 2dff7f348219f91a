"""External evaluation: the same model on another hospital, with the thresholds that were fixed at home."""

import numpy as np
import pandas as pd

from ecglib import metrics, notes
from ecglib.predictions import MODEL, PLACE, compared, places, replicates
from ecglib.signals import EcgError

# the counts (metrics.confusion) that a proportion of records is made of
PROPORTIONS = {"sensitivity": ("tp", "fn"), "specificity": ("tn", "fp"), "ppv": ("tp", "fp"), "npv": ("tn", "fn")}
ENDS = [f"{side}{end}" for side in ("internal", "external", "drop") for end in ("", "_low", "_high")]


def external(
    predictions,
    internal=("A", "test"),
    validation=("A", "val"),
    names=("auroc", "auprc", *metrics.OPERATING),
    *,
    rule="youden",
    target=0.9,
    n=1000,
    seed=0,
):
    """Internal against external: a row per other cohort and split, model, metric and shared label, and their "macro".

    threshold: mean over seeds; each seed's own is found on `validation` by `rule` (metrics.threshold_at) and used
    unchanged everywhere. internal, external: score with _low and _high. drop: external minus internal, with its
    interval (the cohorts are resampled independently). The macro of both sides runs over the labels that have a value
    on both. Intervals of sensitivity, specificity, PPV and NPV of a label are widened to Wilson's, which unlike a
    bootstrap has a width at 0 and 1. Another cohort that a model has seen, or may have, is not external to it: there is
    no such row (`left_out`). note: what there is to say of the model and the cohort at home. Raises EcgError when a
    model or a run was not predicted on all sides.
    """
    found = {place[:2]: place for place in places(predictions)}
    for needed in (internal, validation):
        if tuple(needed) not in found:
            raise EcgError(f"no predictions for {needed}", field="split", fix=f"predict it; there are {list(found)}")
    home, chosen = found.pop(tuple(internal)), found.pop(tuple(validation))
    rows = []
    for place in found.values():
        for model in place.p:
            if place.cohort != home.cohort and place.notes[model]:
                continue
            runs = _thresholds(chosen, home, place, model, rule, target)
            for metric in names:
                sides = [_side(side, model, metric, runs, n, seed + k) for k, side in enumerate((home, place))]
                rows += [[*place[:2], *model, home.notes[model], metric, *row] for row in _compare(*sides)]
    counts = ["n_positives_internal", "n_records_internal", "n_positives_external", "n_records_external"]
    return pd.DataFrame(rows, columns=[*PLACE, *MODEL, "note", "metric", "label", "threshold", *ENDS, *counts])


def left_out(predictions, internal=("A", "test")):
    """Which models `external` leaves out of which cohorts: encoder, mode, cohort, why."""
    rows = compared(predictions)
    rows = rows[(rows["cohort"] != internal[0]) & (rows["note"] != "")]
    rows = rows[["encoder", "mode", "cohort", "note"]].drop_duplicates(ignore_index=True)
    return rows.assign(why=rows["note"].map(notes.why)).drop(columns="note")


def _thresholds(chosen, home, place, model, rule, target):
    """{seed: Series by label}; NaN for a label that lacks a class on validation."""
    runs = place.p[model].keys()
    if any(model not in side.p or side.p[model].keys() != runs for side in (home, chosen)):
        message = f"{model} of {place.cohort}/{place.split} has not the same runs at home and on validation"
        raise EcgError(message, field="seed", fix="predict every run on all three")
    cuts = {run: metrics.threshold_at(chosen.y, chosen.p[model][run], rule, target) for run in runs}
    return {run: pd.Series(cut, chosen.labels) for run, cut in cuts.items()}


def _side(place, model, metric, runs, n, seed):
    """{label: (Interval, threshold, positives, records)} of one hospital."""
    cuts = {run: cut.reindex(place.labels).to_numpy() for run, cut in runs.items()}
    deciding = metric in metrics.OPERATING
    point, values, _ = replicates(place, model, metric, n, seed, cuts if deciding else None)
    trials = _trials(place, model, metric, cuts) if metric in PROPORTIONS else None
    counts = zip(metrics.positives(place.y).tolist(), (place.y >= 0).sum(0).tolist(), strict=True)
    mean_cut = np.mean(list(cuts.values()), axis=0) if deciding else np.full(len(point), np.nan)
    side = {}
    for k, (name, count) in enumerate(zip(place.labels, counts, strict=True)):
        result = metrics.interval(point[k], values[:, k])
        if trials is not None and trials[k] > 0 and not np.isnan(point[k]):
            low, high = metrics.wilson(point[k] * trials[k], trials[k])
            result = result._replace(low=min(result.low, float(low)), high=max(result.high, float(high)))
        side[name] = (result, mean_cut[k], *count)
    return side


def _trials(place, model, metric, cuts):
    """Records that a proportion of each label rests on, averaged over seeds."""
    tables = [metrics.confusion(place.y, p, cuts[run]) for run, p in place.p[model].items()]
    return np.mean([sum(table[name] for name in PROPORTIONS[metric]) for table in tables], axis=0)


def _compare(home, away):
    """Rows (label, threshold, ENDS, counts) of the shared labels, after the macro over those with a value on both."""
    shared = [name for name in home if name in away and home[name][3] and away[name][3]]  # known on both sides
    if not shared:
        raise EcgError("the two hospitals share no label", field="label", fix="match them by the common vocabulary")
    rows = [
        [name, home[name][1], *_ends(home[name][0], away[name][0]), *home[name][2:], *away[name][2:]] for name in shared
    ]
    both = [name for name in shared if not np.isnan(home[name][0].point + away[name][0].point)]
    if both:
        means = [_mean([side[name][0] for name in both]) for side in (home, away)]
        counts = [f(side[name][k] for name in both) for side in (home, away) for k, f in ((2, sum), (3, max))]
        rows.insert(0, ["macro", np.nan, *_ends(*means), *counts])
    return rows


def _mean(intervals):
    values = metrics.mean_known(np.stack([one.replicates for one in intervals], axis=-1))
    return metrics.interval(np.mean([one.point for one in intervals]), values)


def _ends(home, away):
    drop = metrics.interval(away.point - home.point, away.replicates - home.replicates)
    return [*home[:3], *away[:3], *drop[:3]]
