"""The tables of README.md and docs/, written from the tables of the notebook of the paper's figures."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.data import labels as vocabulary
from ecglib.data.files import plain
from ecglib.evaluation.metrics import SMALLER
from ecglib.evaluation.predictions import BASELINES, NOBODY, OUT_OF_FOLD
from ecglib.reporting import answers, literature, pretraining_seeds, published, task_figures
from ecglib.reporting.marks import HERE, HOME, footnote, marked
from ecglib.reporting.methods import BASELINE_TITLES
from ecglib.reporting.methods import title as _name
from ecglib.reporting.tables import MACRO, UNTRAINED, main_differences, with_interval

FRACTIONS = (0.01, 0.1, 1.0)  # shares of the training labels that are shown
TASKS = ("fine_tuning", "fine_tuning-brugada", "ppg")  # folders of the results of single tasks

BLOCK = re.compile(r"(<!-- (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.S)
FIGURES = {
    "hero.png": "report/hero.png",
    "comparison_twelve.png": "figures/comparison_twelve.png",
    "label_efficiency_twelve.png": "figures/label_efficiency_twelve.png",
    "real_comparison_ptbxl.png": "real/figures/comparison_ptbxl.png",
    "real_differences_ptbxl.png": "real/figures/differences_ptbxl.png",
    "forest_twelve.png": "figures/forest_twelve_B.png",
    "task_gains.png": "fine_tuning/gains.png",
    "real_label_efficiency_ptbxl.png": "real/figures/label_efficiency_ptbxl.png",
    "real_forest_ptbxl.png": "real/figures/forest_ptbxl_ludb.png",
}


def update(results, root, published_models=None) -> list[Path]:
    """Rewrite the blocks of README.md and docs/*.md below `root` and copy FIGURES to docs/figures; the changed files.

    published_models: function that gives the table of the block `zoo` (`zoo.table`). A block whose results are not
    there (no `make real` yet) stays as it is. Raises EcgError for a block with an unknown name.
    """
    results, root, changed = Path(results), Path(root), []
    blocks = BLOCKS | {"zoo": lambda *_: published_models and markdown_table(published_models().astype(str))}
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        old = page.read_text("utf-8")
        new = BLOCK.sub(partial(_filled, blocks=blocks, results=results, root=root, page=page), old)
        if new != old:
            page.write_text(new, "utf-8")
            changed.append(page)
    for name, source in FIGURES.items():
        source, target = results / source, root / "docs/figures" / name
        if source.is_file() and not (target.is_file() and target.read_bytes() == source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            changed.append(target)
    return changed


def _filled(match, blocks: dict, results: Path, root: Path, page: Path) -> str:
    name = match["name"]
    if name not in blocks:
        raise EcgError(f"unknown block {name!r}", file=page, fix=f"use one of {', '.join(blocks)}")
    text = blocks[name](results, root)
    return match[0] if text is None else f"{match[1]}{text}\n{match[3]}"


def answer(folder, task: str) -> str | None:
    """Markdown list: the question of the study answered for one task, a line each; None without its results."""
    if any(_table(folder, name) is None for name in ("scores", "differences", "transfer")):
        return None
    tables = {name: _table(folder, name) for name in ("scores", "differences", "transfer")}
    leaders = json.loads((Path(folder) / "figures/leaders.json").read_text())
    lines = [" ".join(sentence.split("\n    - ")) for sentence in answers.answers(tables, leaders, task)]
    return "\n".join(f"- {line}" for line in lines)


def efficiency(folder, task: str, metric="auroc", whole=False) -> str | None:
    """Markdown table: a macro score on the test patients at home, by method and share of the training labels.

    whole: all methods; else the baselines, the encoder pretrained on labels, and the best on validation patients.
    None where the results are not in `folder`.
    """
    if (scores := _table(folder, "scores")) is None:
        return None
    rows = scores[(scores.task == task) & (scores.label == MACRO) & (scores.metric == metric)]
    home, inside = (_main_rows(rows[rows.split == split], folder, task, whole) for split in ("test", OUT_OF_FOLD))
    if home.empty:
        return None
    again = [f for f in (FRACTIONS if whole else (0.1,)) if np.isclose(inside.fraction, f).any()]
    lines = [
        _efficiency_line(model, scored, inside, again, whole)
        for model, scored in home.groupby(["title", "mode"], sort=False)
    ]
    if helps := whole and _helps(folder, task, metric):
        models = [model for model, _ in home.groupby(["title", "mode"], sort=False)]
        lines = [[*line, helps.get(model, "-")] for model, line in zip(models, lines, strict=True)]
    first = home.iloc[0]
    about = f"{first.cohort}, {first.n_records} test records of {first.n_patients} patients, {first.n_labels} labels"
    if again:
        ours = inside.iloc[0]
        about += f"; out of fold: the {ours.n_records} training and validation records of {ours.n_patients} patients"
        about += ", each predicted by models of other patients: trained on shares of some folds, chosen on another"
    about = "; ".join(filter(None, [about, nobody(folder, task)]))
    head = ["method", *(f"{100 * f:g} % of the training labels" for f in FRACTIONS)]
    head += [f"{100 * f:g} %, out of fold" for f in again] + (["trained?"] if whole else [])
    head += ["against the same network untrained, 10 %"] if helps else []
    about = f"Macro {metric.upper()} (95 % interval over patients), {about}."
    return _explained(head, _ranked(lines), " ".join(filter(None, [about, _seeds(folder, task, metric)])))


def _seeds(folder, task: str, metric: str) -> str:
    """A sentence on the spread over pretraining runs, where the study has more than one of them; or nothing."""
    file = Path(folder) / "figures/pretraining_seeds.csv"
    if metric != "auroc" or not file.is_file():
        return ""
    table = pd.read_csv(file)
    return pretraining_seeds.sentence(table[table.task == task])


def _efficiency_line(model, scored, inside, again, whole: bool) -> list[str]:
    """The row of one (title, mode): scores on test records, out of fold, and whether pretraining has learned."""
    inside = inside[(inside.title == model[0]) & (inside["mode"] == model[1])]
    cells = [_score(scored[np.isclose(scored.fraction, f)]) for f in FRACTIONS]
    cells += [_score(inside[np.isclose(inside.fraction, f)]) for f in again]
    said = scored["trained"].iloc[0] if "trained" in scored else ""
    return [_name(*model), *cells, *([said if isinstance(said, str) and said else "-"] if whole else [])]


def _helps(folder, task: str, metric: str) -> dict[tuple[str, str], str]:
    """(title, mode) -> what pretraining adds to the same network at a tenth of the labels, in words and with interval.

    On the records out of fold where those were predicted, else on the test patients at home.
    """
    if (table := _table(folder, "differences")) is None:
        return {}
    rows = table[(table.task == task) & (table.metric == metric) & (table.reference == UNTRAINED) & table.point.notna()]
    rows = rows[np.isclose(rows.fraction, 0.1)]
    said = {}
    for split in ("test", OUT_OF_FOLD):
        for row in rows[rows.split == split].itertuples():
            word = "helps" if row.low > 0 else "harms here" if row.high < 0 else "does not help here"
            said[row.title, row.mode] = f"{word}: {_span(row, '', '+')}"
    return said


def nobody(folder, task: str) -> str:
    """Which shares of the labels were left out since they give nobody, in words, as the probes noted it; or nothing."""
    noted = [pd.read_csv(file) for file in sorted(Path(folder).glob(f"probe/{task}-*/{NOBODY}"))]
    shares = sorted(set(pd.concat(noted).fraction)) if noted else []
    names = ", ".join(f"{100 * share:g} %" for share in shares)
    return f"left out, since of so few training patients they are nobody: {names} of the labels" if shares else ""


