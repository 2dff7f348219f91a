"""The README says what the results say."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.reporting import site

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    """A README with one block, and scores of two methods."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("a\n<!-- simulated-twelve -->\nold\n<!-- end -->\nz\n")
    rows = [
        dict(task="twelve", cohort=cohort, split=split, encoder=encoder, mode=mode, fraction=fraction, metric="auroc")
        | dict(label="macro", point=0.5 + fraction / 4, low=0.5, high=0.9, n_records=40, n_patients=30, n_labels=3)
        for cohort, split in (("A", "test"), ("B", "external"))
        for encoder, mode in (("supervised", "linear"), ("random", "linear"), ("clef", "linear"), ("mae", "linear"))
        for fraction in (0.01, 0.1, 1.0)
    ]
    (tmp_path / "results/figures").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(tmp_path / "results/figures/scores.csv", index=False)
    (tmp_path / "results/figures/leaders.json").write_text('{"twelve": ["mae"]}')
    return tmp_path


def test_a_block_is_filled_and_the_rest_stays(folder):
    changed = site.update(folder / "results", folder)
    text = (folder / "README.md").read_text()
    assert changed == [folder / "README.md"]
    assert text.startswith("a\n<!-- simulated-twelve -->\n| method ") and text.endswith("<!-- end -->\nz\n")
    lines = [line for line in text.splitlines() if line.startswith("| ") and "0.750 (0.500 to 0.900)" in line]
    assert lines[0].startswith("| random encoder") and len(lines) == 3  # of the others the best on validation
    assert {line.split("**")[1] for line in lines[1:]} == {"supervised", "mae"}
    assert "A, 40 test records of 30 patients, 3 labels" in text
    assert site.update(folder / "results", folder) == []


def test_docs_hold_every_method(folder):
    page = folder / "docs/results.md"
    page.write_text("<!-- whole-twelve -->\n<!-- end -->\n")
    rows = pd.read_csv(folder / "results/figures/scores.csv")
    gaps = rows[rows.encoder != "random"].assign(reference="random", p_holm=0.01, metric="auroc")
    gaps.to_csv(folder / "results/figures/differences.csv", index=False)
    ends = {f"{side}{end}": 0.5 for side in ("internal", "external", "drop") for end in ("", "_low", "_high")}
    away = rows[rows.cohort == "B"].assign(n_records_external=7, **ends)
    pd.concat([away, away.assign(label="NORM")]).to_csv(folder / "results/figures/transfer.csv", index=False)
    site.update(folder / "results", folder)
    assert {name for name in ("clef", "mae", "supervised") if f"**{name}**" in page.read_text()} == {
        "clef",
        "mae",
        "supervised",
    }


def test_marks_stand_in_every_table_with_their_legend_and_what_was_seen_is_not_external(folder):
    file = folder / "results/figures/scores.csv"
    rows = pd.read_csv(file).assign(note="")
    zoo = {"zoo:merl": {"A": "seen"}, "zoo:ecgfm": {"A": "unknown", "B": "seen"}, "zoo:ecgfounder": {}}
    for name, notes in zoo.items():
        more = rows[rows.encoder == "clef"].assign(encoder=name)
        rows = pd.concat([rows, more.assign(note=[notes.get(cohort, "") for cohort in more.cohort])])
    head = rows[rows.encoder == "zoo:ecgfounder"].assign(mode="head", fraction=0.0)
    pd.concat([rows, head]).to_csv(file, index=False)
    gaps = rows[rows.encoder != "random"].assign(reference="random", p_holm=0.01)
    gaps.to_csv(file.with_name("differences.csv"), index=False)
    ends = {f"{side}{end}": 0.5 for side in ("internal", "external", "drop") for end in ("", "_low", "_high")}
    away = rows[(rows.cohort == "B") & (rows.fraction == 1) & (rows.note == "")].assign(n_records_external=7, **ends)
    away["note"] = np.where(away.encoder == "zoo:merl", "seen", "")  # of the corpus at home
    pd.concat([away, away.assign(label="NORM")]).to_csv(file.with_name("transfer.csv"), index=False)
    file.with_name("leaders.json").write_text('{"twelve": ["zoo:ecgfounder"]}')
    results, seen = folder / "results", "† pretrained on recordings of this corpus"
    table = site.efficiency(results, "twelve", whole=True)
    assert "| **zoo:merl †**, linear probe " in table and "| **zoo:ecgfm ‡**, linear probe " in table
    assert "| **zoo:ecgfounder**, head " in table and table.split("\n\n")[-1].startswith(f"{seen}; ‡ not known")
    table = site.gains(results, "twelve", whole=True)
    lines = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()[2:] if "|" in line]
    cells = {(cells[5], cells[1]) for cells in lines}
    rows = {("A", "**zoo:merl †**"), ("B", "**zoo:merl**"), ("B", "**zoo:ecgfm †**")}
    assert {(hospital, f"{name}, linear probe") for hospital, name in rows} < cells
    assert table.split("\n\n")[-1].startswith(seen)
    table = site.transfer(results, "twelve", whole=True)
    assert "**zoo:merl †**" in table and "† pretrained on recordings of the corpus at home" in table
    assert "B is not external to **zoo:ecgfm**, linear probe: pretrained on its recordings" in table
    for function in (site.efficiency, site.gains, site.transfer):  # in the README only what leads, with labels
        short = function(results, "twelve")
        assert "**zoo:ecgfounder**, linear probe" in short and not {"†", "‡", "head"} & set(short.split())


