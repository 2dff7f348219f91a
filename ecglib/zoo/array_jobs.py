"""Shares of one run of `embed` or `predict` for the jobs of an array, and what a finished share says of itself.

Job i of n computes every n-th chunk of the list of records, from the i-th on, into a folder of its own beside the
output: features.2of3.part for --part 2/3. A share that is done says in part.json which chunks the whole run has, in
order; `embed.merge` puts them together as one run would have, where all shares are done and speak of the same chunks.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from ecglib import EcgError
from ecglib.data.files import write_atomic

NOTE = "part.json"


@dataclass(frozen=True)
class Part:
    """Share `number` of `of`, from 1 on."""

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> "Part | None":
        """The share that "2/3" names; None for ""; EcgError for anything else."""
        if not text:
            return None
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        part = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= part.number <= part.of:
            raise EcgError(f"{text!r} is no part", field="part", fix="write --part 1/3, 2/3 or 3/3 for three jobs")
        return part

    def folder(self, out: Path) -> Path:
        """Where this share of the file `out` lies."""
        return out.with_name(f"{out.stem}.{self.number}of{self.of}.part")

    def share(self, items: list) -> list:
        """Those of a list that are of this share."""
        return items[self.number - 1 :: self.of]


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

    Raises EcgError that names every share that is not there or not finished, and the first that comes from other
    records, settings, model or device than share 1; and where shares of several counts lie there.
    """
    parts = _parts(out)
    folders = [part.folder(out) for part in parts]
    notes = [_read(part, folder) for part, folder in zip(parts, folders, strict=True)]
    if lacking := [part for part, known in zip(parts, notes, strict=True) if known is None]:
        names = ", ".join(f"{part.number}/{part.of}" for part in lacking)
        there = lacking[0].folder(out)
        reason = f"part {names} is not finished" if there.is_dir() else f"part {names} is missing"
        raise EcgError(reason, file=there, field="part", fix=f"run the same command with --part {names.split(',')[0]}")
    for part, folder, known in zip(parts, folders, notes, strict=True):
        if known != notes[0]:
            reason = f"part {part.number}/{part.of} is of other records, settings, model or device than part 1"
            fix = f"run the command of part 1 with --part {part.number}/{part.of}"
            raise EcgError(reason, file=folder, field="part", fix=fix)
    places = [folders[k % len(folders)] for k in range(len(notes[0].chunks))]
    return notes[0], [folder / name for folder, name in zip(places, notes[0].chunks, strict=True)], folders


def _parts(out: Path) -> list[Part]:
    """All shares of the run of which some lie beside `out`."""
    pattern = re.compile(rf"{re.escape(out.stem)}\.(\d+)of(\d+)\.part")
    counts = {int(match[2]) for path in out.parent.glob("*.part") if (match := pattern.fullmatch(path.name))}
    if len(counts) != 1:
        reason = f"parts of {' and of '.join(map(str, sorted(counts)))}" if counts else "no part of it is here"
        fix = "move away those that do not count" if counts else "run embed or predict with --part 1/3, 2/3, 3/3 before"
        raise EcgError(reason, file=out, field="part", fix=fix)
    of = counts.pop()
    return [Part(number, of) for number in range(1, of + 1)]


def _read(part: Part, folder: Path) -> Note | None:
    """What a share says of itself; None where it is not complete."""
    try:
        known = Note(**json.loads((folder / NOTE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return known if all((folder / name).is_file() for name in part.share(known.chunks)) else None
