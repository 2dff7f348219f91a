"""What an encoder is worth: frozen features with a linear probe, fine-tuning, and the baselines of every table.

Everything is chosen on the validation split, pooling and regularisation of probes by its log-loss; the test split and
the external hospitals are opened by `open_test` alone. Folds divide the training and validation records only. Windows
of one record are averaged to one probability.
"""

import copy
import json
import logging
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError, models, objectives, require_known
from ecglib.data import handmade, notebook, splits
from ecglib.evaluation import classifiers, embeddings, metrics, rocket, self_training
from ecglib.evaluation.predictions import (
    BASELINES,
    OUT_OF_FOLD,
    is_baseline,
    label_states,
    long_table,
    observed,
    per_record,
)
from ecglib.training import batches, train

log = logging.getLogger(__name__)
SUPERVISED = dict(loss="bce", lead_dropout=0.2, gain=0.2, shift=True)  # settled on the validation fold of ptb-xl-2k
SUPERVISED |= dict(pooling="mean+max", mixup=0.4, dropout=0.3)
SGD_LINEAR = "sgd-linear"  # behind a method: clef+sgd-linear
OUTPUTS = "outputs"  # behind a method: measure+outputs
SCRATCH_LR, FINETUNE_LR = 3e-3, 1e-3  # unless told otherwise


def open_test(cohort) -> np.ndarray:
    """Rows of the closed splits ("test", "external"): the only place where they are opened. The call is logged."""
    rows = cohort.test_rows()
    log.info("opened the %d closed rows of %s", len(rows), cohort.name)
    return rows


def share_names(fractions) -> str:
    """Shares of the labels in words: [0.01, 0.1] -> "1 %, 10 %"."""
    return ", ".join(f"{100 * fraction:g} %" for fraction in fractions)


@dataclass(frozen=True)
class Task:
    """What is predicted, on whom, and from which signals: the same for every method of a comparison."""

    cohort: object  # development Cohort
    externals: tuple = ()  # other Cohorts, which are only predicted
    leads: tuple = ()  # names, in the order that encoders get
    labels: tuple = ()  # label columns
    profile: object = "study"  # a Profile, its name, or None

    @cached_property
    def train_rows(self) -> np.ndarray:
        return self.cohort.rows("train")

    @cached_property
    def val_rows(self) -> np.ndarray:
        return self.cohort.rows("val")

    @cached_property
    def targets(self) -> list:
        """(cohort, rows) to predict, the validation rows first; asking for it opens the closed splits."""
        closed = [(cohort, open_test(cohort)) for cohort in (self.cohort, *self.externals)]
        return [(cohort, rows) for cohort, rows in [(self.cohort, self.val_rows), *closed] if len(rows)]

    def known(self, rows) -> np.ndarray:
        """Truth int8 (row, label) of the development cohort: 1, 0, or -1 where unknown or possible."""
        return observed(label_states(self.cohort, rows, self.labels))

    def data(self, rows, meta=()) -> batches.CohortData:
        return batches.CohortData(self.cohort, rows, self.leads, self.profile, self.labels, meta)

    def shares(self, rows, fractions, seeds: int) -> tuple[dict[float, list], list[float]]:
        """(fraction -> its `seeds` subsets as positions in `rows` to train on, fractions that would be nobody).

        Raises EcgError for a fraction outside (0, 1], and where nobody is left at all.
        """
        table, patients = self._patients(rows)
        drawn, nobody = {}, []
        for fraction in fractions:
            try:
                drawn[fraction] = splits.subsets(table, patients, fraction, seeds)
            except splits.Nobody:
                nobody.append(fraction)
        if not drawn:
            reason = f"{share_names(nobody)} of {len(set(patients))} training patients is nobody"
            raise EcgError(reason, file=self.cohort.name, field="fractions", fix="add 1.0")
        return drawn, nobody

    def subsets(self, rows, fractions, seeds: int, whole_seeds: int) -> list[tuple]:
        """(seed, fraction, some of the training `rows`, all of them): `seeds` subsets of each; the whole `whole_seeds`
        times."""
        drawn, runs = self.shares(rows, fractions, seeds)[0], []
        for seed, (fraction, subsets) in product(range(seeds), drawn.items()):
            if seed < (whole_seeds if len(subsets) == 1 else seeds):
                runs.append((seed, fraction, rows[subsets[seed % len(subsets)]], rows))
        return runs

    def draws(self, settings, whole_seeds: int) -> list["Draw"]:
        """What is trained on what: the official splits, then each fold in turn of the training and validation records.

        In turn each fold is predicted, the next one chooses, and the others train: the closed splits stay closed.
        """
        asked = settings.fractions, settings.seeds, whole_seeds
        draws = [Draw(*run, self.val_rows, self.targets) for run in self.subsets(self.train_rows, *asked)]
        if not settings.folds:
            return draws
        rows = np.sort(np.concatenate([self.train_rows, self.val_rows]))
        folds = [rows[fold] for fold in splits.folds(*self._patients(rows), settings.folds)]
        for k, fold in enumerate(folds):
            val = folds[(k + 1) % len(folds)]
            train = np.setdiff1d(rows, np.concatenate([fold, val]))
            runs = self.subsets(train, settings.fractions, settings.fold_seeds, 1)
            draws += [Draw(*run, val, [(self.cohort, fold)], f"fold {k + 1} of {len(folds)}") for run in runs]
        return draws

    def _patients(self, rows) -> tuple[pd.DataFrame, np.ndarray]:
        table = pd.DataFrame(label_states(self.cohort, rows, self.labels), columns=list(self.labels))
        return table, self.cohort.records["patient_id"].to_numpy()[rows]


