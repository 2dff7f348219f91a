"""What an encoder is worth: frozen features with a linear probe, fine-tuning, and the three baselines of every table.

Everything is chosen on the validation split (specification: 16 cells, chosen by validation BCE); the test split and the
external hospitals are opened by `open_test` alone. Windows of one record are averaged to one probability.
"""

import copy
import logging
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecglib import checkpoint, encoders, metrics, objectives, splits, train
from ecglib.classifiers import boosting, linear
from ecglib.frozen import features, handmade, own_input
from ecglib.labels import ABSENT, PRESENT, UNKNOWN
from ecglib.signals import EcgError

log = logging.getLogger(__name__)
BASELINES = ("random", "features", "scratch")
SUPERVISED = dict(loss="bce", lead_dropout=0.2, gain=0.2, shift=True)  # settled on the validation fold of ptb-xl-2k
FINETUNE_LR = 1e-3  # of "+finetune" unless told otherwise


def open_test(cohort) -> np.ndarray:
    """Rows of the closed splits ("test", "external"): the only place where they are opened. The call is logged."""
    rows = cohort.test_rows()
    log.info("opened the %d closed rows of %s", len(rows), cohort.name)
    return rows


def truth(cohort, rows, labels) -> np.ndarray:
    """States int8 (row, label); a label that the cohort lacks is unknown everywhere."""
    states = np.full((len(rows), len(labels)), UNKNOWN, np.int8)
    there = [i for i, name in enumerate(labels) if name in cohort.labels.columns]
    if there:
        states[:, there] = cohort.states([labels[i] for i in there], rows)
    return states


def known(states: np.ndarray) -> np.ndarray:
    """States -> 1, 0, or -1 where unknown or possible: what probes learn from and metrics count."""
    return np.where((states == PRESENT) | (states == ABSENT), states, -1).astype(np.int8)


def probabilities(objective, data: train.CohortData, batch_size: int = 256) -> np.ndarray:
    """Probabilities (row, label) of a supervised objective on `data`."""
    device = next(objective.parameters()).device
    chunks = np.array_split(np.arange(len(data)), math.ceil(len(data) / batch_size))
    objective.eval()
    with torch.inference_mode():
        logits = torch.cat([objective.logits(data.signals(chunk).to(device)).float().cpu() for chunk in chunks])
    return torch.sigmoid(logits).numpy()


