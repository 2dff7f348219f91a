"""HEEDB, the Harvard-Emory ECG Database: some 11 million 12-lead ECGs of 10 s at 250 or 500 Hz of two hospitals.

Each hospital is a folder: I0001 (Massachusetts General) with .mat files, I0006 (Emory) with .dat files below WFDB/;
metadata/metadata.csv names file, patient, sex and age (in days); 12SL_diagnoses/ holds the statements of each ECG as
codes and diagnoses_dictionary.csv says what a code means. Labels are what the statements say (`ecglib.data.reports`): a
label that no statement names is unknown, never absent. Files are given by agreement; the layout is that of versions 3
to 5, where the files of diagnoses write FileName in other ways than the metadata, which is understood.

The tables are read in pieces, since one has ten million lines: name `years` for a part.
Source: Koscova et al. (2024), medRxiv 2024.09.27.24314503; the data doi:10.60508/rv6h-7d10.
"""

import re
from pathlib import Path

import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import labels as vocabulary
from ecglib.data import reports, splits
from ecglib.data.recording import LEADS as LEADS

URL = "https://bdsp.io/content/heedb/5.0"
VERSION = "5.0"
LICENCE = "BDSP data use agreement"
CITATION = "Koscova et al. (2024), The Harvard-Emory ECG Database, medRxiv, doi:10.1101/2024.09.27.24314503"
N_RECORDS = None  # grows with its versions
FS = None  # 250 or 500 Hz
VOCABULARY = None  # statements do not name every label of every recording
CORPUS = "heedb"  # as on the cards of ecglib.zoo
SITES = {"I0001": "SexDSC", "I0006": "Sex"}  # hospital -> the column of its metadata that holds the sex
STATED_BY = {  # option -> table and column of the codes
    "physician": ("diagnoses_acquisition.csv", "codes_physician"),
    "software": ("diagnoses_acquisition.csv", "codes_software"),
    "v24": ("diagnoses_v24.csv", "codes"),
}
DICTIONARY = "diagnoses_dictionary.csv"
DAYS = 365.2425  # of a year
FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
NOTE = "the split by patient is ours; labels are read from the statements of 12SL"
LINES = 200_000  # of a table in memory at a time
read = datasets.load


def records(
    root, *, site: str = "I0001", years: list | None = None, stated_by: str = "physician", seed: int = 0
) -> pd.DataFrame:
    """List the ECGs of a hospital whose files are there, with an 80/10/10 split by patient.

    site: I0001 or I0006. years: those whose folders are wanted; null: all. stated_by: "physician" (who has read over
    what the machine said), "software" (the machine at the time), or "v24" (its program of today). seed: of the split,
    which depends on the lines of those years. Metadata: year. report: the statements, one a line.
    """
    require_known("site", [site], SITES)
    require_known("stated_by", [stated_by], STATED_BY)
    _require_years(years)
    folder = Path(root).resolve() / site
    path = folder / "metadata/metadata.csv"
    columns = ["FileName", "BDSPPatientID", "AgeAtAcquisition", SITES[site]]
    table = _table(path, columns, years)
    if table.empty:
        raise EcgError(f"no ECG of {years}", file=path, field="years", fix="name years that are there")
    names = table.FileName.map(_plain)
    if twice := names[names.duplicated()].tolist():
        raise EcgError(f"{twice[0]} stands there twice", file=path, field="FileName", fix="remove one row")
    out = pd.DataFrame({"record_id": names.str.replace("/", "_").to_numpy(str)})
    out["patient_id"] = table.BDSPPatientID.str.strip().str.removesuffix(".0").to_numpy(str)
    out["path"] = [str(folder / "WFDB" / name) for name in names]
    out["split"] = splits.assign(out, FRACTIONS, seed)
    out["age"] = datasets.numbers(table, "AgeAtAcquisition", path, (0, 150 * DAYS), "age in days") / DAYS
    sexes = table[SITES[site]].str.lower()
    out["sex"] = sexes.map({"male": "male", "female": "female", "m": "male", "f": "female"}).fillna("").to_numpy(str)
    said = _statements(folder / "12SL_diagnoses", stated_by, years)
    out["report"] = said.reindex(names).fillna("").to_numpy(str)
    out["year"] = [_year(name) for name in names]
    nobody = datasets.is_unknown(out.patient_id)
    out = out[~nobody].reset_index(drop=True)
    out.attrs["notes"] = [NOTE, *([f"{nobody.sum()} ECGs name no patient and are left out"] if nobody.any() else [])]
    return datasets.with_files(out, path)


