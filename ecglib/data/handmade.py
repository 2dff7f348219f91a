"""Hand-made features, the baseline that encoders must beat: the median beat, heart-rate variability, rhythm."""

import math

import numpy as np
from scipy import ndimage

from ecglib import EcgError
from ecglib.data import filters, notebook, rpeaks
from ecglib.data.recording import LEADS

PRE_S, POST_S, FINE = 0.4, 0.6, 500  # seconds before and after R, rate in Hz
LIKE_P = 0.3  # least mean correlation of single P waves with their median
INTERVAL_NAMES = tuple("pr_ms p_ms qrs_ms qt_ms qtc_bazett_ms qtc_fridericia_ms t_peak_ms p_share".split())
LEAD_NAMES = tuple(
    "p_mv q_mv r_mv s_mv r2_mv qrs_mv r_share qrs_mvms r_time_ms notches j_mv st60_mv st80_mv st_slope_mv "
    "t_mv t_low_mv t_high_mv t_mvms".split()
)
REGIONS = {"inferior": ("II", "III", "aVF"), "lateral": ("I", "aVL", "V5", "V6"), "anterior": ("V1", "V2", "V3", "V4")}
REGION_NAMES = ("q_mv", "r_mv", "st60_mv", "t_mv")  # means over the leads of a region


def measure(fine: np.ndarray, marks: dict, leads, rr: float) -> dict[str, float]:
    """Return `names(leads)` -> value of the median beat `fine` with its `landmarks`; rr: median RR in seconds."""
    values, by = _intervals(marks, rr), _per_lead(fine, marks)
    values |= {f"{lead}_{name}": float(value[row]) for name, value in by.items() for row, lead in enumerate(leads)}
    _combine(values, leads)
    return values


def landmarks(fine: np.ndarray, rr: float) -> dict:
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
    if len(right):
        off = peak + right[0] - 4
    else:  # ST rises steeply, as in bundle branch block: the least speed after the main deflection
        off = peak + 20 + int(speed[peak + 20 : zero + 90].argmin())
    level = fine[:, max(0, on - 12) : on + 1].mean(axis=-1, keepdims=True)
    size = ndimage.uniform_filter1d(np.sqrt(((fine - level) ** 2).mean(axis=0)), 11)
    peak_size = max(size[on:off].max(), 1e-9)
    t_stop = min(n - 5, max(off + 100, zero + round((0.72 * rr) * FINE)))
    t = off + 30 + int(size[off + 30 : t_stop - 10].argmax())
    t_end = _tangent(size, t, t_stop, 1)
    p_start = max(5, on - 125, zero - round((rr - 0.3) * FINE) if rr > 0.45 else on - 60)
    p = p_start + int(size[p_start : max(p_start + 1, on - 12)].argmax())
    p_on, p_off = _tangent(size, p, max(0, p_start - 20), -1), _tangent(size, p, on, 1)
    window = (max(0, p - 35), max(p + 10, min(on, p + 35)))
    return dict(on=on, off=off, t=t, t_end=t_end, p_on=p_on, p_off=p_off, p_share=size[p] / peak_size, p=window)


def _intervals(marks: dict, rr: float) -> dict[str, float]:
    """INTERVAL_NAMES; QT corrected after Bazett 1920 and Fridericia 1920."""
    step, on = 1000 / FINE, marks["on"]
    qt = (marks["t_end"] - on) * step
    values = dict(pr_ms=(on - marks["p_on"]) * step, p_ms=(marks["p_off"] - marks["p_on"]) * step, qt_ms=qt)
    values |= dict(qrs_ms=(marks["off"] - on) * step, t_peak_ms=(marks["t"] - on) * step, p_share=marks["p_share"])
    return values | dict(qtc_bazett_ms=qt / np.sqrt(rr), qtc_fridericia_ms=qt / np.cbrt(rr))


def _tangent(size, top, limit, direction) -> int:
    """Where the tangent at the steepest slope between `top` and `limit` reaches zero, at most `limit`."""
    flank = size[top : limit + 1] if direction > 0 else size[limit : top + 1][::-1]
    if len(flank) < 3:
        return limit
    slope = np.diff(flank)
    steepest = int(slope.argmin())
    reach = flank[steepest] / -slope[steepest] if slope[steepest] < 0 else 0
    return top + direction * int(min(steepest + reach, len(flank) - 1))


def _per_lead(fine, marks) -> dict:
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
    return y[np.arange(len(y)), abs(y).argmax(axis=-1)]


