"""Metrics against scikit-learn, brute force, closed forms and hand-computed numbers; intervals against simulation."""

from statistics import NormalDist

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from ecglib import EcgError
from ecglib.evaluation import bootstrap, metrics


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
    np.testing.assert_allclose(
        metrics.score(y, p, "auprc"), average_precision_score(y, p, average=None), atol=1e-12, rtol=0
    )
    assert metrics.macro_auroc(y, p) == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert metrics.score(y, p, "auprc").mean() == pytest.approx(average_precision_score(y, p), abs=1e-12)
    double = p.astype(np.float64)
    oracle = [brier_score_loss(y[:, k], double[:, k]) for k in range(y.shape[1])]
    np.testing.assert_allclose(metrics.score(y, p, "brier"), oracle)


def test_weighted_statistics_equal_scikit_learn_with_ties():
    random = np.random.default_rng(1)
    y, p = random.integers(0, 2, 80), np.round(random.random(80), 1)
    called, weights = (p > 0.6).astype(float), random.integers(0, 4, (80, 5)).astype(float)
    oracles = {
        "auroc": (p, lambda w: roc_auc_score(y, p, sample_weight=w)),
        "auprc": (p, lambda w: average_precision_score(y, p, sample_weight=w)),
        "auprc_equal": (
            p,
            lambda w: average_precision_score(y, p, sample_weight=w / np.where(y, w[y == 1].sum(), w[y == 0].sum())),
        ),
        "accuracy": (called, lambda w: accuracy_score(y, called, sample_weight=w)),
        "balanced_accuracy": (called, lambda w: balanced_accuracy_score(y, called, sample_weight=w)),
    }
    for name, (said, oracle) in oracles.items():
        found = metrics._evaluate(metrics._kernels(y[:, None].astype(float), said[:, None], name), weights)[:, 0]
        np.testing.assert_allclose(found, [oracle(w) for w in weights.T], atol=1e-12, err_msg=name)
    assert np.isnan([metrics.score(np.zeros(4), np.arange(4.0) / 4, name) for name in ("auroc", "auprc_equal")]).all()
    assert metrics.score(np.zeros(4), np.array([0, 1, 0, 0]), "accuracy") == 0.75


@pytest.mark.parametrize("decimals", [None, 1])
def test_auroc_equals_brute_force_pair_counting(decimals):
    y, p = draw(n=80, labels=3, decimals=decimals)
    for k in range(3):
        wins = [(a > b) + 0.5 * (a == b) for a in p[y[:, k] == 1, k] for b in p[y[:, k] == 0, k]]
        assert metrics.auroc(y[:, k], p[:, k]) == pytest.approx(np.mean(wins), abs=1e-12)


def test_fields_and_level():
    y, p = draw()
    result = bootstrap.bootstrap(y, p, n=200, level=0.9)
    point, low, high, replicates = result[:4]
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
        plain = metrics.score(y[known, k], p[known, k], "ece")
        assert metrics.score(as_nan, p, "ece")[k] == pytest.approx(plain, abs=1e-12)
    indices = np.random.default_rng(3).integers(0, len(y), (5, len(y)))
    ours = bootstrap.replicates(as_state, p, indices=indices)[1]
    for r, rows in enumerate(indices):
        rows = rows[~hidden[rows, 4]]
        assert ours[r, 4] == pytest.approx(roc_auc_score(y[rows, 4], p[rows, 4]), abs=1e-9)


def test_a_label_without_a_class_is_nan_and_outside_the_macro():
    y, p = draw()
    y[:, 0], y[:, 1] = 0, 1
    assert np.isnan(metrics.auroc(y, p)[:2]).all() and not np.isnan(metrics.auroc(y, p)[2:]).any()
    assert metrics.macro_auroc(y, p) == pytest.approx(roc_auc_score(y[:, 2:], p[:, 2:]), abs=1e-12)
    assert np.isnan(bootstrap.per_label(bootstrap.replicates(y, p, n=20))[0].low)
    with pytest.raises(EcgError, match="no label"):
        bootstrap.bootstrap(y[:, :2], p[:, :2], n=20)


