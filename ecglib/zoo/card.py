"""What one published model is: where its weights lie, what they were trained on, what they must be fed."""

import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ecglib import EcgError
from ecglib.data import profiles
from ecglib.data.labels import vocabulary
from ecglib.data.recording import LEADS

KEYS = Path(__file__).with_name("keys.csv")
SCALES = {  # Profile.normalise in words
    "none": "millivolt as they are",
    "record": "z-score of all leads together",
    "lead": "z-score of each lead",
    "range": "all leads together to 0..1",
}

SHORT = {  # what is done with a recording shorter than the network's input
    "zeros": "filled up with zeros after normalisation",
    "masked": "taken as it is: what is not there is neither fed nor averaged",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """Facts about one published model; texts are for people, the rest is acted upon."""

    name: str
    title: str
    paper: str
    repository: str
    licence: str
    parameters: int  # values in use, head included (0: not known)
    stored: int  # trainable values of the release, unused ones included (0: not known)
    dim: int  # number of features
    pooling: str  # how they come about
    profile: str | dict  # name of the signal chain, or the fields of one that nothing else uses
    corpora: tuple[str, ...]  # what it was pretrained on, as `CORPUS` of a dataset
    location: str  # repository, record or address at the hub
    files: tuple[str, ...]  # names there, the usual one first
    paper_and_code: str  # where the two disagree
    defects: tuple[str, ...]  # known ones of the release
    scaling: str  # how its conformance pack normalises
    pack: str  # its conformance pack, and its tensors in keys.csv ("": neither)
    leads: tuple[str, ...] = LEADS  # what the network reads, in its order
    crop_s: float = 10  # seconds of one input
    published_crop_s: float = 0  # the same in the comparison of arXiv 2509.25095 (0: not in it)
    short: str = "masked"  # key of SHORT
    hub: str = "huggingface"  # or "zenodo", "https", "hand"
    commercial: bool = True  # False: the licence must be accepted by name
    whole: bool = False  # the whole recording is normalised before it is cut, else each crop
    head: str = ""  # what the logits mean ("": no head out of the box)
    statements: tuple[str, ...] = ()  # their names
    entry: tuple[str, ...] = ("state_dict", "model")  # nested dicts that may hold the weights
    inert: tuple[str, ...] = ()  # harmless containers that the file pickles beside them
    optional: tuple[str, ...] = ()  # patterns of tensors that features do not need and a file may lack, each as a whole
    only_card: str = ""  # why there is no more than this card
    further_corpora: tuple[str, ...] = ()  # seen in pretraining too, without a name in `datasets.CORPORA`
    unproven: str = ""  # there is no conformance pack: what was compared with the published code, and what was not

    @property
    def chain(self) -> profiles.Profile:
        if isinstance(self.profile, str):
            return profiles.profile(self.profile)
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in self.profile.items()}
        return profiles.Profile(self.name, "1", **fields)

    @property
    def n_times(self) -> int:
        """Samples of one input of the network."""
        return round(self.crop_s * self.chain.fs)

    def cropped(self, crop: str) -> "Card":
        """The card with shorter inputs: a recording is filtered and scaled as a whole, then cut.

        crop: seconds, from one to `crop_s`, or "published": `published_crop_s`. EcgError for anything else.
        """
        try:
            seconds = self.published_crop_s if crop == "published" else float(crop)
        except ValueError:
            seconds = 0
        if not 1 <= seconds <= self.crop_s:  # not NaN either
            fix = f"give 1 to {self.crop_s:g} seconds" + (', or "published"' if self.published_crop_s else "")
            raise EcgError(f"{self.title} has no crops of {crop!r}", field="crop", fix=fix)
        return self if seconds == self.crop_s else replace(self, crop_s=seconds, whole=True)

    def crops(self, x: np.ndarray, fs: float, tolerance: float = 0.0) -> np.ndarray:
        """The network's inputs from a whole recording: x (lead, time) in mV at fs Hz, leads in the card's order ->
        float32 (crop, lead, samples), profiled. A remainder is dropped; for one shorter than a crop see `SHORT`.
        tolerance: of `filters.ratio`."""
        chain, step = self.chain, round(self.crop_s * fs)
        if self.whole:
            y = replace(chain, seconds=x.shape[-1] / fs).apply(x, fs, tolerance)
            number = y.shape[-1] // self.n_times
            crops = y[:, : number * self.n_times].reshape(len(x), number, -1).swapaxes(0, 1) if number else y[None]
        else:
            number = max(1, x.shape[-1] // step)
            parts = (x[:, k * step : (k + 1) * step] for k in range(number))
            crops = np.stack([chain.apply(part, fs, tolerance) for part in parts])
        if x.shape[-1] < step and self.short == "masked":
            crops = crops[..., : round(x.shape[-1] * chain.fs / fs)]
        return np.ascontiguousarray(crops, np.float32)

    def input(self) -> str:
        """Rate, length, leads, unit and processing of the input in one line."""
        chain, names = self.chain, list(self.leads)
        leads = "I, II, III, aVR, aVL, aVF, V1 .. V6" if names == list(LEADS) else ", ".join(names)
        steps = [f"{chain.fs:g} Hz, {self.crop_s:g} s, {len(names)} lead{'s' * (len(names) > 1)} ({leads}), mV"]
        if chain.notch:
            steps.append(f"notch {chain.notch:g} Hz")
        if any(chain.band):
            steps.append(f"band-pass {chain.band[0]:g} to {chain.band[1]:g} Hz, order {chain.order}")
        if chain.median_s:
            steps.append(f"minus a running median of {chain.median_s:g} s")
        return "; ".join([*steps, self.scale()])

    def scale(self) -> str:
        """On what scale the network reads the signal."""
        words = SCALES[self.chain.normalise] + (", over the whole recording" if self.whole else "")
        if isinstance(self.chain.scale, tuple):
            words = "each lead divided by its sd on PTB-XL"
        return words + (f", clipped at {self.chain.clip:g}" if self.chain.clip else "")


def read_cards(path: Path) -> tuple[Card, ...]:
    """The cards of a family from its .yaml, which holds `family`, what all share, and `models`, the rest.

    `statements` is a list, or the name of a vocabulary (`labels.vocabulary`) whose statements they are.
    Raises EcgError for a field that is missing or unknown.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    cards = []
    for model in content["models"]:
        fields = content.get("family", {}) | model
        if isinstance(fields.get("statements"), str):
            fields["statements"] = list(vocabulary(fields["statements"]).statement)
        try:
            cards.append(Card(**{key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}))
        except TypeError as error:
            raise EcgError(str(error), file=path, field=model.get("name"), fix="see ecglib.zoo.card.Card") from error
    return tuple(cards)


@cache
def released(pack: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Key -> (shape, dtype) of every tensor that the release of a conformance pack holds."""
    table = pd.read_csv(KEYS, dtype=str, keep_default_na=False)
    tensors = {}
    for row in table[table["pack"] == pack].itertuples():
        shape = tuple(int(n) for n in row.shape.split("x") if n)
        tensors |= {key: (shape, row.dtype or "float32") for key in expanded(row.key)}
    return tensors


def expanded(pattern: str) -> list[str]:
    """The keys that a pattern stands for, "layers.{0-1}.fc{1+3}" for four of them: - is a range, + a list."""
    texts = re.split(r"\{([^}]*)\}", pattern)
    numbers = []
    for group in texts[1::2]:
        ranges = [[int(n) for n in item.split("-")] for item in group.split("+")]
        numbers.append([n for first, *last in ranges for n in range(first, (last or [first])[0] + 1)])
    template = "{}".join(texts[::2])
    return [template.format(*choice) for choice in product(*numbers)]
