"""Proof that a published checkpoint means the same here: the conformance packs, run through `ecglib.zoo`.

A pack is a folder with manifest.json (which model, its input, seeds and lengths), keys.csv (its tensors) and outputs
`*_A.npy` of the public code for weights and inputs of `ecglib.recipe`. For every output and record the relative error
||ours - theirs|| / ||theirs|| must stay below 1e-4; code numbers must agree in 99 of 100 places.
"""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ecglib import preprocess, recipe, zoo
from ecglib.beatwords import Words, tokenize
from ecglib.cards import Model, released
from ecglib.signals import LEADS, EcgError

TOLERANCE = 1e-4  # of the packs; the rounding of the reference itself is 1e-6 or less
AGREEING = 0.99  # share of the indices of codes
COLUMNS = ["pack", "model", "what", "error", "limit", "passed", "note"]


def packs(folder) -> list[Path]:
    """The packs below `folder` (or the folder itself), by name. EcgError where there is none."""
    folder = Path(folder)
    found = (
        [folder] if (folder / "manifest.json").is_file() else sorted(p.parent for p in folder.glob("*/manifest.json"))
    )
    if not found:
        raise EcgError("no conformance pack here", file=folder, fix="a pack is a folder with manifest.json and *_A.npy")
    return found


def verify(folder, names=(), progress=lambda line: None) -> pd.DataFrame:
    """Run every pack below `folder`: a row (COLUMNS) per comparison, `passed` True or False.

    names: some of the packs or models (default: all). progress: called with a line per pack. A pack of a model that is
    only a card has its tensors listed and nothing run. A pack of no model here, an output that our network does not
    have, and one that is announced and not there are rows that failed. EcgError where nothing is left to run.
    """
    rows = []
    for place in packs(folder):
        manifest = json.loads((place / "manifest.json").read_text())
        pack = manifest.get("pack", place.name)
        card = next((c for c in zoo.cards() if c.pack == pack), None)
        if names and not {card and card.name, pack} & set(names):
            continue
        if card is None:
            known = f"no model belongs to it; packs known: {', '.join(c.pack for c in zoo.cards())}"
            found = [_row(pack, "", "model", np.inf, 0.0, known)]
        else:
            found = _verified(place, manifest, card)
        outputs = [row["error"] for row in found if row["limit"] == TOLERANCE]
        worst = f", worst error of {len(outputs)} outputs {max(outputs):.1e}" if outputs else ""
        progress(f"{pack}: {'ok' if all(row['passed'] for row in found) else 'FAILED'}{worst}")
        rows += found
    if not rows:
        raise EcgError(
            f"no pack of {', '.join(names)} here", file=folder, fix="name some of: " + ", ".join(zoo.names())
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(pack, model, what, error, limit=0.0, note="") -> dict:
    passed = bool(error <= limit)
    return dict(zip(COLUMNS, [pack, model, what, float(error), limit, passed, note], strict=True))


def _verified(place: Path, manifest: dict, card) -> list[dict]:
    row = partial(_row, card.pack, card.name)
    rows = [row("tensors", *_tensors(place, manifest, card))]
    if card.only_card:
        return [rows[0] | {"note": f"{rows[0]['note']}; only a card, not run"}]
    if "recipe_check" in manifest:
        rows.append(row("recipe of weights", _drawn(manifest, card), 1e-6))
    leads = _leads(manifest, card)
    if len(leads) > 1:
        note = "" if leads == card.leads else f"the pack has {', '.join(leads)}"
        rows.append(row("leads", float(leads != card.leads), 0.0, note))
    x = inputs(manifest, card)
    if card.scaling == "words":
        x = cut(manifest, x)
        rows += [row(*found) for found in _words(place, x)]
    if "input_check_A" in manifest:
        rows.append(row("recipe of inputs", _checked(manifest["input_check_A"], x), 2e-5))
    return rows + [row(*found) for found in _outputs(place, manifest, card, x)]


def _outputs(place: Path, manifest: dict, card, x) -> list[tuple]:
    """(what, error, limit, note) of every output that the pack holds or announces; a pack without any has failed."""
    files = {*manifest.get("outputs", ()), *(file.name for file in place.glob("*_A.npy"))}
    names = sorted(file.removesuffix("_A.npy") for file in files if not file.startswith("input_"))
    if not names:
        return [("output", np.inf, TOLERANCE, "the pack holds no output")]
    model, found = zoo.load(card.name, "recipe"), []
    for name in names:
        if not (file := place / f"{name}_A.npy").is_file():
            found.append((name, np.inf, TOLERANCE, "announced, but not in the pack"))
        elif (ours := _output(model, x, name)) is None:
            found.append((name, np.inf, TOLERANCE, "our network has no such output"))
        else:
            found.append((name, *compare(ours, np.load(file))))
    return _relaxed(found)


def _relaxed(found: list[tuple]) -> list[tuple]:
    """Where some codes differ, within their limit, what is made of the codes must differ too (rule of the packs)."""
    if not any(what == "codes" and 0 < error <= limit for what, error, limit, _ in found):
        return found
    limits = {"project_q_mean": 0.05, "recon": np.inf}
    return [(what, error, limits.get(what, limit), note) for what, error, limit, note in found]


def _tensors(place: Path, manifest: dict, card) -> tuple[float, float, str]:
    """How many tensors of the pack have another name, shape or dtype than the card's, and how many values there are."""
    ours, theirs = released(card.pack), released(card.pack)
    if (place / "keys.csv").is_file():
        table = pd.read_csv(place / "keys.csv", dtype=str, keep_default_na=False)
        shapes = [tuple(int(n) for n in text.split("x") if n) for text in table["shape"]]
        kinds = table["dtype"].str.removeprefix("torch.")
        theirs = dict(zip(table["key"], zip(shapes, kinds, strict=True), strict=True))
    wrong = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
    wrong |= {"n_parameters"} if manifest.get("n_parameters", card.stored) != card.stored else set()
    return (
        len(wrong),
        0.0,
        f"{len(theirs)} tensors, {card.stored:,} values" + "".join(f"; {k}" for k in sorted(wrong)[:3]),
    )


def _drawn(manifest: dict, card) -> float:
    """Largest difference between the stated first values of some tensors and those that the recipe draws."""
    shapes, worst = released(card.pack), 0.0
    for key, values in manifest.get("recipe_check", {}).items():
        drawn = recipe.fill(key, *shapes[key]).flatten()[: len(values)]
        worst = max(worst, float(np.abs(drawn.numpy() - np.array(values, np.float32)).max()))
    return worst


def _leads(manifest: dict, card) -> tuple[str, ...]:
    """The leads that a pack feeds, where it says so, else the card's."""
    leads = manifest["input"].get("leads", card.leads)
    return tuple(leads) if isinstance(leads, list | tuple) else card.leads


def inputs(manifest: dict, card) -> torch.Tensor:
    """The input of a pack: float32 (2, lead, time), the pack's leads on the pack's scale."""
    given, seeds = manifest["input"], manifest["input"]["set_A"]
    x = recipe.records(given["fs_hz"], given["samples"], seeds["seed"], seeds["rr"], seeds["b0"])
    x = x[:, [LEADS.index(lead) for lead in _leads(manifest, card)]]
    how, _, clipped = card.scaling.partition(", ")
    x = preprocess.normalised(x, "none" if how == "words" else how)
    x = np.clip(x, -5, 5) if clipped else x
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))


