"""What commands say beside their results: examples, progress, datasets in words, completion, narrow terminals."""

import csv
import inspect
import io
import logging
import shlex
import subprocess
import sys

import pandas as pd
import pytest
from crude_corpus import corpus

from ecglib import datasets, zoo
from ecglib.datasets import folder
from ecglib.pipeline import cli, command_help

COMMANDS = cli.cli.commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples_whose_options_are_there(name, capsys):
    assert cli.main([name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    known |= {option for parameter in cli.cli.params for option in parameter.opts}
    takes_any = COMMANDS[name].context_settings.get("ignore_unknown_options")
    for line in command_help.EXAMPLES[name]:
        assert " ".join(line.split()) in shown
        words = shlex.split(line.partition("    (")[0].removeprefix('eval "$(').removesuffix(')"'))
        words = words[words.index("ecglib") :]
        assert name in words[1:3], line
        assert takes_any or {word for word in words if word.startswith("-")} <= known, line


def test_progress_says_rate_and_time_left(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(command_help.time, "monotonic", lambda: clock[0])
    tell = command_help.tenths("pack A", "MB", 1e6)
    for done, at in ((1_000_000, 101), (4_000_000, 102), (4_100_000, 103), (4_200_000, 112.5), (20_000_000, 120)):
        clock[0] = at
        tell(done, 20_000_000)
    clock[0] = 140
    tell(22_000_000, None)
    assert capsys.readouterr().out.splitlines() == [
        "[pack A] 20 %, 2 MB/s, 0:00:08 left",  # 4 MB in 2 s, 16 MB are left
        "[pack A] 21 %, 0.336 MB/s, 0:00:47 left",  # nothing was said for ten seconds
        "[pack A] 100 %, 1 MB/s, 0:00:00 left",
        "[pack A] 22 MB, 0.55 MB/s",
    ]


def test_quiet_leaves_results_and_verbose_shows_what_is_logged(tmp_path, monkeypatch, capsys):
    corpus(tmp_path / "raw", n=12, fs=100)
    words = ["pack", "toy", "--dataset", "folder", "--root", str(tmp_path / "raw"), "--workers", "1", "--out"]
    assert cli.main([*words, str(tmp_path / "a")]) == 0
    loud = capsys.readouterr().out
    assert cli.main(["-q", *words, str(tmp_path / "b")]) == 0
    quiet = capsys.readouterr().out
    assert "[pack toy] 100 %" in loud and "[pack toy]" not in quiet and "toy: 12 of 12 records packed" in quiet
    monkeypatch.setattr(logging, "basicConfig", lambda **options: print(options["level"]))
    monkeypatch.setenv("V", "")
    assert cli.main(["-v", "encoders"]) == 0
    assert capsys.readouterr().out.startswith(str(logging.INFO)) and cli.os.environ["V"] == "1"


@pytest.mark.parametrize("width", [50, 80, 200])
def test_cards_and_the_list_are_as_wide_as_the_terminal(monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main(["zoo", "card", "ecgfounder"]) == 0
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines() if " " in line.strip()) <= width
    said = " ".join(f"{key}: {value}" for key, value in zoo.facts("ecgfounder").items())
    assert shown.split() == said.split(), "every word, once"
    table = zoo.table()
    narrow = command_help.narrowed(table, wide=False)
    assert len(narrow.splitlines()[0]) <= width or width == 50
    assert {"model", "parameters", "input"} <= set(narrow.splitlines()[0].split()) and len(
        narrow.splitlines()
    ) == 1 + len(table)
    assert command_help.narrowed(table, wide=True) == table.to_string(index=False)


@pytest.mark.parametrize("name", datasets.names())
def test_a_dataset_is_described_with_each_option_and_its_default(name, capsys):
    assert cli.main(["datasets", name]) == 0
    shown, module = capsys.readouterr().out, datasets.get(name)
    assert module.LICENCE in shown or not module.URL
    defaults = getattr(module, "OPTIONS", None) or {
        p.name: p.default for p in inspect.signature(module.records).parameters.values() if p.kind is p.KEYWORD_ONLY
    }
    lines = [line.split() for line in shown.partition("with their defaults:")[2].splitlines()]
    found = {words[0]: words[1] for words in lines if len(words) > 1}
    for option, value in defaults.items():
        assert found[option] == (
            "null" if value is None else "required" if value is inspect.Parameter.empty else str(value)
        )


def test_the_sample_of_one_s_own_table_is_a_table_that_can_be_read(tmp_path, capsys):
    assert cli.main(["datasets", "folder"]) == 0
    sample = capsys.readouterr().out.partition("a sample of records.csv:\n\n")[2]
    rows = list(csv.reader(io.StringIO(sample)))
    assert {len(row) for row in rows} == {len(rows[0])} and len(rows) == 3
    corpus(tmp_path, n=2, fs=100)
    first = pd.read_csv(tmp_path / "records.csv").record[:2]
    for row, name in zip(rows[1:], first, strict=True):
        row[0] = name
    with (tmp_path / "records.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    records = folder.records(tmp_path)
    assert list(records.patient_id) == ["17", "18"] and list(records.split) == ["train", "test"]
    assert list(folder.labels(tmp_path, records).columns) == ["NORM", "MI"]
    assert cli.main(["datasets", "foldr"]) == 2 and "did you mean 'folder'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "at", "offered"),
    [
        ("ecglib re", 1, {"readers", "readme", "real", "reports", "repro", "reproduce"}),
        ("ecglib zoo card melp", 3, {"melp"}),
        ("ecglib pack x --dataset ptb", 4, {"ptbxl"}),
        ("ecglib embed ecgfounder_", 2, {"ecgfounder_1lead"}),
    ],
)
def test_a_shell_completes_commands_models_and_datasets(monkeypatch, capsys, typed, at, offered):
    for name, value in {cli.COMPLETE: "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(at)}.items():
        monkeypatch.setenv(name, value)
    assert cli.main([]) == 0
    assert {line.partition(",")[2] for line in capsys.readouterr().out.splitlines()} == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_reads_asks_for_completions_in_the_same_words(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    assert f"{cli.COMPLETE}={shell}_complete" in capsys.readouterr().out


def test_cards_are_read_without_what_computes():
    code = "import sys\nfrom ecglib.pipeline import cli\nfor words in (['zoo'], ['zoo', 'card', 'merl'], ['--help']):\n"
    code += "    assert cli.main(words) == 0\nprint(sorted({'torch', 'scipy.signal', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=cli.ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
