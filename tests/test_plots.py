"""Figures: same drawing same bytes, labelled axes, intervals as given, the clinical sheet true to scale."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ecglib import look, metrics, plots
from ecglib.signals import LEADS, EcgError


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
    "paper": lambda ax: plots.ecg_paper(ecg(), 100, lead_mask=np.arange(12) != 8, title="one", ax=ax),
    "strip": lambda ax: plots.ecg_paper(ecg(1), 100, ["I"], ax=ax),
    "prevalence": lambda ax: plots.prevalence(states(), ax=ax),
    "training": lambda ax: plots.training_curves(history(), ax=ax),
    "validation": lambda ax: plots.training_curves(history(), "val_loss", ax=ax),
    "efficiency": lambda ax: plots.label_efficiency(score_table(), ax=ax),
    "forest": lambda ax: plots.forest(external_table(), ax=ax),
    "differences": lambda ax: plots.paired_differences(difference_table(), ax=ax),
    "calibration": lambda ax: plots.calibration(curve_table(), ax=ax),
    "map": lambda ax: plots.embedding_map(*embedding(), ax=ax),
}


@pytest.mark.parametrize("name", FIGURES)
def test_drawn_twice_the_bytes_are_the_same(name, tmp_path, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    files = [plots.save(FIGURES[name](None), tmp_path / str(k), name, dpi=60) for k in (0, 1)]
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
        ax = plots.ecg_paper(x, 100, leads)
        ax.figure.canvas.draw()
        (x0, y0), (x1, y1) = ax.transData.transform([(0, 0), (25, 10)]) / ax.figure.dpi * 25.4
        assert (x1 - x0, y1 - y0) == (pytest.approx(25, rel=1e-6), pytest.approx(10, rel=1e-6))
    trace = max(ax.lines, key=lambda line: len(line.get_xdata()))
    wave, times = np.asarray(trace.get_ydata()), np.asarray(trace.get_xdata())
    assert np.ptp(wave) == pytest.approx(10) and times[100] - times[0] == pytest.approx(25)  # 1 mV, 1 s
    assert {text.get_text() for text in ax.texts} == {"I"}


def test_the_sheet_shows_consecutive_quarters_and_names_what_is_missing():
    x = np.repeat(np.arange(12.0)[:, None] / 10, 1000, axis=1)
    shuffled = np.random.default_rng(0).permutation(12)
    mask = np.array([LEADS[k] != "V3" for k in shuffled])
    ax = plots.ecg_paper(x[shuffled], 100, [LEADS[k] for k in shuffled], lead_mask=mask)
    words = [text.get_text() for text in ax.texts]
    assert sorted(words) == sorted([*LEADS, "II", "not recorded"])
    traces = [line for line in ax.lines if len(line.get_xdata()) == 250]
    starts = sorted({round(float(line.get_xdata()[0]), 1) for line in traces})
    assert starts == [12.5, 75.0, 137.5, 200.0] and len(traces) == 11
    level = [float(line.get_ydata()[0]) for line in traces]  # lead k lies at k / 10 mV: by name, not by position
    steps = [np.diff(row) for row in (level[:4], level[4:8], level[8:])]
    np.testing.assert_allclose(np.concatenate(steps), [3, 3, 3, 3, 3, 3, 3, 6], atol=1e-6)
    with pytest.raises(EcgError, match="do not fit"):
        plots.ecg_paper(x[:3], 100)
    with pytest.raises(EcgError, match="rhythm"):
        plots.ecg_paper(x, 100, rhythm="III?")


def test_intervals_are_drawn_as_given():
    ax = plots.label_efficiency(score_table())
    ends = np.concatenate([line.get_segments()[k] for c in ax.containers for line in c[2] for k in range(3)])
    table = score_table()
    np.testing.assert_allclose(np.sort(ends[:, 1]), np.sort([*table["low"], *table["high"]]))
    ax = plots.prevalence(states())
    hits = (states()["A"]["AFIB"] == 1).sum()
    segments = [segment for c in ax.containers for line in c[2] for segment in line.get_segments()]
    expected = 100 * np.array(metrics.wilson(hits, 200))
    assert any(np.allclose(segment[:, 0], expected) for segment in segments)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["NORM", "AFIB", "WPW"]  # zero positives still shown
    assert len(segments) == 5


def test_differences_of_one_encoder_in_several_modes_have_different_names():
    once = difference_table()
    both = pd.concat([once, once.assign(mode="finetune")])
    names = [[text.get_text() for text in plots.paired_differences(t).get_yticklabels()] for t in (once, both)]
    assert names[0] == ["supervised \N{MINUS SIGN} random, 10 %", "supervised \N{MINUS SIGN} features, 10 %"]
    assert len(set(names[1])) == 4 and "supervised (finetune) \N{MINUS SIGN} random, 10 %" in names[1]
    rivals = pd.concat([once.head(1), once.head(1).assign(reference_mode="finetune")])
    names = {text.get_text() for text in plots.paired_differences(rivals).get_yticklabels()}
    assert names == {f"supervised \N{MINUS SIGN} random ({mode}), 10 %" for mode in ("linear", "finetune")}


def test_prevalence_says_what_its_bars_count():
    assert "records" in plots.prevalence(states()).get_xlabel().split("\n")[1]


def test_the_map_is_the_projection_on_the_principal_components():
    z, labels = embedding()
    ax = plots.embedding_map(z, labels)
    values, vectors = np.linalg.eigh(np.cov(z.T))
    drawn = np.concatenate([points.get_offsets() for points in ax.collections])
    expected = (z - z.mean(0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.sort(np.abs(drawn[:, 0])), np.sort(np.abs(expected[:, 0])), atol=1e-9)
    assert f"{100 * values[-1] / values.sum():.0f} %" in ax.get_xlabel()
    given = plots.embedding_map(z[:, :2], labels, coordinates=True).collections[0].get_offsets()
    np.testing.assert_allclose(given, z[labels == ""][:, :2])
    with pytest.raises(EcgError, match="finite"):
        plots.embedding_map(np.full((3, 4), np.nan), ["a", "b", "c"])


def test_what_must_not_be_mixed_is_refused():
    mixed = pd.concat([score_table(), score_table().assign(cohort="B")])
    with pytest.raises(EcgError, match="one cohort"):
        plots.label_efficiency(mixed)
    with pytest.raises(EcgError, match="nothing to draw"):
        plots.label_efficiency(score_table(), "f1")
    with pytest.raises(EcgError, match="one encoder"):
        plots.forest(pd.concat([external_table(), external_table().assign(encoder="random")]))
    with pytest.raises(EcgError, match="lacks"):
        plots.training_curves(history(), "accuracy")
    with pytest.raises(EcgError, match="curves in one figure"):
        plots.training_curves({str(k): history()["supervised"] for k in range(9)})


def test_an_encoder_with_two_modes_gets_two_curves():
    table = pd.concat([score_table(), score_table().query("encoder == 'supervised'").assign(mode="finetune")])
    names = [text.get_text() for text in plots.label_efficiency(table).get_legend().get_texts()]
    assert sorted(names) == ["features", "random", "supervised, finetune", "supervised, linear"]


def seen(table, **other):
    """The table with a published checkpoint that has seen the corpus, or may have (`other`: encoder and note)."""
    more = table[table["encoder"] == "supervised"].assign(**({"encoder": "zoo:ecgfm", "note": "seen"} | other))
    return pd.concat([table.assign(note=""), more])


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


MARKED = {
    "efficiency": lambda: plots.label_efficiency(seen(score_table())),
    "differences": lambda: plots.paired_differences(seen(difference_table())),
    "calibration": lambda: plots.calibration(seen(curve_table())),
    "forest": lambda: plots.forest(external_table().assign(encoder="zoo:ecgfm", note="seen")),
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
    pale = [bars[0] for bars in ax.containers if bars[0].get_color() == look.PALED]
    assert len(pale) == len(marked)
    assert name == "differences" or pale[0].get_markerfacecolor() == "white"  # there filled says p < 0.05
    ax.figure.canvas.draw()
    frame, content = ax.figure.bbox, ax.figure.get_tightbbox(ax.figure.canvas.get_renderer())
    assert content.x0 * ax.figure.dpi >= frame.x0 - 1 and content.x1 * ax.figure.dpi <= frame.x1 + 1
    assert content.y0 * ax.figure.dpi >= frame.y0 - 1 and content.y1 * ax.figure.dpi <= frame.y1 + 1
    files = [plots.save(MARKED[name](), tmp_path / str(k), name, dpi=60)[0].read_bytes() for k in (0, 1)]
    assert files[0] == files[1]


def test_panels_side_by_side_share_one_legend_of_the_marks():
    figure, axes = plt.subplots(1, 2, layout="constrained")
    height = figure.get_figheight()
    plots.calibration(curve_table(), ax=axes[0])
    assert (figure.get_supxlabel(), figure.get_figheight()) == ("", height)
    for k, note in enumerate(("seen", "unknown")):
        plots.calibration(seen(curve_table(), note=note), ax=axes[k])
    assert [line[0] for line in figure.get_supxlabel().splitlines()] == ["†", "‡"]
    plots.calibration(seen(curve_table()), ax=axes[1])
    assert len(figure.get_supxlabel().splitlines()) == 2 and figure.get_figheight() > height


def test_a_marked_reference_a_head_and_many_long_names_are_told_apart():
    marked = seen(difference_table()).assign(reference="zoo:x", reference_note="unknown")
    names = [text.get_text() for text in plots.paired_differences(marked).get_yticklabels()]
    assert "zoo:ecgfm † \N{MINUS SIGN} zoo:x ‡ (linear), 10 %" in names
    head = seen(curve_table(), encoder="zoo:ecgfounder", mode="head", note="")
    assert legend(plots.calibration(head)) == ["supervised", "zoo:ecgfounder, head"]
    many = [seen(score_table(), encoder=f"zoo:a-very-long-name-{k}", note="") for k in range(5)]
    few, more = (plots.label_efficiency(pd.concat(t).drop_duplicates()) for t in (many[:1], many))
    assert more.figure.get_figheight() > few.figure.get_figheight()
