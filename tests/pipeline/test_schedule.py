"""Jobs side by side: order, limits, failures; the stages of DVC; the warm server."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from dvc.repo import Repo

from ecglib import EcgError
from ecglib.pipeline import cli, schedule, stages, warm

NEEDS = {"a": set(), "b": {"a"}, "c": {"a", "elsewhere"}, "d": {"b", "c"}, "e": set()}


def trace(needs, workers, broken=(), lasts=2):
    """(events, most jobs at once) of a run in which every job takes `lasts` looks."""
    events, alive, most = [], set(), [0]

    def begin(name):
        events.append(f"+{name}")
        alive.add(name)
        most[0] = max(most[0], len(alive))
        left = [lasts]

        def status():
            left[0] -= 1
            if left[0] > 0:
                return None
            events.append(f"-{name}")
            alive.discard(name)
            return int(name in broken)

        return status

    schedule.run(needs, begin, workers)
    return events, most[0]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_job_starts_after_those_it_needs_and_no_more_run_than_there_are_workers(workers):
    events, most = trace(NEEDS, workers)
    assert sorted(events) == sorted(f"{sign}{name}" for name in NEEDS for sign in "+-")
    for name, before in NEEDS.items():
        assert all(events.index(f"-{b}") < events.index(f"+{name}") for b in before & NEEDS.keys())
    assert most <= workers and (workers == 1 or most >= 2)


def test_after_a_failure_nothing_starts_and_the_job_is_named():
    seen = []
    with pytest.raises(EcgError, match="stage a failed"):
        schedule.run(NEEDS, lambda name: seen.append(name) or (lambda: int(name == "a")), 2)
    assert seen == ["a", "e"]


def test_a_job_with_nothing_to_do_frees_those_behind_it():
    seen = []
    schedule.run(NEEDS, lambda name: seen.append(name), 2)
    assert sorted(seen) == sorted(NEEDS) and seen.index("d") == 4


def test_jobs_that_wait_for_each_other_are_named():
    with pytest.raises(EcgError, match="wait for each other: a, b"):
        schedule.run({"a": {"b"}, "b": {"a"}}, lambda name: None)


LONG = {"pack": set(), "pretrain@x": {"pack"}, "probe@x": {"pretrain@x"}, "baseline@scratch": {"pack"}}
LONG |= {"explore": {"pack"}, "probe@y": {"pack"}, "figures": {"probe@x", "probe@y", "baseline@scratch"}}


@pytest.mark.parametrize("given", [list(LONG), sorted(LONG), sorted(LONG, reverse=True)])
def test_what_most_waits_for_starts_first_however_the_jobs_are_listed(given):
    started = [event for event in trace({name: LONG[name] for name in given}, 1)[0] if event[0] == "+"]
    assert started[:2] == ["+pack", "+baseline@scratch"] and started.index("+pretrain@x") == 2
    assert started.index("+probe@x") < started.index("+explore") and started[-1] in ("+explore", "+figures")


# A study of DVC, as small as can be.

STUDY = """
stages:
  pack:
    foreach: [a, b]
    do:
      cmd: mkdir -p results/cohorts && cp raw/${item} results/cohorts/${item}
      deps: ['raw/${item}']
      outs: ['results/cohorts/${item}']
  both:
    cmd: cat results/cohorts/a > results/both; cat results/cohorts/b >> results/both || true
    deps: [results/cohorts/a, results/cohorts/b]
    meta: {optional: [results/cohorts/b]}
    outs: [results/both]
  last:
    cmd: cp results/cohorts/b results/last
    deps: [results/cohorts/b]
    outs: [results/last]
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A DVC repository with STUDY, its raw files and a data.dvc; returns a function that runs what has changed."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    root = tmp_path / "root"
    (root / "raw").mkdir(parents=True)
    monkeypatch.chdir(root)
    Repo.init(str(root), no_scm=True).close()
    for name in ("a", "b"):
        (root / "raw" / name).write_text(f"{name}\n")
    (root / "data").write_text("data")
    with Repo(str(root)) as repo:
        repo.add("data", no_commit=True)
    (root / "data.dvc").write_text((root / "data.dvc").read_text() + "  cache: false\n")
    (root / "dvc.yaml").write_text(STUDY)

    def again(optional: str = "") -> None:
        schedule.repro(root, "dvc.yaml", 2, optional)

    return root, again


def stage_lines(text: str) -> list[str]:
    """Names of the stages that were run, sorted, from what `repro` prints."""
    return sorted(
        line.split()[1] if line[1] != " " else line.split()[2] for line in text.splitlines() if line.startswith("[")
    )


