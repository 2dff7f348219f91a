"""China Physiological Signal Challenge 2018: 6,877 12-lead ECGs of 6 to 60 s at 500 Hz from eleven hospitals.

Nine classes, up to three in a record, and nothing else is stated: what is none of them is neither absent nor present.
Two forms are read: the published one (REFERENCE.csv with the numbers of the classes; `A0001.mat`, a structure ECG with
sex, age and data in mV), and the WFDB form of the first PhysioNet release, whose headers name the classes
("#Dx: RBBB"). The later release, with SNOMED CT codes, is read by `cinc2021`.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import io

from ecglib import EcgError, datasets, require_known
from ecglib.data import files
from ecglib.data import labels as vocabulary
from ecglib.data.recording import LEADS as LEADS
from ecglib.data.recording import Recording, varies

URL = "http://2018.icbeb.org/Challenge.html"
VERSION = "2018"
LICENCE = "CC BY 4.0"
CITATION = (
    "Liu et al. (2018), An open access database for evaluating the algorithms of electrocardiogram rhythm and "
    "morphology abnormality detection, J Med Imaging Health Inform 8:1368-1373"
)
N_RECORDS = 6877
FS = 500
VOCABULARY = "cinc"
CORPUS = "cpsc2018"  # as on the cards of ecglib.zoo
CLASSES = {  # in the order of their numbers in REFERENCE.csv, from 1 -> the SNOMED CT code of the Challenge 2020
    "Normal": "426783006",
    "AF": "164889003",
    "I-AVB": "270492004",
    "LBBB": "164909002",
    "RBBB": "59118001",
    "PAC": "284470004",
    "PVC": "164884008",
    "STD": "429622005",
    "STE": "164931005",
}
LABEL_SETS = ("harmonised", "classes")
TABLE = "REFERENCE.csv"
NOTE = "no patient ids are published: every record counts as its own patient"


def records(root, *, label_set: str = "harmonised") -> pd.DataFrame:
    """List the records below `root` whose files are there, all "external"; metadata: `classes`, joined by |.

    label_set: see `labels`. Raises EcgError for a class that is none of CLASSES.
    """
    require_known("label set", [label_set], LABEL_SETS, "label_set")
    root = Path(root).resolve()
    table = root / TABLE
    published = table.is_file()
    out = _of_table(root, table) if published else _of_headers(root)
    out = out.assign(split="external", age=np.nan, sex="", report="", classes=out.pop("classes"))
    out.attrs["notes"] = [NOTE]
    endings = [".mat"] if published else [".hea", ".mat"]
    present = [all(files.beside(path, ending) for ending in endings) for path in out.path]
    out = datasets.with_files(out, table if published else root, present, endings[0])
    people = [_person(path) for path in out.path]
    out["age"], out["sex"] = [age for age, _ in people], [sex for _, sex in people]
    if not published:
        out["classes"] = [_classes(path) for path in out.path]
    return out


def labels(root, records: pd.DataFrame, *, label_set: str = "harmonised") -> pd.DataFrame:
    """The keys of the common vocabulary that the nine classes state in full ("harmonised"), or the classes.

    In "harmonised", Normal has no key: the class means a normal rhythm as much as a normal ECG.
    """
    said = [set(cell.split("|")) for cell in records.classes]
    index = pd.Index(records.record_id, name="record_id")
    states = pd.DataFrame([[name in one for name in CLASSES] for one in said], index, list(CLASSES), dtype=np.int8)
    if label_set == "harmonised":
        states = vocabulary.harmonise(states.rename(columns=CLASSES), "cinc", vocabulary.challenge_keys(CORPUS))
    return states.loc[:, (states == vocabulary.PRESENT).any()]


def read(row) -> Recording:
    """Read one record of `records` in mV: the WFDB form where there is a header, else the published one.

    Raises EcgError for a file that is no structure ECG with twelve leads.
    """
    path = datasets.cell(row, "path")
    if files.beside(path, ".hea") or not files.beside(path, ".mat"):
        return datasets.load(row)
    signal = np.asarray(_structure(path)["data"], np.float32)
    if signal.ndim != 2 or len(signal) != len(LEADS):
        raise EcgError(f"data of shape {signal.shape}, not 12 leads", file=f"{path}.mat", field="data")
    name, patient = (str(datasets.cell(row, column)) for column in ("record_id", "patient_id"))
    return Recording(signal, float(FS), LEADS, varies(signal), name, patient)


def _of_table(root: Path, path: Path) -> pd.DataFrame:
    table = datasets.text_table(path, ("Recording", "First_label"))
    numbers = [column for column in ("First_label", "Second_label", "Third_label") if column in table]
    names = dict(zip(map(str, range(1, 10)), CLASSES, strict=True))
    for column in numbers:
        cells = table[column]
        wrong = ~cells.isin(names) & ~datasets.is_unknown(cells)
        datasets.refuse(cells[wrong | (cells.eq("") & (column == numbers[0]))], path, "{} is no class", "1 to 9")
    classes = ["|".join(names[cell] for cell in row if cell in names) for row in table[numbers].to_numpy()]
    places = {file.stem: file.with_suffix("") for file in files.walk(root) if file.suffix.lower() == ".mat"}
    out = pd.DataFrame({"record_id": table.Recording.to_numpy(str)})
    out["patient_id"] = out.record_id
    out["path"] = [str(places.get(name, root / name)) for name in out.record_id]
    return out.assign(classes=classes)


def _of_headers(root: Path) -> pd.DataFrame:
    found = [file for file in files.walk(root) if file.suffix.lower() in (".hea", ".mat")]
    places = {file.stem: file.with_suffix("") for file in found if file.name.startswith("A")}
    if not places:
        raise EcgError("no REFERENCE.csv and no header", file=root, field="records", fix="give the folder with A0001")
    names = sorted(places)
    paths = [str(places[name]) for name in names]
    return pd.DataFrame({"record_id": names, "patient_id": names, "path": paths, "classes": ""})


def _person(path: str) -> tuple[float, str]:
    """Age and sex, as the header says, or the structure."""
    said = datasets.header_comments(path) if files.beside(path, ".hea") else _structure(path)
    return datasets.person(str(said.get("age", "")), str(said.get("sex", "")))


def _classes(path: str) -> str:
    """The classes that a header names, joined by |. EcgError for another one."""
    said = [word.strip() for word in datasets.header_comments(path).get("dx", "").split(",") if word.strip()]
    if any(word.isdigit() for word in said):
        raise EcgError("SNOMED CT codes, not classes", file=f"{path}.hea", field="Dx", fix="read it with cinc2021")
    require_known("class of CPSC 2018", said, CLASSES, "Dx", f"{path}.hea")
    return "|".join(said)


def _structure(path) -> dict:
    """The fields sex, age and data of a file of the published form; EcgError where it is none."""
    file = files.beside(path, ".mat") or f"{path}.mat"
    try:
        found = io.loadmat(file, squeeze_me=True)["ECG"]
        return {name: found[name].item() for name in ("sex", "age", "data")}
    except (OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise EcgError(f"no structure ECG of CPSC 2018: {error}", file=file, fix="fetch the file again") from error
