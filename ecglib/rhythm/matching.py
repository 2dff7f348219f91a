"""Beats of two lists paired one to one: those that an expert marked and those that a detector found."""

import numpy as np

TOLERANCE_S = 0.15  # between the two of a pair (ANSI/AAMI EC57)


def matched(reference: np.ndarray, found: np.ndarray, within: float) -> tuple[np.ndarray, np.ndarray]:
    """Pair beats one to one, as many as possible with at most `within` samples between the two.

    reference, found: rising samples. Returns the numbers of the paired ones in both, equally long. Walking through both
    in time and pairing the earliest that fit leaves the fewest unpaired (intervals of equal length on a line).
    """
    pairs, i, j = [], 0, 0
    a, b = np.asarray(reference).tolist(), np.asarray(found).tolist()
    while i < len(a) and j < len(b):
        if b[j] < a[i] - within:
            j += 1
        elif b[j] > a[i] + within:
            i += 1
        else:
            pairs.append((i, j))
            i, j = i + 1, j + 1
    pairs = np.array(pairs, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
