"""Segments of long records whose rhythms are marked: where each is, which rhythm it is in, its samples alone."""

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.data.annotations import Interval
from ecglib.data.long_recording import LongRecording

MIXED = "mixed"  # no rhythm in more than half of a segment


def starts(recording: LongRecording, segment_s: float, every_s: float) -> np.ndarray:
    """Where the whole segments of a record begin: seconds (segment,).

    segment_s: seconds of a segment; every_s: seconds from one start to the next. Raises EcgError for lengths that are
    none, and for a segment longer than every_s, since segments would share samples.
    """
    lengths = isinstance(segment_s, int | float) and isinstance(every_s, int | float)
    if not (lengths and 0 < segment_s <= every_s >= 1):
        fix = "above 0 s, and not longer than every_s, which is 1 s or more"
        raise EcgError(f"segments of {segment_s!r} s every {every_s!r} s", field="segment_s", fix=fix)
    seconds = recording.n_times / recording.fs
    return np.arange(0, max(seconds - segment_s, -1) + 0.5 / recording.fs, every_s)


def shares(rhythms: list[Interval], start: np.ndarray, segment_s: float, names) -> pd.DataFrame:
    """The part of each segment (row) that each of `names` (column) covers, 0 to 1.

    rhythms: of the record, in seconds, all of them in `names`; start: of the segments, seconds (segment,).
    """
    covered = {name: np.zeros(len(start)) for name in names}
    for first, last, label in rhythms:
        begin, end = np.maximum(first, start), np.minimum(last, start + segment_s)
        covered[label] += np.clip(end - begin, 0, None) / segment_s
    return pd.DataFrame(covered)


def read(recording: LongRecording, start_s: float, segment_s: float) -> np.ndarray:
    """The samples of a segment, and no more of the file: float32 mV (lead, time); EcgError where there are fewer."""
    first = round(start_s * recording.fs)
    last = first + round(segment_s * recording.fs)
    if last > recording.n_times:
        reason = f"{recording.n_times} samples for a segment of {first} to {last}"
        raise EcgError(reason, file=recording.file, field="length", fix="fetch the record again")
    return recording.read(first, last)
