"""One file over https: resumed where the connection broke, checked before it gets its name, refused when it is wrong.

A file arrives as `name.part`; `name.part.json` keeps the server's validator of it, so that what is appended later is
more of the same file.
"""

import hashlib
import http.client
import ipaddress
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from urllib.parse import quote, urlsplit

from ecglib.checkpoint import write_atomic
from ecglib.signals import EcgError

try:
    import fcntl
except ImportError:  # a system without such locks: two processes may then fetch one file twice
    fcntl = None

TRIES = 4  # in a row that bring no new byte
PAUSE_S = 1.0  # between them
TIMEOUT_S = 30.0  # without a byte
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers that may be another one in a moment
ELSEWHERE = "fetch the file elsewhere and give its path: zoo.load(name, file=...)"
_BLOCK, _HEAD = 1 << 18, 64  # bytes: read at a time; in which a web page shows


class Dropped(Exception):
    """The connection failed in a way that may pass. stale: what was fetched before is of no use."""

    def __init__(self, reason: str, stale: bool = False):
        super().__init__(reason)
        self.stale = stale


@dataclass(frozen=True)
class Want:
    """A file: where from and to, and what it must measure (None: not published).

    headers go to the first address only, not to where it redirects; progress(bytes so far, bytes in all or None).
    """

    url: str
    path: Path
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    headers: dict = field(default_factory=dict)
    progress: Callable | None = None

    @property
    def part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part.json")

    def arrived(self) -> int:
        """Bytes of the part file."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def begun(self) -> tuple[int, dict]:
        """Bytes to go on from, and what the server said of the file then: {url, etag, total}.

        Without a validator, and without a checksum that would show a mixture of two versions, it starts from zero.
        """
        try:
            note = json.loads(self.note.read_bytes())
        except (OSError, ValueError):
            note = {}
        have = self.arrived()
        safe = self.sha256 or self.md5 or (note.get("url") == self.url and note.get("etag"))
        return (have, note) if safe and have <= (self.size or have) else (0, {})

    def measured(self, path: Path) -> dict:
        """`measure`, with the md5 only where one was published."""
        return measure(path, md5=self.md5 is not None)

    def wrong(self, found: dict) -> str | None:
        """The first of size, sha256, md5 in which `found` differs from what was published; None: it is right."""
        published = {"size": self.size, "sha256": self.sha256, "md5": self.md5}
        return next((key for key, value in published.items() if value is not None and found[key] != value), None)

    def forget(self) -> None:
        """Drop what was fetched of it."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def get(want: Want) -> dict:
    """Fetch `want` and return what it measures ({size, sha256, md5}). The caller holds the folder's lock (`alone`).

    Raises EcgError: nothing there, no network, a web page instead of the file, another size or checksum.
    """
    allowed(want.url)
    persist(lambda: _request(want), want.url, want.path, want.arrived)
    found = want.measured(want.part)
    if key := want.wrong(found):
        want.forget()
        reason = f"not the file that was published: expected {key} {getattr(want, key)}, found {found[key]}; removed"
        fix = "fetch it again; if it stays so, the file was changed since the checksum was published"
        raise EcgError(reason, file=want.path, field=key, fix=fix)
    os.replace(want.part, want.path)
    want.forget()
    return found


def measure(path: Path, md5: bool = False) -> dict:
    """Size in bytes and checksums (hex) of a file: {size, sha256}, and md5 where asked for."""
    names = ("sha256", "md5") if md5 else ("sha256",)
    sums = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for each in sums.values():
                each.update(block)
    return {"size": path.stat().st_size, **{name: each.hexdigest() for name, each in sums.items()}}


def is_page(head: bytes) -> bool:
    """Whether a file that begins so is a web page."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html"))


@contextmanager
def alone(folder: Path):
    """Hold the lock of `folder`, made if needed: of two processes that want a file the second finds it complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".fetch.lock", "ab") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield


def allowed(url: str) -> str:
    """Return `url`; raises EcgError unless it is https, or http on this very machine."""
    parts = urlsplit(url)
    try:
        here = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        here = False
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and here)):
        raise EcgError(f"only https is fetched, not {url!r}", field="url", fix="give an https address")
    return url


