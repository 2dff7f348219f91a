"""Simplicity bias: does a representation carry the subtle cue that decides, or the loud pattern that goes along?

Two instruments after the question of "Masked Autoencoders that Feel the Heart" (arXiv 2506.22495), of our own design:
synthetic records in which a small wave alone makes the class while the heart rate agrees with it or contradicts it, and
signals from which a band of frequencies is taken. `curve` puts both to a frozen encoder.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError
from ecglib.data import profiles
from ecglib.evaluation import bootstrap
from ecglib.evaluation.classifiers import linear
from ecglib.training.batches import run_inference

AMPLITUDES = (0.0, 0.02, 0.05, 0.1, 0.2)  # of the cue, mV
BANDS = ((0.0, 5.0), (5.0, 15.0), (15.0, 40.0))  # Hz
WAVES = ((-0.10, -0.025, 0.008), (1.0, 0.0, 0.010), (-0.20, 0.028, 0.010), (0.30, 0.28, 0.050))  # Q R S T: mV, s, sd s
CUES = {"p": (-0.16, 0.020, 0.0), "notch": (0.05, 0.010, 25.0)}  # centre after R (s), sd (s), carrier (Hz)
REACH = 4  # sd after which a wave counts as over
RATES, RATE_SD, JITTER = (60.0, 85.0), 4.0, 0.02  # per minute of the two patterns; sd of the rate; relative sd of RR


class Records(NamedTuple):
    """What `conflict` makes."""

    x: np.ndarray  # float32 (record, lead, time) in mV
    y: np.ndarray  # int8 (record,), 1 = the cue is there
    pattern: np.ndarray  # int8 (record,), 1 = fast heart
    r: np.ndarray  # float (record, beat), R peaks in seconds, beats beyond the record's end included


def conflict(n, cue="p", amplitude=0.05, agree=1.0, seed=0, n_leads=12, fs=100.0, seconds=10.0, noise=0.02) -> Records:
    """Make `n` records with the same QRS and T, half of them with a cue that the heart rate follows or contradicts.

    cue: "p" (a P wave of sd 20 ms, 160 ms before R) or "notch" (40 ms of a 25 Hz ripple, 50 ms after R).
    amplitude: peak of the cue in the first lead, mV.
    agree: share of the records whose rate (85 instead of 60 per minute) goes with the cue: 1 = always, 0 = never (the
    conflict), 0.5 = chance.
    seed: draws the same hearts and noise whatever the amplitude; n_leads; fs: Hz; seconds: length.
    noise: sd of white noise, mV.
    Raises EcgError for an unknown cue and a share outside 0 to 1.
    """
    if cue not in CUES:
        raise EcgError(f"unknown cue {cue!r}", field="cue", fix=f"use one of {', '.join(CUES)}")
    if not 0 <= agree <= 1:
        raise EcgError(f"agree={agree}", field="agree", fix="a share from 0 to 1")
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2).astype(np.int8)
    pattern = np.where(rng.permutation(n) < round(agree * n), y, 1 - y).astype(np.int8)
    rr = 60 / (np.array(RATES)[pattern] + RATE_SD * rng.standard_normal(n))
    steps = rr[:, None] * (1 + JITTER * rng.standard_normal((n, int(seconds * 2.2) + 2)))
    r = np.cumsum(steps, 1) - rr[:, None] * (1 + rng.random((n, 1)))
    gain = np.linspace(1.0, 0.5, n_leads)[:, None]  # one dipole seen from further and further away
    x = _beats(r, amplitude * y, CUES[cue], fs, round(seconds * fs))[:, None] * gain
    x += noise * rng.standard_normal(x.shape)
    return Records(x.astype(np.float32), y, pattern, r)


def _beats(r, amplitude, cue, fs: float, n_times: int) -> np.ndarray:
    """Signals (record, time) of beats at r (record, beat) seconds, with a cue of the amplitude (record,) in each."""
    at = np.round(r * fs).astype(int)[..., None] + np.arange(round(-0.3 * fs), round(0.6 * fs))  # samples of each beat
    after = at / fs - r[..., None]
    centre, sd, carrier = cue
    beat = sum(height * _wave(after - middle, width) for height, middle, width in WAVES)
    beat += amplitude[:, None, None] * _wave(after - centre, sd, carrier)
    inside = (at >= 0) & (at < n_times)
    x = np.zeros((len(r), n_times))
    np.add.at(x, (np.nonzero(inside)[0], at[inside]), beat[inside])
    return x


def _wave(t: np.ndarray, sd: float, carrier: float = 0.0) -> np.ndarray:
    """Gaussian of height 1 around t = 0 (s), times a cosine of `carrier` Hz; exactly zero beyond REACH sd."""
    return np.where(abs(t) < REACH * sd, np.exp(-0.5 * (t / sd) ** 2) * np.cos(2 * np.pi * carrier * t), 0.0)


def occlude(x: np.ndarray, fs: float, low: float, high: float) -> np.ndarray:
    """Take the frequencies low <= f < high (Hz) out of x (..., time) at fs Hz: float32 of the same shape.

    Raises EcgError for a band that is empty or starts beyond fs / 2.
    """
    if not 0 <= low < min(high, fs / 2):
        raise EcgError(f"no band from {low} to {high} Hz at {fs} Hz", field="band", fix="0 <= low < high, low < fs/2")
    frequency = np.fft.rfftfreq(x.shape[-1], 1 / fs)
    spectrum = np.fft.rfft(x, axis=-1)
    spectrum[..., (low <= frequency) & (frequency < high)] = 0
    return np.fft.irfft(spectrum, x.shape[-1], axis=-1).astype(np.float32)


def embed(encoder, x: np.ndarray) -> np.ndarray:
    """Frozen features: x float32 (record, lead, time) -> float32 (record, dim), the encoder in evaluation mode."""
    return run_inference(encoder, encoder, torch.from_numpy(np.ascontiguousarray(x, np.float32)), 256).numpy()


def curve(encoder, cue="p", amplitudes=AMPLITUDES, bands=BANDS, agree=0.9, n=256, seed=0, profile="study", **record):
    """AUROC of a linear probe of the frozen `encoder` for the cue, over its amplitude and over removed bands.

    A probe learns from n records in which the rate agrees with the cue at the share `agree`, chosen on n / 2 more; it
    is tested on n records in which it always does and on n in which it never does. Under simplicity bias the AUROC of
    "conflict" stays below 0.5 until the cue is large.

    bands: (low, high) in Hz, taken from the test records only: what the probe of whole signals relies on.
    profile: name or `profiles.Profile` of the encoder; record: fs, seconds, noise of `conflict`.
    Returns a DataFrame: cue, amplitude (mV), removed ("" or "low-high"), test ("agree" or "conflict"), auroc with
    its 95 % interval over the test records, low and high.
    """
    profile = profiles.profile(profile) if isinstance(profile, str) else profile
    fs, rows = record.get("fs", 100.0), []

    def draw(k, n, agree, amplitude):
        records = conflict(n, cue, amplitude, agree, 4 * seed + k, encoder.n_leads, **record)
        return profile.apply(records.x, fs), records.y[:, None]

    for amplitude in amplitudes:
        (x, y), (x_val, y_val) = (draw(k, m, agree, amplitude) for k, m in ((0, n), (1, n // 2)))
        model = linear(embed(encoder, x), y, embed(encoder, x_val), y_val).model
        for k, (test, share) in enumerate((("agree", 1.0), ("conflict", 0.0))):
            x, y = draw(2 + k, n, share, amplitude)
            for band in (None, *bands):
                left = x if band is None else occlude(x, profile.fs, *band)
                removed = "" if band is None else f"{band[0]:g}-{band[1]:g}"
                p = model(embed(encoder, left))
                score = bootstrap.bootstrap(y[:, 0], p[:, 0], n=200)
                rows.append((cue, amplitude, removed, test, *score[:3]))
    return pd.DataFrame(rows, columns=["cue", "amplitude", "removed", "test", "auroc", "low", "high"])
