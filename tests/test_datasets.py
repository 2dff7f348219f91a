"""One contract for all datasets, on three tiny files in each corpus's own format, and the traps of single corpora."""

import numpy as np
import pandas as pd
import pytest

from ecglib import datasets, labels, splits, wfdb_io
from ecglib.signals import LEADS, EcgError

FS, N_TIMES, PULSE = 100, 200, 50
SHUFFLED = ("V6", "aVF", "I", "V1", "II", "aVL", "V2", "III", "aVR", "V3", "V5", "V4")


def _write(folder, name, leads=SHUFFLED, fs=FS, spelling=str, fmt="16", pulse="V2"):
    """A record of small waves with a pulse of exactly 1 mV in one lead."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = np.tile(np.arange(N_TIMES) % 7, (len(leads), 1))
    counts[leads.index(pulse), PULSE] = 1000
    wfdb_io.write(folder, name, counts, fs, [spelling(n) for n in leads], 1000, fmt=fmt)


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


def _folder(root):
    for i, spelling in enumerate((str, str.lower, "Lead {}".format)):
        _write(root / "ward", f"r{i}", spelling=spelling, fmt="212" if i else "16")
    text = "record,patient,split,age,sex,site,NORM,MI\nward/r0,p1,train,61,F,a,1,0\n"
    (root / "records.csv").write_text(text + "ward/r1.hea,p1,train,,,b,0,2\nward/r2,p2,test,70,male,,,1\n")
    return {}


BUILDERS = {"ptbxl": _ptbxl, "ludb": _ludb, "cinc2017": _cinc2017, "folder": _folder}


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
        pulse = "V2" if "V2" in dataset.LEADS else "I"
        assert np.argwhere(chosen.signal > 0.5).tolist() == [[dataset.LEADS.index(pulse), PULSE]]
        assert chosen.signal[dataset.LEADS.index(pulse), PULSE] == 1.0

    missing = records.iloc[0].to_dict() | {"path": str(tmp_path / "nowhere")}
    with pytest.raises(EcgError):
        dataset.read(missing)
    with pytest.raises(EcgError):
        dataset.records(tmp_path / "nowhere", **options)


def test_every_public_dataset_is_under_contract():
    assert set(datasets.names()) - {"simulated"} == set(BUILDERS)
    with pytest.raises(EcgError, match="cinc2017, folder, ludb"):
        datasets.get("ptb_xl")


def test_ptbxl_folds_ages_likelihoods_and_rates(tmp_path):
    _ptbxl(tmp_path)
    ptbxl = datasets.get("ptbxl")
    records = ptbxl.records(tmp_path)
    assert list(records.split) == ["train", "val", "test"] and list(records.sex) == ["female", "male", "female"]
    assert records.age.iloc[2] == 90 and list(records.age_over_89) == [0, 0, 1]
    assert ptbxl.read(ptbxl.records(tmp_path, rate=500).iloc[0]).fs == 500
    superclass = ptbxl.labels(tmp_path, records)
    assert superclass.to_numpy().tolist() == [[1, 0, 0, 0, 0], [0, 2, 0, 0, 0], [-1] * 5]
    rhythm = ptbxl.labels(tmp_path, records, label_set="rhythm")
    assert list(rhythm.AFIB) == [0, -1, 1]
    assert list(ptbxl.labels(tmp_path, records, label_set="all").AFIB) == [0, 0, 1]
    assert list(ptbxl.labels(tmp_path, records, label_set="sub").IMI) == [0, 2, -1]
    common = ptbxl.labels(tmp_path, records, label_set="harmonised")
    assert list(common.normal_ecg) == [1, 0, 0] and list(common.atrial_fibrillation) == [0, -1, 1]
    assert set(ptbxl.labels(tmp_path, records, label_set="form").to_numpy().ravel()) == {-1}
    for wrong in ({"rate": 250}, {"label_set": "supper"}):
        with pytest.raises(EcgError, match="use"):
            ptbxl.records(tmp_path, **wrong)


def test_ludb_cells_hold_several_lines_and_paced_or_undefined_records_are_left_out(tmp_path):
    _ludb(tmp_path)
    ludb = datasets.get("ludb")
    records = ludb.records(tmp_path)
    assert list(records.age) == [51, 90, 30] and list(records.sex) == ["female", "male", "male"]
    states = ludb.labels(tmp_path, records)
    assert {c: list(states[c]) for c in states} == {"MI": [1, -1, 0], "CD": [1, -1, 0]}
    common = ludb.labels(tmp_path, records, label_set="harmonised")
    assert list(common.atrial_fibrillation) == [0, 0, 1] and list(common.av_block_1) == [1, 0, 0]
    with pytest.raises(EcgError, match="no wave annotations"):
        ludb.waves(records.iloc[0], "II")


def test_ludb_waves_keep_what_the_readers_marked(tmp_path):
    import wfdb

    samples, symbols = [3, 5, 8, 20, 25, 30, 40, 45], ["(", "p", ")", "(", "N", ")", "t", ")"]
    wfdb.wrann("1", "ii", np.array(samples), symbols, write_dir=str(tmp_path))
    waves = datasets.get("ludb").waves({"path": str(tmp_path / "1")}, "II")
    assert waves.to_numpy().tolist() == [["P", 3, 5, 8], ["QRS", 20, 25, 30], ["T", -1, 40, 45]]


def test_cinc2017_split_is_stratified_and_depends_on_names_only(tmp_path):
    names = [f"A{i:05d}" for i in range(400)]
    codes = ["N"] * 240 + ["O"] * 100 + ["A"] * 40 + ["~"] * 20
    (tmp_path / "REFERENCE-v3.csv").write_text("".join(f"{n},{c}\n" for n, c in zip(names, codes, strict=True)))
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
        ("record,NORM\na,1\n", {"labels": "NORM|MI"}, "no column MI.*columns there: record, NORM"),
        ("record,age\na,50\n", {}, "no label column"),
        ("file,NORM\na,1\n", {}, "no column record"),
        ("record,NORM\n", {}, "no records in the table"),
        ("", {}, "not a readable CSV table"),
        ("record,NORM\na,1\na,0\n", {}, "'a'"),
        ("record,patient,split,NORM\na,p,train,1\nb,p,test,0\n", {}, "'p' in test, train"),
        ("record,split,NORM\na,training,1\n", {}, "unknown split 'training'"),
        ("record,NORM\na,yes\n", {"labels": "NORM|NORM"}, "'yes' is no label state"),
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
    counts = [len(ludb.waves(row, "II")) for row in records.itertuples()]
    assert 3000 < sum(counts) < 6000  # 58,429 waves in twelve leads
    classes = cinc.labels(real_data / "cinc2017", cinc.records(real_data / "cinc2017")).sum().to_dict()
    assert classes == {"AFIB": 133, "normal": 893, "other": 425, "noisy": 49}
    records = ptbxl.records(real_data / "ptb-xl")
    published = pd.read_csv(real_data / "ptb-xl-2k" / "superclass.csv", index_col="ecg_id")
    states = ptbxl.labels(real_data / "ptb-xl", records)
    states.index = states.index.astype(int)
    both = states.index.intersection(published.index)
    assert ((states.loc[both] > 0) == (published.loc[both, list(states)] == 1)).all(axis=None)


def test_the_corpus_of_a_folder_is_one_that_cards_name(tmp_path):
    """A misspelt name would let a model pass that was pretrained on it."""
    options = _folder(tmp_path)
    folder = datasets.get("folder")
    assert len(folder.records(tmp_path, **options, corpus="ptb-xl")) == 3
    for wrong in ("PTB-XL", "ptbxl", "cinc2021"):
        with pytest.raises(EcgError, match="unknown corpus.*ptb-xl.*own"):
            folder.records(tmp_path, **options, corpus=wrong)
