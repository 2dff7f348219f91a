"""The works that this project answers to, each with our number, the baseline beside it, and the published one."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.reporting.tables import with_interval

COLUMNS = ["work", "source", "question", "ours", "measure", "table", "row", "baseline", "values", "published"]
COLUMNS += ["test_set", "remark"]
SCORES = "figures/scores.csv"  # of notebook 20: test records at home, all labels, unless a row says otherwise
USUAL = "split == 'test' and metric == 'auroc' and label == 'macro' and fraction == 1"
VALUES = "point low high"
HEAD = ["work", "what it asks", "here", "baseline here", "published", "on which test set"]
HEAD += ["why they differ, or what is missing"]


def read(path) -> pd.DataFrame:
    """The works in a CSV with COLUMNS, one row each, all text.

    path: work, source: name and paper; question: what it asks; ours: the method or notebook that answers; measure: what
    our number is. table: a CSV below results/; row, baseline: the rows of it (pandas query) that hold our number and
    the one to beat; values: its columns for the number and the ends of its interval, VALUES if empty.
    published: the number of the paper; test_set: what it was computed on, "... not stated" where that is not known;
    remark: why the two may not be compared, or why there is no row.
    Raises EcgError with the line of a work that has neither a number nor a remark, or a published number without its
    test set.
    """
    works = pd.read_csv(path, dtype=str, keep_default_na=False)
    if lacking := [name for name in COLUMNS if name not in works]:
        raise EcgError(f"no column {lacking[0]}", file=Path(path), field=lacking[0], fix=f"give {', '.join(COLUMNS)}")
    for line, work in enumerate(works.itertuples(), 2):
        empty = [name for name in ("work", "source", "question", "remark") if not getattr(work, name)]
        if bool(work.table) != bool(work.row):
            empty += ["row" if work.table else "table"]
        if re.search(r"\d", work.published) and not work.test_set:
            empty += ["test_set"]
        if empty:
            raise EcgError(
                f"line {line}, {work.work}: {empty[0]} is empty", file=Path(path), field=empty[0], fix="fill"
            )
    return works


def markdown(works: pd.DataFrame, results, before: str = "") -> str | None:
    """Markdown table of the works in the order of their file; None where none of their tables is in `results`.

    works: as `read` gives them. results: the folder of the study, with real/ in it; before: the table as it stands,
    whose numbers a work keeps where its own table is not in `results`: without them it says what computes it. Raises
    EcgError for a query that does not name exactly one row.
    """
    results, named = Path(results), set(works.table) - {""}
    tables = {name: pd.read_csv(results / name) for name in named if (results / name).is_file()}
    if named and not tables:
        return None
    kept = {line[0]: line[2:4] for line in map(_cells, before.splitlines()) if len(line) == len(HEAD)}
    lines = []
    for work in works.itertuples():
        about = f"{work.work} ({work.source})"
        number, floor = (_number(tables, work, query) for query in (work.row, work.baseline))
        ours = f"{work.ours}: {work.measure} {number}" if number else work.ours or "no row"
        if work.table not in tables:
            floor = ""
            if work.table and re.search(r"\d\.\d{3}", kept.get(about, [""])[0]):
                ours, floor = kept[about]
        lines.append(
            [about, work.question, ours, floor or "-", work.published or "-", work.test_set or "-", work.remark]
        )
    return pd.DataFrame(lines, columns=HEAD).to_markdown(index=False, disable_numparse=True)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def _number(tables: dict, work, query: str) -> str:
    """The number and interval that a query points at, with the name before ": " in the query; "" without a query."""
    if not query:
        return ""
    name, _, query = query.rpartition(": ")
    if work.table not in tables:
        return f"(run `make {'real' if work.table.startswith('real/') else 'repro'}`)"
    table = tables[work.table]
    chosen = table.query(f"({query}) and {USUAL}" if work.table.endswith(SCORES) else query)
    if len(chosen) != 1:
        fix = "write a query that names one row"
        raise EcgError(f"{work.work}: {query} gives {len(chosen)} rows", file=work.table, field="row", fix=fix)
    values = [chosen.iloc[0][column] for column in (work.values or VALUES).split()]
    shown = with_interval(*values) if len(values) == 3 and np.isfinite(values).all() else f"{values[0]:.3f}"
    return f"{name}: {shown}" if name else shown
