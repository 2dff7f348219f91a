"""Recordings of one or two leads with every beat marked: corpora on disk, a simulated hospital, noise that is added.

Classes of beats after ANSI/AAMI EC57: N (normal, bundle branch block, escape of atrium or node), S (supraventricular
premature), V (ventricular), F (fusion of both), Q (paced, unclassifiable).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import annotations, wfdb_io
from ecglib.datasets import mitdb, nstdb, simulated
from ecglib.rhythm import stress_test

CLASSES = ("N", "S", "V", "F", "Q")
SYMBOLS = {"N": "NLRejnB", "S": "AaJS", "V": "VEr", "F": "F", "Q": "/fQ?"}  # symbols of beats in WFDB annotations
AAMI = {symbol: name for name, symbols in SYMBOLS.items() for symbol in symbols}
CORPORA = ("mitdb", "nstdb", "cpsc2021", "qtdb", "simulated")


@dataclass(frozen=True, eq=False)
class Annotated:
    """One recording and its beats.

    signal: float32 (lead, time) in mV; fs: Hz; leads: names, MLII as II
    r, symbol: sample and symbol of each beat (beat,)
    unscored: (first, last) samples in which no beat is marked although there are some
    half: part of the corpus that the recording is published in ("" where there is none)
    """

    record_id: str
    patient_id: str
    half: str
    signal: np.ndarray
    fs: float
    leads: tuple[str, ...]
    r: np.ndarray
    symbol: np.ndarray
    unscored: tuple[tuple[int, int], ...] = ()

    @property
    def classes(self) -> np.ndarray:
        """AAMI class of each beat (beat,)."""
        return np.array([AAMI[symbol] for symbol in self.symbol], dtype="<U1")


def recordings(corpus: str, root, *, hospital: str = "A", leads=("II", "V1"), limit: int = 0) -> Iterator[Annotated]:
    """Read the annotated recordings of a corpus one by one, so that one is in memory at a time.

    corpus: one of CORPORA; root: its folder; hospital, leads: of the simulated corpus; limit: how many (0: all), of the
    simulated corpus up to half of them such as hold beats that are not normal.
    Raises EcgError for an unknown corpus and where no annotated recording is there.
    """
    require_known("corpus", [corpus], CORPORA)
    if corpus == "simulated":
        yield from _simulated(root, hospital, leads, limit)
        return
    if corpus == "mitdb":
        table = mitdb.records(root)
    else:
        paths = sorted(path.with_suffix("") for path in Path(root).glob("*.atr"))
        if not paths:
            raise EcgError("no annotated recording is there", file=root, fix="fetch RECORD.hea, .dat and .atr")
        patients = [annotations.patient_of(corpus, path.name) for path in paths]
        table = pd.DataFrame({"path": paths, "patient_id": patients, "half": ""})
        table["record_id"] = [path.name for path in paths]
    for row in table.head(limit or len(table)).itertuples():
        yield _read(row)


def _read(row) -> Annotated:
    recording = wfdb_io.read(row.path, {"MLII": "II"})
    marks = annotations.read(f"{row.path}.atr")
    is_beat = marks.is_beat & (marks.samples < recording.signal.shape[1])
    starts, ends = (marks.samples[marks.symbols == sign].tolist() for sign in "[]")
    flutter = tuple(zip(starts, ends, strict=False))
    about = (row.record_id, row.patient_id, row.half)
    signal, r, symbols = np.nan_to_num(recording.signal), marks.samples[is_beat], marks.symbols[is_beat]
    return Annotated(*about, signal, recording.fs, recording.leads, r, symbols, flutter)


def _simulated(root, hospital: str, leads, limit: int) -> Iterator[Annotated]:
    table = simulated.records(root, hospital=hospital)
    beats = datasets.table(Path(root) / hospital / "beats.csv", ("record_id", "class", "r"), dtype={"record_id": str})
    of_record = {name: rows for name, rows in beats.groupby("record_id")}
    there = [name for name in leads if name in simulated.leads(hospital=hospital)]
    if not there:
        fix = f"leads there: {', '.join(simulated.leads(hospital=hospital))}"
        raise EcgError(f"hospital {hospital} records none of {', '.join(leads)}", field="leads", fix=fix)
    table = table[table.record_id.isin(of_record.keys())]
    if limit:
        table = _with_ectopy(table, set(beats.record_id[beats["class"] != "N"]), limit)
    for row in table.itertuples():
        recording, rows = simulated.read(row).select(there), of_record[row.record_id]
        about = (row.record_id, row.patient_id, row.split)
        symbol = rows["class"].to_numpy("<U1")
        yield Annotated(*about, recording.signal, recording.fs, recording.leads, rows.r.to_numpy(), symbol)


def _with_ectopy(table: pd.DataFrame, ectopic: set, limit: int) -> pd.DataFrame:
    """`limit` recordings in their order: up to half of them such as hold a beat that is not normal, of which few do."""
    rare = table.record_id.isin(ectopic)
    kept = pd.concat([table[rare].head(limit // 2), table[~rare].head(limit - min(limit // 2, int(rare.sum())))])
    return kept.sort_index()


def stressed(clean: Annotated, noise: np.ndarray, snr_db: float) -> Annotated:
    """Add noise to every lead of a clean recording as `stress_test.stressed` does.

    clean: recording; noise: (lead, time) in mV at its rate, as long as it is; snr_db: ratio in each lead.
    Returns the recording with the ratio in its name ("118e06" for 6 dB); what has no noise is unscored.
    Raises EcgError for noise that is too short.
    """
    n_leads, n_times = clean.signal.shape
    if noise.shape[0] < n_leads or noise.shape[1] < n_times:
        reason = f"noise {noise.shape} for a signal {clean.signal.shape}"
        raise EcgError(reason, field="noise", fix="give as many leads and samples of noise")
    pairs = zip(clean.signal, noise[:n_leads], strict=True)
    signal = np.stack([stress_test.stressed(x, clean.r, track, clean.fs, snr_db) for x, track in pairs])
    edges = [0, *(round(at * clean.fs) for span in nstdb.noisy_spans(n_times / clean.fs) for at in span), n_times]
    quiet = tuple((first, last) for first, last in zip(edges[::2], edges[1::2], strict=True) if last > first)
    record_id = f"{clean.record_id}e{nstdb.level(snr_db)}"
    return replace(clean, record_id=record_id, signal=signal, half=f"{snr_db:g} dB", unscored=quiet)


def under_noise(noise, snr_db, record_ids, **source) -> Iterator[Annotated]:
    """The named recordings of a corpus with noise at each ratio.

    noise: path of a WFDB record of noise, such as em of NSTDB; snr_db: ratios in dB; record_ids: names; source: as of
    `recordings`. Raises EcgError where a recording is not in the corpus, and as `stressed`.
    """
    noise, left = wfdb_io.read(noise).signal, set(record_ids)
    for clean in recordings(**source):
        if clean.record_id in left:
            left.discard(clean.record_id)
            for snr in snr_db:
                yield stressed(clean, noise, snr)
    if left:
        raise EcgError(f"no recording {', '.join(sorted(left))}", file=source.get("root"), field="record_ids")
