"""The page: its bytes, its links, its escapes."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from ecglib import report
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
    facts = report.provenance({"A": {"n_records": 3, "leads": ["I", "II"]}, "seed": 0})
    sections = [
        ("Results", [report.text("One & two."), report.table(frame, "Macro AUROC"), report.table(facts)]),
        ("Figures", [report.figure(folder / "figures/forest.png", "Internal against external")]),
        ("Notebooks", [report.links([("03 linear probing", folder / "notebooks/03 probing.html")])]),
        ("Versions", [report.table(report.versions())]),
    ]
    return report.write_html(folder / "report/index.html", sections, "A question?", "An answer.")


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
    assert "A.leads" in words and "I, II" in words and str(tmp_path) not in words


def test_the_page_refuses_dead_links(tmp_path):
    for block in (report.figure(tmp_path / "no.png", "x"), report.links([("x", tmp_path / "no.html")])):
        with pytest.raises(EcgError):
            report.write_html(tmp_path / "index.html", [("x", [block])])
    assert not (tmp_path / "index.html").exists()
    with pytest.raises(EcgError, match="DataFrame"):
        report.table([1, 2])
