"""The 150 ms rule against an exhaustive matching, and the intervals over patients; the detectors on real recordings."""

import numpy as np
import pandas as pd
import pytest
from plain_beats import one_recording
from scipy import signal
from scipy.optimize import linear_sum_assignment

from ecglib import EcgError
from ecglib.rhythm import annotated, detectors, matching, rpeak_scores


def most_pairs(reference, found, within) -> int:
    """Largest number of pairs by the Hungarian method, which tries all pairings at once."""
    fits = abs(np.subtract.outer(reference, found)) <= within
    rows, columns = linear_sum_assignment(~fits)
    return int(fits[rows, columns].sum())


@pytest.mark.parametrize("seed", range(20))
def test_as_many_pairs_as_any_matching_has(seed):
    random = np.random.default_rng(seed)
    reference, found = (np.sort(random.choice(400, random.integers(0, 60), replace=False)) for _ in range(2))
    first, second = matching.matched(reference, found, 9)
    assert len(first) == most_pairs(reference, found, 9)
    assert (abs(reference[first] - found[second]) <= 9).all()
    assert len(set(first)) == len(set(second)) == len(first)


def test_counts_offsets_and_rates_by_hand():
    fs = 100.0
    one = one_recording(2000, fs, np.arange(50, 2000, 100), "N" * 20)
    found = np.delete(np.arange(52, 2000, 100), [3])  # 20 ms late, one missed
    found = np.sort(np.append(found, 1010))  # one false, 40 ms from nothing within reach but 952 and 1052
    row = rpeak_scores.score(one, found)
    assert (row["beats"], row["tp"], row["fn"], row["fp"]) == (20, 19, 1, 1)
    assert row["sensitivity"] == 19 / 20 == row["ppv"] and row["offset_ms"] == 20
    # first window: 8 intervals in 9 s instead of 9 in 9; second: 11 in 10 s instead of 10 in 10
    assert row["rate_error"] == pytest.approx(np.mean([60 - 60 * 8 / 9, 60 * 11 / 10 - 60]))


def test_unscored_parts_count_neither_way():
    one = one_recording(2000, 100.0, np.array([100, 200, 900]), "NNN", unscored=((150, 800),))
    row = rpeak_scores.score(one, np.array([100, 300, 500, 900]))
    assert (row["tp"], row["fn"], row["fp"]) == (2, 0, 0)
    assert rpeak_scores.score(one, np.zeros(0, int))["sensitivity"] == 0


def test_pooled_counts_are_sums_and_intervals_are_over_patients():
    rows = [("a", "1", 98, 2, 0), ("b", "1", 50, 50, 0), ("c", "2", 99, 1, 1), ("d", "3", 100, 0, 0)]
    table = pd.DataFrame(rows, columns=["record_id", "patient_id", "tp", "fn", "fp"])
    table = table.assign(detector="x", beats=table.tp + table.fn, rate_error=1.0, offset_ms=2.0)
    out = rpeak_scores.pooled(table, n_resamples=400).iloc[0]
    assert out.sensitivity == 347 / 400 and out.ppv == 347 / 348 and (out.records, out.patients) == (4, 3)
    # the worst resample draws patient 1 three times, the best never
    assert out.sensitivity_low >= 148 / 200 and out.sensitivity_high <= 1 and out.sensitivity_low < out.sensitivity
    alone = rpeak_scores.pooled(table.assign(patient_id=table.record_id), n_resamples=400).iloc[0]
    assert alone.sensitivity_low != out.sensitivity_low


@pytest.mark.parametrize("name", detectors.DETECTORS)
def test_every_detector_finds_clear_beats_at_their_peak(name):
    fs, n_times = 250.0, 250 * 30
    r = np.arange(200, n_times - 100, 210)
    r += np.random.default_rng(1).integers(-9, 9, len(r))
    t = np.arange(n_times)
    x = sum(np.exp(-(((t - at) / 4) ** 2) / 2) + 0.2 * np.exp(-(((t - at - 70) / 15) ** 2) / 2) for at in r)
    row = rpeak_scores.score(one_recording(n_times, fs, r, "N" * len(r)), detectors.DETECTORS[name](x[None], fs))
    assert (row["fn"], row["fp"]) == (0, 0) and row["offset_ms"] <= 20
    assert len(detectors.DETECTORS["two leads"](np.zeros((2, n_times)), fs)) == 0


