"""BYOL: the loss against its definition, the teacher's movement, what gets a gradient."""

import numpy as np
import pytest
import torch
from torch import nn

from ecglib import objectives
from ecglib.training import batches
from ecglib.training.ema import cosine_momentum


class Small(nn.Module):
    def __init__(self, n_leads=1, dim=8):
        super().__init__()
        self.n_leads, self.dim = n_leads, dim
        self.conv = nn.Conv1d(n_leads, dim, 9, 4)

    def forward(self, x):
        return self.conv(x).relu().mean(-1)


@pytest.fixture
def batch():
    x = torch.randn(6, 12, 80, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    there, nothing = torch.ones(6, 12, dtype=torch.bool), torch.full((6, 1), -1)
    return batches.Batch(x, there, torch.arange(6), {}, [""] * 6, None, nothing)


def build(**params):
    torch.manual_seed(0)
    return objectives.build("byol", Small(), **{"steps": 20, "projection": 4, "hidden": 16, **params})


def test_loss_equals_the_definition(batch):
    """2 - 2 cos between a prediction and the teacher's projection of the other view, summed over both directions."""
    objective = build(noise_rms=3.0)
    with torch.no_grad():
        for p in objective.teacher.parameters():
            p += 0.1 * torch.randn_like(p)
    loss, _ = objective.eval()(batch)
    views = objective.views(batch.x, batch.lead_mask, False)[0]  # normalised together, as both are in training
    with torch.no_grad():
        q = objective.predictor(objective.projector(objective.encoder(views))).double().numpy()
        t = objective.teacher[1](objective.teacher[0](views)).double().numpy()
    cosine = q @ t.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(t, axis=1)
    expected = np.mean([2 - 2 * cosine[i, i + 6] for i in range(6)]) + np.mean(
        [2 - 2 * cosine[i + 6, i] for i in range(6)]
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert abs(loss.item() - 2 * np.mean(2 - 2 * np.diag(cosine))) > 1e-2  # it is the other view's that counts


def test_the_student_learns_and_the_teacher_follows(batch):
    objective = build(momentum=0.9)
    torch.manual_seed(0)
    objective(batch)[0].backward()
    trained = [*objective.encoder.parameters(), *objective.projector.parameters(), *objective.predictor.parameters()]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained[:2])
    assert sum(p.requires_grad for p in objective.parameters()) == len(trained)
    before = objective.teacher[0].conv.weight.clone()
    with torch.no_grad():
        for p in objective.encoder.parameters():
            p += 1
    objective.after_step(5)
    m = cosine_momentum(5, 20, 0.9)
    assert 0.9 < m < 1
    expected = m * before + (1 - m) * objective.encoder.conv.weight
    torch.testing.assert_close(objective.teacher[0].conv.weight, expected)
    before = objective.teacher[0].conv.weight.clone()
    objective.after_step(20)  # the end of the schedule: nothing moves
    assert torch.equal(objective.teacher[0].conv.weight, before)


def test_nothing_repels(batch):
    """Where student and teacher give all records one and the same direction, the loss is at its least: 0."""
    objective = build()
    for head in (objective.predictor, objective.teacher[1]):
        last = head[-1]
        nn.init.zeros_(last.weight), nn.init.ones_(last.bias)
    assert objective(batch)[0].item() == pytest.approx(0, abs=1e-6)


def test_embeddings_do_not_collapse(batch):
    objective = build(steps=60)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(60):
        torch.manual_seed(step)
        loss, logs = objective(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(step)
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) and logs["spread"] > 0.2
