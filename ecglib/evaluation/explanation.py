"""Which samples of an ECG made a model say so: four attributions, and what hiding or showing them does to the answer.

A model is a function `score(x, rows)`: x float32 (batch, lead, time), rows int64 (batch,) the numbers of the records
that x was made from; it gives the logit of the statement that is explained, (batch,). An attribution is float32
(record, lead, time). The baseline, what a hidden sample becomes, is zero: the isoelectric line after the signal chain.
"""

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError
from ecglib.evaluation import classifiers
from ecglib.evaluation.corruptions import FrozenProbe, pooled
from ecglib.models.layers import Attention, Block

GRADIENT, INTEGRATED, OCCLUSION, ROLLOUT = "gradient x input", "integrated gradients", "occlusion", "attention roll-out"
METHODS = (GRADIENT, INTEGRATED, OCCLUSION, ROLLOUT)
AMPLITUDE, RANDOM = "amplitude", "random order"  # what any attribution must beat
MANY = 64  # signals that a network reads at a time


def fitted(encoder, batch, y, choice) -> FrozenProbe:
    """The probe of the study for statements y (record, label), 1 or 0, anything else unknown, on clean records.

    batch: of `CohortData`, training records; choice: as of `corruptions.study_choice`.
    """
    z = FrozenProbe(encoder, choice["pooling"], None).features(batch.x, batch.lead_mask, batch.peaks).astype(float)
    cell = bool(choice["standardise"]), float(choice["C"]), choice["class_weight"] == "balanced"
    return FrozenProbe(encoder, choice["pooling"], classifiers.at_cell(z, y, *cell))


def logit(probe, column, lead_mask=None, peaks=None):
    """`score` of a frozen probe for one statement a record.

    probe: with encoder, pooling and model (weight (dim, label), bias (label,)), as `corruptions.FrozenProbe`; column:
    number of the label of each record (record,); lead_mask bool (record, lead), peaks int64 (record, n): as of
    `models.embed`.
    """
    column = torch.as_tensor(np.asarray(column))
    weight, bias = (torch.as_tensor(np.asarray(value, np.float32)) for value in probe.model)
    probe.encoder.eval().requires_grad_(False)

    def score(x, rows):
        given = (None if part is None else part[rows] for part in (lead_mask, peaks))
        z = pooled(probe.encoder, probe.pooling, x, *given)
        return (z * weight.T[column[rows]]).sum(1) + bias[column[rows]]

    return score


def ask(score, x, rows=None) -> torch.Tensor:
    """The logits (batch,) of signals x (batch, lead, time), MANY at a time; rows: their records, None: in order."""
    rows = torch.arange(len(x)) if rows is None else rows
    with torch.inference_mode():
        return torch.cat([score(a, b) for a, b in zip(x.split(MANY), rows.split(MANY), strict=True)])


def _gradient(score, x, rows) -> torch.Tensor:
    parts = []
    for some, numbers in zip(x.split(MANY), rows.split(MANY), strict=True):
        with torch.enable_grad():
            some = some.detach().clone().requires_grad_(True)
            parts.append(torch.autograd.grad(score(some, numbers).sum(), some)[0])
    return torch.cat(parts)


def gradient_times_input(score, x) -> torch.Tensor:
    """The gradient of the logit by each sample, times the sample (Shrikumar et al. 2016, arXiv 1605.01713)."""
    return _gradient(score, x, torch.arange(len(x))) * x


def integrated_gradients(score, x, steps: int = 16) -> torch.Tensor:
    """Gradients averaged along the straight way from the baseline to x, times x.

    steps: points of the way. The attribution of a record adds up to its logit minus that of the baseline, the better
    the more points. Source: Sundararajan, Taly, Yan 2017 (arXiv 1703.01365), equations 1 and 3.
    """
    if steps < 1:
        raise EcgError(f"steps={steps}", field="steps", fix="a number from 1")
    total, rows = torch.zeros_like(x), torch.arange(len(x))
    for at in (np.arange(steps) + 0.5) / steps:
        # the square of even points, with its derivative as weight: networks bend most near the flat line
        total += 2 * at / steps * _gradient(score, x * at**2, rows)
    return total * x


