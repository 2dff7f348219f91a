"""xresnet1d, the strongest convolutional network of the PTB-XL benchmark (doi 10.1109/jbhi.2020.3022989).

A stem of three convolutions, bottleneck stages of one common width, shortcuts that average before they project, average
and maximum pooling side by side. As in ResNet-D (arXiv 1812.01187); here the residual branches start small, not at
zero, so that every weight learns from the first step.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib.models import layers

SIZES = {
    "small": dict(stem=(16, 16, 32), width=24, depths=(3, 4, 6, 3)),
    "xresnet1d50": dict(stem=(32, 32, 64), width=64, depths=(3, 4, 6, 3)),
    "xresnet1d101": dict(stem=(32, 32, 64), width=64, depths=(3, 4, 23, 3)),
    "medium": dict(stem=(32, 32, 64), width=64, depths=(3, 4, 23, 3)),
    "large": dict(stem=(64, 64, 128), width=128, depths=(3, 8, 36, 3)),
}
BRANCH_GAIN = 0.1  # of the last normalisation of a block, at the start


def conv_bn(width_in: int, width_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """As `layers.conv_bn`, Kaiming-normal at the start."""
    pair = layers.conv_bn(width_in, width_out, kernel, stride)
    nn.init.kaiming_normal_(pair[0].weight, nonlinearity="relu")
    return pair


class Block(nn.Module):
    """Bottleneck 1, kernel, 1 (the second strided) and a shortcut that pools, then projects where the width changes."""

    def __init__(self, width_in: int, width: int, width_out: int, kernel: int, stride: int):
        super().__init__()
        self.conv1, self.conv2 = conv_bn(width_in, width, 1), conv_bn(width, width, kernel, stride)
        self.conv3 = conv_bn(width, width_out, 1)
        nn.init.constant_(self.conv3[1].weight, BRANCH_GAIN)
        self.stride = stride
        self.shortcut = nn.Identity() if width_in == width_out else conv_bn(width_in, width_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.conv2(F.relu(self.conv1(x), inplace=True)), inplace=True)
        if self.stride == 2:  # an odd length ends with a window of one sample
            x = F.avg_pool2d(x, (1, 2), ceil_mode=True)
        return F.relu(self.conv3(h) + self.shortcut(x), inplace=True)


class Encoder(nn.Module):
    """x (batch, n_leads, time), any number of samples -> z (batch, dim): mean, then maximum of the channels over time.
    So that tokens (one per 32 samples) have `dim` numbers too, each holds its channels twice."""

    def __init__(self, n_leads=12, stem=(16, 16, 32), width=24, depths=(3, 4, 6, 3), kernel=5, expansion=4):
        super().__init__()
        channels = width * expansion
        self.dim, self.n_leads = 2 * channels, n_leads
        modules, last = [], n_leads
        for i, out in enumerate(stem):
            modules += [conv_bn(last, out, kernel, 2 if i == 0 else 1), nn.ReLU(inplace=True)]
            last = out
        modules.append(nn.MaxPool2d((1, 3), (1, 2), (0, 1)))
        for i, depth in enumerate(depths):
            for j in range(depth):
                modules.append(Block(last, width, channels, kernel, 2 if i and j == 0 else 1))
                last = channels
        self.layers = nn.Sequential(*modules)

    def _map(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(layers.channels_last(x)).squeeze(2)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) -> (batch, token, dim)."""
        return self._map(x).transpose(1, 2).repeat(1, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self._map(x)
        return torch.cat([h.mean(-1), h.amax(-1)], 1)
