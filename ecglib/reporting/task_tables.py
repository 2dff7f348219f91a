"""Tables of unlike tasks, each judged by its own statistic, from the table that `evaluation.tasks.run` gives.

Every score has its 95 % interval over patients and stands beside the best that is possible, where somebody knows it.
Differences are paired, on the same resamples, and a positive one is always the better.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.evaluation import agreement, bootstrap, metrics, survival
from ecglib.evaluation.tasks import thresholds

GROUP, MODEL = ["task", "cohort", "split"], ["encoder", "mode", "fraction"]
AGREEMENT = ("mae", "rmse", "r", "r2", "slope", "bias", "loa_low", "loa_high")
CALIBRATION = ("ece", "brier")
AGE_BANDS = {"below 50": (0, 50), "50 to 69": (50, 70), "70 and above": (70, 200)}


class Answers(NamedTuple):
    """What all models said of one task, cohort and split."""

    records: np.ndarray  # (record,) names
    labels: list
    patients: np.ndarray  # (record,)
    y: np.ndarray  # (record, label)
    optimal: np.ndarray  # (record, label), NaN where nobody knows it
    p: dict  # {(encoder, mode, fraction): {seed: (record, label)}}

    def take(self, rows):
        """Of some records alone: bool (record,)."""
        p = {model: {seed: each[rows] for seed, each in runs.items()} for model, runs in self.p.items()}
        return Answers(self.records[rows], self.labels, self.patients[rows], self.y[rows], self.optimal[rows], p)


def answers(table) -> dict:
    """{(task, cohort, split): Answers}; EcgError where two models were not asked about the same records."""
    return {key: _answers("/".join(key), rows) for key, rows in table.groupby(GROUP, sort=True, observed=True)}


def _answers(place, rows) -> Answers:
    rows, p, first = rows.sort_values(["record_id", "label"], kind="stable"), {}, None
    for (*model, seed), part in rows.groupby([*MODEL, "seed"], sort=True, observed=True):
        first = part if first is None else first
        if len(part) != len(first) or (part["record_id"].to_numpy() != first["record_id"].to_numpy()).any():
            raise EcgError(f"{model} was asked about other records", field=place, fix="run all methods again")
        shape = (-1, part["label"].nunique())
        p.setdefault(tuple(model), {})[seed] = part["prediction"].to_numpy(float).reshape(shape)
    columns = [first[name].to_numpy().reshape(shape) for name in ("record_id", "patient_id", "truth", "optimal")]
    names = first["label"].to_numpy()[: shape[1]].tolist()
    return Answers(columns[0][:, 0], names, columns[1][:, 0], columns[2].astype(float), columns[3].astype(float), p)


def drawn(said: Answers, model, metric: str, n=1000, seed=0, cuts=None) -> bootstrap.Replicates:
    """A statistic of one model, averaged over its labels and seeds inside each resample of the patients.

    cuts: {seed: (label,)} thresholds, for statistics of decisions.
    """
    runs = []
    for run, p in said.p[model].items():
        p = p if cuts is None else (p >= cuts[run]).astype(float)
        runs.append(bootstrap.replicates(said.y, p, said.patients, n, seed, statistic=metric))
    point, values = (np.stack([metrics.mean_known(run[i]) for run in runs], -1) for i in (0, 1))
    return bootstrap.Replicates(np.atleast_1d(metrics.mean_known(point)), metrics.mean_known(values)[:, None])


def scores(table, tasks: dict, names=None, n=1000, seed=0):
    """Score of every model on every closed split: GROUP, MODEL, metric, point, low, high, optimal, n, n_patients.

    tasks: {name: evaluation.tasks.Task}; names: statistics (None: the one that judges the task).
    """
    out = []
    for (name, cohort, split), said in answers(table[table["split"] != "val"]).items():
        for metric in names or [tasks[name].metric]:
            best = np.nan
            if not np.isnan(said.optimal).any():
                best = float(np.mean(metrics.score(said.y, said.optimal, metric)))
            sizes = [best, len(said.y), len(set(said.patients))]
            for model in said.p:
                score = bootstrap.average(drawn(said, model, metric, n, seed))
                out.append([name, cohort, split, *model, metric, score.point, score.low, score.high, *sizes])
    return pd.DataFrame(out, columns=[*GROUP, *MODEL, "metric", "point", "low", "high", "optimal", "n", "n_patients"])


def differences(table, tasks: dict, reference=("scratch", "supervised"), n=1000, seed=0):
    """How much better each model is than the reference at the same fraction of the labels, in the task's own statistic.

    GROUP, MODEL, metric, gain, low, high, p_value, p_holm (over this table). A positive gain is better: of errors it is
    the reference's minus the model's.
    """
    out = []
    for (name, cohort, split), said in answers(table[table["split"] != "val"]).items():
        metric = tasks[name].metric
        kept = {model: drawn(said, model, metric, n, seed) for model in said.p}
        for model, own in kept.items():
            if model[:2] == tuple(reference) or (*reference, model[2]) not in kept:
                continue
            pair = (own, kept[(*reference, model[2])])
            ours, theirs = pair[::-1] if metric in metrics.SMALLER else pair
            gap = bootstrap.interval(ours.point[0] - theirs.point[0], (ours.values - theirs.values)[:, 0])
            p_value = bootstrap.two_sided(gap.replicates)
            out.append([name, cohort, split, *model, metric, gap.point, gap.low, gap.high, p_value])
    out = pd.DataFrame(out, columns=[*GROUP, *MODEL, "metric", "gain", "low", "high", "p_value"])
    return out.assign(p_holm=bootstrap.holm(out["p_value"]) if len(out) else [])


def operating_points(table, rule="youden", n=1000, seed=0):
    """Sensitivity, specificity, predictive values and F1 at thresholds that the validation records chose.

    table: of tasks that are no numbers. Returns GROUP, MODEL, metric, threshold (mean over seeds), point, low, high.
    """
    chosen, out = {}, []
    for task, rows in table.groupby("task", observed=True):
        chosen |= {(task, *key): cut for key, cut in thresholds(rows, rule).items()}
    for (name, cohort, split), said in answers(table[table["split"] != "val"]).items():
        for model, runs in said.p.items():
            cuts = {run: np.array([chosen[(name, *model, run, label)] for label in said.labels]) for run in runs}
            for metric in metrics.OPERATING:
                score = bootstrap.average(drawn(said, model, metric, n, seed, cuts))
                cut = float(np.mean(list(cuts.values())))
                out.append([name, cohort, split, *model, metric, cut, score.point, score.low, score.high])
    return pd.DataFrame(out, columns=[*GROUP, *MODEL, "metric", "threshold", "point", "low", "high"])


def subgroups(table, tasks: dict, records, n=1000, seed=0, fewest=20):
    """Score in every group of sex, age band and device with its interval, and the gap between the outermost two.

    records: table with record_id, and sex, age, device where there are any. Returns GROUP, MODEL, metric, by, group,
    point, low, high, n, gap, gap_low, gap_high (the same for the groups of one `by`: highest minus lowest, on resamples
    of each group's own patients), smallest (whether it is the smallest group). Groups under `fewest` records are left
    out.
    """
    out, known = [], records.drop_duplicates("record_id").set_index(records["record_id"].drop_duplicates().astype(str))
    for key, said in answers(table[table["split"] != "val"]).items():
        for by, group in _groups(known.loc[said.records]).items():
            parts = {each: said.take(group == each) for each in sorted(set(group)) if each}
            parts = {each: part for each, part in parts.items() if len(part.y) >= fewest}
            for model in said.p if len(parts) > 1 else ():
                metric = tasks[key[0]].metric
                found = {g: bootstrap.average(drawn(part, model, metric, n, seed)) for g, part in parts.items()}
                out += _group_rows([*key, *model, metric, by], found, parts)
    names = [*GROUP, *MODEL, "metric", "by", "group", "point", "low", "high", "n", "gap", "gap_low", "gap_high"]
    return pd.DataFrame(out, columns=[*names, "smallest"])


def _groups(records) -> dict:
    """{by: name of the group of each record, "" where unknown}."""
    groups = {name: records[name].fillna("").astype(str).to_numpy() for name in ("sex", "device") if name in records}
    if "age" in records and records["age"].notna().any():
        age, named = records["age"].to_numpy(float), np.full(len(records), "", object)
        for name, (low, high) in AGE_BANDS.items():
            named[(age >= low) & (age < high)] = name
        groups["age"] = named.astype(str)
    return groups


def _group_rows(about, found, parts):
    ranked = sorted((each for each in found if not np.isnan(found[each].point)), key=lambda each: found[each].point)
    gap = bootstrap.unpaired(found[ranked[-1]], found[ranked[0]]) if len(ranked) > 1 else (np.nan,) * 3
    fewest = min(parts, key=lambda each: len(parts[each].y))
    return [
        [*about, each, score.point, score.low, score.high, len(parts[each].y), *gap[:3], each == fewest]
        for each, score in found.items()
    ]


def deaths_foretold(table, records, n=1000, seed=0):
    """How well predictions order the times until death: Harrell's C of each model, higher predictions dying first.

    table: closed predictions of one task, label and fraction; records: with record_id, died (0/1) and followup_days, or
    death and followup_years, NaN where not followed, who is left out. Returns encoder, mode, n, c, low, high; where
    the records have optimal_death, the logarithm of the true hazard, the last row is of somebody who knows it.
    """
    known = records.drop_duplicates("record_id").set_index("record_id")
    known = known.assign(**dict(zip(("time", "event"), survival.followed(known), strict=True))).dropna(subset="time")
    means = table.groupby(["encoder", "mode", "record_id"], observed=True)["prediction"].mean()
    asked = [(*model, part.droplevel([0, 1])) for model, part in means.groupby(level=[0, 1])]
    if "optimal_death" in known:
        asked.append(("hazard", "known", known["optimal_death"]))
    out = []
    for encoder, mode, risk in asked:
        who = known.loc[[name for name in asked[0][2].index if name in known.index]]
        times, risk = [who[name].to_numpy() for name in ("time", "event")], risk.loc[who.index]
        drawn = survival.replicates(*times, risk.to_numpy(float), who["patient_id"].to_numpy(), n, seed)
        out.append([encoder, mode, len(who), *bootstrap.average(drawn)[:3]])
    return pd.DataFrame(out, columns=["encoder", "mode", "n", "c", "low", "high"])


def beside_readers(table, readers, n=1000, seed=0):
    """A model beside readers and their majority, on the records that both have judged: `agreement.compare`.

    table: predictions of one task, label and model, the validation records among them, which choose the threshold;
    readers: as of `agreement.load_readers`, of the same label.
    """
    cut = float(np.mean(list(thresholds(table).values())))
    closed = table[table["split"] != "val"].groupby("record_id", observed=True)
    said = closed.agg({"truth": "first", "prediction": "mean", "patient_id": "first"})
    named = readers.pivot(index="record_id", columns="reader", values="call")
    named["majority"] = agreement.consensus(readers).set_index("record_id")["call"]
    named = named.reindex(said.index)
    calls = {"model": (said["prediction"] >= cut).to_numpy(float)} | {name: named[name].to_numpy() for name in named}
    return agreement.compare(said["truth"].to_numpy(), calls, said["patient_id"], "model", n, seed)
