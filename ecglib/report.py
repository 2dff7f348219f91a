"""Tables of the study, from predictions alone: scores, paired differences, external evaluation, calibration; the page.

Every interval is over patients. Seeds (training runs, label subsets) are averaged inside each resample, so all models
of a cohort and split meet the same resamples, and the spread over seeds stands beside the interval, not in it.
`possible` and unknown truth are not scored.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import metrics
from ecglib.page import figure, links, provenance, table, text, versions, write_html
from ecglib.predictions import MODEL, PLACE, contract, load, places, replicates
from ecglib.signals import EcgError
from ecglib.transfer import external

__all__ = [
    "build",
    "calibration",
    "contract",
    "differences",
    "external",
    "figure",
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

MACRO = "macro"


def _averages(place, point, min_positives):
    """{name: mask (label,)} of the macro averages: all labels with a value, those with enough positives."""
    known = ~np.isnan(point)
    masks = {MACRO: known, f"{MACRO} >= {min_positives}": known & (metrics.positives(place.y) >= min_positives)}
    return {name: mask for name, mask in masks.items() if mask.any()}


def scores(predictions, names=("auroc", "auprc"), *, n=1000, seed=0, min_positives=10, policy="drop", level=0.95):
    """Tidy table, a row per cohort, split, model, metric and label: "macro" over all labels that have both classes,
    "macro >= 10" over those with `min_positives`, then each label (NaN without both classes: named, never skipped).

    point, low, high; bias of the bootstrap; seed_sd: sd over the n_seeds runs (of the macro for macro rows);
    n_labels in the average and labels_used, the mean number of them in a replicate. names: keys of
    metrics.STATISTICS for probabilities. Raises EcgError where models do not share one contract.
    """
    rows = []
    for place in places(predictions):
        for model in place.p:
            for metric in names:
                found = replicates(place, model, metric, n, seed)
                head = dict(zip([*PLACE, *MODEL, "metric"], [*place[:2], *model, metric], strict=True))
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
    predictions, references=("random", "features", "scratch"), names=("auroc",), *, n=1000, seed=0, min_positives=0
):
    """Macro score of every other encoder minus that of each reference encoder at the same label fraction, paired.

    point, low, high; p: two-sided bootstrap (`metrics.two_sided`); p_holm: adjusted over the whole returned table, so
    the filter on the predictions defines the family. A reference that was not run at a fraction leaves a row of NaN.
    Raises EcgError when a cohort and split has no reference at all.
    """
    rows = []
    for place in places(predictions):
        if not any(model[0] in references for model in place.p):
            raise EcgError(f"none of {references} in {place.cohort}/{place.split}", field="encoder", fix="predict one")
        for metric in names:
            found = {model: replicates(place, model, metric, n, seed)[:2] for model in place.p}
            ours = [model for model in found if model[0] not in references]
            for model, reference in ((model, reference) for model in ours for reference in references):
                rivals = [rival for rival in found if rival[0] == reference and rival[2] == model[2]]
                for rival in rivals or [(reference, "", np.nan)]:
                    head = [*place[:2], *model, *rival[:2], metric]
                    rows.append(head + _difference(place, found[model], found.get(rival), min_positives))
    columns = [*PLACE, *MODEL, "reference", "reference_mode", "metric", "point", "low", "high", "p", "n_labels"]
    result = pd.DataFrame(rows, columns=columns)
    result.insert(len(columns) - 1, "p_holm", metrics.holm(result["p"]))
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
    known = predictions[predictions["truth"].isin((0, 1))]
    if labels is not None:
        absent = sorted(set(labels) - set(known["label"]))
        if absent:
            raise EcgError(f"no such labels: {absent}", field="label", fix=f"one of {sorted(set(known['label']))}")
        known = known[known["label"].isin(labels)]
    place = np.clip(np.ceil(known["probability"].to_numpy(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    known = known.assign(bin=place, label="all" if labels is None else known["label"])
    groups = known.groupby([*PLACE, *MODEL, "label", "bin"], observed=True)
    curve = groups.agg(
        probability=("probability", "mean"),
        frequency=("truth", "mean"),
        n=("truth", "size"),
        n_patients=("patient_id", "nunique"),
    ).reset_index()
    low, high = metrics.wilson(curve["frequency"] * curve["n_patients"], curve["n_patients"], level)
    return curve.assign(low=low, high=high)


def result_table(table, gaps=None, *, fraction=1.0, reference="random"):
    """The table of the paper as text, from `scores` and `differences`: a row per cohort, split and model.

    Columns: each macro average of each metric as "point (low to high)", the difference to the reference encoder with
    its Holm-adjusted p, and the counts. fraction: None for all of them. Raises EcgError when nothing was trained on it.
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
        if gaps is not None:
            line[f"AUROC - {reference}"] = _gap(gaps, key, reference)
        counts = part.iloc[0][["n_records", "n_patients", "n_seeds"]]
        result.append(line | dict(zip(("records", "patients", "seeds"), counts, strict=True)))
    return pd.DataFrame(result).fillna("-")


def _text(point, low, high):
    return "-" if np.isnan(point) else f"{point:.3f} ({low:.3f} to {high:.3f})"


