"""Transformers on patches: published counts and functions, the attention pattern of K, the spectral filter."""

import numpy as np
import pytest
import torch
from torch import nn

from ecglib import EcgError, models
from ecglib.models.encoders import vit1d

# ecg-jepa.md sections 3 and 9, K without its table of positions; the autoencoder's with 2 numbers per complex value
COUNTS = {
    "small": 344_064,
    "small_k": 101_056,
    "small_plain": 247_680,
    "small_mae": 253_248,
    "jepa_w_xs": 3_600_000,
    "jepa_w_s": 14_277_888,
    "jepa_w_b": 85_185_024,
    "jepa_k": 85_067_520,
    "medium": 14_277_888,
    "large": 85_185_024,
}


def build(size, n_leads=12, **numbers):
    return models.build("vit1d", size, n_leads, **numbers).eval()


@pytest.mark.parametrize("size", vit1d.SIZES)
def test_sizes_have_the_published_number_of_parameters(size):
    with torch.device("meta"):
        encoder = vit1d.Encoder(12, **vit1d.SIZES[size])
    assert models.n_parameters(encoder) == COUNTS[size]


@pytest.mark.parametrize("size, n_times, tokens", [("small", 1000, 100), ("small_k", 1000, 400),
                                                   ("small_mae", 1000, 50), ("jepa_w_s", 5000, 200),
                                                   ("jepa_k", 2500, 400)])  # fmt: skip
def test_sizes_have_the_published_number_of_tokens(size, n_times, tokens):
    with torch.device("meta"):
        encoder = vit1d.Encoder(12, **vit1d.SIZES[size])
        assert encoder.tokens(torch.zeros(1, 12, n_times)).shape == (1, tokens, encoder.dim)


def test_patches_hold_their_samples_lead_after_lead_and_a_remainder_is_dropped():
    x = torch.arange(2 * 3 * 25.0).view(2, 3, 25)
    joint, single = (build(size, 3, patch=10).patches(x) for size in ("small", "small_k"))
    assert joint.shape == (2, 2, 30) and single.shape == (2, 6, 10)
    for record in range(2):
        for lead in range(3):
            for time in range(2):
                samples = x[record, lead, time * 10 : time * 10 + 10]
                assert torch.equal(joint[record, time, lead * 10 : lead * 10 + 10], samples)
                assert torch.equal(single[record, lead * 2 + time], samples)


def test_kim_takes_two_limb_leads_and_the_chest_leads_of_twelve():
    x = torch.randn(2, 12, 200)
    twelve, eight, three = (build("small_k", n) for n in (12, 8, 3))
    eight.load_state_dict(twelve.state_dict())
    torch.testing.assert_close(twelve(x), eight(x[:, [0, 1, 6, 7, 8, 9, 10, 11]]))
    assert three.tokens(x[:, :3]).shape[1] == 3 * 10


@pytest.mark.parametrize("size", ["small", "small_k", "small_mae"])
def test_signals_that_do_not_fit_are_refused(size):
    for shape in ((2, 11, 1000), (2, 12, 9)):
        with pytest.raises(EcgError, match="12 leads"):
            build(size)(torch.zeros(shape))
    with pytest.raises(EcgError, match="every block"):
        build(size, positions="never")


