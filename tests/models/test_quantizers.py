"""The vector quantiser: golden values of heartlang.md section 7 and a plain computation of every step."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ecglib.models.quantizers import Quantizer, Vocabulary, perplexity


def started(n_codes=6, dim=4, seed=0, **options):
    """A quantiser in training whose codes are set, so that the first batch does not start it."""
    torch.manual_seed(seed)
    quantiser = Quantizer(n_codes, dim, **options)
    quantiser.ready.fill_(1)
    return quantiser


def test_nearest_code_of_the_unit_input():
    quantiser = started(50, 8)
    z = 7 * torch.randn(3, 40, 8)
    unit = z.numpy() / np.linalg.norm(z.numpy(), axis=-1, keepdims=True)
    distance = np.square(unit[:, :, None] - quantiser.codes.numpy()).sum(-1)
    said = quantiser.eval()(z)
    np.testing.assert_array_equal(said.index, distance.argmin(-1))
    np.testing.assert_allclose(said.vectors, quantiser.codes[said.index], atol=1e-6)
    assert said.commitment.item() == pytest.approx(distance.min(-1).mean() / 8, rel=1e-5)


def test_codes_that_are_not_unit_vectors_count_with_their_length():
    quantiser = started(2, 2)
    quantiser.codes.copy_(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    assert quantiser.nearest(torch.tensor([[0.5, 0.8], [0.0, 1.0]])).tolist() == [0, 0]


def test_the_gradient_passes_straight_through():
    """Of the decoder's input with respect to the unit vector in front of the quantiser: the identity."""
    quantiser = started().eval()
    z = F.normalize(torch.randn(5, 4), dim=-1).requires_grad_()
    weight = torch.randn(5, 4)
    weight -= (weight * z.detach()).sum(-1, keepdim=True) * z.detach()  # tangential: scaling to unit length is inert
    (quantiser(z).vectors * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(quantiser(z).vectors, z, atol=1e-3)


def test_the_commitment_moves_the_input_towards_its_code_and_leaves_words_out():
    quantiser = started().eval()
    z = torch.randn(5, 4, requires_grad=True)
    real = torch.tensor([True, True, False, True, False])
    said = quantiser(z, real)
    off = (F.normalize(z, dim=-1) - quantiser.codes[said.index]).square().mean(-1)
    torch.testing.assert_close(said.commitment, off[real].mean())
    said.commitment.backward()
    assert z.grad[real].any(-1).all() and not z.grad[~real].any()


def test_one_step_of_the_moving_average():
    """Decay 0.99: a used code becomes the normalised blend with the direction of its sum, others stay."""
    quantiser = started(n_codes=8, decay=0.99)
    before = quantiser.codes.clone()
    z, real = torch.randn(3, 5, 4), torch.rand(3, 5) < 0.7
    index = quantiser(z, real).index
    assert torch.equal(quantiser.codes, before)
    quantiser.update()
    unit = F.normalize(z, dim=-1)
    used = 0
    for code in range(8):
        mine = unit[real & (index == code)]
        if not len(mine):
            assert torch.equal(quantiser.codes[code], before[code])
            continue
        used += 1
        centre = mine.mean(0) / mine.mean(0).norm()
        blend = 0.99 * before[code] + 0.01 * centre
        torch.testing.assert_close(quantiser.codes[code], blend / blend.norm())
        assert not torch.equal(quantiser.codes[code], before[code])
    assert 2 <= used < 8
    after = quantiser.codes.clone()
    quantiser.update()  # nothing new was seen
    assert torch.equal(quantiser.codes, after)


def test_codes_follow_clusters_that_move():
    quantiser = started(2, 2, decay=0.9)
    quantiser.codes.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    for angle in np.linspace(0, 1, 60):
        ray = torch.tensor([[np.cos(angle), np.sin(angle)]], dtype=torch.float32)
        quantiser(torch.cat([ray, -ray]))
        quantiser.update()
    assert (quantiser.codes[0] @ ray[0]) > 0.97 and (quantiser.codes[1] @ ray[0]) < -0.97


def test_unused_codes_are_seeded_anew():
    quantiser = started(2, 2, reseed_after=3)
    quantiser.codes.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    z = torch.tensor([[1.0, 0.5], [1.0, -0.5]])
    for step in range(3):
        assert quantiser.codes[1].tolist() == [-1.0, 0.0] and quantiser.idle.tolist() == [0, step]
        quantiser(z)
        quantiser.update()
    assert quantiser.idle.tolist() == [0, 0]
    assert any(torch.allclose(quantiser.codes[1], one) for one in F.normalize(z, dim=-1))
    assert sorted(quantiser(z).index.tolist()) == [0, 1]


def test_the_first_batch_starts_the_codes_by_k_means():
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(3, 16), dim=-1)
    z = F.normalize(centres.repeat(200, 1) + 0.02 * torch.randn(600, 16), dim=-1)
    quantiser = Quantizer(12, 16).eval()
    quantiser(z)
    assert not quantiser.ready
    said = quantiser.train()(z)
    assert quantiser.ready and said.commitment * 16 < 0.01
    torch.testing.assert_close(quantiser.codes.norm(dim=1), torch.ones(12))
    means = F.normalize(torch.stack([z[said.index == c].sum(0) for c in said.index.unique()]), dim=-1)
    assert (quantiser.codes[said.index.unique()] * means).sum(-1).min() > 0.999
    few = Quantizer(12, 16)
    assert few(z[:3]).index.unique().numel() == 3 and few.ready


def test_nothing_happens_in_evaluation_or_without_words():
    quantiser = started()
    before = {k: v.clone() for k, v in quantiser.state_dict().items()}
    quantiser.eval()(torch.randn(9, 4))
    quantiser.update()
    assert all(torch.equal(v, before[k]) for k, v in quantiser.state_dict().items())
    fresh = Quantizer(4, 4)
    said = fresh(torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool))
    fresh.update()
    assert said.commitment == 0 and not fresh.ready and torch.isfinite(fresh.codes).all()


def test_vocabulary_and_perplexity():
    vocabulary = Vocabulary(8, 10, 4).eval()
    h = torch.randn(2, 7, 8)
    assert torch.equal(vocabulary.index(h), vocabulary(h).index)
    assert sorted({k.split(".")[0] for k in vocabulary.state_dict()}) == ["head", "quantiser"]
    for counts in ([4, 4, 4, 4], [16, 0, 0, 0], [8, 4, 2, 2]):
        p = np.array([c / 16 for c in counts if c])
        index = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
        assert perplexity(index, 10).item() == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
    assert perplexity(index[:0], 10) == 1
