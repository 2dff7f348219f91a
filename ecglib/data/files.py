"""Files and folders that are always either the old ones or the whole new ones; what may be replaced; checksums."""

import errno
import hashlib
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

from ecglib import EcgError

KEY = ".key"  # in a folder that a command has not finished: locked while it writes, and what the content came from
LITTER = (".DS_Store", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini")  # left by file managers and Jupyter
MARKUP = {ord(sign): f"&#{ord(sign)};" for sign in "&<>|[]`"}  # what makes HTML, cells and links of text in Markdown
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Text that a spreadsheet runs; not a lone sign, a number with one, or a difference with its interval and p.
_NUMBER = r"\s*[+-]?\d*\.?\d+(e[+-]?\d+)?\s*"
_SIGNED = rf"\s*$|{_NUMBER}($|\({_NUMBER}to{_NUMBER}\)[^-+*/^&(|=@!]*$)"
FORMULA = re.compile(rf"[\t\r\n]|\s*[=@]|\s*[+-](?!{_SIGNED})", re.IGNORECASE)


def cache_dir() -> Path:
    """Folder for what can be had again: ECGLIB_CACHE, else ecglib in XDG_CACHE_HOME, else ecglib in ~/.cache."""
    if own := os.environ.get("ECGLIB_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecglib"


@contextmanager
def naming(path: Path):
    """Let an error of a full disk in the block name `path`, where it names no file."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(path)
        raise


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file (text as UTF-8, line ends as they are) whole or not at all: beside `path`, flushed, renamed."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with naming(path), open(unfinished, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def output_folder(out, wrote, inputs=()) -> Path:
    """Return the folder `out`, links followed; raises EcgError where a command must not replace it.

    It may be new, empty, or hold nothing but what the command wrote itself.
    wrote: folder -> paths (relative, with /) of what the command wrote there; any error: nothing.
    inputs: folders that the command reads; neither they nor the working or the home folder may be `out` or lie in it.
    """
    out = Path(out).resolve()
    for path in map(os.path.realpath, (*inputs, ".", os.path.expanduser("~"))):
        if out in (Path(path), *Path(path).parents):
            reason = f"would be replaced, and is or holds {path}"
            raise EcgError(reason, file=out, field="out", fix="name a new folder")
    if os.path.ismount(out):
        raise EcgError("is a mounted disk", file=out, field="out", fix="name a new folder in it")
    _require_writable(out)
    require_own(out, wrote)
    require_own(out.with_name(f".{out.name}.old"), wrote)
    return out


def output_file(out, own) -> Path:
    """Return the path `out` of a file to write; raises EcgError where something is that the command did not write.

    own: path of a file -> whether the command wrote it; any error: it did not.
    """
    out = Path(out)
    _require_writable(out)
    if out.exists() and not (out.is_file() and _asked(own, out)):
        raise EcgError("is there, and not from this command", file=out, field="out", fix="name a new file")
    return out


def _asked(function, path: Path):
    """What a function says of a file or folder; None where it does not find there what it looks for."""
    try:
        return function(path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _require_writable(out: Path) -> None:
    """EcgError where `out` cannot be made, or replaced, in the folder above it."""
    above = next(path for path in out.absolute().parents if path.exists())
    if not above.is_dir():
        raise EcgError(f"{above} is a file", file=out, field="out", fix="name a new folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise EcgError(f"no right to write in {above}", file=out, field="out", fix="write elsewhere")


def require_own(folder: Path, wrote) -> None:
    """EcgError with the first thing in a folder that the command, as `wrote` says (see `output_folder`), did not put
    there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise EcgError("is a file", file=folder, field="out", fix="name a new folder")
    files = {Path(path) for path in _asked(wrote, folder) or ()}
    known = files.union([Path(KEY)] if files else [], *(path.parents for path in files))
    for path in sorted(folder.rglob("*")):
        if path.relative_to(folder) not in known and not set(path.relative_to(folder).parts) & set(LITTER):
            fix = "name a new folder, or move away what is in this one"
            raise EcgError("is not from this command, and would be lost", file=path, field="out", fix=fix)


@contextmanager
def claimed(folder: Path, key: str = ""):
    """Hold a folder of unfinished output for the block. It is made, or emptied unless it came from the same `key`.

    Raises EcgError where another process holds it, and where no command has made it.
    """
    from filelock import FileLock, Timeout

    if folder.exists() and not (folder / KEY).is_file() and any(folder.iterdir()):
        fix = "move it away: it is where unfinished output goes"
        raise EcgError("is not from this command", file=folder, field="out", fix=fix)
    folder.mkdir(parents=True, exist_ok=True)
    stamp, lock = folder / KEY, FileLock(folder / KEY)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        fix = "wait until it has ended, or write elsewhere"
        raise EcgError("another command is writing here", file=folder, field="out", fix=fix) from error
    except OSError:
        pass  # a file system without locks
    try:
        with naming(folder):
            if not key or not stamp.exists() or stamp.read_text() != key:
                for path in folder.iterdir():
                    if path != stamp:
                        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                stamp.write_text(key)  # in place: a new file would not be locked
            yield
    finally:
        lock.release()


def write_csv(table, path, index: bool = False, **options) -> None:
    """Write a table for people: text that a spreadsheet would run as a formula gets an apostrophe in front.

    index: write it too; options: of `DataFrame.to_csv`.
    """
    write_atomic(Path(path), csv_text(table, index, **options))


def csv_text(table, index: bool = False, **options) -> str:
    """The text that `write_csv` writes."""
    shown = table.copy()
    for number, kind in enumerate(table.dtypes):
        if kind.kind not in "biuf":
            shown.isetitem(number, table.iloc[:, number].map(_harmless))
    shown.columns = table.columns.map(_harmless)
    shown.index = table.index.map(_harmless) if index else table.index
    return shown.to_csv(index=index, lineterminator="\n", **options)


def _harmless(cell):
    if isinstance(cell, tuple):  # of an index with several levels
        return tuple(_harmless(part) for part in cell)
    if not isinstance(cell, str):
        return cell
    shown = cell.replace("\r\n", "\n").replace("\r", "\n")  # a lone \r would end the row: no writer quotes it
    return f"'{shown}" if FORMULA.match(shown) else shown


def plain(text: str) -> str:
    """Text from files as Markdown and HTML show it: on one line, nothing in it a tag, a link or the end of a cell."""
    return " ".join(text.split()).translate(MARKUP)


def replace_folder(finished: Path, out: Path, wrote) -> None:
    """Put the folder `finished` in the place of `out`, after its files (not those of its folders) are on the disk.

    wrote: as of `output_folder`. EcgError where somebody has put something into `out` since that was asked.
    """
    require_own(out, wrote)
    for path in finished.iterdir():
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(finished, out)
    (out / KEY).unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def new_folder(out, wrote, inputs=()):
    """Yield an empty folder beside `out`, which takes the place of `out` where the block ends without an error.

    out, wrote, inputs: as of `output_folder`, which is asked first.
    What a killed writer left is put right: its unfinished folder goes, and a replaced one without a successor returns.
    """
    out = output_folder(out, wrote, inputs)
    unfinished, old = (out.with_name(f".{out.name}.{end}") for end in ("part", "old"))
    with claimed(unfinished):
        if old.exists() and not out.exists():
            os.replace(old, out)
        shutil.rmtree(old, ignore_errors=True)
        try:
            yield unfinished
            replace_folder(unfinished, out, wrote)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def sha256(path: Path) -> str:
    """Checksum of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_passing(path: Path) -> bool:
    """Whether a path, relative to a folder of results, is hidden or of an interrupted run (.part, .old)."""
    return any(n.startswith((".", "__pycache__")) or n.endswith((".part", ".old")) for n in path.parts)


def walk(root: Path) -> list[Path]:
    """Every file below a folder, linked folders included: each folder once, so that no link leads in a circle.

    Raises EcgError for a folder that cannot be read.
    """
    found, folders, links, seen = [], [root], [], set()
    while folders or links:
        links.sort(reverse=True)
        folder = folders.pop() if folders else links.pop()  # a folder that is linked too keeps its own name
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise EcgError(f"cannot read the folder: {error.strerror}", file=folder) from error
        for entry in entries:
            linked = entry.is_symlink()  # of what is no link, the kind is known already
            if os.path.isdir(entry) if linked else entry.is_dir():
                (links if linked else folders).append(Path(entry))
            elif os.path.isfile(entry) if linked else entry.is_file():
                found.append(Path(entry))
    return sorted(found)


def beside(path, ending: str) -> Path | None:
    """The file of a record, path without extension, with an ending (".mat") in small or large letters; None: none."""
    found = (Path(f"{path}{one}") for one in (ending, ending.upper()))
    return next((file for file in found if file.is_file()), None)


def headers(root: Path) -> tuple[list[Path], int]:
    """WFDB headers (.hea, .HEA) below a folder, as `walk` finds them; and how many others macOS left there (._name)."""
    found = [path for path in walk(root) if path.suffix in (".hea", ".HEA")]
    kept = [path for path in found if not path.name.startswith("._")]
    return kept, len(found) - len(kept)


def rubbish(folder, number: int) -> str:
    """What is said of so many headers of macOS (._name) that `headers` left out below a folder."""
    return f"{folder}: {number:,} files ._*.hea of macOS are no records and are left out"


def fingerprint(root: Path, *, content: bool) -> list[str]:
    """One line per file below `root`, or for the file `root`: what changes when the file does.

    content: the name and the hash of the bytes (True), or the name, the size and the time of change (False).
    Linked folders are followed. Left out: hidden files, __pycache__, .part and .old folders of interrupted runs.
    Raises EcgError where nothing is at `root`.
    """
    if not root.exists():
        raise EcgError("no such file or folder", file=root, fix="check DATA, or run the stage that makes it")
    lines = []
    for path in walk(root) if root.is_dir() else [root]:
        if not is_passing(path.relative_to(root)):
            what = sha256(path) if content else f"{path.stat().st_size} {path.stat().st_mtime_ns}"
            lines.append(f"{os.path.relpath(path, root)} {what}")
    return lines
