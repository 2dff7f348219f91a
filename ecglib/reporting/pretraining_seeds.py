"""How much of a score is the luck of one pretraining run: the same objective pretrained again from other seeds."""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib.evaluation import predictions as predicted
from ecglib.reporting import tables

MODEL = ["encoder", "mode", "fraction"]
COLUMNS = [*MODEL, "cohort", "n_pretrainings", "mean", "sd", "lowest", "highest"]


def spread(again, task: str, first: pd.DataFrame) -> pd.DataFrame:
    """Macro AUROC on test records at home over pretraining runs: their number, mean, standard deviation, extremes.

    again: folder of the probes of further runs, one folder TASK-NAME each. task: name of the task. first: table of
    `tables.scores` with the runs that the other tables show. Returns COLUMNS, a row per encoder, mode and share of the
    labels; without rows where none was pretrained again.
    """
    files = sorted(Path(again).glob(f"{task}-*/predictions.parquet")) if str(again) else []
    further = [_macro(tables.scores(_tested(file), names=("auroc",), n=2)) for file in files]
    if not further:
        return pd.DataFrame(columns=COLUMNS)
    further = pd.concat(further)
    runs = _macro(first).merge(further[[*MODEL, "cohort"]].drop_duplicates(), on=[*MODEL, "cohort"])
    runs = pd.concat([runs, further])
    rows = []
    for key, group in runs.groupby([*MODEL, "cohort"], observed=True)["point"]:
        rows.append([*key, len(group), group.mean(), np.std(group, ddof=1), group.min(), group.max()])
    return pd.DataFrame(rows, columns=COLUMNS)


def sentence(table: pd.DataFrame, fraction: float = 0.1) -> str:
    """The spread of each encoder at one share of the labels in words; "" for a table without it."""
    rows = table[np.isclose(table.fraction, fraction)] if len(table) else table
    parts = [
        f"{row.encoder} {row.mean:.3f}, standard deviation {row.sd:.3f} over {row.n_pretrainings} ({row.lowest:.3f} to "
        f"{row.highest:.3f})"
        for row in rows.itertuples()
    ]
    start = f"Pretrained again from other seeds, at {100 * fraction:g} % of the labels"
    return f"{start}: {'; '.join(parts)}." if parts else ""


def _tested(file) -> pd.DataFrame:
    rows = predicted.compared(predicted.load(file))
    return rows[(rows["split"] == "test") & (rows["fraction"] > 0)]


def _macro(scored: pd.DataFrame) -> pd.DataFrame:
    chosen = (scored["label"] == tables.MACRO) & (scored["metric"] == "auroc") & (scored["split"] == "test")
    return scored.loc[chosen, [*MODEL, "cohort", "point"]].astype({"encoder": str, "mode": str, "cohort": str})
