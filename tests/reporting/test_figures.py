"""Figures: same drawing same bytes, labelled axes, intervals as given, the clinical sheet true to scale."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.data.recording import LEADS
from ecglib.evaluation import metrics
from ecglib.reporting import cohort_figures, ecg_paper, figures, methods, style


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def ecg(leads=12, fs=100, seconds=10):
    """Pulses of 1 mV and 40 ms once a second."""
    x = np.zeros((leads, fs * seconds), np.float32)
    for second in range(seconds):
        x[:, second * fs + fs // 2 : second * fs + fs // 2 + 4] = 1.0
    return x


def score_table():
    rows = []
    for encoder, mode, base in (
        ("supervised", "linear", 0.85),
        ("random", "linear", 0.7),
        ("features", "boosting", 0.8),
    ):
        for fraction in (0.01, 0.1, 1.0):
            point = base + 0.02 * np.log10(fraction)
            row = {"encoder": encoder, "mode": mode, "fraction": fraction, "point": point}
            rows.append(row | {"low": point - 0.03, "high": point + 0.02})
    return pd.DataFrame(rows).assign(cohort="A", split="test", metric="auroc", label="macro")


def external_table():
    table = pd.DataFrame({"label": ["macro", "AFIB", "NORM", "CLBBB"], "internal": [0.9, 0.95, 0.85, np.nan]})
    for side, shift in (("internal", 0.0), ("external", -0.05)):
        table[side] = table["internal"] + shift
        table[f"{side}_low"], table[f"{side}_high"] = table[side] - 0.04, table[side] + 0.02
        table[f"n_positives_{side}"] = [90, 40, 1500, 0]
    place = {"cohort": "B", "encoder": "supervised", "mode": "linear", "fraction": 1.0, "metric": "auroc"}
    return table.assign(**place)


def difference_table():
    table = pd.DataFrame({"reference": ["random", "features"], "point": [0.1, 0.01], "low": [0.08, -0.01]})
    same = {"cohort": "A", "split": "test", "metric": "auroc", "encoder": "supervised", "fraction": 0.1}
    same |= {"mode": "linear", "reference_mode": ["linear", "boosting"]}
    return table.assign(high=[0.12, 0.03], p_holm=[0.004, 0.4], **same)


def curve_table():
    table = pd.DataFrame({"bin": [0, 4, 9], "probability": [0.05, 0.45, 0.93], "frequency": [0.02, 0.5, 0.9]})
    table["low"], table["high"] = metrics.wilson(table["frequency"] * 40, 40)
    return table.assign(cohort="A", split="test", label="AFIB", fraction=1.0, encoder="supervised", mode="linear")


def states():
    random = np.random.default_rng(0)
    one = pd.DataFrame((random.random((200, 3)) < (0.4, 0.1, 0.0)).astype(np.int8), columns=["NORM", "AFIB", "WPW"])
    return {"A": one, "B": one.head(80)[["NORM", "AFIB"]]}


def history():
    step = np.arange(1, 301)
    loss = np.exp(-step / 80) + 0.02 * np.random.default_rng(0).normal(size=300)
    return {"supervised": pd.DataFrame({"step": step, "loss": loss, "val_loss": np.where(step % 50, np.nan, loss)})}


def embedding():
    random = np.random.default_rng(0)
    labels = random.choice(["NORM", "AFIB", ""], 150)
    return random.normal(size=(150, 8)) + 3 * (labels == "AFIB")[:, None], labels


FIGURES = {
    "paper": lambda ax: ecg_paper.ecg_paper(ecg(), 100, lead_mask=np.arange(12) != 8, title="one", ax=ax),
    "strip": lambda ax: ecg_paper.ecg_paper(ecg(1), 100, ["I"], ax=ax),
    "prevalence": lambda ax: cohort_figures.prevalence(states(), ax=ax),
    "efficiency": lambda ax: figures.label_efficiency(score_table(), ax=ax),
    "forest": lambda ax: figures.forest(external_table(), ax=ax),
    "differences": lambda ax: figures.paired_differences(difference_table(), ax=ax),
    "map": lambda ax: figures.embedding_map(*embedding(), ax=ax),
}


@pytest.mark.parametrize("name", FIGURES)
def test_drawn_twice_the_bytes_are_the_same(name, tmp_path, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    files = [style.save(FIGURES[name](None), tmp_path / str(k), name, dpi=60) for k in (0, 1)]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes() and first.stat().st_size > 2000
    assert b"CreationDate" not in files[0][1].read_bytes() and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled_and_nothing_leaves_the_figure(name):
    ax = FIGURES[name](None)
    rows = name in ("prevalence", "forest", "differences")  # names down the axis instead of a title of the axis
    assert ax.get_xlabel() and (ax.get_ylabel() or (rows and len(ax.get_yticklabels()) >= 2))
    figure = ax.figure
    figure.canvas.draw()
    frame, content = figure.bbox, figure.get_tightbbox(figure.canvas.get_renderer())
    assert content.x0 * figure.dpi >= frame.x0 - 1 and content.x1 * figure.dpi <= frame.x1 + 1
    assert content.y0 * figure.dpi >= frame.y0 - 1 and content.y1 * figure.dpi <= frame.y1 + 1


@pytest.mark.parametrize("name", FIGURES)
def test_a_given_axes_is_used_and_returned(name):
    ax = plt.subplots(1, 2)[1][0]
    assert FIGURES[name](ax) is ax and len(plt.get_fignums()) == 1


def test_the_sheet_is_true_to_scale():
    for x, leads in ((ecg(), LEADS), (ecg(1), ["I"])):
        ax = ecg_paper.ecg_paper(x, 100, leads)
        ax.figure.canvas.draw()
        (x0, y0), (x1, y1) = ax.transData.transform([(0, 0), (25, 10)]) / ax.figure.dpi * 25.4
        assert (x1 - x0, y1 - y0) == (pytest.approx(25, rel=1e-6), pytest.approx(10, rel=1e-6))
    trace = max(ax.lines, key=lambda line: len(line.get_xdata()))
    wave, times = np.asarray(trace.get_ydata()), np.asarray(trace.get_xdata())
    assert np.ptp(wave) == pytest.approx(10) and times[100] - times[0] == pytest.approx(25)  # 1 mV, 1 s
    assert {text.get_text() for text in ax.texts} == {"I"}


def test_a_lead_with_the_voltage_of_its_electrodes_stays_on_the_sheet():
    """CPSC 2021 and QTDB lie 5 mV from zero; a shift of 1 mV may be the heart's and is drawn."""
    x = ecg(2)
    drawn = []
    for offset in (0.0, 1.0, 5.0):
        ax = ecg_paper.ecg_paper(x + np.array([[offset], [0.0]]), 100, ["I", "II"])
        heights = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == x.shape[1]]
        assert len(heights) == 2 and all(0 <= y.min() and y.max() <= ax.get_ylim()[1] for y in map(np.asarray, heights))
        zero = ecg_paper.zero_lines(x + np.array([[offset], [0.0]]), 100, ["I", "II"])
        drawn.append((heights[0] - zero[0]) / 10)
        plt.close(ax.figure)
    np.testing.assert_allclose(drawn[1] - drawn[0], 1, atol=1e-6)
    np.testing.assert_allclose(drawn[2], x[0] - np.median(x[0]), atol=1e-6)


