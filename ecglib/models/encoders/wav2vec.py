"""Convolutions and a post-norm transformer after wav2vec 2.0: ECG-FM (arXiv 2408.05178) and MELP (arXiv 2506.21803).

Convolutions of kernel 2 and stride 2 make one token of 2 ** convs samples; group norm follows the first of them only.
A weight-normalised convolution gives positions. A LayerNorm stands before the first layer and none after the last.
ECG-FM is probed at the mean of its tokens; MELP at the mean of what learned "beat" queries read from them, without the
projection of its contrastive loss. MELP's released weights expect aVF before aVL.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError
from ecglib.models import released
from ecglib.models.layers import Attention, Block, channels_last

EPS = 1e-5
SMALL = dict(channels=64, convs=3, dim=96, depth=2, heads=4, position_kernel=31, position_groups=8)
PUBLISHED = dict(channels=256, convs=4, position_kernel=128, position_groups=16, dropout=0.1)
ECGFM = dict(dim=768, depth=12, heads=12, hidden=3072, **PUBLISHED)
SIZES = {
    "small": dict(hidden=256, **SMALL),  # ecg-fm.md section 9
    "small_melp": dict(hidden=192, queries=10, query_dim=64, query_heads=4, **SMALL),  # melp.md section 9
    "ecgfm": ECGFM,
    "medium": ECGFM,
    "ecgfm_large": dict(dim=1024, depth=24, heads=16, hidden=4096, **PUBLISHED),
    "melp": dict(dim=768, depth=8, heads=12, hidden=3072, queries=14, query_dim=256, query_heads=8, **PUBLISHED),
}


class Position(nn.Conv1d):
    """Positions as a grouped convolution over the tokens x (batch, token, dim), same shape out, with the weight `gain`
    * weight / norm: one gain and one norm for each tap."""

    def __init__(self, dim: int, kernel: int, groups: int):
        super().__init__(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(self.weight, std=(4 / (kernel * dim)) ** 0.5)
        nn.init.zeros_(self.bias)
        self.gain = nn.Parameter(self._norm().detach())

    def _norm(self):
        if self.training:
            return self.weight.norm(dim=(0, 1), keepdim=True)
        return self.weight.square().sum((0, 1), keepdim=True).sqrt()  # the same, in a fifth of the time on a CPU

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = (self.weight * (self.gain / self._norm())).unsqueeze(2)
        y = F.conv2d(x.mT.unsqueeze(2), weight, self.bias, 1, (0, *self.padding), 1, self.groups)  # channels last
        return F.gelu(y[..., : x.shape[1]]).squeeze(2).mT  # an even kernel makes one sample too many


class Pooler(nn.Module):
    """Learned queries read tokens (batch, token, token_dim) -> normalised (batch, query, dim); no residual."""

    def __init__(self, token_dim: int, dim: int, heads: int, queries: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, dim))
        self.norm_query, self.norm_out = (nn.LayerNorm(dim, eps=EPS) for _ in range(2))
        self.norm_tokens = nn.LayerNorm(token_dim, eps=EPS)
        self.attention = Attention(dim, heads, context_dim=token_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        queries = self.norm_query(self.queries).expand(len(tokens), -1, -1)
        return self.norm_out(self.attention(queries, self.norm_tokens(tokens)))


class Encoder(nn.Module):
    """x (batch, n_leads, time) -> z (batch, dim). `token_dim` is the width of tokens, `dim` that of z (query_dim where
    there are beat queries, which read z from the tokens; else z is their mean)."""

    def __init__(
        self,
        n_leads=12,
        channels=64,  # of the convolutional stem
        convs=3,
        dim=96,  # of the transformer
        depth=2,
        heads=4,
        hidden=256,
        position_kernel=31,
        position_groups=8,
        queries=0,  # beat queries; 0 = the mean of the tokens is z
        query_dim=64,
        query_heads=4,
        dropout=0.0,
    ):
        super().__init__()
        self.n_leads, self.token_dim, self.dim = n_leads, dim, query_dim if queries else dim
        widths = [n_leads] + [channels] * convs
        self.convs = nn.ModuleList(nn.Conv1d(i, o, 2, 2, bias=False) for i, o in zip(widths, widths[1:], strict=False))
        self.group_norm = nn.GroupNorm(channels, channels, eps=EPS)
        self.feature_norm = nn.LayerNorm(channels, eps=EPS)
        self.project = nn.Linear(channels, dim)
        self.position = Position(dim, position_kernel, position_groups)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.blocks = nn.ModuleList(
            Block(dim, heads, hidden, post_norm=True, dropout=dropout, eps=EPS) for _ in range(depth)
        )
        self.pooler = Pooler(dim, query_dim, query_heads, queries) if queries else None
        self.dropout = nn.Dropout(dropout)
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) -> features (batch, token, channels), token = time // 2 ** convs. EcgError where
        that is less than 2."""
        if x.shape[-1] < 2 ** (len(self.convs) + 1):
            raise EcgError(f"{x.shape[-1]} samples are too few", field="x", fix=f"{2 ** (len(self.convs) + 1)} or more")
        x = channels_last(x)
        for number, conv in enumerate(self.convs):
            x = F.conv2d(x, conv.weight.unsqueeze(2), stride=(1, 2))
            if not number:  # torch's channels-last group norm loses three digits
                x = channels_last(self.group_norm(x.squeeze(2)))
            x = F.gelu(x)
        return x.squeeze(2).mT

    def encode(self, features: torch.Tensor, mask=None, vector=None) -> torch.Tensor:
        """features of `stem` -> tokens (batch, token, token_dim); where mask (batch, token) is True the transformer
        sees `vector` (token_dim,) in place of the token."""
        x = self.dropout(self.project(self.feature_norm(features)))
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), vector.to(x), x)
        x = self.dropout(self.norm(x + self.position(x)))
        for block in self.blocks:
            x = block(x)
        return x

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, n_leads, time) -> (batch, token, token_dim)."""
        return self.encode(self.stem(x))

    def beats(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the beat queries read from tokens: (batch, query, dim). EcgError for an encoder without queries."""
        if self.pooler is None:
            raise EcgError("this encoder has no beat queries", field="queries", fix="size small_melp or melp")
        return self.pooler(tokens)

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, token, token_dim) -> z (batch, dim)."""
        return (tokens if self.pooler is None else self.pooler(tokens)).mean(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.tokens(x))


NAMES = [  # released name -> ours, after the prefix of the checkpoint; q, k and v are put together afterwards
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(weight)", r"convs.\1.\2"),
    (r"feature_extractor\.conv_layers\.0\.2\.(weight|bias)", r"group_norm.\1"),
    (r"layer_norm\.(weight|bias)", r"feature_norm.\1"),
    (r"post_extract_proj\.(weight|bias)", r"project.\1"),
    (r"conv_pos\.pos_conv\.0\.bias", "position.bias"),
    (r"conv_pos\.pos_conv\.0\.(parametrizations\.weight\.original0|weight_g)", "position.gain"),
    (r"conv_pos\.pos_conv\.0\.(parametrizations\.weight\.original1|weight_v)", "position.weight"),
    (r"encoder\.layer_norm\.(weight|bias)", r"norm.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", r"blocks.\1.attention.\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)", r"blocks.\1.attention.out.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(weight|bias)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layers\.(\d+)\.(fc[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.(weight|bias)", r"blocks.\1.norm2.\2"),
]
# What belongs to a pre-training or to a classifier and takes no part in z; poolers are read by `pooler_from_published`.
UNUSED = (
    r"mask_emb|quantizer\.(vars|weight_proj\.(weight|bias))|(project_q|final_proj|proj)\.(weight|bias)|proj_contrast"
    r"|logit_scale|bn\.(running_mean|running_var|num_batches_tracked)"
    r"|attn_pool_(contrast|caption)\.(query|attn\.([qkv]_proj_weight|in_proj_weight|in_proj_bias|out_proj\.(weight|bias))"
    r"|ln_[qk]\.(weight|bias))|ln_(contrast|caption)\.(weight|bias)"
)


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a released ECG-FM (of its file what is under "model") or MELP encoder under our names. EcgError for a
    key that none of them has."""
    marker = "post_extract_proj.weight"
    root = next((key.removesuffix(marker) for key in state if key.endswith(marker)), None)
    if root is None:
        raise EcgError(f"no {marker}", field="state", fix="give the state dict of ECG-FM or MELP")
    state = {_stripped(key, root): value for key, value in state.items()}
    ours = released.rename(state, NAMES, "ECG-FM or MELP", UNUSED)
    for key in [k for k in ours if ".attention.q." in k]:
        ours[key.replace(".q.", ".qkv.")] = torch.cat([ours.pop(key.replace(".q.", f".{name}.")) for name in "qkv"])
    if "attn_pool_contrast.query" in state:
        ours |= {f"pooler.{key}": value for key, value in pooler_from_published(state, "contrast").items()}
    return ours


