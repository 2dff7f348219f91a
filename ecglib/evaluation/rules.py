"""Plain rules called and judged: published criteria (`evaluation.criteria`) on the stored measurements of a cohort.

A call is PRESENT, ABSENT, or UNKNOWN where a number that the rule reads was not measured. Scores count an unknown call
as none: a program that cannot measure PR does not call a long one. Nothing is fitted, so every record may be scored.
"""

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.data import handmade
from ecglib.data.labels import ABSENT, PRESENT, SUPERCLASSES, UNKNOWN
from ecglib.data.recording import LEADS
from ecglib.evaluation import bootstrap, criteria
from ecglib.evaluation.predictions import observed

STATISTICS = ("sensitivity", "specificity", "f1")
TRUTH = {  # measurement -> column of the simulator's truth
    **{"rate": "hr", "pr_ms": "pr", "qrs_ms": "qrs", "qt_ms": "qt", "p_ms": "p_ms"},
    **{"qrs_axis_deg": "axis_qrs", "qtc_fridericia_ms": "qtcf"},
}
UNITS = {"rate": "1/min", "male": "", "age": "years"}


def measured(cohort, rows) -> pd.DataFrame:
    """What the rules read of rows of a cohort: its stored measurements, rate, corrected QT, age in years, male 1 or 0.

    NaN: not measured, or not stated. Raises EcgError for a cohort without twelve leads.
    """
    if set(cohort.leads) != set(LEADS):
        raise EcgError(f"{len(cohort.leads)} leads", file=cohort.name, field="leads", fix="give a twelve-lead cohort")
    who = cohort.records.iloc[rows]
    male = who["sex"].map({"male": 1.0, "female": 0.0}).to_numpy(float)
    table = pd.DataFrame(handmade.of_cohort(cohort, rows), columns=handmade.feature_names(cohort.leads))
    return with_corrections(table.astype(float).assign(age=who["age"].to_numpy(float), male=male))


def with_corrections(table: pd.DataFrame) -> pd.DataFrame:
    """A table of measurements with the rate (1/min) and QT corrected by two linear formulas (ms).

    Source: Sagie et al. 1992 (Framingham), Hodges et al. 1983.
    """
    rate = 60000 / table["median_rr"]
    framingham = table["qt_ms"] + 154 * (1 - table["median_rr"] / 1000)
    return table.assign(rate=rate, qtc_framingham_ms=framingham, qtc_hodges_ms=table["qt_ms"] + 1.75 * (rate - 60))


def true_measurements(truth: pd.DataFrame, who: pd.DataFrame) -> pd.DataFrame:
    """What the simulator knows of each record under the names of `measured`; intervals that are not there are NaN.

    truth: rows of truth.csv; who: age and sex of the same records.
    """
    columns = {name: truth[column].to_numpy(float) for name, column in TRUTH.items()}
    male = who["sex"].map({"male": 1.0, "female": 0.0}).to_numpy(float)
    table = pd.DataFrame(columns | {"age": who["age"].to_numpy(float), "male": male})
    table[["pr_ms", "p_ms"]] = table[["pr_ms", "p_ms"]].where(table[["pr_ms", "p_ms"]] > 0)  # no P wave
    return with_corrections(table.assign(median_rr=60000 / table["rate"]))


def calls(table: pd.DataFrame, rules=criteria.RULES) -> pd.DataFrame:
    """What each rule says of each record: int8 (record, rule) PRESENT, ABSENT, or UNKNOWN where a number is missing.

    table: `measured`, or a part of its columns: a rule that reads another one says nothing.
    """
    said = {}
    for rule in rules:
        state = np.full(len(table), UNKNOWN, np.int8)
        if set(rule.needs) <= set(table.columns):
            numbers = {name: table[name].to_numpy() for name in rule.needs}
            known = ~np.any([np.isnan(values) for values in numbers.values()], axis=0)
            holds = rule.holds({name: values[known] for name, values in numbers.items()})
            state[known] = np.where(holds, PRESENT, ABSENT)
        said[rule.name] = state
    return pd.DataFrame(said, index=table.index)


def explained(said: pd.Series, numbers: pd.Series, rules=criteria.RULES) -> pd.DataFrame:
    """The rules that hold in one record with the numbers that they rest on: rule, criterion, numbers, source.

    said, numbers: its rows of `calls` and `measured`.
    """
    rows = []
    for rule in rules:
        if said[rule.name] == PRESENT:
            rows.append([rule.name, rule.words, _numbers(rule, numbers), rule.source])
    return pd.DataFrame(rows, columns=["rule", "criterion", "numbers", "source"])


