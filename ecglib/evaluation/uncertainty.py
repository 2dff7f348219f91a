"""How sure is a prediction, and is it right to be: conformal sets, selective prediction, a Gaussian on the logit.

Conformal sets hold the truth as often as they promise for records that are exchangeable with those they were calibrated
on, whatever the model (Vovk et al. 2005); in another hospital nothing is promised, so it is measured there.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, xlog1py, xlogy

from ecglib import EcgError, require_known
from ecglib.evaluation import bootstrap, classifiers
from ecglib.evaluation.metrics import columns

MARGINAL, BY_CLASS = "marginal", "by class"
KINDS = (MARGINAL, BY_CLASS)
THIRDS = ("surest third", "middle third", "least sure third")


def conformal_quantile(scores, alpha: float) -> float:
    """The k-th smallest of n calibration scores, k = ceil((n + 1) (1 - alpha)); infinity where k > n.

    A new exchangeable score lies at or below it with probability k / (n + 1) >= 1 - alpha, without ties exactly; given
    the calibration records that probability is Beta(k, n + 1 - k). Source: Vovk et al. 2005; Angelopoulos and Bates,
    arXiv 2107.07511, sections 1 and 3.2.
    """
    if not 0 < alpha < 1:
        raise EcgError(f"alpha={alpha}", field="alpha", fix="the share of errors that is allowed, such as 0.1")
    scores = np.sort(np.asarray(scores, float))
    k = int(np.ceil((len(scores) + 1) * (1 - alpha) - 1e-9))
    return float(scores[k - 1]) if k <= len(scores) else np.inf


def conformal_thresholds(y, p, alpha: float = 0.1, kind: str = BY_CLASS) -> np.ndarray:
    """Largest nonconformity at which a state stays in the set: float (label, 2), of absent and of present.

    y, p: truth and probability (record, label) of calibration records, unknown truth left out; the nonconformity of a
    state is one minus its probability. kind: "marginal", one quantile of the true states' scores; "by class", one for
    each class, so that present is covered as often as absent, however rare it is (label-conditional, Vovk 2012); with
    fewer than 1 / alpha - 1 records a class stays in every set.
    """
    require_known("kind", [kind], KINDS)
    y, p = columns(y, p)
    thresholds = np.empty((y.shape[1], 2))
    for k in range(y.shape[1]):
        scores = [1 - p[y[:, k] == 1, k], p[y[:, k] == 0, k]]
        if kind == MARGINAL:
            thresholds[k] = conformal_quantile(np.concatenate(scores), alpha)
        else:
            thresholds[k] = conformal_quantile(scores[1], alpha), conformal_quantile(scores[0], alpha)
    return thresholds


def conformal_sets(p, thresholds) -> np.ndarray:
    """Which states each set holds: bool (record, label, 2), absent and present. p: probabilities (record, label)."""
    p = np.asarray(p, float)
    return np.stack([p, 1 - p], -1) <= thresholds


def covered(y, sets) -> np.ndarray:
    """Whether the set holds the true state: 1.0 or 0.0 (record, label), NaN where the truth is unknown."""
    y = np.asarray(y)
    held = np.where(y == 1, sets[..., 1], sets[..., 0]).astype(float)
    return np.where((y == 0) | (y == 1), held, np.nan)


def mean_interval(values, patients, n: int = 1000, seed: int = 0) -> bootstrap.Interval:
    """Mean over labels of the mean over records, with its interval over patients.

    values: (record, label), NaN left out; a label without a value has no part in it. patients: (record,).
    """
    values = np.asarray(values, float).reshape(len(values), -1)
    values = values[:, ~np.isnan(values).all(0)]
    if not values.shape[1]:
        raise EcgError("no value is known", field="values", fix="give records with known truth")
    y, p = np.where(np.isnan(values), np.nan, 0.0), np.nan_to_num(values)
    return bootstrap.average(bootstrap.replicates(y, p, patients, n, seed, statistic="bias"))


def conformal_table(y, p, patients, thresholds, *, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Coverage and size of the sets of some records, averaged over labels, with intervals over patients.

    y, p: (record, label); patients: (record,); thresholds: `conformal_thresholds`. Rows: covered, covered where
    present, covered where absent, decided (sets of one state), undecided (both), empty. Returns what, share, low, high.
    """
    sets, y = conformal_sets(p, thresholds), np.asarray(y)
    hit, size = covered(y, sets), sets.sum(-1)
    shares = {"covered": hit, "covered where present": np.where(y == 1, hit, np.nan)}
    shares |= {"covered where absent": np.where(y == 0, hit, np.nan)}
    shares |= {"decided": size == 1, "undecided": size == 2, "empty": size == 0}
    rows = [(what, *mean_interval(values, patients, n, seed)[:3]) for what, values in shares.items()]
    return pd.DataFrame(rows, columns=["what", "share", "low", "high"])


def entropy(p) -> np.ndarray:
    """Mean over labels of the entropy of the predicted state, in nats: (record,). p: probabilities (record, label)."""
    p = np.asarray(p, float)
    return -(xlogy(p, p) + xlog1py(1 - p, -p)).mean(1)


