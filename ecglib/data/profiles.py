"""Named signal chains: which rate, pass band, scale and clipping a model or the study reads its signals with."""

from dataclasses import dataclass
from math import ceil

import numpy as np
import scipy

from ecglib import require_known
from ecglib.data.filters import butterworth, filtered


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

    def apply(self, x: np.ndarray, fs: float, tolerance: float = 0.0) -> np.ndarray:
        """x (..., lead, time) in mV at fs Hz -> float32 (..., lead, fs * seconds of the profile).

        NaN counts as 0; a longer signal is cut to its first `seconds`; a shorter one is normalised, then zero-padded.
        tolerance: of `filters.ratio`.
        """
        x = np.asarray(x, np.float32)[..., : ceil(self.seconds * fs)]
        if not np.isfinite(x.sum()):
            x = np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
        n_times = round(self.seconds * self.fs)
        if self.linear and fs != self.fs:
            x, fs = _linear(x, fs, self.fs), self.fs
        filters = (("notch", 30, float(self.notch)),) if self.notch and self.notch < fs / 2 else ()
        x = filtered(x, fs, self.fs, filters + butterworth(*self.band, fs, self.order), tolerance)[..., :n_times]
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
    rows = np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
    medians = np.stack([scipy.ndimage.median_filter(row, n_times, mode="reflect") for row in rows])
    return medians.reshape(x.shape)


# Standard deviation of each lead (I .. V6) over the training folds 1 to 8 of PTB-XL, mV; the means are within 0.002.
PTBXL_SD = (0.191, 0.166, 0.173, 0.142, 0.149, 0.147, 0.235, 0.338, 0.335, 0.299, 0.294, 0.242)
PROFILES = {
    chain.name: chain
    for chain in (
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
    require_known("profile", [name], sorted(PROFILES))
    return PROFILES[name]