def test_a_study_runs_once_with_a_line_for_each_stage_and_dvc_agrees(study, capfd):
    root, again = study
    again()
    shown = capfd.readouterr().out
    assert stage_lines(shown) == ["both", "last", "pack@a", "pack@b"] and "4 stages to run" in shown
    assert (root / "results/both").read_text() == "a\nb\n"
    with Repo(str(root)) as repo:
        assert repo.status() == {} and repo.reproduce() == []
    again()
    assert "nothing has changed" in capfd.readouterr().out


def test_only_what_has_changed_runs_and_what_came_out_the_same_ends_it(study, capfd):
    root, again = study
    again()
    capfd.readouterr()
    (root / "raw/b").write_text("other\n")
    again()
    assert stage_lines(capfd.readouterr().out) == ["both", "last", "pack@b"]
    assert (root / "results/last").read_text() == "other\n"


def test_a_failing_stage_shows_the_end_of_its_log(study, capfd):
    root, again = study
    behind = "timeout 60 sh -c 'until test -e results/both; do sleep 0.05; done'"  # a failed stage lets none begin
    text = STUDY.replace("cp results/cohorts/b results/last", f"{behind}; echo out of memory; false")
    (root / "dvc.yaml").write_text(text)
    with pytest.raises(EcgError, match="stage last failed"):
        again()
    assert "out of memory" in capfd.readouterr().err
    assert (root / "results/both").exists()  # finished work stays
    (root / "dvc.yaml").write_text(STUDY)
    again()
    assert stage_lines(capfd.readouterr().out) == ["last"]


def test_stages_of_a_missing_corpus_are_left_out_by_name_and_the_others_go_on(study, capfd):
    root, again = study
    (root / "raw/b").unlink()
    again("raw")
    shown = capfd.readouterr().out
    assert "there is no raw/b: left out pack@b, last" in shown
    assert stage_lines(shown) == ["both", "pack@a"] and (root / "results/both").read_text() == "a\n"
    again("raw")
    assert "nothing has changed" in capfd.readouterr().out


def test_ctrl_c_ends_a_study_with_one_line_and_the_next_call_goes_on(study, capfd):
    root, again = study
    (root / "dvc.yaml").write_text(STUDY.replace("cp results/cohorts/b results/last", "touch begun; sleep 600"))
    code = f"from pathlib import Path\nfrom ecglib.pipeline import cli\ncli.ROOT = Path({str(root)!r})\n"
    code += "import sys\nsys.exit(cli.main(['repro']))"
    command = [sys.executable, "-c", code]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # whatever these tests were started with
    process = subprocess.Popen(command, **pipes)
    assert any("pack@b" in line for line in process.stdout)
    while not (root / "begun").exists():
        assert process.poll() is None, "it ended before the last stage began"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)  # far below the 600 s that the stage would take
    assert process.returncode == cli.STOPPED and said.startswith("error: stopped by Ctrl-C") and said.count("\n") == 1
    (root / "dvc.yaml").write_text(STUDY)
    again()
    assert "last" in stage_lines(capfd.readouterr().out)


@pytest.mark.parametrize("left", ["", '{"read": {'])
def test_a_list_of_running_stages_that_was_cut_off_stops_nobody(study, capfd, left):
    root, again = study
    again()
    (root / ".dvc/tmp/rwlock").write_text(left)
    (root / "results/last").unlink()
    again()
    assert "last" in stage_lines(capfd.readouterr().out) and (root / "results/last").is_file()


def test_data_that_is_not_what_is_pinned_stops_before_any_stage(study):
    root, again = study
    (root / "data").write_text("other")
    with pytest.raises(EcgError, match="not what data.dvc pins"):
        again()
    (root / "data.dvc").unlink()
    with pytest.raises(EcgError, match="git checkout data.dvc"):
        again()
    assert not (root / "results").exists()


# What is in an output folder.

FOLDER = """
stages:
  pack:
    cmd: >-
      mkdir -p results/a results/b && cp raw/b results/b/x && cp raw/a results/a/x
      && cp raw/note results/a/cohort.json
    deps: [raw/a, raw/b, raw/note]
    outs: [results/a, results/b]
"""


@pytest.fixture
def folders(study, monkeypatch):
    """A study whose stage fills two folders, as a command of this library does: in results/a with a note of its own."""
    root, again = study
    monkeypatch.setattr(schedule, "OURS", "mkdir ")
    (root / "raw/note").write_text('{"sha256": {"x": "", "y": ""}}')
    (root / "dvc.yaml").write_text(FOLDER)
    return root, again


@pytest.mark.parametrize("place", ["results/a/mine.txt", "results/a/below/mine.txt", "results/b/mine.txt"])
@pytest.mark.parametrize("first", [True, False])
def test_what_somebody_put_into_an_output_folder_stays_and_stops_the_study_in_one_line(folders, capfd, place, first):
    root, again = folders
    if not first:
        again()
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text("mine\n")
    capfd.readouterr()
    with pytest.raises(EcgError, match=f"{place[:9]}.*is not from this command"):
        again()
    assert (root / place).read_text() == "mine\n" and not stage_lines(capfd.readouterr().out)
    (root / place).unlink()
    if "below" in place:
        (root / place).parent.rmdir()
    again()
    assert (root / "results/a/x").read_text() == "a\n"


