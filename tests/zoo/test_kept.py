"""A fitted model: kept, killed and resumed to the same bytes, checked when loaded, and equal to itself on raw files."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from crude_corpus import FOLDER, crude_ecg
from safetensors.torch import load_file
from scipy.special import expit, logit

from benchmarks import predicting
from ecglib import EcgError, models
from ecglib.data import cohort, wfdb_io
from ecglib.data.recording import LEADS
from ecglib.evaluation import fitting
from ecglib.pipeline import quality
from ecglib.pipeline.cli import main
from ecglib.rhythm import noise_detection
from ecglib.zoo import embed, fit, kept, predict

N, FS = 48, 100
TINY = {"widths": (8, 8, 16, 16), "stem": 8, "group_width": 4}
CHILD = """
import os, signal, sys
from ecglib.evaluation import fitting
from ecglib.zoo import embed, fit, kept, predict
embed.SHOWN_S = fitting.SHOWN_S = -1
lines = []
def progress(line):
    lines.append(line)
    if " left" in line and len(lines) >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
def highest():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
what, place, out = sys.argv[1:4]
if what == "fit":
    fit.run(place, out, fit.Settings("scratch:resnet1d", recipe="quick"), progress)
elif what == "predict":
    predict.run(kept.load(place), [sys.argv[5]], out, batch=2, progress=progress)
else:
    model, before = kept.load(place), []
    for times in (1, 10):
        predict.run(model, [sys.argv[5]] * times, out, batch=4, progress=lambda line: None)
        before.append(highest())
    print(before[1] - before[0])
