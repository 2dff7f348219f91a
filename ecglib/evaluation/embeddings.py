"""Frozen features: what an encoder makes of the rows of a cohort, as one vector each, by one or several poolings.

Features of published models are kept in `files.cache_dir()`, by the content of weights, recordings and of the code
that makes them: the second probe on them computes nothing.
"""

import hashlib
import io
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from ecglib import EcgError, models
from ecglib.data.files import cache_dir, write_atomic
from ecglib.training.batches import CohortData, fastest_device, run_inference

LIBRARY = Path(__file__).parents[1]
CODE = ("data", "models", "training/batches.py", "evaluation/embeddings.py")  # what makes features of any encoder
OWN, SPREAD, MIDDLE = "own", "mean+max+sd", "two layers"
POOLINGS = (OWN, SPREAD, MIDDLE)  # the encoder's z; statistics of its tokens; the same of a layer half-way beside them


def features(encoder, cohort, rows, leads=None, profile="study", batch_size: int = 0) -> np.ndarray:
    """Frozen features of rows of a cohort, on the GPU where there is one.

    encoder: in evaluation mode; cohort, rows: a Cohort or Recordings and its row numbers.
    leads: names in the encoder's order (None: those of the cohort); profile: a Profile or its name.
    batch_size: records at a time (0: what a published model asks for, else 256). Returns float32 (row, dim).
    """
    device = fastest_device()
    file = _kept_file(encoder, cohort, rows, leads, profile, device)
    if file is not None and file.is_file():
        return np.load(file)
    data = CohortData(cohort, rows, leads, profile)
    batch_size = batch_size or getattr(encoder, "batch_size", 256)
    z = run_inference(encoder, partial(models.embed, encoder), data, batch_size, device).numpy()
    _require_finite(z, data)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        payload = io.BytesIO()
        np.save(payload, z)
        write_atomic(file, payload.getvalue())
    return z


def poolings(encoder, cohort, rows, leads=None, profile="study") -> dict[str, np.ndarray]:
    """Frozen features by each of POOLINGS that the encoder has, from one pass: name -> float32 (row, width).

    A published model is pooled as its card says, and no other way; arguments as of `features`.
    """
    if hasattr(encoder, "card"):
        return {OWN: features(encoder, cohort, rows, leads, profile)}
    data, device, widths = CohortData(cohort, rows, leads, profile), fastest_device(), {}

    def pooled(*batch):
        parts = of_batch(encoder, *batch)
        widths.update((name, part.shape[1]) for name, part in parts.items())
        return torch.cat([part.float() for part in parts.values()], 1)

    z = run_inference(encoder, pooled, data, getattr(encoder, "batch_size", 256), device).numpy()
    _require_finite(z, data)
    edges = np.cumsum([0, *widths.values()])
    parts = {name: z[:, a:b] for name, a, b in zip(widths, edges[:-1], edges[1:], strict=True)}
    if MIDDLE in parts:  # beside the last layer, not in its place
        parts[MIDDLE] = np.concatenate([parts[SPREAD], parts[MIDDLE]], 1)
    return parts


def scores(objective, cohort, rows, leads=None, profile="study") -> np.ndarray:
    """What an objective reads from each record, by the head that it was pretrained with: float32 (row, score).

    objective: of `objectives.load`, with a method `scores`; other arguments as of `features`.
    """
    data = CohortData(cohort, rows, leads, profile)
    z = run_inference(objective, objective.scores, data, 256, fastest_device()).numpy()
    _require_finite(z, data)
    return z


def of_batch(encoder, x, lead_mask, peaks) -> dict[str, torch.Tensor]:
    """The features of one batch by name; where z is made of the tokens alone, the network is asked once."""
    middle, layers = [], getattr(encoder, "blocks", ())
    hooks = [layer.register_forward_hook(lambda *call: middle.append(call[2])) for layer in layers[_half(layers)]]
    try:
        tokens = models.tokens(encoder, x, lead_mask, peaks)
    finally:
        for hook in hooks:
            hook.remove()
    pool = getattr(encoder, "pool", None)
    z = models.embed(encoder, x, lead_mask, peaks) if pool is None else pool(tokens)
    parts = {OWN: z, SPREAD: statistics(tokens)}
    for h in middle:
        registers = h.shape[1] - tokens.shape[1]
        if h.ndim == 3 and registers >= 0:
            parts[MIDDLE] = statistics(h[:, registers:])
    return parts


