"""Masked sentences of heartbeats, the second stage of HeartLang (arXiv 2502.10707).

The first stage, trained by `heartbeats`, gives every word of a record its number in the vocabulary; here half of the
words are hidden and the network names them from the rest. Only hidden words with signal count.
"""

import hashlib
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import beatwords, checkpoint, encoders, masking
from ecglib.encoders import beat_transformer
from ecglib.quantise import Vocabulary, perplexity
from ecglib.signals import EcgError
from ecglib.teacher import Teacher

PAPER = "HeartLang, arXiv 2502.10707"
ENCODER = "beat_transformer"
FIRST = "heartbeats"


def read_first(folder: str) -> tuple[nn.Module, Vocabulary]:
    """The encoder and the vocabulary that a training of `heartbeats` left in `folder`; EcgError where it did not."""
    path = Path(folder) / "objective.safetensors"
    if not folder or not path.is_file():
        fix = "train the objective heartbeats first and give its output folder as `first`"
        raise EcgError("heartlang needs the vocabulary of heartbeats", field="first", file=str(path), fix=fix)
    tensors, config = checkpoint.read(path)
    if config.get("objective") != FIRST:
        raise EcgError(f"{config.get('objective')} has no heartbeats", field="first", file=str(path), fix="see FIRST")
    encoder, _ = encoders.load(folder)
    codes = tensors["vocabulary.quantiser.codes"]
    vocabulary = Vocabulary(encoder.dim, *codes.shape)
    front = "vocabulary."
    vocabulary.load_state_dict({k.removeprefix(front): v for k, v in tensors.items() if k.startswith(front)})
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
    found = json.loads(description)
    config = found["encoder"]
    encoder = encoders.build(config.pop("encoder"), config.pop("size"), **config)
    return encoder, Vocabulary(encoder.dim, *found["codes"])


class Objective(nn.Module):
    """Mask vector and linear code head on the encoder; the first stage stands by, frozen.

    first: folder of the first stage, read once: its tensors are part of this objective's state, and `resolved` puts
    first_config, its shapes, in the place of the path, so that an artefact loads without the folder. mask_ratio: share
    of hidden words; whole_beats: hide a beat in all leads, else it can be read from the others. As published:
    bare_targets, the first stage does not see lead and time; score_pads, hidden padding counts. Raises EcgError without
    a first stage, and for one whose words are cut differently.
    """

    def __init__(
        self, encoder, first: str = "", mask_ratio: float = 0.5, whole_beats: bool = False, bare_targets: bool = False,
        score_pads: bool = False, first_config: str = "",
    ):  # fmt: skip
        super().__init__()
        beat_transformer.require(encoder, "heartlang")
        if not 0 < mask_ratio < 1:
            raise EcgError(f"mask_ratio={mask_ratio}", field="mask_ratio", fix="use a share between 0 and 1")
        known = first_config and not first
        speller, vocabulary = rebuild(first_config) if known else read_first(first)
        self.resolved = {"first": "", "first_config": first_config if known else describe(speller, vocabulary)}
        for what in ("fs", "n_leads", "tokenizer"):
            mine, its = getattr(encoder, what), getattr(speller, what)
            if mine != its:
                reason = f"{what} is {mine} here and {its} in the first stage"
                raise EcgError(reason, field=what, file=str(first), fix="cut both stages alike")
        self.encoder, self.first = encoder, Teacher(speller, vocabulary)
        self.mask_token = nn.Parameter(0.02 * torch.randn(encoder.dim))
        self.head = nn.Linear(encoder.dim, len(vocabulary.quantiser.codes))
        self.mask_ratio, self.whole_beats = mask_ratio, whole_beats
        self.bare_targets, self.score_pads = bare_targets, score_pads

    @torch.no_grad()
    def spell(self, words: beatwords.Words) -> torch.Tensor:
        """Number of every word in the vocabulary: int64 (batch, n)."""
        speller, vocabulary = self.first[0], self.first[1]
        return vocabulary.index(speller.sentence(words, bare=self.bare_targets)[:, 1:] * words.real[..., None])

    def hide(self, words: beatwords.Words) -> torch.Tensor:
        """Which words are hidden: bool (batch, n)."""
        batch, n = words.real.shape
        if not self.whole_beats:
            mask = masking.random_tokens(batch, n, round(n * (1 - self.mask_ratio)))[1].to(words.real.device)
        else:
            beat = beatwords.beat_numbers(words.lead)
            n_beats = int(beat.max()) + 1
            drawn = masking.random_tokens(batch, n_beats, round(n_beats * (1 - self.mask_ratio)))[1]
            mask = drawn.to(beat.device).gather(1, beat)
        return mask if self.score_pads else mask & words.real

    def logits(self, words: beatwords.Words, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of all codes for the hidden words, record by record: (number of hidden words, code)."""
        read = self.encoder.sentence(words, hidden, self.mask_token)[:, 1:]
        return self.head(read[hidden]).float()

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        words = self.encoder.words(batch.x, batch.peaks)
        hidden = self.hide(words)
        target, scores = self.spell(words)[hidden], self.logits(words, hidden)
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
