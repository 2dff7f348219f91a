"""Datasets: one corpus per file, found by its file name.

A file `datasets/<name>.py` has
`URL, VERSION, LICENCE, CITATION` of the source, `N_RECORDS` (None: open), `FS` in Hz (None: varies), its `LEADS`,
`VOCABULARY`, what its label names mean (a source of `labels.match`, or None), and `CORPUS`, its name on the cards of
`ecglib.zoo`, which say what models were pretrained on; perhaps `FASTEST`, options that give the highest rate there is;
`records(root, **options)`: DataFrame with record_id (unique text), patient_id, path (absolute, no extension), split
("pretrain", "train", "val", "test", "external" or ""), age in years, sex ("female", "male", ""), report, and metadata
(NaN where missing); `attrs["notes"]` may list what a reader must know; raises EcgError for a missing table or column,
an unknown option, and where no recording is there;
`labels(root, records, **options)`: wide int8 states (index record_id, see `ecglib.data.labels`), one column per label;
`attrs["label_set"]` may say by which rules: name, version, likelihood, records_without_a_label;
`read(row) -> Recording` with standard lead names, for a row of `records`.
`records` leaves out the rows of the corpus tables whose recordings are not there, with a note that counts them
(`with_files`), so that a part of a corpus can be used; in `folder` and `simulated` the packing rejects such rows.
"""

import csv
import hashlib
import io
import json
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, find_plugin, plugin_names
from ecglib.data import files, packing, wfdb_io
from ecglib.data.recording import Recording, standard

# Names of corpora on the cards of published models and in packed cohorts; "own": nobody can have seen them.
CORPORA = "brugada-huca chapman cinc2017 code-15 cpsc-extra cpsc2018 georgia heedb incart ludb mimic-iv-ecg ningbo"
CORPORA = (*CORPORA.split(), "ptb", "ptb-xl", "simulated", "own")
# How tables write that nothing is known, in small letters (R, pandas, SQL, Excel).
UNKNOWN = {"", "na", "n/a", "#n/a", "<na>", "nan", "nat", "none", "null", "missing", "unknown"}


def names() -> list[str]:
    """Names of the datasets there are."""
    return plugin_names(__path__)


def get(name: str):
    """Return the module of a dataset; raises EcgError that lists the valid names."""
    return find_plugin(__name__, __path__, name, "dataset")


def table(path: Path, needs=(), **options) -> pd.DataFrame:
    """Read a CSV of a corpus, `options` as in pandas.read_csv; EcgError as in `text_table`."""
    named = {"names": options["names"]} if "names" in options else {}
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_rows(path, ",", **named)[1])
    text.seek(0)
    try:
        frame = pd.read_csv(text, **options)
    except ValueError as error:
        raise EcgError(f"not a readable CSV table: {error}", file=path, fix="correct the cell") from error
    require_columns(frame, needs, path)
    return frame


def text_table(path: Path, needs=(), separator: str = ",") -> pd.DataFrame:
    """Read a CSV as text without blanks around names and cells; the index numbers the rows of the file (header: 1).

    Raises EcgError where the file is missing, empty, no UTF-8 table with as many cells in each row as in the header, or
    names a column twice, and where a column of `needs` is not there.
    """
    numbers, (header, *cells) = _rows(path, separator)
    header = [name or f"Unnamed: {i}" for i, name in enumerate(header)]  # as pandas calls them
    stripped = [[cell.strip() for cell in row] for row in cells]
    frame = pd.DataFrame(stripped, index=numbers[1:], columns=header, dtype=str)
    require_columns(frame, needs, path)
    return frame[(frame != "").any(axis=1)]


