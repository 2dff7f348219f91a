"""The pieces of the report notebook: answers in sentences, tables to search, figures, links, where it came from."""

import json
import os
from html import escape
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.data.files import plain, sha256
from ecglib.data.notebook import links_from, track
from ecglib.reporting import answers, figures, hero, style
from ecglib.reporting.captions import share
from ecglib.reporting.methods import is_pretrained, kind
from ecglib.reporting.tables import MACRO, of_model

PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "torch", "lightning-fabric", "matplotlib", "wfdb")
# Folders of pictures and notebooks.
STORY = ("comparison", "label_efficiency", "differences", "forest", "calibration")  # the paper's figures
STAGES = ("figures", "explore", "external/*", "pretrain/*", "probe/*", "models", "robustness", "explanation", "one_ecg")
# Notebooks alone.
FURTHER = (
    "explore_corpora",
    "explore_corpus/*",
    "fine_tuning*",
    "ppg",
    "rhythm_and_beats",
    "holter",
    "noise",
    "language_and_neighbours",
    "waves_and_leads",
)
FOLLOWED = ("random", "features", "scratch")  # baselines among the headline numbers

MOST = 1800  # rows of a table in the page, which stays below notebooks.LARGEST; the files hold all
COUNTS = ("records", "packed", "rejected", "patients", "rows", "rows_with_missing_lead", "rows_with_gap")


def study_tables(results) -> dict[str, pd.DataFrame]:
    """The tables of the notebook of the paper's figures, each with `task`; EcgError where one is not there."""
    tables = {}
    for name in ("scores", "differences", "transfer", "contract"):
        file = Path(results) / f"figures/{name}.csv"
        if not file.is_file():
            raise EcgError("no such table", file=file, fix="run the stages first: `dvc repro`")
        tables[name] = pd.read_csv(file, keep_default_na=name != "contract")
    return tables


def headlines(scores: pd.DataFrame, leaders: dict) -> dict:
    """{task: {what: macro AUROC}}, the five numbers of each task that `dvc metrics` follows.

    scores, leaders: of the notebook of the paper's figures; the leader is the best encoder on validation. At home, at
    the share of labels next to a tenth: the baselines and the leader; with all labels in another hospital: the leader.
    """
    tree = {}
    macro = scores[(scores.label == MACRO) & (scores.metric == "auroc") & ~scores["mode"].isin(["zero-shot", "head"])]
    for task, rows in macro.groupby("task"):
        best = next(iter(leaders[task]), "")
        at_home, away = rows[rows.split == "test"], rows[rows.split == "external"]
        share = min(at_home.fraction.unique(), key=lambda trained: abs(trained - 0.1))
        few = at_home[at_home.fraction == share]
        few = pd.concat([of_model(few, name, "linear") for name in few.encoder.unique()]).set_index("encoder").point
        numbers = {name: few[name] for name in FOLLOWED if name in few}
        numbers |= {"leader": few[best]} if best in few else {}
        for row in of_model(away[away.fraction == 1], best, "linear").head(1).itertuples():
            numbers[f"leader in {row.cohort}"] = row.point
        tree[task] = {name: round(float(value), 4) for name, value in numbers.items()}
    return tree


def load_searchable_tables() -> None:
    """Put into the page what the tables of `numbers` need, so that they work without a network."""
    import itables

    itables.init_notebook_mode(all_interactive=False, connected=False)


