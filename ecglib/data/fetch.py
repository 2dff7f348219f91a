"""Public corpora on this disk: from PhysioNet, Zenodo, an S3 bucket, an archive or a copy; every file verified.

`vocabulary/corpora.csv` lists the corpora: records, patients, leads, rate, licence, access and source as published; a
cell is empty where the publication does not say. A source is

`physionet:SLUG/VERSION`   the open bucket of PhysioNet, then its own server: files by SHA256SUMS.txt
`zenodo:RECORD`            the files of a record, by their MD5
`s3://BUCKET/FOLDER`       a public bucket, asked without credentials (AWS_ENDPOINT_URL: of another service)
an address                 of a folder with SHA256SUMS.txt, or of an archive (.zip, .tar, .tar.gz, .tgz)
a folder, an archive       on this disk; verified where a SHA256SUMS.txt is in it

Files arrive in `.NAME.part` beside the folder, which gets its name when the last one is there; a call that was stopped
goes on where it was. A folder that is there already is filled up, and nothing in it is replaced.
"""

import fnmatch
import gzip
import os
import re
import shutil
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

import pandas as pd

from ecglib import EcgError, require_known
from ecglib.data import download, files
from ecglib.data.labels import vocabulary

SUMS = "SHA256SUMS.txt"
PHYSIONET = ("https://physionet-open.s3.amazonaws.com", "https://physionet.org/files")  # ECGLIB_PHYSIONET: another one
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
ROOM = 1.02  # times what the files need must be free
_ARCHIVE = ".archive"  # where an archive waits to be unpacked
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error)  # while an archive is read
_MOST_FAILURES = 5  # files that fail before the rest is not asked for
_SAMPLE = 16  # files whose size is asked for, to tell how much there is


@dataclass(frozen=True)
class _File:
    """One file to get: name below the corpus (with /), where from (an address, or a path), what it must measure."""

    name: str
    source: str | Path
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None


@dataclass
class Fetched:
    """What a call did: folder, source; files of the corpus asked for, how many of them came now, their bytes, seconds;
    verified: how many have a published checksum."""

    folder: Path
    source: str
    files: int = 0
    came: int = 0
    bytes: int = 0
    seconds: float = 0.0
    verified: int = 0


def corpora() -> pd.DataFrame:
    """The table of public corpora, every cell as text, empty where nothing is published."""
    return vocabulary("corpora")


def fetch(name: str, out, source: str = "", only=(), workers: int = 8, progress: Callable | None = None) -> Fetched:
    """Put a corpus, or a part of it, into the folder `out`.

    name: of `corpora`. source: where from (see above); empty: where it was published. only: patterns such as
    "records100/*"; none: all files. workers: connections. progress: called with (bytes so far, bytes in all about).
    Raises EcgError before anything is fetched: unknown name; access by agreement; no such source; no file for a
    pattern; too little room. And after: a file that is missing, a web page, too short or not what was published.
    What has arrived is kept: the next call goes on from there.
    """
    table = corpora().set_index("name")
    require_known("corpus", [name], list(table.index), "name")
    row, out = table.loc[name], Path(out)
    if row.access != "open" and not source:
        signed = f"sign its data use agreement at {row.source}, get the files there"
        reason = "given to those who sign an agreement"
        if row.access == "by hand":
            signed, reason = f"get the files at {row.source}", "not listed anywhere file by file"
        raise EcgError(f"{row.title} is {reason}", field="access", fix=f"{signed}, and give them by --from FOLDER")
    done, began = Fetched(out, source or row.source), time.monotonic()
    with _target(out, f"{name} {done.source}") as target:
        wanted = _chosen(_listed(done.source, target), only, done.source)
        done.files, done.verified = len(wanted), sum(bool(file.sha256 or file.md5) for file in wanted)
        missing = [file for file in wanted if not _there(target / file.name, file, target == out)]
        needed = _needed(missing, target)
        _require_room(out, needed)
        done.came = len(missing)
        done.bytes = _Transfer(target, needed, progress).run(missing, workers)
        shutil.rmtree(target / _ARCHIVE, ignore_errors=True)  # is unpacked
    done.seconds = time.monotonic() - began
    return done


