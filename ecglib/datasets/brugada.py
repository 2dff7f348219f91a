"""Brugada-HUCA: 363 12-lead ECGs of 12 s at 100 Hz, one per person, of a hospital in Oviedo: 76 with Brugada syndrome.

What metadata.csv says of a person (metadata_dictionary.csv): `brugada`, the diagnosis, 0 in 287 persons, 1 in 69 and 2
in 7, where nothing says what sets 2 apart from 1: POSSIBLE; `basal_pattern`, whether the baseline ECG is pathological;
`sudden_death`, whether there has been one. No age, no sex, no report. The limb leads hold Einthoven's law to 0.01 mV.
Eight tracings are four pairs, byte for byte, under two numbers: each pair counts as one person, on one side of a split.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets
from ecglib.data import labels as vocabulary
from ecglib.data import splits
from ecglib.data.recording import LEADS as LEADS

URL = "https://physionet.org/content/brugada-huca/1.0.0/"
VERSION = "1.0.0"
LICENCE = "CC BY-SA 4.0"
CITATION = (
    "Costa Cortez and Garcia Iglesias (2026), Brugada-HUCA: 12-lead ECG recordings for the study of Brugada syndrome, "
    "PhysioNet, doi:10.13026/0m2w-dy83"
)
N_RECORDS = 363
FS = 100
VOCABULARY = None
CORPUS = "brugada-huca"  # as on the cards of ecglib.zoo
LABELS = ("brugada", "basal_pattern", "sudden_death")
FRACTIONS = {"train": 0.5, "val": 0.2, "test": 0.3}
SAME_TRACING = {"844915": "841869", "1307673": "1303729", "1366050": "1228746", "1220716": "972330"}
NOTE = "the split is ours; four pairs of identical tracings count as one person each"
read = datasets.load
_STATES = {0: vocabulary.ABSENT, 1: vocabulary.PRESENT, 2: vocabulary.POSSIBLE}


def records(root, *, seed: int = 0) -> pd.DataFrame:
    """List the records of metadata.csv whose files are there, with a 50/20/30 split by person.

    seed: of the split, which depends on the table and this number only, not on which files are there.
    """
    states = _states(root)
    ids = states.index.to_series(index=range(len(states)))
    out = pd.DataFrame({"record_id": ids, "patient_id": ids.replace(SAME_TRACING)})
    out["path"] = [str(Path(root).resolve() / "files" / name / name) for name in ids]
    out["split"] = splits.assign(out, FRACTIONS, seed, states[["brugada"]])
    out = out.assign(age=np.nan, sex="", report="")
    out.attrs["notes"] = [NOTE]
    return datasets.with_files(out, Path(root) / "metadata.csv")


def labels(root, records: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The states of LABELS for `records`."""
    return _states(root).loc[list(records.record_id)]


def _states(root) -> pd.DataFrame:
    path = Path(root) / "metadata.csv"
    table = datasets.table(path, ("patient_id", *LABELS), dtype={"patient_id": str})
    table = table.set_index(table.patient_id.rename("record_id"))[list(LABELS)]
    for name in LABELS:
        unknown = table[name].dropna()[~table[name].dropna().isin(_STATES)]
        if len(unknown):
            raise EcgError(f"{unknown.iloc[0]} is no state", file=path, field=name, fix="0, 1, 2 or empty")
    return table.apply(lambda column: column.map(_STATES).fillna(vocabulary.UNKNOWN)).astype(np.int8)
