"""Noise to add to ECGs: baseline wander, muscle, electrode motion, simulated or cut from recordings of real noise.

Everything is drawn on the CPU from torch's global generator, so that the same seed gives the same noise everywhere.
Noise has mean 0 and RMS 1 along time; `mix` gives it its size. A packed noise file (see `ecglib.noisebank`) is a .npy
of float32 (channel, time) with a .json beside it: {"fs": Hz, "kinds": {kind: [channel, ..]}}.
"""

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ecglib.signals import EcgError

KINDS = ("wander", "muscle", "electrode")
WANDER_HZ = (0.05, 0.6)
MUSCLE_HZ = (15.0, 150.0)
MOTION_HZ = (1.0, 10.0)


class Bank(NamedTuple):
    """Recorded noise: fs in Hz; tracks: kind -> float32 (channel, time)."""

    fs: float
    tracks: dict[str, torch.Tensor]


def load(path) -> Bank:
    """The packed noise file `path` (.npy with a .json beside it), kept in memory until the file changes.

    Raises EcgError where a file is missing or the two do not fit.
    """
    path = Path(path)
    for file in (path, path.with_suffix(".json")):
        if path.suffix != ".npy" or not file.is_file():
            raise EcgError(
                "no packed noise here", file=file, field="noise", fix="write it by noisebank.pack, or use ''"
            )
    return _load(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _load(path: Path, _changed: int) -> Bank:
    data, info = np.load(path, allow_pickle=False), json.loads(path.with_suffix(".json").read_text())
    rows = sorted(row for kind in KINDS for row in info.get("kinds", {}).get(kind, ()))
    if data.ndim != 2 or data.dtype != np.float32 or "fs" not in info or rows != list(range(len(data))):
        raise EcgError(f"{data.dtype} {data.shape} does not fit {info}", file=path, field="noise", fix="pack it anew")
    return Bank(float(info["fs"]), {k: torch.from_numpy(data[info["kinds"][k]]) for k in KINDS if info["kinds"].get(k)})


def draw(kind: str, shape, fs: float, path="") -> torch.Tensor:
    """Noise of one kind of KINDS: float32 `shape` (.., time), every row mean 0 and RMS 1, on the CPU.

    path: packed noise to cut random windows from (any channel, any time, each row its own); "" = simulated.
    Raises EcgError for an unknown kind and for a file of another rate, without the kind or shorter than a window.
    """
    if not path:
        return simulate(kind, shape, fs)
    bank, n = load(path), shape[-1]
    track = bank.tracks.get(_known(kind))
    if track is None or bank.fs != fs or track.shape[1] < n:
        have = f"{ {k: tuple(t.shape) for k, t in bank.tracks.items()} } at {bank.fs:g} Hz"
        raise EcgError(f"no {n} samples of {kind} at {fs:g} Hz in {have}", file=path, field="noise", fix="pack it anew")
    rows = math.prod(shape[:-1])
    channel, start = torch.randint(len(track), (rows, 1)), torch.randint(track.shape[1] - n + 1, (rows, 1))
    return unit(track[channel, start + torch.arange(n)]).reshape(shape)


def simulate(kind: str, shape, fs: float) -> torch.Tensor:
    """Simulated noise as `draw` returns it. The models are our own.

    wander: integrated noise, 0.05 to 0.6 Hz, amplitude as 1/f; muscle: flat from 15 to 150 Hz (or to fs/2) with one
    burst, 0.3 to 3 s long and up to 8 times stronger; electrode: jumps that decay within 0.2 to 1 s, one in four
    seconds, on noise from 1 to 10 Hz.
    """
    make = {"wander": _wander, "muscle": _muscle, "electrode": _electrode}[_known(kind)]
    rows = math.prod(shape[:-1])
    return unit(make(rows, shape[-1], fs)).reshape(shape) if rows else torch.zeros(shape)


def unit(noise: torch.Tensor) -> torch.Tensor:
    """Noise (.., time) with mean 0 and RMS 1; a constant row becomes 0."""
    noise = noise - noise.mean(-1, keepdim=True)
    rms = noise.square().mean(-1, keepdim=True).sqrt()
    return torch.where(rms > 1e-6, noise / rms.clamp_min(1e-6), 0.0)


def mix(x: torch.Tensor, noise: torch.Tensor, snr_db) -> torch.Tensor:
    """x (.., lead, time) plus `noise` of that shape scaled to snr_db = 10 log10(var x / mean noise^2) in every lead.

    snr_db: a number or a tensor that fits (.., lead); infinity returns x. A constant lead stays as it is: no size of
    noise fits it, and a missing lead has to stay zero.
    """
    noise = noise.to(x)
    snr = torch.as_tensor(snr_db, dtype=torch.float32).to(x.device).unsqueeze(-1)
    power = noise.float().square().mean(-1, keepdim=True).clamp_min(1e-12)
    gain = (x.float().var(-1, correction=0, keepdim=True) / power * 10 ** (-snr / 10)).sqrt()
    return x + noise * gain.to(x.dtype)


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise EcgError(f"unknown noise {kind!r}", field="kind", fix=f"use one of {', '.join(KINDS)}")
    return kind


def _wander(rows: int, n: int, fs: float) -> torch.Tensor:
    basis = _wander_basis(n, float(fs))
    return torch.randn(rows, len(basis)) @ basis


@lru_cache(maxsize=8)
def _wander_basis(n: int, fs: float) -> torch.Tensor:
    """Cosines and sines (function, time) with amplitude 1/f. Their spacing is half a cycle per window, so that the sum
    does not come back within it."""
    step = min(WANDER_HZ[0], fs / (2 * n))
    f = torch.arange(WANDER_HZ[0], WANDER_HZ[1], step, dtype=torch.float64)[:, None]
    angle = 2 * math.pi * f * torch.arange(n, dtype=torch.float64) / fs
    return torch.cat([angle.cos() / f, angle.sin() / f]).float()


def _band(rows: int, n: int, fs: float, low: float, high: float, power: float = 0.0) -> torch.Tensor:
    """Gaussian noise (row, time) between low and high Hz with amplitude f ** -power."""
    f = torch.fft.rfftfreq(n, 1 / fs)
    inside = (f >= low) & (f <= high) & (f > 0)
    if not inside.any():
        raise EcgError(f"no room for {low:g} to {high:g} Hz in {n} samples at {fs:g} Hz", field="fs")
    spectrum = torch.zeros(rows, len(f), dtype=torch.complex64)
    spectrum[:, inside] = torch.randn(rows, int(inside.sum()), dtype=torch.complex64) * f[inside] ** -power
    return torch.fft.irfft(spectrum, n)


def _muscle(rows: int, n: int, fs: float) -> torch.Tensor:
    at, width, gain = torch.rand(3, rows, 1)
    t = torch.arange(n) / fs
    bump = torch.exp(-(((t - at * n / fs) / (0.15 + 1.35 * width)) ** 2))
    return _band(rows, n, fs, min(MUSCLE_HZ[0], fs / 4), MUSCLE_HZ[1]) * (1 + 7 * gain * bump)


def _electrode(rows: int, n: int, fs: float) -> torch.Tensor:
    jumps = max(1, round(n / fs / 4))
    at, tau = torch.rand(2, rows, jumps, 1)
    late = torch.arange(n) / fs - at * n / fs
    steps = torch.where(late >= 0, torch.exp(-late.clamp_min(0) / (0.2 + 0.8 * tau)), 0.0)
    steps = (steps * torch.randn(rows, jumps, 1)).sum(1)
    return unit(steps) + 0.5 * unit(_band(rows, n, fs, *MOTION_HZ, power=1.0))
