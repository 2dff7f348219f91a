"""A published number again: what is run, what it is compared with, what is refused; and the whole command on PTB-XL."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hub import Hub
from sklearn.metrics import roc_auc_score
from study_tree import call, copy_tree

from ecglib import EcgError, zoo
from ecglib.data.labels import SUPERCLASSES
from ecglib.evaluation import predictions
from ecglib.pipeline import reproduce
from ecglib.pipeline.stages import ROOT
from ecglib.reporting import published
from ecglib.zoo import dummy
from ecglib.zoo.card import released

NUMBERS = published.read(ROOT / "docs/published.csv")
SET = "super-2198"


def copied(source: Path, folder: Path, n: int) -> Path:
    """`n` records of PTB-XL at 100 Hz: four fifths of training folds, a tenth each of fold 9 and fold 10."""
    table = pd.read_csv(source / "ptbxl_database.csv", dtype=str)
    there = table[[(source / f"{path}.hea").is_file() for path in table.filename_lr]]
    folds, parts = there.strat_fold.astype(int), []
    for wanted, share in (((1, 2, 3, 4, 5, 6, 7, 8), 0.6), ((9,), 0.2), ((10,), 0.2)):
        parts.append(there[folds.isin(wanted)].head(round(share * n)))
    there = pd.concat(parts)
    for path in there.filename_lr:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        for extension in (".hea", ".dat"):
            shutil.copy(source / f"{path}{extension}", folder / f"{path}{extension}")
    there.to_csv(folder / "ptbxl_database.csv", index=False)
    return folder


def checkpoint(folder: Path) -> Path:
    """A file of CLEF small in the layout of the release, with weights that mean nothing."""
    state = {key: dummy.fill(key, *about) for key, about in released("clef_small").items()}
    torch.save({"state_dict": state}, folder / "clef_small.ckpt")
    return folder / "clef_small.ckpt"


def corpus(**changes) -> reproduce.Corpus:
    options = {"rate": 100, "label_set": SET, "likelihood": "published"}
    facts = dict(name="ptb-xl", root=Path("/data/ptb-xl"), version="1.0.3", options=options, labels=SUPERCLASSES)
    return reproduce.Corpus(**(facts | {"n_labels": 5, "fastest": True} | changes))


def plan(model="ecgfounder", methods=("zoo:ecgfounder@2.5+sgd-linear", "random"), **changes) -> reproduce.Plan:
    here, numbers = changes.pop("corpus", corpus()), changes.pop("numbers", NUMBERS)
    return reproduce.Plan(here, model, methods, numbers[numbers.label_set == SET], **changes)


def predicted(root: Path, made: reproduce.Plan, method: str, mode: str, note: str = "") -> float:
    """Write predictions of 60 records, and some validation records; the macro AUROC on the former, by scikit-learn."""
    random, n = np.random.default_rng(3), 60
    truth = (random.random((n, 5)) < 0.4).astype(np.int8)
    p = np.clip(0.5 + 0.2 * (truth - 0.5) + random.normal(scale=0.1, size=truth.shape), 0.01, 0.99).astype(np.float32)
    rows = pd.DataFrame({"record_id": np.repeat([f"r{k:03}" for k in range(n)], 5), "truth": truth.ravel()})
    rows = rows.assign(
        probability=p.ravel(), label=np.tile(SUPERCLASSES, n), patient_id=rows.record_id, cohort="ptb-xl"
    )
    rows = rows.assign(split="test", encoder=method.partition("+")[0], mode=mode, fraction=1.0, seed=0, note=note)
    easy = rows[rows.record_id < "r010"].assign(split="val", probability=rows.truth.astype(np.float32))
    predictions.write(pd.concat([rows, easy]), root / reproduce._out(made, method) / "predictions.parquet")
    return roc_auc_score(truth, p, average="macro")


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [(0.0, "reproduced"), (0.0049, "reproduced"), (-0.0051, "close"), (0.0099, "close"), (-0.0101, "deviates")],
)
def test_the_score_is_that_of_fold_10_and_is_judged_by_its_distance_to_the_published_one(tmp_path, gap, verdict):
    made = plan(methods=("zoo:ecgfounder@2.5+sgd-linear",))
    score = predicted(tmp_path, made, made.methods[0], "sgd-linear")
    row = NUMBERS.index[(NUMBERS.system == "ECGFounder") & (NUMBERS.label_set == SET)][0]
    numbers = NUMBERS.copy()
    numbers.loc[row, ["score", "n_test"]] = score - gap, 60
    table = reproduce.compare(plan(methods=made.methods, numbers=numbers), tmp_path, n=50)
    assert table.point[0] == pytest.approx(score, abs=1e-9) and table.low[0] < score < table.high[0]
    assert verdict in table.verdict[0] and table.verdict[0].startswith(f"{gap:+.3f}")


def test_no_verdict_on_another_test_set_on_a_baseline_or_on_dummy_weights(tmp_path):
    methods = ("zoo:ecgfounder@2.5+sgd-linear", "random", "scratch")
    for numbers, note, said in ((NUMBERS, "", "on another test set"), (NUMBERS, predictions.DUMMY, "means nothing")):
        made = plan(methods=methods, numbers=numbers)
        for method, mode in zip(methods, ("sgd-linear", "linear", "supervised"), strict=True):
            predicted(tmp_path, made, method, mode, note if method.startswith("zoo") else "")
        table = reproduce.compare(made, tmp_path, n=20).set_index("method")
        assert said in table.verdict["zoo:ecgfounder@2.5"] and "reproduced" not in " ".join(table.verdict)
        assert ("DUMMY WEIGHTS" in table.here["zoo:ecgfounder@2.5"]) == bool(note)
        assert "DUMMY" not in table.here["random"] and table.published["random"] == "-"
        assert (
            table.published["scratch"].startswith("Net1D 0.924") and "on another test set" in table.verdict["scratch"]
        )
        assert table.published["zoo:ecgfounder@2.5"] == "ECGFounder 0.924 (0.917 to 0.931)"
    lines = " ".join(reproduce.differences(made, table.reset_index()))
    assert "60 here, 2,198 in the published test set" in lines and "2.5 s" in lines and "one layer on pooled" in lines


def test_without_weights_the_row_stays_empty_with_the_reason_and_the_place(tmp_path):
    made = plan(methods=("random",), lacking="no network")
    predicted(tmp_path, made, "random", "linear")
    text = reproduce.report(made, tmp_path, tmp_path / "out")
    row = next(line for line in text.splitlines() if line.startswith("| zoo:ecgfounder"))
    assert "ECGFounder 0.924" in row and "no weights here" in row
    for word in (
        "no network",
        "PKUDigitalHealth/ECGFounder",
        "12_lead_ECGFounder.pth",
        "MIT",
        "ECGLIB_WEIGHTS",
        "--checkpoint",
    ):
        assert word in text
    assert (tmp_path / "out/reproduction.md").read_text() == f"{text}\n"
    table = pd.read_csv(tmp_path / "out/reproduction.csv")
    assert np.isnan(table.point[0]) and table.point[1] > 0.5
    reproduce.report(made, tmp_path, tmp_path / "out")  # its own may be written again
    (tmp_path / "out/reproduction.md").write_text("mine")
    with pytest.raises(EcgError, match="not from this command"):
        reproduce.outputs(tmp_path / "out")


def test_the_list_names_each_published_number_of_a_model_here():
    shown = reproduce.listing(NUMBERS)
    known = NUMBERS[NUMBERS.system.isin(reproduce.SYSTEMS.values()) & NUMBERS.task.str.startswith("PTB-XL")]
    assert len(shown) == len(known) and set(shown.model) - {"scratch"} <= set(zoo.names())
    assert set(shown["--labels"]) <= reproduce.LABELS.keys()
    mine = reproduce.listing(NUMBERS, "merl")
    assert set(mine["test records"]) == {2198, 2158} and set(mine.model) == {"merl"}
    assert set(mine.weights) == {"by hand"} and set(shown.weights[shown.model == "stmem"]) == {"only a card"}
    with pytest.raises(EcgError, match="no number of melp is published.*ecgfounder, ecgjepa_kim"):
        reproduce.listing(NUMBERS, "melp")


def test_crops_and_probe_are_the_published_ones_and_the_second_probe_waits_for_the_first(tmp_path):
    methods = ("zoo:merl@2.5+sgd-linear", "zoo:merl@2.5", "features")
    made = plan("merl", methods, weights="published", checkpoint="/w/res18.pth", content="abc")
    target = reproduce.write(made, tmp_path)
    stages = yaml.safe_load(target.read_text())["stages"]
    assert list(stages) == ["pack", "probe-zoo-merl-2.5-sgd-linear", "probe-zoo-merl-2.5", "probe-features"]
    first, second = stages["probe-zoo-merl-2.5-sgd-linear"], stages["probe-zoo-merl-2.5"]
    assert first["outs"][0] in second["deps"] and {"/w/res18.pth", "/data/ptb-xl"} <= set(first["deps"])
    assert "checkpoint=/w/res18.pth" in first["cmd"] and "recordings=[/data/ptb-xl]" in first["cmd"]
    assert "checkpoint" not in stages["probe-features"]["cmd"] and "ecglib/zoo" not in stages["probe-features"]["deps"]
    params = yaml.safe_load(target.with_name("params.yaml").read_text())
    assert params["pack"] == {"options": made.corpus.options, "labels": list(SUPERCLASSES)}
    assert params["weights"] == {"merl": "abc"} and params["probe"]["fractions"] == [1.0]
    for path in (target, target.with_name("params.yaml")):
        ours = path.read_text()
        path.write_text("mine: {}\n")
        with pytest.raises(EcgError, match=f"{path.name}: .*was not written by this command"):
            reproduce.write(made, tmp_path)
        assert path.read_text() == "mine: {}\n"
        path.write_text(ours)
    assert reproduce.write(made, tmp_path) == target


def test_two_copies_of_a_corpus_are_not_chosen_between(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ptbxl_database.csv").write_text("ecg_id\n")
    with pytest.raises(EcgError, match="holds ptbxl_database.csv in a, b"):
        reproduce.plan("random", "ptb-xl", tmp_path, "super", numbers=NUMBERS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ecgfoundr", "ptb-xl", ".", "super"), "did you mean 'ecgfounder'"),
        (("merl", "ptb-xk", ".", "super"), "did you mean 'ptb-xl'"),
        (("merl", "ptb-xl", ".", "suber"), "did you mean 'super"),
        (("merl", "ptb-xl", ".", "super"), "holds no ptbxl_database.csv"),
        (("random", "ptb-xl", ".", "super", "x.pth"), "nothing that it is for"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    file = dict(checkpoint=words[4]) if len(words) > 4 else {}
    with pytest.raises(EcgError, match=said):
        reproduce.plan(*words[:4], numbers=NUMBERS, **file)


def test_the_corpus_is_found_in_the_folder_above_it_and_read_by_the_rules_of_the_label_set(tmp_path, real_data):
    copied(real_data / "ptb-xl", tmp_path / "physionet/ptb-xl", 40)
    for model, labels, name, n in (
        ("scratch", "super", SET, 5),
        ("random", "all", "all", 71),
        ("merl", "form", "form", 19),
    ):
        made = reproduce.plan(model, "ptb-xl", tmp_path / "physionet", labels, numbers=NUMBERS, weights="dummy")
        here = made.corpus
        assert here.root == tmp_path / "physionet/ptb-xl" and here.options["label_set"] == name and here.n_labels == n
        assert here.options["rate"] == 100 and not here.fastest and 0 < len(here.labels) <= n
        assert set(made.numbers.label_set) <= {name} and made.methods[-1] in ("scratch", "random")


def test_the_command_on_ptbxl_with_dummy_weights_each_baseline_and_weights_of_the_hub(tmp_path, real_data):
    tree, data = copy_tree(tmp_path / "tree"), copied(real_data / "ptb-xl", tmp_path / "ptb-xl", 50)
    shutil.copytree(ROOT / "docs", tree / "docs", ignore=shutil.ignore_patterns("figures"))
    params = yaml.safe_load((tree / "params.yaml").read_text())
    params["probe"] |= {"epochs": 1, "min_steps": 3}
    (tree / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def said(model, *words, **variables) -> str:
        ask = ["-m", "ecglib", "reproduce", model, "--on", "ptb-xl", "--data", str(data), *words]
        return call(tree, sys.executable, *ask, ECGLIB_CACHE=str(tmp_path / "cache"), **variables)

    text = said("merl", "--weights", "dummy")
    assert f"{3 + len(predictions.BASELINES)} stages to run" in text and "DUMMY WEIGHTS: NOTHING WAS LEARNED" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines[1:]] == ["zoo:merl@2.5"] * 2 + [*predictions.BASELINES]
    assert all("MERL 0.887 (0.879 to 0.896)" in line and "DUMMY WEIGHTS" in line for line in lines[1:3])
    assert "10 here, 2,198 in the published test set super-2198" in text and "fed from 100 Hz" in text
    with Hub() as hub:  # real weights: fetched once, verified, probed; pack and baselines stay as they are
        hub.zenodo(zoo.card("clef_small").location, {"clef_small.ckpt": checkpoint(tmp_path)})
        text = said("clef_small", **hub.environment())
        assert "2 stages to run" in text and "DUMMY" not in text and "zoo:clef_small" in text
    cohort = tree / "studies/reproduce-ptb-xl-super-2198/results/probe/zoo-clef_small/predictions.parquet"
    assert set(pd.read_parquet(cohort).note) == {""}, "published weights, and PTB-XL is not what they have seen"
    text = said("ecgjepa_weimann_s", "--out", str(tmp_path / "out"))
    assert "nothing has changed" in text and "No weights of ECG-JEPA (Weimann)" in text and "no weights here" in text
    assert (tmp_path / "out/reproduction.csv").is_file()
