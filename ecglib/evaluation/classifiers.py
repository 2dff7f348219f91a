"""Classifiers on feature vectors: a grid of logistic probes solved together, one trained in steps, and boosted trees.

For numbers there are ridge regression and boosted trees.

Logistic regression: every problem minimises |w|^2 / 2 + C sum_i s_i log-loss_i over the records whose label is known,
the intercept free, as scikit-learn's LogisticRegression does. All problems that share features are one L-BFGS run, in
which every product with the features is one matrix product; rotating to the singular vectors and scaling each direction
by its curvature makes the problems well conditioned, so that few iterations suffice.
"""

from itertools import islice, product
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

CS = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0)  # inverse penalties; wide features need the small ones
CELLS = tuple(product((True, False), CS, (None, "balanced")))  # standardise, C, class weight
TINY = 1e-30
LARGEST = np.finfo(float).max
SMALL = 1e-12  # relative eigenvalue below which a direction of the features counts as absent
STEPS = dict(
    lr=1e-3, weight_decay=1e-4
)  # of AdamW, in batches of 128 for 100 epochs: linear probes of arXiv 2403.06659
BATCH, EPOCHS, PATIENCE = 128, 100, 5
BOOSTING = dict(learning_rate=0.1, max_iter=100, max_leaf_nodes=8, l2_regularization=1.0, max_features=0.3)
BOOSTING |= dict(early_stopping=False)  # the number of trees is chosen on validation


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
    posterior standard deviations, and less below C = 0.01, where these are wide. Returns one Linear per entry of `cs`.
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
            w = _fit(design, singular, y, c * weight, w, tol * min(1, 10 * np.sqrt(c)), max_iter)
            fitted[c].weight[:, todo] = vt.T @ w[:-1]
            fitted[c].bias[todo] = w[-1] - centre @ fitted[c].weight[:, todo]
    return [fitted[c] for c in cs]


def at_cell(z, y, standardise: bool, c: float, balanced: bool) -> Linear:
    """The regressions of one cell of the grid of `linear`, on features as they are: z, y, c, balanced as of `solve`."""
    centre, spread = (z.mean(0), z.std(0)) if standardise else (np.zeros(z.shape[1]), np.ones(z.shape[1]))
    spread = np.where(spread > 0, spread, 1.0)
    ((slope, bias),) = solve((z - centre) / spread, y, [c], balanced)
    slope = slope / spread[:, None]
    return Linear(slope, bias - centre @ slope)


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


def turned(z_train, z):
    """Function from features (row, dim) to their coordinates (row, rank) in the directions that the rows of z span.

    z_train: (row, dim), by whose mean and deviation features are standardised first. A regression with a square penalty
    on rows of z gives the same probabilities in these coordinates, of which there are at most as many as rows.
    """
    centre, spread = z_train.mean(0), z_train.std(0)
    spread = np.where(spread > 0, spread, 1).astype(np.float32)
    _, _, vt = _svd(((z - centre) / spread).astype(float))
    return lambda new: (((new - centre) / spread) @ vt.T.astype(np.float32)).astype(np.float32)


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
    """Grid of logistic probes on frozen features (CELLS), chosen by the mean validation BCE over labels.

    z, z_val: float (row, dim); y, y_val: (row, label), 1 or 0, anything else unknown and left out (see `solve`).
    """
    z, z_val = np.asarray(z, float), np.asarray(z_val, float)
    y, y_val = np.asarray(y), np.asarray(y_val)
    models, n = {}, y.shape[1]
    for standardise in (True, False):
        centre = z.mean(0) if standardise else np.zeros(z.shape[1])
        spread = z.std(0) if standardise else np.ones(z.shape[1])
        spread = np.where(spread > 0, spread, 1.0)
        both = solve((z - centre) / spread, np.tile(y, 2), CS, np.repeat([False, True], n))
        for c, (slope, bias) in zip(CS, both, strict=True):
            slope = slope / spread[:, None]
            for weight, columns in ((None, slice(n)), ("balanced", slice(n, None))):
                models[standardise, c, weight] = Linear(slope[:, columns], (bias - centre @ slope)[columns])
    losses = np.array([np.nanmean(bce(y_val, models[cell](z_val))) for cell in CELLS])
    best = CELLS[int(np.argmin(losses))]
    return Probe(models[best], best, models, losses)