def persist(attempt: Callable, url: str, what, arrived: Callable = lambda: 0):
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
                fix = f"call again, it goes on from byte {now}; or {ELSEWHERE}" if now else ELSEWHERE
                reason = f"not fetched from {urlsplit(url).netloc}: {error}"
                raise EcgError(reason, file=what, field="network", fix=fix) from error
        time.sleep(PAUSE_S)


class _Careful(urllib.request.HTTPRedirectHandler):
    """Follows redirects to allowed addresses only, and none from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise EcgError(f"{req.host} redirects to {newurl!r}", file=req.full_url, field="url", fix=ELSEWHERE)
        return super().redirect_request(req, fp, code, msg, headers, allowed(newurl))


def opened(url: str, headers: dict, private: dict | None = None):
    """The answer to a GET of `url`; `private` headers are not sent on to where it redirects. Dropped or EcgError."""
    request = urllib.request.Request(quote(url, safe="%/:=&?~#+!$,;'@()*[]"), headers={"User-Agent": "ecglib"})
    for key, value in headers.items():
        request.add_header(key, value)
    for key, value in (private or {}).items():
        request.add_unredirected_header(key, value)
    try:
        return urllib.request.build_opener(_Careful).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        code = error.code
        if code in PASSING or code == 416:
            raise Dropped(f"the server answered {code}", stale=code == 416) from error
        reasons = {404: "no such file there", 410: "withdrawn", 401: "access refused", 403: "access refused"}
        reason = f"{reasons.get(code, error.reason)} ({code})"
        raise EcgError(reason, file=url, field="url", fix=f"check the address, or {ELSEWHERE}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Dropped(f"no connection ({getattr(error, 'reason', error)})") from error


def read(function: Callable, *args) -> bytes:
    """What a reading method of an answer returns; Dropped when the connection breaks."""
    try:
        return function(*args)
    except (OSError, http.client.HTTPException) as error:
        raise Dropped(f"the connection broke ({error!r})") from error


def _request(want: Want) -> None:
    """Ask for what the part file lacks and append it; from zero where the server will have it so."""
    have, before = want.begun()
    if have and have == want.size:
        return  # ended between the last byte and the name
    etag = before.get("etag") or ""
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and etag and not etag.startswith("W/"):  # a weak validator does not count in If-Range (RFC 9110, 13.1.5)
        headers["If-Range"] = etag
    try:
        with opened(want.url, headers, want.headers) as response:
            start, total = _extent(response)
            now = {"url": want.url, "etag": response.headers.get("ETag"), "total": total}
            changed = start and any(before.get(k) and now[k] and before[k] != now[k] for k in ("etag", "total"))
            if start not in (0, have) or changed:
                raise Dropped("the file changed on the server", stale=True)
            head = b"" if start else read(response.read, _HEAD)
            if response.headers.get_content_type() == "text/html" or is_page(head):
                reason = "a web page came instead of the file: a login, quota or virus-scan page"
                raise EcgError(reason, file=want.url, field="content", fix=ELSEWHERE)
            if want.size is not None and total is not None and total != want.size:
                reason = f"expected {want.size} bytes, the server has {total}"
                raise EcgError(reason, file=want.url, field="size", fix="look for a new version of the file")
            write_atomic(want.note, json.dumps(now).encode())
            _append(want, response, head, start, total)
    except Dropped as error:
        if error.stale:
            want.forget()
        raise


def _extent(response) -> tuple[int, int | None]:
    """The first byte that an answer brings (-1: not said), and how many bytes the file has (None: not said)."""
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        return (int(found[1]), None if found[2] == "*" else int(found[2])) if found else (-1, None)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _append(want: Want, response, head: bytes, start: int, total: int | None) -> None:
    """Write `head` and the rest of an answer to the part file, from byte `start` on."""
    have = start
    with open(want.part, "r+b" if start else "wb") as file:
        file.seek(start)
        rest = iter(lambda: read(response.read1, _BLOCK if total is None else min(_BLOCK, total - have)), b"")
        for block in chain((head,), rest):
            file.write(block)
            have += len(block)
            if want.progress:
                want.progress(have, total)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and have < total:
        raise Dropped(f"the connection closed after {have} of {total} bytes")
