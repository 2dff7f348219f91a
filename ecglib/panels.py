"""Figures with many methods at once: one panel per question, one row or one small axes per method."""

import matplotlib.pyplot as plt
import numpy as np

from ecglib import notes
from ecglib.look import FAINT, INK, INTERVAL, MM, PAGE, PALETTE, SOFT, error_bars, name_rows, style, toned
from ecglib.signals import EcgError

BASELINES = ("random", "features", "scratch")
KINDS = {
    **dict.fromkeys(BASELINES, "baseline"),
    "supervised": "pretrained on labels",
    **dict.fromkeys(("melp", "tolerant"), "pretrained on signals and reports"),
}
SIGNALS = "pretrained on signals alone"
PUBLISHED = "published checkpoint"  # encoders named zoo:NAME
COLOURS = {
    "baseline": SOFT,
    "pretrained on labels": PALETTE[1],
    "pretrained on signals and reports": PALETTE[2],
    SIGNALS: PALETTE[0],
    PUBLISHED: PALETTE[3],
}


def kind(encoder):
    """What an encoder was pretrained on, a key of COLOURS."""
    return PUBLISHED if encoder.startswith("zoo:") else KINDS.get(encoder, SIGNALS)


def comparison(table, metric="auroc", label="macro", *, order_at=0.1):
    """All methods: a row each, a panel per label fraction, macro score with 95 % intervals over patients.

    table: `report.scores` of one cohort and split. Rows are ordered by the score at `order_at`, baselines apart at the
    bottom; their scores run through the panel as thin lines, since every row is read against them. Models that may have
    seen the corpus are marked by name, hollow and grey. Returns the Figure.
    """
    rows = table[(table["metric"] == metric) & (table["label"] == label) & (table["fraction"] > 0)]
    if rows.empty or rows.groupby(["cohort", "split"]).ngroups > 1:
        raise EcgError("one figure shows one cohort and split", field="cohort, split", fix="filter the table by them")
    rows = rows.assign(kind=rows["encoder"].map(kind), name=notes.marked(rows))
    rows["name"] += np.where(rows["mode"].isin(["linear", "boosting", "supervised"]), "", ", " + rows["mode"])
    at = rows[np.isclose(rows["fraction"], order_at)].set_index("name")["point"].to_dict()
    names = sorted(rows["name"].unique(), key=lambda n: (n in BASELINES, -at.get(n, -np.inf)))
    fractions = sorted(rows["fraction"].unique())
    style()
    foot = notes.footnote(names)
    size = (PAGE, (16 + 4.4 * len(names) + 3.4 * bool(foot)) * MM)
    figure, axes = plt.subplots(1, len(fractions), figsize=size, sharey=True, squeeze=False)
    for ax, fraction in zip(axes[0], fractions, strict=True):
        _panel(ax, rows[np.isclose(rows["fraction"], fraction)].set_index("name"), names)
        ax.set_title(f"{100 * fraction:g} % of the labels")
    title = {"auroc": "AUROC", "auprc": "AUPRC"}.get(metric, metric)
    words = f"{label.capitalize()} {title} ({INTERVAL} over patients)"
    figure.supxlabel(f"{words}\n{foot}".strip(), fontsize="medium")
    _legend(figure, rows)
    return figure


def _panel(ax, rows, names):
    name_rows(ax, names)
    for name in BASELINES:
        if name in rows.index:
            ax.axvline(rows.loc[name, "point"], color=SOFT, linewidth=0.6, linestyle=(0, (2, 2)), zorder=1)
    for k, name in enumerate(names):
        if name in rows.index:
            row = rows.loc[name]
            colour, face = toned(name, COLOURS[row["kind"]])
            look = {"marker": "o", "markerfacecolor": face}
            error_bars(ax, [k], [row["point"]], [row["low"]], [row["high"]], colour, **look)
    there = sum(name in BASELINES for name in names)
    ax.axhline(len(names) - there - 0.5, color=INK, linewidth=0.6)


def _legend(figure, rows):
    kinds = [kind for kind in COLOURS if kind in set(rows["kind"])]
    close = {"columnspacing": 1.0, "handletextpad": 0.2} if len(kinds) > 4 else {}
    handles = [
        plt.Line2D([], [], color=COLOURS[k], marker="o", markersize=3.2, linestyle="none", label=k) for k in kinds
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(kinds), frameon=False, **close)


def training_panels(histories, columns=4):
    """Training curves, a small axes per run: the mean over batches with its 10 to 90 % band, and the validation loss.

    histories: {name: DataFrame with step, loss and, where validated, val_loss}. Losses of two methods have no common
    scale, so each axes has its own. Returns the Figure.
    """
    style()
    lines = -(-len(histories) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(PAGE, 32 * lines * MM), squeeze=False)
    for ax, (name, history) in zip(axes.flat, histories.items(), strict=False):
        window = history["loss"].rolling(max(len(history) // 20, 1), center=True, min_periods=1)
        low, high = window.quantile(0.1), window.quantile(0.9)
        ax.fill_between(history["step"], low, high, color=PALETTE[0], alpha=0.2, linewidth=0)
        ax.plot(history["step"], window.mean(), color=PALETTE[0], linewidth=1)
        if "val_loss" in history:
            seen = history.dropna(subset="val_loss")
            ax.plot(seen["step"], seen["val_loss"], color=PALETTE[1], marker="o", markersize=2.5, linewidth=0.8)
        ax.set_title(name)
        ax.grid(axis="y", color=FAINT, linewidth=0.4)
    for ax in axes.flat[len(histories) :]:
        ax.set_visible(False)
    figure.supxlabel("Optimiser step (blue: pretraining patients, orange: validation patients)", fontsize="medium")
    figure.supylabel("Loss", fontsize="medium")
    return figure
