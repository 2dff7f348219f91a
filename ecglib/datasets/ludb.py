"""LUDB: 200 clinical 12-lead ECGs of 10 s at 500 Hz, every P, QRS and T wave marked by hand in every lead.

Ages above 89 are published as ">89": here 90 with `age_over_89` = 1, meaning 90 or older.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import datasets
from ecglib import labels as vocabulary
from ecglib.signals import LEADS, EcgError, Recording, canonical

URL = "https://physionet.org/content/ludb/1.0.1/"
VERSION = "1.0.1"
LICENCE = "ODC-By 1.0"
CITATION = "Kalyakulina et al. (2020), LUDB: a new open-access validation tool for ECG delineation, IEEE Access 8"
N_RECORDS = 200
FS = 500
VOCABULARY = "ludb"
CORPUS = "ludb"  # as on the cards of ecglib.zoo
LABEL_SETS = ("super", "harmonised")
_STATEMENTS = (
    "Rhythms",
    "Electric axis of the heart",
    "Conduction abnormalities",
    "Extrasystolies",
    "Hypertrophies",
    "Cardiac pacing",
    "Ischemia",
    "Non-specific repolarization abnormalities",
    "Other states",
)
_WAVES = {"p": "P", "N": "QRS", "t": "T"}

__all__ = ["LEADS", "labels", "read", "records", "waves"]


def records(root, *, label_set: str = "super") -> pd.DataFrame:
    """List the records of ludb.csv: one per patient, all "external". Raises EcgError for a missing table or column."""
    table = _table(root, label_set)
    capped = table.Age.str.startswith(">")
    ids = table.index.to_numpy(str)
    return pd.DataFrame(
        {
            "record_id": ids,
            "patient_id": ids,
            "path": [str(Path(root).resolve() / "data" / i) for i in ids],
            "split": "external",
            "age": pd.to_numeric(table.Age.where(~capped, "90"), errors="coerce").to_numpy(float),
            "sex": table.Sex.map({"F": "female", "M": "male"}).fillna("").to_numpy(),
            "report": ["; ".join(dict.fromkeys(row)) for row in _strings(table)],
            "age_over_89": capped.astype(np.int8).to_numpy(),
        }
    )


def labels(root, records: pd.DataFrame, *, label_set: str = "super") -> pd.DataFrame:
    """Return states for the PTB-XL superclasses ("super") or the keys of the common vocabulary ("harmonised").

    Only labels that LUDB states exactly or as a union are there: of the superclasses MI and CD. NORM, STTC and HYP are
    refused; `ecglib.labels.match("scp", "ludb")` gives every reason.
    """
    table = _table(root, label_set).loc[list(records.record_id)]
    strings = _strings(table)
    known = sorted({s for row in strings for s in row})
    tokens = pd.DataFrame([[s in row for s in known] for row in strings], index=table.index, columns=known)
    keys = vocabulary.SUPERCLASSES if label_set == "super" else None
    states = vocabulary.harmonise(tokens.astype(np.int8), "ludb", keys)
    said = (states == vocabulary.PRESENT).any()
    return states if label_set == "super" else states.loc[:, said]


def read(row) -> Recording:
    """Read one record of `records`: twelve leads, mV."""
    return datasets.load(row)


def waves(row, lead: str) -> pd.DataFrame:
    """Return the marked waves of one lead: wave ("P", "QRS", "T"), onset, peak, offset in samples at 500 Hz.

    A boundary that the readers did not mark is -1. Raises EcgError when the annotation file is missing.
    """
    import wfdb

    path, extension = Path(datasets.cell(row, "path")), canonical(lead).lower()
    file = path.with_name(f"{path.name}.{extension}")
    if not file.is_file():
        raise EcgError("no wave annotations", file=file, field=lead)
    notes = wfdb.rdann(str(path), extension)
    found, onset = [], -1
    for symbol, sample in zip(notes.symbol, notes.sample, strict=True):
        if symbol == "(":
            onset = int(sample)
        elif symbol == ")":
            if found and found[-1][3] == -1:
                found[-1][3] = int(sample)
            onset = -1
        elif symbol in _WAVES:
            found.append([_WAVES[symbol], onset, int(sample), -1])
            onset = -1
    return pd.DataFrame(found, columns=["wave", "onset", "peak", "offset"])


def _table(root, label_set: str) -> pd.DataFrame:
    if label_set not in LABEL_SETS:
        raise EcgError(f"unknown label set {label_set!r}", field="label_set", fix=f"use one of {', '.join(LABEL_SETS)}")
    needs = ("ID", "Sex", "Age", *_STATEMENTS)
    table = datasets.table(Path(root) / "ludb.csv", needs, dtype=str, keep_default_na=False)
    table = table.apply(lambda column: column.str.strip())
    return table.set_index(table.ID.rename("record_id"))


def _strings(table: pd.DataFrame) -> list[list[str]]:
    """The statements of every record; a cell holds one per line."""
    cells = table[list(_STATEMENTS)].to_numpy()
    return [[line.strip() for cell in row for line in cell.splitlines() if line.strip()] for row in cells]
