"""Fetch published files from their hubs, and remember what they were: a file that was altered since is noticed.

`name.source.json` beside a file says where it came from, its size in bytes, its sha256, and the published checksum.
"""

import json
import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ecglib import download
from ecglib.checkpoint import write_atomic
from ecglib.download import ELSEWHERE, Dropped, Want
from ecglib.signals import EcgError

HUB, ZENODO = "https://huggingface.co", "https://zenodo.org"  # unless HF_ENDPOINT, ECGLIB_ZENODO name another


def https(url, folder, name=None, *, size=None, sha256=None, md5=None, progress=None) -> Path:
    """Fetch `url` into `folder` as `name` (else the last part of the address) and return its path.

    size (bytes), sha256, md5 (hex): as published; a file that differs is removed. progress: called with (bytes so far,
    bytes in all or None). What is there and right is not fetched again, what is there in part is completed.
    Raises EcgError: address not https, nothing there, no network, a web page instead of the file, size, checksum.
    """
    path = _path(folder, name or unquote(PurePosixPath(urlsplit(url).path).name))
    sums = {key: value and value.lower() for key, value in (("sha256", sha256), ("md5", md5))}
    return _fetched(Want(url, path, size, **sums, progress=progress), {})[0]


def hugging_face(repo, file, folder, revision="main", *, progress=None) -> tuple[Path, dict]:
    """Fetch `file` of a Hugging Face model repository into `folder`, under its name without the folders of the hub.

    Returns its path and {repo, file, revision: commit, url, size, sha256, published}. The package huggingface_hub says
    which commit, size and LFS checksum that is, and knows the user's token; the bytes come through `https`, because
    the package's own download starts from zero in every call. Raises EcgError as `https` does.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import build_hf_headers

    constants.HF_HUB_DISABLE_TELEMETRY = True
    path, what, name = _path(folder, PurePosixPath(file).name), {"repo": repo, "file": file}, f"{repo}/{file}"
    if facts := _kept(path, **what, revision=revision):
        return path, facts
    endpoint = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    download.allowed(endpoint)

    def ask():
        try:
            url = hf_hub_url(repo, file, revision=revision, endpoint=endpoint)
            return get_hf_file_metadata(url, endpoint=endpoint, timeout=download.TIMEOUT_S, library_name="ecglib")
        except (HTTPError, OSError, ValueError) as error:
            raise _hub_error(error, name, revision) from error

    found = download.persist(ask, endpoint, name)
    if not found.commit_hash:
        raise EcgError(f"{endpoint} does not answer like a Hugging Face hub", file=name, fix=ELSEWHERE)
    facts = {**what, "revision": found.commit_hash}
    url = hf_hub_url(repo, file, revision=found.commit_hash, endpoint=endpoint)
    sha256 = found.etag if re.fullmatch("[0-9a-f]{64}", found.etag or "") else None
    headers = build_hf_headers(library_name="ecglib")
    return _fetched(Want(url, path, found.size, sha256, headers=headers, progress=progress), facts)


def _hub_error(error: Exception, what: str, revision: str) -> Exception:
    """What an error of huggingface_hub means for `what` (repository/file): worth another try, or what to tell."""
    from huggingface_hub import errors

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return EcgError("huggingface_hub is in offline mode", file=what, field="HF_HUB_OFFLINE", fix=ELSEWHERE)
    if isinstance(error, errors.GatedRepoError):
        fix = f"ask for access on the page of the repository and set HF_TOKEN, or {ELSEWHERE}"
        return EcgError("the authors grant access one by one", file=what, field="repo", fix=fix)
    if isinstance(error, errors.RepositoryNotFoundError):
        return EcgError(
            f"no such repository, or a private one ({status})", file=what, field="repo", fix="check its name"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return EcgError(
            f"no revision {revision!r} ({status})", file=what, field="revision", fix="name a branch or commit"
        )
    if status == 404:
        return EcgError(f"no such file at revision {revision!r} (404)", file=what, field="file", fix="check its name")
    if status in download.PASSING:
        return Dropped(f"the server answered {status}")
    if status or isinstance(error, ValueError):
        return EcgError(str(error).strip().splitlines()[0], file=what, field="repo", fix=ELSEWHERE)
    return Dropped(f"no connection ({error})")


def zenodo(record, file, folder, *, progress=None) -> tuple[Path, dict]:
    """Fetch `file` of a Zenodo record (its number): path and {record, file, url, size, sha256, published}.

    Raises EcgError as `https` does, and for an unknown file with the names that the record has.
    """
    path, what = _path(folder, file), {"record": str(record), "file": file}
    if not what["record"].isdecimal():
        raise EcgError(f"{record!r} is no record number", field="record", fix="give the digits of its address")
    if facts := _kept(path, **what):  # a record does not change
        return path, facts
    base = (os.environ.get("ECGLIB_ZENODO") or ZENODO).rstrip("/")
    url = download.allowed(f"{base}/api/records/{record}")

    def ask():
        with download.opened(url, {}) as response:
            return download.read(response.read)

    try:
        there = {entry["key"]: entry for entry in json.loads(download.persist(ask, url, f"record {record}"))["files"]}
        links = {key: (entry["links"]["self"], entry["size"], entry["checksum"]) for key, entry in there.items()}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise EcgError(f"{base} does not answer like Zenodo", file=f"record {record}", fix=ELSEWHERE) from error
    if file not in links:
        fix = f"use one of {', '.join(sorted(links)) or '(it has no open file)'}"
        raise EcgError(f"no file {file!r} in record {record}", file=url, field="file", fix=fix)
    link, size, checksum = links[file]
    md5 = checksum.removeprefix("md5:") if checksum.startswith("md5:") else None
    return _fetched(Want(link, path, size, md5=md5, progress=progress), what)


def remember(path, facts: dict) -> Path:
    """Write `path`.source.json: `facts`, and size and sha256 of the file as it is now. Returns `path`."""
    path = Path(path)
    _write(path, {**facts, **download.measure(path)})
    return path


def checksum(path) -> str:
    """The sha256 (hex) of a file."""
    return download.measure(Path(path))["sha256"]


def verify(path) -> dict:
    """Return what is remembered of a fetched file.

    Raises EcgError when it is not what it was when it was fetched, is not there, or nothing is remembered of it.
    """
    path = Path(path)
    if not path.is_file():
        raise EcgError("no such file", file=path, fix="fetch it again")
    facts = _facts(path)
    if not {"size", "sha256"} <= facts.keys():
        raise EcgError("nothing says what it was when it was fetched", file=path, field="source", fix="fetch it again")
    found = download.measure(path)
    for key, value in found.items():
        if facts[key] != value:
            reason = f"altered since it was fetched: expected {key} {facts[key]}, found {value}"
            raise EcgError(reason, file=path, field=key, fix="delete it and fetch it again")
    return facts


def _source(path: Path) -> Path:
    return path.with_name(f"{path.name}.source.json")


def _facts(path: Path) -> dict:
    """What is remembered of a file; {} where there is nothing to be read."""
    try:
        facts = json.loads(_source(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _write(path: Path, facts: dict) -> dict:
    write_atomic(_source(path), (json.dumps(facts, indent=1) + "\n").encode())
    return facts


def _kept(path: Path, **same) -> dict | None:
    """What is remembered of a file that has these facts and is there unaltered; None otherwise."""
    facts = _facts(path)
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


def _fetched(want: Want, facts: dict) -> tuple[Path, dict]:
    """The file and what is now remembered of it; downloaded unless it is there and right."""
    published = [f"{key}:{getattr(want, key)}" for key in ("sha256", "md5") if getattr(want, key)]
    facts = {**facts, "url": want.url, "published": ", ".join(published)}
    with download.alone(want.path.parent):
        if published:
            found = want.measured(want.path) if want.path.is_file() else None
        else:
            found = _kept(want.path, url=want.url)
        if found is None or want.wrong(found):
            found = download.get(want)
        return want.path, _write(want.path, {**facts, "size": found["size"], "sha256": found["sha256"]})
