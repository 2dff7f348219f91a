"""A corpus packed in shares: the bytes of one pack, also where a job was killed; what is missing is named."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from crude_corpus import FOLDER, corpus, crude_ecg, pack

from ecglib import EcgError, datasets
from ecglib.data import cohort, packing, packing_shares, wfdb_io
from ecglib.data.recording import LEADS
from ecglib.pipeline.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs/scale.md").read_text()
N, FS = 11, 100
CHILD = """
import os, signal, sys
from ecglib import datasets
from ecglib.data import packing, packing_shares
packing.CHUNK = 2
def progress(done, total):
    if 2 * done > total:
        os.kill(os.getpid(), signal.SIGKILL)
settings = dict(workers=1, windows="all", seconds=4, progress=progress)
packing_shares.pack_part("toy", datasets.get("folder"), sys.argv[1], sys.argv[2], "2/3", **settings)
"""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Six chunks of two records."""
    monkeypatch.setattr(packing, "CHUNK", 2)


@pytest.fixture
def raw(tmp_path):
    """11 recordings; one cannot be read, one lacks leads, one is longer than the others."""
    root = corpus(tmp_path / "raw", N, fs=FS)
    (root / "r3.dat").unlink()
    wfdb_io.write(root, "r4", crude_ecg(1, FS, n_leads=2), FS, ("I", "II"), 1000)
    wfdb_io.write(root, "r8", crude_ecg(2, FS, 30), FS, LEADS, 1000)
    return root


def share(raw, out, part, **settings):
    settings = {"workers": 1, "windows": "all", "seconds": 4} | settings
    return packing_shares.pack_part("toy", FOLDER, raw, out, part, **settings)


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_three_parts_of_which_one_was_killed_give_the_bytes_of_one_pack(raw, tmp_path, capsys):
    pack(raw, tmp_path / "one/toy", windows="all", seconds=4)
    said = capsys.readouterr().out
    out = tmp_path / "parts/toy"
    assert [share(raw, out, part) for part in ("1/3", "3/3")] == [4, 3]
    killed = subprocess.run([sys.executable, "-c", CHILD, raw, out], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (out.parent / "toy.2of3.pack.part/signals.npy").exists() and not out.exists()
    with pytest.raises(EcgError, match="part 2/3 is not finished -> run the same command with --part 2/3"):
        packing_shares.merge(out, datasets.get)
    assert share(raw, out, "2/3") == 4
    packing_shares.merge(out, datasets.get)
    assert contents(tmp_path / "parts") == contents(tmp_path / "one")
    merged = cohort.open(out)
    assert len(merged) == 9 * 2 + 7 and list(merged.rejected.record_id) == ["r3"]
    assert capsys.readouterr().out == said


def test_a_share_without_any_record_and_settings_of_every_kind(raw, tmp_path):
    for name in "abc":  # the second chunk and more are refused
        (raw / f"{'r2' if name == 'a' else 'r6' if name == 'b' else 'r7'}.dat").unlink()
    settings = {"fs": 80, "seconds": 5, "leads": ["II", "V1"], "options": {"labels": ["A"]}, "windows": "first"}
    pack(raw, tmp_path / "one/toy", **settings)
    for number in range(1, 8):
        share(raw, tmp_path / "parts/toy", f"{number}/7", **settings)
    packing_shares.merge(tmp_path / "parts/toy", datasets.get)
    assert contents(tmp_path / "parts") == contents(tmp_path / "one")


def test_what_is_missing_or_of_another_pack_is_named(raw, tmp_path):
    out = tmp_path / "toy"
    with pytest.raises(EcgError, match="no part of it is here -> run pack with --part 1/3"):
        packing_shares.merge(out, datasets.get)
    share(raw, out, "2/2")
    with pytest.raises(EcgError, match="part 1/2 is missing -> run the same command with --part 1/2"):
        packing_shares.merge(out, datasets.get)
    share(raw, out, "1/2", fs=80)
    with pytest.raises(EcgError, match="part 2/2 is of other records, settings or versions than part 1"):
        packing_shares.merge(out, datasets.get)
    share(raw, out, "1/2")
    table = (raw / "records.csv").read_text()
    (raw / "records.csv").write_text(table.replace(",41,", ",42,"))
    with pytest.raises(EcgError, match="the tables of the corpus or the versions changed since"):
        packing_shares.merge(out, datasets.get)
    (raw / "records.csv").write_text(table)
    share(raw, out, "1/4")
    with pytest.raises(EcgError, match="parts of 2 and of 4"):
        packing_shares.merge(out, datasets.get)
    assert not out.exists()


def test_a_share_that_lost_its_signals_is_not_finished(raw, tmp_path):
    share(raw, tmp_path / "toy", "1/1")
    (tmp_path / "toy.1of1.pack.part/signals.npy").unlink()
    with pytest.raises(EcgError, match="part 1/1 is not finished"):
        packing_shares.merge(tmp_path / "toy", datasets.get)


def test_what_cannot_be_is_refused_before_any_work(raw, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for part, word in (("0/3", "is no part"), ("", "no part is named")):
        with pytest.raises(EcgError, match=word):
            share(raw, tmp_path / "toy", part)
    with pytest.raises(EcgError, match="colour"):
        share(raw, tmp_path / "toy", "1/2", colour=1)
    assert sorted(tmp_path.rglob("*")) == before


def test_parts_where_all_was_refused_say_so_when_they_are_merged(raw, tmp_path):
    for path in raw.glob("*.dat"):
        path.unlink()
    for part in ("1/2", "2/2"):
        share(raw, tmp_path / "toy", part)
    with pytest.raises(EcgError, match="every one of 11 records is refused"):
        packing_shares.merge(tmp_path / "toy", datasets.get)
    assert not (tmp_path / "toy").exists() and len(list(tmp_path.glob("toy.*.part"))) == 2


def test_the_commands_lead_from_parts_to_a_cohort(raw, tmp_path, capsys):
    """The line of docs/scale.md, with two tasks in place of 64."""
    out, line = str(tmp_path / "parts/mine"), re.search(r"^    ecglib (pack .+)", PAGE, re.MULTILINE)[1]
    line = (
        line.replace("/shared/ecgs", str(raw))
        .replace("/shared/cohorts/mine", out)
        .replace("--workers 4", "--workers 1")
    )
    for number in (2, 1):
        assert main(shlex.split(line.replace("$part", f"{number}/2"))) == 0
    assert main(["merge", out]) == 0
    assert "10 of 11 records packed" in capsys.readouterr().out
    words = shlex.split(line.replace("parts/mine", "one/mine"))[:-2]
    assert main(words) == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "one")
    assert main([*words, "--part", "1/2", "--detector", "d.json"]) == 2
    assert "a part does not judge noise" in capsys.readouterr().err
