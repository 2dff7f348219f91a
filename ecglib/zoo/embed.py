"""Features of a published model for every record below some folders, as one parquet file: the command `embed`.

Records stream through in chunks, several side by side with one core each: on few cores that is faster than one batch on
all of them, and the numbers do not depend on how many there are. Each chunk that is done lies beside the output, named
by a hash of all that it came from, so that a run that was stopped goes on from there.
"""

import hashlib
import io
import json
import os
import re
import shutil
import time
from collections import Counter, defaultdict
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecglib import EcgError, __version__, zoo
from ecglib.data import filters, packing, wfdb_io
from ecglib.data.files import claimed, csv_text, headers, output_file, rubbish, write_atomic, write_csv
from ecglib.data.recording import canonical, standard
from ecglib.data.shares import NOTE, Part
from ecglib.zoo import array_jobs

CHUNK = 32  # records, or two batches if those are more: what a stopped run computes again at most, for each core
ROW_GROUP = 4096  # rows that are in memory while the file is put together
MAX_WORKERS = 16  # each holds the activations of one batch
SUFFIXES = (".hea", ".HEA", ".dat", ".mat")  # of the files of a record
SHOWN_S = 2.0  # between two lines of progress
SHOWN = 6  # lines at the end on leads, and as many on refusals, the most frequent first
STEPS = ("reading_s", "preparing_s", "network_s")
ROW = {"record": pa.string(), "folder": pa.int16(), "seconds": pa.float64(), "fs": pa.float64()}
ROW |= {"n_crops": pa.int32(), "missing_leads": pa.string()}
WRITING = dict(compression="zstd", compression_level=3, use_dictionary=["record", "missing_leads"])
WRITING |= dict(write_statistics=list(ROW))  # bounds of every feature would be most of a small file


def run(
    model,
    folders,
    out,
    *,
    batch: int = 16,
    head: bool = False,
    pattern="**/*.hea",
    lead_names=None,
    progress=print,
    part="",
    fs_tolerance: float = 0.0,
) -> dict:
    """Write features of every WFDB record below `folders` to `out` (.parquet), the refused ones to *.rejected.csv.

    model: of `zoo.load`, moved to the GPU where there is one; folders, pattern: where to look, and for which headers.
    out: the columns are record, folder (number of the argument), seconds, fs, n_crops, missing_leads, z_0000 .. (the
    mean over consecutive crops, as on the card), "p: " + statement.
    batch: crops at a time; head: also the probabilities of the release's own statements.
    lead_names: {name in the files: standard name, or "" to leave the channel out}.
    progress: told lines of text, at the end on leads and refusals; part: "2/3" computes a share, for `merge`.
    fs_tolerance: as of `packing.Settings`, for rates without a simple ratio to that of the model.
    Returns records, refused, kept (done by a run that was stopped), crops, records_per_s, and the seconds of all cores
    together in reading, preparing and network. Raises EcgError for input that cannot be, and where all was refused.
    """
    out = Path(out)
    if out.suffix != ".parquet":
        raise EcgError("the output is no .parquet file", file=out, field="out", fix="name it like features.parquet")
    reader = Features(model, head, fs_tolerance)
    options = dict(batch=batch, lead_names=lead_names, progress=progress, part=part)
    return stream(reader, folders, lambda: find(folders, pattern, progress), out, **options)


def no_number(file=None) -> EcgError:
    """What is told of a record from which the network makes no number; file: the record, where it is not told."""
    fix = "look at the signal of this record; where all are refused, at the weights"
    return EcgError("the network gives NaN or infinity", file=file, field="features", fix=fix)