def test_a_token_of_kim_sees_its_lead_and_its_time():
    """Golden test 2: symmetric, 57 of 400 per row, 51 of 100 for two leads; and entry by entry."""
    mask = build("small_k", 8).mask(torch.arange(400), 400)
    assert torch.equal(mask, mask.T) and (mask.sum(1) == 57).all() and mask.sum() == 400 * 57
    assert (build("small_k", 2).mask(torch.arange(100), 100).sum(1) == 51).all()
    assert all(mask[i, j] == (i // 50 == j // 50 or i % 50 == j % 50) for i in (0, 57, 399) for j in range(400))
    assert build("small").mask(torch.arange(100), 100) is None


def test_what_kim_may_not_see_does_not_reach_a_token():
    """One block deep, a change of lead 3 at time 4 reaches lead 3 and time 4 only."""
    encoder = build("small_k", 8, depth=1)
    x = torch.randn(1, 8, 200)
    y = x.clone()
    y[:, 3, 80:100] += 1
    changed = (encoder.tokens(x) != encoder.tokens(y)).any(-1).view(8, 10)
    expected = torch.zeros(8, 10, dtype=torch.bool)
    expected[3], expected[:, 4] = True, True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("numbers", [{}, {"registers": 2}])
@pytest.mark.parametrize("size", ["small", "small_k", "small_mae"])
def test_dropped_tokens_are_never_seen(size, numbers):
    encoder = build(size, **numbers)
    x = torch.randn(3, 12, 200)
    h = encoder.embed(x)
    n, first = h.shape[1], len(encoder.registers)
    keep = torch.stack([torch.randperm(n)[:7].sort().values for _ in range(3)])
    out = encoder.encode(h, keep)
    assert out.shape == (3, first + 7, encoder.dim)
    spoilt = torch.full_like(h, 1e3).scatter(
        1, keep[..., None].expand(-1, -1, h.shape[2]), h.gather(1, keep[..., None].expand(-1, -1, h.shape[2]))
    )
    assert torch.equal(encoder.encode(spoilt, keep), out)
    same = keep[:1].expand(3, -1)
    torch.testing.assert_close(encoder.encode(h, keep[0]), encoder.encode(h, same))
    torch.testing.assert_close(encoder.encode(h, torch.arange(n)), encoder.encode(h))
    torch.testing.assert_close(encoder.encode(h)[:, first:].mean(1), encoder(x))


def test_positions_follow_the_length_and_tell_times_and_leads_apart():
    for size, n in (("small", 100), ("small_k", 400)):
        encoder = build(size)
        table = encoder.positions(n)
        assert (torch.cdist(table, table) + 9 * torch.eye(n) > 1e-2).all()
        x = torch.zeros(1, 12, 1000)
        assert encoder.tokens(x)[0].std(0).mean() > 1e-3  # equal patches, different tokens
    encoder = build("small")
    torch.testing.assert_close(encoder.embed(torch.ones(1, 12, 500)), encoder.embed(torch.ones(1, 12, 1000))[:, :50])


def test_positions_enter_every_block_of_kim():
    encoder = build("small_k", 8, depth=2)
    h = encoder.embed(torch.randn(1, 8, 100))
    position, mask = encoder.positions(h.shape[1]), encoder.mask(torch.arange(40), 40)
    expected = encoder.blocks[1](encoder.blocks[0](h, mask=mask) + position, mask=mask)
    torch.testing.assert_close(encoder.encode(h), encoder.norm(expected))
    once = build("small_k", 8, depth=2, positions="once")
    once.load_state_dict(encoder.state_dict())
    assert not torch.allclose(once.encode(h), encoder.encode(h), atol=1e-3)


def test_filter_starts_as_the_identity_and_removes_what_its_response_removes():
    """Golden tests 1 and 2 of feel-the-heart.md, for the filter's own length and for others."""
    torch.manual_seed(0)
    block = vit1d.FilterBlock(6, 20)
    for n in (20, 21, 7, 64):
        x = torch.randn(2, n, 6)
        h = block.norm(x)
        torch.testing.assert_close(block(x), x, atol=1e-6, rtol=0)
        with torch.no_grad():
            block.response.zero_()
        torch.testing.assert_close(block(x), x - h, atol=1e-6, rtol=0)
        with torch.no_grad():  # a unit-modulus response keeps the length of h; real at both ends
            angle = torch.rand(11, 6) * 6
            angle[[0, -1]] = 0
            block.response.copy_(torch.stack([angle.cos(), angle.sin()], -1))
        if n == 20:
            filtered = block(x) - x + h
            torch.testing.assert_close(filtered.norm(dim=1), h.norm(dim=1), atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            block.response.copy_(torch.tensor([1.0, 0.0]))


def test_filter_is_a_circular_convolution_and_keeps_its_curve_at_other_lengths():
    torch.manual_seed(0)
    block = vit1d.FilterBlock(3, 16)
    nn.init.normal_(block.response)
    x = torch.randn(1, 16, 3)
    kernel = np.fft.irfft(torch.view_as_complex(block.response).detach().numpy(), n=16, axis=0)
    h = block.norm(x)[0].detach().numpy()
    f = [[sum(kernel[j, c] * h[(t - j) % 16, c] for j in range(16)) for c in range(3)] for t in range(16)]
    np.testing.assert_allclose(block(x)[0].detach(), x[0].numpy() + f - h, atol=1e-5)
    assert torch.equal(block.at(32)[::2], block.at(16))  # same frequencies, same response
    torch.testing.assert_close(block.at(32)[1], block.at(16)[:2].mean(0))


def test_registers_see_and_are_seen():
    encoder = build("small")
    x = torch.randn(2, 12, 200)
    before = encoder.tokens(x)
    assert encoder.encode(encoder.embed(x)).shape == (2, 21, 96)
    with torch.no_grad():
        encoder.registers.copy_(torch.randn(1, 96))
    assert (encoder.tokens(x) - before).abs().max() > 1e-4
    assert "registers" not in build("small", registers=0).state_dict()


def test_kim_has_the_published_position_table():
    """Entry by entry from the pack's note, and another table is refused."""
    encoder = vit1d.Encoder(8, dim=24, depth=1, heads=2, patch=50, **vit1d.K)
    table = encoder.positions(400)
    rates = 10000 ** (-np.arange(6) / 6)
    for token in (0, 49, 50, 399):
        parts = [f(p * rates) for p in (token % 50, token // 50) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(table[token], np.concatenate(parts), atol=1e-6)
    assert vit1d.from_published({"pos_embed": table}) == {}
    with pytest.raises(EcgError, match="position table"):
        vit1d.from_published({"pos_embed": table.flip(0)})


def test_whole_checkpoints_give_the_teacher_and_unknown_tensors_are_refused():
    weight = {name: torch.full((1, 1, 4), float(i)) for i, name in enumerate(("encoder", "target_encoder"))}
    state = {f"{name}.registers": value for name, value in weight.items()} | {"predictor.norm.weight": torch.ones(2)}
    assert torch.equal(vit1d.from_published(state)["registers"], torch.ones(1, 4))
    with pytest.raises(EcgError, match="unknown tensor encoder.layer_scale"):
        vit1d.from_published({"encoder.layer_scale": torch.ones(1)})
    with pytest.raises(EcgError, match="attentive head"):
        vit1d.attentive_head(state)
