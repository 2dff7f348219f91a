"""Every notebook opened, saved and run in JupyterLab, in a browser, on the finished study of small numbers."""

import json
import re
import shutil

import pytest
import small_study
from small_study import SMOKE
from study_tree import call, lab_server

from ecglib.pipeline import lab
from ecglib.pipeline.stages import ROOT

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))

IN_LAB = {  # small numbers for what runs in the browser
    "02_pretraining": {"steps": 4, "warmup": 1, "batch_size": 8, "min_positives": 2},
    "03_linear_probing": {"fractions": [1.0], "seeds": 1, "min_positives": 4},
    "04_external_evaluation": {"n_worst": 1, "n_resamples": 20},
    "05_published_models": {"models": ["clef_small"], "weights": "dummy", "n_train": 20, "n_val": 20},
    "06_fine_tuning": SMOKE["fine_tuning"],
    "07_one_ecg": {"n_shown": 1},
    "08_rhythm_and_beats": SMOKE["rhythm_and_beats"],
    "09_robustness": SMOKE["robustness"]
    | {"encoders": {"random": "", "measure": "../results/pretrain/twelve-measure"}, "shift_encoder": "measure"}
    | {"beside": [], "shown": "measure", "shift_splits": ["pretrain", "train"], "cues": ["p"]},
    "10_explanation": SMOKE["explanation"],
    "11_waves_and_leads": SMOKE["waves_and_leads"],
    "12_language_and_neighbours": SMOKE["language_and_neighbours"],
    "13_holter": SMOKE["holter"],
    "14_noise": {"most": 1, "classifiers": ["logistic"], "n_resamples": 20},
    "15_ppg": SMOKE["ppg"],
    "16_generation": SMOKE["generation"] | {"n_shown": 1},
    "20_paper_figures": {"n_resamples": 20, "min_positives": 2, "fraction": 0.5},
}


@pytest.fixture(scope="module")
def in_lab(tmp_path_factory):
    """JupyterLab on the finished study, under git, in a browser's window."""
    browser = pytest.importorskip("browser", reason="playwright is not installed")
    if not browser.CHROMIUM:
        pytest.skip("there is no Chromium here")
    study = small_study.finished(tmp_path_factory, "in_lab")
    shutil.copy(ROOT / ".gitignore", study)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        call(study, "git", *words)
    lab.refresh_copies(study)
    for name, values in IN_LAB.items():
        browser.with_parameters(study / lab.COPIES / f"{name}.ipynb", values)
    with lab_server(study, "only-here") as address, browser.window() as page:
        yield browser.Lab(page, address, "only-here", study)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_each_notebook_opens_saves_and_runs_in_lab(in_lab, name):
    path = f"{lab.COPIES}/{name}.ipynb"
    in_lab.open(path)
    in_lab.save()
    ran = in_lab.run_all(path)
    outputs = [output for cell in ran for output in cell["outputs"]]
    assert [(o["ename"], o["evalue"]) for o in outputs if o["output_type"] == "error"] == []
    assert "with 0 Axes" not in json.dumps(outputs) and "np.int64" not in json.dumps(outputs)
    if name == "07_one_ecg":
        in_lab.page.get_by_role("button", name="next").click()
        in_lab.page.get_by_text(re.compile(r"^2 of \d+$")).wait_for()
    if name != "21_report":  # that one is all links
        links = re.findall(r"\]\(([^)#]+)\)", "".join(outputs[-1]["data"]["text/markdown"]))
        assert links and all((in_lab.tree / lab.COPIES / link).is_file() for link in links)
    assert in_lab.missing == []
    in_lab.end_kernels()


def test_a_committed_notebook_that_is_opened_and_saved_stays_as_it_was(in_lab):
    in_lab.open("notebooks/02_pretraining.ipynb")
    in_lab.save()
    in_lab.end_kernels()
    assert call(in_lab.tree, "git", "status", "--porcelain") == ""


def test_exploring_in_lab_leaves_the_study_as_it_was(in_lab):
    assert call(in_lab.tree, "git", "status", "--porcelain") == ""
    assert "up to date" in call(in_lab.tree, "dvc", "status")
