"""Transformer parts against plain computations, head by head and token by token."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError
from ecglib.models import layers


def softmax(a):
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def plain_attention(q, k, v, heads, allowed=None):
    """One record, one query and one head after the other."""
    out = np.zeros((len(q), v.shape[1]))
    width = q.shape[1] // heads
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        for i in range(len(q)):
            scores = np.array([q[i, part] @ k[j, part] / math.sqrt(width) for j in range(len(k))])
            if allowed is not None:
                scores[~allowed[i]] = -np.inf
            out[i, part] = softmax(scores) @ v[:, part]
    return out


def numbers(module):
    return {name: p.detach().numpy() for name, p in module.double().named_parameters()}


def linear(x, p, name):
    return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0)


@pytest.mark.parametrize("inner, bias", [(None, True), (4, False)])
def test_self_attention_equals_a_plain_computation(inner, bias):
    torch.manual_seed(0)
    attention = layers.Attention(8, 2, inner=inner, qkv_bias=bias, bias=bias)
    p, x = numbers(attention), torch.randn(3, 5, 8, dtype=torch.float64)
    mask = torch.rand(3, 1, 5, 5) < 0.6
    mask |= torch.eye(5, dtype=torch.bool)
    causal = np.tril(np.ones((5, 5), bool))
    for options, allowed in (({}, [None] * 3), ({"mask": mask}, mask[:, 0].numpy()), ({"causal": True}, [causal] * 3)):
        ours = attention(x, **options).detach().numpy()
        for record, got, may in zip(x.numpy(), ours, allowed, strict=True):
            q, k, v = np.split(linear(record, p, "qkv"), 3, -1)
            np.testing.assert_allclose(got, linear(plain_attention(q, k, v, 2, may), p, "out"), atol=1e-12)


def test_cross_attention_equals_a_plain_computation():
    torch.manual_seed(0)
    attention = layers.Attention(8, 2, context_dim=6)
    p = numbers(attention)
    x, context = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 7, 6, dtype=torch.float64)
    ours = attention(x, context).detach().numpy()
    for record, other, got in zip(x.numpy(), context.numpy(), ours, strict=True):
        k, v = np.split(linear(other, p, "kv"), 2, -1)
        expected = linear(plain_attention(linear(record, p, "q"), k, v, 2), p, "out")
        np.testing.assert_allclose(got, expected, atol=1e-12)


def norm(x, p, name, eps):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * p[f"{name}.weight"] + p.get(f"{name}.bias", 0)


@pytest.mark.parametrize("post_norm", [False, True])
def test_block_adds_its_branches_in_the_stated_order(post_norm):
    torch.manual_seed(0)
    block = layers.Block(8, 2, 12, post_norm=post_norm, eps=1e-3).eval()
    for name in ("norm1", "norm2"):
        nn.init.normal_(getattr(block, name).weight), nn.init.normal_(getattr(block, name).bias)
    p, x = numbers(block), torch.randn(1, 4, 8, dtype=torch.float64)
    gelu = np.vectorize(lambda a: a * 0.5 * (1 + math.erf(a / math.sqrt(2))))

    def attend(h):
        return linear(plain_attention(*np.split(linear(h, p, "attention.qkv"), 3, -1), 2), p, "attention.out")

    h = x[0].numpy()
    if post_norm:
        h = norm(h + attend(h), p, "norm1", 1e-3)
        h = norm(h + linear(gelu(linear(h, p, "fc1")), p, "fc2"), p, "norm2", 1e-3)
    else:
        h = h + attend(norm(h, p, "norm1", 1e-3))
        h = h + linear(gelu(linear(norm(h, p, "norm2", 1e-3), p, "fc1")), p, "fc2")
    np.testing.assert_allclose(block(x)[0].detach(), h, atol=1e-12)


def test_block_without_biases_has_none_and_counts_as_published():
    block = layers.Block(96, 4, 384, bias=False)
    assert not any(name.endswith("bias") for name, _ in block.named_parameters())
    assert sum(p.numel() for p in block.parameters()) == 12 * 96**2 + 2 * 96  # ecg-jepa.md section 3
    block = layers.Block(64, 4, 256, qkv_bias=False)
    assert block.attention.qkv.bias is None and block.attention.out.bias is not None


def test_block_looks_at_its_context():
    torch.manual_seed(0)
    block = layers.Block(8, 2, 16, context_dim=6).eval()
    x, one, other = torch.randn(2, 3, 8), torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    assert not torch.allclose(block(x, one), block(x, other))
    torch.testing.assert_close(block(x, one[:, [2, 0, 1, 3]]), block(x, one))  # a set: its order does not matter


def test_drop_path_skips_whole_records_and_keeps_the_mean():
    torch.manual_seed(0)
    path = layers.DropPath(0.25)
    out = path(torch.ones(4000, 2, 3))
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    assert torch.equal(out, out[:, :1, :1].expand_as(out)) and out.mean() == pytest.approx(1, abs=0.03)
    assert torch.equal(path.eval()(out), out)


def test_attention_pool_answers_with_one_vector_per_query_of_any_size():
    torch.manual_seed(0)
    tokens = torch.randn(2, 9, 12)
    assert layers.AttentionPool(12, 3, queries=4)(tokens).shape == (2, 4, 12)
    pool = layers.AttentionPool(12, 3, out_dim=5, qkv_bias=False, bias=False)
    assert pool(tokens).shape == (2, 1, 5)
    torch.testing.assert_close(pool(tokens.flip(1)), pool(tokens))


@pytest.mark.parametrize("dim, heads, count", [(384, 6, 470_016), (768, 12, 1_824_768)])
def test_attentive_classifier_has_the_published_number_of_parameters(dim, heads, count):
    pool = layers.AttentionPool(dim, heads, out_dim=71, qkv_bias=False, bias=False)
    assert sum(p.numel() for p in pool.parameters()) == count  # ecg-jepa.md section 7


def test_position_codes_have_the_stated_frequencies():
    p = torch.tensor([0, 1, 7])
    split, beside = layers.sincos(p, 6), layers.sincos(p, 6, interleaved=True)
    for row, position in enumerate(p.tolist()):
        for i in range(3):
            angle = position * 10000 ** (-2 * i / 6)
            np.testing.assert_allclose(split[row, [i, i + 3]], [math.sin(angle), math.cos(angle)], atol=1e-6)
            np.testing.assert_allclose(beside[row, [2 * i, 2 * i + 1]], [math.sin(angle), math.cos(angle)], atol=1e-6)
    assert split.dtype == torch.float32


def test_initialise_damps_what_blocks_add():
    torch.manual_seed(0)
    for rising, expected in ((False, [6, 6, 6]), (True, [2, 4, 6])):
        module = nn.Module()
        module.head, module.blocks = nn.Linear(128, 128), nn.ModuleList(layers.Block(128, 2, 256) for _ in range(3))
        layers.initialise(module, rising)
        assert module.head.weight.std().item() == pytest.approx(0.02, rel=0.05) and not module.head.bias.any()
        for block, divisor in zip(module.blocks, expected, strict=True):
            for weight in (block.attention.out.weight, block.fc2.weight):
                assert weight.std().item() == pytest.approx(0.02 / divisor**0.5, rel=0.05)
            assert block.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    layers.initialise(module, std=0)
    assert module.blocks[1].fc2.weight.std().item() == pytest.approx((256 * 6) ** -0.5, rel=0.05)


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(EcgError, match="heads"):
        layers.Attention(10, 4)
    with pytest.raises(EcgError, match="even"):
        layers.sincos(torch.arange(3), 5)


@pytest.mark.parametrize("leads, out, groups, tap, stride", [(12, 16, 1, 16, 2), (1, 16, 1, 7, 2), (16, 16, 2, 16, 2)])
@pytest.mark.parametrize("n_times", [40, 41])
def test_a_strided_convolution_is_the_one_of_torch_forward_and_backward(leads, out, groups, tap, stride, n_times):
    torch.manual_seed(0)
    x = layers.channels_last(torch.randn(3, leads, n_times)).requires_grad_()
    weight, bias = torch.randn(out, leads // groups, tap, requires_grad=True), torch.randn(out, requires_grad=True)
    wanted = F.conv2d(x, weight.unsqueeze(2), bias, (1, stride), groups=groups)
    got = layers.strided(x, weight, bias, stride, groups)[..., : wanted.shape[-1]]
    torch.testing.assert_close(got, wanted)
    gy = torch.randn_like(wanted)
    ours, theirs = (torch.autograd.grad((y * gy).sum(), (x, weight, bias)) for y in (got, wanted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("leads", [1, 2, 12])
def test_any_number_of_leads_is_convolved_with_channels_last(leads):
    y = F.conv2d(layers.channels_last(torch.randn(2, leads, 30)), torch.randn(4, leads, 1, 3))
    assert y.is_contiguous(memory_format=torch.channels_last)
