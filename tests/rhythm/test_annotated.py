"""Annotated recordings: classes of beats, the counts that are published, noise that is added as it was."""

import numpy as np
import pandas as pd
import pytest
from plain_beats import one_recording

from ecglib import EcgError
from ecglib.rhythm import annotated

GOLDEN = {  # beats by class, counted from the reference annotations
    "DS1": (45866, 944, 3788, 415, 8),
    "DS2": (44259, 1837, 3221, 388, 7),
    "paced": (506, 0, 227, 0, 8028),
}


@pytest.fixture(scope="module")
def mit_bih(real_data):
    return list(annotated.recordings("mitdb", real_data / "mitdb"))


def test_each_symbol_has_one_class_and_marks_that_are_no_beat_have_none():
    mit_bih = {"N": "NLRej", "S": "AaJS", "V": "VE", "F": "F", "Q": "/fQ"}
    assert {s: c for c, symbols in mit_bih.items() for s in symbols}.items() <= annotated.AAMI.items()
    assert not set('+~|x![]"') & set(annotated.AAMI)
    assert one_recording(symbol="LaE").classes.tolist() == ["N", "S", "V"]


def test_counts_of_mit_bih_are_those_of_its_annotations(mit_bih):
    rows = [(one.half, one.classes) for one in mit_bih]
    assert len(rows) == 48
    for half, expected in GOLDEN.items():
        classes = np.concatenate([classes for of_half, classes in rows if of_half == half])
        assert tuple(int((classes == name).sum()) for name in annotated.CLASSES) == expected


def test_flutter_is_unscored_and_the_first_lead_is_named(mit_bih):
    of_name = {one.record_id: one for one in mit_bih}
    assert len(of_name["207"].unscored) == 6 and of_name["100"].unscored == ()
    assert of_name["114"].leads == ("V5", "II") and of_name["102"].leads == ("V5", "V2")
    assert len(of_name["100"].r) == 2273 and len(of_name["208"].r) == 2955


def test_other_corpora_are_read_with_their_patients(real_data):
    cpsc = list(annotated.recordings("cpsc2021", real_data / "cpsc2021"))
    assert len(cpsc) == 18 and len({one.patient_id for one in cpsc}) == 6 and cpsc[0].patient_id == "101"
    qtdb = list(annotated.recordings("qtdb", real_data / "qtdb", limit=2))
    assert [one.fs for one in qtdb] == [250, 250] and len(qtdb[0].r) > 900
    with pytest.raises(EcgError, match="unknown corpus"):
        next(annotated.recordings("mitbih", real_data))
    with pytest.raises(EcgError, match="no annotated recording"):
        next(annotated.recordings("qtdb", real_data / "ludb"))


def test_simulated_recordings_bring_their_true_beats_and_ectopy_first(tmp_path):
    from ecgsim import generate

    generate(tmp_path, hospitals=["A"], scale=0.02, seed=3)
    whole = list(annotated.recordings("simulated", tmp_path))
    few = list(annotated.recordings("simulated", tmp_path, limit=10))
    truth = pd.read_csv(tmp_path / "A/beats.csv")
    assert sum(len(one.r) for one in whole) == len(truth) and whole[0].leads == ("II", "V1")
    rare = {one.record_id for one in whole if set(one.classes) - {"N"}}
    assert len(few) == 10 and sum(one.record_id in rare for one in few) == min(5, len(rare))
    with pytest.raises(EcgError, match="records none of"):
        next(annotated.recordings("simulated", tmp_path, leads=("V9",)))


def test_noise_is_added_to_every_lead_at_the_ratio_asked_for():
    fs, n_times = 100.0, 100 * 900
    r = np.arange(50, n_times, 100)
    signal = np.zeros((2, n_times), np.float32)
    signal[0, r], signal[1, r] = 1.0, 3.0
    clean = one_recording(n_times, fs, r, "N" * len(r), signal=signal, record_id="118")
    noise = np.tile(np.float32([3, -3]), n_times // 2)[None].repeat(2, axis=0)
    noisy = annotated.stressed(clean, noise, 6)
    for lead, height in enumerate((1.0, 3.0)):
        power = (noisy.signal[lead] - signal[lead])[30000:42000].var()
        assert 10 * np.log10((height**2 / 8) / power) == pytest.approx(6, abs=0.001)
    assert noisy.record_id == "118e06" and annotated.stressed(clean, noise, -6).record_id == "118e_6"
    assert noisy.unscored == ((0, 30000), (42000, 54000), (66000, 78000))
    with pytest.raises(EcgError, match="noise"):
        annotated.stressed(clean, noise[:, :100], 6)
