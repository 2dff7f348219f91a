"""Measurements on one median beat: boundaries of P, QRS and T from all leads together, amplitudes per lead, axes, sums.

The median beat is (lead, time) in mV at FINE Hz, with R at PRE_S seconds. Suffixes of names tell the unit: _mv and
_mvms follow the amplitude of the signal; _ms, _deg, _share and names without a unit do not.
"""

import numpy as np
from scipy import ndimage

from ecglib.signals import LEADS

PRE_S, POST_S, FINE = 0.4, 0.6, 500  # seconds before and after R, rate in Hz
INTERVAL_NAMES = tuple("pr_ms p_ms qrs_ms qt_ms qtc_bazett_ms qtc_fridericia_ms t_peak_ms p_share".split())
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


def names(leads=LEADS) -> tuple[str, ...]:
    """Names of `measure` in their fixed order for these leads (standard names)."""
    have = set(leads)
    combined = [name for name, needed in COMBINED.items() if have.issuperset(needed)]
    regions = [f"{r}_{name}" for r, needed in REGIONS.items() if have.issuperset(needed) for name in REGION_NAMES]
    per_lead = [f"{lead}_{name}" for lead in leads for name in LEAD_NAMES]
    return (*INTERVAL_NAMES, *combined, *regions, *per_lead)


def measure(fine: np.ndarray, marks: dict, leads, rr: float) -> dict[str, float]:
    """Return `names(leads)` -> value of the median beat `fine` with its `landmarks`; rr: median RR in seconds."""
    found = _intervals(marks, rr)
    by = _per_lead(fine, marks)
    found |= {f"{lead}_{name}": float(value[row]) for name, value in by.items() for row, lead in enumerate(leads)}
    _combine(found, leads)
    return found


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
    found = dict(pr_ms=(on - marks["p_on"]) * step, p_ms=(marks["p_off"] - marks["p_on"]) * step, qt_ms=qt)
    found |= dict(qrs_ms=(marks["off"] - on) * step, t_peak_ms=(marks["t"] - on) * step, p_share=marks["p_share"])
    return found | dict(qtc_bazett_ms=qt / np.sqrt(rr), qtc_fridericia_ms=qt / np.cbrt(rr))


def _tangent(size, top, limit, direction) -> int:
    """Where the tangent at the steepest slope between `top` and `limit` reaches zero, at most `limit`."""
    part = size[top : limit + 1] if direction > 0 else size[limit : top + 1][::-1]
    if len(part) < 3:
        return limit
    slope = np.diff(part)
    steepest = int(slope.argmin())
    reach = part[steepest] / -slope[steepest] if slope[steepest] < 0 else 0
    return top + direction * int(min(steepest + reach, len(part) - 1))


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
