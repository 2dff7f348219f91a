"""Outcomes: what depends on what, what is missing, and the best possible prediction against draws by brute force."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from ecgsim import outcomes, patients
from ecgsim.hospitals import SEED

RULES = {rule["outcome"]: rule for rule in outcomes.RULES}


@pytest.fixture(scope="module")
def table():
    """The outcomes of hospital A, its labels taken as planned; expected values beside them."""
    plan, meta = patients.cohort("A", SEED)
    labels = {name: want.astype(int) for name, want in plan.want.items()}
    days = [date.fromisoformat(day).toordinal() for day in meta["recording_date"]]
    out = pd.DataFrame(outcomes.table(plan, labels, {"hr": plan.who["hr"]}, days)).replace("", np.nan)
    dates = [name for name in out if name.endswith("_date")]
    numbers = out.drop(columns=dates).astype(float).join(out[dates])
    return numbers.assign(ecg=meta["recording_date"], MI=labels["AMI"] | labels["IMI"] | labels["ASMI"])


@pytest.mark.parametrize("name", [name for name in RULES if name != "death"])
@pytest.mark.parametrize("expected", [-1, 0, 1])
def test_the_best_prediction_is_that_of_many_draws(name, expected):
    """Half a million people alike: draw the noise with numpy, round, lose the untested, and count."""
    rule, n, random = RULES[name], 500_000, np.random.default_rng(1)
    cut = np.log(float(rule["cut"])) if rule["log"] == "1" else float(rule["cut"])
    f = cut + expected * 1.3 * float(rule["spread"])
    value = f + random.logistic(0, float(rule["spread"]), n)
    if rule["digits"]:
        shown = (np.exp(value) if rule["log"] == "1" else value).round(int(rule["digits"]))
        abnormal = shown > float(rule["cut"]) if rule["side"] == "above" else shown <= float(rule["cut"])
    else:
        abnormal = value > cut
    tested = random.random(n) < np.where(abnormal, 1.0, float(rule["tested_normal"]))
    u = np.column_stack([[0.5], [0.0], [1.0]])  # no noise, tested, on the day of the ECG
    said = outcomes._measured(rule, np.array([f]), u, np.array([730000]))
    assert float(said[f"optimal_{name}_abnormal"][0]) == pytest.approx(abnormal[tested].mean(), abs=0.004)
    if rule["digits"]:
        middle = np.median(value[tested])
        middle = np.exp(middle) if rule["log"] == "1" else middle
        assert float(said[f"optimal_{name}"][0]) == pytest.approx(middle, rel=0.01)


def test_effects_have_the_stated_size_and_measurements_their_dates(table):
    ill = table[["lvef", "MI"]].dropna().groupby("MI").lvef.median()
    assert ill[1] < ill[0] - 8
    gap = (pd.to_datetime(table.lvef_date) - pd.to_datetime(table.ecg)).dt.days.dropna()
    assert gap.min() >= 0 and 6 < gap.mean() < 14
    rule = RULES["lvef"]
    assert table.lvef.notna().mean() == pytest.approx(0.57, abs=0.05)
    known = table.dropna(subset=["lvef"])
    low = known.lvef <= float(rule["cut"])
    assert 0.08 < low.mean() < 0.16 and low.mean() == pytest.approx(known.optimal_lvef_abnormal.mean(), abs=0.02)


def test_a_measurement_is_missing_not_at_random(table):
    """Of the abnormal nearly all are tested, of the normal a part: the measured look worse than everybody is."""
    plan, _ = patients.cohort("A", SEED)
    f, spread = table.optimal_nt_probnp_abnormal, RULES["nt_probnp"]
    assert f.notna().mean() < float(spread["tested"]) * 0.85
    measured = table.dropna(subset=["nt_probnp"])
    abnormal = (measured.nt_probnp > float(spread["cut"])).mean()
    weights = np.where(measured.nt_probnp > float(spread["cut"]), 1, 1 / float(spread["tested_normal"]))
    everybody = np.average(measured.nt_probnp > float(spread["cut"]), weights=weights)
    assert abnormal > everybody + 0.05


def test_death_follows_its_yearly_hazard(table):
    years, hazard = table.followup_days.to_numpy() / 365.25, np.exp(table.optimal_death.to_numpy())
    expected = (hazard * years).sum()  # of a constant hazard, as many deaths as hazard x time at risk
    assert table.died.sum() == pytest.approx(expected, abs=3 * np.sqrt(expected))
    assert years.max() <= 8.01 and table.died.between(0, 1).all()
