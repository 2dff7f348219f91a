"""L2-regularised logistic regressions of many labels and settings, solved together.

Every problem minimises |w|^2 / 2 + C sum_i s_i log-loss_i over the records whose label is known, the intercept free, as
scikit-learn's LogisticRegression does. All problems that share features are one L-BFGS run, in which every product with
the features is one matrix product; rotating to the singular vectors and scaling each direction by its curvature makes
the problems well conditioned, so that few iterations suffice.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

CELLS = tuple(product((True, False), (0.01, 0.1, 1.0, 10.0), (None, "balanced")))  # standardise, C, class weight
SMALL = 1e-12


class Linear(NamedTuple):
    """p = sigmoid(z @ weight + bias); weight (dim, problem), bias (problem,)."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, z: np.ndarray) -> np.ndarray:
        return expit(z @ self.weight + self.bias)


def solve(z: np.ndarray, y: np.ndarray, c, balanced, tol: float = 1e-2, max_iter: int = 300) -> Linear:
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
    rate = (s * y).sum(0) / s.sum(0)
    total = s.sum(0)
    design, k, p = np.column_stack([u * singular, np.ones(len(z))]), len(singular), y.shape[1]
    # curvature of the loss along each direction if all probabilities were `rate`
    curvature = total * rate * (1 - rate) / len(z)
    scale = 1 / np.sqrt(np.vstack([1 + singular[:, None] ** 2 * curvature, len(z) * curvature]))
    start = np.vstack([np.zeros((k, p)), np.log(rate / (1 - rate)) / scale[-1]])
    sign = np.where(y > 0, 1.0, -1.0)

    def loss(flat):
        w = flat.reshape(k + 1, p) * scale
        e = np.exp(-np.maximum(sign * (design @ w), -500))
        value = (s * np.log(1 + e)).sum() + 0.5 * (w[:-1] ** 2).sum()
        gradient = design.T @ (-s * sign * (e / (1 + e)))
        gradient[:-1] += w[:-1]
        return value, (gradient * scale).ravel()

    options = {"maxiter": max_iter, "maxfun": 2 * max_iter, "gtol": tol, "ftol": 0.0, "maxcor": 10}
    w = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(k + 1, p) * scale
    weight = vt.T @ w[:-1]
    return weight, w[-1] - centre @ weight


def _svd(x):
    """Thin SVD through the smaller Gram matrix, without the directions that are numerically absent."""
    wide = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    keep = values > SMALL * max(values.max(initial=0), np.finfo(float).tiny)
    singular, vectors = np.sqrt(values[keep]), vectors[:, keep]
    return (vectors, singular, (x.T @ vectors / singular).T) if wide else (x @ vectors / singular, singular, vectors.T)
