"""The commands on published models: what they print, and that a failed proof is a failed command."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ecglib import zoo
from ecglib.pipeline import command_help
from ecglib.pipeline.cli import main
from ecglib.pipeline.model_cli import PACKS
from ecglib.zoo import onnx_export

PACK = Path(__file__).parents[1] / "packs/clef_small"


def test_the_table_and_a_card(capsys):
    assert main(["zoo"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in zoo.names())
    assert main(["zoo", "card", "melp"]) == 0
    assert "aVF stands before aVL" in capsys.readouterr().out
    assert main(["zoo", "card"]) == 2 and "of which model?" in capsys.readouterr().err


def test_a_failed_proof_is_a_failed_command(tmp_path, capsys):
    shutil.copytree(PACK, tmp_path / "clef_small")
    assert main(["zoo", "verify", "--packs", str(tmp_path)]) == 0
    assert "FAILED" not in capsys.readouterr().out
    np.save(tmp_path / "clef_small/output_A.npy", np.load(PACK / "output_A.npy") * 1.001)
    assert main(["zoo", "verify", "--packs", str(tmp_path)]) == 2
    done = capsys.readouterr()
    assert "FAILED" in done.out and "1 of 4 comparisons failed" in done.err
    assert Path(PACKS).is_dir()


def test_fetch_writes_weights_that_say_what_they_are(tmp_path, capsys):
    words = ["zoo", "fetch", "clef_small", "--weights", "dummy", "--out", str(tmp_path)]
    assert main(words) == 0 and "MEAN NOTHING" in capsys.readouterr().out
    assert zoo.load("clef_small", file=tmp_path / "clef_small/model.safetensors").weights == "dummy"
    assert main(["zoo", "fetch", "stmem"]) == 2 and "CC BY-NC 4.0" in capsys.readouterr().err


def test_export_carries_the_signal_chain(tmp_path, capsys):
    out = tmp_path / "clef.onnx"
    assert main(["export", "clef_small", "--weights", "dummy", "--out", str(out)]) == 0
    assert "MEAN NOTHING" in capsys.readouterr().out
    profile, _ = onnx_export.read_profile(out)
    assert profile == zoo.card("clef_small").chain


@pytest.mark.parametrize("total, lines", [(20, 10), (None, 0), (0, 0)])
def test_progress_of_a_known_and_of_an_unknown_length(total, lines, capsys):
    tell = command_help.tenths("fetch")
    for done in range(21):
        tell(done, total)
    assert len(capsys.readouterr().out.splitlines()) == lines
