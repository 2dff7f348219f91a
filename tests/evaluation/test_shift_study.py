"""Populations without overlap, and a study on the closed-form toy, whose winner is known."""

import numpy as np
import pytest
from memory_cohort import MemoryCohort

from ecglib import EcgError
from ecglib.evaluation import invariance, shift_study

QUICK = invariance.Settings(dim=2, steps=120, warmup=20, weights=(1.0,), decays=(0.1,))
SETTINGS = shift_study.Settings(seeds=1, n_resamples=40, network=QUICK, shares=(0.2, 0.8))


def toy(n, seed):
    """A feature as in the toy, with a weaker effect of Z, and two of noise; every fourth patient has two records."""
    random = np.random.default_rng(seed)
    z, y = (random.random((2, n)) < 0.5).astype(int)
    x = np.column_stack([random.normal(y + 0.5 * z, 1), random.normal(size=(n, 2))]).astype(np.float32)
    return shift_study.People(x, y, z, np.arange(n) * 4 // 5)


def test_environments_have_their_odds_and_share_no_record():
    people = toy(6000, 0)
    first, second = shift_study.environments(people, SETTINGS)
    assert len(first) == len(second) > 1500 and not set(first) & set(second)
    for rows, odds in ((first, 9), (second, 3)):
        y, z = people.y[rows], people.z[rows]
        cells = [((y == a) & (z == b)).sum() for a, b in ((1, 1), (0, 0), (1, 0), (0, 1))]
        assert cells[0] * cells[1] / (cells[2] * cells[3]) == pytest.approx(odds, rel=0.05)
        assert y.mean() == pytest.approx(0.3, abs=0.002)
    with pytest.raises(EcgError, match="records for each"):
        shift_study.environments(people.at(np.flatnonzero(people.y == 0)), SETTINGS)


@pytest.fixture(scope="module")
def study():
    unknown = toy(300, 5)
    unknown.y[:] = -1
    test = toy(4000, 2)
    joined = shift_study.People(*(np.concatenate([a, b]) for a, b in zip(test, unknown, strict=True)))
    return shift_study.run(toy(4000, 0), toy(2000, 1), joined, SETTINGS)


def test_the_covariate_helps_at_home_harms_away_and_the_prior_repairs_it(study):
    table = study[0].set_index(["shift", "level", "method", "metric"]).sort_index()
    home, away = (table.loc[("P(Y|Z)", level)].point.unstack() for level in (9.0, 1 / 9))
    assert home.log_loss["X+Z"] < home.log_loss["X only"] and away.log_loss["X+Z"] > away.log_loss["X only"]
    for prior in ("prior known", "prior of 100 labels", "prior by EM"):
        assert away.log_loss[f"X+Z, {prior}"] < away.log_loss["X only"] - 0.05
        assert away.auroc[f"X+Z, {prior}"] > away.auroc["X only"] + 0.02
    mixes = table.loc["P(Z)"].point.unstack().log_loss.unstack()
    assert (mixes["X+Z"] < mixes["X only"]).all(), "a shift of P(Z) alone is no harm"


def test_the_tables_are_whole_and_their_differences_paired(study):
    table, choices = study
    assert (
        set(table.method)
        == set(shift_study.METHODS)
        == set(choices.method) | {f"X+Z, {prior}" for prior in ("prior known", "prior of 100 labels", "prior by EM")}
    )
    assert len(table) == len(shift_study.METHODS) * 3 * (5 + 2) and not table.isna().any().any()
    assert (table.low <= table.point).all() and (table.point <= table.high).all()
    assert table[table["shift"] == "P(Y|Z)"].n_records.nunique() == 1
    wide = table[(table.metric == "log_loss") & (table.level == 9.0)].set_index("method")
    assert wide.gain["X+Z"] == pytest.approx(wide.point["X only"] - wide.point["X+Z"])
    assert (wide.gain_high - wide.gain_low)["IRM"] < (wide.high - wide.low)["IRM"]


def test_the_summary_has_the_worst_population_and_the_slope(study):
    table = shift_study.summary(study[0]).set_index(["method", "metric"])
    some = study[0][(study[0]["shift"] == "P(Y|Z)") & (study[0].method == "X+Z") & (study[0].metric == "log_loss")]
    row = table.loc[("X+Z", "log_loss")]
    assert row.worst == some.point.max() and row.at_home == some.point[some.level == 9.0].item()
    steps = [-2, -1, 0, 1, 2]
    assert row.slope == pytest.approx(np.polyfit(steps, some.point, 1)[0])
    assert row.slope > table.loc[("X+Z, prior known", "log_loss")].slope + 0.05


def test_people_of_a_cohort():
    cohort = MemoryCohort(12)
    cohort.labels.iloc[0, 1], cohort.labels.iloc[1, 1] = 2, -1
    cohort.labels.iloc[1, 2] = 1
    rows = np.arange(12)
    found = shift_study.people(np.zeros((12, 2)), cohort, rows, ["AFIB", "CLBBB"], "age", 65)
    table = cohort.labels[["AFIB", "CLBBB"]].to_numpy()
    assert found.y[0] == -1 and found.y[1] == 1
    assert list(found.y[2:]) == list((table[2:] == 1).any(1).astype(int))
    assert list(found.z) == list((cohort.records.age >= 65).astype(int))
    cohort.records.loc[3, "sex"] = None
    sex = shift_study.people(np.zeros((12, 2)), cohort, rows, ["AFIB"], "sex", "male").z
    assert sex[3] == -1 and sex[4] == (cohort.records.sex[4] == "male")
    with pytest.raises(EcgError, match="did you mean 'age'"):
        shift_study.people(np.zeros((12, 2)), cohort, rows, ["AFIB"], "agee", 65)
    rest, held = shift_study.divided(cohort, rows, 0.5)
    patients = cohort.records.patient_id.to_numpy()
    assert len(rest) == len(held) == 6 and not set(patients[rest]) & set(patients[held])