def test_the_sheet_shows_consecutive_quarters_and_names_what_is_missing():
    x = np.repeat(np.arange(12.0)[:, None] / 10, 1000, axis=1)
    shuffled = np.random.default_rng(0).permutation(12)
    mask = np.array([LEADS[k] != "V3" for k in shuffled])
    ax = ecg_paper.ecg_paper(x[shuffled], 100, [LEADS[k] for k in shuffled], lead_mask=mask)
    words = [text.get_text() for text in ax.texts]
    assert sorted(words) == sorted([*LEADS, "II", "not recorded"])
    traces = [line for line in ax.lines if len(line.get_xdata()) == 250]
    starts = sorted({round(float(line.get_xdata()[0]), 1) for line in traces})
    assert starts == [12.5, 75.0, 137.5, 200.0] and len(traces) == 11
    level = [float(line.get_ydata()[0]) for line in traces]  # lead k lies at k / 10 mV: by name, not by position
    steps = [np.diff(row) for row in (level[:4], level[4:8], level[8:])]
    np.testing.assert_allclose(np.concatenate(steps), [3, 3, 3, 3, 3, 3, 3, 6], atol=1e-6)
    with pytest.raises(EcgError, match="do not fit"):
        ecg_paper.ecg_paper(x[:3], 100)
    with pytest.raises(EcgError, match="rhythm"):
        ecg_paper.ecg_paper(x, 100, rhythm="III?")


