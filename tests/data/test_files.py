"""Files and folders that are whole or not there, and what a fingerprint notices."""

import hashlib
import os

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.data import files


def test_a_file_is_written_whole_as_bytes_or_text(tmp_path):
    path = tmp_path / "x.json"
    files.write_atomic(path, b"\r\n\xff")
    assert path.read_bytes() == b"\r\n\xff"
    files.write_atomic(path, "µV\n")
    assert path.read_bytes() == "µV\n".encode()
    with pytest.raises(TypeError):
        files.write_atomic(path, None)
    assert path.read_bytes() == "µV\n".encode()
    assert files.sha256(path) == hashlib.sha256("µV\n".encode()).hexdigest()


def wrote(folder) -> list[str] | None:
    """What stands in the file `mark` of a folder."""
    mark = folder / "mark"
    return ["mark", *mark.read_text().split()] if mark.is_file() else None


def fill(folder, *names) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def tree(root) -> dict[str, bytes]:
    """Everything below a folder: path -> content, b"" of folders, the target of links."""
    paths = sorted(root.rglob("*"))
    return {str(p): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else b"" for p in paths}


def write(out, *names, inputs=()) -> None:
    with files.new_folder(out, wrote, inputs) as folder:
        fill(folder, *names)
        (folder / "mark").write_text("\n".join(names))


def test_a_folder_takes_the_place_of_another_only_when_it_is_finished(tmp_path):
    out = tmp_path / "out"
    with files.new_folder(out, wrote) as folder:
        (folder / "mark").write_text("a")
        assert not out.exists()
    with pytest.raises(ZeroDivisionError), files.new_folder(out, wrote) as folder:
        (folder / "b").write_text("2")
        1 / 0  # noqa: B018
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mark"]
    write(out, "b", "c/d")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["b", "c", "d", "mark", "out"]
    os.rename(out, tmp_path / ".out.old")  # killed between the two renames
    with pytest.raises(ZeroDivisionError), files.new_folder(out, wrote):
        1 / 0  # noqa: B018
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["b", "c", "d", "mark", "out"]
    (out / files.KEY).touch()  # killed right after them
    fill(out, ".DS_Store", ".ipynb_checkpoints/b")
    write(out, "e")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["e", "mark", "out"]


FOREIGN = {
    "a folder of files": lambda out: fill(out, "r1.dat"),
    "hidden files": lambda out: fill(out, ".git/config"),
    "empty folders": lambda out: (out / "a" / "b").mkdir(parents=True),
    "a file": lambda out: fill(out.parent, out.name),
    "a link to files": lambda out: (fill(out.parent / "other", "x"), out.symlink_to(out.parent / "other")),
    "a broken link": lambda out: (out.mkdir(), (out / "a").symlink_to("nowhere")),
    "its own and more": lambda out: (write(out, "a"), fill(out, "notes.txt")),
    "its own and more below": lambda out: (write(out, "a/b"), fill(out, "a/c")),
    "the unfinished name": lambda out: fill(out.with_name(".out.part"), "x"),
    "the old name": lambda out: fill(out.with_name(".out.old"), "x"),
    "below a file": lambda out: (out.parent.rmdir(), fill(out.parent.parent, out.parent.name)),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_a_command_did_not_write_stays_and_stops_it_before_any_work(tmp_path, kind):
    out = tmp_path / "somewhere" / "out"
    out.parent.mkdir()
    FOREIGN[kind](out)
    before = tree(tmp_path)
    with pytest.raises(EcgError, match="somewhere.*->"):
        write(out, "a")
    assert tree(tmp_path) == before


def test_what_somebody_saves_there_during_the_work_stays(tmp_path):
    out = tmp_path / "out"
    write(out, "a")
    for folder in (out, tmp_path / "new"):
        with (
            pytest.raises(EcgError, match=r"notes.txt: \[out\] is not from this"),
            files.new_folder(folder, wrote) as new,
        ):
            fill(new, "b", "mark")
            fill(folder, "notes.txt")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "new/notes.txt",
        "out/a",
        "out/mark",
        "out/notes.txt",
    ]


