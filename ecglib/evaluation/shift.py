"""Shifts of who is in the sample: a covariate Z (age, sex) that causes disease Y and shows in the signal X.

Y causes X, so p(y | x, z) survives a shift of p(z), and only p(x | y, z) one of p(y | z) (after arXiv 2410.19575). The
toy in closed form, sub-samples with a given association of Y and Z, and the correction of the prior. The learners that
aim at invariance stand in `invariance`.
"""

import numpy as np
import pandas as pd
from scipy.special import expit, log_expit, logit
from scipy.stats import norm

from ecglib import EcgError
from ecglib.evaluation import bootstrap
from ecglib.evaluation.uncertainty import mean_interval

EFFECT = 1.5  # of Z on X in the toy, in standard deviations of the noise; Y has 1
PREDICTORS = ("X only", "X+Z", "X+Z, prior corrected")
SMALL = 1e-4  # a probability nearer to 0 or 1 counts as this in log-losses and logits


def toy_logit(x, z, p_y) -> np.ndarray:
    """logit P(Y=1 | x, z) of the toy X | Y, Z ~ N(Y + 1.5 Z, 1); p_y: P(Y=1 | Z) for Z = 0 and 1."""
    z = np.asarray(z)
    return np.asarray(x) - EFFECT * z - 0.5 + logit(np.asarray(p_y, float))[z]


def toy(train, test, points: int = 4001) -> pd.DataFrame:
    """The optimal predictors of one population, in another, by quadrature over x.

    train, test: (P(Z=1), (P(Y=1 | Z=0), P(Y=1 | Z=1))); points: of x, for each z. Returns a row per predictor:
    predictor, prevalence, mean (prediction), log_loss, auroc. "prior corrected" knows P(Y=1 | Z) of the test.
    """
    x = np.linspace(-8, 8 + EFFECT + 1, points)
    both = np.concatenate([x, x]), np.repeat([0, 1], points)

    def density(p_z, p_y):
        """p(x, z, y) on the grid, (y, z x point), as weights that add up to 1."""
        share = np.array([1 - p_z, p_z])[both[1]]
        p = np.asarray(p_y, float)[both[1]]
        weight = np.stack(
            [
                share * (1 - p) * norm.pdf(both[0] - EFFECT * both[1]),
                share * p * norm.pdf(both[0] - EFFECT * both[1] - 1),
            ]
        )
        return weight / weight.sum()

    learned, met, rows = density(*train), density(*test), []
    at_x = learned.reshape(2, 2, points).sum(1)  # z summed out
    only = np.log(at_x[1]) - np.log(at_x[0])
    logits = np.tile(only, 2), toy_logit(*both, train[1]), toy_logit(*both, test[1])
    for name, score in zip(PREDICTORS, logits, strict=True):
        loss = -(met[1] * log_expit(score) + met[0] * log_expit(-score)).sum()
        row = (name, met[1].sum(), (met.sum(0) * expit(score)).sum(), loss, _weighted_auroc(score, *met))
        rows.append(row)
    return pd.DataFrame(rows, columns=["predictor", "prevalence", "mean", "log_loss", "auroc"])


def _weighted_auroc(score, negative, positive) -> float:
    """P(score of a positive > of a negative), a tie counting half, of weights on the same points."""
    value, group = np.unique(score, return_inverse=True)
    below, same = (np.bincount(group, weight, len(value)) for weight in (negative, positive))
    return float((same * (np.cumsum(below) - below / 2)).sum() / (negative.sum() * positive.sum()))


def rates(odds_ratio: float, prevalence: float, p_z: float = 0.5) -> tuple[float, float]:
    """(P(Y=1 | Z=0), P(Y=1 | Z=1)) of a population with this odds ratio of Y and Z and this prevalence of Y.

    The root of a quadratic; EcgError for what is no odds ratio or no share.
    """
    if not (odds_ratio > 0 and 0 < prevalence < 1 and 0 < p_z < 1):
        reason = f"odds ratio {odds_ratio}, prevalence {prevalence}, P(Z=1) {p_z}"
        raise EcgError(reason, field="odds_ratio", fix="a positive ratio, and shares between 0 and 1")
    if odds_ratio == 1:
        return prevalence, prevalence
    # cell a = P(Y=1, Z=1): a (1 - prevalence - p_z + a) = odds_ratio (prevalence - a) (p_z - a)
    terms = odds_ratio - 1, -(1 + (odds_ratio - 1) * (prevalence + p_z)), odds_ratio * prevalence * p_z
    a = (-terms[1] - np.sqrt(terms[1] ** 2 - 4 * terms[0] * terms[2])) / (2 * terms[0])
    return float((prevalence - a) / (1 - p_z)), float(a / p_z)


