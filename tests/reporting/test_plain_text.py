"""Names of records, labels, patients and reports are text wherever they are shown: no formula, no tag, no link."""

import json
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_figures import ecg, score_table

from ecglib.pipeline import notebooks, publish
from ecglib.reporting import cohort_figures, ecg_paper, figures, model_figures, one_ecg, report, site, style
from ecglib.zoo import kept


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


FORMULAS = ["$x^", "$x^$", "$$", "a$b$c", r"$\frac{$", "5 $", r"\$1", "$\n$"]


def shown(figure) -> list[str]:
    """Every text of a drawn figure as matplotlib shows it, after what it would take for a formula."""
    figure.canvas.draw()
    texts = [text for text in figure.findobj(plt.Text) if text.get_text()]
    pairs = [text._preprocess_math(text.get_text()) for text in texts]
    assert not any(is_math for _, is_math in pairs)
    return [words for words, _ in pairs]


@pytest.mark.parametrize("name", FORMULAS, ids=repr)
def test_a_name_is_no_formula_in_any_figure(name):
    scores = score_table().replace({"encoder": {"supervised": name}})
    x, fs = np.sin(np.arange(2000) / 30), 500.0
    external = {"label": [name, "NORM"], "internal": [0.9, 0.8], "external": [0.8, 0.7], "metric": "auroc"}
    external |= {f"{side}_{end}": at for side in ("internal", "external") for end, at in (("low", 0.6), ("high", 0.95))}
    external |= {"n_positives_internal": 3, "n_positives_external": 4, "cohort": name, "encoder": name}
    curve = {"bin": [0, 1], "probability": [0.2, 0.7], "frequency": [0.3, 0.6], "low": 0.1, "high": 0.9, "label": name}
    curve |= {"cohort": "A", "split": "test", "fraction": 1.0, "encoder": name, "mode": "linear"}
    history = pd.DataFrame({"step": range(9), "loss": np.linspace(2, 1, 9)})
    states = pd.DataFrame({name: [1, 0, 1], "NORM": [0, 1, 0]})
    z = np.random.default_rng(0).normal(size=(9, 4))
    drawn = {
        "comparison": figures.comparison(scores),
        "efficiency": figures.label_efficiency(scores.assign(label=name), label=name).figure,
        "forest": figures.forest(pd.DataFrame(external | {"mode": "linear", "fraction": 1.0})).figure,
        "calibration": figures.calibration(pd.DataFrame(curve)),
        "training": figures.training_panels({name: history}),
        "map": figures.embedding_map(z, [name, "", "NORM"] * 3).figure,
        "maps": figures.embedding_maps({name: z}, [name, "", "NORM"] * 3),
        "prevalence": cohort_figures.prevalence({name: states}).figure,
        "paper": ecg_paper.ecg_paper(ecg(2), 100, (name, "II"), title=name).figure,
        "profiles": model_figures.profiles((x, fs), {name: (x, fs, "II", name)}),
        "probes": model_figures.probes(pd.DataFrame({"model": [name], "auroc": 0.7, "low": 0.6, "high": 0.8})),
    }
    for kind, figure in drawn.items():
        assert any(name in words for words in shown(figure)), kind


class Tags(HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[a](javascript:alert(1))",
    "![a](https://example.org/seen.png)",
    "a | b",
    "a\n\n# b",
    "a `b` & c",
    "</td></table><b>x",
    '" onload="alert(1)',
    "MI > 30 % & QRS < 120 ms",
]


