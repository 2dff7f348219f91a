"""Proof that a published checkpoint means the same here: the conformance packs, run through `ecglib.zoo`.

A pack is a folder with manifest.json (which model, its input, seeds and lengths), keys.csv (its tensors) and outputs
`*_A.npy` of the public code for the weights and inputs of `ecglib.zoo.dummy`. For every output and record the relative
error ||ours - theirs|| / ||theirs|| must stay below 1e-4; code numbers must agree in 99 of 100 places.
"""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError, zoo
from ecglib.data import profiles
from ecglib.data.recording import LEADS
from ecglib.models.beat_tokenizer import Words, tokenize
from ecglib.zoo import dummy
from ecglib.zoo.card import released
from ecglib.zoo.model import Model

TOLERANCE = 1e-4  # of the packs; the rounding of the reference itself is 1e-6 or less
AGREEING = 0.99  # share of the indices of codes
COLUMNS = ["pack", "model", "what", "error", "limit", "passed", "note"]


def packs(folder) -> list[Path]:
    """The packs below `folder` (or the folder itself), by name. EcgError where there is none."""
    folder = Path(folder)
    if (folder / "manifest.json").is_file():
        return [folder]
    manifests = sorted(folder.glob("*/manifest.json"))
    if not manifests:
        raise EcgError("no conformance pack here", file=folder, fix="a pack is a folder with manifest.json and *_A.npy")
    return [manifest.parent for manifest in manifests]


def verify(folder, names=(), progress=lambda line: None) -> pd.DataFrame:
    """Run every pack below `folder`: a row (COLUMNS) per comparison, `passed` True or False.

    names: some of the packs or models (default: all); progress: called with a line per pack. A pack of a model that is
    only a card has its tensors listed and nothing run. EcgError where nothing is left to run.
    """
    rows = []
    for path in packs(folder):
        manifest = json.loads((path / "manifest.json").read_text())
        pack = manifest.get("pack", path.name)
        card = next((c for c in zoo.cards() if c.pack == pack), None)
        if names and not {card and card.name, pack} & set(names):
            continue
        known = f"no model belongs to it; packs known: {', '.join(c.pack for c in zoo.cards())}"
        compared = _verified(path, manifest, card) if card else [_row(pack, "", "model", np.inf, 0.0, known)]
        outputs = [row["error"] for row in compared if row["limit"] == TOLERANCE]
        worst = f", worst error of {len(outputs)} outputs {max(outputs):.1e}" if outputs else ""
        progress(f"{pack}: {'ok' if all(row['passed'] for row in compared) else 'FAILED'}{worst}")
        rows += compared
    if not rows:
        fix = f"name some of: {', '.join(zoo.names())}"
        raise EcgError(f"no pack of {', '.join(names)} here", file=folder, fix=fix)
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(pack, model, what, error, limit=0.0, note="") -> dict:
    passed = bool(error <= limit)
    return dict(zip(COLUMNS, [pack, model, what, float(error), limit, passed, note], strict=True))


def _verified(path: Path, manifest: dict, card) -> list[dict]:
    row = partial(_row, card.pack, card.name)
    rows = [row("tensors", *_tensors(path, manifest, card))]
    if card.only_card:
        return [rows[0] | {"note": f"{rows[0]['note']}; only a card, not run"}]
    if "recipe_check" in manifest:
        rows.append(row("dummy weights", _weights_error(manifest, card), 1e-6))
    leads = _leads(manifest, card)
    if len(leads) > 1:
        note = "" if leads == card.leads else f"the pack has {', '.join(leads)}"
        rows.append(row("leads", float(leads != card.leads), 0.0, note))
    x = inputs(manifest, card)
    if card.scaling == "words":
        x = cut(manifest, x)
        rows += [row(*compared) for compared in _words(path, x)]
    if "input_check_A" in manifest:
        rows.append(row("dummy inputs", _inputs_error(manifest["input_check_A"], x), 2e-5))
    return rows + [row(*compared) for compared in _outputs(path, manifest, card, x)]


def _outputs(path: Path, manifest: dict, card, x) -> list[tuple]:
    """(what, error, limit, note) of every output that the pack holds or announces; a pack without any has failed."""
    files = {*manifest.get("outputs", ()), *(file.name for file in path.glob("*_A.npy"))}
    names = sorted(file.removesuffix("_A.npy") for file in files if not file.startswith("input_"))
    if not names:
        return [("output", np.inf, TOLERANCE, "the pack holds no output")]
    model, rows = zoo.load(card.name, "dummy"), []
    for name in names:
        if not (file := path / f"{name}_A.npy").is_file():
            rows.append((name, np.inf, TOLERANCE, "announced, but not in the pack"))
        elif (ours := _output(model, x, name)) is None:
            rows.append((name, np.inf, TOLERANCE, "our network has no such output"))
        else:
            rows.append((name, *compare(ours, np.load(file))))
    return _relaxed(rows)


def _relaxed(rows: list[tuple]) -> list[tuple]:
    """Where some codes differ, within their limit, what is made of the codes must differ too (rule of the packs)."""
    if not any(what == "codes" and 0 < error <= limit for what, error, limit, _ in rows):
        return rows
    limits = {"project_q_mean": 0.05, "recon": np.inf}
    return [(what, error, limits.get(what, limit), note) for what, error, limit, note in rows]


