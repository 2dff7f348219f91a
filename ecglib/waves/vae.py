"""A variational autoencoder of ECGs: eight independent leads to a small map over time, and back.

The map, four numbers every 80 ms at 100 Hz, is that of DiffuSETS (arXiv 2501.05932); networks, their sizes and the
weight of the second term are ours. Where the encoder reads a few leads alone, it rebuilds the others, as WearECG
(arXiv 2510.11442) does from II, V1 and V5.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError, require_known
from ecglib.models.layers import channels_last
from ecglib.training import checkpoint, train

# widths after each halving of the time axis, channels of the latent map; "wide" has the widths of DiffuSETS
SIZES = {
    "wide": {"widths": (128, 256, 512), "latent": 4},
    "small": {"widths": (32, 64, 96), "latent": 4},
    "tiny": {"widths": (8, 8, 8), "latent": 2},
}
N_LEADS = 8  # independent ones of twelve
GROUPS = 8  # of channels that are normalised together
LOG_VARIANCE = (-12.0, 6.0)  # of the posterior: beyond, its exponential helps nobody
CHUNK = 128  # records at a time when a network is asked


class Residual(nn.Module):
    """Twice group normalisation, SiLU, convolution over time of x (batch, width, 1, time), with a residual.

    condition: width of a vector that shifts and scales each channel in between (FiLM, arXiv 1709.07871); 0: none.
    """

    def __init__(self, width_in: int, width: int, condition: int = 0, kernel: int = 3):
        super().__init__()
        shape = {"kernel_size": (1, kernel), "padding": (0, kernel // 2)}
        self.norms = nn.ModuleList([nn.GroupNorm(GROUPS, width_in), nn.GroupNorm(GROUPS, width)])
        self.convs = nn.ModuleList([nn.Conv2d(width_in, width, **shape), nn.Conv2d(width, width, **shape)])
        self.skip = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()
        self.film = nn.Linear(condition, 2 * width) if condition else None
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        h = self.norms[1](self.convs[0](F.silu(self.norms[0](x))))
        if self.film is not None:
            gain, shift = self.film(condition)[..., None, None].chunk(2, dim=1)
            h = h * (1 + gain) + shift
        return self.skip(x) + self.convs[1](F.silu(h))


class Autoencoder(nn.Module):
    """x (batch, 8, time) to the mean and log variance of a latent map (batch, latent, time / 8), and a map to x.

    size: key of SIZES; scale: divides x, in its units; seed: of the initial weights.
    """

    def __init__(self, size: str = "small", scale: float = 1.0, seed: int = 0):
        super().__init__()
        require_known("size", [size], SIZES)
        if not scale > 0:
            raise EcgError(f"scale={scale}", field="scale", fix="give the standard deviation of the leads")
        self.config = {"encoder": "vae", "size": size, "scale": float(scale)}
        widths, self.latent, self.scale = SIZES[size]["widths"], SIZES[size]["latent"], float(scale)
        self.factor = 2 ** len(widths)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = widths[0]
            down = [nn.Conv2d(2 * N_LEADS, width, (1, 3), padding=(0, 1)), Residual(width, width)]
            for out in widths[1:]:
                down += [nn.Conv2d(width, out, (1, 4), stride=(1, 2), padding=(0, 1)), Residual(out, out)]
                width = out
            self.down = nn.Sequential(*down, nn.Conv2d(width, 2 * self.latent, 1))
            up = [nn.Conv2d(self.latent, width, (1, 3), padding=(0, 1)), Residual(width, width)]
            for out in widths[-2::-1]:
                up += [nn.Upsample(scale_factor=(1, 2)), Residual(width, out)]
                width = out
            out_layer = nn.Conv2d(width, 2 * N_LEADS, (1, 3), padding=(0, 1))
            self.up = nn.Sequential(*up, nn.GroupNorm(GROUPS, width), nn.SiLU(), out_layer)

    def n_latent(self, n_times: int) -> int:
        """Columns of the latent map of n_times samples, which are padded with zeros to a multiple of 64."""
        return -(-n_times // 64) * 64 // self.factor

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of the posterior of x (batch, 8, time): two maps (batch, latent, n_latent)."""
        padded = F.pad(x / self.scale, (0, self.n_latent(x.shape[-1]) * self.factor - x.shape[-1]))
        pairs = padded.unflatten(-1, (-1, 2)).transpose(2, 3).flatten(1, 2)  # neighbouring samples become channels
        mean, log_variance = self.down(channels_last(pairs)).squeeze(2).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def decode(self, z: torch.Tensor, n_times: int) -> torch.Tensor:
        """x (batch, 8, n_times) of a latent map z."""
        pairs = self.up(channels_last(z)).squeeze(2).unflatten(1, (N_LEADS, 2))
        return pairs.transpose(2, 3).flatten(2)[..., :n_times] * self.scale


