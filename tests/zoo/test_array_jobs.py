"""A run in shares: the bytes of one run, also where a job was killed; what is missing or strange is named."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from crude_corpus import crude_ecg, tall_or_not

from ecglib import EcgError, models, zoo
from ecglib.data import shares, wfdb_io
from ecglib.data.recording import LEADS
from ecglib.pipeline import command_help
from ecglib.pipeline.cli import main
from ecglib.zoo import embed, fit, kept, predict

PAGE = (Path(__file__).resolve().parents[2] / "docs/scale.md").read_text()
FS, N = 100, 22
TINY = {"widths": (8, 8, 16, 16), "stem": 8, "group_width": 4}
CHILD = """
import os, signal, sys
from ecglib.zoo import embed, kept, predict
embed.CHUNK, embed.SHOWN_S = 2, -1
def progress(line):
    if " left" in line:
        os.kill(os.getpid(), signal.SIGKILL)
predict.run(kept.load(sys.argv[1]), [sys.argv[2]], sys.argv[3], batch=1, progress=progress, part="2/3")
"""


def quiet(line):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """22 recordings, one of which cannot be read and one that lacks leads, and a model on features."""
    root = tmp_path_factory.mktemp("parts")
    tall_or_not(root, N, FS)
    facts = dict(leads=list(LEADS), profile="study", cohorts=["elsewhere"], splits=[["pretrain"]])
    models.save(models.build("net1d", "small", 12, **TINY), root / "net1d", objective={"objective": "byol"}, **facts)
    fit.run(root / "cohort", root / "model", fit.Settings(str(root / "net1d"), min_positives=2), quiet)
    (root / "raw/r05.dat").unlink()
    wfdb_io.write(root / "raw", "r07", crude_ecg(1, FS, n_leads=2), FS, ("I", "II"), 1000)
    return root


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Eleven chunks of two records; of three shares the last has three."""
    monkeypatch.setattr(embed, "CHUNK", 2)


def predicted(place, out, part=""):
    return predict.run(kept.load(place / "model"), [place / "raw"], out, batch=1, progress=quiet, part=part)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_three_parts_of_which_one_was_killed_give_the_bytes_of_one_run(place, tmp_path):
    for name in ("one", "parts"):
        (tmp_path / name).mkdir()
    whole, out = predicted(place, tmp_path / "one/s.csv"), tmp_path / "parts/s.csv"
    done = [predicted(place, out, part="1/3"), predicted(place, out, part="3/3")]
    words = [sys.executable, "-c", CHILD, place / "model", place / "raw", out]
    assert subprocess.run(words, capture_output=True).returncode == -signal.SIGKILL
    assert list((out.parent / "s.2of3.part").glob("*.parquet")) and not out.exists()
    with pytest.raises(EcgError, match=r"part 2/3 is not finished -> run the same command with --part 2/3"):
        embed.merge(out, quiet)
    done.insert(1, predicted(place, out, part="2/3"))
    assert [each["records"] for each in done] == [8, 8, 6] and done[1]["kept"] >= 2
    lines = []
    counts = embed.merge(out, lines.append)
    assert contents(tmp_path / "parts") == contents(tmp_path / "one")
    assert counts == {key: whole[key] for key in ("records", "refused", "crops")} and counts["refused"] == 1
    assert any("12 of 12 leads taken" in line for line in lines) and any("refused 1" in line for line in lines)


