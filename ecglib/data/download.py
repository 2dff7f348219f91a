"""Fetch published files from their hubs, and remember what they were: a file that was altered since is noticed.

`name.source.json` beside a file says where it came from, its size in bytes, its sha256, and the published checksum.
"""

import hashlib
import ipaddress
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3
from filelock import FileLock
from requests.adapters import HTTPAdapter

from ecglib import EcgError
from ecglib.data import files

HUGGING_FACE, ZENODO = "https://huggingface.co", "https://zenodo.org"  # unless HF_ENDPOINT, ECGLIB_ZENODO name another
TRIES = 4  # in a row that bring no new byte
PAUSE_S = 1.0  # between them
TIMEOUT_S = 30.0  # without a byte
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers that may be another one in a moment
REFUSED = {401: "access refused", 403: "access refused", 404: "no such file there", 410: "withdrawn"}
ELSEWHERE = (
    "fetch the file elsewhere, and give its path (zoo.load(name, file=...), ecglib fetch NAME --from FOLDER), "
    "or put it into the folder ECGLIB_WEIGHTS"
)
_BLOCK, _HEAD = 1 << 18, 64  # bytes: read at a time; in which a web page shows


class Dropped(Exception):
    """The connection failed in a way that may pass."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch, and what it must measure (None: not published)."""

    url: str
    path: Path
    size: int | None = None  # bytes
    sha256: str | None = None  # in hexadecimal digits
    md5: str | None = None
    headers: dict = field(default_factory=dict)  # of the request; Authorization goes to the first address only
    progress: Callable | None = None  # called with (bytes so far, bytes in all or None)

    @property
    def part(self) -> Path:
        """Holds the bytes that have arrived."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def part_source(self) -> Path:
        """Holds what the server said of the file when the part was begun: {url, etag, total}."""
        return self.path.with_name(f"{self.path.name}.part.json")

    def arrived(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def begun(self) -> tuple[int, dict]:
        """Bytes to go on from, and what the server said of the file then; zero where two versions might be mixed."""
        source, arrived = _read_json(self.part_source), self.arrived()
        safe = self.sha256 or self.md5 or (source.get("url") == self.url and source.get("etag"))
        return (arrived, source) if safe and arrived <= (self.size or arrived) else (0, {})

    def measured(self, path: Path) -> dict:
        """`measure`, with the md5 only where one was published."""
        return measure(path, md5=self.md5 is not None)

    def wrong(self, measured: dict) -> str | None:
        """The first of size, sha256, md5 that differs from what was published; None: it is the right file."""
        published = {"size": self.size, "sha256": self.sha256, "md5": self.md5}
        return next((key for key, value in published.items() if value is not None and measured[key] != value), None)

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.part_source.unlink(missing_ok=True)


class Session(requests.Session):
    """Asks again after a passing failure, follows redirects to allowed addresses only, and keeps credentials back."""

    def __init__(self):
        super().__init__()
        # no Retry-After: it may ask for hours
        options = dict(status_forcelist=PASSING, raise_on_status=False, respect_retry_after_header=False)
        retry = urllib3.Retry(TRIES - 1, backoff_factor=PAUSE_S, **options)
        self.mount("https://", HTTPAdapter(max_retries=retry))
        self.mount("http://", HTTPAdapter(max_retries=retry))
        self.auth = lambda request: request  # nothing from ~/.netrc
        self.headers.update({"User-Agent": "ecglib", "Accept-Encoding": "identity"})  # bytes as they are stored

    def get_redirect_target(self, resp):
        """The address that an answer redirects to, or None; EcgError where that is not allowed."""
        target = super().get_redirect_target(resp)
        if target:
            url = urljoin(resp.url, target)
            if resp.url.startswith("https:") and not url.startswith("https:"):
                reason = f"{urlsplit(resp.url).netloc} redirects to {url!r}"
                raise EcgError(reason, file=resp.url, field="url", fix=ELSEWHERE)
            allowed(url)
        return target

    def rebuild_auth(self, prepared_request, response):
        """Send no credentials on to where an answer redirects."""
        prepared_request.headers.pop("Authorization", None)


def get(remote: RemoteFile, session: "Session | None" = None) -> dict:
    """Fetch a file and return what it measures ({size, sha256, md5}). The caller holds the folder's lock (`alone`).

    session: one that is open already, for many files of one server.
    """
    allowed(remote.url)
    with nullcontext(session) if session else Session() as connection:
        persist(lambda: _request(connection, remote), remote.url, remote.path, remote.arrived)
    measured = remote.measured(remote.part)
    if key := remote.wrong(measured):
        remote.forget()
        published = f"expected {key} {getattr(remote, key)}, found {measured[key]}"
        fix = "fetch it again; if it stays so, the file was changed since the checksum was published"
        reason = f"not the file that was published: {published}; removed"
        raise EcgError(reason, file=remote.path, field=key, fix=fix)
    os.replace(remote.part, remote.path)
    remote.forget()
    return measured


def measure(path: Path, md5: bool = False) -> dict:
    """Size in bytes and checksums (hex) of a file: {size, sha256}, and md5 where asked for."""
    measured = {"size": path.stat().st_size, "sha256": files.sha256(path)}
    if md5:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        measured["md5"] = digest.hexdigest()
    return measured


def is_page(head: bytes) -> bool:
    """Whether a file that begins so is a web page."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html"))