def test_paired_difference_uses_the_same_resamples():
    y, p = draw(n=400)
    noisy = p + np.random.default_rng(1).normal(scale=0.3, size=p.shape)
    indices = np.random.default_rng(3).integers(0, len(y), (200, len(y)))
    ours, theirs = (bootstrap.replicates(y, model, indices=indices) for model in (p, noisy))
    result = bootstrap.paired(ours, theirs, y)
    a, b = (bootstrap.bootstrap(y, model, indices=indices) for model in (p, noisy))
    np.testing.assert_allclose(result.replicates, a.replicates - b.replicates, atol=1e-12)
    assert result.point == pytest.approx(a.point - b.point) and result.low > 0
    assert result.p_value == pytest.approx(2 / 201)  # no replicate at or below zero
    same = bootstrap.paired(ours, ours, y)
    assert same.p_value == 1 and same[:3] == (0, 0, 0)
    assert bootstrap.two_sided(np.array([-1, 1, 2, 3])) == pytest.approx(2 * 2 / 5)


def test_holm_by_hand():
    np.testing.assert_allclose(bootstrap.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(bootstrap.holm([0.5, np.nan, 0.9]), [1.0, np.nan, 1.0])
    assert bootstrap.holm([0.03]) == [0.03] and bootstrap.holm([]).size == 0


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
    np.testing.assert_allclose(curve["frequency"], frequency)
    np.testing.assert_allclose(curve["probability"], probability, rtol=1e-6)  # p is float32, and so is its mean
    gap = np.abs(curve["frequency"] - curve["probability"])
    assert metrics.score(y, p, "ece") == pytest.approx((gap * curve["n"]).sum() / len(y))
    low, high = metrics.wilson(curve["frequency"] * curve["n"], curve["n"])
    np.testing.assert_allclose(curve[["low", "high"]].T, [low, high])
    assert ((curve["low"] <= curve["frequency"]) & (curve["frequency"] <= curve["high"])).all()
    paired = metrics.reliability(y, p, bins=15, patients=np.arange(2000) // 2)
    trials = [len(set(np.flatnonzero((p > k / 15) & (p <= (k + 1) / 15)) // 2)) for k in paired["bin"]]
    assert paired["n_patients"].tolist() == trials
    low, high = metrics.wilson(curve["frequency"] * trials, trials)
    np.testing.assert_allclose(paired[["low", "high"]].T, [low, high])
    assert metrics.score([0, 0, 1, 1], [0.25, 0.25, 0.25, 0.25], "ece") == pytest.approx(
        0.25
    )  # 2 of 4 where 1 was said


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
    values = bootstrap.replicates(y, p >= threshold, indices=indices, statistic="f1")[1]
    expected = [f1_score(y[rows, 5], p[rows, 5] >= threshold[5]) for rows in indices]
    np.testing.assert_allclose(values[:, 5], expected)
    assert np.isnan(metrics.confusion(y, p, np.nan)["f1"]).all()
    with pytest.raises(EcgError, match="decisions"):
        bootstrap.bootstrap(y, p, statistic="sensitivity")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.full((10, 2), 2)}, "possible"),
        ({"p": np.full((10, 2), np.nan)}, "NaN"),
        ({"p": np.zeros((10, 3))}, "shapes"),
        ({"patients": np.arange(9)}, "9 patients"),
        ({"indices": np.full((2, 10), 10)}, "indices"),
        ({"statistic": "auc"}, "auroc"),
        ({"n": 0}, "n >= 1"),
        ({"n": 2.5}, "n >= 1"),
        ({"y": np.full((10, 2), 0.5)}, "states other than"),
        ({"y": np.full((10, 2), "yes")}, r"\[truth\] holds what is no number"),
        ({"y": [[0, 1]] * 9 + [[0]]}, r"\[truth\] holds what is no number"),
        ({"y": np.zeros((0, 2)), "p": np.zeros((0, 2))}, "no record"),
        ({"y": [], "p": []}, "no record"),
        ({"p": np.full((10, 2), np.inf)}, "infinity"),
        ({"p": [[0.5, None]] * 10}, "NaN"),
        ({"p": [["a", "b"]] * 10}, r"\[prediction\] holds what is no number"),
        ({"p": np.zeros(10)}, "shapes"),
        (
            {"statistic": "brier", "p": np.full((10, 2), 23.0)},
            "from 23 to 23 are no probabilities -> apply the sigmoid",
        ),
        ({"statistic": "ece", "p": np.linspace(-5, 0.9, 20).reshape(10, 2)}, "from -5 .* no probabilities"),
        ({"statistic": "brier", "p": np.linspace(0, 1.001, 20).reshape(10, 2)}, "to 1 are no probabilities"),
        ({"level": 95}, "level 95"),
        ({"patients": np.full(10, np.nan)}, "10 of 10 records name no patient"),
        ({"patients": [None] * 10}, r"\[patients\]"),
        ({"patients": ["a"] * 9 + [None]}, r"\[patients\]"),
        ({"patients": np.array([1] * 9 + ["a"], object)}, r"\[patients\]"),
        ({"patients": np.array(["a"] * 8 + ["", " "])}, "2 of 10 records name no patient"),
        ({"patients": np.array(["a", np.nan] * 5)}, "5 of 10 records name no patient"),
        ({"patients": np.array(["a", "None"] * 5)}, "5 of 10 records name no patient"),
        ({"patients": np.zeros((10, 1))}, r"\[patients\]"),
        ({"indices": np.zeros((2, 0), int)}, "indices"),
    ],
)
def test_bad_input_is_refused_with_its_fix(change, message):
    arguments = {"y": np.tile([[0, 1], [1, 0]], (5, 1)), "p": np.random.default_rng(0).random((10, 2))} | change
    with pytest.raises(EcgError, match=message):
        bootstrap.bootstrap(**arguments)


def test_scores_of_ranks_take_logits_and_scores_of_probabilities_do_not():
    y, logits = np.array([0, 1, 0, 1, 1]), np.array([-3.0, 2.0, -1.0, 0.5, 9.0])
    p = 1 / (1 + np.exp(-logits))
    for statistic in ("auroc", "auprc"):
        assert metrics.score(y, logits, statistic) == metrics.score(y, p, statistic)
    for refused in (
        lambda: metrics.score(y, logits, "brier"),
        lambda: metrics.score(y, logits, "ece"),
        lambda: metrics.reliability(y, logits),
    ):
        with pytest.raises(EcgError, match="no probabilities"):
            refused()
    assert metrics.score(y, p, "brier") == pytest.approx(((p - y) ** 2).mean())
    assert metrics.score(y, np.array([0, 1, 0, 1, 1]), "ece") == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.wilson(3, 2), "more successes than trials"),
        (lambda: metrics.wilson([1, -1], [2, 2]), "fewer than none"),
        (lambda: metrics.reliability([[0, 1]], [[0.1, 0.2]]), "one label"),
        (lambda: metrics.reliability([0, 1], [0.1, 0.2], bins=0), "0 bins"),
        (lambda: metrics.reliability([0, 1], [0.1, 0.2], patients=["a"]), "a patient for each record"),
        (lambda: metrics.reliability([], []), "no record"),
        (lambda: metrics.threshold_at([0, 1], [0.1, 0.2], "sensitivity", target=90), "target"),
        (lambda: metrics.threshold_at([0, 1, 0], [0.1, 0.2]), "shapes"),
        (lambda: metrics.confusion([0, 1], [0.1, 0.2], [0.5, 0.5]), r"\[threshold\]"),
        (lambda: bootstrap.holm([0.1, 1.2]), r"\[p_values\]"),
        (lambda: bootstrap.holm([0.1, -0.2, np.nan]), r"\[p_values\]"),
        (lambda: bootstrap.holm(["a"]), r"\[p_values\]"),
        (lambda: metrics.macro_auroc([0, 3], [0.1, 0.2]), "other than 1, 0 and unknown"),
    ],
)
def test_what_has_no_answer_is_refused(call, message):
    with pytest.raises(EcgError, match=message):
        call()
