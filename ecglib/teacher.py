"""Teachers: slow copies of a network (exponential moving average), and what a student learns from them."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn


class Teacher(nn.Module):
    """Exponential moving averages of modules: copies in evaluation mode that no gradient reaches.

    teacher[i] is the copy of the i-th module; call it under `torch.no_grad()`.
    """

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(m) for m in modules).requires_grad_(False).eval()

    def __getitem__(self, i: int) -> nn.Module:
        return self.copies[i]

    def train(self, mode: bool = True):
        return super().train(False)  # dropout or batch statistics in a teacher would be noise in the targets

    @torch.no_grad()
    def update(self, *modules: nn.Module, momentum: float) -> None:
        """Move every value to momentum * old + (1 - momentum) * the value in `modules`; buffers are copied."""
        for mine, theirs in zip(self.copies, modules, strict=True):
            for slow, fast in zip(mine.parameters(), theirs.parameters(), strict=True):
                slow.lerp_(fast.detach().to(slow), 1 - momentum)
            for slow, fast in zip(mine.buffers(), theirs.buffers(), strict=True):
                slow.copy_(fast)


def linear_momentum(step: int, steps: int, start: float, end: float) -> float:
    """Momentum at `step` (0 ..) of `steps`, on a straight line from start to end."""
    return start + (end - start) * min(1.0, step / max(1, steps))


def cosine_momentum(step: int, steps: int, start: float) -> float:
    """Momentum at `step` (0 ..) of `steps`, on half a cosine from start to 1 (BYOL, arXiv 2006.07733)."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(1.0, step / max(1, steps)))) / 2


class Centre(nn.Module):
    """Running mean of a teacher's outputs, subtracted so that no output wins for every record (DINO, arXiv 2104.14294).

    `value` (dim,) moves by 1 - momentum towards each batch's mean, over all processes.
    """

    def __init__(self, dim: int, momentum: float = 0.9):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(dim))

    @torch.no_grad()
    def update(self, outputs: torch.Tensor) -> None:
        """outputs (.., dim) of the teacher."""
        self.value.lerp_(over_processes(outputs.float().flatten(0, -2).mean(0)), 1 - self.momentum)


def over_processes(value: torch.Tensor) -> torch.Tensor:
    """Mean of a tensor over all training processes (itself when there is one)."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


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
