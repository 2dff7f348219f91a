"""The stages of a dvc.yaml side by side: DVC says what has changed and records what came out, here it is only ordered.

DVC itself runs one stage at a time. Here its repository is opened once; every stage runs in a fork of this process, by
DVC's own `Stage.reproduce`, so that `dvc repro` by hand and `make repro` leave the same dvc.lock.
"""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

from ecglib import EcgError
from ecglib.data import files
from ecglib.pipeline import warm
from ecglib.pipeline.stages import ABSENT, DEPS

LOGS = Path("results/scratch/log")  # what each stage printed
OURS = "python -m ecglib "  # how the command of a stage begins that notes in its output folder what it wrote there
SECONDS = {  # of one core, by part of a name: the first that fits
    "fine_tuning": 250,
    "figures": 110,
    "scratch": 105,
    "robustness": 90,
    "zoo-": 65,
    "pretrain": 50,
    "ppg": 50,
    "finetune": 50,
    "holter": 40,
    "noise": 40,
    "waves_and_leads": 35,
    "rhythm_and_beats": 35,
    "language": 35,
    "external": 35,
    "models": 35,
    "explanation": 30,
}
OTHERS = 15  # seconds of any other stage: all this only orders them


def run(needs: dict[str, set[str]], begin, workers: int = 2) -> None:
    """Run jobs, at most `workers` at a time, each when the jobs it needs are done; EcgError where one fails.

    Of those that can start, the one that has the longest way behind it does (the critical path).

    needs: name -> names that come before it (those that are not in `needs` count as done).
    begin: starts the job of a name; returns a function that tells its exit status (None while it runs), or None.
    """
    waiting, running, failed = {name: needs[name] & needs.keys() for name in _by_urgency(needs)}, {}, []
    while waiting or running:
        for name in [name for name, before in waiting.items() if not before]:
            if len(running) < workers and not failed:
                del waiting[name]
                running[name] = begin(name)
        if not running:
            break
        statuses = {name: status() if status else 0 for name, status in running.items()}
        ended = {name: status for name, status in statuses.items() if status is not None}
        for name, status in ended.items():
            del running[name]
            failed += [name] if status else []
            for before in waiting.values():
                before.discard(name)
        if not ended:
            time.sleep(0.02)
    if failed:
        fix = "mend it and call again: finished stages are not repeated"
        raise EcgError(f"stage {', '.join(failed)} failed", field="stage", fix=fix)
    if waiting:
        reason = f"these stages wait for each other: {', '.join(waiting)}"
        raise EcgError(reason, field="stage", fix="mend their inputs")


def _by_urgency(needs: dict[str, set[str]]) -> list[str]:
    """The jobs, those first behind which the most seconds lie: their own and of the longest chain that needs them."""
    behind = {name: [other for other, before in needs.items() if name in before] for name in needs}
    ways: dict[str, float] = {}

    def way(name):
        if name not in ways:
            ways[name] = 0.0  # where jobs wait for each other there is no end
            own = next((seconds for part, seconds in SECONDS.items() if part in name), OTHERS)
            ways[name] = own + max(map(way, behind[name]), default=0)
        return ways[name]

    return sorted(needs, key=way, reverse=True)


def workers() -> int:
    """As many jobs as processors, since every stage computes on one; the environment variable JOBS overrules.

    Raises EcgError where JOBS is no number from 1 on.
    """
    from ecglib.data.packing import cores

    text = os.environ.get("JOBS", "").strip()
    if text and not (text.isascii() and text.isdigit() and int(text)):
        raise EcgError(f"{text!r} is no number of jobs", field="JOBS", fix="write it like JOBS=4, or leave it out")
    return int(text) if text else cores()


