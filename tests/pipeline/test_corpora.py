"""Commands on corpora, as a user calls them: reports as labels."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets.test_datasets import _code_test

from ecglib import datasets
from ecglib.datasets import ptbxl
from ecglib.evaluation import agreement
from ecglib.evaluation.agreement import spelled
from ecglib.pipeline import corpora
from ecglib.pipeline.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs/reports.md"
TABLE = """id,report,second
a,"Sinus rhythm, no ST elevation",
b,Possible old inferior infarct,frequent PVCs
c,,
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "records.csv"
    path.write_text(TABLE)
    return path


def test_a_table_gets_a_column_per_label_that_is_named(table, capsys):
    out = table.with_name("labels.csv")
    for _ in range(2):  # it may replace what it wrote
        assert main(["reports", str(table), "--column", "report", "--column", "second", "--out", str(out)]) == 0
    labelled = datasets.text_table(out).set_index("id")
    states = ["sinus_rhythm_any", "sinus_rhythm", "mi_any", "mi_inferior", "st_elevation", "pvc", "premature_any"]
    assert list(labelled) == ["report", "second", *states, "report_read"]
    assert list(labelled.loc["a", states]) == ["1", "1", "", "", "0", "", ""]
    assert list(labelled.loc["b", states]) == ["", "", "possible", "possible", "", "1", "1"]
    assert set(labelled.loc["c"]) == {""} and set(labelled.report_read) == {"1.00", ""}
    assert "3 reports, 1 without any label; 100.0% of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out", "o.csv", "--column", "text"], "no column text -> columns there: id, report, second"),
        (["--out", "records.csv"], "is there, and not from this command"),
        (["--out", "o.csv", "--column", "id"], "no report names a finding"),
        ([], "reports of a table or of a corpus?"),
        (["--dataset", "ptbxl"], "no such table"),
        (["--dataset", "nothing"], "nothing"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(table, monkeypatch, capsys, words, told):
    monkeypatch.chdir(table.parent)
    assert main(["reports", "records.csv", *words]) == 2
    line = capsys.readouterr().err
    assert told in line and line.count("\n") == 1 and TABLE == table.read_text()


def test_a_column_that_is_named_like_a_label_is_not_overwritten(table, capsys):
    table.write_text(TABLE.replace("second", "mi_any"))
    assert main(["reports", str(table), "--out", str(table.with_name("o.csv"))]) == 2
    assert "has a column mi_any already" in capsys.readouterr().err and not table.with_name("o.csv").exists()


def test_a_corpus_without_reports_is_told(tmp_path, capsys):
    from ecgsim import generate

    generate(tmp_path, hospitals=["C"], scale=0.01, seed=1)
    assert main(["reports", str(tmp_path), "--dataset", "simulated", "--option", "hospital=C"]) == 2
    assert "has no reports" in capsys.readouterr().err


def test_reports_of_ptbxl_say_what_its_statements_say(real_data):
    table, reading = corpora.report_agreement(ptbxl, real_data / "ptb-xl", label_set="harmonised")
    assert reading["n_reports"] == 2719 and reading["read"] > 0.95 and reading["n_silent"] < 60
    scores = table.set_index("label")
    sure = ["sinus_rhythm", "sinus_bradycardia", "sinus_tachycardia", "af_or_flutter", "paced_rhythm", "pvc"]
    for label in [*sure, "left_axis_deviation", "right_axis_deviation", "mi_anterior_any", "rbbb_incomplete"]:
        assert scores.precision[label].point > 0.9, label
    for label in [*sure, "left_axis_deviation", "right_axis_deviation", "pac", "lvh_voltage"]:
        assert scores.recall_possible[label].point > 0.85, label
    lines = PAGE.read_text("utf-8").splitlines()
    for row in spelled(table).astype(str).itertuples(index=False):
        assert f"| {' | '.join(row)} |" in [re.sub(" +", " ", line) for line in lines], "docs/reports.md is out of date"


def test_the_table_of_corpora(capsys):
    assert main(["datasets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].split()
        == "name records patients leads rate (Hz) licence access reader labels pretrained models".split()
    )
    ptbxl_line = next(line for line in lines if line.split()[0] == "ptb-xl")
    assert "21799" in ptbxl_line and "CC BY 4.0" in ptbxl_line and " 48 " in ptbxl_line and "ecgfm" in ptbxl_line
    of_many = next(line for line in lines if line.split()[0] == "cinc2021")
    assert "ecgfm" in of_many, "a corpus is contaminated by what is in it"
    table = corpora.table().set_index("name")
    stated = {name: table.labels[name] for name in ("cpsc2018", "cinc2021/cpsc2018", "cinc2021/ptb", "code-15")}
    assert stated == {"cpsc2018": "9", "cinc2021/cpsc2018": "9", "cinc2021/ptb": "0", "code-15": "7"}
    parts = table[table.index.str.startswith("cinc2021/")]
    assert len(parts) == 8 and parts.records.astype(int).sum() == int(table.records["cinc2021"])
    assert "ecgfm" in table["pretrained models"]["cinc2021/georgia"]
    assert "ecgfm" not in table["pretrained models"]["cinc2021/ptb"], "one part is contaminated, another is not"
    readers = set(table.reader)
    assert set(datasets.names()) <= readers, "every reader has a row"
    asked = ("shdb-af", "code-test", "echonext", "ptb-xl", "cpsc2021", "mimic-perform", "afdb")
    named = {name: table.reader[name] for name in asked}
    assert named == {"shdb-af": "shdb_af", "code-test": "code_test", "echonext": "echonext"} | {
        "ptb-xl": "ptbxl", "cpsc2021": "cpsc2021", "mimic-perform": "mimic_perform", "afdb": "",
    }  # fmt: skip
    assert table.labels["code-test"] == "7" and table["pretrained models"]["code-test"] == ""


def test_readers_of_a_corpus_are_written_as_the_comparison_takes_them(tmp_path, capsys):
    _code_test(tmp_path)
    out = tmp_path / "readers.csv"
    for _ in range(2):  # it may replace what it wrote
        assert main(["readers", "code_test", str(tmp_path), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "3 recordings" in told and "readers_csv" in told
    table = agreement.load_readers(out)
    assert set(table.reader) == set(datasets.get("code_test").READERS) and len(table) == 5 * 3 * table.label.nunique()
    first = table[(table.reader == "cardiologist1") & (table.call == 1)]
    assert list(zip(first.record_id, first.label, strict=True)) == [
        ("000", "atrial_fibrillation"),
        ("001", "av_block_1"),
    ]
    majority = agreement.consensus(table).set_index(["record_id", "label"]).call
    assert majority["000", "atrial_fibrillation"] == 0, "two of five have called it"
    out.write_text("mine\n")
    assert main(["readers", "code_test", str(tmp_path), "--out", str(out)]) == 2 and out.read_text() == "mine\n"
    assert main(["readers", "ludb", str(tmp_path), "--out", str(tmp_path / "o.csv")]) == 2
    assert "a dataset that does: code_test" in capsys.readouterr().err


def test_a_corpus_is_fetched_and_used(tmp_path, capsys):
    from ecgsim import generate

    generate(tmp_path / "copy", hospitals=["C"], scale=0.01, seed=1)
    out = tmp_path / "corpora/ludb"
    assert main(["fetch", "ludb", "--from", str(tmp_path / "copy"), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "[fetch ludb] 100 %" in told and "0 verified" in told
    assert "the reader ludb cannot use it yet" in told and f"make real DATA={out.parent}" in told
    assert "dvc add" in told and "dvc push" in told
    again = ["-q", "fetch", "ludb", "--from", str(tmp_path / "copy"), "--out", str(tmp_path / "quiet/ludb")]
    assert main(again) == 0
    quiet = capsys.readouterr().out
    assert "[fetch ludb]" not in quiet and "0 verified" in quiet
    assert main(["fetch", "echonext", "--out", str(out)]) == 2
    assert "sign its data use agreement at https://" in capsys.readouterr().err


def test_the_advice_to_pin_a_corpus_can_be_followed(tmp_path, monkeypatch):
    """In a repository with this one's .gitignore, DVC pins what was fetched, and git takes the pin and not the data."""
    (tmp_path / ".gitignore").write_text((Path(__file__).parents[2] / ".gitignore").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))

    def call(*words):
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    out = Path("corpora/ludb")
    out.mkdir(parents=True)
    (out / "1.hea").write_text("1 1 500 10\n")
    call("git", "init", "-q", ".")
    call(sys.executable, "-m", "dvc", "init", "-q")
    advice = corpora.pinning(out)
    assert "data.dvc is unchanged" in advice
    add, share = re.search(r"dvc (add .+); git (add .+)$", advice).groups()
    call(sys.executable, "-m", "dvc", *add.split(), "-q")
    call("git", *share.split())
    staged = [line for line in call("git", "ls-files").split() if line.startswith("corpora")]
    assert staged == ["corpora/ludb.dvc"] and "path: ludb" in Path(staged[0]).read_text()
    assert call("git", "status", "--porcelain", "corpora").split() == ["A", "corpora/ludb.dvc"]
    assert "dvc add data" in corpora.pinning(Path("data/ludb")), "DVC pins no folder within a pinned one"


def test_leaks_between_folders(tmp_path, capsys):
    from ecgsim import generate

    generate(tmp_path / "a", hospitals=["C"], scale=0.01, seed=1)
    (tmp_path / "b").symlink_to(tmp_path / "a/C")
    (tmp_path / "a/C/._x.hea").write_bytes(b"\0\5\26\7")
    out = tmp_path / "pairs.csv"
    for _ in range(2):
        assert main(["leaks", str(tmp_path / "a/C"), str(tmp_path / "b"), "--out", str(out)]) == 0
    found = datasets.text_table(out)
    n = len(set(found.record_a))
    assert list(found.record_a) == list(found.record_b) and set(found.kind) == {"equal samples"} and n > 1
    said = capsys.readouterr().out
    assert re.search(rf"records of b that are also in C +{n} +{n}\n", said)
    assert all(f"{tmp_path / name}: 1 files ._*.hea of macOS" in said for name in ("a/C", "b"))
    (tmp_path / "empty").mkdir()
    for words, why in (([tmp_path / "empty"], "neither a packed cohort nor"), ([tmp_path / "b"] * 2, "called 'b'")):
        assert main(["leaks", *map(str, words)]) == 2 and why in capsys.readouterr().err
