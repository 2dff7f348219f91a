"""Objectives: one pretraining method per file, found by its file name, all fed the same raw batch.

A file `objectives/<name>.py` holds a class `Objective(nn.Module)` whose constructor takes the encoder and keyword scalars
with defaults; `forward(batch) -> (loss, logs)` makes its own views; optional `after_step(step)`. Random draws come from
torch's global generator, which `train.fit` seeds anew before every step. Dropping a file in is all it takes.
"""

import importlib
import inspect
import pkgutil
from typing import NamedTuple

import torch
from torch import nn

from ecglib.signals import EcgError


class Batch(NamedTuple):
    """What every objective gets.

    x: float32 (batch, lead, time), after the data's preprocessing profile; lead_mask: bool (batch, lead), False = the
    lead is missing and zero; patient_id: int64 (batch,), equal where the patient is; meta: name -> float32 (batch,),
    NaN where unknown (sex: 1 male, 0 female); text: the reports, "" where there is none; labels: int8 (batch, label)
    states of ecglib.labels (0 absent, 1 present, 2 possible, -1 unknown) or None.
    """

    x: torch.Tensor
    lead_mask: torch.Tensor
    patient_id: torch.Tensor
    meta: dict[str, torch.Tensor]
    text: list[str]
    labels: torch.Tensor | None


def names() -> list[str]:
    """Names of the objectives there are: the files beside this one."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def build(name: str, encoder: nn.Module, seed: int = 0, **params) -> nn.Module:
    """Make objective `name` around `encoder`; `seed` fixes the initial weights of its own layers.

    The result carries `config`, a JSON dict of its name and parameters. Raises EcgError, with the valid names, for an
    unknown objective or parameter.
    """
    if name not in names():
        raise EcgError(f"unknown objective {name!r}", field="objective", fix=f"use one of {', '.join(names())}")
    source = importlib.import_module(f"{__name__}.{name}")
    valid = [p for p in inspect.signature(source.Objective).parameters if p != "encoder"]
    wrong = sorted(set(params) - set(valid))
    if wrong:
        raise EcgError(f"{name} has no parameter {', '.join(wrong)}", field=wrong[0], fix=f"use {', '.join(valid)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective = source.Objective(encoder, **params)
    objective.config = {"objective": name, **params}
    return objective
