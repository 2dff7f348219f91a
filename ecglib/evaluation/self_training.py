"""Self-training: a teacher fitted on few labels says what the other records are, and a network learns from both.

The teacher sees other features than the network (hand-made measurements), so that it can tell it something new
(co-training, doi:10.1145/279943.279962; noisy student, arXiv 1911.04252).
"""

import numpy as np
import torch

from ecglib.evaluation import classifiers

CS = (1e-5, 1e-4, 1e-3)  # inverse penalties of a probe that learns from its own calls
RARE = 0.05  # least share of the unlabelled records that are called positive, and negative
FOLDS = 5  # of patients, for the teacher of records that are labelled themselves


def targets(x, y, x_val, y_val, patients, labelled, seed: int = 0) -> np.ndarray:
    """Target in [0, 1], NaN: none, of every record and label: float32 (record, label).

    x (record, feature), y (record, label; 1, 0, or -1 where unknown); x_val, y_val: where the number of trees is
    chosen; patients (record,); labelled: bool (record,), whose labels are at hand. A record without labels gets what
    the teacher says of it. A labelled one gets the mean of its label and of what a teacher says that has not
    seen its patient where every record is labelled, else the label.
    """
    target = np.where(y >= 0, y, np.nan).astype(np.float32)
    if not labelled.all():
        teacher = classifiers.boosting(x[labelled], y[labelled], x_val, y_val, seed)
        target[~labelled] = teacher(x[~labelled])
        return target
    _, number = np.unique(patients, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(number.max() + 1)[number] % FOLDS
    for k in range(FOLDS):
        held = fold == k
        if held.any() and not held.all():
            teacher = classifiers.boosting(x[~held], y[~held], x_val, y_val, seed)
            target[held] = (target[held] + teacher(x[held])) / 2
    return target


def calls(p, y) -> np.ndarray:
    """Calls int (record, label), 1 or 0, of unlabelled records: as many positive as among the labelled ones, by rank.

    p: what a probe says of them (record, label); y: truth of the labelled records (record, label; -1 unknown), whose
    share of positives is taken as at least RARE and at most 1 - RARE.
    """
    known = (y >= 0).sum(0)
    share = np.where(known > 0, (y == 1).sum(0) / np.maximum(known, 1), 0.5).clip(RARE, 1 - RARE)
    thresholds = np.array([np.quantile(said, 1 - part) for said, part in zip(p.T, share, strict=True)])
    return (p > thresholds).astype(int)


def own_calls(model, z, y, z_val, y_val, z_pool):
    """The probe that learns from the labels and from what `model` calls the unlabelled records, or `model` itself.

    z, z_val, z_pool: features (record, dim) of labelled, validation and unlabelled records, the last of which
    standardise; y, y_val: truth. Labels weigh as much as calls, all in all: labelled records are repeated. Of CS and
    `model` the one with the least validation log-loss stays. Source: pseudo-labels, Lee 2013 (ICML workshop).
    """
    if not len(z_pool):
        return model
    centre, spread = z_pool.mean(0), z_pool.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    again = np.resize(np.arange(len(z)), max(len(z), len(z_pool)))
    both = (np.concatenate([z[again], z_pool]) - centre) / spread
    target = np.concatenate([y[again], calls(model(z_pool), y)])
    candidates = [model]
    for slope, bias in classifiers.solve(both, target, CS):
        slope = slope / spread[:, None]
        candidates.append(classifiers.Linear(slope, bias - centre @ slope))
    return min(candidates, key=lambda each: np.nanmean(classifiers.bce(y_val, each(z_val))))


class SoftLabels:
    """Training data whose labels are probabilities; labelled records are drawn as often as the others.

    data: CohortData; target: float32 (record, label), NaN: none; labelled: bool (record,); seed: of the repetitions.
    """

    def __init__(self, data, target: np.ndarray, labelled: np.ndarray, seed: int = 0):
        self._data, self._target = data, torch.from_numpy(np.asarray(target, np.float32))
        self.labels, self.fs, self.profile = data.labels, data.fs, data.profile
        few, many = np.flatnonzero(labelled), np.flatnonzero(~labelled)
        again = np.random.default_rng(seed).permutation(np.resize(few, max(len(few), len(many))))
        self._position = np.concatenate([again, many])
        self.record_ids = data.record_ids[self._position]

    def __len__(self) -> int:
        return len(self._position)

    def batch(self, index: np.ndarray):
        """Batch of positions `index` (0 .. len - 1)."""
        index = self._position[np.asarray(index)]
        return self._data.batch(index)._replace(labels=self._target[torch.from_numpy(index)])
