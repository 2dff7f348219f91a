"""Several methods as one: means of logits, weights that validation records choose, a gate that weighs them by record.

y: truth (record, label) of 1, 0 and -1 (unknown). p: probabilities (method, record, label). Every label counts the same
in the log-loss, however few of its records are known. Source of the ideas: EnECG (arXiv 2511.22935), an ensemble of
foundation models with learned weights, and ECG-MoE (arXiv 2603.04589), a gated mixture of experts.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import softmax

from ecglib import EcgError
from ecglib.data import notebook
from ecglib.evaluation import classifiers
from ecglib.evaluation.predictions import GROUP, OUT_OF_FOLD, joined, of_task

SMALLEST = 1e-7  # a probability below counts as this: a loss must not be endless
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of the gate's squared weights
WEIGHTS = tuple(round(0.05 * k, 2) for k in range(21))  # of the second of two models in a mean of logits


def _likelihood(y, p) -> tuple[np.ndarray, np.ndarray]:
    """Probability that each method gives to what is true, (method, known pair), and the weight of each pair (pair,)."""
    y, p = np.asarray(y), np.asarray(p, float)
    if p.ndim != 3 or p.shape[1:] != y.shape:
        raise EcgError(f"truth {y.shape}, predictions {p.shape}", field="predictions", fix="(method, record, label)")
    known = (y == 0) | (y == 1)
    if not known.any():
        raise EcgError("no record has a known label", field="truth", fix="check split and labels")
    share = known / known.sum(axis=0).clip(1) / known.any(axis=0).sum()
    given = np.where(y == 1, p, 1 - p).clip(SMALLEST, 1 - SMALLEST)
    return given[:, known], share[known]


def mixture(p, weights) -> np.ndarray:
    """Weighted mean of the methods: (record, label)."""
    return np.tensordot(np.asarray(weights, float), np.asarray(p, float), 1)


def log_loss(y, p) -> float:
    """Mean over labels of the mean log-loss over the known records of each; y, p: (record, label)."""
    given, share = _likelihood(y, np.asarray(p)[None])
    return float(-share @ np.log(given[0]))


def greedy(y, p, rounds: int = 30) -> np.ndarray:
    """Weights (method,) by forward selection with replacement: each round adds the method that helps the log-loss most.

    The first of equal ones; the best round counts, not the last. Source: Caruana et al. 2004.
    """
    given, share = _likelihood(y, p)
    counts, total, history = np.zeros(len(given)), np.zeros(given.shape[1]), []
    for number in range(1, rounds + 1):
        losses = -np.log((total + given) / number) @ share
        best = int(losses.argmin())
        counts[best] += 1
        total = total + given[best]
        history.append((losses[best], counts / number))
    return min(history, key=lambda step: step[0])[1]


def simplex(y, p, tol: float = 1e-10, most: int = 5000) -> np.ndarray:
    """Weights (method,), none below 0, sum 1, with the least log-loss of the mixture: it is convex, so there is one.

    By expectation maximisation, whose every step lowers the loss, until one gains less than `tol`, at most `most`.
    """
    given, share = _likelihood(y, p)
    weights, last = np.full(len(given), 1 / len(given)), np.inf
    for _ in range(most):
        mixed = weights @ given
        loss = -share @ np.log(mixed)
        if last - loss < tol:
            break
        weights, last = weights * (given @ (share / mixed)), loss
        weights = weights / weights.sum()
    return weights


def first_runs(probes, task: str, methods, cohort: str, fraction: float) -> dict:
    """What each method says at one share of the labels, its first run: {(encoder, mode): (record, label)}.

    probes: folder of the predictions, with a folder TASK-METHOD for each of `methods`; cohort: its name, of which the
    validation and test records are read. A model that may have seen the cohort is left out, and one of dummy weights.
    The values are DataFrames of probabilities.
    """
    found = {}
    for method in notebook.track(list(methods), "predictions", "method"):
        rows = of_task(probes, task, [method])
        kept = (rows["cohort"] == cohort) & rows["split"].isin(["val", "test"]) & (rows["note"] == "")
        rows = rows[kept & np.isclose(rows["fraction"], fraction)]
        for model, run in rows.groupby(["encoder", "mode"], observed=True):
            run = run[run["seed"] == run["seed"].min()]
            wide = run.pivot(index="record_id", columns="label", values="probability")
            found[model] = wide.set_axis(wide.index.astype(str), axis=0).set_axis(wide.columns.astype(str), axis=1)
    return found


class Gate(NamedTuple):
    """Weights of experts by a softmax of a linear function of features."""

    slope: np.ndarray  # (feature, expert)
    bias: np.ndarray  # (expert,)

    def weights(self, z: np.ndarray) -> np.ndarray:
        """How much each expert counts: (record, expert), sum 1; z: features (record, feature)."""
        return softmax(z @ self.slope + self.bias, axis=1)

    def __call__(self, z: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Probabilities (record, label) of the mixture of experts p (expert, record, label)."""
        return np.einsum("re,erl->rl", self.weights(z), p)


