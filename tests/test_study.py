"""The page: its bytes, its links, its escapes; the whole study on it."""

import itertools
import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from test_report import SKILL, place

from ecglib import report
from ecglib import study as html
from ecglib.signals import EcgError


class Links(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found += [value for name, value in attributes if name in ("src", "href")]


def page(folder):
    for name in ("figures/forest.png", "figures/forest.pdf", "notebooks/03 probing.html"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    frame = pd.DataFrame({"encoder": ["<b>&"], "AUROC": [0.91234], "sd": [np.nan]})
    sections = [
        ("Results", [html.table(frame, "Macro AUROC & more")]),
        ("Figures", [html.figure(folder / "figures/forest.png", "Internal against external")]),
        ("Notebooks", [html.links([("03 linear probing", folder / "notebooks/03 probing.html")])]),
        ("Versions", [html.table(html.versions())]),
    ]
    return html.write_html(folder / "report/index.html", sections, "A question?", "An answer.")


def test_the_page_is_self_contained_escaped_and_the_same_twice(tmp_path):
    out = page(tmp_path)
    first = out.read_bytes()
    assert page(tmp_path).read_bytes() == first and not list(out.parent.glob("*.part"))
    words, found = first.decode(), Links(first.decode())
    assert "../figures/forest.png" in found.found and "../figures/forest.pdf" in found.found
    targets = [link for link in found.found if not link.startswith("#")]
    assert targets and all((out.parent / link).is_file() for link in targets)  # relative and alive
    assert not {"script", "link", "iframe"} & set(found.tags) and "http" not in words and "url(" not in words
    assert "&lt;b&gt;&amp;" in words and "0.912" in words and "prefers-color-scheme: dark" in words
    assert "Macro AUROC &amp; more" in words and str(tmp_path) not in words


def test_the_page_refuses_dead_links(tmp_path):
    for block in (html.figure(tmp_path / "no.png", "x"), html.links([("x", tmp_path / "no.html")])):
        with pytest.raises(EcgError):
            html.write_html(tmp_path / "index.html", [("x", [block])])
    assert not (tmp_path / "index.html").exists()
    with pytest.raises(EcgError, match="DataFrame"):
        html.table([1, 2])


def test_the_legend_of_marks_stands_below_the_table_that_has_them():
    for encoder, below in (
        ("zoo:merl †", '<p class="marks">† pretrained on recordings of this corpus</p>'),
        ("clef", ""),
    ):
        block = html.table(pd.DataFrame({"encoder": [encoder]}), "Scores")(None)
        assert block.endswith(f"</table></div>{below}") and ("†" in block) == bool(below)


def study(folder, notes=()):
    """Results as the stages leave them, small; notes: {encoder: what is to be said of it everywhere}."""
    for task, method in itertools.product(("twelve", "single"), SKILL):
        file = folder / f"probe/{task}-{method[0].replace(':', '-')}/predictions.parquet"
        file.parent.mkdir(parents=True)
        parts = pd.concat([place("A", "test", 30), place("A", "val", 20), place("B", "external", 25)])
        parts = parts[parts["encoder"] == method[0]]
        (parts.assign(note=dict(notes)[method[0]]) if method[0] in dict(notes) else parts).to_parquet(file)
        file.with_name("03_linear_probing.html").write_text("x")
    (folder / "figures").mkdir()
    predictions = {task: report.of_task(folder / "probe", task) for task in ("twelve", "single")}
    for name, table in {
        "scores": lambda p: report.scores(p[p.split != "val"], n=30),
        "differences": lambda p: report.differences(p[p.split != "val"], n=30),
        "transfer": lambda p: report.external(p, names=("auroc",), n=30),
        "contract": report.contract,
    }.items():
        rows = pd.concat([table(p).assign(task=task) for task, p in predictions.items()])
        rows.to_csv(folder / f"figures/{name}.csv", index=False)
    counts = dict.fromkeys(("packed", "patients", "rows", "rows_with_missing_lead", "rows_with_gap"), 3)
    counts |= {"records": 5, "rejected": 2, "rejected_by_reason": {"zero length": 2}}
    for name, words in {
        "cohorts/A/cohort.json": json.dumps({"counts": counts}),
        "figures/forest.png": "x",
        "figures/captions.json": json.dumps({"forest": "Inside against outside."}),
        "real/figures/other.png": "x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(words)
    return folder


def test_who_has_seen_a_corpus_is_marked_on_the_page_and_recipe_weights_are_not_there(tmp_path, monkeypatch):
    for encoder in ("zoo:merl", "zoo:recipe"):
        monkeypatch.setitem(SKILL, (encoder, "linear"), 2.0)
    results, notes = tmp_path / "results", {"zoo:merl": "seen", "zoo:recipe": "recipe"}
    out = html.build(study(results, notes), results / "report")
    words, scores = out.read_text(), json.loads(out.with_name("scores.json").read_text())
    assert "zoo:recipe" not in words and "<td>zoo:merl †</td>" in words
    assert words.count('class="marks"') == 4  # two tables of two tasks
    assert "zoo:merl †, linear" in scores["twelve"]["A/test"] and "recipe" not in json.dumps(scores)
    tables = [pd.read_csv(file, keep_default_na=False) for file in out.parent.glob("*.csv")]
    assert len(tables) == 2 and not any("zoo:recipe" in set(table["encoder"]) for table in tables)
    assert all(set(t.loc[t["encoder"] == "zoo:merl", "note"]) == {"seen"} for t in tables)


def test_the_study_becomes_a_page_tables_and_scores(tmp_path):
    results = study(tmp_path / "results")
    out = html.build(results, results / "report")
    files = {file.name: file.read_bytes() for file in out.parent.iterdir()}
    assert set(files) == {"index.html", "results.csv", "differences.csv", "scores.json"}
    html.build(results, results / "report")
    assert files == {file.name: file.read_bytes() for file in out.parent.iterdir()}
    words, found = files["index.html"].decode(), Links(files["index.html"].decode())
    for shown in ("task twelve", "task single", "Inside against outside.", "zero length: 2", "probe / twelve-random"):
        assert shown in words
    heads = ("AUROC - random", "AUROC - features", "AUROC - at home")
    assert all(f"<th>{head}</th>" in words for head in heads)
    assert "other.png" not in words and "../probe/single-scratch/03_linear_probing.html" in found.found
    tidy = pd.read_csv(out.parent / "results.csv")
    assert set(tidy["task"]) == {"twelve", "single"} and set(tidy["split"]) == {"test", "external"}
    row = tidy.query("task == 'single' and cohort == 'B' and encoder == 'random' and fraction == 0.1")
    row = row.query("metric == 'auroc' and label == 'macro'").iloc[0]
    score = json.loads(files["scores.json"])["single"]["B/external"]["random, linear"]["10 %"]["auroc"]
    assert [score[end] for end in ("point", "low", "high")] == [row["point"], row["low"], row["high"]]
    with pytest.raises(EcgError, match="no such table"):
        html.build(tmp_path, tmp_path / "out")