def _gap(gaps, key, reference):
    same = (gaps["reference"] == reference) & (gaps["metric"] == "auroc")
    for name, value in zip([*PLACE, "fraction", *MODEL[:2]], key, strict=True):
        same &= gaps[name] == value
    rows = gaps[same & gaps["point"].notna()]
    if rows.empty:
        return "-"
    row = rows.iloc[0]
    return f"{row['point']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}), p {row['p_holm']:.3f}"


def build(results, out, *, n=1000):
    """Write the page of the study to `out`/index.html, its numbers to results.csv and differences.csv (tidy) and
    scores.json (for `dvc metrics`), from what the stages left in `results`; returns the path of the page.

    probe/TASK-METHOD/predictions.parquet are read; the stages' figures (captions from a captions.json beside them,
    {name: words}), executed notebooks and cohorts/*/cohort.json are shown. Validation is not scored.
    Raises EcgError where there are no predictions, or models were evaluated on different records or labels.
    """
    results, out = Path(results), Path(out)
    files = sorted(results.glob("probe/*/predictions.parquet"))
    if not files:
        raise EcgError("no predictions of any probe", file=results / "probe", fix="run the stages first: `dvc repro`")
    tasks = sorted({file.parent.name.split("-")[0] for file in files})
    tables, gaps, sections = [], [], []
    for task in tasks:
        predictions = load([file for file in files if file.parent.name.split("-")[0] == task])
        scored = predictions[predictions["split"] != "val"]
        tables.append(scores(scored, n=n).assign(task=task))
        gaps.append(differences(scored, n=n).assign(task=task))
        caption = f"{_CAPTION}, {n:,} resamples."
        blocks = [table(result_table(tables[-1], gaps[-1], fraction=None), caption)]
        sections.append((f"Results: task {task}", [*blocks, table(contract(predictions), "What is compared.")]))
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("results.csv", tables), ("differences.csv", gaps)):
        pd.concat(rows, ignore_index=True).to_csv(out / name, index=False, float_format="%.6f", lineterminator="\n")
    (out / "scores.json").write_text(json.dumps(_nested(pd.concat(tables)), indent=1, sort_keys=True) + "\n")
    return write_html(out / "index.html", sections + _shown(results, out), lead=_LEAD)


_LEAD = "Pretrained on one hospital, probed there with few labels, and tried on others: every number with its interval."
_CAPTION = (
    "Macro averages over all labels and over those with at least ten positives; paired difference to the random encoder"
    " (two-sided p, adjusted by Holm over the task). In brackets 95 % intervals by bootstrap of patients"
)


def _nested(table):
    """{task: {cohort/split: {encoder, mode: {share of labels: {metric: point, low, high}}}}} of the macro averages."""
    tree = {}
    for row in table[table["label"] == MACRO].itertuples():
        branch = tree.setdefault(row.task, {}).setdefault(f"{row.cohort}/{row.split}", {})
        branch = branch.setdefault(f"{row.encoder}, {row.mode}", {}).setdefault(f"{100 * row.fraction:g} %", {})
        branch[row.metric] = {end: round(getattr(row, end), 6) for end in ("point", "low", "high")}
    return tree


def _shown(results, out):
    """Sections on figures, notebooks and provenance, of what is there."""
    pictures = sorted((file for stage in _STAGES for file in results.glob(f"{stage}/*.png")), key=_rank)
    pages = sorted(file for stage in _STAGES for file in results.glob(f"{stage}/*.html"))
    titles = [(" / ".join(page.relative_to(results).with_suffix("").parts), page) for page in pages]
    cohorts = [_counted(file) for file in sorted(results.glob("cohorts/*/cohort.json"))]
    sections = [
        ("Figures", [figure(file, _caption(file)) for file in pictures]),
        ("Executed notebooks", [links(titles)]),
        (
            "Provenance",
            [table(pd.DataFrame(cohorts), "Packed cohorts; the rejected records are listed in each.")],
        ),
        ("Versions", [table(versions())]),
    ]
    return [part for part, there in zip(sections, (pictures, pages, cohorts, True), strict=True) if there]


_STAGES = ("figures", "explore", "external/*", "pretrain/*", "probe/*")
_COUNTS = ("records", "packed", "rejected", "patients", "rows", "rows_with_missing_lead", "rows_with_gap")


def _rank(file):
    """The paper's figures first, then by place and name."""
    return file.parent.name != "figures", file.as_posix()


def _caption(file):
    """Words for a figure: from captions.json beside it, {name: words}, else its name."""
    captions = file.with_name("captions.json")
    words = json.loads(captions.read_text("utf-8")) if captions.is_file() else {}
    return words.get(file.stem, file.stem.replace("_", " "))


def _counted(file):
    """One line on a packed cohort."""
    counts = json.loads(file.read_text("utf-8"))["counts"]
    why = ", ".join(f"{reason}: {count}" for reason, count in counts["rejected_by_reason"].items())
    line = {name.replace("_", " "): counts[name] for name in _COUNTS}
    return {"cohort": file.parent.name} | line | {"rejected because": why or "-"}
