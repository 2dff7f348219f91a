"""Figures of waves and leads: marks on clinical paper, errors of boundaries, what some leads say of the others; ECGs
that a network drew, and their scores."""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from ecglib.reporting import ecg_paper, style
from ecglib.reporting.style import INK, MM, PAGE, PALETTE, SOFT, error_bars, name_rows

COLOURS = {"P": PALETTE[2], "QRS": PALETTE[0], "T": PALETTE[1]}
FEWEST = 20  # errors of a boundary that are drawn
BAR_MM = 1.7  # mm from one bar to the next, and from the lowest point of the trace to the first
TITLE_MM = 16  # above and below a sheet
LABEL_CHARACTERS = 18  # of a line below a narrow panel


def marked_paper(x, fs, leads, marks, title="", seconds=8.0):
    """An ECG on clinical paper with bars below each lead that show where waves were said to be. Returns the Axes.

    x: (lead, time) mV; fs: Hz; leads: names, fewer than twelve: one row each; marks: {who: waves of each lead, or a
    single one for all leads}, waves as {wave: (wave, 3) onset, peak, offset in samples}; a wave whose onset or offset
    nobody says is drawn from its peak.
    """
    ax = ecg_paper.ecg_paper(x, fs, leads, title=title, seconds=seconds)
    n_times = round(seconds * fs)
    baselines = ecg_paper.zero_lines(x, fs, leads, seconds=seconds)
    lowest = np.nanmin(x[:, :n_times], axis=1)
    for lead, base in zip(range(len(leads)), baselines, strict=True):
        for k, (who, waves) in enumerate(marks.items()):
            height = base + ecg_paper.GAIN * min(0.0, lowest[lead]) - BAR_MM * (k + 1)
            ax.text(ecg_paper.PULSE - 0.6, height, style.plain(who), fontsize=5, color=INK, ha="right", va="center")
            for wave, found in (waves[lead] if len(waves) > 1 else waves[0]).items():
                ends = np.where(np.isnan(found[:, [0, 2]]), found[:, [1]], found[:, [0, 2]])
                ends = ends[(ends[:, 1] > 0) & (ends[:, 0] < n_times)].clip(0, n_times)
                left, right = (ecg_paper.PULSE + ends / fs * ecg_paper.SPEED).T
                ax.hlines(np.full(len(left), height), left, right, color=COLOURS[wave], linewidth=2.4, zorder=3)
    for k, (wave, colour) in enumerate(COLOURS.items()):
        ax.text(
            1 - 0.06 * (len(COLOURS) - k), 1.01, wave, color=colour, transform=ax.transAxes, fontsize=8, weight="bold"
        )
    return ax


def boundary_errors(table, tolerances, corpora):
    """Mean (with interval) and standard deviation of the errors of each boundary. Returns the Figure.

    table: rows of one rule with corpus, method, wave, onset_mean, onset_sd ... and their intervals
    (`delineation_scores.pooled`); tolerances: {(wave, end): ms}, dashed; corpora: rows of panels in order. A boundary
    with fewer than FEWEST errors is left out, as the onset of T in QTDB.
    """
    style.use()
    ends = [(wave, end) for wave in COLOURS for end in ("onset", "offset")]
    methods = list(dict.fromkeys(table["method"]))
    size = (PAGE, (22 + (10 + 4.6 * len(methods)) * len(corpora)) * MM)
    figure, axes = plt.subplots(len(corpora), len(ends), figsize=size, squeeze=False, sharex="col", sharey="row")
    for (i, corpus), (k, (wave, end)) in ((a, b) for a in enumerate(corpora) for b in enumerate(ends)):
        ax, rows = axes[i, k], table[(table["corpus"] == corpus) & (table["wave"] == wave)].set_index("method")
        there = [name for name in methods if name in set(table[table["corpus"] == corpus]["method"])]
        for row, name in enumerate(there):
            if name in rows.index and rows.loc[name, f"{end}_n"] >= FEWEST:
                mean, low, high, sd = (
                    rows.loc[name, f"{end}_{part}"] for part in ("mean", "mean_low", "mean_high", "sd")
                )
                colour = PALETTE[methods.index(name) % len(PALETTE)]
                ax.hlines(row, mean - sd, mean + sd, color=colour, linewidth=0.7, alpha=0.7)
                error_bars(ax, [row], [mean], [low], [high], colour, marker="o", elinewidth=2.2)
        ax.axvline(0, color=SOFT, linewidth=0.6)
        for sign in (-1, 1):
            if (wave, end) in tolerances:
                ax.axvline(sign * tolerances[wave, end], color=INK, linewidth=0.6, linestyle=(0, (3, 2)))
        name_rows(ax, there)
        if i == 0:
            ax.set_title(f"{wave} {end}")
        if k == 0:
            ax.set_ylabel(style.plain(corpus))
        if i == len(corpora) - 1:
            ax.set_xlabel("Error (ms)")
    return figure