def _axis(get, name: str) -> float:
    """Direction of a measurement in the frontal plane, degrees, from leads I and II."""
    first, foot = get("I", name), (2 * get("II", name) - get("I", name)) / np.sqrt(3)
    return np.degrees(np.arctan2(foot, first))


def _angle(values) -> float:
    turn = abs(values["qrs_axis_deg"] - values["t_axis_deg"])
    return min(turn, 360 - turn)


# name -> (leads that it needs, its value from get(lead, measurement) and the values before it)
LIMB, CHEST, SIDES = ("I", "II", "III"), LEADS[6:], ("V1", "V5", "V6")
COMBINED = {
    "qrs_axis_deg": (("I", "II"), lambda get, _: _axis(get, "qrs_mvms")),
    "p_axis_deg": (("I", "II"), lambda get, _: _axis(get, "p_mv")),
    "t_axis_deg": (("I", "II"), lambda get, _: _axis(get, "t_mvms")),
    "qrs_t_angle_deg": (("I", "II"), lambda _, values: _angle(values)),
    "limb_low_mv": (LIMB, lambda get, _: max(get(lead, "qrs_mv") for lead in LIMB)),
    "chest_low_mv": (CHEST, lambda get, _: max(get(lead, "qrs_mv") for lead in CHEST)),
    "r_progression": (CHEST[:4], lambda get, _: sum(get(lead, "r_share") < 0.5 for lead in CHEST[:4])),
    "sokolow_lyon_mv": (SIDES, lambda get, _: max(get("V5", "r_mv"), get("V6", "r_mv")) - get("V1", "s_mv")),
    "cornell_mv": (("aVL", "V3"), lambda get, _: get("aVL", "r_mv") - get("V3", "s_mv")),
    "cornell_product_mvms": (("aVL", "V3"), lambda _, values: values["cornell_mv"] * values["qrs_ms"]),
    "right_sokolow_mv": (SIDES, lambda get, _: get("V1", "r_mv") - min(get("V5", "s_mv"), get("V6", "s_mv"))),
}


def _combine(values, leads):
    """Axes in the frontal plane, voltage sums, regional means: only those whose leads were recorded."""

    def get(lead, name):
        return float(values[f"{lead}_{name}"])

    for name, (needed, formula) in COMBINED.items():
        if set(leads).issuperset(needed):
            values[name] = formula(get, values)
    for region, group in REGIONS.items():
        if set(leads).issuperset(group):
            values |= {f"{region}_{name}": np.mean([get(lead, name) for lead in group]) for name in REGION_NAMES}


def interval_names(leads=LEADS) -> tuple[str, ...]:
    """Names of `measure` in their fixed order for these leads (standard names)."""
    have = set(leads)
    combined = [name for name, (needed, _) in COMBINED.items() if have.issuperset(needed)]
    regions = [f"{r}_{name}" for r, needed in REGIONS.items() if have.issuperset(needed) for name in REGION_NAMES]
    per_lead = [f"{lead}_{name}" for lead in leads for name in LEAD_NAMES]
    return (*INTERVAL_NAMES, *combined, *regions, *per_lead)


HRV_NAMES = tuple(
    "n_beats mean_rr median_rr sdnn rmssd sdsd pnn20 pnn50 cvnn cvsd hr_min hr_max sd1 sd2 sd1_sd2 triangular "
    "rr_entropy rr_lag1 rr_outside ratio_outside longest_gap premature".split()
)
RHYTHM_NAMES = tuple(
    "p_consistency p_snr beat_corr beat_corr_min aberrant_share ventricular_share atrial_share width_max_ms noise_mv "
    "residual_mv residual_share f_share f_peak_share drift_share low_share middle_share high_share".split()
)


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
    return (*HRV_NAMES, *RHYTHM_NAMES, *interval_names(leads))


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
    values = hrv(r, fs) | _bands(x, fs)
    clean = filters.bandpass(x, fs, 0.4, 40, order=2)
    pre, post = round(PRE_S * fs), round(POST_S * fs)
    whole = r[(r >= pre) & (r + post < x.shape[-1])]
    if len(whole) and clean.any():
        beats = clean[:, whole[:, None] + np.arange(-pre, post)].transpose(1, 0, 2)  # (beat, lead, time)
        rr = np.median(np.diff(r)) / fs if len(r) > 1 else 0.8
        template = _rhythm(values, beats, whole, r, fs, rr)
        _residual(values, clean, template, whole, fs, rr)
        fine = filters.resample(template, fs, FINE)
        marks = landmarks(fine, rr)
        values |= measure(fine, marks, leads, rr)
        _p_waves(values, beats, template, [round(mark / FINE * fs) for mark in marks["p"]])
    return np.array([values.get(name, np.nan) for name in names], np.float32), names


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


