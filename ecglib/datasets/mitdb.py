"""MIT-BIH Arrhythmia Database: 48 half hours of two leads at 360 Hz, each beat and change of rhythm marked twice.

47 people: records 201 and 202 are one person, although the published halves DS1 and DS2 (de Chazal et al. 2004, IEEE
Trans Biomed Eng 51:1196) hold one each. The split here leaves 202 out; the column `half` keeps what is published.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import datasets, require_known
from ecglib.data import annotations, files
from ecglib.data import labels as vocabulary
from ecglib.data.recording import Recording

URL = "https://physionet.org/content/mitdb/1.0.0/"
VERSION = "1.0.0"
LICENCE = "ODC-By 1.0"
CITATION = "Moody and Mark (2001), The impact of the MIT-BIH Arrhythmia Database, IEEE Eng Med Biol 20(3):45-50"
N_RECORDS = 48
FS = 360
LEADS = ("II", "V1", "V2", "V4", "V5")  # two of them in each record
VOCABULARY = None
CORPUS = ""
_HALVES = {
    "DS1": "101 106 108 109 112 114 115 116 118 119 122 124 201 203 205 207 208 209 215 220 223 230",
    "DS2": "100 103 105 111 113 117 121 123 200 202 210 212 213 214 219 221 222 228 231 232 233 234",
    "paced": "102 104 107 217",
}
HALF = {record: half for half, text in _HALVES.items() for record in text.split()}
SAME_PERSON = {"202": "201"}
SPLIT = {"DS1": "train", "DS2": "test", "paced": ""}
LABELS = {  # label -> symbols of beats and texts of rhythms, of which a record holds at least one
    "pac": "A a J S",
    "pvc": "V",
    "lbbb": "L",
    "rbbb": "R",
    "paced_rhythm": "/ (P",
    "atrial_fibrillation": "(AFIB",
    "atrial_flutter": "(AFL",
    "supraventricular_tachycardia": "(SVTA",
    "ventricular_tachycardia": "(VT",
    "wpw": "(PREX",
    "av_block_2": "(BII",
    "junctional_rhythm": "(NOD",
}
NOTE = "202 is the person of 201 (train) and has no split; the paced records 102, 104, 107 and 217 have none either"


def records(root) -> pd.DataFrame:
    """List the records that are there, with `half` (DS1, DS2, paced); DS1 is "train", DS2 without record 202 "test".

    Listed are those of the file RECORDS, where it is there, or all 48; a note counts those without files. Age and sex
    are in the comments of the headers. Raises EcgError for a listed name that is none of the corpus.
    """
    root = Path(root).resolve()
    listed = root / "RECORDS"
    ids = sorted(listed.read_text().split() if listed.is_file() else HALF)
    require_known("record", ids, HALF, "RECORDS", listed)
    out = pd.DataFrame({"record_id": ids, "patient_id": [SAME_PERSON.get(name, name) for name in ids]})
    out["path"] = [str(root / name) for name in ids]
    out["split"] = ["" if name in SAME_PERSON else SPLIT[HALF[name]] for name in ids]
    about = [_about(files.beside(path, ".hea")) for path in out.path]
    out["age"], out["sex"] = [age for age, _ in about], [sex for _, sex in about]
    out = out.assign(report="", half=[HALF[name] for name in ids])
    out.attrs["notes"] = [NOTE]
    return datasets.with_files(out, listed)


def labels(root, records: pd.DataFrame) -> pd.DataFrame:
    """Return which of LABELS occur in each record: PRESENT where a reader has marked one, else ABSENT."""
    rows = {}
    for record_id, path in zip(records.record_id, records.path, strict=True):
        marks = annotations.read(f"{path}.atr")
        found = {*marks.symbols.tolist(), *marks.notes.values()}
        rows[record_id] = {name: vocabulary.PRESENT if found & set(of.split()) else 0 for name, of in LABELS.items()}
    return pd.DataFrame.from_dict(rows, orient="index").astype(np.int8).rename_axis("record_id")


def read(row) -> Recording:
    """Read one record of `records`: its modified lead II (MLII) stands under II."""
    return datasets.load(row, rename={"MLII": "II"})


def _about(header: Path | None) -> tuple[float, str]:
    """Age in years and sex of the first comment of a header ("# 69 M 1085 1629 x1"); NaN and "" where unknown."""
    lines = header.read_text("latin-1").splitlines() if header else []
    words = next((line.strip("# ").split() for line in lines if line.startswith("#")), [])
    if len(words) < 2 or words[1] not in ("M", "F"):
        return np.nan, ""
    return datasets.person(words[0], words[1])
