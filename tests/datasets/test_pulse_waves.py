"""BIDMC and simulated wearers: who is a patient, what a segment is told, what a wave shows of its beats."""

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.data import cohort, splits, wfdb_io
from ecglib.datasets import bidmc, wearers
from ecgsim import hospitals


def recording(root, name, patient="s1", age="70", sex="M", rows=None, channels=("II,", "PLETH,", "RESP,"), fs=125):
    """One recording of 40 s in the corpus's own form: sample k of PLETH is k / 1000."""
    (root / "bidmc_csv").mkdir(parents=True, exist_ok=True)
    counts = np.tile(np.arange(40 * 125), (len(channels), 1))
    counts[channels.index(channels[0])] = -counts[0]
    wfdb_io.write(root, f"bidmc{name}", counts, fs, list(channels), 1000)
    rows = [f"{s}, {60 + s}, {100 + s}, 15, 97" for s in range(41)] if rows is None else rows
    text = "\n".join(["Time [s], HR, PULSE, RESP, SpO2", *rows, ""])
    (root / f"bidmc_csv/bidmc_{name}_Numerics.csv").write_text(text)
    person = f"bidmc_{name}\nAge: {age}\nGender: {sex}\nLocation: micu\nMIMIC II matched wdb ID: {patient}\n"
    (root / f"bidmc_csv/bidmc_{name}_Fix.txt").write_text(person)


def test_segments_patients_and_numerics(tmp_path):
    recording(tmp_path, "01", "s9", "90+", "?")
    recording(tmp_path, "02", "s9", "NaN", "F")
    recording(tmp_path, "03", "s7")
    records = bidmc.records(tmp_path)
    assert list(records.record_id[:5]) == ["bidmc01-000", "bidmc01-001", "bidmc01-002", "bidmc01-003", "bidmc02-000"]
    assert dict(records.groupby("patient_id").size()) == {"s9": 8, "s7": 4}
    splits.check(records)
    first = records.groupby(records.record_id.str[:7]).first()
    assert list(first.age)[0::2] == [90, 70] and np.isnan(first.age.iloc[1]) and list(first.age_over_89) == [1, 0, 0]
    assert list(first.sex) == ["", "female", "male"]
    for k, row in enumerate(records.iloc[:4].itertuples()):  # seconds k * 10 + 1 .. k * 10 + 10
        assert row.pulse == np.median([100 + s for s in range(10 * k + 1, 10 * k + 11)])
        assert row.heart_rate == row.pulse - 40
    assert bidmc.labels(tmp_path, records).tachycardia.sum() == 0


def test_missing_numerics_are_unknown_and_time_may_begin_before_the_signals(tmp_path):
    rows = [f"{s}, {'' if 11 <= s <= 16 else 120}, {'NaN' if s < 5 else 90}, , 97" for s in range(-1, 40)]
    recording(tmp_path, "01", rows=rows)
    records = bidmc.records(tmp_path)
    assert len(records) == 3 and list(records.pulse) == [90, 90, 90] and records.respiration.isna().all()
    assert records.heart_rate.isna().tolist() == [False, True, False]
    assert bidmc.labels(tmp_path, records).tachycardia.tolist() == [1, -1, 1]


def test_a_segment_is_cut_where_it_says_whatever_the_order_of_channels(tmp_path):
    recording(tmp_path, "01")
    recording(tmp_path, "02", "s2", channels=("RESP", "V", "PLETH", "II"))
    for signal, name in (("pulse", "I"), ("ecg", "II")):
        records = bidmc.records(tmp_path, signal=signal, segment_s=5)
        assert bidmc.leads(signal=signal) == (name,)
        for row in records[records.segment_start_s == 15].itertuples():
            got = bidmc.read(row)
            assert got.leads == (name,) and got.fs == 125 and got.patient_id == row.patient_id
            sign = -1 if signal == "ecg" and row.record_id.startswith("bidmc01") else 1
            np.testing.assert_allclose(got.signal[0], sign * np.arange(1875, 2500) / 1000, atol=1e-6)


