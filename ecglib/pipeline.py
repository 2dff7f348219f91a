"""What a stage of the study depends on, and a small runner for the same study on real recordings.

dvc.yaml lists for every stage its notebook and exactly the modules behind it; `closure` computes that list from the
source text, so that a change of a plot does not train anything again. The command line and `execute` are left out:
they carry files and parameters to the notebooks and compute no number.
"""

import ast
import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from ecglib import execute
from ecglib.signals import EcgError

ROOT = Path(__file__).resolve().parent.parent
WINGS = ("datasets", "encoders", "objectives")  # rooms whose files are looked up by name


def closure(code: str, strings=()) -> list[str]:
    """Files of ecglib, relative to the repository, that the Python text `code` imports, directly or not.

    In a wing (encoders, objectives, datasets) a file counts when it is imported, when `strings` (parameter values) or a
    text in `code` name it, or when a module builds it by name; a wing that is used without any name counts whole.
    Tables count with the module that names them. A package's __init__ with nothing but a docstring is left out.
    """
    found, queue = set(), [(code, "ecglib")]
    named = {*strings, *_strings(ast.parse(code))}
    while queue:
        text, package = queue.pop()
        tree = ast.parse(text)
        named |= _built(tree)
        fresh = [p for name in _imports(tree, package) for p in _files(name)]
        fresh += [p for wing in WINGS for p in _wing(wing, named, {*found, *fresh})]
        for path in dict.fromkeys(fresh):
            if path not in found:
                found.add(path)
                queue.append((path.read_text(), _package(path)))
    tables = {table for path in found for table in _tables(path)}
    return sorted(str(p.relative_to(ROOT)) for p in {p for p in found if not _empty(p)} | tables)


def _package(path: Path) -> str:
    return ".".join(path.parent.relative_to(ROOT).parts)


def _imports(tree, package: str) -> set[str]:
    """Dotted names under ecglib that the syntax tree imports; `package` resolves the relative ones."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "ecglib"}


def _files(name: str) -> list[Path]:
    """Files that importing the dotted `name` reads; its last part may be a function of the module before it."""
    files, path = [], ROOT
    for part in name.split("."):
        path = path / part
        files += [p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()]
    return files


def _wing(wing: str, named: set, found: set) -> list[Path]:
    folder = ROOT / "ecglib" / wing
    members = sorted(p for p in folder.glob("*.py") if p.name != "__init__.py")
    if folder / "__init__.py" not in found:
        return []
    chosen = [p for p in members if p.stem in named]
    return chosen if chosen or found & set(members) else members


def _strings(tree) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _built(tree) -> set[str]:
    """Names given as text to calls like encoders.build("net1d") and datasets.get("ludb")."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return {text for call in calls if call.func.attr in ("build", "get") for text in map(_text, call.args[:1]) if text}


def _text(node) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _tables(path: Path) -> set[Path]:
    """Files and folders beside the module that its text names, other than Python ones."""
    named = (path.parent / text for text in _strings(ast.parse(path.read_text())) if text and "\n" not in text)
    beside = {p for p in named if path.parent in p.parents and ".." not in p.parts and len(p.name) < 100 and p.exists()}
    return {p for p in beside if p.suffix != ".py" and not (p / "__init__.py").exists()}


def _empty(path: Path) -> bool:
    body = ast.parse(path.read_text()).body
    assigned = [node for node in body if not isinstance(node, ast.Expr | ast.Assign)]
    return path.name == "__init__.py" and not assigned


