"""Numbers of recordings made to show each of them, and of real ones."""

import numpy as np
import pytest

from ecglib import EcgError
from ecglib.data import quality, wfdb_io
from ecglib.data.recording import LEADS, Recording, limb


def recording(change=None, leads=LEADS):
    rng, t = np.random.default_rng(0), np.arange(5000) / 500
    signal = rng.normal(0, 0.02, (12, 5000)) + np.exp(-0.5 * ((t % 0.9 - 0.4) / 0.01) ** 2)
    signal[2:6] = list(limb(signal[0], signal[1]).values())
    if change is not None:
        change(signal)
    rows = [LEADS.index(name) for name in leads]
    return Recording(signal[rows].astype(np.float32), 500.0, tuple(leads), np.ones(len(rows), bool), "r")


def test_a_good_recording():
    flags = quality.assess(recording())
    assert flags["n_clipped"] == 0 and 0.9 < flags["amplitude_mv"] < 1.2 and flags["drift_mv"] < 0.1


def test_clipped_leads_are_counted_beside_flat_and_missing_ones():
    def change(x):
        x[7], x[8] = 0.5, np.nan
        x[9] = x[9].clip(-0.03, 0.4)
        x[0, 100:350] = np.nan

    assert quality.assess(recording(change))["n_clipped"] == 1


def test_clipping_is_a_share_and_a_run_as_counted_one_by_one():
    rng, answers = np.random.default_rng(0), set()
    for _ in range(60):
        x = rng.normal(size=1000).astype(np.float32)
        first, length = rng.integers(0, 990), rng.integers(1, 9)
        x[first : first + length] = x.max() * rng.choice([-1, 1])
        x = x.clip(*np.sort(rng.choice(x, 2, replace=False))) if rng.random() < 0.2 else x
        longest = {}
        for extreme in (x.max(), x.min()):
            run = most = 0
            for value in x:
                run = run + 1 if value == extreme else 0
                most = max(most, run)
            longest[extreme] = sum(x == extreme) > 2 and most >= 4
        expected = int(any(longest.values()))
        answers.add(expected)
        assert quality.assess(Recording(x[None], 100.0, ("I",), np.ones(1, bool), "r"))["n_clipped"] == expected
    assert answers == {0, 1}


def test_drift_shows_in_its_number():
    def drift(x):
        x += 0.5 * np.sin(2 * np.pi * 0.2 * np.arange(5000) / 500)

    assert quality.assess(recording(drift))["drift_mv"] == pytest.approx(0.5 / np.sqrt(2), rel=0.15)


def test_odd_shapes_raise_nothing():
    nothing = {"n_clipped": 0, "amplitude_mv": 0, "drift_mv": 0}
    empty = Recording(np.zeros((1, 0), np.float32), 100.0, ("I",), np.zeros(1, bool), "empty")
    assert quality.assess(empty) == quality.assess(recording(lambda x: x.fill(np.nan))) == nothing


def test_real_recordings_are_plausible_except_the_known_gain_slip(real_data):
    headers = (
        sorted(real_data.glob("ptb-xl/records500/*/*.hea"))[::4] + sorted(real_data.glob("cinc2017/*/*.hea"))[::50]
    )
    low, high = quality.PLAUSIBLE_MV
    assert all(low <= quality.assess(wfdb_io.read(header))["amplitude_mv"] <= high for header in headers)
    slipped = real_data / "cinc2020-quirks" / "HR00599.hea"  # 200/mV where PTB-XL has 1000/mV
    original = real_data / "ptb-xl-2k" / "records100" / "00000" / "00599_lr.hea"
    sizes = [quality.assess(wfdb_io.read(header))["amplitude_mv"] for header in (slipped, original)]
    assert sizes[0] / sizes[1] == pytest.approx(5, rel=0.1)
    with pytest.raises(EcgError):
        wfdb_io.read(real_data / "cinc2020-quirks" / "E00009.hea")


def ecg(order=LEADS, change=None, fs=500.0):
    """Twelve leads of a heart whose axis turns from lead to lead, with T waves and noise; `order`: their names."""
    rng, t = np.random.default_rng(1), np.arange(round(10 * fs)) / fs
    phase = t % 0.9 - 0.4
    angles = {"I": 10, "II": 40, "V1": 180, "V2": 150, "V3": 100, "V4": 50, "V5": 20, "V6": 10}  # degrees
    r_wave, s_wave = np.exp(-0.5 * (phase / 0.012) ** 2), -phase / 0.012 * np.exp(0.5 - 0.5 * (phase / 0.012) ** 2)
    x = {}
    for number, (name, angle) in enumerate(angles.items()):
        size = 0.8 + 0.05 * number
        wave = size * (np.cos(np.radians(angle)) * r_wave + np.sin(np.radians(angle)) * s_wave)
        x[name] = (
            wave
            + 0.2 * np.cos(np.radians(angle)) * np.exp(-0.5 * ((phase - 0.25) / 0.04) ** 2)
            + rng.normal(0, 0.005, len(t))
        )
    if change:
        change(x, t)
    x |= limb(x["I"], x["II"])
    signal = np.stack([x[name] for name in LEADS]).astype(np.float32)
    return Recording(signal, fs, tuple(order), np.ones(12, bool), "r")


def renamed(**names):
    return [names.get(name, name) for name in LEADS]


def test_a_recording_that_keeps_its_contract():
    facts = quality.contract(ecg())
    assert facts["suspects"] == [] and facts["einthoven"] < 1e-4 and facts["goldberger"] < 1e-4
    assert 10 < facts["bandwidth_hz"] < 200 and np.isnan(facts["line_hz"])


