"""How irregular the intervals between beats are: windows of beats and what fibrillation does to them.

In fibrillation each RR interval is nearly independent of the last; ectopic beats and breathing leave patterns. All
features are of RR intervals alone, so they work on annotations, on any lead, and on pulses. Nothing is of the future:
a window ends with its last beat.
"""

import numpy as np

WINDOW = 60  # beats
LONGEST_RR = 3.0  # s; a longer interval is a gap, which no window may hold
TOLERANCE = 0.03  # s, of two intervals that count as alike (Lake and Moorman 2011)
FEATURES = ("mean", "cv", "rmssd", "median_change", "share_50ms", "cosen", "turning", "entropy", "lag1", "lag2")
CHUNK = 4096  # windows compared with themselves at a time


def windows(beats, step: int = WINDOW, width: int = WINDOW) -> tuple[np.ndarray, np.ndarray]:
    """Windows of RR intervals without gaps: (first beat of each (window,), seconds (window, width)).

    beats: seconds (beat,), rising; step: beats from one window to the next. A window of `width` intervals spans the
    beats first ... first + width.
    """
    rr = np.diff(np.asarray(beats, float))
    if len(rr) < width:
        return np.zeros(0, int), np.zeros((0, width))
    gaps = np.r_[0, np.cumsum(rr > LONGEST_RR)]
    first = np.arange(0, len(rr) - width + 1, step)
    first = first[gaps[first + width] == gaps[first]]
    return first, np.lib.stride_tricks.sliding_window_view(rr, width)[first]


def features(rr: np.ndarray) -> np.ndarray:
    """FEATURES of windows of RR intervals: float (window, feature).

    rr: seconds (window, beat). In order: mean (s); standard deviation, root mean square and median of the absolute
    successive change, each over the mean; share of changes above 50 ms; coefficient of sample entropy; share of turning
    points (2/3 in white noise); Shannon entropy of the intervals in bins of 50 ms (bits); autocorrelation of the
    intervals at lags 1 and 2, which a bigeminy drives to -1 and +1.
    Sources: Lake and Moorman 2011 (doi:10.1152/ajpheart.00561.2010), Dash et al. 2009 (turning points and entropy).
    """
    rr = np.asarray(rr, float)
    mean, change = rr.mean(axis=1), np.diff(rr, axis=1)
    centred = rr - mean[:, None]
    variance = (centred**2).mean(axis=1)
    safe = np.where(variance > 0, variance, 1.0)
    columns = [mean, np.sqrt(variance) / mean, np.sqrt((change**2).mean(axis=1)) / mean]
    columns += [np.median(abs(change), axis=1) / np.median(rr, axis=1), (abs(change) > 0.05).mean(axis=1)]
    columns += [cosen(rr), (change[:, 1:] * change[:, :-1] < 0).mean(axis=1), _entropy(rr)]
    columns += [(centred[:, lag:] * centred[:, :-lag]).mean(axis=1) / safe for lag in (1, 2)]
    return np.stack(columns, axis=1)


def cosen(rr: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Coefficient of sample entropy of windows (window, beat): the entropy rate at a fixed tolerance, less ln(mean RR).

    ln(pairs alike) - ln(pairs alike that are followed by pairs alike) + ln(2 tolerance) - ln(mean), all in seconds,
    with templates of one interval; where no pair is alike or none goes on, one half stands for zero.
    """
    rr, out = np.asarray(rr, float), []
    for start in range(0, len(rr), CHUNK):
        block = rr[start : start + CHUNK]
        alike = followed = 0
        for lag in range(1, block.shape[1] - 1):  # pairs (i, i + lag) of which both have a successor
            near = abs(block[:, lag:] - block[:, :-lag]) <= tolerance
            alike = alike + near[:, :-1].sum(axis=1)
            followed = followed + (near[:, :-1] & near[:, 1:]).sum(axis=1)
        ratio = np.log(np.maximum(alike, 0.5)) - np.log(np.maximum(followed, 0.5))
        out.append(ratio + np.log(2 * tolerance) - np.log(block.mean(axis=1)))
    return np.concatenate(out) if out else np.zeros(0)


def _entropy(rr: np.ndarray, width: float = 0.05) -> np.ndarray:
    bins = np.minimum((rr / width).astype(int), int(LONGEST_RR / width))
    counts = np.zeros((len(rr), bins.max(initial=0) + 1))
    np.add.at(counts, (np.arange(len(rr))[:, None], bins), 1)
    share = counts / rr.shape[1]
    return -(share * np.log2(np.where(share > 0, share, 1))).sum(axis=1)


def over_beats(first: np.ndarray, values: np.ndarray, n_beats: int, width: int = WINDOW) -> np.ndarray:
    """The mean over the windows that hold each beat: float (beat,), NaN for a beat in no window.

    first, values: of each window (window,), as `windows` gives them; a beat is held by its window from the first beat
    to the last.
    """
    total, count = np.zeros(n_beats + 1), np.zeros(n_beats + 1)
    for place, sign in ((first, 1), (first + width + 1, -1)):
        np.add.at(total, np.minimum(place, n_beats), sign * values)
        np.add.at(count, np.minimum(place, n_beats), sign)
    total, count = total.cumsum()[:-1], count.cumsum()[:-1]
    return np.where(count > 0.5, total / np.maximum(count, 1), np.nan)
