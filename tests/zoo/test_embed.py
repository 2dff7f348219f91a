"""Features of whole folders: equal to the model by hand, whatever stopped in between, and in flat memory."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import plain_records
import pytest
import torch
from torch import nn

from ecglib import EcgError, zoo
from ecglib.data import packing, wfdb_io
from ecglib.data.files import KEY
from ecglib.data.recording import LEADS
from ecglib.pipeline.cli import main
from ecglib.zoo import dummy, embed
from ecglib.zoo.card import released

INDEX = {name: i for i, name in enumerate(LEADS)}


@pytest.fixture(scope="module")
def clef():
    return zoo.load("clef_small", weights="dummy")


@pytest.fixture(scope="module")
def merl():
    return zoo.load("merl", weights="dummy")


def write(folder, name, seconds=10.0, fs=500, leads=LEADS, spelled=None, seed=0, change=None, gain=1000):
    """A record of the pseudo-ECG with these leads in this order; change: function of the counts (lead, time)."""
    folder.mkdir(parents=True, exist_ok=True)
    x = dummy.pseudo_ecg(seed, 0.8 + 0.03 * seed, 0.3, fs, round(seconds * fs))[[INDEX[lead] for lead in leads]]
    counts = np.rint(1000 * x).astype(int)
    counts = counts if change is None else change(counts)
    wfdb_io.write(folder, name, counts, fs, spelled or leads, gain)


def quiet(line):
    pass


def by_hand(model, path) -> np.ndarray:
    recording = wfdb_io.read(path).select(model.card.leads)
    crops = model.card.crops(packing.filled(recording), recording.fs)
    crops[:, ~recording.lead_mask] = 0
    with torch.no_grad():
        return model(torch.from_numpy(crops)).mean(0).numpy()


def run(model, folders, out, **options):
    """The result of `embed.run`, and what it wrote."""
    folders = folders if isinstance(folders, list) else [folders]
    options.setdefault("progress", quiet)
    return embed.run(model, folders, out, **options), *embed.read(out)


def test_features_are_those_of_the_model_by_hand(tmp_path, clef):
    """Rates, lead orders and spellings differ; crops of long and short recordings share batches."""
    order = ("V6", "II", "I")
    write(tmp_path / "a", "r0", seed=0)
    write(tmp_path / "a/deep", "r1", seconds=32.5, fs=400, leads=order, seed=1)
    write(tmp_path / "a", "r2", fs=100, leads=order, spelled=("ecg_v6", "lead II", "MDC_ECG_LEAD_I"), seed=2)
    write(tmp_path / "b", "r3", seconds=6.3, seed=3)
    write(tmp_path / "b", "r4", seconds=0.4, seed=4)
    done, table, z, info = run(clef, [tmp_path / "a", tmp_path / "b"], tmp_path / "out.parquet", batch=2)
    assert list(table) == ["record", "folder", "seconds", "fs", "n_crops", "missing_leads"]
    assert list(table.record) == ["deep/r1", "r0", "r2", "r3", "r4"] and list(table.folder) == [0, 0, 0, 1, 1]
    assert table.folder.dtype == np.int16 and z.dtype == np.float32 and z.shape == (5, clef.dim)
    assert list(table.n_crops) == [3, 1, 1, 1, 1] and list(table.seconds) == [32.5, 10, 10, 6.3, 0.4]
    assert list(table.fs) == [400, 500, 100, 500, 500] and set(table.missing_leads) == {""}
    for i, row in table.iterrows():
        np.testing.assert_allclose(z[i], by_hand(clef, tmp_path / "ab"[row.folder] / row.record), atol=1e-5)
    assert (done["records"], done["refused"], done["crops"], done["kept"]) == (5, 0, 7, 0)
    assert done["records_per_s"] > 0 and all(done[step] > 0 for step in embed.STEPS)


def test_what_must_be_known_is_in_the_file(tmp_path, clef):
    write(tmp_path / "a", "r0")
    info = run(clef, tmp_path / "a", tmp_path / "new/out.parquet")[-1]
    assert info["warning"] == zoo.DUMMY_WARNING and info["weights"] == "dummy" and info["model"] == "clef_small"
    assert info["content"] == clef.content and info["licence"] == clef.card.licence
    assert info["input"] == clef.card.input() and info["profile"] == repr(clef.card.chain)
    tensors = {key: dummy.fill(key, *shape) for key, shape in released(clef.card.pack).items()}
    torch.save({"state_dict": tensors}, tmp_path / "clef_small.ckpt")
    published = zoo.load("clef_small", file=tmp_path / "clef_small.ckpt")
    info = run(published, tmp_path / "a", tmp_path / "out.parquet")[-1]
    assert "warning" not in info and info["weights"] == "published" and info["content"] == published.content


@pytest.mark.parametrize("whole, short", [(True, "masked"), (False, "zeros")])
def test_normalisation_and_short_recordings_are_as_the_card_says(tmp_path, clef, monkeypatch, whole, short):
    monkeypatch.setattr(clef, "card", replace(clef.card, whole=whole, short=short))
    write(tmp_path / "a", "r0", seconds=31, change=lambda counts: counts * (1 + np.arange(15500) // 3000))
    write(tmp_path / "a", "r1", seconds=4.6)
    _, table, z, _ = run(clef, tmp_path / "a", tmp_path / "out.parquet")
    assert list(table.n_crops) == [3, 1]
    for name, values in zip(table.record, z, strict=True):
        np.testing.assert_allclose(values, by_hand(clef, tmp_path / "a" / name), atol=1e-5)
    monkeypatch.undo()
    assert np.abs(z - run(clef, tmp_path / "a", tmp_path / "out.parquet")[2]).max() > 1e-3


def test_a_missing_lead_is_named_and_fed_as_zeros(tmp_path, merl):
    write(tmp_path / "a", "r0", leads=[lead for lead in LEADS if lead != "V3"])
    write(tmp_path / "a", "r1", leads=("I", "II", "V1", "V2"))  # the limb leads follow from I and II
    write(tmp_path / "a", "r2", change=lambda counts: counts * (np.arange(12) != INDEX["V6"])[:, None] + 50)
    _, table, z, _ = run(merl, tmp_path / "a", tmp_path / "out.parquet")
    assert list(table.missing_leads) == ["V3", "V3 V4 V5 V6", "V6"]
    for name, values in zip(table.record, z, strict=True):
        np.testing.assert_allclose(values, by_hand(merl, tmp_path / "a" / name), atol=1e-5)


def test_a_gap_is_interpolated_and_a_stretch_without_signal_left_out(tmp_path, clef):
    def gap(counts):
        counts[:, 700:900] = -(2**15)
        return counts

    def off(counts):
        counts[:, 5000:10000] = 77  # the second of three crops
        return counts

    write(tmp_path / "a", "gap", change=gap)
    write(tmp_path / "a", "off", seconds=30, change=off)
    write(tmp_path / "a", "off_1", seconds=30)
    _, table, z, _ = run(clef, tmp_path / "a", tmp_path / "out.parquet")
    assert list(table.n_crops) == [1, 2, 3] and np.isfinite(z).all()
    np.testing.assert_allclose(z[0], by_hand(clef, tmp_path / "a/gap"), atol=1e-5)
    x = wfdb_io.read(tmp_path / "a/off").select(["I"]).signal
    with torch.no_grad():
        wanted = clef(torch.from_numpy(clef.card.crops(x, 500)[[0, 2]])).mean(0)
    np.testing.assert_allclose(z[1], wanted, atol=1e-5)


def test_records_that_cannot_be_used_are_named_and_the_rest_is_done(tmp_path, clef):
    folder = tmp_path / "a"
    write(folder, "good")
    write(folder, "lost")
    (folder / "lost.dat").unlink()
    write(folder, "other", leads=("I", "II"), spelled=("MLII", "V9"))
    write(folder, "slip", gain=1)
    write(folder, "steps", seconds=20, change=lambda counts: 0 * counts + (np.arange(10000) >= 5000))
    write(folder, "rate")
    header = folder / "rate.hea"
    header.write_text(header.read_text().replace("rate 12 500 ", "rate 12 500.01 "))
    (folder / "torn.hea").write_text("torn 12\n")
    done, table, _, _ = run(clef, folder, tmp_path / "out.parquet")
    assert list(table.record) == ["good"] and done["refused"] == 6
    lines = (tmp_path / "out.rejected.csv").read_text().splitlines()
    reasons = {"lost": "signal file", "other": "no standard lead name: MLII, V9", "rate": "no simple ratio"}
    reasons |= {"slip": "implausible", "steps": "implausible", "torn": "announced"}
    assert lines[0] == "record,field,reason,fix,folder" and [line.split(",")[0] for line in lines[1:]] == list(reasons)
    for line, reason in zip(lines[1:], reasons.values(), strict=True):
        assert reason in line
    (folder / "good.dat").unlink()
    with pytest.raises(EcgError, match="none of 7 records can be used.*good.*signal file"):
        embed.run(clef, [folder], tmp_path / "none.parquet", progress=quiet)
    assert not (tmp_path / "none.parquet").exists() and not (tmp_path / "none.part").exists()


@pytest.mark.parametrize("fs", [249.89, 499.907])
def test_rates_of_monitors_are_taken_within_a_tolerance_that_the_file_names(tmp_path, clef, fs, capsys):
    """The oracle is the same ECG recorded at the plain rate next to it."""
    write(tmp_path / "a", "odd", seconds=20, fs=fs)
    write(tmp_path / "b", "even", seconds=20, fs={249.89: 250, 499.907: 500}[fs])
    out = tmp_path / "odd.parquet"
    words = ["embed", "zoo:clef_small", str(tmp_path / "a"), "--weights", "dummy", "--out", str(out)]
    assert main(words) == 2
    with (tmp_path / "odd.rejected.csv").open() as file:
        assert "--fs-tolerance 0.0001" in file.read()
    for wrong in ("-0.1", "nan", "0.1"):
        assert main([*words, "--fs-tolerance", wrong]) == 2 and "fs_tolerance" in capsys.readouterr().err
    assert main([*words, "--fs-tolerance", "0.0001"]) == 0
    table, z, info = embed.read(out)
    _, even, wanted, plain = run(clef, tmp_path / "b", tmp_path / "even.parquet")
    assert info["fs_tolerance"] == "0.0001" and "fs_tolerance" not in plain
    assert table.fs[0] == fs and table.n_crops[0] == even.n_crops[0] == 2
    assert np.linalg.norm(z - wanted) < 0.02 * np.linalg.norm(wanted)


SPANISH = ("DI", "DII", "DIII", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def test_leads_that_were_not_taken_are_said_with_the_fix_and_the_fix_works(tmp_path, merl):
    write(tmp_path / "a", "r0")
    write(tmp_path / "a", "r1", spelled=SPANISH, seed=1)
    write(tmp_path / "a", "r2", spelled=SPANISH, seed=2)
    lines = []
    _, table, _, _ = run(merl, tmp_path / "a", tmp_path / "out.parquet", progress=lines.append)
    assert list(table.missing_leads) == ["", "I II III", "I II III"]
    assert "12 of 12 leads taken from 1 records" in lines
    (told,) = [line for line in lines if line.startswith("9 of 12 leads")]
    assert "from 2 records" in told and "missing, fed as zeros: I II III" in told
    assert "DI, DII, DIII -> " in told and "--lead-names 'DI=II'" in told
    names, lines = {"DI": "I", "DII": "II", "DIII": "III"}, []
    options = dict(lead_names=names, progress=lines.append)
    _, renamed, z, _ = run(merl, tmp_path / "a", tmp_path / "new.parquet", **options)
    assert set(renamed.missing_leads) == {""} and "12 of 12 leads taken from 3 records" in lines
    write(tmp_path / "b", "r1", seed=1)
    np.testing.assert_allclose(z[1], run(merl, tmp_path / "b", tmp_path / "b.parquet")[2][0], atol=1e-5)


def test_a_channel_at_another_rate_is_named_and_can_be_left_out(tmp_path, merl):
    """As polysomnograms have it: an EEG with two samples a frame beside the leads."""
    write(tmp_path / "a", "r0")
    counts = np.rint(1000 * dummy.pseudo_ecg(0, 0.8, 0.3, 500, 5000)).astype(int)
    common = dict(file="r0.dat", fmt="16", skew=0, offset=0, gain=1000.0, baseline=0, units="mV", sum=True)
    leads = [{**common, "per_frame": 1, "counts": row, "lead": name} for name, row in zip(LEADS, counts, strict=True)]
    eeg = {**common, "per_frame": 2, "counts": np.arange(10000) % 50, "lead": "EEG"}
    (tmp_path / "b").mkdir()
    plain_records.write(tmp_path / "b", "r0", [*leads, eeg], 500)
    with pytest.raises(EcgError, match="different rates.*EEG"):
        run(merl, tmp_path / "b", tmp_path / "refused.parquet")
    z = run(merl, tmp_path / "b", tmp_path / "out.parquet", lead_names={"EEG": ""})[2]
    np.testing.assert_array_equal(z, run(merl, tmp_path / "a", tmp_path / "same.parquet")[2])


def test_channels_beside_the_leads_are_said_and_do_no_harm(tmp_path, merl):
    """As PTB has them: vx, vy, vz beside the twelve."""
    write(tmp_path / "a", "r0", leads=(*LEADS, "V1", "V2", "V3"), spelled=(*LEADS, "vx", "vy", "vz"))
    lines = []
    _, table, _, _ = run(merl, tmp_path / "a", tmp_path / "out.parquet", progress=lines.append)
    assert table.missing_leads[0] == ""
    assert "12 of 12 leads taken from 1 records; not standard names, not taken: vx, vy, vz" in lines


@pytest.mark.parametrize("names", [{"DI": "MLII"}, {"DI": 1}, {"DI": "V7"}])
def test_a_lead_name_that_is_none_stops_before_any_work(tmp_path, clef, names):
    write(tmp_path / "a", "r0")
    with pytest.raises(EcgError, match="unknown lead name"):
        embed.run(clef, [tmp_path / "a"], tmp_path / "out.parquet", lead_names=names, progress=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_records_refused_are_said_by_reason_and_fix(tmp_path, clef):
    write(tmp_path / "a", "good")
    for name in ("m1", "m2"):
        write(tmp_path / "a", name, leads=("I",), spelled=("MLII",))
    write(tmp_path / "a", "slip", gain=1)
    lines = []
    run(clef, tmp_path / "a", tmp_path / "out.parquet", progress=lines.append)
    refused = [line for line in lines if line.startswith("refused")]
    assert refused[0].startswith(
        "refused 2: no standard lead name: MLII -> say which lead each is: --lead-names 'MLII="
    )
    assert refused[1].startswith("refused 1: implausible amplitude") and refused[1].endswith("-> check the gain")
    table = pd.read_csv(tmp_path / "out.rejected.csv", keep_default_na=False)
    assert list(table.record) == ["m1", "m2", "slip"] and table.fix.ne("").all() and set(table.folder) == {0}
    main(
        ["embed", "clef_small", str(tmp_path / "a"), "--weights", "dummy", "--out", str(tmp_path / "x.parquet")]
        + ["--lead-names", "MLII=II", "--lead-names", "V9="]
    )
    assert list(embed.read(tmp_path / "x.parquet")[0].record) == ["good"]  # clef reads lead I alone


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_refuse_their_record(tmp_path, clef, monkeypatch, value):
    for i, seconds in enumerate((10, 30, 10, 7)):
        write(tmp_path / "a", f"r{i}", seconds=seconds, seed=i)
    sound, calls = clef.features, []

    def features(x):
        """The second crop of the long record, and nothing else, becomes what is no number."""
        z = sound(x)
        calls.append(len(x))
        z[[i for i in range(len(x)) if sum(calls[:-1]) + i == 2], 3] = value
        return z

    monkeypatch.setattr(embed, "spread", lambda work, chunks: (work(*chunk) for chunk in chunks))
    monkeypatch.setattr(clef, "features", features)
    done, table, z, _ = run(clef, tmp_path / "a", tmp_path / "out.parquet", batch=2)
    assert list(table.record) == ["r0", "r2", "r3"] and np.isfinite(z).all()
    assert (done["records"], done["refused"]) == (3, 1)
    line = pd.read_csv(tmp_path / "out.rejected.csv").iloc[0]
    assert line.record == "r1" and line.field == "features" and "NaN or infinity" in line.reason
    monkeypatch.setattr(clef, "features", lambda x: sound(x) * value)
    with pytest.raises(EcgError, match="none of 4 records can be used. r0: the network gives NaN"):
        embed.run(clef, [tmp_path / "a"], tmp_path / "none.parquet", progress=quiet)


def test_steps_between_crops_are_no_signal(clef):
    x = np.repeat([[0.0, 1.0]], 5000, axis=1).astype(np.float32)
    with pytest.raises(EcgError, match="no lead has a signal in any crop"):
        list(embed._crops(clef.card, x, 500, 16))


def test_segments_of_a_record_are_no_records_of_their_own(tmp_path, clef):
    folder = tmp_path / "a"
    write(folder / "deep", "long_1", seconds=8)
    write(folder / "deep", "long_2", seconds=12, seed=1)
    (folder / "deep/long.hea").write_text("# parts\nlong/2 12 500 10000\nlong_1 4000\nlong_2 6000\n")
    layout = "".join(f"~ 0 200/mV 0 0 0 0 0 {lead}\n" for lead in LEADS)
    write(folder, "odd_0001")
    (folder / "odd.hea").write_text("odd/3 12 500 5500\nodd_layout 0\nodd_0001 5000\n~ 500\n")
    (folder / "odd_layout.hea").write_text(f"odd_layout 12 500 0\n{layout}")
    assert embed.find([folder]) == [(0, "deep/long"), (0, "odd")]
    _, table, z, _ = run(clef, folder, tmp_path / "out.parquet")
    assert list(table.record) == ["deep/long", "odd"] and list(table.n_crops) == [2, 1]
    np.testing.assert_allclose(z[0], by_hand(clef, folder / "deep/long"), atol=1e-5)


def test_the_same_bytes_twice_and_after_a_kill(tmp_path, clef, monkeypatch):
    folder, out = tmp_path / "a", tmp_path / "out.parquet"
    for i in range(20):
        write(folder, f"r{i:02d}", fs=100, leads=("I", "II"), seconds=10 if i % 3 else 25, seed=i)
    (folder / "r03.dat").write_bytes(b"")
    monkeypatch.setattr(embed, "CHUNK", 4)
    files = [out, tmp_path / "out.rejected.csv"]
    run(clef, folder, out, batch=2)
    whole = [file.read_bytes() for file in files]
    run(clef, folder, out, batch=2)
    assert [file.read_bytes() for file in files] == whole
    [file.unlink() for file in files]
    code = f"""
