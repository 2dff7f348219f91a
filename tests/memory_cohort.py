"""A cohort in memory, with the interface of a packed one, made of simulated ECGs for tests of training."""

import numpy as np
import pandas as pd

from ecglib.data.recording import LEADS
from ecgsim.records import ecgs

NAMES = ["NORM", "AFIB", "CLBBB"]


class MemoryCohort:
    """`n` ECGs that are NORM, AFIB or CLBBB in turn; two records per patient; split in the order of `shares`."""

    def __init__(
        self, n=48, name="A", seed=0, seconds=10, windows=1, shares=(("train", 0.5), ("val", 0.25), ("test", 1))
    ):
        x, labels, truth = ecgs(n, seed=seed, labels=NAMES, seconds=seconds * windows)
        self.name, self.fs, self.leads = name, 100.0, LEADS
        self.signals = x.reshape(n, 12, windows, -1).transpose(0, 2, 1, 3).reshape(n * windows, 12, -1)
        ids = np.array([f"{name}{i:04d}" for i in range(n)])
        split = np.full(n, shares[-1][0], object)
        done = 0
        for part, share in shares[:-1]:
            split[done : done + round(n * share)] = part
            done += round(n * share)
        table = {"record_id": ids, "patient_id": [f"{name}p{i // 2}" for i in range(n)], "split": split}
        table |= {"age": np.linspace(30, 80, n), "sex": ["female", "male", ""][:3] * (n // 3) + ["male"] * (n % 3)}
        self.records = (
            pd.DataFrame({**table, "report": ""}).loc[np.repeat(np.arange(n), windows)].reset_index(drop=True)
        )
        self.labels = pd.DataFrame(labels[NAMES].to_numpy(np.int8), index=ids, columns=NAMES)
        self.mask = np.ones((n * windows, 12), bool)
        self._peaks, self._windows = list(truth["r"]), windows

    def __len__(self):
        return len(self.records)

    def valid(self, rows):
        return np.full(len(rows), self.signals.shape[-1])

    def rows(self, split):
        names = [split] if isinstance(split, str) else split
        assert not {"test", "external"} & set(names)
        return np.flatnonzero(self.records["split"].isin(names))

    def test_rows(self):
        return np.flatnonzero(self.records["split"].isin(["test", "external"]))

    def states(self, names, rows):
        return self.labels.loc[self.records["record_id"].iloc[rows], list(names)].to_numpy(np.int8)

    def batch(self, rows, leads=None):
        return self.signals[np.asarray(rows)][:, [self.leads.index(n) for n in leads or self.leads]]

    def lead_mask(self, rows, leads=None):
        return self.mask[np.asarray(rows)][:, [self.leads.index(n) for n in leads or self.leads]]

    def peaks(self, row):
        record, window = divmod(row, self._windows)
        found, length = np.asarray(self._peaks[record]) - window * self.signals.shape[-1], self.signals.shape[-1]
        return found[(found >= 0) & (found < length)]
