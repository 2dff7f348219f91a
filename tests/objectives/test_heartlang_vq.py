"""The first stage of HeartLang: counts, loss against a plain computation, codebook, published function."""

import numpy as np
import pytest
import torch
from memory_cohort import MemoryCohort
from torch import nn

from ecglib import EcgError, models, objectives
from ecglib.objectives import heartlang_vq
from ecglib.training import batches


@pytest.fixture(scope="module")
def batch():
    return batches.CohortData(MemoryCohort(8, shares=(("train", 1),)), np.arange(8)).batch(np.arange(8))


def build(size="vq_small", n_leads=12, **params):
    return objectives.build("heartlang_vq", models.build("beat_transformer", size, n_leads), **params)


def test_parameter_counts():
    """Small: about 127,000 and a codebook of 8,192; published: with two mask vectors that nothing reads."""
    objective = build()
    assert models.n_parameters(objective) == 126_720
    assert objective.vocabulary.quantiser.codes.numel() == 8_192
    with torch.device("meta"):
        encoder = models.module("beat_transformer").Encoder(**models.module("beat_transformer").SIZES["vqhbr"])
        objective = heartlang_vq.Objective(encoder, codes=8192, code_dim=128, decoder_depth=2)
    heads = models.n_parameters(objective.vocabulary) + models.n_parameters(objective.draw)
    assert heads == 1_353_440 and objective.vocabulary.quantiser.codes.numel() == 1_048_576
    assert models.n_parameters(objective) + 1_048_576 + 2 * 768 == 24_641_760


@pytest.mark.parametrize("score_pads", [False, True])
def test_loss_equals_a_plain_computation(batch, score_pads):
    objective = build(codes=32, commitment=0.5, score_pads=score_pads)
    objective.eval()
    x = batch.x.clone()
    x[3, 5:] = 0  # missing leads
    loss, logs = objective(batch._replace(x=x))
    words = objective.encoder.words(x, batch.peaks)
    drawn, said = objective.reconstruct(words)
    errors, words_in, codes = [], [], objective.vocabulary.quantiser.codes
    z = objective.vocabulary.head(objective.encoder.sentence(words)[:, 1:] * words.real[..., None])
    unit = z / z.norm(dim=-1, keepdim=True)
    away = []
    for i, n in np.ndindex(*words.real.shape):
        if score_pads or words.tokens[i, n].any():
            errors.append((drawn[i, n] - words.tokens[i, n]).square().mean().item())
            away.append((unit[i, n] - codes[said.index[i, n]]).square().mean().item())
            words_in.append(words.tokens[i, n].numpy())
    assert not words.real.all()
    assert logs["mse"].item() == pytest.approx(np.mean(errors), rel=1e-4)
    assert logs["commitment"].item() == pytest.approx(np.mean(away), rel=1e-4)
    assert loss.item() == pytest.approx(np.mean(errors) + 0.5 * np.mean(away), rel=1e-4)
    assert logs["variance"].item() == pytest.approx(np.var(words_in, axis=0).mean(), rel=1e-4)


def test_the_codebook_moves_after_a_step_and_only_in_training(batch):
    objective = build()
    torch.manual_seed(0)
    first = objective(batch)[0]
    codes = objective.vocabulary.quantiser.codes.clone()
    torch.manual_seed(0)
    assert torch.equal(objective(batch)[0], first)  # the same step repeats until it is taken
    objective.after_step(0)
    assert not torch.equal(objective.vocabulary.quantiser.codes, codes)
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    objective.eval()(batch)
    objective.after_step(1)
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())


def test_learns_to_draw_beats_with_many_codes(batch):
    """MSE below the variance of the words, and a vocabulary in use."""
    objective = build()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    for step in range(40):
        torch.manual_seed(step)
        loss, logs = objective(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(step)
    assert logs["mse"] < 0.7 * logs["variance"] and logs["perplexity"] > 32


def test_gradient_passes_the_codebook_and_reaches_every_part(batch):
    objective = build()
    objective(batch)[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())


def test_silence_gives_a_finite_loss(batch):
    objective = build()
    silent = batch._replace(x=torch.zeros_like(batch.x), peaks=torch.full((8, 2), -1))
    for mode in (True, False):
        loss, logs = objective.train(mode)(silent)
        assert loss == 0 and all(torch.isfinite(v) for v in logs.values())


def test_works_in_half_precision(batch):
    objective = build()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = objective(batch)
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss)


def test_bad_choices_are_refused():
    with pytest.raises(EcgError, match="beat_transformer|heartlang_vq"):
        heartlang_vq.Objective(nn.Identity())
    for wrong in ({"codes": 1}, {"decay": 1.0}):
        with pytest.raises(EcgError, match="codes="):
            build(**wrong)
    with pytest.raises(EcgError, match="unknown tensor"):
        heartlang_vq.from_published({"teacher.weight": torch.zeros(1)})
