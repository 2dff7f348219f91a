"""MELP against plain loops, its golden values (melp.md section 7), and what must not change its terms."""

import math

import numpy as np
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort

from ecglib import EcgError, models, objectives
from ecglib.models import text
from ecglib.objectives import melp
from ecglib.training import checkpoint
from ecglib.training.batches import Batch, CohortData
from ecglib.training.losses import clip

WORDS = {"NORM": "Sinus rhythm. Normal ECG.", "AFIB": "Atrial fibrillation. No LVH.", "CLBBB": "Sinus rhythm; LBBB."}


def reports(n, rate=True):
    return [WORDS[NAMES[i % 3]] + (f" Rate {60 + i}." if rate and i % 2 else "") for i in range(n)]


def batch_of(texts, n_leads=12, time=400, seed=0):
    n, generator = len(texts), torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_leads, time, generator=generator)
    mask = torch.ones(n, n_leads, dtype=torch.bool)
    return Batch(x, mask, torch.arange(n), {}, list(texts), None, torch.full((n, 1), -1))


def build(encoder="wav2vec", size="small_melp", n_leads=12, **params):
    made = models.build(encoder, size, n_leads)
    return objectives.build("melp", made, **{"vocabulary": text.vocabulary(WORDS.values()), **params})


def loss_of(objective, batch, seed=0):
    torch.manual_seed(seed)
    return objective(batch)


@pytest.fixture
def objective():
    return build().eval()


def softmax(v):
    e = np.exp(np.asarray(v) - np.max(v))
    return e / e.sum()


def unit(v):
    return v / np.linalg.norm(v)


def slow_matching(beats, sentences, counts, attention):
    """Section 4.3 of the specification, one pair, sentence and beat at a time."""
    out = np.zeros((len(beats), len(sentences)))
    for i, b in enumerate(beats):
        for j, n in enumerate(counts):
            s, total = sentences[j][:n], 0.0
            published = np.stack([softmax([w @ r for w in s]) for r in b], 1)  # (sentence, region)
            for k, w in enumerate(s):
                a = published[k] if attention == "published" else [unit(w) @ unit(r) for r in b]
                context = sum(p * r for p, r in zip(softmax(4 * np.array(a)), b, strict=True))
                total += math.exp(5 * unit(w) @ unit(context))
            out[i, j] = 10 * math.log(total)
    return out


