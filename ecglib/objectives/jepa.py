"""ECG-JEPA: predict what a slow teacher says of hidden patches from the visible ones; no augmentation, no negatives.

Variant W (Weimann and Conrad, arXiv 2410.13867): patches over all leads, hidden in runs, each record its own mask.
Variant K (Kim, arXiv 2410.08559): patches of single leads, the same times hidden in every lead of the batch.
Defaults are those of short CPU runs. Published: W momentum .998 .. .9995, block 10, target_norm off, the teacher as
product, predictors of 8 to 12 layers; K momentum .996 .. 1, a predictor of 6 layers with 12 heads. As in both codes the
share of visible patches is drawn once per batch; the teacher runs in evaluation mode (in K's code its stochastic depth
was active).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError
from ecglib.models.layers import Block, initialise, sincos
from ecglib.training.ema import Teacher, linear_momentum
from ecglib.training.masking import masked_mean, multi_block, random_tokens, time_blocks

PAPER = "ECG-JEPA, arXiv 2410.13867 (variant W), arXiv 2410.08559 (variant K)"
ENCODER = "vit1d"
LEARNED = {"loss": ("<", 0.8, "first"), "target_sd": (">", 0.1, "one")}  # arXiv 2410.13867: below, it has collapsed
DEFAULTS = {  # where the two variants differ
    "W": dict(keep_low=0.15, keep_high=0.25, block=5, beta=0.0, depth=2),
    "K": dict(keep_low=0.3, keep_high=0.4, block=0, beta=1.0, depth=1),
}


class Predictor(nn.Module):
    """Transformer that fills in hidden tokens: `width` inside, context and answer of size `dim`. repeat: add the
    positions before every block (K), else once (W, whose codes are interleaved); bias: of Linear layers and norms."""

    def __init__(self, dim, width, depth, heads, *, bias, repeat, eps):
        super().__init__()
        self.repeat = repeat
        self.into, self.out = nn.Linear(dim, width, bias=bias), nn.Linear(width, dim, bias=bias)
        self.hole = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        options = dict(bias=bias, qkv_bias=False, eps=eps)
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width, **options) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=eps, bias=bias)
        initialise(self, rising=repeat)

    def forward(self, context: torch.Tensor, keep: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """context (batch, k, dim) at times `keep`, to be continued at times `hidden` (both int64, (batch, .) or (.,))
        -> (batch, hidden, dim)."""
        n_hidden, width = hidden.shape[-1], len(self.hole)
        times = torch.cat([keep, hidden], -1)
        position = sincos(times.flatten(), width, interleaved=not self.repeat).view(*times.shape, width)
        h = torch.cat([self.into(context), self.hole.expand(len(context), n_hidden, -1)], 1)
        for i, block in enumerate(self.blocks):
            h = block(h + position if self.repeat or i == 0 else h)
        return self.out(self.norm(h[:, -n_hidden:]))


class Objective(nn.Module):
    """Distance between the predictor's answer for hidden patches and the teacher's tokens there, mean over all values.
    Missing leads are zeros; in K their own tokens do not count. product "teacher" (published for W): the encoder takes
    the teacher's values after the last of `steps`; not for short trainings, after which a teacher is mostly its initial
    weights (momentum 0.998 to 0.9995: 0.69 of them after 300 steps). Logs: `visible`, the share of patches seen;
    `target_sd`, the spread of the teacher's averaged tokens between records: near zero = collapse."""

    def __init__(
        self,
        encoder,
        variant: str = "W",  # patches of all leads, or "K": of single leads (vit1d size small_k, jepa_k)
        steps: int = 300,  # length of the training, for the teacher's momentum
        momentum_start: float = 0.99,  # of the teacher, on a straight line to
        momentum_end: float = 1.0,
        keep_low: float | None = None,  # the visible share is uniform between these two (W .15 .. .25; K .3 .. .4)
        keep_high: float | None = None,
        block: int | None = None,  # W: least patches hidden in a row (5). K: number of runs (published: 4); 0 = none
        target_norm: bool = True,  # the teacher's tokens are layer-normalised
        beta: float | None = None,  # width of the quadratic part of SmoothL1 (W 0, which is L1; K 1)
        predictor_width: int | None = None,  # default: half the encoder's
        predictor_depth: int | None = None,  # W 2, K 1
        predictor_heads: int = 4,
        product: str = "student",  # what is probed and stored in the end: the trained encoder, or the "teacher"
    ):
        super().__init__()
        self._check(encoder, variant, product)
        own = DEFAULTS[variant]
        keep_low, keep_high, self.block, self.beta, depth = (
            own[name] if given is None else given
            for name, given in zip(own, (keep_low, keep_high, block, beta, predictor_depth), strict=True)
        )
        if not 0 < keep_low <= keep_high < 1:
            raise EcgError(f"visible share {keep_low} .. {keep_high}", field="keep_low", fix="0 < low <= high < 1")
        self.product, self.variant, self.target_norm, self.keep = product, variant, target_norm, (keep_low, keep_high)
        self.momentum = dict(steps=steps, start=momentum_start, end=momentum_end)
        self.encoder, self.teacher = encoder, Teacher(encoder)
        like_encoder = dict(bias=encoder.norm.bias is not None, eps=encoder.norm.eps)
        width = predictor_width or encoder.dim // 2
        self.predictor = Predictor(encoder.dim, width, depth, predictor_heads, repeat=variant == "K", **like_encoder)

    @staticmethod
    def _check(encoder, variant: str, product: str) -> None:
        if variant not in DEFAULTS:
            raise EcgError(f"variant={variant!r}", field="variant", fix="use W or K")
        if getattr(encoder, "joint", None) is not (variant == "W"):
            kind, size = ("all leads", "small") if variant == "W" else ("single leads", "small_k")
            reason = f"variant {variant} needs a transformer on patches of {kind}"
            raise EcgError(reason, field="encoder", fix=f"use encoder vit1d in a size such as {size}")
        if product not in ("student", "teacher"):
            raise EcgError(f"product={product!r}", field="product", fix="use student or teacher")

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        times = batch.x.shape[-1] // self.encoder.patch
        keep, hidden = (index.to(batch.x.device) for index in self.masks(len(batch.x), times))
        target = self.targets(batch.x)
        answer = self.predict(batch.x, keep, hidden)
        error = F.smooth_l1_loss(answer.float(), self.at(target, hidden), beta=self.beta, reduction="none")
        loss = masked_mean(error, self.counted(batch.lead_mask, hidden)[..., None])
        spread = F.layer_norm(target, target.shape[-1:]).mean(1).std(0, correction=0).mean()
        return loss, {"visible": torch.tensor(keep.shape[-1] / times), "target_sd": spread}

    def counted(self, lead_mask: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden tokens that count, bool, as in `predict`: (batch, hidden) for W, (batch, lead * hidden) for K."""
        n_hidden = hidden.shape[-1]
        if self.variant == "W":
            return lead_mask.new_ones(len(lead_mask), n_hidden)
        recorded = lead_mask if self.encoder.rows is None else lead_mask[:, self.encoder.rows]
        return recorded.repeat_interleave(n_hidden, 1)

    def masks(self, batch: int, times: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Times (patch numbers) that are seen and hidden, rising, on the CPU: (batch, .) for W, (.,) for K."""
        low, high = self.keep
        share = low + (high - low) * torch.rand((), dtype=torch.float64).item()
        if self.variant == "W":
            keep, mask = multi_block(batch, times, math.ceil(share * times), self.block)
            return keep, mask.nonzero()[:, 1].view(batch, -1)
        n_hidden = int(times * (1 - share))
        if not self.block and n_hidden < 1:
            raise EcgError(f"{times} patches: none to hide", field="x", fix="use longer signals")
        mask = time_blocks(times, self.block) if self.block else random_tokens(1, times, times - n_hidden)[1][0]
        return (~mask).nonzero()[:, 0], mask.nonzero()[:, 0]

    @torch.no_grad()
    def targets(self, x: torch.Tensor) -> torch.Tensor:
        """The teacher's tokens of the whole signal, float32 (batch, token, dim), each normalised with target_norm."""
        target = self.teacher[0].tokens(x).float()
        return F.layer_norm(target, target.shape[-1:]) if self.target_norm else target

    def predict(self, x: torch.Tensor, keep: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Answers (batch, hidden, dim) from the tokens at times `keep`; K: (batch, lead * hidden, dim), lead by lead,
        each lead from its own tokens."""
        h = self.encoder.embed(x)
        context = self.encoder.encode(h, self.tokens_at(keep, h.shape[1]))[:, len(self.encoder.registers) :]
        if self.variant == "W":
            return self.predictor(context, keep, hidden)
        by_lead = context.unflatten(1, (self.encoder.token_leads, -1)).flatten(0, 1)
        return self.predictor(by_lead, keep, hidden).unflatten(0, (len(x), -1)).flatten(1, 2)

    def tokens_at(self, times: torch.Tensor, n_tokens: int) -> torch.Tensor:
        """Numbers of the tokens at `times`: themselves for W; for K those of every lead, lead by lead."""
        if self.variant == "W":
            return times
        starts = torch.arange(self.encoder.token_leads, device=times.device) * (n_tokens // self.encoder.token_leads)
        return (starts[:, None] + times).flatten()

    def at(self, tokens: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """The tokens (batch, token, dim) at `times`, of every lead."""
        index = self.tokens_at(times, tokens.shape[1])
        if index.ndim == 1:
            return tokens[:, index]
        return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))

    def after_step(self, step: int) -> None:
        """Move the teacher after optimiser step `step` (0 ..). K counts that step; W updates before the next forward
        pass, which is the same as now. EcgError for a training longer than `steps`, whose schedule has ended."""
        if step >= self.momentum["steps"]:
            reason = f"step {step + 1} of a training planned for {self.momentum['steps']}"
            raise EcgError(reason, field="steps", fix="give the objective the number of steps of the training")
        momentum = linear_momentum(step + (self.variant == "W"), **self.momentum)
        self.teacher.update(self.encoder, momentum=momentum)
        if self.product == "teacher" and step + 1 == self.momentum["steps"]:
            self.encoder.load_state_dict(self.teacher[0].state_dict())
