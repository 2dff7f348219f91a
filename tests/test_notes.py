"""What is said beside a score: marks of models that may have seen the corpus, and rows that enter nothing."""

import numpy as np
import pandas as pd
import pytest
from test_report import SKILL, place

from ecglib import notes, report
from ecglib.predictions import validation
from ecglib.signals import EcgError

ZOO = ("zoo:seen", "zoo:away", "zoo:home", "zoo:unknown", "zoo:recipe", "zoo:clean")
SAYS = {  # (encoder, cohort): note
    **{("zoo:seen", cohort): "seen" for cohort in "AB"},
    ("zoo:away", "B"): "seen",
    ("zoo:home", "A"): "seen",
    ("zoo:unknown", "B"): "unknown",
    **{("zoo:recipe", cohort): "recipe" for cohort in "AB"},
}


@pytest.fixture(scope="module")
def noted():
    """Baselines and six published checkpoints with all that can be said of them; the recipe is best of all."""
    with pytest.MonkeyPatch.context() as patch:
        for skill, encoder in enumerate(ZOO):
            patch.setitem(SKILL, (encoder, "linear"), 3.0 if encoder == "zoo:recipe" else 2 + 0.1 * skill)
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
    read = report.load(file)
    assert set(read["note"]) == set(notes.KNOWN) and len(read) == len(noted)
    noted.drop(columns="note").to_parquet(file)
    assert set(report.load(file)["note"]) == {""}
    for wrong in ("contaminated", None):
        noted.assign(note=noted["note"].replace("unknown", wrong)).to_parquet(file)
        with pytest.raises(EcgError, match="unknown notes") as caught:
            report.load(file)
        assert (caught.value.file, caught.value.field) == (str(file), "note")
    torn = (noted["encoder"] == "zoo:seen") & (noted["cohort"] == "A") & (noted["split"] == "val")
    noted.assign(note=noted["note"].mask(torn, "")).to_parquet(file)
    with pytest.raises(EcgError, match="zoo:seen, linear, A has several notes"):
        report.load(file)


def test_recipe_weights_enter_nothing_that_is_claimed_and_are_named(tmp_path, noted):
    probes = written(noted, tmp_path)
    read = report.of_task(probes, "twelve")
    assert set(read["encoder"]) == {*(name for name, _ in SKILL), *ZOO} - {"zoo:recipe"}
    left_out = report.left_out(probes, "twelve")
    assert left_out.to_dict("records") == [{"encoder": "zoo:recipe", "mode": "linear", "why": notes.NO_WEIGHTS}]
    words = "Left out of the tables and figures: zoo:recipe, linear (recipe weights, whose values mean nothing)."
    assert notes.sentence(left_out) == words
    none = report.left_out(probes, "twelve", "random,scratch")
    assert none.empty and notes.sentence(none) == "No model is left out of the tables and figures."
    scores, gaps = report.scores(noted, n=20), report.differences(noted, n=20)  # handed over as they are, too
    for table in (scores, gaps, report.external(noted, names=("auroc",), n=20), report.calibration(noted)):
        assert "zoo:clean" in set(table["encoder"]) and "zoo:recipe" not in table.to_string()
    assert not report.result_table(scores, gaps)["encoder"].str.contains("recipe").any()
    assert "recipe" not in report.contract(noted).to_string() and report.contract(noted)["n_models"].max() == 18
    assert len(validation(noted[noted["encoder"] == "zoo:recipe"])) == 4  # a look while one works is no claim


def test_every_table_says_who_may_have_seen_the_corpus(noted):
    tested = noted[noted["split"] != "val"]
    drops = report.external(noted, names=("auroc",), n=20)
    scores, gaps = report.scores(tested, n=20), report.differences(tested, n=20)
    for table in (scores, gaps, report.calibration(tested)):
        said = table.groupby(["encoder", "cohort"])["note"].unique().str.join("").to_dict()
        assert {pair: note for pair, note in said.items() if note} == {k: v for k, v in SAYS.items() if v != "recipe"}
    text = report.result_table(scores, gaps, drops)
    names = {cohort: set(rows["encoder"]) - {name for name, _ in SKILL} for cohort, rows in text.groupby("cohort")}
    assert names["A"] == {"zoo:seen †", "zoo:away", "zoo:home †", "zoo:unknown", "zoo:clean"}
    assert names["B"] == {"zoo:seen †", "zoo:away †", "zoo:home", "zoo:unknown ‡", "zoo:clean"}
    contract = report.contract(noted).set_index(["cohort", "split"])["note"]
    assert contract[("A", "test")] == "zoo:home †, zoo:seen †"
    assert contract[("B", "external")] == "zoo:away †, zoo:seen †, zoo:unknown ‡"
    drop = text.set_index(["cohort", "encoder"])["AUROC - at home"]
    assert drop[("B", "zoo:home")].endswith(") †") and drop[("B", "zoo:clean")].endswith(")")
    assert drop[("B", "zoo:seen †")] == "-"
    home = noted[(noted["cohort"] == "A") & (noted["split"] == "test")]
    against = report.differences(home, ("zoo:seen",), n=20)
    cells = report.result_table(report.scores(home, n=20), against, references=("zoo:seen",))["AUROC - zoo:seen"]
    assert set(cells.str[-1]) == {"†", "-"} and set(against["reference_note"]) == {"seen"}


def test_the_legend_stands_only_where_the_mark_stands():
    assert notes.footnote(["random", "zoo:clean"]) == "" == notes.footnote("")
    assert notes.footnote(["zoo:seen †"]) == "† pretrained on recordings of this corpus"
    both = notes.footnote("zoo:x ‡, zoo:seen †", notes.HOME, "\n").splitlines()
    assert both[0] == "† pretrained on recordings of the corpus at home" and both[1].startswith("‡ not known whether")
    table = pd.DataFrame({"encoder": ["a", "b", "c"], "note": ["seen", np.nan, ""]})  # a CSV gives NaN for ""
    assert notes.marked(table) == ["a †", "b", "c"] and notes.marked(table[["encoder"]]) == ["a", "b", "c"]


def test_a_hospital_that_a_model_has_seen_is_not_external_to_it(noted):
    table = report.external(noted, names=("auroc",), n=20)
    theirs = table[table["encoder"].str.startswith("zoo:")].groupby("encoder")["note"].unique().str.join("").to_dict()
    assert theirs == {"zoo:clean": "", "zoo:home": "seen"}
    left_out = report.not_external(noted)
    assert dict(zip(left_out["encoder"], left_out["why"], strict=True)) == {
        "zoo:away": "pretrained on recordings of this corpus",
        "zoo:seen": "pretrained on recordings of this corpus",
        "zoo:unknown": "not known whether it was pretrained on this corpus",
    }
    assert "zoo:away, linear in B (pretrained" in notes.sentence(left_out, "the summary")
    elsewhere = report.not_external(noted, ("B", "external"))
    assert set(elsewhere["encoder"]) == {"zoo:home", "zoo:seen"} and set(elsewhere["cohort"]) == {"A"}


def test_who_may_have_seen_any_of_the_corpora_leads_nothing(noted):
    assert report.leaders(noted) == ["zoo:clean", "supervised"]
    assert report.leaders(noted.assign(note=""))[0] == "zoo:recipe"


def test_tests_of_marked_models_stay_in_their_family(noted):
    home = noted[(noted["cohort"] == "A") & (noted["split"] == "test")]
    pd.testing.assert_series_equal(
        report.differences(home[home["encoder"] != "zoo:recipe"].assign(note=""), n=50)["p_holm"],
        report.differences(home, n=50)["p_holm"],
    )