def test_a_block_without_results_stays_and_an_unknown_one_is_named(folder):
    page = folder / "docs/x.md"
    for block in ("real-ptbxl", "whole-cinc2017", "published"):  # a study without `make real` leaves them alone
        page.write_text(f"<!-- {block} -->\nkept\n<!-- end -->\n")
        site.update(folder / "results", folder)
        assert "kept" in page.read_text(), block
    page.write_text("<!-- nonsense -->\n<!-- end -->\n")
    with pytest.raises(EcgError, match="nonsense"):
        site.update(folder / "results", folder)


def test_the_committed_readme_says_what_the_results_say(tmp_path):
    if not (ROOT / "results/figures/scores.csv").is_file():
        pytest.skip("no results here: `make repro` first")
    dvc = [str(Path(sys.executable).with_name("dvc")), "status", "--quiet", "figures"]
    if subprocess.run(dvc, cwd=ROOT, capture_output=True).returncode:
        pytest.skip("the results here are not those of dvc.lock")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    assert site.update(ROOT / "results", tmp_path) == []


def test_every_link_is_there():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_afternoon_in_the_code_is_an_afternoon():
    """The files to read are there, in fewer than 5,600 lines; so are further ones, and a row for every package."""
    text = (ROOT / "docs/library.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    files = [ROOT / name for row in rows for name in re.findall(r"`(ecglib/[\w/]+\.py)`", row)]
    assert len(files) >= 20 and sum(file.read_text().count("\n") for file in files) < 5600
    assert [name for name in re.findall(r"`((?:ecglib|ecgsim)/[\w/]+\.py)`", text) if not (ROOT / name).is_file()] == []
    packages = [f"ecglib.{path.parent.name}" for path in ROOT.glob("ecglib/*/__init__.py")]
    assert [name for name in [*packages, "ecgsim"] if f"| `{name}` |" not in text] == []


def test_the_readme_is_short():
    assert (ROOT / "README.md").read_text().count("\n") <= 120


def test_the_table_of_published_models_is_given_or_stays(folder):
    page = folder / "docs/x.md"
    page.write_text("<!-- zoo -->\nkept\n<!-- end -->\n")
    site.update(folder / "results", folder)
    assert "kept" in page.read_text()
    site.update(folder / "results", folder, lambda: pd.DataFrame({"name": ["merl"], "dim": [0.10]}))
    assert "| merl " in page.read_text() and "kept" not in page.read_text()


def test_out_of_fold_scores_and_what_was_learned_have_their_columns(folder):
    file = folder / "results/figures/scores.csv"
    rows = pd.read_csv(file)
    inside = rows[(rows.split == "test") & (rows.encoder != "random")].assign(split="out_of_fold", n_records=70)
    inside["point"] += 0.01
    rows["trained"] = np.where(rows.encoder == "mae", "no: time 0.92, wanted < 0.8", "")
    pd.concat([rows, inside]).to_csv(file, index=False)
    short, whole = (site.efficiency(folder / "results", "twelve", whole=w).splitlines() for w in (False, True))
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in short[2:5]}
    assert short[0].split("|")[-2].strip() == "10 %, out of fold" and len(cells["**mae**, linear probe"]) == 4
    assert cells["**mae**, linear probe"][3] == "0.535 (0.500 to 0.900)"
    assert cells["random encoder, linear probe"][3] == "-"
    assert "out of fold: the 70 training and validation records of 30 patients" in "".join(short)
    assert whole[0].split("|")[-2].strip() == "trained?" and whole[0].count("out of fold") == 3
    said = next(line for line in whole if "**mae**" in line).split("|")[-2].strip()
    assert said == "no: time 0.92, wanted &#60; 0.8"


