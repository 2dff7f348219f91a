"""A study on one's own ECGs: the journey from a folder of recordings to the report, and what is refused before it."""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from crude_corpus import crude_ecg
from study_tree import call, copy_tree
from yardstick import slowness

from ecglib import EcgError
from ecglib.data import wfdb_io
from ecglib.data.recording import LEADS
from ecglib.pipeline import own_study, schedule

FS = 200


def recordings(root: Path, n: int, seed: int) -> Path:
    """`n` records of n / 2 patients with a table: "tall" ones have twice the amplitude, "slow" ones half the rate."""
    root.mkdir(parents=True)
    random, rows = np.random.default_rng(seed), []
    for i in range(n):
        tall, slow = random.integers(0, 2, 2).tolist()
        counts = crude_ecg(seed + i) * (1 + tall)
        if slow:
            counts = np.repeat(counts, 2, axis=1)[:, : counts.shape[1]]
        counts = counts + random.integers(-20, 20, counts.shape)
        wfdb_io.write(root, f"r{i}", counts, FS, LEADS, 1000)
        rows.append({"record": f"r{i}", "patient": f"p{i // 2}", "tall": tall, "slow": slow})
    pd.DataFrame(rows).to_csv(root / "records.csv", index=False)
    return root


def computed_s() -> float:
    """Processor seconds of all commands that have ended: they do not count the time for which others had the cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """60 ECGs of one's own and 20 of another hospital, after one command: (tree, what it printed, files before, s)."""
    folder = tmp_path_factory.mktemp("own")
    tree = copy_tree(folder / "tree")
    for name, n in (("mine", 60), ("theirs", 20)):
        recordings(folder / name, n, n)
    options = {"labels": ["tall", "slow"], "vocabulary": "scp"}
    study = {"cohorts": {name: {"root": name, "options": options} for name in ("mine", "theirs")}}
    study["cohorts"]["theirs"]["options"] = {**options, "split": "external"}
    study["methods"] = ["random", "features", "scratch", "zoo:clef_small"]
    study |= {"probe": {"fractions": [0.01, 0.1, 1.0], "seeds": 2, "epochs": 2, "min_steps": 5, "weights": "dummy"}}
    study |= {"external": {"n_resamples": 50}, "figures": {"n_resamples": 50, "min_positives": 2}}
    (folder / "my.yaml").write_text(yaml.safe_dump(study))
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*") if path.is_file()}
    slow, began = slowness(), computed_s()
    said = call(tree, sys.executable, "-m", "ecglib", "study", str(folder / "my.yaml"))
    return tree, said, before, (computed_s() - began) / max(slow, slowness())


def test_one_command_leads_from_a_folder_of_ecgs_to_a_report_about_them(journey):
    tree, said, _, seconds = journey
    assert seconds < 240
    assert "report: studies/my/results/report/index.html" in said
    page = (tree / "studies/my/results/report/index.html").read_text()
    for text in ("Task my", "mine", "theirs", "hand-made features", "supervised from scratch", "random encoder"):
        assert text in page
    scores = pd.read_csv(tree / "studies/my/results/report/results.csv")
    assert set(scores.cohort) == {"mine", "theirs"} and set(scores.encoder) == {
        "random",
        "features",
        "scratch",
        "features+scratch",
    }
    assert list((tree / "studies/my/results/one_ecg").glob("r*.svg"))
    assert list((tree / "studies/my/results/explore").glob("ecg_*.png")), "the most frequent statements are drawn"
    best = scores[(scores.encoder == "features") & (scores.fraction == 1) & (scores.label == "macro")]
    assert best[best.metric == "auroc"].point.min() > 0.9  # amplitude and rate are what these features measure


def test_a_share_of_the_labels_that_is_nobody_is_left_out_by_name(journey):
    tree, said, *_ = journey
    page = (tree / "studies/my/results/report/index.html").read_text()
    words = "left out, since of so few training patients they are nobody: 1 % of the labels"
    assert words in page and words in said
    probe = tree / "studies/my/results/probe/my-scratch"
    assert "left out, since it is nobody here: 1 % of the labels" in (probe / "03_linear_probing.html").read_text()
    assert set(pd.read_parquet(probe / "predictions.parquet").fraction) == {0.1, 1.0}