class Draw(NamedTuple):
    """One model: its seed, share of the labels, training rows with labels, all training rows, validation rows, (cohort,
    rows) to predict, and fold."""

    seed: int
    fraction: float
    rows: np.ndarray
    pool: np.ndarray
    val_rows: np.ndarray
    targets: list
    fold: str = ""  # "" = of the official splits


@dataclass(frozen=True)
class Settings:
    """How methods are trained."""

    fractions: tuple = (0.01, 0.1, 1.0)  # of the training patients
    seeds: int = 5  # subsets of each fraction, and random initialisations
    whole_seeds: int = 5  # random initialisations at all labels; of "random:ARCHITECTURE" at any share
    folds: int = 0  # of the training and validation records together, each predicted by the others; 0 = none
    fold_seeds: int = 2  # subsets of each fraction inside every fold
    encoder: str = "net1d"  # of "random"
    size: str = "small"
    scratch_encoder: str = "resnet1d"  # of "scratch", at its small size
    epochs: int = 25  # passes over the labels at hand
    min_steps: int = 100
    batch_size: int = 64  # records
    lr: float | None = None  # peak learning rate (None: 3e-3 for "scratch")
    finetune_lr: float | None = None  # of "+finetune" (None: lr, else 1e-3)
    weight_decay: float = 0.01
    selftrain_steps: int = 350  # of "+selftrain"
    average: float = 0.1  # horizon of the moving average of the weights, as a share of the steps; 0 = none
    shifts: int = 8  # circular shifts of a record over which its logits are averaged in the end
    objective: dict = field(default_factory=dict)  # parameters of the supervised objective, over SUPERVISED
    rocket_dilations: int = 16  # of "multirocket"


def mean_logits(objective, data: batches.CohortData, shifts: int = 1) -> torch.Tensor:
    """Outputs (row, label) of a supervised objective on `data`: their mean over circular shifts in time."""
    fused = getattr(objective, "fusion", None) is not None

    def logits(x, lead_mask, peaks, **meta):
        n, total = x.shape[-1], 0.0
        for step in (round(k * n / shifts) for k in range(shifts)):
            moved = torch.where(peaks >= 0, (peaks - step) % n, -1) if peaks is not None else None
            total = total + objective.logits(torch.roll(x, -step, -1), lead_mask, moved, **meta)
        return total / shifts

    return batches.run_inference(objective, logits, data, 256, meta=fused)


def probabilities(objective, data: batches.CohortData, shifts: int = 1) -> np.ndarray:
    """Probabilities (row, label) of a supervised objective on `data`, of the mean logit over circular shifts."""
    return mean_logits(objective, data, shifts).sigmoid().numpy()


