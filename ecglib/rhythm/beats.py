"""Beats of adaptive length, one per QRS complex, as in a published recipe for MIT-BIH (arXiv 2411.07252).

A beat is as long as the mean RR interval of its ten seconds without outliers, centred on its R peak, and ends at the
midpoints to its neighbours, so that no sample belongs to two beats. Cuts of 260 samples, which are usual, overlap in
40 % of the pairs of neighbours of MIT-BIH. Where the paper is silent, the choices here are ours.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.rhythm.annotated import Annotated

WINDOW_S = 10.0
N_POINTS = 128
FIXED = 260  # samples at 360 Hz of the usual cut


class Spans(NamedTuple):
    """Where the beats of a recording lie, by beat: first and last + 1 (samples), length before clipping, window."""

    first: np.ndarray
    last: np.ndarray
    length: np.ndarray
    window: np.ndarray


def clean_mean(rr: np.ndarray) -> float:
    """Mean of the RR intervals (interval,) within 1.5 interquartile ranges of their median; NaN without any."""
    if not len(rr):
        return float("nan")
    low, middle, high = np.quantile(rr, [0.25, 0.5, 0.75])
    return float(rr[abs(rr - middle) <= 1.5 * (high - low)].mean())


def window_lengths(r: np.ndarray, n_windows: int, width: float) -> np.ndarray:
    """Clean mean RR (samples) of each window of `width` samples: of the intervals that lie in it whole.

    r: R peaks (beat,), rising; the last window also holds what follows it. A window without an interval has the value
    of the nearest one that has some, and where none has, the clean mean of all.
    Raises EcgError for fewer than two beats.
    """
    if len(r) < 2:
        raise EcgError(f"{len(r)} beats have no RR interval", field="r", fix="leave the recording out")
    window = np.minimum((r // width).astype(int), n_windows - 1)
    bounds = np.searchsorted(window, np.arange(n_windows + 1))
    pairs = list(zip(bounds[:-1], bounds[1:], strict=True))
    means = np.array([clean_mean(np.diff(r[a:b]).astype(float)) for a, b in pairs])
    known = np.flatnonzero(~np.isnan(means))
    if not len(known):
        return np.full(n_windows, clean_mean(np.diff(r).astype(float)))
    return means[known[abs(np.arange(n_windows)[:, None] - known).argmin(axis=1)]]


def spans(r: np.ndarray, fs: float, n_times: int) -> Spans:
    """Where each beat begins and ends: L samples around R, L the clean mean of its window, cut at the midpoints.

    r: R peaks in samples (beat,), rising; fs: Hz; n_times: samples of the recording.
    """
    width = WINDOW_S * fs
    n_windows = max(1, int(n_times // width))
    window = np.minimum((r // width).astype(int), n_windows - 1)
    length = np.round(window_lengths(r, n_windows, width)).astype(int)[window]
    middle = (r[:-1] + r[1:] + 1) // 2  # the first sample of the later beat
    first = np.maximum(r - length // 2, np.concatenate([[0], middle]))
    last = np.minimum(r + (length + 1) // 2, np.concatenate([middle, [n_times]]))
    return Spans(first, last, length, window)


def overlap_share(r: np.ndarray, length: int = FIXED) -> tuple[int, int]:
    """Pairs of neighbouring beats that share a sample when each is cut to `length` samples, and all pairs."""
    close = np.diff(r) < length
    return int(close.sum()), len(close)


def resampled(signal: np.ndarray, first, last, n_points: int = N_POINTS) -> np.ndarray:
    """Each span of a signal (lead, time) as n_points, by straight lines: float32 (beat, lead, n_points).

    first, last: (beat,) in samples, also between and beyond samples, where the ends are repeated.
    """
    at = np.linspace(first, np.asarray(last) - 1, n_points, axis=1)
    grid = np.arange(signal.shape[1])
    out = [np.interp(at.ravel(), grid, lead).reshape(at.shape) for lead in signal]
    return np.stack(out, axis=1).astype(np.float32)


def first_lead(leads) -> list[int]:
    """Order of the leads of a recording with II, or else V5, in front: by name, as their order differs."""
    front = next((name for name in ("II", "V5", "I") if name in leads), leads[0])
    return sorted(range(len(leads)), key=lambda row: (leads[row] != front, row))


@dataclass(frozen=True, eq=False)
class Beats:
    """The beats of many recordings.

    table: one row per beat with record_id, patient_id, half, sample, symbol, aami, window, length (samples), first,
    last; x: float32 (beat, lead, N_POINTS), mV, each beat less its mean; rr: float32 (beat, 4), see `rr_ratios`.
    """

    table: pd.DataFrame
    x: np.ndarray
    rr: np.ndarray

    def __len__(self) -> int:
        return len(self.table)


def of_recording(one: Annotated, n_leads: int = 2) -> Beats:
    """The beats of one recording with `n_leads` leads, the last one repeated where there are fewer."""
    rows = first_lead(one.leads)[:n_leads]
    rows += rows[-1:] * (n_leads - len(rows))
    found = spans(one.r, one.fs, one.signal.shape[1])
    x = resampled(one.signal[rows], found.first, found.last)
    table = pd.DataFrame({"sample": one.r, "symbol": one.symbol, "aami": one.classes} | found._asdict())
    about = {"record_id": one.record_id, "patient_id": one.patient_id, "half": one.half}
    for place, (name, value) in enumerate(about.items()):
        table.insert(place, name, value)
    return Beats(table, x - x.mean(axis=2, keepdims=True), rr_ratios(one.r, one.fs))


def joined(parts: list[Beats]) -> Beats:
    """Beats of many recordings in one. Raises EcgError for none."""
    if not parts:
        raise EcgError("no recording with beats", field="recordings", fix="check corpus and folder")
    table = pd.concat([part.table for part in parts], ignore_index=True)
    return Beats(table, np.concatenate([part.x for part in parts]), np.concatenate([part.rr for part in parts]))


def rr_ratios(r: np.ndarray, fs: float, neighbours: int = 10) -> np.ndarray:
    """Logarithms of RR before and after each beat over the median of its neighbours, of their ratio, and of RR in s.

    r: R peaks (beat,); neighbours: how many intervals on each side. Returns float32 (beat, 4): early beats are negative
    in the first column. The first and last beat of a recording take the median for what they lack.
    """
    rr = np.diff(r) / fs
    usual = np.array([np.median(rr[max(0, k - neighbours) : k + neighbours]) for k in range(len(r))])
    before, after = np.concatenate([usual[:1], rr]), np.concatenate([rr, usual[-1:]])
    ratios = np.stack([before / usual, after / usual, before / after, before], axis=1)
    return np.log(np.maximum(ratios, 0.05)).astype(np.float32)