def transfer(folder, task: str, whole=False) -> str | None:
    """Markdown, a table for each other cohort: the labels that both state, at home and there; see `efficiency`."""
    if (table := _table(folder, "transfer")) is None:
        return None
    labels = table[(table.task == task) & (table.metric == "auroc")]
    parts = [_transfer_to(labels[labels.cohort == away], folder, task, whole) for away in labels.cohort.unique()]
    return "\n\n".join(parts) or None


def _transfer_to(labels: pd.DataFrame, folder, task: str, whole: bool) -> str:
    rows = _main_rows(labels[labels.label == MACRO], folder, task, whole)
    away = rows.cohort.iloc[0]
    n = int((labels[labels.label != MACRO].groupby(["encoder", "mode"])["drop"].count()).iloc[0])
    lines = []
    for row in rows.itertuples():
        scores = _span(row, "internal"), _span(row, "external"), _span(row, "drop", "+")
        lines.append([_name(row.title, row.mode), *scores])
    about = f"the {n} labels that can be scored in both; {away}: {rows.n_records_external.max()} records"
    about = f"Macro AUROC over {about}.{_left_out(folder, task, away, whole)}"
    return _explained(["method", "at home", f"in {away}", "change"], _ranked(lines), about, HOME)


def _left_out(folder, task: str, away: str, whole: bool) -> str:
    """A sentence on the models that have no row because they have seen the other hospital, or may have; or nothing."""
    if (scores := _table(folder, "scores")) is None:
        return ""
    rows = scores[(scores.task == task) & (scores.cohort == away) & np.isclose(scores.fraction, 1)]
    rows = _main_rows(rows[rows.title != rows.encoder], folder, task, whole)
    names = ", ".join(dict.fromkeys(_name(*pair) for pair in zip(rows.encoder, rows["mode"], strict=True)))
    return f" {away} is not external to {names}: pretrained on its recordings, or not known." if names else ""


