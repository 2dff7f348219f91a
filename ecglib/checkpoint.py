"""Files that are at any moment either the old one or the whole new one: tensors plus JSON in one safetensors file."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_bytes

from ecglib.signals import EcgError


def cache_dir() -> Path:
    """Folder for what can be had again: ECGLIB_CACHE, else ecglib in XDG_CACHE_HOME, else ecglib in ~/.cache."""
    if own := os.environ.get("ECGLIB_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecglib"


def write_atomic(path: Path, payload: bytes) -> None:
    """Write `payload` beside `path`, flush it to disk, rename. What a killed writer leaves is overwritten next time."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def save(path: Path, tensors: dict[str, torch.Tensor], info) -> None:
    """Write named tensors and `info` (anything JSON) as one file."""
    # clones: safetensors refuses tensors that share memory
    tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    write_atomic(path, save_bytes(tensors, {"info": json.dumps(info)}))


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """What `save` wrote: (tensors, info). Raises EcgError for a file that is something else."""
    try:
        with safe_open(path, "pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["info"])
    except (SafetensorError, TypeError, KeyError) as error:
        raise EcgError(f"not a checkpoint: {error}", file=str(path), fix="delete it to start anew") from error
