"""MultiRocket: features of a fixed set of convolutions with random dilations, leads and thresholds; nothing is trained.

Own implementation after arXiv 2102.00457 (MultiRocket) and 2012.08791 (the 84 kernels), with four statistics of each
response: the share of time above a threshold, the mean height above it, the longest stretch above it, and the maximum.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from ecglib import EcgError

LENGTH = 9  # of a kernel: weight 2 at three places, -1 at the other six
PLACES = np.array(list(combinations(range(LENGTH), 3)))  # of the 2s, (84, 3)
N_KERNELS, N_THRESHOLDS = len(PLACES), 2
CHUNK = 8  # records whose responses lie in the cache together


@dataclass(frozen=True)
class Layer:
    """The 84 kernels at one dilation of the signal, or of its first difference."""

    difference: bool
    dilation: int  # samples
    leads: np.ndarray  # bool (kernel, lead): the leads that each kernel adds up
    padded: np.ndarray  # bool (kernel,): whether the signal is continued by zeros, or responses end where it does
    thresholds: np.ndarray  # (kernel, N_THRESHOLDS), mV


def dilations(n_times: int, n: int) -> list[int]:
    """At most `n` different dilations, from 1 to the longest whose kernel fits into the signal, in equal ratios."""
    if n_times < LENGTH or n < 1:
        raise EcgError(f"{n_times} samples, {n} dilations", field="rocket_dilations", fix=f"{LENGTH} samples or more")
    longest = np.log2((n_times - 1) / (LENGTH - 1))
    return sorted(set(np.floor(2 ** np.linspace(0, longest, n)).astype(int).tolist()))


def draw(x: torch.Tensor, n_dilations: int = 16, seed: int = 0) -> list[Layer]:
    """The layers for signals like x (record, lead, time): leads at random, thresholds from responses to records of x.

    x: training records; each kernel's thresholds are quantiles of its response to one of them, drawn with `seed`.
    """
    generator, layers, n_leads = np.random.default_rng(seed), [], x.shape[1]
    for difference in (False, True):
        signals = x.diff(dim=-1) if difference else x
        for number, dilation in enumerate(dilations(signals.shape[-1], n_dilations)):
            counts = (2 ** generator.uniform(0, np.log2(min(n_leads, LENGTH) + 1), N_KERNELS)).astype(int)
            order = generator.random((N_KERNELS, n_leads)).argsort(1).argsort(1)
            leads, padded = order < counts[:, None], np.arange(N_KERNELS) % 2 == number % 2
            record, quantiles = generator.integers(len(x), size=N_KERNELS), generator.random((N_KERNELS, N_THRESHOLDS))
            unset = Layer(difference, dilation, leads, padded, np.zeros((N_KERNELS, 0)))
            thresholds = np.zeros((N_KERNELS, N_THRESHOLDS), np.float32)
            for chosen in np.unique(record):
                for kernels, response in _responses(signals[chosen : chosen + 1], unset):
                    for k, row in zip(kernels, response[0], strict=True):
                        if record[k] == chosen:
                            thresholds[k] = np.quantile(row.numpy(), quantiles[k])
            layers.append(Layer(difference, dilation, leads, padded, thresholds))
    return layers


def transform(x: torch.Tensor, layers: list[Layer]) -> np.ndarray:
    """Features float32 (record, feature) of x (record, lead, time): of each layer, for each kernel, share, height and
    longest stretch above each threshold, then the maximum."""
    rows = []
    for chunk in x.split(CHUNK):
        parts, difference = [], chunk.diff(dim=-1)
        for layer in layers:
            features = np.empty((len(chunk), N_KERNELS, 3 * N_THRESHOLDS + 1), np.float32)
            for kernels, response in _responses(difference if layer.difference else chunk, layer):
                features[:, kernels] = _statistics(response, layer.thresholds[kernels])
            parts.append(features.reshape(len(chunk), -1))
        rows.append(np.concatenate(parts, 1))
    return np.concatenate(rows)


def _responses(x: torch.Tensor, layer: Layer):
    """Yield (kernel numbers, responses (record, kernel, time)) of the padded kernels, then of the others."""
    weight = np.full((N_KERNELS, LENGTH), -1.0, np.float32)
    np.put_along_axis(weight, PLACES, 2.0, 1)
    weight = torch.from_numpy(layer.leads[..., None] * weight[:, None])  # (kernel, lead, LENGTH)
    for padded in (True, False):
        kernels = np.flatnonzero(layer.padded == padded)
        padding = layer.dilation * (LENGTH // 2) if padded else 0
        if len(kernels):
            yield kernels, torch.nn.functional.conv1d(x, weight[kernels], dilation=layer.dilation, padding=padding)


def _statistics(response: torch.Tensor, thresholds: np.ndarray) -> np.ndarray:
    """response (record, kernel, time), thresholds (kernel, n) -> (record, kernel, 3 n + 1), see `transform`."""
    n_times, columns = response.shape[-1], []
    for threshold in thresholds.T:
        height = response - torch.from_numpy(threshold)[:, None]
        above = height.numpy() > 0
        count = np.count_nonzero(above, axis=-1)
        mean = height.relu_().sum(-1).numpy() / np.maximum(count, 1)
        columns += [count / n_times, mean, longest_stretch(above) / n_times]
    return np.stack([*columns, response.amax(-1).numpy()], -1)


def longest_stretch(above: np.ndarray) -> np.ndarray:
    """Length of the longest run of True along the last axis of a bool array, int of its leading shape."""
    n_times = above.shape[-1]
    ends = np.ones((above[..., 0].size, n_times + 1), bool)
    ends[:, :-1] = ~above.reshape(-1, n_times)
    at = np.flatnonzero(ends)  # every run of True ends before one of these; each row has its last column
    runs, first = np.diff(at, prepend=-1) - 1, np.searchsorted(at, np.arange(len(ends)) * (n_times + 1))
    return np.maximum.reduceat(runs, first).reshape(above.shape[:-1])
