"""Figures of explanations: an attribution over the clinical sheet, scores of pointing, curves, shares of the waves.

Functions draw tables of `evaluation.pointing` and `evaluation.explanation`; they return Axes or the Figure.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from ecglib.data.recording import LEADS
from ecglib.reporting import style
from ecglib.reporting.ecg_paper import ecg_paper
from ecglib.reporting.methods import look
from ecglib.reporting.style import FAINT, MM, PAGE, PALETTE, SOFT, error_bars, name_rows

NO_MODEL = "no model"  # whose map is the signal's amplitude
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.2, 1.5, 2, 3, 4, 6, 10, 20, 50)  # of logarithmic axes
BRIGHTEST = 0.98  # of the smoothed values: what is above is marked as strongly
SMOOTH_S = 0.06  # width of the mean that is drawn, seconds: single samples say little
METHOD_COLOURS = dict(
    zip(
        ("gradient x input", "integrated gradients", "occlusion", "attention roll-out", "amplitude", "random order"),
        (*PALETTE[:4], SOFT, "#B9BEC4"),
        strict=True,
    )
)


def strength(attribution, fs: float) -> np.ndarray:
    """How strongly each sample is marked: 0 to 1, float (lead, time), from an attribution of one record.

    Only what speaks for the statement is marked. Values are averaged over SMOOTH_S and measured by the highest.
    """
    width = max(1, round(SMOOTH_S * fs))
    positive = np.maximum(np.asarray(attribution, float), 0)
    smooth = np.apply_along_axis(np.convolve, 1, positive, np.ones(width) / width, "same")
    highest = np.quantile(smooth[smooth > 0], BRIGHTEST) if (smooth > 0).any() else 1.0
    return np.clip(smooth / highest, 0, 1)


def over_paper(x, attribution, fs: float, leads=LEADS, *, title="", ax=None, **sheet):
    """An attribution as from a marker pen over the ECG on clinical paper; returns the Axes.

    x: (lead, time) mV; attribution: (lead, time), of the same samples; fs: Hz; sheet: more arguments of `ecg_paper`.
    """
    return ecg_paper(x, fs, leads, title=title, shade=strength(attribution, fs), ax=ax, **sheet)


def _offset(number: int, of: int) -> float:
    return 0.62 * (number / max(1, of - 1) - 0.5) if of > 1 else 0.0


def _legend(figure, handles):
    figure.legend(handles=handles, loc="outside upper left", ncols=min(6, len(handles)), frameon=False)


def forest(table, panels: str, rows: str, xlabel: str, reference=None, log: bool = False):
    """Scores with their intervals: a panel per value of `panels`, a row per value of `rows`, a symbol per model.

    table: columns panels, rows, model, point, low, high; reference: where a line is drawn; log: of the axis.
    Returns the Figure.
    """
    style.use()
    kinds, names, models = (list(dict.fromkeys(table[name])) for name in (panels, rows, "model"))
    height = (24 + max(9, 3.4 * len(models)) * len(names)) * MM
    figure, axes = plt.subplots(1, len(kinds), figsize=(PAGE, height), squeeze=False, sharey=True)
    for ax, kind in zip(axes[0], kinds, strict=True):
        if reference is not None:
            ax.axvline(reference, color=SOFT, linewidth=0.8, linestyle=(0, (3, 2)))
        of = table[table[panels] == kind]
        for k, name in enumerate(names):
            here = of[of[rows] == name].set_index("model")
            there = [model for model in models if model in here.index]
            for number, model in enumerate(there):
                row, (colour, marker) = here.loc[model], _look(model)
                at = [k + _offset(number, len(there))]
                error_bars(ax, at, [row["point"]], [row["low"]], [row["high"]], colour, marker=marker)
        name_rows(ax, names)
        ax.set_title(style.plain(kind), loc="left")
        if log:
            ax.set_xscale("log")
            low, high = ax.get_xlim()
            ticks = [tick for tick in TICKS if low <= tick <= high]
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.set_xticks([], minor=True)
        ax.grid(axis="x", color=FAINT)
    axes[0, len(kinds) // 2].set_xlabel(f"{xlabel} ({style.INTERVAL} over patients)")
    _legend(figure, [_symbol(model) for model in models])
    return figure


def _look(model: str) -> tuple[str, str]:
    """Colour and symbol of a method, grey for an untrained network of any kind and for what no network has made."""
    if model == NO_MODEL:
        return SOFT, "P"
    return look(model.replace("random_", "random:", 1))


def _symbol(model: str):
    colour, marker = _look(model)
    return Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=3.6, label=style.plain(model))


def curves(table):
    """What the probability does when cells are hidden, and when they are shown, by order: two panels. The Figure.

    table: columns kind ("deletion", "insertion"), method, share (of the cells), point, low, high.
    """
    style.use()
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 66 * MM), sharey=True)
    words = {"deletion": "Share of the recording that is hidden", "insertion": "Share of the recording that is shown"}
    for ax, (kind, xlabel) in zip(axes, words.items(), strict=True):
        for method, mine in table[table["kind"] == kind].groupby("method", sort=False):
            mine, colour = mine.sort_values("share"), METHOD_COLOURS[method]
            ax.plot(mine["share"], mine["point"], color=colour, marker="o", markersize=2.2, label=method)
            ax.fill_between(mine["share"], mine["low"], mine["high"], color=colour, alpha=0.12, linewidth=0)
        ax.set(xlabel=xlabel, title=kind.capitalize(), ylim=(0, None))
    axes[0].set_ylabel(f"Probability of the statement\n({style.INTERVAL} over patients)")
    _legend(figure, axes[0].get_legend_handles_labels()[0])
    return figure


def segment_shares(table):
    """Which waves an attribution lies on, beside what a uniform map would give: a panel per statement. The Figure.

    table: columns label, segment, method, point, low, high; the method "uniform" is drawn as a bar.
    """
    style.use()
    labels, segments = (list(dict.fromkeys(table[name])) for name in ("label", "segment"))
    methods = [name for name in dict.fromkeys(table["method"]) if name != "uniform"]
    columns = min(3, len(labels))
    lines = -(-len(labels) // columns)
    size = (PAGE, (14 + (12 + 6.5 * len(segments)) * lines) * MM)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True, sharex=True)
    for ax in axes.flat[len(labels) :]:
        ax.set_visible(False)
    for ax, label in zip(axes.flat, labels, strict=False):
        of = table[table["label"] == label]
        even = of[of["method"] == "uniform"].set_index("segment").loc[segments, "point"]
        ax.barh(range(len(segments)), even, color=FAINT, height=0.8)
        for number, method in enumerate(methods):
            mine = of[of["method"] == method].set_index("segment").loc[segments]
            at = np.arange(len(segments)) + _offset(number, len(methods))
            mark = {"marker": style.MARKERS[number], "label": method}
            error_bars(ax, at, mine["point"], mine["low"], mine["high"], METHOD_COLOURS[method], **mark)
        name_rows(ax, segments)
        ax.set_title(style.plain(label), loc="left")
    for ax in axes[-1]:
        ax.set_xlabel(f"Share of the attribution\n({style.INTERVAL})")
    _legend(figure, axes[0, 0].get_legend_handles_labels()[0])
    return figure
