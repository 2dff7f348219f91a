"""Figures with many methods: what is drawn where."""

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.reporting import figures, methods

SCORES = {"clef": 0.8, "melp": 0.9, "supervised": 0.7, "random": 0.95, "scratch": 0.6}


def table(cohort="A"):
    rows = [
        dict(cohort=cohort, split="test", encoder=encoder, mode="linear", fraction=fraction, metric="auroc")
        | dict(label="macro", point=score - 0.1 * (fraction < 0.1), low=score - 0.2, high=score + 0.02)
        for encoder, score in SCORES.items()
        for fraction in (0.01, 0.1)
    ]
    return pd.DataFrame(rows)


def test_a_panel_for_each_share_and_a_row_for_each_method_with_the_baselines_below():
    figure = figures.comparison(table())
    assert [ax.get_title() for ax in figure.axes] == ["1 % of the labels", "10 % of the labels"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["melp", "clef", "supervised", "random", "scratch"]
    for ax, less in zip(figure.axes, (0.1, 0.0), strict=True):
        drawn = {round(float(y)): float(x) for line in ax.containers for x, y in line[0].get_xydata()}
        assert drawn == pytest.approx({k: SCORES[name] - less for k, name in enumerate(names)})
        dashed = sorted(float(line.get_xdata()[0]) for line in ax.lines if line.get_linestyle() == "--")
        assert dashed == pytest.approx(sorted(SCORES[name] - less for name in ("random", "scratch")))
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()  # one axis for all panels
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["random", "scratch"]  # what is dashed
    kinds = [text.get_text() for text in figure.axes[-1].texts]
    assert kinds == ["signals + reports", "signals", "labels", "baseline", "baseline"]


def test_models_that_may_have_seen_the_corpus_are_marked_hollow_and_explained():
    clean = table().assign(note="")
    zoo = {"zoo:merl": "seen", "zoo:x": "unknown", "zoo:ecgfounder": ""}
    more = [clean[clean["encoder"] == "clef"].assign(encoder=name, note=note) for name, note in zoo.items()]
    tuned = more[2].assign(mode="finetune", point=0.75)
    figure = figures.comparison(pd.concat([clean, *more, tuned, tuned.assign(mode="head", point=0.74)]))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {"zoo:merl †", "zoo:x ‡", "zoo:ecgfounder", "zoo:ecgfounder, finetune", "zoo:ecgfounder, head"} < set(names)
    for ax in figure.axes:
        marks = {names[round(float(bars[0].get_ydata()[0]))]: bars[0] for bars in ax.containers}
        assert {name for name, mark in marks.items() if mark.get_markerfacecolor() == "white"} == {
            "zoo:merl †",
            "zoo:x ‡",
        }
        assert marks["zoo:ecgfounder, head"].get_color() == methods.look("zoo:ecgfounder")[0]
    words = figure.get_supxlabel()
    assert "\n† pretrained on recordings of this corpus; ‡ not known" in words
    assert "†" not in figures.comparison(clean).get_supxlabel()
    assert "published" == methods.kind("zoo:merl") in [text.get_text() for text in figure.axes[-1].texts]
    figure.canvas.draw()
    assert figure.legends[0].get_window_extent().x1 <= figure.bbox.x1


def test_two_cohorts_or_nothing_in_one_figure_are_refused():
    for wrong in (pd.concat([table(), table("B")]), table().iloc[:0]):
        with pytest.raises(EcgError, match="one cohort|nothing to draw"):
            figures.comparison(wrong)


def test_each_run_has_its_own_axes_and_scale():
    steps = np.arange(1, 101)
    runs = {name: pd.DataFrame({"step": steps, "loss": scale / steps}) for name, scale in (("a", 1.0), ("b", 100.0))}
    runs["b"]["val_loss"] = np.where(steps % 50 == 0, 3.0, np.nan)
    figure = figures.training_panels(runs, columns=3)
    assert [ax.get_title() for ax in figure.axes if ax.get_visible()] == ["a", "b"]
    assert [len(ax.lines) for ax in figure.axes] == [1, 2, 0]
    assert figure.axes[1].lines[1].get_ydata().tolist() == [3.0, 3.0]
    assert figure.axes[0].get_ylim()[1] < 2 < 50 < figure.axes[1].get_ylim()[1]
