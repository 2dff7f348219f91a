"""TolerantECG: the loss against plain loops, golden values, views, and what the two teachers do."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ecglib import models, objectives
from ecglib.data.recording import limb
from ecglib.models.text import bag
from ecglib.training import batches
from ecglib.training import losses as contrast
from ecglib.training.report_terms import enrich

REPORTS = ["normal ECG", "", "LVH, no PVCs", "atrial fibrillation"]


class Plain(nn.Module):
    """A linear encoder: the spread of each lead, projected."""

    def __init__(self, n_leads=12, dim=6):
        super().__init__()
        self.n_leads, self.dim, self.linear = n_leads, dim, nn.Linear(2 * n_leads, dim)

    def forward(self, x):
        return self.linear(torch.cat([x.std(-1), x.mean(-1)], 1))


def batch_of(n=4, n_leads=12, time=200, text=REPORTS, seed=0):
    x = torch.randn(n, n_leads, time, generator=torch.Generator().manual_seed(seed))
    meta = {"age": torch.tensor([60.0, 50.0, math.nan, 71.0])[:n], "sex": torch.tensor([1.0, 0.0, 1.0, math.nan])[:n]}
    peaks, mask = torch.full((n, 1), -1), torch.ones(n, n_leads, dtype=torch.bool)
    return batches.Batch(x, mask, torch.arange(n), meta, list(text), None, peaks)


def build(encoder=None, **params):
    torch.manual_seed(0)
    return objectives.build("tolerant", encoder or Plain(), **params)


def loss_of(objective, batch, seed=3):
    torch.manual_seed(seed)
    return objective(batch)


def softmax(v, temperature):
    e = np.exp((v - v.max()) / temperature)
    return e / e.sum()


def plain_distillation(objective, policy, batch, seed):
    """The mean over pairs of views and records, one record at a time, in numpy."""
    torch.manual_seed(seed)
    teacher, student = objective.views(policy, batch)
    slow_encoder, slow_head = objective.teachers[policy].copies
    centre, losses = objective.centres[policy].value.numpy(), []
    with torch.no_grad():
        slow = [slow_head(slow_encoder(view)).numpy() for view, _ in teacher]
        fast = [objective.heads[policy](objective.encoder(view)).numpy() for view, _ in student]
    for q in range(len(slow)):
        for v in range(len(fast)):
            if policy == "mask" and len(teacher) > 1 and q == v:
                continue
            for t, s in zip(slow[q], fast[v], strict=True):
                losses.append(-(softmax(t - centre, 0.07) * np.log(softmax(s, 0.1))).sum())
    return np.mean(losses)


def plain_clip(objective, batch):
    """Symmetric cross-entropy of the records with a report, row by row."""
    rows = [i for i, report in enumerate(batch.text) if report]
    texts = [enrich(batch.text[i], batch.meta["age"][i].item(), batch.meta["sex"][i].item()) for i in rows]
    with torch.no_grad():
        a, b = objective.encoder(batch.x)[rows].numpy(), objective.text(bag(texts, 128)).numpy()
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b))
    total = 0.0
    for i in range(len(rows)):
        for one, others in ((a[i], b), (b[i], a)):
            scores = np.array([one @ other / 0.07 for other in others])
            total -= np.log(softmax(scores, 1.0)[i])
    return total / (2 * len(rows))


@pytest.mark.parametrize("policy, turn", [("mask", 0), ("noise", 1), ("mask", 6)])
@pytest.mark.parametrize("views", [{}, dict(n_global=2, n_local=8, n_noisy=8)])
def test_loss_equals_plain_loops(policy, turn, views):
    objective, batch = build(alpha=0.7, beta=1.3, **views), batch_of()
    objective.turn += turn
    for module in (*objective.centres.values(), *objective.teachers.values()):  # neither zero nor a copy any more
        for values in (*module.buffers(), *module.parameters()):
            values.data.add_(0.1 * torch.randn(values.shape, generator=torch.Generator().manual_seed(values.numel())))
    loss, logs = loss_of(objective, batch)
    distillation, alignment = plain_distillation(objective, policy, batch, 3), plain_clip(objective, batch)
    assert float(logs["distil"]) == pytest.approx(distillation, rel=1e-5)
    assert float(logs["clip"]) == pytest.approx(alignment, rel=1e-5)
    assert loss.item() == pytest.approx(0.7 * 2 * alignment + 1.3 * distillation, rel=1e-5)
    assert float(logs["text"]) == 0.75 and 0 <= float(logs["entropy"]) <= 1


def test_golden_distillation_of_nothing_is_the_logarithm_of_the_width():
    objective = build(Plain(dim=768)).eval()
    for head in (*objective.heads.values(), *(t[1] for t in objective.teachers.values())):
        head.weight.data.zero_()
        head.bias.data.zero_()
    _, logs = objective(batch_of())
    assert float(logs["distil"]) == pytest.approx(6.643790, abs=1e-5)
    assert float(logs["entropy"]) == pytest.approx(1.0, abs=1e-5)


def test_golden_teachers_follow_in_turn():
    """Each of the two is moved by its own steps only: (1 - 0.996^k) of the way after k of them."""
    objective = build()
    for module in (objective.encoder, *objective.heads.values()):
        for p in module.parameters():
            p.data.fill_(2.0)
    for p in objective.teachers.parameters():
        p.data.zero_()
    shares = {}
    for step in range(200):
        objective.after_step(step)
        shares[step + 1] = [
            next(objective.teachers[name].parameters()).flatten()[0].item() / 2 for name in ("mask", "noise")
        ]
    assert shares[1] == pytest.approx([0.004, 0], abs=1e-6) and shares[2] == pytest.approx([0.004] * 2, abs=1e-6)
    assert shares[200] == pytest.approx([0.330217] * 2, abs=1e-5)
    assert int(objective.turn) == 200
    for name in ("mask", "noise"):
        for copy, share in zip(objective.teachers[name].copies, (0.330217, 0.330217), strict=True):
            assert all(torch.allclose(p, torch.tensor(2 * share), atol=1e-4) for p in copy.parameters())


def test_a_step_moves_the_teacher_and_the_centre_whose_turn_it_is():
    objective, batch = build(momentum=0.9), batch_of()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    for step, moved, still in ((0, "mask", "noise"), (1, "noise", "mask"), (2, "mask", "noise")):
        before = {k: v.clone() for k, v in objective.state_dict().items()}
        loss, _ = loss_of(objective, batch, step)
        assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items()), "forward moves nothing"
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)
        assert objective.heads[moved].weight.grad.abs().sum() > 0 == objective.heads[still].weight.grad.abs().sum()
        optimizer.step()
        torch.manual_seed(step)
        outputs = objective.targets(moved, objective.views(moved, batch)[0])
        objective.after_step(step)
        changed = {k for k, v in objective.state_dict().items() if not torch.equal(v, before[k])}
        assert any(k.startswith(f"teachers.{moved}") for k in changed) and f"centres.{moved}.value" in changed
        assert not any(k.startswith((f"teachers.{still}", f"centres.{still}")) for k in changed)
        expected = 0.9 * before[f"centres.{moved}.value"] + 0.1 * outputs.mean((0, 1))
        torch.testing.assert_close(objective.centres[moved].value, expected)


def test_no_gradient_reaches_a_teacher_and_none_is_missing_without_reports():
    objective = build()
    loss_of(objective, batch_of(text=[""] * 4))[0].backward()
    assert all(p.grad is None for p in objective.teachers.parameters())
    assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)
    assert objective.encoder.linear.weight.grad.abs().sum() > 0 == objective.text.weight.grad.abs().sum()


def test_evaluation_is_the_mean_over_both_turns_and_changes_nothing():
    objective, batch = build().eval(), batch_of()
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    loss, logs = loss_of(objective, batch)
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    assert objective.outputs is None
    torch.manual_seed(3)
    views = {policy: objective.views(policy, batch) for policy in ("mask", "noise")}
    terms = []
    for policy, drawn in views.items():
        objective.views = lambda *_, drawn=drawn: drawn
        terms.append(plain_distillation(objective, policy, batch, 0))
    assert float(logs["distil"]) == pytest.approx(np.mean(terms), rel=1e-5)
    assert loss.item() == pytest.approx(2 * float(logs["clip"]) + float(logs["distil"]), rel=1e-5)


def test_a_training_goes_on_where_it_stopped():
    def steps(objective, first, last):
        for step in range(first, last):
            loss_of(objective, batch, step)
            objective.after_step(step)

    batch, one, other = batch_of(), build(momentum=0.5), build(momentum=0.5)
    steps(one, 0, 5)
    steps(other, 0, 3)
    resumed = build(momentum=0.5)
    resumed.load_state_dict(other.state_dict())
    assert resumed.policy == "noise"
    steps(resumed, 3, 5)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), resumed.state_dict().values(), strict=True))


def test_records_with_equal_words_and_of_one_patient_belong_together():
    batch = batch_of(text=["LVH", "normal ECG", "LVH", "RBBB"])
    batch = batch._replace(patient_id=torch.tensor([0, 1, 2, 1]), meta={})
    objective, plain = build(), build(identical=False)
    same = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]], dtype=torch.bool)
    z = objective.encoder(batch.x)
    words = objective.text(bag([enrich(report, None, None) for report in batch.text], 128))
    for made, mask in ((objective, same), (plain, None)):
        expected = sum(contrast.clip(z, words, 1 / 0.07, mask)) / 2
        assert made.alignment(z, batch)[0].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("size", ["mask", "noise"])
def test_the_encoder_gets_the_mask_of_each_view(size):
    """A lead that is left out is not the flat lead that it looks like."""
    objective, seen = build(models.build("convnext1d", "small", 12)), []
    batch = batch_of()
    batch.lead_mask[1, 4], batch.x[1, 4] = False, 0
    forward = objective.encoder.tokens
    objective.encoder.tokens = lambda x, mask=None: seen.append((x, mask)) or forward(x, mask)
    objective.turn += size == "noise"
    loss_of(objective, batch)
    ((x, mask),) = seen
    assert len(x) == 4 * 5 and torch.equal((x != 0).any(-1), mask) and torch.equal(mask[:4], batch.lead_mask)


@pytest.mark.parametrize("text, clip", [(["", "LVH", "", ""], 0), ([""] * 4, 0), (["LVH", "", "RBBB", ""], None)])
def test_empty_reports_are_left_out(text, clip):
    objective, batch = build(), batch_of(text=text)
    _, logs = loss_of(objective, batch)
    assert float(logs["clip"]) == pytest.approx(plain_clip(objective, batch) if clip is None else clip, rel=1e-5)
    assert float(logs["text"]) == sum(map(bool, text)) / 4


def test_the_small_configuration_has_the_size_of_the_specification():
    objective = build(models.build("convnext1d", "small", 12))
    counts = [
        sum(p.numel() for p in m.parameters()) for m in (objective.encoder, *objective.heads.values(), objective.text)
    ]
    assert counts == [236_864, 16_512, 16_512, 16_512]
    assert sum(p.numel() for p in objective.parameters() if p.requires_grad) == 286_400 + 1  # and the scale of CLIP
    assert objective.scale().item() == pytest.approx(1 / 0.07, rel=1e-5)


def test_the_student_learns_to_see_through_noise_and_missing_leads():
    """A few steps bring the outputs of damaged views nearer to the teachers' than they were."""
    torch.manual_seed(0)
    size = (torch.rand(32, 12, 1) < 0.5) * 2.0 + 0.2
    x = size * torch.randn(32, 12, 200)
    batch = batch_of(4)._replace(x=x, lead_mask=torch.ones(32, 12, dtype=torch.bool), meta={}, text=[""] * 32)
    objective = build(centre_momentum=1.0)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    before = loss_of(objective.eval(), batch)[0].item()
    objective.train()
    for step in range(60):
        loss = loss_of(objective, batch, step)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(step)
    assert loss_of(objective.eval(), batch)[0].item() < 0.95 * before


def test_golden_limb_leads_are_completed_by_the_identities():
    i, ii = np.float64([0.3, -0.2]), np.float64([0.9, 0.4])
    found = limb(i, ii)
    for name, expected in {"III": ii - i, "aVR": -(i + ii) / 2, "aVL": i - ii / 2, "aVF": ii - i / 2}.items():
        np.testing.assert_allclose(found[name], expected)
    np.testing.assert_allclose(i + found["III"], ii)
