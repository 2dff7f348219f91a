"""The same study on real recordings: a small runner of the stages in section `real` of params.yaml.

DVC is not used here, since the recordings lie outside the repository and their folder differs from machine to machine.
"""

import hashlib
import json
import os
import shlex
import sys
from pathlib import Path

from ecglib import execute, pipeline, schedule
from ecglib.signals import EcgError


def listed(file: Path) -> dict[str, dict]:
    """Stages of section `real.stages`: one with `each: {name: [values]}` becomes one per value, `{name}` filled in."""
    import yaml

    stages = {}
    for name, stage in yaml.safe_load(Path(file).read_text())["real"]["stages"].items():
        items = [{}]
        for key, values in stage.get("each", {}).items():
            items = [{**item, key: str(value)} for item in items for value in values]
        for item in items:
            found = {"cmd": _filled(stage["cmd"], item), "deps": [_filled(d, item) for d in stage.get("deps", [])]}
            stages[_filled(name, item)] = found
    return stages


def _filled(text: str, item: dict) -> str:
    for key, value in item.items():
        text = text.replace(f"{{{key}}}", value)
    return text


def run(data: Path, file: Path, parse, workers: int = 2) -> None:
    """Run the stages of section `real.stages` of `file` on the recordings under the folder `data`, `workers` at a time.

    A stage whose command, code, parameters and input files are those of its last good run is skipped; it waits for the
    stages above it whose results it reads. `parse` turns the words of a command into its arguments. Raises EcgError for
    what is missing, before the first stage, and for a stage that fails.
    """
    data = Path(data).resolve()
    if not data.is_dir():
        raise EcgError("no such folder", file=data, field="DATA", fix="name the folder that holds the corpora")
    stages = listed(file)
    words = {name: [w.replace("{data}", str(data)) for w in shlex.split(s["cmd"])] for name, s in stages.items()}
    parsed = {name: parse(command) for name, command in words.items()}
    read = {name: places(stage, parsed[name], data) for name, stage in stages.items()}
    _demand([(read[name], parsed[name].out) for name in stages], data)
    made = {name: pipeline.ROOT / args.out for name, args in parsed.items()}

    def begin(name):
        stamp = pipeline.ROOT / "results/real/.stamps" / name
        found = mark(stages[name], parsed[name], data)
        if made[name].exists() and stamp.exists() and stamp.read_text() == found:
            print(f"    {name}: nothing has changed", flush=True)
            return None
        stamp.unlink(missing_ok=True)
        command = [sys.executable, "-m", "ecglib", *words[name]]
        return _stamped(schedule.start(command, pipeline.ROOT, name), stamp, found)

    schedule.run({name: _before(name, read, made) for name in stages}, begin, workers)


def _stamped(job, stamp: Path, text: str):
    def status():
        code = job()
        if code == 0:
            stamp.parent.mkdir(parents=True, exist_ok=True)
            execute.write(stamp, text)
        return code

    return status


def _before(name: str, read: dict, made: dict) -> set[str]:
    """The stages above `name` whose result it reads."""
    above = list(made)[: list(made).index(name)]
    return {a for a in above if any(p == made[a] or p in made[a].parents or made[a] in p.parents for p in read[name])}


def places(stage: dict, args, data: Path) -> list[Path]:
    """Input files and folders of a stage: those it lists and those its command reads."""
    wanted = {Path(os.path.normpath(pipeline.ROOT / dep.replace("{data}", str(data)))) for dep in stage.get("deps", [])}
    return sorted(wanted | set(pipeline.inputs(args)))


def _demand(stages: list[tuple[list[Path], str]], data: Path) -> None:
    """Raise EcgError that names every input which is not there and which no earlier stage makes."""
    made, lost = [], []
    for wanted, out in stages:
        found = [p for p in wanted if p.exists() or any(p == m or p in m.parents or m in p.parents for m in made)]
        lost += [place for place in wanted if place not in {*found, *lost}]
        made.append(pipeline.ROOT / out)
    raw = [os.path.relpath(place, data) for place in lost if data in (place, *place.parents)]
    if raw:
        fix = "put it there as PhysioNet publishes it, or take its stages out of params.yaml"
        raise EcgError(f"there is no {', no '.join(raw)}", file=data, field="DATA", fix=fix)
    if names := ", ".join(os.path.relpath(place, pipeline.ROOT) for place in lost):
        raise EcgError(f"not there yet: {names}", fix="run `make repro` first: the cohorts come from it")


def mark(stage: dict, args, data: Path) -> str:
    """Fingerprint of all that a stage's result depends on. Raw recordings count by name, size and time of change."""
    values = [stage["cmd"], json.dumps(getattr(args, "given", {}), sort_keys=True, default=str)]
    for name in pipeline.needs(args):
        values += [name, *pipeline.fingerprint(pipeline.ROOT / name, content=True)]
    inputs = places(stage, args, data)
    for place in (p for p in inputs if not set(p.parents) & set(inputs)):  # those inside another count with it
        inside = data in (place, *place.parents)
        values += pipeline.fingerprint(place, content=not inside, without=pipeline.ROOT / args.out)
    return hashlib.sha256("\0".join(values).encode()).hexdigest()
