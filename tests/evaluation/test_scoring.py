"""Anyone's predictions beside a table of truth: matched by name, judged as scikit-learn does, refused with a reason."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, recall_score, roc_auc_score

from ecglib import EcgError
from ecglib.evaluation import predictions, scoring

N, LABELS = 60, ["A", "B"]


@pytest.fixture
def work(tmp_path):
    """60 records of 30 patients below records/, with truth.csv, and scores that know something."""
    random = np.random.default_rng(0)
    y = random.integers(0, 2, (N, 2))
    p = np.clip(0.5 + 0.25 * (2 * y - 1) + random.normal(0, 0.3, y.shape), 0, 1).round(3)
    names = [f"records/{i // 10}/r{i}" for i in range(N)]
    truth = pd.DataFrame({"record": names, "patient": [f"p{i // 2}" for i in range(N)], "A": y[:, 0], "B": y[:, 1]})
    truth.to_csv(tmp_path / "truth.csv", index=False)
    return tmp_path, y, p, names


def judged(folder, table, **options):
    table.to_csv(folder / "scores.csv", index=False)
    scores, truth = scoring.read_scores(folder / "scores.csv"), scoring.read_truth(folder / "truth.csv")
    return scoring.evaluate(scores, truth, progress=lambda line: None, n=200, **options)


def value(table, label, statistic):
    return table[(table.label == label) & (table.statistic == statistic)].iloc[0]


def test_the_numbers_are_those_of_scikit_learn_and_lie_in_their_intervals(work):
    folder, y, p, names = work
    call = (p >= 0.6).astype(int)
    columns = {f"p: {name}": p[:, k] for k, name in enumerate(LABELS)}
    columns |= {f"call: {name}": call[:, k] for k, name in enumerate(LABELS)}
    table = judged(folder, pd.DataFrame({"record": names, **columns}))
    for k, label in enumerate(LABELS):
        wanted = {"auroc": roc_auc_score(y[:, k], p[:, k]), "auprc": average_precision_score(y[:, k], p[:, k])}
        wanted |= {"brier": brier_score_loss(y[:, k], p[:, k]), "sensitivity": recall_score(y[:, k], call[:, k])}
        wanted |= {"f1": f1_score(y[:, k], call[:, k]), "specificity": recall_score(1 - y[:, k], 1 - call[:, k])}
        for statistic, expected in wanted.items():
            row = value(table, label, statistic)
            assert row.value == pytest.approx(expected, abs=1e-12) and row.low <= row.value <= row.high
            assert row.high > row.low and row.positives == y[:, k].sum() and row.records == N
    macro = value(table, "macro", "auroc")
    assert macro.value == pytest.approx(np.mean([roc_auc_score(y[:, k], p[:, k]) for k in range(2)]))
    assert "ece, calibrated" not in set(table.statistic)


def test_an_interval_is_over_patients(work):
    """Records that are copies of their patient's first one say nothing new: the interval stays as wide."""
    folder, y, p, names = work
    patients = np.repeat(np.arange(N), 5)
    once = scoring.summary(y, p, np.arange(N), LABELS, n=400)
    often = scoring.summary(np.repeat(y, 5, 0), np.repeat(p, 5, 0), patients, LABELS, n=400)
    pd.testing.assert_frame_equal(once.iloc[:, 2:5], often.iloc[:, 2:5])


@pytest.mark.parametrize(
    "spell", [lambda name: name.removeprefix("records/"), lambda name: f"{name.split('/')[-1]}.hea"]
)
def test_records_are_matched_whatever_folder_was_predicted(work, spell):
    folder, _, p, names = work
    whole = judged(folder, pd.DataFrame({"record": names, "A": p[:, 0], "B": p[:, 1]}))
    order = np.random.default_rng(1).permutation(N)
    other = pd.DataFrame({"record": [spell(name) for name in names], "A": p[:, 0], "B": p[:, 1]}).iloc[order]
    found = judged(folder, other)
    np.testing.assert_allclose(found.value, whole.value)


