"""TolerantECG (arXiv 2507.09887): an encoder that bears missing leads and noise, and knows what the report says.

A student learns from two slow copies of itself in turn: on even steps from the mask teacher, which sees records with
some leads left and specialises in missing leads; on odd steps from the noise teacher, which sees clean records where
the student sees noisy ones. On every step the clean record is aligned with its knowledge-enriched report (CLIP).

Ours: one loop cycles the (views, loss) pairs; temperatures are constants; enriched reports are frozen hashed bags of
words; the noise teacher sees one clean view, since a profiled record has no raw one beside it.
"""

import math
from functools import lru_cache

import torch
from torch import nn

from ecglib import EcgError, models
from ecglib.models.text import bag
from ecglib.training.augment import POLICIES, lead_view, noisy_view
from ecglib.training.ema import Teacher
from ecglib.training.losses import Centre, Scale, clip, distil, symmetric
from ecglib.training.noise import KINDS
from ecglib.training.report_terms import enrich

PAPER = "TolerantECG, arXiv 2507.09887"
ENCODER = "convnext1d"
LEARNED = {"clip": ("<", 0.8, "first")}
READS_REPORTS = True
META = ("age", "sex")
MIN_LEADS = 2  # a single lead has no subsets to leave out, and the mask teacher nothing to teach


@lru_cache(maxsize=2**15)  # every report comes back in every epoch
def _words(text: str, dim: int) -> torch.Tensor:
    return bag([text], dim)[0]


