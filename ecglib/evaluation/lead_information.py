"""How well each lead follows from others: ridge regression and reconstruction of hidden leads, scored as R2."""

import numpy as np
import torch


@torch.no_grad()
def information_content(objective, x: torch.Tensor, kept: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
    """IC(l | S) = 1 - MSE / variance of the mean-removed lead l over all records: (subset, modelled), NaN if l is in S.

    x: (record, n_leads, time); kept: bool (subset, modelled), True = in S. 1: perfect, 0: no better than the mean.
    """
    x = objective.encoder.normalised(x)
    variance = x.double().square().mean((0, 2))
    contents = []
    for subset in kept:
        error = torch.zeros_like(variance)
        for batch in x.split(batch_size):
            y = objective.predict(batch, subset.expand(len(batch), -1))
            error += (y - batch).double().square().sum((0, 2))
        ic = 1 - error / (x.shape[0] * x.shape[2]) / variance
        contents.append(ic.masked_fill(subset, torch.nan))
    return torch.stack(contents).float()


def ridge(x_train: np.ndarray, x_test: np.ndarray, inputs, outputs):
    """The linear map that a network must beat, sample by sample: (weights (input, output), IC (output,)).

    x_train, x_test: (record, lead, time); inputs, outputs: rows of the leads. The mean of every record and lead is
    removed; the penalty is a thousandth of the mean variance of the inputs.
    """
    leads, k = [*inputs, *outputs], len(inputs)

    def moments(x):
        z = x[:, leads].astype(np.float64)
        z -= z.mean(-1, keepdims=True)
        z = z.transpose(1, 0, 2).reshape(len(leads), -1)
        return z @ z.T / z.shape[1]

    train, test = moments(x_train), moments(x_test)
    penalty = 1e-3 * np.trace(train[:k, :k]) / k * np.eye(k)
    weights = np.linalg.solve(train[:k, :k] + penalty, train[:k, k:])
    error = np.diag(test[k:, k:]) - 2 * (weights * test[:k, k:]).sum(0) + (weights * (test[:k, :k] @ weights)).sum(0)
    return weights, 1 - error / np.diag(test[k:, k:])
