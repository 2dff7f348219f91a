"""From beats and shapes to eight clean leads, in integers.

Samples are integers in 1/16 uV. They travel in float64 where that is faster: every partial sum stays below 2**53, so
sums and matrix products are exact in any order and on any machine.
"""

import numpy as np

from . import fixed
from .heart import Wave

GROUPS = 4  # P, QRS, ST and T, atrial (f, F)
_BUCKETS = (0, 8, 16, 32, 64, 1e9)  # ms: components of like width share one block


def _jitter(d, sched, rec, k):
    """Vector gain and small turns (radians about Z and X) of every beat from breathing."""
    f, p = d.u("resp_f", 0.18, 0.33)[rec], d.u("resp_p")[rec]
    phase = f * sched.t[rec, k] / 1000.0 + p
    wave = fixed.sin(phase)
    return (1 + 0.05 * wave) * (1 + 0.015 * d.n("amp_n")[rec, k]), 0.052 * fixed.sin(phase + 0.1), 0.052 * wave


def _place(wave, rec, start, stretch, shift, gain, turn, group):
    """Components of one wave at every beat: columns record, time, sigma, x, y, z, group, without zero amplitudes."""
    mu = start[:, None] + shift[:, None] + stretch[:, None] * wave.mu[rec]
    sigma = stretch[:, None] * wave.sigma[rec]
    v = wave.v[rec] * gain[:, None, None]
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    a, b = turn
    x, y = x - a[:, None] * y, y + a[:, None] * x
    y, z = y - b[:, None] * z, z + b[:, None] * y
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
        qrs, t, t_edges = (
            (shape.qrs, shape.t_shape, shape.t) if kind == 0 else (*shape.ectopic[(0, 0, 1, 2, 0)[kind]], None)
        )
        t_edges = t_edges or t
        start, one, none = sched.t[rec, k], np.ones(len(rec)), np.zeros(len(rec))
        parts.append(_place(qrs, rec, start, one, none, gain, turn, 1))
        off = qrs.off[rec]
        s = t_stretch(qtcf[rec] * fixed.cbrt(sched.rre[rec, k] / 1000.0), qrs.on[rec], off, t_edges.off[rec])
        t_gain = gain * (1 + 0.03 * d.n("t_n")[rec, k])
        parts.append(_place(t, rec, start, s, off - 41.0 * s, t_gain, turn, 2))
        if kind == 0:
            parts.append(_place(shape.st, rec, start, one, off, gain, turn, 2))
        parts += _p_waves(sched, shape, rec, k, qrs, gain, turn)
        paced = shape.want["PACE"][rec] & (kind == 0)
        if paced.any():
            spike = _spike(shape)
            at = start + qrs.on[rec] - 25.0
            parts.append(
                _place(spike, rec[paced], at[paced], one[paced], none[paced], one[paced], (none[paced],) * 2, 1)
            )
    if sched.extra_p:
        rec, onset = (np.array(c) for c in list(zip(*sched.extra_p, strict=True))[:2])
        none, one = np.zeros(len(rec)), np.ones(len(rec))
        parts.append(
            _place(shape.p, rec, fixed.to_grid(onset, 64) / 64.0 - shape.p.on[rec], one, none, one, (none, none), 0)
        )
    return [np.concatenate(c) for c in zip(*parts, strict=True)]


def _p_waves(sched, shape, rec, k, qrs, gain, turn):
    out = []
    pr, p_kind = sched.pr[rec, k], sched.p_kind[rec, k]
    for which, wave in ((0, shape.p), (1, shape.p_early), (2, shape.p_back)):
        if which == 2:
            has, at = p_kind == 2, sched.t[rec, k] + qrs.off[rec] + 60.0
        else:
            has, at = (pr > 0) & (p_kind == which), sched.t[rec, k] + qrs.on[rec] - pr - wave.on[rec]
        if has.any():
            none = np.zeros(int(has.sum()))
            out.append(_place(wave, rec[has], at[has], none + 1, none, gain[has], [x[has] for x in turn], 0))
    return out


