"""MIMIC PERform AF: 20 minutes of pulse wave (PPG) and ECG at 125 Hz of 35 people in intensive care, 19 of them in AF.

Read are the tables mimic_perform_af_csv/mimic_perform_af_001_data.csv and mimic_perform_non_af_csv/...: Time (s), PPG,
ECG. A row is a segment of `segment_s` seconds; a person is in fibrillation, or not, all along. The pulse wave is no
voltage: with `signal="pulse"` it takes the place of lead I, by which networks of one lead take their channel. With
"ecg" the option `lead` must say which lead it is: the tables do not.
Source: Charlton et al. (2022), Physiological Measurement 43:085007; the data doi:10.5281/zenodo.6807403.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import labels as vocabulary
from ecglib.data import splits
from ecglib.data.recording import LEADS as STANDARD
from ecglib.data.recording import Recording, varies

URL = "https://zenodo.org/records/6807403"
VERSION = "record 6807403"
LICENCE = "as stated on its Zenodo page"  # sources that cite it name three different ones
CITATION = (
    "Charlton et al. (2022), Detecting beats in the photoplethysmogram: benchmarking open-source algorithms, "
    "Physiological Measurement 43:085007, doi:10.1088/1361-6579/ac826d"
)
N_RECORDS = 35  # recordings, of which each gives many segments
FS = 125
LEADS = ("I",)
VOCABULARY = None
CORPUS = ""  # on no card of a published model
SIGNALS = {"pulse": "PPG", "ecg": "ECG"}  # option -> column
GROUPS = {"af": (19, vocabulary.PRESENT), "non_af": (16, vocabulary.ABSENT)}  # group -> people, whether in fibrillation
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
NOTE = "the split by person is ours; a segment is in fibrillation where its person is"


def records(
    root, *, signal: str = "pulse", lead: str | None = None, segment_s: float = 30.0, seed: int = 0
) -> pd.DataFrame:
    """List the whole segments of the recordings that are there, with a 60/20/20 split by person, stratified by group.

    signal: "pulse" (the PPG, as lead I) or "ecg". lead: the standard lead that the ECG is. segment_s: seconds of a
    segment. seed: of the split, which is dealt out to all 35 people. Raises EcgError where no recording is there.
    """
    leads(signal=signal, lead=lead)
    if not isinstance(segment_s, int | float) or not 0 < segment_s <= 1200:
        raise EcgError(f"segments of {segment_s!r} s", field="segment_s", fix="up to 1200 seconds")
    whole = _recordings(Path(root).resolve(), seed)
    parts = [_segments(one, segment_s) for one in whole.to_dict("records")]
    out = pd.concat(parts, ignore_index=True).assign(signal=signal, lead=lead or "")
    out.attrs["notes"] = list(whole.attrs["notes"])
    return out


def labels(root, records: pd.DataFrame, **_) -> pd.DataFrame:
    """Whether the person is in atrial fibrillation: `atrial_fibrillation`, present or absent."""
    states = records.group.map({group: state for group, (_, state) in GROUPS.items()}).to_numpy(np.int8)
    return pd.DataFrame({"atrial_fibrillation": states}, index=pd.Index(records.record_id, name="record_id"))


def leads(*, signal: str = "pulse", lead: str | None = None, **_) -> tuple[str, ...]:
    """The name of the one channel: I for the pulse wave, `lead` for the ECG; EcgError where that is not said."""
    require_known("signal", [signal], SIGNALS)
    require_known("lead", [lead] if lead else [], STANDARD, "lead")
    if signal == "pulse":
        return ("I",)
    if not lead:
        raise EcgError("the tables do not say which lead the ECG is", field="lead", fix="lead=II, where it is that one")
    return (lead,)


def read(row) -> Recording:
    """Read one segment of `records`. The pulse wave has no unit: its numbers stand where millivolts would."""
    file, signal = Path(f"{datasets.cell(row, 'path')}.csv"), datasets.cell(row, "signal")
    x = _column(file, SIGNALS[signal])
    first = round(datasets.cell(row, "segment_start_s") * FS)
    last = first + round(datasets.cell(row, "segment_s") * FS)
    if last > len(x):
        reason = f"{len(x)} samples for a segment of {first} to {last}"
        raise EcgError(reason, file=file, field="length", fix="fetch the table again")
    x = x[None, first:last]
    record_id, patient_id = (str(datasets.cell(row, key)) for key in ("record_id", "patient_id"))
    names = leads(signal=signal, lead=datasets.cell(row, "lead"))
    return Recording(x, FS, names, varies(x), record_id, patient_id)


def _recordings(root: Path, seed: int) -> pd.DataFrame:
    """The recordings that are there, a row each; the split is dealt out to all people of the corpus."""
    people = [(group, f"{group}_{k + 1:03d}") for group, (n, _) in GROUPS.items() for k in range(n)]
    out = pd.DataFrame(people, columns=["group", "patient_id"]).assign(record_id=[name for _, name in people])
    states = pd.DataFrame({"af": [GROUPS[group][1] for group in out.group]}, index=out.record_id, dtype=np.int8)
    out["split"] = splits.assign(out, FRACTIONS, seed, states)
    folders = {group: root / f"mimic_perform_{group}_csv" for group in GROUPS}
    folders = {group: folder if folder.is_dir() else root for group, folder in folders.items()}
    out["path"] = [str(folders[group] / f"mimic_perform_{name}_data") for group, name in people]
    there = [Path(f"{path}.csv").is_file() for path in out.path]
    packed = sorted(root.glob("mimic_perform_*csv.zip")) if root.is_dir() else []
    if packed and not any(there):
        raise EcgError(
            "the tables are packed", file=packed[0], field="recordings", fix=f"unpack {packed[0].name} there"
        )
    out.attrs["notes"] = [NOTE]
    return datasets.with_files(out, root, there, ".csv")


def _segments(one: dict, segment_s: float) -> pd.DataFrame:
    n = int(len(_column(Path(f"{one['path']}.csv"), "PPG")) / FS // segment_s)
    start = np.arange(n) * segment_s
    out = pd.DataFrame({"record_id": [f"{one['patient_id']}-{k:03d}" for k in range(n)]})
    out = out.assign(patient_id=one["patient_id"], path=one["path"], split=one["split"], age=np.nan, sex="", report="")
    return out.assign(group=one["group"], segment_start_s=start, segment_s=float(segment_s))


def _column(file: Path, name: str) -> np.ndarray:
    """A column of a recording, float32 (time,), NaN where a sample is missing."""
    if not file.is_file():
        raise EcgError("no such recording", file=file, fix="fetch the tables of the corpus")
    return _columns(str(file), file.stat().st_size, file.stat().st_mtime_ns)[name]


@lru_cache(maxsize=4)
def _columns(file: str, size: int, changed: int) -> dict[str, np.ndarray]:
    table = datasets.table(Path(file), ("Time", *SIGNALS.values()))
    step = np.diff(table.Time.to_numpy(float))
    if not len(step) or not np.allclose(step, 1 / FS, atol=1e-3):
        reason = f"its times are not {1 / FS:g} s apart"
        raise EcgError(reason, file=file, field="Time", fix=f"fetch the table again: {FS} Hz")
    return {name: table[name].to_numpy(np.float32) for name in SIGNALS.values()}
