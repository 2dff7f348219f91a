"""The second stage of HeartLang: counts, loss against a plain computation, what is hidden, published function."""

import shutil

import numpy as np
import pytest
import torch
from memory_cohort import MemoryCohort
from torch import nn

from ecglib import EcgError, models, objectives
from ecglib.models import beat_tokenizer
from ecglib.models.beat_tokenizer import Words
from ecglib.objectives import heartlang
from ecglib.training import batches, train


@pytest.fixture(scope="module")
def data():
    return batches.CohortData(MemoryCohort(8, shares=(("train", 1),)), np.arange(8))


@pytest.fixture(scope="module")
def batch(data):
    return data.batch(np.arange(8))


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heartlang_vq")
    objective = objectives.build("heartlang_vq", models.build("beat_transformer", "vq_small"))
    train.fit(objective, data, folder, settings=train.Settings(steps=3, batch_size=8))
    return str(folder)


def build(first, size="small", **params):
    return objectives.build("heartlang", models.build("beat_transformer", size), first=first, **params)


def test_parameter_counts(first):
    assert models.n_parameters(build(first)) == 107_072
    with torch.device("meta"):
        encoder = models.module("beat_transformer").Encoder(**models.module("beat_transformer").SIZES["heartlang"])
    assert models.n_parameters(encoder) + 768 + 8192 * 769 == 44_562_176


def test_numbers_of_words_are_those_of_the_first_stage(first, batch):
    objective, stage = build(first), objectives.load(first)
    words = objective.encoder.words(batch.x, batch.peaks)
    _, said = stage.reconstruct(words)
    index = objective.spell(words)
    assert torch.equal(index[words.real], said.index[words.real]) and index.unique().numel() > 8
    objective.train()
    assert torch.equal(objective.spell(words), index) and not any(m.training for m in objective.first.modules())
    assert not torch.equal(build(first, bare_targets=True).spell(words)[words.real], index[words.real])


@pytest.mark.parametrize("mask_ratio", [0.5, 0.2])
def test_loss_equals_a_plain_computation(first, batch, mask_ratio):
    objective = build(first, mask_ratio=mask_ratio)
    x = batch.x.clone()
    x[3, 5:] = 0
    torch.manual_seed(4)
    loss, logs = objective(batch._replace(x=x))
    words = objective.encoder.words(x, batch.peaks)
    torch.manual_seed(4)
    hidden, target = objective.hide(words), objective.spell(words)
    assert not hidden[~words.real].any()
    assert abs(hidden.sum() / words.real.sum() - mask_ratio) < 0.05
    read = objective.encoder.sentence(words, hidden, objective.mask_token)[:, 1:]
    total, right, counts = 0.0, 0, np.zeros(256)
    places = [(i, n) for i, n in np.ndindex(*hidden.shape) if hidden[i, n]]
    for i, n in places:
        scores = (objective.head.weight @ read[i, n] + objective.head.bias).detach().double().numpy()
        code = target[i, n].item()
        total += np.log(np.exp(scores).sum()) - scores[code]
        right += scores.argmax() == code
        counts[code] += 1
    assert loss.item() == pytest.approx(total / len(places), rel=1e-5)
    assert logs["accuracy"].item() == pytest.approx(right / len(places))
    assert logs["majority"].item() == pytest.approx(counts.max() / len(places))
    p = counts[counts > 0] / len(places)
    assert logs["perplexity"].item() == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)


def test_whole_beats_are_hidden_in_all_leads(first, batch):
    objective = build(first, whole_beats=True)
    words = objective.encoder.words(batch.x, batch.peaks)
    hidden, beat = objective.hide(words), beat_tokenizer.beat_numbers(words.lead)
    shares = [hidden[i][(beat[i] == b) & words.real[i]] for i in range(8) for b in range(12)]
    shares = [s.float().mean().item() for s in shares if len(s)]
    assert set(shares) == {0.0, 1.0} and 0.3 < np.mean(shares) < 0.7
    torch.manual_seed(0)
    single = build(first).hide(words)
    assert not torch.equal(single[:, :12].all(1), single[:, :12].any(1))


