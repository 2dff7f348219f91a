"""Classifiers of beats: the residual network of the recipe on shapes, and trees on features relative to the person."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError, models
from ecglib.data import splits
from ecglib.rhythm.annotated import CLASSES
from ecglib.training import train

ARCHITECTURE = dict(widths=(16, 32, 48, 64), blocks=1, kernel=5, stem_kernel=7)  # 71,797 values with one lead, no RR

HIDDEN = 32  # units that see shape and rhythm together; without RR the head is linear


@dataclass(frozen=True)
class NetworkSettings:
    """How the network is trained. weights: of the classes in the loss, in the order of CLASSES (none: all equal)."""

    epochs: int = 8
    batch_size: int = 256
    lr: float = 3e-3
    weight_decay: float = 1e-4
    seed: int = 0
    weights: tuple[float, ...] = ()

    def steps(self, n_beats: int) -> int:
        """Optimiser steps on so many beats."""
        return max(1, self.epochs * (n_beats // min(self.batch_size, n_beats)))


class BeatNetwork(nn.Module):
    """A residual network on the shape of a beat, with RR ratios beside its features, trained by cross-entropy."""

    def __init__(self, n_leads: int, n_rr: int, settings: NetworkSettings):
        super().__init__()
        self.encoder = models.build("resnet1d", "small", n_leads, settings.seed, **ARCHITECTURE)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            hidden = nn.Sequential(nn.Linear(self.encoder.dim + n_rr, HIDDEN), nn.ReLU()) if n_rr else nn.Identity()
            self.head = nn.Sequential(hidden, nn.Linear(HIDDEN if n_rr else self.encoder.dim, len(CLASSES)))
        self.config = {"objective": "beats", "n_leads": n_leads, "n_rr": n_rr}
        weights = torch.tensor(settings.weights or [1.0] * len(CLASSES), dtype=torch.float32)
        self.register_buffer("weights", weights)
        self.register_buffer("rr_mean", torch.zeros(n_rr))
        self.register_buffer("rr_spread", torch.ones(n_rr))

    def logits(self, x: torch.Tensor, rr: torch.Tensor) -> torch.Tensor:
        """x (beat, lead, time), rr (beat, n_rr) -> (beat, class)."""
        return self.head(torch.cat([self.encoder(x), (rr - self.rr_mean) / self.rr_spread], dim=1))

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        x, rr, y = batch
        loss = F.cross_entropy(self.logits(x, rr), y, self.weights)
        return loss, {}


class _Shapes:
    """Beats as `training.train` takes its data."""

    def __init__(self, x: np.ndarray, rr: np.ndarray, y: np.ndarray):
        self.x, self.rr, self.y = torch.from_numpy(x), torch.from_numpy(rr), torch.from_numpy(y)
        self.record_ids = np.arange(len(x)).astype(str)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = torch.as_tensor(index)
        return self.x[rows], self.rr[rows], self.y[rows]


def numbers(classes: np.ndarray) -> np.ndarray:
    """Class names (beat,) as their places in CLASSES: int64. Raises EcgError for an unknown name."""
    places = {name: place for place, name in enumerate(CLASSES)}
    if unknown := sorted(set(map(str, classes)) - places.keys()):
        raise EcgError(f"no class {unknown[0]!r}", field="aami", fix=f"use {', '.join(CLASSES)}")
    return np.array([places[name] for name in classes], np.int64)


def train_network(x, rr, classes, settings: NetworkSettings | None = None, progress=None) -> BeatNetwork:
    """Train a network on beats.

    x: shapes (beat, lead, time) in mV; rr: (beat, n), without columns for a network that sees shapes only; classes:
    names (beat,); progress: as of `training.train.fit`.
    """
    settings = settings or NetworkSettings()
    data = _Shapes(x, rr, numbers(classes))
    network = BeatNetwork(x.shape[1], rr.shape[1], settings)
    network.rr_mean[:], network.rr_spread[:] = data.rr.mean(dim=0), data.rr.std(dim=0).clamp(min=1e-3)
    steps = settings.steps(len(data))
    options = dict(warmup=steps // 10, seed=settings.seed)
    chosen = train.Settings(steps, settings.batch_size, settings.lr, settings.weight_decay, **options)
    train.fit(network, data, settings=chosen, progress=progress)
    return network


def network_probabilities(network: BeatNetwork, x, rr, batch_size: int = 2048) -> np.ndarray:
    """Probabilities (beat, class) of a trained network; x, rr as of `train_network`."""
    network.eval()
    data, out = _Shapes(x, rr, np.zeros(len(x), np.int64)), []
    with torch.inference_mode():
        for start in range(0, len(data), batch_size):
            x_part, rr_part, _ = data.batch(np.arange(start, min(start + batch_size, len(data))))
            out.append(network.logits(x_part, rr_part).softmax(dim=1).numpy())
    return np.concatenate(out)


@dataclass(frozen=True)
class TreeSettings:
    """How the forest is grown. weights: of the classes in the order of CLASSES; thinned: share of the N beats kept."""

    trees: int = 100
    leaf: int = 10  # beats in the smallest leaf
    share: float = 0.3  # of the features that each cut chooses from
    weights: tuple[float, ...] = (1.0, 4.0, 1.0, 1.0, 1.0)
    thinned: float = 0.2
    seed: int = 0


def train_trees(table: pd.DataFrame, classes: np.ndarray, settings: TreeSettings | None = None):
    """Extremely randomised trees (Geurts et al. 2006) on features (beat, feature) and class names (beat,).

    Of the N beats a share is kept and weighs as much as all: there are ten times as many as of all others.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    settings = settings or TreeSettings()
    y = numbers(classes)
    keep = (y != 0) | (np.random.default_rng(settings.seed).random(len(y)) < settings.thinned)
    weights = np.asarray(settings.weights)[y] / np.where(y == 0, settings.thinned, 1.0)
    options = dict(min_samples_leaf=settings.leaf, max_features=settings.share, random_state=settings.seed)
    forest = ExtraTreesClassifier(settings.trees, **options)
    return forest.fit(table[keep].to_numpy(np.float32), y[keep], sample_weight=weights[keep])


