"""Reports as numbers: sentences, words, a vocabulary, hashed bags of words, and causal text encoders.

Words are lower case; a number of two digits or more is the word "#": a rate or an interval is a matter of the signal,
and every number as a word of its own would fill the vocabulary. The text encoders number their tokens alike: PAD,
UNKNOWN, BEGIN, END, STOP (the end of a sentence), then their words from SPECIAL on.
"""

import hashlib
import importlib
import re
from collections import Counter
from functools import lru_cache

import torch
from torch import nn

from ecglib import EcgError
from ecglib.models.layers import Block

PAD, UNKNOWN, BEGIN, END, STOP = range(5)
SPECIAL = 5  # ids before the first word


def sentences(report: str) -> list[str]:
    """Sentences of a report, without blanks and stops around them: up to a full stop, a semicolon or the end of a
    line."""
    stripped = (piece.strip(" \t\r.") for piece in re.split(r"\.(?=\s|$)|;|\n", report))
    return [sentence for sentence in stripped if words(sentence)]


def words(text: str) -> list[str]:
    """Words of a text in lower case, in order: runs of letters and digits, with "#" for two digits or more."""
    return re.findall(r"[\w#]+", re.sub(r"\d{2,}", "#", text.replace("#", " ").replace("_", " ").lower()))


def vocabulary(texts, size: int = 200) -> str:
    """The `size` most frequent words of `texts`, equals in alphabetical order, with one blank between; EcgError where
    there is none."""
    count = Counter(word for text in texts for word in words(text))
    if not count:
        raise EcgError("no report has a word", field="report", fix="train on a cohort with reports")
    return " ".join(sorted(count, key=lambda word: (-count[word], word))[:size])


