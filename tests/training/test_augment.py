"""Frontal views against the electrode potentials, the draw of a view, and what changes a signal."""

import numpy as np
import pytest
import torch

from ecglib import EcgError
from ecglib.data.recording import LEADS, limb
from ecglib.training import augment


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


def signals(batch=6, n_leads=3, n_times=1000, seed=0):
    return torch.randn(batch, n_leads, n_times, generator=torch.Generator().manual_seed(seed))


def test_roll_and_gain_act_on_every_record_by_itself():
    x, offsets = signals(), torch.tensor([0, 1, 999, 500, 3, 17])
    expected = torch.stack([torch.roll(r, int(k), -1) for r, k in zip(x, offsets, strict=True)])
    assert torch.equal(augment.roll(x, offsets), expected)
    torch.manual_seed(0)
    factors = augment.gain(x, 0.3) / x
    torch.testing.assert_close(factors, factors[:, :1, :1].expand_as(factors), rtol=1e-4, atol=0)
    assert len(torch.unique(factors[:, 0, 0])) == 6
    logs = torch.log(augment.gain(torch.ones(5000, 1, 1), 0.3))
    assert abs(logs.std().item() - 0.3) < 0.02 and abs(logs.mean().item()) < 0.02


def test_time_mask_hides_one_stretch_of_the_requested_length_in_all_leads():
    torch.manual_seed(0)
    hidden = augment.time_mask(torch.ones(2000, 2, 500), 0.1, 0.3) == 0
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    share = hidden[:, 0].float().mean(-1)
    assert share.min() >= 0.1 and share.max() <= 0.3 and abs(share.mean().item() - 0.2) < 0.01
    edges = hidden[:, 0].int().diff(dim=-1, prepend=torch.zeros(2000, 1), append=torch.zeros(2000, 1))
    assert (edges == 1).sum(-1).eq(1).all()
    assert hidden[:, 0].float().mean(0)[250] > 0.2 and hidden[:, 0, 0].any() and hidden[:, 0, -1].any()
    some = augment.time_mask(torch.ones(2000, 2, 500), 0.1, 0.3, p=0.2)
    assert abs((some == 0).any(-1)[:, 0].float().mean().item() - 0.2) < 0.03


def test_standardise_gives_every_lead_mean_zero_and_population_sd_one():
    x = signals() * torch.tensor([0.01, 1.0, 50.0])[:, None] + 3
    x[2, 1] = 1e6
    z = augment.standardise(x)
    assert (z[2, 1] == 0).all()
    x, z = x.double().numpy(), z.numpy()
    for i, lead in np.ndindex(6, 3):
        if (i, lead) != (2, 1):
            np.testing.assert_allclose(z[i, lead], (x[i, lead] - x[i, lead].mean()) / x[i, lead].std(), atol=1e-3)


def test_noise_has_the_requested_size_in_the_leads_that_are_there():
    torch.manual_seed(0)
    x, there = signals(500, 12, 300), torch.rand(500, 12) > 0.3
    x = x * there[..., None]
    added = augment.add_noise(x, there, 0.5, 100) - x
    rms = added.square().mean(-1).sqrt()
    assert (added[~there] == 0).all()
    noisy = (added != 0).any(-1).any(-1)
    assert abs(noisy.float().mean().item() - 0.8) < 0.06  # one choice of five is no noise
    assert (rms[there & noisy[:, None]] - 0.5).abs().max() < 1e-3
    assert (torch.corrcoef(added[noisy][0][there[noisy][0]]).abs().min()) < 0.99  # leads do not all get the same


def all_leads(batch=64, n_times=200):
    """Signals whose level is the number of the lead."""
    x = torch.arange(12.0)[None, :, None] + 0.01 * signals(batch, 12, n_times)
    return x, torch.ones(batch, 12, dtype=torch.bool)


def plain(n_leads, **changes):
    return augment.PairViews(n_leads, **{"noise_rms": 0.0, "masked": 0.0, "zscore": False, **changes})


def test_both_views_show_the_same_lead_as_often_as_they_should():
    torch.manual_seed(0)
    first, second = plain(1).draw_leads(torch.ones(10_000, 12, dtype=torch.bool))
    assert abs((first == second).float().mean().item() - (0.8 + 0.2 / 12)) < 0.01
    counts = torch.bincount(torch.cat([first, second]), minlength=12) / 20_000
    assert (counts - 1 / 12).abs().max() < 0.01
    x, there = all_leads()
    v1, v2 = plain(1)(x, there, True)[0].chunk(2)
    assert v1.shape == (64, 1, 200)
    torch.manual_seed(1)
    v1, v2 = plain(1)(x, there, True)[0].chunk(2)
    torch.manual_seed(1)
    first, second = plain(1).draw_leads(there)
    rows = torch.arange(64)
    assert torch.equal(v1[:, 0], x[rows, first]) and torch.equal(v2[:, 0], x[rows, second])


