"""One style for all figures, and how they are written: the same drawing gives the same bytes."""

import io
import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from ecglib.data.files import write_atomic
from ecglib.reporting import marks

MM = 1 / 25.4
COLUMN, PAGE = 89 * MM, 183 * MM  # inches: one and two columns of a journal
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C6D31")
MARKERS = "osD^vPX*"
INTERVAL = "95 % interval"
INK, SOFT, FAINT = "#22262A", "#6B7178", "#E3E6E9"


def use():
    """Set the one style of all figures (matplotlib's rcParams), fixed salts included."""
    mpl.rc("font", family="DejaVu Sans", size=7.5)
    mpl.rc("axes", titlesize=8, labelsize=7.5, linewidth=0.6, edgecolor=INK, labelcolor=INK, axisbelow=True)
    mpl.rc("axes", prop_cycle=mpl.cycler(color=PALETTE))
    mpl.rc("axes.spines", top=False, right=False)
    for ticks in ("xtick", "ytick"):
        mpl.rc(ticks, labelsize=7, color=INK)
        mpl.rc(f"{ticks}.major", width=0.6, size=2.5)
    mpl.rc("legend", fontsize=7, frameon=False)
    mpl.rc("grid", color=FAINT, linewidth=0.6)
    mpl.rc("lines", linewidth=1.2)
    mpl.rc("figure", dpi=120)
    mpl.rc("figure.constrained_layout", use=True)
    mpl.rc("savefig", dpi=300)
    mpl.rc("pdf", fonttype=42)
    mpl.rc("svg", hashsalt="ecglib")


def save(figure, out_dir, name, caption="", dpi=300):
    """Write a figure (or the figure of an Axes) as PNG and PDF and return both paths; the report shows the caption.

    Same drawing, same bytes: no date, no program name. A file appears whole or not at all.
    """
    figure = figure if isinstance(figure, mpl.figure.Figure) else figure.figure
    out_dir, name = Path(out_dir), name.replace("/", "_")  # of a label or record: it leads nowhere else
    out_dir.mkdir(parents=True, exist_ok=True)
    paths, silent = [], {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}
    for kind, metadata in silent.items():
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, dpi=dpi, metadata=metadata)
        paths.append(out_dir / f"{name}.{kind}")
        write_atomic(paths[-1], drawn.getvalue())
    if caption:
        captions = out_dir / "captions.json"
        known = json.loads(captions.read_text("utf-8")) if captions.is_file() else {}
        text = json.dumps(known | {name: caption}, indent=1, sort_keys=True, ensure_ascii=False)
        write_atomic(captions, text + "\n")
    return tuple(paths)


def new_axes(ax, height, width=COLUMN):
    """`ax` itself, or the Axes of a new figure of that size in inches."""
    if ax is not None:
        return ax
    use()
    return plt.subplots(figsize=(width, height))[1]


def plain(text) -> str:
    """Text as matplotlib shows it: a dollar sign in the name of a record or label begins no formula."""
    return str(text).replace("$", r"\$")


def error_bars(ax, at, point, low, high, colour, *, along="x", **style):
    """Symbols at `point` with bars from low to high along one axis; `at` is the position on the other."""
    point, low, high = (np.asarray(values, float) for values in (point, low, high))
    x, y = (point, at) if along == "x" else (at, point)
    error = {f"{along}err": np.stack([point - low, high - point])}
    style = {"linestyle": "none", "markersize": 3.2, "markeredgewidth": 0.9, "elinewidth": 0.9, "zorder": 3} | style
    return ax.errorbar(x, y, **error, color=colour, **style)


def footnote(ax, names, corpus=marks.HERE):
    """The legend of the marks in `names` at the foot of the figure, once for all its axes; the figure grows by it."""
    written = ax.figure.get_supxlabel()
    text = marks.footnote([written, *names], corpus, "\n")
    if text and text != written:
        ax.figure.supxlabel(text, x=0.01, ha="left", fontsize=6.5, color=SOFT)
        _grow(ax, len(text.splitlines()) - len(written.splitlines()))


def _grow(ax, lines):
    ax.figure.set_figheight(ax.figure.get_figheight() + 3.8 * lines * MM)


def name_rows(ax, names):
    """Names down the y axis, the first on top, with a hair line each."""
    ax.set_yticks(np.arange(len(names)), [plain(name) for name in names])
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
    options = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.3, "handletextpad": 0.5}
    options |= {"title": title and plain(title), "alignment": "left"}
    options |= {"labels": [plain(handle.get_label()) for handle in handles]}
    ax.legend(handles=handles, ncols=-(-len(handles) // lines), columnspacing=1.4, handlelength=1.6, **options)
