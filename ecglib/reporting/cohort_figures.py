"""Figures of cohorts: how often each statement occurs, and how the recordings of hospitals differ in frequency."""

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator

from ecglib.data import labels as vocabulary
from ecglib.evaluation import metrics
from ecglib.reporting.methods import spelt_out
from ecglib.reporting.style import (
    COLUMN,
    INTERVAL,
    MARKERS,
    MM,
    PALETTE,
    error_bars,
    legend_above,
    name_rows,
    new_axes,
)


def prevalence(states, labels=None, *, ax=None):
    """Share of records with each label and its 95 % Wilson interval, several cohorts side by side.

    states: {cohort name: DataFrame (record, label) of label states}; see `labels.prevalence`. The trials are records:
    the intervals are too narrow for patients where a patient has several. A label that a cohort knows nothing about
    shows nothing there. labels: which and in what order, by default all, the most frequent of the first cohort on top.
    """
    tables = {name: vocabulary.prevalence(table) for name, table in states.items()}
    hits = pd.DataFrame({name: table.present for name, table in tables.items()}).fillna(0)
    known = pd.DataFrame({name: table.present + table.absent for name, table in tables.items()}).fillna(0)
    if labels is None:
        labels = (hits / known).sort_values(list(states), ascending=False, kind="stable").index
    hits, known, top = hits.loc[list(labels)], known.loc[list(labels)], 0.0
    names = [spelt_out(label) for label in labels]
    wide = COLUMN + 1.25 * max(0, max(map(len, names), default=0) - 14) * MM  # long names leave no room for the bars
    ax = new_axes(ax, (16 + (2.2 + 1.2 * len(states)) * len(labels)) * MM, wide)
    offsets = np.linspace(-0.24, 0.24, len(states)) if len(states) > 1 else [0.0]
    for k, name in enumerate(states):
        rows = np.flatnonzero(known[name])
        share = (hits[name] / known[name]).to_numpy()[rows]
        low, high = metrics.wilson(hits[name].to_numpy()[rows], known[name].to_numpy()[rows])
        symbol = {"marker": MARKERS[k], "markersize": 2.4, "label": f"{name} ({len(states[name]):,})"}
        error_bars(ax, rows + offsets[k], 100 * share, 100 * low, 100 * high, PALETTE[k], **symbol)
        top = max(top, 100 * high.max(initial=0))
    ax.set_xscale("function", functions=(lambda v: np.sqrt(np.maximum(v, 0)), np.square))
    ax.set(xlim=(0, min(100, 1.05 * top)))
    ax.set_xlabel(f"Prevalence (% of records)\nbars: Wilson {INTERVAL}, trials = records")
    ax.xaxis.set_major_locator(FixedLocator([t for t in (0, 1, 5, 10, 20, 40, 60, 80, 100) if t <= 1.05 * top]))
    name_rows(ax, names)
    legend_above(ax)
    return ax


def spectra(table, *, ax=None):
    """`cohorts.spectra` drawn: the median of each cohort, and the middle half of its recordings as a band."""
    ax = new_axes(ax, 66 * MM)
    for k, (name, rows) in enumerate(table.groupby("cohort", sort=False)):
        ax.fill_between(rows.hz, rows.low, rows.high, color=PALETTE[k], alpha=0.18, linewidth=0)
        ax.plot(rows.hz, rows.db, color=PALETTE[k], label=name)
    ax.set_xscale("log")
    ticks = [t for t in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100) if t <= table.hz.max()]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(FixedLocator([]))
    ax.set_xticklabels([f"{t:g}" for t in ticks])
    ax.set(xlabel="Frequency (Hz)", ylabel="Power density (dB re 1 mV\u00b2/Hz)", xlim=(0.25, table.hz.max()))
    ax.grid(axis="y")
    legend_above(ax)
    return ax