def gate(z, p, y, penalty: float) -> Gate:
    """The gate with the least log-loss plus penalty * |slope|^2.

    z: features (record, feature); p: what the experts say of these records without having learned from them (expert,
    record, label); y: truth (record, label). It starts as the plain mean, which a penalty without end would leave.
    """
    y, p, z = np.asarray(y), np.asarray(p, float), np.asarray(z, float)
    _likelihood(y, p)  # the shapes
    known = (y == 0) | (y == 1)
    share = known / known.sum(axis=0).clip(1) / known.any(axis=0).sum()
    given = np.where(y == 1, p, 1 - p).clip(SMALLEST, 1 - SMALLEST)
    n_experts, dim = len(p), z.shape[1]

    def loss(flat):
        slope, bias = flat[: dim * n_experts].reshape(dim, n_experts), flat[dim * n_experts :]
        w = softmax(z @ slope + bias, axis=1)
        mixed = np.einsum("re,erl->rl", w, given)
        pull = np.einsum("erl,rl->re", given, share / mixed)  # d log-likelihood / d weight
        steepest = -w * (pull - (w * pull).sum(axis=1, keepdims=True))
        gradient = np.concatenate([(z.T @ steepest + 2 * penalty * slope).ravel(), steepest.sum(axis=0)])
        return -(share * np.log(mixed)).sum() + penalty * (slope**2).sum(), gradient

    done = minimize(loss, np.zeros((dim + 1) * n_experts), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return Gate(done.x[: dim * n_experts].reshape(dim, n_experts), done.x[dim * n_experts :])


class Experts(NamedTuple):
    """One linear probe per encoder, their gate, and the probe of all features side by side."""

    probes: list  # classifiers.Linear, one per encoder
    together: object  # classifiers.Linear on the concatenated features
    gate: Gate
    turn: object  # features side by side -> what the gate reads
    penalty: float

    def predict(self, zs: list) -> dict[str, np.ndarray]:
        """Probabilities (record, label): of each expert under its number, "mean", "gate" and "concatenation"."""
        z, p = np.concatenate(zs, axis=1), np.stack([probe(z) for probe, z in zip(self.probes, zs, strict=True)])
        said = {str(number): each for number, each in enumerate(p)}
        return said | {"mean": p.mean(axis=0), "gate": self.gate(self.turn(z), p), "concatenation": self.together(z)}


def experts(zs, y, zs_val, y_val, folds, width: int = 8) -> Experts:
    """Probes on the features of several encoders, and a gate that learns from what they say out of fold.

    zs, zs_val: features of each encoder, a list of (record, dim); y, y_val: truth; folds: positions of the training
    records, patients apart; width: principal directions of all features that the gate reads. Regularisation of the
    probes and of the gate are chosen on validation.
    """
    chosen = [classifiers.linear(z, y, z_val, y_val) for z, z_val in zip(zs, zs_val, strict=True)]
    outside = np.zeros((len(zs), *np.shape(y)))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(y)), fold)
        for number, (z, probe) in enumerate(zip(zs, chosen, strict=True)):
            standardise, c, weight = probe.cell
            outside[number, fold] = classifiers.at_cell(z[rest], y[rest], standardise, c, weight == "balanced")(z[fold])
    z, z_val = np.concatenate(zs, axis=1), np.concatenate(zs_val, axis=1)
    turn = _principal(z, width)
    said = np.stack([probe.model(each) for probe, each in zip(chosen, zs_val, strict=True)])
    gates = {penalty: gate(turn(z), outside, y, penalty) for penalty in PENALTIES}
    best = min(PENALTIES, key=lambda penalty: log_loss(y_val, gates[penalty](turn(z_val), said)))
    together = classifiers.linear(z, y, z_val, y_val).model
    return Experts([probe.model for probe in chosen], together, gates[best], turn, best)


def _principal(z, width: int):
    """Function from features to their first principal directions, each of unit variance on z."""
    centre, spread = z.mean(axis=0), z.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    _, singular, directions = np.linalg.svd((z - centre) / spread, full_matrices=False)
    kept = singular[:width] > 1e-9 * singular[0]
    matrix = directions[:width][kept].T / singular[:width][kept] * np.sqrt(len(z))
    return lambda new: ((new - centre) / spread) @ matrix


