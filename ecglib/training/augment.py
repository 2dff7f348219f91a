"""Augmentations: tensors in, new ones out. Random numbers are drawn on the CPU, so that they are the same on every
device: from torch's global generator unless a function takes one."""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from ecglib import EcgError
from ecglib.training.masking import lead_drop, lead_subsets
from ecglib.training.noise import KINDS, draw, mix, unit

VIEW_NAMES = ("I", "-aVF", "-III", "aVL", "-aVR", "II", "aVF")
# Each frontal-plane view as a combination of leads I and II (Einthoven, Goldberger); axis in degrees beside it.
VIEWS = np.array(
    [
        [1.0, 0.0],  # I, 0
        [0.5, -1.0],  # -aVF, -90
        [1.0, -1.0],  # -III, -60
        [1.0, -0.5],  # aVL, -30
        [0.5, 0.5],  # -aVR, +30
        [0.0, 1.0],  # II, +60
        [-0.5, 1.0],  # aVF, +90
    ],
    dtype=np.float32,
)


def lead_views(x):
    """The seven frontal views (..., 7, time), in the order VIEW_NAMES, of x (..., lead, time), array or tensor, whose
    first two leads are I and II. Source: lead augmentation of ECGFounder's single-lead model (arXiv 2410.04133)."""
    views = torch.as_tensor(VIEWS, dtype=x.dtype, device=x.device) if isinstance(x, torch.Tensor) else VIEWS
    return views @ x[..., :2, :]