def test_bidmc_refuses_with_file_field_and_fix(tmp_path):
    with pytest.raises(EcgError, match="no numerics here"):
        bidmc.records(tmp_path)
    recording(tmp_path, "01")
    with pytest.raises(EcgError, match="segments of 0"):
        bidmc.records(tmp_path, segment_s=0)
    with pytest.raises(EcgError, match="did you mean 'pulse'"):
        bidmc.records(tmp_path, signal="puls")
    row = bidmc.records(tmp_path).iloc[0].to_dict()
    recording(tmp_path, "01", channels=("II,", "RESP,", "V,"))
    with pytest.raises(EcgError, match="no channel PLETH among II, RESP, V"):
        bidmc.read(row)
    recording(tmp_path, "01", fs=100)
    with pytest.raises(EcgError, match="100 Hz"):
        bidmc.read(row)
    recording(tmp_path, "01", age="old")
    with pytest.raises(EcgError, match="'old' is no age"):
        bidmc.records(tmp_path)
    recording(tmp_path, "01", patient="")
    with pytest.raises(EcgError, match="names no patient"):
        bidmc.records(tmp_path)
    (tmp_path / "bidmc_csv/bidmc_01_Fix.txt").unlink()
    with pytest.raises(EcgError, match="no fixed variables"):
        bidmc.records(tmp_path)


def test_thirty_recordings_are_twenty_four_persons(real_data):
    records = bidmc.records(real_data / "bidmc")
    per_patient = records.record_id.str[:7].groupby(records.patient_id).nunique()
    assert len(records) == 1439 and len(per_patient) == 24 and sorted(per_patient)[-3:] == [1, 4, 4]
    assert 60 < records.pulse.min() and records.pulse.max() < 130 and records.pulse.isna().sum() == 13
    packed = bidmc.read(records.iloc[700])
    assert packed.signal.shape == (1, 1250) and 0.1 < np.ptp(packed.signal) <= 1.0


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Hospital A, a few patients."""
    folder = tmp_path_factory.mktemp("wearers") / "data"
    hospitals.generate(folder, hospitals=("A",), workers=1, scale=0.03)
    return folder


def test_wearers_are_the_patients_of_the_hospital_whom_no_encoder_has_met(simulated, tmp_path):
    records, table = wearers.records(simulated), pd.read_csv(simulated / "A/records.csv")
    assert set(records.record_id) == set(table.record_id[table.split != "pretrain"])
    assert (records.split.to_numpy() == table.set_index("record_id").split[records.record_id].to_numpy()).all()
    states = wearers.labels(simulated, records)
    own = pd.read_csv(simulated / "A/labels.csv", index_col="record_id").loc[records.record_id, ["AFIB", "SR"]]
    np.testing.assert_array_equal(states, own)
    home = cohort.pack("wearers", wearers, simulated, tmp_path / "cohort", workers=1)
    assert home.leads == ("I",) and len(home) == len(records)
    with pytest.raises(EcgError, match="hospital"):
        wearers.records(simulated, hospital="D")


def test_a_wave_follows_its_beats_and_is_the_same_again(simulated):
    records, beats = wearers.records(simulated), pd.read_csv(simulated / "A/beats.csv")
    ecg = wearers.records(simulated, signal="ecg")
    late = []
    for row, lead in zip(records[:20].to_dict("records"), ecg[:20].to_dict("records"), strict=True):
        got, r = wearers.read(row), beats.r[beats.record_id == row["record_id"]].to_numpy() / 250
        np.testing.assert_array_equal(got.signal, wearers.read(row).signal)
        assert got.fs == 64 and got.signal.shape == (1, 640) and wearers.read(lead).fs == 250
        t = np.arange(640) / 64
        windows = [(t > b) & (t < b + 0.5) for b in r if b < 9.4]
        late += [t[window][got.signal[0][window].argmax()] - b for window, b in zip(windows, r, strict=False)]
    assert 0.28 < np.median(late) < 0.44  # 0.18 to 0.30 s to the wrist, 0.12 s to the top


def test_the_wave_is_the_sum_that_is_described():
    """Every sample by itself, with the chance left out."""

    class Still:
        def uniform(self, low, high, size=None):
            return np.full(size, low) if size else np.asarray(low, float) if np.ndim(low) else float(low)

        def standard_normal(self, n):
            return np.zeros(n)

        def random(self):
            return 1.0

    r = np.array([0.5, 1.4, 1.9, 3.1])
    got = wearers.pulse_wave(r, 256, Still())
    before = [0.9, 0.9, 0.5, 1.2]  # the first beat counts with the median interval
    for k in range(256):
        t, value = k / 64, 0.0
        breath = np.sin(2 * np.pi * 0.2 * t)
        for beat, rr in zip(r, before, strict=True):
            s = t - beat - 0.18
            shape = np.exp(-(((s - 0.12) / 0.07) ** 2)) + 0.45 * np.exp(-(((s - 0.36) / 0.11) ** 2))
            value += (1 - np.exp(-(rr - 0.25) / 0.25)) * shape
        assert got[k] == pytest.approx(0.3 * (1 + 0.1 * breath) * value + 0.15 * 0.3 * breath, abs=1e-6)
