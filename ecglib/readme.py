"""Numbers and figures of the README and docs/, taken from results/ so that nobody types them.

A block between `<!-- NAME -->` and `<!-- end -->` is rewritten by the function of that name; `python -m ecglib readme`
does it, and the tests check that the committed text is what the committed results say.
"""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib.notes import HERE, HOME, footnote, marked
from ecglib.signals import EcgError

BLOCK = re.compile(r"(<!-- (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.S)
NAMES = {
    "random": "random encoder, linear probe",
    "features": "hand-made features, boosted trees",
    "scratch": "supervised from scratch",
}
FIGURES = {
    "comparison_twelve.png": "figures/comparison_twelve.png",
    "label_efficiency_twelve.png": "figures/label_efficiency_twelve.png",
    "real_comparison_ptbxl.png": "real/figures/comparison_ptbxl.png",
    "real_differences_ptbxl.png": "real/figures/differences_ptbxl.png",
    "forest_twelve.png": "figures/forest_twelve.png",
    "real_label_efficiency_ptbxl.png": "real/figures/label_efficiency_ptbxl.png",
    "real_forest_ptbxl.png": "real/figures/forest_ptbxl.png",
}


def update(results, root) -> list[Path]:
    """Rewrite the blocks of README.md and docs/*.md below `root` and copy FIGURES to docs/figures.

    A block whose results are not there (no `make real` yet) stays as it is. Returns the files that changed.
    Raises EcgError for a block with an unknown name.
    """
    results, root, changed = Path(results), Path(root), []
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        old = page.read_text("utf-8")
        new = BLOCK.sub(partial(_filled, results=results, root=root, page=page), old)
        if new != old:
            page.write_text(new, "utf-8")
            changed.append(page)
    for name, source in FIGURES.items():
        target = root / "docs/figures" / name
        if (results / source).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_file() or target.read_bytes() != (results / source).read_bytes():
                shutil.copyfile(results / source, target)
                changed.append(target)
    return changed


def _filled(found, results: Path, root: Path, page: Path) -> str:
    name = found["name"]
    if name not in BLOCKS:
        raise EcgError(f"unknown block {name!r}", file=page, fix=f"use one of {', '.join(BLOCKS)}")
    text = BLOCKS[name](results, root)
    return found[0] if text is None else f"{found[1]}{text}\n{found[3]}"


def efficiency(folder: Path, task: str, fractions=(0.01, 0.1, 1.0), metric="auroc", whole=False) -> str | None:
    """Markdown table: a macro score on the test patients at home, by method and share of the training labels.

    Unless `whole` only the baselines, the encoder pretrained on labels, and the best on validation patients.
    """
    scores = _table(folder, "scores")
    if scores is None:
        return None
    rows = scores[(scores.task == task) & (scores.label == "macro") & (scores.metric == metric)]
    home, table = _shown(rows[rows.split == "test"], folder, task, whole), []
    for (title, mode), part in home.groupby(["title", "mode"], sort=False):
        table.append([_name(title, mode), *(_one(part[np.isclose(part.fraction, f)]) for f in fractions)])
    if home.empty:
        return None
    first = home.iloc[0]
    about = f"{first.cohort}, {first.n_records} test records of {first.n_patients} patients, {first.n_labels} labels"
    head = ["method", *(f"{100 * f:g} % of the training labels" for f in fractions)]
    return _explained(head, _ranked(table), f"Macro {metric.upper()} (95 % interval over patients), {about}.")


def transfer(folder: Path, task: str, whole=False) -> str | None:
    """Markdown table: the labels that both hospitals state, at home and away, and the drop; all training labels."""
    table = _table(folder, "transfer")
    if table is None:
        return None
    labels = table[(table.task == task) & (table.metric == "auroc")]
    if labels.empty:
        return None
    rows = _shown(labels[labels.label == "macro"], folder, task, whole)
    away = rows.cohort.iloc[0]
    n = int((labels[labels.label != "macro"].groupby(["encoder", "mode"])["drop"].count()).iloc[0])
    lines = [
        [_name(r.title, r.mode), *(_span(r, side) for side in ("internal", "external")), _span(r, "drop", "+")]
        for r in rows.itertuples()
    ]
    about = f"the {n} labels that can be scored in both; {away}: {rows.n_records_external.max()} records"
    head = ["method", "at home", f"in {away}", "change"]
    about = f"Macro AUROC over {about}.{_left_out(folder, task, away, whole)}"
    return _explained(head, _ranked(lines), about, HOME)


def _left_out(folder: Path, task: str, away: str, whole: bool) -> str:
    """A sentence on the models that have no row because they have seen the other hospital, or may have; or nothing."""
    scores = _table(folder, "scores")
    if scores is None:
        return ""
    rows = scores[(scores.task == task) & (scores.cohort == away) & np.isclose(scores.fraction, 1)]
    rows = _shown(rows[rows.title != rows.encoder], folder, task, whole)
    names = ", ".join(dict.fromkeys(_name(*pair) for pair in zip(rows.encoder, rows["mode"], strict=True)))
    return f" {away} is not external to {names}: pretrained on its recordings, or not known." if names else ""


def gains(folder: Path, task: str, fraction: float = 0.1, whole=False) -> str | None:
    """Markdown table: paired differences of every other method to each baseline at one share of the labels; unless
    `whole` at home only, to the random encoder and to training from scratch."""
    table = _table(folder, "differences")
    if table is None:
        return None
    rows = table[(table.task == task) & np.isclose(table.fraction, fraction) & table.point.notna()]
    rows = _shown(rows, folder, task, whole)
    if not whole:  # the two questions of the study, at home
        rows = rows[(rows.split == "test") & rows.reference.isin(["random", "scratch"])]
    lines = [
        [r.cohort, _name(r.title, r.mode), NAMES[r.reference], _span(r, "point", "+"), f"{r.p_holm:.3f}"]
        for r in rows.itertuples()
    ]
    head = ["hospital", "method", "against", f"difference at {100 * fraction:g} % of the labels", "p (Holm)"]
    return _explained(head, lines)


def _table(folder: Path, name: str) -> pd.DataFrame | None:
    """A table of notebook 09, with marked encoders as `title`; None before it has run (leaders.json is the last thing
    that it writes beside them)."""
    file = folder / f"figures/{name}.csv"
    if not file.is_file() or not (folder / "figures/leaders.json").is_file():
        return None
    table = pd.read_csv(file)
    return table.assign(title=marked(table))


def _shown(rows: pd.DataFrame, folder: Path, task: str, whole: bool) -> pd.DataFrame:
    if whole:
        return rows
    leaders = json.loads((folder / "figures/leaders.json").read_text())[task]
    return rows[rows.encoder.isin([*NAMES, "supervised", *leaders]) & ~rows["mode"].isin(["zero-shot", "head"])]


def _ranked(lines: list[list[str]]) -> list[list[str]]:
    """The baselines first, in their order."""
    names = list(NAMES.values())
    return sorted(lines, key=lambda line: names.index(line[0]) if line[0] in names else len(names))


def _span(row, column: str, sign: str = "") -> str:
    low, high = ("low", "high") if column == "point" else (f"{column}_low", f"{column}_high")
    ends = f"{getattr(row, low):{sign}.3f} to {getattr(row, high):{sign}.3f}"
    return f"{getattr(row, column):{sign}.3f} ({ends})"


def _one(row: pd.DataFrame) -> str:
    if row.empty or np.isnan(row.iloc[0].point):
        return "–"
    row = row.iloc[0]
    return f"{row.point:.3f} ({row.low:.3f} to {row.high:.3f})"


def _name(title: str, mode: str) -> str:
    return NAMES.get(title) or f"**{title}**, {'linear probe' if mode == 'linear' else mode}"


def _markdown(head, rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _explained(head, rows, about: str = "", corpus: str = HERE) -> str:
    """A table, what it is about, and the legend of the marks in it."""
    table = _markdown(head, rows)
    return "\n\n".join(part for part in (table, about, footnote(table, corpus)) if part)


def whole(folder: Path, task: str) -> str | None:
    """Every table of one task with all its methods, for docs/."""
    parts = [efficiency(folder, task, metric=metric, whole=True) for metric in ("auroc", "auprc")]
    parts += [gains(folder, task, fraction, whole=True) for fraction in (0.01, 0.1, 1.0)]
    parts += [transfer(folder, task, whole=True)]
    return None if parts[0] is None else "\n\n".join(part for part in parts if part)


def tuning(results: Path, root: Path) -> str | None:
    """The search over learning rates: macro AUROC on validation, the chosen one in bold; from docs/tuning.csv."""
    file = root / "docs/tuning.csv"
    if not file.is_file():
        return None
    rows = []
    for method, part in pd.read_csv(file).sort_values("lr").groupby("method"):
        before, part = part[part.lr == 0].validation, part[part.lr > 0]
        best = part.validation.max()
        cells = [f"{r.lr:g}: {r.validation:.3f}" for r in part.itertuples()]
        cells = [f"**{c}**" if v == best else c for c, v in zip(cells, part.validation, strict=True)]
        rows.append([method, *(f"{v:.3f}" for v in before), *cells, *["–"] * (3 - len(cells))])
    return _markdown(["method", "untrained", "lower", "middle", "higher"], rows)


def published(results: Path, root: Path) -> str:
    """Published numbers of the same task, marked as another protocol; from docs/published.csv."""
    table = pd.read_csv(root / "docs/published.csv")
    rows = [
        [r.task, f"{r.system}, {r.how}", f"{r.score:.3f} ({r.low:.3f} to {r.high:.3f})", r.source]
        for r in table.itertuples()
    ]
    return _markdown(["published elsewhere, on the full corpus", "system", "AUROC", "source"], rows)


def zoo_table(results: Path, root: Path) -> str:
    """The published models there are, from their cards."""
    from ecglib import zoo  # here, since it loads torch, which the other blocks do without

    table = zoo.table()
    return _markdown(list(table), table.astype(str).to_numpy().tolist())


BLOCKS = {
    "zoo": zoo_table,
    "simulated-twelve": lambda results, root: efficiency(results, "twelve"),
    "simulated-single": lambda results, root: efficiency(results, "single"),
    "simulated-gains": lambda results, root: gains(results, "twelve"),
    "simulated-transfer": lambda results, root: transfer(results, "twelve"),
    "simulated-transfer-single": lambda results, root: transfer(results, "single"),
    "real-ptbxl": lambda results, root: efficiency(results / "real", "ptbxl"),
    "real-gains": lambda results, root: gains(results / "real", "ptbxl"),
    "real-transfer": lambda results, root: transfer(results / "real", "ptbxl"),
    "real-cinc2017": lambda results, root: efficiency(results / "real", "cinc2017"),
    "published": published,
    "whole-twelve": lambda results, root: whole(results, "twelve"),
    "whole-single": lambda results, root: whole(results, "single"),
    "whole-ptbxl": lambda results, root: whole(results / "real", "ptbxl"),
    "whole-cinc2017": lambda results, root: whole(results / "real", "cinc2017"),
    "tuning": tuning,
}
