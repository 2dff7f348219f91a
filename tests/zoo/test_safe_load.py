"""Checkpoints of every kind are read without running anything that they hold."""

import argparse
import collections
import datetime
import enum
import os
import pathlib
import subprocess
import sys
import threading
import warnings
import zipfile

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from ecglib import EcgError
from ecglib.zoo import safe_load

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Settings(dict):
    """A dict with a state, as EasyDict and CfgNode are."""

    def __init__(self, **values):
        super().__init__(values)
        self.__dict__.update(values)


class Names(list):
    pass


class Colour(enum.Enum):
    RED = 1


def saved(tmp_path, content, name="w.pt", **options):
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name


def equal(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in expected.items())


def refused(path, match, **options):
    with pytest.raises(EcgError, match=match) as error:
        safe_load.tensors(path, **options)
    assert error.value.file == str(path)
    return error.value


def allowed():
    return set(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_plain_state_dict(tmp_path, new):
    path = saved(tmp_path, WEIGHTS, _use_new_zipfile_serialization=new)
    equal(safe_load.tensors(str(path)), WEIGHTS)


def test_values_come_as_they_are_stored(tmp_path):
    dtypes = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64)
    content = {str(dtype): torch.arange(4).to(dtype) for dtype in dtypes}
    content["p"] = torch.nn.Parameter(torch.rand(2))
    content["view"] = torch.arange(12.0).reshape(3, 4).T
    found = safe_load.tensors(saved(tmp_path, content))
    equal(found, content)
    assert type(found["p"]) is torch.Tensor and not found["p"].requires_grad


def test_what_is_changed_in_memory_stays_there(tmp_path):
    path = saved(tmp_path, WEIGHTS)
    before = path.read_bytes()
    safe_load.tensors(path)["a.weight"].add_(1)
    assert path.read_bytes() == before


OTHER = {"x": torch.ones(1)}


@pytest.mark.parametrize(
    "content, entry",
    [
        ({"model": WEIGHTS, "optimizer": {"state": {}}, "epoch": 3}, safe_load.ENTRIES),
        ({"state_dict": WEIGHTS, "model": "vit_base"}, ("model", "state_dict")),
        ({"encoder": OTHER, "teacher": WEIGHTS}, ("teacher", "encoder")),
        ({"model": OTHER, "ema": WEIGHTS}, "ema"),
        ({"model": {"state_dict": WEIGHTS, "n": 1}, "e": 1}, ("model.state_dict",)),
        ({**WEIGHTS, "epoch": 3, "args": {"lr": 1}}, ("model",)),
        ({"model.a": WEIGHTS, "model": {"a": OTHER}}, ("model.a",)),
        ({"net": WEIGHTS, "epoch": 1, "optimizer": {"state": {0: OTHER}, "param_groups": [{"lr": 1}]}}, ("model",)),
        ({"model": {"state_dict": {"net": WEIGHTS}}}, ("model",)),
        ({"state": {"ecg": {"weights": WEIGHTS}}, "config": {"depth": 3}}, safe_load.ENTRIES),
    ],
)
def test_the_entry_that_holds_the_weights(tmp_path, content, entry):
    equal(safe_load.tensors(saved(tmp_path, content), entry), WEIGHTS)


def test_values_that_are_no_tensors_are_left_out(tmp_path):
    path = saved(tmp_path, {"model": {**WEIGHTS, "steps": 3, "extra": {"t": torch.ones(1)}, 7: torch.ones(1)}})
    equal(safe_load.tensors(path), WEIGHTS)


@pytest.mark.parametrize(
    "content, match, fix",
    [
        ({"model": {}, "state_dict": WEIGHTS}, "entry 'model' holds no tensors", "none"),
        ({"model": {"net": WEIGHTS, "ema": WEIGHTS}}, "entry 'model' holds no tensors", "there are: net, ema"),
        ({"net": WEIGHTS, "ema": WEIGHTS}, "the top level holds no tensors", "there are: net, ema"),
        ([torch.ones(1)], "holds a list, not named tensors", ""),
        (torch.ones(1), "holds a Tensor", ""),
    ],
)
def test_a_file_without_tensors_where_they_should_be(tmp_path, content, match, fix):
    assert fix in (refused(saved(tmp_path, content), match).fix or "")


