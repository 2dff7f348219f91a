"""The bootstrap: equal to scikit-learn on resampled arrays, fast, and covering what it says; policies compared."""

from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ecglib import EcgError
from ecglib.evaluation import bootstrap, metrics


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
    ours = bootstrap.bootstrap(y, p, indices=indices, statistic=statistic).replicates
    for rows, value in zip(indices, ours, strict=True):
        both = (y[rows].min(0) == 0) & (y[rows].max(0) == 1) if statistic == "auroc" else y[rows].max(0) == 1
        assert value == pytest.approx(oracle(y[rows][:, both], p[rows][:, both]), abs=1e-9)


def test_paired_differences_equal_scikit_learn_on_the_resampled_arrays():
    y, p = draw()
    y[6:, 0] = 0
    other = np.random.default_rng(4).random(p.shape) + 0.3 * y
    indices = np.random.default_rng(3).integers(0, len(y), (60, len(y)))
    ours, theirs = (bootstrap.replicates(y, x, indices=indices) for x in (p, other / 1.3))
    result = bootstrap.paired(ours, theirs, y, min_positives=8)
    use = y.sum(0) >= 8
    expected = []
    for rows in indices:
        both = use & (y[rows].min(0) == 0) & (y[rows].max(0) == 1)
        expected.append(roc_auc_score(y[rows][:, both], p[rows][:, both]))
        expected[-1] -= roc_auc_score(y[rows][:, both], other[rows][:, both])
    np.testing.assert_allclose(result.replicates, expected, atol=1e-9)
    gap = roc_auc_score(y[:, use], p[:, use]) - roc_auc_score(y[:, use], other[:, use])
    assert result.point == pytest.approx(gap) and result.n_labels == use.sum() < len(use)
    below = np.mean(np.array(expected) <= 0)
    assert result.p_value == pytest.approx(min(1, 2 * (60 * min(below, 1 - below) + 1) / 61))
    assert (result.low, result.high) == pytest.approx((np.quantile(expected, 0.025), np.quantile(expected, 0.975)))
    alone = [bootstrap.macro(drawn, y, min_positives=8) for drawn in (ours, theirs)]
    assert alone[0].point - alone[1].point == pytest.approx(result.point)
    with pytest.raises(EcgError, match="positives"):
        bootstrap.paired(ours, theirs, y, min_positives=1000)


def test_differences_of_two_hospitals_have_the_spread_of_independent_samples():
    normal = np.random.default_rng(0).normal
    a, b = (bootstrap.interval(point, normal(point, sd, 4000)) for point, sd in ((0.8, 0.03), (0.7, 0.04)))
    result = bootstrap.unpaired(a, b)
    assert result.point == pytest.approx(0.1)
    half = NormalDist().inv_cdf(0.975) * sqrt(0.03**2 + 0.04**2)
    assert (result.low, result.high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.005)


def test_intervals_of_labels_are_those_of_their_own_replicates():
    y, p = draw()
    y[:, 0] = 0
    drawn = bootstrap.replicates(y, p, n=80)
    results = bootstrap.per_label(drawn)
    assert np.isnan(results[0].point) and np.isnan(results[0].low) and results[0].labels_used == 0
    for k in range(1, y.shape[1]):
        alone = bootstrap.bootstrap(y[:, k], p[:, k], n=80)
        assert results[k][:3] == alone[:3] and results[k].n_labels == 1


def test_patients_are_drawn_with_all_their_records():
    random = np.random.default_rng(0)
    patients = np.sort(random.integers(0, 40, 120)).astype(str)
    codes = np.unique(patients, return_inverse=True)[1]
    weights = np.concatenate([w for _, w in bootstrap.resamples(120, patients, n=300, seed=1)], axis=1)
    n_patients = codes.max() + 1
    per_patient = np.array([weights[codes == code][0] for code in range(n_patients)])
    assert (weights == per_patient[codes]).all()  # one weight for all records of a patient
    assert (per_patient.sum(0) == n_patients).all()
    twin = bootstrap.bootstrap(*(np.repeat(a, 2, axis=0) for a in draw()), patients=np.repeat(np.arange(300), 2), n=200)
    plain = bootstrap.bootstrap(*draw(), n=200)
    np.testing.assert_allclose(twin.replicates, plain.replicates, atol=1e-12)  # copies of a record are no evidence