def supervised(encoder, data, val_data, *, epochs=25, min_steps=100, batch_size=64, lr=3e-3, weight_decay=0.01, seed=0,
               **params):  # fmt: skip
    """Train encoder and head on labels; the weights with the best validation macro AUROC stay. Returns the objective.

    data, val_data: CohortData with labels. Steps: `epochs` passes, at least `min_steps`; warm-up over a tenth;
    validation twenty times. `params` go to the supervised objective, over `SUPERVISED`.
    """
    params = {**SUPERVISED, **params, "n_labels": len(data.labels)}
    objective = objectives.build("supervised", encoder, seed=seed, **params)
    y = known(truth(val_data.cohort, val_data.rows, val_data.labels))
    ids = val_data.record_ids

    def validate(model) -> dict[str, float]:
        score = metrics.macro_auroc(*_per_record(ids, y, probabilities(model, val_data)))
        if not np.isfinite(score):
            raise EcgError("no label has both classes on validation", field="labels", fix="choose other labels")
        return {"val_score": score}

    steps = max(min_steps, epochs * max(1, len(data) // batch_size))
    train.fit(objective, data, steps=steps, batch_size=batch_size, lr=lr, weight_decay=weight_decay, warmup=steps // 10,
              seed=seed, val=validate, val_every=max(1, steps // 20), select="best")  # fmt: skip
    return objective


def _per_record(ids: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    """Mean over the windows of each record, records in order of first appearance (states of a record are all equal)."""
    code, unique = pd.factorize(ids)
    if len(unique) == len(ids):
        return list(values)
    count = np.bincount(code)[:, None]
    means = []
    for value in values:
        total = np.zeros((len(unique), value.shape[1]))
        np.add.at(total, code, value)
        means.append(total / count)
    return means


def predictions(cohort, rows, p, labels, *, encoder: str, mode: str, fraction: float, seed: int) -> pd.DataFrame:
    """Long table with the columns of `ecglib.predictions`, one row per record and label.

    p: (row, label) probabilities of the cohort's `rows`.
    """
    records = cohort.records.iloc[rows]
    ids = records["record_id"].astype(str).to_numpy()
    states, p = _per_record(ids, truth(cohort, rows, labels).astype(float), np.asarray(p, float))
    first = records.drop_duplicates("record_id")
    n = len(labels)
    columns = {name: np.repeat(first[name].astype(str).to_numpy(), n) for name in ("record_id", "patient_id")}
    columns |= {"cohort": cohort.name, "split": np.repeat(first["split"].astype(str).to_numpy(), n)}
    columns |= {"label": np.tile(np.asarray(labels, str), len(first)), "truth": states.ravel().astype(np.int8)}
    columns |= {"probability": p.ravel().astype(np.float32), "encoder": encoder, "mode": mode}
    return pd.DataFrame({**columns, "fraction": float(fraction), "seed": int(seed)})


def write_predictions(table: pd.DataFrame, path) -> None:
    """Write predictions as parquet: sorted, same bytes for the same rows, by an atomic rename."""
    keys = ["encoder", "mode", "fraction", "seed", "cohort", "split", "record_id", "label"]
    table = table.sort_values(keys, kind="stable", ignore_index=True)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), sink, compression="zstd")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomic(Path(path), sink.getvalue().to_pybytes())


class _Task(NamedTuple):
    """What all models of one `run` share. targets: (cohort, rows) to predict, the validation rows first."""

    cohort: object
    leads: tuple
    labels: list
    profile: object
    train_rows: np.ndarray
    val_rows: np.ndarray
    targets: list

    def data(self, rows, cohort=None) -> train.CohortData:
        labels = self.labels if cohort is None else None
        return train.CohortData(cohort or self.cohort, rows, self.leads, self.profile, labels)

    def known(self, rows) -> np.ndarray:
        return known(truth(self.cohort, rows, self.labels))

    def subsets(self, fractions, seeds: int, chance: bool) -> list[tuple[int, float, np.ndarray]]:
        """(seed, fraction, training rows). Of the whole there is one subset: only methods with chance repeat it."""
        table = pd.DataFrame(truth(self.cohort, self.train_rows, self.labels), columns=self.labels)
        patients = self.cohort.records["patient_id"].to_numpy()[self.train_rows]
        parts = {f: splits.subsets(table, patients, f, seeds) for f in fractions}
        return [
            (seed, fraction, self.train_rows[parts[fraction][seed % len(parts[fraction])]])
            for seed in range(seeds)
            for fraction in fractions
            if chance or seed < len(parts[fraction])
        ]


def _frozen(task: _Task, embed, learn, chance: bool):
    """A way to train: embed(cohort, rows, seed) - once, or once per seed where the features have chance of their own -
    then learn(z, y, z_val, y_val, seed) on them."""

    @lru_cache(maxsize=1)
    def tables(seed):
        return [embed(cohort, rows, seed) for cohort, rows in [(task.cohort, task.train_rows), *task.targets]]

    def fit(rows, seed):
        z, z_val, *closed = tables(seed if chance else 0)
        there = np.searchsorted(task.train_rows, rows)
        model = learn(z[there], task.known(rows), z_val, task.known(task.val_rows), seed)
        return lambda i: model([z_val, *closed][i])

    return fit


def _network(task: _Task, make, training: dict):
    """A way to train: the whole network make(seed) by `supervised`."""
    val = task.data(task.val_rows)
    targets = [val, *(task.data(rows, cohort) for cohort, rows in task.targets[1:])]

    def fit(rows, seed):
        objective = supervised(make(seed), task.data(rows), val, seed=seed, **training)
        return lambda i: probabilities(objective, targets[i])

    return fit


def _way(method: str, task: _Task, make, training: dict):
    """(encoder name, mode, fit(rows, seed) -> predict(target number), whether it has chance of its own)."""
    name, _, tail = method.partition("+")
    if tail:
        return name, "finetune", _network(task, make, training), True
    if name == "scratch":
        return name, "supervised", _network(task, make, training), True
    if name == "features":
        fit = _frozen(task, lambda c, rows, seed: handmade(c, rows, task.leads), boosting, False)
        return name, "boosting", fit, False
    encoder, chance = lru_cache(maxsize=1)(make), name == "random"

    def embed(cohort, rows, seed):
        return features(encoder(seed), cohort, rows, task.leads, task.profile)

    def learn(*arrays_and_seed):
        return linear(*arrays_and_seed[:4]).model

    return name, "linear", _frozen(task, embed, learn, chance), chance


def fits(folder, cohort, leads, profile) -> None:
    """EcgError when the card of the encoder in `folder` says that it was made for other inputs than those of the task.

    The rate counts as the network meets it: after the profile, which resamples, or else as the cohort is packed.
    """
    config, info = encoders.card(folder)
    name = getattr(profile, "name", profile)
    wanted = {"n_leads": len(leads), "leads": list(leads), "profile": name} | ({} if name else {"fs": cohort.fs})
    made = {"n_leads": config["n_leads"], **info}
    for field, value in wanted.items():
        if field in made and made[field] != value:
            fix = f"pretrain an encoder for this task, or give run {field.replace('n_', 'task_')} as on its card"
            reason = f"the encoder was pretrained with {field} = {made[field]}, the task has {value}"
            raise EcgError(reason, file=str(folder), field=field, fix=fix)


def _plan(method, cohort, externals, leads, labels, profile, pretrain_dir, model) -> _Task:
    """The task of `run`, after all that can be refused has been; opens the closed splits of all cohorts."""
    name, _, tail = method.partition("+")
    if tail not in ("", "finetune") or (tail and name in BASELINES):
        raise EcgError(f"unknown method {method!r}", field="method", fix="<objective> or <objective>+finetune")
    if name not in BASELINES and pretrain_dir is None and model is None:
        raise EcgError(f"{method} needs an encoder", field="pretrain_dir", fix=f"or use {', '.join(BASELINES)}")
    if model is not None:
        leads, profile = own_input(model, leads, (cohort, *externals))
    elif name not in BASELINES:
        fits(pretrain_dir, cohort, leads, profile)
    train_rows, val_rows = cohort.rows("train"), cohort.rows("val")
    for split, there in (("train", train_rows), ("val", val_rows)):
        if not len(there):
            raise EcgError(f"{cohort.name} has no {split} rows", field="split", fix="give the records a split")
    closed = [(c, open_test(c)) for c in (cohort, *externals)]
    targets = [(cohort, val_rows), *((c, rows) for c, rows in closed if len(rows))]
    return _Task(cohort, tuple(leads), list(labels), profile, train_rows, val_rows, targets)


def run(
    method: str, cohort, externals=(), *, task_leads, labels, fractions=(0.01, 0.1, 1.0), seeds: int = 5,
    pretrain_dir=None, model=None, encoder="net1d", size="small", scratch_encoder="resnet1d", profile="study",
    progress=print, finetune_lr: float | None = None, **training,
) -> pd.DataFrame:  # fmt: skip
    """Train `method` on label fractions of the development cohort; predict its validation, test and external records.

    method: "random" (linear probe of an untrained encoder, another one per seed), "features" (hand-made features,
    boosted trees), "scratch" (supervised), "<objective>" (linear probe of the encoder in pretrain_dir, or of the
    published `model` of `zoo.load`, which is fed its own leads and profile), or "<objective>+finetune". task_leads:
    leads of the task; labels: label columns; fractions: of the training patients, `seeds` subsets each (of the whole
    there is one; only methods with chance of their own repeat it). encoder, size: for "random"; scratch_encoder: for
    "scratch", at its small size. training: epochs, min_steps, batch_size, lr, weight_decay and parameters of the
    supervised objective. finetune_lr: of "+finetune" (else lr, else 1e-3). progress: called with one line per model.
    Returns a table as `predictions`; raises EcgError for an unknown method, an encoder that was pretrained for other
    inputs, and where training or validation is empty.
    """
    task = _plan(method, cohort, externals, task_leads, labels, profile, pretrain_dir, model)
    if method == "scratch":
        encoder, size = scratch_encoder, "small"
    trained = method.partition("+")[0] not in BASELINES
    if "+" in method:
        training = {**training, "lr": finetune_lr or training.get("lr", FINETUNE_LR)}

    def make(seed):
        if model is not None:
            return copy.deepcopy(model) if "+" in method else model
        return encoders.load(pretrain_dir)[0] if trained else encoders.build(encoder, size, len(task.leads), seed)

    name, mode, fit, chance = _way(method, task, make, training)
    tables = []
    for seed, fraction, chosen in task.subsets(fractions, seeds, chance):
        predict = fit(chosen, seed)
        names = dict(encoder=name, mode=mode, fraction=fraction, seed=seed)
        p = [predict(i) for i in range(len(task.targets))]
        tables += [predictions(*at, p[i], task.labels, **names) for i, at in enumerate(task.targets)]
        ids = cohort.records["record_id"].to_numpy()[task.val_rows]
        score = metrics.macro_auroc(*_per_record(ids, task.known(task.val_rows), p[0]))
        progress(f"{method}: {100 * fraction:g} % of the labels, seed {seed}: validation macro AUROC {score:.3f}")
    return pd.concat(tables, ignore_index=True)
