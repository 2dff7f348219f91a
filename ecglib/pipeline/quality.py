"""Which recordings are good enough to be read: a command, and columns of a cohort that is packed.

A cohort gets the columns when it is packed, and never later: its table of records is part of what it is known by
(`cohort.Cohort.content`), so that embeddings, probes and predictions made before would no longer be those of the
cohort. Packing again with a detector leaves signals, beats and labels as they were; where a cohort must stay as it is,
`report` writes the same flags as a table beside it.
"""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from ecglib import EcgError, workers_started
from ecglib.data import device_formats, files, wfdb_io
from ecglib.data.recording import record_path
from ecglib.rhythm import kept_detector

COLUMNS = ("record", "quality", "probability", "lead", "reason")
FLAGS = ("noisy", "noise_probability", "noise_reason")  # of a cohort, as in a table of predictions
CHUNK = 32  # recordings a process judges at a time


def judged(places: list[str], detector, say: Callable = print) -> Iterator[dict]:
    """A line for each recording, one in memory at a time: COLUMNS, where quality is good, noisy or not read.

    places: recordings (WFDB, or what `ecglib convert` reads) and folders of WFDB records; detector: file of
    `kept_detector.write`; say: told how many files of macOS are left out. Raises EcgError, before any work, for a
    detector that cannot be read and a place that is no recording.
    """
    model, cut = kept_detector.read(detector)
    for path in _recordings(places, say):
        try:
            reader = device_formats if device_formats.is_device_file(path) else wfdb_io
            said = kept_detector.judge(model, reader.read(path), cut)
            quality = "noisy" if said["noisy"] else "good"
        except EcgError as error:
            said = {"probability": float("nan"), "lead": "", "reason": str(error)}
            quality = "not read"
        yield {"record": str(path), "quality": quality} | {name: said[name] for name in COLUMNS[2:]}


def _recordings(places: list[str], say: Callable) -> list[Path]:
    found = []
    for place in map(Path, places):
        if place.is_dir():
            headers, n_rubbish = files.headers(place)
            if not headers:
                raise EcgError(
                    "no WFDB record below this folder", file=place, field="PLACES", fix="ecglib convert FILES"
                )
            if n_rubbish:
                say(files.rubbish(place, n_rubbish))
            found += [path.with_suffix("") for path in headers]
        elif place.exists() or record_path(place).with_suffix(".hea").exists():
            found.append(place if device_formats.is_device_file(place) else record_path(place))
        else:
            raise EcgError(
                "no such recording or folder", file=place, field="PLACES", fix="name a .hea file or a folder"
            )
    return found


def report(places: list[str], detector, out: Path | None) -> str:
    """Print a line for each recording as it is judged; write the table to `out`, if one is named; the counts in words.

    Raises EcgError as `judged`, and for a file `out` that is not from this command.
    """
    if out:
        out = files.output_file(out, lambda path: path.read_text("utf-8").startswith(",".join(COLUMNS)))
    lines = []
    for line in judged(places, detector):
        lines.append(line)
        words = line["reason"] or (f"worst lead {line['lead']}" if line["quality"] == "noisy" else "")
        print(f"{line['record']}  {line['quality']}  {line['probability']:.3f}  {words}".rstrip(), flush=True)
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    if out:
        files.write_csv(table, out, float_format="%.4f")
    counts = table.quality.value_counts()
    return ", ".join(f"{counts.get(name, 0):,} {name}" for name in ("good", "noisy", "not read"))


class Judged:
    """A dataset whose records have FLAGS too, what a detector says of each whole recording; all else is the dataset's.

    noisy: 1, 0, or missing where the recording cannot be judged (too short, unreadable); noise_probability;
    noise_reason: the worst lead, or why nothing is said. The notes say which detector was asked, by its SHA-256.
    dataset: a module of `ecglib.datasets`; detector: file of `kept_detector.write`; workers: processes; progress:
    called with (done, total). Raises EcgError for a detector that cannot be read.
    """

    def __init__(self, dataset, detector, workers: int = 1, progress: Callable | None = None):
        self._dataset, self._workers, self._progress = dataset, workers, progress
        self._asked = kept_detector.read(detector)
        self._name = f"{self._asked[0].name}, sha256 {files.sha256(Path(detector))}"

        @functools.wraps(dataset.records)  # whose options packing looks up
        def records(root, **options):
            return self._flagged(root, options)

        self.records = records

    def __getattr__(self, name):
        if name.startswith("_") and name != "__name__":  # before __init__ there is nothing to ask
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def _flagged(self, root, options: dict) -> pd.DataFrame:
        table = self._dataset.records(root, **options)
        if taken := [name for name in FLAGS if name in table]:
            fix = "rename the column, or pack without --detector"
            raise EcgError(f"its records have a column {taken[0]} already", file=root, field=taken[0], fix=fix)
        said = pd.DataFrame(self._all(table.to_dict("records")), index=table.index, columns=list(FLAGS))
        said = said.astype({"noisy": "Int8", "noise_probability": "float32"})
        known, noisy = int(said.noisy.notna().sum()), int(said.noisy.sum())
        note = (
            f"noise: {noisy} of {known} recordings are flagged, {len(said) - known} not judged (detector {self._name})"
        )
        out = pd.concat([table, said], axis=1)
        out.attrs = {**table.attrs, "notes": [*table.attrs.get("notes", []), note]}
        return out

    def _all(self, rows: list[dict]) -> list[tuple]:
        """What is said of every row, in order."""
        chunks, out = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)], []
        if self._workers == 1 or len(chunks) == 1:
            judged = (_judged(chunk, self._dataset.read, self._asked) for chunk in chunks)
            return self._told(judged, out, len(rows))
        with workers_started():
            pool = ProcessPoolExecutor(self._workers, get_context("spawn"))
        with pool:
            judged = pool.map(_judged, chunks, repeat(self._dataset.read), repeat(self._asked))
            return self._told(judged, out, len(rows))

    def _told(self, judged, out: list, total: int) -> list[tuple]:
        for part in judged:
            out += part
            if self._progress:
                self._progress(len(out), total)
        return out


def _judged(rows: list[dict], read: Callable, asked: tuple) -> list[tuple]:
    """FLAGS of rows. A recording that cannot be read is not judged: whether it is packed, the packing decides."""
    out = []
    for row in rows:
        try:
            said = kept_detector.judge(asked[0], read(row), asked[1])
        except MemoryError:
            raise
        except Exception as error:  # of one bad record or another, as in the packing
            reason = error.reason if isinstance(error, EcgError) else f"{type(error).__name__}: {error}"
            out.append((None, None, f"not judged: {reason}"))
            continue
        reason = f"worst lead {said['lead']}" + (f": {said['reason']}" if said["reason"] else "")
        out.append((int(said["noisy"]), said["probability"], reason))
    return out
