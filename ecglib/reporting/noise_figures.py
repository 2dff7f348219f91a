"""Figures of noise detection: corpora against corpora, false alarms by rhythm, and strips to look at."""

import matplotlib.pyplot as plt
import numpy as np

from ecglib.reporting import cross_corpus, style
from ecglib.reporting.style import INK, MM, PAGE, PALETTE, SOFT, error_bars, legend_above, name_rows, new_axes


def matrix(table, statistic, ax=None):
    """`cross_corpus.matrix` of one detector; below the name of a corpus stands its share of noisy items.

    table: `noise_detection.scores` of one detector; statistic: of it, between one half (white) and 1.
    """
    rows = table[table["statistic"] == statistic]
    of_corpus = rows.drop_duplicates("test").set_index("test")
    columns = {
        name: f"{name}\n{100 * share:.0f} % noisy, n = {n}"
        for name, share, n in zip(of_corpus.index, of_corpus.prevalence, of_corpus.n_items, strict=True)
    }
    return cross_corpus.matrix(rows, statistic, columns, digits=(3, 2), limits=(0.5, 1.0), ax=ax)


def alarms(table, rhythms, ax=None):
    """Share of clean items called noisy, a row per corpus and rhythm, a symbol per detector. Returns the Axes.

    table: `noise_detection.false_alarms` of a few detectors; rhythms: those that are drawn, in order.
    """
    rows = table[table["rhythm"].isin(rhythms)]
    places = list(dict.fromkeys(zip(rows["corpus"], rows["rhythm"], strict=True)))
    places.sort(key=lambda place: (place[0], list(rhythms).index(place[1])))
    sizes = rows.groupby(["corpus", "rhythm"])["n_items"].max()
    ax = new_axes(ax, (26 + 6 * len(places)) * MM, PAGE * 0.75)
    name_rows(ax, [f"{corpus}, {rhythm} (n = {sizes[corpus, rhythm]})" for corpus, rhythm in places])
    detectors = list(dict.fromkeys(rows["detector"]))
    for k, name in enumerate(detectors):
        mine = rows[rows["detector"] == name]
        at = [places.index(place) for place in zip(mine["corpus"], mine["rhythm"], strict=True)]
        at = np.array(at) + 0.2 * (k - (len(detectors) - 1) / 2)
        shares = (100 * mine[column] for column in ("share", "low", "high"))
        error_bars(ax, at, *shares, PALETTE[k], marker=style.MARKERS[k], label=name)
    ax.axvline(5, color=SOFT, linewidth=0.7, linestyle="--")
    ax.set_xlabel(
        f"Clean items called noisy (%)\n{style.INTERVAL} over patients; dashed: what the operating point allows"
    )
    legend_above(ax)
    return ax


def strips(x, fs, titles):
    """Windows of one lead under each other, each in its own scale. Returns the Figure.

    x: (window, time) mV; fs: Hz; titles: of each.
    """
    style.use()
    figure, axes = plt.subplots(len(x), 1, figsize=(PAGE, (8 + 15 * len(x)) * MM), sharex=True, squeeze=False)
    seconds = np.arange(np.shape(x)[1]) / fs
    for ax, wave, title in zip(axes[:, 0], x, titles, strict=True):
        ax.plot(seconds, wave, color=INK, linewidth=0.6)
        ax.set_title(style.plain(title), loc="left", fontsize=7)
        ax.set_ylabel("mV", fontsize=6.5)
        ax.margins(x=0)
    axes[-1, 0].set_xlabel("Time (s)")
    return figure