@contextmanager
def alone(folder: Path):
    """Hold the lock of `folder`, made if needed: of two processes that want a file the second finds it complete."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".fetch.lock")
    with suppress(OSError):  # a file system without locks: two processes may then fetch one file twice
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def allowed(url: str) -> str:
    """Return `url`; raises EcgError unless it is https, or http on this very machine."""
    parts = urlsplit(url)
    try:
        local = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        local = False
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise EcgError(f"only https is fetched, not {url!r}", field="url", fix="give an https address")
    return url


def persist(attempt: Callable, url: str, file, arrived: Callable = lambda: 0):
    """What `attempt` returns; when the connection drops, again, until TRIES in a row brought no new byte."""
    best, left = arrived(), TRIES
    while True:
        try:
            return attempt()
        except Dropped as error:
            now = arrived()
            left = TRIES - 1 if now > best else left - 1
            best = max(best, now)
            if not left:
                raise _not_fetched(url, file, str(error), now) from error
        time.sleep(PAUSE_S)


def _not_fetched(url: str, file, reason: str, arrived: int = 0) -> EcgError:
    fix = f"call again, it goes on from byte {arrived}; or {ELSEWHERE}" if arrived else ELSEWHERE
    return EcgError(f"not fetched from {urlsplit(url).netloc}: {reason}", file=file, field="network", fix=fix)


def _open(session: Session, url: str, file, headers: dict | None = None, arrived: int = 0) -> requests.Response:
    """The answer to a GET of `url`, its body not yet read; EcgError where there is none or it is a refusal."""
    try:
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        cause = getattr(error.args[0], "reason", error) if error.args else error
        raise _not_fetched(url, file, f"no connection ({str(cause).rpartition(': ')[2]})", arrived) from error
    code = response.status_code
    if code in PASSING:
        raise _not_fetched(url, file, f"the server answered {code}", arrived)
    if code >= 400 and code != 416:
        reason = f"{REFUSED.get(code, response.reason)} ({code})"
        raise EcgError(reason, file=url, field="url", fix=f"check the address, or {ELSEWHERE}")
    return response


def _request(session: Session, remote: RemoteFile) -> None:
    """Ask for what the part file lacks and append it; from zero where the server will have it so."""
    have, before = remote.begun()
    if have and have == remote.size:
        return  # ended between the last byte and the name
    etag = before.get("etag") or ""
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and etag and not etag.startswith("W/"):  # a weak validator does not count in If-Range (RFC 9110, 13.1.5)
        headers["If-Range"] = etag
    with _open(session, remote.url, remote.path, remote.headers | headers, remote.arrived()) as response:
        start, total = _extent(response)
        now = {"url": remote.url, "etag": response.headers.get("ETag"), "total": total}
        changed = start and any(before.get(k) and now[k] and before[k] != now[k] for k in ("etag", "total"))
        if start not in (0, have) or changed:
            remote.forget()
            raise Dropped("the file changed on the server")
        broken = None
        try:
            _receive(remote, response, start, now)
        except urllib3.exceptions.HTTPError as error:
            broken = error
        if broken or (total or 0) > remote.arrived():
            raise Dropped(f"the connection closed after {remote.arrived()} of {total or '?'} bytes") from broken


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """The first byte that an answer brings (-1: none, or not said), and how many the file has (None: not said)."""
    if response.status_code in (206, 416):
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        return (int(match[1]), None if match[2] == "*" else int(match[2])) if match else (-1, None)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _receive(remote: RemoteFile, response: requests.Response, start: int, source: dict) -> None:
    """Write the body of an answer to the part file, from byte `start` on; EcgError where it cannot be the file."""
    total = source["total"]
    head = b"" if start else response.raw.read(_HEAD, decode_content=False)
    if response.headers.get("Content-Type", "").lower().startswith("text/html") or is_page(head):
        reason = "a web page came instead of the file: a login, quota or virus-scan page"
        raise EcgError(reason, file=remote.url, field="content", fix=ELSEWHERE)
    if remote.size is not None and total is not None and total != remote.size:
        reason = f"expected {remote.size} bytes, the server has {total}"
        raise EcgError(reason, file=remote.url, field="size", fix="look for a new version of the file")
    files.write_atomic(remote.part_source, json.dumps(source).encode())
    with open(remote.part, "r+b" if start else "wb") as file:
        file.seek(start)
        for block in chain((head,), iter(lambda: response.raw.read1(_BLOCK, decode_content=False), b"")):
            file.write(block)
            if remote.progress:
                remote.progress(file.tell(), total)
        file.flush()
        os.fsync(file.fileno())


def https(url, folder, name=None, *, size=None, sha256=None, md5=None, progress=None) -> Path:
    """Fetch `url` into `folder` as `name` (else the last part of the address) and return its path.

    size (bytes), sha256, md5 (hex): as published; a file that differs is removed. progress: called with (bytes so far,
    bytes in all or None). What is there and right is not fetched again, what is there in part is completed.
    Raises EcgError: address not https, nothing there, no network, a web page instead of the file, size, checksum.
    """
    path = _path(folder, name or unquote(PurePosixPath(urlsplit(url).path).name))
    sha256, md5 = sha256 and sha256.lower(), md5 and md5.lower()
    return _fetched(RemoteFile(url, path, size, sha256, md5, progress=progress), {})[0]


def hugging_face(repo, file, folder, revision="main", *, progress=None) -> tuple[Path, dict]:
    """Fetch `file` of a Hugging Face model repository into `folder`, under its name without the folders of the hub.

    Returns its path and {repo, file, revision: commit, url, size, sha256, published}. The bytes do not come through
    huggingface_hub, whose own download starts from zero in every call. Raises EcgError as `https` does.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import build_hf_headers

    constants.HF_HUB_DISABLE_TELEMETRY = True
    path, origin, name = _path(folder, PurePosixPath(file).name), {"repo": repo, "file": file}, f"{repo}/{file}"
    if facts := _kept(path, **origin, revision=revision):
        return path, facts
    endpoint = allowed((os.environ.get("HF_ENDPOINT") or HUGGING_FACE).rstrip("/"))

    def ask():
        try:
            url = hf_hub_url(repo, file, revision=revision, endpoint=endpoint)
            return get_hf_file_metadata(url, endpoint=endpoint, timeout=TIMEOUT_S, library_name="ecglib")
        except (HTTPError, OSError, ValueError) as error:
            raise _hub_error(error, name, revision) from error

    metadata = persist(ask, endpoint, name)
    if not metadata.commit_hash:
        raise EcgError(f"{endpoint} does not answer like a Hugging Face hub", file=name, fix=ELSEWHERE)
    url = hf_hub_url(repo, file, revision=metadata.commit_hash, endpoint=endpoint)
    sha256 = metadata.etag if re.fullmatch("[0-9a-f]{64}", metadata.etag or "") else None
    remote = RemoteFile(url, path, metadata.size, sha256, None, build_hf_headers(library_name="ecglib"), progress)
    return _fetched(remote, {**origin, "revision": metadata.commit_hash})


