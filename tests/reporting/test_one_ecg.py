"""One ECG: calls at thresholds fixed on validation, the order of mistakes, sheets that overwrite nothing else."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_curve

from ecglib import EcgError
from ecglib.data.recording import LEADS, Recording
from ecglib.pipeline import cli
from ecglib.reporting import one_ecg, style


def predictions(n=60, seeds=(0, 1), seed=3):
    """Of two encoders on validation and test records of one cohort; every tenth truth is possible, another unknown."""
    random, rows = np.random.default_rng(seed), []
    for split in ("val", "test"):
        truth = {label: random.integers(0, 2, n) for label in ("AFIB", "NORM")}
        for states in truth.values():
            states[::10], states[5::10] = 2, -1
        for encoder in ("clef", "random"):
            for run in seeds:
                for label, states in truth.items():
                    for k in range(n):
                        p = np.clip(0.5 + 0.2 * (states[k] == 1) + random.normal(scale=0.2), 0.001, 0.999)
                        rows.append(
                            (f"{split}{k:03d}", f"p{k}", "A", split, label, states[k], p, encoder, "linear", 1.0, run)
                        )
    names = "record_id patient_id cohort split label truth probability encoder mode fraction seed".split()
    return pd.DataFrame(rows, columns=names)


def test_a_call_is_made_at_the_threshold_that_youden_finds_on_validation():
    table = predictions()
    said = one_ecg.calls(table, "A")
    assert len(said) == 2 * 60 * 2 * 2
    mean = table.groupby(["split", "encoder", "label", "record_id"]).probability.mean()
    for (encoder, label), rows in said.groupby(["encoder", "label"]):
        chosen = rows[(rows.split == "val") & rows.truth.isin([0, 1])]
        false_rate, hits, cuts = roc_curve(chosen.truth, chosen.probability, drop_intermediate=False)
        best = (hits - false_rate).max()
        assert rows.threshold.nunique() == 1
        cut = rows.threshold.iloc[0]
        assert cut == pytest.approx(cuts[np.flatnonzero(np.isclose(hits - false_rate, best))[0]])
        test = rows[rows.split == "test"].set_index("record_id")
        assert (test.call == (mean["test", encoder, label].reindex(test.index) >= cut)).all()


def test_the_order_of_the_mistakes_is_that_of_a_loop_over_the_records():
    said = one_ecg.calls(predictions(), "A")
    said = said[said.split == "test"]
    worst = {}
    for row in said[(said.encoder == "clef") & said.truth.isin([0, 1])].itertuples():
        loss = -np.log(row.probability if row.truth == 1 else 1 - row.probability)
        worst[row.record_id] = max(worst.get(row.record_id, (-1, "")), (loss, row.label))
    expected = sorted(worst, key=lambda name: -worst[name][0])
    ranking = one_ecg.ranked(said, "clef")
    assert list(ranking.record_id) == expected
    assert list(ranking.label) == [worst[name][1] for name in expected]
    assert np.allclose(ranking.loss, [worst[name][0] for name in expected])
    assert list(one_ecg.ranked(said, "clef", "sure").record_id) == expected[::-1]
    drawn = [list(one_ecg.ranked(said, "clef", "random", seed).record_id) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and sorted(drawn[0]) == sorted(expected)
    assert not {"test000", "test005"} & set(ranking.record_id)  # nothing is known of them


def test_the_verdict_shows_what_is_stated_or_called_and_nothing_else():
    said = one_ecg.calls(predictions(), "A")
    for name in ("test000", "test001", "test007", "test010"):
        rows = said[said.record_id == name]
        table = one_ecg.verdict(said, name, ["random", "clef"])
        assert list(table) == ["stated", "random", "clef"]
        expected = {row.label for row in rows.itertuples() if row.call or row.truth in (1, 2)}
        assert set(table.index) == {one_ecg.spelt_out(label) for label in expected}
        for row in rows[rows.label.isin(expected)].itertuples():
            text = table.loc[one_ecg.spelt_out(row.label), row.encoder]
            assert text.endswith("*") == row.call and int(text.split("\u00a0")[0]) == round(100 * row.probability)


def test_statements_are_spelt_out_and_unknown_ones_stay():
    assert one_ecg.spelt_out("AFIB") == "AFIB, atrial fibrillation"
    assert one_ecg.spelt_out("MI") == "MI, infarction"
    assert one_ecg.spelt_out("mine") == "mine"


def test_signposts_lead_to_the_neighbours():
    posts = [one_ecg.signpost(["a", "b", "c"], number) for number in range(3)]
    assert [post.count("](#") for post in posts] == [1, 2, 1]
    assert "(#ecg-1)" in posts[1] and "(#ecg-3)" in posts[1] and 'id="ecg-2"' in posts[1]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda said: one_ecg.ranked(said, "clef", "worst"), "wrong, sure, random"),
        (lambda said: one_ecg.ranked(said, "klef"), "did you mean 'clef'"),
        (lambda said: one_ecg.verdict(said, "nobody"), "nobody"),
        (lambda said: one_ecg.calls(predictions().query("split == 'test'"), "A"), "validation"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_ones(change, word):
    with pytest.raises(EcgError, match=word):
        change(one_ecg.calls(predictions(), "A"))


def recording(comments=(), seconds=12.0, fs=250.0, leads=LEADS) -> Recording:
    time = np.arange(int(seconds * fs)) / fs
    beat = np.exp(-(((time % 1.0 - 0.5) / 0.012) ** 2))  # 60/min
    signal = np.stack([(0.5 + 0.1 * k) * beat for k in range(len(leads))]).astype(np.float32)
    return Recording(signal, fs, tuple(leads), np.ones(len(leads), bool), "r$1", comments=tuple(comments))


@pytest.mark.parametrize("leads", [LEADS, ("MLII", "V5"), ("ECG",)])
@pytest.mark.parametrize("comments", [(), ("Age: 63", "costs $5 $x_"), ("word " * 200,)])
def test_a_sheet_carries_the_header_as_plain_text_inside_the_picture(tmp_path, leads, comments):
    style.use()  # a fixed salt, so that the same drawing gives the same bytes
    ax = one_ecg.sheet(recording(comments, leads=leads), start=2, seconds=5)
    title = ax.get_title(loc="left")
    assert title.startswith(r"r\$1: 2 to 7 s of 12 s, 250 Hz, 60/min")
    assert title.count("\n") <= 3 and all(line.replace("$", r"\$") in title for line in comments[:1] if len(line) < 99)
    path = one_ecg.write(ax, tmp_path / "sheet.svg")
    box = ax.title.get_window_extent() if ax.get_title() else ax._left_title.get_window_extent()
    assert box.y1 <= ax.figure.bbox.y1 + 1
    assert path.read_bytes() == one_ecg.write(ax, path).read_bytes()


def test_a_sheet_is_written_over_an_earlier_sheet_only(tmp_path):
    ax = one_ecg.sheet(recording())
    for kind in (".svg", ".pdf", ".png"):
        mine, theirs = tmp_path / f"mine{kind}", tmp_path / f"theirs{kind}"
        assert one_ecg.write(ax, one_ecg.write(ax, mine)) == mine
        theirs.write_bytes(b"a picture of somebody else")
        with pytest.raises(EcgError, match="not from this command"):
            one_ecg.write(ax, theirs)
        assert theirs.read_bytes() == b"a picture of somebody else"
    with pytest.raises(EcgError, match="svg"):
        one_ecg.write(ax, tmp_path / "sheet.docx")
    for start in (12, -1):
        with pytest.raises(EcgError, match="12 s"):
            one_ecg.sheet(recording(), start=start)


def test_view_draws_real_recordings_whatever_their_leads_are_called(real_data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for record, text in (
        ("ludb/data/132", "<age>: 71"),
        ("mitdb/100", "leads: MLII, V5"),
        ("cinc2017/training2017/A05598", "ECG"),
    ):
        assert cli.main(["view", str(real_data / record)]) == 0
        said = capsys.readouterr().out
        assert text in said and f"sheet: {record.split('/')[-1]}.svg" in said
    assert cli.main(["view", str(real_data / "mitdb/100"), "--lead", "MLI=II"]) == 2
    assert "did you mean 'MLII'" in capsys.readouterr().err
    assert cli.main(["view", str(real_data / "mitdb/100"), "--lead", "MLII=II", "--start", "1000"]) == 0
    assert "leads: II, V5" in capsys.readouterr().out
