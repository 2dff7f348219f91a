"""Figures of the study. Functions take `ax=None`, draw, and return the Axes; none shows or saves by itself.

Axes carry units and intervals are always drawn. `style` is one look for all: DejaVu Sans, the colour-blind-safe
palette of Okabe and Ito (2008), sizes for a journal column of 89 mm. Tables come from `ecglib.report`.
"""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from ecglib import notes
from ecglib.clinical import ecg_paper
from ecglib.look import (
    COLUMN,
    INK,
    INTERVAL,
    MARKERS,
    MM,
    PALED,
    PALETTE,
    SOFT,
    error_bars,
    footnote,
    legend_above,
    name_rows,
    new_axes,
    save,
    style,
    toned,
)
from ecglib.panels import COLOURS, comparison, kind, training_panels
from ecglib.signals import EcgError
from ecglib.surveys import prevalence, spectra

__all__ = [
    "calibration",
    "comparison",
    "ecg_paper",
    "embedding_map",
    "forest",
    "label_efficiency",
    "paired_differences",
    "prevalence",
    "save",
    "spectra",
    "style",
    "training_curves",
    "training_panels",
]

BASELINES = {"random": "#9AA0A6", "features": "#6B7178", "scratch": "#2B2F33"}
NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "ece": "ECE",
    "brier": "Brier score",
}


def _colours(names):
    """{name: colour}: the baselines in greys wherever they appear, names with a mark pale, the others from the palette
    in order."""
    marked = {name: PALED for name in names if notes.footnote(name)}
    greys = {name: BASELINES.get(name.split(",")[0]) or marked.get(name) for name in names}
    others = [name for name in names if not greys[name]]
    if len(others) > len(PALETTE):
        raise EcgError(f"{len(others)} curves in one figure", field="encoder", fix=f"at most {len(PALETTE)}: filter")
    return {name: greys[name] or PALETTE[others.index(name)] for name in names}


def _models(table):
    """Name each model by its encoder, and by its mode too where an encoder comes with several or it is its own head;
    the baselines first."""
    pairs = table[["encoder", "mode"]].assign(name=notes.marked(table)).drop_duplicates()
    moded = pairs["encoder"].duplicated(keep=False) | (pairs["mode"] == "head")
    names = [f"{e}, {m}" if both else e for e, m, both in zip(pairs["name"], pairs["mode"], moded, strict=True)]
    keys = zip(pairs["encoder"], pairs["mode"], strict=True)
    known = list(BASELINES)
    order = sorted(zip(names, keys, strict=True), key=lambda one: ((*known, one[1][0]).index(one[1][0]), one[0]))
    return {name: table[(table["encoder"] == key[0]) & (table["mode"] == key[1])] for name, key in order}


def _named(table, encoder, mode, note):
    """A name per row: the encoder with its mark, and with its mode where the table has several modes of it."""
    several, names = table.groupby(encoder)[mode].transform("nunique") > 1, notes.marked(table, encoder, note)
    return [f"{e} ({m})" if both else e for e, m, both in zip(names, table[mode], several, strict=True)]


def _one(table, columns):
    """Refuse a table that mixes what a figure must not mix, and an empty one."""
    if table.empty:
        raise EcgError("nothing to draw: no row is left", field=", ".join(columns))
    for name in columns:
        if table[name].nunique() > 1:
            found = sorted(map(str, table[name].unique()))
            raise EcgError(f"one figure shows one {name}, not {found}", field=name, fix=f"filter the table by {name}")


def _looks(models):
    """How each curve is drawn: a symbol each; those with a mark hollow and dashed, with symbols in their own order."""
    marked = [name for name in models if notes.footnote(name)]
    for k, (name, colour) in enumerate(_colours(list(models)).items()):
        place, line = (marked.index(name), (0, (4, 2))) if name in marked else (k, "-")
        look = {"marker": MARKERS[place % len(MARKERS)], "markerfacecolor": toned(name, colour)[1]}
        yield look | {"colour": colour, "linestyle": line}