def test_two_leads_go_on_where_one_is_lost():
    fs = 250.0
    t, r = np.arange(250 * 60), np.arange(200, 250 * 60 - 100, 200)
    beats = sum(np.exp(-(((t - at) / 4) ** 2) / 2) for at in r)
    noise = np.random.default_rng(0).normal(0, 2, len(t))
    x = np.stack([np.where(t < 7500, beats, noise), np.where(t < 7500, noise, 0.3 * beats)])
    one = one_recording(len(t), fs, r, "N" * len(r), unscored=((7000, 8000),))
    both = rpeak_scores.score(one, detectors.two_lead(x, fs))
    single = rpeak_scores.score(one, detectors.sleepecg(x, fs))
    assert both["fn"] + both["fp"] <= 4 < single["fn"] + single["fp"]


def beats_and_truth(fs=250.0, seconds=60, every=200):
    """One lead of narrow beats of 1 mV and where they are."""
    t, r = np.arange(round(fs * seconds)), np.arange(200, round(fs * seconds) - 100, every)
    return sum(np.exp(-(((t - at) / 4) ** 2) / 2) for at in r), r


@pytest.mark.parametrize("seed", range(3))
def test_two_leads_count_no_burst_of_noise_between_beats(seed):
    """Tremor in the band of the QRS complex: the heart is silent around a beat, and this is not."""
    x, r = beats_and_truth(every=250)
    burst = np.random.default_rng(seed).normal(size=(2, len(x)))
    burst = signal.sosfiltfilt(signal.butter(2, (8, 25), "bandpass", fs=250, output="sos"), burst)
    burst *= 0.1 / burst.std() * (np.arange(len(x)) // 500 % 6 == 5)  # mV, two seconds of twelve
    one = one_recording(len(x), 250.0, r, "N" * len(r))
    row = rpeak_scores.score(one, detectors.two_lead(np.stack([x, x]) + burst, 250.0))
    assert (row["fn"], row["fp"]) == (0, 0)


def test_two_leads_follow_the_lead_that_is_on():
    """The clearer lead is off for four seconds, too short for its level to fall; a beat at each end may be lost."""
    x, r = beats_and_truth()
    both = np.stack([x, 0.3 * x]) + np.random.default_rng(0).normal(size=(2, len(x))) * [[0.002], [0.02]]
    both[0, 7500:8500] = 0
    row = rpeak_scores.score(one_recording(len(x), 250.0, r, "N" * len(r)), detectors.two_lead(both, 250.0))
    assert row["fn"] <= 2 and row["fp"] == 0


def test_qrs_table_of_mit_bih(real_data):
    """All 48 records; 201 and 202 are one patient."""
    one_by_one = annotated.recordings("mitdb", real_data / "mitdb")
    out = rpeak_scores.pooled(rpeak_scores.of_detectors(one_by_one, ["two leads", "sleepecg"])).set_index("detector")
    assert out[["records", "patients", "beats"]].drop_duplicates().to_numpy().tolist() == [[48, 47, 109494]]
    assert out.sensitivity["two leads"] >= 0.998 and out.ppv["two leads"] >= 0.998
    assert out.sensitivity["two leads"] > out.sensitivity_high["sleepecg"]
    assert 0.985 < out.sensitivity["sleepecg"] and 0.985 < out.ppv["sleepecg"]


def test_an_unknown_detector_stops_before_any_work():
    with pytest.raises(EcgError, match="did you mean 'sleepecg'"):
        rpeak_scores.of_detectors(iter([None]), ["sleepeg"])