def gains(folder, task: str, fraction: float = 0.1, whole=False) -> str | None:
    """Markdown table: paired differences to each baseline at one share of the labels.

    Unless `whole`, at home only, to the same network untrained and to training from scratch: the two questions of the
    study.
    """
    if (table := _table(folder, "differences")) is None:
        return None
    rows = table[(table.task == task) & np.isclose(table.fraction, fraction) & table.point.notna()]
    rows, lines = _main_rows(rows, folder, task, whole), []
    if not whole:
        rows = main_differences(rows[rows.split == "test"])
    for row in rows.itertuples():
        reference = _name(row.reference_mode) if row.reference == UNTRAINED else BASELINE_TITLES[row.reference]
        against = [reference, _span(row, "", "+"), f"{row.p_holm:.3f}"]
        where = f"{row.cohort}, out of fold" if row.split == OUT_OF_FOLD else row.cohort
        lines.append([_name(row.title, row.mode), *against, where])
    head = ["method", "against", f"difference at {100 * fraction:g} % of the labels", "p (Holm)", "hospital"]
    return _explained(head, lines)


def _table(folder, name: str) -> pd.DataFrame | None:
    """A table of the paper's notebook, with marked encoders as `title`; None before it has run to its end."""
    file = Path(folder) / f"figures/{name}.csv"
    if not file.is_file() or not file.with_name("leaders.json").is_file():  # written last
        return None
    table = pd.read_csv(file)
    return table.assign(title=marked(table))


def _main_rows(rows: pd.DataFrame, folder, task: str, whole: bool) -> pd.DataFrame:
    if whole:
        return rows
    leaders = json.loads((Path(folder) / "figures/leaders.json").read_text())[task][:3]
    extra = rows["mode"].isin(["zero-shot", "head", "sgd-linear", "finetune", "selftrain", "outputs"])
    upper = rows["encoder"].astype(str).str.startswith("features+")
    weighted = upper & (rows["mode"] == "weighted mean of logits")
    upper = weighted if weighted.any() else upper
    return rows[(rows.encoder.isin([*BASELINES, "supervised", *leaders]) | upper) & ~extra]


def _ranked(lines: list[list[str]]) -> list[list[str]]:
    names = list(BASELINE_TITLES.values())
    return sorted(lines, key=lambda line: names.index(line[0]) if line[0] in names else len(names))


def _span(row, column: str, sign: str = "") -> str:
    """A score of a row with its ends; column "": those without a prefix."""
    names = (column, f"{column}_low", f"{column}_high") if column else ("point", "low", "high")
    return with_interval(*(getattr(row, name) for name in names), sign)


def _score(rows: pd.DataFrame) -> str:
    return "-" if rows.empty else _span(rows.iloc[0], "")


def markdown_table(frame: pd.DataFrame) -> str:
    """A table in Markdown, without its index, every cell as it is written (`plain`)."""
    shown = frame.map(lambda cell: plain(cell) if isinstance(cell, str) else cell)
    return shown.rename(columns=lambda name: plain(str(name))).to_markdown(index=False, disable_numparse=True)


def _explained(head, lines, about: str = "", corpus: str = HERE) -> str:
    table = markdown_table(pd.DataFrame(lines, columns=head))
    return "\n\n".join(text for text in (table, about, footnote(table, corpus)) if text)


def whole(folder, task: str) -> str | None:
    """Every table of one task with all its methods, for docs/."""
    parts = [efficiency(folder, task, metric=metric, whole=True) for metric in ("auroc", "auprc")]
    parts += [gains(folder, task, fraction, whole=True) for fraction in FRACTIONS]
    parts += [transfer(folder, task, whole=True)]
    return None if parts[0] is None else "\n\n".join(table for table in parts if table)


def tasks(folder) -> str | None:
    """Markdown: scores of the tasks of notebooks 06 and 15 by method, at all labels; None before they have run."""
    lines = []
    for name in TASKS:
        file = Path(folder) / name / "scores.csv"
        if not file.is_file():
            continue
        scores = pd.read_csv(file)
        scores = scores[np.isclose(scores.fraction, scores.fraction.max())]
        scores = scores if "method" in scores else scores.assign(method=task_figures.named)
        for _, rows in scores.groupby(["task", "split", "metric"], sort=False):
            for row in rows.sort_values("point", ascending=rows.metric.iloc[0] in SMALLER).itertuples():
                what = task_figures.STATISTICS[row.metric] + (f", {row.unit}" if isinstance(row.unit, str) else "")
                best = "-" if np.isnan(row.optimal) else f"{row.optimal:.3f}"
                of = f"{row.n} of {row.n_patients} patients" + (", out of fold" if row.split == OUT_OF_FOLD else "")
                lines.append([row.task, row.cohort, what, row.method, _span(row, ""), best, of])
    head = ["task", "cohort", "statistic", "method", "score", "best possible", "records"]
    return _explained(head, lines) if lines else None


