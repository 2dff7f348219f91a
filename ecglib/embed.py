"""Features of a published model for every record below some folders, as one parquet file: the command `embed`.

Records stream through in chunks, several side by side with one core each: on few cores that is faster than one batch on
all of them, and the numbers do not depend on how many there are. Each chunk that is done lies beside the output, named
by a hash of all that it came from, so that a run that was stopped goes on from there.
"""

import hashlib
import io
import json
import os
import shutil
import time
from collections import defaultdict
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecglib import __version__, checkpoint, wfdb_io, windows, zoo
from ecglib.signals import EcgError

CHUNK = 32  # records, or two batches if those are more: what a stopped run computes again at most, for each core
ROW_GROUP = 4096  # rows that are in memory while the file is put together
MAX_WORKERS = 16  # each holds the activations of one batch
SHOWN_S = 2.0  # between two lines of progress
STEPS = ("reading_s", "preparing_s", "network_s")
ROW = {"record": pa.string(), "folder": pa.int16(), "seconds": pa.float64(), "fs": pa.float64(), "n_crops": pa.int32(),
       "missing_leads": pa.string()}  # fmt: skip
WRITING = dict(  # bounds of every feature would be most of a small file
    compression="zstd", compression_level=3, use_dictionary=["record", "missing_leads"], write_statistics=list(ROW)
)


def run(model, folders, out, *, batch: int = 16, head: bool = False, pattern="**/*.hea", progress=print) -> dict:
    """Write features of every WFDB record below `folders` to `out` (.parquet), the refused ones to *.rejected.csv.

    model: of `zoo.load`, moved to the GPU where there is one; batch: crops at a time; head: also the probabilities of
    the release's own statements; pattern: of headers below a folder; progress: called with lines of text. Columns:
    record, folder (number of the argument), seconds, fs, n_crops, missing_leads, z_0000 .. (the mean over consecutive
    crops, as on the card), "p: " + statement.

    Returns records, refused, kept (done by a run that was stopped), crops, records_per_s, and the seconds of all cores
    together in reading, preparing and network. Raises EcgError for a folder that is not there or has no record, another
    suffix, a model without a head, and where every record was refused.
    """
    out = Path(out)
    if out.suffix != ".parquet":
        raise EcgError("the output is no .parquet file", file=out, field="out", fix="name it like features.parquet")
    if batch < 1:
        raise EcgError(f"batch={batch}", field="batch", fix="take one crop or more at a time")
    schema, found, part = _schema(model, head), find(folders, pattern), out.with_suffix(".part")
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    part.mkdir(parents=True, exist_ok=True)
    progress(f"{len(found):,} records through {model.card.title}")
    files, facts = _computed(model, folders, found, part, schema, batch, progress)
    counts, refused = _assembled(files, part / "whole", schema)
    rejected = out.with_suffix(".rejected.csv")
    lines = pd.DataFrame(refused, columns=["record", "field", "reason", "folder"])
    checkpoint.write_atomic(rejected, lines.to_csv(index=False, lineterminator="\n").encode())
    if counts["records"]:
        os.replace(part / "whole", out)
    shutil.rmtree(part)
    if not counts["records"]:
        reason = f"none of {len(found):,} records can be used. {lines.record[0]}: {lines.reason[0]}"
        raise EcgError(reason, file=rejected, field=lines.field[0], fix="this file says why of each")
    return counts | facts


def read(path) -> tuple[pd.DataFrame, np.ndarray, dict]:
    """What `run` wrote: the table without the features, the features float32 (record, dim), and the facts about the
    model by name. Raises EcgError for a file that is something else."""
    try:
        table = pq.read_table(path)
        features = [name for name in table.column_names if name.startswith("z_")]
        z = np.stack([table[name].to_numpy() for name in features], 1)
    except (OSError, ValueError) as error:
        raise EcgError(f"holds no features: {error}", file=path, fix="give a file that `embed` wrote") from error
    info = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return table.drop_columns(features).replace_schema_metadata().to_pandas(), z, info


