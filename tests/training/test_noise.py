"""Noise: mixing at a requested ratio, spectra of the simulated kinds, windows of packed noise."""

import json
import os

import numpy as np
import pytest
import torch

from ecglib import EcgError
from ecglib.training import noise


def ratio(x, mixed):
    """SNR in dB of every lead, from its definition."""
    added = (mixed - x).double()
    return 10 * torch.log10(x.double().var(-1, correction=0) / added.square().mean(-1))


@pytest.fixture
def packed(tmp_path):
    """Packed noise of six different channels: (path, tracks)."""
    t = np.arange(3000)
    tracks = np.stack([np.sin(0.01 * (c + 1) * t) + 1e-3 * t for c in range(6)]).astype(np.float32)
    np.save(tmp_path / "noise.npy", tracks)
    info = {"fs": 100.0, "kinds": {"wander": [0, 1], "muscle": [2, 3], "electrode": [4, 5]}}
    (tmp_path / "noise.json").write_text(json.dumps(info))
    return tmp_path / "noise.npy", tracks


@pytest.mark.parametrize("snr", [-10.0, 0.0, 12.0])
@pytest.mark.parametrize("kind", noise.KINDS)
def test_mixer_realises_the_request_in_every_lead(kind, snr):
    torch.manual_seed(0)
    x = torch.randn(4, 12, 1000) * torch.logspace(-1, 1, 12)[:, None] + 3.0  # the level is no signal
    mixed = noise.mix(x, noise.simulate(kind, x.shape, 100), snr)
    assert (ratio(x, mixed) - snr).abs().max() < 0.05


def test_mixer_takes_one_ratio_per_record_or_lead_and_infinity_returns_the_input():
    torch.manual_seed(0)
    x, added = torch.randn(3, 2, 500), 7 * torch.randn(3, 2, 500) + 0.5
    snr = torch.tensor([[0.0, 5.0], [-6.0, 1.0], [20.0, 3.0]])
    assert (ratio(x, noise.mix(x, added, snr)) - snr).abs().max() < 0.05
    assert (ratio(x, noise.mix(x, added, snr[:, :1])) - snr[:, :1]).abs().max() < 0.05
    assert torch.equal(noise.mix(x, added, float("inf")), x)
    x[1, 0] = 0
    mixed = noise.mix(x, added, -10.0)
    assert torch.equal(mixed[1, 0], x[1, 0]) and (mixed[1, 1] != x[1, 1]).any()
    assert torch.equal(noise.mix(x, torch.zeros_like(x), 0.0), x)


@pytest.mark.parametrize("fs", [100.0, 250.0, 500.0])
@pytest.mark.parametrize("kind, low, high", [("wander", 0.0, 1.0), ("muscle", 10.0, 200.0), ("electrode", 0.0, 12.0)])
def test_simulated_noise_has_unit_rms_and_its_band(kind, low, high, fs):
    torch.manual_seed(1)
    x = noise.simulate(kind, (40, int(20 * fs)), fs)
    assert x.shape == (40, int(20 * fs)) and x.dtype == torch.float32
    assert x.mean(-1).abs().max() < 1e-4 and (x.square().mean(-1).sqrt() - 1).abs().max() < 1e-4
    power = torch.fft.rfft(x * torch.hann_window(x.shape[-1])).abs().square().mean(0)
    f = torch.fft.rfftfreq(x.shape[-1], 1 / fs)
    assert power[(f >= low) & (f <= high)].sum() / power.sum() > 0.9


def test_simulated_kinds_look_like_what_they_are_called():
    torch.manual_seed(2)
    shape = (64, 1000)
    wander, muscle, electrode = (noise.simulate(kind, shape, 100) for kind in noise.KINDS)
    steps = [(x.diff().abs().amax(-1) / x.diff().abs().median(-1).values).median() for x in (wander, muscle, electrode)]
    assert steps[2] > 10 and steps[2] > 2 * max(steps[:2])  # only electrodes jump
    local = muscle.unfold(-1, 50, 50).square().mean(-1).sqrt()
    assert (local.amax(-1) / local.amin(-1)).median() > 3  # bursts
    # no circular repetition: the ends of a window of wander do not meet
    assert (wander[:, 0] - wander[:, -1]).abs().median() > 0.5


def test_noise_repeats_with_the_global_seed_and_rows_differ():
    for kind in noise.KINDS:
        torch.manual_seed(3)
        first = noise.draw(kind, (4, 2, 300), 100)
        torch.manual_seed(3)
        assert torch.equal(noise.draw(kind, (4, 2, 300), 100), first)
        assert not torch.equal(noise.draw(kind, (4, 2, 300), 100), first)
        assert len(torch.unique(first.reshape(8, -1)[:, 5])) == 8
        assert noise.draw(kind, (0, 2, 300), 100).shape == (0, 2, 300)


def test_packed_noise_is_cut_at_random_from_the_channels_of_its_kind(packed):
    path, tracks = packed
    torch.manual_seed(0)
    windows = noise.draw("muscle", (50, 2, 400), 100, path).reshape(100, 400).numpy()
    np.testing.assert_allclose((windows**2).mean(-1), 1, rtol=1e-3)
    seen = set()
    for window in windows[:10]:
        all_cuts = np.lib.stride_tricks.sliding_window_view(tracks[2:4].astype(np.float64), 400, axis=1)
        z = all_cuts - all_cuts.mean(-1, keepdims=True)
        z /= np.sqrt((z**2).mean(-1, keepdims=True))
        distance = ((z - window) ** 2).mean(-1)
        channel, start = np.unravel_index(distance.argmin(), distance.shape)
        assert distance.min() < 1e-6
        seen.add((channel, start))
    assert len(seen) == 10 and {c for c, _ in seen} == {0, 1}


def test_packed_noise_is_read_again_when_the_file_changes(packed):
    path, tracks = packed
    assert noise.load(path) is noise.load(str(path))
    np.save(path, -tracks)
    os.utime(path, ns=(1, 1))
    assert torch.equal(noise.load(path).tracks["wander"], torch.from_numpy(-tracks[:2]))


def test_what_does_not_fit_is_refused(packed, tmp_path):
    path, tracks = packed
    with pytest.raises(EcgError, match="use one of wander, muscle, electrode"):
        noise.draw("hum", (1, 100), 100)
    with pytest.raises(EcgError, match="at 250 Hz"):
        noise.draw("wander", (1, 100), 250, path)
    with pytest.raises(EcgError, match="no 4000 samples"):
        noise.draw("wander", (1, 4000), 100, path)
    with pytest.raises(EcgError, match="no packed noise"):
        noise.draw("wander", (1, 100), 100, tmp_path / "none.npy")
    with pytest.raises(EcgError, match="no room"):
        noise.simulate("electrode", (1, 5), 100)
    np.save(path, tracks[:5])
    with pytest.raises(EcgError, match="does not fit"):
        noise.load(path)
