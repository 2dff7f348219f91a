"""A classifier to be kept: its targets, recipes of fine-tuning by name, thresholds and calibration on validation."""

import time
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy.special import expit

from ecglib import EcgError, objectives, require_known
from ecglib.data.labels import ABSENT, PRESENT, UNKNOWN
from ecglib.evaluation import classifiers, metrics, probing, tasks
from ecglib.evaluation.predictions import label_states, observed, per_record
from ecglib.training import train
from ecglib.training.batches import CohortData

CHECKPOINTS = 40  # of a training: a killed one repeats a fortieth at most
VALIDATIONS = 10  # of a training without epochs of its own, evenly spread
SHOWN_S = 5.0  # between two lines of progress
FEW = 10  # positives and negatives on validation that a calibration of one label needs
STEEPEST = 100.0  # a slope beyond it is that of a separation without an error
EDGE = 1e-7  # a probability nearer to 0 or 1 counts as this: its logit must not be endless
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


@dataclass(frozen=True)
class Recipe:
    """How a whole network is trained on labels."""

    source: str  # where it comes from, and what differs here
    lr: float  # peak learning rate of the head
    weight_decay: float
    batch_size: int  # records
    epochs: int
    min_steps: int = 0
    warmup: float = 0.0  # share of the steps
    schedule: str = "constant"
    average: float = 0.0  # horizon of the moving average of the weights, as a share of the steps; 0 = none
    encoder_rate: float = 1.0  # learning rate of the encoder as a share of the head's
    patience: int = 0  # epochs without a better validation, after which training ends
    select: str = "auroc"  # what is better on validation: "auroc" or "loss"
    objective: dict = field(default_factory=dict)  # parameters of `objectives.supervised`


_PLAIN = {"loss": "bce"}
_OF_PROBES = dict(min_steps=100, warmup=0.1, schedule="cosine", average=probing.Settings.average)
_OF_PROBES |= dict(objective=probing.SUPERVISED)
RECIPES = {
    "study": Recipe(
        "the fine-tuning of this study's probes",
        *(probing.FINETUNE_LR, 0.01, 64, 25),
        **_OF_PROBES,
    ),
    "scratch": Recipe(
        "the training from scratch of this study's probes",
        *(probing.SCRATCH_LR, 0.01, 64, 25),
        **_OF_PROBES,
    ),
    "two-rates": Recipe(
        "as study, the encoder at a tenth of the head's learning rate and stopped early",
        *(probing.FINETUNE_LR, 0.01, 64, 25),
        **_OF_PROBES,
        encoder_rate=0.1,
        patience=5,
    ),
    "clef": Recipe(
        "CLEF's downstream tasks: lr 1e-3, decay 1e-5, batches of 64, 100 epochs, patience 5 on the validation loss; "
        "AdamW here",
        *(1e-3, 1e-5, 64, 100),
        patience=5,
        select="loss",
        objective=_PLAIN,
    ),
    "ecgfounder": Recipe(
        "ECGFounder (arXiv 2410.04133): lr 1e-4, decay 1e-5, batches of 256, 30 epochs, the best validation AUROC "
        "stays; the rate falls by a cosine here, there by ten where validation stalls",
        *(1e-4, 1e-5, 256, 30),
        schedule="cosine",
        objective=_PLAIN,
    ),
}


class Labelled:
    """A cohort whose labels are given: everything else is the cohort's.

    states: int8 (record, label) as a DataFrame by record_id; kind: "statements" or "binary".
    """

    def __init__(self, cohort, states: pd.DataFrame, kind: str):
        self.cohort, self.labels, self.kind = cohort, states.astype(np.int8), kind
        self._rows = states.index.get_indexer(cohort.records["record_id"])

    def __getattr__(self, name):
        if name.startswith("_") or name == "cohort":  # before __init__, as when copied, there is nothing to ask
            raise AttributeError(name)
        return getattr(self.cohort, name)

    def __len__(self) -> int:
        return len(self.cohort)

    def states(self, names, rows) -> np.ndarray:
        """Label states: int8 (row, label)."""
        return self.labels[list(names)].to_numpy()[self._rows[np.asarray(rows)]]


