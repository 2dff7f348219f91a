"""Shares of one run of `embed` or `predict` for the jobs of an array, and what a finished share says of itself.

Job i of n computes every n-th chunk of the list of records, from the i-th on, into a folder of its own beside the
output: features.2of3.part for --part 2/3. A share that is done says in part.json which chunks the whole run has, in
order; `embed.merge` puts them together as one run would have, where all shares are done and speak of the same chunks.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib

from ecglib import EcgError, workers_started
from ecglib.data.files import write_atomic
from ecglib.data.shares import NOTE, Part, complete


@dataclass(frozen=True)
class Note:
    """What a finished share says: all chunks of the run in order, and what the output must hold beside them."""

    chunks: list[str]  # names of files
    leads: list[str]  # that the model reads
    facts: dict[str, str]  # metadata of the table

    def write(self, folder: Path) -> None:
        """Write it into the folder of a share, which is complete then."""
        write_atomic(folder / NOTE, json.dumps(asdict(self)))


def note(schema, leads, files: list[Path]) -> Note:
    """The Note of a run; schema: Arrow's, of its table; leads: that its model reads; files: its chunks in order."""
    facts = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    return Note([file.name for file in files], list(leads), facts)


def finished(out: Path) -> tuple[Note, list[Path], list[Path]]:
    """(the note, files of all chunks in order, folders of the shares) of the output `out`.

    Raises EcgError as `shares.complete`: the shares must be of the same records, settings, model and device.
    """
    what, command = "records, settings, model or device", "embed or predict"
    notes, folders = complete(out, _read, lambda note: note, kind="", what=what, command=command)
    places = [folders[k % len(folders)] for k in range(len(notes[0].chunks))]
    return notes[0], [folder / name for folder, name in zip(places, notes[0].chunks, strict=True)], folders


def spread(job: Callable, workers: int, backend: str, progress=print) -> dict:
    """Compute all shares of a run as tasks of a joblib backend; a task whose worker died is done again by another.

    job: called with part="i/n" and progress, as `embed.run` and `predict.run` are; workers: number of shares; backend:
    such as "dask" with a dask.distributed Client open (its workers must see the same files). progress: told of each
    that is done. Returns the sums of what the shares say, and records_per_s of all together.
    """
    if workers < 1:
        raise EcgError(f"workers={workers}", field="workers", fix="take one share for each worker of the cluster")
    facts, start = Counter(), time.perf_counter()
    tasks = (joblib.delayed(job)(part=f"{number}/{workers}", progress=_unsaid) for number in range(1, workers + 1))
    with joblib.parallel_config(backend=backend, n_jobs=workers):
        with workers_started():
            shares = joblib.Parallel(return_as="generator")(tasks)
        for number, share in enumerate(shares, 1):
            facts.update(share)
            progress(f"{number} of {workers} shares are done, {facts['records']:,} records")
    return dict(facts) | {"records_per_s": facts["records"] / (time.perf_counter() - start)}


def _unsaid(line: str) -> None:
    """Progress of a share, which nobody sees where it is computed."""


def _read(part: Part, folder: Path) -> Note | None:
    """What a share says of itself; None where it is not complete."""
    try:
        known = Note(**json.loads((folder / NOTE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return known if all((folder / name).is_file() for name in part.share(known.chunks)) else None
