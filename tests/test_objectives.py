"""One contract for all objectives. Their formulas are tested in tests/test_objective_<name>.py."""

import numpy as np
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort

from ecglib import encoders, objectives, train
from ecglib.signals import EcgError


@pytest.fixture(scope="module")
def batch():
    cohort = MemoryCohort(8, shares=(("train", 1),))
    data = train.CohortData(cohort, np.arange(8), labels=NAMES, meta=("age", "sex"))
    return data.batch(np.arange(8))


@pytest.fixture(params=objectives.names())
def objective(request):
    """Every objective around its encoder of choice, else the small net1d."""
    source = objectives.module(request.param)
    encoder = encoders.build(getattr(source, "ENCODER", "net1d"), "small", 12, seed=0)
    params = {"n_labels": len(NAMES)} if "n_labels" in objectives.parameters(request.param) else {}
    return objectives.build(request.param, encoder, **params)


def loss_of(objective, batch, seed=0):
    torch.manual_seed(seed)
    return objective(batch)


def test_loss_is_a_finite_scalar_and_repeats_with_the_seed(objective, batch):
    loss, logs = loss_of(objective, batch)
    assert loss.ndim == 0 and torch.isfinite(loss) and isinstance(logs, dict)
    assert all(np.isfinite(float(v)) for v in logs.values())
    assert torch.equal(loss_of(objective, batch)[0], loss)


def test_gradient_reaches_every_encoder_parameter(objective, batch):
    loss_of(objective, batch)[0].backward()
    trained = [p for p in objective.encoder.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


def test_thirty_steps_lower_the_loss_and_embeddings_keep_spread(objective, batch):
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    losses = []
    for step in range(30):
        loss, _ = loss_of(objective, batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if hasattr(objective, "after_step"):
            objective.after_step(step)
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    z = objective.eval().encoder(batch.x)
    z = z / z.norm(dim=1, keepdim=True)
    assert z.std(0).square().sum().sqrt() > 1e-3


def test_config_is_json_and_unknown_names_are_answered_with_the_valid_ones(objective):
    name = objective.config["objective"]
    with pytest.raises(EcgError, match="no parameter temprature"):
        objectives.build(name, objective.encoder, temprature=1)
    with pytest.raises(EcgError, match=name):
        objectives.build("superviced", objective.encoder)


def test_settings_that_an_objective_does_not_take_are_left_out(objective):
    name = objective.config["objective"]
    valid = objectives.parameters(name)
    assert objectives.accepted(name, **valid, temprature=1) == valid
    assert objectives.accepted(name, temprature=1) == {}
    assert objectives.accepted("supervised", loss="hill", mask=0.5) == {"loss": "hill"}
