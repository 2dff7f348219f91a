"""Tables of the user's own folder: valid ones are read as written, damaged ones are refused, or right, or spoken of."""

import csv
import io
import random
import re
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecglib import EcgError, datasets

FOLDER = datasets.get("folder")
COLUMNS = ("record", "patient", "split", "age", "sex", "height", "NORM", "MI", "finding")
LABELS = COLUMNS[6:]
ROLES = COLUMNS[:5]
STATES = {1: ("1", "1.0", "True", "TRUE", "present"), 0: ("0", "0.0", "False", "false", "absent")}
STATES |= {2: ("possible",), -1: ("", "NA", "nan", "N/A", "-1", "NULL")}
MISSING = ("", "NA", "nan", "NaN", "None", "N/A", "null", "<NA>", "#N/A")
LOOKALIKES = {
    "patient": ("patient_id", "PatientID", "Subject ID", "subject_id", "pid", "anon_patient_id", "ID_PATIENT", "MRN"),
    "split": ("fold", "strat_fold", "Fold", "partition", "subset", "data_split", "cv_fold", "is_train", "splits"),
    "sex": ("gender", "Gender", "patient_sex"),
    "age": ("age_years", "AgeInYears", "patient age"),
    "record": ("file_path", "name", "recrod"),
}
WRONG = {
    "NORM": ("l", "O", "0.5", "100", "yes", "?", "1;0", "0 1", "3", "#REF!", "-2", "0,5", "+", "inf"),
    "MI": ("l", "x", "15.0", "50", "no", "MI", "11", "1?"),
    "finding": ("2", "2.0", "3", "l", "0.5", "x", "1_"),
    "age": ("61,5", "300", "90+", ">89", "1984-11-09", "-3", "abc", "inf", "1e5", "65y", "0x41"),
    "split": ("Train", "tset", "1", "validation", "NA", "nan", "train,val", "holdout"),
    "sex": ("3", "x", "man", "0", "Frau", "fm"),
    "record": ("", "NA", "nan", "None"),
}
QUIET = {"derandomize": True, "deadline": None, "database": None}
QUIET |= {"suppress_health_check": list(HealthCheck)}


class Table:
    """A valid table as cells, what it means, and how it is written down; damages change all three."""

    def __init__(self, seed: int):
        self.rng = rng = random.Random(seed)
        n = rng.randint(5, 9)
        splits = [rng.choice(("train", "val", "test", "external", "")) for _ in range(4)]
        self.names = {column: column for column in COLUMNS}  # what a column means -> its header, None where removed
        self.header, self.rows, self.truth = list(COLUMNS), [], {}
        for i in range(n):
            who, age = rng.randrange(4), rng.choice([None, rng.randint(0, 100), 61.5])
            sex, height = rng.choice(("female", "male", "")), rng.choice([None, rng.randint(140, 200)])
            states = [i % 2, 1 - i % 2, i % 2] if i < 3 else [rng.choice((1, 0, -1)) for _ in LABELS]
            means = [f"{17 + who}", splits[who], age, sex, height, *states]
            cells = [f"{17 + who}", splits[who], *("" if v is None else str(v) for v in (age, sex, height))]
            cells += [rng.choice(STATES[state]) for state in states]
            self.truth[f"ward/r{i}"] = dict(zip(COLUMNS[1:], means, strict=True))
            self.rows.append([f"ward/r{i}", *cells])
        self.newline, self.quoting, self.start, self.encoding = "\n", csv.QUOTE_MINIMAL, "", "utf-8"
        self.pad, self.behind, self.blank_lines, self.refuse, self.after = "", [], False, False, bytes

    def content(self) -> bytes:
        text = io.StringIO()
        lines = [[f"{self.pad}{c}{self.pad}" for c in row] + self.behind for row in (self.header, *self.rows)]
        if self.blank_lines:
            lines[2:2] = [[], []]
        csv.writer(text, quoting=self.quoting, lineterminator=self.newline).writerows(lines)
        return self.after((self.start + text.getvalue()).encode(self.encoding))

    def at(self, column: str) -> int:
        return self.header.index(self.names[column])

    def put(self, column: str, cell: str):
        """Write a cell of a column that is still there into a random row; returns what that record means."""
        row = self.rng.choice(self.rows)
        means = self.truth[row[self.at("record")]]
        row[self.at(column)] = cell
        return means

    def rename(self, column: str, name: str):
        self.header[self.at(column)] = name
        self.names[column] = name


# Changes that a table survives with its meaning.


def other_line_ends(t):
    t.newline = t.rng.choice(("\r\n", "\r"))


def quoted(t):
    t.quoting = csv.QUOTE_ALL


def byte_order_mark(t):
    t.start = "\ufeff"


def blanks_around(t):
    t.pad = t.rng.choice((" ", "  ", "\u00a0"))


def capitals(t):
    column = t.rng.choice(ROLES)
    t.rename(column, t.rng.choice((column.upper(), column.title())))


def empty_cells_behind(t):
    t.behind = ["", ""]


def blank_lines(t):
    t.blank_lines = True