import os, signal
from ecglib import zoo
from ecglib.zoo import embed
embed.CHUNK, embed.SHOWN_S = 4, 0
def kill(line):
    if line.startswith("12 of"):
        os.kill(os.getpid(), signal.SIGKILL)
embed.run(zoo.load("clef_small", weights="dummy"), [{str(folder)!r}], {str(out)!r}, batch=2, progress=kill)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -signal.SIGKILL and not out.exists()
    assert 3 <= len(list((tmp_path / "out.part").glob("*.parquet"))) <= 5
    result = run(clef, folder, out, batch=2)[0]
    assert 12 <= result["kept"] <= 20 and [file.read_bytes() for file in files] == whole
    assert not (tmp_path / "out.part").exists()


def test_an_interrupted_run_with_other_options_or_records_computes_anew(tmp_path, clef, monkeypatch):
    folder, out = tmp_path / "a", tmp_path / "out.parquet"
    for i in range(8):
        write(folder, f"r{i}", fs=100, leads=("I",), seed=i)
    monkeypatch.setattr(embed, "CHUNK", 4)
    monkeypatch.setattr(embed, "_assembled", lambda *args: [][0])  # stopped when all chunks are there
    for _ in range(2):
        with pytest.raises(IndexError):
            embed.run(clef, [folder], out, batch=2, progress=quiet)
    monkeypatch.undo()
    monkeypatch.setattr(embed, "CHUNK", 4)
    before = sorted(path.name for path in (tmp_path / "out.part").glob("*.parquet"))
    assert len(before) == 2
    saved = {name: (tmp_path / "out.part" / name).read_bytes() for name in before}
    header = folder / "r6.hea"
    os.utime(header, (header.stat().st_atime, header.stat().st_mtime + 5))
    assert embed.run(clef, [folder], out, batch=2, progress=quiet)["kept"] == 4
    other = zoo.load("clef_small", weights="dummy")
    other.content = "another"
    for model, batch in ((other, 2), (clef, 1)):
        (tmp_path / "out.part").mkdir()
        (tmp_path / "out.part" / KEY).write_text("embed")
        [(tmp_path / "out.part" / name).write_bytes(data) for name, data in saved.items()]
        assert embed.run(model, [folder], out, batch=batch, progress=quiet)["kept"] == 0


