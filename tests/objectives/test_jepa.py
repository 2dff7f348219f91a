"""ECG-JEPA: both losses against plain computations, what may leak, the teacher's average, published counts."""

import numpy as np
import pytest
import torch

from ecglib import EcgError, models, objectives
from ecglib.objectives import jepa
from ecglib.training import batches

SIZES = {"W": "small", "K": "small_k"}
W = dict(variant="W", momentum_start=0.998, momentum_end=0.9995, block=10, target_norm=False, product="teacher")
PUBLISHED = {
    "jepa_w_xs": dict(**W, predictor_depth=8, predictor_heads=4),
    "jepa_w_s": dict(**W, predictor_depth=8, predictor_heads=6),
    "jepa_w_b": dict(**W, predictor_depth=12, predictor_heads=12),
    "jepa_k": dict(variant="K", momentum_start=0.996, momentum_end=1.0, predictor_depth=6, predictor_heads=12),
}
VARIANTS = pytest.mark.parametrize("variant", ["W", "K"])


def build(variant, n_leads=3, shape=(), **params):
    """A tiny objective: 16 wide, one block, patches of 10 samples."""
    shape = {"dim": 16, "depth": 1, "heads": 2, "patch": 10, **dict(shape)}
    encoder = models.build("vit1d", SIZES[variant], n_leads, **shape)
    return objectives.build("jepa", encoder, variant=variant, predictor_heads=2, **params)


def batch_of(x):
    return batches.Batch(x, torch.ones(x.shape[:2], dtype=torch.bool), torch.arange(len(x)), {}, [""] * len(x), None)


@pytest.fixture
def x():
    return torch.randn(4, 3, 200, generator=torch.Generator().manual_seed(0))


def part(objective):
    """Move the student away from its teacher, so that the two cannot be mistaken for one another."""
    torch.manual_seed(5)
    with torch.no_grad():
        for p in objective.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn_like(p)
    return objective


def normalised(tokens):
    return (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-5)


def plain_predictor(predictor, context, keep, n, codes):
    """One sequence (k, dim) at times `keep`, in the order of time, hidden tokens in between: answers (n, dim)."""
    h = predictor.hole.expand(n, -1).clone()
    h[keep] = predictor.into(context)
    for i, block in enumerate(predictor.blocks):
        h = block((h + codes if predictor.repeat or i == 0 else h)[None])[0]
    return predictor.out(predictor.norm(h)).detach().numpy()


def codes(n, width, interleaved):
    angle = np.arange(n)[:, None] * 10000 ** (-2 * np.arange(width // 2) / width)
    table = np.concatenate([np.sin(angle), np.cos(angle)], 1)
    if interleaved:
        table = table.reshape(n, 2, -1).transpose(0, 2, 1).reshape(n, width)
    return torch.from_numpy(table)


@VARIANTS
@pytest.mark.parametrize("target_norm", [True, False])
def test_loss_equals_a_plain_computation(variant, target_norm, x):
    """Record by record (K: lead by lead), value by value."""
    objective = part(build(variant, target_norm=target_norm, predictor_depth=2)).double()
    encoder, x = objective.encoder, x.double()
    torch.manual_seed(1)
    loss, _ = objective(batch_of(x))
    torch.manual_seed(1)
    keep, hidden = objective.masks(4, 20)
    leads, table = (1, codes(20, 8, True)) if variant == "W" else (3, codes(20, 8, False))
    terms = []
    for i in range(4):
        k, m = (keep[i], hidden[i]) if variant == "W" else (keep, hidden)
        h = encoder.embed(x[i : i + 1])
        seen = torch.cat([lead * 20 + k for lead in range(leads)])
        context = encoder.encode(h, seen[None])[0, len(encoder.registers) :]
        target = objective.teacher[0].tokens(x[i : i + 1])[0].float().numpy()
        target = normalised(target) if target_norm else target
        for lead in range(leads):
            answer = plain_predictor(objective.predictor, context[lead * len(k) :][: len(k)], k, 20, table)
            for t in m.tolist():
                for a, b in zip(answer[t], target[lead * 20 + t], strict=True):
                    d = abs(a - b)
                    terms.append(0.5 * d**2 if variant == "K" and d < 1 else d - 0.5 if variant == "K" else d)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)


@VARIANTS
def test_hidden_samples_change_the_target_but_not_the_answer(variant, x):
    """Golden test 6."""
    objective = part(build(variant))
    torch.manual_seed(1)
    keep, hidden = objective.masks(4, 20)
    changed = x.clone().unflatten(2, (20, 10))
    for i in range(4):
        changed[i, :, hidden[i] if variant == "W" else hidden] += 3
    changed = changed.flatten(2)
    assert torch.equal(objective.predict(x, keep, hidden), objective.predict(changed, keep, hidden))
    before, after = (objective.at(objective.targets(v), hidden) for v in (x, changed))
    assert ((before - after).abs().amax(-1) > 1e-4).all()


@VARIANTS
def test_loss_is_zero_when_the_answer_is_the_target(variant, x, monkeypatch):
    """Golden test 7: raw and normalised."""
    for target_norm in (True, False):
        objective = part(build(variant, target_norm=target_norm))
        teacher = objective.teacher[0].tokens(x).detach()
        if target_norm:
            teacher = torch.from_numpy(normalised(teacher.numpy()))
        monkeypatch.setattr(objective, "predict", lambda x, keep, hidden, o=objective, t=teacher: o.at(t, hidden))
        assert objective(batch_of(x))[0].item() == pytest.approx(0, abs=1e-6)


@VARIANTS
def test_no_gradient_reaches_the_teacher_and_it_stays_in_evaluation_mode(variant, x):
    objective = build(variant).train()
    objective(batch_of(x))[0].backward()
    assert not objective.targets(x).requires_grad
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    assert objective.encoder.training and not any(m.training for m in objective.teacher.modules())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters() if p.requires_grad)


