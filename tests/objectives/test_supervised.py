"""The supervised loss against plain computations, its targets and its augmentations."""

import numpy as np
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort
from torch import nn

from ecglib import EcgError, models, objectives
from ecglib.objectives import supervised
from ecglib.training import batches
from ecglib.training.augment import roll


@pytest.fixture(scope="module")
def batch():
    cohort = MemoryCohort(8, shares=(("train", 1),))
    return batches.CohortData(cohort, np.arange(8), labels=NAMES).batch(np.arange(8))


def labelled(x, states):
    """A batch of x and states alone."""
    n = len(x)
    nothing = torch.full((n, 1), -1)
    return batches.Batch(x, torch.ones(x.shape[:2], dtype=torch.bool), torch.arange(n), {}, [""] * n, states, nothing)


# golden values of ecgfounder.md section 7


def test_hill_negatives_have_the_published_values_and_gradients():
    p = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    z = torch.logit(p).requires_grad_()
    loss = supervised.hill_negative(z)
    loss.sum().backward()
    np.testing.assert_allclose(loss.detach(), [0.0140, 0.2500, 0.4860], atol=1e-12)
    np.testing.assert_allclose(z.grad, [0.0243, 0.1875, 0.0243], atol=1e-12)
    np.testing.assert_allclose(z.grad, 3 * p**2 * (1 - p) ** 2, atol=1e-12)


def build(**params):
    encoder = nn.Module()
    encoder.dim, encoder.n_leads, encoder.forward = 4, 1, lambda x: x[:, 0, :4]
    return objectives.build("supervised", encoder, **{"n_labels": 2, **params})


def plain_loss(z, states, loss, positive, possible, gamma=1.5):
    """The loss entry by entry, in numpy."""
    total, p = 0.0, 1 / (1 + np.exp(-z))
    for (i, j), state in np.ndenumerate(states):
        if state == -1 or (state == 2 and possible == "unknown"):
            continue
        target = {0: 0.0, 1: 1.0, 2: {"present": 1.0, "absent": 0.0, "half": 0.5}.get(possible)}[state]
        q = 1 / (1 + np.exp(-(z[i, j] - 1)))
        up = (1 - q) ** 2 * -np.log(q) if positive == "focal_margin" and loss == "hill" else -np.log(p[i, j])
        down = (gamma - p[i, j]) * p[i, j] ** 2 if loss == "hill" else -np.log(1 - p[i, j])
        total += target * up + (1 - target) * down
    return total / states.size


