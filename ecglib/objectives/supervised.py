"""Supervised multi-label pre-training with incomplete labels, after ECGFounder (arXiv 2410.04133).

An absent statement is not a certain negative, so the negative branch is that of the Hill loss (arXiv 2112.07368), whose
gradient vanishes where the network is sure of a statement that nobody wrote down.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib.augment import first_lead, gain, random_lead_view, roll
from ecglib.labels import POSSIBLE, PRESENT, UNKNOWN
from ecglib.masking import lead_drop
from ecglib.signals import EcgError

PAPER = "ECGFounder, arXiv 2410.04133"
ENCODER = "net1d"
DRAWS_LEADS = True  # random_lead_view
POSSIBLE_TARGETS = {"unknown": None, "present": 1.0, "absent": 0.0, "half": 0.5}


def from_data(data) -> dict:
    """One output for each label of the data."""
    return {"n_labels": len(data.labels)}


def hill_negative(z: torch.Tensor, gamma: float = 1.5) -> torch.Tensor:
    """(gamma - p) p^2 of logits z; at gamma 1.5 its derivative with respect to z is 3 p^2 (1 - p)^2."""
    p = torch.sigmoid(z)
    return (gamma - p) * p * p


def focal_margin_positive(z: torch.Tensor, margin: float = 1.0) -> torch.Tensor:
    """(1 - p_m)^2 (-log p_m) with p_m = sigmoid(z - margin), the positive branch of the Hill loss paper."""
    z = z - margin
    return torch.sigmoid(-z) ** 2 * F.softplus(-z)


class Objective(nn.Module):
    """Linear head on the encoder and a loss over the known labels.

    n_labels: number of label columns. loss: "hill" (positive-unlabelled) or "bce"; gamma: of the Hill negatives;
    positive: "log" (-log p) or "focal_margin". possible: what a possible statement counts as: "unknown" (left out, the
    default), "present", "absent" or "half". lead_views: the encoder sees one lead; training draws one of the seven
    frontal-plane views of each 12-lead record, evaluation takes the first lead that is there. lead_dropout: chance of
    each of several leads to be zeroed in training, though never all; gain: sd of the log of a random amplitude factor;
    shift: roll each record by its own random time.
    The loss is summed over the known entries and divided by batch x labels, so that unknown entries weigh nothing and
    the mean over processes equals the loss of the whole batch.
    """

    def __init__(
        self,
        encoder,
        n_labels: int = 5,
        loss: str = "hill",
        gamma: float = 1.5,
        positive: str = "log",
        possible: str = "unknown",
        lead_views: bool = False,
        lead_dropout: float = 0.0,
        gain: float = 0.0,
        shift: bool = False,
    ):
        super().__init__()
        for field, value, valid in (
            ("loss", loss, ("hill", "bce")),
            ("positive", positive, ("log", "focal_margin")),
            ("possible", possible, tuple(POSSIBLE_TARGETS)),
        ):
            if value not in valid:
                raise EcgError(f"{field}={value!r}", field=field, fix=f"use one of {', '.join(valid)}")
        self.encoder, self.head = encoder, nn.Linear(encoder.dim, n_labels)
        nn.init.zeros_(self.head.bias)
        self.loss, self.gamma, self.positive, self.possible = loss, gamma, positive, POSSIBLE_TARGETS[possible]
        self.lead_views, self.lead_dropout, self.gain, self.shift = lead_views, lead_dropout, gain, shift

    def logits(self, x: torch.Tensor, lead_mask: torch.Tensor | None = None) -> torch.Tensor:
        """x (batch, lead, time), lead_mask bool (batch, lead) -> (batch, label), without augmentation; with lead_views
        the first lead that is there counts (without a mask, the first)."""
        if self.lead_views:
            x = x[:, :1] if lead_mask is None else first_lead(x, lead_mask)[0]
        return self.head(self.encoder(x))

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        if batch.labels is None or batch.labels.shape[1] != self.head.out_features:
            got = None if batch.labels is None else batch.labels.shape[1]
            raise EcgError(f"{got} label columns for n_labels={self.head.out_features}", field="labels")
        if self.training:
            z = self.head(self.encoder(self.augment(batch.x, batch.lead_mask)))
        else:
            z = self.logits(batch.x, batch.lead_mask)
        z = z.float()  # the terms of a logit in bfloat16 would be off by a percent
        target, known = self.targets(batch.labels)
        return (self.terms(z, target) * known).sum() / known.numel(), {"known": known.mean()}

    def terms(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of each entry, (batch, label); target in [0, 1] mixes the positive and the negative branch."""
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(z, target, reduction="none")
        positive = F.softplus(-z) if self.positive == "log" else focal_margin_positive(z)
        return target * positive + (1 - target) * hill_negative(z, self.gamma)

    def targets(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States (batch, label) -> (target in [0, 1], known 0/1), both float32."""
        target, known = (states == PRESENT).float(), (states != UNKNOWN).float()
        possible = states == POSSIBLE
        if self.possible is None:
            return target, known.masked_fill(possible, 0.0)
        return target.masked_fill(possible, self.possible), known

    def augment(self, x: torch.Tensor, lead_mask: torch.Tensor) -> torch.Tensor:
        """The training view of x (batch, lead, time) with the leads lead_mask bool (batch, lead)."""
        if self.lead_views:
            x = random_lead_view(x, torch.default_generator, lead_mask=lead_mask)
        if self.shift:
            x = roll(x, torch.randint(x.shape[-1], (len(x),)).to(x.device))  # drawn on the CPU: the same everywhere
        if self.gain:
            x = gain(x, self.gain)
        if self.lead_dropout and x.shape[1] > 1:
            x = x * lead_drop(*x.shape[:2], self.lead_dropout, lead_mask).unsqueeze(-1).to(x.device)
        return x
