"""Heartbeats as words: 0.96 s pieces of every lead around the R peaks (the QRS tokeniser of HeartLang, 2502.10707).

A piece reaches half-way to the neighbouring beats, so that it may hold their P or T wave; with peaks far apart it is
the 0.96 s around its own. Where a record has no peak, slices of one second stand in for beats.
"""

import math
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from ecglib import EcgError

RATE = 100  # Hz of every word
WIDTH = 96  # samples of a word, R peak in the middle
HALF = WIDTH // 2


class Words(NamedTuple):
    """tokens: (batch, n, WIDTH), units of the signal; lead: int64 (batch, n), row of the signal + 1, 0 = padding; time:
    int64 (batch, n), second of the R peak + 1, 0 = padding; real: bool (batch, n), False for padding and for words of
    missing leads, whose tokens are zero."""

    tokens: torch.Tensor
    lead: torch.Tensor
    time: torch.Tensor
    real: torch.Tensor


def resample(x: torch.Tensor, fs: float) -> torch.Tensor:
    """x (batch, lead, time) at fs Hz -> the same at RATE Hz, by its spectrum; continued by its mirror image, without
    which the ends would ring."""
    n = x.shape[-1]
    out = max(1, round(n * RATE / fs))
    if out == n:
        return x
    bins = min(n, out) + 1
    spectrum = torch.fft.rfft(torch.cat([x, x.flip(-1)], -1))[..., :bins]
    spectrum = pad(torch.view_as_real(spectrum), (0, 0, 0, out + 1 - bins))
    return torch.fft.irfft(torch.view_as_complex(spectrum.contiguous()), n=2 * out)[..., :out] * (out / n)


def tokenize(
    x: torch.Tensor,
    peaks: torch.Tensor,
    fs: float = RATE,
    *,
    limit: int = 240,
    order: str = "time",
    fallback: bool = True,
    full: bool = False,
) -> Words:
    """Cut x (batch, lead, time) at fs Hz into words at its R peaks: int64 (batch, n) samples of x, -1 = none.
    limit: longest sentence; order: "time": beat by beat, whole last beats are left out; "lead", as published: lead by
    lead, the last leads lose words; fallback: a record without peaks is cut into seconds; full: sentences of `limit`
    tokens, else of the longest in the batch.
    Raises EcgError for another order, a limit below the number of leads, and peaks that do not fit the batch."""
    n_leads = x.shape[1]
    if order not in ("time", "lead"):
        raise EcgError(f"order={order!r}", field="order", fix="use time or lead")
    if limit < n_leads:
        raise EcgError(f"a sentence of {limit} tokens holds no beat of {n_leads} leads", field="limit", fix="raise it")
    if peaks.ndim != 2 or len(peaks) != len(x):
        raise EcgError(f"peaks {tuple(peaks.shape)} for {len(x)} records", field="peaks", fix="give one row per record")
    x, fs = resample(x, fs), float(fs)
    n_times = x.shape[-1]
    peaks, count = _rising(peaks.to(x.device), fs, n_times, fallback)
    start, end, offset = bounds(peaks, count, n_times)
    lead, beat, used = _order(count, n_leads, limit, order, full)
    first, length, shift = (t.gather(1, beat) for t in (start, end - start, offset))
    windows = pad(x, (WIDTH, WIDTH)).unfold(-1, WIDTH, 1)  # window i begins WIDTH samples before sample i
    begin = (first - shift + WIDTH).clamp(0, n_times + WIDTH)
    tokens = windows[torch.arange(len(x), device=x.device)[:, None], lead, begin]
    sample, stop = torch.arange(WIDTH, device=x.device), (shift + length) * used
    tokens = tokens.masked_fill((sample < shift[..., None]) | (sample >= stop[..., None]), 0)
    second = peaks.gather(1, beat) // RATE + 1
    return Words(tokens, (lead + 1) * used, second * used, used & (tokens != 0).any(-1))


def bounds(peaks: torch.Tensor, count: torch.Tensor, n_times: int):
    """Rising peaks (batch, n), of which count (batch, 1) exist -> start, end, offset, each (batch, n): samples start ..
    end - 1 of the signal go to positions offset .. of the word, what runs past WIDTH is cut."""
    middle = (peaks[:, :-1] + peaks[:, 1:]) // 2
    before = (peaks - HALF).clamp(min=0)
    start = torch.cat([before[:, :1], middle], 1)
    end = torch.cat([middle, peaks[:, -1:]], 1)
    last = torch.arange(peaks.shape[1], device=peaks.device) == count - 1
    end = torch.where(last, torch.where(count == 1, start + WIDTH, peaks + HALF), end).clamp(max=n_times)
    long = end - start > WIDTH
    start = torch.where(long, before, start)
    end = torch.where(long, (start + WIDTH).clamp(max=n_times), end)
    return start, end, (HALF - (peaks - start)).clamp(min=0)


def beat_numbers(lead: torch.Tensor) -> torch.Tensor:
    """Lead ids (batch, n) of tokens -> int64 (batch, n): how many tokens of the same lead come before, its beat."""
    return (lead[:, :, None] == lead[:, None, :]).tril(-1).sum(-1)


def _rising(peaks, fs, n_times, fallback):
    """Peaks at RATE Hz in rising order, those that are none behind; their number (batch, 1); seconds for no peaks."""
    at = torch.round(peaks.double() * (RATE / fs)).long()
    none = (peaks < 0) | (at >= n_times)
    seconds = torch.arange(max(1, math.ceil((n_times - HALF) / RATE)), device=peaks.device) * RATE + RATE // 2
    seconds = seconds.clamp(max=n_times - 1)
    missing = max(0, len(seconds) - at.shape[1])
    at = pad(at.masked_fill(none, n_times), (0, missing), value=n_times).sort(1).values
    count = (~none).sum(1, keepdim=True)
    if fallback:
        empty = count == 0
        at[:, : len(seconds)] = torch.where(empty, seconds, at[:, : len(seconds)])
        count = torch.where(empty, len(seconds), count)
    return at, count


def _order(count, n_leads, limit, order, full):
    """Lead, beat and whether it is used, each (batch, n), of the tokens of sentences with count (batch, 1) beats."""
    longest = limit if full or order == "lead" else limit // n_leads * n_leads
    n = longest if full else max(1, min(longest, int(count.max()) * n_leads))
    token = torch.arange(n, device=count.device).expand(len(count), n)
    if order == "lead":
        each = count.clamp(min=1)
        lead, beat = token // each, token % each
        used = token < count * n_leads
    else:
        lead, beat = token % n_leads, token // n_leads
        used = (beat < count) & (beat < limit // n_leads)
    return lead.clamp(max=n_leads - 1), torch.where(used, beat, 0), used
