"""Learners that aim at what does not change between environments: IRM, V-REx, CORAL, MMD, group DRO.

On frozen features: a linear representation of them with a linear head, trained on the records of all environments
together. The weight of a penalty, and before it the weight decay of plain training, which all share, are chosen on
validation records of the same environments, never on the target. Plain training is the same network without a penalty.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_expit
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ecglib import EcgError, require_known

PLAIN, IRM, VREX, CORAL, MMD, DRO = "plain", "irm", "vrex", "coral", "mmd", "dro"
METHODS = (PLAIN, IRM, VREX, CORAL, MMD, DRO)
PENALISED = (IRM, VREX, CORAL, MMD)  # those with a weight to choose
KERNELS = (0.5, 1.0, 2.0)  # widths of the MMD, in median distances
DRO_STEP = 0.01  # of the weights of the groups
MMD_RECORDS = 128  # of each environment, since the cost grows with their square


@dataclass(frozen=True)
class Settings:
    """How the networks are trained."""

    dim: int = 16  # of the representation
    steps: int = 150  # full batches
    warmup: int = 30  # steps without a penalty
    lr: float = 0.01
    decays: tuple = (0.1, 1.0, 5.0, 20.0)  # weight decays that plain training tries
    weights: tuple = (1.0, 10.0, 100.0)  # of the penalties that are tried


class Samples(NamedTuple):
    """Records of several environments."""

    x: torch.Tensor  # float32 (record, feature)
    y: torch.Tensor  # float32 (record,), 1 or 0
    environment: torch.Tensor  # int64 (record,)
    group: torch.Tensor  # int64 (record,), of group DRO: the class and the covariate
    z: torch.Tensor  # float32 (record,), 1 or 0


def samples(x, y, environment, z) -> Samples:
    """Tensors of features x (record, feature), and of truth, environment, covariate (record,); groups: pairs y, z."""
    y, z = np.asarray(y), np.asarray(z)
    numbers = [torch.as_tensor(np.asarray(a, np.int64)) for a in (environment, 2 * y + z)]
    z = torch.as_tensor(z.astype(np.float32))
    return Samples(torch.as_tensor(np.asarray(x, np.float32)), torch.as_tensor(y.astype(np.float32)), *numbers, z)


def irm_penalty(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared gradient of the log-loss with respect to a scale of the logits, at 1. Source: arXiv 1907.02893, IRMv1."""
    return ((logits.sigmoid() - y) * logits).mean().square()


def vrex_penalty(risks: torch.Tensor) -> torch.Tensor:
    """Variance of the risks (environment,). Source: arXiv 2003.00688, equation 8."""
    return (risks - risks.mean()).square().mean()


