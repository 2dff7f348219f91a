"""What is chosen where, what is opened where, and the one-call study of a method."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort

import ecglib
from ecglib import encoders, metrics, objectives, predictions, probe, train
from ecglib.signals import EcgError

TINY = dict(epochs=1, min_steps=3, batch_size=16)


@pytest.fixture(scope="module")
def cohort():
    return MemoryCohort(60)


@pytest.fixture(scope="module")
def external():
    return MemoryCohort(12, "B", seed=5, shares=(("external", 1),))


def test_features_are_the_encoder_in_evaluation_mode(cohort):
    encoder = encoders.build("resnet1d", "small", 2)
    rows, leads = np.array([7, 3, 20]), ("II", "V1")
    z = probe.features(encoder, cohort, rows, leads, batch_size=2)
    x = train.CohortData(cohort, rows, leads).signals(np.arange(3))
    with torch.no_grad():
        np.testing.assert_allclose(z, encoder.eval()(x).numpy(), atol=1e-5)
    assert np.array_equal(z, probe.features(encoder, cohort, rows, leads, batch_size=2))


def test_windows_of_a_record_become_one_probability():
    cohort = MemoryCohort(6, seconds=5, windows=2, shares=(("train", 1),))
    p = np.arange(24, dtype=float).reshape(12, 2) / 24
    table = probe.predictions(cohort, np.arange(12), p, NAMES[:2], encoder="e", mode="m", fraction=1, seed=0)
    assert list(table.columns) == predictions.COLUMNS and len(table) == 12
    wide = table.pivot(index="record_id", columns="label", values="probability")[NAMES[:2]]
    np.testing.assert_allclose(wide, (p[::2] + p[1::2]) / 2, rtol=1e-6)
    truth = table.pivot(index="record_id", columns="label", values="truth")[NAMES[:2]]
    assert np.array_equal(truth, cohort.labels[NAMES[:2]])


def test_predictions_have_the_same_bytes_in_any_order(cohort, tmp_path):
    p = np.random.default_rng(0).random((60, 3))
    table = probe.predictions(cohort, np.arange(60), p, NAMES, encoder="e", mode="m", fraction=0.1, seed=3)
    probe.write_predictions(table, tmp_path / "one" / "predictions.parquet")
    probe.write_predictions(table.sample(frac=1, random_state=0), tmp_path / "two" / "predictions.parquet")
    one, two = ((tmp_path / f / "predictions.parquet").read_bytes() for f in ("one", "two"))
    assert one == two
    read = predictions.load(tmp_path / "one")
    assert len(read) == 180 and read["probability"].dtype == np.float32 and read["truth"].dtype == np.int8


@pytest.mark.parametrize("method", ["random", "features", "scratch", "supervised", "supervised+finetune"])
def test_one_call_trains_a_method_and_predicts_everything(method, cohort, external, tmp_path):
    if method.startswith("supervised"):
        encoders.save(encoders.build("net1d", "small", 1, seed=3), tmp_path)
    lines = []
    args = dict(task_leads=("I",), labels=NAMES, fractions=(0.5, 1.0), seeds=2, pretrain_dir=tmp_path)
    table = probe.run(method, cohort, [external], **args, **TINY, progress=lines.append)
    place = table.groupby(["cohort", "split"])["record_id"].nunique()
    assert place.to_dict() == {("A", "val"): 15, ("A", "test"): 15, ("B", "external"): 12}
    modes = {"random": "linear", "features": "boosting", "scratch": "supervised", "supervised": "linear"}
    assert set(table["mode"]) == {modes.get(method, "finetune")} and set(table["encoder"]) == {method.split("+")[0]}
    runs = {(0.5, 0), (0.5, 1), (1.0, 0)} | ({(1.0, 1)} if method not in ("features", "supervised") else set())
    assert set(zip(table["fraction"], table["seed"], strict=True)) == runs and len(lines) == len(runs)
    assert (
        table["probability"].between(0, 1).all()
        and not table.duplicated(["record_id", "label", "fraction", "seed"]).any()
    )
    probe.write_predictions(table, tmp_path / "predictions.parquet")
    assert len(predictions.places(predictions.load(tmp_path / "predictions.parquet"))) == 3


def test_only_features_with_chance_are_computed_for_every_seed(cohort, tmp_path, monkeypatch):
    encoders.save(encoders.build("net1d", "small", 1, seed=3), tmp_path)
    args = dict(task_leads=("I",), labels=NAMES, fractions=(0.5,), seeds=3, pretrain_dir=tmp_path)
    for method, function, times in (("clef", "features", 1), ("features", "handmade", 1), ("random", "features", 3)):
        calls, original = [], getattr(probe, function)
        with monkeypatch.context() as patch:
            patch.setattr(probe, function, lambda *a, f=original, c=calls: (c.append(1), f(*a))[1])
            table = probe.run(method, cohort, **args, progress=calls[:].append)
        assert len(calls) == 3 * times  # training, validation, test
        assert table["seed"].nunique() == 3


def test_network_and_learning_rate_of_supervised_training_can_be_given(cohort, tmp_path, monkeypatch):
    seen = []

    def spy(encoder, data, val, *, seed, **training):
        seen.append((encoder.config["encoder"], training))
        return objectives.build("supervised", encoder, n_labels=len(NAMES))

    monkeypatch.setattr(probe, "supervised", spy)
    encoders.save(encoders.build("resnet1d", "small", 1, seed=3), tmp_path)
    args = dict(
        task_leads=("I",), labels=NAMES, fractions=(1.0,), seeds=1, pretrain_dir=tmp_path, progress=seen[:].append
    )
    both = dict(lr=1e-2, finetune_lr=1e-4, batch_size=8, weight_decay=0.1)
    probe.run("scratch", cohort, scratch_encoder="net1d", **args, **both)
    probe.run("clef+finetune", cohort, **args, **both)
    probe.run("clef+finetune", cohort, **args, lr=1e-2)
    probe.run("clef+finetune", cohort, **args)
    rest = dict(batch_size=8, weight_decay=0.1)
    assert seen[:2] == [("net1d", {**rest, "lr": 1e-2}), ("resnet1d", {**rest, "lr": 1e-4})]
    assert [training for _, training in seen[2:]] == [{"lr": 1e-2}, {"lr": 1e-3}]


def test_an_encoder_for_other_inputs_is_refused(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "open_test", lambda _: pytest.fail("opened before the refusal"))
    encoder = encoders.build("net1d", "small", 2)
    for field, info, args in (
        ("n_leads = 2, the task has 1", {}, dict(task_leads=("I",))),
        ("leads = ", dict(leads=["II", "I"]), dict(task_leads=("I", "II"))),
        ("profile = other", dict(profile="other", leads=["I", "II"]), dict(task_leads=("I", "II"))),
        ("fs = 500", dict(profile=None, fs=500.0), dict(task_leads=("I", "II"), profile=None)),
    ):
        encoders.save(encoder, tmp_path, **info)
        for method in ("clef", "clef+finetune"):
            with pytest.raises(EcgError, match=field) as error:
                probe.run(method, cohort, labels=NAMES, pretrain_dir=tmp_path, **args)
            assert str(tmp_path) in str(error.value) and "pretrain an encoder" in str(error.value)


def test_one_call_repeats_itself(cohort):
    args = dict(task_leads=("I",), labels=NAMES, fractions=(0.5,), seeds=1, progress=lambda _: None)
    for method in ("random", "scratch"):
        tables = [probe.run(method, cohort, **args, **(TINY if method == "scratch" else {})) for _ in range(2)]
        pd.testing.assert_frame_equal(*tables)


def test_nothing_is_chosen_on_closed_records(cohort, monkeypatch):
    """Wrong labels and signals of the test records change their own predictions only."""
    args = dict(task_leads=("I", "II"), labels=NAMES, fractions=(1.0,), seeds=1, progress=lambda _: None)
    before = probe.run("scratch", cohort, **args, **TINY)
    other = MemoryCohort(60)
    closed = other.test_rows()
    other.signals = other.signals.copy()
    other.signals[closed] = other.signals[closed][::-1] * 0.5
    other.labels.iloc[closed] = 1 - other.labels.iloc[closed]
    after = probe.run("scratch", other, **args, **TINY)
    val = before["split"] == "val"
    pd.testing.assert_frame_equal(before[val], after[val])
    assert not before[~val]["probability"].equals(after[~val]["probability"])


def test_the_closed_splits_are_opened_in_one_place():
    root = Path(ecglib.__file__).parent
    files = [
        *root.rglob("*.py"),
        *(root.parent / "benchmarks").glob("*.py"),
        *(root.parent / "notebooks").glob("*.ipynb"),
    ]
    assert {"probing.py", "03_linear_probing.ipynb"} <= {f.name for f in files}
    calls = [(f.name, n) for f in files for n in re.findall(r"\w*[\])]*\.test_rows\(", f.read_text())]
    assert calls == [("probe.py", "cohort.test_rows(")]


def test_a_label_the_external_cohort_lacks_is_unknown_there(cohort, external):
    states = probe.truth(external, np.arange(3), ["NORM", "STTC"])
    assert states[:, 1].tolist() == [-1, -1, -1] and set(states[:, 0]) <= {0, 1}
    assert probe.known(np.array([[0, 1, 2, -1]])).tolist() == [[0, 1, -1, -1]]


def test_fine_tuning_starts_from_the_given_weights_and_keeps_the_best_validation(cohort, tmp_path):
    data = train.CohortData(cohort, cohort.rows("train"), labels=NAMES)
    val = train.CohortData(cohort, cohort.rows("val"), labels=NAMES)
    encoder = encoders.build("net1d", "small", seed=3)
    start = {k: v.clone() for k, v in encoder.state_dict().items()}
    objective = probe.supervised(encoder, data, val, **TINY, lr=0.0)
    assert all(torch.equal(v, start[k]) for k, v in objective.encoder.state_dict().items())
    assert isinstance(objective, objectives.module("supervised").Objective)
    trained = probe.supervised(
        encoders.build("net1d", "small", seed=3), data, val, epochs=8, min_steps=24, batch_size=16
    )
    score = metrics.macro_auroc(cohort.states(NAMES, cohort.rows("val")), probe.probabilities(trained, val))
    assert score > 0.8


def test_impossible_requests_are_refused(cohort, external):
    args = dict(task_leads=("I",), labels=NAMES)
    with pytest.raises(EcgError, match="needs an encoder"):
        probe.run("clef", cohort, **args)
    with pytest.raises(EcgError, match="unknown method"):
        probe.run("scratch+finetune", cohort, **args)
    with pytest.raises(EcgError, match="no train rows"):
        probe.run("random", external, **args)
