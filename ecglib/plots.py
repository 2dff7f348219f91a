"""Figures of the study. Functions take `ax=None`, draw, and return the Axes; none shows or saves by itself.

Axes carry units and intervals are always drawn. `style` is one look for all: DejaVu Sans, the colour-blind-safe
palette of Okabe and Ito (2008), sizes for a journal column of 89 mm.
"""

import io
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ecglib import metrics
from ecglib.clinical import ecg_paper
from ecglib.signals import EcgError

__all__ = [
    "calibration",
    "ecg_paper",
    "embedding_map",
    "forest",
    "label_efficiency",
    "paired_differences",
    "prevalence",
    "save",
    "style",
    "training_curves",
]

MM = 1 / 25.4
COLUMN, PAGE = 89 * MM, 183 * MM  # inches: one and two columns of a journal
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C6D31")
BASELINES = {"random": "#9AA0A6", "features": "#6B7178", "scratch": "#2B2F33"}
MARKERS = "osD^vPX*"
NAMES = {"auroc": "AUROC", "auprc": "AUPRC", "ppv": "PPV", "npv": "NPV", "f1": "F1", "ece": "ECE", "brier": "Brier score"}
INK, SOFT, FAINT = "#22262A", "#6B7178", "#E3E6E9"


def style():
    """Set the one look of all figures (matplotlib's rcParams), fixed salts included."""
    mpl.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "font.size": 7.5,
            "axes.titlesize": 8,
            "axes.labelsize": 7.5,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.axisbelow": True,
            "axes.prop_cycle": mpl.cycler(color=PALETTE),
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "grid.color": FAINT,
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.2,
            "figure.dpi": 120,
            "savefig.dpi": 300,
            "figure.constrained_layout.use": True,
            "pdf.fonttype": 42,
            "svg.hashsalt": "ecglib",
        }
    )


def _axes(ax, height, width=COLUMN):
    if ax is not None:
        return ax
    style()
    return plt.subplots(figsize=(width, height))[1]


def save(figure, out_dir, name):
    """Write figure (or the figure of an Axes) as PNG (300 dpi) and PDF and return both paths.

    Same drawing, same bytes: no date, no program name. A file appears whole or not at all.
    """
    figure = figure if isinstance(figure, mpl.figure.Figure) else figure.figure
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths, silent = [], {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}
    for kind, metadata in silent.items():
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, dpi=300, metadata=metadata)
        paths.append(out_dir / f"{name}.{kind}")
        unfinished = paths[-1].with_suffix(".part")
        unfinished.write_bytes(drawn.getvalue())
        unfinished.replace(paths[-1])
    return tuple(paths)


def _colours(names):
    """{name: colour}: the baselines in greys wherever they appear, the others from the palette in order."""
    others = [name for name in names if name.split(",")[0] not in BASELINES]
    if len(others) > len(PALETTE):
        raise EcgError(f"{len(others)} curves in one figure", field="encoder", fix=f"at most {len(PALETTE)}: filter")
    return {name: BASELINES.get(name.split(",")[0]) or PALETTE[others.index(name)] for name in names}


def _models(table):
    """Name each model by its encoder, and by its mode too where an encoder comes with several; the baselines first."""
    pairs = table[["encoder", "mode"]].drop_duplicates()
    twice = pairs["encoder"].duplicated(keep=False)
    names = [f"{e}, {m}" if both else e for e, m, both in zip(pairs["encoder"], pairs["mode"], twice, strict=True)]
    keys = zip(pairs["encoder"], pairs["mode"], strict=True)
    order = sorted(zip(names, keys, strict=True), key=lambda one: (one[1][0] not in BASELINES, one[0]))
    return {name: table[(table["encoder"] == key[0]) & (table["mode"] == key[1])] for name, key in order}


def _one(table, columns):
    """Refuse a table that mixes what a figure must not mix, and an empty one."""
    if table.empty:
        raise EcgError("nothing to draw: no row is left", field=", ".join(columns))
    for name in columns:
        if table[name].nunique() > 1:
            found = sorted(map(str, table[name].unique()))
            raise EcgError(f"one figure shows one {name}, not {found}", field=name, fix=f"filter the table by {name}")


def _bars(ax, at, table, ends, colour, *, along="x", **marker):
    point, low, high = (table[name].to_numpy(float) for name in ends)
    error, values = np.stack([point - low, high - point]), {"x": point, "y": at} if along == "x" else {"x": at, "y": point}
    ax.errorbar(
        **values, **{f"{along}err": error}, color=colour, linewidth=1.0, elinewidth=1.0, capsize=0, zorder=3, **marker
    )


def prevalence(states, labels=None, *, ax=None):
    """Share of records with each label and its 95 % Wilson interval, several cohorts side by side.

    states: {cohort name: DataFrame (record, label) of label states}; only present against absent counts. A cohort that
    does not know a label shows nothing there. labels: which, by default all, the most frequent of the first cohort on
    top. The axis is stretched near zero (square root).
    """
    share = {name: ((s == 1).sum(), ((s == 1) | (s == 0)).sum()) for name, s in states.items()}
    if labels is None:
        every = list(dict.fromkeys(label for s in states.values() for label in s))
        rank = [[-(hits.get(label, 0) / max(known.get(label, 0), 1)) for hits, known in share.values()] for label in every]
        labels = [label for _, label in sorted(zip(rank, every, strict=True))]
    ax = _axes(ax, (14 + 3.4 * len(labels)) * MM)
    spread = np.linspace(-0.22, 0.22, len(states)) if len(states) > 1 else [0.0]
    top = 0.0
    for k, (name, (hits, known)) in enumerate(share.items()):
        hits, known = (series.reindex(labels).fillna(0).to_numpy(float) for series in (hits, known))
        rows = np.flatnonzero(known)
        low, high = metrics.wilson(hits[rows], known[rows])
        point, top = hits[rows] / known[rows], max(top, high.max(initial=0))
        table = {"point": 100 * point, "low": 100 * low, "high": 100 * high}
        table = {key: _Values(value) for key, value in table.items()}
        size = len(states[name])
        look = {"marker": MARKERS[k], "markersize": 2.6, "linestyle": "none", "label": f"{name} ({size:,} records)"}
        _bars(ax, rows + spread[k], table, ("point", "low", "high"), PALETTE[k], **look)
    ax.set_xscale("function", functions=(lambda v: np.sqrt(np.maximum(v, 0)), np.square))
    ticks = [t for t in (0, 1, 5, 10, 20, 40, 60, 80, 100) if t <= 115 * top]
    ax.set(xlim=(0, min(100, 108 * top)), xlabel="Prevalence (% of records, 95 % interval)", xticks=ticks)
    _label_rows(ax, labels)
    ax.legend(loc="lower right", handletextpad=0.2)
    return ax


class _Values(np.ndarray):
    pass
