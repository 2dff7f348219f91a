"""Cross-restoration: counts of the paper; loss, score and masks by plain computation; an injected spike is found."""

import numpy as np
import pytest
import torch

from ecglib import EcgError, models, objectives
from ecglib.data import profiles
from ecglib.models.encoders import autoencoder
from ecglib.objectives import restore
from ecglib.training import masking
from ecglib.training.batches import Batch
from ecgsim.records import ecgs


def build(n_leads=12, size="small", **params):
    return objectives.build("restore", models.build("autoencoder", size, n_leads), **params)


def batch_of(x, peaks=None, mask=None):
    mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    peaks = torch.full((len(x), 3), -1) if peaks is None else peaks
    return Batch(x * mask.unsqueeze(-1), mask, torch.arange(len(x)), {}, [""] * len(x), None, peaks)


def test_has_the_published_number_of_parameters_tokens_and_samples():
    with torch.device("meta"):
        published = autoencoder.Encoder(12, **autoencoder.SIZES["ecgad"])
        objective = restore.Objective(published, fs=500, patches=100, variance="shared")
        assert objective.global_decoder(torch.zeros(1, 136, 50)).shape == (1, 13, 4800)
        assert objective.local_decoder(torch.zeros(1, 1, 50)).shape == (1, 13, 480)
    assert models.n_parameters(objective) == 7_085_779
    assert (objective.window, objective.beat, objective.before, objective.width) == (4800, 480, 140, 10)
    assert models.n_parameters(build(variance="shared")) == 206_862
    assert models.n_parameters(build()) == 207_566  # one log-variance per lead
    small = build()
    assert (small.window, small.beat, small.before) == (960, 96, 28)


