"""U-Net over the independent leads (arXiv 2502.00559, which gives no widths); its contracting half is the encoder.

Input: the leads that are not linear combinations of others, mean-removed, over one corpus constant, and as many mask
channels. Of twelve leads these are I, II, V1 .. V6 (by position, standard order); any other number is taken as it is.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib.data.recording import INDEPENDENT
from ecglib.models.layers import channels_last

SIZES = {
    # lead-reconstruction.md section 9: the networks of the CPU study
    "small": dict(widths=(16, 32, 48, 64)),
    "wide": dict(widths=(16, 32, 64, 96)),
    "medium": dict(widths=(32, 64, 128, 256)),
    "large": dict(widths=(64, 128, 256, 512, 1024)),
}


def modelled(n_leads: int) -> tuple[int, ...]:
    """Rows of the modelled leads: INDEPENDENT of twelve, else all of them."""
    return INDEPENDENT if n_leads == 12 else tuple(range(n_leads))


def level(width_in: int, width_out: int, kernel: int) -> nn.Sequential:
    """Twice convolution, batch normalisation, ReLU (without the bias that the normalisation would take away)."""
    layers = []
    for width in (width_in, width_out):
        conv = nn.Conv2d(width, width_out, (1, kernel), padding=(0, kernel // 2), bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        layers += [conv, nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """x (batch, n_leads, time), any number of samples -> z (batch, dim), the mean over the tokens of the bottleneck,
    one per 2 ** (levels - 1) samples. A modelled lead that is zero throughout counts as missing. `scale`: the corpus
    constant, in units of x, kept with the weights."""

    def __init__(self, n_leads=12, widths=(16, 32, 48, 64), kernel=9):
        super().__init__()
        self.dim, self.n_leads, self.widths, self.kernel = widths[-1], n_leads, tuple(widths), kernel
        self.modelled = modelled(n_leads)
        self.register_buffer("scale", torch.ones(()))
        self.levels = nn.ModuleList()
        width = 2 * len(self.modelled)
        for out in widths:
            self.levels.append(level(width, out, kernel))
            width = out

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """Modelled leads of x (batch, n_leads, time) or of (batch, modelled, time): mean-removed, over `scale`."""
        if x.shape[1] == self.n_leads:
            x = x[:, list(self.modelled)]
        return (x - x.mean(-1, keepdim=True)) / self.scale

    def pyramid(self, x: torch.Tensor, kept: torch.Tensor) -> list[torch.Tensor]:
        """Maps (batch, width, 1, padded time / 2 ** level) of all levels, finest first, of normalised leads x (batch,
        modelled, time) of which `kept`, bool (batch, modelled), are seen."""
        x = F.pad(x * kept.unsqueeze(-1), (0, -x.shape[-1] % 2 ** (len(self.levels) - 1)))
        flags = kept.unsqueeze(-1).to(x.dtype).expand_as(x)
        h, maps = channels_last(torch.cat([x, flags], 1)), []
        for convolutions in self.levels:
            maps.append(convolutions(F.max_pool2d(maps[-1], (1, 2)) if maps else h))
        return maps

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) -> (batch, token, dim)."""
        kept = (x != 0).any(-1)[:, list(self.modelled)]
        return self.pyramid(self.normalised(x), kept)[-1].squeeze(2).transpose(1, 2)

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, token, dim) -> z (batch, dim)."""
        return tokens.mean(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.tokens(x))


class Decoder(nn.Module):
    """The expanding half: nearest upsampling, concatenation with the map of that level, the same two convolutions; the
    maps of `Encoder.pyramid` -> (batch, modelled, n_times), normalised leads."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        finer = list(zip(encoder.widths[:0:-1], encoder.widths[-2::-1], strict=True))
        self.levels = nn.ModuleList(level(coarse + fine, fine, encoder.kernel) for coarse, fine in finer)
        self.out = nn.Conv2d(encoder.widths[0], len(encoder.modelled), 1)

    def forward(self, maps: list[torch.Tensor], n_times: int) -> torch.Tensor:
        h = maps[-1]
        for convolutions, fine in zip(self.levels, maps[-2::-1], strict=True):
            h = convolutions(torch.cat([F.interpolate(h, scale_factor=(1, 2)), fine], 1))
        return self.out(h).squeeze(2)[..., :n_times]
