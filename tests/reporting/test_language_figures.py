"""Figures of rules and neighbours show what the tables hold."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ecglib.evaluation import rules
from ecglib.reporting import language_figures


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def bars(ax) -> list[np.ndarray]:
    """Segments (n, 2, 2) of the error bars of an Axes."""
    return [np.array(c[2][0].get_segments()) for c in ax.containers]


def test_the_forest_of_rules_has_a_row_per_rule_that_somebody_can_judge():
    rng = np.random.default_rng(0)
    said = pd.DataFrame(rng.integers(0, 2, (80, 3)), columns=["LBBB", "left axis", "PR"])
    stated = said.where(rng.random(said.shape) < 0.8, 1 - said)
    stated["left axis"] = -1
    true = said.where(rng.random(said.shape) < 0.9, 1 - said).assign(**{"left axis": -1})
    tables = {
        name: rules.scores(said, truth, np.arange(80), n=50) for name, truth in (("stated", stated), ("true", true))
    }
    figure = language_figures.rule_forest(tables)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == [f"LBBB  ({(stated.LBBB == 1).sum()})", f"PR  ({(stated.PR == 1).sum()})"]
    for ax, metric in zip(figure.axes, ("sensitivity", "specificity"), strict=True):
        for segments, table in zip(bars(ax), tables.values(), strict=True):
            rows = table[(table.metric == metric) & (table.rule != "left axis")]
            assert segments[:, :, 0] == pytest.approx(rows[["low", "high"]].to_numpy())
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"stated", "true"}


def test_recall_has_a_line_per_method_and_the_chance():
    table = pd.DataFrame([("a", 1, 0.2), ("a", 5, 0.4), ("b", 1, 0.3), ("b", 5, 0.6)], columns=["method", "k", "point"])
    table = table.assign(low=table.point - 0.1, high=table.point + 0.1, chance=[0.05, 0.2] * 2)
    ax = language_figures.recall(table)
    assert [segments[:, :, 1].tolist() for segments in bars(ax)][1] == [
        pytest.approx([0.2, 0.4]),
        pytest.approx([0.5, 0.7]),
    ]
    (chance,) = [line for line in ax.lines if line.get_label() == "chance"]
    assert chance.get_ydata().tolist() == [0.05, 0.2]


def test_differences_are_sorted_and_filled_where_they_are_sure():
    table = pd.DataFrame({"encoder": ["a", "b"], "reference": "plain rules", "point": [-0.1, 0.2]})
    table = table.assign(low=table.point - 0.05, high=table.point + 0.05, p_holm=[0.2, 0.01])
    ax = language_figures.differences(table)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b", "a"]
    assert [segments[0][:, 0].tolist() for segments in bars(ax)] == [
        pytest.approx([0.15, 0.25]),
        pytest.approx([-0.15, -0.05]),
    ]
    faces = [c[0].get_markerfacecolor() for c in ax.containers]
    assert faces[0] != "white" and faces[1] == "white" and "plain rules" in ax.get_xlabel()
