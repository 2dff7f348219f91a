"""`ecglib quality`: good and noisy recordings, what cannot be read, a detector in a file of numbers."""

import json
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError, datasets
from ecglib.data import cohort, wfdb_io
from ecglib.pipeline import croissant, quality
from ecglib.pipeline.cli import main
from ecglib.rhythm import kept_detector, noise_detection
from ecglib.rhythm.noise_corpora import Cut, Strip, known
from ecglib.zoo import predict


def wave(random, seconds=10.0, fs=100, noise=0.02):
    """(time,) mV and the beats (s)."""
    t = np.arange(round(seconds * fs)) / fs
    beats = (
        np.cumsum(np.full(int(seconds / 0.8) + 2, 0.8) + 0.02 * random.standard_normal(int(seconds / 0.8) + 2)) - 0.4
    )
    beats = beats[beats < seconds - 0.2]
    x = sum(np.exp(-(((t - b) / 0.015) ** 2)) + 0.2 * np.exp(-(((t - b - 0.25) / 0.05) ** 2)) for b in beats)
    return (x + noise * random.standard_normal(len(t))).astype(np.float32), beats


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A detector trained on made windows, and its file."""
    random, strips = np.random.default_rng(0), []
    for i in range(60):
        x, beats = wave(random, noise=2.0 if i % 2 else 0.02)
        strips.append(Strip(f"r{i}", f"p{i // 2}", 0.0, "II", x, beats, "sinus", -10.0 if i % 2 else 30.0))
    table = noise_detection.described(known(strips, "made", Cut()))
    detector = noise_detection.train(table, "HRV and morphology", "by_snr", ["logistic"])
    file = tmp_path_factory.mktemp("detector") / "detector.json"
    kept_detector.write(detector, Cut(), file)
    return detector, file, table


def test_a_detector_that_was_written_answers_as_before(trained):
    detector, file, table = trained
    table = table.assign(sd_ratio=np.where(np.arange(len(table)) % 3, table.sd_ratio, np.nan))  # unknown in some
    again, cut = kept_detector.read(file)
    assert (cut.seconds, cut.fs, again.name) == (10, 100, "HRV and morphology")
    np.testing.assert_allclose(again.probability(table)[0], detector.probability(table)[0], atol=1e-12)
    assert again.judge(table).called.tolist() == detector.judge(table).called.tolist()


def test_only_a_logistic_detector_is_written_and_only_one_is_read(trained, tmp_path):
    _, file, table = trained
    tree = noise_detection.train(table, "HRV", "by_snr", ["tree"])
    with pytest.raises(EcgError, match="no logistic regression"):
        kept_detector.write(tree, Cut(), tmp_path / "tree.json")
    content = json.loads(file.read_text())
    for wrong in ({"weight": [1.0]}, {"detector": "HRW"}, {"bias": "x"}, {"clean": []}, {"mean": [np.nan] * 22}):
        (tmp_path / "wrong.json").write_text(json.dumps(content | wrong))
        with pytest.raises(EcgError, match="is no detector"):
            kept_detector.read(tmp_path / "wrong.json")
    with pytest.raises(EcgError, match="no detector here") as caught:
        kept_detector.read(tmp_path / "nowhere.json")
    assert "notebook 14" in caught.value.fix


def test_a_folder_is_judged_record_by_record(trained, tmp_path, capsys):
    random = np.random.default_rng(3)
    signals = {
        "good": np.stack([wave(random, 20.0)[0] for _ in range(2)]),
        "noisy": np.stack([wave(random, 20.0)[0], wave(random, 20.0, noise=2.0)[0]]),
        "flat": np.stack([wave(random, 20.0)[0], np.zeros(2000)]),
        "short": np.stack([wave(random, 5.0)[0] for _ in range(2)]),
    }
    (tmp_path / "ward").mkdir()
    for name, x in signals.items():
        wfdb_io.write(tmp_path / "ward", name, np.round(1000 * x).astype(int), 100, ["I", "II"], 1000)
    (tmp_path / "ward/._good.hea").write_bytes(b"\0\5\26\7")
    out = tmp_path / "quality.csv"
    words = ["quality", str(tmp_path / "ward"), "--detector", str(trained[1]), "--out", str(out)]
    assert main(words) == 0
    table = pd.read_csv(out, keep_default_na=False).assign(record=lambda t: t.record.str.rsplit("/").str[-1])
    assert dict(zip(table.record, table.quality, strict=True)) == {
        "good": "good", "noisy": "noisy", "flat": "noisy", "short": "not read",
    }  # fmt: skip
    table = table.set_index("record")
    assert table.lead["noisy"] == table.lead["flat"] == "II" and table.reason["flat"] == noise_detection.FEW_BEATS
    assert "5.0 s are shorter than a window of 10 s" in table.reason["short"]
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "1 good, 2 noisy, 1 not read"
    assert said[0] == f"{tmp_path / 'ward'}: 1 files ._*.hea of macOS are no records and are left out"
    assert main(words) == 0, "its own table may be replaced"
    out.write_text("mine\n")
    assert main(words) == 2 and out.read_text() == "mine\n"


def test_what_is_no_recording_stops_before_any_work(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    for place, reason in ((tmp_path / "empty", "no WFDB record"), (tmp_path / "nowhere", "no such recording")):
        with pytest.raises(EcgError, match=reason):
            list(quality.judged([str(place)], trained[1]))


@pytest.fixture
def ward(tmp_path):
    """A folder of records of the crude corpus: r1 has noise in one lead, r2 ends after 5 s, r3 cannot be read."""
    root, random = tmp_path / "ward", np.random.default_rng(3)
    root.mkdir()
    for i in range(4):
        noise = [0.02, 2.0 if i == 1 else 0.02]
        x = np.stack([wave(random, 5.0 if i == 2 else 20.0, noise=level)[0] for level in noise])
        wfdb_io.write(root, f"r{i}", np.round(1000 * x).astype(int), 100, ["I", "II"], 1000)
    (root / "r3.dat").write_bytes(b"")
    lines = [f"r{i},p{i // 2},{i % 2},{1 - i % 2}" for i in range(4)]
    (root / "records.csv").write_text("\n".join(["record,patient,A,B", *lines]) + "\n")
    return root


def _packed(ward, out, *more):
    words = ["pack", "ward", "--dataset", "folder", "--root", str(ward), "--workers", "1", "--out", str(out)]
    assert main([*words, "-p", "leads=[I, II]", "-p", "seconds=5", *more]) == 0
    return cohort.open(out)


def test_a_cohort_keeps_what_a_detector_says_of_its_recordings(trained, ward, tmp_path, capsys):
    plain, again = _packed(ward, tmp_path / "plain"), _packed(ward, tmp_path / "again")
    flagged = _packed(ward, tmp_path / "flagged", "--detector", str(trained[1]))
    assert plain.info == again.info and not set(quality.FLAGS) & set(plain.records), "nothing changes unasked"
    table = flagged.records.set_index("record_id")
    assert table.noisy.fillna(-1).to_dict() == {"r0": 0, "r1": 1, "r2": -1}
    expected = {line["record"].rsplit("/")[-1]: line for line in quality.judged([str(ward)], trained[1])}
    for name in ("r0", "r1"):
        assert table.noise_probability[name] == pytest.approx(expected[name]["probability"], rel=1e-6)
    assert np.isnan(table.noise_probability["r2"]) and "shorter than a window" in table.noise_reason["r2"]
    assert table.noise_reason["r1"].startswith("worst lead II") and list(flagged.rejected.record_id) == ["r3"]
    pd.testing.assert_frame_equal(flagged.records.drop(columns=list(quality.FLAGS)), plain.records)
    same = ("signals.npy", "labels.parquet", "beats.parquet", "measurements.parquet", "rejected.csv")
    assert all(flagged.info["sha256"][name] == plain.info["sha256"][name] for name in same)
    assert flagged.content != plain.content, "a flag is part of what a cohort is known by"
    note = flagged.info["dataset"]["notes"][-1]
    assert note.startswith("noise: 1 of 2 recordings are flagged, 2 not judged") and len(note.split("sha256 ")[1]) == 65
    assert "[noise ward] 100 %" in capsys.readouterr().out
    assert flagged.info["dataset"]["module"] == "folder" and flagged.info["dataset"]["options"] == {}


def test_flags_are_named_as_predictions_name_them_and_described(trained, ward, tmp_path):
    flagged = _packed(ward, tmp_path / "flagged", "--detector", str(trained[1]))
    assert quality.FLAGS == tuple(predict.NOISE)
    fields = croissant.describe(flagged, tmp_path / "c.json")["recordSet"][1]["field"]
    said = {field["name"]: (field["dataType"], field["description"]) for field in fields}
    assert said["noise_probability"][0] == "sc:Float" and "detector" in said["noisy"][1]


def test_several_processes_judge_as_one(trained, ward, monkeypatch):
    """Threads stand for the processes, whose start is slow; what processes are handed must travel, too."""
    monkeypatch.setattr(quality, "CHUNK", 2)
    monkeypatch.setattr(quality, "ProcessPoolExecutor", lambda n, context: ThreadPoolExecutor(n))
    done, folder = [], datasets.get("folder")
    one = quality.Judged(folder, trained[1]).records(ward)
    asked = quality.Judged(folder, trained[1], 2, lambda *counts: done.append(counts))
    pd.testing.assert_frame_equal(one, asked.records(ward))
    assert done == [(2, 4), (4, 4)]
    function, read, (detector, cut) = ForkingPickler.loads(
        ForkingPickler.dumps((quality._judged, asked.read, kept_detector.read(trained[1])))
    )
    rows = folder.records(ward).to_dict("records")
    again = pd.DataFrame(function(rows, read, (detector, cut)), columns=list(quality.FLAGS))
    assert again.noise_reason.tolist() == one.noise_reason.tolist() and again.noisy[:2].tolist() == [0, 1]


def test_what_cannot_be_flagged_stops_before_any_work(trained, ward, tmp_path, capsys):
    words = ["pack", "ward", "--dataset", "folder", "--root", str(ward), "--out", str(tmp_path / "out"), "--detector"]
    assert main([*words, str(tmp_path / "nowhere.json")]) == 2 and "no detector here" in capsys.readouterr().err
    text = (ward / "records.csv").read_text()
    head, *lines = text.splitlines()
    (ward / "records.csv").write_text("\n".join([f"{head},noise_reason", *(f"{line},why" for line in lines)]))
    assert main([*words, str(trained[1])]) == 2 and "a column noise_reason already" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
