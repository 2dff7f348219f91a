"""R peaks, heart-rate variability, and hand-made features of one record: the honest baseline of every comparison.

Features are measured on the median beat at 500 Hz. The suffix of a name tells its unit: _mv and _mvms follow the
amplitude of the signal; _ms, _deg, _share and names without a unit do not.
"""

import numpy as np
from scipy import ndimage, signal

from ecglib import preprocess
from ecglib.signals import LEADS, EcgError

PRE_S, POST_S, FINE = 0.4, 0.6, 500  # the median beat: seconds before and after R, rate in Hz
HRV_NAMES = tuple(
    "n_beats mean_rr median_rr sdnn rmssd sdsd pnn20 pnn50 cvnn cvsd hr_min hr_max sd1 sd2 sd1_sd2 triangular "
    "rr_entropy rr_lag1 rr_outside ratio_outside longest_gap premature".split()
)
GLOBAL_NAMES = tuple(
    "pr_ms p_ms qrs_ms qt_ms qtc_bazett_ms qtc_fridericia_ms t_peak_ms p_share p_consistency p_snr beat_corr "
    "beat_corr_min aberrant_share ventricular_share atrial_share width_max_ms noise_mv residual_mv residual_share "
    "f_share f_peak_share drift_share low_share middle_share high_share".split()
)
LEAD_NAMES = tuple(
    "p_mv q_mv r_mv s_mv r2_mv qrs_mv r_share qrs_mvms r_time_ms notches j_mv st60_mv st80_mv st_slope_mv "
    "t_mv t_low_mv t_high_mv t_mvms".split()
)
COMBINED = {  # name -> what must be there
    "qrs_axis_deg": ("I", "II"),
    "p_axis_deg": ("I", "II"),
    "t_axis_deg": ("I", "II"),
    "qrs_t_angle_deg": ("I", "II"),
    "limb_low_mv": ("I", "II", "III"),
    "chest_low_mv": ("V1", "V2", "V3", "V4", "V5", "V6"),
    "r_progression": ("V1", "V2", "V3", "V4"),
    "sokolow_lyon_mv": ("V1", "V5", "V6"),
    "cornell_mv": ("aVL", "V3"),
    "cornell_product_mvms": ("aVL", "V3"),
    "right_sokolow_mv": ("V1", "V5", "V6"),
}
REGIONS = {"inferior": ("II", "III", "aVF"), "lateral": ("I", "aVL", "V5", "V6"), "anterior": ("V1", "V2", "V3", "V4")}
REGION_NAMES = ("q_mv", "r_mv", "st60_mv", "t_mv")  # means over the leads of a region


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
    return np.asarray(detect_heartbeats(lead, fs), np.int64)


