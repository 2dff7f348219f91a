"""Encoders: one architecture per file, found by its file name.

A file `encoders/<name>.py` holds `SIZES` (size -> keyword arguments) and a class `Encoder(nn.Module)` whose constructor
takes `n_leads` and those keywords; it has `dim`, `n_leads`, `forward(x) -> z` and `tokens(x)`. One whose weights are
published has `from_published(state)`, which gives the released tensors our names.
"""

import inspect
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import nn

from ecglib import wings
from ecglib.checkpoint import write_atomic
from ecglib.signals import EcgError


def names() -> list[str]:
    """Names of the encoders there are."""
    return wings.names(__path__)


def module(name: str):
    """The module of encoder `name`; raises EcgError that lists the valid names."""
    return wings.find(__name__, __path__, name, "encoder")


def build(
    name: str, size: str = "small", n_leads: int = 12, seed: int = 0, fs: float = 100.0, **overrides
) -> nn.Module:
    """Make a randomly initialised encoder.

    `size` is a key of the module's SIZES; `overrides` replace single numbers of that size; `seed` fixes the initial
    weights without touching the global generator; `fs` is the rate of x in Hz, for architectures that must know it.
    The result maps x (batch, n_leads, time) to (batch, dim) and carries
    `config`, a JSON dict from which `load` builds the same network. Raises EcgError for an unknown name, size, keyword.
    """
    source = module(name)
    if size not in source.SIZES:
        raise EcgError(f"unknown size {size!r} of {name}", field="size", fix=f"use one of {', '.join(source.SIZES)}")
    rate = {"fs": fs} if "fs" in inspect.signature(source.Encoder).parameters else {}
    return _make(name, {"n_leads": n_leads, **rate, **source.SIZES[size], **overrides}, size, seed)


def _make(name: str, kwargs: dict, size: str, seed: int) -> nn.Module:
    source = module(name)
    valid = list(inspect.signature(source.Encoder).parameters)
    wrong = sorted(set(kwargs) - set(valid))
    if wrong:
        raise EcgError(f"encoder {name} has no parameter {', '.join(wrong)}", field=wrong[0], fix=f"use {valid}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = source.Encoder(**kwargs)
    encoder.config = json.loads(json.dumps({"encoder": name, "size": size, **kwargs}))
    return encoder


def embed(encoder: nn.Module, x: torch.Tensor, lead_mask: torch.Tensor) -> torch.Tensor:
    """z (batch, dim) of x (batch, lead, time); lead_mask (batch, lead) goes to encoders that tell a missing lead from a
    flat one."""
    return encoder(x, lead_mask) if "lead_mask" in inspect.signature(encoder.forward).parameters else encoder(x)


def n_parameters(module_: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in module_.parameters() if p.requires_grad)


def save(encoder: nn.Module, folder, **info) -> None:
    """Write encoder.safetensors and encoder.json (its config plus `info`) into `folder`, each by an atomic rename."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    text = json.dumps({"config": encoder.config, "info": info}, indent=1, sort_keys=True) + "\n"
    for file, payload in (("encoder.safetensors", save_bytes(state)), ("encoder.json", text.encode())):
        write_atomic(folder / file, payload)


def card(folder) -> tuple[dict, dict]:
    """(config, info) that `save` wrote beside the weights. EcgError where one of the two files is missing."""
    folder = Path(folder)
    for file in ("encoder.json", "encoder.safetensors"):
        if not (folder / file).is_file():
            raise EcgError("no encoder here", file=str(folder / file), fix="run the pretraining stage that writes it")
    saved = json.loads((folder / "encoder.json").read_text())
    return saved["config"], saved["info"]


def load(folder) -> tuple[nn.Module, dict]:
    """Read what `save` wrote: (encoder with its weights, info). EcgError where a file is missing or does not fit."""
    folder = Path(folder)
    config, info = card(folder)
    encoder = _make(config.pop("encoder"), config, config.pop("size"), seed=0)
    try:
        encoder.load_state_dict(load_bytes((folder / "encoder.safetensors").read_bytes()))
    except RuntimeError as error:
        raise EcgError(f"weights do not fit: {error}", file=str(folder / "encoder.safetensors")) from error
    return encoder, info


def directions(z: np.ndarray) -> float:
    """Directions in use by embeddings z (record, dim): participation ratio (sum l)^2 / sum l^2 of the eigenvalues l
    of their covariance; 1 when all lie on a line, dim when variance is equal everywhere, 0 when they all collapse."""
    variance = np.linalg.svd(z - z.mean(0), compute_uv=False).astype(np.float64) ** 2
    return float(variance.sum() ** 2 / (variance**2).sum()) if variance.any() else 0.0
