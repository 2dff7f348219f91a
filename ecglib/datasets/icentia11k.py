"""Icentia11k: one lead at 250 Hz of 11,000 people, up to two weeks each, in records of about an hour; beats, rhythms.

Records lie as p00/p00000/p00000_s00: a person, and the number of the record. A row is a segment of `segment_s`
seconds, one every `every_s` of a record, and `read` takes that part of the file. The sensor is worn in a modified lead
I: its one channel stands under I, whatever the header calls it.

The annotations hold beats (N; S premature atrial, a the same with aberration; V premature ventricular; Q unclassified)
and rhythms: "(N", "(AFIB" and "(AFL" begin one, ")" ends it. Outside of a rhythm nothing is known. Neither age nor sex
of a person is published.
Source: Tan et al. (2022), PhysioNet, doi:10.13026/kk0v-r952.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import annotations, files, marked_rhythms, splits, wfdb_io
from ecglib.data import labels as vocabulary
from ecglib.data.annotations import Interval
from ecglib.data.long_recording import LongRecording
from ecglib.data.recording import Recording, varies

URL = "https://physionet.org/content/icentia11k-continuous-ecg/1.0/"
VERSION = "1.0"
LICENCE = "CC BY-NC-SA 4.0"
CITATION = (
    "Tan et al. (2021), Icentia11K: an unsupervised representation learning dataset for arrhythmia subtype discovery, "
    "Computing in Cardiology 48"
)
N_RECORDS = None  # as many as a part holds: 11,000 people with up to 50 records, each of which gives many segments
FS = 250
LEADS = ("I",)
VOCABULARY = None
CORPUS = ""  # on no card of a published model
NAME = re.compile(r"(p\d{5})_s\d{2}")
RHYTHMS = ("N", "AFIB", "AFL")
OF_RHYTHM = {"atrial_fibrillation": "AFIB", "atrial_flutter": "AFL"}
OF_BEATS = {"pac": "Sa", "pvc": "V"}  # label -> symbols
ANY_BEAT = "NSaVQ"
UNMARKED = "unknown"  # no rhythm is marked in more than half of a segment
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
NOTE = "the split by person is ours; a rhythm is that of more than half of a segment, a beat one that is in it"


def records(root, *, segment_s: float = 60.0, every_s: float = 600.0, seed: int = 0) -> pd.DataFrame:
    """List the segments of the records that are there, with a 60/20/20 split by person.

    segment_s: seconds of a segment; every_s: seconds from one start to the next. seed: of the split, which depends on
    the people that are there. Metadata: recording, segment_start_s, rhythm ("mixed": none in more than half; "unknown":
    none marked there), n_beats, n_pac, n_pvc. Raises EcgError where no record is there.
    """
    root = Path(root).resolve()
    found = [path for path in files.walk(root) if path.suffix.lower() == ".atr" and NAME.fullmatch(path.stem)]
    marked = sorted(path.with_suffix("") for path in found)
    if not marked:
        raise EcgError("no record here", file=root, field="records", fix="fetch a part, such as --only 'p00/p00000/*'")
    whole = pd.DataFrame({"path": [str(path) for path in marked], "recording": [path.name for path in marked]})
    whole["patient_id"] = [NAME.fullmatch(name)[1] for name in whole.recording]
    whole["split"] = splits.assign(whole.assign(record_id=whole.recording), FRACTIONS, seed)
    whole.attrs["notes"] = [NOTE]
    whole = datasets.with_files(whole, root)
    parts = [_segments(one, segment_s, every_s) for one in whole.to_dict("records")]
    out = pd.concat(parts, ignore_index=True)
    out.attrs["notes"] = list(whole.attrs["notes"])
    return out


def labels(root, records: pd.DataFrame, **_) -> pd.DataFrame:
    """Rhythms of more than half of a segment, UNKNOWN where none is marked, and whether it holds a premature beat."""
    unknown = (records.rhythm == UNMARKED).to_numpy()
    columns = {
        name: np.where(unknown, vocabulary.UNKNOWN, records.rhythm == mark).astype(np.int8)
        for name, mark in OF_RHYTHM.items()
    }
    columns |= {name: (records[f"n_{name}"] > 0).to_numpy(np.int8) for name in OF_BEATS}
    return pd.DataFrame(columns, index=pd.Index(records.record_id, name="record_id"))


def read(row) -> Recording:
    """Read one segment of `records`, and no more of the file."""
    recording = _opened(datasets.cell(row, "path"))
    signal = marked_rhythms.read(recording, datasets.cell(row, "segment_start_s"), datasets.cell(row, "segment_s"))
    record_id, patient_id = (str(datasets.cell(row, key)) for key in ("record_id", "patient_id"))
    return Recording(signal, recording.fs, LEADS, varies(signal), record_id, patient_id)


def _opened(path) -> LongRecording:
    """The record of one channel; EcgError where there are more, since nothing says which is which."""
    names = wfdb_io.signal_names(path)
    if len(names) != 1:
        reason = f"{len(names)} channels, {', '.join(names)}, not one"
        raise EcgError(reason, file=f"{path}.hea", field="channel", fix="fetch the record again")
    return LongRecording(path, {names[0]: "I"})


def _segments(one: dict, segment_s: float, every_s: float) -> pd.DataFrame:
    """The whole segments of a record, with rhythm and beats of each."""
    recording, marks = _opened(one["path"]), annotations.read(files.beside(one["path"], ".atr"))
    start = marked_rhythms.starts(recording, segment_s, every_s)
    out = pd.DataFrame({"record_id": [f"{one['recording']}-{round(at):05d}" for at in start]})
    out = out.assign(patient_id=one["patient_id"], path=one["path"], split=one["split"], age=np.nan, sex="", report="")
    out = out.assign(recording=one["recording"], segment_start_s=start, segment_s=float(segment_s))
    rhythms = [
        Interval(first / recording.fs, last / recording.fs, label)
        for first, last, label in _intervals(marks, f"{one['path']}.atr")
    ]
    share = marked_rhythms.shares(rhythms, start, segment_s, RHYTHMS)
    named = share.idxmax(axis=1).where(share.max(axis=1) > 0.5, marked_rhythms.MIXED)
    out["rhythm"] = named.where(share.sum(axis=1) > 0.5, UNMARKED)
    for name, symbols in {"beats": ANY_BEAT, **OF_BEATS}.items():
        at = np.sort(marks.samples[np.isin(marks.symbols, list(symbols))]) / recording.fs
        out[f"n_{name}"] = np.searchsorted(at, start + segment_s) - np.searchsorted(at, start)
    return out


def _intervals(marks: annotations.Annotations, path: str) -> list[Interval]:
    """Rhythms in samples: each begins at its mark and ends at ")" or the next one. EcgError for another mark."""
    out, begun, label = [], 0, None
    for number, text in sorted(marks.notes.items()):
        if not (text.startswith("(") or text == ")"):
            continue
        at = int(marks.samples[number])
        if label and at > begun:
            out.append(Interval(begun, at, label))
        begun, label = at, text[1:] or None
    require_known("rhythm", sorted({interval.label for interval in out} | ({label} - {None})), RHYTHMS, "rhythm", path)
    if label and len(marks.samples) and marks.samples[-1] > begun:  # the last one, without an end: as far as is marked
        out.append(Interval(begun, int(marks.samples[-1]), label))
    return out
