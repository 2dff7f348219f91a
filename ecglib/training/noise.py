"""Noise to add to ECGs: baseline wander, muscle, electrode motion, simulated or cut from recordings of real noise.

Everything is drawn on the CPU from torch's global generator, so that the same seed gives the same noise everywhere.
Noise has mean 0 and RMS 1 along time; `mix` gives it its size. A packed noise file is a .npy of
float32 (channel, time) with a .json beside it: {"fs": Hz, "kinds": {kind: [channel, ..]}}.
"""

import io
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ecglib import EcgError
from ecglib.data import wfdb_io
from ecglib.data.files import write_atomic
from ecglib.data.filters import resample

KINDS = ("wander", "muscle", "electrode")
WANDER_HZ = (0.05, 0.6)
MUSCLE_HZ = (15.0, 150.0)
MOTION_HZ = (1.0, 10.0)


class Bank(NamedTuple):
    """Recorded noise: fs in Hz; tracks: kind -> float32 (channel, time)."""

    fs: float
    tracks: dict[str, torch.Tensor]


def load(path) -> Bank:
    """The packed noise file `path` (.npy with a .json beside it), kept in memory until the file changes. EcgError where
    a file is missing or the two do not fit."""
    path = Path(path)
    for file in (path, path.with_suffix(".json")):
        if path.suffix != ".npy" or not file.is_file():
            raise EcgError("no packed noise here", file=file, field="noise", fix="use noise.pack_bank, or ''")
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
    path: packed noise to cut random windows from (any channel, any time, each row its own); "" = simulated. EcgError
    for an unknown kind and for a file of another rate, without the kind or shorter than a window."""
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
    """Simulated noise as `draw` returns it; the models are our own. wander: 0.05 to 0.6 Hz, amplitude as 1/f; muscle:
    flat from 15 to 150 Hz (or to fs/2) with one stronger burst; electrode: decaying jumps, one in four seconds, on
    noise from 1 to 10 Hz."""
    make = {"wander": _wander, "muscle": _muscle, "electrode": _electrode}[_known(kind)]
    rows = math.prod(shape[:-1])
    return unit(make(rows, shape[-1], fs)).reshape(shape) if rows else torch.zeros(shape)


def unit(noise: torch.Tensor) -> torch.Tensor:
    """Noise (.., time) with mean 0 and RMS 1; a constant row becomes 0."""
    noise = noise - noise.mean(-1, keepdim=True)
    rms = noise.square().mean(-1, keepdim=True).sqrt()
    return noise.div_(rms.clamp_min(1e-6)).masked_fill_(rms <= 1e-6, 0.0)


def mix(x: torch.Tensor, noise: torch.Tensor, snr_db) -> torch.Tensor:
    """x (.., lead, time) plus `noise` of that shape scaled to snr_db = 10 log10(var x / mean noise^2) in every lead.
    snr_db: number or tensor that fits (.., lead); infinity returns x. A constant lead stays as it is."""
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


RECORDS = {"wander": "bw", "muscle": "ma", "electrode": "em"}
# Shares of the time: noise that a model was trained with must not be what tests it.
PARTS = {"train": (0.0, 0.6), "test": (0.6, 1.0)}


def pack_bank(root, out, fs: float = 100.0, part: str = "train") -> Path:
    """Write the noise records bw, ma and em of folder `root` at fs Hz to `out` (.npy, float32 (channel, time) in mV),
    with a .json beside it; returns `out`.
    part: "train" = the first 60 % of every record, "test" = the rest. Raises EcgError for an unknown part, another
    ending, a record that is missing or has invalid samples."""
    out = Path(out)
    if part not in PARTS:
        raise EcgError(f"part={part!r}", field="part", fix=f"use one of {', '.join(PARTS)}")
    if out.suffix != ".npy":
        raise EcgError("packed noise is a .npy file", file=out, field="out", fix="end its name in .npy")
    tracks, kinds, seconds = [], {}, None
    for kind, name in RECORDS.items():
        recording = wfdb_io.read(Path(root) / name)
        if not np.isfinite(recording.signal).all():
            raise EcgError("invalid samples", file=Path(root) / name, field="signal", fix="fetch the record again")
        first, last = (round(share * recording.signal.shape[1]) for share in PARTS[part])
        kinds[kind] = [len(tracks) + i for i in range(len(recording.signal))]
        # cut first: a resampling filter would carry noise of one part into the other
        tracks += list(resample(recording.signal[:, first:last], recording.fs, fs))
        seconds = [round(i / recording.fs, 3) for i in (first, last)]
    length = min(len(track) for track in tracks)
    payload = io.BytesIO()
    np.save(payload, np.stack([track[:length] for track in tracks]).astype(np.float32))
    info = {"fs": fs, "part": part, "seconds": seconds, "kinds": kinds, "records": RECORDS}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, payload.getvalue())
    write_atomic(out.with_suffix(".json"), (json.dumps(info, indent=1) + "\n").encode())
    return out
