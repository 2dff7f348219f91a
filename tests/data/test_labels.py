"""Labels: vocabulary facts, the expression rules against plain set logic, what matches and what is refused."""

import hashlib
import itertools

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError
from ecglib.data import labels

MARKS = {"NORM_only", "no_diagnostic_statement", "no_rhythm_statement", "pacemaker_noted", "extra_beats_noted"}


def test_the_150_statements_are_the_published_ones_in_their_order():
    table = labels.vocabulary("ecgfounder")
    text = "".join(f"{s}\n" for s in table.statement)
    golden = "7c087a0d383c7ea9ae9b818ad00a551b029334edfa5f1fbb5036bfbaa0df0c39"
    assert hashlib.sha256(text.encode()).hexdigest() == golden
    assert list(table["index"]) == [str(i) for i in range(150)]
    assert (table.serial == "1").sum() == 22


def test_label_sets_have_the_published_sizes():
    sizes = {name: len(labels.label_set(f"ptbxl_{name}")) for name in ("all", "diagnostic", "sub", "super")}
    assert sizes == {"all": 71, "diagnostic": 44, "sub": 23, "super": 5}
    assert len(labels.label_set("ptbxl_form")) == 19
    assert len(labels.label_set("ptbxl_rhythm")) == 12


def test_every_token_relation_and_parent_of_the_common_vocabulary_exists():
    table, scp = labels.vocabulary("harmonised"), set(labels.vocabulary("scp").statement)
    serial = set(labels.vocabulary("ecgfounder").query("serial == '1'")["index"])
    assert table.key.is_unique
    challenge, chapman = set(labels.vocabulary("snomed").code), set(labels.vocabulary("chapman").statement)
    assert len(challenge) == 133 and len(chapman) == 68
    for row in table.itertuples():
        assert not row.parents or set(row.parents.split("|")) <= set(table.key)
        for token in _tokens(row.scp) + _tokens(row.leave_out_scp):
            known = any(s.startswith(token[:-1]) for s in scp) if token.endswith("*") else token in scp | MARKS
            assert known or token.startswith("heart_axis="), (row.key, token)
        assert all(0 <= int(t) < 150 for t in _tokens(row.ecgfounder))
        assert set(_tokens(row.cinc)) <= challenge and set(_tokens(row.chapman)) <= chapman
        assert {t.rpartition(":")[2] for t in _tokens(row.leave_out_cinc)} <= challenge | {"no_rhythm_code"}
        assert set(_tokens(row.leave_out_chapman)) <= chapman
        assert (row.relation_cinc in labels.USABLE) == bool(row.cinc_partitions), row.key
        for source in labels.SOURCES:
            relation = getattr(row, f"relation_{source}")
            assert relation in (*labels.USABLE, "broader", "narrower", "incomplete", "absent")
            assert relation not in labels.USABLE or getattr(row, source), (row.key, source)
        if row.relation_ecgfounder in labels.USABLE:
            assert not serial & set(_tokens(row.ecgfounder))


def test_the_17_labels_of_ecgfm_are_those_of_its_card_and_those_that_say_less_are_refused():
    from ecglib import zoo

    table, names = labels.vocabulary("harmonised").set_index("key"), zoo.card("ecgfm_finetuned").statements
    assert len(names) == 17 and {token for cell in table.ecgfm17 for token in _tokens(cell)} == set(names)
    matched = labels.match("scp", "ecgfm17").set_index("label")
    usable = set(matched.index[matched.usable])
    assert {"atrial_fibrillation", "av_block_1", "pvc", "mi_any", "sinus_rhythm_any"} <= usable
    assert not {"rbbb", "lbbb", "wpw", "sinus_tachycardia", "NORM", "MI"} & usable
    assert "incomplete block counts as block" in matched.reason["rbbb"]
    said = pd.DataFrame({name: [1, 0] for name in names}, dtype=np.int8)
    said["Atrial flutter"] = np.array([0, 1], np.int8)
    found = labels.harmonise(said, "ecgfm17")
    assert (
        found.af_or_flutter.tolist() == [1, 1] and found.atrial_fibrillation.tolist() == [1, 0] and "wpw" not in found
    )


