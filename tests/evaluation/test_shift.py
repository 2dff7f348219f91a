"""The toy against the published table of closed forms and a simulation; samples, priors, and their correction."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm

from ecglib import EcgError
from ecglib.evaluation import metrics, shift

COVARIATE = {  # P(Z=1) at test -> prevalence, then mean, log-loss, AUROC of X only and of X+Z
    0.2: (0.200, 0.200, 0.3498, 0.853, 0.200, 0.3394, 0.861),
    0.5: (0.350, 0.315, 0.4425, 0.862, 0.350, 0.4243, 0.871),
    0.8: (0.500, 0.430, 0.5353, 0.818, 0.500, 0.5089, 0.824),
}
CONCEPT = {  # P(Y=1 | Z=0), P(Y=1 | Z=1) at test -> log-loss, AUROC of X only, X+Z, and with the prior corrected
    (0.1, 0.6): (0.4373, 0.863, 0.4240, 0.872, 0.4240, 0.872),
    (0.35, 0.35): (0.6260, 0.712, 0.6938, 0.661, 0.5455, 0.761),
    (0.6, 0.1): (0.8143, 0.532, 0.9629, 0.395, 0.4241, 0.871),
}
RISKS = (0.1, 0.6)


def area(share, risks, known) -> float:
    """AUROC of X+Z, which knows the risks `known`: its logit is normal in each group, of unit variance and a mean of
    y - 1 / 2 plus the logit of the known risk, so that two of them compare as normal variables do."""
    p_z, offset = np.array([1 - share, share]), logit(known)
    ill, well = p_z * np.array(risks), p_z * (1 - np.array(risks))
    pairs = np.outer(ill / ill.sum(), well / well.sum())
    return float((pairs * norm.cdf((1 + offset[:, None] - offset[None]) / np.sqrt(2))).sum())


@pytest.mark.parametrize("share", COVARIATE)
def test_the_toy_under_another_mix_of_patients(share):
    table = shift.toy((0.2, RISKS), (share, RISKS))
    found = [table.prevalence[0], *table.loc[[0, 1], ["mean", "log_loss", "auroc"]].to_numpy().ravel()]
    assert found == pytest.approx(COVARIATE[share], abs=0.002)  # areas of the table come from a simulation
    probabilities = [0, 1, 2, 4, 5]
    assert np.array(found)[probabilities] == pytest.approx(np.array(COVARIATE[share])[probabilities], abs=5e-4)
    assert found[-1] == pytest.approx(area(share, RISKS, np.array(RISKS)), abs=5e-4)


@pytest.mark.parametrize("risks", CONCEPT)
def test_the_toy_under_another_risk_within_the_groups(risks):
    table = shift.toy((0.5, RISKS), (0.5, risks))
    assert table[["log_loss", "auroc"]].to_numpy().ravel() == pytest.approx(CONCEPT[risks], abs=0.002)
    assert table.log_loss.to_numpy() == pytest.approx(np.array(CONCEPT[risks])[::2], abs=5e-4)
    areas = [area(0.5, risks, np.array(known)) for known in (RISKS, risks)]
    assert table.auroc.to_numpy()[1:] == pytest.approx(areas, abs=5e-4)


def test_the_toy_by_simulation():
    random, n = np.random.default_rng(0), 400_000
    z = (random.random(n) < 0.5).astype(int)
    y = (random.random(n) < np.array([0.6, 0.1])[z]).astype(int)
    x = random.normal(y + 1.5 * z, 1)
    densities = [[np.exp(-((x - state - 1.5 * g) ** 2) / 2) for g in (0, 1)] for state in (0, 1)]
    present = 0.1 * densities[1][0] + 0.6 * densities[1][1]
    absent = 0.9 * densities[0][0] + 0.4 * densities[0][1]
    scores = np.log(present / absent), shift.toy_logit(x, z, RISKS), shift.toy_logit(x, z, (0.6, 0.1))
    table = shift.toy((0.5, RISKS), (0.5, (0.6, 0.1)))
    for row, score in zip(table.itertuples(), scores, strict=True):
        assert row.log_loss == pytest.approx(np.mean(np.logaddexp(0, np.where(y == 1, -score, score))), abs=0.005)
        assert row.auroc == pytest.approx(metrics.auroc(y[:40000], expit(score[:40000])), abs=0.01)


def test_the_closed_form_at_one_point_and_its_correction():
    assert shift.toy_logit(0.3, 1, RISKS) == pytest.approx(-1.294535, abs=1e-6)
    found = shift.corrected([-1.294535], [1], RISKS, (0.6, 0.1))
    assert found[0] == pytest.approx(-3.897225, abs=1e-5)
    assert shift.corrected([0.3, 0.3], [0, 1], RISKS, RISKS) == pytest.approx([0.3, 0.3])


@pytest.mark.parametrize("odds", [9, 3, 1, 1 / 3, 1 / 9])
@pytest.mark.parametrize("p_z", [0.5, 0.2])
def test_a_sample_has_the_association_asked_for(odds, p_z):
    low, high = shift.rates(odds, 0.3, p_z)
    assert high * (1 - low) / ((1 - high) * low) == pytest.approx(odds)
    assert p_z * high + (1 - p_z) * low == pytest.approx(0.3)
    random = np.random.default_rng(0)
    y, z = (random.random((2, 60_000)) < 0.4).astype(int)
    y[:500] = -1
    n = shift.largest(y, z, p_z, (low, high))
    assert n > 8000
    rows = shift.subsample(y, z, n, p_z, (low, high), seed=1)
    assert len(rows) == n == len(set(rows)) and (y[rows] >= 0).all()
    assert y[rows].mean() == pytest.approx(0.3, abs=1 / n) and z[rows].mean() == pytest.approx(p_z, abs=1 / n)
    cells = [((y[rows] == a) & (z[rows] == b)).sum() for a, b in ((1, 1), (0, 0), (1, 0), (0, 1))]
    assert cells[0] * cells[1] / (cells[2] * cells[3]) == pytest.approx(odds, rel=0.02)
    assert not np.array_equal(rows, shift.subsample(y, z, n, p_z, (low, high), seed=2))
    with pytest.raises(EcgError, match="asked for"):
        shift.subsample(y, z, 2 * n, p_z, (low, high))


def test_the_prior_is_found_by_counting_and_without_labels():
    random, n = np.random.default_rng(1), 40_000
    z = (random.random(n) < 0.5).astype(int)
    truth = (0.6, 0.1)
    y = (random.random(n) < np.array(truth)[z]).astype(int)
    logits = shift.toy_logit(random.normal(y + 1.5 * z, 1), z, RISKS)
    assert shift.prior_by_em(logits, z, RISKS) == pytest.approx(truth, abs=0.015)
    assert shift.prior_of_labelled(y, z) == pytest.approx(truth, abs=0.01)
    few = shift.prior_of_labelled(np.array([1, 0, -1]), np.array([1, 1, 1]))
    assert few == (0.5, 0.5), "one added to each class; nobody of the other group"
    fixed = [
        expit(logits[z == g] + logit(t) - logit(r)).mean()
        for g, t, r in zip((0, 1), shift.prior_by_em(logits, z, RISKS), RISKS, strict=True)
    ]
    assert fixed == pytest.approx(shift.prior_by_em(logits, z, RISKS), abs=1e-4)


def test_scores_are_those_of_the_library():
    random = np.random.default_rng(2)
    logits, y = random.normal(size=200), (random.random(200) < 0.4).astype(int)
    found = shift.scores(y, logits, np.arange(200) // 2, n=30)
    assert found["auroc"].point == pytest.approx(metrics.auroc(y, expit(logits)))
    assert found["ece"].point == pytest.approx(metrics.score(y, expit(logits), "ece"))
    loss = np.mean([-np.log(p if t else 1 - p) for t, p in zip(y, expit(logits), strict=True)])
    assert found["log_loss"].point == pytest.approx(loss) and found["log_loss"].low < loss < found["log_loss"].high


def test_what_is_no_population_is_refused():
    for bad in ((0, 0.3, 0.5), (2, 1.0, 0.5), (2, 0.3, 0.0)):
        with pytest.raises(EcgError, match="odds ratio"):
            shift.rates(*bad)


def test_the_largest_sample_can_be_drawn_whatever_the_cells_hold():
    random = np.random.default_rng(5)
    for _ in range(300):
        y, z = random.integers(0, 2, 60), random.integers(0, 2, 60)
        p_z, p_y = random.uniform(0.2, 0.8), tuple(random.uniform(0.1, 0.9, 2))
        n = shift.largest(y, z, p_z, p_y)
        assert len(shift.subsample(y, z, n, p_z, p_y)) == n
        with pytest.raises(EcgError, match="asked for"):
            shift.subsample(y, z, n + 3, p_z, p_y)