def _half(layers) -> slice:
    """The layer half-way, the lower one of two; none where there is a single one."""
    return slice((len(layers) - 1) // 2, (len(layers) - 1) // 2 + min(1, len(layers) // 2))


def statistics(tokens: torch.Tensor) -> torch.Tensor:
    """Mean, maximum and standard deviation over the tokens of each record that are not padding, which is all zero.

    tokens: (batch, token, dim). Returns (batch, 3 dim); zeros for a record without a token.
    """
    real = (tokens != 0).any(-1, keepdim=True)
    n = real.sum(1).clamp(min=1)
    mean = tokens.sum(1) / n
    highest = tokens.masked_fill(~real, -torch.inf).amax(1).masked_fill(~real.any(1), 0)
    deviation = ((tokens - mean[:, None]).square() * real).sum(1) / n
    return torch.cat([mean, highest, deviation.sqrt()], 1)


def _require_finite(z: np.ndarray, data) -> None:
    if (wrong := ~np.isfinite(z).all(axis=1)).any():
        reason = (
            f"the encoder gives NaN or infinity for {wrong.sum()} of {len(z)} rows, such as {data.record_ids[wrong][0]}"
        )
        raise EcgError(reason, file=data.cohort.name, field="features", fix="look at this record, or at the weights")


def _kept_file(encoder, cohort, rows, leads, profile, device: str) -> Path | None:
    """Where the features are kept; None for what is no published model, and for cohorts that state no content."""
    signals = getattr(cohort, "content", "")
    if not (getattr(encoder, "content", "") and signals):
        return None
    crop_s = getattr(getattr(encoder, "card", None), "crop_s", None)  # one network, any length of its crops
    inputs = [signals, crop_s, repr(profile), repr(leads), device, torch.__version__, np.asarray(rows).tobytes()]
    key = hashlib.sha256(repr([_weights(encoder), _code(encoder, cohort), *inputs]).encode()).hexdigest()
    return cache_dir() / "features" / f"{key}.npy"


def _weights(encoder) -> str:
    """Fingerprint of an encoder as it is now: one that was trained since it was loaded is another."""
    total = hashlib.sha256(type(encoder).__qualname__.encode())
    for name, value in encoder.state_dict().items():
        total.update(f"{name} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().numpy())
    return total.hexdigest()


def _code(encoder, cohort) -> str:
    """Fingerprint of the code that makes features: CODE, and the files in which encoder and cohort are defined."""
    types = {type(cohort), *map(type, encoder.modules())}
    names = {base.__module__ for kind in types for base in kind.__mro__}
    reader = getattr(cohort, "info", {}).get("dataset", {}).get("module")
    names |= {f"ecglib.datasets.{reader}"} if reader else set()
    return _hashed(LIBRARY, frozenset(name for name in names if name.startswith("ecglib.")))


@cache
def _hashed(library: Path, module_names: frozenset) -> str:
    """Fingerprint of CODE and of modules by their dotted names; library: the folder of the package ecglib."""
    paths = [library / name for name in CODE]
    for name in module_names:
        path = library.joinpath(*name.split(".")[1:])
        paths.append(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))
    files = {file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])}
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file.relative_to(library)}\0".encode() + file.read_bytes())
    return total.hexdigest()


def model_input(model, leads, cohorts) -> tuple:
    """(leads, profile) with which a published model is fed; leads: those of the task; cohorts: it will be asked about.

    Raises EcgError where the task lacks a lead that the model reads, or windows are longer than its input.
    """
    missing = [lead for lead in model.card.leads if lead not in leads]
    if missing:
        reason = f"{model.card.title} reads {', '.join(missing)}, the task has {', '.join(leads)}"
        raise EcgError(reason, field="task_leads", fix="use a model of these leads, or a task with more")
    longest = model.card.chain.seconds
    for cohort in cohorts:
        seconds = cohort.batch(np.arange(1)).shape[-1] / cohort.fs
        if seconds > longest:
            reason = f"{cohort.name} has windows of {seconds:g} s, {model.card.title} reads {longest:g} s"
            fix = f"pack it with seconds={longest:g} and windows=all: a record's windows are averaged"
            raise EcgError(reason, field="seconds", fix=fix)
    return model.card.leads, model.card.chain
