"""Who comes to the hospital and what their records show: demographics, risk factors, visits, label plans.

Prevalences follow PTB-XL (A), the 12-lead sets of the Challenge 2021 (B) and CinC 2017 style wearables (C); odds ratios
are design values (see labels.csv). Intercepts are solved on the whole default patient table, so a smaller run holds the
same patients with the same records.
"""

from datetime import date

import numpy as np

from ecgsim import arithmetic
from ecgsim.records import LABELS, PERSON, PLAN, PLAN_SLOTS, TERRITORIES, complete

SITES = tuple(r["site"] for r in arithmetic.rows("sites.csv"))
RULES = tuple(r for r in arithmetic.rows("labels.csv") if r["group"] != "derived")
VISITS = 16
_PERSON = (
    *((s, 1) for s in "age male height bmi sbp chol hdl smoke treated visits visits_n split shift start".split()),
    *((s, 1) for s in "no_height no_weight no_smoke no_bp no_lipids hr pr qtcf".split()),
    ("own", 64),
)
_VISIT = (*PLAN_SLOTS, ("gap", 1), ("couplets", 1), ("territory", 1), ("fresh", 64), ("which", 64), ("age_error", 1))


class Mixed:
    """Draws whose normal numbers stay partly with the patient: hr, pr and qtcf correlate between visits."""

    own = {"hr": 0.6, "pr": 0.9, "qtcf": 0.75}

    def __init__(self, person, visit):
        self.person, self.visit, self.u, self.pick = person, visit, visit.u, visit.pick

    def n(self, slot):
        """Normal numbers with the share `own` of their variance from the patient."""
        w = self.own[slot]
        return np.sqrt(w) * self.person.n(slot) + np.sqrt(1.0 - w) * self.visit.n(slot)


def site_row(name):
    """Row of sites.csv."""
    return arithmetic.rows("sites.csv")[SITES.index(name)]


def people(site, seed):
    """Patient table of a hospital: dict of arrays (patient,), with the number of visits, and the draws."""
    n, first = int(site["patients"]), SITES.index(site["site"]) * 100_000
    ids = first + np.arange(n)
    d = arithmetic.Draws(_PERSON, seed, PERSON, ids)
    age = np.floor(d.n("age", float(site["age_mean"]), float(site["age_sd"])))
    age = np.where(age > 95, 60 + (age - 95) * 2, np.where(age < 18, 60 - (18 - age), age))
    male = (d.u("male") < float(site["male"])).astype(int)
    height = np.where(male == 1, 178.0, 165.0) + np.where(male == 1, 7.0, 6.5) * d.n("height")
    height = height - 0.1 * np.maximum(0.0, age - 40.0)
    sbp = np.where(male == 1, 127.4 + 0.45 * (age - 48), 120.8 + 0.65 * (age - 48)) + 14.0 * d.n("sbp")
    chol = np.where(male == 1, 5.19, 5.30) - 0.0006 * (age - 57) * (age - 57) + d.n("chol")
    hdl = np.where(male == 1, 1.24, 1.55) * arithmetic.exp(0.22 * d.n("hdl"))
    smoker = d.u("smoke") < np.where(male == 1, 0.31, 0.26) * np.where(age > 65, 0.5, 1.0)
    odds = arithmetic.exp(-3.0 + 0.06 * (age - 50.0))
    table = {"id": ids, "age": age, "male": male, "height": height, "bmi": 26.2 * arithmetic.exp(0.16 * d.n("bmi"))}
    table |= {"systolic": sbp, "cholesterol": np.maximum(chol, 2.0), "hdl": hdl, "smoking": smoker.astype(int)}
    table["hypertension"] = ((sbp > 140) | (d.u("treated") < odds / (1 + odds))).astype(int)
    share = [float(x) for x in site["visits"].split()]
    few, many = (d.u("visits_n") * 3).astype(int), (d.u("visits_n") * d.u("visits_n") * 7).astype(int)
    table["visits"] = np.choose(d.pick("visits", share), [np.full(n, 1), np.full(n, 2), 3 + few, 6 + many])
    return table, d


