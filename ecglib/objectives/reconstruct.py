"""Lead reconstruction: hidden leads from a random subset of visible ones, and what a lead tells about the others.

Only the independent leads are modelled; III, aVR, aVL and aVF follow from I and II (`complete`). The share of a lead's
variance that a subset predicts is its information content (idea of arXiv 2502.00559; subsets and score are ours).
"""

import numpy as np
import torch
from torch import nn

from ecglib import EcgError
from ecglib.models.encoders import unet1d
from ecglib.training import masking

PAPER = "Lead information content by a U-Net, arXiv 2502.00559"
ENCODER = "unet1d"
LEARNED = {"loss": ("<", 0.8, "first"), "information": (">", 0.5, "one")}
MIN_LEADS = 2
SAMPLE = 256  # records that the corpus constant is taken from


def from_data(data) -> dict:
    """The corpus constant: standard deviation of the mean-removed leads of (up to) SAMPLE records spread over data."""
    batch = data.batch(np.unique(np.linspace(0, len(data) - 1, SAMPLE).astype(int)))
    x = (batch.x - batch.x.mean(-1, keepdim=True))[batch.lead_mask].double()
    return {"scale": float(x.square().mean().sqrt())}


class Objective(nn.Module):
    """Mean squared error of the hidden leads, mean-removed and over one corpus constant, `scale`, in units of x.
    Every record sees a uniform subset, of a uniform size, of the modelled leads that it has, and hides the others; with
    fewer than two it does not count."""

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
        recorded = batch.lead_mask[:, list(self.encoder.modelled)]
        seen = masking.lead_subsets(len(batch.x), n, 1, recorded.sum(1) - 1, recorded).to(recorded.device)
        x = self.encoder.normalised(batch.x)
        hidden = recorded & ~seen
        loss = masking.masked_mean((self.predict(x, seen) - x).square().mean(-1), hidden)
        blind = masking.masked_mean(x.square().mean(-1), hidden)
        information = 1 - loss.detach() / blind.clamp_min(1e-9)
        return loss, {"information": torch.where(blind > 0, information, 0.0)}

    def predict(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Normalised leads (batch, modelled, time), float32, from those of x with True in `kept` (batch, modelled)."""
        return self.decoder(self.encoder.pyramid(x, kept), x.shape[-1]).float()

    def restore(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """x, (batch, n_leads, time) or the modelled leads alone, with its hidden leads filled in: (batch, modelled,
        time), in units of x. kept: bool (batch, modelled); visible leads come back bit-equal. EcgError where a record
        shows no lead."""
        if not kept.any(1).all():
            raise EcgError("a record shows no lead", field="kept", fix="keep at least one lead of every record")
        normalised = self.encoder.normalised(x)
        x = x[:, list(self.encoder.modelled)] if x.shape[1] == self.encoder.n_leads else x
        return torch.where(kept.unsqueeze(-1), x, self.predict(normalised, kept) * self.encoder.scale)