def code_of(notebook: Path) -> str:
    """The code cells of a notebook as one text."""
    cells = json.loads(Path(notebook).read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def section(file: Path, name: str) -> dict:
    """The dotted section `name` of params.yaml as flat parameters; raises EcgError that lists the sections."""
    import yaml

    values = yaml.safe_load(Path(file).read_text())
    for part in name.split("."):
        if not isinstance(values, dict) or part not in values:
            valid = ", ".join(values) if isinstance(values, dict) else "none below it"
            raise EcgError(f"no section {name!r}", file=file, field=part, fix=f"use one of: {valid}")
        values = values[part]
    return {key: value for key, value in values.items() if not isinstance(value, dict | list)}


def needs(args) -> list[str]:
    """Notebook and library files behind one parsed command (`run`, `pack`, `report`) of `python -m ecglib`."""
    if args.command == "run":
        given = execute.typed(args.notebook, args.given)
        values = {**execute.parameters(args.notebook), **given}.values()
        path = Path(args.notebook).resolve()
        return [os.path.relpath(path, ROOT), *closure(code_of(path), [v for v in values if isinstance(v, str)])]
    if args.command == "pack":
        return closure(f"from ecglib import cohort\nimport ecglib.datasets.{args.dataset}")
    return closure(f"import ecglib.{args.command}")


def stages(parse, root: Path = ROOT) -> dict[str, list[str]]:
    """Stage of dvc.yaml -> the notebook and library files it must list, with `${item.x}` where a matrix names a file.

    `parse` turns the words of a command after `python -m ecglib` into its arguments.
    """
    import yaml
    from dvc.repo import Repo

    raw = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    with Repo(root) as repo:
        resolved = [(s.name.split("@")[0], s.cmd) for s in repo.index.stages if hasattr(s, "name")]
    listed = {}
    for name, command in resolved:
        matrix = raw[name].get("matrix", {})
        words = shlex.split(command)
        files = {_template(file, matrix) for file in needs(parse(words[words.index("ecglib") + 1 :]))}
        listed[name] = sorted(set(listed.get(name, [])) | files, key=lambda file: (file.startswith("ecglib"), file))
    return listed


def _template(file: str, matrix: dict) -> str:
    wing, stem = Path(file).parent.name, Path(file).stem
    for key, values in matrix.items():
        if wing in WINGS and stem in values:
            return f"ecglib/{wing}/${{item.{key}}}.py"
    return file


def write_stages(parse, root: Path = ROOT) -> list[str]:
    """Put the computed files into the deps of dvc.yaml, keeping everything else; returns the stages that changed."""
    from ruamel.yaml import YAML

    yaml, path, changed = YAML(), root / "dvc.yaml", []
    yaml.width, yaml.preserve_quotes = 200, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = yaml.load(path.read_text())
    for name, files in stages(parse, root).items():
        deps = text["stages"][name]["deps"]
        wanted = files + [d for d in deps if not d.startswith(("ecglib/", "notebooks/"))]
        if list(deps) != wanted:
            deps[:] = wanted
            changed.append(name)
    with path.open("w") as file:
        yaml.dump(text, file)
    return changed


def real(data: Path, file: Path, parse) -> None:
    """Run the stages of section `real.stages` of params.yaml on the recordings under the folder `data`.

    A stage whose command, code, parameters and input files are those of its last good run is skipped. `parse`: as in
    `stages`. Raises EcgError for a missing folder and for a stage that fails.
    """
    import yaml

    if not Path(data).is_dir():
        raise EcgError("no such folder", file=data, field="DATA", fix="name the folder that holds the corpora")
    listed = yaml.safe_load(Path(file).read_text())["real"]["stages"]
    for number, (name, stage) in enumerate(listed.items(), 1):
        words = [word.replace("{data}", str(data)) for word in shlex.split(stage["cmd"])]
        args = parse(words)
        stamp = ROOT / "results/real/.stamps" / name
        mark = _mark(stage, args, data)
        if Path(args.out).exists() and stamp.exists() and stamp.read_text() == mark:
            print(f"({number}/{len(listed)}) {name}: nothing has changed", flush=True)
            continue
        print(f"({number}/{len(listed)}) {name}", flush=True)
        stamp.unlink(missing_ok=True)
        if subprocess.run([sys.executable, "-m", "ecglib", *words], cwd=ROOT).returncode:
            raise EcgError(f"stage {name} failed", fix="mend it and call again: finished stages are not repeated")
        stamp.parent.mkdir(parents=True, exist_ok=True)
        execute.write(stamp, mark)


def _mark(stage: dict, args, data: Path) -> str:
    """Fingerprint of all that a stage's result depends on. Raw recordings count by name, size and time of change."""
    values = [stage["cmd"], json.dumps(getattr(args, "given", {}), sort_keys=True, default=str)]
    values += [line for name in needs(args) for line in [name, *fingerprint(ROOT / name, content=True)]]
    for place in stage.get("deps", []):
        raw = place.startswith("{data}")
        values += fingerprint(ROOT / place.replace("{data}", str(data)), content=not raw)
    return hashlib.sha256("\0".join(values).encode()).hexdigest()


def fingerprint(place: Path, *, content: bool) -> list[str]:
    """One line per file under `place`: its name with the hash of its bytes, or with its size and time of change."""
    if not place.exists():
        raise EcgError("no such file or folder", file=place, fix="check DATA, or run the stage that makes it")
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    if not content:
        return [f"{os.path.relpath(p, place)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
    lines = []
    for path in files:
        with path.open("rb") as stream:
            lines.append(f"{os.path.relpath(path, place)} {hashlib.file_digest(stream, 'sha256').hexdigest()}")
    return lines