def test_intervals_are_drawn_as_given():
    ax = figures.label_efficiency(score_table())
    ends = np.concatenate([line.get_segments()[k] for c in ax.containers for line in c[2] for k in range(3)])
    table = score_table()
    np.testing.assert_allclose(np.sort(ends[:, 1]), np.sort([*table["low"], *table["high"]]))
    ax = cohort_figures.prevalence(states())
    hits = (states()["A"]["AFIB"] == 1).sum()
    segments = [segment for c in ax.containers for line in c[2] for segment in line.get_segments()]
    expected = 100 * np.array(metrics.wilson(hits, 200))
    assert any(np.allclose(segment[:, 0], expected) for segment in segments)
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "NORM, normal ECG",
        "AFIB, atrial fibrillation",
        "WPW, Wolff-Parkinson-White pattern",  # zero positives still shown
    ]
    assert len(segments) == 5


def test_differences_of_one_encoder_in_several_modes_have_different_names():
    once = difference_table()
    both = pd.concat([once, once.assign(mode="finetune")])
    names = [[text.get_text() for text in figures.paired_differences(t).get_yticklabels()] for t in (once, both)]
    assert names[0] == ["supervised \N{MINUS SIGN} random, 10 %", "supervised \N{MINUS SIGN} features, 10 %"]
    assert len(set(names[1])) == 4 and "supervised (finetune) \N{MINUS SIGN} random, 10 %" in names[1]
    rivals = pd.concat([once.head(1), once.head(1).assign(reference_mode="finetune")])
    names = {text.get_text() for text in figures.paired_differences(rivals).get_yticklabels()}
    assert names == {f"supervised \N{MINUS SIGN} random ({mode}), 10 %" for mode in ("linear", "finetune")}


def test_prevalence_says_what_its_bars_count():
    assert "records" in cohort_figures.prevalence(states()).get_xlabel().split("\n")[1]


