"""Atrial fibrillation from the intervals between beats: one number, boosted trees on features, a small network.

Each model says for every beat how likely it lies in fibrillation; a threshold makes flags of it and `episodes` makes
episodes of the flags. Threshold and folds are chosen on patients of the training corpus alone. The models look at
beats on both sides: they are for recordings, not for alarms at the bedside.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit
from torch import nn
from torch.nn import functional

from ecglib import EcgError, require_known
from ecglib.data.files import write_atomic
from ecglib.evaluation import classifiers
from ecglib.rhythm import episodes, irregularity
from ecglib.rhythm.days import UNKNOWN, Day

KINDS = ("entropy", "features", "network")  # irregularity as one number; trees on ten; intervals as they come
MIXED = (0.2, 0.8)  # windows with a share of fibrillation between these teach nothing
OVERLAPPING = 3  # of the windows, which overlap, every third teaches
THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.05), 2)
DILATIONS = (1, 2, 4, 8)  # of kernels of 5 intervals: each output sees 61 of them


@dataclass(frozen=True)
class Settings:
    """How the models are fitted, and which runs of called beats are episodes (rules).

    positive: marks that count as fibrillation; steps, batch, length (intervals of an excerpt), channels, lr: of the
    network.
    """

    positive: tuple[str, ...] = ("AFIB", "AFL")
    step: int = 10  # beats from one window to the next
    steps: int = 300
    batch: int = 32
    length: int = 240
    channels: int = 16
    lr: float = 0.01
    seed: int = 0
    rules: episodes.Rules = episodes.USUAL


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recording as the models see it: first beats and features of its windows, truth of its beats."""

    day: Day
    first: np.ndarray
    x: np.ndarray  # float (window, feature)
    truth: np.ndarray  # int8 (beat,), UNKNOWN where no rhythm is marked

    @property
    def share(self) -> np.ndarray:
        """Share of fibrillation among the beats of each window, NaN where a beat is unknown: (window,)."""
        until = [np.r_[0, np.cumsum(self.truth == state)] for state in (1, UNKNOWN)]
        n = irregularity.WINDOW + 1
        present, unknown = (count[self.first + n] - count[self.first] for count in until)
        return np.where(unknown > 0, np.nan, present / n)


def prepare(day: Day, settings: Settings) -> Prepared:
    """Cut a recording into windows; one without a whole window has none and cannot be judged."""
    first, rr = irregularity.windows(day.beats, settings.step)
    return Prepared(day, first, irregularity.features(rr), day.flags(settings.positive))


@dataclass(frozen=True, eq=False)
class Model:
    """A fitted model: kind of KINDS, what it was fitted with, and the threshold above which a beat is called."""

    kind: str
    fitted: object
    settings: Settings
    threshold: float = 0.5

    def probabilities(self, record: Prepared) -> np.ndarray:
        """Probability of fibrillation at each beat: float (beat,), NaN for a beat that is in no window."""
        n = len(record.day.beats)
        if self.kind != "network":
            p = self.fitted(_columns(self.kind, record.x))[:, 0]
            return irregularity.over_beats(record.first, p, n)
        held = irregularity.over_beats(record.first, np.zeros(len(record.first)), n)
        with torch.no_grad():
            logits = self.fitted(_intervals(np.diff(record.day.beats))[None])[0].numpy()
        return np.append(expit(logits), np.nan)[:n] + np.r_[held[:-1], np.nan]

    def episodes(self, record: Prepared, p=None) -> np.ndarray:
        """Called episodes in seconds (episode, 2), tidied by the rules; p: probabilities known already."""
        p = self.probabilities(record) if p is None else p
        found = episodes.from_beats(record.day.beats, np.nan_to_num(p) > self.threshold)
        return episodes.tidied(found, self.settings.rules)


