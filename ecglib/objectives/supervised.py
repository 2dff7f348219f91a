"""Supervised multi-label pre-training with incomplete labels, after ECGFounder (arXiv 2410.04133).

An absent statement is not a certain negative, so the negative branch is that of the Hill loss (arXiv 2112.07368), whose
gradient vanishes where the network is sure of a statement that nobody wrote down.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError, models
from ecglib.data.labels import POSSIBLE, PRESENT, UNKNOWN
from ecglib.models.fusion import MetadataFusion
from ecglib.training.augment import first_lead, gain, random_lead_view, roll
from ecglib.training.masking import lead_drop
from ecglib.training.policy import RandomPolicy

PAPER = "ECGFounder, arXiv 2410.04133"
ENCODER = "net1d"
LEARNED = {"loss": ("<", 0.8, "first")}
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
    """Linear head on the encoder and a loss over the known labels, whose sum is divided by batch x labels, so that
    unknown entries weigh nothing and the mean over processes equals the loss of the whole batch. With lead_views the
    encoder sees one of the seven frontal-plane views in training, in evaluation the first lead that is there."""

    def __init__(
        self,
        encoder,
        n_labels: int = 5,  # label columns
        loss: str = "hill",  # positive-unlabelled, or "bce"; "huber" for numbers in place of states
        gamma: float = 1.5,  # of the Hill negatives
        positive: str = "log",  # -log p, or "focal_margin"
        possible: str = "unknown",  # what a possible statement counts as: left out, "present", "absent" or "half"
        lead_views: bool = False,
        lead_dropout: float = 0.0,  # chance of each of several leads to be zeroed in training, though never all
        gain: float = 0.0,  # sd of the log of a random amplitude factor
        shift: bool = False,  # roll each record by its own random time
        pooling: str = "",  # of the tokens, such as "mean+max", in place of the encoder's own vector
        mixup: float = 0.0,  # a of the Beta(a, a) by which records and their targets are mixed in pairs; 0 = off
        dropout: float = 0.0,  # before the head
        policy: dict | None = None,  # parameters of policy.RandomPolicy, such as {n: 2, m: 5}; None: no policy
        fusion: dict | None = None,  # parameters of fusion.MetadataFusion, such as {dropout: 0.2}; None: signals alone
    ):
        super().__init__()
        for field, value, valid in (
            ("loss", loss, ("hill", "bce", "huber")),
            ("positive", positive, ("log", "focal_margin")),
            ("possible", possible, tuple(POSSIBLE_TARGETS)),
        ):
            if value not in valid:
                raise EcgError(f"{field}={value!r}", field=field, fix=f"use one of {', '.join(valid)}")
        self.encoder, self.pooling, self.mixup = encoder, pooling, mixup
        self.head = nn.Linear(models.pooled_width(encoder, pooling), n_labels)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.head.bias)
        self.loss, self.gamma, self.positive, self.possible = loss, gamma, positive, POSSIBLE_TARGETS[possible]
        self.lead_views, self.lead_dropout, self.gain, self.shift = lead_views, lead_dropout, gain, shift
        self.policy = None if policy is None else RandomPolicy(**policy)
        self.fusion = None if fusion is None else MetadataFusion(self.head.in_features, **fusion)
        if mixup and fusion is not None:
            raise EcgError("a mixture of two patients has no age", field="mixup", fix="set mixup to 0, or no fusion")

    def logits(self, x, lead_mask: torch.Tensor | None = None, peaks=None, meta=None) -> torch.Tensor:
        """x (batch, lead, time), lead_mask bool (batch, lead), peaks int64 (batch, n), meta of a `Batch` -> (batch,
        label), without augmentation; with lead_views the first lead that is there counts, without a mask the first."""
        if self.lead_views:
            x, lead_mask = (x[:, :1], None) if lead_mask is None else first_lead(x, lead_mask)
        return self._read(x, lead_mask, peaks, meta)

    def _read(self, x, lead_mask, peaks, meta) -> torch.Tensor:
        z = models.pooled(self.encoder, x, lead_mask, peaks, self.pooling)
        return self.head(self.dropout(z if self.fusion is None else self.fusion(z, meta)))

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        if batch.labels is None or batch.labels.shape[1] != self.head.out_features:
            n_columns = None if batch.labels is None else batch.labels.shape[1]
            raise EcgError(f"{n_columns} label columns for n_labels={self.head.out_features}", field="labels")
        target, known = self.targets(batch.labels)
        if self.training:
            x, lead_mask = self.augment(batch.x, batch.lead_mask)
            if self.mixup:
                x, lead_mask, target, known = self.mix(x, lead_mask, target, known)
            z = self._read(x, lead_mask, None, batch.meta)
        else:
            z = self.logits(batch.x, batch.lead_mask, batch.peaks, batch.meta)
        z = z.float()  # the terms of a logit in bfloat16 would be off by a percent
        return (self.terms(z, target) * known).sum() / known.numel(), {"known": known.mean()}

    def terms(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of each entry, (batch, label); target in [0, 1] mixes the positive and the negative branch."""
        if self.loss == "huber":
            return F.smooth_l1_loss(z, target, reduction="none")
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(z, target, reduction="none")
        positive = F.softplus(-z) if self.positive == "log" else focal_margin_positive(z)
        return target * positive + (1 - target) * hill_negative(z, self.gamma)

    def targets(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States or numbers (batch, label; NaN: unknown) -> (target, of states in [0, 1], known 0/1), both float32."""
        if states.is_floating_point():
            return states.nan_to_num(0.0), (~states.isnan()).float()
        target, known = (states == PRESENT).float(), (states != UNKNOWN).float()
        possible = states == POSSIBLE
        if self.possible is None:
            return target, known.masked_fill(possible, 0.0)
        return target.masked_fill(possible, self.possible), known

    def mix(self, x, lead_mask, target, known):
        """Every record with another of the batch, in one random proportion each (arXiv 1710.09412): x (batch, lead,
        time), its leads, target and known (batch, label); what one of the two lacks, the mixture lacks."""
        share = torch.distributions.Beta(self.mixup, self.mixup).sample((len(x),)).to(x)
        other = torch.randperm(len(x)).to(x.device)
        both = lead_mask & lead_mask[other]
        x = torch.lerp(x[other], x, share[:, None, None]) * both.unsqueeze(-1)
        return x, both, torch.lerp(target[other], target, share[:, None]), known * known[other]

    def augment(self, x: torch.Tensor, lead_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The training view of x (batch, lead, time) and its leads, bool (batch, lead), as lead_mask."""
        if self.lead_views:
            x = random_lead_view(x, torch.default_generator, lead_mask=lead_mask)
            lead_mask = lead_mask.any(1, keepdim=True)
        if self.shift:
            x = roll(x, torch.randint(x.shape[-1], (len(x),)).to(x.device))  # drawn on the CPU: the same everywhere
        if self.gain:
            x = gain(x, self.gain)
        if self.lead_dropout and x.shape[1] > 1:
            kept = lead_drop(*x.shape[:2], self.lead_dropout, lead_mask).to(x.device)
            x, lead_mask = x * kept.unsqueeze(-1), lead_mask & kept
        return (x, lead_mask) if self.policy is None else self.policy(x, lead_mask)
