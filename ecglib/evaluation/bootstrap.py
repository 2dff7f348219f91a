"""Intervals over patients: resamples as weights on records, exact and fast; paired differences; Holm.

One sort per label serves every resample (`ecglib.evaluation.metrics`); memory does not grow with their number.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ecglib import EcgError
from ecglib.evaluation.metrics import _evaluate, _kernels, _numbers, checked_columns, mean_known, positives

KEPT = 2**23  # weights of resamples up to this number stay in memory


def resamples(n_records, patients=None, n=1000, seed=0, indices=None):
    """Yield (first replicate, weights (record, block)): how often each record is in each of `n` resamples.

    Patients (record,) are drawn with replacement and bring all their records (Field and Welsh 2007, cluster bootstrap);
    without them every record is its own. `indices` (replicate, draw) takes given record numbers instead. The stream
    depends on the seed and the number of patients alone: two models that are asked separately get the same resamples.
    """
    owner = np.arange(n_records) if patients is None else _owners(patients, n_records)
    if indices is not None:
        indices = np.asarray(indices)
        if indices.ndim != 2 or not indices.size or indices.min() < 0 or indices.max() >= n_records:
            raise EcgError("indices must be (replicate, draw) record numbers within the records", field="indices")
        n, owner = len(indices), np.arange(n_records)
    if indices is None and n * n_records <= KEPT:
        yield from _kept(owner.tobytes(), n, seed)
    else:
        yield from _blocks(owner, n, seed, indices)


@lru_cache(maxsize=4)
def _kept(owner: bytes, n: int, seed: int) -> list:
    """The resamples of these patients, which every model and statistic of a table asks for."""
    return list(_blocks(np.frombuffer(owner, np.intp), n, seed, None))


def _blocks(owner, n, seed, indices):
    random, n_units = np.random.default_rng(seed), int(owner.max()) + 1
    block = int(np.clip(2**18 // len(owner), 16, 256))
    for start in range(0, n, block):
        weights = np.empty((len(owner), min(block, n - start)), np.float32)  # counts: exact
        for k in range(weights.shape[1]):
            drawn = random.integers(0, n_units, n_units) if indices is None else indices[start + k]
            weights[:, k] = np.bincount(drawn, minlength=n_units)[owner]
        weights.flags.writeable = False
        yield start, weights


def _owners(patients, n_records):
    """Number of the patient of each record (record,), in the order of their names; EcgError for one without a name."""
    patients = np.asarray(patients)
    if patients.shape != (n_records,):
        fix = "name the patient of each record"
        raise EcgError(f"{patients.size} patients for {n_records} records", field="patients", fix=fix)
    try:
        names, owner = np.unique(patients, return_inverse=True)
    except TypeError as error:  # None, or numbers and texts together
        fix = "name all of them, and all by texts or all by numbers"
        raise EcgError(f"patients that cannot be told apart: {error}", field="patients", fix=fix) from error
    unnamed = np.array([is_no_name(name) for name in names])[owner]
    if unnamed.any():
        reason = f"{unnamed.sum()} of {n_records} records name no patient"
        raise EcgError(reason, field="patients", fix="use the record id when the patient is unknown")
    return owner


def is_no_name(name) -> bool:
    """Whether the name of a patient or record is NaN or empty, or was written from one that is ("nan", "None")."""
    return name != name or str(name).strip().lower() in ("", "nan", "none", "nat", "<na>")


class Replicates(NamedTuple):
    """A statistic on the data, point (label,), and on every resample, values (replicate, label); NaN: no value."""

    point: np.ndarray
    values: np.ndarray


def replicates(y, p, patients=None, n=1000, seed=0, indices=None, statistic="auroc"):
    """The statistic of every label on the data and on every resample.

    y, p: (record, label), see `columns` and `number_columns`; statistic: a key of STATISTICS or NUMBERS; the others:
    see `resamples`.
    """
    y, p = checked_columns(y, p, statistic)
    if n < 1 or n != int(n):
        raise EcgError(f"{n} resamples asked for", field="n", fix="a whole number, n >= 1")
    kernels = _kernels(y, p, statistic)
    point = _evaluate(kernels, np.ones((len(y), 1)))[0]
    blocks = [_evaluate(kernels, weights) for _, weights in resamples(len(y), patients, n, seed, indices)]
    return Replicates(point, np.concatenate(blocks))


class Interval(NamedTuple):
    """A score with its bootstrap interval."""

    point: float
    low: float
    high: float
    replicates: np.ndarray  # (replicate,)
    widened: bool = False  # the percentile interval alone would have excluded the point
    p_value: float = np.nan  # of `paired`
    n_labels: int = 1  # in the average
    labels_used: float = np.nan  # mean number of labels that a replicate's average rests on

    @property
    def bias(self) -> float:
        """Mean of the replicates minus the point."""
        return float(mean_known(self.replicates) - self.point)


def interval(point, values, level=0.95):
    """Percentile interval (Efron) of the replicates (replicate,), always holding the point.

    Resampling repeats records, so a replicate's labels are fewer and its ties more: its centre can sit off the point.
    Where the percentile interval excludes the point it is extended to it: that can only widen it. `bias` and
    `widened` tell. An interval of a perfect score has no width: a bootstrap cannot see errors that did not happen.
    """
    if not 0 < level < 1:
        raise EcgError(f"an interval of level {level}", field="level", fix="a share such as 0.95")
    values = np.asarray(values, dtype=np.float64)
    known = values[~np.isnan(values)]
    if np.isnan(point) or not known.size:
        return Interval(float(point), np.nan, np.nan, values)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    widened = bool(point < low or point > high)
    return Interval(float(point), float(min(low, point)), float(max(high, point)), values, widened)


def average(drawn, level=0.95):
    """Interval of the mean over all labels of `drawn` (Replicates), in each replicate over those with a value."""
    counts = (~np.isnan(drawn.values)).sum(axis=1)
    used = float(counts[counts > 0].mean()) if counts.any() else 0.0
    result = interval(drawn.point.mean(), mean_known(drawn.values), level)
    return result._replace(n_labels=len(drawn.point), labels_used=used)


def macro(drawn, y, min_positives=0, level=0.95):
    """Interval of the mean of `drawn` (Replicates) over the labels with a value and `min_positives` in y.

    y: truth (record, label). A label that lost a class in a resample is left out of that replicate alone.
    Raises EcgError when no label is left.
    """
    use = _candidates(y, drawn.point, min_positives)
    return average(Replicates(drawn.point[use], drawn.values[:, use]), level)


def per_label(drawn):
    """One Interval per label of `drawn` (Replicates); NaN for a label without a class."""
    return [average(Replicates(drawn.point[[k]], drawn.values[:, [k]])) for k in range(len(drawn.point))]


def of_sums(columns, patients, statistics, n=1000, seed=0, level=0.95) -> dict[str, Interval]:
    """Intervals over patients of what follows from sums over records, such as a sensitivity from counts of beats.

    columns: (record, column) what is summed; statistics: function of sums (replicate, column) that returns
    {name: (replicate,)}, NaN where there is no value; patients, n, seed: see `resamples`.
    """
    columns = np.asarray(columns, np.float64)
    sums = [weights.T @ columns for _, weights in resamples(len(columns), patients, n, seed)]
    points, drawn = statistics(columns.sum(axis=0)[None]), statistics(np.concatenate(sums))
    return {name: interval(float(point[0]), drawn[name], level) for name, point in points.items()}


def _candidates(y, point, min_positives):
    use = ~np.isnan(point) & (positives(y) >= min_positives)
    if not use.any():
        raise EcgError(f"no label has both classes and at least {min_positives} positives", field="label")
    return use


def bootstrap(y, p, patients=None, n=1000, seed=0, indices=None, statistic="auroc", min_positives=0, level=0.95):
    """Macro average of a statistic with its bootstrap interval, which holds the point (see `interval`).

    y, p, patients, n, seed, indices, statistic: as of `replicates`; min_positives: of a label on the whole data.
    Returns an Interval. Labels with one or two positives have no honest one (coverage falls to 75-85 %): headline
    macros ask for min_positives=10, where it is nominal. Raises EcgError for unusable input, and as `macro`.
    """
    return macro(replicates(y, p, patients, n, seed, indices, statistic), y, min_positives, level)


def two_sided(values):
    """Two-sided bootstrap p of no difference, from replicates of a difference (replicate,).

    Twice the smaller share of replicates on either side of zero, zero counting for both, with one added to count and
    total so that it is never 0 (Davison and Hinkley 1997, 4.2): the smallest p of 1,000 resamples is 0.002.
    """
    known = np.asarray(values)[~np.isnan(values)]
    if not known.size:
        return float("nan")
    tail = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (known.size + 1)))


def paired(ours, theirs, y, min_positives=0):
    """Macro statistic of one model minus that of another on the same resamples.

    ours, theirs: Replicates of the two models with the same seed and patients; y: their truth (record, label).
    Returns an Interval with its two-sided `p_value`. Raises EcgError when no label has a value in both.
    """
    point = ours.point - theirs.point
    use = _candidates(y, point, min_positives)
    result = average(Replicates(point[use], ours.values[:, use] - theirs.values[:, use]))
    return result._replace(p_value=two_sided(result.replicates))


def unpaired(ours, theirs):
    """Interval of the difference of two Intervals on different patients, whose resamples are independent."""
    return interval(ours.point - theirs.point, ours.replicates - theirs.replicates)


def holm(p_values):
    """Holm's step-down adjusted p values (Holm 1979), same shape; NaN stays NaN and is no member of the family."""
    p_values = _numbers(p_values, "p_values")
    if ((p_values < 0) | (p_values > 1)).any():
        raise EcgError("p values outside 0..1", field="p_values", fix="give those of `paired`")
    adjusted = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    stepped = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted
