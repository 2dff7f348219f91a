"""Notebooks: their form (static), and all of them executed through the pipeline with small numbers (smoke)."""

import ast
import json
import re
import shutil
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

import psutil
import pytest
import small_study
import torch
import yaml
from small_study import SMOKE, section
from study_tree import call

from ecglib import EcgError, datasets
from ecglib.data import cohort
from ecglib.data.files import sha256
from ecglib.pipeline import notebooks, schedule
from ecglib.pipeline import stages as pipeline
from ecglib.training import checkpoint, train
from ecglib.zoo import dummy
from ecglib.zoo.card import released
from ecgsim import hospitals

ROOT = pipeline.ROOT
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IMPORTS = {"IPython", "numpy", "pandas", "torch", "matplotlib", "seaborn", "ecglib", *sys.stdlib_module_names}
IMPORTS |= {"ecgsim"}  # for patients who are simulated while an encoder learns
ENDING = ["What we saw", "What this does not show", "Next"]


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
    parts = [name for name in ENDING if re.search(rf"^#+ {name}\s*$", closing, re.MULTILINE)]
    assert parts == ENDING and last["cell_type"] == "markdown"


def test_has_parameters_with_a_unit_or_meaning_each(notebook):
    values = notebooks.parameters(notebook)
    assert values["out_dir"].startswith("../results/scratch/")
    tagged = next(c for c in cells(notebook, "code") if "parameters" in c["metadata"].get("tags", []))
    lines = [line for line in source(tagged).splitlines() if line.strip() and not line.startswith((" ", "}", "]"))]
    bare = [line for line in lines if "#" not in line]
    assert bare == [], "each parameter needs a comment behind it"


def test_code_is_short_and_belongs_elsewhere_when_it_is_not(notebook):
    code, tagged = [source(cell) for cell in cells(notebook, "code")], cells(notebook, "code")
    assert len(cells(notebook)) <= 40
    limits = [30 if "parameters" in cell["metadata"].get("tags", []) else 25 for cell in tagged]
    assert [
        text.splitlines()[0] for text, most in zip(code, limits, strict=True) if len(text.splitlines()) > most
    ] == []
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


def test_the_small_numbers_stand_for_numbers_of_the_study():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert [
        f"{name}.{key}" for name, values in SMOKE.items() for key in values if key not in section(params, name)
    ] == []


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return small_study.finished(tmp_path_factory, "notebooks")


def test_the_whole_study_runs_and_a_second_call_does_nothing(study):
    stages = yaml.safe_load((study / "dvc.lock").read_text())["stages"]
    for name, stage in stages.items():
        for out in stage.get("outs", []):
            assert (study / out["path"]).exists(), name
    assert not list((study / "results").rglob("*.part"))
    assert "up to date" in call(study, "dvc", "status")
    assert "nothing has changed" in call(study, sys.executable, "-m", "ecglib", "repro")
    assert "Running stage" not in call(study, "dvc", "repro")


NO_DEP = ("ecglib/__init__.py", "ecglib/__main__.py", "ecglib/pipeline/")  # they carry files, and compute no number


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_what_it_loads_and_on_nothing_else(study, stage):
    """A missing dependency would leave a wrong result in place, a needless one repeats work for nothing."""
    content = STAGES[stage].get("do", STAGES[stage])
    deps = [re.sub(r"\$\{.*?\}", "*", dep) for dep in content["deps"] if dep.startswith("ecglib/")]
    modules = set((study / f"trace/{stage}.txt").read_text().split())
    paths = [study / name.replace(".", "/") for name in modules]
    files = [file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()]
    loaded = {file.relative_to(study).as_posix() for file in files}
    loaded = {name for name in loaded if not name.startswith(NO_DEP)}
    covers = {dep: {n for n in loaded if fnmatch(n, dep) or n.startswith(f"{dep}/")} for dep in deps}
    assert sorted(loaded - set().union(*covers.values())) == [], f"{stage} loads what it does not depend on"
    assert [dep for dep, names in covers.items() if not names] == [], f"{stage} depends on what it does not load"


