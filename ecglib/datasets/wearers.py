"""Simulated patients with a pulse sensor at the wrist: lead I of their ECG, or the pulse wave (PPG) of the same beats.

The hospital's own table of beats says when the ventricles contract; this file says what of it reaches the wrist, with a
shape and effects that we chose. A beat arrives 0.18 to 0.30 s after its R peak (by record), as a systolic wave and its
reflection; it is smaller the shorter the heart had to fill (a share 1 - exp(-(RR - 0.25 s) / 0.25 s) of a full one), so
that an early beat may hardly be felt. Breathing moves the baseline and the size; there is noise, and in a
third of the records the arm moves for some seconds with waves as large as the pulse. What a pulse wave shows of atrial
fibrillation is therefore the irregular arrival and size of its waves; no P or f wave reaches the wrist.
The wave is written in arbitrary units where millivolts would stand, and takes the place of lead I.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data.recording import Recording

URL = "https://doi.org/10.1155/2007/43407"  # the ECGs behind it; the data are made by `python -m ecglib generate`
VERSION = "1"
LICENCE = "MIT"
CITATION = "Simulated: beats of a hospital of `ecgsim`, pulse waves as described here"
N_RECORDS = None
FS = None  # PULSE_FS, or that of the hospital's ECG
LEADS = ("I",)
VOCABULARY = "scp"
CORPUS = ""
SIGNALS = ("pulse", "ecg")
PULSE_FS = 64  # Hz, of wrist sensors
HOSPITALS = ("A", "B", "C")
LEFT_OUT = ("pretrain",)  # split whose ECGs have taught an encoder what fibrillation looks like


def records(root, *, hospital: str = "A", signal: str = "pulse") -> pd.DataFrame:
    """List the records of a hospital below `root` (the folder data/) but those of the split "pretrain".

    signal: "pulse", or "ecg" for lead I. Raises EcgError for another signal or hospital, and a missing table.
    """
    require_known("signal", [signal], SIGNALS)
    folder = _folder(root, hospital)
    needs = ("record_id", "patient_id", "path", "split", "age", "sex")
    db = datasets.table(folder / "records.csv", needs, dtype={"record_id": str, "patient_id": str})
    db = db[~db.split.isin(LEFT_OUT)].reset_index(drop=True)
    out = db[["record_id", "patient_id"]].assign(path=[str(folder / path) for path in db.path], split=db.split)
    return out.assign(age=db.age.astype(float), sex=db.sex.fillna(""), report="", signal=signal)


def labels(root, records: pd.DataFrame, *, hospital: str = "A", **_) -> pd.DataFrame:
    """The states of AFIB and SR, the rhythms that are told apart by a pulse."""
    path = _folder(root, hospital) / "labels.csv"
    states = datasets.table(path, ("record_id", "AFIB", "SR"), dtype={"record_id": str}).set_index("record_id")
    if not set(records.record_id) <= set(states.index):
        raise EcgError("records without labels", file=path, field="record_id", fix="generate the data again")
    return states.loc[list(records.record_id), ["AFIB", "SR"]].astype(np.int8)


def read(row) -> Recording:
    """Read lead I of a record, or render its pulse wave: the same numbers whenever it is asked for."""
    recording = datasets.load(row, rename={"ECG": "I"})
    if datasets.cell(row, "signal") == "ecg":
        return recording
    folder = Path(datasets.cell(row, "path")).parents[2]
    r = _beats(str(folder / "beats.csv")).get(recording.record_id, np.zeros(0)) / recording.fs
    seconds = recording.signal.shape[1] / recording.fs
    wave = pulse_wave(r, round(seconds * PULSE_FS), _generator(recording.record_id))
    return Recording(wave[None], PULSE_FS, ("I",), np.ones(1, bool), recording.record_id, recording.patient_id)


def pulse_wave(r: np.ndarray, n_times: int, random: np.random.Generator) -> np.ndarray:
    """A pulse wave, float32 (time,) at PULSE_FS, of beats whose R peaks are at `r` (beat,), seconds; see above."""
    t = np.arange(n_times) / PULSE_FS
    delay, breath, phase, size = random.uniform([0.18, 0.2, 0, 0.3], [0.30, 0.3, 2 * np.pi, 0.6])
    breathing = np.sin(2 * np.pi * breath * t + phase)
    filling = np.diff(r, prepend=r[:1] - (np.median(np.diff(r)) if len(r) > 1 else 1.0))
    strength = 1 - np.exp(-np.clip(filling - 0.25, 0.02, None) / 0.25)
    after = t[None] - (r + delay)[:, None]  # (beat, time)
    beats = np.exp(-(((after - 0.12) / 0.07) ** 2)) + 0.45 * np.exp(-(((after - 0.36) / 0.11) ** 2))
    wave = size * (1 + 0.1 * breathing) * (strength[:, None] * beats).sum(0)
    wave += 0.15 * size * breathing + 0.03 * size * random.standard_normal(n_times)
    start, moves = random.uniform(0, max(t[-1] - 4, 0)), random.random() < 1 / 3
    sway = np.sin(2 * np.pi * np.cumsum(random.uniform(0.8, 3.0, n_times)) / PULSE_FS)
    arm = moves * np.exp(-(((t - start - 2) / 1.5) ** 2))
    return (wave + size * arm * sway).astype(np.float32)


def _folder(root, hospital: str) -> Path:
    require_known("hospital", [hospital], HOSPITALS)
    return Path(root).resolve() / hospital


@lru_cache(maxsize=2)
def _beats(path: str) -> dict:
    """R peaks (samples) of each record of a table of beats."""
    table = datasets.table(Path(path), ("record_id", "r"), dtype={"record_id": str})
    if table.r.isna().any():
        raise EcgError("a beat without its R peak", file=path, field="r", fix="generate the data again")
    return {name: rows.to_numpy(float) for name, rows in table.groupby("record_id").r}


def _generator(record_id: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(record_id.encode()).digest()[:8], "big"))