def test_statements_are_the_sigmoid_of_the_mean_of_the_heads_logits(tmp_path):
    model = zoo.load("ecgfounder", weights="dummy")
    write(tmp_path / "a", "r0", seconds=20)
    _, table, z, _ = run(model, tmp_path / "a", tmp_path / "out.parquet", head=True)
    names = [f"p: {statement}" for statement in model.card.statements]
    assert list(table)[6:] == names and z.shape == (1, 1024)
    x = torch.from_numpy(model.card.crops(wfdb_io.read(tmp_path / "a/r0").signal, 500))
    with torch.no_grad():
        wanted = model.statements(x.transpose(0, 1).flatten(1)[None]).sigmoid()[0]
    np.testing.assert_allclose(table[names].to_numpy()[0], wanted, atol=1e-5)


def test_every_head_with_statements_is_linear():
    """What lets `embed` read them from the mean of the features."""
    heads = [zoo.network(card.name).head for card in zoo.cards() if card.statements]
    assert heads and all(isinstance(head, nn.Linear) for head in heads)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_records(tmp_path):
    for i in range(64):
        write(tmp_path / "a", f"r{i:02d}", fs=100, leads=("I", "II"), seed=i)
    code = """
import sys
from ecglib import zoo
from ecglib.zoo import embed
folders, out = sys.argv[2].split(","), sys.argv[1]
print(embed.run(zoo.load("clef_small", weights="dummy"), folders, out, progress=lambda line: None)["records"])
status = dict(line.split(":") for line in open("/proc/self/status"))
print(status["VmHWM"].split()[0])  # kB; ru_maxrss would count the memory of the process that started this one
"""
    peaks, two = [], os.environ | {"LOKY_MAX_CPU_COUNT": "2"}  # else more chunks would mean more threads
    for times in (1, 10):
        words = [sys.executable, "-c", code, str(tmp_path / "out.parquet"), ",".join([str(tmp_path / "a")] * times)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=two)
        records, peak = map(int, done.stdout.split())
        assert records == 64 * times
        peaks.append(peak)
    assert peaks[1] < 1.15 * peaks[0], peaks


