"""dvc.yaml says what each stage depends on; the same holds for the lock, for the real study, and for a DVC remote."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ecglib import pipeline
from ecglib.__main__ import arguments, main
from ecglib.signals import EcgError

ROOT = pipeline.ROOT
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
CODE = ("ecglib/", "notebooks/")


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """A small library, with a wing, a table and a lazy import, in the place of the real one."""
    files = {
        "__init__.py": '"""Words only."""\n__version__ = "1"\n',
        "signals.py": "X = 1\n",
        "plots.py": "from ecglib.signals import X\n",
        "labels.py": "from pathlib import Path\nCODES = Path(__file__).parent / 'vocabulary'\n",
        "train.py": "import ecglib.labels\n\ndef fit():\n    from . import encoders\n    encoders.build('net')\n",
        "encoders/__init__.py": "import importlib\n",
        "encoders/net.py": "from ecglib.signals import X\n",
        "encoders/big.py": "from .net import X\n",
        "objectives/__init__.py": "import importlib\n",
        "objectives/jepa.py": "from .. import plots\n",
        "objectives/clef.py": "",
        "vocabulary/scp.csv": "code\n",
    }
    for name, text in files.items():
        path = tmp_path / "ecglib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(pipeline, "ROOT", tmp_path)
    return tmp_path


def short(files: list[str]) -> str:
    return " ".join(file.removeprefix("ecglib/").removesuffix(".py") for file in files)


@pytest.mark.parametrize(
    "code, strings, expected",
    [
        ("import numpy", (), ""),
        ("import ecglib", (), ""),
        ("from ecglib.signals import X", (), "signals"),
        ("from ecglib import plots as p", (), "plots signals"),
        ("def f():\n    import ecglib.plots", (), "plots signals"),
        ("from ecglib import labels", (), "labels vocabulary"),
        ("from ecglib import train", (), "encoders/__init__ encoders/net labels signals train vocabulary"),
        ("from ecglib.encoders import big", (), "encoders/__init__ encoders/big encoders/net signals"),
        ("from ecglib import objectives", ("clef",), "objectives/__init__ objectives/clef"),
        ("from ecglib import objectives", ("jepa", "plots"), "objectives/__init__ objectives/jepa plots signals"),
        ("from ecglib import objectives\nobjectives.build('clef')", (), "objectives/__init__ objectives/clef"),
        ("import ecglib.encoders as e\ne.load(path)", (), "encoders/__init__ encoders/big encoders/net signals"),
    ],
)
def test_closure_follows_imports_lookups_and_tables(tree, code, strings, expected):
    assert short(pipeline.closure(code, strings)) == expected


@pytest.mark.parametrize("room", ["cohort", "train", "probe", "report"])
def test_closure_covers_what_python_loads(room):
    code = f"import ecglib.{room}, sys; print(*[m.__file__ for n, m in sys.modules.items() if n.startswith('ecglib.')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {str(Path(file).relative_to(ROOT)) for file in done.stdout.split()}
    empty = {name for name in loaded if pipeline._empty(ROOT / name)}
    assert loaded - empty <= set(pipeline.closure(f"import ecglib.{room}"))


def test_a_command_needs_what_its_function_imports():
    page, pack = (
        pipeline.needs(arguments(words)) for words in (["report"], "pack A --dataset ludb --root d --out o".split())
    )
    assert {f"ecglib/{room}.py" for room in ("study", "plots", "look", "report", "predictions")} <= set(page)
    assert {f"ecglib/{room}.py" for room in ("cohort", "packing", "preprocess", "datasets/ludb")} <= set(pack)
    assert not {f"ecglib/{room}.py" for room in ("study", "train", "datasets/simulated")} & set(pack)


@pytest.fixture(scope="module")
def listed() -> dict[str, list[str]]:
    assert Path.cwd() == ROOT, "run pytest in the repository's top folder"
    return pipeline.stages(arguments)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_its_notebook_and_exactly_the_modules_behind_it(listed, stage):
    assert [d for d in STAGES[stage]["deps"] if d.startswith(CODE)] == listed[stage], "python -m ecglib deps --write"


def test_deps_are_written_where_one_is_missing_and_nothing_else_is_touched(tmp_path, listed):
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    (tmp_path / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    text = (ROOT / "dvc.yaml").read_text()
    (tmp_path / "dvc.yaml").write_text(text.replace("      - ecglib/cohort.py\n", "", 1))
    assert pipeline.write_stages(arguments, tmp_path) == ["pack"]
    assert (tmp_path / "dvc.yaml").read_text() == text


def test_a_plot_does_not_train_or_probe_anything_again(listed):
    for stage in ("pack", "pretrain", "baseline", "probe"):
        assert "ecglib/plots.py" not in listed[stage], stage


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_its_parameters_its_result_and_existing_inputs(stage):
    content = STAGES[stage]
    words = shlex.split(content["cmd"])
    sections = [words[i + 1] for i, word in enumerate(words) if word == "--params"]
    listed = content.get("params", [])
    assert [p for p in listed if not any(within(s, p) for s in sections)] == []
    assert [s for s in sections if not any(within(s, p) for p in listed)] == []
    for section in expanded(content, sections):
        assert pipeline.section(ROOT / "params.yaml", section), section
    (out,) = content["outs"]
    assert out.startswith("results/") and words[words.index("--out") + 1] == out
    made = [out for other in STAGES.values() for out in expanded(other, other["outs"])]
    for dep in expanded(content, content["deps"]):
        if dep.startswith("results/"):
            assert any(out == dep or out.startswith(f"{dep}/") for out in made), f"no stage makes {dep}"
        elif dep.startswith(CODE):
            assert (ROOT / dep).exists(), dep


def within(section: str, listed: str) -> bool:
    """Whether the dotted `section` is `listed` or a part of it."""
    return f"{section}.".startswith(f"{listed}.")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_every_folder_that_its_command_reads(stage):
    content = STAGES[stage]
    deps = [ROOT / dep for dep in expanded(content, content["deps"])]
    for command in expanded(content, [content["cmd"]]):
        words = shlex.split(command)
        for place in pipeline.inputs(arguments(words[words.index("ecglib") + 1 :])):
            assert any(place == d or place in d.parents or d in place.parents for d in deps), f"{place}: {command}"


def expanded(stage: dict, paths: list[str]) -> list[str]:
    """`paths` for every item of the stage's matrix."""
    matrix = stage.get("matrix", {})
    items = [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]
    return [re.sub(r"\$\{item\.(\w+)\}", lambda m, item=item: item[m[1]], path) for item in items for path in paths]


