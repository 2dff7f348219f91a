"""SHDB-AF: 128 Holter recordings of a day, two leads at 200 Hz, of 122 people in Japan; rhythms of 98 are marked.

A day is never read at once: a row is a segment of `segment_s` seconds, one every `every_s`, and `read` takes that part
of the file. `ecglib holter RECORD` streams the whole of one. Channel ECG1 is a modified CC5, whose positive electrode
is that of V5: it stands under V5. ECG2 is the NASA lead, which no standard lead is like: it is left out, unless option
`ecg2` says under what name it is wanted.

AdditionalData.csv says whose recording it is and whether its rhythms are marked. A rhythm holds from its mark, in the
note of a comment, to the next one; what no mark covers in a marked recording is N, "other": not fibrillation, flutter
or tachycardia, which sinus rhythm need not be. Recordings without marks are UNKNOWN, not negative: some of them are of
people with paroxysmal fibrillation. Recordings 005 and 020 are the same one. "(NOD" means AV-nodal tachycardia, not
the nodal rhythm of MIT-BIH; "(AB", atrial bigeminy, is documented nowhere.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import annotations, marked_rhythms
from ecglib.data import labels as vocabulary
from ecglib.data.annotations import Interval
from ecglib.data.long_recording import LongRecording
from ecglib.data.recording import LEADS as STANDARD
from ecglib.data.recording import Recording, varies

URL = "https://physionet.org/content/shdb-af/1.0.1/"
VERSION = "1.0.1"
LICENCE = "ODC-By 1.0"
CITATION = (
    "Tsutsui et al. (2025), SHDB-AF: a Japanese Holter ECG database of atrial fibrillation, Scientific Data 12, "
    "doi:10.1038/s41597-025-04777-4"
)
N_RECORDS = 128  # recordings, of which each gives many segments
FS = 200
LEADS = ("V5",)
VOCABULARY = None
CORPUS = ""  # on no card of a published model
TABLE = "AdditionalData.csv"
RHYTHMS = ("AFIB", "AFL", "AT", "PAT", "NOD", "AB", "N")
FIBRILLATING = ("AFIB", "AFL")  # whose share of a segment is `af_share`
LABELS = {
    "atrial_fibrillation": ("AFIB",),
    "atrial_flutter": ("AFL",),
    "atrial_tachycardia": ("AT",),
    "supraventricular_tachycardia": ("AT", "PAT", "NOD"),
}
SAME = {"020": "005"}  # left out -> the recording that it is
UNMARKED = "unknown"  # no rhythm marked in the recording
NOTE = "recordings whose rhythms nobody marked are unknown; 020 is the recording 005 once more and does not count"
_MARKED = {"true": True, "yes": True, "1": True, "y": True, "false": False, "no": False, "0": False, "n": False}


def records(
    root, *, segment_s: float = 30.0, every_s: float = 600.0, ecg1: str = "V5", ecg2: str | None = None
) -> pd.DataFrame:
    """List the segments of the recordings that are there, all "external".

    segment_s: seconds of a segment; every_s: seconds from one start to the next. ecg1, ecg2: the standard lead that a
    channel stands for; null: left out. Metadata: recording, segment_start_s, rhythm (that of more than half of the
    segment, "mixed", or "unknown"), af_share (part in fibrillation or flutter), af_type (the diagnosis).
    """
    leads(ecg1=ecg1, ecg2=ecg2)
    whole = recordings(Path(root).resolve())
    parts = [_segments(one, segment_s, every_s) for one in whole.to_dict("records")]
    out = pd.concat(parts, ignore_index=True).assign(ecg1=ecg1 or "", ecg2=ecg2 or "")
    out.attrs["notes"] = list(whole.attrs["notes"])
    return out


def labels(root, records: pd.DataFrame, **_) -> pd.DataFrame:
    """Whether a rhythm of LABELS covers more than half of a segment; UNKNOWN in recordings without marks."""
    index = pd.Index(records.record_id, name="record_id")
    unknown = (records.rhythm == UNMARKED).to_numpy()
    states = {
        name: np.where(unknown, vocabulary.UNKNOWN, records.rhythm.isin(marks)).astype(np.int8)
        for name, marks in LABELS.items()
    }
    return pd.DataFrame(states, index=index)


def leads(*, ecg1: str = "V5", ecg2: str | None = None, **_) -> tuple[str, ...]:
    """The standard leads that the channels stand for; EcgError for another name, for none, and for one name twice."""
    named = tuple(name for name in (ecg1, ecg2) if name)
    require_known("lead", named, STANDARD, "ecg1")
    if not named or len(set(named)) < len(named):
        reason = f"the two channels stand for {', '.join(named) or 'no lead'}"
        raise EcgError(reason, field="ecg1", fix="one name each; a channel without one is left out")
    return named


def read(row) -> Recording:
    """Read one segment of `records`, and no more of the file."""
    path, names = datasets.cell(row, "path"), {f"ECG{n}": datasets.cell(row, f"ecg{n}") for n in (1, 2)}
    recording = LongRecording(path, names)
    wanted = [name for name in names.values() if name]
    if missing := [channel for channel, name in names.items() if name and name not in recording.leads]:
        raise EcgError(f"no channel {missing[0]}", file=f"{path}.hea", field="channel", fix="fetch the record again")
    signal = marked_rhythms.read(recording, datasets.cell(row, "segment_start_s"), datasets.cell(row, "segment_s"))
    signal = signal[[recording.leads.index(name) for name in wanted]]
    record_id, patient_id = (str(datasets.cell(row, key)) for key in ("record_id", "patient_id"))
    return Recording(signal, recording.fs, tuple(wanted), varies(signal), record_id, patient_id)


def recordings(root: Path) -> pd.DataFrame:
    """The recordings of the table that are there, a row each, before they are cut into segments.

    Columns recording, patient_id, path, age, sex, af_type, marked (whether its rhythms are). Raises EcgError for cells
    of the table that are none of a recording, and where no recording is there.
    """
    path = root / TABLE
    table = datasets.text_table(path, ("Data_ID", "Subject_ID", "Annotated", "Age_at_Holter", "Sex", "AF_Type"))
    wrong = ~table.Data_ID.str.fullmatch(r"\d{1,3}(\.0)?").astype(bool)
    datasets.refuse(table.Data_ID[wrong], path, "{} is no number of a recording", "three digits")
    ids = table.Data_ID.str.removesuffix(".0").str.zfill(3)
    datasets.refuse(table.Data_ID[ids.duplicated()], path, "recording {} stands there twice", "remove one row")
    marked = table.Annotated.str.lower().str.removesuffix(".0")
    datasets.refuse(table.Annotated[~marked.isin(list(_MARKED))], path, "{} is neither yes nor no", "Yes or No")
    datasets.refuse(table.Subject_ID[datasets.is_unknown(table.Subject_ID)], path, "{} names nobody", "a number")
    out = pd.DataFrame({"recording": ids.to_numpy(str), "patient_id": table.Subject_ID.to_numpy(str)})
    out["path"] = [str(root / name) for name in ids]
    out["age"] = datasets.numbers(table, "Age_at_Holter", path, (0, 150), "age in years")
    sexes = table.Sex.str.lower()
    out["sex"] = sexes.map({"male": "male", "female": "female", "m": "male", "f": "female"}).fillna("").to_numpy(str)
    out["af_type"], out["marked"] = table.AF_Type.to_numpy(str), marked.map(_MARKED).to_numpy(bool)
    out = out[~out.recording.isin(list(SAME))].reset_index(drop=True)
    out.attrs["notes"] = [NOTE]
    return datasets.with_files(out, path)


def _segments(one: dict, segment_s: float, every_s: float) -> pd.DataFrame:
    """The whole segments of a recording, with the rhythm of each."""
    recording = LongRecording(one["path"])
    start = marked_rhythms.starts(recording, segment_s, every_s)
    about = {key: one[key] for key in ("patient_id", "path")} | {"split": "external"}
    about |= {key: one[key] for key in ("age", "sex")} | {"report": "", "recording": one["recording"]}
    ids = [f"{one['recording']}-{round(at):05d}" for at in start]
    out = pd.DataFrame({"record_id": ids}).assign(**about)
    out = out.assign(segment_start_s=start, segment_s=float(segment_s), rhythm=UNMARKED, af_share=np.nan)
    if one["marked"]:
        share = _shares(Path(f"{one['path']}.atr"), recording, start, segment_s)
        out["rhythm"] = share.idxmax(axis=1).where(share.max(axis=1) > 0.5, marked_rhythms.MIXED)
        out["af_share"] = share[list(FIBRILLATING)].sum(axis=1)
    return out.assign(af_type=one["af_type"])


def _shares(path: Path, recording: LongRecording, start: np.ndarray, segment_s: float) -> pd.DataFrame:
    """The part of each segment that each of RHYTHMS covers; N: what no mark covers, too. EcgError for another mark."""
    marks = annotations.rhythms(annotations.read(path), recording.n_times)
    require_known("rhythm", sorted({mark.label for mark in marks}), RHYTHMS, "rhythm", path)
    seconds = [Interval(first / recording.fs, last / recording.fs, label) for first, last, label in marks]
    share = marked_rhythms.shares(seconds, start, segment_s, RHYTHMS)
    share["N"] = 1 - share.drop(columns="N").sum(axis=1)
    return share
