"""Figures of what breaks a model: corruptions, sets and refusals, shifts of population, cues, rare statements.

Functions draw tables of `evaluation`, one method in one colour and symbol as everywhere; they return Axes or Figure.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ecglib.reporting import style
from ecglib.reporting.ecg_paper import COARSE, FINE
from ecglib.reporting.methods import drawn, look
from ecglib.reporting.style import FAINT, INK, MM, PAGE, PALETTE, SOFT, error_bars, name_rows, new_axes

AXES = {"noise": "Signal to noise ratio (dB)", "leads": "Leads that are left"}
METRICS = {"auroc": "AUROC", "log_loss": "Log-loss", "ece": "Expected calibration error"}
SHIFTS = {
    "P(Y|Z)": "Odds ratio of disease and covariate\nin the test population",
    "P(Z)": "Share with the covariate\nin the test population",
}


def examples(signals: dict, fs: float, lead: str = "II"):
    """One lead of one record under several corruptions, {name: samples (time,)} in the units of the encoders, a panel
    each. fs: Hz. Returns the Figure."""
    style.use()
    figure, axes = plt.subplots(len(signals), 1, figsize=(PAGE, (8 + 14 * len(signals)) * MM), sharex=True, sharey=True)
    for ax, (name, x) in zip(axes, signals.items(), strict=True):
        ax.plot(np.arange(len(x)) / fs, x, color=INK, linewidth=0.6)
        ax.set_title(style.plain(f"{name}, lead {lead}"), loc="left", pad=2)
        ax.margins(x=0)
    axes[-1].set_xlabel("Time (s)")
    figure.supylabel("Input of the networks (1 = 0.2 mV)", fontsize="medium")
    return figure


def heat_map(table, methods=()):
    """Macro AUROC of every method (columns) under every corruption (rows), with its interval in each cell, times 100.

    table: `corruptions.table`; methods: columns in order, none: by the mean over all corruptions. Returns the Figure.
    """
    wide = table.pivot(index="corruption", columns="method", values=["auroc", "low", "high"])
    rows = list(dict.fromkeys(table["corruption"]))
    order = list(methods) or list(wide["auroc"].mean().sort_values(ascending=False).index)
    point, low, high = (wide[name].loc[rows, order].to_numpy() for name in ("auroc", "low", "high"))
    style.use()
    figure, ax = plt.subplots(figsize=(PAGE, (26 + 4.4 * len(rows)) * MM))
    shown = ax.imshow(point, cmap="viridis", vmin=0.5, vmax=max(0.9, float(np.nanmax(point))), aspect="auto")
    for i, k in np.ndindex(point.shape):
        if not np.isnan(point[i, k]):
            text = f"{100 * point[i, k]:.0f}  {100 * low[i, k]:.0f}–{100 * high[i, k]:.0f}"
            colour = "white" if shown.norm(point[i, k]) < 0.6 else INK
            ax.text(k, i, text, ha="center", va="center", fontsize=4.6 if len(order) > 9 else 6, color=colour)
    families = table.drop_duplicates("corruption").set_index("corruption")["family"].loc[rows].to_numpy()
    for edge in np.flatnonzero(families[1:] != families[:-1]):
        ax.axhline(edge + 0.5, color="white", linewidth=1.6)
    ax.set_yticks(range(len(rows)), [style.plain(name) for name in rows], fontsize=6)
    ax.set_xticks(range(len(order)), [style.plain(name) for name in order], rotation=40, ha="left", fontsize=6.5)
    ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=ax, shrink=0.3, pad=0.01)
    bar.set_label("Macro AUROC")
    return figure


def curves(table, n_leads: int):
    """Macro AUROC over the SNR of all noise together, and over the number of leads, a line per method. The Figure.

    table: `corruptions.table`; the clean recording stands at the end of both axes.
    """
    style.use()
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 78 * MM), sharey=True)
    names = list(table.groupby("method")["auroc"].mean().sort_values(ascending=False).index)
    for ax, (family, words) in zip(axes, AXES.items(), strict=True):
        rows = table[(table["family"] == family) & (table["corruption"].str.startswith("all ") | (family == "leads"))]
        levels = sorted(rows["level"].unique())
        end = n_leads if family == "leads" else (levels[-1] + 6 if levels else 0)
        for k, name in enumerate(names):
            mine = table[table["method"] == name]
            some = rows[rows["method"] == name].sort_values("level")
            clean = mine[mine["family"] == "clean"]
            at = np.append(some["level"], end) + 0.06 * (k / len(names) - 0.5) * (end - levels[0] if levels else 1)
            points = [np.append(some[c], clean[c]) for c in ("auroc", "low", "high")]
            how = drawn(name)
            line, colour = how.pop("linestyle"), how.pop("colour")
            ax.plot(at, points[0], color=colour, linewidth=0.8, linestyle=line)
            error_bars(ax, at, *points, colour, along="y", elinewidth=0.5, **how)
        ticks = [*levels, end]
        ax.set_xticks(ticks, [f"{t:g}" for t in levels] + (["clean"] if family == "noise" else [f"{n_leads}"]))
        ax.set_xlabel(words)
        ax.grid(axis="y", color=FAINT)
    axes[0].set_ylabel(f"Macro AUROC ({style.INTERVAL} over patients)")
    _legend(figure, names)
    return figure


def _legend(figure, names):
    handles = []
    for name in names:
        how = drawn(name)
        colour, line = how.pop("colour"), how.pop("linestyle")
        handles.append(Line2D([], [], color=colour, linestyle=line, markersize=3.2, label=style.plain(name), **how))
    figure.legend(handles=handles, loc="outside upper left", ncols=min(8, len(handles)), frameon=False)


def areas(table):
    """Area under the AUROC over noise and leads, a row per method, best on top: `corruptions.areas`. The Figure."""
    style.use()
    kinds = list(dict.fromkeys(table["axis"]))
    order = list(table.groupby("method")["area"].mean().sort_values(ascending=False).index)
    figure, axes = plt.subplots(1, len(kinds), figsize=(PAGE, (20 + 4.5 * len(order)) * MM), squeeze=False, sharey=True)
    for ax, kind in zip(axes[0], kinds, strict=True):
        mine = table[table["axis"] == kind].set_index("method").loc[order]
        for k, (name, row) in enumerate(mine.iterrows()):
            colour, marker = look(name)
            error_bars(ax, [k], [row["area"]], [row["low"]], [row["high"]], colour, marker=marker)
        name_rows(ax, order)
        ax.set_xlabel(
            f"Area under the AUROC over\n{'SNR' if kind == 'noise' else 'number of leads'} ({style.INTERVAL})"
        )
    return figure


def coverage(table, alpha: float):
    """How often conformal sets hold the truth, at home and outside, by kind of set. Returns the Figure.

    table: rows of `uncertainty.conformal_table` with the columns kind and cohort; alpha: the share of errors allowed.
    """
    style.use()
    kinds, cohorts = (list(dict.fromkeys(table[name])) for name in ("kind", "cohort"))
    rows = list(dict.fromkeys(table["what"]))
    figure, axes = plt.subplots(1, len(kinds), figsize=(PAGE, 62 * MM), squeeze=False, sharey=True)
    for ax, kind in zip(axes[0], kinds, strict=True):
        ax.axvline(1 - alpha, color=INK, linewidth=0.7, linestyle=(0, (3, 2)))
        for k, cohort in enumerate(cohorts):
            mine = table[(table["kind"] == kind) & (table["cohort"] == cohort)].set_index("what").loc[rows]
            at = np.arange(len(rows)) + 0.24 * (k - (len(cohorts) - 1) / 2)
            error_bars(
                ax, at, mine["share"], mine["low"], mine["high"], PALETTE[k], marker=style.MARKERS[k], label=cohort
            )
        name_rows(ax, rows)
        ax.set(xlim=(-0.02, 1.02), title=f"Sets: {kind}", xlabel=f"Share, mean over statements ({style.INTERVAL})")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(cohorts), frameon=False)
    return figure


def refusals(table):
    """Loss of the records that are answered when the least sure are refused: `uncertainty.risk_coverage`, with columns
    cohort and uncertainty. A panel per cohort, a line per uncertainty; grey: at random, and at best. The Figure."""
    style.use()
    cohorts, kinds = (list(dict.fromkeys(table[name])) for name in ("cohort", "uncertainty"))
    figure, axes = plt.subplots(1, len(cohorts), figsize=(PAGE, 66 * MM), squeeze=False)
    for ax, cohort in zip(axes[0], cohorts, strict=True):
        for k, kind in enumerate(kinds):
            mine = table[(table["cohort"] == cohort) & (table["uncertainty"] == kind)].sort_values("share")
            ax.plot(mine["share"], mine["risk"], color=PALETTE[k], marker=style.MARKERS[k], markersize=3, label=kind)
            ax.fill_between(mine["share"], mine["low"], mine["high"], color=PALETTE[k], alpha=0.15, linewidth=0)
        ax.axhline(float(mine["risk"].iloc[-1]), color=SOFT, linewidth=0.8, linestyle=(0, (3, 2)), label="at random")
        ax.plot(mine["share"], mine["best"], color=SOFT, linewidth=0.8, linestyle=(0, (1, 1)), label="best possible")
        ax.set(title=style.plain(cohort), xlabel="Share of the records that is answered", ylim=(0, None))
    axes[0, 0].set_ylabel(f"Mean Brier score\n({style.INTERVAL} over patients)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), frameon=False)
    return figure


def thirds(table):
    """Macro AUROC among the surest records to the least sure: `uncertainty.auroc_by_third` with columns cohort and
    uncertainty. Filled: over the statements that count in all three; hollow: in this third. Returns the Figure."""
    style.use()
    cohorts, kinds = (list(dict.fromkeys(table[name])) for name in ("cohort", "uncertainty"))
    rows = list(dict.fromkeys(table["third"]))
    figure, axes = plt.subplots(1, len(cohorts), figsize=(PAGE, 48 * MM), squeeze=False, sharey=True)
    for ax, cohort in zip(axes[0], cohorts, strict=True):
        for k, kind in enumerate(kinds):
            mine = table[(table["cohort"] == cohort) & (table["uncertainty"] == kind)].set_index("third").loc[rows]
            at, mark = np.arange(len(rows)) + 0.3 * (k - (len(kinds) - 1) / 2), style.MARKERS[k]
            error_bars(ax, at, mine["same"], mine["same_low"], mine["same_high"], PALETTE[k], marker=mark, label=kind)
            hollow = dict(marker=mark, markerfacecolor="white", elinewidth=0.5)
            error_bars(ax, at + 0.12, mine["auroc"], mine["low"], mine["high"], PALETTE[k], **hollow)
        name_rows(ax, rows)
        ax.set(title=style.plain(cohort), xlabel=f"Macro AUROC ({style.INTERVAL})")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), frameon=False)
    return figure


def shifts(table, home: float):
    """Scores of each predictor in populations unlike the one it learned from: `shift_study.run`. Returns the Figure.

    home: the odds ratio of the training populations together; a row of panels per metric, a column per shift.
    """
    style.use()
    metrics = [name for name in ("auroc", "log_loss") if name in set(table["metric"])]
    names, size = list(dict.fromkeys(table["method"])), (PAGE, 62 * len(metrics) * MM)
    figure, axes = plt.subplots(len(metrics), 2, figsize=size, squeeze=False, sharey="row", width_ratios=[3, 2])
    for (i, metric), (k, kind) in ((a, b) for a in enumerate(metrics) for b in enumerate(SHIFTS)):
        ax, rows = axes[i, k], table[(table["metric"] == metric) & (table["shift"] == kind)]
        levels = sorted(rows["level"].unique(), reverse=kind == "P(Y|Z)")
        for number, name in enumerate(names):
            mine = rows[rows["method"] == name].set_index("level").loc[levels]
            at = np.arange(len(levels)) + 0.07 * (number - (len(names) - 1) / 2)
            colour = (*PALETTE, SOFT, INK)[number % 10]
            mark = {"marker": style.MARKERS[number % len(style.MARKERS)], "elinewidth": 0.6, "label": name}
            error_bars(ax, at, mine["point"], mine["low"], mine["high"], colour, along="y", **mark)
            ax.plot(at, mine["point"], color=colour, linewidth=0.7)
        odds = [f"{v:g}:1" if v >= 1 else f"1:{1 / v:g}" for v in levels]
        ax.set_xticks(range(len(levels)), odds if kind == "P(Y|Z)" else [f"{100 * v:g} %" for v in levels])
        ax.set_xlabel(SHIFTS[kind])
    for row, metric in zip(axes, metrics, strict=True):
        row[0].set_ylabel(f"{METRICS[metric]} ({style.INTERVAL})")
    axes[0, 0].set_title(f"Shift of P(Y|Z), learned near {home:.2g}:1", loc="left")
    axes[0, 1].set_title("Shift of P(Z) alone", loc="left")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)
    return figure


def cues(table):
    """AUROC for a cue that the heart rate contradicts, over its size: `simplicity_bias.curve` with a column method.

    One half: chance. Below it: the encoder says what the rate suggests. Returns the Figure.
    """
    style.use()
    names, kinds = list(dict.fromkeys(table["method"])), list(dict.fromkeys(table["cue"]))
    figure, axes = plt.subplots(1, len(kinds), figsize=(PAGE, 70 * MM), squeeze=False, sharey=True)
    for ax, cue in zip(axes[0], kinds, strict=True):
        rows = table[(table["cue"] == cue) & (table["removed"] == "") & (table["test"] == "conflict")]
        levels = sorted(rows["amplitude"].unique())
        ax.axhline(0.5, color=SOFT, linewidth=0.7, linestyle=(0, (3, 2)))
        for k, name in enumerate(names):
            mine, (colour, marker) = rows[rows["method"] == name].set_index("amplitude").loc[levels], look(name)
            at = np.arange(len(levels)) + 0.7 * (k / max(1, len(names) - 1) - 0.5)
            error_bars(ax, at, mine["auroc"], mine["low"], mine["high"], colour, along="y", marker=marker)
        ax.set_xticks(range(len(levels)), [f"{1000 * v:g}" for v in levels])
        ax.set(xlabel="Height of the cue (µV)", title={"p": "Cue: a P wave", "notch": "Cue: a notch behind R"}[cue])
    axes[0, 0].set_ylabel(f"AUROC where rate and cue disagree\n({style.INTERVAL})")
    _legend(figure, names)
    return figure


def rare(table, ax=None):
    """Macro AUROC over statements by their number of training records: `support.by_support`. Returns the Axes."""
    classes = list(dict.fromkeys(table["positives"]))
    best = table[table["positives"] == classes[0]].sort_values("auroc", ascending=False)
    names = [(row.encoder, row.mode) for row in best.itertuples()]
    ax = new_axes(ax, (20 + 5.2 * len(names)) * MM, PAGE * 0.75)
    for k, name in enumerate(classes):
        mine = table[table["positives"] == name].set_index(["encoder", "mode"]).loc[names]
        at = np.arange(len(names)) + 0.24 * (k - (len(classes) - 1) / 2)
        label = f"{name} training records ({mine['n_labels'].iloc[0]} statements)"
        error_bars(ax, at, mine["auroc"], mine["low"], mine["high"], PALETTE[k], marker=style.MARKERS[k], label=label)
    name_rows(ax, [encoder if mode == "linear" else f"{encoder}, {mode}" for encoder, mode in names])
    ax.set_xlabel(f"Macro AUROC ({style.INTERVAL} over patients)")
    style.legend_above(ax)
    return ax


def anomalies(strips, fs: float, limit: float, names: dict):
    """Where a record is abnormal, and what a network says: of each record an ECG on millimetre paper, its score below.

    strips: of (title, lead, x (time,) mV, truth bool (time,), score (time,)), of the same samples at fs Hz; limit: from
    which on a sample is marked; names: of the colours, truth and marked. Returns the Figure.
    """
    style.use()
    figure, axes = plt.subplots(
        2 * len(strips), 1, figsize=(PAGE, (12 + 44 * len(strips)) * MM), height_ratios=[2, 1] * len(strips)
    )
    for (title, lead, x, truth, score), paper, below in zip(strips, axes[::2], axes[1::2], strict=True):
        seconds = np.arange(len(x)) / fs
        _paper(paper, seconds, x, f"{title}, lead {lead}")
        below.plot(seconds, score, color=PALETTE[0], linewidth=0.8)
        below.axhline(limit, color=INK, linewidth=0.7, linestyle=(0, (3, 2)))
        for ax in (paper, below):
            _spans(ax, seconds, truth, color=PALETTE[4], alpha=0.35, linewidth=0, ymin=0, ymax=1)
        _spans(below, seconds, score >= limit, color=PALETTE[0], linewidth=0, ymin=0, ymax=0.07)
        below.set(xlim=paper.get_xlim(), ylabel="Score", ylim=(0, None))
    axes[-1].set_xlabel("Time (s); paper: 0.04 s and 0.1 mV a small square")
    handles = [
        Patch(color=PALETTE[4], alpha=0.35, label=names["truth"]),
        Patch(color=PALETTE[0], label=names["marked"]),
    ]
    handles.append(Line2D([], [], color=INK, linewidth=0.7, linestyle=(0, (3, 2)), label="threshold"))
    _top_legend(figure, handles)
    return figure


def _paper(ax, seconds, x, title: str):
    """A strip on the squares of ECG paper, of 0.04 s and 0.1 mV."""
    low, high = np.floor(2 * x.min() - 0.2) / 2, np.ceil(2 * x.max() + 0.2) / 2
    for which, step, colour in (("minor", 1, FINE), ("major", 5, COARSE)):
        ax.set_xticks(np.arange(0, seconds[-1] + 0.01, 0.04 * step), [], minor=which == "minor")
        ax.set_yticks(np.arange(low, high + 0.01, 0.1 * step), [], minor=which == "minor")
        ax.grid(which=which, color=colour, linewidth=0.3 if which == "minor" else 0.5)
    ax.tick_params(which="both", length=0)
    ax.plot(seconds, x, color=INK, linewidth=0.8)
    ax.set(xlim=(0, seconds[-1]), ylim=(low, high), ylabel="ECG")
    ax.set_title(style.plain(title), loc="left", pad=2)


def _spans(ax, seconds, marked, **look_of):
    """A band over every run of marked samples."""
    step = seconds[1] - seconds[0]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(marked, int), [0]])))
    for first, last in edges.reshape(-1, 2):
        ax.axvspan(seconds[first] - step / 2, seconds[last - 1] + step / 2, **look_of)


def _top_legend(figure, handles):
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False)
