"""How a cohort gets written: plan and checks, two parallel passes over the recordings, tables, a whole folder at once.

The first pass reads every record and decides whether it is kept and how many windows it gives; then the memory map has
its final size, and the second pass writes straight into it. Only row numbers, file names and R peaks travel between
processes, never signals. `ecglib.data.cohort.pack` is the way in and says what the settings mean.

Refused (the record goes to rejected.csv): it cannot be read, whatever the error; a lead name is unknown; its rate has
no simple ratio to the study's; no wanted lead has a signal; a lead is partly missing beyond MAX_NAN_SHARE; the
amplitude is implausible (a unit slip).
Kept and marked: a flat or missing lead is zeros with its bit cleared in `lead_mask`; a shorter gap is interpolated and
sets the lead's bit in `gap_mask`; samples beyond +-32.767 mV are clipped and set the lead's bit in `clipped_mask`.
"""

import inspect
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path
from types import NoneType

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ecglib import EcgError, __version__, require_known, require_type, workers_started
from ecglib.data import files, filters, handmade, quality, rpeaks, splits
from ecglib.data import labels as vocabulary
from ecglib.data.recording import Recording, canonical, varies

MAX_NAN_SHARE = 0.2  # of the samples of a lead in the packed part; beyond it the record is refused
# Robust peak: of the strongest lead, below: volt read as millivolt, or no signal; of the median lead, above: microvolt
# read as millivolt, or noise alone.
MIN_PEAK_MV, MAX_PEAK_MV = quality.PLAUSIBLE_MV
PEAK_PERCENTILE = 99  # of |sample - median| in a lead: its robust peak
COUNTS_PER_MV = 1000  # one stored count is one microvolt
MARGIN_S = 1.0  # read beyond a first window, so that resampling has no edge at its end
MIN_FS = 60  # Hz; the R-peak detector filters up to 25 Hz
FORMAT = 1
CHUNK = 32  # records per task
WINDOWS = ("first", "all")
MAX_LINES, MAX_WIDTH = 12, 160  # of what is printed at the end
FILES = ("signals.npy", "records.parquet", "labels.parquet", "beats.parquet", "measurements.parquet", "rejected.csv")
TYPES = [("fs", Real, "number"), ("seconds", Real, "number"), ("windows", str, "word")]
TYPES += [
    ("leads", (str, list, tuple, NoneType), "list of names"),
    ("labels", (list, tuple, NoneType), "list of names"),
]
TYPES += [("options", (dict, NoneType), "mapping"), ("backend", (str, NoneType), "word")]
_LARGEST = np.iinfo(np.int16).max
_PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "wfdb", "sleepecg")
_COMMON = ("record_id", "patient_id", "split", "age", "sex", "report")
_MASKS = ("lead_mask", "gap_mask", "clipped_mask")
RESERVED = ("row", "window", "start_s", "n_valid", "file", "fs_recorded", *_MASKS, "n_windows")


@dataclass(frozen=True)
class Settings:
    """How a corpus is packed. The first four and `options` and `labels` make the result, the others do not change it.

    fs: Hz. seconds: of a window. leads: standard names; None: all that the dataset provides. windows: "first" takes the
    first `seconds` of each record, "all" every full window; a shorter record is zero-padded (`n_valid` counts its
    samples). options: for `records` and `labels` of the dataset. labels: keep only these; None: all.
    fs_tolerance: by what part the time axis may be off where a record's rate (249.89 Hz) has no simple ratio to fs.
    workers: processes. backend: of joblib, such as "dask" with a dask.distributed Client open (its workers must see the
    same files). progress: called with (records done, records in all), every record counting twice (check, write).
    """

    fs: float = 100
    seconds: float = 10
    leads: tuple[str, ...] | None = None
    windows: str = "first"
    workers: int = 2
    backend: str | None = None
    options: dict = field(default_factory=dict)
    labels: list[str] | None = None
    fs_tolerance: float = 0.0
    progress: Callable[[int, int], None] | None = None


def settings(given: dict) -> Settings:
    """Settings by name; EcgError that lists the names for an unknown one."""
    require_known("setting", given, [setting.name for setting in fields(Settings)], "pack")
    return Settings(**given)


