"""Downloads against a local hub that fails on purpose: resumed, restarted, refused, remembered."""

import json
import os
import socket
import subprocess
import sys
import threading
from hashlib import md5, sha256
from pathlib import Path

import pytest
import requests
from hub import COMMIT, PAGE

from ecglib import EcgError
from ecglib.data import download, files

DATA = bytes(range(256)) * 2000  # 512 000 bytes
REPO, RECORD = "lab/model", "17572734"
CUT = 200_000


def ways(hub):
    """The three kinds of hub, each with the same file: name -> function(folder) that fetches and returns its path."""
    address = hub.plain("w.pt", DATA)
    hub.hugging_face(REPO, {"w.pt": DATA})
    hub.zenodo(RECORD, {"w.pt": DATA})
    return {
        "https": lambda folder: download.https(address, folder, sha256=sha256(DATA).hexdigest()),
        "hugging_face": lambda folder: download.hugging_face(REPO, "w.pt", folder)[0],
        "zenodo": lambda folder: download.zenodo(RECORD, "w.pt", folder)[0],
    }


WAYS = pytest.mark.parametrize("way", ["https", "hugging_face", "zenodo"])


def litter(folder):
    return sorted(p.name for p in Path(folder).iterdir() if ".part" in p.name)


@pytest.mark.parametrize(
    "names, expected",
    [
        ({"ECGLIB_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/ecglib"),
        ({"HOME": "/c"}, "/c/.cache/ecglib"),
        ({"ECGLIB_CACHE": "~/x", "HOME": "/c"}, "/c/x"),
    ],
)
def test_the_cache_lies_where_the_user_says(monkeypatch, names, expected):
    for name in ("ECGLIB_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert files.cache_dir() == Path(expected)


@WAYS
def test_a_file_comes_whole_is_remembered_and_not_fetched_again(hub, tmp_path, way):
    get = ways(hub)[way]
    path = get(tmp_path / "deep" / "er")
    assert path == tmp_path / "deep" / "er" / "w.pt" and path.read_bytes() == DATA and litter(path.parent) == []
    facts = json.loads(path.with_name("w.pt.source.json").read_text())
    assert facts["size"] == len(DATA) and facts["sha256"] == sha256(DATA).hexdigest() == files.sha256(path)
    assert facts["url"].startswith(hub.address) and download.verify(path) == facts
    n = len(hub.downloads("w.pt"))
    assert get(tmp_path / "deep" / "er") == path and len(hub.downloads("w.pt")) == n == 1


def test_facts_name_commit_and_published_checksums(hub, tmp_path):
    hub.hugging_face(REPO, {"sub/w.pt": DATA, "config.json": b"{}"})
    hub.zenodo(RECORD, {"w.pt": DATA})
    path, facts = download.hugging_face(REPO, "sub/w.pt", tmp_path / "a")
    assert path == tmp_path / "a" / "w.pt"
    expected = {"repo": REPO, "file": "sub/w.pt", "revision": COMMIT, "size": len(DATA)}
    assert expected.items() <= facts.items() and facts["published"] == f"sha256:{sha256(DATA).hexdigest()}"
    assert facts["url"] == f"{hub.address}/{REPO}/resolve/{COMMIT}/sub/w.pt"
    _, facts = download.zenodo(RECORD, "w.pt", tmp_path / "b")
    assert {"record": RECORD, "file": "w.pt", "size": len(DATA)}.items() <= facts.items()
    assert facts["published"] == f"md5:{md5(DATA).hexdigest()}" and facts["sha256"] == sha256(DATA).hexdigest()


def test_a_small_file_of_a_repository_has_no_published_checksum(hub, tmp_path):
    hub.hugging_face(REPO, {"config.json": b'{"a": 1}'}, large=False)
    path, facts = download.hugging_face(REPO, "config.json", tmp_path)
    assert path.read_bytes() == b'{"a": 1}' and facts["published"] == "" and facts["revision"] == COMMIT
    download.hugging_face(REPO, "config.json", tmp_path)
    assert len(hub.downloads("config.json")) == 1


@pytest.mark.parametrize("way", ["hugging_face", "zenodo"])
def test_what_cannot_change_needs_no_network_again(hub, tmp_path, way):
    ways(hub)
    get = {
        "hugging_face": lambda: download.hugging_face(REPO, "w.pt", tmp_path, revision=COMMIT),
        "zenodo": lambda: download.zenodo(RECORD, "w.pt", tmp_path),
    }[way]
    first, n = get(), len(hub.requests)
    assert get() == first and len(hub.requests) == n


@WAYS
def test_a_dropped_connection_is_taken_up_where_it_broke(hub, tmp_path, way):
    get = ways(hub)[way]
    hub.fault("w.pt", "cut", at=CUT, once=True)
    assert get(tmp_path).read_bytes() == DATA
    assert [r["range"] for r in hub.downloads("w.pt")] == [None, f"bytes={CUT}-"]
    assert hub.downloads("w.pt")[1]["if_range"]


@WAYS
def test_a_call_that_failed_is_resumed_by_the_next(hub, tmp_path, way):
    get = ways(hub)[way]
    hub.fault("w.pt", "cut", at=CUT)
    with pytest.raises(EcgError, match=f"{CUT} of {len(DATA)} bytes") as failed:
        get(tmp_path)
    assert failed.value.field == "network" and f"byte {CUT}" in failed.value.fix
    assert not (tmp_path / "w.pt").exists() and litter(tmp_path) == ["w.pt.part", "w.pt.part.json"]
    tries = len(hub.downloads("w.pt"))
    assert tries == 1 + download.TRIES - 1, "one with new bytes, then as many as allowed without"
    hub.heal("w.pt")
    assert get(tmp_path).read_bytes() == DATA and litter(tmp_path) == []
    assert [r["range"] for r in hub.downloads("w.pt")[tries:]] == [f"bytes={CUT}-"]


def test_a_killed_process_is_resumed(hub, tmp_path):
    address = hub.plain("w.pt", DATA)
    hub.fault("w.pt", "stall", at=CUT, once=True)
    code = f"from ecglib.data import download; download.https({address!r}, {str(tmp_path)!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        part = tmp_path / "w.pt.part"
        while not (part.exists() and part.stat().st_size > CUT // 2):
            assert process.poll() is None
            threading.Event().wait(0.1)
    finally:
        process.kill()
        process.wait()
    have = part.stat().st_size
    assert 0 < have <= CUT
    assert download.https(address, tmp_path).read_bytes() == DATA
    assert hub.downloads("w.pt")[-1]["range"] == f"bytes={have}-"


def test_a_server_that_says_nothing_more_is_asked_again(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_S", 3.0)  # waited for once; a busy machine must not pause for as long
    hub.fault("w.pt", "stall", at=CUT, once=True)
    assert download.https(hub.plain("w.pt", DATA), tmp_path).read_bytes() == DATA
    assert [r["range"] for r in hub.downloads("w.pt")] == [None, f"bytes={CUT}-"]


def test_progress_keeps_a_slow_download_going(hub, tmp_path):
    """More breaks than TRIES, each after new bytes."""
    address, seen = hub.plain("w.pt", DATA), []
    steps = iter(range(50_000, len(DATA), 50_000))

    def progress(done, total):
        seen.append((done, total))

    class Cuts(dict):
        def get(self, name, default=None):
            at = next(steps, None)
            return {"cut": {"at": at, "once": False}} if at else {}

    hub.faults = Cuts()
    path = download.https(address, tmp_path, progress=progress)
    assert path.read_bytes() == DATA and len(hub.downloads("w.pt")) == 11 > download.TRIES
    assert seen[-1] == (len(DATA), len(DATA)) and seen == sorted(seen)


@pytest.mark.parametrize(
    "faults, ranges",
    [
        (["no_range"], [None, f"bytes={CUT}-"]),
        (["changed"], [None, f"bytes={CUT}-"]),  # If-Range: the server answers with the whole new file
        (["changed", "no_if_range"], [None, f"bytes={CUT}-", None]),  # a part of another file: all of it again
        (["no_etag"], [None, None]),  # nothing shows whether it is still the same file
        (["weak"], [None, f"bytes={CUT}-"]),
        (["changed", "weak"], [None, f"bytes={CUT}-", None]),
    ],
    ids=lambda value: "-".join(value) if value[0] else "",
)
def test_a_download_starts_from_zero_where_it_must(hub, tmp_path, faults, ranges):
    address = hub.plain("w.pt", DATA)
    hub.fault("w.pt", "cut", at=CUT, once=True)
    for fault in faults:
        hub.fault("w.pt", fault)
    path = download.https(address, tmp_path)
    assert path.read_bytes() == (DATA[::-1] if "changed" in faults else DATA)
    assert [r["range"] for r in hub.downloads("w.pt")] == ranges
    assert bool(hub.downloads("w.pt")[1]["if_range"]) == (ranges[1] is not None and "weak" not in faults)


def test_a_checksum_allows_to_resume_without_a_validator(hub, tmp_path):
    address = hub.plain("w.pt", DATA)
    hub.fault("w.pt", "cut", at=CUT, once=True)
    hub.fault("w.pt", "no_etag")
    assert download.https(address, tmp_path, md5=md5(DATA).hexdigest().upper()).read_bytes() == DATA
    assert hub.downloads("w.pt")[1]["range"] == f"bytes={CUT}-"


def test_a_part_of_another_address_is_not_appended_to(hub, tmp_path):
    hub.fault("a.pt", "cut", at=CUT)
    with pytest.raises(EcgError, match="closed"):
        download.https(hub.plain("a.pt", DATA), tmp_path, "w.pt")
    path = download.https(hub.plain("b.pt", DATA[::-1]), tmp_path, "w.pt")
    assert path.read_bytes() == DATA[::-1] and hub.downloads("b.pt")[0]["range"] is None


def test_a_part_longer_than_the_file_is_dropped(hub, tmp_path):
    address = hub.plain("w.pt", DATA)
    (tmp_path / "w.pt.part").write_bytes(DATA + b"more")
    assert download.https(address, tmp_path, sha256=sha256(DATA).hexdigest()).read_bytes() == DATA
    assert [r["range"] for r in hub.downloads("w.pt")] == [f"bytes={len(DATA) + 4}-", None]


def test_a_part_that_is_complete_is_only_checked(hub, tmp_path):
    address = hub.plain("w.pt", DATA)
    (tmp_path / "w.pt.part").write_bytes(DATA)
    path = download.https(address, tmp_path, size=len(DATA), sha256=sha256(DATA).hexdigest())
    assert path.read_bytes() == DATA and hub.requests == []


def test_a_file_without_a_length_is_taken_as_it_ends(hub, tmp_path):
    address = hub.plain("w.pt", DATA)
    hub.fault("w.pt", "chunked")
    assert download.https(address, tmp_path).read_bytes() == DATA
    hub.fault("w.pt", "cut", at=CUT, once=True)  # such an answer has an end, too
    assert download.https(address, tmp_path / "b").read_bytes() == DATA


@WAYS
def test_a_file_of_another_size_is_refused(hub, tmp_path, way):
    get = ways(hub)[way]
    hub.fault("w.pt", "truncate", at=1000)
    if way == "https":
        get = lambda folder: download.https(hub.plain("w.pt", DATA), folder, size=len(DATA))  # noqa: E731
    with pytest.raises(EcgError, match=f"expected {len(DATA)} bytes, the server has 1000") as refused:
        get(tmp_path)
    assert refused.value.field == "size" and refused.value.fix
    assert not (tmp_path / "w.pt").exists() and litter(tmp_path) == []


def test_a_file_of_another_size_without_a_length_is_refused(hub, tmp_path):
    hub.fault("w.pt", "chunked")
    hub.fault("w.pt", "truncate", at=1000)
    with pytest.raises(EcgError, match=f"expected size {len(DATA)}, found 1000"):
        download.https(hub.plain("w.pt", DATA), tmp_path, size=len(DATA))
    assert not (tmp_path / "w.pt").exists() and litter(tmp_path) == []


@WAYS
def test_a_file_with_another_checksum_is_removed(hub, tmp_path, way):
    get = ways(hub)[way]
    hub.fault("w.pt", "corrupt")
    with pytest.raises(EcgError, match="not the file that was published: expected (sha256|md5)") as refused:
        get(tmp_path)
    kind = md5 if way == "zenodo" else sha256
    assert refused.value.field == ("md5" if way == "zenodo" else "sha256") and refused.value.fix
    assert kind(DATA).hexdigest() in refused.value.reason and refused.value.file == str(tmp_path / "w.pt")
    assert not (tmp_path / "w.pt").exists() and litter(tmp_path) == []
    hub.heal("w.pt")
    assert get(tmp_path).read_bytes() == DATA


@WAYS
@pytest.mark.parametrize(
    "page", [{}, {"content": "application/octet-stream"}, {"body": b"<!-- sign in -->"}], ids=["page", "body", "type"]
)
def test_a_web_page_is_refused(hub, tmp_path, way, page):
    get = ways(hub)[way]
    hub.fault("w.pt", "html", **page)
    with pytest.raises(EcgError, match="a web page came instead of the file") as refused:
        get(tmp_path)
    assert "zoo.load(name, file=...)" in refused.value.fix and len(hub.downloads("w.pt")) == 1
    assert not (tmp_path / "w.pt").exists() and litter(tmp_path) == []


def test_a_web_page_on_resuming_leaves_the_part(hub, tmp_path):
    address = hub.plain("w.pt", DATA)
    hub.fault("w.pt", "cut", at=CUT)
    with pytest.raises(EcgError, match="closed"):
        download.https(address, tmp_path)
    hub.heal("w.pt")
    hub.fault("w.pt", "html", once=True)
    with pytest.raises(EcgError, match="a web page"):
        download.https(address, tmp_path)
    assert (tmp_path / "w.pt.part").read_bytes() == DATA[:CUT]
    assert download.https(address, tmp_path).read_bytes() == DATA


def test_what_a_web_page_looks_like():
    assert download.is_page(PAGE) and download.is_page(b"\xef\xbb\xbf \n<HTML lang=en>")
    assert not download.is_page(b"PK\x03\x04<html>") and not download.is_page(b"")


@WAYS
def test_what_is_not_there_is_named(hub, tmp_path, way):
    get = ways(hub)[way]
    hub.fault("w.pt", "missing")
    with pytest.raises(EcgError, match="404") as missing:
        get(tmp_path)
    assert "w.pt" in missing.value.file and missing.value.fix
    assert way != "hugging_face" or missing.value.file == f"{REPO}/w.pt"


def test_names_that_a_hub_does_not_know(hub, tmp_path):
    ways(hub)
    cases = {
        lambda: download.hugging_face("lab/other", "w.pt", tmp_path): ("no such repository", "lab/other/w.pt", "repo"),
        lambda: download.hugging_face(REPO, "v.pt", tmp_path): (
            "no such file at revision 'main'",
            f"{REPO}/v.pt",
            "file",
        ),
        lambda: download.hugging_face(REPO, "w.pt", tmp_path, revision="v9"): ("'v9'", f"{REPO}/w.pt", "revision"),
        lambda: download.hugging_face("a/b/c", "w.pt", tmp_path): ("Repo id", "a/b/c/w.pt", "repo"),
        lambda: download.zenodo(RECORD, "v.pt", tmp_path): ("no file 'v.pt'", RECORD, "file"),
        lambda: download.zenodo(99, "w.pt", tmp_path): ("404", "records/99", "url"),
        lambda: download.zenodo("../x", "w.pt", tmp_path): ("no record number", "", "record"),
    }
    for call, (reason, file, field) in cases.items():
        with pytest.raises(EcgError) as error:
            call()
        assert reason in error.value.reason and file in (error.value.file or "") and error.value.field == field
    with pytest.raises(EcgError) as error:
        download.zenodo(RECORD, "v.pt", tmp_path)
    assert error.value.fix == "use one of w.pt"


def test_a_repository_with_access_on_request(hub, tmp_path):
    ways(hub)
    hub.fault("w.pt", "gated")
    with pytest.raises(EcgError, match="access one by one") as error:
        download.hugging_face(REPO, "w.pt", tmp_path)
    assert error.value.file == f"{REPO}/w.pt" and "HF_TOKEN" in error.value.fix


def test_a_server_that_is_busy_is_asked_again_and_one_that_forbids_is_not(hub, tmp_path):
    address = hub.plain("w.pt", DATA)
    hub.fault("w.pt", "status", code=503, once=True)
    assert download.https(address, tmp_path).read_bytes() == DATA
    hub.fault("w.pt", "status", code=503)
    with pytest.raises(EcgError, match="the server answered 503"):
        download.https(address, tmp_path / "b")
    n = len(hub.downloads("w.pt"))
    hub.fault("w.pt", "status", code=403)
    with pytest.raises(EcgError, match="access refused"):
        download.https(address, tmp_path / "b")
    assert len(hub.downloads("w.pt")) == n + 1


@WAYS
def test_without_network_it_says_so(hub, tmp_path, monkeypatch, way):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", closed)
    monkeypatch.setenv("ECGLIB_ZENODO", closed)
    calls = {
        "https": lambda: download.https(f"{closed}/w.pt", tmp_path),
        "hugging_face": lambda: download.hugging_face(REPO, "w.pt", tmp_path),
        "zenodo": lambda: download.zenodo(RECORD, "w.pt", tmp_path),
    }
    with pytest.raises(EcgError, match="no connection") as error:
        calls[way]()
    assert error.value.field == "network" and closed.removeprefix("http://") in error.value.reason
    assert error.value.fix == download.ELSEWHERE and "ECGLIB_WEIGHTS" in error.value.fix
    assert error.value.file and hub.requests == []


def test_offline_mode_of_the_package(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants, errors

    ways(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EcgError, match="offline mode") as error:
        download.hugging_face(REPO, "w.pt", tmp_path)
    assert error.value.field == "HF_HUB_OFFLINE" and error.value.file == f"{REPO}/w.pt" and hub.requests == []
    assert "offline" in download._hub_error(errors.LocalEntryNotFoundError("x"), "r/f", "main").reason


def test_a_server_that_is_no_hub(hub, tmp_path, monkeypatch):
    hub.plain("api/records/5", b"[]")
    monkeypatch.setenv("ECGLIB_ZENODO", f"{hub.address}/plain")
    with pytest.raises(EcgError, match="does not answer like Zenodo"):
        download.zenodo(5, "w.pt", tmp_path)
    hub.plain(f"{REPO}/resolve/main/w.pt", DATA)
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.address}/plain")
    with pytest.raises(EcgError, match="does not answer like a Hugging Face hub"):
        download.hugging_face(REPO, "w.pt", tmp_path)


@pytest.mark.parametrize("url", ["http://example.org/a.pt", "ftp://127.0.0.1/a", "file:///etc/hosts", "a.pt", "https:"])
def test_only_safe_addresses(hub, tmp_path, monkeypatch, url):
    with pytest.raises(EcgError, match="only https"):
        download.https(url, tmp_path, "a.pt")
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(EcgError, match="only https"):
        download.hugging_face(REPO, "w.pt", tmp_path)
    monkeypatch.setenv("ECGLIB_ZENODO", url)
    with pytest.raises(EcgError, match="only https"):
        download.zenodo(RECORD, "w.pt", tmp_path)


def test_redirects_are_followed_to_safe_addresses_only(hub, tmp_path):
    path = download.https(hub.redirect("here", hub.plain("w.pt", DATA)), tmp_path, "a.pt")
    assert path.read_bytes() == DATA
    for target in ("http://example.org/w.pt", "ftp://127.0.0.1/w.pt", "file:///etc/hosts"):
        with pytest.raises(EcgError, match="only https"):
            download.https(hub.redirect("away", target), tmp_path, "b.pt")
    answer = requests.Response()
    answer.status_code, answer.url = 302, "https://example.org/a"
    answer.headers["Location"] = f"{hub.address}/plain/w.pt"
    with pytest.raises(EcgError, match="redirects to 'http:"):
        download.Session().get_redirect_target(answer)


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    ways(hub)
    download.hugging_face(REPO, "w.pt", tmp_path)
    assert {r["authorization"] for r in hub.requests} == {"Bearer hf_secret"}
    n = len(hub.requests)
    away = hub.redirect("away", hub.plain("w.pt", DATA))
    download.get(download.RemoteFile(away, tmp_path / "b.pt", headers={"Authorization": "Bearer hf_secret"}))
    assert [r["authorization"] for r in hub.requests[n:]] == ["Bearer hf_secret", None]


def test_credentials_of_this_machine_are_not_sent(hub, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    download.https(hub.redirect("away", hub.plain("w.pt", DATA)), tmp_path, "w.pt")
    assert {r["authorization"] for r in hub.requests} == {None}


def test_nothing_is_told_about_this_machine(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    ways(hub)
    download.hugging_face(REPO, "w.pt", tmp_path)
    assert {r["method"] for r in hub.requests} == {"HEAD", "GET"} and len(hub.requests) == 2
    assert not any(word in r["agent"] for r in hub.requests for word in ("torch/", "agent/"))


@pytest.mark.parametrize("name", ["../w.pt", "a/w.pt", "a\\w.pt", "..", "."])
def test_names_that_lead_elsewhere_are_refused(hub, tmp_path, name):
    with pytest.raises(EcgError, match="no file name"):
        download.https(hub.plain("w.pt", DATA), tmp_path / "in", name)
    with pytest.raises(EcgError, match="no file name"):
        download.https(hub.address, tmp_path / "in")
    assert hub.requests == [] and list(tmp_path.iterdir()) == []


def test_a_file_altered_after_it_was_fetched_is_noticed(hub, tmp_path):
    path = download.https(hub.plain("w.pt", DATA), tmp_path)
    assert download.verify(path)["sha256"] == sha256(DATA).hexdigest()
    path.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(EcgError, match="altered since it was fetched: expected sha256") as altered:
        download.verify(path)
    assert altered.value.file == str(path) and altered.value.fix == "delete it and fetch it again"
    path.write_bytes(DATA[:-1])
    with pytest.raises(EcgError, match=f"expected size {len(DATA)}, found {len(DATA) - 1}"):
        download.verify(path)
    assert download.https(hub.plain("w.pt", DATA), tmp_path).read_bytes() == DATA, "fetched anew"
    assert len(hub.downloads("w.pt")) == 2


def test_a_file_that_is_not_the_wanted_one_is_fetched_anew(hub, tmp_path):
    first, second = hub.plain("a.pt", DATA), hub.plain("b.pt", DATA[::-1])
    path = download.https(first, tmp_path, "w.pt")
    assert download.https(second, tmp_path, "w.pt").read_bytes() == DATA[::-1], "from another address"
    assert download.https(first, tmp_path, "w.pt", sha256=sha256(DATA).hexdigest()).read_bytes() == DATA
    assert json.loads((tmp_path / "w.pt.source.json").read_text())["url"] == first
    path.write_bytes(DATA[::-1])
    (tmp_path / "w.pt.source.json").unlink()
    assert download.https(second, tmp_path, "w.pt", sha256=sha256(DATA[::-1]).hexdigest()).read_bytes() == DATA[::-1]
    assert download.verify(path)["url"] == second, "the file was there and right"
    assert len(hub.downloads("a.pt")) == 2 and len(hub.downloads("b.pt")) == 1


def test_remembering_a_file_that_came_by_other_means(tmp_path):
    path = tmp_path / "w.pt"
    with pytest.raises(EcgError, match="no such file"):
        download.verify(path)
    path.write_bytes(DATA)
    for content in (None, "", "[1]", '{"size": 1}'):
        if content is not None:
            (tmp_path / "w.pt.source.json").write_text(content)
        with pytest.raises(EcgError, match="nothing says what it was"):
            download.verify(path)
    (tmp_path / "w.pt.source.json").write_text(json.dumps({"url": "by hand"} | download.measure(path)))
    assert download.verify(path) == {"url": "by hand", "size": len(DATA), "sha256": sha256(DATA).hexdigest()}


def test_a_file_given_by_its_path_is_served_and_fetched(hub, tmp_path):
    (tmp_path / "big").write_bytes(DATA * 3)
    hub.fault("w.pt", "cut", at=3 * CUT, once=True)
    path = download.https(hub.plain("w.pt", tmp_path / "big"), tmp_path)
    assert path.read_bytes() == DATA * 3 and hub.downloads("w.pt")[1]["range"] == f"bytes={3 * CUT}-"


def test_two_at_a_time_fetch_it_once(hub, tmp_path):
    address, got = hub.plain("w.pt", DATA), []
    threads = [threading.Thread(target=lambda: got.append(download.https(address, tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.read_bytes() == DATA for p in got] == [True] * 4 and len(hub.downloads("w.pt")) == 1


def test_a_full_disk_is_not_taken_for_a_dropped_connection(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        download.https(hub.plain("w.pt", DATA), tmp_path)
    assert len(hub.requests) == 1
