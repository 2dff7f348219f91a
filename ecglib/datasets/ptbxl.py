"""PTB-XL: 21,799 clinical 12-lead ECGs of 10 s with SCP statements, reports and official patient-safe folds.

Ages above 89 are published as 300: here 90 with `age_over_89` = 1, meaning 90 or older.
"""

import ast
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import datasets
from ecglib import labels as vocabulary
from ecglib.signals import LEADS, EcgError, Recording

URL = "https://physionet.org/content/ptb-xl/1.0.3/"
VERSION = "1.0.3"
LICENCE = "CC BY 4.0"
CITATION = "Wagner et al. (2020), PTB-XL, a large publicly available electrocardiography dataset, Scientific Data 7:154"
N_RECORDS = 21799
FS = None  # 100 or 500 Hz, chosen by the option `rate`
VOCABULARY = "scp"
CORPUS = "ptb-xl"  # as on the cards of ecglib.zoo
FASTEST = {"rate": 500}  # option that gives the recordings at their highest rate
LABEL_SETS = ("super", "sub", "all", "diagnostic", "form", "rhythm", "harmonised")
_TABLE = "ptbxl_database.csv"
_FILES = {100: "filename_lr", 500: "filename_hr"}
_METADATA = ("height", "weight", "site", "device", "heart_axis", "validated_by_human", "pacemaker", "extra_beats")

__all__ = ["LEADS", "labels", "read", "records"]


def records(root, *, rate: int = 100, label_set: str = "super") -> pd.DataFrame:
    """List the records of ptbxl_database.csv; folds 1-8 are train, 9 val, 10 test.

    `rate`: 100 or 500 (Hz). Raises EcgError for a missing table or column, another rate, another label set.
    """
    _check_options(rate, label_set)
    db = _database(root)
    age = db.age.astype(float)
    out = pd.DataFrame(
        {
            "record_id": [f"{i:05d}" for i in db.ecg_id],
            "patient_id": [f"{p:.0f}" for p in db.patient_id],
            "path": [str(Path(root).resolve() / p) for p in db[_FILES[rate]]],
            "split": np.select([db.strat_fold <= 8, db.strat_fold == 9], ["train", "val"], "test"),
            "age": np.where(age > 89, 90.0, age),
            "sex": db.sex.map({0: "male", 1: "female"}).fillna("").to_numpy(),
            "report": db.report.fillna("").to_numpy(),
            "age_over_89": (age > 89).astype(np.int8).to_numpy(),
            "fold": db.strat_fold.to_numpy(),
        }
    )
    metadata = db[[c for c in _METADATA if c in db]].reset_index(drop=True)
    return pd.concat([out, metadata], axis=1)


def labels(root, records: pd.DataFrame, *, rate: int = 100, label_set: str = "super") -> pd.DataFrame:
    """Return the states of one label set for `records`.

    "super", "sub", "form" and "rhythm" are UNKNOWN throughout for a record without any statement of that kind, as the
    published tasks leave those records out; "all" and "diagnostic" take every missing statement as absent, as the
    published tasks do. Infarction and hypertrophy at likelihood 15 or 35 are POSSIBLE. "harmonised" has the keys of the
    common vocabulary.
    """
    _check_options(rate, label_set)
    db = _database(root)
    db.index = pd.Index([f"{i:05d}" for i in db.ecg_id], name="record_id")
    tokens = _tokens(db.loc[list(records.record_id)], Path(root) / _TABLE)
    if label_set in ("super", "harmonised"):
        return vocabulary.harmonise(tokens, "scp", vocabulary.SUPERCLASSES if label_set == "super" else None)
    wanted = list(vocabulary.label_set(f"ptbxl_{label_set}").labels)
    if label_set in ("all", "diagnostic"):
        return tokens[wanted]
    table = vocabulary.vocabulary("scp")
    kind = "diagnostic" if label_set == "sub" else label_set
    silent = ~(tokens[table.statement[table[kind] == "1"]] != vocabulary.ABSENT).any(axis=1)
    states = _subclasses(tokens, wanted) if label_set == "sub" else tokens[wanted].copy()
    states[silent] = vocabulary.UNKNOWN
    return states.astype(np.int8)


