"""The table of a user's folder: which column is what, what a cell says, and what stops with row, column and remedy."""

import numpy as np
import pytest
from crude_corpus import corpus

from ecglib import EcgError, datasets

FOLDER = datasets.get("folder")
HEAD = "record,patient,split,"
NAN = float("nan")


def read(path, text, **options):
    path.joinpath("records.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    records = FOLDER.records(path, **options)
    return records, FOLDER.labels(path, records, **options)


def refusal(path, text, **options) -> EcgError:
    with pytest.raises(EcgError) as caught:
        read(path, text, **options)
    return caught.value


def rows(cells, head=HEAD) -> str:
    """A table with one more column, which has the cells."""
    lines = [f'r{i},p{i},{("train", "test", "val")[i % 3]},"{cell}"' for i, cell in enumerate(cells)]
    return "\n".join([head, *lines]) + "\n"


@pytest.mark.parametrize(
    ("column", "role"),
    [(name, "patient") for name in ("patient_id", "PatientID", "Patient ID", "subject_id", "SUBJECT", "pid", "pat_id")]
    + [(name, "patient") for name in ("Patientennummer", "id_paciente", "participant", "MRN", "person-id", "patients")]
    + [(name, "patient") for name in ("patient_uuid", "unique_patient_id", "hashed_patient_id", "patient_id_hash")]
    + [(name, "patient") for name in ("deidentified_patient_id", "case_id", "hospital_number", "patnum")]
    + [(name, "split") for name in ("train_val_test", "test_fold", "validation_set", "holdout", "ml_split")]
    + [(name, "split") for name in ("fold", "strat_fold", "Fold 5", "splits", "data_split", "partition", "subset")]
    + [(name, "split") for name in ("is_train", "set", "dataset_split", "test")]
    + [("gender", "sex"), ("Sex code", "sex"), ("age_years", "age"), ("PatientAge", "age")],
)
def test_a_column_that_looks_like_one_that_is_used_stops_with_the_option(tmp_path, column, role):
    text = f"record,{column},NORM\na,1,1\nb,1,0\nc,2,1\n"
    error = refusal(tmp_path, text)
    assert error.field == column and f"{role}={column}" in error.fix and f"{role}=null" in error.fix
    beside = f"record,{role},{column},NORM\na,,1,1\nb,,1,0\n"
    if role in ("patient", "split"):
        assert refusal(tmp_path, beside).field == column
    else:
        assert column in read(tmp_path, beside, patient=None, split=None)[0].attrs["read_as"]["metadata"]
    records, states = read(tmp_path, text, **{role: None})
    assert list(states) == ["NORM"] and column in str(records.attrs["read_as"])
    assert "no patient" in " ".join(records.attrs["notes"])
    assert len(FOLDER.records(tmp_path, **{role: None}, drop=[column])) == 3
    if role == "patient":
        records, _ = read(tmp_path, text, patient=column)
        assert list(records.patient_id) == ["1", "1", "2"] and records.split[0] == records.split[1]
        assert records.attrs["read_as"]["patients"] == f"column {column}"


@pytest.mark.parametrize("column", ["dataset", "usage", "phase", "role", "train_val", "What for?"])
@pytest.mark.parametrize(
    "cells",
    ["train valid test", "Training Validation Testing", "TRAIN DEV HOLD-OUT", "train_set NA test", "test test NA"],
)
def test_a_column_of_names_of_splits_stops_whatever_its_name(tmp_path, column, cells):
    text = f"record,patient,{column},NORM\n" + "".join(f"r{i},p{i},{c},{i % 2}\n" for i, c in enumerate(cells.split()))
    error = refusal(tmp_path, text)
    assert error.field == column and f"split={column}" in error.fix and "split=null" in error.fix
    records, states = read(tmp_path, text, split=None)
    assert column in records.attrs["read_as"]["metadata"] and list(states) == ["NORM"]


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("dataset", "ptb ludb ptb"),
        ("usage", "clinical research clinical"),
        ("phase", "rest exercise recovery"),
        ("phase", "3 4 5"),
        ("protocol", "treadmill test bicycle"),
        ("patient_height", "170 181 165"),
        ("patient_status", "stable discharged stable"),
        ("patient_class", "inpatient outpatient inpatient"),
        ("hospital", "north south north"),
        ("case_status", "open closed open"),
        ("study", "rest holter rest"),
        ("stress_test", "positive negative none"),
        ("test_date", "2020-01-01 2020-01-02 2020-01-03"),
        ("trainer", "ann bob ann"),
        ("value", "a b c"),
        ("remark", "NA NA NA"),
    ],
)
def test_columns_that_only_sound_like_patients_or_splits_are_metadata(tmp_path, column, cells):
    rows = "".join(f"r{i},p{i},{'train' if i else 'test'},{c},{i % 2}\n" for i, c in enumerate(cells.split()))
    records, states = read(tmp_path, f"{HEAD}{column},NORM\n{rows}")
    assert column in records.attrs["read_as"]["metadata"] and list(states) == ["NORM"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"patient": "subjectid"}, "subjectid"),
        ({"patient": "Subject_ID"}, "Subject_ID"),
        ({"patient": "subject_id", "split": "fold"}, "fold"),
        ({"patient": "subject_id", "split": "Strat_fold"}, "Strat_fold"),
        ({"patient": "subject_id", "split": "trian"}, "trian"),
        ({"patient": "patient", "split": None}, "patient"),
        ({"patient": None, "split": None, "age": "Age"}, "Age"),
        ({"patient": None, "split": None, "id": "ID"}, "ID"),
        ({"patient": None, "split": None, "record": "path"}, "path"),
        ({"patient": None, "split": None, "drop": ["nurse"]}, "nurse"),
        ({"patient": None, "split": None, "where": {"ward": "a"}}, "ward"),
        ({"patient": None, "split": None, "where": {"strat_fold": [1, "2", "11"]}}, "where"),
        ({"patient": None, "split": None, "sex_codes": ["f", "m"]}, "sex_codes"),
        ({"patient": None, "split": None, "lead_names": {"MLII": "2"}}, "lead name"),
        ({"patient": None, "split": None, "labels_format": "lists"}, "labels_format"),
        ({"patient": ["subject_id"]}, "patient"),
        ({"split": {"fold": 1}}, "split"),
        ({"csv": None}, "csv"),
        ({"extra": 3}, "extra"),
        ({"patient": None, "split": None, "label_separator": 3}, "label_separator"),
        ({"drop": ["record"]}, "record"),
        ({"drop": "NORM", "labels": ["NORM"], "patient": None, "split": None}, "NORM"),
        ({"separator": ""}, "separator"),
        ({"separator": ";;"}, "separator"),
        *[
            ({name: wrong}, name)
            for name in ("labels", "drop")
            for wrong in (7, True, [["NORM"]], ["NORM", 1], {"A": 1})
        ],
        ({"labels": ""}, "labels"),
        ({"vocabulary": ["scp"]}, "vocabulary"),
        ({"corpus": ["ptb-xl"]}, "corpus"),
        ({"labels_format": ["list"]}, "labels_format"),
    ],
)
def test_what_an_option_names_must_be_there(tmp_path, options, field):
    text = "record,subject_id,strat_fold,NORM\n" + "".join(f"r{i},P{i // 4},{i % 10},{i % 2}\n" for i in range(12))
    error = refusal(tmp_path, text, **options)
    assert error.field == field
    if field in ("labels", "drop"):
        assert error.file == str(tmp_path / "records.csv") and f"{field}=[A, B]" in error.fix


