"""Published checkpoints by name: `zoo.load("ecgfounder")` downloads, verifies, and gives a frozen feature extractor.

A file `zoo/<family>.py` holds `CARDS` and, unless they are cards alone, the class `Network(Model)`. Nothing in a
checkpoint is ever executed; a tensor that is missing, left over or of another shape stops with its name.
"""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from ecglib import checkpoint, fetch, notes, unpack, wings
from ecglib.cards import SHORT, Card, Model
from ecglib.signals import EcgError

PREFIX = "zoo:"  # of a published model among the names of methods
WEIGHTS = ("published", "recipe")
HUBS = {"huggingface": "Hugging Face", "zenodo": "Zenodo", "https": "Google Drive", "hand": "by hand"}
RECIPE = "recipe weights: nothing was learned, these numbers mean nothing"


def names() -> list[str]:
    """Names of the published models there are."""
    return [card.name for card in cards()]


def cards() -> list[Card]:
    """All cards, by family."""
    return [card for family in wings.names(__path__) for card in _family(family).CARDS]


def card(name: str) -> Card:
    """The card of a model ("zoo:" in front is allowed); EcgError that lists the names for an unknown one."""
    return _found(name)[1]


def _found(name: str) -> tuple:
    """(module of the family, card) of a model. Its name begins with its family's, so that no other file is read."""
    name = name.removeprefix(PREFIX)
    for family in wings.names(__path__):
        if name == family or name.startswith(f"{family}_"):
            for one in _family(family).CARDS:
                if one.name == name:
                    return _family(family), one
    raise EcgError(f"no published model {name!r}", field="model", fix=f"use one of {', '.join(names())}")


def _family(name: str):
    return wings.find(__name__, __path__, name, "family of published models")


def network(name: str) -> Model:
    """The network of a model, without weights (its tensors are on torch's meta device)."""
    family, one = _found(name)
    with torch.device("meta"):
        return family.Network(one)


def table() -> pd.DataFrame:
    """One line per model: what it is, how large, what it reads, under which licence, and where it comes from."""
    rows = []
    for one in cards():
        more = len(one.corpora) - 2
        rows.append({
            "model": one.name, "parameters": f"{one.parameters:,}", "features": one.dim,
            "input": f"{one.chain.fs:g} Hz, {one.crop_s:g} s, {len(one.leads)} lead{'s' * (len(one.leads) > 1)}",
            "head": f"{len(one.statements)} statements" if one.statements else "-",
            "pretrained on": ", ".join(one.corpora[:2]) + (f" and {more} more" if more > 0 else ""),
            "licence": one.licence.split(" (")[0], "weights": "only a card" if one.only_card else HUBS[one.hub],
        })  # fmt: skip
    return pd.DataFrame(rows)


def facts(name: str) -> dict[str, str]:
    """Everything on a card, in words and in the order of reading."""
    one = card(name)
    return {
        "model": f"{one.name}: {one.title}",
        "paper": one.paper,
        "repository": one.repository,
        "licence of the weights": one.licence + ("" if one.commercial else " (non-commercial)"),
        "parameters": f"{one.parameters:,} in use, {one.stored:,} in the release",
        "input": one.input(),
        "longer recordings": f"consecutive crops of {one.crop_s:g} s, features averaged; a remainder is dropped",
        "shorter recordings": SHORT[one.short],
        "features": one.pooling,
        "head": one.head or "none",
        "pretrained on": ", ".join(one.corpora),
        "paper and code": one.said,
        "known defects": "; ".join(one.defects),
        "weights": f"{HUBS[one.hub]}: {one.place}, {' or '.join(one.files)}",
    } | ({"only a card": one.only_card} if one.only_card else {})


