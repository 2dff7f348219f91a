"""Bring your own ECGs: any folder of WFDB records plus one CSV with a row per record.

    record,patient,split,age,sex,report,NORM,MI            or            record,patient,labels
    ward/0001,17,train,64,F,sinus rhythm,1,0                             ward/0001,17,NORM
    ward/0002,18,test,,,,0,                                              ward/0002,18,MI|LVH?

`record` is the path of the record inside the folder (extension optional). One column per label: 1 present, 0 absent,
2 possible, -1 or empty unknown. One column of names: `|` between them, `?` behind a doubtful one, `none` where nothing
was found, empty where nobody looked (then every label is unknown).
Without a patient (column or cell) a record counts as its own patient; without a split column one is dealt by patient;
both are noted. age, sex and report are used where they are there; the other columns travel along as metadata.
"""

import json
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pandas as pd

from ecglib import datasets, notes, splits
from ecglib import labels as vocabulary
from ecglib.signals import LEADS, EcgError, Recording, record_path

URL = ""
VERSION = ""
LICENCE = "that of the recordings"
CITATION = "that of the recordings"
N_RECORDS = None
FS = None
VOCABULARY = None
CORPUS = ""
FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
OPTIONS = {
    "csv": "records.csv",  # the table, inside the folder
    "record": "record",  # column: path of the record
    "patient": "patient",  # column: patient
    "split": "split",  # column: split; or a split name ("external") for all records
    "id": None,  # column: record id (default: the record path)
    "labels": None,  # columns "NORM|MI", or one column of names (default: "labels", else every column of 0 and 1)
    "lead_names": None,  # name in the files -> standard name, "" to leave a channel out: {"MLII": "II", "resp": ""}
    "sex_codes": None,  # cell -> sex where it is not a word: {"0": "male", "1": "female"}
    "vocabulary": None,  # what the label names mean: a source of `labels.match`, such as "scp"; None: nothing known
    "corpus": None,  # public corpus that these recordings are from, "own" if none: published models may have seen it
    "extra": None,  # another CSV with more columns (path from the folder), joined on the column `id`
}
_SEX = {"f": "female", "female": "female", "m": "male", "male": "male", "": ""}
_CELL = {f"{state}{tail}": state for state in (1, 0, 2, -1) for tail in ("", ".0")} | {"": vocabulary.UNKNOWN}

__all__ = ["LEADS", "labels", "read", "records"]


def records(root, **options) -> pd.DataFrame:
    """List the records of the CSV. Options and their defaults: `OPTIONS`.

    Raises EcgError for an unknown option, a missing table or column, an empty table, a record listed twice, a patient
    in two splits, an unknown split or sex, an age that is none, and labels that `labels` refuses.
    """
    table, path, use = _open(root, options)
    label_columns, is_list = _label_columns(table, use, path)
    out = pd.DataFrame({"record_id": table[use.id or use.record].to_numpy(str)})
    notes = []
    out["patient_id"] = _patients(table, use, out.record_id, notes)
    out["path"] = [str(Path(root).resolve() / record_path(PurePosixPath(r))) for r in table[use.record]]
    out["split"] = table[use.split].to_numpy() if use.split in table else ""
    out["age"] = _ages(table, path)
    out["sex"] = _sexes(table, use.sex_codes or {}, path)
    out["report"] = table.report.to_numpy() if "report" in table else ""
    if use.lead_names:
        out["lead_names"] = json.dumps(use.lead_names, sort_keys=True)
    if use.split in splits.SPLITS and use.split not in table:
        out["split"] = use.split
    elif use.split not in table:
        out["split"] = splits.assign(out, FRACTIONS, 0, _states(table, label_columns, is_list, path)).to_numpy()
        notes.append("the table has no split: dealt by patient, 70 % train, 10 % val, 20 % test")
    try:
        splits.check(out)
    except EcgError as error:
        raise EcgError(error.reason, file=path, field=error.field, fix=error.fix) from error
    used = {use.id, use.record, use.patient, use.split, *label_columns, *out}
    metadata = table[[c for c in table if c not in used]].replace("", np.nan).reset_index(drop=True)
    out = pd.concat([out, metadata.apply(_numbers_if_all)], axis=1)
    out.attrs["notes"] = notes
    return out


def labels(root, records: pd.DataFrame, **options) -> pd.DataFrame:
    """Return the label states of `records`. Raises EcgError for a missing label column and a cell that is no state."""
    table, path, use = _open(root, options)
    states = _states(table, *_label_columns(table, use, path), path)
    states.index = pd.Index(table[use.id or use.record].to_numpy(str), name="record_id")
    return states.loc[list(records.record_id)]


def read(row) -> Recording:
    """Read one record of `records`; its leads must have standard names, if need be through the option `lead_names`."""
    names = datasets.cell(row, "lead_names")
    return datasets.load(row, json.loads(names) if isinstance(names, str) else None)


