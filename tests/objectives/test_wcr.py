"""WCR: every term against plain computations, golden values of the specification, what random lead masking hides."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ecglib import EcgError, models, objectives
from ecglib.models import quantizers
from ecglib.models.encoders import wav2vec
from ecglib.models.quantizers import effective_number
from ecglib.objectives import wcr
from ecglib.training import augment, losses, masking
from ecglib.training.batches import Batch
from ecgsim.records import ecgs

TINY = dict(channels=8, dim=16, depth=1, heads=2, hidden=16, position_kernel=5, position_groups=2)
SMALL_HEADS = dict(books=2, entries=4, code_dim=3, final_dim=8, negatives=5, span=3)
PUBLISHED = dict(span=10, negatives=100, entries=320, code_dim=128, final_dim=256, steps=328_800)


def tiny(n_leads=3, seed=0, **params):
    return objectives.build("wcr", models.build("wav2vec", n_leads=n_leads, seed=seed, **TINY), **SMALL_HEADS | params)


def batch_of(x, patients=None):
    patients = torch.arange(len(x)) if patients is None else torch.tensor(patients)
    return Batch(x, torch.ones(x.shape[:2], dtype=torch.bool), patients, {}, [""] * len(x), None, None)


@pytest.fixture
def batch():
    return batch_of(torch.randn(6, 3, 400, generator=torch.Generator().manual_seed(0)))


def count(*modules):
    return sum(models.n_parameters(m) for m in modules)


def published(size, **params):
    with torch.device("meta"):
        return wcr.Objective(wav2vec.Encoder(12, **wav2vec.SIZES[size]), **PUBLISHED | params)


def test_the_published_models_have_their_number_of_parameters():
    objective = published("ecgfm")
    parts = objective.quantiser, objective.project_target, objective.project_context
    assert [count(p) for p in parts] == [246_400, 65_792, 196_864] and objective.mask_vector.numel() == 768
    assert count(objective) == 90_883_072
    with torch.device("meta"):
        assert count(objective.encoder, nn.Linear(768, 17)) == 90_386_321
        caption = wav2vec.Pooler(768, 768, 8, 128)
    assert count(published("ecgfm_large")) == 311_940_352
    melp = published("melp")  # its released encoder also holds a 256 x 256 projection and a logit scale
    assert count(melp, caption) + 256 * 256 + 1 == 65_593_857


def test_the_small_model_has_the_number_of_the_specification():
    assert count(objectives.build("wcr", models.build("wav2vec"))) == 251_360 + 31  # gains of the weight norm


# The loss against a plain computation


def plain_local(context, target, codes, drawn, temperature):
    """Sum of the local terms over the hidden tokens of one row, token by token, and how many came out right."""
    total, right, chance = 0.0, 0, 0.0
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (context, target)]
    for t in range(len(context)):
        positive = unit[0][t] @ unit[1][t] / temperature
        others = [unit[0][t] @ unit[1][j] / temperature for j in drawn[t] if (codes[j] != codes[t]).any()]
        total += math.log(sum(math.exp(s - positive) for s in [positive, *others]))
        right += all(s < positive for s in others)
        chance += 1 / (1 + len(others))
    return total, right, chance


def plain_draws(rows, tokens, params):
    """What one forward pass in evaluation mode draws: hidden tokens (row, n), negatives (row, n, negatives)."""
    torch.manual_seed(5)
    hidden = [row.nonzero()[:, 0].tolist() for row in masking.spans(rows, tokens, 0.65, params["span"])]
    raw = torch.randint(len(hidden[0]) - 1, (rows, len(hidden[0]), params["negatives"]))
    negatives = [[[j + (j >= t) for j in line] for t, line in enumerate(row)] for row in raw.tolist()]
    return hidden, negatives


def test_loss_equals_a_plain_computation(batch):
    objective = tiny(temperature=0.2, cmsc=0.7).eval()
    batch = batch._replace(patient_id=torch.tensor([0, 1, 1, 2, 3, 0]))
    torch.manual_seed(5)
    with torch.no_grad():
        loss, logs = objective(batch)
        hidden, negatives = plain_draws(12, 25, SMALL_HEADS)
        encoder, total, states, penalty, right, chance = objective.encoder, 0.0, [], 0.0, 0, 0.0
        p = np.zeros((2, 4))
        for row, x in enumerate(torch.cat([batch.x[..., :200], batch.x[..., 200:]])):
            features = encoder.stem(x[None])
            mask = torch.zeros(1, 25, dtype=torch.bool)
            mask[0, hidden[row]] = True
            h = encoder.encode(features, mask, objective.mask_vector)[0]
            states.append(h.numpy().mean(0))
            penalty += float(features.square().mean()) / 12
            scores = (
                objective.quantiser.project(encoder.feature_norm(features)[0, hidden[row]]).numpy().reshape(-1, 2, 4)
            )
            codes = scores.argmax(-1)
            p += (np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)).mean(0) / 12
            entries = objective.quantiser.entries.numpy()
            quantised = np.concatenate([entries[0][codes[:, 0]], entries[1][codes[:, 1]]], 1)
            target = objective.project_target(torch.from_numpy(quantised)).numpy()
            context = objective.project_context(h[hidden[row]]).numpy()
            found = plain_local(context, target, codes, negatives[row], 0.2)
            total, right, chance = total + found[0], right + found[1], chance + found[2]
    n = 12 * len(hidden[0])
    g = np.array(states) / np.linalg.norm(states, axis=1, keepdims=True)
    e = np.exp(g[:6] @ g[6:].T / 0.2)
    same = batch.patient_id[:, None].numpy() == batch.patient_id.numpy()
    cmsc = -(np.log(e / e.sum(1, keepdims=True))[same].mean() + np.log(e / e.sum(0))[same].mean()) / 2
    perplexity = np.exp(-(p * np.log(p)).sum(1)).sum()
    expected = {"local": total / n, "accuracy": right / n, "chance": chance / n, "perplexity": perplexity}
    expected |= {"diversity": (8 - perplexity) / 8, "penalty": penalty, "cmsc": cmsc}
    assert {k: float(v) for k, v in logs.items()} == pytest.approx(expected, rel=1e-4)
    whole = total + n * (0.1 * expected["diversity"] + 10 * penalty + 0.7 * cmsc)  # as the paper writes it
    assert float(loss) == pytest.approx(whole / n, rel=1e-4)


def test_no_token_is_its_own_negative_nor_one_with_its_codes():
    context = torch.randn(2, 9, 4)
    codes = torch.randint(2, (2, 9, 2))
    logits = wcr.local_logits(context, context, codes, 400, 0.1)
    assert torch.allclose(logits[..., 0], torch.tensor(10.0))
    for row in range(2):
        s = torch.nn.functional.cosine_similarity(context[row][:, None], context[row][None], dim=-1) * 10
        for t in range(9):
            others = {round(float(s[t, j]), 3) for j in range(9) if (codes[row, j] != codes[row, t]).any()}
            seen = {round(float(v), 3) for v in logits[row, t, 1:] if v.isfinite()}
            assert seen == others


# Golden values of ecg-fm.md section 7


def test_golden_values_of_cmsc():
    z = torch.ones(64, 8)
    assert float(losses.cmsc(z, z, torch.arange(64), 0.1)) == pytest.approx(4.158883, abs=1e-6)
    z = torch.eye(4)
    assert float(losses.cmsc(z, z, torch.arange(4), 0.1)) == pytest.approx(0.00013619, abs=1e-7)


def test_golden_values_of_the_diversity_term():
    def term(p):
        return 0.1 * (1 - float(effective_number(p).sum()) / p.numel())

    assert term(torch.full((2, 320), 1 / 320)) == pytest.approx(0, abs=1e-6)
    assert term(torch.eye(320)[[7, 11]]) == pytest.approx(0.0996875, abs=1e-7)


def test_standardised_leads_have_mean_zero_and_sd_one():
    x = torch.randn(2, 3, 500) * 4 + 7
    x[0, 1] = 2.5
    z = augment.standardise(x)
    assert (z[0, 1] == 0).all()
    rest = torch.cat([z[0, [0, 2]], z[1]])
    torch.testing.assert_close(rest.mean(-1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(rest.std(-1, correction=0), torch.ones(5))


def test_gradient_into_the_convolutions_is_a_tenth(batch):
    gradients = []
    for factor in (1.0, 0.1):
        objective = tiny(feature_gradient=factor)
        torch.manual_seed(1)
        objective(batch)[0].backward()
        gradients.append({k: p.grad for k, p in objective.named_parameters()})
    for name, plain in gradients[0].items():
        extractor = name.startswith(("encoder.convs", "encoder.group_norm"))
        torch.testing.assert_close(gradients[1][name], plain * (0.1 if extractor else 1.0))
        assert plain.abs().sum() > 0, name


def test_the_temperature_falls_as_published():
    objective = tiny(**{**PUBLISHED, "entries": 4, "code_dim": 3, "final_dim": 8})
    for n in (0, 1, 1000, 100_000, 277_000, 277_258, 300_000):
        objective.after_step(n - 1)
        assert float(objective.gumbel()) == pytest.approx(max(2 * 0.999995**n, 0.5), rel=1e-4)
    short = tiny(steps=200)
    short.after_step(99)
    assert 0.5 < float(short.gumbel()) < 2
    short.after_step(199)
    assert float(short.gumbel()) == 0.5


# Quantiser


def test_the_quantiser_chooses_hard_and_learns_soft():
    quantiser = quantizers.GumbelQuantizer(5, 2, 4, 3)
    x = torch.randn(7, 5)
    torch.manual_seed(2)
    out, codes, p = quantiser(x, 0.7)
    picked = torch.cat([quantiser.entries[b][codes[:, b]] for b in range(2)], -1)
    assert torch.equal(out, picked) and p.shape == (2, 4)
    torch.testing.assert_close(p.sum(1), torch.ones(2))
    out.square().sum().backward()
    torch.manual_seed(2)
    logits = quantiser.project(x.clone()).detach().unflatten(-1, (2, 4)).requires_grad_()
    soft = ((logits - torch.empty(7, 2, 4).exponential_().log()) / 0.7).softmax(-1)
    gradient = torch.einsum("nbw,bew->nbe", 2 * picked.detach().unflatten(-1, (2, 3)), quantiser.entries.detach())
    soft.backward(gradient)
    torch.testing.assert_close(quantiser.project.bias.grad, logits.grad.sum(0).flatten())


def test_entries_are_drawn_with_their_probability_whatever_the_temperature():
    quantiser = quantizers.GumbelQuantizer(3, 1, 4, 2)
    x = torch.randn(1, 3) * 0.5
    expected = quantiser.project(x).softmax(-1)[0]
    for temperature in (0.5, 2.0):
        torch.manual_seed(3)
        codes = quantiser(x.expand(20_000, -1), temperature)[1].flatten()
        torch.testing.assert_close(codes.bincount(minlength=4) / 20_000, expected, atol=0.015, rtol=0)
    assert (quantiser.eval()(x.expand(50, -1))[1] == expected.argmax()).all()


# What the encoder is shown


def shown(objective, batch, seed=0):
    """Segments that reach the convolutions, and (mask, vector) that reach the transformer."""
    seen, encoder = {}, objective.encoder
    stem, encode = encoder.stem, encoder.encode
    encoder.stem = lambda x: stem(seen.setdefault("x", x))
    encoder.encode = lambda f, mask, vector: encode(f, seen.setdefault("mask", mask), seen.setdefault("vector", vector))
    torch.manual_seed(seed)
    objective(batch)
    del encoder.stem, encoder.encode
    return seen


@pytest.mark.parametrize("rlm", [0.5, 0.2])
def test_random_leads_are_hidden_and_others_in_the_second_segment(rlm):
    batch = batch_of(torch.randn(200, 12, 64))
    objective = tiny(12, rlm=rlm, span=2)
    seen = shown(objective, batch)["x"]
    whole = torch.cat([batch.x[..., :32], batch.x[..., 32:]])
    hidden = (seen == 0).all(-1)
    assert torch.equal(seen, whole * ~hidden.unsqueeze(-1))
    assert hidden.float().mean() == pytest.approx(rlm, abs=0.02)
    assert not hidden.all(1).any()
    share = (hidden[:200] == hidden[200:]).float().mean()  # drawn apart: equal by chance only
    assert share == pytest.approx(rlm**2 + (1 - rlm) ** 2, abs=0.03)
    per_lead = hidden.float().mean(0)
    assert (per_lead - rlm).abs().max() < 0.1
    assert torch.equal(shown(objective.eval(), batch)["x"], whole)


def test_a_single_lead_stays_and_so_does_one_that_is_present():
    batch = batch_of(torch.randn(20, 1, 64))
    assert torch.isfinite(tiny(1, span=2)(batch)[0])
    assert torch.equal(shown(tiny(1, span=2), batch)["x"], torch.cat([batch.x[..., :32], batch.x[..., 32:]]))
    mask = torch.zeros(20, 3, dtype=torch.bool)
    mask[:, 1] = True
    batch = batch_of(torch.randn(20, 3, 64) * mask[..., None])._replace(lead_mask=mask)
    assert (shown(tiny(3, span=2), batch)["x"][:, 1] != 0).all()


def test_tokens_are_hidden_in_whole_spans_of_one_total(batch):
    objective = tiny(span=4)
    seen = shown(objective, batch)
    assert seen["mask"].shape == (12, 25) and seen["vector"] is objective.mask_vector
    assert len(seen["mask"].sum(1).unique()) == 1 and 0.4 < seen["mask"].float().mean() < 0.65
    for row in seen["mask"].tolist():
        runs = "".join("#" if hidden else " " for hidden in row).split()
        assert all(len(run) >= 4 for run in runs)
    assert len({tuple(row) for row in seen["mask"].tolist()}) > 6


def test_segments_of_one_patient_are_positives(batch):
    objective = tiny().eval()

    def cmsc(patients):
        torch.manual_seed(0)
        return float(objective(batch._replace(patient_id=torch.tensor(patients)))[1]["cmsc"])

    assert cmsc([0, 1, 2, 3, 4, 5]) != cmsc([0, 0, 2, 3, 4, 5]) == cmsc([7, 7, 1, 2, 3, 4])


def test_what_does_not_fit_is_refused():
    with pytest.raises(EcgError, match="too few for spans of 3"):
        tiny()(batch_of(torch.randn(2, 3, 80)))
    with pytest.raises(EcgError, match="too few"):
        tiny()(batch_of(torch.randn(2, 3, 20)))
    with pytest.raises(EcgError, match="use wav2vec"):
        objectives.build("wcr", models.build("net1d"))


def test_evaluation_changes_nothing_and_the_counter_is_saved(batch):
    objective = tiny()
    objective.after_step(41)
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    objective.eval()(batch)
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items()) and int(before["updates"]) == 42


def test_all_leads_rates_and_poolers():
    for n_leads, n_times, size in ((12, 1000, "small"), (1, 2500, "small"), (3, 1001, "small_melp")):
        objective = objectives.build("wcr", models.build("wav2vec", size, n_leads))
        loss, logs = objective(batch_of(torch.randn(3, n_leads, n_times)))
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())
        assert all(np.isfinite(float(v)) for v in logs.values()) and not any(v.requires_grad for v in logs.values())


def test_learns_more_than_chance():
    x = torch.from_numpy(np.asarray(ecgs(32, seed=0, seconds=6)[0], np.float32)) / 0.2
    encoder = models.build("wav2vec", channels=32, dim=32, depth=1, hidden=64, position_groups=4)
    objective = objectives.build("wcr", encoder, steps=80, final_dim=32, code_dim=16)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    rows = []
    for step in range(80):
        torch.manual_seed(step)
        loss, logs = objective(batch_of(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(step)
        rows.append({k: float(v) for k, v in logs.items()})
    last = {k: np.mean([row[k] for row in rows[-20:]]) for k in rows[0]}
    assert last["cmsc"] < math.log(32) and last["perplexity"] > 16
    assert last["accuracy"] > 1.3 * last["chance"]
