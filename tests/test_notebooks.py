"""Notebooks: their form (static), and all of them executed through the pipeline with small numbers (smoke)."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from ecglib import checkpoint, cohort, datasets, execute, pipeline, simulate, train

ROOT = pipeline.ROOT
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IMPORTS = {"numpy", "pandas", "torch", "matplotlib", "seaborn", "ecglib", *sys.stdlib_module_names}
ENDING = ["What we saw", "What this does not show", "Next"]

# Small numbers over those of params.yaml: a tiny study with every stage, task and method of the real one.
SMOKE = {
    "simulate": {"scale": 0.08},
    "pretrain": {"warmup": 1, "batch_size": 8, "min_positives": 2},
    **{f"methods.{name}": {"steps": 6} for name in ("supervised", "clef", "melp", "heartbeats", "heartlang")},
    "probe": {"fractions": "0.5,1.0", "seeds": 1, "epochs": 1, "min_steps": 2, "min_positives": 4},
    "tasks.probe.single": {"label_names": "SR,AFIB,PAC"},
    "published.models": {"models": "clef_small,merl"},
    "external": {"n_resamples": 20},
    "figures": {"n_resamples": 20, "min_positives": 2, "fraction": 0.5},
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


# Of the matrices: a method with labels, with metadata, with reports, in two stages; each has tests of its own.
MATRIX = {
    "pretrain": ["supervised", "clef", "melp", "heartbeats"],
    "pretrain-single": ["clef"],
    "probe": ["supervised", "clef", "melp", "heartlang"],
    "probe-single": ["clef"],
}


def found(params: dict, name: str) -> dict:
    """The dotted section `name` itself, to change."""
    for part in name.split("."):
        params = params[part]
    return params


def test_the_small_numbers_stand_for_numbers_of_the_study():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert [f"{name}.{key}" for name, values in SMOKE.items() for key in values if key not in found(params, name)] == []


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The study with the sizes of SMOKE, once: a copy of the tree without git, its data, what `make repro` calls."""
    folder = tmp_path_factory.mktemp("smoke") / "study"
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "cache", "tmp")
    for name in ("ecglib", "notebooks", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in (".dvcignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    text = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    for name, methods in MATRIX.items():
        text["stages"][name]["matrix"]["objective"] = methods
    (folder / "dvc.yaml").write_text(yaml.safe_dump(text, sort_keys=False))
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, values in SMOKE.items():
        found(params, name).update(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    call(folder, sys.executable, "-m", "ecglib", "generate", "--out", "data", "--params", "simulate")
    call(folder, sys.executable, "-m", "ecglib", "repro")
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
            assert str(study) not in text and str(ROOT) not in text and not re.search(r"\.part\b", text)
            assert '"output_type": "error"' not in text


def test_a_forced_rerun_changes_no_hash(study):
    before = (study / "dvc.lock").read_text()
    raw = yaml.safe_load((study / "dvc.yaml").read_text())["stages"]
    locked = list(yaml.safe_load(before)["stages"])
    kinds = [stage for stage in raw if not stage.endswith("-single")]  # the same notebooks
    first = [next(name for name in locked if name.split("@")[0] == stage) for stage in kinds]  # one of each matrix
    trained = next(name for name in locked if "scratch" in name)
    call(study, "dvc", "repro", "--force", "--single-item", *dict.fromkeys([*first, trained]))
    assert (study / "dvc.lock").read_text() == before


def test_a_pretraining_that_is_killed_goes_on_and_ends_with_the_same_bytes(tmp_path):
    """kill -9 of the stage and of its kernel after the first checkpoint; every file is compared, the page included."""
    simulate.generate(tmp_path / "data", hospitals=("A",), workers=1, scale=0.03)
    options = {"options": {"hospital": "A"}, "workers": 1}
    cohort.pack("A", datasets.get("simulated"), tmp_path / "data", tmp_path / "cohorts/A", **options)
    out, part = tmp_path / "out", tmp_path / "out.part"
    words = [sys.executable, "-m", "ecglib", "run", str(ROOT / "notebooks/02_pretraining.ipynb"), "--out", str(out)]
    given = {"cohort_dir": tmp_path / "cohorts/A", "steps": 60, "warmup": 2, "batch_size": 8, "min_positives": 2}
    words += [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    call(ROOT, *words)
    whole = {p.name: p.read_bytes() for p in out.iterdir()}
    shutil.rmtree(out)

    stage = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (part / train.CHECKPOINT).exists():
        assert stage.poll() is None, "it ended without a checkpoint"
        time.sleep(0.01)
    processes = [psutil.Process(stage.pid), *psutil.Process(stage.pid).children(recursive=True)]
    for process in processes:
        process.kill()
    stage.wait()
    psutil.wait_procs(processes)
    assert (part / train.CHECKPOINT).exists() and not out.exists()
    done = checkpoint.read(part / train.CHECKPOINT)[1]["step"]

    shown = [int(step) for step in re.findall(r"'step': (\d+)", call(ROOT, *words))]
    assert shown and min(shown) > done > 0
    assert {p.name: p.read_bytes() for p in out.iterdir()} == whole and not part.exists()
