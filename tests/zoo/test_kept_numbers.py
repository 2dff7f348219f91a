"""A number, and a yes or no by a rule, fitted and kept: its unit, its error, what it says of files."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from crude_corpus import FOLDER, crude_ecg

from ecglib import EcgError, models
from ecglib.data import cohort, wfdb_io
from ecglib.data.recording import LEADS
from ecglib.evaluation import classifiers, embeddings, fitting, scoring, tasks
from ecglib.pipeline.cli import main
from ecglib.zoo import fit, kept, predict

FS, N = 100, 60
TINY = {"widths": (8, 8, 16, 16), "stem": 8, "group_width": 4}
AGE = tasks.make("age", {"kind": "number", "columns": "age", "unit": "years", "keep": {"age": {"below": 90}}})
RULE = {"kind": "binary", "columns": "age", "positive": {"above": 60}}


def quiet(line):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """60 recordings of 30 patients whose amplitude falls with age; two patients without an age, one aged 95."""
    root = tmp_path_factory.mktemp("numbers")
    (root / "raw").mkdir()
    random, rows = np.random.default_rng(2), []
    for i in range(N):
        age = 30 + (i // 2 * 17) % 60
        counts = crude_ecg(5, FS) * (2 - age / 60) + random.integers(-20, 20, (12, 10 * FS))
        wfdb_io.write(root / "raw", f"r{i}", np.rint(counts).astype(int), FS, LEADS, 1000)
        shown = {6: "", 7: "", 8: 95}.get(i // 2, age)
        split = ("train", "val", "test")[i // 2 % 3]
        rows.append(dict(record=f"r{i}", patient=f"p{i // 2}", split=split, age=shown, sex="FM"[i % 2], tall=i % 2))
    pd.DataFrame(rows).to_csv(root / "raw/records.csv", index=False)
    cohort.pack("toy", FOLDER, root / "raw", root / "cohort", options={"labels": ["tall"]}, workers=1)
    encoder = models.build("net1d", "small", 12, **TINY)
    facts = dict(leads=list(LEADS), profile="study", cohorts=["elsewhere"], splits=[["pretrain"]])
    models.save(encoder, root / "encoder", objective={"objective": "byol"}, **facts)
    fit.run(root / "cohort", root / "linear", fit.Settings(str(root / "encoder"), task=AGE), quiet)
    fit.run(root / "cohort", root / "trees", fit.Settings("features", task=AGE), quiet)
    return root


@pytest.fixture
def quick(monkeypatch):
    recipe = fitting.Recipe("a test", 0.01, 0.0, 8, 2, 12, objective={"loss": "bce"})
    monkeypatch.setitem(fitting.RECIPES, "quick", recipe)


def known_rows(packed, split):
    rows = packed.rows(split) if split != "test" else packed.test_rows()
    return rows[(packed.records.age.iloc[rows] < 90).to_numpy()]


def test_the_linear_model_is_the_ridge_regression_on_standardised_years(place):
    packed, encoder = cohort.open(place / "cohort"), models.load(place / "encoder")[0]
    rows = [known_rows(packed, split) for split in ("train", "val", "test")]
    y = [packed.records.age.to_numpy(float)[some][:, None] for some in rows]
    z = [embeddings.features(encoder, packed, some, LEADS, "study") for some in rows]
    centre, spread = y[0].mean(), y[0].std()
    model = classifiers.ridge(z[0], (y[0] - centre) / spread, z[1], (y[1] - centre) / spread)
    answers = kept.load(place / "linear").of_rows(packed, rows[2])
    np.testing.assert_allclose(answers, model(z[2]) * spread + centre, atol=1e-3)  # float32 features in other batches
    info = kept.facts(place / "linear")
    (label,) = info["labels"]
    assert (label["name"], label["unit"], label["train_known"]) == ("age", "years", len(rows[0]))
    assert label["centre"] == pytest.approx(centre) and label["spread"] == pytest.approx(spread)
    assert info["kind"] == "number" and info["task"]["definition"] == "age (age < 90)"
    assert info["fitted_on"]["splits"]["train"]["records"] == len(rows[0]) < len(packed.rows("train"))


@pytest.mark.parametrize("name", ["linear", "trees"])
def test_files_get_the_number_in_its_unit_and_it_is_judged(place, tmp_path, name):
    model, packed = kept.load(place / name), cohort.open(place / "cohort")
    predict.run(model, [place / "raw"], tmp_path / "s.csv", progress=quiet)
    table = pd.read_csv(tmp_path / "s.csv").set_index("record").loc[packed.records.record_id]
    said = table["number: age [years]"].to_numpy()
    np.testing.assert_allclose(said, model.of_rows(packed, np.arange(N))[:, 0], rtol=1e-5)  # six digits in a CSV
    test = known_rows(packed, "test")
    off = said[test] - packed.records.age.to_numpy(float)[test]
    metrics = {row["statistic"]: row for row in model.info["metrics"]["test"]}
    assert metrics["mae"]["value"] == pytest.approx(np.abs(off).mean(), rel=1e-4)
    assert metrics["mae"]["low"] < metrics["mae"]["value"] < metrics["mae"]["high"]
    assert metrics["mae"]["value"] < np.abs(packed.records.age.iloc[test] - 60).mean()  # it has learned something
    scores, truth = scoring.read_scores(tmp_path / "s.csv"), scoring.read_truth(place / "raw/records.csv", ["age"])
    judged = scoring.evaluate(scores, truth, "test", progress=quiet).set_index("statistic")
    assert judged.records["mae"] == len(packed.test_rows()) - packed.records.age.iloc[packed.test_rows()].isna().sum()
    known = packed.test_rows()[packed.records.age.iloc[packed.test_rows()].notna().to_numpy()]
    off = said[known] - packed.records.age.to_numpy(float)[known]
    wanted = {"mae": np.abs(off).mean(), "rmse": np.sqrt((off**2).mean()), "bias": off.mean()}
    wanted |= {"r": np.corrcoef(said[known], packed.records.age.iloc[known])[0, 1]}
    wanted |= {"loa_low": off.mean() - 1.959964 * off.std(ddof=1), "loa_high": off.mean() + 1.959964 * off.std(ddof=1)}
    for statistic, value in wanted.items():
        assert judged.value[statistic] == pytest.approx(value, rel=1e-5), statistic
        assert judged.low[statistic] <= judged.value[statistic] <= judged.high[statistic]


@pytest.mark.parametrize("how", ["finetune", "lp-ft", "lora"])
def test_a_network_learns_a_number_too_and_twice_the_same(place, tmp_path, quick, how):
    settings = fit.Settings(str(place / "encoder"), how=how, recipe="quick", task=AGE)
    for name in ("one", "two"):
        info = fit.run(place / "cohort", tmp_path / name, settings, quiet)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0]["model.safetensors"] == files[1]["model.safetensors"]
    packed, model = cohort.open(place / "cohort"), kept.load(tmp_path / "one")
    test = known_rows(packed, "test")
    off = np.abs(model.of_rows(packed, test)[:, 0] - packed.records.age.to_numpy(float)[test]).mean()
    (mae,) = [row["value"] for row in info["metrics"]["test"] if row["statistic"] == "mae"]
    assert mae == pytest.approx(off, rel=1e-5)


def test_training_minimises_the_huber_loss_of_standardised_numbers(place, tmp_path):
    packed = cohort.open(place / "cohort")
    labelled = fitting.of_task(packed, AGE)
    rows = labelled.rows("train")
    data = fitting.NumberData(labelled, rows, LEADS, "study")
    y = packed.records.age.to_numpy(float)[rows]
    np.testing.assert_allclose(data.batch(np.arange(5)).labels[:, 0], ((y - y.mean()) / y.std())[:5], rtol=1e-5)
    recipe = fitting.Recipe("a test", 0.01, 0.0, 8, 1, 2, select="loss", objective={"loss": "bce"})
    val = fitting.NumberData(labelled, labelled.rows("val"), LEADS, "study")
    options = dict(seed=0, folder=tmp_path, progress=quiet)
    objective = fitting.network(models.build("net1d", "small", 12, **TINY), data, val, recipe, **options)
    assert objective.loss == "huber"
    judged = fitting._validated_number(val, "loss", objective)
    with np.errstate(all="raise"):
        import torch

        outputs = torch.from_numpy(fitting.probing.mean_logits(objective, val).numpy())
        assert judged["val_loss"] == pytest.approx(
            float(torch.nn.functional.smooth_l1_loss(outputs, val.numbers)), rel=1e-5
        )


def test_a_logarithm_is_learned_and_the_number_written(place, tmp_path):
    log = tasks.make("age", {"kind": "number", "columns": "age", "unit": "years", "log": True})
    info = fit.run(place / "cohort", tmp_path / "m", fit.Settings(str(place / "encoder"), task=log), quiet)
    packed, model = cohort.open(place / "cohort"), kept.load(tmp_path / "m")
    test = packed.test_rows()[packed.records.age.iloc[packed.test_rows()].notna().to_numpy()]
    said, true = model.of_rows(packed, test)[:, 0], packed.records.age.to_numpy(float)[test]
    assert 15 < said.min() and said.max() < 150  # years, not their logarithms
    (mae,) = [row["value"] for row in info["metrics"]["test"] if row["statistic"] == "mae"]
    assert mae == pytest.approx(np.abs(np.log(said / true)).mean(), rel=1e-4)
    assert "the natural logarithm of years" in (tmp_path / "m/README.md").read_text()


def test_the_commands_fit_predict_and_evaluate_an_age(place, tmp_path, capsys):
    out, scores = str(tmp_path / "model"), str(tmp_path / "s.csv")
    words = ["--encoder", str(place / "encoder"), "--out", out]
    task = "age={kind: number, columns: age, unit: years, keep: {age: {below: 90}}}"
    assert main(["fit", str(place / "cohort"), *words, "--task", task]) == 0
    assert re.search(r"test patients, 95 % intervals\nstatistic +records +mae +rmse", capsys.readouterr().out)
    card = (tmp_path / "model/README.md").read_text()
    assert "Estimates age in years from an electrocardiogram (age (age &#60; 90))." in card
    assert "tags: [ecg, electrocardiogram, regression]" in card and "type: mae" in card
    assert "| label | records | mae | r | bias | loa_low | loa_high |" in card and "Threshold" not in card
    assert main(["predict", out, str(place / "raw"), "--out", scores]) == 0
    assert main(["evaluate", scores, str(place / "raw/records.csv"), "--split", "test"]) == 0
    assert re.search(r"bias: prediction minus truth.*\n\nstatistic +records +mae +rmse +r ", capsys.readouterr().out)
    assert main(["evaluate", scores, str(place / "cohort"), "--split", "test", "--out", str(tmp_path / "e.csv")]) == 0
    assert set(pd.read_csv(tmp_path / "e.csv").statistic) == set(scoring.NUMBERS)
    capsys.readouterr()
    assert main(["predict", out, str(place / "raw/r2"), "--plot", str(tmp_path / "sheet.svg")]) == 0
    assert re.search(
        r"age [\d.]+ years \(mean absolute error on the test patients [\d.]+, [\d.]+ to", capsys.readouterr().out
    )
    plot = ["--statement", "age", "--method", "gradient", "--plot", str(tmp_path / "map.svg")]
    assert main(["explain", out, str(place / "raw/r2"), *plot]) == 0
    assert re.search(r"r2: age [\d.]+ years by model", capsys.readouterr().out)
    (tmp_path / "t.csv").write_text("record,patient\nr2,p1\n")
    assert main(["evaluate", scores, str(tmp_path / "t.csv")]) == 2
    assert "age is known of no scored record" in capsys.readouterr().err
    with pytest.raises(EcgError, match="the truth has no column weight -> give it a column weight"):
        scoring.read_truth(tmp_path / "t.csv", ["weight"])


def test_a_rule_makes_a_yes_or_no_with_threshold_and_calibration(place, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(json.dumps({"targets": {"old": {"title": "Old", **RULE}}}))
    words = ["--encoder", str(place / "encoder"), "--out", str(tmp_path / "m")]
    assert main(["fit", str(place / "cohort"), *words, "--task", f"{tmp_path / 'mine.yaml'}:targets.old"]) == 0
    info, packed = kept.facts(tmp_path / "m"), cohort.open(place / "cohort")
    old = packed.records.age > 60
    assert info["kind"] == "binary" and info["task"]["definition"] == "age > 60"
    (label,) = info["labels"]
    assert label["name"] == "old" and label["threshold"] is not None
    assert label["train_positives"] == old.iloc[packed.rows("train")].sum()
    assert label["train_known"] == packed.records.age.iloc[packed.rows("train")].notna().sum()
    test = packed.test_rows()[packed.records.age.iloc[packed.test_rows()].notna().to_numpy()]
    p = kept.load(tmp_path / "m").of_rows(packed, test)[:, 0]
    truth = old.iloc[test].to_numpy()
    pairs = p[truth][:, None] - p[~truth][None]
    (auroc,) = [r["value"] for r in info["metrics"]["test"] if (r["label"], r["statistic"]) == ("old", "auroc")]
    assert auroc == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean(), abs=1e-6)


def test_what_cannot_be_learned_is_refused_before_any_work(place, tmp_path, capsys):
    def asked(name, spec, match, **settings):
        with pytest.raises(EcgError, match=match):
            task = tasks.make(name, spec)
            fit.run(place / "cohort", tmp_path / "m", fit.Settings("features", task=task, **settings), quiet)

    asked(
        "x", {"kind": "statements", "columns": ["tall"]}, "a statements task is not fitted -> name statements as labels"
    )
    asked("x", {"kind": "number", "columns": "weight"}, "unknown column 'weight'")
    asked("x", RULE | {"positive": {"above": 100}}, "age > 100 is the same in all training records")
    asked("x", RULE | {"keep": {"age": {"above": 99}}}, "is known of no train record")
    asked("x", RULE, "labels or columns beside a task", labels=("tall",))
    words = ["fit", str(place / "cohort"), "--encoder", "features", "--out", str(tmp_path / "m"), "--task"]
    assert main([*words, "nobody"]) == 2
    assert "no section 'fine_tuning.targets.nobody'" in capsys.readouterr().err
    assert main([*words, "age=3"]) == 2
    assert "3 is no task -> write it like --task" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
