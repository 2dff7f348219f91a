"""Predictions that somebody else wrote: what cannot be is refused with its file and column before any table."""

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.evaluation import predictions


def table(n=6) -> pd.DataFrame:
    """Two labels of n records of one model; two records a patient."""
    ids, truth = np.repeat([f"r{k}" for k in range(n)], 2), np.tile([0, 1, 1, 0], n)[: 2 * n]
    columns = {"record_id": ids, "patient_id": np.repeat([f"p{k // 2}" for k in range(n)], 2), "cohort": "A"}
    columns |= {"split": "test", "label": np.tile(["AFIB", "NORM"], n), "truth": truth.astype(np.int8)}
    columns |= {"probability": np.linspace(0, 1, 2 * n, dtype=np.float32), "encoder": "mine", "mode": "linear"}
    return pd.DataFrame({**columns, "fraction": 1.0, "seed": 0})


BAD = [
    ("probability", np.nan),
    ("probability", np.inf),
    ("probability", -0.01),
    ("probability", 23.0),
    ("truth", 0.5),
    ("truth", np.nan),
    ("truth", -2),
    ("record_id", None),
    ("record_id", ""),
    ("patient_id", np.nan),
    ("patient_id", "nan"),
    ("patient_id", " "),
    ("cohort", None),
    ("split", None),
    ("label", None),
    ("encoder", None),
    ("mode", ""),
    ("fraction", np.nan),
    ("fraction", 10),
    ("seed", np.nan),
]


@pytest.mark.parametrize(("column", "value"), BAD, ids=[f"{column} {value!r}" for column, value in BAD])
def test_one_cell_that_cannot_be_stops_with_file_and_column(tmp_path, column, value):
    """Groups leave out rows with an empty key without a word: they must not get that far."""
    bad = table().astype({column: object if isinstance(value, str | None) or column.endswith("id") else float})
    bad.loc[3, column] = value
    bad.to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(EcgError) as caught:
        predictions.load(tmp_path)
    assert caught.value.field == column and caught.value.file.endswith("predictions.parquet") and caught.value.fix


@pytest.mark.parametrize("column", ["probability", "truth", "fraction", "seed"])
def test_numbers_written_as_text_are_refused(tmp_path, column):
    table().astype({column: str}).to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(EcgError) as caught:
        predictions.load(tmp_path)
    assert caught.value.field == column


def test_rows_that_are_there_twice_no_rows_and_no_table_are_refused(tmp_path):
    file = tmp_path / "predictions.parquet"
    pd.concat([table(), table().iloc[[5]]]).to_parquet(file)
    with pytest.raises(EcgError, match="predicted twice"):
        predictions.load(file)
    table().iloc[:0].to_parquet(file)
    with pytest.raises(EcgError, match="no prediction"):
        predictions.load(file)
    table().to_csv(file)
    with pytest.raises(EcgError, match="not a parquet table"):
        predictions.load(file)


def test_a_record_of_two_patients_is_refused(tmp_path):
    rows = table().assign(patient_id=[f"p{k}" for k in range(12)])
    with pytest.raises(EcgError, match="two patients") as caught:
        predictions.by_cohort(rows)
    assert caught.value.field == "patient_id"


def test_names_that_are_numbers_are_names(tmp_path):
    """A table written by somebody whose records have numbers meets one whose records have names."""
    numbered = table().assign(record_id=np.repeat(np.arange(6), 2), patient_id=np.repeat([0, 0, 1, 1, 2, 2], 2))
    for name, rows in (("a", numbered), ("b", table().assign(encoder="other"))):
        (tmp_path / name).mkdir()
        rows.to_parquet(tmp_path / name / "predictions.parquet")
    loaded = predictions.load(tmp_path)
    assert len(loaded) == 24 and set(loaded.record_id[loaded.encoder == "mine"]) == set("012345")


@pytest.mark.parametrize("left", ["t-mine.part", ".t-mine.old", ".t-mine.part", "t-mine.old"])
def test_what_interrupted_runs_left_is_no_method(tmp_path, left):
    for name, rows in (("t-mine", table()), (left, table().assign(encoder="half"))):
        (tmp_path / name).mkdir()
        rows.to_parquet(tmp_path / name / "predictions.parquet")
    (tmp_path / "t-empty.part").mkdir()
    assert set(predictions.load_task(tmp_path, "t").encoder) == {"mine"}
    assert set(predictions.load(tmp_path).encoder) == {"mine"}


def test_a_misspelt_task_or_method_is_named_with_what_was_meant(tmp_path):
    for name in ("twelve-clef", "single-random"):
        (tmp_path / name).mkdir()
    with pytest.raises(EcgError, match="unknown task 'twleve' -> did you mean 'twelve'"):
        predictions.load_task(tmp_path, "twleve")
    with pytest.raises(EcgError, match="unknown method 'clfe' -> did you mean 'clef'"):
        predictions.load_task(tmp_path, "twelve", ["clfe"])
