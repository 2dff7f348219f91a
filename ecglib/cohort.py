"""A cohort: one corpus packed into memory-mapped windows and plain tables, and fast random batches from it.

    signals.npy      int16 microvolt (row, lead, time), resampled, otherwise unfiltered; one row per window
    records.parquet  per row: row, record_id, window, start_s, n_valid, patient_id, split, age, sex, report, file,
                     fs_recorded, lead_mask, gap_mask, clipped_mask (bit i = lead i), metadata of the corpus
    labels.parquet   per record: record_id and one int8 state column per label (see `ecglib.labels`)
    beats.parquet    per R peak: row, sample (at the cohort's rate)
    rejected.csv     record_id, file, field, reason of every record that was refused (rules: `ecglib.windows`)
    cohort.json      where it comes from, versions, checksums, counts, notes

The bytes depend on the recordings and the package versions only: not on the time, the machine's paths, or the workers.
"""

import inspect
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ecglib import packing, splits, windows
from ecglib.signals import EcgError, canonical

CLOSED = ("test", "external")  # opened by probe.open_test only


class Cohort:
    """An open cohort. `signals` stays on disk until rows are read; `records`, `labels` and `beats` are DataFrames."""

    def __init__(self, path):
        self.path = Path(path)
        self.info = _read_info(self.path)
        self.name, self.fs, self.leads = self.info["name"], self.info["fs"], tuple(self.info["leads"])
        self.vocabulary = self.info["dataset"]["vocabulary"]
        self.signals = np.load(self.path / "signals.npy", mmap_mode="r")
        self.records = pq.read_table(self.path / "records.parquet").to_pandas()
        self.labels = pq.read_table(self.path / "labels.parquet").to_pandas().set_index("record_id")
        self.beats = pq.read_table(self.path / "beats.parquet").to_pandas()
        self.rejected = pd.read_csv(self.path / "rejected.csv", dtype=str, keep_default_na=False)
        if self.signals.shape[:2] != (len(self.records), len(self.leads)):
            raise EcgError(
                f"{self.signals.shape} signals for {len(self.records)} rows", file=self.path, fix="pack again"
            )
        self._label_rows = self.labels.index.get_indexer(self.records.record_id)
        self._beat_start = np.searchsorted(self.beats.row, np.arange(len(self) + 1))

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        n_rows, n_records = len(self), len(self.labels)
        return f"Cohort({self.name}: {n_rows} rows, {n_records} records, {len(self.leads)} leads, {self.fs} Hz)"

    def rows(self, split) -> np.ndarray:
        """Return the rows of a split (or of several): int array. "test" and "external" are refused: see `test_rows`."""
        wanted = [split] if isinstance(split, str) else list(split)
        closed = [s for s in wanted if s in CLOSED]
        if closed:
            raise EcgError(
                f"split {closed[0]!r} is closed", field="split", fix="probe.open_test opens it, once, at the end"
            )
        unknown = [s for s in wanted if s not in splits.SPLITS]
        if unknown:
            raise EcgError(f"unknown split {unknown[0]!r}", field="split", fix=f"use {', '.join(splits.SPLITS[:3])}")
        return np.flatnonzero(self.records.split.isin(wanted))

    def test_rows(self) -> np.ndarray:
        """Return the rows of "test" and "external". Only `probe.open_test` may call this."""
        return np.flatnonzero(self.records.split.isin(CLOSED))

    def states(self, names, rows) -> np.ndarray:
        """Return label states: int8 (row, label). Raises EcgError for a label that the cohort lacks."""
        missing = [n for n in names if n not in self.labels]
        if missing:
            there = ", ".join(self.labels.columns)
            raise EcgError(f"{self.name} has no label {missing[0]!r}", field="labels", fix=f"labels there: {there}")
        return self.labels[list(names)].to_numpy(np.int8)[self._label_rows[np.asarray(rows)]]

    def batch(self, rows, leads=None) -> np.ndarray:
        """Return windows: float32 mV (row, lead, time), in the order of `rows`.

        `leads`: standard names, default the cohort's; a lead that the cohort lacks is zeros (and False in `lead_mask`).
        """
        rows = np.asarray(rows)
        order = np.argsort(rows, kind="stable")
        places = self._places(leads)
        there = places >= 0
        if leads is None or (there.all() and len(places) == len(self.leads) and (np.diff(places) == 1).all()):
            counts = self.signals[rows[order]]
        else:
            counts = self.signals[rows[order][:, None], places[there]]
        out = np.zeros((len(rows), len(places), self.signals.shape[2]), np.float32)
        scale = np.float32(1 / windows.COUNTS_PER_MV)
        if there.all():
            out[order] = counts * scale
        else:
            out[np.ix_(order, there)] = counts * scale
        return out

    def lead_mask(self, rows, leads=None) -> np.ndarray:
        """Return which leads of which rows have a signal: bool (row, lead)."""
        places = self._places(leads)
        flags = windows.unpack_bits(self.records.lead_mask.to_numpy()[np.asarray(rows)], len(self.leads))
        return flags[:, places] & (places >= 0)

    def valid(self, rows) -> np.ndarray:
        """Return how many samples of each row come before its padding: int (row,)."""
        return self.records["n_valid"].to_numpy()[np.asarray(rows)]

    @property
    def content(self) -> str:
        """Checksum of the stored signals and of what belongs to each row."""
        return " ".join(self.info["sha256"][file] for file in ("signals.npy", "records.parquet"))

    def peaks(self, row: int) -> np.ndarray:
        """Return the R peaks of a row: int array of samples at the cohort's rate."""
        return self.beats["sample"].to_numpy()[self._beat_start[row] : self._beat_start[row + 1]]

    def verify(self) -> None:
        """Raise EcgError where a file does not have the checksum that cohort.json states."""
        for name, stated in self.info["sha256"].items():
            if packing.sha256(self.path / name) != stated:
                raise EcgError("the file changed since packing", file=self.path / name, fix="pack again")

    def _places(self, leads) -> np.ndarray:
        """Position of every wanted lead in the cohort, -1 where it is not there."""
        wanted = self.leads if leads is None else [canonical(n) for n in leads]
        return np.array([self.leads.index(n) if n in self.leads else -1 for n in wanted], int)


