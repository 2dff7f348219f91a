"""Encoders as ONNX files that say what they must be fed, and that are there only if they compute what PyTorch computes.

One route: torch.export, then torch.onnx, of a copy that shares the weights. Methods of encoders that ONNX cannot
express are replaced in the copy by equal ones that it can (REPLACEMENTS; for inputs of any length also ANY_LENGTH).
"""

import copy
import io
import json
import logging
import os
import tempfile
import types
import warnings
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxscript
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from ecglib import EcgError, __version__, zoo
from ecglib.data.files import naming, output_file
from ecglib.data.profiles import Profile
from ecglib.models import beat_tokenizer
from ecglib.models.encoders import autoencoder, beat_transformer, net1d, s4d, vit1d
from ecglib.zoo.conformance import relative_error
from ecglib.zoo.model import Model


def make_exportable(module: nn.Module, example: dict, any_length: bool) -> nn.Module:
    """`module` with the methods replaced in place that torch.onnx cannot take; example: inputs by name."""
    replacements = REPLACEMENTS | (ANY_LENGTH if any_length else {})
    layers = list(module.modules())
    hooks = [layer.register_forward_pre_hook(_precompute) for layer in layers if isinstance(layer, s4d.StateSpace)]
    if hooks:
        module(*example.values())
    for hook in hooks:
        hook.remove()
    for layer in layers:
        if any_length and isinstance(layer, net1d.SameConv) and layer.stride[0] == 2 and layer.kernel_size[0] % 2:
            raise EcgError("an odd kernel with stride 2", field="dynamic_time", fix="export for one length")
        methods = next((replacements[kind] for kind in replacements if isinstance(layer, kind)), {})
        for name, function in methods.items():
            setattr(layer, name, types.MethodType(function, layer))
    return module


def _precompute(layer: s4d.StateSpace, inputs: tuple) -> None:
    factor, gain = (torch.view_as_real(value) for value in layer.discrete())
    layer.factor, layer.gain, layer.response = factor, gain, layer.impulse(inputs[0].shape[-1])


