"""Corpora fetched from a server on this machine that fails on purpose, from a local S3, from copies and archives."""

import hashlib
import io
import shutil
import tarfile
import zipfile

import pytest
from hub import PAGE

from ecglib import EcgError
from ecglib.data import download, fetch

FILES = {f"records/{i:03d}.dat": bytes([i]) * (5000 + i) for i in range(20)} | {
    "RECORDS": b"all\n",
    "deep/er/x.csv": b"a,b",
}
SUMS = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in FILES.items())
ALL = {**FILES, fetch.SUMS: SUMS.encode()}


@pytest.fixture
def hub(hub, monkeypatch):
    monkeypatch.setenv("ECGLIB_PHYSIONET", f"{hub.address}/plain")
    for name, content in ALL.items():
        hub.plain(f"mitdb/1.0.0/{name}", content)
    return hub


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def served(hub):
    """Requests for the content of recordings."""
    return [r["path"].rsplit("/", 1)[1] for r in hub.requests if r["method"] == "GET" and r["path"].endswith(".dat")]


def test_a_corpus_comes_whole_and_is_not_fetched_twice(hub, tmp_path):
    out, seen = tmp_path / "corpora/mitdb", []
    done = fetch.fetch("mitdb", out, progress=lambda *step: seen.append(step))
    assert tree(out) == ALL and not list(out.parent.glob(".*"))
    assert (done.files, done.came, done.verified, done.bytes) == (22, 22, 22, sum(map(len, FILES.values())))
    assert seen[-1][0] == done.bytes and [a for a, _ in seen] == sorted(a for a, _ in seen)
    before = len(served(hub))
    again = fetch.fetch("mitdb", out)
    assert (again.came, again.bytes, len(served(hub))) == (0, 0, before)


def test_a_part_and_then_the_rest(hub, tmp_path):
    out = tmp_path / "mitdb"
    fetch.fetch("mitdb", out, only=["RECORDS", "records/00*"])
    assert len(served(hub)) == 10 and "deep/er/x.csv" not in tree(out)
    fetch.fetch("mitdb", out)
    assert sorted(served(hub)) == sorted(name.split("/")[1] for name in FILES if name.endswith(".dat"))
    assert {name: content for name, content in tree(out).items() if name in ALL} == ALL
    with pytest.raises(EcgError, match=r"no file is called xyz.*there are 22 files, such as records/000.dat"):
        fetch.fetch("mitdb", out, only=["records/*", "xyz"])


def test_an_interrupted_fetch_goes_on_where_it_was(hub, tmp_path):
    out = tmp_path / "mitdb"
    hub.fault("007.dat", "cut", at=3000)
    with pytest.raises(EcgError, match=r"not fetched from 127.0.0.1.*after 3000 of 5007"):
        fetch.fetch("mitdb", out, workers=1)
    assert not out.exists() and (tmp_path / ".mitdb.part/records/006.dat").is_file()
    before = served(hub)
    hub.heal("007.dat")
    fetch.fetch("mitdb", out, workers=1)
    assert tree(out) == ALL and not (tmp_path / ".mitdb.part").exists()
    assert not set(served(hub)[len(before) :]) & {f"{i:03d}.dat" for i in range(7)}, "what was there came again"
    ranges = [r["range"] for r in hub.downloads("007.dat")]
    assert ranges[0] is None and ranges[-1] == "bytes=3000-"


def test_a_file_that_is_damaged_on_the_way_comes_again(hub, tmp_path):
    hub.fault("003.dat", "corrupt", once=True)
    fetch.fetch("mitdb", tmp_path / "mitdb")
    assert tree(tmp_path / "mitdb") == ALL and len(hub.downloads("003.dat")) == 2


FAILURES = {
    "corrupt": r"records/003.dat: \[sha256\] not the file that was published: expected sha256 [0-9a-f]{64}",
    "truncate": r"records/003.dat: \[sha256\] not the file that was published",
    "html": r"003.dat: \[content\] a web page came instead of the file",
    "missing": r"003.dat: \[url\] no such file there \(404\)",
    "gated": r"003.dat: \[url\] access refused \(403\)",
}


@pytest.mark.parametrize("fault", FAILURES)
def test_a_file_that_is_not_right_is_named_and_the_others_are_kept(hub, tmp_path, fault):
    out = tmp_path / "mitdb"
    hub.fault("003.dat", fault)
    with pytest.raises(EcgError, match=FAILURES[fault]):
        fetch.fetch("mitdb", out)
    part = tmp_path / ".mitdb.part"
    assert not out.exists() and not (part / "records/003.dat").exists()
    assert (part / "records/019.dat").read_bytes() == FILES["records/019.dat"]
    hub.heal("003.dat")
    fetch.fetch("mitdb", out)
    assert tree(out) == ALL


