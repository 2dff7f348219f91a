"""Published checkpoints by name: `zoo.load("ecgfounder")` downloads, verifies, and gives a frozen feature extractor.

A family is two files, `zoo/families/<family>.yaml`, its cards, and beside it <family>.py with, unless they are cards
alone, the class `Network(Model)`. Nothing in a checkpoint is ever executed; a tensor that is missing, left over or of
another shape stops with its name. What a card says is had without torch, which is loaded where a network is asked for.
"""

import json
import logging
import os
import re
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pandas as pd

from ecglib import EcgError, find_plugin, meant, plugin_names
from ecglib.data import files
from ecglib.zoo import families
from ecglib.zoo.card import SHORT, Card, read_cards

PREFIX = "zoo:"  # of a published model among the names of methods
WEIGHTS = ("published", "dummy")
GIVEN = "ECGLIB_WEIGHTS"  # environment variable: a folder of checkpoint files, looked into before anything is fetched
HUBS = {"huggingface": "Hugging Face", "zenodo": "Zenodo", "https": "Google Drive", "hand": "by hand"}
DUMMY_WARNING = "dummy weights: nothing was learned, these numbers mean nothing"
UNPROVEN = "it is not proven that our network computes what the published one does"
log = logging.getLogger(__name__)


def names() -> list[str]:
    """Names of the published models there are."""
    return [card.name for card in cards()]


def cards() -> list[Card]:
    """All cards, by family."""
    return [card for family in plugin_names(families.__path__) for card in _cards(family)]


@cache
def _cards(family: str) -> tuple[Card, ...]:
    return read_cards(Path(families.__path__[0], f"{family}.yaml"))


def card(name: str) -> Card:
    """The card of a model; EcgError that lists the names for an unknown one.

    name: "zoo:" in front is allowed; behind it, "@2.5" or "@published" asks for crops of so many seconds
    (`Card.cropped`).
    """
    return _family_and_card(name)[1]


def _family_and_card(name: str) -> tuple[str, Card]:
    """(family, card) of a model. Its name begins with its family's, so that no other file is read."""
    name, at, crop = name.removeprefix(PREFIX).partition("@")
    for family in plugin_names(families.__path__):
        if name == family or name.startswith(f"{family}_"):
            for card in _cards(family):
                if card.name == name:
                    return family, card.cropped(crop) if at else card
    fix = f"{meant(name, names())}use one of {', '.join(names())}"
    raise EcgError(f"no published model {name!r}", field="model", fix=fix)


def _family(name: str):
    return find_plugin(families.__name__, families.__path__, name, "family of published models")


def network(name: str):
    """The network of a model, a `zoo.model.Model` without weights (its tensors are on torch's meta device)."""
    import torch

    family, card = _family_and_card(name)
    with torch.device("meta"):
        return _family(family).Network(card)


def table() -> pd.DataFrame:
    """One line per model: what it is, how large, what it reads, under which licence, and where it comes from."""
    rows = []
    for card in cards():
        corpora = (*card.corpora, *card.further_corpora)
        more = len(corpora) - 2
        row = {"model": card.name, "parameters": _count(card.parameters), "features": card.dim or "not known"}
        row["input"] = f"{card.chain.fs:g} Hz, {card.crop_s:g} s, {len(card.leads)} lead{'s' * (len(card.leads) > 1)}"
        row["head"] = f"{len(card.statements)} statements" if card.statements else "-"
        row["pretrained on"] = ", ".join(corpora[:2]) + (f" and {more} more" if more > 0 else "")
        row["licence"] = card.licence.split(" (")[0]
        row["weights"] = "only a card" if card.only_card else HUBS[card.hub] + ", not proven" * bool(card.unproven)
        rows.append(row)
    return pd.DataFrame(rows)


def _count(number: int) -> str:
    return f"{number:,}" if number else "not known"


def facts(name: str) -> dict[str, str]:
    """Everything on a card, in words and in the order of reading."""
    chosen = card(name)
    return {
        "model": f"{chosen.name}: {chosen.title}",
        "paper": chosen.paper,
        "repository": chosen.repository,
        "licence of the weights": chosen.licence + ("" if chosen.commercial else " (non-commercial)"),
        "parameters": f"{_count(chosen.parameters)} in use, {_count(chosen.stored)} in the release",
        "input": chosen.input(),
        "longer recordings": f"consecutive crops of {chosen.crop_s:g} s, features averaged; a remainder is dropped",
        "shorter recordings": SHORT[chosen.short],
        "published evaluations": f"crops of {chosen.published_crop_s:g} s (arXiv 2509.25095), {chosen.name}@published"
        if chosen.published_crop_s
        else "not in arXiv 2509.25095",
        "features": chosen.pooling,
        "head": chosen.head or "none",
        "pretrained on": ", ".join((*chosen.corpora, *chosen.further_corpora)),
        "paper and code": chosen.paper_and_code,
        "known defects": "; ".join(chosen.defects),
        "weights": f"{HUBS[chosen.hub]}: {chosen.location}, {' or '.join(chosen.files)}",
    } | {what: text for what, text in {"only a card": chosen.only_card, "not proven": chosen.unproven}.items() if text}


