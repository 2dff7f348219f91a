"""PTB-XL: 21,799 clinical 12-lead ECGs of 10 s with SCP statements, reports and official patient-safe folds.

Ages above 89 are published as 300: here 90 with `age_over_89` = 1, meaning 90 or older.
"""

import ast
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import labels as vocabulary
from ecglib.data.recording import LEADS as LEADS

URL = "https://physionet.org/content/ptb-xl/1.0.3/"
VERSION = "1.0.3"
LICENCE = "CC BY 4.0"
CITATION = "Wagner et al. (2020), PTB-XL, a large publicly available electrocardiography dataset, Scientific Data 7:154"
N_RECORDS = 21799
FS = None  # 100 or 500 Hz, chosen by the option `rate`
VOCABULARY = "scp"
CORPUS = "ptb-xl"  # as on the cards of ecglib.zoo
FASTEST = {"rate": 500}  # option that gives the recordings at their highest rate
LABEL_SETS = ("super", *vocabulary.PTBXL_SUPER, "sub", "all", "diagnostic", "form", "rhythm", "harmonised")
read = datasets.load
VERSIONS = {21837: "1.0.1", 21799: "1.0.3"}  # by the number of rows; fewer are a part of the corpus
TABLE = "ptbxl_database.csv"
_SEX = {"0": "male", "0.0": "male", "male": "male", "1": "female", "1.0": "female", "female": "female"}
_SEX |= {"m": "male", "f": "female"} | dict.fromkeys(datasets.UNKNOWN, "")
_FILES = {100: "filename_lr", 500: "filename_hr"}
_METADATA = ("height", "weight", "site", "device", "heart_axis", "validated_by_human", "pacemaker", "extra_beats")


def records(root, *, rate: int = 100, label_set: str = "super", likelihood: str | None = None) -> pd.DataFrame:
    """List the records of ptbxl_database.csv whose files are there; folds 1-8 are train, 9 val, 10 test.

    rate: 100 or 500 (Hz). label_set, likelihood: see `labels`. EcgError for the table of another version.
    """
    db = _database(root, rate, label_set)
    _stated(db, label_set, likelihood, root)
    age = db.age
    out = pd.DataFrame({"record_id": [f"{i:05d}" for i in db.ecg_id]})
    out["patient_id"] = ("record " + out.record_id).where(db.patient_id.isna(), db.patient_id.map("{:.0f}".format))
    out["path"] = [str(Path(root).resolve() / p) for p in db[_FILES[rate]]]
    out["split"] = np.select([db.strat_fold <= 8, db.strat_fold == 9], ["train", "val"], "test")
    out["age"] = np.where(age > 89, 90.0, age)
    out["sex"] = db.sex.map(_SEX)
    out["report"] = db.report.fillna("")
    out["age_over_89"] = (age > 89).astype(np.int8)
    out["fold"] = db.strat_fold
    out = out.join(db[[c for c in _METADATA if c in db]])
    if unknown := int(db.patient_id.isna().sum()):
        out.attrs["notes"] = [f"{unknown} records name no patient: each counts as its own patient"]
    return datasets.with_files(out, Path(root) / TABLE)


def labels(
    root, records: pd.DataFrame, *, rate: int = 100, label_set: str = "super", likelihood: str | None = None
) -> pd.DataFrame:
    """The states of one label set for `records`; `attrs["label_set"]` says by which rules.

    label_set: "super" (that is "super-2158"), "sub", "form" and "rhythm" are UNKNOWN throughout for a record without a
    statement of that kind, as the published tasks that leave those records out; "super-2198" and "super-2203" (version
    1.0.1) take it as negative for every superclass; "all" and "diagnostic" take every missing statement as absent.
    "harmonised" has the keys of the common vocabulary.
    likelihood: "published" or "certain" (`vocabulary.scp_state`); None: "certain" for "harmonised", else "published".
    """
    db = _database(root, rate, label_set)
    stated = _stated(db, label_set, likelihood, root)
    db.index = pd.Index([f"{i:05d}" for i in db.ecg_id], name="record_id")
    tokens = _tokens(db.loc[list(records.record_id)], Path(root) / TABLE, stated["likelihood"])
    states = _states(tokens, label_set).astype(np.int8)
    states.attrs["label_set"] = stated
    return states


def _states(tokens: pd.DataFrame, label_set: str) -> pd.DataFrame:
    if label_set == "harmonised":
        return vocabulary.harmonise(tokens, "scp")
    if label_set.startswith("super"):
        states = vocabulary.harmonise(tokens, "scp", vocabulary.SUPERCLASSES)
        _, empty = vocabulary.PTBXL_SUPER.get(label_set, (VERSION, vocabulary.UNKNOWN))
        return states.mask(states == vocabulary.UNKNOWN, empty)
    wanted = list(vocabulary.label_set(f"ptbxl_{label_set}"))
    if label_set in ("all", "diagnostic"):
        return tokens[wanted]
    table = vocabulary.vocabulary("scp")
    kind = "diagnostic" if label_set == "sub" else label_set
    silent = ~(tokens[table.statement[table[kind] == "1"]] != vocabulary.ABSENT).any(axis=1)
    states = _subclasses(tokens, wanted) if label_set == "sub" else tokens[wanted].copy()
    states[silent] = vocabulary.UNKNOWN
    return states