@pytest.mark.parametrize(
    "head", ["Record, Patient , SPLIT,NORM", " record,PATIENT,Split ,NORM", "RECORD,patient,split,NORM"]
)
def test_capitals_and_blanks_of_the_usual_names_do_not_count(tmp_path, head):
    records, states = read(tmp_path, f"{head}\na, p1,train,1\nb,p1 , train,0\nc,p2,test,1\n")
    assert list(records.patient_id) == ["p1", "p1", "p2"] and list(records.split) == ["train", "train", "test"]
    assert list(states.NORM) == [1, 0, 1] and records.attrs["notes"] == []


@pytest.mark.parametrize("nobody", ["", "nan", "None", "NA", "N/A", "NULL", "<NA>", "#N/A", "NaN", "unknown"])
def test_patients_without_a_name_are_not_one_patient(tmp_path, nobody):
    records, _ = read(tmp_path, "record,patient,NORM\n" + "".join(f"r{i},{nobody},{i % 2}\n" for i in range(8)))
    assert records.patient_id.nunique() == 8 and "8 of 8 records name no patient" in records.attrs["notes"][0]


@pytest.mark.parametrize(
    ("one", "other"), [("17", "17.0"), ("017", "17"), ("p1", "P1"), ("p 1", "p1"), ("1７", "17"), ("a\u200bb", "ab")]
)
def test_two_spellings_of_one_patient_stop(tmp_path, one, other):
    error = refusal(tmp_path, f"record,patient,split,NORM\na,{one},train,1\nb,x,val,0\nc,{other},test,0\n")
    assert error.field == "patient" and "row 4" in error.reason and repr(one) in error.reason


