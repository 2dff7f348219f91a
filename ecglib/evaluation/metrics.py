"""Discrimination, calibration, operating points and errors of predictions, each a function of weights on records.

y: truth (record, label) holding 1, 0, and -1 or NaN for unknown (masked); p: probability of the same shape. A label
that lacks a class has no AUROC: it is NaN, left out of macro averages, and for the caller to name. Predicted numbers
(age, ejection fraction) have statistics of their own, NUMBERS: y and p hold the two numbers, NaN in y where unknown.

A resample that draws record i w_i times is the original data set with weight w_i on record i. Each statistic is
therefore prepared once per label (its sort order, its ties) and evaluated on blocks of weights (`bootstrap`); the
numbers are the ones that scikit-learn gives for the resampled arrays, ties included.
"""

from statistics import NormalDist

import numpy as np
import pandas as pd

from ecglib import EcgError, require_known

SMALL = 2**15  # entries of a matrix that is multiplied faster than sums are run through


def columns(y, p):
    """Truth as float64 (record, label) holding 1, 0 or NaN (unknown: -1 or NaN), and p as float64 of that shape.

    A single label may come as (record,). Raises EcgError for other shapes, no records, what is no number, other states
    (the caller decides what `possible` means), and predictions that are not finite.
    """
    y, p = _numbers(y, "truth"), _numbers(p, "prediction")
    if y.shape != p.shape or y.ndim not in (1, 2):
        reason = f"truth {y.shape} and prediction {p.shape} must be equal (record,) or (record, label) shapes"
        raise EcgError(reason, field="prediction", fix="give one of each per record and label")
    if not y.size:
        raise EcgError("no record to score", field="truth", fix="check split and labels")
    y[y == -1] = np.nan
    if not np.isin(y[~np.isnan(y)], (0, 1)).all():
        raise EcgError("truth holds states other than 1, 0 and unknown", fix="set `possible` to -1, or count it as 1")
    if not np.isfinite(p).all():
        raise EcgError("predictions hold NaN or infinity", fix="drop the record or repair the model; nothing is filled")
    return y.reshape(len(y), -1), p.reshape(len(p), -1)


def _numbers(values, field):
    """A copy of an array as float64; EcgError, which names the field, for what is none."""
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EcgError(f"holds what is no number: {error}", field=field, fix="give an array of numbers") from error


def _probabilities(p):
    """p itself; EcgError unless all of it lies in 0..1, as where logits were passed."""
    if p.min() < 0 or p.max() > 1:
        reason = f"values from {p.min():.3g} to {p.max():.3g} are no probabilities"
        raise EcgError(reason, field="prediction", fix="apply the sigmoid")
    return p


def _first(weights, order, counts):
    """Sum of the weights of the first counts[i] records of `order`: (record, block) -> (len(counts), block)."""
    if len(counts) * len(order) <= SMALL:
        return (np.arange(len(order)) < counts[:, None]).astype(weights.dtype) @ weights[order]
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
        wins = (own * (other[: len(few)] + other[len(few) : -1])).sum(0, dtype=float) / 2  # a tie is half a win
        area = wins / (own.sum(0, dtype=float) * other[-1])
        return 1 - area if flipped else area

    return kernel


def _auprc(y, p):
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    positive, negative = (index[np.argsort(-p[index], kind="stable")] for index in (positive, negative))
    hits, false = (np.searchsorted(-p[index], -p[positive], "right") for index in (positive, negative))

    def kernel(weights):
        own, true = weights[positive], _first(weights, positive, hits)
        flagged = true + _first(weights, negative, false)
        precision = np.divide(true, flagged, out=np.zeros(true.shape), where=flagged > 0, dtype=float)
        return (own * precision).sum(0) / own.sum(0)

    return kernel


def _auprc_equal(y, p):
    """What the average precision would be if both classes had the same weight."""
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    positive, negative = (index[np.argsort(-p[index], kind="stable")] for index in (positive, negative))
    hits, false = (np.searchsorted(-p[index], -p[positive], "right") for index in (positive, negative))

    def kernel(weights):
        own, of_negative = weights[positive], weights[negative].sum(0, dtype=float)
        of_positive = own.sum(0, dtype=float)
        found = _first(weights, positive, hits) / of_positive
        flagged = found + _first(weights, negative, false) / of_negative
        precision = np.divide(found, flagged, out=np.zeros(found.shape), where=flagged > 0)
        return (own * precision).sum(0) / of_positive

    return kernel


