"""Measurement pretraining: the encoder learns to read the intervals, amplitudes and rhythm that a program measures.

The targets are the measurements that were stored when a cohort was packed (`ecglib.data.handmade`): computed from the
signal itself, so that neither labels nor reports are used. Their scales and tails differ by orders of magnitude, so
each is replaced by the normal score of its rank among the training records; what was not measured weighs nothing.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError, models
from ecglib.training import normal_scores
from ecglib.training.augment import roll
from ecglib.training.masking import lead_drop

PAPER = "Targets: automated measurements, as in ECG analysis programs; ours"
ENCODER = "net1d"
MEASURED = True
LEARNED = {"explained": (">", 0.3, "one")}  # share of the variance of the normal scores


def from_data(data) -> dict:
    """Names of the measurements of the training records, and the distribution of each."""
    return {"names": list(data.measured), "knots": normal_scores.distributions(data.measurements.numpy())}


class Objective(nn.Module):
    """Smooth L1 between the normal scores of the measurements and what a small head reads from the encoder's tokens."""

    def __init__(
        self,
        encoder,
        names: list | None = None,  # of the measurements, as `from_data` gives them
        knots: np.ndarray | int | None = None,  # their distributions (measurement, knot); or how many: to be loaded
        pooling: str = "mean+max",  # of the tokens, or "" = the encoder's own vector
        hidden: int = 128,  # width of the head; 0 = a linear layer
        lead_dropout: float = 0.1,  # chance of each of several leads to be zeroed in training, though never all
        shift: bool = True,  # roll each record by its own random time
        noise: float = 0.0,  # white noise in training, in the units of x
    ):
        super().__init__()
        if not names:
            raise EcgError("no measurements to learn", field="names", fix="give those of objectives.from_data")
        self.encoder, self.pooling = encoder, pooling
        self.lead_dropout, self.shift, self.noise = lead_dropout, shift, noise
        width = models.pooled_width(encoder, pooling)
        layers = [nn.Linear(width, hidden), nn.GELU()] if hidden else []
        self.head = nn.Sequential(*layers, nn.Linear(hidden or width, len(names)))
        if not isinstance(knots, np.ndarray):
            knots = np.full((len(names), knots or normal_scores.N_KNOTS), np.nan)
        self.register_buffer("knots", torch.as_tensor(knots, dtype=torch.float32))
        self.resolved = {"knots": self.knots.shape[1]}

    def scores(self, x: torch.Tensor, lead_mask: torch.Tensor | None = None, peaks=None) -> torch.Tensor:
        """Normal scores (batch, measurement) that the network reads from x (batch, lead, time)."""
        return self.head(models.pooled(self.encoder, x, lead_mask, peaks, self.pooling)).float()

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        x, mask = self.augment(batch.x, batch.lead_mask) if self.training else (batch.x, batch.lead_mask)
        peaks = None if self.training and self.shift else batch.peaks
        found, target = self.scores(x, mask, peaks), normal_scores.of(batch.measurements, self.knots)
        known = ~torch.isnan(target)
        target = target.masked_fill(~known, 0.0)
        loss = (F.smooth_l1_loss(found, target, reduction="none") * known).sum() / known.sum().clamp_min(1)
        error, size = (((y - target).square() * known).sum() for y in (found, torch.zeros_like(found)))
        return loss, {"explained": 1 - error.detach() / size.clamp_min(1e-9), "known": known.float().mean()}

    def augment(self, x: torch.Tensor, lead_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The training view of x (batch, lead, time) and its leads, bool (batch, lead), as lead_mask."""
        if self.shift:
            x = roll(x, torch.randint(x.shape[-1], (len(x),)).to(x.device))
        if self.noise:
            x = x + self.noise * torch.randn(x.shape).to(x) * lead_mask.unsqueeze(-1)
        if self.lead_dropout and x.shape[1] > 1:
            kept = lead_drop(*x.shape[:2], self.lead_dropout, lead_mask).to(x.device)
            x, lead_mask = x * kept.unsqueeze(-1), lead_mask & kept
        return x, lead_mask
