"""AnyPPG (arXiv 2511.01747): Net1D with batch norm on a pulse wave, matched with the ECG of the same seconds."""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib.models.encoders import net1d
from ecglib.models.layers import channels_last
from ecglib.zoo.card import Card
from ecglib.zoo.model import Model, with_prefix

SIZES = dict(
    stem=64, widths=(64, 160, 160, 400, 400, 512), blocks=(2, 2, 2, 3, 3, 1), group_width=16, ratio=1.0, kernel=3
)


class Block(net1d.Block):
    """As in ECGFounder, but the normalisations are run: before each activation, the first one left out of the first
    block."""

    def __init__(self, width_in, width_out, stride, kernel, group_width, ratio, first):
        super().__init__(width_in, width_out, stride, kernel, group_width, ratio, first)
        middle = int(width_out * ratio)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(width_in), nn.BatchNorm2d(middle), nn.BatchNorm2d(middle)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(x if self.first else F.silu(self.bn1(x)))
        h = self.conv3(F.silu(self.bn3(self.conv2(F.silu(self.bn2(h))))))
        scale = torch.sigmoid(self.se_fc2(F.silu(self.se_fc1(h.mean((2, 3))))))
        return torch.addcmul(self.shortcut(x), h, scale[:, :, None, None])


class Encoder(net1d.Encoder):
    """x (batch, 1, time) -> z (batch, 512), the mean over time."""

    def __init__(self, n_leads: int = 1):
        super().__init__(n_leads, **SIZES)
        self.stem_norm = nn.BatchNorm2d(SIZES["stem"])
        options = [SIZES[name] for name in ("kernel", "group_width", "ratio")]
        width, self.stages = SIZES["stem"], nn.ModuleList()
        for i, (out, n) in enumerate(zip(SIZES["widths"], SIZES["blocks"], strict=True)):
            blocks = [Block(out if j else width, out, 1 if j else 2, *options, first=i == j == 0) for j in range(n)]
            self.stages.append(nn.ModuleList(blocks))
            width = out

    def _map(self, x):
        x = F.silu(self.stem_norm(self.stem(channels_last(x))))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return x.squeeze(2)


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = Encoder(len(card.leads))

    def convert(self, state):
        names = {"first_conv.conv.": "stem.", "first_bn.": "stem_norm.", "stage_list.": "stages."}
        names |= {".block_list.": ".", ".conv.": "."}
        for theirs, ours in names.items():
            state = {key.replace(theirs, ours): value for key, value in state.items()}
        return with_prefix("encoder", state)
