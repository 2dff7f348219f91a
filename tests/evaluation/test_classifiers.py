"""Probes against scikit-learn and plain computations."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from ecglib.evaluation import classifiers, metrics

CS, EXACT = [0.01, 0.1, 1.0, 10.0], dict(tol=3e-5, max_iter=1000)


@pytest.fixture(scope="module")
def problem():
    """Features of badly differing scale, four labels: one with unknown entries, one rare, one noise."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((700, 24)) @ rng.standard_normal((24, 24)) * np.geomspace(0.03, 3, 24) + 2
    y = (z @ rng.standard_normal((24, 4)) / 8 + rng.standard_normal((700, 4)) > [0, 1, 7, 0]).astype(int)
    y[:, 3] = rng.random(700) < 0.3
    y[rng.random(700) < 0.2, 1] = -1
    y[:4, 2] = [1, 0, 1, 0]
    return z, y


def sklearn_probabilities(z, y, z_new, c, weight):
    model = LogisticRegression(C=c, class_weight=weight, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    return model.fit(z[y >= 0], y[y >= 0]).predict_proba(z_new)[:, 1]


def test_solver_equals_scikit_learn_in_every_cell(problem):
    z, y = problem
    for weight in (None, "balanced"):
        for c, fitted in zip(CS, classifiers.solve(z, y, CS, weight == "balanced", **EXACT), strict=True):
            for j in range(y.shape[1]):
                np.testing.assert_allclose(fitted(z)[:, j], sklearn_probabilities(z, y[:, j], z, c, weight), atol=2e-4)


def test_solver_with_fewer_records_than_features_and_separable_classes(problem):
    z, y = problem
    few = z[:12] @ np.random.default_rng(1).standard_normal((24, 200))
    y = np.stack([np.arange(12) % 2, np.arange(12) < 3], 1)
    (fitted,) = classifiers.solve(few, y, [1.0], tol=1e-4)
    for j in range(2):
        np.testing.assert_allclose(fitted(few)[:, j], sklearn_probabilities(few, y[:, j], few, 1.0, None), atol=2e-4)


def test_default_tolerance_costs_no_discrimination(problem):
    z, y = problem
    for balanced in (False, True):
        rough, exact = (
            [m(z[350:]) for m in classifiers.solve(z[:350], y[:350], CS, balanced, **k)] for k in ({}, EXACT)
        )
        for a, b in zip(rough, exact, strict=True):
            assert abs(metrics.macro_auroc(y[350:], a) - metrics.macro_auroc(y[350:], b)) < 2e-3


def test_grid_has_a_cell_for_every_setting_and_takes_the_lowest_validation_log_loss(problem):
    z, y = problem
    fitted = classifiers.linear(z[:400], y[:400], z[400:], y[400:])
    assert len(classifiers.CELLS) == len(set(classifiers.CELLS)) == len(fitted.losses) == 2 * 8 * 2
    assert {c for _, c, _ in classifiers.CELLS} == {10.0**k for k in range(-6, 2)}
    expected = []
    for standardise, c, weight in classifiers.CELLS:
        centre, spread = (z[:400].mean(0), z[:400].std(0)) if standardise else (0, 1)
        train_z, val_z = (z[:400] - centre) / spread, (z[400:] - centre) / spread
        losses = []
        for j in range(y.shape[1]):
            p = sklearn_probabilities(train_z, y[:400, j], val_z, c, weight)
            known = y[400:, j] >= 0
            losses.append(log_loss(y[400:, j][known], np.clip(p[known], 1e-7, 1 - 1e-7), labels=[0, 1]))
        expected.append(np.mean(losses))
    np.testing.assert_allclose(fitted.losses, expected, atol=3e-3)
    assert fitted.cell == classifiers.CELLS[int(np.argmin(fitted.losses))]
    assert abs(min(expected) - expected[int(np.argmin(fitted.losses))]) < 3e-3


def test_a_label_with_one_class_gets_its_smoothed_prior(problem):
    z, y = problem[0][:50], problem[1][:50].copy()
    y[:, 0], y[:, 1] = 0, np.where(np.arange(50) < 10, 1, -1)
    for model in (classifiers.linear(z, y, z, y).model, classifiers.boosting(z, y, z, y)):
        p = model(problem[0])
        np.testing.assert_allclose(p[:, 0], 1 / 52)
        np.testing.assert_allclose(p[:, 1], 11 / 12)
        assert p.shape == (700, 4) and np.isfinite(p).all()


def test_probe_on_permuted_labels_finds_nothing():
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((3000, 16)), (rng.random((3000, 8)) < 0.3).astype(int)
    model = classifiers.linear(z[:1000], y[:1000], z[1000:1500], y[1000:1500]).model
    assert abs(metrics.macro_auroc(y[1500:], model(z[1500:])) - 0.5) < 0.03


def test_boosting_learns_what_is_not_linear_and_stops_on_validation():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((900, 6)).astype(np.float32)
    y = np.stack([x[:, 0] * x[:, 1] > 0, rng.random(900) < 0.5], 1).astype(int)
    x[rng.random(x.shape) < 0.02] = np.nan
    model = classifiers.boosting(x[:500], y[:500], x[500:700], y[500:700])
    assert roc_auc_score(y[700:, 0], model(x[700:])[:, 0]) > 0.85
    assert model.models[1][1] < 20 < model.models[0][1]
    again = classifiers.boosting(x[:500], y[:500], x[500:700], y[500:700])
    assert np.array_equal(model(x), again(x))


def test_constant_features_leave_the_prior():
    y = (np.arange(40) < 10).astype(int)[:, None]
    fitted = classifiers.linear(np.ones((40, 3)), y, np.ones((40, 3)), y)
    np.testing.assert_allclose(fitted.model(np.ones((2, 3))), 0.25, atol=1e-3)


def plain_adamw(z, y, z_val, y_val, seed, epochs):
    """(validation BCE, weight, bias) after each epoch, step by step in NumPy."""
    torch.manual_seed(seed)
    layer = torch.nn.Linear(z.shape[1], y.shape[1])
    w = np.vstack([layer.weight.detach().numpy().T, layer.bias.detach().numpy()]).astype(np.float64)
    first, second, step, states = np.zeros_like(w), np.zeros_like(w), 0, []
    for _ in range(epochs):
        order = torch.randperm(len(z)).numpy()
        for rows in np.split(order, range(128, len(z), 128)):
            x, known = np.column_stack([z[rows], np.ones(len(rows))]), y[rows] >= 0
            gradient = x.T @ ((1 / (1 + np.exp(-x @ w)) - (y[rows] == 1)) * known) / known.sum()
            step, w = step + 1, w * (1 - 1e-3 * 1e-4)
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            w = w - 1e-3 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        p = 1 / (1 + np.exp(-np.column_stack([z_val, np.ones(len(z_val))]) @ w))
        losses = [log_loss(a[a >= 0], b[a >= 0], labels=[0, 1]) for a, b in zip(y_val.T, p.T, strict=True)]
        states.append((np.mean(losses), w[:-1], w[-1]))
    return states


@pytest.mark.parametrize("seed", [0, 3])
def test_the_layer_that_is_trained_in_steps_follows_the_recipe_and_keeps_the_best_epoch(problem, seed):
    z, y = problem
    learned = classifiers.sgd_linear(z[:400], y[:400], z[400:], y[400:], seed)
    losses, weights, biases = zip(*plain_adamw(z[:400], y[:400], z[400:], y[400:], seed, 100), strict=True)
    best = int(np.argmin(losses))
    np.testing.assert_allclose(learned.weight, weights[best], atol=2e-4)
    np.testing.assert_allclose(learned.bias, biases[best], atol=2e-4)


def test_training_in_steps_stops_when_validation_gets_worse_and_leaves_the_random_state(problem):
    z, y = problem
    state = torch.random.get_rng_state()
    learned = classifiers.sgd_linear(z[:400], y[:400], z[400:], np.where(y[400:] < 0, y[400:], 1 - y[400:]))
    assert torch.equal(torch.random.get_rng_state(), state)
    (_, first, _), *_ = plain_adamw(z[:400], y[:400], z[400:], y[400:], 0, 1)
    np.testing.assert_allclose(learned.weight, first, atol=2e-4)
    again = classifiers.sgd_linear(z[:400], y[:400], z[400:], np.where(y[400:] < 0, y[400:], 1 - y[400:]))
    assert (again.weight == learned.weight).all() and np.isfinite(again(z)).all()


def test_an_unknown_label_teaches_the_layer_nothing(problem):
    z, y = problem
    hidden = y.copy()
    hidden[:200, 0] = -1
    models = [
        classifiers.sgd_linear(z[:400], t[:400], z[400:], y[400:]) for t in (hidden, np.where(hidden < 0, 2, hidden))
    ]
    assert (models[0].weight == models[1].weight).all()
    assert not np.allclose(models[0].weight, classifiers.sgd_linear(z[:400], y[:400], z[400:], y[400:]).weight)


def test_a_feature_that_nobody_has_is_no_hindrance():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    y = (x[:, :1] > 0).astype(int)
    empty = np.hstack([x, np.full((80, 1), np.nan)])
    assert ((classifiers.boosting(empty, y, empty, y)(empty) > 0.5) == (y == 1)).all()
    number = classifiers.boosting_number(empty, x[:, :1], empty, x[:, :1])(empty)
    assert np.abs(np.ravel(number) - x[:, 0]).mean() < 0.3
