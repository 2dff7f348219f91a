"""A transformer over heartbeats, the network of HeartLang (arXiv 2502.10707): one token per beat and lead.

Each 0.96 s word is embedded on its own, so that a hidden word cannot be read from its neighbours, and nothing attends
to padding. The published network convolves over neighbouring words, first beside last, and attends to padding:
`convolve` and `attend_pads`. The record's feature is the class token after the last LayerNorm, as published.
"""

import torch
from torch import nn
from torch.nn.functional import pad

from ecglib import EcgError
from ecglib.data import rpeaks
from ecglib.models import beat_tokenizer, released
from ecglib.models.layers import Block

SMALL = dict(dim=64, depth=2, heads=4, head_width=16, hidden=128, limit=240)
BASE = dict(dim=768, depth=12, heads=8, head_width=64, hidden=1024, dropout=0.1)
GROUPS = 4  # of records of like length
PUBLISHED = dict(limit=256, order="lead", convolve=True, attend_pads=True, fallback=False)
SIZES = {
    "small": SMALL,  # heartlang.md section 9
    "vq_small": {**SMALL, "depth": 1},  # its first stage
    "heartlang": {**BASE, **PUBLISHED},
    "vqhbr": {**BASE, "depth": 4, "heads": 2, "hidden": 2048, "dropout": 0.0, **PUBLISHED},
    # the published width and depth without the published defects; 480 tokens are 240 beats a minute in 12 leads
    "medium": {**BASE, "limit": 480},
    "large": {**BASE, "limit": 480},
}


class Sentence(nn.Module):
    """Transformer over the tokens of `beat_tokenizer.Words`, each of `width` values."""

    def __init__(self, width, n_leads, dim, depth, heads, head_width, hidden, limit, dropout, convolve, attend_pads):
        super().__init__()
        self.attend_pads = attend_pads
        if convolve:
            self.embed = nn.Conv1d(width, dim, 3, padding=1, padding_mode="circular", bias=False)
        else:
            self.embed = nn.Linear(width, dim, bias=False)
        self.lead, self.time = nn.Embedding(max(16, n_leads + 1), dim), nn.Embedding(16, dim)
        self.class_token = nn.Parameter(torch.empty(dim))
        self.positions = nn.Parameter(torch.empty(limit + 1, dim))
        for table in (self.lead.weight, self.time.weight, self.class_token, self.positions):
            nn.init.trunc_normal_(table, std=0.02)
        layer = dict(inner=heads * head_width, qkv_bias=False, dropout=dropout, eps=1e-5)
        self.blocks = nn.ModuleList(Block(dim, heads, hidden, **layer) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, words: beat_tokenizer.Words, hidden=None, mask_token=None, bare: bool = False) -> torch.Tensor:
        """(batch, 1 + n, dim): the class token, then one vector per word, zero for padding that is not attended to.
        hidden: bool (batch, n), words whose embedding is replaced by mask_token (dim,). bare: leave lead and time
        out."""
        convolved = isinstance(self.embed, nn.Conv1d)
        h = self.embed(words.tokens.mT).mT if convolved else self.embed(words.tokens)
        if hidden is not None:
            h = torch.where(hidden[..., None], mask_token.to(h), h)
        if not bare:
            h = h + self.lead(words.lead) + self.time(words.time.clamp(max=self.time.num_embeddings - 1))
        h = torch.cat([self.class_token.expand(len(h), 1, -1).to(h), h], 1) + self.positions[: h.shape[1] + 1]
        return self._layers(h) if self.attend_pads else self._by_length(h, pad(words.real, (1, 0), value=True))

    def _layers(self, h, mask=None):
        for block in self.blocks:
            h = block(h, mask=mask)
        return self.norm(h)

    def _by_length(self, h, real):
        """The layers on h (batch, n, dim), in GROUPS groups of like length: half of a batch can be padding."""
        length = (real * torch.arange(1, real.shape[1] + 1, device=real.device)).amax(1)
        rank = length.argsort(stable=True)
        groups = []
        for rows in rank.tensor_split(min(GROUPS, max(1, len(h)))):
            n = int(length[rows[-1:]].sum())
            states = self._layers(h[rows, :n], real[rows, None, None, :n])
            groups.append(pad(states, (0, 0, 0, h.shape[1] - n)))
        return torch.cat(groups)[rank.argsort()] * real[..., None]