def found_waves(table, corpora):
    """F1 of each wave under both rules, a panel per wave and corpus. Returns the Figure.

    table: `delineation_scores.pooled` with the column corpus; filled: the rule of 150 ms; hollow: any overlap.
    """
    style.use()
    methods = list(dict.fromkeys(table["method"]))
    size = (PAGE, (24 + (9 + 5.2 * len(methods)) * len(corpora)) * MM)
    figure, axes = plt.subplots(len(corpora), len(COLOURS), figsize=size, squeeze=False, sharex=True, sharey="row")
    for (i, corpus), (k, wave) in ((a, b) for a in enumerate(corpora) for b in enumerate(COLOURS)):
        ax, rows = axes[i, k], table[(table["corpus"] == corpus) & (table["wave"] == wave)]
        there = [name for name in methods if name in set(table[table["corpus"] == corpus]["method"])]
        for rule, shift, face in (("150 ms", -0.13, COLOURS[wave]), ("overlap", 0.13, "white")):
            some = rows[rows["rule"] == rule]
            at = np.array([there.index(name) for name in some["method"]]) + shift
            error_bars(
                ax, at, some["f1"], some["f1_low"], some["f1_high"], COLOURS[wave], marker="o", markerfacecolor=face
            )
        name_rows(ax, there)
        if i == 0:
            ax.set_title(wave)
        if k == 0:
            ax.set_ylabel(style.plain(corpus))
        if i == len(corpora) - 1:
            ax.set_xlabel(f"F1 ({style.INTERVAL})\nfilled: 150 ms, hollow: any overlap")
    return figure


