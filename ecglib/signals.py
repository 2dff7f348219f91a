"""The contract every room speaks: `Recording`, standard lead names, limb-lead algebra, and the error for bad input.

Signals are float32 millivolt, shape (lead, time). Leads are always mapped by name, never by position.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
INDEPENDENT = (0, 1, 6, 7, 8, 9, 10, 11)  # rows of I, II, V1 .. V6 among LEADS; the others follow from I and II

_STANDARD = {name.lower(): name for name in LEADS}
_LEAD_NAME = re.compile(r"(?:mdc_ecg_lead_|(?:ecg|lead)[ _-]?)?(i{1,3}|av[rlf]|v[1-6])", re.IGNORECASE)


class EcgError(ValueError):
    """Bad input: says what is wrong, in which file and field, and what to do about it."""

    def __init__(self, reason: str, *, file=None, field: str | None = None, fix: str | None = None):
        self.reason, self.field, self.fix = reason, field, fix
        self.file = None if file is None else str(file)
        place = " ".join(part for part in (self.file and f"{self.file}:", field and f"[{field}]") if part)
        super().__init__(" ".join(part for part in (place, reason, fix and f"-> {fix}") if part))

    def __reduce__(self):
        """Keep every field when a worker process hands the error back."""
        return _rebuild_error, (self.reason, self.file, self.field, self.fix)


def _rebuild_error(reason, file, field, fix) -> EcgError:
    return EcgError(reason, file=file, field=field, fix=fix)


def canonical(name: str) -> str:
    """Return the standard name ("aVR") of a lead name in any common spelling ("AVR", "avr", "ecg_aVR", "Lead aVR").

    Doubtful names ("MLII", "-aVR", "ECG", "V7") are not guessed: they raise EcgError.
    """
    match = _LEAD_NAME.fullmatch(str(name).strip())
    if match is None:
        raise EcgError(f"unknown lead name {name!r}", field="lead name", fix=f"rename it to one of {', '.join(LEADS)}")
    return _STANDARD[match.group(1).lower()]


@dataclass(frozen=True, eq=False)
class Recording:
    """One ECG. signal: float32 (lead, time) in mV; fs in Hz; lead_mask: bool (lead,), False = not usable."""

    signal: np.ndarray
    fs: float
    leads: tuple[str, ...]
    lead_mask: np.ndarray
    record_id: str
    patient_id: str | None = None
    comments: tuple[str, ...] = ()

    def __post_init__(self):
        if self.signal.ndim != 2 or len(self.leads) != len(self.signal) or len(self.lead_mask) != len(self.signal):
            shapes = f"signal {self.signal.shape}, {len(self.leads)} names, {len(self.lead_mask)} mask entries"
            raise EcgError(f"leads do not fit the signal: {shapes}", file=self.record_id, field="leads")

    def select(self, leads) -> "Recording":
        """Return the named leads in the given order (any spelling of `canonical`).

        A lead that the recording lacks is zeros with False in `lead_mask`; III, aVR, aVL and aVF are computed from
        I and II where both are there. Raises EcgError for an unknown name and for a lead the recording has twice.
        """
        wanted = tuple(canonical(name) for name in leads)
        rows = self._rows()
        derived = {}
        if "I" in rows and "II" in rows:
            derived = limb(self.signal[rows["I"]], self.signal[rows["II"]])
        both = all(self.lead_mask[rows[name]] for name in ("I", "II")) if derived else False
        signal = np.zeros((len(wanted), self.signal.shape[1]), np.float32)
        mask = np.zeros(len(wanted), bool)
        for row, name in enumerate(wanted):
            if name in rows:
                signal[row], mask[row] = self.signal[rows[name]], self.lead_mask[rows[name]]
            elif name in derived:
                signal[row], mask[row] = derived[name], both
        return replace(self, signal=signal, leads=wanted, lead_mask=mask)

    def _rows(self) -> dict[str, int]:
        """Row of every standard lead; raises EcgError when a standard lead appears twice."""
        rows = {}
        for row, name in enumerate(self.leads):
            if not _LEAD_NAME.fullmatch(name):
                continue
            if canonical(name) in rows:
                raise EcgError(f"lead {canonical(name)} appears twice", file=self.record_id, field="lead name")
            rows[canonical(name)] = row
        return rows


def limb(lead_i, lead_ii) -> dict:
    """Return III, aVR, aVL, aVF (Einthoven 1912, Goldberger 1942) from I and II: arrays or tensors of any shape, mV."""
    return {
        "III": lead_ii - lead_i,
        "aVR": -(lead_i + lead_ii) / 2,
        "aVL": lead_i - lead_ii / 2,
        "aVF": lead_ii - lead_i / 2,
    }


def einthoven_residual(signal12: np.ndarray) -> float:
    """Return how far twelve leads (lead, time), mV, in standard order, are from the limb-lead identities, in mV.

    It is the largest root-mean-square error over III, aVR, aVL and aVF: rounding (about 1e-3) when the leads are what
    their names say, several hundredths and more when two limb leads are swapped.
    """
    signal = np.asarray(signal12, np.float64)
    if signal.shape[0] != len(LEADS):
        raise EcgError(f"needs {len(LEADS)} leads, got {signal.shape[0]}", field="leads", fix="use Recording.select")
    implied = limb(signal[0], signal[1])
    errors = [np.sqrt(np.nanmean((signal[LEADS.index(name)] - values) ** 2)) for name, values in implied.items()]
    return float(max(errors))


def record_path(path) -> Path:
    """Return the path of a record without its .hea, .dat or .mat extension."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".hea", ".dat", ".mat") else path
