"""Read the tensors of checkpoint files without ever executing what is pickled in them.

torch's weights-only reader refuses every name that a file wants to import. Names that a model's card allows, such as
argparse.Namespace, are answered with stand-ins that take anything and do nothing: no package is imported for them.
"""

import re
import threading
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from functools import reduce
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ecglib import EcgError
from ecglib.data.download import is_page

ENTRIES = ("model", "state_dict", "model_state_dict", "encoder", "module")
# Never answered with a stand-in, whatever a card says: what these do has no business beside weights.
DENIED = set(
    "_io _operator _pickle _posixsubprocess asyncio bdb builtins cPickle cProfile code codeop commands copyreg ctypes "
    "distutils doctest ftplib functools http imp importlib inspect io marshal multiprocessing nt numpy.distutils "
    "numpy.f2py numpy.testing operator os pdb pickle pip pkgutil platform posix profile pty pydoc requests runpy "
    "setuptools shelve shutil signal smtplib socket subprocess sys telnetlib tempfile threading timeit torch._dynamo "
    "torch._inductor torch.hub torch.jit torch.package torch.utils trace types urllib venv webbrowser zipimport".split()
)
# Types that containers are made of. They run nothing, and get stand-ins too.
PLAIN = {f"builtins.{name}" for name in "bool bytes dict float frozenset int list object range slice str tuple".split()}
PLAIN |= {f"typing.{name}" for name in "Any Dict List Optional Tuple Union".split()} | {"collections.defaultdict"}
_REFUSED = "do not use this file, or ask its authors for a .safetensors file"
_CUT, _AGAIN = "the file is cut short", "fetch it again"
_ONE_AT_A_TIME = threading.Lock()  # torch's list of allowed names is one for the process


class Inert:
    """Stands in for a class or a function: takes any arguments and any state, keeps and does nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


class InertDict(Inert):
    """Stands in for a kind of dict: torch's reader fills only dicts of its own."""

    def __new__(cls, *args, **kwargs):
        return OrderedDict()


class InertList(Inert):
    def __new__(cls, *args, **kwargs):
        return []


def tensors(path, entry=ENTRIES, inert=()) -> dict[str, torch.Tensor]:
    """Return the named tensors of a checkpoint, as they are stored, on the CPU and without gradients.

    path: .safetensors, or anything that torch.save wrote.
    entry: names of nested dicts ("a.b" for one within another) that may hold the weights, the first that is there;
    inert: dotted prefixes of harmless names that the file may hold beside them ("omegaconf", "argparse.Namespace").
    Raises EcgError: the file is missing, empty, cut short, corrupt, a web page or something else, wants to call what
    is not allowed (refused, not run), or has no tensors there.
    """
    path = Path(path)
    head = _head(path)
    if path.suffix == ".safetensors":
        return _tensors_of(path, _safetensors(path, head), "the top level")
    if head.startswith(b"PK"):
        _check_archive(path)
    content = _load(path, head.startswith(b"PK"), (inert,) if isinstance(inert, str) else tuple(inert))
    if not isinstance(content, dict):
        raise EcgError(f"holds a {type(content).__name__}, not named tensors", file=path, field="checkpoint")
    for name in (entry,) if isinstance(entry, str) else entry:
        steps = [name] if name in content else name.split(".")
        if isinstance(nested := reduce(_within, steps, content), dict):
            return _tensors_of(path, _only_holder(nested), f"entry {name!r}")
    return _tensors_of(path, _only_holder(content), "the top level")


def _only_holder(content: dict) -> dict:
    """A dict itself, or the one dict in it that holds tensors by name, where it has none and there is one."""
    holders = [] if _named(content) else [value for value in _dicts(content) if _named(value)]
    return holders[0] if len(holders) == 1 else content


def _dicts(content: dict):
    """All dicts within a dict that stand under a name."""
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, dict):
            yield value
            yield from _dicts(value)


def _named(content: dict) -> dict[str, torch.Tensor]:
    return {k: v.detach() for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}


def _within(content, key: str):
    return content.get(key) if isinstance(content, dict) else None


def _tensors_of(path: Path, content: dict, where: str) -> dict[str, torch.Tensor]:
    """The named tensors among the values of a dict; EcgError where there are none."""
    named = _named(content)
    if not named:
        inside = [str(key) for key, value in content.items() if isinstance(value, dict)]
        fix = f"name the dict that holds the weights; there are: {', '.join(inside) or 'none'}"
        raise EcgError(f"{where} holds no tensors", file=path, field="entry", fix=fix)
    return named


def _head(path: Path) -> bytes:
    """The first bytes of a file; EcgError where they already tell that it is no checkpoint."""
    if not path.is_file():
        raise EcgError(
            "is a folder" if path.is_dir() else "no such file", file=path, fix="give the path of a checkpoint"
        )
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise EcgError("the file is empty", file=path, field="checkpoint", fix=_AGAIN)
    if is_page(head):
        raise EcgError("is a web page, not a checkpoint", file=path, field="checkpoint", fix=_AGAIN)
    if head.startswith(b"version https://git-lfs"):
        fix = "run git lfs pull, or fetch the file from the page of the repository"
        raise EcgError("is a pointer of Git LFS, not the file itself", file=path, field="checkpoint", fix=fix)
    return head


