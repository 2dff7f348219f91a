"""ConvNeXt V2 in one dimension: counts and lengths of the paper; its response normalisation and block by hand."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from ecglib import models
from ecglib.models.encoders import convnext1d


@pytest.mark.parametrize("size, count", [("small", 236_864), ("tolerant", 26_814_144), ("medium", 26_814_144)])
def test_has_the_published_number_of_parameters(size, count):
    with torch.device("meta"):
        assert models.n_parameters(convnext1d.Encoder(12, **convnext1d.SIZES[size])) == count


@pytest.mark.parametrize("n_times, tokens", [(5000, 156), (1000, 31), (20, 1)])
def test_has_the_published_number_of_tokens(n_times, tokens):
    with torch.device("meta"):
        encoder = convnext1d.Encoder(12, **convnext1d.SIZES["tolerant"])
        assert encoder.tokens(torch.zeros(2, 12, n_times)).shape == (2, tokens, 768)


def plain_response(x, gamma, beta):
    """tolerantecg.md section 3, record by record."""
    out = np.empty_like(x)
    for i, record in enumerate(x):
        g = np.sqrt((record**2).sum(0))
        out[i] = gamma * (record * (g / (g.mean() + 1e-6))) + beta + record
    return out


def test_response_normalisation_equals_its_formula_and_starts_as_the_identity():
    x = torch.randn(3, 20, 8, generator=torch.Generator().manual_seed(0))
    norm = convnext1d.ResponseNorm(8)
    assert torch.equal(norm(x), x)
    with torch.no_grad():
        norm.gamma.uniform_(-1, 1), norm.beta.uniform_(-1, 1)
    expected = plain_response(x.numpy(), norm.gamma.detach().numpy(), norm.beta.detach().numpy())
    np.testing.assert_allclose(norm(x).detach(), expected, atol=1e-5)


def test_block_equals_a_plain_computation():
    torch.manual_seed(0)
    block = convnext1d.Block(4, 7)
    with torch.no_grad():
        for p in block.parameters():
            p.uniform_(-1, 1)
    x = torch.randn(2, 15, 4)
    w = {k: v.detach().numpy().astype(np.float64) for k, v in block.state_dict().items()}
    padded = np.pad(x.numpy(), ((0, 0), (3, 3), (0, 0)))
    h = sum(padded[:, k : k + 15] * w["conv.weight"][:, 0, k] for k in range(7)) + w["conv.bias"]
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
    h = (h * w["norm.weight"] + w["norm.bias"]) @ w["fc1.weight"].T + w["fc1.bias"]
    h = plain_response(h * (1 + erf(h / np.sqrt(2))) / 2, w["response.gamma"], w["response.beta"])
    np.testing.assert_allclose(block(x).detach(), x.numpy() + h @ w["fc2.weight"].T + w["fc2.bias"], atol=1e-4)


def test_a_masked_lead_is_zero_whatever_it_holds():
    encoder = models.build("convnext1d", "small", 3)
    x, mask = torch.randn(2, 3, 400), torch.tensor([[True, False, True], [True, True, True]])
    z = encoder(x, mask)
    zeroed = x.clone()
    zeroed[0, 1] = 0
    assert torch.equal(z, encoder(zeroed, mask))
    x[0, 1] = torch.nan
    assert torch.equal(z, encoder(x, mask))
    assert not torch.allclose(z[0], encoder(torch.randn(2, 3, 400))[0])


def test_a_missing_lead_takes_its_share_of_the_bias_with_it():
    """So that it differs from a flat one; where all leads are there, the mask changes nothing."""
    encoder, mask = models.build("convnext1d", "small", 4), torch.tensor([[True, False, True, False]])
    x = torch.randn(1, 4, 400) * mask[..., None]
    assert torch.equal(encoder(x, torch.ones_like(mask)), encoder(x))
    assert not torch.allclose(encoder(x, mask), encoder(x), atol=1e-3)
    with torch.no_grad():
        masked = encoder(x, mask)
        encoder.stem.bias *= 0.5
        torch.testing.assert_close(masked, encoder(x))
