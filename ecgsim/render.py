"""From beats and shapes to eight clean leads, in integers.

Samples are integers in 1/16 uV. They travel in float64 where that is faster: every partial sum stays below 2**53, so
sums and matrix products are exact in any order and on any machine.
"""

import numpy as np

from ecgsim import arithmetic
from ecgsim.morphology import Wave

GROUPS = 4  # P, QRS, ST and T, atrial (f, F)
_BUCKETS = (0, 8, 16, 32, 64, 1e9)  # ms: components of like width share one block


def _jitter(d, sched, rec, k):
    f, p = d.u("resp_f", 0.18, 0.33)[rec], d.u("resp_p")[rec]
    phase = f * sched.t[rec, k] / 1000.0 + p
    wave = arithmetic.sin(phase)
    return (1 + 0.05 * wave) * (1 + 0.015 * d.n("amp_n")[rec, k]), 0.052 * arithmetic.sin(phase + 0.1), 0.052 * wave


def wave_components(wave, rec, start, group, *, stretch=1.0, shift=0.0, gain=1.0, turn=(0.0, 0.0)):
    """Components of one wave at every beat: columns record, time, sigma, x, y, z, group, without zero amplitudes.

    rec, start: record and time (ms) of every beat (beat,). group: 0 P, 1 QRS, 2 ST and T. Numbers or (beat,): stretch
    of all times, shift in ms, gain, and turn, the angles (radians about Z and X).
    """
    settings = (stretch, shift, gain, *turn)
    stretch, shift, gain, a, b = (np.broadcast_to(np.asarray(v, np.float64), rec.shape)[:, None] for v in settings)
    mu = start[:, None] + shift + stretch * wave.mu[rec]
    sigma = stretch * wave.sigma[rec]
    v = wave.v[rec] * gain[..., None]
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    x, y = x - a * y, y + a * x
    y, z = y - b * z, z + b * y
    keep = (wave.v[rec] != 0).any(-1)
    rec = np.broadcast_to(rec[:, None], mu.shape)
    return [c[keep] for c in (rec, mu, sigma, x, y, z)] + [np.full(int(keep.sum()), group)]


def t_stretch(qt, qrs_on, qrs_off, t_off):
    """Factor of the affine map mu' = qrs_off + (mu - 41) s that ends a T wave at QT (all in ms)."""
    return np.maximum((qt + qrs_on - qrs_off) / (t_off - 41.0), 0.35)


def components(sched, shape, qtcf, d):
    """All Gaussian components of a batch as columns (record, time ms, sigma ms, x, y, z uV, group)."""
    parts = []
    for kind in range(5):
        rec, k = np.nonzero(sched.kind == kind)
        if not len(rec):
            continue
        gain, *turn = _jitter(d, sched, rec, k)
        qrs, t = shape.ectopic[(0, 0, 1, 2, 0)[kind]] if kind else (shape.qrs, shape.t_shape)
        t_off = (t if kind else shape.t).off[rec]
        start, off = sched.t[rec, k], qrs.off[rec]
        parts.append(wave_components(qrs, rec, start, 1, gain=gain, turn=turn))
        s = t_stretch(qtcf[rec] * arithmetic.cbrt(sched.rre[rec, k] / 1000.0), qrs.on[rec], off, t_off)
        t_gain = gain * (1 + 0.03 * d.n("t_n")[rec, k])
        parts.append(wave_components(t, rec, start, 2, stretch=s, shift=off - 41.0 * s, gain=t_gain, turn=turn))
        if kind == 0:
            parts.append(wave_components(shape.st, rec, start, 2, shift=off, gain=gain, turn=turn))
        parts += _p_waves(sched, shape, rec, k, qrs, gain, turn)
        paced = shape.want["PACE"][rec] & (kind == 0)
        if paced.any():
            parts.append(wave_components(_spike(shape.d), rec[paced], (start + qrs.on[rec] - 25.0)[paced], 1))
    if sched.extra_p:
        rec, onset = (np.array(c) for c in list(zip(*sched.extra_p, strict=True))[:2])
        parts.append(wave_components(shape.p, rec, arithmetic.to_grid(onset, 64) / 64.0 - shape.p.on[rec], 0))
    return [np.concatenate(c) for c in zip(*parts, strict=True)]


def _p_waves(sched, shape, rec, k, qrs, gain, turn):
    out, t, pr, p_kind = [], sched.t[rec, k], sched.pr[rec, k], sched.p_kind[rec, k]
    for which, wave in enumerate((shape.p, shape.p_early, shape.p_back)):
        has = (p_kind == which) & ((pr > 0) | (which == 2))
        at = t + qrs.off[rec] + 60.0 if which == 2 else t + qrs.on[rec] - pr - wave.on[rec]
        if has.any():
            out.append(wave_components(wave, rec[has], at[has], 0, gain=gain[has], turn=[x[has] for x in turn]))
    return out


def _spike(d):
    u = d.u("spike")
    size = np.where(u < 0.7, 600.0 + 800.0 * u, 5000.0 * u - 2000.0)
    x, y = d.u("spike_x", -0.4, 0.4), d.u("spike_y", -1.0, -0.5)
    v = np.stack([x, y, 0.3 - x], -1) * size[:, None]
    return Wave(np.zeros((len(size), 1)), np.ones((len(size), 1)), v[:, None])