def find(folders, pattern: str = "**/*.hea") -> list[tuple[int, str]]:
    """(number of the folder, path below it without extension) of every record, sorted within each folder.

    A header that is a segment of another record of the list is left out. EcgError for a folder without records.
    """
    found = []
    for number, folder in enumerate(map(Path, folders)):
        try:
            paths = [path.relative_to(folder) for path in folder.glob(pattern) if path.suffix == ".hea"]
        except (ValueError, NotImplementedError) as error:
            raise EcgError(f"{pattern!r} is no pattern: {error}", field="records", fix='try "**/*.hea"') from error
        if not paths:
            reason = f"no record that fits {pattern}" if folder.is_dir() else "no such folder"
            raise EcgError(reason, file=folder, field="folder", fix="name a folder with WFDB headers (.hea) below it")
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
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    several = lines[0][0].partition("/")[2] if lines else ""
    parts = lines[1 : 1 + int(several)] if several.isdecimal() else []
    return [(Path(name).parent / words[0]).as_posix() for words in parts]


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
    return pa.schema(list(kinds.items()), facts | ({"warning": zoo.RECIPE} if model.weights == "recipe" else {}))


def _device(model) -> str:
    return next(model.parameters()).device.type


def _computed(model, folders, found, part, schema, batch, progress) -> tuple[list[Path], dict]:
    """The file of every chunk in order, computed where it is not there yet, and facts about the computation."""
    files, kept, done, shown, size = [], 0, 0, 0.0, max(CHUNK, 2 * batch)
    places = [str(Path(folder).resolve()) for folder in folders]
    key = [repr(model.card), repr(schema.metadata), schema.names, batch, _device(model), torch.__version__]
    seconds, start = np.zeros(len(STEPS)), time.perf_counter()

    def missing():
        nonlocal kept
        for first in range(0, len(found), size):
            chunk = found[first : first + size]
            files.append(part / f"{_digest(chunk, places, key)}.parquet")
            if files[-1].is_file():
                kept += len(chunk)
            else:
                yield chunk, files[-1]

    for n, spent in spread(lambda chunk, file: _Chunk(model, schema, batch).write(chunk, places, file), missing()):
        done, seconds, elapsed = done + n, seconds + spent, time.perf_counter() - start
        if elapsed - shown > SHOWN_S or done + kept == len(found):
            shown, rate = elapsed, done / elapsed
            left = timedelta(seconds=round((len(found) - done - kept) / rate))
            progress(f"{done + kept:,} of {len(found):,} records, {rate:.3g} records/s, {left} left")
    facts = {"kept": kept, "records_per_s": done / (time.perf_counter() - start)}
    return files, facts | dict(zip(STEPS, seconds.tolist(), strict=True))


def _digest(chunk, places, key) -> str:
    """Hash of everything that the features of a chunk come from; of the records, names, sizes and times of change."""
    paths = [os.path.join(places[n], name + suffix) for n, name in chunk for suffix in (".hea", ".dat", ".mat")]
    state = [(path, os.path.getsize(path), os.stat(path).st_mtime_ns) for path in paths if os.path.exists(path)]
    return hashlib.sha256(json.dumps([key, chunk, state]).encode()).hexdigest()[:32]


