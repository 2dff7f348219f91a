"""ECGFounder (arXiv 2410.04133, NEJM AI 2025): Net1D, supervised on 150 vendor statements of 7.5 million ECGs."""

from torch import nn

from ecglib.models.encoders import net1d
from ecglib.zoo.card import Card
from ecglib.zoo.model import Model, renamed_layers, with_prefix


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = net1d.Encoder(len(card.leads), **net1d.SIZES["ecgfounder"])
        self.head = nn.Linear(card.dim, len(card.statements))

    def convert(self, state):
        return with_prefix("encoder", net1d.from_published(state)) | renamed_layers(state, {"dense": "head"})
