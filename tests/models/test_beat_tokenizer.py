"""The QRS tokeniser: golden cuts of heartlang.md section 7, the published sentences, and what they lose."""

import numpy as np
import pytest
import torch

from ecglib import EcgError
from ecglib.models import beat_tokenizer

GOLDEN = [30, 110, 190, 330, 420]


def plain_words(x, peaks, order, limit):
    """Record x (lead, time) at 100 Hz cut beat by beat; peaks rise."""
    n_leads, n_times = x.shape
    pieces = []
    for i, r in enumerate(peaks):
        start = (peaks[i - 1] + r) // 2 if i else max(r - 48, 0)
        end = (r + peaks[i + 1]) // 2 if i + 1 < len(peaks) else min(r + 48, n_times)
        if len(peaks) == 1:
            end = min(start + 96, n_times)
        if end - start > 96:
            start = max(r - 48, 0)
            end = min(start + 96, n_times)
        offset = max(48 - (r - start), 0)
        end = min(end, start + 96 - offset)
        pieces.append((slice(offset, offset + end - start), slice(start, end), r // 100 + 1))
    pairs = [(b, c) for b in range(len(peaks)) for c in range(n_leads)]
    if order == "lead":
        pairs = sorted(pairs, key=lambda pair: pair[1])
    else:
        pairs = pairs[: limit // n_leads * n_leads]
    tokens, lead, time = np.zeros((limit, 96), np.float32), np.zeros(limit, int), np.zeros(limit, int)
    for i, (b, c) in enumerate(pairs[:limit]):
        to, of, second = pieces[b]
        tokens[i, to], lead[i], time[i] = x[c, of], c + 1, second
    return tokens, lead, time


def test_golden_cuts():
    peaks = torch.tensor([GOLDEN])
    start, end, offset = beat_tokenizer.bounds(peaks, torch.tensor([[5]]), 1000)
    cuts = torch.stack([start, end, offset], -1)[0].tolist()
    assert cuts == [[0, 70, 18], [70, 150, 8], [142, 238, 0], [282, 378, 0], [375, 468, 3]]
    words = beat_tokenizer.tokenize(torch.rand(1, 1, 1000) + 1, peaks)
    assert words.time.tolist() == [[1, 2, 2, 4, 5]] and words.lead.tolist() == [[1] * 5]


def test_a_single_peak_is_cut_to_a_whole_word():
    start, end, offset = beat_tokenizer.bounds(torch.tensor([[20]]), torch.tensor([[1]]), 1000)
    assert (start.item(), end.item(), offset.item()) == (0, 96, 28)
    x = torch.arange(1.0, 1001).expand(1, 1, -1)
    for r, first, last, offset in ((500, 452, 547, 0), (20, 0, 67, 28), (990, 942, 999, 0)):
        word = beat_tokenizer.tokenize(x, torch.tensor([[r]])).tokens[0, 0]
        assert word[offset] == first + 1 and word[word != 0][-1] == last + 1
        assert word[48] == r + 1


@pytest.mark.parametrize("order", ["time", "lead"])
@pytest.mark.parametrize("n_leads, limit", [(12, 60), (12, 256), (3, 10), (1, 40)])
def test_equals_a_plain_loop_with_padded_peaks_in_any_place(order, n_leads, limit):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((4, n_leads, 1000)).astype(np.float32)
    found = [np.sort(generator.choice(1000, n, replace=False)) for n in (1, 5, 11, 30)]
    found[1] = np.array(GOLDEN)
    peaks = np.full((4, 33), -1)
    for line, one in zip(peaks, found, strict=True):
        line[: len(one)] = one
    peaks[1] = np.roll(peaks[1], 4)
    words = beat_tokenizer.tokenize(
        torch.from_numpy(x), torch.from_numpy(peaks), limit=limit, order=order, fallback=False, full=True
    )
    for i in range(4):
        tokens, lead, time = plain_words(x[i], found[i].tolist(), order, limit)
        np.testing.assert_array_equal(words.tokens[i], tokens)
        np.testing.assert_array_equal(words.lead[i], lead)
        np.testing.assert_array_equal(words.time[i], time)
        np.testing.assert_array_equal(words.real[i], lead > 0)
    short = beat_tokenizer.tokenize(
        torch.from_numpy(x), torch.from_numpy(peaks), limit=limit, order=order, fallback=False
    )
    n = short.real.shape[1]
    assert n == min(30 * n_leads, limit if order == "lead" else limit // n_leads * n_leads)
    assert all(torch.equal(a, b[:, :n]) for a, b in zip(short, words, strict=True))


def test_fast_hearts_lose_last_beats_and_never_a_lead():
    """12 leads x 22 beats = 264 words in a sentence of 256."""
    x, peaks = torch.rand(1, 12, 1000) + 1, torch.arange(22)[None] * 44 + 20
    words = beat_tokenizer.tokenize(x, peaks, limit=256, order="lead")
    assert torch.bincount(words.lead[0]).tolist() == [0] + [22] * 11 + [14]
    words = beat_tokenizer.tokenize(x, peaks, limit=256)
    assert torch.bincount(words.lead[0]).tolist() == [0] + [21] * 12
    assert beat_tokenizer.beat_numbers(words.lead)[0].tolist() == [t // 12 for t in range(252)]


def test_without_peaks_seconds_stand_in_or_the_sentence_is_empty():
    x, peaks = torch.rand(2, 2, 1000) + 1, torch.tensor([[-1, -1], [100, 900]])
    words = beat_tokenizer.tokenize(x, peaks)
    assert words.real.sum(1).tolist() == [20, 4]
    assert words.time[0].tolist() == [t // 2 + 1 for t in range(20)]
    assert torch.equal(words.tokens[0, 2], x[0, 0, 102:198])
    for none in (torch.full((2, 3), -1), torch.zeros(2, 0, dtype=torch.int64)):
        words = beat_tokenizer.tokenize(x, none, fallback=False)
        assert not words.real.any() and not words.tokens.any() and not words.lead.any() and not words.time.any()
    assert beat_tokenizer.tokenize(x[..., :30], torch.full((2, 1), -1)).real.sum(1).tolist() == [2, 2]


def test_words_of_missing_leads_are_not_real():
    x = torch.rand(1, 3, 1000) + 1
    x[:, 1] = 0
    words = beat_tokenizer.tokenize(x, torch.tensor([GOLDEN]))
    assert words.real.tolist() == [[True, False, True] * 5] and words.lead[0, :3].tolist() == [1, 2, 3]


@pytest.mark.parametrize("fs", [250, 500, 360])
def test_other_rates_give_the_same_words(fs):
    """A signal without content above 30 Hz, written at another rate, against itself at 100 Hz."""

    def signal(rate):
        t = torch.arange(10 * rate, dtype=torch.float64) / rate
        waves = [torch.exp(-0.5 * ((t - r / 100) / 0.03) ** 2) + 0.1 * torch.cos(2 * t) for r in GOLDEN]
        return torch.stack([sum(waves), 2 * waves[0]])[None].float()

    peaks = torch.tensor([GOLDEN])
    theirs = beat_tokenizer.tokenize(signal(fs), torch.round(peaks * (fs / 100)).long(), fs)
    ours = beat_tokenizer.tokenize(signal(100), peaks)
    assert torch.equal(theirs.real, ours.real) and torch.equal(theirs.time, ours.time)
    torch.testing.assert_close(theirs.tokens, ours.tokens, atol=2e-3, rtol=0)
    assert beat_tokenizer.resample(torch.full((1, 1, 733), 3.0), fs).allclose(torch.tensor(3.0))
    fast = torch.sin(2 * torch.pi * 80 * torch.arange(10 * fs) / fs)[None, None]
    assert beat_tokenizer.resample(fast, fs)[..., 20:-20].abs().max() < 0.02


def test_bad_input_is_refused():
    x, peaks = torch.rand(2, 12, 1000), torch.full((2, 3), -1)
    for field, arguments, options in (
        ("order", (x, peaks), {"order": "beat"}),
        ("limit", (x, peaks), {"limit": 11}),
        ("peaks", (x, peaks[:1]), {}),
    ):
        with pytest.raises(EcgError) as error:
            beat_tokenizer.tokenize(*arguments, **options)
        assert error.value.field == field
