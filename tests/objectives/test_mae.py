"""Masked autoencoder: every term against a plain computation, nothing leaks from hidden samples, golden values of the
specification of our reading of Feel the Heart (section 7)."""

import math

import numpy as np
import pytest
import torch

from ecglib import EcgError, models, objectives
from ecglib.models.encoders.vit1d import FilterBlock
from ecglib.objectives import mae
from ecglib.training.batches import Batch
from ecglib.training.ema import linear_momentum
from ecglib.training.losses import sinkhorn
from ecglib.training.masking import random_tokens

EVERYTHING = dict(frequency=0.5, prototypes=8, prototype_sets=2)
TINY = dict(dim=16, depth=1, heads=2)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(x, missing=()):
    there = torch.ones(x.shape[:2], dtype=torch.bool)
    for record, lead in missing:
        there[record, lead] = False
    x, n = x * there[..., None], len(x)
    return Batch(x, there, torch.arange(n), {}, [""] * n, None, torch.full((n, 1), -1))


def build(n_leads=3, size="small_mae", encoder=TINY, **params):
    made = models.build("vit1d", size, n_leads, seed=1, **encoder)
    return objectives.build("mae", made, seed=2, **params)


def shaken(objective):
    """Filters away from the identity, so that they mix tokens."""
    block = objective.encoder.filter
    with torch.no_grad():
        block.response.add_(draw(*block.response.shape))
        block.conv.weight.add_(draw(*block.conv.weight.shape))
    return objective


def loss_of(objective, batch, seed=0):
    torch.manual_seed(seed)
    return objective(batch)


# parameters, counted as torch does: two per complex value of the filter, which is stored as real pairs


def test_parameter_counts_of_the_small_configuration():
    """The stand-in has 322,608 by this convention. Ours: positions of encoder and decoder are computed (-8,000),
    a norm ends the encoder (+192), and frequency has prototypes of its own, all of them without bias (+6,080)."""
    encoder = models.build("vit1d", "small_mae", 12)
    objective = objectives.build("mae", encoder, frequency=0.5, prototypes=64)
    assert models.n_parameters(encoder) == 253_248
    assert models.n_parameters(objective) == 320_880 == 322_608 - 8_000 + 192 + 6_144 - 64
    plain = objectives.build("mae", models.build("vit1d", "small_mae", 12, filters=0))
    assert models.n_parameters(plain) == 247_680 + 55_344


# golden 1 and 2: the spectral filter


def test_filter_of_ones_without_convolution_is_the_identity_and_zero_removes_the_normalised_input():
    block, x = FilterBlock(8, 50), draw(2, 50, 8)
    torch.testing.assert_close(block(x), x, atol=1e-6, rtol=0)
    with torch.no_grad():
        block.response.zero_()
    torch.testing.assert_close(block(x), x - block.norm(x), atol=1e-6, rtol=0)


def test_a_response_of_unit_modulus_preserves_the_energy():
    block, x = FilterBlock(8, 50), draw(2, 50, 8)
    phase = draw(26, 8) * 3
    phase[[0, -1]] = math.pi  # real at both ends
    with torch.no_grad():
        block.response.copy_(torch.stack([phase.cos(), phase.sin()], -1))
    h = block.norm(x)
    filtered = block(x) - x + h
    assert (filtered - h).abs().max() > 0.1
    torch.testing.assert_close(filtered.norm(dim=1), h.norm(dim=1), rtol=1e-5, atol=1e-5)


# golden 3 and 4: hidden is hidden


@pytest.mark.parametrize("encoder", [TINY, {**TINY, "filters": 0}])
def test_hidden_samples_change_no_bit_of_what_is_visible(encoder):
    objective = build(encoder=encoder)
    objective = shaken(objective) if objective.encoder.config["filters"] else objective
    x, (keep, mask) = draw(4, 3, 1000), random_tokens(4, 50, 12)
    hidden = mask.repeat_interleave(20, 1)[:, None]
    other = torch.where(hidden, 100 * draw(4, 3, 1000, seed=1), x)
    before, after = (objective.encode(v, keep, mask) for v in (x, other))
    assert before.shape == (4, 12, 16) and torch.equal(before, after)
    visible = torch.where(hidden, x, 100 * x)
    assert not torch.equal(objective.encode(visible, keep, mask), before)


def test_filters_would_leak_if_the_samples_were_not_zeroed():
    objective = shaken(build())
    x, (keep, mask) = draw(4, 3, 1000), random_tokens(4, 50, 12)
    other = torch.where(mask.repeat_interleave(20, 1)[:, None], draw(4, 3, 1000, seed=1), x)
    a, b = (objective.encoder.encode(objective.encoder.embed(v), keep) for v in (x, other))
    assert not torch.allclose(a, b)


