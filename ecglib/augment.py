"""Augmentations: tensors in, new ones out. Random numbers are drawn on the CPU, so that they are the same on every
device: from torch's global generator unless a function takes one."""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ecglib import noise
from ecglib.signals import EcgError

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
    """Return the seven frontal views (..., 7, time) in the order VIEW_NAMES of x (..., lead, time), mV.

    x: NumPy array or torch tensor whose first two leads are I and II. Source: lead augmentation of ECGFounder's
    single-lead model (arXiv 2410.04133).
    """
    views = torch.as_tensor(VIEWS, dtype=x.dtype, device=x.device) if isinstance(x, torch.Tensor) else VIEWS
    return views @ x[..., :2, :]


def first_lead(x: torch.Tensor, lead_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first lead that each record has (where it has none, the first): x (batch, lead, time), lead_mask bool
    (batch, lead) -> (batch, 1, time), (batch, 1)."""
    rows, lead = torch.arange(len(x), device=x.device), lead_mask.int().argmax(1)
    return x[rows, lead].unsqueeze(1), lead_mask[rows, lead].unsqueeze(1)


def random_lead_view(x: torch.Tensor, generator: torch.Generator, p: float = 0.5, lead_mask=None) -> torch.Tensor:
    """Return one frontal view per record: x (batch, lead, time), first two leads I and II -> (batch, 1, time).

    With probability p one of the six other views, drawn uniformly; otherwise lead I. lead_mask: bool (batch, lead);
    where one of I and II is missing, the view is the other one, and where both are, the first lead that there is. The
    generator lives on the CPU, so that the draw is the same on every device.
    """
    other = torch.randint(1, len(VIEWS), (len(x),), generator=generator)
    view = torch.where(torch.rand(len(x), generator=generator) < p, other, 0)
    if lead_mask is not None:
        one, two = lead_mask[:, :2].cpu().unbind(1)
        view = torch.where(one & two, view, torch.where(one, 0, VIEW_NAMES.index("II")))
    weights = torch.as_tensor(VIEWS, dtype=x.dtype)[view].to(x.device)  # (batch, 2)
    drawn = weights[:, None] @ x[:, :2]
    if lead_mask is None:
        return drawn
    return torch.where(lead_mask[:, :2].any(1)[:, None, None], drawn, first_lead(x, lead_mask)[0])


def roll(x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """x (batch, lead, time) with record i moved later by offsets[i] samples, what leaves at the end entering in front.

    offsets: int64 (batch,), 0 .. time - 1.
    """
    source = (torch.arange(x.shape[-1], device=x.device) - offsets[:, None]) % x.shape[-1]
    return x.gather(-1, source[:, None].expand(x.shape))


def gain(x: torch.Tensor, sd: float) -> torch.Tensor:
    """x (batch, lead, time) with every record times its own factor; sd: of the factor's logarithm."""
    return x * torch.exp(sd * torch.randn(len(x), 1, 1)).to(x)


def time_mask(x: torch.Tensor, low: float, high: float, p: float = 1.0) -> torch.Tensor:
    """x (batch, lead, time) with one stretch of zeros, in all leads at once, in a share p of the records.

    The stretch is low .. high of the time long, drawn uniformly, and lies anywhere inside.
    """
    n = x.shape[-1]
    size, place, chosen = torch.rand(3, len(x), 1)
    length = ((low + (high - low) * size) * n).round() * (chosen < p)
    start = (place * (n - length + 1)).floor()
    t = torch.arange(n)
    hidden = (t >= start) & (t < start + length)
    return x.masked_fill(hidden[:, None].to(x.device), 0.0)


def standardise(x: torch.Tensor) -> torch.Tensor:
    """z-scores of x (.., lead, time) per record and lead (population sd); a constant lead becomes exactly 0."""
    constant = x.amax(-1, keepdim=True) == x.amin(-1, keepdim=True)
    z = (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True).clamp_min(1e-6)
    return z.masked_fill(constant, 0.0)


def add_noise(x: torch.Tensor, lead_mask: torch.Tensor, rms: float, fs: float, path="") -> torch.Tensor:
    """x (batch, lead, time) with one of five choices per record: nothing, muscle, electrode, wander, their mixture.

    rms: of the added noise in every lead, in the units of x; leads that lead_mask (batch, lead) calls missing get none.
    path: packed noise, see `ecglib.noise`. Choice and noise types after CLEF (arXiv 2512.02180).
    """
    batch, n_leads, n = x.shape
    choice = torch.randint(5, (batch,))
    sources = min(n_leads, 3)
    mixed = torch.zeros(batch, sources, n)
    for number, kind in enumerate(("muscle", "electrode", "wander"), 1):
        rows = torch.nonzero((choice == number) | (choice == 4))[:, 0]
        mixed[rows] += noise.draw(kind, (len(rows), sources, n), fs, path)
    if n_leads > sources:  # leads share their electrodes: they see the same few sources, each in its own proportions
        mixed = torch.randn(batch, n_leads, sources) @ mixed
    return x + rms * noise.unit(mixed).to(x) * lead_mask.unsqueeze(-1)


@contextmanager
def fixed_draws(seed: int = 0):
    """Inside the block the global generator starts from `seed`; afterwards it goes on where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@dataclass(frozen=True)
class PairViews:
    """Two random views of every record, the view policy of CLEF (arXiv 2512.02180), shared by the contrastive methods.

    An encoder of one lead gets one of the leads that are there, and in the second view the same lead with probability
    same_lead, else one drawn anew (which may be the same). An encoder of several leads gets all leads in both views,
    which then differ by augmentation alone. Then `add_noise` with noise_rms (in units of x; 0 = off) at fs Hz from the
    packed file `noise` ("" = simulated), a mask over 10 to 30 % of the time in a share `masked` of the records, and,
    with `zscore`, `standardise`.
    In evaluation the draws are the same every time, and an encoder of one lead gets the first one that is there.
    """

    n_leads: int
    fs: float = 100.0
    noise: str = ""
    noise_rms: float = 0.5
    same_lead: float = 0.8
    masked: float = 0.2
    zscore: bool = True

    def __call__(self, x: torch.Tensor, lead_mask: torch.Tensor, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, lead, time), lead_mask bool (batch, lead) -> two views (batch, n_leads, time).

        Raises EcgError for an encoder of several leads that is fed another number of leads.
        """
        if self.n_leads not in (1, x.shape[1]):
            reason = f"{x.shape[1]} leads for an encoder of {self.n_leads}"
            raise EcgError(reason, field="leads", fix="name the encoder's leads, or build it with n_leads=1")
        if not training:
            if self.n_leads == 1:
                x, lead_mask = first_lead(x, lead_mask)
            with fixed_draws():
                return self.view(x, lead_mask), self.view(x, lead_mask)
        if self.n_leads == x.shape[1]:
            return self.view(x, lead_mask), self.view(x, lead_mask)
        first, second = self.draw_leads(lead_mask)
        rows = torch.arange(len(x), device=x.device)
        return tuple(self.view(x[rows, i].unsqueeze(1), lead_mask[rows, i].unsqueeze(1)) for i in (first, second))

    def draw_leads(self, lead_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """lead_mask bool (batch, lead) -> the lead of each view, int64 (batch,), among those that are there."""
        lots = torch.rand(2, *lead_mask.shape).to(lead_mask.device)
        first, other = lots.masked_fill(~lead_mask, -1.0).argmax(-1)
        same = (torch.rand(len(lead_mask)) < self.same_lead).to(lead_mask.device)
        return first, torch.where(same, first, other)

    def view(self, x: torch.Tensor, lead_mask: torch.Tensor) -> torch.Tensor:
        """One augmented view of x (batch, lead, time), of the same shape."""
        if self.noise_rms:
            x = add_noise(x, lead_mask, self.noise_rms, self.fs, self.noise)
        if self.masked:
            x = time_mask(x, 0.1, 0.3, self.masked)
        return standardise(x) if self.zscore else x
