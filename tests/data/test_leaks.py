"""Leaks: planted copies that were scaled, shifted, resampled and filtered; those of public corpora; and no others."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import signal

from ecglib import EcgError
from ecglib.data import cohort, leaks, wfdb_io
from ecglib.data.recording import LEADS, Recording

FS = 250
STUDY = Path(__file__).resolve().parents[2] / "results/cohorts"


def heart(rng, seconds=14.0, fs=FS, leads=LEADS):
    """A made-up ECG (lead, time) in mV: beats of random shape in every lead at random intervals, and noise."""
    time = np.arange(round(seconds * fs)) / fs
    beats = np.cumsum(rng.uniform(0.55, 1.1) * rng.normal(1, 0.04, 40)) - 1
    waves = [(rng.uniform(-0.2, 0.35), rng.uniform(0.01, 0.06), rng.normal(0, 1, len(leads))) for _ in range(5)]
    x = np.zeros((len(leads), len(time)))
    for beat in beats:
        for delay, width, sizes in waves:
            x += sizes[:, None] * np.exp(-0.5 * ((time - beat - delay) / width) ** 2)
    return (x + rng.normal(0, 0.02, x.shape)).astype(np.float32)


def as_recording(x, fs=FS, leads=LEADS, patient=None, comments=()):
    return Recording(x, fs, tuple(leads), np.ones(len(leads), bool), "", patient, tuple(comments))


def tracings(signals, name="one", fs=FS, leads=LEADS, **more):
    records = [f"{name}{i}" for i in range(len(signals))]
    return leaks.of_recordings(name, [as_recording(x, fs, leads, **more) for x in signals], records)


@pytest.fixture(scope="module")
def hearts():
    rng = np.random.default_rng(0)
    return [heart(rng) for _ in range(40)]


def filtered(x, fs, kind):
    if kind == "zero phase":
        return signal.sosfiltfilt(signal.butter(2, [0.5, 40], "bandpass", fs=fs, output="sos"), x)
    if kind == "causal":
        return signal.sosfilt(signal.butter(1, [0.5, 40], "bandpass", fs=fs, output="sos"), x)
    return x


@pytest.mark.parametrize("gain", [0.2, 1.0, 5.0])
@pytest.mark.parametrize(("shift", "fs"), [(0.0, 250), (1.0, 100), (-1.0, 500), (0.48, 360)])
@pytest.mark.parametrize("kind", ["none", "zero phase", "causal"])
def test_a_copy_is_found_and_nothing_else(hearts, gain, shift, fs, kind):
    start = round(2 * FS)
    first = tracings([x[:, start:] for x in hearts])
    moved = [x[:, start + round(shift * FS) :] for x in hearts[:3]]
    copies = [filtered(signal.resample_poly(gain * x, fs, FS, axis=-1), fs, kind) for x in moved]
    second = tracings(copies, "two", fs)
    pairs = leaks.copies([first, second])
    assert sorted(zip(pairs.record_a, pairs.record_b, strict=True)) == [(f"one{i}", f"two{i}") for i in range(3)]
    assert pairs.similarity.min() >= leaks.ALIKE and np.abs(pairs.shift_s - shift).max() <= 0.04


def test_a_lead_that_is_turned_over_is_another_tracing(hearts):
    second = tracings([-x for x in hearts[:3]], "two")
    assert leaks.copies([tracings(hearts), second], within=False).empty


@pytest.mark.parametrize("leads", [("I",), ("II", "V5")])
def test_corpora_with_other_leads_are_compared_in_what_both_have(hearts, leads):
    rows = [LEADS.index(name) for name in leads]
    second = tracings([2 * x[rows] for x in hearts[5:8]], "two", leads=leads)
    pairs = leaks.copies([tracings(hearts), second], within=False)
    assert sorted(pairs.record_a) == ["one5", "one6", "one7"] and set(pairs.kind) == {"alike"}


def test_corpora_without_a_common_lead_have_no_pairs(hearts):
    assert leaks.copies([tracings(hearts), tracings(hearts, "two", leads=list("abcdefghijkl"))]).empty


def test_equal_samples_are_found_without_a_signal_and_once_in_a_group():
    flat = [np.full((12, 10 * FS), value, np.float32) for value in (5, 5, 5, 0, 0, 7)]
    pairs = leaks.copies([tracings(flat)])
    assert set(zip(pairs.record_a, pairs.record_b, strict=True)) == {
        ("one0", "one1"),
        ("one0", "one2"),
        ("one3", "one4"),
    }
    assert set(pairs.kind) == {"equal samples"} and set(pairs.similarity) == {1.0}


def test_of_three_copies_each_is_paired_with_the_first_alone(hearts):
    one, two = tracings([hearts[0], hearts[1], hearts[0], hearts[0]]), tracings([hearts[0]], "two")
    pairs = leaks.copies([one, two])
    found = pairs[["record_a", "record_b"]].values.tolist()
    assert sorted(found) == [["one0", "one2"], ["one0", "one3"], ["one0", "two0"]]
    assert set(pairs.kind) == {"equal samples"} and leaks.summary([one, two], pairs).found.tolist()[1] == 2


def test_patients_and_summary(hearts):
    table = pd.DataFrame(
        {"record_id": list("abcd"), "patient_id": list("xxyz"), "split": ["train", "test", "val", "val"]}
    )
    corpus = tracings(hearts[:4])
    corpus.table = table
    corpus.signals = lambda rows, names, old=corpus.signals: old(np.minimum(rows, 2), names)  # d shows what c shows
    assert leaks.patients(corpus).values.tolist() == [["x", "a, b", "test, train"]]
    pairs = leaks.copies([corpus])
    assert pairs[["record_a", "record_b", "patient_a", "patient_b"]].values.tolist() == [["c", "d", "y", "z"]]
    found = leaks.summary([corpus], pairs).set_index("question")
    assert found.found.tolist() == [1, 1, 0, 1] and found.among.tolist() == [3, 4, 1, 1]
    corpus.table = table.assign(split=["train", "", "val", "val"])  # 202 of MIT-BIH, the person of 201, is left out
    assert leaks.patients(corpus).empty, "a record without a split is used for nothing"


def test_windows_of_one_record_are_no_pair(hearts):
    corpus = tracings([hearts[0], hearts[0], hearts[1]])
    corpus.table = corpus.table.assign(record_id=["a", "a", "b"])
    assert leaks.copies([corpus]).empty


def test_short_windows_are_not_compared(hearts):
    assert leaks.copies([tracings([x[:, : 4 * FS] for x in hearts[:2]] * 2)]).kind.eq("equal samples").all()
    shifted = tracings([x[:, 10 : 4 * FS] for x in hearts[:2]], "two")
    shifted.n_times = 4 * FS
    assert leaks.copies([tracings(hearts), shifted], within=False).empty


def test_a_folder_without_recordings_is_told(tmp_path):
    with pytest.raises(EcgError, match="neither a packed cohort nor a folder with WFDB headers"):
        leaks.open(tmp_path)


def in_segments(folder, hearts):
    """Two records of 14 s, "long" of two segments in a folder below and "other" of one file."""
    (folder / "parts").mkdir(parents=True)
    half = 7 * FS
    for name, x in (("parts/s1", hearts[0][:, :half]), ("parts/s2", hearts[0][:, half:]), ("other", hearts[1])):
        place = folder / name
        wfdb_io.write(place.parent, place.name, np.round(x * 200).astype(int), FS, LEADS, 200)
    (folder / "long.hea").write_text(f"long/2 12 {FS} {2 * half}\nparts/s1 {half}\nparts/s2 {half}\n")
    return folder


def test_segments_are_no_records_of_their_own(tmp_path, hearts):
    corpus = leaks.open(in_segments(tmp_path / "raw", hearts))
    assert corpus.table.record_id.tolist() == ["long", "other"] and leaks.copies([corpus]).empty
    pairs = leaks.copies([corpus, tracings(hearts[:2])], within=False)
    assert pairs[["record_a", "record_b"]].values.tolist() == [["long", "one0"], ["other", "one1"]]


def test_of_long_recordings_the_first_seconds_alone_are_held(tmp_path, hearts, monkeypatch):
    held, whole = [], leaks.of_recordings
    monkeypatch.setattr(leaks, "of_recordings", lambda name, *more: held.extend(more[0]) or whole(name, *more))
    corpus = leaks.of_folder(in_segments(tmp_path / "raw", hearts), seconds=6)
    assert [recording.signal.shape for recording in held] == [(12, 6 * FS)] * 2 and corpus.n_times == 6 * FS
    assert all(recording.signal.base is None for recording in held), "a view keeps the whole recording"


def test_no_false_pair_among_the_simulated_patients():
    """2,730 patients of three hospitals, 4,450 recordings."""
    if not all((STUDY / name / "cohort.json").is_file() for name in "ABC"):
        pytest.skip("the study has not run here")
    corpora = [leaks.open(STUDY / name) for name in "ABC"]
    assert sum(corpus.table.patient_id.nunique() for corpus in corpora) > 2000
    assert leaks.copies(corpora).empty and not any(len(leaks.patients(corpus)) for corpus in corpora)


def test_a_packed_cohort_and_its_recordings_are_the_same(tmp_path, hearts):
    from ecglib.datasets import folder

    (tmp_path / "raw").mkdir()
    for number, x in enumerate(hearts[:5]):
        wfdb_io.write(tmp_path / "raw", f"r{number}", np.round(x * 200).astype(int), FS, LEADS, 200)
    (tmp_path / "raw/records.csv").write_text("record,AFIB\n" + "".join(f"r{i},{i % 2}\n" for i in range(5)))
    cohort.pack("home", folder, tmp_path / "raw", tmp_path / "home", workers=1)
    corpora = [leaks.open(tmp_path / name) for name in ("home", "raw")]
    pairs = leaks.copies(corpora, within=False)
    assert pairs[["record_a", "record_b"]].values.tolist() == [[f"r{i}"] * 2 for i in range(5)]
    assert set(pairs.kind) == {"alike"} and pairs.similarity.min() > 0.999


def test_one_person_in_two_records_of_mitbih(real_data):
    corpus = leaks.open(real_data / "mitdb")
    assert leaks.patients(corpus).records.tolist() == ["201, 202"] and corpus.table.patient_id.nunique() == 47


def test_four_pairs_in_brugada_huca(real_data):
    pairs = leaks.copies([leaks.open(real_data / "brugada-huca")])
    equal = pairs[pairs.kind == "equal samples"]
    assert len(equal) == 4 and (equal.patient_a != equal.patient_b).all()
    assert len(pairs) == 5, "one more pair of numbers: the same heartbeats, other amplitudes"


def test_the_saturated_recordings_of_cinc2011(real_data):
    """Of the 50 unacceptable ones 17 have six saturated leads or more; of these 11 are equal in every sample."""
    paths = sorted((real_data / "cinc2011/set-a").glob("*.txt"))
    signals = [pd.read_csv(io.StringIO(path.read_text()), header=None).to_numpy().T[1:] for path in paths]
    pairs = leaks.copies([tracings([x.astype(np.float32) / 1000 for x in signals], "set-a", 500)])
    assert len(pairs) == 10 and set(pairs.kind) == {"equal samples"} and pairs.record_a.nunique() == 1


def test_what_the_two_samples_of_ptbxl_share(real_data):
    places = [real_data / "ptb-xl/records100", real_data / "ptb-xl-2k"]
    pairs = leaks.copies([leaks.open(place) for place in places], within=False)
    assert pairs.record_b.nunique() >= 488