def coral_penalty(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared distance of the covariances of two samples (record, dim), over 4 dim^2. Source: arXiv 1607.01719."""
    return (_covariance(a) - _covariance(b)).square().sum() / (4 * a.shape[1] ** 2)


def _covariance(x):
    x = x - x.mean(0)
    return x.T @ x / (len(x) - 1)


def mmd_penalty(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy of two samples (record, dim), biased estimate, summed over Gaussian kernels.

    Their widths are KERNELS times the median distance of the two samples together. Source: Gretton et al. 2012, eq. 5.
    """
    both, n = torch.cat([a, b]), len(a)
    square = torch.cdist(both, both).square()
    median = square.detach()[square.detach() > 0].median() if bool((square > 0).any()) else torch.ones(())
    kernel = sum(torch.exp(-square / (2 * width**2 * median)) for width in KERNELS)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


class Network(nn.Module):
    """A linear representation, a linear head and a temperature; with_z: beside it the effect of the covariate.

    x (record, feature), z (record,) -> (representation (record, dim), logits (record,)).
    """

    def __init__(self, n_features: int, dim: int, with_z: bool = False):
        super().__init__()
        self.representation, self.head = nn.Linear(n_features, dim), nn.Linear(dim, 1, bias=False)
        self.intercept, self.effect = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.effect.requires_grad_(with_z)
        self.register_buffer("scale", torch.ones(()))  # one over the temperature

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.representation(x)
        return h, self.scale * (self.head(h)[:, 0] + self.intercept + self.effect * (2 * z - 1))


def objective(method: str, network: Network, data: Samples, weight: float, group_weights: torch.Tensor) -> torch.Tensor:
    """The loss of one step: the mean log-loss plus `weight` times the penalty; group DRO weighs the groups instead.

    group_weights: (group,), updated in place by group DRO (arXiv 1911.08731, algorithm 1).
    """
    h, logits = network(data.x, data.z)
    loss = binary_cross_entropy_with_logits(logits, data.y, reduction="none")
    if method == DRO:
        risks = torch.stack([loss[data.group == k].mean() for k in data.group.unique()])
        with torch.no_grad():
            group_weights *= torch.exp(DRO_STEP * risks)
            group_weights /= group_weights.sum()
        return (group_weights * risks).sum()
    parts = [data.environment == k for k in data.environment.unique()]
    risk = loss.mean()
    if method == PLAIN or not weight:
        return risk
    if method == VREX:
        return risk + weight * vrex_penalty(torch.stack([loss[part].mean() for part in parts]))
    if method == IRM:
        return risk + weight * torch.stack([irm_penalty(logits[part], data.y[part]) for part in parts]).mean()
    if method == MMD:
        parts = [part.nonzero()[torch.randperm(int(part.sum()))[:MMD_RECORDS], 0] for part in parts]
    distance = {CORAL: coral_penalty, MMD: mmd_penalty}[method]
    pairs = [(a, b) for k, a in enumerate(parts) for b in parts[:k]]
    return risk + weight * torch.stack([distance(h[a], h[b]) for a, b in pairs]).mean()


def fit(method, data: Samples, settings=None, *, weight=1.0, decay=0.01, with_z=False, seed: int = 0) -> Network:
    """Train a network by one of METHODS; the same seed gives the same start to all of them. Returns it for evaluation.

    weight: of the penalty; decay: weight decay of all but intercept and effect of the covariate; with_z: whether the
    covariate has one.
    Raises EcgError for an unknown method, and for a single environment where several are compared.
    """
    require_known("method", [method], METHODS)
    settings = settings or Settings()
    if method in PENALISED and len(data.environment.unique()) < 2:
        raise EcgError(f"{method} compares environments, there is one", field="environment", fix="give two or more")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(data.x.shape[1], settings.dim, with_z)
        free = [p for p in (network.intercept, network.effect) if p.requires_grad]
        rest = [*network.representation.parameters(), *network.head.parameters()]
        parts = [{"params": rest, "weight_decay": decay}]
        parts += [{"params": free, "weight_decay": 0.0, "lr": 5 * settings.lr}]  # few, and nothing holds them back
        optimiser = torch.optim.AdamW(parts, lr=settings.lr)
        groups = torch.full((len(data.group.unique()),), 1 / len(data.group.unique()))
        scale = max(1.0, weight) if method in PENALISED else 1.0  # the same in all steps: Adam remembers gradients
        for step in range(settings.steps):
            strength = weight if step >= settings.warmup else 0.0
            loss = objective(method, network, data, strength, groups)
            optimiser.zero_grad()
            (loss / scale).backward()  # a heavy penalty must not make the steps longer
            optimiser.step()
    return network.eval()


class Choice(NamedTuple):
    """A network, what was chosen for it, and its log-loss on the validation records."""

    network: Network
    decay: float
    weight: float  # of the penalty, NaN where there is none
    loss: float


def chosen(method, data: Samples, val: Samples, settings=None, *, decays=(), with_z=False, seed: int = 0) -> Choice:
    """The network with the least log-loss on validation records of the same environments, its temperature set on them.

    decays: weight decays to try; none: those of the settings; with_z: as of `fit`.
    Plain training and group DRO have no weight to choose.
    """
    settings, made = settings or Settings(), []
    for weight in settings.weights if method in PENALISED else (np.nan,):
        for decay in decays or settings.decays:
            network = fit(method, data, settings, weight=weight, decay=decay, with_z=with_z, seed=seed)
            loss = calibrate(network, val)
            made.append(Choice(network, decay, weight, loss))
    return min(made, key=lambda choice: choice.loss)


def calibrate(network: Network, val: Samples) -> float:
    """Set the temperature of a network by the log-loss on validation records, which is returned (Guo et al. 2017)."""
    raw, y = logits(network, val.x, val.z).astype(float), val.y.numpy()
    sign = np.where(y == 1, 1.0, -1.0)
    found = minimize_scalar(lambda scale: -log_expit(sign * scale * raw).mean(), bounds=(0.05, 20), method="bounded")
    network.scale *= float(found.x)
    return float(found.fun)


def logits(network: Network, x, z) -> np.ndarray:
    """Logits float32 (record,) of features x (record, feature) and covariate z (record,)."""
    with torch.inference_mode():
        parts = (torch.as_tensor(np.asarray(values, np.float32)) for values in (x, z))
        return network(*parts)[1].numpy()