def _rows(path: Path, separator: str, names=None) -> tuple[list[int], list[list[str]]]:
    """Row numbers and cells of a CSV, the header (without `names` of columns that has none) first; checked."""
    if not path.is_file():
        raise EcgError("no such table", file=path, fix="give the folder of the corpus that holds it")
    separator = "\t" if separator == "\\t" else separator  # as a shell hands it over
    if not isinstance(separator, str) or len(separator) != 1:
        raise EcgError(f"{separator!r} is no separator", field="separator", fix='one character, such as ";"')
    try:
        text = io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
        rows = [(n, row) for n, row in enumerate(csv.reader(text, delimiter=separator, strict=True), 1) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        reason, fix = f"not a readable CSV table: {error}", "save it as CSV in UTF-8, with every quote closed"
        raise EcgError(reason, file=path, fix=fix) from error
    if not rows or "\0" in text.getvalue():
        reason = "not a readable CSV table: " + ("it holds NUL bytes" if rows else "it is empty")
        raise EcgError(reason, file=path, fix="save it as CSV in UTF-8")
    header = [name.strip() for name in names or rows[0][1]]
    widths = [len(row) for _, row in rows]
    width = len(header) if len(header) in widths[1:] or len(rows) == 1 else widths[1]
    while header and not header[-1]:
        header.pop()
    _check_header(header, separator, path)
    for number, row in rows[names is None :]:
        if len(row) != width or width < len(header) or "".join(row[len(header) :]).strip():
            reason = f"row {number} has {len(row)} cells, the header {len(header)}"
            raise EcgError(reason, file=path, field=f"row {number}", fix="quote cells that hold a separator")
    rows[0] = (rows[0][0], header) if names is None else rows[0]
    return [number for number, _ in rows], [row[: len(header)] for _, row in rows]


def _check_header(header: list[str], separator: str, path: Path) -> None:
    other = next((c for c in ",;\t|" if c != separator and any(c in name for name in header)), None)
    if len(header) < 2 and other:
        reason = f"its columns are separated by {other!r}, not {separator!r}"
        raise EcgError(reason, file=path, field="separator", fix=f"save it with commas, or option separator={other!r}")
    alike = [spelling(name) for name in header]
    if twice := [name for name, plain in zip(header, alike, strict=True) if plain and alike.count(plain) > 1]:
        reason = f"a column is there twice: {', '.join(twice)}"
        raise EcgError(reason, file=path, field=twice[0], fix="remove one, or give each its own name")


def is_unknown(cells: pd.Series) -> pd.Series:
    """Which cells of text say that nothing is known: empty, NA, nan, None, null and their like."""
    return cells.fillna("").str.lower().isin(UNKNOWN)


def numbers(table: pd.DataFrame, column: str, path: Path, limits=(-np.inf, np.inf), what="number") -> np.ndarray:
    """A column of text as float64, NaN where it `is_unknown`; EcgError names the first row that is none in `limits`."""
    cells = table[column]
    values = pd.to_numeric(cells.where(~is_unknown(cells)), errors="coerce").to_numpy(float)
    wrong = ~is_unknown(cells).to_numpy() & ~((values >= limits[0]) & (values <= limits[1]) & np.isfinite(values))
    refuse(cells[wrong], path, f"{{}} is no {what}", f"a number from {limits[0]:g} to {limits[1]:g}, or empty")
    return values


def refuse(cells: pd.Series, path: Path, reason: str, fix: str) -> None:
    """Raise EcgError with row, column and `reason`, where {} is the text, of the first of `cells`, if there is one."""
    for row, cell in cells.items():
        raise EcgError(f"row {row}: {reason.replace('{}', repr(cell))}", file=path, field=str(cells.name), fix=fix)


def spelling(text: str) -> str:
    """What the spellings of a name or number have in common: no capitals, blanks, invisible signs, leading zeros."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(c for c in plain if c.isprintable() and not c.isspace())
    return re.sub(r"^0+(?=\d+$)", "", re.sub(r"^(\d+)\.0*$", r"\1", plain))


def require_one_spelling(cells: pd.Series, path: Path, what: str) -> None:
    """Raise EcgError where two cells are spellings of one name (17 and 17.0, p1 and P1), or one is a spreadsheet's."""
    rounded = cells[cells.str.fullmatch(r"\d([.,]\d+)?[eE]\+\d+|#[A-Z/0]+[!?]").astype(bool)]
    refuse(rounded, path, f"{{}} is no {what} but a spreadsheet's sign", "format the column as text and save it again")
    first = {}
    for row, cell in cells.drop_duplicates().items():
        known = first.setdefault(spelling(cell), (row, cell))
        if known[1] != cell:
            reason = f"{{}} is the {what} {known[1]!r} of row {known[0]} in another spelling"
            refuse(cells.loc[[row]], path, reason, "write it in one way")


def require_columns(frame: pd.DataFrame, needs, path: Path) -> None:
    """Raise EcgError that names the missing columns and lists those there are."""
    missing = [str(c) for c in needs if c not in frame]
    if missing:
        fix = f"columns there: {', '.join(map(str, frame.columns))}"
        raise EcgError(f"no column {', '.join(missing)}", file=path, field=missing[0], fix=fix)


def with_files(records: pd.DataFrame, table: Path, present=None, ending: str = ".hea") -> pd.DataFrame:
    """The rows of `records` whose files are there; a note in `attrs` counts those that are left out.

    table: the file they were listed in. present: which are there, bool (row,); None: those that have a header file.
    ending: of the file that is missed, for the message. Raises EcgError where no recording is there.
    """
    if present is None:
        present = [files.beside(path, ".hea") is not None for path in records.path]
    present = np.array(present, bool)
    if not present.any():
        fix = f"fetch the recordings, such as {Path(records.path.iloc[0]).name}{ending}" if len(records) else None
        raise EcgError(f"of {len(records)} recordings none is there", file=table, field="path", fix=fix)
    if present.all():
        return records
    kept = records[present].reset_index(drop=True)
    note = f"{len(records) - len(kept)} of {len(records)} recordings of {table.name} are not there and are left out"
    kept.attrs["notes"] = [*records.attrs.get("notes", []), note]
    return kept


def header_comments(path) -> dict[str, str]:
    """The comments "# Age: 74" of a header as the CinC Challenges write them: name in small letters -> text.

    path: without extension. Raises EcgError where there is no header that can be read.
    """
    found = {}
    for line in wfdb_io.comments(path):
        name, colon, text = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), text.strip())
    return found