def _open(root, options: dict) -> tuple[pd.DataFrame, Path, SimpleNamespace]:
    """The table as text without blanks around, its path, and all options."""
    wrong = [name for name in options if name not in OPTIONS]
    if wrong:
        raise EcgError(f"unknown option {wrong[0]!r}", field="options", fix=f"use some of {', '.join(OPTIONS)}")
    use = SimpleNamespace(**(OPTIONS | options))
    if use.corpus and use.corpus not in notes.CORPORA:
        fix = f"use one of {', '.join(notes.CORPORA)}; own: of no public corpus"
        raise EcgError(f"unknown corpus {use.corpus!r}", field="corpus", fix=fix)
    path = Path(root) / use.csv
    as_text = {"dtype": str, "keep_default_na": False}
    table = datasets.table(path, [c for c in (use.record, use.id) if c], **as_text)
    if table.empty:
        raise EcgError("no records in the table", file=path, fix="add a row per record")
    if use.extra:
        if use.id is None:
            raise EcgError("the option extra needs the option id", field="id", fix="name the column to join on")
        more = datasets.table(Path(root) / use.extra, [use.id], **as_text)
        new = [use.id, *(c for c in more if c not in table)]
        table = table.merge(more[new], on=use.id, how="left", validate="many_to_one").fillna("")
    return table.apply(lambda column: column.str.strip()), path, use


def _label_columns(table: pd.DataFrame, use: SimpleNamespace, path: Path) -> tuple[list[str], bool]:
    """The label columns, and whether it is one column of names."""
    if use.labels is not None:
        names = use.labels.split("|") if isinstance(use.labels, str) else list(use.labels)
        datasets.require_columns(table, names, path)
        return names, len(names) == 1 and not set(table[names[0]]) <= set(_CELL)
    if "labels" in table:
        return ["labels"], True
    taken = {use.record, use.patient, use.split, use.id, "age", "sex", "report"}
    names = [c for c in table if c not in taken and {""} != set(table[c]) and set(table[c]) <= set(_CELL)]
    if not names:
        there = ", ".join(table)
        raise EcgError("no label column", file=path, field="labels", fix=f"name it (labels=...); columns: {there}")
    return names, False


def _states(table: pd.DataFrame, columns: list[str], is_list: bool, path: Path) -> pd.DataFrame:
    if is_list:
        return _listed(table[columns[0]], path)
    out = {}
    for name in columns:
        wrong = sorted(set(table[name]) - set(_CELL))
        if wrong:
            raise EcgError(
                f"{wrong[0]!r} is no label state", file=path, field=name, fix="use 1, 0, 2, -1 or leave empty"
            )
        out[name] = table[name].map(_CELL).to_numpy(np.int8)
    return pd.DataFrame(out)


def _listed(cells: pd.Series, path: Path) -> pd.DataFrame:
    """States from a column of names such as "MI|LVH?"."""
    split = [[] if cell in ("", "none") else [n.strip() for n in cell.split("|") if n.strip()] for cell in cells]
    names = sorted({n.removesuffix("?") for row in split for n in row})
    if not names:
        raise EcgError("no record has a label", file=path, field=str(cells.name), fix="fill the column")
    states = np.zeros((len(cells), len(names)), np.int8)
    states[(cells == "").to_numpy()] = vocabulary.UNKNOWN
    for i, row in enumerate(split):
        for n in row:
            doubtful = n.endswith("?")
            states[i, names.index(n.removesuffix("?"))] = vocabulary.POSSIBLE if doubtful else vocabulary.PRESENT
    return pd.DataFrame(states, columns=names)


def _patients(table: pd.DataFrame, use: SimpleNamespace, record_ids: pd.Series, notes: list) -> np.ndarray:
    given = table[use.patient].to_numpy() if use.patient in table else np.full(len(table), "", object)
    alone = given == ""
    if alone.any():
        notes.append(f"{alone.sum()} of {len(table)} records name no patient: each counts as its own patient")
    return np.where(alone, "record " + record_ids.to_numpy(object), given)


def _ages(table: pd.DataFrame, path: Path) -> np.ndarray:
    if "age" not in table:
        return np.full(len(table), np.nan)
    ages = pd.to_numeric(table.age, errors="coerce").to_numpy(float)
    wrong = table.age[(np.isnan(ages) & (table.age != "").to_numpy()) | (ages < 0) | (ages > 120)]
    if len(wrong):
        raise EcgError(f"{wrong.iloc[0]!r} is no age in years", file=path, field="age", fix="a number, or empty")
    return ages


def _numbers_if_all(column: pd.Series) -> pd.Series:
    """The column as numbers where every filled cell is one."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if (numbers.notna() == column.notna()).all() else column


def _sexes(table: pd.DataFrame, codes: dict, path: Path) -> np.ndarray:
    if "sex" not in table:
        return np.full(len(table), "", object)
    words = table.sex.replace({str(k): v for k, v in codes.items()}).str.lower()
    wrong = sorted(set(words) - set(_SEX))
    if wrong:
        raise EcgError(
            f"{wrong[0]!r} is no sex", file=path, field="sex", fix="use female, male, F, M, empty, or sex_codes"
        )
    return words.map(_SEX).to_numpy()
