"""LUDB: 200 clinical 12-lead ECGs of 10 s at 500 Hz, every P, QRS and T wave marked by hand in every lead.

Ages above 89 are published as ">89": here 90 with `age_over_89` = 1, meaning 90 or older.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import datasets, require_known
from ecglib.data import labels as vocabulary
from ecglib.data.recording import LEADS as LEADS

URL = "https://physionet.org/content/ludb/1.0.1/"
VERSION = "1.0.1"
LICENCE = "ODC-By 1.0"
CITATION = "Kalyakulina et al. (2020), LUDB: a new open-access validation tool for ECG delineation, IEEE Access 8"
N_RECORDS = 200
FS = 500
VOCABULARY = "ludb"
CORPUS = "ludb"  # as on the cards of ecglib.zoo
LABEL_SETS = ("super", "harmonised")
read = datasets.load
_TABLE = "ludb.csv"
_STATEMENTS = "Rhythms,Electric axis of the heart,Conduction abnormalities,Extrasystolies,Hypertrophies,Cardiac pacing"
_STATEMENTS = (*_STATEMENTS.split(","), "Ischemia", "Non-specific repolarization abnormalities", "Other states")


def records(root, *, label_set: str = "super") -> pd.DataFrame:
    """List the records of ludb.csv whose files are there: one per patient, all "external"."""
    table = _table(root, label_set)
    capped = table.Age.str.startswith(">")
    ids = table.index.to_numpy(str)
    out = pd.DataFrame({"record_id": ids, "patient_id": ids})
    out["path"] = [str(Path(root).resolve() / "data" / i) for i in ids]
    out["split"] = "external"
    out["age"] = pd.to_numeric(table.Age.where(~capped, "90"), errors="coerce").to_numpy(float)
    out["sex"] = table.Sex.map({"F": "female", "M": "male"}).fillna("").to_numpy()
    out["report"] = ["; ".join(dict.fromkeys(row)) for row in _strings(table)]
    out["age_over_89"] = capped.astype(np.int8).to_numpy()
    return datasets.with_files(out, Path(root) / _TABLE)


def labels(root, records: pd.DataFrame, *, label_set: str = "super") -> pd.DataFrame:
    """States for the PTB-XL superclasses ("super") or the keys of the common vocabulary ("harmonised").

    Only labels that LUDB states exactly or as a union are there: of the superclasses MI and CD. NORM, STTC and HYP are
    refused; `ecglib.data.labels.match("scp", "ludb")` gives every reason.
    """
    table = _table(root, label_set).loc[list(records.record_id)]
    strings = _strings(table)
    made = sorted({s for row in strings for s in row})
    tokens = pd.DataFrame([[s in row for s in made] for row in strings], index=table.index, columns=made)
    keys = vocabulary.SUPERCLASSES if label_set == "super" else None
    states = vocabulary.harmonise(tokens.astype(np.int8), "ludb", keys)
    return states if label_set == "super" else states.loc[:, (states == vocabulary.PRESENT).any()]


def _table(root, label_set: str) -> pd.DataFrame:
    require_known("label set", [label_set], LABEL_SETS, "label_set")
    needs = ("ID", "Sex", "Age", *_STATEMENTS)
    table = datasets.table(Path(root) / _TABLE, needs, dtype=str, keep_default_na=False)
    table = table.apply(lambda column: column.str.strip())
    return table.set_index(table.ID.rename("record_id"))


def _strings(table: pd.DataFrame) -> list[list[str]]:
    """The statements of every record; a cell holds one per line."""
    cells = table[list(_STATEMENTS)].to_numpy()
    return [[line.strip() for cell in row for line in cell.splitlines() if line.strip()] for row in cells]
