"""Files that are at any moment either the old one or the whole new one: tensors plus JSON in one safetensors file."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_bytes
from torch import nn

from ecglib import EcgError, models
from ecglib.data.files import write_atomic


def save_objective(objective: nn.Module, folder) -> None:
    """Write objective.safetensors: its config and all its tensors but the encoder's, which `models.save` writes."""
    own = {k: v for k, v in objective.state_dict().items() if not k.startswith("encoder.")}
    save(Path(folder) / "objective.safetensors", own, objective.config)


def save(path: Path, tensors: dict[str, torch.Tensor], info) -> None:
    """Write named tensors and `info` (anything JSON) as one file."""
    # clones: safetensors refuses tensors that share memory
    tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    write_atomic(path, save_bytes(tensors, {"info": json.dumps(info)}))


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """What `save` wrote: (tensors, info). EcgError for a file that is something else, and as `models.require_sound`."""
    try:
        with safe_open(path, "pt") as file:
            tensors, info = {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["info"])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise EcgError(f"not a checkpoint: {error}", file=str(path), fix="delete it to start anew") from error
    models.require_sound(tensors, path)
    return tensors, info
