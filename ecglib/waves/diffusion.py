"""ECGs from noise: diffusion on the latent maps of `vae`, told statements, age, sex and heart rate.

Latent diffusion of ECGs after DiffuSETS (arXiv 2501.05932), which is told reports by a language model where we name
statements. Noise after DDPM (arXiv 2006.11239) by a cosine (arXiv 2102.09672), velocity as what is predicted
(arXiv 2202.00512), steps of DDIM (arXiv 2010.02502), guidance without a classifier (arXiv 2207.12598). A simulator can
lend the starting point (SDEdit, arXiv 2108.01073), which is our plain form of what SE-Diff (arXiv 2511.09895) is after.
The U-Net, its sizes and its time counted in beats are ours.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ecglib import EcgError, require_known
from ecglib.data.labels import PRESENT
from ecglib.models.layers import Attention, channels_last, sincos
from ecglib.training import checkpoint, train
from ecglib.waves.vae import CHUNK, GROUPS, Residual

SIZES = {  # widths of the levels, each of half the columns of the one before; width of the condition
    "medium": {"widths": (128, 256, 256), "dim": 256},
    "small": {"widths": (64, 96, 128), "dim": 128},
    "tiny": {"widths": (8, 8, 8), "dim": 16},
}
N_STEPS = 1000  # of the noising process
OFFSET = 0.008  # of the cosine, arXiv 2102.09672, equation 17
NUMBERS = ("age", "sex", "rate")  # years; 1 male, 0 female; beats per minute
CENTRE, SPREAD = (60.0, 0.5, 75.0), (20.0, 0.5, 25.0)  # of NUMBERS, as the network is told them
HARMONICS = 2  # of the heart rate that the network sees along the time axis
HEADS = 4


class Conditions(NamedTuple):
    """What ECGs are asked to show: statements float32 (record, label), 1 = present; numbers float32 (record, 3) of
    NUMBERS, NaN where nothing is asked."""

    statements: np.ndarray
    numbers: np.ndarray


def of_records(data, rate: np.ndarray) -> Conditions:
    """Conditions of the records of a `CohortData` with labels and meta age and sex; rate: (record,) beats a minute."""
    batch = data.batch(np.arange(len(data)))
    statements = (batch.labels.numpy() == PRESENT).astype(np.float32)
    numbers = np.stack([batch.meta["age"].numpy(), batch.meta["sex"].numpy(), rate], axis=1)
    return Conditions(statements, numbers.astype(np.float32))


def signal_share(step: torch.Tensor) -> torch.Tensor:
    """Variance that is still signal after a noising step from 0 to N_STEPS (alpha bar): 1 at 0, 0 at N_STEPS."""
    angle = (step.double() / N_STEPS + OFFSET) / (1 + OFFSET) * torch.pi / 2
    first = torch.cos(torch.tensor(OFFSET / (1 + OFFSET) * torch.pi / 2, dtype=torch.float64)) ** 2
    return (angle.cos() ** 2 / first).clamp(0, 1).float()


def noised(z: torch.Tensor, noise: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps z (batch, latent, column) after `step` (batch,), and the velocity that a network is to say of them."""
    share = signal_share(step).to(z.device)[:, None, None]
    a, s = share.sqrt(), (1 - share).sqrt()
    return a * z + s * noise, a * noise - s * z


