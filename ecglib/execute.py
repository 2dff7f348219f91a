"""Run a notebook as a stage of the study: papermill, then everything that differs between two equal runs is removed.

Every stage runs under `ENVIRONMENT`, so that the same numbers come out on machines with other processors.
"""

import ast
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import sys
import time
from contextlib import contextmanager
from html import escape
from pathlib import Path

from ecglib.signals import EcgError

# Floating-point sums depend on the number of threads and on the vector width of the processor. Both are fixed here, at
# what every x86 machine of the last ten years has (AVX2), before numpy and torch are loaded: they read these variables
# once, at import. ECGLIB_THREADS=16 uses more cores, at the price of other last digits.
_THREADS = os.environ.get("ECGLIB_THREADS", "1")  # stages run side by side: one thread each wastes nothing
ENVIRONMENT = {
    "OMP_NUM_THREADS": _THREADS,
    "OMP_DYNAMIC": "FALSE",
    "GOMP_SPINCOUNT": "1000",  # threads that wait long in a loop make a busy machine twenty times slower
    "MKL_NUM_THREADS": _THREADS,  # torch takes its own thread count from MKL's
    "MKL_DYNAMIC": "FALSE",
    "OPENBLAS_NUM_THREADS": "1",  # numpy and scipy: the matrices are small and the split changes the sums
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what torch's deterministic algorithms ask for on a GPU
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": "946684800",  # matplotlib's PDF and SVG carry this date, not today's
    "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment, not one registered by the user
    "JUPYTER_PLATFORM_DIRS": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or every kernel warns about frozen modules
}
if platform.machine().lower() in ("x86_64", "amd64"):
    ENVIRONMENT |= {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",  # COMPATIBLE holds on older processors too, but doubles the time of a transformer step
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    }

STYLE = """body{max-width:60rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 system-ui,sans-serif;color:#222}
pre{overflow-x:auto;font-size:13px;line-height:1.4}.highlight pre,pre.src{background:#f6f6f6;padding:.6rem}
table{border-collapse:collapse;font-size:14px}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}
img{max-width:100%}.prompt{display:none}.anchor-link{display:none}"""


def parameters(notebook: Path) -> dict:
    """Name -> default in the cell tagged `parameters`; raises EcgError without that cell, or if one is no literal."""
    if not Path(notebook).is_file():
        raise EcgError("no such notebook", file=notebook)
    cells = json.loads(Path(notebook).read_text())["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise EcgError("needs exactly one cell tagged 'parameters'", file=notebook, field="parameters")
    values = {}
    for node in ast.parse("".join(tagged[0]["source"])).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        name = (node.targets[0] if isinstance(node, ast.Assign) else node.target).id
        try:
            values[name] = ast.literal_eval(node.value)
        except ValueError as error:
            raise EcgError("a parameter must be a plain number, text or bool", file=notebook, field=name) from error
    return values


def typed(notebook: Path, given: dict) -> dict:
    """`given` in the types of the defaults; raises EcgError with the valid names, or with the wanted type."""
    defaults = parameters(notebook)
    wrong = sorted(set(given) - set(defaults))
    if wrong:
        fix = f"use one of: {', '.join(defaults)}"
        raise EcgError(f"no parameter {', '.join(wrong)}", file=notebook, field="parameters", fix=fix)
    return {name: _cast(notebook, name, value, type(defaults[name])) for name, value in given.items()}


def _cast(notebook, name: str, value, kind: type):
    if kind is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    try:
        if kind is bool or (kind is int and float(value) != int(float(value))):
            raise ValueError(value)
        return int(float(value)) if kind is int else kind(value)
    except (TypeError, ValueError) as error:
        raise EcgError(f"{value!r} is no {kind.__name__}", file=notebook, field=name) from error


def execute(notebook, out_dir, given=None, *, key: str = "") -> Path:
    """Run `notebook` with the parameters `given` into the folder `out_dir`; returns the executed copy.

    The notebook works in `out_dir`.part, which takes the place of `out_dir` when all is done: what stands in `out_dir`
    is complete. After an interruption a run with the same parameters and the same `key` (the caller's fingerprint of
    code and data) finds that folder again, and with it the checkpoints in it. Raises EcgError for a parameter that the
    notebook lacks and for a failing cell; then the executed copy with the traceback stays in `out_dir`.part.
    """
    notebook, out_dir = Path(notebook).resolve(), Path(out_dir).resolve()
    part = out_dir.with_name(out_dir.name + ".part")
    values = typed(notebook, {**(given or {}), "out_dir": os.path.relpath(part, notebook.parent)})
    _claim(part, [notebook.read_text(), json.dumps(values, sort_keys=True), key])
    copy = part / notebook.name
    started = time.monotonic()
    _papermill(notebook, copy, values)
    scrub = {os.path.relpath(part, notebook.parent): os.path.relpath(out_dir, notebook.parent)}
    scrub |= {str(part): out_dir.name, f"{notebook.parent.parent}{os.sep}": ""}
    executed = normalise(_read(copy), scrub)
    write(copy, json.dumps(executed, sort_keys=True, indent=1, ensure_ascii=False) + "\n")
    write(copy.with_suffix(".html"), page(executed))
    (part / ".key").unlink()
    replace(part, out_dir)
    print(f"[{notebook.stem}] done in {time.monotonic() - started:.0f} s: {os.path.relpath(out_dir)}", flush=True)
    return out_dir / notebook.name


def _claim(part: Path, content: list[str]) -> None:
    """Make the folder `part`; what an earlier run left there is kept only if it came from the same `content`."""
    mark = hashlib.sha256("\0".join(content).encode()).hexdigest()
    stamp = part / ".key"
    if part.exists() and (not stamp.exists() or stamp.read_text() != mark):
        shutil.rmtree(part)
    part.mkdir(parents=True, exist_ok=True)
    write(stamp, mark)


def write(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader finds the old content or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def replace(part: Path, out: Path) -> None:
    """Put the finished folder `part` in the place of the folder `out`."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(part, out)
    shutil.rmtree(old, ignore_errors=True)


class _Progress(logging.Handler):
    """Prints one line per code cell that papermill starts."""

    def __init__(self, notebook: Path):
        super().__init__()
        cells = json.loads(notebook.read_text())["cells"]
        at = next(i for i, c in enumerate(cells) if "parameters" in c["metadata"].get("tags", []))
        cells.insert(at + 1, {"cell_type": "code", "source": ["# the parameters of this run"]})
        self.name_, self.cells, self.started = notebook.stem, cells, time.monotonic()

    def emit(self, record):
        match = re.match(r"Executing Cell (\d+)", record.getMessage())
        if not match:
            return
        number = int(match[1])
        cell = self.cells[number - 1]
        if cell["cell_type"] == "code":
            line = "".join(cell["source"]).strip().split("\n")[0][:70]
            seconds = time.monotonic() - self.started
            print(f"[{self.name_}] {seconds:5.0f} s  cell {number}/{len(self.cells)}  {line}", flush=True)


@contextmanager
def _kernel_environment():
    """ENVIRONMENT, this tree's ecglib, and figures drawn into the notebook, for the kernel that inherits it."""
    saved, root = dict(os.environ), str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [saved.get("PYTHONPATH")])])
    os.environ.update(ENVIRONMENT, PYTHONPATH=path, MPLBACKEND="module://matplotlib_inline.backend_inline")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def _papermill(notebook: Path, copy: Path, values: dict) -> None:
    import papermill
    from traitlets.config import Config

    log, progress = logging.getLogger("papermill"), _Progress(notebook)
    log.handlers, log.propagate = [progress], False
    log.setLevel(logging.INFO)
    encrypted = Config({"KernelManager": {"transport_encryption": "auto"}})  # other users of a shared machine listen
    options = {"kernel_name": "python3", "language": "python", "cwd": notebook.parent, "config": encrypted}
    shown = {"progress_bar": False, "log_output": True, "stdout_file": sys.stdout, "stderr_file": sys.stderr}
    try:
        with _kernel_environment():
            papermill.execute_notebook(notebook, copy, values, **options, **shown)
    except papermill.PapermillExecutionError as error:
        where = f"cell {error.exec_count} failed: {error.ename}: {error.evalue}"
        raise EcgError(where, file=notebook.name, fix=f"read the traceback in {os.path.relpath(copy)}") from error


