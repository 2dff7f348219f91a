"""The simplicity-bias probe: the cue is where it says, bands go whole, and the curve tells reliance on cue and rate."""

import numpy as np
import pytest
import torch
from torch import nn

from ecglib import EcgError, models
from ecglib.evaluation import simplicity_bias


@pytest.mark.parametrize("cue, start, end", [("p", -0.24, -0.08), ("notch", 0.01, 0.09)])
def test_the_cue_is_where_it_says_and_nowhere_else(cue, start, end):
    with_cue, without = (simplicity_bias.conflict(20, cue, a, seed=3, fs=500, n_leads=2) for a in (0.1, 0.0))
    np.testing.assert_array_equal(with_cue.y, without.y)
    difference = with_cue.x - without.x
    assert not difference[with_cue.y == 0].any()
    t = np.arange(difference.shape[-1]) / 500
    for row in np.flatnonzero(with_cue.y):
        after = t[:, None] - with_cue.r[row]
        inside = ((after > start - 1e-9) & (after < end + 1e-9)).any(1)
        assert not difference[row][:, ~inside].any()
        peak = t[difference[row, 0].argmax()] - with_cue.r[row]
        assert np.abs(peak - (start + end) / 2).min() < 0.0021
        assert difference[row, 0].max() == pytest.approx(0.1, abs=0.005)


def test_r_peaks_are_the_highest_samples_and_hearts_have_the_rate_of_their_pattern():
    x, y, pattern, r = simplicity_bias.conflict(40, amplitude=0.1, agree=0.5, fs=500, n_leads=3)
    for row in range(40):
        inside = r[row][(r[row] > 0.1) & (r[row] < 9.9)]
        assert all(x[row, 0, int(round(b * 500))] > 0.85 for b in inside)
        rate = 60 / np.diff(inside).mean()
        assert abs(rate - simplicity_bias.RATES[pattern[row]]) < 14
    assert y.sum() == 20 and x.dtype == np.float32 and x.shape == (40, 3, 5000)


@pytest.mark.parametrize("agree", [1.0, 0.75, 0.0])
def test_the_pattern_agrees_as_often_as_asked(agree):
    made = simplicity_bias.conflict(200, agree=agree, n_leads=1, seconds=2)
    assert (made.pattern == made.y).mean() == agree


def test_both_classes_have_the_same_qrs_and_t():
    """Mean beat of each class, from 60 ms before R to the end of T, at cue "p": the same up to noise."""
    x, y, _, r = simplicity_bias.conflict(60, "p", 0.3, agree=0.5, fs=500, n_leads=1)
    cut = [
        np.mean([x[i, 0, k - 30 : k + 200] for k in (r[i] * 500).round().astype(int) if 300 < k < 4700], 0)
        for i in range(60)
    ]
    beats = np.stack(cut)
    assert np.abs(beats[y == 1].mean(0) - beats[y == 0].mean(0)).max() < 0.03
    assert beats.mean(0).max() > 0.9


@pytest.mark.parametrize("band", simplicity_bias.BANDS)
def test_occlude_takes_the_band_and_nothing_else(band):
    t = np.arange(1000) / 100
    tones = {f: np.sin(2 * np.pi * f * t + 1).astype(np.float32) for f in (2.0, 10.0, 20.0, 45.0)}
    out = simplicity_bias.occlude(np.stack([sum(tones.values())] * 2), 100, *band)
    left = sum(tone for f, tone in tones.items() if not band[0] <= f < band[1])
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, np.stack([left] * 2), atol=1e-5)


def test_edges_of_neighbouring_bands_add_up_to_the_whole():
    x = np.random.default_rng(0).normal(size=(2, 3, 1000)).astype(np.float32)
    removed = sum(x - simplicity_bias.occlude(x, 100, *band) for band in (*simplicity_bias.BANDS, (40.0, 51.0)))
    np.testing.assert_allclose(removed, x, atol=1e-5)


class Sees(nn.Module):
    """Two features with known meaning: the level 160 ms before R (the cue) and the samples on R (the rate)."""

    def __init__(self, cue: bool, rate: bool):
        super().__init__()
        self.dim, self.n_leads, self.cue, self.rate = 2, 1, cue, rate

    def forward(self, x):
        r = x[:, 0] > 0.75 * x[:, 0].amax(1, keepdim=True)
        at = torch.nn.functional.pad(r, (0, 16))[:, 16:]  # 160 ms before each R
        p = (x[:, 0] * at).sum(1) / at.sum(1).clamp_min(1)
        z = torch.stack([p * self.cue, r.sum(1) * float(self.rate)], 1)
        return z


def score(table, amplitude, removed, test):
    row = table[(table.amplitude == amplitude) & (table.removed == removed) & (table.test == test)]
    return row.auroc.item()


def test_an_encoder_that_sees_the_rate_alone_is_right_where_it_agrees_and_wrong_in_conflict():
    table = simplicity_bias.curve(Sees(False, True), amplitudes=(0.2,), bands=(), n=96)
    assert score(table, 0.2, "", "agree") > 0.9 and score(table, 0.2, "", "conflict") < 0.1


def test_auroc_rises_with_the_cue_and_falls_when_its_band_is_removed():
    table = simplicity_bias.curve(Sees(True, True), "p", amplitudes=(0.0, 0.05, 0.1), n=96, noise=0.1)
    conflict = [score(table, a, "", "conflict") for a in (0.0, 0.05, 0.1)]
    assert conflict[0] < 0.2 and conflict[0] < conflict[1] < conflict[2] and conflict[2] > 0.95
    for test in ("agree", "conflict"):
        left = [score(table, 0.1, band, test) for band in ("0-5", "5-15", "15-40")]
        assert max(left[:2]) < score(table, 0.1, "", test) - 0.04 and left[2] > min(left[:2])
    assert len(table) == 3 * 2 * 4


def test_curve_takes_any_encoder_of_the_library_and_leaves_it_as_it_was():
    encoder = models.build("resnet1d", "small", 2)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    table = simplicity_bias.curve(encoder, "notch", amplitudes=(0.1,), bands=simplicity_bias.BANDS[2:], n=16)
    assert table.auroc.between(0, 1).all() and encoder.training
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_what_cannot_be_is_refused():
    with pytest.raises(EcgError, match="cue"):
        simplicity_bias.conflict(4, "u")
    with pytest.raises(EcgError, match="agree"):
        simplicity_bias.conflict(4, agree=1.5)
    for band in ((5.0, 5.0), (60.0, 70.0), (-1.0, 4.0)):
        with pytest.raises(EcgError, match="band"):
            simplicity_bias.occlude(np.zeros((1, 100)), 100, *band)
