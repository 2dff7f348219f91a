"""What is chosen where, what is opened where, and the one-call study of a method."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort

import ecglib
from ecglib import EcgError, models, objectives
from ecglib.evaluation import embeddings, metrics, predictions, probing
from ecglib.evaluation.probing import Settings, Task
from ecglib.training import batches, checkpoint

TINY = dict(epochs=1, min_steps=3, batch_size=16)


@pytest.fixture(scope="module")
def cohort():
    return MemoryCohort(60)


@pytest.fixture(scope="module")
def external():
    return MemoryCohort(12, "B", seed=5, shares=(("external", 1),))


def test_features_are_the_encoder_in_evaluation_mode(cohort):
    encoder = models.build("resnet1d", "small", 2)
    rows, leads = np.array([7, 3, 20]), ("II", "V1")
    z = embeddings.features(encoder, cohort, rows, leads, batch_size=2)
    x = batches.CohortData(cohort, rows, leads).signals(np.arange(3))
    with torch.no_grad():
        np.testing.assert_allclose(z, encoder.eval()(x).numpy(), atol=1e-5)
    assert np.array_equal(z, embeddings.features(encoder, cohort, rows, leads, batch_size=2))


def test_windows_of_a_record_become_one_probability():
    cohort = MemoryCohort(6, seconds=5, windows=2, shares=(("train", 1),))
    p = np.arange(24, dtype=float).reshape(12, 2) / 24
    table = predictions.long_table(cohort, np.arange(12), p, NAMES[:2], encoder="e", mode="m", fraction=1, seed=0)
    assert list(table.columns) == predictions.COLUMNS and len(table) == 12
    wide = table.pivot(index="record_id", columns="label", values="probability")[NAMES[:2]]
    np.testing.assert_allclose(wide, (p[::2] + p[1::2]) / 2, rtol=1e-6)
    truth = table.pivot(index="record_id", columns="label", values="truth")[NAMES[:2]]
    assert np.array_equal(truth, cohort.labels[NAMES[:2]])


def test_predictions_have_the_same_bytes_in_any_order(cohort, tmp_path):
    p = np.random.default_rng(0).random((60, 3))
    table = predictions.long_table(cohort, np.arange(60), p, NAMES, encoder="e", mode="m", fraction=0.1, seed=3)
    predictions.write(table, tmp_path / "one" / "predictions.parquet")
    predictions.write(table.sample(frac=1, random_state=0), tmp_path / "two" / "predictions.parquet")
    one, two = ((tmp_path / f / "predictions.parquet").read_bytes() for f in ("one", "two"))
    assert one == two
    read = predictions.load(tmp_path / "one")
    assert len(read) == 180 and read["probability"].dtype == np.float32 and read["truth"].dtype == np.int8


TAILED = ("supervised+finetune", "supervised+sgd-linear")
FROZEN = ("multirocket", "features", "supervised", "supervised+sgd-linear")


@pytest.mark.parametrize(
    "method",
    [
        *("random", "random:vit1d:small_plain", "multirocket", "features"),
        *("scratch", "scratch:imle_net", "supervised", *TAILED),
    ],
)
def test_one_call_trains_a_method_and_predicts_everything(method, cohort, external, tmp_path):
    if method.startswith("supervised"):
        models.save(models.build("net1d", "small", 1, seed=3), tmp_path)
    lines = []
    task, settings = Task(cohort, (external,), ("I",), NAMES), Settings((0.5, 1.0), seeds=2, **TINY, rocket_dilations=2)
    table = probing.run(method, task, settings, pretrain_dir=tmp_path, progress=lines.append)
    records = table.groupby(["cohort", "split"])["record_id"].nunique()
    assert records.to_dict() == {("A", "val"): 15, ("A", "test"): 15, ("B", "external"): 12}
    modes = {
        "random": "linear",
        "random:vit1d:small_plain": "linear",
        "multirocket": "linear",
        "features": "boosting",
        "scratch": "supervised",
        "scratch:imle_net": "supervised",
        "supervised": "linear",
    }
    assert set(table["mode"]) == {modes.get(method, method.partition("+")[2])} and set(table["encoder"]) == {
        method.split("+")[0]
    }
    runs = {(0.5, 0), (0.5, 1), (1.0, 0)} | ({(1.0, 1)} if method not in FROZEN else set())
    assert set(zip(table["fraction"], table["seed"], strict=True)) == runs and len(lines) == len(runs)
    assert (
        table["probability"].between(0, 1).all()
        and not table.duplicated(["record_id", "label", "fraction", "seed"]).any()
    )
    predictions.write(table, tmp_path / "predictions.parquet")
    assert len(predictions.by_cohort(predictions.load(tmp_path / "predictions.parquet"))) == 3


def test_a_probe_may_read_what_the_objective_says(cohort, external, tmp_path, monkeypatch):
    """Oracle: the head of the objective asked by hand; where truth is in its words alone, the probe takes them."""
    encoder = models.build("net1d", "small", 1, seed=3)
    knots = np.linspace(0, 1, 4, dtype=np.float32)
    objective = objectives.build("measure", encoder, names=["a", "b"], knots=np.stack([knots, knots])).eval()
    models.save(encoder, tmp_path, objective=objective.config)
    checkpoint.save_objective(objective, tmp_path)
    rows, task = np.array([4, 1, 9]), Task(cohort, (external,), ("I",), NAMES)
    batch = task.data(rows).batch(np.arange(3))
    with torch.no_grad():
        expected = objective.scores(batch.x, batch.lead_mask, batch.peaks).numpy()
    found = embeddings.scores(objectives.load(tmp_path), cohort, rows, ("I",))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    told = lambda _, of, rows, *__: 4.0 * of.states(NAMES, rows).astype(np.float32)  # noqa: E731
    monkeypatch.setattr(embeddings, "scores", told)
    choices, settings = [], Settings((1.0,), seeds=1, **TINY)
    table = probing.run("measure+outputs", task, settings, pretrain_dir=tmp_path, progress=str, choices=choices)
    assert set(table["mode"]) == {"outputs"} and set(table["encoder"]) == {"measure"}
    assert choices[0]["pooling"] == "outputs" and choices[0]["validation"] == 1
    assert set(table["untrained"]) == {"random"}


def test_what_says_nothing_of_a_record_is_refused(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "open_test", lambda _: pytest.fail("opened before the refusal"))
    encoder, task = models.build("net1d", "small", 1), Task(cohort, (), ("I",), NAMES)
    models.save(encoder, tmp_path)
    with pytest.raises(EcgError, match="no objective here"):
        probing.run("clef+outputs", task, pretrain_dir=tmp_path)
    checkpoint.save_objective(objectives.build("clef", encoder), tmp_path)
    with pytest.raises(EcgError, match="clef says nothing of a record"):
        probing.run("clef+outputs", task, pretrain_dir=tmp_path)
    for method in ("random+outputs", "zoo:merl+outputs"):
        with pytest.raises(EcgError, match="unknown method"):
            probing.run(method, task, pretrain_dir=tmp_path)


def test_only_features_with_chance_are_computed_for_every_seed(cohort, tmp_path, monkeypatch):
    models.save(models.build("net1d", "small", 1, seed=3), tmp_path)
    task, settings = Task(cohort, (), ("I",), NAMES), Settings((0.5,), seeds=3, whole_seeds=2, folds=3, fold_seeds=1)
    maker = {"features": (probing.handmade, "of_cohort")}
    for method, times in (("clef", 1), ("features", 1), ("random", 3), ("random:net1d", 2)):
        module, function = maker.get(method, (probing.embeddings, "poolings"))
        calls, original = [], getattr(module, function)
        with monkeypatch.context() as patch:
            patch.setattr(module, function, lambda *a, f=original, c=calls: (c.append(1), f(*a))[1])
            table = probing.run(method, task, settings, pretrain_dir=tmp_path, progress=calls[:].append)
        assert len(calls) == times  # training, validation and test records together
        assert table["seed"].nunique() == 3


def test_network_and_learning_rate_of_supervised_training_can_be_given(cohort, tmp_path, monkeypatch):
    seen = []

    def spy(encoder, data, val, settings, seed):
        seen.append((encoder.config["encoder"], settings))
        return objectives.build("supervised", encoder, n_labels=len(NAMES))

    monkeypatch.setattr(probing, "supervised", spy)
    models.save(models.build("resnet1d", "small", 1, seed=3), tmp_path)
    task, chosen = Task(cohort, (), ("I",), NAMES), dict(fractions=(1.0,), seeds=1)
    both = Settings(scratch_encoder="net1d", lr=1e-2, finetune_lr=1e-4, batch_size=8, weight_decay=0.1, **chosen)
    for method, settings in (
        ("scratch", both),
        ("clef+finetune", both),
        ("clef+finetune", Settings(lr=1e-2, **chosen)),
        ("clef+finetune", Settings(**chosen)),
    ):
        probing.run(method, task, settings, pretrain_dir=tmp_path, progress=seen[:].append)
    assert seen[:2] == [("net1d", both), ("resnet1d", replace(both, lr=1e-4))]
    assert [settings.lr for _, settings in seen[2:]] == [1e-2, 1e-3]


def test_an_encoder_for_other_inputs_is_refused(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "open_test", lambda _: pytest.fail("opened before the refusal"))
    encoder = models.build("net1d", "small", 2)
    for field, info, leads, profile in (
        ("n_leads = 2, the task has 1", {}, ("I",), "study"),
        ("leads = ", dict(leads=["II", "I"]), ("I", "II"), "study"),
        ("profile = other", dict(profile="other", leads=["I", "II"]), ("I", "II"), "study"),
        ("fs = 500", dict(profile=None, fs=500.0), ("I", "II"), None),
    ):
        models.save(encoder, tmp_path, **info)
        for method in ("clef", "clef+finetune"):
            with pytest.raises(EcgError, match=field) as error:
                probing.run(method, Task(cohort, (), leads, NAMES, profile), pretrain_dir=tmp_path)
            assert str(tmp_path) in str(error.value) and "pretrain an encoder" in str(error.value)


def test_one_call_repeats_itself(cohort):
    task, settings = Task(cohort, (), ("I",), NAMES), Settings((0.5,), seeds=1, **TINY)
    for method in ("random", "scratch"):
        tables = [probing.run(method, task, settings, progress=lambda _: None) for _ in range(2)]
        pd.testing.assert_frame_equal(*tables)


def test_nothing_is_chosen_on_closed_records(cohort, monkeypatch):
    """Wrong labels and signals of the test records change their own predictions only."""
    task, settings = Task(cohort, (), ("I", "II"), NAMES), Settings((1.0,), seeds=1, **TINY)
    before = probing.run("scratch", task, settings, progress=lambda _: None)
    other = MemoryCohort(60)
    closed = other.test_rows()
    other.signals = other.signals.copy()
    other.signals[closed] = other.signals[closed][::-1] * 0.5
    other.labels.iloc[closed] = 1 - other.labels.iloc[closed]
    after = probing.run("scratch", replace(task, cohort=other), settings, progress=lambda _: None)
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
    view = ("tasks.py", "whole.test_rows(")  # of a cohort seen through a task, which that one function opens
    assert calls == [("probing.py", "cohort.test_rows("), view]


def test_a_label_the_external_cohort_lacks_is_unknown_there(cohort, external):
    states = predictions.label_states(external, np.arange(3), ["NORM", "STTC"])
    assert states[:, 1].tolist() == [-1, -1, -1] and set(states[:, 0]) <= {0, 1}
    assert predictions.observed(np.array([[0, 1, 2, -1]])).tolist() == [[0, 1, -1, -1]]


def test_fine_tuning_starts_from_the_given_weights_and_keeps_the_best_validation(cohort, tmp_path):
    data = batches.CohortData(cohort, cohort.rows("train"), labels=NAMES)
    val = batches.CohortData(cohort, cohort.rows("val"), labels=NAMES)
    encoder = models.build("net1d", "small", seed=3)
    start = {k: v.clone() for k, v in encoder.state_dict().items()}
    objective = probing.supervised(encoder, data, val, Settings(**TINY, lr=0.0))
    assert all(torch.equal(v, start[k]) for k, v in objective.encoder.state_dict().items())
    assert isinstance(objective, objectives.module("supervised").Objective)
    settings = Settings(epochs=8, min_steps=24, batch_size=16)
    trained = probing.supervised(models.build("net1d", "small", seed=3), data, val, settings)
    score = metrics.macro_auroc(cohort.states(NAMES, cohort.rows("val")), probing.probabilities(trained, val))
    assert score > 0.8


def test_hand_made_features_take_any_leads(cohort):
    task = Task(cohort, (), ("II", "V1"), NAMES)
    table = probing.run("features", task, Settings((1.0,), seeds=1), progress=lambda _: None)
    assert table["probability"].between(0, 1).all()


def test_impossible_requests_are_refused(cohort, external):
    task = Task(cohort, (), ("I",), NAMES)
    with pytest.raises(EcgError, match="needs an encoder"):
        probing.run("clef", task)
    with pytest.raises(EcgError, match="unknown method"):
        probing.run("scratch+finetune", task)
    with pytest.raises(EcgError, match="no train rows"):
        probing.run("random", replace(task, cohort=external))


def test_every_record_is_predicted_out_of_fold_by_models_of_other_patients(monkeypatch):
    """A model that remembers whom it was trained and chosen on, and says of others by whom it was not seen."""
    cohort = MemoryCohort(60)
    patients, seen = cohort.records["patient_id"].to_numpy(), []

    class Remembers:
        mode, chance, choice = "linear", False, {}

        def fit(self, draw):
            assert set(draw.rows) <= set(draw.pool)
            assert not set(patients[draw.pool]) & set(patients[draw.val_rows])
            self.known = {*patients[draw.pool], *patients[draw.val_rows]}

        def predict(self, cohort, rows):
            seen.append((rows, bool(self.known & set(patients[rows]))))
            return np.full((len(rows), len(NAMES)), 0.5)

    monkeypatch.setattr(probing, "learner_of", lambda *_: Remembers())
    choices, settings = [], Settings((0.5, 1.0), seeds=1, folds=5, fold_seeds=2)
    task = Task(cohort, (), ("I",), NAMES)
    table = probing.run("random", task, settings, choices=choices, progress=lambda _: None)
    inside = table[table["split"] == predictions.OUT_OF_FOLD]
    whole = set(cohort.records["record_id"][cohort.rows(["train", "val"])])
    for _, rows in inside.groupby(["fraction", "seed"]):
        assert set(rows["record_id"]) == whole and len(rows) == len(whole) * len(NAMES)
    assert set(zip(inside["fraction"], inside["seed"], strict=True)) == {(0.5, 0), (0.5, 1), (1.0, 0)}
    closed = set(cohort.test_rows())
    folds = [(rows, known) for rows, known in seen[4:][::2] if not closed & set(rows)]  # after the official splits
    assert len(folds) == 15 and not any(known for _, known in folds)
    made = pd.DataFrame(choices)
    assert (made.fold != "").sum() == 15 and set(made.n_validation[made.fold == ""]) == {15}
    with pytest.raises(EcgError, match="folds"):
        probing.run("random", task, replace(settings, folds=2), progress=lambda _: None)


READ = [  # objective, cohorts, whether out-of-fold scores are fair (restore learns from what is labelled normal)
    ("melp", ["A"], False),
    ("melp", ["C"], True),
    ("clef", ["A"], True),
    ("restore", ["A"], False),
    ("supervised", ["A"], False),
]


def test_an_encoder_that_has_read_the_reports_has_no_out_of_fold_scores(cohort, tmp_path):
    encoder, lines = models.build("net1d", "small", 1, seed=3), []
    settings = Settings((1.0,), seeds=1, folds=3, fold_seeds=1)
    for name, cohorts, scored in READ:
        models.save(encoder, tmp_path, objective={"objective": name}, cohorts=cohorts, labels=list(NAMES))
        task = Task(cohort, (), ("I",), NAMES)
        table = probing.run(name, task, settings, pretrain_dir=tmp_path, progress=lines.append)
        assert (predictions.OUT_OF_FOLD in set(table["split"])) == scored
    assert sum("reports of these recordings" in line for line in lines) == 3


def test_a_probe_names_its_network_before_pretraining_and_whether_it_has_learned(cohort, tmp_path):
    settings, task = Settings((1.0,), seeds=1), Task(cohort, (), ("I",), NAMES)
    for made, twin in (
        (dict(name="net1d"), "random"),
        (dict(name="vit1d"), "random:vit1d"),
        (dict(name="vit1d", size="small_plain"), "random:vit1d:small_plain"),
        (dict(name="net1d", stem=8), ""),
    ):
        models.save(models.build(n_leads=1, **made), tmp_path)
        assert probing.untrained_twin(tmp_path, settings) == twin
        if twin:
            learner = probing.learner_of(twin, task, settings, None, None)
            assert learner._encoder(0).config == models.card(tmp_path)[0]
    models.save(models.build("net1d", n_leads=1), tmp_path, objective={"objective": "simclr"})
    history = pd.DataFrame({"step": [1, 2], "accuracy": [0.1, 0.4], "spread": [0.5, 0.5]})
    history.to_csv(tmp_path / "history.csv", index=False)
    table = probing.run("simclr", task, settings, pretrain_dir=tmp_path, progress=lambda _: None)
    assert set(table["untrained"]) == {"random"} and set(table["trained"]) == {"no: accuracy 0.4, wanted > 0.5"}
    with pytest.raises(EcgError, match="unknown size 'tiny'"):
        probing.run("random:vit1d:tiny", task)
    with pytest.raises(EcgError, match="vit2d"):
        probing.run("random:vit2d", task)


def test_training_from_scratch_takes_the_network_that_is_named(cohort):
    task, settings = Task(cohort, (), ("I",), NAMES), Settings(scratch_encoder="net1d")
    for method, made in (
        ("scratch", ("net1d", "small")),
        ("scratch:imle_net", ("imle_net", "small")),
        ("scratch:vit1d:small_plain", ("vit1d", "small_plain")),
    ):
        config = probing.learner_of(method, task, settings, None, None)._make(0).config
        assert (config["encoder"], config["size"], config["n_leads"]) == (*made, 1)
    for wrong, words in (("scratch:vit2d", "vit2d"), ("scratch:vit1d:tiny", "tiny"), ("scratch+finetune", "method")):
        with pytest.raises(EcgError, match=words):
            probing.run(wrong, task)


def test_age_and_sex_reach_a_network_that_fuses_them(cohort):
    task, rows = Task(cohort, (), ("I",), NAMES), np.arange(4)
    learner = probing.learner_of("scratch", task, Settings(objective={"fusion": {}}), None, None)
    assert learner._data(cohort, task.val_rows).meta == ("age", "sex")
    net = models.build("net1d", n_leads=1)
    objective = objectives.build("supervised", net, n_labels=len(NAMES), fusion={}).eval()
    torch.nn.init.normal_(objective.fusion.attention.out.weight)
    data = task.data(rows, ("age", "sex"))
    data._meta |= {"age": torch.tensor([20.0, 40.0, 60.0, torch.nan])}
    batch = data.batch(rows)
    with torch.no_grad():
        expected = objective.logits(batch.x, batch.lead_mask, batch.peaks, batch.meta)
        assert not torch.allclose(expected, objective.logits(batch.x, batch.lead_mask, batch.peaks))
    torch.testing.assert_close(probing.mean_logits(objective, data), expected)


def test_a_share_that_is_nobody_is_left_out_by_name_and_all_of_them_stop(cohort):
    task = Task(cohort, (), ("I",), NAMES)
    assert len(set(cohort.records.patient_id[task.train_rows])) == 15
    drawn, nobody = task.shares(task.train_rows, (0.001, 0.2, 1.0), 3)
    assert nobody == [0.001] and list(drawn) == [0.2, 1.0]
    assert [fraction for _, fraction, *_ in task.subsets(task.train_rows, (0.001, 1.0), 2, 2)] == [1.0, 1.0]
    table = probing.run("features", task, Settings((0.001, 1.0), seeds=1), progress=lambda line: None)
    assert set(table.fraction) == {1.0}
    with pytest.raises(EcgError, match=r"0.1 %, 0.2 % of 15 training patients is nobody -> add 1.0"):
        task.shares(task.train_rows, (0.001, 0.002), 1)
    with pytest.raises(EcgError, match="fraction must be in"):
        task.shares(task.train_rows, (1.5, 1.0), 1)