@pytest.mark.parametrize("cell", ["1.23E+15", "4e+10", "1,2E+12", "#REF!", "#NAME?", "#DIV/0!"])
def test_what_a_spreadsheet_made_of_a_number_names_no_patient(tmp_path, cell):
    error = refusal(tmp_path, f'record,patient,split,NORM\na,1,train,1\nb,"{cell}",val,0\n')
    assert error.field == "patient" and "row 3" in error.reason and "text" in error.fix


@pytest.mark.parametrize("name", ["is_AF", "has_MI", "N", "noise", "no_finding", "AF event", "1dAVb", "My label"])
def test_columns_of_0_and_1_are_labels_whatever_their_name(tmp_path, name):
    records, states = read(tmp_path, rows("0110", HEAD + name))
    assert list(states) == [name] and list(states[name]) == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("cells", "states"),
    [
        (("1", "0", "NA"), [1, 0, -1]),
        (("True", "FALSE", "0"), [1, 0, 0]),
        (("1.0", "", "0.0"), [1, -1, 0]),
        (("nan", "1", "-1"), [-1, 1, -1]),
        (("present", "absent", "possible"), [1, 0, 2]),
        (("1", "NULL", "false"), [1, -1, 0]),
    ],
)
@pytest.mark.parametrize("name", ["MI", "finding"])
def test_cells_of_a_label_column(tmp_path, name, cells, states):
    assert list(read(tmp_path, rows(cells, HEAD + name))[1][name]) == states


@pytest.mark.parametrize("wrong", ["l", "O", "0.5", "100", "yes", "x", "3", "1?", "0,5", "-2", "None", "1 0"])
@pytest.mark.parametrize("name", ["MI", "AFIB", "finding"])
def test_a_cell_that_is_no_state_names_row_and_column(tmp_path, name, wrong):
    error = refusal(tmp_path, rows(("1", "0", wrong, "0"), HEAD + name))
    assert error.field == name and "row 4" in error.reason and repr(wrong) in error.reason and "labels=" in error.fix


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("label", "012"),
        ("class", "0123"),
        ("centre_code", "0121"),
        ("klinik", "0121"),
        ("visit", "1213"),
        ("site", "0120"),
        ("grade", "1212"),
        ("smoking", "0101"),
        ("is_smoker", "0110"),
        ("VisitNo", "1010"),
        ("hospital", "0101"),
        ("diabetes", "0110"),
        ("", "0123"),
        ("Unnamed: 0", "0123"),
        ("index", "0123"),
    ],
)
def test_codes_and_metadata_do_not_become_labels(tmp_path, column, cells):
    """They stop, or are metadata and said to be."""
    lines = [f"r{i},p{i},train,{i % 2},{cell}" for i, cell in enumerate(cells)]
    text = "\n".join([f"record,patient,split,NORM,{column}", *lines]) + "\n"
    if not column:
        text = "\n".join([f",{HEAD}NORM", *(f"{i},r{i},p{i},train,{i % 2}" for i in range(4))]) + "\n"
    try:
        records, states = read(tmp_path, text)
    except EcgError as error:
        assert error.field == column and "labels=[NORM]" in error.fix and "number of a class" in error.fix
        records, states = read(tmp_path, text, labels=["NORM"])
    assert list(states) == ["NORM"] and (column or "Unnamed: 0") in records.attrs["read_as"]["metadata"]
    assert records[column or "Unnamed: 0"].astype(int).tolist() == [int(c) for c in cells]


