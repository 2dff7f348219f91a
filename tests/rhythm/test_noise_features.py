"""Features that tell clean from noisy: the published golden numbers, invariances, and what cannot be computed."""

import numpy as np
import pytest
from scipy import signal, stats

from ecglib.rhythm import noise_features
from ecglib.rhythm.noise_features import GROUPS, RR, TEMPLATE

FS = 100.0


def ecg(seconds=10.0, fs=FS, rr=0.8, jitter=0.0, seed=0):
    """(time,) mV: a narrow R wave and a wide T wave at known times; the times of the R waves in s."""
    random = np.random.default_rng(seed)
    beats = np.cumsum(rr + jitter * random.standard_normal(int(seconds / rr) + 5)) - 0.3
    beats = beats[beats < seconds - 0.05]
    t = np.arange(round(seconds * fs)) / fs
    wave = sum(1.2 * np.exp(-(((t - b) / 0.015) ** 2)) + 0.25 * np.exp(-(((t - b - 0.25) / 0.05) ** 2)) for b in beats)
    return (wave + 0.01 * random.standard_normal(len(t))).astype(np.float32), beats


def test_golden_numbers_of_the_variability():
    found = noise_features.hrv(np.array([800.0, 810, 790, 1000, 600, 805]))
    golden = {
        "rr_mean": 800.8333,
        "rr_median": 802.5,
        "sdnn": 126.6656,
        "rmssd": 222.0923,
        "sdsd": 248.3042,
        "pnn20": 0.6,
        "pnn50": 0.6,
        "cvnn": 0.158167,
        "cvsd": 0.277327,
        "sd1": 175.5776,
        "sd2": 35.5082,
        "hr_min": 60,
        "hr_max": 100,
    }
    for name, value in golden.items():
        assert found[name] == pytest.approx(value, abs=1e-4 if value > 1 else 1e-6), name
    assert found["sd_ratio"] == pytest.approx(175.5776 / 35.5082, rel=1e-5) and set(found) == set(RR)


def test_the_poincare_plot_and_the_triangular_index_by_their_own_definitions():
    """SD1 and SD2 are the spreads of the points (RR, next RR) across and along the line of identity."""
    rr = 800 + 60 * np.random.default_rng(3).standard_normal(4000)
    found = noise_features.hrv(rr)
    across, along = (rr[1:] - rr[:-1]) / np.sqrt(2), (rr[1:] + rr[:-1]) / np.sqrt(2)
    assert found["sd1"] == pytest.approx(across.std(ddof=1), rel=1e-12)
    assert found["sd2"] == pytest.approx(along.std(ddof=1), rel=1e-3)
    edges = np.arange(0, 2000, 7.8125)
    assert found["triangular"] == pytest.approx(len(rr) / np.histogram(rr, edges)[0].max())


def test_constant_intervals_have_no_variability_and_no_ratio():
    found = noise_features.hrv(np.full(9, 812.5))
    assert [found[name] for name in ("sdnn", "rmssd", "sd1", "sd2", "pnn20")] == [0] * 5
    assert np.isnan(found["sd_ratio"]) and found["cvnn"] == 0


@pytest.mark.parametrize("n_beats", [0, 1, 2])
def test_fewer_than_three_beats_leave_the_variability_unknown_and_the_count_known(n_beats):
    x, _ = ecg(4.0)
    x = 0.01 * np.random.default_rng(1).standard_normal(1000).astype(np.float32) if not n_beats else x
    x = np.concatenate([x[: round(FS * (0.1 + 0.8 * n_beats))], np.zeros(900, np.float32)])[:1000] if n_beats else x * 0
    found = noise_features.features(x, FS)
    assert found["n_beats"] == n_beats
    assert all(np.isnan(found[name]) for name in (*RR, *TEMPLATE))
    assert np.isfinite(found["beat_share"]) and np.isfinite(found["longest_gap"])


def test_a_constant_window_is_flat_and_clipped_and_has_no_beats():
    found = noise_features.features(np.full(1000, 0.3, np.float32), FS)
    assert (found["flat"], found["clipped"], found["n_beats"], found["beat_share"]) == (1, 1, 0, 0)
    assert found["longest_gap"] == 10 and found["agreement"] == 0


@pytest.mark.parametrize("factor", [-1.0, 0.2, 5.0, -3.0])
def test_size_and_polarity_change_nothing(factor):
    x, _ = ecg(jitter=0.03)
    before, after = noise_features.features(x, FS), noise_features.features(factor * x, FS)
    for name in (name for group in GROUPS.values() for name in group):
        assert after[name] == pytest.approx(before[name], rel=1e-3, abs=1e-5, nan_ok=True), name


