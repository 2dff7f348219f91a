"""Tasks of every kind on the same cohorts: what is predicted, of whom, and by which number it is judged.

    statements   label columns with states                         macro AUROC
    binary       a yes or no that a column of the records gives    AUROC
    number       a column of the records, such as age in years     mean absolute error
    class        a column of the records that names one of several macro AUROC, one class against the rest

A task names its columns, the rule that makes a yes of a number (`positive`), whose records count (`keep`) and how far
from the ECG the measurement may lie (`within`). Results of unlike tasks never share a column.
"""

import copy
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError, models, require_known
from ecglib.data.labels import UNKNOWN
from ecglib.evaluation import classifiers, metrics, probing
from ecglib.evaluation.predictions import OUT_OF_FOLD, label_states, observed, per_record
from ecglib.training import batches

METRICS = {"statements": "auroc", "binary": "auroc", "number": "mae", "class": "auroc"}  # kind -> what it is judged by
RULES = {"above": np.greater, "at_least": np.greater_equal, "below": np.less, "at_most": np.less_equal}
RULES |= {"is": np.equal, "is_not": np.not_equal}
WORDS = {"above": ">", "at_least": ">=", "below": "<", "at_most": "<=", "is": "=", "is_not": "not"}
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way from a linear probe to the fine-tuned weights
DATE = "recording_date"  # column of the records
KEYS = ["record_id", "patient_id", "cohort", "split", "task", "label"]
COLUMNS = [*KEYS, "truth", "prediction", "optimal", "encoder", "mode", "fraction", "seed"]


@dataclass(frozen=True)
class Task:
    """One target: see the table above."""

    name: str
    kind: str
    columns: tuple  # statements: label columns; else one column of the records
    unit: str = ""  # of a number
    positive: dict = field(default_factory=dict)  # binary: one rule, such as {at_most: 40} or {is: male}
    keep: dict = field(default_factory=dict)  # column of the records -> rule: others are not asked about
    within: dict = field(default_factory=dict)  # {date: column of dates, days: largest distance from the ECG}
    classes: tuple = ()  # of a class: the values that count, in order
    log: bool = False  # learn and judge the natural logarithm of the number
    train: tuple = ("train",)  # splits that it learns from: one whose statements taught an encoder may be among them
    optimal: str = ""  # column with the best prediction that is possible, where somebody knows it
    version: str = "1"  # of this definition

    @property
    def metric(self) -> str:
        """The statistic that judges it."""
        return METRICS[self.kind]

    @property
    def outputs(self) -> tuple:
        """Names of what is predicted: labels, classes, or the task itself."""
        return {"statements": self.columns, "class": self.classes}.get(self.kind, (self.name,))

    @property
    def definition(self) -> str:
        """What is predicted of whom, in words."""
        text = f"{'log ' * self.log}{', '.join(self.columns)}"
        text += "".join(f" {WORDS[rule]} {value}" for rule, value in self.positive.items())
        rules = [f"{c} {WORDS[r]} {v}" for c, rule in self.keep.items() for r, v in rule.items()]
        rules += [f"within {self.within['days']} days of the ECG"] if self.within else []
        return text + (f" ({'; '.join(rules)})" if rules else "")

    def truth(self, cohort) -> np.ndarray:
        """What is true, float64 (row, output): 1 or 0, or the number; NaN where unknown or left out."""
        self._check(cohort)
        if self.kind == "statements":
            states = observed(label_states(cohort, np.arange(len(cohort)), self.columns)).astype(float)
            y = np.where(states < 0, np.nan, states)
        else:
            y = self._of_records(cohort.records[self.columns[0]])
        y[~np.all(list(self._kept(cohort).values()) or [np.ones(len(cohort), bool)], axis=0)] = np.nan
        return y

    def best(self, cohort) -> np.ndarray:
        """The best prediction that is possible (row,), NaN where nobody knows it."""
        if not self.optimal or self.optimal not in cohort.records:
            return np.full(len(cohort), np.nan)
        values = cohort.records[self.optimal].to_numpy(float)
        return np.log(values) if self.log else values

    def exclusions(self, cohort) -> pd.DataFrame:
        """How many open records each rule leaves out, one after the other: rule, left_out, left."""
        rows = cohort.rows((*self.train, "val"))
        left, lines = np.isin(np.arange(len(cohort)), rows), [["all of training and validation", 0, len(rows)]]
        known = ~np.isnan(replace(self, keep={}, within={}).truth(cohort)).all(1)
        for rule, kept in ({"known": known} | self._kept(cohort)).items():
            lines.append([rule, int((left & ~kept).sum()), int((left & kept).sum())])
            left &= kept
        return pd.DataFrame(lines, columns=["rule", "left_out", "left"])

    def _of_records(self, cells) -> np.ndarray:
        if self.kind == "class":
            y = np.stack([cells == name for name in self.classes], 1).astype(float)
            y[~cells.isin(self.classes)] = np.nan
            return y
        known = (cells.notna() & (cells.astype(str) != "")).to_numpy()
        if self.kind == "binary":
            ((rule, value),) = self.positive.items()
            y = np.full(len(cells), np.nan)
            y[known] = RULES[rule](cells.to_numpy()[known], value)
            return y[:, None]
        y = cells.to_numpy(float)
        return np.log(np.where(y > 0, y, np.nan))[:, None] if self.log else y[:, None].copy()

    def _kept(self, cohort) -> dict:
        """Rule in words -> which rows it keeps."""
        kept = {}
        for column, rules in self.keep.items():
            for rule, value in rules.items():
                cells = cohort.records[column].to_numpy()
                kept[f"{column} {WORDS[rule]} {value}"] = np.asarray(RULES[rule](cells, value), bool)
        if self.within:
            ecg, then = (pd.to_datetime(cohort.records[c], errors="coerce") for c in (DATE, self.within["date"]))
            near = ((then - ecg).dt.days.abs() <= self.within["days"]).to_numpy()
            kept[f"within {self.within['days']} days of the ECG"] = near
        return kept

    def _check(self, cohort) -> None:
        """EcgError for a column that the cohort lacks."""
        there, needs = list(cohort.records), [*self.keep, *([DATE, self.within["date"]] if self.within else [])]
        if self.kind == "statements":
            require_known("label", self.columns, list(cohort.labels), "columns", cohort.name)
        else:
            needs += self.columns
        require_known("column", needs, there, "columns", cohort.name)


