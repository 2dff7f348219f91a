"""What leaves the machine: how a study came about (commit, parameters, minutes), and its pages as one static folder."""

import base64
import io
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import yaml

from ecglib import EcgError
from ecglib.data.files import KEY, new_folder, plain, write_atomic
from ecglib.pipeline.notebooks import page
from ecglib.pipeline.schedule import LOGS

LIMIT = 25_000_000  # bytes of the static folder
LISTED = "site.json"  # in the static folder: what the command wrote there
WIDEST = 1600  # pixels of a picture there
COLOURS = 64  # of it
PDF = re.compile(r' ?<a href="[^"]+\.pdf">PDF</a>')  # for print: they stay in the results
HEAVY = re.compile(r'<a href="[^"]+\.(?:parquet|safetensors|npy|npz|pdf)">(.*?)</a>')  # their names alone
LINK = re.compile(r'(?:href|src)="([^"#?]+)[^"]*"')
PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
MARKS = re.compile(r"[&<>|`\n]|\]\(")  # of HTML, cells and links in Markdown
DONE = re.compile(r"^\[(?P<notebook>[\w-]+)\] done in (?P<seconds>\d+) s: (?P<folder>\S+)$", re.M)


def provenance(root: Path, results: Path) -> Path:
    """Write provenance.html into the results: commit, data, parameters that differ from the commit, minutes.

    Of a study of one's own all parameters are shown, since they are in no commit. The page changes from run to run, so
    it is no output of a stage.
    """
    parts = ["# How did these results come about?", _facts(root), *_parameters(root, results)]
    times = _times(root, results)
    total = (
        f"{times.seconds.sum() / 60:.0f} minutes of stages, several of them side by side" if len(times) else "No log"
    )
    parts += ["## Minutes", f"{total}; a stage whose results were there took none.", _table(times)]
    cell = {"cell_type": "markdown", "id": "cell-00", "metadata": {}, "source": "\n\n".join(parts)}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    write_atomic(results / "provenance.html", page(notebook, report="report/index.html"))
    return results / "provenance.html"


def _git(root: Path, *words: str) -> str:
    """What git says, "" where this is no repository."""
    try:
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _facts(root: Path) -> str:
    commit, pinned = _git(root, "rev-parse", "HEAD"), root / "data.dvc"
    changed = len(_git(root, "status", "--porcelain", "--untracked-files=no").splitlines())
    data = yaml.safe_load(pinned.read_text())["outs"][0]["md5"] if pinned.is_file() else "not pinned"
    machine = f"{os.cpu_count()} cores, {platform.system()} on {platform.machine()}, Python {platform.python_version()}"
    rows = [("commit", commit or "no git repository"), ("files changed since", changed), ("data", data)]
    return pd.DataFrame([*rows, ("machine", machine)], columns=["what", "value"]).to_markdown(index=False)


def _parameters(root: Path, results: Path) -> list[str]:
    """The paragraphs on parameters: what differs from the commit, and those of a study of one's own."""
    parts = ["## Parameters that differ from the commit"]
    for file in ("params.yaml", *(["real/params.yaml"] if results.name == "real" else [])):
        changed = _changed(root, file)
        parts += [f"None in `{file}`."] if changed.empty else [f"In `{file}`:", _table(changed)]
    own = results.parent.resolve() / "params.yaml"
    if own.is_file() and own != root.resolve() / "params.yaml":
        rows = [(name, str(value)) for name, value in _flat(yaml.safe_load(own.read_text())).items()]
        table = _table(pd.DataFrame(rows, columns=["parameter", "value"]), disable_numparse=True)
        parts += [f"## Parameters of this study, `{os.path.relpath(own, root.resolve()).replace('`', '')}`", table]
    return parts


def _table(frame: pd.DataFrame, **options) -> str:
    """A table in Markdown, text of users in it as it is written; lists such as [1, 2] are no links and stay."""

    def shown(cell):
        return plain(cell) if isinstance(cell, str) and MARKS.search(cell) else cell

    return frame.map(shown).to_markdown(index=False, **options)


def _changed(root: Path, file: str) -> pd.DataFrame:
    """The parameters of a file that the last commit has otherwise: name, committed, now."""
    committed = _git(root, "show", f"HEAD:{file}")
    if not committed or not (root / file).is_file():
        return pd.DataFrame()
    before, now = (_flat(yaml.safe_load(text)) for text in (committed, (root / file).read_text()))
    names = [name for name in before | now if before.get(name) != now.get(name)]
    rows = [(name, str(before.get(name, "-")), str(now.get(name, "-"))) for name in names]
    return pd.DataFrame(rows, columns=["parameter", "committed", "now"])


