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
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn

from ecglib import checkpoint, encoders, objectives
from ecglib.augment import fixed_draws
from ecglib.batches import CohortData as CohortData
from ecglib.batches import JointData as JointData
from ecglib.batches import positions, to_device
from ecglib.signals import EcgError

CHECKPOINT = "checkpoint.safetensors"


def learning_rate(step: int, steps: int, lr: float, warmup: int) -> float:
    """Linear warm-up over `warmup` steps to `lr`, then half a cosine down to zero at `steps`."""
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def mean_loss(data, batch_size: int = 256):
    """Validation function for `fit`: the objective's mean loss over `data`; the score to maximise is its negative.

    What an objective draws (masks, negatives) is the same at every call, so that only the weights change the loss.
    """

    def validate(objective) -> dict[str, float]:
        total = 0.0
        device = next(objective.parameters()).device
        with fixed_draws():
            for index in np.array_split(np.arange(len(data)), math.ceil(len(data) / batch_size)):
                batch = to_device(data.batch(index), device)
                total += float(objective(batch)[0]) * len(index)
        return {"val_loss": total / len(data), "val_score": -total / len(data)}

    return validate


def fit(
    objective: nn.Module, data, out_dir=None, *, steps: int, batch_size: int = 64, lr: float = 1e-3,
    weight_decay: float = 1e-4, warmup: int = 0, seed: int = 0, val=None, val_every: int = 0, select: str = "last",
    checkpoint_every: int = 0, checkpoint_dir=None, devices=1, strategy="auto", precision="auto", clip: float = 1.0,
    progress=None,
) -> pd.DataFrame:  # fmt: skip
    """Train `objective` on `data` (a CohortData or anything with its `batch`, `record_ids` and length) by AdamW.

    batch_size is global: it is divided over the processes. warmup counts steps. val: data to compute the mean loss on,
    or a function objective -> metrics with "val_score" (higher is better), called every `val_every` steps and at the
    end; select="best" keeps the weights of the best val_score. precision "auto": bf16-mixed on a GPU, else float32.
    devices and strategy are Fabric's. progress: function called with each history row.
    out_dir gets encoder.safetensors, encoder.json, objective.safetensors (its other parts) and history.csv (no wall
    times in them); checkpoints lie in checkpoint_dir (default: out_dir) until the end. A rerun with the same arguments
    continues from the last one.
    Returns the history (step, loss, logs, lr, val metrics); the trained weights are in `objective`.
    Raises EcgError for a loss or gradient that is not finite (naming the records of the batch), for a validation score
    that is not while select="best", and for arguments that do not fit.
    """
    options = {k: v for k, v in locals().items() if k not in ("objective", "data", "out_dir", "val", "progress")}
    if select not in ("last", "best") or (select == "best" and val is None):
        raise EcgError(f"select={select!r}", field="select", fix="'last', or 'best' together with val")
    if out_dir is not None:
        return _fit(objective, data, Path(out_dir), val, progress, options)
    if devices != 1:
        raise EcgError("several processes need a folder to meet in", field="out_dir", fix="give out_dir")
    with tempfile.TemporaryDirectory() as folder:
        return _fit(objective, data, Path(folder), val, progress, options)


