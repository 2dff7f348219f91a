"""Net1D, the RegNet-style convolutional network of ECGFounder (arXiv 2410.04133) and CLEF (arXiv 2512.02180).

Pre-activation bottleneck blocks with grouped convolutions and squeeze-excitation; no normalisation layer anywhere.
Groups are width / group_width also where ratio is not 1; max-pools see literal zeros; both as in the published weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ecglib.models import released
from ecglib.models.layers import channels_last, strided

FOUNDER = dict(
    stem=64, widths=(64, 160, 160, 400, 400, 1024, 1024), blocks=(2, 2, 2, 3, 3, 4, 4), group_width=16, ratio=1.0
)
CLEF = dict(blocks=(1, 1, 2, 2, 2, 2), group_width=8, ratio=0.5)
LARGE = (128, 256, 256, 512, 512, 1024, 1024, 2048, 2048)
SIZES = {
    # ecgfounder.md section 9: the network of the CPU study
    "small": dict(stem=16, widths=(16, 32, 64, 128), blocks=(1, 2, 2, 2), group_width=8, ratio=1.0),
    "ecgfounder": FOUNDER,
    # the three networks of CLEF; its medium is the trunk of ECGFounder
    "clef_xs": dict(stem=16, widths=(16, 32, 32, 64, 64, 128), **CLEF),
    "clef_small": dict(stem=32, widths=(32, 64, 64, 128, 128, 256), **CLEF),
    "medium": FOUNDER,
    "large": dict(stem=128, widths=LARGE, blocks=(2, 3, 3, 4, 4, 5, 5, 6, 6), group_width=32, ratio=1.5),
}


class SameConv(nn.Conv1d):
    """x (batch, channel, 1, time) -> (.., ceil(time / stride)); the smaller half of the zeros goes in front."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride, length = self.kernel_size[0], self.stride[0], x.shape[-1]
        total = max(0, (math.ceil(length / stride) - 1) * stride + kernel - length)
        left = total // 2
        if stride > 1 and x.is_cpu and torch.is_grad_enabled():
            return strided(F.pad(x, (left, total - left)), self.weight, self.bias, stride, self.groups)
        if total % 2:
            x = F.pad(x, (left, total - left))
            left = 0
        return F.conv2d(x, self.weight.unsqueeze(2), self.bias, (1, stride), (0, left), 1, self.groups)


class Block(nn.Module):
    """x (batch, width_in, 1, time) -> (batch, width_out, 1, ceil(time / stride))."""

    def __init__(self, width_in, width_out, stride, kernel, group_width, ratio, first):
        super().__init__()
        middle = int(width_out * ratio)
        self.first, self.stride, self.grow = first, stride, width_out - width_in
        self.conv1 = SameConv(width_in, middle, 1)
        self.conv2 = SameConv(middle, middle, kernel, stride, groups=width_out // group_width)
        self.conv3 = SameConv(middle, width_out, 1)
        self.se_fc1 = nn.Linear(width_out, width_out // 2)
        self.se_fc2 = nn.Linear(width_out // 2, width_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(x if self.first else F.silu(x))
        h = self.conv3(F.silu(self.conv2(F.silu(h))))
        scale = torch.sigmoid(self.se_fc2(F.silu(self.se_fc1(h.mean((2, 3))))))
        return torch.addcmul(self.shortcut(x), h, scale[:, :, None, None])

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride == 2:  # an odd length gets one literal zero on the right, not minus infinity
            x = F.max_pool2d(F.pad(x, (0, 1)) if x.shape[-1] % 2 else x, (1, 2))
        if self.grow:
            x = F.pad(x, (0, 0, 0, 0, self.grow // 2, self.grow - self.grow // 2))
        return x


class Encoder(nn.Module):
    """Net1D trunk: x (batch, n_leads, time), any number of samples -> z (batch, dim), the mean over its tokens."""

    def __init__(
        self, n_leads=12, stem=16, widths=(16, 32, 64, 128), blocks=(1, 2, 2, 2), group_width=8, ratio=1.0, kernel=16
    ):
        super().__init__()
        self.dim, self.n_leads = widths[-1], n_leads
        self.stem = SameConv(n_leads, stem, kernel, 2)
        self.stages = nn.ModuleList()
        width = stem
        for i, (out, n) in enumerate(zip(widths, blocks, strict=True)):
            stage = nn.ModuleList()
            for j in range(n):
                stage.append(Block(width, out, 1 if j else 2, kernel, group_width, ratio, first=i == j == 0))
                width = out
            self.stages.append(stage)
        self._initialise(sum(blocks))

    def _initialise(self, n_blocks: int) -> None:
        """The branch's last convolution is damped so that depth does not inflate the variance of a network without
        normalisation (ecgfounder.md section 10)."""
        for name, m in self.named_modules():
            if isinstance(m, nn.Conv1d | nn.Linear):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                nn.init.zeros_(m.bias)
                if name.endswith("conv3"):
                    with torch.no_grad():
                        m.weight.mul_(n_blocks**-0.5)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) -> (batch, token, dim), one token per 2 ** (1 + number of stages) samples."""
        return self._map(x).transpose(1, 2)

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, token, dim) -> z (batch, dim)."""
        return tokens.mean(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._map(x).mean(-1)

    def _map(self, x):
        x = F.silu(self.stem(channels_last(x)))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return x.squeeze(2)


NAMES = (  # released name -> ours
    (r"first_conv\.conv\.(weight|bias)", r"stem.\1"),
    (r"stage_list\.(\d+)\.block_list\.(\d+)\.(conv[123])\.conv\.(weight|bias)", r"stages.\1.\2.\3.\4"),
    (r"stage_list\.(\d+)\.block_list\.(\d+)\.(se_fc[12])\.(weight|bias)", r"stages.\1.\2.\3.\4"),
)
# Batch norm is allocated in the released networks and never executed; the dense layer is a head of its own.
UNUSED = r"(first_bn|stage_list\.\d+\.block_list\.\d+\.bn[123])\..+|dense\.(weight|bias)"


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a released ECGFounder or CLEF under our names, the unused left out; EcgError for an unknown key."""
    return released.rename(state, NAMES, "ECGFounder or CLEF", UNUSED)
