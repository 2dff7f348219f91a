"""Records and tables that cannot be packed: refused by name with the remedy; what was read as what is said."""

import struct

import numpy as np
import pandas as pd
import pytest
from crude_corpus import FOLDER, corpus, crude_ecg, pack

from ecglib import EcgError
from ecglib.data import files, filters, packing, rpeaks, wfdb_io
from ecglib.data.recording import LEADS
from ecglib.objectives import clef
from ecglib.training.batches import CohortData


def test_a_rate_without_a_simple_ratio_is_rejected_and_the_rest_is_packed(tmp_path):
    root = corpus(tmp_path / "raw", n=4, fs=100)
    for name, rate in (("r1", "360.01"), ("r2", "0.0001")):
        header = root / f"{name}.hea"
        header.write_text(header.read_text().replace(f"{name} 12 100 ", f"{name} 12 {rate} "))
    packed = pack(root, tmp_path / "toy")
    assert list(packed.records.record_id) == ["r0", "r3"]
    first, second = packed.rejected.itertuples(index=False)
    assert first[:4] == ("r1", "r1", "fs", "no simple ratio between 360.01 and 100 Hz") and second.field == "fs"


@pytest.mark.parametrize(
    "error", [KeyError("gain"), IndexError("no lead 3"), struct.error("unpack"), OverflowError("x")]
)
def test_any_error_while_reading_one_record_rejects_that_record(tmp_path, monkeypatch, error):
    root = corpus(tmp_path / "raw", n=3, fs=100)
    read = FOLDER.read

    def broken(row):
        if row["record_id"] == "r1":
            raise error
        return read(row)

    monkeypatch.setattr(FOLDER, "read", broken)
    packed = pack(root, tmp_path / "toy")
    assert list(packed.records.record_id) == ["r0", "r2"] and len(packed.rejected) == 1
    line = packed.rejected.iloc[0]
    assert (line.record_id, line.file, line.reason) == ("r1", "r1", f"{type(error).__name__}: {error}")


def test_a_record_that_fails_only_when_it_is_written_is_named(tmp_path, monkeypatch):
    root = corpus(tmp_path / "raw", n=2, fs=100)
    monkeypatch.setattr(rpeaks, "r_peaks", lambda x, fs: [][0])
    with pytest.raises(EcgError, match="r0.*IndexError"):
        pack(root, tmp_path / "toy")
    with pytest.raises(MemoryError):  # says nothing about a record
        monkeypatch.setattr(FOLDER, "read", lambda row: (_ for _ in ()).throw(MemoryError()))
        pack(root, tmp_path / "toy")


@pytest.mark.parametrize("name", packing.RESERVED)
def test_a_column_named_like_one_of_the_cohort_stops_before_any_work(tmp_path, name, monkeypatch):
    root = corpus(tmp_path / "raw", n=3, fs=100)
    text = f"record,patient,split,A,{name}\nr0,0,train,1,x\nr1,1,val,0,y\nr2,2,test,1,z\n"
    (root / "records.csv").write_text(text)
    with monkeypatch.context() as watched:
        watched.setattr(files, "new_folder", lambda *_: pytest.fail("work began"))
        with pytest.raises(EcgError, match="drop=") as caught:
            pack(root, tmp_path / "toy")
    assert caught.value.field == name
    packed = pack(root, tmp_path / "toy", options={"drop": [name]})
    assert packed.info["read_as"]["columns left out"] == name and len(packed) == 3
    (root / "records.csv").write_text(text.replace(name, f"{name}_"))
    assert list(pack(root, tmp_path / "toy").records[f"{name}_"]) == ["x", "y", "z"]


def test_a_label_named_like_the_index_of_labels_stops(tmp_path):
    root = corpus(tmp_path / "raw", n=2, fs=100)
    (root / "records.csv").write_text("record,labels\nr0,record_id\nr1,A\n")
    with pytest.raises(EcgError, match="record_id is the name of no label"):
        pack(root, tmp_path / "toy")


