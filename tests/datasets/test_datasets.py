"""One contract for all datasets, on three tiny files in each corpus's own format, and the traps of single corpora."""

import inspect
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import wfdb

from ecglib import EcgError, datasets
from ecglib.data import labels, splits, wfdb_io
from ecglib.data.recording import LEADS

FS, N_TIMES, PULSE = 100, 200, 50
SHUFFLED = ("V6", "aVF", "I", "V1", "II", "aVL", "V2", "III", "aVR", "V3", "V5", "V4")


def _write(folder, name, leads=SHUFFLED, fs=FS, spelling=str, fmt="16", pulse="V2", comments=()):
    """A record of small waves with a pulse of exactly 1 mV in one lead."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = np.tile(np.arange(N_TIMES) % 7, (len(leads), 1))
    counts[leads.index(pulse), PULSE] = 1000
    wfdb_io.write(folder, name, counts, fs, [spelling(n) for n in leads], 1000, fmt=fmt, comments=comments)


def _ptbxl(root):
    rows = []
    for i, (fold, codes) in enumerate([(1, {"NORM": 100.0, "SR": 0.0}), (9, {"IMI": 15.0}), (10, {"AFIB": 0.0})], 1):
        for rate, tail in ((100, "lr"), (500, "hr")):
            _write(root / f"records{rate}/00000", f"{i:05d}_{tail}", LEADS, rate, str.upper)
        files = [f"records100/00000/{i:05d}_lr", f"records500/00000/{i:05d}_hr"]
        rows.append([i, f"{i}.0", 300 if i == 3 else 50, i % 2, "bericht", codes, fold, *files, "", " "])
    columns = ["ecg_id", "patient_id", "age", "sex", "report", "scp_codes", "strat_fold", "filename_lr", "filename_hr"]
    pd.DataFrame(rows, columns=[*columns, "heart_axis", "pacemaker"]).to_csv(root / "ptbxl_database.csv", index=False)
    return {}


def _ludb(root):
    for i in (1, 2, 3):
        _write(root / "data", str(i), LEADS, 500, str.lower)
    head = "ID,Sex,Age,Rhythms,Electric axis of the heart,Conduction abnormalities,Extrasystolies,Hypertrophies,"
    head += "Cardiac pacing,Ischemia,Non-specific repolarization abnormalities,Other states\n"
    rows = '1,"F\n","51\n",Sinus rhythm,,"I degree av block\nLeft anterior hemiblock",,,,Stemi: septal,,\n'
    rows += '2,"M\n",">89\n",Sinus rhythm,,,,,Biventricular pacing,Undefined ischemia/scar/supp.nstemi: apical,,\n'
    rows += '3,"M\n","30\n",Atrial fibrillation,,,,,,,,\n'
    (root / "ludb.csv").write_text(head + rows)
    return {}


def _cinc2017(root):
    for name in ("A00001", "A00002", "A00003"):
        _write(root / "training2017", name, ("I",), 300, lambda _: "ECG", "mat", "I")
    (root / "REFERENCE-v3.csv").write_text("A00001,A\nA00002,N\nA00003,~\n")
    return {}


def _brugada(root):
    for name in ("11", "22", "844915"):
        _write(root / "files" / name, name, LEADS, 100)
    (root / "metadata.csv").write_text(
        "patient_id,basal_pattern,sudden_death,brugada\n11,0,0,0\n22,1,0,1\n844915,0,1,2\n"
    )
    return {}


def _mitdb(root):
    for name in ("100", "103", "202"):
        _write(root, name, ("II", "V2"), 360, lambda lead: {"II": "MLII"}.get(lead, lead), "212", "V2")
        rhythm, beats = (["(AFIB\0", "", ""], ["+", "N", "A"]) if name == "202" else (["", "", ""], ["N", "N", "V"])
        marks = {"sample": np.array([5, PULSE, 150]), "symbol": beats, "aux_note": rhythm}
        wfdb.wrann(name, "atr", **marks, write_dir=str(root))
    (root / "RECORDS").write_text("100\n103\n202\n")
    return {}


def _cinc2011(root):
    for name in ("1000001", "1000002", "1000003"):
        _write(root / "set-a", name, LEADS, 500, str.upper)
    (root / "RECORDS-acceptable").write_text("1000001\n1000003\n")
    (root / "RECORDS-unacceptable").write_text("1000002\n")
    return {}


def _nstdb(root):
    for name in ("118e24", "118e_6", "119e00"):
        _write(root, name, ("MLII", "V1"), 360, fmt="212", pulse="MLII")
    (root / "RECORDS").write_text("118e24\n118e_6\n119e00\nbw\nem\nma\n")
    return {}


def _qtdb(root):
    for name in ("sel1", "sel2", "sele3"):
        _write(root, name, ("MLII", "V2", "CM5"), 250, fmt="212")
        wfdb.wrann(
            name, "marks", np.array([40, PULSE, 60]), ["(", "p" if name == "sel2" else "N", ")"], write_dir=str(root)
        )
        (root / f"{name}.marks").rename(root / f"{name}.q1c")
    (root / "sel1.hea").write_text((root / "sel1.hea").read_text() + "# 69 M 1085 1629 x1\n")
    (root / "sel1.q2c").write_bytes((root / "sel1.q1c").read_bytes())
    return {}


def _folder(root):
    for i, spelling in enumerate((str, str.lower, "Lead {}".format)):
        _write(root / "ward", f"r{i}", spelling=spelling, fmt="212" if i else "16")
    text = "record,patient,split,age,sex,site,NORM,MI\nward/r0,p1,train,61,F,a,1,0\n"
    (root / "records.csv").write_text(text + "ward/r1.hea,p1,train,,,b,0,2\nward/r2,p2,test,70,male,,,1\n")
    return {}


def _bidmc(root):
    (root / "bidmc_csv").mkdir()
    for i, name in enumerate(("01", "02", "03")):
        names, folder = ("RESP,", "PLETH,", "II,"), root / "bidmc_csv"
        names = names if i else names[::-1]
        _write(root, f"bidmc{name}", names, 125, str, pulse="PLETH,")
        cells = "".join(f"{s},94, 93,25,97\n" for s in range(3))
        (folder / f"bidmc_{name}_Numerics.csv").write_text(f"Time [s], HR, PULSE, RESP, SpO2\n{cells}")
        text = f"Age: {60 + i}\nGender: F\nLocation: micu\nMIMIC II matched wdb ID: s{i // 2}\n"
        (folder / f"bidmc_{name}_Fix.txt").write_text(text)
    return {"segment_s": 1.6}


def _cinc2021(root):
    for i, codes in enumerate(("426783006,59118001", "164889003", "Unknown")):
        comments = [f"Age: {['61', 'NaN', '300'][i]}", f"Sex: {['Female', 'M', 'Unknown'][i]}", f"Dx: {codes}"]
        _write(root / "training/georgia/g1", f"E0000{i}", fmt="mat", fs=500, comments=comments)
    (root / "training/georgia/g1/RECORDS").write_text("E00000\nE00001\nE00002\n")
    _write(root / "training/ptb-xl", "HR00001", fmt="mat", comments=["Dx: 426783006"])
    return {"corpus": "georgia"}


def _cpsc2018(root):
    for name, said in (("A0001", "RBBB,PVC"), ("A0002", "Normal"), ("A0003", "AF")):
        _write(root, name, fmt="mat", fs=500, comments=["Age: 50", "Sex: Male", f"Dx: {said}", "Sx: Unknows"])
    return {}


def _chapman(root):
    names = [f"MUSE_20180111_15511{i}_19000" for i in range(3)]
    (root / "ECGData").mkdir()
    for i, name in enumerate(names):
        values = np.tile(np.arange(N_TIMES)[:, None] % 7, (1, 12)).astype(float)
        order = LEADS if i == 2 else SHUFFLED
        values[PULSE, order.index("V2")] = 1000
        lines = [",".join(f"{value:g}" for value in row) for row in values]
        head = [] if i == 2 else [",".join(order)]
        (root / "ECGData" / f"{name}.csv").write_text("\n".join([*head, *lines]))
    rows = [["FileName", "Rhythm", "Beat", "PatientAge", "Gender", "VentricularRate"]]
    rows += [[names[0], "AFIB", "RBBB TWC", "85", "MALE", 117], [names[1], "SB", "NONE", "59", "FEMALE", 52]]
    workbook(root / "Diagnostics.xlsx", [*rows, [names[2], "AF", "STDD STTC", "73", "", 100]])
    return {}


def workbook(path, rows):
    """A workbook with one sheet: texts are shared strings, as spreadsheets write them, numbers stand in their cells."""
    texts = list(dict.fromkeys(cell for row in rows for cell in row if isinstance(cell, str) and cell))
    lines = []
    for number, row in enumerate(rows, 1):
        cells = [(f"{chr(65 + i)}{number}", cell) for i, cell in enumerate(row) if cell != ""]
        text = (f'<c r="{at}" t="s"><v>{texts.index(c)}</v></c>' for at, c in cells if isinstance(c, str))
        numeric = (f'<c r="{at}"><v>{c}</v></c>' for at, c in cells if not isinstance(c, str))
        lines.append(f'<row r="{number}">{"".join(text)}{"".join(numeric)}</row>')
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(path, "w") as book:
        strings = "".join(f"<si><t>{text}</t></si>" for text in texts)
        book.writestr("xl/sharedStrings.xml", f"<sst {space}>{strings}</sst>")
        book.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        )


CODE = "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file"
EXAMS = [
    "7,46,True,38.7,True,False,False,False,False,False,1,,,False,exams_part0.hdf5",
    "8,54,False,44.2,False,True,False,False,False,False,2,False,3.85,False,exams_part0.hdf5",
    "9,68,False,42.1,False,False,False,False,False,False,1,True,1.26,True,exams_part0.hdf5",
]


def _code15(root):
    (root / "org").mkdir()
    for name in ("7", "8", "9"):
        signal = np.tile(1 + np.arange(N_TIMES) % 7, (12, 1)) / 1000
        signal[LEADS.index("V2"), PULSE] = 1
        padded = np.pad(signal, ((0, 0), (30, 40))).astype(np.float32)
        scipy.io.savemat(root / "org" / f"code_15_{name}.mat", {"feats": padded})
    lines = [f"{row},code_15_{row[0]}.mat" for row in EXAMS]
    (root / "meta.csv").write_text("\n".join([f"{CODE},save_file", *lines]))
    return {}


def _mimic_iv_ecg(root):
    order = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
    lines, said = ["subject_id,study_id,file_name,ecg_time,path"], ["subject_id,study_id,report_0,report_1"]
    reports = ("Sinus rhythm", "Atrial fibrillation"), ("Sinus bradycardia", ""), ("Sinus rhythm", "No acute change")
    for i, texts in enumerate(reports):
        patient, study = f"1000003{i // 2}", f"4068923{i}"
        path = f"files/p1000/p{patient}/s{study}/{study}"
        _write(root / Path(path).parent, study, order, 500)
        lines.append(f"{patient},{study},{study},2180-07-23 08:44:00,{path}")
        said.append(f"{patient},{study},{','.join(texts)}")
    (root / "record_list.csv").write_text("\n".join(lines))
    (root / "machine_measurements.csv").write_text("\n".join(said))
    return {}


def _code_test(root):
    import h5py

    folder = root / "data"
    (folder / "annotations").mkdir(parents=True)
    tracings = np.zeros((3, 400, 12), np.float32)
    for i in range(3):
        wave = (1 + np.arange(N_TIMES) % 7) / 1000
        limb = [wave, wave, 0 * wave, wave / 2, wave / 2, -wave]  # I, II, III, aVL, aVF, aVR
        tracings[i, 60 : 60 + N_TIMES] = np.stack([*limb, *[wave] * 6], axis=1)
        tracings[i, 60 + PULSE, 7] = 1  # V2
    with h5py.File(folder / "ecg_tracings.hdf5", "w") as file:
        file["tracings"] = tracings
    (folder / "attributes.csv").write_text("age,sex\n46,M\n54,F\n68,F\n")
    calls = ["0,0,0,0,1,0", "1,0,0,0,0,0", "0,1,0,0,0,0"]
    for number, name in enumerate(datasets.get("code_test").ANNOTATORS):
        found = calls[: max(3 - number, 0)]
        lines = ["1dAVb,RBBB,LBBB,SB,AF,ST", *found, *["0,0,0,0,0,0"] * (3 - len(found))]
        (folder / f"annotations/{name}.csv").write_text("\n".join(lines) + "\n")
    return {}


def _echonext(root, keys=("e1", "e2", "e3"), splits_of=("train", "val", "test")):
    module = datasets.get("echonext")
    findings = dict.fromkeys(module.FINDINGS, 0) | {module.ANY: 1, "lvef_lte_45_flag": 1}
    measures = {name: 1.5 for names in module.FINDINGS.values() for name in names}
    rows = [
        {"": i, "ecg_key": key, "patient_key": f"p{i}", "split": split, "age_at_ecg": 60 + i, "sex": "female"}
        | {"location_setting": "inpatient", **dict.fromkeys(module.MEASURED, 80), **findings, **measures}
        for i, (key, split) in enumerate(zip(keys, splits_of, strict=True))
    ]
    pd.DataFrame(rows).to_csv(root / module.TABLE, index=False)
    for split in set(splits_of):
        wave = np.tile((np.arange(module.N_TIMES) % 7)[:, None] / 1000, (1, 12))
        wave[PULSE, LEADS.index("V2")] = 1
        np.save(root / f"EchoNext_{split}_waveforms.npy", np.stack([wave[None]] * splits_of.count(split)))
    return {}


def _shdb_af(root):
    lines = ["Data_ID,Subject_ID,Annotated,Age_at_Holter,Sex,AF_Type"]
    for i, name in enumerate(("001", "002", "003")):
        _write(root, name, ("ECG2", "ECG1"), 200, pulse="ECG1")
        marks = {"sample": np.array([3, 20]), "symbol": ['"', '"'], "aux_note": ["(N\0", "(AFIB\0"]}
        wfdb.wrann(name, "atr", **marks, write_dir=str(root))
        lines.append(f"{int(name)},{1 + i // 2},{['Yes', 'No'][i == 1]},{60 + i},{['male', 'female'][i % 2]},PAF")
    (root / "AdditionalData.csv").write_text("\n".join(lines) + "\n")
    return {"segment_s": 1, "every_s": 5}


def _heedb(root):
    for folder in ("metadata", "12SL_diagnoses"):
        (root / "I0001" / folder).mkdir(parents=True)
    lines, stated = ["FileName,BDSPPatientID,SexDSC,AgeAtAcquisition"], ["FileName,codes_software,codes_physician"]
    for i, codes in enumerate(('"19,161"', "21", "")):
        name = f"S0001/201{i}/de_{i}"
        _write(root / "I0001/WFDB" / Path(name).parent, f"de_{i}", fs=250, fmt="mat")
        lines.append(f"/{name},{100 + i // 2},{['Male', 'Female', ''][i]},{18262 + i}")
        stated.append(f"/{name},19,{codes}")
    (root / "I0001/metadata/metadata.csv").write_text("\n".join(lines) + "\n")
    folder = root / "I0001/12SL_diagnoses"
    (folder / "diagnoses_acquisition.csv").write_text("\n".join(stated) + "\n")
    said = "19,Normal sinus rhythm\n21,Sinus bradycardia\n161,Atrial fibrillation\n"
    (folder / "diagnoses_dictionary.csv").write_text(f"codes,diagnoses\n{said}")
    return {}


def _icentia11k(root):
    for person, name in (("p00000", "p00000_s00"), ("p00000", "p00000_s01"), ("p00007", "p00007_s00")):
        _write(root / "p00" / person, name, ("ecg",), 250, pulse="ecg")
        marks = {"sample": np.array([3, PULSE, 60, 190]), "symbol": ["+", "N", "S", "+"]}
        notes = ["(AFIB\0", "", "", ")\0"]
        wfdb.wrann(name, "atr", **marks, aux_note=notes, write_dir=str(root / "p00" / person))
    return {"segment_s": 0.8, "every_s": 5}


def _cpsc2021(root):
    for name, kind in (("data_1_1", "paroxysmal"), ("data_1_12", "paroxysmal"), ("data_7_1", "non")):
        _write(root / "Training_set_I", name, ("II", "I"), 200, pulse="I", comments=(f"{kind} atrial fibrillation",))
        marks = {"sample": np.array([3, PULSE, 60]), "symbol": ["+", "N", "A"], "aux_note": ["(AFIB\0", "None", ""]}
        marks = marks if kind == "paroxysmal" else {"sample": np.array([PULSE]), "symbol": ["N"]}
        wfdb.wrann(name, "atr", **marks, write_dir=str(root / "Training_set_I"))
    return {"segment_s": 1, "every_s": 5}


def _mimic_perform(root):
    for group, number in (("af", 1), ("non_af", 1), ("non_af", 2)):
        folder = root / f"mimic_perform_{group}_csv"
        folder.mkdir(exist_ok=True)
        wave = (np.arange(N_TIMES) % 7) / 1000
        wave[PULSE] = 1
        table = {"Time": np.arange(N_TIMES) / 125, "PPG": wave, "ECG": -wave, "resp": 0}
        pd.DataFrame(table).to_csv(folder / f"mimic_perform_{group}_{number:03d}_data.csv", index=False)
    return {"segment_s": 1.6}


BUILDERS = {
    "bidmc": _bidmc,
    "brugada": _brugada,
    "chapman": _chapman,
    "cinc2011": _cinc2011,
    "cinc2017": _cinc2017,
    "cinc2021": _cinc2021,
    "code15": _code15,
    "code_test": _code_test,
    "cpsc2018": _cpsc2018,
    "cpsc2021": _cpsc2021,
    "echonext": _echonext,
    "folder": _folder,
    "heedb": _heedb,
    "icentia11k": _icentia11k,
    "ludb": _ludb,
    "mimic_iv_ecg": _mimic_iv_ecg,
    "mimic_perform": _mimic_perform,
    "mitdb": _mitdb,
    "nstdb": _nstdb,
    "ptbxl": _ptbxl,
    "qtdb": _qtdb,
    "shdb_af": _shdb_af,
}


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_contract(name, tmp_path):
    dataset, options = datasets.get(name), BUILDERS[name](tmp_path)
    for constant in ("URL", "VERSION", "LICENCE", "CITATION"):
        assert isinstance(getattr(dataset, constant), str)
    assert dataset.VOCABULARY in (None, *labels.SOURCES) and set(dataset.LEADS) <= set(LEADS)
    assert dataset.N_RECORDS is None or dataset.N_RECORDS > 0

    records = dataset.records(tmp_path, **options)
    assert len(records) == 3 and records.record_id.is_unique
    assert list(records)[:7] == ["record_id", "patient_id", "path", "split", "age", "sex", "report"]
    assert set(records.split) <= {*splits.SPLITS, ""} and set(records.sex) <= {"female", "male", ""}
    splits.check(records)

    states = dataset.labels(tmp_path, records, **options)
    assert list(states.index) == list(records.record_id) and states.index.name == "record_id"
    assert (states.dtypes == np.int8).all() and set(np.unique(states)) <= set(labels.STATES.values())

    for row in (records.iloc[0], records.iloc[1].to_dict(), next(records.iloc[2:].itertuples())):
        recording = dataset.read(row)
        assert set(recording.leads) <= set(LEADS) and recording.signal.dtype == np.float32
        assert recording.record_id in set(records.record_id)
        chosen = recording.select(dataset.LEADS)
        pulse = "V2" if "V2" in dataset.LEADS else dataset.LEADS[0]
        assert np.argwhere(chosen.signal > 0.5).tolist() == [[dataset.LEADS.index(pulse), PULSE]]
        assert chosen.signal[dataset.LEADS.index(pulse), PULSE] == 1.0

    missing = records.iloc[0].to_dict() | {"path": str(tmp_path / "nowhere")}
    with pytest.raises(EcgError):
        dataset.read(missing)
    with pytest.raises(EcgError):
        dataset.records(tmp_path / "nowhere", **options)


OPTIONS = [
    (name, option)
    for name in sorted(set(BUILDERS) - {"folder"})  # see test_folder_tables
    for option, parameter in inspect.signature(datasets.get(name).records).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
@pytest.mark.parametrize("value", [["abc"], [100], {"a": 1}, "abc", 2.5])
def test_an_option_of_the_wrong_type_is_refused_by_its_name(name, option, value, tmp_path):
    options = BUILDERS[name](tmp_path)
    if option in ("segment_s", "every_s") and value == 2.5:
        return
    with pytest.raises(EcgError) as caught:
        datasets.get(name).records(tmp_path, **options | {option: value})
    pairs = {"every_s": "segment_s", "ecg2": "ecg1"}  # checked together
    assert caught.value.field in (option, pairs.get(option)) and caught.value.fix


@pytest.mark.parametrize("name", sorted(set(BUILDERS) - {"folder", "code_test", "mimic_perform"}))
def test_a_part_of_a_corpus_is_what_is_there(name, tmp_path):
    """In `folder` the packing rejects a missing recording; CODE-test is one file; MIMIC PERform has 35 known names."""
    dataset, options = datasets.get(name), BUILDERS[name](tmp_path)
    whole = dataset.records(tmp_path, **options)
    assert not any("left out" in note for note in whole.attrs.get("notes", []))
    _remove(whole.path[1])
    part = dataset.records(tmp_path, **options)
    assert any("1 of 3 recordings" in note and "left out" in note for note in part.attrs["notes"])
    pd.testing.assert_frame_equal(part, whole.drop(index=1).reset_index(drop=True))
    assert list(dataset.labels(tmp_path, part, **options).index) == list(part.record_id)
    for path in part.path:
        _remove(path)
    with pytest.raises(EcgError, match="of 3 recordings none is there"):
        dataset.records(tmp_path, **options)


def _remove(path):
    """The header of a recording, or its only file."""
    next(f for end in (".hea", ".csv", ".mat", ".npy") if (f := Path(f"{path}{end}")).is_file()).unlink()


@pytest.mark.parametrize("name", ["chapman", "cinc2021", "cpsc2018", "cpsc2021", "icentia11k"])
@pytest.mark.parametrize("ending", [str, str.upper])
def test_recordings_behind_a_link_and_with_large_endings_are_found(name, ending, tmp_path):
    """What is looked for below a folder is where a linked folder leads, too; a link back to the root ends nowhere."""
    dataset, root, elsewhere = datasets.get(name), tmp_path / "corpus", tmp_path / "elsewhere"
    root.mkdir()
    options = BUILDERS[name](root)
    whole = dataset.records(root, **options)
    elsewhere.mkdir()
    for file in sorted(root.rglob("*")):
        if file.suffix not in (".xlsx", "") and file.is_file():
            named = file.suffix in (".mat", ".dat")  # by the header, with small letters
            file.rename(elsewhere / file.with_suffix(file.suffix if named else ending(file.suffix)).name)
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    found = dataset.records(root, **options)
    pd.testing.assert_frame_equal(found.drop(columns="path"), whole.drop(columns="path"))
    for row in (found.iloc[0], found.iloc[-1]):
        assert "/linked/" in row.path and dataset.read(row).signal.max() == 1
    pd.testing.assert_frame_equal(dataset.labels(root, found, **options), dataset.labels(root, whole, **options))


def test_every_public_dataset_is_under_contract():
    assert set(datasets.names()) - {"simulated", "wearers"} == set(BUILDERS)
    with pytest.raises(EcgError, match="bidmc, brugada, chapman, cinc2011, cinc2017, cinc2021"):
        datasets.get("ptb_xl")


def test_ptbxl_folds_ages_likelihoods_and_rates(tmp_path):
    _ptbxl(tmp_path)
    ptbxl = datasets.get("ptbxl")
    records = ptbxl.records(tmp_path)
    assert list(records.split) == ["train", "val", "test"] and list(records.sex) == ["female", "male", "female"]
    assert records.age.iloc[2] == 90 and list(records.age_over_89) == [0, 0, 1]
    assert ptbxl.read(ptbxl.records(tmp_path, rate=500).iloc[0]).fs == 500
    superclass = ptbxl.labels(tmp_path, records)
    assert superclass.to_numpy().tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [-1] * 5]
    superclass = ptbxl.labels(tmp_path, records, likelihood="certain")
    assert superclass.to_numpy().tolist() == [[1, 0, 0, 0, 0], [0, 2, 0, 0, 0], [-1] * 5]
    rhythm = ptbxl.labels(tmp_path, records, label_set="rhythm")
    assert list(rhythm.AFIB) == [0, -1, 1]
    assert list(ptbxl.labels(tmp_path, records, label_set="all").AFIB) == [0, 0, 1]
    assert list(ptbxl.labels(tmp_path, records, label_set="sub").IMI) == [0, 1, -1]
    assert list(ptbxl.labels(tmp_path, records, label_set="sub", likelihood="certain").IMI) == [0, 2, -1]
    common = ptbxl.labels(tmp_path, records, label_set="harmonised")
    assert list(common.normal_ecg) == [1, 0, 0] and list(common.atrial_fibrillation) == [0, -1, 1]
    assert set(ptbxl.labels(tmp_path, records, label_set="form").to_numpy().ravel()) == {-1}
    for wrong in (
        {"rate": 250},
        {"label_set": "supper"},
        {"likelihood": "sure"},
        {"likelihood": ""},
        {"label_set": "super-2163"},
    ):
        with pytest.raises(EcgError, match="use"):
            ptbxl.records(tmp_path, **wrong)


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("ecg_id", ["1.0", "2.0", "3.0"]),
        ("patient_id", ["1", "2", "3"]),
        ("strat_fold", ["1.0", "9.0", "10.0"]),
        ("sex", ["female", "Male", "female"]),
        ("sex", ["F", "M", "f"]),
        ("sex", ["1.0", "0.0", "1.0"]),
        ("age", ["50", "50.0", "300.0"]),
    ],
)
def test_ptbxl_saved_again_is_read_as_before(tmp_path, column, cells):
    _ptbxl(tmp_path)
    ptbxl = datasets.get("ptbxl")
    whole, path = ptbxl.records(tmp_path), tmp_path / "ptbxl_database.csv"
    pd.read_csv(path, dtype=str).assign(**{column: cells}).to_csv(path)  # with an index column, too
    pd.testing.assert_frame_equal(ptbxl.records(tmp_path), whole)
    assert list(ptbxl.labels(tmp_path, whole).index) == ["00001", "00002", "00003"]


@pytest.mark.parametrize("nobody", ["", "nan", "NA", "None"])
def test_ptbxl_records_without_patient_are_not_one_patient(tmp_path, nobody):
    _ptbxl(tmp_path)
    path = tmp_path / "ptbxl_database.csv"
    pd.read_csv(path, dtype=str).assign(patient_id=["7.0", nobody, nobody]).to_csv(path, index=False)
    records = datasets.get("ptbxl").records(tmp_path)
    assert list(records.patient_id) == ["7", "record 00002", "record 00003"]
    assert "2 records name no patient" in records.attrs["notes"][0]


@pytest.mark.parametrize(
    ("column", "wrong"),
    [("strat_fold", w) for w in ("11", "0", "", "1.5", "test")]
    + [("ecg_id", w) for w in ("", "x", "1.5", "-1", "nan")]
    + [("sex", w) for w in ("2", "x", "0.5")]
    + [("age", w) for w in ("90+", "-1", "61,5", "inf", "301")]
    + [("patient_id", w) for w in ("p1", "1.5", "1 2")]
    + [("filename_lr", w) for w in ("", "nan")],
)
def test_ptbxl_cells_that_are_none_stop_with_row_and_column(tmp_path, column, wrong):
    _ptbxl(tmp_path)
    path = tmp_path / "ptbxl_database.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[1, column] = wrong
    table.to_csv(path, index=False)
    with pytest.raises(EcgError, match="row 3") as caught:
        datasets.get("ptbxl").records(tmp_path)
    assert caught.value.field == column and caught.value.fix


def test_ludb_cells_hold_several_lines_and_paced_or_undefined_records_are_left_out(tmp_path):
    _ludb(tmp_path)
    ludb = datasets.get("ludb")
    records = ludb.records(tmp_path)
    assert list(records.age) == [51, 90, 30] and list(records.sex) == ["female", "male", "male"]
    states = ludb.labels(tmp_path, records)
    assert {c: list(states[c]) for c in states} == {"MI": [1, -1, 0], "CD": [1, -1, 0]}
    common = ludb.labels(tmp_path, records, label_set="harmonised")
    assert list(common.atrial_fibrillation) == [0, 0, 1] and list(common.av_block_1) == [1, 0, 0]


def test_cinc2017_split_is_stratified_and_depends_on_names_only(tmp_path):
    names = [f"A{i:05d}" for i in range(400)]
    codes = ["N"] * 240 + ["O"] * 100 + ["A"] * 40 + ["~"] * 20
    (tmp_path / "REFERENCE-v3.csv").write_text("".join(f"{n},{c}\n" for n, c in zip(names, codes, strict=True)))
    for name in names:
        (tmp_path / f"{name}.hea").touch()
    cinc = datasets.get("cinc2017")
    records = cinc.records(tmp_path)
    states = cinc.labels(tmp_path, records)
    assert cinc.NOTE in records.attrs["notes"] and (states.sum(axis=1) == 1).all()
    for name, share in cinc.FRACTIONS.items():
        held = states[(records.split == name).to_numpy()].sum()
        assert (abs(held - share * states.sum()) <= 3).all()
    (tmp_path / "REFERENCE-v3.csv").write_text("A1,A\nA2,X\n")
    with pytest.raises(EcgError, match="unknown class 'X'"):
        cinc.records(tmp_path)


def test_brugada_keeps_identical_tracings_on_one_side_and_does_not_guess_the_third_value(tmp_path):
    brugada = datasets.get("brugada")
    twins = [name for pair in brugada.SAME_TRACING.items() for name in pair]
    names = [*twins, *(f"{i}" for i in range(100))]
    rows = "".join(f"{name},0,0,{int(i % 4 == 0)}\n" for i, name in enumerate(names))
    (tmp_path / "metadata.csv").write_text(f"patient_id,basal_pattern,sudden_death,brugada\n{rows}")
    for name in names:
        (tmp_path / "files" / name).mkdir(parents=True)
        (tmp_path / "files" / name / f"{name}.hea").touch()
    for seed in range(5):
        split = brugada.records(tmp_path, seed=seed).set_index("record_id").split
        assert all(split[a] == split[b] for a, b in brugada.SAME_TRACING.items())
        assert abs((split == "test").mean() - 0.3) < 0.05
    _brugada(tmp_path)
    states = brugada.labels(tmp_path, brugada.records(tmp_path))
    assert states.to_numpy().tolist() == [[0, 0, 0], [1, 1, 0], [2, 0, 1]]
    (tmp_path / "metadata.csv").write_text("patient_id,basal_pattern,sudden_death,brugada\n11,0,0,3\n")
    with pytest.raises(EcgError, match="3 is no state"):
        brugada.records(tmp_path)


def test_folder_uses_the_rows_it_is_told(tmp_path):
    folder = datasets.get("folder")
    (tmp_path / "records.csv").write_text("record,fold,A\na,train,1\nb,test,0\nc,val,1\nd,train,0\n")
    options = {"where": {"fold": ["train", "val"]}, "split": "pretrain"}
    records = folder.records(tmp_path, **options)
    assert list(records.record_id) == ["a", "c", "d"] and set(records.split) == {"pretrain"}
    assert list(folder.labels(tmp_path, records, **options).A) == [1, 1, 0]
    assert list(folder.records(tmp_path, where={"fold": "test"}).record_id) == ["b"]
    for wrong, message in (({"fold": "none"}, "no row has"), ({"part": "x"}, "no column part")):
        with pytest.raises(EcgError, match=message):
            folder.records(tmp_path, where=wrong)


def test_folder_reads_a_column_of_names_and_makes_what_is_missing(tmp_path):
    folder = datasets.get("folder")
    (tmp_path / "records.csv").write_text("record,labels\na,MI|LVH?\nb,none\nc,\nd,MI\n")
    records = folder.records(tmp_path)
    states = folder.labels(tmp_path, records)
    assert list(states) == ["LVH", "MI"]
    assert states.to_numpy().tolist() == [[2, 1], [0, 0], [-1, -1], [0, 1]]
    assert records.patient_id.is_unique and set(records.split) <= {"train", "val", "test"}
    assert len(records.attrs["notes"]) == 2
    assert set(folder.records(tmp_path, split="external").split) == {"external"}


def test_folder_options_name_columns_join_tables_and_translate(tmp_path):
    folder = datasets.get("folder")
    _write(tmp_path, "x", ("MLII", "V2", "resp"), pulse="V2")
    (tmp_path / "t.csv").write_text("n,file,ok,AF\n7,x,1,1\n")
    (tmp_path / "more.csv").write_text("n,who,sex,age\n7,p7,1,61\n8,p8,0,62\n")
    options = {"csv": "t.csv", "record": "file", "id": "n", "labels": "AF", "patient": "who", "extra": "more.csv"}
    options |= {"sex_codes": {"1": "female"}, "lead_names": {"MLII": "II", "resp": ""}, "split": "external"}
    records = folder.records(tmp_path, **options)
    row = records.iloc[0]
    assert (row.record_id, row.patient_id, row.sex, row.age, row.ok) == ("7", "p7", "female", 61, 1)
    assert folder.read(row).leads == ("II", "V2")
    assert folder.labels(tmp_path, records, **options).to_dict() == {"AF": {"7": 1}}
    with pytest.raises(EcgError, match="unknown lead name 'MLII'"):
        folder.read(row.drop("lead_names"))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("record,NORM\na,1\n", {"labels": ["NORM", "MI"]}, "no column MI.*columns there: record, NORM"),
        ("record,age\na,50\n", {}, "no label column"),
        ("file,NORM\na,1\n", {}, "no column record"),
        ("record,NORM\n", {}, "no records in the table"),
        ("", {}, "not a readable CSV table"),
        ("record,NORM\na,1\na,0\n", {}, "'a'"),
        ("record,patient,split,NORM\na,p,train,1\nb,p,test,0\n", {}, "'p' in test, train"),
        ("record,split,NORM\na,training,1\n", {}, "unknown split 'training'"),
        ("record,NORM\na,yes\n", {"labels": ["NORM", "NORM"]}, "'yes' is no label state"),
        ("record,sex,NORM\na,1,1\n", {}, "'1' is no sex"),
        ("record,age,NORM\na,300,1\n", {}, "'300' is no age"),
        ("record,NORM\na,1\n", {"pateint": "p"}, "unknown option 'pateint'.*patient"),
        ("record,NORM\na,1\n", {"extra": "more.csv"}, "needs the option id"),
    ],
)
def test_folder_names_what_is_wrong_and_the_fix(tmp_path, text, options, message):
    (tmp_path / "records.csv").write_text(text)
    with pytest.raises(EcgError, match=message) as error:
        datasets.get("folder").records(tmp_path, **options)
    assert error.value.fix or "not a readable" in message


def test_real_corpora_hold_what_their_papers_say(real_data):
    ludb, cinc, ptbxl = (datasets.get(n) for n in ("ludb", "cinc2017", "ptbxl"))
    records = ludb.records(real_data / "ludb")
    assert len(records) == 200 and (records.sex == "female").sum() == 85
    assert ludb.labels(real_data / "ludb", records).eq(1).sum().to_dict() == {"MI": 23, "CD": 65}
    classes = cinc.labels(real_data / "cinc2017", cinc.records(real_data / "cinc2017")).sum().to_dict()
    assert classes == {"AFIB": 133, "normal": 893, "other": 425, "noisy": 49}
    records = ptbxl.records(real_data / "ptb-xl")
    assert records.split.value_counts().to_dict() == {"train": 2219, "val": 318, "test": 182}
    assert (records.age_over_89 == 1).sum() == (records.age == 90).sum() == 31 and records.age.max() == 90
    assert len(ptbxl.records(real_data / "ptb-xl", rate=500)) == 120
    published = pd.read_csv(real_data / "ptb-xl-2k" / "superclass.csv", index_col="ecg_id")
    states = ptbxl.labels(real_data / "ptb-xl", records)
    states.index = states.index.astype(int)
    both = states.index.intersection(published.index)
    assert ((states.loc[both] > 0) == (published.loc[both, list(states)] == 1)).all(axis=None)


def test_more_records_of_ptb_xl_share_no_patient_with_validation_or_test(real_data):
    """They name no patient, but their split is the official one, whose folds part patients."""
    sample = datasets.get("ptbxl").records(real_data / "ptb-xl").set_index("record_id")
    published = pd.read_csv(real_data / "ptb-xl-2k" / "superclass.csv", index_col="ecg_id")
    published.index = [f"{i:05d}" for i in published.index]
    both = sample.index.intersection(published.index)
    assert len(both) == 488 and (sample.split[both] == published.split[both]).all()
    options = {"csv": "not-in-ptb-xl.csv", "record": "filename", "id": "ecg_id", "split": "pretrain"}
    options |= {"labels": ["NORM", "MI", "STTC", "CD", "HYP"], "where": {"split": "train"}}
    more = datasets.get("folder").records(real_data / "ptb-xl-2k", **options)
    names = more.record_id.str.zfill(5)
    assert len(more) == 1146 and not set(names) & set(sample.index) and (published.split[names] == "train").all()
    assert len(datasets.get("folder").records(real_data / "ptb-xl-2k", **options | {"where": {"split": "test"}})) == 189


def test_real_brugada_holds_four_pairs_of_identical_tracings(real_data):
    brugada = datasets.get("brugada")
    records = brugada.records(real_data / "brugada-huca")
    assert len(records) == 363 and records.patient_id.nunique() == 359
    tracings = [Path(f"{path}.dat").read_bytes() for path in records.path]
    alike = pd.Series(tracings).groupby(records.patient_id).nunique()
    assert (alike == 1).all() and len(set(tracings)) == 359
    states = brugada.labels(real_data / "brugada-huca", records)
    assert states.brugada.value_counts().to_dict() == {0: 287, 1: 69, 2: 7}


def test_the_corpus_of_a_folder_is_one_that_cards_name(tmp_path):
    """A misspelt name would let a model pass that was pretrained on it."""
    options = _folder(tmp_path)
    folder = datasets.get("folder")
    assert len(folder.records(tmp_path, **options, corpus="ptb-xl")) == 3
    for wrong in ("PTB-XL", "ptbxl", "cinc2021"):
        with pytest.raises(EcgError, match="unknown corpus.*ptb-xl.*own"):
            folder.records(tmp_path, **options, corpus=wrong)


def test_mitdb_keeps_one_person_on_one_side_and_says_which_half_was_published(tmp_path):
    _mitdb(tmp_path)
    mitdb = datasets.get("mitdb")
    records = mitdb.records(tmp_path).set_index("record_id")
    assert list(records.half) == ["DS2"] * 3 and list(records.split) == ["test", "test", ""]
    assert records.patient_id["202"] == "201" and mitdb.NOTE in mitdb.records(tmp_path).attrs["notes"]
    states = mitdb.labels(tmp_path, records.reset_index())
    assert states.loc["202", ["atrial_fibrillation", "pac", "pvc"]].to_list() == [1, 1, 0]
    assert states.loc["100", ["atrial_fibrillation", "pac", "pvc"]].to_list() == [0, 0, 1]
    assert set(mitdb.LABELS) <= set(labels.vocabulary("harmonised").key)
    assert [len(of.split()) for of in mitdb._HALVES.values()] == [22, 22, 4] and len(mitdb.HALF) == 48
    (tmp_path / "202.atr").unlink()
    with pytest.raises(EcgError, match="202.atr"):
        mitdb.labels(tmp_path, records.reset_index())
    (tmp_path / "RECORDS").write_text("100\n999\n")
    with pytest.raises(EcgError, match="999"):
        mitdb.records(tmp_path)


def test_cinc2011_text_form_is_read_as_the_wfdb_form(tmp_path):
    _cinc2011(tmp_path)
    cinc = datasets.get("cinc2011")
    records = cinc.records(tmp_path)
    assert cinc.labels(tmp_path, records).unacceptable.to_dict() == {"1000001": 0, "1000002": 1, "1000003": 0}
    wfdb_form = cinc.read(records.iloc[1])
    for path in records.path:
        counts = np.round(cinc.read({"path": path, "record_id": "x", "patient_id": "x"}).signal * 200).astype(int)
        counts[[4, 5]] = counts[[5, 4]]  # in the text form aVF stands before aVL
        lines = [",".join(map(str, (i, *row))) for i, row in enumerate(counts.T)]
        Path(f"{path}.txt").write_text("\n".join(lines))
        Path(f"{path}.hea").unlink()
    text_form = cinc.read(cinc.records(tmp_path).iloc[1])
    assert text_form.leads == LEADS and text_form.fs == 500 and text_form.patient_id == "1000002"
    np.testing.assert_allclose(text_form.signal, wfdb_form.select(LEADS).signal, atol=0.0026)
    Path(f"{records.path[0]}.txt").write_text("0,1,2\n")
    with pytest.raises(EcgError, match="3 columns, not a sample number and 12 leads"):
        cinc.read(records.iloc[0])
    Path(f"{records.path[0]}.txt").unlink()
    assert "1 of 3 recordings are not there" in cinc.records(tmp_path).attrs["notes"][1]
    (tmp_path / "RECORDS-unacceptable").write_text("1000001\n")
    with pytest.raises(EcgError, match="1000001 stands in both lists"):
        cinc.records(tmp_path)


def test_real_recordings_of_cinc2011_keep_goldbergers_identities(real_data):
    cinc, errors = datasets.get("cinc2011"), []
    for row in cinc.records(real_data / "cinc2011").itertuples():
        x = cinc.read(row).signal
        x = x - np.median(x, axis=1, keepdims=True)
        size = np.abs(x[:6]).mean()
        errors += [np.abs(x[4] - (x[0] - x[2]) / 2).mean() / size] if size else []
    assert len(errors) > 70 and np.median(errors) < 0.1, "aVL = (I - III) / 2"


def test_qtdb_leaves_out_leads_without_a_standard_name_and_says_who_marked(tmp_path):
    _qtdb(tmp_path)
    qtdb = datasets.get("qtdb")
    records = qtdb.records(tmp_path)
    assert list(records.experts) == [2, 1, 1] and records.age[0] == 69 and records.sex[0] == "male"
    assert qtdb.read(records.iloc[0]).leads == ("II", "V2") and np.isnan(records.age[1])
    assert qtdb.labels(tmp_path, records).p_waves.tolist() == [0, 1, 0]
    (tmp_path / "RECORDS").write_text("sel2\nsel9\n")
    assert list(qtdb.records(tmp_path).record_id) == ["sel2"]


def test_nstdb_knows_its_levels_and_where_noise_was_added(tmp_path):
    _nstdb(tmp_path)
    nstdb = datasets.get("nstdb")
    records = nstdb.records(tmp_path)
    assert records.snr_db.tolist() == [24, -6, 0] and records.patient_id.tolist() == ["118", "118", "119"]
    assert nstdb.noisy_spans(1805.6)[:2] == [(300, 420), (540, 660)] and nstdb.noisy_spans(1805.6)[-1] == (1740, 1805.6)
    assert nstdb.noisy_spans(200) == []
    (tmp_path / "RECORDS").unlink()
    assert "9 of 12" in nstdb.records(tmp_path).attrs["notes"][1]
