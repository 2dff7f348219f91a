"""Tables of the study, from predictions alone: scores, paired differences, calibration; the table of the paper.

Every interval is over patients. Seeds (training runs, label subsets) are averaged inside each resample, so all models
of a cohort and split meet the same resamples, and the spread over seeds stands beside the interval, not in it.
`possible` and unknown truth are not scored. A column `note` says which models may have seen the cohort's corpus
(`ecglib.reporting.marks`); rows of dummy weights are in no table.
"""

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.data.notebook import track
from ecglib.evaluation import bootstrap, metrics
from ecglib.evaluation.ensembles import mean_of_logits, weighted_logits
from ecglib.evaluation.predictions import (
    BASELINES,
    DUMMY,
    GROUP,
    MODEL,
    by_cohort,
    compared,
    is_baseline,
    noted,
    replicates,
)
from ecglib.reporting import marks
from ecglib.reporting.external import external, not_external  # noqa: F401 - tables too
from ecglib.reporting.marks import mark, marked

MACRO = "macro"
UNTRAINED = "untrained"  # as a reference: the same network without its pretraining, whichever that is


def with_interval(point, low, high, sign: str = "", digits: int = 3) -> str:
    """A score as text, 0.812 (0.800 to 0.830); "-" where it is NaN. sign: "+" for differences."""
    if np.isnan(point):
        return "-"
    return "{:{f}} ({:{f}} to {:{f}})".format(point, low, high, f=f"{sign}.{digits}f")


def left_out(probes, task: str, methods=()):
    """Which models `predictions.of_task` leaves out: encoder, mode, why."""
    rows = noted(probes, task, methods)
    rows = rows.loc[rows["note"] == DUMMY, ["encoder", "mode"]].drop_duplicates(ignore_index=True)
    return rows.assign(why=marks.NO_WEIGHTS)


def contract(predictions):
    """What is compared: one row per cohort and split, with counts, the labels that lack a class by name, under `note`
    the models with a mark, and the `label_set` where one is stated."""
    rows = []
    for group in by_cohort(predictions):
        absent = [name for name, y in zip(group.labels, group.y.T, strict=True) if not {0, 1} <= set(y)]
        counts = [len(group.y), len(set(group.patients)), len(group.labels), len(group.p)]
        named = dict.fromkeys(mark(model[0], note) for model, note in group.notes.items() if note)
        texts = map(", ".join, (group.labels, absent, named))
        rows.append([group.cohort, group.split, *counts, *texts, group.label_set])
    counts = ["n_records", "n_patients", "n_labels", "n_models"]
    table = pd.DataFrame(rows, columns=[*GROUP, *counts, "labels", "without_a_class", "note", "label_set"])
    return table if table["label_set"].any() else table.drop(columns="label_set")


def leaders(predictions, n: int = 4) -> list[str]:
    """The `n` linearly probed encoders with the highest mean macro AUROC on validation records, best first.

    At a tenth of the labels, or the fraction nearest to it that was probed. Baselines are left out, and every encoder
    with a note on any cohort: neither test patients choose what a figure shows, nor an encoder that may have seen them.
    Where nothing but baselines was trained, they are ranked themselves, in the way they are trained.
    """
    noted = predictions["encoder"][predictions["note"] != ""] if "note" in predictions else ()
    against = [name for name in predictions["encoder"].unique() if is_baseline(name)]
    rows = predictions[(predictions["mode"] == "linear") & ~predictions["encoder"].isin({*against, *noted})]
    if rows.empty:
        rows = predictions[predictions["encoder"].isin(BASELINES)]
    achieved = _on_validation(rows)
    best = {encoder: max(s for (name, _), s in achieved.items() if name == encoder) for encoder, _ in achieved}
    return sorted(best, key=lambda name: -best[name])[:n]


def _on_validation(predictions) -> dict[tuple[str, str], float]:
    """(encoder, mode) -> mean macro AUROC on validation records, at a tenth of the labels or the nearest fraction."""
    distance = (predictions["fraction"] - 0.1).abs()
    rows, achieved = predictions[(distance == distance.min()) & (predictions["split"] == "val")], {}
    for group in by_cohort(rows):
        for (encoder, mode, _), runs in group.p.items():
            achieved.setdefault((encoder, mode), []).extend(metrics.macro_auroc(group.y, p) for p in runs.values())
    return {model: float(np.mean(values)) for model, values in achieved.items()}


