"""Packing of the noise database: split in time, rate, what is refused; on made-up records and on the real ones."""

import json

import numpy as np
import pytest
import torch

from ecglib import EcgError
from ecglib.data import wfdb_io
from ecglib.training import noise


@pytest.fixture
def records(tmp_path):
    """bw, ma, em of 50 s at 360 Hz: before 60 % of the time around +1 mV, afterwards around -1 mV."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("bw", "ma", "em")):
        counts = rng.integers(-20, 20, (2, 18000)) + 10 * k
        counts[:, :10800] += 200
        counts[:, 10800:] -= 200
        wfdb_io.write(tmp_path, name, counts, 360, ("noise1", "noise2"), 200)
    return tmp_path


def test_parts_are_split_in_time(records, tmp_path):
    train = noise.pack_bank(records, tmp_path / "a/train.npy")
    test = noise.pack_bank(records, tmp_path / "a/test.npy", part="test")
    first, second = np.load(train), np.load(test)
    assert first.shape == (6, 3000) and second.shape == (6, 2000) and first.dtype == np.float32
    assert first.min() > 0.5 and second.max() < -0.5  # nothing of one side of the cut in the other
    info = json.loads(train.with_suffix(".json").read_text())
    assert info["seconds"] == [0.0, 30.0] and info["part"] == "train" and info["fs"] == 100
    assert info["kinds"] == {"wander": [0, 1], "muscle": [2, 3], "electrode": [4, 5]}
    np.testing.assert_allclose(first.mean(1), np.repeat([1.0, 1.05, 1.1], 2), atol=0.01)


def test_what_is_packed_can_be_drawn_at_its_rate(records, tmp_path):
    path = noise.pack_bank(records, tmp_path / "fast.npy", fs=500)
    assert np.load(path).shape == (6, 15000)
    assert noise.draw("electrode", (3, 2, 5000), 500, path).shape == (3, 2, 5000)


def test_bad_input_is_refused(records, tmp_path):
    with pytest.raises(EcgError, match="train, test"):
        noise.pack_bank(records, tmp_path / "x.npy", part="val")
    with pytest.raises(EcgError, match="npy"):
        noise.pack_bank(records, tmp_path / "x.npz")
    counts = np.zeros((2, 100), int)
    counts[0, 5], counts[1, 3] = wfdb_io.INVALID["16"], 7
    wfdb_io.write(records, "em", counts, 360, ("noise1", "noise2"), 200)
    with pytest.raises(EcgError, match="invalid samples"):
        noise.pack_bank(records, tmp_path / "x.npy")
    (records / "ma.hea").unlink()
    with pytest.raises(EcgError, match="header"):
        noise.pack_bank(records, tmp_path / "x.npy")


def test_real_noise_keeps_its_character(real_data, tmp_path):
    if not (real_data / "nstdb").is_dir():
        pytest.skip("no noise records here")
    train = noise.pack_bank(real_data / "nstdb", tmp_path / "train.npy")
    test = noise.pack_bank(real_data / "nstdb", tmp_path / "test.npy", part="test")
    assert np.load(train).shape == (6, 108333) and np.load(test).shape == (6, 72222)
    torch.manual_seed(0)
    slow, quick = {}, {}
    for kind in noise.KINDS:
        x = noise.draw(kind, (200, 1000), 100, train)
        assert torch.isfinite(x).all() and (x.square().mean(-1).sqrt() - 1).abs().max() < 1e-3
        power = torch.fft.rfft(x * torch.hann_window(1000)).abs().square().mean(0)
        slow[kind] = float(power[:10].sum() / power.sum())  # below 1 Hz
        quick[kind] = float(power[150:].sum() / power.sum())  # above 15 Hz
    assert slow["wander"] > 0.8 and slow["wander"] == max(slow.values())
    assert quick["muscle"] > 2 * max(quick["wander"], quick["electrode"])
