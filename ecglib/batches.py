"""Batches: what objectives are fed, drawn from packed cohorts in an order that only (seed, step) determines."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ecglib import preprocess
from ecglib.signals import EcgError

CACHE_BYTES = 2**31  # a profiled data set up to this size is kept in memory


class Batch(NamedTuple):
    """What every objective gets.

    x: float32 (batch, lead, time), after the data's preprocessing profile; lead_mask: bool (batch, lead), False = the
    lead is missing and zero; patient_id: int64 (batch,), equal where the patient is; meta: name -> float32 (batch,),
    NaN where unknown (sex: 1 male, 0 female); text: the reports, "" where there is none; labels: int8 (batch, label)
    states of ecglib.labels (0 absent, 1 present, 2 possible, -1 unknown) or None.
    """

    x: torch.Tensor
    lead_mask: torch.Tensor
    patient_id: torch.Tensor
    meta: dict[str, torch.Tensor]
    text: list[str]
    labels: torch.Tensor | None


class CohortData:
    """Rows of a packed cohort as training batches.

    rows: row numbers of the cohort; leads: names, in the encoder's order (default: all of the cohort); profile: a
    `preprocess.Profile` or its name, None = raw mV; labels: label columns to deliver; meta: numeric columns of the
    records to deliver, "sex" included. Whatever fits into memory is profiled once, larger sets batch by batch.
    """

    def __init__(self, cohort, rows, leads=None, profile="study", labels=None, meta=()):
        self.cohort, self.rows, self.leads = cohort, np.asarray(rows), None if leads is None else tuple(leads)
        self.profile = preprocess.profile(profile) if isinstance(profile, str) else profile
        self.labels, self.meta = None if labels is None else list(labels), tuple(meta)
        if not len(self.rows):
            raise EcgError("no rows to train on", file=cohort.name, field="rows", fix="check split and label fraction")
        table = cohort.records.iloc[self.rows]
        self.record_ids = table["record_id"].astype(str).to_numpy()
        self._patients = torch.from_numpy(pd.factorize(table["patient_id"])[0].astype(np.int64))
        self._text = table["report"].fillna("").astype(str).tolist() if "report" in table else [""] * len(table)
        self._meta = {name: torch.from_numpy(_numeric(table[name], name)) for name in self.meta}
        self._mask = torch.from_numpy(np.array(cohort.lead_mask(self.rows, self.leads), bool))
        self._states = None
        if self.labels is not None:
            self._states = torch.from_numpy(np.array(cohort.states(self.labels, self.rows), np.int8))
        self._x = None

    def __len__(self) -> int:
        return len(self.rows)

    def signals(self, index: np.ndarray) -> torch.Tensor:
        """Profiled signals of positions `index` (not cohort rows): float32 (n, lead, time); missing leads are zeros."""
        if self._x is None:
            probe = self._read(np.arange(1))
            if probe.nbytes * len(self) <= CACHE_BYTES:
                chunks = np.array_split(np.arange(len(self)), math.ceil(len(self) / 256))
                self._x = torch.cat([self._read(chunk) for chunk in chunks])
        return self._read(index) if self._x is None else self._x[torch.from_numpy(np.asarray(index))]

    def _read(self, index: np.ndarray) -> torch.Tensor:
        x = self.cohort.batch(self.rows[index], self.leads)
        if self.profile is not None:
            x = self.profile.apply(x, self.cohort.fs)
        return torch.from_numpy(np.ascontiguousarray(x, np.float32)) * self._mask[index].unsqueeze(-1)

    def batch(self, index: np.ndarray) -> Batch:
        """Batch of positions `index` (0 .. len - 1)."""
        states = None if self._states is None else self._states[index]
        meta = {name: values[index] for name, values in self._meta.items()}
        text = [self._text[i] for i in index]
        return Batch(self.signals(index), self._mask[index], self._patients[index], meta, text, states)


class JointData:
    """Several CohortData as one: same leads, number of samples, labels and meta; positions run through them in turn."""

    def __init__(self, *parts):
        self.parts, sizes = parts, [len(part) for part in parts]
        self.record_ids = np.concatenate([part.record_ids for part in parts])
        self._part = np.repeat(np.arange(len(parts)), sizes)
        self._start = np.cumsum([0, *sizes])
        for field in ("labels", "meta"):
            if any(getattr(part, field) != getattr(parts[0], field) for part in parts):
                raise EcgError(f"the cohorts differ in {field}", field=field, fix="name the same ones for all")

    def __len__(self) -> int:
        return int(self._start[-1])

    def batch(self, index: np.ndarray) -> Batch:
        """Batch of positions `index`, in their order; patient ids are kept apart between the parts."""
        index = np.asarray(index)
        groups = [np.flatnonzero(self._part[index] == k) for k in range(len(self.parts))]
        back = torch.from_numpy(np.argsort(np.concatenate(groups), kind="stable"))
        found = [(k, self.parts[k].batch(index[g] - self._start[k])) for k, g in enumerate(groups) if len(g)]
        batches = [b._replace(patient_id=b.patient_id + int(self._start[k])) for k, b in found]
        text = [line for b in batches for line in b.text]
        meta = {name: torch.cat([b.meta[name] for b in batches])[back] for name in batches[0].meta}
        labels = None if batches[0].labels is None else torch.cat([b.labels for b in batches])[back]
        x, mask, patient = (torch.cat([b[i] for b in batches])[back] for i in range(3))
        return Batch(x, mask, patient, meta, [text[i] for i in back], labels)


def _numeric(column: pd.Series, name: str) -> np.ndarray:
    if name == "sex":
        column = column.map({"female": 0.0, "male": 1.0})
    return pd.to_numeric(column).to_numpy(np.float32)


def positions(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Positions of step `step`: epochs are permutations of range(n), an incomplete last batch is left out."""
    batch_size = min(batch_size, n)
    epoch, k = divmod(step, n // batch_size)
    return np.random.default_rng([seed, epoch]).permutation(n)[k * batch_size : (k + 1) * batch_size]


def to_device(batch: Batch, device) -> Batch:
    """The batch with every tensor on `device`."""
    meta = {name: values.to(device) for name, values in batch.meta.items()}
    moved = {k: v.to(device) for k, v in batch._asdict().items() if isinstance(v, torch.Tensor)}
    return batch._replace(meta=meta, **moved)