def trained(objective, x, steps):
    """Run some steps; the students' weights before the first and after each of them."""
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=0.01)
    history = [[p.detach().clone() for p in objective.encoder.parameters()]]
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        objective(batch_of(x))[0].backward()
        optimizer.step()
        objective.after_step(step)
        history.append([p.detach().clone() for p in objective.encoder.parameters()])
    return history


@VARIANTS
def test_teacher_is_the_moving_average_of_the_students(variant, x):
    """sum_i (1 - m_i) prod_{j > i} m_j w_i, momenta from .6 to 1 over 5 steps; W's first student counts at step 1."""
    objective = build(variant, steps=5, momentum_start=0.6, momentum_end=1.0)
    history = trained(objective, x, 4)
    momenta = [0.6 + 0.4 * (i + (variant == "W")) / 5 for i in range(4)]
    for n, slow in enumerate(objective.teacher[0].parameters()):
        expected = np.prod(momenta) * history[0][n]
        for i, m in enumerate(momenta):
            expected = expected + (1 - m) * np.prod(momenta[i + 1 :]) * history[i + 1][n]
        torch.testing.assert_close(slow, expected, atol=1e-6, rtol=1e-5)
    pairs = list(zip(objective.teacher[0].parameters(), history[0], history[-1], strict=True))
    assert any((slow - first).abs().max() > 1e-4 for slow, first, _ in pairs)  # it has moved
    assert any((slow - last).abs().max() > 1e-4 for slow, _, last in pairs)  # and lags behind


