"""Similar ECGs: the nearest recordings on frozen features, what they vote for, and a report drafted from theirs.

Nearness is the cosine of features that are standardised by the library, the records that are searched. Nothing is
trained. Source of the idea: ECG-ReGen (arXiv 2409.08788), retrieval of reports by a pretrained encoder.
"""

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ecglib import EcgError, models
from ecglib.data import handmade
from ecglib.data.labels import PRESENT
from ecglib.data.reports import normalise, read
from ecglib.evaluation import bootstrap, embeddings

ORDERS = 4  # n-grams of BLEU, up to
_sentences = lru_cache(maxsize=2**16)(normalise)
_read = lru_cache(maxsize=2**16)(lambda report: read(report).states)
HAND_MADE, UNTRAINED = "features", "random"


def frozen(method: str, cohort, rows, library, folder: str = "", size: str = "small") -> np.ndarray:
    """Frozen features float32 (row, dim) of rows of a cohort.

    method: "features" (hand-made measurements, where a missing one is the median of the rows `library`), "random" (the
    network of the study untrained), or any other name: the pretrained encoder in `folder`.
    """
    if method == HAND_MADE:
        z, known = handmade.of_cohort(cohort, rows), handmade.of_cohort(cohort, library)
        measured = ~np.isnan(known).all(axis=0)
        middle = np.nanmedian(known[:, measured], axis=0)
        return np.where(np.isnan(z[:, measured]), middle, z[:, measured])
    if method == UNTRAINED:
        encoder = models.build("net1d", size, len(cohort.leads))
    else:
        encoder = models.load(folder)[0]
    return embeddings.features(encoder.eval(), cohort, rows)


class Neighbours(NamedTuple):
    """The nearest records of each query, the nearest first."""

    index: np.ndarray  # position in the library (query, k)
    similarity: np.ndarray  # cosine (query, k)


def nearest(z: np.ndarray, library: np.ndarray, k: int, excluded: np.ndarray | None = None) -> Neighbours:
    """The k nearest records of the library by the cosine of standardised features.

    z: features (query, dim); library: features (record, dim), whose mean and deviation standardise both; excluded:
    bool (query, record), such as the record itself. Of equally near ones the first. EcgError for too small a library.
    """
    open_ones = len(library) if excluded is None else int((~excluded).sum(axis=1).min())
    if not 1 <= k <= open_ones:
        raise EcgError(f"{k} neighbours of {open_ones} records", field="k", fix="ask for fewer, or give more records")
    spread = library.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    ours, theirs = ((values - library.mean(axis=0)) / spread for values in (z, library))
    ours, theirs = (values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12) for values in (ours, theirs))
    similarity = (ours @ theirs.T).astype(np.float64)
    if excluded is not None:
        similarity[excluded] = -np.inf
    index = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return Neighbours(index, np.take_along_axis(similarity, index, axis=1))


def random_neighbours(n: int, n_library: int, k: int, seed: int = 0) -> Neighbours:
    """k records of the library drawn at random for each of n queries, all equally near: a floor."""
    random = np.random.default_rng(seed)
    index = np.stack([random.permutation(n_library)[:k] for _ in range(n)])
    return Neighbours(index, np.zeros(index.shape))