def test_an_experiment_changes_one_line_of_params(tmp_path):
    """`dvc exp run -S` writes the file anew: in this style it leaves everything else as it stands."""
    from dvc.utils.serialize import modify_yaml

    copy = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    with modify_yaml(str(copy)) as params:
        params["pretrain"]["steps"] = 7
    lines = zip((ROOT / "params.yaml").read_text().splitlines(), copy.read_text().splitlines(), strict=True)
    assert [(old.split(":")[0], new) for old, new in lines if old != new] == [("  steps", "  steps: 7")]


def test_no_interpolation_inside_a_flow_list():
    assert not re.search(r"\[[^\]]*\$\{", (ROOT / "dvc.yaml").read_text())


def test_the_lock_was_made_by_these_notebooks_and_modules():
    """Holds without data: the hashes of code in dvc.lock are those of the files here."""
    from dvc.repo import Repo

    with Repo(ROOT) as repo:
        stages = [stage for stage in repo.index.stages if hasattr(stage, "name")]
        assert {stage.name for stage in stages} == set(yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"])
        for stage in stages:
            assert not stage.changed_stage(), f"{stage.name}: another command than in dvc.lock"
            code = [dep for dep in stage.deps if dep.def_path.startswith((*CODE, "params"))]
            assert [dep.def_path for dep in code if dep.workspace_status()] == [], stage.name


def test_an_unknown_section_lists_the_sections():
    with pytest.raises(EcgError, match="no section 'pretrian'.*pretrain"):
        pipeline.section(ROOT / "params.yaml", "pretrian")


def test_an_unknown_parameter_of_the_simulator_lists_the_valid_ones(tmp_path, capsys):
    assert main(["generate", "--out", str(tmp_path / "data"), "-p", "sede=1"]) == 2
    assert re.search(r"no parameter sede.*hospitals, workers, seed, scale", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


# A DVC remote.


def test_results_travel_through_an_s3_remote(tmp_path, monkeypatch):
    """Push to and pull from a local S3 server with the dvc[s3] of the lock."""
    from dvc.repo import Repo
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        import boto3

        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="study")
        with Repo.init(tmp_path, no_scm=True) as repo:
            monkeypatch.chdir(tmp_path)
            with repo.config.edit() as config:
                config["remote"]["store"] = {"url": "s3://study/dvc", "endpointurl": url}
                config["core"]["remote"] = "store"
            (tmp_path / "result.json").write_text(json.dumps({"auroc": 0.9}))
            repo.add("result.json")
            assert repo.push() == 1
            (tmp_path / "result.json").unlink()
            shutil.rmtree(repo.cache.local.path)
            repo.pull()
        assert json.loads((tmp_path / "result.json").read_text()) == {"auroc": 0.9}
    finally:
        server.stop()
