"""Residual network: the supervised reference that every table carries (451,269 parameters with five outputs), and the
ECG tower of MERL (arXiv 2403.06659), whose stem has no max-pool.

Bias-free convolutions with batch normalisation, also in the projecting shortcuts; stem with stride 2 and a max-pool
(design of resnet1d_wang in helme/ecg_ptbxl_benchmarking, doi 10.1109/jbhi.2020.3022989, at CPU size).
"""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib.models import released
from ecglib.models.layers import channels_last, conv_bn

SIZES = {
    "small": dict(widths=(32, 48, 64, 96), blocks=2, kernel=7, stem_kernel=15),
    "narrow": dict(widths=(32, 64, 96, 128), blocks=1, kernel=7, stem_kernel=15),
    "medium": dict(widths=(64, 128, 256, 512), blocks=2, kernel=3, stem_kernel=15),
    "merl": dict(widths=(64, 128, 256, 512), blocks=2, kernel=3, stem_kernel=7, pool=False),
}


class Block(nn.Module):
    """Two convolutions and the shortcut, which projects where width or rate changes."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int):
        super().__init__()
        self.conv1 = conv_bn(width_in, width_out, kernel, stride)
        self.conv2 = conv_bn(width_out, width_out, kernel)
        same = stride == 1 and width_in == width_out
        self.shortcut = nn.Identity() if same else conv_bn(width_in, width_out, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x), inplace=True)) + self.shortcut(x))


class Encoder(nn.Module):
    """x (batch, n_leads, time), any number of samples -> z (batch, dim), the mean of its tokens over time."""

    def __init__(self, n_leads=12, widths=(32, 48, 64, 96), blocks=2, kernel=7, stem_kernel=15, pool=True):
        super().__init__()
        self.dim, self.n_leads = widths[-1], n_leads
        pooled = [nn.MaxPool2d((1, 3), (1, 2), (0, 1))] if pool else []
        self.stem = nn.Sequential(conv_bn(n_leads, widths[0], stem_kernel, 2), nn.ReLU(), *pooled)
        layers, width = [], widths[0]
        for i, out in enumerate(widths):
            for j in range(blocks):
                layers.append(Block(width, out, kernel, 2 if i and j == 0 else 1))
                width = out
        self.blocks = nn.Sequential(*layers)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) -> (batch, token, dim), one token per 32 samples (16 without a pool)."""
        return self.blocks(self.stem(channels_last(x))).squeeze(2).transpose(1, 2)

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, token, dim) -> z (batch, dim)."""
        return tokens.mean(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.tokens(x))


NAMES = [  # released name -> ours: four layers of two blocks
    (r"(?:ecg_encoder\.)?conv1\.(.+)", r"stem.0.0.\1"),
    (r"(?:ecg_encoder\.)?bn1\.(.+)", r"stem.0.1.\1"),
]
for _block in range(8):
    _released = rf"(?:ecg_encoder\.)?layer{_block // 2 + 1}\.{_block % 2}"
    NAMES += [
        (rf"{_released}\.conv([12])\.(.+)", rf"blocks.{_block}.conv\1.0.\2"),
        (rf"{_released}\.bn([12])\.(.+)", rf"blocks.{_block}.conv\1.1.\2"),
        (rf"{_released}\.shortcut\.([01])\.(.+)", rf"blocks.{_block}.shortcut.\1.\2"),
    ]


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the released MERL ResNet18 ("ecg_encoder.*") under our names. EcgError for an unknown key."""
    ours = released.rename(state, NAMES, "MERL's ECG tower")
    return {name: value.unsqueeze(2) if value.ndim == 3 else value for name, value in ours.items()}
