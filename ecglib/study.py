"""The study as one page: result tables, figures and executed notebooks, from what the stages left in results/.

Blocks of HTML in, `index.html` out: no script, no external resource, no date.
"""

import json
import os
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ecglib import plots
from ecglib.notes import footnote, marked
from ecglib.report import MACRO, result_table
from ecglib.signals import EcgError

PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "torch", "lightning-fabric", "matplotlib", "wfdb")

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5b6670; --line: #d9dee3; --page: #fdfdfc; --card: #fff;
  --accent: #0b5c8e; --head: #f3f5f6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #9aa5af; --line: #333b43; --page: #14181c;
  --card: #1b2026; --accent: #7cc0ea; --head: #20272e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 17px/1.6 Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif; }
main { max-width: 60rem; margin: 0 auto; padding: 3.5rem 1.5rem 6rem; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 .6rem; letter-spacing: -.01em; text-wrap: balance; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 3.5rem 0 .8rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
p { max-width: 42rem; margin: 0 0 1rem; } .lead { font-size: 1.12rem; color: var(--soft); }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 2px; }
nav, table, figcaption, caption, .links, dl { font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: 1.6rem 0 0; font-size: .85rem; }
.scroll { overflow-x: auto; margin: 1rem 0 1.8rem; }
table { border-collapse: collapse; font-size: .8rem; line-height: 1.4; width: 100%;
  font-variant-numeric: tabular-nums; }
caption, figcaption { text-align: left; color: var(--soft); font-size: .85rem; line-height: 1.5; }
caption { padding: 0 0 .6rem; max-width: 46rem; } figcaption { padding: .6rem 0 0; max-width: 46rem; }
th, td { padding: .38rem .8rem .38rem 0; text-align: left; vertical-align: top; white-space: nowrap; }
thead th { border-bottom: 1.5px solid var(--ink); font-weight: 600; vertical-align: bottom; white-space: normal; }
tbody tr + tr td { border-top: 1px solid var(--line); } td.number, th.number { text-align: right; }
td.long { white-space: normal; min-width: 14rem; }
.marks { margin: -1.2rem 0 1.8rem; color: var(--soft); font-size: .85rem; }
figure { margin: 1.4rem 0 2.2rem; }
figure img { max-width: 100%; height: auto; background: #fff; padding: .5rem; border: 1px solid var(--line);
  border-radius: 4px; display: block; }
