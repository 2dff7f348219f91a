"""Chapman-Shaoxing in its original form: 10,646 12-lead ECGs of 10 s at 500 Hz, one per person, eleven rhythms.

Diagnostics.xlsx names a rhythm and conditions of each file by acronyms, of which some mislead: AF is flutter
(fibrillation is AFIB), ST sinus tachycardia, STE a long ST segment, VEB an escape beat (`vocabulary/chapman.csv`).
Signals are in microvolt, a file per record: `MUSE_..._17000.csv` as published, with a line of lead names (ECGData) or
without (ECGDataDenoised), or `.mat` with an array `val` (time, lead). The denoised signals are filtered lead by lead
and hold Einthoven's law to a third of a millivolt only. The WFDB form of the Challenge is read by `cinc2021`.
"""

import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from scipy import io

from ecglib import EcgError, datasets, require_known
from ecglib.data import files
from ecglib.data import labels as vocabulary
from ecglib.data.recording import LEADS as LEADS
from ecglib.data.recording import Recording, canonical, varies

URL = "https://figshare.com/collections/ChapmanECG/4560497/2"
VERSION = "2020"
LICENCE = "CC BY 4.0"
CITATION = "Zheng et al. (2020), A 12-lead electrocardiogram database for arrhythmia research, Scientific Data 7:48"
N_RECORDS = 10646
FS = 500
VOCABULARY = "chapman"
CORPUS = "chapman"  # as on the cards of ecglib.zoo
LABEL_SETS = ("harmonised", "acronyms")
TABLE = "Diagnostics.xlsx"
MEASURED = {"VentricularRate": "ventricular_rate", "QRSDuration": "qrs_ms", "RAxis": "r_axis_deg"}
_COLUMNS = ("FileName", "Rhythm", "Beat", "PatientAge", "Gender")
_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_LARGEST = 2**28  # bytes of a table; a workbook that unpacks to more is no table of Chapman-Shaoxing
_MICROVOLT = 1000  # in a millivolt


def records(root, *, label_set: str = "harmonised") -> pd.DataFrame:
    """List the records of Diagnostics.xlsx whose files are there, all "external", each its own person.

    label_set: see `labels`. Metadata: `statements`, the acronyms joined by |, and the rate (1/min), QRS duration (ms)
    and R axis (degrees) of the device. Raises EcgError for an acronym that the corpus does not have.
    """
    table = _table(root, label_set)
    places = {file.stem: file.with_suffix("") for file in files.walk(Path(root).resolve())}
    out = pd.DataFrame({"record_id": table.FileName.to_numpy(str), "patient_id": table.FileName.to_numpy(str)})
    out["path"] = [str(places.get(name, Path(root).resolve() / name)) for name in out.record_id]
    people = [datasets.person(age, sex) for age, sex in zip(table.PatientAge, table.Gender, strict=True)]
    out = out.assign(split="external", age=[age for age, _ in people], sex=[sex for _, sex in people], report="")
    out["statements"] = [f"{row.Rhythm}|{'|'.join(row.Beat.split())}" for row in table.itertuples()]
    for column, name in MEASURED.items():
        if column in table:
            out[name] = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
    present = [_file(path) is not None for path in out.path]
    return datasets.with_files(out, Path(root) / TABLE, present, ".csv")


def labels(root, records: pd.DataFrame, *, label_set: str = "harmonised") -> pd.DataFrame:
    """The keys of the common vocabulary that Chapman-Shaoxing states in full ("harmonised"), or its own acronyms.

    Only those that occur; NONE (no condition beside the rhythm) is no label.
    """
    said = [set(cell.split("|")) for cell in records.statements]
    made = sorted(set().union(*said) - {"NONE", ""})
    index = pd.Index(records.record_id, name="record_id")
    states = pd.DataFrame([[name in one for name in made] for one in said], index, made, dtype=np.int8)
    if label_set == "harmonised":
        states = vocabulary.harmonise(states, "chapman")
    return states.loc[:, (states == vocabulary.PRESENT).any()]


