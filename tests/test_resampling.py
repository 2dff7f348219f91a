"""The bootstrap: equal to scikit-learn on resampled arrays, fast, and covering what it says; policies compared."""

import time
from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ecglib import metrics
from ecglib.signals import EcgError


def draw(n=300, labels=6, seed=0, decimals=None, shift=1.5):
    random = np.random.default_rng(seed)
    y = (random.random((n, labels)) < np.geomspace(0.02, 0.6, labels)).astype(np.int8)
    y[0], y[1] = 1, 0
    p = 1 / (1 + np.exp(-(random.normal(size=y.shape) + shift * y - 1)))
    return y, p.astype(np.float32) if decimals is None else p.round(decimals)


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize(("statistic", "oracle"), [("auroc", roc_auc_score), ("auprc", average_precision_score)])
def test_replicates_equal_scikit_learn_on_the_resampled_arrays(decimals, statistic, oracle):
    y, p = draw(decimals=decimals)
    indices = np.random.default_rng(3).integers(0, len(y), (40, len(y)))
    ours = metrics.bootstrap(y, p, indices=indices, statistic=statistic).replicates
    for rows, value in zip(indices, ours, strict=True):
        both = (y[rows].min(0) == 0) & (y[rows].max(0) == 1) if statistic == "auroc" else y[rows].max(0) == 1
        assert value == pytest.approx(oracle(y[rows][:, both], p[rows][:, both]), abs=1e-9)


def test_patients_are_drawn_with_all_their_records():
    random = np.random.default_rng(0)
    patients = np.sort(random.integers(0, 40, 120)).astype(str)
    codes = np.unique(patients, return_inverse=True)[1]
    weights = np.concatenate([w for _, w in metrics.resamples(120, patients, n=300, seed=1)], axis=1)
    n_patients = codes.max() + 1
    per_patient = np.array([weights[codes == code][0] for code in range(n_patients)])
    assert (weights == per_patient[codes]).all()  # one weight for all records of a patient
    assert (per_patient.sum(0) == n_patients).all()
    twin = metrics.bootstrap(*(np.repeat(a, 2, axis=0) for a in draw()), patients=np.repeat(np.arange(300), 2), n=200)
    plain = metrics.bootstrap(*draw(), n=200)
    np.testing.assert_allclose(twin.replicates, plain.replicates, atol=1e-12)  # copies of a record are no evidence


def test_same_seed_same_replicates_whatever_the_model():
    y, p = draw()
    first, second = metrics.bootstrap(y, p, n=300, seed=5), metrics.bootstrap(y, p, n=300, seed=5)
    assert first.replicates.tobytes() == second.replicates.tobytes()
    shorter = metrics.bootstrap(y, p, n=17, seed=5)
    assert (shorter.replicates == first.replicates[:17]).all()
    assert (metrics.bootstrap(y, p, n=300, seed=6).replicates != first.replicates).any()


def rare(seed=0):
    """Two thousand records, common labels and three with one to three positives: most resamples lose a class."""
    random = np.random.default_rng(seed)
    y = np.zeros((2000, 8), np.int8)
    for k, count in enumerate((1, 2, 3, 40, 80, 200, 500, 900)):
        y[random.choice(2000, count, replace=False), k] = 1
    return y, random.normal(size=y.shape) + 2.2 * y


def test_policies_for_absent_classes_differ_as_published():
    y, p = rare()
    result = {policy: metrics.bootstrap(y, p, n=500, policy=policy) for policy in metrics.POLICIES}
    centre = {policy: metrics.mean_known(value.replicates) for policy, value in result.items()}
    assert centre["zero"] < centre["half"] < centre["drop"]
    assert abs(result["drop"].bias) < 0.005 < -result["half"].bias < -result["zero"].bias  # two policies biased low
    kept = ~np.isnan(result["reject"].replicates)  # conditional on every class: few replicates, the same values
    chance = (1 - 1 / np.e) * (1 - np.exp(-2)) * (1 - np.exp(-3))  # Poisson limit
    assert kept.mean() == pytest.approx(chance, abs=0.06)
    np.testing.assert_array_equal(result["reject"].replicates[kept], result["drop"].replicates[kept])
    assert 7 < result["drop"].labels_used < 8 == result["half"].labels_used == result["reject"].labels_used
    common = metrics.bootstrap(y, p, n=200, min_positives=10)
    assert common.point == pytest.approx(metrics.auroc(y, p)[3:].mean()) and common.labels_used == 5


