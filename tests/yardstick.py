"""How much slower than usual this processor is just now, so that a bound in seconds means the same everywhere."""

import time

import numpy as np

USUAL_S = 0.02  # seconds of `piece` on the idle machine of docs/benchmarks.md


def piece() -> None:
    """Work like that of a study: transforms, sorting, plain Python."""
    x = np.random.default_rng(0).normal(size=(64, 4096))
    for _ in range(8):
        np.sort(np.abs(np.fft.rfft(x)), axis=1)
    sum(i * i % 7 for i in range(200_000))


def slowness() -> float:
    """Processor seconds of `piece` over USUAL_S, the least of five rounds; at least 1."""
    spent = []
    for _ in range(5):
        start = time.process_time()
        piece()
        spent.append(time.process_time() - start)
    return max(1.0, min(spent) / USUAL_S)