def _numbers(rule, numbers: pd.Series) -> str:
    """What the rule has read, with units: "PR 236 ms"; of many leads no more than the first eight numbers."""
    texts = []
    for name in rule.needs[:8]:
        unit = UNITS.get(name, handmade.unit(name))
        shown = name.removesuffix(f"_{name.rpartition('_')[2]}") if unit not in ("1", "") else name
        digits = 2 if unit in ("mV", "1") else 0
        texts.append(f"{shown.replace('_', ' ')} {numbers[name]:.{digits}f} {unit}".removesuffix(" 1").strip())
    return ", ".join(texts) + (", ..." if len(rule.needs) > 8 else "")


def stated(states: pd.DataFrame, statements) -> np.ndarray:
    """Whether any of some statements is made: 1, 0, or -1 where one is possible or unknown and none is made.

    states: label states (record, label); where it has none of the statements nothing is known: -1 throughout.
    """
    there = [name for name in statements if name in states]
    values = observed(states[there].to_numpy()) if there else np.full((len(states), 1), UNKNOWN)
    return np.where((values == PRESENT).any(1), 1, np.where((values == ABSENT).all(1), 0, -1)).astype(np.int8)


def scores(said: pd.DataFrame, truth: pd.DataFrame, patients, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Sensitivity, specificity and F1 of each rule with intervals over patients; an unknown call counts as none.

    said: `calls`; truth: 1, 0 or -1 (record, rule), columns as of `said`; patients: (record,); n, seed: resamples.
    Returns rule, metric, point, low, high, n_positive, n_called, n_unmeasured; NaN where a class is missing.
    """
    y, p = truth[said.columns].to_numpy(), (said.to_numpy() == PRESENT).astype(float)
    counts = pd.DataFrame({"rule": said.columns, "n_positive": (y == 1).sum(0), "n_called": p.sum(0).astype(int)})
    counts["n_unmeasured"] = (said.to_numpy() == UNKNOWN).sum(0)
    rows = []
    for metric in STATISTICS:
        each = bootstrap.per_label(bootstrap.replicates(y, p, patients, n, seed, statistic=metric))
        rows += [[name, metric, *score[:3]] for name, score in zip(said.columns, each, strict=True)]
    return pd.DataFrame(rows, columns=["rule", "metric", "point", "low", "high"]).merge(counts, on="rule")


def covered(labels, rules=criteria.RULES) -> list[str]:
    """Those of some labels that a rule is a sign of: its statements, its superclass; NORM where all of these are."""
    known = {name for rule in rules for name in (*rule.statements, rule.group)} | {"NORM"}
    return [name for name in labels if name in known]


def label_scores(said: pd.DataFrame, labels, rules=criteria.RULES) -> np.ndarray:
    """How much the rules speak for each label: the share of its rules that hold, float (record, label).

    labels: of `covered`. NORM: 1 / (1 + number of rules of a superclass that hold), so that 1 is none.
    """
    holds, columns = said == PRESENT, []
    for label in labels:
        if label == "NORM":
            abnormal = [rule.name for rule in rules if rule.group in SUPERCLASSES]
            columns.append(1 / (1 + holds[abnormal].sum(axis=1)))
            continue
        mine = [rule.name for rule in rules if label == rule.group or label in rule.statements]
        if not mine:
            raise EcgError(f"no rule is a sign of {label}", field="label", fix="take labels of `covered`")
        columns.append(holds[mine].mean(axis=1))
    return np.stack(columns, axis=1)


def measured_against_truth(table, true, patients, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Bias and 95 % limits of agreement (Bland and Altman 1986) of the measurements whose truth is known.

    table, true: `measured` and `true_measurements` of the same records. Returns measurement, unit, n, bias, loa_low,
    loa_high, each with its interval (low_, high_), and the mean absolute error.
    """
    rows = []
    for name in TRUTH:
        pair = np.stack([true[name], table[name]])
        if name == "qrs_axis_deg":  # the short way round
            pair[1] = pair[0] + (pair[1] - pair[0] + 180) % 360 - 180
        known = ~np.isnan(pair).any(axis=0)
        row = {"measurement": name, "unit": UNITS.get(name, handmade.unit(name)), "n": int(known.sum())}
        for metric in ("bias", "loa_low", "loa_high", "mae"):
            drawn = bootstrap.replicates(*pair[:, known], np.asarray(patients)[known], n, seed, statistic=metric)
            score = bootstrap.average(drawn)
            row |= {metric: score.point, f"low_{metric}": score.low, f"high_{metric}": score.high}
        rows.append(row)
    return pd.DataFrame(rows)
