"""Jobs that wait for one another, several at a time; the stages of dvc.yaml run so by `make repro`."""

import os
import subprocess
import sys
import time
from pathlib import Path

from ecglib.signals import EcgError


def run(needs: dict[str, set[str]], begin, workers: int = 2) -> None:
    """Run jobs in the order of `needs`, each when the jobs it needs are done, at most `workers` at a time.

    needs: name -> names that come before it (those that are not in `needs` count as done). begin(name) returns a
    function that tells the exit status, None while it runs; or None when there is nothing to do.
    Raises EcgError for jobs that wait for each other. After a failure the running ones end, no other starts, and
    EcgError names the job: finished work stays.
    """
    waiting, running, failed = {name: before & needs.keys() for name, before in needs.items()}, {}, []
    while waiting or running:
        for name in [name for name, before in waiting.items() if not before]:
            if len(running) < workers and not failed:
                del waiting[name]
                running[name] = begin(name)
        if not running:
            break
        looked = {name: job() if job else 0 for name, job in running.items()}
        ended = {name: status for name, status in looked.items() if status is not None}
        for name, status in ended.items():
            del running[name]
            failed += [name] if status else []
            for before in waiting.values():
                before.discard(name)
        if not ended:
            time.sleep(0.05)
    if failed:
        fix = "mend it and call again: finished stages are not repeated"
        raise EcgError(f"stage {', '.join(failed)} failed", field="stage", fix=fix)
    if waiting:
        reason = f"these stages wait for each other: {', '.join(waiting)}"
        raise EcgError(reason, field="stage", fix="mend their inputs")


def start(words: list[str], cwd: Path, label: str = "", **options):
    """Start a command; its status function for `run`. label: announced when it starts and when it ends."""
    began = time.monotonic()
    process = subprocess.Popen(words, cwd=cwd, **options)
    if label:
        print(f"--> {label}", flush=True)

    def status():
        code = process.poll()
        if code is not None and label:
            print(f"<-- {label}: {'done' if code == 0 else 'FAILED'}, {time.monotonic() - began:.0f} s", flush=True)
        return code

    return status


def stale(root: Path) -> dict[str, set[str]]:
    """Stages of dvc.yaml that have changed or stand behind one that has -> the stages right before them."""
    from dvc.repo import Repo

    with Repo(root) as repo:
        graph, changed = repo.index.graph, set(repo.status())
        before = {stage: set(graph.successors(stage)) for stage in graph}
        hit = {stage for stage in graph if stage.addressing in changed}
        while more := {stage for stage in graph if before[stage] & hit} - hit:
            hit |= more
        named = sorted((s for s in hit if hasattr(s, "name")), key=lambda s: list(repo.index.stages).index(s))
        return {stage.name: {b.name for b in before[stage] if hasattr(b, "name")} for stage in named}


def repro(root: Path, workers: int = 2) -> None:
    """`dvc repro` of everything that has changed, `workers` stages side by side; then `dvc repro` itself has a look."""
    dvc = str(Path(sys.executable).with_name("dvc"))

    def begin(name):
        return start([dvc, "--wait-for-lock", "repro", "--quiet", "--single-item", name], root, name)

    run(stale(root), begin, workers)
    if subprocess.run([dvc, "repro"], cwd=root).returncode:
        raise EcgError("dvc repro failed", fix="read its message above")


def workers() -> int:
    """As many jobs as processors, since every stage computes on one; the environment variable JOBS overrules."""
    return int(os.environ.get("JOBS", 0)) or max(1, len(os.sched_getaffinity(0)))