def row_lost(t):
    lost = t.rows.pop(t.rng.randrange(3, len(t.rows)))
    t.truth.pop(lost[t.at("record")])


def other_order(t):
    order = t.rng.sample(range(len(t.header)), len(t.header))
    t.header, t.rows = [t.header[i] for i in order], [[row[i] for i in order] for row in t.rows]


def other_spelling_of_a_state(t):
    label = t.rng.choice(LABELS)
    state = t.rng.choice(list(STATES))
    t.put(label, t.rng.choice(STATES[state]))[label] = state


def possible_as_2(t):
    t.put("MI", t.rng.choice(("2", "2.0")))["MI"] = 2


def nobody(t):
    t.put("patient", t.rng.choice(MISSING))["patient"] = None


def nothing_known(t):
    column = t.rng.choice(("age", "sex", "height"))
    t.put(column, t.rng.choice(MISSING))[column] = "" if column == "sex" else None


HARMLESS = [other_line_ends, quoted, byte_order_mark, capitals, row_lost, other_order, other_spelling_of_a_state]
HARMLESS += [possible_as_2, nobody, nothing_known, blank_lines, empty_cells_behind, blanks_around]


# Changes that take a meaning away: the table is refused, or what was taken for what tells of it.


def wrong_cell(t):
    column = t.rng.choice(list(WRONG))
    t.put(column, t.rng.choice(WRONG[column]))
    t.refuse = True


def lookalike(t):
    column = t.rng.choice(list(LOOKALIKES))
    t.rename(column, t.rng.choice(LOOKALIKES[column]))
    t.refuse = True


def lookalike_beside(t):
    column = t.rng.choice(("patient", "split"))
    t.header.append(t.rng.choice(LOOKALIKES[column]))
    t.rows = [[*row, t.rng.choice("12")] for row in t.rows]
    t.refuse = True


def column_twice(t):
    column = t.rng.choice(COLUMNS)
    t.header.append(t.rng.choice((column, column.swapcase(), f"{column} ")))
    t.rows = [[*row, row[t.at(column)]] for row in t.rows]
    t.refuse = True


def column_lost(t):
    column, at = (c := t.rng.choice(COLUMNS[1:])), t.at(c)
    del t.header[at]
    t.rows = [row[:at] + row[at + 1 :] for row in t.rows]
    t.names[column] = None


def header_mistyped(t):
    column = t.rng.choice(COLUMNS)
    at = t.rng.randrange(len(column))
    t.rename(column, column[:at] + t.rng.choice(("", "x", "_", "é")) + column[at + 1 :])


def header_lost(t):
    t.rename(t.rng.choice(COLUMNS), "")


def record_twice(t):
    row = list(t.rng.choice(t.rows[:3]))
    at = t.at("record")
    row[at] = t.rng.choice((row[at], f"./{row[at]}", f"{row[at]}.hea", f"x/../{row[at]}", row[at].replace("/", "//")))
    t.rows.append(row)
    t.refuse = True


def patient_in_another_spelling(t):
    at = t.at("patient")
    one, other = t.rng.sample(t.rows, 2)
    other[at] = one[at] = "0041"
    other[at] = t.rng.choice(("41", "41.0", "０041", "0041\u200b"))
    t.refuse = True


def other_separator(t):
    other = t.rng.choice((b";", b"\t", b"|"))
    t.after = lambda content: content.replace(b",", other)
    t.refuse = True


def separator_changed_in_a_row(t):
    row = t.rng.choice(t.rows)
    at = t.rng.randrange(len(row))
    row[at : at + t.rng.choice((1, 2))] = [] if t.rng.random() < 0.5 else [row[at], "1", "0"]
    t.refuse = True


def quote_left_open(t):
    t.put(t.rng.choice(COLUMNS), "@@")
    t.after = lambda content: content.replace(b"@@", b'"a')
    t.refuse = True


def other_encoding(t):
    t.put("height", "größe")
    t.encoding = t.rng.choice(("latin-1", "utf-16", "utf-16-le", "utf-32"))
    t.start, t.refuse = "", True


def zero_byte(t):
    at = t.rng.random()
    t.after = lambda content: content[: int(at * len(content))] + b"\0" + content[int(at * len(content)) :]
    t.refuse = True


def cut_off(t):
    rows = t.rng.randrange(1, len(t.rows))
    t.rows = t.rows[:rows]
    t.rows[-1] = t.rows[-1][: t.rng.randrange(1, len(t.header))]
    t.refuse = True


DAMAGES = [wrong_cell, wrong_cell, wrong_cell, lookalike, lookalike_beside, column_twice, column_lost, header_mistyped]
DAMAGES += [header_mistyped, header_lost, record_twice, patient_in_another_spelling, other_separator, other_encoding]
DAMAGES += [separator_changed_in_a_row, quote_left_open, zero_byte, cut_off]


def read(path, table):
    path.joinpath("records.csv").write_bytes(table.content())
    records = FOLDER.records(path)
    return records.set_index("record_id"), FOLDER.labels(path, records), records.attrs