@pytest.mark.parametrize("policy", metrics.POLICIES)
@pytest.mark.parametrize("seed", range(5))
def test_the_interval_always_contains_the_point(policy, seed):
    y, p = rare(seed)
    result = metrics.bootstrap(y, p, n=200, policy=policy, seed=seed)
    assert result.low <= result.point <= result.high
    if policy == "zero":  # a perfect label among rare ones: the plain percentile interval would miss the point
        worse = metrics.bootstrap(y[:, :2], y[:, :2] * 1.0, n=200, policy=policy, level=0.5, seed=seed)
        assert worse.widened == (np.quantile(worse.replicates, 0.75) < 1) and worse.high == worse.point == 1


def test_reject_without_a_complete_resample_says_so():
    y, p = rare()
    indices = np.repeat(np.flatnonzero(y[:, 0] == 0)[None], 3, axis=0)
    with pytest.raises(EcgError, match="every resample lacks a class"):
        metrics.bootstrap(y, p, indices=indices, policy="reject")


def delong_sd(y, p):
    """Standard error of one AUROC (DeLong 1988), written from the placement values."""
    a, b = p[y == 1], p[y == 0]
    wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    return sqrt(wins.mean(1).var(ddof=1) / len(a) + wins.mean(0).var(ddof=1) / len(b))


def test_spread_agrees_with_delong():
    y, p = draw(n=1500, labels=4)
    for k, result in enumerate(metrics.per_label(y, p, n=1000)):
        if y[:, k].sum() > 50:
            assert result.replicates.std() == pytest.approx(delong_sd(y[:, k], p[:, k]), rel=0.1)


def coverage(counts, policies, shift=1.2, draws=200, n=150):
    """Share of 95 % intervals that cover the known macro AUROC, over repeated draws of a data set."""
    truth = NormalDist().cdf(shift / sqrt(2))
    random, covered = np.random.default_rng(11), dict.fromkeys(policies, 0)
    for _ in range(draws):
        y = np.zeros((n, len(counts)), np.int8)
        for k, count in enumerate(counts):
            y[random.choice(n, count, replace=False), k] = 1
        p = random.normal(size=y.shape) + shift * y
        point, values = metrics.replicates(y, p, n=200, seed=int(random.integers(2**31)))
        for policy in policies:
            result = metrics.interval(point.mean(), metrics.mean_known(metrics.apply_policy(values, policy)))
            covered[policy] += result.low <= truth <= result.high
    return {policy: count / draws for policy, count in covered.items()}


def test_coverage_is_nominal_with_ten_positives_and_not_with_one():
    assert coverage((12, 20, 60), ["drop"])["drop"] == pytest.approx(0.95, abs=0.04)
    scarce = coverage((1, 1, 1, 2, 2, 40), ["drop", "reject"])  # what `min_positives` is for
    assert scarce["reject"] + 0.2 < scarce["drop"] < 0.9


def test_records_of_one_patient_are_no_independent_evidence():
    truth, random, covered = NormalDist().cdf(1.2 / sqrt(2)), np.random.default_rng(11), [0, 0]
    for _ in range(100):  # three copies per patient
        y = np.repeat(np.arange(40) < 15, 3)
        p = np.repeat(random.normal(size=40), 3) + 1.2 * y
        for which, patients in enumerate((np.arange(120) // 3, None)):
            result = metrics.bootstrap(y, p, patients=patients, n=100, seed=int(random.integers(2**31)))
            covered[which] += result.low <= truth <= result.high
    assert covered[0] >= 88 and covered[1] < 85


def test_a_thousand_resamples_are_fast():
    y, p = draw(n=2203, labels=71)
    start = time.perf_counter()
    [roc_auc_score(y, p) for _ in range(3)]
    loop = (time.perf_counter() - start) / 3 * 1000
    start = time.perf_counter()
    metrics.bootstrap(y, p)
    assert time.perf_counter() - start < loop / 20
