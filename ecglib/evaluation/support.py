"""Rare against common: how well statements are read by how often they occurred in training."""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.evaluation import bootstrap, predictions


def at_share(probes, task: str, methods, fraction: float = 1.0) -> pd.DataFrame:
    """The predictions of some methods at one share of the labels, those of dummy weights left out.

    probes: folder with a folder TASK-METHOD for each of `methods`; read without the other shares, which are most of it.
    Raises EcgError where a file or the share is missing.
    """
    tables = []
    for method in methods:
        file = Path(probes) / f"{task}-{method}" / "predictions.parquet"
        if not file.is_file():
            raise EcgError("no predictions here", file=file, field="methods", fix="run the probing stage first")
        table = pd.read_parquet(file, filters=[("fraction", "==", fraction)])
        if table.empty:
            raise EcgError(
                f"nothing at {100 * fraction:g} % of the labels", file=file, field="fraction", fix="probe it there"
            )
        tables.append(table)
    return predictions.compared(pd.concat(tables, ignore_index=True).fillna({"note": ""}))


def by_support(group, support: dict, edges, *, fraction: float = 1.0, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Macro AUROC of each method over statements of like frequency, with intervals over patients.

    group: predictions.CohortPredictions; support: label -> positive training records; edges: rising, a class of
    statements has at least its edge and less than the next; fraction: of the labels that methods learned from.
    n, seed: of the resamples, the same for all. Returns a row per method and class: encoder, mode, positives ("10 to
    19"), auroc, low, high, n_labels, and the score of the most frequent class minus this one: gap, gap_low, gap_high.
    Raises EcgError where no statement is in the most frequent class.
    """
    counts, edges = np.array([support[label] for label in group.labels]), [*edges, np.inf]
    classes = {}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        name = f"{low:g} or more" if np.isinf(high) else f"{low:g} to {high - 1:g}"
        classes[name] = (counts >= low) & (counts < high) & ((group.y == 1).any(0) & (group.y == 0).any(0))
    most = list(classes)[-1]
    if not classes[most].any():
        raise EcgError(f"no statement has {edges[-2]:g} positives", field="edges", fix="give lower numbers")
    rows = []
    for encoder, mode, share in group.p:
        if not np.isclose(share, fraction):
            continue
        drawn = predictions.replicates(group, (encoder, mode, share), "auroc", n, seed)[0]
        scores = {c: bootstrap.average(_of(drawn, use)) for c, use in classes.items() if use.any()}
        for name, score in scores.items():
            gap = bootstrap.interval(scores[most].point - score.point, scores[most].replicates - score.replicates)
            rows.append((encoder, mode, name, *score[:3], score.n_labels, *gap[:3]))
    columns = ["encoder", "mode", "positives", "auroc", "low", "high", "n_labels", "gap", "gap_low", "gap_high"]
    return pd.DataFrame(rows, columns=columns)


def _of(drawn, use):
    return bootstrap.Replicates(drawn.point[use], drawn.values[:, use])
