"""TolerantECG (arXiv 2507.09887): ConvNeXt V2 that met missing leads, noise and reports."""

import re

from torch import nn

from ecglib.models.encoders import convnext1d
from ecglib.zoo.card import Card
from ecglib.zoo.model import Model

LAYERS = {"dwconv": "conv", "norm": "norm", "pwconv1": "fc1", "pwconv2": "fc2"}  # of a block: theirs -> ours


class Network(Model):
    """`project`: the linear layer behind the mean over time, which the distillation of the training reads."""

    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = convnext1d.Encoder(12, **convnext1d.SIZES["tolerant"])
        self.encoder.norm = nn.Identity()  # the release has none behind the mean
        self.project = nn.Linear(card.dim, card.dim, bias=False)
        depths = convnext1d.SIZES["tolerant"]["depths"]
        self.first = [sum(depths[:i]) + 2 * i for i in range(len(depths))]  # place of each stage in encoder.layers

    def convert(self, state):
        return {self._ours(key): value.flatten() if ".grn." in key else value for key, value in state.items()}

    def _ours(self, key: str) -> str:
        if key == "head.weight":
            return "project.weight"
        group, stage, number, rest = re.fullmatch(r"(\w+)\.(\d+)\.(\d+)\.(.+)", key).groups()
        stage, number = int(stage), int(number)
        if group == "downsample_layers" and not stage:
            return f"encoder.{'stem_norm' if number else 'stem'}.{rest}"
        if group == "downsample_layers":
            return f"encoder.layers.{self.first[stage] - 2 + number}.{rest}"
        layer, _, leaf = rest.partition(".")
        name = "response" if layer == "grn" else LAYERS[layer]
        return f"encoder.layers.{self.first[stage] + number}.{name}.{leaf}"

    def outputs(self, x):
        z = self.features(x)
        return {"output": z, "projected": self.project(z)}