def test_samples_after_the_last_patch_and_short_signals_are_no_obstacle():
    objective = build()
    x, (keep, mask) = draw(2, 3, 1013), random_tokens(2, 50, 12)
    whole = objective.encode(x[..., :1000], keep, mask)
    torch.testing.assert_close(objective.encode(x, keep, mask), whole)
    assert torch.isfinite(loss_of(build(**EVERYTHING), batch_of(draw(2, 3, 40)))[0])


def test_patches_of_all_leads_and_back_and_how_many_are_visible():
    objective, x = build(), draw(2, 3, 1000)
    patches = objective.encoder.patches(x)
    assert patches.shape == (2, 50, 60)
    assert torch.equal(patches.unflatten(2, (3, 20)).permute(0, 2, 1, 3).flatten(2), x)
    keep, mask = objective.draw(2, 50)
    assert keep.shape == (2, 12) and mask.sum(1).tolist() == [38, 38]
    sizes = {(n, r): build(mask_ratio=r).draw(1, n)[0].shape[1] for n, r in ((50, 0.9), (2, 0.9), (2, 0.1), (10, 0.5))}
    assert list(sizes.values()) == [5, 1, 1, 5]


# golden 5: balanced assignments


def test_sinkhorn_on_cosines_balances_rows_and_columns():
    cosines = mae.Prototypes(32, 64, 1)(draw(256, 32))[0].detach()
    q = sinkhorn(cosines, 0.05, 50)
    torch.testing.assert_close(q.sum(1), torch.ones(256), atol=1e-5, rtol=0)
    torch.testing.assert_close(q.sum(0), torch.full((64,), 4.0), atol=1e-3, rtol=0)


# golden 6: the spectrum loss


def test_spectrum_error_is_blind_to_circular_shifts_and_to_nothing_else():
    x = draw(4, 3, 20)
    assert not mae.spectrum_error(x, x).any()
    assert mae.spectrum_error(x, x.roll(7, -1)).max() < 1e-9
    assert mae.spectrum_error(x, 2 * x).min() > 1e-4
    want = (np.log1p(abs(np.fft.rfft(x.numpy()))) - np.log1p(abs(np.fft.rfft(2 * x.numpy())))) ** 2
    np.testing.assert_allclose(mae.spectrum_error(x, 2 * x), want, atol=1e-5)


# the whole loss, entry by entry


def plain_reconstruction(objective, x, there, predicted, mask):
    """Time and frequency loss in loops over records, patches and leads."""
    time, frequency = [], []
    for b, n in zip(*np.nonzero(mask), strict=True):
        leads = np.flatnonzero(there[b])
        patch = x[b, leads, 20 * n : 20 * n + 20]
        target = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-6)
        guess = predicted[b, n].reshape(-1, 20)[leads]
        time += list(((guess - target) ** 2).ravel())
        for a, c in zip(guess, target, strict=True):
            frequency += list((np.log1p(abs(np.fft.rfft(a))) - np.log1p(abs(np.fft.rfft(c)))) ** 2)
    return np.mean(time), np.mean(frequency)


def test_reconstruction_equals_a_plain_computation_and_leaves_missing_leads_out():
    objective = shaken(build(frequency=0.3, decoder_depth=2))
    batch = batch_of(draw(4, 3, 400), missing=[(0, 1), (2, 0), (2, 2)])
    loss, logs = loss_of(objective, batch)
    torch.manual_seed(0)
    keep, mask = objective.draw(4, 20)
    predicted = objective.decoder(objective.encode(batch.x, keep, mask), keep, 20)
    arrays = (v.detach().numpy() for v in (batch.x, batch.lead_mask, predicted, mask))
    time, frequency = plain_reconstruction(objective, *arrays)
    assert float(logs["time"]) == pytest.approx(time, rel=1e-4)
    assert float(logs["frequency"]) == pytest.approx(frequency, rel=1e-4)
    assert loss.item() == pytest.approx(time + 0.3 * frequency, rel=1e-4)


def plain_summaries(h, seen, size):
    """[domain][group][record]: mean and spectrum of each group of tokens, in loops; None where no token is seen."""
    domains = [], []
    for start in range(0, h.shape[1], size):
        group = []
        for b in range(len(h)):
            there = seen[b, start : start + size]
            grid = np.zeros((size, h.shape[2]))
            grid[: len(there)][there] = h[b, start : start + size][there]
            spectrum = abs(np.fft.rfft(grid, axis=0)) / np.sqrt(max(1, there.sum()))
            group.append((grid.sum(0) / there.sum(), np.log1p(spectrum).mean(0)) if there.any() else (None, None))
        for domain, values in zip(domains, zip(*group, strict=True), strict=True):
            domain.append(values)
    return domains


