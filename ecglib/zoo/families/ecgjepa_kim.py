"""ECG-JEPA of Kim (arXiv 2410.08559): patches of single leads, each looking at its lead and its time only."""

import torch

from ecglib.models.encoders import vit1d
from ecglib.zoo.card import Card
from ecglib.zoo.model import Model, with_prefix


class Encoder(vit1d.Encoder):
    """The encoder of eight leads with the position table of the file; shorter signals take its first columns."""

    def __init__(self, n_leads: int = 8, patches: int = 50, **sizes):
        super().__init__(n_leads, **sizes)
        self.register_buffer("table", torch.zeros(n_leads * patches, self.dim))

    def positions(self, n: int, device=None) -> torch.Tensor:
        return self.table.unflatten(0, (self.n_leads, -1))[:, : n // self.n_leads].flatten(0, 1)


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = Encoder(len(card.leads), **vit1d.SIZES["jepa_k"])

    def convert(self, state):
        table = {"encoder.table": state.pop("pos_embed")}
        return table | with_prefix("encoder", vit1d.from_published(state))
