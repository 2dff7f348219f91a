"""MIT-BIH Noise Stress Test Database: records 118 and 119 of MIT-BIH with electrode motion added at six levels.

Twelve half hours of two leads at 360 Hz (118e24: 24 dB ... 118e_6: -6 dB) of two people, and the noise itself: baseline
wander `bw`, electrode motion `em`, muscle `ma`, without an ECG. The first five minutes of each of the twelve are clean,
then two noisy and two clean minutes alternate (`noisy_spans`). Beats are those of MIT-BIH, whatever the noise hides.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import datasets
from ecglib.data import labels as vocabulary
from ecglib.data.recording import Recording

URL = "https://physionet.org/content/nstdb/1.0.0/"
VERSION = "1.0.0"
LICENCE = "ODC-By 1.0"
CITATION = (
    "Moody, Muldrow and Mark (1984), A noise stress test for arrhythmia detectors, Computers in Cardiology 11:381-384"
)
N_RECORDS = 12
FS = 360
LEADS = ("II", "V1")
VOCABULARY = None
CORPUS = ""  # no published model names it
PATIENTS = ("118", "119")
SNR_DB = (24, 18, 12, 6, 0, -6)
CLEAN_S, TURN_S = 300.0, 120.0  # seconds: the clean beginning, and each part after it
NOTE = "two people: no interval over patients means anything here"


def records(root) -> pd.DataFrame:
    """List the ECGs with noise: patient_id (the record of MIT-BIH) and snr_db of the noisy parts.

    Listed are those of the file RECORDS, where it is there, or all twelve; a note counts those without files.
    """
    root = Path(root).resolve()
    listed = root / "RECORDS"
    known = {f"{patient}e{level(snr)}": (patient, float(snr)) for patient in PATIENTS for snr in SNR_DB}
    ids = [name for name in listed.read_text("utf-8").split() if name in known] if listed.is_file() else list(known)
    out = pd.DataFrame({"record_id": ids, "patient_id": [known[name][0] for name in ids]})
    out = out.assign(path=[str(root / name) for name in ids], split="", age=np.nan, sex="", report="")
    out["snr_db"] = [known[name][1] for name in ids]
    out.attrs["notes"] = [NOTE]
    return datasets.with_files(out, listed)


def level(snr_db: float) -> str:
    """How names of records write a level in whole dB: 24, 06, _6 for -6."""
    snr_db = round(snr_db)
    return f"_{-snr_db}" if snr_db < 0 else f"{snr_db:02d}"


def labels(root, records: pd.DataFrame) -> pd.DataFrame:
    """`noisy`: PRESENT for every record, whose noisy parts are those of `noisy_spans`."""
    states = pd.DataFrame({"noisy": np.full(len(records), vocabulary.PRESENT, np.int8)}, index=records.record_id)
    return states.rename_axis("record_id")


def read(row) -> Recording:
    """Read one record of `records`: its modified lead II (MLII) stands under II."""
    return datasets.load(row, rename={"MLII": "II"})


def noisy_spans(seconds: float) -> list[tuple[float, float]]:
    """Where noise was added in a record that lasts `seconds`: (start, end) in s, rising."""
    starts = np.arange(CLEAN_S, seconds, 2 * TURN_S)
    return [(float(start), float(min(start + TURN_S, seconds))) for start in starts]
