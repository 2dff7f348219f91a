"""The probing grid: 16 cells on frozen features, ours against scikit-learn's one-vs-rest loop, in one process."""

import time

import numpy as np
from sklearn.linear_model import LogisticRegression

from ecglib.data.profiles import profile
from ecglib.evaluation import classifiers, metrics
from ecglib.models import build
from ecgsim.records import ecgs

N_TRAIN, N = 1500, 2000


def problem():
    """Features of the random encoder on simulated ECGs and the statements that at least ten training records have."""
    import torch

    x, labels, _ = ecgs(N, seed=1)
    encoder = build("net1d", "small", 12, seed=0)
    with torch.inference_mode():
        parts = [encoder(torch.from_numpy(part)) for part in np.array_split(profile("study").apply(x, 100), 10)]
    y = labels.to_numpy(np.int8)
    return torch.cat(parts).numpy().astype(float), y[:, (y[:N_TRAIN].sum(0) >= 10) & (y[:N_TRAIN].mean(0) < 1)]


def theirs(z, y, z_val, y_val):
    """The same grid as a user would write it: one LogisticRegression (L-BFGS) per cell and label."""
    out = {}
    for standardise, c, weight in classifiers.CELLS:
        centre, spread = (z.mean(0), z.std(0)) if standardise else (0.0, 1.0)
        a, b = (z - centre) / spread, (z_val - centre) / spread
        models = [
            LogisticRegression(C=c, class_weight=weight, max_iter=1000).fit(a, y[:, j]) for j in range(y.shape[1])
        ]
        p = np.stack([model.predict_proba(b)[:, 1] for model in models], 1)
        out[standardise, c, weight] = p, classifiers.bce(y_val, p).mean()
    return out


def run() -> list[dict]:
    z, y = problem()
    parts = z[:N_TRAIN], y[:N_TRAIN], z[N_TRAIN:], y[N_TRAIN:]
    classifiers.linear(*parts)
    start = time.perf_counter()
    ours = classifiers.linear(*parts)
    ours_s = time.perf_counter() - start
    start = time.perf_counter()
    reference = theirs(*parts)
    theirs_s = time.perf_counter() - start
    gap = max(
        abs(metrics.macro_auroc(parts[3], ours.models[cell](parts[2])) - metrics.macro_auroc(parts[3], p))
        for cell, (p, _) in reference.items()
    )
    assert gap < 0.002, f"macro AUROC differs by {gap:.4f}"
    note = f"{N_TRAIN} x {z.shape[1]}, {y.shape[1]} labels, 16 cells; macro AUROC differs by at most {gap:.5f}"
    return [
        dict(name="probing grid", ours=ours_s, theirs=theirs_s, ratio=theirs_s / ours_s, unit="s", note=note, target=10)
    ]


if __name__ == "__main__":
    print(run())
