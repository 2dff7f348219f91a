"""KED (ECGFM-KED, Cell Reports Medicine 2024): xresnet1d101 with wider stages, trained by questions about diagnoses."""

import re

import torch
from torch import nn

from ecglib.models.encoders.xresnet1d import Block, conv_bn
from ecglib.models.layers import channels_last
from ecglib.zoo.card import Card
from ecglib.zoo.model import Model, with_prefix

WIDTHS, DEPTHS = (64, 128, 128, 192), (3, 4, 23, 3)  # of the bottlenecks; what leaves a block is four times as wide
NAMES = {  # of a ConvLayer in a block of the release, which holds a convolution and its normalisation -> ours
    "convs.0": "conv1",
    "convs.1": "conv2",
    "convs.2": "conv3",
    "idpath.0": "shortcut",
    "idpath.1": "shortcut",  # behind the average pooling
}


class Encoder(nn.Module):
    """x (batch, 12, time) -> z (batch, 768), the mean over its tokens, one per 32 samples."""

    def __init__(self, n_leads: int = 12):
        super().__init__()
        self.dim, self.n_leads = 4 * WIDTHS[-1], n_leads
        sizes = (n_leads, 32, 32, 64)
        self.stem = nn.ModuleList(conv_bn(sizes[i], sizes[i + 1], 5, 1 if i else 2) for i in range(3))
        self.pool_first = nn.MaxPool2d((1, 3), (1, 2), (0, 1))
        self.stages, last = nn.ModuleList(), sizes[-1]
        for i, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
            stage = nn.Sequential()
            for j in range(depth):
                stage.append(Block(last, width, 4 * width, 5, 2 if i and not j else 1))
                last = 4 * width
            self.stages.append(stage)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, 12, time) -> (batch, token, 768)."""
        h = channels_last(x)
        for pair in self.stem:
            h = pair(h).relu()
        h = self.pool_first(h)
        for stage in self.stages:
            h = stage(h)
        return h.squeeze(2).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tokens(x).mean(1)


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = Encoder(len(card.leads))

    def rename(self, state):
        """The blocks of the release list their convolutions twice, as convs and in convpath."""
        return {key: value for key, value in super().rename(state).items() if ".convpath." not in key}

    def convert(self, state):
        ours = {}
        for key, value in state.items():
            if stem := re.fullmatch(r"([012])\.([01]\..+)", key):
                name = f"stem.{stem[1]}.{stem[2]}"
            else:
                stage, block, layer, rest = re.fullmatch(r"([4-7])\.(\d+)\.(\w+\.\d)\.([01]\..+)", key).groups()
                name = f"stages.{int(stage) - 4}.{block}.{NAMES[layer]}.{rest}"
            ours[name] = value.unsqueeze(2) if value.ndim == 3 else value
        return with_prefix("encoder", ours)
