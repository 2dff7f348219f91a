"""What the stages of a study are given, and that it stays as it was while they run."""

import contextlib
import json
import os
from pathlib import Path

import yaml

from ecglib import EcgError
from ecglib.data.files import fingerprint

ROOT = Path(__file__).resolve().parents[2]
DEPS = "ECGLIB_DEPS"  # environment variable: what the running stage depends on, relative to the repository
ABSENT = "ECGLIB_ABSENT"  # environment variable: names of the cohorts that are left out, since they are not there
STAGE = "DVC_STAGE"  # set by DVC


def section(file: Path, name: str) -> dict:
    """The dotted section `name` of a params.yaml; raises EcgError that lists the sections there are."""
    try:
        values = yaml.safe_load(Path(file).read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EcgError(f"is no YAML: {' '.join(str(error).split())}", file=file, fix="mend that line") from error
    for part in name.split("."):
        if not isinstance(values, dict) or part not in values:
            valid = ", ".join(values) if isinstance(values, dict) else "none below it"
            raise EcgError(f"no section {name!r}", file=file, field=part, fix=f"use one of: {valid}")
        values = values[part]
    if not isinstance(values or {}, dict):
        raise EcgError(f"{name!r} is no section", file=file, field=name, fix="name what the parameters stand under")
    return values or {}


def without_absent(values: dict) -> dict:
    """Parameters without the cohorts that are left out: their names or folders in lists, and entries about them."""
    absent = set(json.loads(os.environ.get(ABSENT, "[]")))
    kept = _without(values, absent)
    for name in values:
        if kept.get(name) != values[name]:
            print(f"[{name}] without what is not there: {kept.get(name)}", flush=True)
    return kept


def _without(value, absent: set):
    """A parameter value without list items and entries of dicts that name something in `absent`."""

    def named(item) -> bool:
        if isinstance(item, dict):
            return any(named(entry) for entry in item.values() if isinstance(entry, str))
        return isinstance(item, str) and item.rpartition("/")[2] in absent

    if isinstance(value, list):
        return [_without(item, absent) for item in value if not named(item)]
    if isinstance(value, dict):
        return {
            k: _without(v, absent) for k, v in value.items() if not named(k) and not (isinstance(v, dict) and named(v))
        }
    return value


def link_data(link: Path, folder) -> None:
    """Let the symbolic link `link` point to the user's folder of corpora; EcgError where it is none, or no link."""
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise EcgError("no such folder", file=folder, field="DATA", fix="name the folder that holds the corpora")
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise EcgError("is no symbolic link", file=link, field="DATA", fix="move it away: it would point to DATA")
    link.symlink_to(folder)


@contextlib.contextmanager
def guarded():
    """Refuse, with an EcgError that names it, to end a stage of DVC one of whose inputs changed in the block.

    DVC records inputs after the command (treeverse/dvc#11058): an edited one would be taken for what made the results.
    """
    stage = os.environ.get(STAGE)
    if not stage:
        yield
        return
    deps = json.loads(os.environ[DEPS]) if DEPS in os.environ else _deps(stage)
    before = {dep: _state(dep) for dep in deps}
    yield
    changed = [dep for dep, state in before.items() if _state(dep) != state]
    if changed:
        fix = "run the stage again, and edit nothing that it reads until it has ended"
        raise EcgError(f"changed while the stage {stage} ran", file=", ".join(changed), field="deps", fix=fix)


def _deps(stage: str) -> list[str]:
    """The files and folders that a stage depends on, as DVC says."""
    from dvc.repo import Repo

    path, _, name = stage.rpartition(":")
    with Repo(str(ROOT)) as repo:
        deps = repo.stage.load_one(path or "dvc.yaml", name=name).deps
        return [dep.def_path for dep in deps if not hasattr(dep, "params")]


def _state(dep: str) -> list[str]:
    """Content of code and notebooks, size and time of change of data."""
    path = ROOT / dep
    return fingerprint(path, content=dep.startswith(("ecglib", "notebooks"))) if path.exists() else []