def _stated(db: pd.DataFrame, label_set: str, likelihood: str | None, root) -> dict[str, str]:
    """The label set's name, the version of the corpus and the rules that its states come from."""
    if likelihood is None:
        likelihood = "certain" if label_set == "harmonised" else "published"
    require_known("likelihood", [likelihood], vocabulary.LIKELIHOODS, "likelihood")
    named, empty = vocabulary.PTBXL_SUPER.get(label_set, (None, None))
    version = VERSIONS.get(len(db), named or VERSION)
    if named and named != version:
        right = " or ".join(name for name, (v, _) in vocabulary.PTBXL_SUPER.items() if v == version)
        reason = f"{label_set} is a test set of PTB-XL {named}, the {len(db):,} records here are version {version}"
        raise EcgError(reason, file=Path(root) / TABLE, field="label_set", fix=f"use {right}")
    if label_set == "super" and version == VERSION:
        label_set = "super-2158"
    negative = label_set in ("all", "diagnostic") or empty == vocabulary.ABSENT
    nothing = "negative" if negative else "label by label" if label_set == "harmonised" else "left out"
    rules = {"likelihood": likelihood, "records_without_a_label": nothing}
    return {"name": label_set, "version": version} | rules


def _database(root, rate, label_set) -> pd.DataFrame:
    require_known("rate", [rate], _FILES)
    require_known("label set", [label_set], LABEL_SETS, "label_set")
    needs = ("ecg_id", "patient_id", "age", "sex", "report", "scp_codes", "strat_fold", *_FILES.values())
    as_text = dict.fromkeys((*needs, "heart_axis", "pacemaker", "extra_beats"), str)
    path = Path(root) / TABLE
    db = datasets.table(path, needs, dtype=as_text)
    db.index = range(2, len(db) + 2)  # rows of the file
    for name in ("ecg_id", "strat_fold", _FILES[rate]):
        datasets.refuse(db[name].fillna("")[datasets.is_unknown(db[name])], path, "{} is empty", "fill the cell")
    for name, highest in (("ecg_id", 10**9), ("strat_fold", 10), ("patient_id", 10**9)):
        numbers = datasets.numbers(db, name, path, (0 if name == "patient_id" else 1, highest))
        datasets.refuse(db[name][numbers % 1 > 0], path, "{} is no whole number", "write it as PTB-XL does")
        db[name] = numbers if name == "patient_id" else numbers.astype(int)
    db["age"] = datasets.numbers(db, "age", path, (0, 300), "age in years")
    db["sex"] = db.sex.fillna("").str.strip().str.lower()
    datasets.refuse(db.sex[~db.sex.isin(_SEX)], path, "{} is no sex", f"use one of {', '.join(_SEX)}")
    return db.reset_index(drop=True)


def _tokens(db: pd.DataFrame, path: Path, likelihood: str) -> pd.DataFrame:
    """States of the 71 statements, and the marks of the common vocabulary that other columns give."""
    table = vocabulary.vocabulary("scp")
    states = np.zeros((len(db), len(table)), np.int8)
    position = {s: i for i, s in enumerate(table.statement)}
    sure = np.zeros(len(db), bool)
    for row, (ecg, cell) in enumerate(db.scp_codes.items()):
        try:
            codes = dict(ast.literal_eval(cell))
        except (ValueError, SyntaxError, TypeError) as error:
            raise EcgError(f"record {ecg}: not a dict of statements: {cell!r}", file=path, field="scp_codes") from error
        sure[row] = codes.get("NORM") == 100
        for statement, percent in codes.items():
            if statement not in position:
                raise EcgError(f"record {ecg}: unknown statement {statement!r}", file=path, field="scp_codes")
            states[row, position[statement]] = vocabulary.scp_state(statement, percent, likelihood)
    tokens = pd.DataFrame(states, index=db.index, columns=list(table.statement))
    given = {k: tokens[table.statement[table[k] == "1"]].ne(0) for k in ("diagnostic", "form", "rhythm")}
    beside = given["diagnostic"].drop(columns="NORM").any(axis=1) | given["form"].any(axis=1)
    beside |= given["rhythm"].drop(columns=["SR", "SARRH"]).any(axis=1)
    marks = {
        "NORM_only": sure & ~beside,
        "no_diagnostic_statement": ~given["diagnostic"].any(axis=1),
        "no_rhythm_statement": ~given["rhythm"].any(axis=1),
    }
    said = db.reindex(columns=["pacemaker", "extra_beats", "heart_axis"], fill_value="").fillna("")
    marks |= {f"{name}_noted": said[name].str.strip().ne("") for name in ("pacemaker", "extra_beats")}
    marks |= {f"heart_axis={a}": said.heart_axis == a for a in sorted(set(said.heart_axis))}
    return pd.concat([tokens, pd.DataFrame(marks, index=db.index).astype(np.int8)], axis=1)


def _subclasses(tokens: pd.DataFrame, wanted: list[str]) -> pd.DataFrame:
    """The most certain state among the statements of each subclass: present before possible before absent."""
    table = vocabulary.vocabulary("scp")
    out = pd.DataFrame(vocabulary.ABSENT, tokens.index, wanted, np.int8)
    for name in wanted:
        members = tokens[table.statement[table.subclass == name]]
        for state in (vocabulary.POSSIBLE, vocabulary.PRESENT):
            out.loc[(members == state).any(axis=1), name] = state
    return out
