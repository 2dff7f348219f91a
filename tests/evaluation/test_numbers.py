"""Errors of predicted numbers, agreement of readers, times to an event: each against an independent computation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, r2_score, root_mean_squared_error

from benchmarks import bootstrap as speed
from ecglib import EcgError
from ecglib.evaluation import agreement, bootstrap, metrics, survival


def ages(n=240, seed=0):
    random = np.random.default_rng(seed)
    y = random.normal(60, 15, n).round()
    return y, 0.6 * y + 20 + random.normal(0, 9, n), random.integers(0, n // 2, n)


def plain(y, p):
    """The statistics of numbers as scikit-learn, scipy and Bland and Altman's paper write them."""
    sd, bias = np.std(p - y, ddof=1), np.mean(p - y)
    half = stats.norm.ppf(0.975) * sd
    fitted = stats.linregress(p, y)
    out = {"mae": mean_absolute_error(y, p), "rmse": root_mean_squared_error(y, p), "r2": r2_score(y, p)}
    out |= {"r": stats.pearsonr(y, p)[0], "slope": fitted.slope, "bias": bias}
    return out | {"loa_low": bias - half, "loa_high": bias + half}


@pytest.mark.parametrize("statistic", metrics.NUMBERS)
def test_statistics_of_numbers_equal_scikit_learn_on_the_resampled_arrays(statistic):
    y, p, _ = ages()
    assert metrics.score(y, p, statistic) == pytest.approx(plain(y, p)[statistic], abs=1e-9)
    indices = np.random.default_rng(3).integers(0, len(y), (30, len(y)))
    ours = bootstrap.replicates(y, p, indices=indices, statistic=statistic).values[:, 0]
    expected = [plain(y[rows], p[rows])[statistic] for rows in indices]
    np.testing.assert_allclose(ours, expected, atol=1e-8)


def test_unknown_numbers_are_left_out_and_paired_differences_are_those_of_the_same_patients():
    y, p, patients = ages()
    worse = p + np.random.default_rng(5).normal(0, 9, len(p))
    y[:40] = np.nan
    assert metrics.score(y, p, "mae") == pytest.approx(mean_absolute_error(y[40:], p[40:]))
    ours, theirs = (bootstrap.replicates(y, x, patients, statistic="mae", n=400) for x in (p, worse))
    gap = bootstrap.paired(ours, theirs, y[:, None])
    assert gap.point == pytest.approx(metrics.score(y, p, "mae") - metrics.score(y, worse, "mae"))
    assert gap.high < 0 and gap.p_value < 0.01
    with pytest.raises(EcgError, match="infinity"):
        metrics.score(y, np.where(p > 60, np.nan, p), "mae")
    with pytest.raises(EcgError, match="did you mean"):
        metrics.score(y, p, "maee")


