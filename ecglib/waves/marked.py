"""Recordings whose P, QRS and T waves are marked: simulated hospitals, LUDB, QTDB, all at 250 Hz."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import annotations, filters, rpeaks, wfdb_io
from ecglib.data.recording import LEADS
from ecglib.datasets import ludb, qtdb, simulated

FS = 250.0  # Hz
WAVES = ("P", "QRS", "T")
SYMBOLS = {"P": "p", "QRS": "N", "T": "t"}  # in the annotations of LUDB and QTDB
COLUMNS = {"P": ("p_on", "", "p_off"), "QRS": ("qrs_on", "r", "qrs_off"), "T": ("t_on", "t_peak", "t_off")}
CORPORA = ("simulated", "ludb", "qtdb")
OPTIONS = {"simulated": {"hospital", "splits", "limit", "marks"}, "ludb": {"splits", "limit"}, "qtdb": {"limit"}}
UNMARKED_P = ("2AVB", "3AVB")  # statements of records with P waves that no beat follows: those are marked nowhere
LUDB_TRAIN, LUDB_VAL = 130, 160  # last record of each split; 161 to 200 are for tests alone
MARGIN_S = 10.0  # of QTDB, what is read before the first and after the last mark
SAME_BEAT_S = 0.15
MARKS = ("all leads", "each lead")  # of simulated recordings
# Share of the largest deflection of a wave in a lead at which it begins and ends there; QRS does so in all leads
# together, as LUDB's readers mark it. Settled on records 1 to 160 of LUDB.
SHARE = {"P": 0.15, "T": 0.10}
LEAST_MV = {"P": 0.010, "T": 0.015}  # the simulator's own limits for the dipole
CUTOFF = 40.0  # Hz, of shapes
N_PLACES = 201  # of a shape, from its onset to its offset

Waves = dict[str, np.ndarray]  # name -> float (wave, 3): onset, peak, offset in samples, NaN where not marked


@dataclass(frozen=True, eq=False)
class Marked:
    """One recording and its waves.

    signal: float32 (lead, time) in mV at FS; leads: names
    waves: of each lead; where the marks hold for all leads together (`per_lead` False) they are the same for each
    spans: of each lead, (first, last) samples between which every wave is marked
    second: waves as a second reader has marked them, for all leads together; None: there is none
    """

    record_id: str
    patient_id: str
    split: str
    signal: np.ndarray
    leads: tuple[str, ...]
    waves: tuple[Waves, ...]
    spans: tuple[list[tuple[float, float]], ...]
    per_lead: bool
    second: Waves | None = None


def recordings(corpus: str, root, **options) -> Iterator[Marked]:
    """Read the marked recordings of a corpus one by one.

    corpus: one of CORPORA; root: its folder; options of "simulated": hospital, splits (none: all), limit (recordings,
    0: all), marks (of MARKS; "each lead" as `of_leads`); of "ludb": splits, limit; of "qtdb": limit. Raises EcgError
    for an unknown corpus, option or kind of marks, and where no recording is there.
    """
    require_known("corpus", [corpus], CORPORA)
    require_known("option", list(options), OPTIONS[corpus], "options")
    yield from {"simulated": _simulated, "ludb": _ludb, "qtdb": _qtdb}[corpus](root, **options)


def _simulated(root, hospital="A", splits=(), limit: int = 0, marks: str = MARKS[0]) -> Iterator[Marked]:
    """Without second- and third-degree block, whose blocked P waves have no mark (`UNMARKED_P`)."""
    require_known("marks", [marks], MARKS)
    table = simulated.records(root, hospital=hospital)
    states = simulated.labels(root, table, hospital=hospital)
    blocked = (states[[name for name in UNMARKED_P if name in states]] == 1).any(axis=1).to_numpy()
    table = table[~blocked & (table.split.isin(splits) if splits else True)]
    path = Path(root) / hospital / "beats.csv"
    beats = _beats(path)
    table = _some(table[table.record_id.isin(beats.record_id)], limit, path)
    beats = beats[beats.record_id.isin(table.record_id)]
    of_record = {name: rows.drop(columns="record_id") for name, rows in beats.groupby("record_id")}
    for row in table.itertuples():
        recording = simulated.read(row)
        waves, kinds = _of_beats(of_record[row.record_id], FS / recording.fs)
        signal = filters.resample(np.nan_to_num(recording.signal), recording.fs, FS)
        n, about = len(recording.leads), (row.record_id, row.patient_id, row.split)
        own = marks == "each lead"
        each = of_leads(signal, waves, kinds) if own else (waves,) * n
        yield Marked(*about, signal, recording.leads, each, ([whole_span(waves)],) * n, own)


def _beats(path: Path) -> pd.DataFrame:
    """Boundaries of every beat of a hospital, with `record_id`."""
    columns = ["record_id", "class", *(name for names in COLUMNS.values() for name in names if name)]
    return datasets.table(path, columns, dtype={"record_id": str, "class": str})[columns]


def _some(table: pd.DataFrame, limit: int, path) -> pd.DataFrame:
    """At most `limit` rows spread evenly over the table, so that no device or year is left out."""
    if table.empty:
        raise EcgError("no marked recording is there", file=path, field="splits", fix="name splits of the corpus")
    if not 0 < limit < len(table):
        return table
    return table.iloc[np.linspace(0, len(table) - 1, limit).astype(int)]


def _of_beats(beats: pd.DataFrame, ratio: float) -> tuple[Waves, dict[str, np.ndarray]]:
    """Waves of a table of beats whose boundaries are -1 outside the recording and where there is no wave; and the class
    of the beat of each wave, by name of the wave."""
    waves, kinds = {}, {}
    for wave, names in COLUMNS.items():
        columns = [beats[name].to_numpy(float) if name else np.full(len(beats), np.nan) for name in names]
        found = np.stack(columns, axis=1)
        found[found < 0] = np.nan
        some = ~np.isnan(found).all(axis=1)
        found, kind = found[some], beats["class"].to_numpy(str)[some]
        order = np.argsort(np.nanmin(found, axis=1)) if len(found) else np.arange(0)
        waves[wave], kinds[wave] = found[order] * ratio, kind[order]
    return waves, kinds


def of_leads(signal: np.ndarray, waves: Waves, kinds: dict[str, np.ndarray], share: dict = SHARE) -> tuple[Waves, ...]:
    """Waves of each lead inside those of all leads together: where the lead itself leaves its level and returns.

    A wave of the heart begins with its dipole, but a lead at a right angle to it sees it later. signal: (lead, time) in
    mV at FS; kinds: name of the wave -> kind of beat (wave,), beats of one kind have one shape, whose median is taken;
    share: of the largest deflection in the lead, see `crossings`. In a lead where a wave stays below LEAST_MV its
    boundaries are unknown (NaN), not absent; so are those that the recording cuts off.
    """
    x = filters.bandpass(signal, FS, None, CUTOFF)
    found = [{wave: all_leads.copy() for wave, all_leads in waves.items()} for _ in signal]
    for wave in share:
        on, middle, off = waves[wave].T
        middle = np.where(np.isnan(middle), (on + off) / 2, middle)
        for kind in np.unique(kinds[wave]):
            rows = np.flatnonzero((kinds[wave] == kind) & ~np.isnan(on + off))
            if not len(rows):
                continue
            for lead, shape in enumerate(mean_shapes(x, on[rows], off[rows])):
                first, last = crossings(shape, share[wave], LEAST_MV[wave])
                length = off[rows] - on[rows]
                ends = on[rows] + first * length, middle[rows], on[rows] + last * length
                found[lead][wave][rows] = np.stack(ends, axis=1)
    return tuple(found)


def mean_shapes(x: np.ndarray, on: np.ndarray, off: np.ndarray) -> np.ndarray:
    """Median over waves, each stretched from onset to offset, less the line between its ends: (lead, N_PLACES) in mV.

    x: (lead, time) in mV; on, off: samples (wave,).
    """
    grid = np.linspace(0, 1, N_PLACES)
    places = on[:, None] + grid * (off - on)[:, None]
    shapes = np.stack([np.interp(places, np.arange(x.shape[1]), lead) for lead in x])  # (lead, wave, place)
    line = shapes[..., :1] + (shapes[..., -1:] - shapes[..., :1]) * grid
    return np.median(shapes - line, axis=1)


def crossings(shape: np.ndarray, share: float, least: float) -> tuple[float, float]:
    """First and last place, from 0 to 1, where a shape (place,) is as far from 0 as `least` and as `share` of its
    largest value; NaN for both where it never is."""
    size = abs(shape)
    inside = np.flatnonzero(size >= max(least, share * size.max()))
    return tuple(inside[[0, -1]] / (len(shape) - 1)) if len(inside) else (np.nan, np.nan)


def whole_span(waves: Waves) -> tuple[float, float]:
    """From the onset of the first wave that is marked at both ends to the offset of the last one."""
    ends = np.concatenate([found[~np.isnan(found[:, [0, 2]]).any(axis=1)][:, [0, 2]] for found in waves.values()])
    return (float(ends[:, 0].min()), float(ends[:, 1].max())) if len(ends) else (0.0, 0.0)


def _ludb(root, splits=(), limit: int = 0) -> Iterator[Marked]:
    """Every lead has marks of its own; its first and last beats often have none. The corpus has no splits of its
    own: records up to LUDB_TRAIN are "train", up to LUDB_VAL "val", the others "test"."""
    table = ludb.records(root)
    number = table.record_id.astype(int)
    table["split"] = np.select([number <= LUDB_TRAIN, number <= LUDB_VAL], ["train", "val"], "test")
    table = _some(table[table.split.isin(splits)] if splits else table, 0, root)
    for row in table.head(limit or len(table)).itertuples():
        recording = ludb.read(row).select(LEADS)
        ratio = FS / recording.fs
        notes = [annotations.read(f"{row.path}.{lead.lower()}") for lead in LEADS]
        waves = tuple({wave: found * ratio for wave, found in read_waves(each).items()} for each in notes)
        signal = filters.resample(np.nan_to_num(recording.signal), recording.fs, FS)
        spans = tuple([(each.samples[0] * ratio, each.samples[-1] * ratio)] for each in notes)
        yield Marked(row.record_id, row.patient_id, row.split, signal, LEADS, waves, spans, True)


def read_waves(notes: annotations.Annotations) -> Waves:
    """Waves of annotations such as ( p ) ( N ) t ): an onset just before the sign of a wave, an offset just behind."""
    signs, at = notes.symbols, notes.samples.astype(float)
    before, behind = np.roll(signs == "(", 1), np.roll(signs == ")", -1)
    before[:1], behind[-1:] = False, False
    waves = {}
    for wave, sign in SYMBOLS.items():
        peaks = np.flatnonzero(signs == sign)
        on = np.where(before[peaks], at[peaks - 1], np.nan)
        off = np.where(behind[peaks], at[np.minimum(peaks + 1, len(at) - 1)], np.nan)
        waves[wave] = np.stack([on, at[peaks], off], axis=1)
    return waves


def _qtdb(root, limit: int = 0) -> Iterator[Marked]:
    """The part around the marks, which hold for both leads together; spans are runs of beats without one left out."""
    table = qtdb.records(root)
    for row in table.head(limit or len(table)).itertuples():
        recording = wfdb_io.read(row.path)
        notes = annotations.read(f"{row.path}.{qtdb.FIRST}")
        margin, n_times = round(MARGIN_S * FS), recording.signal.shape[1]
        start, stop = max(0, notes.samples[0] - margin), min(n_times, notes.samples[-1] + margin)
        signal = np.nan_to_num(recording.signal[:, start:stop])
        waves = {wave: found - start for wave, found in read_waves(notes).items()}
        second = Path(f"{row.path}.{qtdb.SECOND}")
        again = read_waves(annotations.read(second)) if second.is_file() else None
        again = again and {wave: found - start for wave, found in again.items()}
        spans, n = runs_of_beats(waves, rpeaks.r_peaks(signal, FS)), len(signal)
        about = (row.record_id, row.patient_id, row.split)
        yield Marked(*about, signal, recording.leads, (waves,) * n, (spans,) * n, False, again)


def runs_of_beats(waves: Waves, r: np.ndarray) -> list[tuple[float, float]]:
    """Spans in which no beat is unmarked: from the first to the last mark of neighbouring beats.

    waves: with the marked QRS complexes; r: samples of all beats, marked or not.
    """
    peaks = waves["QRS"][:, 1]
    near = SAME_BEAT_S * FS
    between = [np.count_nonzero((r > a + near) & (r < b - near)) for a, b in zip(peaks, peaks[1:], strict=False)]
    first = np.r_[0, np.flatnonzero(np.array(between, int) > 0) + 1]
    every = np.concatenate(list(waves.values()))
    middle, spans = every[:, 1], []
    for a, b in zip(first, np.r_[first[1:], len(peaks)], strict=True):
        low = (peaks[a - 1] + peaks[a]) / 2 if a else -np.inf
        high = (peaks[b - 1] + peaks[b]) / 2 if b < len(peaks) else np.inf
        run = every[(middle > low) & (middle < high)]
        spans.append((float(np.nanmin(run)), float(np.nanmax(run))))
    return spans
