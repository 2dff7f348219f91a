"""What is hidden: counts, lengths and places of masks."""

import collections
import itertools
import math
import random

import pytest
import torch

from ecglib import EcgError
from ecglib.training import masking


def stretches(row):
    """Lengths of the maximal hidden stretches of one mask."""
    return [sum(1 for _ in group) for hidden, group in itertools.groupby(row.tolist()) if hidden]


def test_multi_block_hides_exactly_so_many_in_long_stretches():
    """ecg-jepa.md golden test 3: 1000 draws of 30 .. 50 visible tokens of 200, runs of at least 10."""
    torch.manual_seed(0)
    seen = []
    for n_keep in range(30, 51):
        keep, mask = masking.multi_block(48, 200, n_keep, 10)
        assert keep.shape == (48, n_keep) and keep.dtype == torch.int64 and mask.shape == (48, 200)
        assert all(
            sorted(k.tolist() + m.nonzero()[:, 0].tolist()) == list(range(200)) for k, m in zip(keep, mask, strict=True)
        )
        assert (keep.diff(dim=1) > 0).all()
        seen += [stretches(row) for row in mask]
    assert len(seen) > 1000 and min(min(lengths) for lengths in seen) >= 10
    assert len({len(lengths) for lengths in seen}) > 3 and max(max(lengths) for lengths in seen) > 100


def test_multi_block_first_run_is_uniform_in_length_and_place():
    """10 of 20 tokens in runs of 10 or more are one run, at any of 11 places."""
    torch.manual_seed(0)
    _, mask = masking.multi_block(4000, 20, 10, 10)
    start = mask.float().argmax(1)
    assert all(stretches(row) == [10] for row in mask)
    counts = torch.bincount(start, minlength=11)
    assert len(counts) == 11 and (counts - 4000 / 11).abs().max() < 5 * (4000 / 11) ** 0.5


def chances(n, visible, left, run):
    """Exact distribution of what stays visible: {tuple of visible tokens: probability}, by following every draw."""
    if not left:
        return {visible: 1.0}
    total, edges = {}, set(range(n)) - set(visible)
    pieces = [[t for _, t in g] for _, g in itertools.groupby(enumerate(visible), lambda pair: pair[1] - pair[0])]
    for piece in pieces:
        sizes = range(run, left + 1) if left >= run else [left]
        for size in sizes:
            places = [piece[i : i + size] for i in range(max(1, len(piece) - size + 1))]
            if left < run:  # next to a hidden token
                places = [p for p in (places[0], places[-1]) if p[0] - 1 in edges or p[-1] + 1 in edges]
            for place in places:
                chance = len(piece) / len(visible) / len(sizes) / len(places)
                rest = tuple(t for t in visible if t not in place)
                for final, p in chances(n, rest, left - len(place), run).items():
                    total[final] = total.get(final, 0) + chance * p
    return total


def test_multi_block_follows_the_stated_distribution():
    torch.manual_seed(0)
    for n, n_keep, run in ((7, 3, 1), (7, 2, 2), (9, 4, 2)):
        expected = chances(n, tuple(range(n)), n - n_keep, run)
        assert sum(expected.values()) == pytest.approx(1)
        drawn = collections.Counter(map(tuple, masking.multi_block(20_000, n, n_keep, run)[0].tolist()))
        assert set(drawn) == set(expected)
        chi2 = sum((drawn[kept] - 20_000 * p) ** 2 / (20_000 * p) for kept, p in expected.items())
        assert chi2 < len(expected) + 5 * (2 * len(expected)) ** 0.5


def test_multi_block_with_little_to_hide_makes_one_stretch():
    torch.manual_seed(0)
    _, mask = masking.multi_block(50, 8, 5, 5)
    assert all(stretches(row) == [3] for row in mask)
    for n_keep in (0, 8):
        with pytest.raises(EcgError, match="keep"):
            masking.multi_block(2, 8, n_keep, 5)


