"""Objectives: one pretraining method per file, found by its file name, all fed the same raw batch.

A file `objectives/<name>.py` holds `PAPER` (name and source), `ENCODER` (the encoder it is meant for) and a class
`Objective(nn.Module)` whose constructor takes the encoder and keyword scalars with defaults; `forward(batch) -> (loss,
logs)` takes an `ecglib.training.batches.Batch` and makes its own views; optional `after_step(step)`. A constructor that
ends in `**views` hands them to `ecglib.training.augment.PairViews`, whose settings it takes too. The file may also hold
`META` (columns of the records that it reads), `MIN_LEADS`, `ROWS = "normal"` (it learns from normal ECGs only), `FIRST`
(the objective whose artefact its parameter `first` names), `DRAWS_LEADS = True` (a one-lead encoder is fed from
batches of all leads), `READS_REPORTS = True`, `MEASURED = True` (its batches carry the measurements), `LEARNED` (what
shows that a training has learned its task, see `learned`) and `from_data(data)`, the parameters that the training data
decide. Random draws come from torch's global generator, which `train.fit` seeds anew before every step.
"""

import inspect
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from ecglib import EcgError, find_plugin, models, plugin_names
from ecglib.training import checkpoint
from ecglib.training.augment import PairViews

OPTIONAL = {"META": (), "MIN_LEADS": 1, "ROWS": "all", "FIRST": "", "DRAWS_LEADS": False}
OPTIONAL |= {"LEARNED": {}, "READS_REPORTS": False, "MEASURED": False}
FIRST_STEPS = 5  # whose mean is "first" in LEARNED


def names() -> list[str]:
    """Names of the objectives there are."""
    return plugin_names(__path__)


def module(name: str):
    """The module of objective `name`; raises EcgError that lists the valid names."""
    return find_plugin(__name__, __path__, name, "objective")


def trait(name: str, key: str):
    """What objective `name` says of itself: `key` is one of OPTIONAL, whose value is the default."""
    return getattr(module(name), key, OPTIONAL[key])


def parameters(name: str) -> dict:
    """Keyword parameters of objective `name` with their defaults."""
    own = inspect.signature(module(name).Objective).parameters.values()
    valid = {p.name: p.default for p in own if p.name not in ("encoder", "views")}
    if "views" in {p.name for p in own}:
        valid |= {field.name: field.default for field in fields(PairViews) if field.name != "n_leads"}
    return valid


def from_data(name: str, data) -> dict:
    """Parameters of objective `name` that the training data decide, such as the number of labels or a vocabulary."""
    source = module(name)
    return source.from_data(data) if hasattr(source, "from_data") else {}


def learned(folder) -> str:
    """Whether the encoder in `folder` has learned its task: "yes", "no: ..." or "", where nothing says so.

    Read from history.csv, mean over the last tenth of the steps. `LEARNED` of the objective: column -> (">" or "<",
    factor, reference), reference "one", "first" (the mean of the first FIRST_STEPS), or another column.
    """
    folder = Path(folder)
    history, card = folder / "history.csv", folder / "encoder.json"
    name = json.loads(card.read_text())["info"].get("objective", {}).get("objective") if card.is_file() else None
    if name not in names() or not history.is_file() or not trait(name, "LEARNED"):
        return ""
    rows = pd.read_csv(history)
    last, first = rows.tail(max(1, len(rows) // 10)).mean(), rows.head(FIRST_STEPS).mean()
    wanted, missed = trait(name, "LEARNED"), []
    if not {*wanted, *(reference for *_, reference in wanted.values())} - {"one", "first"} <= set(rows):
        return ""
    for column, (sign, factor, reference) in wanted.items():
        bound = factor * {"one": 1.0, "first": first[column]}.get(reference, last.get(reference, np.nan))
        if not (last[column] > bound if sign == ">" else last[column] < bound):
            missed.append(f"{column} {last[column]:.2g}, wanted {sign} {bound:.2g}")
    return f"no: {'; '.join(missed)}" if missed else "yes"


def accepted(name: str, **candidates) -> dict:
    """Those of `candidates` that objective `name` takes: one notebook offers its settings to every objective."""
    valid = parameters(name)
    return {key: value for key, value in candidates.items() if key in valid}


def build(name: str, encoder: nn.Module, seed: int = 0, **params) -> nn.Module:
    """Make objective `name` around `encoder`; `seed` fixes the initial weights of its own layers.
    The result carries `config`, a JSON dict of its name and parameters; its `resolved` replaces some, such as a path by
    what was read there. Raises EcgError for an unknown objective or parameter, and for an encoder with too few
    leads."""
    valid = parameters(name)
    wrong = sorted(set(params) - set(valid))
    if wrong:
        raise EcgError(f"{name} has no parameter {', '.join(wrong)}", field=wrong[0], fix=f"use {', '.join(valid)}")
    needed = trait(name, "MIN_LEADS")
    if encoder.n_leads < needed:
        reason = f"{name} needs at least {needed} leads, the encoder takes {encoder.n_leads}"
        raise EcgError(reason, field="n_leads", fix="give it more leads, or use a single-lead method such as clef")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective = module(name).Objective(encoder, **params)
    objective.config = {"objective": name, **params, **getattr(objective, "resolved", {})}
    return objective


def load(folder) -> nn.Module:
    """The whole objective that `train.fit` left in `folder`, with the weights of its encoder and of its own parts."""
    path = Path(folder) / "objective.safetensors"
    if not path.is_file():
        raise EcgError("no objective here", file=str(path), fix="run the pretraining stage that writes it")
    encoder, _ = models.load(folder)
    own, config = checkpoint.read(path)
    params = json.loads(json.dumps(config))
    objective = build(params.pop("objective"), encoder, **params)
    weights = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    try:
        objective.load_state_dict(own | weights)
    except RuntimeError as error:
        raise EcgError(f"weights do not fit: {error}", file=str(path)) from error
    return objective.eval()
