"""Conformal coverage against its closed form; risk, thirds and the Gaussian head against plain computations."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit

from ecglib import EcgError
from ecglib.evaluation import bootstrap, classifiers, metrics, uncertainty


@pytest.mark.parametrize("n, alpha", [(19, 0.1), (40, 0.1), (57, 0.2), (9, 0.05)])
def test_coverage_is_the_beta_of_the_closed_form(n, alpha):
    """Uniform scores: the coverage of a calibration set is its quantile, Beta(k, n + 1 - k), 1 where k > n."""
    random, k = np.random.default_rng(0), int(np.ceil((n + 1) * (1 - alpha)))
    found = np.array([uncertainty.conformal_quantile(random.random(n), alpha) for _ in range(4000)])
    if k > n:
        assert np.isinf(found).all()
        return
    beta = stats.beta(k, n + 1 - k)
    assert beta.mean() == pytest.approx(k / (n + 1)) and k / (n + 1) >= 1 - alpha
    assert stats.kstest(found, beta.cdf).pvalue > 0.001
    assert found.mean() == pytest.approx(k / (n + 1), abs=4 * beta.std() / np.sqrt(4000))


def plain_thresholds(y, p, alpha, kind):
    out = []
    for k in range(y.shape[1]):
        scores = {
            1: [1 - p[i, k] for i in range(len(y)) if y[i, k] == 1],
            0: [p[i, k] for i in range(len(y)) if y[i, k] == 0],
        }
        pair = []
        for state in (0, 1):
            pool = sorted(scores[0] + scores[1] if kind == "marginal" else scores[state])
            place = int(np.ceil((len(pool) + 1) * (1 - alpha)))
            pair.append(pool[place - 1] if place <= len(pool) else np.inf)
        out.append(pair)
    return np.array(out)


@pytest.fixture(scope="module")
def made():
    random = np.random.default_rng(1)
    logit = random.normal(size=(400, 3)) - [0, 1, 2]
    y = (random.random((400, 3)) < expit(logit)).astype(int)
    y[random.random((400, 3)) < 0.05] = -1
    return y, expit(logit), np.repeat(np.arange(200), 2)


@pytest.mark.parametrize("kind", uncertainty.KINDS)
def test_thresholds_and_sets_by_a_loop(made, kind):
    y, p, _ = made
    found = uncertainty.conformal_thresholds(y, p, 0.1, kind)
    np.testing.assert_allclose(found, plain_thresholds(y, p, 0.1, kind))
    sets = uncertainty.conformal_sets(p, found)
    for i, k in ((0, 0), (7, 1), (399, 2)):
        assert list(sets[i, k]) == [p[i, k] <= found[k, 0], 1 - p[i, k] <= found[k, 1]]
    hit = uncertainty.covered(y, sets)
    assert np.isnan(hit[y == -1]).all() and set(np.unique(hit[y >= 0])) <= {0.0, 1.0}
    assert np.nanmean(hit) == pytest.approx(
        np.mean([sets[i, k, y[i, k]] for i, k in zip(*np.nonzero(y >= 0), strict=True)])
    )


def test_sets_by_class_cover_the_rare_class_that_marginal_ones_miss(made):
    y, p, patients = made
    half = np.arange(400) < 200
    shares = {}
    for kind in uncertainty.KINDS:
        limits = uncertainty.conformal_thresholds(y[half], p[half], 0.1, kind)
        table = uncertainty.conformal_table(y[~half], p[~half], patients[~half], limits, n=100).set_index("what")
        shares[kind] = table
        assert (table.low <= table.share).all() and (table.share <= table.high).all()
        assert table.share[["decided", "undecided", "empty"]].sum() == pytest.approx(1)
    assert shares["marginal"].share["covered"] == pytest.approx(0.9, abs=0.06)
    assert shares["by class"].share["covered where present"] > 0.8 > shares["marginal"].share["covered where present"]


def test_the_mean_is_over_records_then_labels_with_patients_resampled(made):
    y, p, patients = made
    loss = np.where(y >= 0, (p - y) ** 2, np.nan)
    found = uncertainty.mean_interval(loss, patients, n=50)
    assert found.point == pytest.approx(np.mean([np.nanmean(loss[:, k]) for k in range(3)]))
    expected = bootstrap.bootstrap(y, p, patients, n=50, statistic="brier")
    assert list(found[:3]) == pytest.approx(list(expected[:3]))


def test_entropy_and_ranks():
    p = np.array([[0.5, 0.5], [0.0, 1.0], [0.1, 0.9]])
    assert uncertainty.entropy(p) == pytest.approx([np.log(2), 0, stats.entropy([0.1, 0.9])])
    assert list(uncertainty.ranks([3.0, 1.0, 2.0, 1.0])) == [3, 0, 2, 1]
    with pytest.raises(EcgError, match="uncertainty"):
        uncertainty.ranks([np.nan, 1])


def test_risk_falls_when_doubt_is_the_loss_and_stays_when_it_is_chance(made):
    y, p, patients = made
    loss = np.where(y >= 0, (p - y) ** 2, np.nan)
    shares = [0.25, 0.5, 1.0]
    best = uncertainty.risk_coverage(loss, np.nanmean(loss, 1), patients, shares=shares, n=30)
    np.testing.assert_allclose(best.risk, best.best)
    order = np.argsort(np.nanmean(loss, 1))[:100]
    assert best.risk[0] == pytest.approx(np.mean([np.nanmean(loss[order, k]) for k in range(3)]))
    assert best.risk.is_monotonic_increasing
    chance = uncertainty.risk_coverage(loss, np.arange(400) * 7 % 400, patients, shares=shares, n=30)
    assert chance.risk[0] == pytest.approx(chance.risk[2], abs=0.03) and (chance.best <= chance.risk + 1e-12).all()
    assert (
        uncertainty.risk_coverage(loss, uncertainty.entropy(p), patients, shares=shares, n=30).risk[0] < chance.risk[0]
    )


def test_thirds_are_scored_apart(made):
    y, p, patients = made
    doubt = uncertainty.entropy(p)
    table = uncertainty.auroc_by_third(y, p, doubt, patients, n=30, min_positives=3)
    order = np.argsort(doubt, kind="stable")
    assert table.n_records.sum() == 400 and list(table.third) == list(uncertainty.THIRDS)
    for third, rows in zip(table.itertuples(), (order[:134], order[134:267], order[267:]), strict=True):
        use = (y[rows] == 1).sum(0) >= 3
        assert third.auroc == pytest.approx(np.mean(metrics.auroc(y[rows], p[rows])[use]))
        assert third.n_labels == use.sum() >= third.n_same


@pytest.fixture(scope="module")
def head():
    random = np.random.default_rng(2)
    z = random.normal(size=(200, 4)) * [1, 2, 3, 4] + 5
    y = (random.random((200, 2)) < expit(0.5 * z[:, :2] - 4)).astype(int)
    y[:10, 1] = -1
    return z, y, uncertainty.gaussian_head(z, y, c=0.5)


def test_the_covariance_is_the_inverse_hessian_by_autograd(head):
    z, y, fitted = head
    x = torch.from_numpy(np.column_stack([(z - z.mean(0)) / z.std(0), np.ones(200)]))
    for k in range(2):
        use, t = torch.from_numpy(y[:, k] >= 0), torch.from_numpy(y[:, k]).double()

        def energy(w, use=use, t=t):
            logit = x[use] @ w
            return torch.nn.functional.binary_cross_entropy_with_logits(logit, t[use], reduction="sum") + w[:4] @ w[:4]

        at = torch.from_numpy(np.append(fitted.linear.weight[:, k], fitted.linear.bias[k]))
        hessian = torch.autograd.functional.hessian(energy, at).numpy()
        np.testing.assert_allclose(fitted.covariance[k], np.linalg.inv(hessian), rtol=1e-4, atol=1e-7)


def test_the_logit_spreads_away_from_the_data_and_the_probability_is_that_of_a_sample(head):
    z, _, fitted = head
    far = np.vstack([z.mean(0), z.mean(0) + 30 * z.std(0)])
    mean, sd = fitted.logits(far)
    assert (sd[1] > 5 * sd[0]).all()
    random = np.random.default_rng(0)
    wide = np.append((far[1] - z.mean(0)) / z.std(0), 1)
    weights = random.multivariate_normal(
        np.append(fitted.linear.weight[:, 0], fitted.linear.bias[0]), fitted.covariance[0], 200_000
    )
    drawn = weights @ wide
    assert drawn.mean() == pytest.approx(mean[1, 0], abs=0.05) and drawn.std() == pytest.approx(sd[1, 0], rel=0.02)
    assert expit(drawn).mean() == pytest.approx(fitted(far)[1, 0], abs=0.02)
    plain = classifiers.solve((z - z.mean(0)) / z.std(0), head[1], [0.5])[0]
    np.testing.assert_allclose(fitted.logits(z)[0], z_logit(z, plain), atol=1e-9)


def z_logit(z, linear):
    return (z - z.mean(0)) / z.std(0) @ linear.weight + linear.bias


def test_bad_input_is_refused(made):
    y, p, _ = made
    for change, said in (
        (lambda: uncertainty.conformal_quantile([1.0], 1.0), "alpha"),
        (lambda: uncertainty.conformal_thresholds(y, p, 0.1, "marginl"), "did you mean 'marginal'"),
        (lambda: uncertainty.mean_interval(np.full((3, 1), np.nan), np.arange(3)), "no value"),
    ):
        with pytest.raises(EcgError, match=said):
            change()
