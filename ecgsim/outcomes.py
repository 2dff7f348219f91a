"""What else is known of a patient of hospitals A and B: measurements and events that depend on heart and person.

outcomes.csv states each: base + effects (of a finding that the ECG truly shows, of age per decade above 60, of heart
rate per 10 above 70, of the body mass index per unit above 26, of sex, smoking, hypertension) + logistic noise of the
scale `spread`, which grows with the days between ECG and measurement; `log`: all of that on the natural logarithm;
`least`, `most`: what a measurement can be; abnormal is what lies at or below, or above, `cut`. A
measurement is missing not at random: `tested` is the share of the abnormal that have one, and of the normal only
`tested_normal` of that share. So the best possible prediction from heart and person, given that there is a measurement,
is known exactly: its median and the probability that it is abnormal stand beside it (`optimal_...`). Death has a
constant yearly hazard exp(base + effects) and a follow-up of one to eight years.
"""

from datetime import date

import numpy as np

from ecgsim import arithmetic
from ecgsim.records import OUTCOME, TERRITORIES

RULES = arithmetic.rows("outcomes.csv")
SLOTS = tuple((rule["outcome"], 3) for rule in RULES)
DAYS = 365.25
MONTH = 30.0  # days after which the variance of the noise has doubled
FEWEST, MOST = 1e-9, 1 - 1e-9  # a uniform number strictly inside 0..1


def _logit(u):
    u = np.minimum(np.maximum(u, FEWEST), MOST)
    return arithmetic.log(u) - arithmetic.log(1 - u)


def _share(x):
    """1 / (1 + e^-x), the distribution function of the logistic noise."""
    return 1 / (1 + arithmetic.exp(-np.minimum(np.maximum(x, -40.0), 40.0)))


def _expected(rule, plan, labels, truth):
    """base + effects of one outcome: (record,)."""
    known = {k: labels[k].astype(float) for k in labels}
    known |= {k: plan.who[k].astype(float) for k in ("male", "smoking", "hypertension")}
    known["MI"] = np.any([labels[k] == 1 for k in TERRITORIES], axis=0).astype(float)
    known |= {"age": (plan.who["age"] - 60) / 10, "bmi": plan.who["bmi"] - 26, "hr": (truth["hr"] - 70) / 10}
    words, score = rule["effects"].split(), float(rule["base"])
    for name, effect in zip(words[::2], words[1::2], strict=True):
        score = score + float(effect) * known[name]
    return score


def table(plan, labels, truth, days):
    """Columns (record,) of outcomes.csv of a hospital, empty text where nothing was measured.

    plan: the Plan; labels: 0/1 of what the ECG truly shows; truth: with the heart rate; days: ordinal of the ECG.
    Per outcome: its value (coronary disease: 0/1), NAME_date, optimal_NAME (median) and optimal_NAME_abnormal; of
    death: died, followup_days and optimal_death (logarithm of the yearly hazard).
    """
    d, columns = arithmetic.Draws(SLOTS, plan.seed, OUTCOME, plan.ids), {}
    for rule in RULES:
        f, u = _expected(rule, plan, labels, truth), d.u(rule["outcome"])
        columns |= _death(f, u) if rule["outcome"] == "death" else _measured(rule, f, u, np.asarray(days))
    return columns


def _death(f, u):
    until = -arithmetic.log(np.maximum(u[:, 0], FEWEST)) / arithmetic.exp(f) * DAYS
    followed = (1 + 7 * u[:, 1]) * DAYS
    columns = {"died": (until <= followed).astype(int), "followup_days": 1 + np.floor(np.minimum(until, followed))}
    return columns | {"followup_days": columns["followup_days"].astype(int), "optimal_death": _text(f, 3)}


def _measured(rule, f, u, days):
    name, digits = rule["outcome"], rule["digits"]
    gap = np.floor(-arithmetic.log(np.maximum(u[:, 2], FEWEST)) * float(rule["gap_days"]))
    spread = float(rule["spread"]) * np.sqrt(1 + gap / MONTH)
    value = f + spread * _logit(u[:, 0])
    cut = float(rule["cut"]) + (0.5 / 10 ** int(digits) if digits else 0.0)  # where the rounded value turns abnormal
    cut = float(arithmetic.log(cut)) if rule["log"] == "1" else cut
    above, below = rule["side"] == "above", _share((cut - f) / spread)
    abnormal = (value >= cut) if above else (value < cut)
    low, high = (float(rule["tested_normal"]), 1.0) if above else (1.0, float(rule["tested_normal"]))
    tested = u[:, 1] < float(rule["tested"]) * np.where(value < cut, low, high)
    seen = low * below + high * (1 - below)
    probability = high * (1 - below) / seen if above else low * below / seen
    columns = {name: _shown(value, rule, int(digits)) if digits else abnormal.astype(int).astype(str)}
    columns[f"{name}_date"] = np.array([date.fromordinal(int(x)).isoformat() for x in days + gap], dtype=object)
    if digits:
        middle = np.where(low * below >= seen / 2, seen / 2 / low, below + (seen / 2 - low * below) / high)
        columns[f"optimal_{name}"] = _shown(f + spread * _logit(middle), rule, int(digits) + 2)
    columns[f"optimal_{name}_abnormal"] = _text(probability, 5)
    return {k: np.where(tested, x, "") for k, x in columns.items()}


def _shown(value, rule, digits):
    value = arithmetic.exp(value) if rule["log"] == "1" else value
    least, most = (float(rule[name] or other) for name, other in (("least", -1e9), ("most", 1e9)))
    return _text(np.minimum(np.maximum(value, least), most), digits)


def _text(values, digits):
    scaled = arithmetic.to_grid(values, 10**digits)
    return np.array([f"{x / 10**digits:.{digits}f}" for x in scaled.tolist()], dtype=object)
