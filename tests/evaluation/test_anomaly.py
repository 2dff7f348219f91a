"""Anomaly maps: overlap and threshold against plain computation, truth by hand, and a study with a known answer."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from ecglib import EcgError, models, objectives
from ecglib.data.labels import ABSENT, PRESENT
from ecglib.evaluation import anomaly, pointing
from ecglib.training.batches import Batch


def batch_of(x):
    """Signals without known peaks."""
    n = len(x)
    return Batch(x, torch.ones(n, x.shape[1], dtype=torch.bool), torch.arange(n), {}, [""] * n, None, None)


def test_dice_is_the_f1_score_of_the_samples():
    rng = np.random.default_rng(0)
    marked, truth = rng.random((5, 40)) < 0.4, rng.random((5, 40)) < 0.3
    expected = [f1_score(t, m) for t, m in zip(truth, marked, strict=True)]
    np.testing.assert_allclose(anomaly.dice(marked, truth), expected)
    assert anomaly.dice([[False, False]], [[False, False]]) == 1 and anomaly.dice([[True, False]], [[False, True]]) == 0


def test_the_threshold_has_the_best_mean_overlap_of_all():
    rng = np.random.default_rng(1)
    maps, truth = rng.normal(size=(6, 30)).round(1), rng.random((6, 30)) < 0.3
    maps[truth] += 1
    best = max(np.mean([f1_score(t, m >= v) for t, m in zip(truth, maps, strict=True)]) for v in np.unique(maps))
    chosen = anomaly.threshold(maps, truth)
    np.testing.assert_allclose(anomaly.dice(maps >= chosen, truth).mean(), best)
    assert anomaly.threshold(np.array([[0.0, 0, 2, 3]]), np.array([[False, False, True, True]])) > 0
    with pytest.raises(EcgError, match="no validation record"):
        anomaly.threshold(np.zeros((0, 5)), np.zeros((0, 5), bool))


def test_a_record_is_abnormal_in_the_waves_of_all_its_statements():
    beat = [pointing.SEGMENTS.index(name) for name in ("TQ", "P", "PR", "Q", "QRS", "ST", "T", "V")]
    segments = np.tile(np.array(beat, np.int8), (3, 2, 1))
    present = np.array([[True, False], [True, True], [False, False]])  # PVC, first-degree block
    found = anomaly.region(present, ["PVC", "1AVB"], segments, ["I", "II"])
    np.testing.assert_array_equal(found[0], [0, 0, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(found[1], [0, 1, 1, 0, 0, 0, 0, 1])
    assert not found[2].any()


def test_normal_is_norm_without_a_finding_and_rhythm_is_none():
    given = {"NORM": [1, 1, 0, 0, 1], "SR": [1, 0, 1, 1, 0], "AFIB": [0, 1, 1, 0, 0]}

    class Stated:
        name, labels = "stated", given

        @staticmethod
        def states(names, rows):
            table = np.stack([given[name] for name in names], 1)[rows]
            return np.where(table == 1, PRESENT, ABSENT)

    np.testing.assert_array_equal(anomaly.abnormal(Stated, np.arange(5)), [0, -1, 1, -1, 0])
    Stated.labels = {"SR": [1]}
    with pytest.raises(EcgError, match="no normal ECG"):
        anomaly.abnormal(Stated, np.arange(1))


def some_records(seed: int, n: int = 24):
    """Half of the records have a loud span of 20 samples; patients have two records each."""
    rng = np.random.default_rng(seed)
    x, region = rng.normal(size=(n, 2, 100)), np.zeros((n, 100), bool)
    for k in range(0, n, 2):
        start = rng.integers(0, 80)
        region[k, start : start + 20] = True
        x[k, :, start : start + 20] *= 6
    batch = batch_of(torch.from_numpy(x).float())
    return anomaly.Records(np.arange(n), np.arange(n) // 2, batch, region.any(1).astype(int), region)


def test_energy_finds_what_is_loud_and_chance_finds_nothing():
    val, test = some_records(0), some_records(1)
    quiet = {anomaly.UNTRAINED: anomaly.Found(np.zeros(24), np.zeros((12, 100)))}
    made = [
        quiet | {anomaly.ENERGY: anomaly.by_energy(r), anomaly.RANDOM: anomaly.by_chance(r, k)}
        for k, r in enumerate((val, test))
    ]
    table = anomaly.compared(val, test, *made, n=200).set_index(["method", "measure"])
    energy, chance, flat = (table.loc[name] for name in (anomaly.ENERGY, anomaly.RANDOM, anomaly.UNTRAINED))
    map_ = np.square(test.batch.x.numpy()).mean(1)
    expected = np.mean([roc_auc_score(t, m) for t, m in zip(test.region[::2], map_[::2], strict=True)])
    np.testing.assert_allclose(energy.point[anomaly.SAMPLES], expected, rtol=1e-6)
    assert energy.point[anomaly.RECORD] == 1 and energy.point[anomaly.SAMPLES] > 0.85
    assert flat.point[anomaly.RECORD] == flat.point[anomaly.SAMPLES] == 0.5 and (flat.gain == 0).all()
    np.testing.assert_allclose(flat.point[anomaly.DICE], 2 * 0.2 / 1.2)  # everything is marked
    assert (
        energy.gain_low[anomaly.DICE] > 0 and chance.gain_low[anomaly.SAMPLES] < 0 < chance.gain_high[anomaly.SAMPLES]
    )
    assert (table.low <= table.point).all() and (table.point <= table.high).all()
    assert list(energy.n_records[[anomaly.RECORD, anomaly.SAMPLES]]) == [24, 12]


def test_a_network_says_the_same_of_a_record_whatever_stands_beside_it(tmp_path, monkeypatch):
    objective = objectives.build("restore", models.build("autoencoder", n_leads=2))
    x = torch.randn(5, 2, 1000, generator=torch.Generator().manual_seed(0))
    batch = batch_of(x)._replace(peaks=torch.tensor([[300, 500]] * 5))
    region = torch.zeros(5, 1000, dtype=bool).numpy()
    region[:3, 100:200] = True
    asked = anomaly.Records(np.arange(5), np.arange(5), batch, np.array([1, 1, 1, 1, 0]), region)
    whole = anomaly.by_network(objective.eval(), asked)
    monkeypatch.setattr(anomaly, "AT_ONCE", 2)
    pieces = anomaly.by_network(objective, asked)
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)
    assert whole.score.shape == (5,) and whole.map.shape == (3, 1000)


def test_an_objective_without_a_map_is_refused(monkeypatch):
    objective = objectives.build("simclr", models.build("net1d", n_leads=2))
    monkeypatch.setattr(anomaly.objectives, "load", lambda folder: objective)
    with pytest.raises(EcgError, match="says not where"):
        anomaly.networks("twelve-simclr")


def test_the_example_is_the_record_of_median_overlap():
    test = some_records(2, 12)
    table = np.stack([test.region.any(1), np.zeros(12)], 1).astype(int)

    class Stated:
        labels = ("1AVB", "PVC", "SR")  # SR is read nowhere

        @staticmethod
        def states(names, rows):
            assert names == ["PVC", "1AVB"]
            return np.where(table[rows] == 1, PRESENT, ABSENT)

    energy = anomaly.by_energy(test)
    drawn = anomaly.examples(test, Stated, energy, 4.0)
    overlaps = anomaly.dice(energy.map >= 4.0, test.region[::2])
    assert list(drawn.statement) == ["PVC"] and drawn.dice[0] == np.sort(overlaps)[3]
    assert overlaps[drawn.record[0]] == drawn.dice[0]
