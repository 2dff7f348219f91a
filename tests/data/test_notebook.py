"""What surrounds a notebook: where its links go, which folder it writes to, and when it may show widgets."""

import types
from pathlib import Path

import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.data import notebook


@pytest.fixture
def jupyter(monkeypatch):
    """As in a kernel whose notebook somebody has open."""
    import IPython

    monkeypatch.setattr(IPython, "get_ipython", lambda: types.SimpleNamespace(kernel=True))


def test_a_notebook_is_attended_in_jupyter_and_not_where_a_stage_executes_it(jupyter, monkeypatch):
    assert notebook.attended()
    monkeypatch.setenv(notebook.RUN, "1")
    assert not notebook.attended()


def test_a_plain_process_is_not_attended():
    assert not notebook.attended()


def test_names_stand_in_the_folder_and_make_no_way_out_of_it(tmp_path):
    folder = notebook.output_folder(f"{tmp_path}/probe/{{task}}-{{method}}", task="twelve", method="zoo:merl@2.5")
    assert folder == tmp_path / "probe/twelve-zoo-merl@2.5" and folder.is_dir()
    assert notebook.output_folder(f"{tmp_path}/{{method}}", method="a/../../b") == tmp_path / "a-..-..-b"
    assert notebook.output_folder(str(tmp_path / "plain"), method="x") == tmp_path / "plain"
    (tmp_path / "file").touch()
    with pytest.raises(EcgError, match=r"\[out_dir\] is a file"):
        notebook.output_folder(str(tmp_path / "file"))


def filled(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("age.png", "age.pdf", "who it is.csv", "01.ipynb", "01.html", ".key", "checkpoint.safetensors"):
        (folder / name).touch()
    return folder


def test_links_of_a_page_are_relative_to_the_page(tmp_path):
    folder = filled(tmp_path / "results/explore")
    links = "age [pdf](age.pdf) [png](age.png) · who it is [csv](who%20it%20is.csv)"
    assert notebook.written(folder) == f"What this notebook wrote: {links}"
    (tmp_path / "empty").mkdir()
    assert notebook.written(tmp_path / "empty") == "What this notebook wrote: nothing"


def test_links_of_an_open_notebook_are_relative_to_where_it_lies(tmp_path, jupyter, monkeypatch):
    folder = filled(tmp_path / "results/scratch/explore")
    monkeypatch.setenv(notebook.OPENED, str(tmp_path / "results/scratch/notebooks"))
    assert "[png](../explore/age.png)" in notebook.written(folder)
    monkeypatch.delenv(notebook.OPENED)  # plain Jupyter starts a kernel where the notebook lies
    monkeypatch.chdir(tmp_path)
    assert "[png](results/scratch/explore/age.png)" in notebook.written(folder)


def test_a_table_has_no_index_and_says_so_where_it_is_empty(capsys):
    table = pd.DataFrame({"name": ["<b>"], "score": [0.12345]}, index=[17])
    page = notebook.plain_table(table, "one").to_html()
    assert "0.123" in page and "&lt;b&gt;" in page and ">17<" not in page
    assert page == notebook.plain_table(table, "one").to_html()
    assert notebook.plain_table(table[:0], "none", "There is none.") is None
    assert capsys.readouterr().out == "There is none.\n"


def test_a_loop_is_silent_until_it_takes_long(capsys, monkeypatch):
    assert list(notebook.track([1, 2], "quick")) == [1, 2] and capsys.readouterr().err == ""
    monkeypatch.setattr(notebook, "QUIET_S", 0)
    assert list(notebook.track([1, 2], "slow", "batch")) == [1, 2]
    assert "slow" in (shown := capsys.readouterr().err) and "batch" in shown
