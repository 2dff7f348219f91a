"""Does a record show what its labels say? Measurements on one clean beat in 12 leads, and a criterion per label.

Criteria: Surawicz et al. 2009 (doi:10.1016/j.jacc.2008.12.013) for conduction, Thygesen et al. 2018 (4th universal
definition) for Q waves and ST, Sokolow-Lyon and Cornell for voltage, Rautaharju et al. 2009 for QT.
"""

import numpy as np

from ecglib.data.recording import LEADS
from ecgsim import arithmetic, render, rhythm

CONTIGUOUS = [("aVL", "I"), ("II", "aVF"), ("aVF", "III"), *((f"V{i}", f"V{i + 1}") for i in range(1, 6))]
AT = {name: i for i, name in enumerate(LEADS)}
LIMB_AND_LATERAL = [AT[name] for name in ("I", "II", "V4", "V5", "V6")]
UPRIGHT = [AT[name] for name in ("I", "II", "V2", "V3", "V4", "V5", "V6")]
ZERO, SIZE, STEP = 230, 560, 2.0  # R fiducial, length and ms per sample of the measured beat


def one_beat(shape, pr, qt):
    """One dominant beat without breathing or noise: (record, 12, 560) in uV at 500 Hz, R fiducial at sample 230."""
    n = len(pr)
    rec, start = np.arange(n), np.full(n, ZERO * STEP)
    s = render.t_stretch(qt, shape.qrs.on, shape.qrs.off, shape.t.off)
    p_start = start + shape.qrs.on - pr - shape.p.on
    parts = [
        render.wave_components(shape.qrs, rec, start, 1),
        render.wave_components(shape.t_shape, rec, start, 2, stretch=s, shift=shape.qrs.off - 41.0 * s),
        render.wave_components(shape.st, rec, start, 2, shift=shape.qrs.off),
        render.wave_components(shape.p, rec, p_start, 0, gain=(pr > 0) * 1.0),
    ]
    parts = [np.concatenate(c) for c in zip(*parts, strict=True)]
    x = render.project(render.vectors(parts, n, 500, SIZE), shape.leads)
    return render.twelve(x) / 16.0, s


def _between(first, last):
    i = np.arange(SIZE)
    return (i >= first[:, None]) & (i <= last[:, None])


def _at(y, index):
    return np.take_along_axis(y, np.broadcast_to(index[:, None, None], (*y.shape[:2], 1)), 2)[..., 0]


def _larger(y):
    return np.where(y.max(2) >= -y.min(2), y.max(2), y.min(2))


def direction(x, y):
    """Angle of (x, y) in whole degrees, -179..180 (the best of 360 directions; no arctangent needed)."""
    degrees = np.arange(-179, 181)
    return degrees[(x[:, None] * arithmetic.cos(degrees / 360) + y[:, None] * arithmetic.sin(degrees / 360)).argmax(1)]


