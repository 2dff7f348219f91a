"""The conformance packs: their recipe of weights and inputs, and the rule by which an output counts as equal."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch

# P Q R S T: height (mV), offset from the beat (s), width (s)
WAVES = [(0.12, -0.16, 0.022), (-0.10, -0.03, 0.010), (1.00, 0.00, 0.012), (-0.25, 0.03, 0.012), (0.30, 0.26, 0.050)]


def fill(key, shape, dtype="float32"):
    """Value of a tensor of a conformance pack: by its name, shape and dtype alone."""
    leaf, shape = key.split(".")[-1], tuple(shape)
    if dtype.startswith(("int", "uint", "bool")):
        return torch.from_numpy(np.zeros(shape, dtype))
    if leaf == "initted":
        return torch.ones(shape)
    generator = np.random.Generator(
        np.random.PCG64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))
    )
    gain = leaf in ("weight_g", "original0") or (leaf == "weight" and len(shape) == 1)
    if shape == () or leaf.endswith("running_var") or gain:
        values = 1 + 0.1 * generator.uniform(-1, 1, size=shape)
    elif leaf.endswith(("running_mean", "bias")):
        values = 0.02 * generator.standard_normal(shape)
    else:
        s = list(shape)
        while len(s) > 1 and s[0] == 1:
            s = s[1:]
        fan_in = int(np.prod(s[1:])) if len(s) > 1 else s[0]
        values = generator.standard_normal(shape) / np.sqrt(fan_in)
    if key.endswith("out_proj.weight"):
        values = 0.3 * values
    return torch.from_numpy(np.asarray(values).astype(dtype))


def pseudo_ecg(seed, rr, b0, fs, n):
    t = np.arange(n) / fs
    x, j = np.zeros((12, n)), 0
    lead = np.arange(12)[:, None]
    while b0 + j * rr < n / fs + rr:
        beat = b0 + j * rr + 0.02 * np.sin(1.3 * j)
        for w, (height, offset, width) in enumerate(WAVES):
            angle = np.cos(0.5 * lead + 0.8 * w)
            x += (0.35 + 0.65 * angle) * height * np.exp(-0.5 * ((t - beat - offset) / width) ** 2)
        j += 1
    x += 0.05 * np.sin(2 * np.pi * 0.31 * t + 0.4 * lead)
    return x + 0.03 * np.random.Generator(np.random.PCG64(seed)).standard_normal((12, n))


def records(fs, n):
    """The two records of input A: float64 (2, 12, n), mV, leads in standard order, not normalised."""
    return np.stack([pseudo_ecg(1001 + r, 0.83 + 0.09 * r, 0.31 + 0.05 * r, fs, n) for r in range(2)])


class Pack:
    """One pack: `manifest`, `shapes` {key: shape}, `dtypes`, `state()`, `array(file)`."""

    def __init__(self, folder):
        if not folder.is_dir():
            pytest.skip(f"no conformance pack {folder}")
        self.folder, self.manifest = folder, json.loads((folder / "manifest.json").read_text())
        keys = pd.read_csv(folder / "keys.csv", dtype=str, keep_default_na=False).set_index("key")
        self.shapes = {k: tuple(int(n) for n in v.split("x") if n) for k, v in keys["shape"].items()}
        self.dtypes = keys["dtype"].str.removeprefix("torch.").to_dict()

    def state(self):
        """The state dict that the recipe makes, under the released names."""
        return {key: fill(key, shape, self.dtypes[key]) for key, shape in self.shapes.items()}

    def array(self, name):
        return np.load(self.folder / name)

    def assert_equal(self, ours, name):
        """Relative error of every record at most 1e-4, the packs' rule."""
        theirs = self.array(name).astype(np.float64)
        ours = np.asarray(ours.detach() if isinstance(ours, torch.Tensor) else ours, np.float64)
        assert ours.shape == theirs.shape, f"{name}: {ours.shape}, expected {theirs.shape}"
        error = np.linalg.norm((ours - theirs).reshape(len(ours), -1), axis=1)
        size = np.linalg.norm(theirs.reshape(len(ours), -1), axis=1)
        assert (error <= 1e-4 * size).all(), f"{name}: relative error {(error / size).max():.2e}"