def random_pairs(counts=(1, 3, 2, 1), beats=5, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    b, s = rng.normal(size=(len(counts), beats, dim)), rng.normal(size=(len(counts), max(counts), dim))
    present = np.arange(max(counts)) < np.array(counts)[:, None]
    return b, s * present[..., None], present, counts


def tensors(*arrays):
    return [torch.from_numpy(a).float() if a.dtype != bool else torch.from_numpy(a) for a in arrays]


@pytest.mark.parametrize("attention", melp.ATTENTION)
def test_the_beat_term_is_the_formula(attention):
    beats, sentences, present, counts = random_pairs()
    ours = melp.matching(*tensors(beats, sentences, present), attention)
    np.testing.assert_allclose(ours, slow_matching(beats, sentences, counts, attention), rtol=1e-4)


def test_published_attention_is_uniform_where_a_report_has_one_sentence():
    beats, sentences, present, _ = random_pairs(counts=(1, 1, 1, 1))
    mean = beats.mean(1)
    expected = [[50 * unit(s[0]) @ unit(m) for s in sentences] for m in mean]
    ours = melp.matching(*tensors(beats, sentences, present), "published")
    np.testing.assert_allclose(ours, expected, rtol=1e-4)
    assert not np.allclose(melp.matching(*tensors(beats, sentences, present)), expected, rtol=1e-2)


@pytest.mark.parametrize("attention", melp.ATTENTION)
def test_the_beat_term_does_not_depend_on_the_order_of_sentences_or_beats(attention):
    beats, sentences, present, _ = random_pairs(counts=(3, 3, 3, 3))
    before = melp.matching(*tensors(beats, sentences, present), attention)
    after = melp.matching(*tensors(beats[:, [3, 1, 4, 0, 2]], sentences[:, [2, 0, 1]], present), attention)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", melp.ATTENTION)
def test_empty_places_for_sentences_change_nothing_and_give_finite_gradients(attention):
    beats, sentences, present, _ = random_pairs()
    wide = np.pad(sentences, ((0, 0), (0, 2), (0, 0)))
    b, s, p = tensors(beats, wide, np.pad(present, ((0, 0), (0, 2))))
    b.requires_grad_(), s.requires_grad_()
    ours = melp.matching(b, s, p, attention)
    torch.testing.assert_close(ours, melp.matching(*tensors(beats, sentences, present), attention))
    ours.logsumexp(1).sum().backward()
    assert torch.isfinite(b.grad).all() and torch.isfinite(s.grad).all() and not s.grad[~p].any()


def test_sentence_vectors_are_means_of_their_tokens():
    ids = text.Tokenizer("a b c", 9)(["a b. c a b", "c"])
    states = torch.randn(2, 9, 4)
    vectors, present = melp.means(states, text.sentence_of(ids))
    assert present.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(vectors[0, 0], states[0, 1:3].mean(0))
    torch.testing.assert_close(vectors[0, 1], states[0, 4:7].mean(0))
    torch.testing.assert_close(vectors[1, 0], states[1, 1])


def test_with_one_report_for_all_the_ecg_to_text_half_is_ln_b(objective):
    batch = batch_of(["Sinus rhythm."] * 6)
    z, reports_ = objective.embed(batch.x), objective.embed_text(batch.text)
    objective.identical = False  # as published
    to_text, to_ecg = clip(z, reports_, objective.scale)
    assert to_text.item() == pytest.approx(math.log(6), abs=1e-5) and to_ecg.item() >= math.log(6) - 1e-5
    _, logs = objective(batch)
    assert logs["rhythm"].item() == pytest.approx((to_text + to_ecg).item() / 2, abs=1e-5)
    assert logs["retrieval"] == 1  # the nearest report says what the own one says


def test_equal_reports_and_ecgs_of_one_patient_are_no_negatives(objective):
    batch = batch_of(["Sinus rhythm.", "LBBB.", "Sinus rhythm", "", "Normal ECG."])
    batch = batch._replace(patient_id=torch.tensor([0, 1, 2, 0, 1]))
    rows = [0, 1, 2, 4]
    same = torch.eye(4, dtype=torch.bool)
    same[0, 2] = same[2, 0] = same[1, 3] = same[3, 1] = True
    ids = objective.text.tokenizer([batch.text[i] for i in rows])
    assert torch.equal(objective.together(ids, batch.patient_id[rows]), same)
    z, r = objective.embed(batch.x[rows]), objective.embed_text([batch.text[i] for i in rows])
    logs = objective(batch)[1]
    assert logs["rhythm"].item() == pytest.approx(sum(clip(z, r, objective.scale, same)).item() / 2, rel=1e-5)
    objective.identical = False
    plain = objective(batch)[1]
    assert plain["rhythm"].item() == pytest.approx(sum(clip(z, r, objective.scale)).item() / 2, rel=1e-5)
    assert plain["beat"] != logs["beat"]


def test_sentence_vectors_are_float32_also_in_a_shorter_format():
    states, sentence = torch.randn(2, 9, 4), torch.tensor([[-1, 0, 0, 0, -1, 1, 1, -1, -1]] * 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = melp.means(states, sentence)[0]
    assert found.dtype == torch.float32 and torch.equal(found, melp.means(states, sentence)[0])


def test_the_loss_is_the_weighted_sum_of_its_terms(objective):
    loss, logs = objective(batch_of(reports(6)))
    expected = logs["rhythm"] + 2 * logs["token"] + 0.2 * logs["beat"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    only = build(rhythm=0.0, token=0.0, beat=1.0).eval()
    assert only(batch_of(reports(6)))[0].item() == pytest.approx(only(batch_of(reports(6)))[1]["beat"].item())


def test_the_beat_loss_is_the_symmetric_cross_entropy_of_the_matching(objective):
    objective.identical, batch = False, batch_of(reports(6))
    ids = objective.text.tokenizer(batch.text)
    with torch.no_grad():
        states, _ = objective.text(ids)
        vectors, present = melp.means(states, text.sentence_of(ids))
        beats = objective.beats(objective.encoder.tokens(batch.x))
        s = objective.project_sentence(vectors)
    s = slow_matching(beats.double().numpy(), s.double().numpy(), present.sum(1).tolist(), "regions")
    rows = np.mean([-math.log(softmax(s[i])[i]) for i in range(6)])
    columns = np.mean([-math.log(softmax(s[:, i])[i]) for i in range(6)])
    assert objective(batch)[1]["beat"].item() == pytest.approx((rows + columns) / 2, rel=1e-3)


def test_a_caption_of_equal_logits_costs_ln_of_the_vocabulary_and_padding_counts_nothing(objective):
    with torch.no_grad():
        objective.words.weight.zero_(), objective.words.bias.zero_()
    size = objective.text.tokenizer.size
    assert objective(batch_of(reports(4)))[1]["token"].item() == pytest.approx(math.log(size), abs=1e-5)
    with torch.no_grad():
        objective.words.bias[text.PAD] = -30.0  # never asked for
    assert objective(batch_of(reports(4)))[1]["token"].item() == pytest.approx(math.log(size - 1), abs=1e-5)


def test_the_decoder_sees_only_what_came_before_and_the_ecg(objective):
    ids = objective.text.tokenizer(["sinus rhythm normal ecg", "sinus rhythm lbbb"])
    tokens = torch.randn(1, 50, 96).expand(2, -1, -1)
    seen = []
    objective.words.register_forward_hook(lambda _, args, out: seen.append(out))
    objective.caption(tokens, objective.text(ids)[0], ids)
    first, second = seen[0][:5], seen[0][5:]  # BEGIN sinus rhythm normal ecg | BEGIN sinus rhythm lbbb
    torch.testing.assert_close(first[:3], second[:3])
    assert not torch.allclose(first[3], second[3], atol=1e-4)
    objective.caption(tokens + torch.randn(1, 50, 96), objective.text(ids)[0], ids)
    assert not torch.allclose(seen[1][0], seen[0][0], atol=1e-4)


def test_records_without_a_report_are_left_out_and_the_rest_stay_together(objective):
    texts = reports(6)
    whole = batch_of(texts)
    gaps = whole._replace(text=[t if i not in (1, 4) else ("" if i == 1 else " ... ") for i, t in enumerate(texts)])
    kept = [0, 2, 3, 5]
    few = batch_of([texts[i] for i in kept])._replace(x=whole.x[kept])
    loss, logs = objective(gaps)
    assert loss.item() == pytest.approx(objective(few)[0].item(), rel=1e-5)
    assert logs["reports"].item() == pytest.approx(4 / 6) and objective(few)[1]["reports"] == 1


def test_a_batch_or_a_corpus_without_any_report_is_refused(objective):
    with pytest.raises(EcgError, match="no record of this batch has a report"):
        objective(batch_of(["", ""]))
    cohort = MemoryCohort(6, shares=(("train", 1),), seconds=4)
    cohort.records["report"] = ""
    with pytest.raises(EcgError, match="no report has a word"):
        objectives.from_data("melp", CohortData(cohort, np.arange(6)))
    cohort.records["report"] = reports(6)
    made = objectives.from_data("melp", CohortData(cohort, np.arange(6)))
    assert made == {"vocabulary": text.vocabulary(reports(6))}
    with pytest.raises(EcgError, match="from_data"):
        build(vocabulary="")
    with pytest.raises(EcgError, match="regions, published"):
        build(attention="beats")


def test_cut_reports_and_unknown_words_are_counted():
    objective = build(text_length=6).eval()
    _, logs = objective(batch_of(["sinus rhythm", "sinus rhythm normal ecg atrial", "wobbling rhythm"]))
    assert logs["cut"].item() == pytest.approx(1 / 3)
    assert logs["unknown"].item() == pytest.approx(1 / 9)


def test_leads_are_masked_in_training_only_and_never_all():
    objective = build(lead_dropout=1.0)
    batch = batch_of(reports(6))
    batch.lead_mask[:, :6] = False
    batch = batch._replace(x=batch.x * batch.lead_mask[..., None])
    left = objective.view(batch)[0].abs().sum(-1) > 0
    assert (left.sum(1) == 1).all() and not left[:, :6].any()
    assert torch.equal(objective.eval().view(batch)[0], batch.x)
    assert torch.equal(build(lead_dropout=0.0).train().view(batch)[0], batch.x)
    train = build()
    assert not torch.equal(loss_of(train, batch, 0)[0], loss_of(train, batch, 1)[0])


@pytest.mark.parametrize("encoder, size", [("wav2vec", "small_melp"), ("wav2vec", "small"), ("net1d", "small")])
@pytest.mark.parametrize("n_leads", [1, 12])
def test_every_encoder_with_tokens_gets_gradients_everywhere(encoder, size, n_leads):
    objective = build(encoder, size, n_leads)
    loss_of(objective, batch_of(reports(6), n_leads))[0].backward()
    idle = {name for name, p in objective.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == set()
    assert objective.embed(batch_of(reports(2), n_leads).x).shape == (2, 64)


def test_beats_of_the_encoder_are_used_where_it_has_them():
    objective = build()
    assert objective.beat_pooler is None
    x = batch_of(reports(3)).x
    mean = objective.project(objective.encoder(x))  # the projection is linear: that of the mean is the mean
    torch.testing.assert_close(objective.embed(x), mean, rtol=1e-4, atol=1e-5)


def test_the_small_configuration_has_about_half_a_million_parameters():
    words = " ".join(f"w{i}" for i in range(200))
    assert models.n_parameters(build(vocabulary=words)) == 521_997


def test_a_few_steps_teach_it_to_tell_its_reports_apart():
    torch.manual_seed(0)
    objective, batch = build("net1d", "small"), batch_of(reports(12, rate=False))
    batch = batch._replace(x=batch.x + 3 * torch.eye(3).repeat(4, 4)[:12, :12, None])
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    first = objective.eval()(batch)[1]
    for step in range(25):
        loss, _ = loss_of(objective.train(), batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last = objective.eval()(batch)[1]
    assert all(last[term] < first[term] for term in ("rhythm", "token", "beat"))
    assert last["retrieval"] > 0.9 and last["words"] > 0.8


def test_it_trains_in_bfloat16_and_at_any_rate_and_length():
    for time in (301, 1000, 5000):
        objective, batch = build(), batch_of(reports(3), time=time)
        with torch.autocast("cpu", torch.bfloat16):
            loss, logs = loss_of(objective, batch)
        loss.backward()
        assert loss.dtype == torch.float32 and torch.isfinite(loss)
        assert loss.item() == pytest.approx(loss_of(objective, batch)[0].item(), rel=0.05)
        assert all(torch.isfinite(v) for v in logs.values())


def test_evaluation_changes_nothing_and_repeats_itself(objective):
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    losses = [loss_of(objective, batch_of(reports(5)), seed)[0] for seed in (0, 1)]
    assert torch.equal(*losses)
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())


def test_a_saved_objective_gives_the_same_embeddings(objective, tmp_path):
    models.save(objective.encoder, tmp_path)
    checkpoint.save_objective(objective, tmp_path)
    other = objectives.load(tmp_path)
    assert torch.equal(other.embed_text(list(WORDS.values())), objective.embed_text(list(WORDS.values())))
    x = batch_of(reports(2)).x
    assert torch.equal(other.embed(x), objective.embed(x))


def test_a_caption_is_scored_on_each_next_token(objective):
    ids, logits = objective.text.tokenizer(["sinus rhythm. lbbb", "normal ecg"]), []
    objective.words.register_forward_hook(lambda _, args, out: logits.append(out.detach().double().numpy()))
    loss, right = objective.caption(torch.randn(2, 50, 96), objective.text(ids)[0], ids)
    following = [word for line in ids.tolist() for word in line[1:] if word != text.PAD]
    assert len(following) == len(logits[0]) == 5 + 3
    expected = np.mean([-math.log(softmax(z)[word]) for z, word in zip(logits[0], following, strict=True)])
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert right.item() == pytest.approx(np.mean(logits[0].argmax(1) == following))