def equal(found, expected) -> bool:
    missing = expected is None or expected != expected
    return bool(found != found) if missing else found == expected


def check(table: Table, records, states, attrs) -> None:
    """Every value is the one that was written; what was not taken for what it is has been told."""
    said, notes = attrs["read_as"], " ".join(attrs["notes"])
    names = table.names
    assert set(records.index) == set(table.truth) and list(states.index) == list(records.index)
    for column in LABELS:
        if names[column] in states:
            assert states[names[column]].to_dict() == {k: v[column] for k, v in table.truth.items()}, column
        else:
            assert names[column] is None or (names[column] or "Unnamed") in said["metadata"], column
    if said["patients"] == f"column {names['patient']}":
        for name, who in records.patient_id.items():
            assert who == (table.truth[name]["patient"] or f"record {name}")
        assert any(v["patient"] is None for v in table.truth.values()) == ("name no patient" in notes)
    else:
        assert said["patients"] == "no column" and "name no patient" in notes and records.patient_id.is_unique
    if said["splits"] == f"column {names['split']}":
        assert records.split.to_dict() == {k: v["split"] for k, v in table.truth.items()}
    else:
        assert said["splits"] == "dealt by patient" and "the table has no split" in notes
    for column in ("age", "sex"):
        if f"{column} (column {names[column]})" in said["metadata"]:
            assert all(equal(records[column][k], v[column]) for k, v in table.truth.items()), column
        else:
            assert (records[column].isna() | (records[column] == "")).all()
            assert names[column] is None or (names[column] or "Unnamed") in said["metadata"], column
    if names["height"] in records:
        assert all(equal(records[names["height"]][k], v["height"]) for k, v in table.truth.items())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


def changed(data, changes) -> Table:
    table = Table(data.draw(st.integers(0, 2**32)))
    for change in data.draw(st.lists(st.sampled_from(HARMLESS), max_size=2, unique=True)) + changes:
        change(table)
    return table


def test_random_valid_tables_are_read_as_written(place):
    seen = set()

    @settings(max_examples=150, **QUIET)
    @given(st.data())
    def run(data):
        table = changed(data, [])
        check(table, *read(place, table))
        seen.add(table.content())

    run()
    assert len(seen) >= 120


def test_a_damaged_table_is_refused_or_right_or_spoken_of(place):
    seen, refused = defaultdict(set), set()

    @settings(max_examples=1100, **QUIET)
    @given(st.data(), st.sampled_from(DAMAGES))
    def run(data, damage):
        table = changed(data, [damage])
        content = table.content()
        seen[damage.__name__].add(content)
        try:
            found = read(place, table)
        except EcgError as error:
            assert error.file and error.field or "not a readable CSV" in error.reason, error
            refused.add(content)
            return
        assert not table.refuse, f"accepted: {content}"
        check(table, *found)

    run()
    n = sum(map(len, seen.values()))
    assert (
        n >= 1000 and len(refused) >= 0.7 * n and min(map(len, seen.values())) >= 20 and len(seen) == len(set(DAMAGES))
    )


def meaning(content: bytes) -> Table:
    """What a table says by its columns' places, cell by cell; a cell that says nothing equals nothing."""
    table, missing = Table(0), {cell.lower() for cell in MISSING}
    header, *rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")) if row]
    table.names = dict(zip(COLUMNS, (name.strip() for name in header), strict=False)) | {"height": None}
    states = {word.lower(): state for state, words in STATES.items() for word in words}
    states |= dict.fromkeys(missing - {"none"}, -1) | {"2": 2, "2.0": 2, "-1.0": -1}
    table.truth = {}
    for row in rows:
        record, who, split, age, sex, _, *cells = [cell.strip() for cell in row[: len(COLUMNS)]]
        means = {"patient": None if who.lower() in missing else who, "split": split}
        means["age"] = None if age.lower() in missing else float(age) if re.fullmatch(r"[-+.\de]+", age) else object()
        means["sex"] = {"f": "female", "m": "male"}.get(sex.lower(), sex.lower()) if sex.lower() not in missing else ""
        means |= {label: states.get(cell.lower(), object()) for label, cell in zip(LABELS, cells, strict=True)}
        assert record not in table.truth
        table.truth[record] = means
    return table


def test_bytes_changed_at_random_are_read_as_written_or_refused(place):
    seen, read_whole = set(), set()
    signs = [bytes([c]) for c in b',,""\n\r;\t |\x00\xff\xc3.-?1029aNe']

    @settings(max_examples=350, **QUIET)
    @given(st.integers(0, 2**32), st.sampled_from(signs), st.sampled_from(("insert", "replace", "delete")))
    def run(seed, sign, how):
        table = Table(seed)
        content = table.content()
        at = table.rng.randrange(len(content))
        content = content[:at] + (b"" if how == "delete" else sign) + content[at + (how != "insert") :]
        table.after = lambda _: content
        seen.add(content)
        try:
            found = read(place, table)
        except EcgError:
            return
        read_whole.add(content)
        check(meaning(content), *found)

    run()
    assert len(seen) >= 300 and 30 <= len(read_whole) <= 0.8 * len(seen)