def test_a_long_table_and_predictions_parquet_are_read_too(work):
    folder, y, p, names = work
    wide = judged(folder, pd.DataFrame({"record_id": names, "A": p[:, 0], "B": p[:, 1]}))
    rows = {"record_id": np.repeat(names, 2), "label": LABELS * N, "probability": p.ravel().astype(np.float32)}
    rows |= {"patient_id": np.repeat([f"p{i // 2}" for i in range(N)], 2), "truth": y.ravel(), "cohort": "c"}
    rows |= {"split": "test", "encoder": "clef", "mode": "linear", "fraction": 1.0, "seed": 0}
    table = pd.DataFrame(rows)
    predictions.write(table, folder / "predictions.parquet")
    scores, truth = scoring.read_scores(folder / "predictions.parquet"), scoring.read_truth(folder / "truth.csv")
    long = scoring.evaluate(scores, truth, progress=lambda line: None, n=200)
    np.testing.assert_allclose(long.value, wide.value, atol=1e-6)
    two = pd.concat([table, table.assign(encoder="byol")])
    two.to_csv(folder / "two.csv", index=False)
    with pytest.raises(EcgError, match="several of encoder: clef, byol.*keep the rows of one model"):
        scoring.read_scores(folder / "two.csv")


def test_what_was_not_matched_and_what_was_learned_from_is_said(work):
    folder, _, p, names = work
    truth = pd.read_csv(folder / "truth.csv").assign(split=["train"] * 20 + ["test"] * 40)
    truth.iloc[:50].to_csv(folder / "truth.csv", index=False)
    table = pd.DataFrame({"record": [*names[:-1], "nobody"], "A": p[:, 0], "B": p[:, 1], "C": p[:, 0]})
    table.to_csv(folder / "scores.csv", index=False)
    scores, known, lines = scoring.read_scores(folder / "scores.csv"), scoring.read_truth(folder / "truth.csv"), []
    scoring.evaluate(scores, known, progress=lines.append, n=50)
    said = "\n".join(lines)
    for words in ("50 records of 25 patients", "10 scored records have no partner", "train too", "1 scored labels are"):
        assert words in said
    table = scoring.evaluate(scores, known, "test", progress=lines.append, n=50)
    assert set(table.records) == {30}


WRONG = [
    (lambda t: t.rename(columns={"record": "name"}), "no column names the record"),
    (lambda t: pd.concat([t, t.iloc[:1]]), "is there twice"),
    (lambda t: t.assign(A=np.where(np.arange(N) == 3, np.nan, t.A)).rename(columns={"A": "p: A"}), "has no score"),
    (lambda t: t.assign(A=np.where(np.arange(N) == 3, np.nan, t.A)), "has no score"),
    (lambda t: t.assign(A=t.A * 8, B="x"), "no column of probabilities"),
    (lambda t: t.rename(columns={"A": "X", "B": "Y"}), "no label in common"),
    (lambda t: t.assign(record=[f"other{i}" for i in range(N)]), "no record in common"),
    (lambda t: (t.assign(A=t.A * 8)).rename(columns={"A": "p: A", "B": "p: B"}), "scores outside 0..1"),
]


@pytest.mark.parametrize(("change", "told"), WRONG, ids=range(len(WRONG)))
def test_a_table_that_cannot_be_judged_is_refused_with_the_reason(work, change, told):
    folder, _, p, names = work
    with pytest.raises(EcgError, match=told) as caught:
        judged(folder, change(pd.DataFrame({"record": names, "A": p[:, 0], "B": p[:, 1]})))
    assert "->" in str(caught.value)


def test_a_label_without_a_class_has_no_row_and_few_positives_are_marked():
    y = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    table = scoring.summary(y, np.full((4, 2), 0.5), np.arange(4), LABELS, n=50)
    assert set(table.label) == {"macro", "A"}
    assert list(scoring.shown(table).index) == ["macro", "A *"]
    with pytest.raises(EcgError, match="no label has both classes"):
        scoring.summary(y[:, 1:], np.full((4, 1), 0.5), np.arange(4), ["B"])
