"""Reports as numbers: sentences, words, vocabulary, tokens, bags of words, and the two text encoders."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ecglib import EcgError
from ecglib.models import text
from ecglib.models.text import BEGIN, END, PAD, SPECIAL, STOP, UNKNOWN, Tokenizer

WORDS = "no sinus rhythm # atrial"


@pytest.mark.parametrize(
    "report, parts",
    [
        ("Sinus rhythm. No LVH.", ["Sinus rhythm", "No LVH"]),
        ("SINUS RHYTHM; PACS", ["SINUS RHYTHM", "PACS"]),
        ("QRS 0.12 s, rate 73.\nnormal ECG", ["QRS 0.12 s, rate 73", "normal ECG"]),
        ("", []),
        (" . ;\n.. --- ", []),
    ],
)
def test_sentences_end_at_stops_semicolons_and_lines_but_not_inside_numbers(report, parts):
    assert text.sentences(report) == parts


def test_words_are_lower_case_without_marks_and_their_numbers_are_one_word():
    found = text.words("Wolff-Parkinson-White; 1st degree AV-Block (PR 212 ms), V1, Ischämie_x #")
    assert found == "wolff parkinson white 1st degree av block pr # ms v1 ischämie x".split()
    assert text.words("") == []


def test_vocabulary_is_by_frequency_then_alphabet_and_of_the_asked_size():
    assert text.vocabulary(["b a", "b c.", "D b"]) == "b a c d"
    assert text.vocabulary(["b a", "b c.", "D b"], size=2) == "b a"
    with pytest.raises(EcgError, match="no report has a word"):
        text.vocabulary(["", "..."])


def test_tokens_mark_begin_stops_end_and_padding():
    ids = Tokenizer(WORDS, 9)(["Sinus rhythm. No flutter.", "", "rate 88"])
    no, sinus, rhythm, number = SPECIAL, SPECIAL + 1, SPECIAL + 2, SPECIAL + 3
    assert ids.dtype == torch.int64
    assert ids.tolist() == [
        [BEGIN, sinus, rhythm, STOP, no, UNKNOWN, END, PAD, PAD],
        [BEGIN, END, PAD, PAD, PAD, PAD, PAD, PAD, PAD],
        [BEGIN, UNKNOWN, number, END, PAD, PAD, PAD, PAD, PAD],
    ]
    assert text.sentence_of(ids).tolist()[0] == [-1, 0, 0, -1, 1, 1, -1, -1, -1]
    assert (text.sentence_of(ids)[1] == -1).all()


def test_a_text_that_is_too_long_is_cut_and_known_to_be():
    tokenizer = Tokenizer(WORDS, 5)
    ids = tokenizer(["no sinus rhythm", "no sinus rhythm atrial", "no"])
    assert text.was_cut(ids).tolist() == [False, True, False]
    assert ids[1].tolist() == [BEGIN, SPECIAL, SPECIAL + 1, SPECIAL + 2, SPECIAL + 4]


@pytest.mark.parametrize("words, length, field", [("", 9, "vocabulary"), ("  ", 9, "vocabulary"), ("a", 2, "length")])
def test_a_tokenizer_without_words_or_room_is_refused(words, length, field):
    with pytest.raises(EcgError) as error:
        Tokenizer(words, length)
    assert error.value.field == field


def test_bags_are_of_unit_length_the_same_everywhere_and_blind_to_order():
    z = text.bag(["no sinus rhythm", "rhythm. Sinus NO", "no sinus rhythm, no", ""], 64)
    assert z.shape == (4, 64) and z.dtype == torch.float32
    assert torch.equal(z[0], z[1]) and not torch.equal(z[0], z[2]) and not z[3].any()
    torch.testing.assert_close(z[:3].norm(dim=1), torch.ones(3))
    assert not torch.equal(text.bag(["no sinus rhythm"], 64, seed=1)[0], z[0])
    signs = {i: int(z[0, i].sign()) for i in z[0].nonzero().flatten().tolist()}
    assert signs == {53: -1, 60: -1, 63: -1}  # in every process and on every machine


def test_a_bag_is_the_signed_sum_of_its_words():
    one = {w: text.bag([w], 32)[0] for w in ("sinus", "rhythm", "no")}
    assert all(v.abs().sum() == 1 for v in one.values())
    total = 2 * one["no"] + one["sinus"] + one["rhythm"]
    torch.testing.assert_close(text.bag(["no sinus; no rhythm"], 32)[0], total / total.norm())


def test_the_encoder_is_causal_and_padding_changes_nothing():
    torch.manual_seed(0)
    encoder = text.TextEncoder(WORDS, dim=16, depth=2, heads=2, length=8).eval()
    short, long = encoder.tokenizer(["no sinus"]), encoder.tokenizer(["no sinus rhythm"])
    states, whole = encoder(torch.cat([short, long]))
    assert states.shape == (2, 8, 16) and whole.shape == (2, 16)
    torch.testing.assert_close(states[0, :3], states[1, :3])  # BEGIN no sinus
    assert not torch.allclose(states[0, 3], states[1, 3]) and not torch.allclose(whole[0], whole[1])
    with torch.no_grad():
        encoder.embed.weight[PAD] += 5
    torch.testing.assert_close(encoder(short)[1], whole[:1])


def test_the_whole_text_depends_on_every_word_and_on_their_order():
    torch.manual_seed(0)
    encoder = text.TextEncoder(WORDS, dim=16, depth=1, heads=2, length=8).eval()
    ids = encoder.tokenizer(["no sinus rhythm", "no atrial rhythm", "rhythm sinus no"])
    whole = encoder(ids)[1]
    assert torch.pdist(whole).min() > 1e-4


class Bert(nn.Module):
    """Stands for a language model: causal means over what came before."""

    def __init__(self, layers=8):
        super().__init__()
        self.embeddings = nn.Embedding(12, 6)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(nn.Linear(6, 6) for _ in range(layers))
        self.config, self.pooler = SimpleNamespace(hidden_size=6), nn.Linear(6, 6)

    def forward(self, input_ids, attention_mask):
        self.seen = input_ids, attention_mask
        x = self.embeddings(input_ids) * attention_mask[..., None]
        x = x.cumsum(1) / attention_mask.cumsum(1)[..., None]
        for layer in self.encoder.layer:
            x = layer(x)
        return SimpleNamespace(last_hidden_state=x)


class Pieces:
    """Stands for its tokenizer: 0 pad, 1 class, 2 separator, 3 unknown, 4 full stop, then words."""

    cls_token_id, sep_token_id, unk_token_id, bos_token_id = 1, 2, 3, None
    words = "no sinus rhythm".split()

    def __len__(self):
        return 12

    def __call__(self, line, add_special_tokens):
        assert not add_special_tokens
        ids = [self.words.index(w) + 5 if w in self.words else 3 for w in line.split()]
        return {"input_ids": [4] if line == "." else ids}


def fake(monkeypatch, model=None, error=None):
    asked = {}

    def give(what):
        def from_pretrained(name, **options):
            if error:
                raise error
            asked.update(options, name=name)
            return what

        return SimpleNamespace(from_pretrained=from_pretrained)

    module = SimpleNamespace(AutoModel=give(model or Bert()), AutoTokenizer=give(Pieces()))
    monkeypatch.setitem(sys.modules, "transformers", module)
    return asked


def test_a_pretrained_model_is_used_causally_with_our_tokens(monkeypatch):
    asked = fake(monkeypatch)
    encoder = text.PretrainedTextEncoder("some/bert", length=8, frozen=6)
    assert asked == {"name": "some/bert", "is_decoder": True, "use_safetensors": True}
    ids = encoder.tokenizer(["no sinus. flutter"])
    assert ids[0].tolist() == [BEGIN, 5 + SPECIAL, 6 + SPECIAL, STOP, UNKNOWN, END, PAD, PAD]
    assert text.sentence_of(ids)[0].tolist() == [-1, 0, 0, -1, 1, -1, -1, -1]
    assert encoder.dim == 6 and encoder.tokenizer.size == 12 + SPECIAL
    states, whole = encoder(ids)
    assert states.shape == (1, 8, 6) and whole.shape == (1, 6)
    theirs, real = encoder.model.seen
    assert theirs[0, :6].tolist() == [2, 5, 6, 4, 3, 2] and theirs[0, -1] == 1
    assert real[0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 1]
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {f"model.encoder.layer.{i}.{leaf}" for i in (6, 7) for leaf in ("weight", "bias")}
    for mode in (False, True):
        encoder.train(mode)
        assert [layer.training for layer in encoder.model.encoder.layer] == [False] * 6 + [mode] * 2
        assert encoder.training == mode and not encoder.model.embeddings.training


def test_nothing_is_frozen_where_that_is_asked(monkeypatch):
    fake(monkeypatch)
    assert all(p.requires_grad for p in text.PretrainedTextEncoder("some/bert", 8, frozen=0).parameters())


def test_missing_package_model_or_layers_are_refused_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EcgError, match="pip install transformers"):
        text.PretrainedTextEncoder("some/bert")
    fake(monkeypatch, error=OSError("not on the hub"))
    with pytest.raises(EcgError, match="some/bert is not here: not on the hub"):
        text.PretrainedTextEncoder("some/bert")
    other = Bert()
    del other.encoder
    fake(monkeypatch, model=other)
    with pytest.raises(EcgError, match="BERT-like"):
        text.PretrainedTextEncoder("some/bert")