def best_pooling(zs: dict, y, zs_val: dict, y_val) -> tuple[str, Probe]:
    """Which features do best on validation, and their probe: the least validation BCE over all names and cells.

    zs, zs_val: name -> float (row, dim), the first name where several do equally well; y, y_val: as in `linear`.
    """
    probes = {name: linear(z, y, zs_val[name], y_val) for name, z in zs.items()}
    name = min(probes, key=lambda name: probes[name].losses.min())
    return name, probes[name]


def sgd_linear(z, y, z_val, y_val, seed: int = 0) -> Linear:
    """One linear layer on the features as they are, trained by gradient steps as most papers probe (see STEPS).

    z, z_val, y, y_val: as in `linear`; seed: of the first weights and the batches. The epoch with the least validation
    BCE stays; training ends when PATIENCE epochs brought no better one.
    """
    x, target = torch.as_tensor(np.asarray(z, np.float32)), torch.as_tensor(np.asarray(y))
    known, best, least, waited = (target == 0) | (target == 1), None, np.inf, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(x.shape[1], target.shape[1])
        optimiser = torch.optim.AdamW(layer.parameters(), **STEPS)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(x)).split(BATCH):
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    layer(x[rows]), (target[rows] == 1).float(), known[rows].float(), reduction="sum"
                )
                optimiser.zero_grad()
                (loss / known[rows].sum().clamp(min=1)).backward()
                optimiser.step()
            weight, bias = (tensor.detach().double().numpy().copy() for tensor in (layer.weight.T, layer.bias))
            loss, waited = np.nanmean(bce(y_val, Linear(weight, bias)(np.asarray(z_val, float)))), waited + 1
            if best is None or loss < least:
                best, least, waited = Linear(weight, bias), loss, 0
            if waited == PATIENCE:
                break
    return best


class Boosted(NamedTuple):
    """One boosted model per label with its chosen number of trees, or the constant of a label with one class."""

    models: list

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.stack([_staged(m, n, x) if n else np.full(len(x), m) for m, n in self.models], 1)


