"""MELP (arXiv 2506.21803): an ECG and its report agree as a whole, word by word, and sentence by beat.

Rhythm: the mean of the beat embeddings and the whole report find each other (CLIP). Token: a decoder that sees the ECG
writes the report. Beat: every sentence of a report finds the beats that it describes.

Ours: a small causal text encoder trained along (`text_encoder` names a pretrained one); sentences attend to beats by
cosine alone, since the published first softmax, over the sentences of a report, is 1 where there is one sentence and
makes that attention uniform; lead masking leaves one lead; records without a report are left out by a row mask.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError, models
from ecglib.models.encoders.wav2vec import Pooler
from ecglib.models.layers import Block
from ecglib.models.text import PAD, UNKNOWN, PretrainedTextEncoder, TextEncoder, sentence_of, vocabulary, was_cut
from ecglib.training.losses import Scale, clip, cosine, direction, halves, symmetric
from ecglib.training.masking import lead_drop

PAPER = "MELP, arXiv 2506.21803"
ENCODER = "wav2vec"
LEARNED = {"rhythm": ("<", 0.8, "first")}
READS_REPORTS = True
ATTENTION = ("regions", "published")


def from_data(data) -> dict:
    """The words of the training reports. EcgError where no record has a report."""
    return {"vocabulary": vocabulary(data.texts)}


def matching(beats, sentences, present, attention: str = "regions") -> torch.Tensor:
    """How well each report fits each ECG, float32 (ecg, report): 10 log sum_w exp(5 cos(sentence_w, context_w)).
    beats (ecg, beat, dim), sentences (report, sentence, dim), present bool (report, sentence). A sentence's context is
    the sum of the beats weighted by a softmax over them of 4 a: a is their cosine, or (attention "published") a softmax
    over the sentences of the report of their dot products."""
    with torch.autocast(beats.device.type, enabled=False):
        beats, sentences = beats.float(), sentences.float()
        dot = torch.einsum("ird,jwd->ijwr", beats, direction(sentences))  # with sentences of length 1
        if attention == "published":
            a = dot * sentences.norm(dim=-1)[:, :, None]
            a = a.masked_fill(~present[:, :, None], -math.inf).softmax(2)
        else:
            a = dot / beats.norm(dim=-1)[:, None, None].clamp_min(1e-6)
        weight = (4 * a).softmax(-1)
        # length of the context by way of the products among the beats: (ecg, report, sentence, dim) would be large
        square = (torch.einsum("ijwr,irq->ijwq", weight, beats @ beats.mT) * weight).sum(-1)
        near = (weight * dot).sum(-1) / square.clamp_min(1e-12).sqrt()
        return 10 * (5 * near).masked_fill(~present, -math.inf).logsumexp(-1)


def means(states: torch.Tensor, sentence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Token states (batch, token, dim) -> (means float32 (batch, sentence, dim), present (batch, sentence)); sentence:
    int64 (batch, token), the number of each token's sentence, -1 for none."""
    member = F.one_hot(sentence + 1)[..., 1:].float()
    count = member.sum(1).unsqueeze(-1)
    with torch.autocast(states.device.type, enabled=False):
        return (member.mT @ states.float()) / count.clamp_min(1), count.squeeze(-1) > 0