def supervised(encoder, data, val_data, settings=None, seed: int = 0, steps: int = 0, score=None, start=None):
    """The objective, with encoder and head trained on labels; the weights with the best validation score stay.

    encoder: where to start; data, val_data: CohortData with labels; settings: Settings; seed: of head and batches;
    steps: of the optimiser, 0: as settings say; score: of the objective on the validation data, higher is better (None:
    macro AUROC); start: called with the objective before the first step, such as to set its head.
    Warm-up over a tenth of the steps, validation ten times. EcgError where no label has both classes on validation.
    """
    settings = settings or Settings()
    params = {**SUPERVISED, **settings.objective, "n_labels": len(data.labels)}
    objective = objectives.build("supervised", encoder, seed=seed, **params)
    if start is not None:
        start(objective)
    y = observed(label_states(val_data.cohort, val_data.rows, val_data.labels))

    def validate(model) -> dict[str, float]:
        if score is not None:
            return {"val_score": score(model)}
        return {"val_score": metrics.macro_auroc(*per_record(val_data.record_ids, y, probabilities(model, val_data)))}

    steps = steps or max(settings.min_steps, settings.epochs * max(1, len(data) // settings.batch_size))
    lr = SCRATCH_LR if settings.lr is None else settings.lr
    momentum = max(0.0, 1 - 1 / (settings.average * steps)) if settings.average else 0.0
    options = dict(warmup=steps // 10, seed=seed, select="best", val_every=max(1, steps // 10), average=momentum)
    training = train.Settings(steps, settings.batch_size, lr, settings.weight_decay, **options)
    train.fit(objective, data, settings=training, val=validate)
    return objective


class _FeatureClassifier:
    """A classifier on feature vectors, which are computed once, or `chance` times where chance makes them."""

    chance = 0

    def __init__(self, task: Task):
        self.task, self.choice = task, {}
        self._tables = lru_cache(maxsize=None)(self._compute)

    def _compute(self, seed) -> dict:
        """Cohort -> (its rows that are asked for anywhere, their features by name)."""
        asked = {}
        for cohort, rows in [(self.task.cohort, self.task.train_rows), *self.task.targets]:
            asked.setdefault(id(cohort), (cohort, []))[1].append(rows)
        whole = {key: (cohort, np.unique(np.concatenate(parts))) for key, (cohort, parts) in asked.items()}
        return {key: (rows, self.embed(cohort, rows, seed)) for key, (cohort, rows) in whole.items()}

    def _read(self, cohort, rows) -> dict[str, np.ndarray]:
        known, zs = self._tables(self._seed % self.chance if self.chance else 0)[id(cohort)]
        at = np.searchsorted(known, rows)
        return {name: z[at] for name, z in zs.items()}

    def fit(self, draw: Draw) -> None:
        self._seed, task = draw.seed, self.task
        zs, zs_val = (self._read(task.cohort, some) for some in (draw.rows, draw.val_rows))
        self._model = self.learn(zs, task.known(draw.rows), zs_val, task.known(draw.val_rows), draw.seed)

    def predict(self, cohort, rows) -> np.ndarray:
        return self._model(self._read(cohort, rows))


class LinearProbe(_FeatureClassifier):
    """Logistic probes on frozen features; the pooling is chosen on validation together with the regularisation.

    make: seed -> encoder; chance: number of encoders that take turns over the seeds, 0 = one for all. mode: "linear",
    or SGD_LINEAR: in place of the grid one layer on the encoder's own features, trained in steps, as in most papers.
    """

    def __init__(self, task: Task, make, chance: int = 0, mode: str = "linear"):
        super().__init__(task)
        self.mode = mode
        self._encoder, self.chance = make and lru_cache(maxsize=1)(make), chance

    def embed(self, cohort, rows, seed) -> dict[str, np.ndarray]:
        return embeddings.poolings(self._encoder(seed), cohort, rows, self.task.leads, self.task.profile)

    def learn(self, zs, y, zs_val, y_val, seed):
        if self.mode == SGD_LINEAR:
            own = embeddings.OWN
            model = classifiers.sgd_linear(zs[own], y, zs_val[own], y_val, seed)
            return lambda zs: model(zs[own])
        return self.grid(zs, y, zs_val, y_val)

    def grid(self, zs, y, zs_val, y_val):
        """The probe of the features with the least validation loss; what was chosen stands in `choice`."""
        name, probe = classifiers.best_pooling(zs, y, zs_val, y_val)
        standardise, c, weight = probe.cell
        self.choice = {"pooling": name, "standardise": standardise, "C": c, "class_weight": weight or "none"}
        self.choice["validation_loss"] = float(probe.losses.min())
        return lambda zs: probe.model(zs[name])


class OutputsProbe(LinearProbe):
    """LinearProbe that may read what the objective of pretraining says of a record, in place of the encoder's tokens.

    Of `measure` these are the measurements that its head reads from the signal. The head knows from all unlabelled
    records which directions of the tokens matter, which a dozen labels cannot tell. Where that lowers the validation
    loss, the probe goes on from its own calls of the unlabelled training records. folder: of the pretrained encoder.
    """

    def __init__(self, task: Task, folder):
        self._objective = objectives.load(folder)
        if not hasattr(self._objective, "scores"):
            name = self._objective.config["objective"]
            fix = f"probe its encoder (method {name}), or pretrain one with measure"
            raise EcgError(f"{name} says nothing of a record", file=folder, field="method", fix=fix)
        super().__init__(task, lambda _: self._objective.encoder, mode=OUTPUTS)

    def embed(self, cohort, rows, seed) -> dict[str, np.ndarray]:
        said = embeddings.scores(self._objective, cohort, rows, self.task.leads, self.task.profile)
        return super().embed(cohort, rows, seed) | {OUTPUTS: said}

    def fit(self, draw: Draw) -> None:
        self._unlabelled = self._read(self.task.cohort, np.setdiff1d(draw.pool, draw.rows))
        super().fit(draw)

    def learn(self, zs, y, zs_val, y_val, seed):
        fitted, name = super().learn(zs, y, zs_val, y_val, seed), self.choice["pooling"]

        def plain(z):
            return fitted({name: z})

        model = self_training.own_calls(plain, zs[name], y, zs_val[name], y_val, self._unlabelled[name])
        self.choice["own_calls"] = model is not plain
        return lambda zs: model(zs[name])


class RandomConvolutions(LinearProbe):
    """Logistic regression on the features of random convolutions, standardised by the training records.

    There are many more features than records, so they are turned once into the directions that the training and
    validation records span: no regression with a square penalty can tell the difference.
    """

    def __init__(self, task: Task, settings: Settings):
        super().__init__(task, make=None)
        self._layers = rocket.draw(self._signals(task.cohort, task.train_rows), settings.rocket_dilations)

    def _signals(self, cohort, rows):
        return batches.CohortData(cohort, rows, self.task.leads, self.task.profile).signals(np.arange(len(rows)))

    def _compute(self, seed) -> dict:
        tables, home = super()._compute(seed), id(self.task.cohort)
        rows, z = tables[home]
        train, val = (np.searchsorted(rows, some) for some in (self.task.train_rows, self.task.val_rows))
        turn = classifiers.turned(z["convolutions"][train], z["convolutions"][np.concatenate([train, val])])
        return {key: (rows, {"convolutions": turn(z["convolutions"])}) for key, (rows, z) in tables.items()}

    def embed(self, cohort, rows, seed) -> dict[str, np.ndarray]:
        return {"convolutions": rocket.transform(self._signals(cohort, rows), self._layers)}


class BoostedTrees(_FeatureClassifier):
    """Gradient-boosted trees on hand-made features."""

    mode = "boosting"

    def embed(self, cohort, rows, seed) -> dict[str, np.ndarray]:
        return {"hand-made": handmade.of_cohort(cohort, rows, self.task.leads)}

    def learn(self, zs, y, zs_val, y_val, seed):
        (x,), (x_val,) = zs.values(), zs_val.values()
        model = classifiers.boosting(x, y, x_val, y_val, seed)
        return lambda zs: model(*zs.values())


class Finetuned:
    """A whole network trained on the labels: from scratch, or from a pretrained encoder. make: seed -> encoder."""

    chance = True

    def __init__(self, task: Task, make, settings: Settings, mode: str):
        self.task, self.choice, self._make, self._settings, self.mode = task, {}, make, settings, mode
        self._kept = {}
        fusion = settings.objective.get("fusion")  # of age and sex with the signals
        self._meta = () if fusion is None else tuple(fusion.get("columns", ("age", "sex")))

    def _data(self, cohort, rows) -> batches.CohortData:
        """The rows with their labels where they are of the development cohort; kept, since they are asked again."""
        key = id(cohort), rows.tobytes()
        if key not in self._kept:
            home, task = cohort is self.task.cohort, self.task
            labels, meta = task.labels if home else None, self._meta
            self._kept[key] = batches.CohortData(cohort, rows, task.leads, task.profile, labels, meta)
        return self._kept[key]

    def fit(self, draw: Draw) -> None:
        val, data = self._data(self.task.cohort, draw.val_rows), self.task.data(draw.rows, self._meta)
        self._objective = supervised(self._make(draw.seed), data, val, self._settings, draw.seed)

    def predict(self, cohort, rows) -> np.ndarray:
        return probabilities(self._objective, self._data(cohort, rows), self._settings.shifts)


class SelfTrained(Finetuned):
    """Fine-tuned on the labels at hand and on a teacher's probabilities for all other training records.

    The teacher, boosted trees on hand-made features, sees the same labels and chooses on the same validation records.
    Records that have labels are drawn as often as those that have none. With all labels the teacher's part for a record
    comes from trees that have not seen its patient, and weighs as much as the label.
    """

    def fit(self, draw: Draw) -> None:
        task, cohort, seed = self.task, self.task.cohort, draw.seed
        patients, labelled = cohort.records["patient_id"].to_numpy()[draw.pool], np.isin(draw.pool, draw.rows)
        x, x_val = (handmade.of_cohort(cohort, some, task.leads) for some in (draw.pool, draw.val_rows))
        y = np.where(labelled[:, None], task.known(draw.pool), -1)
        target = self_training.targets(x, y, x_val, task.known(draw.val_rows), patients, labelled, seed)
        data = self_training.SoftLabels(task.data(draw.pool), target, labelled, seed)
        val, steps = self._data(cohort, draw.val_rows), self._settings.selftrain_steps
        self._objective = supervised(self._make(seed), data, val, self._settings, seed, steps)


def check_compatible(folder, cohort, leads, profile) -> None:
    """EcgError when the card of the encoder in `folder` says that it was made for other inputs than those of the task.

    The rate counts as the network meets it: after the profile, which resamples, or else as the cohort is packed.
    """
    config, info = models.card(folder)
    name = getattr(profile, "name", profile)
    wanted = {"n_leads": len(leads), "leads": list(leads), "profile": name} | ({} if name else {"fs": cohort.fs})
    made = {"n_leads": config["n_leads"], **info}
    for key, value in wanted.items():
        if key in made and made[key] != value:
            fix = f"pretrain an encoder for this task, or give run {key.replace('n_', 'task_')} as on its card"
            reason = f"the encoder was pretrained with {key} = {made[key]}, the task has {value}"
            raise EcgError(reason, file=str(folder), field=key, fix=fix)


def require_method(method: str, encoder, settings=None) -> None:
    """Raise EcgError for a method that there is not, and for one that needs an encoder where `encoder` is nothing.

    encoder: folder of a pretrained one, or a published model, after which a method may have any name.
    """
    name, _, tail = method.partition("+")
    baseline = is_baseline(name)
    tails = ("", "finetune", "selftrain", SGD_LINEAR) + (() if ":" in name else (OUTPUTS,))
    if tail not in tails or (tail and baseline):
        fix = f"<objective>, {', '.join(f'<objective>+{each}' for each in tails[1:-1])} or <objective>+{tails[-1]}"
        raise EcgError(f"unknown method {method!r}", field="method", fix=fix)
    if name.partition(":")[0] in ("random", "scratch"):
        architecture, size = _network(name, settings or Settings())
        require_known("size", [size], models.module(architecture).SIZES, "method")
    if not baseline and encoder is None:
        if ":" not in name:  # as in zoo:merl, which is there and was not given
            require_known("method", [name], [*BASELINES, *objectives.names()])
        raise EcgError(f"{method} needs an encoder", field="pretrain_dir", fix=f"or use {', '.join(BASELINES)}")


def checked(method: str, task: Task, pretrain_dir, model, settings) -> Task:
    """The task as the method meets it, after all that can be refused has been; nothing closed is open yet."""
    require_method(method, model if pretrain_dir is None else pretrain_dir, settings)
    name = method.partition("+")[0]
    if model is not None:
        leads, profile = embeddings.model_input(model, task.leads, (task.cohort, *task.externals))
        task = replace(task, leads=leads, profile=profile)
    elif not is_baseline(name):
        check_compatible(pretrain_dir, task.cohort, task.leads, task.profile)
    for split, rows in (("train", task.train_rows), ("val", task.val_rows)):
        if not len(rows):
            raise EcgError(f"{task.cohort.name} has no {split} rows", field="split", fix="give the records a split")
    return task


def _network(method: str, settings: Settings) -> tuple[str, str]:
    """(architecture, size) of "random" or "scratch", alone or with ":ARCHITECTURE" or ":ARCHITECTURE:SIZE"."""
    start, *named = method.split(":")
    if named:
        return named[0], named[1] if len(named) > 1 else "small"
    return (settings.encoder, settings.size) if start == "random" else (settings.scratch_encoder, "small")


def untrained_twin(pretrain_dir, settings: Settings) -> str:
    """The method that probes the same network untrained; "" for one that is no named size of its architecture."""
    config = {name: value for name, value in models.card(pretrain_dir)[0].items() if name not in ("n_leads", "fs")}
    architecture, size = config.pop("encoder"), config.pop("size")
    if json.loads(json.dumps(models.module(architecture).SIZES.get(size))) != config:
        return ""
    if (architecture, size) == (settings.encoder, settings.size):
        return "random"
    return f"random:{architecture}" + ("" if size == "small" else f":{size}")


def learner_of(method: str, task: Task, settings: Settings, pretrain_dir, model, kinds=None):
    """What learns from training rows, chooses on the validation rows, and predicts any rows of the task.

    kinds: class of this module -> the class of its kind that is made instead.
    """
    kinds = kinds or {}
    name, _, tail = method.partition("+")
    chance = {"random": settings.seeds}.get(name, settings.whole_seeds if name.startswith("random:") else 0)
    from_scratch = name.partition(":")[0] == "scratch"

    def make(seed):
        if from_scratch or chance:
            return models.build(*_network(name, settings), len(task.leads), seed)
        if model is None:
            return models.load(pretrain_dir)[0]
        return copy.deepcopy(model) if tail in ("finetune", "selftrain") else model

    if name == "features":
        return kinds.get(BoostedTrees, BoostedTrees)(task)
    if name == "multirocket":
        return RandomConvolutions(task, settings)
    if from_scratch:
        return kinds.get(Finetuned, Finetuned)(task, make, settings, "supervised")
    if tail == OUTPUTS:
        return OutputsProbe(task, pretrain_dir)
    if tail in ("finetune", "selftrain"):
        settings = replace(settings, lr=settings.finetune_lr or (FINETUNE_LR if settings.lr is None else settings.lr))
        tuned = SelfTrained if tail == "selftrain" else kinds.get(Finetuned, Finetuned)
        return tuned(task, make, settings, tail)
    return kinds.get(LinearProbe, LinearProbe)(task, make, chance, tail or "linear")


def whole_seeds(learner, settings: Settings) -> int:
    """How many models learn from all labels: of networks `settings.whole_seeds`, of probes one per random encoder."""
    return settings.whole_seeds if isinstance(learner, Finetuned) else max(1, learner.chance)


def run(
    method: str, task: Task, settings=None, *, pretrain_dir=None, model=None, progress=print, choices=None
) -> pd.DataFrame:
    """Train a method on label fractions of the development cohort; predict its validation, test and external records.

    method: "random" (linear probe of an untrained encoder, another one per seed), "random:ARCHITECTURE[:SIZE]" (the
    same, `whole_seeds` encoders in turn), "multirocket" (random convolutions), "features" (hand-made features, boosted
    trees), "scratch" or "scratch:ARCHITECTURE[:SIZE]" (supervised), "<objective>" (linear probe of a pretrained
    encoder), "<objective>+sgd-linear" (a probe trained as in most papers), "<objective>+outputs" (a linear probe that
    may read what the head of pretraining says, and may go on from its own calls), "<objective>+finetune", or
    "<objective>+selftrain" (fine-tuned on the labels at hand and on what a teacher says of the other training records).
    A fraction that gives nobody is left out (`Task.shares`).
    pretrain_dir: folder of the pretrained encoder; model: in its place the published one of `zoo.load`, which is fed
    its own leads and profile; progress: called with one line per model; choices: a list that gets a row per model of
    what was chosen on validation.
    Returns a table as `predictions`; those of the folds have the split OUT_OF_FOLD. Raises EcgError for an unknown
    method, an encoder that was pretrained for other inputs, and where training or validation is empty.
    """
    settings = settings or Settings()
    task = checked(method, task, pretrain_dir, model, settings)
    settings = _fair_folds(method, task, pretrain_dir, settings, progress)
    learner, tables = learner_of(method, task, settings, pretrain_dir, model), []
    names = dict(encoder=method.partition("+")[0], mode=learner.mode)
    for draw in notebook.track(task.draws(settings, whole_seeds(learner, settings)), method, "model"):
        learner.fit(draw)
        about = names | dict(fraction=draw.fraction, seed=draw.seed)
        p = [learner.predict(*at) for at in draw.targets]
        made = [long_table(*at, each, task.labels, **about) for at, each in zip(draw.targets, p, strict=True)]
        tables += [each.assign(split=OUT_OF_FOLD) if draw.fold else each for each in made]
        ids = task.cohort.records["record_id"].to_numpy()[draw.val_rows]
        known = task.known(draw.val_rows)
        p_val = learner.predict(task.cohort, draw.val_rows) if draw.fold else p[0]  # validation comes first
        score = metrics.macro_auroc(*per_record(ids, known, p_val))
        if choices is not None:
            sizes = dict(fold=draw.fold, n_train=len(draw.rows), n_validation=len(draw.val_rows))
            choices.append({**about, **sizes, **learner.choice, "validation": score})
        share = f"{100 * draw.fraction:g} % of the labels, seed {draw.seed}{draw.fold and f', {draw.fold}'}"
        chosen = ", ".join(f"{key} {learner.choice[key]}" for key in ("pooling", "C") if key in learner.choice)
        progress(f"{method}: {share}: validation macro AUROC {score:.3f}{chosen and f' ({chosen})'}")
    return pd.concat(tables, ignore_index=True).assign(**_described(method, pretrain_dir, settings))


def _fair_folds(method, task, pretrain_dir, settings, progress):
    """The settings, without folds where the encoder knows the answers of the records in them."""
    if not settings.folds or is_baseline(method) or not _has_read_answers(pretrain_dir, task.cohort):
        return settings
    progress(f"{method}: no out-of-fold scores, it has learned from labels or reports of these recordings")
    return replace(settings, folds=0)


def _has_read_answers(pretrain_dir, cohort) -> bool:
    """Whether an encoder was pretrained on labels or reports of this cohort: then its training records tell nothing."""
    info = models.card(pretrain_dir)[1] if pretrain_dir else {}
    name = info.get("objective", {}).get("objective")
    if name in objectives.names():
        chosen = objectives.trait(name, "ROWS") == "normal"  # labels said which records are normal
        reads = name == "supervised" or chosen or objectives.trait(name, "READS_REPORTS")
    else:
        reads = bool(info.get("labels"))
    return bool(reads) and cohort.name in info.get("cohorts", ())


def _described(method: str, pretrain_dir, settings: Settings) -> dict[str, str]:
    """The columns `untrained` and `trained` of the linear probe of an encoder that was pretrained here."""
    name, _, tail = method.partition("+")
    if tail not in ("", OUTPUTS) or not pretrain_dir or is_baseline(name):
        return {}
    return {"untrained": untrained_twin(pretrain_dir, settings), "trained": objectives.learned(pretrain_dir)}
