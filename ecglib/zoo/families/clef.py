"""CLEF (arXiv 2512.02180): Net1D on one lead, SimCLR whose negatives count by the difference of cardiovascular risk."""

from ecglib.models.encoders import net1d
from ecglib.zoo.card import Card
from ecglib.zoo.model import Model, with_prefix

SIZES = {"clef_small": "clef_small", "clef_medium": "medium", "clef_large": "large"}  # card -> size of net1d


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = net1d.Encoder(1, **net1d.SIZES[SIZES[card.name]])

    def rename(self, state):
        return {key.replace("backbone.", "", 1): value for key, value in super().rename(state).items()}

    def convert(self, state):
        return with_prefix("encoder", net1d.from_published(state))