def pick_lead(x: torch.Tensor, lead_mask: torch.Tensor, lead: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One lead of each record, lead int64 (batch,): x (batch, lead, time), lead_mask bool (batch, lead) -> (batch, 1,
    time), (batch, 1)."""
    rows = torch.arange(len(x), device=x.device)
    return x[rows, lead].unsqueeze(1), lead_mask[rows, lead].unsqueeze(1)


def first_lead(x: torch.Tensor, lead_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `pick_lead`: the first lead that each record has (where it has none, the first)."""
    return pick_lead(x, lead_mask, lead_mask.int().argmax(1))


def random_lead_view(x: torch.Tensor, generator: torch.Generator, p: float = 0.5, lead_mask=None) -> torch.Tensor:
    """One frontal view per record: x (batch, lead, time), first two leads I and II -> (batch, 1, time): with
    probability p one of the six others, drawn uniformly, else lead I. lead_mask: bool (batch, lead); where one of I and
    II is missing, the view is the other one, and where both are, the first lead that there is."""
    other = torch.randint(1, len(VIEWS), (len(x),), generator=generator)
    view = torch.where(torch.rand(len(x), generator=generator) < p, other, 0)
    if lead_mask is not None:
        has_i, has_ii = lead_mask[:, :2].cpu().unbind(1)
        view = torch.where(has_i & has_ii, view, torch.where(has_i, 0, VIEW_NAMES.index("II")))
    weights = torch.as_tensor(VIEWS, dtype=x.dtype)[view].to(x.device)  # (batch, 2)
    drawn = weights[:, None] @ x[:, :2]
    if lead_mask is None:
        return drawn
    return torch.where(lead_mask[:, :2].any(1)[:, None, None], drawn, first_lead(x, lead_mask)[0])


def roll(x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """x (batch, lead, time) with record i moved later by offsets[i] samples, int64 (batch,), what leaves entering in
    front."""
    source = (torch.arange(x.shape[-1], device=x.device) - offsets[:, None]) % x.shape[-1]
    return x.gather(-1, source[:, None].expand(x.shape))


def crop(x: torch.Tensor, n: int) -> torch.Tensor:
    """x (batch, lead, time) -> (batch, lead, n): of each record a stretch at its own random place. EcgError where the
    records are shorter."""
    if not 0 < n <= x.shape[-1]:
        reason = f"a stretch of {n} samples from records of {x.shape[-1]}"
        raise EcgError(reason, field="crop_s", fix="give fewer seconds")
    start = (torch.rand(len(x)) * (x.shape[-1] - n + 1)).long().to(x.device)
    at = start[:, None] + torch.arange(n, device=x.device)
    return x.gather(-1, at[:, None].expand(-1, x.shape[1], -1))


def gain(x: torch.Tensor, sd: float) -> torch.Tensor:
    """x (batch, lead, time) with every record times its own factor; sd: of the factor's logarithm."""
    return x * torch.exp(sd * torch.randn(len(x), 1, 1)).to(x)


def time_mask(x: torch.Tensor, low: float, high: float, p: float = 1.0) -> torch.Tensor:
    """x (batch, lead, time) with one stretch of zeros in all leads, low .. high of the time long, in a share p of the
    records."""
    n = x.shape[-1]
    size, position, chance = torch.rand(3, len(x), 1)
    length = ((low + (high - low) * size) * n).round() * (chance < p)
    start = (position * (n - length + 1)).floor()
    t = torch.arange(n)
    hidden = (t >= start) & (t < start + length)
    return x.masked_fill(hidden[:, None].to(x.device), 0.0)


def standardise(x: torch.Tensor) -> torch.Tensor:
    """z-scores of x (.., lead, time) per record and lead (population sd); a constant lead becomes exactly 0."""
    constant = x.amax(-1, keepdim=True) == x.amin(-1, keepdim=True)
    centred = x - x.mean(-1, keepdim=True)
    sd = centred.square().mean(-1, keepdim=True).sqrt()  # several times faster than x.std on a CPU
    return (centred / sd.clamp_min(1e-6)).masked_fill_(constant, 0.0)


def add_noise(x: torch.Tensor, lead_mask: torch.Tensor, rms: float, fs: float, path="") -> torch.Tensor:
    """x (batch, lead, time) with one of five choices per record: nothing, muscle, electrode, wander, their mixture
    (CLEF, arXiv 2512.02180). rms: of the noise, in the units of x; leads missing by lead_mask get none; path: of packed
    noise."""
    batch, n_leads, n = x.shape
    choice = torch.randint(5, (batch,))
    sources = min(n_leads, 3)
    mixed = torch.zeros(batch, sources, n)
    for number, kind in enumerate(("muscle", "electrode", "wander"), 1):
        rows = torch.nonzero((choice == number) | (choice == 4))[:, 0]
        mixed[rows] += draw(kind, (len(rows), sources, n), fs, path)
    if n_leads > sources:  # leads share their electrodes: they see the same few sources, each in its own proportions
        mixed = torch.randn(batch, n_leads, sources) @ mixed
    return unit(mixed).to(x).mul_(rms).mul_(lead_mask.unsqueeze(-1)).add_(x)


@contextmanager
def fixed_draws(seed: int = 0):
    """Inside the block the global generator starts from `seed`; afterwards it goes on where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@dataclass(frozen=True)
class PairViews:
    """Two random views of every record, the view policy of CLEF (arXiv 2512.02180), shared by the contrastive methods.
    An encoder of one lead gets one of the leads that are there, an encoder of several all leads in both views, changed
    by `add_noise`, a mask over 10 to 30 % of the time, `standardise`. In evaluation draws repeat, and the first lead is
    taken. Two views of the same ten seconds are told apart by almost anything: crop_s, lead_dropout and gain make it
    harder."""

    n_leads: int  # of the encoder
    fs: float = 100.0  # Hz
    noise: str = ""  # packed noise file; "" = simulated
    noise_rms: float = 0.5  # in units of x; 0 = off
    same_lead: float = 0.8  # chance that both views show the same lead, else one drawn anew (which may be the same)
    masked: float = 0.2  # share of the records with a stretch of time hidden
    zscore: bool = True  # standardise every lead
    crop_s: float = 0.0  # each view shows its own stretch of so many seconds; 0 = all of the record
    lead_dropout: float = 0.0  # chance of each of several leads to be zeroed in a view, though never all
    gain: float = 0.0  # sd of the log of a random amplitude factor of each view

    def __call__(self, x: torch.Tensor, lead_mask: torch.Tensor, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, lead, time), lead_mask bool (batch, lead) -> the first views of all records, then the second ones,
        (2 batch, n_leads, time or crop), and their masks. EcgError for an encoder of several leads that is fed another
        number of leads."""
        if self.n_leads not in (1, x.shape[1]):
            reason = f"{x.shape[1]} leads for an encoder of {self.n_leads}"
            raise EcgError(reason, field="leads", fix="name the encoder's leads, or build it with n_leads=1")
        if self.n_leads == x.shape[1]:
            pair = [(x, lead_mask)] * 2
        elif training:
            pair = [pick_lead(x, lead_mask, lead) for lead in self.draw_leads(lead_mask)]
        else:
            pair = [first_lead(x, lead_mask)] * 2
        with nullcontext() if training else fixed_draws():
            views, masks = zip(*[self.view(*signal_and_mask) for signal_and_mask in pair], strict=True)
        return torch.cat(views), torch.cat(masks)

    def draw_leads(self, lead_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """lead_mask bool (batch, lead) -> the lead of each view, int64 (batch,), among those that are there."""
        lots = torch.rand(2, *lead_mask.shape).to(lead_mask.device)
        first, other = lots.masked_fill(~lead_mask, -1.0).argmax(-1)
        same = (torch.rand(len(lead_mask)) < self.same_lead).to(lead_mask.device)
        return first, torch.where(same, first, other)

    def view(self, x: torch.Tensor, lead_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One augmented view of x (batch, lead, time), and the leads that are left in it, bool (batch, lead)."""
        if self.crop_s:
            x = crop(x, round(self.crop_s * self.fs))
        if self.lead_dropout and x.shape[1] > 1:
            lead_mask = lead_mask & lead_drop(*x.shape[:2], self.lead_dropout, lead_mask).to(x.device)
            x = x * lead_mask.unsqueeze(-1)
        if self.gain:
            x = gain(x, self.gain)
        if self.noise_rms:
            x = add_noise(x, lead_mask, self.noise_rms, self.fs, self.noise)
        if self.masked:
            x = time_mask(x, 0.1, 0.3, self.masked)
        return (standardise(x) if self.zscore else x), lead_mask


POLICIES = ("mask", "noise")


def lead_view(x: torch.Tensor, lead_mask: torch.Tensor, low: int, high: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep a random subset of low .. high leads: x (batch, lead, time) -> (x with the others zero, kept (batch, lead)).
    A record with fewer leads than `low` keeps all that it has."""
    kept = lead_subsets(len(x), x.shape[1], low, high, lead_mask).to(x.device)
    return x * kept.unsqueeze(-1).to(x), kept


def noisy_view(x, fs: float, path="", kinds=KINDS, p=0.7, rate=0.5, low=-10.0, high=0.0) -> torch.Tensor:
    """x (batch, lead, time) with noise: each of `kinds` meets a record with chance p, and then each lead with `rate`;
    the sum is scaled to an SNR uniform in low .. high dB, one per lead. A lead that none meets and a missing lead stay
    as they are.
    fs in Hz; path: packed noise, "" = simulated (`ecglib.training.noise`)."""
    batch, n_leads, n = x.shape
    total = torch.zeros(batch, n_leads, n)
    for kind in kinds:
        on = (torch.rand(batch, 1) < p) & (torch.rand(batch, n_leads) < rate)
        total[on] += draw(kind, (int(on.sum()), n), fs, path)
    span = high - low if high > low else 0.0  # twice infinity has no difference
    return mix(x, total, low + span * torch.rand(batch, n_leads))
