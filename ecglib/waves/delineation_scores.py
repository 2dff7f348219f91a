"""How well waves are found: two rules of matching side by side, errors of onsets and offsets, intervals over patients.

"overlap": a wave is found where a called one overlaps it at all, as in ECG-DelNet, which flatters; "150 ms": where each
of its marked boundaries is within 150 ms. Every further call is false. Errors are called minus marked: positive = late.
"""

import numpy as np
import pandas as pd

from ecglib.evaluation import bootstrap
from ecglib.waves.marked import FS, WAVES, Marked, Waves

RULES = ("150 ms", "overlap")
TOLERANCE_S = 0.15
ENDS = {"onset": 0, "offset": 2}  # columns of waves
# ms, two standard deviations of readers (CSE Working Party 1985, Eur Heart J 6:815); none for the onset of T
CSE_MS = {("P", "onset"): 10.2, ("P", "offset"): 12.7, ("QRS", "onset"): 6.5, ("QRS", "offset"): 11.6}
CSE_MS |= {("T", "offset"): 30.6}
COUNTS = ("tp", "fn", "fp")
SUMS = [f"{end}_{name}" for end in ENDS for name in ("n", "sum", "square", "within")]
STATISTICS = ("sensitivity", "ppv", "f1", "onset_mean", "onset_sd", "offset_mean", "offset_sd")


def matched(marked: np.ndarray, called: np.ndarray, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of marked and called waves, one to one: numbers of both, equally long.

    marked, called: float (wave, 3) in samples at FS, see `marked.Waves`; rule: of RULES. Of several calls that would do
    for a marked wave the one with the nearest boundaries is taken.
    """
    gaps = abs(called[None][..., [0, 2]] - marked[:, None][..., [0, 2]])  # (marked, called, onset and offset)
    known = ~np.isnan(gaps)
    if rule == "overlap":
        (first, last), (low, high) = _bounds(marked), _bounds(called)
        fits = (low[None] <= last[:, None]) & (high[None] >= first[:, None])
    else:
        fits = known.any(axis=-1) & (np.where(known, gaps, 0) <= TOLERANCE_S * FS).all(axis=-1)
    distance = np.where(fits, np.where(known, gaps, 0).sum(axis=-1), np.inf)
    pairs = []
    for i in np.flatnonzero(fits.any(axis=1)):
        best = int(distance[i].argmin())
        if np.isfinite(distance[i, best]):
            pairs.append((i, best))
            distance[:, best] = np.inf
    pairs = np.array(pairs, int).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _bounds(waves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where waves begin and end at least: (wave,) each; the peak stands in for a boundary that is not marked."""
    unknown = np.isnan(waves)
    return np.where(unknown, np.inf, waves).min(axis=1), np.where(unknown, -np.inf, waves).max(axis=1)


def inside(waves: np.ndarray, spans) -> np.ndarray:
    """Which waves (wave, 3) have their middle in one of the spans (first, last): bool (wave,)."""
    low, high = _bounds(waves)
    middle = (low + high) / 2
    return np.any([(middle >= first) & (middle <= last) for first, last in spans], axis=0) & np.ones(len(waves), bool)


def compared(marked: Waves, called: Waves, spans) -> list[dict]:
    """Counts and sums of errors of one lead, a dict per wave and rule: tp, fn, fp and SUMS (ms).

    Scored are the waves with a marked boundary whose middle lies in a span; a call that matches one of them counts
    wherever its middle is.
    """
    rows = []
    for wave in WAVES:
        truth, calls = marked[wave], called[wave]
        truth = truth[inside(truth, spans) & ~np.isnan(truth[:, [0, 2]]).all(axis=1)]
        for rule in RULES:
            first, second = matched(truth, calls, rule)
            extra = inside(calls, spans)
            extra[second] = False
            row = {"wave": wave, "rule": rule, "tp": len(first), "fn": len(truth) - len(first), "fp": int(extra.sum())}
            for end, column in ENDS.items():
                error = (calls[second, column] - truth[first, column]) * 1000 / FS
                error = error[~np.isnan(error)]
                row |= {f"{end}_n": len(error), f"{end}_sum": error.sum(), f"{end}_square": (error**2).sum()}
                row[f"{end}_within"] = int((abs(error) <= CSE_MS.get((wave, end), -1)).sum())
            rows.append(row)
    return rows


def of_recording(one: Marked, called: list[Waves]) -> list[dict]:
    """`compared` for a recording, summed over its leads where they have marks of their own.

    called: waves of each lead in that case, else a single one of all leads together.
    """
    about = {"record_id": one.record_id, "patient_id": one.patient_id}
    leads = range(len(one.leads)) if one.per_lead else [0]
    parts = [compared(one.waves[lead], found, one.spans[lead]) for lead, found in zip(leads, called, strict=True)]
    rows = []
    for each in zip(*parts, strict=True):  # the same wave and rule in every lead
        row = about | {"wave": each[0]["wave"], "rule": each[0]["rule"]}
        rows.append(row | {name: sum(lead[name] for lead in each) for name in (*COUNTS, *SUMS)})
    return rows


def second_reader(one: Marked) -> list[dict]:
    """The waves of the second reader as if they had been called, where the second has marked such waves at all."""
    rows = compared(one.waves[0], one.second, one.spans[0])
    about = {"record_id": one.record_id, "patient_id": one.patient_id}
    return [about | row for row in rows if len(one.second[row["wave"]])]


def pooled(table: pd.DataFrame, by=("method", "wave", "rule"), n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """STATISTICS over all waves of each group, with 95 % intervals over patients; errors in ms.

    table: rows of `of_recording` with the columns `by`; n, seed: of the resamples. Also marked (waves), patients,
    onset_within, offset_within: shares of errors inside the tolerance of CSE, and onset_n, offset_n: how many errors.
    """
    rows = []
    for names, group in table.groupby(list(by), sort=False):
        patients = group["patient_id"].to_numpy(str)
        scores = bootstrap.of_sums(group[[*COUNTS, *SUMS]], patients, _statistics, n, seed)
        row = dict(zip(by, names, strict=True)) | {"marked": int(group["tp"].sum() + group["fn"].sum())}
        row["patients"] = group["patient_id"].nunique()
        for name in STATISTICS:
            found = scores[name]
            row |= {name: found.point, f"{name}_low": found.low, f"{name}_high": found.high}
        row |= {f"{end}_within": scores[f"{end}_within"].point for end in ENDS}
        rows.append(row | {f"{end}_n": int(group[f"{end}_n"].sum()) for end in ENDS})
    return pd.DataFrame(rows)


def _statistics(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of rows of COUNTS and SUMS (row, column); the deviation has n - 1."""
    value = dict(zip([*COUNTS, *SUMS], sums.T, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        out = {
            "sensitivity": value["tp"] / (value["tp"] + value["fn"]),
            "ppv": value["tp"] / (value["tp"] + value["fp"]),
        }
        out["f1"] = 2 * value["tp"] / (2 * value["tp"] + value["fn"] + value["fp"])
        for end in ENDS:
            n, total, square = (value[f"{end}_{name}"] for name in ("n", "sum", "square"))
            out[f"{end}_mean"] = total / n
            out[f"{end}_sd"] = np.sqrt(np.maximum(square - total**2 / n, 0) / (n - 1))
            out[f"{end}_within"] = value[f"{end}_within"] / n
    return out