@lru_cache(maxsize=2**16)
def _column(word: str, dim: int, seed: int) -> tuple[int, float]:
    """Column and sign of a word; not Python's hash, which differs from process to process."""
    code = hashlib.blake2b(word.encode(), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    code = int.from_bytes(code, "little")
    return (code >> 1) % dim, 1.0 if code & 1 else -1.0


def bag(texts, dim: int, seed: int = 0) -> torch.Tensor:
    """Hashed bags of words: texts -> float32 (text, dim) of unit length, zero for a text without a word. Every word
    adds +1 or -1 to one column, both decided by its hash and `seed`."""
    out = torch.zeros(len(texts), dim)
    for line, text in zip(out, texts, strict=True):
        for word in words(text):
            column, sign = _column(word, dim, seed)
            line[column] += sign
    return nn.functional.normalize(out, dim=1)


class Tokenizer:
    """Texts -> ids int64 (text, length): BEGIN, the words of each sentence with STOP between sentences, END, PADs.
    vocabulary: as `vocabulary` makes it; other words are UNKNOWN. A text that is too long has no END (`was_cut`). size:
    number of ids. EcgError for an empty vocabulary."""

    def __init__(self, vocabulary: str, length: int):
        known = vocabulary.split()
        if not known or length < 3:
            reason = f"{len(known)} words, length {length}"
            fix = "give the words of the training reports: objectives.from_data or ecglib.text.vocabulary"
            raise EcgError(reason, field="vocabulary" if not known else "length", fix=fix)
        self.length, self.size = length, SPECIAL + len(known)
        self._id = {word: i for i, word in enumerate(known, SPECIAL)}

    def sentence(self, text: str) -> list[int]:
        """Ids of the words of one sentence."""
        return [self._id.get(word, UNKNOWN) for word in words(text)]

    def __call__(self, texts) -> torch.Tensor:
        out = torch.full((len(texts), self.length), PAD)
        for line, text in zip(out, texts, strict=True):
            ids = [BEGIN]
            for sentence in sentences(text):
                ids += ([STOP] if len(ids) > 1 else []) + self.sentence(sentence)
            ids = [*ids, END][: self.length]
            line[: len(ids)] = torch.tensor(ids)
        return out


def was_cut(ids: torch.Tensor) -> torch.Tensor:
    """Which rows of ids (text, length) were too long: bool (text,)."""
    return (ids[:, -1] != PAD) & (ids[:, -1] != END)


def sentence_of(ids: torch.Tensor) -> torch.Tensor:
    """Number of the sentence that each token belongs to, from 0; -1 for what is no word: int64 (text, length)."""
    number = (ids == STOP).cumsum(1)
    return torch.where((ids == UNKNOWN) | (ids >= SPECIAL), number, -1)


class TextEncoder(nn.Module):
    """A small causal transformer: ids (text, length) -> (states (text, length, dim), whole (text, dim)); the class
    token at the end sees the whole text and becomes `whole`. States at PADs mean nothing."""

    def __init__(self, vocabulary: str, dim: int = 96, depth: int = 1, heads: int = 4, length: int = 32):
        super().__init__()
        self.tokenizer, self.dim = Tokenizer(vocabulary, length), dim
        self.embed = nn.Embedding(self.tokenizer.size, dim)
        self.positions = nn.Parameter(torch.randn(length, dim) * 0.02)
        self.token = nn.Parameter(torch.randn(dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, heads, 2 * dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.embed(ids) + self.positions
        x = torch.cat([x, self.token.expand(len(ids), 1, -1)], 1)
        real = nn.functional.pad(ids != PAD, (0, 1), value=True)
        before = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=ids.device).tril()
        mask = before & real[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask=mask)
        x = self.norm(x)
        return x[:, :-1], x[:, -1]


class PretrainedTokenizer(Tokenizer):
    """The word pieces of a Hugging Face tokenizer, numbered as everywhere here: its id + SPECIAL."""

    def __init__(self, theirs, length: int):
        self.theirs, self.length, self.size = theirs, length, SPECIAL + len(theirs)

    def sentence(self, text: str) -> list[int]:
        ids = self.theirs(text, add_special_tokens=False)["input_ids"]
        return [UNKNOWN if i == self.theirs.unk_token_id else i + SPECIAL for i in ids]


class PretrainedTextEncoder(nn.Module):
    """A BERT-like language model from Hugging Face, used causally, with the interface of `TextEncoder`.
    name: of the model, or a folder; frozen: number of its first layers that stay as they are, with the embeddings.
    EcgError where the package or the model is missing, or the model has no such layers."""

    def __init__(self, name: str, length: int = 128, frozen: int = 6):
        super().__init__()
        theirs, self.model = _pretrained(name)
        layers = getattr(getattr(self.model, "encoder", None), "layer", None)
        if layers is None or theirs.cls_token_id is None or theirs.sep_token_id is None:
            fix = "use a BERT-like model, such as ncbi/MedCPT-Query-Encoder"
            raise EcgError(f"{name} has no class token or no encoder.layer", field="text_encoder", fix=fix)
        self.frozen = frozen
        for module in self.frozen_modules():
            module.requires_grad_(False)
        self.model.pooler = None  # a head on the first token, which sees nothing of a causal text
        self.tokenizer, self.dim = PretrainedTokenizer(theirs, length), self.model.config.hidden_size
        stop = (theirs(".", add_special_tokens=False)["input_ids"] or [theirs.sep_token_id])[0]
        begin = theirs.sep_token_id if theirs.bos_token_id is None else theirs.bos_token_id
        unknown = theirs.sep_token_id if theirs.unk_token_id is None else theirs.unk_token_id
        known = [theirs.sep_token_id, unknown, begin, theirs.sep_token_id, stop]  # PADs are never attended to
        self.register_buffer("special", torch.tensor(known), persistent=False)
        self.class_id = theirs.cls_token_id

    def frozen_modules(self) -> tuple:
        """The modules that are not trained."""
        return (self.model.embeddings, *self.model.encoder.layer[: self.frozen]) if self.frozen else ()

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self.frozen_modules():  # dropout in what cannot learn from it is noise
            module.eval()
        return self

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        theirs = torch.where(ids < SPECIAL, self.special[ids.clamp(max=SPECIAL - 1)], ids - SPECIAL)
        theirs = nn.functional.pad(theirs, (0, 1), value=self.class_id)
        real = nn.functional.pad(ids != PAD, (0, 1), value=True)
        x = self.model(input_ids=theirs, attention_mask=real.long()).last_hidden_state
        return x[:, :-1], x[:, -1]


def _pretrained(name: str):
    """(tokenizer, model) of a Hugging Face model in its causal form; its weights as safetensors only."""
    try:
        transformers = importlib.import_module("transformers")  # optional: no dependency of ours
    except ImportError as error:
        fix = "pip install transformers, or leave text_encoder empty"
        raise EcgError("the package transformers is not installed", field="text_encoder", fix=fix) from error
    try:
        theirs = transformers.AutoTokenizer.from_pretrained(name)
        model = transformers.AutoModel.from_pretrained(name, is_decoder=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        fix = "download it (huggingface-cli download), or leave text_encoder empty"
        raise EcgError(f"{name} is not here: {error}", field="text_encoder", fix=fix) from error
    return theirs, model