def load(name: str, weights: str = "published", *, file=None, url: str = "", accept: str = "", progress=None):
    """A published model in evaluation mode: x (batch, lead, time), leads and profile as on its card -> z (batch, dim).

    weights: "published" takes the file that lies in the folder ECGLIB_WEIGHTS (`given_file`), or else downloads once
    from the model's hub into `files.cache_dir()`, and verifies it each time;
    "dummy" fills in values that mean nothing, for trying things without network.
    file: a checkpoint that lies here (any form of the release, or what `save` wrote); url: another address of it.
    accept: the licence by its name, where it is not free for every use; progress: called with (bytes done, in all).
    Returns a `zoo.model.Model`; for a network without a conformance pack a warning says so. Raises EcgError for an
    unknown name, a licence that was not accepted, no network, and a file that is another.
    """
    chosen = card(name)
    if weights not in WEIGHTS:
        raise EcgError(f"weights={weights!r}", field="weights", fix=f"use {' or '.join(WEIGHTS)}, or give a file")
    if not chosen.commercial and accept != chosen.licence:
        reason = f"the weights of {chosen.title} are under {chosen.licence}, not free for every use"
        raise EcgError(reason, field="licence", fix=f"if yours is allowed, say so by name: accept={chosen.licence!r}")
    if chosen.only_card:
        reason = f"{chosen.title} is only a card: {chosen.only_card}"
        raise EcgError(reason, field="model", fix=f"see {chosen.repository}")
    if chosen.unproven:
        log.warning("%s: %s (%s)", chosen.title, UNPROVEN, chosen.unproven)
    if weights == "dummy":
        if file or url:
            raise EcgError("a file, and dummy weights", field="weights", fix="ask for one of the two")
        return network(name).load_dummy()
    file = file or (None if url else given_file(chosen))
    path = Path(file) if file else _fetched(chosen, url, progress)
    if not path.is_file():
        close = meant(path.name, _file_names(path.parent))
        raise EcgError("no such file", file=path, fix=f"{close}give the path of {' or '.join(chosen.files)}")
    from ecglib.data import download

    model = network(name)
    model.content = files.sha256(path) if file else download.verify(path)["sha256"]
    try:
        return _with_weights_of(path, model)
    except EcgError as error:
        raise EcgError(error.reason, file=error.file or path, field=error.field, fix=error.fix) from error


def require_published(name: str, options: dict) -> None:
    """Raise EcgError for an option that only published models have, where `name` is none of them.

    options: name -> value; empty ones, and weights="published", are what is there unasked.
    """
    given = [option for option, value in options.items() if value and (option, value) != ("weights", WEIGHTS[0])]
    if given and not name.startswith(PREFIX):
        known = f"name it {PREFIX}{name}, or " if name in names() else ""
        reason = f"{name} is no published model, which alone has {given[0]}"
        raise EcgError(reason, field=given[0], fix=f"{known}leave --{given[0]} out")


def _with_weights_of(path: Path, model):
    """The model with the tensors of a file: of the release, or as `save` wrote it, dummy weights perhaps."""
    from ecglib.zoo import safe_load

    if path.suffix == ".safetensors" and (saved := _saved(path)):
        tensors, info = saved
        if info["model"] != model.card.name:
            raise EcgError(f"these are the weights of {info['model']}", file=path, fix=f"zoo.load({info['model']!r})")
        if info["weights"] not in WEIGHTS:
            reason = f"weights of another kind: {info['weights']}"
            raise EcgError(reason, file=path, field="weights", fix="save it anew")
        model.weights, model.absent = info["weights"], info["absent"]
        return model.load_tensors(tensors)
    model.weights = "published"
    return model.load_released(safe_load.tensors(path, model.card.entry, model.card.inert))


def _saved(path: Path) -> tuple[dict, dict] | None:
    """(tensors, info) that `save` wrote; None for a file from elsewhere."""
    from ecglib.training import checkpoint

    try:
        tensors, info = checkpoint.read(path)
    except EcgError as error:
        if error.field:  # it is one, and holds a tensor that cannot be used
            raise
        return None
    return (tensors, info) if isinstance(info, dict) and {"model", "weights", "absent"} <= set(info) else None


