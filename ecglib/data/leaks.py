"""Leaks: patients in two splits, and tracings that are there twice, within a corpus and between two.

A copy is found although it was scaled, resampled, filtered otherwise, or begins up to MAX_SHIFT_S earlier or later:

1. windows whose samples are equal (SHA-256), constant ones included;
2. candidates: products between leads in the frequency domain, 3 to 15 Hz, which no shift and no gain changes; for every
   window the N_NEAREST of a cosine of at least NEAR;
3. of these, those with a normalised cross-correlation over all common leads, 3 to 20 Hz at 50 Hz, of at least ALIKE
   (ALIKE_ONE_LEAD where there is a single common lead) at a shift of up to MAX_SHIFT_S.

Docs/LOG.md says how far apart copies and others are. Two tracings of one patient minutes apart are no copies.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import fft

from ecglib import EcgError
from ecglib.data import cohort, files, wfdb_io
from ecglib.data.packing import COUNTS_PER_MV
from ecglib.data.recording import Recording, standard

MAX_SHIFT_S = 1.5
NEAR, N_NEAREST = 0.8, 8
ALIKE, ALIKE_ONE_LEAD = 0.95, 0.98
COMPARED = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")  # the others follow from I and II
SHORTEST_S = 5.0  # of what two windows have in common
COLUMNS = ["corpus_a", "record_a", "split_a", "patient_a", "corpus_b", "record_b", "split_b", "patient_b"]
_SKETCHED = ("I", "II", "V2", "V5")
_BAND, _SKETCH_BAND, _FS = (3.0, 20.0), (3.0, 15.0), 50.0  # Hz
_ROUNDING = 1e-4  # of the largest sample: a waveform below it is rounding
_BLOCK = 1024  # windows at a time
# Age, sex, number of the person, number of the tape, as on top of the comments of the MIT-BIH Arrhythmia Database.
_PERSON = re.compile(r"\s*\d+ [MF] (\d+ \d+)\b")


@dataclass
class Tracings:
    """Windows of a corpus to compare. table: record_id, patient_id, split of each window; signals: function that gives
    float32 mV (row, lead, time) for (rows, leads); a lead that a window lacks is zeros."""

    name: str
    fs: float
    leads: tuple[str, ...]
    n_times: int
    table: pd.DataFrame
    signals: Callable
    prints: list[str]  # of all samples (int32 microvolt) of each window
    note: str = ""  # what was left out


def of_cohort(packed: cohort.Cohort) -> Tracings:
    """The windows of a packed cohort, of every split."""
    table = packed.records[["record_id", "patient_id", "split"]]
    prints = [_print(packed.signals[row]) for row in range(len(packed))]
    return Tracings(packed.name, packed.fs, packed.leads, packed.signals.shape[2], table, packed.batch, prints)


def _print(counts: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(counts, np.int32)).hexdigest()


def of_folder(root, seconds: float = 10.0) -> Tracings:
    """The first `seconds` of every WFDB record below a folder; segments count as part of their record alone.

    Who they are of is not known, but where the headers say it as those of the MIT-BIH Arrhythmia Database do.
    Raises EcgError where there are none, and for a record that cannot be read.
    """
    paths, n_rubbish = files.headers(Path(root))
    if not paths:
        raise EcgError("neither a packed cohort nor a folder with WFDB headers", file=root, fix="name one of them")
    bases = _without_segments([path.with_suffix("") for path in paths])
    recordings = [_beginning(wfdb_io.read(base), seconds) for base in bases]
    names = [base.relative_to(root).as_posix() for base in bases]
    note = files.rubbish(root, n_rubbish) if n_rubbish else ""
    return replace(of_recordings(Path(root).name, recordings, names, seconds), note=note)


def _without_segments(bases: list[Path]) -> list[Path]:
    """Records (paths without extension) but those that are segments of another one of them."""
    parts = {os.path.normpath(base): wfdb_io.segments(f"{base}.hea") for base in bases}
    named = {os.path.normpath(Path(base).parent / name) for base, several in parts.items() for name in several}
    return [base for base in bases if parts[os.path.normpath(base)] or os.path.normpath(base) not in named]


def _beginning(recording: Recording, seconds: float) -> Recording:
    """The first `seconds` in memory of their own, so that the rest can be freed."""
    return replace(recording, signal=recording.signal[:, : round(seconds * recording.fs)].copy())


def of_recordings(name: str, recordings: list[Recording], records: list[str], seconds: float = 10.0) -> Tracings:
    """The first `seconds` of recordings in memory, at their highest rate; a lead that one lacks is zeros.

    records: their names. Without a `patient_id` each is its own patient, unless its comments name the person.
    """
    names = [[standard(lead) or lead for lead in recording.leads] for recording in recordings]
    leads = tuple(dict.fromkeys(lead for own in names for lead in own))
    fs = max(recording.fs for recording in recordings)
    n_times = round(seconds * fs)
    data = np.zeros((len(recordings), len(leads), n_times), np.float32)
    people = []
    for number, (recording, own) in enumerate(zip(recordings, names, strict=True)):
        x = np.nan_to_num(recording.signal[:, : round(seconds * recording.fs)])
        x = x if recording.fs == fs else _at(x, recording.fs, fs)
        data[number, [leads.index(lead) for lead in own], : x.shape[-1]] = x[:, :n_times]
        person = next((match[1] for match in map(_PERSON.match, recording.comments) if match), None)
        unknown = f"person {person}" if person else f"record {records[number]}"
        people.append(recording.patient_id or unknown)
    table = pd.DataFrame({"record_id": records, "patient_id": people, "split": ""})
    prints = [_print(np.round(window * COUNTS_PER_MV)) for window in data]

    def signals(rows, wanted):
        return data[np.asarray(rows)][:, [leads.index(lead) for lead in wanted]]

    return Tracings(name, fs, leads, n_times, table, signals, prints)


def open(place) -> Tracings:  # noqa: A001 - read as leaks.open
    """The tracings of a packed cohort or of a folder of WFDB records."""
    place = Path(place)
    return of_cohort(cohort.open(place)) if (place / "cohort.json").is_file() else of_folder(place)


def patients(tracings: Tracings) -> pd.DataFrame:
    """Patients with records in two splits; where there are no splits, those with several records.

    A record without a split is used for nothing, and is in none beside the others' splits.
    Returns patient_id, records, splits (names joined by commas).
    """
    table = tracings.table.drop_duplicates("record_id")
    split = (table.split != "").any()
    rows = []
    for patient, own in table.groupby("patient_id", sort=True):
        splits = sorted(set(own.split) - {""})
        if len(splits) > 1 or (not split and len(own) > 1):
            rows.append([patient, ", ".join(own.record_id), ", ".join(splits)])
    return pd.DataFrame(rows, columns=["patient_id", "records", "splits"])


def copies(corpora: list[Tracings], within: bool = True, progress=None) -> pd.DataFrame:
    """Pairs of records that show the same tracing, within each corpus (if `within`) and between every two.

    progress: called with (comparisons done, of how many). Returns COLUMNS; similarity, 1 where samples are equal;
    shift_s: how much later the second begins; kind: "equal samples", or "alike". Windows of one record are no pair;
    of the pairs of windows of two records the most alike stands for both; of a group of equal windows each is paired
    with the first alone.
    """
    asked = [(a, b) for a in range(len(corpora)) for b in range(a, len(corpora)) if within or a != b]
    sketches, found = {}, []
    for done, (a, b) in enumerate(asked):
        found.append(_between(corpora[a], corpora[b], a == b, sketches))
        if progress:
            progress(done + 1, len(asked))
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*COLUMNS, "similarity"])
    return table.sort_values(["similarity", *COLUMNS], ascending=[False] + [True] * 8, ignore_index=True)


def _between(a: Tracings, b: Tracings, same: bool, sketches: dict) -> pd.DataFrame:
    pairs = [_equal(a, b, same)]
    leads = tuple(name for name in a.leads if name in b.leads)
    leads = tuple(name for name in COMPARED if name in leads) or leads
    seconds = min(a.n_times / a.fs, b.n_times / b.fs)
    if leads and seconds >= SHORTEST_S:
        first, second = (_sketch(t, leads, seconds, sketches) for t in (a, b))
        limit = ALIKE if len(leads) > 1 else ALIKE_ONE_LEAD
        alike = _alike(first, second, same, limit)
        if _comparable(a, b):  # the equal ones are found, each with the first of its group
            other = np.array([a.prints[i] != b.prints[j] for i, j in zip(*alike[:2], strict=True)], bool)
            alike = tuple(column[other] for column in alike)
        pairs.append(alike)
    rows = np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])
    table = pd.concat(
        [t.table.iloc[r].reset_index(drop=True) for t, r in zip((a, b), rows, strict=True)], axis=1
    ).set_axis(["record_a", "patient_a", "split_a", "record_b", "patient_b", "split_b"], axis=1)
    table = table.assign(corpus_a=a.name, corpus_b=b.name)
    table["similarity"] = np.concatenate([p[2] for p in pairs]).round(3)
    table["shift_s"] = np.concatenate([p[3] for p in pairs])
    table["kind"] = np.repeat(["equal samples", "alike"][: len(pairs)], [len(p[0]) for p in pairs])
    if same:
        table = table[table.record_a != table.record_b]
    best = table.sort_values("similarity", ascending=False, kind="stable")
    names = ["record_a", "record_b"]
    key = [tuple(sorted(pair)) if same else pair for pair in best[names].itertuples(index=False, name=None)]
    return best[~pd.Series(key, index=best.index).duplicated()][[*COLUMNS, "similarity", "shift_s", "kind"]]


def _comparable(a: Tracings, b: Tracings) -> bool:
    """Whether samples of a and b can be equal, one by one."""
    return a.leads == b.leads and (a.fs, a.n_times) == (b.fs, b.n_times)


def _equal(a: Tracings, b: Tracings, same: bool) -> tuple:
    """Rows of a and b whose samples are equal, each of b with the first of a."""
    if not _comparable(a, b):
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0)
    first = {}
    for row, text in enumerate(a.prints):
        first.setdefault(text, row)
    pairs = [(first[t], row) for row, t in enumerate(b.prints) if t in first and not (same and first[t] == row)]
    rows = np.array(pairs, int).reshape(-1, 2)
    return rows[:, 0], rows[:, 1], np.ones(len(rows)), np.zeros(len(rows))


@dataclass
class _Sketch:
    """What windows are compared by: vector (row, number) of unit length, waveform (row, lead, time) at _FS, and its
    transform (row, lead, frequency); usable (row,): whether there is a waveform at all."""

    vector: np.ndarray
    wave: np.ndarray
    transform: np.ndarray
    usable: np.ndarray


def _max_lag() -> int:
    return round(MAX_SHIFT_S * _FS)


def _sketch(tracings: Tracings, leads: tuple, seconds: float, kept: dict) -> _Sketch:
    key = (id(tracings), leads, seconds)
    if key not in kept:
        n, m = round(seconds * tracings.fs), round(seconds * _FS)
        few = [leads.index(name) for name in _SKETCHED if name in leads] or [0]
        vectors, waves, usable = [], [], []
        for start in range(0, len(tracings.table), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(tracings.table)))
            x = tracings.signals(rows, leads)[..., :n]
            largest = np.abs(x).max(axis=(1, 2))
            x = x - x.mean(axis=-1, keepdims=True)  # a rail of the amplifier is no waveform
            vectors.append(_vector(x[:, few], tracings.fs))
            waves.append(_at(x, tracings.fs, _FS, _BAND, m))
            usable.append(np.abs(waves[-1]).max(axis=(1, 2)) > _ROUNDING * largest)
        wave = np.concatenate(waves)
        transform = fft.rfft(wave, fft.next_fast_len(m + _max_lag(), real=True), axis=-1)
        kept[key] = _Sketch(np.concatenate(vectors), wave, transform, np.concatenate(usable))
    return kept[key]


def _at(x: np.ndarray, fs: float, wanted: float, band=(0.0, np.inf), n_times: int | None = None) -> np.ndarray:
    """x (..., time) at another rate and in a band (Hz), by its Fourier transform."""
    n = x.shape[-1]
    m = n_times or round(n * wanted / fs)
    transform, hz = fft.rfft(x, axis=-1), fft.rfftfreq(n, 1 / fs)
    transform[..., (hz < band[0]) | (hz >= min(band[1], wanted / 2, fs / 2))] = 0
    out = np.zeros((*x.shape[:-1], m // 2 + 1), transform.dtype)
    shared = min(out.shape[-1], transform.shape[-1])
    out[..., :shared] = transform[..., :shared]
    return (fft.irfft(out, m, axis=-1) * (m / n)).astype(np.float32)


def _vector(x: np.ndarray, fs: float) -> np.ndarray:
    """Products of every lead with the second (or only) one in the frequency domain, their roots, of unit length."""
    n = x.shape[-1]
    hz = fft.rfftfreq(n, 1 / fs)
    transform = fft.rfft(x * np.hanning(n).astype(np.float32), axis=-1)
    transform = transform[..., (hz >= _SKETCH_BAND[0]) & (hz < _SKETCH_BAND[1])]
    product = transform * np.conj(transform[:, [min(1, x.shape[1] - 1)]])
    size = np.sqrt(np.abs(product))
    product = np.divide(product, size, out=np.zeros_like(product), where=size > 0).reshape(len(x), -1)
    vector = np.concatenate([product.real, product.imag], axis=1).astype(np.float32)
    length = np.linalg.norm(vector, axis=1, keepdims=True)
    return np.divide(vector, length, out=np.zeros_like(vector), where=length > 1e-6)


def _alike(a: _Sketch, b: _Sketch, same: bool, limit: float) -> tuple:
    first, second = _candidates(a.vector, b.vector, same)
    usable = a.usable[first] & b.usable[second]
    first, second = first[usable], second[usable]
    scores, shifts = np.zeros(len(first)), np.zeros(len(first))
    for start in range(0, len(first), _BLOCK):
        part = slice(start, start + _BLOCK)
        scores[part], shifts[part] = _correlated(a, b, first[part], second[part])
    kept = scores >= limit
    return first[kept], second[kept], scores[kept], shifts[kept]


def _candidates(a: np.ndarray, b: np.ndarray, same: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a and b whose vectors are near: for each of a the N_NEAREST of b; within one corpus each pair once."""
    rows, columns = [], []
    for start in range(0, len(a), _BLOCK):
        cosine = a[start : start + _BLOCK] @ b[start if same else 0 :].T
        i, j = np.nonzero(cosine >= NEAR)
        if same:
            i, j = i[j > i], j[j > i]
        values = cosine[i, j]
        order = np.lexsort((-values, i))
        i, j = i[order], j[order]
        rank = np.arange(len(i)) - np.searchsorted(i, i)
        rows.append(i[rank < N_NEAREST] + start)
        columns.append(j[rank < N_NEAREST] + (start if same else 0))
    return np.concatenate(rows), np.concatenate(columns)


