"""Classifiers on feature vectors: a grid of logistic probes solved together, and boosted trees.

Logistic regression: every problem minimises |w|^2 / 2 + C sum_i s_i log-loss_i over the records whose label is known,
the intercept free, as scikit-learn's LogisticRegression does. All problems that share features are one L-BFGS run, in
which every product with the features is one matrix product; rotating to the singular vectors and scaling each direction
by its curvature makes the problems well conditioned, so that few iterations suffice.
"""

from itertools import islice, product
from typing import NamedTuple

import numpy as np
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier

CELLS = tuple(product((True, False), (0.01, 0.1, 1.0, 10.0), (None, "balanced")))  # standardise, C, class weight
TINY = 1e-30
SMALL = 1e-12  # relative eigenvalue below which a direction of the features counts as absent
BOOSTING = dict(learning_rate=0.1, max_iter=100, max_leaf_nodes=8, l2_regularization=1.0, max_features=0.3)


class Linear(NamedTuple):
    """p = sigmoid(z @ weight + bias); weight (dim, problem), bias (problem,)."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, z: np.ndarray) -> np.ndarray:
        return expit(z @ self.weight + self.bias)


def solve(z, y, cs, balanced=False, tol: float = 0.01, max_iter: int = 300) -> list[Linear]:
    """Fit one regression per label and per inverse penalty in `cs`, each starting from the next stronger penalty.

    z: float (record, dim); y: (record, label), 1 or 0, anything else is unknown and left out; balanced: both classes
    weigh the same (for all labels, or one bool per label). A label with a single class has no slope: its constant is
    (positives + 1) / (records + 2).
    tol: largest gradient entry left, each direction scaled by its curvature: about the distance from the optimum in
    posterior standard deviations. Returns one Linear per entry of `cs`.
    """
    positive, negative = np.asarray(y) == 1, np.asarray(y) == 0
    n1, n0 = positive.sum(0), negative.sum(0)
    todo = np.flatnonzero((n1 > 0) & (n0 > 0))
    start = np.log((n1 + 1) / (n0 + 1))
    fitted = {c: Linear(np.zeros((np.shape(z)[1], len(n1))), start.copy()) for c in cs}
    if len(todo):
        y, half = positive[:, todo], (n1 + n0)[todo] / 2
        balanced = np.broadcast_to(balanced, len(n1))[todo]
        weight = np.where(balanced, np.where(y, half / n1[todo], half / n0[todo]), 1.0)
        weight *= (positive | negative)[:, todo]
        centre = np.mean(z, 0)
        u, singular, vt = _svd(np.asarray(z, float) - centre)
        design = np.column_stack([u * singular, np.ones(len(u))]).astype(np.float32)
        rate = (weight * y).sum(0) / weight.sum(0)
        w = np.vstack([np.zeros((len(singular), len(todo))), np.log(rate / (1 - rate))])
        for c in sorted(cs):
            w = _fit(design, singular, y, c * weight, w, tol, max_iter)
            fitted[c].weight[:, todo] = vt.T @ w[:-1]
            fitted[c].bias[todo] = w[-1] - centre @ fitted[c].weight[:, todo]
    return [fitted[c] for c in cs]


def _fit(design, singular, y, s, w, tol, max_iter) -> np.ndarray:
    """Coefficients (direction + 1, problem) from the start `w`; s: (record, problem) weights with C multiplied in."""
    prob = expit(design @ w.astype(np.float32))
    curvature = (s * prob * (1 - prob)).sum(0)
    scale = 1 / np.sqrt(np.vstack([1 + singular[:, None] ** 2 * curvature / len(design), curvature]))
    sign, s = np.where(y, np.float32(-1), np.float32(1)), s.astype(np.float32)

    def loss(x, of):
        v = x * scale[:, of]
        e = np.exp(np.minimum(sign[:, of] * (design @ v.astype(np.float32)), 80))
        value = (s[:, of] * np.log1p(e)).sum(0, dtype=float) + 0.5 * (v[:-1] ** 2).sum(0)
        gradient = (design.T @ (s[:, of] * sign[:, of] * (e / (1 + e)))).astype(float)
        gradient[:-1] += v[:-1]
        return value, gradient * scale[:, of]

    return _lbfgs(loss, w / scale, tol, max_iter) * scale


def _lbfgs(loss, start, tol, max_iter, memory=8) -> np.ndarray:
    """Minimise many smooth convex functions at once: loss(x (dim, problem), their numbers) -> values, gradients.

    Every problem has its own step length and memory (Nocedal and Wright, algorithm 7.4); finished ones are put aside.
    """
    done, of, x, pairs = start.copy(), np.arange(start.shape[1]), start, []
    f, g = loss(x, of)
    for _ in range(max_iter):
        live = np.abs(g).max(0) > tol
        if live.sum() <= 0.8 * len(live):
            done[:, of] = x
            of, x, f, g = of[live], x[:, live], f[live], g[:, live]
            pairs = [(a[:, live], b[:, live], rho[live]) for a, b, rho in pairs]
        if not len(of):
            break
        direction = _direction(g, pairs)
        slope, step = (g * direction).sum(0), np.ones(len(of))
        for _ in range(30):
            new = x + step * direction
            f_new, g_new = loss(new, of)
            # single precision: a rise below its resolution is none
            short = f_new > f + 1e-4 * step * slope + 1e-7 * np.abs(f)
            if not short.any():
                break
            step[short] *= 0.4
        a, b = new - x, g_new - g
        ab = (a * b).sum(0)
        pairs = [*pairs[1 - memory :], (a, b, np.where(ab > TINY, 1 / np.maximum(ab, TINY), 0))]
        x, f, g = new, f_new, g_new
    done[:, of] = x
    return done


def _direction(g, pairs) -> np.ndarray:
    """Two-loop recursion: minus the approximate inverse Hessian of every problem times its gradient."""
    q, alphas = g.copy(), []
    for a, b, rho in reversed(pairs):
        alphas.append(rho * (a * q).sum(0))
        q -= alphas[-1] * b
    if pairs:
        a, b, rho = pairs[-1]
        q *= np.where(rho > 0, (a * b).sum(0) / np.maximum((b * b).sum(0), TINY), 1)
    for (a, b, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - rho * (b * q).sum(0)) * a
    return -q


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
    """The chosen probe: `model(z)` gives probabilities; `cell`: standardise, C, class weight; all models and losses."""

    model: Linear
    cell: tuple
    models: dict
    losses: np.ndarray


def linear(z, y, z_val, y_val) -> Probe:
    """Grid of 16 logistic probes on frozen features, chosen by the mean validation BCE over labels.

    z, z_val: float (row, dim); y, y_val: (row, label), 1 or 0, anything else unknown and left out. A label with one
    class in the training rows gets the constant (positives + 1) / (records + 2) in every cell.
    """
    z, z_val = np.asarray(z, float), np.asarray(z_val, float)
    y, y_val = np.asarray(y), np.asarray(y_val)
    cells, models = CELLS, {}
    n = y.shape[1]
    for standardise in (True, False):
        centre = z.mean(0) if standardise else np.zeros(z.shape[1])
        spread = z.std(0) if standardise else np.ones(z.shape[1])
        spread = np.where(spread > 0, spread, 1.0)
        cs = sorted({c for _, c, _ in cells})
        both = solve((z - centre) / spread, np.tile(y, 2), cs, np.repeat([False, True], n))
        for c, (slope, bias) in zip(cs, both, strict=True):
            slope = slope / spread[:, None]
            for weight, part in ((None, slice(n)), ("balanced", slice(n, None))):
                models[standardise, c, weight] = Linear(slope[:, part], (bias - centre @ slope)[part])
    losses = np.array([np.nanmean(bce(y_val, models[cell](z_val))) for cell in cells])
    best = cells[int(np.argmin(losses))]
    return Probe(models[best], best, models, losses)


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
