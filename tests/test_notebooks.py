"""Notebooks: their form (static), and all of them executed through the pipeline with small numbers (smoke)."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ecglib import execute, pipeline

ROOT = pipeline.ROOT
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IMPORTS = {"numpy", "pandas", "torch", "matplotlib", "seaborn", "ecglib", *sys.stdlib_module_names}
ENDING = ["What we saw", "What this does not show", "Next"]

# Small numbers over those of params.yaml: a tiny study with every stage, task and method of the real one.
SMOKE = {
    "simulate": {"scale": 0.05},
    "pretrain": {"steps": 4, "batch_size": 8},
    "probe": {"subsets": 1},
    "external": {"n_resamples": 20},
    "figures": {"n_resamples": 20},
}


def cells(path: Path, kind: str = "") -> list[dict]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == (kind or c["cell_type"])]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS][:4] == ["01", "02", "03", "04"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> Path:
    return request.param


def test_is_stored_without_outputs_and_with_fixed_ids(notebook):
    content = json.loads(notebook.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert "version" not in content["metadata"].get("language_info", {})
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in ids)
    assert [c["id"] for c in content["cells"] if set(c["metadata"]) - {"tags"}] == [], "nbstripout --keep-id"
    assert [c["id"] for c in cells(notebook, "code") if c["outputs"] or c["execution_count"]] == [], (
        "nbstripout --keep-id"
    )


def test_opens_with_a_question_and_ends_with_what_it_showed(notebook):
    first, *_, last = cells(notebook)
    heading = source(first).splitlines()[0]
    assert heading.startswith("# ") and heading.endswith("?")
    assert re.search(r"(?i)minute|second", source(first) + source(cells(notebook)[1])), (
        "say how long it runs on 2 cores"
    )
    closing = "\n".join(source(c) for c in cells(notebook, "markdown"))
    found = [name for name in ENDING if re.search(rf"^#+ {name}\s*$", closing, re.MULTILINE)]
    assert found == ENDING and last["cell_type"] == "markdown"


def test_has_flat_parameters_with_a_unit_or_meaning_each(notebook):
    values = execute.parameters(notebook)
    assert all(type(value) in (int, float, str, bool) for value in values.values())
    assert values["out_dir"].startswith("../results/scratch/")
    tagged = next(c for c in cells(notebook, "code") if "parameters" in c["metadata"].get("tags", []))
    bare = [line for line in source(tagged).splitlines() if line.strip() and "#" not in line]
    assert bare == [], "each parameter needs a comment behind it"


def test_code_is_short_and_belongs_elsewhere_when_it_is_not(notebook):
    code = [source(cell) for cell in cells(notebook, "code")]
    assert len(cells(notebook)) <= 40
    assert [text.splitlines()[0] for text in code if len(text.splitlines()) > 25] == []
    tree = ast.parse("\n\n".join(code))  # a magic is no Python
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno + 1 > 5] == []
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= IMPORTS


def test_explains_itself(notebook):
    words = sum(len(source(cell).split()) for cell in cells(notebook, "markdown"))
    lines = sum(1 for cell in cells(notebook, "code") for line in source(cell).splitlines() if line.strip())
    assert words >= 4 * lines, f"{words} words for {lines} lines of code"


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The whole study with the sizes of SMOKE, once: a copy of the tree without git, its data, and `dvc repro`."""
    folder = tmp_path_factory.mktemp("smoke") / "study"
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "cache", "tmp")
    for name in ("ecglib", "notebooks", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("dvc.yaml", ".dvcignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in SMOKE.items():
        params[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    call(folder, sys.executable, "-m", "ecglib", "generate", "--out", "data", "--params", "simulate")
    call(folder, "dvc", "repro")
    return folder


def call(folder: Path, *words: str) -> str:
    """Run a command of the environment of these tests in `folder`; its output, shown when it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "DVC_SITE_CACHE_DIR": str(folder.parent / "site")}
    done = subprocess.run(
        words, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def test_the_whole_study_runs_and_a_second_call_does_nothing(study):
    stages = yaml.safe_load((study / "dvc.lock").read_text())["stages"]
    for name, stage in stages.items():
        for out in stage.get("outs", []):
            assert (study / out["path"]).exists(), name
    assert not list((study / "results").rglob("*.part"))
    assert "up to date" in call(study, "dvc", "status")
    assert "Running stage" not in call(study, "dvc", "repro")


def test_each_notebook_is_executed_into_a_page_without_paths_of_this_machine(study):
    for path in NOTEBOOKS:
        copies = list((study / "results").rglob(path.name))
        assert copies, path.name
        for copy in copies:
            text = copy.with_suffix(".html").read_text() + copy.read_text()
            assert str(study) not in text and str(ROOT) not in text and ".part" not in text
            assert '"output_type": "error"' not in text


def test_a_forced_rerun_changes_no_hash(study):
    before = (study / "dvc.lock").read_text()
    raw = yaml.safe_load((study / "dvc.yaml").read_text())["stages"]
    locked = list(yaml.safe_load(before)["stages"])
    first = [next(name for name in locked if name.split("@")[0] == stage) for stage in raw]  # one of each matrix
    call(study, "dvc", "repro", "--force", "--single-item", *first)
    assert (study / "dvc.lock").read_text() == before
