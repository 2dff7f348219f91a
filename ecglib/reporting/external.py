"""External evaluation: the same model on another hospital, with the thresholds that were fixed at home."""

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.data.notebook import track
from ecglib.evaluation import bootstrap, metrics
from ecglib.evaluation.predictions import GROUP, MODEL, OUT_OF_FOLD, by_cohort, compared, replicates
from ecglib.reporting import marks

# the counts (metrics.confusion) that a proportion of records is made of
PROPORTIONS = {"sensitivity": ("tp", "fn"), "specificity": ("tn", "fp"), "ppv": ("tp", "fp"), "npv": ("tn", "fn")}
TEST, VAL = ("A", "test"), ("A", "val")  # at home
NAMES = ("auroc", "auprc", *metrics.OPERATING)
ENDS = [f"{side}{end}" for side in ("internal", "external", "drop") for end in ("", "_low", "_high")]


def external(predictions, internal=TEST, validation=VAL, names=NAMES, *, rule="youden", target=0.9, n=1000, seed=0):
    """Internal against external: a row per other cohort and split, model, metric and shared label, and their "macro".

    internal, validation: (cohort, split) at home; names: keys of metrics.STATISTICS; n, seed: of the resamples.
    rule, target: of `metrics.threshold_at`; each seed's own thresholds are found on `validation` and used unchanged.
    Returns threshold: mean over seeds; internal, external: score with _low and _high; drop: external minus internal,
    with its interval (the cohorts are resampled independently); note: of the model and the cohort at home. The macro
    runs over the labels that have a value on both sides. Intervals of proportions are widened to Wilson's, which unlike
    a bootstrap has a width at 0 and 1. A cohort that a model has or may have seen is not external to it
    (`not_external`). Raises EcgError when a model or a run was not predicted on all sides.
    """
    groups = {group[:2]: group for group in by_cohort(predictions[predictions["split"] != OUT_OF_FOLD])}
    for needed in (internal, validation):
        if tuple(needed) not in groups:
            raise EcgError(f"no predictions for {needed}", field="split", fix=f"predict it; there are {list(groups)}")
    home, chosen = groups.pop(tuple(internal)), groups.pop(tuple(validation))
    rows = []
    for away in groups.values():
        for model in track(list(away.p), f"in {away.cohort}", "model"):
            if away.cohort != home.cohort and away.notes[model]:
                continue
            runs = _thresholds(chosen, home, away, model, rule, target)
            for metric in names:
                sides = [_side(group, model, metric, runs, n, seed + k) for k, group in enumerate((home, away))]
                rows += [[*away[:2], *model, home.notes[model], metric, *row] for row in _compare(*sides)]
    counts = ["n_positives_internal", "n_records_internal", "n_positives_external", "n_records_external"]
    return pd.DataFrame(rows, columns=[*GROUP, *MODEL, "note", "metric", "label", "threshold", *ENDS, *counts])


def not_external(predictions, internal=TEST):
    """Which models `external` leaves out of which cohorts: encoder, mode, cohort, why."""
    rows = compared(predictions)
    rows = rows[(rows["cohort"] != internal[0]) & (rows["note"] != "")]
    rows = rows[["encoder", "mode", "cohort", "note"]].drop_duplicates(ignore_index=True)
    return rows.assign(why=rows["note"].astype(str).map(marks.why)).drop(columns="note")


def _thresholds(chosen, home, away, model, rule, target):
    """{seed: Series by label}; NaN for a label that lacks a class on validation."""
    runs = away.p[model].keys()
    if any(model not in side.p or side.p[model].keys() != runs for side in (home, chosen)):
        message = f"{model} of {away.cohort}/{away.split} has not the same runs at home and on validation"
        raise EcgError(message, field="seed", fix="predict every run on all three")
    cuts = {run: metrics.threshold_at(chosen.y, chosen.p[model][run], rule, target) for run in runs}
    return {run: pd.Series(cut, chosen.labels) for run, cut in cuts.items()}


def _side(group, model, metric, runs, n, seed):
    """{label: (Interval, threshold, positives, records)} of one hospital."""
    cuts = {run: cut.reindex(group.labels).to_numpy() for run, cut in runs.items()}
    deciding = metric in metrics.OPERATING
    sampled, _ = replicates(group, model, metric, n, seed, cuts if deciding else None)
    results = bootstrap.per_label(sampled)
    if metric in PROPORTIONS:
        results = map(_widened, results, _trials(group, model, metric, cuts))
    thresholds = np.mean(list(cuts.values()), axis=0) if deciding else np.full(len(group.labels), np.nan)
    counts = metrics.positives(group.y).tolist(), (group.y >= 0).sum(0).tolist()
    return dict(zip(group.labels, zip(results, thresholds, *counts, strict=True), strict=True))


def _trials(group, model, metric, cuts):
    """Records that a proportion of each label rests on, averaged over seeds."""
    tables = [metrics.confusion(group.y, p, cuts[run]) for run, p in group.p[model].items()]
    return np.mean([sum(table[name] for name in PROPORTIONS[metric]) for table in tables], axis=0)


def _widened(result, trials):
    """The interval of a proportion, extended to Wilson's."""
    if np.isnan(result.point) or not trials > 0:
        return result
    low, high = metrics.wilson(result.point * trials, trials)
    return result._replace(low=min(result.low, float(low)), high=max(result.high, float(high)))


def _compare(home, away):
    """Rows (label, threshold, ENDS, counts) of the shared labels, after the macro over those with a value on both."""
    shared = [name for name in home if name in away and home[name][3] and away[name][3]]  # known on both sides
    if not shared:
        raise EcgError("the two hospitals share no label", field="label", fix="match them by the common vocabulary")
    rows = []
    for name in shared:
        (ours, threshold, *counts), (theirs, _, *others) = home[name], away[name]
        rows.append([name, threshold, *_ends(ours, theirs), *counts, *others])
    both = [name for name in shared if not np.isnan(home[name][0].point + away[name][0].point)]
    if both:
        means = [_mean([side[name][0] for name in both]) for side in (home, away)]
        counts = [f(side[name][k] for name in both) for side in (home, away) for k, f in ((2, sum), (3, max))]
        rows.insert(0, ["macro", np.nan, *_ends(*means), *counts])
    return rows


def _mean(results):
    points, values = np.array([result.point for result in results]), [result.replicates for result in results]
    return bootstrap.average(bootstrap.Replicates(points, np.stack(values, axis=-1)))


def _ends(home, away):
    return [*home[:3], *away[:3], *bootstrap.unpaired(away, home)[:3]]
