"""Figures of whole days: timelines of true and called episodes, burden against burden."""

import numpy as np
from matplotlib.lines import Line2D

from ecglib.reporting import style
from ecglib.reporting.style import COLUMN, FAINT, INK, MM, PAGE, PALETTE, SOFT, legend_above, new_axes

LINES = {"burden bias": "-", "lower limit of agreement": "--", "upper limit of agreement": "--"}


def timeline(days, ax=None):
    """A row per recording: true episodes above, called ones below, and a grey line where it could be judged.

    days: (name, length in hours, true episodes, called episodes, note) each, episodes in seconds (episode, 2), None
    for a truth that is not known. Returns the Axes.
    """
    ax = new_axes(ax, (16 + 7 * len(days)) * MM, PAGE)
    longest = max(day[1] for day in days)
    for row, (_, hours, truth, called, note) in enumerate(days):
        ax.hlines([row - 0.17, row + 0.17], 0, hours, color=FAINT, linewidth=5.0, zorder=1)
        for place, episodes, colour in ((row - 0.17, truth, PALETTE[0]), (row + 0.17, called, PALETTE[1])):
            if episodes is not None and len(episodes):
                starts, ends = np.asarray(episodes).T / 3600
                wide = np.maximum(ends, starts + longest / 1500)  # an episode of seconds is seen too
                ax.hlines(np.full(len(starts), place), starts, wide, color=colour, linewidth=5.0, zorder=2)
        ax.text(longest * 1.01, row, style.plain(note), va="center", fontsize=6.5, color=SOFT)
    ax.set_yticks(range(len(days)), [style.plain(day[0]) for day in days])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(days) - 0.4, -0.6)
    ax.set_xlim(0, longest * 1.16)
    ax.set_xticks(np.arange(0, longest + 0.01, 3 if longest > 6 else max(round(longest / 6, 2), 0.01)))
    ax.set_xlabel("hours since the start of the recording")
    names = ((PALETTE[0], "marked by experts or known"), (PALETTE[1], "called"), (FAINT, "rest of the recording"))
    legend_above(ax, [Line2D([], [], color=colour, linewidth=5, label=name) for colour, name in names])
    return ax


def burdens(rows, scores, ax=None):
    """Bland-Altman plot of the burden: called minus true over their mean, a point per recording.

    rows: recordings of one corpus with burden and burden_called in percent; scores: {name of a score: (point, low,
    high)} with bias and limits of agreement of `episodes.summary`. Returns the Axes.
    """
    ax = new_axes(ax, 62 * MM, COLUMN)
    mean = (rows["burden"] + rows["burden_called"]) / 2
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.plot(mean, rows["burden_called"] - rows["burden"], "o", markersize=3.2, color=PALETTE[0], alpha=0.8)
    for name, kind in LINES.items():
        point, low, high = scores[name]
        ax.axhline(point, color=PALETTE[1], linewidth=1.0, linestyle=kind)
        ax.axhspan(low, high, color=PALETTE[1], alpha=0.1, linewidth=0)
    ax.set_xlabel("mean of true and called burden (% of the day)")
    ax.set_ylabel("called minus true (points)")
    return ax