def _sharpest(x: np.ndarray, fs: float) -> int:
    """Row with the largest ratio of high to typical activity in the QRS band."""
    sos = signal.butter(2, (5, min(25, 0.45 * fs)), "bandpass", fs=fs, output="sos")
    activity = np.sort(abs(signal.sosfilt(sos, x, axis=-1)), axis=-1)
    typical, high = activity[:, activity.shape[1] // 2], activity[:, int(0.99 * activity.shape[1])]
    return int(np.argmax(np.divide(high, typical, out=np.zeros(len(x)), where=typical > 0)))


def hrv(r: np.ndarray, fs: float) -> dict[str, float]:
    """Return statistics of the RR intervals of R peaks r (sample numbers) at fs Hz, keys HRV_NAMES; times in ms.

    n - 1 in every deviation; pNN strictly greater; sd2 = sqrt(2 sdnn^2 - sd1^2); entropy of 50 ms bins in bits;
    `premature`: share of intervals under 0.8 of the median; `rr_outside`: share outside 0.3-2 s; `ratio_outside`: share
    of successive ratios outside 0.5-2. NaN: all but n_beats with fewer than 3 beats; sd1_sd2 where sd2 is 0; rr_lag1
    (autocorrelation at lag 1) with fewer than 4 intervals or constant ones.
    Source: Task Force 1996, doi:10.1161/01.CIR.93.5.1043.
    """
    rr = np.diff(np.asarray(r, np.float64)) * (1000.0 / fs)
    out = dict.fromkeys(HRV_NAMES, np.nan) | {"n_beats": float(len(r))}
    if len(rr) < 2:
        return out
    if (rr <= 0).any():
        raise EcgError("R peaks must rise", field="r_peaks")
    step, mean, ratio = np.diff(rr), rr.mean(), rr[1:] / rr[:-1]
    sdnn, sdsd = rr.std(ddof=1), step.std(ddof=1) if len(step) > 1 else 0.0
    sd1 = sdsd / np.sqrt(2)
    sd2 = np.sqrt(max(2 * sdnn**2 - sd1**2, 0.0))
    rmssd = np.sqrt(np.mean(step**2))
    counts = np.unique(np.floor(rr / 50), return_counts=True)[1] / len(rr)
    triangle = np.unique(np.floor(rr / 7.8125), return_counts=True)[1].max()
    centred = rr - mean
    out |= dict(mean_rr=mean, median_rr=np.median(rr), sdnn=sdnn, rmssd=rmssd, sdsd=sdsd, cvnn=sdnn / mean)
    out |= dict(pnn20=np.mean(abs(step) > 20), pnn50=np.mean(abs(step) > 50), cvsd=rmssd / mean, sd1=sd1, sd2=sd2)
    out |= dict(hr_min=60000 / rr.max(), hr_max=60000 / rr.min(), sd1_sd2=sd1 / sd2 if sd2 > 0 else np.nan)
    out |= dict(triangular=len(rr) / triangle, rr_entropy=-np.sum(counts * np.log2(counts)) + 0.0)
    out |= dict(rr_outside=np.mean((rr < 300) | (rr > 2000)), ratio_outside=np.mean((ratio < 0.5) | (ratio > 2)))
    out |= dict(longest_gap=rr.max(), premature=np.mean(rr < 0.8 * np.median(rr)))
    if len(rr) > 3 and centred.any():
        out["rr_lag1"] = np.sum(centred[1:] * centred[:-1]) / np.sum(centred**2)
    return {name: float(value) for name, value in out.items()}


def feature_names(leads=LEADS) -> tuple[str, ...]:
    """Names of `features` in their fixed order for these leads (standard names)."""
    have = set(leads)
    combined = [name for name, needed in COMBINED.items() if have.issuperset(needed)]
    regions = [f"{r}_{name}" for r, needed in REGIONS.items() if have.issuperset(needed) for name in REGION_NAMES]
    per_lead = [f"{lead}_{name}" for lead in leads for name in LEAD_NAMES]
    return (*HRV_NAMES, *GLOBAL_NAMES, *combined, *regions, *per_lead)


def features(x: np.ndarray, fs: float, r: np.ndarray, leads=None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (values float32, names) of x (lead, time) in mV at fs Hz with R peaks r (sample numbers).

    leads: standard names of the rows (default: 12 rows are LEADS, one row is lead I). NaN: HRV as in `hrv`; everything
    else where no whole beat (0.4 s before to 0.6 s after R) lies in the signal; pr_ms and p_ms where the P waves of the
    single beats correlate by less than 0.3 with their median; r_share of a flat lead; p_snr without noise.
    """
    x = np.nan_to_num(np.atleast_2d(np.asarray(x, np.float32)))
    leads = tuple(leads) if leads is not None else {12: LEADS, 1: LEADS[:1]}.get(len(x), ())
    if len(leads) != len(x):
        raise EcgError(f"{len(x)} rows need their lead names, got {leads}", field="leads")
    r, names = np.asarray(r, np.int64), feature_names(leads)
    found = hrv(r, fs) | _bands(x, fs)
    clean = preprocess.bandpass(x, fs, 0.4, 40, order=2)
    pre, post = round(PRE_S * fs), round(POST_S * fs)
    whole = r[(r >= pre) & (r + post < x.shape[-1])]
    if len(whole) and clean.any():
        beats = clean[:, whole[:, None] + np.arange(-pre, post)].transpose(1, 0, 2)  # (beat, lead, time)
        rr = np.median(np.diff(r)) / fs if len(r) > 1 else 0.8
        template, marks = _rhythm(found, clean, beats, whole, r, fs, rr)
        by = _per_lead(found, template, marks)
        found |= {f"{lead}_{name}": value[row] for name, value in by.items() for row, lead in enumerate(leads)}
        _combine(found, leads)
    return np.array([found.get(name, np.nan) for name in names], np.float32), names


def _bands(x: np.ndarray, fs: float) -> dict:
    """Shares of the power below 0.67, from 0.67 to 5, 5 to 15 and above 15 Hz, mean over leads."""
    power = abs(np.fft.rfft(x - x.mean(axis=-1, keepdims=True), axis=-1)) ** 2
    edges = np.searchsorted(np.fft.rfftfreq(x.shape[-1], 1 / fs), [0, 0.67, 5, 15])
    shares = np.add.reduceat(power, edges, axis=-1).sum(axis=0)
    names = ("drift_share", "low_share", "middle_share", "high_share")
    return dict(zip(names, shares / shares.sum(), strict=True)) if shares.sum() > 0 else {}


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of every row of a (beat, lead, time) with b (lead, time), leads joined; 0 where one is constant."""
    a, b = a.reshape(len(a), -1), b.reshape(-1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean()
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum())
    return np.divide(a @ b, norm, out=np.zeros(len(a)), where=norm > 0)


def _rhythm(found, clean, beats, whole, r, fs, rr):
    """Median beat of the dominant form, how beats differ from it, what is left without it; returns it and its marks."""
    near = slice(round((PRE_S - 0.12) * fs), round((PRE_S + 0.3) * fs))
    template = np.median(beats, axis=0)
    corr = _correlation(beats[..., near], template[..., near])
    if 3 <= (corr > 0.85).sum() < len(beats):
        template = np.median(beats[corr > 0.85], axis=0)
        corr = _correlation(beats[..., near], template[..., near])
    speed = np.sqrt((np.diff(beats[..., round((PRE_S - 0.15) * fs) : round((PRE_S + 0.2) * fs)]) ** 2).mean(axis=1))
    width = (speed > 0.15 * speed.max(axis=1, keepdims=True)).sum(axis=1) * (1000 / fs)
    before = np.diff(r, prepend=r[0])[np.searchsorted(r, whole)] / fs
    early = (before > 0) & (before < 0.85 * rr)
    odd = (corr < 0.8) | (width > 1.4 * np.median(width))
    found |= dict(beat_corr=corr.mean(), beat_corr_min=corr.min(), aberrant_share=np.mean(corr < 0.8))
    found |= dict(ventricular_share=np.mean(early & odd), atrial_share=np.mean(early & ~odd), width_max_ms=width.max())
    fine = preprocess.resample(template, fs, FINE)
    marks = _landmarks(fine, rr)
    found |= marks["intervals"]
    window = slice(*(int(m / FINE * fs) for m in marks["p"]))
    p_waves, p_wave = (y[..., window] - y[..., window].mean(axis=-1, keepdims=True) for y in (beats, template))
    share = _correlation(p_waves, p_wave).mean()
    spread, size = np.sqrt(np.mean((p_waves - p_wave) ** 2)), np.sqrt(np.mean(p_wave**2))
    found |= dict(p_consistency=share, p_snr=size / spread if spread > 0 else np.nan, noise_mv=spread)
    if share < 0.3:
        found |= dict(pr_ms=np.nan, p_ms=np.nan)
    _residual(found, clean, template, whole, fs, rr)
    return fine, marks


def _residual(found, clean, template, whole, fs, rr):
    """Subtract the median beat everywhere; flutter and fibrillation stay: share and sharpness of 4-9 Hz in the rest."""
    rest, pre = clean.copy(), round(PRE_S * fs)
    start, stop = pre - round(min(0.25, 0.4 * rr) * fs), pre + round(min(POST_S, 0.6 * rr) * fs)
    for peak in whole:
        rest[:, peak - pre + start : peak - pre + stop] -= template[:, start:stop]
    rest = rest[:, whole[0] - pre + start : whole[-1] - pre + stop]
    rms, total = np.sqrt(np.mean(rest**2)), np.sqrt(np.mean(clean**2))
    power = (abs(np.fft.rfft(rest * np.hanning(rest.shape[-1]), axis=-1)) ** 2).sum(axis=0)
    frequency = np.fft.rfftfreq(rest.shape[-1], 1 / fs)
    band, wide = power[(frequency >= 4) & (frequency <= 9)], power[(frequency >= 1) & (frequency <= 40)]
    found |= dict(residual_mv=rms, residual_share=rms / total)
    if wide.sum() > 0 and len(band):
        found |= dict(f_share=band.sum() / wide.sum(), f_peak_share=band.max() / wide.sum())


def _landmarks(fine: np.ndarray, rr: float) -> dict:
    """Boundaries of P, QRS and T on the median beat (lead, time) at 500 Hz, from all leads together.

    QRS: where the speed of the leads stays under a twelfth of its peak (or twice its resting level) for 16 ms; ends of
    T and P by the tangent at the steepest slope of the magnitude (Lepeschkin and Surawicz 1952).
    """
    n, zero = fine.shape[-1], round(PRE_S * FINE)
    speed = ndimage.uniform_filter1d(np.sqrt((np.gradient(fine, axis=-1) ** 2).mean(axis=0)), 5)
    peak = zero - 40 + int(speed[zero - 40 : zero + 41].argmax())
    quiet = speed < max(speed[peak] / 12, min(2 * np.quantile(speed, 0.3), speed[peak] / 6))
    calm = ndimage.minimum_filter1d(quiet.astype(np.int8), 8) > 0
    left, right = np.flatnonzero(calm[zero - 90 : peak]), np.flatnonzero(calm[peak : zero + 110])
    on = zero - 90 + (left[-1] + 4 if len(left) else 0)
    off = peak + (right[0] - 4 if len(right) else zero + 110 - peak)
    level = fine[:, max(0, on - 12) : on + 1].mean(axis=-1, keepdims=True)
    size = ndimage.uniform_filter1d(np.sqrt(((fine - level) ** 2).mean(axis=0)), 11)
    t_stop = min(n - 5, max(off + 100, zero + round((0.72 * rr) * FINE)))
    t = off + 30 + int(size[off + 30 : t_stop - 10].argmax())
    t_end = _tangent(size, t, t_stop, 1)
    p_start = max(5, on - 125, zero - round((rr - 0.3) * FINE) if rr > 0.45 else on - 60)
    p = p_start + int(size[p_start : max(p_start + 1, on - 12)].argmax())
    p_on, p_off = _tangent(size, p, max(0, p_start - 20), -1), _tangent(size, p, on, 1)
    qt, qrs, cube = (t_end - on) * 2.0, (off - on) * 2.0, np.cbrt(rr)
    intervals = dict(pr_ms=(on - p_on) * 2.0, p_ms=(p_off - p_on) * 2.0, qrs_ms=qrs, qt_ms=qt)
    intervals |= dict(qtc_bazett_ms=qt / np.sqrt(rr), qtc_fridericia_ms=qt / cube, t_peak_ms=(t - on) * 2.0)
    intervals["p_share"] = size[p] / size[on:off].max() if size[on:off].max() > 0 else 0.0
    return dict(on=on, off=off, t=t, t_end=t_end, p=(max(0, p - 35), max(p + 10, min(on, p + 35))), intervals=intervals)


def _tangent(size, top, limit, direction) -> int:
    """Where the tangent at the steepest slope between `top` and `limit` reaches zero, at most `limit`."""
    part = size[top : limit + 1] if direction > 0 else size[limit : top + 1][::-1]
    if len(part) < 3:
        return limit
    slope = np.diff(part)
    steepest = int(slope.argmin())
    reach = part[steepest] / -slope[steepest] if slope[steepest] < 0 else 0
    return top + direction * int(min(steepest + reach, len(part) - 1))


def _per_lead(found, fine, marks) -> dict:
    """LEAD_NAMES -> one value per lead; levels are relative to the 24 ms before QRS."""
    on, off, t, end = marks["on"], marks["off"], marks["t"], marks["t_end"]
    y = fine - fine[:, max(0, on - 12) : on + 1].mean(axis=-1, keepdims=True)
    qrs, p, rows = y[:, on : off + 1], y[:, slice(*marks["p"])], np.arange(len(y))
    top = qrs.argmax(axis=-1)
    r, step = qrs[rows, top].clip(0), np.arange(qrs.shape[-1])
    q = np.where(step <= top[:, None], qrs, 0).min(axis=-1).clip(None, 0)
    after = np.where(step >= top[:, None], qrs, 0)
    s, bottom = after.min(axis=-1).clip(None, 0), after.argmin(axis=-1)
    r2 = np.where(step >= bottom[:, None], qrs, 0).max(axis=-1) * (bottom > top)
    size = np.ptp(qrs, axis=-1)
    slope = np.diff(qrs, axis=-1)
    slope = np.where(abs(slope) > 0.01 * size[:, None], np.sign(slope), 0)
    notches = [np.count_nonzero(np.diff(row[row != 0])) for row in slope]
    st = [y[:, np.clip(off + k - 2, 0, None) : off + k + 3].mean(axis=-1) for k in (0, 30, 40)]
    wave = y[:, min(off + 30, t - 10) : max(end, t + 10)]
    by = dict(p_mv=_extreme(p - p[:, :1]), q_mv=q, r_mv=r, s_mv=s, r2_mv=r2.clip(0), qrs_mv=size, notches=notches)
    by |= dict(r_share=np.divide(r, size, out=np.full(len(y), np.nan), where=size > 0), qrs_mvms=qrs.sum(axis=-1) * 2)
    by |= dict(r_time_ms=top * 2.0, j_mv=st[0], st60_mv=st[1], st80_mv=st[2], st_slope_mv=st[2] - st[0])
    by |= dict(t_mv=_extreme(wave), t_low_mv=wave.min(-1), t_high_mv=wave.max(-1), t_mvms=wave.sum(axis=-1) * 2)
    return by


def _extreme(y: np.ndarray) -> np.ndarray:
    """Value of largest magnitude of every row, with its sign."""
    return y[np.arange(len(y)), abs(y).argmax(axis=-1)]


def _combine(found, leads):
    """Axes in the frontal plane, voltage sums, regional means: only those whose leads are there."""

    def get(lead, name):
        return float(found[f"{lead}_{name}"])

    have = set(leads)
    if have.issuperset(("I", "II")):
        for axis, name in (("qrs", "qrs_mvms"), ("p", "p_mv"), ("t", "t_mvms")):
            first, foot = get("I", name), (2 * get("II", name) - get("I", name)) / np.sqrt(3)
            found[f"{axis}_axis_deg"] = np.degrees(np.arctan2(foot, first))
        turn = abs(found["qrs_axis_deg"] - found["t_axis_deg"])
        found["qrs_t_angle_deg"] = min(turn, 360 - turn)
    for name, group in (("limb_low_mv", ("I", "II", "III")), ("chest_low_mv", LEADS[6:])):
        if have.issuperset(group):
            found[name] = max(get(lead, "qrs_mv") for lead in group)
    if have.issuperset(LEADS[6:10]):
        found["r_progression"] = sum(get(lead, "r_share") < 0.5 for lead in LEADS[6:10])
    if have.issuperset(("V1", "V5", "V6")):
        found["sokolow_lyon_mv"] = max(get("V5", "r_mv"), get("V6", "r_mv")) - get("V1", "s_mv")
        found["right_sokolow_mv"] = get("V1", "r_mv") - min(get("V5", "s_mv"), get("V6", "s_mv"))
    if have.issuperset(("aVL", "V3")):
        found["cornell_mv"] = get("aVL", "r_mv") - get("V3", "s_mv")
        found["cornell_product_mvms"] = found["cornell_mv"] * found["qrs_ms"]
    for region, group in REGIONS.items():
        if have.issuperset(group):
            found |= {f"{region}_{name}": np.mean([get(lead, name) for lead in group]) for name in REGION_NAMES}
