"""Pulse waves (PPG): systolic peaks, the rate that they give, and how irregular they come."""

import numpy as np
from scipy import ndimage

from ecglib.data import filters

BAND = (0.5, 8.0)  # Hz
PEAK_S, BEAT_S = 0.111, 0.667  # lengths of the two moving averages: a systolic peak, a beat
OFFSET = 0.02  # of the mean squared signal: what noise may add


def systolic_peaks(x: np.ndarray, fs: float) -> np.ndarray:
    """Sample numbers (int64, rising) of the systolic peaks of a pulse wave x (time,) at fs Hz, in any unit.

    Where a short average of the squared positive wave exceeds a long one for at least PEAK_S lies a peak.
    A flat signal, or one shorter than two beats at 60/min, gives an empty array. NaN counts as the median.
    Source: Elgendi et al. (2013), PLoS ONE 8(10):e76585, whose settings these are.
    """
    x = np.asarray(x, np.float64)
    known = np.isfinite(x)
    if len(x) < 2 * fs or not known.any() or np.ptp(x[known]) == 0:
        return np.zeros(0, np.int64)
    wave = filters.bandpass(np.where(known, x, np.median(x[known])), fs, *BAND, order=2).astype(np.float64)
    energy = np.clip(wave, 0, None) ** 2
    short, long = (ndimage.uniform_filter1d(energy, max(1, round(s * fs)), mode="nearest") for s in (PEAK_S, BEAT_S))
    blocks, n = ndimage.label(short > long + OFFSET * energy.mean())
    found = [where[0] for where in ndimage.find_objects(blocks, n)]
    found = [where for where in found if where.stop - where.start >= round(PEAK_S * fs)]
    return np.array([where.start + int(wave[where].argmax()) for where in found], np.int64)


def pulse_rate(x: np.ndarray, fs: float) -> float:
    """Beats per minute of a pulse wave x (time,): 60 over the median interval in seconds; NaN below two peaks."""
    intervals = np.diff(systolic_peaks(x, fs)) / fs
    return float(60 / np.median(intervals)) if len(intervals) else float("nan")


def irregularity(x: np.ndarray, fs: float) -> float:
    """Root mean square of successive differences of the intervals over their mean; NaN below three intervals.

    Source: Lee et al. (2013), IEEE Trans Biomed Eng 60(1):203-206: atrial fibrillation in pulse waves of a telephone.
    """
    intervals = np.diff(systolic_peaks(x, fs)) / fs
    if len(intervals) < 3:
        return float("nan")
    return float(np.sqrt(np.mean(np.diff(intervals) ** 2)) / intervals.mean())
