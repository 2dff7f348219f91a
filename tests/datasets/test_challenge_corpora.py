"""What traps a reader in the Challenges 2020 and 2021, CPSC 2018, Chapman-Shaoxing, CODE-15 and MIMIC-IV-ECG."""

import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.io
from datasets.test_datasets import CODE, EXAMS, _chapman, _cinc2021, _code15, _cpsc2018, _mimic_iv_ecg, _write, workbook

from ecglib import EcgError, datasets
from ecglib.data import labels, wfdb_io
from ecglib.data.recording import LEADS
from ecglib.evaluation import tasks

cinc2021, cpsc2018, chapman, code15 = (datasets.get(name) for name in ("cinc2021", "cpsc2018", "chapman", "code15"))


def test_people_and_codes_of_the_challenge(tmp_path):
    options = _cinc2021(tmp_path)
    records = cinc2021.records(tmp_path, **options)
    assert records.age.fillna(-1).tolist() == [61, -1, 90] and records.sex.tolist() == ["female", "male", ""]
    assert records.codes.tolist() == ["426783006|59118001", "164889003", ""]
    assert any("1 records name no diagnosis" in note for note in records.attrs["notes"])
    states = cinc2021.labels(tmp_path, records, **options)
    assert states.rbbb.tolist() == [1, 0, -1] and states.atrial_fibrillation.tolist() == [0, 1, -1]
    assert "sinus_rhythm" not in states, "the code means another thing in every corpus"
    challenge = cinc2021.labels(tmp_path, records, **options | {"label_set": "challenge"})
    assert list(challenge) == ["AF", "NSR", "RBBB"] and challenge.NSR.tolist() == [1, 0, -1]


def test_the_corpus_must_be_said_and_be_there(tmp_path):
    _cinc2021(tmp_path)
    with pytest.raises(EcgError, match=r"one at a time.*ptb-xl \(1\), georgia \(3\)"):
        cinc2021.records(tmp_path)
    with pytest.raises(EcgError, match="no record of ningbo is here"):
        cinc2021.records(tmp_path, corpus="ningbo")
    with pytest.raises(EcgError, match="unknown corpus of the Challenge"):
        cinc2021.records(tmp_path, corpus="Georgia")
    assert {name: cinc2021._corpus_of(name) for name in ("JS10646", "JS10647", "S0001", "HR1", "X1", "notes")} == {
        "JS10646": "chapman", "JS10647": "ningbo", "S0001": "ptb", "HR1": "ptb-xl", "X1": "", "notes": "",
    }  # fmt: skip
    assert sum(n for n, _ in cinc2021.PARTS.values()) == cinc2021.N_RECORDS and set(cinc2021.PARTS) == set(
        cinc2021.SOURCES
    )


@pytest.mark.parametrize("corpus", list(cinc2021.SOURCES))
def test_common_labels_follow_plain_set_logic_in_every_corpus(corpus):
    """The expressions of the vocabulary, read again here with sets of codes, records drawn at random."""
    rng = np.random.default_rng(len(corpus))
    table = labels.vocabulary("harmonised")
    used = sorted({t for cell in table.cinc for t in cell.split("|") if t} | {"195080001", "164867002", "6374002"})
    drawn = [list(rng.choice(used, rng.integers(0, 4), replace=False)) for _ in range(200)]
    records = pd.DataFrame({"record_id": [f"r{i}" for i in range(200)], "codes": ["|".join(d) for d in drawn]})
    stated = [row for row in table.itertuples() if corpus in row.cinc_partitions.split("|")]
    if not stated:
        with pytest.raises(EcgError, match="label_set=challenge"):
            cinc2021.labels("root", records, corpus=corpus)
        return
    states = cinc2021.labels("root", records, corpus=corpus)
    assert set(states) <= {row.key for row in stated} and len(states.columns) > 5
    rhythms = {t for row in table.itertuples() if row.category == "rhythm" for t in row.cinc.split("|")}
    for row in (row for row in stated if row.key in states):
        for said, state in zip(drawn, states[row.key], strict=True):
            codes = set(said) - ({"63593006"} if corpus == "ptb-xl" else set())
            left = set(row.leave_out_cinc.split("|")) - {""}
            out = bool(left & codes) or any(f"{corpus}:{code}" in left for code in said)
            silent = not codes & rhythms
            out |= silent and bool(left & {"no_rhythm_code", f"{corpus}:no_rhythm_code"})
            expected = 1 if set(row.cinc.split("|")) & codes else -1 if out or not said else 0
            assert state == expected, (corpus, row.key, said)


