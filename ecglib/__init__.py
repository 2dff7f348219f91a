"""ECG foundation models: data, models, objectives, evaluation, published checkpoints and the study that joins them.

Here stand the error for bad input, and the look-up of plugins: packages in which dropping a file in is all it takes.
"""

import contextlib
import difflib
import importlib
import math
import pkgutil
import signal
import sys
import threading
import warnings
from numbers import Real
from pathlib import Path

__version__ = "0.1.0"
_AT_THE_TOP = {"wfdb_io": "ecglib.data.wfdb_io", "metrics": "ecglib.evaluation.metrics"}


def __getattr__(name: str):
    """`from ecglib import wfdb_io, metrics`, loaded when asked for."""
    if name in _AT_THE_TOP:
        return importlib.import_module(_AT_THE_TOP[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _warn_of_another() -> None:
    """Warn where another distribution has installed a package `ecglib` too, as EcgLib (ispras) on PyPI does."""
    for info in [info for folder in dict.fromkeys(sys.path) for info in Path(folder).glob("ecglib-*.dist-info")]:
        record = info / "RECORD"  # an editable installation of this project lists no module
        if record.is_file() and "ecglib/__init__.py," in record.read_text():
            text = f"{info}: another distribution has a package `ecglib` too, and Python imports either of them"
            warnings.warn(f"{text} -> pip uninstall ecglib, or keep the two in environments of their own", stacklevel=3)


_warn_of_another()


class EcgError(ValueError):
    """Bad input: says what is wrong, in which file and field, and what to do about it."""

    def __init__(self, reason: str, *, file=None, field: str | None = None, fix: str | None = None):
        self.reason, self.field, self.fix = reason, field, fix
        self.file = None if file is None else str(file)
        place = " ".join(part for part in (self.file and f"{self.file}:", field and f"[{field}]") if part)
        super().__init__(" ".join(part for part in (place, reason, fix and f"-> {fix}") if part))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the sentence alone, since the place in this library helps nobody who reads it."""
        return [f"EcgError: {self}"]

    def __reduce__(self):
        """Keep every field when a worker process hands the error back."""
        return _rebuild_error, (self.reason, self.file, self.field, self.fix)


def _rebuild_error(reason, file, field, fix) -> EcgError:
    return EcgError(reason, file=file, field=field, fix=fix)


def meant(name, valid) -> str:
    """The words "did you mean 'AFIB'? ", after that of the `valid` names which is most like `name`; "" where none is.

    Of those that are near, one with the same letters comes first: two of them were swapped.
    """
    close = difflib.get_close_matches(str(name), map(str, valid))
    swapped = [other for other in close if sorted(other) == sorted(str(name))]
    return f"did you mean {(swapped or close)[0]!r}? " if close else ""


def require_known(what: str, wanted, valid, field: str | None = None, file=None) -> None:
    """Raise EcgError, which lists the `valid` names, for the first of `wanted` that is none; what: the word for one."""
    for name in wanted:
        if isinstance(name, list | dict) or name not in valid:  # a list cannot be looked up in a set
            fix = f"{meant(name, valid)}use one of {', '.join(map(str, valid)) or 'none'}"
            raise EcgError(f"unknown {what} {name!r}", file=file, field=field or what, fix=fix)


def require_type(name: str, value, kind, what: str, least: float = -math.inf) -> None:
    """Raise EcgError where the setting `name` is of no `kind`, a type or several, or below `least`; what: its word.

    true and false are no numbers, a number is finite, and the items of a list are texts.
    """
    good = isinstance(value, kind) and not isinstance(value, bool)
    if good and isinstance(value, Real):
        good = math.isfinite(value) and value >= least
    if good and isinstance(value, list | tuple):
        good = all(isinstance(item, str) for item in value)
    if not good:
        raise EcgError(f"{value!r} is no {what}", field=name, fix=f"give a {what}")


@contextlib.contextmanager
def workers_started():
    """Keep Ctrl-C from the processes that start in the block: this one hears it, and ends them."""
    main = threading.current_thread() is threading.main_thread()  # Ctrl-C is for this one
    heard = main and signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, heard)


def plugin_names(path) -> list[str]:
    """Names of the plugins in a package; path: its `__path__`."""
    return sorted(module.name for module in pkgutil.iter_modules(path))


def find_plugin(package: str, path, name: str, what: str):
    """The module `name` of a plugin package; raises EcgError that lists the valid names.

    package: dotted name; path: its `__path__`; what: the word for a plugin in the message.
    """
    require_known(what, [name], plugin_names(path))
    return importlib.import_module(f"{package}.{name}")
