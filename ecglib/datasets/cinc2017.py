"""PhysioNet/CinC Challenge 2017: 8,528 single-lead ECGs of 9 to 60 s from a hand-held device (lead I).

The corpus publishes no patients: every record counts as its own patient, and the split is ours (by hash, stratified).
Flutter belongs to "other"; AFIB is fibrillation only.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import datasets, require_known
from ecglib.data import labels as vocabulary
from ecglib.data import splits
from ecglib.data.recording import Recording

URL = "https://physionet.org/content/challenge-2017/1.0.0/"
VERSION = "1.0.0, label version 3"
LICENCE = "ODC-By 1.0"
CITATION = (
    "Clifford et al. (2017), AF classification from a short single lead ECG recording, Computing in Cardiology 44"
)
N_RECORDS = 8528
FS = 300
LEADS = ("I",)
VOCABULARY = "cinc2017"
CORPUS = "cinc2017"  # as on the cards of ecglib.zoo
CLASSES = {"A": "AFIB", "N": "normal", "O": "other", "~": "noisy"}
LABEL_SETS = ("classes", "harmonised")
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
NOTE = "no patient ids are published: every record counts as its own patient, and the split is ours"


def records(root, *, label_set: str = "classes", seed: int = 0) -> pd.DataFrame:
    """List the records of REFERENCE-v3.csv whose files are there, with a 60/20/20 split.

    The split depends on the table and `seed` only, not on which files are there. label_set: see `labels`.
    """
    folder, path, table = _reference(root, label_set)
    ids = table.index.to_numpy(str)
    out = pd.DataFrame({"record_id": ids, "patient_id": ids, "path": [str(folder / i) for i in ids], "split": ""})
    out = out.assign(age=np.nan, sex="", report="")
    out["split"] = splits.assign(out, FRACTIONS, seed, _classes(table)).to_numpy()
    out.attrs["notes"] = [NOTE]
    return datasets.with_files(out, path)


def labels(root, records: pd.DataFrame, *, label_set: str = "classes", seed: int = 0) -> pd.DataFrame:
    """Return the four classes (AFIB, normal, other, noisy), one PRESENT per record, or the "harmonised" keys they give.

    In "harmonised", the noisy records are UNKNOWN for everything but `unreadable_signal`.
    """
    _, _, table = _reference(root, label_set)
    states = _classes(table).loc[list(records.record_id)]
    if label_set == "classes":
        return states
    common = vocabulary.harmonise(states.rename(columns={name: code for code, name in CLASSES.items()}), "cinc2017")
    common.loc[states.noisy == vocabulary.PRESENT, common.columns.drop("unreadable_signal")] = vocabulary.UNKNOWN
    return common


def read(row) -> Recording:
    """Read one record of `records`: its channel "ECG" is lead I."""
    return datasets.load(row, rename={"ECG": "I"})


def _reference(root, label_set: str) -> tuple[Path, Path, pd.DataFrame]:
    require_known("label set", [label_set], LABEL_SETS, "label_set")
    root = Path(root).resolve()
    folder = root / "training2017" if (root / "training2017").is_dir() else root
    path = next((p for p in (root, folder) if (p / "REFERENCE-v3.csv").is_file()), root) / "REFERENCE-v3.csv"
    table = datasets.table(path, header=None, names=["record_id", "code"], dtype=str, index_col="record_id")
    require_known("class", sorted(set(table.code.fillna(""))), CLASSES, file=path)
    return folder, path, table


def _classes(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: (table.code == code).astype(np.int8) for code, name in CLASSES.items()})
