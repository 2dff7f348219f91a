"""BYOL (arXiv 2006.07733) on the view policy of CLEF: one view predicts what a slow copy of the network sees in the
other; nothing repels, so there are no negatives and the batch size hardly matters."""

import torch
from torch import nn

from ecglib.augment import PairViews
from ecglib.contrast import accuracy, direction, head, spread
from ecglib.teacher import Teacher, cosine_momentum

PAPER = "BYOL, arXiv 2006.07733"
ENCODER = "net1d"
DRAWS_LEADS = True


class Objective(nn.Module):
    """Distance of the student's prediction from the teacher's projection of the other view, both ways.

    projection, hidden: widths of the projection and of the hidden layers (256 and 4096 in the paper). momentum: of the
    teacher at the start, on half a cosine to 1 over `steps` (0.996 in the paper, for much longer trainings). The views
    are those of `ecglib.augment.PairViews`: fs in Hz; noise: packed noise file ("" = simulated); noise_rms in units of
    x; same_lead: chance that both views of an encoder of one lead show the same lead; masked: share of the views with a
    stretch of time hidden; zscore: standardise every lead of a view."""

    def __init__(
        self,
        encoder,
        steps: int = 300,
        momentum: float = 0.99,
        projection: int = 64,
        hidden: int = 256,
        fs: float = 100.0,
        noise: str = "",
        noise_rms: float = 0.5,
        same_lead: float = 0.8,
        masked: float = 0.2,
        zscore: bool = True,
    ):
        super().__init__()
        self.encoder, self.steps, self.momentum = encoder, steps, momentum
        self.projector = head(encoder.dim, projection, hidden, norm=True)
        self.predictor = head(projection, projection, hidden, norm=True)
        self.teacher = Teacher(self.encoder, self.projector)
        self.views = PairViews(encoder.n_leads, fs, noise, noise_rms, same_lead, masked, zscore)

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        views = torch.cat(self.views(batch.x, batch.lead_mask, self.training))
        z = self.projector(self.encoder(views))
        with torch.no_grad():
            target = self.teacher[1](self.teacher[0](views)).roll(len(batch.x), 0)  # the other view's
        distance = (direction(self.predictor(z)) - direction(target)).square().sum(-1)
        return 2 * distance.mean(), {"accuracy": accuracy(*z.chunk(2)), "spread": spread(z)}

    def after_step(self, step: int) -> None:
        self.teacher.update(self.encoder, self.projector, momentum=cosine_momentum(step, self.steps, self.momentum))