def test_missing_leads_are_not_drawn():
    there = torch.zeros(500, 12, dtype=torch.bool)
    there[:, [3, 7]] = True
    torch.manual_seed(0)
    for lead in plain(1, same_lead=0.0).draw_leads(there):
        assert set(lead.tolist()) == {3, 7}


def test_views_come_with_the_masks_of_what_they_show():
    x, there = all_leads()
    there[:, 4], there[5, :3] = False, False
    assert torch.equal(plain(12)(x, there, True)[1], there.repeat(2, 1))
    torch.manual_seed(0)
    views, mask = plain(1)(x, there, True)
    assert mask.shape == (128, 1) and mask.all()
    there[3] = False
    assert not plain(1)(x, there, False)[1][[3, 67]].any()


def test_an_encoder_of_several_leads_gets_all_of_them_in_both_views():
    x, there = all_leads()
    v1, v2 = plain(12)(x, there, True)[0].chunk(2)
    assert torch.equal(v1, x) and torch.equal(v2, x)
    v1, v2 = augment.PairViews(12)(x, there, True)[0].chunk(2)
    assert v1.shape == v2.shape == x.shape and not torch.equal(v1, v2)
    with pytest.raises(EcgError, match="12 leads for an encoder of 3"):
        augment.PairViews(3)(x, there, True)


def test_evaluation_draws_the_same_every_time_and_takes_the_first_lead():
    x, there = all_leads()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    v1, v2 = augment.PairViews(1)(x, there, False)[0].chunk(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    again = augment.PairViews(1)(x, there, False)[0].chunk(2)
    assert torch.equal(v1, again[0]) and torch.equal(v2, again[1]) and not torch.equal(v1, v2)
    v1, v2 = plain(1)(x, there, False)[0].chunk(2)
    assert torch.equal(v1, x[:, :1]) and torch.equal(v2, v1)
    there[3, :5] = False
    v1, v2 = plain(1)(x, there, False)[0].chunk(2)
    assert torch.equal(v1[3], x[3, 5:6]) and torch.equal(v2, v1) and torch.equal(v1[4], x[4, :1])


def test_views_are_standardised_after_everything_else():
    x, there = all_leads()
    there[:, 4] = False
    x[:, 4] = 0
    torch.manual_seed(0)
    v = augment.PairViews(12)(x, there, True)[0][:64]
    torch.testing.assert_close(v.mean(-1), torch.zeros(64, 12), atol=1e-3, rtol=0)
    expected = torch.ones(64, 12)
    expected[:, 4] = 0
    torch.testing.assert_close(v.std(-1, correction=0), expected, atol=1e-3, rtol=0)


def test_a_crop_is_a_stretch_of_each_record_at_its_own_place():
    x = torch.arange(100.0).repeat(500, 3, 1)
    torch.manual_seed(0)
    cut = augment.crop(x, 60)
    assert cut.shape == (500, 3, 60) and torch.equal(cut[:, :, 1:] - cut[:, :, :-1], torch.ones(500, 3, 59))
    starts = cut[:, 0, 0]
    assert set(starts.tolist()) == set(map(float, range(41))) and torch.equal(cut[:, 0], cut[:, 2])
    assert torch.equal(augment.crop(x, 100), x)
    with pytest.raises(EcgError, match="stretch of 101 samples"):
        augment.crop(x, 101)


def test_hard_views_show_other_stretches_other_leads_other_amplitudes():
    """Each view is a stretch of the record times one factor, without the leads that it has lost."""
    time = torch.linspace(1, 2, 200)
    x, there = time * torch.arange(1.0, 13.0)[:, None] + torch.zeros(64, 1, 1), torch.ones(64, 12, dtype=torch.bool)
    there[:, 3] = False
    torch.manual_seed(0)
    views, masks = plain(12, crop_s=1.0, lead_dropout=0.5, gain=0.1)(x * there.unsqueeze(-1), there, True)
    assert views.shape == (128, 12, 100) and masks.shape == (128, 12)
    assert not masks[:, 3].any() and masks.any(1).all() and 0.4 < masks[:, there[0]].float().mean() < 0.6
    assert not views[~masks].any() and (views[masks] > 0).all()
    level = views[..., 0].sum(1) / (masks * torch.arange(1.0, 13.0)).sum(1)  # factor times the time at the start
    slope = (views[..., 1] - views[..., 0]).sum(1) / (masks * torch.arange(1.0, 13.0)).sum(1) * 199  # the factor
    assert abs(slope.log().std() - 0.1) < 0.02 and abs(slope.log().mean()) < 0.03
    assert (level / slope).min() >= 0.99 and (level / slope).max() <= 1.52 and (level / slope).std() > 0.1
    first, second = masks.chunk(2)
    assert not torch.equal(first, second)
