"""One look for all figures, and how they are written: the same drawing gives the same bytes."""

import io
import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from ecglib import notes

MM = 1 / 25.4
COLUMN, PAGE = 89 * MM, 183 * MM  # inches: one and two columns of a journal
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C6D31")
MARKERS = "osD^vPX*"
INTERVAL = "95 % interval"
INK, SOFT, FAINT = "#22262A", "#6B7178", "#E3E6E9"
PALED = "#A2A8AE"  # of a model that may have seen the corpus


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


def save(figure, out_dir, name, caption="", dpi=300):
    """Write figure (or the figure of an Axes) as PNG and PDF and return both paths; the report shows the caption.

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
    if caption:
        captions = out_dir / "captions.json"
        known = json.loads(captions.read_text("utf-8")) if captions.is_file() else {}
        text = json.dumps(known | {name: caption}, indent=1, sort_keys=True, ensure_ascii=False)
        captions.write_text(text + "\n", "utf-8")
    return tuple(paths)


def new_axes(ax, height, width=COLUMN):
    """`ax` itself, or the Axes of a new figure of that size in inches."""
    if ax is not None:
        return ax
    style()
    return plt.subplots(figsize=(width, height))[1]


def error_bars(ax, at, point, low, high, colour, *, along="x", **look):
    """Marks at `point` with bars from low to high along one axis; `at` is the place on the other."""
    point, low, high = (np.asarray(values, float) for values in (point, low, high))
    x, y = (point, at) if along == "x" else (at, point)
    error = {f"{along}err": np.stack([point - low, high - point])}
    look = {"linestyle": "none", "markersize": 3.2, "markeredgewidth": 0.9, "elinewidth": 0.9, "zorder": 3} | look
    return ax.errorbar(x, y, **error, color=colour, **look)


def toned(name, colour):
    """Colours of a model's bars and of its symbol's face: pale and hollow where a mark stands behind the name."""
    return (PALED, "white") if notes.footnote(name) else (colour, colour)


def footnote(ax, names, corpus=notes.HERE):
    """The legend of the marks in `names` at the foot of the figure, once for all its axes; the figure grows by it."""
    there = ax.figure.get_supxlabel()
    text = notes.footnote([there, *names], corpus, "\n")
    if text and text != there:
        ax.figure.supxlabel(text, x=0.01, ha="left", fontsize=6.5, color=SOFT)
        _grow(ax, len(text.splitlines()) - len(there.splitlines()))


def _grow(ax, lines):
    """Make a figure higher by some lines of text."""
    ax.figure.set_figheight(ax.figure.get_figheight() + 3.8 * lines * MM)


def name_rows(ax, names):
    """Names down the y axis, the first on top, with a hair line each."""
    ax.set_yticks(np.arange(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color=FAINT, linewidth=0.4)


def legend_above(ax, handles=None, title=None):
    """Legend above the axes, where it can cover nothing, in as many columns as the names leave room for.

    The figure grows by what is more than four lines, once where several axes have such a legend.
    """
    handles = handles or ax.get_legend_handles_labels()[0]
    wide = 9 + 1.35 * max(len(handle.get_label()) for handle in handles)  # mm of a symbol and its words
    room = max(1, int(ax.get_position().width * ax.figure.get_figwidth() / MM / wide))
    lines = -(-len(handles) // room)
    if lines > 4 and ax is ax.figure.axes[0]:
        _grow(ax, lines - 4)
    look = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.3, "handletextpad": 0.5}
    look |= {"title": title, "alignment": "left"}
    ax.legend(handles=handles, ncols=-(-len(handles) // lines), columnspacing=1.4, handlelength=1.6, **look)
