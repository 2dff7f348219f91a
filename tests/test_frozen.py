"""Frozen features are kept by content: asked again they cost nothing, and whatever changes is computed anew."""

import numpy as np
import pytest
import torch
from memory_cohort import MemoryCohort

from ecglib import encoders, frozen


class Counted(torch.nn.Module):
    """An encoder that states its content and counts what it is asked."""

    def __init__(self, content="weights"):
        super().__init__()
        self.encoder, self.content, self.asked = encoders.build("net1d", "small", 12), content, 0

    def forward(self, x):
        self.asked += len(x)
        return self.encoder(x)


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGLIB_CACHE", str(tmp_path / "cache"))
    made = MemoryCohort(6)
    made.content = "signals"
    return made


def test_a_second_probe_costs_nothing(cohort):
    model, rows = Counted(), np.array([4, 1, 2])
    z = frozen.features(model, cohort, rows)
    assert model.asked == 3 and z.shape == (3, 128)
    again = frozen.features(Counted(), cohort, rows)
    np.testing.assert_array_equal(again, z)
    other = Counted()
    np.testing.assert_array_equal(frozen.features(other, cohort, rows), z)
    assert other.asked == 0


def test_what_changes_is_computed_anew(cohort, monkeypatch):
    rows = np.arange(3)
    frozen.features(Counted(), cohort, rows)
    for model, which, leads, profile in (
        (Counted(), rows[::-1].copy(), None, "study"),
        (Counted(), rows, cohort.leads[::-1], "study"),
        (Counted(), rows, None, "ecgfounder-zeroshot"),
    ):
        cohort.valid = lambda rows: np.full(len(rows), 1000)
        frozen.features(model, cohort, which, leads, profile)
        assert model.asked == len(which)
    cohort.content = "other signals"
    model = Counted()
    frozen.features(model, cohort, rows)
    monkeypatch.setattr(frozen, "_code", lambda: "another library")
    frozen.features(model, cohort, rows)
    assert model.asked == 6


def test_an_encoder_that_was_trained_since_is_another(cohort):
    model = Counted()
    before = frozen.features(model, cohort, np.arange(2))
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.5)
    assert not np.allclose(frozen.features(model, cohort, np.arange(2)), before) and model.asked == 4


def test_what_states_no_content_is_not_kept(cohort, tmp_path):
    model = Counted(content="")
    frozen.features(model, cohort, np.arange(2))
    frozen.features(model, cohort, np.arange(2))
    assert model.asked == 4 and not list((tmp_path / "cache").rglob("*.npy"))