def make(name: str, spec: dict) -> Task:
    """The task that a params.yaml describes: the fields of Task by name; `columns` may be one text.

    Raises EcgError, naming task and field, for an unknown kind, field or rule, and for what a kind needs and lacks.
    """
    fields = [f for f in Task.__dataclass_fields__ if f != "name"]
    require_known("field", spec, fields, f"tasks.{name}")
    require_known("kind", [spec.get("kind")], METRICS, f"tasks.{name}.kind")
    columns = spec.get("columns", ())
    columns = (columns,) if isinstance(columns, str) else tuple(columns)
    rules = [spec.get("positive", {}), *spec.get("keep", {}).values()]
    require_known("rule", [rule for each in rules for rule in each], RULES, f"tasks.{name}.positive")
    wrong = ""
    if not columns or (spec["kind"] != "statements" and len(columns) > 1):
        wrong = "columns: label columns of statements, or one column of the records"
    elif (spec["kind"] == "binary") != (len(spec.get("positive", {})) == 1):
        wrong = "positive: one rule such as {at_most: 40}, for a binary task and for no other"
    elif spec["kind"] == "class" and len(spec.get("classes", ())) < 2:
        wrong = "classes: the values that count, two or more"
    elif spec.get("within") and set(spec["within"]) != {"date", "days"}:
        wrong = "within: {date: column of dates, days: number}"
    if wrong:
        field_, _, fix = wrong.partition(": ")
        raise EcgError(f"task {name} lacks what its kind needs", field=f"tasks.{name}.{field_}", fix=f"give {fix}")
    return Task(name, **spec | {"columns": columns} | {n: tuple(spec[n]) for n in ("classes", "train") if n in spec})


class Labelled:
    """A cohort of which only the records count whose truth is known for a task, and that truth is its labels.

    `truth`: float64 (row, output). The label of a number says whether it lies above the median of the training rows:
    by it subsets are spread evenly, and nothing learns from it. All else is as in the cohort.
    """

    def __init__(self, cohort, task: Task):
        self.whole, self.task, self.truth = cohort, task, task.truth(cohort)
        self._known = ~np.isnan(self.truth).all(1)
        stated = self.truth
        if task.kind == "number":
            rows = self.rows("train") if len(self.rows("train")) else np.flatnonzero(self._known)
            middle = np.median(stated[rows]) if len(rows) else np.nan
            stated = np.where(np.isnan(stated), np.nan, stated > middle)
        self._states = np.nan_to_num(stated, nan=UNKNOWN).astype(np.int8)
        table = pd.DataFrame(self._states, self.records["record_id"], list(task.outputs))
        self.labels = table[~table.index.duplicated()]

    def __getattr__(self, name):
        if name == "whole":  # while it is being copied
            raise AttributeError(name)
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return len(self.whole)

    def rows(self, split) -> np.ndarray:
        """As of a Cohort, those with a known truth; "train" is what the task learns from."""
        rows = self.whole.rows(self.task.train if split == "train" else split)
        return rows[self._known[rows]]

    def test_rows(self) -> np.ndarray:
        """As of a Cohort, those with a known truth."""
        rows = self.whole.test_rows()
        return rows[self._known[rows]]

    def states(self, names, rows) -> np.ndarray:
        """As of a Cohort: int8 (row, label)."""
        return self._states[np.asarray(rows)][:, [self.task.outputs.index(name) for name in names]]