def measure(plan, shape, hr):
    """Amplitudes (record, 12) in uV and intervals (record,) in ms of the dominant beat."""
    qt = arithmetic.to_grid(plan.qtcf * arithmetic.cbrt(60.0 / np.maximum(hr, 30.0)), 64) / 64.0
    pr = np.where(shape.no_p, -1.0, plan.pr)
    y, s = one_beat(shape, pr, qt)
    on, off = (np.floor(ZERO + e / STEP).astype(int) for e in (shape.qrs.on, shape.qrs.off))
    inside = _between(on, off)[:, None]
    qrs = np.where(inside, y, 0.0)
    up = inside & (y > 25.0)
    has_r, first_up = up.any(2), np.where(up.any(2), up.argmax(2), SIZE)
    i = np.arange(SIZE)
    before = inside & (i < first_up[..., None])
    r_at = qrs.argmax(2)
    m = {"y": y, "r": np.maximum(qrs.max(2), 0.0), "has_r": has_r, "ptp": qrs.max(2) - qrs.min(2)}
    m["q"] = np.maximum(-np.where(before, y, 0.0).min(2), 0.0)
    m["q_ms"] = STEP * (before & (y < -10.0)).sum(2)
    m["s"] = np.maximum(-np.where(inside & (i > r_at[..., None]), y, 0.0).min(2), 0.0)
    late = _between(on + (off - on) * 55 // 100, off)[:, None]
    m["late_up"], m["late_down"] = np.where(late, y, 0.0).max(2), -np.where(late, y, 0.0).min(2)
    m["j"], m["j60"] = _at(y, off), _at(y, off + 30)
    t_edges = (shape.qrs.off + (e - 41.0) * s for e in (shape.t.on, shape.t.off))
    t_on, t_off = (np.floor(ZERO + e / STEP).astype(int) for e in t_edges)
    t_wave = np.where(_between(np.maximum(t_on, off + 20), np.minimum(t_off, SIZE - 1))[:, None], y, 0.0)
    m["t"] = _larger(t_wave)
    p_on = np.maximum(np.floor(ZERO + (shape.qrs.on - pr) / STEP).astype(int), 0)
    p_off = np.minimum(p_on + np.floor((shape.p.off - shape.p.on) / STEP).astype(int), on)
    p_wave = np.where((_between(p_on, p_off) & ~shape.no_p[:, None])[:, None], y, 0.0)
    m["p"] = _larger(p_wave)
    m["p_terminal"] = STEP * np.minimum(arithmetic.to_grid(p_wave[:, AT["V1"]], 16), 0).sum(1) / 16000.0
    area = arithmetic.to_grid(qrs, 16).sum(2).astype(np.float64)
    early = arithmetic.to_grid(np.where(_between(on, on + 40)[:, None], y, 0), 16).sum(2).astype(np.float64)
    for name, a in (("axis", area), ("axis_80", early), ("axis_t", m["t"]), ("axis_p", m["p"])):
        m[name] = direction(a[:, AT["I"]], a[:, AT["aVF"]] * 1.1547)
    m["qrs"], m["pr"], m["qt"], m["p_ms"] = shape.qrs.off - shape.qrs.on, pr, qt, shape.p.off - shape.p.on
    steps = np.abs(np.diff(qrs, axis=2)).max(1)
    m["slur"] = np.where(_between(on + 1, on + 13)[:, :-1], steps, 0).max(1) / np.maximum(steps.max(1), 1.0)
    return m


def pairs(flag):
    """True where a flag (record, 12) holds in two neighbouring leads."""
    return np.any([flag[:, AT[a]] & flag[:, AT[b]] for a, b in CONTIGUOUS], axis=0)


def _infarcts(m, lead):
    q = (m["q_ms"] >= 30) & (m["q"] >= 100.0) | ~m["has_r"] & (m["q"] >= 100.0)
    walls = {row["label"]: row["leads"].split() for row in arithmetic.rows("territories.csv")}
    signs = {k: q[:, [AT[x] for x in names]].sum(1) >= 2 for k, names in walls.items()}
    signs["PMI"] = (lead("r", "V2") >= lead("s", "V2")) & (lead("r", "V2") > 300) & (lead("t", "V2") > 0)
    return signs


def _ischaemia(m):
    low = (m["j60"] <= -50.0) | (m["t"] <= -100.0)
    walls = {"ISCAL": ("I", "aVL", "V3", "V4", "V5", "V6"), "ISCIN": ("II", "III", "aVF")}
    return {k: low[:, [AT[x] for x in names]].sum(1) >= 2 for k, names in walls.items()}


def _voltage(male, lead):
    cornell = lead("r", "aVL") + np.maximum(lead("s", "V3"), lead("q", "V3"))
    sokolow = np.maximum(lead("s", "V1"), lead("q", "V1")) + np.maximum(lead("r", "V5"), lead("r", "V6"))
    return (sokolow >= 3500) | (lead("r", "aVL") > 1100) | (cornell > np.where(male, 2800, 2000))


def shapes(plan, m):
    """Which morphology criteria hold: label -> bool (record,)."""

    def lead(wave, name):
        return m[wave][:, AT[name]]

    male, age, qrs, axis = plan.who["male"] == 1, plan.who["age"], m["qrs"], m["axis"]
    no_q = (lead("q", "V6") < 60) & (lead("q", "I") < 60)
    left = no_q & (lead("s", "V1") + lead("q", "V1") > lead("r", "V1"))
    right = (lead("late_up", "V1") > 100) & (lead("late_down", "I") > 40) & (lead("late_down", "V6") > 40)
    both = plan.want["CRBBB"] & plan.want["LAFB"]
    first = np.where(both, m["axis_80"], axis)
    limit = np.full((len(male), 12), 100.0)
    limit[:, [AT["V2"], AT["V3"]]] = np.where(male, np.where(age < 40, 250.0, 200.0), 150.0)[:, None]
    flip = m["t"] <= -100.0
    flip[:, [AT["aVR"], AT["III"], AT["V1"]]] = False
    low = ((np.abs(m["t"]) < 0.1 * m["r"]) & (m["r"] > 500))[:, LIMB_AND_LATERAL].sum(1)
    seen = {
        "CLBBB": (qrs >= 120) & left & (lead("t", "V6") < 0),
        "ILBBB": (qrs >= 108) & (qrs < 120) & left,
        "CRBBB": (qrs >= 120) & right,
        "IRBBB": (qrs >= 98) & (qrs < 120) & right,
        "LAFB": (first <= -45) & (first >= -95) & (lead("r", "aVL") > 100) & ((qrs < 120) | both),
        "LPFB": (axis >= 90) & (lead("q", "III") > 0) & (lead("r", "III") > 300) & (qrs < 120),
        "WPW": (m["pr"] < 120) & (qrs >= 110) & (m["slur"] < 0.4),
        "LVH": _voltage(male, lead),
        "RVH": (axis > 90) & (lead("r", "V1") > lead("s", "V1")) & (lead("r", "V1") > 500),
        "LAO/LAE": (m["p_ms"] >= 120) & (m["p_terminal"] <= -4.0),
        "RAO/RAE": lead("p", "II") >= 250,
        "STE_": pairs(m["j"] >= limit),
        "STD_": pairs(m["j60"] <= -50.0),
        "INVT": pairs(flip),
        "LOWT": low >= 2,
        "LVOLT": (m["ptp"][:, :6] < 500).all(1),
        "PACE": (qrs >= 120) & (axis <= -30) & (axis >= -120),
    }
    seen["IVCD"] = (qrs > 110) & ~seen["CLBBB"] & ~seen["CRBBB"]
    seen["LNGQT"] = (plan.qtcf >= np.where(male, 450, 460)) & (qrs < 120)
    seen["1AVB"] = m["pr"] > 200
    return seen | _infarcts(m, lead) | _ischaemia(m)


def rhythm_numbers(sched, seconds):
    """Rate per minute, SD, shortest, longest RR in ms, CV, counts of beats and P waves inside: (record,) each."""
    inside = (sched.kind >= 0) & (sched.t >= 0) & (sched.t < 1000.0 * seconds)
    use = inside & (np.cumsum(inside, 1) > 1)
    rr, n = np.where(use, arithmetic.to_grid(sched.rr, 64), 0), np.maximum(use.sum(1), 1)
    total, square = rr.sum(1), (rr * rr).sum(1)
    mean = np.where(total > 0, total, 64000 * n) / n / 64.0
    sd = np.sqrt(np.maximum(n * square - total * total, 0).astype(np.float64)) / n / 64.0
    lone = np.zeros(len(n), int)
    for r, t, _ in sched.extra_p:
        lone[r] += 0 <= t < 1000.0 * seconds - 60
    kinds = {k: (inside & (sched.kind == i)).sum(1) for i, k in enumerate(rhythm.KINDS)}
    low, high = np.where(use, sched.rr, 1e9).min(1), np.where(use, sched.rr, 0).max(1)
    early = (inside & (sched.p_kind == 1)).sum(1)
    sinus_p = (inside & (sched.pr > 0)).sum(1)
    intervals = {"hr": 60000.0 / mean, "rr_sd": sd, "rr_cv": sd / mean, "rr_min": low, "rr_max": high}
    return intervals | {"lone_p": lone, "beats": inside.sum(1), "p": sinus_p, "pac": early} | kinds


def rhythms(n, m):
    """Which rhythm criteria hold: label -> bool (record,); n from `rhythm_numbers`, m from `measure`."""
    whole = (n["p"] == n["beats"] - n["pvc"] - n["pvc2"]) & (m["p"][:, AT["II"]] > 0)
    steady, cv, hr = n["rr_cv"] < 0.1, n["rr_cv"], n["hr"]
    many = n["pvc"] + n["pvc2"]
    return {
        "SR": whole & (hr >= 50) & (hr <= 101) & ((cv < 0.1) | (many + n["pac"] > 0)),
        "SBRAD": whole & (hr < 52) & (steady | (many + n["pac"] > 0)),
        "STACH": whole & (hr > 100) & steady,
        "SARRH": whole & (n["rr_max"] - n["rr_min"] > 120) & ((cv < 0.2) | (many > 0)),
        "AFIB": (cv > 0.15) & (n["p"] == 0),
        "AFLT": (n["p"] == 0) & (hr > 50),
        "SVTAC": (hr >= 140) & (cv < 0.03) & (m["qrs"] < 150),
        "PSVT": (n["rr_min"] < 430) & (n["rr_max"] > 550),
        "2AVB": n["lone_p"] >= 1,
        "3AVB": (n["lone_p"] > n["beats"]) & (cv < 0.06),
        "PVC": many >= 1,
        "PAC": n["pac"] >= 1,
        "BIGU": many >= 3,
        "TRIGU": many >= 2,
    }


ABNORMAL = "CLBBB ILBBB CRBBB IRBBB LAFB LPFB WPW RVH LAO/LAE RAO/RAE STE_ STD_ INVT LOWT LVOLT IVCD LNGQT 1AVB".split()
Q_WAVES = ("IMI", "ASMI", "AMI", "ALMI", "LMI", "PMI", "ILMI")
NO_VOLTAGE = ("CLBBB", "WPW", "PACE", "LVH", "CRBBB", "RVH", "LAFB", "IVCD")  # voltage criteria are not read here


def check(plan, m, n):
    """Criteria of every label and whether the record shows all it should: (seen, failed label -> bool (record,))."""
    seen = shapes(plan, m) | rhythms(n, m)
    quiet = ~np.any([seen[k] for k in (*ABNORMAL, *Q_WAVES)], axis=0) & (~seen["LVH"] | (plan.who["age"] < 40))
    ranges = (m["axis"] >= -30) & (m["axis"] <= 90) & (m["qrs"] <= 110) & (m["pr"] >= 120) & (m["pr"] <= 200)
    upright = (m["t"][:, UPRIGHT] > 0).all(1)
    seen["NORM"] = quiet & ranges & upright & (seen["SR"] | seen["SARRH"])
    failed = {k: v & ~seen[k] for k, v in plan.want.items() if k in seen}
    # High voltage is common in the young; older hearts without hypertrophy show it in two records of five at most.
    silent = np.any([plan.want[k] for k in NO_VOLTAGE], axis=0)
    failed["VCLVH"] = seen["LVH"] & ~silent & (plan.who["age"] >= 40) & (plan.ids % 5 >= 2)
    return seen, failed