@pytest.mark.parametrize("name", ["label", "class", "diagnosis", "Target"])
def test_numbers_of_classes_are_refused_even_when_named(tmp_path, name):
    for cells in (("0", "1", "2"), ("0", "3", "1"), ("0.0", "1.0", "2.0")):
        error = refusal(tmp_path, rows(cells, HEAD + name), labels=name)
        assert error.field == name and "number of a class" in error.fix and "write its name" in error.fix
    error = refusal(tmp_path, rows(("0", "1", "12"), HEAD + "labels"))
    assert error.field == "labels" and "write its name" in error.fix


LISTS = [
    ("NORM|SR", "MI|SR?", "none", {}),
    ("NORM, SR", "MI,SR ?", "none", {"label_separator": ","}),
    ("NORM;SR", "SR?; MI", "none", {"label_separator": ";"}),
    ("['NORM', 'SR']", "['MI', 'SR?']", "[]", {"labels_format": "list"}),
    ('[""NORM"",""SR""]', '[""MI"", ""SR ?""]', "[]", {"labels_format": "list"}),
    ("{'NORM': 1, 'SR': 1}", "{'MI': True, 'SR': 'possible'}", "{'SR': 0.0}", {"labels_format": "states"}),
    ('{""NORM"": 1, ""SR"": true}', '{""MI"": 1, ""SR"": 2}', "{}", {"labels_format": "states"}),
    ("{'NORM': 100.0, 'SR': 0.0}", "{'MI': 15.0, 'SR?': 0}", "{}", {"labels_format": "likelihoods"}),
]


@pytest.mark.parametrize(("first", "second", "third", "options"), LISTS)
def test_lists_of_names_are_parsed_when_an_option_says_how(tmp_path, first, second, third, options):
    _, states = read(tmp_path, rows((first, second, third, "NA"), HEAD + "labels"), **options)
    assert list(states) == ["MI", "NORM", "SR"]
    assert states.to_numpy().tolist() == [[0, 1, 1], [1, 0, 2], [0, 0, 0], [-1, -1, -1]]
    if options and "|" not in first:  # without the option the first cell that tells is named
        error = refusal(tmp_path, rows((first, second, third, "NA"), HEAD + "labels"))
        assert "row 2" in error.reason and next(iter(options)) in error.fix


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        (("NORM", "None"), {}),
        (("NORM", "MI|nan"), {}),
        (("NORM", "MI|none"), {}),
        (("NORM", "MI??"), {}),
        (("NORM", "MI|MI?"), {}),
        (("NORM", "Norm"), {}),
        (("MI", "SR", "MI SR"), {}),
        (("MI", "SR", "MI/SR"), {}),
        (("MI", "SR", "MI+SR"), {}),
        (("MI", "SR; MI"), {}),
        (("MI", "426783006.0"), {}),
        (("['MI', 'SR']", "['MI' 'SR']"), {"labels_format": "list"}),
        (("['MI', 'SR']", "['MI', 3]"), {"labels_format": "list"}),
        (("['MI', 'SR']", "['MI', 'MI']"), {"labels_format": "list"}),
        (("['MI', 'SR']", "MI"), {"labels_format": "list"}),
        (("['MI', 'SR']", "['MI'"), {"labels_format": "list"}),
        (("['MI', 'SR']", "__import__('os').getcwd()"), {"labels_format": "list"}),
        (("{'MI': 1}", "{'MI': 100.0}"), {"labels_format": "states"}),
        (("{'MI': 1}", "['MI']"), {"labels_format": "states"}),
        (("{'MI': 1}", "{'MI': 101}"), {"labels_format": "likelihoods"}),
        (("{'MI': 1}", "{'MI': 'x'}"), {"labels_format": "likelihoods"}),
    ],
)
def test_a_cell_that_is_no_clear_list_of_names_is_named(tmp_path, cells, options):
    error = refusal(tmp_path, rows(cells, HEAD + "labels"), **options)
    assert error.field == "labels" and f"row {len(cells) + 1}" in error.reason and error.fix


