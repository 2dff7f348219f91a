"""What there is to choose from: every objective with its encoder, size, memory and speed on this machine."""

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ecglib import models, objectives
from ecglib.data import filters, handmade, profiles
from ecglib.data.recording import LEADS
from ecglib.training import train
from ecglib.training.batches import Batch
from ecgsim import records

LABELS = ["NORM", "AFIB", "CLBBB"]
REPORTS = [
    "sinus rhythm. normal ecg.",
    "atrial fibrillation. no acute infarct.",
    "sinus rhythm. left bundle branch block.",
]


class Sample:
    """Simulated ECGs as training data, without any file: what `objectives` are fed in lists and contract tests.

    n records in turn normal, in atrial fibrillation, with left bundle branch block; two records per patient; fs in Hz;
    leads: how many (the first ones); text, age and sex as a cohort would have them, some of them unknown.
    """

    def __init__(self, n=64, seed=0, leads=12, fs=100.0, seconds=10):
        x, labels, truth = records.ecgs(n, fs=fs, seed=seed, labels=LABELS, seconds=seconds)
        self.measured = handmade.feature_names(LEADS[:leads])
        each = [handmade.features(one[:leads], fs, r, LEADS[:leads])[0] for one, r in zip(x, truth["r"], strict=True)]
        self.measurements = torch.from_numpy(np.stack(each))
        profile = profiles.profile("study")
        x = np.clip(filters.bandpass(x, fs, *profile.band, profile.order) / profile.scale, -profile.clip, profile.clip)
        self.labels, self.texts = LABELS, [REPORTS[i % 3] for i in range(n)]
        self.record_ids = np.array([str(i) for i in range(n)])
        peaks = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(r) for r in truth["r"]], True, -1).long()
        meta = {name: torch.full((n,), torch.nan) for name in ("smoking", "systolic", "cholesterol", "hdl")}
        meta |= {"age": torch.linspace(30, 80, n), "sex": torch.arange(n).remainder(2).float()}
        meta["age"][::7] = torch.nan
        states = torch.tensor(labels[LABELS].to_numpy(np.int8))
        x = torch.from_numpy(np.ascontiguousarray(x[:, :leads], np.float32))
        lead_mask, patients = torch.ones(x.shape[:2], dtype=torch.bool), torch.arange(n) // 2
        self._all = Batch(x, lead_mask, patients, meta, self.texts, states, peaks, self.measurements)

    def __len__(self):
        return len(self.record_ids)

    def batch(self, index):
        index = np.asarray(index)
        meta = {name: values[index] for name, values in self._all.meta.items()}
        parts = {k: v[index] for k, v in self._all._asdict().items() if isinstance(v, torch.Tensor)}
        return self._all._replace(**parts, meta=meta, text=[self.texts[i] for i in index])


def example(name: str, data, encoder="", size="small", n_leads: int = 12, first="", fs: float = 100.0, **params):
    """Objective `name` around its encoder, with the parameters that `data` decide; first: see `example_first`."""
    net = models.build(encoder or objectives.module(name).ENCODER, size, n_leads, fs=fs)
    offered = objectives.from_data(name, data) | params | {"fs": fs} | ({"first": str(first)} if first else {})
    return objectives.build(name, net, **objectives.accepted(name, **offered))


def example_first(name: str, data, folder, size: str = "small", n_leads: int = 12, **params) -> str:
    """Where objective `name` starts from another's artefact: train that one for two steps into `folder`; else ""."""
    if before := objectives.trait(name, "FIRST"):
        objective = example(before, data, size=size, n_leads=n_leads, **params)
        train.fit(objective, data, folder, settings=train.Settings(steps=2, batch_size=min(8, len(data))))
    return str(folder) if before else ""


def table(settings: dict | None = None, names=(), batch_size: int = 64, steps: int = 3) -> pd.DataFrame:
    """One row per objective: paper, encoder, parameters, memory of a training step (MiB), records/s on this machine.

    settings: {objective: {"encoder", "size", ...}}, section `objectives` of params.yaml; names: some of them.
    Memory: weights, gradients, AdamW's moments, what is kept for the backward pass. Speed: the best of `steps` steps.
    """
    data, rows = Sample(batch_size), []
    with tempfile.TemporaryDirectory() as folder:
        for name in names or objectives.names():
            chosen = (settings or {}).get(name) or {}
            encoder, size = chosen.get("encoder") or objectives.module(name).ENCODER, chosen.get("size") or "small"
            first = example_first(name, data, Path(folder) / name)
            objective = example(name, data, encoder, size, first=first)
            rows.append([name, objectives.module(name).PAPER, f"{encoder}-{size}", *_measure(objective, data, steps)])
    return pd.DataFrame(rows, columns=["objective", "paper", "encoder", "parameters", "MiB", "records/s"])


def _measure(objective, data, steps: int) -> tuple[int, int, int]:
    objective.train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-4, fused=True)
    batch, kept, best = data.batch(np.arange(len(data))), {}, np.inf

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    for step in range(steps):
        torch.manual_seed(step)
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = objective(batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if hasattr(objective, "after_step"):
            objective.after_step(step)
        best = min(best, time.perf_counter() - began)
    own = models.n_parameters(objective)
    memory = 4 * 4 * own + sum(kept.values()) / steps
    return own, round(memory / 2**20), round(len(data) / best)
