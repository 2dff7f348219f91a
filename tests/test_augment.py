"""Frontal views against the electrode potentials, and the draw of a view."""

import numpy as np
import pytest
import torch

from ecglib import augment
from ecglib.signals import LEADS, limb


def twelve(batch=4, n_times=50):
    x = np.random.default_rng(0).normal(size=(batch, 12, n_times)).astype(np.float32)
    for name, values in limb(x[:, 0], x[:, 1]).items():
        x[:, LEADS.index(name)] = values
    return x


def test_views_are_the_leads_their_names_say():
    x = twelve()
    views = augment.lead_views(x)
    assert views.shape == (4, 7, 50) and views.dtype == np.float32
    for row, name in enumerate(augment.VIEW_NAMES):
        sign = -1 if name.startswith("-") else 1
        np.testing.assert_allclose(views[:, row], sign * x[:, LEADS.index(name.lstrip("-"))], atol=1e-6)


def test_golden_identities_of_the_specification():
    x = twelve()
    views = dict(zip(augment.VIEW_NAMES, np.moveaxis(augment.lead_views(x), 1, 0), strict=True))
    np.testing.assert_allclose(views["aVL"], x[:, 0] - x[:, 1] / 2, atol=1e-6)
    np.testing.assert_allclose(views["-aVR"], (x[:, 0] + x[:, 1]) / 2, atol=1e-6)
    np.testing.assert_allclose(views["-III"], x[:, 0] - x[:, 1], atol=1e-6)


def test_views_point_where_they_should():
    """A dipole at every angle of the frontal plane: each view is largest at its own axis."""
    angle = np.radians(np.arange(-180, 180))
    x = np.stack([np.cos(angle), np.cos(angle - np.radians(60))])
    best = np.degrees(angle)[augment.lead_views(x).argmax(axis=-1)]
    np.testing.assert_allclose(best, [0, -90, -60, -30, 30, 60, 90], atol=1)


def test_random_view_is_one_of_the_seven_and_repeats_with_its_seed():
    x = torch.from_numpy(twelve(700, 20))
    views = augment.lead_views(x)
    drawn = augment.random_lead_view(x, torch.Generator().manual_seed(1))
    assert drawn.shape == (700, 1, 20)
    match = torch.isclose(drawn, views, atol=1e-6).all(dim=-1)
    assert match.any(dim=1).all()
    counts = match.sum(dim=0)
    assert abs(counts[0].item() - 350) < 60 and (abs(counts[1:] - 350 / 6) < 30).all()
    torch.testing.assert_close(drawn, augment.random_lead_view(x, torch.Generator().manual_seed(1)))
    assert not torch.equal(drawn, augment.random_lead_view(x, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("p, share", [(0.0, 1.0), (1.0, 0.0)])
def test_probability_bounds(p, share):
    x = torch.from_numpy(twelve(50, 20))
    drawn = augment.random_lead_view(x, torch.Generator().manual_seed(0), p)
    assert torch.isclose(drawn, x[:, :1], atol=1e-6).all(dim=-1).float().mean().item() == share
