"""S4D: counts, and its convolution against the recurrence it stands for."""

import numpy as np
import pytest
import torch

from ecglib import models
from ecglib.models.encoders import s4d


@pytest.mark.parametrize("size, count", [("full_rate", 43_328), ("small", 45_632), ("benchmark", 2_181_632)])
def test_number_of_parameters(size, count):
    """full_rate with a linear layer to five outputs: the 43,653 of baselines.md section 9; benchmark: "2.2 M"."""
    with torch.device("meta"):
        assert models.n_parameters(s4d.Encoder(12, **s4d.SIZES[size])) == count
    assert 43_328 + 5 * 64 + 5 == 43_653


def recurrence(layer, u):
    """State by state, sample by sample, in complex double precision."""
    a = -np.exp(layer.log_decay.detach().double().numpy()) + 1j * layer.frequency.detach().double().numpy()
    step = np.exp(layer.log_step.detach().double().numpy())[:, None]
    read = layer.read.detach().double().numpy()
    read = read[..., 0] + 1j * read[..., 1]
    factor, entry = np.exp(step * a), (np.exp(step * a) - 1) / a
    out, state = np.empty_like(u), np.zeros((len(u), *a.shape), complex)
    for k in range(u.shape[-1]):
        state = factor * state + entry * u[:, :, k, None]
        out[:, :, k] = 2 * (read * state).real.sum(-1)
    return out + layer.skip.detach().double().numpy()[:, None] * u


@pytest.mark.parametrize("n_times", [1, 7, 250])
def test_convolution_equals_the_recurrence(n_times):
    torch.manual_seed(0)
    layer = s4d.StateSpace(6, 8)
    u = torch.randn(3, 6, n_times)
    np.testing.assert_allclose(layer(u).detach(), recurrence(layer, u.double().numpy()), atol=1e-4)


def test_appended_zeros_leave_the_past_unchanged():
    torch.manual_seed(0)
    encoder = models.build("s4d", "full_rate")
    x = torch.randn(2, 12, 100)
    longer = encoder.tokens(torch.cat([x, torch.zeros_like(x)], -1))
    torch.testing.assert_close(longer[:, :100], encoder.tokens(x), atol=1e-5, rtol=1e-4)


def test_a_token_is_a_patch_of_all_leads():
    encoder = models.build("s4d", "small")
    assert encoder.tokens(torch.randn(2, 12, 1000)).shape == (2, 250, 64)
    assert encoder.tokens(torch.randn(2, 12, 998)).shape == (2, 250, 64)
    x = torch.randn(1, 12, 40)
    seen = []
    encoder.layers.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(x)
    expected = x[0, :, 8:12].reshape(-1) @ encoder.embed.weight.T + encoder.embed.bias
    torch.testing.assert_close(seen[0][0, 2], expected)


def test_stays_finite_over_a_long_record_in_bfloat16():
    encoder = models.build("s4d", "small")
    with torch.autocast("cpu", torch.bfloat16):
        z = encoder(torch.randn(1, 12, 5000))
    assert torch.isfinite(z).all()
