"""Metrics against scikit-learn, brute force, closed forms and hand-computed numbers; intervals against simulation."""

from statistics import NormalDist

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from ecglib import metrics
from ecglib.signals import EcgError


def draw(n=300, labels=6, seed=0, decimals=None, shift=1.5):
    random = np.random.default_rng(seed)
    y = (random.random((n, labels)) < np.geomspace(0.02, 0.6, labels)).astype(np.int8)
    y[0], y[1] = 1, 0
    p = 1 / (1 + np.exp(-(random.normal(size=y.shape) + shift * y - 1)))
    return y, p.astype(np.float32) if decimals is None else p.round(decimals)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_point_scores_equal_scikit_learn_with_and_without_ties(decimals):
    y, p = draw(decimals=decimals)
    np.testing.assert_allclose(metrics.auroc(y, p), roc_auc_score(y, p, average=None), atol=1e-12, rtol=0)
    np.testing.assert_allclose(metrics.auprc(y, p), average_precision_score(y, p, average=None), atol=1e-12, rtol=0)
    assert metrics.macro_auroc(y, p) == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert metrics.macro_auprc(y, p) == pytest.approx(average_precision_score(y, p), abs=1e-12)
    double = p.astype(np.float64)
    oracle = [brier_score_loss(y[:, k], double[:, k]) for k in range(y.shape[1])]
    np.testing.assert_allclose(metrics.brier(y, p), oracle)


@pytest.mark.parametrize("decimals", [None, 1])
def test_auroc_equals_brute_force_pair_counting(decimals):
    y, p = draw(n=80, labels=3, decimals=decimals)
    for k in range(3):
        wins = [(a > b) + 0.5 * (a == b) for a in p[y[:, k] == 1, k] for b in p[y[:, k] == 0, k]]
        assert metrics.auroc(y[:, k], p[:, k]) == pytest.approx(np.mean(wins), abs=1e-12)


def test_fields_and_level():
    y, p = draw()
    point, low, high, replicates = result = metrics.bootstrap(y, p, n=200, level=0.9)
    assert point == pytest.approx(metrics.macro_auroc(y, p), abs=1e-15) and replicates.shape == (200,)
    assert (low, high) == tuple(np.percentile(replicates, [5, 95])) and not result.widened
    assert result.bias == pytest.approx(replicates.mean() - point) and result.labels_used <= y.shape[1]


def test_unknown_truth_is_masked():
    y, p = draw()
    hidden = np.random.default_rng(2).random(y.shape) < 0.3
    hidden[:2] = False
    as_state, as_nan = np.where(hidden, -1, y), np.where(hidden, np.nan, y)
    for k in range(y.shape[1]):
        known = ~hidden[:, k]
        assert metrics.auroc(as_state, p)[k] == pytest.approx(roc_auc_score(y[known, k], p[known, k]), abs=1e-12)
        assert metrics.ece(as_nan, p)[k] == pytest.approx(metrics.ece(y[known, k], p[known, k]), abs=1e-12)
    indices = np.random.default_rng(3).integers(0, len(y), (5, len(y)))
    ours = metrics.replicates(as_state, p, indices=indices)[1]
    for r, rows in enumerate(indices):
        rows = rows[~hidden[rows, 4]]
        assert ours[r, 4] == pytest.approx(roc_auc_score(y[rows, 4], p[rows, 4]), abs=1e-9)


def test_a_label_without_a_class_is_nan_and_outside_the_macro():
    y, p = draw()
    y[:, 0], y[:, 1] = 0, 1
    assert np.isnan(metrics.auroc(y, p)[:2]).all() and not np.isnan(metrics.auroc(y, p)[2:]).any()
    assert metrics.macro_auroc(y, p) == pytest.approx(roc_auc_score(y[:, 2:], p[:, 2:]), abs=1e-12)
    assert np.isnan(metrics.per_label(y, p, n=20)[0].low)
    with pytest.raises(EcgError, match="no label"):
        metrics.bootstrap(y[:, :2], p[:, :2], n=20)


def test_paired_difference_uses_the_same_resamples():
    y, p = draw(n=400)
    noisy = p + np.random.default_rng(1).normal(scale=0.3, size=p.shape)
    indices = np.random.default_rng(3).integers(0, len(y), (200, len(y)))
    result = metrics.paired(y, p, noisy, indices=indices)
    a, b = (metrics.bootstrap(y, model, indices=indices) for model in (p, noisy))
    np.testing.assert_allclose(result.replicates, a.replicates - b.replicates, atol=1e-12)
    assert result.point == pytest.approx(a.point - b.point) and result.low > 0
    assert result.p_value == pytest.approx(2 / 201)  # no replicate at or below zero
    same = metrics.paired(y, p, p, indices=indices)
    assert same.p_value == 1 and same[:3] == (0, 0, 0)
    assert metrics.two_sided(np.array([-1, 1, 2, 3])) == pytest.approx(2 * 2 / 5)