def _spike(shape):
    """Pacing spike: one very narrow component."""
    size = np.where(shape.d.u("spike") < 0.7, 600.0 + 800.0 * shape.d.u("spike"), 5000.0 * shape.d.u("spike") - 2000.0)
    x, y = shape.d.u("spike_x", -0.4, 0.4), shape.d.u("spike_y", -1.0, -0.5)
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
    mu, sigma64 = fixed.to_grid(mu, 64), fixed.to_grid(sigma, 64)
    row = (rec * GROUPS + group) * n_times
    table, index, values = fixed.gauss_table(), [], []
    for low, high in zip(_BUCKETS, _BUCKETS[1:], strict=False):
        b = np.flatnonzero((sigma > low) & (sigma <= high))
        if not len(b):
            continue
        reach = 4 * int(sigma64[b].max())
        n = 2 * reach * int(fs) // 64000 + 2
        at = (mu[b] - reach) * int(fs) // 64000 + 1
        at = at[:, None] + np.arange(n)
        u = np.abs(at * 64000 // int(fs) - mu[b, None]) * fixed.GAUSS_STEPS // sigma64[b, None]
        keep = (u <= 4 * fixed.GAUSS_STEPS) & (at >= 0) & (at < n_times)
        g = table[u[keep]]
        index.append((row[b, None] + at)[keep])
        count = keep.sum(1)
        values.append([np.repeat(fixed.to_grid(a[b], 16), count) * g for a in (x, y, z)])
    index, size = np.concatenate(index), n_records * GROUPS * n_times
    out = np.empty((n_records, GROUPS, 3, n_times))
    for axis in range(3):
        weights = np.concatenate([v[axis] for v in values]).astype(np.float64)
        out[:, :, axis] = np.bincount(index, weights, size).reshape(n_records, GROUPS, n_times)
    return np.floor(out / fixed.ONE).reshape(n_records, GROUPS * 3, n_times)


def atrial(sched, want, d, fs, n_times, out, rows):
    """Add f waves (Stridh and Sornmo 2001) and flutter sawtooth to the atrial group of `out` (of `rows`) in place."""
    table, turn = fixed.sine_table(), 1 << 32
    i = np.arange(n_times, dtype=np.int64)

    def tone(hz, phase):
        step = int(fixed.to_grid(hz / fs, turn))
        return (step * i + int(fixed.to_grid(phase, turn))) & (turn - 1)

    def sine(phase):
        return table[((phase & (turn - 1)) * fixed.TURN) >> 32]

    for place in np.flatnonzero((want["AFIB"] | want["AFLT"])[rows]):
        r = rows[place]
        phases, f0 = d.u("f_phase")[r], float(sched.f_hz[r])
        slow = sine(tone(0.2, phases[0]))
        for axis in range(3):
            if want["AFLT"][r]:
                size = (-20.0, -180.0, -90.0)[axis] * (0.5 + 0.9 * d.u("f_a")[r])
                wave = sum(sine(tone(n * f0, n * phases[1])) // n for n in (1, 2, 3, 4))
                out[place, 9 + axis] += np.floor(wave * np.floor(16 * 0.6 * size) / fixed.ONE)
                continue
            a = ((15, 30), (15, 25), (25, 45))[axis]
            a = (a[0] + a[1] * d.u("f_amp")[r, axis]) * (2.0 if d.u("f_a")[r] < 0.2 else 1.0)
            swing = (slow * int(0.199 * turn)) >> 15
            theta = tone(f0 * (0.95, 1.0, 1.05)[axis], phases[1]) + swing
            y = sum(-sine(n * theta) * (int(10430 * 2) // n) // fixed.ONE for n in (1, 2, 3))
            for j, rate in enumerate((0.78, 1.22)):
                band = sine(tone(0.31 + 0.1 * j, phases[2] + 0.3 * axis))
                y = y + ((sine(tone(rate * f0, phases[j])) * band) >> 16)
            out[place, 9 + axis] += np.floor(
                y * (3 * fixed.ONE + slow) // (3 * fixed.ONE) * np.floor(16 * a) / fixed.ONE
            )


def project(vector, leads):
    """Eight leads (record, 8, time) in 1/16 uV from group vectors and lead matrices in 1/1024: exact, then floored."""
    return np.floor(np.matmul(leads, vector) / 1024.0)


def twelve(x8):
    """Twelve leads in standard order from I, II, V1..V6 (record, 8, time); exact where I and II are even integers."""
    one, two = x8[:, 0], x8[:, 1]
    halves = (one // 2, two // 2) if x8.dtype.kind == "i" else (one / 2, two / 2)
    limb = [one, two, two - one, -halves[0] - halves[1], one - halves[1], two - halves[0]]
    return np.concatenate([np.stack(limb, 1), x8[:, 2:]], 1)