def read(row) -> Recording:
    """Read one record of `records` in mV. EcgError for a file without twelve columns of numbers."""
    path = datasets.cell(row, "path")
    file = _file(path)
    if file is None:
        raise EcgError("no such recording", file=f"{path}.csv", fix="fetch ECGData of the corpus")
    leads, signal = _mat(file) if file.suffix.lower() == ".mat" else _csv(file)
    if signal.ndim != 2 or signal.shape[1] != len(LEADS):
        raise EcgError(
            f"samples of shape {signal.shape}, not 12 columns", file=file, field="leads", fix="fetch it again"
        )
    signal = np.ascontiguousarray(signal.T / _MICROVOLT, np.float32)
    name, patient = (str(datasets.cell(row, column)) for column in ("record_id", "patient_id"))
    return Recording(signal, float(FS), leads, varies(signal), name, patient)


def _file(path) -> Path | None:
    return files.beside(path, ".csv") or files.beside(path, ".mat")


def _mat(file: Path) -> tuple[tuple[str, ...], np.ndarray]:
    try:
        return LEADS, np.asarray(io.loadmat(file)["val"], float)
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise EcgError(f"no array val: {error}", file=file, fix="fetch the file again") from error


def _csv(file: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Leads by the names in the first line, or in the standard order where it holds numbers."""
    lines = file.read_text("utf-8-sig", errors="replace").splitlines()
    first = lines[0].split(",") if lines else []
    named = any(re.search("[a-zA-Z]", cell.lower().replace("nan", "").replace("e", "")) for cell in first)
    leads = tuple(canonical(cell, file) for cell in first) if named else LEADS
    try:
        return leads, np.loadtxt(lines[named:], delimiter=",", ndmin=2)
    except ValueError as error:
        raise EcgError(f"no table of samples: {error}", file=file, fix="fetch the file again") from error


def _table(root, label_set: str) -> pd.DataFrame:
    require_known("label set", [label_set], LABEL_SETS, "label_set")
    path = Path(root) / TABLE
    rows = _workbook(path)
    table = pd.DataFrame(rows[1:], columns=rows[0], index=range(2, len(rows) + 1), dtype=str)
    datasets.require_columns(table, _COLUMNS, path)
    table = table[table.FileName != ""]
    known = set(vocabulary.vocabulary("chapman").statement)
    for column in ("Rhythm", "Beat"):
        wrong = [cell == "" or not set(cell.split()) <= known for cell in table[column]]
        datasets.refuse(table[column][wrong], path, "{} is no acronym of the corpus", "correct the cell")
    if twice := list(table.FileName[table.FileName.duplicated()]):
        raise EcgError(f"{twice[0]} stands there twice", file=path, field="FileName", fix="remove one row")
    return table


def _workbook(path: Path) -> list[list[str]]:
    """Rows of text of the first sheet of an Office Open XML workbook (ECMA-376), all as wide as the first.

    Raises EcgError for a file that is missing or none.
    """
    if not path.is_file():
        raise EcgError("no such table", file=path, fix="give the folder of the corpus that holds it")
    try:
        with zipfile.ZipFile(path) as book:
            sizes = {part.filename: part.file_size for part in book.infolist()}
            if sum(sizes.values()) > _LARGEST:
                raise ValueError(f"unpacks to {sum(sizes.values()):,} bytes")
            text, strings = "xl/sharedStrings.xml", []
            if text in sizes:
                strings = ["".join(t.itertext()) for t in ElementTree.fromstring(book.read(text)).iter(f"{_SHEET}si")]
            sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
        rows = [_cells(row, strings) for row in sheet.iter(f"{_SHEET}row")]
    except (zipfile.BadZipFile, KeyError, IndexError, ValueError, ElementTree.ParseError) as error:
        raise EcgError(f"not a workbook that can be read: {error}", file=path, fix="fetch the table again") from error
    if not rows:
        raise EcgError("an empty sheet", file=path, fix="fetch the table again")
    width = len(rows[0])
    return [[row.get(i, "").strip() for i in range(width)] for row in rows]


def _cells(row, strings: list[str]) -> dict[int, str]:
    """Column number -> text of the cells of a row of a sheet."""
    out = {}
    for cell in row.iter(f"{_SHEET}c"):
        letters = re.match("[A-Z]+", cell.get("r", "A"))[0]
        column = sum((ord(letter) - 64) * 26**power for power, letter in enumerate(reversed(letters))) - 1
        value = cell.find(f"{_SHEET}v")
        if cell.get("t") == "inlineStr":
            out[column] = "".join(cell.find(f"{_SHEET}is").itertext())
        elif value is not None:
            out[column] = strings[int(value.text)] if cell.get("t") == "s" else value.text
    return out
