"""R peaks and features against annotations, simulated truth and hand-computed values."""

import numpy as np
import pytest
import wfdb

from ecglib import EcgError
from ecglib.data import filters, handmade, rpeaks, wfdb_io
from ecglib.data.recording import LEADS
from ecgsim import records

BEATS = set("NLRBAaJSVrFejnE/fQ?")


def f1(found, truth, fs, tolerance_s=0.1):
    """F1 of detected against true peaks, each matched within the tolerance."""
    near = abs(np.asarray(found)[:, None] - np.asarray(truth)[None]) <= tolerance_s * fs
    hits, false, missed = near.any(0).sum(), (~near.any(1)).sum(), (~near.any(0)).sum()
    return 2 * hits / (2 * hits + false + missed)


def pulse_train(rr_s, fs=100, n_times=1000, leads=1):
    """Gaussian P, QRS and T around the given R times."""
    t = np.arange(n_times) / fs
    x = np.zeros(n_times)
    for beat in np.cumsum(rr_s):
        for centre, width, height in ((-0.16, 0.02, 0.12), (0, 0.012, 1.0), (0.28, 0.04, 0.25)):
            x += height * np.exp(-0.5 * ((t - beat - centre) / width) ** 2)
    return np.repeat(x[None], leads, axis=0).astype(np.float32)


@pytest.fixture(scope="module")
def simulated():
    """40 normal ECGs of 10 s at 100 Hz with their truth, peaks and features."""
    x, _, truth = records.ecgs(40, fs=100, labels=["NORM"], seed=1)
    peaks = [rpeaks.r_peaks(one, 100) for one in x]
    values = np.stack([handmade.features(one, 100, r)[0] for one, r in zip(x, peaks, strict=True)])
    return x, truth, peaks, values


@pytest.mark.parametrize("fs", [100, 250, 500])
def test_peaks_of_a_pulse_train(fs):
    rr = [0.6] + [0.8, 0.82, 0.78, 0.9, 0.7, 0.85, 0.8, 0.81, 0.8, 0.79]
    r = rpeaks.r_peaks(pulse_train(rr, fs, 10 * fs), fs)
    np.testing.assert_allclose(r / fs, np.cumsum(rr)[: len(r)], atol=0.011)
    assert len(r) == 11


@pytest.mark.parametrize(
    "label, least", [("NORM", 1.0), ("AFIB", 0.99), ("SBRAD", 0.99), ("CRBBB", 0.99), ("STACH", 0.99)]
)
def test_peaks_of_simulated_rhythms(label, least):
    x, _, truth = records.ecgs(15, fs=100, labels=[label], seed=2)
    scores = [f1(rpeaks.r_peaks(one, 100), r, 100) for one, r in zip(x, truth.r, strict=True)]
    assert np.mean(scores) >= least


def test_peaks_on_clean_mit_bih_records(real_data):
    """Ten minutes each against the reference annotations; 106 and 119 have many ectopic beats."""
    stop = 10 * 60 * 360
    for record, least in (("100", 0.999), ("101", 0.995), ("200", 0.99), ("202", 0.99), ("106", 0.97), ("119", 0.97)):
        base = real_data / "mitdb" / record
        note = wfdb.rdann(str(base), "atr")
        truth = note.sample[[symbol in BEATS for symbol in note.symbol]]
        r = rpeaks.r_peaks(wfdb_io.read(base).signal[0, :stop], 360)
        assert f1(r, truth[truth < stop], 360) >= least, record


def test_peaks_of_ten_seconds_with_twelve_leads(real_data):
    """LUDB annotates the beats of lead II but not those at the ends of the record."""
    scores = []
    for k in range(1, 60):
        base = real_data / "ludb" / "data" / str(k)
        note = wfdb.rdann(str(base), "ii")
        truth = note.sample[np.array(note.symbol) == "N"] / 5
        r = rpeaks.r_peaks(filters.resample(wfdb_io.read(base).signal, 500, 100), 100)
        scores.append(f1(r[(r > truth[0] - 20) & (r < truth[-1] + 20)], truth, 100))
    assert np.mean(scores) > 0.995


