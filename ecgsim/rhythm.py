"""When the heart beats: beat times, kinds, PR intervals and lone P waves for every rhythm.

Sources: RR spectrum of McSharry et al. 2003 (doi:10.1109/TBME.2003.808805); atrioventricular node in fibrillation of
Corino et al. 2011 (IEEE TBME 58:3386); ectopic kinds as in simPAF (Petrenas et al. 2017, doi:10.1088/1361-6579/aa9153).
All times in milliseconds from the first sample, rounded to 1/64 ms.
"""

from dataclasses import dataclass, field

import numpy as np

from ecgsim import arithmetic

BEATS = 160  # beat slots per record: 40 s at 220 per minute
KINDS = ("normal", "pvc", "pvc2", "aberrant", "escape")
SLOTS = (
    *((s, 1) for s in "start resp_f resp_p lf_hf rr_sd sarrh f0 f_c f_a cycle conduct svt_hr psvt_on psvt_off".split()),
    *((s, 1) for s in "block_kind block_n block_d block_pr junction p_rate burden foci gap".split()),
    *((s, 3) for s in ("lf_p", "hf_p", "f_amp", "f_phase")),
    *((s, BEATS) for s in "rr_n av slow pr_n amp_n t_n ect_u ect_c ect_k".split()),
)


@dataclass
class Schedule:
    """Beats of a batch, (record, beat) arrays padded with kind -1, and lone P waves as (record, time) lists."""

    t: np.ndarray
    kind: np.ndarray
    pr: np.ndarray  # from P onset to QRS onset; -1 without a P wave
    p_kind: np.ndarray  # 0 sinus, 1 ectopic, 2 retrograde
    rr: np.ndarray
    rre: np.ndarray  # RR with hysteresis, for QT
    extra_p: list = field(default_factory=list)
    f_hz: np.ndarray | None = None  # fibrillatory or flutter rate, 0 without


def _sinus(want, hr, age, d, n):
    """Sinus RR (record, n) in ms: three tones around 0.1 Hz, three at the respiratory rate, and a little noise."""
    rr0 = 60000.0 / hr
    f_r = d.u("resp_f", 0.18, 0.33)
    t = np.arange(n) * rr0[:, None] / 1000.0
    low, high = np.zeros_like(t), np.zeros_like(t)
    for j in range(3):
        low = low + arithmetic.sin((0.08 + 0.02 * j) * t + d.u("lf_p")[:, j : j + 1])
        high = high + arithmetic.sin((f_r[:, None] + 0.02 * (j - 1)) * t + d.u("hf_p")[:, j : j + 1])
    ratio = arithmetic.exp(-0.105 + 0.6 * d.n("lf_hf"))
    a_low, a_high = np.sqrt(ratio / (1 + ratio) / 1.5), np.sqrt(1.0 / (1 + ratio) / 1.5)
    sd = 33.0 * arithmetic.exp(0.6 * d.n("rr_sd") - 0.012 * (age - 50.0))
    sd = np.where(want["STACH"], 0.4 * sd, np.where(want["PACE"], 0.5, sd))
    sd = np.minimum(sd, 0.06 * rr0)
    wave = a_low[:, None] * low + a_high[:, None] * high
    noise = 0.008 * np.where(want["PACE"], 0.1, 1.0)[:, None] * d.n("rr_n")[:, :n]
    rr = rr0[:, None] * (1 + noise) + sd[:, None] * wave
    swing = 0.5 * np.minimum(d.u("sarrh", 170.0, 400.0), 0.45 * rr0)
    breath = rr0[:, None] + swing[:, None] * arithmetic.sin(f_r[:, None] * t + d.u("hf_p")[:, :1])
    return np.where(want["SARRH"][:, None], breath, rr)


def _fibrillation(d, n):
    """RR (record, n) in ms from Poisson arrivals at a node with two refractory periods."""
    rate, c = 4.0 + 5.0 * d.u("f0"), d.u("f_c", 0.8, 1.7)
    rr, out = np.full(len(rate), 0.8), np.empty((len(rate), n))
    wait = -arithmetic.log(1.0 - d.u("av"))
    for k in range(n):
        tau = c * (0.15 * rr + 0.25 + 0.2 * (d.u("slow")[:, k] < 0.4))
        e = wait[:, k]
        # An arrival x after tau is conducted with probability min(1, 10 x): invert the integrated hazard.
        x = np.where(e < 0.05 * rate, np.sqrt(e / (5.0 * rate)), 0.1 + (e - 0.05 * rate) / rate)
        rr = tau + x
        out[:, k] = 1000.0 * rr
    return out