def kl_to_standard(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of normal distributions from the standard one, each element: arXiv 1312.6114, B."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


class Signals(NamedTuple):
    """A batch of ECGs: x float32 (batch, 8, time)."""

    x: torch.Tensor


class SignalData:
    """Independent leads x float32 (record, 8, time) of records with their ids, for `train.fit`."""

    def __init__(self, x: np.ndarray, record_ids):
        if x.ndim != 3 or x.shape[1] != N_LEADS or not len(x):
            reason = f"signals of shape {x.shape}"
            raise EcgError(reason, field="x", fix=f"give (record, {N_LEADS}, time), one record at least")
        self.x, self.record_ids = torch.from_numpy(np.ascontiguousarray(x, np.float32)), np.asarray(record_ids)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: np.ndarray) -> Signals:
        """Records of positions `index`."""
        return Signals(self.x[torch.from_numpy(np.asarray(index))])


class Objective(nn.Module):
    """Mean squared error of x over scale^2, plus `beta` times the mean divergence of the posterior (beta-VAE).

    encoder: an Autoencoder; seen: bool (8,), the leads that it is shown, the others are zeros; beta: weight.
    """

    def __init__(self, encoder: Autoencoder, seen=None, beta: float = 1e-3):
        super().__init__()
        self.encoder, self.beta = encoder, beta
        seen = np.ones(N_LEADS, bool) if seen is None else np.asarray(seen, bool)
        self.register_buffer("seen", torch.from_numpy(seen)[:, None], persistent=False)
        self.config = {"objective": "vae", "seen": seen.tolist(), "beta": beta}

    def forward(self, batch: Signals) -> tuple[torch.Tensor, dict]:
        mean, log_variance = self.encoder.encode(batch.x * self.seen)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        rebuilt = self.encoder.decode(z, batch.x.shape[-1])
        error = ((rebuilt - batch.x) / self.encoder.scale).square().mean()
        divergence = kl_to_standard(mean, log_variance).mean()
        return error + self.beta * divergence, {"error": error.detach(), "divergence": divergence.detach()}


def fit(data: SignalData, settings, size="small", seen=None, beta=1e-3, progress=None, begins=None):
    """Train an Autoencoder; returns (network, history). Arguments: as of `Objective` and `train.fit`.

    begins: an Autoencoder of that size whose weights are the first ones; it stays as it is. None: random weights.
    """
    scale = float(data.x.double().square().mean().sqrt())
    network = Autoencoder(size, scale, settings.seed)
    if begins is not None:
        network.load_state_dict(begins.state_dict())
    objective = Objective(network, seen, beta)
    history = train.fit(objective, data, settings=settings, progress=progress)
    return objective.encoder.eval(), history


def latents(network: Autoencoder, x: np.ndarray) -> np.ndarray:
    """Means of the posteriors of x (record, 8, time): float32 (record, latent, n_latent)."""
    with torch.inference_mode():
        parts = [network.encode(some)[0] for some in torch.from_numpy(x).split(CHUNK)]
    return torch.cat(parts).numpy()


def signals(network: Autoencoder, z: np.ndarray, n_times: int) -> np.ndarray:
    """ECGs of latent maps z (record, latent, n_latent): float32 (record, 8, n_times)."""
    with torch.inference_mode():
        return torch.cat([network.decode(some, n_times) for some in torch.from_numpy(z).split(CHUNK)]).numpy()


def rebuilt(network: Autoencoder, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """As `lead_reconstruction.by_ridge`: x (record, 8, time) with the leads that are not `kept` by a network that was
    trained to be shown those alone, around a mean of zero."""
    out = signals(network, latents(network, np.where(kept[:, None], x, 0).astype(np.float32)), x.shape[-1])
    out -= out.mean(axis=-1, keepdims=True)
    return np.where(kept[:, None], x, out).astype(np.float32)


def save(network: Autoencoder, path) -> None:
    """Write a network as one file."""
    checkpoint.save(Path(path), network.state_dict(), {"config": network.config})


def load(path) -> Autoencoder:
    """The network that `save` wrote. EcgError for a file that is something else."""
    tensors, info = checkpoint.read(Path(path))
    config = info.get("config", {}) if isinstance(info, dict) else {}
    if config.get("encoder") != "vae":
        raise EcgError("no autoencoder of ECGs", file=path, fix="give the vae.safetensors that notebook 16 wrote")
    network = Autoencoder(config["size"], config["scale"])
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise EcgError(f"weights do not fit: {error}", file=path) from error
    return network.eval()