def _hub_error(error: Exception, file: str, revision: str) -> Exception:
    """What an error of huggingface_hub means for `file` (repository/file): worth another try, or what to tell."""
    from huggingface_hub import errors

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        reason, field, fix = "huggingface_hub is in offline mode", "HF_HUB_OFFLINE", ELSEWHERE
    elif isinstance(error, errors.GatedRepoError):
        fix = f"ask for access on the page of the repository and set HF_TOKEN, or {ELSEWHERE}"
        reason, field = "the authors grant access one by one", "repo"
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason, field, fix = f"no such repository, or a private one ({status})", "repo", "check its name"
    elif isinstance(error, errors.RevisionNotFoundError):
        reason, field, fix = f"no revision {revision!r} ({status})", "revision", "name a branch or commit"
    elif status == 404:
        reason, field, fix = f"no such file at revision {revision!r} (404)", "file", "check its name"
    elif status in PASSING:
        return Dropped(f"the server answered {status}")
    elif status or isinstance(error, ValueError):
        reason, field, fix = str(error).strip().splitlines()[0], "repo", ELSEWHERE
    else:
        return Dropped(f"no connection ({error})")
    return EcgError(reason, file=file, field=field, fix=fix)


def zenodo(record, file, folder, *, progress=None) -> tuple[Path, dict]:
    """Fetch `file` of a Zenodo record (its number): path and {record, file, url, size, sha256, published}.

    Raises EcgError as `https` does, and for an unknown file with the names that the record has.
    """
    path, origin = _path(folder, file), {"record": str(record), "file": file}
    _require_number(record)
    if facts := _kept(path, **origin):  # a record does not change
        return path, facts
    links = zenodo_files(record)
    if file not in links:
        fix = f"use one of {', '.join(sorted(links)) or '(it has no open file)'}"
        raise EcgError(f"no file {file!r} in record {record}", file=_zenodo_address(record), field="file", fix=fix)
    remote = links[file]
    return _fetched(replace(remote, path=path, progress=progress), origin)


