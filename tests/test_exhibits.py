"""Figures of published models: what they show, in which units, and that recipe weights are said in large letters."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ecglib import exhibits, look


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def words(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def test_one_lead_through_each_chain_on_its_own_time_axis():
    x = np.sin(np.arange(5000) / 50)
    inputs = {"one": (x, 500, "II", "z-score of each lead"), "two †": (x[:1000], 100, "I", "millivolt as they are")}
    figure = exhibits.profiles((x, 500), inputs)
    assert len(figure.axes) == 3
    for ax, fs in zip(figure.axes, (500, 500, 100), strict=True):
        time, shown = ax.lines[0].get_data()
        assert len(time) == 4 * fs and time[-1] == pytest.approx(4 - 1 / fs)
        np.testing.assert_array_equal(shown, x[: 4 * fs])
    text = words(figure)
    for needed in ("before any chain, lead II", "mV, 500 Hz", "one, lead II", "two †, lead I", "Time (s)", "z-score"):
        assert needed in text


def test_maps_show_every_record_at_its_components():
    rng = np.random.default_rng(0)
    z, labels = (
        {"a": rng.standard_normal((30, 8)), "b": rng.standard_normal((30, 4))},
        np.array(["AFIB", "", "LVH"] * 10),
    )
    figure = exhibits.maps(z, labels)
    for ax, (name, values) in zip(figure.axes, z.items(), strict=True):
        assert ax.get_title() == name and "% of variance" in ax.get_xlabel()
        drawn = np.concatenate([dots.get_offsets() for dots in ax.collections])
        u, s, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
        expected = (u[:, :2] * s[:2])[
            np.argsort(np.where(labels == "", 0, np.where(labels == "AFIB", 1, 2)), kind="stable")
        ]
        np.testing.assert_allclose(abs(drawn), abs(expected), atol=1e-9)
    assert {"AFIB", "LVH"} <= set(words(figure).splitlines())


def test_probes_carry_their_intervals():
    table = pd.DataFrame({"model": ["a", "b"], "auroc": [0.8, 0.6], "low": [0.7, 0.5], "high": [0.85, 0.75]})
    figure = exhibits.probes(table)
    ends = figure.axes[0].collections[0].get_segments()
    np.testing.assert_allclose([segment[:, 0] for segment in ends], [[0.7, 0.85], [0.5, 0.75]])
    assert "95 % interval" in words(figure) and [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_the_stamp_is_the_largest_writing_and_gives_the_same_bytes(tmp_path):
    table = pd.DataFrame({"model": ["a"], "auroc": [0.8], "low": [0.7], "high": [0.9]})
    files = [look.save(exhibits.stamp(exhibits.probes(table)), tmp_path / name, "x") for name in ("one", "two")]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]
    figure = exhibits.stamp(exhibits.probes(table))
    largest = max(figure.findobj(plt.Text), key=lambda text: text.get_fontsize() * bool(text.get_text()))
    assert largest.get_text() == "RECIPE WEIGHTS" and "MEAN NOTHING" in words(figure)
