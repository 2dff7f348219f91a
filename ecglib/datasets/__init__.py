"""Datasets: one corpus per file, found by its file name.

A file `datasets/<name>.py` has
`URL, VERSION, LICENCE, CITATION` of the source, `N_RECORDS` (None: open), `FS` in Hz (None: varies), its `LEADS`,
`VOCABULARY` its labels speak (a source of `labels.match`, or None), and `CORPUS`, its name on the cards of
`ecglib.zoo`, which say what models were pretrained on; perhaps `FASTEST`, options that give the highest rate there is;
`records(root, **options)`: DataFrame with record_id (unique text), patient_id, path (absolute, no extension), split
("pretrain", "train", "val", "test", "external" or ""), age in years, sex ("female", "male", ""), report, and metadata
(NaN where missing); `attrs["notes"]` may list what a reader must know;
`labels(root, records, **options)`: wide int8 states (index record_id, see `ecglib.labels`), one column per label;
`read(row) -> Recording` with standard lead names, for a row of `records`.
`records` lists what the corpus tables list: a missing signal file shows when it is read.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import wfdb_io, wings
from ecglib.signals import EcgError, Recording, canonical


def names() -> list[str]:
    """Names of the datasets there are."""
    return wings.names(__path__)


def get(name: str):
    """Return the module of a dataset; raises EcgError that lists the valid names."""
    return wings.find(__name__, __path__, name, "dataset")


def table(path: Path, needs=(), **options) -> pd.DataFrame:
    """Read a CSV of a corpus; raises EcgError where it is missing, empty, not a table, or lacks a column of `needs`."""
    if not path.is_file():
        raise EcgError("no such table", file=path, fix="give the folder of the corpus that holds it")
    try:
        frame = pd.read_csv(path, skip_blank_lines=True, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise EcgError(f"not a readable CSV table: {error}", file=path) from error
    require_columns(frame, needs, path)
    return frame


def require_columns(frame: pd.DataFrame, needs, path: Path) -> None:
    """Raise EcgError that names the missing columns and lists those there are."""
    missing = [c for c in needs if c not in frame]
    if missing:
        there = ", ".join(map(str, frame.columns))
        raise EcgError(f"no column {', '.join(missing)}", file=path, field=missing[0], fix=f"columns there: {there}")


def load(row, rename: dict[str, str] | None = None) -> Recording:
    """Read the WFDB record of a row (anything with path, record_id, patient_id): every lead under its standard name.

    `rename`: lead name in the file -> standard name, or "" to leave the channel out; it wins over the usual spellings.
    Raises EcgError for a record that cannot be read, an unknown lead name, or a lead that is there twice.
    """
    path, record_id, patient_id = (cell(row, name) for name in ("path", "record_id", "patient_id"))
    recording = wfdb_io.read(path)
    names = [(rename or {}).get(name, name) for name in recording.leads]
    kept = [i for i, name in enumerate(names) if name]
    try:
        leads = tuple(canonical(names[i]) for i in kept)
    except EcgError as error:
        raise EcgError(error.reason, file=f"{path}.hea", field="lead name", fix=error.fix) from error
    if len(set(leads)) < len(leads):
        raise EcgError(f"a lead is there twice: {', '.join(leads)}", file=f"{path}.hea", field="lead name")
    return replace(
        recording,
        signal=recording.signal[kept] if len(kept) < len(names) else recording.signal,
        leads=leads,
        lead_mask=np.asarray(recording.lead_mask)[kept],
        record_id=str(record_id),
        patient_id=None if patient_id is None else str(patient_id),
    )


def cell(row, name: str):
    """Value of a column of a row: a Series, a dict or a named tuple; None where there is none."""
    return row.get(name) if hasattr(row, "get") else getattr(row, name, None)
