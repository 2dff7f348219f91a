"""MIMIC-IV-ECG: 800,035 12-lead ECGs of 10 s at 500 Hz of 161,352 patients of one hospital; reports of the machine.

record_list.csv names the files; machine_measurements.csv holds up to 18 lines of report for each study. Labels are what
the reports say (`ecglib.data.reports`): a label that a report does not name is unknown, never absent. In the files aVF
stands before aVL: leads are taken by name. Age and sex are in MIMIC-IV itself, which needs an agreement.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import datasets
from ecglib.data import labels as vocabulary
from ecglib.data import reports, splits
from ecglib.data.recording import LEADS as LEADS

URL = "https://physionet.org/content/mimic-iv-ecg/1.0/"
VERSION = "1.0"
LICENCE = "ODbL 1.0"
CITATION = (
    "Gow et al. (2023), MIMIC-IV-ECG: Diagnostic Electrocardiogram Matched Subset, PhysioNet, doi:10.13026/4nqg-sb35"
)
N_RECORDS = 800035
FS = 500
VOCABULARY = None  # a report does not state every label of every recording
CORPUS = "mimic-iv-ecg"  # as on the cards of ecglib.zoo
TABLE, MEASURED = "record_list.csv", "machine_measurements.csv"
FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
NOTE = "the split by patient is ours; labels are read from the reports of the machine"
read = datasets.load


def records(root, *, seed: int = 0) -> pd.DataFrame:
    """List the studies of record_list.csv whose files are there, with an 80/10/10 split by patient.

    seed: of the split, which depends on the table and this number only. Metadata: ecg_time, recording_date (its day);
    report: the lines of the machine, one after the other. Raises EcgError for a study that stands there twice.
    """
    path = Path(root) / TABLE
    table = datasets.text_table(path, ("subject_id", "study_id", "ecg_time", "path"))
    for column in ("subject_id", "study_id"):
        wrong = ~table[column].str.fullmatch(r"\d{1,12}").astype(bool)
        datasets.refuse(table[column][wrong], path, "{} is no number", "write it as MIMIC-IV-ECG does")
    datasets.refuse(table.study_id[table.study_id.duplicated()], path, "study {} stands there twice", "remove one row")
    out = pd.DataFrame({"record_id": table.study_id.to_numpy(str), "patient_id": table.subject_id.to_numpy(str)})
    out["path"] = [str(Path(root).resolve() / name) for name in table.path]
    out["split"] = splits.assign(out, FRACTIONS, seed)
    out = out.assign(age=np.nan, sex="")
    out["report"] = _reports(Path(root) / MEASURED).reindex(out.record_id).fillna("").to_numpy()
    out["ecg_time"] = table.ecg_time.to_numpy(str)
    out["recording_date"] = table.ecg_time.str[:10].to_numpy(str)  # what the dates of measurements are compared with
    out.attrs["notes"] = [NOTE]
    return datasets.with_files(out, path)


def labels(root, records: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """What the reports say of the common labels that one of them names: present, absent, possible, or unknown."""
    states = reports.read_all(records.set_index("record_id").report)
    states = states.loc[:, (states == vocabulary.PRESENT).any()]
    states.attrs = {}
    return states


def _reports(path: Path) -> pd.Series:
    """The lines report_0, report_1, ... of each study, joined, by study."""
    table = datasets.text_table(path, ("study_id", "report_0"))
    lines = sorted((name for name in table if name.startswith("report_")), key=lambda name: int(name[7:]))
    joined = ["\n".join(line for line in row if line) for row in table[lines].to_numpy()]
    found = pd.Series(joined, index=table.study_id.to_numpy(str))
    return found[~found.index.duplicated()]
