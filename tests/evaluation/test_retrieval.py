"""Nearest ECGs, votes, recall, BLEU and ROUGE against a library and counts by hand, drafts with their evidence."""

import itertools
import math

import numpy as np
import pytest
from memory_cohort import MemoryCohort
from nltk.translate.bleu_score import corpus_bleu

from ecglib import EcgError, models
from ecglib.data import reports
from ecglib.evaluation import retrieval


def test_the_nearest_are_those_of_plain_cosines():
    rng = np.random.default_rng(0)
    z, library = rng.normal(size=(5, 4)), rng.normal(size=(9, 4)) * [1, 100, 0.1, 1] + 3
    library[:, 3] = 7  # constant: says nothing
    found = retrieval.nearest(z, library, 3)
    spread = np.array([*library[:, :3].std(0), 1])
    for query, (index, similarity) in enumerate(zip(*found, strict=True)):
        a = (z[query] - library.mean(0)) / spread
        cosines = []
        for row in library:
            b = (row - library.mean(0)) / spread
            cosines.append(sum(a * b) / math.sqrt(sum(a * a) * sum(b * b)))
        assert index.tolist() == sorted(range(9), key=lambda i: -cosines[i])[:3]
        assert similarity == pytest.approx(sorted(cosines)[::-1][:3])
    excluded = np.zeros((5, 9), bool)
    excluded[0, found.index[0, 0]] = True
    assert retrieval.nearest(z, library, 2, excluded).index[0].tolist() == found.index[0, 1:].tolist()
    with pytest.raises(EcgError, match="9 neighbours of 8 records"):
        retrieval.nearest(z, library, 9, excluded)


def test_votes_and_floors():
    y = np.array([[1, 0], [1, -1], [0, -1], [0, 1]])
    p = retrieval.vote(y, np.array([[0, 1], [1, 2]]))
    assert p == pytest.approx(np.array([[2.5 / 3, 0.5 / 2], [1.5 / 3, 0.5]]))  # frequencies: 3 of 6, 2 of 4
    assert retrieval.most_frequent(y, 3) == pytest.approx(np.full((3, 2), 0.5))
    drawn = retrieval.random_neighbours(200, 4, 2, seed=1).index
    assert all(len(set(row)) == 2 for row in drawn) and np.bincount(drawn.ravel()) == pytest.approx(100, abs=25)
    assert (drawn == retrieval.random_neighbours(200, 4, 2, seed=1).index).all()


def test_recall_and_its_chance():
    index = np.array([[2, 0, 1], [1, 2, 0]])
    hits = retrieval.found(["a", "b"], ["a", "c", "d"], index, (1, 2, 3))
    assert hits.tolist() == [[False, True, True], [False, False, False]]
    chance = retrieval.chance_found(np.array([2, 0, 5]), 5, (1, 2, 4))
    for row, right in enumerate((2, 0, 5)):
        for column, k in enumerate((1, 2, 4)):
            draws = list(itertools.combinations(range(5), k))
            assert chance[row, column] == pytest.approx(np.mean([min(draw) < right for draw in draws]))


REPORTS = [  # four words at least: the library counts one 4-gram in a shorter candidate, where there is none
    ("sinus rhythm. normal ECG.", "sinus rhythm. normal ECG."),
    ("atrial fibrillation with rapid response. left axis.", "atrial fibrillation. left axis deviation."),
    ("sinus rhythm sinus rhythm sinus rhythm", "sinus rhythm with old inferior infarct"),
    (
        "linksschenkelblock bei regelmäßigem sinusrhythmus",
        "sinusrhythmus, kompletter Linksschenkelblock, überdrehter Linkstyp",
    ),
]


def test_bleu_is_that_of_a_library():
    pairs = [tuple(map(retrieval.words, pair)) for pair in REPORTS]
    counts = np.stack([retrieval.bleu_counts(*pair) for pair in pairs])
    references, candidates = [[reference] for _, reference in pairs], [candidate for candidate, _ in pairs]
    for order in (1, 2, 3, 4):
        expected = corpus_bleu(references, candidates, weights=[1 / order] * order)
        assert retrieval.bleu(counts.sum(0), order) == pytest.approx(expected, rel=1e-9) and expected > 0
    assert retrieval.bleu(counts[0]) == pytest.approx(1) and retrieval.bleu(counts[3]) == 0
    assert retrieval.bleu(retrieval.bleu_counts([], ["a"]), 1) == 0


def test_bleu_of_papinenis_example():
    """Papineni et al. 2002, example 2: seven times "the" matches "the cat is on the mat" in 2 of 7 words."""
    counts = retrieval.bleu_counts(["the"] * 7, "the cat is on the mat".split())
    assert counts[[0, 4, 8, 9]].tolist() == [2, 7, 7, 6] and retrieval.bleu(counts, 1) == pytest.approx(2 / 7)
    short = retrieval.bleu_counts("the cat".split(), "the cat is on the mat".split())
    assert retrieval.bleu(short, 2) == pytest.approx(math.exp(1 - 6 / 2))  # all its n-grams match: the penalty alone


def longest_by_trying(a, b):
    for n in range(min(len(a), len(b)), 0, -1):
        if set(itertools.combinations(a, n)) & set(itertools.combinations(b, n)):
            return n
    return 0