def person(age: str, sex: str) -> tuple[float, str]:
    """Age in years (NaN where none or none that can be: negative, above 130) and sex ("female", "male", "").

    300 is how PTB-XL writes an age above 89: 90, as its own reader says.
    """
    try:
        years = float(age)
    except ValueError:
        years = np.nan
    years = 90.0 if years == 300 else years if 0 <= years <= 130 else np.nan
    return years, {"f": "female", "female": "female", "m": "male", "male": "male"}.get(sex.strip().lower(), "")


def load(row, rename: dict[str, str] | None = None) -> Recording:
    """Read the WFDB record of a row (anything with path, record_id, patient_id): every lead under its standard name.

    rename: lead name in the file -> standard name, or "" to leave the channel out; it wins over the usual spellings.
    Raises EcgError for a record that cannot be read, an unknown lead name, or a lead that is there twice.
    """
    path, record_id, patient_id = (cell(row, name) for name in ("path", "record_id", "patient_id"))
    recording = wfdb_io.read(path, rename)
    if strange := [name for name in recording.leads if standard(name) is None]:
        guess = json.dumps({name: standard(re.sub("^(d|ml)(?=i)", "", name.lower())) or "" for name in strange})
        fix = f'lead_names={guess} (a standard lead, or "" to leave the channel out; an option of the dataset folder)'
        reason = f"unknown lead name {', '.join(map(repr, strange))}"
        raise EcgError(reason, file=f"{path}.hea", field="lead name", fix=fix)
    leads = tuple(standard(name) for name in recording.leads)
    if len(set(leads)) < len(leads):
        fix = 'leave one channel out: lead_names={"its name": ""} (an option of the dataset folder)'
        raise EcgError(f"a lead is there twice: {', '.join(leads)}", file=f"{path}.hea", field="lead name", fix=fix)
    patient_id = None if patient_id is None else str(patient_id)
    return replace(recording, leads=leads, record_id=str(record_id), patient_id=patient_id)


def cell(row, name: str):
    """Value of a column of a row: a Series, a dict or a named tuple; None where there is none."""
    return row.get(name) if hasattr(row, "get") else getattr(row, name, None)