def with_upper_line(predictions):
    """The predictions and those of "features+NETWORK": hand-made features with the best network, mean of their logits.

    The network is the best of all modes on validation records, at a tenth of the labels or the fraction nearest to it;
    training from scratch counts, other baselines, encoders with a note and modes that were not run at every fraction of
    the features do not. Without the features or a network the predictions come back as they are. Where both were
    predicted out of fold, a mean weighted by that stands beside the plain one. Nothing is trained.
    """
    predictions = compared(predictions)
    noted = predictions["encoder"][predictions["note"] != ""].unique()
    skipped = [name for name in predictions["encoder"].unique() if is_baseline(name) and name != "scratch"]
    networks = predictions[~predictions["encoder"].isin([*skipped, *noted]) & (predictions["fraction"] > 0)]
    features = predictions[predictions["encoder"] == "features"]
    shares = networks.groupby(["encoder", "mode"], observed=True)["fraction"].transform("nunique")
    networks = networks[shares >= features["fraction"].nunique()]
    if networks.empty or features.empty:
        return predictions
    achieved = _on_validation(networks)
    encoder, mode = max(achieved, key=achieved.get)
    network = networks[(networks["encoder"] == encoder) & (networks["mode"] == mode)]
    name = "features+" + (encoder if mode in ("linear", "supervised") else f"{encoder}+{mode}")
    both = mean_of_logits(predictions, features, network, name)
    return weighted_logits(both, features, network, name)


def of_model(table, encoder: str, mode: str):
    """The rows of one encoder: in `mode`, or in its own where it was trained in one way only, as baselines are."""
    rows = table[table["encoder"] == encoder]
    return rows if rows["mode"].nunique() == 1 else rows[rows["mode"] == mode]


class Replicates:
    """`predictions.replicates` with a memory, so that scores and differences of one task are resampled once."""

    def __init__(self, n=1000, seed=0):
        self.n, self.seed, self._drawn = n, seed, {}

    def __call__(self, group, model, metric):
        """(bootstrap.Replicates, points of the single seeds) of a model of a CohortPredictions."""
        key = (*group[:2], *model, metric)
        if key not in self._drawn:
            self._drawn[key] = replicates(group, model, metric, self.n, self.seed)
        return self._drawn[key]


def scores(predictions, names=("auroc", "auprc"), *, n=1000, seed=0, min_positives=10, drawn=None):
    """Tidy table, a row per cohort, split, model, metric and label: "macro" over all labels that have both classes,
    "macro >= 10" over those with `min_positives`, then each label (NaN without both classes: named, never skipped).

    names: keys of metrics.STATISTICS; n, seed: of the resamples; drawn: `Replicates` with its own, to share.
    Returns point, low, high; bias of the bootstrap; seed_sd: sd over the n_seeds runs (of the macro for macro rows);
    n_labels in the average and labels_used, the mean number of them in a replicate; counts.
    Raises EcgError where models do not share one contract.
    """
    rows, drawn = [], drawn or Replicates(n, seed)
    for group in by_cohort(predictions):
        for model in track(list(group.p), f"scores, {group.cohort}", "model"):
            for metric in names:
                sampled, runs = drawn(group, model, metric)
                keys = dict(zip([*GROUP, *MODEL], [*group[:2], *model], strict=True))
                keys |= {"note": group.notes[model], "trained": group.trained.get(model, ""), "metric": metric}
                for label, mask, result in _intervals(group, sampled, min_positives):
                    rows.append(keys | {"label": label} | _row(group, mask, result, runs))
    return pd.DataFrame(rows)


