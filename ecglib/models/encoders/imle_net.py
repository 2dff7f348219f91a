"""IMLE-Net (arXiv 2204.05116): attention over the samples of a slice, the slices of a lead, and the leads.

Each lead is cut into 20 slices, whatever its beats do, and one residual network reads all of them. Published: 746,725
parameters with five outputs at 12 x 1000, counted with one bias vector per LSTM gate; PyTorch has two, so ours has
747,237. Convolutions have biases; the first one has no batch normalisation.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ecglib.models.layers import channels_last

SIZES = {
    "small": dict(widths=(8, 16, 32), blocks=1, hidden=32, attention=32),
    "published": dict(widths=(32, 64, 128), blocks=2, hidden=64, attention=64),
}
SLICE = 50  # samples of a slice in the paper: 10 s at 100 Hz in 20 slices


class SameConv(nn.Conv2d):
    """x (batch, channel, 1, time) -> (.., ceil(time / stride)); the smaller half of the zeros goes in front."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int = 1):
        super().__init__(width_in, width_out, (1, kernel), (1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride, length = self.kernel_size[1], self.stride[1], x.shape[-1]
        total = max(0, (math.ceil(length / stride) - 1) * stride + kernel - length)
        return super().forward(F.pad(x, (total // 2, total - total // 2)))


class Block(nn.Module):
    """Two convolutions and the shortcut, which projects where width or rate changes; normalised after the sum."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = SameConv(width_in, width_out, kernel, stride), nn.BatchNorm2d(width_out)
        self.conv2, self.norm2 = SameConv(width_out, width_out, kernel), nn.BatchNorm2d(width_out)
        same = stride == 1 and width_in == width_out
        self.shortcut = nn.Identity() if same else SameConv(width_in, width_out, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(F.relu(self.conv1(x)))
        return self.norm2(F.relu(self.conv2(h) + self.shortcut(x)))


class PositionAttention(nn.Module):
    """softmax over positions of V tanh(W x + b), where b differs by position; without bias in W and V.

    positions: for which b is learned; at any other number b is interpolated between them.
    """

    def __init__(self, dim: int, positions: int, units: int):
        super().__init__()
        self.w, self.v = nn.Linear(dim, units, bias=False), nn.Linear(units, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(positions, units))

    def forward(self, x: torch.Tensor, there=None) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, position, dim) -> (weighted mean (batch, dim), weights (batch, position)), which sum to 1.

        there: bool (batch, position); the others weigh nothing, unless there are none else.
        """
        bias, n = self.bias, x.shape[1]
        if n != len(bias):
            bias = F.interpolate(bias.T[None], size=n, mode="linear", align_corners=False)[0].T
        score = self.v(torch.tanh(self.w(x) + bias)).squeeze(-1)
        if there is not None:
            score = score.masked_fill(~there & there.any(1, keepdim=True), -torch.inf)
        weight = score.softmax(1)
        return (weight.unsqueeze(-1) * x).sum(1), weight


class Encoder(nn.Module):
    """x (batch, n_leads, time), any number of samples -> z (batch, dim), the leads' vectors weighed by attention.

    The tokens are the leads' vectors; a lead that `lead_mask` bool (batch, n_leads) calls missing is a token of zeros
    and weighs nothing. Where the samples do not divide into slices, neighbours overlap by less than a sample each.
    """

    def __init__(self, n_leads=12, widths=(8, 16, 32), blocks=1, hidden=32, attention=32, kernel=8, slices=20):
        super().__init__()
        self.dim, self.n_leads, self.slices = 2 * hidden, n_leads, slices
        self.stem = SameConv(1, widths[0], kernel)
        layers, width, positions = [], widths[0], SLICE
        for i, out in enumerate(widths):
            positions = positions if i == 0 else math.ceil(positions / 2)
            for j in range(blocks):
                layers.append(Block(width, out, kernel, 2 if i and j == 0 else 1))
                width = out
        self.blocks = nn.Sequential(*layers)
        self.beat = PositionAttention(width, positions, attention)
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.rhythm = PositionAttention(self.dim, slices, attention)
        self.lead = PositionAttention(self.dim, n_leads, attention)

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """x (.., time) -> (.., slice, sample): slices of equal length, the first at the start, the last at the end."""
        n = x.shape[-1]
        length = math.ceil(n / self.slices)
        start = torch.linspace(0, n - length, self.slices, device=x.device).round().long()
        return x[..., start[:, None] + torch.arange(length, device=x.device)]

    def levels(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (batch, n_leads, time) -> (tokens (batch, n_leads, dim), weights over the positions of each slice (batch,
        n_leads, slice, position), and over the slices (batch, n_leads, slice))."""
        batch = len(x)
        h = self.cut(x).flatten(0, 2).unsqueeze(1)
        h = self.blocks(F.relu(self.stem(channels_last(h)))).squeeze(2).transpose(1, 2)
        h, beat = self.beat(h)
        h, rhythm = self.rhythm(self.lstm(h.unflatten(0, (-1, self.slices)))[0])
        per_lead = (batch, self.n_leads)
        return h.unflatten(0, per_lead), beat.unflatten(0, (*per_lead, self.slices)), rhythm.unflatten(0, per_lead)

    def tokens(self, x: torch.Tensor, lead_mask: torch.Tensor | None = None) -> torch.Tensor:
        """x (batch, n_leads, time) -> (batch, n_leads, dim), one token a lead."""
        tokens = self.levels(x)[0]
        return tokens if lead_mask is None else tokens * lead_mask.unsqueeze(-1)

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, n_leads, dim) -> z (batch, dim)."""
        return self.lead(tokens, (tokens != 0).any(-1))[0]

    def attention(self, x: torch.Tensor, lead_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Weights of each level, which sum to 1 over their last axis: "beat" (batch, lead, slice, position), "rhythm"
        (batch, lead, slice), "lead" (batch, lead)."""
        tokens, beat, rhythm = self.levels(x)
        return {"beat": beat, "rhythm": rhythm, "lead": self.lead(tokens, lead_mask)[1]}

    def forward(self, x: torch.Tensor, lead_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.pool(self.tokens(x, lead_mask))
