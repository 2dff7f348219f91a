"""The command line: what it refuses before any work, in one line, and how it ends when it is stopped."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from crude_corpus import corpus

from ecglib import EcgError, zoo
from ecglib.data import cohort, files, packing
from ecglib.pipeline import cli, notebooks, schedule
from ecglib.zoo import embed

PACK = ["pack", "toy", "--dataset", "folder", "--root", "raw", "--workers", "1"]
GENERATE = ["generate", "-p", "hospitals=[C]", "-p", "scale=0.002", "-p", "workers=1"]
EMBED = ["embed", "clef_small", "raw", "--weights", "dummy"]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with recordings in raw/ and files that nobody may touch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    corpus(tmp_path / "raw", n=4, fs=100)
    for name in ("home/thesis.tex", "mine/notes.txt", "a_file", "features.part/x", ".out.part/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    (tmp_path / "link").symlink_to("raw")
    return tmp_path


def tree(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def told(capsys) -> str:
    """What a command that was refused has said: one line."""
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and "Traceback" not in shown.err
    return shown.err


OUT = ["raw", "raw/", "raw/../raw", "link", ".", "..", "", "home", "mine", "a_file", "a_file/x", "out", "/"]


@pytest.mark.parametrize("out", OUT)
@pytest.mark.parametrize("command", ["pack", "generate", "run"])
def test_a_command_that_would_delete_what_it_did_not_write_does_nothing(work, capsys, command, out):
    if (command, out) == ("run", "out"):
        out = "features"  # its unfinished folder has another name
    before = tree(work)
    words = {"pack": PACK, "generate": GENERATE, "run": ["run", str(cli.ROOT / "notebooks/21_report.ipynb")]}
    assert cli.main([*words[command], "--out", out]) == 2
    assert "[out]" in told(capsys) and tree(work) == before


def test_pack_replaces_its_own_cohort_and_nothing_beside_it(work, capsys):
    (work / "empty").mkdir()
    for out in ("new", "new", "empty", "empty", "raw/inside"):
        assert cli.main([*PACK, "--out", out]) == 0
    whole = tree(work)
    for extra in ("notes.txt", ".hidden", "more/signals.npy"):
        path = work / "new" / extra
        path.parent.mkdir(exist_ok=True)
        path.write_text("precious")
        capsys.readouterr()
        assert cli.main([*PACK, "--out", "new"]) == 2
        assert "would be lost" in told(capsys) and tree(work) == {**whole, str(path): b"precious"}
        path.unlink()
        if path.parent.name == "more":
            path.parent.rmdir()
    assert len(cohort.open("new")) == 4 and cli.main([*PACK, "--out", "new"]) == 0


def test_generate_replaces_its_own_hospitals_and_nothing_beside_them(work, capsys):
    assert cli.main([*GENERATE, "--out", "data"]) == 0 and cli.main([*GENERATE, "--out", "data"]) == 0
    whole = tree(work)
    for extra in ("mine.csv", "C/mine.csv", "C/records/000/X1.hea"):
        (work / "data" / extra).write_text("precious")
        assert cli.main([*GENERATE, "--out", "data"]) == 2
        assert "would be lost" in told(capsys) and tree(work) == {**whole, str(work / "data" / extra): b"precious"}
        (work / "data" / extra).unlink()


def test_features_replace_only_features(work, capsys):
    for name, file in (("a.parquet", "a.parquet"), ("b.parquet", "b.rejected.csv"), ("features.parquet", "")):
        if file:
            (work / file).write_text("precious")
        before = tree(work)
        assert cli.main([*EMBED, "--out", name]) == 2
        assert "[out]" in told(capsys) and tree(work) == before
    for _ in range(2):
        assert cli.main([*EMBED, "--out", "new.parquet"]) == 0
    assert len(embed.read("new.parquet")[0]) == 4
    assert tree(work).items() > before.items() and not (work / "new.part").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "card.json"])
def test_fetched_and_exported_models_replace_only_such_files(work, capsys, name):
    fetch = ["zoo", "fetch", "clef_small", "--weights", "dummy", "--out", "zoo"]
    assert cli.main(fetch) == 0 and cli.main(fetch) == 0
    for content in ("precious", '{"name": "mine"}', "[]"):
        (work / "zoo/clef_small" / name).write_text(content)
        before = tree(work)
        capsys.readouterr()
        assert cli.main(fetch) == 2
        assert name in told(capsys) and tree(work) == before
    for file in ("x.onnx", "x.onnx.data"):
        (work / file).write_text("precious")
        assert cli.main(["export", "clef_small", "--weights", "dummy", "--out", "x.onnx"]) == 2
        assert file in told(capsys) and (work / file).read_text() == "precious"
        (work / file).unlink()


VALUES = [
    *[("pack", f"fs={value}", "fs") for value in ("abc", "[100]", "true", ".nan", ".inf", "{a: 1}", "null")],
    *[("pack", f"seconds={value}", "seconds") for value in ("ten", "[10]", "-.inf", "false")],
    *[("pack", f"leads={value}", "leads") for value in ("1", "{I: 1}", "[1, 2]", "true")],
    *[("pack", f"labels={value}", "labels") for value in ("A", "1", "[0]", "{A: 1}")],
    *[("pack", f"{name}=[1]", name) for name in ("windows", "options", "backend")],
    *[("generate", f"workers={value}", "workers") for value in ("abc", "0", "-1", "1.5", "[2]", "true")],
    *[("generate", f"seed={value}", "seed") for value in ("abc", "1.5", "null")],
    *[("generate", f"scale={value}", "scale") for value in ("abc", "[1]", ".nan", "0", "-1", "2")],
    *[("generate", f"hospitals={value}", "hospitals") for value in ("A", "1", "[1]", "[D]", "[]", "{A: 1}")],
]


OPTIONS = [
    *[("folder", f"{name}={value}") for name in ("labels", "drop") for value in ("7", "true", "[[A]]", "{A: 1}")],
    *[("folder", f"record={value}") for value in ("7", "[record]")],
    *[("folder", given) for given in ("csv=@x.csv", "lead_names=MLII", "separator=[;]", "corpus=[own]", "patient=7")],
    *[("ptbxl", f"{name}=[100]") for name in ("rate", "label_set", "likelihood")],
    *[("bidmc", f"{name}=[a]") for name in ("signal", "segment_s")],
    *[("heedb", given) for given in ("site=[I0001]", "years=abc", "years=2019", "stated_by={a: 1}")],
    ("shdb_af", "ecg1=[V5]"),
    ("cinc2021", "label_set=[harmonised]"),
    ("simulated", "hospital=[A]"),
]


@pytest.mark.parametrize(("dataset", "given"), OPTIONS)
def test_a_value_of_the_wrong_type_for_a_dataset_is_refused_in_one_line(work, capsys, dataset, given):
    words = ["pack", "toy", "--dataset", dataset, "--root", "raw", "--option", given, "--out", "new"]
    assert cli.main(words) == 2
    said = told(capsys)
    assert said and "TypeError" not in said and not (work / "new").exists()


@pytest.mark.parametrize("given", ["csv=a: b: c", "labels=[A", "labels"])
def test_an_option_that_is_no_yaml_is_refused_in_one_line(work, capsys, given):
    assert cli.main([*PACK, "--option", given, "--out", "new"]) == 2
    assert told(capsys) and not (work / "new").exists()


@pytest.mark.parametrize(("command", "given", "field"), VALUES)
def test_a_value_of_the_wrong_type_is_refused_in_one_line(work, capsys, command, given, field):
    words = {"pack": PACK, "generate": ["generate"]}[command]
    assert cli.main([*words, "-p", given, "--out", "new"]) == 2
    assert field in told(capsys) and not (work / "new").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*PACK[:-1], "0", "--out", "x"], "--workers"),
        ([*PACK[:-1], "-3", "--out", "x"], "--workers"),
        ([*PACK[:-1], "two", "--out", "x"], "--workers"),
        ([*PACK], "--out"),
        ([*PACK, "--out", "x", "--fs", "100"], "--fs"),
        (["pakc"], "pakc"),
        ([*EMBED, "--out", "x.parquet", "--batch", "many"], "--batch"),
        (["run", "none.ipynb", "--out", "x"], "none.ipynb"),
        (["run", str(cli.ROOT / "notebooks/21_report.ipynb"), "--page", "../x.html", "--out", "x"], "page"),
    ],
)
def test_a_wrong_word_is_answered_in_one_line(work, capsys, words, said):
    assert cli.main(words) == 2
    assert said in told(capsys) and not (work / "x").exists()


@pytest.mark.parametrize("command", ["repro", "search"])
@pytest.mark.parametrize("jobs", ["abc", "-1", "0", "1.5", "2 4", "²"])
def test_jobs_that_are_no_number_are_refused_before_any_work(monkeypatch, capsys, jobs, command):
    monkeypatch.setenv("JOBS", jobs)
    monkeypatch.setattr(cli, "_generate_missing", lambda: pytest.fail("work began"))
    assert cli.main([command]) == 2
    assert "JOBS" in told(capsys)


def test_without_the_affinity_of_linux_all_processors_count(monkeypatch):
    monkeypatch.delenv("JOBS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert schedule.workers() == packing.cores() >= 1
    assert sorted(embed.spread(lambda x: x * x, [(i,) for i in range(9)])) == [i * i for i in range(9)]
    monkeypatch.setenv("JOBS", " 3 ")
    assert schedule.workers() == 3
    calls = [p for folder in ("ecglib", "ecgsim", "benchmarks") for p in (cli.ROOT / folder).rglob("*.py")]
    assert not [p for p in calls if "os.sched_" in p.read_text()]


@contextmanager
def small_disk(size: int):
    """No file may become larger than `size` bytes: what a full disk looks like, in miniature."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ([*PACK, "--out", "new"], "signals.npy"),
        ([*GENERATE, "--out", "new"], ".new.part"),
        ([*EMBED, "--out", "new.parquet"], ".parquet"),
        (["zoo", "fetch", "clef_small", "--weights", "dummy", "--out", "new"], "model.safetensors"),
    ],
)
def test_a_full_disk_is_one_line_with_the_file_and_what_is_free(work, capfd, words, file):
    before = tree(work)
    with small_disk(4096):
        status = cli.main(words)
    line = capfd.readouterr().err
    assert status == 2 and line.count("\n") == 1 and file in line and "MB are free ->" in line
    left = {path for path in tree(work) if path not in before}
    assert all("new.part/" in path for path in left)  # of `embed`, which goes on from there