def test_long_codes_and_names_of_several_words_are_names(tmp_path):
    cells = ("426783006|164889003", "atrial fibrillation", "Stemi: septal|AV block (1st)", "none")
    _, states = read(tmp_path, rows(cells, HEAD + "labels"))
    assert set(states) == {"164889003", "426783006", "AV block (1st)", "Stemi: septal", "atrial fibrillation"}
    assert states.sum(axis=1).tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize("again", ["./ward/r0", "ward/r0.hea", "ward//r0", "x/../ward/r0", "link/r0", "copy"])
def test_one_recording_under_two_spellings_stops(tmp_path, again):
    corpus(tmp_path / "ward", n=2, fs=100)
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ward")
    (tmp_path / "copy.hea").symlink_to(tmp_path / "ward/r0.hea")
    text = f"record,patient,split,NORM\nward/r0,1,train,1\nward/r1,2,val,0\n{again},3,test,1\n"
    error = refusal(tmp_path, text)
    assert error.field == "record" and "row 4" in error.reason and "row 2, 'ward/r0'" in error.reason


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("n,who\n18,p8\n9,p9\n", "row 2: '7' is not in more.csv, nor is any other"),
        ("n,who\n7.0,p7\n8,p8\n", "row 2: '7' is '7.0' in more.csv"),
        ("n,who\n07,p7\n8,p8\n", "row 2: '7' is '07' in more.csv"),
        ("n,who\n7,p7\n7,p8\n", "row 3: '7' is there twice"),
        ("number,who\n7,p7\n", "no column n"),
        ("n;who\n7;p7\n", "separated by ';'"),
    ],
)
def test_keys_of_an_extra_table_that_do_not_fit_stop(tmp_path, more, message):
    (tmp_path / "more.csv").write_text(more)
    text = "n,record,split,NORM\n7,a,train,1\n8,b,test,0\n"
    assert message in str(refusal(tmp_path, text, id="n", extra="more.csv", patient="who"))


def test_what_an_extra_table_does_not_give_is_noted(tmp_path):
    (tmp_path / "more.csv").write_text("n,who,age\n7,p7,50\n9,p9,60\n")
    records, _ = read(tmp_path, "n,record,age,NORM\n7,a,40,1\n8,b,41,0\n", id="n", extra="more.csv", patient="who")
    notes = " ".join(records.attrs["notes"])
    assert list(records.patient_id) == ["p7", "record 8"] and list(records.age) == [40, 41]
    assert "1 of 2 records are not in more.csv, such as 8" in notes and "columns age are those of records.csv" in notes


def test_metadata_are_numbers_where_all_that_is_known_is_one(tmp_path):
    head = f"{HEAD}NORM,height,code,ecg,chol,note\n"
    text = f'{head}a,1,train,1,170,007,12345678901234567890,5.1,x\nb,2,test,0,NA,012,12345678901234567891,"4,9",NA\n'
    records, _ = read(tmp_path, text + "c,3,val,1,,013,12345678901234567892,5.0,\n")
    np.testing.assert_array_equal(records.height, [170, NAN, NAN])
    assert list(records.code) == ["007", "012", "013"] and records.ecg[0] == "12345678901234567890"
    assert list(records.chol) == ["5.1", "4,9", "5.0"] and list(records.note.fillna("")) == ["x", "NA", ""]
    assert records.attrs["notes"] == ["column chol is kept as text, not numbers, because of '4,9'"]


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_other_separators_are_named_and_read_when_said(tmp_path, sign):
    text = f"{HEAD}NORM\na,1,train,1\nb,2,test,0\n".replace(",", sign)
    error = refusal(tmp_path, text)
    assert error.field == "separator" and f"separator={sign!r}" in error.fix
    for said in (sign, repr(sign)[1:-1]):  # a shell hands over backslash and t
        assert list(read(tmp_path, text, separator=said)[1].NORM) == [1, 0]
