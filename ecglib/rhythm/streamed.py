"""R peaks of a recording of a whole day, block by block, with the memory of minutes.

Blocks overlap, since a detector needs some seconds before it knows how large a beat is; peaks are kept from the middle.
"""

from collections.abc import Callable

import numpy as np

from ecglib.data import rpeaks
from ecglib.data.long_recording import LongRecording

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
