"""Figures that show published models side by side: how each is fed with the same ECG, and what a probe reads from it.

Dummy weights, which mean nothing, are named in large letters across the figure.
"""

import matplotlib.pyplot as plt
import numpy as np

from ecglib.reporting import style
from ecglib.reporting.methods import look
from ecglib.reporting.style import FAINT, INK, MM, PAGE, SOFT, error_bars, name_rows

WARNING = "DUMMY WEIGHTS\nnothing was learned, these numbers mean nothing"


def stamp(figure):
    """Write WARNING large across the figure, so that nobody can take a part of it for a result. Returns the figure."""
    height = figure.get_figheight() / MM
    big, small = WARNING.split("\n")
    letters = {"ha": "center", "va": "center", "color": "#C62828", "weight": "bold", "zorder": 50}
    box = {"boxstyle": "round,pad=0.3", "facecolor": "none", "alpha": 0.4, "edgecolor": "#C62828", "linewidth": 2}
    text = figure.text(0.5, 0.5, big, fontsize=min(38, 0.5 * height), rotation=12, alpha=0.35, bbox=box, **letters)
    text.set_in_layout(False)
    figure.suptitle(small.upper(), color="#C62828", weight="bold", fontsize=8)
    return figure


def profiles(recording, inputs, lead="II"):
    """Four seconds of one lead of a recording before any signal chain, and as each model is fed with it: the Figure.

    recording: (samples (time,) in mV, fs in Hz); inputs: {model: (samples (time,), fs, lead shown, words on chain)}.
    Each panel has its own scale, since models read millivolt, standard deviations or shares of a range.
    """
    style.use()
    panels = {"before any chain": (*recording, lead, f"mV, {recording[1]:g} Hz"), **inputs}
    figure, axes = plt.subplots(len(panels), 1, figsize=(PAGE, (14 + 19 * len(panels)) * MM), sharex=True)
    for k, (ax, (name, (x, fs, shown, words))) in enumerate(zip(axes, panels.items(), strict=True)):
        x, colour = x[: int(4 * fs)], look(f"zoo:{name}")[0] if k else INK
        ax.plot(np.arange(len(x)) / fs, x, color=colour, linewidth=0.8)
        ax.set_title(style.plain(f"{name}, lead {shown}"), loc="left")
        ax.text(1, 1.02, style.plain(words), transform=ax.transAxes, ha="right", va="bottom", fontsize=6, color=SOFT)
        ax.margins(x=0)
        ax.grid(axis="x", color=FAINT, linewidth=0.4)
    axes[-1].set_xlabel("Time (s)")
    figure.supylabel("Input of the network (unit at the right of each panel)", fontsize="medium")
    return figure


def probes(table):
    """Macro AUROC of a probe on each model with its interval (table: model, auroc, low, high); returns the Figure."""
    style.use()
    figure, ax = plt.subplots(figsize=(PAGE * 0.62, (18 + 5 * len(table)) * MM))
    for k, row in enumerate(table.itertuples()):
        colour, marker = look(f"zoo:{row.model}")
        error_bars(ax, [k], [row.auroc], [row.low], [row.high], colour, marker=marker)
    ax.axvline(0.5, color=SOFT, linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    name_rows(ax, list(table["model"]))
    ax.set_xlabel("Macro AUROC, validation patients (95 % interval)")
    return figure
