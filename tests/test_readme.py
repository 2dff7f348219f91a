"""The README says what the results say."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecglib import readme
from ecglib.signals import EcgError

ROOT = Path(__file__).resolve().parents[1]


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
    changed = readme.update(folder / "results", folder)
    text = (folder / "README.md").read_text()
    assert changed == [folder / "README.md"]
    assert text.startswith("a\n<!-- simulated-twelve -->\n| method |") and text.endswith("<!-- end -->\nz\n")
    lines = [line for line in text.splitlines() if line.startswith("| ") and "0.750 (0.500 to 0.900)" in line]
    assert lines[0].startswith("| random encoder") and len(lines) == 3  # of the others the best on validation
    assert {line.split("**")[1] for line in lines[1:]} == {"supervised", "mae"}
    assert "A, 40 test records of 30 patients, 3 labels" in text
    assert readme.update(folder / "results", folder) == []


def test_docs_hold_every_method(folder):
    page = folder / "docs/results.md"
    page.write_text("<!-- whole-twelve -->\n<!-- end -->\n")
    rows = pd.read_csv(folder / "results/figures/scores.csv")
    gaps = rows[rows.encoder != "random"].assign(reference="random", p_holm=0.01, metric="auroc")
    gaps.to_csv(folder / "results/figures/differences.csv", index=False)
    ends = {f"{side}{end}": 0.5 for side in ("internal", "external", "drop") for end in ("", "_low", "_high")}
    away = rows[rows.cohort == "B"].assign(n_records_external=7, **ends)
    pd.concat([away, away.assign(label="NORM")]).to_csv(folder / "results/figures/transfer.csv", index=False)
    readme.update(folder / "results", folder)
    assert {name for name in ("clef", "mae", "supervised") if f"**{name}**" in page.read_text()} == {
        "clef", "mae", "supervised"}  # fmt: skip


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
    table = readme.efficiency(results, "twelve", whole=True)
    assert "| **zoo:merl †**, linear probe |" in table and "| **zoo:ecgfm ‡**, linear probe |" in table
    assert "| **zoo:ecgfounder**, head |" in table and table.split("\n\n")[-1].startswith(f"{seen}; ‡ not known")
    table = readme.gains(results, "twelve", whole=True)
    assert "| A | **zoo:merl †**," in table and "| B | **zoo:merl**," in table and "| B | **zoo:ecgfm †**," in table
    assert table.split("\n\n")[-1].startswith(seen)
    table = readme.transfer(results, "twelve", whole=True)
    assert "**zoo:merl †**" in table and "† pretrained on recordings of the corpus at home" in table
    assert "B is not external to **zoo:ecgfm**, linear probe: pretrained on its recordings" in table
    for function in (readme.efficiency, readme.gains, readme.transfer):  # in the README only what leads, with labels
        short = function(results, "twelve")
        assert "**zoo:ecgfounder**, linear probe" in short and not {"†", "‡", "head"} & set(short.split())


def test_a_block_without_results_stays_and_an_unknown_one_is_named(folder):
    page = folder / "docs/x.md"
    page.write_text("<!-- real-ptbxl -->\nkept\n<!-- end -->\n")
    readme.update(folder / "results", folder)
    assert "kept" in page.read_text()
    page.write_text("<!-- nonsense -->\n<!-- end -->\n")
    with pytest.raises(EcgError, match="nonsense"):
        readme.update(folder / "results", folder)


def test_the_committed_readme_says_what_the_results_say(tmp_path):
    if not (ROOT / "results/figures/scores.csv").is_file():
        pytest.skip("no results here: `make repro` first")
    dvc = [str(Path(sys.executable).with_name("dvc")), "status", "--quiet", "figures"]
    if subprocess.run(dvc, cwd=ROOT, capture_output=True).returncode:
        pytest.skip("the results here are not those of dvc.lock")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    assert readme.update(ROOT / "results", tmp_path) == []


def test_every_room_and_every_link_is_there():
    rooms = (ROOT / "docs/library.md").read_text()
    names = {p.stem for p in (ROOT / "ecglib").glob("*.py")} | {
        f"{p.parent.name}/" for p in ROOT.glob("ecglib/*/__init__.py")
    }
    assert [name for name in sorted(names - {"__init__"}) if f"`{name}`" not in rooms] == []
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