@pytest.mark.parametrize(
    ("names", "fix"),
    [
        ((*LEADS, "vx", "vy", "vz"), '{"vx": "", "vy": "", "vz": ""}'),
        (("MLII", "V5"), '{"MLII": "II"}'),
        (("DI", "DII", "DIII"), '{"DI": "I", "DII": "II", "DIII": "III"}'),
        (("ECG",), '{"ECG": ""}'),
        (("II", "lead ii"), '{"its name": ""}'),
    ],
)
def test_unknown_lead_names_are_answered_with_the_option(tmp_path, names, fix, capsys):
    root = corpus(tmp_path / "raw", n=6, fs=100)
    for i in (1, 2):
        wfdb_io.write(root, f"r{i}", crude_ecg(i, fs=100, n_leads=len(names)), 100, names, 1000)
    packed = pack(root, tmp_path / "toy")
    assert list(packed.rejected.record_id) == ["r1", "r2"]
    assert packed.rejected.fix.str.contains(f"lead_names={fix}", regex=False).all()
    assert any(" 2 rejected -> " in line and fix in line for line in capsys.readouterr().out.splitlines())
    for i in (0, 3, 4, 5):
        (root / f"r{i}.hea").unlink()
    with pytest.raises(EcgError, match="every one of 6") as caught:
        pack(root, tmp_path / "other")
    assert caught.value.fix


def test_lead_names_of_the_remedy_are_read(tmp_path):
    root = corpus(tmp_path / "raw", n=2, fs=100, leads=("MLII", "DI", "vx"))
    packed = pack(
        root, tmp_path / "toy", options={"lead_names": {"MLII": "II", "DI": "I", "vx": ""}}, leads=("I", "II")
    )
    assert packed.lead_mask([0, 1]).all() and not len(packed.rejected)


def test_what_was_read_as_what_is_printed_and_kept(tmp_path, capsys):
    root = corpus(tmp_path / "raw", n=8, fs=200)
    wfdb_io.write(root, "r7", crude_ecg(7, fs=100)[:8], 100, LEADS[:8], 1000)
    table = pd.read_csv(root / "records.csv").drop(columns="split").rename(columns={"patient": "subject", "age": "Age"})
    table.assign(smoking=[0, 1] * 4, site="x", split=["train"] * 6 + ["test"] * 2).to_csv(
        root / "records.csv", index=False
    )
    packed = pack(root, tmp_path / "toy", options={"patient": "subject"})
    said, printed = packed.info["read_as"], capsys.readouterr().out.splitlines()
    assert said["patients"] == "column subject: 4 patients of 8 records"
    assert said["splits"] == "column split: train 6, test 2"
    assert said["labels"] == "columns: A (train 3, test 1); B (train 5, test 2)"
    assert said["metadata"] == "age (column Age), smoking, site"
    assert packed.records.smoking.tolist() == [0, 1] * 4  # of 0 and 1, and still no label
    assert (
        CohortData(packed, np.arange(8), meta=clef.META[2:3]).batch(np.arange(8)).meta["smoking"].tolist() == [0, 1] * 4
    )
    assert said["rates"] == "1 x 100 Hz, 7 x 200 Hz, stored at 100 Hz"
    assert said["leads"] == f"{', '.join(LEADS)}; 1 of 8 windows lack some"
    assert [f"toy: {what}: {text}" for what, text in said.items()] == sorted(printed[1:]) and len(printed) <= 12


def test_at_most_twelve_lines_of_a_width_are_printed(tmp_path, capsys):
    root = corpus(tmp_path / "raw", n=30, fs=100)
    names = [f"label_{i}" for i in range(60)]
    lines = [f"r{i},{','.join(str((i + k) % 2) for k in range(60))}" for i in range(30)]
    (root / "records.csv").write_text("\n".join([f"record,{','.join(names)}", *lines]) + "\n")
    for i in range(8):
        wfdb_io.write(root, f"r{i}", crude_ecg(i, fs=100, n_leads=2), 100, ("I", f"X{i}"), 1000)
    packed = pack(root, tmp_path / "toy")
    printed = capsys.readouterr().out.splitlines()
    assert 8 <= len(printed) <= 12 and all(name in packed.info["read_as"]["labels"] for name in names)
    line = next(line for line in printed if "labels" in line)
    assert "label_0 (train" in line and "more" in line and len(line) < 200
    shown = line.count("label_")
    assert f"... and {60 - shown} more" in line


MONITORS = (62.4725, 249.89, 499.907, 333.333, 66.6667, 999.91, 360.01)


