"""Features of a published model for every record below some folders, as one parquet file: the command `embed`.

Records stream through in portions of one batch, several portions side by side with one core each: on few cores that is
faster than one portion on all of them, and the numbers do not depend on how many cores there are. What is done lies in
chunks beside the output, each named by the hash of all that went into it: a run that was stopped goes on from there.
"""

import hashlib
import io
import json
import os
import shutil
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import ecglib
from ecglib import checkpoint, wfdb_io, windows, zoo
from ecglib.signals import EcgError

CHUNK = 64  # records, or four batches if those are more: what a stopped run computes again at most, for each core
ROW_GROUP = 4096  # rows held in memory while the file is put together
MAX_WORKERS = 16  # each holds the activations of one batch
SHOWN_S = 2.0  # between two lines of progress
ROW = ("record", "folder", "seconds", "fs", "n_crops", "missing_leads")
REFUSED = ("record", "field", "reason", "folder")
STEPS = ("reading_s", "preparing_s", "network_s")


def run(model, folders, out, *, batch: int = 16, head: bool = False, pattern="**/*.hea", progress=print) -> dict:
    """Write features of every WFDB record below `folders` to `out` (.parquet), the refused ones to *.rejected.csv.

    model: of `zoo.load`, moved to the GPU where there is one; batch: crops at a time; head: also the probabilities of
    the release's own statements; pattern: of the headers below a folder, where segments of a multi-segment record count
    as parts of it; progress: called with lines of text. Columns: record, folder (number of the argument), seconds, fs,
    n_crops, missing_leads, z_0000 .. (the mean over consecutive crops, as on the card), "p: " + statement.

    Returns records, refused, kept (records done by an earlier run that was stopped), crops, records_per_s and the
    seconds of all cores in reading, preparing and network. Raises EcgError for a folder that is not there or holds no
    record, for an `out` that is no .parquet, for a model without a head, and where every record was refused.
    """
    out = Path(out)
    if out.suffix != ".parquet":
        raise EcgError("the output is no .parquet file", file=out, field="out", fix="name it like features.parquet")
    if batch < 1:
        raise EcgError(f"batch={batch}", field="batch", fix="take at least one crop at a time")
    schema = _schema(model, head)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    found = find(folders, pattern)
    part, size = out.with_suffix(".part"), max(CHUNK, 4 * batch)
    part.mkdir(parents=True, exist_ok=True)
    key = [_options(model), batch, head, *(str(Path(folder).resolve()) for folder in folders)]
    chunks = [found[i : i + size] for i in range(0, len(found), size)]
    progress(f"{len(found):,} records for {model.card.title} on {_device(model)}, {_workers()} at a time")
    files, facts = _computed(model, chunks, folders, part, key, schema, batch, progress)
    result = _assembled(files, out, schema, len(found)) | facts
    shutil.rmtree(part)
    return result


