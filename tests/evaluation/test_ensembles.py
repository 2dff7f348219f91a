"""Weights of several methods against exhaustive search and scikit-learn's and scipy's answers; the gate's gradient."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import check_grad, minimize
from sklearn.metrics import log_loss

from ecglib import EcgError
from ecglib.evaluation import classifiers, ensembles, predictions


@pytest.fixture
def said():
    """Truth (80, 3) with unknowns, and what four methods of unlike skill say of it."""
    rng = np.random.default_rng(0)
    y = (rng.random((80, 3)) < [0.5, 0.3, 0.2]).astype(int)
    p = np.stack([1 / (1 + np.exp(-(2 * skill * (y - 0.5) + rng.normal(size=y.shape)))) for skill in (0.2, 1, 1.2, 0)])
    y[:10, 1] = -1
    return y, p


def plain_loss(y, p):
    """Mean over labels of scikit-learn's log-loss of the known records."""
    return np.mean([log_loss(y[y[:, k] >= 0, k], p[y[:, k] >= 0, k], labels=[0, 1]) for k in range(y.shape[1])])


def test_the_loss_counts_every_label_alike(said):
    y, p = said
    assert ensembles.log_loss(y, p[1]) == pytest.approx(plain_loss(y, p[1]))
    with pytest.raises(EcgError, match="method, record, label"):
        ensembles.greedy(y, p[1])
    with pytest.raises(EcgError, match="no record has a known label"):
        ensembles.simplex(np.full_like(y, -1), p)


def test_simplex_weights_are_the_minimum_that_scipy_finds(said):
    y, p = said
    weights = ensembles.simplex(y, p)
    assert weights.sum() == pytest.approx(1) and weights.min() >= 0
    bounds, total = [(0, 1)] * 4, {"type": "eq", "fun": lambda w: w.sum() - 1}
    best = minimize(
        lambda w: plain_loss(y, ensembles.mixture(p, w)), np.full(4, 0.25), bounds=bounds, constraints=total
    )
    assert ensembles.log_loss(y, ensembles.mixture(p, weights)) == pytest.approx(best.fun, abs=1e-6)
    assert weights == pytest.approx(best.x, abs=0.01)


def test_greedy_selection_is_that_of_a_plain_loop(said):
    y, p = said
    chosen, best, kept = [], np.inf, None
    for _ in range(6):
        losses = [plain_loss(y, p[[*chosen, m]].mean(0)) for m in range(4)]
        chosen.append(int(np.argmin(losses)))
        if min(losses) < best:
            best, kept = min(losses), np.bincount(chosen, minlength=4) / len(chosen)
    assert ensembles.greedy(y, p, 6) == pytest.approx(kept)
    every = [np.bincount(c, minlength=4) / 3 for c in itertools.combinations_with_replacement(range(4), 3)]
    assert best <= min(plain_loss(y, p[m]) for m in range(4)) and len(every) == 20
    assert ensembles.greedy(y, p, 30) @ np.ones(4) == pytest.approx(1)


def test_a_gate_learns_which_expert_knows_which_records():
    rng = np.random.default_rng(1)
    y = (rng.random((400, 2)) < 0.5).astype(int)
    z = rng.normal(size=(400, 3))
    knows = z[:, :1] > 0  # the first expert is right here, the second one elsewhere
    right, wrong = np.where(y == 1, 0.9, 0.1), np.full(y.shape, 0.5)
    p = np.stack([np.where(knows, right, wrong), np.where(knows, wrong, right)])
    y[:20] = -1
    mixed = ensembles.gate(z, p, y, 1e-4)
    w = mixed.weights(z)
    assert w.sum(1) == pytest.approx(1) and w[z[:, 0] > 0.3, 0].min() > 0.9 and w[z[:, 0] < -0.3, 1].min() > 0.9
    assert ensembles.log_loss(y, mixed(z, p)) < 0.6 * ensembles.log_loss(y, p.mean(0))
    still = ensembles.gate(z, p, y, 1e6)
    assert np.abs(still.slope).max() < 1e-4


def test_the_gates_gradient_is_that_of_differences(said, monkeypatch):
    y, p = said
    z = np.random.default_rng(3).normal(size=(80, 2))
    asked = {}

    def look(loss, start, jac, method, options):
        asked["error"] = check_grad(lambda w: loss(w)[0], lambda w: loss(w)[1], np.linspace(-1, 1, len(start)))
        return minimize(loss, start, jac=jac, method=method, options=options)

    monkeypatch.setattr(ensembles, "minimize", look)
    mixed = ensembles.gate(z, p, y, 0.01)
    assert asked["error"] < 1e-5
    own = plain_loss(y, mixed(z, p)) + 0.01 * (mixed.slope**2).sum()
    assert own <= plain_loss(y, p.mean(0)) + 1e-9


def test_experts_side_by_side():
    rng = np.random.default_rng(4)
    y = (rng.random((300, 2)) < 0.4).astype(int)
    zs = [rng.normal(size=(300, 6)) + np.pad(y[:, [k]] * 2.0, ((0, 0), (0, 5))) for k in (0, 1)]
    train, val, rest = np.arange(150), np.arange(150, 220), np.arange(220, 300)
    folds = np.array_split(train, 3)
    made = ensembles.experts([z[train] for z in zs], y[train], [z[val] for z in zs], y[val], folds, width=3)
    p = made.predict([z[rest] for z in zs])
    assert set(p) == {"0", "1", "mean", "gate", "concatenation"} and made.penalty in ensembles.PENALTIES
    assert p["mean"] == pytest.approx((p["0"] + p["1"]) / 2)
    alone = classifiers.linear(zs[0][train], y[train], zs[0][val], y[val])
    assert p["0"] == pytest.approx(alone.model(zs[0][rest]))
    assert ensembles.log_loss(y[rest], p["concatenation"]) < min(ensembles.log_loss(y[rest], p[k]) for k in "01")
    turned = made.turn(np.concatenate([z[train] for z in zs], 1))
    assert turned.shape == (150, 3) and turned.std(0) == pytest.approx(1)
    standardise, c, weight = alone.cell
    again = classifiers.at_cell(zs[0][train], y[train], standardise, c, weight == "balanced")
    assert again(zs[0][rest]) == pytest.approx(alone.model(zs[0][rest]), abs=2e-3)


def test_first_runs_are_read_from_the_predictions_of_each_method(tmp_path):
    ids, labels = [f"r{i}" for i in range(4)], ["x", "y"]
    for encoder, note in (("a", ""), ("b", "seen"), ("c", "dummy")):
        tables = []
        for seed, fraction, split in ((0, 1.0, "val"), (1, 1.0, "val"), (0, 0.1, "val"), (0, 1.0, "external")):
            at = pd.MultiIndex.from_product([ids[::-1], labels], names=["record_id", "label"])
            table = pd.DataFrame({"probability": np.linspace(0, 1, 8) * (0.5 + seed / 2)}, at).reset_index()
            about = dict(truth=1, patient_id="p", cohort="A", split=split, fraction=fraction, seed=seed)
            tables.append(table.assign(**about, encoder=encoder, mode="linear", note=note))
        predictions.write(pd.concat(tables), tmp_path / f"twelve-{encoder}/predictions.parquet")
    found = ensembles.first_runs(tmp_path, "twelve", ["a", "b", "c"], "A", 1.0)
    assert list(found) == [("a", "linear")] and found["a", "linear"].columns.tolist() == labels
    assert found["a", "linear"].loc[["r3", "r0"]].to_numpy() == pytest.approx(np.array([[0, 1], [6, 7]]) / 14)
