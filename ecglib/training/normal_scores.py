"""Measurements of unlike scales and tails as targets of training: the normal quantile of each one's rank."""

import math

import numpy as np
import torch

N_KNOTS = 512  # of the distribution of one measurement


def distributions(values: np.ndarray) -> np.ndarray:
    """Quantiles float32 (measurement, knot) of values (record, measurement), at most N_KNOTS; NaN is left out.

    At (i + 1/2) / n, so that with n records knot i is the i-th smallest; a measurement that nobody has is all NaN.
    """
    n = min(N_KNOTS, len(values))
    at = (np.arange(n) + 0.5) / n
    known = [column[~np.isnan(column)] for column in values.T]
    knots = [np.quantile(column, at, method="hazen") if len(column) else np.full(n, np.nan) for column in known]
    return np.stack(knots).astype(np.float32)


def of(values: torch.Tensor, knots: torch.Tensor) -> torch.Tensor:
    """Normal quantile of the rank of values (batch, measurement) in the distributions knots (measurement, knot).

    Equal values share the middle of their ranks; beyond the ends the rank is that of the end. NaN stays NaN.
    """
    n, v = knots.shape[1], values.T.contiguous()
    below, upto = torch.searchsorted(knots, v), torch.searchsorted(knots, v, right=True)
    left = knots.gather(1, (below - 1).clamp(0, n - 1))
    right = knots.gather(1, below.clamp(max=n - 1))
    between = below - 0.5 + (v - left) / (right - left).clamp_min(1e-30)
    rank = torch.where(below < upto, (below + upto) / 2, between).clamp(0.5, n - 0.5)
    scores = math.sqrt(2) * torch.erfinv(2 * rank / n - 1)
    return torch.where(torch.isnan(v), v, scores).T
