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
    """Files behind one parsed command: what its function in __main__.py imports, the notebook, what that imports."""
    code, values, files = _handler(args.command), [getattr(args, "dataset", "")], []
    if args.command == "run":
        code += "\n" + code_of(args.notebook)
        values += [v for v in _values(args).values() if isinstance(v, str)]
        files = [os.path.relpath(Path(args.notebook).resolve(), ROOT)]
    return [*files, *closure(code, values)]


def _handler(command: str) -> str:
    """Import statements in the function `command` of __main__.py and in the functions there that it calls."""
    tree = ast.parse(Path(__file__).with_name("__main__.py").read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    seen, queue = {}, [command]
    while queue:
        name = queue.pop()
        seen[name] = list(ast.walk(functions[name]))
        called = {node.id for node in seen[name] if isinstance(node, ast.Name)} & functions.keys()
        queue += sorted(called - seen.keys() - set(queue))
    imports = [node for nodes in seen.values() for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in imports)


def _values(args) -> dict:
    """All parameters of the notebook of a parsed `run`: the given ones and the other defaults."""
    return {**execute.parameters(args.notebook), **execute.typed(args.notebook, args.given)}


def inputs(args) -> list[Path]:
    """Files and folders that a parsed command reads besides code.

    For `run` every path in a text parameter (or several, with commas); for the others --root with what an option names
    beside it, and --results.
    """
    if args.command == "run":
        texts = [v for name, v in _values(args).items() if isinstance(v, str) and name != "out_dir"]
        paths = [part for text in texts for part in text.split(",") if "/" in part]
        found = [Path(args.notebook).resolve().parent / path for path in paths]
    else:
        found = [ROOT / getattr(args, name) for name in ("root", "results") if hasattr(args, name)]
        options = [text.split("=", 1)[-1] for text in getattr(args, "option", [])]
        found += [found[0] / text for text in options if text.startswith("../")]
    return [Path(os.path.normpath(place)) for place in found]


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
    `stages`. Raises EcgError for what is missing, before the first stage, and for a stage that fails.
    """
    import yaml

    data = Path(data).resolve()
    if not data.is_dir():
        raise EcgError("no such folder", file=data, field="DATA", fix="name the folder that holds the corpora")
    listed = yaml.safe_load(Path(file).read_text())["real"]["stages"]
    words = {name: [w.replace("{data}", str(data)) for w in shlex.split(s["cmd"])] for name, s in listed.items()}
    parsed = {name: parse(command) for name, command in words.items()}
    _demand([(_places(stage, parsed[name], data), parsed[name].out) for name, stage in listed.items()], data)
    for number, (name, stage) in enumerate(listed.items(), 1):
        stamp = ROOT / "results/real/.stamps" / name
        mark = _mark(stage, parsed[name], data)
        if (ROOT / parsed[name].out).exists() and stamp.exists() and stamp.read_text() == mark:
            print(f"({number}/{len(listed)}) {name}: nothing has changed", flush=True)
            continue
        print(f"({number}/{len(listed)}) {name}", flush=True)
        stamp.unlink(missing_ok=True)
        if subprocess.run([sys.executable, "-m", "ecglib", *words[name]], cwd=ROOT).returncode:
            raise EcgError(f"stage {name} failed", fix="mend it and call again: finished stages are not repeated")
        stamp.parent.mkdir(parents=True, exist_ok=True)
        execute.write(stamp, mark)


def _places(stage: dict, args, data: Path) -> list[Path]:
    """Input files and folders of a stage: those it lists and those its command reads."""
    listed = {Path(os.path.normpath(ROOT / dep.replace("{data}", str(data)))) for dep in stage.get("deps", [])}
    return sorted(listed | set(inputs(args)))


def _demand(stages: list[tuple[list[Path], str]], data: Path) -> None:
    """Raise EcgError that names every input which is not there and which no earlier stage makes."""
    made, lost = [], []
    for places, out in stages:
        found = [p for p in places if p.exists() or any(p == m or p in m.parents or m in p.parents for m in made)]
        lost += [place for place in places if place not in {*found, *lost}]
        made.append(ROOT / out)
    raw = [os.path.relpath(place, data) for place in lost if data in (place, *place.parents)]
    if raw:
        fix = "put it there as PhysioNet publishes it, or take its stages out of params.yaml"
        raise EcgError(f"there is no {', no '.join(raw)}", file=data, field="DATA", fix=fix)
    if names := ", ".join(os.path.relpath(place, ROOT) for place in lost):
        raise EcgError(f"not there yet: {names}", fix="run `make repro` first: the encoders come from it")


def _mark(stage: dict, args, data: Path) -> str:
    """Fingerprint of all that a stage's result depends on. Raw recordings count by name, size and time of change."""
    values = [stage["cmd"], json.dumps(getattr(args, "given", {}), sort_keys=True, default=str)]
    values += [line for name in needs(args) for line in [name, *fingerprint(ROOT / name, content=True)]]
    places = _places(stage, args, data)
    for place in (p for p in places if not set(p.parents) & set(places)):  # those inside another count with it
        values += fingerprint(place, content=data not in (place, *place.parents), without=ROOT / args.out)
    return hashlib.sha256("\0".join(values).encode()).hexdigest()


def fingerprint(place: Path, *, content: bool, without: Path | None = None) -> list[str]:
    """One line per file under `place`: its name with the hash of its bytes, or with its size and time of change.

    Left out are the folder `without`, hidden files, and the .part and .old folders of interrupted runs.
    """
    if not place.exists():
        raise EcgError("no such file or folder", file=place, fix="check DATA, or run the stage that makes it")
    lines = []
    for path in sorted([place, *place.rglob("*")]):
        inner = path.relative_to(place).parts
        left = any(part.startswith(".") or part.endswith((".part", ".old")) for part in inner)
        if left or without in path.parents or not path.is_file():
            continue
        mark = f"{path.stat().st_size} {path.stat().st_mtime_ns}"
        if content:
            with path.open("rb") as stream:
                mark = hashlib.file_digest(stream, "sha256").hexdigest()
        lines.append(f"{os.path.relpath(path, place)} {mark}")
    return lines
