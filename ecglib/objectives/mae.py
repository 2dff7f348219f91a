"""Masked autoencoder (arXiv 2111.06377) on ECG patches of all leads, with two optional additions.

Spectral loss, spectral filters in the encoder and prototypes of two grains are OUR READING of the abstract of "Masked
Autoencoders that Feel the Heart" (arXiv 2506.22495), whose equations and code are not public: inspired by it, never a
reproduction. Its idea is that dominant repetitive waves hide subtle local cues, which
`ecglib.evaluation.simplicity_bias` measures.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError
from ecglib.models.layers import Block, initialise, sincos
from ecglib.training.ema import Teacher, linear_momentum
from ecglib.training.losses import cosine, sinkhorn
from ecglib.training.masking import masked_mean, random_tokens

PAPER = "MAE, arXiv 2111.06377; with filters and prototypes our reading of Feel the Heart, arXiv 2506.22495"
ENCODER = "vit1d"
LEARNED = {"time": ("<", 0.8, "one")}  # error of the hidden patches: 1 = their mean
DOMAINS = ("time", "frequency")
T_STUDENT, T_TEACHER, ITERATIONS = 0.1, 0.05, 3  # of assignments to prototypes
FLAT = 1e-6  # added to the variance of a patch


def normalised(patches: torch.Tensor, recorded: torch.Tensor) -> torch.Tensor:
    """Patches (batch, n, values) with mean 0 and sd 1 each, over the recorded values: bool (batch, 1, values)."""
    patches, recorded = patches.float(), recorded.float()
    count = recorded.sum(-1, keepdim=True).clamp_min(1)
    centred = patches - (patches * recorded).sum(-1, keepdim=True) / count
    return centred * ((centred.square() * recorded).sum(-1, keepdim=True) / count + FLAT).rsqrt()


def spectrum_error(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared differences of log(1 + |rfft|) of signals (.., time): (.., frequency). Blind to phase, so a circular
    shift of either costs nothing."""
    return (torch.fft.rfft(a.float()).abs().log1p() - torch.fft.rfft(b.float()).abs().log1p()).square()


def summaries(h: torch.Tensor, seen: torch.Tensor, size: int):
    """Every `size` tokens in a row as two vectors: their mean, and the mean over frequencies of their log spectrum.
    h: (batch, n, dim); seen: bool (batch, n), tokens that count, the others are zeros to the transform, which is scaled
    to the energy that all would have. Returns (mean, spectrum, known): float32 (batch, group, dim) twice and bool
    (batch, group), whether the group has a seen token; the last group may be short."""
    short = -h.shape[1] % size
    h = F.pad(h.float() * seen[..., None], (0, 0, 0, short)).unflatten(1, (-1, size))
    count = F.pad(seen, (0, short)).unflatten(1, (-1, size)).sum(2)[..., None]
    filled = count.clamp_min(1)
    spectrum = torch.fft.rfft(h, dim=2, norm="ortho").abs() * (size / filled[..., None]).sqrt()
    return h.sum(2) / filled, spectrum.log1p().mean(2), count[..., 0] > 0


def contrasted(z: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """z (batch, group, dim) with mean 0 and sd 1 over the records whose group is known (bool (batch, group)): what all
    share, positions above all, would fill the cosines, and near-equal cosines make assignments that are free to
    predict."""
    weight = known[..., None].float()
    count = weight.sum(0).clamp_min(1)
    z = (z - (z * weight).sum(0) / count) * weight
    return z * (z.square().sum(0) / count + FLAT).rsqrt()


def entropy(p: torch.Tensor) -> torch.Tensor:
    """Entropy of distributions p (.., k) relative to the uniform one: 0 .. 1, shape (..)."""
    return torch.special.entr(p).sum(-1) / math.log(p.shape[-1])


class Decoder(nn.Module):
    """Visible tokens (batch, kept, dim_in) -> all patches (batch, n, values): narrower, a few layers, no last norm."""

    def __init__(self, dim_in: int, dim: int, depth: int, values: int):
        super().__init__()
        self.enter, self.leave = nn.Linear(dim_in, dim), nn.Linear(dim, values)
        self.hidden = nn.Parameter(torch.randn(dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, 4, 2 * dim) for _ in range(depth)))
        initialise(self)

    def forward(self, h: torch.Tensor, keep: torch.Tensor, n: int) -> torch.Tensor:
        grid = on_grid(self.enter(h), keep, self.hidden.expand(len(h), n, -1))
        return self.leave(self.blocks(grid + sincos(torch.arange(n, device=h.device), grid.shape[2]).to(grid)))


