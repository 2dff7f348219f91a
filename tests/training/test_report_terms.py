"""The glossary itself, the terms found in reports, and the enriched report."""

import re

import pytest
from report_parser import parsed

from ecglib.data.labels import vocabulary
from ecglib.training import report_terms
from ecgsim import reports


@pytest.fixture(scope="module")
def table():
    return vocabulary("glossary")


def found(statement):
    return [(t.name, t.denied) for t in report_terms.terms(statement)]


def test_the_glossary_is_whole(table):
    assert list(table.columns) == ["term", "synonyms", "description"]
    assert 150 <= len(table) <= 220 and table.term.is_unique
    names = [n.lower() for row in table.itertuples() for n in (row.term, *row.synonyms.split("|")) if n]
    assert len(names) == len(set(names)), "a name of two terms"
    assert all(n == n.strip() for n in names)
    for text in table.description:
        assert 15 < len(text) < 130 and not text.endswith(".") and not re.search(r"\.\s|\n", text)


def test_every_name_finds_its_own_term_and_nothing_else(table):
    for row in table.itertuples():
        for name in (row.term, *filter(None, row.synonyms.split("|"))):
            for spelt in (name, name.upper(), name.replace(" ", "-"), f"x {name} y"):
                assert found(spelt) == [(row.term, False)], name


def test_descriptions_say_what_the_words_mean(table):
    """Limits that every textbook gives, term by term."""
    says = report_terms.descriptions()
    facts = {
        "sinus bradycardia": "60",
        "sinus tachycardia": "100",
        "atrial flutter": "300",
        "first degree AV block": "200",
        "short PR interval": "120",
        "left bundle branch block": "120",
        "right bundle branch block": "second, late R in V1",
        "incomplete right bundle branch block": "below 120",
        "left axis deviation": "-30",
        "right axis deviation": "+90",
        "left anterior fascicular block": "-45 and -90",
        "low QRS voltage": "0.5 mV",
        "right atrial enlargement": "0.25 mV",
        "inferior myocardial infarction": "II, III and aVF",
        "prolonged QT interval": "460 ms in women",
        "hyperkalaemia": "pointed T",
        "hypokalaemia": "U waves",
        "hypercalcaemia": "short QT",
        "hypocalcaemia": "long QT",
    }
    for term, fact in facts.items():
        assert fact in says[term], term


def test_statement_names_of_ptb_xl_are_in_the_glossary():
    lacking = [name for name in vocabulary("scp").name if not report_terms.terms(name)]
    assert lacking == []


def test_the_longest_name_wins():
    assert found("incomplete right bundle branch block") == [("incomplete right bundle branch block", False)]
    assert found("nonspecific ST and T wave abnormality") == [("nonspecific ST and T wave abnormality", False)]
    assert found("AV block II") == [("second degree AV block", False)]
    assert found("Mobitz I") != found("Mobitz II")
    assert found("Nonspecific T-wave  changes") == [("nonspecific T wave abnormality", False)]
    assert found("PVCs") == [("ventricular premature complex", False)]
    assert found("mild") == found("premier") == []  # "MI", "PR" are words, not letters


@pytest.mark.parametrize(
    "statement, present, denied",
    [
        ("Sinus rhythm with no ST elevation or LVH, PVCs", "sinus rhythm|ventricular premature complex",
         "ST elevation|left ventricular hypertrophy"),
        ("no ST elevation, LVH, or RBBB with LAFB", "left anterior fascicular block",
         "ST elevation|left ventricular hypertrophy|right bundle branch block"),
        ("no ST elevation, sinus rhythm", "sinus rhythm", "ST elevation"),
        ("ST elevation or T wave inversion not seen", "", "ST elevation|T wave inversion"),
        ("atrial fibrillation no longer present", "", "atrial fibrillation"),
        ("previously described LBBB - sinus rhythm", "sinus rhythm", "left bundle branch block"),
        ("ruled out LVH", "", "left ventricular hypertrophy"),
        ("inferior infarct cannot be ruled out", "inferior myocardial infarction", ""),
        ("infarct not excluded and LVH", "myocardial infarction|left ventricular hypertrophy", ""),
        ("possible LVH, cannot exclude septal infarct", "left ventricular hypertrophy|septal infarct", ""),
        ("no pathological findings", "normal ECG", ""),
        ("no P waves found and PVCs", "undetermined rhythm|ventricular premature complex", ""),
        ("abnormal ECG", "abnormal ECG", ""),
        ("Sinusrhythmus ohne ST-Hebung", "sinus rhythm", "ST elevation"),
        ("NORMAL SINUS RHYTHM - WITH 1ST DEGREE AV BLOCK", "normal sinus rhythm|first degree AV block", ""),
    ],
)  # fmt: skip
def test_denied_findings(statement, present, denied):
    terms = report_terms.terms(statement)
    assert {t.name for t in terms if not t.denied} == {n for n in present.split("|") if n}
    assert {t.name for t in terms if t.denied} == {n for n in denied.split("|") if n}


def test_denial_agrees_with_the_parser_of_simulated_reports():
    """Another reader of the same language: every phrase of the simulator under every cue."""
    phrases = [p for _, found in reports.phrases().values() for p in found if not re.search(r",| with ", p)]  # not cut
    checked = 0
    for i, phrase in enumerate(phrases):
        phrase = phrase.format(hr=60, pr=220, qrs=118, qtcf=480)
        for assertion, cues in reports.CUES.items():
            for prefix, suffix in cues:
                text = f"sinus rhythm, {prefix}{phrase}{suffix}, {phrases[(i * 7) % 11]}"
                spans = [s for s in parsed(text) if text[s[0] : s[1]] == phrase and s[0] > 12]
                for start, end, _, said in spans[:1]:
                    ours = [t for t in report_terms.terms(text) if start <= t.start and t.start < end]
                    assert ours, text
                    assert ours[0].denied == (said in ("absent", "historical")), text
                    checked += assertion == said
    assert checked > 800


def test_enriched_report():
    text = report_terms.enrich("Sinus rhythm. LVH, no PVCs.\nSummary: borderline ECG", 63.4, 1.0)
    says = report_terms.descriptions()
    assert text == (
        "This person is a male of age 63. He is having Sinus rhythm. LVH, no PVCs. "
        f"sinus rhythm: {says['sinus rhythm']}. left ventricular hypertrophy: {says['left ventricular hypertrophy']}."
    )
    assert report_terms.enrich("LVH", float("nan"), 0.0).startswith("This person is a female. She is having LVH. left")
    assert report_terms.enrich("LVH", 50, float("nan")).startswith(
        "This person is a patient of age 50. This patient is"
    )
    assert report_terms.enrich("LVH").startswith("This patient is having LVH. left ventricular")
    assert report_terms.enrich("ordinary tracing", 50, 1).endswith("is having ordinary tracing.")
    assert (
        report_terms.enrich("", 50, 1)
        == report_terms.enrich(" . ", 50, 1)
        == report_terms.enrich("Warning: noise", 50, 1)
        == ""
    )
    assert report_terms.enrich("LVH. LVH").count("thick left ventricle") == 1