def test_statistics_of_sums_equal_a_loop_over_drawn_patients():
    random = np.random.default_rng(3)
    counts, patients = random.integers(0, 9, (12, 2)), np.repeat(np.array(list("acbd")), 3)

    def share(sums):
        return {"share": sums[:, 0] / sums.sum(axis=1)}

    found = bootstrap.of_sums(counts, patients, share, n=40, seed=5)["share"]
    stream, expected = np.random.default_rng(5), []
    for _ in range(40):
        drawn = np.unique(patients)[stream.integers(0, 4, 4)]
        rows = np.concatenate([counts[patients == name] for name in drawn])
        expected.append(rows[:, 0].sum() / rows.sum())
    np.testing.assert_allclose(found.replicates, expected, rtol=1e-12)
    assert found.point == pytest.approx(counts[:, 0].sum() / counts.sum())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])))


def test_same_seed_same_replicates_whatever_the_model():
    y, p = draw()
    first, second = bootstrap.bootstrap(y, p, n=300, seed=5), bootstrap.bootstrap(y, p, n=300, seed=5)
    assert first.replicates.tobytes() == second.replicates.tobytes()
    shorter = bootstrap.bootstrap(y, p, n=17, seed=5)
    assert (shorter.replicates == first.replicates[:17]).all()
    assert (bootstrap.bootstrap(y, p, n=300, seed=6).replicates != first.replicates).any()


def rare(seed=0):
    """Two thousand records, common labels and three with one to three positives: most resamples lose a class."""
    random = np.random.default_rng(seed)
    y = np.zeros((2000, 8), np.int8)
    for k, count in enumerate((1, 2, 3, 40, 80, 200, 500, 900)):
        y[random.choice(2000, count, replace=False), k] = 1
    return y, random.normal(size=y.shape) + 2.2 * y


def test_labels_that_lost_a_class_are_left_out_of_a_replicate():
    y, p = rare()
    result = bootstrap.bootstrap(y, p, n=500)
    assert abs(result.bias) < 0.005 and 7 < result.labels_used < 8
    common = bootstrap.bootstrap(y, p, n=200, min_positives=10)
    assert common.point == pytest.approx(metrics.auroc(y, p)[3:].mean()) and common.labels_used == 5


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_always_contains_the_point(seed):
    y, p = rare(seed)
    result = bootstrap.bootstrap(y, p, n=200, seed=seed)
    assert result.low <= result.point <= result.high
    beside = bootstrap.interval(1.0, result.replicates)  # the plain percentile interval would miss the point
    assert beside.widened and beside.high == beside.point == 1


def delong_sd(y, p):
    """Standard error of one AUROC (DeLong 1988), written from the placement values."""
    a, b = p[y == 1], p[y == 0]
    wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    return sqrt(wins.mean(1).var(ddof=1) / len(a) + wins.mean(0).var(ddof=1) / len(b))


def test_spread_agrees_with_delong():
    y, p = draw(n=1500, labels=4)
    for k, result in enumerate(bootstrap.per_label(bootstrap.replicates(y, p, n=1000))):
        if y[:, k].sum() > 50:
            assert result.replicates.std() == pytest.approx(delong_sd(y[:, k], p[:, k]), rel=0.1)


def coverage(counts, shift=1.2, draws=200, n=150):
    """Share of 95 % intervals that cover the known macro AUROC, over repeated draws of a data set."""
    truth = NormalDist().cdf(shift / sqrt(2))
    random, covered = np.random.default_rng(11), 0
    for _ in range(draws):
        y = np.zeros((n, len(counts)), np.int8)
        for k, count in enumerate(counts):
            y[random.choice(n, count, replace=False), k] = 1
        p = random.normal(size=y.shape) + shift * y
        result = bootstrap.bootstrap(y, p, n=200, seed=int(random.integers(2**31)))
        covered += result.low <= truth <= result.high
    return covered / draws


def test_coverage_is_nominal_with_ten_positives_and_not_with_one():
    assert coverage((12, 20, 60)) == pytest.approx(0.95, abs=0.04)
    assert coverage((1, 1, 1, 2, 2, 40)) < 0.9  # what `min_positives` is for


def test_records_of_one_patient_are_no_independent_evidence():
    truth, random, covered = NormalDist().cdf(1.2 / sqrt(2)), np.random.default_rng(11), [0, 0]
    for _ in range(100):  # three copies per patient
        y = np.repeat(np.arange(40) < 15, 3)
        p = np.repeat(random.normal(size=40), 3) + 1.2 * y
        for which, patients in enumerate((np.arange(120) // 3, None)):
            result = bootstrap.bootstrap(y, p, patients=patients, n=100, seed=int(random.integers(2**31)))
            covered[which] += result.low <= truth <= result.high
    assert covered[0] >= 88 and covered[1] < 85
