"""PR, QRS and QT of a recording from its waves, and how far two ways of measuring agree."""

import numpy as np
import pandas as pd

from ecglib.evaluation import bootstrap
from ecglib.waves.marked import FS, Waves

NAMES = ("PR", "QRS", "QT")
LONGEST_PR_S, LONGEST_QT_S = 0.45, 0.75
AGREEMENT = ("bias", "loa_low", "loa_high", "mae", "r")  # of `evaluation.metrics`


def measured(waves: Waves) -> dict[str, float]:
    """Medians over the beats of a recording in ms; NaN where no beat has the waves.

    PR: from the onset of the last P that begins at most 0.45 s before QRS and ends before its offset; QT: from the
    onset of QRS to the offset of the next T, at most 0.75 s.
    """
    qrs, p, t = (waves[name] for name in ("QRS", "P", "T"))
    values = {name: [] for name in NAMES}
    for on, _, off in qrs:
        before = p[(p[:, 0] < on) & (p[:, 0] >= on - LONGEST_PR_S * FS) & (p[:, 2] <= off)]
        behind = t[(t[:, 2] > off) & (t[:, 2] <= on + LONGEST_QT_S * FS)]
        values["PR"].append(on - before[-1, 0] if len(before) else np.nan)
        values["QRS"].append(off - on)
        values["QT"].append(behind[0, 2] - on if len(behind) else np.nan)
    return {name: _median(np.array(found, float)) * 1000 / FS for name, found in values.items()}


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def agreement(table: pd.DataFrame, by=("method", "interval"), n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Bias and 95 % limits of agreement (Bland and Altman 1986), mean absolute error and r, intervals over patients.

    table: a row per recording with patient_id, truth, measured (ms) and the columns `by`; recordings that one of the
    two cannot measure are left out and counted: measured_share is the share of those with a truth that are left.
    """
    rows = []
    for names, group in table.groupby(list(by), sort=False):
        known = group[group["truth"].notna()]
        both = known[known["measured"].notna()]
        row = dict(zip(by, names, strict=True)) | {"records": len(both), "patients": both["patient_id"].nunique()}
        row["measured_share"] = len(both) / len(known) if len(known) else np.nan
        for name in AGREEMENT:
            found = (np.nan,) * 3
            if len(both) > 2:
                y, p = both["truth"].to_numpy(), both["measured"].to_numpy()
                drawn = bootstrap.replicates(y, p, both["patient_id"].to_numpy(str), n, seed, statistic=name)
                found = bootstrap.average(drawn)[:3]
            row |= {name: found[0], f"{name}_low": found[1], f"{name}_high": found[2]}
        rows.append(row)
    return pd.DataFrame(rows)