def vectors(parts, n_records, fs, n_times):
    """Group vectors (record, 4 groups x 3 axes, time), integers in 1/16 uV held in float64.

    Below 400 Hz components are widened to sqrt(sigma^2 + (500/fs)^2): the analytic anti-alias filter.
    """
    rec, mu, sigma, x, y, z, group = parts
    if fs < 400:
        wide = np.sqrt(sigma * sigma + (500.0 / fs) * (500.0 / fs))
        x, y, z, sigma = x * sigma / wide, y * sigma / wide, z * sigma / wide, wide
    mu, sigma64 = arithmetic.to_grid(mu, 64), arithmetic.to_grid(sigma, 64)
    row = (rec * GROUPS + group) * n_times
    table, index, values = arithmetic.gauss_table(), [], []
    for low, high in zip(_BUCKETS, _BUCKETS[1:], strict=False):
        b = np.flatnonzero((sigma > low) & (sigma <= high))
        if not len(b):
            continue
        reach = 4 * int(sigma64[b].max())
        n = 2 * reach * int(fs) // 64000 + 2
        at = (mu[b] - reach) * int(fs) // 64000 + 1
        at = at[:, None] + np.arange(n)
        u = np.abs(at * 64000 // int(fs) - mu[b, None]) * arithmetic.GAUSS_STEPS // sigma64[b, None]
        keep = (u <= 4 * arithmetic.GAUSS_STEPS) & (at >= 0) & (at < n_times)
        g = table[u[keep]]
        index.append((row[b, None] + at)[keep])
        count = keep.sum(1)
        values.append([np.repeat(arithmetic.to_grid(a[b], 16), count) * g for a in (x, y, z)])
    index, size = np.concatenate(index), n_records * GROUPS * n_times
    out = np.empty((n_records, GROUPS, 3, n_times))
    for axis in range(3):
        weights = np.concatenate([v[axis] for v in values]).astype(np.float64)
        out[:, :, axis] = np.bincount(index, weights, size).reshape(n_records, GROUPS, n_times)
    return np.floor(out / arithmetic.ONE).reshape(n_records, GROUPS * 3, n_times)


def atrial(sched, want, d, fs, n_times, out, rows):
    """Add f waves (Stridh and Sornmo 2001) and flutter sawtooth to the atrial group of `out` (of `rows`) in place."""
    i = np.arange(n_times, dtype=np.int64)
    for position in np.flatnonzero((want["AFIB"] | want["AFLT"])[rows]):
        r = rows[position]
        f0 = float(sched.f_hz[r])
        out[position, 9:12] += _flutter_wave(d, r, f0, fs, i) if want["AFLT"][r] else _f_wave(d, r, f0, fs, i)


def _flutter_wave(d, r, f0, fs, i):
    start = d.u("f_phase")[r][1]
    tones = (arithmetic.tone(arithmetic.phase(n * f0, n * start, fs, i)) // n for n in (1, 2, 3, 4))
    size = np.array([-20.0, -180.0, -90.0]) * (0.5 + 0.9 * d.u("f_a")[r])
    return np.floor(sum(tones) * np.floor(16 * 0.6 * size)[:, None] / arithmetic.ONE)


def _f_wave(d, r, f0, fs, i):
    """Fibrillatory wave of record r around f0 Hz: (axis, time) in 1/16 uV."""
    starts, one, axes = d.u("f_phase")[r], arithmetic.ONE, []
    slow = arithmetic.tone(arithmetic.phase(0.2, starts[0], fs, i))
    swing = (slow * int(0.199 * arithmetic.PHASE)) >> 15
    for axis, (low, spread) in enumerate(((15, 30), (15, 25), (25, 45))):
        size = (low + spread * d.u("f_amp")[r, axis]) * (2.0 if d.u("f_a")[r] < 0.2 else 1.0)
        theta = arithmetic.phase(f0 * (0.95, 1.0, 1.05)[axis], starts[1], fs, i) + swing
        y = sum(-arithmetic.tone(n * theta) * (int(10430 * 2) // n) // one for n in (1, 2, 3))
        for j, rate in enumerate((0.78, 1.22)):
            side = arithmetic.tone(arithmetic.phase(rate * f0, starts[j], fs, i))
            y = y + ((side * arithmetic.tone(arithmetic.phase(0.31 + 0.1 * j, starts[2] + 0.3 * axis, fs, i))) >> 16)
        axes.append(np.floor(y * (3 * one + slow) // (3 * one) * np.floor(16 * size) / one))
    return np.stack(axes)


def project(vector, leads):
    """Eight leads (record, 8, time) in 1/16 uV from group vectors and lead matrices in 1/1024: exact, then floored."""
    return np.floor(np.matmul(leads, vector) / 1024.0)


def twelve(x8):
    """Twelve leads in standard order from I, II, V1..V6 (record, 8, time); exact where I and II are even integers."""
    one, two = x8[:, 0], x8[:, 1]
    halves = (one // 2, two // 2) if x8.dtype.kind == "i" else (one / 2, two / 2)
    limb = [one, two, two - one, -halves[0] - halves[1], one - halves[1], two - halves[0]]
    return np.concatenate([np.stack(limb, 1), x8[:, 2:]], 1)
