"""SimCLR (arXiv 2002.05709) on the view policy of CLEF: two views of a record attract, all others repel alike.

It is the control of `clef`: the same views, network and temperature, every negative with weight 1, no alignment. Hence
no projection head by default, as CLEF has none.
"""

import torch
from torch import nn

from ecglib.augment import PairViews
from ecglib.contrast import accuracy, head, nt_xent, spread

PAPER = "SimCLR, arXiv 2002.05709"
ENCODER = "net1d"
DRAWS_LEADS = True


class Objective(nn.Module):
    """NT-Xent of two views per record.

    temperature: of the softmax; projection: width of a head of two layers used in training only (0 = none). Views (see
    `ecglib.augment.PairViews`): fs in Hz; noise: packed noise file ("" = simulated); noise_rms in units of x;
    same_lead: chance that both views of an encoder of one lead show the same lead; masked: share of the views with a
    stretch of time hidden; zscore: standardise every lead of a view.
    """

    def __init__(
        self,
        encoder,
        temperature: float = 0.07,
        projection: int = 0,
        fs: float = 100.0,
        noise: str = "",
        noise_rms: float = 0.5,
        same_lead: float = 0.8,
        masked: float = 0.2,
        zscore: bool = True,
    ):
        super().__init__()
        self.encoder, self.temperature = encoder, temperature
        self.head = head(encoder.dim, projection)
        self.views = PairViews(encoder.n_leads, fs, noise, noise_rms, same_lead, masked, zscore)

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        views = self.views(batch.x, batch.lead_mask, self.training)
        z1, z2 = self.head(self.encoder(torch.cat(views))).float().chunk(2)
        loss = nt_xent(z1, z2, self.temperature, patient_id=batch.patient_id)
        return loss, {"accuracy": accuracy(z1, z2), "spread": spread(z1)}