def test_gains_that_headers_of_2020_misstate(tmp_path):
    _write(tmp_path, "E00009", fmt="mat", fs=500, comments=["Dx: 426783006"])
    header = tmp_path / "E00009.hea"
    right = cinc2021.read({"path": str(tmp_path / "E00009"), "record_id": "E00009", "patient_id": "p"})
    text = header.read_text().replace("E00009 ", "E00009.mat ", 1).replace("1000(0)/mV", "4880/mV")
    assert "4880/mV" in text
    header.write_text(text)
    records = cinc2021.records(tmp_path, corpus="georgia")
    assert any("1 headers misstate the gain" in note for note in records.attrs["notes"])
    again = cinc2021.read(records.iloc[0])
    assert again.leads == right.leads and again.fs == 500
    np.testing.assert_array_equal(again.signal, right.signal)
    header.write_text(text.replace(" 200\n", " 201\n", 1).replace(" 200 ", " 201 ", 1))
    with pytest.raises(EcgError, match="samples, the header says"):
        cinc2021.read(records.iloc[0])


def test_real_headers_of_2020_are_microvolt(real_data):
    """PTB-XL's own file of the same recording, and the step of the device of Georgia, say so."""
    records = cinc2021.records(real_data / "cinc2020-quirks", corpus="ptb-xl")
    ours = cinc2021.read(records[records.record_id == "HR00599"].iloc[0])
    own = wfdb_io.read(real_data / "ptb-xl-2k/records100/00000/00599_lr").select(ours.leads)
    ratio = ours.signal.std(axis=1) / own.signal.std(axis=1)
    assert (np.abs(ratio - 1) < 0.03).all()
    georgia = cinc2021.records(real_data / "cinc2020-quirks", corpus="georgia")
    assert len(georgia) == 4 and any("4 headers misstate" in note for note in georgia.attrs["notes"])
    for row in georgia.to_dict("records"):
        counts = np.rint(cinc2021.read(row).signal * 1000)
        steps = np.rint(counts / 4.88)
        near = np.min([np.abs(np.trunc((steps + k) * 4.88) - counts) for k in (-1, 0, 1)], axis=0)
        assert (near == 0).mean() > 0.85, "counts are cut off multiples of 4.88 microvolt"


def test_real_records_of_the_challenge(real_data):
    found = {name: cinc2021.records(real_data / "cinc2021", corpus=name) for name in ("georgia", "ningbo", "ptb-xl")}
    assert {name: len(records) for name, records in found.items()} == {"georgia": 20, "ningbo": 20, "ptb-xl": 10}
    for copy, first in cinc2021.SAME_TRACING.items():
        a, b = (cinc2021.read(found["georgia"].set_index("record_id", drop=False).loc[name]) for name in (copy, first))
        assert (a.signal == b.signal).all() and found["georgia"].patient_id.nunique() == 19
    states = cinc2021.labels(real_data / "cinc2021", found["georgia"], corpus="georgia")
    assert (states.sinus_rhythm_any == -1).sum() == 5, "records without a code of rhythm are not negative"
    twice = cinc2021.records(real_data / "cinc2020-quirks", corpus="georgia").set_index("record_id")
    assert twice.codes["E00015"] == "251146004|284470004", "a code that stands there twice counts once"
    assert len(cinc2021.records(real_data / "cinc2020-quirks", corpus="cpsc-extra")) == 22


def test_cpsc2018_in_both_of_its_forms(tmp_path):
    _cpsc2018(tmp_path)
    records = cpsc2018.records(tmp_path)
    assert records.classes.tolist() == ["RBBB|PVC", "Normal", "AF"]
    states = cpsc2018.labels(tmp_path, records)
    assert states.rbbb.tolist() == [1, 0, 0] and states.pvc.tolist() == [1, 0, 0]
    assert "sinus_rhythm_any" not in states and set(states) <= set(labels.challenge_keys("cpsc2018"))
    assert cpsc2018.labels(tmp_path, records, label_set="classes").Normal.tolist() == [0, 1, 0]
    wfdb_form = cpsc2018.read(records.iloc[0])
    published = tmp_path / "published"
    for row in records.itertuples():
        data = cpsc2018.read(row).select(LEADS).signal.astype(float)
        (published / "TrainingSet1").mkdir(parents=True, exist_ok=True)
        content = {"sex": "Male", "age": 50, "data": data}
        scipy.io.savemat(published / "TrainingSet1" / f"{row.record_id}.mat", {"ECG": content})
    table = "Recording,First_label,Second_label,Third_label\nA0001,5,7,\nA0002,1,,\nA0003,2,,\nA0004,9,,\n"
    (published / "REFERENCE.csv").write_text(table)
    again = cpsc2018.records(published)
    assert again.drop(columns="path").equals(records.drop(columns="path"))
    assert "1 of 4 recordings of REFERENCE.csv" in again.attrs["notes"][1]
    np.testing.assert_array_equal(cpsc2018.read(again.iloc[0]).signal, wfdb_form.select(LEADS).signal)
    (published / "REFERENCE.csv").write_text(table.replace("A0002,1", "A0002,10"))
    with pytest.raises(EcgError, match="row 3: '10' is no class"):
        cpsc2018.records(published)
    shutil.copy(tmp_path / "A0001.hea", tmp_path / "kept")
    shutil.rmtree(published)
    (tmp_path / "A0001.hea").write_text((tmp_path / "kept").read_text().replace("RBBB,PVC", "59118001"))
    with pytest.raises(EcgError, match="SNOMED CT codes, not classes.*cinc2021"):
        cpsc2018.records(tmp_path)