def lead_map(table, value="information"):
    """What given leads (rows) say of each other lead (columns), with intervals: a panel per method. Returns the Figure.

    table: `lead_reconstruction.per_lead` with the columns given and method; a given lead is blank.
    """
    style.use()
    methods, given, leads = (list(dict.fromkeys(table[name])) for name in ("method", "given", "lead"))
    leads = [name for name in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6") if name in leads]
    size = (PAGE, (16 + (12 + 9 * len(given)) * len(methods)) * MM)
    figure, axes = plt.subplots(len(methods), 1, figsize=size, squeeze=False, sharex=True)
    for ax, method in zip(axes[:, 0], methods, strict=True):
        mine = table[table["method"] == method].pivot(
            index="given", columns="lead", values=[value, f"{value}_low", f"{value}_high"]
        )
        point, low, high = (
            mine[name].reindex(index=given, columns=leads).to_numpy()
            for name in (value, f"{value}_low", f"{value}_high")
        )
        shown = ax.imshow(point, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        for i, k in np.argwhere(~np.isnan(point)):
            colour = "white" if point[i, k] < 0.55 else INK
            text = f"{100 * point[i, k]:.0f}\n{100 * low[i, k]:.0f} to {100 * high[i, k]:.0f}"
            ax.text(k, i, text, ha="center", va="center", fontsize=5.8, color=colour)
        ax.set_yticks(range(len(given)), given)
        ax.set_xticks(range(len(leads)), leads)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(style.plain(method), loc="left")
    axes[-1, 0].set_xlabel("Rebuilt lead")
    figure.supylabel("Given leads", fontsize="medium")
    figure.colorbar(shown, ax=axes[:, 0].tolist(), shrink=0.6, pad=0.01).set_label("Share of the variance that is told")
    return figure


def kept_auroc(table, ax=None):
    """Macro AUROC of a fixed classifier on true, rebuilt and given leads. Returns the Axes.

    table: columns given, leads (how the others were made), auroc, low, high; the row "all" has the true twelve.
    """
    ways = [name for name in dict.fromkeys(table["leads"]) if name != "true twelve"]
    given = [name for name in dict.fromkeys(table["given"]) if name != "all"]
    ax = style.new_axes(ax, (20 + 7 * len(given)) * MM, PAGE * 0.7)
    whole = table[table["leads"] == "true twelve"].iloc[0]
    ax.axvspan(whole["low"], whole["high"], color=SOFT, alpha=0.15, linewidth=0)
    ax.axvline(whole["auroc"], color=SOFT, linewidth=0.8, label="true twelve")
    for k, way in enumerate(ways):
        rows = table[table["leads"] == way].set_index("given").loc[given]
        at = np.arange(len(given)) + 0.2 * (k - (len(ways) - 1) / 2)
        error_bars(ax, at, rows["auroc"], rows["low"], rows["high"], PALETTE[k], marker=style.MARKERS[k], label=way)
    name_rows(ax, given)
    ax.set_xlabel(f"Macro AUROC of a fixed classifier ({style.INTERVAL} over patients)")
    style.legend_above(ax)
    return ax


def agreements(table):
    """Bias (thick, with interval) and limits of agreement of PR, QRS and QT, a panel per interval. Returns the Figure.

    table: `intervals.agreement` with the column corpus; a row per corpus and method.
    """
    style.use()
    names = list(dict.fromkeys(table["interval"]))
    rows = list(dict.fromkeys(zip(table["corpus"], table["method"], strict=True)))
    methods = list(dict.fromkeys(table["method"]))
    figure, axes = plt.subplots(1, len(names), figsize=(PAGE, (20 + 5 * len(rows)) * MM), squeeze=False, sharey=True)
    for ax, name in zip(axes[0], names, strict=True):
        mine = table[table["interval"] == name].set_index(["corpus", "method"])
        for k, key in enumerate(rows):
            row, colour = mine.loc[key], PALETTE[methods.index(key[1]) % len(PALETTE)]
            ax.hlines(k, row["loa_low"], row["loa_high"], color=colour, linewidth=0.8)
            ax.plot([row["loa_low"], row["loa_high"]], [k, k], "|", color=colour, markersize=5)
            error_bars(
                ax, [k], [row["bias"]], [row["bias_low"]], [row["bias_high"]], colour, marker="o", elinewidth=2.2
            )
        ax.axvline(0, color=SOFT, linewidth=0.6)
        name_rows(ax, [f"{corpus}: {method}" for corpus, method in rows])
        ax.set(title=name, xlabel="Measured minus marked (ms)")
    return figure


def sheets(drawn: dict, fs: float, leads):
    """ECGs on clinical paper, one above the other. Returns the Figure.

    drawn: title -> (lead, time) mV; fs: Hz; leads: their names.
    """
    style.use()
    figure, axes = plt.subplots(len(drawn), 1, figsize=(PAGE, PAGE), squeeze=False)
    for ax, (title, x) in zip(axes[:, 0], drawn.items(), strict=True):
        ecg_paper.ecg_paper(x, fs, leads, title=title, ax=ax)
    tall = [ax.get_ylim()[1] for ax in axes[:, 0]]  # mm of paper: one scale for all
    axes[0, 0].get_gridspec().set_height_ratios(tall)
    wide = max(ax.get_xlim()[1] for ax in axes[:, 0])
    for ax in axes[:, 0]:
        ax.set_xlim(0, wide)
    figure.set_figheight(PAGE * sum(tall) / wide + TITLE_MM * len(drawn) * MM)
    return figure


def drawn_scores(panels: list):
    """A panel per score, a row per set of ECGs, intervals as bars. Returns the Figure.

    panels: (title, table with the column set, columns of point, low and high, x of a dashed line or None); the sets of
    the first panel give rows and colours, others follow below.
    """
    style.use()
    names = list(dict.fromkeys(name for _, table, *_ in panels for name in table["set"]))
    size = (PAGE, (20 + 5.5 * len(names)) * MM)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True)
    for ax, (title, table, columns, line) in zip(axes[0], panels, strict=True):
        if line is not None:
            ax.axvline(line, color=SOFT, linewidth=0.6, linestyle=(0, (3, 2)))
        for at, name in enumerate(names):
            for _, row in table[table["set"] == name].iterrows():
                point, low, high = (np.array([row[column]]) for column in columns)
                error_bars(ax, [at], point, low, high, PALETTE[at % len(PALETTE)], marker="o")
        name_rows(ax, names)
        ax.set_xlabel(fill(style.plain(title), LABEL_CHARACTERS))
    return figure