def test_a_published_model_reads_the_recordings_at_its_own_rate_and_dummy_weights_are_marked(journey):
    tree, *_ = journey
    probe = tree / "studies/my/results/probe/my-zoo-clef_small"
    page = (probe / "03_linear_probing.html").read_text()
    assert "reads the recordings of 200 Hz, at 500 Hz" in page and "DUMMY WEIGHTS" in page
    assert set(pd.read_parquet(probe / "predictions.parquet").note) == {"dummy"}
    left_out = (tree / "studies/my/results/figures/20_paper_figures.html").read_text()
    assert "zoo:clef_small, linear (dummy weights" in left_out


def test_it_touches_nothing_else_and_a_second_call_does_nothing(journey):
    tree, _, before, _ = journey
    assert {path: path.stat().st_mtime_ns for path in before if path.exists()} == before
    new = {path.relative_to(tree).parts[:2] for path in tree.rglob("*") if path.is_file()} - {
        path.relative_to(tree).parts[:2] for path in before
    }
    written = {parts for parts in new if "__pycache__" not in parts[-1]}
    assert {parts[0] for parts in written} <= {"studies", "results", ".dvc"}
    assert {parts for parts in written if parts[0] == "results"} <= {("results", "scratch")}
    assert not (tree / "dvc.lock").exists()
    study = str(tree.parent / "my.yaml")
    assert "nothing has changed" in call(tree, sys.executable, "-m", "ecglib", "study", study)


def test_the_stages_name_every_input_and_the_numbers_of_the_file(journey):
    tree, *_ = journey
    stages = yaml.safe_load((tree / "studies/my/dvc.yaml").read_text())["stages"]
    assert list(stages) == [
        "pack-mine", "pack-theirs", "explore", "probe-random", "probe-features", "probe-scratch",
        "probe-zoo-clef_small", "external-theirs", "one_ecg", "figures", "report",
    ]  # fmt: skip
    lock = yaml.safe_load((tree / "studies/my/dvc.lock").read_text())["stages"]
    for name, stage in stages.items():
        words = stage["cmd"]
        named = {dep for dep in stage["deps"] if not dep.startswith(("ecglib", "notebooks"))}
        assert all(dep.rpartition("/")[2] in words or "results" in dep for dep in named), name
        assert [out["path"] for out in lock[name]["outs"]] == stage["outs"]
    params = lock["probe-scratch"]["params"]["studies/my/params.yaml"]["probe"]
    assert params == {
        "fractions": [0.01, 0.1, 1.0], "seeds": 2, "min_positives": 5, "epochs": 2, "min_steps": 5, "weights": "dummy",
    }  # fmt: skip


REFUSED = [
    ("", "cohorts"),
    ("cohorts: [a]", "cohorts"),
    ("cohorts: {a: {}}", "cohorts.a"),
    ("cohorts: {a: {root: nowhere}}", "nowhere"),
    ("cohorts: {a: {root: ecgs, option: {}}}", "did you mean 'options'"),
    ("cohorts: {a: {root: ecgs, dataset: foldr}}", "did you mean 'folder'"),
    ("cohorts: {a: {root: ecgs}}\nmethods: [scrach]", "did you mean 'scratch'"),
    ("cohorts: {a: {root: ecgs}}\nmethods: [{byol: ecgs}]", "no encoder in"),
    ("cohorts: {a: {root: ecgs}}\nmethods: ['zoo:merll']", "did you mean 'merl'"),
    ("cohorts: {a: {root: ecgs}}\nmethods: ['zoo:merl@x']", "methods"),
    ("cohorts: {a: {root: ecgs}}\nmethods: [random, random]", "random and random would have the same folder"),
    ("cohorts: {a: {root: ecgs}}\nmethods: [{a-b: encoder}, {'a:b': encoder}]", "a-b and a:b would have the same"),
    ("cohorts: {a: {root: ecgs}}\nmethods: [{byol: encoder, clef: encoder}]", "is no method"),
    ("cohorts: {a: {root: ecgs}}\nmethods: [{byol: 3}]", "is no method"),
    ("cohorts: {a: {root: ecgs}}\nmethods: [{3: encoder}]", "is no method"),
    ("cohorts: {a: {root: ecgs}}\nmethods: [{my/own: encoder}]", "is no method"),
    ("cohorts: {a: {root: ecgs}}\nmethods: [3]", "is no method"),
    ("cohorts: {a: {root: ecgs}}\nmethods: [{}]", "is no method"),
    ("cohorts: {a: {root: ecgs}}\nmethods: {byol: encoder}", "is no list of methods"),
    ("cohorts: {a: {root: ecgs}}\nmethods:", "is no list of methods"),
    ("cohorts: {a: {root: ecgs}}\nprobes: {}", "did you mean 'probe'"),
    ("cohorts: {a: {root: ecgs}}\nprobe: 3", "probe"),
    ("cohorts: {a b: {root: ecgs}}", "a b"),
    ("cohorts: {a: {root: ecgs}}\none_ecg: {model: ecgs}", "no kept model in"),
    ("cohorts: {a: {root: ecgs}", "YAML"),
]


