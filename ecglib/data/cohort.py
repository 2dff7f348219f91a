"""A cohort: one corpus packed into memory-mapped windows and plain tables, and fast random batches from it.

    signals.npy      int16 microvolt (row, lead, time), resampled, otherwise unfiltered; one row per window
    records.parquet  per row: row, record_id, window, start_s, n_valid, patient_id, split, age, sex, report, file,
                     fs_recorded, lead_mask, gap_mask, clipped_mask (bit i = lead i), metadata of the corpus
    labels.parquet   per record: record_id and one int8 state column per label (see `ecglib.data.labels`)
    beats.parquet    per R peak: row, sample (at the cohort's rate)
    measurements.parquet  per row: row, record_id, the hand-made measurements (`ecglib.data.handmade`; units with each)
    rejected.csv     record_id, file, field, reason, fix of every record that was refused (rules: `ecglib.data.packing`)
    cohort.json      where it comes from, what was read as what, the rules of its label set, versions, checksums, counts

The bytes depend on the recordings and the package versions only: not on the time, the machine's paths, or the workers.
"""

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ecglib import EcgError, meant, require_known
from ecglib.data import packing, splits
from ecglib.data.recording import canonical

CLOSED = ("test", "external")  # opened by probing.open_test only


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
            reason = f"{self.signals.shape} signals for {len(self.records)} rows"
            raise EcgError(reason, file=self.path, fix="pack again")
        self._label_rows = self.labels.index.get_indexer(self.records.record_id)
        self._beat_start = np.searchsorted(self.beats.row, np.arange(len(self) + 1))

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        sizes = f"{len(self)} rows, {len(self.labels)} records, {len(self.leads)} leads"
        return f"Cohort({self.name}: {sizes}, {self.fs} Hz)"

    def rows(self, split) -> np.ndarray:
        """Return the rows of a split (or of several): int array. "test" and "external" are refused: see `test_rows`."""
        wanted = [split] if isinstance(split, str) else list(split)
        closed = [s for s in wanted if s in CLOSED]
        if closed:
            raise EcgError(
                f"split {closed[0]!r} is closed", field="split", fix="probing.open_test opens it, at the end"
            )
        require_known("split", wanted, splits.SPLITS[:3])
        return np.flatnonzero(self.records.split.isin(wanted))

    def test_rows(self) -> np.ndarray:
        """Return the rows of "test" and "external". Only `probing.open_test` may call this."""
        return np.flatnonzero(self.records.split.isin(CLOSED))

    def states(self, names, rows) -> np.ndarray:
        """Return label states: int8 (row, label). Raises EcgError for a label that the cohort lacks."""
        require_known("label", names, list(self.labels), "labels", self.name)
        return self.labels[list(names)].to_numpy(np.int8)[self._label_rows[np.asarray(rows)]]

    def batch(self, rows, leads=None) -> np.ndarray:
        """Return windows: float32 mV (row, lead, time), in the order of `rows`.

        `leads`: standard names, default the cohort's; a lead that the cohort lacks is zeros (and False in `lead_mask`).
        """
        rows = np.asarray(rows)
        order = np.argsort(rows, kind="stable")
        columns = self.lead_columns(leads)
        known = columns >= 0
        whole = np.array_equal(columns, np.arange(len(self.leads)))
        counts = self.signals[rows[order] if whole else (rows[order][:, None], columns[known])]
        out = np.zeros((len(rows), len(columns), self.signals.shape[2]), np.float32)
        out[order if known.all() else np.ix_(order, known)] = counts * np.float32(1 / packing.COUNTS_PER_MV)
        return out

    def lead_mask(self, rows, leads=None) -> np.ndarray:
        """Return which leads of which rows have a signal: bool (row, lead)."""
        columns = self.lead_columns(leads)
        flags = packing.unpack_bits(self.records.lead_mask.to_numpy()[np.asarray(rows)], len(self.leads))
        return flags[:, columns] & (columns >= 0)

    @cached_property
    def measurements(self) -> pd.DataFrame:
        """Intervals, amplitudes, axes, rhythm of each row: float32 columns of `handmade.feature_names`, NaN: none."""
        table = pq.read_table(self.path / "measurements.parquet").to_pandas()
        return table.drop(columns=["row", "record_id"])

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

    def lead_columns(self, leads=None) -> np.ndarray:
        """Return the column of every wanted lead in `signals`, -1 for a lead that the cohort lacks: int (lead,)."""
        wanted = self.leads if leads is None else [canonical(n) for n in leads]
        return np.array([self.leads.index(n) if n in self.leads else -1 for n in wanted], int)


def open(path) -> Cohort:  # noqa: A001 - read as cohort.open
    """Open a packed cohort. Raises EcgError where the folder holds none, an incomplete one, or another format."""
    return Cohort(path)


def _read_info(folder: Path) -> dict:
    for file in ("cohort.json", *packing.FILES):
        if not (folder / file).is_file():
            beside = [path.parent.name for path in folder.parent.glob("*/cohort.json")]
            close = meant(folder.name, [name for name in beside if name != folder.name])
            raise EcgError(f"no cohort here: {file} is missing", file=folder, fix=f"{close}pack it first")
    info = json.loads((folder / "cohort.json").read_text("utf-8"))
    if info.get("format") != packing.FORMAT:
        reason = f"cohort format {info.get('format')}, this version reads {packing.FORMAT}"
        raise EcgError(reason, file=folder, fix="pack again")
    return info


def pack(name: str, dataset, root, out, **settings) -> Cohort:
    """Pack a corpus into a folder; prints how many records were packed and rejected, and the notes of the corpus.

    dataset: a module of `ecglib.datasets`. root: folder of the corpus. out: folder to write. settings: the fields of
    `ecglib.data.packing.Settings`, by keyword. Returns the cohort, opened.
    Raises EcgError before any work for an unknown setting, option, lead or label, a missing label column, duplicate
    record ids, a patient in two splits, an empty cohort, a label that no record has, a folder `out` that holds anything
    but an earlier cohort; and when every record is refused.
    A failed or killed pack leaves the last good cohort in place; the next one clears what it left and starts over.
    """
    packing.pack(name, dataset, root, out, packing.settings(settings))
    return open(out)
