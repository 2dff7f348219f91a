"""A recording of a whole day, block by block: R peaks, episodes of fibrillation and burden with the memory of minutes.

Blocks overlap, since a detector needs some seconds before it knows how large a beat is; peaks are kept from the middle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecglib.data import rpeaks
from ecglib.data.long_recording import LongRecording
from ecglib.rhythm.days import Day
from ecglib.rhythm.irregularity import LONGEST_RR
from ecglib.rhythm.matching import TOLERANCE_S, matched
from ecglib.rhythm.rr_model import Model, prepare

BLOCK, OVERLAP = 300.0, 10.0  # s
REFRACTORY = 0.2  # s in which no second beat begins
T_WAVE, T_SLOPE = 0.36, 0.7  # s after a beat in which a peak with less than this share of its slope is its T wave


def r_peaks(recording: LongRecording, block: float = BLOCK, progress: Callable | None = None) -> np.ndarray:
    """R peaks of a long recording: samples (beat,), rising; see `ecglib.data.rpeaks`.

    block: seconds judged at a time, beside OVERLAP at both ends; progress: called with (seconds done, of).
    """
    fs, n, found, last = recording.fs, recording.n_times, [], -np.inf
    step, reach = round(block * fs), round(OVERLAP * fs)
    for start in range(0, n, step):
        end = min(start + step, n)
        first = max(start - reach, 0)
        x = recording.read(first, end + reach)
        peaks = first + _without_t_waves(x, fs, rpeaks.r_peaks(x, fs))
        peaks = peaks[(peaks >= start) & (peaks < end)]
        peaks = peaks[peaks - last > REFRACTORY * fs]
        if len(peaks):
            last = peaks[-1]
        found.append(peaks)
        if progress:
            progress(round(end / fs), round(n / fs))
    return np.concatenate(found)


def _without_t_waves(x: np.ndarray, fs: float, peaks: np.ndarray) -> np.ndarray:
    """Peaks without those that follow a beat at once and are less steep (Pan and Tompkins 1985, rule for T waves).

    The detector looks for lost beats where a pause is long, and after ectopic beats finds their T waves.
    """
    apart = max(1, round(0.02 * fs))
    slope = np.abs(np.nan_to_num(x[:, apart:] - x[:, :-apart])).sum(axis=0)
    reach, kept, steep = round(0.08 * fs), [], 0.0
    for peak in peaks.tolist():
        own = slope[max(0, peak - reach) : peak + reach].max(initial=0.0)
        if kept and peak - kept[-1] < T_WAVE * fs and own < T_SLOPE * steep:
            continue
        kept.append(peak)
        steep = own
    return np.array(kept, np.int64)


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
