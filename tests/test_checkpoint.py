"""Files that are either old or new as a whole, whatever happens while writing."""

import os

import pytest
import torch

from ecglib import checkpoint
from ecglib.signals import EcgError


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
    (tmp_path / "x").write_bytes(b"something else")
    with pytest.raises(EcgError, match="not a checkpoint"):
        checkpoint.read(tmp_path / "x")
