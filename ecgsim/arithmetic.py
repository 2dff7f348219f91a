"""Arithmetic that gives the same bits on every machine: random words, tables, elementary functions.

NumPy's exp, log, sin and pow differ in the last bit between CPU features, and `Generator` methods may change
between versions. Here only + - * / sqrt, floor, ldexp and frexp touch floats (each exactly rounded by IEEE 754), and
sums of floats are written out in a fixed order. Integers carried in float64 below 2**53 are exact in any order.
"""

import csv
from functools import cache
from pathlib import Path

import numpy as np

SPEC_VERSION = 1
TURN = 4096  # steps of the sine table per turn
GAUSS_STEPS = 1024  # steps of the Gaussian table per sigma
ONE = 1 << 15  # amplitude of both tables
PHASE = 1 << 32  # steps of a phase per turn
_LN2_HI, _LN2_LO = 0.693147180369123816490, 1.90821492927058770002e-10
_TWO_PI = 6.283185307179586


def exp(x):
    """e**x by range reduction and a Horner series; relative error below 1e-15 for |x| < 500."""
    x = np.asarray(x, np.float64)
    k = np.floor(x / (_LN2_HI + _LN2_LO) + 0.5)
    r = (x - k * _LN2_HI) - k * _LN2_LO
    p = np.ones_like(r)
    for i in range(14, 0, -1):
        p = 1.0 + r * p / i
    return np.ldexp(p, k.astype(np.int32))


def log(x):
    """Natural logarithm of positive x (atanh series of the mantissa)."""
    m, e = np.frexp(np.asarray(x, np.float64))
    small = m < 0.7071067811865476
    m, e = np.where(small, 2.0 * m, m), np.where(small, e - 1, e).astype(np.float64)
    s = (m - 1.0) / (m + 1.0)
    s2, p = s * s, np.zeros_like(s)
    for i in range(23, 0, -2):
        p = 1.0 / i + s2 * p
    return 2.0 * s * p + e * _LN2_LO + e * _LN2_HI


def sin(turns):
    """Sine of an angle in turns (1.0 = 360 degrees)."""
    q = np.asarray(turns, np.float64)
    q = q - np.floor(q + 0.5)
    q = np.where(q > 0.25, 0.5 - q, np.where(q < -0.25, -0.5 - q, q))
    x = q * _TWO_PI
    x2, p = x * x, np.zeros_like(x)
    for i in range(19, 1, -2):
        p = (1.0 - p) * x2 / (i * (i - 1))
    return x * (1.0 - p)


def cos(turns):
    """Cosine of an angle in turns."""
    return sin(np.asarray(turns, np.float64) + 0.25)


def cbrt(x):
    """Cube root of x in (0.02, 8) by Newton steps."""
    x = np.asarray(x, np.float64)
    y = 0.6 + 0.4 * x
    for _ in range(8):
        y = y - (y - x / (y * y)) / 3.0
    return y


_A = (-39.6968302866538, 220.946098424521, -275.928510446969, 138.357751867269, -30.6647980661472, 2.50662827745924)
_B = (-54.4760987982241, 161.585836858041, -155.698979859887, 66.8013118877197, -13.2806815528857, 1.0)
_C = (-0.00778489400243029, -0.322396458041136, -2.40075827716184, -2.54973253934373)
_C += (4.37466414146497, 2.93816398269878)
_D = (0.00778469570904146, 0.32246712907004, 2.445134137143, 3.75440866190742, 1.0)


def normal(u):
    """Standard normal quantile of u in [0, 1), clamped at +-3.5 (Acklam's rational approximation, error 1e-9)."""
    u = np.minimum(np.maximum(np.asarray(u, np.float64), 2.33e-4), 1.0 - 2.33e-4)
    q = u - 0.5
    centre = q * np.polyval(_A, q * q) / np.polyval(_B, q * q)
    t = np.sqrt(-2.0 * log(np.minimum(u, 1.0 - u)))
    tail = np.polyval(_C, t) / np.polyval(_D, t)
    return np.where(np.abs(q) <= 0.47575, centre, np.where(q < 0, tail, -tail))


def to_grid(x, per_unit):
    """Round to an integer number of 1/per_unit steps, halves upwards."""
    return np.floor(np.asarray(x, np.float64) * per_unit + 0.5).astype(np.int64)


@cache
def gauss_table():
    """exp(-u**2/2) * 2**15 for u = 0, 1/1024 ... 4, then one zero; int64."""
    u = np.arange(4 * GAUSS_STEPS + 1) / GAUSS_STEPS
    return np.append(to_grid(exp(-0.5 * u * u), ONE), 0)


@cache
def sine_table():
    """sin(2 pi i / 4096) * 2**15; int64."""
    return to_grid(sin(np.arange(TURN) / TURN), ONE)


def phase(hz, start, fs, i):
    """Phase of a tone of hz Hz at the samples i (int64), `start` in turns at sample 0: steps of 2**-32 turns, int64."""
    return (int(to_grid(hz / fs, PHASE)) * i + int(to_grid(start, PHASE))) & (PHASE - 1)


def tone(phases):
    """Sine of phases in steps of 2**-32 turns, times 2**15; int64."""
    return sine_table()[((phases & (PHASE - 1)) * TURN) >> 32]


@cache
def rows(name):
    """Rows of a CSV table beside this file, as a tuple of dicts of text."""
    with open(Path(__file__).with_name(name), newline="", encoding="utf-8") as f:
        return tuple(csv.DictReader(f))


class Draws:
    """Uniform numbers in named slots, one row per record: a function of (seed, kind, id, spec version, attempt) only.

    A new feature takes a new slot at the end and changes no other number.
    """

    def __init__(self, slots, seed, kind, ids, attempt=0, widest=1 << 20):
        """slots: (name, count); of slots wider than `widest` only the first numbers are used."""
        self.where, self.normals, start = {}, {}, 0
        for name, n in slots:
            self.where[name] = slice(start, start + min(n, widest))
            start += n
        words = np.empty((len(ids), start), np.uint64)
        for i, key in enumerate(ids):
            entropy = [int(seed), int(kind), int(key), SPEC_VERSION, int(attempt)]
            words[i] = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(start)
        self.uniforms = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def u(self, slot, low=0.0, high=1.0):
        """Uniform numbers in [low, high): (record,) or (record, n)."""
        x = self.uniforms[:, self.where[slot]]
        x = x[:, 0] if x.shape[1] == 1 else x
        return x if (low, high) == (0.0, 1.0) else low + (high - low) * x

    def n(self, slot, mean=0.0, sd=1.0):
        """Normal numbers."""
        if slot not in self.normals:
            self.normals[slot] = normal(self.u(slot))
        return mean + sd * self.normals[slot]

    def pick(self, slot, weights):
        """Index drawn with the given weights."""
        edges = np.cumsum(np.asarray(weights, np.float64))
        u = self.u(slot) * edges[-1]
        return (u[..., None] >= edges[:-1]).sum(-1)