def test_a_server_that_stalls_is_given_up(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(download, "TRIES", 2)
    hub.fault("003.dat", "stall", at=100)
    with pytest.raises(EcgError, match=r"not fetched from 127.0.0.1"):
        fetch.fetch("mitdb", tmp_path / "mitdb", workers=2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (PAGE, "a web page came instead"),
        (b"no sums here\n", "line 1 is no checksum"),
        (b"\n", "names no file"),
        (f"{'0' * 64}  ../../etc/x\n".encode(), "leads out of the folder"),
        (f"{'0' * 64}  /etc/x\n".encode(), "leads out of the folder"),
    ],
)
def test_a_list_of_checksums_that_is_none(hub, tmp_path, content, told):
    hub.plain(f"mitdb/1.0.0/{fetch.SUMS}", content)
    with pytest.raises(EcgError, match=told):
        fetch.fetch("mitdb", tmp_path / "mitdb")
    assert not served(hub) and not (tmp_path / "mitdb").exists()


def test_the_second_server_of_physionet_is_asked_where_the_first_has_nothing(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("ECGLIB_PHYSIONET")
    monkeypatch.setattr(fetch, "PHYSIONET", (f"{hub.address}/plain/nothing", f"{hub.address}/plain"))
    fetch.fetch("mitdb", tmp_path / "mitdb")
    assert tree(tmp_path / "mitdb") == ALL


def test_too_little_room_is_told_before_anything_comes(hub, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=80_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(EcgError, match=r"\[disk\] needs about 0.00 GB, 0.00 GB are free"):
        fetch.fetch("mitdb", tmp_path / "mitdb")
    assert not served(hub)


def test_a_file_of_someone_else_is_not_replaced(hub, tmp_path):
    out = tmp_path / "mitdb"
    (out / "records").mkdir(parents=True)
    (out / "records/003.dat").write_bytes(b"mine")
    with pytest.raises(EcgError, match="is there, and not the file that was published"):
        fetch.fetch("mitdb", out)
    assert (out / "records/003.dat").read_bytes() == b"mine" and not served(hub)


@pytest.mark.parametrize("published", [ALL[fetch.SUMS], b"no sums here\n"])
def test_a_list_of_checksums_of_someone_else_is_not_replaced(hub, tmp_path, published):
    hub.plain(f"mitdb/1.0.0/{fetch.SUMS}", published)
    out = tmp_path / "mitdb"
    mine = f"{'0' * 64}  mine.dat\n".encode()
    written(out, {fetch.SUMS: mine, "mine.dat": b"mine"})
    with pytest.raises(EcgError, match=r"is there, and not the list that is published|line 1 is no checksum"):
        fetch.fetch("mitdb", out)
    found = {name: content for name, content in tree(out).items() if name != ".fetch.lock"}
    assert found == {fetch.SUMS: mine, "mine.dat": b"mine"} and not served(hub)


def test_a_list_of_checksums_of_an_unfinished_fetch_is_renewed(hub, tmp_path):
    hub.fault("003.dat", "missing")
    with pytest.raises(EcgError, match="no such file there"):
        fetch.fetch("mitdb", tmp_path / "mitdb")
    less = "".join(line for line in SUMS.splitlines(True) if "003.dat" not in line).encode()
    hub.plain(f"mitdb/1.0.0/{fetch.SUMS}", less)
    fetch.fetch("mitdb", tmp_path / "mitdb")
    assert (tmp_path / "mitdb" / fetch.SUMS).read_bytes() == less


def test_zenodo_by_its_checksums(hub, tmp_path):
    hub.zenodo("4916206", {"exams.csv": b"id\n1\n", "part.zip": b"z" * 9000})
    done = fetch.fetch("code-15", tmp_path / "code-15")
    assert tree(tmp_path / "code-15") == {"exams.csv": b"id\n1\n", "part.zip": b"z" * 9000} and done.verified == 2
    hub.fault("exams.csv", "corrupt")
    with pytest.raises(EcgError, match="expected md5"):
        fetch.fetch("code-15", tmp_path / "other")


def test_a_public_bucket_without_credentials(tmp_path, monkeypatch):
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    boto3 = pytest.importorskip("boto3")
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        keys = dict(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
        client = boto3.client("s3", endpoint_url=address, **keys)
        client.create_bucket(Bucket="ecgs")
        for name, content in ALL.items():
            client.put_object(Bucket="ecgs", Key=f"mitdb/1.0.0/{name}", Body=content, ACL="public-read")
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        fetch.fetch("mitdb", tmp_path / "mitdb", "s3://ecgs/mitdb/1.0.0")
    finally:
        server.stop()
    assert tree(tmp_path / "mitdb") == ALL


def written(folder, content=ALL):
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_copy_is_verified_file_by_file(tmp_path):
    copy = written(tmp_path / "copy")
    done = fetch.fetch("mitdb", tmp_path / "mitdb", str(copy))
    assert tree(tmp_path / "mitdb") == ALL and (done.files, done.verified) == (23, 22)
    (copy / "records/003.dat").write_bytes(b"\3" * 5002 + b"x")
    (copy / "RECORDS").unlink()
    with pytest.raises(
        EcgError, match=r"not the file that was published|named in its checksums, and not there"
    ) as error:
        fetch.fetch("mitdb", tmp_path / "second", str(copy))
    assert "and 1 more files did not come" in str(error.value)
    fetch.fetch("mitdb", tmp_path / "third", str(copy), only=["records/01*"])
    assert len(tree(tmp_path / "third")) == 10


def zipped(path, content, top=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(f"{top}{name}", data)
    return path


def tarred(path, content, top="", link=False):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(f"{top}{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        if link:
            member = tarfile.TarInfo(f"{top}link")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    return path


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("top", ["", "mit-bih-1.0.0/", "./", "./mitdb/"])
def test_an_archive_is_unpacked_and_verified(tmp_path, make, top):
    path = make(tmp_path / "a.bin", ALL, top)
    done = fetch.fetch("mitdb", tmp_path / "mitdb", str(path))
    assert tree(tmp_path / "mitdb") == ALL and done.verified == len(FILES)
    with pytest.raises(EcgError, match="not the file that was published"):
        fetch.fetch("mitdb", tmp_path / "second", str(make(tmp_path / "b.bin", ALL | {"RECORDS": b"al1\n"}, top)))


@pytest.mark.parametrize("make", [zipped, tarred])
def test_an_archive_is_opened_once_by_every_worker_and_closed(tmp_path, monkeypatch, make):
    opened, enter = [], fetch._opened.__enter__
    monkeypatch.setattr(fetch._opened, "__enter__", lambda self: opened.append(self) or enter(self))
    path = make(tmp_path / "a.bin", ALL)
    fetch.fetch("mitdb", tmp_path / "mitdb", str(path), workers=2)
    assert tree(tmp_path / "mitdb") == ALL and 2 <= len(opened) <= 3, "once to list it, and once in each thread"
    archives = [one.archive for one in opened]
    assert all(a.fp is None if make is zipped else a.closed for a in archives)
    wrong = make(tmp_path / "b.bin", ALL | {"RECORDS": b"al1\n"})
    with pytest.raises(EcgError, match="not the file that was published"):
        fetch.fetch("mitdb", tmp_path / "second", str(wrong), workers=2)
    assert len(opened) <= 6 and all(a.fp is None if make is zipped else a.closed for a in [o.archive for o in opened])


def test_an_archive_from_a_server(hub, tmp_path):
    path = zipped(tmp_path / "a.zip", ALL, "top/")
    done = fetch.fetch("mitdb", tmp_path / "mitdb", hub.plain("a.zip", path))
    assert tree(tmp_path / "mitdb") == ALL and done.files == 23


@pytest.mark.parametrize("spoil", ["cut zip", "cut tar", "crc of tar", "text", "link", "way out"])
def test_an_archive_that_is_broken_or_dangerous_is_refused(tmp_path, spoil):
    path = tmp_path / "a.bin"
    if spoil in ("cut zip", "cut tar"):
        whole = (zipped if spoil == "cut zip" else tarred)(path, ALL | {"big": bytes(range(256)) * 500}).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif spoil == "crc of tar":
        whole = bytearray(tarred(path, ALL).read_bytes())
        whole[-8] ^= 1  # first byte of the CRC-32
        path.write_bytes(whole)
    elif spoil == "text":
        path.write_bytes(PAGE)
    elif spoil == "link":
        tarred(path, ALL, link=True)
    else:
        zipped(path, {"../x": b"1"})
    with pytest.raises(EcgError, match="not a whole archive|holds a link|leads out of the folder"):
        fetch.fetch("mitdb", tmp_path / "mitdb", str(path))
    assert not (tmp_path / "mitdb").exists() and not (tmp_path.parent / "x").exists()


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("nobody", "", "unknown corpus"),
        ("echonext", "", "is given to those who sign an agreement.*--from FOLDER"),
        ("chapman", "", "is not listed anywhere.*figshare.*--from FOLDER"),
        ("mitdb", "no/such/place", "no such source"),
        ("mitdb", "http://example.org/x", "only https is fetched"),
        ("code-15", "zenodo:abc", "no record number"),
    ],
)
def test_what_cannot_be_fetched_is_told_before_any_work(tmp_path, name, source, told):
    with pytest.raises(EcgError, match=told):
        fetch.fetch(name, tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def test_the_list_of_corpora_is_consistent():
    table = fetch.corpora()
    assert table.name.is_unique and set(table.access) == {"open", "by hand", "agreement"}
    for row in table.itertuples():
        assert row.source.startswith(("physionet:", "zenodo:", "https://", "http://")), row.name
        assert row.access == "open" or row.source.startswith("http"), row.name
        assert all(cell == "" or cell.isdigit() for cell in (row.records, row.patients, row.leads)), row.name
