"""The first picture: which ECG it shows, what the model says of it, and that a study of one hospital has one too."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from crude_corpus import corpus, pack
from test_figures import external_table

from ecglib.reporting import hero, methods, style


def said():
    """Calls of five records, two statements each but for the last, the worst call of each worse than that before."""
    rows = []
    for k in range(5):
        for label in ("AFIB", "LVH")[: 1 if k == 4 else 2]:
            rows.append({"record_id": f"r{k}", "label": label, "truth": 1, "probability": 0.95 - 0.1 * k})
    same = {"encoder": "clef", "mode": "linear", "fraction": 1.0, "cohort": "A", "split": "test", "threshold": 0.7}
    table = pd.DataFrame(rows).assign(**same)
    return table.assign(call=table.probability >= table.threshold)


def test_the_ecg_is_the_middle_one_of_those_with_several_statements():
    assert hero.typical(said(), "clef") == "r1"  # of r3, r2, r1, r0, worst first, the third
    single = said().drop_duplicates("record_id")
    assert hero.typical(single, "clef") == "r2"  # nobody has several: the middle of all


@pytest.fixture
def results(tmp_path):
    """A packed cohort of six records of one hospital, and what one encoder says of those of validation and test."""
    pack(corpus(tmp_path / "raw"), tmp_path / "results/cohorts/toy")
    rows = [
        {"record_id": f"r{k}", "patient_id": f"p{k // 2}", "split": split, "label": label, "truth": truth}
        for k, split in ((2, "val"), (3, "val"), (4, "test"), (5, "test"))
        for label, truth in (("A", k % 2), ("B", int(k > 2)))
    ]
    same = {"cohort": "toy", "encoder": "zoo:mine", "mode": "linear", "fraction": 1.0, "seed": 0, "note": ""}
    table = pd.DataFrame(rows).assign(**same, probability=lambda t: (0.2 + 0.6 * t.truth).astype(np.float32))
    folder = tmp_path / "results/probe/t-zoo-mine"
    folder.mkdir(parents=True)
    table.astype({"truth": np.int8}).to_parquet(folder / "predictions.parquet")
    return tmp_path / "results"


def test_a_study_of_one_hospital_has_a_sheet_and_two_have_a_forest_beside_it(results):
    transfer = external_table().assign(n_records_internal=50, n_records_external=60)
    for rows, parts in ((transfer.iloc[:0], 2), (transfer, 3)):
        figure, caption = hero.draw(results, "t", "toy", "zoo:mine", rows)
        assert len(figure.axes) == parts and figure.axes[0].get_title(loc="left").startswith(("r4: 44", "r5: 45"))
        assert "hospital toy" in caption and ("hospital B (60 records)" in caption) == (parts == 3)
        figure.canvas.draw()
        frame, content = figure.bbox, figure.get_tightbbox(figure.canvas.get_renderer())
        assert content.x0 * figure.dpi >= frame.x0 - 1 and content.x1 * figure.dpi <= frame.x1 + 1
        style.plt.close(figure)


def test_the_bars_are_the_probabilities_and_carry_the_thresholds():
    figure, ax = style.plt.subplots()
    rows = said().query("record_id == 'r3'").assign(probability=[0.8, 0.3], call=[True, False])
    hero._said(ax, rows, "clef")
    widths = [patch.get_width() for patch in ax.patches]
    assert widths == [1, 0.8, 1, 0.3]
    colours = [matplotlib.colors.to_hex(patch.get_facecolor()).upper() for patch in ax.patches]
    assert colours[1] == methods.look("clef")[0].upper() != colours[3]
    assert [line.get_xdata()[0] for line in ax.lines] == [0.7, 0.7]
    words = [text.get_text() for text in ax.texts]
    assert words == ["80 %, called, stated", "30 %, not called, stated"]
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["AFIB, atrial fibrillation", "LVH, left ventricular hypertrophy"]
    style.plt.close(figure)


def test_the_forest_beside_it_shows_the_best_the_worst_and_those_between():
    table = external_table()
    assert hero._spread(table) == ["AFIB", "NORM"]  # CLBBB is not in both
    labels = [f"L{k:02d}" for k in range(25)]
    table = pd.DataFrame({"label": [*labels, "macro"], "internal": np.linspace(1, 0.5, 26), "external": 0.7})
    shown = hero._spread(table.sample(frac=1, random_state=0))
    assert len(shown) == hero.N_LABELS and (shown[0], shown[-1]) == ("L00", "L24") and shown == sorted(shown)