def largest(y, z, p_z: float, p_y) -> int:
    """The most records that `subsample` can draw from these for this population."""
    share = _cells(p_z, p_y)
    n = int(min((((y == k[0]) & (z == k[1])).sum() + 0.49) / max(s, 1e-12) for k, s in share.items()))
    while n and not fits(y, z, n, p_z, p_y):  # the nearest whole numbers may ask one cell for one too many
        n -= 1
    return n


def fits(y, z, n: int, p_z: float, p_y) -> bool:
    """Whether `subsample` can draw n records."""
    y, z = np.asarray(y), np.asarray(z)
    return all(((y == k[0]) & (z == k[1])).sum() >= count for k, count in _counts(n, p_z, p_y).items())


def _counts(n: int, p_z: float, p_y) -> dict[tuple[int, int], int]:
    """{(y, z): records of it}: the nearest whole numbers that add up to n."""
    exact = {key: n * share for key, share in _cells(p_z, p_y).items()}
    counts = {key: int(value) for key, value in exact.items()}
    for key in sorted(exact, key=lambda key: counts[key] - exact[key])[: n - sum(counts.values())]:
        counts[key] += 1
    return counts


def _cells(p_z, p_y):
    """{(y, z): its share}."""
    share = {0: 1 - p_z, 1: p_z}
    return {(y, z): share[z] * (p_y[z] if y else 1 - p_y[z]) for y in (0, 1) for z in (0, 1)}


def subsample(y, z, n: int, p_z: float, p_y, seed: int = 0) -> np.ndarray:
    """Positions of n records drawn without replacement so that Z and Y | Z have these probabilities, sorted.

    y, z: (record,), 1 or 0, anything else is never drawn; p_z: P(Z=1); p_y: P(Y=1 | Z) for Z = 0 and 1, as of `rates`.
    The counts of the four cells are the nearest whole numbers that add up to n. Raises EcgError where a cell has fewer.
    """
    y, z, random = np.asarray(y), np.asarray(z), np.random.default_rng(seed)
    drawn = []
    for (state, group), count in _counts(n, p_z, p_y).items():
        there = np.flatnonzero((y == state) & (z == group))
        if len(there) < count:
            reason = f"{count} records with Y={state}, Z={group} asked for, {len(there)} there"
            raise EcgError(reason, field="n", fix="draw fewer, or a milder shift")
        drawn.append(random.permutation(there)[:count])
    return np.sort(np.concatenate(drawn))


def corrected(logits, z, source, target) -> np.ndarray:
    """Logits under another P(Y=1 | Z): plus logit target(z) minus logit source(z), (record,).

    z: (record,), 0 or 1; source, target: P(Y=1 | Z) for Z = 0 and 1. Exact where p(x | y, z) is the same.
    """
    source, target = (np.clip(np.asarray(p, float), SMALL, 1 - SMALL) for p in (source, target))
    return np.asarray(logits, float) + (logit(target) - logit(source))[np.asarray(z)]


def prior_of_labelled(y, z) -> tuple[float, float]:
    """P(Y=1 | Z) for Z = 0 and 1 from a few labelled records of the target, one added to each class of each group."""
    y, z = np.asarray(y), np.asarray(z)
    return tuple(float(((y == 1) & (z == k)).sum() + 1) / (((z == k) & (y >= 0)).sum() + 2) for k in (0, 1))


def prior_by_em(logits, z, source, rounds: int = 200) -> tuple[float, float]:
    """P(Y=1 | Z) for Z = 0 and 1 of target records without labels, by expectation maximisation (Saerens et al. 2002).

    logits, z: (record,), of a model that learned under `source`, P(Y=1 | Z) there. It trusts p(x | y, z) and that the
    model is calibrated: where the model is sure of nothing it stays at the source.
    """
    z, target = np.asarray(z), [float(p) for p in source]
    for group in (0, 1):
        mine = np.asarray(logits, float)[z == group]
        for _ in range(rounds if len(mine) else 0):
            shift = logit(np.clip(target[group], SMALL, 1 - SMALL)) - logit(np.clip(source[group], SMALL, 1 - SMALL))
            new = float(expit(mine + shift).mean())
            done, target[group] = abs(new - target[group]) < 1e-6, new
            if done:
                break
    return tuple(target)


def scores(y, logits, patients, *, n: int = 1000, seed: int = 0) -> dict[str, bootstrap.Interval]:
    """AUROC, log-loss and ECE of one label in one sample, each with its interval over patients.

    y: (record,), 1 or 0; logits: (record,).
    """
    y, logits = np.asarray(y), np.clip(np.asarray(logits, float), logit(SMALL), -logit(SMALL))
    p, loss = expit(logits), -np.where(y == 1, log_expit(logits), log_expit(-logits))
    table = {name: bootstrap.bootstrap(y, p, patients, n, seed, statistic=name) for name in ("auroc", "ece")}
    return table | {"log_loss": mean_interval(loss, patients, n, seed)}
