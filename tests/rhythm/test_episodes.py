"""Episodes against plain second-by-second counting, the numbers of the specification, and intervals over patients."""

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.evaluation import metrics
from ecglib.rhythm import episodes
from ecglib.rhythm.episodes import Rules

EVERY = Rules(shortest=0, gap=0)


def test_the_example_of_the_specification():
    truth, called = np.array([[10, 20], [50, 60]]), np.array([[12, 18], [55, 80], [90, 95]])
    row = episodes.scored(truth, called, 100.0, EVERY)
    assert (row["found"], row["truth_episodes"]) == (2, 2) and (row["right"], row["called_episodes"]) == (2, 3)
    scores = episodes.summary(pd.DataFrame([row]), ["a"], n=10)
    assert scores["duration sensitivity"].point == pytest.approx(55.0)
    assert scores["duration PPV"].point == pytest.approx(30.56, abs=0.005)
    assert (row["burden"], row["burden_called"]) == (20.0, 36.0)
    assert row["onset"].tolist() == [2, 5] and row["offset"].tolist() == [-2, 20]


def _seconds(spans, n=400):
    held = np.zeros(n, bool)
    for start, end in spans:
        held[int(start) : int(end)] = True
    return held


def _random_spans(random):
    edges = np.sort(random.choice(400, 2 * random.integers(1, 8), replace=False))
    return edges.reshape(-1, 2).astype(float)


def test_overlap_and_matches_equal_counting_every_second():
    random = np.random.default_rng(0)
    for _ in range(50):
        truth, called = _random_spans(random), _random_spans(random)
        plain = [int((_seconds([span]) & _seconds(called)).sum()) for span in truth]
        np.testing.assert_allclose(episodes.overlap(truth, called), plain)
        met = episodes.match(truth, called)
        assert met.found.tolist() == [count > 0 for count in plain]
        assert met.right.tolist() == [bool((_seconds([span]) & _seconds(truth)).any()) for span in called]
        onsets = []
        for span in truth[met.found]:
            touching = [call for call in called if (_seconds([call]) & _seconds([span])).any()]
            onsets.append((touching[0][0] - span[0], touching[-1][1] - span[1]))
        assert list(zip(met.onset, met.offset, strict=True)) == onsets


def test_tidying_closes_short_pauses_first_and_then_drops_what_is_short():
    spans = np.array([[0, 20], [25, 50], [100, 110], [200, 300], [309.5, 310]])
    assert episodes.tidied(spans, Rules(30, 10)).tolist() == [[0, 50], [200, 310]]
    tidy = episodes.tidied(spans, Rules(30, 10))
    np.testing.assert_array_equal(episodes.tidied(tidy, Rules(30, 10)), tidy)
    assert episodes.tidied(np.zeros((0, 2))).shape == (0, 2)
    assert episodes.tidied(np.array([[0, 86400]])).tolist() == [[0, 86400]], "a whole day stays"


def test_beats_become_episodes_that_end_at_the_next_beat_or_at_a_gap():
    beats = np.array([0, 1, 2, 3, 10, 11, 12, 13.0])
    assert episodes.from_beats(beats, [0, 1, 1, 0, 0, 0, 1, 1]).tolist() == [[1, 3], [12, 13]]
    assert episodes.from_beats(beats, [1] * 8).tolist() == [[0, 3], [10, 13]]
    assert episodes.from_beats(beats, [-1, 0, 0, 0, 0, 0, 0, 0]).tolist() == []
    with pytest.raises(EcgError, match="3 flags for 8 beats"):
        episodes.from_beats(beats, [1, 0, 1])


def test_summary_is_bland_altman_and_resamples_patients():
    random = np.random.default_rng(1)
    truth = random.uniform(0, 80, 30)
    called = truth + random.normal(2, 5, 30)
    rows = pd.DataFrame({"burden": truth, "burden_called": called})
    for name in episodes.COUNTS:
        rows[name] = 1.0
    scores = episodes.summary(rows, np.arange(30), n=500)
    gap = called - truth
    assert scores["burden bias"].point == pytest.approx(gap.mean())
    assert scores["burden error"].point == pytest.approx(abs(gap).mean())
    limit = gap.mean() + metrics.Z95 * gap.std(ddof=1)
    assert scores["upper limit of agreement"].point == pytest.approx(limit)
    width = scores["burden bias"].high - scores["burden bias"].low
    assert width == pytest.approx(2 * metrics.Z95 * gap.std() / np.sqrt(30), rel=0.2)
    one = episodes.summary(rows, ["same"] * 30, n=50)["burden bias"]
    assert one.low == pytest.approx(one.point) and one.high == pytest.approx(one.point), "one patient has no spread"


def test_no_episodes_give_no_score_and_no_error():
    rows = pd.DataFrame([episodes.scored(np.zeros((0, 2)), np.array([[0, 60.0]]), 600.0)])
    scores = episodes.summary(rows, ["a"], n=10)
    assert np.isnan(scores["episode sensitivity"].point) and scores["episode PPV"].point == 0
    assert scores["burden error"].point == pytest.approx(10.0)