class Objective(nn.Module):
    """alpha * 2 * CLIP + beta * distillation from the teacher whose turn it is; in evaluation the mean over both turns.
    The mask teacher sees the global views, which keep from half of the leads to all, the student the local ones too,
    which keep from one to half; a single global view is the teacher's alone. Three in eight of the noisy views have one
    kind of noise alone."""

    def __init__(
        self,
        encoder,
        alpha: float = 1.0,
        beta: float = 1.0,
        momentum: float = 0.996,  # of both teachers, as published; runs of some hundred steps need about 0.95
        centre_momentum: float = 0.9,  # of the means taken off the teachers' outputs
        t_student: float = 0.1,  # temperature
        t_teacher: float = 0.07,  # temperature
        n_global: int = 2,  # views of the mask turn
        n_local: int = 2,  # views of the mask turn (published: 8)
        n_noisy: int = 4,  # the student's views of the noise turn (published: 8)
        noise_rate: float = 0.5,  # chance of a lead to meet a kind of noise
        snr_low: float = -10.0,  # dB
        snr_high: float = 0.0,  # dB
        noise: str = "",  # packed noise file; "" = simulated
        fs: float = 100.0,  # Hz of x
        text_dim: int = 128,  # width of the bags of words
        identical: bool = True,  # False, as published: every other record is a negative of the CLIP loss
    ):
        super().__init__()
        if n_global < 1 or n_global + n_local < 2 or n_noisy < 1:
            raise EcgError("too few views to learn one from another", field="n_global", fix="n_global 1+, in all 2+")
        self.encoder, dim = encoder, encoder.dim
        self.heads = nn.ModuleDict({policy: nn.Linear(dim, dim) for policy in POLICIES})
        self.text = nn.Linear(text_dim, dim)
        self.scale, self.identical = Scale(), identical
        self.teachers = nn.ModuleDict({policy: Teacher(encoder, self.heads[policy]) for policy in POLICIES})
        self.centres = nn.ModuleDict({policy: Centre(dim, centre_momentum) for policy in POLICIES})
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))
        self.alpha, self.beta, self.momentum = alpha, beta, momentum
        self.t_student, self.t_teacher = t_student, t_teacher
        self.n_global, self.n_local, self.n_noisy = n_global, n_local, n_noisy
        self.noise = dict(fs=fs, path=noise, rate=noise_rate, low=snr_low, high=snr_high)
        self.outputs = None  # of the teacher in the step under way; the centre moves after it

    @property
    def policy(self) -> str:
        """Whose turn it is."""
        return POLICIES[int(self.turn) % len(POLICIES)]

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        turns = (self.policy,) if self.training else POLICIES
        views = [self.views(policy, batch) for policy in turns]
        seen = [view for _, student in views for view in student]
        z, *zs = self.embed(self.encoder, [(batch.x, batch.lead_mask), *seen])
        terms, targets = [], []
        for policy, (teacher, student) in zip(turns, views, strict=True):
            targets.append(self.targets(policy, teacher))
            outputs = [self.heads[policy](zs.pop(0)) for _ in student]
            pairs = [(q, v) for q, a in enumerate(teacher) for v, b in enumerate(student) if a is not b]
            terms.append(self.distillation(policy, targets[-1], outputs, pairs))
        if self.training:
            self.outputs = targets[0]
        distillation, (alignment, share) = torch.stack(terms).mean(), self.alignment(z, batch)
        # the head whose turn it is not takes part with nothing: processes must agree on which gradients there are
        idle = 0.0 * sum(p.sum() for p in (*self.heads.parameters(), *self.text.parameters(), self.scale.log))
        loss = 2 * self.alpha * alignment + self.beta * distillation + idle
        logs = {"clip": alignment, "distil": distillation, "entropy": self.entropy(turns[0], targets[0])}
        return loss, {k: v.detach() for k, v in logs.items()} | {"text": share}

    def views(self, policy: str, batch) -> tuple[list, list]:
        """Views of one turn, each with its mask: the teacher's and the student's; some may be the same object."""
        x, mask = batch.x, batch.lead_mask
        if policy == "mask":
            n = x.shape[1]
            half = math.ceil(n / 2)
            sizes = [(half, n)] * self.n_global + [(1, half)] * self.n_local
            views = [lead_view(x, mask, *size) for size in sizes]
            return views[: self.n_global], views[self.n_global == 1 :]
        first, singles = int(torch.randint(len(KINDS), ())), round(self.n_noisy * 3 / 8)
        alone = [KINDS[(first + i) % len(KINDS)] for i in range(singles)]
        student = [noisy_view(x, **self.noise) for _ in range(self.n_noisy - singles)]
        student += [noisy_view(x, kinds=(kind,), p=1.0, **self.noise) for kind in alone]
        return [(x, mask)], [(view, mask) for view in student]

    def embed(self, encoder: nn.Module, views: list) -> tuple:
        """The embeddings (batch, dim) of each of `views`, pairs of a signal and its mask."""
        x, mask = map(torch.cat, zip(*views, strict=True))
        return models.embed(encoder, x, mask).chunk(len(views))

    @torch.no_grad()
    def targets(self, policy: str, views: list) -> torch.Tensor:
        """Outputs of a teacher: (view, batch, dim), before centre and temperature."""
        encoder, head = self.teachers[policy].copies
        return torch.stack([head(z).float() for z in self.embed(encoder, views)])

    def distillation(self, policy: str, targets, outputs, pairs) -> torch.Tensor:
        """Mean over `pairs` (teacher view, another view that the student sees) of the cross-entropy of outputs."""
        centre = self.centres[policy].value
        terms = [distil(outputs[v], targets[q], centre, self.t_student, self.t_teacher) for q, v in pairs]
        return torch.stack(terms).mean()

    def alignment(self, z: torch.Tensor, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """CLIP loss of clean embeddings z (batch, dim) with the enriched reports, and the share of records with one.
        Fewer than two reports have nothing to tell apart: 0."""
        meta = [batch.meta[name].tolist() if name in batch.meta else [None] * len(z) for name in META]
        texts = [enrich(report, *who) for report, *who in zip(batch.text, *meta, strict=True)]
        rows = [i for i, text in enumerate(texts) if text]
        share = torch.tensor(len(rows) / len(z), device=z.device)
        if len(rows) < 2:
            return z.new_zeros((), dtype=torch.float32), share
        words = torch.stack([_words(texts[i], self.text.in_features) for i in rows]).to(z.device)
        patient, z = batch.patient_id[rows].to(z.device), z[rows]
        same = (words[:, None] == words).all(-1) | (patient[:, None] == patient) if self.identical else None
        return symmetric(clip(z, self.text(words), self.scale(), same)), share

    def entropy(self, policy: str, targets: torch.Tensor) -> torch.Tensor:
        """Mean entropy of a teacher's targets over that of the uniform choice: 1 = it says nothing, 0 = it is sure."""
        logits = (targets - self.centres[policy].value) / self.t_teacher
        return torch.distributions.Categorical(logits=logits).entropy().mean() / math.log(logits.shape[-1])

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the teacher and the centre of the step that has just been taken; then it is the other one's turn."""
        policy = self.policy
        self.teachers[policy].update(self.encoder, self.heads[policy], momentum=self.momentum)
        if self.outputs is not None:
            self.centres[policy].update(self.outputs)
        self.outputs = None
        self.turn += 1
