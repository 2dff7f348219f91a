"""Moving averages, their schedules, distillation and balanced assignments."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ecglib.models.layers import over_processes
from ecglib.training.ema import Teacher, cosine_momentum, linear_momentum
from ecglib.training.losses import Centre, distil, sinkhorn


def test_average_of_a_constant_student_has_the_closed_form():
    student = nn.Linear(3, 2)
    teacher = Teacher(student)
    with torch.no_grad():
        for p in teacher.parameters():
            p.zero_()
    for _ in range(100):
        teacher.update(student, momentum=0.996)
    for slow, fast in zip(teacher[0].parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(slow, 0.330217 * fast, rtol=1e-5, atol=1e-7)


def test_momentum_one_changes_nothing_and_zero_copies():
    student, other = nn.Linear(3, 2), nn.Linear(3, 2)
    teacher = Teacher(student)
    before = teacher[0].weight.clone()
    teacher.update(other, momentum=1.0)
    assert torch.equal(teacher[0].weight, before)
    teacher.update(other, momentum=0.0)
    assert torch.equal(teacher[0].weight, other.weight)
    assert torch.equal(student.weight, before)  # a copy, not the student itself


def test_teacher_takes_over_buffers_stays_in_evaluation_and_gets_no_gradient():
    student = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))
    holder = nn.Module()
    holder.student, holder.teacher = student, Teacher(student, nn.Linear(4, 2))
    holder.train()
    assert student.training and not any(m.training for m in holder.teacher.modules())
    assert not any(p.requires_grad for p in holder.teacher.parameters())
    student(torch.randn(32, 4) + 5)
    holder.teacher.update(student, nn.Linear(4, 2), momentum=0.9)
    assert torch.equal(holder.teacher[0][0].running_mean, student[0].running_mean)
    x = torch.randn(8, 4)
    assert torch.equal(holder.teacher[0](x), holder.teacher[0](x))
    assert len(holder.teacher.state_dict()) == 5 + 2
    with pytest.raises(ValueError):
        holder.teacher.update(student, momentum=0.9)


@pytest.mark.parametrize("step, linear, cosine", [(0, 0.996, 0.996), (50, 0.998, 0.998), (100, 1, 1), (150, 1, 1)])
def test_schedules_pass_their_ends_and_middle(step, linear, cosine):
    assert linear_momentum(step, 100, 0.996, 1.0) == pytest.approx(linear, abs=1e-12)
    assert cosine_momentum(step, 100, 0.996) == pytest.approx(cosine, abs=1e-12)


def test_a_quarter_of_the_way_tells_the_schedules_apart():
    assert linear_momentum(25, 100, 0.99, 1.0) == pytest.approx(0.9925)
    assert cosine_momentum(25, 100, 0.99) == pytest.approx(1 - 0.01 * (1 + math.sqrt(0.5)) / 2)


def test_distillation_of_equal_logits_is_the_logarithm_of_the_width():
    zero = torch.zeros(5, 768)
    assert distil(zero, zero).item() == pytest.approx(6.643790, abs=1e-5)


def test_distillation_equals_a_plain_computation_and_teaches_the_student_alone():
    generator = torch.Generator().manual_seed(0)
    student, teacher, centre = (torch.randn(n, 6, generator=generator) for n in (4, 4, 1))
    student.requires_grad_(), teacher.requires_grad_()
    ours = distil(student, teacher, centre, 0.1, 0.07)
    s, t, c = (v.detach().double().numpy() for v in (student, teacher, centre))
    total = 0.0
    for i in range(4):
        p = np.exp((t[i] - c[0]) / 0.07 - ((t[i] - c[0]) / 0.07).max())
        q = np.exp(s[i] / 0.1 - (s[i] / 0.1).max())
        total -= ((p / p.sum()) * np.log(q / q.sum())).sum()
    assert ours.item() == pytest.approx(total / 4, rel=1e-5)
    ours.backward()
    assert teacher.grad is None and student.grad.abs().max() > 0


def test_centre_moves_towards_the_mean_of_the_outputs():
    centre = Centre(3, 0.9)
    outputs = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    centre.update(outputs)
    torch.testing.assert_close(centre.value, torch.full((3,), 0.2))
    centre.update(outputs.unsqueeze(0))
    torch.testing.assert_close(centre.value, torch.full((3,), 0.38))
    assert list(centre.state_dict()) == ["value"]
    assert torch.equal(over_processes(outputs), outputs)


def test_assignments_are_balanced():
    scores = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    q = sinkhorn(scores, 0.05, 50)
    torch.testing.assert_close(q.sum(1), torch.ones(60), atol=1e-3, rtol=0)
    torch.testing.assert_close(q.sum(0), torch.full((12,), 5.0), atol=5e-3, rtol=0)


def test_assignments_equal_plain_iterations_and_bear_a_prototype_that_nobody_is_near():
    scores = torch.rand(7, 4, generator=torch.Generator().manual_seed(1))
    q = np.exp(scores.double().numpy() / 0.05)
    for _ in range(3):
        q = q / q.sum(0, keepdims=True)
        q = q / q.sum(1, keepdims=True)
    np.testing.assert_allclose(sinkhorn(scores, 0.05, 3), q, atol=1e-5)
    scores[:, 2] -= 20
    assert torch.isfinite(sinkhorn(scores, 0.05, 3)).all()
