"""Parts of networks that encoders and objectives share."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError


class Attention(nn.Module):
    """Multi-head attention of x (batch, token, dim) to itself, or to `context` (batch, other, context_dim).
    inner: width of all heads together (default dim); mask: bool, True = attend, broadcast to (batch, head, token,
    other), one True at least for every token. EcgError where the heads do not divide the width."""

    def __init__(
        self, dim, heads, *, inner=None, qkv_bias=True, bias=True, context_dim=None, dropout=0.0, out_dim=None
    ):
        super().__init__()
        inner = inner or dim
        if inner % heads:
            raise EcgError(f"{heads} heads for a width of {inner}", field="heads", fix="choose a divisor of the width")
        self.heads, self.dropout = heads, dropout
        if context_dim is None:
            self.qkv = nn.Linear(dim, 3 * inner, bias=qkv_bias)
        else:
            self.q, self.kv = nn.Linear(dim, inner, bias=qkv_bias), nn.Linear(context_dim, 2 * inner, bias=qkv_bias)
        self.out = nn.Linear(inner, out_dim or dim, bias=bias)

    def forward(self, x, context=None, mask=None, causal=False):
        if context is None:
            projected = self.qkv(x).chunk(3, -1)
        else:
            projected = (self.q(x), *self.kv(context).chunk(2, -1))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in projected)
        dropout = self.dropout if self.training else 0.0
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        return self.out(h.transpose(1, 2).flatten(2))


class DropPath(nn.Module):
    """Stochastic depth: in training each record skips the branch with probability p, the rest is scaled by 1/(1-p)."""

    def __init__(self, p: float = 0.0):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        keep = torch.rand(len(x), *[1] * (x.ndim - 1)) >= self.p
        return x * keep.to(x) / (1 - self.p)


class Block(nn.Module):
    """Transformer layer: attention, cross-attention to `context` (batch, other, context_dim) where given, and a
    two-layer GELU network, each with a residual; LayerNorm before, or after (post_norm). bias: of every Linear but
    qkv."""

    def __init__(
        self,
        dim,
        heads,
        hidden,
        *,
        post_norm=False,
        bias=True,  # of norms and every Linear but qkv
        qkv_bias=None,  # default: as bias
        inner=None,
        dropout=0.0,
        drop_path=0.0,  # chance of a record to skip a branch
        eps=1e-6,
        context_dim=None,  # None: no cross-attention
    ):
        super().__init__()
        qkv_bias = bias if qkv_bias is None else qkv_bias
        options = dict(inner=inner, qkv_bias=qkv_bias, bias=bias, dropout=dropout)
        self.post_norm = post_norm
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=eps, bias=bias) for _ in range(2))
        self.attention = Attention(dim, heads, **options)
        if context_dim is not None:
            self.norm_cross = nn.LayerNorm(dim, eps=eps, bias=bias)
            self.cross = Attention(dim, heads, context_dim=context_dim, **options)
        self.fc1, self.fc2 = nn.Linear(dim, hidden, bias=bias), nn.Linear(hidden, dim, bias=bias)
        self.dropout, self.drop_path = nn.Dropout(dropout), DropPath(drop_path)

    def forward(self, x, context=None, mask=None, causal=False):
        x = self._residual(x, self.norm1, lambda h: self.attention(h, mask=mask, causal=causal))
        if context is not None:
            x = self._residual(x, self.norm_cross, lambda h: self.cross(h, context))
        return self._residual(x, self.norm2, self.mlp)

    def mlp(self, x):
        return self.fc2(self.dropout(F.gelu(self.fc1(x))))

    def _residual(self, x, norm, branch):
        if self.post_norm:
            return norm(x + self.drop_path(self.dropout(branch(x))))
        return x + self.drop_path(self.dropout(branch(norm(x))))


@torch.no_grad()
def initialise(module: nn.Module, rising: bool = False, std: float = 0.02) -> None:
    """Draw the Linear weights of a `module` with `blocks` from a truncated normal of sd `std` (0: 1 / sqrt(inputs)),
    zero their biases, and divide what a block adds to the residual stream by sqrt(2 depth), or by sqrt(2 l) in block
    l = 1 .. depth (rising)."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=std or m.in_features**-0.5)
            if m.bias is not None:
                m.bias.zero_()
    for i, block in enumerate(module.blocks, 1):
        for last in (block.attention.out, block.fc2):
            last.weight.div_(math.sqrt(2 * (i if rising else len(module.blocks))))


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """x (batch, channel, time) -> (batch, channel, 1, time), channels last in memory: faster on CPUs, equal numbers."""
    return x.unsqueeze(2).clone(memory_format=torch.channels_last)  # contiguous() takes a single lead for either layout


def strided(x, weight, bias, stride: int, groups: int = 1) -> torch.Tensor:
    """Strided convolution over time of x (batch, channel, 1, time), which is padded, by weight (out, in, tap): those of
    stride 1 of each `stride`-th sample with each `stride`-th tap. Equal numbers, and faster backward on CPUs."""
    x = F.pad(x, (0, -x.shape[-1] % stride)).permute(0, 2, 3, 1).unflatten(2, (-1, stride))
    weight = F.pad(weight, (0, -weight.shape[2] % stride)).unsqueeze(2).unflatten(-1, (-1, stride))
    if groups == 1:  # neighbouring samples lie in memory as channels do
        x, weight = x.flatten(3), weight.permute(0, 4, 1, 2, 3).flatten(1, 2)
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias)
    biases = [bias] + [None] * (stride - 1)
    parts = zip((part.permute(0, 3, 1, 2) for part in x.unbind(3)), weight.unbind(-1), biases, strict=True)
    return sum(F.conv2d(*part, groups=groups) for part in parts)


def conv_bn(width_in: int, width_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Bias-free convolution over time, padded by kernel // 2 on both sides, then batch normalisation."""
    conv = nn.Conv2d(width_in, width_out, (1, kernel), (1, stride), (0, kernel // 2), bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width_out))


class AttentionPool(nn.Module):
    """Learned queries attend to tokens (batch, token, dim) -> (batch, query, out_dim); options: of `Attention`. With
    one query, out_dim = classes and neither bias it is the attentive classifier of ECG-JEPA (arXiv 2410.13867)."""

    def __init__(self, dim, heads, queries=1, **options):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, dim) * dim**-0.5)
        self.attention = Attention(dim, heads, context_dim=dim, **options)

    def forward(self, tokens):
        return self.attention(self.queries.expand(len(tokens), -1, -1), tokens)


def sincos(positions: torch.Tensor, dim: int, interleaved: bool = False) -> torch.Tensor:
    """Fixed position codes: positions (n,) -> float32 (n, dim): sines then cosines of positions / 10000^(2i/dim), or
    each sine beside its cosine (interleaved). EcgError for an odd dim."""
    if dim % 2:
        raise EcgError(f"position codes of size {dim}", field="dim", fix="choose an even size")
    pair = torch.arange(dim // 2, dtype=torch.float64, device=positions.device)
    rate = torch.exp(pair * (-math.log(10000) * 2 / dim))
    angle = positions.double()[:, None] * rate
    waves = angle.sin(), angle.cos()
    return (torch.stack(waves, -1) if interleaved else torch.cat(waves, -1)).flatten(1).float()


def over_processes(value: torch.Tensor) -> torch.Tensor:
    """Mean of a tensor over all training processes (itself when there is one)."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()
