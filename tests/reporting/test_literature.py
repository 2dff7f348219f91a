"""The table of the literature: numbers come from tables of the study, and a query names one row."""

import ast

import pandas as pd
import pytest
import yaml

from ecglib import EcgError
from ecglib.data.labels import PTBXL_SUPER
from ecglib.pipeline.stages import ROOT
from ecglib.reporting import literature
from ecglib.reporting import published as numbers_of

ROW = dict.fromkeys(literature.COLUMNS, "") | {"work": "CLEF", "source": "arXiv 2512.02180", "question": "risk?"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "figures").mkdir()
    rows = [
        ("test", "auroc", "macro", 1.0, "clef", 0.81234, 0.8, 0.83),
        ("test", "auroc", "macro", 0.1, "clef", 0.7, 0.6, 0.75),
        ("test", "auroc", "macro", 1.0, "random", 0.70111, 0.69, 0.72),
        ("val", "auroc", "macro", 1.0, "clef", 0.9, 0.8, 0.95),
    ]
    columns = ["split", "metric", "label", "fraction", "encoder", "point", "low", "high"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "figures/scores.csv", index=False)
    pd.DataFrame({"model": ["rr", "floor"], "mae": [1.25, 2.5]}).to_csv(tmp_path / "burden.csv", index=False)
    return tmp_path


def works(folder, *rows) -> pd.DataFrame:
    pd.DataFrame([ROW | row for row in rows]).to_csv(folder / "works.csv", index=False)
    return literature.read(folder / "works.csv")


def test_a_work_has_its_number_and_its_baseline_from_the_tables(folder):
    scored = {"ours": "`clef`", "measure": "macro AUROC", "table": "figures/scores.csv", "row": "encoder == 'clef'"}
    scored |= {"baseline": "untrained: encoder == 'random'", "published": ".9", "test_set": "PTB-XL, 50 records"}
    scored |= {"remark": "small"}
    burden = {"ours": "RR", "measure": "error", "table": "burden.csv", "row": "model == 'rr'", "values": "mae"}
    text = literature.markdown(works(folder, scored, burden | {"remark": "days"}), folder)
    assert "`clef`: macro AUROC 0.812 (0.800 to 0.830)" in text
    assert "untrained: 0.701 (0.690 to 0.720)" in text
    assert "RR: error 1.250" in text
    first = text.splitlines()[2]
    assert [cell.strip() for cell in first.split("|")[5:8]] == [".9", "PTB-XL, 50 records", "small"]


def test_a_work_without_a_row_says_why(folder):
    text = literature.markdown(works(folder, {"remark": "out of scope: questions about EEG"}), folder)
    assert "no row" in text and "out of scope" in text
    with pytest.raises(EcgError, match="remark is empty"):
        works(folder, {})


@pytest.mark.parametrize("published", [".894, linear", "+2 %", "above .90"])
def test_a_published_number_without_its_test_set_is_refused(folder, published):
    with pytest.raises(EcgError, match="line 2, CLEF: test_set is empty"):
        works(folder, {"remark": "x", "published": published})
    works(folder, {"remark": "x", "published": "no number at hand"})
    works(folder, {"remark": "x", "published": published, "test_set": "PTB-XL; records not stated"})


SYSTEMS = {"ECG-JEPA (Kim)": "ECG-JEPA", "PTB-XL benchmark": "xresnet1d101"}  # work -> as docs/published.csv names it


def test_the_committed_works_say_of_a_number_what_the_table_of_published_numbers_says():
    committed, numbers = literature.read(ROOT / "docs/literature.csv"), numbers_of.read(ROOT / "docs/published.csv")
    compared = 0
    for work in committed.itertuples():
        named = [name for name in PTBXL_SUPER if name in work.test_set]
        for name in named:  # a label set with its version and its records
            assert f"PTB-XL {PTBXL_SUPER[name][0]}, `{name}`, 2,{name[-3:]} records" in work.test_set
        if "PTB-XL" in work.test_set and not named:
            assert "not stated" in work.test_set
        rows = numbers[numbers.system == SYSTEMS.get(work.work, work.work)]
        rows = rows[rows.label_set.isin(PTBXL_SUPER) & (rows.how != "zero-shot")]
        if len(rows):
            row = rows[rows.label_set.isin(named)].iloc[0]  # of a model with numbers on two sets, the one that is named
            score, low, high = (f"{value:.3f}".lstrip("0") for value in (row.score, row.low, row.high))
            assert work.published.startswith(f"{score} ({low} to {high})"), work.work
            compared += 1
    assert compared >= 6
    assert not committed.published.str.contains("records").any()


