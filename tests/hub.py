"""A local server with the addresses of the public hubs, whose files can be made to fail in every way that happens."""

import hashlib
import json
import re
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = b"<!DOCTYPE html>\n<html><body>Too many users have viewed or downloaded this file recently.</body></html>\n"
FAULTS = (
    "cut",  # at=n: closes the connection before byte n of the file
    "stall",  # at=n: sends nothing more from byte n on, until the hub closes
    "corrupt",  # one byte is another; length and checksums are those of the original
    "truncate",  # the file ends at byte at (default: half), with a length that fits
    "html",  # a web page instead of the file; content=, body=: another content type, another page
    "missing",  # 404
    "status",  # code=503 (default), or any other
    "gated",  # 403, as Hugging Face answers for a repository with access on request
    "no_range",  # the whole file (200) where a part was asked for
    "no_if_range",  # a part (206) even where the validator is another by now
    "no_etag",  # without validator
    "weak",  # with a weak validator
    "chunked",  # without a length
    "changed",  # from the second request for the content on, other content under another validator
)


@dataclass
class Source:
    """Content of one file: bytes, or the path of a file that is read as it is sent."""

    content: bytes | Path

    @cached_property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def blocks(self, start: int = 0, stop: int | None = None):
        left = (self.size if stop is None else stop) - start
        if isinstance(self.content, bytes):
            yield self.content[start : start + left]
            return
        with self.content.open("rb") as file:
            file.seek(start)
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                left -= len(block)
                yield block

    def sum(self, name: str) -> str:
        total = hashlib.new(name)
        for block in self.blocks():
            total.update(block)
        return total.hexdigest()

    @cached_property
    def sha256(self) -> str:
        return self.sum("sha256")

    @cached_property
    def md5(self) -> str:
        return self.sum("md5")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # who refuses a file hangs up
            super().handle_error(request, client_address)


