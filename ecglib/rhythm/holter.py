"""A recording of a whole day, block by block: episodes of fibrillation and burden with the memory of minutes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecglib.data.long_recording import LongRecording
from ecglib.rhythm.days import Day
from ecglib.rhythm.irregularity import LONGEST_RR
from ecglib.rhythm.matching import TOLERANCE_S, matched
from ecglib.rhythm.rr_model import Model, prepare
from ecglib.rhythm.streamed import r_peaks


@dataclass(frozen=True, eq=False)
class Finding:
    """What a recording shows. day: its beats; probabilities (beat,); episodes in seconds (episode, 2)."""

    day: Day
    hours: float
    probabilities: np.ndarray
    episodes: np.ndarray

    @property
    def analysed(self) -> float:
        """Seconds that could be judged."""
        rr = np.append(np.diff(self.day.beats), 0.0)
        return float(rr[~np.isnan(self.probabilities) & (rr <= LONGEST_RR)].sum())

    @property
    def burden(self) -> float:
        """Percent of the analysable time in fibrillation; NaN where nothing could be judged."""
        total = self.analysed
        return 100 * float(np.diff(self.episodes).sum()) / total if total else np.nan

    @property
    def rate(self) -> float:
        """Mean heart rate per minute, gaps left out."""
        rr = np.diff(self.day.beats)
        rr = rr[rr <= LONGEST_RR]
        return 60 / float(rr.mean()) if len(rr) else np.nan


def analyse(recording: LongRecording, model: Model, progress: Callable | None = None) -> Finding:
    """Find the beats of a recording and judge them with a model of intervals."""
    beats = r_peaks(recording, progress=progress) / recording.fs
    return judge(recording.record_id, beats, recording.hours, model, Path(recording.file))


def judge(record_id: str, beats: np.ndarray, hours: float, model: Model, path: Path = Path()) -> Finding:
    """Judge beats (seconds) that are known; hours: length of the recording."""
    day = Day(record_id, record_id, "", beats, np.full(len(beats), "N"), [], path)
    if len(beats) < 2:
        return Finding(day, hours, np.full(len(beats), np.nan), np.zeros((0, 2)))
    record = prepare(day, model.settings)
    p = model.probabilities(record)
    return Finding(day, hours, p, model.episodes(record, p))


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def beat_errors(truth, found, tolerance: float = TOLERANCE_S) -> dict[str, float]:
    """Sensitivity and PPV in percent of found beats (seconds, rising) against true ones, paired as `matched` does."""
    hits = len(matched(truth, found, tolerance)[0])
    return {
        "sensitivity": 100 * hits / len(truth) if len(truth) else np.nan,
        "ppv": 100 * hits / len(found) if len(found) else np.nan,
    }
