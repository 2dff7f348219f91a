"""A random augmentation policy: a few operations drawn anew for every record, one magnitude for all of them.

The idea is PulseNet's (arXiv 2305.15424), which shows it on a private collection of dogs; operations and their sizes
are our own choice. Random numbers come from torch's global generator on the CPU, the same on every device.
"""

import math
from collections import deque
from dataclasses import dataclass, field

import torch

from ecglib import EcgError, require_known
from ecglib.training import noise
from ecglib.training.augment import gain, roll, time_mask
from ecglib.training.masking import lead_drop

MOST = 10.0  # the largest magnitude
MAINS_HZ, BREATHS_HZ = 50.0, (0.1, 0.4)


def _amplitude(x, u, fs):
    return gain(x, 0.5 * u)


def _lead_amplitude(x, u, fs):
    return x * torch.exp(0.5 * u * torch.randn(*x.shape[:2], 1)).to(x)


def _shift(x, u, fs):
    offsets = (_symmetric(len(x)) * u * x.shape[-1] / 2).round().long()
    return roll(x, offsets.to(x.device))


def _stretch(x, u, fs):
    middle, t = (x.shape[-1] - 1) / 2, torch.arange(x.shape[-1], dtype=torch.float32)
    return _read_at(x, middle + (t - middle) * (1 + 0.1 * u * _symmetric(len(x), 1)))


def _rate(x, u, fs):
    """The heart rate rises and falls by up to 20 % with the breath."""
    low, high = BREATHS_HZ
    hz, phase = low + (high - low) * torch.rand(len(x), 1), 2 * math.pi * torch.rand(len(x), 1)
    t = torch.arange(x.shape[-1], dtype=torch.float32)
    return _read_at(x, t + 0.2 * u * fs / (2 * math.pi * hz) * torch.sin(2 * math.pi * hz * t / fs + phase))


def _gaussian(x, u, fs):
    return _added(x, torch.randn(x.shape), 0.3 * u)


def _wander(x, u, fs):
    return _added(x, noise.draw("wander", x.shape, fs), u)


def _muscle(x, u, fs):
    return _added(x, noise.draw("muscle", x.shape, fs), 0.5 * u)


def _mains(x, u, fs):
    t = torch.arange(x.shape[-1]) / fs
    phase = 2 * math.pi * torch.rand(len(x), 1, 1)
    return _added(x, noise.unit(torch.sin(2 * math.pi * MAINS_HZ * t + phase)).expand(x.shape), 0.5 * u)


def _drop_leads(x, u, fs):
    if x.shape[1] == 1:
        return x
    return x * lead_drop(*x.shape[:2], 0.5 * u, (x != 0).any(-1)).to(x).unsqueeze(-1)


def _hide(x, u, fs):
    return time_mask(x, 0.0, 0.3 * u)


def _flip(x, u, fs):
    return torch.where(torch.rand(len(x), 1, 1) < 0.5 * u, -1.0, 1.0).to(x) * x


OPERATIONS = {  # name -> f(x (batch, lead, time), strength in 0 .. 1, fs in Hz); at strength 0 x stays as it is
    "amplitude": _amplitude,
    "lead amplitude": _lead_amplitude,
    "time shift": _shift,
    "time stretch": _stretch,
    "rate change": _rate,
    "gaussian noise": _gaussian,
    "baseline wander": _wander,
    "mains": _mains,
    "muscle": _muscle,
    "lead dropout": _drop_leads,
    "time mask": _hide,
    "polarity flip": _flip,
}
USUAL = tuple(name for name in OPERATIONS if name != "polarity flip")  # a flip is what swapped cables look like


@dataclass
class RandomPolicy:
    """n operations without replacement for each record, in a random order, all at magnitude m in 0 .. 10.

    operations: names of OPERATIONS to draw from; fs: of the signals, Hz. `log` holds for each of the last calls what
    was drawn, int64 (batch, n), positions in `operations`. EcgError for an unknown operation, n or m out of range.
    """

    n: int = 2
    m: float = 5.0
    operations: tuple = USUAL
    fs: float = 100.0
    log: deque = field(default_factory=lambda: deque(maxlen=1000), repr=False)

    def __post_init__(self):
        require_known("operation", self.operations, OPERATIONS, "policy")
        if not (0 <= self.n <= len(self.operations) and 0 <= self.m <= MOST):
            fix = f"n from 0 to {len(self.operations)}, m from 0 to {MOST:g}"
            raise EcgError(f"a policy with n={self.n}, m={self.m:g}", field="policy", fix=fix)

    def __call__(self, x: torch.Tensor, lead_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The training view of x (batch, lead, time) and its leads, bool (batch, lead): an operation's zeroed lead is
        missing, and what is missing stays zero."""
        drawn = torch.rand(len(x), len(self.operations)).argsort(1)[:, : self.n]
        self.log.append(drawn)
        if not self.n or not self.m:
            return x, lead_mask
        for place in drawn.unbind(1):
            for number, name in enumerate(self.operations):
                rows = torch.nonzero(place == number)[:, 0].to(x.device)
                if len(rows):
                    before, there = x[rows], lead_mask[rows]
                    after = OPERATIONS[name](before, self.m / MOST, self.fs).to(x.dtype) * there.unsqueeze(-1)
                    gone = (before != 0).any(-1) & ~(after != 0).any(-1)
                    x = x.index_copy(0, rows, after)
                    lead_mask = lead_mask.index_copy(0, rows, there & ~gone)
        return x, lead_mask

    def history(self) -> list[list[tuple[str, ...]]]:
        """The log in words: for each call, for each record, the operations in their order."""
        return [[tuple(self.operations[i] for i in row) for row in drawn.tolist()] for drawn in self.log]


def _symmetric(*shape: int) -> torch.Tensor:
    return 2 * torch.rand(*shape) - 1


def _added(x, added, level: float):
    """x plus noise of RMS 1, scaled to `level` times the deviation of each lead."""
    return x + level * x.std(-1, correction=0, keepdim=True) * added.to(x)


def _read_at(x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """x (batch, lead, time) at fractional samples (batch, time), linear between them, mirrored at both ends."""
    last = x.shape[-1] - 1
    position = (last - (last - position.to(x.device).abs()).abs()).clamp(0, last)
    before = position.floor().long()
    share = (position - before).to(x).unsqueeze(1)
    low, high = (x.gather(-1, i.unsqueeze(1).expand(x.shape)) for i in (before, (before + 1).clamp(max=last)))
    return torch.lerp(low, high, share)