def test_intervals_of_the_mean_absolute_error_cover_what_they_say():
    random, covered = np.random.default_rng(1), 0
    for _ in range(200):
        error = random.normal(0, 10, (60, 1)).repeat(2, 1).ravel()  # two records of each patient
        drawn = bootstrap.replicates(np.zeros(120), error, np.arange(120) // 2, n=200, statistic="mae")
        score = bootstrap.average(drawn)
        covered += score.low <= 10 * np.sqrt(2 / np.pi) <= score.high
    assert 0.89 <= covered / 200 <= 0.98


def test_resampling_regression_is_twenty_times_faster_than_the_loop():
    row = speed.numbers_row()
    assert row["ratio"] >= row["target"] == 20


def test_kappa_equals_scikit_learn_on_the_resampled_arrays():
    random = np.random.default_rng(2)
    y = (random.random(200) < 0.3).astype(float)
    p = np.where(random.random(200) < 0.2, 1 - y, y)
    indices = random.integers(0, 200, (30, 200))
    ours = bootstrap.replicates(y, p, indices=indices, statistic="kappa").values[:, 0]
    np.testing.assert_allclose(ours, [cohen_kappa_score(y[i], p[i]) for i in indices], atol=1e-12)


def test_mcnemar_is_the_sign_test_of_the_discordant_records():
    y = np.array([1, 1, 1, 0, 0, 0, 1, 0, 1, 0, np.nan])
    ours = np.array([1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 1])  # wrong once
    theirs = np.array([0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 0])  # wrong five times
    assert agreement.mcnemar(y, ours, theirs) == (5, 1, pytest.approx(14 / 64))  # 2 (1 + 6) / 2**6
    assert agreement.mcnemar(y, ours, ours) == (0, 0, 1.0)


def test_simulated_readers_show_the_skill_that_they_were_given(tmp_path):
    random = np.random.default_rng(0)
    y = (random.random(3000) < 0.4).astype(float)
    skill = {"expert": (0.95, 0.97), "resident": (0.75, 0.9)}
    read = {k: np.where(y == 1, random.random(3000) < a, random.random(3000) > b) * 1.0 for k, (a, b) in skill.items()}
    table = agreement.compare(y, read, model="expert", n=200).set_index(["reader", "metric"])
    for name, (sensitivity, specificity) in skill.items():
        assert table.point[name, "sensitivity"] == pytest.approx(sensitivity, abs=0.03)
        assert table.point[name, "specificity"] == pytest.approx(specificity, abs=0.03)
    resident = table.loc[("resident", "f1")]
    assert resident.difference_low > 0 and resident.p_mcnemar < 1e-6
    assert (table.loc["expert"].difference == 0).all()
    rows = [f"{i},{k},AFIB,{int(v)}" for k, calls in read.items() for i, v in enumerate(calls[:20])]
    file = tmp_path / "readers.csv"
    file.write_text("\n".join(["record_id,reader,label,call", *rows, "0,third,AFIB,1"]))
    agreed = agreement.consensus(agreement.load_readers(file)).set_index("record_id").call
    split = read["expert"][:20] != read["resident"][:20]
    assert np.isnan(agreed[[str(i) for i in np.flatnonzero(split) if i]]).all() and agreed["0"] in (0, 1)
    for row, field in (("5,expert,AFIB,0", "repeats"), ("21,expert,AFIB,2", "no call")):
        file.write_text("\n".join(["record_id,reader,label,call", *rows, row]))
        with pytest.raises(EcgError, match=field):
            agreement.load_readers(file)


def followed(n=150, seed=0):
    random = np.random.default_rng(seed)
    risk = random.normal(size=n).round(1)
    death, lost = random.exponential(np.exp(-risk) * 5), random.exponential(6, n)
    return np.minimum(death, lost).round(1), death <= lost, risk


def harrell(time, event, risk):
    """Harrell et al. 1982, pair by pair."""
    won = usable = 0
    for i in range(len(time)):
        for j in range(len(time)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                usable += 1
                won += (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
    return won / usable


def kaplan_meier(time, event, at):
    """Share not lost before `at`, step by step."""
    share = 1.0
    for t in sorted(set(time[~event])):
        if t < at:
            share *= 1 - ((time == t) & ~event).sum() / ((time > t).sum() + ((time == t) & ~event).sum())
    return share


def time_auroc(time, event, risk, horizon):
    """Cumulative/dynamic AUROC with inverse weights of the censoring, pair by pair."""
    won = usable = 0.0
    for i in np.flatnonzero(event & (time <= horizon)):
        weight = 1 / kaplan_meier(time, event, time[i])
        for j in np.flatnonzero(time > horizon):
            usable += weight
            won += weight * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return won / usable


@pytest.mark.parametrize("horizon", [None, 2.0])
def test_concordance_and_time_auroc_equal_the_pair_by_pair_count_on_resampled_arrays(horizon):
    time, event, risk = followed()
    indices = np.random.default_rng(1).integers(0, len(time), (6, len(time)))
    drawn = survival.replicates(time, event, risk, horizon=horizon, indices=indices)
    oracle = harrell if horizon is None else lambda *a: time_auroc(*a, horizon)
    assert drawn.point[0] == pytest.approx(oracle(time, event, risk), abs=1e-6)
    expected = [oracle(time[i], event[i], risk[i]) for i in indices]
    np.testing.assert_allclose(drawn.values[:, 0], expected, atol=1e-5)


def test_times_that_cannot_be_compared_are_refused():
    time, event, risk = followed()
    with pytest.raises(EcgError, match="no pair"):
        survival.replicates(time, np.zeros(len(time)), risk)
    with pytest.raises(EcgError, match="horizon"):
        survival.replicates(time, event, risk, horizon=1e9)
    with pytest.raises(EcgError, match="below zero"):
        survival.replicates(-time - 1, event, risk)
    with pytest.raises(EcgError, match="event"):
        survival.replicates(time, event + 1.5, risk)
