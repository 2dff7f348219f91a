"""ConvNeXt V2 in one dimension, the ECG encoder of TolerantECG (arXiv 2507.09887; ConvNeXt V2: arXiv 2301.00808).

Stages of depthwise convolution, LayerNorm and a wide two-layer network with global response normalisation; mean over
time, LayerNorm. Inside, signals are (batch, time, channel); the convolutions see them as channels-last images, which is
free and faster on CPUs.
"""

import torch
import torch.nn.functional as F
from torch import nn

TINY = dict(widths=(96, 192, 384, 768), depths=(3, 3, 9, 3))
SIZES = {
    # tolerantecg.md section 9: the network of the CPU study
    "small": dict(widths=(16, 32, 64, 128), depths=(1, 1, 2, 1)),
    "tolerant": TINY,
    "medium": TINY,
    "large": dict(widths=(128, 256, 512, 1024), depths=(3, 3, 27, 3)),
}


class Conv(nn.Conv1d):
    """A convolution of x (batch, time, channel)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = x.transpose(1, 2).unsqueeze(2)
        stride, padding = (1, *self.stride), (0, *self.padding)
        h = F.conv2d(image, self.weight.unsqueeze(2), self.bias, stride, padding, 1, self.groups)
        return h.squeeze(2).transpose(1, 2)


class ResponseNorm(nn.Module):
    """Global response normalisation of x (batch, time, channel): scaled by the channel's L2 norm over time, relative to
    the mean across channels; gamma = beta = 0 is the identity."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.gamma, self.beta, self.eps = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # four times as fast on a CPU as vector_norm; a channel of zeros gets no gradient
        g = x.float().square().sum(1, keepdim=True).clamp_min(1e-30).sqrt()
        response = (g / (g.mean(-1, keepdim=True) + self.eps)).to(x.dtype)
        return torch.addcmul(x + self.beta, x, self.gamma * response)


class Block(nn.Module):
    """x (batch, time, dim) -> the same shape, with a residual."""

    def __init__(self, dim: int, kernel: int):
        super().__init__()
        self.conv = Conv(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.fc1, self.response, self.fc2 = nn.Linear(dim, 4 * dim), ResponseNorm(4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(self.response(F.gelu(self.fc1(self.norm(self.conv(x))))))


class Encoder(nn.Module):
    """x (batch, n_leads, time), any number of samples -> z (batch, dim), the normalised mean over its tokens, one per 4
    * 2 ** (stages - 1) samples. A lead that `lead_mask` bool (batch, n_leads) calls missing adds nothing to the stem,
    not even its share of the bias; a flat lead, which is a recording, does."""

    def __init__(self, n_leads=12, widths=(16, 32, 64, 128), depths=(1, 1, 2, 1), kernel=7, stem_kernel=4):
        super().__init__()
        self.dim, self.n_leads = widths[-1], n_leads
        self.stride = stem_kernel * 2 ** (len(widths) - 1)
        self.stem = Conv(n_leads, widths[0], stem_kernel, stem_kernel)
        self.stem_norm = nn.LayerNorm(widths[0], eps=1e-6)
        layers, width = [], widths[0]
        for out, depth in zip(widths, depths, strict=True):
            if layers:
                layers += [nn.LayerNorm(width, eps=1e-6), Conv(width, out, 2, 2)]
            layers += [Block(out, kernel) for _ in range(depth)]
            width = out
        self.layers, self.norm = nn.Sequential(*layers), nn.LayerNorm(width, eps=1e-6)

    def tokens(self, x: torch.Tensor, lead_mask: torch.Tensor | None = None) -> torch.Tensor:
        """x (batch, n_leads, time) -> (batch, token, dim), before the mean and its LayerNorm."""
        if lead_mask is not None:
            x = x.masked_fill(~lead_mask.unsqueeze(-1), 0)
        x = F.pad(x, (0, max(0, self.stride - x.shape[-1])))  # shorter than one token
        h = self.stem(x.transpose(1, 2))
        if lead_mask is not None:  # otherwise a missing lead and a flat one would look the same
            missing = (~lead_mask).float().mean(1)[:, None, None]
            h = h - (missing * self.stem.bias).to(h)
        return self.layers(self.stem_norm(h))

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, token, dim) -> z (batch, dim)."""
        return self.norm(tokens.mean(1))

    def forward(self, x: torch.Tensor, lead_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.pool(self.tokens(x, lead_mask))
