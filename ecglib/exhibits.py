"""Figures that show published models side by side: what each makes of the same ECG, and where it places patients.

Weights that mean nothing are said in large letters across the figure.
"""

import matplotlib.pyplot as plt
import numpy as np

from ecglib.look import FAINT, INK, MM, PAGE, PALETTE, SOFT, error_bars, name_rows, style

WARNING = "RECIPE WEIGHTS\nnothing was learned, these numbers mean nothing"


def stamp(figure, words: str = WARNING):
    """Write `words` large across the figure, so that nobody can take a part of it for a result. Returns the figure."""
    height = figure.get_figheight() / MM
    big, *small = words.split("\n")
    look = {"ha": "center", "va": "center", "color": "#C62828", "weight": "bold", "zorder": 50}
    box = {"boxstyle": "round,pad=0.3", "facecolor": "none", "alpha": 0.4, "edgecolor": "#C62828", "linewidth": 2}
    text = figure.text(0.5, 0.5, big, fontsize=min(38, 0.5 * height), rotation=12, alpha=0.35, bbox=box, **look)
    text.set_in_layout(False)
    if small:
        figure.suptitle(small[0].upper(), color="#C62828", weight="bold", fontsize=8)
    return figure


def profiles(recording, inputs, lead="II", seconds=4.0):
    """One lead of one recording before any signal chain, and as each model is fed with it; returns the Figure.

    recording: (samples (time,) in mV, fs in Hz); inputs: {model: (samples (time,), fs, lead shown, words on chain)}.
    Each panel has its own scale, since models read millivolt, standard deviations or shares of a range.
    """
    style()
    panels = {"before any chain": (*recording, lead, f"mV, {recording[1]:g} Hz"), **inputs}
    figure, axes = plt.subplots(len(panels), 1, figsize=(PAGE, (14 + 19 * len(panels)) * MM), sharex=True)
    for k, (ax, (name, (x, fs, shown, words))) in enumerate(zip(axes, panels.items(), strict=True)):
        n = int(seconds * fs)
        ax.plot(
            np.arange(len(x[:n])) / fs, x[:n], color=INK if not k else PALETTE[(k - 1) % len(PALETTE)], linewidth=0.8
        )
        ax.set_title(f"{name}, lead {shown}", loc="left")
        ax.text(1, 1.02, words, transform=ax.transAxes, ha="right", va="bottom", fontsize=6, color=SOFT)
        ax.margins(x=0)
        ax.grid(axis="x", color=FAINT, linewidth=0.4)
    axes[-1].set_xlabel("Time (s)")
    figure.supylabel("Input of the network (unit at the right of each panel)", fontsize="medium")
    return figure


def maps(embeddings, labels, columns=2):
    """Records on the first two principal components of each model's features, coloured by label; returns the Figure.

    embeddings: {model: (record, dim)}; labels: (record,) of names, "" is grey and behind. Axes are without unit: the
    share of variance stands beside them.
    """
    style()
    lines = -(-len(embeddings) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(PAGE, (12 + 62 * lines) * MM), squeeze=False)
    names = [name for name in dict.fromkeys(sorted(labels)) if name]
    for ax, (title, z) in zip(axes.flat, embeddings.items(), strict=False):
        u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
        place, share = u[:, :2] * s[:2], s[:2] ** 2 / max((s**2).sum(), 1e-30)
        ax.scatter(*place[labels == ""].T, s=4, color="#D4D7DB", linewidths=0)
        for k, name in enumerate(names):
            ax.scatter(*place[labels == name].T, s=7, color=PALETTE[k % len(PALETTE)], linewidths=0, label=name)
        ax.set(xticks=[], yticks=[], title=title)
        ax.set_xlabel(f"Component 1 ({100 * share[0]:.0f} % of variance)")
        ax.set_ylabel(f"Component 2 ({100 * share[1]:.0f} %)")
    for ax in axes.flat[len(embeddings) :]:
        ax.set_visible(False)
    handles = axes.flat[0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, len(names)), frameon=False)
    return figure


def probes(table):
    """Macro AUROC of a probe on each model, with 95 % intervals over patients; returns the Figure.

    table: model, auroc, low, high, in the order to draw.
    """
    style()
    figure, ax = plt.subplots(figsize=(PAGE * 0.62, (18 + 5 * len(table)) * MM))
    error_bars(ax, np.arange(len(table)), table["auroc"], table["low"], table["high"], PALETTE[0], marker="o")
    ax.axvline(0.5, color=SOFT, linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    name_rows(ax, list(table["model"]))
    ax.set_xlabel("Macro AUROC, validation patients (95 % interval)")
    return figure