def page(*markdown, table=None) -> Tags:
    """The page of a notebook that displays these texts as Markdown, and a table as pandas shows it."""
    data = [{"text/markdown": text} for text in markdown]
    data += [] if table is None else [{"text/html": table.to_html(), "text/plain": str(table)}]
    outputs = [{"output_type": "display_data", "data": each, "metadata": {}} for each in data]
    outputs += [{"output_type": "stream", "name": "stdout", "text": markdown[0]}] if table is not None else []
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "x", "execution_count": 1, "outputs": outputs}
    notebook = {"cells": [cell], "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}}}
    return Tags(notebooks.page(notebook | {"nbformat": 4, "nbformat_minor": 5}))


def harmless(found: Tags, allowed_images=0):
    assert not {"script", "b", "iframe"} & {tag for tag, _ in found.tags}
    attributes = [attribute for _, attributes in found.tags for attribute in attributes]
    assert not [name for name in attributes if name.startswith("on")]
    assert sum(tag == "img" for tag, _ in found.tags) == allowed_images
    assert not [a for tag, a in found.tags if tag == "a" and (a.get("href") or "").startswith("javascript")]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_name_is_text_on_every_page(tmp_path, name):
    table = pd.DataFrame({"label": [name, "NORM"], name: [1, 2], "n": [0.5, 0.25]})
    one_line = " ".join(name.split())
    found = page(site.markdown_table(table))
    harmless(found)
    cells = [tag for tag, _ in found.tags if tag in ("td", "th")]
    assert len(cells) == 9 and found.text.count(one_line) == 2
    found = page(name, table=table)  # what is printed and how pandas shows it: the stream holds the name too
    assert sum(tag == "table" for tag, _ in found.tags) == 1
    for file in ("forest.png", "forest.pdf"):
        (tmp_path / file).write_bytes(b"x")
    (tmp_path / "captions.json").write_text(json.dumps({"forest": name}))
    found = page(report.gallery([tmp_path / "forest.png"], tmp_path))
    harmless(found, allowed_images=1)
    (image,) = [attributes for tag, attributes in found.tags if tag == "img"]
    assert image["alt"] == one_line and image["src"] == "forest.png" and one_line in found.text


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_label_is_text_on_a_model_card(name):
    rows = [dict(label=name, statistic="auroc", value=0.8, low=0.7, high=0.9, positives=12, negatives=30)]
    label = dict(name=name, threshold=0.5, slope=None, intercept=None, train_positives=3, val_positives=2)
    on = dict(cohort=name, corpus=None, fs_recorded=[100], devices=[name], splits={})
    signal = dict(fs=100, seconds=10, windows="first", leads=["I"], profile=None)
    info = dict(encoder=dict(in_words="Ours.", licence=""), signal=signal, fitted_on=on, labels=[label], rule="f1")
    info |= dict(
        kind="statements", name=name, how_in_words="Fitted.", notes=[f"no threshold: {name}"], metrics={"test": rows}
    )
    card = kept.card(info).split("---\n", 2)[2]
    found = page(card)
    harmless(found)
    assert sum(tag == "table" for tag, _ in found.tags) == 2 and found.text.count(" ".join(name.split())) == 7
    cells = [tag for tag, _ in found.tags if tag in ("td", "th")]
    assert len(cells) == 2 * 3 + 2 * 5


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_parameter_is_text_on_the_page_of_provenance(tmp_path, name):
    found, ordinary = (Tags(provenance(tmp_path / part, text)) for part, text in (("hostile", name), ("plain", "MI")))
    harmless(found)
    tags = [
        tag for tag, attributes in found.tags if not (attributes.get("href") or "").startswith("https://example.org/")
    ]
    assert tags == [tag for tag, _ in ordinary.tags]  # an address becomes a link to what it says
    assert " ".join(f"pack.{name}".split()) in found.text and "".join(name.split()) in found.text
    assert "[1, 2]" in found.text and "[1, 2]" in ordinary.text


def provenance(root, name) -> str:
    """The page of a study whose parameters and folders are named so."""
    results, logs = root / "studies/my/results", root / publish.LOGS
    for folder in (results, logs):
        folder.mkdir(parents=True)
    (results.parent / "params.yaml").write_text(json.dumps({"pack": {"labels": [name], name: 3, "fs": [1, 2]}}))
    done = f"[03_linear_probing] done in 90 s: studies/my/results/{''.join(name.split())}\n"
    (logs / "a.log").write_text(done)
    return publish.provenance(root, results).read_text()


def test_a_page_of_a_folder_with_a_hostile_name_links_to_it(tmp_path):
    for stage, links in (("external", report.notebook_links), ("probe", report.methods)):
        folder = tmp_path / stage / "<b>[a](javascript:x)`|"
        folder.mkdir(parents=True)
        (folder / "03.html").write_text("x")
        found = page(links(tmp_path, tmp_path))
        harmless(found)
        (link,) = [attributes["href"] for tag, attributes in found.tags if tag == "a"]
        assert link.startswith(f"{stage}/%3Cb%3E") and "<b>[a](javascript:x)`|" in found.text


def test_a_name_does_not_leave_the_table_that_one_searches():
    name = "</script><script>alert(1)</script><b>x"
    text = report.numbers(pd.DataFrame({"method": [name], "point": [0.5]}), "scores")
    assert name not in text and "<b>x" not in text and text.count("</script>") == 2
    assert text == report.numbers(pd.DataFrame({"method": [name], "point": [0.5]}), "scores")


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_name_is_text_in_the_heading_of_an_ecg(name):
    found = page(one_ecg.signpost(["r0", name, "r2"], 1))
    harmless(found)
    assert f"2 of 3: {' '.join(name.split())}" in found.text
    assert [link for _, a in found.tags if (link := a.get("href", "")).startswith("#ecg")] == ["#ecg-1", "#ecg-3"]


@pytest.mark.parametrize("name", ["ST/T", "../../seen", "/seen", "a/../../seen"])
def test_a_figure_stays_in_its_folder_whatever_its_name(tmp_path, name):
    folder = tmp_path / "a/b"
    figure = plt.figure()
    paths = style.save(figure, folder, name, "caption")
    assert {path.parent for path in paths} == {folder} and all(path.is_file() for path in paths)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != folder]
