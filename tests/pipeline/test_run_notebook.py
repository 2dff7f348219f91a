"""Notebooks as stages: two runs give the same bytes, a misspelt parameter and a failing cell say so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from ecglib import EcgError
from ecglib.data import files
from ecglib.pipeline import notebooks

DRAW = """import sys, warnings
import matplotlib.pyplot as plt
import numpy as np
warnings.warn("only for the console")
print("half", end=" ")
print("progress", file=sys.stderr)
print("whole", object())
fig, ax = plt.subplots()
ax.plot(np.random.default_rng(seed).normal(size=steps))
fig.savefig(f"{out_dir}/figure.pdf")"""


def notebook(path: Path, *cells: str) -> Path:
    """A notebook with a heading, the parameters cell, and `cells` of code."""
    tagged = nbformat.v4.new_code_cell('steps = 5  # steps\nseed: int = 0\nfast = False\nout_dir = "scratch"')
    tagged.metadata["tags"] = ["parameters"]
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Does a & b run?"), tagged, *code])
    node.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(node, path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_two_runs_give_the_same_bytes_and_the_page_needs_nothing_else(tmp_path, capfd):
    source = notebook(tmp_path / "notebooks" / "demo.ipynb", DRAW)
    notebooks.execute(source, tmp_path / "out" / "first", {"steps": "7"})
    first = contents(tmp_path / "out" / "first")
    notebooks.execute(source, tmp_path / "out" / "first", {"steps": "7"})
    assert contents(tmp_path / "out" / "first") == first
    assert set(first) == {"demo.ipynb", "demo.html", "figure.pdf"}
    text = first["demo.ipynb"].decode()
    assert "steps = 7" in text and "half whole <object object at 0x...>" in text and "image/png" in text
    assert not re.search(r"name\": \"stderr|papermill\"|UserWarning|0x[0-9a-f]{6}|first\.part", text)
    assert str(tmp_path) not in text and "duration" not in text
    page = first["demo.html"].decode()
    assert "<title>Does a &amp; b run?</title>" in page and "data:image/png" in page
    assert not re.search(r'(src|href)="(?!data:|#)|@import|url\(', page)
    (tmp_path / "out" / "first" / "notes.txt").write_text("mine")
    with pytest.raises(EcgError, match=r"notes\.txt: .* would be lost"):
        notebooks.execute(source, tmp_path / "out" / "first", {"steps": "7"})
    assert contents(tmp_path / "out" / "first") == {**first, "notes.txt": b"mine"}
    shown = capfd.readouterr()
    assert "[demo]" in shown.out and "cell 4/4  import sys, warnings" in shown.out and "progress" in shown.err


def test_what_somebody_saves_into_the_folder_during_a_run_stays_and_so_does_the_work(tmp_path):
    saved = "from pathlib import Path\nplace = Path(out_dir.removesuffix('.part'))\nplace.mkdir()\n"
    source = notebook(tmp_path / "demo.ipynb", f"{saved}(place / 'notes.txt').write_text('mine')")
    with pytest.raises(EcgError, match=r"notes\.txt: .* would be lost"):
        notebooks.execute(source, tmp_path / "out")
    assert contents(tmp_path / "out") == {"notes.txt": b"mine"}
    assert {"demo.ipynb", "demo.html"} <= set(contents(tmp_path / "out.part"))


def test_a_misspelt_parameter_lists_the_valid_names(tmp_path):
    source = notebook(tmp_path / "demo.ipynb")
    with pytest.raises(EcgError, match="no parameter stepz.*steps, seed, fast, out_dir"):
        notebooks.execute(source, tmp_path / "out", {"stepz": 7})
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    "given, kind",
    [({"steps": "many"}, "int"), ({"steps": 1.5}, "int"), ({"fast": "si"}, "bool"), ({"steps": [1]}, "int")]
    + [({"steps": value}, "int") for value in (float("inf"), float("nan"), None, "abc", {"a": 1}, True)],
)
def test_a_parameter_of_another_type_is_refused(tmp_path, given, kind):
    with pytest.raises(EcgError, match=f"is no {kind}"):
        notebooks.typed(notebook(tmp_path / "demo.ipynb"), given)


def test_a_list_of_other_items_is_refused(tmp_path):
    source = notebook(tmp_path / "demo.ipynb")
    text = source.read_text()
    for default, good, bad in (
        ("['a']", ["b", "c"], ["b", 1]),
        ("[0.1, 1]", [1, 2.5], [0.1, "many"]),
        ("[1]", [], ["1"]),
    ):
        source.write_text(text.replace("seed: int = 0", f"seed = {default}"))
        assert notebooks.typed(source, {"seed": good}) == {"seed": good}
        with pytest.raises(EcgError, match=r"\[seed\] wrong items"):
            notebooks.typed(source, {"seed": bad})


def test_parameters_take_the_type_of_their_default(tmp_path):
    source = notebook(tmp_path / "demo.ipynb")
    assert notebooks.typed(source, {"steps": "1e3", "fast": True}) == {"steps": 1000, "fast": True}
    assert notebooks.parameters(source) == {"steps": 5, "seed": 0, "fast": False, "out_dir": "scratch"}


def test_a_failing_cell_keeps_the_traceback_and_the_last_good_result(tmp_path):
    source = notebook(tmp_path / "demo.ipynb", "assert steps < 10, 'too many steps'")
    notebooks.execute(source, tmp_path / "out", {"steps": 5})
    good = contents(tmp_path / "out")
    with pytest.raises(EcgError, match=r"cell 3 failed: AssertionError: too many steps.*out\.part"):
        notebooks.execute(source, tmp_path / "out", {"steps": 20})
    assert contents(tmp_path / "out") == good
    assert "AssertionError" in (tmp_path / "out.part" / "demo.ipynb").read_text()


def test_a_page_that_is_too_large_to_mail_is_refused(tmp_path, monkeypatch):
    source = notebook(tmp_path / "demo.ipynb")
    size = len(notebooks.execute(source, tmp_path / "out").with_suffix(".html").read_bytes())
    monkeypatch.setattr(notebooks, "LARGEST", size)
    notebooks.execute(source, tmp_path / "out")
    monkeypatch.setattr(notebooks, "LARGEST", size - 1)
    with pytest.raises(EcgError, match=r"its page has .* MB"):
        notebooks.execute(source, tmp_path / "out")
    assert (tmp_path / "out/demo.html").stat().st_size == size


def test_an_interrupted_run_finds_its_checkpoints_again_and_another_one_does_not(tmp_path):
    seen = "from pathlib import Path\nprint('left:', Path(out_dir, 'checkpoint').exists())"
    source = notebook(tmp_path / "demo.ipynb", seen)

    source.write_text(source.read_text().replace("steps = 5", "steps = 5\\ncohort = '../input'"))
    (tmp_path.parent / "input").write_text("1")

    def left(change) -> bool:
        """Whether a run finds the checkpoint of one that was interrupted before `change`."""
        part = tmp_path / "out.part"
        values = notebooks.typed(source, {**notebooks.parameters(source), "out_dir": "out.part"})
        with files.claimed(part, notebooks._key(source, values)):
            (part / "checkpoint").touch()
        change()
        return "left: True" in notebooks.execute(source, tmp_path / "out", values).read_text()

    assert left(lambda: None)
    assert not left(lambda: (tmp_path.parent / "input").write_text("22"))


def test_needs_one_tagged_cell_with_plain_values(tmp_path):
    source = notebook(tmp_path / "demo.ipynb")
    with pytest.raises(EcgError, match="plain value"):
        source.write_text(source.read_text().replace("seed: int = 0", "seed: int = max(0, 1)"))
        notebooks.parameters(source)
    with pytest.raises(EcgError, match="has no parameters"):
        source.write_text(source.read_text().replace('"parameters"', '"other"'))
        notebooks.parameters(source)
    with pytest.raises(EcgError, match="no such notebook"):
        notebooks.parameters(tmp_path / "none.ipynb")


def command(*words: str, **environment: str) -> subprocess.CompletedProcess:
    values = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-m", "ecglib", *words], capture_output=True, text=True, env=values)


def test_the_command_line_answers_bad_input_with_one_line(tmp_path):
    source = notebook(tmp_path / "demo.ipynb")
    answer = command("run", str(source), "--out", str(tmp_path / "out"), "-p", "stepz=1", OMP_NUM_THREADS="7")
    assert answer.returncode == 2 and answer.stdout == ""
    assert answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1 and "steps" in answer.stderr


def test_every_process_of_a_stage_runs_in_the_fixed_environment(tmp_path):
    source = notebook(tmp_path / "demo.ipynb", "import os\nprint(os.environ['OMP_NUM_THREADS'], hash('ecg'))")
    runs = []
    for seed, threads in (("1", "7"), ("2", "1")):
        words = ("run", str(source), "--out", str(tmp_path / "out"))
        answer = command(*words, PYTHONHASHSEED=seed, OMP_NUM_THREADS=threads, ECGLIB_THREADS="3")
        assert answer.returncode == 0, answer.stderr
        runs.append((tmp_path / "out" / "demo.ipynb").read_text())
    assert runs[0] == runs[1] and '"3 ' in runs[0]


def test_numpy_takes_the_processor_features_it_is_told_to_without_a_warning():
    code = "import numpy._core._multiarray_umath as u; print(u.__cpu_features__['X86_V4'])"
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | notebooks.ENVIRONMENT,
    )
    assert answer.returncode == 0 and answer.stderr == "" and answer.stdout in ("False\n", "")