@dataclass(frozen=True)
class Plan:
    """What a cohort stores: fs in Hz, window length in seconds, leads in order, windows and fs_tolerance as set."""

    fs: float
    seconds: float
    leads: tuple[str, ...]
    windows: str
    fs_tolerance: float = 0.0

    @property
    def n_times(self) -> int:
        """Samples of a window."""
        return round(self.seconds * self.fs)


def examine(dataset_read, plan: Plan, rows: list[dict]) -> list[dict]:
    """Read each record once: {"n_windows": int, "fs": Hz} of each, or {"file", "field", "reason", "fix"} where refused.

    Any error in reading one record refuses that record, with the type and message of the error; only a lack of memory,
    which says nothing about the record, ends the pack.
    """
    out = []
    for row in rows:
        try:
            recording = dataset_read(row)
            filters.ratio(recording.fs, plan.fs, plan.fs_tolerance)
            n_windows = _n_windows(checked(recording, plan), plan)
        except MemoryError:
            raise
        except Exception as error:  # a corpus holds one bad record or another, of a kind that nobody thought of
            named = _with_file(error, row)
            said = {"file": named.file, "field": named.field or "", "reason": named.reason, "fix": named.fix or ""}
            out.append(said)
            continue
        out.append({"n_windows": n_windows, "fs": recording.fs})
    return out


