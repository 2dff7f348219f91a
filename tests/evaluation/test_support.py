"""Classes of statements by their training records, averaged as a loop would, and predictions of one share."""

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.evaluation import metrics, predictions, support


@pytest.fixture(scope="module")
def table():
    random, labels, rows = np.random.default_rng(0), ["a", "b", "c", "d"], []
    truth = (random.random((80, 4)) < 0.4).astype(int)
    for encoder, signal in (("one", 1.0), ("two", 0.2)):
        for fraction in (0.1, 1.0):
            for seed in (0, 1):
                p = 1 / (1 + np.exp(-(signal * truth + random.normal(size=truth.shape))))
                for i, k in np.ndindex(truth.shape):
                    rows.append(
                        (
                            f"r{i}",
                            f"p{i // 2}",
                            "A",
                            "test",
                            labels[k],
                            truth[i, k],
                            p[i, k],
                            encoder,
                            "linear",
                            fraction,
                            seed,
                        )
                    )
    return pd.DataFrame(rows, columns=predictions.COLUMNS)


def test_scores_of_a_class_are_means_over_its_statements_and_seeds(table):
    (group,) = predictions.by_cohort(table)
    found = support.by_support(group, dict(a=12, b=19, c=20, d=300), [10, 20], n=30)
    assert list(found.positives.unique()) == ["10 to 19", "20 or more"] and set(found.n_labels) == {2}
    for row in found.itertuples():
        columns = [0, 1] if row.positives == "10 to 19" else [2, 3]
        points = [np.mean(metrics.auroc(group.y, p)[columns]) for p in group.p[row.encoder, "linear", 1.0].values()]
        assert row.auroc == pytest.approx(np.mean(points)) and row.low <= row.auroc <= row.high
    common = found[found.positives == "20 or more"].set_index("encoder")
    rare = found[found.positives == "10 to 19"].set_index("encoder")
    assert (common.gap == 0).all() and rare.gap["one"] == pytest.approx(common.auroc["one"] - rare.auroc["one"])
    with pytest.raises(EcgError, match="no statement has 500"):
        support.by_support(group, dict(a=12, b=19, c=20, d=300), [10, 500])


def test_one_share_is_read_and_dummies_are_left_out(table, tmp_path):
    for name, note in (("one", ""), ("two", "dummy")):
        mine = table[table.encoder == name].assign(note=note)
        predictions.write(mine, tmp_path / f"twelve-{name}" / "predictions.parquet")
    found = support.at_share(tmp_path, "twelve", ["one", "two"])
    assert set(found.encoder) == {"one"} and set(found.fraction) == {1.0} and len(found) == 80 * 4 * 2
    (again,), (whole,) = predictions.by_cohort(found), predictions.by_cohort(table[table.encoder == "one"])
    np.testing.assert_allclose(again.p["one", "linear", 1.0][1], whole.p["one", "linear", 1.0][1], atol=1e-6)
    with pytest.raises(EcgError, match="nothing at 50 %"):
        support.at_share(tmp_path, "twelve", ["one"], 0.5)
    with pytest.raises(EcgError, match="probing stage"):
        support.at_share(tmp_path, "twelve", ["three"])