def test_trend_of_a_constant_and_of_a_ramp():
    x = torch.stack([torch.full((50,), 3.0), 0.25 * torch.arange(50)])
    for width in (2, 10):
        slope = restore.trend(x, width)
        assert slope.shape == x.shape and (slope[0] == 0).all()
        inside = slope[1, width // 2 : 50 - width + width // 2]
        torch.testing.assert_close(inside, torch.full_like(inside, 0.25))
        assert (slope[1, : width // 2] == 0).all() and (slope[1, 50 - width + width // 2 :] == 0).all()
        assert (autoencoder.minmax(slope)[0] == 0).all()
    noise = torch.randn(40)
    means = [noise[i : i + 4].mean() for i in range(37)]
    torch.testing.assert_close(restore.trend(noise, 4)[2:38], torch.stack(means).diff())


def test_the_best_log_variance_is_the_log_of_the_error():
    error, s = torch.tensor([0.1, 1.0, 7.0]), torch.linspace(-4, 4, 8001)[:, None]
    found = s[restore.weighted(error, s).argmin(0), 0]
    torch.testing.assert_close(found, error.log(), atol=1e-3, rtol=0)
    assert torch.equal(restore.weighted(error, torch.zeros(3)), error)


@pytest.mark.parametrize("mask_ratio, n", [(0.3, 3), (0.5, 2), (0.25, 4), (0.9, 2)])
def test_tiles_hide_every_sample_once(mask_ratio, n):
    tiles = build(mask_ratio=mask_ratio).tiles()
    assert len(tiles) == n
    for k, length in ((0, 960), (1, 96)):
        assert torch.equal(sum(tile[k].int() for tile in tiles), torch.ones(1, length, dtype=torch.int32))


def test_random_masks_are_whole_patches_and_one_span_of_each_record():
    torch.manual_seed(0)
    hide, hide_local = build().random_masks(50)
    patches = hide.unflatten(1, (96, 10))
    assert torch.equal(patches.all(-1), patches.any(-1)) and (hide.sum(1) == 290).all()
    assert (hide_local.sum(1) == 29).all()
    begins = hide_local & ~hide_local.roll(1, 1)  # the span goes round
    assert (begins.sum(1) == 1).all() and begins.any(0).sum() > 30
    assert len({tuple(row.tolist()) for row in hide}) == 50 and hide_local.any(0).all()


def plain_scale(x):
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    return np.where(high > low, 2 * (x - low) / np.where(high > low, high - low, 1) - 1, 0)


def branches(objective, x, hide, beat, hide_local):
    """(y, s) of the three branches for one record, from its networks and plain masks; float64 arrays (lead, time)."""
    slope = np.zeros_like(x)
    slope[:, 1:-1] = (x[:, 2:] - x[:, :-2]) / 2
    near = hide.copy()
    for shift in (-2, -1, 1, 2):
        near |= np.array([0 <= i + shift < len(hide) and hide[i + shift] for i in range(len(hide))])
    slope = plain_scale(np.where(near, 0, slope))
    seen, seen_local = np.where(hide, 0, x), np.where(hide_local, 0, beat)
    with torch.no_grad():
        tensor = [torch.from_numpy(a).float()[None] for a in (seen, seen_local, slope)]
        g, local = objective.cross(objective.encoder.latent(tensor[0]), objective.local_encoder.latent(tensor[1]))
        out, out_local = objective.global_decoder(g)[0].numpy(), objective.local_decoder(local)[0].numpy()
        both = torch.cat([g, objective.trend_encoder.latent(tensor[2])], -1)
        out_trend = objective.trend_decoder(both)[0].numpy()
    n = len(x)
    return (np.tanh(out[:n]), out[n:]), (np.tanh(out_local[:n]), out_local[n:]), np.tanh(out_trend)


def test_loss_equals_a_plain_computation():
    """In eval mode: middle window, first usable beat; record 1 has no beat, record 2 lacks a lead."""
    objective = build(n_leads=3).eval()
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[2, 1] = False
    peaks = torch.tensor([[30, 150, 900], [10, 990, -1], [500, -1, -1]])  # 30: begins before the window
    batch = batch_of(torch.randn(3, 3, 1000), peaks, mask)
    torch.manual_seed(5)
    loss, logs = objective(batch)
    torch.manual_seed(5)
    patch = masking.random_tokens(3, 96, 96 - 29)[1].numpy()
    begin = torch.randint(96, (3, 1)).numpy()
    sums = np.zeros((3, 2))
    for i, start in enumerate((150 - 28 - 20, None, 500 - 28 - 20)):
        window = batch.x[i, :, 20:980].double().numpy()
        first = 432 if start is None else start
        hide, hide_local = patch[i].repeat(10), np.zeros(96, bool)
        hide_local[(begin[i] + np.arange(29)) % 96] = True
        x, beat = plain_scale(window), plain_scale(window[:, first : first + 96])
        (y, s), (y_local, s_local), y_trend = branches(objective, x, hide, beat, hide_local)
        for lead in np.flatnonzero(mask[i].numpy()):
            e = (y[lead] - x[lead])[hide] ** 2
            sums[0] += (np.exp(-s[lead, hide]) * e + s[lead, hide]).sum(), hide.sum()
            sums[2] += ((y_trend[lead] - x[lead])[hide] ** 2).sum(), hide.sum()
            if start is not None:
                e = (y_local[lead] - beat[lead])[hide_local] ** 2
                s_ = s_local[lead, hide_local]
                sums[1] += (np.exp(-s_) * e + s_).sum(), hide_local.sum()
    terms = sums[:, 0] / sums[:, 1]
    for name, term in zip(("global", "local", "trend"), terms, strict=True):
        assert float(logs[name]) == pytest.approx(term, abs=1e-4)
    assert loss.item() == pytest.approx(terms.sum(), abs=2e-4)


def test_score_and_map_equal_a_plain_computation():
    objective = build(n_leads=2).eval()
    x = torch.randn(2, 2, 960)
    batch = batch_of(x, torch.tensor([[100, 150, 955], [3, -1, -1]]))  # record 1 and the last peak: no whole beat
    total, expected = np.zeros((2, 3, 960)), []
    for i, beats in enumerate(([72, 122], [432])):
        scaled, count = plain_scale(x[i].double().numpy()), np.zeros(960)
        for hide, hide_local in ((a[0].numpy(), b[0].numpy()) for a, b in objective.tiles()):
            for k, first in enumerate(beats):
                beat = plain_scale(x[i, :, first : first + 96].double().numpy())
                (y, s), (y_local, s_local), y_trend = branches(objective, scaled, hide, beat, hide_local)
                if k == 0:
                    total[i, 0] += (np.exp(-s) * (y - scaled) ** 2).mean(0) * hide
                    total[i, 1] += ((y_trend - scaled) ** 2).mean(0) * hide
                if i == 0:
                    local = (np.exp(-s_local) * (y_local - beat) ** 2).mean(0) * hide_local
                    total[i, 2, first : first + 96] += local
                    count[first : first + 96] += hide_local
        whole, slope, local = total[i]
        last = local.sum() / count.sum() if count.any() else whole.mean()
        expected.append(whole.mean() + slope.mean() + last)
        total[i, 2] /= np.maximum(count, 1)
        assert set(count) == ({0, 1, 2} if i == 0 else {0})
    np.testing.assert_allclose(objective.score(batch), expected, rtol=1e-4)
    bell = np.exp(-0.5 * (np.arange(-9, 10) / 3) ** 2)
    smooth = [np.convolve(m, bell, "same") / np.convolve(np.ones(960), bell, "same") for m in total.sum(1)]
    np.testing.assert_allclose(objective.localise(batch), smooth, rtol=1e-3, atol=1e-4)


def test_window_and_trend_do_not_see_what_is_masked_in_the_window():
    x = autoencoder.minmax(torch.randn(1, 12, 960))
    hide = torch.zeros(1, 960, dtype=torch.bool)
    hide[:, 300:330] = hide[:, 700:710] = True
    inner = hide & (x.abs() < 1).all(1)  # the extremes set the scale of the record
    other = torch.where(inner[:, None], torch.rand_like(x) - 0.5, x)
    objective, leaky = build().eval(), build(masked_trend=False).eval()
    for a, b in zip(objective._context(x, hide), objective._context(other, hide), strict=True):
        assert torch.equal(a, b)
    assert not torch.allclose(leaky._context(x, hide)[1], leaky._context(other, hide)[1])


def test_the_local_branch_does_not_see_its_span_in_the_beat_but_in_the_window():
    """As published: beat and window are masked each on its own and tell each other what they see."""
    objective = build().eval()
    x = autoencoder.minmax(torch.randn(1, 12, 960))
    hide, hide_local = torch.zeros(1, 960, dtype=torch.bool), torch.zeros(1, 96, dtype=torch.bool)
    hide_local[:, 20:49] = True
    beat = x[..., 400:496]
    other = torch.where(hide_local[:, None], torch.rand_like(beat) - 0.5, beat)
    window = x.clone()
    window[..., 400:496] = other
    g, shown = (objective._context(v, hide)[0] for v in (x, window))
    local = objective._crossed(g, beat, hide_local)[1]
    assert torch.equal(objective._crossed(g, other, hide_local)[1], local)
    assert not torch.allclose(objective._crossed(shown, beat, hide_local)[1], local)


def test_without_peaks_no_beat_is_usable():
    objective, batch = build(), batch_of(torch.randn(3, 12, 1000))
    unknown = batch._replace(peaks=None)
    loss, logs = objective(unknown)
    assert torch.isfinite(loss) and float(logs["local"]) == 0
    objective.eval()
    losses = []
    for one in (batch, unknown):
        torch.manual_seed(0)
        losses.append(objective(one)[0])
    assert torch.equal(*losses) and torch.equal(objective.score(batch), objective.score(unknown))


def test_records_without_a_beat_train_the_other_branches():
    objective = build()
    loss, logs = objective(batch_of(torch.randn(3, 12, 1000)))
    loss.backward()
    assert float(logs["local"]) == 0 and torch.isfinite(loss)
    assert all(p.grad.abs().sum() > 0 for p in objective.encoder.parameters())
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def test_a_training_beat_is_any_of_the_usable_ones():
    objective = build()
    first, usable = objective.beats(torch.tensor([[20, 100, 300, 900, 970, -1]]), torch.tensor([10]))
    assert usable.tolist() == [[False, True, True, True, False, False, False]]
    assert first[0, [1, 2, 3, -1]].tolist() == [62, 262, 862, 432]
    torch.manual_seed(0)
    picks = {objective._pick(first, usable, torch.rand(1, 7))[0].item() for _ in range(50)}
    assert picks == {62, 262, 862}


@pytest.mark.parametrize("n_leads, n_times, fs", [(1, 1000, 100), (3, 500, 100), (2, 2500, 100), (1, 2500, 250)])
def test_takes_any_number_of_leads_length_and_rate(n_leads, n_times, fs):
    objective = build(n_leads, fs=fs)
    batch = batch_of(torch.randn(2, n_leads, n_times), torch.arange(fs // 2, n_times, fs).repeat(2, 1))
    assert torch.isfinite(objective(batch)[0])
    objective.eval()
    score, found = objective.score(batch), objective.localise(batch)
    assert score.shape == (2,) and found.shape == (2, n_times)
    assert torch.isfinite(score).all() and (found > 0).all()


def test_windows_cover_the_record():
    assert restore.windows(960, 960) == [0] and restore.windows(1000, 960) == [0, 40]
    for n_times in (961, 2500, 9600):
        starts = restore.windows(n_times, 960)
        assert starts[0] == 0 and starts[-1] == n_times - 960 and max(np.diff(starts)) <= 960


def test_refuses_what_does_not_fit():
    with pytest.raises(EcgError, match="a beat has 96 at 100 Hz"):
        build(size="ecgad")
    with pytest.raises(EcgError, match="use autoencoder"):
        objectives.build("restore", models.build("net1d"))
    with pytest.raises(EcgError, match="variance"):
        build(variance="none")
    with pytest.raises(EcgError, match="mask_ratio"):
        build(mask_ratio=1.0)


STEPS = 140


def normals(n, seed):
    x, _, truth = ecgs(n, seed=seed, labels=["NORM"])
    peaks = torch.full((n, max(map(len, truth["r"]))), -1)
    for row, found in zip(peaks, truth["r"], strict=True):
        row[: len(found)] = torch.as_tensor(np.asarray(found))
    return batch_of(torch.from_numpy(np.ascontiguousarray(profiles.profile("study").apply(x, 100.0))), peaks)


def test_finds_an_injected_spike_after_learning_from_normals():
    """0.5 mV in one sample between T and P of a beat in the middle of the record."""
    train, test = normals(128, 1), normals(24, 2)
    objective = build()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        torch.manual_seed(step)
        index = torch.randint(128, (16,))
        loss, _ = objective(
            train._replace(x=train.x[index], lead_mask=train.lead_mask[index], peaks=train.peaks[index])
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    objective.eval()
    x, middle = test.x.clone(), (test.peaks > 0).sum(1) // 2
    before, after = test.peaks.gather(1, torch.stack([middle, middle + 1], 1)).T
    at = (before + 3 * after) // 4
    x[torch.arange(24), :, at] += 0.5 / 0.2  # the profile's unit is 0.2 mV
    spiked = test._replace(x=x)
    off = (objective.localise(spiked).argmax(1) - at).abs()
    assert (off <= 5).float().mean() >= 0.8  # 50 ms
    plain, odd = objective.score(test), objective.score(spiked)
    assert (odd > plain).all() and (odd[:, None] > plain).float().mean() > 0.75
