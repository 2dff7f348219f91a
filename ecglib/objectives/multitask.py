"""Supervised pretraining on several kinds of targets at once: statements, who the patient is, and true intervals.

Statements ask for neither the sex nor the age, and an encoder that has learned nothing else may drop what shows them
(amplitudes, intervals, axis). Here both are targets beside the statements, the sex as a yes or no, the age as a number,
and so are intervals, axes and rhythm, as normal scores of their ranks (see `measure`). Only a simulator knows
the truth; of packed cohorts they are what a program measured.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ecglib import models
from ecglib.objectives import supervised
from ecglib.training import normal_scores

PAPER = (
    "Statements as in ECGFounder, arXiv 2410.04133; several tasks at once: Caruana 1997, doi:10.1023/A:1007379606734"
)
ENCODER = "net1d"
META = ("age", "sex")
MEASURED = True
LEARNED = {"loss": ("<", 0.8, "first")}
OLDEST = 90.0  # years; corpora write 90, or 300, for whoever is as old or older: no number to learn
SAMPLE = 512  # records whose measurements say how each is distributed


def from_data(data) -> dict:
    """One output for each label of the data; names and distributions of its measurements."""
    at = np.unique(np.linspace(0, len(data) - 1, SAMPLE).astype(int))
    knots = normal_scores.distributions(data.batch(at).measurements.numpy())
    return {"n_labels": len(data.labels), "names": list(data.measured), "knots": knots}


class Objective(supervised.Objective):
    """The loss of `supervised`, plus `weight` times those of the age (smooth L1 of standardised years), of the sex
    (cross-entropy) and of the measurements (smooth L1 of normal scores), each a mean over what is known."""

    def __init__(
        self,
        encoder,
        n_labels: int = 5,  # label columns
        names: list | None = None,  # of the measurements, as `from_data` gives them; none: they are no targets
        knots: np.ndarray | int | None = None,  # their distributions (measurement, knot); or how many: to be loaded
        weight: float = 0.5,  # of age, of sex and of the measurements
        mean_age: float = 60.0,  # years; the head gives ages standardised by this
        sd_age: float = 17.0,  # and this
        loss: str = "bce",  # of the statements, as of `supervised`
        lead_dropout: float = 0.0,  # chance of each of several leads to be zeroed in training, though never all
        shift: bool = False,  # roll each record by its own random time
        pooling: str = "",  # of the tokens, such as "mean+max", in place of the encoder's own vector
    ):
        super().__init__(encoder, n_labels, loss=loss, lead_dropout=lead_dropout, shift=shift, pooling=pooling)
        self.weight, self.mean_age, self.sd_age = weight, mean_age, sd_age
        self.person = nn.Linear(self.head.in_features, len(META))
        self.measures = nn.Linear(self.head.in_features, len(names)) if names else None
        if not isinstance(knots, np.ndarray):
            knots = np.full((len(names or ()), knots or normal_scores.N_KNOTS), np.nan)
        self.register_buffer("knots", torch.as_tensor(knots, dtype=torch.float32))
        self.resolved = {"knots": self.knots.shape[1]}

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        x, lead_mask, peaks = batch.x, batch.lead_mask, batch.peaks
        if self.training:
            (x, lead_mask), peaks = self.augment(x, lead_mask), None
        z = models.pooled(self.encoder, x, lead_mask, peaks, self.pooling)
        target, known = self.targets(batch.labels)
        statements = (self.terms(self.head(z).float(), target) * known).sum() / known.numel()
        age, sex = self.person(z).float().unbind(1)
        wanted = batch.meta["age"].masked_fill(batch.meta["age"] >= OLDEST, torch.nan)
        losses = {
            "age": mean_of_known(F.smooth_l1_loss, age, (wanted - self.mean_age) / self.sd_age),
            "sex": mean_of_known(F.binary_cross_entropy_with_logits, sex, batch.meta["sex"]),
        }
        if self.measures is not None:
            scores = normal_scores.of(batch.measurements, self.knots)
            losses["measures"] = mean_of_known(F.smooth_l1_loss, self.measures(z).float(), scores)
        logs = {"statements": statements.detach()} | {name: value.detach() for name, value in losses.items()}
        return statements + self.weight * sum(losses.values()), logs


def mean_of_known(loss, found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of a loss over the entries whose target is known, NaN where not; 0 where none is."""
    known = ~torch.isnan(target)
    return (loss(found, target.masked_fill(~known, 0.0), reduction="none") * known).sum() / known.sum().clamp_min(1)
