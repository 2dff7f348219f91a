"""Reports read as labels: sentences of every rule, the list of sentences of the specification where it is there."""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecglib.data import reports
from ecglib.data.labels import ABSENT, POSSIBLE, PRESENT, STATES, UNKNOWN, label_set, vocabulary

SPECIFIED = Path(__file__).resolve().parents[3] / "shared/labels/report_labeler_tests.csv"
NAMES = {PRESENT: "+", ABSENT: "-", POSSIBLE: "?"}
# A sentence, and all that it says: + present, - absent, ? possible. Labels that follow by definition are in the list.
SENTENCES = {
    # denial and its reach
    "No atrial flutter, RBBB present.": "atrial_flutter- rbbb+",
    "No LVH, left atrial enlargement, or RBBB.": "lvh- left_atrial_enlargement- rbbb- bifascicular_block-",
    "There is no evidence of acute myocardial infarction": "",
    "No infarct.": "mi_any- mi_inferior- mi_anterior_any- mi_lateral-",
    "No inferior infarct. Old anterior infarct.": "mi_inferior- mi_any+ mi_anterior_any+",
    "Without atrial fibrillation; premature ventricular contractions.": "atrial_fibrillation- pvc+ premature_any+",
    "ST elevation and ST depression are absent": "st_elevation- st_depression-",
    "No AV block": "av_block_any- av_block_1- av_block_2- av_block_3-",
    "No AV block but left bundle branch block": "av_block_any- av_block_1- av_block_2- av_block_3- lbbb+",
    "WPW is ruled out": "wpw-",
    # doubt and its reach
    "Probable LVH and left atrial enlargement": "lvh? lvh_or_voltage? left_atrial_enlargement?",
    "Possible inferior infarct and sinus bradycardia": (
        "mi_inferior? mi_any? sinus_bradycardia? sinus_rhythm_any?"  # an "and" carries doubt on
    ),
    "Possible inferior infarct; sinus bradycardia": "mi_inferior? mi_any? sinus_bradycardia+ sinus_rhythm_any+",
    "WPW cannot be excluded": "wpw?",
    "Rule out right bundle branch block.": "rbbb?",
    "Q waves in V1 and V2 suggesting old anteroseptal infarct": "q_wave_abnormal+ mi_anterior_any? mi_any?",
    "PVCs or PACs": "pvc? pac? premature_any?",
    "ST depression due to digitalis": "st_depression+",
    # what does not follow
    "Sinus tachycardia; left bundle branch block": "sinus_tachycardia+ sinus_rhythm_any+ lbbb+",
    "Third-degree AV block": "av_block_3+ av_block_any+",
    "Incomplete RBBB": "rbbb_incomplete+",
    "Incomplete left bundle branch block": "lbbb_incomplete+",
    "Old inferior infarct": "mi_inferior+ mi_any+",
    "Wolff-Parkinson-White": "wpw+",
    "Atrial fibrillation with rapid ventricular response": "atrial_fibrillation+ af_or_flutter+",
    "Sinus rhythm. Marked sinus arrhythmia.": "sinus_arrhythmia+ sinus_rhythm_any+",
    "Lateral ischemia": "",
    "T wave inversion laterally": "t_wave_inversion+ t_wave_abnormal+",
    "Infarct, inferior": "mi_inferior+ mi_any+",
    "Inferior ischemia and lateral infarct": "mi_lateral+ mi_any+",
    "PR interval is normal": "av_block_1-",
    "LVH by voltage": "lvh_voltage+ lvh_or_voltage+",
    # other tracings and questions
    "Clinical question: AF? Sinus rhythm.": "sinus_rhythm+ sinus_rhythm_any+",
    "RBBB has been replaced by LBBB": "rbbb- bifascicular_block- lbbb+",
    "LBBB was present previously. Sinus rhythm.": "sinus_rhythm+ sinus_rhythm_any+",
    "Compared with the previous tracing of 1.2.1991, first degree AV block is new.": "av_block_1+ av_block_any+",
    "Edit: LVH 100": "",
    # German, with umlauts in every spelling, and without punctuation
    "sinusrhythmus ueberdrehter linkstyp": ("sinus_rhythm+ sinus_rhythm_any+ left_axis_deviation+"),
    "kein Vorhofflimmern": "atrial_fibrillation-",
    "unvollstÄndiger rechtsschenkelblock": "rbbb_incomplete+",
    "mäßige Amplitudenkriterien f#r Linkshypertrophie": "lvh_voltage+ lvh_or_voltage+",
    "inferiorer infarkt möglich linksschenkelblock": "mi_inferior? mi_any? lbbb+",
    "lateraler infarkt wahrscheinlich alt": "mi_lateral+ mi_any+",
    "anteriorer infarkt mögl. akut": "mi_anterior_any+ mi_any+",
    "wahrscheinlich inferiore ischämie oder linksbelastung linksschenkelblock": "lbbb+",
    "A-V Block I": "av_block_1+ av_block_any+",
    "AV-Block II. Grades": "av_block_2+ av_block_any+",
    "ventrikuläre Extrasystole(n), Bigeminus": "pvc+ bigeminy+ premature_any+",
    "ST-Senkung V4-V6, ohne ST-Hebung": "st_depression+ st_elevation-",
    "V. a. Rechtshypertrophie": "rvh?",
    "Steiltyp": "left_axis_deviation- right_axis_deviation-",
    # Swedish
    "förmaksfladder": "atrial_flutter+ af_or_flutter+",
    "ventrikulär(a) extrasystoli(er) sinusrytm": "pvc+ premature_any+ sinus_rhythm+ sinus_rhythm_any+",
    "extrem vänster el-axel": "left_axis_deviation+",
    "inkomplett högersidigt skänkelblock": "rbbb_incomplete+",
    "ingen ST-sänkning": "st_depression-",
    "t-förändring, såsom vid anterior myokardaffektion": "t_wave_abnormal+",
    "": "",
}


