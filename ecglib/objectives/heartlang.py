"""Masked sentences of heartbeats, the second stage of HeartLang (arXiv 2502.10707).

The first stage, trained by `heartlang_vq`, gives every word of a record its number in the vocabulary; here half of the
words are hidden and the network names them from the rest. Only hidden words with signal count.
"""

import hashlib
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError, models
from ecglib.models import beat_tokenizer
from ecglib.models.encoders import beat_transformer
from ecglib.models.quantizers import Vocabulary, perplexity
from ecglib.training import checkpoint, masking
from ecglib.training.ema import Teacher

PAPER = "HeartLang, arXiv 2502.10707"
ENCODER = "beat_transformer"
LEARNED = {"accuracy": (">", 2, "majority")}
FIRST = "heartlang_vq"


def read_first(folder: str) -> tuple[nn.Module, Vocabulary]:
    """The encoder and the vocabulary that a training of `heartlang_vq` left in `folder`; EcgError where it did not."""
    path = Path(folder) / "objective.safetensors"
    if not folder or not path.is_file():
        fix = "train the objective heartlang_vq first and give its output folder as `first`"
        raise EcgError("heartlang needs the vocabulary of heartbeats", field="first", file=str(path), fix=fix)
    tensors, config = checkpoint.read(path)
    if config.get("objective") != FIRST:
        raise EcgError(f"{config.get('objective')} has no heartbeats", field="first", file=str(path), fix="see FIRST")
    encoder, _ = models.load(folder)
    codes = tensors["vocabulary.quantiser.codes"]
    vocabulary = Vocabulary(encoder.dim, *codes.shape)
    own = {k.removeprefix("vocabulary."): v for k, v in tensors.items() if k.startswith("vocabulary.")}
    vocabulary.load_state_dict(own)
    return encoder, vocabulary


def describe(encoder: nn.Module, vocabulary: Vocabulary) -> str:
    """JSON from which `rebuild` makes networks of the same shapes, with a digest that tells apart other weights."""
    digest = hashlib.sha256()
    for value in (*encoder.state_dict().values(), *vocabulary.state_dict().values()):
        digest.update(value.cpu().numpy().tobytes())
    shapes = {"encoder": encoder.config, "codes": list(vocabulary.quantiser.codes.shape)}
    return json.dumps({**shapes, "sha256": digest.hexdigest()}, sort_keys=True)


def rebuild(description: str) -> tuple[nn.Module, Vocabulary]:
    """Encoder and vocabulary of `describe`, with weights of no meaning: the artefact of heartlang holds the trained."""
    shapes = json.loads(description)
    config = shapes["encoder"]
    encoder = models.build(config.pop("encoder"), config.pop("size"), **config)
    return encoder, Vocabulary(encoder.dim, *shapes["codes"])


class Objective(nn.Module):
    """Mask vector and linear code head on the encoder; the first stage stands by, frozen.
    It is read once: its tensors are part of this objective's state, and first_config, its shapes, takes the place of
    the path, so that an artefact loads without the folder. EcgError without one, and for one whose words are cut
    differently."""

    def __init__(
        self,
        encoder,
        first: str = "",  # folder of the first stage
        mask_ratio: float = 0.5,  # share of hidden words
        whole_beats: bool = False,  # hide a beat in all leads, else it can be read from the others
        bare_targets: bool = False,  # the first stage does not see lead and time (as published)
        score_pads: bool = False,  # hidden padding counts (as published)
        first_config: str = "",
    ):
        super().__init__()
        beat_transformer.require(encoder, "heartlang")
        if not 0 < mask_ratio < 1:
            raise EcgError(f"mask_ratio={mask_ratio}", field="mask_ratio", fix="use a share between 0 and 1")
        known = first_config and not first
        speller, vocabulary = rebuild(first_config) if known else read_first(first)
        self.resolved = {"first": "", "first_config": first_config if known else describe(speller, vocabulary)}
        for name in ("fs", "n_leads", "tokenizer"):
            mine, its = getattr(encoder, name), getattr(speller, name)
            if mine != its:
                reason = f"{name} is {mine} here and {its} in the first stage"
                raise EcgError(reason, field=name, file=str(first), fix="cut both stages alike")
        self.encoder, self.first = encoder, Teacher(speller, vocabulary)
        self.mask_token = nn.Parameter(0.02 * torch.randn(encoder.dim))
        self.head = nn.Linear(encoder.dim, len(vocabulary.quantiser.codes))
        self.mask_ratio, self.whole_beats = mask_ratio, whole_beats
        self.bare_targets, self.score_pads = bare_targets, score_pads

    @torch.no_grad()
    def spell(self, words: beat_tokenizer.Words, which: torch.Tensor | None = None) -> torch.Tensor:
        """Number of every word in the vocabulary, int64 (batch, n); with which, bool (batch, n), of those words only,
        record by record: (word,)."""
        speller, vocabulary = self.first[0], self.first[1]
        states = speller.sentence(words, bare=self.bare_targets)[:, 1:] * words.real[..., None]
        return vocabulary.index(states if which is None else states[which])

    def hide(self, words: beat_tokenizer.Words) -> torch.Tensor:
        """Which words are hidden: bool (batch, n)."""
        batch, n = words.real.shape
        if not self.whole_beats:
            mask = masking.random_tokens(batch, n, round(n * (1 - self.mask_ratio)))[1].to(words.real.device)
        else:
            beat = beat_tokenizer.beat_numbers(words.lead)
            n_beats = int(beat.max()) + 1
            drawn = masking.random_tokens(batch, n_beats, round(n_beats * (1 - self.mask_ratio)))[1]
            mask = drawn.to(beat.device).gather(1, beat)
        return mask if self.score_pads else mask & words.real

    def logits(self, words: beat_tokenizer.Words, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of all codes for the hidden words, record by record: (number of hidden words, code)."""
        states = self.encoder.sentence(words, hidden, self.mask_token)[:, 1:]
        return self.head(states[hidden]).float()

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        words = self.encoder.words(batch.x, batch.peaks)
        hidden = self.hide(words)
        target, scores = self.spell(words, hidden), self.logits(words, hidden)
        n = max(1, len(target))
        loss = F.cross_entropy(scores, target, reduction="sum") / n
        counts = torch.bincount(target, minlength=self.head.out_features)
        logs = {"accuracy": (scores.argmax(-1) == target).sum() / n, "majority": counts.max() / n}
        return loss, logs | {"perplexity": perplexity(target, self.head.out_features)}


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of this objective but the first stage's, from a released sentence model; EcgError for unknown ones."""
    encoder = {f"encoder.{k}": v for k, v in beat_transformer.from_published(state).items()}
    own = {"mask_token": state["mask_token"].flatten()}
    return encoder | own | {f"head.{leaf}": state[f"lm_head.{leaf}"] for leaf in ("weight", "bias")}