def test_the_short_table_asks_of_each_network_what_its_pretraining_brought(folder):
    rows = pd.read_csv(folder / "results/figures/scores.csv").query("encoder in ('mae', 'supervised')")
    gaps = [rows.assign(reference=name, reference_mode="linear", p_holm=0.01) for name in ("random", "scratch")]
    gaps.append(rows[rows.encoder == "mae"].assign(reference="untrained", reference_mode="random:vit1d", p_holm=0.01))
    pd.concat(gaps).to_csv(folder / "results/figures/differences.csv", index=False)
    table = site.gains(folder / "results", "twelve").splitlines()
    lines = [[cell.strip() for cell in line.split("|")[1:3]] for line in table]
    scratch, random = "supervised from scratch", "random encoder, linear probe"
    assert sorted(lines[2:6]) == [
        ["**mae**, linear probe", "random vit1d, linear probe"],
        ["**mae**, linear probe", scratch],
        ["**supervised**, linear probe", random],
        ["**supervised**, linear probe", scratch],
    ]


def test_the_whole_table_says_of_each_encoder_whether_its_pretraining_helps(folder):
    gaps = [
        dict(task="twelve", cohort="A", split=split, encoder=name, mode="linear", fraction=0.1, metric="auroc")
        | dict(reference="untrained", reference_mode="random", point=point, low=low, high=high, p_holm=0.01)
        for split, name, point, low, high in (
            ("test", "mae", 0.02, -0.01, 0.05),
            ("test", "clef", 0.02, -0.01, 0.05),
            ("out_of_fold", "clef", 0.03, 0.01, 0.05),
            ("test", "supervised", -0.04, -0.06, -0.01),
        )
    ]
    pd.DataFrame(gaps).to_csv(folder / "results/figures/differences.csv", index=False)
    lines = site.efficiency(folder / "results", "twelve", whole=True).splitlines()
    said = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in lines[2:6]}
    assert "untrained" in lines[0].split("|")[-2]
    assert said == {
        "random encoder, linear probe": "-",
        "**mae**, linear probe": "does not help here: +0.020 (-0.010 to +0.050)",
        "**clef**, linear probe": "helps: +0.030 (+0.010 to +0.050)",  # out of fold stands on more records
        "**supervised**, linear probe": "harms here: -0.040 (-0.060 to -0.010)",
    }


def test_tasks_of_unlike_kinds_stand_by_score_with_their_unit_and_the_best_that_is_possible(folder):
    page = folder / "docs/x.md"
    page.write_text("<!-- simulated-tasks -->\n<!-- end -->\n<!-- real-tasks -->\nkept\n<!-- end -->\n")
    row = dict(cohort="A", split="test", low=0.1, high=20.0, n=50, n_patients=40, fraction=1.0, mode="linear")
    rows = [
        row | dict(task="age", metric="mae", encoder=encoder, mode=mode, point=point, unit="years", optimal=np.nan)
        for encoder, mode, point in (("supervised", "linear", 11.5), ("multitask", "linear", 10.5))
    ]
    rows += [rows[0] | dict(fraction=0.1, point=15.0)]
    rows += [row | dict(task="ckd", metric="auroc", encoder="multitask", mode="finetune", point=0.7, optimal=0.9)]
    (folder / "results/fine_tuning").mkdir()
    pd.DataFrame(rows).to_csv(folder / "results/fine_tuning/scores.csv", index=False)
    site.update(folder / "results", folder)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines() if "|" in line]
    assert [line[:5] for line in lines[2:]] == [
        ["age", "A", "mean absolute error, years", "multitask, linear head", "10.500 (0.100 to 20.000)"],
        ["age", "A", "mean absolute error, years", "frozen, linear head", "11.500 (0.100 to 20.000)"],
        ["ckd", "A", "AUROC", "multitask, fine-tuned", "0.700 (0.100 to 20.000)"],
    ]
    assert [line[5] for line in lines[2:]] == ["-", "-", "0.900"] and "kept" in page.read_text()
