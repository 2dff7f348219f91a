"""CODE-test: 827 12-lead ECGs of as many patients of primary care in Brazil, 400 Hz, six classes, read by many people.

The archive holds `ecg_tracings.hdf5` with one array `tracings` (exam, 4096, 12), attributes.csv (age, sex) and a folder
annotations/: in each table the i-th line is about the i-th tracing. `gold_standard` is what two cardiologists agree on,
or a third decides; the residents and students have judged half of the exams each, two of a kind in one table. HDF5
needs the package h5py: the extra `hdf5`. Recordings of 7 or 10 s are centred in zeros, which are cut off.

Two things are documented in two ways. The order of the augmented leads is aVR, aVL, aVF in one version of the README
and aVL, aVF, aVR in another: Goldberger's equations (1942) say which one a file has, and one that has neither is
refused. The scale is called 1e-4 V, and volts times 1000: it is the latter, millivolt, as CODE-15 is read.
Source: README of the archive, doi:10.5281/zenodo.3765780.
"""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import labels as vocabulary
from ecglib.data.recording import LEADS as LEADS
from ecglib.data.recording import Recording, limb, varies

URL = "https://zenodo.org/records/3765780"
VERSION = "record 3765780"
LICENCE = "CC BY 4.0"
CITATION = (
    "Ribeiro et al. (2020), Automatic diagnosis of the 12-lead ECG using a deep neural network, Nature Communications "
    "11:1760, doi:10.1038/s41467-020-15432-4"
)
N_RECORDS = 827
FS = 400
VOCABULARY = "code6"
CORPUS = ""  # on no card of a published model: it is the test set of the corpus CODE
CLASSES = ("1dAVb", "RBBB", "LBBB", "SB", "AF", "ST")
LABEL_SETS = ("harmonised", "classes")
READERS = ("cardiologist1", "cardiologist2", "cardiology_residents", "emergency_residents", "medical_students")
ANNOTATORS = ("gold_standard", *READERS)
TRACINGS, ATTRIBUTES = "ecg_tracings.hdf5", "attributes.csv"
ORDERS = (("aVR", "aVL", "aVF"), ("aVL", "aVF", "aVR"))  # of the leads behind III, as documented
FITS = 0.2  # an order holds where its error is below this share of the limb leads, both root mean square
LOOKED_AT = 32  # exams, of all of a file, that say in which order its leads are
NOTE = "values are taken as millivolt; who reads the exams in the place of the gold standard: option annotator"


def records(root, *, label_set: str = "harmonised", annotator: str = "gold_standard") -> pd.DataFrame:
    """List the exams, all "external", by their row in the array of tracings.

    label_set, annotator: see `labels`. Raises EcgError for tables of another length than the array of tracings.
    """
    require_known("label set", [label_set], LABEL_SETS, "label_set")
    require_known("annotator", [annotator], ANNOTATORS, "annotator")
    folder = _folder(root)
    n, path = _opened_once(folder / TRACINGS)[0], folder / ATTRIBUTES
    table = datasets.text_table(path, ("age", "sex"))
    _same_length(len(table), n, path)
    ids = [f"{row:03d}" for row in range(n)]
    out = pd.DataFrame({"record_id": ids, "patient_id": ids, "path": str(folder / TRACINGS.removesuffix(".hdf5"))})
    out = out.assign(split="external", age=datasets.numbers(table, "age", path, (0, 150), "age in years"))
    letters = table.sex.str.upper()
    wrong = ~letters.isin(["M", "F"]) & ~datasets.is_unknown(table.sex)
    datasets.refuse(table.sex[wrong], path, "{} is no sex", "write M or F")
    out["sex"] = letters.map({"M": "male", "F": "female"}).fillna("").to_numpy()
    out = out.assign(report="")
    out.attrs["notes"] = [NOTE]
    return out


def labels(root, records: pd.DataFrame, *, label_set: str = "harmonised", annotator: str = "gold_standard"):
    """The keys of the common vocabulary that the classes state in full ("harmonised"), or CLASSES; those that occur.

    annotator: whose calls they are, of ANNOTATORS. No table says that an ECG is normal.
    """
    calls = _calls(_folder(root), annotator)
    states = calls.loc[list(records.record_id)].rename_axis("record_id")
    if label_set == "harmonised":
        states = vocabulary.harmonise(states, "code6", vocabulary.label_set("harmonised"))
    return states.loc[:, (states == vocabulary.PRESENT).any()]


def readers(root, *, label_set: str = "harmonised") -> pd.DataFrame:
    """Who called what: record_id, reader (of READERS), label, call (1, 0), as `evaluation.agreement` takes it.

    label_set: names of the labels, as in `labels`. The gold standard is the truth, and no reader. Two of a kind who
    share a table, such as the residents, are one reader here: nothing says which of them judged an exam.
    """
    require_known("label set", [label_set], LABEL_SETS, "label_set")
    folder, parts = _folder(root), []
    for reader in READERS:
        calls = _calls(folder, reader)
        if label_set == "harmonised":
            calls = vocabulary.harmonise(calls, "code6", vocabulary.label_set("harmonised"))
        long = calls.rename_axis("record_id").reset_index().melt("record_id", var_name="label", value_name="call")
        parts.append(long.assign(reader=reader))
    table = pd.concat(parts, ignore_index=True)[["record_id", "reader", "label", "call"]]
    made = table.groupby("label").call.transform("max") == vocabulary.PRESENT  # by one of them at least
    return table[made].reset_index(drop=True)


