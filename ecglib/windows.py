"""Turn recordings into the rows of a cohort: which records are refused, what is repaired and marked, and the rest.

Refused (the record goes to rejected.csv): it cannot be read, whatever the error; a lead name is unknown; its rate has
no simple ratio to the study's; no wanted lead has a signal; a lead is partly missing beyond MAX_NAN_SHARE; the
amplitude is implausible (a unit slip).
Kept and marked: a flat or missing lead is zeros with its bit cleared in `lead_mask`; a shorter gap is interpolated and
sets the lead's bit in `gap_mask`; samples beyond +-32.767 mV are clipped and set the lead's bit in `clipped_mask`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ecglib import beats, preprocess, quality
from ecglib.signals import EcgError, Recording

MAX_NAN_SHARE = 0.2  # of the samples of a lead in the packed part; beyond it the record is refused
# Robust peak: of the strongest lead, below: volt read as millivolt, or no signal; of the median lead, above: microvolt
# read as millivolt, or noise alone.
MIN_PEAK_MV, MAX_PEAK_MV = quality.PLAUSIBLE_MV
PEAK_PERCENTILE = 99  # of |sample - median| in a lead: its robust peak
COUNTS_PER_MV = 1000  # one stored count is one microvolt
MARGIN_S = 1.0  # read beyond a first window, so that resampling has no edge at its end
MIN_FS = 60  # Hz; the R-peak detector filters up to 25 Hz
_LARGEST = np.iinfo(np.int16).max


@dataclass(frozen=True)
class Plan:
    """What a cohort stores: fs in Hz, window length in seconds, leads in order, windows "first" or "all"."""

    fs: float
    seconds: float
    leads: tuple[str, ...]
    windows: str

    @property
    def n_times(self) -> int:
        """Samples of a window."""
        return round(self.seconds * self.fs)


def examine(dataset_read, plan: Plan, rows: list[dict]) -> list[dict]:
    """Read each record once and say how many windows it gives, or why it is refused.

    Returns per record {"n_windows": int, "fs": Hz} or {"file", "field", "reason"}. Any error in reading one record
    refuses that record, with the type and message of the error; only a lack of memory, which says nothing about the
    record, ends the pack.
    """
    return [_examine(dataset_read, row, plan) for row in rows]


def _examine(dataset_read, row: dict, plan: Plan) -> dict:
    try:
        recording = dataset_read(row)
        preprocess.ratio(recording.fs, plan.fs)
        recording = checked(recording, plan)
    except MemoryError:
        raise
    except Exception as error:  # a corpus holds one bad record or another, of a kind that nobody thought of
        named = _named(error, row)
        return {"file": named.file, "field": named.field or "", "reason": named.reason}
    n_times = round(recording.signal.shape[1] * plan.fs / recording.fs)
    return {"n_windows": 1 if plan.windows == "first" else max(1, n_times // plan.n_times), "fs": recording.fs}


def _named(error: Exception, row: dict) -> EcgError:
    """The error with the file of the record; an error that is no EcgError keeps its type in the reason."""
    if isinstance(error, EcgError):
        return EcgError(error.reason, file=error.file or row["path"], field=error.field, fix=error.fix)
    return EcgError(f"{type(error).__name__}: {error}", file=row["path"])


def checked(recording: Recording, plan: Plan) -> Recording:
    """The wanted leads of the part that is packed; raises EcgError where the rules above refuse the recording."""
    recording = _selected(recording, plan)
    _check_gaps(recording)
    _check_amplitude(recording)
    return recording


def _selected(recording: Recording, plan: Plan) -> Recording:
    """The wanted leads of the part that is packed; raises EcgError where nothing of it has a signal."""
    recording = recording.select(plan.leads)
    if plan.windows == "first":
        recording = cut(recording, 0, plan.seconds)
    finite = np.isfinite(recording.signal)
    if not recording.signal.shape[1]:
        raise EcgError("zero length", field="signal")
    if not (finite.any(axis=1) & recording.lead_mask).any():
        raise EcgError("no wanted lead has a signal", field="signal", fix=f"leads wanted: {', '.join(plan.leads)}")
    return recording


def cut(recording: Recording, start: float, seconds: float) -> Recording:
    """The part from `start` on, in seconds; a lead without change in it loses its mark in lead_mask."""
    first, last = round(start * recording.fs), round((start + seconds) * recording.fs)
    signal = recording.signal[:, first:last]
    return replace(recording, signal=signal, lead_mask=recording.lead_mask & _moves(signal))


def _moves(signal: np.ndarray) -> np.ndarray:
    """Which leads (lead, time) hold at least two different finite values."""
    finite = np.isfinite(signal)
    low = np.where(finite, signal, np.inf).min(axis=1, initial=np.inf)
    return low < np.where(finite, signal, -np.inf).max(axis=1, initial=-np.inf)


def _check_gaps(recording: Recording) -> None:
    share = 1 - np.isfinite(recording.signal).mean(axis=1)
    share[~recording.lead_mask] = 0
    worst = int(share.argmax())
    if share[worst] > MAX_NAN_SHARE:
        lead = recording.leads[worst]
        raise EcgError(f"{share[worst]:.0%} of the samples of lead {lead} are missing", field="missing samples")


def _check_amplitude(recording: Recording) -> None:
    live = recording.signal[recording.lead_mask]
    complete = np.isfinite(live).all()  # the functions that skip NaN are several times slower
    median, percentile = (np.median, np.percentile) if complete else (np.nanmedian, np.nanpercentile)
    deviation = np.abs(live - median(live, axis=1, keepdims=True))
    peaks = percentile(deviation, PEAK_PERCENTILE, axis=1)
    if np.median(peaks) > MAX_PEAK_MV:
        raise EcgError(f"implausible amplitude: {np.median(peaks):.3g} mV", field="amplitude", fix="check the gain")
    if peaks.max() < MIN_PEAK_MV:
        raise EcgError(f"implausible amplitude: {peaks.max():.3g} mV", field="amplitude", fix="check the gain")


def write_rows(dataset_read, plan: Plan, rows: list[dict], first_rows: list[int], signals_path: str) -> list[dict]:
    """Read, prepare and write records straight into the memory map; `first_rows`: the row each record begins at.

    Returns one dict per window: start_s, n_valid, lead_mask, gap_mask, clipped_mask (bit i = lead i), peaks.
    Raises EcgError with the file of a record that `examine` accepted and that now fails.
    """
    signals = np.load(signals_path, mmap_mode="r+")
    out = []
    for row, first in zip(rows, first_rows, strict=True):
        try:
            windows = prepare(dataset_read(row), plan)
        except MemoryError:
            raise
        except Exception as error:  # it passed the first reading: the pack ends, but must say where
            raise _named(error, row) from error
        for k, (counts, facts) in enumerate(windows):
            signals[first + k] = counts
            out.append(facts)
    signals.flush()
    return out


def prepare(recording: Recording, plan: Plan, peaks: bool = True, n_windows: int = 0) -> list[tuple[np.ndarray, dict]]:
    """Return the windows of a recording: int16 microvolt (lead, n_times), zero-padded at the end, and their facts.

    peaks: look for R peaks too. n_windows: so many (0: as many as are full, one at least).
    """
    recording = recording.select(plan.leads)
    if plan.windows == "first":
        recording = cut(recording, 0, plan.seconds + MARGIN_S)
    signal = preprocess.resample(filled(recording), recording.fs, plan.fs)
    n_windows = n_windows or (1 if plan.windows == "first" else max(1, signal.shape[1] // plan.n_times))
    return [_window(recording, signal, k, plan, peaks) for k in range(n_windows)]


def _window(recording: Recording, signal: np.ndarray, k: int, plan: Plan, peaks: bool) -> tuple[np.ndarray, dict]:
    raw = cut(recording, k * plan.seconds, plan.seconds)
    x = signal[:, k * plan.n_times : (k + 1) * plan.n_times] * raw.lead_mask[:, None]
    n_valid = x.shape[1]
    microvolt = np.rint(x * COUNTS_PER_MV)
    counts = np.zeros((len(plan.leads), plan.n_times), np.int16)
    counts[:, :n_valid] = np.clip(microvolt, -_LARGEST, _LARGEST)
    stored = counts[:, :n_valid].astype(np.float32) / COUNTS_PER_MV
    found = beats.r_peaks(stored, plan.fs) if peaks and raw.lead_mask.any() else np.zeros(0, int)
    facts = {
        "start_s": k * plan.seconds,
        "n_valid": n_valid,
        "lead_mask": bits(raw.lead_mask),
        "gap_mask": bits(~np.isfinite(raw.signal).all(axis=1) & raw.lead_mask),
        "clipped_mask": bits((np.abs(microvolt) > _LARGEST).any(axis=1)),
        "peaks": np.asarray(found, np.int32),
    }
    return counts, facts


def filled(recording: Recording) -> np.ndarray:
    """Its signal, float32 (lead, time) in mV: gaps interpolated, zeros for a lead that is missing or does not move."""
    out = np.zeros_like(recording.signal)
    for i in np.flatnonzero(recording.lead_mask & _moves(recording.signal)):
        out[i] = without_gaps(recording.signal[i])
    return out


def without_gaps(lead: np.ndarray) -> np.ndarray:
    """Linear interpolation over non-finite samples; the nearest value at the ends."""
    finite = np.isfinite(lead)
    if finite.all():
        return lead
    at = np.arange(len(lead))
    return np.interp(at, at[finite], lead[finite]).astype(np.float32)


def bits(flags: np.ndarray) -> int:
    """Pack flags (lead,) into an integer, bit i for lead i."""
    return int((1 << np.flatnonzero(flags)).sum())


def unpack_bits(values: np.ndarray, n_leads: int) -> np.ndarray:
    """The reverse of `bits` for an array of integers: bool (..., lead)."""
    return (np.asarray(values, np.int64)[..., None] >> np.arange(n_leads) & 1).astype(bool)


def allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Write an int16 .npy of zeros, so that a full disk shows as an error here and not as a crash of a memory map."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i2", "fortran_order": False, "shape": shape})
        left = 2 * int(np.prod(shape))
        block = memoryview(bytes(1 << 22))
        while left:
            left -= file.write(block[: min(left, len(block))])
