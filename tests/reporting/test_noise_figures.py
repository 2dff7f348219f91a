"""Figures of noise detection show the numbers of their tables."""

import numpy as np
import pandas as pd

from ecglib.reporting import noise_figures


def scores() -> pd.DataFrame:
    rows = []
    for i, trained in enumerate("AB"):
        for k, judged in enumerate(("A", "B", "$C")):
            point = 0.6 + 0.1 * i + 0.05 * k
            about = {"train": trained, "test": judged, "statistic": "AUROC", "prevalence": 0.25, "n_items": 80 + k}
            rows.append(about | {"point": point, "low": point - 0.1, "high": point + 0.1})
    return pd.DataFrame(rows)


def test_each_cell_of_the_matrix_holds_its_point_and_interval():
    table = scores()
    table.loc[0, ["low", "high"]] = np.nan
    ax = noise_figures.matrix(table, "AUROC")
    cells = {tuple(map(round, text.get_position())): text.get_text() for text in ax.texts}
    assert len(cells) == 6 and cells[1, 0] == "0.650\n(0.55 to 0.75)" and cells[2, 1] == "0.800\n(0.70 to 0.90)"
    assert cells[0, 0] == "0.600\n(one patient)"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A", "B"]
    assert ax.get_xticklabels()[2].get_text() == "\\$C\n25 % noisy, n = 82"
    framed = [patch.get_xy() for patch in ax.patches]
    assert framed == [(-0.49, -0.49), (0.51, 0.51)], "the diagonal, where a corpus is judged by itself"
    np.testing.assert_allclose(ax.images[0].get_array()[1], [0.7, 0.75, 0.8])


def test_false_alarms_stand_in_the_row_of_their_corpus_and_rhythm():
    rows = []
    for k, name in enumerate(("HRV", "morphology")):
        for rhythm in ("atrial fibrillation", "sinus", "other"):
            share = 0.1 * (k + 1) if rhythm == "sinus" else 0.3
            about = {"detector": name, "corpus": "B", "rhythm": rhythm, "n_items": 7, "share": share}
            rows.append(about | {"low": share - 0.05, "high": share + 0.05})
    ax = noise_figures.alarms(pd.DataFrame(rows), ("sinus", "atrial fibrillation"))
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "B, sinus (n = 7)",
        "B, atrial fibrillation (n = 7)",
    ]
    points = [container.lines[0].get_xydata() for container in ax.containers]
    np.testing.assert_allclose(
        [sorted(map(tuple, xy)) for xy in points], [[(10, -0.1), (30, 0.9)], [(20, 0.1), (30, 1.1)]]
    )
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["HRV", "morphology"]


def test_strips_show_every_sample_in_millivolt():
    x = np.array([[0.0, 1.0, -2.0, 0.5], [0.1, 0.2, 0.3, 0.4]])
    figure = noise_figures.strips(x, 2.0, ["one", "two"])
    lines = [ax.lines[0].get_xydata() for ax in figure.axes]
    np.testing.assert_allclose(lines[0], [[0, 0], [0.5, 1], [1, -2], [1.5, 0.5]])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one", "two"] and figure.axes[0].get_ylabel() == "mV"