def test_time_blocks_are_never_empty_and_never_full():
    """ecg-jepa.md golden test 4; blocks of 8 .. 11 of 50 tokens, both ends within reach."""
    torch.manual_seed(0)
    masks = torch.stack([masking.time_blocks(50) for _ in range(2000)])
    hidden = masks.sum(1)
    assert hidden.min() >= 8 and hidden.max() <= 44
    assert masks[:, 0].any() and masks[:, -1].any()
    singles = [stretches(masking.time_blocks(50, 1))[0] for _ in range(500)]
    assert set(singles) == {8, 9, 10, 11}
    assert {int(masking.time_blocks(10, 1, 0.5, 0.5).float().argmax()) for _ in range(200)} == set(range(6))


def test_time_blocks_that_could_hide_everything_are_refused():
    with pytest.raises(EcgError, match="4 blocks"):
        masking.time_blocks(4)
    with pytest.raises(EcgError, match="blocks"):
        masking.time_blocks(50, 5)
    with pytest.raises(EcgError, match="0 blocks"):
        masking.time_blocks(50, 0)


def test_masks_repeat_with_the_seed_of_the_global_generator():
    draws = []
    for _ in range(2):
        torch.manual_seed(4)
        draws.append((masking.time_blocks(50), *masking.multi_block(3, 40, 9, 5)))
    assert all(torch.equal(a, b) for a, b in zip(*draws, strict=True))


def classic_spans(n, p, length, draw):
    """One row of wav2vec 2.0's sampler: starts without replacement, their number rounded at random, at least two."""
    hidden = set()
    for start in draw.sample(range(n - length + 1), max(2, int(p * n / length + draw.random()))):
        hidden.update(range(start, start + length))
    return len(hidden)


@pytest.mark.parametrize("n, length", [(156, 10), (62, 4), (20, 4)])
def test_spans_hide_what_the_sampler_of_wav2vec_hides_on_average(n, length):
    """ecg-fm.md golden test 5 at 156 tokens: 0.494 within 0.005 over 20,000 draws."""
    draw = random.Random(0)
    mean = sum(classic_spans(n, 0.65, length, draw) for _ in range(20_000)) / 20_000 / n
    assert masking.spans_hide(n, 0.65, length) / n == pytest.approx(mean, abs=0.003)
    share = masking.spans(50, n, 0.65, length).float().mean(1)
    assert (share == share[0]).all() and abs(float(share[0]) - mean) <= 0.5 / n + 0.003
    if n == 156:
        assert float(share[0]) == pytest.approx(0.494, abs=0.005) and mean == pytest.approx(0.494, abs=0.005)


@pytest.mark.parametrize("n, p, length", [(62, 0.65, 4), (8, 0.65, 4), (40, 0.01, 7), (30, 1.0, 3), (30, 30.0, 3)])
def test_spans_are_whole_and_of_one_total(n, p, length):
    torch.manual_seed(0)
    mask = masking.spans(300, n, p, length)
    total = round(masking.spans_hide(n, p, length))
    assert mask.dtype == torch.bool and mask.shape == (300, n) and (mask.sum(1) == total).all()
    assert all(min(stretches(row)) >= length for row in mask)
    assert total > length  # two spans at least


def test_spans_lie_everywhere():
    torch.manual_seed(0)
    often = masking.spans(4000, 62, 0.65, 4).float().mean(0)
    assert (often[5:-5] - often[5:-5].mean()).abs().max() < 0.04
    assert (often - often.flip(0)).abs().max() < 0.04 and often[0] < often[3] < often[10]
    with pytest.raises(EcgError, match="7 tokens are too few for spans of 4"):
        masking.spans(2, 7, 0.65, 4)
    assert (masking.spans(3, 20, 0.0, 5, min_spans=0).sum(1) == 5).all()


