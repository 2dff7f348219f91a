"""Windows of known quality: where they are cut, which noise they hold, and what the noise stress test is made of."""

import numpy as np
import pandas as pd
import pytest
import torch

from ecglib import EcgError
from ecglib.datasets import nstdb
from ecglib.rhythm import noise_corpora
from ecglib.rhythm.noise_corpora import Cut, Strip
from ecglib.training import noise
from ecgsim import hospitals


def strip(seed=0, seconds=10.0, fs=100.0, patient="p", rhythm="sinus", snr_db=np.inf) -> Strip:
    t = np.arange(round(seconds * fs)) / fs
    beats = np.arange(0.4, seconds - 0.2, 0.8)
    x = sum(np.exp(-(((t - beat) / 0.015) ** 2)) for beat in beats) + 0.2 * np.sin(2 * np.pi * 0.8 * t)
    return Strip(f"r{seed}", patient, 0.0, "II", x.astype(np.float32), beats, rhythm, snr_db)


def test_windows_lie_side_by_side_and_never_cross_the_end():
    assert noise_corpora.starts(61.0, Cut(seconds=20)).tolist() == [0, 20, 40]
    assert noise_corpora.starts(59.9, Cut(seconds=20)).tolist() == [0, 20]
    assert noise_corpora.starts(9.99, Cut(seconds=10)).tolist() == []
    assert noise_corpora.starts(1800, Cut(seconds=10, most=3)).tolist() == [0, 900, 1790]
    assert round(20 * 360) == 7200
    pieces = noise_corpora.pieces(np.arange(360 * 61), Cut(seconds=20, fs=360))
    assert [len(x) for _, x in pieces] == [7200] * 3 and [x[0] for _, x in pieces] == [0, 7200, 14400]


def test_the_asked_and_the_realised_ratio_of_signal_and_noise_agree():
    cut = Cut(seed=3)
    strips = [strip(i) for i in range(36)]
    both = noise_corpora.with_noise(strips, ["muscle", "electrode", "wander"], cut)
    assert len(both) == 72 and [s.snr_db for s in both[::2]] == [np.inf] * 36
    for clean, noisy in zip(both[::2], both[1::2], strict=True):
        added = noisy.x.astype(float) - clean.x
        realised = 10 * np.log10(clean.x.astype(float).var() / np.mean(added**2))
        assert realised == pytest.approx(noisy.snr_db, abs=0.05)
    levels = pd.Series([s.snr_db for s in both[1::2]]).value_counts()
    assert set(levels.index) == set(nstdb.SNR_DB) and levels.nunique() == 1
    again = noise_corpora.with_noise(strips, ["muscle", "electrode", "wander"], cut)
    assert all(np.array_equal(a.x, b.x) for a, b in zip(both, again, strict=True))
    with pytest.raises(EcgError, match="did you mean 'muscle'"):
        noise_corpora.with_noise(strips, ["muscel"], cut)


def test_three_definitions_of_noisy():
    """Noise at -20 dB hides the beats; at 24 dB it is heard and hides nothing."""
    torch.manual_seed(0)
    clean, loud = strip(0, patient="a"), strip(1, patient="b")
    track = noise.draw("electrode", (1, 1000), 100.0)
    loud = Strip(
        "r1", "b", 0.0, "II", noise.mix(torch.tensor(loud.x)[None], track, -20.0)[0].numpy(), loud.beats, "other", -20
    )
    table = noise_corpora.known([clean, loud], "made", Cut()).table
    assert table.by_snr.tolist() == [0, 1] and table.by_beats.tolist() == [0, 1] and set(table.by_reader) == {-1}
    assert table.corpus.tolist() == ["made"] * 2 and set(table.part) <= {"val", "test"}
    with pytest.raises(EcgError, match="no recording of none is 10 s long"):
        noise_corpora.known([], "none", Cut())


def test_patients_are_in_one_part_each():
    strips = [strip(i, patient=f"p{i % 20}", snr_db=-6.0 if i % 3 else np.inf) for i in range(60)]
    table = noise_corpora.known(strips, "made", Cut()).table
    assert table.groupby("patient_id").part.nunique().max() == 1
    assert table.groupby("part").patient_id.nunique().to_dict() == {"test": 12, "val": 8}


def test_windows_of_the_stress_test_are_clean_or_noisy_as_a_whole(real_data):
    strips = noise_corpora.stress_strips(real_data / "mitdb", real_data / "nstdb", Cut(most=45))
    spans = nstdb.noisy_spans(1805.6)
    assert {s.patient_id for s in strips} == {"118", "119"} and {s.snr_db for s in strips} == {*nstdb.SNR_DB, np.inf}
    for one in strips:
        inside = any(first <= one.start_s and one.start_s + 10 <= last for first, last in spans)
        assert inside == (one.snr_db < np.inf) and one.start_s + 10 <= 0.6 * 1805.6
        assert len(one.x) == 1000 and 0 < len(one.beats) < 25
    clean = [(s.patient_id, s.start_s) for s in strips if s.snr_db == np.inf]
    assert len(set(clean)) == len(clean), "each clean window once"


def test_rhythms_of_mitbih_are_those_of_its_readers(real_data):
    strips = noise_corpora.mitdb_strips(real_data / "mitdb", Cut(most=12))
    said = pd.Series([s.rhythm for s in strips], index=[s.record_id for s in strips])
    assert not set(said.index) & {"118", "119"} and "102" not in said.index  # 102 and 104 have no lead II
    assert set(said["202"]) >= {"atrial fibrillation"} and set(said["100"]) == {"sinus"}
    assert (said == "bigeminy").groupby(level=0).any().sum() >= 3 and set(said["208"]) & {"frequent PVC", "other"}


def test_readers_grades_are_those_of_the_recordings(real_data):
    windows = noise_corpora.graded("cinc2011", real_data / "cinc2011", "unacceptable", Cut())
    items = windows.table.drop_duplicates("item")
    assert windows.x.shape == (1200, 1000) and items.by_reader.value_counts().to_dict() == {0: 50, 1: 50}
    assert (windows.table.groupby("item").lead.nunique() == 12).all()
    with pytest.raises(EcgError, match="unacceptable"):
        noise_corpora.graded("cinc2011", real_data / "cinc2011", "noisy", Cut())


def test_a_simulated_hospital_tells_its_noise_and_its_beats(tmp_path):
    hospitals.generate(tmp_path, hospitals=("C",), workers=1, scale=0.05)
    strips = noise_corpora.hospital_strips(tmp_path, "C", Cut(most=3), "I")
    truth = pd.read_csv(tmp_path / "C/truth.csv").set_index("record_id")
    assert len(strips) == 3 * len(truth) and {s.record_id for s in strips} == set(truth.index)
    for one in strips:
        assert one.snr_db == truth.snr_db[one.record_id] and len(one.x) == 1000
    rates = pd.Series([6 * len(s.beats) for s in strips], [s.record_id for s in strips]).groupby(level=0).mean()
    assert (abs(rates - truth.hr[rates.index]) < 12).mean() > 0.9
