"""Simulated days: the same bytes, beats where the signal has them, burden as stated, groups that differ."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.data import annotations, wfdb_io
from ecglib.rhythm import days, irregularity
from ecgsim import generate, holter

DAYS = {"patients": 5, "hours": 0.5, "signals": [1]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("days") / "data"
    generate(folder, hospitals=("C",), workers=1, scale=0.004, seed=7, days=DAYS)
    return folder


def test_files_tables_and_bytes(data, tmp_path):
    table = pd.read_csv(data / "D/days.csv")
    assert list(table["group"]) == ["north", "south", "south", "north", "controls"] and table["signal"].sum() == 1
    assert sorted(p.name for p in (data / "D").glob("D002*")) == ["D002.atr", "D002.dat", "D002.hea"]
    generate(tmp_path / "again", hospitals=("C",), workers=2, scale=0.004, seed=7, days=DAYS)
    for path in (data / "D").iterdir():
        again = (tmp_path / "again/D" / path.name).read_bytes()
        assert hashlib.sha256(again).digest() == hashlib.sha256(path.read_bytes()).digest(), path.name
    generate(tmp_path / "again", hospitals=("C",), workers=1, scale=0.004, seed=7)
    assert not (tmp_path / "again/D").exists(), "what it wrote, it may replace"


def test_beats_rhythms_and_burden_are_read_as_they_were_made(data):
    table = pd.read_csv(data / "D/days.csv").set_index("record_id")
    for day in days.days(data / "D", "simulated"):
        number = int(day.record_id[1:]) - 1
        truth = holter.day(7, number, 0.5)
        np.testing.assert_allclose(day.beats, truth.t / 1000, atol=0.5 / 200 + 1e-9)
        assert list(day.kinds) == list(truth.kind)
        np.testing.assert_array_equal(day.flags(("AFIB",))[:-1], truth.af[:-1])
        share = np.diff(truth.episodes).sum() / 1000 / 1800
        assert 100 * share == pytest.approx(table.loc[day.record_id, "burden_percent"], abs=0.01)
    assert [day.record_id for day in days.days(data / "D", "simulated", "controls")] == ["D005"]


def test_beats_lie_where_the_signal_has_its_complexes(data):
    signal = wfdb_io.read(data / "D/D002").signal
    steep = abs(np.gradient(signal, axis=1)).sum(axis=0)
    beats = annotations.read(data / "D/D002.atr").beats
    beats = beats[(beats > 20) & (beats < signal.shape[1] - 20)]
    near = np.array([steep[b - 12 : b + 13].max() for b in beats])
    far = np.array([steep[b + 60 : b + 80].max() for b in beats[:-1]])
    assert np.median(near) > 5 * np.median(far) and (near > np.quantile(far, 0.5)).mean() > 0.99


def test_a_signal_is_the_same_however_it_is_cut_into_blocks(monkeypatch):
    truth = holter.day(7, 1, 0.1)
    whole = holter.signal(7, 1, truth, 0.1)
    monkeypatch.setattr(holter, "BLOCK", 17)
    np.testing.assert_array_equal(holter.signal(7, 1, truth, 0.1), whole)


def test_fibrillation_is_irregular_and_sinus_rhythm_is_not():
    truth = holter.day(2025, 1, 8.0)
    first, rr = irregularity.windows(truth.t / 1000)
    share = np.array([truth.af[k : k + 61].mean() for k in first])
    entropy = irregularity.cosen(rr)
    assert np.median(entropy[share == 1]) > np.median(entropy[share == 0]) + 0.7
    rr_af = np.diff(truth.t)[truth.af[:-1] & truth.af[1:]]
    assert 450 < rr_af.mean() < 1000 and abs(np.corrcoef(rr_af[:-1], rr_af[1:])[0, 1]) < 0.35


def test_the_south_is_older_and_controls_never_fibrillate():
    people = [holter.patient(2025, k) for k in range(30)]
    age = pd.DataFrame(people).groupby("group")["age"].mean()
    assert age["south"] > age["north"] + 5
    assert {p["burden"] for p in people if p["group"] == "controls"} == {0.0}


def test_what_cannot_be_days_is_refused(tmp_path):
    changes = ({"hours": 30}, {"signals": [5]}, {"signals": 1}, {"patients": 0})
    for wrong in ({"patients": 3}, *({**DAYS, **change} for change in changes), "many"):
        with pytest.raises(EcgError):
            generate(tmp_path / "data", hospitals=("C",), workers=1, scale=0.004, days=wrong)
        assert not (tmp_path / "data").exists()