def test_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors", {"model": "x"})
    found = safe_load.tensors(tmp_path / "w.safetensors", entry=("model",))
    equal({key: found[key] for key in WEIGHTS}, WEIGHTS)
    data = (tmp_path / "w.safetensors").read_bytes()
    for n in (4, 20, len(data) - 1):
        (tmp_path / "w.safetensors").write_bytes(data[:n])
        refused(tmp_path / "w.safetensors", "cut short")
    for content in (b"\xff" * 100, saved(tmp_path, WEIGHTS).read_bytes()):
        (tmp_path / "w.safetensors").write_bytes(content)
        refused(tmp_path / "w.safetensors", "not a safetensors file")


CALLS = {
    "posix.system": (os.system, "touch {}"),
    "builtins.eval": (eval, "open({!r}, 'w')"),
    "builtins.exec": (exec, "open({!r}, 'w')"),
    "builtins.getattr": (getattr, "x", "upper"),
    "io.open": (open, "{}", "w"),
    "subprocess.Popen": (subprocess.Popen, ["touch", "{}"]),
    "pathlib.Path": (pathlib.Path, "{}"),
    "argparse.Namespace": (argparse.Namespace,),
}
EVERYTHING = ("builtins", "os", "posix", "subprocess", "sys", "nt", "")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", CALLS)
def test_what_a_file_wants_to_call_is_refused_and_not_run(tmp_path, name, new):
    function, *arguments = CALLS[name]
    sentinel = tmp_path / "sentinel"
    fill = lambda text: text.replace("{!r}", repr(str(sentinel))).replace("{}", str(sentinel))  # noqa: E731
    arguments = [[fill(a) for a in each] if isinstance(each, list) else fill(each) for each in arguments]
    path = saved(tmp_path, {"model": WEIGHTS, "x": Call(function, *arguments)}, _use_new_zipfile_serialization=new)
    error = refused(path, f"wants to call {name}: refused, nothing of it was run", inert=EVERYTHING)
    assert error.field == "pickle" and ".safetensors" in error.fix
    assert not sentinel.exists()
    if name not in ("builtins.getattr", "pathlib.Path", "argparse.Namespace"):
        torch.load(path, weights_only=False)  # the same file, read the usual way
        for _ in range(3000):
            if sentinel.exists():
                break
            threading.Event().wait(0.02)
        assert sentinel.exists()


@pytest.mark.parametrize(
    "name", ["os.system", "importlib.import_module", "torch.hub.load", "numpy.testing.run", "sys.x"]
)
def test_a_card_cannot_allow_what_is_denied(name):
    module = name.rpartition(".")[0]
    for inert in ((name,), (module,), (module.split(".")[0],), (module + ".*",)):
        with pytest.raises(EcgError, match=f"wants to call {name}"):
            safe_load._granted(name, inert, pathlib.Path("w.pt"))


def test_a_prefix_ends_at_a_dot():
    path = pathlib.Path("w.pt")
    for inert in (("omega",), ("omegaconf.base",), ("",), (".",), ("*",), ()):
        with pytest.raises(EcgError, match="wants to call omegaconf.nodes.AnyNode"):
            safe_load._granted("omegaconf.nodes.AnyNode", inert, path)
    for inert in (
        ("omegaconf",),
        ("omegaconf.",),
        ("omegaconf.*",),
        ("x", "omegaconf.nodes"),
        ("omegaconf.nodes.AnyNode",),
    ):
        assert safe_load._granted("omegaconf.nodes.AnyNode", inert, path) == "omegaconf.nodes.AnyNode"


def numbers():
    generator = np.random.RandomState(0)
    return {"scalar": np.float64(1), "array": np.arange(3), "flag": np.bool_(True), "state": generator.get_state()}


KINDS = {
    "argparse": (lambda: argparse.Namespace(lr=0.1, model="vit"), ("argparse.Namespace",)),
    "omegaconf": (lambda: OmegaConf.create({"a": [1, 2, {"b": None}], "c": "${a}"}), ("omegaconf",)),
    "numpy": (numbers, ("numpy",)),
    "pathlib": (lambda: [pathlib.PurePosixPath("a"), pathlib.Path("b")], ("pathlib",)),
    "datetime": (lambda: datetime.datetime(2024, 1, 1), ("datetime",)),
    "enum": (lambda: {Colour.RED: 1}, (f"{__name__}.Colour",)),
    "dict": (lambda: Settings(lr=0.1, depth=3), (f"{__name__}.Settings",)),
    "list": (lambda: [Names("abc"), Names("a")], (f"{__name__}.Names",)),
    "both": (lambda: [Settings(a=Names("ab"), b=argparse.Namespace(c=Settings()))], ("argparse", __name__)),
    "defaultdict": (lambda: collections.defaultdict(list, a=[1]), ()),
    "types": (lambda: [int, dict, frozenset([1]), range(3), slice(2)], ()),
}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", KINDS)
def test_harmless_containers_are_allowed_by_their_names(tmp_path, kind, new):
    make, inert = KINDS[kind]
    content = {"args": make(), "model": collections.OrderedDict(WEIGHTS), "cfg": {"deep": [make()]}}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=new)
    before = allowed()
    if inert:
        refused(path, "wants to call")
        refused(path, "wants to call", inert=("other.package",))
    equal(safe_load.tensors(path, inert=inert), WEIGHTS)
    assert allowed() == before