def test_each_notebook_is_executed_into_a_page_without_paths_of_this_machine(study):
    for path in NOTEBOOKS:
        copies = list((study / "results").rglob(path.name))
        assert copies, path.name
        for copy in copies:
            page = copy.with_suffix(".html") if path.stem != "21_report" else copy.with_name("index.html")
            text = page.read_text() + copy.read_text()
            assert str(study.parents[1]) not in text and str(ROOT) not in text and not re.search(r"\w\.part\b", text)
            assert '"output_type": "error"' not in text


# Stages that pack, train, fine-tune, run a published network, draw ECGs and draw the paper's figures.
AGAIN = ("pack", "explore", "pretrain", "pretrain-heartlang", "baseline", "finetune", "probe", "published", "figures")


def test_stages_give_the_same_bytes_again(study):
    """Without its results, which DVC's cache has lost as well, a stage computes again; `.ci/run` does so for all."""
    before = (study / "dvc.lock").read_text()
    locked = yaml.safe_load(before)["stages"]
    again = [next(name for name in locked if name.split("@")[0] == stage) for stage in AGAIN]
    again += [name for name in locked if "scratch" in name and name not in again][:1]
    for name in again:
        for out in locked[name]["outs"]:
            shutil.rmtree(study / out["path"])
            (study / f".dvc/cache/files/md5/{out['md5'][:2]}/{out['md5'][2:]}").unlink()
    call(study, sys.executable, "-m", "ecglib", "repro")
    assert (study / "dvc.lock").read_text() == before
    logs = {name: study / schedule.LOGS / f"{name}.log" for name in again}
    assert [name for name, log in logs.items() if "Running stage" not in log.read_text()] == []


def until_settings(path: Path, values: dict) -> str:
    """The code of a notebook with other parameters, up to the cell right behind them (of the paper's, the next too)."""
    code = cells(path, "code")
    at = next(i for i, cell in enumerate(code) if "parameters" in cell["metadata"].get("tags", []))
    given = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    behind = code[at + 1 : at + 3] if path.stem == "20_paper_figures" else code[at + 1 : at + 2]
    return "\n\n".join([*map(source, code[: at + 1]), given, *map(source, behind)])


MISSPELT = [
    ("01_data_exploration", {"gallery": ["NORM", "AFBI"]}, "AFIB"),
    ("01_data_exploration", {"cohorts": ["A", "BB"]}, "B"),
    ("02_pretraining", {"objective": "supervisd"}, "supervised"),
    ("02_pretraining", {"encoder": "net1"}, "net1d"),
    ("02_pretraining", {"task": "twleve"}, "twelve"),
    ("03_linear_probing", {"method": "randm"}, "random"),
    ("03_linear_probing", {"method": "zoo:merll"}, "merl"),
    ("03_linear_probing", {"label_names": ["AFBI"]}, "AFIB"),
    ("03_linear_probing", {"scratch_encoder": "net1"}, "net1d"),
    ("04_external_evaluation", {"rule": "yoden"}, "youden"),
    ("04_external_evaluation", {"methods": ["randon"]}, "random"),
    ("04_external_evaluation", {"shown": "clfe"}, "clef"),
    ("04_external_evaluation", {"task": "twleve"}, "twelve"),
    ("05_published_models", {"models": ["merll"]}, "merl"),
    ("05_published_models", {"labels": ["AFBI"]}, "AFIB"),
    ("05_published_models", {"checkpoint": {"clef_smal": "x"}}, "clef_small"),
    ("07_one_ecg", {"order": "wrnog"}, "wrong"),
    ("07_one_ecg", {"judged": "clfe"}, "clef"),
    ("07_one_ecg", {"patients": "tset"}, "test"),
    ("08_rhythm_and_beats", {"searched_by": ["sleepeg"]}, "sleepecg"),
    ("08_rhythm_and_beats", {"candidates": {"x": {"group": "rythm"}}}, "rhythm"),
    ("09_robustness", {"shown": "simlcr"}, "simclr"),
    ("10_explanation", {"shown": "supervisd"}, "supervised"),
    ("10_explanation", {"statements": ["AFBI"]}, "AFIB"),
    ("11_waves_and_leads", {"size": "smal"}, "small"),
    ("11_waves_and_leads", {"loss": "jacard"}, "jaccard"),
    ("12_language_and_neighbours", {"searched": ["measur"]}, "measure"),
    ("12_language_and_neighbours", {"task": "twleve"}, "twelve"),
    ("14_noise", {"compared": "HRV and morphologie"}, "HRV and morphology"),
    ("14_noise", {"classifiers": ["logistik"]}, "logistic"),
    ("14_noise", {"definition": "by_beat"}, "by_beats"),
    ("16_generation", {"size": "smal"}, "small"),
    ("16_generation", {"given": ["II", "V1", "V55"]}, "V5"),
    ("20_paper_figures", {"methods": ["randon"]}, "random"),
]


