"""Random training batches: a packed cohort against a torch DataLoader that reads one WFDB file per item."""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import wfdb

from ecglib import datasets
from ecglib.data import cohort, wfdb_io
from ecglib.data.recording import LEADS

FS, N_TIMES, BATCH = 100, 1000, 64


class _Files(torch.utils.data.Dataset):
    """What peers do: wfdb.rdsamp in __getitem__."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        signal, _ = wfdb.rdsamp(self.paths[index])
        return torch.from_numpy(signal.T.astype(np.float32))


def _write(root: Path, n_records: int) -> list[str]:
    """PTB-XL-shaped records of format 16 at 1000 counts per mV, and their table."""
    rng, t = np.random.default_rng(0), np.arange(N_TIMES) / FS
    for i in range(n_records):
        wave = np.exp(-((((t + rng.random()) % 0.8 - 0.4) / 0.015) ** 2))
        counts = np.rint(1000 * rng.uniform(0.3, 1.5, (12, 1)) * wave + rng.normal(0, 10, (12, N_TIMES)))
        wfdb_io.write(root, f"r{i}", counts.astype(int), FS, LEADS, 1000)
    (root / "records.csv").write_text("record,split,A\n" + "".join(f"r{i},train,1\n" for i in range(n_records)))
    return [str(root / f"r{i}") for i in range(n_records)]


def _ours(packed, n_records: int, rng) -> int:
    order = rng.permutation(n_records)
    batches = (torch.from_numpy(packed.batch(order[s : s + BATCH])) for s in range(0, n_records, BATCH))
    return sum(len(x) for x in batches)


def _records_per_second(function) -> float:
    start = time.perf_counter()
    return function() / (time.perf_counter() - start)


def run(n_records: int = 512, rounds: int = 3) -> list[dict]:
    """Records per second, best of `rounds` epochs each, files in the page cache; raises unless the values are equal."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "raw"
        root.mkdir()
        files = _Files(_write(root, n_records))
        packed = cohort.pack("batches", datasets.get("folder"), root, Path(folder) / "packed", workers=2)
        np.testing.assert_allclose(packed.batch([3, 1]), torch.stack([files[3], files[1]]), atol=1e-6)
        loader = torch.utils.data.DataLoader(files, batch_size=BATCH, shuffle=True)
        rng, ours, theirs = np.random.default_rng(0), 0.0, 0.0
        for _ in range(rounds):
            theirs = max(theirs, _records_per_second(lambda: sum(len(x) for x in loader)))
            ours = max(ours, _records_per_second(lambda: _ours(packed, n_records, rng)))
    return [
        dict(
            name="random training batches",
            ours=ours,
            theirs=theirs,
            ratio=ours / theirs,
            unit="records/s",
            target=50,
            note=f"batches of {BATCH}, 12 x {N_TIMES} float32 mV; DataLoader over wfdb.rdsamp, one process both",
        )
    ]