def on_grid(h: torch.Tensor, keep: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """h (batch, kept, dim) at its positions `keep` (batch, kept) of the grid `empty` (batch, n, dim)."""
    return empty.to(h).scatter(1, keep[..., None].expand_as(h), h)


class Prototypes(nn.Module):
    """`sets` sets of directions, with count, 4 count, 16 count ..: z (.., dim) -> a list of cosines (row, k)."""

    def __init__(self, dim: int, count: int, sets: int):
        super().__init__()
        self.vectors = nn.ParameterList(torch.randn(count * 4**i, dim) * dim**-0.5 for i in range(sets))

    def forward(self, z: torch.Tensor) -> list[torch.Tensor]:
        return [cosine(z.flatten(0, -2), vectors) for vectors in self.vectors]


class Objective(nn.Module):
    """Rebuild the hidden patches from the visible ones: MSE of normalised patches + frequency x spectral loss +
    prototype_weight x prototype loss. By default the plain masked autoencoder; our reading of Feel the Heart is
    frequency=0.5, prototypes=64 around vit1d "small_mae".
    With prototypes the student, who sees the visible patches, predicts which of them an exponential moving average of
    itself that sees all is assigned to, balanced by Sinkhorn - for the whole record and for groups of `beat` seconds,
    for their mean token (time) and their spectrum over tokens (frequency); the mean of the four. Time and frequency
    have their own heads. Hidden patches are zeroed in the raw signal, before a filter could spread them. Missing leads
    are not rebuilt."""

    def __init__(
        self,
        encoder,
        mask_ratio: float = 0.75,  # share of hidden patches
        decoder_dim: int = 64,
        decoder_depth: int = 1,  # layers
        frequency: float = 0.0,  # weight of the MSE of log(1 + |rfft|) of every lead's patch
        prototypes: int = 0,  # 0 = none, else their number in the first of
        prototype_sets: int = 1,  # sets, each four times as large as the one before
        prototype_weight: float = 0.5,
        beat: float = 0.8,  # s
        momentum: float = 0.996,  # of the moving average at first, 1 at `steps`; a few hundred steps need 0.99
        steps: int = 1000,
        fs: float = 100.0,  # Hz of x
    ):
        super().__init__()
        if not getattr(encoder, "joint", False):
            reason = "tokens have to be patches of all leads, embedded apart from one another"
            raise EcgError(reason, field="encoder", fix="use vit1d at a size with joint patches")
        if not 0 < mask_ratio < 1:
            raise EcgError(f"mask_ratio={mask_ratio}", field="mask_ratio", fix="a share between 0 and 1")
        if prototypes == 1 or min(prototypes, frequency, prototype_sets - 1) < 0:
            fix = "prototypes 0 or at least 2, prototype_sets at least 1, frequency not negative"
            raise EcgError("bad numbers for the prototypes or the frequency loss", field="prototypes", fix=fix)
        self.encoder, self.mask_ratio = encoder, mask_ratio
        self.frequency, self.prototype_weight = frequency, prototype_weight
        self.momentum, self.steps, self.group = momentum, steps, max(1, round(beat * fs / encoder.patch))
        self.decoder = Decoder(encoder.dim, decoder_dim, decoder_depth, encoder.n_leads * encoder.patch)
        self.prototypes = self.teacher = None
        if prototypes:
            self.prototypes = nn.ModuleList(Prototypes(encoder.dim, prototypes, prototype_sets) for _ in DOMAINS)
            self.teacher = Teacher(encoder, *self.prototypes)

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        target = self.encoder.patches(batch.x)
        keep, mask = (m.to(batch.x.device) for m in self.draw(*target.shape[:2]))
        h = self.encode(batch.x, keep, mask)
        recorded = batch.lead_mask.repeat_interleave(self.encoder.patch, 1)[:, None]
        target, predicted = normalised(target, recorded), self.decoder(h, keep, mask.shape[1]).float()
        loss = masked_mean((predicted - target).square(), recorded * mask[..., None])
        logs = {"time": loss.detach()}
        if self.frequency:
            error = spectrum_error(*(p.unflatten(-1, (self.encoder.n_leads, -1)) for p in (predicted, target)))
            extra = masked_mean(error, (batch.lead_mask[:, None] * mask[..., None])[..., None])
            loss, logs["frequency"] = loss + self.frequency * extra, extra.detach()
        if self.teacher is not None:
            extra, monitors = self.assign(h, keep, mask, batch.x)
            loss, logs = loss + self.prototype_weight * extra, {**logs, "prototype": extra.detach(), **monitors}
        return loss, logs

    def draw(self, batch: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(keep (batch, n_keep), mask (batch, n)) as `masking.random_tokens`: at least one patch on either side."""
        if n < 2:
            raise EcgError("one patch cannot be rebuilt from others", field="x", fix="give longer signals")
        n_keep = math.floor(n * (1 - self.mask_ratio) + 1e-6)  # 50 x (1 - 0.9) is 4.999.. in floating point
        return random_tokens(batch, n, min(max(1, n_keep), n - 1))

    def encode(self, x: torch.Tensor, keep: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Visible tokens (batch, kept, dim) of x (batch, lead, time), which do not depend on the hidden samples."""
        hidden = mask.repeat_interleave(self.encoder.patch, 1)
        hidden = F.pad(hidden, (0, x.shape[2] - hidden.shape[1]))[:, None]
        return self.encoder.encode(self.encoder.embed(x.masked_fill(hidden, 0)), keep)[:, -keep.shape[1] :]

    def assign(self, h, keep, mask, x) -> tuple[torch.Tensor, dict]:
        """Prototype loss and its monitors, lowest and highest over all sets: entropy_mean (of the mean assignment; 0 =
        all records on one prototype) and entropy_each (mean of the entropies; near entropy_mean = all the same)."""
        with torch.no_grad():
            whole = self.teacher[0].tokens(x)
        student = on_grid(h, keep, h.new_zeros(whole.shape))
        losses, means, each = [], [], []
        for size in (whole.shape[1], self.group):
            *seen, known = summaries(student, ~mask, size)
            *goals, all_known = summaries(whole, torch.ones_like(mask), size)
            for of_student, of_teacher, own, slow in zip(
                seen, goals, self.prototypes, self.teacher.copies[1:], strict=True
            ):
                cosines = own(contrasted(of_student, known)), slow(contrasted(of_teacher, all_known))
                for s, t in zip(*cosines, strict=True):
                    logits = s.float()[known.flatten()] / T_STUDENT
                    losses.append(F.cross_entropy(logits, sinkhorn(t, T_TEACHER, ITERATIONS)[known.flatten()]))
                    p = logits.detach().softmax(-1)
                    means.append(entropy(p.mean(0)))
                    each.append(entropy(p).mean())
        monitors = {"entropy_mean": torch.stack(means).min(), "entropy_each": torch.stack(each).max()}
        return torch.stack(losses).mean(), monitors

    def after_step(self, step: int) -> None:
        if self.teacher is not None:
            momentum = linear_momentum(step, self.steps, self.momentum, 1.0)
            self.teacher.update(self.encoder, *self.prototypes, momentum=momentum)