class OfTask(tasks.Labelled):
    """A cohort labelled by a task, binary or a number; centre, spread: of a number in the training rows, else 0, 1."""

    def __init__(self, cohort, task: tasks.Task):
        super().__init__(cohort, task)
        self.kind, self.centre, self.spread = task.kind, 0.0, 1.0
        if task.kind == "number" and len(rows := self.rows("train")):
            self.centre, self.spread = float(self.truth[rows].mean()), float(self.truth[rows].std())

    def standardised(self, rows) -> np.ndarray:
        """The number, float64 (row, 1), centred and scaled as a head learns it."""
        return (self.truth[np.asarray(rows)] - self.centre) / self.spread


class NumberData(CohortData):
    """Batches of an OfTask whose labels are its standardised numbers, float32 (batch, 1); `numbers` holds all."""

    def __init__(self, labelled: OfTask, rows, leads, profile):
        super().__init__(labelled, rows, leads, profile, list(labelled.labels.columns))
        self.numbers = torch.from_numpy(labelled.standardised(rows).astype(np.float32))

    def batch(self, index):
        """As of CohortData."""
        return super().batch(index)._replace(labels=self.numbers[index])


def of_task(cohort, task: tasks.Task) -> OfTask:
    """The cohort with what a task asks for. EcgError for statements and classes, and where there is nothing to learn.

    A binary task needs both classes in training, a number two values; both need records in training and validation.
    """
    if task.kind not in ("binary", "number"):
        fix = "name statements as labels; of classes make a binary task each: positive: {is: VALUE}"
        raise EcgError(f"a {task.kind} task is not fitted", field="kind", fix=fix)
    labelled = OfTask(cohort, task)
    for split in ("train", "val"):
        if not len(labelled.rows(split)):
            reason = f"{task.definition} is known of no {split} record"
            raise EcgError(reason, file=cohort.name, field=task.columns[0], fix="check column, rule and splits")
    if len(np.unique(labelled.truth[labelled.rows("train")])) < 2:
        reason = f"{task.definition} is the same in all training records"
        raise EcgError(reason, file=cohort.name, field=task.columns[0], fix="check column and rule")
    return labelled


def targets(cohort, labels=(), columns=(), min_positives: int = 5, progress=print) -> Labelled:
    """The cohort with what is to be learned: statements, or binary columns of its records.

    labels: names (none, and no columns: all that can be learned); columns: "dead" (cells 1, 0, yes, no, true, false,
    empty where unknown) or "sex=male" (one value against all others); min_positives: training records of each class
    that a label needs which was not named; progress: told what is left out.
    Raises EcgError for an unknown name, a cell that is no answer, and a named target without both classes in training.
    """
    if labels and columns:
        raise EcgError("labels and columns are unlike tasks", field="column", fix="fit a model for each")
    if columns:
        table = pd.DataFrame({name: _binary(cohort, name) for name in columns})
        table = table.assign(record_id=cohort.records["record_id"].to_numpy()).drop_duplicates("record_id")
        labelled = Labelled(cohort, table.set_index("record_id"), "binary")
    else:
        require_known("label", labels, list(cohort.labels.columns), "labels", cohort.name)
        labelled = Labelled(cohort, cohort.labels[list(dict.fromkeys(labels)) or list(cohort.labels)], "statements")
    for split in ("train", "val"):
        if not len(cohort.rows(split)):
            raise EcgError(f"{cohort.name} has no {split} rows", field="split", fix="give the records a split")
    least = 1 if labels or columns else min_positives
    known = counts(labelled, "train")
    rare = [name for name, row in known.iterrows() if min(row.positives, row.negatives) < least]
    if rare and (labels or columns):
        reason = f"{rare[0]} has {known.positives[rare[0]]} positives of {known.known[rare[0]]} known in training"
        raise EcgError(reason, file=cohort.name, field="labels", fix="leave it out: both classes are needed")
    kept = [name for name in labelled.labels if name not in rare]
    if not kept:
        reason = f"no label has {least} positives and negatives in training"
        raise EcgError(reason, file=cohort.name, field="labels", fix="name some, or lower --min-positives")
    if rare:
        progress(f"left out, fewer than {least} of a class in training: {', '.join(rare)}")
    return Labelled(cohort, labelled.labels[kept], labelled.kind)


