"""Noise of the stress test: its size by hand, and a published record made again."""

import numpy as np
import pytest

from ecglib.data import annotations, wfdb_io
from ecglib.datasets import mitdb, nstdb
from ecglib.rhythm import stress_test


def test_sizes_of_signal_and_noise_are_trimmed_means():
    fs, r = 360.0, np.arange(180, 360 * 110, 360)
    x = np.zeros(360 * 110)
    x[r], x[r[:5]] = 2.0, 50.0  # a few are huge
    assert stress_test.qrs_range(x, r, fs) == pytest.approx(2.0)
    noise = np.tile([1.0, -1.0], 360 * 50)
    noise[: 4 * 360] *= 100
    assert stress_test.noise_size(noise, fs) == pytest.approx(1.0)


def test_stressed_noise_has_the_size_that_nst_would_give_it():
    """Oracle by hand: QRS of 2 mV at the beats, noise of a known root mean square, gain from the two."""
    fs, seconds = 360, 700
    t = np.arange(fs * seconds) / fs
    beats = np.arange(fs, fs * seconds - fs, fs)
    x = np.zeros(len(t))
    x[beats] = 2.0
    track = 0.3 * np.sqrt(2) * np.sin(2 * np.pi * 5 * t)
    y = stress_test.stressed(x, beats, track, fs, 6.0)
    gain = 2.0 / np.sqrt(8) / 0.3 / 10 ** (6 / 20)
    added = y - x
    assert abs(added[: 300 * fs]).max() == 0
    noisy = added[300 * fs : 420 * fs]
    assert noisy - noisy.mean() == pytest.approx(gain * track[300 * fs : 420 * fs], abs=2e-3)
    assert np.ptp(added[420 * fs : 540 * fs]) < 1e-6 and added[541 * fs :].std() > 0.1


def test_the_published_record_of_the_stress_test_is_made_again(real_data):
    """118e06 from record 118 and the noise em: the same parts and shape, sizes within 0.2 dB."""
    rows = mitdb.records(real_data / "mitdb")
    row = rows[rows.record_id == "118"].iloc[0]
    recording, marks = mitdb.read(row), annotations.read(f"{row.path}.atr")
    track = wfdb_io.read(real_data / "nstdb/em").signal
    published = nstdb.read(nstdb.records(real_data / "nstdb").iloc[0])
    for lead in (0, 1):
        made = stress_test.stressed(recording.signal[lead], marks.beats, track[lead], 360, 6.0)
        ours = made - recording.signal[lead]
        theirs = published.signal[lead] - recording.signal[lead]
        theirs = theirs - theirs[:1000].mean()  # its header shifts the zero
        for start, end in nstdb.noisy_spans(len(ours) / 360):
            inside, after = (
                slice(round(start * 360), round(end * 360)),
                slice(round(end * 360), round(end * 360) + 3600),
            )
            assert abs(20 * np.log10(ours[inside].std() / theirs[inside].std())) < 0.2
            assert np.corrcoef(ours[inside], theirs[inside])[0, 1] > 0.999  # theirs is cut off at 11 bits
            if after.start < len(ours):
                assert np.ptp(ours[after]) < 1e-5 and np.ptp(theirs[after]) < 0.006
        assert np.ptp(theirs[: 299 * 360]) < 1e-3
