"""xresnet1d: counts, lengths, pooling, and one block by plain computation."""

import numpy as np
import pytest
import torch

from ecglib import models
from ecglib.models.encoders import xresnet1d

COUNTS = [("small", 192, 131_072), ("xresnet1d50", 512, 886_400), ("xresnet1d101", 512, 1_804_672)]


@pytest.mark.parametrize("size, dim, count", COUNTS)
def test_number_of_parameters(size, dim, count):
    """The trunks of the public code with twelve leads, without its two-layer head."""
    with torch.device("meta"):
        encoder = xresnet1d.Encoder(12, **xresnet1d.SIZES[size])
    assert encoder.dim == dim and models.n_parameters(encoder) == count


@pytest.mark.parametrize("n_times, tokens", [(1000, 32), (250, 8), (733, 23)])
def test_pools_the_mean_and_the_maximum_of_its_tokens(n_times, tokens):
    encoder = models.build("xresnet1d").eval()
    x = torch.randn(2, 12, n_times)
    h, z = encoder.tokens(x), encoder(x)
    assert h.shape == (2, tokens, 192)
    assert torch.equal(h[..., :96], h[..., 96:])
    torch.testing.assert_close(z, torch.cat([h[..., :96].mean(1), h[..., 96:].amax(1)], 1))


def test_block_equals_a_plain_computation_at_an_odd_length():
    torch.manual_seed(0)
    block = xresnet1d.Block(4, 3, 6, 5, 2).eval()
    x = torch.randn(1, 4, 1, 9)

    def unit(part, h, stride=1):
        w, norm = part[0].weight.detach().numpy()[:, :, 0], part[1]
        h = np.pad(h, ((0, 0), (w.shape[2] // 2,) * 2))
        out = [np.tensordot(w, h[:, i : i + w.shape[2]], 2) for i in range(0, h.shape[1] - w.shape[2] + 1, stride)]
        return np.stack(out, 1) / np.sqrt(1 + norm.eps) * norm.weight.detach().numpy()[:, None]

    h = x[0, :, 0].numpy()
    branch = np.maximum(unit(block.conv1, h), 0)
    branch = unit(block.conv3, np.maximum(unit(block.conv2, branch, 2), 0))
    pooled = np.stack([h[:, i : i + 2].mean(1) for i in range(0, 9, 2)], 1)  # the last window holds one sample
    expected = np.maximum(branch + unit(block.shortcut, pooled), 0)
    np.testing.assert_allclose(block(x)[0, :, 0].detach(), expected, atol=1e-5)


def test_residual_branches_start_small_but_learn_at_once():
    encoder = models.build("xresnet1d")
    blocks = [m for m in encoder.modules() if isinstance(m, xresnet1d.Block)]
    assert len(blocks) == 16 and all((b.conv3[1].weight == xresnet1d.BRANCH_GAIN).all() for b in blocks)
    encoder(torch.randn(4, 12, 200)).square().sum().backward()
    assert all(b.conv2[0].weight.grad.abs().sum() > 0 for b in blocks)