def _by_length(self: beat_transformer.Sentence, h: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """All sentences together."""
    return self._layers(h, real[:, None, None]) * real[..., None]


def _impulse(self: s4d.StateSpace, n: int) -> torch.Tensor:
    """(dim, n), without complex numbers."""
    time, gain = torch.arange(n).float(), self.gain[..., None]
    decay, angle = (self.factor[..., i, None] * time for i in (0, 1))
    return (decay.exp() * (gain[:, :, 0] * angle.cos() - gain[:, :, 1] * angle.sin())).sum(1)


def _state_space(self: s4d.StateSpace, u: torch.Tensor) -> torch.Tensor:
    """With a power of two of samples: for others onnxruntime's DFT is many times slower and less exact."""
    n = u.shape[-1]
    wide = 2 ** (2 * n - 1).bit_length()
    spectrum = torch.fft.rfft(u, wide) * torch.fft.rfft(self.response, wide)
    return torch.fft.irfft(spectrum, wide)[..., :n] + self.skip[:, None] * u


def _same_conv(self: net1d.SameConv, x: torch.Tensor) -> torch.Tensor:
    """An even kernel with stride 2 may have the padding of an odd length for all: it never reads a zero too many."""
    left = (self.kernel_size[0] - 1) // 2
    x = F.pad(x, (left, self.kernel_size[0] - 1 - left))
    return F.conv2d(x, self.weight.unsqueeze(2), self.bias, (1, self.stride[0]), 0, 1, self.groups)


def _shortcut(self: net1d.Block, x: torch.Tensor) -> torch.Tensor:
    """The pool leaves out the zero that an even length does not need."""
    if self.stride == 2:
        x = F.max_pool2d(F.pad(x, (0, 1)), (1, 2))
    return F.pad(x, (0, 0, 0, 0, self.grow // 2, self.grow - self.grow // 2)) if self.grow else x


def _patches(self: vit1d.Encoder, x: torch.Tensor) -> torch.Tensor:
    """An index in place of a cut, which is traced as none where the example has a whole number of patches."""
    x = x if self.rows is None else x[:, self.rows]
    n = x.shape[2] // self.patch
    x = x.index_select(2, torch.arange(n * self.patch)).unflatten(2, (n, self.patch))
    return x.transpose(1, 2).flatten(2) if self.joint else x.flatten(1, 2)


def _grid(self: vit1d.Encoder, index: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """No remainder, which torch.onnx has only for constants."""
    per_lead = n // self.token_leads
    return index // per_lead, index - index // per_lead * per_lead


def _response(self: vit1d.FilterBlock, n: int) -> torch.Tensor:
    """Interpolated also where that changes nothing."""
    last = len(self.response) - 1
    position = (torch.arange(n // 2 + 1) * self.n_tokens / n).clamp(max=last)
    low = position.floor().long().clamp(max=max(0, last - 1))
    high = (low + 1).clamp(max=last)
    response = torch.lerp(self.response[low], self.response[high], (position - low)[:, None, None])
    return torch.view_as_complex(response.contiguous())


def _latent(self: autoencoder.Encoder, x: torch.Tensor) -> torch.Tensor:
    """No division of negative numbers, which ONNX rounds towards zero."""
    length = self.stride * max((x.shape[-1] + self.stride - 1) // self.stride, self.kernel)
    return self.layers(F.pad(x, (0, length - x.shape[-1])).unsqueeze(2)).squeeze(2).transpose(1, 2)


class FromWords(nn.Module):
    """The fields of `beat_tokenizer.Words` -> z of a beat_transformer, or of a published model around one."""

    def __init__(self, network: beat_transformer.Encoder | Model):
        super().__init__()
        self.network, self.config = network, getattr(network, "config", None)

    def forward(self, tokens, lead, time, real):
        words = beat_tokenizer.Words(tokens, lead, time, real)
        return self.network.features(words) if isinstance(self.network, Model) else self.network.sentence(words)[:, 0]


def signals(batch: int, n_leads: int, n_times: int) -> dict[str, torch.Tensor]:
    """x: noise of different strength; half of the leads of the first record are flat."""
    x = torch.randn(batch, n_leads, n_times, generator=torch.Generator().manual_seed(0))
    x *= torch.arange(1, batch + 1)[:, None, None]
    x[0, : n_leads // 2] = 0
    return {"x": x}


def sentences(batch: int, n: int, n_leads: int) -> dict[str, torch.Tensor]:
    """The fields of `beat_tokenizer.Words` for sentences of different length."""
    generator = torch.Generator().manual_seed(0)
    real = torch.arange(n) < torch.linspace(n, n / 2, batch).ceil()[:, None]
    lead, time = (torch.randint(1, top + 1, (batch, n), generator=generator) * real for top in (n_leads, 10))
    tokens = torch.randn(batch, n, beat_tokenizer.WIDTH, generator=generator) * real[..., None]
    return beat_tokenizer.Words(tokens, lead, time, real)._asdict()


REPLACEMENTS = {  # class -> its methods
    Model: {"forward": lambda self, x: self.features(x)},  # one crop without padding
    beat_transformer.Sentence: {"_by_length": _by_length},
    s4d.StateSpace: {"forward": _state_space},
}
ANY_LENGTH = {
    s4d.StateSpace: {"impulse": _impulse},
    net1d.SameConv: {"forward": _same_conv},
    net1d.Block: {"shortcut": _shortcut},
    vit1d.Encoder: {"patches": _patches, "grid": _grid},
    vit1d.FilterBlock: {"at": _response},
    autoencoder.Encoder: {"latent": _latent},
}
OPSET = 20
EMBEDDED = 2_000_000_000  # bytes of weights that go into the file itself; protobuf ends at 2 GiB
BATCHES = (3, 1)  # records compared with PyTorch; the first is traced
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


def export(module, path, *, n_leads, n_times, profile=None, info=None, tolerance=1e-4, dynamic_time=False) -> dict:
    """Write a network as an ONNX file for any batch, input "x", output "z", that onnxruntime has run.

    module: x float32 (batch, n_leads, n_times) -> z; a `model.Model` becomes its features of one crop.
    path: of the file; weights lie in it, above 2 GB beside it in "`path`.data".
    profile, info: kept in the file: a `Profile` or None; JSON or None, such as leads in their order and licence.
    tolerance: by which z of a record may differ from PyTorch's (relative L2).
    dynamic_time: for any length from n_times // 2 on; slower and less exact where the network has an FFT.
    Returns {error: largest such difference, bytes, opset, dynamic_time}. Raises EcgError, with `path` as it was before,
    where it differs more and for what ONNX cannot express, such as the search for R peaks (`export_words`).
    """
    if any(isinstance(layer, beat_transformer.Encoder) for layer in module.modules()):
        reason = "beat_transformer finds R peaks in Python, which ONNX cannot express"
        raise EcgError(reason, field="module", fix="use export_words for what comes after the peaks")
    wanted = getattr(module, "n_leads", n_leads)
    if wanted != n_leads:
        raise EcgError(f"{n_leads} leads for an encoder of {wanted}", field="n_leads", fix=f"give {wanted}")
    if profile and round(profile.fs * profile.seconds) != n_times:
        reason = f"{n_times} samples, but {profile.name} makes {round(profile.fs * profile.seconds)}"
        raise EcgError(reason, field="n_times", fix="give what the profile makes")
    leads = (info or {}).get("leads")
    if leads is not None and len(leads) != n_leads:
        raise EcgError(f"{len(leads)} names for {n_leads} leads", field="info", fix="name each lead in its order")
    lengths, axes, spans = (n_times,), {0: Dim.DYNAMIC}, {"batch": [1, None]}
    if dynamic_time:
        lengths = n_times, n_times // 2, 2 * n_times + 1
        axes[2], spans["time"] = Dim.DYNAMIC(min=n_times // 2), [n_times // 2, None]
    cases = [signals(batch, n_leads, n) for n in lengths for batch in BATCHES]
    shapes = {"x": ["batch", n_leads, "time" if dynamic_time else n_times]}
    inputs = {"shapes": shapes, "spans": spans, "dynamic_time": dynamic_time}
    return _export(module, path, cases, {"x": axes}, inputs, profile, info, tolerance)


def export_model(model: Model, path) -> dict:
    """Write a published model as `export` does: features of one crop (`export_words` for one that reads heartbeats),
    with its signal chain as the profile and its card as info. EcgError where a file is there that is not from here."""
    card, path = model.card, output_file(path, read_profile)
    output_file(path.with_name(f"{path.name}.data"), lambda _: read_profile(path))  # where large weights go
    own = zoo.DUMMY_WARNING if model.weights == "dummy" else model.weights
    info = zoo.facts(card.name) | {"leads": list(card.leads), "weights in this file": own}
    facts = {"profile": replace(card.chain, seconds=card.crop_s), "info": info}
    if isinstance(model.encoder, beat_transformer.Encoder):
        return export_words(model, path, **facts)
    return export(model, path, n_leads=len(card.leads), n_times=card.n_times, **facts)


def export_words(network: beat_transformer.Encoder | Model, path, *, profile=None, info=None, tolerance=1e-4) -> dict:
    """Write what a beat_transformer, or a published model around one, does after the R peaks, as `export` does.

    Inputs are the fields of `beat_tokenizer.Words`, any number of words up to the encoder's limit, or just that many
    for one that looks at padding; output z. "input" in the file says how `beat_tokenizer.tokenize` cuts the words.
    """
    encoder = getattr(network, "encoder", network)
    limit, full = encoder.tokenizer["limit"], encoder.tokenizer["full"]
    cases = [sentences(batch, n, encoder.n_leads) for n in ((limit,) if full else (limit, 1)) for batch in BATCHES]
    axes = {0: Dim.DYNAMIC} if full else {0: Dim.DYNAMIC, 1: Dim.DYNAMIC(max=limit)}
    shape = ["batch", limit if full else "word"]
    inputs = {
        "shapes": {name: [*shape, beat_tokenizer.WIDTH] if name == "tokens" else shape for name in cases[0]},
        "spans": {"batch": [1, None], "word": [1, limit]},
        "dynamic_time": False,
        "words": {"fs": encoder.fs, "n_leads": encoder.n_leads, **encoder.tokenizer},
    }
    return _export(FromWords(network), path, cases, dict.fromkeys(cases[0], axes), inputs, profile, info, tolerance)


def read_profile(path) -> tuple[Profile | None, dict]:
    """(profile or None, info) that `export` was given. EcgError for a file that it did not write."""
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:
        raise EcgError(f"not an ONNX file: {_reason(error)}", file=path) from error
    facts = _facts({entry.key: entry.value for entry in model.metadata_props}, path)
    try:
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in (facts["profile"] or {}).items()}
        return (Profile(**fields) if fields else None), facts["info"]
    except TypeError as error:
        raise EcgError(f"a profile of another version: {error}", file=path, field="profile") from error


def run(path, x) -> np.ndarray:
    """z of x by onnxruntime on the CPU, with as many threads as PyTorch: x (batch, lead, time), leads and rate as
    `read_profile` says, or `beat_tokenizer.Words`. EcgError for a shape that the file does not take."""
    stat = Path(path).stat() if Path(path).is_file() else None
    session = _kept_session(str(path), stat and stat.st_mtime_ns)
    inputs = _facts(session.get_modelmeta().custom_metadata_map, path)["input"]
    given, sizes = x._asdict() if isinstance(x, beat_tokenizer.Words) else {"x": x}, {}
    if set(given) != set(inputs["shapes"]):
        raise EcgError(f"the file takes {', '.join(inputs['shapes'])}", file=path, field="x", fix="give those")
    types = {entry.name: TYPES[entry.type] for entry in session.get_inputs()}
    given = {name: np.asarray(value, types[name]) for name, value in given.items() if name in types}
    for name, value in given.items():
        shape = inputs["shapes"][name]
        fits = value.ndim == len(shape)
        for axis, n in zip(shape, value.shape, strict=False):
            low, high = inputs["spans"].get(axis, (axis, axis))
            fits &= low <= n and (high is None or n <= high) and sizes.setdefault(axis, n) == n
        if not fits:
            spans = "".join(f", {axis} {low} to {high or 'any'}" for axis, (low, high) in inputs["spans"].items())
            reason = f"{name} is {value.shape}, the file takes ({', '.join(map(str, shape))}){spans}"
            raise EcgError(reason, file=path, field=name, fix="give leads, rate and length that read_profile names")
    return session.run(["z"], given)[0]


def _export(module, path, cases, axes, inputs, profile, info, tolerance) -> dict:
    """What both exports share. cases: inputs to compare on, the first is traced; axes: the dynamic ones per input."""
    path, module_copy = Path(path), _copy(module)
    try:
        with torch.no_grad():
            expected = [module_copy(*case.values()).numpy() for case in cases]
    except Exception as error:
        shapes = [tuple(value.shape) for value in cases[0].values()]
        raise EcgError(f"the module fails on {shapes}: {_reason(error)}", field="module") from error
    made_by = {"version": __version__, "torch": torch.__version__, "onnxscript": onnxscript.__version__}
    facts = {"encoder": getattr(module, "config", None), "dim": expected[0].shape[-1], **made_by}
    facts = {"profile": profile and asdict(profile), "info": info or {}, "input": inputs, "ecglib": facts}
    try:
        facts = {key: json.dumps(value, allow_nan=False) for key, value in facts.items()}
    except (TypeError, ValueError) as error:
        raise EcgError(f"not JSON: {error}", field="info", fix="give text, numbers, lists and dicts") from error
    model, weights = _converted(module_copy, cases[0], axes, inputs["dynamic_time"])
    onnx.helper.set_model_props(model, facts)
    with _staged(model, path, weights > EMBEDDED) as file:
        session = _session(file)
        results = [session.run(["z"], {k: case[k].numpy() for k in axes})[0] for case in cases]
        error = max(map(relative_error, results, expected))
        if error > tolerance:
            reason = f"onnxruntime differs from PyTorch by {error:.2g}, more than {tolerance:g}"
            raise EcgError(reason, file=path, field="tolerance")
        size = sum(written.stat().st_size for written in file.parent.iterdir())
    return {"error": error, "bytes": size, "opset": OPSET, "dynamic_time": inputs["dynamic_time"]}


def _copy(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares the weights, or has them as float32 on the CPU."""
    memo = {}
    for tensor in (*module.parameters(), *module.buffers()):
        value = tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype)
        memo[id(tensor)] = nn.Parameter(value, False) if isinstance(tensor, nn.Parameter) else value
    return copy.deepcopy(module, memo).eval()


def _converted(module: nn.Module, example: dict, axes: dict, any_length: bool) -> tuple[onnx.ModelProto, int]:
    """(model, bytes of its weights); EcgError where ONNX cannot express it."""
    try:
        with torch.no_grad(), _quiet():
            module, values = make_exportable(module, example, any_length), tuple(example.values())
            traced = torch.export.export(module, values, dynamic_shapes=tuple(axes.values()), strict=True)
            options = dict(input_names=list(example), output_names=["z"], opset_version=OPSET, verbose=False)
            program = torch.onnx.export(traced, values, dynamo=True, **options)
    except Exception as error:
        raise EcgError(f"ONNX cannot express this module: {_reason(error)}", field="module") from error
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    model = program.model_proto
    del model.graph.value_info[:]  # shapes of what lies between, wrong after an inverse FFT
    _remove_notes(model.graph)
    return model, weights


def _remove_notes(graph: onnx.GraphProto) -> None:
    """Take out notes of the exporter: they name this machine's folders."""
    for entry in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")
    for attribute in (attribute for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        _remove_notes(attribute.g)


@contextmanager
def _quiet():
    """Without the exporter's warnings about packages and operators that do not matter here."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _staged(model: onnx.ModelProto, path: Path, outside: bool):
    """Yield the file in a folder beside `path`; without an error in between it is then moved there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), tempfile.TemporaryDirectory(".part", f".{path.name}.", path.parent) as folder:
        options = dict(save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
        onnx.save_model(model, Path(folder, path.name), **(options if outside else {}))
        yield Path(folder, path.name)
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the weights before the model that needs them
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
            os.replace(file, path.with_name(file.name))
        if not outside:
            path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # of an earlier file under that name


def _session(path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EcgError(f"onnxruntime cannot read it: {_reason(error)}", file=path) from error


_kept_session = lru_cache(maxsize=2)(lambda path, written: _session(path))


def _facts(texts: dict[str, str], path) -> dict:
    if not {"profile", "info", "input", "ecglib"} <= set(texts):
        raise EcgError("not a file of ecglib: it does not say what it takes", file=path, fix="use onnxruntime itself")
    return {key: json.loads(texts[key]) for key in ("profile", "info", "input", "ecglib")}


def _reason(error: BaseException) -> str:
    """The first cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
