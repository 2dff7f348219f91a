"""Leads rebuilt from others: the linear map, the limb leads, errors per lead, heights of R and T."""

import numpy as np
import pytest
import torch

from ecglib import EcgError, models, objectives
from ecglib.data.recording import LEADS
from ecglib.evaluation import bootstrap, lead_information
from ecglib.waves import lead_reconstruction as leads


@pytest.fixture(scope="module")
def linear():
    random = np.random.default_rng(0)
    sources, mixing = random.normal(size=(30, 2, 400)), random.normal(size=(6, 2))
    return np.concatenate([sources, mixing @ sources], axis=1).astype(np.float32), mixing


def test_ridge_finds_the_mixing_and_leaves_given_leads_alone(linear):
    x, _ = linear
    kept = leads.kept_leads(["I", "II"])
    assert kept.tolist() == [True, True] + [False] * 6
    rebuilt = leads.by_ridge(x[:20], x[20:], kept)
    np.testing.assert_array_equal(rebuilt[:, :2], x[20:, :2])
    assert (leads.by_ridge(x[:20], x[20:], np.ones(8, bool)) == x[20:]).all()
    gap = rebuilt[:, 2:] - (x[20:, 2:] - x[20:, 2:].mean(-1, keepdims=True))
    assert abs(gap).max() < 0.02
    content = leads.per_lead(
        leads.record_errors(x[20:], rebuilt, 100, [np.arange(50, 400, 80)] * 10, 1.0), np.arange(10), 20
    )
    of_library = lead_information.ridge(x[:20], x[20:], [0, 1], [2, 3, 4, 5, 6, 7])[1]
    np.testing.assert_allclose(content.set_index("lead").information[list(leads.NAMES[2:])], of_library, atol=1e-5)


def test_content_is_one_for_the_truth_and_zero_for_the_mean(linear):
    x, peaks = linear[0] - linear[0].mean(-1, keepdims=True), [np.arange(50, 400, 80)] * 30
    true = leads.per_lead(leads.record_errors(x, x, 100, peaks, 0.2), np.arange(30), 20)
    assert (true.information > 1 - 1e-9).all() and (true.r > 0.999999).all() and (true.r_error == 0).all()
    flat = leads.per_lead(leads.record_errors(x, np.zeros_like(x), 100, peaks, 0.2), np.arange(30), 20)
    np.testing.assert_allclose(flat.information, 0, atol=1e-6)
    np.testing.assert_allclose(flat.rmse.iloc[2], 0.2 * np.sqrt(x[:, 2].var(-1).mean()), rtol=1e-5)


def test_the_network_agrees_with_the_information_of_the_library():
    encoder = models.build("unet1d", "small")
    objective = objectives.build("reconstruct", encoder, scale=1.3)
    x = torch.randn(6, 8, 400).numpy()
    kept = leads.kept_leads(["II", "V1", "V5"])
    rebuilt = leads.by_network(objective, x, kept)
    np.testing.assert_array_equal(rebuilt[:, kept], x[:, kept])
    z = x - x.mean(-1, keepdims=True)
    square, variance = (((rebuilt - z) ** 2).mean((0, 2)), (z**2).mean((0, 2)))
    objective.eval()
    expected = lead_information.information_content(objective, torch.from_numpy(x), torch.from_numpy(kept)[None])[0]
    np.testing.assert_allclose((1 - square / variance)[~kept], expected[~torch.from_numpy(kept)], rtol=1e-3, atol=1e-4)


def test_limb_leads_follow_and_a_derived_or_unknown_lead_is_refused():
    x = np.random.default_rng(2).normal(size=(3, 8, 50))
    whole = {name: leads.complete(x)[:, row] for row, name in enumerate(LEADS)}
    np.testing.assert_allclose(whole["III"], whole["II"] - whole["I"])
    np.testing.assert_allclose(whole["aVR"] + whole["aVL"] + whole["aVF"], 0, atol=1e-12)
    assert leads.recorded(leads.kept_leads(["I", "II"])).tolist() == [True] * 6 + [False] * 6
    assert leads.recorded(leads.kept_leads(["II", "V1"])).sum() == 2
    for wrong in (["aVF"], []):
        with pytest.raises(EcgError):
            leads.kept_leads(wrong)


def test_heights_of_r_and_t_are_over_the_level_before_qrs():
    x, peaks = np.full((2, 1000), 0.5), np.arange(100, 900, 80)
    for at in peaks:
        x[0, at], x[1, at + 2] = 1.7, 0.9
        x[:, at + 30] = [0.2, 0.75]
    np.testing.assert_allclose(leads.amplitudes(x, 100, peaks), [[1.2, -0.3], [0.4, 0.25]])
    assert np.isnan(leads.amplitudes(x, 100, np.zeros(0, int))).all()


def test_changes_of_the_classifier_are_paired():
    random = np.random.default_rng(0)
    draws = random.normal(0.9, 0.02, 200)
    scores = {
        ("all", "true twelve"): bootstrap.interval(0.9, draws),
        ("I", "ridge"): bootstrap.interval(0.8, draws - 0.1),
    }
    table = leads.classifier_table(scores)
    assert table.change.tolist() == pytest.approx([0, -0.1]) and table.change_high.iloc[1] == pytest.approx(-0.1)