def _binary(cohort, asked: str) -> np.ndarray:
    """States of a column of the records: int8 (row,)."""
    name, sign, value = asked.partition("=")
    require_known("column", [name], list(cohort.records), "column", cohort.name)
    cells = cohort.records[name]
    unknown = cells.isna() | (cells.astype(str).str.strip() == "")
    text = cells.astype(str).str.strip().str.lower()
    if sign:
        if value.lower() not in set(text[~unknown]):
            some = ", ".join(sorted(set(text[~unknown]))[:8])
            raise EcgError(f"no record has {name}={value}", file=cohort.name, field=name, fix=f"there are {some}")
        states = np.where(text == value.lower(), PRESENT, ABSENT)
    else:
        wrong = text[~unknown & ~text.isin(_YES + _NO)]
        if len(wrong):
            fix = f"1, 0, yes, no or empty; or one value against all others, {name}=VALUE"
            raise EcgError(f"{wrong.iloc[0]!r} is no answer", file=cohort.name, field=name, fix=fix)
        states = np.where(text.isin(_YES), PRESENT, ABSENT)
    return np.where(unknown, UNKNOWN, states).astype(np.int8)


def counts(labelled, split: str) -> pd.DataFrame:
    """positives, negatives and known records of each label in a split, by label."""
    states = label_states(labelled, labelled.rows(split), labelled.labels.columns)
    _, first = np.unique(labelled.records["record_id"].to_numpy()[labelled.rows(split)], return_index=True)
    y = observed(states)[first]
    table = {"positives": (y == 1).sum(0), "negatives": (y == 0).sum(0), "known": (y >= 0).sum(0)}
    return pd.DataFrame(table, index=list(labelled.labels.columns))


def truth(labelled, rows) -> np.ndarray:
    """int8 (row, label): 1, 0, or -1 where unknown or possible."""
    return observed(label_states(labelled, rows, labelled.labels.columns))


class Told:
    """Tells lines of progress with rate and time left, at most one in SHOWN_S seconds; what: the word for a piece."""

    def __init__(self, total: int, what: str, progress):
        self.total, self.what, self.progress, self.first = total, what, progress, None
        self.start = self.shown = time.perf_counter()

    def __call__(self, done: int, more: str = "", size: int = 1) -> None:
        """done: pieces so far, of which the last `size` are new; more: behind the line."""
        now = time.perf_counter()
        self.first = done - size if self.first is None else self.first  # what was resumed took no time
        if now - self.shown > SHOWN_S or done == self.total:
            rate = max(done - self.first, 1) / max(now - self.start, 1e-9)
            left = timedelta(seconds=round((self.total - done) / rate))
            self.shown = now
            self.progress(f"{done:,} of {self.total:,} {self.what}s, {rate:.3g} {self.what}s/s, {left} left{more}")


