"""Calibration and trees against other computations; recipes as they are written down."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier

from ecglib import models
from ecglib.evaluation import classifiers, fitting, metrics, probing
from ecglib.training import train


def drawn(n=400, seed=0, slope=0.5, intercept=-0.7):
    """Logits that say too much, and truth."""
    random = np.random.default_rng(seed)
    z = random.normal(0, 3, n)
    return (random.random(n) < expit(slope * z + intercept)).astype(int), z


def test_platt_is_the_minimum_that_an_optimiser_finds():
    y, z = drawn()
    n1, n0 = y.sum(), (1 - y).sum()
    target = np.where(y == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))

    def loss(w):
        p = expit(w[0] * z + w[1])
        return -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum()

    found = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options=dict(xatol=1e-9, fatol=1e-12, maxiter=5000)).x
    np.testing.assert_allclose(fitting.platt(y, z), found, atol=1e-5)
    assert abs(found[0] - 0.5) < 0.1 and abs(found[1] + 0.7) < 0.2  # what it was drawn with


def test_platt_never_turns_the_order_round_and_survives_a_separation():
    y, z = drawn()
    slope, intercept = fitting.platt(y, -z)
    assert slope == 0 and expit(intercept) == pytest.approx(y.mean(), abs=0.01)
    slope, intercept = fitting.platt((z > 0).astype(int), z)
    assert np.isfinite([slope, intercept]).all() and slope > 1


def test_rare_labels_share_a_temperature_and_frequent_ones_have_their_own_numbers():
    many, z = drawn(seed=1)
    few = np.where(np.arange(len(many)) < 9, 1, 0)
    y, p = np.stack([many, few], 1), expit(np.stack([z, np.roll(z, 3)], 1))
    y[7, 0] = -1
    slope, intercept = fitting.calibration(y, p)
    known = y >= 0
    logits = np.stack([z, np.roll(z, 3)], 1)[known]

    def loss(a):
        return np.logaddexp(0, np.where(y[known] == 1, -a, a) * logits).sum()

    best = minimize_scalar(loss, bounds=(1e-3, 10), method="bounded", options=dict(xatol=1e-10)).x
    assert slope[1] == pytest.approx(best, abs=1e-5) and intercept[1] == 0
    np.testing.assert_allclose((slope[0], intercept[0]), fitting.platt(many[y[:, 0] >= 0], z[y[:, 0] >= 0]), atol=1e-9)


def test_calibration_makes_probabilities_come_true():
    (y, z), (y_new, z_new) = drawn(3000, 2), drawn(20000, 3)
    slope, intercept = fitting.calibration(y[:, None], expit(z)[:, None])
    p = fitting.calibrated(expit(z_new)[:, None], slope, intercept)[:, 0]
    for low in np.arange(0.05, 0.9, 0.2):
        chosen = (p >= low) & (p < low + 0.2)
        assert abs(p[chosen].mean() - y_new[chosen].mean()) < 0.03
    assert abs(expit(z_new).mean() - y_new.mean()) > 0.05


def test_a_threshold_lies_between_the_records_and_calls_as_the_rule_does():
    random = np.random.default_rng(4)
    y, p = random.integers(-1, 2, (80, 3)), random.random((80, 3))
    p[:, 2] = np.where(y[:, 2] == 1, 0.999, 0.001)
    y[:, 1] = 0
    plain, cuts = metrics.threshold_at(y, p), fitting.thresholds(y, p)
    assert np.isnan(cuts[1]) and cuts[2] == pytest.approx(0.5) and cuts[0] < plain[0]
    known = y >= 0
    for k in (0, 2):
        assert ((p[:, k] >= cuts[k]) == (p[:, k] >= plain[k]))[known[:, k]].all()


def test_kept_trees_say_what_scikit_learn_says():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 6)).astype(np.float32)
    x[random.random(x.shape) < 0.1] = np.nan
    truth = np.nan_to_num(x) @ random.normal(size=(6, 2)) + random.normal(0, 0.5, (300, 2)) > 0
    y = np.column_stack([truth, np.ones(300)]).astype(int)
    boosted = classifiers.boosting(x[:200], y[:200], x[200:], y[200:], seed=0)
    trees = classifiers.forest(boosted)
    np.testing.assert_allclose(trees(x), boosted(x), atol=1e-12)
    model, number = boosted.models[0]
    assert isinstance(model, HistGradientBoostingClassifier) and (trees.labels == 0).sum() == number
    assert np.isfinite(trees.threshold).all() and trees(x).std(0)[:2].min() > 0.1


def test_the_recipes_are_those_of_the_papers():
    clef, founder = fitting.RECIPES["clef"], fitting.RECIPES["ecgfounder"]
    assert (clef.lr, clef.weight_decay, clef.batch_size, clef.epochs, clef.patience) == (1e-3, 1e-5, 64, 100, 5)
    assert (founder.lr, founder.weight_decay, founder.batch_size, founder.epochs) == (1e-4, 1e-5, 256, 30)
    assert clef.select == "loss" and founder.select == "auroc"


def test_progress_tells_rate_and_time_left(monkeypatch):
    now = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(fitting.time, "perf_counter", lambda: next(now))
    lines = []
    told = fitting.Told(100, "step", lines.append)
    told(50 + 1)  # 50 steps are from a fit that was stopped
    told(60, "; loss 0.5")
    assert lines[1] == "60 of 100 steps, 0.5 steps/s, 0:01:20 left; loss 0.5"


def test_the_recipe_of_the_study_averages_the_weights_as_its_probes_do(monkeypatch):
    class Data(SimpleNamespace):
        def __len__(self):
            return 640

    seen = []
    monkeypatch.setattr(train, "fit", lambda *given, settings, **others: seen.append(settings))
    data = Data(labels=["A"], rows=np.arange(2), cohort=SimpleNamespace(labels=pd.DataFrame()), record_ids=["a", "b"])
    encoder = models.build("net1d", "small", 1, widths=(8, 8, 16, 16), stem=8, group_width=4)
    probing.supervised(encoder, data, data, probing.Settings(epochs=25))
    options = dict(seed=0, folder=None, progress=print)
    for name in ("scratch", "study", "clef"):
        fitting.network(encoder, data, data, fitting.RECIPES[name], **options)
    probe, scratch, study, clef = seen
    assert probe.average == scratch.average == study.average == pytest.approx(1 - 1 / 25)  # a tenth of 250 steps
    assert (probe.steps, probe.lr, probe.batch_size) == (scratch.steps, scratch.lr, scratch.batch_size)
    assert clef.average == 0
