"""Published models in the study: their own input, their notes, their head against statements by hand."""

import numpy as np
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort

from ecglib import fetch, labels, notes, predictions, probe, published, zoo
from ecglib.signals import EcgError


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
    return zoo.load("clef_small", "recipe")


def test_is_a_method_like_any_other(cohort, model):
    """Linear probe and fine-tuning of a single-lead model on a task of twelve leads; its own profile at 500 Hz."""
    away = Stated(6, "B", seed=3, shares=(("external", 1),), corpus="mimic-iv-ecg")
    options = dict(
        task_leads=cohort.leads, labels=NAMES, fractions=(1.0,), seeds=1, model=model, progress=lambda line: None
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    table = probe.run("zoo:clef_small", cohort, [away], **options)
    assert set(table["encoder"]) == {"zoo:clef_small"} and set(table["mode"]) == {"linear"}
    assert set(table["cohort"]) == {"A", "B"} and table["probability"].between(0, 1).all()
    x = model.card.chain.apply(cohort.batch(cohort.rows("val"), ("I",)), 100)
    with torch.inference_mode():
        z = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(
        probe.features(model, cohort, cohort.rows("val"), ("I",), model.card.chain), z, atol=1e-4
    )
    tuned = probe.run("zoo:clef_small+finetune", cohort, [], epochs=1, min_steps=2, batch_size=4, **options)
    assert set(tuned["mode"]) == {"finetune"}
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items()), "the model is not changed"


def test_a_task_without_its_leads_is_refused(cohort):
    merl = zoo.load("merl", "recipe")
    with pytest.raises(EcgError, match="MERL ResNet18 reads II, .* the task has I"):
        probe.run("zoo:merl", cohort, task_leads=("I",), labels=NAMES, model=merl)
    with pytest.raises(EcgError, match="needs an encoder"):
        probe.run("zoo:merl", cohort, task_leads=cohort.leads, labels=NAMES)


def test_notes_travel_with_the_predictions(cohort, model, tmp_path):
    model = zoo.load("clef_small", "recipe")
    places = [cohort, Stated(6, "B", corpus="mimic-iv-ecg"), Stated(6, "C", corpus="")]
    parts = [probe.predictions(c, np.arange(4), np.full((4, 3), 0.5), NAMES, encoder="zoo:clef_small", mode="linear",
                               fraction=1, seed=0) for c in places]  # fmt: skip
    import pandas as pd

    table = pd.concat(parts)
    assert set(published.noted(table, model, places)["note"]) == {notes.RECIPE}
    model.weights = "published"
    found = published.noted(table, model, places).groupby("cohort")["note"].first().to_dict()
    assert found == {"A": "", "B": notes.SEEN, "C": notes.UNKNOWN}
    probe.write_predictions(
        published.noted(table, model, places), tmp_path / "twelve-zoo-clef_small/predictions.parquet"
    )
    assert set(predictions.of_task(tmp_path, "twelve")["note"]) == set(found.values())


def test_recipe_weights_never_reach_a_comparison(cohort, model, tmp_path):
    for name, noted in (("zoo:clef_small", True), ("random", False)):
        names = dict(encoder=name, mode="linear", fraction=1, seed=0)
        table = probe.predictions(cohort, np.arange(8), np.full((8, 3), 0.5), NAMES, **names)
        table = published.noted(table, model, [cohort]) if noted else table
        probe.write_predictions(table, tmp_path / f"twelve-{name.replace(':', '-')}/predictions.parquet")
    assert set(predictions.of_task(tmp_path, "twelve")["encoder"]) == {"random"}
    assert list(predictions.left_out(tmp_path, "twelve")["encoder"]) == ["zoo:clef_small"]


def test_published_weights_or_the_recipes_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("ECGLIB_ZENODO", "http://127.0.0.1:9")
    monkeypatch.setattr("ecglib.download.PAUSE_S", 0)
    said = []
    assert published.load("clef_small", "auto", said.append).weights == "recipe"
    assert "MEAN NOTHING" in said[0] and "127.0.0.1" in said[0]
    with pytest.raises(EcgError):
        published.load("clef_small", "published")
    assert published.load("clef_small", "recipe", said.append).weights == "recipe" and len(said) == 1


def test_a_file_that_is_not_what_it_should_be_is_no_reason_for_the_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGLIB_CACHE", str(tmp_path))
    kept = tmp_path / "zoo/clef_small/clef_small.ckpt"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"something")
    fetch.remember(kept, {"url": "x"})
    kept.write_bytes(b"something else")
    with pytest.raises(EcgError, match="altered"):
        published.load("clef_small", "auto")


def test_windows_longer_than_the_input_are_refused(model):
    long = Stated(12, seconds=30)
    with pytest.raises(EcgError, match="windows of 30 s, CLEF small reads 10 s.*windows=all"):
        probe.run("zoo:clef_small", long, task_leads=long.leads, labels=NAMES, model=model)


def test_says_what_it_reads(cohort, model):
    said = []
    assert published.reading(model, cohort, "", said.append) is cohort
    assert "from 100 to 500 Hz" in said[0] and "nothing above 50 Hz" in said[0]


def test_the_head_speaks_for_labels_that_mean_the_same(cohort):
    """Probability of a label: the largest of the statements that the common vocabulary joins for it."""
    founder = zoo.load("ecgfounder_1lead", "recipe")
    assert published.speaks(founder) and not published.speaks(zoo.load("clef_small", "recipe"))
    joined = published.stated(founder, cohort, ["NORM", "AFIB", "CLBBB", "SBRAD"])
    words = labels.vocabulary("ecgfounder").statement
    assert {label: [words[n] for n in numbers] for label, numbers in joined.items()} == {
        "AFIB": ["ATRIAL FIBRILLATION"],
        "CLBBB": ["LEFT BUNDLE BRANCH BLOCK"],
        "SBRAD": ["SINUS BRADYCARDIA", "MARKED SINUS BRADYCARDIA"],
    }
    table = published.head(founder, "zoo:ecgfounder_1lead", cohort, labels=["NORM", "AFIB", "CLBBB"])
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
        published.head(founder, "zoo:ecgfounder_1lead", cohort, labels=["NORM"])
    with pytest.raises(EcgError, match="no head in known words"):
        published.stated(zoo.load("clef_small", "recipe"), cohort, ["AFIB"])
