"""Figures of R peaks and beats. Functions take `ax=None` or make a Figure, draw, and return the Axes or Figure."""

import matplotlib.pyplot as plt
import numpy as np

from ecglib.reporting import style
from ecglib.reporting.style import INK, MM, PAGE, PALETTE, SOFT, error_bars, legend_above, new_axes

CLASS_COLOURS = {"N": SOFT, "S": PALETTE[0], "V": PALETTE[1], "F": PALETTE[2], "Q": PALETTE[3]}
MOST = 60  # records that one axis has room for
LEAST = 0.02  # %; what a logarithmic axis shows for no error at all


def errors_per_record(table, ax=None):
    """Missed and false beats of every detector in every record, in percent of its beats. Returns the Axes.

    table: rows of `rpeak_scores.score` with the column detector; at most MOST records, by their worst detector.
    """
    rows = table.assign(error=100 * (table.fn + table.fp) / table.beats)
    order = rows.groupby("record_id").error.max().sort_values(ascending=False, kind="stable").index
    n_records, order = len(order), order[:MOST]
    rows = rows[rows.record_id.isin(order)]
    ax = new_axes(ax, 70 * MM, PAGE)
    at = {name: place for place, name in enumerate(order)}
    for k, (name, mine) in enumerate(rows.groupby("detector", sort=False)):
        places, errors = mine.record_id.map(at), np.maximum(mine.error, LEAST)
        ax.plot(places, errors, style.MARKERS[k], color=PALETTE[k], markersize=3, label=name, alpha=0.85)
    ax.set_yscale("log")
    ax.set_ylim(LEAST * 0.8, None)
    ax.set_xlim(-1, len(order))
    ax.set_xticks(range(len(order)), [style.plain(name) for name in order], rotation=90, fontsize=5.5)
    which = f"the {len(order)} of {n_records} with most errors" if len(order) < n_records else "most errors first"
    ax.set_xlabel(f"Record, {which}")
    ax.set_ylabel(f"Missed and false beats (% of beats;\n{LEAST} stands for none)")
    legend_above(ax)
    return ax


def under_noise(table):
    """Sensitivity and PPV of each detector against the signal-to-noise ratio, with intervals. Returns the Figure.

    table: `rpeak_scores.pooled` by detector and snr_db.
    """
    style.use()
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 66 * MM), sharey=True)
    for ax, metric in zip(axes, ("sensitivity", "ppv"), strict=True):
        for k, (name, rows) in enumerate(table.groupby("detector", sort=False)):
            rows = rows.sort_values("snr_db")
            at = rows.snr_db + 0.25 * (k - 1.5)
            values = (100 * rows[column] for column in (metric, f"{metric}_low", f"{metric}_high"))
            look = {"marker": style.MARKERS[k], "label": name, "linestyle": "-"}
            error_bars(ax, at, *values, PALETTE[k], along="y", **look)
        ax.set_xlabel("Signal-to-noise ratio (dB)")
        ax.invert_xaxis()
    axes[0].set_ylabel(f"Sensitivity (%, {style.INTERVAL})")
    axes[1].set_ylabel(f"PPV (%, {style.INTERVAL})")
    legend_above(axes[0])
    return figure


def confusions(matrices: dict):
    """Confusion matrices side by side: share of each true class, and the number of beats. Returns the Figure.

    matrices: {title: DataFrame (true class, called class) of numbers}; a class that none of them has is left out.
    """
    style.use()
    there = sum(table.to_numpy().sum(axis=0) + table.to_numpy().sum(axis=1) for table in matrices.values()) > 0
    matrices = {title: table.loc[there, there] for title, table in matrices.items()}
    figure, axes = plt.subplots(1, len(matrices), figsize=(PAGE, 68 * MM), squeeze=False)
    for ax, (title, table) in zip(axes[0], matrices.items(), strict=True):
        numbers = table.to_numpy(float)
        total = numbers.sum(axis=1, keepdims=True)
        share = np.divide(numbers, total, out=np.zeros_like(numbers), where=total > 0)
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (i, j), number in np.ndenumerate(numbers.astype(int)):
            text = "" if not total[i, 0] else f"{number:,}"
            ax.text(j, i, text, ha="center", va="center", fontsize=6, color="white" if share[i, j] > 0.5 else INK)
        ax.set_xticks(range(table.shape[1]), table.columns)
        ax.set_yticks(range(table.shape[0]), table.index)
        ax.set(xlabel="Called", title=style.plain(title))
    axes[0][0].set_ylabel("True (shade: share of its beats)")
    return figure


def leak(tables: dict, classes=("N", "S", "V", "F"), names=("Sensitivity", "PPV")):
    """Sensitivity and PPV of each class under each way of splitting, with intervals. Returns the Figure.

    tables: {name of the split: `beat_scores.per_class`}, the one that leaks first.
    """
    style.use()
    classes = [name for name in classes if any((t.beats[t["class"] == name] > 0).any() for t in tables.values())]
    figure, axes = plt.subplots(1, len(names), figsize=(PAGE, 76 * MM), sharey=True)
    for ax, metric in zip(axes, names, strict=True):
        for k, (split, table) in enumerate(tables.items()):
            rows = table.set_index("class").loc[list(classes)]
            at = np.arange(len(classes)) + 0.14 * (k - (len(tables) - 1) / 2)
            column = metric.lower()
            values = (100 * rows[name].to_numpy(float) for name in (column, f"{column}_low", f"{column}_high"))
            point, low, high = values
            known = ~np.isnan(point)
            look = {"marker": style.MARKERS[k], "label": split}
            error_bars(ax, at[known], point[known], low[known], high[known], PALETTE[k], along="y", **look)
        ax.set_xticks(range(len(classes)), classes)
        ax.set_xlim(-0.5, len(classes) - 0.5)
        ax.set(xlabel="Class of the beat", ylabel=f"{metric} (%, {style.INTERVAL} over patients)", ylim=(-3, 103))
        ax.grid(axis="y")
    legend_above(axes[0])
    return figure


def strips(examples, seconds: float = 6.0):
    """A strip per class with the letter of every beat above it. Returns the Figure.

    examples: {class: (recording `rhythm.annotated.Annotated`, number of the beat in the middle)}; the first lead.
    """
    style.use()
    figure, axes = plt.subplots(len(examples), 1, figsize=(PAGE, 25 * MM * len(examples)), squeeze=False)
    for ax, (name, (one, beat)) in zip(axes[:, 0], examples.items(), strict=True):
        half = round(seconds * one.fs / 2)
        first = int(np.clip(one.r[beat] - half, 0, max(0, one.signal.shape[1] - 2 * half)))
        trace = one.signal[0, first : first + 2 * half]
        ax.plot(np.arange(len(trace)) / one.fs, trace, color=INK, linewidth=0.7)
        shown = np.flatnonzero((one.r >= first) & (one.r < first + len(trace)))
        top = float(trace.max()) + 0.15 * float(np.ptp(trace))
        for k in shown:
            bold = {"fontweight": "bold"} if k == beat else {}
            letter, colour = one.classes[k], CLASS_COLOURS[one.classes[k]]
            ax.text((one.r[k] - first) / one.fs, top, letter, ha="center", color=colour, fontsize=7.5, **bold)
        ax.set(xlim=(0, seconds), ylabel=f"{one.leads[0]} (mV)")
        ax.set_ylim(float(trace.min()) - 0.1, top + 0.2 * float(np.ptp(trace)))
        ax.set_title(style.plain(f"{name}: record {one.record_id}"), loc="left")
    axes[-1, 0].set_xlabel("Time (s)")
    return figure
