"""Who agrees with whom: reports with the statements beside them, a model with expert readers; is it chance?

A table of readers has one row per record, reader and label: record_id, reader, label, call (1, 0, empty where the
reader did not say), as a CSV; the published annotations of CODE-test have this shape once they are melted.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ecglib import EcgError
from ecglib.data.labels import ABSENT, POSSIBLE, PRESENT
from ecglib.evaluation import bootstrap, metrics

CALLS = ("sensitivity", "specificity", "f1", "kappa")
COLUMNS = ("record_id", "reader", "label", "call")


def agreement(said: pd.DataFrame, truth: pd.DataFrame, patients, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Precision and recall of what was read from reports against the statements of a corpus.

    said, truth: int8 states (record, label), same records; compared are the labels of both.
    patients: of each record; n, seed: of the resamples (`bootstrap.resamples`).
    Returns a row per label, the commonest first: label; stated: records with the statement; said, possible: reports
    that call it present, possible; precision, recall, and recall_possible (a possible one counts as found too), each an
    `Interval` over patients. Records where the statement is possible or unknown are left out.
    """
    shared = [name for name in truth if name in said and (truth[name] == PRESENT).any()]
    states, wanted = said[shared].to_numpy(), truth[shared].to_numpy()
    known = np.where(wanted == PRESENT, 1.0, np.where(wanted == ABSENT, 0.0, np.nan))
    present, possible = states == PRESENT, states == POSSIBLE
    columns = {
        "precision": (present, "ppv"),
        "recall": (present, "sensitivity"),
        "recall_possible": (present | possible, "sensitivity"),
    }
    table = {"label": shared, "stated": np.nansum(known, axis=0).astype(int)}
    table |= {"said": present.sum(axis=0), "possible": possible.sum(axis=0)}
    for name, (found, statistic) in columns.items():
        drawn = bootstrap.replicates(known, found.astype(float), patients, n, seed, statistic=statistic)
        table[name] = bootstrap.per_label(drawn)
    return pd.DataFrame(table).sort_values("stated", ascending=False, kind="stable", ignore_index=True)


def spelled(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `agreement` as text: scores with their 95 % intervals, "-" where there is no score."""
    scores = [name for name in table if name not in ("label", "stated", "said", "possible")]

    def text(score) -> str:
        known = score.point == score.point
        return f"{score.point:.2f} ({score.low:.2f} to {score.high:.2f})" if known else "-"

    return table.assign(**{name: [text(score) for score in table[name]] for name in scores})


class Discordance(NamedTuple):
    """McNemar's test (1947): records that only one of two got right, and the exact two-sided p of no difference."""

    only_ours: int
    only_theirs: int
    p_value: float


def mcnemar(y, ours, theirs):
    """Whether two readers of the same records are right equally often; exact (binomial), records taken as independent.

    y, ours, theirs: truth and two series of calls (record,), 1 or 0; records of unknown truth are left out.
    """
    truth, first = (column[:, 0] for column in metrics.columns(y, ours))
    second = metrics.columns(y, theirs)[1][:, 0]
    known = ~np.isnan(truth)
    right, other = (calls[known] == truth[known] for calls in (first, second))
    a, b = int((right & ~other).sum()), int((other & ~right).sum())
    return Discordance(a, b, float(binomtest(a, a + b).pvalue) if a + b else 1.0)


def load_readers(path):
    """The table of readers in a CSV file (COLUMNS); EcgError, naming row and column, for what is none."""
    try:
        table = pd.read_csv(path, dtype={"record_id": str, "reader": str, "label": str})
    except (OSError, ValueError) as error:
        raise EcgError(f"not a readable CSV table: {error}", file=path, fix=f"columns {', '.join(COLUMNS)}") from error
    if lacking := [name for name in COLUMNS if name not in table]:
        raise EcgError(f"lacks the columns {lacking}", file=path, field=lacking[0], fix=f"write {', '.join(COLUMNS)}")
    wrong = table.index[~table["call"].isin([0, 1]) & table["call"].notna()]
    if len(wrong):
        reason = f"row {wrong[0] + 2}: {table['call'][wrong[0]]!r} is no call"
        raise EcgError(reason, file=path, field="call", fix="1 for present, 0 for absent, empty where not said")
    twice = table.duplicated(["record_id", "reader", "label"])
    if twice.any():
        raise EcgError(f"row {twice.idxmax() + 2} repeats a call", file=path, field="record_id", fix="one call each")
    return table[list(COLUMNS)]


def consensus(readers):
    """Majority of the readers per record and label: record_id, label, call; NaN where they are split evenly."""
    share = readers.groupby(["record_id", "label"], sort=True)["call"].mean()
    call = np.where(share > 0.5, 1.0, np.where(share < 0.5, 0.0, np.nan))
    return share.index.to_frame(index=False).assign(call=np.where(share.isna(), np.nan, call))


def compare(y, calls, patients=None, model="model", n=1000, seed=0):
    """Every reader beside the model on the records that both have judged.

    y: truth (record,), 1, 0 or NaN; calls: {name: (record,) of 1, 0 or NaN}, the name `model` among them;
    patients: (record,). Returns a row per reader and statistic of CALLS: reader, metric, point, low, high of the
    reader, model and difference (model minus reader) with low and high on the same resamples, n, and p of McNemar.
    """
    y, rows = np.asarray(y, float), []
    patients = np.arange(len(y)) if patients is None else np.asarray(patients)
    for reader, theirs in calls.items():
        both = ~np.isnan(theirs) & ~np.isnan(calls[model]) & ~np.isnan(y)
        if not both.any():
            raise EcgError(f"{reader} and {model} have no record in common", field="record_id")
        truth, who = y[both], patients[both]
        test = mcnemar(truth, calls[model][both], theirs[both])
        for metric in CALLS:
            own, other = (
                bootstrap.replicates(truth, c[both], who, n, seed, statistic=metric) for c in (calls[model], theirs)
            )
            alone, gap = bootstrap.average(other), bootstrap.paired(own, other, truth[:, None])
            row = [reader, metric, alone.point, alone.low, alone.high, own.point[0], gap.point, gap.low, gap.high]
            rows.append([*row, int(both.sum()), test.p_value])
    names = ["reader", "metric", "point", "low", "high", "model"]
    names += ["difference", "difference_low", "difference_high", "n", "p_mcnemar"]
    return pd.DataFrame(rows, columns=names)
