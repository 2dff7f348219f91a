"""Encoders: one architecture per file, found by its file name.

A file `encoders/<name>.py` holds `SIZES` (size -> keyword arguments) and a class `Encoder(nn.Module)` whose constructor
takes `n_leads` and those keywords; it has `dim`, `n_leads`, `forward(x) -> z` and `tokens(x)`, and where z is made of
the tokens alone, `pool(tokens) -> z`. One whose weights are published has `from_published(state)`, which gives the
released tensors our names.
"""

import inspect
import json
import logging
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import nn

from ecglib import EcgError, find_plugin, plugin_names
from ecglib.data.files import write_atomic
from ecglib.models import encoders

log = logging.getLogger(__name__)


def names() -> list[str]:
    """Names of the encoders there are."""
    return plugin_names(encoders.__path__)


def module(name: str):
    """The module of encoder `name`; raises EcgError that lists the valid names."""
    return find_plugin(encoders.__name__, encoders.__path__, name, "encoder")


def build(
    name: str, size: str = "small", n_leads: int = 12, seed: int = 0, fs: float = 100.0, **overrides
) -> nn.Module:
    """Make a randomly initialised encoder that maps x (batch, n_leads, time) to (batch, dim).
    size: key of the module's SIZES; overrides: replace single numbers of it; fs: rate of x in Hz, where it matters;
    seed: of the initial weights, without touching the global generator. Its `config` is a JSON dict from which `load`
    builds the same. Raises EcgError for an unknown name, size, keyword."""
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


@cache
def _takes(architecture: type) -> frozenset[str]:
    return frozenset(inspect.signature(architecture.forward).parameters) & {"lead_mask", "peaks"}


def reads_beats(encoder: nn.Module) -> bool:
    """Whether an encoder is told the R peaks of its input."""
    return "peaks" in _takes(type(encoder))


def embed(encoder: nn.Module, x: torch.Tensor, lead_mask=None, peaks=None) -> torch.Tensor:
    """z (batch, dim) of x (batch, lead, time); lead_mask bool (batch, lead) goes to encoders that tell a missing lead
    from a flat one, peaks int64 (batch, n), samples of x or -1, to those that read heartbeats."""
    x, known = checked_input(encoder, x), {"lead_mask": lead_mask, "peaks": peaks}
    return encoder(x, **{name: known[name] for name in _takes(type(encoder))})


def tokens(encoder: nn.Module, x: torch.Tensor, lead_mask=None, peaks=None) -> torch.Tensor:
    """As `embed`, but the tokens (batch, token, dim); those that are all zero are padding."""
    x, known = checked_input(encoder, x), {"lead_mask": lead_mask, "peaks": peaks}
    return encoder.tokens(x, **{name: known[name] for name in _takes(type(encoder))})