def _flutter(d, n):
    """RR (record, n) in ms as multiples of the flutter cycle, and the cycle in ms."""
    cycle = d.u("cycle", 195.0, 245.0)
    kind = d.pick("conduct", (55, 10, 25, 10))
    ratio = np.array([2, 3, 4, 2])[kind][:, None] + np.where(kind[:, None] == 3, 2 * (np.arange(n) % 2), 0)
    return ratio * cycle[:, None] + 6.0 * d.n("rr_n")[:, :n], cycle


def _second_degree(s, i, d, _):
    """Dropped beats: Mobitz I (half), Mobitz II, or 2:1 on the P waves of row i."""
    kind = int(d.pick("block_kind", (50, 25, 25))[i])
    n = (4 + int(3 * d.u("block_n")[i]), 3 + int(3 * d.u("block_n")[i]), 2)[kind]
    first, step = d.u("block_pr", 180.0, 230.0)[i], d.u("block_d", 50.0, 100.0)[i]
    for k in np.flatnonzero(s.kind[i] >= 0):
        position, onset = k % n, s.t[i, k] - s.pr[i, k]
        if position == n - 1:
            s.kind[i, k] = -1
            s.extra_p.append((i, onset, 0))
            continue
        gain = (0.0, 1.0, 1.5, 1.833, 2.083, 2.283)[position] if kind == 0 else 0.0
        s.pr[i, k] = first + step * gain
        s.t[i, k] = onset + s.pr[i, k]


def _third_degree(s, i, d, seconds):
    """P waves and QRS complexes that ignore each other."""
    t, period = -1500.0 + 900.0 * d.u("psvt_on")[i], 60000.0 / d.u("p_rate", 62.0, 100.0)[i]
    while t < 1000.0 * seconds + 300.0:
        s.extra_p.append((i, t, 0))
        t += period * (1.0 + 0.01 * arithmetic.sin(t / 4000.0))
    s.pr[i] = -1.0
    if d.u("junction")[i] >= 0.6:
        s.kind[i][s.kind[i] >= 0] = KINDS.index("escape")


def _psvt(s, i, d, seconds):
    """Sinus rhythm until a regular narrow tachycardia starts; it may stop before the end."""
    on, off = seconds * 1000.0 * d.u("psvt_on", 0.2, 0.35)[i], seconds * 1000.0 * d.u("psvt_off", 0.8, 1.4)[i]
    fast, sinus = 60000.0 / d.u("svt_hr", 150.0, 210.0)[i], s.rr[i, 0]
    t = s.t[i, 0]
    s.p_kind[i, :-1] = 0
    for k in range(s.t.shape[1] - 1):
        svt = on <= t < off
        s.pr[i, k] = -1.0 if svt else s.pr[i, k]
        t += fast if svt else sinus
        s.t[i, k + 1] = t


def _events(s, i, d, want, seconds):
    """Beat numbers of row i that become ectopic: by chance, every second or third, at least one inside the record."""
    t = s.t[i]
    normal = [k for k in range(2, len(t) - 2) if s.kind[i, k] == 0]
    every = 2 if want["BIGU"][i] else 3 if want["TRIGU"][i] else 0
    if every:
        return {k for k in normal if k % every == 0}
    ok = [k for k in normal if 1500 < t[k] < 1000 * seconds - 1500]
    p = d.u("burden", 0.03, 0.2)[i] if want["PAC"][i] else d.u("burden", 0.02, 0.15)[i]
    hits = {k for k in ok if d.u("ect_u")[i, k] < p}
    return hits or {ok[int(d.u("gap")[i] * len(ok))]}


def _ectopy(s, i, d, want, seconds):
    """Replace or insert premature beats in row i, with compensatory pause, reset or interpolation."""
    events = _events(s, i, d, want, seconds)
    out, shift, after = [], 0.0, False
    for k in np.flatnonzero(s.kind[i] >= 0):
        t, rr, pr = s.t[i, k] + shift, s.rr[i, k], s.pr[i, k]
        c, u = d.u("ect_c")[i, k], d.u("ect_k")[i, k]
        if k not in events or after or not out:
            out.append((t, 0, pr, 0))
            after = False
            continue
        after, last = True, out[-1][0]
        if want["PVC"][i]:
            early = last + max(320.0, (0.45 + 0.3 * c) * rr)
            between = u < 0.15 and rr > 60000.0 / 65 and not (want["BIGU"][i] or want["TRIGU"][i])
            early = last + 0.48 * rr if between else early
            out.append((early, 2 if d.u("foci")[i] < 0.2 and u > 0.5 else 1, -1.0, 0))
            if between:
                out.append((t, 0, pr, 0))
            elif pr > 0:
                s.extra_p.append((i, t - pr, 0))
        else:
            coupling = 0.6 if u > 0.9 else 0.55 + 0.25 * c
            early = last + coupling * rr
            out.append((early, 3 if coupling < 0.62 and c < 0.07 else 0, 120.0 + 60.0 * c, 1))
            shift += 0.0 if u > 0.75 else early - t + (0.2 * rr if u > 0.55 else 0.0)
            if u > 0.9:
                out.append((t, 0, pr, 0))
    n = min(len(out), s.t.shape[1])
    s.kind[i] = -1
    for name, column in zip(("t", "kind", "pr", "p_kind"), zip(*out, strict=True), strict=True):
        getattr(s, name)[i, :n] = column[:n]


