"""Published numbers, each with the test set that it was computed on, and beside no other.

A test set is a label set, a version of the corpus, a rule for records without any of the labels, and a number of
records: of one model and one task, two of them give two numbers.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.data import labels as vocabulary
from ecglib.data.labels import ABSENT, PTBXL_SUPER
from ecglib.reporting.tables import with_interval

TEST_SET = ["task", "label_set", "version", "empty_records", "n_test"]
OURS = ["label_set", "n_records", "system", "how", "score", "low", "high"]
COLUMNS = [*TEST_SET, "system", "how", "crop_s", "linear_recipe", "score", "low", "high", "source"]


def read(path) -> pd.DataFrame:
    """The published numbers in a CSV with COLUMNS, one row each; crop_s: seconds of one input, "" where not known.

    Raises EcgError with the row of a number without its test set, or with another than the name of that set says.
    """
    numbers = pd.read_csv(path, dtype=str, keep_default_na=False)
    if lacking := [name for name in COLUMNS if name not in numbers]:
        raise EcgError(f"no column {lacking[0]}", file=Path(path), field=lacking[0], fix=f"give {', '.join(COLUMNS)}")
    for line, row in enumerate(numbers.to_dict("records"), 2):
        wrong = [(name, row[name], "its value") for name in (*TEST_SET, "score") if not row[name]]
        wrong += [] if row["n_test"].isdigit() else [("n_test", row["n_test"], "a whole number")]
        if row["label_set"] in PTBXL_SUPER:
            version, empty = PTBXL_SUPER[row["label_set"]]
            right = {"version": version, "empty_records": "negative" if empty == ABSENT else "left out"}
            right["n_test"] = row["label_set"].rpartition("-")[2]
            wrong += [(name, row[name], value) for name, value in right.items() if row[name] != value]
        for name, value, expected in wrong:
            reason = f"line {line}, {row['system']}: {name} is {value!r}"
            raise EcgError(reason, file=Path(path), field=name, fix=f"write {expected}")
    return numbers.assign(**{name: pd.to_numeric(numbers[name]) for name in ("score", "low", "high", "n_test")})


def named(row) -> str:
    """The label set of a published number as cohorts name theirs (`labels.set_name`)."""
    return vocabulary.set_name({"name": row.label_set, "version": row.version, "likelihood": "published"})


def with_ours(numbers: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """Published numbers of one test set, and our scores on that very set as further rows.

    numbers: rows of `read`. ours: the columns OURS, label_set as in `tables.contract`.
    Raises EcgError where either is about another test set than the first of `numbers`.
    """
    first = numbers.iloc[0]
    sets = {tuple(row) for row in numbers[TEST_SET].itertuples(index=False)}
    sets |= {(row.label_set, row.n_records) for row in ours.itertuples()} - {(named(first), first.n_test)}
    if len(sets) > 1:
        fix = "show a number only beside those on the same test set"
        raise EcgError(f"several test sets in one table: {sorted(map(str, sets))}", field="label_set", fix=fix)
    ours = ours.assign(**first[TEST_SET], source="this study")
    return pd.concat([numbers, ours.reindex(columns=COLUMNS, fill_value="")], ignore_index=True)


def markdown(numbers: pd.DataFrame, ours: pd.DataFrame) -> str:
    """A table for each test set, headed by what it is, with those of our scores (see `with_ours`) that belong there;
    below them the test sets of ours that nothing is published for."""
    parts, apart = [], dict.fromkeys(zip(ours["label_set"], ours["n_records"], strict=True))
    for (task, label_set, version, empty, n), rows in numbers.groupby(TEST_SET, sort=False):
        key = named(rows.iloc[0]), n
        rows = with_ours(rows, ours[(ours["label_set"] == key[0]) & (ours["n_records"] == n)])
        crops = rows["crop_s"].map(lambda seconds: f"{seconds} s" if seconds else "-")
        table = {"system": rows["system"] + ", " + rows["how"], "AUROC": [*map(_score, rows.itertuples())]}
        table |= {"crop": crops, "linear": rows["linear_recipe"].replace("", "-"), "source": rows["source"]}
        parts += [f"{task}: `{label_set}`, version {version}, {n:,} test records; records without a label: {empty}"]
        parts += [pd.DataFrame(table).to_markdown(index=False, disable_numparse=True)]
        apart.pop(key, None)
    for label_set, n in apart:
        parts += [f"Ours is in none of these tables: its test set is `{label_set}`, {n:,} records."]
    return "\n\n".join(parts)


def _score(row) -> str:
    return f"{row.score:.3f}" if np.isnan(row.low) else with_interval(row.score, row.low, row.high)