@contextmanager
def _target(out: Path, key: str):
    """The folder that files go to: `out` where it is there, else one that takes its name when the block has ended."""
    files._require_writable(out)
    if out.exists():
        if not out.is_dir():
            raise EcgError("is a file", file=out, field="out", fix="name a folder")
        with download.alone(out):
            yield out
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    with files.claimed(part, key):
        yield part
        (part / files.KEY).unlink()
        os.replace(part, out)


def _listed(source: str, target: Path) -> list[_File]:
    """The files of a source."""
    kind, _, rest = source.partition(":")
    if kind == "physionet":
        bases = [os.environ["ECGLIB_PHYSIONET"]] if os.environ.get("ECGLIB_PHYSIONET") else PHYSIONET
        return _of_server([f"{base.rstrip('/')}/{rest}" for base in bases], target)
    if kind == "zenodo":
        remote = download.zenodo_files(rest)
        return [_File(_safe(n, source), f.url, f.sha256, f.md5, f.size) for n, f in sorted(remote.items())]
    if kind == "s3":
        bucket, _, folder = rest.removeprefix("//").strip("/").partition("/")
        service = os.environ.get("AWS_ENDPOINT_URL")
        base = f"{service.rstrip('/')}/{bucket}" if service else f"https://{bucket}.s3.amazonaws.com"
        return _of_server([f"{base}/{folder}".rstrip("/")], target)
    if kind in ("http", "https"):
        if not urlsplit(source).path.lower().endswith(ARCHIVES):
            return _of_server([source.rstrip("/")], target)
        name = PurePosixPath(urlsplit(source).path).name
        return _of_archive(download.https(source, target / _ARCHIVE, name))
    path = Path(source).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_archive(path)
    fix = "a folder or archive that is there, an address, s3://bucket/folder, physionet:slug/version or zenodo:number"
    raise EcgError("no such source", file=source, field="from", fix=fix)


def _of_server(bases: list[str], target: Path) -> list[_File]:
    """The files that SHA256SUMS.txt names, from the first of several folders of a server that has one."""
    came = target / f".{SUMS}"
    try:
        for number, base in enumerate(bases):
            remote = download.RemoteFile(f"{base}/{SUMS}", came)
            try:
                remote.forget()
                download.get(remote)
                break
            except EcgError:
                if number == len(bases) - 1:
                    raise
        sums = _sums(came.read_text("utf-8", errors="replace"), f"{base}/{SUMS}")
        _keep_list(came, target)
    finally:
        came.unlink(missing_ok=True)
    return [_File(name, f"{base}/{quote(name)}", sha256) for name, sha256 in sums.items()]


def _keep_list(came: Path, target: Path) -> None:
    """Put the list of checksums that came into its place; EcgError where another one is that no call put there."""
    path = target / SUMS
    own = (target / files.KEY).is_file()  # our unfinished folder
    if path.exists() and not own and not (path.is_file() and path.read_bytes() == came.read_bytes()):
        fix = "move it away, and call again"
        raise EcgError("is there, and not the list that is published", file=path, field="content", fix=fix)
    os.replace(came, path)


def _sums(text: str, where) -> dict[str, str]:
    """File name -> SHA-256 of a list of checksums; EcgError for a line that is none."""
    sums = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = re.fullmatch(r"([0-9a-fA-F]{64})\s+\*?(?:\./)?(.+?)\s*", line)
        if not match and line.strip():
            fix = "look whether the source has a list of checksums there"
            raise EcgError(f"line {number} is no checksum", file=where, field=f"line {number}", fix=fix)
        if match and match[2] != SUMS:
            sums[_safe(match[2], where)] = match[1].lower()
    if not sums:
        raise EcgError("names no file", file=where, field="content", fix="look at the source")
    return sums


