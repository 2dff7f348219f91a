"""Features of whole folders: equal to the model by hand, whatever stopped in between, and in flat memory."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ecglib import cards, embed, recipe, wfdb_io, windows, zoo
from ecglib.__main__ import main
from ecglib.signals import LEADS, EcgError

INDEX = {name: i for i, name in enumerate(LEADS)}


@pytest.fixture(scope="module")
def clef():
    return zoo.load("clef_small", weights="recipe")


@pytest.fixture(scope="module")
def merl():
    return zoo.load("merl", weights="recipe")


def write(folder, name, seconds=10.0, fs=500, leads=LEADS, spelled=None, seed=0, change=None, gain=1000):
    """A record of the pseudo-ECG with these leads in this order; change: function of the counts (lead, time)."""
    folder.mkdir(parents=True, exist_ok=True)
    x = recipe.pseudo_ecg(seed, 0.8 + 0.03 * seed, 0.3, fs, round(seconds * fs))[[INDEX[lead] for lead in leads]]
    counts = np.rint(1000 * x).astype(int)
    counts = counts if change is None else change(counts)
    wfdb_io.write(folder, name, counts, fs, spelled or leads, gain)


def quiet(line):
    pass


def by_hand(model, path) -> np.ndarray:
    recording = wfdb_io.read(path).select(model.card.leads)
    crops = model.card.crops(windows.filled(recording), recording.fs)
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
    assert info["warning"] == zoo.RECIPE and info["weights"] == "recipe" and info["model"] == "clef_small"
    assert info["content"] == clef.content and info["licence"] == clef.card.licence
    assert info["input"] == clef.card.input() and info["profile"] == repr(clef.card.chain)
    released = {key: recipe.fill(key, *shape) for key, shape in cards.released(clef.card.pack).items()}
    torch.save({"state_dict": released}, tmp_path / "clef_small.ckpt")
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
    assert lines[0] == "record,field,reason,folder" and [line.split(",")[0] for line in lines[1:]] == [
        "lost", "other", "rate", "slip", "steps", "torn"]  # fmt: skip
    for line, what in zip(lines[1:], ["signal file", "no wanted lead", "no simple ratio", "implausible", "implausible",
                                      "announced"], strict=True):  # fmt: skip
        assert what in line
    (folder / "good.dat").unlink()
    with pytest.raises(EcgError, match="none of 7 records can be used.*good.*signal file"):
        embed.run(clef, [folder], tmp_path / "none.parquet", progress=quiet)
    assert not (tmp_path / "none.parquet").exists() and not (tmp_path / "none.part").exists()


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
from ecglib import embed, zoo
embed.CHUNK, embed.SHOWN_S = 4, 0
def kill(line):
    if line.startswith("12 of"):
        os.kill(os.getpid(), signal.SIGKILL)
embed.run(zoo.load("clef_small", weights="recipe"), [{str(folder)!r}], {str(out)!r}, batch=2, progress=kill)
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
    other = zoo.load("clef_small", weights="recipe")
    other.content = "another"
    for model, batch in ((other, 2), (clef, 1)):
        (tmp_path / "out.part").mkdir()
        [(tmp_path / "out.part" / name).write_bytes(data) for name, data in saved.items()]
        assert embed.run(model, [folder], out, batch=batch, progress=quiet)["kept"] == 0


def test_statements_are_the_sigmoid_of_the_mean_of_the_heads_logits(tmp_path):
    model = zoo.load("ecgfounder", weights="recipe")
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
from ecglib import embed, zoo
folders, out = sys.argv[2].split(","), sys.argv[1]
print(embed.run(zoo.load("clef_small", weights="recipe"), folders, out, progress=lambda line: None)["records"])
status = dict(line.split(":") for line in open("/proc/self/status"))
print(status["VmHWM"].split()[0])  # kB; ru_maxrss would count the memory of the process that started this one
"""
    peaks = []
    for times in (1, 10):
        words = [sys.executable, "-c", code, str(tmp_path / "out.parquet"), ",".join([str(tmp_path / "a")] * times)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
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
    model = zoo.load("ecgfounder", weights="recipe")
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
    words = ["embed", "zoo:clef_small", str(tmp_path / "a"), "--out", str(out), "--weights", "recipe", "--batch", "1"]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == zoo.RECIPE.upper() and said[1] == "2 records through CLEF small"
    assert said[2].startswith("2 of 2 records, ") and said[2].endswith(" records/s, 0:00:00 left")
    assert said[-1] == f"{out}: 2 records, 0 refused"
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