def _require_number(record) -> None:
    if not str(record).isdecimal():
        raise EcgError(f"{record!r} is no record number", field="record", fix="give the digits of its address")


def _zenodo_address(record) -> str:
    base = (os.environ.get("ECGLIB_ZENODO") or ZENODO).rstrip("/")
    return allowed(f"{base}/api/records/{record}")


def zenodo_files(record) -> dict[str, RemoteFile]:
    """The files of a Zenodo record by name, each with its size and md5, to be fetched to a path of that name.

    Raises EcgError as `https` does, and where the answer is not Zenodo's.
    """
    _require_number(record)
    url, name = _zenodo_address(record), f"record {record}"
    try:
        with Session() as session, _open(session, url, name) as response:
            entries = {entry["key"]: entry for entry in response.json()["files"]}
        links = {key: (entry["links"]["self"], entry["size"], entry["checksum"]) for key, entry in entries.items()}
    except (requests.JSONDecodeError, KeyError, TypeError) as error:
        host = url.removesuffix(f"/api/records/{record}")
        raise EcgError(f"{host} does not answer like Zenodo", file=name, fix=ELSEWHERE) from error
    except requests.RequestException as error:
        raise _not_fetched(url, name, f"the connection broke ({error})") from error
    return {
        key: RemoteFile(link, Path(key), size, md5=checksum.removeprefix("md5:") if checksum[:4] == "md5:" else None)
        for key, (link, size, checksum) in links.items()
    }


def verify(path) -> dict:
    """What is remembered of a fetched file; EcgError where it is another than then, or nothing is remembered of it."""
    path = Path(path)
    if not path.is_file():
        raise EcgError("no such file", file=path, fix="fetch it again")
    facts = _read_json(_source(path))
    if not {"size", "sha256"} <= facts.keys():
        raise EcgError("nothing says what it was when it was fetched", file=path, field="source", fix="fetch it again")
    for key, value in measure(path).items():
        if facts[key] != value:
            reason = f"altered since it was fetched: expected {key} {facts[key]}, found {value}"
            raise EcgError(reason, file=path, field=key, fix="delete it and fetch it again")
    return facts


def _source(path: Path) -> Path:
    return path.with_name(f"{path.name}.source.json")


def _read_json(path: Path) -> dict:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _kept(path: Path, **same) -> dict | None:
    """What is remembered of a file that has these facts and is there unaltered; None otherwise."""
    facts = _read_json(_source(path))
    if any(facts.get(key) != value for key, value in same.items()):
        return None
    try:
        return verify(path)
    except EcgError:
        return None


def _path(folder, name: str) -> Path:
    """Where a file goes; raises EcgError for a name that is more than a name."""
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise EcgError(f"{name!r} is no file name", field="name", fix="give the name that the file shall have")
    return Path(folder) / name


def _fetched(remote: RemoteFile, origin: dict) -> tuple[Path, dict]:
    """The file and what is now remembered of it; downloaded unless it is there and right."""
    published = [f"{key}:{getattr(remote, key)}" for key in ("sha256", "md5") if getattr(remote, key)]
    with alone(remote.path.parent):
        if published:
            measured = remote.measured(remote.path) if remote.path.is_file() else None
        else:
            measured = _kept(remote.path, url=remote.url)
        if measured is None or remote.wrong(measured):
            measured = get(remote)
        facts = {**origin, "url": remote.url, "published": ", ".join(published)}
        facts |= {"size": measured["size"], "sha256": measured["sha256"]}
        files.write_atomic(_source(remote.path), (json.dumps(facts, indent=1) + "\n").encode())
    return remote.path, facts


def length(session: Session, url: str) -> int | None:
    """How many bytes the server says that a file has; None where it does not say."""
    try:
        with session.head(allowed(url), timeout=TIMEOUT_S, allow_redirects=True) as response:
            found = response.headers.get("Content-Length", "")
            return int(found) if response.ok and found.isdigit() else None
    except requests.RequestException:
        return None
