"""What one published model is, and the network that its weights go into.

A `Card` holds the facts: where the weights lie, what they were trained on, what they must be fed. A `Model` is one of
our encoders with the heads of the release around it; it takes signals of any length as its paper does.
"""

import logging
import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from ecglib import preprocess, recipe
from ecglib.signals import LEADS, EcgError

log = logging.getLogger(__name__)
KEYS = Path(__file__).parent / "zoo/keys.csv"
SCALES = {  # Profile.normalise in words
    "none": "millivolt as they are",
    "record": "z-score of all leads together",
    "lead": "z-score of each lead",
    "range": "all leads together to 0..1",
}
MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")  # aVF before aVL
SHORT = {  # what is done with a recording shorter than the network's input
    "zeros": "filled up with zeros after normalisation",
    "masked": "taken as it is: what is not there is neither fed nor averaged",
}


@dataclass(frozen=True)
class Card:
    """Facts about one published model; texts are for people, the rest is acted upon.

    parameters: values in use, head included; stored: trainable values of the release, unused ones included; dim: of the
    features. leads: what the network reads, in its order; profile: name of its signal chain; crop_s: seconds of one
    input; short: key of SHORT; whole: normalise the whole recording before it is cut (else each crop). pooling: how
    features come about; head: what the logits mean, "" = no head out of the box; statements: names of the logits.
    corpora: what it was pretrained on, as `CORPUS` of a dataset; said: where paper and code disagree; defects: known
    ones of the release. hub: "huggingface", "zenodo", "https" or "hand"; place: repository, record or address; files:
    names there, the usual one first; entry: nested dicts that may hold the weights; inert: harmless containers that the
    file pickles beside them. pack, scaling: its conformance pack and how that normalises. commercial: False where the
    licence must be accepted by name; only_card: why there is no more than this card.
    """

    name: str
    title: str
    paper: str
    repository: str
    licence: str
    parameters: int
    stored: int
    dim: int
    leads: tuple[str, ...]
    profile: str
    crop_s: float
    short: str
    pooling: str
    corpora: tuple[str, ...]
    hub: str
    place: str
    files: tuple[str, ...]
    said: str
    defects: tuple[str, ...]
    pack: str
    scaling: str
    commercial: bool = True
    whole: bool = False
    head: str = ""
    statements: tuple[str, ...] = ()
    entry: tuple[str, ...] = ("state_dict", "model")
    inert: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # patterns of parts that features do not need and a file may lack, each as a whole
    only_card: str = ""

    @property
    def chain(self) -> preprocess.Profile:
        """The signal chain, as a Profile."""
        return preprocess.profile(self.profile)

    @property
    def n_times(self) -> int:
        """Samples of one input of the network."""
        return round(self.crop_s * self.chain.fs)

    def crops(self, x: np.ndarray, fs: float) -> np.ndarray:
        """The network's inputs from a whole recording: x (lead, time) in mV at fs Hz, leads in the card's order ->
        float32 (crop, lead, samples), profiled. A remainder is dropped; a recording shorter than one crop becomes one,
        as long as it is or filled with zeros (`SHORT`)."""
        chain, step = self.chain, round(self.crop_s * fs)
        if self.whole:
            y = replace(chain, seconds=x.shape[-1] / fs).apply(x, fs)
            number = y.shape[-1] // self.n_times
            parts = y[:, : number * self.n_times].reshape(len(x), number, -1).swapaxes(0, 1) if number else y[None]
        else:
            number = max(1, x.shape[-1] // step)
            parts = np.stack([chain.apply(x[:, k * step : (k + 1) * step], fs) for k in range(number)])
        if x.shape[-1] < step and self.short == "masked":
            parts = parts[..., : round(x.shape[-1] * chain.fs / fs)]
        return np.ascontiguousarray(parts, np.float32)

    def input(self) -> str:
        """Rate, length, leads, unit and processing of the input in one line."""
        chain, names = self.chain, list(self.leads)
        leads = "I, II, III, aVR, aVL, aVF, V1 .. V6" if names == list(LEADS) else ", ".join(names)
        parts = [f"{chain.fs:g} Hz, {self.crop_s:g} s, {len(names)} lead{'s' * (len(names) > 1)} ({leads}), mV"]
        parts += [f"notch {chain.notch:g} Hz"] if chain.notch else []
        parts += (
            [f"band-pass {chain.band[0]:g} to {chain.band[1]:g} Hz, order {chain.order}"] if any(chain.band) else []
        )
        parts += [f"minus a running median of {chain.median_s:g} s"] if chain.median_s else []
        return "; ".join([*parts, self.scale()])

    def scale(self) -> str:
        """On what scale the network reads the signal."""
        words = SCALES[self.chain.normalise] + (", over the whole recording" if self.whole else "")
        if isinstance(self.chain.scale, tuple):
            words = "each lead divided by its sd on PTB-XL"
        return words + (f", clipped at {self.chain.clip:g}" if self.chain.clip else "")


@cache
def released(pack: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Key -> (shape, dtype) of every tensor that the release of a conformance pack holds."""
    table = pd.read_csv(KEYS, dtype=str, keep_default_na=False)
    found = {}
    for row in table[table["pack"] == pack].itertuples():
        shape = tuple(int(n) for n in row.shape.split("x") if n)
        found |= {key: (shape, row.dtype or "float32") for key in _expanded(row.key)}
    return found


def _expanded(key: str) -> list[str]:
    """ "layers.{0-1}.fc{1+3}" -> the four keys that it stands for."""
    parts = re.split(r"\{([^}]*)\}", key)
    ranges = [[part.split("-") for part in text.split("+")] for text in parts[1::2]]
    numbers = [
        [n for first, *last in group for n in range(int(first), int((last or [first])[0]) + 1)] for group in ranges
    ]
    return ["".join(map(str, [parts[0], *(v for pair in zip(c, parts[2::2], strict=True) for v in pair)]))
            for c in product(*numbers)]  # fmt: skip


class Model(nn.Module):
    """One of our encoders with the heads of a release. x (batch, lead, time), profiled, leads as on the card -> z.

    A recording longer than the network's input becomes consecutive crops whose features are averaged, a remainder is
    dropped; zeros at the end of all leads are padding (`SHORT` says what is done). Families override `convert`,
    `features`, `logits` and `outputs`. weights: "published" or "recipe"; content: checksum of the file they came from;
    absent: released tensors that the file lacks.
    """

    batch_size = 16  # crops that run together: more are slower on a CPU, whose caches they leave

    def __init__(self, card: Card):
        super().__init__()
        self.card, self.dim, self.n_leads = card, card.dim, len(card.leads)
        self.weights, self.content, self.absent = "none", "", []
        self.config = {"encoder": f"zoo:{card.name}", "n_leads": self.n_leads}

    def rename(self, state: dict) -> dict:
        """The tensors of any file of the release under the keys of its conformance pack."""
        names = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
        for old, new in names.items():  # torch's older spelling of a weight normalisation
            state = {key.replace(old, new) if key.endswith(old) else key: value for key, value in state.items()}
        return {key.removeprefix("module."): value for key, value in state.items()}

    def shapes(self, state: dict) -> dict[str, tuple[int, ...]]:
        """Key -> shape of the tensors that the file must hold; families look into `state` where files differ."""
        return {key: shape for key, (shape, _) in released(self.card.pack).items()}

    def convert(self, state: dict) -> dict:
        """Tensors under the pack's keys -> under ours; raises EcgError for a key that it does not know."""
        raise NotImplementedError

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled features (batch, dim) of one crop, as the paper probes them."""
        return self.encoder(x)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """The release's own head on one crop: (batch, statement)."""
        raise EcgError(f"{self.card.name} has no head of its own", field="head", fix="probe its features")

    def outputs(self, x) -> dict[str, torch.Tensor]:
        """What the conformance pack compares, by name."""
        return {"output": self.features(x)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._averaged(self.features, x)

    def statements(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (batch, statement) of the release's head, averaged over the crops."""
        if self.absent:
            fix = f"give a file that holds {self.absent[0]}"
            raise EcgError("these weights came without the head", file=self.weights, field="head", fix=fix)
        return self._averaged(self.logits, x)

    def _averaged(self, function, x: torch.Tensor) -> torch.Tensor:
        """Mean of function over the crops of each record, records of like length together."""
        if x.shape[1] != self.n_leads:
            reason = f"{x.shape[1]} leads for {self.card.name}"
            raise EcgError(reason, field="x", fix=f"give {', '.join(self.card.leads)}, in this order")
        crops = [_crops(length, self.card) for length in _lengths(x)]
        out = None
        for number, length in dict.fromkeys(crops):
            rows = torch.tensor([i for i, crop in enumerate(crops) if crop == (number, length)], device=x.device)
            part = nn.functional.pad(x[rows], (0, max(0, number * length - x.shape[-1])))[..., : number * length]
            part = part.unflatten(-1, (number, length)).transpose(1, 2).flatten(0, 1)
            mean = function(part).unflatten(0, (len(rows), number)).mean(1)
            out = mean.new_zeros(len(x), mean.shape[-1]) if out is None else out
            out = out.index_copy(0, rows, mean)
        return out

    def take(self, state: dict) -> "Model":
        """Put in the released tensors, none left over and none missing; EcgError that names every one that is."""
        state = self.rename(state)
        wanted = self.shapes(state)
        self.absent = _absent(state, wanted, self.card)
        state = {key: value for key, value in state.items() if key not in self.absent}
        faults = [f"missing {key} {list(wanted[key])}" for key in wanted if key not in {*state, *self.absent}]
        faults += [f"unexpected {key} {list(state[key].shape)}" for key in state if key not in wanted]
        faults += [f"{key} is {list(state[key].shape)}, not {list(wanted[key])}"
                   for key in wanted if key in state and tuple(state[key].shape) != wanted[key]]  # fmt: skip
        if faults:
            more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
            reason = f"the tensors are not those of {self.card.title}: {'; '.join(faults[:4])}{more}"
            raise EcgError(reason, field="keys", fix=f"give {' or '.join(self.card.files)} of {self.card.place}")
        state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
        ours = self.convert(state)
        own = self.state_dict()
        left = [key for key in own if key not in ours and not self._needs(key)]
        return self.fit(ours | {key: torch.zeros(own[key].shape) for key in left})

    def fit(self, ours: dict) -> "Model":
        """Put in tensors under our names; EcgError where they are not those of the network."""
        try:
            self.load_state_dict(ours, assign=True)
        except RuntimeError as error:
            raise EcgError(f"weights do not fit: {error}", field="keys", fix="use the network they are from") from error
        return self.settle()

    def settle(self) -> "Model":
        """Give what is no weight, and so in no file, a place in memory; evaluation mode."""
        for module in self.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_meta:
                    setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
        return self.eval()

    def _needs(self, key: str) -> bool:
        """Whether one of our tensors must be in the file: all but the heads whose released tensors are absent."""
        return key.startswith("encoder.") or not self.absent

    def filled(self) -> "Model":
        """The recipe's weights: the same everywhere, and without any meaning."""
        state = {key: recipe.fill(key, shape, dtype) for key, (shape, dtype) in released(self.card.pack).items()}
        return self.take(state)


def _absent(state: dict, wanted: dict, card: Card) -> list[str]:
    """Keys of the optional parts that are not there, or that are there with other shapes, which is logged: a head that
    was trained for something else is left out."""
    absent = []
    for pattern in card.optional:
        part = [key for key in wanted if re.match(pattern, key)]
        other = [key for key in part if key in state and tuple(state[key].shape) != wanted[key]]
        if other and all(key in state for key in part):
            shapes = f"{other[0]} is {list(state[other[0]].shape)}, not {list(wanted[other[0]])}"
            log.warning("%s: a part that is not needed for features is left out, since %s", card.title, shapes)
            absent += part
        elif not any(key in state for key in part):
            absent += part
    return sorted(absent)


def _lengths(x: torch.Tensor) -> list[int]:
    """Samples of each record up to the zeros at its end; all of them for a record that is nothing but zeros."""
    there = (x != 0).any(1)
    last = x.shape[-1] - there.flip(-1).long().argmax(-1)
    return torch.where(there.any(-1), last, x.shape[-1]).tolist()


def _crops(length: int, card: Card) -> tuple[int, int]:
    """(number, samples) of the crops of a record of `length` samples."""
    if length >= card.n_times or card.short == "zeros":
        return max(1, length // card.n_times), card.n_times
    second = round(card.chain.fs)  # less tells nothing, and no network takes it
    return 1, max(length, second)
