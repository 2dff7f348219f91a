"""PhysioNet/CinC Challenge 2011, set A: 1,000 12-lead ECGs of 10 s at 500 Hz, judged good enough to be read or not.

Volunteers with a mobile device recorded them; up to 18 annotators graded each (Silva et al. 2011). `RECORDS-acceptable`
and `RECORDS-unacceptable` name the two groups; records in neither are undecided. Patients are not published. Many of
the unacceptable ones are constant, with the electrodes off, and so identical. The text form names no lead: its columns
have aVF before aVL, as Goldberger's identities say in every recording that can tell.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets
from ecglib.data import files, splits
from ecglib.data import labels as vocabulary
from ecglib.data.recording import LEADS as LEADS
from ecglib.data.recording import Recording, varies

URL = "https://physionet.org/content/challenge-2011/1.0.0/"
VERSION = "1.0.0"
LICENCE = "ODC-By 1.0"
CITATION = (
    "Silva, Moody and Celi (2011), Improving the quality of ECGs collected using mobile phones: the PhysioNet/"
    "Computing in Cardiology Challenge 2011, Computing in Cardiology 38:273-276"
)
N_RECORDS = 1000
FS = 500
VOCABULARY = None
CORPUS = ""  # no published model names it
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
NOTE = "no patient ids are published: every record counts as its own patient, and the split is ours"
_LISTS = {"RECORDS-acceptable": vocabulary.ABSENT, "RECORDS-unacceptable": vocabulary.PRESENT}
_PER_MV = 200.0  # counts of the text files
_COLUMNS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")  # of the text files


def records(root, *, seed: int = 0) -> pd.DataFrame:
    """List the graded records whose files are there (WFDB, or the text form of set A), with a 60/20/20 split.

    seed: of the split, which depends on the two lists and this number only, not on which files are there.
    """
    folder, states = _folder(root), _states(root)
    ids = states.index.to_numpy(str)
    out = pd.DataFrame({"record_id": ids, "patient_id": ids, "path": [str(folder / name) for name in ids]})
    out["split"] = splits.assign(out, FRACTIONS, seed, states)
    out = out.assign(age=np.nan, sex="", report="")
    out.attrs["notes"] = [NOTE]
    if any(files.beside(path, ".hea") for path in out.path):
        return datasets.with_files(out, folder)
    present = [Path(f"{path}.txt").is_file() for path in out.path]
    if not any(present):
        raise EcgError(f"of {len(out)} recordings none is there", file=folder, field="path", fix=f"fetch {ids[0]}.txt")
    kept = out[present].reset_index(drop=True)
    if len(kept) < len(out):
        kept.attrs["notes"] = [NOTE, f"{len(out) - len(kept)} of {len(out)} recordings are not there and are left out"]
    return kept


def labels(root, records: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """`unacceptable`: PRESENT or ABSENT, as the two lists say."""
    return _states(root).loc[list(records.record_id)]


def read(row) -> Recording:
    """Read one record of `records` in mV: the WFDB form where it is there, else the text form (200 counts per mV).

    Raises EcgError for a text file that does not hold a sample number and twelve leads in each line.
    """
    path, record_id = datasets.cell(row, "path"), str(datasets.cell(row, "record_id"))
    text = Path(f"{path}.txt")
    if files.beside(path, ".hea") or not text.is_file():
        return datasets.load(row)
    try:
        table = np.loadtxt(text, delimiter=",", ndmin=2)
    except ValueError as error:
        raise EcgError(f"no table of samples: {error}", file=text, fix="fetch the file again") from error
    if table.shape[1] != 1 + len(LEADS):
        reason = f"{table.shape[1]} columns, not a sample number and {len(LEADS)} leads"
        raise EcgError(reason, file=text, field="columns", fix="fetch the file again")
    columns = [1 + _COLUMNS.index(lead) for lead in LEADS]
    signal = np.ascontiguousarray(table[:, columns].T / _PER_MV, dtype=np.float32)
    recording = Recording(signal, float(FS), LEADS, varies(signal), record_id)
    return replace(recording, patient_id=str(datasets.cell(row, "patient_id")))


def _folder(root) -> Path:
    root = Path(root).resolve()
    return root / "set-a" if (root / "set-a").is_dir() else root


def _states(root) -> pd.DataFrame:
    """The grade of every listed record, in the order of their names."""
    found = {}
    for name, state in _LISTS.items():
        places = [place / name for place in (Path(root), _folder(root)) if (place / name).is_file()]
        if not places:
            raise EcgError("no such list", file=Path(root) / name, fix="give the folder that holds set-a and its lists")
        for record_id in places[0].read_text("utf-8").split():
            record_id = record_id.removesuffix(".txt")
            if found.setdefault(record_id, state) != state:
                raise EcgError(f"{record_id} stands in both lists", file=places[0], field=record_id, fix="in one only")
    if not found:
        raise EcgError("no record is named", file=Path(root) / "RECORDS-acceptable", fix="fetch the lists again")
    states = pd.DataFrame({"unacceptable": pd.Series(found, dtype=np.int8)}).sort_index()
    return states.rename_axis("record_id")
