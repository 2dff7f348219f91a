"""Features of intervals against plain loops, known sequences, and what fibrillation and ectopy do to them."""

import numpy as np
import pytest

from ecglib.rhythm import irregularity
from ecglib.rhythm.irregularity import FEATURES


def _named(rr):
    return dict(zip(FEATURES, irregularity.features(np.atleast_2d(rr))[0], strict=True))


def _plain_cosen(rr, r=0.03):
    n, alike, followed = len(rr), 0, 0
    for i in range(n - 1):
        for j in range(i + 1, n - 1):
            if abs(rr[i] - rr[j]) <= r:
                alike += 1
                followed += abs(rr[i + 1] - rr[j + 1]) <= r
    return -np.log(max(followed, 0.5) / max(alike, 0.5)) + np.log(2 * r) - np.log(np.mean(rr))


def test_features_equal_plain_computations():
    random = np.random.default_rng(0)
    for scale in (0.005, 0.05, 0.2):
        rr = np.clip(random.normal(0.8, scale, 60), 0.3, 2.0)
        found, change = _named(rr), np.diff(rr)
        assert found["cosen"] == pytest.approx(_plain_cosen(rr))
        assert found["cv"] == pytest.approx(np.std(rr) / np.mean(rr))
        assert found["rmssd"] == pytest.approx(np.sqrt(np.mean(change**2)) / np.mean(rr))
        assert found["share_50ms"] == np.mean(np.abs(change) > 0.05)
        peaks = [(rr[i] - rr[i - 1]) * (rr[i + 1] - rr[i]) < 0 for i in range(1, 59)]
        assert found["turning"] == pytest.approx(np.mean(peaks))
        _, counts = np.unique((rr / 0.05).astype(int), return_counts=True)
        assert found["entropy"] == pytest.approx(-np.sum(counts / 60 * np.log2(counts / 60)))


def test_known_sequences():
    steady, bigeminy = _named(np.full(60, 0.8)), _named(np.tile([0.5, 1.1], 30))
    assert [steady[name] for name in ("cv", "entropy", "rmssd")] == pytest.approx([0, 0, 0])
    assert bigeminy["entropy"] == pytest.approx(1.0) and bigeminy["turning"] == 1.0
    assert bigeminy["lag1"] < -0.95 and bigeminy["lag2"] > 0.9
    irregular = _named(np.random.default_rng(1).uniform(0.4, 1.2, 60))
    assert irregular["cosen"] > bigeminy["cosen"] + 1.5, "bigeminy repeats itself, fibrillation does not"


def test_white_noise_turns_two_thirds_of_the_time():
    rr = np.random.default_rng(2).uniform(0.5, 1.0, (300, 60))
    assert irregularity.features(rr)[:, FEATURES.index("turning")].mean() == pytest.approx(2 / 3, abs=0.01)


def test_windows_hold_no_gap_and_nothing_of_the_future():
    beats = np.r_[np.arange(100) * 0.8, 200 + np.arange(100) * 0.8]
    first, rr = irregularity.windows(beats, step=1)
    assert rr.shape == (len(first), 60) and rr.max() < 1
    assert first.tolist() == [*range(40), *range(100, 140)]
    changed = beats.copy()
    changed[161:] += 50
    earlier = irregularity.windows(changed, step=1)
    np.testing.assert_array_equal(irregularity.features(earlier[1])[earlier[0] <= 100], irregularity.features(rr)[:41])
    assert len(irregularity.windows(beats[:50])[0]) == 0


def test_each_beat_gets_the_mean_of_the_windows_that_hold_it():
    first, values, n = np.array([0, 10, 100]), np.array([1.0, 0.0, 0.5]), 170
    plain = []
    for beat in range(n):
        held = [v for k, v in zip(first, values, strict=True) if k <= beat <= k + 60]
        plain.append(np.mean(held) if held else np.nan)
    np.testing.assert_allclose(irregularity.over_beats(first, values, n), plain)


def test_irregularity_alone_tells_fibrillation_on_real_days(real_data):
    """The floor of the field is an AUROC of .96; entropy alone reaches .98 on eight patients of the AFDB."""
    from ecglib.evaluation import metrics
    from ecglib.rhythm import days

    x, y = [], []
    for day in days.days(real_data / "afdb", "afdb")[:8]:
        first, rr = irregularity.windows(day.beats)
        flags = day.flags(("AFIB", "AFL"))
        x.append(irregularity.cosen(rr))
        y.append([flags[k : k + 61].mean() > 0.5 for k in first])
    truth = np.concatenate(y).astype(float)[:, None]
    assert float(metrics.score(truth, np.concatenate(x)[:, None], "auroc")[0]) > 0.97
