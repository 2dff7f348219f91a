"""Flags on recordings made to show each of them, and on real ones."""

import numpy as np
import pytest

from ecglib import quality, wfdb_io
from ecglib.signals import LEADS, EcgError, Recording, limb


def recording(change=None, leads=LEADS):
    rng, t = np.random.default_rng(0), np.arange(5000) / 500
    signal = rng.normal(0, 0.02, (12, 5000)) + np.exp(-0.5 * ((t % 0.9 - 0.4) / 0.01) ** 2)
    signal[2:6] = list(limb(signal[0], signal[1]).values())
    if change is not None:
        change(signal)
    rows = [LEADS.index(name) for name in leads]
    return Recording(signal[rows].astype(np.float32), 500.0, tuple(leads), np.ones(len(rows), bool), "r")


def test_a_good_recording_has_no_flag():
    flags = quality.assess(recording())
    assert (flags["n_flat"], flags["n_clipped"], flags["nan_share"], flags["implausible"]) == (0, 0, 0.0, False)
    assert 0.9 < flags["amplitude_mv"] < 1.2 and flags["peak_mv"] < 1.2
    assert flags["einthoven_mv"] < 1e-6 and flags["longest_gap_s"] == 0


def test_flat_missing_and_clipped_leads_are_named():
    def change(x):
        x[7], x[8] = 0.5, np.nan
        x[9] = x[9].clip(-0.03, 0.4)
        x[0, 100:350] = np.nan

    flags = quality.assess(recording(change))
    assert flags["flat_leads"] == "V2 V3" and flags["n_flat"] == 2
    assert flags["clipped_leads"] == "V4" and flags["n_clipped"] == 1
    assert flags["nan_share"] == pytest.approx((5000 + 250) / 60000) and flags["longest_gap_s"] == 10
    only_gap = quality.assess(recording(lambda x: x.__setitem__((0, slice(100, 350)), np.nan)))
    assert only_gap["longest_gap_s"] == 0.5 and np.isfinite(only_gap["einthoven_mv"])


@pytest.mark.parametrize("factor, implausible", [(1000, True), (0.001, True), (5, False), (0.3, False)])
def test_unit_slips_are_implausible(factor, implausible):
    def scale(x):
        x *= factor

    assert quality.assess(recording(scale))["implausible"] is implausible


def test_drift_and_swapped_leads_show_in_their_numbers():
    def drift(x):
        x += 0.5 * np.sin(2 * np.pi * 0.2 * np.arange(5000) / 500)

    assert quality.assess(recording(drift))["drift_mv"] == pytest.approx(0.5 / np.sqrt(2), rel=0.15)
    assert quality.assess(recording())["drift_mv"] < 0.1

    def swap(x):
        x[[0, 4]] = x[[4, 0]]

    assert quality.assess(recording(swap))["einthoven_mv"] > 0.05


def test_odd_shapes_raise_nothing():
    single = quality.assess(recording(leads=("V1",)))
    assert np.isnan(single["einthoven_mv"]) and single["n_flat"] == 0
    empty = Recording(np.zeros((1, 0), np.float32), 100.0, ("I",), np.zeros(1, bool), "empty")
    assert quality.assess(empty)["nan_share"] == 1.0
    nothing = quality.assess(recording(lambda x: x.fill(np.nan)))
    assert nothing["n_flat"] == 12 and nothing["nan_share"] == 1.0 and not nothing["implausible"]


def test_real_recordings_are_plausible_except_the_known_gain_slip(real_data):
    headers = (
        sorted(real_data.glob("ptb-xl/records500/*/*.hea"))[::4] + sorted(real_data.glob("cinc2017/*/*.hea"))[::50]
    )
    assert not any(quality.assess(wfdb_io.read(header))["implausible"] for header in headers)
    slipped = real_data / "cinc2020-quirks" / "HR00599.hea"  # 200/mV where PTB-XL has 1000/mV
    original = real_data / "ptb-xl-2k" / "records100" / "00000" / "00599_lr.hea"
    sizes = [quality.assess(wfdb_io.read(header))["amplitude_mv"] for header in (slipped, original)]
    assert sizes[0] / sizes[1] == pytest.approx(5, rel=0.1)
    with pytest.raises(EcgError):
        wfdb_io.read(real_data / "cinc2020-quirks" / "E00009.hea")