def _mean_error(y, error):
    known = np.flatnonzero(~np.isnan(y))
    return lambda weights: error[known] @ weights[known] / weights[known].sum(0)


def _ece(y, p):
    p = _probabilities(p)
    known, bins = np.flatnonzero(~np.isnan(y)), 15
    number = np.clip(np.ceil(p[known] * bins).astype(int) - 1, 0, bins - 1)  # bins (a, b], as Guo et al. 2017
    gap = np.zeros((bins, len(known)))
    gap[number, np.arange(len(known))] = p[known] - y[known]
    return lambda weights: np.abs(gap @ weights[known]).sum(0) / weights[known].sum(0)


def _decisions(numerator, denominator):
    """A ratio of sums over records, from functions of truth t and decision d, both boolean."""

    def prepare(y, p):
        if not np.isin(p, (0, 1)).all():
            raise EcgError("this statistic takes decisions (0 or 1), not probabilities", fix="pass p >= threshold")
        known = np.flatnonzero(~np.isnan(y))
        truth, decision = y[known] == 1, p[known] == 1
        top, bottom = (counted(truth, decision).astype(float) for counted in (numerator, denominator))
        return lambda weights: (top @ weights[known]) / (bottom @ weights[known])

    return prepare


def _kappa(y, p):
    """Cohen's kappa of decisions and truth (1960): agreement beyond what the two shares of positives give by chance."""
    parts = (lambda t, d: t == d), (lambda t, d: t), (lambda t, d: d)
    shares = [_decisions(part, lambda t, d: t | ~t)(y, p) for part in parts]

    def kernel(weights):
        agree, true, called = (share(weights) for share in shares)
        chance = true * called + (1 - true) * (1 - called)
        return (agree - chance) / (1 - chance)

    return kernel


def _balanced_accuracy(y, p):
    """The mean of sensitivity and specificity."""
    halves = [STATISTICS[name](y, p) for name in ("sensitivity", "specificity")]
    return lambda weights: sum(half(weights) for half in halves) / 2


def _number(needs, value):
    """A statistic of two numbers: `value` of weighted sums by name, of which it `needs` these (and n)."""

    def prepare(y, p):
        known = np.flatnonzero(~np.isnan(y))
        centre = y[known].mean() if len(known) else 0.0  # so that squares of numbers far from zero stay exact
        truth, guess, error = y[known] - centre, p[known] - centre, p[known] - y[known]
        sums = {"n": np.ones(len(known)), "y": truth, "p": guess, "yy": truth**2, "pp": guess**2, "yp": truth * guess}
        sums |= {"e": error, "ee": error**2, "abs": np.abs(error)}
        names = ["n", *needs.split()]
        table = np.zeros((len(names), len(y)))
        table[:, known] = [sums[name] for name in names]
        return lambda weights: value(dict(zip(names, table @ weights, strict=True)))

    return prepare


def _spread(s, a, b):
    """Sum of products of two numbers around their means."""
    return s["".join(sorted(a + b, reverse=True))] - s[a] * s[b] / s["n"]


def _difference_sd(s):
    """Standard deviation of the errors, n - 1 in its denominator."""
    return np.sqrt(np.maximum(s["ee"] - s["e"] ** 2 / s["n"], 0) / (s["n"] - 1))


Z95 = NormalDist().inv_cdf(0.975)
NUMBERS = {
    "mae": _number("abs", lambda s: s["abs"] / s["n"]),
    "rmse": _number("ee", lambda s: np.sqrt(s["ee"] / s["n"])),
    "r": _number("y p yy pp yp", lambda s: _spread(s, "y", "p") / np.sqrt(_spread(s, "y", "y") * _spread(s, "p", "p"))),
    "r2": _number("y yy ee", lambda s: 1 - s["ee"] / _spread(s, "y", "y")),
    "slope": _number("y p pp yp", lambda s: _spread(s, "y", "p") / _spread(s, "p", "p")),
    "bias": _number("e", lambda s: s["e"] / s["n"]),
    "loa_low": _number("e ee", lambda s: s["e"] / s["n"] - Z95 * _difference_sd(s)),
    "loa_high": _number("e ee", lambda s: s["e"] / s["n"] + Z95 * _difference_sd(s)),
}
SMALLER = ("mae", "rmse", "brier", "ece")  # statistics of which less is better

