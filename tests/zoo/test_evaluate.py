"""Published models in the study: their own input, their contamination marks, their head against statements by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort

from ecglib import EcgError, zoo
from ecglib.data import download, files, labels
from ecglib.evaluation import embeddings, predictions, probing
from ecglib.evaluation.probing import Settings, Task
from ecglib.reporting import tables
from ecglib.zoo import evaluate


class Stated(MemoryCohort):
    """In memory, with what a packed cohort knows of itself."""

    def __init__(self, *args, corpus="simulated", **kwargs):
        super().__init__(*args, **kwargs)
        self.info, self.vocabulary = {"dataset": {"corpus": corpus}}, "scp"

    def valid(self, rows):
        return np.full(len(rows), self.signals.shape[-1])


@pytest.fixture(scope="module")
def cohort():
    return Stated(24)


@pytest.fixture(scope="module")
def model():
    return zoo.load("clef_small", "dummy")


def test_is_a_method_like_any_other(cohort, model):
    """Linear probe and fine-tuning of a single-lead model on a task of twelve leads; its own profile at 500 Hz."""
    away = Stated(6, "B", seed=3, shares=(("external", 1),), corpus="mimic-iv-ecg")
    task, settings = (
        Task(cohort, (away,), cohort.leads, NAMES),
        Settings((1.0,), 1, epochs=1, min_steps=2, batch_size=4),
    )
    options = dict(model=model, progress=lambda line: None)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    table = probing.run("zoo:clef_small", task, settings, **options)
    assert set(table["encoder"]) == {"zoo:clef_small"} and set(table["mode"]) == {"linear"}
    assert set(table["cohort"]) == {"A", "B"} and table["probability"].between(0, 1).all()
    x = model.card.chain.apply(cohort.batch(cohort.rows("val"), ("I",)), 100)
    with torch.inference_mode():
        z = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(
        embeddings.features(model, cohort, cohort.rows("val"), ("I",), model.card.chain), z, atol=1e-4
    )
    tuned = probing.run("zoo:clef_small+finetune", Task(cohort, (), cohort.leads, NAMES), settings, **options)
    assert set(tuned["mode"]) == {"finetune"}
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items()), "the model is not changed"


def test_a_task_without_its_leads_is_refused(cohort):
    merl = zoo.load("merl", "dummy")
    with pytest.raises(EcgError, match="MERL ResNet18 reads II, .* the task has I"):
        probing.run("zoo:merl", Task(cohort, (), ("I",), NAMES), model=merl)
    with pytest.raises(EcgError, match="needs an encoder"):
        probing.run("zoo:merl", Task(cohort, (), cohort.leads, NAMES))


def test_contamination_marks_travel_with_the_predictions(cohort, model, tmp_path):
    model = zoo.load("clef_small", "dummy")
    cohorts = [cohort, Stated(6, "B", corpus="mimic-iv-ecg"), Stated(6, "C", corpus="")]
    names, p = dict(encoder="zoo:clef_small", mode="linear", fraction=1, seed=0), np.full((4, 3), 0.5)
    table = pd.concat([predictions.long_table(c, np.arange(4), p, NAMES, **names) for c in cohorts])
    assert set(evaluate.with_contamination(table, model, cohorts)["note"]) == {predictions.DUMMY}
    model.weights = "published"
    found = evaluate.with_contamination(table, model, cohorts).groupby("cohort")["note"].first().to_dict()
    assert found == {"A": "", "B": predictions.SEEN, "C": predictions.MAYBE_SEEN}
    table = evaluate.with_contamination(table, model, cohorts)
    predictions.write(table, tmp_path / "twelve-zoo-clef_small/predictions.parquet")
    assert set(predictions.of_task(tmp_path, "twelve")["note"]) == set(found.values())


def test_dummy_weights_never_reach_a_comparison(cohort, model, tmp_path):
    for name, marked in (("zoo:clef_small", True), ("random", False)):
        names = dict(encoder=name, mode="linear", fraction=1, seed=0)
        table = predictions.long_table(cohort, np.arange(8), np.full((8, 3), 0.5), NAMES, **names)
        table = evaluate.with_contamination(table, model, [cohort]) if marked else table
        predictions.write(table, tmp_path / f"twelve-{name.replace(':', '-')}/predictions.parquet")
    assert set(predictions.of_task(tmp_path, "twelve")["encoder"]) == {"random"}
    assert list(tables.left_out(tmp_path, "twelve")["encoder"]) == ["zoo:clef_small"]


def test_published_weights_or_dummy_ones_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("ECGLIB_ZENODO", "http://127.0.0.1:9")
    monkeypatch.setattr("ecglib.data.download.PAUSE_S", 0)
    said = []
    assert evaluate.load("clef_small", "auto", said.append).weights == "dummy"
    assert "MEAN NOTHING" in said[0] and "127.0.0.1" in said[0]
    with pytest.raises(EcgError):
        evaluate.load("clef_small", "published")
    assert evaluate.load("clef_small", "dummy", said.append).weights == "dummy" and len(said) == 1


def test_a_file_that_is_not_what_it_should_be_is_no_reason_for_dummy_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGLIB_CACHE", str(tmp_path))
    kept = tmp_path / "zoo/clef_small/clef_small.ckpt"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"something")
    kept.with_name("clef_small.ckpt.source.json").write_text(json.dumps(download.measure(kept)))
    kept.write_bytes(b"something else")
    with pytest.raises(EcgError, match="altered"):
        evaluate.load("clef_small", "auto")


def test_a_file_that_is_named_is_read_or_stops(tmp_path):
    zoo.save(zoo.load("clef_small", "dummy"), tmp_path)
    kept = tmp_path / "model.safetensors"
    assert evaluate.load("clef_small", file=kept).content == files.sha256(kept)
    for weights in ("auto", "published"):
        with pytest.raises(EcgError, match="no such file -> did you mean 'model.safetensors'"):
            evaluate.load("clef_small", weights, file=tmp_path / "model.safetensor")
    with pytest.raises(EcgError, match="a file, and dummy weights"):
        evaluate.load("clef_small", "dummy", file=kept)


def test_windows_longer_than_the_input_are_refused(model):
    long = Stated(12, seconds=30)
    with pytest.raises(EcgError, match="windows of 30 s, CLEF small reads 10 s.*windows=all"):
        probing.run("zoo:clef_small", Task(long, (), long.leads, NAMES), model=model)


def test_says_what_it_reads(cohort, model):
    said = []
    assert evaluate.open_for_model(model, cohort, "", said.append) is cohort
    assert "from 100 to 500 Hz" in said[0] and "nothing above 50 Hz" in said[0]


def test_the_head_speaks_for_labels_that_mean_the_same(cohort):
    """Probability of a label: the largest of the statements that the common vocabulary joins for it."""
    founder = zoo.load("ecgfounder_1lead", "dummy")
    assert evaluate.has_known_head(founder) and not evaluate.has_known_head(zoo.load("clef_small", "dummy"))
    joined = evaluate.map_statements(founder, cohort, ["NORM", "AFIB", "CLBBB", "SBRAD"])
    words = labels.vocabulary("ecgfounder").statement
    assert {label: [words[n] for n in numbers] for label, numbers in joined.items()} == {
        "AFIB": ["ATRIAL FIBRILLATION"],
        "CLBBB": ["LEFT BUNDLE BRANCH BLOCK"],
        "SBRAD": ["SINUS BRADYCARDIA", "MARKED SINUS BRADYCARDIA"],
    }
    table = evaluate.head(founder, "zoo:ecgfounder_1lead", cohort, labels=["NORM", "AFIB", "CLBBB"])
    assert (
        set(table["label"]) == {"AFIB", "CLBBB"} and set(table["mode"]) == {"head"} and (table["fraction"] == 0).all()
    )
    row = cohort.rows("val")[0]
    x = founder.card.chain.apply(cohort.batch([row], ("I",)), 100)
    with torch.inference_mode():
        p = torch.sigmoid(founder.logits(torch.from_numpy(x)))[0].numpy()
    mine = table[table["record_id"] == cohort.records["record_id"][row]].set_index("label")["probability"]
    np.testing.assert_allclose(mine["AFIB"], p[joined["AFIB"]].max(), atol=1e-5)
    with pytest.raises(EcgError, match="states none"):
        evaluate.head(founder, "zoo:ecgfounder_1lead", cohort, labels=["NORM"])
    with pytest.raises(EcgError, match="no head in known words"):
        evaluate.map_statements(zoo.load("clef_small", "dummy"), cohort, ["AFIB"])
