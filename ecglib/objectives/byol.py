"""BYOL (arXiv 2006.07733) on the view policy of CLEF: one view predicts what a slow copy of the network sees in the
other; nothing repels, so there are no negatives and the batch size hardly matters."""

import torch
from torch import nn

from ecglib import models
from ecglib.training.augment import PairViews
from ecglib.training.ema import Teacher, cosine_momentum
from ecglib.training.losses import accuracy, direction, head, spread

PAPER = "BYOL, arXiv 2006.07733"
ENCODER = "net1d"
LEARNED = {"accuracy": (">", 0.5, "one"), "spread": (">", 0.1, "one")}
DRAWS_LEADS = True


class Objective(nn.Module):
    """Distance of the student's prediction from the teacher's projection of the other view, both ways; views: of
    `PairViews`."""

    def __init__(
        self,
        encoder,
        steps: int = 300,  # length of the training, for the teacher's momentum
        momentum: float = 0.99,  # of the teacher at first, on half a cosine to 1 (paper: 0.996, for long trainings)
        projection: int = 64,  # width of the projection (paper: 256)
        hidden: int = 256,  # width of the hidden layers (paper: 4096)
        **views,
    ):
        super().__init__()
        self.encoder, self.steps, self.momentum = encoder, steps, momentum
        self.projector = head(encoder.dim, projection, hidden, norm=True)
        self.predictor = head(projection, projection, hidden, norm=True)
        self.teacher = Teacher(self.encoder, self.projector)
        self.views = PairViews(encoder.n_leads, **views)

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        views = self.views(batch.x, batch.lead_mask, self.training)
        z = self.projector(models.embed(self.encoder, *views))
        with torch.no_grad():
            target = self.teacher[1](models.embed(self.teacher[0], *views)).roll(len(batch.x), 0)  # the other view's
        distance = (direction(self.predictor(z)) - direction(target)).square().sum(-1)
        return 2 * distance.mean(), {"accuracy": accuracy(*z.chunk(2)), "spread": spread(z)}

    def after_step(self, step: int) -> None:
        self.teacher.update(self.encoder, self.projector, momentum=cosine_momentum(step, self.steps, self.momentum))
