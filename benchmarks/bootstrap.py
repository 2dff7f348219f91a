"""Macro AUROC (2,203 x 71) and mean absolute error (1,000 records), 1,000 resamples, against the scikit-learn loop."""

import time

import numpy as np
from sklearn.metrics import mean_absolute_error, roc_auc_score

from ecglib.evaluation import bootstrap

N_RECORDS, N_LABELS, N_RESAMPLES, N_TIMED = 2203, 71, 1000, 10


def predictions(seed=0):
    """Truth and probabilities (record, label) with prevalences from 0.2 % to 40 %, some ties."""
    random = np.random.default_rng(seed)
    prevalence = np.geomspace(0.002, 0.4, N_LABELS)
    y = (random.random((N_RECORDS, N_LABELS)) < prevalence).astype(np.int8)
    y[0], y[1] = 1, 0
    p = 1 / (1 + np.exp(-(random.normal(size=y.shape) + 1.8 * y - 2)))
    return y, p.astype(np.float32).round(4)


def sklearn_loop(y, p, indices):
    """What a user writes: resample, skip labels that lost a class, average."""
    macros = []
    for rows in indices:
        truth, probability = y[rows], p[rows]
        both = np.flatnonzero((truth.min(0) == 0) & (truth.max(0) == 1))
        macros.append(np.mean([roc_auc_score(truth[:, k], probability[:, k]) for k in both]))
    return np.array(macros)


def numbers_row(n_records=1000, n_timed=50):
    """The row of the mean absolute error, in seconds of this process alone; asserts equal replicates."""
    random = np.random.default_rng(0)
    y = random.normal(60, 15, n_records)
    p, indices = y + random.normal(0, 9, n_records), random.integers(0, n_records, (N_RESAMPLES, n_records))
    bootstrap.replicates(y, p, n=10, statistic="mae")
    times = [time.process_time()]
    for _ in range(3):  # the best of three
        ours = bootstrap.replicates(y, p, indices=indices, statistic="mae").values[:, 0]
        times.append(time.process_time())
    ours_s = float(np.diff(times).min())
    start = time.process_time()
    loop = np.array([mean_absolute_error(y[rows], p[rows]) for rows in indices[:n_timed]])
    theirs_s = (time.process_time() - start) * N_RESAMPLES / n_timed
    error = float(np.abs(ours[:n_timed] - loop).max())
    assert error < 1e-9, f"replicates differ from scikit-learn by {error}"
    note = f"{N_RESAMPLES} resamples of {n_records}; loop timed on {n_timed}; differ by {error:.0e}"
    row = {"name": "bootstrap of a mean absolute error", "ours": ours_s, "theirs": theirs_s}
    return row | {"ratio": theirs_s / ours_s, "unit": "s", "target": 20, "note": note}


def run():
    """Two rows: seconds for N_RESAMPLES; the loop is timed on N_TIMED of them and scaled. Asserts equal replicates."""
    y, p = predictions()
    indices = np.random.default_rng(1).integers(0, N_RECORDS, (N_RESAMPLES, N_RECORDS))
    bootstrap.bootstrap(y, p, indices=indices[:10])
    start = time.perf_counter()
    ours = bootstrap.bootstrap(y, p, indices=indices)
    ours_s = time.perf_counter() - start
    start = time.perf_counter()
    loop = sklearn_loop(y, p, indices[:N_TIMED])
    theirs_s = (time.perf_counter() - start) * N_RESAMPLES / N_TIMED
    error = float(np.abs(ours.replicates[:N_TIMED] - loop).max())
    assert error < 1e-9, f"replicates differ from scikit-learn by {error}"
    note = f"{N_RESAMPLES} resamples of {N_RECORDS} x {N_LABELS}; loop timed on {N_TIMED}; differ by {error:.0e}"
    return [
        {
            "name": "bootstrap of macro AUROC",
            "ours": ours_s,
            "theirs": theirs_s,
            "ratio": theirs_s / ours_s,
            "unit": "s",
            "target": 20,
            "note": note,
        },
        numbers_row(),
    ]


if __name__ == "__main__":
    print(run())
