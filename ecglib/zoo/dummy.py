"""Dummy weights and inputs that anyone can make again, from names and numbers alone.

As the conformance packs (`ecglib.zoo.conformance`) define them: every tensor is drawn from a generator that its
published name seeds, every input is a pseudo-ECG of Gaussian bumps. Networks with such weights have learned nothing.
"""

import hashlib

import numpy as np
import torch

# P Q R S T: height (mV), offset from the beat (s), width (s)
WAVES = [(0.12, -0.16, 0.022), (-0.10, -0.03, 0.010), (1.00, 0.00, 0.012), (-0.25, 0.03, 0.012), (0.30, 0.26, 0.050)]
GAINS = ("weight_g", "original0")  # of a weight normalisation, old and new spelling


def fill(key: str, shape, dtype: str = "float32") -> torch.Tensor:
    """The tensor of that published name, shape and dtype, the same everywhere.

    Norm weights, gains and variances lie around 1, biases and means around 0 (sd 0.02), the rest is normal with
    variance 1 / inputs, so that signals neither die nor grow; counters are zero, the flag of a codebook is one.
    """
    leaf, shape = key.split(".")[-1], tuple(shape)
    if dtype.startswith(("int", "uint", "bool")):
        return torch.from_numpy(np.zeros(shape, dtype))
    if leaf == "initted":
        return torch.ones(shape)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    generator = np.random.Generator(np.random.PCG64(seed))
    if shape == () or leaf.endswith("running_var") or leaf in GAINS or (leaf == "weight" and len(shape) == 1):
        values = 1 + 0.1 * generator.uniform(-1, 1, size=shape)
    elif leaf.endswith(("running_mean", "bias")):
        values = 0.02 * generator.standard_normal(shape)
    else:
        sizes = list(shape)
        while len(sizes) > 1 and sizes[0] == 1:
            sizes = sizes[1:]
        values = generator.standard_normal(shape) / np.sqrt(np.prod(sizes[1:]) if len(sizes) > 1 else sizes[0])
    if key.endswith("out_proj.weight"):
        values = 0.3 * values
    return torch.from_numpy(np.asarray(values).astype(dtype))


def pseudo_ecg(seed: int, rr: float, b0: float, fs: float, n: int) -> np.ndarray:
    """Twelve leads of n samples at fs Hz, float64 (12, n) in mV: five bumps a beat, wander, noise of `seed`.

    rr: seconds between beats, which sway by 20 ms; b0: time of the first.
    """
    t, lead = np.arange(n) / fs, np.arange(12)[:, None]
    x = np.zeros((12, n))
    for beat in beat_times(rr, b0, n / fs):
        for w, (height, offset, width) in enumerate(WAVES):
            angle = np.cos(0.5 * lead + 0.8 * w)
            x += (0.35 + 0.65 * angle) * height * np.exp(-0.5 * ((t - beat - offset) / width) ** 2)
    x += 0.05 * np.sin(2 * np.pi * 0.31 * t + 0.4 * lead)
    return x + 0.03 * np.random.Generator(np.random.PCG64(seed)).standard_normal((12, n))


def beat_times(rr: float, b0: float, seconds: float) -> list[float]:
    """Times of the beats of `pseudo_ecg` in seconds; the last lie up to one interval beyond the end."""
    numbers = range(max(0, int(np.ceil((seconds + rr - b0) / rr)) + 1))
    return [b0 + j * rr + 0.02 * np.sin(1.3 * j) for j in numbers if b0 + j * rr < seconds + rr]


def records(fs: float, n: int, seed: int = 1001, rr: float = 0.83, b0: float = 0.31) -> np.ndarray:
    """The two records of an input: float64 (2, 12, n), mV, leads in standard order. The defaults are input A's."""
    return np.stack([pseudo_ecg(seed + r, rr + 0.09 * r, b0 + 0.05 * r, fs, n) for r in range(2)])


def peaks(fs: float, n: int, rr: float = 0.83, b0: float = 0.31) -> torch.Tensor:
    """R peaks of `records` as samples, nearest first above one half: int64 (2, beats), padded with -1."""
    peaks = []
    for r in range(2):
        samples = [int(np.floor(fs * beat + 0.5)) for beat in beat_times(rr + 0.09 * r, b0 + 0.05 * r, n / fs)]
        peaks.append(torch.tensor([sample for sample in samples if 0 <= sample < n], dtype=torch.int64))
    return torch.nn.utils.rnn.pad_sequence(peaks, batch_first=True, padding_value=-1)
