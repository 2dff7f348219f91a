"""From millivolt to what a network reads: new rate, pass band, scale, bundled per model as a versioned `Profile`.

Filters and resampling share one forward and one inverse FFT. The zero-phase response is the squared magnitude of the
digital filter, so that the result equals `scipy.signal.sosfiltfilt` away from the edges. FFT methods wrap around:
every signal is extended by even reflection about its mean, faded out, and cut back afterwards.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil, inf

import numpy as np
from scipy import fft, ndimage, signal

from ecglib.signals import EcgError

EDGE_S = 2.0  # seconds of extension on each side, enough for a 0.5 Hz high-pass to settle
MAX_FACTOR = 10000  # of up and down: one block of the FFT holds that many samples


def resample(x: np.ndarray, fs_in: float, fs_out: float) -> np.ndarray:
    """Resample along the last axis: x (..., time) -> float32 (..., round(time * fs_out / fs_in)); sample k at k/fs_out.

    Band-limited interpolation; going down, everything from half the new rate upwards is removed. Raises EcgError for
    rates that are not positive or have no simple ratio, and for non-finite values.
    """
    return _filtered(x, fs_in, fs_out, ())


def ratio(fs_in: float, fs_out: float) -> tuple[int, int]:
    """The factors (up, down) that take fs_in to fs_out, Hz; raises EcgError where `resample` cannot go."""
    if not (0 < fs_in < inf and 0 < fs_out < inf):
        raise EcgError(f"sampling rates must be positive, got {fs_in} and {fs_out}", field="fs")
    before, after = (Fraction(fs).limit_denominator(1000) for fs in (fs_in, fs_out))
    up, down = (after / before).as_integer_ratio() if before and after else (0, 0)
    if not (0 < up <= MAX_FACTOR and down <= MAX_FACTOR):
        raise EcgError(f"no simple ratio between {fs_in} and {fs_out} Hz", field="fs", fix="round the rates")
    return up, down


def bandpass(x: np.ndarray, fs: float, low: float | None, high: float | None, order: int = 3) -> np.ndarray:
    """Zero-phase Butterworth band-pass (Hz) along the last axis, x (..., time) -> float32 of the same shape.

    Applied forwards and backwards as `sosfiltfilt` does (half the power is lost twice at the edge frequencies).
    low None: low-pass; high None, or at and above fs/2: high-pass. Raises EcgError for a band that is empty.
    """
    return _filtered(x, fs, fs, _butterworth(low, high, fs, order))


def _butterworth(low, high, fs, order) -> tuple:
    """One filter description (kind, order, frequencies) or none."""
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
    frequency = fft.rfftfreq(n_times, 1 / fs)
    response = np.ones(len(frequency))
    for kind, order, edges in filters:
        if kind == "notch":
            sos = signal.tf2sos(*signal.iirnotch(edges, order, fs))  # order is the quality factor here
        else:
            sos = signal.butter(order, edges if len(edges) == 2 else edges[0], kind, fs=fs, output="sos")
        response *= abs(signal.sosfreqz(sos, frequency, fs=fs)[1]) ** 2
    return response.astype(np.float32)


def _filtered(x, fs_in: float, fs_out: float, filters: tuple) -> np.ndarray:
    """Filter and resample x (..., time) with one FFT there and one back; rows in chunks that fit the cache."""
    x = np.asarray(x, np.float32)
    (up, down), n_times = ratio(fs_in, fs_out), x.shape[-1]
    if n_times < 2 or (up == down and not filters):
        return x.copy()
    left = min(ceil(EDGE_S * fs_in / down), (n_times - 1) // down) * down  # the new grid keeps sample 0
    blocks = fft.next_fast_len(ceil((n_times + 2 * left) / down), real=True)
    rows = x.reshape(-1, n_times)
    out = np.empty((len(rows), round(n_times * up / down)), np.float32)
    step = max(1, 150_000 // (blocks * max(up, down)))
    for start in range(0, len(rows), step):
        out[start : start + step] = _rows_filtered(rows[start : start + step], left, blocks, up, down, filters, fs_in)
    return out.reshape(*x.shape[:-1], -1)


def _rows_filtered(rows, left, blocks, up, down, filters, fs) -> np.ndarray:
    """Extend, transform, multiply, transform back at the new rate, cut: (row, time) -> (row, new time)."""
    n_times, n_new = rows.shape[-1], blocks * up
    wide, level = _extended(rows, left, blocks * down)
    spectrum = fft.rfft(wide, axis=-1, overwrite_x=True)
    if filters:
        spectrum *= _response(filters, blocks * down, float(fs))
    if up < down:
        spectrum = spectrum[:, : n_new // 2 + 1]
        spectrum[:, (n_new + 1) // 2 :] = 0  # the bin at half the new rate is ambiguous
    start, n_out = left * up // down, round(n_times * up / down)
    y = fft.irfft(spectrum, n_new, axis=-1, overwrite_x=True)[:, start : start + n_out]
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
    fade = np.cos(np.linspace(-np.pi / 2, np.pi / 2, left, dtype=np.float32).clip(0)) ** 2
    wide[:, :left] = (middle[:, 1 : left + 1] * fade)[:, ::-1]
    wide[:, left + n_times : 2 * left + n_times] = middle[:, ::-1][:, 1 : left + 1] * fade
    return wide, level


@dataclass(frozen=True)
class Profile:
    """What one model expects: fs (Hz), seconds, band (low, high) in Hz, notch (Hz), normalisation; see `apply`.

    order: of the Butterworth band-pass; linear: resample by linear interpolation; median_s: running median to subtract,
    seconds; normalise: "none", z-score per "record" (all leads together) or per "lead", or "range": all leads together
    to 0..1; scale: divisor in mV, one or one per lead; clip: largest magnitude after scaling (0 = no clipping).
    """

    name: str
    version: str
    fs: float
    seconds: float
    band: tuple[float | None, float | None] = (None, None)
    order: int = 3
    notch: float | None = None
    linear: bool = False
    median_s: float = 0.0
    normalise: str = "none"
    scale: float | tuple[float, ...] = 1.0
    clip: float = 0.0
    eps: float = 1e-8

    def apply(self, x: np.ndarray, fs: float) -> np.ndarray:
        """x (..., lead, time) in mV at fs Hz -> float32 (..., lead, fs * seconds of the profile).

        NaN counts as 0; a longer signal is cut to its first `seconds`; a shorter one is normalised, then zero-padded.
        """
        x = np.asarray(x, np.float32)[..., : ceil(self.seconds * fs)]
        if not np.isfinite(x.sum()):
            x = np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
        n_times = round(self.seconds * self.fs)
        if self.linear and fs != self.fs:
            x, fs = _linear(x, fs, self.fs), self.fs
        filters = (("notch", 30, float(self.notch)),) if self.notch and self.notch < fs / 2 else ()
        x = _filtered(x, fs, self.fs, filters + _butterworth(*self.band, fs, self.order))[..., :n_times]
        if self.median_s:
            x -= _running_median(x, round(self.median_s * self.fs) + 1)
        x = normalised(x, self.normalise, self.eps)
        if self.scale != 1:
            x *= (1 / np.atleast_1d(self.scale)).astype(np.float32)[:, None]
        if self.clip:
            np.clip(x, -self.clip, self.clip, out=x)
        missing = n_times - x.shape[-1]
        return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def normalised(x: np.ndarray, how: str, eps: float = 1e-8) -> np.ndarray:
    """x (..., lead, time) on the scale that `Profile.normalise` names: computed in float64, returned as float32."""
    if how == "none":
        return x
    axes = (-1,) if how == "lead" else (-2, -1)
    x = np.asarray(x, np.float64)
    if how == "range":
        low, high = (end(axis=axes, keepdims=True) for end in (x.min, x.max))
        return ((x - low) / (high - low + eps)).astype(np.float32)
    x = x - x.mean(axis=axes, keepdims=True)
    return (x / (x.std(axis=axes, keepdims=True) + eps)).astype(np.float32)


def _linear(x: np.ndarray, fs_in: float, fs_out: float) -> np.ndarray:
    """Linear interpolation along the last axis (only for profiles that ask for it: it aliases going down)."""
    last = x.shape[-1] - 1
    at = np.minimum(np.arange(round(x.shape[-1] * fs_out / fs_in)) * (fs_in / fs_out), last)
    left = np.minimum(at.astype(int), max(last - 1, 0))
    weight = (at - left).astype(np.float32)
    return x[..., left] * (1 - weight) + x[..., np.minimum(left + 1, last)] * weight


def _running_median(x: np.ndarray, n_times: int) -> np.ndarray:
    """Median over n_times samples (odd) around each sample, the edges extended by reflection."""
    rows = np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
    medians = np.stack([ndimage.median_filter(row, n_times, mode="reflect") for row in rows])
    return medians.reshape(x.shape)


# Standard deviation of each lead (I .. V6) over the training folds 1 to 8 of PTB-XL, mV; the means are within 0.002.
PTBXL_SD = (0.191, 0.166, 0.173, 0.142, 0.149, 0.147, 0.235, 0.338, 0.335, 0.299, 0.294, 0.242)

PROFILES = {
    one.name: one
    for one in (
        Profile("study", "1", 100, 10, band=(0.5, 40.0), scale=0.2, clip=25.0),
        # ECGFounder (arXiv 2410.04133) publishes three chains; the first is the one its code runs
        Profile("ecgfounder-code", "1", 500, 10, (0.67, 40.0), 4, notch=50.0, median_s=0.4, normalise="record"),
        Profile("ecgfounder-paper", "1", 500, 10, (0.5, 50.0), 2, notch=50.0, linear=True, normalise="record"),
        Profile("ecgfounder-zeroshot", "1", 500, 10, normalise="record"),
        # one for each other model of ecglib.zoo; their cards say where paper and code disagree
        Profile("clef", "1", 500, 10, (0.67, 40.0), 5, normalise="lead"),
        Profile("ecgfm", "1", 500, 10, linear=True, normalise="lead"),
        Profile("ecgjepa-kim", "1", 250, 10),
        Profile("ecgjepa-weimann", "1", 500, 10, scale=PTBXL_SD, clip=5.0),
        Profile("heartlang", "1", 100, 10, (0.67, 40.0), 5),
        Profile("merl", "1", 500, 10, normalise="range"),
        Profile("melp", "1", 500, 10, normalise="range"),
        Profile("stmem", "1", 250, 9, (0.67, 40.0), normalise="record"),
    )
}


def profile(name: str) -> Profile:
    """The registered profile of that name; raises EcgError that lists the names. Vary one with dataclasses.replace."""
    if name not in PROFILES:
        raise EcgError(f"no profile {name!r}", field="profile", fix=f"use one of: {', '.join(sorted(PROFILES))}")
    return PROFILES[name]