def test_bad_input_is_named(tmp_path, clef):
    write(tmp_path / "a", "r0")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out.parquet"
    for folders, to, options, what in [
        (["a"], "out.csv", {}, r"\[out\] the output is no .parquet"),
        (["a"], "out.parquet", {"batch": 0}, r"\[batch\]"),
        (["a", "nowhere"], "out.parquet", {}, r"nowhere: \[folder\] no such folder"),
        (["a", "empty"], "out.parquet", {}, r"empty: \[folder\] no record that fits"),
        (["a"], "out.parquet", {"pattern": "*.dat"}, r"a: \[folder\] no record that fits \*.dat"),
        (["a"], "out.parquet", {"pattern": ""}, r"\[records\] '' is no pattern"),
        (["a"], "out.parquet", {"head": True}, r"\[head\] CLEF small has no head"),
    ]:
        with pytest.raises(EcgError, match=what):
            embed.run(clef, [tmp_path / name for name in folders], tmp_path / to, progress=quiet, **options)
    assert not out.exists()
    model = zoo.load("ecgfounder", weights="dummy")
    model.absent = ["dense.weight"]
    with pytest.raises(EcgError, match="came without the head"):
        embed.run(model, [tmp_path / "a"], out, head=True, progress=quiet)
    with pytest.raises(EcgError, match="holds no features"):
        embed.read(out)
    out.write_text("x")
    with pytest.raises(EcgError, match="holds no features"):
        embed.read(out)


