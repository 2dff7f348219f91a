"""What a teacher says of records without labels, who has seen which patient, and how often each record is drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ecglib import models
from ecglib.evaluation import classifiers, probing, self_training
from ecglib.evaluation.probing import Settings, Task
from ecglib.training import batches


@pytest.fixture(scope="module")
def table():
    """120 records of 60 patients; label 0 is the sign of the first feature, label 1 is noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4)).astype(np.float32)
    y = np.stack([x[:, 0] > 0, rng.random(120) < 0.5], 1).astype(int)
    return x, y, np.repeat(np.arange(60), 2)


def test_records_without_labels_get_what_the_trees_say_and_the_others_keep_theirs(table):
    x, y, patients = table
    few = y.copy()
    few[40:] = -1
    few[3, 1] = -1
    found = self_training.targets(x, few, x[:20], y[:20], patients, np.arange(120) < 40)
    assert np.array_equal(found[:3], y[:3]) and np.isnan(found[3, 1]) and found.dtype == np.float32
    teacher = classifiers.boosting(x[:40], few[:40], x[:20], y[:20], 0)
    np.testing.assert_allclose(found[40:], teacher(x[40:]), rtol=1e-6)
    assert ((found[40:, 0] > 0.5) == (y[40:, 0] == 1)).mean() > 0.8


def test_with_all_labels_the_teacher_has_not_seen_the_patient(table, monkeypatch):
    x, y, patients = table
    seen, boosting = [], classifiers.boosting

    def spy(x_train, *rest):
        model = boosting(x_train, *rest)
        return lambda asked: (seen.append((x_train, asked)), model(asked))[1]

    monkeypatch.setattr(classifiers, "boosting", spy)
    found = self_training.targets(x, y, x[:20], y[:20], patients, np.ones(120, bool))
    of = {tuple(row): patient for row, patient in zip(x, patients, strict=True)}
    assert len(seen) == self_training.FOLDS and sum(len(asked) for _, asked in seen) == len(x)
    for taught, asked in seen:
        assert not {of[tuple(row)] for row in taught} & {of[tuple(row)] for row in asked}
    assert (abs(found - y) <= 0.5).all() and 0 < abs(found - y)[:, 0].mean() < abs(found - y)[:, 1].mean()


def test_a_record_that_is_unknown_throughout_changes_nothing_for_the_others(table):
    x, y, patients = table
    whole = self_training.targets(x, y, x[:20], y[:20], patients, np.ones(120, bool))
    y = y.copy()
    y[7] = -1
    found = self_training.targets(x, y, x[:20], y[:20], patients, np.ones(120, bool))
    others = np.arange(120) != 7
    assert np.isnan(found[7]).all() and not np.isin(found[others], (0, 1)).all()
    assert np.abs(found[others] - whole[others]).mean() < 0.1


def test_labelled_records_are_drawn_as_often_as_the_others():
    cohort = MemoryCohort(40, shares=(("train", 1),))
    data, labelled = batches.CohortData(cohort, np.arange(40), labels=NAMES), np.arange(40) < 5
    target = np.random.default_rng(0).random((40, 3)).astype(np.float32)
    soft = self_training.SoftLabels(data, target, labelled)
    first = np.isin(soft.record_ids.astype(str), [f"A{i:04d}" for i in range(5)])
    assert len(soft) == 70 and first.sum() == 35 and len(set(soft.record_ids)) == 40
    batch = soft.batch(np.array([69, 0, 40]))
    rows = [int(name[1:]) for name in soft.record_ids[[69, 0, 40]]]
    np.testing.assert_array_equal(batch.labels, target[rows])
    torch.testing.assert_close(batch.x, data.batch(np.array(rows)).x)


