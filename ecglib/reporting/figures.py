"""Figures of the study. Functions take `ax=None`, draw, and return the Axes; none shows or saves by itself.

Axes carry units and intervals are always drawn. `style` is the same for all: DejaVu Sans, the colour-blind-safe
palette of Okabe and Ito (2008), sizes for a journal column of 89 mm. Tables come from `ecglib.reporting.tables`.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from ecglib import EcgError
from ecglib.evaluation.predictions import BASELINES
from ecglib.reporting import marks, style
from ecglib.reporting.methods import drawn, kind, look, spelt_out
from ecglib.reporting.style import INK, MM, PAGE, PALETTE, SOFT, error_bars, legend_above, name_rows, new_axes

METRIC_NAMES = {name: name.upper() for name in ("auroc", "auprc", "ppv", "npv", "f1", "ece")} | {"brier": "Brier score"}
MOST_CURVES = 12  # that an eye can tell apart
CHANCE = {"color": SOFT, "linewidth": 0.7, "linestyle": (0, (3, 2)), "zorder": 1}  # a line of no difference


def comparison(table, metric="auroc", label="macro", *, order_at=0.1):
    """All methods: a row each, a panel per label fraction on one common axis, macro score with 95 % intervals.

    table: `tables.scores` of one cohort and split. Rows are ordered by the score at `order_at`, baselines at the bottom
    and as dashed lines, which the legend names; at the right what each was pretrained on. Models that may have seen the
    corpus are marked by name, hollow and grey. Returns the Figure.
    """
    rows = table[(table["metric"] == metric) & (table["label"] == label) & (table["fraction"] > 0)]
    _check_single(rows, ["cohort", "split"])
    rows = rows.assign(name=marks.marked(rows))
    rows["name"] += np.where(rows["mode"].isin(["linear", "boosting", "supervised"]), "", ", " + rows["mode"])
    at = rows[np.isclose(rows["fraction"], order_at)].set_index("name")["point"].to_dict()
    kinds = dict(zip(rows["name"], rows["encoder"].map(kind), strict=True))
    names = sorted(rows["name"].unique(), key=lambda n: (kinds[n] == "baseline", -at.get(n, -np.inf)))
    fractions, foot = sorted(rows["fraction"].unique()), marks.footnote(names)
    style.use()
    size = (PAGE, (16 + 4.4 * len(names) + 3.4 * bool(foot)) * MM)
    figure, axes = plt.subplots(1, len(fractions), figsize=size, sharey=True, sharex=True, squeeze=False)
    for ax, fraction in zip(axes[0], fractions, strict=True):
        _panel(ax, rows[np.isclose(rows["fraction"], fraction)].set_index("name"), names)
        ax.axhline(len([name for name in names if kinds[name] != "baseline"]) - 0.5, color=INK, linewidth=0.6)
        ax.set_title(f"{100 * fraction:g} % of the labels")
    for at, name in enumerate(names):
        place = {"xycoords": ("axes fraction", "data"), "xytext": (4, 0), "textcoords": "offset points"}
        ax.annotate(kinds[name], (1, at), va="center", fontsize=6.5, color=SOFT, annotation_clip=False, **place)
    words = f"{style.plain(label.capitalize())} {METRIC_NAMES.get(metric, metric)} ({style.INTERVAL} over patients)"
    words += "; right: what it was pretrained on"
    figure.supxlabel(f"{words}\n{foot}".strip(), fontsize="medium")
    _baselines_legend(figure, [name for name in BASELINES if name in names])
    return figure


DASHES = {"random": (1, 2), "features": (4, 1.5), "scratch": (6, 1.5, 1, 1.5)}


def _baseline_line(name):
    return {"color": look(name)[0], "linewidth": 0.8, "linestyle": (0, DASHES.get(name, (2, 2)))}


def _panel(ax, rows, names):
    name_rows(ax, names)
    for name in BASELINES:
        if name in rows.index:
            ax.axvline(rows.loc[name, "point"], zorder=1, **_baseline_line(name))
    for k, name in enumerate(names):
        if name in rows.index:
            row = rows.loc[name]
            error_bars(ax, [k], [row["point"]], [row["low"]], [row["high"]], **_symbol(name))


def _symbol(name):
    """How a method is drawn where nothing joins its symbols."""
    return {key: value for key, value in drawn(name).items() if key != "linestyle"}


def _baselines_legend(figure, names):
    handles = [Line2D([], [], label=name, **_baseline_line(name)) for name in names]
    if handles:
        title = {"title": "Baselines", "alignment": "left"}
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), handlelength=3, **title)


def _grid(number, columns, height, more=0):
    """A page with `number` axes in `columns`, lines of `height` mm: (figure, axes)."""
    style.use()
    lines = -(-number // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(PAGE, (more + height * lines) * MM), squeeze=False)
    for ax in axes.flat[number:]:
        ax.set_visible(False)
    return figure, axes.flat[:number]


def training_panels(histories, columns=4):
    """Training curves, a small axes per run: the mean over batches with its 10 to 90 % band, and the validation loss.

    histories: {task-method: DataFrame with step, loss and, where validated, val_loss}; losses have no common scale.
    Returns the Figure.
    """
    figure, axes = _grid(len(histories), columns, 32)
    for ax, (name, history) in zip(axes, histories.items(), strict=True):
        window = history["loss"].rolling(max(len(history) // 20, 1), center=True, min_periods=1)
        low, high = window.quantile(0.1), window.quantile(0.9)
        colour = look(name.rpartition("-")[2])[0]
        ax.fill_between(history["step"], low, high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(history["step"], window.mean(), color=colour, linewidth=1)
        if "val_loss" in history:
            losses = history.set_index("step")["val_loss"].dropna()
            ax.plot(losses.index, losses, color=INK, marker="o", markersize=2.5, linewidth=0.8)
        ax.set_title(style.plain(name))
        ax.grid(axis="y", color=style.FAINT, linewidth=0.4)
    figure.supxlabel("Optimiser step (colour: pretraining patients, black: validation patients)", fontsize="medium")
    figure.supylabel("Loss, each method on its own scale", fontsize="medium")
    return figure


def _colours(names):
    """{label: colour} from the palette, in order."""
    if len(names) > len(PALETTE):
        raise EcgError(f"{len(names)} labels in one figure", field="label", fix=f"at most {len(PALETTE)}: filter")
    return dict(zip(names, PALETTE, strict=False))


def _models(table):
    """{name: rows}, the baselines first; the mode is named where an encoder has several or is its own head."""
    pairs = table[["encoder", "mode"]].assign(name=marks.marked(table)).drop_duplicates()
    moded = pairs["encoder"].duplicated(keep=False) | (pairs["mode"] == "head")
    names = [f"{e}, {m}" if both else e for e, m, both in zip(pairs["name"], pairs["mode"], moded, strict=True)]
    order = zip(names, pairs["encoder"], pairs["mode"], strict=True)
    order = sorted(order, key=lambda model: ((*BASELINES, model[1]).index(model[1]), model[0]))
    if len(order) > MOST_CURVES:
        raise EcgError(f"{len(order)} curves in one figure", field="encoder", fix=f"at most {MOST_CURVES}: filter")
    return {name: table[(table["encoder"] == encoder) & (table["mode"] == mode)] for name, encoder, mode in order}


def _named(table, encoder, mode, note):
    several, names = table.groupby(encoder)[mode].transform("nunique") > 1, marks.marked(table, encoder, note)
    return [f"{e} ({m})" if both else e for e, m, both in zip(names, table[mode], several, strict=True)]


def _check_single(table, columns):
    if table.empty:
        raise EcgError("nothing to draw: no row is left", field=", ".join(columns))
    for name in columns:
        if table[name].nunique() > 1:
            values = sorted(map(str, table[name].unique()))
            raise EcgError(f"one figure shows one {name}, not {values}", field=name, fix=f"filter the table by {name}")


def label_efficiency(table, metric="auroc", label="macro", *, ax=None):
    """Score against the share of training labels, a line per model with 95 % intervals over patients.

    table: `tables.scores` of one cohort and split; models are set slightly apart so that intervals do not hide.
    """
    table = table[(table["metric"] == metric) & (table["label"] == label) & (table["fraction"] > 0)]
    _check_single(table, ["cohort", "split"])
    ax = new_axes(ax, 72 * MM)
    models = _models(table)
    shifts = 1.05 ** (np.arange(len(models)) - (len(models) - 1) / 2)
    for (name, rows), shift in zip(models.items(), shifts, strict=True):
        rows = rows.sort_values("fraction")
        at, curve = 100 * rows["fraction"].to_numpy() * shift, drawn(name, rows["mode"].iloc[0])
        error_bars(ax, at, rows["point"], rows["low"], rows["high"], along="y", label=name, linewidth=1.1, **curve)
    ticks = np.array(sorted(100 * table["fraction"].unique()))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([f"{tick:g} %" for tick in ticks])
    title = METRIC_NAMES.get(metric, metric.capitalize())
    ax.set(xlabel="Share of the training labels", ylabel=f"{title}, {style.plain(label)} ({style.INTERVAL})")
    ax.grid(axis="y")
    legend_above(ax)
    style.footnote(ax, models)
    return ax


def forest(table, metric="auroc", *, shown=None, ax=None):
    """Internal against external per label, with intervals, the macro average below a rule.

    table: `tables.external` of one model, fraction and external cohort; shown: the labels that are drawn, None draws
    all; the average is over all in any case. Beside each label: positives inside, outside.
    A model that may have seen the corpus at home has its mark above, and that side is pale.
    """
    table = table[table["metric"] == metric].dropna(subset=["internal", "external"], how="all")
    _check_single(table, ["cohort", "encoder", "mode", "fraction"])
    macro = table["label"] == "macro"
    table = pd.concat([table[~macro].sort_values("internal", ascending=False, kind="stable"), table[macro]])
    names, drawn_rows = np.array(_forest_names(table)), table["label"].isin(["macro", *(shown or table["label"])])
    table, names = table[drawn_rows], names[drawn_rows]
    macro = table["label"] == "macro"
    at, name, model = np.arange(len(table)), table["cohort"].iloc[0], marks.marked(table)[0]
    ax = new_axes(ax, (24 + 4.6 * len(table)) * MM, _wide(names))
    inside = _symbol(model) | {"marker": "o", "label": "at home, test patients"}
    outside = {"colour": INK, "marker": "D", "markerfacecolor": "white", "label": f"in {name}"}
    for side, offset, look_of in (("internal", -0.17, inside), ("external", 0.17, outside)):
        error_bars(ax, at + offset, *(table[side + end] for end in ("", "_low", "_high")), **look_of)
    name_rows(ax, names)
    if macro.any():
        ax.axhline(len(table) - 1.5, color=INK, linewidth=0.6)
        ax.get_yticklabels()[-1].set_fontweight("bold")
    if metric == "auroc":
        lowest = min(table["internal_low"].min(), table["external_low"].min())
        ax.set_xlim(max(0, min(0.5, lowest) - 0.01), 1.015)
        ax.axvline(0.5, **CHANCE)
    name = METRIC_NAMES.get(metric, metric.capitalize())
    ax.set_xlabel(f"{name} ({style.INTERVAL})\n(positives at home | there)")
    legend_above(ax, title=model)
    style.footnote(ax, [model], marks.HOME)
    return ax


def _forest_names(table):
    counts = zip(table["label"], table["n_positives_internal"], table["n_positives_external"], strict=True)
    labels = (table["label"] != "macro").sum()
    return [
        f"mean of {labels}" if label == "macro" else f"{spelt_out(label)}  ({inside:,} | {outside:,})"
        for label, inside, outside in counts
    ]


def _wide(names, room=30):
    """Width in inches of a figure whose rows have these names: long ones leave no room for the symbols."""
    return style.COLUMN + 1.25 * max(0, max(map(len, names), default=0) - room) * MM


def paired_differences(table, *, ax=None):
    """Differences to the reference encoders with intervals, from `tables.differences` of one cohort, split, metric.

    A block for each reference, the largest difference first. An encoder with several modes is named with its mode; one
    that may have seen the corpus is pale. Filled: Holm-adjusted p below 0.05.
    """
    table = table.dropna(subset=["point"])
    _check_single(table, ["cohort", "split", "metric"])
    references = {name: k for k, name in enumerate(table["reference"].unique())}
    table = table.assign(block=table["reference"].map(references))
    table = table.sort_values(["block", "fraction", "point"], ascending=[True, True, False], kind="stable")
    ours = _named(table, "encoder", "mode", "note")
    theirs, shares = _named(table, "reference", "reference_mode", "reference_note"), table["fraction"]
    names = [f"{a} \N{MINUS SIGN} {b}, {100 * f:g} %" for a, b, f in zip(ours, theirs, shares, strict=True)]
    ax = new_axes(ax, (16 + 4.6 * len(table)) * MM, _wide(names))
    for k, row in enumerate(table.itertuples()):
        symbol = _symbol(marks.mark(row.encoder, getattr(row, "note", "")))
        symbol["markerfacecolor"] = symbol["colour"] if row.p_holm < 0.05 else "white"
        error_bars(ax, [k], [row.point], [row.low], [row.high], **symbol)
    for start in np.flatnonzero(np.diff(table["block"])):
        ax.axhline(start + 0.5, color=INK, linewidth=0.6)
    ax.axvline(0, **CHANCE)
    metric = METRIC_NAMES.get(table["metric"].iloc[0], table["metric"].iloc[0])
    ax.set_xlabel(f"Difference in macro {metric}\n({style.INTERVAL};\nfilled: Holm p < 0.05)")
    name_rows(ax, names)
    style.footnote(ax, names)
    return ax


def calibration(table, columns=3):
    """`tables.calibration` of one label and fraction: a small axes per model, a line with Wilson intervals per cohort.

    All axes reach from 0 to 1; the first cohort is drawn full in the method's colour, others hollow and black. Returns
    the Figure.
    """
    _check_single(table, ["label", "fraction"])
    models, cohorts = _models(table), list(dict.fromkeys(table["cohort"]))
    figure, axes = _grid(len(models), columns, 56, 10)
    for ax, (name, rows) in zip(axes, models.items(), strict=True):
        ax.plot([0, 1], [0, 1], **CHANCE)
        for k, cohort in enumerate(cohorts):
            side = rows[rows["cohort"] == cohort].sort_values("bin")
            ends = [side[end] for end in ("probability", "frequency", "low", "high")]
            error_bars(ax, *ends, along="y", linewidth=0.9, label=cohort, **_calibration_look(name, k))
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        ax.set_title(style.plain(name))
        ax.set_aspect("equal")
        ax.grid()
    which = "all labels" if table["label"].iloc[0] == "all" else table["label"].iloc[0]
    foot = marks.footnote(models)
    figure.supxlabel(f"Predicted probability\n{foot}".strip(), fontsize="medium")
    figure.supylabel(f"Observed share of positives\n{style.plain(which)} ({style.INTERVAL})", fontsize="medium")
    _cohorts_legend(figure, cohorts)
    return figure


def _calibration_look(name, number):
    look_of = drawn(name)
    if number == 0:
        return look_of | {"linestyle": "-"}
    return {"colour": INK, "marker": "Ds^v"[(number - 1) % 4], "markerfacecolor": "white", "linestyle": (0, (3, 1.5))}


def _cohorts_legend(figure, cohorts):
    handles = [Line2D([], [], color=SOFT, marker="o", markersize=3.2, label=f"{cohorts[0]}, in the method's colour")]
    for k, cohort in enumerate(cohorts[1:], 1):
        look_of = _calibration_look("", k)
        look_of["color"] = look_of.pop("colour")
        handles.append(Line2D([], [], markersize=3.2, label=cohort, **look_of))
    handles.append(Line2D([], [], label="as often as it says", **{k: v for k, v in CHANCE.items() if k != "zorder"}))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), handlelength=2.6)


def embedding_map(z, labels, *, ax=None):
    """Records on the first two principal components of z (record, dim), coloured by label, the most frequent first.

    labels: (record,) of names, "" is grey and behind. Components are signed so that the largest loading is positive.
    """
    z, labels = np.asarray(z, dtype=np.float64), np.asarray(labels, dtype=object)
    if z.ndim != 2 or len(z) != len(labels) or not np.isfinite(z).all():
        raise EcgError(f"embeddings {z.shape} must be finite and fit {len(labels)} labels", field="z")
    ax = new_axes(ax, 84 * MM)
    names, counts = np.unique(labels[labels != ""].astype(str), return_counts=True)
    names = list(names[np.argsort(-counts, kind="stable")])
    legend_above(ax, _scatter(ax, z, labels, _colours(names)))
    return ax


def embedding_maps(embeddings, labels, columns=2):
    """`embedding_map` of several models {name: (record, dim)} side by side, with one legend; returns the Figure."""
    labels = np.asarray(labels, dtype=object)
    figure, axes = _grid(len(embeddings), columns, 62, 12)
    colours = _colours(sorted(set(labels) - {""}))
    for ax, (title, z) in zip(axes, embeddings.items(), strict=True):
        dots = _scatter(ax, np.asarray(z, dtype=np.float64), labels, colours)
        ax.set_title(style.plain(title))
    labels = [style.plain(dot.get_label()) for dot in dots]
    figure.legend(handles=dots, labels=labels, loc="outside lower center", ncols=max(1, len(dots)), frameon=False)
    return figure


CENTRAL = (0.5, 99.5)  # percentiles of each component that a map shows


def _scatter(ax, z, labels, colours):
    """Draw the components, "" first and grey; returns the handles of a legend.

    The axes end at CENTRAL, so that a few far records do not squeeze all others; how many lie outside is written.
    """
    components, shares = _components(z)
    low, high = np.percentile(components, CENTRAL, axis=0)
    margin = 0.05 * np.maximum(high - low, 1e-12)
    low, high = low - margin, high + margin
    outside = int(((components < low) | (components > high)).any(axis=1).sum())
    handles = []
    for name, colour in [("", "#D4D7DB"), *colours.items()]:
        rows = np.flatnonzero(labels == name)
        if rows.size:
            ax.scatter(*components[rows].T, s=5, color=colour, alpha=0.75, linewidths=0, rasterized=True)
            dot = {"marker": "o", "linestyle": "none", "markersize": 4, "color": to_rgb(colour)}
            handles.append(Line2D([], [], label=f"{name or 'other'} ({rows.size:,})", **dot))
    titles = [f"Principal component {k + 1} ({100 * share:.0f} % of variance)" for k, share in enumerate(shares)]
    titles[0] += f"\n{outside:,} of {len(components):,} records lie outside" if outside else ""
    ax.set(xlabel=titles[0], ylabel=titles[1], xticks=[], yticks=[], xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return handles


def _components(z):
    """Scores on the first two principal components (record, 2) and their shares of the variance."""
    z = z - z.mean(axis=0)
    left, scale, loadings = np.linalg.svd(z, full_matrices=False)
    signs = np.sign(loadings[np.arange(2), np.abs(loadings[:2]).argmax(axis=1)])
    return left[:, :2] * scale[:2] * signs, scale[:2] ** 2 / max((scale**2).sum(), 1e-30)