def contrasted(groups):
    """Standardised over the records of each group that are there; those not there become zeros."""
    rows = []
    for group in groups:
        values = np.stack([v for v in group if v is not None]).astype(float)
        mean, sd = values.mean(0), np.sqrt(values.var(0) + 1e-6)
        rows.append([None if v is None else (v - mean) / sd for v in group])
    return rows


def balanced(scores):
    q = np.exp(scores / 0.05)
    for _ in range(3):
        q = q / q.sum(0)
        q = q / q.sum(1, keepdims=True)
    return q


def cosines(rows, vectors):
    return np.array([[v @ p / np.linalg.norm(v) / np.linalg.norm(p) for p in vectors] for v in rows])


def test_prototype_loss_equals_a_plain_computation():
    objective = shaken(build(prototypes=4, prototype_sets=2, beat=1.0))
    with torch.no_grad():
        for p in objective.teacher.parameters():  # a teacher of its own
            p.add_(0.1 * draw(*p.shape))
    x = draw(6, 3, 240)
    keep, mask = random_tokens(6, 12, 3)
    h = objective.encode(x, keep, mask)
    whole, grid = objective.teacher[0].tokens(x).numpy(), np.zeros((6, 12, 16))
    for b in range(6):
        grid[b, keep[b]] = h[b].detach().numpy()
    losses = []
    for size in (12, 5):
        mine, theirs = plain_summaries(grid, ~mask.numpy(), size), plain_summaries(whole, np.ones((6, 12), bool), size)
        for domain in range(2):
            own, slow = (
                [v.detach().numpy() for v in part.vectors]
                for part in (objective.prototypes[domain], objective.teacher[1 + domain])
            )
            student, teacher = sum(contrasted(mine[domain]), []), sum(contrasted(theirs[domain]), [])
            for s, t in zip(own, slow, strict=True):
                q, terms = balanced(cosines(teacher, t)), []
                for row, value in enumerate(student):
                    if value is not None:
                        z = cosines([value], s)[0] / 0.1
                        terms.append(-(q[row] * (z - np.log(np.exp(z).sum()))).sum())
                losses.append(np.mean(terms))
    ours, _ = objective.assign(h, keep, mask, x)
    assert len(losses) == 8
    assert ours.item() == pytest.approx(np.mean(losses), rel=1e-3)


def test_spectra_keep_the_energy_however_few_tokens_are_seen():
    h = torch.ones(1, 8, 1)
    for seen in (8, 4, 1):
        there = (torch.arange(8) < seen)[None]
        mean, _, _ = mae.summaries(h, there, 8)
        bins = torch.fft.fft(h * there[..., None], dim=1, norm="ortho").abs() * (8 / seen) ** 0.5
        assert mean.item() == 1 and bins.square().sum().item() == pytest.approx(8, rel=1e-5)
    _, spectrum, there = mae.summaries(h, torch.tensor([[True] * 5 + [False] * 3]), 5)
    assert there.tolist() == [[True, False]] and spectrum[0, 1] == 0
    assert spectrum[0, 0].item() == pytest.approx(math.log1p(5**0.5) / 3, rel=1e-5)  # all of it at frequency 0


# monitors, teacher, state


def test_the_entropy_monitors_tell_collapse():
    uniform, one = torch.full((5, 8), 1 / 8), torch.eye(8)[:1].expand(5, 8)
    assert mae.entropy(uniform.mean(0)) == pytest.approx(1) and mae.entropy(one.mean(0)) == 0
    assert mae.entropy(torch.eye(8).mean(0)) == pytest.approx(1) and mae.entropy(torch.eye(8)).mean() == 0
    objective = build(**EVERYTHING)
    _, logs = loss_of(objective, batch_of(draw(4, 3, 400)))
    assert 0.5 < logs["entropy_mean"] <= 1 and 0 < logs["entropy_each"] < 1
    alike = batch_of(draw(1, 3, 400).expand(4, -1, -1))
    torch.manual_seed(0)
    keep, mask = (m.expand(4, -1) for m in objective.draw(1, 20))
    _, logs = objective.assign(objective.encode(alike.x, keep, mask), keep, mask, alike.x)
    assert logs["entropy_each"] == pytest.approx(1, abs=1e-3)  # no record differs from another: nothing to assign


