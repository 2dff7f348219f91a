"""Figures of robustness show what their tables say: values, intervals, order, one look per method."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from ecglib.reporting import methods, robustness_figures, style

METHODS = ("clef", "random")


def corrupted():
    kinds = [("clean", "clean", np.nan), ("noise", "all noise, 12 dB", 12), ("noise", "all noise, 0 dB", 0)]
    kinds += [("noise", "muscle, 0 dB", 0), ("leads", "6 leads", 6), ("leads", "1 lead", 1)]
    rows = []
    for k, method in enumerate(METHODS):
        for j, (family, name, level) in enumerate(kinds):
            point = 0.9 - 0.1 * k - 0.03 * j
            rows.append((method, family, name, level, point, point - 0.02, point + 0.01))
    return pd.DataFrame(rows, columns=["method", "family", "corruption", "level", "auroc", "low", "high"])


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_heat_map_writes_every_score_with_its_interval():
    figure = robustness_figures.heat_map(corrupted())
    ax = figure.axes[0]
    assert len(texts(ax)) == 12 and texts(ax)[0] == "90  88–91"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["clef", "random"], "the best first"
    assert [t.get_text() for t in ax.get_yticklabels()][0] == "clean"
    np.testing.assert_allclose(ax.images[0].get_array()[:, 1], 0.8 - 0.03 * np.arange(6))


def test_curves_end_with_the_clean_recording_and_leave_single_noises_out():
    figure = robustness_figures.curves(corrupted(), 12)
    noise, leads = figure.axes
    assert [t.get_text() for t in noise.get_xticklabels()] == ["0", "12", "clean"]
    assert [t.get_text() for t in leads.get_xticklabels()] == ["1", "6", "12"]
    line = next(line for line in leads.lines if to_hex(line.get_color()) == methods.look("clef")[0].lower())
    np.testing.assert_allclose(line.get_ydata(), [0.75, 0.78, 0.9])


def test_areas_are_sorted_and_have_the_colour_of_the_method():
    table = pd.DataFrame(
        [("noise", "random", 0.7, 0.6, 0.8), ("noise", "clef", 0.9, 0.85, 0.95), ("leads", "random", 0.6, 0.5, 0.7)]
        + [("leads", "clef", 0.8, 0.7, 0.9)],
        columns=["axis", "method", "area", "low", "high"],
    )
    figure = robustness_figures.areas(table)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["clef", "random"]
    assert to_hex(figure.axes[0].lines[0].get_color()) == methods.look("clef")[0].lower()


def about(rows, **columns):
    return pd.DataFrame(rows).assign(**columns)


def test_sets_refusals_and_thirds_have_a_panel_each():
    rows = [dict(what=what, share=0.8, low=0.7, high=0.9) for what in ("covered", "empty")]
    table = pd.concat([about(rows, kind=kind, cohort=c) for kind in ("marginal", "by class") for c in ("A", "B")])
    figure = robustness_figures.coverage(table, 0.1)
    assert len(figure.axes) == 2 and figure.axes[0].lines[0].get_xdata()[0] == pytest.approx(0.9)
    rows = [dict(share=s, risk=s / 10, low=0, high=s / 5, best=s / 20) for s in (0.5, 1.0)]
    table = pd.concat([about(rows, cohort=c, uncertainty=u) for c in ("A", "B") for u in ("entropy", "spread")])
    figure = robustness_figures.refusals(table)
    level = [line for line in figure.axes[0].lines if line.get_label() == "at random"]
    assert len(figure.axes) == 2 and level[0].get_ydata()[0] == pytest.approx(0.1)
    names = dict(auroc=0.8, low=0.7, high=0.9, same=0.75, same_low=0.6, same_high=0.8)
    rows = [dict(third=third, **names) for third in ("surest", "middle", "least sure")]
    table = pd.concat([about(rows, cohort=c, uncertainty="entropy") for c in ("A", "B")])
    assert len(robustness_figures.thirds(table).axes) == 2


def test_shifts_go_from_home_to_the_reverse():
    rows = []
    for kind, levels in (("P(Y|Z)", (1 / 9, 1.0, 9.0)), ("P(Z)", (0.2, 0.8))):
        for level in levels:
            for metric in ("auroc", "log_loss", "ece"):
                rows += [(kind, level, m, metric, 0.7, 0.6, 0.8) for m in ("X only", "X+Z")]
    table = pd.DataFrame(rows, columns=["shift", "level", "method", "metric", "point", "low", "high"])
    axes = robustness_figures.shifts(table, 5.0).axes
    assert [t.get_text() for t in axes[0].get_xticklabels()] == ["9:1", "1:1", "1:9"]
    assert [t.get_text() for t in axes[1].get_xticklabels()] == ["20 %", "80 %"] and len(axes) == 4
    assert axes[2].get_ylabel().startswith("Log-loss")


def test_cues_and_rare_statements():
    rows = [
        (cue, amplitude, removed, test, 0.4, 0.3, 0.5, method)
        for cue in ("p", "notch")
        for amplitude in (0.02, 0.1)
        for removed in ("", "0-5")
        for test in ("agree", "conflict")
        for method in METHODS
    ]
    names = ["cue", "amplitude", "removed", "test", "auroc", "low", "high", "method"]
    figure = robustness_figures.cues(pd.DataFrame(rows, columns=names))
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["20", "100"] and len(figure.axes) == 2
    rows = [
        (m, "linear", c, 0.7 + k / 10, 0.6, 0.9, 3) for k, m in enumerate(METHODS) for c in ("10 to 19", "20 or more")
    ]
    names = ["encoder", "mode", "positives", "auroc", "low", "high", "n_labels"]
    ax = robustness_figures.rare(pd.DataFrame(rows, columns=names))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["random", "clef"]
    assert ax.get_legend().get_texts()[0].get_text() == "10 to 19 training records (3 statements)"


def test_anomalies_show_truth_score_and_what_is_marked():
    score = np.where(np.arange(200) // 50 == 1, 2.0, 0.5)
    truth = np.arange(200) // 50 == 2
    names = {"truth": "in truth", "marked": "marked"}
    figure = robustness_figures.anomalies([("PVC", "II", np.sin(np.arange(200)), truth, score)] * 2, 100.0, 1.0, names)
    assert len(figure.axes) == 4
    paper, below = figure.axes[:2]
    assert paper.get_title("left") == "PVC, lead II"
    np.testing.assert_allclose(below.lines[0].get_ydata(), score)
    spans = [(p.get_x(), p.get_x() + p.get_width()) for p in below.patches]
    np.testing.assert_allclose(spans, [(0.995, 1.495), (0.495, 0.995)])  # truth, and what is marked
    for ticks, square in ((paper.get_xticks, 0.04), (paper.get_yticks, 0.1)):  # a large square has five small ones
        np.testing.assert_allclose(np.diff(ticks()), 5 * square)
        np.testing.assert_allclose(np.diff(np.sort([*ticks(), *ticks(minor=True)])), square)


def test_the_same_table_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        style.save(robustness_figures.heat_map(corrupted()), tmp_path, name)
        plt.close("all")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    figure = robustness_figures.examples({"clean": np.zeros(100), "noise": np.ones(100)}, 100.0)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["clean, lead II", "noise, lead II"]
