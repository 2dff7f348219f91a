"""Corpora learned from against corpora judged: a heat map that says its numbers."""

import matplotlib.pyplot as plt
import numpy as np

from ecglib.reporting import style
from ecglib.reporting.style import INK, MM, SOFT, new_axes


def matrix(table, title: str, columns: dict, *, digits=(1, 1), limits=(None, None), better="high", ax=None):
    """A cell for each corpus learned from (down) and judged on (across), with its point and 95 % interval.

    table: a row per cell with train, test, point, low, high; NaN: nothing is known. columns: name of each judged corpus
    -> what stands below it; digits: of the point and of the interval; limits: of the shades; better: whether "high" or
    "low" is shown light. What was judged at home, out of fold, has a frame. Returns the Axes.
    """
    rows, cells = list(dict.fromkeys(table["train"])), table.set_index(["train", "test"])
    ax = new_axes(ax, (26 + 12 * len(rows)) * MM, (32 + 28 * len(columns)) * MM)
    values = np.array([[cells["point"].get((a, b), np.nan) for b in columns] for a in rows])
    colours = "Blues_r" if better == "high" else "Blues"
    ax.imshow(values, cmap=colours, aspect="auto", alpha=0.45, vmin=limits[0], vmax=limits[1])
    for i, train in enumerate(rows):
        for k, test in enumerate(columns):
            known = not np.isnan(values[i, k])
            words = _words(cells.loc[(train, test)], *digits) if known else "-"
            ax.text(k, i, words, ha="center", va="center", fontsize=6.5, color=INK if known else SOFT)
            if known and train == test:
                ax.add_patch(plt.Rectangle((k - 0.49, i - 0.49), 0.98, 0.98, fill=False, color=INK, linewidth=0.9))
    ax.set_xticks(range(len(columns)), [style.plain(words) for words in columns.values()])
    ax.set_yticks(range(len(rows)), [style.plain(name) for name in rows])
    ax.tick_params(length=0)
    ax.set(xlabel="judged on", ylabel="learned from")
    ax.set_title(f"{title} ({style.INTERVAL} over patients; framed: out of fold)", loc="left", fontsize=7)
    ax.spines[:].set_visible(False)
    return ax


def _words(cell, point: int, ends: int) -> str:
    if np.isnan(cell["low"]):
        return f"{cell['point']:.{point}f}\n(one patient)"
    return f"{cell['point']:.{point}f}\n({cell['low']:.{ends}f} to {cell['high']:.{ends}f})"