def stream(reader, folders, records, out: Path, *, batch: int, lead_names=None, progress=print, part="") -> dict:
    """What `reader` makes of records, to `out` (.parquet or .csv), the refused ones to *.rejected.csv; see `run`.

    reader: as `Features`; records: function that lists (number of the folder, name); the rest, and what comes back, as
    of `run`. Of a share, "records" counts those that were looked at, and the table is left to `merge`.
    """
    part = Part.read(part)
    if batch < 1:
        raise EcgError(f"batch={batch}", field="batch", fix="take one crop or more at a time")
    for name in (lead_names := dict(lead_names or {})).values():
        canonical(name or "I")
    output_file(output_file(out, _own).with_suffix(".rejected.csv"), _own)
    records, parts = records(), out.with_suffix(".part") if part is None else part.folder(out)
    reader.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    with claimed(parts, "embed"):
        progress(f"{len(records):,} records through {reader.title}")
        (parts / NOTE).unlink(missing_ok=True)
        files, facts = _computed(reader, folders, records, parts, batch, lead_names, progress, part)
        note = array_jobs.note(reader.schema, reader.leads, files)
        if part is not None:
            note.write(parts)
            return facts
        counts = _written(note, files, out, parts, progress)
        shutil.rmtree(parts)
    return _some(counts, out) | facts


def merge(out, progress=print) -> dict:
    """Put the shares of a run together to the file `out` (and *.rejected.csv): the bytes that one run would write.

    out: what was named where the shares were computed; progress: as of `run`. Returns records, refused and crops.
    Raises EcgError as `array_jobs.finished`, and where all was refused.
    """
    out = Path(out)
    output_file(output_file(out, _own).with_suffix(".rejected.csv"), _own)
    note, files, folders = array_jobs.finished(out)
    with ExitStack() as held:
        for folder in folders:
            held.enter_context(claimed(folder, "embed"))
        counts = _written(note, files, out, folders[0], progress)
        for folder in folders:
            shutil.rmtree(folder)
    return _some(counts, out)


def shared(job, out, workers: int, backend: str = "dask", progress=print) -> dict:
    """Compute the shares of a run on a cluster and `merge` them: the bytes of one run.

    job: `run`, or that of `predict`, as a functools.partial with all but `part` and `progress`; out: the file that it
    names; workers, backend, progress: as of `array_jobs.spread`. Returns, and raises, what a run does.
    """
    return array_jobs.spread(job, workers, backend, progress) | merge(out, progress)


def _written(note, files: list[Path], out: Path, folder: Path, progress) -> dict:
    """Write the table of all chunks and that of the refused, and tell what lacked; folder: for what is unfinished."""
    schema = pa.schema([(field.name, field.type) for field in pq.read_schema(files[0])], note.facts)
    counts, refused, leads = _assembled(files, folder / f"whole{out.suffix}", schema)
    lines = pd.DataFrame(refused, columns=["record", "field", "reason", "fix", "folder"])
    write_csv(lines, out.with_suffix(".rejected.csv"))
    for line in [*_on_leads(leads, note.leads), *_on_refusals(lines)]:
        progress(line)
    if counts["records"]:
        os.replace(folder / f"whole{out.suffix}", out)
        return counts
    return counts | {"first": dict(lines.iloc[0])}


def _some(counts: dict, out: Path) -> dict:
    """The counts; EcgError where no record was left."""
    if not counts["records"]:
        first = counts["first"]
        reason = f"none of {counts['refused']:,} records can be used. {first['record']}: {first['reason']}"
        file = out.with_suffix(".rejected.csv")
        raise EcgError(reason, file=file, field=first["field"], fix="this file says why of each")
    return counts


def _on_leads(leads: Counter, wanted) -> list[str]:
    """Lines that say how many of the leads that the model reads were there, and which channels were not taken."""
    lines = [f"{len(leads) - SHOWN} more kinds of records: see missing_leads"] if len(leads) > SHOWN else []
    for (missing, unknown), number in reversed(leads.most_common(SHOWN)):
        line = f"{len(wanted) - len(missing.split())} of {len(wanted)} leads taken from {number:,} records"
        line += f"; missing, fed as zeros: {missing}" if missing else ""
        line += f"; not standard names, not taken: {unknown}" if unknown else ""
        lines.insert(0, line + (f" -> {_remedy(unknown)}" if missing and unknown else ""))
    return lines


def _on_refusals(table: pd.DataFrame) -> list[str]:
    kinds = Counter(zip(table.reason, table.fix, strict=True)).most_common(SHOWN)
    return [f"refused {number:,}: {reason}" + (f" -> {fix}" if fix else "") for (reason, fix), number in kinds]


def _remedy(unknown: str) -> str:
    return f"say which lead each is: --lead-names '{unknown.split(', ')[0]}=II', or '=' for none"