def visits(site, table, d, seed):
    """Record table: arrays (record,) of patient row, visit number, age, day, and the draws of every record."""
    row = np.repeat(np.arange(len(table["id"])), table["visits"])
    number = np.arange(len(row)) - np.searchsorted(row, row)
    ids = table["id"][row] * VISITS + number
    v = arithmetic.Draws(_VISIT, seed, PLAN, ids)
    gap = np.minimum(float(site["gap_days"]) * arithmetic.exp(1.2 * v.n("gap")), 2500.0)
    gap = np.where(number == 0, 0, arithmetic.to_grid(gap, 1) + 1)
    days = np.cumsum(gap)
    days = days - days[np.searchsorted(row, row)]
    start = date(int(site["year"]), 1, 1).toordinal() + arithmetic.to_grid(d.u("start") * 365 * float(site["years"]), 1)
    records = {"row": row, "visit": number, "id": ids, "day": start[row] + days}
    records["age"] = np.minimum(np.floor(table["age"][row] + days / 365.25), 99)
    return records, v


def _solve(score, able, target, n):
    """Intercept that gives `target` expected records among n: bisection on integer sums of probabilities."""
    goal, low, high = int(target * n * (1 << 20)), -30.0, 15.0
    for _ in range(48):
        middle = 0.5 * (low + high)
        e = arithmetic.exp(score + middle)
        total = int(np.floor(e / (1.0 + e) * (1 << 20)).astype(np.int64)[able].sum())
        low, high = (middle, high) if total < goal else (low, middle)
    e = arithmetic.exp(score + low)
    return np.where(able, e / (1.0 + e), 0.0)


def _log(text):
    return float(arithmetic.log(float(text)))


def label_plan(site, table, records, d, v):
    """Sample the labels in the order of labels.csv: label -> bool (record,), and the infarct territory."""
    row, n = records["row"], len(records["row"])
    have = {k: table[k][row].astype(bool) for k in ("hypertension", "smoking")}
    male, decades = table["male"][row], (records["age"] - 60.0) / 10.0
    for i, rule in enumerate(RULES):
        able = ~np.any([have[x] for x in rule["excluded_by"].split()] or [np.zeros(n, bool)], axis=0)
        links = rule["links"].split()
        score = decades * _log(rule["or_decade"]) + male * _log(rule["or_men"])
        for name, ratio in zip(links[::2], links[1::2], strict=True):
            score = score + have[name] * _log(ratio)
        p = _solve(score, able, float(rule[site["site"]]) / 100.0, n)
        u = np.where(v.u("which")[:, i] < float(rule["keep"]), d.u("own")[row, i], v.u("fresh")[:, i])
        have[rule["label"]] = u < p
    share = [float(x["share"]) for x in arithmetic.rows("territories.csv")]
    own = d.u("own")[row, 63] * sum(share)
    where = (own[:, None] >= np.cumsum(share)[:-1]).sum(1)
    # An infarct that its neighbour would hide moves to the commonest wall where it can be seen.
    where = np.where(have["LAFB"] & np.isin(where, (0, 4, 6)), 1, np.where(have["LVH"] & (where == 5), 0, where))
    want = {x: have[x] if x in have else np.zeros(n, bool) for x in LABELS}
    for i, name in enumerate(TERRITORIES):
        want[name] = have["MI"] & (where == i)
    want["BIGU"] = want["PVC"] & (v.u("couplets") < 0.08)
    want["TRIGU"] = want["PVC"] & (v.u("couplets") > 0.96)
    want["SR"] = ~np.any([want[r["label"]] for r in RULES if r["group"] == "rhythm"], axis=0)
    want["NORM"] = ~np.any([want[x] for x in LABELS if x not in ("SR", "SARRH", "NORM", "VCLVH")], axis=0)
    return want


