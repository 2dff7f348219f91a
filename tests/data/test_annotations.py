"""Annotation files: bit by bit what the wfdb package reads, and what is refused."""

import re

import numpy as np
import pytest
import wfdb

from ecglib import EcgError
from ecglib.data import annotations, wfdb_io
from ecglib.data.annotations import Interval
from ecglib.rhythm import days


def _written(folder, samples, symbols, notes=None, **options):
    notes = notes or [""] * len(samples)
    wfdb.wrann("r", "atr", np.array(samples), list(symbols), aux_note=notes, write_dir=str(folder), **options)
    return folder / "r.atr"


def test_equals_the_wfdb_package(tmp_path):
    random = np.random.default_rng(3)
    samples = np.cumsum(random.choice([1, 90, 1023, 1024, 70_000, 9_000_000], 400))
    symbols = random.choice(list('NLRaVFJASEj/Q~|sT*D"=pB^t+u?![]en@xf()r'), 400)
    notes = ["(AFIB" if s == "+" else "odd" if s == '"' else "" for s in symbols]
    options = {"subtype": random.integers(-3, 4, 400), "chan": random.integers(0, 2, 400), "num": np.arange(400) % 3}
    ours = annotations.read(_written(tmp_path, samples, symbols, notes, **options))
    np.testing.assert_array_equal(ours.samples, samples)
    assert list(ours.symbols) == list(symbols)
    assert [ours.notes.get(k, "") for k in range(400)] == notes and ours.fs is None


def test_a_file_that_states_its_rate_says_so(tmp_path):
    ours = annotations.read(_written(tmp_path, [5, 300], "NN", fs=128))
    assert ours.fs == 128 and ours.samples.tolist() == [5, 300] and list(ours.symbols) == ["N", "N"]


def test_marks_hold_until_the_next_and_comments_may_hold_them(tmp_path):
    """The example of the specification: N at 0, AFIB at 1000, N at 4000, end 10000."""
    notes = ["(N", "", "(AFIB", "TS", "(N"]
    ours = annotations.read(_written(tmp_path, [0, 500, 1000, 1500, 4000], '+N"~+', notes))
    wanted = [Interval(0, 1000, "N"), Interval(1000, 4000, "AFIB"), Interval(4000, 10000, "N")]
    assert annotations.rhythms(ours, 10000) == wanted
    assert ours.beats.tolist() == [500]


def test_what_is_no_annotation_file_is_refused(tmp_path):
    whole = _written(tmp_path, [10, 2000], "N+", ["", "(AFIB"])
    data = whole.read_bytes()
    for cut in (2, len(data) - 2, len(data) - 5):
        whole.write_bytes(data[:cut])
        with pytest.raises(EcgError, match="without their end mark"):
            annotations.read(whole)
    whole.write_bytes((55 << 10 | 3).to_bytes(2, "little") + b"\0\0")
    with pytest.raises(EcgError, match=r"types \[55\] do not exist"):
        annotations.read(whole)
    with pytest.raises(EcgError, match="cannot read the annotations"):
        annotations.read(tmp_path / "nowhere.atr")


def test_beats_know_their_rhythm_and_unmarked_ones_are_unknown(tmp_path):
    _written(tmp_path, [200, 400, 600, 700, 800, 1000], "NNN+NN", ["", "", "", "(AFIB", "", ""])
    (tmp_path / "r.atr").rename(tmp_path / "data_7_1.atr")
    (tmp_path / "days.csv").write_text("record_id,group\ndata_7_1,a\nother,b\n")
    [day] = days.days(tmp_path, "simulated", "a")
    assert day.beats.tolist() == [1, 2, 3, 4, 5] and day.flags(("AFIB",)).tolist() == [-1, -1, -1, 1, -1]
    [day] = days.days(tmp_path, "cpsc2021")
    assert day.patient_id == "cpsc2021-7" and day.flags(("AFIB",)).tolist()[:4] == [0, 0, 0, 1]
    with pytest.raises(EcgError, match="unknown group 'c'"):
        days.days(tmp_path, "simulated", "c")
    with pytest.raises(EcgError, match="no annotations of afdb"):
        days.days(tmp_path, "afdb")
    with pytest.raises(EcgError, match="unknown corpus of days"):
        days.days(tmp_path, "mars")