def spread(work, chunks):
    """work(*chunk) of each chunk as it is done, by a thread for each core, in whole single precision on a GPU too."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    workers, waiting, threads = min(MAX_WORKERS, len(cores)), set(), torch.get_num_threads()
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    torch.set_num_threads(1)  # of each thread that starts from now on
    try:
        with exact, ThreadPoolExecutor(workers) as pool:
            for chunk in chunks:
                waiting.add(pool.submit(work, *chunk))
                if len(waiting) > workers:  # memory stays as it is, however many there are
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in as_completed(waiting))
    finally:
        torch.set_num_threads(threads)


class _Chunk:
    """Features of a few records. Crops wait, by their length, until there is a batch of them."""

    def __init__(self, model, schema: pa.Schema, batch: int):
        self.model, self.schema, self.batch = model, schema, batch
        self.rows, self.sums, self.refused = [], [], []
        self.waiting, self.seconds = defaultdict(list), np.zeros(len(STEPS))
        self.plan = windows.Plan(model.card.chain.fs, model.card.crop_s, model.card.leads, "all")

    def write(self, records, places, file: Path) -> tuple[int, np.ndarray]:
        """Write the features of records (number of the folder, name); returns their number and the seconds spent."""
        for number, name in records:
            try:
                with self._timed(0):
                    recording = wfdb_io.read(Path(places[number], f"{name}.hea"))
                with self._timed(1):
                    recording = windows.checked(recording, self.plan)
                    stretches = _crops(self.model.card, windows.filled(recording), recording.fs, self.batch)
                    crops = next(stretches)
            except MemoryError:
                raise
            except Exception as error:  # folders hold one bad record or another, of a kind that nobody thought of
                reason = error.reason if isinstance(error, EcgError) else f"{type(error).__name__}: {error}"
                self.refused.append((name, getattr(error, "field", None) or "", reason, number))
                continue
            missing, fs = " ".join(np.array(recording.leads)[~recording.lead_mask]), recording.fs
            self.rows.append([name, number, recording.signal.shape[1] / fs, fs, 0, missing])
            self.sums.append(np.zeros(self.model.dim))
            while crops is not None:
                self._queue(crops)
                with self._timed(1):
                    crops = next(stretches, None)
        for length in list(self.waiting):
            self._flush(length)
        stream = io.BytesIO()
        pq.write_table(self._table(), stream, **WRITING)
        checkpoint.write_atomic(file, stream.getvalue())
        return len(records), self.seconds

    @contextmanager
    def _timed(self, step: int):
        start = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - start

    def _queue(self, crops: np.ndarray) -> None:
        """Take crops of the last record, and give the network each batch that becomes full."""
        self.rows[-1][4] += len(crops)
        for crop in crops:
            waiting = self.waiting[crop.shape[-1]]
            waiting.append((len(self.rows) - 1, crop))
            if len(waiting) == self.batch:
                self._flush(crop.shape[-1])

    def _flush(self, length: int) -> None:
        rows, crops = zip(*self.waiting.pop(length), strict=True)
        with self._timed(2), torch.inference_mode():
            z = self.model(torch.from_numpy(np.stack(crops)).to(_device(self.model))).float().cpu().numpy()
        for row, values in zip(rows, z, strict=True):
            self.sums[row] += values

    def _table(self) -> pa.Table:
        """One row per record that was not refused; the refused are in the metadata."""
        columns = [list(column) for column in zip(*self.rows, strict=True)] or [[] for _ in ROW]
        z = np.array(self.sums).reshape(-1, self.model.dim) / np.array(columns[4])[:, None]
        z = torch.from_numpy(z.astype(np.float32))
        columns += list(z.T.contiguous().numpy())
        if len(columns) < len(self.schema):
            with torch.inference_mode():  # the released heads are linear: what they say of the mean is their mean
                p = self.model.head(z.to(_device(self.model))).sigmoid().cpu()
            columns += list(p.T.contiguous().numpy())
        columns = [pa.array(values, kind) for values, kind in zip(columns, self.schema.types, strict=True)]
        return pa.Table.from_arrays(columns, self.schema.names, metadata={"refused": json.dumps(self.refused)})


def _crops(card, x: np.ndarray, fs: float, many: int):
    """`Card.crops` of x (lead, time), mV at fs Hz, `many` at a time: a long recording needs no second copy.

    A lead that does not move in a crop is zeros there; a crop without any other lead is left out. EcgError where none
    is left.
    """
    step, nothing = round(card.crop_s * fs), True
    number = max(1, x.shape[1] // step)
    stride = number if card.whole else many
    for first in range(0, number, stride):
        part = x if card.whole else x[:, first * step : (first + stride) * step]
        crops = card.crops(part, fs)
        cuts = [part[:, k * step : (k + 1) * step] for k in range(len(crops))]
        moves = np.array([cut.min(axis=1) < cut.max(axis=1) for cut in cuts])
        crops = (crops * moves[..., None])[moves.any(axis=1)]
        if crops.size:
            nothing = False
            yield crops
    if nothing:
        raise EcgError("no lead has a signal in any crop", field="signal")


def _assembled(files: list[Path], whole: Path, schema: pa.Schema) -> tuple[dict, list]:
    """Put the chunks together in the file `whole`, ROW_GROUP rows at a time; counts, and what was refused."""
    held, refused, counts = [], [], {"records": 0, "refused": 0, "crops": 0}
    with pq.ParquetWriter(whole, schema, **WRITING) as writer:
        for file in files:
            table = pq.read_table(file)
            refused += json.loads(table.schema.metadata[b"refused"])
            counts["crops"] += int(table["n_crops"].to_numpy().sum())
            counts["records"] += len(table)
            held.append(table.replace_schema_metadata(schema.metadata))
            if sum(map(len, held)) >= ROW_GROUP or file == files[-1]:
                writer.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=2 * ROW_GROUP)
                held = []
    return counts | {"refused": len(refused)}, refused
