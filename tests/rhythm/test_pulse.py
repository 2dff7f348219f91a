"""Systolic peaks, pulse rate and irregularity: planted beats, a plain computation, and recordings of intensive care."""

import numpy as np
import pytest

from ecglib.data import filters
from ecglib.datasets import bidmc
from ecglib.rhythm import pulse

FS = 100


def wave(beats, seconds=10.0, fs=FS, noise=0.0, seed=0):
    """A pulse wave (time,) with a systolic top at each of `beats` (seconds) and a reflection behind it."""
    t = np.arange(round(seconds * fs)) / fs
    x = sum(np.exp(-(((t - b) / 0.08) ** 2)) + 0.35 * np.exp(-(((t - b - 0.28) / 0.1) ** 2)) for b in beats)
    return x + 0.2 * np.sin(2 * np.pi * 0.25 * t) + noise * np.random.default_rng(seed).standard_normal(len(t))


@pytest.mark.parametrize("rate", [45, 60, 88, 130])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_planted_beats_are_found_where_they_are(rate, noise):
    beats = np.arange(0.5, 9.5, 60 / rate)
    found = pulse.systolic_peaks(wave(beats, noise=noise), FS) / FS
    assert len(found) == len(beats) and np.abs(found - beats).max() < 0.06
    assert pulse.pulse_rate(wave(beats, noise=noise), FS) == pytest.approx(rate, rel=0.02)


def test_unit_offset_and_gaps_change_nothing_much():
    beats = np.arange(0.5, 9.5, 0.8)
    x = wave(beats)
    np.testing.assert_array_equal(pulse.systolic_peaks(x, FS), pulse.systolic_peaks(1000 * x + 5e4, FS))
    holes = x.copy()
    holes[[130, 131, 400]] = np.nan
    assert len(pulse.systolic_peaks(holes, FS)) == len(beats)


def test_the_blocks_are_those_of_the_paper():
    """Elgendi's rule written out sample by sample."""
    x = wave(np.arange(0.4, 9.6, 0.71), noise=0.1, seed=3)
    y = filters.bandpass(x, FS, 0.5, 8.0, order=2).astype(float)
    squared = np.array([value**2 if value > 0 else 0.0 for value in y])

    def average(n):
        padded = np.concatenate([np.full(n, squared[0]), squared, np.full(n, squared[-1])])
        return np.array([padded[n + i - n // 2 : n + i - n // 2 + n].mean() for i in range(len(squared))])

    above = average(11) > average(67) + 0.02 * squared.mean()
    peaks, start = [], None
    for i, flag in enumerate([*above, False]):
        if flag and start is None:
            start = i
        if not flag and start is not None:
            if i - start >= 11:
                peaks.append(start + int(np.argmax(y[start:i])))
            start = None
    assert pulse.systolic_peaks(x, FS).tolist() == peaks and len(peaks) >= 12


def test_irregularity_is_rmssd_over_the_mean_interval():
    beats = np.cumsum([0.5, 0.8, 1.0, 0.7, 1.1, 0.9, 0.75, 1.2, 0.8])
    found = pulse.systolic_peaks(wave(beats), FS) / FS
    intervals = [b - a for a, b in zip(found[:-1], found[1:], strict=True)]
    steps = [(b - a) ** 2 for a, b in zip(intervals[:-1], intervals[1:], strict=True)]
    plain = (sum(steps) / len(steps)) ** 0.5 / (sum(intervals) / len(intervals))
    assert pulse.irregularity(wave(beats), FS) == pytest.approx(plain)
    assert plain > 0.2 > 0.03 > pulse.irregularity(wave(np.arange(0.5, 9.5, 0.8)), FS)


@pytest.mark.parametrize("x", [np.zeros(1000), np.full(1000, np.nan), np.ones(30), np.zeros(0)])
def test_nothing_to_count_is_no_number(x):
    assert pulse.systolic_peaks(x, FS).size == 0
    assert np.isnan(pulse.pulse_rate(x, FS)) and np.isnan(pulse.irregularity(x, FS))


def test_it_counts_what_the_monitor_shows(real_data):
    records = bidmc.records(real_data / "bidmc").iloc[::29]
    counted = np.array([pulse.pulse_rate(bidmc.read(row).signal[0], bidmc.FS) for row in records.to_dict("records")])
    error = np.abs(counted - records.pulse.to_numpy())
    assert len(records) == 50 and np.nanmedian(error) < 1.5 and np.nanmean(error > 10) < 0.1