def _n_windows(recording: Recording, plan: Plan) -> int:
    """How many windows a recording gives."""
    n_times = filters.n_resampled(recording.signal.shape[1], recording.fs, plan.fs, plan.fs_tolerance)
    return 1 if plan.windows == "first" else max(1, n_times // plan.n_times)


def _with_file(error: Exception, row: dict) -> EcgError:
    """The error with the file of the record; an error that is no EcgError keeps its type in the reason."""
    if isinstance(error, EcgError):
        return EcgError(error.reason, file=error.file or row["path"], field=error.field, fix=error.fix)
    return EcgError(f"{type(error).__name__}: {error}", file=row["path"])


def checked(recording: Recording, plan: Plan) -> Recording:
    """The wanted leads of the part that is packed; raises EcgError where the rules above refuse the recording."""
    recording = recording.select(plan.leads)
    if plan.windows == "first":
        recording = cut(recording, 0, plan.seconds)
    if not recording.signal.shape[1]:
        raise EcgError("zero length", field="signal")
    n_finite = np.isfinite(recording.signal).sum(axis=1)
    if not (n_finite.astype(bool) & recording.lead_mask).any():
        raise EcgError("no wanted lead has a signal", field="signal", fix=f"leads wanted: {', '.join(plan.leads)}")
    share = np.where(recording.lead_mask, 1 - n_finite / recording.signal.shape[1], 0)
    worst = int(share.argmax())
    if share[worst] > MAX_NAN_SHARE:
        lead = recording.leads[worst]
        raise EcgError(f"{share[worst]:.0%} of the samples of lead {lead} are missing", field="missing samples")
    live = recording.signal[recording.lead_mask]
    wrong = _implausible(live, bool((n_finite[recording.lead_mask] == live.shape[1]).all()))
    if wrong is not None:
        raise EcgError(f"implausible amplitude: {wrong:.3g} mV", field="amplitude", fix="check the gain")
    return recording


def _implausible(live: np.ndarray, complete: bool) -> float | None:
    """The robust peak (mV) for which leads (lead, time) are refused, None where it is plausible.

    complete: no sample is missing. No peak exceeds the range of its lead, and that of the widest lead alone nearly
    always says that there is a signal: then the others, whose order statistics take long, are not needed.
    """
    if complete:
        ranges = np.ptp(live, axis=1)
        if np.median(ranges) <= MAX_PEAK_MV and _robust_peaks(live[[ranges.argmax()]])[0] >= MIN_PEAK_MV:
            return None
    peaks = _robust_peaks(live, complete)
    return np.median(peaks) if np.median(peaks) > MAX_PEAK_MV else peaks.max() if peaks.max() < MIN_PEAK_MV else None


def _robust_peaks(live: np.ndarray, complete: bool = True) -> np.ndarray:
    """Robust peak of each lead of (lead, time), mV: PEAK_PERCENTILE of |sample - median|."""
    # the functions that skip NaN are several times slower
    median, percentile = (np.median, np.percentile) if complete else (np.nanmedian, np.nanpercentile)
    return percentile(np.abs(live - median(live, axis=1, keepdims=True)), PEAK_PERCENTILE, axis=1)


def cut(recording: Recording, start: float, seconds: float) -> Recording:
    """The part from `start` on, in seconds; a lead without change in it loses its mark in lead_mask."""
    first, last = round(start * recording.fs), round((start + seconds) * recording.fs)
    signal = recording.signal[:, first:last]
    return replace(recording, signal=signal, lead_mask=recording.lead_mask & varies(signal))


def write_rows(dataset_read, plan: Plan, rows: list[dict], first_rows: list[int], signals_path: str) -> list[dict]:
    """Write the windows of records into the memory map, from the rows `first_rows` on; returns the facts of each.

    Raises EcgError with the file of a record that `examine` accepted and that now fails.
    """
    signals = np.load(signals_path, mmap_mode="r+")
    out = []
    for row, first in zip(rows, first_rows, strict=True):
        try:
            windows = prepare(dataset_read(row), plan, n_windows=row["n_windows"])
        except MemoryError:
            raise
        except Exception as error:  # it passed the first reading: the pack ends, but must say where
            raise _with_file(error, row) from error
        for k, (counts, facts) in enumerate(windows):
            signals[first + k] = counts
            out.append(facts)
    signals.flush()
    return out


def prepare(
    recording: Recording, plan: Plan, peaks: bool = True, n_windows: int = 0, measured: bool = True
) -> list[tuple[np.ndarray, dict]]:
    """Return the windows of a recording: int16 microvolt (lead, n_times), zero-padded at the end, and their facts.

    peaks: look for R peaks, too; measured: and measure these beats. n_windows: so many (0: as many as are full, one at
    least).
    """
    recording = recording.select(plan.leads)
    if plan.windows == "first":
        recording = cut(recording, 0, plan.seconds + MARGIN_S)
    signal = filters.resample(filled(recording), recording.fs, plan.fs, plan.fs_tolerance)
    windows = range(n_windows or _n_windows(recording, plan))
    return [_window(recording, signal, k, plan, peaks, measured) for k in windows]


def _window(
    recording: Recording, signal: np.ndarray, k: int, plan: Plan, peaks: bool, measured: bool
) -> tuple[np.ndarray, dict]:
    raw = cut(recording, k * plan.seconds, plan.seconds)
    x = signal[:, k * plan.n_times : (k + 1) * plan.n_times] * raw.lead_mask[:, None]
    n_valid = x.shape[1]
    microvolt = np.rint(x * COUNTS_PER_MV)
    counts = np.zeros((len(plan.leads), plan.n_times), np.int16)
    counts[:, :n_valid] = np.clip(microvolt, -_LARGEST, _LARGEST)
    stored = counts[:, :n_valid].astype(np.float32) / COUNTS_PER_MV
    samples = rpeaks.r_peaks(stored, plan.fs) if peaks and raw.lead_mask.any() else np.zeros(0, int)
    facts = {
        "start_s": k * plan.seconds,
        "n_valid": n_valid,
        "lead_mask": bits(raw.lead_mask),
        "gap_mask": bits(~np.isfinite(raw.signal).all(axis=1) & raw.lead_mask),
        "clipped_mask": bits((np.abs(microvolt) > _LARGEST).any(axis=1)),
        "peaks": np.asarray(samples, np.int32),
    }
    if peaks and measured:
        facts["measured"] = handmade.of_record(stored, plan.fs, samples, plan.leads, raw.lead_mask)
    return counts, facts


def filled(recording: Recording) -> np.ndarray:
    """Its signal, float32 (lead, time) in mV: gaps interpolated, zeros for a lead that is missing or does not move."""
    used = recording.lead_mask & varies(recording.signal)
    out = np.where(used[:, None], recording.signal, np.float32(0))
    finite, at = np.isfinite(out), np.arange(out.shape[1])
    for i in np.flatnonzero(~finite.all(axis=1)):
        out[i] = np.interp(at, at[finite[i]], out[i, finite[i]])  # the nearest value at the ends
    return out


def bits(flags: np.ndarray) -> int:
    """Pack flags (lead,) into an integer, bit i for lead i."""
    return int((1 << np.flatnonzero(flags)).sum())


def unpack_bits(values: np.ndarray, n_leads: int) -> np.ndarray:
    """The reverse of `bits` for an array of integers: bool (..., lead)."""
    return (np.asarray(values, np.int64)[..., None] >> np.arange(n_leads) & 1).astype(bool)


def allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Write an int16 .npy of zeros, so that a full disk shows as an error here and not as a crash of a memory map."""
    with files.naming(path), path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i2", "fortran_order": False, "shape": shape})
        left = 2 * int(np.prod(shape))
        block = memoryview(bytes(1 << 22))
        while left:
            left -= file.write(block[: min(left, len(block))])


def cores() -> int:
    """How many processors this process may use."""
    return joblib.cpu_count()


def tables(dataset, root, out, settings: Settings) -> tuple[Plan, pd.DataFrame, pd.DataFrame]:
    """The plan of a cohort, the records and the label states of its corpus; EcgError, as of `cohort.pack`, before any
    recording is read."""
    _require_types(settings)
    files.output_folder(out, written, [root])
    options = dict(settings.options or {})
    provided = dataset.leads(**options) if hasattr(dataset, "leads") else dataset.LEADS
    layout = plan(settings.fs, settings.seconds, settings.leads or provided, settings.windows, settings.fs_tolerance)
    return layout, *_corpus(dataset, root, options, settings.labels)


def pack(name: str, dataset, root, out, settings: Settings, run: Callable | None = None) -> None:
    """See `cohort.pack`. run: called as a Runner, in place of one: what it says of the recordings is taken."""
    layout, records, states = tables(dataset, root, out, settings)
    run = run or Runner(dataset.read, layout, settings, 2 * len(records))
    options = dict(settings.options or {})
    root = Path(root).resolve()
    notes = list(records.attrs.get("notes", []))
    with files.new_folder(out, written, [root]) as folder:
        examined = run(examine, records.to_dict("records"))
        kept, rejected = _sort_out(records, examined, root)
        rows = _write_signals(kept, run, layout, folder / "signals.npy")
        _write_tables(folder, kept, rows, states, rejected, root, layout)
        info = {"name": name, "dataset": _provenance(dataset, options) | {"notes": notes}}
        info["counts"] = _counts(records, kept, rows, rejected, layout)
        info |= {"label_set": states.attrs["label_set"]} if "label_set" in states.attrs else {}
        info["labels"] = vocabulary.counts(states.loc[kept.record_id])
        info["read_as"] = _read_as(records, kept, states, info["counts"], layout)
        _write_info(folder, layout, info)
    _print_summary(info, rejected)


def _read_as(records, kept: pd.DataFrame, states: pd.DataFrame, counts: dict, plan: Plan) -> dict[str, str]:
    """What was taken for what: patients, splits, labels with their positives, metadata, rates and leads."""
    said = {"patients": "", "splits": "", "labels": "", "metadata": "", "rates": "", "leads": ""}
    said |= records.attrs.get("read_as", {"labels": vocabulary.set_name(states.attrs.get("label_set"))})
    present = states.loc[kept.record_id] == vocabulary.PRESENT
    of_split = kept.split.replace("", "none").to_numpy()
    order = [name for name in (*splits.SPLITS, "none") if name in of_split]
    present = present.groupby(of_split).sum().loc[order]
    rates, n_lacking = kept.fs_recorded.value_counts().sort_index(), counts["rows_with_missing_lead"]
    lacking = f"; {n_lacking} of {counts['rows']} windows lack some" if n_lacking else ""
    found = {
        "patients": f"{counts['patients']} patients of {len(kept)} records",
        "splits": ", ".join(f"{name} {(of_split == name).sum()}" for name in order),
        "labels": "; ".join(f"{c} ({', '.join(f'{s} {n}' for s, n in present[c].items())})" for c in states),
        "metadata": "" if said["metadata"] else ", ".join((*_COMMON[3:], *_metadata(records))),
        "rates": ", ".join(f"{n} x {rate:g} Hz" for rate, n in rates.items()) + f", stored at {plan.fs:g} Hz",
        "leads": ", ".join(plan.leads) + lacking,
    }
    return {k: ": ".join(part for part in (said[k], found.get(k)) if part) for k in said}


def _print_summary(info: dict, rejected: pd.DataFrame) -> None:
    """At most MAX_LINES: how many records, what was taken for what, the commonest remedies, and notes."""
    name, counts = info["name"], info["counts"]
    reasons = "".join(f", {n} {reason}" for reason, n in counts["rejected_by_reason"].items())
    lines = [f"{counts['packed']} of {counts['records']} records packed, {counts['rejected']} rejected{reasons}"]
    lines += [_shortened(f"{what}: {text}") for what, text in info["read_as"].items()]
    fixes = rejected.fix[rejected.fix != ""].value_counts()
    lines += [f"{n} rejected -> {fix}" for fix, n in list(fixes.items())[:2]] + info["dataset"]["notes"]
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], f"and {len(lines) - MAX_LINES + 1} more notes: cohort.json, rejected.csv"]
    for line in lines:
        print(f"{name}: {line}")


def _shortened(line: str) -> str:
    """As many items of a list as fit into MAX_WIDTH, and how many more there are."""
    mark = "; " if "; " in line else ", "
    parts = line.split(mark)
    shown = len(parts)
    while shown > 1 and len(mark.join(parts[:shown])) > MAX_WIDTH:
        shown -= 1
    return mark.join(parts[:shown]) + (f"{mark}... and {len(parts) - shown} more" if shown < len(parts) else "")


def written(folder: Path) -> set[str]:
    """Files of the cohort in a folder, as its cohort.json tells."""
    return {"cohort.json", *json.loads((folder / "cohort.json").read_text("utf-8"))["sha256"]}


def _require_types(settings: Settings) -> None:
    require_type("workers", settings.workers, Integral, "number of processes", least=1)
    for name, kind, what in TYPES:
        require_type(name, getattr(settings, name), kind, what)


def require_tolerance(fs_tolerance) -> None:
    """EcgError for what is no part of a rate below a tenth."""
    if not (isinstance(fs_tolerance, (int, float)) and 0 <= fs_tolerance < 0.1):
        raise EcgError(f"fs_tolerance={fs_tolerance!r}", field="fs_tolerance", fix="a part of the rate, such as 0.0001")


def plan(fs, seconds, leads, windows: str, fs_tolerance: float = 0.0) -> Plan:
    """What is stored of each recording; EcgError for windows, lengths, rates and leads that cannot be."""
    require_tolerance(fs_tolerance)
    require_known("windows", [windows], WINDOWS)
    if not (fs > 0 and seconds > 0 and round(fs * seconds) > 0):
        raise EcgError(f"no window of {seconds} s at {fs} Hz", field="seconds")
    if fs < MIN_FS:
        raise EcgError(f"{fs} Hz is too slow to find R peaks", field="fs", fix=f"take at least {MIN_FS} Hz")
    leads = tuple(canonical(n) for n in ([leads] if isinstance(leads, str) else leads))
    if len(set(leads)) < len(leads):
        raise EcgError(f"a lead is named twice: {', '.join(leads)}", field="leads")
    return Plan(fs, seconds, leads, windows, fs_tolerance)


def _corpus(dataset, root, options: dict, labels) -> tuple[pd.DataFrame, pd.DataFrame]:
    parameters = inspect.signature(dataset.records).parameters.values()
    valid = list(getattr(dataset, "OPTIONS", [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]))
    require_known("option", options, valid, "options")
    records = dataset.records(root, **options)
    if records.empty:
        raise EcgError("the cohort is empty", file=root, field="records", fix="check the table of records")
    splits.check(records)
    if taken := [c for c in _metadata(records) if c in RESERVED]:
        fix = f"rename it in the table, or leave it out: option drop={taken}"
        raise EcgError("a column of this name is written by the packing", file=root, field=taken[0], fix=fix)
    states = dataset.labels(root, records, **options)
    require_known("label column", labels or (), list(states), "labels", root)
    states = states if labels is None else states[list(dict.fromkeys(labels))]
    if "record_id" in states:
        raise EcgError("record_id is the name of no label", file=root, field="labels", fix="rename it in the table")
    if list(states.index) != list(records.record_id):
        raise EcgError("labels and records do not list the same record ids", file=root, field="record_id")
    never = [str(c) for c in states if not (states[c] == vocabulary.PRESENT).any()]
    if never:
        fix = f"leave it out: labels={[str(c) for c in states if str(c) not in never]}"
        raise EcgError(f"no record has the label {', '.join(never)}", file=root, field="labels", fix=fix)
    return records.reset_index(drop=True), states


def _metadata(records: pd.DataFrame) -> tuple[str, ...]:
    return tuple(c for c in records if c not in (*_COMMON, "path"))


class Runner:
    """Runs `examine` or `write_rows` over chunks of records in parallel, results in order."""

    def __init__(self, read, plan: Plan, settings: Settings, total: int):
        self.read, self.plan, self.total, self.done = read, plan, total, 0
        self.progress = settings.progress
        self.parallel = {"backend": settings.backend or "loky", "n_jobs": settings.workers}

    def __call__(self, function, rows: list[dict], *per_row: list, **fixed) -> list:
        if function is write_rows:
            self.done = self.total // 2  # of the refused records there is nothing to write
        chunks = [slice(start, start + CHUNK) for start in range(0, len(rows), CHUNK)]
        task, out = joblib.delayed(function), []
        tasks = (task(self.read, self.plan, rows[c], *(v[c] for v in per_row), **fixed) for c in chunks)
        with joblib.parallel_config(**self.parallel):
            with workers_started():
                done = joblib.Parallel(return_as="generator")(tasks)
            for chunk, results in zip(chunks, done, strict=True):
                out += results
                self.done += len(rows[chunk])
                if self.progress:
                    self.progress(self.done, self.total)
        return out


def _sort_out(records: pd.DataFrame, examined: list[dict], root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    good = [result for result in examined if "n_windows" in result]
    kept = records[["n_windows" in result for result in examined]].reset_index(drop=True)
    kept["n_windows"] = np.array([result["n_windows"] for result in good], int)
    kept["fs_recorded"] = np.array([result["fs"] for result in good], float)
    lines = [
        [record_id, *(_relative(result[key], root) for key in ("file", "field", "reason", "fix"))]
        for record_id, result in zip(records.record_id, examined, strict=True)
        if "n_windows" not in result
    ]
    rejected = pd.DataFrame(lines, columns=["record_id", "file", "field", "reason", "fix"])
    if kept.empty:
        first = rejected.iloc[0]
        reason = f"every one of {len(records)} records is refused; the first: {first.reason}"
        fix = first.fix or "check the folder and the options"
        raise EcgError(reason, file=first.file, field=first.field or None, fix=fix)
    return kept, rejected


def _relative(text, root: Path) -> str:
    """A path or message without the folder of the corpus, so that tables do not depend on where it lies."""
    return str(text).replace(f"{root.as_posix()}/", "")


def _write_signals(kept: pd.DataFrame, run, plan: Plan, path: Path) -> pd.DataFrame:
    ends = kept.n_windows.cumsum()
    allocate(path, (int(ends.iloc[-1]), len(plan.leads), plan.n_times))
    facts = run(write_rows, kept.to_dict("records"), list(ends - kept.n_windows), signals_path=str(path))
    rows = pd.DataFrame(facts)
    rows.insert(0, "row", np.arange(len(rows)))
    rows.insert(1, "window", np.concatenate([np.arange(n) for n in kept.n_windows]))
    rows.insert(2, "record", np.repeat(np.arange(len(kept)), kept.n_windows))
    return rows


def _write_tables(folder: Path, kept, rows: pd.DataFrame, states, rejected, root: Path, plan: Plan) -> None:
    of_row = kept.iloc[rows.record].reset_index(drop=True)
    rows = rows.astype(dict.fromkeys(("row", "window", "n_valid"), np.int32) | dict.fromkeys(_MASKS, np.uint16))
    of_row["file"] = [Path(os.path.relpath(p, root)).as_posix() for p in of_row.path]
    table = pd.concat([rows[["row", "window", "start_s", "n_valid", *_MASKS]], of_row], axis=1)
    first = ["row", "record_id", "window", "start_s", "n_valid", *_COMMON[1:], "file", "fs_recorded", *_MASKS]
    metadata = [c for c in of_row if c not in (*first, "path", "n_windows")]
    _write_parquet(table[[*first, *metadata]], folder / "records.parquet")
    stated = {"label_set": vocabulary.set_name(states.attrs.get("label_set"))}
    labels = states.loc[kept.record_id].rename_axis("record_id").reset_index()
    _write_parquet(labels, folder / "labels.parquet", stated if stated["label_set"] else None)
    of_peak = np.repeat(np.arange(len(rows), dtype=np.int32), [len(p) for p in rows.peaks])
    peaks = pd.DataFrame({"row": of_peak, "sample": np.concatenate(rows.peaks.to_list())})
    _write_parquet(peaks, folder / "beats.parquet")
    _write_measurements(rows, of_row.record_id, plan, folder / "measurements.parquet")
    files.write_csv(rejected, folder / "rejected.csv")


def _write_measurements(rows: pd.DataFrame, record_ids, plan: Plan, path: Path) -> None:
    """One row per window: row, record_id and every hand-made measurement, its unit in the metadata of the column."""
    names = handmade.feature_names(plan.leads)
    columns = list(np.stack(rows.measured.to_list()).astype(np.float32).T)
    fields = [pa.field("row", pa.int32()), pa.field("record_id", pa.string())]
    fields += [pa.field(name, pa.float32(), metadata={"unit": handmade.unit(name)}) for name in names]
    arrays = [pa.array(rows.row.to_numpy(np.int32)), pa.array(record_ids.astype(str)), *map(pa.array, columns)]
    with files.naming(path):
        table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
        pq.write_table(table, path, compression="none", version="2.6")


def _write_parquet(table: pd.DataFrame, path: Path, facts: dict | None = None) -> None:
    """Plain and uncompressed, without the writer's pandas metadata: the bytes depend on the values and facts only."""
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(facts)
    with files.naming(path):
        pq.write_table(arrow, path, compression="none", version="2.6")


def _provenance(dataset, options: dict) -> dict:
    """Provenance of the corpus; an absolute path among the options is cut to its name."""
    plain = {k: Path(v).name if isinstance(v, str) and os.path.isabs(v) else v for k, v in options.items()}
    names = ("URL", "VERSION", "LICENCE", "CITATION", "VOCABULARY", "CORPUS", "N_RECORDS")
    module = dataset.__name__.rsplit(".", 1)[-1]
    facts = {n.lower(): getattr(dataset, n) for n in names}
    facts |= {name: options.get(name) or facts[name] for name in ("vocabulary", "corpus")}  # a folder's owner says them
    return {"module": module, "options": plain} | facts


def _counts(records, kept, rows: pd.DataFrame, rejected: pd.DataFrame, plan: Plan) -> dict:
    all_leads = bits(np.ones(len(plan.leads), bool))
    reasons = rejected.field.where(rejected.field != "", rejected.reason.str.split(":").str[0])
    splits_of_rows = kept.split.iloc[rows.record]
    sizes = {"records": len(records), "packed": len(kept), "rejected": len(rejected), "rows": len(rows)}
    return sizes | {
        "rejected_by_reason": reasons.value_counts().sort_index().to_dict(),
        "patients": int(kept.patient_id.nunique()),
        "rows_by_split": splits_of_rows.value_counts().sort_index().to_dict(),
        "rows_with_missing_lead": int((rows.lead_mask != all_leads).sum()),
        "rows_with_gap": int((rows.gap_mask > 0).sum()),
        "rows_clipped": int((rows.clipped_mask > 0).sum()),
        "rows_padded": int((rows.n_valid < plan.n_times).sum()),
        "beats": int(sum(map(len, rows.peaks))),
        **_rates(kept.fs_recorded, plan),
    }


def _rates(fs_recorded: pd.Series, plan: Plan) -> dict:
    """How many records were resampled at a rate that is not quite theirs, and how far off it is at most, as a part."""
    if not plan.fs_tolerance:
        return {}
    ratios = [filters.ratio(fs, plan.fs, plan.fs_tolerance) for fs in fs_recorded]
    off = [abs(up / down * fs / plan.fs - 1) for (up, down), fs in zip(ratios, fs_recorded, strict=True)]
    return {"rates_approximated": sum(value > 1e-12 for value in off), "largest_rate_deviation": max(off)}


def versions() -> dict[str, str]:
    """Versions of all that the bytes of a cohort depend on, by package."""
    return {"ecglib": __version__, **{package: version(package) for package in _PACKAGES}}


def _write_info(folder: Path, plan: Plan, info: dict) -> None:
    limits = {"max_nan_share": MAX_NAN_SHARE, "max_peak_mv": MAX_PEAK_MV, "min_peak_mv": MIN_PEAK_MV}
    info |= {name: value for name, value in asdict(plan).items() if name != "fs_tolerance" or value} | {
        "format": FORMAT,
        "counts_per_mv": COUNTS_PER_MV,
        "limits": limits | {"peak_percentile": PEAK_PERCENTILE},
        "versions": versions(),
        "sha256": {file: files.sha256(folder / file) for file in FILES},
    }
    text = json.dumps(info, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / "cohort.json").write_text(text + "\n", "utf-8")