def read(row) -> Recording:
    """Read one record of `records`: twelve leads, mV."""
    return datasets.load(row)


def _check_options(rate, label_set) -> None:
    if rate not in _FILES:
        raise EcgError(f"no sampling rate {rate!r}", field="rate", fix="use 100 or 500")
    if label_set not in LABEL_SETS:
        raise EcgError(f"unknown label set {label_set!r}", field="label_set", fix=f"use one of {', '.join(LABEL_SETS)}")


def _database(root) -> pd.DataFrame:
    needs = ("ecg_id", "patient_id", "age", "sex", "report", "scp_codes", "strat_fold", *_FILES.values())
    as_text = dict.fromkeys(("report", "heart_axis", "pacemaker", "extra_beats", "scp_codes"), str)
    return datasets.table(Path(root) / _TABLE, needs, dtype=as_text)


def _tokens(db: pd.DataFrame, path: Path) -> pd.DataFrame:
    """States of the 71 statements, and the marks of the common vocabulary that other columns give."""
    table = vocabulary.vocabulary("scp")
    states = np.zeros((len(db), len(table)), np.int8)
    position = {s: i for i, s in enumerate(table.statement)}
    sure = np.zeros(len(db), bool)
    for row, (ecg, cell) in enumerate(db.scp_codes.items()):
        codes = _codes(cell, path, ecg)
        sure[row] = codes.get("NORM") == 100
        for statement, likelihood in codes.items():
            if statement not in position:
                raise EcgError(f"record {ecg}: unknown statement {statement!r}", file=path, field="scp_codes")
            states[row, position[statement]] = vocabulary.scp_state(statement, likelihood)
    tokens = pd.DataFrame(states, index=db.index, columns=list(table.statement))
    given = {k: tokens[table.statement[table[k] == "1"]].ne(0) for k in ("diagnostic", "form", "rhythm")}
    beside = given["diagnostic"].drop(columns="NORM").any(axis=1) | given["form"].any(axis=1)
    beside |= given["rhythm"].drop(columns=["SR", "SARRH"]).any(axis=1)
    marks = {
        "NORM_only": sure & ~beside,
        "no_diagnostic_statement": ~given["diagnostic"].any(axis=1),
        "no_rhythm_statement": ~given["rhythm"].any(axis=1),
        "pacemaker_noted": _filled(db, "pacemaker"),
        "extra_beats_noted": _filled(db, "extra_beats"),
    }
    axis = db.heart_axis.fillna("") if "heart_axis" in db else pd.Series("", index=db.index)
    marks |= {f"heart_axis={a}": axis == a for a in sorted(set(axis))}
    return pd.concat([tokens, pd.DataFrame(marks, index=db.index).astype(np.int8)], axis=1)


def _codes(cell, path: Path, ecg: str) -> dict:
    try:
        codes = ast.literal_eval(cell)
    except (ValueError, SyntaxError) as error:
        raise EcgError(f"record {ecg}: not a dict of statements: {cell!r}", file=path, field="scp_codes") from error
    if not isinstance(codes, dict):
        raise EcgError(f"record {ecg}: not a dict of statements: {cell!r}", file=path, field="scp_codes")
    return codes


def _filled(db: pd.DataFrame, column: str) -> pd.Series:
    if column not in db:
        return pd.Series(False, index=db.index)
    return db[column].fillna("").str.strip().ne("")


def _subclasses(tokens: pd.DataFrame, wanted: list[str]) -> pd.DataFrame:
    """The most certain state among the statements of each subclass: present before possible before absent."""
    table = vocabulary.vocabulary("scp")
    out = {}
    for name in wanted:
        members = tokens[table.statement[table.subclass == name]]
        possible = np.where((members == vocabulary.POSSIBLE).any(axis=1), vocabulary.POSSIBLE, vocabulary.ABSENT)
        out[name] = np.where((members == vocabulary.PRESENT).any(axis=1), vocabulary.PRESENT, possible)
    return pd.DataFrame(out, index=tokens.index).astype(np.int8)
