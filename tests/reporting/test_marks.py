"""What is said beside a score: marks of models that may have seen the corpus, and rows that enter nothing."""

import numpy as np
import pandas as pd
import pytest
from test_tables import SKILL, place

from ecglib import EcgError
from ecglib.evaluation import predictions
from ecglib.evaluation.predictions import validation
from ecglib.reporting import marks, tables

ZOO = ("zoo:seen", "zoo:away", "zoo:home", "zoo:unknown", "zoo:dummy", "zoo:clean")
SAYS = {  # (encoder, cohort): note
    **{("zoo:seen", cohort): "seen" for cohort in "AB"},
    ("zoo:away", "B"): "seen",
    ("zoo:home", "A"): "seen",
    ("zoo:unknown", "B"): "unknown",
    **{("zoo:dummy", cohort): "dummy" for cohort in "AB"},
}


@pytest.fixture(scope="module")
def noted():
    """Baselines and six published checkpoints with all that can be said of them; the dummy is best of all."""
    with pytest.MonkeyPatch.context() as patch:
        for skill, encoder in enumerate(ZOO):
            patch.setitem(SKILL, (encoder, "linear"), 3.0 if encoder == "zoo:dummy" else 2 + 0.1 * skill)
        parts = [place("A", "test", 40), place("A", "val", 30), place("B", "external", 30)]
    table = pd.concat(parts, ignore_index=True)
    pairs = zip(table["encoder"], table["cohort"], strict=True)
    return table.assign(note=[SAYS.get(pair, "") for pair in pairs])


def written(table, folder):
    """The predictions as the stages leave them, below `folder`."""
    for encoder, part in table.groupby("encoder"):
        file = folder / f"twelve-{encoder.replace(':', '-')}/predictions.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(file)
    return folder


def test_notes_are_read_refused_and_missing_means_nothing_to_say(tmp_path, noted):
    file = tmp_path / "predictions.parquet"
    noted.to_parquet(file)
    read = predictions.load(file)
    assert set(read["note"]) == set(predictions.NOTES) and len(read) == len(noted)
    noted.drop(columns="note").to_parquet(file)
    assert set(predictions.load(file)["note"]) == {""}
    for wrong in ("contaminated", None):
        noted.assign(note=noted["note"].replace("unknown", wrong)).to_parquet(file)
        with pytest.raises(EcgError, match="unknown notes") as caught:
            predictions.load(file)
        assert (caught.value.file, caught.value.field) == (str(file), "note")
    torn = (noted["encoder"] == "zoo:seen") & (noted["cohort"] == "A") & (noted["split"] == "val")
    noted.assign(note=noted["note"].mask(torn, "")).to_parquet(file)
    with pytest.raises(EcgError, match="zoo:seen, linear, A has several notes"):
        predictions.load(file)


def test_dummy_weights_enter_nothing_that_is_claimed_and_are_named(tmp_path, noted):
    probes = written(noted, tmp_path)
    read = predictions.of_task(probes, "twelve")
    assert set(read["encoder"]) == {*(name for name, _ in SKILL), *ZOO} - {"zoo:dummy"}
    left_out = tables.left_out(probes, "twelve")
    assert left_out.to_dict("records") == [{"encoder": "zoo:dummy", "mode": "linear", "why": marks.NO_WEIGHTS}]
    words = "Left out of the tables and figures: zoo:dummy, linear (dummy weights, whose values mean nothing)."
    assert marks.sentence(left_out) == words
    none = tables.left_out(probes, "twelve", ["random", "scratch"])
    assert none.empty and marks.sentence(none) == "No model is left out of the tables and figures."
    scores, gaps = tables.scores(noted, n=20), tables.differences(noted, n=20)  # handed over as they are, too
    for table in (scores, gaps, tables.external(noted, names=("auroc",), n=20), tables.calibration(noted)):
        assert "zoo:clean" in set(table["encoder"]) and "zoo:dummy" not in table.to_string()
    assert not tables.result_table(scores, gaps)["encoder"].str.contains("dummy").any()
    assert "dummy" not in tables.contract(noted).to_string() and tables.contract(noted)["n_models"].max() == 18
    assert len(validation(noted[noted["encoder"] == "zoo:dummy"])) == 4  # a look while one works is no claim


