"""Does a network of normal ECGs see that one is abnormal, and where? Scores and maps against the simulator's truth.

A record is normal where NORM is stated and no finding beside it. Where it is abnormal in time, the waves and TRUTH of
`pointing` say: the segments, in whatever lead, of every statement it has. Beside the network stand the same network
untrained, the energy of the signal, and chance. The threshold of a map is chosen on validation records.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError, models, objectives
from ecglib.data.labels import PRESENT
from ecglib.evaluation import bootstrap, metrics, pointing
from ecglib.training.batches import RHYTHM, Batch, CohortData

UNTRAINED, ENERGY, RANDOM = "untrained", "signal energy", "random"
RECORD, SAMPLES, DICE = "record AUROC", "sample AUROC", "Dice"
THRESHOLDS = 200  # candidates, quantiles of the maps of validation records
AT_ONCE = 64  # records
DRAWN = ("AFIB", "IMI", "PVC")  # a rhythm, a shape, a single beat


class Records(NamedTuple):
    """Records of one split, and where they are abnormal."""

    rows: np.ndarray  # of the cohort, int (record,)
    patients: np.ndarray  # (record,)
    batch: Batch
    abnormal: np.ndarray  # 1, 0, or -1 where a record is neither, int (record,)
    region: np.ndarray  # samples that are abnormal, bool (record, time)

    @property
    def located(self) -> np.ndarray:
        """Abnormal records whose region is neither empty nor all there is: bool (record,)."""
        return (self.abnormal == 1) & self.region.any(1) & ~self.region.all(1)


class Found(NamedTuple):
    """What one method says of records; higher = less normal."""

    score: np.ndarray  # (record,)
    map: np.ndarray  # (located record, time)


def abnormal(cohort, rows) -> np.ndarray:
    """1 for rows with a finding and without NORM, 0 for NORM and no finding, else -1: int (row,)."""
    names = list(cohort.labels)
    if "NORM" not in names:
        raise EcgError("no normal ECG is named", file=cohort.name, field="NORM", fix="take a cohort that states NORM")
    present = cohort.states(names, rows) == PRESENT
    norm = present[:, names.index("NORM")]
    finding = present[:, [k for k, name in enumerate(names) if name not in ("NORM", *RHYTHM)]].any(1)
    return np.where(norm & ~finding, 0, np.where(finding & ~norm, 1, -1))


def region(present, labels, segments_of, leads) -> np.ndarray:
    """Samples in the segments of any statement that a record has, in any of its leads: bool (record, time).

    present: bool (record, label); labels: their names, of `pointing.BY_NAME`; segments_of: of `pointing.segments`.
    """
    out = np.zeros((len(segments_of), segments_of.shape[-1]), bool)
    for k, label in enumerate(labels):
        having = np.flatnonzero(present[:, k])
        if len(having):
            out[having] |= pointing.inside(label, segments_of[having], leads).any(1)
    return out


def records(cohort, rows, waves: dict) -> Records:
    """Rows of a cohort with their truth; waves: source and folder, as `pointing.waves` takes them."""
    data = CohortData(cohort, rows)
    batch = data.batch(np.arange(len(data)))
    facts = cohort.records.iloc[np.asarray(rows)]
    rates = facts.drop_duplicates("record_id").set_index("record_id").fs_recorded.to_dict()
    known = pointing.waves(**waves, rates=rates)
    starts = facts.start_s.to_numpy()
    segments = pointing.segments(known, facts.record_id, cohort.leads, batch.x.shape[-1], data.fs, starts)
    labels = [name for name in cohort.labels if name in pointing.BY_NAME]
    present = cohort.states(labels, rows) == PRESENT
    where = region(present, labels, segments, cohort.leads)
    return Records(np.asarray(rows), facts.patient_id.to_numpy(), batch, abnormal(cohort, rows), where)


def networks(folder) -> dict:
    """The objective in a folder, which has `score` and `localise`, under its name; and UNTRAINED, the same one with
    random weights."""
    trained = objectives.load(folder)
    settings = dict(trained.config)
    name = settings.pop("objective")
    if not hasattr(trained, "localise"):
        raise EcgError(f"{name} says not where a record is abnormal", file=str(folder), fix="take one of restore")
    new = objectives.build(name, models.rebuilt(models.card(folder)[0]), **settings).eval()
    return {name: trained, UNTRAINED: new}


def by_network(network, some: Records) -> Found:
    """Scores and maps of an objective that has `score` and `localise`."""
    everywhere = np.arange(len(some.rows))
    values = [_asked(network.score, some.batch, everywhere)]
    values.append(_asked(network.localise, some.batch, np.flatnonzero(some.located)))
    return Found(*values)


def _asked(function, batch: Batch, records) -> np.ndarray:
    """What a function of batches says of these records, a few at a time."""
    parts = []
    for index in torch.from_numpy(records).split(AT_ONCE):
        few = batch._replace(x=batch.x[index], lead_mask=batch.lead_mask[index], peaks=batch.peaks[index])
        parts.append(function(few))
    return torch.cat(parts).double().numpy()


def by_energy(some: Records) -> Found:
    """The square of the signal, mean over the leads."""
    energy = some.batch.x.double().square().mean(1).numpy()
    return Found(energy.mean(1), energy[some.located])


def by_chance(some: Records, seed: int = 0) -> Found:
    """Uniform random numbers."""
    rng = np.random.default_rng(seed)
    return Found(rng.random(len(some.rows)), rng.random(some.region[some.located].shape))


def found(nets: dict, some: Records, seed: int = 0) -> dict:
    """{method: Found} of networks, ENERGY and RANDOM. nets: of `networks`."""
    made = {name: by_network(network, some) for name, network in nets.items()}
    return made | {ENERGY: by_energy(some), RANDOM: by_chance(some, seed)}


def dice(marked, truth) -> np.ndarray:
    """Twice the overlap over the sum of both sizes, of each record; 1 where both are empty: (record,).

    marked, truth: bool (record, time). Source: Dice 1945, doi:10.2307/1932409.
    """
    marked, truth = np.asarray(marked, bool), np.asarray(truth, bool)
    sizes = marked.sum(1) + truth.sum(1)
    return np.where(sizes > 0, 2 * (marked & truth).sum(1) / np.maximum(sizes, 1), 1.0)


def threshold(maps, truth) -> float:
    """The value from which on a sample is marked, so that the mean Dice is highest: of validation records alone.

    maps: (record, time); truth: bool of the same shape. Of several that are as good, the lowest.
    """
    if not len(maps):
        raise EcgError("no validation record with a known region", field="region", fix="give more records")
    candidates = np.unique(np.quantile(maps, np.linspace(0, 1, THRESHOLDS + 1)))
    return float(candidates[np.argmax([dice(maps >= value, truth).mean() for value in candidates])])


def compared(val: Records, test: Records, on_val: dict, on_test: dict, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How well each method tells abnormal from normal test records, and marks the samples that are abnormal.

    on_val, on_test: of `found`, for val and test. Returns a row per method and measure: method, measure, point, low,
    high, the paired gain over the UNTRAINED network with gain_low and gain_high, threshold (of DICE), n_records.
    RECORD: AUROC over records; SAMPLES, DICE: means over located records.
    """
    known, region, patients = test.abnormal >= 0, test.region[test.located], test.patients[test.located]
    scores, limits = {}, {}
    for method, made in on_test.items():
        limits[method] = threshold(on_val[method].map, val.region[val.located])
        y, p = test.abnormal[known, None], made.score[known, None]
        drawn = bootstrap.replicates(y, p, test.patients[known], n, seed)
        scores[method, RECORD] = bootstrap.average(drawn)
        each = {SAMPLES: metrics.auroc(region.T, made.map.T)}
        each[DICE] = dice(made.map >= limits[method], region)
        for measure, values in each.items():
            scores[method, measure] = _mean(values, patients, n, seed)
    counts = {RECORD: int(known.sum()), SAMPLES: len(region), DICE: len(region)}
    rows = []
    for (method, measure), one in scores.items():
        other = scores[UNTRAINED, measure]
        gain = bootstrap.interval(one.point - other.point, one.replicates - other.replicates)
        limit = limits[method] if measure == DICE else np.nan
        rows.append((method, measure, *one[:3], *gain[:3], limit, counts[measure]))
    columns = ["method", "measure", "point", "low", "high", "gain", "gain_low", "gain_high", "threshold", "n_records"]
    return pd.DataFrame(rows, columns=columns)


def _mean(values, patients, n: int, seed: int) -> bootstrap.Interval:
    """Mean over records with its interval over patients."""
    columns = np.stack([values, np.ones(len(values))], 1)
    drawn = bootstrap.of_sums(columns, patients, lambda sums: {"mean": sums[:, 0] / sums[:, 1]}, n, seed)
    return drawn["mean"]


def examples(test: Records, cohort, made: Found, limit: float, most: int = 3) -> pd.DataFrame:
    """One record of each statement, that of the median Dice: statement, record (its place among the located), dice.

    Of at most `most` statements that located records have, those of DRAWN first.
    """
    scored, rows = dice(made.map >= limit, test.region[test.located]), []
    names = sorted((name for name in cohort.labels if name in pointing.BY_NAME), key=lambda name: name not in DRAWN)
    present = cohort.states(names, test.rows[test.located]) == PRESENT
    for k, name in enumerate(names):
        having = np.flatnonzero(present[:, k])
        if len(having) and len(rows) < most:
            middle = having[np.argsort(scored[having], kind="stable")[len(having) // 2]]
            rows.append((name, int(middle), float(scored[middle])))
    return pd.DataFrame(rows, columns=["statement", "record", "dice"])
