"""Reading format-16 records one by one in one process: ecglib.wfdb_io.read against wfdb.rdsamp, values bit-equal."""

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import wfdb

from ecglib.data import wfdb_io
from ecglib.data.recording import LEADS


def _seconds(function, items) -> float:
    start = time.perf_counter()
    for item in items:
        function(item)
    return (time.perf_counter() - start) / len(items)


def _compare(n_times: int, fs: int, n_records: int = 50, rounds: int = 5) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for k in range(n_records):
            counts = rng.normal(0, 300, (12, n_times)).cumsum(axis=1).astype(int) % 4000 - 2000
            wfdb_io.write(folder, f"r{k}", counts, fs, LEADS, 1000.0)
        paths = [str(Path(folder) / f"r{k}") for k in range(n_records)]
        for path in paths:
            expected = wfdb.rdsamp(path)[0].T.astype(np.float32)
            assert wfdb_io.read(path).signal.tobytes() == expected.tobytes(), path
        ours = min(_seconds(wfdb_io.read, paths) for _ in range(rounds))
        theirs = min(_seconds(wfdb.rdsamp, paths) for _ in range(rounds))
    return dict(
        name=f"read a record, 12 x {n_times}",
        ours=1 / ours,
        theirs=1 / theirs,
        ratio=theirs / ours,
        unit="records/s",
        target=10,
        note="format 16, one process, against wfdb.rdsamp; bit-equal",
    )


def run() -> list[dict]:
    """Records per second of both readers for 500 Hz and 100 Hz records of 10 s; AssertionError if values differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wfdb's deprecation warnings would cost it a third of its time
        return [_compare(5000, 500), _compare(1000, 100)]
