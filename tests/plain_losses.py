"""Contrastive losses written out view by view: the oracle of the fast ones."""

import math

import numpy as np
import torch


def unit_rows(z):
    z = z.double().numpy()
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def plain_nt_xent(z1, z2, temperature, weights=None):
    """The definition, view by view."""
    n, z = len(z1), unit_rows(torch.cat([z1, z2]))
    total = 0.0
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        positive = math.exp(z[i] @ z[p] / temperature)
        negatives = 0.0
        for j in range(2 * n):
            if j not in (i, p):
                w = 1.0 if weights is None else float(weights[i % len(weights), j % len(weights)])
                negatives += w * math.exp(z[i] @ z[j] / temperature)
        total -= math.log(positive / (positive + negatives))
    return total / (2 * n)