@VARIANTS
def test_momentum_one_leaves_the_teacher_as_it_was(variant, x):
    objective = build(variant, momentum_start=1.0)
    history = trained(objective, x, 2)
    assert all(torch.equal(a, b) for a, b in zip(objective.teacher[0].parameters(), history[0], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(history[-1], history[0], strict=True))


@VARIANTS
def test_product_is_the_student_unless_the_teacher_is_asked_for(variant, x):
    """The student is never rewritten; the teacher takes its place after the last step, not before."""
    for product in ("student", "teacher"):
        objective = part(build(variant, steps=3, product=product))
        before = [p.detach().clone() for p in objective.encoder.parameters()]
        for step in range(3):
            same = [torch.equal(a, b) for a, b in zip(objective.encoder.parameters(), before, strict=True)]
            assert all(same)
            objective.after_step(step)
        slow = objective.teacher[0].parameters()
        own = [torch.equal(a, b) for a, b in zip(objective.encoder.parameters(), before, strict=True)]
        its = [torch.equal(a, b) for a, b in zip(objective.encoder.parameters(), slow, strict=True)]
        assert (all(own), all(its)) == (product == "student", product == "teacher")
        with pytest.raises(EcgError, match="step 4 of a training planned for 3"):
            objective.after_step(3)
    assert {k: v.get("product") for k, v in PUBLISHED.items()} == dict.fromkeys(
        ("jepa_w_xs", "jepa_w_s", "jepa_w_b"), "teacher"
    ) | {"jepa_k": None}
    with pytest.raises(EcgError, match="student or teacher"):
        build(variant, product="both")


@pytest.mark.parametrize("n_leads", [3, 12])
def test_tokens_of_missing_leads_do_not_count_in_k(n_leads):
    """The loss is the mean over the tokens of the leads that are there; without any it is zero, with a gradient."""
    objective = part(build("K", n_leads))
    rows = objective.encoder.rows or range(n_leads)
    batch = batch_of(torch.randn(4, n_leads, 200, generator=torch.Generator().manual_seed(0)))
    there = torch.ones(4, n_leads, dtype=torch.bool)
    there[0, 1:] = there[2, 0] = False
    batch = batch._replace(x=batch.x * there[..., None], lead_mask=there)
    torch.manual_seed(1)
    loss, _ = objective(batch)
    torch.manual_seed(1)
    keep, hidden = objective.masks(4, 20)
    shape = (4, len(rows), len(hidden), -1)
    answer = objective.predict(batch.x, keep, hidden).view(shape)
    target = objective.at(objective.targets(batch.x), hidden).view(shape)
    terms = [(answer - target)[i, n] for i in range(4) for n, row in enumerate(rows) if there[i, row]]
    error = torch.stack(terms).abs()
    expected = torch.where(error < 1, error.square() / 2, error - 0.5).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = batch._replace(lead_mask=torch.zeros_like(there))
    loss, _ = objective(nothing)
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize("size, step, expected", [("jepa_k", 50, 0.998), ("jepa_w_s", 49, 0.99875)])
def test_published_momentum_at_half_time(size, step, expected, monkeypatch):
    params = {k: v for k, v in PUBLISHED[size].items() if not k.startswith("predictor")}
    objective, seen = build(params.pop("variant"), steps=100, **params), []
    monkeypatch.setattr(objective.teacher, "update", lambda *modules, momentum: seen.append(momentum))
    objective.after_step(step)
    assert seen == [pytest.approx(expected)]


@pytest.mark.parametrize(
    "size, count",
    [("jepa_w_xs", 923_328), ("jepa_w_s", 3_689_856), ("jepa_w_b", 21_833_472), ("jepa_k", 11_232_000)],
)
def test_predictors_have_the_published_number_of_parameters(size, count):
    with torch.device("meta"):
        encoder = models.module("vit1d").Encoder(12, **models.module("vit1d").SIZES[size])
        objective = jepa.Objective(encoder, **PUBLISHED[size])
    assert models.n_parameters(objective.predictor) == count
    assert models.n_parameters(objective) == models.n_parameters(encoder) + count  # the teacher is not trained


@VARIANTS
def test_small_configurations_count_as_specified(variant):
    objective = objectives.build("jepa", models.build("vit1d", SIZES[variant]), variant=variant)
    assert models.n_parameters(objective) == {"W": 408_864, "K": 117_952}[variant]


def test_share_of_visible_patches_is_drawn_from_its_range():
    torch.manual_seed(0)
    weimann, kim, blocks = build("W"), build("K"), build("K", block=4)
    counts = {name: set() for name in ("W", "W small", "K", "K blocks")}
    for _ in range(400):
        for name, objective, n in zip(counts, (weimann, weimann, kim, blocks), (200, 100, 50, 50), strict=True):
            keep, hidden = objective.masks(2, n)
            for k, m in zip(keep, hidden, strict=True) if name[0] == "W" else [(keep, hidden)]:
                assert sorted(k.tolist() + m.tolist()) == list(range(n))
            counts[name].add(n - keep.shape[-1])
    assert counts["W"] == set(range(150, 170)) and counts["W small"] == set(range(75, 85))
    assert counts["K"] == set(range(30, 35)) and 8 <= min(counts["K blocks"]) < max(counts["K blocks"]) <= 44


def test_records_have_their_own_masks_in_w_and_share_one_in_k():
    torch.manual_seed(0)
    keep, hidden = build("W").masks(8, 100)
    assert len({tuple(k.tolist()) for k in keep}) > 4 and hidden.shape == (8, 100 - keep.shape[1])
    assert all(torch.diff(m).eq(1).float().mean() > 0.9 for m in hidden)  # in runs
    keep, _ = build("K").masks(8, 50)
    assert keep.ndim == 1
    assert build("K").tokens_at(torch.tensor([1, 4]), 150).tolist() == [1, 4, 51, 54, 101, 104]


@VARIANTS
def test_collapse_is_seen_in_the_logs(variant, x):
    objective = build(variant)
    _, logs = objective(batch_of(x))
    _, same = objective(batch_of(x[:1].expand(4, -1, -1)))
    assert logs["target_sd"] > 1e-4 and same["target_sd"] < 1e-6
    assert torch.isfinite(objective(batch_of(x[:1]))[1]["target_sd"])


def test_what_does_not_fit_is_refused(x):
    for size, variant in (("small_k", "W"), ("small", "K")):
        with pytest.raises(EcgError, match="leads"):
            objectives.build("jepa", models.build("vit1d", size), variant=variant)
    with pytest.raises(EcgError, match="vit1d"):
        objectives.build("jepa", models.build("net1d"))
    with pytest.raises(EcgError, match="W or K"):
        jepa.Objective(models.build("vit1d"), variant="X")
    with pytest.raises(EcgError, match="keep_low"):
        build("W", keep_low=0.5)
    for variant in ("W", "K"):
        with pytest.raises(EcgError, match="longer signals"):
            build(variant)(batch_of(x[..., :10]))