.links { list-style: none; padding: 0; font-size: .92rem; } .links li { padding: .25rem 0; }
@media print { main { max-width: none; padding: 0; } nav { display: none; } h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; } }
"""


def table(frame, caption="", digits=3):
    """A table of a DataFrame (its index is not shown): floats with `digits`, NaN as a dash, below it the legend of its
    marks."""
    if not isinstance(frame, pd.DataFrame):
        raise EcgError(f"a table takes a DataFrame, not {type(frame).__name__}", field=caption or "table")
    right = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame]
    head = "".join(_cell("th", str(name), number) for name, number in zip(frame, right, strict=True))
    rows = [
        "".join(_cell("td", _shown(value, digits), number) for value, number in zip(row, right, strict=True))
        for row in frame.itertuples(index=False, name=None)
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    page = f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    marks = footnote(body)
    return lambda folder: page + (f'<p class="marks">{escape(marks)}</p>' if marks else "")


def _shown(value, digits):
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float | np.floating) else str(value)


def _cell(tag, words, number):
    kind = ' class="number"' if number else ' class="long"' if len(words) > 60 else ""
    return f"<{tag}{kind}>{escape(words)}</{tag}>"


def figure(path, caption, alt=""):
    """A picture by relative link, with a link to the PDF beside it where there is one.

    Raises EcgError when the page is written and the file is not there.
    """

    def block(folder):
        file = Path(path)
        if not file.is_file():
            raise EcgError("no such figure", file=file, fix="draw it before the report is written")
        pdf = file.with_suffix(".pdf")
        also = f' <a href="{_relative(pdf, folder)}">PDF</a>' if pdf.is_file() else ""
        image = f'<img src="{_relative(file, folder)}" alt="{escape(alt or caption, quote=True)}" loading="lazy">'
        return f"<figure>{image}<figcaption>{escape(caption)}{also}</figcaption></figure>"

    return block


def links(pairs):
    """A list of (title, path) as relative links, such as the executed notebooks; raises EcgError for a dead one."""

    def block(folder):
        for _, path in pairs:
            if not Path(path).is_file():
                raise EcgError("the report would link to a file that is not there", file=path)
        items = [f'<li><a href="{_relative(path, folder)}">{escape(title)}</a></li>' for title, path in pairs]
        return f'<ul class="links">{"".join(items)}</ul>'

    return block


def _relative(path, folder):
    return escape(Path(os.path.relpath(path, folder)).as_posix(), quote=True)


def versions(packages=PACKAGES):
    """Installed versions as a DataFrame (package, version), absent packages left out."""
    rows = []
    for name in packages:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return pd.DataFrame(rows, columns=["package", "version"])


def write_html(out, sections, title="ECG foundation models: the study", lead=""):
    """Write a self-contained page to `out` (an .html file) and return its path. Same input, same bytes.

    sections: (heading, [block, ...]) with blocks of `table`, `figure`, `links`. Pictures and notebooks are
    linked relative to the page, which appears whole or not at all. Raises EcgError for a figure or a link without file.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        f'<section id="s{k}"><h2>{escape(name)}</h2>\n'
        + "\n".join(block(out.parent) for block in blocks)
        + "</section>"
        for k, (name, blocks) in enumerate(sections)
    ]
    menu = "".join(f'<a href="#s{k}">{escape(name)}</a>' for k, (name, _) in enumerate(sections))
    opening = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body><main>\n"
        f"<h1>{escape(title)}</h1>\n{opening}\n<nav>{menu}</nav>\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )
    unfinished = out.with_name(out.name + ".part")
    unfinished.write_text(page, encoding="utf-8", newline="\n")
    unfinished.replace(out)
    return out


def build(results, out):
    """Write the page of the study to `out`/index.html, its numbers to results.csv and differences.csv (tidy) and
    scores.json (for `dvc metrics`), from what the stages left in `results`; returns the path of the page.

    The tables of notebook 09 are read; the stages' figures (captions from a captions.json beside them, {name: words}),
    executed notebooks and cohorts/*/cohort.json are shown. Raises EcgError where the tables are not there.
    """
    results, out, tables = Path(results), Path(out), {}
    for name in ("scores", "differences", "transfer", "contract"):
        file = results / f"figures/{name}.csv"
        if not file.is_file():
            raise EcgError("no such table", file=file, fix="run the stages first: `dvc repro`")
        tables[name] = pd.read_csv(file, keep_default_na=name != "contract")
    sections = []
    for task in tables["scores"]["task"].drop_duplicates():
        one = {name: rows[rows["task"] == task].drop(columns="task") for name, rows in tables.items()}
        text = result_table(one["scores"], one["differences"], one["transfer"], fraction=None)
        blocks = [table(text, _CAPTION), table(one["contract"], "What is compared.")]
        sections.append((f"Results: task {task}", blocks))
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("results.csv", tables["scores"]), ("differences.csv", tables["differences"])):
        rows.to_csv(out / name, index=False, float_format="%.6f", lineterminator="\n")
    _draw(results, out)
    (out / "scores.json").write_text(json.dumps(_nested(tables["scores"]), indent=1, sort_keys=True) + "\n")
    return write_html(out / "index.html", sections + _remaining(results, out), lead=_LEAD)