class Hub:
    """`with Hub() as hub:` serves on 127.0.0.1 what is put in; `environment()` makes ecglib ask it.

    `requests`: what was asked, in order: {method, path, range, if_range, authorization, agent}.
    """

    def __init__(self):
        self.requests, self.faults, self.counts, self.closing = [], {}, {}, threading.Event()
        self.repos, self.records, self.files, self.redirects = {}, {}, {}, {}

    def __enter__(self):
        self.home = tempfile.mkdtemp(prefix="hub-")
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = _Server(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def environment(self, cache=None) -> dict[str, str]:
        """Variables to be set: for name, value in hub.environment().items(): monkeypatch.setenv(name, value)."""
        names = {"HF_ENDPOINT": self.address, "ECGLIB_ZENODO": self.address, "HF_HOME": self.home}
        names |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
        names |= {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        return names | ({"ECGLIB_CACHE": str(cache)} if cache else {})

    def hugging_face(self, repo: str, files: dict, commit: str = COMMIT, large: bool = True) -> str:
        """Serve {name: bytes or path} as a model repository. large: as LFS files, whose ETag is the sha256."""
        self.repos[repo] = {"files": _sources(files), "commit": commit, "large": large}
        return repo

    def zenodo(self, record: str, files: dict) -> str:
        """Serve {name: bytes or path} as a record."""
        self.records[str(record)] = _sources(files)
        return str(record)

    def plain(self, name: str, content) -> str:
        """Serve one file; returns its address."""
        self.files.update(_sources({name: content}))
        return f"{self.address}/plain/{quote(name)}"

    def redirect(self, name: str, target: str) -> str:
        """An address that redirects to `target`."""
        self.redirects[name] = target
        return f"{self.address}/go/{quote(name)}"

    def fault(self, name: str, kind: str, *, once: bool = False, **options) -> None:
        """Let the file of this name, with or without its folders, fail in one of FAULTS, always or only once.

        Several faults may be on at a time. once: at the next request for its content.
        """
        assert kind in FAULTS, kind
        self.faults.setdefault(name, {})[kind] = {"once": once, **options}

    def heal(self, name: str) -> None:
        """All is well again with the file."""
        self.faults.pop(name, None)

    def downloads(self, name: str) -> list[dict]:
        """The requests for the content of a file."""
        ends = (name, f"{name}/content")
        return [r for r in self.requests if r["method"] == "GET" and unquote(r["path"]).endswith(ends)]


def _sources(files: dict) -> dict[str, Source]:
    return {name: Source(content if isinstance(content, bytes) else Path(content)) for name, content in files.items()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        seen = {"method": self.command, "path": self.path, "agent": self.headers.get("User-Agent")}
        seen |= {key: self.headers.get(key.replace("_", "-")) for key in ("range", "if_range", "authorization")}
        self.hub.requests.append(seen)
        path = unquote(self.path.split("?")[0])
        for pattern, answer in ROUTES.items():
            if match := re.fullmatch(pattern, path):
                return getattr(self, answer)(*match.groups())
        self.say(404, b"not found")

    def say(self, status: int, body: bytes, **headers):
        self.send_response(status)
        for name, value in {"Content_Type": "text/plain", "Content_Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def go(self, name):
        self.say(302, b"", Location=self.hub.redirects[name])

    def model(self, repo, revision="main"):
        if repo not in self.hub.repos:
            return self.say(404, b"{}", X_Error_Code="RepoNotFound")
        one = self.hub.repos[repo]
        files = [{"rfilename": name} for name in one["files"]]
        self.say(200, json.dumps({"id": repo, "sha": one["commit"], "siblings": files}).encode())

    def resolve(self, repo, revision, name):
        if repo not in self.hub.repos:
            return self.say(404, b"", X_Error_Code="RepoNotFound")
        one = self.hub.repos[repo]
        if revision not in ("main", one["commit"]):
            return self.say(404, b"", X_Error_Code="RevisionNotFound")
        if name not in one["files"]:
            return self.say(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=one["commit"])
        source, extra = one["files"][name], {"X-Repo-Commit": one["commit"]}
        if one["large"]:
            extra |= {"X-Linked-Etag": f'"{source.sha256}"', "X-Linked-Size": source.size}
        self.send(name, source, source.sha256 if one["large"] else source.sum("sha1"), extra)

    def record(self, number):
        if number not in self.hub.records:
            return self.say(404, b'{"status": 404}')
        base = f"{self.hub.address}/api/records/{number}/files"
        files = [
            {"key": name, "size": source.size, "checksum": f"md5:{source.md5}"}
            | {"links": {"self": f"{base}/{quote(name)}/content"}}
            for name, source in self.hub.records[number].items()
        ]
        self.say(200, json.dumps({"id": int(number), "files": files}).encode(), Content_Type="application/json")

    def record_file(self, number, name):
        source = self.hub.records.get(number, {}).get(name)
        return self.send(name, source, f"md5:{source.md5}", {}) if source else self.say(404, b"")

    def plain(self, name):
        source = self.hub.files.get(name)
        return self.send(name, source, source.sha256[:32], {}) if source else self.say(404, b"")

    def send(self, name: str, source: Source, etag: str, extra: dict):
        """Answer for the content of a file, as its faults will have it."""
        faults = self.hub.faults.get(name) or self.hub.faults.get(Path(name).name, {})
        now = {kind: options for kind, options in faults.items() if self.command == "GET" or not options["once"]}
        for kind in [kind for kind in now if now[kind]["once"]]:
            faults.pop(kind)
        count = self.hub.counts[name] = self.hub.counts.get(name, 0) + (self.command == "GET")
        if "missing" in now:
            return self.say(404, b"", X_Error_Code="EntryNotFound")
        if "gated" in now:
            return self.say(403, b"", X_Error_Code="GatedRepo")
        if "status" in now:
            return self.say(now["status"].get("code", 503), b"try later")
        if "html" in now and self.command == "GET":
            page = {"content": "text/html; charset=utf-8", "body": PAGE, **now["html"]}
            return self.say(200, page["body"], Content_Type=page["content"])
        source, etag = _content(source, etag, now, count)
        etag = f'W/"{etag}"' if "weak" in now else f'"{etag}"'
        headers = dict(extra) if "no_etag" in now else {"ETag": etag, **extra}
        self.transfer(source, headers, now)

    def transfer(self, source: Source, headers: dict, now: dict):
        start, stop = self.wanted(source, headers, now), source.size
        if start > stop or (start and start == stop):
            return self.say(416, b"", Content_Range=f"bytes */{stop}")
        self.send_response(206 if start >= 0 else 200)
        if start >= 0:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{stop}")
        start = max(start, 0)
        for key, value in {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(key, str(value))
        chunked = "chunked" in now
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(stop - start))))
        self.end_headers()
        if self.command == "GET":
            self.body(source, start, stop, chunked, now)

    def wanted(self, source: Source, headers: dict, now: dict) -> int:
        """First byte of the part that was asked for, -1 where the whole file is sent."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        validator = self.headers.get("If-Range")
        same = validator in (None, headers.get("ETag")) or "no_if_range" in now
        return int(asked[1]) if asked and same and "no_range" not in now else -1

    def body(self, source: Source, start: int, stop: int, chunked: bool, now: dict):
        ends = [now[kind]["at"] for kind in ("cut", "stall") if kind in now]
        for block in source.blocks(start, max(start, min([stop, *ends]))):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
        self.wfile.flush()
        if "stall" in now:
            self.hub.closing.wait(20)
        if ends:
            self.close_connection = True
        elif chunked:
            self.wfile.write(b"0\r\n\r\n")


def _content(source: Source, etag: str, now: dict, count: int) -> tuple[Source, str]:
    """The file as the faults make it, and its validator."""
    if "changed" in now and count > 1:
        other = Source(bytes(reversed(b"".join(source.blocks()))))
        return other, other.sha256[:32]
    if "corrupt" in now:
        data = bytearray(b"".join(source.blocks()))
        data[now["corrupt"].get("at", len(data) // 2)] ^= 1
        return Source(bytes(data)), etag
    if "truncate" in now:
        return Source(b"".join(source.blocks(0, now["truncate"].get("at", source.size // 2)))), etag
    return source, etag


ROUTES = {
    r"/plain/(.+)": "plain",
    r"/go/(.+)": "go",
    r"/api/records/(\d+)": "record",
    r"/api/records/(\d+)/files/(.+)/content": "record_file",
    r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?": "model",
    r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": "resolve",
}