class _Task(probing.Task):
    """As probing.Task; what is true may be numbers."""

    def known(self, rows) -> np.ndarray:
        y = self.cohort.truth[rows]
        return y if self.cohort.task.kind == "number" else np.nan_to_num(y, nan=-1).astype(np.int8)


class _Numbers(batches.CohortData):
    """Batches whose labels are standardised numbers, float32 (batch, 1)."""

    def __init__(self, task, rows, centre, spread):
        super().__init__(task.cohort, rows, task.leads, task.profile, task.labels)
        self._numbers = torch.from_numpy(((task.known(rows) - centre) / spread).astype(np.float32))

    def batch(self, index):
        return super().batch(index)._replace(labels=self._numbers[index])


class _Ridge(probing.LinearProbe):
    """Ridge regression on frozen features; the pooling with the least absolute validation error."""

    def learn(self, zs, y, zs_val, y_val, seed):
        models_ = {name: classifiers.ridge(z, y, zs_val[name], y_val) for name, z in zs.items()}
        name = min(models_, key=lambda name: np.abs(models_[name](zs_val[name]) - y_val).mean())
        self.choice = {"pooling": name}
        return lambda zs: models_[name](zs[name])


class _NumberTrees(probing.BoostedTrees):
    """Boosted trees for a number on hand-made features."""

    def learn(self, zs, y, zs_val, y_val, seed):
        (x,), (x_val,) = zs.values(), zs_val.values()
        model = classifiers.boosting_number(x, y, x_val, y_val, seed)
        return lambda zs: model(*zs.values())


class _Network(probing.Finetuned):
    """A network trained on a task of any kind; a pretrained one starts with the head of its linear probe.

    A random head would first bend the features towards itself (Kumar et al. 2022, arXiv 2202.10054). The weights
    that count lie between this start and the trained ones, at the share that does best on validation (Wortsman et al.
    2022, arXiv 2109.01903): where training did not help, the start stays.
    """

    def fit(self, draw) -> None:
        task, settings = self.task, self._settings
        val, data = self._data(task.cohort, draw.val_rows), task.data(draw.rows)
        self._centre, self._spread, y_val = 0.0, 1.0, task.known(draw.val_rows)
        if task.cohort.task.kind == "number":
            y = task.known(draw.rows)
            self._centre, self._spread = float(y.mean()), float(y.std()) or 1.0
            data = _Numbers(task, draw.rows, self._centre, self._spread)
            settings = replace(settings, objective=settings.objective | {"loss": "huber"})
        score, before = partial(self._score, val=val, y_val=y_val), []

        def start(objective):
            if self.mode == "finetune":
                self._start(objective, data, val, draw)
                before.append(copy.deepcopy(objective.state_dict()))

        how = dict(score=score, start=start)
        self._objective = probing.supervised(self._make(draw.seed), data, val, settings, draw.seed, **how)
        if before:
            self._between(before[0], score)

    def _between(self, before: dict, score) -> None:
        """Set the weights between `before` and the present ones that score best; of equal ones those nearest to it."""
        after, found = copy.deepcopy(self._objective.state_dict()), []
        for share in SHARES:
            mixed = {
                name: torch.lerp(value, after[name], share) if value.is_floating_point() else after[name]
                for name, value in before.items()
            }
            self._objective.load_state_dict(mixed)
            found.append((score(self._objective), -share, mixed))
        best = max(found, key=lambda each: each[:2])
        self._objective.load_state_dict(best[2])
        self.choice = {"share": -best[1]}

    def _score(self, objective, val, y_val) -> float:
        """What chooses the weights: minus the mean absolute error, or the macro AUROC."""
        if self.task.cohort.task.kind == "number":
            return -float(np.abs(self._outputs(objective, val, 1) - y_val).mean())
        return metrics.macro_auroc(*per_record(val.record_ids, y_val, probing.probabilities(objective, val)))

    def _start(self, objective, data, val, draw) -> None:
        """Give the objective the head of the linear probe on the features that it will see."""

        def features(x, lead_mask, peaks):
            return models.pooled(objective.encoder, x, lead_mask, peaks, objective.pooling)

        z, z_val = (batches.run_inference(objective, features, some, 256).numpy() for some in (data, val))
        y, y_val = self.task.known(draw.rows), self.task.known(draw.val_rows)
        if self.task.cohort.task.kind == "number":
            numbers = ((each - self._centre) / self._spread for each in (y, y_val))
            probe = classifiers.ridge(z, next(numbers), z_val, next(numbers))
        else:
            probe = classifiers.linear(z, y, z_val, y_val).model
        with torch.no_grad():
            objective.head.weight.copy_(torch.from_numpy(probe.weight.T))
            objective.head.bias.copy_(torch.from_numpy(probe.bias))

    def _outputs(self, objective, data, shifts) -> np.ndarray:
        return probing.mean_logits(objective, data, shifts).numpy() * self._spread + self._centre

    def predict(self, cohort, rows) -> np.ndarray:
        if self.task.cohort.task.kind != "number":
            return super().predict(cohort, rows)
        return self._outputs(self._objective, self._data(cohort, rows), self._settings.shifts)