def _intervals(group, sampled, min_positives):
    """(label, which labels it is about (label,), Interval): the macro averages of labels with a value, then each."""
    known, many = ~np.isnan(sampled.point), metrics.positives(group.y) >= min_positives
    for name, mask, least in ((MACRO, known, 0), (f"{MACRO} >= {min_positives}", known & many, min_positives)):
        if mask.any():
            yield name, mask, bootstrap.macro(sampled, group.y, least)
    for k, result in enumerate(bootstrap.per_label(sampled)):
        yield group.labels[k], np.arange(len(group.labels)) == k, result


def _row(group, mask, result, runs):
    scored, means = (group.y[:, mask] >= 0).any(1), [np.mean(run[mask]) for run in runs]
    row = {"point": result.point, "low": result.low, "high": result.high, "bias": result.bias}
    row |= {"n_records": int(scored.sum()), "n_patients": len(set(group.patients[scored]))}
    row |= {"n_positives": int(metrics.positives(group.y)[mask].sum()), "n_labels": result.n_labels}
    row |= {"labels_used": result.labels_used, "n_seeds": len(runs)}
    return row | {"seed_sd": float(np.std(means, ddof=1)) if len(runs) > 1 else np.nan}


def differences(predictions, references=BASELINES, names=("auroc",), *, n=1000, seed=0, drawn=None):
    """Macro score of every other encoder minus that of each reference encoder at the same label fraction, paired.

    references: encoders; names, n, seed, drawn: as of `scores`.
    The reference UNTRAINED is the network of each pretrained encoder before its pretraining, `reference_mode` its name.
    Returns point, low, high; p: two-sided bootstrap (`bootstrap.two_sided`); p_holm: adjusted over the methods that are
    compared with one reference, by one metric, at one label fraction of one cohort and split (a model with a note too).
    A reference that was not run at a fraction leaves a row of NaN. EcgError for a cohort and split without any.
    """
    rows, drawn = [], drawn or Replicates(n, seed)
    for group in by_cohort(predictions):
        there = [name for name in references if any(model[0] == name for model in group.p)]
        if not there:
            raise EcgError(f"none of {references} in {group.cohort}/{group.split}", field="encoder", fix="predict one")
        for metric in names:
            models = track(list(group.p), f"differences, {group.cohort}", "model")
            sampled = {model: drawn(group, model, metric)[0] for model in models}
            for model, reference in _pairs(sampled, there):
                rivals = [rival for rival in sampled if rival[0] == reference and rival[2] == model[2]]
                for rival in rivals or [(reference, "", np.nan)]:
                    notes = group.notes[model], *rival[:2], group.notes.get(rival, "")
                    gap = _difference(group, sampled[model], sampled.get(rival))
                    rows.append([*group[:2], *model, *notes, metric, *gap])
            for model, twin in _twins(group):
                notes = group.notes[model], UNTRAINED, twin[0], group.notes[twin]
                rows.append([*group[:2], *model, *notes, metric, *_difference(group, sampled[model], sampled[twin])])
    columns = [*GROUP, *MODEL, "note", "reference", "reference_mode", "reference_note"]
    columns += ["metric", "point", "low", "high", "p", "n_labels"]
    result = pd.DataFrame(rows, columns=columns)
    family = result.groupby([*GROUP, "fraction", "reference", "metric"])["p"]
    result.insert(len(columns) - 1, "p_holm", family.transform(lambda p: bootstrap.holm(p.to_numpy())))
    return result


def _pairs(models, references: list):
    """Each other model with each reference; where all are baselines, also each reference with those before it."""
    ours = [model for model in models if model[0] not in references and not model[0].startswith("random:")]
    pairs = [(model, reference) for model in ours for reference in references]
    if not all(is_baseline(model[0]) for model in ours):
        return pairs
    only = [model for model in models if model[0] in references]
    return pairs + [(model, reference) for model in only for reference in references[: references.index(model[0])]]


def main_differences(gaps):
    """The rows of `differences` that answer the two questions of the study: what pretraining brings, against the same
    network untrained (the random encoder where that was not run), and against training from scratch."""
    twins = set(gaps["encoder"][gaps["reference"] == UNTRAINED])
    upper = gaps["encoder"].astype(str).str.startswith("features+")
    untwinned = ~gaps["encoder"].isin(twins) & ~upper & ~gaps["encoder"].astype(str).str.startswith("scratch:")
    instead = (gaps["reference"] == "random") & untwinned
    rows = gaps[gaps["reference"].isin([UNTRAINED, "scratch"]) | instead]
    return rows.sort_values(["cohort", "encoder"], kind="stable")


