"""Discrimination, calibration and operating points of multi-label predictions, with patient-level intervals.

y: truth (record, label) holding 1, 0, and -1 or NaN for unknown (masked); p: probability of the same shape. A label
that lacks a class has no AUROC: it is NaN, left out of macro averages, and for the caller to name. Needs numpy alone.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from ecglib.resampling import (
    POLICIES,
    STATISTICS,
    Interval,
    apply_policy,
    columns,
    interval,
    mean_known,
    replicates,
    resamples,
    score,
)
from ecglib.signals import EcgError

__all__ = [
    "OPERATING",
    "POLICIES",
    "STATISTICS",
    "Interval",
    "Reliability",
    "apply_policy",
    "auprc",
    "auroc",
    "bootstrap",
    "brier",
    "columns",
    "confusion",
    "ece",
    "holm",
    "interval",
    "macro",
    "macro_auprc",
    "macro_auroc",
    "mean_known",
    "paired",
    "per_label",
    "positives",
    "reliability",
    "replicates",
    "resamples",
    "score",
    "threshold_at",
    "two_sided",
    "wilson",
]

OPERATING = ("sensitivity", "specificity", "ppv", "npv", "f1")


def auroc(y, p):
    """Area under the ROC curve per label (label,), a tie counting half (Mann-Whitney); a float for one label."""
    return score(y, p, "auroc")


def auprc(y, p):
    """Average precision per label (label,), step-wise as scikit-learn's; read it beside the label's prevalence."""
    return score(y, p, "auprc")


def brier(y, p):
    """Mean squared difference of probability and truth per label (Brier 1950)."""
    return score(y, p, "brier")


def ece(y, p):
    """Expected calibration error per label: 15 equal bins of probability, gaps weighted by size (Guo et al. 2017)."""
    return score(y, p, "ece")


def positives(y):
    """Number of positives per label (label,)."""
    y = np.asarray(y)
    return (y.reshape(len(y), -1) == 1).sum(axis=0)


def macro(values, n_positives=None, min_positives=0):
    """Mean over the labels that have a value and `min_positives`; raises EcgError when none has."""
    use = ~np.isnan(values)
    if min_positives:
        use &= np.asarray(n_positives) >= min_positives
    if not use.any():
        raise EcgError(f"no label has a value and at least {min_positives} positives", field="label")
    return float(np.asarray(values)[use].mean())


def macro_auroc(y, p, min_positives=0):
    """Mean AUROC over the labels with both classes and at least `min_positives` positives."""
    return macro(np.atleast_1d(auroc(y, p)), positives(y), min_positives)


def macro_auprc(y, p, min_positives=0):
    """Mean average precision over the labels with a positive and at least `min_positives` of them."""
    return macro(np.atleast_1d(auprc(y, p)), positives(y), min_positives)


def _candidates(y, point, min_positives):
    use = ~np.isnan(point) & (positives(y) >= min_positives)
    if not use.any():
        raise EcgError(f"no label has both classes and at least {min_positives} positives", field="label")
    return use


def bootstrap(
    y,
    p,
    patients=None,
    n=1000,
    seed=0,
    indices=None,
    statistic="auroc",
    policy="drop",
    min_positives=0,
    level=0.95,
):
    """Macro average of a statistic with its bootstrap interval: Interval(point, low, high, replicates (n,)).

    y, p: (record, label) or (record,). patients (record,): the unit that is drawn, records without it. indices
    (replicate, draw): given resamples of record numbers instead of drawn ones. statistic: a key of STATISTICS.
    min_positives: the macro runs over labels with at least so many positives on the whole data; which ones does not
    change between resamples. policy: see `apply_policy`; with the default a label that lost a class is left out of
    that replicate alone, and `labels_used` reports the mean number left. The interval holds the point: see `interval`.
    No policy makes an interval of labels with one or two positives honest (coverage falls to 75-85 %): headline macros
    ask for min_positives=10, where it is nominal.
    Raises EcgError for unusable input, and when no label has a value.
    """
    point, values = replicates(y, p, patients, n, seed, indices, statistic)
    use = _candidates(y, point, min_positives)
    values = apply_policy(values[:, use], policy)
    result = interval(point[use].mean(), mean_known(values), level)
    counts = (~np.isnan(values)).sum(axis=1)
    result.labels_used = float(counts[counts > 0].mean())
    return result


def per_label(y, p, patients=None, n=1000, seed=0, indices=None, statistic="auroc", level=0.95):
    """One Interval per label, from the same resamples as `bootstrap`; NaN for a label without a class."""
    point, values = replicates(y, p, patients, n, seed, indices, statistic)
    return [interval(point[k], values[:, k], level) for k in range(len(point))]


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


def paired(
    y,
    p_a,
    p_b,
    patients=None,
    n=1000,
    seed=0,
    indices=None,
    statistic="auroc",
    policy="drop",
    min_positives=0,
    level=0.95,
):
    """Macro statistic of model a minus that of b on the same resamples: an Interval with its two-sided `p_value`."""
    point_a, values_a = replicates(y, p_a, patients, n, seed, indices, statistic)
    point_b, values_b = replicates(y, p_b, patients, n, seed, indices, statistic)
    use = _candidates(y, point_a + point_b, min_positives)
    macros = [mean_known(apply_policy(values[:, use], policy)) for values in (values_a, values_b)]
    result = interval((point_a - point_b)[use].mean(), macros[0] - macros[1], level)
    result.p_value = two_sided(result.replicates)
    return result


def holm(p_values):
    """Holm's step-down adjusted p values (Holm 1979), same shape; NaN stays NaN and is no member of the family."""
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    stepped = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def wilson(successes, trials, level=0.95):
    """Score interval (low, high) of a proportion (Wilson 1927); NaN where there is no trial."""
    successes, trials = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    z = NormalDist().inv_cdf((1 + level) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        share, scale = successes / trials, 1 + z**2 / trials
        centre = (share + z**2 / (2 * trials)) / scale
        half = z / scale * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
        # rounding must not push the interval off a share of exactly 0 or 1
        return np.minimum(centre - half, share).clip(0), np.maximum(centre + half, share).clip(None, 1)


class Reliability(NamedTuple):
    """One entry per bin that holds records: mean probability, share of positives with its Wilson interval, count."""

    probability: np.ndarray
    frequency: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray


def reliability(y, p, bins=10, strategy="uniform", level=0.95):
    """Reliability curve of one label, y and p (record,); bins of equal width ("uniform") or size ("quantile")."""
    y, p = (column[:, 0] for column in columns(y, p))
    y, p = y[~np.isnan(y)], p[~np.isnan(y)]
    if strategy not in ("uniform", "quantile"):
        raise EcgError(f"unknown strategy {strategy!r}", field="strategy", fix="'uniform' or 'quantile'")
    edges = np.linspace(0, 1, bins + 1) if strategy == "uniform" else np.quantile(p, np.linspace(0, 1, bins + 1))
    place = np.searchsorted(np.unique(edges)[1:-1], p, side="left")
    count = np.bincount(place)
    full = np.flatnonzero(count)
    count, hits, mass = count[full], np.bincount(place, y)[full], np.bincount(place, p)[full]
    return Reliability(mass / count, hits / count, *wilson(hits, count, level), count)


def threshold_at(y, p, rule="youden", target=0.9):
    """Threshold per label (label,), a float for one label: `p >= threshold` is a positive call. Validation only.

    rule: "youden" (largest sensitivity + specificity), "f1" (largest F1), "sensitivity" (the highest threshold that
    reaches `target`). Of equal thresholds the highest wins. NaN for a label without a class.
    """
    if rule not in ("youden", "f1", "sensitivity"):
        raise EcgError(f"unknown rule {rule!r}", field="rule", fix="'youden', 'f1' or 'sensitivity'")
    truth, probability = columns(y, p)
    found = np.array([_threshold(truth[:, k], probability[:, k], rule, target) for k in range(truth.shape[1])])
    return float(found[0]) if np.ndim(y) == 1 else found


def _threshold(y, p, rule, target):
    y, p = y[~np.isnan(y)], p[~np.isnan(y)]
    if not 0 < y.sum() < len(y):
        return np.nan
    cuts, place = np.unique(-p, return_inverse=True)  # descending thresholds
    hits, called = np.cumsum(np.bincount(place, y)), np.cumsum(np.bincount(place))
    sensitivity, false_rate = hits / y.sum(), (called - hits) / (len(y) - y.sum())
    if rule == "sensitivity":
        return float(-cuts[np.argmax(sensitivity >= target - 1e-12)])
    gain = sensitivity - false_rate if rule == "youden" else 2 * hits / (called + y.sum())
    return float(-cuts[np.argmax(gain)])


def confusion(y, p, threshold):
    """Counts tp, fp, tn, fn and the OPERATING statistics per label (label,) at `p >= threshold` (label,), a dict.

    NaN where a ratio has no denominator, and where the threshold is NaN (the label lacked a class on validation). For
    intervals pass the decisions `p >= threshold` to `bootstrap` or `per_label` with statistic="sensitivity" and so on.
    """
    y, p = columns(y, p)
    threshold = np.broadcast_to(threshold, y.shape[1:])
    called = p >= threshold
    counts = {
        "tp": ((y == 1) & called).sum(0),
        "fp": ((y == 0) & called).sum(0),
        "tn": ((y == 0) & ~called).sum(0),
        "fn": ((y == 1) & ~called).sum(0),
    }
    return counts | {name: np.where(np.isnan(threshold), np.nan, score(y, called, name)) for name in OPERATING}
