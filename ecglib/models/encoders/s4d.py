"""S4D, a diagonal state-space network (arXiv 2206.11893), in plain PyTorch: the supervised reference of the ECG
benchmark arXiv 2509.25095, which needs a compiled kernel.

Every channel is a sum of damped oscillators; its impulse response is written down in closed form, so that a layer is
one long convolution, done by FFT.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

BENCHMARK = dict(dim=512, depth=4, states=8)
SIZES = {
    # baselines.md section 9: the network of the CPU study; four samples a token cost a quarter of one sample a token
    "small": dict(dim=64, depth=4, states=8, patch=4),
    "full_rate": dict(dim=64, depth=4, states=8),
    "benchmark": BENCHMARK,
    "medium": BENCHMARK,
    "large": dict(dim=1024, depth=8, states=32),
}


class StateSpace(nn.Module):
    """y = D u + sum over past u with the impulse response: u (batch, dim, time) -> the same shape, causal. State n of a
    channel: s' = A s + u, read as 2 Re(C s), by zero-order hold; A starts at -1/2 + i pi n, steps log-uniform over
    `step`."""

    def __init__(self, dim: int, states: int, step: tuple[float, float] = (1e-3, 1e-1)):
        super().__init__()
        low, high = map(math.log, step)
        self.log_step = nn.Parameter(low + (high - low) * torch.rand(dim))
        self.log_decay = nn.Parameter(torch.full((dim, states), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(states).float().repeat(dim, 1))
        self.read = nn.Parameter(torch.randn(dim, states, 2) * 0.5**0.5)
        self.skip = nn.Parameter(torch.randn(dim))

    def discrete(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Per step: log of the factor of every state, and what its state gives to the output; complex (dim, states)."""
        a = torch.complex(-self.log_decay.exp(), self.frequency)
        log_factor = a * self.log_step.exp()[:, None]
        return log_factor, 2 * torch.view_as_complex(self.read) * torch.expm1(log_factor) / a

    def impulse(self, n_times: int) -> torch.Tensor:
        """Impulse response (dim, n_times)."""
        log_factor, gain = self.discrete()
        powers = torch.exp(log_factor[..., None] * torch.arange(n_times, device=gain.device))
        return torch.einsum("dn,dnt->dt", gain, powers).real

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        n = u.shape[-1]
        with torch.autocast(u.device.type, enabled=False):
            v = u.float()
            spectrum = torch.fft.rfft(v, 2 * n) * torch.fft.rfft(self.impulse(n), 2 * n)
            return torch.fft.irfft(spectrum, 2 * n)[..., :n] + self.skip[:, None] * v


class Layer(nn.Module):
    """State space, GELU, gated linear unit, residual, LayerNorm: x (batch, time, dim) -> the same shape."""

    def __init__(self, dim: int, states: int, dropout: float):
        super().__init__()
        self.state_space, self.mix = StateSpace(dim, states), nn.Linear(dim, 2 * dim)
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.gelu(self.state_space(x.transpose(1, 2))).transpose(1, 2)
        return self.norm(x + self.dropout(F.glu(self.mix(h), -1)))


class Encoder(nn.Module):
    """x (batch, n_leads, time), any number of samples -> z (batch, dim), the mean over its tokens of `patch` samples of
    all leads; the end is padded with zeros."""

    def __init__(self, n_leads=12, dim=64, depth=4, states=8, patch=1, dropout=0.0):
        super().__init__()
        self.dim, self.n_leads, self.patch = dim, n_leads, patch
        self.embed = nn.Linear(n_leads * patch, dim)
        self.layers = nn.Sequential(*(Layer(dim, states, dropout) for _ in range(depth)))

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) -> (batch, ceil(time / patch), dim)."""
        return self.layers(self.local(x))

    def local(self, x: torch.Tensor) -> torch.Tensor:
        """As `tokens`, but before the layers: each of its own samples alone. Tokens know the past, nothing later."""
        x = F.pad(x, (0, -x.shape[-1] % self.patch)).unflatten(-1, (-1, self.patch))
        return self.embed(x.transpose(1, 2).flatten(2))

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, token, dim) -> z (batch, dim)."""
        return tokens.mean(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.tokens(x))
