"""A corpus packed in shares by the jobs of an array, and the shares put together to the bytes of one pack.

Every job reads the tables of the whole corpus and the recordings of its own share: every n-th chunk of `packing.CHUNK`
records. It leaves signals.npy and facts.parquet of their windows and, last, part.json: what it came from, and for each
record how many windows it gave or why it was refused. A job that was killed starts its share over. `merge` packs the
corpus again, with what the shares hold in place of any recording.
"""

import hashlib
import json
import shutil
from contextlib import ExitStack
from dataclasses import asdict
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ecglib import EcgError
from ecglib.data import files, packing
from ecglib.data.shares import NOTE, Part, complete

KIND = "pack"  # in the names of folders
SIGNALS, FACTS = "signals.npy", "facts.parquet"
MAKING = ("fs", "seconds", "leads", "windows", "options", "labels", "fs_tolerance")  # settings that make the result
ROWS = 4096  # windows that are copied at a time


def pack_part(name: str, dataset, root, out, part: str, **settings) -> int:
    """Pack a share of a corpus, as a job of an array; returns how many records it looked at. `merge` ends them.

    part: "2/8" for the second of eight; the rest as of `cohort.pack`, the same for every share. The share lies beside
    `out` (cohort.2of8.pack.part). Raises EcgError as `cohort.pack`, and for what is no part and options that are no
    plain values; that all records are refused is said by `merge`.
    """
    if (share := Part.read(part)) is None:
        raise EcgError("no part is named", field="part", fix="name one like 2/8, or pack the whole")
    settings = packing.settings(settings)
    layout, records, states = packing.tables(dataset, root, out, settings)
    origin = _origin(name, dataset, root, settings, layout, records, states)
    out = Path(out).resolve()
    rows = [
        row for i, row in enumerate(records.to_dict("records")) if i // packing.CHUNK % share.of == share.number - 1
    ]
    run = packing.Runner(dataset.read, layout, settings, 2 * len(rows))
    with files.claimed(folder := share.folder(out, KIND), KIND):
        (folder / NOTE).unlink(missing_ok=True)
        examined = run(packing.examine, rows)
        pairs = zip(rows, examined, strict=True)
        kept = [row | {"n_windows": said["n_windows"]} for row, said in pairs if "n_windows" in said]
        if kept:
            ends = np.cumsum([row["n_windows"] for row in kept])
            first = [int(end) - row["n_windows"] for row, end in zip(kept, ends, strict=True)]
            packing.allocate(folder / SIGNALS, (int(ends[-1]), len(layout.leads), layout.n_times))
            facts = run(packing.write_rows, kept, first, signals_path=str(folder / SIGNALS))
            with files.naming(folder / FACTS):
                pq.write_table(pa.Table.from_pandas(pd.DataFrame(facts), preserve_index=False), folder / FACTS)
        ids = [row["record_id"] for row in rows]
        note = {"origin": origin, "records": ids, "examined": examined}
        files.write_atomic(folder / NOTE, json.dumps(note, default=_plain))
    return len(rows)


def merge(out, find) -> None:
    """Put the shares beside `out` together to the cohort `out`, the bytes of one pack.

    find: name of a dataset -> its module. Raises EcgError as `shares.complete`, where the tables of the corpus are no
    longer those of the shares, and as `cohort.pack`; nothing is written then, and the shares stay.
    """
    out = Path(out).resolve()
    what = "records, settings or versions"
    command = "pack"
    notes, folders = complete(out, _read, lambda note: note["origin"], kind=KIND, what=what, command=command)
    parts = [Part(number, len(folders)) for number in range(1, len(folders) + 1)]
    origin = notes[0]["origin"]
    dataset, settings = find(origin["dataset"]), packing.Settings(**origin["settings"])
    layout, records, states = packing.tables(dataset, origin["root"], out, settings)
    if _origin(origin["name"], dataset, origin["root"], settings, layout, records, states) != origin:
        fix = "pack every part again"
        raise EcgError("the tables of the corpus or the versions changed since", file=out, field="part", fix=fix)
    with ExitStack() as held:
        for folder in folders:
            held.enter_context(files.claimed(folder, KIND))
        if [_read(part, folder) for part, folder in zip(parts, folders, strict=True)] != notes:
            raise EcgError("a part was packed again meanwhile", file=out, field="part", fix="merge when all have ended")
        packing.pack(origin["name"], dataset, origin["root"], out, settings, _Shares(notes, folders))
    for folder in folders:  # only now: some file systems keep a folder whose lock is open
        shutil.rmtree(folder)


class _Shares:
    """In place of `packing.Runner`: what it would compute, from finished shares."""

    def __init__(self, notes: list[dict], folders: list[Path]):
        self.folders, self.examined, self.first = folders, {}, {}
        for number, note in enumerate(notes):
            row = 0
            for name, said in zip(note["records"], note["examined"], strict=True):
                self.examined[name], self.first[name] = said, (number, row)
                row += said.get("n_windows", 0)

    def __call__(self, function, rows: list[dict], first_rows=(), signals_path: str = "") -> list[dict]:
        """What `function`, `packing.examine` or `packing.write_rows`, says of records that lie in the shares."""
        if function is packing.examine:
            return [self.examined[row["record_id"]] for row in rows]
        whole, facts = np.load(signals_path, mmap_mode="r+"), [None] * len(rows)
        for number, folder in enumerate(self.folders):
            mine = [k for k, row in enumerate(rows) if self.first[row["record_id"]][0] == number]
            if mine:
                signals = np.load(folder / SIGNALS, mmap_mode="r")
                said = pq.read_table(folder / FACTS).to_pandas().to_dict("records")
            for k in mine:
                begin, n = self.first[rows[k]["record_id"]][1], rows[k]["n_windows"]
                for at in range(0, n, ROWS):
                    many = min(ROWS, n - at)
                    whole[first_rows[k] + at : first_rows[k] + at + many] = signals[begin + at : begin + at + many]
                facts[k] = said[begin : begin + n]
        whole.flush()
        return [line for lines in facts for line in lines]


def _origin(name: str, dataset, root, settings, layout, records: pd.DataFrame, states: pd.DataFrame) -> dict:
    """All that the bytes of a share depend on beside its recordings, as plain values."""
    asked = {key: value for key, value in asdict(settings).items() if key in MAKING}
    said = {"name": name, "dataset": dataset.__name__.rsplit(".", 1)[-1], "root": str(Path(root).resolve())}
    said |= {"settings": asked, "plan": asdict(layout), "chunk": packing.CHUNK, "versions": packing.versions()}
    tables = [table.to_csv() + json.dumps(table.attrs, sort_keys=True, default=str) for table in (records, states)]
    said["tables"] = hashlib.sha256("\n".join(tables).encode()).hexdigest()
    try:
        return json.loads(json.dumps(said, allow_nan=False))
    except (TypeError, ValueError) as error:
        reason = f"a part needs options of plain values: {error}"
        raise EcgError(reason, field="options", fix="write numbers, words and lists") from error


def _plain(value) -> float | str:
    """A number of numpy, or a path, as JSON holds it."""
    return float(value) if isinstance(value, Real) else str(value)


def _read(part: Part, folder: Path) -> dict | None:
    """What a share says of itself; None where it is not complete."""
    try:
        note = json.loads((folder / NOTE).read_text("utf-8"))
        number = sum(said.get("n_windows", 0) for said in note["examined"])
        if number and len(np.load(folder / SIGNALS, mmap_mode="r")) != pq.read_metadata(folder / FACTS).num_rows:
            return None
        return note if {"origin", "records"} <= note.keys() else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