@pytest.mark.parametrize("windows", ["first", "all"])
def test_rates_of_real_monitors_are_taken_within_a_tolerance_and_counted(tmp_path, windows):
    root = corpus(tmp_path / "raw", n=len(MONITORS) + 1, fs=100)
    for i, fs in enumerate(MONITORS):
        wfdb_io.write(root, f"r{i}", crude_ecg(i, fs=fs, seconds=31), float(fs), LEADS, 1000)
    strict = pack(root, tmp_path / "strict", windows=windows)
    assert list(strict.rejected.record_id) == ["r0", "r1", "r2", "r3", "r5", "r6"]
    assert set(strict.rejected.field) == {"fs"} and "fs_tolerance" not in strict.info
    packed = pack(root, tmp_path / "toy", windows=windows, fs_tolerance=1e-4)
    assert packed.rejected.empty and packed.info["fs_tolerance"] == 1e-4
    assert packed.info["counts"]["rates_approximated"] == 7  # 66.6667 Hz counts as 200 / 3
    assert 1e-9 < packed.info["counts"]["largest_rate_deviation"] < 1e-4
    n_windows = packed.records.groupby("record_id").size()
    assert n_windows.tolist() == ([1] * 8 if windows == "first" else [3] * 7 + [1])
    known = packed.records[packed.records.record_id == "r1"]
    fine = wfdb_io.read(root / "r1")
    for row, start in zip(known.row, known.start_s, strict=True):  # sample k lies at k / 100 s to the end
        at = start + np.arange(1000) / 100
        wanted = np.interp(at, np.arange(fine.signal.shape[1]) / fine.fs, fine.signal[1])
        assert np.corrcoef(wanted, packed.batch([row])[0, 1])[0, 1] > 0.99


@pytest.mark.parametrize("fs, n_times", [(66.6667, 1333), (66.6667, 1334), (333.333, 6666), (128.0, 2559)])
def test_both_passes_count_the_same_windows(tmp_path, fs, n_times):
    root = corpus(tmp_path / "raw", n=3, fs=100)
    for i in range(3):
        wfdb_io.write(root, f"r{i}", crude_ecg(i, fs=fs, seconds=21)[:, :n_times], fs, LEADS, 1000)
    packed = pack(root, tmp_path / "toy", windows="all", fs_tolerance=1e-4)
    (count,) = packed.records.groupby("record_id").size().unique()
    assert count == filters.n_resampled(n_times, fs, 100, 1e-4) // 1000 == len(packed.signals) // 3
    assert np.abs(packed.signals[-1]).max() > 0


@pytest.mark.parametrize("tolerance", [-1e-6, 0.1, 5, float("nan"), "1e-4", None])
def test_a_tolerance_that_is_none_is_refused_before_work(tmp_path, tolerance):
    with pytest.raises(EcgError, match="fs_tolerance"):
        pack(tmp_path / "nowhere", tmp_path / "toy", fs_tolerance=tolerance)


@pytest.mark.parametrize("fs", [360.01, 499.907, 999.91, 1000.07])
def test_a_rate_that_is_refused_says_how_to_take_it(fs):
    with pytest.raises(EcgError, match="no simple ratio.*fs_tolerance=0.0001"):
        filters.ratio(fs, 100)
    with pytest.raises(EcgError, match="no simple ratio"):
        filters.ratio(fs, 100, 1e-12)
    up, down = filters.ratio(fs, 100, 1e-4)
    assert abs(up / down * fs / 100 - 1) < 1e-4 and max(up, down) <= filters.MAX_FACTOR


def test_amplitudes_are_judged_as_by_the_robust_peaks_of_all_leads():
    """Against the percentile of every lead, on both sides of either limit, with and without missing samples."""
    rng, answers = np.random.default_rng(0), []
    for size in (0.002, 0.007, 0.0078, 0.009, 1, 6, 7.6, 8, 12, 30):
        for gap in (False, True):
            live = rng.normal(size=(3, 1000)) * size * rng.uniform(0.9, 1.1, (3, 1))
            live[:, ::250] += rng.choice([0, 40], (3, 4))  # spikes, which widen the range and not the robust peak
            live[0, 5] = np.nan if gap else 0
            live = live.astype(np.float32)
            around = np.abs(live - np.nanmedian(live, axis=1)[:, None])
            peaks = np.nanpercentile(around, packing.PEAK_PERCENTILE, axis=1)
            wrong = np.median(peaks) if np.median(peaks) > packing.MAX_PEAK_MV else None
            wrong = peaks.max() if wrong is None and peaks.max() < packing.MIN_PEAK_MV else wrong
            answers.append(wrong)
            assert packing._implausible(live, not gap) == wrong
    assert None in answers and min(filter(None, answers)) < 0.02 and max(filter(None, answers)) > 20
