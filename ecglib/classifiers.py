"""Classifiers on feature vectors: a grid of logistic probes solved together, and boosted trees.

Logistic regression: every problem minimises |w|^2 / 2 + C sum_i s_i log-loss_i over the records whose label is known,
the intercept free, as scikit-learn's LogisticRegression does. All problems that share features are one L-BFGS run, in
which every product with the features is one matrix product; rotating to the singular vectors and scaling each direction
by its curvature makes the problems well conditioned, so that few iterations suffice.
"""

from itertools import islice, product
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier

CELLS = tuple(product((True, False), (0.01, 0.1, 1.0, 10.0), (None, "balanced")))  # standardise, C, class weight
ROUGH = 10.0  # the first stage of the solver stops at this multiple of its tolerance
SMALL = 1e-12  # relative eigenvalue below which a direction of the features counts as absent
BOOSTING = dict(learning_rate=0.1, max_iter=100, max_leaf_nodes=8, l2_regularization=1.0, max_features=0.3)


class Linear(NamedTuple):
    """p = sigmoid(z @ weight + bias); weight (dim, problem), bias (problem,)."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, z: np.ndarray) -> np.ndarray:
        return expit(z @ self.weight + self.bias)


def solve(z: np.ndarray, y: np.ndarray, c, balanced, tol: float = 1e-2, max_iter: int = 1000) -> Linear:
    """Fit one regression per problem on shared features.

    z: float (record, dim); y: (record, problem), 1 or 0, anything else is unknown and masked; c, balanced: inverse
    penalty and whether both classes weigh the same, per problem or one for all. A problem with a single class has no
    slope: its constant is (positives + 1) / (records + 2).
    tol: largest gradient entry left, each direction scaled by its curvature: about the distance from the optimum in
    posterior standard deviations.
    """
    y, n_problems = np.asarray(y), np.shape(y)[1]
    c, balanced = np.broadcast_to(c, n_problems).astype(float), np.broadcast_to(balanced, n_problems)
    positive, negative = y == 1, y == 0
    n1, n0 = positive.sum(0), negative.sum(0)
    bias = np.log((n1 + 1) / (n0 + 1))
    weight = np.zeros((z.shape[1], n_problems))
    todo = np.flatnonzero((n1 > 0) & (n0 > 0))
    if len(todo):
        half = (n1 + n0)[todo] / 2
        s = positive[:, todo] * np.where(balanced[todo], half / n1[todo], 1.0)
        s += negative[:, todo] * np.where(balanced[todo], half / n0[todo], 1.0)
        weight[:, todo], bias[todo] = _lbfgs(z, positive[:, todo].astype(float), s * c[todo], tol, max_iter)
    return Linear(weight, bias)


def _lbfgs(z, y, s, tol, max_iter):
    """s: (record, problem) weights with C multiplied in, zero where unknown. Returns weight (dim, problem), bias."""
    centre = z.mean(0)
    u, singular, vt = _svd(np.asarray(z, float) - centre)
    design, k, p = np.column_stack([u * singular, np.ones(len(z))]), len(singular), y.shape[1]
    sign = np.where(y > 0, 1.0, -1.0)

    def loss(flat, scale):
        w = flat.reshape(k + 1, p) * scale
        e = np.exp(-np.maximum(sign * (design @ w), -500))
        value = (s * np.log(1 + e)).sum() + 0.5 * (w[:-1] ** 2).sum()
        gradient = design.T @ (-s * sign * (e / (1 + e)))
        gradient[:-1] += w[:-1]
        return value, (gradient * scale).ravel()

    rate = (s * y).sum(0) / s.sum(0)
    w = np.vstack([np.zeros((k, p)), np.log(rate / (1 - rate))])
    # The curvature is that of the starting point first; classes that separate well have far less of it at the end.
    for stage in (ROUGH * tol, tol):
        prob = expit(design @ w)
        curvature = (s * prob * (1 - prob)).mean(0)
        scale = 1 / np.sqrt(np.vstack([1 + singular[:, None] ** 2 * curvature, len(z) * curvature]))
        options = {"maxiter": max_iter, "maxfun": 2 * max_iter, "gtol": stage, "ftol": 0.0, "maxcor": 10}
        found = minimize(loss, (w / scale).ravel(), (scale,), jac=True, method="L-BFGS-B", options=options)
        w = found.x.reshape(k + 1, p) * scale
    weight = vt.T @ w[:-1]
    return weight, w[-1] - centre @ weight


def _svd(x):
    """Thin SVD through the smaller Gram matrix, without the directions that are numerically absent."""
    wide = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    keep = values > SMALL * max(values.max(initial=0), np.finfo(float).tiny)
    singular, vectors = np.sqrt(values[keep]), vectors[:, keep]
    return (vectors, singular, (x.T @ vectors / singular).T) if wide else (x @ vectors / singular, singular, vectors.T)


def bce(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Mean log-loss of each label over its known records: (label,), NaN where none is known. y, p: (record, label)."""
    p = np.clip(p, 1e-7, 1 - 1e-7)
    known = (y == 0) | (y == 1)
    loss = np.where(y == 1, -np.log(p), -np.log1p(-p)) * known
    n = known.sum(0)
    return np.where(n > 0, loss.sum(0) / np.maximum(n, 1), np.nan)


