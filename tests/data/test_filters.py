"""Filters and resampling against scipy, edges, and the profiles of the models."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage, signal

from ecglib import EcgError
from ecglib.data import filters, profiles, wfdb_io

RNG = np.random.default_rng


def ecg_like(n_leads=3, n_times=5000, fs=500, seed=0, wander=0.3):
    """Beats made of Gaussian waves, drifting baseline and an offset, (lead, time) mV."""
    rng, t = RNG(seed), np.arange(n_times) / fs
    x = np.zeros((n_leads, n_times))
    for beat in np.arange(0.35 + 0.04 * seed, t[-1], 0.83):
        for centre, width, height in ((-0.16, 0.025, 0.15), (0, 0.011, 1.2), (0.03, 0.012, -0.3), (0.27, 0.05, 0.3)):
            x += rng.uniform(0.5, 1.5, (n_leads, 1)) * height * np.exp(-0.5 * ((t - beat - centre) / width) ** 2)
    return x + wander * np.sin(2 * np.pi * 0.2 * t) + rng.uniform(-1, 1, (n_leads, 1))


def extended(x, n_times=4000):
    """Edges reflected for scipy, which pads with 21 samples of its own."""
    return np.pad(x, ((0, 0), (n_times, n_times)), mode="reflect")


def scipy_chain(x):
    sos = signal.butter(3, [0.5, 40], "bandpass", fs=500, output="sos")
    return signal.resample_poly(signal.sosfiltfilt(sos, extended(x), axis=-1), 1, 5, axis=-1)[:, 800:-800]


def test_bandpass_equals_sosfiltfilt_away_from_the_edges():
    x = ecg_like()
    sos = signal.butter(3, [0.5, 40], "bandpass", fs=500, output="sos")
    expected = signal.sosfiltfilt(sos, extended(x), axis=-1)[:, 4000:-4000]
    actual = filters.bandpass(x, 500, 0.5, 40)
    assert actual.dtype == np.float32 and actual.shape == x.shape
    np.testing.assert_allclose(actual[:, 1000:-1000], expected[:, 1000:-1000], atol=5e-4)


@pytest.mark.parametrize("low, high, kind", [(None, 40, "lowpass"), (0.67, None, "highpass"), (0.67, 300, "highpass")])
def test_one_sided_bands(low, high, kind):
    x = ecg_like()
    sos = signal.butter(4, high if kind == "lowpass" else low, kind, fs=500, output="sos")
    expected = signal.sosfiltfilt(sos, extended(x), axis=-1)[:, 4000:-4000]
    actual = filters.bandpass(x, 500, low, high, order=4)
    np.testing.assert_allclose(actual[:, 1000:-1000], expected[:, 1000:-1000], atol=1e-3)


def edge_errors(whole, fs):
    """Median RMS error (mV) of 10 s cut from 30 s in their first and last second: ours, sosfiltfilt, bare FFT."""
    sos, n = signal.butter(3, [0.5, 40], "bandpass", fs=fs, output="sos"), 10 * fs
    response = abs(signal.sosfreqz(sos, np.fft.rfftfreq(n, 1 / fs), fs=fs)[1]) ** 2
    truth, cut = signal.sosfiltfilt(sos, whole, axis=-1)[:, n : 2 * n], whole[:, n : 2 * n]
    bare = np.fft.irfft(np.fft.rfft(cut) * response, n)
    outputs = filters.bandpass(cut, fs, 0.5, 40), signal.sosfiltfilt(sos, cut, axis=-1), bare
    return [np.median(np.sqrt(np.mean((y - truth)[:, np.r_[:fs, -fs:0]] ** 2, axis=-1))) for y in outputs]


def test_edge_error_against_the_middle_of_a_longer_signal():
    drift = np.linspace(0, 1.5, 15000)  # the bare FFT sees a step of 0.5 mV where it wraps
    whole = np.concatenate([ecg_like(6, 15000, seed=k, wander=0.05) for k in range(9)]) + drift
    ours, scipys, bare = edge_errors(whole, 500)
    assert ours < 0.03 and ours < 0.8 * scipys and ours < 0.5 * bare, (ours, scipys, bare)


def test_edge_error_on_real_recordings(real_data):
    for record in ("100", "200", "208"):
        x = wfdb_io.read(real_data / "mitdb" / record).signal[:, : 60 * 30 * 360].reshape(-1, 30 * 360)
        ours, scipys, _ = edge_errors(x.astype(np.float64), 360)
        assert ours < 0.7 * scipys and ours < 0.04, (record, ours, scipys)


@pytest.mark.parametrize("fs_in, fs_out", [(500, 100), (360, 100), (100, 500), (257, 100), (300, 100), (128, 100)])
def test_resampling_keeps_the_time_of_every_sample(fs_in, fs_out):
    """Oracle: the same band-limited curve sampled at both rates (offset and trend included)."""

    def curve(fs):
        t = np.arange(round(8 * fs)) / fs
        return 0.7 + 0.1 * t + np.sin(2 * np.pi * 5.3 * t) + 0.5 * np.cos(2 * np.pi * 17 * t + 1)

    actual = filters.resample(curve(fs_in), fs_in, fs_out)
    expected = curve(fs_out)
    assert actual.shape == expected.shape and actual.dtype == np.float32
    margin = fs_out
    np.testing.assert_allclose(actual[margin:-margin], expected[margin:-margin], atol=3e-3)


def test_resampling_removes_what_would_alias_and_agrees_with_polyphase():
    t = np.arange(5000) / 500
    noise = np.sin(2 * np.pi * 90 * t)  # would appear at 10 Hz
    assert abs(filters.resample(noise, 500, 100)[100:-100]).max() < 5e-3  # leakage of the cut tone
    x = ecg_like()
    expected = signal.resample_poly(x, 1, 5, axis=-1, padtype="line")
    np.testing.assert_allclose(filters.resample(x, 500, 100)[:, 5:-5], expected[:, 5:-5], atol=5e-3)


@pytest.mark.parametrize("n_times", [1, 2, 7, 333, 1001])
def test_any_length_and_batch_shape(n_times):
    x = RNG(1).normal(size=(2, 3, n_times)).astype(np.float32)
    y = filters.resample(x, 360, 100)
    assert y.shape == (2, 3, round(n_times / 3.6)) or n_times < 2
    np.testing.assert_allclose(filters.bandpass(x, 100, 0.5, 40)[1, 2], filters.bandpass(x[1, 2], 100, 0.5, 40))
    assert filters.resample(x, 100, 100).tobytes() == x.tobytes()
    constant = np.full((2, n_times), 0.3, np.float32)
    np.testing.assert_allclose(filters.resample(constant, 500, 100), 0.3, atol=1e-6)


def test_refusals():
    with pytest.raises(EcgError, match="non-finite"):
        filters.resample(np.array([0, np.nan, 1.0, 2]), 500, 100)
    with pytest.raises(EcgError, match="positive"):
        filters.resample(np.zeros(10), 0, 100)
    with pytest.raises(EcgError, match="no band from 40"):
        filters.bandpass(np.zeros(10), 100, 40, 0.5)
    with pytest.raises(EcgError, match="clef, ecgfm, ecgfounder-code, .*study"):
        profiles.profile("sutdy")


def test_study_profile_is_bandpass_scale_and_clip():
    x = ecg_like()
    x[0, 2500] = 50.0
    y = profiles.profile("study").apply(x, 500)
    assert y.shape == (3, 1000) and y.dtype == np.float32 and y.max() == 25
    expected = scipy_chain(x) / 0.2
    np.testing.assert_allclose(y[1:, 200:-200], expected[1:, 200:-200], atol=0.02)


def test_ecgfounder_code_profile_follows_a_literal_scipy_chain():
    """Before the z-score: it is global, so the edges (where scipy's padding differs) would move every sample."""
    x = ecg_like(12)
    wide = signal.filtfilt(*signal.iirnotch(50, 30, 500), extended(x), axis=-1)
    sos = signal.butter(4, [0.67, 40], "bandpass", fs=500, output="sos")
    y = signal.sosfiltfilt(sos, wide, axis=-1)[:, 4000:-4000]
    y = y - np.stack([ndimage.median_filter(row, 201, mode="reflect") for row in y])
    profile = dataclasses.replace(profiles.profile("ecgfounder-code"), normalise="none")
    actual = profile.apply(x, 500)
    assert abs(actual - y)[:, 1000:-1000].max() < 2e-3 and abs(actual - y).max() < 0.05
    final = profiles.profile("ecgfounder-code").apply(x, 500)
    np.testing.assert_allclose(final, (actual - actual.mean()) / (actual.std() + 1e-8), atol=1e-5)


def test_running_median_has_201_samples_extended_by_reflection():
    x = RNG(2).normal(size=(2, 600)).astype(np.float32)
    wide = np.pad(x, ((0, 0), (100, 100)), "symmetric")
    expected = np.median(np.lib.stride_tricks.sliding_window_view(wide, 201, axis=-1), axis=-1)
    np.testing.assert_array_equal(profiles._running_median(x, 201), expected)


@pytest.mark.parametrize("name", ["ecgfounder-code", "ecgfounder-paper", "ecgfounder-zeroshot"])
def test_ecgfounder_golden_normalisation(name):
    """Specification 7.5: mean 0, sd 1 over the record; a common scale changes nothing, one lead's scale changes all."""
    x, profile = ecg_like(12), profiles.profile(name)
    y = profile.apply(x, 500).astype(np.float64)
    assert y.shape == (12, 5000) and abs(y.mean()) < 1e-6 and abs(y.std() - 1) < 1e-6
    np.testing.assert_allclose(profile.apply(10 * x, 500), y, atol=2e-5)
    x[4] *= 10
    assert (abs(profile.apply(x, 500) - y).max(axis=1) > 0.1).all()


def test_profile_lengths_gaps_and_batches():
    profile = profiles.profile("ecgfounder-paper")
    x = ecg_like(2, 360 * 12, 360)
    x[0, 100:110] = np.nan
    y = profile.apply(x, 360)
    assert y.shape == (2, 5000) and np.isfinite(y).all()
    short = profile.apply(x[:, : 360 * 4], 360)
    assert (short[:, 2000:] == 0).all() and abs(short[:, :2000].std() - 1) < 1e-5
    per_lead = dataclasses.replace(profile, normalise="lead").apply(np.stack([x, x]), 360)
    np.testing.assert_allclose(per_lead.std(axis=-1), 1, atol=1e-5)
    batch = profiles.profile("study").apply(np.stack([ecg_like(seed=k) for k in range(4)]), 500)
    np.testing.assert_array_equal(batch[2], profiles.profile("study").apply(ecg_like(seed=2), 500))
    zeros = profile.apply(np.zeros((2, 5000)), 500)
    assert (zeros == 0).all()