def cut(manifest: dict, x: torch.Tensor) -> Words:
    """The words of input x (2, lead, time) by our tokeniser at the beats of the recipe, in the release's order."""
    given, seeds = manifest["input"], manifest["input"]["set_A"]
    peaks = recipe.peaks(given["fs_hz"], given["samples"], seeds["rr"], seeds["b0"])
    return tokenize(x, peaks, given["fs_hz"], limit=256, order="lead", full=True)


def _words(place: Path, words: Words) -> list[tuple]:
    """Our words against the stored ones, where they are stored: (what, error, limit, note)."""
    found = []
    for name, ours in (("tokens", words.tokens), ("in_chans", words.lead), ("in_times", words.time)):
        if (file := place / f"input_{name}_A.npy").is_file():
            error, limit, note = compare(ours, np.load(file))
            found.append((f"tokeniser, {name}", error, limit if name == "tokens" else 0.0, note))
    return found


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
    gap, size = (np.linalg.norm(v.reshape(len(v), -1).astype(np.float64), axis=1) for v in (ours - theirs, theirs))
    return float((gap / size).max()), TOLERANCE, ""


def _checked(check: dict, x) -> float:
    """Largest difference between stated samples of the input and ours; infinite for another shape."""
    x = x.tokens if isinstance(x, Words) else x
    if list(x.shape) != check["shape"]:
        return np.inf
    ours = [x[0, 0, :5], x[1, -1, -5:]]
    theirs = [check["record0_row0_first5"], check["record1_lastrow_last5"]]
    return max(float((a - torch.tensor(b)).abs().max()) for a, b in zip(ours, theirs, strict=True))
