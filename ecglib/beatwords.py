"""Heartbeats as words: 0.96 s pieces of every lead around the R peaks (the QRS tokeniser of HeartLang, 2502.10707).

A piece reaches half-way to the neighbouring beats, so that it may hold their P or T wave; with peaks far apart it is
the 0.96 s around its own. Where a record has no peak, slices of one second stand in for beats.
"""

import math
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from ecglib.signals import EcgError

RATE = 100  # Hz of every word
WIDTH = 96  # samples of a word, R peak in the middle
HALF = WIDTH // 2


class Words(NamedTuple):
    """A batch of sentences.

    tokens: (batch, n, WIDTH), units of the signal; lead: int64 (batch, n), row of the signal + 1, 0 = padding; time:
    int64 (batch, n), second of the R peak + 1, 0 = padding; real: bool (batch, n), False for padding and for words
    without signal (missing leads), whose tokens are zero.
    """

    tokens: torch.Tensor
    lead: torch.Tensor
    time: torch.Tensor
    real: torch.Tensor


def resample(x: torch.Tensor, fs: float) -> torch.Tensor:
    """x (batch, lead, time) at fs Hz -> the same at RATE Hz, round(time * RATE / fs) samples, by its spectrum.

    Linear phase. The signal is continued by its mirror image, without which the ends would ring.
    """
    n = x.shape[-1]
    out = max(1, round(n * RATE / fs))
    if out == n:
        return x
    bins = min(n, out) + 1
    spectrum = torch.fft.rfft(torch.cat([x, x.flip(-1)], -1))[..., :bins]
    spectrum = pad(torch.view_as_real(spectrum), (0, 0, 0, out + 1 - bins))
    return torch.fft.irfft(torch.view_as_complex(spectrum.contiguous()), n=2 * out)[..., :out] * (out / n)


def tokenize(
    x: torch.Tensor, peaks: torch.Tensor, fs: float = RATE, *, limit: int = 240, order: str = "time",
    fallback: bool = True, full: bool = False,
) -> Words:  # fmt: skip
    """Cut x (batch, lead, time) at fs Hz into words at its R peaks: int64 (batch, n) samples of x, -1 = none.

    limit: longest sentence. order "time": all leads of the first beat, then of the next; what does not fit is whole
    last beats. "lead": all beats of the first lead, then of the next; what does not fit is lost from the last leads
    (as published). fallback: a record without peaks is cut into seconds, else it has no words. full: sentences of
    `limit` tokens, else of the longest in the batch. Raises EcgError for an order that is none, for a limit below the
    number of leads, and for peaks that do not fit the batch.
    """
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
    inside = torch.arange(WIDTH, device=x.device) - shift[..., None]
    kept = (inside >= 0) & (inside < length[..., None]) & used[..., None]
    source = (first[..., None] + inside).clamp(0, n_times - 1) + lead[..., None] * n_times
    tokens = x.flatten(1).gather(1, source.flatten(1)).view(source.shape).masked_fill(~kept, 0)
    second = peaks.gather(1, beat) // RATE + 1
    return Words(tokens, (lead + 1) * used, second * used, used & (tokens != 0).any(-1))


def bounds(peaks: torch.Tensor, count: torch.Tensor, n_times: int):
    """Rising peaks (batch, n), of which count (batch, 1) are there -> start, end, offset, each (batch, n).

    Samples start .. end - 1 of the signal go to places offset .. of the word, what runs past WIDTH is cut.
    """
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
    room = limit if full or order == "lead" else limit // n_leads * n_leads
    n = room if full else max(1, min(room, int(count.max()) * n_leads))
    place = torch.arange(n, device=count.device).expand(len(count), n)
    if order == "lead":
        each = count.clamp(min=1)
        lead, beat = place // each, place % each
        used = place < count * n_leads
    else:
        lead, beat = place % n_leads, place // n_leads
        used = (beat < count) & (beat < limit // n_leads)
    return lead.clamp(max=n_leads - 1), torch.where(used, beat, 0), used
