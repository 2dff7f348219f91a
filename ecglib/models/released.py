"""Released weights under the names of our networks."""

import re

import torch

from ecglib import EcgError


def rename(state: dict[str, torch.Tensor], names, source: str, unused: str = "") -> dict[str, torch.Tensor]:
    r"""The tensors of a released state dict (name -> tensor) under our names.
    names: pairs (regular expression of a whole released name, our name with \1, \2 .. for its groups); source: whose it
    has to be, for the message; unused: regular expression of what is left out. Raises EcgError for any other name."""
    ours = {}
    for key, value in state.items():
        if re.fullmatch(unused, key):
            continue
        name = next((m.expand(template) for pattern, template in names if (m := re.fullmatch(pattern, key))), None)
        if name is None:
            raise EcgError(f"unknown tensor {key}", field=key, fix=f"give the state dict of {source}")
        ours[name] = value
    return ours
