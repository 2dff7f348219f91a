"""docs/published_tasks.csv, which notebook 06 shows beside our scores: each number with its test set and source."""

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]


COLUMNS = ["task", "corpus", "n_test", "system", "how", "metric", "score", "low", "high", "source"]


def test_each_number_names_its_patients_its_metric_and_where_it_is_from():
    table = pd.read_csv(ROOT / "docs/published_tasks.csv", keep_default_na=False)
    assert list(table) == COLUMNS
    assert all(n == "" or n.isdigit() for n in table.n_test)  # "": not stated where the number is from
    assert (table.low <= table.score).all() and (table.score <= table.high).all()
    assert not (table.drop(columns="n_test") == "").any(axis=None)
    assert not table.duplicated(["task", "corpus", "system", "how"]).any()
    of_task = table.groupby("task").metric.unique()
    assert {task: list(names) for task, names in of_task.items()} == {
        "age": ["mean absolute error in standard deviations"],
        "sex": ["AUROC"],
    }
    known = table.set_index(["task", "system", "how"]).score  # arXiv 2509.25095, two cells read by hand
    assert known["sex", "ECGFounder", "finetune"] == 0.913 and known["age", "ECG-FM", "finetune"] == 0.412
