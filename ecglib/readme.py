"""Numbers and figures of the README and docs/, taken from results/ so that nobody types them.

A block between `<!-- NAME -->` and `<!-- end -->` is rewritten by the function of that name; `python -m ecglib readme`
does it, and the tests check that the committed text is what the committed results say.
"""

import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib.signals import EcgError

BLOCK = re.compile(r"(<!-- (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.S)
NAMES = {
    "random": "random encoder, linear probe",
    "features": "hand-made features, boosted trees",
    "scratch": "supervised from scratch",
}
FIGURES = {
    "label_efficiency_twelve.png": "figures/label_efficiency_twelve.png",
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


def _scores(folder: Path) -> pd.DataFrame | None:
    file = folder / "figures/scores.csv"
    return pd.read_csv(file) if file.is_file() else None


def efficiency(folder: Path, task: str, external: str | None, fractions=(0.01, 0.1, 1.0)) -> str | None:
    """Markdown table: methods in rows; macro AUROC at each share of the labels at home, and elsewhere at all labels."""
    scores = _scores(folder)
    if scores is None:
        return None
    rows = scores[(scores.task == task) & (scores.label == "macro") & (scores.metric == "auroc")]
    home, away = rows[rows.split == "test"], rows[rows.split == "external"]
    first = home.iloc[0]
    head = ["method", *(f"{100 * f:g} % of the labels" for f in fractions)]
    table = []
    for (encoder, mode), part in home.groupby(["encoder", "mode"], sort=False):
        cells = [_one(part[np.isclose(part.fraction, f)]) for f in fractions]
        if external:
            there = away[(away.cohort == external) & (away.encoder == encoder) & (away["mode"] == mode)]
            cells.append(_one(there[np.isclose(there.fraction, 1.0)]))
        table.append([_name(encoder, mode), *cells])
    if external:
        head.append(f"{external}, all labels")
    table.sort(key=lambda row: [*NAMES.values(), row[0]].index(row[0]))
    note = f"{first.cohort}: {first.n_records} test records of {first.n_patients} patients, {first.n_labels} labels"
    if external:
        there = away[away.cohort == external].iloc[0]
        note += f"; {external}: {there.n_records} records of {there.n_patients} patients, {there.n_labels} labels"
    return _markdown(head, table) + f"\n\nMacro AUROC (95 % interval over patients). {note}."


def _one(row: pd.DataFrame) -> str:
    if row.empty or np.isnan(row.iloc[0].point):
        return "–"
    row = row.iloc[0]
    return f"{row.point:.3f} ({row.low:.3f}–{row.high:.3f})"


def _name(encoder: str, mode: str) -> str:
    return NAMES.get(encoder) or f"**{encoder}**, {'linear probe' if mode == 'linear' else mode}"


def _markdown(head, rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def published(results: Path, root: Path) -> str:
    """Published numbers of the same task, marked as another protocol; from docs/published.csv."""
    table = pd.read_csv(root / "docs/published.csv")
    rows = [
        [r.task, f"{r.system}, {r.how}", f"*{r.score:.3f} ({r.low:.3f}–{r.high:.3f})*", r.source]
        for r in table.itertuples()
    ]
    return _markdown(["published elsewhere, on the full corpus", "system", "AUROC", "source"], rows)


BLOCKS = {
    "simulated-twelve": lambda results, root: efficiency(results, "twelve", "B"),
    "simulated-single": lambda results, root: efficiency(results, "single", "C"),
    "real-ptbxl": lambda results, root: efficiency(results / "real", "ptbxl", "ludb"),
    "real-cinc2017": lambda results, root: efficiency(results / "real", "cinc2017", None),
    "published": published,
}
