"""A packed cohort whose windows are cut from the recordings again, at another rate than they were packed at.

Published models read 500 Hz where a cohort stores 100: rows, splits, labels and repairs stay those of the cohort, only
the samples are read anew, as `cohort.pack` would have stored them at that rate.
"""

import hashlib
import os
from pathlib import Path

import numpy as np

from ecglib import datasets, packing, windows
from ecglib.signals import EcgError, canonical


class Recordings:
    """`packed`, a Cohort, with signals at `fs` Hz read from the corpus in the folder `root`.

    Used in place of the cohort where signals are wanted: `batch`, `peaks`, `valid`, `fs`; all else is the cohort's.
    Raises EcgError where the folder does not hold the recordings of the cohort.
    """

    def __init__(self, packed, root, fs: float):
        source = packed.info["dataset"]
        dataset = datasets.get(source["module"])
        table = dataset.records(root, **source["options"] | getattr(dataset, "FASTEST", {})).set_index("record_id")
        lost = [name for name in packed.records["record_id"].unique() if name not in table.index]
        if lost:
            fix = f"give the folder that {packed.name} was packed from"
            raise EcgError(f"{len(lost)} of its records are not there, such as {lost[0]}", file=root, fix=fix)
        info, ids = packed.info, packed.records["record_id"]
        self._packed, self._read, self._kept = packed, dataset.read, (None, [])
        self._rows = table.loc[ids].reset_index().to_dict("records")
        self._number = packed.records["window"].to_numpy()
        self._n_windows = packed.records.groupby("record_id")["window"].max()[ids].to_numpy() + 1
        self._plan = packing.plan(fs, info["seconds"], info["leads"], info["windows"])
        self.fs, self._ratio, self.recorded_fs = fs, fs / packed.fs, self._read(self._rows[0]).fs
        self._files = _fingerprint({Path(row["path"]) for row in self._rows})

    def __getattr__(self, name):
        if name.startswith("_"):  # before __init__, as when copied, there is nothing to ask
            raise AttributeError(name)
        return getattr(self._packed, name)

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def content(self) -> str:
        """Fingerprint of rows and samples: of the packed cohort, the rate, and size and time of the recordings."""
        return f"{self._packed.content} {self.fs:g} {self._files}"

    def batch(self, rows, leads=None) -> np.ndarray:
        """Windows: float32 mV (row, lead, time) at `fs`, in the order of `rows`; as `Cohort.batch`."""
        names = self.leads if leads is None else [canonical(name) for name in leads]
        places = np.array([self.leads.index(name) if name in self.leads else -1 for name in names], int)
        out = np.zeros((len(rows), len(names), self._plan.n_times), np.float32)
        for i, row in enumerate(np.asarray(rows)):
            counts, _ = self._windows(row)[self._number[row]]
            out[i, places >= 0] = counts[places[places >= 0]] * np.float32(1 / windows.COUNTS_PER_MV)
        return out

    def _windows(self, row: int) -> list:
        """The windows of the record of a row; those of the last record are kept for its next row."""
        name = self._rows[row]["record_id"]
        if self._kept[0] != name:
            options = dict(peaks=False, n_windows=int(self._n_windows[row]))
            self._kept = name, windows.prepare(self._read(self._rows[row]), self._plan, **options)
        return self._kept[1]

    def valid(self, rows) -> np.ndarray:
        """Samples of each row before its padding: int (row,)."""
        return np.minimum(np.round(self._packed.valid(rows) * self._ratio).astype(int), self._plan.n_times)

    def peaks(self, row: int) -> np.ndarray:
        """R peaks of a row: int array of samples at `fs`."""
        return np.round(self._packed.peaks(row) * self._ratio).astype(int)


def _fingerprint(bases: set[Path]) -> str:
    """Hash of name, size and time of change of the files of all records (paths without extension)."""
    seen = []
    for folder in sorted({base.parent for base in bases}):
        for entry in os.scandir(folder):
            if folder / Path(entry.name).stem in bases:
                seen.append((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns))
    return hashlib.sha256(repr(sorted(seen)).encode()).hexdigest()
