"""Deaths foretold and readers beside a model, from tables written by hand."""

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.evaluation.tasks import COLUMNS
from ecglib.reporting import task_figures, task_tables


def table(n=80, seed=0):
    """One model of one statement on `n` validation and `n` test records, two seeds."""
    random, parts = np.random.default_rng(seed), []
    for split in ("val", "test"):
        truth = (random.random(n) < 0.4).astype(float)
        for run in (0, 1):
            ids = [f"{split}{i}" for i in range(n)]
            p = 1 / (1 + np.exp(-(random.normal(size=n) + 2 * truth - 1)))
            part = pd.DataFrame({"record_id": ids, "patient_id": ids, "truth": truth, "prediction": p, "seed": run})
            parts.append(part.assign(split=split, cohort="A", task="af", label="AFIB", optimal=np.nan))
    return pd.concat(parts).assign(encoder="e", mode="finetune", fraction=1.0)[COLUMNS]


def test_deaths_are_ordered_by_the_mean_prediction_pair_by_pair():
    closed, random = table()[lambda rows: rows.split == "test"], np.random.default_rng(1)
    records = closed[["record_id", "patient_id"]].drop_duplicates()
    records = records.assign(died=random.integers(0, 2, 80), followup_days=random.permutation(80) + 1)
    records["optimal_death"] = -records.followup_days.astype(float)
    found = task_tables.deaths_foretold(closed, records, n=20)
    risk = closed.groupby("record_id").prediction.mean()[records.record_id].to_numpy()
    time, died, won, usable = records.followup_days.to_numpy(), records.died.to_numpy(), 0, 0
    for i in np.flatnonzero(died):
        later = time > time[i]
        won, usable = won + (risk[i] > risk[later]).sum(), usable + later.sum()
    assert found.c[0] == pytest.approx(won / usable, abs=1e-6) and found.n[0] == 80
    assert found.encoder.tolist() == ["e", "hazard"] and found.c[1] == 1.0  # who knows the order is never wrong


def test_deaths_in_years_are_ordered_without_anybody_who_knows_the_hazard():
    """As CODE-15 names them; who was not followed is left out."""
    closed, random = table()[lambda rows: rows.split == "test"], np.random.default_rng(1)
    records = closed[["record_id", "patient_id"]].drop_duplicates()
    days = records.assign(died=random.integers(0, 2, 80), followup_days=random.permutation(80) + 1)
    years = records.assign(death=days.died.astype(float), followup_years=days.followup_days / 365.25)
    years.loc[years.index[:5], "death"] = np.nan
    found = task_tables.deaths_foretold(closed, years, n=20)
    same = closed[closed.record_id.isin(records.record_id[5:])]
    expected = task_tables.deaths_foretold(same, days, n=20)
    assert found.encoder.tolist() == ["e"] and found.n[0] == 75
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(EcgError, match="give the records died and followup_days or death and followup_years"):
        task_tables.deaths_foretold(closed, records)


def test_readers_are_judged_against_the_truth_and_the_model_at_its_threshold_of_validation():
    rows = table()
    truth = rows[rows.split == "test"].drop_duplicates("record_id").set_index("record_id").truth
    calls = {"perfect": truth, "never": truth * 0, "wrong": 1 - truth}
    readers = pd.concat([
        pd.DataFrame({"record_id": truth.index, "reader": name, "label": "AFIB", "call": call.to_numpy()})
        for name, call in calls.items()
    ])  # fmt: skip
    found = task_tables.beside_readers(rows, readers, n=30).set_index(["reader", "metric"])
    assert found.point["perfect", "f1"] == 1 and found.point["never", "sensitivity"] == 0
    assert found.point["wrong", "kappa"] < 0 and found.point["majority", "specificity"] == 1
    assert found.difference["perfect", "f1"] == pytest.approx(found.model["perfect", "f1"] - 1)
    assert found.p_mcnemar["model", "f1"] == 1 and found.p_mcnemar["wrong", "f1"] < 0.001
    ax = task_figures.readers_plane(found.reset_index())
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"majority", "model", *calls}