def given_file(card: Card) -> Path | None:
    """The checkpoint of a model in the folder that the environment variable ECGLIB_WEIGHTS names; None: not there.

    NAME/file of the release, NAME/model.safetensors, NAME.pt (or whatever the release ends in) or NAME.safetensors;
    the release's file itself where no other model's has that name. Raises EcgError where there is no such folder.
    """
    if not os.environ.get(GIVEN):
        return None
    folder = Path(os.environ[GIVEN]).expanduser()
    if not folder.is_dir():
        raise EcgError("no such folder", file=folder, field=GIVEN, fix="name a folder of checkpoint files, or unset it")
    found = [path for name in _places(card) for path in sorted(folder.glob(name)) if path.is_file()]
    return found[0] if found else None


def _places(card: Card) -> list[str]:
    """Where `given_file` looks, in this order: patterns relative to the folder."""
    name = card.name.partition("@")[0]
    released = [re.sub("<.*?>", "*", Path(file).name) for file in card.files]
    others = {Path(file).name for other in cards() if other.name != name for file in other.files}
    places = [f"{name}/{file}" for file in (*released, "model.safetensors")]
    places += [
        f"{name}{ending}" for ending in dict.fromkeys([*(Path(file).suffix for file in released), ".safetensors"])
    ]
    return places + [file for file in released if file not in others and "*" not in file]


def _file_names(folder: Path) -> list[str]:
    """Paths of the files of a folder and of the folders in it, relative to it; none where there is no such folder."""
    return [
        path.relative_to(folder).as_posix() for glob in ("*", "*/*") for path in folder.glob(glob) if path.is_file()
    ]


def _fetched(card: Card, url: str, progress) -> Path:
    """`_downloaded`; where that fails, the error says what the folder ECGLIB_WEIGHTS lacks, if there is one."""
    try:
        return _downloaded(card, url, progress)
    except EcgError as error:
        folder = Path(os.environ.get(GIVEN, "")).expanduser()
        if not os.environ.get(GIVEN) or url:
            raise
        wanted = _places(card)
        close = next(filter(None, (meant(name, _file_names(folder)) for name in wanted)), "")
        fix = f"{close}{GIVEN} holds none of {', '.join(wanted)}; {error.fix}"
        raise EcgError(error.reason, file=error.file, field=error.field, fix=fix) from error


def _downloaded(card: Card, url: str, progress) -> Path:
    """The release's file in the cache: downloaded where it is not there yet."""
    from ecglib.data import download

    folder = files.cache_dir() / "zoo" / card.name
    path = folder / Path(card.files[0]).name
    if path.is_file() and not url:
        return path
    if url or card.hub == "https":
        return download.https(url or card.location, folder, path.name, progress=progress)
    if card.hub == "huggingface":
        return download.hugging_face(card.location, card.files[0], folder, progress=progress)[0]
    if card.hub == "zenodo":
        return download.zenodo(card.location, card.files[0], folder, progress=progress)[0]
    fix = f"get {' or '.join(card.files)} there by hand, then zoo.load({card.name!r}, file=...)"
    raise EcgError(f"{card.title} cannot be downloaded by name: it lies in {card.location}", field="hub", fix=fix)


def save(model, folder) -> Path:
    """Write model.safetensors, which `load(name, file=...)` reads, and card.json into `folder`; returns the first."""
    from ecglib.training import checkpoint

    path, card = (files.output_file(Path(folder, name), _own) for name in ("model.safetensors", "card.json"))
    Path(folder).mkdir(parents=True, exist_ok=True)
    info = {"model": model.card.name, "weights": model.weights, "absent": list(model.absent)}
    checkpoint.save(path, model.state_dict(), info)
    text = json.dumps(asdict(model.card) | {"input": model.card.input(), "weights": model.weights}, indent=1) + "\n"
    files.write_atomic(card, text.encode())
    return path


def _own(path: Path) -> bool:
    """Whether `save` wrote a file: the tensors, or the card."""
    if path.suffix == ".safetensors":
        return bool(_saved(path))
    return {"name", "input", "weights"} <= set(json.loads(path.read_text("utf-8")))


def contamination(model, corpus: str | None) -> str:
    """The `note` of predictions of a published model on a corpus (`cohort.info["dataset"]["corpus"]`).

    `predictions.DUMMY` for dummy weights, SEEN where it was pretrained on the corpus, MAYBE_SEEN where nobody says what
    corpus it is or where the card lists none, else "".
    """
    from ecglib.evaluation import predictions

    if model.weights == "dummy":
        return predictions.DUMMY
    if not corpus or not model.card.corpora:
        return predictions.MAYBE_SEEN
    return predictions.SEEN if corpus in model.card.corpora else ""