def test_what_somebody_saves_while_other_stages_run_stays_too(folders, capfd):
    root, again = folders
    text = FOLDER + "  before: {cmd: 'mkdir -p results/a; echo mine > results/a/mine.txt; touch done', outs: [done]}\n"
    (root / "dvc.yaml").write_text(text.replace("[raw/a,", "[done, raw/a,"))
    with pytest.raises(EcgError, match="stage pack failed"):
        again()
    assert (root / "results/a/mine.txt").read_text() == "mine\n"
    shown = [line for line in "".join(capfd.readouterr()).splitlines() if "is not from this command" in line]
    assert len(shown) == 1 and "results/a/mine.txt" in shown[0]


def test_its_own_files_are_replaced_whatever_has_changed(folders, capfd):
    root, again = folders
    again()
    for change in (
        lambda: (root / "raw/a").write_text("other\n"),
        lambda: (root / "dvc.yaml").write_text(FOLDER.replace("cp raw/b results/b/x", "cp raw/b results/b/z")),
        lambda: (root / "results/b/z").unlink(),
        lambda: ((root / "results/a/x").unlink(), (root / "results/a/x").write_text("by another run")),
        lambda: (root / "results/a/y").write_text("noted by another run"),
        lambda: (root / "results/a/cohort.json").unlink(),
        lambda: ((root / "results/b/.ipynb_checkpoints").mkdir(), (root / "results/b/.DS_Store").touch()),
        lambda: (root / "dvc.lock").unlink(),
    ):
        change()
        if not (root / "dvc.lock").exists():  # who wrote results/b is known no longer
            (root / "results/b/z").unlink()
        again()
        there = sorted(path.name for folder in "ab" for path in (root / "results" / folder).iterdir())
        assert there in (["cohort.json", "x", "x"], ["cohort.json", "x", "z"])
        with Repo(str(root)) as repo:
            assert repo.status() == {}
    capfd.readouterr()


def test_a_command_of_somebody_else_writes_as_dvc_lets_it(study, capfd):
    root, again = study
    text = "stages: {own: {cmd: 'mkdir results/own; touch results/own/%s; %s', deps: [raw/a], outs: [results/own]}}\n"
    (root / "results").mkdir()
    for name, end, works in (("a", "false", False), ("b", "true", True)):
        (root / "dvc.yaml").write_text(text % (name, end))
        if works:
            again()
        else:
            with pytest.raises(EcgError, match="stage own failed"):
                again()
    assert [path.name for path in (root / "results/own").iterdir()] == ["b"]
    capfd.readouterr()


def test_every_stage_is_one_whose_output_folder_is_looked_at():
    for file in ("dvc.yaml", "real/dvc.yaml"):
        stated = yaml.safe_load((stages.ROOT / file).read_text())["stages"].values()
        commands = [stage.get("do", stage)["cmd"] for stage in stated]
        assert commands and all(c.startswith((f"{schedule.OURS}run ", f"{schedule.OURS}pack ")) for c in commands)


# The warm server.


def run_warm(code: str, environment: dict) -> subprocess.CompletedProcess:
    """A command line in a child of the server: `zoo card`, whose words are `code`."""
    command = [sys.executable, "-m", "ecglib", *code.split()]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, cwd=stages.ROOT)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is forked")
def test_a_warm_child_answers_like_a_process_of_its_own():
    with warm.server() as environment:
        for code in ("zoo card merl", "zoo card nobody", "datasets"):
            warm_, cold = (run_warm(code, variables) for variables in (environment, {}))
            assert (warm_.returncode, warm_.stdout, warm_.stderr) == (cold.returncode, cold.stdout, cold.stderr)
    assert not os.path.exists(environment[warm.ADDRESS])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is forked")
def test_a_warm_child_ends_with_who_asked_for_it(tmp_path):
    with warm.server() as environment:
        command = [sys.executable, "-m", "ecglib", "generate", "--out", str(tmp_path / "data"), "-p", "workers=1"]
        asking = subprocess.Popen(command, env=os.environ | environment, cwd=stages.ROOT, stdout=subprocess.PIPE)
        server = psutil.Process(os.getpid()).children()
        server = next(p for p in server if warm.SERVE in p.cmdline())
        while not server.children():
            assert asking.poll() is None, "it ended before the server had a child"
            time.sleep(0.05)
        (child,) = server.children()
        asking.kill()
        child.wait(60)
        asking.wait()


def test_without_a_server_nobody_is_asked():
    assert warm.call(["datasets"]) is None
