"""Beats of adaptive length: the recipe by hand, no sample twice, the published facts about MIT-BIH."""

import numpy as np
import pandas as pd
import pytest
from plain_beats import one_recording

from ecglib import EcgError
from ecglib.rhythm import annotated, beat_features, beats


def test_an_outlier_of_three_times_the_median_is_left_out_of_the_mean():
    rr = np.array([300, 302, 298, 301, 299, 900.0])
    assert beats.clean_mean(rr) == 300
    assert beats.clean_mean(np.array([250.0, 250, 250, 250, 750])) == 250  # no spread: only the median itself
    assert np.isnan(beats.clean_mean(np.zeros(0)))


def test_windows_by_hand_and_the_empty_one_takes_its_neighbour():
    r = np.array([10, 110, 210, 1010, 1090, 1170, 3050])
    assert beats.window_lengths(r, 4, 1000.0).tolist() == [100, 80, 80, 80]
    with pytest.raises(EcgError, match="no RR interval"):
        beats.window_lengths(np.array([10]), 4, 1000.0)


@pytest.mark.parametrize("seed", range(5))
def test_no_two_beats_share_a_sample_and_each_holds_its_peak(seed):
    random = np.random.default_rng(seed)
    r = np.cumsum(random.integers(60, 500, 200))
    found = beats.spans(r, 360.0, int(r[-1]) + 50)
    assert (found.first[1:] >= found.last[:-1]).all() and found.first[0] >= 0 and found.last[-1] <= r[-1] + 50
    assert ((found.first <= r) & (r < found.last)).all()
    assert (found.last - found.first <= found.length).all()
    alone = (np.diff(r, prepend=-999)[1:-1] > found.length[1:-1] + 1) & (np.diff(r)[1:] > found.length[1:-1] + 1)
    whole = (found.last - found.first)[1:-1][alone]
    assert alone.any() and (whole == found.length[1:-1][alone]).all()


def test_a_beat_is_resampled_by_straight_lines_and_ends_are_repeated():
    signal = np.stack([np.arange(100.0), -np.arange(100.0)])
    x = beats.resampled(signal, np.array([10, -5]), np.array([20, 5]), 19)
    assert x.shape == (2, 2, 19) and x.dtype == np.float32
    assert x[0, 0].tolist() == np.linspace(10, 19, 19).astype(np.float32).tolist()
    assert x[1, 0, 0] == 0 and (x[:, 1] == -x[:, 0]).all()


def test_leads_are_taken_by_name():
    assert beats.first_lead(("V5", "II")) == [1, 0] and beats.first_lead(("II", "V1")) == [0, 1]
    assert beats.first_lead(("V5", "V2")) == [0, 1] and beats.first_lead(("V2", "V5")) == [1, 0]
    signal = np.stack([np.zeros(4000), np.sin(np.arange(4000) / 9)]).astype(np.float32)
    one = one_recording(4000, r=(500, 900, 1300, 1700), symbol="NNVN", signal=signal, leads=("V5", "II"))
    found = beats.of_recording(one)
    assert np.ptp(found.x[:, 0]) > 1 and np.ptp(found.x[:, 1]) == 0
    assert found.table.aami.tolist() == list("NNVN") and len(beats.joined([found, found])) == 8
    with pytest.raises(EcgError, match="no recording"):
        beats.joined([])


def test_rr_ratios_see_an_early_beat_whatever_the_rate():
    for rr in (200, 400):
        r = np.cumsum(np.full(40, rr))
        r[20] -= rr // 2
        before, after, ratio, _ = beats.rr_ratios(r, 360.0).T
        assert before[20] == pytest.approx(np.log(0.5)) and after[20] == pytest.approx(np.log(1.5))
        assert ratio[20] == pytest.approx(np.log(1 / 3)) and before[5] == 0


def test_facts_about_mit_bih(real_data):
    """Mean window lengths and the share of overlapping cuts of 260 samples, as published or computed elsewhere."""
    length = {"100": 286.4, "119": 323.6, "208": 215.5, "213": 199.9, "231": 440.2}
    close = pairs = 0
    for one in annotated.recordings("mitdb", real_data / "mitdb"):
        one_close, one_pairs = beats.overlap_share(one.r)
        close, pairs = close + one_close, pairs + one_pairs
        if one.record_id in length:
            found = beats.window_lengths(one.r, 180, 3600.0)
            assert found.mean() == pytest.approx(length[one.record_id], abs=0.6)
        if one.record_id == "100":
            assert (found.min().round(1), found.max().round(1)) == (251.9, 301.1)
        if one.record_id == "213":
            assert one_close / one_pairs > 0.998
    assert (close, pairs) == (44048, 109446)


def test_features_are_relative_to_the_person():
    fs, rr = 360.0, 300
    t, r = np.arange(rr * 42), np.arange(300, rr * 41, rr)
    x = sum(np.exp(-(((t - at) / 6) ** 2) / 2) for at in r)
    x += 1.5 * np.exp(-(((t - r[20]) / 25) ** 2) / 2)  # one wide beat
    x += np.random.default_rng(0).normal(0, 0.02, len(t))  # so that no two beats are equal and ranks mean something
    one = one_recording(len(t), fs, r, "N" * len(r), signal=np.stack([x, x]).astype(np.float32), leads=("II", "V1"))
    table = beat_features.features(one)
    louder = beat_features.features(one_recording(len(t), fs, r, "N" * len(r), signal=3 * one.signal, leads=one.leads))
    pd.testing.assert_frame_equal(table, louder, atol=1e-3)
    assert np.isfinite(table.to_numpy()).all() and len(table) == len(r)
    assert table.like_qrs_0.idxmin() == 20 and table.wider_0.idxmax() == 20
    assert (table.before_10 == 1).all()


def test_correlation_is_that_of_numpy():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(5, 30)), random.normal(size=30)
    assert np.allclose(beat_features._correlation(a, b), [np.corrcoef(row, b)[0, 1] for row in a])
    assert beat_features._correlation(np.ones((1, 30)), b).tolist() == [0]
