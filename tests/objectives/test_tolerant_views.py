"""What the two teachers and the student of TolerantECG see: subsets of leads, and noise."""

import math

import numpy as np
import pytest
import torch
from test_tolerant import Plain, batch_of, build, loss_of

from ecglib import EcgError
from ecglib.objectives import tolerant
from ecglib.training import augment


def test_views_of_the_mask_turn():
    """Global views keep 6..12 leads, local ones 1..6, each size and each lead occurs; what is left out is exactly 0."""
    x, there = torch.randn(600, 12, 20) + 3, torch.ones(600, 12, dtype=torch.bool)
    torch.manual_seed(0)
    for low, high in ((6, 12), (1, 6)):
        view, kept = augment.lead_view(x, there, low, high)
        assert sorted(set(kept.sum(1).tolist())) == list(range(low, high + 1))
        assert kept.any(0).all() and (~kept).any(0).all()
        assert torch.equal(view, torch.where(kept[..., None], x, torch.zeros(()))) and torch.equal(
            (view != 0).all(-1), kept
        )
    objective, batch = build(n_global=2, n_local=3), batch_of(4)
    teacher, student = objective.views("mask", batch)
    assert [len(teacher), len(student)] == [2, 5] and all(a is b for a, b in zip(teacher, student[:2], strict=True))
    for i, (view, mask) in enumerate(student):
        assert torch.equal((view != 0).any(-1), mask)
        n = mask.sum(1)
        assert ((n >= 6) if i < 2 else (1 <= n) & (n <= 6)).all()
    assert [len(views) for views in build().views("mask", batch)] == [2, 4]
    teacher, student = build(n_global=1).views("mask", batch)
    assert len(teacher) == 1 and len(student) == 2 and all(teacher[0] is not view for view in student)


def test_missing_leads_are_never_kept():
    x, there = torch.ones(500, 12, 5), torch.rand(500, 12) < 0.2
    there[:, 3] |= ~there.any(1)
    torch.manual_seed(0)
    _, kept = augment.lead_view(x, there, 1, 6)
    assert kept.any(1).all() and not (kept & ~there).any()


@pytest.mark.parametrize("n_leads, sizes", [(2, {1}), (3, {1, 2}), (8, {1, 2, 3, 4})])
def test_fewer_leads_scale_the_subsets(n_leads, sizes):
    objective, batch = build(Plain(n_leads), n_global=1), batch_of(n_leads=n_leads)
    seen = {"teacher": set(), "student": set()}
    for seed in range(60):
        torch.manual_seed(seed)
        for who, views in zip(seen, objective.views("mask", batch), strict=True):
            seen[who] |= {int(n) for view, _ in views for n in (view != 0).any(-1).sum(1)}
    assert seen["student"] == sizes and seen["teacher"] == set(range(math.ceil(n_leads / 2), n_leads + 1))
    assert torch.isfinite(loss_of(objective, batch)[0])


def test_a_single_lead_and_too_few_views_are_refused():
    assert tolerant.MIN_LEADS == 2
    with pytest.raises(EcgError, match="at least 2 leads"):
        build(Plain(1))
    for views in (dict(n_global=0), dict(n_global=1, n_local=0), dict(n_noisy=0)):
        with pytest.raises(EcgError, match="too few views"):
            build(**views)


def snr_db(x, y):
    """Realised SNR of every lead, in numpy."""
    x, n = x.numpy().astype(float), (y - x).numpy().astype(float)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(((x - x.mean(-1, keepdims=True)) ** 2).mean(-1) / (n**2).mean(-1))


@pytest.mark.parametrize("kinds", [("wander",), ("muscle",), ("electrode",), ("wander", "muscle", "electrode")])
@pytest.mark.parametrize("snr", [-10.0, 0.0, 12.0])
def test_golden_noise_has_the_snr_asked_for(kinds, snr):
    torch.manual_seed(0)
    x = torch.randn(5, 12, 1000) * torch.rand(5, 12, 1) + 0.5
    y = augment.noisy_view(x, 100.0, kinds=kinds, p=1.0, rate=1.0, low=snr, high=snr)
    assert np.abs(snr_db(x, y) - snr).max() < 0.05


def test_noise_meets_the_leads_it_should():
    torch.manual_seed(0)
    x = torch.randn(200, 12, 300)
    x[:, 4] = 0  # missing
    assert torch.equal(augment.noisy_view(x, 100.0, low=math.inf, high=math.inf), x)
    assert torch.equal(augment.noisy_view(x, 100.0, rate=0.0), x) and torch.equal(
        augment.noisy_view(x, 100.0, p=0.0), x
    )
    y = augment.noisy_view(x, 100.0, kinds=("muscle",), p=1.0, rate=0.5)
    met = (y != x).any(-1)
    assert not met[:, 4].any() and (met.sum() / (200 * 11)).item() == pytest.approx(0.5, abs=0.04)
    found = snr_db(x[met], y[met])
    assert -10.05 < found.min() < -9.5 and -0.5 < found.max() < 0.05
    y = augment.noisy_view(x, 100.0, kinds=("muscle",), p=0.7, rate=1.0)
    met = (y != x).any(-1)[:, 0]  # all leads of a record or none
    assert met.float().mean().item() == pytest.approx(0.7, abs=0.08)


def test_views_of_the_noise_turn(monkeypatch):
    calls = []
    monkeypatch.setattr(tolerant, "noisy_view", lambda x, **how: calls.append(how) or x)
    objective, batch = build(n_noisy=8, noise_rate=0.3, snr_low=-5, snr_high=1, fs=250, noise="some.npy"), batch_of()
    teacher, student = objective.views("noise", batch)
    assert len(teacher) == 1 and teacher[0][0] is batch.x and len(student) == 8
    assert all([c["rate"], c["low"], c["high"], c["fs"], c["path"]] == [0.3, -5, 1, 250, "some.npy"] for c in calls)
    singles = [c["kinds"] for c in calls if "kinds" in c]
    assert len(singles) == 3 and {k for kinds in singles for k in kinds} == {"wander", "muscle", "electrode"}
    calls.clear()
    assert len(build().views("noise", batch)[1]) == 4 and sum("kinds" in c for c in calls) == 2


def test_a_noise_file_that_is_not_there_is_refused(tmp_path):
    objective = build(noise=str(tmp_path / "none.npy"))
    objective.turn += 1
    with pytest.raises(EcgError, match="none.npy"):
        objective(batch_of())