def _mean(tokens: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    return (tokens * real).sum(1) / real.sum(1).clamp(min=1)


def _max(tokens: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    return tokens.masked_fill(~real, -torch.inf).amax(1).masked_fill(~real.any(1), 0)


POOLING = {"mean": _mean, "max": _max}  # of tokens (batch, token, dim), of which some are real, bool (batch, token, 1)


def pooled(encoder: nn.Module, x: torch.Tensor, lead_mask=None, peaks=None, pooling: str = "mean+max") -> torch.Tensor:
    """As `embed`, but by poolings of the tokens side by side, (batch, dim x poolings); "": the encoder's own vector.

    An encoder without tokens, such as a published model, has its own vector alone.
    """
    if not pooling or not hasattr(encoder, "tokens"):
        return embed(encoder, x, lead_mask, peaks)
    wrong = [name for name in pooling.split("+") if name not in POOLING]
    if wrong:
        raise EcgError(f"unknown pooling {wrong[0]!r}", field="pooling", fix=f"use {', '.join(POOLING)}, joined by +")
    each = tokens(encoder, x, lead_mask, peaks)
    real = (each != 0).any(-1, keepdim=True)
    return torch.cat([POOLING[name](each, real) for name in pooling.split("+")], 1)


def pooled_width(encoder: nn.Module, pooling: str = "mean+max") -> int:
    """Width of what `pooled` gives."""
    return encoder.dim * (len(pooling.split("+")) if hasattr(encoder, "tokens") else 1)


def checked_input(encoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """x (batch, lead, time) in the precision of the encoder's weights; EcgError for what is no batch of signals."""
    if not isinstance(x, torch.Tensor):
        raise EcgError(f"a {type(x).__name__} is no tensor", field="x", fix="give torch.from_numpy(x)")
    if not x.is_floating_point():
        raise EcgError(f"{x.dtype} values: counts are no signal", field="x", fix="give millivolt as float32")
    if x.ndim != 3 or not x.numel():
        reason = f"x {tuple(x.shape)} is no (batch, lead, time) with one record, lead and sample or more"
        raise EcgError(reason, field="x", fix="give x[None] for a single record")
    if x.shape[1] != getattr(encoder, "n_leads", x.shape[1]):
        card = getattr(encoder, "card", None)
        name, leads = (
            (card.name, ", ".join(card.leads)) if card else (f"an encoder of {encoder.n_leads}", encoder.n_leads)
        )
        raise EcgError(f"{x.shape[1]} leads for {name}", field="x", fix=f"give {leads}, in this order")
    return x.to(next((p.dtype for p in encoder.parameters()), x.dtype))


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


def rebuilt(config: dict) -> nn.Module:
    """An encoder of the architecture and sizes of a `config`, with random weights."""
    kwargs = {key: value for key, value in config.items() if key not in ("encoder", "size")}
    return _make(config["encoder"], kwargs, config["size"], seed=0)


def load(folder) -> tuple[nn.Module, dict]:
    """Read what `save` wrote: (encoder with its weights, info). EcgError where a file is missing or does not fit."""
    folder = Path(folder)
    config, info = card(folder)
    encoder = rebuilt(config)
    file, fresh = folder / "encoder.safetensors", encoder.state_dict()
    nonzero = [key for key, value in fresh.items() if value.ndim > 1 and value.any()]
    try:
        state = load_bytes(file.read_bytes())
        prefix, state = next((spelt for spelt in spellings(state) if spelt[1].keys() == fresh.keys()), ("", state))
        encoder.load_state_dict(state)
    except (RuntimeError, SafetensorError) as error:
        raise EcgError(f"weights do not fit: {error}", file=str(file), fix="train or fetch it again") from error
    require_sound(state, file, nonzero)
    if prefix:
        log.warning("%s: %r is taken off the names of all tensors", file, prefix)
    return encoder, info


def spellings(state: dict):
    """Yield ("", state), and then (what was taken off, tensors) for each wrapper around the network that left a mark.

    That is "_orig_mod." of torch.compile anywhere, and after it, part by part, what all names begin with.
    """
    yield "", state
    taken, plain = "", {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    if len(plain) == len(state) and plain.keys() != state.keys():
        taken, state = "_orig_mod.", plain
        yield taken, state
    while len(parts := {key.partition(".")[:2] for key in state}) == 1 and parts.copy().pop()[1]:
        prefix = "".join(parts.pop())
        taken, state = taken + prefix, {key.removeprefix(prefix): value for key, value in state.items()}
        yield taken, state


def require_sound(tensors: dict[str, torch.Tensor], file=None, nonzero=()) -> None:
    """EcgError, with the tensor's name, for NaN, infinity, and nothing but zeros in one of those named in `nonzero`."""
    for name, value in tensors.items():
        reason = ""
        if value.is_floating_point() and not value.isfinite().all():
            reason = f"{(~value.isfinite()).sum()} of {value.numel()} values are NaN or infinite"
        elif name in nonzero and not value.any():
            reason = f"all {value.numel()} values are zero"
        if reason:
            raise EcgError(reason, file=file, field=name, fix="fetch the file again, or take a sound checkpoint")


def participation_ratio(z: np.ndarray) -> float:
    """Directions in use by embeddings z (record, dim): participation ratio (sum l)^2 / sum l^2 of the eigenvalues l
    of their covariance; 1 when all lie on a line, dim when variance is equal everywhere, 0 when they all collapse."""
    variance = np.linalg.svd(z - z.mean(0), compute_uv=False).astype(np.float64) ** 2
    return float(variance.sum() ** 2 / (variance**2).sum()) if variance.any() else 0.0