def width(seconds):
    """Beat slots that a record of this length may need."""
    return min(BEATS, int((seconds + 4) * 220 / 60) + 4)


def schedule(want, hr, pr, age, d, seconds):
    """Beat schedule of a batch.

    want: label -> bool (record,); hr in beats per minute, pr in ms, age in years: (record,); d: Draws with SLOTS.
    """
    n = width(seconds)
    rr = _sinus(want, hr, age, d, n)
    flutter, cycle = _flutter(d, n)
    fast = 60000.0 / d.u("svt_hr", 150.0, 220.0)[:, None] * (1.0 + 0.008 * d.n("rr_n")[:, :n])
    slow = np.where(d.u("junction") < 0.6, d.u("block_n", 38.0, 52.0), d.u("block_n", 26.0, 40.0))
    slow = 60000.0 / slow[:, None] * (1.0 + 0.01 * d.n("rr_n")[:, :n])
    for name, own in (("AFIB", _fibrillation(d, n)), ("AFLT", flutter), ("SVTAC", fast), ("3AVB", slow)):
        rr = np.where(want[name][:, None], own, rr)
    rr = arithmetic.to_grid(np.maximum(rr, 270.0), 64)
    t = (np.cumsum(rr, 1) - rr[:, :1] - arithmetic.to_grid(1500.0 + 600.0 * d.u("start"), 64)[:, None]) / 64.0
    rr = rr / 64.0
    jitter = np.where((want["1AVB"] | want["WPW"])[:, None], 2.0, 3.0) * d.n("pr_n")[:, :n]
    no_p = want["AFIB"] | want["AFLT"] | want["SVTAC"] | want["3AVB"]
    prs = np.where(no_p[:, None], -1.0, arithmetic.to_grid(pr[:, None] + jitter, 64) / 64.0)
    s = Schedule(t, np.where(t < 1000.0 * seconds + 1500.0, 0, -1), prs, np.zeros(t.shape, np.int64), rr, rr)
    s.p_kind[want["SVTAC"] & (d.u("gap") < 0.5)] = 2
    for name, change in (("2AVB", _second_degree), ("3AVB", _third_degree), ("PSVT", _psvt)):
        for i in np.flatnonzero(want[name]):
            change(s, i, d, seconds)
    for i in np.flatnonzero(want["PAC"] | want["PVC"]):
        _ectopy(s, i, d, want, seconds)
    return _finish(s, want, d, cycle, seconds)


def _finish(s, want, d, cycle, seconds):
    """Drop beats outside the record, round the times, and follow RR with hysteresis for QT."""
    s.t = arithmetic.to_grid(s.t, 64) / 64.0
    s.kind = np.where((s.kind >= 0) & (s.t > -1200.0) & (s.t < 1000.0 * seconds + 700.0), s.kind, -1)
    before = np.where(s.kind[:, :-1] >= 0, s.t[:, :-1], s.t[:, 1:] - s.rr[:, 1:])
    s.rr = np.concatenate([s.rr[:, :1], s.t[:, 1:] - before], 1)
    # Two steps back where the beat before was dropped (second degree block) keeps RR honest.
    gap = (s.kind[:, 1:-1] < 0) & (s.kind[:, :-2] >= 0)
    s.rr[:, 2:] = np.where(gap, s.t[:, 2:] - s.t[:, :-2], s.rr[:, 2:])
    inside = (s.kind >= 0) & (s.t >= 0) & (s.t < 1000.0 * seconds)
    count, first, last = inside.sum(1), np.where(inside, s.t, 1e9).min(1), np.where(inside, s.t, -1e9).max(1)
    rate = np.where(count > 1, 60000.0 * (count - 1) / np.maximum(last - first, 1.0), 60.0)
    state, s.rre = 60000.0 / np.maximum(30.0, rate), np.empty_like(s.rr)
    for k in range(s.rr.shape[1]):
        state = np.where(s.kind[:, k] >= 0, 0.9 * state + 0.1 * np.minimum(np.maximum(s.rr[:, k], 270), 2400), state)
        s.rre[:, k] = state
    s.f_hz = np.where(want["AFIB"], 4.0 + 5.0 * d.u("f0"), np.where(want["AFLT"], 1000.0 / cycle, 0.0))
    return s
