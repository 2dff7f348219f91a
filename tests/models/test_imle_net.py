"""Parameter counts of baselines.md, the three levels of attention, and their positions."""

import numpy as np
import pytest
import torch
from torch import nn

from ecglib import models
from ecglib.models.encoders import imle_net

SECOND_BIAS = {"published": 512, "small": 0}  # 41,357 is counted with both LSTM bias vectors, 746,725 with one


@pytest.mark.parametrize("size, count", [("published", 746_725), ("small", 41_357)])
def test_has_the_published_number_of_parameters(size, count):
    with torch.device("meta"):
        encoder = imle_net.Encoder(12, **imle_net.SIZES[size])
        head = nn.Linear(encoder.dim, 5)
    assert models.n_parameters(encoder) + models.n_parameters(head) - SECOND_BIAS[size] == count


def test_parts_have_the_published_number_of_parameters():
    with torch.device("meta"):
        encoder = imle_net.Encoder(12, **imle_net.SIZES["published"])
    convolutions = models.n_parameters(encoder.stem) + models.n_parameters(encoder.blocks)
    parts = [models.n_parameters(part) for part in (encoder.beat, encoder.lstm, encoder.rhythm, encoder.lead)]
    assert [convolutions, *parts] == [619_616, 9_088, 98_816 + 512, 9_536, 9_024]


def test_attention_sums_to_one_on_each_level():
    encoder = models.build("imle_net", "published").eval()
    weights = encoder.attention(torch.randn(2, 12, 1000))
    shapes = {"beat": (2, 12, 20, 13), "rhythm": (2, 12, 20), "lead": (2, 12)}
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == shapes
    for weight in weights.values():
        assert (weight >= 0).all()
        torch.testing.assert_close(weight.sum(-1), torch.ones(weight.shape[:-1]))


def test_attention_is_its_formula():
    torch.manual_seed(0)
    layer, x = imle_net.PositionAttention(4, 5, 3), torch.randn(2, 5, 4)
    nn.init.normal_(layer.bias)
    w, v, b = (p.detach().numpy() for p in (layer.w.weight, layer.v.weight, layer.bias))
    score = np.exp(np.tanh(x.numpy() @ w.T + b) @ v[0])
    weight = score / score.sum(1, keepdims=True)
    mean, weights = layer(x)
    np.testing.assert_allclose(weights.detach(), weight, rtol=1e-5)
    np.testing.assert_allclose(mean.detach(), np.einsum("bp,bpd->bd", weight, x), rtol=1e-4, atol=1e-6)


def test_slices_are_those_of_the_paper_and_lose_no_sample_at_other_lengths():
    encoder = models.build("imle_net")
    t = torch.arange(1000.0)
    assert torch.equal(encoder.cut(t), t.reshape(20, 50))
    for n in (7, 733, 2500):
        slices = encoder.cut(torch.arange(n))
        assert slices.shape == (20, -(-n // 20)) and set(slices.flatten().tolist()) == set(range(n))


def test_a_bias_at_other_positions_lies_between_the_learned_ones():
    layer = imle_net.PositionAttention(4, 3, 2)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([[0.0, 3.0], [1.0, 3.0], [2.0, 3.0]]))
    seen = []
    layer.v.register_forward_pre_hook(lambda _, given: seen.append(torch.atanh(given[0])))
    layer(torch.zeros(1, 6, 4))
    torch.testing.assert_close(seen[0][0, :, 1], torch.full((6,), 3.0))
    assert (seen[0][0, :, 0].diff() >= 0).all() and seen[0][0, 0, 0] == 0 and seen[0][0, -1, 0] == 2


def test_a_missing_lead_weighs_nothing():
    encoder = models.build("imle_net").eval()
    x, there = torch.randn(2, 12, 1000), torch.ones(2, 12, dtype=torch.bool)
    there[:, 6:] = False
    changed = x.clone()
    changed[:, 6:] = 5 * torch.randn(2, 6, 1000)
    assert torch.equal(encoder(x, there), encoder(changed, there)) and not torch.equal(encoder(x), encoder(changed))
    weight = encoder.attention(x, there)["lead"]
    assert (weight[:, 6:] == 0).all() and (weight[:, :6] > 0).all()
    assert torch.isfinite(encoder(x, torch.zeros_like(there))).all()
