"""Resampling and pass bands, in the frequency domain and with reflected ends: float32 (lead, time) mV at `fs` Hz."""

from fractions import Fraction
from functools import lru_cache
from math import ceil, inf

import numpy as np
import scipy  # which loads its parts when they are used

from ecglib import EcgError

EDGE_S = 2.0  # seconds of extension on each side, enough for a 0.5 Hz high-pass to settle
MAX_FACTOR = 10000  # of up and down: one block of the FFT holds that many samples


def resample(x: np.ndarray, fs_in: float, fs_out: float, tolerance: float = 0.0) -> np.ndarray:
    """Resample along the last axis: x (..., time) -> float32 (..., round(time * fs_out / fs_in)); sample k at k/fs_out.

    Band-limited interpolation; going down, everything from half the new rate upwards is removed. tolerance: of `ratio`.
    Raises EcgError for rates that are not positive or have no simple ratio, and for non-finite values.
    """
    return filtered(x, fs_in, fs_out, (), tolerance)


@lru_cache(maxsize=1024)
def ratio(fs_in: float, fs_out: float, tolerance: float = 0.0) -> tuple[int, int]:
    """The factors (up, down) that take fs_in to fs_out, Hz; raises EcgError where `resample` cannot go.

    tolerance: where the rates have no simple ratio, take the nearest one that is off by no more than this part of it.
    """
    if not (0 < fs_in < inf and 0 < fs_out < inf):
        raise EcgError(f"sampling rates must be positive, got {fs_in} and {fs_out}", field="fs")
    before, after = (Fraction(fs).limit_denominator(1000) for fs in (fs_in, fs_out))
    up, down = (after / before).as_integer_ratio() if before and after else (0, 0)
    if 0 < up <= MAX_FACTOR and down <= MAX_FACTOR:
        return up, down
    wanted = Fraction(fs_out) / Fraction(fs_in)
    near = (wanted if wanted < 1 else 1 / wanted).limit_denominator(MAX_FACTOR)
    if near and abs(float((near if wanted < 1 else 1 / near) / wanted) - 1) <= tolerance:
        return (near if wanted < 1 else 1 / near).as_integer_ratio()
    fix = "pack with fs_tolerance=0.0001 to take the nearest ratio, or round the rates"
    raise EcgError(f"no simple ratio between {fs_in} and {fs_out} Hz", field="fs", fix=fix)


def n_resampled(n_times: int, fs_in: float, fs_out: float, tolerance: float = 0.0) -> int:
    """How many samples `resample` makes of n_times."""
    up, down = ratio(fs_in, fs_out, tolerance)
    return round(n_times * up / down)


def bandpass(x: np.ndarray, fs: float, low: float | None, high: float | None, order: int = 3) -> np.ndarray:
    """Zero-phase Butterworth band-pass (Hz) along the last axis, x (..., time) -> float32 of the same shape.

    Applied forwards and backwards as `sosfiltfilt` does (half the power is lost twice at the edge frequencies).
    low None: low-pass; high None, or at and above fs/2: high-pass. Raises EcgError for a band that is empty.
    """
    return filtered(x, fs, fs, butterworth(low, high, fs, order))


def butterworth(low, high, fs, order) -> tuple:
    """The Butterworth filter of a band (Hz; None: no edge) for `filtered`: ((kind, order, frequencies),) or ()."""
    high = None if high is None or high >= fs / 2 else float(high)
    low = float(low) if low else None
    edges = [edge for edge in (low, high) if edge is not None]
    if any(edge <= 0 for edge in edges) or edges != sorted(set(edges)) or (low or 0) >= fs / 2:
        raise EcgError(f"no band from {low} to {high} Hz at {fs} Hz", field="band", fix="0 < low < high < fs/2")
    if not edges:
        return ()
    kind = "bandpass" if len(edges) == 2 else "highpass" if low else "lowpass"
    return ((kind, order, tuple(edges)),)


