"""Whole days of beats and rhythms, with or without waveforms: AFDB, LTAFDB, NSRDB, CPSC 2021, SHDB-AF, simulated.

Times are seconds from the start of the recording. Rhythms hold from their mark to the next one; what no mark covers is
unknown. Flutter is a rhythm of its own here: who counts it as fibrillation says so (`Day.flags`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ecglib import EcgError, require_known
from ecglib.data import annotations
from ecglib.data.annotations import Interval
from ecglib.data.long_recording import LongRecording
from ecglib.datasets import shdb_af
from ecglib.rhythm.irregularity import LONGEST_RR
from ecglib.rhythm.streamed import r_peaks

UNKNOWN = -1


class Source(NamedTuple):
    """Where a corpus of days comes from and how it is read."""

    url: str
    licence: str
    citation: str
    beats: str  # ending of the file with the beats; "": they are found in the signal, block by block
    rhythms: str  # ending of the file with the rhythms; "": there is none
    fs: float | None  # Hz; None: as its headers say
    before: str = ""  # the rhythm before the first mark, and of records that are marked nowhere; "": unknown
    note: str = ""  # what a reader must know


SOURCES = {
    "afdb": Source(
        "https://physionet.org/content/afdb/1.0.0/",
        "ODC-By 1.0",
        "Moody and Mark (1983), A new method for detecting atrial fibrillation using R-R intervals, "
        "Computers in Cardiology 10",
        "qrs",
        "atr",
        250.0,
        note="N means neither fibrillation nor flutter nor junctional; the beats are unaudited detections",
    ),
    "ltafdb": Source(
        "https://physionet.org/content/ltafdb/1.0.0/",
        "ODC-By 1.0",
        "Petrutiu et al. (2007), Abrupt changes in fibrillatory wave characteristics at the termination of paroxysmal "
        "atrial fibrillation in humans, Europace 9",
        "atr",
        "atr",
        128.0,
    ),
    "nsrdb": Source(
        "https://physionet.org/content/nsrdb/1.0.0/",
        "ODC-By 1.0",
        "Goldberger et al. (2000), PhysioBank, PhysioToolkit, and PhysioNet, Circulation 101",
        "atr",
        "",
        128.0,
        "N",
        note="no rhythm is marked: people without significant arrhythmia, all of it counted as N",
    ),
    "cpsc2021": Source(
        "https://physionet.org/content/cpsc2021/1.0.0/",
        "PhysioNet open access",
        "Wang et al. (2021), Paroxysmal atrial fibrillation events detection from dynamic ECG recordings: the 4th "
        "China Physiological Signal Challenge, PhysioNet",
        "atr",
        "atr",
        200.0,
        "N",
        note="pieces of Holter recordings; the patient is the first number of the record's name",
    ),
    "shdb-af": Source(
        shdb_af.URL,
        shdb_af.LICENCE,
        shdb_af.CITATION,
        "",
        "atr",
        200.0,
        "N",
        note="beats are found in the signals; unmarked recordings are unknown; N is whatever is not marked",
    ),
    "simulated": Source(
        "https://doi.org/10.1155/2007/43407", "MIT", "ecgsim, the simulator beside this library", "atr", "atr", 200.0
    ),
}


@dataclass(frozen=True, eq=False)
class Day:
    """One recording. beats: seconds (beat,), rising; kinds: symbols (beat,); rhythms: Intervals in seconds;
    path: of the record without ending."""

    record_id: str
    patient_id: str
    corpus: str
    beats: np.ndarray
    kinds: np.ndarray
    rhythms: list[Interval]
    path: Path

    @property
    def hours(self) -> float:
        """From the first beat to the last."""
        return float(self.beats[-1] - self.beats[0]) / 3600

    def flags(self, positive) -> np.ndarray:
        """Whether each beat lies in a rhythm of `positive`: int8 (beat,), UNKNOWN where no rhythm is marked."""
        return flags(self.beats, self.rhythms, positive)


def flags(beats: np.ndarray, rhythms: list[Interval], positive) -> np.ndarray:
    """As `Day.flags`, for any beats (seconds) and rhythms."""
    out = np.full(len(beats), UNKNOWN, np.int8)
    for start, end, label in rhythms:
        first, last = np.searchsorted(beats, (start, end))
        out[first:last] = label in positive
    return out


def days(root, source: str, group: str = "") -> list[Day]:
    """The recordings of a corpus in a folder, in the order of their names.

    root: folder of the annotation files; source: a key of SOURCES; group: of the column `group` in the table days.csv
    beside them, whose recordings are kept (empty: all).
    Raises EcgError for an unknown corpus or group, a folder without annotations, and a record without beats.
    """
    require_known("corpus of days", [source], SOURCES)
    about, folder = SOURCES[source], Path(root).resolve()
    if not about.beats:
        whole = shdb_af.recordings(folder)
        kept = _of_group([Path(path) for path in whole.path], folder, group)
        return [_streamed(row, source, about) for row in whole.itertuples() if Path(row.path) in kept]
    paths = [path.with_suffix("") for path in sorted(folder.glob(f"*.{about.beats}"))]
    if not paths:
        fix = f"give the folder with the .{about.beats} files of {about.url}"
        raise EcgError(f"no annotations of {source}", file=folder, field="root", fix=fix)
    return [_day(path, source, about) for path in _of_group(paths, folder, group)]


def _of_group(paths: list[Path], folder: Path, group: str) -> list[Path]:
    """The records of a group, by the table days.csv; all of them where no group is asked for."""
    if not group:
        return paths
    try:
        of_group = pd.read_csv(folder / "days.csv", dtype=str).set_index("record_id")["group"]
    except (OSError, ValueError, KeyError) as error:
        fix = "write a CSV with the columns record_id and group"
        raise EcgError(f"no table of groups: {error}", file=folder / "days.csv", field="group", fix=fix) from error
    require_known("group", [group], sorted(set(of_group)), "group", folder / "days.csv")
    return [path for path in paths if of_group.get(path.name) == group]


def _day(path: Path, source: str, about: Source) -> Day:
    beats = annotations.read(path.with_suffix(f".{about.beats}"))
    fs = beats.fs or about.fs
    at, first = np.unique(beats.beats, return_index=True)
    _require_beats(at, path.with_suffix(f".{about.beats}"))
    marks = beats if about.rhythms == about.beats else None
    if about.rhythms and marks is None:
        marks = annotations.read(path.with_suffix(f".{about.rhythms}"))
    marked = annotations.rhythms(marks, at[-1]) if marks else []
    rhythms = _in_seconds(marked, about.before, at, fs)
    patient = f"{source}-{annotations.patient_of(source, path.name)}"
    return Day(path.name, patient, source, at / fs, beats.symbols[beats.is_beat][first], rhythms, path)


def _streamed(row, source: str, about: Source) -> Day:
    """A recording (row of `shdb_af.recordings`) without a file of beats: they are found in the signal."""
    recording = LongRecording(row.path)
    at = r_peaks(recording)
    _require_beats(at, recording.file)
    rhythms = []
    if row.marked:
        marked = annotations.rhythms(annotations.read(f"{row.path}.{about.rhythms}"), at[-1])
        rhythms = _in_seconds(marked, about.before, at, recording.fs)
    kinds = np.full(len(at), "N")
    return Day(row.recording, f"{source}-{row.patient_id}", source, at / recording.fs, kinds, rhythms, Path(row.path))


def _require_beats(at: np.ndarray, file) -> None:
    if len(at) < 2:
        raise EcgError("fewer than two beats", file=file, field="beats")


def _in_seconds(marked: list[Interval], before: str, at: np.ndarray, fs: float) -> list[Interval]:
    """Rhythms in seconds, after the one that holds from the first beat (sample) to the first mark, if one does."""
    first_mark = marked[0].start if marked else at[-1]
    if before and first_mark > at[0]:
        marked = [Interval(at[0], first_mark, before), *marked]
    return [Interval(start / fs, end / fs, label) for start, end, label in marked]


def described(found: dict[str, list[Day]], positive) -> pd.DataFrame:
    """What is in corpora of days: a row each with records, patients, hours, beats, hours and episodes of `positive`."""
    rows = []
    for name, of_corpus in found.items():
        known = [day.flags(positive) for day in of_corpus]
        length = [np.append(np.minimum(np.diff(day.beats), LONGEST_RR), 0) for day in of_corpus]
        hours = sum(float(rr[flag == 1].sum()) for rr, flag in zip(length, known, strict=True)) / 3600
        episodes = sum(int((np.diff(np.r_[0, flag == 1]) == 1).sum()) for flag in known)
        rows.append(
            {
                "corpus": name,
                "records": len(of_corpus),
                "patients": len({day.patient_id for day in of_corpus}),
                "hours": round(sum(day.hours for day in of_corpus), 1),
                "beats": sum(len(day.beats) for day in of_corpus),
                "AF hours": round(hours, 1),
                "AF episodes": episodes,
                "patients with AF": len(
                    {d.patient_id for d, f in zip(of_corpus, known, strict=True) if (f == 1).any()}
                ),
            }
        )
    return pd.DataFrame(rows)
