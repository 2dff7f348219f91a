"""ECGs as devices and archives write them: DICOM, SCP-ECG, HL7 aECG, MUSE, Philips, Schiller, EDF, ISHNE and others.

ecgdatakit parses all but Schiller (`pip install '.[formats]'`). What a parser would have to guess is refused here.
"""

import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, require_known
from ecglib.data import wfdb_io
from ecglib.data.files import new_folder, walk, write_csv
from ecglib.data.recording import Recording, standard, varies

KEEP = ("age", "sex", "date", "statements", "patient")  # what a file may say of a person; nothing is kept unasked
MICROVOLT = {"uv": 1.0, "µv": 1.0, "microvolts": 1.0, "mv": 1e3, "v": 1e6}  # in one unit
LIST = "records.csv"
LOWEST = -(2**15)  # of 16 bits: no measured value, in EDF as in WFDB
EXTRA = "pip install '.[formats]'"


@dataclass(frozen=True)
class _Lead:
    """One lead as it is stored: the value is samples * step + offset, in microvolt; fs in Hz."""

    name: str
    samples: np.ndarray
    fs: float
    step: float
    offset: float = 0.0


def is_device_file(path) -> bool:
    """Whether a path is a file, and no WFDB record."""
    return Path(path).is_file() and Path(path).suffix.lower() not in (".hea", ".dat", ".mat")


def read(path, lead_names: dict[str, str] | None = None, keep=()) -> Recording:
    """Read one ECG file of a device: all leads in file order, float32 mV (lead, time).

    lead_names: name in the file -> name to give it, or "" to leave the channel out.
    keep: what of the person goes into `comments`, of KEEP; the default is nothing.
    A calibration pulse behind the leads (Philips) is cut off; the lowest value of 16 bits is NaN.
    Raises EcgError for a format or version that cannot be read, and for a lead without unit, gain, rate or name.
    """
    return _recording(path, *_parsed(Path(path), lead_names or {}, keep))


def _recording(path, leads: list, comments: tuple[str, ...]) -> Recording:
    signal = np.stack([_millivolt(lead) for lead in leads])
    signal = signal[:, : _end(signal, leads[0].fs)]
    names = tuple(lead.name for lead in leads)
    return Recording(signal, leads[0].fs, names, varies(signal), Path(path).stem, comments=comments)


def convert(path, folder, record_id: str, lead_names: dict[str, str] | None = None, keep=()) -> Recording:
    """Write one ECG file of a device as the WFDB record `folder/record_id`, with the device's own steps; see `read`."""
    leads, comments = _parsed(Path(path), lead_names or {}, keep)
    recording = _recording(path, leads, comments)
    counts = np.stack([_counts(lead, path) for lead in leads])[:, : recording.signal.shape[1]]
    gains = [1000 / lead.step for lead in leads]
    wfdb_io.write(folder, record_id, counts, recording.fs, recording.leads, gains, comments=comments)
    return replace(recording, record_id=record_id)