class Probe(NamedTuple):
    """The chosen probe: `model(z)` gives probabilities; `cell`: standardise, C, class weight; `losses` of all cells."""

    model: Linear
    cell: tuple
    losses: np.ndarray


def linear(z, y, z_val, y_val) -> Probe:
    """Grid of 16 logistic probes on frozen features, chosen by the mean validation BCE over labels.

    z, z_val: float (row, dim); y, y_val: (row, label), 1 or 0, anything else unknown and left out. A label with one
    class in the training rows gets the constant (positives + 1) / (records + 2) in every cell.
    """
    z, z_val = np.asarray(z, float), np.asarray(z_val, float)
    y, y_val = np.asarray(y), np.asarray(y_val)
    cells, models = CELLS, {}
    for standardise in (True, False):
        here = [cell for cell in cells if cell[0] == standardise]
        centre = z.mean(0) if standardise else np.zeros(z.shape[1])
        spread = z.std(0) if standardise else np.ones(z.shape[1])
        spread = np.where(spread > 0, spread, 1.0)
        c = np.repeat([cell[1] for cell in here], y.shape[1])
        balanced = np.repeat([cell[2] == "balanced" for cell in here], y.shape[1])
        fitted = solve((z - centre) / spread, np.tile(y, len(here)), c, balanced)
        weight = fitted.weight / spread[:, None]
        bias = fitted.bias - centre @ weight
        for i, cell in enumerate(here):
            part = slice(i * y.shape[1], (i + 1) * y.shape[1])
            models[cell] = Linear(weight[:, part], bias[part])
    losses = np.array([np.nanmean(bce(y_val, models[cell](z_val))) for cell in cells])
    best = cells[int(np.argmin(losses))]
    return Probe(models[best], best, losses)


class Boosted(NamedTuple):
    """One boosted model per label with its chosen number of trees, or the constant of a label with one class."""

    models: list

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x (row, feature) -> probabilities (row, label)."""
        return np.stack([_staged(m, n, x) if n else np.full(len(x), m) for m, n in self.models], 1)


def boosting(x, y, x_val, y_val, seed: int = 0) -> Boosted:
    """Gradient-boosted trees on hand-made features, one model per label; validation BCE chooses the number of trees.

    x, x_val: (row, feature), NaN allowed; y, y_val: as in `linear`, and so the constant of a label with one class.
    """
    y, y_val, models = np.asarray(y), np.asarray(y_val), []
    for label in range(y.shape[1]):
        there, there_val = np.isin(y[:, label], (0, 1)), np.isin(y_val[:, label], (0, 1))
        target = y[there, label]
        if len(np.unique(target)) < 2:
            models.append(((target.sum() + 1) / (len(target) + 2), 0))
            continue
        leaf = int(np.clip(len(target) // 20, 1, 20))
        model = HistGradientBoostingClassifier(
            **BOOSTING, min_samples_leaf=leaf, early_stopping=False, random_state=seed
        ).fit(x[there], target)
        stages = [p[:, 1:] for p in model.staged_predict_proba(x_val[there_val])] if there_val.any() else []
        losses = [bce(y_val[there_val, label : label + 1], p)[0] for p in stages] or [0.0]
        models.append((model, int(np.argmin(losses)) + 1))
    return Boosted(models)


def _staged(model, n_trees: int, x) -> np.ndarray:
    return next(islice(model.staged_predict_proba(x), n_trees - 1, None))[:, 1]
