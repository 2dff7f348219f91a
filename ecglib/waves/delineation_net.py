"""Delineation as segmentation: a 1-D U-Net that says for each sample of a lead whether P, QRS and T are there.

Architecture and Jaccard loss after ECG-DelNet (arXiv 2005.05236), Dice loss as in its follow-up with synthetic data;
parts that the paper leaves open, crops and augmentation are ours.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError, require_known
from ecglib.data import filters
from ecglib.models.layers import channels_last
from ecglib.training import checkpoint, train
from ecglib.waves.marked import FS, WAVES, Marked

# levels, width of the first (doubling downwards), units of a level, dropout; published: 9,977,667 parameters. Eight
# channels without a quarter of them, level after level, learn nothing in a few hundred steps.
SIZES = {"published": (5, 32, 3, 0.25), "small": (4, 8, 2, 0.0), "tiny": (4, 8, 1, 0.0)}
LOSSES = ("jaccard", "dice")
N_TIMES = 512  # samples of a crop, 2 s; the paper has 2,048
BAND = (0.5, 40.0)  # Hz
BATCH = 64  # windows at a time when a network is asked
EPS = 1.0  # of the losses, in samples


def half_unit(width_in: int, width_out: int, dropout: float, kernel: int = 3) -> list[nn.Module]:
    """ReLU, batch normalisation, dropout of whole channels, convolution."""
    conv = nn.Conv2d(width_in, width_out, (1, kernel), padding=(0, kernel // 2))
    nn.init.xavier_uniform_(conv.weight)
    return [nn.ReLU(), nn.BatchNorm2d(width_in), nn.Dropout2d(dropout), conv]


def units(width_in: int, width_out: int, n: int, dropout: float) -> nn.Sequential:
    """`n` units, each of two halves, the first from width_in to width_out."""
    layers = []
    for _ in range(n):
        layers += half_unit(width_in, width_out, dropout) + half_unit(width_out, width_out, dropout)
        width_in = width_out
    return nn.Sequential(*layers)


class DelNet(nn.Module):
    """x (batch, 1, time), any number of samples -> logits (batch, 3, time) of WAVES.

    size: key of SIZES; seed: of the initial weights.
    """

    def __init__(self, size: str = "small", seed: int = 0):
        super().__init__()
        require_known("size", [size], SIZES)
        depth, width, n, dropout = SIZES[size]
        self.config = {"encoder": "delnet", "size": size}
        widths = [width * 2**level for level in range(depth)]
        pairs = list(zip(widths, widths[1:], strict=False))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            stem = half_unit(widths[0], widths[0], dropout)
            self.stem = nn.Sequential(nn.Conv2d(1, widths[0], (1, 3), padding=(0, 1)), *stem)
            self.down = nn.ModuleList(units(w, w, n, dropout) for w in widths)
            self.pool = nn.ModuleList()
            for fine, coarse in pairs:
                pool = nn.MaxPool2d((1, 3), (1, 2), padding=(0, 1))
                self.pool.append(nn.Sequential(units(fine, coarse, 1, dropout), pool))
            self.up = nn.ModuleList(units(coarse + fine, fine, n, dropout) for fine, coarse in reversed(pairs))
            self.out = nn.Sequential(*half_unit(widths[0], len(WAVES), dropout, kernel=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n_times = x.shape[-1]
        h, maps = self.stem(channels_last(F.pad(x, (0, -n_times % 2 ** len(self.pool))))), []
        for level, pool in zip(self.down, self.pool, strict=False):
            maps.append(level(h))
            h = pool(maps[-1])
        h = self.down[-1](h)
        for level, fine in zip(self.up, reversed(maps), strict=True):
            h = level(torch.cat([F.interpolate(h, scale_factor=(1, 2)), fine], 1))
        return self.out(h).squeeze(2)[..., :n_times]


def jaccard_loss(p: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """1 - intersection / union of each wave over the whole batch, mean over waves.

    p, masks: (batch, wave, time), probabilities and 0 or 1; valid: (batch, 1, time), 0 where nobody has marked.
    Source: ECG-DelNet, 1 - (I + eps) / (U - I + eps) with I the sum of products and U the sum of both masks.
    """
    both, total = _sums(p, masks, valid)
    return (1 - (both + EPS) / (total - both + EPS)).mean()


def dice_loss(p: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """1 - 2 intersection / (sum of both) of each wave, as `jaccard_loss`."""
    both, total = _sums(p, masks, valid)
    return (1 - (2 * both + EPS) / (total + EPS)).mean()


def _sums(p, masks, valid):
    return (p * masks * valid).sum((0, 2)), ((p + masks) * valid).sum((0, 2))


class Leads(NamedTuple):
    """A batch of single leads: x (batch, 1, time), masks (batch, 3, time), valid (batch, 1, time), all float32."""

    x: torch.Tensor
    masks: torch.Tensor
    valid: torch.Tensor


class LeadData:
    """All leads of marked recordings for `train.fit`; shorter ones are padded with zeros that nobody has marked."""

    def __init__(self, recordings: list[Marked]):
        if not recordings:
            raise EcgError("no marked recording to learn from", field="recordings", fix="check corpus and splits")
        longest = max(one.signal.shape[1] for one in recordings)
        parts = [lead_masks(one, longest) for one in recordings]
        self.x, self.masks, self.valid = (torch.from_numpy(np.concatenate(each)) for each in zip(*parts, strict=True))
        names = [f"{one.record_id} {lead}" for one in recordings for lead in one.leads]
        self.record_ids = np.array(names)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: np.ndarray) -> Leads:
        """Whole leads of positions `index`."""
        at = torch.from_numpy(np.asarray(index))
        return Leads(self.x[at], self.masks[at].float(), self.valid[at].float())


def lead_masks(one: Marked, n_times: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Filtered signal float32 (lead, 1, n_times), masks uint8 (lead, 3, n_times), valid uint8 (lead, 1, n_times).

    A wave without a marked onset or offset is no mask, and its time is not valid.
    """
    n = len(one.leads)
    x = np.zeros((n, 1, n_times), np.float32)
    x[:, 0, : one.signal.shape[1]] = clean(one.signal)
    masks, valid = np.zeros((n, len(WAVES), n_times), np.uint8), np.zeros((n, 1, n_times), np.uint8)
    for lead in range(n):
        for first, last in one.spans[lead]:
            valid[lead, 0, int(np.ceil(first)) : int(last) + 1] = 1
        for row, wave in enumerate(WAVES):
            for on, peak, off in one.waves[lead][wave]:
                if np.isnan(on) or np.isnan(off):
                    known = np.array([on, peak, off])
                    low, high = np.nanmin(known), np.nanmax(known)
                    valid[lead, 0, max(0, round(low - 0.2 * FS)) : round(high + 0.2 * FS)] = 0
                else:
                    masks[lead, row, round(on) : round(off) + 1] = 1
    return x, masks, valid


