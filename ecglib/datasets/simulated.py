"""Simulated hospitals A (12 leads, 250 Hz), B (12 leads, 200 Hz, uV) and C (lead I, 300 Hz): see `ecgsim`.

The truth behind every record lies beside it: truth.csv (intervals, axes, noise), beats.csv (wave boundaries), spans.csv
(what each part of a report asserts).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import labels as vocabulary
from ecglib.data.recording import LEADS, Recording

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
OUTCOMES = ("lvef", "egfr", "coronary", "nt_probnp", "troponin", "potassium")
_METADATA = ("visit", "height", "weight", "smoking", "systolic", "cholesterol", "hdl")


def records(root, *, hospital: str = "A", label_set: str = "all") -> pd.DataFrame:
    """List the records of one hospital below `root` (the folder data/): splits by patient in A, "external" in B and C.

    Height in cm, weight in kg, systolic pressure in mmHg, cholesterol and HDL in mmol/l, smoking 0/1; NaN: missing.
    In A and B also OUTCOMES with the date of each measurement (ejection fraction in %, filtration rate in ml/min per
    1.73 m2, coronary disease 0/1, NT-proBNP in pg/ml, troponin in ng/l, potassium in mmol/l), death with the days of
    follow-up, and beside each, as optimal_..., the best prediction that heart and person allow: see `ecgsim.outcomes`.
    """
    folder = _folder(root, hospital, label_set)
    needs = ("record_id", "patient_id", "path", "split", "age", "sex", "report", *_METADATA)
    db = datasets.table(folder / "records.csv", needs, dtype={"record_id": str, "patient_id": str, "report": str})
    out = db[[*needs, "site", "device", "recording_date", "strat_fold"]]
    out = out.assign(path=[str(folder / p) for p in db.path], sex=db.sex.fillna(""), report=db.report.fillna(""))
    out = out.astype(dict.fromkeys(("age", *_METADATA), float))
    return out if hospital == "C" else _with_outcomes(out, folder / "outcomes.csv")


def _with_outcomes(out: pd.DataFrame, path: Path) -> pd.DataFrame:
    dates = {f"{name}_date": str for name in OUTCOMES}
    needs = ("record_id", *OUTCOMES, *dates, "died", "followup_days")
    table = datasets.table(path, needs, dtype={"record_id": str} | dates).set_index("record_id")
    if not set(out.record_id) <= set(table.index):
        raise EcgError("records without outcomes", file=path, field="record_id", fix="generate the data again")
    table = table.loc[list(out.record_id)].reset_index(drop=True).astype({n: float for n in table if n not in dates})
    return out.join(table.fillna(dict.fromkeys(dates, "")))


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


def _folder(root, hospital, label_set) -> Path:
    require_known("hospital", [hospital], HOSPITALS)
    require_known("label set", [label_set], LABEL_SETS, "label_set")
    return Path(root).resolve() / hospital
