"""CPSC 2021: 1,436 pieces of Holter recordings of 105 people, leads I and II at 200 Hz, beats and fibrillation marked.

A row is a segment of `segment_s` seconds, one every `every_s` of a piece, and `read` takes that part of the file. Names
of records are data_PERSON_PIECE. "(AFIB" and "(AFL" begin an episode and "(N" ends it: N is whatever is neither, before
the first mark and in pieces without marks too, and need not be sinus rhythm. Half of the people have no fibrillation;
a comment of the header says which kind the others have. The official test set is not published.
Source: Wang et al. (2021), PhysioNet, doi:10.13026/ksya-qw89.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import annotations, files, marked_rhythms, splits, wfdb_io
from ecglib.data.annotations import Interval
from ecglib.data.long_recording import LongRecording
from ecglib.data.recording import Recording, varies

URL = "https://physionet.org/content/cpsc2021/1.0.0/"
VERSION = "1.0.0"
LICENCE = "PhysioNet open access"
CITATION = (
    "Wang et al. (2021), Paroxysmal atrial fibrillation events detection from dynamic ECG recordings: the 4th China "
    "Physiological Signal Challenge, PhysioNet"
)
N_RECORDS = 1436  # pieces, of which each gives several segments
FS = 200
LEADS = ("I", "II")
VOCABULARY = None
CORPUS = ""  # on no card of a published model
NAME = re.compile(r"data_\d+_\d+")
RHYTHMS = ("N", "AFIB", "AFL")
OF_RHYTHM = {"atrial_fibrillation": "AFIB", "atrial_flutter": "AFL"}
OF_BEATS = {"pac": "AaJS", "pvc": "V"}  # label -> symbols
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
NOTE = "the split by person is ours; a rhythm is that of more than half of a segment, a beat one that is in it"


def records(root, *, segment_s: float = 10.0, every_s: float = 60.0, seed: int = 0) -> pd.DataFrame:
    """List the segments of the pieces that are there, with a 60/20/20 split by person.

    segment_s: seconds of a segment; every_s: seconds from one start to the next. seed: of the split, which depends on
    the people that are there. Metadata: recording, segment_start_s, rhythm (that of more than half of the segment, or
    "mixed"), af_share (part in fibrillation or flutter), af_type (the diagnosis), n_pac, n_pvc. Raises EcgError where
    no piece is there.
    """
    root = Path(root).resolve()
    found = [path for path in files.walk(root) if path.suffix.lower() == ".atr" and NAME.fullmatch(path.stem)]
    marked = sorted((path.with_suffix("") for path in found), key=lambda path: path.name)
    if not marked:
        raise EcgError("no record here", file=root, field="records", fix="fetch Training_set_I or Training_set_II")
    whole = pd.DataFrame({"path": [str(path) for path in marked], "recording": [path.name for path in marked]})
    whole["patient_id"] = [annotations.patient_of("cpsc2021", name) for name in whole.recording]
    whole["split"] = splits.assign(whole, FRACTIONS, seed)
    whole.attrs["notes"] = [NOTE]
    whole = datasets.with_files(whole, root)
    parts = [_segments(one, segment_s, every_s) for one in whole.to_dict("records")]
    out = pd.concat(parts, ignore_index=True)
    out.attrs["notes"] = list(whole.attrs["notes"])
    return out


def labels(root, records: pd.DataFrame, **_) -> pd.DataFrame:
    """Whether fibrillation or flutter covers more than half of a segment, and whether it holds a premature beat."""
    columns = {name: (records.rhythm == mark).to_numpy(np.int8) for name, mark in OF_RHYTHM.items()}
    columns |= {name: (records[f"n_{name}"] > 0).to_numpy(np.int8) for name in OF_BEATS}
    return pd.DataFrame(columns, index=pd.Index(records.record_id, name="record_id"))


def read(row) -> Recording:
    """Read one segment of `records`, and no more of the file."""
    recording = LongRecording(datasets.cell(row, "path"))
    if missing := [lead for lead in LEADS if lead not in recording.leads]:
        reason = f"no lead {missing[0]} among {', '.join(recording.leads)}"
        raise EcgError(reason, file=recording.file, field="lead name", fix="fetch the record again")
    signal = marked_rhythms.read(recording, datasets.cell(row, "segment_start_s"), datasets.cell(row, "segment_s"))
    signal = signal[[recording.leads.index(lead) for lead in LEADS]]
    record_id, patient_id = (str(datasets.cell(row, key)) for key in ("record_id", "patient_id"))
    return Recording(signal, recording.fs, LEADS, varies(signal), record_id, patient_id)


def _segments(one: dict, segment_s: float, every_s: float) -> pd.DataFrame:
    """The whole segments of a piece, with rhythm and beats of each."""
    recording, marks = LongRecording(one["path"]), annotations.read(files.beside(one["path"], ".atr"))
    start = marked_rhythms.starts(recording, segment_s, every_s)
    out = pd.DataFrame({"record_id": [f"{one['recording']}-{round(at):05d}" for at in start]})
    out = out.assign(patient_id=one["patient_id"], path=one["path"], split=one["split"], age=np.nan, sex="", report="")
    out = out.assign(recording=one["recording"], segment_start_s=start, segment_s=float(segment_s))
    rhythms = _rhythms(marks, recording, f"{one['path']}.atr")
    share = marked_rhythms.shares(rhythms, start, segment_s, RHYTHMS)
    out["rhythm"] = share.idxmax(axis=1).where(share.max(axis=1) > 0.5, marked_rhythms.MIXED)
    out["af_share"] = share["AFIB"] + share["AFL"]
    out["af_type"] = " ".join(wfdb_io.comments(one["path"]))
    for name, symbols in OF_BEATS.items():
        at = np.sort(marks.samples[np.isin(marks.symbols, list(symbols))]) / recording.fs
        out[f"n_{name}"] = np.searchsorted(at, start + segment_s) - np.searchsorted(at, start)
    return out


def _rhythms(marks: annotations.Annotations, recording: LongRecording, path: str) -> list[Interval]:
    """Rhythms in seconds from the start of a piece to its end, N before the first mark; EcgError for another mark."""
    found = annotations.rhythms(marks, recording.n_times)
    require_known("rhythm", sorted({mark.label for mark in found}), RHYTHMS, "rhythm", path)
    first = found[0].start if found else recording.n_times
    found = [Interval(0, first, "N"), *found] if first else found
    return [Interval(start / recording.fs, end / recording.fs, label) for start, end, label in found]
