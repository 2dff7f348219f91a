"""Batches: what objectives are fed, drawn from packed cohorts in an order that only (seed, step) determines."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError
from ecglib.data import filters, notebook, profiles
from ecglib.data.labels import POSSIBLE, PRESENT
from ecglib.data.packing import COUNTS_PER_MV

RHYTHM = ("SR", "SARRH")  # statements that a normal ECG may carry
CACHE_BYTES = 2**31  # a profiled data set up to this size is kept in memory


class Batch(NamedTuple):
    """What every objective gets.
    x: float32 (batch, lead, time), after the preprocessing profile; lead_mask: bool (batch, lead), False = missing and
    zero; patient_id: int64 (batch,); meta: name -> float32 (batch,), NaN where unknown (sex: 1 male, 0 female); text:
    the reports, "" = none; labels: int8 (batch, label) states of `data.labels`, float32 probabilities that a teacher
    gave (NaN: none), or None; peaks: int64 (batch, n) R peaks as samples of x, padded with -1; measurements: float32
    (batch, measurement) of `data.measured`, NaN where there is none, or None."""

    x: torch.Tensor
    lead_mask: torch.Tensor
    patient_id: torch.Tensor
    meta: dict[str, torch.Tensor]
    text: list[str]
    labels: torch.Tensor | None
    peaks: torch.Tensor | None = None
    measurements: torch.Tensor | None = None


class CohortData:
    """Rows of a packed cohort as training batches; what fits into memory is profiled once, larger sets batch by batch.
    rows: of the cohort; leads: names, in the encoder's order (default: all); profile: a `profiles.Profile` or its name,
    None = raw mV; labels: columns to deliver; meta: numeric columns of the records, "sex" included, NaN where
    missing; measured: names of the cohort's measurements to deliver."""

    def __init__(self, cohort, rows, leads=None, profile="study", labels=None, meta=(), measured=()):
        self.cohort, self.rows, self.leads = cohort, np.asarray(rows), None if leads is None else tuple(leads)
        self.profile = profiles.profile(profile) if isinstance(profile, str) else profile
        self.labels, self.meta = None if labels is None else list(labels), tuple(meta)
        self.measured = tuple(measured)
        if not len(self.rows):
            raise EcgError("no rows to train on", file=cohort.name, field="rows", fix="check split and label fraction")
        table = cohort.records.iloc[self.rows]
        self.record_ids = table["record_id"].astype(str).to_numpy()
        self._patients = torch.from_numpy(pd.factorize(table["patient_id"])[0].astype(np.int64))
        self.texts = table["report"].fillna("").astype(str).tolist() if "report" in table else [""] * len(table)
        self._meta = {name: torch.from_numpy(_numeric(table, name)) for name in self.meta}
        self._peaks = self._padded_peaks()
        self._mask = torch.from_numpy(np.array(cohort.lead_mask(self.rows, self.leads), bool))
        states = None if self.labels is None else np.array(cohort.states(self.labels, self.rows), np.int8)
        self._states = None if states is None else torch.from_numpy(states)
        values = cohort.measurements[list(measured)].to_numpy(np.float32)[self.rows] if self.measured else None
        self.measurements = None if values is None else torch.from_numpy(values)
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
        """The zeros behind a shorter recording are not filtered, scaled or counted; the study's own networks have
        learned from what its filter leaves there, and keep it."""
        fs = self.cohort.fs
        if self.profile.name == "study":
            return self.profile.apply(x, fs)
        valid = self.cohort.valid(rows)
        profiled = {int(n): self.profile.apply(x[valid == n, :, :n], fs) for n in np.unique(valid)}
        out = np.empty((len(x), *next(iter(profiled.values())).shape[1:]), np.float32)
        for n, signals in profiled.items():
            out[valid == n] = signals
        return out

    def batch(self, index: np.ndarray) -> Batch:
        """Batch of positions `index` (0 .. len - 1)."""
        states = None if self._states is None else self._states[index]
        meta = {name: values[index] for name, values in self._meta.items()}
        text = [self.texts[i] for i in index]
        peaks = self._peaks[index]
        values = None if self.measurements is None else self.measurements[index]
        return Batch(self.signals(index), self._mask[index], self._patients[index], meta, text, states, peaks, values)

    def _padded_peaks(self) -> torch.Tensor:
        rate = self.fs / self.cohort.fs
        peaks = [torch.from_numpy(np.round(self.cohort.peaks(row) * rate).astype(np.int64)) for row in self.rows]
        return torch.nn.utils.rnn.pad_sequence(peaks, batch_first=True, padding_value=-1)