class Network(nn.Module):
    """Dilated convolutions over intervals: (record, 2, interval) -> logit of every interval (record, interval)."""

    def __init__(self, channels: int):
        super().__init__()
        sizes = [2] + [channels] * len(DILATIONS)
        self.layers = nn.ModuleList(
            nn.Conv1d(a, b, 5, padding=2 * d, dilation=d) for a, b, d in zip(sizes, sizes[1:], DILATIONS, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in DILATIONS)
        self.out = nn.Conv1d(channels, 1, 1)

    def forward(self, x):
        """x: logarithms of intervals and of their changes (record, 2, interval)."""
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            y = functional.relu(norm(layer(x)))
            x = y if number == 0 else x + y
        return self.out(x)[:, 0]


def _intervals(rr) -> torch.Tensor:
    """What the network sees of intervals in seconds (..., interval): (..., 2, interval)."""
    rate = np.log(np.clip(rr, 0.2, irregularity.LONGEST_RR) / 0.8)
    change = np.diff(rate, axis=-1, prepend=rate[..., :1])
    return torch.from_numpy(np.stack([rate, 2 * change], axis=-2).astype(np.float32))


def _columns(kind: str, x: np.ndarray) -> np.ndarray:
    return x[:, [irregularity.FEATURES.index("cosen")]] if kind == "entropy" else x


def fit(kind: str, records: list[Prepared], settings: Settings) -> Model:
    """Fit a model on recordings; each patient weighs the same.

    Raises EcgError for an unknown kind, and where the recordings hold only one of the two: fibrillation, none.
    """
    require_known("model", [kind], KINDS)
    if kind == "network":
        return Model(kind, _trained(records, settings), settings)
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    x, share = np.concatenate([r.x for r in records]), np.concatenate([r.share for r in records])
    patients = np.repeat([r.day.patient_id for r in records], [len(r.x) for r in records])
    clear = (share <= MIXED[0]) | (share >= MIXED[1])
    kept = np.flatnonzero(clear)[::OVERLAPPING]
    x, y, patients = x[kept], share[kept] > 0.5, patients[kept]
    _require_both(y)
    _, owner, counts = np.unique(patients, return_inverse=True, return_counts=True)
    options = {"max_iter": 60, "max_leaf_nodes": 15, "min_samples_leaf": 50, "random_state": settings.seed}
    model = LogisticRegression() if kind == "entropy" else HistGradientBoostingClassifier(**options)
    model.fit(_columns(kind, x), y, sample_weight=len(y) / len(counts) / counts[owner])
    if kind == "entropy":
        return Model(kind, classifiers.Linear(model.coef_.T.astype(float), model.intercept_.astype(float)), settings)
    return Model(kind, classifiers.forest(classifiers.Boosted([(model, options["max_iter"])])), settings)


def _require_both(y) -> None:
    if not np.any(y == 1) or not np.any(y == 0):
        fix = "give recordings with and without it, and its marks in `positive`"
        raise EcgError("the recordings hold only one of fibrillation and none", field="positive", fix=fix)


def _trained(records: list[Prepared], settings: Settings) -> Network:
    """The network after `steps` of AdamW on excerpts of `length` intervals, drawn patient by patient."""
    _require_both(np.concatenate([r.truth for r in records]))
    by_patient = {}
    for record in records:
        if len(record.day.beats) > settings.length:
            by_patient.setdefault(record.day.patient_id, []).append(record)
    if not by_patient:
        raise EcgError(f"no recording of more than {settings.length} beats", field="length", fix="a smaller length")
    random, groups = np.random.default_rng(settings.seed), list(by_patient.values())
    torch.manual_seed(settings.seed)
    network = Network(settings.channels).train()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.lr, total_steps=settings.steps)
    for _ in range(settings.steps):
        drawn = [_excerpt(groups, settings.length, random) for _ in range(settings.batch)]
        rr, truth = (np.stack(part) for part in zip(*drawn, strict=True))
        logits, y = network(_intervals(rr)), torch.from_numpy(truth.astype(np.float32))
        loss = functional.binary_cross_entropy_with_logits(logits, y.clamp(min=0), (y >= 0).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def _excerpt(groups, length: int, random) -> tuple[np.ndarray, np.ndarray]:
    """Intervals and truth of one excerpt of a random patient, changed as another recorder might: rate, timing, beats
    that are missed."""
    group = groups[random.integers(len(groups))]
    record = group[random.integers(len(group))]
    beats, truth = record.day.beats, record.truth
    start = random.integers(len(beats) - length)
    end = min(start + length + 13, len(beats))
    kept = random.random(end - start) >= (0.02 if random.random() < 0.3 else 0.0)
    at, truth = beats[start:end][kept], truth[start:end][kept]
    if len(at) < length + 1:  # near the end, or unlucky
        at, truth = beats[start : start + length + 1], record.truth[start : start + length + 1]
    at = at + random.uniform(-0.006, 0.006, len(at))
    return np.diff(at)[:length] * random.uniform(0.8, 1.25), truth[:length]


def folds(records: list[Prepared], n: int, seed: int = 0) -> np.ndarray:
    """Fold of each recording (recording,), patients kept together and spread evenly by their share of fibrillation."""
    burden = {}
    for record in records:
        burden.setdefault(record.day.patient_id, []).append((record.truth == 1).mean())
    random = np.random.default_rng(seed)
    names = sorted(burden, key=lambda name: (np.mean(burden[name]), name))
    of_patient = {}
    for start in range(0, len(names), n):
        group = names[start : start + n]
        of_patient |= dict(zip(group, random.permutation(n)[: len(group)].tolist(), strict=True))
    return np.array([of_patient[record.day.patient_id] for record in records])


def chosen_threshold(records: list[Prepared], probabilities: list[np.ndarray], rules=episodes.USUAL) -> float:
    """The one of THRESHOLDS with the smallest mean absolute burden error over recordings, the middle of equals."""
    errors = []
    for threshold in THRESHOLDS:
        gaps = [
            row["burden_called"] - row["burden"]
            for record, p in zip(records, probabilities, strict=True)
            if (row := judged(record, p, threshold, rules)) is not None
        ]
        errors.append(np.mean(np.abs(gaps)))
    best = THRESHOLDS[np.isclose(errors, min(errors))]
    return float(best[len(best) // 2])


def cross_fitted(kind: str, records: list[Prepared], n_folds: int, settings: Settings):
    """Judge each recording by a model of other patients, and fit the model of all.

    Returns (probabilities of each recording, threshold for each recording, Model): the threshold of a recording comes
    from the recordings of the other folds alone, that of the model from all of them.
    """
    fold = folds(records, n_folds, settings.seed)
    probabilities = [None] * len(records)
    for k in np.unique(fold):
        model = fit(kind, [r for r, f in zip(records, fold, strict=True) if f != k], settings)
        for i in np.flatnonzero(fold == k):
            probabilities[i] = model.probabilities(records[i])
    thresholds = np.empty(len(records))
    for k in np.unique(fold):
        others = np.flatnonzero(fold != k)
        some = [records[i] for i in others], [probabilities[i] for i in others]
        thresholds[fold == k] = chosen_threshold(*some, settings.rules)
    threshold = chosen_threshold(records, probabilities, settings.rules)
    return probabilities, thresholds, replace(fit(kind, records, settings), threshold=threshold)


def judged(record: Prepared, p: np.ndarray, threshold: float, rules=episodes.USUAL) -> dict | None:
    """`episodes.scored` of one recording; None where nothing of it can be judged.

    Judged are the beats with a probability and a marked rhythm; truth and calls elsewhere do not count.
    """
    beats, known = record.day.beats, ~np.isnan(p) & (record.truth != UNKNOWN)
    rr = np.append(np.diff(beats), 0.0)
    analysed = float(rr[known & (rr <= irregularity.LONGEST_RR)].sum())
    if analysed <= 0:
        return None
    truth = episodes.from_beats(beats, known & (record.truth == 1))
    called = episodes.tidied(episodes.from_beats(beats, known & (np.nan_to_num(p) > threshold)), rules)
    return episodes.scored(truth, called, analysed, rules)


def save(model: Model, path) -> None:
    """Write a model as JSON: kind, threshold, settings, rules, weights."""
    if model.kind == "network":
        weights = {name: value.tolist() for name, value in model.fitted.state_dict().items()}
    else:
        weights = {name: value.tolist() for name, value in model.fitted._asdict().items()}
    settings = {"positive": list(model.settings.positive), "step": model.settings.step}
    settings["channels"] = model.settings.channels
    content = {"kind": model.kind, "threshold": model.threshold, "settings": settings}
    content |= {"rules": model.settings.rules._asdict(), "weights": weights}
    write_atomic(Path(path), json.dumps(content, indent=1) + "\n")


def load(path) -> Model:
    """Read a model that `save` wrote; EcgError for a file that is none."""
    try:
        content = json.loads(Path(path).read_text())
        sizes, weights = content["settings"], content["weights"]
        options = {"channels": sizes["channels"], "rules": episodes.Rules(**content["rules"])}
        settings = Settings(tuple(sizes["positive"]), sizes["step"], **options)
        if content["kind"] == "network":
            fitted = Network(settings.channels)
            fitted.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
            fitted.eval()
        else:
            kind = {"entropy": classifiers.Linear, "features": classifiers.Forest}[content["kind"]]
            fitted = kind(**{name: np.array(value) for name, value in weights.items()})
        return Model(content["kind"], fitted, settings, float(content["threshold"]))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = f"not a model of intervals: {error}".splitlines()[0]
        raise EcgError(reason, file=path, fix="give the af_model.json that notebook 13 wrote") from error


def default() -> Model:
    """Entropy alone as it was learned from the 25 patients of the AFDB: for whoever has no model of their own."""
    return Model("entropy", classifiers.Linear(np.array([[5.84]]), np.array([8.27])), Settings(step=15), 0.6)