def read(row) -> Recording:
    """Read one exam of `records`, without the zeros around it. EcgError where it is not there, or holds zeros only."""
    file, name = Path(f"{datasets.cell(row, 'path')}.hdf5"), str(datasets.cell(row, "record_id"))
    n, order = _opened_once(file)
    if not name.isdecimal() or int(name) >= n:
        raise EcgError(f"no exam {name} among {n}", file=file, field="record_id", fix="fetch the file again")
    with datasets.opened_hdf5(file) as content:
        signal = np.asarray(content["tracings"][int(name)], np.float32).T
    signal = datasets.without_padding(signal, name, file)
    leads = ("I", "II", "III", *order, *LEADS[6:])
    return Recording(signal, float(FS), leads, varies(signal), name, str(datasets.cell(row, "patient_id")))


def _folder(root) -> Path:
    """The folder that holds the tracings: `root`, or data/ in it, as in the archive."""
    root = Path(root).resolve()
    for folder in (root, root / "data"):
        if (folder / TRACINGS).is_file():
            return folder
    packed = next(iter(sorted(root.glob("*.zip"))), None) if root.is_dir() else None
    fix = f"unpack {packed.name} there" if packed else "give the folder of the corpus that holds it"
    raise EcgError("no such file", file=root / TRACINGS, field="tracings", fix=fix)


def _same_length(found: int, n: int, path: Path) -> None:
    if found != n:
        reason = f"{found} lines for {n} tracings: the i-th line is about the i-th tracing"
        raise EcgError(reason, file=path, field="rows", fix="take tables and tracings of one version")


def _calls(folder: Path, annotator: str) -> pd.DataFrame:
    """The table of an annotator: int8 states (exam, class), by record id."""
    require_known("annotator", [annotator], ANNOTATORS, "annotator")
    path = folder / "annotations" / f"{annotator}.csv"
    table = datasets.text_table(path, CLASSES)
    _same_length(len(table), _opened_once(folder / TRACINGS)[0], path)
    calls = pd.DataFrame(index=[f"{row:03d}" for row in range(len(table))])
    for name in CLASSES:
        number = pd.to_numeric(table[name], errors="coerce")
        datasets.refuse(table[name][~number.isin([0, 1])], path, "{} is no call", "write 1 for present, 0 for absent")
        calls[name] = number.to_numpy(np.int8)
    return calls


def _opened_once(file: Path) -> tuple[int, tuple[str, str, str]]:
    """How many tracings a file has, and the order of its augmented leads."""
    try:
        state = os.stat(file)
    except OSError as error:
        raise EcgError("no such file", file=file, fix="fetch the archive of the corpus") from error
    return _examined(str(file), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _examined(file: str, size: int, changed: int) -> tuple[int, tuple[str, str, str]]:
    with datasets.opened_hdf5(Path(file)) as content:
        shape = content["tracings"].shape if "tracings" in content else ()
        if len(shape) != 3 or shape[2] != len(LEADS) or not shape[0]:
            reason = f"no array tracings (exam, time, 12), but {shape or list(content)}"
            raise EcgError(reason, file=file, field="tracings", fix="fetch it again")
        rows = np.unique(np.linspace(0, shape[0] - 1, LOOKED_AT).astype(int))
        x = np.stack([np.asarray(content["tracings"][row], float).T[:6] for row in rows])
    size_of_limb = np.sqrt((x[:, :3] ** 2).mean(axis=(1, 2)))
    x = x[size_of_limb > 0]
    errors = {order: _misfit(x, order, size_of_limb[size_of_limb > 0]) for order in ORDERS}
    best = min(errors, key=errors.get)
    if not errors[best] < FITS:  # NaN, where no limb lead moves, does not hold either
        told = ", ".join(f"{' '.join(order)}: {error:.0%}" for order, error in errors.items())
        reason = f"its augmented leads follow from I and II in neither documented order (error {told})"
        raise EcgError(reason, file=file, field="leads", fix="fetch it again; leads are not guessed")
    return shape[0], best


def _misfit(x: np.ndarray, order: tuple[str, ...], size: np.ndarray) -> float:
    """Error of Goldberger's equations in tracings x (exam, 6 limb leads, time), as a share of `size` (exam,): median.

    The leads behind III are taken to be `order`.
    """
    expected = limb(x[:, 0], x[:, 1])
    wrong = np.stack([x[:, 3 + i] - expected[name] for i, name in enumerate(order)], axis=1)
    return float(np.median(np.sqrt((wrong**2).mean(axis=(1, 2))) / size)) if len(x) else np.nan
