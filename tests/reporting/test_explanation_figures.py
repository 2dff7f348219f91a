"""Figures of explanations show what their tables say; a map marks the line where it is strong, and nothing else."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

from ecglib.data.recording import LEADS
from ecglib.reporting import explanation_figures as figures
from ecglib.reporting import methods, style


def bands(ax):
    return [c for c in ax.collections if isinstance(c, LineCollection) and c.get_zorder() == 1.5]


def test_a_map_marks_the_line_where_it_is_strong():
    x = np.zeros((12, 1000))
    attribution = np.zeros((12, 1000))
    attribution[1, 300:310] = 1.0  # II, once in its quarter and once in the strip
    attribution[7, 100:110] = 1.0  # V2 at a time that its quarter does not show
    attribution[0] = -5  # speaks against it
    ax = figures.over_paper(x, attribution, 100.0, title="a")
    marked = [c.get_segments() for c in bands(ax) if len(c.get_segments())]
    assert len(marked) == 1, "the strip of II shows it; the quarter of II ends at 2.5 s"
    times = (np.concatenate(marked[0])[:, 0] - 12.5) / 25.0
    assert times.min() == pytest.approx(2.97, abs=0.02) and times.max() == pytest.approx(3.12, abs=0.02)


def test_strength_is_smooth_positive_and_at_most_one():
    found = figures.strength(np.array([[0.0] * 20 + [4.0] + [0.0] * 20, [-3.0] * 41]), 100.0)
    assert found.max() == 1 and not found[1].any()
    assert np.flatnonzero(found[0]).tolist() == list(range(18, 24)), "a mean over six samples"
    assert not figures.strength(np.zeros((2, 30)), 100.0).any()


def table(**columns):
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return pd.DataFrame(rows).assign(point=np.linspace(1, 3, len(rows)), low=0.9, high=4.0)


def test_a_forest_has_a_panel_a_row_and_a_symbol_each():
    scores = table(
        what=["both", "both", "both", "lead"],
        method=["occlusion", "occlusion", "amplitude", "occlusion"],
        model=["mae", "random_vit1d", figures.NO_MODEL, "mae"],
    )
    figure = figures.forest(scores, "what", "method", "Lift", reference=1, log=True)
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["occlusion", "amplitude"]
    drawn = {
        (line.get_color(), float(line.get_xdata()[0])) for line in first.lines if line.get_marker() not in ("None", "")
    }
    points = dict(zip(scores.model, scores.point, strict=True))
    assert (methods.look("mae")[0], 1.0) in drawn
    assert (methods.look("random")[0], points["random_vit1d"]) in drawn and (style.SOFT, points["no model"]) in drawn
    assert [label.get_text() for label in second.get_xticklabels()] == ["1", "1.2", "1.5", "2", "3", "4"]


def test_curves_are_drawn_by_share_and_kind():
    lines = table(kind=["deletion"] * 3 + ["insertion"] * 3, method=["occlusion"] * 6, share=[0, 0.1, 1.0, 0, 0.1, 1.0])
    left, right = figures.curves(lines).axes
    np.testing.assert_allclose(left.lines[0].get_xydata(), lines[["share", "point"]][:3])
    np.testing.assert_allclose(right.lines[0].get_xydata(), lines[["share", "point"]][3:])


def test_shares_of_the_waves_stand_beside_a_uniform_map():
    shares = table(
        label=["AFIB"] * 4 + ["IMI"] * 4,
        segment=["P", "T"] * 4,
        method=["uniform", "uniform", "occlusion", "occlusion"] * 2,
    )
    figure = figures.segment_shares(shares)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in shown] == ["AFIB", "IMI"]
    assert [bar.get_width() for bar in shown[1].patches] == shares.point[4:6].tolist()
    assert [line.get_xdata().tolist() for line in shown[0].lines if len(line.get_xdata()) == 2][0] == (
        shares.point[2:4].tolist()
    )


def test_a_sheet_without_a_map_is_the_same_as_before():
    x = np.sin(np.arange(1000) / 30)[None].repeat(12, 0)
    assert not bands(figures.ecg_paper(x, 100.0, LEADS)) and len(bands(figures.over_paper(x, x, 100.0))) == 13