def test_the_command(tmp_path, clef, capsys):
    write(tmp_path / "a", "r0")
    write(tmp_path / "a/more", "r1", seed=1)
    out = tmp_path / "out.parquet"
    words = ["embed", "zoo:clef_small", str(tmp_path / "a"), "--out", str(out), "--weights", "dummy", "--batch", "1"]
    assert main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == zoo.DUMMY_WARNING.upper() and printed[1] == "2 records through CLEF small"
    assert printed[2].startswith("2 of 2 records, ") and printed[2].endswith(" records/s, 0:00:00 left")
    assert printed[-1] == f"{out}: 2 records, 0 refused"
    assert list(embed.read(out)[0].record) == ["more/r1", "r0"]
    assert main([*words, "--records", "more/*.hea"]) == 0 and list(embed.read(out)[0].record) == ["more/r1"]
    assert main([*words, "--head"]) == 2 and "no head of its own" in capsys.readouterr().err
    assert main(["embed", "nothing", *words[2:]]) == 2 and "no published model 'nothing'" in capsys.readouterr().err


def test_real_records(tmp_path, real_data, clef):
    done, table, z, _ = run(clef, real_data / "ptb-xl/records500", tmp_path / "out.parquet")
    assert (done["records"], done["refused"], done["crops"]) == (120, 0, 120)
    assert len(set(table.record)) == 120 and z.shape == (120, 256) and np.isfinite(z).all()
    for i in (0, 61, 119):
        np.testing.assert_allclose(z[i], by_hand(clef, real_data / "ptb-xl/records500" / table.record[i]), atol=1e-5)