def _safetensors(path: Path, head: bytes) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        cut = re.search("header too small|not fully covered", str(error))
        cut = cut or ("invalid header length" in str(error) and head[8:9] in (b"", b"{"))
        reason = _CUT if cut else "not a safetensors file"
        raise EcgError(f"{reason} ({error})", file=path, field="checkpoint", fix=_AGAIN) from error


def _check_archive(path: Path) -> None:
    """Raise EcgError for a zip file that is cut short, or that torch.save did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        reason = f"{_CUT}: its table of contents, at the end, is missing"
        raise EcgError(reason, file=path, field="checkpoint", fix=_AGAIN) from error
    names = [member.filename for member in members]
    if outside := [name for name in names if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name)]:
        raise EcgError(f"names a file outside itself: {outside[0]}", file=path, field="checkpoint", fix=_REFUSED)
    inside = {name.split("/", 1)[-1] for name in names}
    if "constants.pkl" in inside:
        raise EcgError("holds a TorchScript program, not weights alone", file=path, field="checkpoint", fix=_REFUSED)
    if "data.pkl" not in inside:
        fix = f"unpack it and give the checkpoint in it; it holds {', '.join(names[:8])}"
        raise EcgError("is an archive of something else, not a checkpoint", file=path, field="checkpoint", fix=fix)
    if any(member.compress_type for member in members):  # torch would take the compressed bytes for weights
        fix = "fetch it again as it was saved, or unpack it and pack it without compression (zip -0 -r)"
        raise EcgError("was packed again, with compression", file=path, field="checkpoint", fix=fix)


def _load(path: Path, zipped: bool, inert: tuple[str, ...]):
    """What the file holds, stand-ins among it; the reader names what it misses, and is then asked again with it."""
    kinds = {}
    with _ONE_AT_A_TIME:
        if zipped:
            for name in sorted(_guarded(path, torch.serialization.get_unsafe_globals_in_checkpoint, str(path))):
                kinds[_granted(name, inert, path)] = Inert
        while True:
            allowed = [(type(name, (kind,), {"__module__": __name__}), name) for name, kind in kinds.items()]
            before = dict(kinds)
            with torch.serialization.safe_globals(allowed):
                content = _guarded(path, _read, path, zipped, kinds, inert)
            if kinds == before:
                return content


def _read(path: Path, zipped: bool, kinds: dict, inert: tuple[str, ...]):
    """Read the file once. A name that the reader misses, or took for another kind of thing, goes into `kinds`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: what cannot be read is an error anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        text = str(error)
        if missed := re.search(r"GLOBAL (\S+)", text):
            name = missed[1] if "." in missed[1] else f"builtins.{missed[1]}"  # torch's message leaves builtins out
            if not zipped and _tail(path)[:-1].endswith(name.rpartition(".")[2].encode()):
                raise EOFError from error  # the file ends within the name
            if _granted(name, inert, path) in kinds:
                raise
            kinds[name] = Inert
        elif filled := re.search(r"Can only (SETITEM|append|extend).*got <class '" + __name__ + r"\.([\w.]+)'>", text):
            kind = InertDict if filled[1] == "SETITEM" else InertList
            if kinds.get(filled[2]) is kind:
                raise
            kinds[filled[2]] = kind
        else:
            raise
        return None


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 256))
        return file.read()


def _granted(name: str, inert: tuple[str, ...], path: Path) -> str:
    """Return a name that may have a stand-in; raises EcgError for any other."""
    module, _, last = name.rpartition(".")
    meant = f"{IMPORT_MAPPING.get(module, module)}.{last}"  # the names of Python 2, which torch.save writes
    parts = meant.split(".")
    heads = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    wanted = heads & {prefix.removesuffix(".*").rstrip(".") for prefix in inert}
    if meant in PLAIN or (wanted and not heads & DENIED):
        return name
    reason = f"the file wants to call {meant}: refused, nothing of it was run"
    raise EcgError(reason, file=path, field="pickle", fix=_REFUSED)


def _guarded(path: Path, function, *args):
    """Call a reader of torch; whatever it fails with becomes an EcgError that says what is wrong with the file."""
    try:
        return function(*args)
    except (EcgError, MemoryError):
        raise
    except Exception as error:  # bytes that are no pickle fail in many ways: struct, index, key, assertion, ...
        text = " ".join(str(error).split("WeightsUnpickler error:")[-1].split())
        if isinstance(error, EOFError) or re.search("EOF|requires a buffer of", text):
            raise EcgError(_CUT, file=path, field="checkpoint", fix=_AGAIN) from error
        if operand := re.search(r"Unsupported operand (\d+)|unsupported pickle protocol", text):
            reason = f"not a checkpoint, or pickled in a way that cannot be read safely ({operand[0]})"
            fix = "fetch it again, or ask its authors for a .safetensors file"
            raise EcgError(reason, file=path, field="checkpoint", fix=fix) from error
        reason = f"corrupt, or not a checkpoint ({type(error).__name__}: {text[:200]})"
        raise EcgError(reason, file=path, field="checkpoint", fix=_AGAIN) from error