def test_leads_are_dropped_with_their_probability_but_never_all():
    """ecg-fm.md golden test 5: independent draws hide all of 12 leads once in 4096; here one of them stays."""
    torch.manual_seed(0)
    kept = masking.lead_drop(60_000, 12, 0.5)
    counts = kept.sum(1).bincount(minlength=13) / 60_000
    expected = torch.tensor([math.comb(12, k) / 4096 for k in range(13)])
    expected[1] += expected[0]
    expected[0] = 0
    torch.testing.assert_close(counts, expected, atol=0.006, rtol=0)
    assert (kept.float().mean(0) - 0.5).abs().max() < 0.01
    assert masking.lead_drop(500, 1, 0.9).all() and masking.lead_drop(500, 4, 0.0).all()
    lonely = masking.lead_drop(9000, 3, 1.0)
    assert (lonely.sum(1) == 1).all() and (lonely.float().mean(0) - 1 / 3).abs().max() < 0.02


def test_a_lead_that_is_missing_is_not_the_one_that_stays():
    torch.manual_seed(0)
    present = torch.rand(2000, 6) < 0.4
    present[:, 5] |= ~present.any(1)
    kept = masking.lead_drop(2000, 6, 0.8, present)
    assert kept.any(1).all() and not (kept & ~present).any()
    assert kept[present].float().mean() > 0.2  # what is spared adds to the fifth that the draw keeps


def test_lead_subsets_have_uniform_sizes_and_members():
    torch.manual_seed(0)
    kept = masking.lead_subsets(20_000, 6, 2, 5)
    sizes = kept.sum(1).bincount(minlength=7) / 20_000
    torch.testing.assert_close(sizes, torch.tensor([0, 0, 0.25, 0.25, 0.25, 0.25, 0]), atol=0.015, rtol=0)
    assert (kept.float().mean(0) - 3.5 / 6).abs().max() < 0.015


def test_lead_subsets_of_what_is_there():
    torch.manual_seed(0)
    present = torch.zeros(9000, 8, dtype=torch.bool)
    present[:, [2, 5]] = True
    kept = masking.lead_subsets(9000, 8, 1, 7, present)
    assert not (kept & ~present).any() and kept.any(1).all()
    assert abs((kept.sum(1) == 2).float().mean() - 0.5) < 0.02  # sizes 1 and 2
    one = masking.lead_subsets(9000, 8, 1, present.sum(1) - 1, present)
    assert (one.sum(1) == 1).all() and (one.float().mean(0)[[2, 5]] - 0.5).abs().max() < 0.02
    assert torch.equal(masking.lead_subsets(9000, 8, 3, 5, present), present)  # fewer than the least
    assert not masking.lead_subsets(5, 8, 1, 7, torch.zeros(5, 8, dtype=torch.bool)).any()
    high = torch.tensor([1, 4]).repeat(4000)
    sizes = masking.lead_subsets(8000, 8, 1, high).sum(1)
    assert (sizes[::2] == 1).all()
    assert (sizes[1::2].bincount(minlength=5)[1:] / 4000 - 0.25).abs().max() < 0.03


def test_masked_mean_counts_the_mask_and_is_zero_with_a_gradient_without_one():
    values = torch.randn(3, 4, 5, requires_grad=True)
    mask = torch.rand(3, 1, 5) < 0.5
    expected = torch.stack([values[i, :, t].sum() for i, t in mask[:, 0].nonzero()]).sum() / (mask.sum() * 4)
    torch.testing.assert_close(masking.masked_mean(values, mask), expected)
    torch.testing.assert_close(masking.masked_mean(values, mask.float()), expected)
    empty = masking.masked_mean(values, torch.zeros(3, 1, 5, dtype=torch.bool))
    empty.backward()
    assert empty == 0 and torch.equal(values.grad, torch.zeros(3, 4, 5))


def test_random_tokens_are_sorted_and_the_mask_is_the_rest():
    torch.manual_seed(0)
    keep, mask = masking.random_tokens(3000, 10, 4)
    assert keep.shape == (3000, 4) and (keep.diff(dim=1) > 0).all() and (mask.sum(1) == 6).all()
    assert not mask.gather(1, keep).any()
    assert (mask.float().mean(0) - 0.6).abs().max() < 0.03