class Encoder(nn.Module):
    """x (batch, n_leads, time) at `fs` Hz -> z (batch, dim), the class token. R peaks are given, or found on the CPU;
    limit, order, fallback: see `beat_tokenizer.tokenize`. Raises EcgError for a limit that holds no beat of all
    leads."""

    def __init__(
        self,
        n_leads=12,
        fs=100.0,
        dim=64,
        depth=2,
        heads=4,
        head_width=16,
        hidden=128,
        limit=240,
        order="time",
        fallback=True,
        dropout=0.0,
        convolve=False,
        attend_pads=False,
    ):
        super().__init__()
        self.dim, self.n_leads, self.fs = dim, n_leads, float(fs)
        self.tokenizer = dict(limit=limit, order=order, fallback=fallback, full=attend_pads)
        sizes = dict(dim=dim, heads=heads, head_width=head_width, hidden=hidden, limit=limit, dropout=dropout)
        self.body = dict(n_leads=n_leads, **sizes, convolve=convolve, attend_pads=attend_pads)
        if limit < n_leads:
            raise EcgError(f"{limit} words hold no beat of {n_leads} leads", field="limit", fix="raise it")
        self.sentence = Sentence(beat_tokenizer.WIDTH, depth=depth, **self.body)

    def words(self, x: torch.Tensor, peaks: torch.Tensor | None = None) -> beat_tokenizer.Words:
        """The words of x (batch, n_leads, time). peaks: int64 (batch, n) samples of x, -1 = none; None: find them."""
        if x.ndim != 3 or x.shape[1] != self.n_leads:
            raise EcgError(f"x {tuple(x.shape)} for {self.n_leads} leads", field="x", fix="give (batch, lead, time)")
        peaks = find_peaks(x, self.fs) if peaks is None else peaks
        return beat_tokenizer.tokenize(x, peaks, self.fs, **self.tokenizer)

    def decoder(self, width: int, depth: int) -> Sentence:
        """A network with the numbers of this one that reads vectors of `width` values in place of the words."""
        return Sentence(width, depth=depth, **self.body)

    def tokens(self, x: torch.Tensor, peaks: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, word, dim) in the order of `words`; zero for padding."""
        words = self.words(x, peaks)
        return self.sentence(words)[:, 1:] * words.real[..., None]

    def forward(self, x: torch.Tensor, peaks: torch.Tensor | None = None) -> torch.Tensor:
        return self.sentence(self.words(x, peaks))[:, 0]


def find_peaks(x: torch.Tensor, fs: float) -> torch.Tensor:
    """R peaks of each record of x (batch, lead, time) at fs Hz: int64 (batch, n) on the CPU, padded with -1."""
    peaks = [torch.from_numpy(rpeaks.r_peaks(record, fs)) for record in x.detach().float().cpu().numpy()]
    return nn.utils.rnn.pad_sequence(peaks, batch_first=True, padding_value=-1)


def require(encoder: nn.Module, method: str) -> None:
    """Raise EcgError unless the encoder reads heartbeats, which `method` learns from."""
    if not isinstance(encoder, Encoder):
        reason = f"{method} reads heartbeats, {type(encoder).__module__} does not"
        raise EcgError(reason, field="encoder", fix="use the encoder beat_transformer")


LAYER = {  # released name -> ours
    "0.norm": "norm1",
    "0.to_qkv": "attention.qkv",
    "0.to_out.0": "attention.out",
    "1.net.0": "norm2",
    "1.net.1": "fc1",
    "1.net.4": "fc2",
}
NAMES = [
    ("cls_token", "class_token"),
    ("pos_embed", "positions"),
    (r"token_embed\.tokenConv\.weight", "embed.weight"),
    (r"spa_embed\.embed\.weight", "lead.weight"),
    (r"tem_embed\.embed\.weight", "time.weight"),
    (r"norm_layer\.(weight|bias)", r"norm.\1"),
    *((rf"transformer\.layers\.(\d+)\.{name}\.(weight|bias)", rf"blocks.\1.{ours}.\2") for name, ours in LAYER.items()),
]


def published_sentence(state: dict[str, torch.Tensor], unused: str = "") -> dict[str, torch.Tensor]:
    """Released tensors of one published network under the names of `Sentence`; unused: as in `released.rename`."""
    ours = released.rename(state, NAMES, "a HeartLang network", unused)
    return ours | ({"positions": ours["positions"][0]} if "positions" in ours else {})


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of this encoder from a released sentence model, without mask token and head (`heartlang.from_published`).
    Raises EcgError for a tensor that it does not know."""
    ours = published_sentence(state, r"mask_token|lm_head\.(weight|bias)")
    return {f"sentence.{name}": value for name, value in ours.items()}
