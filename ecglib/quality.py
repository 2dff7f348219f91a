"""Signal quality of one recording in numbers: what is flat, clipped, missing, drifting, or of impossible size."""

import numpy as np

from ecglib.preprocess import bandpass
from ecglib.signals import LEADS, Recording, einthoven_residual

# Size of a lead: real ones are 0.3 to 11 mV (wearables with motion), unit slips 1000 times. The limits of packing too.
PLAUSIBLE_MV = (0.02, 20.0)
CLIPPED_SHARE, CLIPPED_RUN = 0.002, 4  # share of samples at an extreme, in runs of at least this many


def assess(recording: Recording) -> dict:
    """Describe a recording; raises nothing, decides nothing.

    flat_leads, clipped_leads: names joined by blanks (flat: constant or no samples; clipped: runs at the extreme
    values); n_flat, n_clipped: how many; nan_share: share of missing samples over all leads; longest_gap_s: longest
    run of them in seconds; amplitude_mv: median over the usable leads of the range from the 0.1st to the 99.9th
    percentile; peak_mv: largest magnitude; drift_mv: median over leads of the standard deviation below 0.5 Hz;
    einthoven_mv: see `signals.einthoven_residual` (NaN unless all twelve leads are there); implausible: amplitude_mv
    outside PLAUSIBLE_MV, which is what a slip between microvolt and millivolt looks like (a gain that is wrong by 5, as
    in the PTB-XL part of CinC 2020, shows only in the median amplitude of a corpus: 6 mV instead of 1.2).
    """
    x = np.asarray(recording.signal, np.float32)
    missing = ~np.isfinite(x)
    filled = np.where(missing, 0, x)
    usable = (np.ptp(filled, axis=-1) > 0) & ~missing.all(axis=-1) if x.size else np.zeros(len(x), bool)
    clipped = np.array([_is_clipped(row) for row in filled[usable]], bool)
    names = np.array(recording.leads, dtype=object)
    size = np.ptp(np.quantile(filled[usable], [0.001, 0.999], axis=-1), axis=0) if usable.any() else np.zeros(1)
    amplitude = float(np.median(size))
    return dict(
        n_flat=int((~usable).sum()),
        flat_leads=" ".join(names[~usable]),
        n_clipped=int(clipped.sum()),
        clipped_leads=" ".join(names[usable][clipped]),
        nan_share=float(missing.mean()) if x.size else 1.0,
        longest_gap_s=max((_longest_run(row) for row in missing), default=0) / recording.fs,
        amplitude_mv=amplitude,
        peak_mv=float(abs(filled).max()) if x.size else 0.0,
        drift_mv=_drift(filled[usable], recording.fs) if usable.any() else 0.0,
        einthoven_mv=_einthoven(recording),
        implausible=bool(usable.any() and not PLAUSIBLE_MV[0] <= amplitude <= PLAUSIBLE_MV[1]),
    )


def _longest_run(mask: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _is_clipped(row: np.ndarray) -> bool:
    """True where a telling share of the samples sits in runs at the lead's own largest or smallest value."""
    for extreme in (row.max(), row.min()):
        at = row == extreme
        if at.mean() > CLIPPED_SHARE and _longest_run(at) >= CLIPPED_RUN:
            return True
    return False


def _drift(x: np.ndarray, fs: float) -> float:
    """Median over leads of the standard deviation below 0.5 Hz, mV."""
    return float(np.median(bandpass(x, fs, None, 0.5, order=2).std(axis=-1))) if fs > 2 else 0.0


def _einthoven(recording: Recording) -> float:
    if not set(LEADS) <= set(recording.leads):
        return float("nan")
    rows = [recording.leads.index(name) for name in LEADS]
    signal = recording.signal[rows]
    return einthoven_residual(signal) if np.isfinite(signal).any(axis=0).any() else float("nan")
