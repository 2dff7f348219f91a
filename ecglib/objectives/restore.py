"""Multi-scale cross-restoration: learns from normal ECGs to restore what is masked; where it fails is the anomaly.

Three branches see a record: global (9.6 s), local (one beat), trend (smoothed slope). Departures from the public code,
each of which hid an error: the trend sees the masked signal, the log-variance is linear and one per lead, every record
has its own masks, masked samples alone count, the masks of a score tile the record. As published, window and beat are
masked each on its own: what is hidden in one can be visible in the other, which the two branches exchange. And each
lead is scaled by its own extremes, hidden ones included.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError
from ecglib.models import layers
from ecglib.models.encoders import autoencoder
from ecglib.models.encoders.autoencoder import minmax
from ecglib.training import masking

PAPER = "Multi-scale cross-restoration, arXiv 2308.01639"
ENCODER = "autoencoder"
LEARNED = {"error": ("<", 0.5, "first")}
ROWS = "normal"
WINDOW_S, BEFORE_S, BEAT_S, TREND_S, SMOOTH_S = 9.6, 0.28, 0.96, 0.02, 0.03
LIMIT = 10.0  # of the log-variance, so that its exponential stays finite


def trend(x: torch.Tensor, width: int) -> torch.Tensor:
    """First difference of the `width`-point mean of x (.., time), with zeros at both ends: a ramp gives its slope."""
    slope = (x[..., width:] - x[..., :-width]) / width
    return F.pad(slope, (width // 2, width - width // 2))


def cut(x: torch.Tensor, start: torch.Tensor, length: int) -> torch.Tensor:
    """`length` samples of each record of x (batch, lead, time) from its own start (batch,) on."""
    return x.gather(-1, (start[:, None, None] + torch.arange(length, device=x.device)).expand(-1, x.shape[1], -1))


def peaks_of(batch) -> torch.Tensor:
    """R peaks of the records, int64 (batch, n); n = 0 for data without peaks, whose records have no usable beat."""
    return batch.lead_mask.new_empty(len(batch.x), 0, dtype=torch.int64) if batch.peaks is None else batch.peaks


def weighted(error: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """e^-s error + s, least at s = ln error: the negative log-likelihood of a Gaussian with log-variance s, twice."""
    return torch.exp(-s) * error + s


class Cross(nn.Module):
    """Global and local tokens attend to each other; two-layer networks over the token axis add the result."""

    def __init__(self, dim: int, n_global: int, n_local: int, heads: int, dropout: float):
        super().__init__()
        n = n_global + n_local
        self.attention, self.norm = layers.Attention(dim, heads), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.to_local = nn.Sequential(nn.Linear(n, 2 * n), nn.ReLU(), nn.Linear(2 * n, n_local))
        self.to_global = nn.Sequential(nn.Linear(n, 4 * n), nn.ReLU(), nn.Linear(4 * n, n_global))

    def forward(self, g: torch.Tensor, local: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.cat([g, local], 1)
        h = self.norm(h + self.dropout(self.attention(h))).transpose(1, 2)
        return g + self.to_global(h).transpose(1, 2), local + self.to_local(h).transpose(1, 2)


class Objective(nn.Module):
    """Restoration of masked samples, weighted by a learned variance; `score` and `localise` say what is anomalous. A
    record longer than the window is cut at random in training; one without a usable beat trains the other two
    branches."""

    def __init__(
        self,
        encoder,
        fs: float = 100.0,  # Hz of x
        mask_ratio: float = 0.3,  # hidden share of the patches of the global window, and of the beat
        patches: int = 96,  # of the global window
        heads: int = 2,
        dropout: float = 0.1,
        variance: str = "lead",  # a log-variance of every lead, or "shared", one for all (as published)
        masked_trend: bool = True,  # False: the trend branch sees the whole slope (as published; the answer leaks)
    ):
        super().__init__()
        self._check(encoder, mask_ratio, variance)
        self.encoder, self.mask_ratio, self.patches, self.masked_trend = encoder, mask_ratio, patches, masked_trend
        stride, n = encoder.stride, encoder.n_leads
        self.window, self.beat = (stride * max(1, round(s * fs / stride)) for s in (WINDOW_S, BEAT_S))
        self.before, self.width = round(BEFORE_S * fs), max(1, round(TREND_S * fs))
        self.smoothing = max(1, round(SMOOTH_S * fs))
        if self.beat < stride * encoder.kernel:
            reason = f"a token sees {stride * encoder.kernel} samples, a beat has {self.beat} at {fs:g} Hz"
            raise EcgError(reason, field="fs", fix="use a smaller encoder, or data of a higher rate")
        self.local_encoder, self.trend_encoder = (type(encoder)(**encoder.shape) for _ in range(2))
        outputs = n + (n if variance == "lead" else 1)
        self.global_decoder, self.local_decoder = (autoencoder.Decoder(encoder, outputs) for _ in range(2))
        self.trend_decoder = autoencoder.Decoder(encoder, n, copies=2)
        tokens = encoder.n_tokens(self.window), encoder.n_tokens(self.beat)
        self.cross = Cross(encoder.dim, *tokens, heads, dropout)

    @staticmethod
    def _check(encoder, mask_ratio, variance):
        if not isinstance(encoder, autoencoder.Encoder):
            raise EcgError("restore needs an encoder that can be transposed", field="encoder", fix="use autoencoder")
        if variance not in ("lead", "shared"):
            raise EcgError(f"variance={variance!r}", field="variance", fix="use lead or shared")
        if not 0 < mask_ratio < 1:
            raise EcgError(f"mask_ratio={mask_ratio}", field="mask_ratio", fix="a share between 0 and 1")

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        x = self._padded(batch.x)
        n, spare = len(x), x.shape[-1] - self.window
        start = torch.randint(spare + 1, (n,)) if self.training else torch.full((n,), spare // 2)
        start = start.to(x.device)
        x = cut(x, start, self.window)
        first, usable = self.beats(peaks_of(batch), start)
        choice = torch.rand(usable.shape) if self.training else self._in_turn(usable)
        first, has = self._pick(first, usable, choice.to(x.device))
        inside = (start[:, None] + torch.arange(self.window, device=x.device)) < batch.x.shape[-1]
        hide, hide_local = (mask.to(x.device) for mask in self.random_masks(n))
        terms = self.restored(minmax(x), minmax(cut(x, first, self.beat)), hide, hide_local)
        (error, s), error_trend, (error_local, s_local) = terms
        recorded = batch.lead_mask.unsqueeze(-1)
        scored = (recorded & (hide & inside)[:, None]).float()
        scored_local = recorded & (hide_local & has[:, None])[:, None]
        logs = {
            "global": masking.masked_mean(weighted(error, s), scored),
            "local": masking.masked_mean(weighted(error_local, s_local), scored_local),
            "trend": masking.masked_mean(error_trend, scored),
        }
        loss, logs["error"] = sum(logs.values()), masking.masked_mean(error, scored)
        return loss, {k: v.detach() for k, v in logs.items()}

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x.float(), (0, max(0, self.window - x.shape[-1])))

    def beats(self, peaks: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First samples (batch, n + 1) of the beats around peaks, from `start` (batch,) on, and which lie in the
        window; the last, never usable, is the middle of the window."""
        first = peaks - self.before - start[:, None]
        usable = (peaks >= 0) & (first >= 0) & (first + self.beat <= self.window)
        middle = (self.window - self.beat) // 2
        return F.pad(first, (0, 1), value=middle), F.pad(usable, (0, 1), value=False)

    @staticmethod
    def _in_turn(usable):
        return -torch.arange(usable.shape[1], device=usable.device, dtype=torch.float32).expand(usable.shape)

    @staticmethod
    def _pick(first, usable, choice):
        """Of every record the usable beat with the highest `choice`, else the middle; and whether it is a beat."""
        best = choice.masked_fill(~usable, -torch.inf).argmax(1)
        has = usable.any(1)
        best = torch.where(has, best, usable.shape[1] - 1)
        return first.gather(1, best[:, None]).squeeze(1), has

    def random_masks(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden samples of n records: bool (n, window), whole patches, and (n, beat), one span, continued in front
        where it leaves the beat, so that every sample is hidden equally often."""
        n_hidden = max(1, round(self.mask_ratio * self.patches))
        patch = masking.random_tokens(n, self.patches, self.patches - n_hidden)[1]
        span = max(1, round(self.mask_ratio * self.beat))
        since = (torch.arange(self.beat) - torch.randint(self.beat, (n, 1))) % self.beat
        return patch[:, self.pieces(self.window, self.patches)], since < span

    def tiles(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Complementary masks, bool (1, window) and (1, beat): together they hide every sample exactly once."""
        n = max(2, round(1 / self.mask_ratio))
        patch, span = self.pieces(self.window, self.patches) % n, self.pieces(self.beat, n)
        return [((patch == k)[None], (span == k)[None]) for k in range(n)]

    @staticmethod
    def pieces(length: int, n: int) -> torch.Tensor:
        """Number of the piece, of n about equal ones, that each of `length` samples lies in."""
        return torch.arange(length) * n // length

    def restored(self, x, beat, hide, hide_local):
        """(squared error, log-variance) of the global branch, squared error of the trend's, then the local branch's; x,
        beat: scaled (batch, lead, time); hide: what is masked, bool (batch, time)."""
        g, slope = self._context(x, hide)
        g, local = self._crossed(g, beat, hide_local)
        return *self._whole(g, slope, x), self._errors(self.local_decoder(local), beat)

    def _context(self, x, hide):
        slope = trend(x, self.width)
        if self.masked_trend:  # a slope is known where none of its samples is hidden
            near = F.max_pool1d(hide.float()[:, None], 2 * self.width + 1, 1, self.width) > 0
            slope = slope.masked_fill(near, 0)
        return self.encoder.latent(x.masked_fill(hide[:, None], 0)), self.trend_encoder.latent(minmax(slope))

    def _crossed(self, g, beat, hide_local):
        return self.cross(g, self.local_encoder.latent(beat.masked_fill(hide_local[:, None], 0)))

    def _whole(self, g, slope, x):
        from_slope = torch.tanh(self.trend_decoder(torch.cat([g, slope], -1)).float())
        return self._errors(self.global_decoder(g), x), (from_slope - x).square()

    @staticmethod
    def _errors(out, x):
        out = out.float()
        n = x.shape[1]
        s = out[:, n:].clamp(-LIMIT, LIMIT).expand(-1, n, -1)
        return (torch.tanh(out[:, :n]) - x).square(), s

    @torch.no_grad()
    def score(self, batch) -> torch.Tensor:
        """Anomaly score (batch,), higher = less normal; in eval mode. Without a usable beat the global branch counts
        twice."""
        whole, slope, local, count = self._maps(batch)
        whole = whole.mean(1)
        covered = count.sum(1)
        return whole + slope.mean(1) + torch.where(covered > 0, local.sum(1) / covered.clamp_min(1), whole)

    @torch.no_grad()
    def localise(self, batch) -> torch.Tensor:
        """How anomalous every sample is, (batch, time), smoothed by a Gaussian of SMOOTH_S; in eval mode."""
        whole, slope, local, count = self._maps(batch)
        reach = 3 * self.smoothing
        bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=whole.device) / self.smoothing) ** 2)
        total = (whole + slope + local / count.clamp_min(1))[:, None]
        weight = F.conv1d(torch.ones_like(total), bell[None, None], padding=reach)
        return (F.conv1d(total, bell[None, None], padding=reach) / weight)[:, 0]

    def _maps(self, batch):
        """Weighted errors (batch, time), mean over leads: global, trend, sum over beats; and the number of beats."""
        n, n_times = len(batch.x), batch.x.shape[-1]
        x = self._padded(batch.x)
        maps = torch.zeros(5, n, x.shape[-1], device=x.device)  # global, trend, windows, local, beats
        done = torch.zeros(n, peaks_of(batch).shape[1] + 1, dtype=torch.bool, device=x.device)
        for start in windows(x.shape[-1], self.window):
            first, usable = self.beats(peaks_of(batch), torch.full((n,), start, device=x.device))
            span = slice(start, start + self.window)
            for hide, hide_local in self.tiles():
                masks = hide.to(x.device), hide_local.to(x.device)
                self._add(maps[..., span], x[..., span], batch.lead_mask, masks, first, usable, usable & ~done)
            done |= usable
        maps = maps[..., :n_times]
        return maps[0] / maps[2], maps[1] / maps[2], maps[3], maps[4]

    def _add(self, maps, x, lead_mask, masks, first, usable, fresh):
        """Add the errors of one window (batch, lead, window) under one mask, and of its `fresh` beats, to maps."""
        hide, hide_local = (mask.expand(len(x), -1) for mask in masks)
        share = (lead_mask / lead_mask.sum(1, keepdim=True).clamp_min(1)).unsqueeze(-1)
        scaled = minmax(x)
        context, slope = self._context(scaled, hide)
        beat = minmax(cut(x, self._pick(first, usable, self._in_turn(usable))[0], self.beat))
        (error, s), error_trend = self._whole(self._crossed(context, beat, hide_local)[0], slope, scaled)
        maps[0] += (torch.exp(-s) * error * share).sum(1) * hide
        maps[1] += (error_trend * share).sum(1) * hide
        maps[2] += hide
        record, column = fresh.nonzero(as_tuple=True)
        if not len(record):
            return
        first = first[record, column]
        beat, hide_local = minmax(cut(x[record], first, self.beat)), hide_local[record]
        local = self._crossed(context[record], beat, hide_local)[1]
        error, s = self._errors(self.local_decoder(local), beat)
        samples = record[:, None], first[:, None] + torch.arange(self.beat, device=x.device)
        maps[3].index_put_(samples, (torch.exp(-s) * error * share[record]).sum(1) * hide_local, accumulate=True)
        maps[4].index_put_(samples, hide_local.to(x.dtype), accumulate=True)


def windows(n_times: int, length: int) -> list[int]:
    """First samples of as few windows as cover n_times samples, evenly spaced."""
    n = -(-n_times // length)
    return [round(i * (n_times - length) / max(1, n - 1)) for i in range(n)]
