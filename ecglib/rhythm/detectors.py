"""R-peak detectors that are compared: functions of (signal (lead, time) in mV, fs in Hz) -> samples, rising."""

import numpy as np
from scipy import ndimage, signal

from ecglib.data import rpeaks

REFRACTORY_S = 0.2
LEVEL_S = 2.0  # seconds in which the heart beats at least once
WAVE_S = 0.36  # seconds after a beat in which its T wave may lie (Pan and Tompkins), or before one its P wave
CLIP = 1.2  # times its level: no single lead may say more
AROUND_S = 0.7  # seconds of which a QRS complex fills less than half, so that their median says what lies between beats


def house(x: np.ndarray, fs: float) -> np.ndarray:
    """The detector of the library for short recordings (`ecglib.data.rpeaks`): sleepecg, confirmed on all leads."""
    return rpeaks.r_peaks(x, fs)


def sleepecg(x: np.ndarray, fs: float) -> np.ndarray:
    """The detector of sleepecg (after Pan and Tompkins, own thresholds) on the first lead."""
    from sleepecg import detect_heartbeats

    return np.asarray(detect_heartbeats(np.asarray(x[0], np.float64), fs), np.int64)


def pan_tompkins(x: np.ndarray, fs: float) -> np.ndarray:
    """The detector of Pan and Tompkins (1985, IEEE Trans Biomed Eng 32:230) on the first lead.

    Band pass 5-15 Hz, five-point derivative, square, mean over 150 ms; thresholds between running levels of signal and
    noise peaks, search back after 1.66 mean RR, T waves told by their slope.
    """
    lead = _band(x[:1], fs, 5, 15)[0]
    slope = np.convolve(lead, np.array([1, 2, 0, -2, -1]) * fs / 8, "same")
    power = ndimage.uniform_filter1d(slope**2, max(1, round(0.15 * fs)))
    peaks = signal.find_peaks(power, distance=max(1, round(REFRACTORY_S * fs)))[0]
    steep = ndimage.maximum_filter1d(abs(slope), max(1, round(0.15 * fs)))
    found = _adaptive(peaks, power[peaks], steep[peaks], fs, power[: round(2 * fs)])
    return _on_deflection(lead, found, fs)


def _adaptive(peaks, heights, slopes, fs: float, learning) -> np.ndarray:
    """Peaks above the running threshold of Pan and Tompkins (equations 12 to 19)."""
    level, noise = float(learning.max(initial=0)) / 3, float(learning.mean()) / 2
    kept, intervals, waiting = [], [], []
    for at, height, slope in zip(peaks.tolist(), heights.tolist(), slopes.tolist(), strict=True):
        threshold = noise + 0.25 * (level - noise)
        mean_rr = np.mean(intervals[-8:]) if intervals else fs
        if kept and waiting and at - kept[-1][0] > 1.66 * mean_rr:
            best = max(waiting, key=lambda peak: peak[1])
            if best[1] > threshold / 2:
                intervals.append(best[0] - kept[-1][0])
                kept.append(best)
                level = 0.25 * best[1] + 0.75 * level
                waiting = [peak for peak in waiting if peak[0] > best[0]]
        since = at - kept[-1][0] if kept else fs
        t_wave = since < 0.36 * fs and slope < kept[-1][2] / 2
        if height > threshold and not t_wave:
            if kept:
                intervals.append(since)
            kept.append((at, height, slope))
            level = 0.125 * height + 0.875 * level
            waiting = []
        else:
            noise = 0.125 * height + 0.875 * noise
            if not t_wave and since > 0.3 * fs:
                waiting.append((at, height, slope))
    return np.array([at for at, _, _ in kept], np.int64)


def two_lead(x: np.ndarray, fs: float) -> np.ndarray:
    """A detector for minutes to days that weighs all leads by how clearly they show their beats at the time.

    The activity of each lead (8-25 Hz, absolute, mean over 100 ms) is divided by its level, the running median of the
    largest value of two seconds, and weighted by level over typical activity in between. The heart is silent around a
    QRS complex, and noise is not: what counts is how far the activity stands out of its surroundings. A lead that
    shows nothing for two seconds in which another one shows beats has no say. Peaks of the weighted mean above a part
    of their own running level are beats; after a gap of 1.5 usual RR lower ones are too. Of two beats within 360 ms one
    that is half as high is a P or T wave, and so is a low one between two beats that are no further apart than usual.
    The numbers were chosen on the half DS1 and the paced records of MIT-BIH, with an eye on noise added to DS1, on CPSC
    2021 and on QTDB.
    """
    x = np.nan_to_num(np.asarray(x, np.float32))
    if x.shape[-1] < 2 * LEVEL_S * fs:
        return np.zeros(0, np.int64)
    band = _band(x, fs, 8, 25)
    joint, shares = _joint(ndimage.uniform_filter1d(abs(band), max(1, round(0.1 * fs)), axis=-1), fs)
    peaks = signal.find_peaks(joint, height=0.1, distance=max(1, round(REFRACTORY_S * fs)))[0]
    found = _without_waves(_confirmed(peaks, joint[peaks], fs), joint, fs)
    found = _without_inserted(found, joint)
    best = band[shares.mean(axis=1).argmax()]
    return _on_deflection(best, found, fs)