def test_inputs_the_working_folder_and_the_home_folder_are_never_written_over(tmp_path, monkeypatch):
    for name in ("root", "work", "home"):
        (tmp_path / "parent" / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "parent" / "root")
    monkeypatch.chdir(tmp_path / "parent" / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "parent" / "home"))
    root = tmp_path / "parent" / "root"
    for out in ("../root", root, root / ".." / "root", "..", "../..", ".", "", "../home", tmp_path / "link", "/"):
        with pytest.raises(EcgError, match="would be replaced"):
            write(out, "a", inputs=["../root"])
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["home", "link", "parent", "root", "work"]


def test_new_empty_and_own_folders_are_written_links_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "link").symlink_to("to")
    for out in ("new/deep", "empty", "link", "root/inside", "empty"):
        write(out, "a", inputs=["root"])
    assert (tmp_path / "link").is_symlink()
    folders = {os.path.dirname(os.path.relpath(p, tmp_path)) for p in tmp_path.rglob("mark")}
    assert folders == {"new/deep", "empty", "to", "root/inside"} and not list(tmp_path.rglob(".*"))


def test_a_folder_without_the_right_to_write_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    for check in (files.output_folder, files.output_file):
        with pytest.raises(EcgError, match="no right to write"):
            check(tmp_path / "a" / "b", wrote)
    assert files.output_folder(tmp_path.parent / "other", wrote) == tmp_path.parent / "other"


def test_two_commands_do_not_write_one_folder_at_a_time(tmp_path):
    out = tmp_path / "out"
    with files.new_folder(out, wrote):
        for _ in range(2):
            with pytest.raises(EcgError, match="another command is writing here"):
                write(out, "a")
        write(tmp_path / "other", "a")
    write(tmp_path / "out", "a")
    with files.claimed(tmp_path / "x.part", "one") as _:
        fill(tmp_path / "x.part", "kept")
        with pytest.raises(EcgError, match="another command"), files.claimed(tmp_path / "x.part", "one"):
            pass
    for key, there in (("one", True), ("two", False)):
        with files.claimed(tmp_path / "x.part", key):
            assert (tmp_path / "x.part" / "kept").exists() == there


@pytest.mark.parametrize("number", files.FULL)
def test_a_full_disk_names_the_file(tmp_path, number):
    with pytest.raises(OSError) as caught, files.new_folder(tmp_path / "out", wrote):
        raise OSError(number, os.strerror(number))
    assert caught.value.filename == str(tmp_path / ".out.part") and not list(tmp_path.iterdir())
    with pytest.raises(OSError) as caught, files.naming(tmp_path / "a"):
        raise OSError(number, os.strerror(number), "b")
    assert caught.value.filename == "b"


def test_a_file_is_written_over_only_where_it_is_the_commands_own(tmp_path):
    fill(tmp_path, "own", "other")
    for name in ("own", "new", "deep/new"):
        assert files.output_file(tmp_path / name, lambda path: path.name == "own") == tmp_path / name
    for name in ("other", "", "own/below"):
        with pytest.raises(EcgError, match=r"\[out\]"):
            files.output_file(tmp_path / name, lambda path: path.name == "own")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "own"]