def convert_all(files, out, lead_names=None, keep=(), number: bool = False, progress=None) -> tuple:
    """Write files, and those in folders, as WFDB records into the folder `out` with a list of them, records.csv.

    number: name the records ecg00001, ... in the order of the files instead of by their files.
    progress: function of (files done, files). Returns the table, and an EcgError for each file that was refused.
    Hidden files (.DS_Store, ._a.xml of macOS) are left out; `attrs["hidden"]` of the table counts them.
    Raises EcgError for a folder that holds other things, for two files of one record name, and where nothing is read.
    """
    paths, hidden = _listed(files)
    names = [f"ecg{i:05d}" if number else record_name(path) for i, path in enumerate(paths, 1)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        both = [str(path) for path, name in zip(paths, names, strict=True) if name == twice[0]]
        raise EcgError(f"one record name for {', '.join(both)}", field="files", fix="number them: --number")
    rows, refused = [], []
    with new_folder(out, _wrote, [path.parent for path in paths]) as folder:
        for path, name in zip(paths, names, strict=True):
            try:
                recording = convert(path, folder, name, lead_names, keep)
            except EcgError as error:
                refused.append(error)
            else:
                rows.append(_row(recording, "" if number else path.name, keep))
            if progress:
                progress(len(rows) + len(refused), len(paths))
        if not rows:
            raise refused[0] if refused else EcgError("no file", file=files[0], fix="name files of ECGs")
        table = pd.DataFrame(rows)
        table.attrs["hidden"] = hidden
        write_csv(table, folder / LIST)
    return table, refused


def _listed(files) -> tuple[list[Path], int]:
    """The files, and those below folders, and how many hidden ones (.name) were left out."""
    paths, hidden = [], 0
    for file in map(Path, files):
        found = walk(file) if file.is_dir() else [file]
        shown = [path for path in found if not path.name.startswith(".")]
        paths, hidden = paths + shown, hidden + len(found) - len(shown)
    return paths, hidden


def _row(recording: Recording, file: str, keep) -> dict:
    """A line of records.csv: what was read, and what was to be kept of the person."""
    row = {"record": recording.record_id, "file": file, "fs": recording.fs, "leads": " ".join(recording.leads)}
    row["seconds"] = round(recording.signal.shape[1] / recording.fs, 3)
    said = dict(line.split(": ", 1) for line in recording.comments)
    return row | {"source": said["Source"]} | {name: said.get(name.capitalize(), "") for name in KEEP if name in keep}


def _wrote(folder: Path) -> list[str]:
    """The files of a folder that `convert_all` wrote, by its list."""
    names = pd.read_csv(folder / LIST, dtype=str)["record"]
    return [LIST, *(f"{name}.{end}" for name in names for end in ("hea", "dat"))]


def _millivolt(lead: _Lead) -> np.ndarray:
    value = (lead.samples * lead.step + lead.offset) / 1000
    return np.where(lead.samples == LOWEST, np.nan, value).astype(np.float32)


def _counts(lead: _Lead, path) -> np.ndarray:
    """The lead in 16 bits, in its own steps from 0 microvolt; the lowest value where there is none."""
    counts = np.rint(lead.samples + lead.offset / lead.step)
    missing = ~np.isfinite(counts) | (lead.samples == LOWEST)
    if np.abs(counts[~missing]).max(initial=0) >= -LOWEST:
        raise EcgError("samples do not fit 16 bits", file=path, field=lead.name, fix="check unit and gain in the file")
    return np.where(missing, LOWEST, counts).astype(np.int16)


def _end(signal: np.ndarray, fs: float) -> int:
    """Number of samples before the calibration pulse: a last piece, the same in all leads, that steps by 1 mV."""
    n = signal.shape[1]
    if len(signal) < 3:
        return n
    differs = np.flatnonzero((signal != signal[0]).any(axis=0))
    end = differs[-1] + 1 if len(differs) else n
    tail = signal[0, end:]
    return end if len(tail) >= 0.2 * fs and np.isclose(np.ptp(tail), 1, atol=0.01) else n


def _parsed(path: Path, lead_names: dict[str, str], keep) -> tuple[list[_Lead], tuple[str, ...]]:
    """Leads, named and of one rate and length, and comments of a file."""
    require_known("personal detail", keep, KEEP, "keep", path)
    if not path.is_file():
        raise EcgError("no such file", file=path)
    with path.open("rb") as file:
        head = file.read(4096)
    leads, comments = _schiller(path) if b"schillerEDI" in head else _by_package(path, keep)
    named = [(lead_names.get(lead.name, standard(lead.name) or lead.name), lead) for lead in leads]
    leads = [replace(lead, name=name) for name, lead in named if name]
    require_known("lead", lead_names, [lead.name for _, lead in named], "lead", path)
    names = [lead.name for lead in leads]
    if not leads or len(set(names)) < len(names):
        raise EcgError(f"leads {names or 'none'}", file=path, field="lead", fix="name them: --lead-names NAME=LEAD")
    if len({(lead.fs, len(lead.samples)) for lead in leads}) > 1:
        shapes = ", ".join(f"{lead.name} {len(lead.samples)} samples at {lead.fs:g} Hz" for lead in leads)
        raise EcgError(f"leads differ: {shapes}", file=path, field="lead", fix="leave some out: --lead-names NAME=")
    return leads, comments


def _by_package(path: Path, keep) -> tuple[list[_Lead], tuple[str, ...]]:
    """Leads and comments as ecgdatakit reads them; EcgError where it cannot, or where the format is its guess."""
    try:
        from ecgdatakit import ChecksumWarning, ECGDataKitError, FileParser
    except ImportError as error:
        raise EcgError("formats of devices need an extra", file=path, fix=EXTRA) from error
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            record = FileParser.parse(path, auto_scale=False)
        except (ECGDataKitError, OSError, ValueError, ImportError) as error:
            words = " ".join(str(error).replace(str(path), path.name).split())
            raise EcgError(words, file=path, field="format", fix="export it as DICOM, SCP-ECG or HL7 aECG") from error
    said = [one for one in said if one.filename and "auto_scale" not in str(one.message)]
    if any("experimental" in str(one.message) for one in said) or record.file_format.name == "WFDB":
        raise EcgError(f"{record.file_format.name} is not read here", file=path, field="format", fix="use WFDB itself")
    for one in said:
        if issubclass(one.category, ChecksumWarning):
            raise EcgError(f"checksum: {one.message}", file=path, field="checksum", fix="fetch the file again")
    leads = [_from_package(lead, path) for lead in record.leads]
    if record.file_format.parser == "DICOMWaveformParser":
        padding = _padding(path)
        leads = [replace(lead, samples=_without_holes(lead.samples, padding, lead.fs)) for lead in leads]
    return leads, (f"Source: {record.file_format.name}", *_person(record, keep))


def _from_package(lead, path: Path) -> _Lead:
    """A lead of ecgdatakit with its step in microvolt; EcgError where unit, gain or rate is not in the file."""
    unit = MICROVOLT.get((lead.resolution_unit or lead.units).lower().replace("μ", "µ"))
    for field, value in (("unit", unit), ("gain", lead.resolution), ("sampling rate", lead.sampling_rate)):
        if not value:
            fix = "leave the lead out: --lead-names NAME=, or export the file again"
            raise EcgError(f"lead {lead.label} has no {field}", file=path, field=field, fix=fix)
    return _Lead(
        lead.label, np.asarray(lead.samples, float), lead.sampling_rate, lead.resolution * unit, lead.offset * unit
    )


def _padding(path: Path) -> int | None:
    """The value that a DICOM file pads its first waveform with, in counts."""
    import pydicom

    wave = pydicom.dcmread(path).WaveformSequence[0]
    raw = bytes(wave.get("WaveformPaddingValue") or b"")
    return int.from_bytes(raw[:2], "little", signed=True) if wave.WaveformBitsAllocated == 16 and raw else None


def _without_holes(samples: np.ndarray, padding: int | None, fs: float) -> np.ndarray:
    """The padding value where it stands for less than 0.1 s: there the heart's voltage met it, and nothing is missing.

    Files exist that name 0 as padding, and every zero crossing would be a gap.
    """
    missing = np.isnan(samples)
    if padding is None or not missing.any():
        return samples
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missing, [0]])))
    samples = samples.copy()
    for start, end in edges.reshape(-1, 2):
        if end - start < 0.1 * fs and 0 < start and end < len(samples):
            samples[start:end] = padding
    return samples


