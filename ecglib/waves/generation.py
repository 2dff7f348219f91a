"""Whether drawn ECGs are like recorded ones: by distribution, by what was asked, by use, and by copies among them.

Scores after DiffuSETS (arXiv 2501.05932), each beside its controls. A record's features are those of a frozen encoder.
"""

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError
from ecglib.data import rpeaks
from ecglib.evaluation import bootstrap, classifiers
from ecglib.waves.diffusion import Conditions
from ecglib.waves.lead_reconstruction import complete

FOLDS = 20  # of patients, of which the jackknife leaves one out at a time
NEAR_BPM = 5.0  # a rate that counts as met
COST = (1 / 20, 0.5, 1 / 10)  # of a year, another sex and a beat per minute, in statements


def r_peaks(x: np.ndarray, fs: float) -> np.ndarray:
    """R peaks found in all twelve leads: samples, int64 (record, n), padded with -1.

    x: (record, 8, time), independent leads in mV; fs: Hz.
    """
    found = [rpeaks.r_peaks(one, fs) for one in complete(x)]
    padded = np.full((len(found), max(len(at) for at in found)), -1, np.int64)
    for row, at in enumerate(found):
        padded[row, : len(at)] = at
    return padded


def heart_rates(peaks: np.ndarray, fs: float) -> np.ndarray:
    """Beats per minute by the median RR of each record: float (record,), NaN with fewer than two R peaks.

    peaks: (record, n) rising samples of R, padded with -1; fs: Hz.
    """
    found = [np.diff(at[at >= 0]) for at in peaks]
    return np.array([60 * fs / np.median(rr) if len(rr) else np.nan for rr in found])


def matched(asked: Conditions, offered: Conditions) -> np.ndarray:
    """For each asked record the offered one whose conditions are nearest: int (record,).

    Distance: statements that differ, plus COST for each of the numbers; one that is unknown costs nothing.
    """
    apart = asked.statements @ (1 - offered.statements).T + (1 - asked.statements) @ offered.statements.T
    for k, cost in enumerate(COST):
        gap = abs(asked.numbers[:, None, k] - offered.numbers[None, :, k])
        apart = apart + cost * np.nan_to_num(gap)
    return apart.argmin(axis=1)


def frechet(z: np.ndarray, other: np.ndarray) -> float:
    """Frechet distance, squared, of normal distributions fitted to features (record, dim): arXiv 1706.08500, 6.

    |m1 - m2|^2 + trace(S1 + S2 - 2 (S1 S2)^(1/2)). EcgError for other dimensions or fewer than two records.
    """
    if z.ndim != 2 or other.ndim != 2 or z.shape[1] != other.shape[1] or min(len(z), len(other)) < 2:
        reason = f"features of shapes {z.shape} and {other.shape}"
        raise EcgError(reason, field="features", fix="give (record, dim) of the same encoder, two records at least")
    (mean, cov), (mean_2, cov_2) = (
        (each.mean(0), np.atleast_2d(np.cov(each, rowvar=False))) for each in (z.astype(float), other.astype(float))
    )
    values, vectors = np.linalg.eigh(cov)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_2 @ root).clip(0)).sum()  # eigenvalues of S1 S2 are those of this
    return float(((mean - mean_2) ** 2).sum() + np.trace(cov) + np.trace(cov_2) - 2 * cross)


def frechet_table(features: dict, patients: dict, reference: np.ndarray, reference_patients) -> pd.DataFrame:
    """A row per set: set, records, frechet, low, high, and its difference from the first set with interval.

    features: name -> (record, dim); patients: name -> (record,), whose conditions the records have; reference: features
    of recorded ECGs. Intervals: jackknife over groups of patients, plus and minus 1.96 standard errors. A bootstrap
    would repeat records, which narrows covariances and moves every distance up.
    """
    folds = _folds(np.concatenate([*patients.values(), np.asarray(reference_patients)]))
    cuts = np.cumsum([len(each) for each in patients.values()])
    *fold_of, fold_ref = np.split(folds, cuts)
    rows, drawn = [], {}
    for (name, z), fold in zip(features.items(), fold_of, strict=True):
        left = [frechet(z[fold != k], reference[fold_ref != k]) for k in range(FOLDS)]
        drawn[name] = frechet(z, reference), np.array(left)
    first = next(iter(drawn.values()))
    for name, (point, left) in drawn.items():
        error, error_2 = _jackknife(left), _jackknife(left - first[1])
        change = point - first[0]
        row = {"set": name, "records": len(features[name]), "frechet": point}
        row |= {"low": max(0.0, point - 1.96 * error), "high": point + 1.96 * error, "change": change}
        rows.append(row | {"change_low": change - 1.96 * error_2, "change_high": change + 1.96 * error_2})
    return pd.DataFrame(rows)


def _folds(patients: np.ndarray) -> np.ndarray:
    """One of FOLDS groups for each record, all of a patient in the same."""
    _, owner = np.unique(patients.astype(str), return_inverse=True)
    return np.random.default_rng(0).permutation(owner.max() + 1)[owner] % FOLDS