def clean(signal: np.ndarray) -> np.ndarray:
    """Leads (lead, time) at FS without baseline wander and what lies above 40 Hz."""
    return filters.bandpass(signal, FS, *BAND, order=2)


class Objective(nn.Module):
    """Random crops of leads, scaled to a largest magnitude of 1 and disturbed, against their masks.

    encoder: a DelNet; loss: of LOSSES; noise: largest standard deviation of white noise, and amplitude of a wander of
    0.1 to 1 Hz, as a share of that magnitude; every second crop has none. The sign of every fourth is turned.
    """

    def __init__(self, encoder: DelNet, loss: str = "jaccard", n_times: int = N_TIMES, noise: float = 0.05):
        super().__init__()
        require_known("loss", [loss], LOSSES)
        self.encoder, self.n_times, self.noise = encoder, n_times, noise
        self.loss = {"jaccard": jaccard_loss, "dice": dice_loss}[loss]
        self.config = {"objective": "delineation", "loss": loss, "n_times": n_times, "noise": noise}

    def forward(self, batch: Leads) -> tuple[torch.Tensor, dict]:
        n = min(self.n_times, batch.x.shape[-1])
        start = torch.randint(0, batch.x.shape[-1] - n + 1, (len(batch.x), 1, 1))
        at = start + torch.arange(n)
        x, masks, valid = (
            each.gather(-1, at.to(each.device).expand(-1, each.shape[1], -1))
            for each in (batch.x, batch.masks, batch.valid)
        )
        p = self.encoder(self.disturbed(scaled(x))).sigmoid()
        loss = self.loss(p, masks, valid)
        both, total = _sums((p > 0.5).float(), masks, valid)
        return loss, {"dice": (2 * both / total.clamp_min(1)).mean().detach()}

    def disturbed(self, x: torch.Tensor) -> torch.Tensor:
        """Scaled crops x (batch, 1, time) with noise, wander and sign."""
        size, phase, rate, turn = (torch.rand(len(x), 1, 1, device=x.device) for _ in range(4))
        size = self.noise * (2 * size - 1).clamp_min(0)
        time = torch.arange(x.shape[-1], device=x.device) / FS
        wander = 2 * size * torch.sin(2 * torch.pi * (phase + (0.1 + 0.9 * rate) * time))
        return (x + size * torch.randn_like(x) + wander) * torch.where(turn < 0.25, -1.0, 1.0)