class Recordings:
    """`packed`, a Cohort, with signals at `fs` Hz read from the corpus in the folder `root`.

    Used in place of the cohort where signals are wanted: `batch`, `peaks`, `valid`, `fs`; all else is the cohort's.
    The recordings are those of the highest rate that the corpus has, or those that were packed where some of the former
    are not there. Raises EcgError where the folder does not hold the recordings of the cohort.
    """

    def __init__(self, packed, root, fs: float):
        info, ids = packed.info, packed.records["record_id"]
        dataset = get(info["dataset"]["module"])
        self._packed, self._read, self._kept = packed, dataset.read, (None, [])
        self._rows = _corpus_rows(packed, dataset, root).loc[ids].reset_index().to_dict("records")
        self._number = packed.records["window"].to_numpy()
        self._n_windows = packed.records.groupby("record_id")["window"].max()[ids].to_numpy() + 1
        tolerance = info.get("fs_tolerance", 0.0)
        self._plan = packing.plan(fs, info["seconds"], info["leads"], info["windows"], tolerance)
        self.fs, self._ratio, self.recorded_fs = fs, fs / packed.fs, self._read(self._rows[0]).fs
        folders = sorted({Path(row["path"]).parent for row in self._rows})
        state = [line for folder in folders for line in files.fingerprint(folder, content=False)]
        self._files = hashlib.sha256("\n".join(state).encode()).hexdigest()

    def __getattr__(self, name):
        if name.startswith("_"):  # before __init__, as when copied, there is nothing to ask
            raise AttributeError(name)
        return getattr(self._packed, name)

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def content(self) -> str:
        """Fingerprint of rows and samples: of the packed cohort, the rate, and the folders of the recordings."""
        return f"{self._packed.content} {self.fs:g} {self._files}"

    def batch(self, rows, leads=None) -> np.ndarray:
        """Windows: float32 mV (row, lead, time) at `fs`, in the order of `rows`; as `Cohort.batch`."""
        columns = self._packed.lead_columns(leads)
        known = columns >= 0
        out = np.zeros((len(rows), len(columns), self._plan.n_times), np.float32)
        for i, row in enumerate(np.asarray(rows)):
            counts, _ = self._windows(row)[self._number[row]]
            out[i, known] = counts[columns[known]] * np.float32(1 / packing.COUNTS_PER_MV)
        return out

    def _windows(self, row: int) -> list:
        """The windows of the record of a row; those of the last record are kept for its next row."""
        name = self._rows[row]["record_id"]
        if self._kept[0] != name:
            options = dict(peaks=False, n_windows=int(self._n_windows[row]))
            self._kept = name, packing.prepare(self._read(self._rows[row]), self._plan, **options)
        return self._kept[1]

    def valid(self, rows) -> np.ndarray:
        """Samples of each row before its padding: int (row,)."""
        return np.minimum(np.round(self._packed.valid(rows) * self._ratio).astype(int), self._plan.n_times)

    def peaks(self, row: int) -> np.ndarray:
        """R peaks of a row: int array of samples at `fs`."""
        return np.round(self._packed.peaks(row) * self._ratio).astype(int)


def _corpus_rows(packed, dataset, root) -> pd.DataFrame:
    """Rows of the corpus by record id, with every record of a cohort: at the highest rate, or else as packed."""
    options, ids = packed.info["dataset"]["options"], packed.records["record_id"].unique()
    if fastest := getattr(dataset, "FASTEST", {}):
        try:
            table = dataset.records(root, **options | fastest).set_index("record_id")
        except EcgError:  # none there; whatever else is wrong shows below
            table = pd.DataFrame()
        if set(ids) <= set(table.index):
            return table
        print(f"{packed.name}: not every record is there with {fastest}: the recordings that were packed are read")
    table = dataset.records(root, **options).set_index("record_id")
    missing = [name for name in ids if name not in table.index]
    if missing:
        fix = f"give the folder that {packed.name} was packed from"
        raise EcgError(f"{len(missing)} of its records are not there, such as {missing[0]}", file=root, fix=fix)
    return table


def without_padding(signal: np.ndarray, name: str, file: Path) -> np.ndarray:
    """The signal (lead, time) of exam `name` without the zeros around it; EcgError where there is nothing else."""
    filled = np.flatnonzero((signal != 0).any(axis=0))
    if not len(filled):
        raise EcgError(f"exam {name} holds zeros only", file=file, field="signal")
    return np.ascontiguousarray(signal[:, filled[0] : filled[-1] + 1])


def opened_hdf5(file: Path):
    """An HDF5 file, opened for reading; EcgError where it cannot be, or h5py is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise EcgError("HDF5 is read by h5py", file=file, field="h5py", fix="pip install h5py") from error
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise EcgError(f"not an HDF5 file that can be read: {error}", file=file, fix="fetch it again") from error