def test_records_in_linked_folders_are_found_once_and_rubbish_is_counted(tmp_path, clef):
    folder, store, said = tmp_path / "a", tmp_path / "store", []
    write(folder, "r0")
    write(folder / "real", "r1")
    write(store / "deep", "r2")
    write(folder, "old")
    (folder / "old.hea").rename(folder / "old.HEA")
    (folder / "aa").symlink_to(folder / "real")
    (folder / "far").symlink_to(store)
    (folder / "near").symlink_to(store / "deep")
    (store / "loop").symlink_to(folder)
    for name in ("._r0.hea", "real/._r1.hea", ".DS_Store"):
        (folder / name).write_bytes(b"\0\5\26\7Mac OS X")
    done, table, z, _ = run(clef, folder, tmp_path / "out.parquet", progress=said.append)
    assert list(table.record) == ["far/deep/r2", "old", "r0", "real/r1"] and done["refused"] == 0
    assert f"{folder}: 2 files ._*.hea of macOS are no records and are left out" in said
    np.testing.assert_array_equal(z, z[[0, 0, 0, 0]])  # the same signal everywhere
    assert embed.find([folder], "real/*.HEA", quiet) == [(0, "real/r1")]
    write(folder, "old")
    with pytest.raises(EcgError, match="headers .hea and .HEA of one name"):
        embed.find([folder], progress=quiet)