def pooler_from_published(state: dict[str, torch.Tensor], which: str) -> dict[str, torch.Tensor]:
    """One of the two poolers of a released MELP, "contrast" or "caption", as the state of a `Pooler`."""
    state = {_stripped(key): value for key, value in state.items()}
    own = {k.removeprefix(f"attn_pool_{which}."): v for k, v in state.items()}
    packed = own.get("attn.in_proj_weight")
    q, k, v = packed.chunk(3) if packed is not None else (own[f"attn.{n}_proj_weight"] for n in "qkv")
    bias = own["attn.in_proj_bias"]
    names = {"norm_query": "ln_q", "norm_tokens": "ln_k", "norm_out": f"ln_{which}", "attention.out": "attn.out_proj"}
    ours = {f"{n}.{leaf}": own[f"{theirs}.{leaf}"] for n, theirs in names.items() for leaf in ("weight", "bias")}
    ours |= {"queries": own["query"], "attention.q.weight": q, "attention.kv.weight": torch.cat([k, v])}
    return ours | {"attention.q.bias": bias[: len(q)], "attention.kv.bias": bias[len(q) :]}


def _stripped(key: str, root: str = "") -> str:
    return key.removeprefix(root) if root and key.startswith(root) else key.removeprefix("ecg_encoder.")
