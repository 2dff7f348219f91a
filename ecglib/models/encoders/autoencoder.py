"""Convolutional autoencoder of multi-scale cross-restoration (arXiv 2308.01639); its encoding half is the encoder.

Convolutions k 4 with stride 2, leaky ReLU, batch normalisation from the second on; then one wide convolution without
padding, of which each output is a token. Leads are scaled to [-1, 1] one by one. No convolution has a bias.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib.models.layers import channels_last

PUBLISHED = dict(widths=(32, 64, 128, 256, 512), dim=50, kernel=15)
SIZES = {
    # anomaly.md section 9: the network of the CPU study, for 100 Hz; the published one is for 500 Hz
    "small": dict(widths=(8, 16, 32), dim=24, kernel=12),
    "ecgad": PUBLISHED,
    "medium": PUBLISHED,
    "large": dict(widths=(64, 128, 256, 512, 1024), dim=128, kernel=15),
}
HALVE = dict(kernel_size=(1, 4), stride=(1, 2), padding=(0, 1), bias=False)


def minmax(x: torch.Tensor) -> torch.Tensor:
    """Every lead of x (.., time) scaled to [-1, 1]; a constant one becomes 0."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    span = high - low
    return (2 * (x - low) / torch.where(span > 0, span, 1) - 1) * (span > 0)


class Encoder(nn.Module):
    """x (batch, n_leads, time), any number of samples -> z (batch, dim), the mean over its tokens, one per `stride`
    samples, which see `kernel` * stride samples; shorter records are padded with zeros."""

    def __init__(self, n_leads=12, widths=(8, 16, 32), dim=24, kernel=12):
        super().__init__()
        self.shape = dict(n_leads=n_leads, widths=tuple(widths), dim=dim, kernel=kernel)
        self.dim, self.n_leads, self.stride, self.kernel = dim, n_leads, 2 ** len(widths), kernel
        layers, width = [], n_leads
        for out in widths:
            norm = [nn.BatchNorm2d(out)] if layers else []
            layers += [nn.Conv2d(width, out, **HALVE), *norm, nn.LeakyReLU(0.2, inplace=True)]
            width = out
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, dim, (1, kernel), bias=False))

    def n_tokens(self, n_times: int) -> int:
        """Tokens of a record of n_times samples."""
        return max(-(-n_times // self.stride), self.kernel) - self.kernel + 1

    def latent(self, x: torch.Tensor) -> torch.Tensor:
        """Scaled x (batch, n_leads, time) -> (batch, token, dim)."""
        length = self.stride * max(-(-x.shape[-1] // self.stride), self.kernel)
        x = F.pad(x, (0, length - x.shape[-1]))
        return self.layers(channels_last(x)).squeeze(2).transpose(1, 2)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) in any unit -> (batch, token, dim)."""
        return self.latent(minmax(x))

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, token, dim) -> z (batch, dim)."""
        return tokens.mean(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.tokens(x))


class Decoder(nn.Module):
    """The transposed counterpart of an encoder: tokens (batch, token, copies * dim) -> (batch, outputs, time)."""

    def __init__(self, encoder: Encoder, outputs: int, copies: int = 1):
        super().__init__()
        widths = encoder.shape["widths"][::-1]
        layers = [nn.ConvTranspose2d(copies * encoder.dim, widths[0], (1, encoder.kernel), bias=False)]
        for width, out in zip(widths, (*widths[1:], outputs), strict=True):
            layers += [nn.BatchNorm2d(width), nn.LeakyReLU(0.2, inplace=True), nn.ConvTranspose2d(width, out, **HALVE)]
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layers(tokens.transpose(1, 2).unsqueeze(2)).squeeze(2)