def _twins(group):
    """Each pretrained encoder with the linear probe of its network before pretraining, where that was predicted."""
    for model in group.p:
        twin = (group.untrained.get(model), "linear", model[2])
        if twin in group.p:
            yield model, twin


def _difference(group, ours, theirs):
    if theirs is None:
        return [np.nan] * 4 + [0]
    try:
        result = bootstrap.paired(ours, theirs, group.y)
    except EcgError as error:
        raise EcgError(error.reason, field=f"{group.cohort}/{group.split}") from error
    return [*result[:3], result.p_value, result.n_labels]


def calibration(predictions, labels=None):
    """`metrics.reliability` for each cohort, split, model and label, all seeds together.

    labels: those to draw, None pools them all under "all"; n counts pairs of truth and probability.
    Calibration error and Brier score with intervals: `scores(predictions, ("ece", "brier"))`.
    """
    known = compared(predictions)
    known = known[known["truth"].isin((0, 1))]
    if labels is not None:
        absent = sorted(set(labels) - set(known["label"]))
        if absent:
            raise EcgError(f"no such labels: {absent}", field="label", fix=f"one of {sorted(set(known['label']))}")
        known = known[known["label"].isin(labels)]
    else:
        known = known.assign(label="all")
    keys, curves = [*GROUP, *MODEL, "note", "label"], []
    for key, rows in known.groupby(keys, observed=True):
        curve = metrics.reliability(rows["truth"], rows["probability"], patients=rows["patient_id"])
        curves.append(pd.DataFrame([key] * len(curve), columns=keys).join(curve))
    return pd.concat(curves, ignore_index=True)


def result_table(table, gaps=None, *, fraction=1.0, references=("random", UNTRAINED, "features")):
    """The table of the paper as text, from `scores` and `differences`: a row per cohort, split and model.

    Columns: each macro average of each metric as "point (low to high)", the difference to each reference encoder with
    its Holm-adjusted p, whether pretraining has learned its task, and the counts. "-": not there. Names carry the marks
    of `marks`, whose legend is its `footnote`. Raises EcgError when nothing was trained on that fraction.
    """
    rows = table[table["label"].str.startswith(MACRO) & np.isclose(table["fraction"], fraction)]
    if rows.empty:
        raise EcgError(f"no scores at fraction {fraction}", field="fraction", fix=f"one of {set(table['fraction'])}")
    result = []
    for key, averages in rows.groupby([*GROUP, "fraction", *MODEL[:2]], sort=True):
        line = dict(zip([*GROUP, "labels", *MODEL[:2]], key, strict=True)) | {"labels": f"{100 * key[2]:g} %"}
        for row in averages.itertuples():
            line[f"{row.metric.upper()} {row.label}"] = with_interval(row.point, row.low, row.high)
        for reference in references if gaps is not None else ():
            line[f"AUROC - {reference}"] = _gap(gaps, key, reference)
        line["trained?"] = str(averages.iloc[0].get("trained") or "-")
        line["encoder"] = marked(averages)[0]
        counts = averages.iloc[0][["n_records", "n_patients", "n_seeds"]]
        result.append(line | dict(zip(("records", "patients", "seeds"), counts, strict=True)))
    return pd.DataFrame(result).fillna("-")


def _gap(gaps, key, reference):
    """The difference of one cohort, split and model to a reference, by macro AUROC."""
    rows = gaps[(gaps["reference"] == reference) & gaps["point"].notna() & (gaps["metric"] == "auroc")]
    for name, value in zip([*GROUP, "fraction", *MODEL[:2]], key, strict=True):
        rows = rows[rows[name] == value]
    if rows.empty:
        return "-"
    row = rows.iloc[0]
    words = f"{with_interval(row['point'], row['low'], row['high'], '+')}, p {row['p_holm']:.3f}"
    return mark(words, row.get("reference_note"))
