"""Numbers that tell a clean stretch of one lead from a noisy one: of its beats, their shapes, and its raw samples.

GROUPS lists them by what they need. None depends on the size or the polarity of the signal. What cannot be computed
(an interval where there are fewer than three beats) is NaN, never a value that looks like one.
"""

import numpy as np
from scipy import fft, ndimage, signal

from ecglib.data import filters, rpeaks
from ecglib.rhythm.matching import TOLERANCE_S, matched

RR = "rr_mean rr_median sdnn rmssd sdsd pnn20 pnn50 cvnn cvsd hr_min hr_max sd1 sd2 sd_ratio triangular".split()
PLAUSIBILITY = "rr_implausible rr_jumps beat_share longest_gap agreement".split()
TEMPLATE = ["template_mean", "template_min"]
RAW = "flat clipped power_drift power_waves power_muscle power_high kurtosis".split()
GROUPS = {"rr": RR, "plausibility": PLAUSIBILITY, "template": TEMPLATE, "raw": RAW}
RR_LIMITS_S, RATIO_LIMITS = (0.3, 2.0), (0.5, 2.0)  # of one interval, and of an interval to the one before
TRIANGULAR_MS = 1000 / 128  # width of the bins of the triangular index (Task Force 1996)
BEAT_S = (0.2, 0.4)  # seconds before and after an R peak that make a beat
BANDS_HZ = {"power_drift": (0, 0.67), "power_waves": (0.67, 15), "power_muscle": (15, 40), "power_high": (40, np.inf)}
QRS_HZ, BEAT_HZ, USUAL_SHARE = (5, 15), (5, 40), 0.65  # of the spectral rule
EXTREME = 0.01  # share of the range of a window within which a sample counts as clipped, a piece of FLAT_S as flat
FLAT_S = 0.2
MIN_BEATS = 3


def features(x: np.ndarray, fs: float) -> dict[str, float]:
    """All features of GROUPS and `n_beats` of one window.

    x: (time,) mV; fs: Hz. A constant window has no beats, flat 1 and clipped 1.
    """
    x = np.nan_to_num(np.asarray(x, np.float32))
    if np.ptp(x) == 0:
        nothing = dict.fromkeys([*RR, *PLAUSIBILITY, *TEMPLATE, *RAW], np.nan)
        return nothing | dict(beat_share=0.0, longest_gap=len(x) / fs, agreement=0.0, flat=1.0, clipped=1.0, n_beats=0)
    steady = filters.bandpass(x, fs, 0.67, None, order=2)
    if np.sum(steady.astype(float) ** 3) < 0:  # upright: detectors set a peak differently on an inverted complex
        x, steady = -x, -steady
    peaks = rpeaks.r_peaks(x, fs)
    other = energy_peaks(x, fs)
    found = hrv(1000 * np.diff(peaks) / fs) if len(peaks) >= MIN_BEATS else dict.fromkeys(RR, np.nan)
    found |= plausibility(peaks / fs, len(x) / fs) | {"agreement": agreement(peaks, other, fs)}
    return found | template(steady, peaks, fs) | raw(x, fs) | {"n_beats": len(peaks)}


