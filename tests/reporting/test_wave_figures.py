"""Figures of waves and leads draw what their tables hold."""

import itertools

import numpy as np
import pandas as pd

from ecglib.data.recording import LEADS
from ecglib.reporting import wave_figures
from ecglib.waves import delineation_scores


def scores() -> pd.DataFrame:
    """A table of `delineation_scores.pooled` with two corpora, of which one has a second reader without P."""
    rows, random = [], np.random.default_rng(0)
    for corpus, method, wave, rule in itertools.product(
        ("A", "Q"), ("net", "second reader"), ("P", "QRS", "T"), delineation_scores.RULES
    ):
        if method == "net" or (corpus == "Q" and wave != "P"):
            values = {"onset_n": 19 if wave == "T" else 20, "offset_n": 20}
            for name in delineation_scores.STATISTICS:
                point = random.uniform(0.8, 0.9)
                values |= {name: point, f"{name}_low": point - 0.05, f"{name}_high": point + 0.05}
            rows.append({"corpus": corpus, "method": method, "wave": wave, "rule": rule} | values)
    return pd.DataFrame(rows)


def test_every_method_of_a_corpus_has_its_row_and_tolerances_their_lines():
    table = scores()
    figure = wave_figures.boundary_errors(table[table.rule == "150 ms"], delineation_scores.CSE_MS, ["A", "Q"])
    rows = [[tick.get_text() for tick in axes.get_yticklabels()] for axes in (figure.axes[0], figure.axes[6])]
    assert rows == [["net"], ["net", "second reader"]] and len(figure.axes) == 12
    at = sorted(line.get_xdata()[0] for line in figure.axes[2].get_lines() if line.get_linestyle() == "--")
    assert at == [-6.5, 6.5]  # QRS onset
    assert [bool(figure.axes[k].containers) for k in (3, 4, 5)] == [True, False, True]  # too few onsets of T
    found = wave_figures.found_waves(table, ["A", "Q"])
    assert [ax.get_title() for ax in found.axes[:3]] == ["P", "QRS", "T"]


def test_bars_on_paper_lie_where_the_waves_are():
    waves = {"P": np.zeros((0, 3)), "QRS": np.array([[250, np.nan, 275.0]]), "T": np.array([[np.nan, 325, 400.0]])}
    x = np.zeros((2, 1000))
    x[1, 300] = -1
    ax = wave_figures.marked_paper(x, 250, ("II", "V2"), {"marked": [waves], "net": [waves, waves]}, seconds=4)
    bars = [part.get_segments() for part in ax.collections[1:] if part.get_linewidths()[0] == 2.4]
    drawn = [segment for segments in bars for segment in segments]
    left, right = drawn[0][:, 0]
    assert (left, right) == (12.5 + 25, 12.5 + 27.5)  # 25 mm a second behind the calibration pulse
    assert {segment[0, 0] for segment in drawn} == {37.5, 12.5 + 32.5}  # T from its peak
    assert len(drawn) == 8 and len({segment[0, 1] for segment in drawn}) == 4


def test_a_given_lead_is_blank_and_the_others_have_their_numbers():
    rows = [("I", method, lead, 0.5) for method in ("ridge", "network") for lead in ("II", "V1")]
    table = pd.DataFrame(rows, columns=["given", "method", "lead", "information"])
    table = table.assign(information_low=0.4, information_high=0.6)
    figure = wave_figures.lead_map(table)
    assert [text.get_text() for text in figure.axes[0].texts] == ["50\n40 to 60"] * 2
    rows = [("all", "true twelve", 0.9), ("I", "given", 0.7), ("I", "rebuilt", 0.8)]
    table = pd.DataFrame(rows, columns=["given", "leads", "auroc"]).assign(low=0.65, high=0.95)
    assert [tick.get_text() for tick in wave_figures.kept_auroc(table).get_yticklabels()] == ["I"]


def test_limits_of_agreement_have_a_row_for_each_corpus_and_method():
    columns = ("bias", "bias_low", "bias_high", "loa_low", "loa_high")
    rows = [
        {"corpus": corpus, "method": "net", "interval": name} | dict(zip(columns, (1, 0, 2, -20, 22), strict=True))
        for corpus in ("A", "B")
        for name in ("PR", "QRS", "QT")
    ]
    figure = wave_figures.agreements(pd.DataFrame(rows))
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["A: net", "B: net"]


def test_sheets_have_one_scale_though_one_is_taller():
    x = np.random.default_rng(0).normal(size=(12, 1000)) * 0.1
    figure = wave_figures.sheets({"drawn": x, "recorded": 20 * x}, 100, LEADS)
    figure.canvas.draw()
    boxes = [ax.get_window_extent() for ax in figure.axes]
    low, tall = (box.height / ax.get_ylim()[1] for box, ax in zip(boxes, figure.axes, strict=True))
    assert figure.axes[1].get_ylim()[1] > 1.5 * figure.axes[0].get_ylim()[1]
    assert abs(low - tall) / low < 0.02  # pixels of a millimetre of paper
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["drawn", "recorded"]


def test_every_set_has_a_row_and_its_interval():
    first = pd.DataFrame({"set": ["recorded", "diffusion"], "v": [1.0, 3.0], "low": [0.5, 2.0], "high": [2.0, 5.0]})
    second = first.assign(set=["diffusion", "shuffled"])
    columns = ["v", "low", "high"]
    figure = wave_figures.drawn_scores([("a", first, columns, None), ("b", second, columns, 0.5)])
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["recorded", "diffusion", "shuffled"]
    drawn = [segment for bars in left.containers for segment in bars.lines[2][0].get_segments()]
    np.testing.assert_allclose(sorted(segment[:, 0].tolist() for segment in drawn), [[0.5, 2.0], [2.0, 5.0]])
    rows = {float(segment[0, 1]) for bars in right.containers for segment in bars.lines[2][0].get_segments()}
    assert rows == {1.0, 2.0} and right.lines[0].get_xdata()[0] == 0.5
