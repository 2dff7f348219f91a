"""The spread of a score over pretraining runs, against a plain computation."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ecglib.evaluation import predictions
from ecglib.reporting import pretraining_seeds, tables


def probe(seed: int, labels=("AFIB", "SR")) -> pd.DataFrame:
    """Predictions of one pretraining run: 40 test patients, two labels, one share of the labels."""
    random = np.random.default_rng(seed)
    truth = np.stack([np.arange(40) % 2, np.arange(40) // 2 % 2], 1)
    rows = []
    for k, label in enumerate(labels):
        p = np.clip(0.5 + 0.3 * (truth[:, k] - 0.5) + random.normal(0, 0.3, 40), 0.01, 0.99)
        rows.append(
            pd.DataFrame(
                {"record_id": [f"r{i}" for i in range(40)], "label": label, "truth": truth[:, k], "probability": p}
            )
        )
    table = pd.concat(rows, ignore_index=True).assign(cohort="A", split="test", encoder="measure", mode="linear")
    return table.assign(patient_id=table.record_id, fraction=0.1, seed=0)


def auroc(table: pd.DataFrame) -> float:
    return float(np.mean([roc_auc_score(rows.truth, rows.probability) for _, rows in table.groupby("label")]))


@pytest.fixture
def again(tmp_path):
    for seed in (1, 2):
        (tmp_path / f"twelve-measure_{seed}").mkdir()
        predictions.write(probe(seed), tmp_path / f"twelve-measure_{seed}/predictions.parquet")
    return tmp_path


def test_mean_and_deviation_over_pretraining_runs(again):
    first = tables.scores(probe(0).assign(note=""), names=("auroc",), n=20)
    row = pretraining_seeds.spread(again, "twelve", first).iloc[0]
    values = [auroc(probe(seed)) for seed in (0, 1, 2)]
    assert row.n_pretrainings == 3
    np.testing.assert_allclose([row["mean"], row.sd], [np.mean(values), np.std(values, ddof=1)])
    np.testing.assert_allclose([row.lowest, row.highest], [min(values), max(values)])


def test_the_sentence_says_the_spread_at_one_share(again):
    first = tables.scores(probe(0).assign(note=""), names=("auroc",), n=20)
    table = pretraining_seeds.spread(again, "twelve", first)
    values = [auroc(probe(seed)) for seed in (0, 1, 2)]
    said = pretraining_seeds.sentence(table, 0.1)
    assert f"measure {np.mean(values):.3f}, standard deviation {np.std(values, ddof=1):.3f} over 3" in said
    assert "10 % of the labels" in said and pretraining_seeds.sentence(table, 1.0) == ""


def test_without_further_runs_nothing_is_said(tmp_path):
    first = tables.scores(probe(0).assign(note=""), names=("auroc",), n=20)
    for folder in ("", tmp_path):
        table = pretraining_seeds.spread(folder, "twelve", first)
        assert (
            list(table.columns) == pretraining_seeds.COLUMNS and table.empty and pretraining_seeds.sentence(table) == ""
        )
