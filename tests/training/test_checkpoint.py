"""Files that are either old or new as a whole, whatever happens while writing."""

import os

import pytest
import torch

from ecglib import EcgError
from ecglib.training import checkpoint


def test_checkpoints_replace_the_old_file_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"a": torch.ones(2)}, {"step": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        checkpoint.save(path, {"a": torch.zeros(2)}, {"step": 2})
    tensors, info = checkpoint.read(path)
    assert tensors["a"].tolist() == [1, 1] and info == {"step": 1}


def test_tensors_and_json_come_back_and_other_files_are_refused(tmp_path):
    tensors = {"a": torch.randn(3, 2).T, "b": torch.arange(4)[::2], "c": torch.tensor(2.5, dtype=torch.bfloat16)}
    tensors["shared"] = tensors["a"]
    info = {"step": 3, "rows": [{"loss": 0.1 + 0.2}]}
    checkpoint.save(tmp_path / "x", tensors, info)
    read, back = checkpoint.read(tmp_path / "x")
    assert back == info and all(torch.equal(read[k], v) for k, v in tensors.items())
    for content in (b"something else", b"", b"\x02\0\0\0\0\0\0\0{}"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(EcgError, match="not a checkpoint"):
            checkpoint.read(tmp_path / "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_no_number_is_refused_by_name(tmp_path, value):
    moments = torch.zeros(3, 3)
    checkpoint.save(tmp_path / "x", {"optimizer.0.exp_avg": moments, "model.weight": moments}, {"step": 0})
    assert not checkpoint.read(tmp_path / "x")[0]["model.weight"].any(), "zeros are how much begins"
    checkpoint.save(tmp_path / "x", {"good": moments, "model.weight": moments + value}, {"step": 1})
    with pytest.raises(EcgError, match="9 of 9 values are NaN or infinite") as caught:
        checkpoint.read(tmp_path / "x")
    assert caught.value.field == "model.weight" and caught.value.file == str(tmp_path / "x")
