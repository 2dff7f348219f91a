"""Lead reconstruction: hidden leads from a random subset of visible ones, and what a lead tells about the others.

Only the independent leads are modelled; III, aVR, aVL and aVF follow from I and II (`complete`). The share of a lead's
variance that a subset predicts is its information content (idea of arXiv 2502.00559; subsets and score are ours).
"""

import numpy as np
import torch
from torch import nn

from ecglib import masking
from ecglib.encoders import unet1d
from ecglib.signals import INDEPENDENT, LEADS, EcgError, limb

PAPER = "Lead information content by a U-Net, arXiv 2502.00559"
ENCODER = "unet1d"
MIN_LEADS = 2
SAMPLE = 256  # records that the corpus constant is taken from


def from_data(data) -> dict:
    """The corpus constant: standard deviation of the mean-removed leads of (up to) SAMPLE records spread over data."""
    batch = data.batch(np.unique(np.linspace(0, len(data) - 1, SAMPLE).astype(int)))
    x = (batch.x - batch.x.mean(-1, keepdim=True))[batch.lead_mask].double()
    return {"scale": float(x.square().mean().sqrt())}


def complete(x8: torch.Tensor) -> torch.Tensor:
    """I, II, V1 .. V6 (.., 8, time) -> all leads in standard order (.., 12, time), by Einthoven and Goldberger."""
    rows = dict(zip((LEADS[i] for i in INDEPENDENT), x8.unbind(-2), strict=True))
    rows |= limb(rows["I"], rows["II"])
    return torch.stack([rows[name] for name in LEADS], -2)


class Objective(nn.Module):
    """Mean squared error of the hidden leads, mean-removed and over one corpus constant.

    Every record hides its own leads: of the modelled leads that it has, the number of visible ones is uniform from 1 to
    all but one, then a uniform subset of that size. scale: the corpus constant in units of x. Leads that a record lacks
    are neither seen nor asked for; a record with fewer than two of them does not count.
    """

    def __init__(self, encoder, scale: float = 1.0):
        super().__init__()
        if not isinstance(encoder, unet1d.Encoder):
            raise EcgError("reconstruct needs the maps of a U-Net", field="encoder", fix="use encoder unet1d")
        if not scale > 0:
            raise EcgError(f"scale={scale}", field="scale", fix="give the standard deviation of the leads")
        self.encoder, self.decoder = encoder, unet1d.Decoder(encoder)
        encoder.scale.fill_(scale)

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        n = len(self.encoder.modelled)
        there = batch.lead_mask[:, list(self.encoder.modelled)]
        seen = masking.lead_subsets(len(batch.x), n, 1, there.sum(1) - 1, there).to(there.device)
        x = self.encoder.normalised(batch.x)
        hidden = there & ~seen
        loss = masking.masked_mean((self.predict(x, seen) - x).square().mean(-1), hidden)
        blind = masking.masked_mean(x.square().mean(-1), hidden)
        information = 1 - loss.detach() / blind.clamp_min(1e-9)
        return loss, {"information": torch.where(blind > 0, information, 0.0)}

    def predict(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Normalised leads (batch, modelled, time), float32, from those of x with True in `kept` (batch, modelled)."""
        return self.decoder(self.encoder.pyramid(x, kept), x.shape[-1]).float()

    def restore(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """x with its hidden leads filled in: (batch, modelled, time), in units of x.

        x: (batch, n_leads, time), or the modelled leads alone; kept: bool (batch, modelled). Visible leads come back
        bit-equal, hidden ones with mean about zero. Raises EcgError where a record shows no lead.
        """
        if not kept.any(1).all():
            raise EcgError("a record shows no lead", field="kept", fix="keep at least one lead of every record")
        normalised = self.encoder.normalised(x)
        x = x[:, list(self.encoder.modelled)] if x.shape[1] == self.encoder.n_leads else x
        return torch.where(kept.unsqueeze(-1), x, self.predict(normalised, kept) * self.encoder.scale)


@torch.no_grad()
def information_content(objective, x: torch.Tensor, kept: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
    """IC(l | S) = 1 - MSE / variance of the mean-removed lead l over all records: (subset, modelled), NaN if l is in S.

    x: (record, n_leads, time); kept: bool (subset, modelled), True = in S. 1: perfect, 0: no better than the mean.
    """
    x = objective.encoder.normalised(x)
    variance = x.double().square().mean((0, 2))
    found = []
    for subset in kept:
        error = torch.zeros_like(variance)
        for part in x.split(batch_size):
            y = objective.predict(part, subset.expand(len(part), -1))
            error += (y - part).double().square().sum((0, 2))
        ic = 1 - error / (x.shape[0] * x.shape[2]) / variance
        found.append(ic.masked_fill(subset, torch.nan))
    return torch.stack(found).float()


def ridge(x_train: np.ndarray, x_test: np.ndarray, inputs, outputs, strength: float = 1e-3):
    """The linear map that a network must beat, sample by sample: (weights (input, output), IC (output,)).

    x_train, x_test: (record, lead, time); inputs, outputs: rows of the leads. The mean of every record and lead is
    removed; the penalty is `strength` times the mean variance of the inputs.
    """
    inputs, outputs = list(inputs), list(outputs)

    def moments(x):
        z = np.concatenate([x[:, inputs], x[:, outputs]], 1).astype(np.float64)
        z -= z.mean(-1, keepdims=True)
        z = z.transpose(1, 0, 2).reshape(len(inputs) + len(outputs), -1)
        return z @ z.T / z.shape[1]

    k = len(inputs)
    train, test = moments(x_train), moments(x_test)
    penalty = strength * np.trace(train[:k, :k]) / k * np.eye(k)
    weights = np.linalg.solve(train[:k, :k] + penalty, train[:k, k:])
    error = np.diag(test[k:, k:]) - 2 * (weights * test[:k, k:]).sum(0) + (weights * (test[:k, :k] @ weights)).sum(0)
    return weights, 1 - error / np.diag(test[k:, k:])