def test_errors_are_shares_of_the_limb_leads():
    good = ecg()
    x = good.signal.copy()
    noise = np.random.default_rng(2).normal(0, 0.1, x.shape[1]).astype(np.float32)
    x[LEADS.index("III")] += noise
    facts = quality.contract(Recording(x, 500.0, LEADS, good.lead_mask, "r"))
    above, n = np.random.default_rng(2).normal(0, 0.1, x.shape[1]), slice(500, -500)
    scale = np.sqrt(np.mean([np.square(x[k, n] - x[k, n].mean()) for k in (0, 1)]))
    assert facts["einthoven"] == pytest.approx(np.std(above[n]) / scale, rel=0.05)
    assert facts["goldberger"] < 1e-4 and facts["suspects"] == ["limb leads disagree"]


NAMED = {  # what the file calls the leads -> what is told
    "aVF before aVL": (renamed(aVL="aVF", aVF="aVL"), "leads named aVL>aVF aVF>aVL"),
    "I and II": (renamed(I="II", II="I"), None),
    "II and aVF": (renamed(II="aVF", aVF="II"), "leads named II>aVF aVF>II"),
}


@pytest.mark.parametrize("case", NAMED)
def test_names_that_are_swapped_are_told(case):
    order, told = NAMED[case]
    x = ecg(order)
    by_name = dict(zip(x.leads, x.signal, strict=True))
    sorted_ = Recording(np.stack([by_name[n] for n in LEADS]), 500.0, LEADS, x.lead_mask, "r")
    found = [word for word in quality.contract(sorted_)["suspects"] if word.startswith("leads named")]
    assert len(found) == 1 and (told is None or found == [told])
    words = dict(pair.split(">") for pair in found[0].removeprefix("leads named ").split())
    mended = {words.get(name, name): row for name, row in zip(LEADS, sorted_.signal, strict=True)}
    implied = limb(mended["I"], mended["II"])
    assert max(np.abs(mended[name] - row).max() for name, row in implied.items()) < 0.01


def arms(x, t):
    x["I"], x["II"] = -x["I"], x["II"] - x["I"]  # RA and LA on the other side: I turned over, II is III


def leg(x, t):
    x["II"] = 0.01 * x["II"]  # right arm and right leg: next to nothing between the two legs


def chest(x, t):
    x["V2"], x["V4"], x["V3"] = x["V2"], x["V3"], x["V4"]


def line(frequency):
    def add(x, t):
        for name in x:
            x[name] = x[name] + 0.05 * np.sin(2 * np.pi * frequency * t)

    return add


def copied(x, t):
    x["V5"] = x["V4"]


SUSPECTS = {
    "arms": (arms, {"arms swapped?"}),
    "leg": (leg, {"leg electrode?"}),
    "chest": (chest, {"chest order? V3/V4"}),
    "copy": (copied, {"duplicate of V4: V5"}),
    "mains": (line(50.0), set()),
    "third of the mains": (line(150.0), set()),
    "mains at half the rate": (line(83.0), {"rate?"}),
    "volt": (lambda x, t: x.update({name: row / 1000 for name, row in x.items()}), {"unit?"}),
    "microvolt": (lambda x, t: x.update({name: row * 1000 for name, row in x.items()}), {"unit?"}),
}


@pytest.mark.parametrize("case", SUSPECTS)
def test_what_is_wrong_is_suspected(case):
    change, expected = SUSPECTS[case]
    facts = quality.contract(ecg(change=change))
    assert set(facts["suspects"]) == expected
    if "mains" in case:
        assert facts["line_hz"] == pytest.approx({"mains": 50, "third of the mains": 150}.get(case, 83), abs=0.3)


def test_what_is_not_there_is_not_judged():
    facts = quality.contract(recording(leads=("I", "V2")))
    assert np.isnan(facts["einthoven"]) and np.isnan(facts["goldberger"]) and facts["suspects"] == []
    empty = Recording(np.zeros((2, 5000), np.float32), 500.0, ("I", "II"), np.ones(2, bool), "r")
    assert quality.contract(empty)["suspects"] == [] and np.isnan(quality.contract(empty)["bandwidth_hz"])


def test_what_was_sampled_up_shows_in_the_bandwidth():
    from scipy.signal import resample_poly

    noisy = ecg(
        fs=500.0,
        change=lambda x, t: x.update({n: r + np.random.default_rng(3).normal(0, 0.05, len(t)) for n, r in x.items()}),
    )
    low = resample_poly(resample_poly(noisy.signal, 1, 5, axis=-1), 5, 1, axis=-1).astype(np.float32)
    assert quality.contract(noisy)["bandwidth_hz"] > 200
    assert quality.contract(Recording(low, 500.0, LEADS, noisy.lead_mask, "r"))["bandwidth_hz"] < 60


def test_real_corpora_and_their_limb_leads(real_data):
    def errors(pattern):
        paths = sorted((real_data).glob(pattern))[:12]
        facts = [quality.contract(wfdb_io.read(path.with_suffix(""))) for path in paths]
        return np.array([[f["einthoven"], f["goldberger"]] for f in facts])

    assert errors("ptb-xl/records100/00000/*.hea").max() < 0.02
    assert errors("ludb/**/*.hea").max(axis=1).min() > quality.KEPT, "leads of this sample were scaled by themselves"


def test_quantiles_are_those_of_numpy_bit_for_bit():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 999, 1000, 5000, 5001):
        x = rng.normal(size=(3, n)).astype(np.float32)
        for few in (x, np.round(x)):  # and with values that come more than once
            wanted = np.quantile(few, [0.001, 0.3, 0.999], axis=-1)
            found = quality._quantiles(few, (0.001, 0.3, 0.999))
            assert found.dtype == wanted.dtype and np.array_equal(found, wanted)
