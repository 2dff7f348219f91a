"""The study as one page: result tables, figures and executed notebooks, from what the stages left in results/."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ecglib import plots
from ecglib.page import figure, links, table, versions, write_html
from ecglib.predictions import contract, load
from ecglib.report import MACRO, differences, result_table, scores
from ecglib.signals import EcgError


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
    _draw(results, out)
    (out / "scores.json").write_text(json.dumps(_nested(pd.concat(tables)), indent=1, sort_keys=True) + "\n")
    return write_html(out / "index.html", sections + _shown(results, out), lead=_LEAD)


_LEAD = "Pretrained on one hospital, probed there with few labels, and tried on others: every number with its interval."
_CAPTION = (
    "Macro averages over all labels and over those with at least ten positives; paired difference to the random encoder"
    " (two-sided p, adjusted by Holm over the task). In brackets 95 % intervals by bootstrap of patients"
)


def _draw(results, out):
    """Figures that need more than predictions: training curves, and a map of each encoder's validation embeddings.

    They are drawn here and not where the numbers arise, so that a change of style trains nothing again.
    """
    histories = {f.parent.name: pd.read_csv(f) for f in sorted(results.glob("pretrain/*/history.csv"))}
    if histories:
        sides = {f"{n}, {words}": h.rename(columns={column: "mean loss"}) for n, h in histories.items()
                 for column, words in (("loss", "pretraining"), ("val_loss", "validation")) if column in h}  # fmt: skip
        sides = {name: h[["step", "mean loss"]] for name, h in sides.items()}
        caption = "Loss of pretraining: running mean over batches with the 10 to 90 % band, and on validation patients."
        plots.save(plots.training_curves(sides, "mean loss"), out, "training_curves", caption)
    for file in sorted(results.glob("probe/*/features.npy")):
        names = pd.read_csv(file.with_name("features.csv"), keep_default_na=False)["label"].to_numpy()
        ax = plots.embedding_map(np.load(file), names)
        caption = (
            f"Frozen features of the validation records, {file.parent.name}: grey where several labels or others hold."
        )
        plots.save(ax, out, f"embedding_{file.parent.name}", caption)
        plt.close(ax.figure)


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
    pictures = sorted((file for stage in ("report", *_STAGES) for file in results.glob(f"{stage}/*.png")), key=_rank)
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