def test_the_lines_of_the_page_give_the_features_of_one_run(place, tmp_path):
    """The array of docs/scale.md with two tasks in place of eight, on a small model with dummy weights."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    model = zoo.load("clef_small", weights="dummy")
    embed.run(model, [place / "raw"], tmp_path / "one/features.parquet", progress=quiet)
    lines = re.findall(r"^    ecglib ((?:embed|merge) .+)", PAGE, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["embed", "merge"]
    for line, task in ((lines[0], "2"), (lines[0], "1"), (lines[1], "")):
        line = line.replace("$SLURM_ARRAY_TASK_ID", task).replace("$SLURM_ARRAY_TASK_COUNT", "2")
        line = line.replace("ecgfounder", "clef_small --weights dummy").replace("/shared/ecgs", str(place / "raw"))
        assert main(shlex.split(line.replace("/shared", str(tmp_path / "two")))) == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_what_is_missing_unfinished_or_of_another_run_is_named(place, tmp_path):
    out = tmp_path / "s.csv"
    with pytest.raises(EcgError, match="no part of it is here"):
        embed.merge(out, quiet)
    predicted(place, out, part="3/4")
    with pytest.raises(EcgError, match="part 1/4, 2/4, 4/4 is missing -> run the same command with --part 1/4"):
        embed.merge(out, quiet)
    for number in (1, 2, 4):
        predicted(place, out, part=f"{number}/4")
    changed = json.loads((tmp_path / "s.2of4.part/part.json").read_text())
    chunk = changed["chunks"][1]
    (tmp_path / "s.2of4.part" / chunk).rename(tmp_path / "away")
    with pytest.raises(EcgError, match="part 2/4 is not finished"):
        embed.merge(out, quiet)
    (tmp_path / "away").rename(tmp_path / "s.2of4.part" / chunk)
    os.utime(place / "raw/r02.dat", ns=(1, 1))  # the second part, computed again, meets another file
    predicted(place, out, part="2/4")
    with pytest.raises(EcgError, match="part 2/4 is of other records, settings, model or device than part 1"):
        embed.merge(out, quiet)
    predicted(place, out, part="1/2")
    with pytest.raises(EcgError, match="parts of 2 and of 4"):
        embed.merge(out, quiet)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(EcgError, match="not from this command"):
        embed.merge(out, quiet)
    assert out.read_text() == "mine"


def test_parts_where_all_was_refused_say_so_when_they_are_merged(place, tmp_path):
    (tmp_path / "raw").mkdir()
    for i in range(4):
        wfdb_io.write(tmp_path / "raw", f"r{i}", crude_ecg(i, FS, n_leads=2), FS, ("X1", "X2"), 1000)
    for part in ("1/2", "2/2"):
        options = dict(batch=1, progress=quiet, part=part)
        predict.run(kept.load(place / "model"), [tmp_path / "raw"], tmp_path / "s.csv", **options)
    with pytest.raises(EcgError, match="none of 4 records can be used. r0: no standard lead name"):
        embed.merge(tmp_path / "s.csv", quiet)
    assert len(pd.read_csv(tmp_path / "s.rejected.csv")) == 4 and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("text", ["0/3", "4/3", "2", "a/b", "1/3/5", "-1/3"])
def test_what_is_no_part_is_refused_before_any_work(place, tmp_path, text):
    with pytest.raises(EcgError, match="is no part -> write --part 1/3, 2/3 or 3/3"):
        predicted(place, tmp_path / "s.csv", part=text)
    assert list(tmp_path.iterdir()) == []


def test_shares_are_all_of_a_list_once():
    for of in (1, 2, 3, 7):
        parts = [shares.Part(number, of).share(list(range(5))) for number in range(1, of + 1)]
        assert sorted(np.concatenate(parts)) == list(range(5)) and max(map(len, parts)) == -(-5 // of)


def test_the_commands_lead_from_parts_to_a_table(place, tmp_path, capsys):
    out = str(tmp_path / "s.csv")
    for number in (1, 2):
        words = ["predict", str(place / "model"), str(place / "raw"), "--out", out, "--batch", "1"]
        assert main([*words, "--part", f"{number}/2"]) == 0
    assert f"part 2/2: 10 records; when all parts are done: ecglib merge {out}" in capsys.readouterr().out
    assert main(["merge", out]) == 0
    assert "21 records, 1 refused" in capsys.readouterr().out
    assert main(["predict", str(place / "model"), str(place / "raw/r01"), "--part", "1/2"]) == 2
    assert "a part is of a table" in capsys.readouterr().err


def test_a_cluster_of_two_workers_of_which_one_is_killed_gives_the_bytes_of_one_run(place, tmp_path):
    """Each of the two commands; the second share kills its worker after its first chunk, the first time."""
    distributed = pytest.importorskip("distributed")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    network = zoo.load("clef_small", weights="dummy")
    runs = {"s.csv": (predict.run, kept.load(place / "model")), "z.parquet": (embed.run, network)}

    def killing(run, model, out, marker):
        def job(part, progress):
            embed.CHUNK, embed.SHOWN_S = 2, -1  # in the worker, as in this process

            def die(line):
                if " left" in line and part == "2/3" and not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)

            return run(model, [place / "raw"], out, batch=1, part=part, progress=die)

        return job

    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            for name, (run, model) in runs.items():
                client.wait_for_workers(
                    2, timeout=120
                )  # the killed one is started again; one alone joblib does not use
                whole = run(model, [place / "raw"], tmp_path / "one" / name, batch=1, progress=quiet)
                out, marker = tmp_path / "two" / name, tmp_path / f"{name} killed"
                lines = []
                done = embed.shared(killing(run, model, out, marker), out, 3, progress=lines.append)
                assert marker.exists() and done["kept"] >= 2  # what the killed worker had done was not done again
                assert {key: done[key] for key in ("records", "refused")} == {"records": 21, "refused": 1}
                assert whole["records"] == 21 and lines[2] == "3 of 3 shares are done, 22 records"
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_command_spreads_over_the_cluster_of_a_scheduler_file(place, tmp_path, capsys, monkeypatch):
    distributed = pytest.importorskip("distributed")
    words = ["predict", str(place / "model"), str(place / "raw"), "--batch", "1", "--dask", str(tmp_path / "s.json")]
    assert main([*words, "--out", str(tmp_path / "s.csv")]) == 2
    assert "no scheduler file -> start it: dask scheduler --scheduler-file" in capsys.readouterr().err
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        (tmp_path / "s.json").write_text(json.dumps(cluster.scheduler.identity()))
        with monkeypatch.context() as hasty:
            hasty.setattr(command_help, "WAIT_S", 0.1)
            assert main([*words, "--out", str(tmp_path / "s.csv")]) == 2
        assert "fewer than two workers on this cluster -> start them: dask worker" in capsys.readouterr().err
        cluster.scale(2)
        assert main([*words, "--out", str(tmp_path / "s.csv"), "--workers", "2"]) == 0
    assert "21 records, 1 refused" in capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "s.csv"), "--part", "1/2"]) == 2
    assert "a cluster makes all parts -> leave --part or --dask out" in capsys.readouterr().err
