"""Noise added to a clean ECG as in the MIT-BIH Noise Stress Test Database: where, and how loud."""

import numpy as np

from ecglib.datasets import nstdb

QRS_S, N_MEASURED, TRIMMED = 0.05, 300, 0.05  # around a beat; beats or seconds; left out at each end


def stressed(x: np.ndarray, beats: np.ndarray, track: np.ndarray, fs: float, snr_db: float) -> np.ndarray:
    """An ECG with noise in the parts of `nstdb.noisy_spans`, sized as the program nst of WFDB does.

    x: (time,) mV; beats: samples of its beats; track: noise (time,) mV of the same rate, no shorter; fs: Hz.
    snr_db = 10 log10 (range^2 / 8 / rms^2), of the ECG the mean QRS range, of the noise the mean root mean square of a
    second (of 300 each, without the outer 5 % at either end). After a noisy part the level stays where the noise has
    left it, as in the published records. Source: Moody et al. (1984); nst(1) of the WFDB Applications Guide.
    """
    gain = qrs_range(x, beats, fs) / np.sqrt(8) / noise_size(track, fs) / 10 ** (snr_db / 20)
    added, level, end = np.zeros(len(x)), 0.0, 0
    for start, stop in nstdb.noisy_spans(len(x) / fs):
        first, last = round(start * fs), round(stop * fs)
        added[end:first] = level
        added[first:last] = level + track[first:last] - track[first - 1]
        level, end = added[last - 1], last
    added[end:] = level
    return (x + gain * added).astype(np.float32)


def qrs_range(x: np.ndarray, beats: np.ndarray, fs: float) -> float:
    """Mean range of x (time,) within QRS_S of its first beats (samples): the size of its QRS complexes."""
    reach = round(QRS_S * fs)
    inner = [beat for beat in beats if reach <= beat < len(x) - reach][:N_MEASURED]
    return _trimmed([np.ptp(x[beat - reach : beat + reach + 1]) for beat in inner])


def noise_size(track: np.ndarray, fs: float) -> float:
    """Mean standard deviation of the first seconds of a noise (time,)."""
    size = round(fs)
    return _trimmed(track[: min(len(track) // size, N_MEASURED) * size].reshape(-1, size).std(axis=1))


def _trimmed(values) -> float:
    values = np.sort(values)
    outer = round(TRIMMED * len(values))
    return float(np.mean(values[outer : len(values) - outer]))
