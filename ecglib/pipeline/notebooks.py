"""Run a notebook as a stage of the study: papermill, then everything that differs between two equal runs is removed.

Every stage runs under `ENVIRONMENT`, so that the same numbers come out on machines with other processors.
"""

import ast
import errno
import hashlib
import json
import logging
import os
import re
import sys
import time
from contextlib import contextmanager
from html import escape
from pathlib import Path
from urllib.parse import quote

from jupyter_client import AsyncKernelManager

from ecglib import EcgError
from ecglib.data.files import KEY, claimed, fingerprint, output_folder, replace_folder, write_atomic
from ecglib.data.notebook import RUN
from ecglib.pipeline import warm
from ecglib.pipeline.environment import ENVIRONMENT

LARGEST = 3_000_000  # bytes of a page: what a telephone opens and a mail carries
WROTE = "ecglib_wrote"  # metadata of an executed notebook: what its run put into the folder
STYLE = """body{max-width:60rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 system-ui,sans-serif;color:#222}
pre{overflow-x:auto;font-size:13px;line-height:1.4}.highlight pre,pre.src{background:#f6f6f6;padding:.6rem}
table{border-collapse:collapse;font-size:14px}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}
table:not(.dataTable){display:block;overflow-x:auto;max-width:100%}nav{font-size:14px}
table :is(td,th):first-child{position:sticky;left:0;background:#fff;text-align:left}
img,svg{max-width:100%;height:auto}.prompt{display:none}.anchor-link{display:none}summary{cursor:pointer}
@media(max-width:600px){body{margin:1rem auto;padding:0 .6rem}h1{font-size:1.5rem}td,th{padding:.2rem .35rem}
table:not(.dataTable) :is(td,th):first-child{min-width:6.5rem;max-width:9rem;overflow-wrap:anywhere}}"""


def parameters(notebook: Path) -> dict:
    """Name -> default in the cell tagged `parameters`; raises EcgError without that cell, or if one is no literal."""
    import papermill

    if not Path(notebook).is_file():
        raise EcgError("no such notebook", file=notebook)
    try:
        stated_parameters = papermill.inspect_notebook(str(notebook))
    except ValueError as error:  # papermill's word for a notebook without a kernel
        raise EcgError(
            f"cannot be run: {error}", file=notebook, fix="open it in JupyterLab and save it once"
        ) from error
    values = {}
    for name, stated in stated_parameters.items():
        try:
            values[name] = ast.literal_eval(stated["default"])
        except ValueError as error:
            raise EcgError("a parameter must be a plain value, list or dict", file=notebook, field=name) from error
    if not values:
        fix = "tag one cell 'parameters' and give each parameter a default there"
        raise EcgError("has no parameters", file=notebook, field="parameters", fix=fix)
    return values


def typed(notebook: Path, given: dict) -> dict:
    """`given` in the types of the defaults; raises EcgError with the valid names, or with the wanted type."""
    defaults = parameters(notebook)
    wrong = sorted(set(given) - set(defaults))
    if wrong:
        fix = f"use one of: {', '.join(defaults)}"
        raise EcgError(f"no parameter {', '.join(wrong)}", file=notebook, field="parameters", fix=fix)
    return {name: _cast(notebook, name, value, defaults[name]) for name, value in given.items()}


def _cast(notebook, name: str, value, default):
    """A value in the type of the default: numbers and texts are converted where nothing is lost, nothing else is."""
    kind = type(default)
    if kind in (list, dict, bool):
        if not isinstance(value, kind):
            fix = {list: "write a list, [a, b]", dict: "write a mapping, {a: b}", bool: "write true or false"}[kind]
            raise EcgError(f"{value!r} is no {kind.__name__}", file=notebook, field=name, fix=fix)
        if kind is list and default and any(isinstance(item, str) != isinstance(default[0], str) for item in value):
            fix = f"write them like {default[0]!r}"
            raise EcgError(f"wrong items in {value!r}", file=notebook, field=name, fix=fix)
        return value
    try:
        if (
            value is None
            or isinstance(value, bool | list | dict)
            or (kind is int and float(value) != int(float(value)))
        ):
            raise ValueError(value)
        return int(float(value)) if kind is int else kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise EcgError(f"{value!r} is no {kind.__name__}", file=notebook, field=name) from error


