"""Wings: packages whose files are found by their names. Dropping a file in is all it takes.

A folder named by the environment variable ECGLIB_PLUGINS may hold more of them (`objectives/<name>.py`,
`encoders/<name>.py`, `datasets/<name>.py`), so that a method can live outside this repository.
"""

import importlib
import os
import pkgutil
from pathlib import Path

from ecglib.signals import EcgError


def folders(path, wing: str) -> list[str]:
    """The folders of a wing: its own `path`, then that of the plug-ins. Raises EcgError where there are none such."""
    plugins = os.environ.get("ECGLIB_PLUGINS")
    if not plugins:
        return list(path)
    if not Path(plugins).is_dir():
        fix = "name a folder that holds wings, or unset it"
        raise EcgError("no such folder", file=plugins, field="ECGLIB_PLUGINS", fix=fix)
    return [*path, str(Path(plugins).resolve() / wing)]


def names(package) -> list[str]:
    """Names of the files in a wing (its package or its `__path__`)."""
    return sorted({m.name for m in pkgutil.iter_modules(getattr(package, "__path__", package))})


def find(package: str, path, name: str, what: str):
    """The module `name` of a wing; raises EcgError that lists the valid names. what: the word for it in the message."""
    if name not in names(path):
        raise EcgError(f"unknown {what} {name!r}", field=what, fix=f"use one of {', '.join(names(path))}")
    return importlib.import_module(f"{package}.{name}")
