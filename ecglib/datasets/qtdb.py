"""QT Database: 105 recordings of 15 min with two leads at 250 Hz; 30 beats or more of each have waves marked by hand.

The files .q1c hold the marks of a first cardiologist, .q2c (where there is one) those of a second, who marked QRS and T
alone. T has no onset there. Recordings come from MIT-BIH and other corpora: their patients may be in those, too.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import datasets
from ecglib.data import annotations, files, wfdb_io
from ecglib.data import labels as vocabulary
from ecglib.data.recording import Recording, standard

URL = "https://physionet.org/content/qtdb/1.0.0/"
VERSION = "1.0.0"
LICENCE = "ODC-By 1.0"
CITATION = "Laguna et al. (1997), A database for evaluation of algorithms for measurement of QT, Comput Cardiol 24:673"
N_RECORDS = 105
FS = 250
LEADS = ("II", "V1", "V2", "V5")  # two of them in most recordings, leads of no standard in others
VOCABULARY = None
CORPUS = ""
FIRST, SECOND = "q1c", "q2c"  # endings of the files of the two cardiologists
LABELS = {"p_waves": "p", "u_waves": "u"}  # label -> symbol that the first cardiologist has set at least once
NOTE = "`read` gives the leads that have a standard name, which ECG1, CM5 or mod.V1 are none of"


def records(root) -> pd.DataFrame:
    """List the recordings that the first cardiologist has marked, all "external"; a note counts those without signals.

    Listed are those of the file RECORDS, where it is there, or all with a file .q1c. Age and sex are in the comments of
    some headers. Raises EcgError where no marked recording is there.
    """
    root = Path(root).resolve()
    listed = root / "RECORDS"
    marked = {path.stem for path in root.glob(f"*.{FIRST}")}
    ids = sorted(marked & set(listed.read_text("utf-8").split()) if listed.is_file() else marked)
    out = pd.DataFrame({"record_id": ids, "patient_id": ids})
    out["path"] = [str(root / name) for name in ids]
    about = [_about(path) for path in out.path]
    out = out.assign(split="external", age=[age for age, _ in about], sex=[sex for _, sex in about], report="")
    out["experts"] = [1 + Path(f"{path}.{SECOND}").is_file() for path in out.path]
    out.attrs["notes"] = [NOTE]
    return datasets.with_files(out, listed)


def labels(root, records: pd.DataFrame) -> pd.DataFrame:
    """Return which of LABELS the first cardiologist has marked in each recording: PRESENT or ABSENT."""
    rows = {}
    for record_id, path in zip(records.record_id, records.path, strict=True):
        found = set(annotations.read(f"{path}.{FIRST}").symbols.tolist())
        rows[record_id] = {name: vocabulary.PRESENT if sign in found else 0 for name, sign in LABELS.items()}
    return pd.DataFrame.from_dict(rows, orient="index").astype(np.int8).rename_axis("record_id")


def read(row) -> Recording:
    """Read the standard leads of one recording of `records`; its modified lead II (MLII) stands under II.

    Raises EcgError for a recording that has none.
    """
    names = wfdb_io.signal_names(datasets.cell(row, "path"))
    return datasets.load(row, rename={name: _lead(name) for name in names})


def _lead(name: str) -> str:
    """Standard name of a lead, "" where it has none."""
    return {"MLII": "II"}.get(name, standard(name) or "")


def _about(path: str) -> tuple[float, str]:
    """Age in years and sex of a comment of the header ("69 M 1085 1629 x1"); NaN and "" where unknown."""
    if not files.beside(path, ".hea"):
        return np.nan, ""
    found = next((m for line in wfdb_io.comments(path) if (m := re.match(r"(\d+|-1) ([MF])\b", line))), None)
    return datasets.person(found[1], found[2]) if found else (np.nan, "")