def training_curves(histories, y="loss", *, x="step", ylabel="", ax=None):
    """A logged quantity against the training step: running mean with the 10-90 % band, or points where it is sparse.

    histories: {name: DataFrame with columns x and y}; rows without y are left out. The band is the spread between
    batches within a window of a fortieth of the run, not an interval of the mean.
    """
    ax = new_axes(ax, 62 * MM)
    for (name, history), colour in zip(histories.items(), _colours(list(histories)).values(), strict=True):
        lacking = {x, y} - set(history)
        if lacking:
            raise EcgError(f"history of {name} lacks {sorted(lacking)}", field=y, fix=f"one of {sorted(history)}")
        rows = history[[x, y]].dropna()
        dense = len(rows) >= 80
        window = rows[y].rolling(max(len(rows) // 40, 1), center=True, min_periods=1)
        if dense:
            ax.fill_between(rows[x], window.quantile(0.1), window.quantile(0.9), color=colour, alpha=0.18, linewidth=0)
        ax.plot(rows[x], window.mean(), color=colour, label=name, marker=None if dense else "o", markersize=2.5)
    ax.set(xlabel="Optimiser step" if x == "step" else x, ylabel=ylabel or y.replace("_", " ").capitalize())
    ax.margins(x=0.01)
    ax.grid(axis="y")
    legend_above(ax)
    return ax


def label_efficiency(table, metric="auroc", label="macro", *, ax=None):
    """Score against the share of training labels, a line per model with 95 % intervals over patients.

    table: `report.scores` of one cohort and split; models are set slightly apart so that intervals do not hide.
    """
    table = table[(table["metric"] == metric) & (table["label"] == label) & (table["fraction"] > 0)]
    _one(table, ["cohort", "split"])
    ax = new_axes(ax, 72 * MM)
    models = _models(table)
    shifts = 1.05 ** (np.arange(len(models)) - (len(models) - 1) / 2)
    for (name, rows), shift, look in zip(models.items(), shifts, _looks(models), strict=True):
        rows = rows.sort_values("fraction")
        at = 100 * rows["fraction"].to_numpy() * shift
        error_bars(ax, at, rows["point"], rows["low"], rows["high"], along="y", label=name, linewidth=1.1, **look)
    ticks = np.array(sorted(100 * table["fraction"].unique()))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([f"{tick:g} %" for tick in ticks])
    title = NAMES.get(metric, metric.capitalize())
    ax.set(xlabel="Share of the training labels", ylabel=f"{title}, {label} ({INTERVAL})")
    ax.grid(axis="y")
    legend_above(ax)
    footnote(ax, models)
    return ax


def forest(table, metric="auroc", *, ax=None):
    """Internal against external per label, with intervals, the macro average below a rule.

    table: `report.external` of one model, fraction and external cohort. Beside each label: positives inside, outside.
    A model that may have seen the corpus at home is named above, with its mark, and that side is pale.
    """
    table = table[table["metric"] == metric].dropna(subset=["internal", "external"], how="all")
    _one(table, ["cohort", "encoder", "mode", "fraction"])
    macro = table["label"] == "macro"
    table = pd.concat([table[~macro].sort_values("internal", ascending=False, kind="stable"), table[macro]])
    at, name, model = np.arange(len(table)), table["cohort"].iloc[0], notes.marked(table)[0]
    title = model if notes.footnote(model) else None
    ax = new_axes(ax, (20 + 4.6 * len(table) + 3.4 * bool(title)) * MM)
    for side, offset, colour, marker, words in (
        ("internal", -0.17, toned(model, PALETTE[0])[0], "o", "internal test"),
        ("external", 0.17, PALETTE[1], "D", f"external ({name})"),
    ):
        ends = [table[side + end] for end in ("", "_low", "_high")]
        fill = toned(model, colour)[1] if side == "internal" else "white"
        error_bars(ax, at + offset, *ends, colour, marker=marker, markerfacecolor=fill, label=words)
    counts = zip(table["label"], table["n_positives_internal"], table["n_positives_external"], strict=True)
    names = [f"{label}  ({inside:,} | {outside:,})" for label, inside, outside in counts]
    if macro.any():
        names[-1] = f"mean of {len(table) - 1}"
    name_rows(ax, names)
    if macro.any():
        ax.axhline(len(table) - 1.5, color=INK, linewidth=0.6)
        ax.get_yticklabels()[-1].set_fontweight("bold")
    if metric == "auroc":
        lowest = min(table["internal_low"].min(), table["external_low"].min())
        ax.set_xlim(max(0, min(0.5, lowest) - 0.01), 1.005)
        ax.axvline(0.5, color=SOFT, linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    ax.set_xlabel(f"{NAMES.get(metric, metric.capitalize())} ({INTERVAL})\nin brackets: positives internal | external")
    legend_above(ax, title=title)
    footnote(ax, [model], notes.HOME)
    return ax


def paired_differences(table, *, ax=None):
    """Differences to the reference encoders with intervals, from `report.differences` of one cohort, split, metric.

    An encoder or a reference that appears with several modes is named with its mode; one that may have seen the corpus
    is pale.
    """
    table = table.dropna(subset=["point"])
    _one(table, ["cohort", "split", "metric"])
    ours = _named(table, "encoder", "mode", "note")
    theirs, shares = _named(table, "reference", "reference_mode", "reference_note"), table["fraction"]
    names = [f"{a} \N{MINUS SIGN} {b}, {100 * f:g} %" for a, b, f in zip(ours, theirs, shares, strict=True)]
    wide = COLUMN + 1.25 * max(0, max(map(len, names)) - 30) * MM  # long names leave no room for the marks
    ax = new_axes(ax, (16 + 4.6 * len(table)) * MM, wide)
    for k, row in enumerate(table.itertuples()):
        colour = toned(names[k], COLOURS[kind(row.encoder)])[0]  # as in `comparison`
        look = {"marker": "o", "markerfacecolor": colour if row.p_holm < 0.05 else "white"}
        error_bars(ax, [k], [row.point], [row.low], [row.high], colour, **look)
    ax.axvline(0, color=SOFT, linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    metric = NAMES.get(table["metric"].iloc[0], table["metric"].iloc[0])
    ax.set_xlabel(f"Difference in macro {metric}\n({INTERVAL}; filled: Holm p < 0.05)")
    name_rows(ax, names)
    footnote(ax, names)
    return ax


def calibration(table, *, ax=None):
    """Observed share of positives against predicted probability, with Wilson intervals, a line per model.

    table: `report.calibration` of one cohort, split, label and fraction.
    """
    _one(table, ["cohort", "split", "label", "fraction"])
    ax = new_axes(ax, COLUMN)
    ax.plot([0, 1], [0, 1], color=SOFT, linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    models = _models(table)
    for (name, rows), look in zip(models.items(), _looks(models), strict=True):
        ends = [rows.sort_values("bin")[end] for end in ("probability", "frequency", "low", "high")]
        error_bars(ax, *ends, along="y", label=name, linewidth=0.9, **look)
    which = "all labels" if table["label"].iloc[0] == "all" else table["label"].iloc[0]
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="Predicted probability")
    ax.set_ylabel(f"Observed share of positives, {which} ({INTERVAL})")
    ax.set_aspect("equal")
    ax.grid()
    legend_above(ax)
    footnote(ax, models)
    return ax


def embedding_map(z, labels, *, coordinates=False, ax=None):
    """Records on the first two principal components of their embeddings, coloured by label.

    z: (record, dim), or (record, 2) with coordinates=True to draw given ones; labels: (record,) of names, "" is grey
    and behind. The most frequent label is drawn first. Components are signed so that the largest loading is positive.
    """
    z, labels = np.asarray(z, dtype=np.float64), np.asarray(labels, dtype=object)
    if z.ndim != 2 or len(z) != len(labels) or not np.isfinite(z).all() or (coordinates and z.shape[1] != 2):
        raise EcgError(f"embeddings {z.shape} must be finite and fit {len(labels)} labels", field="z")
    axis_names = ("Coordinate 1", "Coordinate 2")
    if not coordinates:
        z, shares = _components(z)
        axis_names = [
            f"Principal component {k + 1} ({100 * share:.0f} % of variance)" for k, share in enumerate(shares)
        ]
    names, counts = np.unique(labels[labels != ""].astype(str), return_counts=True)
    names = list(names[np.argsort(-counts, kind="stable")])
    ax = new_axes(ax, 84 * MM)
    for name, colour in [("", "#D4D7DB"), *_colours(names).items()]:
        rows = np.flatnonzero(labels == name)
        if rows.size:
            words = f"{name or 'other'} ({rows.size:,})"
            ax.scatter(*z[rows].T, s=5, color=colour, alpha=0.75, linewidths=0, label=words, rasterized=True)
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1], xticks=[], yticks=[])
    handles, words = ax.get_legend_handles_labels()
    dots = [Line2D([], [], marker="o", linestyle="none", markersize=4, color=h.get_facecolor()[0][:3]) for h in handles]
    for dot, word in zip(dots, words, strict=True):
        dot.set_label(word)
    legend_above(ax, dots)
    return ax


def _components(z):
    """Scores on the first two principal components (record, 2) and their shares of the variance."""
    z = z - z.mean(axis=0)
    left, scale, loadings = np.linalg.svd(z, full_matrices=False)
    signs = np.sign(loadings[np.arange(2), np.abs(loadings[:2]).argmax(axis=1)])
    return left[:, :2] * scale[:2] * signs, scale[:2] ** 2 / (scale**2).sum()
