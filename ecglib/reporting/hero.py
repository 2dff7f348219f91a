"""The first picture: one ECG with what a model says of it, beside how well the model does at home and elsewhere."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ecglib.data.cohort import Cohort
from ecglib.data.files import is_passing
from ecglib.data.labels import PRESENT
from ecglib.evaluation.predictions import load
from ecglib.reporting import figures, one_ecg, style
from ecglib.reporting.ecg_paper import ecg_paper
from ecglib.reporting.methods import look, spelt_out
from ecglib.reporting.style import FAINT, INK, MM, SOFT
from ecglib.reporting.tables import of_model

HIGH = 160  # mm
N_SAID, N_LABELS = 6, 10  # statements below the sheet, and in the picture beside it


def typical(said, encoder: str) -> str:
    """The record of an ECG that is as hard for an encoder as the middle one of those with more than one statement.

    said: `one_ecg.calls` of test records of one hospital.
    """
    stated = said[(said.encoder == encoder) & (said.truth == PRESENT)].groupby("record_id").label.nunique()
    several = stated.index[stated >= min(2, stated.max())]
    order = one_ecg.ranked(said[said.record_id.isin(several)], encoder)
    return order.record_id.iloc[len(order) // 2]


def draw(results, task: str, home: str, encoder: str, transfer):
    """The Figure for one task, and its caption.

    results: folder of the stages, with the packed cohort `home` and the predictions of `encoder`; transfer: rows of
    `tables.external` of that encoder and one other hospital, may be empty: then the sheet stands alone.
    """
    predictions = _predictions(results, task, encoder)
    said = one_ecg.calls(predictions[predictions.cohort == home], home)
    record = typical(said[said.split == "test"], encoder)
    cohort = Cohort(Path(results) / "cohorts" / home)
    row = int(np.flatnonzero(cohort.records.record_id == record)[0])
    style.use()
    figure = plt.figure(figsize=((338 if len(transfer) else 196) * MM, HIGH * MM), dpi=110)
    figure.set_layout_engine("none")  # everything is placed by the millimetre
    _paper(_axes(figure, 8, 56, 188, 92), cohort, row)
    _said(_axes(figure, 76, 13, 84, 30), said[said.record_id == record], encoder)
    if len(transfer):
        figures.forest(transfer, shown=_spread(transfer), ax=_axes(figure, 280, 20, 54, 120))
    return figure, _caption(home, encoder, transfer)


def _predictions(results, task, encoder):
    """What a probe on an encoder says with all labels; of several modes the linear one."""
    found = sorted((Path(results) / "probe").glob(f"{task}-*/predictions.parquet"))
    found = [file for file in found if not is_passing(Path(file.parent.name))]
    column = {"columns": ["encoder"], "read_dictionary": ["encoder"]}  # few names: their table is read, not the rows
    found = [file for file in found if encoder in set(pd.read_parquet(file, **column).encoder.unique())]
    rows = of_model(load(found), encoder, "linear")
    return rows[np.isclose(rows.fraction, rows.fraction.max())]


def _axes(figure, left, bottom, width, height):
    """Axes at a place given in mm."""
    across, up = figure.get_figwidth() / MM, HIGH
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _paper(ax, cohort, row):
    made = "simulated ECG " if cohort.info["dataset"]["module"] == "simulated" else ""
    title = "\n".join(textwrap.wrap(made + one_ecg.heading(cohort, row).replace("\n", " "), 105))
    mask = cohort.lead_mask([row])[0]
    ecg_paper(cohort.batch([row])[0], cohort.fs, cohort.leads, lead_mask=mask, ax=ax, title=title)
    ax.set_anchor("NW")


def _spread(transfer):
    """Statements from the best to the worst at home, at equal steps of rank."""
    labels = transfer[transfer.label != "macro"].dropna(subset=["internal", "external"])
    ranked = list(labels.sort_values("internal", ascending=False, kind="stable").label)
    steps = np.linspace(0, len(ranked) - 1, min(N_LABELS, len(ranked)))
    return [ranked[at] for at in steps.round().astype(int)]


def _said(ax, said, encoder):
    """Probability of each statement as a bar, with the threshold from validation patients as a tick on it."""
    rows = said.assign(stated=said.truth == PRESENT)
    rows = rows.sort_values(["stated", "probability"], ascending=False).head(N_SAID)
    for at, row in enumerate(rows.itertuples()):
        ax.barh(at, 1, color=FAINT, height=0.55)
        ax.barh(at, row.probability, color=look(encoder)[0] if row.call else SOFT, height=0.55)
        ax.plot([row.threshold] * 2, [at - 0.4, at + 0.4], color=INK, linewidth=1)
        call, state = "called" if row.call else "not called", "stated" if row.stated else "not stated"
        ax.text(1.01, at, f"{100 * row.probability:.0f} %, {call}, {state}", va="center", fontsize=7.5)
    style.name_rows(ax, [spelt_out(label) for label in rows.label])
    ax.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    ax.set_xticklabels(["0", "50 %", "100 %"])
    ax.set_title(f"What the model says ({encoder}; called: above the black tick, its threshold)", loc="right")
    ax.set_xlabel("Probability", loc="left")
    ax.spines["bottom"].set_visible(False)


def _caption(home, encoder, transfer) -> str:
    text = (
        f"A test ECG of hospital {home} that is as hard for the encoder {encoder} as the middle one of those with "
        "several statements, and what a linear probe on it says. Thresholds were fixed on validation patients, for "
        "sensitivity and specificity together: a rare statement may be called at a few per cent"
    )
    if not len(transfer):
        return f"{text}."
    away, shown = transfer.cohort.iloc[0], len(_spread(transfer))
    n = transfer[["n_records_internal", "n_records_external"]].max()
    return (
        f"{text}. Right: AUROC of {shown} statements, from the best to the worst at equal steps of rank, at home "
        f"({n.iloc[0]:,} records) and in hospital {away} ({n.iloc[1]:,} records), and of all on average, with 95 % "
        "intervals over patients."
    )
