"""Batches: what objectives are fed, drawn from packed cohorts in an order that only (seed, step) determines."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ecglib import preprocess
from ecglib.labels import POSSIBLE, PRESENT
from ecglib.signals import EcgError

RHYTHM = ("SR", "SARRH")  # statements that a normal ECG may carry
CACHE_BYTES = 2**31  # a profiled data set up to this size is kept in memory


class Batch(NamedTuple):
    """What every objective gets.

    x: float32 (batch, lead, time), after the data's preprocessing profile; lead_mask: bool (batch, lead), False = the
    lead is missing and zero; patient_id: int64 (batch,), equal where the patient is; meta: name -> float32 (batch,),
    NaN where unknown (sex: 1 male, 0 female); text: the reports, "" where there is none; labels: int8 (batch, label)
    states of ecglib.labels (0 absent, 1 present, 2 possible, -1 unknown) or None; peaks: int64 (batch, n) R peaks as
    samples of x, found when the corpus was packed, padded with -1.
    """

    x: torch.Tensor
    lead_mask: torch.Tensor
    patient_id: torch.Tensor
    meta: dict[str, torch.Tensor]
    text: list[str]
    labels: torch.Tensor | None
    peaks: torch.Tensor | None = None


class CohortData:
    """Rows of a packed cohort as training batches.

    rows: row numbers of the cohort; leads: names, in the encoder's order (default: all of the cohort); profile: a
    `preprocess.Profile` or its name, None = raw mV; labels: label columns to deliver; meta: numeric columns of the
    records to deliver, "sex" included, all NaN where the cohort lacks one. `texts`: the reports of all rows. What fits
    into memory is profiled once, larger sets batch by batch.
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
        self.texts = table["report"].fillna("").astype(str).tolist() if "report" in table else [""] * len(table)
        self._meta = {name: torch.from_numpy(_numeric(table, name)) for name in self.meta}
        self._peaks = self._padded_peaks()
        self._mask = torch.from_numpy(np.array(cohort.lead_mask(self.rows, self.leads), bool))
        self._states = None
        if self.labels is not None:
            self._states = torch.from_numpy(np.array(cohort.states(self.labels, self.rows), np.int8))
        self._x = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fs(self) -> float:
        """Rate of the delivered signals, Hz."""
        return (self.profile and self.profile.fs) or self.cohort.fs

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
            x = self._profiled(x, self.rows[index])
        return torch.from_numpy(np.ascontiguousarray(x, np.float32)) * self._mask[index].unsqueeze(-1)

    def _profiled(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The signals x of `rows` by the profile; the zeros behind a shorter recording are not filtered, scaled or
        counted. The study's own networks have learned from what its filter leaves there, and keep it."""
        fs = self.cohort.fs
        if self.profile.name == "study":
            return self.profile.apply(x, fs)
        valid = self.cohort.valid(rows)
        parts = {int(n): self.profile.apply(x[valid == n, :, :n], fs) for n in np.unique(valid)}
        out = np.empty((len(x), *next(iter(parts.values())).shape[1:]), np.float32)
        for n, part in parts.items():
            out[valid == n] = part
        return out

    def batch(self, index: np.ndarray) -> Batch:
        """Batch of positions `index` (0 .. len - 1)."""
        states = None if self._states is None else self._states[index]
        meta = {name: values[index] for name, values in self._meta.items()}
        text = [self.texts[i] for i in index]
        peaks = self._peaks[index]
        return Batch(self.signals(index), self._mask[index], self._patients[index], meta, text, states, peaks)

    def _padded_peaks(self) -> torch.Tensor:
        found = [self.cohort.peaks(row) for row in self.rows]
        rate = self.fs / self.cohort.fs
        out = torch.full((len(found), max(map(len, found))), -1)
        for line, peaks in zip(out, found, strict=True):
            line[: len(peaks)] = torch.from_numpy(np.round(peaks * rate).astype(np.int64))
        return out


def pooled(cohorts, splits, leads=None, *, profile="study", labels=None, meta=(), normal: bool = False):
    """Training data of several cohorts: CohortData, or JointData of them.

    splits: of each cohort the splits to use, joined by "+" ("pretrain+train"); leads: names, default those of the first
    cohort; normal: only records that are NORM and nothing but rhythm beside it. Raises EcgError where the numbers of
    cohorts and splits differ or no record is left.
    """
    if len(cohorts) != len(splits):
        raise EcgError(f"{len(cohorts)} cohorts, {len(splits)} splits", field="split", fix="name one for each cohort")
    leads, parts = tuple(leads or cohorts[0].leads), []
    for cohort, names in zip(cohorts, splits, strict=True):
        rows = np.sort(np.concatenate([cohort.rows(name) for name in names.split("+")]))
        rows = rows[_normal(cohort, rows)] if normal else rows
        parts += [CohortData(cohort, rows, leads, profile, labels, meta)] if len(rows) else []
    if not parts:
        raise EcgError(
            "no record is left to train on", field="split", fix="check splits, and NORM where it is asked for"
        )
    return parts[0] if len(parts) == 1 else JointData(*parts)


def _normal(cohort, rows) -> np.ndarray:
    """Which rows are normal ECGs: NORM present and no finding, certain or possible, beside the names of RHYTHM."""
    names = list(cohort.labels.columns)
    if "NORM" not in names:
        return np.zeros(len(rows), bool)
    states = cohort.states(names, rows)
    others = [i for i, name in enumerate(names) if name not in ("NORM", *RHYTHM)]
    found = np.isin(states[:, others], (PRESENT, POSSIBLE)).any(1)
    return (states[:, names.index("NORM")] == PRESENT) & ~found


class JointData:
    """Several CohortData as one: same leads, number of samples, labels and meta; positions run through them in turn."""

    def __init__(self, *parts):
        self.parts, sizes = parts, [len(part) for part in parts]
        self.record_ids = np.concatenate([part.record_ids for part in parts])
        self.texts = [text for part in parts for text in part.texts]
        self.labels, self.meta, self.profile = parts[0].labels, parts[0].meta, parts[0].profile
        self.fs = parts[0].fs
        self._part = np.repeat(np.arange(len(parts)), sizes)
        self._start = np.cumsum([0, *sizes])
        for field in ("labels", "meta", "fs"):
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
        width = max(b.peaks.shape[1] for b in batches)
        padded = [torch.nn.functional.pad(b.peaks, (0, width - b.peaks.shape[1]), value=-1) for b in batches]
        return Batch(x, mask, patient, meta, [text[i] for i in back], labels, torch.cat(padded)[back])


def _numeric(table: pd.DataFrame, name: str) -> np.ndarray:
    if name not in table:
        return np.full(len(table), np.nan, np.float32)
    column = table[name]
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
