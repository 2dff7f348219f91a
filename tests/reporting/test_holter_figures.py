"""Figures of days: each episode is where it was, agreement lines at their numbers, a cell for each pair of corpora."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ecglib.reporting import cross_corpus, holter_figures


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_a_timeline_has_every_episode_in_its_row():
    truth, called = np.array([[3600, 7200], [10800, 10801]]), np.array([[3700, 7300]])
    ax = holter_figures.timeline([("a", 24.0, truth, called, "9 %"), ("$b_c", 12.0, None, np.zeros((0, 2)), "")])
    drawn = [segment for lines in ax.collections for segment in lines.get_segments()]
    spans = [(round(s[0, 1], 2), s[0, 0], s[1, 0]) for s in drawn]
    assert (-0.17, 1.0, 2.0) in spans and (0.17, pytest.approx(3700 / 3600), pytest.approx(7300 / 3600)) in spans
    short = next(end - start for row, start, end in spans if row == -0.17 and start == 3.0)
    assert short > 0.01, "an episode of a second is seen"
    assert {end for row, _, end in spans if row > 0.5} == {12.0}, "nothing but the grey line of the second day"
    assert ax.get_yticklabels()[1].get_text() == r"\$b_c"


def test_agreement_lines_are_at_their_numbers():
    rows = pd.DataFrame({"burden": [0.0, 10.0, 50.0], "burden_called": [1.0, 8.0, 55.0]})
    scores = {
        name: (value, value - 1, value + 1) for name, value in zip(holter_figures.LINES, (1.3, -5, 8), strict=True)
    }
    ax = holter_figures.burdens(rows, scores)
    points = next(line for line in ax.lines if line.get_marker() == "o")
    assert points.get_xdata().tolist() == [0.5, 9.0, 52.5] and points.get_ydata().tolist() == [1, -2, 5]
    assert {line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 2} == {0, 1.3, -5, 8}


def test_a_matrix_writes_scores_with_intervals_and_frames_home():
    row = {"score": "AUROC", "low": 90.0, "high": 99.0}
    table = pd.DataFrame([row | {"train": a, "test": b, "point": p} for a, b, p in (("x", "x", 95), ("x", "y", 93.21))])
    table.loc[2] = {**row, "train": "x", "test": "z", "point": np.nan}
    ax = cross_corpus.matrix(table, "AUROC", {"x": "x", "y": "y", "z": "z"})
    assert [t.get_text() for t in ax.texts] == ["95.0\n(90.0 to 99.0)", "93.2\n(90.0 to 99.0)", "-"]
    [frame] = ax.patches
    assert frame.get_xy() == (-0.49, -0.49)