@pytest.mark.parametrize(("name", "values", "meant"), MISSPELT, ids=lambda value: str(value))
def test_a_misspelt_name_stops_right_behind_the_parameter_cell(study, monkeypatch, name, values, meant):
    monkeypatch.chdir(study / "notebooks")
    with pytest.raises(EcgError, match=re.escape(f"did you mean {meant!r}?")):
        exec(until_settings(study / f"notebooks/{name}.ipynb", values), {})


def test_what_no_misspelling_is_about_passes_these_cells(study, monkeypatch):
    monkeypatch.chdir(study / "notebooks")
    names = {}
    exec(until_settings(study / "notebooks/07_one_ecg.ipynb", {}), names)
    assert names["out"] == Path("../results/scratch/one_ecg") and names["judged"] == names["leaders"][0]


def test_a_checkpoint_that_lies_here_is_read_by_both_notebooks_of_published_models(study, monkeypatch, tmp_path):
    monkeypatch.chdir(study / "notebooks")
    shapes, file = released("clef_small"), tmp_path / "clef_small.ckpt"
    torch.save({"state_dict": {f"backbone.{key}": dummy.fill(key, *shape) for key, shape in shapes.items()}}, file)
    names, given = {}, {"method": "zoo:clef_small", "checkpoint": str(file)}
    exec(until_settings(study / "notebooks/03_linear_probing.ipynb", given), names)
    assert names["model"].weights == "published" and names["warning"] == ""
    with pytest.raises(EcgError, match=r"did you mean 'clef_small\.ckpt'"):
        exec(until_settings(study / "notebooks/03_linear_probing.ipynb", given | {"checkpoint": str(file)[:-1]}), {})
    given, names = {"models": ["clef_small"], "checkpoint": {"clef_small": str(file)}}, {}
    path = study / "notebooks/05_published_models.ipynb"
    load = next(source(cell) for cell in cells(path, "code") if "evaluate.load" in source(cell))
    exec(until_settings(path, given) + f"\n\n{load}", names)
    assert names["dummies"] == [] and names["loaded"]["clef_small"].content == sha256(file)


def test_a_pretraining_that_is_killed_goes_on_and_ends_with_the_same_bytes(tmp_path):
    """kill -9 of the stage and of its kernel after the first checkpoint; every file is compared, the page included."""
    hospitals.generate(tmp_path / "data", hospitals=("A",), workers=1, scale=0.03)
    options = {"options": {"hospital": "A"}, "workers": 1}
    cohort.pack("A", datasets.get("simulated"), tmp_path / "data", tmp_path / "cohorts/A", **options)
    out, part = tmp_path / "out", tmp_path / "out.part"
    words = [sys.executable, "-m", "ecglib", "run", str(ROOT / "notebooks/02_pretraining.ipynb"), "--out", str(out)]
    given = {
        "cohorts": {str(tmp_path / "cohorts/A"): ["pretrain"]},
        "steps": 60,
        "warmup": 2,
        "batch_size": 8,
        "min_positives": 2,
    }
    words += [word for name, value in given.items() for word in ("-p", f"{name}={json.dumps(value)}")]
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

    shown = [int(step) for step in re.findall(r"(\d+)/60 \[", call(ROOT, *words))]
    assert shown and min(shown) >= done > 0
    assert {p.name: p.read_bytes() for p in out.iterdir()} == whole and not part.exists()
