"""BIDMC: 8 minutes of ECG, pulse wave (PPG) and respiration at 125 Hz of 53 adults in intensive care, with numerics.

A row is a segment of `segment_s` seconds, because what is asked of it, the pulse rate that the monitor showed, changes
within a recording. The pulse wave comes from a finger clip and is no voltage: with `signal="pulse"` it takes the place
of lead I, the name by which networks of one lead take their channel, so that an encoder of ECGs can be asked about it.

Numerics come once a second. Of a segment they are the median over its seconds, NaN where more than half are missing:
`pulse` (from the PPG) and `heart_rate` (from the ECG) in beats/min, `respiration` in breaths/min, `spo2` in %. A
monitor averages over some seconds, so that they lag behind. The official WFDB files write a comma behind the name of a
channel. The persons are those of MIMIC-II ("s01182"): of the first 30 recordings two persons have four each.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import labels as vocabulary
from ecglib.data import splits
from ecglib.data.recording import Recording

URL = "https://physionet.org/content/bidmc/1.0.0/"
VERSION = "1.0.0"
LICENCE = "ODC-By 1.0"
CITATION = "Pimentel et al. (2017), IEEE Trans Biomed Eng 64(8):1914-1923, doi:10.1109/TBME.2016.2613124"
N_RECORDS = 53  # recordings, of which each gives many segments
FS = 125
LEADS = ("I",)
VOCABULARY = None
CORPUS = ""  # on no card of a published model
SIGNALS = {"pulse": ("PLETH", "I"), "ecg": ("II", "II")}  # option -> (channel, the name that it gets)
NUMERICS = {"pulse": "PULSE", "heart_rate": "HR", "respiration": "RESP", "spo2": "SpO2"}
FAST = 100  # beats/min: more is tachycardia
FRACTIONS = {"train": 0.8, "val": 0.2}
NOTE = "few patients: no test split; each is predicted by models of the others (folds)"
_SEX = {"M": "male", "F": "female"}


def records(root, *, signal: str = "pulse", segment_s: float = 10.0, seed: int = 0) -> pd.DataFrame:
    """List the whole segments of the recordings whose files are there, with an 80/20 split by patient.

    signal: "pulse" (the PPG, as lead I) or "ecg" (lead II). segment_s: seconds of a segment. seed: of the split, which
    depends on the tables only. Ages above 89 are published as 90+: 90 with `age_over_89`.
    """
    require_known("signal", [signal], SIGNALS)
    if not isinstance(segment_s, int | float) or not 1 <= segment_s <= 480:
        raise EcgError(f"segments of {segment_s!r} s", field="segment_s", fix="seconds from 1 to 480")
    folder = Path(root).resolve() / "bidmc_csv"
    names = sorted(path.name[6:8] for path in folder.glob("bidmc_[0-9][0-9]_Numerics.csv"))
    if not names:
        raise EcgError("no numerics here", file=folder, field="numerics", fix="give the folder that holds bidmc_csv")
    parts = [_of_recording(Path(root).resolve(), folder, name, segment_s) for name in names]
    out = pd.concat(parts, ignore_index=True).assign(signal=signal)
    out["split"] = splits.assign(out, FRACTIONS, seed)
    out = out.assign(report="")
    common = ["record_id", "patient_id", "path", "split", "age", "sex", "report"]
    out = out[common + [name for name in out if name not in common]]
    out.attrs["notes"] = [NOTE]
    return datasets.with_files(out, folder)


def labels(root, records: pd.DataFrame, **_) -> pd.DataFrame:
    """Whether the monitor's heart rate is above FAST: `tachycardia`, UNKNOWN where it shows none."""
    rate = records["heart_rate"].to_numpy(float)
    states = np.where(np.isnan(rate), vocabulary.UNKNOWN, np.where(rate > FAST, vocabulary.PRESENT, vocabulary.ABSENT))
    index = pd.Index(records["record_id"], name="record_id")
    return pd.DataFrame({"tachycardia": states.astype(np.int8)}, index=index)


def leads(*, signal: str = "pulse", **_) -> tuple[str, ...]:
    """The name of the one channel: I for the pulse wave, II for the ECG."""
    require_known("signal", [signal], SIGNALS)
    return (SIGNALS[signal][1],)


