"""The report notebook on a small study: what it writes, what it shows, and that every link on it is alive."""

import itertools
import json
import re
from pathlib import Path
from urllib.parse import unquote

import IPython.display
import numpy as np
import pandas as pd
import pytest
from IPython.display import Markdown
from test_tables import SKILL, place

from ecglib import EcgError
from ecglib.evaluation.predictions import of_task
from ecglib.pipeline import notebooks
from ecglib.reporting import answers, tables
from ecglib.reporting import report as report_module
from ecglib.reporting.tables import contract, differences, external

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks/21_report.ipynb"


def study(folder, notes=()):
    """Results as the stages leave them, small; notes: {encoder: what is to be said of it everywhere}."""
    for task, method in itertools.product(("twelve", "single"), SKILL):
        file = folder / f"probe/{task}-{method[0].replace(':', '-')}/predictions.parquet"
        file.parent.mkdir(parents=True)
        rows = pd.concat([place("A", "test", 30), place("A", "val", 20), place("B", "external", 25)])
        rows = rows[rows["encoder"] == method[0]]
        (rows.assign(note=dict(notes)[method[0]]) if method[0] in dict(notes) else rows).to_parquet(file)
        file.with_name("03_linear_probing.html").write_text("x")
    np.save(folder / "probe/twelve-supervised/features.npy", np.random.default_rng(0).normal(size=(9, 4)))
    labels = pd.DataFrame({"record_id": range(9), "label": ["AFIB", "", "NORM"] * 3})
    labels.to_csv(folder / "probe/twelve-supervised/features.csv", index=False)
    (folder / "figures").mkdir()
    predictions = {task: of_task(folder / "probe", task) for task in ("twelve", "single")}
    for name, table in {
        "scores": lambda p: tables.scores(p[p.split != "val"], n=30),
        "differences": lambda p: differences(p[p.split != "val"], n=30),
        "transfer": lambda p: external(p, names=("auroc",), n=30),
        "contract": contract,
    }.items():
        rows = pd.concat([table(p).assign(task=task) for task, p in predictions.items()])
        rows.to_csv(folder / f"figures/{name}.csv", index=False)
    counts = dict.fromkeys(("packed", "patients", "rows", "rows_with_missing_lead", "rows_with_gap"), 3)
    counts |= {"records": 5, "rejected": 2, "rejected_by_reason": {"zero length": 2}}
    for name, words in {
        "cohorts/A/cohort.json": json.dumps({"counts": counts}),
        "figures/leaders.json": json.dumps({task: ["supervised"] for task in predictions}),
        "figures/forest.png": "x",
        "figures/forest.pdf": "x",
        "figures/captions.json": json.dumps({"forest": "Inside against outside."}),
        "explore/ecg AFIB.png": "x",
        "pretrain/twelve-clef/history.csv": "step,loss\n1,2.0\n2,1.0\n",
        "real/figures/other.png": "x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(words)
    return folder


@pytest.fixture
def report(monkeypatch):
    """A function that runs the cells of the notebook and returns what it shows as one Markdown text."""

    def run(results, out) -> str:
        shown, cells = [], json.loads(NOTEBOOK.read_text())["cells"]
        keep = lambda *objects: shown.extend(o.data for o in objects if isinstance(o, Markdown))  # noqa: E731
        monkeypatch.setattr(IPython.display, "display", keep)
        names = {}
        for cell in cells:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
            if cell["metadata"].get("tags") == ["parameters"]:
                names |= {"results": str(results), "out_dir": str(out)}
        return "\n\n".join(shown)

    return run


def links(text):
    found = [link or image for link, image in re.findall(r'\]\(([^)]+)\)|(?:src|href)="([^"]+)"', text)]
    return [link for link in found if link != "../provenance.html"]  # it changes from run to run: no stage writes it


def test_the_report_shows_the_study_and_every_link_is_alive(tmp_path, report):
    results = study(tmp_path / "results")
    out = results / "report"
    text = report(results, out)
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    drawn = {f"{name}.{kind}" for name in ("training_curves", "embedding_twelve-supervised") for kind in ("png", "pdf")}
    assert set(files) == {"results.csv", "differences.csv", "scores.json", "captions.json"} | drawn
    assert report(results, out) == text and files == {file.name: file.read_bytes() for file in out.iterdir()}
    found = links(text)
    assert {"../figures/forest.png", "../figures/forest.pdf", "training_curves.png"} <= set(found)
    assert all((out / unquote(link)).is_file() for link in found) and "../explore/ecg%20AFIB.png" in found
    assert "../probe/single-scratch/03_linear_probing.html" in found and not any("other.png" in link for link in found)
    for words in ("Task twelve", "Task single", "Inside against outside.", "zero length: 2", "| twelve-random |"):
        assert words in text
    assert str(tmp_path) not in text
    for question in ("**Does pretraining pay?**", "**With how many labels?**", "**In the next hospital?**"):
        assert text.count(question) == 2  # once for each task
    for head in ("| 10 % of the training labels ", "| difference at 10 % of the labels ", "| in B "):
        assert head in text


def test_tables_and_scores_hold_the_same_numbers(tmp_path, report):
    results = study(tmp_path / "results")
    report(results, tmp_path / "report")
    tidy = pd.read_csv(tmp_path / "report/results.csv")
    assert set(tidy["task"]) == {"twelve", "single"} and set(tidy["split"]) == {"test", "external"}
    row = tidy.query("task == 'single' and cohort == 'B' and encoder == 'random' and fraction == 0.1")
    row = row.query("metric == 'auroc' and label == 'macro'").iloc[0]
    tree = json.loads((tmp_path / "report/scores.json").read_text())
    leaders = json.loads((results / "figures/leaders.json").read_text())
    assert set(tree) == {"twelve", "single"} and sum(map(len, tree.values())) <= 10
    assert set(tree["single"]) <= {"random", "features", "scratch", "leader", "leader in B"}
    columns = [f"{task}.{name}" for task, numbers in tree.items() for name in numbers if "leader" in name]
    columns += ["objectives.clef.lr", "Experiment"]
    assert sum(len(name) + 3 for name in columns) <= 120  # `make compare`, where one number moved every leader
    at_home = tidy.query("metric == 'auroc' and label == 'macro' and split == 'test' and fraction == 0.1")
    for task, numbers in tree.items():
        expected = at_home[at_home.task == task].set_index("encoder").point
        names = {"leader": leaders[task][0]}
        for name in ("random", "scratch", "leader"):
            assert numbers[name] == round(expected[names.get(name, name)], 4)
    away = tidy.query("task == 'single' and cohort == 'B' and fraction == 1 and metric == 'auroc' and label == 'macro'")
    best = away[away.encoder == leaders["single"][0]].point.iloc[0]
    assert tree["single"]["leader in B"] == round(best, 4) and row["low"] <= row["point"] <= row["high"]
    with pytest.raises(EcgError, match="no such table"):
        report(tmp_path, tmp_path / "out")


def test_the_page_shows_labels_of_methods_that_had_all_or_none_and_the_file_has_every_row(tmp_path):
    scores = pd.read_csv(study(tmp_path / "results") / "figures/scores.csv")
    scores = pd.concat([scores, scores[scores.fraction == 1].assign(encoder="words", fraction=0.0)])
    shown = report_module.of_labels(scores)
    assert not shown.label.str.startswith("macro").any() and set(shown.metric) == {"auroc"}
    assert set(shown.fraction) == {0, 1} and set(shown.split) == {"test", "external"}
    assert set(shown.label) == set(scores.label[~scores.label.str.startswith("macro")])


def test_a_long_table_is_cut_so_that_four_of_them_fit_into_a_page():
    line = {name: "reconstruct" for name in "abcde"} | {name: 0.123 for name in "fghijklm"}
    long = pd.DataFrame([line] * (report_module.MOST + 1))
    cut = report_module.numbers(long, "scores")
    assert f"<p>The first {report_module.MOST} of {len(long)} rows: the file has all.</p>" in cut
    whole = report_module.numbers(long.head(report_module.MOST), "scores")
    assert cut.endswith(whole) and "the file has all" not in whole
    library = 1_100_000  # bytes of what sorts and searches, and of the rest of the page
    assert 4 * len(whole) + library < notebooks.LARGEST


def test_who_has_seen_a_corpus_is_marked_and_dummy_weights_are_not_there(tmp_path, monkeypatch, report):
    for encoder in ("zoo:merl", "zoo:dummy"):
        monkeypatch.setitem(SKILL, (encoder, "linear"), 2.0)
    results, notes = tmp_path / "results", {"zoo:merl": "seen", "zoo:dummy": "dummy"}
    text = report(study(results, notes), tmp_path / "report")
    scores = json.loads((tmp_path / "report/scores.json").read_text())
    shown = text.split("###", 1)[1].split("| task and method ")[0]  # but for the names of notebooks
    assert "zoo:dummy" not in shown
    assert "dummy" not in json.dumps(scores)
    written = [pd.read_csv(file, keep_default_na=False) for file in (tmp_path / "report").glob("*.csv")]
    assert len(written) == 2 and not any("zoo:dummy" in set(table["encoder"]) for table in written)
    assert all(set(t.loc[t["encoder"] == "zoo:merl", "note"]) == {"seen"} for t in written)


def answered(point, low, high, p=0.01, drop=-0.05):
    """Tables of three encoders and scratch at two shares, whose differences to scratch are given for the second one."""
    same = {"task": "t", "metric": "auroc", "mode": "linear", "label": "macro"}
    home = same | {"cohort": "A", "split": "test"}
    scores, gaps, names = [], [], ["supervised", "clef", "melp"]
    for fraction in (0.1, 1.0):
        for encoder in (*names, "scratch"):
            scores.append(home | {"encoder": encoder, "fraction": fraction, "point": 0.8, "low": 0.7, "high": 0.9})
        for encoder in names:
            here = (point, low, high) if encoder == "supervised" and fraction == 1 else (-0.01, -0.02, 0.01)
            for cohort, split in (("A", "test"), ("B", "external")):
                row = home | {"encoder": encoder, "fraction": fraction, "cohort": cohort, "split": split}
                row |= dict(zip(("point", "low", "high"), here, strict=True)) | {"reference": "scratch", "p_holm": p}
                gaps.append(row)
    transfer = [
        same
        | {"cohort": "B", "encoder": name, "fraction": 1.0, "external": 0.75, "external_low": 0.7}
        | {"external_high": 0.8, "drop": drop, "drop_low": drop - 0.02, "drop_high": drop + 0.02 * (k + 1)}
        for k, name in enumerate([*names, "scratch"])
    ]
    return {"scores": pd.DataFrame(scores), "differences": pd.DataFrame(gaps), "transfer": pd.DataFrame(transfer)}


def test_the_three_sentences_say_what_the_tables_say():
    leaders = {"t": ["supervised"]}
    pays, where, elsewhere = answers.answers(answered(0.1, 0.05, 0.15), leaders, "t")
    assert "Of 3 pretrained, 0 beat training from scratch; of the 1 among them that saw signals alone, 0." in pays
    assert "chose, supervised, has a macro AUROC of 0.800 (0.700 to 0.900) on the test patients" in pays
    assert "10 % of the labels" in pays
    assert "\n    - Against training from scratch: -0.010 (-0.020 to +0.010), no certain difference." in pays
    assert "gains most over training from scratch with 100 % of the labels" in where
    assert "\n    - At 100 %: +0.100 (+0.050 to +0.150), better." in where
    assert "of 3 pretrained 2 fall (interval below zero)" in elsewhere  # the interval of the third reaches zero
    assert "In B: supervised has 0.750 (0.700 to 0.800), a change of -0.050 (-0.070 to -0.030)" in elsewhere
    assert "against training from scratch there +0.100 (+0.050 to +0.150), better" in elsewhere
    _, where, elsewhere = answers.answers(answered(0.1, -0.05, 0.2, drop=0.0), leaders, "t")
    assert "With no share of the labels is a gain of supervised" in where and "0 fall" in elsewhere
    _, where, _ = answers.answers(answered(-0.1, -0.15, -0.05), leaders, "t")
    assert "At 100 %: -0.100 (-0.150 to -0.050), worse." in where
    _, where, _ = answers.answers(answered(0.1, 0.05, 0.15, p=0.2), leaders, "t")  # adjusted for their number
    assert "+0.100 (+0.050 to +0.150), no certain difference." in where and "With no share" in where


def test_won_is_what_is_above_with_an_adjusted_p_below_a_twentieth():
    for p, won in ((0.01, 1), (0.2, 0)):
        tables = answered(0.1, 0.05, 0.15)
        gaps = tables["differences"]
        best = (gaps.encoder == "clef") & (gaps.fraction == 0.1)
        gaps.loc[best, ["point", "p_holm"]] = [0.05, p]
        gaps.loc[~best, "p_holm"] = 0.001  # all others are below scratch, and surely so
        (pays, *_) = answers.answers(tables, {"t": ["supervised"]}, "t")
        assert f"{won} beat training from scratch; of the 1 among them that saw signals alone, {won}." in pays


def test_the_leader_is_read_in_the_mode_that_made_it_the_leader():
    """Fine-tuned rows stand before the linear ones in every table, with scores of their own."""
    tables = answered(0.1, 0.05, 0.15)
    for name in ("scores", "differences", "transfer"):
        tuned = tables[name][tables[name].encoder == "supervised"].assign(mode="finetune")
        for column in ("point", "external", "drop", "low", "drop_high"):
            tuned = tuned.assign(**{column: 0.123}) if column in tuned else tuned
        tables[name] = pd.concat([tuned, tables[name]], ignore_index=True)
    mixed = answers.answers(tables, {"t": ["supervised"]}, "t")
    assert "0.123" not in "".join(mixed) and "0.750 (0.700 to 0.800)" in mixed[2]
    assert mixed[1] == answers.answers(answered(0.1, 0.05, 0.15), {"t": ["supervised"]}, "t")[1]
    assert report_module.headlines(tables["scores"], {"t": ["supervised"]})["t"]["leader"] == 0.8


def test_a_baseline_is_no_pretrained_encoder_that_answers():
    (only,) = answers.answers(answered(0.1, 0.05, 0.15), {"t": ["scratch"]}, "t")
    assert "No pretrained encoder can answer here" in only


def test_what_was_not_run_is_said():
    tables = answered(0.1, 0.05, 0.15)
    tables["transfer"] = tables["transfer"].iloc[:0]
    tables["differences"] = tables["differences"].assign(reference="random")
    _, where, elsewhere = answers.answers(tables, {"t": ["supervised"]}, "t")
    assert "was not run" in where and "no other hospital" in elsewhere
    tables["differences"] = tables["differences"].assign(encoder="features")
    assert answers.answers(tables, {"t": ["features"]}, "t") == [
        "No pretrained encoder was probed here: only baselines are compared."
    ]