def test_the_teacher_follows_on_a_straight_line_to_standing_still():
    objective = build(prototypes=4, momentum=0.9, steps=10)
    with torch.no_grad():
        for p in (*objective.encoder.parameters(), *objective.prototypes.parameters()):
            p.add_(1)
    fast = objective.encoder.embedding.weight.detach()
    slow = objective.teacher[0].embedding.weight.clone()
    vectors, before = objective.teacher[2].vectors[0].clone(), objective.prototypes[1].vectors[0].detach()
    objective.after_step(0)
    torch.testing.assert_close(objective.teacher[0].embedding.weight, 0.9 * slow + 0.1 * fast)
    torch.testing.assert_close(objective.teacher[2].vectors[0], 0.9 * vectors + 0.1 * before)
    assert linear_momentum(5, 10, 0.9, 1.0) == pytest.approx(0.95)
    slow = objective.teacher[0].embedding.weight.clone()
    objective.after_step(10)
    assert torch.equal(objective.teacher[0].embedding.weight, slow)


def test_with_everything_on_all_that_learns_gets_a_gradient_and_the_teacher_none():
    objective = shaken(build(**EVERYTHING))
    loss_of(objective, batch_of(draw(6, 3, 1000)))[0].backward()
    for name, p in objective.named_parameters():
        learns = not name.startswith("teacher.")
        assert p.requires_grad == learns and (p.grad is not None and p.grad.abs().sum() > 0) == learns, name


def test_evaluation_changes_nothing_and_a_saved_state_goes_on_alike():
    objective, batch = build(**EVERYTHING, steps=5), batch_of(draw(4, 3, 400))
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        loss_of(objective, batch, step)[0].backward()
        optimizer.step()
        objective.after_step(step)
    state = {k: v.clone() for k, v in objective.state_dict().items()}
    loss, _ = loss_of(objective.eval(), batch)
    assert torch.isfinite(loss) and all(torch.equal(v, state[k]) for k, v in objective.state_dict().items())
    again = build(**EVERYTHING, steps=5)
    again.load_state_dict(state)
    assert torch.equal(loss_of(again.eval(), batch)[0], loss)


def test_thirty_steps_with_everything_on_lower_every_loss():
    t = torch.arange(400) / 100
    rate = torch.linspace(0.8, 2.0, 8)[:, None, None]
    batch = batch_of(torch.sin(2 * math.pi * rate * t).expand(8, 3, 400) + 0.05 * draw(8, 3, 400))
    objective = build(**EVERYTHING, momentum=0.9, steps=30)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    rows = []
    for step in range(30):
        loss, logs = loss_of(objective, batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(step)
        rows.append([float(logs[name]) for name in ("time", "frequency", "prototype")])
    assert (np.mean(rows[-5:], 0) < np.mean(rows[:5], 0)).all()


@pytest.mark.parametrize("n_leads, n_times, fs", [(1, 500, 100), (3, 2500, 250), (12, 1234, 500)])
@pytest.mark.parametrize("params", [{}, EVERYTHING])
def test_any_number_of_leads_and_samples_also_in_half_precision(n_leads, n_times, fs, params):
    objective, batch = build(n_leads, fs=fs, **params), batch_of(draw(2, n_leads, n_times))
    assert objective.group == round(0.8 * fs / 20)
    loss, logs = loss_of(objective, batch)
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = loss_of(objective, batch)
    assert all(torch.isfinite(v) for v in (loss, half, *logs.values()))
    assert half.item() == pytest.approx(loss.item(), rel=0.05)


def test_registers_of_the_encoder_are_no_patches():
    objective = build(size="small")
    assert objective.encoder.registers.shape[0] == 1
    keep, mask = random_tokens(2, 100, 25)
    whole = objective.encoder.encode(objective.encoder.embed(draw(2, 3, 1000)), keep)  # patches do not mix here
    assert torch.equal(objective.encode(draw(2, 3, 1000), keep, mask), whole[:, 1:])
    assert torch.isfinite(loss_of(objective, batch_of(draw(2, 3, 1000)))[0])


def test_flat_and_empty_records_are_finite():
    batch = batch_of(torch.cat([torch.zeros(1, 3, 400), draw(1, 3, 400)]), missing=[(1, 0), (1, 1), (1, 2)])
    for params in ({}, EVERYTHING):
        objective = build(**params)
        loss, _ = loss_of(objective, batch)
        loss.backward()
        grads = [p.grad for p in objective.parameters() if p.grad is not None]
        assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in grads)


def test_what_the_method_cannot_use_is_refused_with_a_reason():
    with pytest.raises(EcgError, match="all leads"):
        objectives.build("mae", models.build("resnet1d", "small", 3))
    with pytest.raises(EcgError, match="joint"):
        build(size="small_k", encoder={})
    for params in (dict(mask_ratio=0.0), dict(mask_ratio=1.0), dict(prototypes=1), dict(prototypes=-4),
                   dict(frequency=-0.5), dict(prototypes=4, prototype_sets=0)):  # fmt: skip
        with pytest.raises(EcgError):
            build(**params)
    with pytest.raises(EcgError, match="one patch"):
        build()(batch_of(draw(2, 3, 39)))