def labels(root, records: pd.DataFrame, **_) -> pd.DataFrame:
    """What the statements say of the common labels that one of them names: present, absent, possible, or unknown."""
    states = reports.read_all(records.set_index("record_id").report)
    states = states.loc[:, (states == vocabulary.PRESENT).any()]
    states.attrs = {}
    return states


def _require_years(years) -> None:
    """EcgError where `years` is neither None nor a list of years."""
    if not (years is None or isinstance(years, list | tuple)) or not all(
        re.fullmatch(r"(19|20)\d\d", str(year)) for year in years or ()
    ):
        raise EcgError(f"{years!r} is no list of years", field="years", fix="write years=[2018, 2019]")


def _plain(name: str) -> str:
    """A file name as it lies below WFDB/, without ending: of "./WFDB/2013/x.hea", "/S0001/2019/y"."""
    return re.sub(r"^\.?/*(WFDB/)?", "", name.strip()).removesuffix(".hea").removesuffix(".mat").removesuffix(".dat")


def _year(name: str) -> int:
    """The year among the folders of a file, 0 where there is none."""
    return next((int(part) for part in name.split("/")[:-1] if re.fullmatch(r"(19|20)\d\d", part)), 0)


def _table(path: Path, columns: list[str], years: list | None) -> pd.DataFrame:
    """Columns of a table as text, with the lines of some years alone; EcgError where it cannot be read."""
    if not path.is_file():
        raise EcgError("no such table", file=path, fix="give the folder of HEEDB, which holds I0001 or I0006")
    with path.open(encoding="utf-8-sig") as file:
        there = [name.strip().strip('"') for name in file.readline().split(",")]
    datasets.require_columns(pd.DataFrame(columns=there), columns, path)
    wanted = None if years is None else {int(year) for year in years}
    options = {"usecols": columns, "dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
    parts = []
    try:
        for part in pd.read_csv(path, chunksize=LINES, **options):
            kept = part if wanted is None else part[part.FileName.map(lambda name: _year(_plain(name))).isin(wanted)]
            parts.append(kept)
    except (ValueError, UnicodeDecodeError) as error:
        raise EcgError(f"not a readable CSV table: {error}", file=path, fix="fetch it again") from error
    out = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    out.index += 2  # the header is line 1
    return out


def _statements(folder: Path, stated_by: str, years: list | None) -> pd.Series:
    """The statements of each ECG in words, one a line, by the plain name of its file."""
    name, column = STATED_BY[stated_by]
    meaning = datasets.text_table(folder / DICTIONARY, ("codes", "diagnoses"))
    words = dict(zip(meaning.codes.str.removesuffix(".0"), meaning.diagnoses, strict=True))
    table = _table(folder / name, ["FileName", column], years)
    found = [[code.strip() for code in cell.split(",") if code.strip()] for cell in table[column]]
    if lost := sorted({code for codes in found for code in codes} - set(words)):
        reason = f"{len(lost)} codes that the dictionary does not have, such as {lost[0]}"
        raise EcgError(reason, file=folder / name, field=column, fix=f"fetch {DICTIONARY} of the same version")
    said = ["\n".join(dict.fromkeys(words[code] for code in codes)) for codes in found]
    out = pd.Series(said, index=table.FileName.map(_plain).to_numpy(), dtype=str)
    return out[~out.index.duplicated()]
