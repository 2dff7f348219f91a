"""SimCLR (arXiv 2002.05709) on the view policy of CLEF: two views of a record attract, all others repel alike.

It is the control of `clef`: the same views, network and temperature, every negative with weight 1, no alignment. Hence
no projection head by default, as CLEF has none.
"""

import torch
from torch import nn

from ecglib import models
from ecglib.training.augment import PairViews
from ecglib.training.losses import accuracy, head, nt_xent, spread

PAPER = "SimCLR, arXiv 2002.05709"
ENCODER = "net1d"
LEARNED = {"accuracy": (">", 0.5, "one"), "spread": (">", 0.1, "one")}
DRAWS_LEADS = True


class Objective(nn.Module):
    """NT-Xent of two views per record; views: of `ecglib.training.augment.PairViews`."""

    def __init__(
        self,
        encoder,
        temperature: float = 0.07,  # of the softmax
        projection: int = 0,  # width of a head of two layers used in training only; 0 = none
        **views,
    ):
        super().__init__()
        self.encoder, self.temperature = encoder, temperature
        self.head = head(encoder.dim, projection)
        self.views = PairViews(encoder.n_leads, **views)

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        views = self.views(batch.x, batch.lead_mask, self.training)
        z1, z2 = self.head(models.embed(self.encoder, *views)).float().chunk(2)
        loss = nt_xent(z1, z2, self.temperature, patient_id=batch.patient_id)
        return loss, {"accuracy": accuracy(z1, z2), "spread": spread(z1)}