@lru_cache(maxsize=64)
def _response(filters: tuple, n_times: int, fs: float) -> np.ndarray:
    """Squared magnitude of the filters at the bins of an FFT of n_times samples, float32."""
    frequency = scipy.fft.rfftfreq(n_times, 1 / fs)
    response = np.ones(len(frequency))
    for kind, order, edges in filters:
        if kind == "notch":
            sos = scipy.signal.tf2sos(*scipy.signal.iirnotch(edges, order, fs))  # order is the quality factor here
        else:
            sos = scipy.signal.butter(order, edges if len(edges) == 2 else edges[0], kind, fs=fs, output="sos")
        response *= abs(scipy.signal.sosfreqz(sos, frequency, fs=fs)[1]) ** 2
    return response.astype(np.float32)


def filtered(x, fs_in: float, fs_out: float, filters: tuple, tolerance: float = 0.0) -> np.ndarray:
    """Filter and resample along the last axis: x (..., time) at fs_in Hz -> float32 at fs_out Hz.

    filters: (kind, order, frequencies) each, as `butterworth` gives, or ("notch", quality factor, frequency).
    tolerance: of `ratio`.
    One FFT forwards and one back, with rows in chunks that fit the cache. Raises as `resample`.
    """
    x = np.asarray(x, np.float32)
    (up, down), n_times = ratio(fs_in, fs_out, tolerance), x.shape[-1]
    if n_times < 2 or (up == down and not filters):
        return x.copy()
    left = min(ceil(EDGE_S * fs_in / down), (n_times - 1) // down) * down  # the new grid keeps sample 0
    blocks = scipy.fft.next_fast_len(ceil((n_times + 2 * left) / down), real=True)
    rows = x.reshape(-1, n_times)
    out = np.empty((len(rows), round(n_times * up / down)), np.float32)
    step = max(1, 150_000 // (blocks * max(up, down)))
    for start in range(0, len(rows), step):
        out[start : start + step] = _rows_filtered(rows[start : start + step], left, blocks, up, down, filters, fs_in)
    return out.reshape(*x.shape[:-1], -1)


def _rows_filtered(rows, left, blocks, up, down, filters, fs) -> np.ndarray:
    n_times, n_new = rows.shape[-1], blocks * up
    wide, level = _extended(rows, left, blocks * down)
    spectrum = scipy.fft.rfft(wide, axis=-1, overwrite_x=True)
    if filters:
        spectrum *= _response(filters, blocks * down, float(fs))
    if up < down:
        spectrum = spectrum[:, : n_new // 2 + 1]
        spectrum[:, (n_new + 1) // 2 :] = 0  # the bin at half the new rate is ambiguous
    start, n_out = left * up // down, round(n_times * up / down)
    y = scipy.fft.irfft(spectrum, n_new, axis=-1, overwrite_x=True)[:, start : start + n_out]
    y *= np.float32(up / down)
    if not any(kind in ("bandpass", "highpass") for kind, _, _ in filters):
        y += level
    return y


def _extended(rows: np.ndarray, left: int, total: int):
    """Remove each row's mean and extend it by even reflections that fade out after half their length; return both.

    Even reflection about the mean has a half to a fifth of the edge error of odd reflection (scipy's choice), measured
    on 10 s cut from longer recordings of MIT-BIH, CPSC and CinC 2017: an ECG cut within a wave stays on its level.
    """
    n_times = rows.shape[-1]
    level = rows.mean(axis=-1, keepdims=True)
    if not np.isfinite(level).all():
        raise EcgError("non-finite samples", field="signal", fix="interpolate gaps first")
    wide = np.zeros((len(rows), total), np.float32)
    middle = wide[:, left : left + n_times]
    np.subtract(rows, level, out=middle)
    fade = _fade(left)
    wide[:, :left] = (middle[:, 1 : left + 1] * fade)[:, ::-1]
    wide[:, left + n_times : 2 * left + n_times] = middle[:, ::-1][:, 1 : left + 1] * fade
    return wide, level


@lru_cache(maxsize=64)
def _fade(n_times: int) -> np.ndarray:
    """Weights float32 (time,) of an extension, from its end at 0: nothing, then up to 1 at the recording."""
    return np.cos(np.linspace(-np.pi / 2, np.pi / 2, n_times, dtype=np.float32).clip(0)) ** 2
