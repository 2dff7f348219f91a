"""Beats and rhythms of WFDB annotation files (.atr, .qrs), of any length, without a loop over the beats.

Source: annot(5) of the WFDB Applications Guide. A word of 16 bits holds a type (6 bits) and the time since the last
annotation (10 bits); longer times, notes and other fields follow in words of their own.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecglib import EcgError

SYMBOLS = dict(enumerate(' NLRaVFJASEj/Q~ | sT*D"=pB^t+u?![]en@xf()r'))
BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")  # the types that stand for a heartbeat
_SKIP, _NUM, _SUB, _CHAN, _AUX = 59, 60, 61, 62, 63
_MARKS = frozenset('+"')  # where rhythms are named: "(AFIB"; SHDB-AF names them in comments
_PATIENT = {"cpsc2021": r"data_(\d+)_\d+", "nstdb": r"(\d+)e_?\d+"}  # of corpora whose records are named after patients
_RESOLUTION = re.compile(r"## time resolution: ([\d.]+)")


@dataclass(frozen=True, eq=False)
class Annotations:
    """samples: int64 (annotation,), rising; symbols: one character each; notes: {number of the annotation: text};
    fs: samples per second where the file says so, else None."""

    samples: np.ndarray
    symbols: np.ndarray
    notes: dict[int, str]
    fs: float | None = None

    @property
    def is_beat(self) -> np.ndarray:
        """Which annotations stand for a heartbeat: bool (annotation,)."""
        return np.isin(self.symbols, list(BEATS))

    @property
    def beats(self) -> np.ndarray:
        """Samples of the heartbeats."""
        return self.samples[self.is_beat]


class Interval(NamedTuple):
    """A stretch of one rhythm, [start, end) in the unit of the day (seconds or samples), label without bracket."""

    start: float
    end: float
    label: str


def read(path) -> Annotations:
    """Read an annotation file with its ending (04015.atr).

    Raises EcgError for a file that is not there, is cut short, or holds types that the format does not have.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EcgError(f"cannot read the annotations: {error.strerror}", file=path) from error
    words = np.frombuffer(data, "<u2", len(data) // 2).astype(np.int64)
    kinds, steps = words >> 10, words & 1023
    kinds, steps, texts = _unfolded(path, data, words, kinds, steps)
    times = np.cumsum(steps)
    annotated = np.flatnonzero((kinds > 0) & (kinds < _SKIP))  # 0 passes time and says nothing
    unknown = sorted({int(kind) for kind in np.unique(kinds[annotated]) if kind not in SYMBOLS})
    if unknown:
        raise EcgError(f"annotation types {unknown} do not exist", file=path, fix="give a WFDB annotation file")
    notes = {int(np.searchsorted(annotated, at, "right")) - 1: text for at, text in texts}
    symbols = np.array([SYMBOLS.get(code, " ") for code in range(_SKIP)])[kinds[annotated]]
    samples, fs, keep = times[annotated], None, np.ones(len(annotated), bool)
    for number, text in list(notes.items()):
        if found := _RESOLUTION.match(text):
            fs, keep[number] = float(found[1]), False
    if not keep.all():
        moved = np.cumsum(keep) - 1
        notes = {int(moved[n]): text for n, text in notes.items() if keep[n]}
    return Annotations(samples[keep], symbols[keep], notes, fs)


def _unfolded(path, data, words, kinds, steps):
    """Kinds (-1: belongs to another word) and time steps of the words up to the end mark, and the notes with their
    places."""
    kinds, steps, texts, reached = kinds.copy(), steps.copy(), [], 0
    wide = np.flatnonzero((kinds == _SKIP) | (kinds == _AUX) | (words == 0))
    for at in wide.tolist():
        if at < reached:  # inside the text or number of another
            continue
        if words[at] == 0:
            kinds, steps = kinds[:at], steps[:at]
            steps[(kinds >= _NUM) | (kinds < 0)] = 0
            return kinds, steps, texts
        length = 2 if kinds[at] == _SKIP else (steps[at] + 1) // 2
        reached = at + 1 + int(length)
        if reached > len(words):
            break
        if kinds[at] == _SKIP:
            pause = (int(words[at + 1]) << 16) | int(words[at + 2])
            steps[at] = pause - (1 << 32) if pause >= 1 << 31 else pause
        else:
            text = data[2 * at + 2 : 2 * at + 2 + int(steps[at])]
            texts.append((at, text.decode("utf-8", "replace").strip("\0 ")))
        kinds[at + 1 : reached], steps[at + 1 : reached] = -1, 0
    raise EcgError("the annotations end without their end mark", file=path, fix="fetch the file again")


def rhythms(notes: Annotations, end: float) -> list[Interval]:
    """Rhythm intervals in samples: each mark "(X" holds until the next one, the last until `end`."""
    marks = [(n, text) for n, text in sorted(notes.notes.items()) if re.match(r"\(\w", text)]
    marks = [(int(notes.samples[n]), text[1:].split("\0")[0]) for n, text in marks if notes.symbols[n] in _MARKS]
    ends = [at for at, _ in marks][1:] + [end]
    return [Interval(at, stop, label) for (at, label), stop in zip(marks, ends, strict=False) if stop > at]


def patient_of(corpus: str, record_id: str) -> str:
    """The patient whom the name of a record holds, in a corpus that names records so; else the name itself."""
    match = re.fullmatch(_PATIENT.get(corpus, ""), record_id)
    return match[1] if match else record_id
