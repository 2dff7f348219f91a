"""Contrastive losses against loops in numpy and values known in closed form."""

import math

import numpy as np
import pytest
import torch
from plain_losses import plain_nt_xent, unit_rows

from ecglib.training.losses import Scale, accuracy, clip, cmsc, head, nt_xent, spread, symmetric


def embeddings(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent_equals_the_definition(temperature):
    z1, z2 = embeddings(5, 8), embeddings(5, 8, seed=1)
    ours = nt_xent(z1, z2, temperature)
    assert ours.item() == pytest.approx(plain_nt_xent(z1, z2, temperature), rel=1e-5)


@pytest.mark.parametrize("size", [5, 10])
def test_weights_act_on_the_negatives_alone(size):
    z1, z2 = embeddings(5, 8), embeddings(5, 8, seed=1)
    weights = torch.rand(size, size, generator=torch.Generator().manual_seed(2)) + 0.1
    ours = nt_xent(z1, z2, 0.2, weights)
    assert ours.item() == pytest.approx(plain_nt_xent(z1, z2, 0.2, weights.numpy()), rel=1e-5)
    changed = weights.clone()
    for i in range(size):  # of a record with itself and with its other view
        changed[i, i] = 9.0
        changed[i, (i + 5) % size] = 9.0
    torch.testing.assert_close(nt_xent(z1, z2, 0.2, changed), ours)
    torch.testing.assert_close(nt_xent(z1, z2, 0.2, torch.ones(size, size)), nt_xent(z1, z2, 0.2))
    assert nt_xent(z1, z2, 0.2, weights / 100) < ours < nt_xent(z1, z2, 0.2, weights * 100)


def test_nt_xent_of_equal_embeddings_is_the_logarithm_of_the_candidates():
    z = torch.ones(6, 4)
    assert nt_xent(z, z, 0.07).item() == pytest.approx(math.log(11), rel=1e-5)


def test_gradients_are_finite_where_an_embedding_is_zero():
    z1, z2 = embeddings(4, 8), embeddings(4, 8, seed=1)
    z1[1] = 0
    z1.requires_grad_()
    nt_xent(z1, z2, 0.1).backward()
    assert torch.isfinite(z1.grad).all() and z1.grad[1].abs().max() == 0 < z1.grad[0].abs().max()


def test_losses_are_in_float32_under_a_shorter_format():
    z1, z2, patients = embeddings(16, 32), embeddings(16, 32, seed=1), torch.arange(16)
    losses = {
        "nt_xent": lambda: nt_xent(z1, z2, 0.07),
        "clip": lambda: clip(z1, z2, 14.0)[0],
        "cmsc": lambda: cmsc(z1, z2, patients),
    }
    for name, loss in losses.items():
        expected = loss()
        with torch.autocast("cpu", torch.bfloat16):
            ours = loss()
        assert ours.dtype == torch.float32 and ours.item() == pytest.approx(expected.item(), rel=1e-6), name


def test_clip_equals_the_definition_both_ways():
    a, b, scale = embeddings(6, 8), embeddings(6, 8, seed=1), 5.0
    s = unit_rows(a) @ unit_rows(b).T * scale
    forth = np.mean([-math.log(math.exp(s[i, i]) / np.exp(s[i]).sum()) for i in range(6)])
    back = np.mean([-math.log(math.exp(s[i, i]) / np.exp(s[:, i]).sum()) for i in range(6)])
    ours = clip(a, b, torch.tensor(scale))
    assert [float(v) for v in ours] == pytest.approx([forth, back], rel=1e-5)


def test_pairs_that_belong_together_share_the_target_of_clip():
    a, b, patient = embeddings(5, 8), embeddings(5, 8, seed=1), torch.tensor([0, 1, 0, 2, 0])
    same = patient[:, None] == patient
    s = unit_rows(a) @ unit_rows(b).T * 5
    forth = np.mean([np.log(np.exp(s[i]).sum()) - s[i, same[i].numpy()].mean() for i in range(5)])
    back = np.mean([np.log(np.exp(s[:, i]).sum()) - s[same[i].numpy(), i].mean() for i in range(5)])
    ours = clip(a, b, 5.0, same)
    assert [float(v) for v in ours] == pytest.approx([forth, back], rel=1e-5)
    assert symmetric(ours).item() == pytest.approx((forth + back) / 2, rel=1e-5)
    for nothing in (torch.eye(5, dtype=torch.bool), torch.zeros(5, 5, dtype=torch.bool)):  # the diagonal always counts
        torch.testing.assert_close(clip(a, b, 5.0, nothing), clip(a, b, 5.0))


def test_the_scale_of_clip_is_learned_and_bounded():
    scale = Scale()
    assert scale().item() == pytest.approx(1 / 0.07) and scale.log.requires_grad
    scale.log.data.fill_(9.0)
    assert scale().item() == 100


def test_cmsc_golden_values_and_definition():
    same = torch.ones(64, 8)
    assert cmsc(same, same, torch.arange(64)).item() == pytest.approx(4.158883, abs=1e-5)
    assert cmsc(torch.eye(4), torch.eye(4), torch.arange(4), 0.1).item() == pytest.approx(0.00013619, abs=1e-7)
    a, b, patient = embeddings(5, 8), embeddings(5, 8, seed=1), torch.tensor([0, 1, 1, 2, 3])
    s = unit_rows(a) @ unit_rows(b).T / 0.1
    rows, columns = [], []
    for i in range(5):
        for j in range(5):
            if patient[i] == patient[j]:
                rows.append(-math.log(math.exp(s[i, j]) / np.exp(s[i]).sum()))
                columns.append(-math.log(math.exp(s[i, j]) / np.exp(s[:, j]).sum()))
    expected = (np.mean(rows) + np.mean(columns)) / 2
    assert cmsc(a, b, patient).item() == pytest.approx(expected, rel=1e-5)


def test_cmsc_gives_norms_no_gradient():
    """With the norm held, the gradient has a part along the embedding, which that of a cosine never has."""
    a, b = embeddings(4, 8).requires_grad_(), embeddings(4, 8, seed=1)
    cmsc(a, b, torch.arange(4)).backward()
    length = a.detach().norm(dim=1, keepdim=True)
    free = (a.detach() / length).requires_grad_()
    s = free @ (b / b.norm(dim=1, keepdim=True)).T / 0.1
    loss = -(s.log_softmax(1).diagonal().mean() + s.log_softmax(0).diagonal().mean()) / 2
    loss.backward()
    torch.testing.assert_close(a.grad, free.grad / length, rtol=1e-4, atol=1e-6)
    assert (a.grad * a.detach()).sum(1).abs().min() > 1e-4


def test_monitors():
    z = torch.eye(8)
    assert accuracy(z, z) == 1
    assert accuracy(z, z.roll(1, 0)) == 0
    assert spread(torch.ones(8, 3)) == 0
    assert spread(embeddings(500, 64)).item() == pytest.approx(1, abs=0.02)


def test_head_is_absent_or_has_two_layers():
    assert isinstance(head(8, 0), torch.nn.Identity)
    z = embeddings(4, 8)
    assert torch.equal(head(8, 0)(z), z)
    plain, normed = head(8, 3), head(8, 3, hidden=16, norm=True)
    assert plain(z).shape == normed(z).shape == (4, 3)
    assert sum(p.numel() for p in plain.parameters()) == 8 * 8 + 8 + 8 * 3 + 3
    assert sum(p.numel() for p in normed.parameters()) == 8 * 16 + 2 * 16 + 16 * 3 + 3


def test_records_of_one_patient_are_no_negatives_of_each_other():
    z1, z2 = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    patient = torch.tensor([0, 1, 0, 2, 1])
    z = [v / v.norm() for v in torch.cat([z1, z2])]
    total = 0.0
    for i in range(10):
        p = (i + 5) % 10
        others = [j for j in range(10) if patient[j % 5] != patient[i % 5]]
        down = sum(math.exp(z[i] @ z[j] / 0.1) for j in [p, *others])
        total -= math.log(math.exp(z[i] @ z[p] / 0.1) / down) / 10
    assert nt_xent(z1, z2, 0.1, patient_id=patient).item() == pytest.approx(total, rel=1e-5)
