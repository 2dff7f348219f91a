"""Encoders as ONNX files that say what they must be fed, and that are there only if they compute what PyTorch computes.

One route: torch.export, then torch.onnx, of a copy that shares the weights. Where ONNX has no words for a step of an
encoder, the copy takes it in other words (`ecglib.reworded`).
"""

import copy
import io
import json
import logging
import os
import shutil
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
from torch import nn
from torch.export import Dim

from ecglib import __version__, beatwords, zoo
from ecglib.cards import Model
from ecglib.encoders import beat_transformer
from ecglib.preprocess import Profile
from ecglib.reworded import FromWords, reword, sentences, signals
from ecglib.signals import EcgError

OPSET = 20
EMBEDDED = 2_000_000_000  # bytes of weights that go into the file itself; protobuf ends at 2 GiB
BATCHES = (3, 1)  # records compared with PyTorch; the first is traced
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


def export(
    module: nn.Module, path, *, n_leads: int, n_times: int, profile: Profile | None = None, info: dict | None = None,
    tolerance: float = 1e-4, dynamic_time: bool = False,
) -> dict:  # fmt: skip
    """Write module, x float32 (batch, n_leads, n_times) -> z, as an ONNX file for any batch; input "x", output "z".

    dynamic_time: for any length from n_times // 2 on; slower and less exact where the network has an FFT. profile, and
    info (JSON: leads in their order, licence ..), are kept in the file. A `cards.Model` becomes its features of one
    crop. Weights lie in the file, above 2 GB beside it in "`path`.data". onnxruntime then runs the file: z of a record
    may differ by `tolerance` (relative L2). Returns {error: largest such difference, bytes, opset, dynamic_time}.
    EcgError, and `path` as it was before, where it differs more and for what ONNX cannot express, such as the search
    for R peaks in beat_transformer: see `export_words`.
    """
    if any(isinstance(part, beat_transformer.Encoder) for part in module.modules()):
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
    lengths = (n_times, n_times // 2, 2 * n_times + 1) if dynamic_time else (n_times,)
    cases = [signals(batch, n_leads, n) for n in lengths for batch in BATCHES]
    axes, spans = {0: Dim.DYNAMIC}, {"batch": [1, None]}
    if dynamic_time:
        axes[2], spans["time"] = Dim.DYNAMIC(min=n_times // 2), [n_times // 2, None]
    inputs = {"shapes": {"x": ["batch", n_leads, "time" if dynamic_time else n_times]}, "spans": spans}
    return _export(module, path, cases, {"x": axes}, inputs | {"dynamic_time": dynamic_time}, profile, info, tolerance)


def export_model(model: Model, path, tolerance: float = 1e-4) -> dict:
    """Write a published model as `export` does: features of one crop (`export_words` for one that reads heartbeats),
    with its signal chain as the profile and its card as info."""
    card = model.card
    own = zoo.RECIPE if model.weights == "recipe" else model.weights
    info = zoo.facts(card.name) | {"leads": list(card.leads), "weights in this file": own}
    facts = {"profile": replace(card.chain, seconds=card.crop_s), "info": info, "tolerance": tolerance}
    if isinstance(model.encoder, beat_transformer.Encoder):
        return export_words(model, path, **facts)
    return export(model, path, n_leads=len(card.leads), n_times=card.n_times, **facts)


def export_words(
    encoder: beat_transformer.Encoder | Model, path, *, profile: Profile | None = None, info: dict | None = None,
    tolerance: float = 1e-4,
) -> dict:  # fmt: skip
    """Write what a beat_transformer, or a published model around one, does after the R peaks, as `export` does.

    Inputs are the fields of `beatwords.Words`: tokens float32 (batch, word, 96), lead and time int64 (batch, word),
    real bool (batch, word); output z (batch, dim). Any number of words up to the encoder's limit, or just that many for
    one that looks at padding. "input" in the file says how `beatwords.tokenize` cuts the words.
    """
    network, encoder = FromWords(encoder), getattr(encoder, "encoder", encoder)
    limit, full = encoder.tokenizer["limit"], encoder.tokenizer["full"]
    cases = [sentences(batch, n, encoder.n_leads) for n in ((limit,) if full else (limit, 1)) for batch in BATCHES]
    axes = {0: Dim.DYNAMIC} if full else {0: Dim.DYNAMIC, 1: Dim.DYNAMIC(max=limit)}
    shape = ["batch", limit if full else "word"]
    inputs = {
        "shapes": {name: [*shape, beatwords.WIDTH] if name == "tokens" else shape for name in cases[0]},
        "spans": {"batch": [1, None], "word": [1, limit]},
        "dynamic_time": False,
        "words": {"fs": encoder.fs, "n_leads": encoder.n_leads, **encoder.tokenizer},
    }
    return _export(network, path, cases, {name: axes for name in cases[0]}, inputs, profile, info, tolerance)


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
    `read_profile` says, or `beatwords.Words`. EcgError for a shape that the file does not take."""
    stat = Path(path).stat() if Path(path).is_file() else None
    session = _kept_session(str(path), stat and stat.st_mtime_ns)
    inputs = _facts(session.get_modelmeta().custom_metadata_map, path)["input"]
    given, found = x._asdict() if isinstance(x, beatwords.Words) else {"x": x}, {}
    if set(given) != set(inputs["shapes"]):
        raise EcgError(f"the file takes {', '.join(inputs['shapes'])}", file=path, field="x", fix="give those")
    wanted = {one.name: TYPES[one.type] for one in session.get_inputs()}
    given = {name: np.asarray(value, wanted[name]) for name, value in given.items() if name in wanted}
    for name, value in given.items():
        shape = inputs["shapes"][name]
        fits = value.ndim == len(shape)
        for axis, n in zip(shape, value.shape, strict=False):
            low, high = inputs["spans"].get(axis, (axis, axis))
            fits &= low <= n and (high is None or n <= high) and found.setdefault(axis, n) == n
        if not fits:
            spans = "".join(f", {axis} {low} to {high or 'any'}" for axis, (low, high) in inputs["spans"].items())
            reason = f"{name} is {value.shape}, the file takes ({', '.join(map(str, shape))}){spans}"
            raise EcgError(reason, file=path, field=name, fix="give leads, rate and length that read_profile names")
    return session.run(["z"], given)[0]


def _export(module, path, cases, axes, inputs, profile, info, tolerance) -> dict:
    """What both exports share. cases: inputs to compare on, the first is traced; axes: the dynamic ones per input."""
    path, twin = Path(path), _twin(module)
    try:
        with torch.no_grad():
            expected = [twin(*case.values()).numpy() for case in cases]
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
    model, weights = _converted(twin, cases[0], axes, inputs["dynamic_time"])
    onnx.helper.set_model_props(model, facts)
    with _staged(model, path, weights > EMBEDDED) as file:
        session = _session(file)
        results = [session.run(["z"], {k: case[k].numpy() for k in axes})[0] for case in cases]
        error = max(map(_difference, results, expected))
        if error > tolerance:
            reason = f"onnxruntime differs from PyTorch by {error:.2g}, more than {tolerance:g}"
            raise EcgError(reason, file=path, field="tolerance")
        size = sum(part.stat().st_size for part in file.parent.iterdir())
    return {"error": error, "bytes": size, "opset": OPSET, "dynamic_time": inputs["dynamic_time"]}


def _twin(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares the weights, or has them as float32 on the CPU."""
    memo = {}
    for tensor in (*module.parameters(), *module.buffers()):
        value = tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype)
        memo[id(tensor)] = nn.Parameter(value, False) if isinstance(tensor, nn.Parameter) else value
    return copy.deepcopy(module, memo).eval()


def _converted(module: nn.Module, example: dict, axes: dict, any_length: bool) -> tuple[onnx.ModelProto, int]:
    """(model, bytes of its weights); EcgError where ONNX cannot express it."""
    try:
        with torch.no_grad(), _quiet(), redirect_stderr(io.StringIO()):
            module, values = reword(module, example, any_length), tuple(example.values())
            traced = torch.export.export(module, values, dynamic_shapes=tuple(axes.values()), strict=True)
            options = dict(input_names=list(example), output_names=["z"], opset_version=OPSET, verbose=False)
            program = torch.onnx.export(traced, values, dynamo=True, **options)
    except Exception as error:
        raise EcgError(f"ONNX cannot express this module: {_reason(error)}", field="module") from error
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    model = program.model_proto
    del model.graph.value_info[:]  # shapes of what lies between, wrong after an inverse FFT
    _bare(model.graph)
    return model, weights


def _bare(graph: onnx.GraphProto) -> None:
    """Take out notes of the exporter: they name this machine's folders."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for attribute in (attribute for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        _bare(attribute.g)


@contextmanager
def _quiet():
    """Without the exporter's warnings about packages and operators that do not matter here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _staged(model: onnx.ModelProto, path: Path, outside: bool):
    """Yield the file in a folder beside `path`; without an error in between it is then moved there."""
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        where = dict(save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024) if outside else {}
        onnx.save_model(model, part / path.name, **where)
        yield part / path.name
        for file in sorted(part.iterdir(), reverse=True):  # the weights before the model that needs them
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
            os.replace(file, path.with_name(file.name))
        if not outside:
            path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # of an earlier file under that name
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _session(path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EcgError(f"onnxruntime cannot read it: {_reason(error)}", file=path) from error


@lru_cache(maxsize=2)
def _kept_session(path: str, written: int | None) -> onnxruntime.InferenceSession:
    return _session(path)


def _facts(texts: dict[str, str], path) -> dict:
    """What `export` wrote beside the network."""
    if not {"profile", "info", "input", "ecglib"} <= set(texts):
        raise EcgError("not a file of ecglib: it does not say what it takes", file=path, fix="use onnxruntime itself")
    return {key: json.loads(texts[key]) for key in ("profile", "info", "input", "ecglib")}


def _difference(z: np.ndarray, expected: np.ndarray) -> float:
    """Largest relative L2 difference of a record; inf for other shapes and for numbers that are none."""
    if z.shape != expected.shape or not (np.isfinite(z).all() and np.isfinite(expected).all()):
        return np.inf
    z, expected = (a.reshape(len(a), -1).astype(np.float64) for a in (z, expected))
    return float((np.linalg.norm(z - expected, axis=1) / np.linalg.norm(expected, axis=1).clip(min=1e-30)).max())


def _reason(error: BaseException) -> str:
    """The first cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
