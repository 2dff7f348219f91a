"""Objectives: one pretraining method per file, found by its file name, all fed the same raw batch.

A file `objectives/<name>.py` holds `PAPER` (name and source), `ENCODER` (the encoder it is meant for) and a class
`Objective(nn.Module)` whose constructor takes the encoder and keyword scalars with defaults; `forward(batch) -> (loss,
logs)` takes an `ecglib.batches.Batch` and makes its own views; optional `after_step(step)`. It may also hold
`META` (columns of the records that it reads), `MIN_LEADS`, `ROWS = "normal"` (it learns from normal ECGs only), `FIRST`
(the objective whose artefact its parameter `first` names), `DRAWS_LEADS = True` (a one-lead encoder is fed from
batches of all leads) and `from_data(data)`, the parameters that the training data decide. Random draws come from
torch's global generator, which `train.fit` seeds anew before every step.
"""

import inspect
import json
from pathlib import Path

import torch
from torch import nn

from ecglib import checkpoint, encoders, wings
from ecglib.batches import Batch as Batch
from ecglib.signals import EcgError

OPTIONAL = {"META": (), "MIN_LEADS": 1, "ROWS": "all", "FIRST": "", "DRAWS_LEADS": False}


def names() -> list[str]:
    """Names of the objectives there are."""
    return wings.names(__path__)


def module(name: str):
    """The module of objective `name`; raises EcgError that lists the valid names."""
    return wings.find(__name__, __path__, name, "objective")


def fact(name: str, what: str):
    """What objective `name` says of itself: a name of OPTIONAL, whose value is the default."""
    return getattr(module(name), what, OPTIONAL[what])


def parameters(name: str) -> dict:
    """Keyword parameters of objective `name` with their defaults."""
    signature = inspect.signature(module(name).Objective)
    return {p.name: p.default for p in signature.parameters.values() if p.name != "encoder"}


def from_data(name: str, data) -> dict:
    """Parameters of objective `name` that the training data decide, such as the number of labels or a vocabulary."""
    source = module(name)
    return source.from_data(data) if hasattr(source, "from_data") else {}


def accepted(name: str, **candidates) -> dict:
    """Those of `candidates` that objective `name` takes: one notebook offers its settings to every objective."""
    valid = parameters(name)
    return {key: value for key, value in candidates.items() if key in valid}


def options(name: str, text: str) -> dict:
    """Parameters from "name=value,name=value", each in the type of its default; EcgError for what is none."""
    valid, found = parameters(name), {}
    for word in filter(None, (w.strip() for w in text.split(","))):
        key, _, value = word.partition("=")
        if key not in valid:
            raise EcgError(f"{name} has no parameter {key!r}", field="options", fix=f"use {', '.join(valid)}")
        kind = type(valid[key])
        try:
            if kind in (bool, type(None)):  # None: a number or None
                found[key] = json.loads({"None": "null"}.get(value, value.lower()))
            else:
                found[key] = kind(value)
        except ValueError:
            raise EcgError(f"{word!r} is no {kind.__name__}", field="options", fix=f"write {key}=...") from None
    return found


def build(name: str, encoder: nn.Module, seed: int = 0, **params) -> nn.Module:
    """Make objective `name` around `encoder`; `seed` fixes the initial weights of its own layers.

    The result carries `config`, a JSON dict of its name and parameters; those in its `resolved` replace what was given,
    such as a path by what was read there. Raises EcgError, with the valid names, for an
    unknown objective or parameter, and for an encoder with fewer leads than the method needs.
    """
    valid = parameters(name)
    wrong = sorted(set(params) - set(valid))
    if wrong:
        raise EcgError(f"{name} has no parameter {', '.join(wrong)}", field=wrong[0], fix=f"use {', '.join(valid)}")
    needed = fact(name, "MIN_LEADS")
    if encoder.n_leads < needed:
        reason = f"{name} needs at least {needed} leads, the encoder takes {encoder.n_leads}"
        raise EcgError(reason, field="n_leads", fix="give it more leads, or use a single-lead method such as clef")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective = module(name).Objective(encoder, **params)
    objective.config = {"objective": name, **params, **getattr(objective, "resolved", {})}
    return objective


def save(objective: nn.Module, folder) -> None:
    """Write objective.safetensors: its config and all its tensors but the encoder's, which `encoders.save` writes."""
    own = {k: v for k, v in objective.state_dict().items() if not k.startswith("encoder.")}
    checkpoint.save(Path(folder) / "objective.safetensors", own, objective.config)


def load(folder) -> nn.Module:
    """The whole objective that `train.fit` left in `folder`, with the weights of its encoder and of its own parts."""
    path = Path(folder) / "objective.safetensors"
    if not path.is_file():
        raise EcgError("no objective here", file=str(path), fix="run the pretraining stage that writes it")
    encoder, _ = encoders.load(folder)
    own, config = checkpoint.read(path)
    params = json.loads(json.dumps(config))
    objective = build(params.pop("objective"), encoder, **params)
    weights = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    try:
        objective.load_state_dict(own | weights)
    except RuntimeError as error:
        raise EcgError(f"weights do not fit: {error}", file=str(path)) from error
    return objective.eval()