def _flat(tree, name: str = "") -> dict:
    """{a.b.c: value} of nested dicts."""
    if not isinstance(tree, dict):
        return {name: tree}
    return {k: v for key, value in tree.items() for k, v in _flat(value, f"{name}.{key}".lstrip(".")).items()}


def _times(root: Path, results: Path) -> pd.DataFrame:
    """Seconds of each executed notebook, as its log tells."""
    logs = sorted((root / LOGS).glob("*.log"))
    found = [match.groupdict() for log in logs for match in DONE.finditer(log.read_text(errors="replace"))]
    rows = pd.DataFrame(found, columns=["notebook", "folder", "seconds"]).astype({"seconds": int})
    folders = rows.folder.map(lambda folder: (root / folder).resolve())
    here = folders.map(lambda folder: results.resolve() in folder.parents)
    inner = folders.map(lambda folder: (results / "real").resolve() in folder.parents)
    return rows[here & ~inner].drop_duplicates("folder", keep="last").reset_index(drop=True)


def site(root: Path, out: Path) -> int:
    """Write the reports of the studies in results/ and all that they link to into the folder `out`; its bytes.

    Pictures lose dots and colours that nobody sees, so that all fits below LIMIT. Raises EcgError without a report,
    where a link leads nowhere, and above LIMIT.
    """
    results = root / "results"
    studies = [folder for folder in (results, results / "real") if (folder / "report/index.html").is_file()]
    if results not in studies:
        raise EcgError("there is no report yet", file=results / "report/index.html", fix="run `make repro` first")
    with new_folder(out, _listed, [results]) as part:
        pages = [folder / "report/index.html" for folder in studies]
        for file in _reached([*pages, *(provenance(root, folder) for folder in studies)], results):
            target = part / file.relative_to(results)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_lighter(file))
        (part / "index.html").write_text(_front([folder.relative_to(results) for folder in studies]), "utf-8")
        written = {path.relative_to(part).as_posix() for path in part.rglob("*")} - {KEY}
        (part / LISTED).write_text(json.dumps(sorted([*written, LISTED]), indent=1) + "\n")
        size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        if size > LIMIT:
            reason = f"{size / 1e6:.1f} MB are above {LIMIT / 1e6:.0f}"
            raise EcgError(reason, file=out, fix="show fewer ECGs or methods")
    return size


def _listed(folder: Path) -> list[str]:
    """What `site` wrote into a folder."""
    return json.loads((folder / LISTED).read_text("utf-8"))


def _reached(pages: list[Path], results: Path) -> list[Path]:
    """All files that one gets to from some pages, these included; EcgError for a link that leads nowhere."""
    found, waiting = [], list(pages)
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.append(file)
        if file.suffix == ".html":
            for link in LINK.findall(_without_heavy(file.read_text("utf-8"))):
                if re.match(r"[a-z]+:", link):
                    continue
                target = Path(os.path.normpath(file.parent / unquote(link)))
                if not target.is_file() or results not in target.parents:
                    raise EcgError(f"links to {link}, which is not there", file=file, fix="run `make repro` again")
                waiting.append(target)
    return found


def _lighter(file: Path) -> bytes:
    """The bytes of a file, pages without links to PDFs, pictures of WIDEST with COLOURS where that is smaller."""
    if file.suffix == ".png":
        return _fewer_colours(file.read_bytes())
    if file.suffix != ".html":
        return file.read_bytes()

    def smaller(match):
        return "data:image/png;base64," + base64.b64encode(_fewer_colours(base64.b64decode(match[1]))).decode()

    return PICTURE.sub(smaller, _without_heavy(file.read_text("utf-8"))).encode()


def _without_heavy(text: str) -> str:
    """A page whose links to files for print and for programs are names alone."""
    return HEAVY.sub(r"\1", PDF.sub("", text))


def _fewer_colours(png: bytes) -> bytes:
    from PIL import Image

    drawn = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        dots = picture.info.get("dpi", (96, 96))
        flat = Image.new("RGB", picture.size, "white")
        flat.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
        if flat.width > WIDEST:
            dots = tuple(dot * WIDEST / flat.width for dot in dots)
            flat = flat.resize((WIDEST, round(flat.height * WIDEST / flat.width)), Image.Resampling.LANCZOS)
        flat.quantize(COLOURS, dither=Image.Dither.NONE).save(drawn, "PNG", optimize=True, dpi=dots)
    return min(drawn.getvalue(), png, key=len)


def _front(studies: list[Path]) -> str:
    """The first page: which studies there are."""
    titles = {".": "The study on simulated hospitals", "real": "The study on real recordings"}
    links = [f"- [{titles[str(study)]}]({(study / 'report/index.html').as_posix()})" for study in studies]
    text = "\n".join(["# ECG foundation models: do they hold in the next hospital?", "", *links])
    cell = {"cell_type": "markdown", "id": "cell-00", "metadata": {}, "source": text}
    return page({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