@pytest.mark.parametrize(("text", "word"), REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, text, word):
    (tmp_path / "ecgs").mkdir()
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder/encoder.json").write_text("{}")
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(EcgError, match=word) as refused:
        own_study.write(tmp_path / "my.yaml", tmp_path / "root")
    assert str(tmp_path / "my.yaml") in str(refused.value)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml"])
def test_a_file_of_somebody_else_stays(tmp_path, name):
    (tmp_path / "ecgs").mkdir()
    (tmp_path / "my.yaml").write_text("cohorts: {a: {root: ecgs}}")
    target = tmp_path / "root/studies/my/dvc.yaml"
    theirs = target.with_name(name)
    theirs.parent.mkdir(parents=True)
    for content in (b"stages: {}\n", b"\xff", b""):
        theirs.write_bytes(content)
        with pytest.raises(EcgError, match=f"{name}: is there already and was not written by this command"):
            own_study.write(tmp_path / "my.yaml", tmp_path / "root")
        assert theirs.read_bytes() == content and [path.name for path in theirs.parent.iterdir()] == [name]
    theirs.unlink()
    theirs.symlink_to("elsewhere")
    with pytest.raises(EcgError, match="was not written by this command"):
        own_study.write(tmp_path / "my.yaml", tmp_path / "root")
    theirs.unlink()
    assert own_study.write(tmp_path / "my.yaml", tmp_path / "root") == target
    assert own_study.write(tmp_path / "my.yaml", tmp_path / "root") == target  # its own may be written again


def test_methods_with_an_encoder_and_published_ones_read_what_they_need(tmp_path):
    for name in ("ecgs", "encoder"):
        (tmp_path / name).mkdir()
    (tmp_path / "encoder/encoder.json").write_text(json.dumps({}))
    (tmp_path / "my.yaml").write_text("cohorts: {a: {root: ecgs}}\nmethods: [{byol: encoder}, 'zoo:merl']")
    stages = yaml.safe_load(own_study.write(tmp_path / "my.yaml", tmp_path / "root").read_text())["stages"]
    encoder, published = stages["probe-byol"], stages["probe-zoo-merl"]
    assert f"pretrained={tmp_path}/encoder" in encoder["cmd"] and f"{tmp_path}/encoder" in encoder["deps"]
    assert "method=zoo:merl" in published["cmd"] and {"ecglib/zoo", f"{tmp_path}/ecgs"} <= set(published["deps"])
    assert f"recordings=[{tmp_path}/ecgs]" in published["cmd"]


def test_names_of_stages_are_those_that_dvc_reads(tmp_path):
    (tmp_path / "ecgs").mkdir()
    (tmp_path / "my.yaml").write_text("cohorts: {a: {root: ecgs}}\nmethods: ['zoo:merl@2.5', 'random:vit1d']")
    tree = copy_tree(tmp_path / "tree")
    pipeline = own_study.write(tmp_path / "my.yaml", tree)
    study = schedule.Study(tree, str(pipeline.relative_to(tree)))
    names = {stage.name for stage in study.before}
    assert {"probe-zoo-merl-2.5", "probe-random-vit1d"} <= names
    schedule.Study(tree)  # that of the repository too, which reads this one


def test_a_kept_model_is_shown_beside_the_methods(tmp_path):
    for name in ("ecgs", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "model/model.json").write_text("{}")
    (tmp_path / "my.yaml").write_text("cohorts: {a: {root: ecgs}}\none_ecg: {model: model}")
    target = own_study.write(tmp_path / "my.yaml", tmp_path / "root")
    stage = yaml.safe_load(target.read_text())["stages"]["one_ecg"]
    assert {f"{tmp_path}/model", "ecglib/zoo"} <= set(stage["deps"])
    assert yaml.safe_load((target.parent / "params.yaml").read_text())["one_ecg"] == {"model": f"{tmp_path}/model"}