def time_windows(n_records: int, n_times: int, width: int) -> np.ndarray:
    """The number of the window of `width` samples that each sample is in: int (record, time)."""
    return np.tile(np.arange(n_times) // width, (n_records, 1))


def beat_windows(peaks, n_times: int, width: int, before: int, after: int) -> np.ndarray:
    """Windows that lie alike in every beat: the same part of all heartbeats has one number, int (record, time).

    peaks: int (record, n) R peaks, -1 = none; width: samples of a window; the first begins `before` samples ahead of
    the R peak, and what is `after` samples behind it or later shares the last number with what belongs to no beat.
    A model that reads a whole recording hardly misses one P wave of twelve: only where all are hidden does it tell.
    """
    out = np.full((len(peaks), n_times), -(-(before + after) // width))
    for row, mine in zip(out, np.asarray(peaks), strict=True):
        for peak in np.sort(mine[mine >= 0]):  # a later beat takes over what is left of the one before
            first, last = max(0, peak - before), min(n_times, peak + after)
            row[first:last] = (np.arange(first, last) - (peak - before)) // width
    return out


def occlusion(score, x, windows) -> torch.Tensor:
    """What the logit loses when one lead is hidden in one window, spread evenly over the samples that were hidden.

    windows: int (record, time), numbers from 0, as of `time_windows` and `beat_windows`. Source: Zeiler, Fergus 2014
    (arXiv 1311.2901), section 4.2; in time and lead.
    """
    whole, out = ask(score, x), torch.zeros_like(x)
    for record, windows_of in enumerate(torch.as_tensor(np.asarray(windows))):
        parts = [windows_of == number for number in windows_of.unique()]
        places = [(lead, part) for lead in range(x.shape[1]) for part in parts]
        hidden = x[record].repeat(len(places), 1, 1)
        for copy, (lead, part) in zip(hidden, places, strict=True):
            copy[lead, part] = 0
        lost = whole[record] - ask(score, hidden, torch.full((len(places),), record))
        for (lead, part), value in zip(places, lost, strict=True):
            out[record, lead, part] = value / part.sum()
    return out


def can_roll_out(encoder) -> bool:
    """Whether `rollout` knows which samples each token of an encoder was made of."""
    blocks = getattr(encoder, "blocks", ())
    evenly = hasattr(encoder, "joint") or hasattr(encoder, "convs")  # vit1d, wav2vec
    return evenly and bool(len(blocks)) and all(isinstance(block, Block) for block in blocks)


def rolled_out(attentions) -> torch.Tensor:
    """What the mean token of the last layer has taken from each token of the first: (batch, token), adding up to one.

    attentions: of each layer (batch, head, token, token), rows adding up to one. Heads are averaged, and half of each
    token passes by the attention. Source: Abnar, Zuidema 2020 (arXiv 2005.00928), equations 1 and 2.
    """
    total = None
    for attention in attentions:
        mean = attention.mean(1)
        mixed = (mean + torch.eye(mean.shape[-1])) / 2
        total = mixed if total is None else mixed @ total
    return total.mean(1)


def rollout(encoder, x) -> torch.Tensor:
    """Attention roll-out of a token encoder on signals x: positive, the same for every statement.

    A token's share is spread evenly over its samples, and over all leads where it was made of all. EcgError for an
    encoder that `can_roll_out` refuses.
    """
    if not can_roll_out(encoder):
        reason = f"{encoder.config['encoder']} has no tokens that attend and cover the recording evenly"
        raise EcgError(reason, field="method", fix="roll out vit1d or wav2vec")
    parts = [_rollout(encoder, some) for some in x.split(MANY)]
    return torch.cat(parts)


def _rollout(encoder, x) -> torch.Tensor:
    found, hooks = [], []
    for block in encoder.blocks:
        hook = block.attention.register_forward_pre_hook(
            lambda layer, args, given: found.append(_attention(layer, args[0], given.get("mask"))), with_kwargs=True
        )
        hooks.append(hook)
    try:
        with torch.inference_mode():
            n = encoder.tokens(x).shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    share = rolled_out(found)[:, -n:]  # registers stand in front
    return _over_samples(encoder, share, x)


def _attention(layer: Attention, x, mask) -> torch.Tensor:
    """The weights (batch, head, token, token) with which an `Attention` layer reads x (batch, token, dim)."""
    q, k, _ = (t.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for t in layer.qkv(x).chunk(3, -1))
    product = q @ k.mT / q.shape[-1] ** 0.5
    return (product if mask is None else product.masked_fill(~mask, -torch.inf)).softmax(-1)


def _over_samples(encoder, share, x) -> torch.Tensor:
    """Shares of the tokens (batch, token) as attribution (batch, lead, time)."""
    out = torch.zeros_like(x)
    if not getattr(encoder, "joint", True):
        rows = encoder.rows or list(range(x.shape[1]))
        share = share.unflatten(1, (len(rows), -1))
    else:
        rows, share = list(range(x.shape[1])), share.unsqueeze(1).expand(-1, x.shape[1], -1) / x.shape[1]
    width = encoder.patch if hasattr(encoder, "patch") else 2 ** len(encoder.convs)
    spread = share.repeat_interleave(width, -1)[..., : x.shape[-1]] / width
    out[:, rows, : spread.shape[-1]] = spread
    return out


def attributions(probe, score, x, windows, steps: int = 8) -> dict:
    """Every attribution that a probe allows, and the amplitude of the signal: name -> float32 (record, lead, time).

    score: of the probe, by `logit`; x, windows: as of `occlusion`; steps: as of `integrated_gradients`.
    """
    made = {
        GRADIENT: gradient_times_input(score, x),
        INTEGRATED: integrated_gradients(score, x, steps),
        OCCLUSION: occlusion(score, x, windows),
    }
    if can_roll_out(probe.encoder):
        made[ROLLOUT] = rollout(probe.encoder, x)
    return made | {AMPLITUDE: x.abs()}


def cells(attribution, width: int) -> torch.Tensor:
    """Sums over windows of `width` samples: (record, lead, window), the last one shorter where time does not divide."""
    missing = -attribution.shape[-1] % width
    return torch.nn.functional.pad(attribution, (0, missing)).unflatten(-1, (-1, width)).sum(-1)


def order(attribution, width: int) -> torch.Tensor:
    """Cells of one lead and `width` samples, highest attribution first: int64 (record, cell); ties by position."""
    return cells(attribution, width).flatten(1).argsort(dim=1, descending=True, stable=True)


def random_order(x, width: int, seed: int = 0) -> torch.Tensor:
    """As `order`, by chance."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
    return order(noise, width)


def curves(score, x, ranked, width: int, shares) -> dict:
    """How the probability changes when cells go or come in an order: {"deletion", "insertion"} -> (record, share).

    ranked: cells by `order`; width: of it; shares: of the cells, rising from 0 to 1. Deletion starts with the whole
    recording and hides the first cells, insertion starts with the baseline and shows them. EcgError for other shares.
    Source: Petsiuk, Das, Saenko 2018 (arXiv 1806.07421), section 4.2.
    """
    if len(shares) < 2 or (shares[0], shares[-1]) != (0, 1) or (np.diff(shares) <= 0).any():
        raise EcgError(f"shares {list(shares)}", field="shares", fix="let them rise from 0 to 1")
    place = ranked.argsort(dim=1) / ranked.shape[1]  # 0 for the first cell of the order
    place = place.unflatten(1, (x.shape[1], -1)).repeat_interleave(width, -1)[..., : x.shape[-1]]
    made = {"deletion": [], "insertion": []}
    for share in shares:
        gone = place < share
        made["deletion"].append(torch.where(gone, 0.0, x))
        made["insertion"].append(torch.where(gone, x, 0.0))
    rows = torch.arange(len(x)).repeat(len(shares))
    return {
        name: ask(score, torch.cat(signals), rows).sigmoid().unflatten(0, (len(shares), -1)).T.numpy()
        for name, signals in made.items()
    }


def answers(score, x, made: dict, asked, width: int, shares, seed: int = 0) -> pd.DataFrame:
    """The curves of every attribution in `made`, and of a random order: a row per record, method, kind and share.

    asked: DataFrame with patient_id and label, a row per record; width, shares: as of `curves`; seed: of the order.
    Returns pair (the row of asked), patient_id, label, method, kind, share (of the cells), probability.
    """
    orders = {method: order(attribution, width) for method, attribution in made.items()}
    orders[RANDOM], parts, n = random_order(x, width, seed), [], len(asked)
    about = asked[["patient_id", "label"]].assign(pair=np.arange(n))
    for method, ranked in orders.items():
        for kind, curve in curves(score, x, ranked, width, shares).items():
            for share, values in zip(shares, curve.T, strict=True):
                parts.append(about.assign(method=method, kind=kind, share=share, probability=values))
    return pd.concat(parts, ignore_index=True)


def areas(said) -> pd.DataFrame:
    """`area` of the curves of `answers`: pair, patient_id, label, method, kind, area."""
    keys = ["pair", "patient_id", "label", "method", "kind"]
    wide = said.pivot(index=keys, columns="share", values="probability")
    return wide.index.to_frame(index=False).assign(area=area(wide.to_numpy(), wide.columns))


def area(curve, shares) -> np.ndarray:
    """Area under curves (record, share) over the share of the cells, by trapezoids: (record,)."""
    return np.trapezoid(np.asarray(curve), np.asarray(shares, float), axis=1)