def _correlated(a: _Sketch, b: _Sketch, first, second) -> tuple[np.ndarray, np.ndarray]:
    """The highest correlation of pairs of rows over all shifts, on what overlaps, and the shift (s)."""
    n, most = a.wave.shape[-1], _max_lag()
    size = fft.next_fast_len(n + most, real=True)
    product = (np.conj(a.transform[first]) * b.transform[second]).sum(axis=1)
    lags = np.arange(-most, most + 1)
    together = fft.irfft(product, size, axis=-1)[:, lags]
    energy = []
    for sketch, rows, begin in ((a, first, np.maximum(0, -lags)), (b, second, np.maximum(0, lags))):
        power = np.pad(np.cumsum(np.square(sketch.wave[rows]).sum(axis=1), axis=-1), ((0, 0), (1, 0)))
        energy.append(power[:, begin + n - np.abs(lags)] - power[:, begin])
    scale = np.sqrt(np.maximum(energy[0] * energy[1], 0))
    score = np.divide(together, scale, out=np.zeros_like(together), where=scale > 1e-9)
    best = score.argmax(axis=1)
    return np.minimum(score[np.arange(len(first)), best], 1.0), -lags[best] / _FS


def summary(corpora: list[Tracings], pairs: pd.DataFrame) -> pd.DataFrame:
    """What was found, a row per question: question, found, among (how many were looked at)."""
    rows = []
    for tracings in corpora:
        people = tracings.table.patient_id.nunique()
        split = "in two splits" if (tracings.table.split != "").any() else "with several records"
        rows.append([f"patients of {tracings.name} {split}", len(patients(tracings)), people])
        own = pairs[(pairs.corpus_a == tracings.name) & (pairs.corpus_b == tracings.name)]
        n = tracings.table.record_id.nunique()
        rows.append([f"tracings that are twice in {tracings.name}", len(own), n])
        for what, crossing in (
            ("in two splits", own.split_a != own.split_b),
            ("under two patients", own.patient_a != own.patient_b),
        ):
            rows.append([f"of these {what}", int(crossing.sum()), len(own)])
    for number, a in enumerate(corpora):
        for b in corpora[number + 1 :]:
            shared = pairs[(pairs.corpus_a == a.name) & (pairs.corpus_b == b.name)]
            n = b.table.record_id.nunique()
            rows.append([f"records of {b.name} that are also in {a.name}", shared.record_b.nunique(), n])
    return pd.DataFrame(rows, columns=["question", "found", "among"])