def open(path) -> Cohort:  # noqa: A001 - read as cohort.open
    """Open a packed cohort. Raises EcgError where the folder holds none, an incomplete one, or another format."""
    return Cohort(path)


def _read_info(folder: Path) -> dict:
    """Read cohort.json; raises EcgError where `folder` holds no complete cohort of this format."""
    for file in ("cohort.json", *packing.FILES):
        if not (folder / file).is_file():
            raise EcgError(f"no cohort here: {file} is missing", file=folder, fix="pack it first")
    info = json.loads((folder / "cohort.json").read_text("utf-8"))
    if info.get("format") != packing.FORMAT:
        raise EcgError(
            f"cohort format {info.get('format')}, this version reads {packing.FORMAT}", file=folder, fix="pack again"
        )
    return info


def pack(name: str, dataset, root, out, **settings) -> Cohort:
    """Pack a corpus into the folder `out` and return it opened; prints how many records were packed and rejected.

    dataset: a module of `ecglib.datasets`; root: its folder. Settings, by keyword, and their defaults:
    fs=100 in Hz. seconds=10. leads=None: standard names (default: all that the dataset provides). windows="first" takes
    the first `seconds` of each record, "all" every full window; a shorter record is zero-padded (`n_valid` counts its
    samples). workers=2 processes. backend=None: a joblib backend, such as "dask" with a dask.distributed Client open
    (its workers must see the same files). options={}: for the dataset's `records` and `labels`. labels=None: keep only
    these. progress=None: called with (records done, records in all), every record counting twice (check, write).

    Raises EcgError before any work for an unknown setting, option, lead or label, a missing label column, duplicate
    record ids, a patient in two splits, an empty cohort, a label that no record has; and when every record is refused.
    A failed or killed pack leaves the last good cohort in place; the next one clears what it left and starts over.
    """
    valid = [p.name for p in inspect.signature(packing.pack).parameters.values() if p.kind is p.KEYWORD_ONLY]
    wrong = [key for key in settings if key not in valid]
    if wrong:
        raise EcgError(f"unknown setting {wrong[0]!r}", field="pack", fix=f"use some of {', '.join(valid)}")
    packing.pack(name, dataset, root, out, **settings)
    return open(out)
