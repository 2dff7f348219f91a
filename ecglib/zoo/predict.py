"""What a kept or a published model says of new recordings, record by record: the command `predict`.

Recordings stream through as in `embed`: memory stays as it is, a stopped run goes on, and what cannot be read is listed
with the reason. Each is treated as the recordings that the model was fitted on were when they were packed.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from ecglib import EcgError, __version__, zoo
from ecglib.data import packing, wfdb_io
from ecglib.data.files import sha256
from ecglib.data.labels import vocabulary
from ecglib.data.recording import record_path, standard
from ecglib.evaluation.scoring import CALIBRATED, CALL, RAW
from ecglib.rhythm import kept_detector
from ecglib.zoo import embed
from ecglib.zoo.kept import Kept, quality_flags

SUFFIXES = (".parquet", ".csv")
FLAGS = {"quality": pa.string(), "out_of_profile": pa.string()}
NOISE = {"noisy": pa.int8(), "noise_probability": pa.float32(), "noise_reason": pa.string()}
SERIAL = "serial p: "  # of a statement that compares with an earlier ECG: it cannot be read from one recording
_DEVICE = re.compile(r"\s*(?:device|recorder|machine)\s*[:=]\s*(.+)", re.IGNORECASE)


class KeptReader:
    """Reader for `embed.stream`: quality, out_of_profile, and of each label probability, calibrated one and call."""

    def __init__(self, model: Kept, fs_tolerance: float = 0.0):
        packing.require_tolerance(fs_tolerance)
        self.kept, self.title, self.leads, self.size = model, model.info["name"], model.leads, len(model.labels)
        self.model, self.flags = model.network if model.network is not None else torch.nn.Module(), tuple(FLAGS)
        self.key = model.content
        self.plan = replace(model.plan, fs_tolerance=max(fs_tolerance, model.plan.fs_tolerance))
        kinds = embed.ROW | FLAGS
        if model.is_number:
            kinds |= {number_column(label): pa.float32() for label in model.info["labels"]}
        else:
            kinds |= {f"{RAW}{label}": pa.float32() for label in model.labels}
            kinds |= {f"{CALIBRATED}{label}": pa.float32() for label in model.labels}
            kinds |= {f"{CALL}{label}": pa.int8() for label in model.labels}
        facts = {"model": model.info["name"], "weights": "kept", "content": model.content, "ecglib": __version__}
        self.schema = embed.with_tolerance(pa.schema(list(kinds.items()), facts), fs_tolerance)

    def open(self, recording, many: int):
        """As `embed.Features.open`: windows as they were packed."""
        embed.require_ratio(recording.fs, self.plan)
        seconds, device = recording.signal.shape[1] / recording.fs, _device(recording)
        seen = packing.checked(recording, self.plan)
        missing = [lead for lead, there in zip(seen.leads, seen.lead_mask, strict=True) if not there]
        told = self.kept.out_of_profile(recording.fs, seconds, missing, device)
        return seen, ["; ".join(quality_flags(seen)), "; ".join(told)], self._batches(recording, many)

    def _batches(self, recording, many: int):
        """Inputs of the windows that hold a signal, `many` at a time."""
        waiting, some = [], False
        for counts, facts in self.kept.windows(recording, self.plan):
            if facts["lead_mask"]:
                x = counts.astype(np.float32) * np.float32(1 / packing.COUNTS_PER_MV)
                waiting.append(_marked(self.kept.inputs(x, facts["n_valid"]), self.kept.peaks(facts)))
            if len(waiting) == many:
                some = True
                yield np.stack(waiting)
                waiting = []
        if waiting:
            yield np.stack(waiting)
        elif not some:
            raise EcgError("no lead has a signal in any window", field="signal")

    def values(self, crops: np.ndarray) -> np.ndarray:
        """Probabilities, or numbers, (window, label), whose mean over the windows of a record counts."""
        if not self.kept.reads_beats:
            return self.kept.probabilities(crops)
        peaks = [torch.from_numpy(np.flatnonzero(marks)) for marks in crops[:, -1]]
        peaks = torch.nn.utils.rnn.pad_sequence(peaks, batch_first=True, padding_value=-1).numpy()
        return self.kept.probabilities(crops[:, :-1], peaks)

    def columns(self, means: np.ndarray) -> list:
        """Probabilities, calibrated ones, calls; numbers alone."""
        p = means.astype(np.float32)
        if self.kept.is_number:
            return [*p.T]
        calls = self.kept.calls(means)  # NaN becomes an empty cell
        called = [pa.array(call, pa.float64(), from_pandas=True).cast(pa.int8()) for call in calls.T]
        return [*p.T, *self.kept.calibrated(means).astype(np.float32).T, *called]


def number_column(label: dict) -> str:
    """Name of the column of a number, "number: age [years]"; label: as in model.json."""
    return f"number: {label['name']}" + (f" [{label['unit']}]" if label["unit"] else "")


def _marked(x: np.ndarray, peaks) -> np.ndarray:
    """x (lead, time) with one more row, 1 at the R peaks and else 0: so they travel with it; None: x alone."""
    if peaks is None:
        return x
    marks = np.zeros((1, x.shape[-1]), x.dtype)
    marks[0, peaks[peaks < x.shape[-1]]] = 1
    return np.concatenate([x, marks])


class ReleasedReader(embed.Features):
    """Reader for `embed.stream`: what the head of a published model says, out of the box, without thresholds."""

    def __init__(self, model, fs_tolerance: float = 0.0):
        super().__init__(model, head=True, fs_tolerance=fs_tolerance)
        self.labels, self.flags = list(model.card.statements), tuple(FLAGS)
        serial = _serial(model)
        names = [f"{SERIAL if name in serial else RAW}{name}" for name in self.labels]
        kinds = embed.ROW | FLAGS | dict.fromkeys(names, pa.float32())
        self.schema = pa.schema(list(kinds.items()), self.schema.metadata)

    def open(self, recording, many: int):
        """As `embed.Features.open`."""
        seconds = recording.signal.shape[1] / recording.fs
        seen, _, batches = super().open(recording, many)
        card, told = self.model.card, []
        missing = [lead for lead, there in zip(seen.leads, seen.lead_mask, strict=True) if not there]
        if recording.fs < card.chain.fs:
            told.append(f"rate {recording.fs:g} Hz, trained on {card.chain.fs:g}")
        if missing:
            told.append(f"without lead {' '.join(missing)}")
        if seconds < card.crop_s - 0.5 / recording.fs:
            told.append(f"{seconds:g} s, trained on {card.crop_s:g} s: {zoo.SHORT[card.short]}")
        return seen, ["; ".join(quality_flags(seen)), "; ".join(told)], batches

    def columns(self, means: np.ndarray) -> list:
        """Probabilities of the statements, from the mean features (record, dim)."""
        return list(embed.said_of(self.model, torch.from_numpy(means.astype(np.float32))).T)


class WithNoise:
    """A reader of this module whose columns hold NOISE too, what a detector of noise says of the whole recording."""

    def __init__(self, reader, detector):
        self.reader, (self.detector, self.cut) = reader, kept_detector.read(detector)
        self.title, self.model, self.leads, self.size = reader.title, reader.model, reader.leads, reader.size
        self.values, self.columns, self.flags = reader.values, reader.columns, (*reader.flags, *NOISE)
        self.key, at = f"{reader.key} {sha256(Path(detector))}", len(embed.ROW) + len(reader.flags)
        fields = list(reader.schema)
        fields[at:at] = [pa.field(name, kind) for name, kind in NOISE.items()]
        self.schema = pa.schema(fields, reader.schema.metadata)

    def open(self, recording, many: int):
        """As `embed.Features.open`."""
        seen, cells, batches = self.reader.open(recording, many)
        return seen, [*cells, *self._judged(recording)], batches

    def _judged(self, recording) -> tuple:
        try:
            said = kept_detector.judge(self.detector, recording, self.cut)
        except EcgError as error:  # too short, or at a rate without a simple ratio: its quality is not known
            return None, None, f"not judged: {error.reason}"
        reason = f"worst lead {said['lead']}" + (f": {said['reason']}" if said["reason"] else "")
        return int(said["noisy"]), said["probability"], reason


def _serial(model) -> set[str]:
    """The statements of a head that compare with an earlier ECG."""
    table = vocabulary("ecgfounder")
    known = tuple(table.statement) == model.card.statements
    return set(table.statement[table.serial == "1"]) if known else set()


def _device(recording) -> str:
    """The device that the header's comments name; "" for none."""
    found = [match[1].strip() for match in map(_DEVICE.match, recording.comments) if match]
    return found[0] if found else ""