def read(path) -> tuple[pd.DataFrame, np.ndarray, dict]:
    """What `run` wrote: the table without the features, the features float32 (record, dim), and the facts about the
    model by name. Raises EcgError for a file that is something else."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise EcgError(f"cannot be read: {error}", file=path, fix="give a file that `embed` wrote") from error
    features = [name for name in table.column_names if name.startswith("z_")]
    if not features or "record" not in table.column_names:
        raise EcgError("holds no features", file=path, field="z_0000", fix="give a file that `embed` wrote")
    z = np.empty((len(table), len(features)), np.float32)
    for i, name in enumerate(features):
        z[:, i] = table[name].to_numpy()
    info = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return table.drop_columns(features).replace_schema_metadata().to_pandas(), z, info


def find(folders, pattern: str = "**/*.hea") -> list[tuple[int, str]]:
    """(number of the folder, path below it without extension) of every record, sorted within each folder.

    A header that is a segment of another record of the list is left out. EcgError for a folder without records.
    """
    found = []
    for number, folder in enumerate(map(Path, folders)):
        if not folder.is_dir():
            raise EcgError("no such folder", file=folder, field="folder", fix="name folders of WFDB records")
        try:
            paths = [path.relative_to(folder) for path in folder.glob(pattern) if path.suffix == ".hea"]
        except (ValueError, NotImplementedError) as error:
            raise EcgError(f"{pattern!r} is no pattern: {error}", field="records", fix='try "**/*.hea"') from error
        if not paths:
            fix = "name a folder with .hea files, or another pattern"
            raise EcgError(f"no record that fits {pattern}", file=folder, field="folder", fix=fix)
        names = sorted(path.with_suffix("").as_posix() for path in paths)
        inside = {segment for name in names for segment in _segments(folder, name)}
        found += [(number, name) for name in names if name not in inside]
    return found


def _segments(folder: Path, name: str) -> list[str]:
    """Names of the records that a multi-segment record consists of, its layout included; none for any other."""
    try:
        text = (folder / f"{name}.hea").read_bytes().decode("utf-8", "replace")
    except OSError:
        return []  # reading it as a record will say why
    lines = [words for line in text.splitlines() if (words := line.split()) and not line.lstrip().startswith("#")]
    several = lines[0][0].partition("/")[2] if lines else ""
    parts = lines[1 : 1 + int(several)] if several.isdecimal() else []
    return [(Path(name).parent / words[0]).as_posix() for words in parts]


def _options(model) -> dict:
    """What decides over the numbers besides the records."""
    facts = {"card": repr(model.card), "weights": model.weights, "content": model.content, "device": _device(model)}
    return facts | {"ecglib": ecglib.__version__, "torch": torch.__version__}


def _device(model) -> str:
    return next(model.parameters()).device.type


def _workers() -> int:
    """Portions side by side: one for each core that this process may use."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return min(MAX_WORKERS, len(usable))


def _schema(model, head: bool) -> pa.Schema:
    """Columns of the output, and what must be known about the model beside them."""
    card = model.card
    if head and not card.statements:
        raise EcgError(f"{card.title} has no head of its own", field="head", fix="leave --head out")
    if head and model.absent:
        raise EcgError("these weights came without the head", file=model.weights, field="head", fix="leave --head out")
    kinds = {"record": pa.string(), "folder": pa.int16(), "seconds": pa.float64(), "fs": pa.float64()}
    kinds |= {"n_crops": pa.int32(), "missing_leads": pa.string()}
    kinds |= {f"z_{i:04d}": pa.float32() for i in range(model.dim)}
    kinds |= {f"p: {statement}": pa.float32() for statement in card.statements if head}
    facts = {"model": card.name, "weights": model.weights, "content": model.content, "licence": card.licence}
    facts |= {"profile": repr(card.chain), "input": card.input(), "ecglib": ecglib.__version__}
    return pa.schema(list(kinds.items()), facts | ({"warning": zoo.RECIPE} if model.weights == "recipe" else {}))


def _computed(model, chunks, folders, part, key, schema, batch, progress) -> tuple[list[Path], dict]:
    """The file of every chunk in order, computed where it is not there yet, and facts about the computation."""
    files, kept, done, seconds = [], 0, 0, np.zeros(len(STEPS))
    total, start, shown, waiting = sum(map(len, chunks)), time.perf_counter(), 0.0, []

    def portions():
        nonlocal kept
        for chunk in chunks:
            file = part / f"{_digest(chunk, folders, key)}.parquet"
            files.append(file)
            if file.is_file():
                kept += len(chunk)
                continue
            for i in range(0, len(chunk), batch):
                yield chunk[i : i + batch], file if i + batch >= len(chunk) else None

    def work(records, file):
        return _Portion(model, batch, schema).take(records, folders), len(records), file

    for portion, n, file in _ahead(work, portions()):
        waiting.append(portion)
        done, seconds = done + n, seconds + portion.seconds
        if file is not None:  # the last portion of a chunk
            _write_chunk(file, waiting)
            waiting = []
        elapsed = time.perf_counter() - start
        if elapsed - shown > SHOWN_S or done + kept == total:
            shown, rate = elapsed, done / elapsed
            left = _clock((total - done - kept) / rate)
            progress(f"{done + kept:,} of {total:,} records, {rate:.3g} records/s, {left} left")
    rate = done / (time.perf_counter() - start)
    return files, {"kept": kept, "records_per_s": rate} | dict(zip(STEPS, seconds.tolist(), strict=True))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _digest(chunk, folders, key) -> str:
    """Hash of everything that the features of a chunk depend on; of the records, names, sizes and times of change."""
    state = []
    for number, name in chunk:
        for suffix in (".hea", ".dat", ".mat"):
            try:
                facts = os.stat(os.path.join(folders[number], name + suffix))
                state.append((number, name, suffix, facts.st_size, facts.st_mtime_ns))
            except OSError:
                continue
    return hashlib.sha256(json.dumps([key, chunk, state]).encode()).hexdigest()[:32]


