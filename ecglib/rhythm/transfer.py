"""Fibrillation models that learn from one corpus of days and are judged on all: at home out of fold, elsewhere whole.

A row per recording goes out, so that every table and interval is made of rows that anyone can check.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.evaluation import bootstrap
from ecglib.rhythm import episodes
from ecglib.rhythm.days import UNKNOWN
from ecglib.rhythm.rr_model import Model, Prepared, Settings, cross_fitted, judged

THINNED = 120  # beats from one to the next of those that make an AUROC: neighbours say the same


class Judgement:
    """What one model says of every recording of every corpus.

    model: Model; probabilities, thresholds: {corpus: a list, one of each recording}.
    """

    def __init__(self, train: str, model: Model, probabilities: dict, thresholds: dict):
        self.train, self.model, self.probabilities, self.thresholds = train, model, probabilities, thresholds

    def rows(self, corpora: dict[str, list[Prepared]]) -> pd.DataFrame:
        """`episodes.scored` of each recording: train, model, test, record_id, patient_id and its columns."""
        rows = []
        for test, records in corpora.items():
            said = zip(records, self.probabilities[test], self.thresholds[test], strict=True)
            for record, p, threshold in said:
                row = judged(record, p, threshold, self.model.settings.rules)
                if row is not None:
                    who = {"record_id": record.day.record_id, "patient_id": record.day.patient_id}
                    rows.append({"train": self.train, "model": self.model.kind, "test": test} | who | row)
        return pd.DataFrame(rows)

    def episodes(self, records: list[Prepared], test: str) -> dict:
        """Of each recording of a corpus, by its name: (Day, (true, called) episodes in seconds)."""
        said = zip(records, self.probabilities[test], self.thresholds[test], strict=True)
        out = {}
        for record, p, threshold in said:
            truth = episodes.from_beats(record.day.beats, record.truth)
            called = replace(self.model, threshold=threshold).episodes(record, p)
            out[record.day.record_id] = record.day, (truth, called)
        return out

    def auroc(self, records: list[Prepared], test: str, n: int, seed: int) -> bootstrap.Interval:
        """AUROC over every THINNED beat, with its interval over patients; NaN where only one of the two is there."""
        truth, p, patients = [], [], []
        for record, probability in zip(records, self.probabilities[test], strict=True):
            known = np.flatnonzero(~np.isnan(probability) & (record.truth != UNKNOWN))[::THINNED]
            truth.append(record.truth[known])
            p.append(probability[known])
            patients += [record.day.patient_id] * len(known)
        truth, p = np.concatenate(truth).astype(float)[:, None], np.concatenate(p)[:, None]
        if len(np.unique(truth)) < 2:
            return bootstrap.Interval(np.nan, np.nan, np.nan, np.full(n, np.nan))
        return bootstrap.per_label(bootstrap.replicates(truth, p, patients, n, seed))[0]


def judge(
    corpora: dict[str, list[Prepared]],
    trained: list[str],
    kinds: list[str],
    n_folds: int,
    settings: Settings,
    progress: Callable = iter,
) -> list[Judgement]:
    """Train each kind of model on each corpus of `trained` and judge all corpora with it.

    progress: wraps the list of pairs (corpus, kind) that are gone through, such as a bar.
    Raises EcgError for a corpus to learn from that is not there or has fewer patients than folds.
    """
    out = []
    for train in trained:
        patients = {record.day.patient_id for record in corpora.get(train, [])}
        if len(patients) < max(n_folds, 2):
            reason = f"{len(patients)} patients in the corpus {train!r}, {n_folds} folds"
            raise EcgError(reason, field="trained", fix=f"fewer folds, or learn from one of {', '.join(corpora)}")
    for train, kind in progress([(train, kind) for train in trained for kind in kinds]):
        own, thresholds, model = cross_fitted(kind, corpora[train], n_folds, settings)
        said = {name: [model.probabilities(record) for record in corpora[name]] for name in corpora if name != train}
        limits = {name: np.full(len(corpora[name]), model.threshold) for name in corpora}
        out.append(Judgement(train, model, said | {train: own}, limits | {train: thresholds}))
    return out


def table(judgements: list[Judgement], corpora: dict[str, list[Prepared]], n: int = 1000, seed: int = 0):
    """Scores with intervals of each model on each corpus: a row per train, model, test and score.

    Columns: train, model, test, score, point, low, high, recordings, patients. Scores are those of `episodes.summary`,
    the AUROC in percent, medians of the onset and offset errors in seconds and of their absolute values, and false
    hours of fibrillation in a day of recordings without any.
    """
    rows = []
    for judgement in judgements:
        scored = judgement.rows(corpora)
        for test, mine in scored.groupby("test", sort=False):
            spread = episodes.summary(mine, mine["patient_id"], n, seed)
            area = judgement.auroc(corpora[test], test, n, seed)
            spread = {"AUROC": bootstrap.Interval(*(100 * np.array(area[:3])), area.replicates)} | spread
            spread |= _edges(mine, n, seed) | _false(mine, n, seed)
            name = {"train": judgement.train, "model": judgement.model.kind, "test": test}
            size = {"recordings": len(mine), "patients": mine["patient_id"].nunique()}
            rows += [
                name | {"score": s, "point": v.point, "low": v.low, "high": v.high} | size for s, v in spread.items()
            ]
    return pd.DataFrame(rows)


def _edges(rows: pd.DataFrame, n: int, seed: int) -> dict[str, bootstrap.Interval]:
    """Medians of the onset and offset errors and of their absolute values, over the found episodes, in seconds."""
    out = {}
    for edge in ("onset", "offset"):
        counts = [len(errors) for errors in rows[edge]]
        errors, owner = np.concatenate(list(rows[edge])), np.repeat(np.arange(len(rows)), counts)
        weights = [w for _, w in bootstrap.resamples(len(rows), rows["patient_id"], n, seed)]
        for name, values in ((f"{edge} error", errors), (f"absolute {edge} error", np.abs(errors))):
            drawn = [_weighted_median(values, w[owner, k]) for w in weights for k in range(w.shape[1])]
            point = float(np.median(values)) if len(values) else np.nan
            out[name] = bootstrap.interval(point, drawn)
    return out


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Median of values that are each there as often as their weight says; NaN without any."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    if not len(reached) or reached[-1] == 0:
        return np.nan
    middle = [np.searchsorted(reached, reached[-1] / 2, side) for side in ("left", "right")]
    return float(values[order][np.minimum(middle, len(values) - 1)].mean())


def _false(rows: pd.DataFrame, n: int, seed: int) -> dict[str, bootstrap.Interval]:
    """Called hours in 24 h of the recordings that hold no fibrillation."""
    free = rows[rows["truth_s"] == 0]
    if not len(free):
        return {}
    seconds = free[["called_s", "analysed_s"]].to_numpy()
    return bootstrap.of_sums(
        seconds, free["patient_id"], lambda sums: {"false hours a day": 24 * (sums[:, 0] / sums[:, 1])}, n, seed
    )


def by_rhythm(judgement: Judgement, corpora: dict[str, list[Prepared]]) -> pd.DataFrame:
    """What is called in each marked rhythm: test, rhythm, hours, percent called, recordings, longest first."""
    rows = []
    for test, records in corpora.items():
        for day, (_, called) in judgement.episodes(records, test).values():
            for label in {mark.label for mark in day.rhythms}:
                inside = episodes.from_beats(day.beats, day.flags((label,)))
                total, shared = float(np.diff(inside).sum()), float(episodes.overlap(inside, called).sum())
                rows.append({"test": test, "rhythm": label, "hours": total / 3600, "called": shared / 3600})
    found = pd.DataFrame(rows).groupby(["test", "rhythm"], sort=False)
    out = found.agg(hours=("hours", "sum"), called=("called", "sum"), recordings=("hours", "size")).reset_index()
    out["percent called"] = 100 * out["called"] / out["hours"].where(out["hours"] > 0)
    return out.drop(columns="called").sort_values(["test", "hours"], ascending=[True, False], ignore_index=True)
