"""Contrastive losses: what belongs together is to lie closer than what does not.

All in float32, also where the caller trains in a shorter format: at a temperature of 0.07 a cosine rounded to bfloat16
would be off by a tenth of a logit. With several processes each sees the negatives of its own share of the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ecglib.models.layers import over_processes

MAX_SCALE = 100.0  # bound of the learned 1/T of CLIP (arXiv 2103.00020)


def head(dim: int, out: int, hidden: int = 0, norm: bool = False) -> nn.Module:
    """Projection head dim -> hidden (0 = dim) -> out with a ReLU, before it, with `norm`, batch normalisation always by
    the batch at hand: a student's running statistics would not fit its slower teacher. out 0: the identity."""
    if not out:
        return nn.Identity()
    hidden = hidden or dim
    between = [nn.BatchNorm1d(hidden, track_running_stats=False), nn.ReLU()] if norm else [nn.ReLU()]
    return nn.Sequential(nn.Linear(dim, hidden, bias=not norm), *between, nn.Linear(hidden, out))


def direction(z: torch.Tensor) -> torch.Tensor:
    """z (.., dim) divided by its length, float32; a zero vector stays zero and gets no gradient."""
    z = z.float()
    length = z.norm(dim=-1, keepdim=True)
    return torch.where(length > 1e-6, z / length.clamp_min(1e-6), 0.0)


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine similarities: a (n, dim), b (m, dim) -> (n, m)."""
    with torch.autocast(a.device.type, enabled=False):
        return direction(a) @ direction(b).T


def nt_xent(z1, z2, temperature: float, weights: torch.Tensor | None = None, patient_id: torch.Tensor | None = None):
    """NT-Xent (SimCLR, arXiv 2002.05709) of two views z (batch, dim):
    - mean log( e^{s_p / T} / (e^{s_p / T} + sum over negatives of W e^{s / T}) ).
    weights: W, (batch, batch) or (2 batch, 2 batch), positive. patient_id (batch,): other records of the same patient
    are no negatives."""
    n = len(z1)
    z = torch.cat([z1, z2])
    s = cosine(z, z) / temperature
    positive = torch.arange(2 * n, device=s.device).roll(n)
    if weights is not None:
        weights = weights if len(weights) == 2 * n else weights.repeat(2, 2)
        negative = ~F.one_hot(positive, 2 * n).bool()
        s = s + torch.where(negative, weights.float().log(), 0.0)
    left_out = torch.eye(2 * n, dtype=torch.bool, device=s.device)
    if patient_id is not None:
        left_out = (patient_id[:, None] == patient_id).repeat(2, 2) & ~F.one_hot(positive, 2 * n).bool()
    s = s.masked_fill(left_out, -math.inf)
    return F.cross_entropy(s, positive)


@torch.no_grad()
def accuracy(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """Share of the 2 batch views z1, z2 (batch, dim) whose nearest other view is the one of the same record."""
    n = len(z1)
    s = cosine(torch.cat([z1, z2]), torch.cat([z1, z2])).fill_diagonal_(-math.inf)
    return (s.argmax(1) == torch.arange(2 * n, device=s.device).roll(n)).float().mean()


@torch.no_grad()
def spread(z: torch.Tensor) -> torch.Tensor:
    """Root of the summed variance of the directions of z (batch, dim): 0 when all collapse, near 1 when they differ."""
    return direction(z).var(0, correction=0).sum().sqrt()


class Scale(nn.Module):
    """The learned 1/T of the CLIP loss: call it for its value, at most MAX_SCALE; `log` is the parameter."""

    def __init__(self, temperature: float = 0.07):
        super().__init__()
        self.log = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self) -> torch.Tensor:
        return self.log.exp().clamp(max=MAX_SCALE)


def halves(s: torch.Tensor, same: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropies of logits s (n, n) over rows and over columns, whose pairs stand on the diagonal. same: bool (n,
    n), further pairs that belong together: the target is uniform over all of those of a row (column)."""
    if same is None:
        target = torch.arange(len(s), device=s.device)
        return F.cross_entropy(s, target), F.cross_entropy(s.T, target)
    target = (same | torch.eye(len(s), dtype=torch.bool, device=s.device)).float()
    rows, columns = target / target.sum(1, keepdim=True), target / target.sum(0)
    return F.cross_entropy(s, rows), F.cross_entropy(s.T, columns.T)


def clip(a: torch.Tensor, b: torch.Tensor, scale, same=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Both halves of the CLIP loss (arXiv 2103.00020) of pairs a, b (batch, dim): (a to b, b to a); scale = 1/T; same:
    see `halves`."""
    return halves(cosine(a, b) * scale, same)


def symmetric(both: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The loss of what `clip` or `halves` returns: the mean of the two directions."""
    return (both[0] + both[1]) / 2


def cmsc(z1: torch.Tensor, z2: torch.Tensor, patient_id: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """Contrastive multi-segment coding (arXiv 2005.13249): first and second segments z (batch, dim) of the records;
    every pair of one patient is positive. Norms carry no gradient; half of the row and column softmax terms."""
    a, b = (z.float() / z.float().norm(dim=1, keepdim=True).detach().clamp_min(1e-8) for z in (z1, z2))
    with torch.autocast(a.device.type, enabled=False):
        s = a @ b.T / temperature
    same = patient_id[:, None] == patient_id
    rows, columns = -F.log_softmax(s, 1), -F.log_softmax(s, 0)
    return (rows[same].mean() + columns[same].mean()) / 2


class Centre(nn.Module):
    """Running mean `value` (dim,) of a teacher's outputs over all processes, subtracted so that no output wins for
    every record (DINO, arXiv 2104.14294)."""

    def __init__(self, dim: int, momentum: float = 0.9):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(dim))

    @torch.no_grad()
    def update(self, outputs: torch.Tensor) -> None:
        """outputs (.., dim) of the teacher."""
        self.value.lerp_(over_processes(outputs.float().flatten(0, -2).mean(0)), 1 - self.momentum)


def distil(student, teacher, centre=0.0, t_student: float = 0.1, t_teacher: float = 0.07) -> torch.Tensor:
    """Cross-entropy of the student's softmax with the teacher's, mean over records: outputs (batch, dim) -> scalar."""
    target = F.softmax((teacher.float() - centre) / t_teacher, -1).detach()
    return -(target * F.log_softmax(student.float() / t_student, -1)).sum(-1).mean()


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, temperature: float = 0.05, iterations: int = 3) -> torch.Tensor:
    """Balanced assignments: scores (record, prototype) -> rows that sum to 1, columns near record / prototype
    (SwAV, arXiv 2006.09882). In logarithms: a prototype that no record is near would otherwise be 0 / 0."""
    q = scores.float() / temperature
    for _ in range(iterations):
        q = q - q.logsumexp(0, keepdim=True)
        q = q - q.logsumexp(1, keepdim=True)
    return q.exp()
