"""The targets of measurement pretraining against scipy and the simulator's truth; its loss against plain numbers."""

import numpy as np
import pytest
import torch
from scipy import stats

from ecglib import EcgError, models, objectives
from ecglib.data import handmade, rpeaks
from ecglib.pipeline import summary
from ecglib.training import normal_scores
from ecgsim import records


@pytest.fixture(scope="module")
def data():
    return summary.Sample(12)


def build(data, encoder=None, **options):
    encoder = encoder or models.build("net1d", "small", 12)
    return objectives.build("measure", encoder, **objectives.from_data("measure", data) | options)


def test_targets_are_normal_scores_of_ranks_with_ties_shared():
    """Oracle: scipy's mean ranks and normal quantiles, (rank - 1/2) / n."""
    rng = np.random.default_rng(0)
    values = np.stack([rng.lognormal(size=40), rng.integers(0, 4, 40), np.full(40, 3.0)], 1).astype(np.float32)
    found = normal_scores.of(torch.from_numpy(values), torch.from_numpy(normal_scores.distributions(values)))
    expected = stats.norm.ppf((stats.rankdata(values, axis=0) - 0.5) / 40)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert abs(found.mean(0)).max() < 0.15 and found[:, 0].std() == pytest.approx(1, abs=0.1)


def test_other_records_get_their_place_between_the_training_records():
    """Eight known values: half way between two neighbours lies half a rank; beyond the ends is the rank of the end."""
    knots = torch.from_numpy(normal_scores.distributions(np.array([[1, 2, 3, 4, 5, 7, 8, np.nan]], np.float32).T))
    assert knots.shape == (1, 8)
    known = torch.from_numpy(normal_scores.distributions(np.arange(1, 9, dtype=np.float32)[:, None]))
    values = torch.tensor([[3.0], [3.5], [-100.0], [100.0], [torch.nan]])
    found = normal_scores.of(values, known)[:, 0].numpy()
    expected = stats.norm.ppf(np.array([2.5, 3.0, 0.5, 7.5, np.nan]) / 8)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    many = np.random.default_rng(1).normal(size=(5000, 1)).astype(np.float32)
    scores = normal_scores.of(torch.from_numpy(many), torch.from_numpy(normal_scores.distributions(many)))
    np.testing.assert_allclose(scores[abs(many) < 2], many[abs(many) < 2], atol=0.1)  # normal values keep theirs


def test_loss_is_smooth_l1_over_what_was_measured(data):
    """Oracle: the error of each known entry by hand; a measurement that is missing has no gradient."""
    objective = build(data, lead_dropout=0.0, shift=False).eval()
    batch = data.batch(np.arange(12))
    values = batch.measurements.clone()
    values[3], values[:, 7] = torch.nan, torch.nan
    batch = batch._replace(measurements=values)
    with torch.no_grad():
        found = objective.scores(batch.x, batch.lead_mask).numpy()
        loss, logs = objective(batch)
        target = normal_scores.of(values, objective.knots).numpy()
    total, errors, sizes = 0.0, 0.0, 0.0
    for (i, j), value in np.ndenumerate(target):
        if not np.isnan(value):
            error = abs(found[i, j] - value)
            total += 0.5 * error**2 if error < 1 else error - 0.5
            errors, sizes = errors + error**2, sizes + value**2
    n_known = np.count_nonzero(~np.isnan(target))
    assert n_known < target.size - 12 - 280
    assert float(loss) == pytest.approx(total / n_known, rel=1e-4)
    assert float(logs["explained"]) == pytest.approx(1 - errors / sizes, abs=1e-4)
    objective.head[-1].bias.grad = None
    objective(batch)[0].backward()
    assert objective.head[-1].bias.grad[7] == 0 and objective.head[-1].bias.grad[8] != 0


@pytest.mark.parametrize(
    "labels, least",
    [
        (["NORM"], dict(pr_ms=0.95, qrs_ms=0.93, qt_ms=0.98, mean_rr=0.98, hr_min=0.95, qrs_axis_deg=0.98)),
        (
            ["NORM", "SBRAD", "STACH", "1AVB", "CLBBB", "CRBBB"],
            dict(pr_ms=0.8, qrs_ms=0.93, qt_ms=0.98, mean_rr=0.98, hr_min=0.97, qrs_axis_deg=0.98),
        ),
    ],
)
def test_targets_follow_the_true_intervals_of_the_simulator(labels, least):
    """What the encoder is taught against what the simulator drew: rank correlation of each measurement."""
    x, _, truth = records.ecgs(90, fs=100, labels=labels, seed=5)
    values = np.stack([handmade.features(one, 100, rpeaks.r_peaks(one, 100))[0] for one in x])
    scores = normal_scores.of(torch.from_numpy(values), torch.from_numpy(normal_scores.distributions(values))).numpy()
    found = dict(zip(handmade.feature_names(), scores.T, strict=True))
    rr = np.array([np.median(np.diff(r)) * 10 for r in truth.r])
    true = dict(pr_ms=truth.pr, qrs_ms=truth.qrs, qt_ms=truth.qt, mean_rr=rr, hr_min=60000 / rr)
    for name, expected in (true | dict(qrs_axis_deg=truth.axis_qrs)).items():
        assert stats.spearmanr(found[name], np.asarray(expected, float)).statistic > least[name], name


def test_one_lead_learns_the_measurements_that_its_cohorts_share():
    data = summary.Sample(8, leads=1)
    objective = build(data, models.build("net1d", "small", 1))
    assert objective.config["names"] == list(handmade.feature_names(("I",))) and objective.config["knots"] == 8
    assert torch.isfinite(objective(data.batch(np.arange(8)))[0])


def test_what_is_missing_is_said(data):
    with pytest.raises(EcgError, match="no measurements to learn"):
        objectives.build("measure", models.build("net1d", "small", 12))
    with pytest.raises(EcgError, match="unknown pooling 'median'"):
        build(data, pooling="median")(data.batch(np.arange(4)))