def _rhythm(values, beats, whole, r, fs, rr) -> np.ndarray:
    """Median beat (lead, time) of the dominant form, and how the single beats differ from it in shape, width, time."""
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
    values |= dict(beat_corr=corr.mean(), beat_corr_min=corr.min(), aberrant_share=np.mean(corr < 0.8))
    values |= dict(ventricular_share=np.mean(early & odd), atrial_share=np.mean(early & ~odd), width_max_ms=width.max())
    return template


def p_consistency(beats: np.ndarray, template: np.ndarray, window: slice) -> tuple[float, float, float]:
    """How alike the P waves of single beats (beat, lead, time) are to that of the median beat (lead, time).

    window: samples that hold it. Returns the mean correlation (below LIKE_P there is no P wave), the size of the median
    P wave and the spread of the single ones around it (mV, root mean squares around the mean of each lead).
    """
    each, median = (y[..., window] - y[..., window].mean(axis=-1, keepdims=True) for y in (beats, template))
    share, size = _correlation(each, median).mean(), np.sqrt(np.mean(median**2))
    return share, size, np.sqrt(np.mean((each - median) ** 2))


def _p_waves(values, beats, template, window):
    """Whether the single beats have the P wave of the median beat, and the noise beside it; without one, no PR."""
    share, size, spread = p_consistency(beats, template, slice(*window))
    values |= dict(p_consistency=share, p_snr=size / spread if spread > 0 else np.nan, noise_mv=spread)
    if share < LIKE_P:
        values |= dict(pr_ms=np.nan, p_ms=np.nan)


def _residual(values, clean, template, whole, fs, rr):
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
    values |= dict(residual_mv=rms, residual_share=rms / total)
    if wide.sum() > 0 and len(band):
        values |= dict(f_share=band.sum() / wide.sum(), f_peak_share=band.max() / wide.sum())


def of_record(x: np.ndarray, fs: float, r: np.ndarray, leads, there: np.ndarray) -> np.ndarray:
    """`features` of x (lead, time) where leads may be missing: float32 (feature,), named by `feature_names(leads)`.

    there: bool (lead,), which have a signal. What needs a missing lead is NaN; all is NaN where none is there.
    """
    if there.all():
        return features(x, fs, r, leads)[0]
    names = feature_names(leads)
    if not there.any():
        return np.full(len(names), np.nan, np.float32)
    found, present = features(x[there], fs, r, [lead for lead, is_there in zip(leads, there, strict=True) if is_there])
    values = dict(zip(present, found, strict=True))
    return np.array([values.get(name, np.nan) for name in names], np.float32)


def of_cohort(cohort, rows, leads=None) -> np.ndarray:
    """Features float32 (row, feature) of rows of a cohort; leads: names (None: all).

    Those of all its leads were stored when it was packed; for other leads they are measured now, R peaks in these.
    """
    names, values = cohort.leads if leads is None else tuple(leads), []
    if names == cohort.leads and hasattr(cohort, "measurements"):
        return cohort.measurements.to_numpy(np.float32)[np.asarray(rows)]
    chunks = np.array_split(np.asarray(rows), math.ceil(len(rows) / 256))
    for chunk in notebook.track(chunks, "hand-made features", "batch"):
        signals, there, valid = cohort.batch(chunk, names), cohort.lead_mask(chunk, names), cohort.valid(chunk)
        for row, x, mask, n in zip(chunk, signals, there, valid, strict=True):
            x = x[:, :n]
            peaks = cohort.peaks(row) if names == cohort.leads else rpeaks.r_peaks(x, cohort.fs)
            values.append(of_record(x, cohort.fs, peaks, names, mask))
    return np.stack(values)


UNITS = {"ms": "ms", "mv": "mV", "mvms": "mV ms", "deg": "degree", "share": "1"}
HRV_MS = "mean_rr median_rr sdnn rmssd sdsd sd1 sd2 longest_gap".split()
BEATS_PER_MINUTE = ("hr_min", "hr_max")


def unit(name: str) -> str:
    """Unit of a feature by its name; "1" for shares, ratios and counts."""
    if name in BEATS_PER_MINUTE:
        return "1/min"
    return "ms" if name in HRV_MS else UNITS.get(name.rpartition("_")[2], "1")
