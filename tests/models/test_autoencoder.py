"""Convolutional autoencoder: counts and lengths of the paper, scaling, and its layers by plain computation."""

import numpy as np
import pytest
import torch

from ecglib import models
from ecglib.models.encoders import autoencoder


def on_meta(size, n_leads=12):
    with torch.device("meta"):
        return autoencoder.Encoder(n_leads, **autoencoder.SIZES[size])


def test_has_the_published_number_of_parameters():
    published = on_meta("ecgad")
    assert models.n_parameters(published) == 1_083_776
    with torch.device("meta"):
        assert models.n_parameters(autoencoder.Decoder(published, 13)) == 1_083_968
        assert models.n_parameters(autoencoder.Decoder(published, 12, copies=2)) == 1_467_840
    assert models.n_parameters(on_meta("small")) == 12_256


LENGTHS = [("ecgad", 4800, 136), ("ecgad", 480, 1), ("small", 960, 109), ("small", 96, 1), ("small", 1000, 114),
           ("small", 50, 1)]  # fmt: skip


@pytest.mark.parametrize("size, n_times, tokens", LENGTHS)
def test_tokens_and_decoded_lengths(size, n_times, tokens):
    encoder = on_meta(size)
    assert encoder.n_tokens(n_times) == tokens
    with torch.device("meta"):
        h = encoder.tokens(torch.zeros(1, 12, n_times))
        assert h.shape == (1, tokens, encoder.dim)
        decoded = autoencoder.Decoder(encoder, 13)(h)
    assert decoded.shape == (1, 13, max(-(-n_times // encoder.stride), encoder.kernel) * encoder.stride)


def test_scaling_is_per_lead_and_a_constant_lead_is_zero():
    x = torch.tensor([[[0.0, 1, 4], [3, 3, 3], [-2, 0, 2]]])
    assert autoencoder.minmax(x).tolist() == [[[-1, -0.5, 1], [0, 0, 0], [-1, 0, 1]]]
    encoder = models.build("autoencoder", n_leads=3).eval()
    x = torch.randn(2, 3, 400)
    torch.testing.assert_close(encoder(x), encoder(5 * x + 3), atol=1e-5, rtol=1e-4)


def test_layers_equal_a_plain_computation():
    torch.manual_seed(0)
    encoder = autoencoder.Encoder(2, widths=(3, 4), dim=5, kernel=2)
    norm = encoder.layers[3]
    norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
    encoder.eval()
    x = torch.randn(1, 2, 16)

    def conv(h, weight, stride, pad):
        h, w = np.pad(h, ((0, 0), (pad, pad))), weight.detach().numpy()[:, :, 0]
        steps = range(0, h.shape[1] - w.shape[2] + 1, stride)
        return np.stack([np.tensordot(w, h[:, i : i + w.shape[2]], 2) for i in steps], 1)

    def leaky(h):
        return np.where(h > 0, h, 0.2 * h)

    h = leaky(conv(x[0].numpy(), encoder.layers[0].weight, 2, 1))
    h = conv(h, encoder.layers[2].weight, 2, 1)
    h = leaky((h - norm.running_mean.numpy()[:, None]) / np.sqrt(norm.running_var.numpy()[:, None] + norm.eps))
    h = conv(h, encoder.layers[5].weight, 1, 0)
    np.testing.assert_allclose(encoder.latent(x)[0].detach(), h.T, atol=1e-5)