def test_days_without_a_file_of_beats_are_streamed_and_unmarked_ones_are_unknown(tmp_path):
    """SHDB-AF: a beat every 0.8 s in 90 s; fibrillation marked from 30 to 60 s in 001, nothing in 002; 020 is 005."""
    second = np.arange(90 * 200) / 200
    since = (second - 0.4) % 0.8
    beat = np.exp(-((np.minimum(since, 0.8 - since) / 0.012) ** 2) / 2)
    lines = ["Data_ID,Subject_ID,Annotated,Age_at_Holter,Sex,AF_Type"]
    for name, marked in (("001", "Yes"), ("002", "No"), ("020", "Yes")):
        wfdb_io.write(tmp_path, name, np.round([1000 * beat, 600 * beat]).astype(int), 200, ["ECG1", "ECG2"], 1000)
        lines.append(f"{name},7,{marked},60,male,PAF")
        notes = {"symbol": ['"', '"'], "aux_note": ["(AFIB", "(N"]}
        wfdb.wrann(name, "atr", np.array([6000, 12000]), **notes, write_dir=str(tmp_path))
    (tmp_path / "002.atr").unlink()
    (tmp_path / "AdditionalData.csv").write_text("\n".join(lines) + "\n")
    marked, unknown = days.days(tmp_path, "shdb-af")
    assert (marked.record_id, unknown.record_id) == ("001", "002") and marked.patient_id == "shdb-af-7"
    for day in (marked, unknown):
        assert len(day.beats) in range(109, 114)
        beats = np.round((day.beats - 0.4) / 0.8)
        np.testing.assert_allclose(day.beats, 0.4 + 0.8 * beats, atol=0.02)
    assert [(mark.label, round(mark.start)) for mark in marked.rhythms][1:] == [("AFIB", 30), ("N", 60)]
    assert marked.rhythms[0].label == "N" and marked.rhythms[0].start == marked.beats[0]
    flags = marked.flags(("AFIB", "AFL"))
    np.testing.assert_array_equal(flags[:-1], ((marked.beats >= 30) & (marked.beats < 60))[:-1])
    assert unknown.rhythms == [] and set(unknown.flags(("AFIB",))) == {days.UNKNOWN}
    (tmp_path / "days.csv").write_text("record_id,group\n001,a\n002,b\n")
    assert [day.record_id for day in days.days(tmp_path, "shdb-af", "b")] == ["002"]


def test_the_real_corpora_are_what_their_papers_say(real_data):
    """Hours and episodes of fibrillation as counted from the public files, patients, and beats equal to wfdb's."""
    found = days.days(real_data / "afdb", "afdb")
    table = days.described({"afdb": found}, ("AFIB",)).iloc[0]
    assert (table["records"], table["patients"]) == (25, 25) and 92 < table["AF hours"] < 96
    assert sum(mark.label == "AFIB" for day in found for mark in day.rhythms) in range(285, 300)
    theirs = wfdb.rdann(str(real_data / "ltafdb/03"), "atr")
    ours = annotations.read(real_data / "ltafdb/03.atr")
    np.testing.assert_array_equal(ours.samples, theirs.sample)
    assert list(ours.symbols) == theirs.symbol
    assert {mark.label for day in days.days(real_data / "nsrdb", "nsrdb") for mark in day.rhythms} == {"N"}
    pieces = days.days(real_data / "cpsc2021", "cpsc2021")
    assert len(pieces) == 18 and all(re.fullmatch(r"cpsc2021-\d+", day.patient_id) for day in pieces)


@pytest.mark.parametrize(
    ("corpus", "record", "patient"),
    [
        ("cpsc2021", "data_12_3", "12"),
        ("cpsc2021", "data_12_30", "12"),
        ("cpsc2021", "other", "other"),
        ("nstdb", "118e_6", "118"),
        ("nstdb", "118e06", "118"),
        ("afdb", "04015", "04015"),
    ],
)
def test_patients_are_read_from_the_names_of_records_where_they_stand_there(corpus, record, patient):
    assert annotations.patient_of(corpus, record) == patient