def test_published_masking_scores_padding(first, batch):
    objective = build(first, score_pads=True)
    words = objective.encoder.words(batch.x, batch.peaks)
    hidden = objective.hide(words)
    assert hidden[~words.real].any() and set(hidden.sum(1).tolist()) == {round(hidden.shape[1] * 0.5)}


def test_gradient_trains_encoder_mask_and_head_and_leaves_the_first_stage(first, batch):
    objective = build(first)
    objective(batch)[0].backward()
    for name, p in objective.named_parameters():
        assert (p.grad is None) if name.startswith("first.") else p.grad.abs().sum() > 0


def test_learns_beyond_the_commonest_word(first, batch):
    objective = build(first)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    for step in range(40):
        torch.manual_seed(step)
        loss, logs = objective(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logs["accuracy"] > logs["majority"]


def test_an_empty_sentence_gives_a_finite_loss(first, batch):
    objective = build(first)
    silent = batch._replace(x=torch.zeros_like(batch.x), peaks=torch.full((8, 2), -1))
    loss, logs = objective(silent)
    loss.backward()
    assert loss == 0 and all(torch.isfinite(v) for v in logs.values())


def test_stores_and_resumes_itself(first, data, tmp_path):
    objective = build(first)
    train.fit(objective, data, tmp_path, settings=train.Settings(steps=2, batch_size=8))
    loaded = objectives.load(tmp_path)
    ours, theirs = objective.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


def test_an_artefact_needs_no_folder_of_the_first_stage(first, data, batch, tmp_path):
    """Nor does it name one; another first stage of the same shape makes another config, so that no training resumes."""
    folder, other, out = (tmp_path / name for name in ("first", "other", "out"))
    shutil.copytree(first, folder)
    objective = build(str(folder))
    train.fit(objective, data, out, settings=train.Settings(steps=1, batch_size=8))
    shutil.rmtree(folder)
    loaded, words = objectives.load(out), objective.encoder.words(batch.x, batch.peaks)
    assert torch.equal(loaded.spell(words), objective.spell(words)) and loaded.config == objective.config
    losses = []
    for one in (objective.eval(), loaded):
        torch.manual_seed(0)
        losses.append(one(batch)[0])
    assert torch.equal(*losses)
    assert objective.config["first"] == "" and str(tmp_path) not in str(objective.config)
    stage = objectives.build("heartlang_vq", models.build("beat_transformer", "vq_small"), seed=1)
    train.fit(stage, data, other, settings=train.Settings(steps=1, batch_size=8))
    assert build(str(other)).config != build(first).config == objective.config


def test_whole_beats_of_a_sentence_cut_lead_by_lead(first):
    """In this order a short sentence has more beats of one lead than its length over the number of leads."""
    objective = build(first, whole_beats=True, mask_ratio=0.5)
    lead = torch.tensor([[1, 1, 1, 1, 2, 2]])
    words = Words(torch.ones(1, 6, 96), lead, torch.ones_like(lead), torch.ones(1, 6, dtype=torch.bool))
    torch.manual_seed(0)
    seen = torch.stack([objective.hide(words)[0] for _ in range(50)])
    assert (seen[:, :4].sum(1) == 2).all() and torch.equal(seen[:, 4:], seen[:, :2])
    assert seen[:, :4].any(0).all() and not (seen[:, 1:4] == seen[:, 1:2]).all()


def test_a_first_stage_is_needed_and_must_fit(first, tmp_path, data):
    for wrong in ("", str(tmp_path)):
        with pytest.raises(EcgError, match="vocabulary of heartbeats") as error:
            build(wrong)
        assert error.value.field == "first" and "train the objective heartlang_vq" in str(error.value)
    for override in ({"fs": 250}, {"n_leads": 3}, {"limit": 120}, {"order": "lead"}):
        with pytest.raises(EcgError, match="in the first stage"):
            objectives.build("heartlang", models.build("beat_transformer", **override), first=first)
    with pytest.raises(EcgError, match="mask_ratio"):
        build(first, mask_ratio=1.0)
    with pytest.raises(EcgError, match="heartlang reads heartbeats"):
        heartlang.Objective(nn.Identity(), first=first)
    train.fit(build(first), data, tmp_path, settings=train.Settings(steps=1, batch_size=8))
    with pytest.raises(EcgError, match="heartlang has no heartbeats"):
        build(str(tmp_path))