def test_a_query_that_names_no_row_or_several_is_refused(folder):
    for row, count in (("encoder == 'mae'", 0), ("encoder != 'mae'", 2)):
        chosen = works(folder, {"table": "figures/scores.csv", "row": row, "ours": "x", "remark": "y"})
        with pytest.raises(EcgError, match=f"gives {count} rows"):
            literature.markdown(chosen, folder)


def test_a_work_whose_table_was_not_computed_says_what_computes_it(folder):
    scored = {"ours": "x", "table": "figures/scores.csv", "row": "encoder == 'clef'", "remark": "small"}
    other = {"ours": "beats", "measure": "accuracy", "row": "a == 1", "baseline": "floor: a == 2", "remark": "other"}
    rows = [scored, *(other | {"table": table} for table in ("real/beats.csv", "beats.csv"))]
    first, real, simulated = literature.markdown(works(folder, *rows), folder).splitlines()[2:]
    assert "0.812" in first and "accuracy (run `make real`)" in real and "accuracy (run `make repro`)" in simulated
    assert "floor" not in real


def test_every_table_of_the_works_is_written_by_a_notebook_and_every_query_can_be_read():
    chosen = literature.read(ROOT / "docs/literature.csv")
    assert chosen.work.is_unique and len(chosen) >= 38
    texts = [path.read_text() for path in (ROOT / "notebooks").glob("*.ipynb")]
    stages = {"real/" * real + out for real in (False, True) for out in outs(real)}
    for work in chosen[chosen.table != ""].itertuples():
        folder, _, name = work.table.rpartition("/")
        assert folder in stages and any(f'"{name}' in text.replace("\\", "") for text in texts), work.table
        assert work.ours and work.measure and ": " in work.baseline, work.work
        for query in (work.row, work.baseline.rpartition(": ")[2]):
            ast.parse(query.replace("`class`", "name"), mode="eval")
        assert len((work.values or literature.VALUES).split()) == 3


def outs(real: bool) -> set[str]:
    """Folders below results/, or results/real/, that the stages of a study write."""
    file = ROOT / ("real/dvc.yaml" if real else "dvc.yaml")
    stages = yaml.safe_load(file.read_text())["stages"].values()
    paths = [out for stage in stages for out in stage.get("do", stage)["outs"] if isinstance(out, str)]
    return {path.removeprefix("results/real/" if real else "results/") for path in paths}


def test_a_table_that_was_not_computed_leaves_the_page_as_it_is(folder):
    missing = works(folder, {"table": "real/figures/scores.csv", "row": "encoder == 'clef'", "remark": "y"})
    assert literature.markdown(missing, folder) is None


def test_a_work_keeps_its_numbers_where_its_table_is_not_there_and_the_others_get_new_ones(folder):
    scored = {"ours": "x", "measure": "AUROC", "table": "figures/scores.csv", "row": "encoder == 'clef'", "remark": "a"}
    scored |= {"baseline": "untrained: encoder == 'random'"}
    real = scored | {"work": "beats", "table": "real/beats.csv", "row": "m == 1", "baseline": "floor: m == 2"}
    real |= {"measure": "accuracy"}
    (folder / "real").mkdir()
    columns = {"m": [1, 2], "point": [0.9912, 0.5], "low": [0.9, 0.4], "high": [1.0, 0.6]}
    pd.DataFrame(columns).to_csv(folder / "real/beats.csv", index=False)
    before = literature.markdown(works(folder, scored, real), folder)
    (folder / "real/beats.csv").unlink()
    scores = pd.read_csv(folder / "figures/scores.csv").replace(0.81234, 0.822)
    scores.to_csv(folder / "figures/scores.csv", index=False)
    first, second = literature.markdown(works(folder, scored, real | {"remark": "new"}), folder, before).splitlines()[
        2:
    ]
    assert "AUROC 0.822" in first and "untrained: 0.701" in first
    assert "accuracy 0.991 (0.900 to 1.000)" in second and "floor: 0.500 (0.400 to 0.600)" in second and "new" in second
