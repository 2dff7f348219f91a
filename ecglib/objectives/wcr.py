"""WCR: wav2vec 2.0's masked contrastive prediction, contrastive multi-segment coding (CMSC), random lead masking (RLM).

The pretraining of ECG-FM (arXiv 2408.05178), introduced in arXiv 2203.06889. Unlike the public code, every row hides
the same number of tokens in whole spans, one lead at least stays, and all segments of a patient are positives.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError
from ecglib.models.quantizers import GumbelQuantizer, effective_number
from ecglib.training import losses, masking

PAPER = "ECG-FM / WCR, arXiv 2408.05178"
ENCODER = "wav2vec"
LEARNED = {"accuracy": (">", 2, "chance")}
GUMBEL_END = 277_258 / 328_800  # share of the published training at which the Gumbel temperature stops falling


def local_logits(context, target, codes, negatives: int, temperature: float) -> torch.Tensor:
    """Cosine similarities / temperature of every context to its own target, then to `negatives` targets of the row.
    context, target: (row, token, dim); codes: (row, token, books) -> (row, token, 1 + negatives). Negatives are drawn
    with replacement from the row's other tokens; those with the codes of the positive get -inf."""
    rows, n = context.shape[:2]
    s = F.normalize(context.float(), dim=-1) @ F.normalize(target.float(), dim=-1).transpose(1, 2) / temperature
    same = (codes.unsqueeze(2) == codes.unsqueeze(1)).all(-1)
    other = torch.randint(n - 1, (rows, n, negatives))
    other = (other + (other >= torch.arange(n)[:, None])).to(s.device)
    return torch.cat([s.diagonal(dim1=1, dim2=2).unsqueeze(-1), s.masked_fill(same, -torch.inf).gather(2, other)], -1)


class Objective(nn.Module):
    """Both halves of every record are one segment each; loss = local + diversity, feature penalty and CMSC, weighted.
    (The paper weights all but the local term by the number of hidden tokens and divides the sum by it, which is the
    same.)"""

    def __init__(
        self,
        encoder,
        mask_prob: float = 0.65,  # share of tokens drawn as hidden, see `masking.spans`
        span: int = 4,  # tokens (published: 10)
        negatives: int = 20,  # per hidden token (published: 100)
        temperature: float = 0.1,  # of both contrastive terms
        rlm: float = 0.5,  # chance of every lead of every segment to be zeroed in training
        cmsc: float = 1.0,  # weight, as the next two
        diversity: float = 0.1,
        penalty: float = 10.0,
        books: int = 2,  # of the quantiser
        entries: int = 32,  # of a book (published: 320)
        code_dim: int = 32,  # of an entry (published: 128)
        final_dim: int = 64,  # width in which context and target meet (published: 256)
        feature_gradient: float = 0.1,  # factor on the gradient into the convolutions
        gumbel_start: float = 2.0,  # temperature of the quantiser, falling geometrically to
        gumbel_end: float = 0.5,  # after 84 % of the steps, as in the published training
        steps: int = 200,  # published: 328,800
    ):
        super().__init__()
        if not all(hasattr(encoder, method) for method in ("stem", "encode", "pool")):
            raise EcgError("wcr masks tokens between convolutions and transformer", field="encoder", fix="use wav2vec")
        self.encoder = encoder
        self.mask_prob, self.span, self.negatives, self.rlm = mask_prob, span, negatives, rlm
        self.temperature, self.feature_gradient = temperature, feature_gradient
        self.weights = {"diversity": diversity, "penalty": penalty, "cmsc": cmsc}
        self.gumbel_end, self.gumbel_start, self.steps = gumbel_end, gumbel_start, steps
        channels = encoder.project.in_features
        self.mask_vector = nn.Parameter(torch.rand(encoder.token_dim))
        self.quantiser = GumbelQuantizer(channels, books, entries, code_dim)
        self.project_target = nn.Linear(books * code_dim, final_dim)
        self.project_context = nn.Linear(encoder.token_dim, final_dim)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        features = self.encoder.stem(self.segments(batch))
        if features.requires_grad:
            features.register_hook(lambda gradient: gradient * self.feature_gradient)
        mask = masking.spans(len(features), features.shape[1], self.mask_prob, self.span)
        hidden = mask.nonzero()[:, 1].view(len(mask), -1, 1).to(features.device)
        states = self.encoder.encode(features, mask.to(features.device), self.mask_vector)
        targets = _take(self.encoder.feature_norm(features), hidden)
        quantised, codes, p = self.quantiser(targets, self.gumbel())
        context, target = self.project_context(_take(states, hidden)), self.project_target(quantised)
        logits = local_logits(context, target, codes, self.negatives, self.temperature)
        local = (logits.logsumexp(-1) - logits[..., 0]).mean()
        z1, z2 = self.encoder.pool(states.float()).chunk(2)
        spread = effective_number(p).sum()  # over the codebooks: between books and books * entries
        terms = {
            "diversity": 1 - spread / p.numel(),
            "penalty": features.float().square().mean(),
            "cmsc": losses.cmsc(z1, z2, batch.patient_id, self.temperature),
        }
        loss = local + sum(self.weights[name] * term for name, term in terms.items())
        right = (logits.argmax(-1) == 0).float().mean()
        chance = (1 / logits.isfinite().sum(-1)).mean()
        logs = {"local": local, "accuracy": right, "chance": chance, "perplexity": spread, **terms}
        return loss, {name: value.detach() for name, value in logs.items()}

    def segments(self, batch) -> torch.Tensor:
        """First halves, then second halves of the records, (2 batch, lead, time // 2); in training each with its own
        leads hidden."""
        n = batch.x.shape[-1] // 2
        x = torch.cat([batch.x[..., :n], batch.x[..., n : 2 * n]])
        if not self.training or not self.rlm:
            return x
        kept = masking.lead_drop(len(x), x.shape[1], self.rlm, batch.lead_mask.repeat(2, 1))
        return x * kept.to(x.device).unsqueeze(-1)

    def gumbel(self) -> torch.Tensor:
        """Temperature of the quantiser after the updates so far."""
        share = self.updates.double() / (GUMBEL_END * max(1, self.steps))
        return (self.gumbel_start * (self.gumbel_end / self.gumbel_start) ** share.clamp(max=1)).float()

    def after_step(self, step: int) -> None:
        self.updates.fill_(step + 1)


def _take(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Tokens (row, token, dim) at index (row, n, 1) -> (row, n, dim)."""
    return tokens.gather(1, index.expand(-1, -1, tokens.shape[-1]))
