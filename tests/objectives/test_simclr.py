"""SimCLR: the loss of its two views, heads, and that training tells records apart. The formula: test_contrast.py."""

import numpy as np
import pytest
import torch
from plain_losses import plain_nt_xent

from ecglib import models, objectives
from ecglib.training import batches
from ecgsim.records import ecgs


@pytest.fixture(scope="module")
def batch():
    x, _, _ = ecgs(16, seed=0)
    x = torch.from_numpy(np.asarray(x, np.float32)) / 0.2
    there, nothing = torch.ones(16, 12, dtype=torch.bool), torch.full((16, 1), -1)
    return batches.Batch(x, there, torch.arange(16), {}, [""] * 16, None, nothing)


def build(n_leads=1, **params):
    return objectives.build("simclr", models.build("net1d", "small", n_leads), **params)


@pytest.mark.parametrize("projection", [0, 32])
def test_loss_is_nt_xent_of_the_heads_of_two_views(batch, projection):
    objective = build(projection=projection, temperature=0.2)
    torch.manual_seed(0)
    loss, _ = objective(batch)
    torch.manual_seed(0)
    v1, v2 = objective.views(batch.x, batch.lead_mask, True)[0].chunk(2)
    with torch.no_grad():
        z1, z2 = (objective.head(objective.encoder(v)) for v in (v1, v2))
    assert z1.shape == (16, projection or 128) and not torch.equal(v1, v2)
    assert loss.item() == pytest.approx(plain_nt_xent(z1, z2, 0.2), rel=1e-4)


@pytest.mark.parametrize("n_leads", [1, 12])
def test_training_tells_records_apart(batch, n_leads):
    batch = batch._replace(x=batch.x[..., :500])
    objective = build(n_leads, temperature=0.1)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    losses = []
    for step in range(15):
        torch.manual_seed(step)
        loss, _ = objective(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2
    logs = objective.eval()(batch)[1]
    assert logs["accuracy"] > 3 / 31 and logs["spread"] > 0.1
