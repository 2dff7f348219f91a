"""The network over heartbeats: counts of heartlang.md sections 3 and 9, its function, its defects mended."""

import numpy as np
import pytest
import torch
from torch import nn

from ecglib import EcgError, models
from ecglib.models import beat_tokenizer
from ecglib.models.encoders import beat_transformer
from ecgsim import records


@pytest.fixture(scope="module")
def ecgs():
    x, _, truth = records.ecgs(4, seed=0, labels=["NORM"])
    peaks = nn.utils.rnn.pad_sequence([torch.as_tensor(r) for r in truth["r"]], batch_first=True, padding_value=-1)
    return torch.from_numpy(np.asarray(x, np.float32)), peaks


def count(size, **overrides):
    with torch.device("meta"):
        return models.n_parameters(beat_transformer.Encoder(**{**beat_transformer.SIZES[size], **overrides}).sentence)


def test_parameter_counts():
    """The mask vector (768) and the code head stand in the objective."""
    assert count("heartlang") + 768 == 38_262_528
    assert count("vqhbr") + 768 == 14_628_608
    with torch.device("meta"):
        decoder = beat_transformer.Encoder(**beat_transformer.SIZES["vqhbr"]).decoder(128, 2)
    assert models.n_parameters(decoder) + 768 == 7_611_136
    assert count("small") == 90_368 and count("vq_small") == 57_088
    assert count("medium") == count("heartlang") - 2 * 96 * 768 + (480 - 256) * 768
    assert count("small", n_leads=40) == count("small") + (41 - 16) * 64  # a row of the lead table each


def test_found_peaks_equal_given_ones_and_tokens_fit_the_words(ecgs):
    x, _ = ecgs
    encoder = models.build("beat_transformer").eval()
    peaks = beat_transformer.find_peaks(x, 100)
    assert torch.equal(encoder(x), encoder(x, peaks))
    words, tokens = encoder.words(x, peaks), encoder.tokens(x, peaks)
    assert tokens.shape == (*words.real.shape, 64) and torch.equal(tokens.any(-1), words.real)


def test_a_record_does_not_depend_on_its_neighbours(ecgs):
    """Sentences of one batch have the length of the longest beside them, which must not be seen in the shorter."""
    x, peaks = ecgs[0].repeat(3, 1, 1), ecgs[1].repeat(3, 1)
    for i in range(12):
        peaks[i, 2 + i // 2 :] = -1
    peaks = peaks[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    encoder = models.build("beat_transformer").eval()
    alone = torch.cat([encoder(x[i : i + 1], peaks[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(encoder(x, peaks), alone, atol=1e-5, rtol=1e-4)
    assert encoder.words(x, peaks).real.sum(1).unique().numel() > 5


def test_missing_leads_are_not_looked_at(ecgs):
    x, peaks = ecgs[0].clone(), ecgs[1]
    x[:, 4] = 0
    for attend_pads in (False, True):
        encoder = models.build("beat_transformer", attend_pads=attend_pads).eval()
        words = encoder.words(x, peaks)
        other = words._replace(lead=torch.where(words.real, words.lead, 9))
        assert torch.equal(encoder.sentence(words)[:, 0], encoder.sentence(other)[:, 0]) != attend_pads


def test_other_rates_give_the_same_features(ecgs):
    x, peaks = ecgs
    encoder = models.build("beat_transformer").eval()
    other = models.build("beat_transformer", fs=250).eval()
    z, again = encoder(x, peaks), other(beat_tokenizer.resample(x, 40), torch.round(peaks * 2.5).long())
    assert torch.cosine_similarity(z - z.mean(0), again - z.mean(0)).min() > 0.99


def test_a_hidden_word_cannot_be_read(ecgs):
    """Its content changes nothing by default; through the published convolution its neighbours carry it."""
    x, peaks = ecgs
    for convolve in (False, True):
        encoder = models.build("beat_transformer", convolve=convolve).eval()
        words = encoder.words(x, peaks)
        hidden = torch.zeros_like(words.real)
        hidden[:, 5] = True
        tokens = words.tokens.clone()
        tokens[:, 5] *= -2
        one, other = (
            encoder.sentence(words._replace(tokens=t), hidden, torch.ones(64)) for t in (words.tokens, tokens)
        )
        assert torch.equal(one, other) != convolve


def test_lead_and_time_count_unless_bare(ecgs):
    encoder = models.build("beat_transformer").eval()
    words = encoder.words(*ecgs)
    plain = encoder.sentence(words)
    for field in ("lead", "time"):
        moved = words._replace(**{field: (getattr(words, field) + 1).clamp(max=15)})
        assert not torch.allclose(encoder.sentence(moved), plain)
        assert torch.equal(encoder.sentence(moved, bare=True), encoder.sentence(words, bare=True))


def test_long_records_and_empty_ones():
    encoder = models.build("beat_transformer", "small", 2).eval()
    assert torch.isfinite(encoder(torch.randn(2, 2, 6000))).all()
    silent = models.build("beat_transformer", "small", 2, fallback=False).eval()
    z = silent(torch.zeros(2, 2, 1000))
    assert torch.isfinite(z).all() and torch.equal(z[0], z[1])


def test_bad_input_is_refused():
    with pytest.raises(EcgError, match="no beat"):
        models.build("beat_transformer", limit=5)
    with pytest.raises(EcgError, match="12 leads"):
        models.build("beat_transformer")(torch.zeros(2, 3, 1000))
    with pytest.raises(EcgError, match="beat_transformer"):
        beat_transformer.require(nn.Identity(), "heartlang")
    with pytest.raises(EcgError, match="unknown tensor"):
        beat_transformer.from_published({"transformer.layers.0.0.to_q.weight": torch.zeros(1)})
