"""Residual network: the supervised reference that every table carries (451,269 parameters with five outputs), and the
ECG tower of MERL (arXiv 2403.06659), whose stem has no max-pool.

Bias-free convolutions with batch normalisation, also in the projecting shortcuts; stem with stride 2 and a max-pool
(design of resnet1d_wang in helme/ecg_ptbxl_benchmarking, doi 10.1109/jbhi.2020.3022989, at CPU size).
Inside, signals are (batch, channel, 1, time) with the channels last in memory: the same numbers, faster on CPUs.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib.signals import EcgError

SIZES = {
    "small": dict(widths=(32, 48, 64, 96), blocks=2, kernel=7, stem_kernel=15),
    "narrow": dict(widths=(32, 64, 96, 128), blocks=1, kernel=7, stem_kernel=15),
    "medium": dict(widths=(64, 128, 256, 512), blocks=2, kernel=3, stem_kernel=15),
    "merl": dict(widths=(64, 128, 256, 512), blocks=2, kernel=3, stem_kernel=7, pool=False),
}


def conv_bn(width_in: int, width_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Bias-free convolution, padded by kernel // 2 on both sides, then batch normalisation."""
    conv = nn.Conv2d(width_in, width_out, (1, kernel), (1, stride), (0, kernel // 2), bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width_out))


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
        x = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return self.blocks(self.stem(x)).squeeze(2).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tokens(x).mean(1)


CONV_BN = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv2.0", "bn2": "conv2.1"}


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the released MERL ResNet18 ("ecg_encoder.*" without its unused linear layer) under our names.

    EcgError for an unknown key.
    """
    ours = {}
    for key, value in state.items():
        *path, leaf = key.removeprefix("ecg_encoder.").split(".")
        if path in (["conv1"], ["bn1"]):
            name = f"stem.0.{0 if path == ['conv1'] else 1}"
        elif len(path) in (3, 4) and path[0].startswith("layer") and path[2] in (*CONV_BN, "shortcut"):
            block = 2 * (int(path[0].removeprefix("layer")) - 1) + int(path[1])
            name = f"blocks.{block}.{CONV_BN.get(path[2]) or 'shortcut.' + path[3]}"
        else:
            raise EcgError(f"unknown tensor {key}", field="state", fix="give the state dict of MERL's ECG tower")
        ours[f"{name}.{leaf}"] = value.unsqueeze(2) if value.ndim == 3 else value
    return ours