def _safe(name: str, where) -> str:
    """A file name that stays below its folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or ".." in parts or parts[0].endswith(":"):
        raise EcgError(f"{name!r} leads out of the folder", file=where, field="name", fix="do not use this source")
    return str(PurePosixPath(name))


def _of_folder(folder: Path) -> list[_File]:
    known = _sums((folder / SUMS).read_text("utf-8"), folder / SUMS) if (folder / SUMS).is_file() else {}
    there = {p.relative_to(folder).as_posix(): p for p in files.walk(folder)}
    found = [_File(name, path, known.get(name), size=path.stat().st_size) for name, path in there.items()]
    absent = [_File(name, folder / name, sha256) for name, sha256 in known.items() if name not in there]
    return [file for file in found if not Path(file.name).name.startswith(".")] + absent


def _of_archive(path: Path) -> list[_File]:
    """The members of an archive, unpacked beside nothing: each is read when its turn comes."""
    with _opened(path) as archive:
        members = {_safe(name, path): (name, size) for name, size in archive.members().items()}
        tops = {PurePosixPath(name).parts[0] for name in members}
        top = f"{tops.pop()}/" if len(tops) == 1 and all("/" in name for name in members) else ""
        sums = members.get(f"{top}{SUMS}")
        known = _sums(archive.read(sums[0]).decode("utf-8", "replace"), path) if sums else {}
    found = {name.removeprefix(top): member for name, member in members.items()}
    listed = [_File(n, _Member(path, inside), known.get(n), size=size) for n, (inside, size) in found.items()]
    return listed + [_File(n, _Member(path, top + n), s) for n, s in known.items() if n not in found]


@dataclass(frozen=True)
class _Member:
    """A file in an archive, by its name there, which may begin with "./"."""

    archive: Path
    name: str

    def copy(self, opened: "_opened", target: Path) -> None:
        with opened.telling(), opened.open(self.name) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)


class _opened:
    """A .zip or .tar archive in a with block; EcgError where it is none, or not whole."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        try:
            self.archive = zipfile.ZipFile(self.path) if zipfile.is_zipfile(self.path) else tarfile.open(self.path)
        except (*_DAMAGED, OSError) as error:
            raise self._broken(error) from error
        return self

    def __exit__(self, kind, error, trace):
        self.archive.close()
        if isinstance(error, _DAMAGED):
            raise self._broken(error) from error

    @contextmanager
    def telling(self):
        """Let an error of the archive in the block be an EcgError, and the archive stay open."""
        try:
            yield
        except _DAMAGED as error:
            raise self._broken(error) from error

    def _broken(self, error) -> EcgError:
        return EcgError(f"not a whole archive: {error}", file=self.path, field="content", fix="fetch it again")

    def members(self) -> dict[str, int]:
        """Name -> size of every file; links and devices are refused."""
        if isinstance(self.archive, zipfile.ZipFile):
            return {m.filename: m.file_size for m in self.archive.infolist() if not m.is_dir()}
        entries = [m for m in self.archive.getmembers() if not m.isdir()]
        while self.archive.fileobj.read(1 << 20):
            pass  # the checksum of a .tgz is looked at when its last byte, after the last member, has been read
        if strange := [m.name for m in entries if not m.isfile()]:
            raise EcgError(f"holds a link, {strange[0]!r}", file=self.path, field="content", fix="use another source")
        return {m.name: m.size for m in entries}

    def open(self, name: str):
        try:
            return (
                self.archive.open(name) if isinstance(self.archive, zipfile.ZipFile) else self.archive.extractfile(name)
            )
        except KeyError as error:
            raise EcgError("named in its checksums, and not there", file=self.path, field=name) from error

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()


def _chosen(listed: list[_File], only, source: str) -> list[_File]:
    wanted = [file for file in listed if not only or any(fnmatch.fnmatch(file.name, pattern) for pattern in only)]
    unused = [pattern for pattern in only if not any(fnmatch.fnmatch(file.name, pattern) for file in listed)]
    if unused or not wanted:
        fix = f"there are {len(listed)} files, such as {listed[0].name}" if listed else "name another source"
        raise EcgError(f"no file is called {', '.join(unused) or 'anything'}", file=source, field="only", fix=fix)
    return wanted


def _there(path: Path, file: _File, ours_not: bool) -> bool:
    """Whether a file is there and right; EcgError where another one is in its place that no call put there."""
    if not path.is_file():
        return False
    right = _wrong(path, file) is None
    if not right and ours_not:
        fix = "move it away, and call again"
        raise EcgError("is there, and not the file that was published", file=path, field="content", fix=fix)
    return right