def test_the_map_is_the_projection_on_the_principal_components():
    z, labels = embedding()
    ax = figures.embedding_map(z, labels)
    values, vectors = np.linalg.eigh(np.cov(z.T))
    drawn = np.concatenate([points.get_offsets() for points in ax.collections])
    expected = (z - z.mean(0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.sort(np.abs(drawn[:, 0])), np.sort(np.abs(expected[:, 0])), atol=1e-9)
    assert f"{100 * values[-1] / values.sum():.0f} %" in ax.get_xlabel()
    with pytest.raises(EcgError, match="finite"):
        figures.embedding_map(np.full((3, 4), np.nan), ["a", "b", "c"])


def test_what_must_not_be_mixed_is_refused():
    mixed = pd.concat([score_table(), score_table().assign(cohort="B")])
    with pytest.raises(EcgError, match="one cohort"):
        figures.label_efficiency(mixed)
    with pytest.raises(EcgError, match="nothing to draw"):
        figures.label_efficiency(score_table(), "f1")
    with pytest.raises(EcgError, match="one encoder"):
        figures.forest(pd.concat([external_table(), external_table().assign(encoder="random")]))
    many = pd.concat([score_table().assign(encoder=f"model {k}", mode="linear") for k in range(13)])
    with pytest.raises(EcgError, match="curves in one figure"):
        figures.label_efficiency(many.drop_duplicates(["encoder", "fraction"]))


def test_an_encoder_with_two_modes_gets_two_curves():
    table = pd.concat([score_table(), score_table().query("encoder == 'supervised'").assign(mode="finetune")])
    names = [text.get_text() for text in figures.label_efficiency(table).get_legend().get_texts()]
    assert sorted(names) == ["features", "random", "supervised, finetune", "supervised, linear"]


def seen(table, **other):
    """The table with a published checkpoint that has seen the corpus, or may have (`other`: encoder and note)."""
    more = table[table["encoder"] == "supervised"].assign(**({"encoder": "zoo:ecgfm", "note": "seen"} | other))
    return pd.concat([table.assign(note=""), more])


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


MARKED = {
    "efficiency": lambda: figures.label_efficiency(seen(score_table())),
    "differences": lambda: figures.paired_differences(seen(difference_table())),
    "forest": lambda: figures.forest(external_table().assign(encoder="zoo:ecgfm", note="seen")),
}


@pytest.mark.parametrize("name", MARKED)
def test_a_model_that_has_seen_the_corpus_is_marked_and_the_mark_explained(name, tmp_path):
    ax = MARKED[name]()
    rows = [text.get_text() for text in ax.get_yticklabels()]
    names = (
        rows if name == "differences" else legend(ax) if name != "forest" else [ax.get_legend().get_title().get_text()]
    )
    marked = [words for words in names if words.startswith("zoo:ecgfm †")]
    assert len(marked) == (2 if name == "differences" else 1)
    corpus = "the corpus at home" if name == "forest" else "this corpus"
    assert ax.figure.get_supxlabel() == f"† pretrained on recordings of {corpus}"
    assert FIGURES[name](None).figure.get_supxlabel() == ""
    pale = [bars[0] for bars in ax.containers if bars[0].get_color() == methods.MARKED]
    assert len(pale) == len(marked)
    assert name == "differences" or pale[0].get_markerfacecolor() == "white"  # there filled says p < 0.05
    ax.figure.canvas.draw()
    frame, content = ax.figure.bbox, ax.figure.get_tightbbox(ax.figure.canvas.get_renderer())
    assert content.x0 * ax.figure.dpi >= frame.x0 - 1 and content.x1 * ax.figure.dpi <= frame.x1 + 1
    assert content.y0 * ax.figure.dpi >= frame.y0 - 1 and content.y1 * ax.figure.dpi <= frame.y1 + 1
    files = [style.save(MARKED[name](), tmp_path / str(k), name, dpi=60)[0].read_bytes() for k in (0, 1)]
    assert files[0] == files[1]


def test_calibration_has_a_panel_per_method_on_the_same_axes_and_a_curve_per_cohort(tmp_path):
    away = curve_table().assign(cohort="B", split="external")
    table = pd.concat([curve_table(), away]).assign(note="")
    table = pd.concat([table, table.assign(encoder="clef"), table.assign(encoder="zoo:ecgfm", note="seen")])
    figure = figures.calibration(table)
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in panels] == ["clef", "supervised", "zoo:ecgfm †"]
    assert len({(*ax.get_xlim(), *ax.get_ylim()) for ax in panels}) == 1 and panels[0].get_xlim()[1] > 1
    assert "\n† pretrained on recordings of this corpus" in figure.get_supxlabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()][1:] == ["B", "as often as it says"]
    for ax, name in zip(panels, ("clef", "supervised", "zoo:ecgfm †"), strict=True):
        home, there = ax.containers
        np.testing.assert_allclose(home[0].get_xydata(), curve_table()[["probability", "frequency"]])
        ends = [segment[:, 1] for segment in home[2][0].get_segments()]
        np.testing.assert_allclose(ends, curve_table()[["low", "high"]])
        assert home[0].get_color() == methods.drawn(name)["colour"] and there[0].get_markerfacecolor() == "white"
    files = [style.save(figures.calibration(table), tmp_path / str(k), "x", dpi=60)[0].read_bytes() for k in (0, 1)]
    assert files[0] == files[1]


