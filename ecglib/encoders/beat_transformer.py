"""A transformer over heartbeats, the network of HeartLang (arXiv 2502.10707): one token per beat and lead.

Each 0.96 s word is embedded on its own, so that a hidden word cannot be read from its neighbours, and padding is not
looked at. The published network convolves over neighbouring words, first beside last, and looks at padding: `convolve`
and `attend_pads`. The record's feature is the class token after the last LayerNorm, as published.
"""

import torch
from torch import nn
from torch.nn.functional import pad

from ecglib import beats, beatwords
from ecglib.layers import Block
from ecglib.signals import EcgError

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
    """Transformer over the tokens of `beatwords.Words`, each of `width` values; n_leads: of the signal behind them."""

    def __init__(
        self, width, n_leads, dim, depth, heads, head_width, hidden, limit, dropout=0.0, convolve=False,
        attend_pads=False,
    ):  # fmt: skip
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
        inner = heads * head_width
        layer = dict(inner=inner, qkv_bias=False, dropout=dropout, eps=1e-5)
        self.blocks = nn.ModuleList(Block(dim, heads, hidden, **layer) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, words: beatwords.Words, hidden=None, mask_token=None, bare: bool = False) -> torch.Tensor:
        """(batch, 1 + n, dim): the class token, then one vector per word, zero for padding that is not attended to.

        hidden: bool (batch, n), words whose embedding is replaced by mask_token (dim,). bare: leave lead and time out.
        Seconds beyond the time table (15) share its last row.
        """
        if isinstance(self.embed, nn.Conv1d):
            h = self.embed(words.tokens.transpose(1, 2)).transpose(1, 2)
        else:
            h = self.embed(words.tokens)
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
        parts = []
        for rows in rank.tensor_split(min(GROUPS, max(1, len(h)))):
            n = int(length[rows[-1:]].sum())
            part = self._layers(h[rows, :n], real[rows, None, None, :n])
            parts.append(pad(part, (0, 0, 0, h.shape[1] - n)))
        return torch.cat(parts)[rank.argsort()] * real[..., None]


class Encoder(nn.Module):
    """x (batch, n_leads, time) at `fs` Hz, any number of samples -> z (batch, dim), the class token.

    R peaks are given, or found on the CPU. Signals at other rates are taken to 100 Hz. limit: most words of a record;
    order and fallback: see `beatwords.tokenize`. Raises EcgError for a limit that holds no beat of all leads.
    """

    def __init__(
        self, n_leads=12, fs=100.0, dim=64, depth=2, heads=4, head_width=16, hidden=128, limit=240, order="time",
        fallback=True, dropout=0.0, convolve=False, attend_pads=False,
    ):  # fmt: skip
        super().__init__()
        self.dim, self.n_leads, self.fs = dim, n_leads, float(fs)
        self.tokenizer = dict(limit=limit, order=order, fallback=fallback, full=attend_pads)
        self.body = dict(
            n_leads=n_leads, dim=dim, heads=heads, head_width=head_width, hidden=hidden, limit=limit, dropout=dropout,
            convolve=convolve, attend_pads=attend_pads,
        )  # fmt: skip
        if limit < n_leads:
            raise EcgError(f"{limit} words hold no beat of {n_leads} leads", field="limit", fix="raise it")
        self.sentence = Sentence(beatwords.WIDTH, depth=depth, **self.body)

    def words(self, x: torch.Tensor, peaks: torch.Tensor | None = None) -> beatwords.Words:
        """The words of x (batch, n_leads, time). peaks: int64 (batch, n) samples of x, -1 = none; None: find them."""
        if x.ndim != 3 or x.shape[1] != self.n_leads:
            raise EcgError(f"x {tuple(x.shape)} for {self.n_leads} leads", field="x", fix="give (batch, lead, time)")
        peaks = find_peaks(x, self.fs) if peaks is None else peaks
        return beatwords.tokenize(x, peaks, self.fs, **self.tokenizer)

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
    found = [torch.from_numpy(beats.r_peaks(record, fs)) for record in x.detach().float().cpu().numpy()]
    return nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-1)


def require(encoder: nn.Module, method: str) -> None:
    """Raise EcgError unless the encoder reads heartbeats, which `method` learns from."""
    if not isinstance(encoder, Encoder):
        reason = f"{method} reads heartbeats, {type(encoder).__module__} does not"
        raise EcgError(reason, field="encoder", fix="use the encoder beat_transformer")


LAYER = {"0.norm": "norm1", "0.to_qkv": "attention.qkv", "0.to_out.0": "attention.out", "1.net.0": "norm2",
         "1.net.1": "fc1", "1.net.4": "fc2"}  # fmt: skip
REST = {
    "cls_token": "class_token",
    "pos_embed": "positions",
    "token_embed.tokenConv.weight": "embed.weight",
    "spa_embed.embed.weight": "lead.weight",
    "tem_embed.embed.weight": "time.weight",
    "norm_layer.weight": "norm.weight",
    "norm_layer.bias": "norm.bias",
}


def published_sentence(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Released tensors of one published network, without its mask token and head, under the names of `Sentence`."""
    ours = {}
    for key, value in state.items():
        if key in REST:
            ours[REST[key]] = value[0] if key == "pos_embed" else value
            continue
        front, layer, rest = key.split(".", 3)[:2], key.split(".")[2:3], key.split(".", 3)[-1]
        part, _, leaf = rest.rpartition(".")
        if front != ["transformer", "layers"] or part not in LAYER:
            raise EcgError(f"unknown tensor {key}", field=key, fix="give the state dict of a HeartLang network")
        ours[f"blocks.{layer[0]}.{LAYER[part]}.{leaf}"] = value
    return ours


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of this encoder from a released state dict of the sentence model; its mask token and head are left out
    (`heartlang.from_published` takes them). Raises EcgError for a tensor that it does not know."""
    left = ("mask_token", "lm_head.weight", "lm_head.bias")
    found = published_sentence({k: v for k, v in state.items() if k not in left})
    return {f"sentence.{k}": v for k, v in found.items()}