def network(encoder, data, val_data, recipe: Recipe, *, seed: int, folder, progress, start=None):
    """The supervised objective, encoder and head trained on labels; the weights that validate best stay.

    encoder: where to start; data, val_data: CohortData with labels, or NumberData; seed: of head and batches; folder:
    where a stopped training goes on from; progress: told lines; start: called with the objective before the first step,
    such as to set its head. EcgError where no label has both classes on validation.
    """
    terms = recipe.objective | ({"loss": "huber"} if isinstance(data, NumberData) else {})
    objective = objectives.build("supervised", encoder, seed=seed, **terms, n_labels=len(data.labels))
    if start is not None:
        start(objective)
    validate = partial(_validated_number if isinstance(data, NumberData) else _validated, val_data, recipe.select)
    epoch = max(1, len(data) // recipe.batch_size)
    steps = max(recipe.min_steps, recipe.epochs * epoch)
    told = Told(steps, "step", progress)
    every = epoch if recipe.patience else max(1, steps // VALIDATIONS)
    settings = train.Settings(steps, recipe.batch_size, recipe.lr, recipe.weight_decay)
    settings.warmup, settings.seed, settings.select = round(recipe.warmup * steps), seed, "best"
    settings.val_every, settings.checkpoint_every = every, max(1, steps // CHECKPOINTS)
    settings.average = max(0.0, 1 - 1 / (recipe.average * steps)) if recipe.average else 0.0
    settings.schedule, settings.encoder_rate, settings.patience = recipe.schedule, recipe.encoder_rate, recipe.patience
    train.fit(
        objective,
        data,
        folder,
        settings=settings,
        val=validate,
        progress=lambda row: told(row["step"], f"; loss {row['loss']:.3g}"),
    )
    return objective


def _validated(data, select: str, model) -> dict[str, float]:
    """val_loss, and val_score, of which more is better, of an objective on validation data.

    data: CohortData with labels; select: as of Recipe.
    """
    y = observed(label_states(data.cohort, data.rows, data.labels))
    truth, p = per_record(data.record_ids, y, probing.probabilities(model, data))
    loss = float(np.nanmean(classifiers.bce(truth, p)))
    return {"val_loss": loss, "val_score": metrics.macro_auroc(truth, p) if select == "auroc" else -loss}


def _validated_number(data: NumberData, select: str, model) -> dict[str, float]:
    """As `_validated`, of an objective for a number: in place of the AUROC counts the mean absolute error."""
    truth, p = per_record(data.record_ids, data.numbers.numpy(), probing.mean_logits(model, data).numpy())
    off = np.abs(p - truth)
    loss = float(np.where(off < 1, off**2 / 2, off - 0.5).mean())  # Huber's, at the threshold of the training loss
    return {"val_loss": loss, "val_score": -float(off.mean()) if select == "auroc" else -loss}


def thresholds(y, p, rule: str = "youden") -> np.ndarray:
    """Thresholds (label,) with the calls of `metrics.threshold_at` on validation records; NaN without both classes.

    Each lies halfway, in logits, between the lowest probability that is called and the highest that is not: at the
    former itself, a new record a little below the lowest of a few positives would be missed.
    """
    cuts = np.atleast_1d(metrics.threshold_at(y, p, rule))
    for k in np.flatnonzero(~np.isnan(cuts)):
        below = p[(y[:, k] >= 0) & (p[:, k] < cuts[k]), k]
        if len(below):
            cuts[k] = expit((logit(cuts[k]) + logit(below.max())) / 2)
    return cuts


def calibration(y, p) -> tuple[np.ndarray, np.ndarray]:
    """(slope, intercept), each (label,), with which expit(slope * logit(p) + intercept) is calibrated on validation.

    y: 1, 0, or -1 for unknown; p: probabilities, both (record, label). A label with FEW positives and negatives is
    scaled by itself (`platt`); for fewer, two numbers of its own would follow chance, so all labels together give it
    one slope, a temperature, and the intercept 0.
    Source: Guo et al. 2017 for the temperature.
    """
    y, z = np.asarray(y), logit(p)
    shared = _slope(y[y >= 0], z[y >= 0])
    fitted = [
        platt(truth[truth >= 0], each[truth >= 0])
        if min((truth == 1).sum(), (truth == 0).sum()) >= FEW
        else (shared, 0.0)
        for truth, each in zip(y.T, z.T, strict=True)
    ]
    slope, intercept = np.array(fitted).T
    return slope, intercept


def logit(p) -> np.ndarray:
    """log p / (1 - p), with p kept EDGE away from 0 and 1."""
    p = np.clip(np.asarray(p, float), EDGE, 1 - EDGE)
    return np.log(p) - np.log1p(-p)


def calibrated(p, slope, intercept) -> np.ndarray:
    """Probabilities (record, label) after `calibration`."""
    return expit(logit(p) * slope + intercept)


def platt(y, z) -> tuple[float, float]:
    """Slope and intercept of logits z (record,) for truth y, 1 or 0, by maximum likelihood.

    The targets are (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) in place of 1 and 0, so that no slope is endless; a slope that
    would turn the order round is 0.
    Source: Platt 1999, section 2.2.
    """
    n1, n0 = int((y == 1).sum()), int((y == 0).sum())
    target = np.where(y == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    base = float(np.log(target.mean() / (1 - target.mean())))
    slope, intercept = _newton(np.column_stack([z, np.ones(len(z))]), target, np.array([0.0, base]))
    return (float(slope), float(intercept)) if slope > 0 else (0.0, base)


def _slope(y, z) -> float:
    """One over the temperature that suits all logits z (n,) best; 1 where there is nothing to fit."""
    if not len(y):
        return 1.0
    slope = float(_newton(z[:, None], (y == 1).astype(float), np.ones(1))[0])
    return slope if 0 < slope < STEEPEST else 1.0


def _newton(x, target, w) -> np.ndarray:
    """Coefficients w of the logistic regression of target (n,) in 0..1 on x (n, term), from a start."""

    def loss(w):
        return np.logaddexp(0, x @ w).sum() - target @ (x @ w)

    for _ in range(100):  # with step halving, on a convex function
        p = expit(x @ w)
        gradient = x.T @ (p - target)
        if np.abs(gradient).max() < 1e-9 * len(x):
            break
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-12 * np.eye(len(w))
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while loss(w - size * step) > loss(w) and size > 1e-10:
            size /= 2
        w = w - size * step
    return w
