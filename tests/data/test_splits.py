"""Splits: one split per patient, the shares asked for, the same result for any row order, rare labels spread evenly."""

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.data import splits

FRACTIONS = {"pretrain": 0.4, "train": 0.3, "val": 0.1, "test": 0.2}


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 800, 1000)
    records = pd.DataFrame(
        {"record_id": [f"r{i}" for i in range(1000)], "patient_id": patients.astype(str), "split": ""}
    )
    states = pd.DataFrame(
        (rng.random((1000, 3)) < [0.5, 0.1, 0.03]).astype(np.int8), columns=["common", "some", "rare"]
    )
    return records, states


def test_assign_keeps_patients_together_and_the_shares(corpus):
    records, states = corpus
    split = splits.assign(records, FRACTIONS, 0, states)
    splits.check(records.assign(split=split))
    for name, share in FRACTIONS.items():
        assert abs(_share(split == name, records.patient_id) - share) < 0.005
        for label in states:
            assert abs((split[states[label] == 1] == name).mean() - share) < 0.12


def test_assign_does_not_depend_on_row_order_but_on_the_seed(corpus):
    records, states = corpus
    order = np.random.default_rng(1).permutation(len(records))
    split = splits.assign(records, FRACTIONS, 0, states)
    shuffled = splits.assign(records.iloc[order], FRACTIONS, 0, states.iloc[order])
    assert (shuffled.sort_index() == split).all()
    assert (splits.assign(records, FRACTIONS, 1, states) != split).any()


def test_subsets_hold_whole_patients_and_about_the_fraction(corpus):
    records, states = corpus
    chosen = splits.subsets(states, records.patient_id, 0.1, 5, seed=0)
    assert len(chosen) == 5 and len({tuple(c) for c in chosen}) == 5
    for rows in chosen:
        patients = set(records.patient_id.iloc[rows])
        assert abs(len(patients) - 0.1 * records.patient_id.nunique()) <= 3 and (np.diff(rows) > 0).all()
        assert records.patient_id.isin(patients).sum() == len(rows)
    assert all(1 <= states.rare.iloc[rows].sum() <= 6 for rows in chosen)  # 32 in all
    assert [len(rows) for rows in splits.subsets(states, records.patient_id, 1.0, 5)] == [1000]


def test_small_subsets_reach_the_rarest_label_as_often_as_they_should(corpus):
    records, states = corpus
    chosen = splits.subsets(states, records.patient_id, 0.01, 200)
    expected = 0.01 * states.rare.sum() * 200
    assert 0.5 * expected < sum(states.rare.iloc[rows].sum() for rows in chosen) < 1.5 * expected


def _share(chosen, patients):
    return patients[chosen].nunique() / patients.nunique()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record_id": ["a", "a", "c"]}, "'a'"),
        ({"split": ["train", "test", ""]}, "'p' in test, train"),
        ({"split": ["train", "tset", ""]}, "unknown split 'tset'"),
    ],
)
def test_check_names_what_is_wrong(change, message):
    records = pd.DataFrame({"record_id": ["a", "b", "c"], "patient_id": ["p", "p", "p"], "split": ["", "", ""]})
    splits.check(records)
    with pytest.raises(EcgError, match=message):
        splits.check(records.assign(**change))


def test_bad_fractions_are_refused(corpus):
    records, states = corpus
    for fractions in ({"train": 0.5, "val": 0.4}, {"trian": 1.0}, {"train": 1.5, "val": -0.5}):
        with pytest.raises(EcgError):
            splits.assign(records, fractions)
    for fraction in (0, 1.1, 1e-6):
        with pytest.raises(EcgError):
            splits.subsets(states, records.patient_id, fraction, 1)


@pytest.mark.parametrize("nobody", [None, float("nan"), "", "nan", "None", "NA"])
def test_records_without_a_patient_are_not_one_patient(nobody):
    records = pd.DataFrame({"record_id": ["a", "b", "c"], "patient_id": ["1", nobody, nobody], "split": ["", "", ""]})
    with pytest.raises(EcgError, match="2 records name no patient, for example 'b'") as caught:
        splits.check(records)
    assert caught.value.field == "patient_id" and caught.value.fix


def test_folds_divide_the_patients_and_their_labels(corpus):
    records, labels = corpus
    folds = splits.folds(labels, records.patient_id, 5)
    assert sorted(np.concatenate(folds).tolist()) == list(range(len(records)))
    patients = [set(records.patient_id.iloc[fold]) for fold in folds]
    assert sum(map(len, patients)) == records.patient_id.nunique()
    sizes = [len(fold) / len(records) for fold in folds]
    assert max(sizes) < 0.25 and min(sizes) > 0.15
    shares = np.array([(labels.iloc[fold] == 1).mean() for fold in folds])
    assert (abs(shares - shares.mean(0)) < 0.5 * shares.mean(0)).all()
    again = splits.folds(labels, records.patient_id, 5)
    assert all(map(np.array_equal, folds, again))
    assert not all(map(np.array_equal, folds, splits.folds(labels, records.patient_id, 5, seed=1)))
    for n, message in ((2, "3 or more"), (10**4, "leave one empty")):
        with pytest.raises(EcgError, match=message):
            splits.folds(labels, records.patient_id, n)