def _own(path: Path) -> bool:
    """Whether `run` wrote a file: the table, or that of the refused."""
    if path.suffix == ".csv":
        with path.open("rb") as file:
            return file.read(64).startswith((b"record,field,reason", b"record,folder,seconds,fs,n_crops"))
    return {b"model", b"ecglib"} <= set(pq.read_schema(path).metadata)


def read(path) -> tuple[pd.DataFrame, np.ndarray, dict]:
    """What `run` wrote: the table without the features, the features float32 (record, dim), facts about the model."""
    try:
        table = pq.read_table(path)
        features = [name for name in table.column_names if name.startswith("z_")]
        z = np.stack([table[name].to_numpy() for name in features], 1)
    except (OSError, ValueError) as error:
        raise EcgError(f"holds no features: {error}", file=path, fix="give a file that `embed` wrote") from error
    info = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return table.drop_columns(features).replace_schema_metadata().to_pandas(), z, info


def find(folders, pattern: str = "**/*.hea", progress=print) -> list[tuple[int, str]]:
    """(number of the folder, path below it without extension) of every record, sorted within each folder.

    pattern: as of pathlib; .HEA counts as .hea. progress: told how many files of macOS (._name.hea) are left out.
    A header that is a segment of another record of the list is left out. EcgError for a folder without records.
    """
    wanted, records = list(PurePosixPath(re.sub("(?i)hea$", "hea", pattern)).parts), []
    if not wanted or wanted[0] == "/":
        raise EcgError(f"{pattern!r} is no pattern", field="records", fix='try "**/*.hea"')
    for number, folder in enumerate(map(Path, folders)):
        paths, n_rubbish = headers(folder) if folder.is_dir() else ([], 0)
        paths = [path.relative_to(folder).with_suffix("") for path in paths]
        names = sorted(path.as_posix() for path in paths if _fits([*path.parts[:-1], f"{path.name}.hea"], wanted))
        if not names:
            reason = f"no record that fits {pattern}" if folder.is_dir() else "no such folder"
            raise EcgError(reason, file=folder, field="folder", fix="name a folder with WFDB headers (.hea) below it")
        if n_rubbish:
            progress(rubbish(folder, n_rubbish))
        parts = {name: _segments(folder, name) for name in names}
        if len(parts) < len(names):
            raise EcgError("headers .hea and .HEA of one name", file=folder, field="record", fix="rename one")
        segments = {segment for several in parts.values() for segment in several if not parts.get(segment)}
        records += [(number, name) for name in names if name not in segments]
    return records


def _fits(path: list[str], pattern: list[str]) -> bool:
    """Whether the parts of a path fit those of a pattern, where "**" stands for any number of folders."""
    if not pattern or not path:
        return not pattern and not path
    if pattern[0] == "**":
        return _fits(path, pattern[1:]) or _fits(path[1:], pattern)
    return fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def _segments(folder: Path, name: str) -> list[str]:
    """Names of the records that a multi-segment record consists of, its layout included; none for any other."""
    try:
        segments = wfdb_io.segments(folder / f"{name}.hea")
    except EcgError:
        return []  # reading it as a record will say why
    return [Path(os.path.normpath(Path(name).parent / segment)).as_posix() for segment in segments]


def _schema(model, head: bool) -> pa.Schema:
    """Columns of the output, and what must be known about the model beside them."""
    card = model.card
    if head and (not card.statements or model.absent):
        reason = "these weights came without the head" if card.statements else f"{card.title} has no head of its own"
        raise EcgError(reason, file=model.weights, field="head", fix="leave --head out")
    kinds = ROW | {f"z_{i:04d}": pa.float32() for i in range(model.dim)}
    kinds |= {f"p: {statement}": pa.float32() for statement in card.statements if head}
    facts = {"model": card.name, "weights": model.weights, "content": model.content, "licence": card.licence}
    facts |= {"profile": repr(card.chain), "input": card.input(), "ecglib": __version__}
    return pa.schema(list(kinds.items()), facts | ({"warning": zoo.DUMMY_WARNING} if model.weights == "dummy" else {}))