def reader(model, detector="", fs_tolerance: float = 0.0):
    """What reads recordings for a Kept model, or for a published one with a head; EcgError for one without.

    detector: file of a detector of noise (`rhythm.kept_detector`), which adds the columns NOISE; "": none is asked.
    fs_tolerance: as of `embed.run`; a kept model has that of its cohort, if that is more.
    """
    asked = (KeptReader if isinstance(model, Kept) else ReleasedReader)(model, fs_tolerance)
    return WithNoise(asked, detector) if detector else asked


def run(
    model,
    paths,
    out,
    *,
    batch: int = 16,
    pattern="**/*.hea",
    lead_names=None,
    progress=print,
    detector="",
    part="",
    fs_tolerance: float = 0.0,
) -> dict:
    """Write what a model says of WFDB records to `out` (.parquet or .csv), the refused ones to *.rejected.csv.

    model: Kept, or a published one of `zoo.load`; paths: folders, below which headers that fit `pattern` are taken, and
    single records. out: the columns are record, folder (number of the path), seconds, fs, n_crops, missing_leads,
    quality, out_of_profile, "p: " + label, "calibrated: " + label, "call: " + label (1, 0, empty without a threshold);
    of a model for a number "number: age [years]" alone behind out_of_profile.
    batch, lead_names, progress, part, and what comes back: as of `embed.run`. detector, fs_tolerance: as of `reader`;
    with a detector, noisy (1, 0, empty where it was not judged), noise_probability and noise_reason stand behind
    out_of_profile.
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise EcgError("the output is no table", file=out, field="out", fix="name it like scores.parquet or scores.csv")
    folders = [path if path.is_dir() else record_path(path).parent for path in map(Path, paths)]
    options = dict(batch=batch, lead_names=lead_names, progress=progress, part=part)
    asked = reader(model, detector, fs_tolerance)
    return embed.stream(asked, folders, lambda: _records(paths, pattern, progress), out, **options)


def _records(paths, pattern: str, progress) -> list[tuple[int, str]]:
    found = []
    for number, path in enumerate(map(Path, paths)):
        if path.is_dir():
            found += [(number, name) for _, name in embed.find([path], pattern, progress)]
        elif any(Path(f"{record_path(path)}{end}").is_file() for end in (".hea", ".HEA")):
            found.append((number, record_path(path).name))
        else:
            raise EcgError("no such record or folder", file=path, field="record", fix="name a .hea file or a folder")
    return found


def one(model, path, lead_names=None, detector="", fs_tolerance: float = 0.0) -> tuple:
    """What a model says of one record: (the Recording as it is in the file, facts, table).

    facts: cells of the columns before the labels, by name. table: a row per label, likeliest first: label, probability,
    calibrated, threshold (of the probability), call ("yes", "no", "" without a threshold), serial; of a model for a
    number label, number, unit.
    detector, fs_tolerance: as of `run`. Raises EcgError where the record cannot be read, and where the network gives
    NaN or infinity.
    """
    recording = wfdb_io.read(record_path(path), dict(lead_names or {}))
    if not any(map(standard, recording.leads)):
        fix = "say which lead each is: --lead-names NAME=II"
        raise EcgError(f"no standard lead name: {', '.join(recording.leads)}", file=path, field="lead name", fix=fix)
    asked = reader(model, detector, fs_tolerance)
    asked.model.eval()
    seen, cells, batches = asked.open(recording, 16)
    values = np.concatenate([asked.values(crops) for crops in batches])
    if not np.isfinite(values).all():
        raise embed.no_number(path)
    columns = asked.columns(values.mean(0, dtype=float)[None])
    missing = [lead for lead, there in zip(seen.leads, seen.lead_mask, strict=True) if not there]
    facts = dict(windows=len(values), missing_leads=" ".join(missing), **dict(zip(asked.flags, cells, strict=True)))
    return recording, facts, _table(model, asked, columns)


def _table(model, asked, columns) -> pd.DataFrame:
    if isinstance(model, Kept) and model.is_number:
        units = [label["unit"] for label in model.info["labels"]]
        return pd.DataFrame({"label": model.labels, "number": [float(each[0]) for each in columns], "unit": units})
    n = len(asked.schema) - len(embed.ROW) - len(asked.flags)
    first = [float(column[0]) for column in columns[: asked.size if isinstance(model, Kept) else n]]
    if not isinstance(model, Kept):
        serial = _serial(model)
        table = pd.DataFrame({"label": list(model.card.statements), "probability": first})
        table = table.assign(calibrated=np.nan, threshold=np.nan, call="", serial=table.label.isin(serial))
    else:
        table = pd.DataFrame({"label": model.labels, "probability": first})
        table = table.assign(calibrated=[float(column[0]) for column in columns[asked.size : 2 * asked.size]])
        words = [{None: "", 0: "no", 1: "yes"}[column[0].as_py()] for column in columns[2 * asked.size :]]
        table = table.assign(threshold=model.thresholds, call=words, serial=False)
    return table.sort_values("probability", ascending=False, kind="stable", ignore_index=True)
