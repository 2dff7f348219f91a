"""`ecglib holter`: episodes of a recording or of its annotations, as text, table and picture; bad input in one line."""

import pandas as pd
import pytest

from ecglib.data import wfdb_io
from ecglib.pipeline import cli
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
        ([record, "--beats", "atr", "--plot", "a.txt"], "no kind of picture"),
    ):
        assert cli.main(["holter", *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert cli.main(["holter", str(tmp_path / "x"), "--beats", "atr", "--fs", "200"]) == 0
