"""One look for all figures, and how they are written: the same drawing gives the same bytes."""

import io
from pathlib import Path

import matplotlib as mpl

MM = 1 / 25.4
COLUMN, PAGE = 89 * MM, 183 * MM  # inches: one and two columns of a journal
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C6D31")
MARKERS = "osD^vPX*"
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


def save(figure, out_dir, name, dpi=300):
    """Write figure (or the figure of an Axes) as PNG and PDF and return both paths.

    Same drawing, same bytes: no date, no program name. A file appears whole or not at all.
    """
    figure = figure if isinstance(figure, mpl.figure.Figure) else figure.figure
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths, silent = [], {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}
    for kind, metadata in silent.items():
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, dpi=dpi, metadata=metadata)
        paths.append(out_dir / f"{name}.{kind}")
        unfinished = paths[-1].with_suffix(".part")
        unfinished.write_bytes(drawn.getvalue())
        unfinished.replace(paths[-1])
    return tuple(paths)
