"""CODE-15 %: 345,779 12-lead ECGs of 233,770 patients of primary care in Brazil, 400 Hz, six classes, time to death.

Two forms are read: the published one (exams.csv; exams_part*.hdf5 with `exam_id` and `tracings` (exam, 4096, 12), which
needs the package h5py: the extra `hdf5`), and a folder of `.mat` files, each with an array `feats` (12, time), beside
meta.csv. Recordings of 7 or 10 s are centred in zeros, which are cut off. A record without any of the six classes is
not normal: `normal_ecg` says which are. Values are taken as millivolt, as they are used in the papers; the amplitude of
some records is several times what a heart gives, and no note of the corpus says why.
"""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import io

from ecglib import EcgError, datasets, require_known
from ecglib.data import labels as vocabulary
from ecglib.data.recording import LEADS as LEADS
from ecglib.data.recording import Recording, varies

URL = "https://zenodo.org/records/4916206"
VERSION = "1.0.0"
LICENCE = "CC BY 4.0"
CITATION = (
    "Ribeiro et al. (2021), CODE-15%: a large scale annotated dataset of 12-lead ECGs, Zenodo, "
    "doi:10.5281/zenodo.4916206"
)
N_RECORDS = 345779
FS = 400
VOCABULARY = "code6"
CORPUS = "code-15"  # as on the cards of ecglib.zoo
CLASSES = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF", "normal_ecg")
LABEL_SETS = ("harmonised", "classes")
TABLES = ("exams.csv", "meta.csv")
NOTE = "amplitudes differ between records by more than hearts do: taken as millivolt"
_TRUTH = {"true": 1, "1": 1, "false": 0, "0": 0}


def records(root, *, label_set: str = "harmonised") -> pd.DataFrame:
    """List the exams of exams.csv (or meta.csv) whose files are there, all "external".

    label_set: see `labels`. Metadata: death (1, 0, NaN where not followed), followup_years, trace_file, and
    `classes`, joined by |.
    """
    path, table = _table(root, label_set)
    root = Path(root).resolve()
    out = pd.DataFrame({"record_id": table.exam_id.to_numpy(str), "patient_id": table.patient_id.to_numpy(str)})
    mat = table.save_file if "save_file" in table else pd.Series("", table.index)
    files = zip(mat, table.trace_file, strict=True)
    out["path"] = [str(root / "org" / name[:-4] if name else root / part) for name, part in files]
    out = out.assign(split="external", age=datasets.numbers(table, "age", path, (0, 150), "age in years"))
    out["sex"] = np.where(_flags(table, "is_male", path) == 1, "male", "female")
    out["report"] = ""
    out["death"] = _flags(table, "death", path, unknown=True)
    out["followup_years"] = datasets.numbers(table, "timey", path, (0, 150), "time in years")
    out["trace_file"] = table.trace_file.to_numpy(str)
    flags = np.array([_flags(table, name, path) == 1 for name in CLASSES]).T
    out["classes"] = ["|".join(np.array(CLASSES)[row]) for row in flags]
    out.attrs["notes"] = [NOTE]
    parts = {name: _numbers_of(root / name) for name in sorted(set(table.trace_file)) if (root / name).is_file()}
    there = [
        Path(f"{path}.mat").is_file() or int(exam) in parts.get(part, {})
        for path, exam, part in zip(out.path, out.record_id, out.trace_file, strict=True)
    ]
    return datasets.with_files(out, path, there, "" if not mat.any() else ".mat")


def labels(root, records: pd.DataFrame, *, label_set: str = "harmonised") -> pd.DataFrame:
    """The keys of the common vocabulary that the classes state in full ("harmonised"), or CLASSES; those that occur."""
    index = pd.Index(records.record_id, name="record_id")
    said = [set(cell.split("|")) for cell in records.classes]
    states = pd.DataFrame([[name in one for name in CLASSES] for one in said], index, list(CLASSES), dtype=np.int8)
    if label_set == "harmonised":
        states = vocabulary.harmonise(states, "code6", vocabulary.label_set("harmonised"))
    return states.loc[:, (states == vocabulary.PRESENT).any()]


def read(row) -> Recording:
    """Read one exam of `records`, without the zeros around it. EcgError where it is not there, or without 12 leads."""
    path, name = datasets.cell(row, "path"), str(datasets.cell(row, "record_id"))
    file = Path(f"{path}.mat")
    if file.is_file():
        try:
            signal = np.asarray(io.loadmat(file)["feats"], np.float32)
        except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
            raise EcgError(f"no array feats: {error}", file=file, fix="fetch the file again") from error
    else:
        file = Path(path)
        number = _numbers_of(file).get(int(name))
        if number is None:
            raise EcgError(f"exam {name} is not in it", file=file, field="exam_id", fix="fetch the file again")
        with datasets.opened_hdf5(file) as part:
            signal = np.asarray(part["tracings"][number], np.float32).T
    if signal.ndim != 2 or len(signal) != len(LEADS):
        raise EcgError(f"samples of shape {signal.shape}, not 12 leads", file=file, field="leads", fix="fetch it again")
    signal = datasets.without_padding(signal, name, file)
    return Recording(signal, float(FS), LEADS, varies(signal), name, str(datasets.cell(row, "patient_id")))


def _table(root, label_set: str) -> tuple[Path, pd.DataFrame]:
    require_known("label set", [label_set], LABEL_SETS, "label_set")
    path = next((p for name in TABLES if (p := Path(root) / name).is_file()), Path(root) / TABLES[0])
    needs = ("exam_id", "patient_id", "age", "is_male", "death", "timey", "trace_file", *CLASSES)
    table = datasets.text_table(path, needs)
    wrong = ~table.exam_id.str.fullmatch(r"\d{1,18}").astype(bool)
    datasets.refuse(table.exam_id[wrong], path, "{} is no number of an exam", "write it as CODE-15 does")
    datasets.refuse(table.exam_id[table.exam_id.duplicated()], path, "exam {} stands there twice", "remove one row")
    return path, table


def _flags(table: pd.DataFrame, column: str, path: Path, unknown: bool = False) -> np.ndarray:
    """A column of true and false as 1.0 and 0.0, NaN where nothing is said and that is allowed."""
    cells = table[column].str.lower()
    wrong = ~cells.isin(_TRUTH) & ~(datasets.is_unknown(cells) & unknown)
    datasets.refuse(table[column][wrong], path, "{} is neither true nor false", "write True or False")
    return cells.map(_TRUTH).to_numpy(float)


@lru_cache(maxsize=32)
def _numbers(file: str, size: int, changed: int) -> dict[int, int]:
    """Number of every exam in a file -> its row there; 0 fills up the last file and is none."""
    with datasets.opened_hdf5(Path(file)) as part:
        if not {"exam_id", "tracings"} <= set(part):
            raise EcgError("no exam_id and tracings in it", file=file, field="exam_id", fix="fetch it again")
        ids = np.asarray(part["exam_id"])
    return {int(exam): row for row, exam in enumerate(ids) if exam}


def _numbers_of(file: Path) -> dict[int, int]:
    try:
        state = os.stat(file)
    except OSError as error:
        raise EcgError("no such recording", file=file, fix="fetch the exams_part files of the corpus") from error
    return _numbers(str(file), state.st_size, state.st_mtime_ns)