@pytest.mark.parametrize(
    "pattern, wanted",
    [
        ("**/*.hea", ["deep/er/r2", "deep/r1", "r0"]),
        ("*.hea", ["r0"]),
        ("**/r1.hea", ["deep/r1"]),
        ("deep/**/*.hea", ["deep/er/r2", "deep/r1"]),
        ("./*/*.hea", ["deep/r1"]),
        ("**/er/*", ["deep/er/r2"]),
        ("**/[r]?.hea", ["deep/er/r2", "deep/r1", "r0"]),
    ],
)
def test_a_pattern_means_what_it_means_in_pathlib(tmp_path, pattern, wanted):
    for name in ("r0", "deep/r1", "deep/er/r2"):
        write((tmp_path / name).parent, name.rpartition("/")[2], seconds=0.1)
    assert embed.find([tmp_path], pattern, quiet) == [(0, name) for name in wanted]
    globbed = sorted(
        p.relative_to(tmp_path).with_suffix("").as_posix() for p in tmp_path.glob(pattern) if p.suffix == ".hea"
    )
    assert globbed == wanted


def test_a_record_that_names_itself_as_its_segment_is_refused_and_not_lost(tmp_path, clef):
    write(tmp_path / "a", "r0")
    (tmp_path / "a/self.hea").write_text("self/1 12 500 5000\nself 5000\n")
    (tmp_path / "a/x.hea").write_text("x/1 12 500 5000\ny 5000\n")
    (tmp_path / "a/y.hea").write_text("y/2 12 500 10000\nx 5000\n./r0 5000\n")
    (tmp_path / "a/z.hea").write_text("z/1 12 500 5000\n../secret 5000\n")
    assert [name for _, name in embed.find([tmp_path / "a"])] == ["self", "x", "y", "z"]
    write(tmp_path / "a", "r1")
    run(clef, tmp_path / "a", tmp_path / "out.parquet")
    rejected = (tmp_path / "out.rejected.csv").read_text()
    assert rejected.count("consists of segments itself") == 3 and "leads out of the header's folder" in rejected