def of_labels(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of each label that the page shows: AUROC at home and elsewhere, of methods with all training labels and
    of those that need none. Every share of the labels and every score are in the file."""
    alone = ~scores.label.str.startswith("macro")
    return scores[alone & (scores.metric == "auroc") & scores.fraction.isin([0, 1])]


def numbers(table: pd.DataFrame, name: str) -> str:
    """A table to sort and to search, which needs no network, as HTML; of more than MOST rows the first, and says so.

    name: of the table in the page, so that two runs give the same bytes.
    """
    import itables

    left_out = f"<p>The first {MOST} of {len(table)} rows: the file has all.</p>" if len(table) > MOST else ""
    table = table.head(MOST)
    options = {"lengthMenu": [10, 25, 100], "scrollX": True, "classes": "display compact nowrap"}
    options |= {"layout": {"topStart": "pageLength", "topEnd": "search", "bottomStart": "info", "bottomEnd": "paging"}}
    options |= {"table_id": name, "connected": False, "maxBytes": 0, "showIndex": False}
    return left_out + itables.to_html_datatable(table.reset_index(drop=True), **options)


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """A tidy table as it is shown: the method and its score first, without what only programs read."""
    table = table.assign(labels=[share(f) for f in table.fraction]).rename(columns={"encoder": "method"})
    first = ["method", "mode", "labels", "label", "metric", "reference", "point", "low", "high"]
    first += [f"{side}{end}" for side in ("internal", "external", "drop") for end in ("", "_low", "_high")]
    first += ["task", "cohort", "split"]
    hidden = ["fraction", "bias", "labels_used", "n_labels", "seed_sd", "threshold"]
    hidden += [name for name in table if table[name].isna().all() or table[name].astype(str).eq("").all()]
    first = [name for name in first if name in table]
    shown = table[[*first, *table.columns.difference([*first, *hidden], sort=False)]].round(3)
    texts = shown.select_dtypes(exclude="number").columns
    return shown.fillna({name: "" for name in texts}).rename(columns=lambda name: name.replace("_", " "))


def methods(results, page_dir) -> str:
    """Markdown table: each method, what it was pretrained on, and links to its executed notebooks."""
    results, rows = Path(results), {}
    for step, stage in (("pretrained", "pretrain"), ("probed", "probe")):
        for page in sorted(results.glob(f"{stage}/*/*.html")):
            rows.setdefault(page.parent.name, {})[step] = f"[{page.stem[:2]}]({relative(page, page_dir)})"
    lines = ["| task and method | pretrained on | pretrained in | probed in |", "|:--|:--|:--|:--|"]
    for name, links in rows.items():
        method = name.partition("-")[2].replace("zoo-", "zoo:")
        cells = (plain(name), kind(method), links.get("pretrained", "-"), links.get("probed", "-"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main_task(tables: dict, leaders: dict) -> str:
    """The task that the first picture shows: the first one that was tried in another hospital, else the first."""
    tried = [task for task in leaders if task in set(tables["transfer"].task)]
    return (tried or list(leaders))[0]


def first_picture(results, out, tables: dict, leaders: dict, task: str) -> list[Path]:
    """Draw `hero` of one task, where its cohort at home is packed here; the PNG file, or nothing."""
    scores, transfer = answers.of_task(tables["scores"], task), answers.of_task(tables["transfer"], task)
    home = scores[scores.split == "test"].cohort.iloc[0]
    best = next(iter(leaders[task]), "")
    if not best or not is_pretrained(best) or not (Path(results) / "cohorts" / home / "signals.npy").is_file():
        return []
    rows = of_model(transfer, best, "linear")
    rows = rows[rows.cohort == rows.cohort.min()]
    figure, caption = hero.draw(results, task, home, best, rows)
    files = style.save(figure, out, "hero", caption, dpi=130)[:1]
    plt.close(figure)
    return list(files)


def draw(results, out) -> list[Path]:
    """Draw training curves, and a map of the validation records for each probe that left a features.npy; the PNG files.

    results: folder of the stages; out: where the pictures go. A change of style so trains nothing again.
    """
    results, files = Path(results), []
    histories = {f.parent.name: pd.read_csv(f) for f in sorted(results.glob("pretrain/*/history.csv"))}
    if histories:
        caption = "Loss of pretraining: running mean over batches with the 10 to 90 % band, and on validation patients."
        panels = figures.training_panels(histories)
        files += style.save(panels, out, "training_curves", caption)[:1]
        plt.close(panels)
    for file in track(sorted(results.glob("probe/*/features.npy")), "maps", "map"):
        names = pd.read_csv(file.with_name("features.csv"), keep_default_na=False)["label"].to_numpy()
        ax, method = figures.embedding_map(np.load(file), names), file.parent.name
        ax.set_title(style.plain(method), loc="right")  # also where a picture stands without its caption
        caption = f"Frozen features of the validation records, {method}: grey where several labels or others hold."
        files += style.save(ax, out, f"embedding_{method}", caption)[:1]
        plt.close(ax.figure)
    return files


def figures_by_stage(results) -> dict[str, list[Path]]:
    """{stage: PNG files}, the paper's figures first, and these in the order of STORY."""
    pictures = {}
    for stage in STAGES:
        for file in sorted(Path(results).glob(f"{stage}/*.png"), key=_in_story):
            pictures.setdefault(file.parent.relative_to(results).as_posix(), []).append(file)
    return pictures


def _in_story(file: Path) -> tuple[int, str]:
    told = [k for k, name in enumerate(STORY) if file.name.startswith(name)]
    return told[0] if told else len(STORY), str(file)


def gallery(files, page_dir) -> str:
    """Markdown: PNG files with their captions (from captions.json beside them) and links to the PDFs, from page_dir."""
    return "\n\n".join(_picture(Path(file), page_dir) for file in files)


def _picture(file, page_dir):
    captions = file.with_name("captions.json")
    known = json.loads(captions.read_text("utf-8")) if captions.is_file() else {}
    words, pdf = known.get(file.stem, file.stem.replace("_", " ")), file.with_suffix(".pdf")
    more = f" [PDF]({relative(pdf, page_dir)})" if pdf.is_file() else ""
    link, width = relative(file, page_dir), _width(file)
    image = f'<img src="{link}" alt="{escape(" ".join(words.split()))}" style="width: {width}; max-width: 100%">'
    return f'<a href="{link}">{image}</a>\n\n{plain(words)}{more}'


def _width(file: Path) -> str:
    """How wide a PNG file is shown, so that letters have one size in all: its width on paper, a page being 60 rem."""
    head = file.read_bytes()[:200]
    at = head.find(b"pHYs")
    if at < 0:
        return "auto"
    metres = int.from_bytes(head[16:20], "big") / int.from_bytes(head[at + 4 : at + 8], "big")
    return f"{min(60, 60 * metres / (style.PAGE * 0.0254)):.1f}rem"


def folded(title: str, text: str, number: int) -> str:
    """Markdown that opens when one clicks on its title; nothing where there is nothing to see."""
    return f"<details><summary>{plain(title)} ({number})</summary>\n\n{text}\n\n</details>" if number else ""


def notebook_links(results, page_dir) -> str:
    """Markdown list of the executed notebooks other than those of `methods`, linked relative to the page's folder."""
    stages = [stage for stage in (*STAGES, *FURTHER) if stage not in ("pretrain/*", "probe/*")]
    pages = sorted(file for stage in stages for file in Path(results).glob(f"{stage}/*.html"))
    titles = [" / ".join(page.relative_to(results).with_suffix("").parts) for page in pages]
    return "\n".join(
        f"- [{plain(title)}]({relative(page, page_dir)})" for title, page in zip(titles, pages, strict=True)
    )


def relative(file, folder) -> str:
    """A file as a page in `folder` links to it."""
    return quote(Path(os.path.relpath(Path(file).resolve(), links_from(folder))).as_posix())


def packed_cohorts(results) -> pd.DataFrame:
    """One row per packed cohort: its counts, and why records were refused."""
    lines = []
    for file in sorted(Path(results).glob("cohorts/*/cohort.json")):
        counts = json.loads(file.read_text("utf-8"))["counts"]
        reasons = ", ".join(f"{reason}: {count}" for reason, count in counts["rejected_by_reason"].items())
        line = {name.replace("_", " "): counts[name] for name in COUNTS}
        signals = file.with_name("signals.npy")
        line["SHA-256 of the signals"] = sha256(signals)[:16] if signals.is_file() else "-"
        lines.append({"cohort": file.parent.name} | line | {"rejected because": reasons or "-"})
    return pd.DataFrame(lines)


def versions() -> pd.DataFrame:
    """Installed versions: package, version."""
    return pd.DataFrame([(name, version(name)) for name in PACKAGES], columns=["package", "version"])
