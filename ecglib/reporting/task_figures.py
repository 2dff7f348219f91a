"""Figures of unlike tasks. Functions take `ax=None`, draw, and return the Axes or Figure, as those of `figures`."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from ecglib.reporting import style
from ecglib.reporting.methods import look
from ecglib.reporting.style import INK, MM, PAGE, PALETTE, SOFT, error_bars, legend_above, name_rows, new_axes

NAMES = {"linear": "frozen, linear head", "finetune": "fine-tuned", "supervised": "from scratch"}
NAMES |= {"boosting": "hand-made features", "random": "untrained, linear head"}
COLOURS = {"fine-tuned": PALETTE[1], "frozen, linear head": PALETTE[0], "hand-made features": look("features")[0]}
COLOURS |= {"untrained, linear head": look("random")[0], "from scratch": look("scratch")[0]}
COLOURS |= {"multitask, linear head": PALETTE[2], "multitask, fine-tuned": PALETTE[3]}
STATISTICS = {"auroc": "AUROC", "mae": "mean absolute error"}


def named(rows):
    """How a method is called in these figures, by encoder and mode: a list."""
    words = {"linear": "linear head", "finetune": "fine-tuned"}
    names = []
    for encoder, mode in zip(rows["encoder"], rows["mode"], strict=True):
        beside = encoder not in ("random", "supervised") and mode in words
        names.append(f"{encoder}, {words[mode]}" if beside else NAMES["random" if encoder == "random" else mode])
    return names


def gains(table, titles: dict, fraction=0.1):
    """Forest of the paired differences to training from scratch: a row per task, a panel per statistic.

    table: `task_tables.differences` of one cohort and split per task; titles: {task: its name in the figure}, in order.
    Right of the line is better than scratch. Returns the Figure.
    """
    rows = table[np.isclose(table["fraction"], fraction)]
    rows = rows.assign(method=named(rows))
    kinds = [metric for metric in STATISTICS if (rows["metric"] == metric).any()]
    tasks = {m: [t for t in titles if t in set(rows["task"][rows["metric"] == m])] for m in kinds}
    style.use()
    size = (PAGE, (26 + 9 * max(len(names) for names in tasks.values())) * MM)
    figure, axes = plt.subplots(1, len(kinds), figsize=size, squeeze=False, width_ratios=[3, 2][: len(kinds)])
    methods = [name for name in COLOURS if name in set(rows["method"])]
    for ax, metric in zip(axes[0], kinds, strict=True):
        name_rows(ax, [titles[task] for task in tasks[metric]])
        ax.axvline(0, color=INK, linewidth=0.7)
        for k, method in enumerate(methods):
            mine = rows[(rows["metric"] == metric) & (rows["method"] == method)].set_index("task")
            mine = mine.loc[[task for task in tasks[metric] if task in mine.index]]
            at = np.array([tasks[metric].index(task) for task in mine.index]) + 0.2 * (k - (len(methods) - 1) / 2)
            face = style.MARKERS[k]
            error_bars(ax, at, mine["gain"], mine["low"], mine["high"], COLOURS[method], marker=face, label=method)
        words = "Gain in AUROC" if metric == "auroc" else f"Reduction of the {STATISTICS[metric]}"
        ax.set_xlabel(f"{words}\nover scratch ({style.INTERVAL})")
    handles = [
        Line2D([], [], color=COLOURS[m], marker=style.MARKERS[k], markersize=3.2, linestyle="none", label=m)
        for k, m in enumerate(methods)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(methods), frameon=False)
    return figure


def against_optimal(table, titles: dict, fraction=1.0):
    """Scores of the tasks judged by AUROC, with the best that is possible as a bar where it is known. Returns the Axes.

    table: `task_tables.scores`; titles: {task: its name}, in order.
    """
    rows = table[(table["metric"] == "auroc") & np.isclose(table["fraction"], fraction)]
    rows = rows.assign(method=named(rows))
    names = [task for task in titles if task in set(rows["task"])]
    ax = new_axes(None, (24 + 8 * len(names)) * MM, PAGE * 0.7)
    name_rows(ax, [titles[task] for task in names])
    methods = [name for name in COLOURS if name in set(rows["method"])]
    for k, method in enumerate(methods):
        mine = rows[rows["method"] == method].set_index("task")
        at = np.array([names.index(task) for task in mine.index]) + 0.17 * (k - (len(methods) - 1) / 2)
        marker = style.MARKERS[k]
        error_bars(ax, at, mine["point"], mine["low"], mine["high"], COLOURS[method], marker=marker, label=method)
    best = rows.drop_duplicates("task").set_index("task")["optimal"].dropna()
    at = np.array([names.index(task) for task in best.index])
    ax.vlines(best, at - 0.42, at + 0.42, color=INK, linewidth=1.6, label="best possible (heart and person known)")
    ax.set_xlabel(f"AUROC ({style.INTERVAL} over patients)")
    legend_above(ax)
    return ax


def bland_altman(y, p, unit, agreement, ax=None):
    """Error of each prediction against the mean of truth and prediction (Bland and Altman 1986). Returns the Axes.

    y, p: truth and prediction (record,); agreement: columns point, low, high, a row for bias, loa_low, loa_high, each
    with its interval, drawn as a band.
    """
    ax = new_axes(ax, 62 * MM)
    ax.scatter((y + p) / 2, p - y, s=3, color=PALETTE[0], alpha=0.5, linewidth=0, rasterized=True)
    for name, words in (("bias", "bias"), ("loa_low", "95 % limit"), ("loa_high", "95 % limit")):
        point, low, high = agreement.loc[name]
        ax.axhspan(low, high, color=PALETTE[1], alpha=0.2, linewidth=0)
        ax.axhline(point, color=PALETTE[1], linewidth=0.9, linestyle="-" if name == "bias" else "--")
        ax.annotate(f"{words} {point:.1f}", (1, point), xycoords=("axes fraction", "data"), fontsize=6.5, va="bottom")
    ax.set_xlabel(f"Mean of truth and prediction ({unit})")
    ax.set_ylabel(f"Prediction minus truth ({unit})")
    return ax


def reliability(curve, title, ax=None):
    """How often a predicted probability comes true: metrics.reliability of one task. Returns the Axes."""
    ax = new_axes(ax, 62 * MM)
    ax.plot([0, 1], [0, 1], color=SOFT, linewidth=0.7, linestyle=(0, (3, 2)))
    points = curve["probability"], curve["frequency"]
    error_bars(ax, points[0], points[1], curve["low"], curve["high"], PALETTE[1], along="y", marker="o")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="Predicted probability", ylabel=f"Observed frequency ({style.INTERVAL})")
    ax.set_title(style.plain(title))
    return ax


def subgroup_forest(table, title, ax=None):
    """Scores of one model and task in every subgroup: `task_tables.subgroups`. Returns the Axes."""
    names = [f"{by}: {group} (n = {n})" for by, group, n in zip(table["by"], table["group"], table["n"], strict=True)]
    ax = new_axes(ax, (22 + 5 * len(names)) * MM, PAGE * 0.6)
    name_rows(ax, names)
    error_bars(ax, np.arange(len(names)), table["point"], table["low"], table["high"], PALETTE[1], marker="o")
    metric = table["metric"].iloc[0]
    ax.set_xlabel(f"{STATISTICS[metric]} ({style.INTERVAL} over patients)")
    ax.set_title(style.plain(title))
    return ax


def readers_plane(table, ax=None):
    """Readers and model in the plane of sensitivity and specificity, with intervals: `beside_readers`. The Axes."""
    ax = new_axes(ax, 70 * MM)
    wide = table.pivot(index="reader", columns="metric", values=["point", "low", "high"])
    for k, (name, row) in enumerate(wide.iterrows()):
        (x, left, right), (y, low, high) = (row.xs(m, level="metric") for m in ("specificity", "sensitivity"))
        colour, marker = (PALETTE[1], "o") if name == "model" else (SOFT, style.MARKERS[(k + 1) % len(style.MARKERS)])
        ax.errorbar([x], [y], [[y - low], [high - y]], [[x - left], [right - x]], fmt=marker, color=colour, label=name)
    ax.set(xlabel=f"Specificity ({style.INTERVAL})", ylabel=f"Sensitivity ({style.INTERVAL})")
    legend_above(ax)
    return ax