class StreamData:
    """Records that exist only while they are learned from, as training batches: profiled as a packed cohort would be.

    stream: its `draw(index)` gives signals in mV float32 (record, lead, time) at `fs` Hz with all leads there, label ->
    int8 states, and name -> what was true; `meta` tells of each record. fs: rate of the delivered signals, Hz; profile:
    name of one; labels, measured: those to deliver; meta: numeric columns of `stream.meta`, "sex" included. There
    are no peaks and no reports.
    """

    def __init__(self, stream, fs: float, profile: str = "study", labels=(), meta=(), measured=()):
        self.stream, self.fs, self.profile = stream, fs, profiles.profile(profile)
        self.labels, self.meta, self.measured = list(labels), tuple(meta), tuple(measured)
        table = pd.DataFrame({name: stream.meta[name] for name in ("record_id", "patient_id", *meta)})
        self.record_ids, self.texts = table["record_id"].to_numpy(), [""] * len(table)
        self._patients = torch.from_numpy(pd.factorize(table["patient_id"])[0].astype(np.int64))
        self._meta = {name: torch.from_numpy(_numeric(table, name)) for name in self.meta}

    def __len__(self) -> int:
        return len(self.stream)

    def batch(self, index: np.ndarray) -> Batch:
        """Batch of positions `index` (0 .. len - 1)."""
        x, states, truth = self.stream.draw(index)
        stored = np.rint(filters.resample(x, self.stream.fs, self.fs) * COUNTS_PER_MV) / COUNTS_PER_MV
        signals = torch.from_numpy(self.profile.apply(stored.astype(np.float32), self.fs))
        labels = torch.from_numpy(np.stack([states[name] for name in self.labels], 1).astype(np.int8))
        meta = {name: values[index] for name, values in self._meta.items()}
        mask = torch.ones(signals.shape[:2], dtype=torch.bool)
        peaks = torch.full((len(index), 1), -1)
        values = torch.from_numpy(np.stack([truth[name] for name in self.measured], 1)) if self.measured else None
        return Batch(signals, mask, self._patients[index], meta, [""] * len(index), labels, peaks, values)


def pooled(cohorts, splits, leads=None, *, profile="study", labels=None, meta=(), normal=False, measured=()):
    """Training data of several cohorts: CohortData, or JointData of them.
    splits: of each cohort the split to use, or a list; leads: names, default those of the first cohort; normal: only
    records that are NORM and nothing but rhythm beside it; measured: with these measurements, True: those that all
    have. EcgError where cohorts and splits differ in number or no record is left."""
    if len(cohorts) != len(splits):
        raise EcgError(f"{len(cohorts)} cohorts, {len(splits)} splits", field="split", fix="name one for each cohort")
    leads, data = tuple(leads or cohorts[0].leads), []
    if measured is True:
        names_of = [list(cohort.measurements) for cohort in cohorts]
        measured = [name for name in names_of[0] if all(name in names for names in names_of)]
    for cohort, names in zip(cohorts, splits, strict=True):
        rows = cohort.rows(names)
        rows = rows[_normal(cohort, rows)] if normal else rows
        data += [CohortData(cohort, rows, leads, profile, labels, meta, measured or ())] if len(rows) else []
    if not data:
        fix = "check splits, and NORM where it is asked for"
        raise EcgError("no record is left to train on", field="split", fix=fix)
    return data[0] if len(data) == 1 else JointData(*data)