def execute(notebook, out_dir, given=None, page_name: str = "") -> Path:
    """Run `notebook` with the parameters `given` into the folder `out_dir`; returns the executed copy.

    The notebook works in `out_dir`.part, which takes the place of `out_dir` when all is done: what stands in `out_dir`
    is complete. After an interruption a run with the same parameters, code and input files finds that folder again, and
    with it the checkpoints in it. Raises EcgError for a parameter that the notebook lacks and for a failing cell; then
    the executed copy with the traceback stays in `out_dir`.part. page_name: of an HTML page that shows results alone
    (default: the notebook's, with its code).
    """
    notebook, started = Path(notebook).resolve(), time.monotonic()
    if page_name and Path(page_name).name != page_name or page_name == notebook.name:
        raise EcgError(f"{page_name!r} is no name of a page", field="page", fix="write it like index.html")
    part = Path(f"{Path(out_dir).resolve()}.part")
    values = typed(notebook, {**(given or {}), "out_dir": os.path.relpath(part, notebook.parent)})
    out_dir = output_folder(out_dir, written, [notebook, *_inputs(notebook, values)])
    with claimed(part, _key(notebook, values)):
        _papermill(notebook, part / notebook.name, values)
        _finish(notebook, part, out_dir, page_name)
        replace_folder(part, out_dir, written)
    print(f"[{notebook.stem}] done in {time.monotonic() - started:.0f} s: {os.path.relpath(out_dir)}", flush=True)
    return out_dir / notebook.name


def _finish(notebook: Path, part: Path, out_dir: Path, page_name: str) -> None:
    """Make the executed copy the same for equal runs, note in it which files there are, and write its page."""
    copy = part / notebook.name
    scrub = {os.path.relpath(part, notebook.parent): os.path.relpath(out_dir, notebook.parent)}
    scrub |= {str(part): out_dir.name, f"{notebook.parent.parent}{os.sep}": ""}
    executed = normalise(json.loads(copy.read_text()), scrub)
    written = page(executed, not page_name, _report(out_dir))
    _check_size(notebook, written)
    write_atomic(part / (page_name or f"{notebook.stem}.html"), written)
    files = {path.relative_to(part).as_posix() for path in part.rglob("*")} - {KEY}
    executed["metadata"][WROTE] = sorted(files)
    write_atomic(copy, json.dumps(executed, sort_keys=True, indent=1, ensure_ascii=False) + "\n")


def _check_size(notebook: Path, page_: str) -> None:
    """EcgError for a page of more than LARGEST bytes."""
    size = len(page_.encode())
    if size > LARGEST:
        reason = f"its page has {size / 1e6:.1f} MB, at most {LARGEST / 1e6:g} are allowed"
        raise EcgError(reason, file=notebook.name, fix="show fewer rows, and fewer or smaller pictures")


def written(folder: Path) -> list[str]:
    """What a run left in a folder, as the executed notebook there tells."""
    return json.loads(min(folder.glob("*.ipynb")).read_text("utf-8"))["metadata"][WROTE]


def _inputs(notebook: Path, values: dict) -> list[Path]:
    """The files and folders that parameters other than out_dir name."""
    texts = [text for name, value in values.items() if name != "out_dir" for text in _texts(value) if "/" in text]
    paths = {Path(os.path.normpath(notebook.parent / text)) for text in texts}
    return sorted(path for path in paths if path.exists())