def energy_peaks(x: np.ndarray, fs: float) -> np.ndarray:
    """Samples of the R peaks by a second, plain detector, whose errors are not those of `ecglib.data.rpeaks`.

    x: (time,) mV; fs: Hz. Peaks of the energy of the slope (8 to 20 Hz, mean over 150 ms), at least 0.25 s apart and
    above a third of the median of the largest value of every two seconds.
    """
    slope = np.gradient(filters.bandpass(x, fs, 8, min(20, 0.45 * fs), order=2))
    energy = np.sqrt(ndimage.uniform_filter1d(slope**2, max(1, round(0.15 * fs))))
    size = min(round(2 * fs), len(x))
    usual = np.median(energy[: len(x) // size * size].reshape(-1, size).max(axis=1))
    return signal.find_peaks(energy, height=max(usual / 3, 1e-9), distance=max(1, round(0.25 * fs)))[0]


def hrv(rr: np.ndarray) -> dict[str, float]:
    """The variability of intervals between beats: RR, all in ms, shares, or beats per minute (hr_min, hr_max).

    rr: intervals (beat - 1,) in ms, at least two. Sources: Task Force of the ESC and NASPE (1996), Circulation 93:1043;
    Brennan et al. (2001), IEEE Trans Biomed Eng 48:1342 (SD1 and SD2 of the Poincare plot).
    """
    steps, sdnn = np.diff(rr), np.std(rr, ddof=1)
    mean, rmssd = np.mean(rr), np.sqrt(np.mean(steps**2))
    sdsd = np.std(steps, ddof=1) if len(steps) > 1 else np.nan
    sd1 = sdsd / np.sqrt(2)
    sd2 = np.sqrt(max(2 * sdnn**2 - sd1**2, 0.0)) if sd1 == sd1 else np.nan
    bins = np.unique((rr // TRIANGULAR_MS).astype(int), return_counts=True)[1]
    shares = [float(np.mean(abs(steps) > limit)) for limit in (20, 50)]
    values = [mean, np.median(rr), sdnn, rmssd, sdsd, *shares, sdnn / mean, rmssd / mean]
    values += [60000 / rr.max(), 60000 / rr.min(), sd1, sd2, sd1 / sd2 if sd2 > 0 else np.nan, len(rr) / bins.max()]
    return {name: float(value) for name, value in zip(RR, values, strict=True)}


def plausibility(beats: np.ndarray, seconds: float) -> dict[str, float]:
    """Whether beats can be those of a heart: all of PLAUSIBILITY but the agreement of two detectors.

    beats: times (beat,) in s, rising; seconds: length of the window. rr_implausible: share of intervals outside
    RR_LIMITS_S; rr_jumps: share of ratios of successive intervals outside RATIO_LIMITS; beat_share: beats over those
    that fit at the median interval; longest_gap: s, the ends of the window included.
    """
    rr = np.diff(beats)
    ratios = rr[1:] / rr[:-1]
    gaps = np.diff(np.concatenate([[0.0], beats, [seconds]]))
    return {
        "rr_implausible": _share_outside(rr, RR_LIMITS_S),
        "rr_jumps": _share_outside(ratios, RATIO_LIMITS),
        "beat_share": float(len(beats) * np.median(rr) / seconds) if len(rr) else 0.0,
        "longest_gap": float(gaps.max()),
    }


def _share_outside(values, limits) -> float:
    return float(np.mean((values < limits[0]) | (values > limits[1]))) if len(values) else np.nan


def agreement(reference: np.ndarray, found: np.ndarray, fs: float) -> float:
    """F1 of two sets of R peaks that may lie 150 ms apart (ANSI/AAMI EC57); 0 where either finds none.

    reference, found: samples, rising; fs: Hz.
    """
    pairs = len(matched(reference, found, TOLERANCE_S * fs)[0])
    return 2 * pairs / max(len(reference) + len(found), 1)


def template(x: np.ndarray, peaks: np.ndarray, fs: float) -> dict[str, float]:
    """Mean and smallest correlation of the beats with their median beat; NaN where fewer than three are whole.

    x: (time,) mV without drift; peaks: samples of the R peaks; fs: Hz.
    """
    before, after = (round(part * fs) for part in BEAT_S)
    whole = peaks[(peaks >= before) & (peaks + after <= len(x))]
    if len(whole) < MIN_BEATS:
        return dict.fromkeys(TEMPLATE, np.nan)
    beats = x[whole[:, None] + np.arange(-before, after)].astype(float)
    median = np.median(beats, axis=0)
    beats, median = beats - beats.mean(axis=1, keepdims=True), median - median.mean()
    sizes = np.linalg.norm(beats, axis=1) * np.linalg.norm(median)
    r = np.divide(beats @ median, sizes, out=np.zeros(len(beats)), where=sizes > 0)
    return {"template_mean": float(r.mean()), "template_min": float(r.min())}


def raw(x: np.ndarray, fs: float) -> dict[str, float]:
    """What needs no beats: RAW of a window x (time,) mV at fs Hz that is not constant.

    flat: share of pieces of FLAT_S within EXTREME of the range; clipped: share of samples within EXTREME of either end
    of the range; powers: shares of the whole in BANDS_HZ; kurtosis: 3 for normal noise.
    """
    x = np.asarray(x, np.float64)
    low, high, size = x.min(), x.max(), round(FLAT_S * fs)
    near = EXTREME * (high - low)
    pieces = x[: len(x) // size * size].reshape(-1, size)
    middle = x - x.mean()
    power, frequency = abs(fft.rfft(middle)) ** 2, fft.rfftfreq(len(x), 1 / fs)
    shares = {
        name: float(power[(frequency >= a) & (frequency < b)].sum() / power.sum()) for name, (a, b) in BANDS_HZ.items()
    }
    return {
        "flat": float(np.mean(np.ptp(pieces, axis=1) < near)),
        "clipped": float(np.mean((x <= low + near) | (x >= high - near))),
        **shares,
        "kurtosis": float(np.mean(middle**4) / np.mean(middle**2) ** 2),
    }


def spectral_rule(x: np.ndarray, fs: float) -> np.ndarray:
    """How far the share of the power from 5 to 40 Hz that lies below 15 Hz is from 0.65: (window,), 0.65 if constant.

    x: (window, time) mV; fs: Hz. QRS complexes have their power there; an ECG holds 0.5 to 0.8 of it, muscle noise
    less, motion more. Source: pSQI of Li et al. (2008), Physiol Meas 29:15.
    """
    power = abs(fft.rfft(x - x.mean(axis=-1, keepdims=True), axis=-1)) ** 2
    frequency = fft.rfftfreq(x.shape[-1], 1 / fs)
    qrs, beat = (power[:, (frequency >= a) & (frequency <= b)].sum(axis=-1) for a, b in (QRS_HZ, BEAT_HZ))
    return abs(np.divide(qrs, beat, out=np.zeros(len(x)), where=beat > 0) - USUAL_SHARE)