def test_rouge_l_by_trying_all_subsequences():
    """Lin 2004, section 3.1: "police killed the gunman", "police kill the gunman": 3 of 4 words on either side."""
    assert retrieval.rouge_l("police kill the gunman".split(), "police killed the gunman".split()) == 0.75
    assert retrieval.rouge_l("the gunman kill police".split(), "police killed the gunman".split()) == 0.5
    rng = np.random.default_rng(2)
    for _ in range(20):
        a, b = (list(rng.choice(list("abcd"), rng.integers(1, 8))) for _ in range(2))
        longest = longest_by_trying(a, b)
        precision, recall = longest / len(a), longest / len(b)
        expected = 2 * precision * recall / (precision + recall) if longest else 0
        assert retrieval.rouge_l(a, b) == pytest.approx(expected)
    assert retrieval.rouge_l([], ["a"]) == 0


def test_scores_of_texts_are_of_records_with_a_report_and_have_intervals():
    drafts, written = map(list, zip(*REPORTS, strict=True))
    found = retrieval.text_scores([*drafts, "pause"], [*written, ""], list("abcde"), n=200)
    pairs = [tuple(map(retrieval.words, pair)) for pair in REPORTS]
    assert found["ROUGE-L"].point == pytest.approx(np.mean([retrieval.rouge_l(*pair) for pair in pairs]))
    counts = np.stack([retrieval.bleu_counts(*pair) for pair in pairs])
    assert found["BLEU-4"].point == pytest.approx(float(retrieval.bleu(counts.sum(0))))
    for score in found.values():
        assert score.low <= score.point <= score.high
    perfect = retrieval.text_scores(written, written, list("aabb"), n=20)
    assert perfect["ROUGE-L"].low == perfect["BLEU-4"].low == pytest.approx(1)
    with pytest.raises(EcgError, match="no record has a report"):
        retrieval.text_scores(["a"], [""], ["x"])


def test_a_draft_is_what_neighbours_agree_on_with_its_evidence():
    library = ["Sinus rhythm. LBBB.", "sinus rhythm. left axis.", "LBBB. sinus rhythm.", "", "paced."]
    said = retrieval.draft(library, np.array([2, 0, 1]), share=0.6)
    assert said.text == "sinus rhythm. lbbb"
    assert [(text, who) for text, _, who in said.evidence] == [("sinus rhythm", [2, 0, 1]), ("lbbb", [2, 0])]
    assert said.evidence[1][1] == pytest.approx(2 / 3)
    alone = retrieval.draft(library, np.array([3, 4, 1]), share=0.9)
    assert alone.text == "paced" and alone.evidence == [("paced", pytest.approx(1 / 3), [4])]
    assert retrieval.draft(library, np.array([3])).text == ""


def test_a_report_falls_into_parts_that_mean_the_same_alone():
    assert retrieval.statements("Sinus rhythm, LBBB.  left axis.") == ("sinus rhythm", "lbbb", "left axis")
    whole = "no evidence of LBBB, RBBB or AV block"
    assert retrieval.statements(f"{whole}. Sinus rhythm.") == (whole.lower(), "sinus rhythm")
    assert retrieval.statements("sinusrhythmus    linksschenkelblock") == ("sinusrhythmus", "linksschenkelblock")
    assert retrieval.statements("Q waves in II, III") == ("q waves in ii, iii",)
    assert retrieval.statements("") == ()


def test_findings_are_compared_as_they_are_stated():
    found = retrieval.finding_counts("atrial fibrillation. no LBBB.", "atrial fibrillation, LBBB.")
    reads = [{k for k, s in reports.read(t).states.items() if s == 1} for t in ("atrial fibrillation.", "LBBB.")]
    assert found.tolist() == [len(reads[0]), 0, len(reads[1])] and min(found[[0, 2]]) >= 1
    drafts, written = ["atrial fibrillation.", "LBBB."], ["atrial fibrillation.", "RBBB."]
    f1 = retrieval.text_scores(drafts, written, ["a", "b"], n=10)["findings F1"]
    sizes = [len(reads[0]), *(len([s for s in reports.read(t).states.values() if s == 1]) for t in ("LBBB.", "RBBB."))]
    assert f1.point == pytest.approx(2 * sizes[0] / (2 * sizes[0] + sizes[1] + sizes[2]))


def test_a_language_model_may_rewrite_a_draft_whose_evidence_stays():
    asked = []

    def stand_in(text):
        asked.append(text)
        return text.upper()

    said = retrieval.draft(["sinus rhythm."], np.array([0]), rewrite=stand_in)
    assert asked == ["sinus rhythm"] and said.text == "SINUS RHYTHM" and said.evidence[0][0] == "sinus rhythm"


def test_frozen_features_of_every_kind(tmp_path):
    cohort, rows = MemoryCohort(12), np.arange(6)
    encoder = models.build("net1d", "small", 12, seed=3)
    models.save(encoder, tmp_path / "twelve-x")
    own = retrieval.frozen("x", cohort, rows, rows, str(tmp_path / "twelve-x"))
    untrained = retrieval.frozen("random", cohort, rows, rows)
    assert own.shape == untrained.shape == (6, encoder.dim) and not np.allclose(own, untrained)
    measured = retrieval.frozen("features", cohort, np.arange(12), rows)
    assert len(measured) == 12 and np.isfinite(measured).all()
