"""What is hidden from a network: tokens, stretches of time, leads. Drawn on the CPU from torch's global generator, so
that the same seed hides the same on every device. `mask`: True = hidden; `kept`: True = left."""

import math

import torch

from ecglib import EcgError


def random_tokens(batch: int, n: int, n_keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform masks of one size: (keep int64 (batch, n_keep) rising, mask bool (batch, n))."""
    keep = torch.rand(batch, n).argsort(1)[:, :n_keep].sort(1).values
    return keep, torch.ones(batch, n, dtype=torch.bool).scatter_(1, keep, False)


def spans(batch: int, n: int, p: float, length: int, min_spans: int = 2) -> torch.Tensor:
    """Masks of whole spans (they may overlap or touch), the same number of hidden tokens in every row: bool (batch, n).
    That number is what the sampler of wav2vec 2.0 (arXiv 2006.11477) hides on average (`spans_hide`). Spans are laid
    one by one at random starts that hide something new without exceeding it. EcgError where two do not fit into the n
    tokens."""
    if n < 2 * length:
        reason = f"{n} tokens are too few for spans of {length}"
        raise EcgError(reason, field="span", fix="give longer records or shorter spans")
    starts = n - length + 1
    left = torch.full((batch, 1), max(length, round(spans_hide(n, p, length, min_spans))))
    mask = torch.zeros(batch, n, dtype=torch.bool)
    offsets = torch.arange(length)
    while left.any():
        new = (~mask).unfold(1, length, 1).sum(-1)  # tokens that a span at each start would add
        score = torch.rand(batch, starts).masked_fill((new == 0) | (new > left), -1.0)
        best, start = score.max(1, keepdim=True)
        mask.scatter_(1, start + offsets, mask.gather(1, start + offsets) | (best >= 0))
        left -= new.gather(1, start) * (best >= 0)
    return mask


def spans_hide(n: int, p: float, length: int, min_spans: int = 2) -> float:
    """Mean number of tokens that wav2vec 2.0's sampler hides: p * n / length spans, at least `min_spans`, rounded at
    random, their starts drawn without replacement."""
    starts = n - length + 1
    mean = p * n / length
    covering = [min(t + 1, length, n - t, starts) for t in range(n)]  # starts whose span has token t
    hidden = 0.0
    for k, weight in ((math.floor(mean), math.floor(mean) + 1 - mean), (math.floor(mean) + 1, mean - math.floor(mean))):
        k = min(max(k, min_spans), starts)
        hidden += weight * sum(1 - math.comb(starts - c, k) / math.comb(starts, k) for c in covering)
    return hidden


def lead_drop(batch: int, n_leads: int, p: float, present: torch.Tensor | None = None) -> torch.Tensor:
    """Random lead masking: every lead goes with probability p, but one drawn at random, of those `present` bool (batch,
    lead), stays: kept bool (batch, lead)."""
    kept = torch.rand(batch, n_leads) >= p
    score = torch.rand(batch, n_leads)
    if present is not None:
        present = present.cpu()
        score, kept = score + present, kept & present
    spared = torch.nn.functional.one_hot(score.argmax(1), n_leads).bool()
    return kept | (spared & ~kept.any(1, keepdim=True))


def lead_subsets(
    batch: int, n_leads: int, low: int, high: int | torch.Tensor, present: torch.Tensor | None = None
) -> torch.Tensor:
    """Subsets with a size uniform in low .. high (one number, or one per record), then uniform among those of the size:
    kept bool (batch, lead). present: bool (batch, lead): members are among these, all of them where there are less than
    low."""
    available = torch.full((batch,), n_leads) if present is None else present.cpu().sum(1)
    top = torch.as_tensor(high).cpu().expand(batch).minimum(available).clamp_min(low)
    size = (low + (torch.rand(batch, dtype=torch.float64) * (top - low + 1)).long()).minimum(available)
    score = torch.rand(batch, n_leads)
    if present is not None:
        score = score + ~present.cpu()  # those that are missing rank last
    return score.argsort(1).argsort(1) < size[:, None]


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` where `mask` (0 or 1, or bool, broadcast to them) is 1; 0, with a gradient, where it never is.
    Values outside the mask must be finite."""
    return (values * mask).sum() / mask.expand_as(values).sum().clamp_min(1)


def time_blocks(n: int, blocks: int = 4, low: float = 0.175, high: float = 0.225) -> torch.Tensor:
    """One mask bool (n,): the union of `blocks` runs of int(n * U(low, high)) tokens, at least one, each placed
    uniformly, overlaps allowed (ECG-JEPA, arXiv 2410.08559). EcgError where the runs together could hide everything."""
    if blocks < 1 or blocks * max(1, int(n * high)) >= n:
        reason = f"{blocks} blocks of up to {high:g} of {n} tokens"
        raise EcgError(reason, field="blocks", fix="leave tokens to see: fewer or shorter blocks, longer signals")
    mask = torch.zeros(n, dtype=torch.bool)
    for share, position in torch.rand(blocks, 2, dtype=torch.float64).tolist():
        size = max(1, int(n * (low + (high - low) * share)))
        start = int(position * (n - size + 1))
        mask[start : start + size] = True
    return mask


def multi_block(batch: int, n: int, n_keep: int, run: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks made of runs, one per record: (keep int64 (batch, n_keep) rising, mask bool (batch, n)) (ECG-JEPA, arXiv
    2410.13867).
    Until n - n_keep tokens are hidden, a visible interval is drawn with probability proportional to its length and a
    run is hidden at a uniform place in it, its length uniform from `run` to what is left to hide; an interval that is
    not longer goes as a whole, and a remainder shorter than `run` continues a hidden stretch. EcgError where n_keep
    leaves nothing to see or nothing to hide."""
    if not 0 < n_keep < n:
        raise EcgError(f"{n_keep} of {n} tokens to keep", field="n_keep", fix="keep some, hide some: longer signals")
    mask = torch.zeros(batch, n, dtype=torch.bool)
    draws = torch.rand(batch, n - n_keep, 3, dtype=torch.float64).tolist()  # every turn hides one token or more
    for row, turns in zip(mask.numpy(), draws, strict=True):
        _hide_runs(row, n - n_keep, min(run, n - n_keep), turns)
    return (~mask).nonzero()[:, 1].view(batch, n_keep), mask


def _hide_runs(row, left: int, run: int, turns: list) -> None:
    """Set `left` values of one row of zeros to True, each turn by three draws in [0, 1)."""
    visible = [(0, len(row))]
    for interval, length, position in turns:
        if not left:
            return
        target, i = interval * sum(b - a for a, b in visible), 0
        while target >= visible[i][1] - visible[i][0]:
            target, i = target - (visible[i][1] - visible[i][0]), i + 1
        a, b = visible.pop(i)
        size = min(b - a, left if left < run else run + int(length * (left - run + 1)))
        start = a + int(position * (b - a - size + 1))
        if left < run:  # too little for a stretch of its own: continue a neighbour
            start = a if a > 0 and (b == len(row) or position < 0.5) else b - size
        row[start : start + size] = True
        visible += [(u, v) for u, v in ((a, start), (start + size, b)) if u < v]
        left -= size