"""
QUICK = "fitting.RECIPES['quick'] = fitting.Recipe('a test', 0.01, 0.0, 8, 2, 12, objective={'loss': 'bce'})\n"


def quiet(line):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """48 recordings, tall or not and slow or not, packed; an encoder; a model on its features, and one on trees."""
    root = tmp_path_factory.mktemp("kept")
    (root / "raw/deep").mkdir(parents=True)
    random, rows = np.random.default_rng(1), []
    for i in range(N):
        tall, slow = i % 2, i // 2 % 2
        counts = crude_ecg(i, FS) * (1 + tall) + random.integers(-20, 20, (12, 10 * FS))
        if slow:
            counts = np.repeat(counts, 2, axis=1)[:, : counts.shape[1]]
        if i == 5:
            counts[6:] = 0  # chest leads fell off
        name = f"deep/r{i}" if i % 3 == 0 else f"r{i}"
        where, stem = (root / "raw/deep", f"r{i}") if i % 3 == 0 else (root / "raw", f"r{i}")
        wfdb_io.write(where, stem, counts, FS, LEADS, 1000)
        row = {"record": name, "patient": f"p{i // 4}", "split": ("train", "val", "test")[i // 4 % 3], "device": "X1"}
        rows.append(
            row
            | {
                "tall": tall,
                "slow": slow,
                "size": ("small", "big")[tall],
                "dead": "" if i == 7 else ("yes", "no")[i % 2],
            }
        )
    pd.DataFrame(rows).to_csv(root / "raw/records.csv", index=False)
    options = dict(options={"labels": ["tall", "slow"]}, workers=1)
    cohort.pack("toy", FOLDER, root / "raw", root / "cohort", **options)
    encoder = models.build("net1d", "small", 12, **TINY)
    facts = dict(leads=list(LEADS), profile="study", cohorts=["elsewhere"], splits=[["pretrain"]])
    models.save(encoder, root / "encoder", objective={"objective": "byol"}, **facts)
    fit.run(root / "cohort", root / "linear", fit.Settings(str(root / "encoder")), quiet)
    fit.run(root / "cohort", root / "trees", fit.Settings("features", leads=("I", "II", "V5")), quiet)
    return root


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def child(*words, expected=-signal.SIGKILL) -> str:
    code = CHILD.replace("lines = []\n", QUICK + "lines = []\n")
    two = os.environ | {"LOKY_MAX_CPU_COUNT": "2"}  # else more files would mean more threads, and those more memory
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, env=two)
    assert done.returncode == expected, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", ["linear", "trees"])
def test_what_it_says_of_files_is_what_was_measured_on_the_cohort(place, tmp_path, name):
    model, packed = kept.load(place / name), cohort.open(place / "cohort")
    predict.run(model, [place / "raw"], tmp_path / "scores.parquet", progress=quiet)
    table = pd.read_parquet(tmp_path / "scores.parquet").set_index("record").loc[packed.records.record_id]
    p = model.of_rows(packed, np.arange(N))
    assert p.std(0).min() > 0.05
    for k, label in enumerate(["tall", "slow"]):
        np.testing.assert_allclose(table[f"p: {label}"], p[:, k], atol=2e-6)
        facts = model.info["labels"][k]
        wanted = expit(facts["slope"] * logit(np.clip(p[:, k], 1e-7, 1 - 1e-7)) + facts["intercept"])
        np.testing.assert_allclose(table[f"calibrated: {label}"], wanted, atol=1e-5)
        assert list(table[f"call: {label}"]) == [int(value >= facts["threshold"]) for value in p[:, k]]
    assert table.missing_leads["r5"] == {"linear": "V1 V2 V3 V4 V5 V6", "trees": "V5"}[name]


def test_the_facts_are_those_of_the_cohort(place):
    info, packed = kept.facts(place / "linear"), cohort.open(place / "cohort")
    assert [label["name"] for label in info["labels"]] == ["tall", "slow"]
    assert info["fitted_on"]["splits"]["train"] == {"records": 16, "patients": 4}
    assert info["fitted_on"]["fs_recorded"] == [100.0] and info["fitted_on"]["devices"] == ["X1"]
    assert info["labels"][0]["train_positives"] == 8 and info["labels"][0]["train_known"] == 16
    assert info["encoder"]["pretrained_on"] == ["elsewhere (pretrain)"] and info["encoder"]["name"] == "byol"
    assert {row["statistic"] for row in info["metrics"]["test"]} >= {"auroc", "auprc", "sensitivity", "ece, calibrated"}
    test = packed.test_rows()
    truth, p = packed.states(["tall"], test)[:, 0], kept.load(place / "linear").of_rows(packed, test)[:, 0]
    pairs = p[truth == 1][:, None] - p[truth == 0][None]
    (row,) = [r for r in info["metrics"]["test"] if (r["label"], r["statistic"]) == ("tall", "auroc")]
    assert row["value"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean(), abs=1e-6)
    assert row["low"] <= row["value"] <= row["high"]


def test_the_card_is_one_that_the_hub_reads_and_holds_the_same_numbers(place):
    text, info = (place / "linear/README.md").read_text(), kept.facts(place / "linear")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "ecglib" and "ecg" in head["tags"]
    found = {m["type"]: m["value"] for m in head["model-index"][0]["results"][0]["metrics"]}
    macro = {row["statistic"]: row["value"] for row in info["metrics"]["test"] if row["label"] == "macro"}
    assert found["roc_auc"] == pytest.approx(macro["auroc"], abs=1e-4)
    for words in ("ecglib predict", "tall", "toy", "X1", "100 Hz", "Not a medical device"):
        assert words in text


def test_a_card_without_scores_says_so(place):
    text = kept.card(kept.facts(place / "linear") | {"metrics": {"val": []}})
    assert "no label has both classes" in text and "model-index" not in text


def test_nothing_but_plain_files_is_kept_and_the_same_fit_gives_the_same_bytes(place, tmp_path):
    assert sorted(contents(place / "linear")) == ["README.md", "model.json", "model.safetensors"]
    assert {"encoder.stem.weight", "head.weight"} <= load_file(place / "linear/model.safetensors").keys()
    fit.run(place / "cohort", tmp_path / "linear", fit.Settings(str(place / "encoder")), quiet)
    assert contents(tmp_path / "linear") == contents(place / "linear")
    assert not list(tmp_path.glob(".*"))


def test_a_killed_fit_goes_on_to_the_same_bytes(place, tmp_path, monkeypatch):
    exec(QUICK)  # the recipe of the child
    settings = fit.Settings("scratch:resnet1d", recipe="quick")
    child("fit", place / "cohort", tmp_path / "m", 5)
    assert (tmp_path / ".m.part/training/checkpoint.safetensors").is_file() and not (tmp_path / "m").exists()
    monkeypatch.setattr(fitting, "SHOWN_S", -1)
    lines = []
    fit.run(place / "cohort", tmp_path / "m", settings, lines.append)
    steps = [int(line.split()[0]) for line in lines if " steps, " in line]
    assert steps[0] > 1 and steps[-1] == 12
    (tmp_path / "again").mkdir()
    fit.run(place / "cohort", tmp_path / "again/m", settings, quiet)
    assert contents(tmp_path / "m") == contents(tmp_path / "again/m") and not list(tmp_path.glob(".*"))
    monkeypatch.delitem(fitting.RECIPES, "quick")


def test_predictions_are_the_same_bytes_twice_and_after_a_kill(place, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "CHUNK", 4)
    model = kept.load(place / "linear")
    for name in ("a", "b"):
        predict.run(model, [place / "raw"], tmp_path / f"{name}.csv", batch=2, progress=quiet)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    monkeypatch.setitem(globals(), "QUICK", "embed.CHUNK = 4\n")
    child("predict", place / "linear", tmp_path / "c.csv", 3, place / "raw")
    assert list((tmp_path / "c.part").glob("*.parquet")) and not (tmp_path / "c.csv").exists()
    done = predict.run(model, [place / "raw"], tmp_path / "c.csv", batch=2, progress=quiet)
    assert done["kept"] >= 4
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc")
def test_ten_times_the_folder_takes_the_same_memory(place, tmp_path):
    grown = float(child("memory", place / "linear", tmp_path / "s.parquet", 0, place / "raw", expected=0))
    assert grown < 30, f"{grown} MiB"


def test_a_csv_holds_the_numbers_of_the_parquet(place, tmp_path):
    model = kept.load(place / "linear")
    for end in ("csv", "parquet"):
        predict.run(model, [place / "raw/deep", place / "raw/r1.hea"], tmp_path / f"s.{end}", progress=quiet)
    text, table = pd.read_csv(tmp_path / "s.csv"), pd.read_parquet(tmp_path / "s.parquet")
    assert list(text) == list(table) and len(text) == 17 and list(text.folder)[-1] == 1
    numbers = table.select_dtypes("number").columns
    np.testing.assert_allclose(text[numbers], table[numbers], rtol=1e-4, atol=1e-9)


def spoilt(place, tmp_path, change):
    folder = tmp_path / "model"
    shutil.copytree(place / "linear", folder)
    change(folder)
    return folder


def edit(**changes):
    def change(folder):
        info = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(info | changes))

    return change


def flip(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def fewer(folder):
    info = json.loads((folder / "model.json").read_text())
    edit(labels=info["labels"][:1])(folder)


def other_network(folder):
    info = json.loads((folder / "model.json").read_text())
    info["encoder"]["config"]["widths"] = [8, 8, 16, 32]
    (folder / "model.json").write_text(json.dumps(info))


SPOILT = [
    (edit(format=2), "format 2, this version reads 1 -> update ecglib"),
    (edit(format=0), "format 0, this version reads 1 -> fit the model again"),
    (flip, "is not the file that model.json describes"),
    (fewer, "2 outputs for 1 labels"),
    (other_network, "the tensors are not those of the network"),
    (lambda folder: (folder / "model.safetensors").unlink(), "no kept model here"),
    (lambda folder: (folder / "model.json").write_text("{"), "cannot be read"),
    (lambda folder: (folder / "model.json").write_text('{"format": 1}'), "lacks kind"),
]


@pytest.mark.parametrize(("change", "told"), SPOILT, ids=range(len(SPOILT)))
def test_a_folder_that_is_not_what_it_says_is_refused_with_the_remedy(place, tmp_path, change, told):
    with pytest.raises(EcgError) as caught:
        kept.load(spoilt(place, tmp_path, change))
    assert told in str(caught.value) and "->" in str(caught.value)


REFUSED = [
    (dict(encoder="nobody"), "no encoder 'nobody'"),
    (dict(encoder="features", how="linear"), "linear does not go with features"),
    (dict(encoder="scratch", how="linear"), "linear does not go with scratch"),
    (dict(encoder="scratch", recipe="nothing"), "unknown recipe 'nothing'"),
    (dict(encoder="features", labels=("AFIB",)), "unknown label 'AFIB'"),
    (dict(encoder="features", columns=("nothing",)), "unknown column 'nothing'"),
    (dict(encoder="features", columns=("patient_id",)), "is no answer"),
    (dict(encoder="features", labels=("tall",), columns=("dead",)), "unlike tasks"),
    (dict(encoder="features", leads=("V9",)), "unknown lead 'V9'"),
    (dict(encoder="features", min_positives=99), "no label has 99 positives"),
    (dict(encoder="features", recordings="raw"), "is no published model, which alone has recordings"),
    (dict(encoder="scratch", weights="dummy"), "is no published model, which alone has weights"),
    (dict(encoder="ecgfounder", file="a.pth"), "name it zoo:ecgfounder, or leave --file out"),
    (dict(encoder="features", accept="CC BY-NC 4.0"), "leave --accept out"),
    (dict(encoder="zoo:ecgfounder", weights="dummy", leads=("I",)), "reads its own leads"),
]


@pytest.mark.parametrize(("asked", "told"), REFUSED, ids=range(len(REFUSED)))
def test_a_fit_that_cannot_be_is_refused_before_any_work(place, tmp_path, asked, told):
    with pytest.raises(EcgError, match=told):
        fit.run(place / "cohort", tmp_path / "out", fit.Settings(**asked), quiet)
    assert list(tmp_path.iterdir()) == []


def test_what_a_command_did_not_write_is_not_replaced(place, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("precious")
    with pytest.raises(EcgError, match="is not from this command"):
        fit.run(place / "cohort", tmp_path / "out", fit.Settings("features"), quiet)
    assert (tmp_path / "out/thesis.txt").read_text() == "precious"

    def saving(*_):  # somebody, during the fit
        (tmp_path / "late").mkdir(exist_ok=True)
        (tmp_path / "late/thesis.txt").write_text("precious")

    with pytest.raises(EcgError, match="is not from this command"):
        fit.run(place / "cohort", tmp_path / "late", fit.Settings("features"), saving)
    assert [path.name for path in (tmp_path / "late").iterdir()] == ["thesis.txt"]
    (tmp_path / "s.csv").write_text("mine")
    with pytest.raises(EcgError, match="not from this command"):
        predict.run(kept.load(place / "linear"), [place / "raw"], tmp_path / "s.csv", progress=quiet)


def test_a_binary_column_is_learned_and_an_empty_cell_is_unknown(place, tmp_path):
    info = fit.run(place / "cohort", tmp_path / "m", fit.Settings("features", columns=("dead", "size=big")), quiet)
    assert info["kind"] == "binary" and [label["name"] for label in info["labels"]] == ["dead", "size=big"]
    assert info["labels"][0]["val_known"] == 15  # one cell is empty
    assert info["labels"][1]["train_positives"] == 8


def test_what_differs_from_the_recordings_it_was_fitted_on_is_said(place, tmp_path):
    model, folder = kept.load(place / "linear"), tmp_path / "new"
    folder.mkdir()
    wfdb_io.write(folder, "fast", crude_ecg(1, 500), 500, LEADS, 1000)
    wfdb_io.write(folder, "short", crude_ecg(1, FS, 4), FS, LEADS, 1000)
    wfdb_io.write(folder, "long", crude_ecg(1, FS, 30), FS, LEADS, 1000)
    wfdb_io.write(folder, "limb", crude_ecg(1, FS, n_leads=2), FS, ("I", "II"), 1000)
    wfdb_io.write(folder, "same", crude_ecg(1, FS), FS, LEADS, 1000)
    for name, device in (("same", "X1"), ("fast", "Z9")):
        header = folder / f"{name}.hea"
        header.write_text(header.read_text() + f"# Device: {device}\n")
    predict.run(model, [folder], tmp_path / "s.parquet", progress=quiet)
    told = pd.read_parquet(tmp_path / "s.parquet").set_index("record").out_of_profile
    assert told["same"] == "" and "rate 500 Hz, fitted on 100" in told["fast"] and "device Z9 not seen" in told["fast"]
    assert told["short"] == "4 s, fitted on 10 s: filled with zeros"
    assert told["long"] == "30 s: the first 10 s were read"
    assert told["limb"] == "without lead V1 V2 V3 V4 V5 V6"


def test_the_commands_lead_from_a_cohort_to_a_judged_table(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fitted = ["fit", str(place / "cohort"), "--labels", "tall, slow", "--encoder", str(place / "encoder"), "--out", "m"]
    assert main(fitted) == 0
    shown = capsys.readouterr().out
    assert "test patients" in shown and "next: ecglib predict m" in shown
    assert main(["predict", "m", str(place / "raw"), "--out", "s.csv"]) == 0
    assert "48 records, 0 refused" in capsys.readouterr().out
    assert main(["predict", "m", str(place / "raw/r1.hea"), "--plot", "sheet.svg"]) == 0
    shown = capsys.readouterr().out
    assert "tall" in shown and "threshold" in shown and "yes" in shown
    assert "m calls:" in (tmp_path / "sheet.svg").read_text()
    words = ["evaluate", "s.csv", str(place / "raw/records.csv"), "--split", "test", "--out", "scores.csv"]
    assert main([*words, "--option", "labels=[tall, slow]"]) == 0
    table = pd.read_csv("scores.csv")
    wanted = {(r["label"], r["statistic"]): r["value"] for r in kept.facts("m")["metrics"]["test"]}
    for row in table.itertuples():
        assert row.value == pytest.approx(wanted[row.label, row.statistic], abs=2e-5)
    assert main(["evaluate", "s.csv", str(place / "cohort"), "--split", "test", "--out", "of_cohort.csv"]) == 0
    assert (tmp_path / "of_cohort.csv").read_bytes() == (tmp_path / "scores.csv").read_bytes()
    assert main(["predict", "m", str(place / "raw")]) == 2
    assert "add --out" in capsys.readouterr().err


def test_an_answer_is_explained_over_the_sheet(place, tmp_path, capsys):
    """The limb leads alone hold a signal in r5: whatever speaks for a statement lies there."""
    words = ["explain", str(place / "linear"), str(place / "raw/r5"), "--statement", "tall"]
    for method in ("integrated", "gradient", "occlusion"):
        assert main([*words, "--method", method, "--plot", str(tmp_path / f"{method}.svg")]) == 0
        told = capsys.readouterr().out
        leads = re.findall(r"(\S+) (\d+) %", told.split("speaks for it:")[1].split("\n")[0])
        assert "tall, probability" in told and sum(int(share) for _, share in leads) == pytest.approx(100, abs=3)
        assert {lead for lead, _ in leads} <= set(LEADS[:6])
    one = kept.load(place / "linear")
    _, _, table = predict.one(one, place / "raw/r5")
    p = table.set_index("label").probability["tall"]
    assert f"probability {p:.2f}" in told and (tmp_path / "integrated.svg").stat().st_size > 10000
    sheet = ["--plot", str(tmp_path / "a.svg")]
    assert main([*words[:-1], "tal", *sheet]) == 2 and "did you mean 'tall'" in capsys.readouterr().err
    assert main([*words, "--method", "rollout", *sheet]) == 2 and "net1d has no tokens" in capsys.readouterr().err
    assert main(["explain", str(place / "trees"), *words[2:], *sheet]) == 2
    assert "only networks of this library are explained" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--weights", "dummy"], ["--file", "a.pth"], ["--accept", "MIT"]])
def test_options_of_published_models_are_refused_for_a_kept_one(place, capsys, option):
    assert main(["predict", str(place / "linear"), str(place / "raw/r1"), *option]) == 2
    told = capsys.readouterr().err
    assert f"which alone has {option[0][2:]}" in told and f"leave {option[0]} out" in told


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_number_of_the_network_is_no_answer(place, monkeypatch, capsys, value):
    assert np.isnan(kept.load(place / "linear").calls(np.full((1, 2), np.nan))).all()
    monkeypatch.setattr(kept.Kept, "probabilities", lambda self, inputs: np.full((len(inputs), 2), value))
    assert main(["predict", str(place / "linear"), str(place / "raw/r1")]) == 2
    told = capsys.readouterr()
    assert "the network gives NaN or infinity" in told.err and "raw/r1" in told.err and told.out == ""


def test_a_model_that_says_how_long_recordings_were_is_still_read(place, tmp_path):
    facts = kept.facts(place / "linear")
    assert "longer" not in facts["fitted_on"]
    older = edit(fitted_on=facts["fitted_on"] | {"longer": False})
    model = kept.load(spoilt(place, tmp_path, older))
    assert model.out_of_profile(100, 30, []) == ["30 s: the first 10 s were read"]


def test_quiet_fits_and_predicts_without_lines_of_progress(place, tmp_path, capsys):
    fitted = ["fit", str(place / "cohort"), "--encoder", str(place / "encoder"), "--out"]
    for words, line, result in (
        ([*fitted, str(tmp_path / "m")], "training", "next: ecglib predict"),
        (
            ["predict", str(place / "linear"), str(place / "raw"), "--out", str(tmp_path / "s.csv")],
            "through",
            "refused",
        ),
    ):
        assert main(words) == 0
        loud = capsys.readouterr().out
        assert main(["-q", *words]) == 0
        quiet = capsys.readouterr().out
        assert line in loud and line not in quiet and result in quiet


def detector_file(folder) -> Path:
    """A detector of noise that nobody has trained: what it says does not matter, only that it is passed on."""
    names = noise_detection.feature_names("HRV and morphology")
    numbers = {"median": np.zeros(len(names)), "mean": np.zeros(len(names)), "scale": np.ones(len(names))}
    numbers |= {"weight": np.random.default_rng(3).normal(0, 0.2, len(names)), "clean": np.linspace(0.0, 0.9, 1001)}
    content = {name: values.tolist() for name, values in numbers.items()}
    content |= {"detector": "HRV and morphology", "trained_on": "nothing", "seconds": 10.0, "fs": 100.0, "bias": 0.5}
    (folder / "detector.json").write_text(json.dumps(content))
    return folder / "detector.json"


def test_a_detector_adds_what_the_quality_command_says_and_changes_nothing_else(place, tmp_path, capsys):
    model, detector, ecgs = kept.load(place / "linear"), detector_file(tmp_path), tmp_path / "ecgs"
    ecgs.mkdir()
    for i in range(6):
        for end in (".hea", ".dat"):
            shutil.copy(min((place / "raw").rglob(f"r{i}{end}")), ecgs)
    wfdb_io.write(ecgs, "short", crude_ecg(0, FS)[:, : 4 * FS], FS, LEADS, 1000)
    predict.run(model, [ecgs], tmp_path / "plain.parquet", progress=quiet)
    predict.run(model, [ecgs], tmp_path / "noise.parquet", progress=quiet, detector=detector)
    plain, both = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("plain", "noise"))
    pd.testing.assert_frame_equal(both.drop(columns=list(predict.NOISE)), plain, check_exact=True)
    at = list(both).index("out_of_profile") + 1
    assert list(both)[at : at + 3] == ["noisy", "noise_probability", "noise_reason"]
    told, both = pd.DataFrame(quality.judged([str(ecgs)], detector)), both.set_index("record")
    told.index = [Path(record).name for record in told.record]
    for name, row in both.drop("short").iterrows():
        assert row.noisy == (told.quality[name] == "noisy") and f"worst lead {told.lead[name]}" in row.noise_reason
        assert row.noise_probability == pytest.approx(told.probability[name], rel=1e-6)
    assert both.noise_probability.drop("short").std() > 0
    assert pd.isna(both.noisy["short"]) and "4.0 s are shorter than a window" in both.noise_reason["short"]
    words = ["predict", str(place / "linear"), str(ecgs / "r0"), "--detector", str(detector)]
    assert main(words) == 0
    said = {0: "noise: good enough, worst lead", 1: "noise: NOISY, worst lead"}[int(both.noisy["r0"])]
    assert f"{said} {told.lead['r0']}" in capsys.readouterr().out
    assert main([*words[:-1], str(tmp_path / "none.json")]) == 2
    assert "no detector here" in capsys.readouterr().err


def test_the_benchmark_takes_both_speeds_from_the_same_rounds():
    rounds = [({"records_per_s": 10.0}, (4.0, None)), ({"records_per_s": 8.0}, (5.0, None))]
    assert predicting.fastest(rounds) == {"ours": 10.0, "theirs": 5.0, "ratio": 2.0}


@pytest.mark.parametrize("model", ["linear", "zoo:ecgfounder"])
def test_an_odd_rate_is_refused_with_the_option_that_takes_it(place, tmp_path, capsys, model):
    wfdb_io.write(tmp_path, "odd", crude_ecg(1, 249.89), 249.89, LEADS, 1000)
    wfdb_io.write(tmp_path, "even", crude_ecg(1, 250), 250, LEADS, 1000)
    named = [model, "--weights", "dummy"] if model.startswith("zoo:") else [str(place / model)]
    words = ["predict", named[0], str(tmp_path / "odd"), *named[1:]]
    assert main(words) == 2
    assert "no simple ratio" in (told := capsys.readouterr().err) and "--fs-tolerance 0.0001" in told
    assert main([*words, "--fs-tolerance", "1e-4"]) == 0
    assert main([*words, "--fs-tolerance", "1e-4", "--out", str(tmp_path / "odd.parquet")]) == 0
    even = ["predict", named[0], str(tmp_path / "even"), *named[1:], "--out", str(tmp_path / "even.parquet")]
    assert main(even) == 0
    odd, even = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("odd", "even"))
    scores = [name for name in odd if "p: " in name]
    np.testing.assert_allclose(odd[scores], even[scores], atol=0.02)
    metadata = [pq.read_schema(tmp_path / f"{name}.parquet").metadata for name in ("odd", "even")]
    assert metadata[0][b"fs_tolerance"] == b"0.0001" and b"fs_tolerance" not in metadata[1]


def test_a_published_head_speaks_out_of_the_box_its_serial_statements_marked(place, tmp_path, capsys):
    words = ["predict", "zoo:ecgfounder", str(place / "raw/r1"), "--weights", "dummy"]
    assert main([*words, "--out", str(tmp_path / "s.parquet")]) == 0
    table = pd.read_parquet(tmp_path / "s.parquet")
    names = [name.split("p: ")[0] for name in table if "p: " in name]
    assert len(names) == 150 and names.count("serial ") == 22 and "call: NORMAL ECG" not in table
    assert table.out_of_profile[0] == "rate 100 Hz, trained on 500"
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "DUMMY WEIGHTS" in shown and "raw scores of the release" in shown
    assert main(["predict", "zoo:merl", str(place / "raw/r1"), "--weights", "dummy"]) == 2
    assert "without a head" in capsys.readouterr().err
