"""Figures of rules and neighbours: functions that take `ax=None`, draw, and return the Axes or the Figure."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from ecglib.reporting import style
from ecglib.reporting.methods import look
from ecglib.reporting.style import INK, MM, PAGE, PALETTE, error_bars, legend_above, name_rows, new_axes

PANELS = {"sensitivity": "Sensitivity", "specificity": "Specificity"}


def rule_forest(tables: dict):
    """Sensitivity and specificity of each rule with intervals, a panel each and a row per rule. Returns the Figure.

    tables: {what the rules are judged by: `rules.scores`}, drawn side by side; a rule that none of them can judge is
    left out. Behind each name: how many records the first table has with and without the statement called by the rule.
    """
    first = next(iter(tables.values()))
    judged = [table.dropna(subset=["point"])["rule"] for table in tables.values()]
    names = [name for name in first["rule"].unique() if any((rules == name).any() for rules in judged)]
    counts = first.drop_duplicates("rule").set_index("rule")["n_positive"]
    style.use()
    size = (PAGE, (24 + 4.4 * len(names)) * MM)
    figure, axes = plt.subplots(1, len(PANELS), figsize=size, sharey=True)
    for ax, (metric, words) in zip(axes, PANELS.items(), strict=True):
        name_rows(ax, [f"{name}  ({counts[name]:,})" for name in names])
        for k, table in enumerate(tables.values()):
            rows = table[(table["metric"] == metric) & table["rule"].isin(names)].dropna(subset=["point"])
            at = np.array([names.index(name) for name in rows["rule"]]) + 0.3 * (k - (len(tables) - 1) / 2)
            face = PALETTE[k] if k == 0 else "white"
            symbol = {"marker": style.MARKERS[k], "markerfacecolor": face, "markersize": 2.8}
            error_bars(ax, at, rows["point"], rows["low"], rows["high"], PALETTE[k], **symbol)
        ax.set(xlim=(-0.02, 1.02), xlabel=f"{words} ({style.INTERVAL} over patients)")
    handles = [
        Line2D([], [], color=PALETTE[k], marker=style.MARKERS[k], linestyle="none", markersize=3.2, label=name)
        for k, name in enumerate(tables)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False)
    return figure


def recall(table, ax=None):
    """Share of ECGs with a right one among the k nearest, a line per method, and what chance gives. Returns the Axes.

    table: method, k, point, low, high, chance.
    """
    ax = new_axes(ax, 62 * MM)
    for number, (name, rows) in enumerate(table.groupby("method", sort=False)):
        colour, symbol = look(name)
        x = rows["k"] * 1.03 ** (number - table["method"].nunique() / 2)
        error_bars(
            ax,
            x,
            rows["point"],
            rows["low"],
            rows["high"],
            colour,
            along="y",
            marker=symbol,
            label=name,
            linestyle="-",
            linewidth=0.8,
        )
    chance = table.drop_duplicates("k")
    ax.plot(chance["k"], chance["chance"], color=INK, linewidth=0.8, linestyle=(0, (3, 2)), label="chance")
    ks = sorted(table["k"].unique())
    ax.set(xscale="log", ylim=(0, None), xlabel="Nearest ECGs that are looked at", ylabel=f"Recall ({style.INTERVAL})")
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.minorticks_off()
    legend_above(ax, ax.get_legend_handles_labels()[0])
    return ax


def differences(table, ax=None):
    """Paired differences in macro AUROC with intervals, a row per method, the largest on top. Returns the Axes.

    table: `tables.differences` to one reference. Filled: Holm-adjusted p below 0.05.
    """
    rows = table.sort_values("point", ascending=False, kind="stable")
    ax = new_axes(ax, (20 + 5 * len(rows)) * MM, PAGE * 0.6)
    for k, row in enumerate(rows.itertuples()):
        colour, symbol = look(row.encoder)
        face = colour if row.p_holm < 0.05 else "white"
        error_bars(ax, [k], [row.point], [row.low], [row.high], colour, marker=symbol, markerfacecolor=face)
    name_rows(ax, list(rows["encoder"]))
    ax.axvline(0, color=INK, linewidth=0.7)
    reference = style.plain(rows["reference"].iloc[0])
    ax.set_xlabel(f"Macro AUROC minus that of {reference}\n({style.INTERVAL}; filled: Holm p < 0.05)")
    return ax