def _fit(objective, data, out_dir: Path, val, progress, options: dict) -> pd.DataFrame:
    folder = Path(options.pop("checkpoint_dir") or out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CHECKPOINT
    places = {k: options.pop(k) for k in ("devices", "strategy", "precision")}
    if places["precision"] == "auto":
        places["precision"] = "bf16-mixed" if torch.cuda.is_available() else "32-true"
    if str(places["precision"]) in ("16", "16-mixed"):  # its loss scaling provokes infinite gradients, and has a state
        raise EcgError("16-bit floats overflow", field="precision", fix="use bf16-mixed or 32-true")
    val = mean_loss(val) if hasattr(val, "batch") else val
    fabric = Fabric(accelerator="auto", **places)
    fabric.launch(_run, objective, data, val, path, progress, options)
    # Spawned processes trained copies, so every process takes the result from the last checkpoint.
    tensors, info = checkpoint.read(path)
    prefix = "best." if options["select"] == "best" else "model."
    objective.cpu().load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    history = pd.DataFrame(info["rows"])
    fabric.barrier()
    if fabric.global_rank == 0:
        encoders.save(objective.encoder, out_dir, objective=objective.config, steps=options["steps"])
        objectives.save(objective, out_dir)
        checkpoint.write_atomic(out_dir / "history.csv", history.to_csv(index=False).encode())
        path.unlink()
    fabric.barrier()
    return history


def _run(fabric: Fabric, objective, data, val, path: Path, progress, options: dict) -> None:
    with deterministic(), torch.random.fork_rng():
        _Loop(fabric, objective, data, val, path, progress, **options).run()


class _Loop:
    """State of one training: model, optimiser, history, best weights so far."""

    def __init__(self, fabric, objective, data, val, path, progress, *, lr, weight_decay, **options):
        self.fabric, self.objective, self.data, self.val, self.path = fabric, objective, data, val, path
        self.progress, self.options, self.lr = progress, options, lr
        self.fingerprint = _fingerprint(objective, data, {"lr": lr, "weight_decay": weight_decay, **options})
        trained = [p for p in objective.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, fused=True)
        self.rows, self.best, self.best_score = [], {}, -math.inf
        self.model, self.stepper = fabric.setup(objective, self.optimizer)
        if options["batch_size"] % fabric.world_size:
            raise EcgError("batch_size is not a multiple of the processes", field="batch_size", fix="change either")

    def run(self) -> None:
        steps, every = self.options["steps"], self.options["checkpoint_every"]
        for step in range(self.resume(), steps):
            row = self.step(step)
            last = step + 1 == steps
            if self.val and (last or (self.options["val_every"] and (step + 1) % self.options["val_every"] == 0)):
                row.update(self.validate())
            self.rows.append(row)
            if self.progress and self.fabric.global_rank == 0:
                self.progress(row)
            if every and (step + 1) % every == 0 and not last:
                self.save(step + 1)
        self.save(steps)
        self.fabric.barrier()

    def step(self, step: int) -> dict:
        rank, world = self.fabric.global_rank, self.fabric.world_size
        o = self.options
        index = positions(len(self.data), o["batch_size"], o["seed"], step)
        index = index[: len(index) // world * world]
        batch = self.fabric.to_device(self.data.batch(index[rank::world]))
        torch.manual_seed(int(np.random.SeedSequence([o["seed"], step, rank]).generate_state(1)[0]))
        lr = learning_rate(step, o["steps"], self.lr, o["warmup"])
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.objective.train()
        loss, logs = self.model(batch)
        row = {"loss": loss.detach(), **{k: torch.as_tensor(v, device=loss.device) for k, v in logs.items()}}
        row = {k: float(self.fabric.all_reduce(v.float(), reduce_op="mean")) for k, v in row.items()}
        self.check("loss", row["loss"], step, index)
        self.stepper.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        limit = o["clip"] or math.inf
        norm = self.fabric.clip_gradients(self.model, self.stepper, max_norm=limit, error_if_nonfinite=False)
        self.check("gradient norm", float(norm), step, index)
        self.stepper.step()
        if hasattr(self.objective, "after_step"):
            self.objective.after_step(step)
        return {"step": step + 1, **row, "lr": lr}

    def check(self, what: str, value: float, step: int, index: np.ndarray) -> None:
        """Stop at a value that is not finite, before the weights take it in."""
        if not math.isfinite(value):
            ids = ", ".join(self.data.record_ids[index])
            raise EcgError(f"{what} is {value} at step {step} on records {ids}", field=what, fix="look at them")

    def validate(self) -> dict:
        self.objective.eval()
        with torch.no_grad():
            metrics = {k: float(v) for k, v in self.val(self.objective).items()}
        if self.options["select"] == "last":
            return metrics
        score = metrics.get("val_score", math.nan)
        if not math.isfinite(score):
            fix = "validate on records that have both classes of a label, or use select='last'"
            raise EcgError(f"the validation score is {score}: no weights are best", field="val_score", fix=fix)
        if score > self.best_score:
            self.best_score = score
            self.best = {k: v.detach().cpu().clone() for k, v in self.objective.state_dict().items()}
        return metrics

    def save(self, step: int) -> None:
        if self.fabric.global_rank:
            return
        tensors = {f"model.{k}": v for k, v in self.objective.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
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
        parts = {"model": {}, "best": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, name = key.split(".", 1)
            parts[part][name] = value
        self.objective.load_state_dict(parts["model"])
        moments = {}
        for name, value in parts["optimizer"].items():
            moments.setdefault(int(name.split(".")[0]), {})[name.split(".")[1]] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.best, self.best_score, self.rows = parts["best"], info["best_score"], info["rows"]
        return info["step"]


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
