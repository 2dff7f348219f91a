"""Classifiers of beats and their scores: sizes, determinism, splits that leak or do not, intervals over patients."""

import numpy as np
import pandas as pd
import pytest
from plain_beats import judged
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from ecglib import EcgError, models
from ecglib.rhythm import beat_models, beat_scores
from ecglib.rhythm.annotated import CLASSES


def some_beats(n=400, seed=0):
    """Beats whose class is in the shape (V: wide) and in the rhythm (S: early)."""
    random = np.random.default_rng(seed)
    classes = random.choice(["N", "S", "V"], n, p=[0.6, 0.2, 0.2])
    width = np.where(classes == "V", 12, 4)[:, None]
    x = np.exp(-(((np.arange(128) - 64) / width) ** 2) / 2) + random.normal(0, 0.05, (n, 128))
    rr = np.stack([np.where(classes == "S", -0.5, 0) + random.normal(0, 0.05, n), random.normal(0, 0.1, n)], axis=1)
    return x[:, None].astype(np.float32), rr.astype(np.float32), classes


def test_the_network_has_the_size_that_is_stated():
    assert models.n_parameters(beat_models.BeatNetwork(1, 0, beat_models.NetworkSettings())) == 71797


def test_the_network_learns_shape_and_rhythm_and_repeats_itself():
    x, rr, classes = some_beats(2000)
    settings = beat_models.NetworkSettings(epochs=6, batch_size=64)
    p = [
        beat_models.network_probabilities(beat_models.train_network(x, rr, classes, settings), *some_beats(seed=1)[:2])
        for _ in range(2)
    ]
    assert (p[0] == p[1]).all() and np.allclose(p[0].sum(axis=1), 1, atol=1e-5)
    assert (beat_models.called(p[0]) == some_beats(seed=1)[2]).mean() > 0.97
    blind = beat_models.train_network(x, rr[:, :0], classes, settings)
    called = beat_models.called(beat_models.network_probabilities(blind, x, rr[:, :0]))
    assert (called[classes == "V"] == "V").mean() > 0.9 > (called[classes == "S"] == "S").mean()


def test_trees_give_a_column_per_class_and_thin_only_the_normal_beats():
    x, rr, classes = some_beats()
    table = pd.DataFrame(rr, columns=["before", "after"]).assign(width=x[:, 0].sum(axis=1))
    settings = beat_models.TreeSettings(trees=30, leaf=2, share=1.0, thinned=0.5)
    p = beat_models.tree_probabilities(beat_models.train_trees(table, classes, settings), table)
    assert p.shape == (400, 5) and (p[:, 3:] == 0).all() and np.allclose(p.sum(axis=1), 1)
    assert (beat_models.called(p) == classes).mean() > 0.97
    with pytest.raises(EcgError, match="no class 'X'"):
        beat_models.train_trees(table, np.full(400, "X"))


def test_a_random_split_tears_patients_apart_and_folds_do_not():
    classes = np.array(list("NNNNNNNNSV") * 50)
    patients = np.repeat(np.arange(25), 20)
    test = beat_models.random_halves(classes, 0.2, seed=1)
    assert test.sum() == 100 and (classes[test] == "S").sum() == 10 and (classes[test] == "V").sum() == 10
    assert len(set(patients[test]) & set(patients[~test])) > 15


def test_scores_are_those_of_scikit_learn():
    beats = judged()
    table = beat_scores.per_class(beats, n_resamples=50).set_index("class")
    options = {"labels": list("NSVF"), "average": None}
    for metric, function in (("sensitivity", recall_score), ("ppv", precision_score), ("f1", f1_score)):
        assert np.allclose(table.loc[list("NSVF"), metric], function(beats.aami, beats.called, **options))
    assert table.accuracy["all"] == (beats.aami == beats.called).mean()
    assert np.isnan(table.sensitivity["Q"]) and table.n_patients["S"] == 8
    mean = f1_score(beats.aami, beats.called, labels=list("NSVF"), average="macro")
    assert beat_scores.macro_f1(beats) == pytest.approx(mean)
    matrix = beat_scores.confusion(beats.aami, beats.called)
    assert (matrix.to_numpy() == confusion_matrix(beats.aami, beats.called, labels=list(CLASSES))).all()
    of_record = beat_scores.per_record(beats).set_index(["record_id", "class"])
    mine = beats[beats.record_id == "r3"]
    assert of_record.sensitivity["r3", "V"] == recall_score(mine.aami == "V", mine.called == "V")


def test_intervals_resample_patients_with_all_their_records():
    """A class that one patient has is in all or none of its resamples; two records of a patient stay together."""
    beats = judged(1, 6)
    beats.loc[beats.record_id != "r0", "aami"] = "N"
    table = beat_scores.per_class(beats, n_resamples=200).set_index("class")
    assert table.n_patients["V"] == 1 and table.sensitivity_low["V"] == table.sensitivity_high["V"]
    apart = judged(2)
    together = apart.assign(patient_id=apart.record_id.isin(["r0", "r1", "r2", "r3"]).map({True: "a", False: "b"}))
    wide, narrow = (beat_scores.per_class(b, n_resamples=300).set_index("class") for b in (together, apart))
    assert narrow.accuracy["all"] == wide.accuracy["all"]
    assert wide.n_patients["N"] == 2 and narrow.n_patients["N"] == 8


def test_out_of_fold_trees_have_not_seen_the_patient():
    """Each patient has a class of its own by a feature that names the patient: nobody else can teach it."""
    patients = np.repeat(np.arange(6), 60)
    classes = np.where(patients % 2, "V", "N")
    random = np.random.default_rng(0)
    table = pd.DataFrame({"who": patients + random.normal(0, 0.01, 360), "noise": random.normal(size=360)})
    settings = beat_models.TreeSettings(trees=20, leaf=1, share=1.0, thinned=1.0)
    p = beat_models.out_of_fold(table, classes, patients, settings, 3)
    seen = beat_models.tree_probabilities(beat_models.train_trees(table, classes, settings), table)
    assert (beat_models.called(seen) == classes).all() and (beat_models.called(p) == classes).mean() < 0.7