def _person(record, keep) -> list[str]:
    """Comment lines on the person and the reading, as far as they were asked for and are in the file."""
    date, statements = (
        record.recording.date,
        ["; ".join(filter(None, pair)) for pair in record.interpretation.statements],
    )
    values = {
        "age": ("Age", record.patient.age),
        "sex": ("Sex", record.patient.sex),
        "date": ("Date", date and date.isoformat()),
        "statements": ("Statements", " | ".join(statements)),
        "patient": ("Patient", record.patient.patient_id),
    }
    return [
        f"{values[name][0]}: {values[name][1]}" for name in KEEP if name in keep and values[name][1] not in (None, "")
    ]


def _schiller(path: Path) -> tuple[list[_Lead], tuple[str, ...]]:
    """The rhythm of a Schiller XML file. Its averaged beats are no recording; personal data are not read."""
    from defusedxml.ElementTree import ParseError, parse

    try:
        waves = [wave for wave in parse(path).iter("wavedata") if wave.findtext("type") == "ECG_RHYTHMS"]
    except ParseError as error:
        raise EcgError(f"no whole XML: {error}", file=path, field="format", fix="export it again") from error
    if len(waves) != 1:
        raise EcgError(f"{len(waves)} recordings of type ECG_RHYTHMS", file=path, field="wavedata", fix="export one")
    rate, unit = waves[0].find("resolution/samplerate"), waves[0].find("resolution/yres")
    try:
        fs = float(rate.findtext("value"))
        if rate.findtext("exponent") != "1":
            raise ValueError(f"exponent {rate.findtext('exponent')} of the rate")
        step = float(unit.findtext("unitperbit")) * MICROVOLT[unit.findtext("units").lower()]
        leads = []
        for channel in waves[0].iter("channel"):
            samples = np.array(channel.findtext("data").strip().rstrip(",").split(","), float)
            if len(samples) != int(channel.findtext("samplecount")):
                raise ValueError(f"{len(samples)} samples, not samplecount")
            leads.append(_Lead(channel.findtext("name"), samples, fs, step))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EcgError(f"rate, unit or samples: {error}", file=path, field="wavedata", fix="export it again") from error
    return leads, ("Source: Schiller XML",)


def record_name(path) -> str:
    """The WFDB record name for a file: its own without what a record name cannot hold."""
    return re.sub(r"[^-\w]+", "_", Path(path).stem, flags=re.ASCII).strip("_") or "ecg"