def _normal(cohort, rows) -> np.ndarray:
    """Which rows are normal ECGs: NORM present and no finding, certain or possible, beside the names of RHYTHM."""
    names = list(cohort.labels.columns)
    if "NORM" not in names:
        return np.zeros(len(rows), bool)
    states = cohort.states(names, rows)
    others = [i for i, name in enumerate(names) if name not in ("NORM", *RHYTHM)]
    abnormal = np.isin(states[:, others], (PRESENT, POSSIBLE)).any(1)
    return (states[:, names.index("NORM")] == PRESENT) & ~abnormal


class JointData:
    """Several CohortData as one: same leads, number of samples, labels and meta; positions run through them in turn."""

    def __init__(self, *members):
        self.members, sizes = members, [len(data) for data in members]
        self.record_ids = np.concatenate([data.record_ids for data in members])
        self.texts = [text for data in members for text in data.texts]
        self.labels, self.meta, self.profile = members[0].labels, members[0].meta, members[0].profile
        self.fs, self.measured = members[0].fs, members[0].measured
        self.measurements = torch.cat([data.measurements for data in members]) if self.measured else None
        self._member = np.repeat(np.arange(len(members)), sizes)
        self._start = np.cumsum([0, *sizes])
        for field in ("labels", "meta", "fs", "measured"):
            if any(getattr(data, field) != getattr(members[0], field) for data in members):
                raise EcgError(f"the cohorts differ in {field}", field=field, fix="name the same ones for all")

    def __len__(self) -> int:
        return int(self._start[-1])

    def batch(self, index: np.ndarray) -> Batch:
        """Batch of positions `index`, in their order; patient ids are kept apart between the cohorts."""
        index = np.asarray(index)
        groups = [np.flatnonzero(self._member[index] == k) for k in range(len(self.members))]
        back = torch.from_numpy(np.argsort(np.concatenate(groups), kind="stable"))
        batches = []
        for data, start, group in zip(self.members, self._start, groups, strict=False):
            if len(group):
                batch = data.batch(index[group] - start)
                batches.append(batch._replace(patient_id=batch.patient_id + int(start)))
        text = [line for b in batches for line in b.text]
        meta = {name: torch.cat([b.meta[name] for b in batches])[back] for name in batches[0].meta}
        labels = None if batches[0].labels is None else torch.cat([b.labels for b in batches])[back]
        x, mask, patient = (torch.cat([b[i] for b in batches])[back] for i in range(3))
        width = max(b.peaks.shape[1] for b in batches)
        padded = [torch.nn.functional.pad(b.peaks, (0, width - b.peaks.shape[1]), value=-1) for b in batches]
        values = None if self.measurements is None else self.measurements[torch.from_numpy(index)]
        return Batch(x, mask, patient, meta, [text[i] for i in back], labels, torch.cat(padded)[back], values)


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


def run_inference(model, function, data, batch_size: int = 256, device=None, meta: bool = False) -> torch.Tensor:
    """What `function` gives for all of `data`: float32 (row, ...) on the CPU, with `model`, the module that it asks, in
    evaluation mode.
    function: (x (batch, lead, time), lead_mask (batch, lead), peaks (batch, n)) -> tensor (batch, ...); of plain
    signals x alone. data: CohortData, or signals float32 (row, lead, time). batch_size: rows at a time. device: None:
    where the model is; meta: `function` also gets `meta` of each Batch."""
    device = device or next((p.device for p in model.parameters()), "cpu")
    modes = [(module, module.training) for module in model.modules()]
    model.eval().to(device)
    outputs = []
    with torch.inference_mode():
        chunks = np.array_split(np.arange(len(data)), math.ceil(len(data) / batch_size))
        for chunk in notebook.track(chunks, type(model).__name__, "batch"):
            batch = data.batch(chunk) if hasattr(data, "batch") else None
            inputs = (batch.x, batch.lead_mask, batch.peaks) if batch else (data[chunk],)
            more = {"meta": {name: values.to(device) for name, values in batch.meta.items()}} if meta else {}
            outputs.append(function(*(tensor.to(device) for tensor in inputs), **more).float().cpu())
    for module, mode in modes:
        module.training = mode
    return torch.cat(outputs)


def fastest_device() -> str:
    """Where a single model runs fastest: on the GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