def scaled(x: torch.Tensor) -> torch.Tensor:
    """x (..., time) over its largest magnitude; a flat lead stays flat."""
    return x / x.abs().amax(-1, keepdim=True).clamp_min(1e-6)


def fit(recordings: list[Marked], settings: train.Settings, size="small", loss="jaccard", begins: DelNet | None = None):
    """Train a DelNet on marked recordings; returns (network, history).

    begins: a network of that size whose weights are the first ones; it stays as it is. None: random weights.
    Raises EcgError without a recording, for an unknown size or loss, and as `train.fit`.
    """
    network = DelNet(size, seed=settings.seed)
    if begins is not None:
        network.load_state_dict(begins.state_dict())
    objective = Objective(network, loss)
    history = train.fit(objective, LeadData(recordings), settings=settings)
    return network.eval(), history


def probabilities(network: DelNet, signal: np.ndarray) -> np.ndarray:
    """Probability of each wave at each sample: float32 (lead, 3, time) of a signal (lead, time) in mV at FS.

    Windows of N_TIMES overlap by half and are averaged; a shorter signal is one window.
    """
    x = torch.from_numpy(clean(np.nan_to_num(signal)))
    n_times = x.shape[-1]
    n = min(N_TIMES, n_times)
    starts = sorted({*range(0, n_times - n, n // 2), n_times - n})
    windows = torch.stack([x[:, at : at + n] for at in starts]).flatten(0, 1).unsqueeze(1)
    network.eval()
    with torch.inference_mode():
        found = torch.cat([network(scaled(some)).sigmoid() for some in windows.split(BATCH)])
    found = found.unflatten(0, (len(starts), len(x)))
    total, count = torch.zeros(len(x), len(WAVES), n_times), torch.zeros(n_times)
    for at, some in zip(starts, found, strict=True):
        total[..., at : at + n] += some
        count[at : at + n] += 1
    return (total / count).numpy()


def save(network: DelNet, thresholds: dict, path) -> None:
    """Write a network with its thresholds (wave -> probability) as one file."""
    checkpoint.save(Path(path), network.state_dict(), {"config": network.config, "thresholds": thresholds})


def load(path) -> tuple[DelNet, dict]:
    """The network and thresholds that `save` wrote. EcgError for a file that is something else."""
    tensors, info = checkpoint.read(Path(path))
    if not isinstance(info, dict) or info.get("config", {}).get("encoder") != "delnet":
        raise EcgError(
            "no delineation network", file=path, fix="give a file delineation-*.safetensors that notebook 11 wrote"
        )
    network = DelNet(info["config"]["size"])
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise EcgError(f"weights do not fit: {error}", file=path) from error
    return network.eval(), info["thresholds"]