def tuning(results: Path, root: Path) -> str | None:
    """The search over learning rates: macro AUROC on validation, the chosen one in bold; from docs/tuning.csv."""
    file = root / "docs/tuning.csv"
    if not file.is_file():
        return None
    rows = []
    for method, trials in pd.read_csv(file).sort_values("lr").groupby("method"):
        untrained, trials = trials[trials.lr == 0].validation, trials[trials.lr > 0]
        best = trials.validation.max()
        cells = [f"{r.lr:g}: {r.validation:.3f}" for r in trials.itertuples()]
        cells = [f"**{c}**" if v == best else c for c, v in zip(cells, trials.validation, strict=True)]
        before = f"{untrained.iloc[0]:.3f}" if len(untrained) else "-"
        rows.append([method, before, *cells, *["-"] * (3 - len(cells))])
    return markdown_table(pd.DataFrame(rows, columns=["method", "untrained", "lower", "middle", "higher"]))


def published_numbers(folder, root: Path) -> str | None:
    """Markdown: published numbers with ours on the same test sets below; None where the results are not in `folder`."""
    if _table(folder, "scores") is None:
        return None
    return published.markdown(published.read(root / "docs/published.csv"), own_scores(folder))


def literature_table(results: Path, root: Path) -> str | None:
    """Markdown: the works of docs/literature.csv with our numbers; those whose table is not there stay as they are."""
    file, page = root / "docs/literature.csv", root / "docs/results.md"
    before = page.read_text("utf-8") if page.is_file() else ""
    return literature.markdown(literature.read(file), results, before) if file.is_file() else None


def own_scores(folder) -> pd.DataFrame:
    """Macro AUROC of each method on test records whose label set is stated, trained on all labels: `published.OURS`.

    A score over other labels than the whole set names their number, so that it is on no published test set.
    """
    scores, file = _table(folder, "scores"), Path(folder) / "figures/contract.csv"
    contract = pd.read_csv(file, keep_default_na=False) if scores is not None and file.is_file() else pd.DataFrame()
    if "label_set" not in contract:
        return pd.DataFrame(columns=published.OURS)
    scores = scores[(scores.label == MACRO) & (scores.metric == "auroc") & np.isclose(scores.fraction, 1)]
    keys, rows = ["task", "cohort", "split"], []
    for row in scores.merge(contract[[*keys, "label_set"]], on=keys).query("split == 'test'").itertuples():
        if row.label_set:
            whole = len(vocabulary.label_set(f"ptbxl_{re.split('[- ]', row.label_set)[0]}"))
            part = f", {row.n_labels} of {whole} labels" if row.n_labels != whole else ""
            name = BASELINE_TITLES.get(row.title, f"**{row.title}**"), row.mode
            rows.append([row.label_set + part, row.n_records, *name, row.point, row.low, row.high])
    return pd.DataFrame(rows, columns=published.OURS)


BLOCKS = {
    "simulated-twelve": lambda results, root: efficiency(results, "twelve"),
    "simulated-single": lambda results, root: efficiency(results, "single"),
    "simulated-gains": lambda results, root: gains(results, "twelve"),
    "simulated-transfer": lambda results, root: transfer(results, "twelve"),
    "simulated-transfer-single": lambda results, root: transfer(results, "single"),
    "real-answer": lambda results, root: answer(results / "real", "ptbxl"),
    "real-ptbxl": lambda results, root: efficiency(results / "real", "ptbxl"),
    "real-gains": lambda results, root: gains(results / "real", "ptbxl"),
    "real-transfer": lambda results, root: transfer(results / "real", "ptbxl"),
    "real-cinc2017": lambda results, root: efficiency(results / "real", "cinc2017"),
    "published": lambda results, root: published_numbers(results / "real", root),
    "whole-twelve": lambda results, root: whole(results, "twelve"),
    "whole-single": lambda results, root: whole(results, "single"),
    "whole-ptbxl": lambda results, root: whole(results / "real", "ptbxl"),
    "whole-cinc2017": lambda results, root: whole(results / "real", "cinc2017"),
    "simulated-tasks": lambda results, root: tasks(results),
    "real-tasks": lambda results, root: tasks(results / "real"),
    "tuning": tuning,
    "literature": literature_table,
}