def run(task: Task, cohort, method: str, settings=None, *, leads=None, pretrain_dir=None, externals=()):
    """Train a method on a task and predict its validation, test and external records: a table with COLUMNS.

    cohort, externals: open Cohorts; method: "random", "features", "scratch", "<objective>" or "<objective>+finetune" as
    of probing.run; settings: probing.Settings; leads: names in the order of the encoder (None: all of the cohort);
    pretrain_dir: folder of the pretrained encoder. Raises EcgError as probing.run, and where a cohort lacks a column of
    the task.
    """
    settings, leads = settings or probing.Settings(), tuple(leads or cohort.leads)
    homes = [Labelled(each, task) for each in (cohort, *externals)]
    inner = _Task(homes[0], tuple(homes[1:]), leads, task.outputs)
    inner = probing.checked(method, inner, pretrain_dir, None, settings)
    name, _, tail = method.partition("+")
    if task.kind == "number" and (name == "multirocket" or tail in ("selftrain", probing.SGD_LINEAR, probing.OUTPUTS)):
        fix = "features, scratch, random, <objective> or <objective>+finetune"
        raise EcgError(f"{method} learns no numbers", field="method", fix=fix)
    kinds = {probing.Finetuned: _Network}
    if task.kind == "number":
        kinds |= {probing.LinearProbe: _Ridge, probing.BoostedTrees: _NumberTrees}
    learner = probing.learner_of(method, inner, settings, pretrain_dir, None, kinds)
    tables, names = [], dict(encoder=name, mode=learner.mode)
    for draw in inner.draws(settings, probing.whole_seeds(learner, settings)):
        learner.fit(draw)
        about = names | dict(fraction=float(draw.fraction), seed=int(draw.seed))
        for of, rows in draw.targets:
            table = _long(of, rows, learner.predict(of, rows)).assign(**about)
            tables.append(table.assign(split=OUT_OF_FOLD) if draw.fold else table)
    table = pd.concat(tables, ignore_index=True)
    return table[COLUMNS].sort_values(["encoder", "mode", "fraction", "seed", *KEYS], ignore_index=True)


def _long(cohort, rows, values) -> pd.DataFrame:
    """One row per record and output of predictions (row, output); windows of a record are averaged."""
    records, task = cohort.records.iloc[rows], cohort.task
    ids, n = records["record_id"].astype(str).to_numpy(), len(task.outputs)
    best = np.repeat(task.best(cohort)[rows][:, None], n, 1)
    truth, values, best = per_record(ids, cohort.truth[rows], np.asarray(values, float), best)
    first = records.drop_duplicates("record_id")
    columns = {c: np.repeat(first[c].astype(str).to_numpy(), n) for c in ("record_id", "patient_id", "split")}
    columns |= {"cohort": cohort.name, "task": task.name, "label": np.tile(np.asarray(task.outputs, str), len(first))}
    columns |= {"truth": truth.ravel(), "prediction": values.ravel().astype(np.float32)}
    return pd.DataFrame(columns | {"optimal": best.ravel().astype(np.float32)})


def thresholds(table, rule="youden") -> dict:
    """Threshold of every model and label from its validation records: {(encoder, mode, fraction, seed, label): cut}."""
    keys = ["encoder", "mode", "fraction", "seed", "label"]
    parts = table[table["split"] == "val"].groupby(keys, observed=True)
    return {key: metrics.threshold_at(rows["truth"], rows["prediction"], rule) for key, rows in parts}