def test_an_error_of_the_system_that_names_a_file_is_one_line_and_any_other_a_traceback(monkeypatch, capsys):
    def fail(error):
        def raising(*_):
            raise error

        monkeypatch.setattr(zoo, "table", raising)
        return cli.main(["zoo", "list"])

    for error in (PermissionError(13, "no", "secret.csv"), FileNotFoundError(2, "no", "secret.csv")):
        assert fail(error) == 2 and "secret.csv: " in told(capsys)
    assert fail(KeyboardInterrupt()) == cli.STOPPED and "Ctrl-C" in told(capsys)
    for error in (OSError("odd"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            fail(error)


def started(*words: str, **more) -> subprocess.Popen:
    """The command line in a process group of its own, as from a terminal."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    environment = os.environ | {"PYTHONPATH": str(cli.ROOT), "PYTHONUNBUFFERED": "1"}
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # whatever these tests were started with
    return subprocess.Popen([sys.executable, "-m", "ecglib", *words], env=environment, **pipes, **more)


@pytest.mark.parametrize("command", ["list", "pack"])
def test_a_reader_that_goes_away_is_no_error(tmp_path, command):
    root = str(corpus(tmp_path / "raw", n=80, fs=100))
    pack = ["pack", "toy", "--dataset", "folder", "--root", root, "--out", str(tmp_path / "toy")]
    process = started(*(pack if command == "pack" else ["zoo", "card", *zoo.names()]))
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


def sleeping(folder: Path) -> str:
    """A notebook that never ends."""
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Long?"},
        {"cell_type": "code", "id": "b", "metadata": {"tags": ["parameters"]}, "source": "out_dir = 'x'"},
        {"cell_type": "code", "id": "c", "metadata": {}, "source": "import time\nwhile True:\n    time.sleep(0.1)"},
    ]
    cells = [c | ({"outputs": [], "execution_count": None} if c["cell_type"] == "code" else {}) for c in cells]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    text = json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    (folder / "long.ipynb").write_text(text)
    return str(folder / "long.ipynb")


@pytest.mark.parametrize("command", ["pack", "generate", "embed", "run"])
def test_ctrl_c_ends_a_command_at_once_with_one_line(tmp_path, command):
    out = str(tmp_path / "out.parquet" if command == "embed" else tmp_path / "out")
    if command in ("pack", "embed"):
        corpus(tmp_path / "raw", n=400 if command == "pack" else 100, fs=500)
    words = {
        "pack": ["pack", "toy", "--dataset", "folder", "--root", str(tmp_path / "raw")],
        "generate": ["generate"],
        "embed": ["embed", "ecgfounder", str(tmp_path / "raw"), "--weights", "dummy"],
        "run": ["run", sleeping(tmp_path)],
    }
    process = started(*words[command], "--out", out)
    begun = {"pack": "%", "generate": "%", "embed": "records through", "run": "import time"}[command]
    assert any(begun in line for line in process.stdout)
    if command == "run":
        time.sleep(1)  # in the middle of the cell, as a person would
    os.killpg(process.pid, signal.SIGINT)
    told, said = process.communicate(timeout=60)  # 2 s on an idle machine
    assert "100 %" not in told and "100 of 100" not in told, "stopped before it was done, however slow the machine"
    assert process.returncode == cli.STOPPED
    assert said.splitlines()[-1].startswith("error: stopped by Ctrl-C") and "Traceback" not in said, said
    assert said.count("\n") <= (2 if command == "embed" else 1)  # the warning about dummy weights
    assert not Path(out).exists()


def test_a_second_pack_into_the_same_folder_is_refused(work, capsys):
    with files.new_folder(work / "new", packing.written):
        assert cli.main([*PACK, "--out", "new"]) == 2
        assert "another command is writing here" in told(capsys)
    (work / "new").rmdir()
    assert cli.main([*PACK, "--out", "new"]) == 0
    assert np.array_equal(cohort.open("new").rows("train"), [0, 1])


def test_a_run_is_told_from_what_others_left(tmp_path):
    for content in ("", "[]", '{"metadata": {}}', '{"metadata": []}', '{"metadata": {"ecglib_wrote": ["b.ipynb"]}}'):
        (tmp_path / "a.ipynb").write_text(content)
        with pytest.raises(EcgError, match="a.ipynb"):
            files.output_folder(tmp_path, notebooks.written)
    (tmp_path / "a.ipynb").write_text(json.dumps({"metadata": {notebooks.WROTE: ["a.ipynb", "b.html"]}}))
    assert files.output_folder(tmp_path, notebooks.written) == tmp_path