def test_one_name_that_is_not_allowed_is_enough(tmp_path):
    content = {"args": argparse.Namespace(x=Call(os.system, f"touch {tmp_path / 'sentinel'}")), "model": WEIGHTS}
    for new in (True, False):
        path = saved(tmp_path, content, _use_new_zipfile_serialization=new)
        refused(path, "wants to call posix.system", inert=("argparse", "posix"))
    assert not (tmp_path / "sentinel").exists()


def test_weights_within_a_container_of_another_kind(tmp_path):
    path = saved(tmp_path, Settings(model=collections.defaultdict(list, WEIGHTS)))
    equal(safe_load.tensors(path, inert=(__name__,)), WEIGHTS)


FOREIGN = """
import sys, types, torch
package = types.ModuleType("fairseq_signals")
package.tasks = types.ModuleType("fairseq_signals.tasks")
sys.modules["fairseq_signals"], sys.modules["fairseq_signals.tasks"] = package, package.tasks
class Task:
    def __init__(self): self.size = 3
Task.__module__ = "fairseq_signals.tasks"
package.tasks.Task = Task
torch.save({"model": {"w": torch.ones(2)}, "task": Task()}, sys.argv[1])
"""


def test_a_package_that_is_not_installed_and_one_that_would_run_on_import(tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-c", FOREIGN, tmp_path / "w.pt"], check=True)
    (tmp_path / "fairseq_signals").mkdir()
    (tmp_path / "fairseq_signals" / "__init__.py").write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')")
    (tmp_path / "fairseq_signals" / "tasks.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    refused(tmp_path / "w.pt", "wants to call fairseq_signals.tasks.Task")
    assert safe_load.tensors(tmp_path / "w.pt", inert=("fairseq_signals",))["w"].tolist() == [1, 1]
    assert not (tmp_path / "sentinel").exists() and "fairseq_signals" not in sys.modules


def test_stand_ins_do_not_leak(tmp_path):
    path = saved(tmp_path, {"args": argparse.Namespace(x=1), "model": WEIGHTS})
    broken = saved(tmp_path, {"args": argparse.Namespace(x=Call(os.getcwd)), "model": WEIGHTS}, "b.pt")
    before = allowed()
    safe_load.tensors(path, inert=("argparse",))
    refused(broken, "wants to call posix.getcwd", inert=("argparse",))
    assert allowed() == before
    with pytest.raises(Exception, match="argparse.Namespace was not an allowed global"):
        torch.load(path, weights_only=True)
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert torch.load(path, weights_only=True)["args"].x == 1, "the real one, outside"


def test_stand_ins_take_anything_and_do_nothing():
    for kind, empty in ((safe_load.Inert, None), (safe_load.InertDict, {}), (safe_load.InertList, [])):
        made = kind(1, x=2)
        assert made == empty if empty is not None else (vars(made) == {} and made.__setstate__(3) is None)


@pytest.fixture
def restless():
    """Threads take turns far more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_several_threads_read_at_once(tmp_path, restless):
    path, got = saved(tmp_path, {"args": [argparse.Namespace(x=i) for i in range(200)], "model": WEIGHTS}), []
    threads = [
        threading.Thread(target=lambda: got.append(safe_load.tensors(path, inert=("argparse",)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(tensors) for tensors in got] == [2] * 8


def test_files_that_are_no_checkpoint_each_say_why(tmp_path):
    path = tmp_path / "w.pt"
    refused(path, "no such file")
    refused(tmp_path, "is a folder")
    contents = {
        b"": "the file is empty",
        b"\n<!DOCTYPE html><html>quota</html>": "is a web page",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n": "is a pointer of Git LFS",
        b"name,value\n1,2\n": "not a checkpoint",
        b"\x00" * 500: "not a checkpoint",
        bytes(range(256)): "not a checkpoint",
        b"\x80\x02": "cut short",
        b"\x80\x02}q\x00.": "not a checkpoint",
    }
    for content, match in contents.items():
        path.write_bytes(content)
        assert refused(path, match).fix


def test_a_zip_file_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("release/encoder.pt", b"x")
    error = refused(tmp_path / "w.zip", "an archive of something else")
    assert "release/encoder.pt" in error.fix
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "a TorchScript program")


def repacked(source, target, compression=zipfile.ZIP_STORED, extra=()):
    """The zip file of a checkpoint, member by member, as a user's archiver writes it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for name in extra:
            new.writestr(name, b"x")
    return target


@pytest.mark.parametrize("values", ["zeros", "noise"], ids=["shrinks", "does not shrink"])
@pytest.mark.parametrize("kind", ["ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_a_checkpoint_that_was_packed_again_is_read_right_or_refused(tmp_path, values, kind):
    """torch maps the bytes of a member as they are: compressed ones that are as long would pass for weights."""
    noise = torch.randint(-(2**62), 2**62, (50_000,), generator=torch.Generator().manual_seed(0)).view(torch.float64)
    weights = {"a": torch.zeros(50_000) if values == "zeros" else noise}
    torch.save(weights, tmp_path / "w.pt")
    stored = safe_load.tensors(repacked(tmp_path / "w.pt", tmp_path / "stored.pt"))
    assert torch.equal(stored["a"].view(torch.uint8), weights["a"].view(torch.uint8))
    refused(repacked(tmp_path / "w.pt", tmp_path / "packed.pt", getattr(zipfile, kind)), "with compression")


@pytest.mark.parametrize("name", ["../evil", "w/../../evil", "/evil", "w/data/../../../evil", "..\\evil"])
def test_an_archive_that_names_files_outside_itself_is_refused_and_writes_nothing(tmp_path, name):
    torch.save(WEIGHTS, tmp_path / "in.pt")
    folder = tmp_path / "a/b"
    folder.mkdir(parents=True)
    refused(repacked(tmp_path / "in.pt", folder / "w.pt", extra=[name]), "names a file outside itself")
    assert not list(tmp_path.rglob("evil*")) and [file.name for file in folder.iterdir()] == ["w.pt"]


def test_a_file_that_is_cut_short_at_any_byte(tmp_path):
    for new in (True, False):
        whole = saved(tmp_path, {"model": WEIGHTS, "epoch": 1}, _use_new_zipfile_serialization=new).read_bytes()
        for n in range(1, len(whole), 7):
            (tmp_path / "cut.pt").write_bytes(whole[:n])
            error = refused(tmp_path / "cut.pt", "cut short|not a checkpoint")
            assert new is False or n < 4 or "cut short" in error.reason


def test_corrupt_files_never_do_worse_than_an_error(tmp_path):
    whole = saved(tmp_path, {"model": WEIGHTS, "args": argparse.Namespace(x=1)}).read_bytes()
    begin = whole.index(b"data.pkl")
    rng, failed = np.random.default_rng(0), 0
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(begin, begin + 400, size=3):
            data[at] = rng.integers(256)
        (tmp_path / "bad.pt").write_bytes(data)
        try:
            safe_load.tensors(tmp_path / "bad.pt", inert=("argparse",))
        except EcgError as error:
            failed += 1
            assert error.reason
    assert failed > 50


def test_a_pickle_that_torch_cannot_read_safely(tmp_path):
    for protocol in (4, 5):
        path = saved(tmp_path, {"model": WEIGHTS}, pickle_protocol=protocol)
        assert ".safetensors" in refused(path, "cannot be read safely").fix


def test_reading_says_nothing_and_maps_what_can_be_mapped(tmp_path, recwarn, monkeypatch):
    calls, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: calls.append(options) or load(*args, **options))
    equal(safe_load.tensors(saved(tmp_path, WEIGHTS, pickle_protocol=3)), WEIGHTS)
    equal(safe_load.tensors(saved(tmp_path, WEIGHTS, _use_new_zipfile_serialization=False)), WEIGHTS)
    assert [str(w.message) for w in recwarn] == []
    assert [call["mmap"] for call in calls] == [True, False] and all(call["weights_only"] is True for call in calls)