class Study:
    """The stages of one dvc.yaml and those before them, as DVC sees them.

    root: folder of the repository; file: its dvc.yaml, relative to it.
    """

    def __init__(self, root: Path, file: str = "dvc.yaml"):
        from dvc.repo import Repo
        from dvc.repo.reproduce import plan_repro

        self.root, self.repo = Path(root), Repo(str(root), _wait_for_lock=True)
        _mend(Path(self.repo.tmp_dir) / "rwlock")
        graph, wanted = self.repo.index.graph, str(self.root / file)
        self.order = plan_repro(graph)  # each stage behind those before it
        todo = [stage for stage in self.repo.index.stages if stage.path == wanted]
        if not todo:
            raise EcgError("DVC finds no stage here", file=file, fix="see that neither git nor DVC ignores it")
        self.before: dict = {}  # stage -> the stages right before it
        self.absent: list[str] = []  # names of results that are not made, since their corpus is not there
        while todo:
            stage = todo.pop()
            if stage not in self.before:
                self.before[stage] = set(graph.successors(stage))
                todo += self.before[stage]

    def leave_out(self, prefix: str) -> dict[str, list[str]]:
        """Take out the stages that read what is not there below the folder `prefix`, and all that cannot run without.

        A stage goes on without a missing input that its `meta: optional` names. Returns the names of what is missing,
        with the stages that are left out for it.
        """
        reasons: dict[str, list[str]] = {}
        lost: dict[str, str] = {}  # output of a stage that is left out -> what is missing
        for stage in [stage for stage in self.order if stage in self.before]:
            lacking = {}
            for dep in stage.deps:
                if dep.def_path.startswith(prefix) and not os.path.exists(dep.fs_path):
                    lacking[dep] = os.path.basename(dep.def_path)
                elif not os.path.exists(dep.fs_path) and not self._made(dep, lost):
                    lacking[dep] = next(why for path, why in lost.items() if _overlap(path, dep.fs_path))
            optional = {str(self.root / path) for path in (stage.meta or {}).get("optional", ())}
            needed = [why for dep, why in lacking.items() if dep.fs_path not in optional]
            if needed:
                del self.before[stage]
                reasons.setdefault(needed[0], []).append(stage.addressing)
                lost |= {out.fs_path: needed[0] for out in stage.outs}
            else:
                stage.deps = [dep for dep in stage.deps if dep not in lacking]
        self.absent = sorted(map(os.path.basename, lost))
        return reasons

    def _made(self, dep, lost: dict) -> bool:
        """Whether a stage that is not left out makes a dependency, or a part of it."""
        outs = [out.fs_path for stage in self.before for out in stage.outs if out.fs_path not in lost]
        return any(_overlap(path, dep.fs_path) for path in outs) or not any(
            _overlap(path, dep.fs_path) for path in lost
        )

    def check_data(self) -> None:
        """Raise EcgError where data/ is not what data.dvc pins, or data.dvc is missing."""
        if not (self.root / "data.dvc").is_file():
            fix = "git checkout data.dvc brings it back"
            raise EcgError("is missing; it says which recordings the study stands on", file="data.dvc", fix=fix)
        with self.repo.lock:
            changed = any(stage.status() for stage in self.repo.index.stages if not stage.cmd)
        if changed:
            fix = "rm -r data; make data writes it anew; dvc commit --force data.dvc goes on with these recordings"
            raise EcgError("is not what data.dvc pins", file="data", fix=fix)

    def stale(self) -> dict[str, set[str]]:
        """Stages that have changed, or stand behind one that has -> the stages right before them; in DVC's order."""
        with self.repo.lock:
            changed = {stage for stage in self.before if stage.cmd and stage.status()}
        while more := {stage for stage, before in self.before.items() if before & changed} - changed:
            changed |= more
        self.stages = {s.addressing: s for s in self.repo.index.stages if s in changed and s.cmd}
        return {name: {b.addressing for b in self.before[stage]} for name, stage in self.stages.items()}

    def check_outputs(self, name: str) -> None:
        """Raise EcgError where an output folder of a stage holds what no run of it wrote: DVC would delete it.

        Only for commands of this library: what others write when they fail is known to nobody.
        """
        stage = self.stages[name]
        for out in stage.outs if str(stage.cmd).startswith(OURS) else ():
            files.require_own(Path(out.fs_path), lambda folder, out=out: _listed(out) | _noted(folder))

    def start(self, name: str):
        """Reproduce a stage in a fork; returns the function that tells its exit status, None while it runs."""
        stage, log = self.stages[name], self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            code = 1
            try:
                code = self._reproduce(stage, log)
            finally:  # after Ctrl-C too: what follows is for the parent
                os._exit(code)

        def status():
            ended, code = os.waitpid(child, os.WNOHANG)
            return os.waitstatus_to_exitcode(code) if ended else None

        return status

    def log(self, name: str) -> Path:
        """File with what a stage prints."""
        return self.root / LOGS / f"{name.replace('/', '-')}.log"

    def _reproduce(self, stage, log: Path) -> int:
        """DVC's part of a stage, with its output in `log`; 1 where it failed."""
        if not os.environ.get("V"):
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
        os.environ[DEPS] = json.dumps([dep.def_path for dep in stage.deps if not hasattr(dep, "params")])
        os.environ[ABSENT] = json.dumps(self.absent)
        try:
            self.check_outputs(stage.addressing)  # again: others have run meanwhile
            with self.repo.lock:
                if stage.reproduce():
                    stage.dump(update_pipeline=False)
        except Exception as error:  # whatever it is: the stage has failed, and the log says why
            print(f"{type(error).__name__}: {error}", flush=True)
            return 1
        return 0