def _joint(activity, fs: float, surroundings: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean (time,) of how far each lead stands out, 1 for a usual beat, and weights (lead, time) of the leads.

    surroundings: part of the median of AROUND_S that is taken off the activity.
    """
    levels = np.stack([_level(lead, fs, np.max, 7) for lead in activity])
    between = np.stack([_level(lead, fs, np.median, 7) for lead in activity])
    around = _coarse(activity, fs, ndimage.median_filter, AROUND_S)
    now = _coarse(activity, fs, ndimage.maximum_filter1d, LEVEL_S) / np.maximum(levels, 1e-6)
    weight = levels / np.maximum(between, 1e-6) * (levels > 1e-4) * np.clip(now, 0.01, 1)
    total = weight.sum(axis=0)
    shares = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    height = np.maximum(activity - surroundings * around, 0) / np.maximum(levels, 1e-6)
    joint = (shares * np.minimum(height, CLIP)).sum(axis=0)
    return ndimage.uniform_filter1d(joint, max(1, round(0.03 * fs))), shares


def _coarse(activity, fs: float, running, seconds: float) -> np.ndarray:
    """A running filter over `seconds`, at 50 Hz since the activity is a mean over 100 ms; as long as the activity."""
    step, n_times = max(1, round(fs / 50)), activity.shape[-1]
    at = np.arange(0, n_times, step)
    width = round(seconds * fs / step)
    filtered = [running(lead[::step], width, mode="nearest") for lead in activity]
    return np.stack([np.interp(np.arange(n_times), at, lead) for lead in filtered]).astype(np.float32)


def _confirmed(peaks, heights, fs: float, share: float = 0.3, low: float = 0.2) -> np.ndarray:
    """Peaks above `share` of the usual height of their neighbourhood; above `low` where a beat is missing."""
    usual = ndimage.median_filter(np.where(heights > 0.5, heights, 1.0), 9, mode="nearest") if len(heights) else heights
    height = heights / np.clip(usual, 0.5, 2)
    sure = peaks[height > share]
    if len(sure) < 3:
        return sure
    gaps = np.diff(sure)
    rr = ndimage.median_filter(gaps, 9, mode="nearest")
    more = []
    for before, after, typical in zip(sure[:-1], sure[1:], rr, strict=True):
        if after - before > 1.5 * typical:
            inside = (peaks > before + 0.3 * fs) & (peaks < after - 0.3 * fs) & (height > low)
            more += _strongest(peaks[inside], height[inside], 0.5 * typical)
    return np.sort(np.concatenate([sure, np.array(more, np.int64)]))


def _without_waves(found, joint, fs: float) -> np.ndarray:
    """Beats without those that lie within WAVE_S of another one and are half as high."""
    kept = []
    for at in found.tolist():
        if kept and at - kept[-1] < WAVE_S * fs and joint[at] < joint[kept[-1]] / 2:
            continue
        if len(kept) > 1 and at - kept[-1] < WAVE_S * fs and joint[kept[-1]] < joint[at] / 2:
            kept.pop()
        kept.append(at)
    return np.array(kept, np.int64)


def _without_inserted(found, joint, height: float = 0.7, gap: float = 1.4) -> np.ndarray:
    """Beats without those lower than both neighbours (times `height`) which stand less than `gap` usual RR apart."""
    while len(found) > 4:
        heights, usual = joint[found], ndimage.median_filter(np.diff(found).astype(float), 11, mode="nearest")
        low = heights[1:-1] < height * np.minimum(heights[2:], heights[:-2])
        drop = np.zeros(len(found), bool)
        drop[1:-1] = low & (found[2:] - found[:-2] < gap * usual[1:])
        drop[1:] &= ~drop[:-1]
        if not drop.any():
            break
        found = found[~drop]
    return found


def _strongest(peaks, heights, distance: float) -> list[int]:
    """Peaks from the highest down, each at least `distance` samples from those taken before."""
    taken = []
    for at in peaks[np.argsort(-heights, kind="stable")].tolist():
        if all(abs(at - other) >= distance for other in taken):
            taken.append(at)
    return taken


def _level(activity, fs: float, statistic, blocks: int) -> np.ndarray:
    """Running median, over `blocks` blocks of LEVEL_S, of a statistic of each block; one value per sample."""
    width = round(LEVEL_S * fs)
    values = statistic(activity[: len(activity) // width * width].reshape(-1, width), axis=1)
    values = ndimage.median_filter(values, blocks, mode="nearest")
    centres = (np.arange(len(values)) + 0.5) * width
    return np.interp(np.arange(len(activity)), centres, values).astype(np.float32)


def _band(x, fs: float, low: float, high: float) -> np.ndarray:
    sos = signal.butter(2, (low, min(high, 0.45 * fs)), "bandpass", fs=fs, output="sos")
    return signal.sosfiltfilt(sos, x, axis=-1)


def _on_deflection(band, peaks, fs: float) -> np.ndarray:
    """Each peak moved to the largest deflection of the band-passed lead within 80 ms; no two on one sample."""
    reach = round(0.08 * fs)
    moved = [max(0, at - reach) + int(abs(band[max(0, at - reach) : at + reach + 1]).argmax()) for at in peaks.tolist()]
    return np.unique(np.array(moved, np.int64))


DETECTORS = {"two leads": two_lead, "house": house, "sleepecg": sleepecg, "Pan-Tompkins": pan_tompkins}