class Features:
    """What `run` makes of a recording: the features of a published model, and what its head says where that is asked.

    `stream` asks any such reader: title, model (moved to the GPU where there is one) and the `leads` that it reads;
    schema: columns of the output, ROW first; key: what the numbers depend on beside the columns; size: how many numbers
    there are per crop.
    """

    def __init__(self, model, head: bool, fs_tolerance: float = 0.0):
        packing.require_tolerance(fs_tolerance)
        self.model, self.title, self.leads, self.size = model, model.card.title, model.card.leads, model.dim
        self.schema, self.key = with_tolerance(_schema(model, head), fs_tolerance), repr(model.card)
        self.plan = packing.Plan(model.card.chain.fs, model.card.crop_s, model.card.leads, "all", fs_tolerance)

    def open(self, recording, many: int):
        """(the wanted leads, cells of the columns behind ROW, batches of `many` crops (crop, lead, time))."""
        recording, card = packing.checked(recording, self.plan), self.model.card
        if not card.chain.linear:
            require_ratio(recording.fs, self.plan)
        return recording, [], _crops(card, packing.filled(recording), recording.fs, many, self.plan.fs_tolerance)

    def values(self, crops: np.ndarray) -> np.ndarray:
        """Numbers (crop, size), whose mean over the crops of a record counts."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(crops).to(_device(self.model))).float().cpu().numpy()

    def columns(self, means: np.ndarray) -> list:
        """The last columns, from the means float64 (record, size)."""
        z = torch.from_numpy(means.astype(np.float32))
        columns = list(z.T.contiguous().numpy())
        if len(ROW) + len(columns) < len(self.schema):
            columns += list(said_of(self.model, z).T)
        return columns


def with_tolerance(schema: pa.Schema, fs_tolerance: float) -> pa.Schema:
    """The schema, whose metadata say by what part rates may be off, where they may."""
    return schema.with_metadata({**schema.metadata, "fs_tolerance": f"{fs_tolerance:g}"}) if fs_tolerance else schema


def require_ratio(fs: float, plan: packing.Plan) -> None:
    """EcgError with the option of `embed` and `predict` where a rate has no ratio to that of a plan."""
    try:
        filters.ratio(fs, plan.fs, plan.fs_tolerance)
    except EcgError as error:
        fix = "--fs-tolerance 0.0001 takes the nearest ratio, if it is off by no more than that; or round the rate"
        raise EcgError(error.reason, field=error.field, fix=error.fix and fix) from error


def said_of(model, z: torch.Tensor) -> np.ndarray:
    """Probabilities (record, statement) of a release's head: it is linear, so what it says of a mean is their mean."""
    with torch.inference_mode():
        return model.head(z.to(_device(model))).sigmoid().cpu().numpy()


def _device(model) -> str:
    return next((value.device.type for value in model.parameters()), "cpu")


def _computed(reader, folders, records, parts, batch, lead_names, progress, part=None) -> tuple[list[Path], dict]:
    """The file of every chunk in order, computed where it is not there yet, and facts about the computation.

    part: the share that is computed; None: all.
    """
    folders, size = [str(Path(folder).resolve()) for folder in folders], max(CHUNK, 2 * batch)
    schema = reader.schema
    key = [reader.key, repr(schema.metadata), schema.names, batch, lead_names, _device(reader.model), torch.__version__]
    chunks = [records[first : first + size] for first in range(0, len(records), size)]
    files = [parts / f"{_digest(chunk, folders, key)}.parquet" for chunk in chunks]
    asked = list(zip(chunks, files, strict=True))
    asked = asked if part is None else part.share(asked)
    missing, total = [(chunk, file) for chunk, file in asked if not file.is_file()], sum(len(c) for c, _ in asked)
    left = sum(len(chunk) for chunk, _ in missing)
    kept, done, shown, seconds, start = total - left, 0, 0.0, np.zeros(len(STEPS)), time.perf_counter()
    made = (reader, batch, lead_names)
    for n, spent in spread(lambda chunk, file: _Chunk(*made).write(chunk, folders, file), missing):
        done, left, seconds, elapsed = done + n, left - n, seconds + spent, time.perf_counter() - start
        if elapsed - shown > SHOWN_S or not left:
            shown, rate = elapsed, done / elapsed
            wait_s = timedelta(seconds=round(left / rate))
            progress(f"{kept + done:,} of {total:,} records, {rate:.3g} records/s, {wait_s} left")
    facts = {"kept": kept, "records_per_s": done / (time.perf_counter() - start)}
    facts |= {} if part is None else {"records": total}
    return files, facts | dict(zip(STEPS, seconds.tolist(), strict=True))


