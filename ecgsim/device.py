"""Noise at the electrodes and the device that records: integer filters, gain, quantiser, lead-off.

Noise enters at nine electrodes (RA, LA, LL, C1..C6), never at leads, so Einthoven's law survives a loose electrode.
"""

from functools import cache
from math import isqrt

import numpy as np

from ecgsim import arithmetic

SLOTS = (
    *((s, 1) for s in "emg wander motion mains_hz mains_phase resp_f resp_phase burst burst_at burst_len".split()),
    *((s, 1) for s in "burst_gain step step_at step_tau step_size step_where off off_lead off_at off_len".split()),
    *(("offset", 27), ("sign", 9), ("mains_w", 9), ("resp_w", 9)),
)
_BANK = 1 << 17
_LEVEL = 4096  # RMS of a bank in its own integers


def electrodes(leads):
    """3 x the weights of RA, LA, LL, C1..C6 in each independent lead: integers (lead, 9)."""
    rows = {"I": (-3, 3, *[0] * 7), "II": (-3, 0, 3, *[0] * 6)}
    rows |= {f"V{i + 1}": (-1, -1, -1, *(3 * (i == j) for j in range(6))) for i in range(6)}
    return np.array([rows[x] for x in leads], np.float64)


def _box(x, n):
    total = np.cumsum(np.concatenate([x, x[:n]]))  # circular, so that the bank has no start
    return total[n:] - total[:-n]


def _level(x):
    x = x - int(x.sum()) // len(x)
    x = x >> max(0, int(np.abs(x).max()).bit_length() - 24)
    return (x * _LEVEL) // isqrt(int((x * x).sum()) // len(x))


