"""dvc.yaml and real/dvc.yaml: stages, parameters, inputs; what an edit makes stale; locks; a remote."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from ecglib import EcgError, objectives
from ecglib.pipeline import cli, command_help, notebooks, stages

ROOT = stages.ROOT
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
CODE = ("ecglib/", "ecgsim", "notebooks/", "docs/")


@pytest.fixture(scope="module")
def resolved() -> dict[str, dict]:
    """Every stage of both studies as DVC resolves it: command, deps, params, outs."""
    with Repo(str(ROOT)) as repo:
        own = str(ROOT / "studies")  # somebody's own studies
        return {s.addressing: described(s) for s in repo.index.stages if s.cmd and not s.path.startswith(own)}


def described(stage) -> dict:
    plain = [dep for dep in stage.deps if not hasattr(dep, "params")]
    params = [(dep.def_path, name) for dep in stage.deps if hasattr(dep, "params") for name in dep.params]
    outs = [out.def_path for out in stage.outs]
    return {"cmd": stage.cmd, "deps": [dep.def_path for dep in plain], "params": params, "outs": outs}


def words(stage: dict) -> list[str]:
    return shlex.split(stage["cmd"])


def sections(stage: dict) -> list[tuple[str, str]]:
    """(file, section) of every --params of a command."""
    command = words(stage)
    texts = [command[i + 1] for i, word in enumerate(command) if word == "--params"]
    return [(text.rpartition(":")[0] or "params.yaml", text.rpartition(":")[2]) for text in texts]


def test_there_are_two_studies(resolved):
    assert len([name for name in resolved if ":" not in name]) >= 48
    assert len([name for name in resolved if name.startswith("real/dvc.yaml:")]) >= 30


def test_every_stage_lists_the_parameters_that_its_command_is_given(resolved):
    for name, stage in resolved.items():
        assert sorted(set(stage["params"])) == sorted(set(sections(stage))), name
        for file, section in sections(stage):
            assert isinstance(stages.section(ROOT / file, section), dict), f"{name}: {section}"


def test_every_notebook_knows_the_parameters_that_it_is_given(resolved):
    for name, stage in resolved.items():
        command = words(stage)
        if "run" in command:
            given = {}
            for file, section in sections(stage):
                given |= stages.section(ROOT / file, section)
            texts = [command[i + 1] for i, word in enumerate(command) if word == "-p"]
            given |= {text.partition("=")[0]: yaml.safe_load(text.partition("=")[2]) for text in texts}
            assert notebooks.typed(ROOT / command[command.index("run") + 1], given), name


def test_the_notebook_outside_the_stages_knows_its_parameters():
    """`make draw`, and its counterpart on real recordings, whose folders are those of stages."""
    given = stages.section(ROOT / "params.yaml", "generation")
    real = given | stages.section(ROOT / "real/params.yaml", "real.generation")
    for values in (given, real):
        assert notebooks.typed(ROOT / "notebooks/16_generation.ipynb", values)
    assert "16_generation.ipynb --params generation --out results/generation" in (ROOT / "Makefile").read_text()


def test_every_stage_reads_what_another_makes_or_what_is_there(resolved):
    made = [out for stage in resolved.values() for out in stage["outs"]]
    for name, stage in resolved.items():
        (out,) = stage["outs"]
        command = words(stage)
        assert out.startswith("results/") and command[command.index("--out") + 1] == out, name
        for dep in stage["deps"]:
            if dep.startswith("results/"):
                assert any(out == dep or out.startswith(f"{dep}/") for out in made), f"no stage makes {dep}"
            elif dep.startswith(CODE):
                assert (ROOT / dep).exists(), f"{name}: {dep}"
            else:
                assert dep.startswith(("data/", "real/data/")), f"{name}: {dep}"


def test_every_stage_lists_the_folders_that_its_command_names(resolved):
    for name, stage in resolved.items():
        paths = re.findall(r"\.\./((?:results|data)[\w/.-]*)", stage["cmd"])
        for path in (
            path
            for path in paths
            if path not in ("results", "results/cohorts", "data", "results/real", "results/real/cohorts")
        ):
            assert any(dep == path or path.startswith(f"{dep}/") for dep in stage["deps"]), f"{name}: {path}"


def test_every_objective_is_in_the_study():
    """A new file in ecglib/objectives wants its name here: two lines of params.yaml."""
    assert sorted(PARAMS["objectives"]) == objectives.names()
    trained = {item["objective"] for item in PARAMS["pretraining"].values()} | {"heartlang", "multitask"}
    starts = {objectives.trait(name, "FIRST") for name in objectives.names()}
    assert sorted(trained) == objectives.names()
    assert {item["objective"] for item in PARAMS["probed"].values()} == trained - starts


# What one edit makes stale: the file, and the kinds of stages that may run again.
REPORTS = {
    *("explore", "fine_tuning", "robustness", "explanation", "ppg", "one_ecg", "rhythm_and_beats", "holter", "noise"),
    *("language_and_neighbours", "waves_and_leads", "external", "figures", "report", "models"),
}
EDITS = {
    "ecglib/objectives/clef.py": {
        "pretrain@twelve-clef",
        "pretrain@single-clef",
        "probe@twelve-clef",
        "probe@single-clef",
    },
    "ecglib/reporting/figures.py": REPORTS,
    "ecglib/zoo/onnx_export.py": {"published", "models"},
    "ecglib/datasets/ludb.py": {"published", "models", "waves_and_leads"},
    "ecglib/evaluation/probing.py": REPORTS | {"baseline", "from_scratch", "probe", "finetune", "published"},
}


@pytest.mark.parametrize("file", EDITS)
def test_an_edit_makes_stale_only_what_reads_it(resolved, file):
    direct = {
        name for name, stage in resolved.items() if any(f"{file}/".startswith(f"{dep}/") for dep in stage["deps"])
    }
    simulated = {name for name in direct if ":" not in name}
    assert (
        simulated
        and {name for name in simulated if name not in EDITS[file] and name.split("@")[0] not in EDITS[file]} == set()
    )


def test_another_cohort_makes_nothing_stale(resolved):
    assert [name for name, stage in resolved.items() if "results/cohorts" in stage["deps"]] == []


def test_the_files_are_short():
    lines = {name: (ROOT / name).read_text().count("\n") for name in ("dvc.yaml", "dvc.lock", "real/dvc.yaml")}
    assert lines["dvc.yaml"] <= 420 and lines["dvc.lock"] <= 8000 and lines["real/dvc.yaml"] <= 560


def test_an_experiment_changes_one_line_of_params(tmp_path):
    """`dvc exp run -S` writes the file anew: in this style it leaves everything else as it stands."""
    from dvc.utils.serialize import modify_yaml

    copy = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    with modify_yaml(str(copy)) as params:
        params["pretrain"]["steps"] = 7
    lines = zip((ROOT / "params.yaml").read_text().splitlines(), copy.read_text().splitlines(), strict=True)
    assert [(old.split(":")[0], new) for old, new in lines if old != new] == [("  steps", "  steps: 7")]


def test_no_language_inside_a_text():
    """Lists and mappings are YAML: no commas, no name=value, no a|b in a parameter."""
    for file in ("params.yaml", "real/params.yaml"):
        texts = [str(value) for value in leaves(yaml.safe_load((ROOT / file).read_text())) if isinstance(value, str)]
        assert [text for text in texts if re.search(r"[,|=]", text)] == []


def leaves(value) -> list:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if items is None else [leaf for item in items for leaf in leaves(item)]


def test_a_lock_holds_no_path_of_a_machine():
    locks = [ROOT / "dvc.lock", *ROOT.glob("real/dvc.lock")]  # real: where its results have been pinned
    for lock in locks:
        assert not re.search(r"path: (/|\.\./\.\.)|/home/|/root/|/tmp/", lock.read_text()), lock


def test_the_locks_were_made_by_these_notebooks_and_modules():
    """Holds without data: hashes of code in dvc.lock (and real/dvc.lock, if it is there) are those of the files."""
    with Repo(str(ROOT)) as repo:
        pinned = [
            stage for stage in repo.index.stages if stage.cmd and Path(stage.path).with_name("dvc.lock").is_file()
        ]
        assert len(pinned) >= 70
        for stage in pinned:
            assert not stage.changed_stage(), f"{stage.addressing}: another command than in its lock"
            code = [dep for dep in stage.deps if dep.def_path.startswith((*CODE, "params", "real/params"))]
            assert [dep.def_path for dep in code if dep.workspace_status()] == [], stage.addressing


def test_an_unknown_section_lists_the_sections():
    with pytest.raises(EcgError, match="no section 'pretrian'.*pretrain"):
        stages.section(ROOT / "params.yaml", "pretrian")


def test_what_is_no_section_is_refused(tmp_path, capsys):
    (tmp_path / "params.yaml").write_text("a: {b: 1, c: [x]}")
    (tmp_path / "broken.yaml").write_text("a: [b")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    for name, said in (("params.yaml:a.b", "no section"), ("params.yaml:a.c", "no section"), ("none.yaml:a", "none")):
        assert cli.main(["generate", "--out", str(tmp_path / "data"), "--params", f"{tmp_path}/{name}"]) == 2
        assert said in capsys.readouterr().err
    for name in ("broken", "latin"):
        with pytest.raises(EcgError, match="is no YAML"):
            stages.section(tmp_path / f"{name}.yaml", "a")
    assert not (tmp_path / "data").exists()


def test_an_unknown_parameter_of_the_simulator_lists_the_valid_ones(tmp_path, capsys):
    assert cli.main(["generate", "--out", str(tmp_path / "data"), "-p", "sede=1"]) == 2
    assert re.search(r"no parameter sede.*hospitals, workers, seed, scale", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "value"), [("a=1", 1), ("a=[x, 2]", ["x", 2]), ("a={b: true}", {"b": True}), ("a=", None)]
)
def test_parameters_of_the_command_line_are_yaml(text, value):
    assert command_help.Assignments().convert(text, None, None) == ("a", value)


@pytest.mark.parametrize("text", ["steps", "=3", "a=[1"])
def test_a_parameter_that_is_none_is_refused(text):
    with pytest.raises(EcgError, match="name=value|no YAML value"):
        command_help.Assignments().convert(text, None, None)


# A stage whose inputs change while it runs.

EDITED = """
import sys
from pathlib import Path
from ecglib.pipeline import stages
stages.ROOT = Path(sys.argv[1])
with stages.guarded():
    Path(sys.argv[1], "ecglib/code.py").write_text(sys.argv[2])
