"""Zero-shot classification: prompts, scores against plain cosines, and the table that the study reads."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort
from torch import nn

from ecglib import EcgError, models, objectives
from ecglib.data import labels
from ecglib.data.recording import LEADS
from ecglib.evaluation import metrics, predictions, probing, zero_shot
from ecglib.models import text
from ecglib.training import checkpoint
from ecglib.training.batches import CohortData

REPORTS = {"NORM": "sinus rhythm. normal ECG.", "AFIB": "atrial fibrillation. abnormal ECG.", "CLBBB": "no LBBB. ii x"}


def saved(folder, leads=LEADS, profile="study", name="melp", **params):
    """A small objective in `folder`, as training leaves it."""
    encoder = models.build("wav2vec", "small_melp", len(leads), seed=1)
    if name == "melp":
        params = {"vocabulary": text.vocabulary([*REPORTS.values(), "complete left bundle branch block"]), **params}
    objective = objectives.build(name, encoder, seed=1, **params)
    models.save(encoder, folder, leads=list(leads), profile=profile)
    checkpoint.save_objective(objective, folder)
    return objective.eval()


@pytest.fixture(scope="module")
def cohort():
    return MemoryCohort(24)


def test_every_label_of_our_vocabularies_has_words():
    codes = [*labels.vocabulary("scp").statement, *labels.vocabulary("harmonised").key]
    codes += [*labels.SUPERCLASSES, *labels.vocabulary("ecgfounder").statement]
    for code in codes:
        names = zero_shot.wordings(code)
        assert names and all(text.words(name) for name in names), code
        assert "stated" not in " ".join(names), code
    assert zero_shot.prompt("AFIB") == zero_shot.prompt("atrial_fibrillation")
    with pytest.raises(EcgError, match="no plain words for the label 'XYZ'.*own="):
        zero_shot.wordings("XYZ")


def test_a_prompt_states_or_denies_one_thing():
    assert zero_shot.prompt("AFIB") == ("atrial fibrillation", "no atrial fibrillation")
    assert zero_shot.prompt("NORM") == ("normal ECG", "abnormal ECG")
    assert zero_shot.prompt("SR") == zero_shot.prompt("sinus_rhythm") == ("sinus rhythm", "atrial fibrillation")
    assert zero_shot.prompt("PRC(S)")[0] == "premature complexes"


def test_the_first_wording_that_the_model_knows_is_taken_and_an_unknown_one_is_logged(caplog):
    def knows(line):
        return "beat" not in line and "contraction" not in line

    with caplog.at_level(logging.WARNING):
        assert zero_shot.prompt("PVC", knows) == ("ventricular premature complex", "no ventricular premature complex")
        assert not caplog.records
        assert zero_shot.prompt("PVC", lambda line: False)[0] == "premature ventricular beat"
        assert "premature ventricular beat" in caplog.text


def test_melp_knows_the_words_of_its_vocabulary(tmp_path):
    objective = saved(tmp_path)
    assert objective.knows("Atrial fibrillation.") and not objective.knows("atrial flutter")


def test_scores_are_differences_of_two_cosines(cohort, tmp_path):
    objective, rows = saved(tmp_path), np.array([5, 2, 11])
    found = zero_shot.scores(objective, cohort, rows, NAMES, batch_size=2)
    x = CohortData(cohort, rows).signals(np.arange(3))
    with torch.no_grad():
        z = objective.embed(x)
        for k, label in enumerate(NAMES):
            plain, negated = (objective.embed_text([line])[0] for line in zero_shot.prompt(label, objective.knows))
            expected = nn.functional.cosine_similarity(z, plain[None]) - nn.functional.cosine_similarity(
                z, negated[None]
            )
            np.testing.assert_allclose(found[:, k], expected, atol=1e-5)
    assert found.dtype == np.float32 and found.shape == (3, 3)


def test_own_prompts_replace_ours_and_name_labels_that_nobody_knows(cohort, tmp_path):
    objective, rows = saved(tmp_path), np.arange(4)
    own = {"XYZ": ("atrial fibrillation", "no atrial fibrillation")}
    found = zero_shot.scores(objective, cohort, rows, ["AFIB", "XYZ"], own=own)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    turned = zero_shot.scores(objective, cohort, rows, ["AFIB"], own={"AFIB": own["XYZ"][::-1]})
    np.testing.assert_allclose(turned[:, 0], -found[:, 0], atol=1e-6)


class Saying(nn.Module):
    """Its text side is one-hot per sentence, its ECG side a constant that leans to the sentences it is told."""

    def __init__(self, scale, lean):
        super().__init__()
        self.scale, self.lean, self.lines = torch.tensor(scale), lean, ["normal ECG", "atrial fibrillation"]

    def embed(self, x, lead_mask=None):
        return torch.tensor(self.lean)[: len(x)]

    def embed_text(self, texts):
        known = self.lines
        return torch.tensor([[float(line == t) for line in known] + [float(t not in known)] for t in texts])


def test_labels_are_scored_apart_so_that_the_order_within_a_label_is_its_own(cohort):
    """The softmax trap: record 2 has more of both classes, so a softmax over classes turns class 1 around."""
    say = Saying(10.0, [[2.0, 0.0, 3.0], [3.0, 4.0, 1.0]])
    rows, y = np.arange(2), np.array([0, 1])
    found = zero_shot.scores(say, cohort, rows, ["NORM", "AFIB"])
    p = zero_shot.probabilities(say, found)
    assert metrics.auroc(y[:, None], p[:, :1])[0] == 1.0
    logits = np.array([[2.0, 0.0], [3.0, 4.0]])
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert softmax[:, 0].round(2).tolist() == [0.88, 0.27]
    assert metrics.auroc(y[:, None], softmax[:, :1])[0] == 0.0


def test_probabilities_keep_the_order_of_scores_however_sharp_the_model(cohort):
    d = np.linspace(-1.5, 1.5, 31)[:, None].astype(np.float32)
    for scale in (1.0, 100.0):
        p = zero_shot.probabilities(Saying(scale, []), d).astype(np.float32)
        assert (np.diff(p[:, 0]) > 0).all() and p[15, 0] == 0.5
    np.testing.assert_allclose(zero_shot.probabilities(Saying(2.0, []), d), 1 / (1 + np.exp(-2.0 * d)), rtol=1e-5)


def test_one_call_makes_a_table_that_the_study_reads(cohort, tmp_path):
    objective = saved(tmp_path)
    external, lines = MemoryCohort(8, "B", seed=5, shares=(("external", 1),)), []
    task = probing.Task(cohort, (external,), LEADS, NAMES)
    table = zero_shot.run("melp", task, tmp_path, progress=lines.append)
    assert list(table.columns) == predictions.COLUMNS and set(table["mode"]) == {"zero-shot"}
    assert table[["fraction", "seed"]].drop_duplicates().values.tolist() == [[0.0, 0.0]]
    records = table.groupby(["cohort", "split"])["record_id"].nunique().to_dict()
    assert records == {("A", "val"): 6, ("A", "test"): 6, ("B", "external"): 8}
    val = table[table["split"] == "val"].pivot(index="record_id", columns="label", values="probability")[NAMES]
    rows = cohort.rows("val")
    expected = zero_shot.probabilities(objective, zero_shot.scores(objective, cohort, rows, NAMES, LEADS))
    np.testing.assert_allclose(val, expected, rtol=1e-5)
    score = metrics.macro_auroc(cohort.states(NAMES, rows), expected)
    assert lines == [f"melp: zero-shot: validation macro AUROC {score:.3f}"]
    predictions.write(table, tmp_path / "predictions.parquet")
    assert len(predictions.by_cohort(predictions.load(tmp_path / "predictions.parquet"))) == 3


def test_what_cannot_be_scored_is_refused_before_the_closed_records_are_opened(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "open_test", lambda _: pytest.fail("opened before the refusal"))
    saved(tmp_path / "melp", leads=("I", "II"))
    saved(tmp_path / "other", leads=("I", "II"), name="supervised", n_labels=3)
    task = probing.Task(cohort, (), ("I", "II"), NAMES)
    with pytest.raises(EcgError, match="supervised has not learned from reports"):
        zero_shot.run("supervised", task, tmp_path / "other")
    with pytest.raises(EcgError, match="no plain words"):
        zero_shot.run("melp", replace(task, labels=["XYZ"]), tmp_path / "melp")
    with pytest.raises(EcgError, match="leads"):
        zero_shot.run("melp", replace(task, leads=("II", "I")), tmp_path / "melp")
