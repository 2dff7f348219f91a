"""A two-dimensional convolutional network on the wavelet image of each lead.

After the idea of PulseNet (arXiv 2305.15424), which reads scalograms of one lead of dogs. Everything else is our own
choice, also the sizes: the Morlet wavelet, 24 frequencies and the small network; there is no published count.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

SIZES = {"small": dict(widths=(16, 32, 48, 64), frequencies=24)}
OMEGA = 6.0  # radians of the wave in one width of its envelope: the usual choice, which leaves a mean of 1e-8
LOWEST_HZ, HIGHEST_HZ = 1.0, 30.0
REACH = 5  # widths of the slowest wavelet behind which it is zero
FRAME = 4  # samples that are averaged to one column of the image
FLOOR = 0.05  # added to an amplitude before its logarithm


def scalogram(x: torch.Tensor, hz: torch.Tensor, fs: float) -> torch.Tensor:
    """Modulus of the Morlet transform of x (.., time) at frequencies hz (f,), float32 (.., f, time).

    A sine of amplitude a has the value a at its own frequency; outside of x there are zeros. fs in Hz, at least three
    times the largest of hz.
    """
    n = x.shape[-1]
    width = OMEGA / (2 * math.pi * hz)  # of each wavelet, s
    padded = n + math.ceil(REACH * OMEGA / (2 * math.pi * LOWEST_HZ) * fs)
    padded += padded % 2
    omega = 2 * math.pi * fs / padded * torch.arange(padded // 2 + 1, device=x.device)
    bank = torch.exp(-((width[:, None] * omega - OMEGA) ** 2) / 2)
    spectrum = torch.fft.rfft(x.float(), padded).unsqueeze(-2)
    real = torch.fft.irfft(spectrum * torch.complex(bank, torch.zeros_like(bank)), padded)[..., :n]
    imaginary = torch.fft.irfft(spectrum * torch.complex(torch.zeros_like(bank), -bank), padded)[..., :n]
    return (real.square() + imaginary.square()).sqrt()


class Encoder(nn.Module):
    """x (batch, n_leads, time), any number of samples -> z (batch, dim), the mean of its tokens over time.

    Leads are the channels of the image, and frequencies, equally far apart on a logarithmic scale, are its rows.
    """

    def __init__(self, n_leads=12, widths=(16, 32, 48, 64), frequencies=24, fs=100.0):
        super().__init__()
        self.dim, self.n_leads, self.fs = widths[-1], n_leads, fs
        hz = torch.logspace(math.log10(LOWEST_HZ), math.log10(min(HIGHEST_HZ, 0.3 * fs)), frequencies)
        self.register_buffer("hz", hz, persistent=False)
        layers, width = [], n_leads
        for out in widths:
            layers += [nn.Conv2d(width, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            width = out
        self.layers = nn.Sequential(*layers)

    def image(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) -> log amplitude (batch, n_leads, frequency, ceil(time / FRAME))."""
        with torch.autocast(x.device.type, enabled=False):
            amplitude = scalogram(x, self.hz, self.fs)
            amplitude = F.avg_pool2d(F.pad(amplitude, (0, -x.shape[-1] % FRAME)), (1, FRAME))
            return torch.log(FLOOR + amplitude)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) -> (batch, token, dim), one token per 64 samples."""
        return self.layers(self.image(x).to(x.dtype)).mean(2).transpose(1, 2)

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, token, dim) -> z (batch, dim)."""
        return tokens.mean(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.tokens(x))