def _wrong(path: Path, file: _File) -> str | None:
    """How a file differs from what was published, None where it does not."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"expected {file.size} bytes, found {size}"
    measured = download.measure(path, md5=True) if file.md5 else {"sha256": files.sha256(path)} if file.sha256 else {}
    for key in ("sha256", "md5"):
        published = getattr(file, key)
        if published and measured[key] != published:
            return f"expected {key} {published}, found {measured[key]}"
    return None


def _needed(missing: list[_File], target: Path) -> int:
    """Bytes of the files to come: known, or as many as a sample of them has on the average."""
    known = [file.size for file in missing if file.size is not None]
    unknown = [file for file in missing if file.size is None and isinstance(file.source, str)]
    asked = []
    with download.Session() as session:
        for file in unknown[:: max(1, len(unknown) // _SAMPLE)][:_SAMPLE]:
            length = download.length(session, file.source)
            asked += [length] if length is not None else []
    return sum(known) + (round(sum(asked) / len(asked) * len(unknown)) if asked else 0)


def _require_room(out: Path, needed: int) -> None:
    above = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(above).free
    if needed * ROOM > free:
        reason = f"needs about {needed / 1e9:,.2f} GB, {free / 1e9:,.2f} GB are free"
        raise EcgError(reason, file=out, field="disk", fix="name a folder on another disk, or fetch a part by --only")


class _Transfer:
    """Files on their way, several at a time."""

    def __init__(self, target: Path, needed: int, progress):
        self.target, self.needed, self.progress = target, needed, progress
        self.lock, self.stop, self.local = threading.Lock(), threading.Event(), threading.local()
        self.bytes, self.failed, self.archives = 0, 0, ExitStack()

    def run(self, wanted: list[_File], workers: int) -> int:
        """Get all; returns their bytes. Raises EcgError with the first file that did not come, and how many did not."""
        pool = ThreadPoolExecutor(workers)
        try:
            jobs = [pool.submit(self._one, file) for file in wanted]
            pending = set(jobs)
            while pending:  # short waits: Ctrl-C is heard between them
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                if any(isinstance(job.exception(), OSError) for job in done):
                    break
        finally:
            self.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            self.archives.close()
        errors = [job.exception() for job in jobs if not job.cancelled() and job.exception()]
        if errors:
            raise _several(errors)
        return self.bytes

    def _one(self, file: _File) -> None:
        if self.stop.is_set():
            return
        path = self.target / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                self._bring(file, path)
            except EcgError as error:
                if error.field not in ("sha256", "md5", "size"):
                    raise
                self._bring(file, path)  # once more: damaged on the way
        except EcgError as error:
            self.failed += 1
            if error.field == "network" or self.failed > _MOST_FAILURES:
                self.stop.set()  # the next files would fare no better
            raise
        with self.lock:
            self.bytes += path.stat().st_size
            if self.progress:
                self.progress(self.bytes, max(self.needed, self.bytes))

    def _archive(self, path: Path) -> _opened:
        """The archive, open once in every thread: its members are listed once, and not for every file."""
        if not hasattr(self.local, "archive"):
            self.local.archive = self.archives.enter_context(_opened(path))
        return self.local.archive

    def _bring(self, file: _File, path: Path) -> None:
        if isinstance(file.source, str):
            if not hasattr(self.local, "session"):
                self.local.session = download.Session()
            remote = download.RemoteFile(file.source, path, file.size, file.sha256, file.md5)
            download.get(remote, self.local.session)
            return
        if isinstance(file.source, Path) and not file.source.is_file():
            fix = "get a whole copy, or name the files that are there by --only"
            raise EcgError("named in its checksums, and not there", file=file.source, field="file", fix=fix)
        part = path.with_name(f"{path.name}.part")
        try:
            with files.naming(path):
                if isinstance(file.source, _Member):
                    file.source.copy(self._archive(file.source.archive), part)
                else:
                    shutil.copyfile(file.source, part)
            if wrong := _wrong(part, file):
                reason = f"not the file that was published: {wrong}"
                raise EcgError(
                    reason, file=file.name, field="sha256", fix="get a whole copy, or leave it out by --only"
                )
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def _several(errors: list[BaseException]) -> BaseException:
    first = next((error for error in errors if not isinstance(error, EcgError)), errors[0])
    if not isinstance(first, EcgError) or len(errors) == 1:
        return first
    reason = f"{first.reason}; and {len(errors) - 1} more files did not come"
    return EcgError(reason, file=first.file, field=first.field, fix=first.fix)
