"""What leaves the machine: provenance of a study, and its pages as one folder in which every link is alive."""

import base64
import io
import json
import re
import subprocess

import numpy as np
import pytest
from PIL import Image

from ecglib import EcgError
from ecglib.data import files
from ecglib.pipeline import publish


def png(width=2000) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (60, width, 3), np.uint8)
    drawn = io.BytesIO()
    Image.fromarray(noise).save(drawn, "PNG")
    return drawn.getvalue()


@pytest.fixture
def root(tmp_path):
    """A repository with a finished study: a report that links to a figure, its PDF and an executed notebook."""
    inline = base64.b64encode(png()).decode()
    pages = {
        "report/index.html": '<a href="../figures/a%20b.png">x</a> <a href="../figures/a%20b.pdf">PDF</a>'
        '<a href="../probe/t-clef/03.html">03</a><a href="#top">top</a><a href="https://example.org">else</a>',
        "probe/t-clef/03.html": f'<a href="../../report/index.html">back</a><img src="data:image/png;base64,{inline}">',
    }
    for name, text in pages.items():
        file = tmp_path / "results" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    (tmp_path / "results/figures").mkdir()
    (tmp_path / "results/figures/a b.png").write_bytes(png())
    (tmp_path / "results/figures/not linked.png").write_bytes(png())
    (tmp_path / "params.yaml").write_text("pack: {fs: 100}\nprobe: {seeds: 5}\n")
    (tmp_path / "data.dvc").write_text("outs:\n- md5: abc123.dir\n")
    for words in (["init", "-q"], ["add", "params.yaml", "data.dvc"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *author, "commit", "-qm", "a"], cwd=tmp_path, check=True)
    return tmp_path


def test_every_link_in_the_folder_is_alive_and_nothing_else_is_there(root):
    size = publish.site(root, root / "docs/site")
    folder = root / "docs/site"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"index.html", "site.json", "provenance.html", *PAGES}
    assert size == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    for page in folder.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"#]+)"', page.read_text()):
            if not re.match("[a-z]+:", link):
                assert (page.parent / link.replace("%20", " ")).is_file(), (page, link)
    assert "PDF" not in (folder / "report/index.html").read_text()


PAGES = ("report/index.html", "probe/t-clef/03.html", "figures/a b.png")


def test_pictures_are_lighter_and_still_pictures_of_the_same_thing(root):
    publish.site(root, root / "docs/site")
    before, after = (root / folder / "figures/a b.png" for folder in ("results", "docs/site"))
    assert after.stat().st_size < before.stat().st_size / 2
    with Image.open(after) as picture:
        assert picture.size == (publish.WIDEST, 48)
    page = (root / "docs/site/probe/t-clef/03.html").read_text()
    inside = base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])
    assert inside == after.read_bytes()


def test_it_replaces_what_it_wrote_and_nothing_else(root):
    out = root / "docs/site"
    unfinished = root / "docs/site.part"  # a user's own, in spite of its name
    unfinished.mkdir(parents=True)
    (unfinished / "notes.txt").write_text("keep")
    publish.site(root, out)
    (root / "results/figures/a b.png").write_bytes(png(1000))
    publish.site(root, out)
    with Image.open(out / "figures/a b.png") as picture:
        assert picture.width == 1000
    (out / "mine.txt").write_text("keep")
    with pytest.raises(EcgError):
        publish.site(root, out)
    assert (out / "mine.txt").read_text() == (unfinished / "notes.txt").read_text() == "keep"
    assert sorted(path.name for path in out.parent.iterdir()) == ["site", "site.part"]
    assert files.KEY not in (out / publish.LISTED).read_text()


def test_a_dead_link_a_missing_report_and_too_much_are_said(root, monkeypatch):
    (root / "results/figures/a b.png").rename(root / "results/figures/c.png")
    with pytest.raises(EcgError, match="a%20b.png, which is not there"):
        publish.site(root, root / "docs/site")
    (root / "results/figures/c.png").rename(root / "results/figures/a b.png")
    monkeypatch.setattr(publish, "LIMIT", 1000)
    with pytest.raises(EcgError, match="MB are above"):
        publish.site(root, root / "docs/site")
    (root / "results/report/index.html").unlink()
    with pytest.raises(EcgError, match="no report yet"):
        publish.site(root, root / "docs/site")
    assert not (root / "docs/site").exists()


def test_provenance_names_commit_data_changed_parameters_and_minutes(root):
    text = publish.provenance(root, root / "results").read_text()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True).stdout.strip()
    assert commit in text and "abc123.dir" in text and "None in <code>params.yaml</code>" in text
    (root / "params.yaml").write_text("pack: {fs: 100}\nprobe: {seeds: 3, new: [1, 2]}\n")
    logs = root / publish.LOGS
    logs.mkdir(parents=True)
    (logs / "probe@a.log").write_text("x\n[03_linear_probing] done in 90 s: results/probe/a\n")
    (logs / "probe@b.log").write_text("[03_linear_probing] done in 30 s: results/real/probe/b\n")
    cells = re.findall(r"<td[^>]*>(.*?)</td>", publish.provenance(root, root / "results").read_text())
    at = cells.index("probe.seeds")
    assert cells[at : at + 3] == ["probe.seeds", "5", "3"] and "probe.new" in cells and "pack.fs" not in cells
    assert cells[-3:] == ["03_linear_probing", "results/probe/a", "90"] and "results/real/probe/b" not in cells
    (root / "results/real").mkdir()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", publish.provenance(root, root / "results/real").read_text())
    assert cells[-3:] == ["03_linear_probing", "results/real/probe/b", "30"]


def test_provenance_of_real_results_names_both_files_of_parameters(root):
    (root / "real").mkdir()
    (root / "real/params.yaml").write_text("real: {external: 3}\n")
    subprocess.run(["git", "add", "real"], cwd=root, check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *author, "commit", "-qm", "b"], cwd=root, check=True)
    (root / "params.yaml").write_text("pack: {fs: 200}\nprobe: {seeds: 5}\n")
    (root / "results/real").mkdir()
    text = publish.provenance(root, root / "results/real").read_text()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text)
    at = cells.index("pack.fs")
    assert cells[at : at + 3] == ["pack.fs", "100", "200"] and "None in <code>real/params.yaml</code>" in text
    (root / "real/params.yaml").write_text("real: {external: 4}\n")
    text = publish.provenance(root, root / "results/real").read_text()
    assert {"pack.fs", "real.external"} <= set(re.findall(r"<td[^>]*>(.*?)</td>", text))
    assert "real.external" not in publish.provenance(root, root / "results").read_text()


def test_provenance_of_a_study_of_one_s_own_shows_its_parameters(root):
    results = root / "studies/my/results"
    results.mkdir(parents=True)
    (results.parent / "params.yaml").write_text("pack: {}\nprobe: {fractions: [0.1, 1.0], seeds: 3}\n")
    text = publish.provenance(root, results).read_text()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text)
    at = cells.index("probe.fractions")
    assert cells[at : at + 4] == ["probe.fractions", "[0.1, 1.0]", "probe.seeds", "3"]
    assert "<code>studies/my/params.yaml</code>" in text and "None in <code>params.yaml</code>" in text


def test_without_git_it_says_so(tmp_path):
    (tmp_path / "results").mkdir()
    assert "no git repository" in publish.provenance(tmp_path, tmp_path / "results").read_text()
    assert json.dumps(publish._flat({"a": {"b": 1}, "c": 2})) == '{"a.b": 1, "c": 2}'