class Objective(nn.Module):
    """rhythm * CLIP + token * captioning + beat * matching of sentences and beats. EcgError for a batch without a
    report."""

    def __init__(
        self,
        encoder,
        vocabulary: str = "",  # words of the reports (`from_data`)
        rhythm: float = 1.0,  # weight, as the next two
        token: float = 2.0,
        beat: float = 0.2,
        lead_dropout: float = 0.5,  # chance of a lead to be zeroed in training, never all
        attention: str = "regions",  # or "published", see `matching`
        shared: int = 64,  # width in which ECG and report meet
        beat_queries: int = 10,  # for encoders without beat queries of their own
        caption_queries: int = 16,  # what the decoder sees of an ECG
        decoder_depth: int = 1,  # layers
        heads: int = 4,
        text_encoder: str = "",  # a BERT-like model at Hugging Face; "" = an own small one of
        text_dim: int = 96,
        text_depth: int = 1,  # layers
        text_length: int = 32,  # tokens of a report, the rest is cut (log `cut`)
        identical: bool = True,  # False, as published: every other record is a negative
    ):
        super().__init__()
        if attention not in ATTENTION:
            raise EcgError(f"attention={attention!r}", field="attention", fix=f"use one of {', '.join(ATTENTION)}")
        self.encoder, token_dim = encoder, getattr(encoder, "token_dim", encoder.dim)
        own = getattr(encoder, "pooler", None) is not None
        self.beat_pooler = None if own else Pooler(token_dim, shared, heads, beat_queries)
        self.project = nn.Linear(encoder.dim if own else shared, shared, bias=False)
        if text_encoder:
            self.text = PretrainedTextEncoder(text_encoder, text_length)
        else:
            self.text = TextEncoder(vocabulary, text_dim, text_depth, heads, text_length)
        width = self.text.dim
        self.project_text = nn.Sequential(nn.Linear(width, shared), nn.GELU(), nn.Linear(shared, shared))
        self.project_sentence = nn.Linear(width, shared)
        self.caption_pooler = Pooler(token_dim, width, heads, caption_queries)
        self.decoder = nn.ModuleList(Block(width, heads, 2 * width, context_dim=width) for _ in range(decoder_depth))
        self.norm, self.words = nn.LayerNorm(width), nn.Linear(width, self.text.tokenizer.size)
        self.clip_scale, self.identical = Scale(), identical
        self.weights, self.lead_dropout, self.attention = (rhythm, token, beat), lead_dropout, attention

    @property
    def scale(self) -> torch.Tensor:
        """1/T of the rhythm term."""
        return self.clip_scale()

    def beats(self, tokens: torch.Tensor) -> torch.Tensor:
        """Beat embeddings of encoder tokens (batch, token, token_dim): (batch, query, shared)."""
        pooler = self.encoder.beats if self.beat_pooler is None else self.beat_pooler
        return self.project(pooler(tokens))

    def embed(self, x: torch.Tensor, lead_mask: torch.Tensor | None = None) -> torch.Tensor:
        """x (batch, lead, time) -> (batch, shared), to be compared with `embed_text` by cosine."""
        return self.beats(models.tokens(self.encoder, x, lead_mask)).mean(1)

    def embed_text(self, texts) -> torch.Tensor:
        """Texts -> (text, shared)."""
        return self.project_text(self.text(self.text.tokenizer(texts).to(self.clip_scale.log.device))[1])

    def knows(self, text: str) -> bool:
        """Whether the text encoder knows every word of `text`."""
        return not (self.text.tokenizer([text]) == UNKNOWN).any()

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        ids, (x, lead_mask) = self.text.tokenizer(batch.text), self.view(batch)
        rows = (sentence_of(ids) >= 0).any(1).nonzero().squeeze(1)
        if not len(rows):
            raise EcgError("no record of this batch has a report", field="report", fix="train on a cohort with reports")
        on_device = rows.to(x.device)
        ids, x, lead_mask = ids[rows].to(x.device), x[on_device], lead_mask[on_device]
        tokens, (states, whole) = models.tokens(self.encoder, x, lead_mask), self.text(ids)
        beats, reports = self.beats(tokens), self.project_text(whole)
        same = self.together(ids, batch.patient_id[rows.to(batch.patient_id.device)].to(x.device))
        rhythm = symmetric(clip(beats.mean(1), reports, self.scale, same))
        token, right = self.caption(tokens, states, ids)
        vectors, present = means(states, sentence_of(ids))
        s = matching(beats, self.project_sentence(vectors), present, self.attention)
        beat = symmetric(halves(s, same))
        loss = sum(w * term for w, term in zip(self.weights, (rhythm, token, beat), strict=True))
        logs = {"rhythm": rhythm, "token": token, "beat": beat, "scale": self.scale, "words": right}
        logs |= {"retrieval": retrieval(beats.mean(1), reports, ids), "cut": was_cut(ids).float().mean()}
        logs |= {"unknown": ((ids == UNKNOWN).sum() / (sentence_of(ids) >= 0).sum()).float()}
        logs |= {"reports": torch.tensor(len(rows) / len(batch.text), device=x.device)}
        return loss, {name: value.detach() for name, value in logs.items()}

    def together(self, ids: torch.Tensor, patient_id: torch.Tensor) -> torch.Tensor | None:
        """Which of the reports ids (batch, token) go with which ECGs: bool (batch, batch), None = each with its own."""
        if not self.identical:
            return None
        return (ids[:, None] == ids).all(-1) | (patient_id[:, None] == patient_id)

    def view(self, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, lead, time) and its lead_mask (batch, lead); in training with random leads zeroed."""
        if not (self.training and self.lead_dropout):
            return batch.x, batch.lead_mask
        kept = lead_drop(*batch.x.shape[:2], self.lead_dropout, batch.lead_mask).to(batch.x.device)
        return batch.x * kept.unsqueeze(-1), kept & batch.lead_mask

    def caption(self, tokens, states, ids) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of each next token of the reports ids (batch, token), PADs left out, and the share that the
        decoder gets right; it sees the states of the tokens before, and the ECG."""
        seen, h = self.caption_pooler(tokens), states[:, :-1]
        for block in self.decoder:
            h = block(h, seen, causal=True)
        real = ids[:, 1:] != PAD
        logits, target = self.words(self.norm(h[real])).float(), ids[:, 1:][real]
        return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean()


@torch.no_grad()
def retrieval(z: torch.Tensor, reports: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Share of ECGs z (batch, dim) whose nearest report (batch, dim) says the same, token by token, as their own."""
    nearest = cosine(z, reports).argmax(1)
    return (ids == ids[nearest]).all(1).float().mean()
