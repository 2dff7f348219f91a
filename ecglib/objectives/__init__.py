"""Objectives: one pretraining method per file, found by its file name, all fed the same raw batch.

A file `objectives/<name>.py` holds a class `Objective(nn.Module)` whose constructor takes the encoder and keyword
scalars with defaults; `forward(batch) -> (loss, logs)` takes an `ecglib.batches.Batch` and makes its own views;
optional `after_step(step)`. Random draws come from torch's global generator, which `train.fit` seeds anew before every
step. Dropping a file in is all it takes.
"""

import importlib
import inspect
import pkgutil

import torch
from torch import nn

from ecglib.batches import Batch as Batch
from ecglib.signals import EcgError


def names() -> list[str]:
    """Names of the objectives there are: the files beside this one."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def module(name: str):
    """The module of objective `name`; raises EcgError that lists the valid names."""
    if name not in names():
        raise EcgError(f"unknown objective {name!r}", field="objective", fix=f"use one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def parameters(name: str) -> dict:
    """Keyword parameters of objective `name` with their defaults."""
    signature = inspect.signature(module(name).Objective)
    return {p.name: p.default for p in signature.parameters.values() if p.name != "encoder"}


def accepted(name: str, **candidates) -> dict:
    """Those of `candidates` that objective `name` takes: one notebook offers its settings to every objective."""
    valid = parameters(name)
    return {key: value for key, value in candidates.items() if key in valid}


def build(name: str, encoder: nn.Module, seed: int = 0, **params) -> nn.Module:
    """Make objective `name` around `encoder`; `seed` fixes the initial weights of its own layers.

    The result carries `config`, a JSON dict of its name and parameters. Raises EcgError, with the valid names, for an
    unknown objective or parameter.
    """
    valid = parameters(name)
    wrong = sorted(set(params) - set(valid))
    if wrong:
        raise EcgError(f"{name} has no parameter {', '.join(wrong)}", field=wrong[0], fix=f"use {', '.join(valid)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective = module(name).Objective(encoder, **params)
    objective.config = {"objective": name, **params}
    return objective