def _texts(value) -> list[str]:
    """All texts in a parameter value, which may be a list or a dict of more."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in _texts(item)]


def _key(notebook: Path, values: dict) -> str:
    """Hash of all that a run comes from: the notebook, its parameters, this library, the inputs."""
    content = [notebook.read_text(), json.dumps(values, sort_keys=True)]
    content += fingerprint(Path(__file__).parents[1], content=True)
    content += [line for path in _inputs(notebook, values) for line in fingerprint(path, content=False)]
    return hashlib.sha256("\0".join(content).encode()).hexdigest()


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
    """ENVIRONMENT, this tree's ecglib, no widgets, figures drawn into the notebook: for the kernel that inherits it."""
    saved, root = dict(os.environ), str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [saved.get("PYTHONPATH")])])
    inline = "module://matplotlib_inline.backend_inline"
    os.environ.update(ENVIRONMENT, PYTHONPATH=path, MPLBACKEND=inline, **{RUN: "1"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


class WarmKernelManager(AsyncKernelManager):
    """Starts kernels through the warm server, where there is one."""

    def format_kernel_cmd(self, extra_arguments=None):
        """As Jupyter's, with our module in the place of ipykernel_launcher."""
        command = super().format_kernel_cmd(extra_arguments)
        at = command.index("ipykernel_launcher")
        quiet = "--IPKernelApp.log_level=50"  # or a kernel that is stopped tells where it was
        return [*command[:at], "ecglib", warm.KERNEL, *command[at + 1 :], quiet]


def _papermill(notebook: Path, copy: Path, values: dict) -> None:
    import papermill
    from traitlets.config import Config

    log, progress = logging.getLogger("papermill"), _Progress(notebook)
    log.handlers, log.propagate = [progress], False
    log.setLevel(logging.INFO)
    encrypted = {"transport_encryption": "auto"}  # other users of a shared machine listen
    patient = {"kernel_manager_class": WarmKernelManager, "iopub_timeout": 60}  # s; a busy machine is no failure
    settings = {"KernelManager": encrypted, "NotebookClient": patient}
    options = {"kernel_name": "python3", "language": "python", "cwd": notebook.parent, "config": Config(settings)}
    shown = {"progress_bar": False, "log_output": True, "stdout_file": sys.stdout, "stderr_file": sys.stderr}
    shown["request_save_on_cell_execute"] = False  # once at the end, or where a cell fails
    try:
        with _kernel_environment():
            papermill.execute_notebook(notebook, copy, values, **options, **shown)
    except KeyboardInterrupt:  # else asyncio tells the traceback of what it was waiting for
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    except papermill.PapermillExecutionError as error:
        if os.strerror(errno.ENOSPC) in error.evalue:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(copy.parent)) from error
        where = f"cell {error.exec_count} failed: {error.ename}: {error.evalue}"
        raise EcgError(where, file=notebook.name, fix=f"read the traceback in {os.path.relpath(copy)}") from error


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


def page(notebook: dict, code: bool = True, report: str = "") -> str:
    """One self-contained page, with or without the code of the cells; the same bytes for the same notebook.

    It needs no script, no font and no style from elsewhere. report: link to the page of the whole study, shown on top.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    logging.getLogger("traitlets").setLevel(logging.ERROR)  # no advice on the alternative text of images
    node = nbformat.reads(json.dumps(notebook), as_version=4)
    body, _ = HTMLExporter(template_name="basic", exclude_input=not code).from_notebook_node(node)
    heading = re.search(r"^# (.+)$", "\n".join("".join(c["source"]) for c in notebook["cells"]), re.MULTILINE)
    title = heading[1] if heading else "notebook"
    style = STYLE + HtmlFormatter(style="default").get_style_defs(".highlight")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title><style>{style}</style>"
    back = f'<nav><a href="{quote(report)}">The report of this study</a></nav>\n' if report else ""
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{back}{body}</body></html>\n'


def _report(out_dir: Path) -> str:
    """The link from a page in a folder of the results to the report on them; "" from the report and from elsewhere."""
    above = [folder for folder in out_dir.parents if folder.name == "results"]
    if not above or out_dir.name == "report":
        return ""
    results = above[0] / "real" if (above[0] / "real") in out_dir.parents else above[0]
    return Path(os.path.relpath(results / "report/index.html", out_dir)).as_posix()
