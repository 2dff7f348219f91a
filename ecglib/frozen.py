"""Frozen features: what an encoder, or a table of hand-made measurements, says of the rows of a cohort.

Features of published models are kept in `checkpoint.cache_dir()`, by the content of weights, recordings and code: the
second probe on them computes nothing.
"""

import hashlib
import io
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ecglib import beats, checkpoint, encoders
from ecglib.batches import CohortData, to_device
from ecglib.signals import EcgError


def features(encoder, cohort, rows, leads=None, profile="study", batch_size: int = 0) -> np.ndarray:
    """Frozen features: float32 (row, dim) of `encoder` in evaluation mode, on the GPU where there is one.

    batch_size: records at a time (0: what a published model asks for, else 256).
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kept = _place(encoder, cohort, rows, leads, profile, device)
    if kept is not None and kept.is_file():
        return np.load(kept)
    data = CohortData(cohort, rows, leads, profile)
    batch_size = batch_size or getattr(encoder, "batch_size", 256)
    encoder, chunks = encoder.eval().to(device), np.array_split(np.arange(len(data)), math.ceil(len(data) / batch_size))
    with torch.inference_mode():
        batches = (to_device(data.batch(chunk), device) for chunk in chunks)
        z = torch.cat([encoders.embed(encoder, b.x, b.lead_mask).float().cpu() for b in batches]).numpy()
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        np.save(file, z)
        checkpoint.write_atomic(kept, file.getvalue())
    return z


def _place(encoder, cohort, rows, leads, profile, device: str) -> Path | None:
    """Where the features are kept; None for what is no published model, and for cohorts that state no content."""
    signals = getattr(cohort, "content", "")
    if not (getattr(encoder, "content", "") and signals):
        return None
    how = [signals, repr(profile), repr(leads), device, torch.__version__, _code(), np.asarray(rows).tobytes()]
    key = hashlib.sha256(repr([_weights(encoder), *how]).encode()).hexdigest()
    return checkpoint.cache_dir() / "features" / f"{key}.npy"


def _weights(encoder) -> str:
    """Fingerprint of an encoder as it is now: one that was trained since it was loaded is another."""
    total = hashlib.sha256(type(encoder).__qualname__.encode())
    for name, value in encoder.state_dict().items():
        total.update(f"{name} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().numpy())
    return total.hexdigest()


@cache
def _code() -> str:
    """Fingerprint of this library: other code, other features."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def handmade(cohort, rows, leads=None) -> np.ndarray:
    """Hand-made features of `ecglib.beats`: float32 (row, feature). R peaks are looked for in the given leads only."""
    names = cohort.leads if leads is None else tuple(leads)
    out = []
    for chunk in np.array_split(np.asarray(rows), math.ceil(len(rows) / 256)):
        for row, x in zip(chunk, cohort.batch(chunk, names), strict=True):
            peaks = cohort.peaks(row) if names == cohort.leads else beats.r_peaks(x, cohort.fs)
            out.append(beats.features(x, cohort.fs, peaks)[0])
    return np.stack(out).astype(np.float32)


def own_input(model, leads, cohorts) -> tuple:
    """(leads, profile) of a published model; EcgError where the task has not all the leads that it reads, or windows
    that are longer than its input."""
    missing = [lead for lead in model.card.leads if lead not in leads]
    if missing:
        reason = f"{model.card.title} reads {', '.join(missing)}, the task has {', '.join(leads)}"
        raise EcgError(reason, field="task_leads", fix="use a model of these leads, or a task with more")
    for cohort in cohorts:
        seconds = cohort.batch(np.arange(1)).shape[-1] / cohort.fs
        if seconds > model.card.chain.seconds:
            reason = (
                f"{cohort.name} has windows of {seconds:g} s, {model.card.title} reads {model.card.chain.seconds:g} s"
            )
            fix = f"pack it with seconds={model.card.chain.seconds:g} and windows=all: a record's windows are averaged"
            raise EcgError(reason, field="seconds", fix=fix)
    return model.card.leads, model.card.chain
