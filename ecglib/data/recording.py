"""One ECG: `Recording`, standard lead names, limb-lead algebra.

Signals are float32 millivolt, shape (lead, time). Leads are always mapped by name, never by position.
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from ecglib import EcgError

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
INDEPENDENT = (0, 1, 6, 7, 8, 9, 10, 11)  # rows of I, II, V1 .. V6 among LEADS; the others follow from I and II
_STANDARD = {name.lower(): name for name in LEADS}
_LEAD_NAME = re.compile(r"(?:mdc_ecg_lead_|(?:ecg|lead)[ _-]?)?(i{1,3}|av[rlf]|v[1-6])", re.IGNORECASE)


def canonical(name: str, file=None) -> str:
    """The standard name ("aVR") of a lead name in any common spelling ("AVR", "avr", "ecg_aVR", "Lead aVR").

    Doubtful names ("MLII", "-aVR", "ECG", "V7") are not guessed: they raise EcgError.
    """
    found = standard(str(name))
    if found is None:
        fix = f'say which of {", ".join(LEADS)} it is: lead_names={{"{name}": "II"}}, or "" to leave it out'
        raise EcgError(f"unknown lead name {name!r}", file=file, field="lead name", fix=fix)
    return found


@cache
def standard(name: str) -> str | None:
    """As `canonical`, but None for a doubtful name."""
    match = _LEAD_NAME.fullmatch(name.strip())
    return match and _STANDARD[match[1].lower()]


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
        if self.signal.ndim != 2 or not len(self.leads) == len(self.signal) == len(self.lead_mask):
            shapes = f"signal {self.signal.shape}, {len(self.leads)} names, {len(self.lead_mask)} mask entries"
            raise EcgError(f"leads do not fit the signal: {shapes}", file=self.record_id, field="leads")

    def select(self, leads) -> "Recording":
        """Return the named leads in the given order (any spelling of `canonical`).

        A lead that the recording lacks is zeros with False in `lead_mask`; III, aVR, aVL and aVF are computed from
        I and II where both are there. Raises EcgError for an unknown name and for a lead the recording has twice.
        """
        wanted = tuple(canonical(name) for name in leads)
        names = [standard(name) for name in self.leads]
        rows = {name: row for row, name in enumerate(names) if name}
        twice = [name for name in rows if names.count(name) > 1]
        if twice:
            raise EcgError(f"lead {twice[0]} appears twice", file=self.record_id, field="lead name")
        derived, both = {}, False
        if "I" in rows and "II" in rows:
            derived = limb(self.signal[rows["I"]], self.signal[rows["II"]])
            both = self.lead_mask[rows["I"]] and self.lead_mask[rows["II"]]
        signal = np.zeros((len(wanted), self.signal.shape[1]), np.float32)
        mask = np.zeros(len(wanted), bool)
        for row, name in enumerate(wanted):
            if name in rows:
                signal[row], mask[row] = self.signal[rows[name]], self.lead_mask[rows[name]]
            elif name in derived:
                signal[row], mask[row] = derived[name], both
        return replace(self, signal=signal, leads=wanted, lead_mask=mask)


def limb(lead_i, lead_ii) -> dict:
    """Return III, aVR, aVL, aVF (Einthoven 1912, Goldberger 1942) from I and II: arrays or tensors of any shape, mV."""
    return {
        "III": lead_ii - lead_i,
        "aVR": -(lead_i + lead_ii) / 2,
        "aVL": lead_i - lead_ii / 2,
        "aVF": lead_ii - lead_i / 2,
    }


def varies(signal: np.ndarray) -> np.ndarray:
    """Which leads (lead, time) hold at least two different finite values."""
    low, high = signal.min(axis=1, initial=np.inf), signal.max(axis=1, initial=-np.inf)
    if np.isfinite(low).all() and np.isfinite(high).all():  # then so is every sample
        return low < high
    finite = np.isfinite(signal)
    low = np.where(finite, signal, np.inf).min(axis=1, initial=np.inf)
    return low < np.where(finite, signal, -np.inf).max(axis=1, initial=-np.inf)


def record_path(path) -> Path:
    """Return the path of a record without its .hea, .dat or .mat extension."""
    path = Path(path)
    return path.with_suffix("") if path.suffix.lower() in (".hea", ".dat", ".mat") else path