def test_peaks_of_useless_signals():
    assert len(rpeaks.r_peaks(np.zeros((12, 1000)), 100)) == 0
    assert len(rpeaks.r_peaks(np.full((1, 1000), np.nan), 100)) == 0
    assert len(rpeaks.r_peaks(np.random.default_rng(0).normal(size=50), 100)) == 0
    x = np.concatenate([np.zeros((1, 1000)), pulse_train([0.7] * 12)])  # the flat lead is not chosen
    assert 11 <= len(rpeaks.r_peaks(x, 100)) <= 14


def test_hrv_golden_values():
    """Noise-detection specification, golden test 1."""
    r = np.concatenate([[0], np.cumsum([800, 810, 790, 1000, 600, 805])])
    found = handmade.hrv(r, 1000)
    expected = dict(mean_rr=800.8333, median_rr=802.5, sdnn=126.6656, rmssd=222.0923, sdsd=248.3042, pnn20=0.6)
    expected |= dict(pnn50=0.6, cvnn=0.158167, cvsd=0.277327, sd1=175.5776, sd2=35.5082, hr_min=60, hr_max=100)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-6), name
    assert found["n_beats"] == 7 and found["longest_gap"] == 1000 and found["premature"] == pytest.approx(1 / 6)
    shifted = handmade.hrv(r + 77, 1000)
    assert shifted == found and tuple(found) == handmade.HRV_NAMES


def test_hrv_of_constant_and_of_too_few_beats():
    constant = handmade.hrv(np.arange(0, 900, 80), 100)
    assert (constant["sdnn"], constant["rmssd"], constant["sd1"], constant["cvnn"], constant["cvsd"]) == (0, 0, 0, 0, 0)
    assert np.isnan(constant["sd1_sd2"]) and np.isnan(constant["rr_lag1"]) and constant["rr_entropy"] == 0
    few = handmade.hrv([10, 90], 100)
    assert few["n_beats"] == 2 and all(np.isnan(value) for name, value in few.items() if name != "n_beats")
    with pytest.raises(EcgError, match="must rise"):
        handmade.hrv([10, 90, 50], 100)


def test_names_are_fixed_and_follow_the_leads(simulated):
    x, _, peaks, values = simulated
    names = handmade.feature_names()
    assert len(names) == len(set(names)) == values.shape[1] == 286
    assert handmade.features(x[0], 100, peaks[0])[1] == names
    single, names = handmade.features(x[0, :1], 100, peaks[0])
    assert names == handmade.feature_names(("I",)) and "I_r_mv" in names and not any("V1" in name for name in names)
    np.testing.assert_array_equal(single[: len(handmade.HRV_NAMES)], values[0, : len(handmade.HRV_NAMES)])
    three, names = handmade.features(x[0, [1, 6, 10]], 100, peaks[0], ("II", "V1", "V5"))
    assert len(three) == len(names) and {"II_r_mv", "V5_t_mv"} < set(names)
    with pytest.raises(EcgError, match="3 rows need their lead names"):
        handmade.features(x[0, :3], 100, peaks[0])


def test_what_needs_a_missing_lead_is_not_measured(simulated):
    x, _, peaks, values = simulated
    there = np.ones(12, bool)
    assert np.array_equal(handmade.of_record(x[0], 100, peaks[0], LEADS, there), values[0], equal_nan=True)
    there[LEADS.index("aVL")] = False
    some = handmade.of_record(x[0] * there[:, None], 100, peaks[0], LEADS, there)
    found = dict(zip(handmade.feature_names(), some, strict=True))
    gone = {name for name, value in found.items() if np.isnan(value)}
    lost = {f"aVL_{name}" for name in handmade.LEAD_NAMES} | {"cornell_mv", "cornell_product_mvms"}
    assert gone == lost | {f"lateral_{name}" for name in handmade.REGION_NAMES}
    assert found["V2_r_mv"] == pytest.approx(values[0, handmade.feature_names().index("V2_r_mv")], rel=0.05)
    assert np.isnan(handmade.of_record(x[0], 100, peaks[0], LEADS, np.zeros(12, bool))).all()


def test_every_measurement_has_a_unit():
    units = {name: handmade.unit(name) for name in handmade.feature_names()}
    expected = dict(qrs_ms="ms", V2_st60_mv="mV", qrs_axis_deg="degree", sdnn="ms", hr_max="1/min", pnn50="1")
    expected |= dict(V1_notches="1", cornell_product_mvms="mV ms", p_snr="1", noise_mv="mV", aVF_r_share="1")
    assert {name: units[name] for name in expected} == expected
    assert set(units.values()) == {"ms", "mV", "mV ms", "degree", "1/min", "1"}


