"""Shares of one run for the jobs of an array: their names and folders, and whether all of them are there and alike.

Job i of n computes its share into a folder of its own beside the output, features.2of3.part for --part 2/3, and writes
NOTE there last, which says what it came from. What a share holds is its command's: `zoo.array_jobs`, `packing_shares`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ecglib import EcgError

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

    def folder(self, out: Path, kind: str = "") -> Path:
        """Where this share of `out` lies; kind: a word in its name, of a share of a folder, whose name counts whole."""
        if kind:
            return out.with_name(f"{out.name}.{self.number}of{self.of}.{kind}.part")
        return out.with_name(f"{out.stem}.{self.number}of{self.of}.part")

    def share(self, items: list) -> list:
        """Those of a list that are of this share."""
        return items[self.number - 1 :: self.of]


def complete(out: Path, read: Callable, origin: Callable, *, kind: str, what: str, command: str) -> tuple[list, list]:
    """(what every share of `out` says of itself, their folders), in order.

    read: (Part, folder) -> what it says, None where it is not finished; origin: of that, what all must agree in; kind:
    as of `Part.folder`; what, command: words for an error on what differs, and on what to run.
    Raises EcgError that names every share that is not there or not finished, and the first that differs from share 1;
    and where shares of several counts lie there.
    """
    parts = _parts(out, kind, command)
    folders = [part.folder(out, kind) for part in parts]
    notes = [read(part, folder) for part, folder in zip(parts, folders, strict=True)]
    if lacking := [part for part, known in zip(parts, notes, strict=True) if known is None]:
        names = ", ".join(f"{part.number}/{part.of}" for part in lacking)
        there = lacking[0].folder(out, kind)
        reason = f"part {names} is not finished" if there.is_dir() else f"part {names} is missing"
        raise EcgError(reason, file=there, field="part", fix=f"run the same command with --part {names.split(',')[0]}")
    for part, folder, known in zip(parts, folders, notes, strict=True):
        if origin(known) != origin(notes[0]):
            reason = f"part {part.number}/{part.of} is of other {what} than part 1"
            fix = f"run the command of part 1 with --part {part.number}/{part.of}"
            raise EcgError(reason, file=folder, field="part", fix=fix)
    return notes, folders


def _parts(out: Path, kind: str, command: str) -> list[Part]:
    """All shares of the run of which some lie beside `out`."""
    before, _, after = map(re.escape, Part(0, 0).folder(out, kind).name.rpartition("0of0"))
    pattern = re.compile(rf"{before}(\d+)of(\d+){after}")
    counts = {int(match[2]) for path in out.parent.glob("*.part") if (match := pattern.fullmatch(path.name))}
    if len(counts) != 1:
        reason = f"parts of {' and of '.join(map(str, sorted(counts)))}" if counts else "no part of it is here"
        fix = "move away those that do not count" if counts else f"run {command} with --part 1/3, 2/3, 3/3 before"
        raise EcgError(reason, file=out, field="part", fix=fix)
    of = counts.pop()
    return [Part(number, of) for number in range(1, of + 1)]