_LEAD = "Pretrained on one hospital, probed there with few labels, and tried on others: every number with its interval."
_CAPTION = (
    "Macro averages over all labels and over those with ten or more positives; paired differences to the random encoder"
    " and to boosting on hand-made features (two-sided p, adjusted by Holm over the methods); elsewhere also the change"
    " from the test patients at home, over the labels of both. In brackets 95 % intervals by bootstrap of patients."
)


def _draw(results, out):
    """Figures that need more than predictions: training curves, and a map of the validation records for each
    probe on a frozen encoder, the only ones that leave a features.npy.

    They are drawn here and not where the numbers arise, so that a change of style trains nothing again.
    """
    histories = {f.parent.name: pd.read_csv(f) for f in sorted(results.glob("pretrain/*/history.csv"))}
    if histories:
        caption = "Loss of pretraining: running mean over batches with the 10 to 90 % band, and on validation patients."
        plots.save(plots.training_panels(histories), out, "training_curves", caption)
    for file in sorted(results.glob("probe/*/features.npy")):
        names = pd.read_csv(file.with_name("features.csv"), keep_default_na=False)["label"].to_numpy()
        ax = plots.embedding_map(np.load(file), names)
        caption = (
            f"Frozen features of the validation records, {file.parent.name}: grey where several labels or others hold."
        )
        plots.save(ax, out, f"embedding_{file.parent.name}", caption)
        plt.close(ax.figure)


def _nested(table):
    """{task: {cohort/split: {encoder, mode: {share of labels: {metric: point, low, high}}}}} of the macro averages."""
    tree = {}
    for row in table.assign(encoder=marked(table))[table["label"] == MACRO].itertuples():
        branch = tree.setdefault(row.task, {}).setdefault(f"{row.cohort}/{row.split}", {})
        branch = branch.setdefault(f"{row.encoder}, {row.mode}", {}).setdefault(f"{100 * row.fraction:g} %", {})
        branch[row.metric] = {end: round(getattr(row, end), 6) for end in ("point", "low", "high")}
    return tree


def _remaining(results, out):
    """Sections on figures, notebooks and provenance, of what is there."""
    pictures = sorted((file for stage in ("report", *_STAGES) for file in results.glob(f"{stage}/*.png")), key=_rank)
    pages = sorted(file for stage in _STAGES for file in results.glob(f"{stage}/*.html"))
    titles = [(" / ".join(page.relative_to(results).with_suffix("").parts), page) for page in pages]
    cohorts = [_counted(file) for file in sorted(results.glob("cohorts/*/cohort.json"))]
    sections = [
        ("Figures", [figure(file, _caption(file)) for file in pictures]),
        ("Executed notebooks", [links(titles)]),
        (
            "Provenance",
            [table(pd.DataFrame(cohorts), "Packed cohorts; the rejected records are listed in each.")],
        ),
        ("Versions", [table(versions())]),
    ]
    return [part for part, there in zip(sections, (pictures, pages, cohorts, True), strict=True) if there]


_STAGES = ("figures", "explore", "external/*", "pretrain/*", "probe/*", "models")
_COUNTS = ("records", "packed", "rejected", "patients", "rows", "rows_with_missing_lead", "rows_with_gap")


def _rank(file):
    """The paper's figures first, then by place and name."""
    return file.parent.name != "figures", file.as_posix()


def _caption(file):
    """Words for a figure: from captions.json beside it, {name: words}, else its name."""
    captions = file.with_name("captions.json")
    words = json.loads(captions.read_text("utf-8")) if captions.is_file() else {}
    return words.get(file.stem, file.stem.replace("_", " "))


def _counted(file):
    """One line on a packed cohort."""
    counts = json.loads(file.read_text("utf-8"))["counts"]
    why = ", ".join(f"{reason}: {count}" for reason, count in counts["rejected_by_reason"].items())
    line = {name.replace("_", " "): counts[name] for name in _COUNTS}
    return {"cohort": file.parent.name} | line | {"rejected because": why or "-"}