def _tensors(path: Path, manifest: dict, card) -> tuple[float, float, str]:
    """How many tensors of the pack have another name, shape or dtype than the card's, and how many values there are."""
    ours, theirs = released(card.pack), released(card.pack)
    if (path / "keys.csv").is_file():
        table = pd.read_csv(path / "keys.csv", dtype=str, keep_default_na=False)
        shapes = [tuple(int(n) for n in text.split("x") if n) for text in table["shape"]]
        kinds = table["dtype"].str.removeprefix("torch.")
        theirs = dict(zip(table["key"], zip(shapes, kinds, strict=True), strict=True))
    wrong = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
    wrong |= {"n_parameters"} if manifest.get("n_parameters", card.stored) != card.stored else set()
    note = "; ".join([f"{len(theirs)} tensors, {card.stored:,} values", *sorted(wrong)[:3]])
    return len(wrong), 0.0, note


def _weights_error(manifest: dict, card) -> float:
    """Largest difference between the stated first values of some tensors and those that `dummy` draws."""
    shapes, worst = released(card.pack), 0.0
    for key, values in manifest["recipe_check"].items():
        drawn = dummy.fill(key, *shapes[key]).flatten()[: len(values)]
        worst = max(worst, float(np.abs(drawn.numpy() - np.array(values, np.float32)).max()))
    return worst


def _leads(manifest: dict, card) -> tuple[str, ...]:
    leads = manifest["input"].get("leads", card.leads)
    return tuple(leads) if isinstance(leads, list | tuple) else card.leads


def inputs(manifest: dict, card) -> torch.Tensor:
    """The input of a pack: float32 (2, lead, time), the pack's leads on the pack's scale."""
    given, seeds = manifest["input"], manifest["input"]["set_A"]
    x = dummy.records(given["fs_hz"], given["samples"], seeds["seed"], seeds["rr"], seeds["b0"])
    x = x[:, [LEADS.index(lead) for lead in _leads(manifest, card)]]
    how, _, clipped = card.scaling.partition(", ")
    x = profiles.normalised(x, "none" if how == "words" else how)
    x = np.clip(x, -5, 5) if clipped else x
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))


def cut(manifest: dict, x: torch.Tensor) -> Words:
    """The words of input x (2, lead, time) by our tokeniser at its beats, in the release's order."""
    given, seeds = manifest["input"], manifest["input"]["set_A"]
    peaks = dummy.peaks(given["fs_hz"], given["samples"], seeds["rr"], seeds["b0"])
    return tokenize(x, peaks, given["fs_hz"], limit=256, order="lead", full=True)


def _words(path: Path, words: Words) -> list[tuple]:
    """Our words against the stored ones, where they are stored: (what, error, limit, note)."""
    rows = []
    for name, ours in (("tokens", words.tokens), ("in_chans", words.lead), ("in_times", words.time)):
        if (file := path / f"input_{name}_A.npy").is_file():
            error, limit, note = compare(ours, np.load(file))
            rows.append((f"tokeniser, {name}", error, limit if name == "tokens" else 0.0, note))
    return rows


def _output(model: Model, x, name: str) -> torch.Tensor | None:
    """One output of the model by the name of its file; "_crop1250" = of the first 1250 samples. None: it has none."""
    crop = re.fullmatch(r"(.+)_crop(\d+)", name)
    with torch.inference_mode():
        return model.outputs(x[..., : int(crop[2])] if crop else x).get(crop[1] if crop else name)


def compare(ours: torch.Tensor, theirs: np.ndarray) -> tuple[float, float, str]:
    """(error, limit, note): the largest relative error of a record, or for indices the share that differs."""
    ours = ours.numpy()
    if ours.shape != theirs.shape:
        return np.inf, TOLERANCE, f"shape {ours.shape}, expected {theirs.shape}"
    if theirs.dtype.kind in "iu":
        return float((ours != theirs).mean()), 1 - AGREEING, "share of indices that differ"
    return relative_error(ours, theirs), TOLERANCE, ""


def relative_error(z: np.ndarray, expected: np.ndarray) -> float:
    """Largest ||z - expected|| / ||expected|| of a record; inf for other shapes and for numbers that are none."""
    if z.shape != expected.shape or not (np.isfinite(z).all() and np.isfinite(expected).all()):
        return np.inf
    z, expected = (values.reshape(len(values), -1).astype(np.float64) for values in (z, expected))
    return float((np.linalg.norm(z - expected, axis=1) / np.linalg.norm(expected, axis=1).clip(min=1e-30)).max())


def _inputs_error(check: dict, x) -> float:
    """Largest difference between stated samples of the input and ours; infinite for another shape."""
    x = x.tokens if isinstance(x, Words) else x
    if list(x.shape) != check["shape"]:
        return np.inf
    ours = [x[0, 0, :5], x[1, -1, -5:]]
    theirs = [check["record0_row0_first5"], check["record1_lastrow_last5"]]
    return max(float((a - torch.tensor(b)).abs().max()) for a, b in zip(ours, theirs, strict=True))