def tree_probabilities(trees, table: pd.DataFrame) -> np.ndarray:
    """Probabilities (beat, class) in the order of CLASSES; 0 for a class that training did not meet."""
    out = np.zeros((len(table), len(CLASSES)))
    out[:, trees.classes_] = trees.predict_proba(table.to_numpy(np.float32))
    return out


def out_of_fold(table: pd.DataFrame, classes, patients, settings: TreeSettings, n_folds: int = 5) -> np.ndarray:
    """Probabilities (beat, class) of each beat by trees that have seen no beat of its patient; as of `train_trees`.

    Patients are dealt out evenly by their rarest class (`splits.folds`).
    """
    out, there = np.zeros((len(table), len(CLASSES))), pd.DataFrame({name: classes == name for name in CLASSES})
    for mine in splits.folds(there.astype(int), patients, n_folds, settings.seed):
        others = np.setdiff1d(np.arange(len(table)), mine)
        trees = train_trees(table.iloc[others], classes[others], settings)
        out[mine] = tree_probabilities(trees, table.iloc[mine])
    return out


def called(p: np.ndarray) -> np.ndarray:
    """Name of the most probable class of each beat (beat,); p: (beat, class)."""
    return np.asarray(CLASSES)[p.argmax(axis=1)]


def random_halves(classes: np.ndarray, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """Which beats a random split tests: the given share of each class, whatever the patient. bool (beat,)."""
    random, test = np.random.default_rng(seed), np.zeros(len(classes), bool)
    for name in CLASSES:
        rows = np.flatnonzero(classes == name)
        test[random.permutation(rows)[: round(share * len(rows))]] = True
    return test
