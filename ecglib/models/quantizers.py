"""Vector quantisation: a vocabulary of unit vectors that follows what a network puts out (HeartLang, 2502.10707)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ecglib.models.layers import over_processes


class Quantized(NamedTuple):
    """vectors (.., dim): the nearest codes, whose gradient passes straight to the input; index int64 (..); commitment:
    mean squared distance between unit input and code, over the words that count."""

    vectors: torch.Tensor
    index: torch.Tensor
    commitment: torch.Tensor


class Quantizer(nn.Module):
    """`n_codes` unit vectors of `dim` values; the input is scaled to unit length and replaced by the nearest.
    Codes are no parameters: the first training batch sets them by k-means; `update` then moves each by 1 - decay
    towards its inputs, and gives those unused for `reseed_after` updates the place of an input drawn at random."""

    def __init__(self, n_codes: int = 256, dim: int = 32, decay: float = 0.99, reseed_after: int = 100):
        super().__init__()
        self.decay, self.reseed_after = decay, reseed_after
        self.register_buffer("codes", F.normalize(torch.randn(n_codes, dim), dim=-1))
        self.register_buffer("idle", torch.zeros(n_codes, dtype=torch.int64))
        self.register_buffer("ready", torch.zeros((), dtype=torch.int64))
        self._seen = None

    def nearest(self, z: torch.Tensor) -> torch.Tensor:
        """Number of the nearest code of vectors z (.., dim), scaled to unit length: int64 (..)."""
        with torch.autocast(z.device.type, enabled=False):  # 8 bits of mantissa would take a neighbour
            z = F.normalize(z.float(), dim=-1)
            nearness = (2 * z @ self.codes.T).sub_(self.codes.square().sum(-1))
            return nearness.max(-1).indices  # argmax takes three times as long on a CPU

    def forward(self, z: torch.Tensor, real: torch.Tensor | None = None) -> Quantized:
        """z (.., dim); real: bool (..), which of them count for the codes and the commitment (default: all)."""
        z = F.normalize(z.float(), dim=-1)
        real = torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device) if real is None else real
        if self.training and not self.ready:
            self.start(z.detach()[real])
        index = self.nearest(z.detach())
        codes = self.codes[index]
        if self.training:
            self._remember(z.detach()[real], index[real])
        off = (codes - z).square().mean(-1) * real
        return Quantized(z + (codes - z).detach(), index, off.sum() / real.sum().clamp(min=1))

    @torch.no_grad()
    def start(self, z: torch.Tensor, iterations: int = 10) -> None:
        """Spherical k-means on unit vectors z (n, dim); codes beyond their number stay where they are."""
        if not over_processes(torch.tensor(float(len(z)), device=z.device)):
            return
        chosen = torch.randperm(len(z))[: len(self.codes)].to(z.device)
        self.codes[: len(chosen)] = z[chosen]
        _from_first(self.codes)
        for _ in range(iterations):
            sums, counts = map(over_processes, self._sums(z, self.nearest(z)))
            self.codes.copy_(torch.where(counts[:, None] > 0, F.normalize(sums, dim=-1), self.codes))
        self.ready.fill_(1)

    @torch.no_grad()
    def update(self) -> None:
        """One step towards the inputs of the last training batch; call it after the optimiser's step."""
        if self._seen is None:
            return
        (sums, counts, spare), self._seen = self._seen, None
        sums, counts = over_processes(sums), over_processes(counts)
        blend = self.decay * self.codes + (1 - self.decay) * F.normalize(sums, dim=-1)
        self.codes.copy_(torch.where(counts[:, None] > 0, F.normalize(blend, dim=-1), self.codes))
        self.idle.copy_(torch.where(counts > 0, 0, self.idle + 1))
        dead = self.idle >= self.reseed_after
        _from_first(spare)
        self.codes.copy_(torch.where(dead[:, None], spare, self.codes))
        self.idle.masked_fill_(dead, 0)

    def _remember(self, z, index) -> None:
        spare = self.codes.clone()  # a process whose batch is empty has nothing better to offer
        if len(z):
            spare = z[torch.randint(len(z), (len(self.codes),)).to(z.device)]
        self._seen = (*self._sums(z, index), spare)

    def _sums(self, z, index):
        counts = torch.zeros(len(self.codes), device=z.device).index_add_(0, index, torch.ones(len(z), device=z.device))
        return torch.zeros_like(self.codes).index_add_(0, index, z), counts


class Vocabulary(nn.Module):
    """Linear, tanh, linear and a quantiser: each vector (.., dim) becomes one of its codes."""

    def __init__(self, dim: int, n_codes: int = 256, code_dim: int = 32, decay: float = 0.99, reseed_after: int = 100):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, code_dim))
        self.quantiser = Quantizer(n_codes, code_dim, decay, reseed_after)

    def forward(self, h: torch.Tensor, real: torch.Tensor | None = None) -> Quantized:
        return self.quantiser(self.head(h), real)

    def index(self, h: torch.Tensor) -> torch.Tensor:
        """Numbers of the codes of h (.., dim): int64 (..)."""
        return self.quantiser.nearest(self.head(h))


def perplexity(index: torch.Tensor, n_codes: int) -> torch.Tensor:
    """exp of the entropy of code numbers `index` (any shape): 1 = always the same, n_codes = all alike; 1 for none."""
    return effective_number(torch.bincount(index.flatten(), minlength=n_codes).float() / max(1, index.numel()))


def effective_number(p: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of probabilities p (.., n) -> (..): how many equally likely choices would be as uncertain."""
    return torch.special.entr(p.float()).sum(-1).exp()


def _from_first(value: torch.Tensor) -> None:
    """Give every training process the tensor of the first, in place."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(value, 0)


class GumbelQuantizer(nn.Module):
    """Product quantiser: features (.., dim) choose one of `entries` vectors of `width` in each of `books` codebooks."""

    def __init__(self, dim: int, books: int, entries: int, width: int):
        super().__init__()
        self.project = nn.Linear(dim, books * entries)
        nn.init.normal_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.entries = nn.Parameter(torch.rand(books, entries, width))

    def forward(self, features: torch.Tensor, temperature=1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(quantised (.., books * width), codes int64 (.., books), mean probability of the entries (books, entries)):
        in training by a Gumbel-softmax sample at `temperature`, hard forward and soft backward; else the likeliest
        entry."""
        logits = self.project(features).float().unflatten(-1, self.entries.shape[:2])
        p = logits.softmax(-1)
        if self.training:
            gumbel = -torch.empty(logits.shape).exponential_().clamp_min(1e-20).log()  # 0 occurs
            p_drawn = ((logits + gumbel.to(logits)) / temperature).softmax(-1)
            codes = p_drawn.argmax(-1)
            choice = F.one_hot(codes, logits.shape[-1]) + (p_drawn - p_drawn.detach())
        else:
            codes = logits.argmax(-1)
            choice = F.one_hot(codes, logits.shape[-1]).to(logits)
        quantised = torch.einsum("...be,bew->...bw", choice, self.entries).flatten(-2)
        return quantised, codes, p.flatten(0, -3).mean(0)