def _jackknife(values: np.ndarray) -> float:
    """Standard error from values with one group left out (Efron and Tibshirani 1993, 11.5)."""
    return float(np.sqrt((len(values) - 1) * values.var()))


def rate_table(asked: np.ndarray, measured: dict, patients: np.ndarray, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """A row per set: mean absolute error of the heart rate (bpm), share within NEAR_BPM, share with beats at all, with
    intervals over patients. asked: (record,) bpm; measured: name -> (record,); a record without beats misses the rate.
    """
    rows = []
    for name, found in measured.items():
        error, there = abs(found - asked), np.isfinite(found)
        columns = np.stack([np.nan_to_num(error), there, np.isfinite(asked), error <= NEAR_BPM], 1)
        columns = columns[np.isfinite(asked)]
        drawn = bootstrap.of_sums(columns, np.asarray(patients)[np.isfinite(asked)], _rate_means, n, seed)
        row = {"set": name, "records": len(columns)}
        for score, found_score in drawn.items():
            row |= {score: found_score.point, f"{score}_low": found_score.low, f"{score}_high": found_score.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _rate_means(sums: np.ndarray) -> dict[str, np.ndarray]:
    error, there, records, near = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"error": error / there, "near": near / records, "with_beats": there / records}


def told_apart(z: np.ndarray, patients, real: np.ndarray, real_patients, cell: tuple, n=1000, seed=0):
    """AUROC, as a bootstrap.Interval, of a linear classifier that tells features of drawn records from recorded ones
    (classifier two-sample test, arXiv 1610.06545): .5 where nothing tells them apart. Each half of the patients is
    judged by a classifier of the other half. cell: standardise, C, balanced of `classifiers.at_cell`.
    """
    x, who = np.concatenate([z, real]).astype(float), np.concatenate([patients, real_patients]).astype(str)
    y = np.r_[np.ones(len(z)), np.zeros(len(real))][:, None]
    half, p = _folds(who) % 2, np.zeros((len(x), 1))
    for k in range(2):
        p[half == k] = classifiers.at_cell(x[half != k], y[half != k], *cell)(x[half == k])
    return bootstrap.bootstrap(y, p, who, n, seed)


def trained_on(sets: dict, z_test: np.ndarray, cell: tuple) -> dict[str, np.ndarray]:
    """Probabilities (record, label) of test records by a linear probe on each set alone.

    sets: name -> (features (record, dim), y (record, label)); cell: as of `told_apart`.
    """
    return {name: classifiers.at_cell(z.astype(float), y, *cell)(z_test.astype(float)) for name, (z, y) in sets.items()}


def score_table(scores: dict) -> pd.DataFrame:
    """A row per set of scores ({name: bootstrap.Interval} on the same resamples): set, auroc, low, high, n_labels, and
    the paired change from the first set with its interval."""
    rows, first = [], next(iter(scores.values()))
    for name, score in scores.items():
        change = bootstrap.interval(score.point - first.point, score.replicates - first.replicates)
        rows.append((name, *score[:3], score.n_labels, *change[:3]))
    columns = ["set", "auroc", "low", "high", "n_labels", "change", "change_low", "change_high"]
    return pd.DataFrame(rows, columns=columns)


def nearest_distances(z: np.ndarray, library: np.ndarray) -> np.ndarray:
    """Euclidean distance of each record to the nearest of the library, over the library's standard deviations.

    z: features (query, dim); library: (record, dim).
    """
    spread = library.std(axis=0)
    spread = torch.from_numpy(np.where(spread > 0, spread, 1.0).astype(np.float64))
    ours, theirs = (torch.from_numpy(each.astype(np.float64)) / spread for each in (z, library))
    exact = "donot_use_mm_for_euclid_dist"  # a copy has a distance of zero
    return np.concatenate([torch.cdist(some, theirs, compute_mode=exact).amin(1).numpy() for some in ours.split(256)])


def copies_table(distances: dict, patients: dict, held: np.ndarray, held_patients, n: int = 1000, seed: int = 0):
    """A row per set: median distance to the nearest training record, and how often a record of the set is nearer to
    its own than a held out record is to its: .5 for new records, 1 for copies. Intervals over patients.

    distances, patients: name -> (record,); held, held_patients: of recorded ECGs that nobody learned from.
    """
    rows = []
    for name, found in distances.items():
        y = np.r_[np.ones(len(found)), np.zeros(len(held))][:, None]
        who = np.concatenate([patients[name], held_patients]).astype(str)
        nearer = bootstrap.bootstrap(y, -np.r_[found, held][:, None], who, n, seed)
        row = {"set": name, "records": len(found), "median": np.median(found), "median_held": np.median(held)}
        rows.append(row | {"nearer": nearer.point, "low": nearer.low, "high": nearer.high})
    return pd.DataFrame(rows)