class Forest(NamedTuple):
    """Boosted trees as plain arrays, which can be stored, with the predictions of the model that they come from.

    Arrays over all nodes of all trees, children by their number among all nodes; a record goes left where its value is
    at most `threshold`, or missing and `missing_left`. A tree begins at a node of `roots` and belongs to the label in
    `labels`; p = sigmoid(`start` + sum of the leaves), start (label,).
    """

    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    roots: np.ndarray
    labels: np.ndarray
    start: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Probabilities (row, label) of x (row, feature), NaN allowed."""
        return expit(self.outputs(x))

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """The sums before the sigmoid, which of trees for a number are the number."""
        x, records = np.asarray(x, float), np.arange(len(x))[:, None]
        at = np.tile(self.roots, (len(x), 1))  # (row, tree)
        while (inner := self.left[at] > 0).any():
            values = x[records, self.feature[at]]
            left = np.where(np.isnan(values), self.missing_left[at] > 0, values <= self.threshold[at])
            at = np.where(inner, np.where(left, self.left[at], self.right[at]), at)
        logits = np.tile(self.start, (len(x), 1))
        np.add.at(logits.T, self.labels, self.value[at].T)
        return logits


def forest(boosted: Boosted) -> Forest:
    """The chosen trees of `boosting` as plain arrays; of `boosting_number` for Boosted([(model, n_trees)])."""
    columns, roots, labels, start, total = [], [], [], [], 0
    for label, (model, number) in enumerate(boosted.models):
        if not number:  # a constant
            start.append(np.log(model / (1 - model)))
            continue
        start.append(float(np.ravel(model._baseline_prediction)[0]))
        for (tree,) in model._predictors[:number]:
            nodes = tree.nodes
            inner = nodes["is_leaf"] == 0
            children = [np.where(inner, nodes[side].astype(np.int64) + total, 0) for side in ("left", "right")]
            threshold = np.where(inner, nodes["num_threshold"], 0.0).clip(
                -LARGEST, LARGEST
            )  # infinite: all but missing
            missing = (nodes["missing_go_to_left"] != 0).astype(np.int8)
            columns.append([nodes["feature_idx"].astype(np.int64), threshold, missing, *children, nodes["value"]])
            roots.append(total)
            labels.append(label)
            total += len(nodes)
    empty = [np.zeros(0, kind) for kind in (np.int64, float, np.int8, np.int64, np.int64, float)]
    joined = [np.concatenate(parts) for parts in zip(*columns, strict=True)] or empty
    return Forest(*joined, np.array(roots, np.int64), np.array(labels, np.int64), np.array(start))


def boosting(x, y, x_val, y_val, seed: int = 0) -> Boosted:
    """Gradient-boosted trees on hand-made features, one model per label; validation BCE chooses the number of trees.

    x, x_val: (row, feature), NaN allowed; y, y_val: as in `linear`, and so the constant of a label with one class.
    """
    x, y, x_val, y_val = (np.asarray(table) for table in (x, y, x_val, y_val))
    return Boosted([_boosted(x, y[:, k], x_val, y_val[:, k], seed) for k in range(y.shape[1])])


def _boosted(x, y, x_val, y_val, seed) -> tuple:
    """(model, number of trees) of one label, or (constant, 0)."""
    known, known_val = np.isin(y, (0, 1)), np.isin(y_val, (0, 1))
    target = y[known]
    if len(np.unique(target)) < 2:
        return (target.sum() + 1) / (len(target) + 2), 0
    leaf = int(np.clip(len(target) // 20, 1, 20))
    model = HistGradientBoostingClassifier(**BOOSTING, min_samples_leaf=leaf, random_state=seed)
    model.fit(_without_empty(x[known]), target)
    stages = [p[:, 1:] for p in model.staged_predict_proba(x_val[known_val])] if known_val.any() else []
    losses = [bce(y_val[known_val, None], p)[0] for p in stages] or [0.0]
    return model, int(np.argmin(losses)) + 1


def _without_empty(x: np.ndarray) -> np.ndarray:
    """x with 0 in features that no row has: they split nobody, and scikit-learn refuses them."""
    return np.where(np.isnan(x).all(0), 0.0, x)


def _staged(model, n_trees: int, x) -> np.ndarray:
    return next(islice(model.staged_predict_proba(x), n_trees - 1, None))[:, 1]


PENALTIES = tuple(10.0**k for k in range(-1, 6))


class Regression(NamedTuple):
    """number = z @ weight + bias; weight (dim, 1), bias (1,)."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, z: np.ndarray) -> np.ndarray:
        return z @ self.weight + self.bias


def ridge(z, y, z_val, y_val) -> Regression:
    """Ridge regression on standardised features, of PENALTIES the one with the least mean absolute validation error.

    z, z_val: float (row, dim); y, y_val: numbers (row, 1), all known. Minimises |y - z w|^2 + penalty |w|^2.
    """
    z, y = np.asarray(z, float), np.asarray(y, float)
    centre, spread = z.mean(0), np.where(z.std(0) > 0, z.std(0), 1.0)
    u, singular, vt = _svd((z - centre) / spread)
    found = []
    for penalty in PENALTIES:
        weight = vt.T @ ((singular / (singular**2 + penalty))[:, None] * (u.T @ (y - y.mean(0)))) / spread[:, None]
        found.append(Regression(weight, y.mean(0) - centre @ weight))
    return min(found, key=lambda model: np.abs(model(z_val) - y_val).mean())


class BoostedNumber(NamedTuple):
    """Boosted trees for a number, of which the first `n_trees` count."""

    model: HistGradientBoostingRegressor
    n_trees: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return next(islice(self.model.staged_predict(x), self.n_trees - 1, None))[:, None]


def boosting_number(x, y, x_val, y_val, seed: int = 0) -> BoostedNumber:
    """Gradient-boosted trees for a number; the mean absolute validation error chooses how many.

    x, x_val: hand-made features (row, feature), NaN allowed; y, y_val: numbers (row, 1), all known.
    """
    leaf = int(np.clip(len(y) // 20, 1, 20))
    options = dict(BOOSTING, min_samples_leaf=leaf, random_state=seed)
    model = HistGradientBoostingRegressor(**options).fit(_without_empty(np.asarray(x)), np.ravel(y))
    errors = [np.abs(p - np.ravel(y_val)).mean() for p in model.staged_predict(x_val)]
    return BoostedNumber(model, int(np.argmin(errors)) + 1)