def mean_of_logits(predictions, first, second, name: str):
    """The predictions, and as another encoder `name` the mean of the logits of two models where both are there.

    first, second: rows of one encoder and mode each. Runs are paired by their seed; where the first has fewer, its
    runs are taken in turn.
    """
    pairs = _paired_logits(first, second)
    return _with_mean(predictions, pairs, [logits.mean(1) for _, logits in pairs], name, "mean of logits")


def _paired_logits(first, second) -> list[tuple]:
    """(rows of `second`, logits (row, 2) of both models) of each run that both have; arguments: of `mean_of_logits`."""
    keys = [*GROUP, "fraction", "record_id", "label"]
    runs, pairs = ["cohort", "split", "fraction"], []
    for at, theirs in second.groupby(runs, observed=True):
        cohort, split, fraction = at
        ours = first[(first["cohort"] == cohort) & (first["split"] == split) & (first["fraction"] == fraction)]
        seeds = sorted(ours["seed"].unique())
        for number, (seed, rows) in enumerate(theirs.groupby("seed")) if seeds else ():
            paired = ours[ours["seed"] == (seed if seed in seeds else seeds[number % len(seeds)])]
            both = rows.merge(paired[[*keys, "probability"]], on=keys, suffixes=("", "_other"), validate="one_to_one")
            p = np.clip(both[["probability", "probability_other"]].to_numpy(np.float64), SMALLEST, 1 - SMALLEST)
            pairs.append((both, np.log(p / (1 - p))[:, ::-1]))
    return pairs


def _with_mean(predictions, pairs, logits, name: str, mode: str):
    """The predictions and, as another model, those of `logits`, one array (row,) for each of `_paired_logits`."""
    means = [(1 / (1 + np.exp(-each))).astype(np.float32) for each in logits]
    tables = [rows[predictions.columns].assign(probability=p) for (rows, _), p in zip(pairs, means, strict=True)]
    made = pd.concat(tables).assign(encoder=name, mode=mode)
    made = made.assign(**{column: "" for column in ("untrained", "trained") if column in made})
    return joined([predictions, made])


def weighted_logits(predictions, first, second, name: str):
    """As `mean_of_logits`, with the weights of the two that have the least log-loss out of fold, at each fraction.

    A record out of fold is weighed by what is best for the other half of the patients: it does not choose its own
    weight. Where the two have no such records in common, the predictions come back as they are.
    """
    pairs, judges = _paired_logits(first, second), {}  # judges: fraction -> its runs out of fold
    for rows, logits in pairs:
        if rows["split"].iloc[0] == OUT_OF_FOLD:
            judges.setdefault(rows["fraction"].iloc[0], []).append((rows, logits))
    pairs = [(rows, logits) for rows, logits in pairs if rows["fraction"].iloc[0] in judges]
    if not pairs:
        return predictions
    made = []
    for rows, logits in pairs:
        runs = judges[rows["fraction"].iloc[0]]
        if rows["split"].iloc[0] == OUT_OF_FOLD:
            sides = [
                best_weight([(table[_half(table) != side], z[_half(table) != side]) for table, z in runs])
                for side in (False, True)
            ]
            weight = np.where(_half(rows), sides[1], sides[0])
        else:
            weight = best_weight(runs)
        made.append((1 - weight) * logits[:, 0] + weight * logits[:, 1])
    return _with_mean(predictions, pairs, made, name, "weighted mean of logits")


def _half(rows) -> np.ndarray:
    """One half of the patients or the other, bool (row,): of their names in order, each second one."""
    return np.unique(rows["patient_id"].astype(str), return_inverse=True)[1] % 2 == 1


def best_weight(runs) -> float:
    """Weight of the second of two models in the mean of logits, of WEIGHTS, with the least log-loss.

    runs: (rows with label and truth, logits (row, 2)) of each run. Every label counts the same, however few of its
    records are known; unknown and possible ones are left out.
    """
    truth = pd.concat([rows[["label", "truth"]] for rows, _ in runs], ignore_index=True)
    logits = np.concatenate([each for _, each in runs])
    known = truth["truth"].isin([0, 1]).to_numpy()
    truth, logits = truth[known], logits[known]
    share = 1 / truth.groupby("label", observed=True)["truth"].transform("size").to_numpy()
    sign = np.where(truth["truth"] == 1, -1.0, 1.0)
    losses = [share @ np.logaddexp(0, sign * ((1 - w) * logits[:, 0] + w * logits[:, 1])) for w in WEIGHTS]
    return WEIGHTS[int(np.argmin(losses))]