def test_marks_of_beats_and_rhythms_are_those_that_the_readers_take():
    from ecglib.data import annotations
    from ecglib.datasets import mitdb, shdb_af

    table = labels.vocabulary("harmonised").set_index("key")
    for key, marks in mitdb.LABELS.items():
        assert table.relation_mitdb[key] in labels.USABLE and set(marks.split()) <= set(_tokens(table.mitdb[key])), key
    for key, marks in shdb_af.LABELS.items():
        assert table.relation_shdb_af[key] in labels.USABLE
        assert {f"({mark}" for mark in marks} == set(_tokens(table.shdb_af[key])), key
    beats = {token for cell in table.mitdb for token in _tokens(cell) if not token.startswith("(")}
    assert beats - {"~"} <= annotations.BEATS
    assert {token for cell in table.afdb for token in _tokens(cell)} == {"(N", "(AFIB", "(AFL", "(J"}
    for source in ("afdb", "shdb_af"):  # N is whatever is not marked, which is not sinus rhythm
        assert table[f"relation_{source}"].sinus_rhythm_any == "broader"
    matched = labels.match("mitdb", "shdb_af").set_index("label").usable
    assert matched["atrial_fibrillation"] and not matched["junctional_rhythm"], "(NOD is another rhythm there"
    tokens = pd.DataFrame({"(N": [1, 0], "(B": [0, 1]}, dtype=np.int8)
    assert labels.harmonise(tokens, "mitdb", ["sinus_rhythm_any"]).sinus_rhythm_any.tolist() == [1, labels.UNKNOWN]


def test_superclasses_are_the_statements_of_their_class():
    scp = labels.vocabulary("scp")
    keys = labels.vocabulary("harmonised").set_index("key")
    for name in labels.SUPERCLASSES:
        members = set(scp.statement[scp.superclass == name])
        found = {
            s for s in scp.statement for t in _tokens(keys.scp[name]) if s == t or (t[-1] == "*" and s[:3] == t[:3])
        }
        assert found == members


def test_harmonise_follows_plain_set_logic_for_every_label():
    rng = np.random.default_rng(0)
    names = [*labels.vocabulary("scp").statement, *MARKS, "heart_axis=", "heart_axis=ALAD", "heart_axis=LAD"]
    tokens = pd.DataFrame((rng.random((300, len(names))) < 0.03).astype(np.int8), columns=names)
    table = labels.vocabulary("harmonised").set_index("key")
    out = labels.harmonise(tokens, "scp", table.index)
    assert list(out) == [k for k in table.index if table.relation_scp[k] in labels.USABLE]
    for key, (i, row) in itertools.product(out, enumerate(tokens.to_numpy())):
        said = {n for n, v in zip(names, row, strict=True) if v}
        expected = 1 if _holds(table.scp[key], said) else -1 if _holds(table.leave_out_scp[key], said) else 0
        assert out[key][i] == expected, (key, said)


def test_a_vocabulary_that_is_not_stated_has_every_label_refused():
    for sources in ((None, "scp"), ("scp", None), (None, None)):
        table = labels.match(*sources, ["AFIB", "nonsense"])
        assert list(table.label) == ["AFIB", "nonsense"] and not table.usable.any()
        assert set(table.reason) == {"vocabulary not stated (option vocabulary=...)"}
        assert list(table) == list(labels.match("scp", "ludb", ["AFIB"])) == list(labels.match("scp", "ludb", []))
        assert list(labels.match(*sources).label) == list(labels.match("scp", "ludb").label)
    with pytest.raises(EcgError, match="unknown label source"):
        labels.match(None, "spc")