@pytest.mark.parametrize(("sentence", "meaning"), SENTENCES.items())
def test_a_sentence_says_this_and_nothing_else(sentence, meaning):
    states = reports.read(sentence).states
    assert {f"{name}{NAMES[state]}" for name, state in states.items()} == set(meaning.split())


def test_all_sentences_of_the_specification():
    if not SPECIFIED.is_file():
        pytest.skip("the list of sentences is not there")
    wrong, rows = [], list(csv.DictReader(SPECIFIED.open(encoding="utf-8")))
    for row in rows:
        found = reports.read(row["sentence"]).states
        required = {name: STATES[state] for name, state in (e.split("=") for e in row["expected"].split(";") if e)}
        forbidden = [name for name in row["must_not_be_present"].split("|") if name]
        wrong += [(row["id"], name) for name, state in required.items() if found.get(name) != state]
        doubts = {name for name, state in required.items() if state == POSSIBLE}
        wrong += [(row["id"], n) for n in forbidden if found.get(n) == PRESENT]
        wrong += [(row["id"], n) for n in forbidden if found.get(n) == POSSIBLE and n not in doubts]
    assert len(rows) == 75 and wrong == []


def test_the_same_grading_with_and_without_an_unrelated_connective():
    alone, beside = (
        reports.read(t).states for t in ("Possible inferior infarct.", "LBBB with PVCs. Possible inferior infarct.")
    )
    assert alone["mi_inferior"] == beside["mi_inferior"] == POSSIBLE
    assert alone["mi_any"] == beside["mi_any"] == POSSIBLE


def test_present_wins_over_possible_over_absent_and_a_conflict_is_told():
    reading = reports.read("No PVCs. PVCs. Possible RBBB. No RBBB.")
    assert reading.states["pvc"] == PRESENT and reading.states["rbbb"] == POSSIBLE
    assert reading.conflicts == ("pvc",)


def test_a_table_of_reports():
    table = reports.read_all(pd.Series(["Sinus rhythm xyzzy.", None, "no RBBB"], index=["a", "b", "c"]))
    assert list(table) == list(label_set("harmonised")) and table.dtypes.eq(np.int8).all()
    assert table.loc["a", "sinus_rhythm"] == PRESENT and table.loc["c", "rbbb"] == ABSENT
    assert (table.loc["b"] == UNKNOWN).all() and (table != UNKNOWN).sum().sum() == 4
    reading = table.attrs["reading"]
    assert reading["n_reports"] == 3 and reading["n_silent"] == 1 and reading["unread"] == {"xyzzy": 1}
    assert reading["read"] == pytest.approx(4 / 5) and reading["words"] == 5 and reading["conflicts"] == {}


def test_every_rule_of_the_table_names_labels_that_exist_and_says_something():
    table, keys = vocabulary("reports"), set(label_set("harmonised"))
    kinds = {"finding", "infarct", "place", "age", "joint", "history", "past", "request", "text"}
    kinds |= {"not_before", "not_after", "doubt_before", "doubt_after", "doubt"}
    assert set(table.kind) == kinds
    for row in table[table.kind.isin(["finding", "place"])].itertuples():
        named = [part.partition("=") for part in row.meaning.split(";") if part]
        assert {name for name, _, _ in named} <= keys and {s for _, _, s in named} <= {"", "absent", "possible"}
    missing = keys - {p.partition("=")[0] for cell in table.meaning for p in cell.split(";")}
    assert missing == {"mi_any", "lvh_or_voltage", "sinus_rhythm_any"}, "they follow from others"


def test_patterns_match_no_empty_text_and_are_written_as_reports_are_normalised():
    for pattern in vocabulary("reports").pattern:
        assert not re.fullmatch(pattern, ""), pattern
        assert not re.search("[A-ZÄÖÜäöüåß]", pattern.replace(r"\W", "")), pattern


@pytest.mark.parametrize(
    "text", ["." * 50, "no " * 40, "(((", "v1, " * 60, "Ä#ß¿½", "possible or or or and but", "\n\n"]
)
def test_text_without_sense_says_nothing(text):
    assert reports.read(text).states == {}