def _digest(chunk, folders, key) -> str:
    """Hash of everything that the features of a chunk come from; of the records, names, sizes and times of change."""
    paths = [os.path.join(folders[n], name + suffix) for n, name in chunk for suffix in SUFFIXES]
    state = [(path, os.path.getsize(path), os.stat(path).st_mtime_ns) for path in paths if os.path.exists(path)]
    return hashlib.sha256(json.dumps([key, chunk, state]).encode()).hexdigest()[:32]


def spread(work, chunks):
    """work(*chunk) of each chunk as it is done, by a thread for each core, in whole single precision on a GPU too."""
    workers, waiting, threads = min(MAX_WORKERS, packing.cores()), set(), torch.get_num_threads()
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    torch.set_num_threads(1)  # of each thread that starts from now on
    pool = ThreadPoolExecutor(workers)
    try:
        with exact:
            for chunk in chunks:
                waiting.add(pool.submit(work, *chunk))
                if len(waiting) > workers:  # memory stays as it is, however many there are
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in as_completed(waiting))
            waiting = set()
    finally:
        pool.shutdown(wait=not waiting, cancel_futures=True)  # Ctrl-C waits for no chunk
        torch.set_num_threads(threads)


class _Chunk:
    """Numbers of a few records. Crops wait, by their length, until there is a batch of them."""

    def __init__(self, reader, batch: int, lead_names: dict):
        self.reader, self.batch, self.lead_names = reader, batch, lead_names
        self.rows, self.sums, self.unknown, self.refused = [], [], [], []
        self.waiting, self.seconds = defaultdict(list), np.zeros(len(STEPS))

    def write(self, records, folders, file: Path) -> tuple[int, np.ndarray]:
        """Write the features of records (number of the folder, name); returns their number and the seconds spent."""
        for number, name in records:
            try:
                with self._timed(0):
                    recording = wfdb_io.read(Path(folders[number], f"{name}.hea"), self.lead_names)
                    unknown = ", ".join(lead for lead in recording.leads if standard(lead) is None)
                    if not any(map(standard, recording.leads)):
                        raise EcgError(f"no standard lead name: {unknown}", field="lead name", fix=_remedy(unknown))
                with self._timed(1):
                    seconds = recording.signal.shape[1] / recording.fs
                    recording, cells, batches = self.reader.open(recording, self.batch)
                    crops = next(batches)
            except MemoryError:
                raise
            except Exception as error:  # folders hold one bad record or another, of a kind that nobody thought of
                self._refuse(name, number, error)
                continue
            missing, fs = " ".join(np.array(recording.leads)[~recording.lead_mask]), recording.fs
            self.rows.append([name, number, seconds, fs, 0, missing, *cells])
            self.sums.append(np.zeros(self.reader.size))
            self.unknown.append(unknown)
            while crops is not None:
                self._queue(crops)
                with self._timed(1):
                    crops = next(batches, None)
        for length in list(self.waiting):
            self._flush(length)
        self._drop_what_is_no_number()
        stream = io.BytesIO()
        pq.write_table(self._table(), stream, **WRITING)
        write_atomic(file, stream.getvalue())
        return len(records), self.seconds

    def _refuse(self, name: str, number: int, error: Exception) -> None:
        reason = error.reason if isinstance(error, EcgError) else f"{type(error).__name__}: {error}"
        field, fix = (getattr(error, key, None) or "" for key in ("field", "fix"))
        self.refused.append((name, field, reason, fix, number))

    def _drop_what_is_no_number(self) -> None:
        """Refuse the records whose features are not all finite."""
        wrong = [i for i, values in enumerate(self.sums) if not np.isfinite(values).all()]
        for i in wrong:
            self._refuse(*self.rows[i][:2], no_number())
        for i in reversed(wrong):
            del self.rows[i], self.sums[i], self.unknown[i]

    @contextmanager
    def _timed(self, step: int):
        start = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - start

    def _queue(self, crops: np.ndarray) -> None:
        self.rows[-1][4] += len(crops)
        for crop in crops:
            waiting = self.waiting[crop.shape[-1]]
            waiting.append((len(self.rows) - 1, crop))
            if len(waiting) == self.batch:
                self._flush(crop.shape[-1])

    def _flush(self, length: int) -> None:
        rows, crops = zip(*self.waiting.pop(length), strict=True)
        with self._timed(2):
            z = self.reader.values(np.stack(crops))
        with np.errstate(invalid="ignore"):  # infinity less infinity: the record is refused at the end
            for row, values in zip(rows, z, strict=True):
                self.sums[row] += values

    def _table(self) -> pa.Table:
        """One row per record that was not refused; the refused are in the metadata."""
        schema = self.reader.schema
        columns = [list(column) for column in zip(*self.rows, strict=True)] or [[] for _ in ROW]
        means = np.array(self.sums).reshape(-1, self.reader.size) / np.array(columns[4])[:, None]
        if not self.rows:  # all were refused
            columns = [[] for _ in schema]
        else:
            columns += self.reader.columns(means)
        columns = [pa.array(values, kind, from_pandas=True) for values, kind in zip(columns, schema.types, strict=True)]
        leads = Counter(zip([row[5] for row in self.rows], self.unknown, strict=True))
        facts = {"refused": json.dumps(self.refused), "leads": json.dumps(list(leads.items()))}
        return pa.Table.from_arrays(columns, schema.names, metadata=facts)


