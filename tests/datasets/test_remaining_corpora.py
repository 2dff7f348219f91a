"""CODE-test, CPSC 2021, EchoNext, HEEDB, SHDB-AF, Icentia11k, MIMIC PERform: their traps, on tiny files."""

import numpy as np
import pandas as pd
import pytest
import wfdb
from datasets.test_datasets import _code_test, _echonext, _heedb, _icentia11k, _mimic_perform, _shdb_af, _write

from ecglib import EcgError, datasets
from ecglib.data import cohort, wfdb_io
from ecglib.data.recording import LEADS

code_test, echonext, shdb_af = (datasets.get(name) for name in ("code_test", "echonext", "shdb_af"))
cpsc2021 = datasets.get("cpsc2021")
icentia11k, mimic_perform = datasets.get("icentia11k"), datasets.get("mimic_perform")


def tracings(n=3, seed=0):
    """(exam, 12, time) mV in the order of LEADS: Einthoven and Goldberger written out, zeros around 7 s of noise."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 12, 4096), np.float32)
    one, two = rng.normal(size=(2, n, 2800))
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    x[:, :6, 648:3448] = np.stack(limb, axis=1)
    x[:, 6:, 648:3448] = rng.normal(size=(n, 6, 2800))
    return x


def write_tracings(root, x, order):
    import h5py

    with h5py.File(root / "data/ecg_tracings.hdf5", "w") as file:
        file["tracings"] = x[:, [LEADS.index(name) for name in order]].transpose(0, 2, 1)


@pytest.mark.parametrize("middle", [("aVR", "aVL", "aVF"), ("aVL", "aVF", "aVR")])
def test_the_order_of_the_leads_of_code_test_is_what_goldberger_says(tmp_path, middle):
    _code_test(tmp_path)
    x = tracings()
    write_tracings(tmp_path, x, ("I", "II", "III", *middle, *LEADS[6:]))
    records = code_test.records(tmp_path)
    recording = code_test.read(records.iloc[1])
    assert recording.leads[3:6] == middle and recording.signal.shape == (12, 2800)
    np.testing.assert_array_equal(recording.select(LEADS).signal, x[1, :, 648:3448])


def test_code_test_refuses_what_is_documented_nowhere(tmp_path):
    _code_test(tmp_path)
    write_tracings(tmp_path, tracings(), ("I", "II", "III", "aVF", "aVR", "aVL", *LEADS[6:]))
    with pytest.raises(EcgError, match="in neither documented order") as caught:
        code_test.records(tmp_path)
    assert caught.value.field == "leads"
    write_tracings(tmp_path, tracings(4), LEADS)
    with pytest.raises(EcgError, match="3 lines for 4 tracings"):
        code_test.records(tmp_path)
    write_tracings(tmp_path, tracings(), LEADS)
    records = code_test.records(tmp_path)
    path = tmp_path / "data/annotations/gold_standard.csv"
    path.write_text(path.read_text().replace("1,0,0,0,0,0", "1,0,0,2,0,0"))
    with pytest.raises(EcgError, match="row 3: '2' is no call"):
        code_test.labels(tmp_path, records)
    with pytest.raises(EcgError, match="annotator"):
        code_test.records(tmp_path, annotator="dnn")
    (tmp_path / "zip").mkdir()
    (tmp_path / "zip/data.zip").write_bytes(b"")
    with pytest.raises(EcgError) as caught:
        code_test.records(tmp_path / "zip")
    assert caught.value.fix == "unpack data.zip there"


def test_annotators_of_code_test_are_a_choice_of_labels(tmp_path):
    _code_test(tmp_path)
    records = code_test.records(tmp_path)
    assert records.sex.tolist() == ["male", "female", "female"] and records.age.tolist() == [46, 54, 68]
    gold = code_test.labels(tmp_path, records, label_set="classes")
    assert gold.to_numpy().tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]] and list(gold) == ["1dAVb", "RBBB", "AF"]
    other = code_test.labels(tmp_path, records, annotator="cardiologist2")
    assert list(other) == ["atrial_fibrillation"] and other.iloc[:, 0].tolist() == [1, 0, 0]


def test_echonext_knows_what_was_never_measured_and_who_is_held_out(tmp_path):
    _echonext(tmp_path, ("e1", "e2", "e3", "e4"), ("val", "no_split", "train", "val"))
    path = tmp_path / echonext.TABLE
    table = pd.read_csv(path)
    table.loc[1, "patient_key"] = "p0"  # an earlier ECG of a patient of val
    table.loc[0, "pasp_value"], table.loc[3, "ivs_measurement"], table.loc[2, "lvef_value"] = np.nan, np.nan, np.nan
    table.loc[2, "lvef_lte_45_flag"] = 1
    table.to_csv(path, index=False)
    waves = np.load(tmp_path / "EchoNext_val_waveforms.npy")
    waves[1, 0, :, 0] = 2.5
    np.save(tmp_path / "EchoNext_val_waveforms.npy", waves)
    records = echonext.records(tmp_path)
    assert records.split.tolist() == ["val", "", "train", "val"] and records.array_row.tolist() == [0, 0, 0, 1]
    assert (echonext.read(records.iloc[3]).signal[0] == 2.5).all(), "the second of val is the second row of its array"
    states = echonext.labels(tmp_path, records)
    assert states["pasp_gte_45_flag"].tolist() == [-1, 0, 0, 0] and states["lvwt_gte_13_flag"].tolist() == [0, 0, 0, -1]
    assert states["lvef_lte_45_flag"].tolist() == [1, 1, 1, 1] and (states[echonext.ANY] == 1).all()
    np.save(tmp_path / "EchoNext_val_waveforms.npy", waves[:1])
    with pytest.raises(EcgError, match="1 tracings, 2 lines of its split") as caught:
        echonext.records(tmp_path)
    assert caught.value.field == "waveforms"
    np.save(tmp_path / "EchoNext_val_waveforms.npy", waves[..., :8])
    with pytest.raises(EcgError, match="not \\(record, 1, 2500, 12\\)"):
        echonext.records(tmp_path)
    np.save(tmp_path / "EchoNext_val_waveforms.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(EcgError, match="no array of tracings"):
        echonext.records(tmp_path)


def _day(root, name, marks, seconds=100):
    """A recording of two channels at 200 Hz, the samples of ECG1 counting themselves, with marks [(second, note)]."""
    n = 200 * seconds
    counts = np.stack([np.arange(n) % 3000, 100 + np.arange(n) % 2000])
    wfdb_io.write(root, name, counts, 200, ["ECG1", "ECG2"], 1000, fmt="16")
    notes = {"sample": np.array([200 * at for at, _ in marks]), "symbol": ['"'] * len(marks)}
    wfdb.wrann(name, "atr", **notes, aux_note=[f"({label}\0" for _, label in marks], write_dir=str(root))


def test_rhythms_of_shdb_af_by_hand(tmp_path, monkeypatch):
    """Marks at 0 (N), 12 (AFIB), 35 (AFL), 50 (NOD), 65 s (N): segments of 10 s, one after the other."""
    _shdb_af(tmp_path)
    _day(tmp_path, "001", [(1, "N"), (12, "AFIB"), (35, "AFL"), (50, "NOD"), (65, "N")])
    records = shdb_af.records(tmp_path, segment_s=10, every_s=10)
    day = records[records.recording == "001"].set_index("segment_start_s")
    assert day.rhythm.to_dict() == {0: "N", 10: "AFIB", 20: "AFIB", 30: "mixed", 40: "AFL"} | {
        50: "NOD", 60: "mixed", 70: "N", 80: "N", 90: "N",
    }  # fmt: skip
    np.testing.assert_allclose(day.af_share, [0, 0.8, 1, 1, 1, 0, 0, 0, 0, 0], atol=1e-12)
    states = shdb_af.labels(tmp_path, records).loc[day.record_id]
    assert states.atrial_fibrillation.tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert states.atrial_flutter.sum() == 1 and states.supraventricular_tachycardia.tolist()[5] == 1
    assert (records.record_id[:3] == ["001-00000", "001-00010", "001-00020"]).all()
    asked, whole = [], np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda f, kind, n, **at: asked.append(n) or whole(f, kind, n, **at))
    read = shdb_af.read(records.iloc[1])
    assert asked == [2 * 2 * 2000], "no more than the segment is read: bytes of two channels"
    assert read.leads == ("V5",) and read.fs == 200
    np.testing.assert_allclose(read.signal[0], (np.arange(2000, 4000) % 3000) / 1000, atol=1e-6)


def test_shdb_af_without_marks_is_unknown_and_a_recording_counts_once(tmp_path):
    _shdb_af(tmp_path)
    table = (tmp_path / "AdditionalData.csv").read_text()
    _write(tmp_path, "020", ("ECG2", "ECG1"), 200, pulse="ECG1")
    (tmp_path / "AdditionalData.csv").write_text(f"{table}20,9,No,50,male,PAF\n")
    records = shdb_af.records(tmp_path, segment_s=1, every_s=5)
    assert records.recording.tolist() == ["001", "002", "003"] and records.patient_id.tolist() == ["1", "1", "2"]
    assert records.rhythm.tolist() == ["AFIB", "unknown", "AFIB"] and np.isnan(records.af_share[1])
    assert (shdb_af.labels(tmp_path, records).iloc[1] == -1).all()
    both = shdb_af.records(tmp_path, segment_s=1, every_s=5, ecg2="V1")
    assert shdb_af.read(both.iloc[0]).leads == ("V5", "V1") == shdb_af.leads(ecg2="V1")
    for options, told in (({"ecg2": "V5"}, "stand for V5, V5"), ({"ecg1": "NASA"}, "NASA"), ({"segment_s": 0}, "0 s")):
        with pytest.raises(EcgError, match=told):
            shdb_af.records(tmp_path, **options)
    wfdb.wrann("003", "atr", np.array([3]), ['"'], aux_note=["(VT\0"], write_dir=str(tmp_path))
    with pytest.raises(EcgError, match="VT") as caught:
        shdb_af.records(tmp_path, segment_s=1, every_s=5)
    assert str(caught.value.file).endswith("003.atr")


def test_a_cohort_of_days_is_packed_from_segments(tmp_path, capsys):
    _shdb_af(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("001", "002", "003"):
        counts = np.rint(300 * rng.normal(size=(2, 200 * 45))).astype(int)
        wfdb_io.write(tmp_path, name, counts, 200, ["ECG1", "ECG2"], 1000, fmt="16")
    options = {"segment_s": 20.0, "every_s": 20.0}
    packed = cohort.pack("days", shdb_af, tmp_path, tmp_path / "out", options=options, seconds=20, workers=1,
                         labels=["atrial_fibrillation"])  # fmt: skip
    assert len(packed) == 6 and packed.leads == ("V5",) and packed.info["counts"]["patients"] == 2
    assert packed.states(["atrial_fibrillation"], range(6))[:, 0].tolist() == [1, 1, -1, -1, 1, 1]
    assert "020 is the recording 005" in capsys.readouterr().out


def test_rhythms_of_icentia11k_end_and_beats_are_counted(tmp_path):
    """AFIB from 5 to 30 s; N from 40 to 80 s, where AFL begins, which is known to last until the last mark, at 95 s."""
    _icentia11k(tmp_path)
    folder = tmp_path / "p00/p00007"
    wfdb_io.write(folder, "p00007_s00", np.arange(25000)[None] % 3000, 250, ["ecg"], 1000)
    marks = [(5, "+", "(AFIB"), (12, "a", ""), (30, "+", ")"), (33, "S", ""), (40, "+", "(N"), (45, "V", "")]
    marks += [(46, "V", ""), (47, "N", ""), (80, "+", "(AFL"), (95, "Q", "")]
    at, symbols, notes = zip(*marks, strict=True)
    wfdb.wrann("p00007_s00", "atr", np.array(at) * 250, list(symbols), aux_note=list(notes), write_dir=str(folder))
    records = icentia11k.records(tmp_path, segment_s=10, every_s=10)
    hour = records[records.recording == "p00007_s00"].reset_index(drop=True)
    rhythms = ["unknown", "AFIB", "AFIB", "unknown", *["N"] * 4, "AFL", "unknown"]
    assert hour.rhythm.tolist() == rhythms and hour.patient_id.unique().tolist() == ["p00007"]
    assert hour.n_beats.tolist() == [0, 1, 0, 1, 3, 0, 0, 0, 0, 1] and hour.n_pvc.tolist()[4] == 2
    states = icentia11k.labels(tmp_path, records).loc[hour.record_id]
    assert states.atrial_fibrillation.tolist() == [-1, 1, 1, -1, 0, 0, 0, 0, 0, -1]
    assert states.pac.tolist() == [0, 1, 0, 1, 0, 0, 0, 0, 0, 0] and states.pvc.sum() == 1
    read = icentia11k.read(hour.iloc[3])
    np.testing.assert_allclose(read.signal, (np.arange(7500, 10000)[None] % 3000) / 1000, atol=1e-6)
    assert read.leads == ("I",) and read.fs == 250
    wfdb_io.write(folder, "p00007_s00", np.zeros((2, 100), int), 250, ["ecg", "other"], 1000)
    with pytest.raises(EcgError, match="2 channels, ecg, other, not one"):
        icentia11k.records(tmp_path)
    _icentia11k(tmp_path)
    wfdb.wrann("p00000_s00", "atr", np.array([3]), ["+"], aux_note=["(VT"], write_dir=str(tmp_path / "p00/p00000"))
    with pytest.raises(EcgError, match="VT"):
        icentia11k.records(tmp_path, segment_s=0.5)


def test_rhythms_of_cpsc2021_by_hand(tmp_path):
    """Marks at 12 (AFIB), 35 (N), 50 s (AFL); a piece without marks is N; segments of 10 s, one after the other."""
    _write_piece(tmp_path, "data_4_2", [(12, "+", "(AFIB"), (35, "+", "(N"), (41, "A", ""), (50, "+", "(AFL")])
    _write_piece(tmp_path, "data_40_1", [(1, "N", "None"), (65, "V", "")])
    records = cpsc2021.records(tmp_path, segment_s=10, every_s=10)
    assert records.groupby("recording").patient_id.first().to_dict() == {"data_4_2": "4", "data_40_1": "40"}
    piece = records[records.recording == "data_4_2"]
    assert piece.rhythm.tolist() == ["N", "AFIB", "AFIB", "mixed", "N", "AFL", "AFL"]
    np.testing.assert_allclose(piece.af_share, [0, 0.8, 1, 0.5, 0, 1, 1], atol=1e-12)
    assert set(piece.af_type) == {"paroxysmal atrial fibrillation"} and piece.n_pac.tolist() == [0, 0, 0, 0, 1, 0, 0]
    states = cpsc2021.labels(tmp_path, records).loc[records.record_id[records.recording == "data_40_1"]]
    assert states.pvc.tolist() == [0] * 6 + [1] and not states.drop(columns="pvc").to_numpy().any()
    read = cpsc2021.read(piece.iloc[1])
    assert read.leads == ("I", "II") and read.fs == 200 and read.signal.shape == (2, 2000)
    np.testing.assert_allclose(read.signal[0], (np.arange(2000, 4000) % 3000) / 1000, atol=1e-6)
    for options in ({"segment_s": 0}, {"segment_s": 20, "every_s": 10}):
        with pytest.raises(EcgError, match="segments of"):
            cpsc2021.records(tmp_path, **options)
    _write_piece(tmp_path, "data_5_1", [(1, "+", "(SVTA")])
    with pytest.raises(EcgError, match="unknown rhythm 'SVTA'"):
        cpsc2021.records(tmp_path)


def _write_piece(root, name, marks, seconds=70):
    """A piece of two channels at 200 Hz, lead I the second of them, counting its samples."""
    n = 200 * seconds
    counts = np.stack([100 + np.arange(n) % 2000, np.arange(n) % 3000])
    wfdb_io.write(root, name, counts, 200, ["II", "I"], 1000, fmt="16", comments=("paroxysmal atrial fibrillation",))
    at, symbols, notes = zip(*marks, strict=True)
    wfdb.wrann(name, "atr", np.array([200 * s for s in at]), list(symbols), aux_note=list(notes), write_dir=str(root))


def test_the_real_pieces_of_cpsc2021(real_data):
    """Every one of the 18 is read; the share of fibrillation over all of it is that of its marks, summed by hand."""
    root = real_data / "cpsc2021"
    records = cpsc2021.records(root, segment_s=1, every_s=1)
    assert records.recording.nunique() == 18 and records.patient_id.nunique() == 6
    share = records.groupby("recording").af_share.mean()
    assert (share[["data_21_7", "data_35_4"]] == 0).all() and (share[["data_84_1", "data_8_4"]] > 0.999).all()
    marked = (5639 - 3132 + 9100 - 8468 + 16050 - 11121 + 22355 - 21303) / 22355
    assert abs(share["data_101_6"] - marked) < 0.01
    assert cpsc2021.read(records.iloc[-1]).signal.shape == (2, 200)


def test_mimic_perform_splits_people_and_asks_which_lead_the_ecg_is(tmp_path):
    _mimic_perform(tmp_path)
    records = mimic_perform.records(tmp_path, segment_s=0.8)
    assert records.patient_id.tolist() == ["af_001"] * 2 + ["non_af_001"] * 2 + ["non_af_002"] * 2
    assert "32 of 35 recordings" in records.attrs["notes"][1]
    assert mimic_perform.labels(tmp_path, records).atrial_fibrillation.tolist() == [1, 1, 0, 0, 0, 0]
    second = mimic_perform.read(records.iloc[1])
    np.testing.assert_allclose(second.signal[0], (np.arange(100, 200) % 7) / 1000, atol=1e-7)
    (tmp_path / "mimic_perform_af_csv/mimic_perform_af_001_data.csv").unlink()
    fewer = mimic_perform.records(tmp_path, segment_s=0.8)
    split = records.set_index("record_id").split
    assert fewer.set_index("record_id").split.to_dict() == split[fewer.record_id].to_dict(), "of people, not of files"
    with pytest.raises(EcgError, match="do not say which lead"):
        mimic_perform.records(tmp_path, signal="ecg")
    ecg = mimic_perform.records(tmp_path, signal="ecg", lead="II", segment_s=1.6)
    assert mimic_perform.read(ecg.iloc[0]).leads == ("II",) == mimic_perform.leads(signal="ecg", lead="II")
    assert mimic_perform.read(ecg.iloc[0]).signal.min() == -1
    path = tmp_path / "mimic_perform_non_af_csv/mimic_perform_non_af_001_data.csv"
    table = pd.read_csv(path)
    table.assign(Time=table.Time * 2).to_csv(path, index=False)
    with pytest.raises(EcgError, match="not 0.008 s apart") as caught:
        mimic_perform.records(tmp_path)
    assert caught.value.field == "Time"
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/mimic_perform_af_csv.zip").write_bytes(b"")
    with pytest.raises(EcgError, match="the tables are packed"):
        mimic_perform.records(tmp_path / "packed")


def test_statements_of_heedb_are_its_labels_by_hospital_and_year(tmp_path):
    _heedb(tmp_path)
    heedb = datasets.get("heedb")
    records = heedb.records(tmp_path)
    assert records.record_id.tolist()[1] == "S0001_2011_de_1" and records.year.tolist() == [2010, 2011, 2012]
    assert records.report.tolist() == ["Normal sinus rhythm\nAtrial fibrillation", "Sinus bradycardia", ""]
    assert records.sex.tolist() == ["male", "female", ""] and records.patient_id.tolist() == ["100", "100", "101"]
    assert records.age.tolist() == pytest.approx([50.0, 50.0, 50.0], abs=0.01)
    states = heedb.labels(tmp_path, records)
    assert states.sinus_bradycardia.tolist()[1] == 1 and states.atrial_fibrillation.tolist()[0] == 1
    assert (states.iloc[2] == -1).all(), "no statement says nothing"
    assert (heedb.records(tmp_path, stated_by="software").report == "Normal sinus rhythm").all()
    for wrong in (2019, "2019", [12], ["all"], [2019.5]):
        with pytest.raises(EcgError, match="years"):
            heedb.records(tmp_path, years=wrong)
    some = heedb.records(tmp_path, years=[2011])
    assert some.record_id.tolist() == ["S0001_2011_de_1"]
    with pytest.raises(EcgError, match="no ECG of"):
        heedb.records(tmp_path, years=[1950])
    emory = tmp_path / "I0006"
    (emory / "metadata").mkdir(parents=True)
    (emory / "12SL_diagnoses").mkdir()
    lines = ["FileName,BDSPPatientID,Sex,AgeAtAcquisition", "WFDB/2013/MUSE_1,7.0,Female,1", "WFDB/2013/MUSE_2,,F,1"]
    (emory / "metadata/metadata.csv").write_text("\n".join(lines) + "\n")
    said = (tmp_path / "I0001/12SL_diagnoses/diagnoses_dictionary.csv").read_text()
    (emory / "12SL_diagnoses/diagnoses_dictionary.csv").write_text(said)
    (emory / "12SL_diagnoses/diagnoses_v24.csv").write_text('FileName,codes\n"./WFDB/2013/MUSE_1.hea\n","21,19"\n')
    for name in ("MUSE_1", "MUSE_2"):
        _write(emory / "WFDB/2013", name, LEADS, 500)
    other = heedb.records(tmp_path, site="I0006", stated_by="v24")
    assert other.patient_id.tolist() == ["7"] and other.report.tolist() == ["Sinus bradycardia\nNormal sinus rhythm"]
    assert "1 ECGs name no patient" in other.attrs["notes"][1] and heedb.read(other.iloc[0]).fs == 500
    (emory / "12SL_diagnoses/diagnoses_v24.csv").write_text("FileName,codes\nWFDB/2013/MUSE_1,999\n")
    with pytest.raises(EcgError, match="1 codes that the dictionary does not have, such as 999"):
        heedb.records(tmp_path, site="I0006", stated_by="v24")