class Denoiser(nn.Module):
    """Noised maps z (batch, latent, column), steps and conditions -> velocity, of the same shape: a U-Net.

    n_labels: statements that it can be told; latent: channels of a map; seconds: length of a column; size: key of
    SIZES; seed: of the initial weights. `centre`, `spread`: of each channel of the maps that it learned from.
    """

    def __init__(self, n_labels: int, latent: int = 4, seconds: float = 0.08, size: str = "small", seed: int = 0):
        super().__init__()
        require_known("size", [size], SIZES)
        self.config = {"encoder": "denoiser", "n_labels": n_labels, "latent": latent, "seconds": seconds, "size": size}
        widths, self.dim, self.seconds = SIZES[size]["widths"], SIZES[size]["dim"], seconds
        self.factor = 2 ** (len(widths) - 1)
        self.register_buffer("centre", torch.zeros(latent, 1))
        self.register_buffer("spread", torch.ones(latent, 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            dim, told = self.dim, n_labels + 2 * len(NUMBERS) + 1
            self.step = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
            self.told = nn.Sequential(nn.Linear(told, dim), nn.SiLU(), nn.Linear(dim, dim))
            self.stem = nn.Conv2d(latent + 2 * HARMONICS, widths[0], (1, 3), padding=(0, 1))
            pairs = list(zip(widths, (*widths[1:], widths[-1]), strict=True))
            self.down = nn.ModuleList(Residual(width, width, dim) for width in widths)
            self.halve = nn.ModuleList(nn.Conv2d(a, b, (1, 4), (1, 2), (0, 1)) for a, b in pairs[:-1])
            self.middle = nn.ModuleList([Residual(widths[-1], widths[-1], dim) for _ in range(2)])
            self.attend = nn.ModuleList(Attend(width) for width in (*widths[1:], *widths[:0:-1]))
            self.up = nn.ModuleList(Residual(b + a, a, dim) for a, b in reversed(pairs))
            self.out = nn.Conv2d(widths[0], latent, (1, 3), padding=(0, 1))
            nn.init.zeros_(self.out.weight)

    def forward(self, z, step, statements, numbers, given) -> torch.Tensor:
        """step: (batch,) 1 to N_STEPS; statements (batch, label), numbers (batch, 3): as of Conditions; given: bool
        (batch,), False for whom nothing is told."""
        known = numbers.isfinite() & given[:, None]
        told = (numbers - numbers.new_tensor(CENTRE)) / numbers.new_tensor(SPREAD)
        told = torch.where(known, told, 0.0)
        flags = torch.cat([known, given[:, None]], 1).to(z.dtype)
        words = torch.cat([statements * given[:, None], told, flags], 1)
        condition = F.silu(self.step(sincos(step, self.dim)) + self.told(words))
        h = channels_last(torch.cat([z, self.beats(numbers, known, z.shape[-1])], 1))
        n = h.shape[-1]
        h, maps = self.stem(F.pad(h, (0, -n % self.factor))), []
        attend = iter(self.attend)
        for level, layer in enumerate(self.down):
            h = layer(self.halve[level - 1](h) if level else h, condition)
            h = next(attend)(h) if level else h
            maps.append(h)
        for layer in self.middle:
            h = layer(h, condition)
        for level, (layer, fine) in enumerate(zip(self.up, reversed(maps), strict=True)):
            h = layer(torch.cat([F.interpolate(h, scale_factor=(1, 2)) if level else h, fine], 1), condition)
            h = next(attend)(h) if level < len(self.up) - 1 else h
        return self.out(h).squeeze(2)[..., :n]

    def beats(self, numbers, known, n: int) -> torch.Tensor:
        """Time counted in beats of the asked rate, as sines and cosines (batch, 2 HARMONICS, n); zeros without one.

        Where the first beat falls stays open: any phase is a mixture of the two.
        """
        rate = torch.where(known[:, 2], numbers[:, 2], 0.0) / 60
        order = torch.arange(1, HARMONICS + 1, device=numbers.device)
        time = torch.arange(n, device=numbers.device) * self.seconds
        angle = 2 * torch.pi * rate[:, None, None] * order[:, None] * time
        return torch.cat([angle.sin(), angle.cos()], 1) * known[:, 2, None, None]


class Attend(nn.Module):
    """Attention of the columns of x (batch, width, 1, column) to each other, with a residual."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(GROUPS, width), Attention(width, HEADS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x).squeeze(2).transpose(1, 2)
        place = sincos(torch.arange(h.shape[1], device=h.device), h.shape[2])
        return x + self.attention(h + place).transpose(1, 2).unsqueeze(2)


class Maps(NamedTuple):
    """A batch: z (batch, latent, column), statements (batch, label), numbers (batch, 3), all float32."""

    z: torch.Tensor
    statements: torch.Tensor
    numbers: torch.Tensor


class MapData:
    """Latent maps float32 (record, latent, column) with their Conditions and ids, for `train.fit`."""

    def __init__(self, z: np.ndarray, conditions: Conditions, record_ids):
        if not len(z) or len(z) != len(conditions.statements):
            reason = f"{len(z)} maps with {len(conditions.statements)} conditions"
            raise EcgError(reason, field="z", fix="give one of each for every record, one record at least")
        self.tensors = Maps(*(torch.from_numpy(np.asarray(each, np.float32)) for each in (z, *conditions)))
        self.record_ids = np.asarray(record_ids)

    def __len__(self) -> int:
        return len(self.record_ids)

    def batch(self, index: np.ndarray) -> Maps:
        """Records of positions `index`."""
        at = torch.from_numpy(np.asarray(index))
        return Maps(*(each[at] for each in self.tensors))


class Objective(nn.Module):
    """Mean squared error of the velocity at random steps; a share `drop` of the records is told nothing."""

    def __init__(self, encoder: Denoiser, drop: float = 0.1):
        super().__init__()
        self.encoder, self.drop, self.config = encoder, drop, {"objective": "diffusion", "drop": drop}

    def forward(self, batch: Maps) -> tuple[torch.Tensor, dict]:
        n, device = len(batch.z), batch.z.device
        z = (batch.z - self.encoder.centre) / self.encoder.spread
        step = torch.randint(1, N_STEPS + 1, (n,)).to(device)
        given = (torch.rand(n) >= self.drop).to(device)
        x, velocity = noised(z, torch.randn_like(z), step)
        error = (self.encoder(x, step, batch.statements, batch.numbers, given) - velocity).square().mean((1, 2))
        return error.mean(), {"late": error[step > N_STEPS / 2].mean().nan_to_num().detach()}


def fit(data: MapData, settings: train.Settings, size="small", seconds=0.08, drop=0.1, progress=None):
    """Train a Denoiser; returns (network, history). Arguments: as of Denoiser, Objective and `train.fit`."""
    z = data.tensors.z
    network = Denoiser(data.tensors.statements.shape[1], z.shape[1], seconds, size, settings.seed)
    network.centre.copy_(z.mean((0, 2))[:, None])
    network.spread.copy_(z.std((0, 2))[:, None].clamp_min(1e-6))
    history = train.fit(Objective(network, drop), data, settings=settings, progress=progress)
    return network.eval(), history


def ddim(velocity, z: torch.Tensor, steps) -> torch.Tensor:
    """Walk z from the first of the falling `steps` to the last without noise: arXiv 2010.02502, equation 12, eta 0.

    velocity: function of (z, step (batch,)).
    """
    shares = signal_share(torch.as_tensor(np.asarray(steps, float)))
    signal, noise = shares.sqrt(), (1 - shares).sqrt()
    for k, step in enumerate(steps[:-1]):
        v = velocity(z, torch.full((len(z),), float(step)))
        clean, rest = signal[k] * z - noise[k] * v, noise[k] * z + signal[k] * v
        z = signal[k + 1] * clean + noise[k + 1] * rest
    return z


def guided(network: Denoiser, conditions: Maps, weight: float):
    """Velocity as `ddim` asks for it: told nothing, plus `weight` times what being told changes (1: as told)."""

    def velocity(z, step):
        n = len(z)
        told = torch.ones(n, dtype=torch.bool)
        if weight == 1:
            return network(z, step, conditions.statements, conditions.numbers, told)
        both = (torch.cat([each, each]) for each in (z, step, conditions.statements, conditions.numbers))
        with_it, without = network(*both, torch.cat([told, ~told])).chunk(2)
        return without + weight * (with_it - without)

    return velocity


def sample(network: Denoiser, conditions: Conditions, n_columns, *, seed=0, n_steps=25, guidance=2.0, **begin):
    """Latent maps float32 (record, latent, n_columns) that the conditions ask for.

    n_steps: of DDIM; guidance: see `guided`; begin: start, strength of `beginning`, without which noise alone is.
    """
    asked = [torch.from_numpy(np.asarray(each, np.float32)) for each in conditions]
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(asked[0]), len(network.centre), n_columns, generator=random)
    z, first = beginning(network, noise, **begin) if begin else (noise, float(N_STEPS))
    steps = np.linspace(first, 0, max(1, round(n_steps * first / N_STEPS)) + 1)
    network.eval()
    with torch.inference_mode():
        parts = zip(z.split(CHUNK), *(each.split(CHUNK) for each in asked), strict=True)
        drawn = [ddim(guided(network, Maps(some, *told), guidance), some, steps) for some, *told in parts]
        return (torch.cat(drawn) * network.spread + network.centre).numpy()


def beginning(network: Denoiser, noise: torch.Tensor, start: np.ndarray, strength: float) -> tuple:
    """Maps to begin with and their step: those of other ECGs, `start` (record, latent, column), of which `strength`, a
    share of N_STEPS, is noised away. EcgError for a strength beyond (0, 1], and for maps of another shape."""
    if not 0 < strength <= 1:
        raise EcgError(f"strength={strength}", field="strength", fix="a share of the noising steps, at most 1")
    if start.shape != tuple(noise.shape):
        reason = f"maps of shape {start.shape} to begin with, {tuple(noise.shape)} asked"
        raise EcgError(reason, field="start", fix="give one map for each condition")
    step = torch.full((len(noise),), N_STEPS * strength)
    return noised((torch.from_numpy(start) - network.centre) / network.spread, noise, step)[0], N_STEPS * strength


def save(network: Denoiser, labels, path) -> None:
    """Write a network with the names of its statements as one file."""
    checkpoint.save(Path(path), network.state_dict(), {"config": network.config, "labels": list(labels)})


def load(path) -> tuple[Denoiser, list[str]]:
    """The network and the names of its statements that `save` wrote. EcgError for a file that is something else."""
    tensors, info = checkpoint.read(Path(path))
    config = dict(info.get("config", {})) if isinstance(info, dict) else {}
    if config.pop("encoder", None) != "denoiser":
        raise EcgError("no denoiser", file=path, fix="give the denoiser.safetensors that notebook 16 wrote")
    network = Denoiser(**config)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise EcgError(f"weights do not fit: {error}", file=path) from error
    return network.eval(), info["labels"]