def _read(path: Path) -> dict:
    return json.loads(path.read_text())


def normalise(notebook: dict, scrub: dict | None = None) -> dict:
    """The executed notebook without what differs between equal runs.

    Dropped: timestamps, paths and random cell ids of papermill, the interpreter's version, memory addresses, and the
    stderr stream (progress bars and warnings: they are shown while the notebook runs). `scrub`: text -> replacement.
    """
    for number, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{number:02d}"
        tags = cell["metadata"].get("tags", [])
        cell["metadata"] = {"tags": tags} if tags else {}
        if cell["cell_type"] == "code":
            cell["outputs"] = _merged(cell["outputs"])
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook["metadata"] = {"kernelspec": kernel, "language_info": language}
    return _scrubbed(notebook, scrub or {})


def _merged(outputs: list) -> list:
    """Outputs without stderr; neighbouring pieces of stdout become one (their number depends on the timing)."""
    kept = []
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] == "stderr":
            continue
        last = kept[-1] if kept else {}
        if output["output_type"] == "stream" and last.get("output_type") == "stream":
            last["text"] = "".join(last["text"]) + "".join(output["text"])
        else:
            kept.append(output)
    for output in kept:
        if output["output_type"] == "stream":  # one piece or several: the same form
            output["text"] = "".join(output["text"]).splitlines(keepends=True)
    return kept


def _scrubbed(value, scrub: dict):
    if isinstance(value, dict):
        return {name: item if name == "image/png" else _scrubbed(item, scrub) for name, item in value.items()}
    if isinstance(value, list):
        return [_scrubbed(item, scrub) for item in value]
    if not isinstance(value, str):
        return value
    for text, replacement in scrub.items():
        value = value.replace(text, replacement)
    return re.sub(r"\bat 0x[0-9a-f]+", "at 0x...", value)


def page(notebook: dict) -> str:
    """One self-contained page: no script, no font and no style from elsewhere; the same bytes for the same notebook."""
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    logging.getLogger("traitlets").setLevel(logging.ERROR)  # no advice on the alternative text of images
    node = nbformat.reads(json.dumps(notebook), as_version=4)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(node)
    heading = re.search(r"^# (.+)$", "\n".join("".join(c["source"]) for c in notebook["cells"]), re.MULTILINE)
    title = heading[1] if heading else "notebook"
    style = STYLE + HtmlFormatter(style="default").get_style_defs(".highlight")
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}</body></html>\n'
