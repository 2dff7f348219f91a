"""Datasets: one corpus per file, found by its file name.

A file `datasets/<name>.py` has
`URL, VERSION, LICENCE, CITATION` of the source, `N_RECORDS` (None: open), `FS` in Hz (None: varies), `LEADS` it provides,
`VOCABULARY` its labels speak (a source of `labels.match`, or None);
`records(root, **options)`: DataFrame with record_id (unique text), patient_id, path (absolute, no extension), split
("pretrain", "train", "val", "test", "external" or ""), age in years, sex ("female", "male", ""), report, and metadata
(NaN where missing); `attrs["notes"]` may list what a reader must know;
`labels(root, records, **options)`: wide int8 states (index record_id, see `ecglib.labels`), one column per label;
`read(row) -> Recording` with standard lead names, for a row of `records`.
`records` lists what the corpus tables list: a missing signal file shows when it is read.
"""

import importlib
import pkgutil
from pathlib import Path

import pandas as pd

from ecglib.signals import EcgError


def names() -> list[str]:
    """Names of the datasets there are: the files beside this one."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def get(name: str):
    """Return the module of a dataset; raises EcgError that lists the valid names."""
    if name not in names():
        raise EcgError(f"unknown dataset {name!r}", field="dataset", fix=f"use one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


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
