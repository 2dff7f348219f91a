"""A published model as a frozen feature extractor of recordings of any length: crops, leads, averages."""

import logging
import re

import torch
from torch import nn

from ecglib import EcgError, models
from ecglib.zoo import dummy
from ecglib.zoo.card import Card, released

log = logging.getLogger(__name__)
MATRICES = ("weight", "weight_g", "weight_v", "original0", "original1")  # ends of names; tokens and biases begin as 0


class Model(nn.Module):
    """One of our encoders with the heads of a release. x (batch, lead, time), profiled, leads as on the card -> z.

    A recording longer than the network's input becomes consecutive crops whose features are averaged, a remainder is
    dropped; zeros at the end of all leads are padding (`card.SHORT` says what is done). Families override `rename`,
    `convert`, `features` and `outputs`.

    weights: "published" or "dummy"; content: checksum of their file; absent: released tensors that the file lacks.
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
        if not self.card.statements:
            raise EcgError(f"{self.card.name} has no head of its own", field="head", fix="probe its features")
        return self.head(self.features(x))

    def outputs(self, x) -> dict[str, torch.Tensor]:
        """What the conformance pack compares, by name."""
        z = self.features(x)
        return {"output": z} | ({"logits": self.head(z)} if self.card.statements else {})

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
        x = models.checked_input(self, x)
        if not x.isfinite().all():
            fix = "fill the gaps: Card.crops takes a recording without any"
            raise EcgError("holds NaN or infinity", field="x", fix=fix)
        sizes, out = [_crops(length, self.card) for length in _lengths(x)], None
        for number, length in dict.fromkeys(sizes):
            rows = torch.tensor([i for i, size in enumerate(sizes) if size == (number, length)], device=x.device)
            crops = nn.functional.pad(x[rows], (0, max(0, number * length - x.shape[-1])))[..., : number * length]
            crops = crops.unflatten(-1, (number, length)).transpose(1, 2).flatten(0, 1)
            mean = function(crops).unflatten(0, (len(rows), number)).mean(1)
            out = mean.new_zeros(len(x), mean.shape[-1]) if out is None else out
            out = out.index_copy(0, rows, mean)
        return out

    def load_released(self, state: dict) -> "Model":
        """Put in the released tensors, none left over and none missing; EcgError that names every one that is.

        The marks of wrappers around the network (`models.spellings`) are taken off where that makes all fit, and said.
        """
        told = []
        for taken, tensors in models.spellings(state):
            fitted, faults = self._fitted(tensors)
            told = told or faults
            if not faults:
                if taken:
                    log.warning("%s: %r is taken off the names of all tensors", self.card.title, taken)
                break
        else:
            more = f" and {len(told) - 4} more" if len(told) > 4 else ""
            reason = f"the tensors are not those of {self.card.title}: {'; '.join(told[:4])}{more}"
            raise EcgError(reason, field="keys", fix=f"give {' or '.join(self.card.files)} of {self.card.location}")
        state = {key: value.float() if value.is_floating_point() else value for key, value in fitted.items()}
        weights = [key for key, value in state.items() if value.ndim > 1 and key.endswith(MATRICES)]
        models.require_sound(state, nonzero=weights)
        ours = self.convert(state)
        if self.absent:  # heads whose released tensors are absent
            own = {key: value for key, value in self.state_dict().items() if not key.startswith("encoder.")}
            ours |= {key: torch.zeros(value.shape) for key, value in own.items() if key not in ours}
        return self.load_tensors(ours)

    def _fitted(self, state: dict) -> tuple[dict, list[str]]:
        """(tensors under the keys of the pack without those of absent heads, what is wrong with them in words)."""
        state = self.rename(state)
        wanted = self.shapes(state)
        self.absent = _absent(state, wanted, self.card)
        state = {key: value for key, value in state.items() if key not in self.absent}
        faults = [f"missing {key} {list(wanted[key])}" for key in wanted if key not in {*state, *self.absent}]
        faults += [f"unexpected {key} {list(state[key].shape)}" for key in state if key not in wanted]
        faults += [f"{key} is {_sizes(state, wanted, key)}" for key in wanted if _differs(state, wanted, key)]
        kinds = {key: dtype for key, (_, dtype) in released(self.card.pack).items() if key in state}
        wrong = [key for key, dtype in kinds.items() if "float" in dtype and not state[key].is_floating_point()]
        wrong += [key for key in kinds if state[key].layout != torch.strided and key not in wrong]
        return state, faults + [f"{key} holds {state[key].dtype}, {state[key].layout}" for key in wrong]

    def load_tensors(self, ours: dict) -> "Model":
        """Put in tensors under our names, in evaluation mode; EcgError where they are not those of the network."""
        try:
            self.load_state_dict(ours, assign=True)
        except RuntimeError as error:
            raise EcgError(f"weights do not fit: {error}", field="keys", fix="use the network they are from") from error
        for module in self.modules():  # what is no weight, and so in no file, gets memory
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_meta:
                    setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
        return self.eval()

    def load_dummy(self) -> "Model":
        """Put in the weights of `dummy`, the same everywhere and without any meaning."""
        self.weights, self.content = "dummy", f"dummy-{self.card.name}"
        tensors = released(self.card.pack).items()
        return self.load_released({key: dummy.fill(key, shape, dtype) for key, (shape, dtype) in tensors})


def _absent(state: dict, wanted: dict, card: Card) -> list[str]:
    """Keys of the optional heads that are not there, or that are there with other shapes, which is logged: a head that
    was trained for something else is left out."""
    absent = []
    for pattern in card.optional:
        keys = [key for key in wanted if re.match(pattern, key)]
        other = [key for key in keys if _differs(state, wanted, key)]
        if other and all(key in state for key in keys):
            shapes = f"{other[0]} is {_sizes(state, wanted, other[0])}"
            log.warning("%s: a part that is not needed for features is left out, since %s", card.title, shapes)
            absent += keys
        elif not any(key in state for key in keys):
            absent += keys
    return sorted(absent)


def _differs(state: dict, wanted: dict, key: str) -> bool:
    return key in state and tuple(state[key].shape) != wanted[key]


def _sizes(state: dict, wanted: dict, key: str) -> str:
    return f"{list(state[key].shape)}, not {list(wanted[key])}"


def _lengths(x: torch.Tensor) -> list[int]:
    """Samples of each record up to the zeros at its end; all of them for a record that is nothing but zeros."""
    signal = (x != 0).any(1)
    last = x.shape[-1] - signal.flip(-1).long().argmax(-1)
    return torch.where(signal.any(-1), last, x.shape[-1]).tolist()


def _crops(length: int, card: Card) -> tuple[int, int]:
    """(number, samples) of the crops of a record of `length` samples."""
    if length >= card.n_times or card.short == "zeros":
        return max(1, length // card.n_times), card.n_times
    return 1, max(length, round(card.chain.fs))  # less than a second tells nothing, and no network takes it


def with_prefix(prefix: str, tensors: dict) -> dict:
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def renamed_layers(state: dict, names: dict[str, str]) -> dict:
    """Weights and biases of layers under our names, those that the file lacks left out; names: theirs -> ours."""
    leaves = [(theirs, ours, leaf) for theirs, ours in names.items() for leaf in ("weight", "bias")]
    return {f"{ours}.{leaf}": state[f"{theirs}.{leaf}"] for theirs, ours, leaf in leaves if f"{theirs}.{leaf}" in state}