@cache
def bank(fs, n_times):
    """Long noise tracks EMG, wander, motion at fs Hz, RMS 4096: float64 integers (3, 2**17 + n_times)."""
    words = np.random.PCG64(np.random.SeedSequence([3, arithmetic.SPEC_VERSION, int(fs)])).random_raw(6 * _BANK)
    parts = words.astype("<u8").view("<u2").reshape(3, _BANK, 8)
    white = parts.astype(np.int64).sum(-1) - 4 * 65535
    n = max(3, int(fs) // 20)
    muscle = white[0] * n - np.roll(_box(white[0], n), n // 2)
    if fs >= 400:
        muscle = muscle + 2 * np.roll(muscle, 1) + np.roll(muscle, 2)
    wander, quick, slow = white[1], white[2], white[2]
    for _ in range(3):
        wander = _level(_box(wander, 8 * int(fs) // 10))
        quick, slow = _level(_box(quick, 12 * int(fs) // 100)), _level(_box(slow, int(fs) // 2))
    tracks = np.stack([_level(x) for x in (muscle, wander, quick + slow)])
    return np.concatenate([tracks, tracks[:, :n_times]], 1).astype(np.float64)


def noise(d, site, leads, fs, n_times, scale=1.0):
    """Noise of every record at the given leads (I, II, V1..V6): yields integer arrays (lead, time) in 1/16 uV."""
    weights, tracks = electrodes(leads), bank(fs, n_times)
    size = [16.0 * scale * float(site[s]) for s in ("emg", "wander", "motion")]
    spread = [arithmetic.exp(w * d.n(s)) for w, s in ((0.6, "emg"), (0.7, "wander"), (0.8, "motion"))]
    rms = np.stack([arithmetic.to_grid(np.minimum(s, 4.0) * x, 1) for s, x in zip(spread, size, strict=True)], 1)
    sign = np.where(d.u("sign") < 0.5, -1.0, 1.0)
    start = arithmetic.to_grid(d.u("offset") * (_BANK - 1), 1).reshape(-1, 3, 9)
    used = np.flatnonzero((weights != 0).any(0))
    mains = arithmetic.to_grid(16.0 * scale * float(site["mains"]) * d.n("mains_w"), 1)
    breath = arithmetic.to_grid(0.6 * size[1] * d.n("resp_w"), 1)
    windows = np.lib.stride_tricks.sliding_window_view(tracks, n_times, 1)
    i = np.arange(n_times, dtype=np.int64)
    for r in range(len(rms)):
        rows = [windows[s][start[r, s, used]] for s in range(3)]
        mix = [weights[:, used] * sign[r, used] * rms[r, s] for s in range(3)]
        _burst(d, r, site, rows[0], fs)
        hum = _hum(float(site["mains_hz"]) + 0.1 * (d.u("mains_hz")[r] - 0.5), d.u("mains_phase")[r], fs, i)
        breathing = arithmetic.phase(d.u("resp_f", 0.15, 0.35)[r], d.u("resp_phase")[r], fs, i)
        rows.append(np.stack([hum, arithmetic.tone(breathing)]).astype(np.float64) / 8)
        mix.append(np.stack([weights @ mains[r], weights @ breath[r]], 1).astype(np.float64))
        out = np.floor(np.concatenate(mix, 1) @ np.floor(np.concatenate(rows)) / (3 * _LEVEL))
        yield out + _step(d, r, site, weights, fs, i, scale)


def _hum(hz, phase, fs, i):
    wave = np.zeros(len(i), np.int64)
    for n, size in ((1, 20), (2, 4), (3, 7), (4, 2), (5, 3)):
        if n * hz < fs / 2:
            wave += arithmetic.tone(arithmetic.phase(n * hz, n * phase, fs, i)) * size // 20
    return wave


def _burst(d, r, site, rows, fs):
    """Muscle noise 3 to 8 times stronger for 0.3 to 3 s, in place."""
    if d.u("burst")[r] < float(site["burst"]):
        n = rows.shape[1]
        a, length = int(d.u("burst_at")[r] * n), int(fs * (0.3 + 2.7 * d.u("burst_len")[r]))
        rows[:, a : a + length] *= 3 + int(5 * d.u("burst_gain")[r])


def _step(d, r, site, weights, fs, i, scale):
    """One electrode jumps and creeps back; more likely where there is motion."""
    if d.u("step")[r] >= min(0.5, 0.004 * float(site["motion"]) * len(i) / fs / 10):
        return 0.0
    at, tau = d.u("step_at")[r] * len(i) / fs, d.u("step_tau", 0.2, 1.0)[r]
    t = np.maximum(i / fs - at, 0.0)
    wave = np.where(i / fs >= at, arithmetic.exp(-t / tau), 0.0)
    high = arithmetic.to_grid(16 * scale * (200 + 600 * d.u("step_size")[r]) * wave, 1)
    column = weights[:, int(9 * d.u("step_where")[r]) if len(weights) > 1 else 0]
    return np.floor(column[:, None] * high / 3)


def low_pass(x, taps):
    """Symmetric FIR with integer taps / 4096 (first half and centre given) on (lead, time), edges repeated."""
    if not taps:
        return x
    m, n = len(taps) - 1, x.shape[1]
    padded = np.concatenate([np.repeat(x[:, :1], m, 1), x, np.repeat(x[:, -1:], m, 1)], 1)
    y = taps[m] * x
    for j in range(m):
        y = y + taps[j] * (padded[:, j : j + n] + padded[:, 2 * m - j : 2 * m - j + n])
    return np.floor(y / 4096)


def high_pass(x, shift):
    """One-pole high-pass s += x - (s >> k), y = x - (s >> k) on integers (row, time), started at the row's mean."""
    x = np.ascontiguousarray(x.T.astype(np.int64))
    s = (x.sum(0) // len(x)) << shift
    out, low = np.empty_like(x), np.empty_like(s)
    for i in range(len(x)):
        np.right_shift(s, shift, out=low)
        np.subtract(x[i], low, out=low)
        s += low
        np.right_shift(s, shift, out=low)
        np.subtract(x[i], low, out=out[i])
    return out.T


def quantise(x, gain, rail_mv, leads):
    """Counts at `gain` per mV from 1/16 uV; limb leads I and II on even counts so that the others stay integers."""
    even = np.array([2 if name in ("I", "II") and len(leads) > 1 else 1 for name in leads])[:, None]
    # A float quotient of integers this small is never rounded across a whole number, so its floor is exact.
    counts = np.floor((x * (2.0 * gain) + even * 16000.0) / (32000.0 * even)) * even
    rail = int(rail_mv * gain) // 2 * 2
    return np.clip(counts, -rail, rail)


def lead_off(d, counts, site, fs):
    """Flatten a chest lead (or the only lead) where the electrode is off; returns rows (record, lead, first, last)."""
    intervals, n = [], counts.shape[2]
    for r in np.flatnonzero(d.u("off") < float(site["lead_off"])):
        lead = 2 + int(6 * d.u("off_lead")[r]) if counts.shape[1] > 1 else 0
        length = n if d.u("off_len")[r] < 0.4 and counts.shape[1] > 1 else int(fs * (0.5 + 3 * d.u("off_len")[r]))
        a = int(d.u("off_at")[r] * (n - length + 1))
        counts[r, lead, a : a + length] = 0
        intervals.append((int(r), lead, a, a + length))
    return intervals


def record(clean, d, site, leads, fs, hp_shift, taps, noise_scale=1.0):
    """What the device stores from clean leads in 1/16 uV.

    Returns counts (record, lead, time), the intervals (record, lead, first, last) with a lead off, and the RMS in uV
    (record,) of the noise that is left in lead II (or the only lead) behind the filters.
    """
    n, n_leads, n_times = clean.shape
    mixed, main = np.empty((n, n_leads + 1, n_times)), min(1, n_leads - 1)
    for r, e in enumerate(noise(d, site, leads, fs, n_times, noise_scale)):
        mixed[r, :n_leads] = low_pass(clean[r] + e, taps)
        mixed[r, n_leads] = low_pass(clean[r, main : main + 1], taps)[0]
    flat = high_pass(mixed.reshape(n * (n_leads + 1), n_times), hp_shift).reshape(n, n_leads + 1, n_times)
    left = flat[:, main] - flat[:, n_leads]
    rms = np.sqrt((left * left).sum(1) / n_times) / 16.0
    counts = np.empty(clean.shape, np.int32)
    for r in range(n):
        counts[r] = quantise(flat[r, :n_leads], int(site["gain"]), float(site["rail_mv"]), leads)
    return counts, lead_off(d, counts, site, fs), rms