def test_a_shift_in_time_leaves_the_intervals():
    x, beats = ecg(8.0, jitter=0.02)
    x = np.concatenate([np.zeros(60, np.float32), x, np.zeros(140, np.float32)])
    whole, late = noise_features.features(x, FS), noise_features.features(np.roll(x, 37), FS)
    assert whole["n_beats"] == late["n_beats"] == len(beats)
    for name in ("rr_mean", "sdnn", "rmssd", "sd1", "triangular"):
        assert late[name] == pytest.approx(whole[name], rel=1e-6), name
    assert whole["rr_mean"] == pytest.approx(1000 * np.diff(beats).mean(), abs=5)


def test_plausibility_counts_by_hand():
    beats = np.array([0.5, 1.5, 1.7, 2.7, 5.2])  # intervals 1.0, 0.2 (too short), 1.0, 2.5 (too long)
    found = noise_features.plausibility(beats, 8.0)
    assert found == {"rr_implausible": 0.5, "rr_jumps": 1.0, "beat_share": 5 * 1.0 / 8, "longest_gap": 2.8}
    nothing = noise_features.plausibility(np.zeros(0), 8.0)
    assert nothing["longest_gap"] == 8 and nothing["beat_share"] == 0 and np.isnan(nothing["rr_jumps"])


def test_agreement_is_an_f1_within_150_ms():
    reference, found = np.array([100, 200, 300, 400]), np.array([114, 216, 300, 350, 401])
    assert noise_features.agreement(reference, found, 100.0) == pytest.approx(2 * 3 / 9)  # 216 is 160 ms off
    assert noise_features.agreement(reference, reference[:0], 100.0) == 0
    assert noise_features.agreement(reference[:0], reference[:0], 100.0) == 0


def test_the_second_detector_finds_the_beats():
    x, beats = ecg(10.0, jitter=0.04, seed=4)
    found = noise_features.energy_peaks(x, FS)
    assert len(found) == len(beats) and abs(found / FS - beats).max() < 0.05


def test_the_template_is_a_correlation_with_the_median_beat():
    x, beats = ecg(10.0)
    peaks = (beats * FS).round().astype(int)
    x = x.copy()
    x[peaks[5] - 20 : peaks[5] + 40] *= -1  # one beat upside down
    found = noise_features.template(x, peaks, FS)
    cut = [x[p - 20 : p + 40] for p in peaks if 20 <= p <= len(x) - 40]
    by_hand = [np.corrcoef(beat, np.median(cut, axis=0))[0, 1] for beat in cut]
    assert found["template_min"] == pytest.approx(min(by_hand), abs=1e-6) and found["template_min"] < -0.9
    assert found["template_mean"] == pytest.approx(np.mean(by_hand), abs=1e-6)


def test_raw_powers_and_kurtosis_against_scipy():
    random, t = np.random.default_rng(5), np.arange(1000) / FS
    x = np.sin(2 * np.pi * 0.3 * t) + 2 * np.sin(2 * np.pi * 5 * t) + 3 * np.sin(2 * np.pi * 20 * t)
    found = noise_features.raw(x + 0 * t, FS)
    shares = [found[name] for name in ("power_drift", "power_waves", "power_muscle", "power_high")]
    assert shares == pytest.approx([1 / 14, 4 / 14, 9 / 14, 0], abs=1e-9)  # powers as squares of the amplitudes
    noise = random.standard_normal(1000)
    assert noise_features.raw(noise, FS)["kurtosis"] == pytest.approx(stats.kurtosis(noise, fisher=False))
    half = np.where(t < 5, 0.0, np.sin(2 * np.pi * 1.7 * t))
    assert noise_features.raw(half, FS)["flat"] == pytest.approx(0.5, abs=0.02)
    cut = np.clip(np.sin(2 * np.pi * t), -0.5, 0.5)  # a third of a turn lies above one half, a third below
    assert noise_features.raw(cut, FS)["clipped"] == pytest.approx(2 / 3, abs=0.02)


def test_the_spectral_rule_by_a_periodogram():
    x, _ = ecg(10.0)
    random = np.random.default_rng(6)
    windows = np.stack([x, random.standard_normal(1000), np.cumsum(random.standard_normal(1000)), np.zeros(1000)])
    frequency, power = signal.periodogram(windows, FS)
    inner, outer = ((frequency >= 5) & (frequency <= high) for high in (15, 40))
    share = np.divide(power[:, inner].sum(1), power[:, outer].sum(1), out=np.zeros(4), where=power.sum(1) > 0)
    assert noise_features.spectral_rule(windows, FS) == pytest.approx(abs(share - 0.65), abs=1e-6)
