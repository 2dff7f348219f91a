"""Simulated hospitals A (12 leads, 250 Hz), B (12 leads, 200 Hz, uV) and C (lead I, 300 Hz): see `ecglib.simulate`.

The truth behind every record lies beside it: truth.csv (intervals, axes, noise), beats.csv (wave boundaries), spans.csv
(what each part of a report asserts).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import datasets
from ecglib import labels as vocabulary
from ecglib.signals import LEADS, EcgError, Recording

URL = "https://doi.org/10.1155/2007/43407"  # the dipole model; the data are made by `python -m ecglib generate`
VERSION = "1"
LICENCE = "MIT"
CITATION = "Simulated after Sameni et al. (2007), EURASIP J Adv Signal Process 2007:043407"
N_RECORDS = None
FS = None  # 250 Hz in A, 200 Hz in B, 300 Hz in C
VOCABULARY = "scp"
CORPUS = "simulated"  # as on the cards of ecglib.zoo
HOSPITALS = ("A", "B", "C")
LABEL_SETS = ("all", "super", "harmonised")
_METADATA = ("visit", "height", "weight", "smoking", "systolic", "cholesterol", "hdl")

__all__ = ["LEADS", "beats", "labels", "leads", "read", "records", "truth"]


def records(root, *, hospital: str = "A", label_set: str = "all") -> pd.DataFrame:
    """List the records of one hospital below `root` (the folder data/): splits by patient in A, "external" in B and C.

    Height in cm, weight in kg, systolic pressure in mmHg, cholesterol and HDL in mmol/l, smoking 0/1; NaN: missing.
    Raises EcgError for an unknown hospital or label set and for a missing or incomplete table.
    """
    folder = _folder(root, hospital, label_set)
    needs = ("record_id", "patient_id", "path", "split", "age", "sex", "report", *_METADATA)
    db = datasets.table(folder / "records.csv", needs, dtype={"record_id": str, "patient_id": str, "report": str})
    out = pd.DataFrame(
        {
            "record_id": db.record_id,
            "patient_id": db.patient_id,
            "path": [str(folder / p) for p in db.path],
            "split": db.split,
            "age": db.age.astype(float),
            "sex": db.sex.fillna(""),
            "report": db.report.fillna(""),
        }
    )
    rest = db[[*_METADATA, "site", "device", "recording_date", "strat_fold"]]
    return pd.concat([out, rest.astype(dict.fromkeys(_METADATA, float))], axis=1)


def labels(root, records: pd.DataFrame, *, hospital: str = "A", label_set: str = "all") -> pd.DataFrame:
    """Return the states that the report gives: "all" statements that some record has, superclasses, harmonised keys.

    In C what one lead cannot tell is UNKNOWN: "all" leaves it out.
    """
    path = _folder(root, hospital, label_set) / "labels.csv"
    states = datasets.table(path, ("record_id",), dtype={"record_id": str}).set_index("record_id")
    wanted = list(records.record_id)
    if not set(wanted) <= set(states.index):
        raise EcgError("records without labels", file=path, field="record_id", fix="generate the data again")
    states = states.loc[wanted].astype(np.int8)
    if label_set == "all":
        return states.loc[:, (states == vocabulary.PRESENT).any()]  # a small hospital need not have met everything
    return vocabulary.harmonise(states, "scp", vocabulary.SUPERCLASSES if label_set == "super" else None)


def leads(*, hospital: str = "A", **_) -> tuple[str, ...]:
    """Return the leads that a hospital records: twelve, or the one of the wearable."""
    return ("I",) if hospital == "C" else LEADS


def read(row) -> Recording:
    """Read one record of `records` in mV; the channel "ECG" of hospital C is lead I."""
    return datasets.load(row, rename={"ECG": "I"})


def truth(root, *, hospital: str = "A") -> pd.DataFrame:
    """Return the truth by record_id: rate per minute, intervals in ms, axes in degrees, noise in uV."""
    path = _folder(root, hospital, "all") / "truth.csv"
    table = datasets.table(path, ("record_id", "labels"), dtype={"record_id": str, "labels": str, "off_lead": str})
    return table.set_index("record_id")


def beats(root, *, hospital: str = "A") -> pd.DataFrame:
    """Return one row per beat: record_id, class (N, A, V, E), samples of R and of the wave boundaries, -1 without."""
    return datasets.table(_folder(root, hospital, "all") / "beats.csv", ("record_id", "r"), dtype={"record_id": str})


def _folder(root, hospital, label_set) -> Path:
    if hospital not in HOSPITALS:
        raise EcgError(f"no hospital {hospital!r}", field="hospital", fix=f"use one of {', '.join(HOSPITALS)}")
    if label_set not in LABEL_SETS:
        raise EcgError(f"unknown label set {label_set!r}", field="label_set", fix=f"use one of {', '.join(LABEL_SETS)}")
    return Path(root).resolve() / hospital