def test_holm_by_hand():
    np.testing.assert_allclose(metrics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(metrics.holm([0.5, np.nan, 0.9]), [1.0, np.nan, 1.0])
    assert metrics.holm([0.03]) == [0.03] and metrics.holm([]).size == 0


def test_wilson_equals_the_quadratic_it_solves():
    z = NormalDist().inv_cdf(0.975)
    for successes, trials in ((3, 17), (50, 60)):
        share = successes / trials
        roots = sorted(np.roots([1 + z**2 / trials, -(2 * share + z**2 / trials), share**2]))
        np.testing.assert_allclose(metrics.wilson(successes, trials), roots)
    low, high = metrics.wilson([0, 20, 0], [20, 20, 0])
    assert low[0] == 0 and high[1] == 1 and np.isnan(low[2]) and high[0] == pytest.approx(z**2 / (20 + z**2))


def test_reliability_curve_equals_scikit_learn_and_its_ece():
    y, p = (a[:, 4] for a in draw(n=2000))
    curve = metrics.reliability(y, p, bins=15)
    frequency, probability = calibration_curve(y, p, n_bins=15)
    np.testing.assert_allclose(curve.frequency, frequency)
    np.testing.assert_allclose(curve.probability, probability)
    gap = np.abs(curve.frequency - curve.probability)
    assert metrics.ece(y, p) == pytest.approx((gap * curve.count).sum() / len(y))
    quantile = metrics.reliability(y, p, strategy="quantile")
    assert quantile.count.sum() == 2000 and np.ptp(quantile.count) <= 1
    assert ((curve.low <= curve.frequency) & (curve.frequency <= curve.high)).all()
    assert metrics.ece([0, 0, 1, 1], [0.25, 0.25, 0.25, 0.25]) == pytest.approx(0.25)  # 2 of 4 where 1 was said


def test_thresholds_against_exhaustive_search():
    y, p = draw(n=250, decimals=2)
    for k in range(y.shape[1]):
        truth, probability = y[:, k], p[:, k]
        false_rate, hit_rate, cuts = roc_curve(truth, probability, drop_intermediate=False)
        at = metrics.threshold_at(truth, probability, "youden")
        assert (hit_rate - false_rate)[cuts == at] == pytest.approx((hit_rate - false_rate).max())
        best = max(f1_score(truth, probability >= cut) for cut in np.unique(probability))
        assert f1_score(truth, probability >= metrics.threshold_at(truth, probability, "f1")) == pytest.approx(best)
        at = metrics.threshold_at(truth, probability, "sensitivity", target=0.8)
        higher = np.unique(probability)[np.unique(probability) > at]
        assert recall_score(truth, probability >= at) >= 0.8
        assert all(recall_score(truth, probability >= cut) < 0.8 for cut in higher)
    assert np.isnan(metrics.threshold_at(np.zeros(5), np.arange(5) / 5))


def test_confusion_and_its_intervals():
    y, p = draw(n=250)
    threshold = metrics.threshold_at(y, p)
    found = metrics.confusion(y, p, threshold)
    for k in range(y.shape[1]):
        called = p[:, k] >= threshold[k]
        tn, fp, fn, tp = confusion_matrix(y[:, k], called).ravel()
        assert [found[name][k] for name in ("tp", "fp", "tn", "fn")] == [tp, fp, tn, fn]
        assert found["sensitivity"][k] == pytest.approx(tp / (tp + fn))
        assert found["specificity"][k] == pytest.approx(tn / (tn + fp))
        assert found["ppv"][k] == pytest.approx(precision_score(y[:, k], called))
        assert found["npv"][k] == pytest.approx(tn / (tn + fn))
        assert found["f1"][k] == pytest.approx(f1_score(y[:, k], called))
    indices = np.random.default_rng(0).integers(0, len(y), (20, len(y)))
    values = metrics.replicates(y, p >= threshold, indices=indices, statistic="f1")[1]
    expected = [f1_score(y[rows, 5], p[rows, 5] >= threshold[5]) for rows in indices]
    np.testing.assert_allclose(values[:, 5], expected)
    assert np.isnan(metrics.confusion(y, p, np.nan)["f1"]).all()
    with pytest.raises(EcgError, match="decisions"):
        metrics.bootstrap(y, p, statistic="sensitivity")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.full((10, 2), 2)}, "possible"),
        ({"p": np.full((10, 2), np.nan)}, "NaN"),
        ({"p": np.zeros((10, 3))}, "shapes"),
        ({"patients": np.arange(9)}, "9 patients"),
        ({"indices": np.full((2, 10), 10)}, "indices"),
        ({"statistic": "auc"}, "auroc"),
        ({"policy": "skip"}, "drop"),
        ({"n": 0}, "n >= 1"),
    ],
)
def test_bad_input_is_refused_with_its_fix(change, message):
    arguments = {"y": np.tile([[0, 1], [1, 0]], (5, 1)), "p": np.random.default_rng(0).random((10, 2))} | change
    with pytest.raises(EcgError, match=message):
        metrics.bootstrap(**arguments)
