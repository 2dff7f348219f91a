"""What a stage of the study depends on.

dvc.yaml lists for every stage its notebook and exactly the modules behind it; `closure` computes that list from the
source text, so that a change of a plot does not train anything again. The command line and `execute` are left out:
they carry files and parameters to the notebooks and compute no number.
"""

import ast
import hashlib
import json
import os
import shlex
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from ecglib import execute
from ecglib.signals import EcgError

ROOT = Path(__file__).resolve().parent.parent
WINGS = ("datasets", "encoders", "objectives", "zoo")  # rooms whose files are looked up by name


def closure(code: str, strings=()) -> list[str]:
    """Files of ecglib, relative to the repository, that the Python text `code` imports, directly or not.

    In a wing (encoders, objectives, datasets) a file counts when it is imported, when `strings` (parameter values) or a
    text in `code` name it, or when a module builds it by name; a wing that is used without any name counts whole. Of
    the zoo the families of models named "zoo:..." count, and all where the code asks for the table of models.
    Tables count with the module that names them. A package's __init__ with nothing but a docstring is left out.
    """
    found, queue = set(), [(code, "ecglib")]
    named = {*strings, *_words(code)}
    while queue:
        text, package = queue.pop()
        imported, built = _facts(text, package)
        named |= built
        fresh = [p for name in imported for p in _files(name)]
        fresh += [p for wing in WINGS for p in _wing(wing, named, {*found, *fresh})]
        for path in dict.fromkeys(fresh):
            if path not in found:
                found.add(path)
                queue.append((path.read_text(), _package(path)))
    tables = {table for path in found for table in _tables(path)}
    return sorted(os.path.relpath(p, ROOT) for p in {p for p in found if not _empty(p)} | tables)


@lru_cache(maxsize=1024)
def _facts(text: str, package: str) -> tuple[frozenset, frozenset]:
    """What a text imports and what it builds by name; remembered, since many stages ask for the same files."""
    tree = ast.parse(text)
    return frozenset(_imports(tree, package)), frozenset(_built(tree))


@lru_cache(maxsize=1024)
def _words(text: str) -> frozenset:
    return frozenset(_strings(ast.parse(text)))


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
    if wing == "zoo":
        models = [name.removeprefix("zoo:") for name in named if name.startswith("zoo:")]
        return [p for p in members if "zoo.table" in named or any(f"{m}_".startswith(f"{p.stem}_") for m in models)]
    chosen = [p for p in members if p.stem in named]
    return chosen if chosen or found & set(members) else members


def _strings(tree) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _built(tree) -> set[str]:
    """Names given as text to calls like encoders.build("net1d") and datasets.get("ludb"), and the constant ENCODER."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    built = {text for call in calls if call.func.attr in ("build", "get") for text in map(_text, call.args[:1]) if text}
    stated = [n for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "ENCODER"]
    tabled = {"zoo.table" for call in calls if ast.unparse(call.func) == "zoo.table"}
    return built | {_text(node.value) for node in stated} | tabled


def _text(node) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _tables(path: Path) -> set[Path]:
    """Files and folders beside the module that its text names, other than Python ones."""
    named = (path.parent / text for text in _words(path.read_text()) if text and "\n" not in text)
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
        if wing in WINGS and wing != "zoo" and stem in values:
            return f"ecglib/{wing}/${{item.{key}}}.py"
    return file


def write_methods(root: Path = ROOT) -> list[str]:
    """Give every objective its section of params.yaml and its place in the matrices of dvc.yaml; returns the new ones.

    One that starts from another's artefact is pretrained second; what is only such a start is not probed.
    """
    from dvc.utils.serialize import modify_yaml

    from ecglib import objectives  # here, since it loads torch, which other commands do without

    names = objectives.names()
    later = {name: objectives.fact(name, "FIRST") for name in names}
    with modify_yaml(str(root / "params.yaml")) as params:
        new = [name for name in names if name not in params["methods"]]
        params["methods"].update({name: {} for name in new})
    wanted = {
        "pretrain": [name for name in names if not later[name]],
        "pretrain-second": [name for name in names if later[name]],
        "probe": [name for name in names if name not in later.values()],
    }
    with _edited(root / "dvc.yaml") as text:
        for stage, members in wanted.items():
            there = text["stages"][stage]["matrix"]["objective"]
            there[:] = [n for n in there if n in members] + [n for n in members if n not in there]
    return new


def write_stages(parse, root: Path = ROOT) -> list[str]:
    """Put the computed files into the deps of dvc.yaml, keeping everything else; returns the stages that changed."""
    changed = []
    with _edited(root / "dvc.yaml") as text:
        for name, files in stages(parse, root).items():
            deps = text["stages"][name]["deps"]
            wanted = files + [d for d in deps if not d.startswith(("ecglib/", "notebooks/"))]
            if list(deps) != wanted:
                deps[:] = wanted
                changed.append(name)
    return changed


@contextmanager
def _edited(path: Path):
    """The content of a YAML file to change in place; comments and style stay."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 200, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = yaml.load(path.read_text())
    yield text
    with path.open("w") as file:
        yaml.dump(text, file)


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