def test_intervals_and_axis_against_the_simulators_truth(simulated):
    _, truth, _, values = simulated
    found = dict(zip(handmade.feature_names(), values.T, strict=True))
    pairs = (
        ("pr_ms", "pr", 6, 15),
        ("qrs_ms", "qrs", 10, 16),
        ("qt_ms", "qt", 18, 25),
        ("qtc_fridericia_ms", "qtcf", 18, 30),
    )
    for name, column, bias, spread in pairs:
        error = found[name] - truth[column].to_numpy()
        assert abs(np.median(error)) < bias and np.quantile(abs(error), 0.9) < spread, name
    turn = (found["qrs_axis_deg"] - truth.axis_qrs.to_numpy() + 180) % 360 - 180
    assert np.quantile(abs(turn), 0.9) < 8


def test_st_level_against_the_simulators_truth():
    """Truth: 60 ms after the J point, uV."""
    x, _, truth = records.ecgs(20, fs=100, labels=["NORM", "STE_", "STD_", "INVT"], seed=1)
    rows = np.stack([handmade.features(one, 100, rpeaks.r_peaks(one, 100))[0] for one in x])
    for lead in ("I", "II", "V2", "V5"):
        found, expected = (
            1000 * rows[:, handmade.feature_names().index(f"{lead}_st60_mv")],
            truth[f"j60_{lead}"].to_numpy(),
        )
        assert np.corrcoef(found, expected)[0, 1] > 0.95 and abs(np.median(found - expected)) < 20, lead


def test_wide_qrs_long_pr_and_missing_p_waves_show():
    found = {}
    for label in ("NORM", "CRBBB", "CLBBB", "1AVB", "AFIB", "PVC"):
        x, _, _ = records.ecgs(12, fs=100, labels=[label], seed=3)
        rows = [handmade.features(one, 100, rpeaks.r_peaks(one, 100))[0] for one in x]
        found[label] = dict(zip(handmade.feature_names(), np.nanmedian(rows, axis=0), strict=True))
    assert min(found[label]["qrs_ms"] for label in ("CRBBB", "CLBBB")) > 120 > found["NORM"]["qrs_ms"]
    assert found["1AVB"]["pr_ms"] > 200 > found["NORM"]["pr_ms"]
    assert found["AFIB"]["p_consistency"] < 0.5 < 0.7 < found["NORM"]["p_consistency"]
    assert found["AFIB"]["cvsd"] > 3 * found["NORM"]["cvsd"]
    assert found["PVC"]["ventricular_share"] > 0 == found["NORM"]["ventricular_share"]


def test_scaling_multiplies_amplitudes_and_leaves_the_rest(simulated):
    x, _, peaks, values = simulated
    scaled, names = handmade.features(4 * x[3], 100, peaks[3])
    factor = np.array([4.0 if name.endswith(("_mv", "_mvms")) else 1.0 for name in names])
    np.testing.assert_allclose(scaled, values[3] * factor, rtol=1e-3, atol=1e-4)


def test_nan_only_where_documented(simulated):
    x, _, peaks, values = simulated
    names = np.array(handmade.feature_names())
    assert set(names[np.isnan(values).any(axis=0)]) <= {"pr_ms", "p_ms", "sd1_sd2", "rr_lag1"}
    none, _ = handmade.features(x[0], 100, np.zeros(0, int))
    finite = set(names[np.isfinite(none)])
    assert finite == {"n_beats", "drift_share", "low_share", "middle_share", "high_share"}
    flat = x[0].copy()
    flat[7] = 0
    missing = set(names[np.isnan(handmade.features(flat, 100, peaks[0])[0])]) - set(names[np.isnan(values[0])])
    assert missing == {"V2_r_share"}
    assert not np.isinf(values).any()


def test_axis_of_a_known_dipole():
    """QRS of lead I cos(60 degrees), of lead II one: a dipole at +60 degrees."""
    x = np.zeros((12, 1000), np.float32)
    x[0], x[1] = 0.5 * pulse_train([0.8] * 12)[0], pulse_train([0.8] * 12)[0]
    values, names = handmade.features(x, 100, rpeaks.r_peaks(x, 100))
    assert values[names.index("qrs_axis_deg")] == pytest.approx(60, abs=1)
    assert values[names.index("qrs_t_angle_deg")] == pytest.approx(0, abs=2)