STATISTICS = {
    "auroc": _auroc,
    "auprc": _auprc,
    "auprc_equal": _auprc_equal,
    "brier": lambda y, p: _mean_error(y, (_probabilities(p) - y) ** 2),
    "ece": _ece,
    "sensitivity": _decisions(lambda t, d: t & d, lambda t, d: t),
    "specificity": _decisions(lambda t, d: ~t & ~d, lambda t, d: ~t),
    "ppv": _decisions(lambda t, d: t & d, lambda t, d: d),
    "npv": _decisions(lambda t, d: ~t & ~d, lambda t, d: ~d),
    "f1": _decisions(lambda t, d: 2 * (t & d), lambda t, d: t.astype(int) + d),
    "accuracy": _decisions(lambda t, d: t == d, lambda t, d: t | ~t),
    "balanced_accuracy": _balanced_accuracy,
    "kappa": _kappa,
}


def number_columns(y, p):
    """Two tables of numbers as float64 (record, column), y with NaN where unknown, as `columns` has them for states."""
    y, p = _numbers(y, "truth"), _numbers(p, "prediction")
    if y.shape != p.shape or y.ndim not in (1, 2) or not y.size:
        reason = f"truth {y.shape} and prediction {p.shape} must be equal (record,) or (record, column) shapes"
        raise EcgError(reason, field="prediction", fix="give one of each per record")
    if np.isinf(y).any() or not np.isfinite(p).all():
        raise EcgError("NaN or infinity among predictions, or infinity in the truth", field="prediction")
    return y.reshape(len(y), -1), p.reshape(len(p), -1)


def checked_columns(y, p, statistic):
    """The columns that a statistic takes: numbers for those of NUMBERS, else states and probabilities or decisions."""
    require_known("statistic", [statistic], [*STATISTICS, *NUMBERS])
    return number_columns(y, p) if statistic in NUMBERS else columns(y, p)


def _kernels(y, p, statistic):
    prepare = (STATISTICS | NUMBERS)[statistic]
    return [prepare(y[:, k], p[:, k]) for k in range(y.shape[1])]


def _evaluate(kernels, weights):
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is the NaN of a statistic without its class
        return np.stack([kernel(weights) for kernel in kernels], axis=1)


def score(y, p, statistic="auroc"):
    """A statistic of every label (label,); a float where y and p are one label (record,).

    statistic: a key of STATISTICS or NUMBERS. auroc: a tie counts half (Mann-Whitney); auprc: average precision,
    step-wise; auprc_equal: what it would be if both classes weighed the same; brier: mean squared error (1950); ece: 15
    equal bins (Guo et al. 2017); those of OPERATING, the accuracies and kappa (Cohen 1960) take decisions, 0 or 1, for
    p. Of numbers: mae, rmse, r (Pearson), r2, slope (of truth on prediction: 1 is calibrated), bias (prediction minus
    truth) with its 95 % limits of agreement loa_low, loa_high (Bland and Altman 1986).
    """
    values = _evaluate(_kernels(*checked_columns(y, p, statistic), statistic), np.ones((len(y), 1)))[0]
    return float(values[0]) if np.ndim(y) == 1 else values


