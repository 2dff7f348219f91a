"""Attributions against closed forms: a linear model, completeness on a network, a roll-out by hand, areas by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ecglib import EcgError, models
from ecglib.evaluation import classifiers, corruptions, embeddings, explanation

WEIGHT = torch.arange(24.0).reshape(2, 12) - 11  # of a linear model on (lead 2, time 12)


def linear(x, rows):
    return (x * WEIGHT).sum((1, 2)) + 3


@pytest.fixture
def x():
    return torch.randn(3, 2, 12, generator=torch.Generator().manual_seed(0))


def small_network():
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.SiLU(), nn.Linear(8, 1)).requires_grad_(False)


def test_both_gradients_are_weight_times_input_on_a_linear_model(x):
    torch.testing.assert_close(explanation.gradient_times_input(linear, x), WEIGHT * x)
    torch.testing.assert_close(explanation.integrated_gradients(linear, x, 3), WEIGHT * x)


def test_integrated_gradients_add_up_to_the_difference_from_the_baseline(x):
    torch.manual_seed(1)
    network = small_network()
    found = explanation.integrated_gradients(lambda x, rows: network(x)[:, 0], 3 * x, 200).sum((1, 2))
    expected = (network(3 * x) - network(torch.zeros_like(x)))[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    crude = explanation.integrated_gradients(lambda x, rows: network(x)[:, 0], 3 * x, 1).sum((1, 2))
    assert (crude - expected).abs().max() > 0.01, "one step is not enough for a bent function"
    with pytest.raises(EcgError, match="steps=0"):
        explanation.integrated_gradients(linear, x, 0)


def test_occlusion_of_a_linear_model_is_what_its_samples_add(x):
    windows = explanation.time_windows(3, 12, 5)
    assert windows[0].tolist() == [0] * 5 + [1] * 5 + [2] * 2
    found = explanation.occlusion(linear, x, windows)
    for lead in range(2):
        for part in (slice(0, 5), slice(5, 10), slice(10, 12)):
            expected = (WEIGHT[lead, part] * x[:, lead, part]).mean(1)
            torch.testing.assert_close(found[:, lead, part], expected[:, None].expand_as(found[:, lead, part]))


def test_occlusion_asks_each_copy_as_the_record_it_came_from(x):
    gain = torch.tensor([1.0, 10.0, 100.0])
    found = explanation.occlusion(lambda x, rows: linear(x, rows) * gain[rows], x, explanation.time_windows(3, 12, 1))
    torch.testing.assert_close(found, WEIGHT * x * gain[:, None, None], rtol=1e-4, atol=1e-3)


def test_windows_of_a_beat_lie_alike_in_all_beats():
    found = explanation.beat_windows(np.array([[10, 30, -1]]), 50, width=5, before=5, after=10)[0]
    for peak in (10, 30):
        assert found[peak - 5 : peak + 10].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert set(found[:5]) == set(found[20:25]) == set(found[40:]) == {3}
    late = explanation.beat_windows(np.array([[10, 16]]), 30, width=5, before=5, after=10)[0]
    assert late[11:16].tolist() == [0] * 5, "the later beat takes over"


def test_a_roll_out_of_two_layers_by_hand():
    first = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    second = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    # half the identity each: [[.9, .1], [.2, .8]], then [[1, 0], [.25, .75]]; product [[.9, .1], [.375, .625]]
    found = explanation.rolled_out([first[None, None], second[None, None]])
    torch.testing.assert_close(found, torch.tensor([[0.6375, 0.3625]]))
    heads = torch.stack([first, torch.eye(2)])[None]  # with the identity: [[.95, .05], [.1, .9]]
    torch.testing.assert_close(explanation.rolled_out([heads]), torch.tensor([[0.525, 0.475]]))


ROLLED = {
    "vit1d small": (dict(name="vit1d", size="small"), 200),
    "vit1d small_k": (dict(name="vit1d", size="small_k"), 200),
    "wav2vec small_melp": (dict(name="wav2vec", size="small_melp"), 203),
}


@pytest.mark.parametrize("given, n_times", ROLLED.values(), ids=ROLLED)
def test_a_roll_out_covers_the_recording(given, n_times):
    encoder = models.build(**given).eval()
    x = torch.randn(2, 12, n_times, generator=torch.Generator().manual_seed(2))
    found = explanation.rollout(encoder, x)
    assert found.shape == x.shape and (found >= 0).all()
    registers = len(getattr(encoder, "registers", ()))
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2), atol=0.5 * bool(registers) + 1e-4, rtol=0)
    rows = getattr(encoder, "rows", None)
    silent = [k for k in range(12) if rows and k not in rows]
    assert not found[:, silent].any() and (found.sum(2) > 0).sum() == 2 * (12 - len(silent))


def test_the_attention_of_a_roll_out_is_the_one_of_the_layer():
    layer = explanation.Attention(8, 2).eval()
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(3))
    v = layer.qkv(x).chunk(3, -1)[2].unflatten(-1, (2, -1)).transpose(1, 2)
    expected = layer.out((explanation._attention(layer, x, None) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x), expected)


def test_what_cannot_be_rolled_out_is_refused():
    with pytest.raises(EcgError, match="net1d has no tokens"):
        explanation.rollout(models.build("net1d"), torch.zeros(1, 12, 100))


def test_deletion_and_insertion_of_a_hand_made_function():
    """The answer is that of one sample: it goes with the first of four cells, and comes with it."""
    x = torch.zeros(1, 1, 4)
    x[0, 0, 2] = 2.0
    right, wrong = torch.tensor([[2, 0, 1, 3]]), torch.tensor([[0, 1, 3, 2]])

    def score(x, rows):
        return x[:, 0, 2]

    at, none = torch.tensor(2.0).sigmoid().item(), 0.5
    shares = [0, 0.25, 0.5, 0.75, 1]
    found = explanation.curves(score, x, right, width=1, shares=shares)
    np.testing.assert_allclose(found["deletion"], [[at, none, none, none, none]], rtol=1e-6)
    np.testing.assert_allclose(found["insertion"], [[none, at, at, at, at]], rtol=1e-6)
    np.testing.assert_allclose(explanation.area(found["deletion"], shares), [none + (at - none) / 8], rtol=1e-6)
    late = explanation.curves(score, x, wrong, width=1, shares=shares)
    np.testing.assert_allclose(explanation.area(late["deletion"], shares), [at - (at - none) / 8], rtol=1e-6)
    few = explanation.area(explanation.curves(score, x, right, 1, [0, 0.25, 1])["deletion"], [0, 0.25, 1])
    np.testing.assert_allclose(few, [none + (at - none) / 8], rtol=1e-6)
    with pytest.raises(EcgError, match="let them rise from 0 to 1"):
        explanation.curves(score, x, right, 1, [0, 0.5])


def test_answers_are_the_curves_of_each_record_and_order(x):
    asked = pd.DataFrame({"patient_id": list("abc"), "label": ["L"] * 3})
    made, shares = {"one": x}, [0, 0.5, 1]
    said = explanation.answers(linear, x, made, asked, 6, shares, seed=1)
    assert set(said.method) == {"one", explanation.RANDOM} and len(said) == 3 * 2 * 2 * 3
    curve = explanation.curves(linear, x, explanation.order(x, 6), 6, shares)["insertion"]
    mine = said[(said.method == "one") & (said.kind == "insertion")].sort_values(["pair", "share"])
    np.testing.assert_allclose(mine.probability.to_numpy().reshape(3, 3), curve)
    found = explanation.areas(said).set_index(["method", "kind", "pair"]).area.sort_index()
    np.testing.assert_allclose(found["one", "insertion"], explanation.area(curve, shares))


def test_cells_are_ordered_by_what_they_add_up_to():
    a = torch.tensor([[[1.0, 1, 0, 5, -9], [3, 0, 0, 0, 1]]])
    assert explanation.cells(a, 2).tolist() == [[[2, 5, -9], [3, 0, 1]]]
    assert explanation.order(a, 2).tolist() == [[1, 3, 0, 5, 4, 2]]
    chance = explanation.random_order(a, 2, seed=4)
    assert sorted(chance[0].tolist()) == list(range(6)) and not torch.equal(chance, explanation.random_order(a, 2, 5))


@pytest.mark.parametrize("pooling", embeddings.POOLINGS[:2])
def test_the_logit_is_the_probes_own(pooling):
    encoder = models.build("vit1d", "small").eval()
    x, mask = torch.randn(3, 12, 100, generator=torch.Generator().manual_seed(5)), torch.ones(3, 12, dtype=torch.bool)
    width = corruptions.pooled(encoder, pooling, x, mask, None).shape[1]
    random = np.random.default_rng(0)
    linear_head = classifiers.Linear(random.normal(size=(width, 4)), np.arange(4.0))
    probe = corruptions.FrozenProbe(encoder, pooling, linear_head)
    p = probe(x, mask, torch.full((3, 1), -1))
    score = explanation.logit(probe, [2, 0, 3], mask)
    np.testing.assert_allclose(explanation.ask(score, x).sigmoid(), p[np.arange(3), [2, 0, 3]], rtol=1e-4)
    windows = explanation.time_windows(3, 100, 50)
    made = explanation.attributions(probe, score, x, windows, steps=2)
    assert list(made) == [*explanation.METHODS, explanation.AMPLITUDE]
    assert all(value.shape == x.shape for value in made.values())
    one = explanation.logit(probe, [0], mask[1:2])
    torch.testing.assert_close(
        made[explanation.GRADIENT][1:2], explanation.gradient_times_input(one, x[1:2]), atol=1e-5, rtol=1e-3
    )
