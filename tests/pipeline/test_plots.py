"""What `dvc plots show` draws: every number of the study's tables, without a network."""

import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from study_tree import call

from ecglib.pipeline.stages import ROOT

PLOTS = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
PRETRAINED = [name for name in yaml.safe_load((ROOT / "params.yaml").read_text())["pretraining"] if "twelve" in name]
PRETRAINED.append("twelve-heartlang")  # which has a stage of its own
METHODS = ["byol, linear", "features, boosting", "scratch, supervised"]


def tables(folder) -> None:
    """The CSV files that the plots of dvc.yaml name, three methods each."""
    for plot in PLOTS:
        (options,) = plot.values()
        for file in options["y"]:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            if file.endswith("history.csv"):
                table = pd.DataFrame({"step": range(1, 9), "loss": [8 / step for step in range(1, 9)]})
            else:
                x = {"share": [1.0, 10.0, 100.0]} if options["x"] == "share" else {"cohort": ["B", "A"]}
                rows = [pd.DataFrame(x).assign(method=name, auroc=0.6, low=0.5, high=0.7) for name in METHODS]
                table = pd.concat(rows)
            table.to_csv(folder / file, index=False)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots") / "tree"
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"plots": PLOTS}, sort_keys=False))
    tables(folder)
    said = call(folder, sys.executable, "-m", "dvc", "plots", "show")
    path = folder / "results/plots/index.html"
    assert path.as_uri() in said
    return path


def test_every_encoder_of_twelve_leads_has_its_curve():
    (drawn,) = (options["y"] for plot in PLOTS for name, options in plot.items() if name == "training curves")
    assert sorted(drawn) == sorted(f"results/pretrain/{name}/history.csv" for name in PRETRAINED)
    assert set(drawn.values()) == {"loss"}


def test_the_page_holds_every_plot_with_its_data_and_asks_no_network_for_anything(page):
    text = page.read_text()
    assert not re.findall(r'(?:src|href)\s*=\s*"', text) and "jsdelivr" not in text
    specs = [json.loads(spec) for spec in re.findall(r"var spec = (\{.*\});", text)]
    assert sorted(spec["title"] for spec in specs) == sorted(name for plot in PLOTS for name in plot)
    for spec in specs:
        rows = spec["data"]["values"]
        curves = "facet" in spec["encoding"]
        assert len(rows) == (8 * len(PRETRAINED) if curves else 9 if spec["encoding"]["x"]["field"] == "share" else 6)
        assert curves or {row["method"] for row in rows} == set(METHODS) and all("low" in row for row in rows)


def test_a_browser_draws_a_line_and_its_marks_for_each_method(page):
    browser = pytest.importorskip("browser", reason="playwright is not installed")
    if not browser.CHROMIUM:
        pytest.skip("no Chromium here")
    words = [browser.CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent}/profile"]
    done = subprocess.run([*words, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    drawn = done.stdout.partition("<body>")[2]
    assert drawn.count("<h2>") == len(PLOTS) and "nothing to draw" not in drawn
    assert drawn.count("<svg") == 4 + len(PRETRAINED) and drawn.count("<circle") == 2 * 9 + 2 * 6 and "NaN" not in drawn
    assert drawn.count('class="series"') == 4 * 3 + len(PRETRAINED)
    hospitals = re.findall(r'text-anchor="middle">([AB])<', drawn)
    assert hospitals == ["B", "A"] * 2, "in the order of the table, where the first is at home"
    assert len(re.findall(r"<title>byol, linear, 10: 0.6 \(0.5 to 0.7\)</title>", drawn)) == 2