def _crops(card, x: np.ndarray, fs: float, many: int, tolerance: float = 0.0):
    """`Card.crops` of x (lead, time), mV at fs Hz, `many` at a time: a long recording needs no second copy.

    A lead that does not move in a crop is zeros there; a crop without any other is left out; EcgError without any left.
    """
    step, empty = round(card.crop_s * fs), True
    number = max(1, x.shape[1] // step)
    stride = number if card.whole else many
    for first in range(0, number, stride):
        stretch = x if card.whole else x[:, first * step : (first + stride) * step]
        crops = card.crops(stretch, fs, tolerance)
        raw = [stretch[:, k * step : (k + 1) * step] for k in range(len(crops))]
        moves = np.array([crop.min(axis=1) < crop.max(axis=1) for crop in raw])
        crops = (crops * moves[..., None])[moves.any(axis=1)]
        if crops.size:
            empty = False
            yield crops
    if empty:
        raise EcgError("no lead has a signal in any crop", field="signal")


def _assembled(files: list[Path], whole: Path, schema: pa.Schema) -> tuple[dict, list, Counter]:
    """Put the chunks together in the file `whole`, ROW_GROUP rows at a time; counts, what was refused, and how many
    records lack which leads and have channels of which other names."""
    tables, refused, leads, counts = [], [], Counter(), {"records": 0, "refused": 0, "crops": 0}
    write, close = _text_writer(whole) if whole.suffix == ".csv" else _table_writer(whole, schema)
    for file in files:
        table = pq.read_table(file)
        refused += json.loads(table.schema.metadata[b"refused"])
        leads += Counter({tuple(kind): n for kind, n in json.loads(table.schema.metadata[b"leads"])})
        counts["crops"] += int(table["n_crops"].to_numpy().sum())
        counts["records"] += len(table)
        tables.append(table.replace_schema_metadata(schema.metadata))
        if sum(map(len, tables)) >= ROW_GROUP or file == files[-1]:
            write(pa.concat_tables(tables).combine_chunks())
            tables = []
    close()
    return counts | {"refused": len(refused)}, refused, leads


def _table_writer(path: Path, schema: pa.Schema) -> tuple:
    """(function that appends rows to a parquet file, function that closes it)."""
    writer = pq.ParquetWriter(path, schema, **WRITING)
    return lambda table: writer.write_table(table, row_group_size=2 * ROW_GROUP), writer.close


def _text_writer(path: Path) -> tuple:
    """As `_table_writer`, for a CSV."""
    file = path.open("w", encoding="utf-8", newline="")

    def write(table):
        file.write(csv_text(table.to_pandas(integer_object_nulls=True), header=not file.tell(), float_format="%.6g"))

    return write, file.close