def vote(y: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Share of the neighbours with each label: (query, label), one record of the whole library added to each vote.

    y: labels of the library (record, label), 1, 0, or -1 for unknown, which has no vote; index: `Neighbours.index`. The
    added record says how frequent a label is, so that no vote is certain and one without a known neighbour is that.
    """
    known, positive = y >= 0, y == 1
    frequency = (positive.sum(axis=0) + 1) / (known.sum(axis=0) + 2)
    return (positive[index].sum(axis=1) + frequency) / (known[index].sum(axis=1) + 1)


def most_frequent(y: np.ndarray, n: int) -> np.ndarray:
    """How frequent each label is in the library, the same for each of n queries: (query, label), a floor."""
    return np.tile(vote(y, np.zeros((1, 0), int)), (n, 1))


def found(keys: np.ndarray, library_keys: np.ndarray, index: np.ndarray, ks) -> np.ndarray:
    """Whether the first k neighbours hold one with the key of the query: bool (query, k of `ks`).

    keys, library_keys: such as the statements of a record joined, or its patient. Their mean is recall@k.
    """
    equal = np.asarray(library_keys)[index] == np.asarray(keys)[:, None]
    return np.stack([equal[:, :k].any(axis=1) for k in ks], axis=1)


def chance_found(n_right: np.ndarray, n_library: int, ks) -> np.ndarray:
    """Probability (query, k of `ks`) that k records drawn at random hold one of the `n_right` (query,) right ones.

    One minus the hypergeometric probability of drawing none of them.
    """
    miss = np.ones((len(n_right), max(ks)))
    for drawn in range(max(ks)):
        miss[:, drawn] = np.clip(n_library - n_right - drawn, 0, None) / (n_library - drawn)
    return 1 - np.cumprod(miss, axis=1)[:, np.asarray(ks) - 1]


def words(report: str) -> list[str]:
    """Words of a report in small letters, umlauts written out."""
    return [word for sentence in _sentences(report) for word in re.findall(r"\w+", sentence)]


def bleu_counts(candidate: list, reference: list) -> np.ndarray:
    """What corpus BLEU adds up: matched n-grams, n-grams of the candidate (n = 1 to 4 each), both lengths: (10,)."""
    matched, total = [], []
    for n in range(1, ORDERS + 1):
        ours, theirs = (
            Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1)) for text in (candidate, reference)
        )
        matched.append((ours & theirs).total())
        total.append(ours.total())
    return np.array([*matched, *total, len(candidate), len(reference)], float)


def bleu(counts: np.ndarray, order: int = ORDERS) -> np.ndarray:
    """Corpus BLEU of summed `bleu_counts` (..., 10): geometric mean of n-gram precisions times the brevity penalty.

    0 where no n-gram of some order matches. Source: Papineni et al. 2002, equations 1 to 3.
    """
    matched, total = counts[..., :order], counts[..., ORDERS : ORDERS + order]
    length, reference = counts[..., 2 * ORDERS], counts[..., 2 * ORDERS + 1]
    precision = np.divide(matched, total, out=np.zeros(np.shape(matched)), where=total > 0)
    mean = np.exp(np.log(np.maximum(precision, 1e-300)).mean(axis=-1))
    brevity = np.exp(np.minimum(0, 1 - reference / np.maximum(length, 1e-300)))
    return np.where((precision > 0).all(axis=-1), mean * brevity, 0.0)


def rouge_l(candidate: list, reference: list) -> float:
    """F1 of the longest common subsequence of words (ROUGE-L, Lin 2004, equations 2 to 4 with beta 1)."""
    if not candidate or not reference:
        return 0.0
    longest = [0] * (len(reference) + 1)
    for word in candidate:
        before = 0
        for j, other in enumerate(reference, 1):
            here = longest[j]
            longest[j] = before + 1 if word == other else max(here, longest[j - 1])
            before = here
    return 2 * longest[-1] / (len(candidate) + len(reference))


def finding_counts(candidate: str, reference: str) -> np.ndarray:
    """Findings that both reports state, that only the first does, and that only the second does: (3,).

    As `data.reports` reads them: what is denied or possible is not stated.
    """
    ours, theirs = ({key for key, state in _read(text).items() if state == PRESENT} for text in (candidate, reference))
    return np.array([len(ours & theirs), len(ours - theirs), len(theirs - ours)], float)


def text_scores(drafts: list[str], reports: list[str], patients, n: int = 1000, seed: int = 0) -> dict:
    """How alike drafts and reports are, each an Interval over patients: BLEU-1 and BLEU-4 of the corpus, ROUGE-L as a
    mean over reports, and the F1 of the findings that they state, all of the corpus together.

    drafts, reports: texts of the same records; a record without a report is left out; n, seed: resamples, which are the
    same for every drafter, so that differences of two are paired. EcgError where there is no report at all.
    """
    there = np.array([bool(words(report)) for report in reports])
    if not there.any():
        raise EcgError("no record has a report", field="report", fix="give a cohort with reports")
    pairs = [pair for pair, kept in zip(zip(drafts, reports, strict=True), there, strict=True) if kept]
    counts = np.stack([bleu_counts(words(draft), words(report)) for draft, report in pairs])
    rouge = np.array([rouge_l(words(draft), words(report)) for draft, report in pairs])
    findings = np.stack([finding_counts(*pair) for pair in pairs])
    both = findings[:, 0] * 2
    either = both + findings[:, 1] + findings[:, 2]

    def scored(weights) -> dict:
        """Of weights (record, resample)."""
        sums, n_reports = weights.T @ counts, weights.sum(axis=0)
        share = (weights.T @ both) / np.maximum(weights.T @ either, 1e-9)
        return {"BLEU-1": bleu(sums, 1), "BLEU-4": bleu(sums), "ROUGE-L": weights.T @ rouge / n_reports} | {
            "findings F1": share
        }

    point = scored(np.ones((len(pairs), 1)))
    drawn = [
        scored(weights.astype(float))
        for _, weights in bootstrap.resamples(len(pairs), np.asarray(patients)[there], n, seed)
    ]
    return {name: bootstrap.interval(float(point[name][0]), np.concatenate([d[name] for d in drawn])) for name in point}


@lru_cache(maxsize=2**16)
def statements(report: str) -> tuple[str, ...]:
    """A report in its smallest parts that mean the same alone as together, in its order, each once.

    Parts are sentences and lines, and what commas separate where every piece states something and the pieces say what
    the sentence says: in "no LBBB, RBBB or AV block" the denial covers all, in "Q waves in II, III" the second is none.
    """
    parts = [sentence for line in re.split(r"\s{3,}", report) for sentence in _sentences(line)]
    found = []
    for sentence in parts:
        pieces = [piece.strip() for piece in sentence.split(",") if piece.strip()]
        alone = [set(_read(piece).items()) for piece in pieces]
        apart = all(alone) and set().union(*alone) == set(_read(sentence).items())
        found += pieces if apart else [sentence]
    return tuple(dict.fromkeys(found))


class Draft(NamedTuple):
    """A report drafted from the reports of neighbours."""

    text: str
    evidence: list  # (statement, share of the neighbours whose report has it, positions of these in the library)


def draft(reports: list[str], index: np.ndarray, share: float = 0.3, rewrite=None) -> Draft:
    """The `statements` that at least `share` of the neighbours' reports have, the most frequent first.

    reports: of the library; index: neighbours of one query (k,), the nearest first; where none is frequent enough the
    report of the nearest one that has any is taken as it is. rewrite: function from this text to another, such as a
    language model; the evidence stays that of what it was given.
    """
    speakers = {}
    for position in index:
        for statement in statements(reports[position]):
            speakers.setdefault(statement, []).append(int(position))
    evidence = [(statement, len(who) / len(index), who) for statement, who in speakers.items()]
    evidence.sort(key=lambda line: -line[1])  # stable: of equally frequent ones that of the nearest
    kept = [line for line in evidence if line[1] >= share]
    if not kept:
        nearest_with = next((int(position) for position in index if statements(reports[position])), None)
        kept = [line for line in evidence if nearest_with in line[2]]
    text = ". ".join(statement for statement, _, _ in kept)
    return Draft(rewrite(text) if rewrite else text, kept)
