"""The only training loop: every objective, one device or many, interruptible at any moment.

A step depends on nothing but the weights, (seed, step) and the data: the order of the records and every random view are
drawn from generators seeded per step. So a checkpoint is weights, moments and the history, and a resumed run ends with
the same bytes as an uninterrupted one.
"""

import hashlib
import json
import math
import os
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn

from ecglib import EcgError, models, require_known
from ecglib.data import files, notebook
from ecglib.training import checkpoint
from ecglib.training.augment import fixed_draws
from ecglib.training.batches import positions, to_device
from ecglib.training.ema import Teacher

CHECKPOINT = "checkpoint.safetensors"
SCHEDULES = ("cosine", "constant")
EASY = 0.95  # accuracy of a contrastive method that has nothing left to learn


def learning_rate(step: int, steps: int, lr: float, warmup: int) -> float:
    """Linear warm-up over `warmup` steps to `lr`, then half a cosine down to zero at `steps`."""
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def schedule(step: int, settings) -> float:
    """Learning rate of a step, as `Settings.schedule` says."""
    if settings.schedule == "constant":
        return settings.lr * min(1.0, (step + 1) / max(1, settings.warmup))
    return learning_rate(step, settings.steps, settings.lr, settings.warmup)


def mean_loss(data, batch_size: int = 256):
    """Validation function for `fit`: the objective's mean loss over `data`, with the same draws at every call; the
    score to maximise is its negative."""

    def validate(objective) -> dict[str, float]:
        total = 0.0
        device = next(objective.parameters()).device
        with fixed_draws():
            for index in np.array_split(np.arange(len(data)), math.ceil(len(data) / batch_size)):
                batch = to_device(data.batch(index), device)
                total += float(objective(batch)[0]) * len(index)
        return {"val_loss": total / len(data), "val_score": -total / len(data)}

    return validate


@dataclass  # not frozen: Fabric hands copies to its processes
class Settings:
    """How `fit` trains. The second group is not part of what a training is: a rerun may change it and go on."""

    steps: int  # optimiser steps
    batch_size: int = 64  # records, over all processes together
    lr: float = 1e-3  # peak learning rate of AdamW
    weight_decay: float = 1e-4  # of matrices; biases and gains have none
    warmup: int = 0  # steps
    seed: int = 0  # of the order of the records and of what the objective draws
    clip: float = 1.0  # largest norm of the gradient; 0 = no limit
    average: float = 0.0  # momentum of the moving average of the weights, which is what counts in the end; 0 = none
    select: str = "last"  # "best": keep the weights of the highest val_score
    val_every: int = 0  # steps between validations; 0 = at the end only
    checkpoint_every: int = 0  # steps; 0 = at the end only
    schedule: str = "cosine"  # down to zero after the warm-up; "constant": the rate stays
    encoder_rate: float = 1.0  # learning rate of the encoder as a share of that of all else
    patience: int = 0  # validations without a better score after which training ends; 0 = never before `steps`

    checkpoint_dir: Path | str | None = None  # default: the output folder
    devices: int = 1  # of a node; this and the next three are Fabric's
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"  # bf16-mixed on a GPU, else float32

    def identity(self) -> dict:
        """The settings that decide what comes out, by name."""
        elsewhere = ("checkpoint_dir", "devices", "num_nodes", "strategy", "precision")
        return {name: value for name, value in asdict(self).items() if name not in elsewhere}


class ProgressBar:
    """`progress` of `fit`: one line or bar that updates; executed pages leave it out, so they hold no times."""

    def __init__(self, steps: int, name: str = ""):
        self.steps, self.name, self.bar = steps, name, None

    def __call__(self, row: dict) -> None:
        if self.bar is None:  # a resumed training begins later
            self.bar = notebook.bar(self.name, self.steps, "step", initial=row["step"] - 1)
        self.bar.set_postfix(loss=f"{row['loss']:.4g}", refresh=False)
        self.bar.update()
        if row["step"] == self.steps:
            self.bar.close()


def fit(objective: nn.Module, data, out_dir=None, *, settings: Settings, val=None, progress=None) -> pd.DataFrame:
    """Train `objective`, which `objectives.build` made, by AdamW; returns the history (step, loss, logs, lr, val
    metrics).
    data: a CohortData, or anything with its `batch`, `record_ids` and length
    out_dir: gets encoder.safetensors, encoder.json, objective.safetensors (its other tensors) and history.csv; a rerun
    with the same arguments continues from the last checkpoint there
    val: data to compute the mean loss on, or a function objective -> metrics with "val_score" (higher is better)
    progress: function called with each row of the history, such as a `ProgressBar`
    Raises EcgError for a loss or gradient that is not finite (naming the records), for a validation score that is not
    while select="best", and for arguments that do not fit."""
    if settings.select not in ("last", "best") or (settings.select == "best" and val is None):
        raise EcgError(f"select={settings.select!r}", field="select", fix="'last', or 'best' together with val")
    require_known("schedule", [settings.schedule], SCHEDULES)
    if settings.patience and val is None:
        raise EcgError("patience without validation", field="patience", fix="give val, or patience=0")
    if out_dir is not None:
        return _fit(objective, data, Path(out_dir), val, progress, settings)
    if settings.devices * settings.num_nodes != 1:
        raise EcgError("several processes need a folder to meet in", field="out_dir", fix="give out_dir")
    with tempfile.TemporaryDirectory() as folder:
        return _fit(objective, data, Path(folder), val, progress, settings)