def _mend(file: Path) -> None:
    """Remove DVC's list of running stages where a killed process left it half written: DVC would refuse ever after."""
    for _ in range(2):
        try:
            json.loads(file.read_text())
            return
        except FileNotFoundError:
            return
        except ValueError:
            time.sleep(0.5)  # somebody may be writing it
    file.unlink(missing_ok=True)


def _listed(out) -> set[str]:
    """The files that an output folder has according to dvc.lock, as far as DVC's cache still knows."""
    listed = out.get_obj() if out.hash_info and out.hash_info.isdir else None
    return {"/".join(entry[0]) for entry in listed or ()}


def _noted(folder: Path) -> set[str]:
    """The files of an output folder that the command of the stage says it wrote."""
    from ecglib.data import packing
    from ecglib.pipeline import notebooks

    for written in (notebooks.written, packing.written):
        try:
            return set(written(folder))
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return set()


def _overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one lies in the other."""
    return os.path.commonpath([one, other]) in (one, other)


def _print(line: str) -> None:
    print(line, flush=True)


def repro(
    root: Path, file: str = "dvc.yaml", workers: int = 2, optional: str = "", pinned: bool = True, say=_print
) -> None:
    """Run every stage of a dvc.yaml that has changed, `workers` side by side, a line told to `say` for each that ends.

    root, file: as of `Study`; optional: folder below which inputs may be missing; pinned: data/ must be
    what data.dvc pins, even where no stage reads it. EcgError where a stage fails, and before any of them where one
    would delete what it did not write.
    """
    study = Study(root, file)
    for corpus, names in (study.leave_out(optional) if optional else {}).items():
        say(f"there is no {optional}/{corpus}: left out {', '.join(names)}")
    if pinned or any(not stage.cmd for stage in study.before):  # a stage before these reads data/
        study.check_data()
    needs = study.stale()
    if not needs:
        say(f"{file}: nothing has changed")
        return
    for name in needs:
        study.check_outputs(name)
    progress = _Progress(study, len(needs), say)
    with warm.server() as environment:
        os.environ.update(environment)
        try:
            run(needs, progress.begin, workers)
        finally:
            for name in environment:
                del os.environ[name]


class _Progress:
    """Starts the stages of a study and prints a line for each that ends: how many, how long, how long still."""

    def __init__(self, study: Study, total: int, say):
        self.study, self.total, self.done, self.began, self.say = study, total, 0, time.monotonic(), say
        say(f"{total} stages to run; what they print is in {LOGS}/ (V=1 shows it here)")

    def begin(self, name: str):
        began, status = time.monotonic(), self.study.start(name)

        def watched():
            code = status()
            if code is not None:
                self.done += 1
                self._line(name, code, time.monotonic() - began)
            return code

        return watched

    def _line(self, name: str, code: int, seconds: float) -> None:
        gone = time.monotonic() - self.began
        left = gone / self.done * (self.total - self.done)
        end = f"{seconds:5.0f} s" if code == 0 else "FAILED"
        clock = f"{_clock(gone)} so far" + (f", about {_clock(left)} left" if self.done < self.total else "")
        self.say(f"[{self.done:3}/{self.total}] {name.rpartition(':')[2]:<36} {end}   {clock}")
        if code:
            log = self.study.log(name)
            end = "\n".join(log.read_text(errors="replace").splitlines()[-30:]) if log.is_file() else ""
            print(f"\nThe end of {os.path.relpath(log)}:\n{end}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
