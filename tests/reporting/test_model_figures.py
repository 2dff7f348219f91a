"""Figures of published models: what they show, in which units, and that dummy weights are said in large letters."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ecglib.reporting import model_figures, style


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def words(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def test_one_lead_through_each_chain_on_its_own_time_axis():
    x = np.sin(np.arange(5000) / 50)
    inputs = {"one": (x, 500, "II", "z-score of each lead"), "two †": (x[:1000], 100, "I", "millivolt as they are")}
    figure = model_figures.profiles((x, 500), inputs)
    assert len(figure.axes) == 3
    for ax, fs in zip(figure.axes, (500, 500, 100), strict=True):
        time, shown = ax.lines[0].get_data()
        assert len(time) == 4 * fs and time[-1] == pytest.approx(4 - 1 / fs)
        np.testing.assert_array_equal(shown, x[: 4 * fs])
    text = words(figure)
    for needed in ("before any chain, lead II", "mV, 500 Hz", "one, lead II", "two †, lead I", "Time (s)", "z-score"):
        assert needed in text


def test_probes_carry_their_intervals():
    table = pd.DataFrame({"model": ["a", "b"], "auroc": [0.8, 0.6], "low": [0.7, 0.5], "high": [0.85, 0.75]})
    figure = model_figures.probes(table)
    ends = [segment for bars in figure.axes[0].collections for segment in bars.get_segments()]
    np.testing.assert_allclose([segment[:, 0] for segment in ends], [[0.7, 0.85], [0.5, 0.75]])
    assert "95 % interval" in words(figure) and [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_the_stamp_is_the_largest_writing_and_gives_the_same_bytes(tmp_path):
    table = pd.DataFrame({"model": ["a"], "auroc": [0.8], "low": [0.7], "high": [0.9]})
    files = [
        style.save(model_figures.stamp(model_figures.probes(table)), tmp_path / name, "x") for name in ("one", "two")
    ]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]
    figure = model_figures.stamp(model_figures.probes(table))
    largest = max(figure.findobj(plt.Text), key=lambda text: text.get_fontsize() * bool(text.get_text()))
    assert largest.get_text() == "DUMMY WEIGHTS" and "MEAN NOTHING" in words(figure)