def test_a_fingerprint_notices_content_or_change_and_skips_the_unfinished(tmp_path):
    for name in ("a", "sub/b", ".hidden", "x.part/c", "x.old/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    by_content, by_state = (files.fingerprint(tmp_path, content=content) for content in (True, False))
    assert [line.split()[0] for line in by_content] == ["a", "sub/b"]
    os.utime(tmp_path / "a", (1, 1))
    assert files.fingerprint(tmp_path, content=True) == by_content
    assert files.fingerprint(tmp_path, content=False) != by_state
    (tmp_path / "a").write_text("b")
    assert files.fingerprint(tmp_path / "a", content=True)[0].split()[1] == hashlib.sha256(b"b").hexdigest()
    with pytest.raises(EcgError, match="no such file"):
        files.fingerprint(tmp_path / "none", content=True)


FORMULAS = ["=1+1", "=HYPERLINK(A1)", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "-2+3+cmd|' /C calc'!A0"]
FORMULAS += ["+1 (cmd|x)", "-1 (0 to 2)+A1", "- A1", "-5 mV"]
TEXTS = [
    "a=b",
    "-",
    "+",
    "",
    "-5",
    "+2.5",
    "-1e-3",
    "-.5",
    "AFIB",
    "'=1",
    "x@y",
    "1-2",
    "+0.012 (-0.003 to +0.020), p 0.034",
]


@pytest.mark.parametrize("text", FORMULAS, ids=repr)
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(tmp_path, text):
    """In a cell, a column's name and an index."""
    table = pd.DataFrame({"record_id": ["a", text], text: [1.5, -2.5]})
    files.write_csv(table, tmp_path / "a.csv")
    back, shown = pd.read_csv(tmp_path / "a.csv", keep_default_na=False), f"'{text}".replace("\r", "\n")
    assert len(back) == 2 and back["record_id"][1] == shown
    assert list(back.iloc[:, 1]) == [1.5, -2.5] and back.columns[1].startswith("'")
    for index in ("record_id", ["record_id", text]):
        files.write_csv(table.set_index(index), tmp_path / "a.csv", index=True)
        assert shown in (tmp_path / "a.csv").read_bytes().decode()


@pytest.mark.parametrize("index", [None, "text", ["text", "n"]])
def test_other_tables_are_written_as_pandas_writes_them(tmp_path, index):
    n = len(TEXTS)
    table = pd.DataFrame({"text": TEXTS, "n": np.arange(n) - 3, "x": np.linspace(-1, 1, n), "empty": [None] * n})
    table["kind"], table["x"] = pd.Categorical(TEXTS), table["x"].where(table["n"] != 0)
    table = table if index is None else table.set_index(index)
    for options in ({}, {"float_format": "%.3f"}):
        files.write_csv(table, tmp_path / "a.csv", index=index is not None, **options)
        assert (tmp_path / "a.csv").read_text() == table.to_csv(index=index is not None, **options)
    files.write_csv(table.iloc[:0], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == table.iloc[:0].to_csv(index=False)


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_a_line_end_within_a_cell_begins_no_row(tmp_path, end):
    files.write_csv(pd.DataFrame({"report": [f"sinus rhythm{end}=1+1", "x"]}), tmp_path / "a.csv")
    assert list(pd.read_csv(tmp_path / "a.csv").report) == ["sinus rhythm\n=1+1", "x"]


def test_a_walk_follows_every_link_once_and_ends(tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    for name in ("root/b/x", "root/b/deep/y", "store/z", "store/in/w", "root/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (root / "a-link").symlink_to(root / "b")  # the folder itself comes first
    (root / "c").symlink_to(store)
    (root / "d").symlink_to(store)
    (root / "b/up").symlink_to(root)
    (store / "in/back").symlink_to(tmp_path)
    (root / "self").symlink_to(root / "self")
    (root / "broken").symlink_to(root / "none")
    (root / "file").symlink_to(store / "z")
    names = [path.relative_to(root).as_posix() for path in files.walk(root)]
    assert names == ["a", "b/deep/y", "b/x", "c/in/w", "c/z", "file"]
    before = files.fingerprint(root, content=False)
    assert [line.split()[0] for line in before] == names
    (store / "in/w").write_text("changed behind a link")
    changed = [line.split()[0] for line in set(files.fingerprint(root, content=False)) - set(before)]
    assert changed == ["c/in/w"]


def test_headers_are_listed_in_both_cases_and_the_rubbish_of_macos_is_counted(tmp_path):
    for name in (
        "r1.hea",
        "deep/r2.HEA",
        "._r1.hea",
        "deep/._r2.HEA",
        "__MACOSX/._r1.hea",
        ".DS_Store",
        "r1.dat",
        "x.v.hea",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found, rubbish = files.headers(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["deep/r2.HEA", "r1.hea", "x.v.hea"]
    assert rubbish == 3


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(files.os, "scandir", scandir)
    for function in (files.walk, files.headers, lambda root: files.fingerprint(root, content=False)):
        with pytest.raises(EcgError, match="closed: cannot read the folder: Permission denied"):
            function(tmp_path)