def test_every_table_says_who_may_have_seen_the_corpus(noted):
    tested = noted[noted["split"] != "val"]
    scores, gaps = tables.scores(tested, n=20), tables.differences(tested, n=20)
    for table in (scores, gaps, tables.calibration(tested)):
        said = table.groupby(["encoder", "cohort"])["note"].unique().str.join("").to_dict()
        assert {pair: note for pair, note in said.items() if note} == {k: v for k, v in SAYS.items() if v != "dummy"}
    text = tables.result_table(scores, gaps)
    names = {cohort: set(rows["encoder"]) - {name for name, _ in SKILL} for cohort, rows in text.groupby("cohort")}
    assert names["A"] == {"zoo:seen †", "zoo:away", "zoo:home †", "zoo:unknown", "zoo:clean"}
    assert names["B"] == {"zoo:seen †", "zoo:away †", "zoo:home", "zoo:unknown ‡", "zoo:clean"}
    contract = tables.contract(noted).set_index(["cohort", "split"])["note"]
    assert contract[("A", "test")] == "zoo:home †, zoo:seen †"
    assert contract[("B", "external")] == "zoo:away †, zoo:seen †, zoo:unknown ‡"
    home = noted[(noted["cohort"] == "A") & (noted["split"] == "test")]
    against = tables.differences(home, ("zoo:seen",), n=20)
    cells = tables.result_table(tables.scores(home, n=20), against, references=("zoo:seen",))["AUROC - zoo:seen"]
    assert set(cells.str[-1]) == {"†", "-"} and set(against["reference_note"]) == {"seen"}


def test_the_legend_stands_only_where_the_mark_stands():
    assert marks.footnote(["random", "zoo:clean"]) == "" == marks.footnote("")
    assert marks.footnote(["zoo:seen †"]) == "† pretrained on recordings of this corpus"
    both = marks.footnote("zoo:x ‡, zoo:seen †", marks.HOME, "\n").splitlines()
    assert both[0] == "† pretrained on recordings of the corpus at home" and both[1].startswith("‡ not known whether")
    table = pd.DataFrame({"encoder": ["a", "b", "c"], "note": ["seen", np.nan, ""]})  # a CSV gives NaN for ""
    assert marks.marked(table) == ["a †", "b", "c"] and marks.marked(table[["encoder"]]) == ["a", "b", "c"]


def test_a_hospital_that_a_model_has_seen_is_not_external_to_it(noted):
    table = tables.external(noted, names=("auroc",), n=20)
    theirs = table[table["encoder"].str.startswith("zoo:")].groupby("encoder")["note"].unique().str.join("").to_dict()
    assert theirs == {"zoo:clean": "", "zoo:home": "seen"}
    left_out = tables.not_external(noted)
    assert dict(zip(left_out["encoder"], left_out["why"], strict=True)) == {
        "zoo:away": "pretrained on recordings of this corpus",
        "zoo:seen": "pretrained on recordings of this corpus",
        "zoo:unknown": "not known whether it was pretrained on this corpus",
    }
    assert "zoo:away, linear in B (pretrained" in marks.sentence(left_out, "the summary")
    elsewhere = tables.not_external(noted, ("B", "external"))
    assert set(elsewhere["encoder"]) == {"zoo:home", "zoo:seen"} and set(elsewhere["cohort"]) == {"A"}


def test_who_may_have_seen_any_of_the_corpora_leads_nothing(noted):
    assert tables.leaders(noted) == ["zoo:clean", "supervised"]
    assert tables.leaders(noted.assign(note=""))[0] == "zoo:dummy"


def test_tests_of_marked_models_stay_in_their_family(noted):
    home = noted[(noted["cohort"] == "A") & (noted["split"] == "test")]
    pd.testing.assert_series_equal(
        tables.differences(home[home["encoder"] != "zoo:dummy"].assign(note=""), n=50)["p_holm"],
        tables.differences(home, n=50)["p_holm"],
    )
