"""Wings: packages whose files are found by their names. Dropping a file in is all it takes."""

import importlib
import pkgutil

from ecglib.signals import EcgError


def names(path) -> list[str]:
    """Names of the files in a wing; path: its `__path__`."""
    return sorted(m.name for m in pkgutil.iter_modules(path))


def find(package: str, path, name: str, what: str):
    """The module `name` of a wing; raises EcgError that lists the valid names. what: the word for it in the message."""
    if name not in names(path):
        raise EcgError(f"unknown {what} {name!r}", field=what, fix=f"use one of {', '.join(names(path))}")
    return importlib.import_module(f"{package}.{name}")
