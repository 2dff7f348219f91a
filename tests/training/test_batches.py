"""What objectives are fed: signals, states, metadata, and in which order."""

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort

from ecglib import EcgError
from ecglib.data import profiles
from ecglib.training import batches


@pytest.fixture(scope="module")
def cohort():
    return MemoryCohort()


@pytest.fixture
def data(cohort):
    return batches.CohortData(cohort, cohort.rows("train"), labels=NAMES)


def test_data_delivers_profiled_signals_states_and_metadata(cohort):
    rows = np.array([5, 2, 9])
    cohort.mask[2, 3] = False
    data = batches.CohortData(cohort, rows, labels=NAMES, meta=("age", "sex"))
    batch = data.batch(np.array([1, 0]))
    cohort.mask[2, 3] = True
    expected = data.profile.apply(cohort.batch([2, 5]), 100.0)
    expected[0, 3] = 0
    np.testing.assert_allclose(batch.x.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert batch.lead_mask.sum(1).tolist() == [11, 12]
    assert batch.labels.tolist() == cohort.labels.iloc[[2, 5]].to_numpy().tolist()
    assert batch.patient_id[0] != batch.patient_id[1] and batch.text == ["", ""]
    assert batch.meta["age"].tolist() == pytest.approx(cohort.records["age"].iloc[[2, 5]].tolist())
    assert math.isnan(batch.meta["sex"][0]) and data.batch([2]).meta["sex"].item() == 0.0


def test_data_too_large_for_memory_is_profiled_batch_by_batch(cohort, data, monkeypatch):
    index = np.array([3, 0, 7])
    inside = data.batch(index)
    monkeypatch.setattr("ecglib.training.batches.CACHE_BYTES", 0)
    outside = batches.CohortData(cohort, cohort.rows("train"), labels=NAMES).batch(index)
    torch.testing.assert_close(inside.x, outside.x, rtol=0, atol=0)


def test_several_cohorts_make_one_data_set(cohort, data):
    other = MemoryCohort(12, "B", seed=1)
    second = batches.CohortData(other, np.arange(12), labels=NAMES)
    joint = batches.JointData(data, second)
    n = len(data)
    assert len(joint) == n + 12 and joint.record_ids[n + 3] == "B0003"
    batch = joint.batch(np.array([n + 3, 0, n, 5]))
    torch.testing.assert_close(batch.x[[0, 2]], second.batch([3, 0]).x)
    torch.testing.assert_close(batch.x[[1, 3]], data.batch([0, 5]).x)
    assert torch.equal(batch.labels[[1, 3]], data.batch([0, 5]).labels)
    assert len(set(joint.batch(np.arange(n + 12)).patient_id.tolist())) == n // 2 + 6


def test_cohorts_are_pooled_by_the_measurements_that_they_share(cohort):
    """Names in the order of the first cohort, values by name, each beside its own record."""
    one, two = (copy.copy(c) for c in (cohort, MemoryCohort(12, "B", seed=1, shares=(("train", 1),))))
    names, rng = ["pr_ms", "qrs_ms", "V1_r_mv"], np.random.default_rng(0)
    one.measurements = pd.DataFrame(rng.normal(size=(len(one), 3)).astype(np.float32), columns=names)
    two.measurements = pd.DataFrame(rng.normal(size=(12, 2)).astype(np.float32), columns=["V1_r_mv", "pr_ms"])
    joint = batches.pooled([one, two], ["train", "train"], measured=True)
    assert joint.measured == ("pr_ms", "V1_r_mv")
    n, rows = len(one.rows("train")), one.rows("train")
    batch = joint.batch(np.array([n + 3, 2, n, 5]))
    expected = [two.measurements.iloc[3], one.measurements.iloc[rows[2]], two.measurements.iloc[0]]
    expected.append(one.measurements.iloc[rows[5]])
    np.testing.assert_array_equal(batch.measurements, [[row["pr_ms"], row["V1_r_mv"]] for row in expected])
    alone = batches.pooled([one], ["val"], measured=joint.measured)
    assert alone.measured == joint.measured and alone.batch([0]).measurements.shape == (1, 2)
    assert batches.pooled([one], ["train"]).batch([0]).measurements is None


def test_every_record_comes_once_per_epoch_in_an_order_of_seed_and_step_only():
    epoch = np.concatenate([batches.positions(20, 5, seed=3, step=s) for s in range(4, 8)])
    assert sorted(epoch) == list(range(20))
    assert np.array_equal(batches.positions(20, 5, 3, 4), batches.positions(20, 5, 3, 4))
    assert not np.array_equal(batches.positions(20, 5, 3, 0), batches.positions(20, 5, 3, 4))
    assert len(batches.positions(7, 64, 0, 3)) == 7


def test_what_cannot_be_fed_is_refused(cohort, data):
    with pytest.raises(EcgError, match="no rows"):
        batches.CohortData(cohort, [])
    with pytest.raises(EcgError, match="differ in labels"):
        batches.JointData(data, batches.CohortData(cohort, [1]))


def test_cohorts_are_pooled_by_split_and_normal_means_nothing_else(cohort):
    names = ["NORM", "SR", "CD"]
    cohort = MemoryCohort(12, shares=(("pretrain", 0.5), ("train", 1)))
    states = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 2], [0, 1, 0], [1, -1, -1], [2, 1, 0]] * 2, np.int8)
    cohort.labels = pd.DataFrame(states, index=cohort.labels.index, columns=names)
    both = batches.pooled([cohort, cohort], [["train", "pretrain"], "train"])
    assert len(both) == 18 and both.batch(np.arange(18)).patient_id.unique().numel() == 9
    normal = batches.pooled([cohort], ["pretrain"], normal=True)
    assert normal.record_ids.tolist() == ["A0000", "A0004"]  # a doubtful finding is a finding, an unknown one is none
    with pytest.raises(EcgError, match="2 cohorts, 1 splits"):
        batches.pooled([cohort, cohort], ["train"])
    cohort.labels["NORM"] = 0
    with pytest.raises(EcgError, match="no record is left"):
        batches.pooled([cohort], ["train"], normal=True)


def test_peaks_are_samples_of_what_is_delivered(cohort):
    data = batches.CohortData(cohort, np.arange(6), meta=("age", "hdl"))
    batch = data.batch(np.array([3, 1]))
    for line, row in zip(batch.peaks, (3, 1), strict=True):
        assert line[line >= 0].tolist() == cohort.peaks(row).tolist()
    assert batch.meta["hdl"].isnan().all() and not batch.meta["age"].isnan().any()
    halved = profiles.profile("study")
    slow = batches.CohortData(cohort, np.arange(6), profile=replace(halved, fs=50))
    assert slow.fs == 50 and slow.batch(np.array([3])).peaks[0, 0] == round(cohort.peaks(3)[0] / 2)
