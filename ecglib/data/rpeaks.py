"""R peaks: found by sleepecg on several leads, confirmed, and set on the sharpest deflection."""

import numpy as np
from scipy import ndimage, signal

from ecglib.data import filters


def r_peaks(x: np.ndarray, fs: float) -> np.ndarray:
    """Return sample numbers of the R peaks (int64, rising) of x (time,) or (lead, time) in mV at fs Hz.

    Detector: sleepecg (C backend), on the lead whose 5-25 Hz activity is most concentrated in peaks, which loses fewer
    beats than a fixed lead II (LUDB: F1 .997). NaN counts as 0. No beat, a flat or a too short signal: an empty array.
    """
    from sleepecg import detect_heartbeats

    x = np.nan_to_num(np.atleast_2d(np.asarray(x, np.float64)))
    if x.shape[-1] < 2 * fs:
        return np.zeros(0, np.int64)
    lead = x[_sharpest(x, fs)] if len(x) > 1 else x[0]
    if np.ptp(lead) == 0:
        return np.zeros(0, np.int64)
    return _confirmed(x, fs, np.asarray(detect_heartbeats(lead, fs), np.int64))


def _confirmed(x: np.ndarray, fs: float, r: np.ndarray) -> np.ndarray:
    """Check detected peaks against the QRS-band activity of all leads together.

    sleepecg's thresholds start low, so that short slow records show P and T waves as beats: peaks under a quarter of
    the usual activity are dropped, those more than 60 ms off their activity are moved, of two within 200 ms the larger
    stays, and gaps over 1.5 median RR get the peaks of at least 0.4 of the usual activity. On 10 s of the nine MIT-BIH
    records here this raises the worst F1 from .92 to .985.
    """
    if len(r) < 2:
        return r
    activity = abs(filters.bandpass(x, fs, 6, min(20, 0.45 * fs), order=2))
    top = np.quantile(activity, 0.98, axis=-1, keepdims=True)
    activity = (activity / np.where(top > 0, top, 1)).mean(axis=0)
    activity = ndimage.uniform_filter1d(activity, max(1, round(0.12 * fs)))
    reach = round(0.1 * fs)
    near = [max(0, peak - reach) + int(activity[max(0, peak - reach) : peak + reach + 1].argmax()) for peak in r]
    usual = np.quantile(activity[near], 0.75)
    kept = []
    for peak, best in zip(r.tolist(), near, strict=True):
        peak = best if abs(best - peak) > 0.06 * fs else peak
        if activity[best] < 0.25 * usual or peak in kept:
            continue
        if not kept or peak - kept[-1] > 0.2 * fs:
            kept.append(peak)
        elif activity[peak] > activity[kept[-1]]:
            kept[-1] = peak
    gap = 1.5 * np.median(np.diff(kept)) if len(kept) > 2 else np.inf
    others = signal.find_peaks(activity, height=0.4 * usual, distance=max(1, round(0.25 * fs)))[0]
    for before, after in zip(kept[:-1], kept[1:], strict=True):
        if after - before > gap:
            kept += [int(peak) for peak in others if before + 0.28 * fs < peak < after - 0.28 * fs]
    return np.array(sorted(kept), np.int64)


def _sharpest(x: np.ndarray, fs: float) -> int:
    sos = signal.butter(2, (5, min(25, 0.45 * fs)), "bandpass", fs=fs, output="sos")
    activity = np.sort(abs(signal.sosfilt(sos, x, axis=-1)), axis=-1)
    typical, high = activity[:, activity.shape[1] // 2], activity[:, int(0.99 * activity.shape[1])]
    return int(np.argmax(np.divide(high, typical, out=np.zeros(len(x)), where=typical > 0)))
