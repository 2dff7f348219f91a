"""Weighted rank statistics and the bootstrap: one sort per label, then every resample is a column of weights.

A resample that draws record i w_i times is the original data set with weight w_i on record i. Each statistic is
therefore prepared once per label (its sort order, its ties) and evaluated on blocks of weights; the numbers are the
ones that scikit-learn gives for the resampled arrays, ties included. Memory does not grow with the resamples.
`ecglib.metrics` re-exports everything that is public here.
"""

from typing import NamedTuple

import numpy as np

from ecglib.signals import EcgError

POLICIES = ("drop", "reject", "half", "zero")


def columns(y, p):
    """Truth as float64 (record, label) holding 1, 0 or NaN (unknown: -1 or NaN), and p as float64 of that shape.

    A single label may come as (record,). Raises EcgError for other shapes, other states (the caller decides what
    `possible` means), and probabilities that are not finite.
    """
    y, p = np.asarray(y), np.asarray(p, dtype=np.float64)
    if y.shape != p.shape or y.ndim not in (1, 2) or not y.size:
        raise EcgError(f"truth {y.shape} and prediction {p.shape} must be equal (record,) or (record, label) shapes")
    y = y.astype(np.float64)
    y[y == -1] = np.nan
    if not np.isin(y[~np.isnan(y)], (0, 1)).all():
        raise EcgError("truth holds states other than 1, 0 and unknown", fix="set `possible` to -1, or count it as 1")
    if not np.isfinite(p).all():
        raise EcgError("predictions hold NaN or infinity", fix="drop the record or repair the model; nothing is filled")
    return y.reshape(len(y), -1), p.reshape(len(p), -1)


def _first(weights, order, counts):
    """Sum of the weights of the first counts[i] records of `order`: (record, block) -> (len(counts), block)."""
    stops = np.unique(counts)
    stops = stops[stops > 0]
    total = np.zeros((len(stops) + 1, weights.shape[1]))
    if len(stops):
        parts = np.add.reduceat(weights[order[: stops[-1]]], np.concatenate([[0], stops[:-1]]), axis=0)
        np.cumsum(parts, axis=0, out=total[1:])
    return total[np.searchsorted(stops, counts, side="right")]


def _auroc(y, p):
    few, many = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    flipped = len(few) > len(many)  # the area is symmetric: walk over the smaller class
    if flipped:
        few, many = many, few
    many = many[np.argsort(p[many], kind="stable")]
    below, upto = (np.searchsorted(p[many], p[few], side) for side in ("left", "right"))
    counts = np.concatenate([below, upto, [len(many)]])

    def kernel(weights):
        own, other = weights[few], _first(weights, many, counts)
        wins = (own * (other[: len(few)] + other[len(few) : -1])).sum(0) / 2  # a tie is half a win
        area = wins / (own.sum(0) * other[-1])
        return 1 - area if flipped else area

    return kernel


def _auprc(y, p):
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    positive, negative = (index[np.argsort(-p[index], kind="stable")] for index in (positive, negative))
    hits, false = (np.searchsorted(-p[index], -p[positive], "right") for index in (positive, negative))

    def kernel(weights):
        own, found = weights[positive], _first(weights, positive, hits)
        flagged = found + _first(weights, negative, false)
        precision = np.divide(found, flagged, out=np.zeros_like(found), where=flagged > 0)
        return (own * precision).sum(0) / own.sum(0)

    return kernel


def _mean_error(y, error):
    known = np.flatnonzero(~np.isnan(y))
    return lambda weights: error[known] @ weights[known] / weights[known].sum(0)


def _brier(y, p):
    return _mean_error(y, (p - y) ** 2)


def _ece(y, p, bins=15):
    known = np.flatnonzero(~np.isnan(y))
    place = np.clip(np.ceil(p[known] * bins).astype(int) - 1, 0, bins - 1)  # bins (a, b], as Guo et al. 2017
    gap = np.zeros((bins, len(known)))
    gap[place, np.arange(len(known))] = p[known] - y[known]
    return lambda weights: np.abs(gap @ weights[known]).sum(0) / weights[known].sum(0)


def _decisions(numerator, denominator):
    """A ratio of sums over records, from functions of truth and decision, both boolean."""

    def prepare(y, p):
        if not np.isin(p, (0, 1)).all():
            raise EcgError("this statistic takes decisions (0 or 1), not probabilities", fix="pass p >= threshold")
        known = np.flatnonzero(~np.isnan(y))
        truth, decision = y[known] == 1, p[known] == 1
        top, bottom = (part(truth, decision).astype(float) for part in (numerator, denominator))
        return lambda weights: (top @ weights[known]) / (bottom @ weights[known])

    return prepare


def _both(truth, decision):
    return truth & decision


def _neither(truth, decision):
    return ~truth & ~decision


STATISTICS = {
    "auroc": _auroc,
    "auprc": _auprc,
    "brier": _brier,
    "ece": _ece,
    "sensitivity": _decisions(_both, lambda truth, decision: truth),
    "specificity": _decisions(_neither, lambda truth, decision: ~truth),
    "ppv": _decisions(_both, lambda truth, decision: decision),
    "npv": _decisions(_neither, lambda truth, decision: ~decision),
    "f1": _decisions(lambda t, d: 2 * (t & d), lambda t, d: t.astype(int) + d),
}