def _ahead(work, portions: Iterator) -> Iterator:
    """work(*portion) of each portion in order, computed by several threads that are at most one portion ahead."""
    workers, waiting = _workers(), deque()
    with _one_thread_each(), ThreadPoolExecutor(workers) as pool:
        try:
            for portion in portions:
                waiting.append(pool.submit(work, *portion))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each():
    """torch on one core in each thread that starts meanwhile, and in single precision also on GPUs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(before)


class _Portion:
    """Features of a few records. Crops wait, by their length, until there is a batch of them."""

    def __init__(self, model, batch: int, schema: pa.Schema):
        self.model, self.batch, self.schema = model, batch, schema
        self.rows, self.sums, self.refused = [], [], []
        self.waiting, self.seconds = defaultdict(list), np.zeros(len(STEPS))

    def take(self, records, folders) -> "_Portion":
        """records: (number of the folder, name)."""
        for number, name in records:
            try:
                with self._timed(0):
                    recording = wfdb_io.read(Path(folders[number], f"{name}.hea"))
                with self._timed(1):
                    recording, stretches = _prepared(recording, self.model.card, self.batch)
                    crops = next(stretches)
            except MemoryError:
                raise
            except Exception as error:  # folders hold one bad record or another, of a kind that nobody thought of
                reason = error.reason if isinstance(error, EcgError) else f"{type(error).__name__}: {error}"
                self.refused.append((name, getattr(error, "field", None) or "", reason, number))
                continue
            row = {"record": name, "folder": number, "seconds": recording.signal.shape[1] / recording.fs}
            missing = [lead for lead, there in zip(recording.leads, recording.lead_mask, strict=True) if not there]
            self.rows.append(row | {"fs": recording.fs, "n_crops": 0, "missing_leads": " ".join(missing)})
            self.sums.append(np.zeros(self.model.dim))
            while crops is not None:
                self._queue(crops)
                with self._timed(1):
                    crops = next(stretches, None)
        for length in list(self.waiting):
            self._flush(length)
        return self

    @contextmanager
    def _timed(self, step: int):
        start = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - start

    def _queue(self, crops: np.ndarray) -> None:
        """Take crops of the last record, and let the network have each batch that becomes full."""
        self.rows[-1]["n_crops"] += len(crops)
        for crop in crops:
            waiting = self.waiting[crop.shape[-1]]
            waiting.append((len(self.rows) - 1, crop))
            if len(waiting) == self.batch:
                self._flush(crop.shape[-1])

    def _flush(self, length: int) -> None:
        places, crops = zip(*self.waiting.pop(length), strict=True)
        with self._timed(2), torch.inference_mode():
            z = self.model(torch.from_numpy(np.stack(crops)).to(_device(self.model))).float().cpu().numpy()
        for place, values in zip(places, z, strict=True):
            self.sums[place] += values

    def table(self) -> pa.Table:
        """One row per record that was not refused."""
        rows = {name: [row[name] for row in self.rows] for name in ROW}
        z = np.array(self.sums).reshape(-1, self.model.dim) / np.maximum(1, rows["n_crops"])[:, None]
        z = z.astype(np.float32)
        columns = [pa.array(rows[name], self.schema.field(name).type) for name in ROW]
        columns += [pa.array(np.ascontiguousarray(values)) for values in z.T]
        if len(columns) < len(self.schema):
            with torch.inference_mode():  # the released heads are linear: of the mean they say the mean of the crops
                p = self.model.head(torch.from_numpy(z).to(_device(self.model))).sigmoid().cpu().numpy()
            columns += [pa.array(np.ascontiguousarray(values)) for values in p.T]
        return pa.Table.from_arrays(columns, schema=self.schema)


def _prepared(recording, card, many: int) -> tuple:
    """The recording with the leads of the card, and its crops in stretches; EcgError where `pack` refuses it too."""
    plan = windows.Plan(card.chain.fs, card.crop_s, card.leads, "all")
    recording = windows.checked(recording, plan)
    return recording, _crops(card, windows.filled(recording), recording.fs, many)


def _crops(card, x: np.ndarray, fs: float, many: int) -> Iterator[np.ndarray]:
    """`Card.crops` of x (lead, time), mV at fs Hz, `many` at a time: a long recording needs no second copy.

    A lead that does not move in a crop is zeros there; a crop without any other lead is left out. Less than a second is
    filled up with zeros, as `Model` does. EcgError where no crop is left.
    """
    step, nothing = round(card.crop_s * fs), True
    number = max(1, x.shape[1] // step)
    stride = number if card.whole else many
    for first in range(0, number, stride):
        part = x if card.whole else x[:, first * step : (first + stride) * step]
        crops = card.crops(part, fs)
        crops = np.pad(crops, [(0, 0), (0, 0), (0, max(0, round(card.chain.fs) - crops.shape[-1]))])
        cuts = [part[:, k * step : (k + 1) * step] for k in range(len(crops))]
        moves = np.array([cut.min(axis=1) < cut.max(axis=1) for cut in cuts])
        crops = (crops * moves[..., None])[moves.any(axis=1)]
        if len(crops):
            nothing = False
            yield crops
    if nothing:
        raise EcgError("no lead has a signal in any crop", field="signal")


def _write_chunk(file: Path, portions: list[_Portion]) -> None:
    """One file, whole or not there, with the features of the portions and in its metadata what they refused."""
    refused = json.dumps([line for portion in portions for line in portion.refused])
    table = pa.concat_tables([portion.table() for portion in portions])
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"refused": refused}), stream, **_settings(table.schema))
    checkpoint.write_atomic(file, stream.getvalue())


def _settings(schema: pa.Schema) -> dict:
    """How tables are written; bounds of each feature would be most of a small file."""
    facts = [name for name in ROW if name in schema.names]
    return dict(compression="zstd", compression_level=3, use_dictionary=["record", "missing_leads"],
                write_statistics=facts)  # fmt: skip


def _assembled(files: list[Path], out: Path, schema: pa.Schema, total: int) -> dict:
    """Put the chunks together, ROW_GROUP rows at a time; returns records, refused, crops."""
    refused, crops, rows, waiting = [], 0, 0, []
    whole = out.with_suffix(".part") / "whole"
    with pq.ParquetWriter(whole, schema, **_settings(schema)) as writer:
        for file in files:
            table = pq.read_table(file)
            refused += json.loads(table.schema.metadata[b"refused"])
            crops += int(np.sum(table["n_crops"].to_numpy()))
            waiting.append(table)
            rows += len(table)
            if sum(map(len, waiting)) >= ROW_GROUP or file == files[-1]:
                group = pa.concat_tables([table.replace_schema_metadata(schema.metadata) for table in waiting])
                writer.write_table(group.combine_chunks(), row_group_size=len(group) or 1)
                waiting = []
    lines = pd.DataFrame(refused, columns=REFUSED)
    checkpoint.write_atomic(out.with_suffix(".rejected.csv"), lines.to_csv(index=False, lineterminator="\n").encode())
    if not rows:
        shutil.rmtree(whole.parent)
        reason = f"none of {total:,} records can be used; {refused[0][0]}: {refused[0][2]}"
        raise EcgError(reason, file=out.with_suffix(".rejected.csv"), field=refused[0][1], fix="see this file")
    os.replace(whole, out)
    return {"records": rows, "refused": len(refused), "crops": crops}
