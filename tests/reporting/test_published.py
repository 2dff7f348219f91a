"""Published numbers stand beside the test set that they were computed on, and never beside another."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from test_tables import place

from ecglib import EcgError
from ecglib.data.labels import SUPERCLASSES
from ecglib.evaluation import predictions as wall
from ecglib.reporting import published, site, tables

ROOT = Path(__file__).resolve().parents[2]
SET_2198, SET_2158 = (f"super-{n} 1.0.3, likelihood published" for n in (2198, 2158))


@pytest.fixture(scope="module")
def numbers():
    return published.read(ROOT / "docs/published.csv")


def ours(label_set, n_records):
    return pd.DataFrame([[label_set, n_records, "**clef**", "linear", 0.9, 0.88, 0.92]], columns=published.OURS)


def sections(text):
    """{heading of a test set: its table}."""
    parts = text.split("\n\n")
    return dict(zip(parts[::2], parts[1::2], strict=False))


def test_every_published_number_is_shown_once_under_its_test_set(numbers):
    text = published.markdown(numbers, ours(SET_2198, 182).iloc[:0])
    shown = sections(text)
    for row in numbers.itertuples():
        heading = f"{row.task}: `{row.label_set}`, version {row.version}, {row.n_test:,} test records"
        (table,) = [table for title, table in shown.items() if title.startswith(heading)]
        lines = [line for line in table.splitlines() if f"{row.system}, {row.how} " in line]
        assert len(lines) == 1 and f"{row.score:.3f}" in lines[0] and (not row.crop_s or f"{row.crop_s} s" in lines[0])
        assert row.linear_recipe in lines[0] and row.source in lines[0]
    assert sum(table.count("\n") - 1 for table in shown.values()) == len(numbers)
    assert {row.n_test for row in numbers.itertuples() if row.label_set.startswith("super")} == {2203, 2198, 2158}


def test_the_committed_page_shows_the_committed_numbers(numbers):
    page = (ROOT / "docs/results.md").read_text("utf-8")
    block = re.search(r"<!-- published -->\n(.*?)\n<!-- end -->", page, re.S)[1]
    for heading, table in sections(published.markdown(numbers, ours(SET_2198, 182).iloc[:0])).items():
        assert heading in block
        assert all(line.split("|")[1].strip() in block for line in table.splitlines()[2:])


@pytest.mark.parametrize(("label_set", "n", "beside"), [(SET_2198, 2198, "super-2198"), (SET_2158, 2158, "super-2158")])
def test_our_score_stands_in_the_table_of_its_own_test_set_only(numbers, label_set, n, beside):
    for title, table in sections(published.markdown(numbers, ours(label_set, n))).items():
        assert ("this study" in table) == (f"`{beside}`" in title)


@pytest.mark.parametrize(
    ("label_set", "n"),
    [
        (SET_2198, 182),
        (SET_2198, 2158),
        (SET_2158, 2198),
        ("super-2198 1.0.3, likelihood certain", 2198),
        ("super-2198 1.0.3, likelihood published, 4 of 5 labels", 2198),
        ("sub 1.0.3, likelihood published", 2158),
    ],
)
def test_our_score_on_any_other_test_set_stands_in_no_table_and_is_refused_in_one(numbers, label_set, n):
    text = published.markdown(numbers, ours(label_set, n))
    assert "this study" not in text and f"its test set is `{label_set}`, {n:,} records" in text
    for _, rows in numbers.groupby(published.TEST_SET):
        with pytest.raises(EcgError, match="several test sets in one table"):
            published.with_ours(rows, ours(label_set, n))


@pytest.mark.parametrize("pair", [("super-2203", "super-2198"), ("super-2198", "super-2158"), ("all", "super-2198")])
def test_published_numbers_of_two_test_sets_are_refused_in_one_table(numbers, pair):
    with pytest.raises(EcgError, match="several test sets in one table"):
        published.with_ours(numbers[numbers.label_set.isin(pair)], ours(SET_2198, 2198).iloc[:0])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("n_test", "2158"),
        ("version", "1.0.1"),
        ("empty_records", "left out"),
        ("n_test", ""),
        ("n_test", "2,198"),
        ("score", ""),
        ("label_set", "super-2158"),
    ],
)
def test_a_number_with_another_test_set_than_its_name_says_is_refused(tmp_path, column, value):
    table = pd.read_csv(ROOT / "docs/published.csv", dtype=str, keep_default_na=False)
    line = table.index[table.label_set == "super-2198"][2]
    table.loc[line, column] = value
    table.to_csv(tmp_path / "published.csv", index=False)
    with pytest.raises(EcgError, match=f"line {line + 2}, {table.system[line]}") as caught:
        published.read(tmp_path / "published.csv")
    assert caught.value.file == str(tmp_path / "published.csv")
    table.drop(columns=column).to_csv(tmp_path / "published.csv", index=False)
    with pytest.raises(EcgError, match=f"no column {column}"):
        published.read(tmp_path / "published.csv")


@pytest.mark.parametrize(
    ("n_records", "n_labels", "beside"), [(2198, 4, False), (182, 5, False), (2158, 5, False), (2198, 5, True)]
)
def test_a_study_stands_beside_published_numbers_only_on_the_same_records_and_labels(
    tmp_path, n_records, n_labels, beside
):
    rows = place("ptb-xl", "test", 30, labels=list(SUPERCLASSES[:4])).assign(label_set=SET_2198)
    folder = tmp_path / "real/figures"
    folder.mkdir(parents=True)
    scores = tables.scores(rows, n=20).assign(n_records=n_records, n_labels=n_labels, task="ptbxl")
    scores.to_csv(folder / "scores.csv", index=False)
    tables.contract(rows).assign(task="ptbxl").to_csv(folder / "contract.csv", index=False)
    (folder / "leaders.json").write_text(json.dumps({"ptbxl": []}))
    text = site.BLOCKS["published"](tmp_path, ROOT)
    titles = [title for title, table in sections(text).items() if "this study" in table]
    assert len(titles) == beside and all("`super-2198`" in title for title in titles)
    assert ("Ours is in none" in text) != beside


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (SET_2198, SET_2158),
        (SET_2198, "super-2198 1.0.3, likelihood certain"),
        (SET_2198, "super-2203 1.0.1, likelihood published"),
        ("all 1.0.1, likelihood published", "all 1.0.3, likelihood published"),
    ],
)
def test_predictions_of_unlike_label_sets_are_refused_in_every_table(tmp_path, first, second):
    home = pd.concat([place("A", "test", 30), place("A", "val", 20)]).assign(label_set=first)
    away = place("B", "external", 25)
    mixes = [pd.concat([home, away.assign(label_set=second)])]  # another cohort
    one = home.encoder == "random"
    mixes += [pd.concat([home[~one], home[one].assign(label_set=second)])]  # two models of one cohort
    for k, mix in enumerate(mixes):
        for function in (tables.scores, tables.differences, tables.contract, tables.calibration, tables.external):
            with pytest.raises(EcgError, match=re.escape(" in one table: ") + ".*; ") as caught:
                function(mix)
            assert first in str(caught.value) and second in str(caught.value) and caught.value.field == "label_set"
        wall.write(mix, tmp_path / f"{k}/t-m/predictions.parquet")
        with pytest.raises(EcgError, match="unlike label sets"):
            wall.of_task(tmp_path / str(k), "t")
    alike = pd.concat([home, away.assign(label_set=first)])
    for rows in (alike, pd.concat([home, away]), pd.concat([home[~one], home[one].drop(columns="label_set")])):
        assert set(tables.contract(rows).label_set) <= {first, ""}


def test_label_sets_go_through_the_file_and_tables_without_any_stay_as_they_were(tmp_path):
    rows = place("A", "test", 20)
    assert "label_set" not in tables.contract(rows)
    wall.write(
        pd.concat([rows.assign(label_set=SET_2198), place("B", "external", 10)]), tmp_path / "predictions.parquet"
    )
    read = wall.load(tmp_path)
    assert set(read.label_set[read.cohort == "A"]) == {SET_2198} and set(read.label_set[read.cohort == "B"]) == {""}
    assert tables.contract(read).set_index("cohort").label_set.to_dict() == {"A": SET_2198, "B": ""}
    wall.write(rows, tmp_path / "predictions.parquet")
    assert "label_set" not in pd.read_parquet(tmp_path / "predictions.parquet")
