"""Vision transformers on ECG patches: ECG-JEPA of Weimann (W, arXiv 2410.13867) and of Kim (K, arXiv 2410.08559), and
the encoder of the masked autoencoder with spectral filters (design of feel-the-heart.md, section 3).

A patch covers all leads for a stretch of time (W), or one lead (K), whose tokens see their own lead and their own time
only. Positions are sines and cosines computed for the length at hand, so that any length will do; samples after the
last whole patch are dropped.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError
from ecglib.data.recording import INDEPENDENT
from ecglib.models import released
from ecglib.models.layers import Block, initialise, sincos

W = dict(joint=True, registers=1, bias=False)
K = dict(joint=False, positions="every block", qkv_bias=False, eps=1e-5)
JEPA_S, JEPA_B = dict(dim=384, depth=8, heads=6, patch=25, **W), dict(dim=768, depth=12, heads=12, patch=25, **W)
SIZES = {
    # 100 Hz: patches of 0.1 s for W, of 0.2 s for K and the autoencoders (plain, and with filters)
    "small": dict(dim=96, depth=3, heads=4, patch=10, std=0, **W),
    "small_k": dict(dim=64, depth=2, heads=4, patch=20, std=0, **K),
    "small_plain": dict(dim=96, depth=3, heads=4, patch=20, mlp=2.0, std=0),
    "small_mae": dict(dim=96, depth=3, heads=4, patch=20, mlp=2.0, filters=50, std=0),
    # as published: W at 500 Hz, K at 250 Hz
    "jepa_w_xs": dict(dim=192, depth=8, heads=4, patch=25, **W),
    "jepa_w_s": JEPA_S,
    "jepa_w_b": JEPA_B,
    "jepa_k": dict(dim=768, depth=12, heads=16, patch=50, drop_path=0.1, **K),
    "medium": JEPA_S,
    "large": JEPA_B,
}

RELEASED = r"(?:target_encoder\.|encoder\.)?(?:encoder_blocks\.)?"  # what stands before the released names
NAMES = [
    (rf"{RELEASED}registers", "registers"),
    (rf"{RELEASED}(?:W_P|patch_embed\.proj)\.(weight|bias)", r"embedding.\1"),
    (rf"{RELEASED}norm\.(weight|bias)", r"norm.\1"),
    (rf"{RELEASED}blocks\.(\d+)\.(norm[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
    (rf"{RELEASED}blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"blocks.\1.attention.qkv.\2"),
    (rf"{RELEASED}blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"blocks.\1.attention.out.\2"),
    (rf"{RELEASED}blocks\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
]
HEAD = {"q": "q", "kv": "kv", "out": "proj"}


def crossed(lead: torch.Tensor, time: torch.Tensor, dim: int) -> torch.Tensor:
    """Position codes of tokens at (lead, time), both (n,): float32 (n, dim), half for the time, half for the lead."""
    return torch.cat([sincos(time, dim // 2), sincos(lead, dim // 2)], -1)


class FilterBlock(nn.Module):
    """Spectral filter over the token axis beside a convolution of three tokens: x (batch, token, dim) -> x + f - h +
    conv(h), h = LayerNorm(x), f = h with its spectrum multiplied by a learned complex response, the identity at the
    start. n_tokens: length for which it has one value per frequency; between these it is interpolated linearly."""

    def __init__(self, dim: int, n_tokens: int = 50):
        super().__init__()
        self.n_tokens, self.norm = n_tokens, nn.LayerNorm(dim)
        one = torch.tensor([1.0, 0.0])
        self.response = nn.Parameter(one.expand(n_tokens // 2 + 1, dim, 2).clone())
        self.conv = nn.Conv1d(dim, dim, 3, padding=1, groups=dim)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x).float()
        f = torch.fft.irfft(torch.fft.rfft(h, dim=1) * self.at(h.shape[1]), n=h.shape[1], dim=1)
        return x + (f - h) + self.conv(h.transpose(1, 2)).transpose(1, 2)

    def at(self, n: int) -> torch.Tensor:
        """The response for n tokens: complex64 (n // 2 + 1, dim)."""
        response = self.response.float()
        if n != self.n_tokens:
            last = len(response) - 1
            position = (torch.arange(n // 2 + 1, device=response.device) * (self.n_tokens / n)).clamp(max=last)
            low = position.floor().long().clamp(max=max(0, last - 1))
            response = torch.lerp(response[low], response[(low + 1).clamp(max=last)], (position - low)[:, None, None])
        return torch.view_as_complex(response.contiguous())


class Encoder(nn.Module):
    """Transformer on patches: x (batch, n_leads, time), at least one patch long -> z (batch, dim), mean over tokens.
    Registers are learned tokens in front, left out of `tokens` and of the mean. Without joint each lead has its own
    patches, whose tokens attend to their lead and their time (CroPA); 12 leads are reduced to I, II, V1..V6."""

    def __init__(
        self,
        n_leads=12,
        dim=96,
        depth=3,
        heads=4,
        patch=10,  # samples
        mlp=4.0,  # width of the hidden layer / dim
        joint=True,  # a patch covers all leads
        registers=0,
        bias=True,  # of Linear layers and norms
        qkv_bias=None,  # default: as bias
        positions="once",  # added, or before "every block"
        filters=0,  # tokens that a FilterBlock in front of the transformer is made for; 0 = none
        drop_path=0.0,  # in the last block, rising linearly from 0 in the first
        eps=1e-6,
        std=0.02,  # of the initial weights; 0 = 1 / sqrt(inputs): a narrow network's tokens then tell of the signal
    ):
        super().__init__()
        if positions not in ("once", "every block"):
            raise EcgError(f"positions={positions!r}", field="positions", fix="use 'once' or 'every block'")
        self.dim, self.n_leads, self.patch, self.joint, self.repeat = dim, n_leads, patch, joint, positions != "once"
        self.rows = list(INDEPENDENT) if not joint and n_leads == 12 else None
        self.token_leads = 1 if joint else len(self.rows or range(n_leads))
        self.embedding = nn.Linear(patch * (n_leads if joint else 1), dim, bias=bias)
        self.filter = FilterBlock(dim, filters) if filters else nn.Identity()
        learned = nn.init.trunc_normal_(torch.empty(registers, dim), std=0.02)
        if registers:
            self.registers = nn.Parameter(learned)
        else:  # no parameter, and nothing in the state dict
            self.register_buffer("registers", learned, persistent=False)
        options = dict(bias=bias, qkv_bias=qkv_bias, eps=eps)
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, int(mlp * dim), drop_path=p, **options) for p in rates)
        self.norm = nn.LayerNorm(dim, eps=eps, bias=bias)
        initialise(self, rising=not joint, std=std)

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) -> (batch, N, values): N = time // patch patches of n_leads * patch values, lead
        after lead; without joint N = leads * (time // patch) patches of `patch` values, lead after lead."""
        if x.shape[1] != self.n_leads or x.shape[2] < self.patch:
            reason = f"signals {tuple(x.shape)} for {self.n_leads} leads and patches of {self.patch} samples"
            raise EcgError(reason, field="x", fix="give (batch, n_leads, time) with at least one patch")
        x = (x if self.rows is None else x[:, self.rows])[..., : x.shape[2] // self.patch * self.patch]
        x = x.unflatten(2, (-1, self.patch))
        return x.transpose(1, 2).flatten(2) if self.joint else x.flatten(1, 2)

    def positions(self, n: int, device=None) -> torch.Tensor:
        """Codes of n tokens, float32 (n, dim): of time; without joint the first half of time, the second of lead."""
        if self.joint:
            return sincos(torch.arange(n, device=device), self.dim, interleaved=True)
        return crossed(*self.grid(torch.arange(n, device=device), n), self.dim)

    def grid(self, index: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(lead, time patch) of the tokens `index`, int64 of any shape, when there are n in all."""
        per_lead = n // self.token_leads
        return index // per_lead, index % per_lead

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) -> the transformer's input (batch, N, dim), positions included."""
        h = self.embedding(self.patches(x))
        return self.filter(h + self.positions(h.shape[1], h.device))

    def encode(self, h: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Registers and tokens after the last norm: h (batch, N, dim) from `embed` -> (batch, registers + kept, dim).
        keep: int64 (batch, k), or (k,) for all records alike: the tokens that are seen."""
        n, first = h.shape[1], len(self.registers)
        position = self.positions(n, h.device) if self.repeat else None
        mask = self.mask(torch.arange(n, device=h.device) if keep is None else keep, n)
        if keep is not None:
            h = h[:, keep] if keep.ndim == 1 else h.gather(1, keep[..., None].expand(-1, -1, h.shape[2]))
            position = position[keep] if self.repeat else None
        if first:  # registers have no position, and see and are seen by all
            h = torch.cat([self.registers.expand(len(h), -1, -1).to(h), h], 1)
            position = F.pad(position, (0, 0, first, 0)) if self.repeat else None
            mask = None if mask is None else F.pad(mask, (first, 0, first, 0), value=True)
        for i, block in enumerate(self.blocks):
            h = block(h + position if self.repeat and i else h, mask=mask)  # `embed` has added it for the first block
        return self.norm(h)

    def mask(self, index: torch.Tensor, n: int) -> torch.Tensor | None:
        """CroPA: bool, True = may attend, (k, k) or (batch, 1, k, k) for tokens `index` (k,) or (batch, k) of n."""
        if self.joint:
            return None
        lead, time = self.grid(index, n)
        same = [a.unsqueeze(-1) == a.unsqueeze(-2) for a in (lead, time)]
        allowed = same[0] | same[1]
        return allowed if index.ndim == 1 else allowed.unsqueeze(1)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) -> (batch, N, dim), registers left out."""
        return self.encode(self.embed(x))[:, len(self.registers) :]

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, token, dim) -> z (batch, dim)."""
        return tokens.mean(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.tokens(x))


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of `Encoder` in a published size from a released ECG-JEPA encoder; EcgError for an unknown tensor.
    K: the entry "encoder" of its files, whose position table must be the one computed here; W: keys "encoder.*" of a
    classifier (`attentive_head` reads its head), or a pretraining file, of which "target_encoder.*" counts."""
    whole = any(key.startswith("target_encoder.") for key in state)
    if "pos_embed" in state:
        _check_table(state["pos_embed"])
    unused = r"pos_embed|(encoder|predictor|attn_pool)\..+" if whole else r"pos_embed|attn_pool\..+"
    ours = released.rename(state, NAMES, "a released encoder", unused)
    flattened = {"registers": (0, 1), "embedding.weight": (1, -1)}
    return {name: value.flatten(*flattened[name]) if name in flattened else value for name, value in ours.items()}


def _check_table(table: torch.Tensor) -> None:
    n = torch.arange(len(table))
    per_lead = len(table) // len(INDEPENDENT)
    if not torch.allclose(table.cpu(), crossed(n // per_lead, n % per_lead, table.shape[1]), atol=1e-4):
        raise EcgError("the position table is not the published one", field="pos_embed", fix="use the released file")


def attentive_head(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of `AttentionPool(dim, heads, out_dim=classes, qkv_bias=False, bias=False)`, which takes all tokens of
    `Encoder.encode`, from the "attn_pool.*" of a released classifier of W. EcgError where the state has none."""
    if "attn_pool.query_token" not in state:
        raise EcgError("no attentive head here", field="attn_pool", fix="give the state dict of a released classifier")
    layer = "attn_pool.cross_attention_block."
    head = {f"attention.{mine}.weight": state[f"{layer}{theirs}.weight"] for mine, theirs in HEAD.items()}
    return {"queries": state["attn_pool.query_token"].flatten(0, 1), **head}