def ranks(uncertainty) -> np.ndarray:
    """Place of each record from the surest (0) to the least sure, ties in their order: int (record,)."""
    uncertainty = np.asarray(uncertainty, float)
    if np.isnan(uncertainty).any():
        raise EcgError("a record without an uncertainty", field="uncertainty", fix="leave it out")
    place = np.empty(len(uncertainty), int)
    place[np.argsort(uncertainty, kind="stable")] = np.arange(len(uncertainty))
    return place


def risk_coverage(loss, uncertainty, patients, *, shares, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Mean loss of the surest records: a row per share of the records that is answered.

    loss: (record, label), NaN unknown, averaged over records and then labels; uncertainty: (record,); shares: of the
    records, from 0 to 1. best: where the loss itself decides who is answered. At random the risk is that of all,
    whatever the share. Returns share, risk, low, high, best. Source: El-Yaniv and Wiener 2010.
    """
    loss = np.asarray(loss, float)
    place, ideal, rows = ranks(uncertainty), ranks(np.nanmean(loss, 1)), []
    for share in shares:
        some, best = (np.flatnonzero(order < max(1, round(share * len(loss)))) for order in (place, ideal))
        risk = mean_interval(loss[some], np.asarray(patients)[some], n, seed)
        rows.append((share, *risk[:3], mean_interval(loss[best], None, 1).point))
    return pd.DataFrame(rows, columns=["share", "risk", "low", "high", "best"])


def auroc_by_third(y, p, uncertainty, patients, *, n=1000, seed=0, min_positives=5) -> pd.DataFrame:
    """Macro AUROC among the surest third of the records, the middle third and the least sure: third, auroc, low, high,
    n_labels, n_records. Labels need both classes in a third to count there: the thirds do not average the same labels.

    `same`: the macro over the labels that count in all thirds, same_low, same_high; NaN where there is none.
    """
    y, place = np.asarray(y), ranks(uncertainty)
    thirds = [np.flatnonzero(place * 3 // len(y) == k) for k in range(3)]
    drawn = [bootstrap.replicates(y[rows], p[rows], np.asarray(patients)[rows], n, seed) for rows in thirds]
    count = [
        (~np.isnan(d.point)) & ((y[rows] == 1).sum(0) >= min_positives) for d, rows in zip(drawn, thirds, strict=True)
    ]
    everywhere, table = np.all(count, axis=0), []
    for name, rows, each, own in zip(THIRDS, thirds, drawn, count, strict=True):
        numbers = []
        for use in (own, everywhere):
            some = bootstrap.Replicates(each.point[use], each.values[:, use])
            numbers += [*bootstrap.average(some)[:3]] if use.any() else [np.nan] * 3
        table.append((name, *numbers[:3], int(own.sum()), len(rows), *numbers[3:], int(everywhere.sum())))
    names = ["third", "auroc", "low", "high", "n_labels", "n_records", "same", "same_low", "same_high", "n_same"]
    return pd.DataFrame(table, columns=names)


class GaussianHead(NamedTuple):
    """Logistic regressions whose logits are Gaussian: mean z @ weight + bias, variance by the curvature."""

    centre: np.ndarray  # (dim,)
    spread: np.ndarray  # (dim,)
    linear: classifiers.Linear  # on standardised features
    covariance: np.ndarray  # (label, dim + 1, dim + 1), of weight and bias

    def logits(self, z) -> tuple[np.ndarray, np.ndarray]:
        """(mean, standard deviation) of the logits (record, label) of features z (record, dim)."""
        z = (np.asarray(z, float) - self.centre) / self.spread
        wide = np.column_stack([z, np.ones(len(z))])
        variance = np.einsum("nd,lde,ne->nl", wide, self.covariance, wide, optimize=True)
        return z @ self.linear.weight + self.linear.bias, np.sqrt(np.maximum(variance, 0))

    def __call__(self, z) -> np.ndarray:
        """Probabilities (record, label), averaged over the Gaussian: sigmoid(m / sqrt(1 + pi v / 8)), MacKay 1992."""
        mean, sd = self.logits(z)
        return expit(mean / np.sqrt(1 + np.pi * sd**2 / 8))


def gaussian_head(z, y, c: float = 0.01) -> GaussianHead:
    """Laplace's approximation of logistic regressions on frozen features.

    z: (record, dim); y: (record, label), 1 or 0, anything else unknown; c: variance of the Gaussian prior of weights
    on standardised features (the inverse penalty of `classifiers.solve`), flat for the intercept. The covariance is the
    inverse of 1 / c + sum of p (1 - p) z z' at the optimum. Source: MacKay 1992, "The evidence framework applied to
    classification networks"; the idea of a Gaussian in the place of a point is EchoingECG's.
    """
    z, y = np.asarray(z, float), np.asarray(y)
    centre, spread = z.mean(0), z.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    z = (z - centre) / spread
    linear, wide = classifiers.solve(z, y, [c])[0], np.column_stack([z, np.ones(len(z))])
    prior = np.diag(
        [*[1 / c] * z.shape[1], 1e-6]
    )  # the intercept's is flat, but for a label that nobody is asked about
    p, known = linear(z), (y == 0) | (y == 1)
    weight = np.where(known, p * (1 - p), 0.0)
    inverse = [np.linalg.inv(prior + (wide * weight[:, [k]]).T @ wide) for k in range(y.shape[1])]
    return GaussianHead(centre, spread, linear, np.stack(inverse))
