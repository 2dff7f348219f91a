"""Teachers: slow copies of a network (exponential moving average), and what a student learns from them."""

import copy
import math

import torch
from torch import nn


class Teacher(nn.Module):
    """Exponential moving averages of modules: copies in evaluation mode that no gradient reaches; teacher[i] is the
    i-th."""

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