def test_real_cpsc2018(real_data):
    records = cpsc2018.records(real_data / "cpsc2018")
    assert Counter(records.classes) == {"AF": 4, "RBBB": 3, "Normal": 1, "PVC": 1, "STD": 1}
    assert {cpsc2018.read(row).fs for row in records.to_dict("records")} == {500}


def test_acronyms_of_chapman_that_mislead(tmp_path):
    _chapman(tmp_path)
    records = chapman.records(tmp_path)
    assert records.ventricular_rate.tolist() == [117, 52, 100] and records.age.tolist() == [85, 59, 73]
    states = chapman.labels(tmp_path, records)
    assert states.atrial_fibrillation.tolist() == [1, 0, 0], "AFIB"
    assert states.atrial_flutter.tolist() == [0, 0, 1], "AF is flutter here"
    assert states.st_depression.tolist() == [0, 0, 1] and states.t_wave_abnormal.tolist() == [1, 0, -1]
    acronyms = chapman.labels(tmp_path, records, label_set="acronyms")
    assert "NONE" not in acronyms and acronyms.SB.tolist() == [0, 1, 0]
    first = records.path[0]
    scipy.io.savemat(f"{first}.mat", {"val": 1000 * chapman.read(records.iloc[0]).select(LEADS).signal.T})
    before = chapman.read(records.iloc[0]).select(LEADS)
    Path(f"{first}.csv").unlink()
    np.testing.assert_allclose(chapman.read(records.iloc[0]).signal, before.signal, rtol=1e-6)


def test_damaged_files_of_chapman(tmp_path):
    _chapman(tmp_path)
    records = chapman.records(tmp_path)
    Path(f"{records.path[0]}.csv").write_text("1,2,3\n4,5,6\n")
    with pytest.raises(EcgError, match="not 12 columns"):
        chapman.read(records.iloc[0])
    head = ["FileName", "Rhythm", "Beat", "PatientAge", "Gender"]
    for rows, told in (
        ([head[:3]], "no column PatientAge"),
        ([head, ["MUSE_1", "AFLT", "NONE", "1", "MALE"]], "row 2: 'AFLT' is no acronym"),
        ([head, *[["MUSE_1", "AF", "NONE", "1", "MALE"]] * 2], "stands there twice"),
    ):
        workbook(tmp_path / "Diagnostics.xlsx", rows)
        with pytest.raises(EcgError, match=told):
            chapman.records(tmp_path)
    (tmp_path / "Diagnostics.xlsx").write_text("<html>not found</html>")
    with pytest.raises(EcgError, match="not a workbook that can be read"):
        chapman.records(tmp_path)


def test_the_whole_table_of_chapman_counts_what_the_paper_says(real_data, monkeypatch):
    """Zheng et al. (2020), table 3: records of each rhythm."""
    table = chapman._table(real_data / "chapman", "harmonised")
    published = {"SB": 3889, "SR": 1826, "AFIB": 1780, "ST": 1568, "SVT": 587, "AF": 445, "SA": 399, "AT": 121}
    published |= {"AVNRT": 16, "AVRT": 8, "SAAWR": 7}
    assert table.Rhythm.value_counts().to_dict() == published and len(table) == chapman.N_RECORDS
    monkeypatch.setattr(chapman, "_table", lambda *_: table)  # it takes a second to read
    records = chapman.records(real_data / "chapman")
    assert len(records) == 30 and "10616 of 10646 recordings" in records.attrs["notes"][0]
    first = chapman.read(records.iloc[0])
    assert first.signal.shape == (12, 5000) and 0.2 < np.abs(first.signal).max() < 10
    limb = first.select(["I", "II", "III", "aVR"]).signal
    assert np.abs(limb[1] - limb[0] - limb[2]).max() < 0.35 and np.corrcoef(limb[3], -limb[0] - limb[1])[0, 1] > 0.99


