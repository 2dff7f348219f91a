"""JupyterLab as `ecglib lab` starts it, asked over HTTP as the browser does: exploring never touches the study."""

import json
import shutil
import subprocess
from pathlib import Path

import nbformat
import psutil
import pytest
import requests
from study_tree import lab_server

from ecglib import EcgError
from ecglib.pipeline import lab

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "only-here"
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A repository with the notebooks of this one, committed."""
    folder = tmp_path_factory.mktemp("lab") / "tree"
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(ROOT / ".gitignore", folder)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def server(tree):
    """The address of JupyterLab on `tree`."""
    lab.refresh_copies(tree)
    with lab_server(tree, TOKEN) as address:
        yield address


def ask(method: str, address: str, **options) -> requests.Response:
    answer = requests.request(method, address, headers={"Authorization": f"token {TOKEN}"}, timeout=60, **options)
    answer.raise_for_status()
    return answer


def save(address: str, path: str, content: dict) -> None:
    model = {"type": "notebook", "format": "json", "content": content}
    ask("put", f"{address}/api/contents/{path}", json=model)


def opened(address: str, path: str) -> dict:
    return ask("get", f"{address}/api/contents/{path}").json()["content"]


def as_lab_leaves_it(content: dict) -> dict:
    """What is there after Run All in Lab: outputs, counts, times, and facts about the kernel in the metadata."""
    content = json.loads(json.dumps(content))
    content["metadata"]["language_info"] |= {"version": "3.11.7", "file_extension": ".py", "nbconvert_exporter": "py"}
    for number, cell in enumerate(content["cells"]):
        if cell["cell_type"] == "code":
            cell["execution_count"] = number
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "8\n"}]
            cell["metadata"] |= {"execution": {"iopub.status.busy": "2026"}, "collapsed": True}
    return content


def changes(tree: Path) -> str:
    return subprocess.run(["git", "status", "--porcelain"], cwd=tree, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.parametrize("change", [lambda content: content, as_lab_leaves_it])
def test_a_committed_notebook_saved_in_lab_is_the_same_byte_for_byte(server, tree, name, change):
    path = tree / "notebooks" / name
    before = path.read_bytes()
    save(server, f"notebooks/{name}", change(opened(server, f"notebooks/{name}")))
    assert path.read_bytes() == before
    assert changes(tree) == ""


def test_an_edit_of_a_committed_notebook_is_saved(server, tree):
    content = opened(server, f"notebooks/{NOTEBOOKS[0]}")
    edited = json.loads(json.dumps(content))
    edited["cells"][0]["source"] += "\nAnother sentence."
    try:
        save(server, f"notebooks/{NOTEBOOKS[0]}", edited)
        assert changes(tree) == f" M notebooks/{NOTEBOOKS[0]}\n"
    finally:
        save(server, f"notebooks/{NOTEBOOKS[0]}", content)


def test_a_copy_keeps_its_outputs_and_runs_where_its_original_lies(server, tree):
    path = f"{lab.COPIES}/{NOTEBOOKS[0]}"
    save(server, path, as_lab_leaves_it(opened(server, path)))
    assert "outputs" in opened(server, path)["cells"][1] and opened(server, path)["cells"][1]["outputs"]
    assert changes(tree) == ""
    request = {"path": path, "name": "copy", "type": "notebook", "kernel": {"name": "python3"}}
    kernel = ask("post", f"{server}/api/sessions", json=request).json()["kernel"]["id"]
    try:
        folders = [p.cwd() for p in psutil.process_iter(["cmdline"]) if kernel in " ".join(p.info["cmdline"] or [])]
        assert [Path(folder) for folder in folders] == [tree / "notebooks"]
    finally:
        ask("delete", f"{server}/api/kernels/{kernel}")


def test_lab_shows_the_whole_repository_and_opens_at_the_copies(server, tree):
    listed = ask("get", f"{server}/api/contents/").json()["content"]
    assert {"notebooks", "results"} <= {entry["name"] for entry in listed}
    assert ask("get", f"{server}/").url.endswith(f"/lab/tree/{lab.COPIES}")
    copies = ask("get", f"{server}/api/contents/{lab.COPIES}").json()["content"]
    assert sorted(entry["name"] for entry in copies) == NOTEBOOKS


def test_copies_follow_their_originals_until_somebody_edits_them(tmp_path):
    originals = tmp_path / "notebooks"
    originals.mkdir()
    for name in ("a", "b", "c"):
        cells = [nbformat.v4.new_code_cell("steps = 10")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), originals / f"{name}.ipynb")
    assert lab.refresh_copies(tmp_path) == []

    def change(path, source):
        notebook = nbformat.read(path, nbformat.NO_CONVERT)
        notebook.cells[0].source = source
        notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="ran")]
        nbformat.write(notebook, path)

    copies = tmp_path / lab.COPIES
    change(copies / "a.ipynb", "steps = 10")  # run, not edited
    change(copies / "b.ipynb", "steps = 3")
    assert lab.refresh_copies(tmp_path) == []
    assert "ran" in (copies / "a.ipynb").read_text()  # what was run stays as long as the original does
    for name in ("a", "b"):
        change(originals / f"{name}.ipynb", "steps = 20")
    assert lab.refresh_copies(tmp_path) == ["b.ipynb"]
    sources = {name: nbformat.read(copies / f"{name}.ipynb", nbformat.NO_CONVERT).cells[0].source for name in "abc"}
    assert sources == {"a": "steps = 20", "b": "steps = 3", "c": "steps = 10"}


def test_a_wrong_input_is_one_sentence_in_a_notebook():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shown = []
    shell._showtraceback = lambda kind, error, lines: shown.extend(lines)
    shell.run_cell("from ecglib import require_known\nrequire_known('statement', ['AFBI'], ['NORM', 'AFIB'])")
    assert shown == ["EcgError: [statement] unknown statement 'AFBI' -> did you mean 'AFIB'? use one of NORM, AFIB"]
    assert str(EcgError("x")) == "x"
