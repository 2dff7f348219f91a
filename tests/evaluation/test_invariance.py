"""Penalties against autograd and plain sums; networks that learn, and a learner that drops what changes."""

import numpy as np
import pytest
import torch

from ecglib import EcgError
from ecglib.evaluation import invariance, metrics


@pytest.fixture(scope="module")
def two():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 3, generator=generator), 2 * torch.randn(50, 3, generator=generator) + 1


def test_irm_is_the_squared_gradient_of_a_dummy_scale(two):
    logits, y = two[0][:, 0], (two[0][:, 1] > 0).float()
    scale = torch.ones((), requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(scale * logits, y)
    (gradient,) = torch.autograd.grad(loss, scale)
    assert invariance.irm_penalty(logits, y).item() == pytest.approx(gradient.item() ** 2, rel=1e-5)


def test_vrex_is_the_variance_and_nothing_for_equal_risks():
    assert invariance.vrex_penalty(torch.tensor([0.2, 0.8, 0.5])).item() == pytest.approx(np.var([0.2, 0.8, 0.5]))
    assert invariance.vrex_penalty(torch.tensor([0.4, 0.4])).item() == 0


def test_coral_is_the_distance_of_the_covariances(two):
    a, b = (x.numpy() for x in two)
    expected = ((np.cov(a.T) - np.cov(b.T)) ** 2).sum() / (4 * 3**2)
    assert invariance.coral_penalty(*two).item() == pytest.approx(expected, rel=1e-5)
    assert invariance.coral_penalty(two[0], two[0]).item() == 0
    assert invariance.coral_penalty(two[0], two[0] + 5).item() == pytest.approx(0, abs=1e-9)


def test_mmd_is_the_double_sum_of_kernels(two):
    a, b = (x.numpy().astype(float) for x in two)
    both = np.concatenate([a, b])
    square = np.array([[((u - v) ** 2).sum() for v in both] for u in both])
    median, total = np.median(square[square > 0]), 0.0
    for width in (0.5, 1, 2):
        k = np.exp(-square / (2 * width**2 * median))
        total += k[:40, :40].mean() + k[40:, 40:].mean() - 2 * k[:40, 40:].mean()
    assert invariance.mmd_penalty(*two).item() == pytest.approx(total, rel=0.01)
    assert invariance.mmd_penalty(two[0], two[0]).item() == pytest.approx(0, abs=1e-6)
    assert invariance.mmd_penalty(torch.zeros(3, 2), torch.zeros(4, 2)).item() == pytest.approx(0, abs=1e-6)


def made(n, agreement, seed):
    """Feature 0 tells y in the same way everywhere; feature 1 as often as `agreement` says, and louder."""
    random = np.random.default_rng(seed)
    y = (random.random(n) < 0.5).astype(int)
    cue = np.where(random.random(n) < agreement, y, 1 - y)
    x = np.column_stack([random.normal(2 * y - 1, 1.2), random.normal(2 * cue - 1, 0.3)])
    return x, y, cue


@pytest.fixture(scope="module")
def environments():
    parts = [made(600, agreement, k) for k, agreement in enumerate((0.95, 0.75))]
    x, y, cue = (np.concatenate(values) for values in zip(*parts, strict=True))
    return invariance.samples(x, y, np.repeat([0, 1], 600), cue)


def away(network):
    x, y, cue = made(800, 0.05, 9)
    return metrics.auroc(y, torch.from_numpy(invariance.logits(network, x, cue)).sigmoid().numpy())


@pytest.mark.parametrize("method", [invariance.VREX, invariance.IRM, invariance.DRO])
def test_what_changes_between_environments_is_relied_on_less(environments, method):
    settings = invariance.Settings(steps=300)
    plain, other = (invariance.fit(m, environments, settings, weight=100.0) for m in (invariance.PLAIN, method))
    assert away(other) > away(plain) + 0.05


def test_group_dro_moves_weight_to_the_worse_groups(environments):
    network, weights = invariance.fit(invariance.PLAIN, environments), torch.full((4,), 0.25)
    logits = torch.from_numpy(invariance.logits(network, environments.x, environments.z))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, environments.y, reduction="none")
    risks = torch.stack([loss[environments.group == k].mean() for k in range(4)])
    total = invariance.objective(invariance.DRO, network, environments, 1.0, weights)
    expected = torch.exp(0.01 * risks) / torch.exp(0.01 * risks).sum()
    torch.testing.assert_close(weights, expected)
    assert total.item() == pytest.approx((expected * risks).sum().item(), rel=1e-5)


def test_the_weight_is_that_of_the_least_validation_loss_and_the_temperature_is_set(environments):
    settings = invariance.Settings(steps=60, warmup=10, weights=(1.0, 1000.0), decays=(0.1, 5.0))
    choice = invariance.chosen(invariance.VREX, environments, environments, settings)
    losses = {}
    for weight in settings.weights:
        for decay in settings.decays:
            network = invariance.fit(invariance.VREX, environments, settings, weight=weight, decay=decay)
            losses[weight, decay] = invariance.calibrate(network, environments)
    assert (choice.weight, choice.decay) == min(losses, key=losses.get)
    assert choice.loss == pytest.approx(min(losses.values()))
    logits = torch.from_numpy(invariance.logits(choice.network, environments.x, environments.z))
    around = [torch.nn.functional.binary_cross_entropy_with_logits(s * logits, environments.y) for s in (0.9, 1.0, 1.1)]
    assert around[1] == min(around)


def test_the_covariate_has_an_effect_only_where_it_is_asked_for(environments):
    for with_z in (False, True):
        network = invariance.fit(invariance.PLAIN, environments, with_z=with_z)
        flipped = invariance.logits(network, environments.x, 1 - environments.z)
        same = np.array_equal(flipped, invariance.logits(network, environments.x, environments.z))
        assert same != with_z and bool(network.effect != 0) == with_z


def test_bad_input_is_refused(environments):
    one = environments._replace(environment=torch.zeros_like(environments.environment))
    with pytest.raises(EcgError, match="there is one"):
        invariance.fit(invariance.IRM, one)
    with pytest.raises(EcgError, match="did you mean 'vrex'"):
        invariance.fit("vrx", environments)