def test_code15_from_hdf5(tmp_path):
    import h5py

    (tmp_path / "exams.csv").write_text("\n".join([CODE, *EXAMS, EXAMS[0].replace("7,46", "6,46", 1)]))
    rng = np.random.default_rng(0)
    tracings = np.zeros((4, 4096, 12), np.float32)
    for i, (start, n) in enumerate([(648, 2800), (48, 4000), (648, 2800)]):
        tracings[i, start : start + n] = rng.normal(size=(n, 12))
    with h5py.File(tmp_path / "exams_part0.hdf5", "w") as file:
        file["exam_id"], file["tracings"] = np.array([9, 7, 8, 0]), tracings
    records = code15.records(tmp_path)
    assert records.record_id.tolist() == ["7", "8", "9"] and "1 of 4 recordings" in records.attrs["notes"][1]
    assert records.patient_id.tolist() == ["1", "2", "1"] and records.sex.tolist() == ["male", "female", "female"]
    assert records.death.fillna(-1).tolist() == [-1, 0, 1] and records.followup_years.fillna(0).tolist() == [
        0,
        3.85,
        1.26,
    ]
    for row, place in zip(records.to_dict("records"), (1, 2, 0), strict=True):
        recording = code15.read(row)
        start, n = [(648, 2800), (48, 4000), (648, 2800)][place]
        np.testing.assert_array_equal(recording.signal, tracings[place, start : start + n].T)
        assert recording.leads == LEADS and recording.fs == 400
    with pytest.raises(EcgError, match="exam 6 is not in it"):
        code15.read(records.iloc[0].to_dict() | {"record_id": "6"})
    (tmp_path / "exams_part0.hdf5").write_text("<html>")
    with pytest.raises(EcgError, match="not an HDF5 file"):
        code15.records(tmp_path)


def test_classes_of_code15_are_not_all_there_is(tmp_path):
    _code15(tmp_path)
    records = code15.records(tmp_path)
    states = code15.labels(tmp_path, records)
    assert states.av_block_1.tolist() == [1, 0, 0] and states.normal_ecg.tolist() == [0, 0, 1]
    assert set(states) == {"av_block_1", "rbbb", "normal_ecg"}, "classes without a record are left out"
    table = (tmp_path / "meta.csv").read_text()
    for wrong, told in ((("7,46,True", "7,46,yes"), "'yes' is neither true nor false"), (("\n8,", "\n7,"), "twice")):
        (tmp_path / "meta.csv").write_text(table.replace(*wrong))
        with pytest.raises(EcgError, match=told):
            code15.records(tmp_path)


def test_real_code15(real_data):
    records = code15.records(real_data / "code-15")
    assert len(records) == 10 and records.patient_id.nunique() == 10
    lengths = {code15.read(row).signal.shape[1] for row in records.to_dict("records")}
    assert lengths == {2934, 4096}
    assert code15.labels(real_data / "code-15", records, label_set="classes").sum().to_dict() == {
        "1dAVb": 3, "RBBB": 3, "SB": 2, "ST": 2,
    }  # fmt: skip


def test_measurements_near_the_ecg_are_found_in_mimic_iv_ecg(tmp_path):
    """The date rule of a task, with a column as a table of measurements would add it."""
    _mimic_iv_ecg(tmp_path)
    records = datasets.get("mimic_iv_ecg").records(tmp_path).assign(lvef=[30.0, 35.0, 60.0])
    records["lvef_date"] = ["2180-07-25", "2180-08-30", "2180-07-16"]  # the ECGs are of July 23
    within = {"date": "lvef_date", "days": 7}
    task = tasks.make("low", dict(kind="binary", columns="lvef", positive={"at_most": 40}, within=within))

    class Cohort(SimpleNamespace):
        def __len__(self):
            return len(self.records)

    y = task.truth(Cohort(name="mimic", records=records))
    np.testing.assert_array_equal(y[:, 0], [1, np.nan, 0])


def test_reports_of_mimic_iv_ecg_are_its_labels(tmp_path):
    _mimic_iv_ecg(tmp_path)
    mimic = datasets.get("mimic_iv_ecg")
    records = mimic.records(tmp_path)
    assert records.report.tolist()[0] == "Sinus rhythm\nAtrial fibrillation" and records.patient_id.nunique() == 2
    states = mimic.labels(tmp_path, records)
    assert states.atrial_fibrillation.tolist()[0] == 1 and states.sinus_bradycardia.tolist()[1] == 1
    assert states.atrial_fibrillation.tolist()[1] != 1
    recording = mimic.read(records.iloc[0])
    assert recording.leads[4:6] == ("aVF", "aVL") and recording.select(LEADS).leads == LEADS
    text = (tmp_path / "record_list.csv").read_text()
    (tmp_path / "record_list.csv").write_text(text + "\n" + text.splitlines()[1])
    with pytest.raises(EcgError, match="stands there twice"):
        mimic.records(tmp_path)