def load(name: str, weights: str = "published", *, file=None, url: str = "", accept: str = "", progress=None) -> Model:
    """A published model in evaluation mode: x (batch, lead, time), leads and profile as on its card -> z (batch, dim).

    weights: "published" downloads once from the model's hub into `checkpoint.cache_dir()`, and verifies size and
    checksum each time; "recipe" fills in values that mean nothing, for trying things without network. file: a
    checkpoint that lies here (any form of the release, or what `save` wrote); url: another address of the release's
    file. accept: the licence by its name, where it is not free for every use. progress: called with (bytes done, bytes
    in all).
    Raises EcgError for an unknown name, a licence that was not accepted, no network, a file that is another, altered,
    cut short or wants to run code, and for every tensor that is missing, left over or of another shape.
    """
    one = card(name)
    if weights not in WEIGHTS:
        raise EcgError(f"weights={weights!r}", field="weights", fix=f"use {' or '.join(WEIGHTS)}, or give a file")
    if not one.commercial and accept != one.licence:
        reason = f"the weights of {one.title} are under {one.licence}, not free for every use"
        raise EcgError(reason, field="licence", fix=f"if yours is allowed, say so by name: accept={one.licence!r}")
    if one.only_card:
        raise EcgError(f"{one.title} is only a card: {one.only_card}", field="model", fix=f"see {one.repository}")
    model = network(name)
    if weights == "recipe":
        if file or url:
            raise EcgError("a file, and weights of the recipe", field="weights", fix="ask for one of the two")
        model = model.filled()
        model.weights, model.content = "recipe", f"recipe-{one.name}"
        return model
    path = Path(file) if file else _fetched(one, url, progress)
    if not path.is_file():
        raise EcgError("no such file", file=path, fix=f"give the path of {' or '.join(one.files)}")
    model.content = fetch.checksum(path) if file else fetch.verify(path)["sha256"]
    try:
        return _filled(model, path)
    except EcgError as error:
        raise EcgError(error.reason, file=error.file or path, field=error.field, fix=error.fix) from error


def _filled(model: Model, path: Path) -> Model:
    """The model with the tensors of a file: of the release, or as `save` wrote it, which may be the recipe's."""
    if path.suffix == ".safetensors" and (info := saved_info(path)) is not None:
        if info["model"] != model.card.name:
            raise EcgError(f"these are the weights of {info['model']}", file=path, fix=f"zoo.load({info['model']!r})")
        tensors, _ = checkpoint.read(path)
        model.weights, model.absent = info["weights"], info["absent"]
        return model.fit(tensors)
    state, _ = unpack.tensors(path, model.card.entry, model.card.inert)
    model.weights = "published"
    return model.take(state)


def saved_info(path: Path) -> dict | None:
    """What `save` wrote beside the tensors; None for a safetensors file from elsewhere."""
    try:
        info = checkpoint.read(path)[1]
    except EcgError:
        return None
    return info if isinstance(info, dict) and {"model", "weights", "absent"} <= set(info) else None


def _fetched(one: Card, url: str, progress) -> Path:
    """The release's file in the cache: downloaded where it is not there yet."""
    folder = checkpoint.cache_dir() / "zoo" / one.name
    path = folder / Path(one.files[0]).name
    if path.is_file() and not url:
        return path
    address = url or (one.place if one.hub == "https" else "")
    if address:
        return fetch.https(address, folder, path.name, progress=progress)
    if one.hub == "huggingface":
        return fetch.hugging_face(one.place, one.files[0], folder, progress=progress)[0]
    if one.hub == "zenodo":
        return fetch.zenodo(one.place, one.files[0], folder, progress=progress)[0]
    fix = f"get {' or '.join(one.files)} there by hand, then zoo.load({one.name!r}, file=...)"
    raise EcgError(f"{one.title} cannot be downloaded by name: it lies in {one.place}", field="hub", fix=fix)


def save(model: Model, folder) -> Path:
    """Write model.safetensors (weights alone, no optimiser) and card.json into `folder`; returns the first path, which
    `load(name, file=...)` reads."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    info = {"model": model.card.name, "weights": model.weights, "absent": list(model.absent)}
    checkpoint.save(folder / "model.safetensors", model.state_dict(), info)
    text = json.dumps(asdict(model.card) | {"input": model.card.input(), "weights": model.weights}, indent=1) + "\n"
    checkpoint.write_atomic(folder / "card.json", text.encode())
    return folder / "model.safetensors"


def note(model: Model, corpus: str | None) -> str:
    """What `ecglib.notes` must say of results of `model` on a corpus (`cohort.info["dataset"]["corpus"]`): that its
    weights mean nothing, that it was pretrained on it, that nobody says what corpus it is, or nothing ("")."""
    if model.weights == "recipe":
        return notes.RECIPE
    if not corpus:
        return notes.UNKNOWN
    return notes.SEEN if corpus in model.card.corpora else ""
