"""Contrastive predictive coding (arXiv 1807.03748) on a state-space network, after ECG-CPC (arXiv 2509.25095).

What a causal network knows at one moment predicts, by one linear map for each step ahead, which of many candidates is
the piece of signal that follows. The candidates are the pieces at the same moments of all records of the batch, so that
neither the time nor the record alone gives the answer away.
"""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError
from ecglib.models import checked_input
from ecglib.training.augment import fixed_draws

PAPER = "CPC, arXiv 1807.03748; ECG-CPC, arXiv 2509.25095"
ENCODER = "s4d"
LEARNED = {"accuracy": (">", 2, "chance")}


def info_nce(predicted: torch.Tensor, following: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and accuracy of predicted (ahead, n, width) against following (ahead, n, width): for each step ahead the
    cross-entropy of picking, among n candidates, one's own by the inner product; means over steps and n."""
    scores = torch.einsum("knw,kmw->knm", predicted.float(), following.float())
    own = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
    loss = F.cross_entropy(scores.flatten(0, 1), own.flatten())
    return loss, (scores.argmax(-1) == own).float().mean()


class Objective(nn.Module):
    """InfoNCE between linear predictions from the tokens of a causal encoder and what it makes of later pieces."""

    def __init__(
        self,
        encoder,
        ahead: int = 12,  # steps that are predicted, in tokens (s4d small: 40 ms at 100 Hz)
        moments: int = 8,  # of each batch at which predictions are made, random
        width: int = 64,  # of what is compared
    ):
        super().__init__()
        if not hasattr(encoder, "local"):
            reason = "cpc needs an encoder whose tokens know nothing of what follows"
            raise EcgError(reason, field="encoder", fix="use s4d")
        self.encoder, self.ahead, self.moments = encoder, ahead, moments
        self.predict = nn.ModuleList(nn.Linear(encoder.dim, width, bias=False) for _ in range(ahead))
        self.target = nn.Linear(encoder.dim, width, bias=False)

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        x = checked_input(self.encoder, batch.x)
        context, pieces = self.encoder.tokens(x), self.encoder.local(x)
        n = context.shape[1] - self.ahead
        if n < 1:
            reason = f"{context.shape[1]} tokens leave none to predict {self.ahead} steps ahead"
            raise EcgError(reason, field="ahead", fix="predict fewer steps, or give longer records")
        with nullcontext() if self.training else fixed_draws():
            at = torch.randperm(n)[: self.moments].to(x.device)
        now = context[:, at].flatten(0, 1)
        predicted = torch.stack([predict(now) for predict in self.predict])
        following = torch.stack([self.target(pieces[:, at + k]).flatten(0, 1) for k in range(1, self.ahead + 1)])
        loss, accuracy = info_nce(predicted, following)
        return loss, {"accuracy": accuracy, "chance": torch.tensor(1 / len(now))}