"""


@pytest.mark.parametrize(("written", "refused"), [("x = 1", False), ("x = 2", True)])
def test_a_stage_refuses_to_end_when_its_inputs_changed_meanwhile(tmp_path, written, refused):
    (tmp_path / "ecglib").mkdir()
    (tmp_path / "ecglib/code.py").write_text("x = 1")
    variables = {stages.STAGE: "probe", stages.DEPS: json.dumps(["ecglib", "results/none"])}
    command = [sys.executable, "-c", EDITED, str(tmp_path), written]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert bool(done.returncode) == refused and ("changed while the stage probe ran" in done.stderr) == refused


def test_the_inputs_of_a_stage_are_those_that_dvc_knows(resolved):
    assert stages._deps("figures") == resolved["figures"]["deps"]


def test_data_is_linked_and_what_is_no_link_is_kept(tmp_path):
    (tmp_path / "corpora").mkdir()
    link = tmp_path / "data"
    for _ in range(2):
        stages.link_data(link, tmp_path / "corpora")
        assert link.is_symlink() and link.resolve() == tmp_path / "corpora"
    with pytest.raises(EcgError, match="no such folder"):
        stages.link_data(link, tmp_path / "nowhere")
    link.unlink()
    link.mkdir()
    with pytest.raises(EcgError, match="no symbolic link"):
        stages.link_data(link, tmp_path / "corpora")


# A DVC remote.


def test_results_travel_through_an_s3_remote(tmp_path, monkeypatch):
    """Push to and pull from a local S3 server with the dvc[s3] of the lock."""
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


def test_every_command_is_in_one_group_of_the_help(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    grouped = [name for names in cli.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(cli.cli.commands)
    assert all(f"{title}:\n" in shown for title in cli.GROUPS)
    commands = shown.partition("The study:")[2]
    assert "..." not in commands


def test_the_command_line_loads_no_library_before_it_must():
    """Else every command waits for them, and pandas, loaded before a kernel, prints tables as in a terminal."""
    heavy = ("numpy", "pandas", "torch", "matplotlib", "sklearn", "dvc")
    code = f"import sys, ecglib.__main__; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
