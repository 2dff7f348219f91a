"""U-Net: counts, which leads it models, padding, and both halves against plain computations."""

import numpy as np
import pytest
import torch

from ecglib import models
from ecglib.models.encoders import unet1d


@pytest.mark.parametrize("size, both", [("small", 229_256), ("wide", 388_488)])
def test_has_the_specified_number_of_parameters(size, both):
    """lead-reconstruction.md section 9, less the convolution biases that batch normalisation would take away."""
    encoder = models.build("unet1d", size)
    assert models.n_parameters(encoder) + models.n_parameters(unet1d.Decoder(encoder)) == both
    biases = 2 * (sum(unet1d.SIZES[size]["widths"]) + sum(unet1d.SIZES[size]["widths"][:-1]))
    assert both + biases == {"small": 229_768, "wide": 389_128}[size]


def test_models_the_independent_leads_of_twelve_and_all_of_any_other_number():
    x = torch.randn(2, 12, 200) + 3
    for n_leads, rows in ((12, [0, 1, 6, 7, 8, 9, 10, 11]), (8, range(8)), (2, range(2)), (1, range(1))):
        encoder = models.build("unet1d", n_leads=n_leads)
        assert list(encoder.modelled) == list(rows)
        encoder.scale.fill_(2)
        expected = x[:, list(rows)].numpy()
        expected = (expected - expected.mean(-1, keepdims=True)) / 2
        np.testing.assert_allclose(encoder.normalised(x[:, :n_leads]), expected, atol=1e-5)
        np.testing.assert_allclose(encoder.normalised(x[:, list(rows)]), expected, atol=1e-5)


def test_hidden_leads_and_derived_ones_do_not_reach_the_maps():
    encoder = models.build("unet1d").eval()
    x, kept = torch.randn(2, 8, 160), torch.tensor([[True, False] * 4, [True] * 8])
    other = torch.where(kept.unsqueeze(-1), x, torch.randn(2, 8, 160))
    for a, b in zip(encoder.pyramid(x, kept), encoder.pyramid(other, kept), strict=True):
        assert torch.equal(a, b)
    assert not torch.allclose(encoder.pyramid(x, kept)[0][0], encoder.pyramid(x, torch.ones_like(kept))[0][0])
    x12 = torch.randn(2, 12, 160)
    changed = x12.clone()
    changed[:, 2:6] = 7
    assert torch.equal(encoder(x12), encoder(changed))


def test_a_lead_of_zeros_is_flagged_as_missing():
    encoder = models.build("unet1d").eval()
    x = torch.randn(1, 12, 160)
    x[:, 7] = 0
    kept = torch.ones(1, 8, dtype=torch.bool)
    kept[0, 3] = False
    z = encoder.pyramid(encoder.normalised(x), kept)[-1].mean((2, 3))
    torch.testing.assert_close(encoder(x), z)


def plain(part, h):
    """Two convolutions, normalised by the running mean and variance, rectified; numpy correlation."""
    for conv, norm in ((part[0], part[1]), (part[3], part[4])):
        w = conv.weight.detach().double().numpy()[:, :, 0]
        pad = np.pad(h, ((0, 0), (w.shape[2] // 2,) * 2))
        y = np.stack([sum(np.correlate(p, k, "valid") for p, k in zip(pad, ks, strict=True)) for ks in w])
        mean, var = norm.running_mean.numpy()[:, None], norm.running_var.numpy()[:, None]
        gain, shift = norm.weight.detach().numpy()[:, None], norm.bias.detach().numpy()[:, None]
        h = np.maximum((y - mean) / np.sqrt(var + norm.eps) * gain + shift, 0)
    return h


def test_both_halves_equal_a_plain_computation_at_an_odd_length():
    torch.manual_seed(0)
    encoder = unet1d.Encoder(3, widths=(4, 5, 6), kernel=3)
    decoder = unet1d.Decoder(encoder)
    for module in (*encoder.modules(), *decoder.modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1), module.running_var.uniform_(0.5, 2)
    encoder.eval(), decoder.eval()
    x, kept = torch.randn(1, 3, 37), torch.tensor([[True, False, True]])
    ours = decoder(encoder.pyramid(x, kept), 37)
    h = np.pad(np.concatenate([x[0].numpy() * [[1], [0], [1]], np.tile([[1.0], [0], [1]], 37)]), ((0, 0), (0, 3)))
    h[3:, 37:] = np.array([[1.0], [0], [1]])  # flags hold over the padding too
    maps = []
    for part in encoder.levels:
        maps.append(plain(part, h))
        h = maps[-1].reshape(len(maps[-1]), -1, 2).max(-1)
    h = maps[-1]
    for part, fine in zip(decoder.levels, maps[-2::-1], strict=True):
        h = plain(part, np.concatenate([h.repeat(2, -1), fine]))
    out = decoder.out.weight.detach().numpy()[:, :, 0, 0] @ h + decoder.out.bias.detach().numpy()[:, None]
    assert ours.shape == (1, 3, 37)
    np.testing.assert_allclose(ours[0].detach(), out[:, :37], atol=1e-4)


@pytest.mark.parametrize("n_times, tokens", [(1000, 125), (1001, 126), (37, 5), (5000, 625)])
def test_pads_to_whole_tokens(n_times, tokens):
    encoder = models.build("unet1d").eval()
    assert encoder.tokens(torch.randn(1, 12, n_times)).shape == (1, tokens, 64)
