"""What objectives are fed: signals, states, metadata, and in which order."""

import math

import numpy as np
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort

from ecglib import batches
from ecglib.signals import EcgError


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
    monkeypatch.setattr("ecglib.batches.CACHE_BYTES", 0)
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
