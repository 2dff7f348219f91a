"""Published criteria: textbook ECGs that each rule must call or leave alone, and scores against a plain recount."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from memory_cohort import MemoryCohort

from ecglib import EcgError
from ecglib.data import handmade
from ecglib.data.labels import ABSENT, PRESENT, UNKNOWN
from ecglib.data.recording import LEADS
from ecglib.evaluation import criteria, rules

# A healthy woman of 50: sinus rhythm at 70/min, axis 40 degrees, everything within the limits of every criterion.
NORMAL = dict.fromkeys(handmade.feature_names(), 0.0)
NORMAL |= dict(median_rr=60000 / 70, hr_min=68, hr_max=72, cvsd=0.02, premature=0, p_consistency=0.9)
NORMAL |= dict(pr_ms=160, p_ms=90, qrs_ms=88, qt_ms=380, qtc_bazett_ms=410.5, qtc_fridericia_ms=400, qrs_axis_deg=40)
NORMAL |= dict(limb_low_mv=0.9, chest_low_mv=1.8, sokolow_lyon_mv=2.2, right_sokolow_mv=0.4, cornell_mv=0.9)
for _lead, _r, _s in zip(
    LEADS,
    (0.7, 1.0, 0.4, 0.05, 0.3, 0.6, 0.2, 0.5, 0.8, 1.3, 1.4, 1.1),
    (-0.1, -0.1, -0.1, -0.8, -0.2, -0.1, -0.9, -1.2, -0.6, -0.4, -0.2, -0.03),
    strict=True,
):
    wave = dict(r_mv=_r, s_mv=_s, t_mv=-0.2 if _lead == "aVR" else 0.3, r_time_ms=36, notches=1, p_mv=0.1)
    NORMAL |= {f"{_lead}_{name}": value for name, value in wave.items()}
NORMAL |= dict(age=50, male=0)

LBBB = dict(qrs_ms=150, V5_r_time_ms=70, V6_r_time_ms=72, V1_r_mv=0.1, V1_s_mv=-1.9)
RBBB = dict(qrs_ms=132, V1_r_time_ms=84, I_s_mv=-0.4, V6_s_mv=-0.5)
LAFB = dict(qrs_axis_deg=-60, aVL_q_mv=-0.1, aVL_r_mv=0.9, aVL_s_mv=-0.05, aVL_r_time_ms=50)
LPFB = dict(qrs_axis_deg=110, I_r_mv=0.2, I_s_mv=-0.6, aVL_r_mv=0.1, aVL_s_mv=-0.8)
LPFB |= dict(III_q_mv=-0.1, III_r_mv=1.1, aVF_q_mv=-0.1, aVF_r_mv=1.0)
TEXTBOOK = [  # what is changed, rules that must hold then, rules that must not; limits are met from both sides
    ({}, {"sinus rhythm"}, {rule.name for rule in criteria.RULES} - {"sinus rhythm"}),
    ({"median_rr": 60000 / 101}, {"sinus tachycardia"}, {"sinus rhythm"}),
    ({"median_rr": 600}, {"sinus rhythm"}, {"sinus tachycardia"}),
    ({"median_rr": 60000 / 49}, {"sinus bradycardia"}, {"sinus rhythm"}),
    ({"hr_min": 60, "hr_max": 68.3}, {"sinus arrhythmia"}, set()),  # 1000 and 878 ms
    ({"hr_min": 60, "hr_max": 68}, set(), {"sinus arrhythmia"}),  # 1000 and 882 ms
    ({"hr_min": 60, "hr_max": 100, "premature": 0.1}, set(), {"sinus arrhythmia"}),
    ({"cvsd": 0.2, "p_consistency": 0.1}, {"atrial fibrillation"}, {"sinus rhythm"}),
    ({"cvsd": 0.2}, set(), {"atrial fibrillation"}),
    ({"ventricular_share": 0.1}, {"premature wide beats"}, {"premature narrow beats"}),
    ({"atrial_share": 0.2}, {"premature narrow beats"}, {"premature wide beats"}),
    ({"pr_ms": 202}, {"PR above 200 ms"}, set()),
    ({"pr_ms": 200}, set(), {"PR above 200 ms"}),
    ({"pr_ms": 100, "qrs_ms": 124, "V4_r_time_ms": 62}, {"pre-excitation"}, set()),
    ({"pr_ms": 100, "V4_r_time_ms": 62}, set(), {"pre-excitation"}),
    (LBBB, {"LBBB"}, {"RBBB", "unspecific conduction delay", "incomplete LBBB", "LBBB, strict"}),
    (LBBB | {"I_q_mv": -0.1}, {"unspecific conduction delay"}, {"LBBB"}),
    (LBBB | {"qrs_ms": 114}, {"incomplete LBBB"}, {"LBBB"}),
    (LBBB | {"I_notches": 3, "V6_notches": 3}, {"LBBB", "LBBB, strict"}, set()),
    (LBBB | {"I_notches": 3, "V6_notches": 3, "qrs_ms": 134}, {"LBBB, strict"}, set()),
    (LBBB | {"I_notches": 3, "V6_notches": 3, "qrs_ms": 134, "male": 1}, {"LBBB"}, {"LBBB, strict"}),
    (RBBB, {"RBBB"}, {"LBBB", "unspecific conduction delay", "incomplete RBBB"}),
    (RBBB | {"V1_r_time_ms": 30, "V2_r2_mv": 0.3}, {"RBBB"}, set()),
    (RBBB | {"V6_s_mv": 0.0}, {"unspecific conduction delay"}, {"RBBB"}),
    (RBBB | {"qrs_ms": 110}, {"incomplete RBBB"}, {"RBBB"}),
    (LAFB, {"left anterior fascicular block", "left axis"}, {"left posterior fascicular block"}),
    (LAFB | {"qrs_axis_deg": -44}, {"left axis"}, {"left anterior fascicular block"}),
    (LAFB | {"aVL_r_time_ms": 40}, set(), {"left anterior fascicular block"}),
    (LPFB, {"left posterior fascicular block", "right axis"}, {"left anterior fascicular block", "left axis"}),
    (LPFB | {"qrs_ms": 124}, set(), {"left posterior fascicular block"}),
    ({"sokolow_lyon_mv": 3.5}, {"Sokolow-Lyon"}, {"Cornell"}),
    ({"aVL_r_mv": 1.15}, {"R in aVL"}, {"Gubner-Ungerleider"}),
    ({"cornell_mv": 2.4}, {"Cornell"}, set()),
    ({"cornell_mv": 2.4, "male": 1}, set(), {"Cornell"}),
    ({"cornell_mv": 1.9, "qrs_ms": 100}, {"Cornell product"}, {"Cornell"}),  # (1.9 + 0.6) x 100
    ({"cornell_mv": 1.9, "qrs_ms": 100, "male": 1}, set(), {"Cornell product"}),
    ({"I_r_mv": 1.6, "III_s_mv": -0.9}, {"Gubner-Ungerleider"}, set()),
    ({"V2_s_mv": -1.9}, {"Peguero-Lo Presti"}, set()),  # + S V4 of 0.4
    ({"V2_s_mv": -1.9, "male": 1}, set(), {"Peguero-Lo Presti"}),
    ({"right_sokolow_mv": 1.05}, {"right Sokolow-Lyon"}, {"tall R in V1"}),
    ({"V1_r_mv": 0.7, "V1_s_mv": -0.3}, {"tall R in V1"}, set()),
    ({"p_ms": 120}, {"wide P"}, {"tall P"}),
    ({"II_p_mv": 0.26}, {"tall P"}, {"wide P"}),
    ({"limb_low_mv": 0.49}, {"low voltage"}, set()),
    ({"chest_low_mv": 0.99}, {"low voltage"}, set()),
    ({"qtc_bazett_ms": 460}, {"long QT, Bazett"}, {"long QT, Fridericia"}),
    ({"qtc_bazett_ms": 455}, set(), {"long QT, Bazett"}),
    ({"qtc_bazett_ms": 455, "male": 1}, {"long QT, Bazett"}, set()),
    ({"qtc_fridericia_ms": 470}, {"long QT, Fridericia"}, {"long QT, Bazett"}),
    ({"qtc_fridericia_ms": 470, "qrs_ms": 130}, set(), {"long QT, Fridericia"}),
    ({"qt_ms": 440}, {"long QT, Framingham"}, {"long QT, Hodges"}),  # 440 + 154 x 1/7 = 462; 440 + 17.5 = 457.5
    ({"qt_ms": 443}, {"long QT, Hodges"}, set()),
    ({"qt_ms": 368}, {"short QT"}, set()),  # 368 + 22 = 390
    ({"II_j_mv": 0.1, "aVF_j_mv": 0.12}, {"ST elevation"}, set()),
    ({"II_j_mv": 0.1}, set(), {"ST elevation"}),
    ({"V2_j_mv": 0.16, "V3_j_mv": 0.16}, {"ST elevation"}, set()),
    ({"V2_j_mv": 0.16, "V3_j_mv": 0.16, "male": 1}, set(), {"ST elevation"}),
    ({"V2_j_mv": 0.21, "V3_j_mv": 0.21, "male": 1}, {"ST elevation"}, set()),
    ({"V2_j_mv": 0.21, "V3_j_mv": 0.21, "male": 1, "age": 30}, set(), {"ST elevation"}),
    ({f"{k}_{p}_mv": -0.06 for k in ("V5", "V6") for p in ("j", "st80")}, {"ST depression"}, {"ST elevation"}),
    ({"V5_j_mv": -0.06, "V6_j_mv": -0.06}, set(), {"ST depression"}),  # back at the line after 80 ms: upsloping
    ({"V5_t_mv": -0.15, "V6_t_mv": -0.15}, {"T inversion"}, {"low T"}),
    ({"V1_t_mv": -0.15, "V2_t_mv": -0.15}, set(), {"T inversion"}),  # where S is larger than R it is normal
    ({"V5_t_mv": 0.1, "V4_t_mv": 0.1}, {"low T"}, {"T inversion"}),
    ({"III_q_mv": -0.2, "aVF_q_mv": -0.2}, {"inferior Q"}, {"lateral Q"}),
    ({"III_q_mv": -0.2}, set(), {"inferior Q"}),
    ({"II_q_mv": -0.2, "aVF_q_mv": -0.09}, set(), {"inferior Q"}),  # no quarter of R, and too shallow
    ({f"{k}_r_mv": 0.02 for k in ("V2", "V3")}, {"anterior Q", "poor R progression"}, {"inferior Q"}),
    ({"V5_q_mv": -0.4, "V6_q_mv": -0.4}, {"lateral Q"}, {"anterior Q"}),
    ({"V3_r_mv": 0.3}, {"poor R progression"}, {"anterior Q"}),
]


def table(*changes) -> pd.DataFrame:
    return rules.with_corrections(pd.DataFrame([NORMAL | change for change in changes]))


@pytest.mark.parametrize(("change", "held", "not_held"), TEXTBOOK, ids=[str(k) for k in range(len(TEXTBOOK))])
def test_textbook_ecgs(change, held, not_held):
    said = rules.calls(table(change)).iloc[0]
    assert {name for name in said.index if said[name] == PRESENT} >= held
    assert [name for name in not_held if said[name] != ABSENT] == []


def test_each_rule_has_a_textbook_example_on_both_sides_and_a_source():
    called = set().union(*(held for _, held, _ in TEXTBOOK))
    assert called == {rule.name for rule in criteria.RULES} and len(criteria.RULES) >= 20
    for rule in criteria.RULES:
        assert rule.words and any(str(year) in rule.source for year in range(1910, 2027)), rule.name
        assert (
            not set(rule.needs)
            - {*handmade.feature_names(), "rate", "male", "age"}
            - {
                "qtc_framingham_ms",
                "qtc_hodges_ms",
            }
        )


def test_a_rule_reads_what_it_needs_and_nothing_else():
    numbers = table({}).iloc[0]
    for rule in criteria.RULES:

        class Asked(dict):
            seen = set()

            def __getitem__(self, name):
                self.seen.add(name)
                return super().__getitem__(name)

        Asked.seen = set()
        rule.holds(Asked({name: np.array([numbers[name]]) for name in numbers.index}))
        assert Asked.seen == set(rule.needs), rule.name


def test_without_its_number_a_rule_says_nothing():
    said = rules.calls(table({"pr_ms": np.nan, "male": np.nan}, {})).iloc[0]
    assert said["PR above 200 ms"] == said["Cornell"] == UNKNOWN and said["Sokolow-Lyon"] == ABSENT
    part = rules.calls(table({})[["pr_ms", "qrs_axis_deg"]])
    assert part["PR above 200 ms"].iloc[0] == ABSENT and part["LBBB"].iloc[0] == UNKNOWN


def test_a_call_comes_with_its_numbers():
    numbers = table({"pr_ms": 236, "cornell_mv": 2.4})
    lines = rules.explained(rules.calls(numbers).iloc[0], numbers.iloc[0]).set_index("rule")
    assert lines.loc["PR above 200 ms", "numbers"] == "pr 236 ms"
    assert lines.loc["Cornell", "numbers"] == "cornell 2.40 mV, male 0"
    assert "Casale" in lines.loc["Cornell", "source"] and "Sokolow-Lyon" not in lines.index


def test_scores_are_those_of_a_recount():
    rng = np.random.default_rng(0)
    said = pd.DataFrame(rng.choice([PRESENT, ABSENT, UNKNOWN], (60, 2)), columns=["a", "b"])
    truth = pd.DataFrame(rng.choice([1, 0, -1], (60, 2)), columns=["a", "b"])
    found = rules.scores(said, truth, np.arange(60) // 2, n=50).set_index(["rule", "metric"])
    for name in ("a", "b"):
        called = [value == PRESENT for value in said[name]]
        pairs = [(t, c) for t, c in zip(truth[name], called, strict=True) if t != -1]
        tp, fn = sum(t == 1 and c for t, c in pairs), sum(t == 1 and not c for t, c in pairs)
        fp, tn = sum(t == 0 and c for t, c in pairs), sum(t == 0 and not c for t, c in pairs)
        expected = {"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp), "f1": 2 * tp / (2 * tp + fp + fn)}
        for metric, value in expected.items():
            row = found.loc[name, metric]
            assert row.point == pytest.approx(value) and row.low < row.point < row.high
        assert (row.n_positive, row.n_called) == (tp + fn, sum(called))
        assert row.n_unmeasured == (said[name] == UNKNOWN).sum()


def test_the_share_of_its_rules_speaks_for_a_label():
    said = rules.calls(table({}, LBBB, LBBB | {"I_notches": 3, "V6_notches": 3}))
    labels = rules.covered(["CLBBB", "CD", "NORM", "ISC_", "AFIB"])
    assert labels == ["CLBBB", "CD", "NORM", "AFIB"]
    p = rules.label_scores(said, labels)
    assert p[:, 0].tolist() == [0, 0.5, 1] and p[0, 1] == 0 and p[1, 1] == pytest.approx(1 / 10)
    assert p[0, 2] == 1 and p[1, 2] == pytest.approx(1 / (1 + (said.iloc[1] == PRESENT).sum() - 1))  # sinus rhythm
    with pytest.raises(EcgError, match="no rule is a sign of ISC_"):
        rules.label_scores(said, ["ISC_"])


def test_statements_of_a_cohort_and_its_leads():
    states = pd.DataFrame({"IMI": [1, 0, 0, 2], "ILMI": [0, 0, -1, 0]}, dtype=np.int8)
    assert rules.stated(states, ("IMI", "ILMI", "IPMI")).tolist() == [1, 0, -1, -1]
    assert rules.stated(states, ("LVH",)).tolist() == [-1] * 4
    with pytest.raises(EcgError, match="twelve-lead"):
        rules.measured(SimpleNamespace(name="x", leads=("I",)), np.arange(4))


def test_measurements_against_truth_are_bland_and_altmans():
    rng = np.random.default_rng(1)
    truth = pd.DataFrame({column: rng.normal(100, 20, 40) for column in rules.TRUTH.values()})
    truth.loc[:3, "pr"] = -1.0  # no P wave
    truth["axis_qrs"] = 175.0
    who = pd.DataFrame({"sex": ["male", "female"] * 20, "age": 60.0})
    true = rules.true_measurements(truth, who)
    assert np.isnan(true.pr_ms[:4]).all() and (true.male[:2] == [1, 0]).all()
    table = true + rng.normal(5, 2, true.shape)
    table["qrs_axis_deg"] = -175.0  # ten degrees on, the short way round
    found = rules.measured_against_truth(table, true, np.arange(40), n=20).set_index("measurement")
    error = (table.pr_ms - true.pr_ms).dropna()
    assert found.loc["pr_ms", "n"] == 36
    assert found.loc["pr_ms", "bias"] == pytest.approx(error.mean())
    assert found.loc["pr_ms", "loa_high"] == pytest.approx(error.mean() + 1.959964 * error.std(), rel=1e-5)
    assert found.loc["qrs_axis_deg", "bias"] == pytest.approx(10)


def test_drawn_ecgs_are_called_what_they_are():
    """From the signal to the call: fibrillation, left bundle branch block and normal ECGs of the simulator."""
    cohort = MemoryCohort(36)
    said = rules.calls(rules.measured(cohort, np.arange(36)))
    normal, fibrillating, blocked = (cohort.labels[name].to_numpy() == 1 for name in ("NORM", "AFIB", "CLBBB"))
    of = (said == PRESENT).groupby(np.select([fibrillating, blocked], ["AFIB", "CLBBB"], "NORM")).mean()
    assert of.loc["AFIB", "atrial fibrillation"] >= 0.6 and of.loc["NORM", "atrial fibrillation"] == 0
    assert of.loc["CLBBB", "LBBB"] >= 0.6 and of.loc["NORM", "LBBB"] == 0 and normal.any()
