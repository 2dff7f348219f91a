"""The random policy: nothing at N or M of zero, the same operations at the same seed, a log that tells which."""

import numpy as np
import pytest
import torch

from ecglib import EcgError, models, objectives
from ecglib.training import policy
from ecglib.training.augment import fixed_draws
from ecglib.training.batches import Batch


def signals(batch=16, n_leads=12, n=1000):
    torch.manual_seed(1)
    x, there = torch.randn(batch, n_leads, n), torch.ones(batch, n_leads, dtype=torch.bool)
    there[0, 3:] = False
    x[1, 4] = 0.0  # flat, and recorded
    return x * there.unsqueeze(-1), there


@pytest.mark.parametrize("asked", [dict(n=0, m=5), dict(n=2, m=0)])
def test_without_operations_or_magnitude_the_input_comes_back(asked):
    x, there = signals()
    seen, left = policy.RandomPolicy(**asked)(x, there)
    assert torch.equal(seen, x) and torch.equal(left, there)


@pytest.mark.parametrize("name", policy.OPERATIONS)
def test_every_operation_does_nothing_at_zero_and_something_above(name):
    x = signals()[0]
    assert torch.allclose(policy.OPERATIONS[name](x, 0.0, 100.0), x, atol=1e-6)
    changed = policy.OPERATIONS[name](x, 1.0, 100.0)
    assert changed.shape == x.shape and torch.isfinite(changed).all() and not torch.allclose(changed, x)


def test_the_same_seed_repeats_the_operations_and_the_log_tells_them():
    x, there = signals()
    made = []
    for seed in (4, 4, 5):
        one = policy.RandomPolicy(n=3, m=8)
        with fixed_draws(seed):
            made.append((*one(x, there), one.history()))
    (x1, left1, log1), (x2, left2, log2), (x3, _, log3) = made
    assert torch.equal(x1, x2) and torch.equal(left1, left2) and log1 == log2
    assert log1 != log3 and not torch.equal(x1, x3)
    (call,) = log1
    assert len(call) == 16 and all(len(set(drawn)) == 3 and set(drawn) <= set(policy.USUAL) for drawn in call)


def test_operations_are_drawn_equally_often():
    one = policy.RandomPolicy(n=2, m=0)
    torch.manual_seed(0)
    one(torch.zeros(22_000, 1, 1), torch.ones(22_000, 1, dtype=torch.bool))
    counts = np.bincount(one.log[0].flatten(), minlength=len(policy.USUAL))
    assert "polarity flip" not in policy.USUAL and len(counts) == 11
    assert np.abs(counts - 4000).max() < 5 * np.sqrt(4000)


def test_missing_leads_stay_zero_and_only_dropped_ones_become_missing():
    x, there = signals()
    seen, left = policy.RandomPolicy(n=11, m=10)(x, there)
    assert (seen[~left] == 0).all() and not (left & ~there).any() and left.any(1).all()
    _, left = policy.RandomPolicy(n=1, m=10, operations=("amplitude",))(x, there)
    assert torch.equal(left, there)


def test_a_warp_reads_between_the_samples():
    """Oracle: numpy's interpolation of the mirrored signal."""
    x = torch.randn(2, 3, 50)
    position = torch.linspace(-9.3, 61.7, 50).expand(2, 50)
    mirrored = np.pad(x.numpy(), ((0, 0), (0, 0), (20, 20)), mode="reflect")
    grid = np.arange(-20, 70)
    expected = [[np.interp(position[0], grid, lead) for lead in record] for record in mirrored]
    np.testing.assert_allclose(policy._read_at(x, position), expected, atol=1e-5)


@pytest.mark.parametrize("asked", [dict(n=12), dict(m=11), dict(n=-1), dict(operations=("turn",))])
def test_what_is_out_of_range_is_refused(asked):
    with pytest.raises(EcgError, match="policy|operation"):
        policy.RandomPolicy(**asked)


def test_supervised_training_takes_a_policy_and_changes_nothing_without():
    x, there = signals()
    labels = torch.randint(0, 2, (16, 3), dtype=torch.int8)
    batch = Batch(x, there, torch.arange(16), {}, [""] * 16, labels)

    def loss(**params):
        torch.manual_seed(3)
        return objectives.build("supervised", models.build("net1d"), n_labels=3, loss="bce", **params)(batch)[0]

    plain = loss()
    assert torch.equal(plain, loss(policy={"n": 0, "m": 5})) and not torch.equal(plain, loss(policy={"n": 2, "m": 5}))
    assert "policy" not in objectives.build("supervised", models.build("net1d"), n_labels=3).config