def test_prevalence_leaves_possible_and_unknown_out_of_both_counts():
    states = pd.DataFrame({"A": [1, 1, 0, 2, -1, -1], "B": [-1, 2, -1, -1, -1, -1]}, dtype=np.int8)
    table = labels.prevalence(states)
    assert table.loc["A"].tolist() == [2, 1, 1, 2, 2 / 3]
    assert table.loc["B", ["present", "absent", "possible", "unknown"]].tolist() == [0, 0, 1, 5]
    assert np.isnan(table.share["B"])


def test_possible_and_unknown_survive_and_certainty_wins():
    tokens = pd.DataFrame({"IMI": [2, 2, 0, -1, 0], "AMI": [0, 1, 0, 0, 0], "QWAVE": [0, 0, 1, 0, 0]}, dtype=np.int8)
    assert list(labels.harmonise(tokens, "scp", ["mi_any"]).mi_any) == [2, 1, -1, -1, 0]
    both = pd.DataFrame({"CRBBB": [1, 1, 1, 0], "LAFB": [2, -1, 1, 1]}, dtype=np.int8)
    assert list(labels.harmonise(both, "scp", ["bifascicular_block"]).bifascicular_block) == [2, -1, 1, 0]
    negated = pd.DataFrame({"VCLVH": [1, 1, 1], "LVH": [0, 1, 2]}, dtype=np.int8)
    assert list(labels.harmonise(negated, "scp", ["lvh_voltage"]).lvh_voltage) == [1, -1, 2]


def test_ludb_takes_part_in_mi_and_cd_only_and_says_why():
    table = labels.match("scp", "ludb", labels.SUPERCLASSES).set_index("label")
    assert list(table.index[table.usable]) == ["MI", "CD"]
    assert "no statement for a normal ECG" in table.reason["NORM"]
    assert "broader" in table.reason["HYP"] and "incomplete" in table.reason["STTC"]


def test_match_finds_statements_and_refuses_the_rest():
    table = labels.match("scp", "cinc2017", ["AFIB", "AFLT", "nonsense"]).set_index("label")
    assert table.key["AFIB"] == "atrial_fibrillation" and table.usable["AFIB"]
    assert not table.usable["AFLT"] and "never states it" in table.reason["AFLT"]
    assert not table.usable["nonsense"]
    assert labels.match("scp", "scp", ["LVOLT", "XYZ"]).usable.all()
    everything = labels.match("scp", "ludb")
    assert len(everything) == len(labels.vocabulary("harmonised")) and (everything.reason != "").all()


@pytest.mark.parametrize(
    ("statement", "likelihood", "certain"),
    [("IMI", 15, 2), ("IMI", 35, 2), ("IMI", 50, 1), ("IMI", 0, 1), ("LVH", 35, 2), ("AFIB", 0, 1), ("ISC_", 15, 1)],
)
def test_a_statement_counts_whatever_its_likelihood_unless_certainty_is_asked_for(statement, likelihood, certain):
    assert labels.scp_state(statement, likelihood, "certain") == certain
    assert labels.scp_state(statement, likelihood, "published") == labels.scp_state(statement, likelihood) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: labels.label_set("ptbxl_supr"),
        lambda: labels.match("spc", "ludb"),
        lambda: labels.vocabulary("snomad"),
        lambda: labels.harmonise(pd.DataFrame(), "scp", ["flutter"]),
    ],
)
def test_a_misspelt_name_lists_the_valid_ones(call):
    with pytest.raises(EcgError, match="use (some|one) of"):
        call()


def _tokens(expression):
    return [t.removeprefix("!") for part in expression.split("|") if part for t in part.split("&")]


def _holds(expression, said):
    def factor(token):
        if token.startswith("!"):
            return not factor(token[1:])
        return any(s.startswith(token[:-1]) for s in said) if token.endswith("*") else token in said

    return any(all(factor(t) for t in part.split("&")) for part in expression.split("|") if part)
