"""How well R peaks are found: the 150 ms rule of ANSI/AAMI EC57, per record and over all, intervals over patients."""

import numpy as np
import pandas as pd

from ecglib import require_known
from ecglib.evaluation import bootstrap
from ecglib.rhythm import detectors
from ecglib.rhythm.annotated import Annotated
from ecglib.rhythm.matching import TOLERANCE_S, matched

RATE_WINDOW_S = 10.0
COUNTS = ("tp", "fn", "fp")


def score(one: Annotated, found: np.ndarray) -> dict:
    """Count what a detector has found in a recording, outside what is unscored.

    Returns beats, tp, fn, fp, sensitivity, ppv; offset_ms, the median distance of paired beats; rate_error, the mean
    error of the heart rate per minute in windows of 10 s (beats that touch an unscored part are in none).
    """
    reference, found = _scored(one.r, one.unscored), _scored(np.asarray(found, np.int64), one.unscored)
    first, second = matched(reference, found, TOLERANCE_S * one.fs)
    tp, fn, fp = len(first), len(reference) - len(first), len(found) - len(second)
    offset = np.median(abs(reference[first] - found[second])) * 1000 / one.fs if tp else np.nan
    rates = [_rates(beats, one) for beats in (reference, found)]
    errors = abs(rates[0] - rates[1])
    out = {"record_id": one.record_id, "patient_id": one.patient_id, "half": one.half, "beats": len(reference)}
    out |= {"tp": tp, "fn": fn, "fp": fp} | _ratios(tp, fn, fp)
    return out | {"offset_ms": offset, "rate_error": float(np.nanmean(errors)) if np.isfinite(errors).any() else np.nan}


def of_detectors(recordings, names, progress=None) -> pd.DataFrame:
    """Let detectors find the beats of recordings: one row of `score` per recording and detector.

    recordings: iterable of Annotated; names: of `detectors.DETECTORS`; progress: called with each recording.
    Raises EcgError for an unknown detector.
    """
    require_known("detector", names, detectors.DETECTORS)
    rows = []
    for one in recordings:
        for name in names:
            rows.append({"detector": name} | score(one, detectors.DETECTORS[name](one.signal, one.fs)))
        if progress:
            progress(one)
    return pd.DataFrame(rows)


def _ratios(tp, fn, fp) -> dict:
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"sensitivity": np.divide(tp, tp + fn), "ppv": np.divide(tp, tp + fp)}


def _scored(beats: np.ndarray, unscored) -> np.ndarray:
    keep = np.ones(len(beats), bool)
    for first, last in unscored:
        keep &= (beats < first) | (beats > last)
    return beats[keep]


def _rates(beats: np.ndarray, one: Annotated) -> np.ndarray:
    """Heart rate per minute in each window, from the mean of the intervals that end in it; NaN without any."""
    n_windows = int(np.ceil(one.signal.shape[1] / (RATE_WINDOW_S * one.fs)))
    rr, ends = np.diff(beats) / one.fs, beats[1:]
    apart = np.zeros(len(rr), bool)
    for first, last in one.unscored:
        apart |= (beats[:-1] <= first) & (ends >= last)
    window = (ends[~apart] // (RATE_WINDOW_S * one.fs)).astype(int)
    total, number = (np.bincount(window, weights, n_windows) for weights in (rr[~apart], None))
    return np.divide(60 * number, total, out=np.full(n_windows, np.nan), where=number > 0)


def pooled(table: pd.DataFrame, by=("detector",), n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Sensitivity and PPV over all beats (gross) and mean rate error, with 95 % intervals over patients.

    table: rows of `score` with the columns `by`; one row per group comes out.
    """
    rows = []
    for names, of_group in table.groupby(list(by), sort=False):
        row = dict(zip(by, names, strict=True)) | {"records": len(of_group), "patients": of_group.patient_id.nunique()}
        row |= {"beats": int(of_group.beats.sum()), **of_group[list(COUNTS)].sum().to_dict()}
        counts, patients = of_group[list(COUNTS)].to_numpy(), of_group.patient_id.to_numpy(str)
        scores = bootstrap.of_sums(counts, patients, lambda sums: _ratios(*sums.T), n_resamples, seed)
        for name, found in scores.items():
            row |= {name: found.point, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row | {"rate_error": of_group.rate_error.mean(), "offset_ms": of_group.offset_ms.median()})
    return pd.DataFrame(rows)