def test_differences_stand_in_blocks_with_the_largest_first():
    points = {"clef": 0.02, "mae": -0.01, "supervised": 0.1}
    table = pd.concat([difference_table().assign(encoder=name, point=point) for name, point in points.items()])
    ax = figures.paired_differences(table.assign(low=table.point - 0.01, high=table.point + 0.01))
    names = [text.get_text().split(" \N{MINUS SIGN} ") for text in ax.get_yticklabels()]
    assert [ours for ours, _ in names] == ["supervised", "clef", "mae"] * 2
    assert [theirs.split(",")[0] for _, theirs in names] == ["random"] * 3 + ["features"] * 3
    drawn = [float(bars[0].get_xdata()[0]) for bars in ax.containers]
    assert drawn == [0.1, 0.02, -0.01] * 2


def test_the_forest_spells_statements_out_and_its_mean_is_over_all_whatever_is_shown():
    whole, part = figures.forest(external_table()), figures.forest(external_table(), shown=["AFIB"])
    names = [[text.get_text() for text in ax.get_yticklabels()] for ax in (whole, part)]
    assert names[0][0] == "AFIB, atrial fibrillation  (40 | 40)" and names[0][-1] == names[1][-1] == "mean of 2"
    assert len(names[1]) == 2
    pixels = whole.transData.transform([(1.0, 0)])[0][0]
    assert whole.bbox.x1 - pixels > 1.6 / 72 * whole.figure.dpi  # a symbol at 1.0 is whole


def test_a_map_ends_at_percentiles_and_says_how_many_records_lie_outside():
    z = np.random.default_rng(0).normal(size=(400, 4))
    z[0] = 1000
    ax = figures.embedding_map(z, np.array(["NORM"] * 400))
    drawn = np.concatenate([dots.get_offsets() for dots in ax.collections])
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    inside = [left <= x <= right and bottom <= y <= top for x, y in drawn]
    assert right - left < 20 and 0.98 * 400 <= sum(inside) < 400
    assert f"{400 - sum(inside)} of 400 records lie outside" in ax.get_xlabel()


def test_a_marked_reference_a_head_and_many_long_names_are_told_apart():
    marked = seen(difference_table()).assign(reference="zoo:x", reference_note="unknown")
    names = [text.get_text() for text in figures.paired_differences(marked).get_yticklabels()]
    assert "zoo:ecgfm † \N{MINUS SIGN} zoo:x ‡ (linear), 10 %" in names
    head = seen(score_table(), encoder="zoo:ecgfounder", mode="head", note="")
    assert "zoo:ecgfounder, head" in legend(figures.label_efficiency(head))
    many = [seen(score_table(), encoder=f"zoo:a-very-long-name-{k}", note="") for k in range(5)]
    few, more = (figures.label_efficiency(pd.concat(t).drop_duplicates()) for t in (many[:1], many))
    assert more.figure.get_figheight() > few.figure.get_figheight()


def test_maps_show_every_record_at_its_components():
    rng = np.random.default_rng(0)
    z, labels = (
        {"a": rng.standard_normal((30, 8)), "b": rng.standard_normal((30, 4))},
        np.array(["AFIB", "", "LVH"] * 10),
    )
    figure = figures.embedding_maps(z, labels)
    for ax, (name, values) in zip(figure.axes, z.items(), strict=True):
        assert ax.get_title() == name and "% of variance" in ax.get_xlabel()
        drawn = np.concatenate([dots.get_offsets() for dots in ax.collections])
        u, s, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
        expected = (u[:, :2] * s[:2])[
            np.argsort(np.where(labels == "", 0, np.where(labels == "AFIB", 1, 2)), kind="stable")
        ]
        np.testing.assert_allclose(abs(drawn), abs(expected), atol=1e-9)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["other (10)", "AFIB (10)", "LVH (10)"]
