"""`ecglib holter`: episodes of a recording or of its annotations, as text, table and picture; bad input in one line."""

import os

import pandas as pd
import pytest

from ecglib.data import wfdb_io
from ecglib.pipeline import cli, long_recordings
from ecgsim import holter


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    folder = tmp_path_factory.mktemp("day")
    truth = holter.day(2025, 1, 1.0)
    wfdb_io.write(folder, "D002", holter.signal(2025, 1, truth, 1.0), 200, holter.LEADS, holter.GAIN)
    (folder / "D002.atr").write_bytes(holter.annotations(truth))
    return folder, truth


def test_signal_and_annotations_say_the_same(day, capsys, tmp_path):
    folder, truth = day
    words = ["holter", str(folder / "D002"), "--out", str(tmp_path / "e.csv"), "--plot", str(tmp_path / "p.svg")]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "D002: 1.0 h" in said and "fibrillation or flutter:" in said and " % of the time" in said
    table = pd.read_csv(tmp_path / "e.csv")
    total = (truth.episodes[:, 1] - truth.episodes[:, 0]).sum() / 1000
    assert table["duration_s"].sum() == pytest.approx(total, rel=0.2)
    assert (table["end"] - table["start"] - table["duration_s"]).abs().max() < 0.02
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    assert cli.main(["holter", str(folder / "D002"), "--beats", "atr", "--out", str(tmp_path / "b.csv")]) == 0
    assert pd.read_csv(tmp_path / "b.csv")["duration_s"].sum() == pytest.approx(total, rel=0.2)


def test_bad_input_is_one_line(day, capsys, tmp_path):
    folder, _ = day
    alone = tmp_path / "x.atr"
    alone.write_bytes((folder / "D002.atr").read_bytes())
    (tmp_path / "m.json").write_text("{}")
    record = str(folder / "D002")
    for words, message in (
        ([str(tmp_path / "nowhere")], "cannot read the header"),
        ([str(tmp_path / "x"), "--beats", "atr"], "nothing says the sampling rate"),
        ([record, "--beats", "qrs"], "cannot read the annotations"),
        ([record, "--model", str(tmp_path / "m.json")], "not a model of intervals"),
        ([record, "--beats", "atr", "--plot", "a.txt"], "no picture of the kind"),
    ):
        assert cli.main(["holter", *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert cli.main(["holter", str(tmp_path / "x"), "--beats", "atr", "--fs", "200"]) == 0


def test_no_file_of_anybody_else_is_written_over_and_that_is_said_before_the_analysis(
    day, capsys, tmp_path, monkeypatch
):
    folder, _ = day
    words = ["holter", str(folder / "D002"), "--beats", "atr"]
    mine = {name: tmp_path / name for name in ("rr.csv", "day.svg", "day.png")}
    for path in mine.values():
        path.write_text("mine\n")
    (tmp_path / "sealed").mkdir()
    asked = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "sealed" and asked(path, mode))
    refused = [("--out", mine["rr.csv"], "not from this command"), ("--out", tmp_path, "not from this command")]
    refused += [("--plot", mine[name], "not from this command") for name in ("day.svg", "day.png")]
    refused += [
        ("--out", tmp_path / "sealed/e.csv", "no right to write"),
        ("--out", mine["rr.csv"] / "e.csv", "a file"),
    ]
    refused += [
        ("--plot", tmp_path / "sealed/p.svg", "no right to write"),
        ("--plot", tmp_path / "p.doc", "no picture"),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(long_recordings, "judged", lambda *_: pytest.fail("the analysis has begun"))
        for option, path, message in refused:
            assert cli.main([*words, option, str(path)]) == 2
            error = capsys.readouterr().err
            assert message in error and error.count("\n") == 1
    assert [path.read_text() for path in mine.values()] == ["mine\n"] * 3
    for _ in range(2):  # its own are replaced
        for out, plot in (("e.csv", "p.svg"), ("new/e.csv", "new/p.png"), ("e.csv", "p.pdf")):
            assert cli.main([*words, "--out", str(tmp_path / out), "--plot", str(tmp_path / plot)]) == 0