def read(row) -> Recording:
    """Read one segment of `records`. The pulse wave has no unit: its numbers stand where millivolts would.

    Raises EcgError for a file that cannot be read, a channel that is not there, and another rate than FS.
    """
    import wfdb  # slow to load, and a list of the datasets needs no reading

    path, channel, name = datasets.cell(row, "path"), *SIGNALS[datasets.cell(row, "signal")]
    first = round(datasets.cell(row, "segment_start_s") * FS)
    last = first + round(datasets.cell(row, "segment_s") * FS)
    try:
        header = wfdb.rdheader(path)
        names = [each.rstrip(",").strip() for each in header.sig_name or []]
        if channel in names and header.fs == FS and last <= header.sig_len:
            record = wfdb.rdrecord(path, sampfrom=first, sampto=last, channels=[names.index(channel)])
    except (OSError, ValueError, IndexError) as error:
        raise EcgError(f"cannot read the recording: {error}", file=f"{path}.hea") from error
    if channel not in names:
        fix = "fetch the official files: every recording has II and PLETH"
        raise EcgError(f"no channel {channel} among {', '.join(names)}", file=f"{path}.hea", field="channel", fix=fix)
    if header.fs != FS or last > header.sig_len:
        reason = f"{header.sig_len} samples at {header.fs:g} Hz for a segment of {first} to {last} at {FS} Hz"
        raise EcgError(reason, file=f"{path}.hea", field="length", fix="fetch the official files")
    x = record.p_signal.T.astype(np.float32)
    usable = np.array([np.nanmin(x, initial=np.inf) < np.nanmax(x, initial=-np.inf)])
    record_id, patient_id = (str(datasets.cell(row, key)) for key in ("record_id", "patient_id"))
    return Recording(x, FS, (name,), usable, record_id, patient_id)


def _of_recording(root: Path, folder: Path, name: str, segment_s: float) -> pd.DataFrame:
    """The whole segments of one recording, with who the patient is and the monitor's numbers."""
    person = _fixed(folder / f"bidmc_{name}_Fix.txt")
    path = folder / f"bidmc_{name}_Numerics.csv"
    table = datasets.text_table(path, ("Time [s]", *NUMERICS.values()))
    seconds = datasets.numbers(table, "Time [s]", path, (-10, 1e6), "time")  # one begins before the signals
    values = {key: datasets.numbers(table, column, path, (0, 400)) for key, column in NUMERICS.items()}
    n = int(seconds[-1] // segment_s) if len(seconds) else 0
    start = np.arange(n) * segment_s
    out = pd.DataFrame({"record_id": [f"bidmc{name}-{k:03d}" for k in range(n)]})
    out = out.assign(path=str(root / f"bidmc{name}"), segment_start_s=start, segment_s=float(segment_s), **person)
    for key, numbers in values.items():
        parts = [numbers[(seconds > a) & (seconds <= a + segment_s)] for a in start]
        known = [part[~np.isnan(part)] for part in parts]
        pairs = zip(parts, known, strict=True)
        out[key] = [np.median(there) if len(there) * 2 >= len(part) > 0 else np.nan for part, there in pairs]
    return out


def _fixed(path: Path) -> dict:
    """Patient, age, sex, and ward of a recording from its Fix.txt."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise EcgError("no fixed variables", file=path, fix="fetch the official files") from error
    cells = dict(re.findall(r"^(Age|Gender|Location|MIMIC II matched wdb ID):[ \t]*(.*?)[ \t]*$", text, re.MULTILINE))
    patient, age = cells.get("MIMIC II matched wdb ID", ""), cells.get("Age", "")
    if not patient:
        fix = "fetch the official files"
        raise EcgError("it names no patient", file=path, field="MIMIC II matched wdb ID", fix=fix)
    if not re.fullmatch(r"\d{1,2}|90\+|NaN|", age):
        raise EcgError(f"{age!r} is no age", file=path, field="Age", fix="years, 90+ or NaN")
    old = age == "90+"
    years = 90.0 if old else float(age or "nan")
    person = {"patient_id": patient, "age": years, "age_over_89": int(old)}
    return person | {"sex": _SEX.get(cells.get("Gender"), ""), "ward": cells.get("Location", "")}