def _kernels(y, p, statistic):
    if statistic not in STATISTICS:
        raise EcgError(f"unknown statistic {statistic!r}", field="statistic", fix=f"one of {sorted(STATISTICS)}")
    return [STATISTICS[statistic](y[:, k], p[:, k]) for k in range(y.shape[1])]


def _evaluate(kernels, weights):
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is the NaN of a statistic without its class
        return np.stack([kernel(weights) for kernel in kernels], axis=1)


def score(y, p, statistic="auroc"):
    """The statistic of every label (label,); a float where y and p are one label (record,)."""
    values = _evaluate(_kernels(*columns(y, p), statistic), np.ones((len(y), 1)))[0]
    return float(values[0]) if np.ndim(y) == 1 else values


def resamples(n_records, patients=None, n=1000, seed=0, indices=None):
    """Yield (first replicate, weights (record, block)): how often each record is in each of `n` resamples.

    Patients are drawn with replacement and bring all their records (Field and Welsh 2007, cluster bootstrap); without
    `patients` every record is its own. `indices` (replicate, draw) takes given record numbers instead. The stream
    depends on the seed and the number of patients alone: two models that are asked separately get the same resamples.
    Raises EcgError for patients of another length and for indices outside the records.
    """
    if patients is not None and len(patients) != n_records:
        raise EcgError(f"{len(patients)} patients for {n_records} records", field="patients")
    owner = np.arange(n_records) if patients is None else np.unique(np.asarray(patients), return_inverse=True)[1]
    n_units = int(owner.max()) + 1
    if indices is not None:
        indices = np.asarray(indices)
        if indices.ndim != 2 or indices.min() < 0 or indices.max() >= n_records:
            raise EcgError("indices must be (replicate, draw) record numbers within the records", field="indices")
        n, owner, n_units = len(indices), np.arange(n_records), n_records
    random = np.random.default_rng(seed)
    block = int(np.clip(2**18 // n_records, 16, 256))
    for start in range(0, n, block):
        weights = np.empty((n_records, min(block, n - start)))
        for k in range(weights.shape[1]):
            drawn = random.integers(0, n_units, n_units) if indices is None else indices[start + k]
            weights[:, k] = np.bincount(drawn, minlength=n_units)[owner]
        yield start, weights


def replicates(y, p, patients=None, n=1000, seed=0, indices=None, statistic="auroc"):
    """The statistic of every label on the data and on every resample: arrays (label,) and (replicate, label).

    NaN where the statistic has no value (a class is absent). y, p: (record, label), see `columns`.
    """
    y, p = columns(y, p)
    kernels = _kernels(y, p, statistic)
    point = _evaluate(kernels, np.ones((len(y), 1)))[0]
    blocks = [_evaluate(kernels, weights) for _, weights in resamples(len(y), patients, n, seed, indices)]
    if not blocks:
        raise EcgError("no resample asked for", field="n", fix="n >= 1")
    return point, np.concatenate(blocks)


def apply_policy(values, policy="drop"):
    """What a label counts in a resample that lacks one of its classes; values (replicate, label), a new array.

    drop: nothing, the mean runs over the other labels (NaN; the default). reject: the resample is not used at all.
    half, zero: 0.5 or 0, as some published intervals have it; both are biased low and are here to show that.
    """
    if policy not in POLICIES:
        raise EcgError(f"unknown policy {policy!r}", field="policy", fix=f"one of {POLICIES}")
    absent = np.isnan(values)
    if policy == "reject":
        absent = np.broadcast_to(absent.any(axis=1, keepdims=True), values.shape)
        if absent.all():
            raise EcgError("every resample lacks a class of some label", field="policy", fix="policy='drop'")
    return np.where(absent, {"half": 0.5, "zero": 0.0}.get(policy, np.nan), values)


def mean_known(values):
    """Mean over the last axis without its NaN; NaN where nothing is known (numpy's nanmean without the warning)."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(-1) / known.sum(-1)


class _Fields(NamedTuple):
    point: float
    low: float
    high: float
    replicates: np.ndarray


class Interval(_Fields):
    """point, low, high, replicates (replicate,); further `bias`, `widened`, `p_value` (paired), `labels_used`.

    bias: mean of the replicates minus the point. widened: the percentile interval alone would have excluded the point.
    labels_used: mean number of labels that a replicate's macro average rests on.
    """

    widened: bool = False
    p_value: float = np.nan
    labels_used: float = np.nan

    @property
    def bias(self) -> float:
        return float(mean_known(self.replicates) - self.point)


def interval(point, values, level=0.95):
    """Percentile interval (Efron) of the replicates (replicate,), always holding the point.

    Resampling repeats records, so a replicate's labels are fewer and its ties more: its centre can sit off the point.
    Where the percentile interval excludes the point it is extended to it: that can only widen it. `bias` and
    `widened` tell. An interval of a perfect score has no width: a bootstrap cannot see errors that did not happen.
    """
    values = np.asarray(values, dtype=np.float64)
    known = values[~np.isnan(values)]
    if np.isnan(point) or not known.size:
        return Interval(float(point), np.nan, np.nan, values)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    result = Interval(float(point), float(min(low, point)), float(max(high, point)), values)
    result.widened = bool(point < low or point > high)
    return result
