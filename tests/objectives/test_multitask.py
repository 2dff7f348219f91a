"""Statements, age and sex from one encoder: the loss against plain arithmetic, and whoever's age or sex is unknown."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from ecglib import models, objectives
from ecglib.data.labels import UNKNOWN
from ecglib.training.batches import Batch


def batch(age, sex, states, measured=None):
    n = len(age)
    torch.manual_seed(1)
    meta = {"age": torch.tensor(age), "sex": torch.tensor(sex)}
    mask = torch.ones(n, 12, dtype=torch.bool)
    states = torch.tensor(states, dtype=torch.int8)
    return Batch(
        torch.randn(n, 12, 500), mask, torch.arange(n), meta, [""] * n, states, torch.full((n, 1), -1), measured
    )


def made(**options):
    return objectives.build("multitask", models.build("net1d", "small", 12), n_labels=2, **options).eval()


def test_the_loss_is_that_of_statements_age_and_sex_by_hand():
    objective = made(weight=0.3, mean_age=50.0, sd_age=10.0)
    some = batch([60.0, 89.0, math.nan], [1.0, math.nan, 0.0], [[1, 0], [UNKNOWN, 1], [0, 0]])
    with torch.no_grad():
        loss, logs = objective(some)
        z = objective.encoder(some.x)
        p = torch.sigmoid(objective.head(z)).double().numpy()
        age, logit = objective.person(z).double().numpy().T
    statements = -(np.log(p[0, 0]) + np.log(1 - p[0, 1]) + np.log(p[1, 1]) + np.log(1 - p[2, 0]) + np.log(1 - p[2, 1]))
    off = [abs(age[0] - 1.0), abs(age[1] - 3.9)]
    years = np.mean([0.5 * d * d if d < 1 else d - 0.5 for d in off])
    sex = np.mean([math.log1p(math.exp(-logit[0])), math.log1p(math.exp(logit[2]))])
    assert loss.item() == pytest.approx(statements / 6 + 0.3 * (years + sex), rel=1e-4)
    assert logs["age"].item() == pytest.approx(years, rel=1e-4) and logs["sex"].item() == pytest.approx(sex, rel=1e-4)


def test_measurements_are_learned_as_normal_scores_and_what_was_not_measured_weighs_nothing():
    knots = np.tile(np.arange(100, dtype=np.float32), (2, 1))
    objective = made(names=["pr", "qt"], knots=knots, weight=2.0)
    values = torch.tensor([[49.5, math.nan], [math.nan, 97.0]])  # the median, and the 98th of 100
    some = batch([60.0, 60.0], [1.0, 0.0], [[1, 0], [0, 1]], values)
    with torch.no_grad():
        loss, logs = objective(some)
        given = objective.measures(objective.encoder(some.x)).double().numpy()
    off = [abs(given[0, 0]), abs(given[1, 1] - NormalDist().inv_cdf(0.975))]
    wanted = np.mean([0.5 * d * d if d < 1 else d - 0.5 for d in off])
    assert logs["measures"].item() == pytest.approx(wanted, rel=1e-4)
    others = sum(logs[name].item() for name in ("age", "sex", "measures"))
    assert loss.item() == pytest.approx(logs["statements"].item() + 2 * others, rel=1e-5)


def test_an_age_that_is_no_number_of_years_and_an_unknown_sex_weigh_nothing():
    objective = made()
    with torch.no_grad():
        unknown = objective(batch([math.nan, 300.0], [math.nan] * 2, [[1, 0], [0, 1]]))[1]
        oldest = objective(batch([90.0, 90.0], [1.0, 0.0], [[1, 0], [0, 1]]))[1]
    assert unknown["age"] == 0 and unknown["sex"] == 0 and oldest["age"] == 0 and oldest["sex"] > 0


def test_one_step_of_training_moves_every_head():
    objective = made(lead_dropout=0.3, shift=True).train()
    loss, _ = objective(batch([40.0, 70.0], [1.0, 0.0], [[1, 0], [0, 1]]))
    loss.backward()
    for head in (objective.head, objective.person):
        assert head.weight.grad.abs().sum() > 0