@pytest.mark.parametrize("loss, positive", [("hill", "log"), ("hill", "focal_margin"), ("bce", "log")])
@pytest.mark.parametrize("possible", ["unknown", "present", "absent", "half"])
def test_loss_equals_a_plain_computation(loss, positive, possible):
    objective = build(loss=loss, positive=positive, possible=possible).double()
    states = torch.tensor([[0, 1], [2, -1], [1, 2], [-1, 0]], dtype=torch.int8)
    x = torch.randn(4, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, logs = objective(labelled(x, states))
    expected = plain_loss(objective.logits(x).detach().numpy(), states.numpy(), loss, positive, possible)
    assert ours.item() == pytest.approx(expected, rel=1e-5)
    assert float(logs["known"]) == pytest.approx(0.5 if possible == "unknown" else 0.75)


def test_unknown_entries_have_no_gradient():
    objective = build(possible="unknown")
    x = torch.randn(3, 1, 6)
    states = torch.tensor([[-1, 1], [2, 0], [-1, 1]], dtype=torch.int8)
    objective(labelled(x, states))[0].backward()
    assert objective.head.weight.grad[0].abs().sum() == 0 < objective.head.weight.grad[1].abs().sum()


def test_labels_that_do_not_fit_the_head_and_bad_choices_are_refused():
    x = torch.randn(3, 1, 6)
    for labels in (None, torch.zeros(3, 5, dtype=torch.int8)):
        with pytest.raises(EcgError, match="n_labels=2"):
            build()(labelled(x, labels))
    for field, value in (("loss", "focal"), ("positive", "hill"), ("possible", "perhaps")):
        with pytest.raises(EcgError, match=field):
            build(**{field: value})


def test_lead_views_feed_one_lead_and_evaluation_takes_lead_one(batch):
    encoder = models.build("net1d", "small", 1)
    objective = objectives.build("supervised", encoder, n_labels=len(NAMES), lead_views=True)
    assert torch.isfinite(objective(batch)[0])
    objective.eval()
    torch.testing.assert_close(objective.logits(batch.x), objective.head(encoder(batch.x[:, :1])))
    seen = []
    for seed in range(40):
        torch.manual_seed(seed)
        seen.append(objective.augment(batch.x, batch.lead_mask)[0])
    frontal = [batch.x[:, i] * sign for i, sign in ((0, 1), (5, -1), (2, -1), (4, 1), (3, -1), (1, 1), (5, 1))]
    for view in torch.stack(seen).flatten(0, 1)[:, 0]:
        assert any((view - lead).abs().amax() < 0.05 for leads in frontal for lead in leads)
    assert any((v[:, 0] - batch.x[:, 0]).abs().max() > 0.1 for v in seen)


def test_augmentation_changes_training_only(batch):
    encoder = models.build("net1d", "small", 12)
    objective = objectives.build("supervised", encoder, n_labels=len(NAMES), lead_dropout=0.5, gain=0.3, shift=True)
    torch.manual_seed(0)
    x = objective.augment(batch.x, batch.lead_mask)[0]
    dropped = (x == 0).all(-1)
    assert 0.25 < dropped.float().mean() < 0.75 and not dropped.all(1).any()
    ratio = x.abs().sum(-1) / batch.x.abs().sum(-1)  # a roll keeps the sum, the gain is one per record
    factors = [r[~d] for r, d in zip(ratio, dropped, strict=True)]
    assert all(torch.allclose(f, f[:1].expand_as(f), rtol=1e-4) for f in factors)
    assert not torch.allclose(torch.stack([f[0] for f in factors]), torch.ones(len(x)), atol=0.02)
    losses = [objective.eval()(batch)[0] for _ in range(2)]
    assert torch.equal(*losses)


def test_every_record_is_rolled_by_its_own_time(batch):
    offsets = torch.tensor([0, 1, 999, 250, 500, 3, 17, 640])
    expected = [torch.roll(x, int(k), -1) for x, k in zip(batch.x, offsets, strict=True)]
    assert torch.equal(roll(batch.x, offsets), torch.stack(expected))
    objective = build(shift=True)
    torch.manual_seed(1)
    rolled = objective.augment(batch.x, batch.lead_mask)[0]
    found = [[torch.equal(torch.roll(x, k, -1), y) for k in range(1000)].index(True)
             for x, y in zip(batch.x, rolled, strict=True)]  # fmt: skip
    torch.manual_seed(1)
    assert found == torch.randint(1000, (8,)).tolist() and len(set(found)) > 4


def test_lead_dropout_leaves_every_record_a_lead(batch):
    objective = build(lead_dropout=0.99)
    torch.manual_seed(0)
    assert (objective.augment(batch.x, batch.lead_mask)[0] != 0).any(-1).any(1).all()
    there = torch.zeros(8, 12, dtype=torch.bool)
    there[:, [2, 9]] = True
    left = (objective.augment(batch.x * there[..., None], there)[0] != 0).any(-1)
    assert left.any(1).all() and not left[:, ~there[0]].any()


def test_one_lead_is_taken_among_those_that_are_there(batch):
    objective = build(lead_views=True)
    there = torch.ones(8, 12, dtype=torch.bool)
    there[1, 0], there[2, 1], there[3, :2] = False, False, False
    x = batch.x * there[..., None]
    for seed in range(20):
        torch.manual_seed(seed)
        view = objective.augment(x, there)[0][:, 0]
        assert all(torch.equal(view[row], x[row, lead]) for row, lead in ((1, 1), (2, 0), (3, 2)))
    objective.eval()
    first = x[torch.arange(8), [0, 1, 0, 2, 0, 0, 0, 0]].unsqueeze(1)
    torch.testing.assert_close(objective.logits(x, there), objective.logits(first))


@pytest.mark.parametrize("loss", ["hill", "bce"])
def test_the_loss_of_logits_in_bfloat16_is_computed_in_float32(loss):
    objective, logits = build(loss=loss), []
    objective.head.register_forward_hook(lambda _, args, out: logits.append(out.detach()))
    x = 8 * torch.randn(64, 1, 6, generator=torch.Generator().manual_seed(0))
    states = torch.randint(2, (64, 2), generator=torch.Generator().manual_seed(1)).to(torch.int8)
    with torch.autocast("cpu", torch.bfloat16):
        ours = objective(labelled(x, states))[0]
    assert logits[0].dtype == torch.bfloat16 and ours.dtype == torch.float32
    expected = plain_loss(logits[0].double().numpy(), states.numpy(), loss, "log", "unknown")
    assert ours.item() == pytest.approx(expected, rel=1e-4)


def test_probabilities_are_targets_too_and_an_unknown_one_weighs_nothing():
    """Oracle: the cross-entropy with a soft target, entry by entry."""
    x, soft = torch.randn(3, 1, 4), torch.tensor([[0.2, 1.0], [0.0, torch.nan], [0.7, 0.5]])
    objective = build(loss="bce").eval()
    with torch.no_grad():
        loss, logs = objective(labelled(x, soft))
        p = torch.sigmoid(objective.logits(x)).numpy().astype(float)
    terms = -(soft.numpy() * np.log(p) + (1 - soft.numpy()) * np.log(1 - p))
    assert float(loss) == pytest.approx(np.nansum(terms) / 6, rel=1e-5) and float(logs["known"]) == pytest.approx(5 / 6)


def test_mixup_mixes_signals_targets_and_what_is_missing(batch):
    """Every mixed record and its target lie on the line between the same two records, at the same place."""
    objective = build(n_labels=3, mixup=0.4)
    x, mask, n = batch.x, batch.lead_mask.clone(), len(batch.x)
    mask[2, 4] = False
    x = x * mask.unsqueeze(-1)
    target, known = torch.rand(n, 3), torch.ones(n, 3)
    known[1, 2] = 0
    torch.manual_seed(3)
    mixed, both, soft, counted = objective.mix(x, mask, target, known)
    torch.manual_seed(3)
    share, other = torch.distributions.Beta(0.4, 0.4).sample((n,)), torch.randperm(n)
    assert (share > 0).all() and (share < 1).all() and share.std() > 0.1
    for i, j in enumerate(other.tolist()):
        a = float(share[i])
        there = mask[i] & mask[j]
        expected = (a * x[i] + (1 - a) * x[j]) * there[:, None]
        torch.testing.assert_close(mixed[i], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(soft[i], a * target[i] + (1 - a) * target[j], rtol=1e-4, atol=1e-6)
        assert torch.equal(both[i], there) and torch.equal(counted[i], known[i] * known[j])


def test_the_head_reads_the_mean_and_the_maximum_of_the_tokens(batch):
    net = models.build("net1d", "small", 12)
    objective = objectives.build("supervised", net, n_labels=2, pooling="mean+max", dropout=0.5).eval()
    with torch.no_grad():
        tokens = net.tokens(batch.x).numpy()
        z = np.concatenate([tokens.mean(1), tokens.max(1)], 1)
        weight, bias = objective.head.weight.numpy(), objective.head.bias.numpy()
        np.testing.assert_allclose(objective.logits(batch.x).numpy(), z @ weight.T + bias, rtol=1e-3, atol=1e-4)
        torch.manual_seed(0)
        dropped = objective.train()(batch._replace(labels=batch.labels[:, :2]))[0]
        assert float(dropped) != float(objective.eval()(batch._replace(labels=batch.labels[:, :2]))[0])