def mean_known(values):
    """Mean over the last axis without its NaN; NaN where nothing is known (numpy's nanmean without the warning)."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(-1) / known.sum(-1)


RULES = ("youden", "f1", "sensitivity")  # of `threshold_at`
OPERATING = ("sensitivity", "specificity", "ppv", "npv", "f1")


def auroc(y, p):
    """Area under the ROC curve per label (label,), a tie counting half (Mann-Whitney); a float for one label."""
    return score(y, p, "auroc")


def positives(y):
    """Number of positives per label (label,)."""
    y = np.asarray(y)
    return (y.reshape(len(y), -1) == 1).sum(axis=0)


def macro_auroc(y, p, min_positives=0):
    """Mean AUROC over the labels with both classes and at least `min_positives` positives; EcgError when none is."""
    values = np.atleast_1d(auroc(y, p))
    use = ~np.isnan(values) & (positives(y) >= min_positives)
    if not use.any():
        raise EcgError(f"no label has a value and at least {min_positives} positives", field="label")
    return float(values[use].mean())


def wilson(successes, trials):
    """95 % score interval (low, high) of a proportion (Wilson 1927); NaN where there is no trial."""
    successes, trials = _numbers(successes, "successes"), _numbers(trials, "trials")
    if ((successes < 0) | (successes > trials)).any():
        raise EcgError("more successes than trials, or fewer than none", field="successes", fix="give counts")
    z = NormalDist().inv_cdf((1 + 0.95) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        share, scale = successes / trials, 1 + z**2 / trials
        centre = (share + z**2 / (2 * trials)) / scale
        half = z / scale * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
        # rounding must not push the interval off a share of exactly 0 or 1
        return np.minimum(centre - half, share).clip(0), np.maximum(centre + half, share).clip(None, 1)


def reliability(y, p, bins=10, patients=None):
    """Reliability curve of one label: how often a predicted probability comes true.

    y, p: truth and probability (record,); unknown truth is left out; bins: number of bins (a, b] of equal width.
    patients: (record,); several records of one patient are no independent trials of the interval.
    Returns a row per occupied bin: bin, probability (mean), frequency (share of positives) with its Wilson interval
    low and high, n (records), n_patients (trials of the interval; records without `patients`).
    """
    if np.ndim(y) != 1 or bins < 1 or (patients is not None and len(patients) != len(y)):
        reason = f"a curve needs one label, a patient for each record and bins: {np.shape(y)}, {bins} bins"
        raise EcgError(reason, field="truth", fix="ask for one label at a time")
    truth, probability = (column[:, 0] for column in columns(y, p))
    _probabilities(probability)
    number = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probability, side="left")
    patients = np.arange(len(truth)) if patients is None else np.asarray(patients)
    table = pd.DataFrame({"bin": number, "probability": np.asarray(p), "truth": truth, "patient": patients})
    table = table[table["truth"].notna()]
    mean, parts = {"probability": ("probability", "mean"), "frequency": ("truth", "mean")}, table.groupby("bin")
    curve = parts.agg(**mean, n=("truth", "size"), n_patients=("patient", "nunique"))
    low, high = wilson(curve["frequency"] * curve["n_patients"], curve["n_patients"])
    return curve.assign(low=low, high=high).reset_index()


def threshold_at(y, p, rule="youden", target=0.9):
    """Threshold per label (label,), a float for one label: `p >= threshold` is a positive call. Validation only.

    rule: "youden" (largest sensitivity + specificity), "f1" (largest F1), "sensitivity" (the highest threshold that
    reaches `target`). Of equal thresholds the highest wins. NaN for a label without a class.
    """
    require_known("rule", [rule], RULES)
    if not 0 < target <= 1:
        raise EcgError(f"no threshold reaches a sensitivity of {target}", field="target", fix="a share such as 0.9")
    truth, probability = columns(y, p)
    cuts = np.array([_threshold(truth[:, k], probability[:, k], rule, target) for k in range(truth.shape[1])])
    return float(cuts[0]) if np.ndim(y) == 1 else cuts


def _threshold(y, p, rule, target):
    y, p = y[~np.isnan(y)], p[~np.isnan(y)]
    if not 0 < y.sum() < len(y):
        return np.nan
    cuts, number = np.unique(-p, return_inverse=True)  # descending thresholds
    hits, called = np.cumsum(np.bincount(number, y)), np.cumsum(np.bincount(number))
    sensitivity, false_rate = hits / y.sum(), (called - hits) / (len(y) - y.sum())
    if rule == "sensitivity":
        return float(-cuts[np.argmax(sensitivity >= target - 1e-12)])
    gain = sensitivity - false_rate if rule == "youden" else 2 * hits / (called + y.sum())
    return float(-cuts[np.argmax(gain >= gain.max() - 1e-12)])  # equal but for rounding: the highest


def confusion(y, p, threshold):
    """Counts tp, fp, tn, fn and the OPERATING statistics per label (label,) at `p >= threshold` (label,), a dict.

    NaN where a ratio has no denominator, and where the threshold is NaN (the label lacked a class on validation).
    """
    y, p = columns(y, p)
    if np.shape(threshold) not in ((), y.shape[1:]):
        raise EcgError(
            f"thresholds {np.shape(threshold)} for {y.shape[1]} labels", field="threshold", fix="one per label"
        )
    threshold = np.broadcast_to(threshold, y.shape[1:])
    called = p >= threshold
    counts = {"tp": ((y == 1) & called).sum(0), "fp": ((y == 0) & called).sum(0)}
    counts |= {"tn": ((y == 0) & ~called).sum(0), "fn": ((y == 1) & ~called).sum(0)}
    return counts | {name: np.where(np.isnan(threshold), np.nan, score(y, called, name)) for name in OPERATING}