def test_shifts_average_the_logits_of_rolled_records():
    cohort = MemoryCohort(6, shares=(("train", 1),))
    data = batches.CohortData(cohort, np.arange(6), ("I",), labels=NAMES)
    objective = probing.objectives.build("supervised", models.build("net1d", "small", 1), n_labels=3).eval()
    x = data.signals(np.arange(6)).numpy()
    with torch.no_grad():
        moved = [objective.logits(torch.from_numpy(np.roll(x, -k * 250, -1))).numpy() for k in range(4)]
    expected = 1 / (1 + np.exp(-np.mean(moved, 0)))
    np.testing.assert_allclose(probing.probabilities(objective, data, 4), expected, rtol=1e-4, atol=1e-6)
    assert abs(moved[1] - moved[0]).max() > 1e-3


def test_one_call_trains_itself_on_what_the_teacher_says(tmp_path, monkeypatch):
    cohort, asked = MemoryCohort(60), []
    models.save(models.build("net1d", "small", 1, seed=3), tmp_path)
    task, original = Task(cohort, (), ("I",), NAMES), probing.supervised

    def spy(encoder, data, *rest):
        asked.append((len(data), data.batch(np.arange(4)).labels.dtype, rest[-1]))
        return original(encoder, data, *rest)

    monkeypatch.setattr(probing, "supervised", spy)
    settings = Settings((0.5, 1.0), seeds=1, whole_seeds=1, epochs=1, min_steps=3, batch_size=16, selftrain_steps=4)
    settings = replace(settings, shifts=2)
    table = probing.run("clef+selftrain", task, settings, pretrain_dir=tmp_path, progress=lambda _: None)
    assert set(table["mode"]) == {"selftrain"} and table["probability"].between(0, 1).all()
    assert asked[0][0] >= 30 and asked[1][0] == 30 and {kind for _, kind, _ in asked} == {torch.float32}
    assert {steps for _, _, steps in asked} == {4}


def test_calls_are_as_many_as_among_the_labelled_records():
    """By hand: 40 records called by rank, at 1/4, at the least share for a label nobody has, at 1/2 for an unknown."""
    p = np.random.default_rng(0).permuted(np.tile(np.linspace(0.1, 0.2, 40)[:, None], (1, 3)), axis=0)
    found = self_training.calls(p, np.array([[1, 0, -1], [0, 0, -1], [0, 0, -1], [0, 0, -1]]))
    assert found.sum(0).tolist() == [10, 2, 20]
    assert all(p[found[:, k] == 1, k].min() > p[found[:, k] == 0, k].max() for k in range(3))


def test_a_probe_learns_from_its_own_calls_where_that_helps_on_validation():
    """Oracle: scikit-learn on the labelled records, repeated, and the called ones; kept only where validation gains."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, (240, 1))
    z = rng.normal(size=(240, 5)) + 1.5 * truth
    few, val, pool = z[:10], z[10:40], z[40:]
    plain = classifiers.Linear(np.ones((5, 1)), np.array([3.0]))  # ranks well, calls nearly everybody positive
    found = self_training.own_calls(plain, few, truth[:10], val, truth[10:40], pool)
    assert found is not plain
    centre, spread, again = pool.mean(0), pool.std(0), np.resize(np.arange(10), 200)
    both = (np.concatenate([few[again], pool]) - centre) / spread
    target = np.concatenate([truth[again], self_training.calls(plain(pool), truth[:10])])[:, 0]
    fits = [LogisticRegression(C=c, tol=1e-10).fit(both, target) for c in self_training.CS]
    said = [fit.predict_proba((val - centre) / spread)[:, 1] for fit in fits]
    best = min(range(3), key=lambda k: log_loss(truth[10:40, 0], said[k]))
    np.testing.assert_allclose(found(val)[:, 0], said[best], atol=2e-3)
    sure = classifiers.Linear(1.5 * np.ones((5, 1)), np.array([-(1.5**2) * 5 / 2]))  # what is so
    assert self_training.own_calls(sure, few, truth[:10], val, truth[10:40], pool) is sure
    assert self_training.own_calls(plain, few, truth[:10], val, truth[10:40], pool[:0]) is plain