def _fit(objective, data, out_dir: Path, val, progress, settings: Settings) -> pd.DataFrame:
    folder = Path(settings.checkpoint_dir or out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CHECKPOINT
    precision = settings.precision
    if precision == "auto":
        precision = "bf16-mixed" if torch.cuda.is_available() else "32-true"
    if str(precision) in ("16", "16-mixed"):  # its loss scaling provokes infinite gradients, and has a state
        raise EcgError("16-bit floats overflow", field="precision", fix="use bf16-mixed or 32-true")
    val = mean_loss(val) if hasattr(val, "batch") else val
    places = dict(devices=settings.devices, num_nodes=settings.num_nodes, strategy=settings.strategy)
    fabric = Fabric(accelerator="auto", precision=precision, **places)
    fabric.launch(_run, objective, data, val, path, progress, settings)
    # Spawned processes trained copies, so every process takes the result from the last checkpoint.
    tensors, info = checkpoint.read(path)
    prefix = "best." if settings.select == "best" else "average." if settings.average else "model."
    objective.cpu().load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    history = pd.DataFrame(info["rows"])
    fabric.barrier()
    if fabric.global_rank == 0:
        models.save(objective.encoder, out_dir, objective=objective.config, steps=len(history))
        checkpoint.save_objective(objective, out_dir)
        files.write_atomic(out_dir / "history.csv", history.to_csv(index=False).encode())
        path.unlink()
    fabric.barrier()
    return history


def _run(fabric: Fabric, objective, data, val, path: Path, progress, settings: Settings) -> None:
    with deterministic(), torch.random.fork_rng():
        _Loop(fabric, objective, data, val, path, progress, settings).run()


class _Loop:
    """State of one training: model, optimiser, history, best weights so far."""

    def __init__(self, fabric, objective, data, val, path, progress, settings: Settings):
        self.fabric, self.objective, self.data, self.val, self.path = fabric, objective, data, val, path
        self.progress, self.settings = progress, settings
        self.fingerprint = _fingerprint(objective, data, settings.identity())
        self.optimizer = torch.optim.AdamW(_groups(objective, settings), lr=settings.lr, fused=True)
        self.rows, self.best, self.best_score, self.warned = [], {}, -math.inf, False
        self.average = Teacher(objective) if settings.average else None
        self.model, self.stepper = fabric.setup(objective, self.optimizer)
        if self.average:
            self.average.to(fabric.device)
        if settings.batch_size % fabric.world_size:
            raise EcgError("batch_size is not a multiple of the processes", field="batch_size", fix="change either")

    def run(self) -> None:
        steps, every, val_every = self.settings.steps, self.settings.checkpoint_every, self.settings.val_every
        for step in range(self.resume(), steps):
            if self.exhausted():
                break
            row = self.step(step)
            last = step + 1 == steps
            if self.val and (last or (val_every and (step + 1) % val_every == 0)):
                row.update(self.validate())
            self.rows.append(row)
            self.warn_of_an_easy_task(row)
            if self.progress and self.fabric.global_rank == 0:
                self.progress(row)
            if every and (step + 1) % every == 0 and not last:
                self.save(step + 1)
        self.save(len(self.rows))
        self.fabric.barrier()

    def exhausted(self) -> bool:
        """Whether the last `patience` validations brought no better score than those before."""
        patience, scores = self.settings.patience, [row["val_score"] for row in self.rows if "val_score" in row]
        return bool(patience) and len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])

    def step(self, step: int) -> dict:
        rank, world = self.fabric.global_rank, self.fabric.world_size
        settings = self.settings
        index = positions(len(self.data), settings.batch_size, settings.seed, step)
        index = index[: len(index) // world * world]
        batch = self.fabric.to_device(self.data.batch(index[rank::world]))
        torch.manual_seed(int(np.random.SeedSequence([settings.seed, step, rank]).generate_state(1)[0]))
        lr = schedule(step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        self.objective.train()
        loss, logs = self.model(batch)
        row = {"loss": loss.detach(), **{k: torch.as_tensor(v, device=loss.device) for k, v in logs.items()}}
        row = {k: float(self.fabric.all_reduce(v.float(), reduce_op="mean")) for k, v in row.items()}
        self.check("loss", row["loss"], step, index)
        self.stepper.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        limit = settings.clip or math.inf
        norm = self.fabric.clip_gradients(self.model, self.stepper, max_norm=limit, error_if_nonfinite=False)
        self.check("gradient norm", float(norm), step, index)
        self.stepper.step()
        if hasattr(self.objective, "after_step"):
            self.objective.after_step(step)
        if self.average:
            self.average.update(self.objective, momentum=self.settings.average)
        return {"step": step + 1, **row, "lr": lr}

    def warn_of_an_easy_task(self, row: dict) -> None:
        """Once, where a contrastive method tells almost all pairs apart before a tenth of its steps is over."""
        early = row["step"] <= self.settings.steps / 10
        if early and not self.warned and row.get("accuracy", 0) > EASY and hasattr(self.objective, "views"):
            self.warned = True
            reason = f"{row['accuracy']:.0%} of the pairs are told apart at step {row['step']} of {self.settings.steps}"
            advice = "little is left to learn: make the views harder (crop_s, lead_dropout, gain, zscore=False)"
            warnings.warn(f"{reason}: {advice}", stacklevel=2)

    def check(self, quantity: str, value: float, step: int, index: np.ndarray) -> None:
        """Stop at a value that is not finite, before the weights take it in."""
        if not math.isfinite(value):
            ids = ", ".join(self.data.record_ids[index])
            raise EcgError(f"{quantity} is {value} at step {step} on records {ids}", field=quantity, fix="look at them")

    def validate(self) -> dict:
        judged = self.average[0] if self.average else self.objective.eval()
        with torch.no_grad():
            metrics = {k: float(v) for k, v in self.val(judged).items()}
        if self.settings.select == "last":
            return metrics
        score = metrics.get("val_score", math.nan)
        if not math.isfinite(score):
            fix = "validate on records that have both classes of a label, or use select='last'"
            raise EcgError(f"the validation score is {score}: no weights are best", field="val_score", fix=fix)
        if score > self.best_score:
            self.best_score = score
            self.best = {k: v.detach().cpu().clone() for k, v in judged.state_dict().items()}
        return metrics

    def save(self, step: int) -> None:
        if self.fabric.global_rank:
            return
        tensors = {f"model.{k}": v for k, v in self.objective.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {f"average.{k}": v for k, v in self.average[0].state_dict().items()} if self.average else {}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        info = {"step": step, "rows": self.rows, "best_score": self.best_score, "fingerprint": self.fingerprint}
        checkpoint.save(self.path, tensors, info)

    def resume(self) -> int:
        """Step to go on with: 0, or where a checkpoint of the very same training stands."""
        if not self.path.exists():
            return 0
        tensors, info = checkpoint.read(self.path)
        if info["fingerprint"] != self.fingerprint:
            warnings.warn(f"{self.path} belongs to another training: starting from step 0", stacklevel=2)
            return 0
        states = {"model": {}, "best": {}, "average": {}, "optimizer": {}}
        for key, value in tensors.items():
            owner, name = key.split(".", 1)
            states[owner][name] = value
        self.objective.load_state_dict(states["model"])
        if self.average:
            self.average[0].load_state_dict(states["average"])
        moments = {}
        for name, value in states["optimizer"].items():
            number, moment = name.split(".")
            moments.setdefault(int(number), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.best, self.best_score, self.rows = states["best"], info["best_score"], info["rows"]
        return info["step"]


def _groups(objective, settings: Settings) -> list[dict]:
    """Parameters with and without weight decay; those of the encoder apart where they learn at another rate."""
    trained = [(name, p) for name, p in objective.named_parameters() if p.requires_grad]
    apart, groups = settings.encoder_rate != 1, []
    for inner in (False, True) if apart else (None,):
        chosen = [p for name, p in trained if inner is None or name.startswith("encoder.") == inner]
        rate = settings.encoder_rate if inner else 1.0
        matrices, vectors = [p for p in chosen if p.ndim > 1], [p for p in chosen if p.ndim <= 1]
        groups.append({"params": matrices, "weight_decay": settings.weight_decay, "rate": rate})
        groups.append({"params": vectors, "weight_decay": 0.0, "rate": rate})
    return [group for group in groups if group["params"]]


def _fingerprint(objective, data, options: dict) -> str:
    """Hash of what determines a training: options, initial weights, record ids, the first profiled batch."""
    digest = hashlib.sha256(json.dumps([objective.config, options], sort_keys=True, default=str).encode())
    digest.update("\n".join(data.record_ids).encode())
    batch = data.batch(np.arange(min(8, len(data))))
    for tensor in (*objective.state_dict().values(), *(v for v in batch if isinstance(v, torch.Tensor))):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def deterministic():
    """Deterministic kernels inside the block (on a GPU an operation that has none only warns)."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # safe here, and it costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]