def _fold(want, table, records, d):
    """Fold 0..9 of every patient, dealt in turn within equal rarest label and number of visits, in hashed order."""
    counts = {x: want[x].sum() for x in LABELS if want[x].any()}
    rarest = np.full(len(table["id"]), len(counts))
    for rank, name in enumerate(sorted(counts, key=lambda x: (-counts[x], x))):
        rarest[records["row"][want[name]]] = rank
    order = np.lexsort((d.u("split"), table["visits"], rarest))
    fold = np.empty(len(order), int)
    fold[order] = (np.arange(len(order)) * 7) % 10
    return fold


LOST = {"no_height": "height", "no_weight": "weight", "no_smoke": "smoking", "no_bp": "pressure", "no_lipids": "lipids"}
SPLITS = ("pretrain",) * 5 + ("train",) * 2 + ("val",) + ("test",) * 2


def cohort(name, seed, scale=1.0, n_patients=None):
    """Plan and metadata of one hospital: (Plan, table of columns (record,)). scale < 1 keeps the first patients.

    n_patients: how many it has, in place of its own number.
    """
    site = site_row(name) | ({"patients": n_patients} if n_patients else {})
    table, d = people(site, seed)
    records, v = visits(site, table, d, seed)
    want = label_plan(site, table, records, d, v)
    fold = _fold(want, table, records, d)
    row = records["row"]
    who = {"age": records["age"], "male": table["male"][row], "bmi": table["bmi"][row]}
    who |= {k: table[k][row] for k in ("smoking", "hypertension")}
    person = arithmetic.Draws(_PERSON, seed, PERSON, table["id"][row])
    plan = complete(seed, records["id"], table["id"][row], want, who, Mixed(person, v))
    meta = metadata(site, table, records, d, v)
    meta["strat_fold"] = fold[row] + 1
    meta["split"] = np.array(SPLITS)[fold[row]] if name == "A" else np.full(len(row), "external")
    keep = np.flatnonzero(row < max(1, round(scale * len(table["id"]))))
    return plan.take(keep), {k: c[keep] for k, c in meta.items()}


def metadata(site, table, records, d, v):
    """Columns named as in PTB-XL where it has them; empty text where a value is missing."""
    row = records["row"]

    def text(values, digits, missing):
        scaled = arithmetic.to_grid(values, 10**digits)
        shown = np.array([f"{x / 10**digits:.{digits}f}" for x in scaled.tolist()], dtype=object)[row]
        return np.where((d.u(missing) < float(site[f"miss_{LOST[missing]}"]))[row], "", shown)

    age = np.minimum(records["age"], 90)
    if site["site"] == "B":
        age = np.floor(age / 5) * 5 + 2
    if site["site"] == "C":
        age = np.where(v.u("age_error") < 0.03, 18 + np.floor(v.u("age_error") * 2000), age)
    names = [f"{site['site']}{i + 1:05d}" for i in range(len(row))]
    weight = table["bmi"] * table["height"] * table["height"] / 10000.0
    return {
        "record_id": np.array(names, dtype=object),
        "patient_id": np.array([f"{site['site']}P{i + 1:05d}" for i in row.tolist()], dtype=object),
        "visit": records["visit"] + 1,
        "age": age.astype(int),
        "sex": np.where(table["male"][row] == 1, "male", "female"),
        "height": text(table["height"], 0, "no_height"),
        "weight": text(weight, 0, "no_weight"),
        "smoking": text(table["smoking"], 0, "no_smoke"),
        "systolic": text(table["systolic"], 0, "no_bp"),
        "cholesterol": text(table["cholesterol"], 1, "no_lipids"),
        "hdl": text(table["hdl"], 2, "no_lipids"),
        "site": np.full(len(row), site["site"]),
        "device": np.full(len(row), site["device"]),
        "recording_date": np.array([date.fromordinal(int(x)).isoformat() for x in records["day"]], dtype=object),
    }
