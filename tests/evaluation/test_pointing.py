"""Waves become segments, regions are those of the statements, scores are theirs by hand, intervals by plain loops."""

import numpy as np
import pandas as pd
import pytest
import torch
from memory_cohort import MemoryCohort
from scipy.stats import spearmanr

from ecglib import EcgError
from ecglib.data.labels import label_set, vocabulary
from ecglib.data.recording import LEADS
from ecglib.evaluation import pointing
from ecgsim import arithmetic

CODE = {name: k for k, name in enumerate(pointing.SEGMENTS)}
WAVES = [("P", 0.10, 0.19), ("QRS", 0.26, 0.35), ("T", 0.45, 0.60)]


def table(waves, lead="", kind="N", record_id="a"):
    rows = [(record_id, lead, wave, kind, on, off) for wave, on, off in waves]
    return pd.DataFrame(rows, columns=["record_id", "lead", "wave", "kind", "on", "off"])


def test_one_beat_sample_by_sample():
    found = pointing.segments(table(WAVES), ["a"], ["I", "II"], 80, 100.0)
    expected = ["TQ"] * 10 + ["P"] * 10 + ["PR"] * 6 + ["Q"] * 4 + ["QRS"] * 6 + ["ST"] * 9 + ["T"] * 16 + ["TQ"] * 19
    assert [pointing.SEGMENTS[k] for k in found[0, 0]] == expected
    assert np.array_equal(found[0, 0], found[0, 1])
    later = pointing.segments(table(WAVES), ["a"], ["I"], 50, 100.0, start_s=[0.3])
    assert np.array_equal(later[0, 0, :40], found[0, 0, 30:70])


def test_a_premature_beat_is_one_piece_and_no_wave_is_no_segment():
    found = pointing.segments(table(WAVES, kind="V"), ["a"], ["I"], 80, 100.0)[0, 0]
    assert (found[10:61] == CODE["V"]).all() and (found[:10] == CODE["TQ"]).all()
    found = pointing.segments(table(WAVES[1:]), ["a"], ["I"], 80, 100.0)[0, 0]
    assert not np.isin(found, [CODE["P"], CODE["PR"]]).any() and (found[:26] == CODE["TQ"]).all()


def test_what_a_reader_has_not_reached_is_not_scored():
    both = pd.concat([table(WAVES, "II"), table(WAVES[1:2], "V1")])
    found = pointing.segments(both, ["a"], ["II", "V1", "I"], 80, 100.0)[0]
    assert (found[0, :10] == pointing.UNSCORED).all() and (found[0, 61:] == pointing.UNSCORED).all()
    assert (found[0, 10:61] >= 0).all() and (found[1, 26:36] >= 0).all() and (found[1, 36:] == pointing.UNSCORED).all()
    with pytest.raises(EcgError, match="no wave of 1 records, such as b"):
        pointing.segments(both, ["a", "b"], ["II"], 80, 100.0)


def test_the_waves_of_a_simulated_hospital(tmp_path):
    lines = "record_id,class,r,p_on,p_off,qrs_on,qrs_off,t_on,t_peak,t_off\na,N,9,-1,-1,-1,26,38,71,88\n"
    (tmp_path / "beats.csv").write_text(f"{lines}a,V,223,-1,-1,212,239,251,285,301\nb,N,9,1,2,3,4,5,6,7\n")
    found = pointing.waves("simulated", tmp_path, {"a": 250.0})
    assert list(zip(found.wave, found.kind, found.on, found.off, strict=True)) == [
        ("QRS", "N", 0.0, 26 / 250),
        ("T", "N", 38 / 250, 88 / 250),
        ("QRS", "V", 212 / 250, 239 / 250),
        ("T", "V", 251 / 250, 301 / 250),
    ]
    with pytest.raises(EcgError, match="unknown source of waves 'simulatd'"):
        pointing.waves("simulatd", tmp_path, {})


def test_the_waves_of_ludb(tmp_path):
    """Marks "(", peak, ")" of each lead at 500 Hz; a peak with one end only is left out."""
    (tmp_path / "data").mkdir()
    codes = {"(": 39, ")": 40, "p": 24, "N": 1, "t": 27}
    marks = [("(", 50), ("p", 20), (")", 30), ("N", 100), (")", 5), ("(", 95), ("t", 50), (")", 60)]
    words = np.array([(codes[symbol] << 10) | step for symbol, step in marks] + [0], "<u2")
    for lead in LEADS:
        (tmp_path / "data" / f"7.{lead.lower()}").write_bytes(words.tobytes())
    found = pointing.waves("ludb", tmp_path, {"7": 500.0})
    assert len(found) == 24 and set(found.lead) == set(LEADS)
    assert found.iloc[0][["wave", "on", "off"]].tolist() == ["P", 0.1, 0.2]
    assert found.iloc[1][["wave", "on", "off"]].tolist() == ["T", 0.6, 0.82]


def test_a_statement_is_read_in_its_waves_and_leads():
    found = pointing.segments(table(WAVES), ["a"], list(LEADS), 80, 100.0)
    region = pointing.inside("CRBBB", found, LEADS)[0]
    assert [LEADS[k] for k in np.flatnonzero(region.any(1))] == ["I", "V1", "V2", "V6"]
    assert np.flatnonzero(region[0]).tolist() == list(range(26, 36))
    assert pointing.inside("CRBBB", found, LEADS, pointing.WAVE)[0].sum() == 10 * 12
    assert pointing.inside("CRBBB", found, LEADS, pointing.LEAD)[0].sum() == 80 * 4
    assert pointing.inside("AFIB", found, LEADS)[0, 0].sum() == 10 + 10 + 6 + 19
    with pytest.raises(EcgError, match="did you mean 'CRBBB'"):
        pointing.inside("CRBB", found, LEADS)


def test_the_table_of_statements_is_that_of_the_simulator_and_of_the_vocabularies():
    walls = {row["label"]: row["leads"].split() for row in arithmetic.rows("territories.csv")}
    for label in walls.keys() & pointing.TRUTH.keys():
        assert set(pointing.TRUTH[label].leads.split()) == set(walls[label]), label
    statements, keys = set(vocabulary("scp").statement), set(label_set("harmonised"))
    supers = {"CD", "HYP", "MI", "STTC"}
    assert pointing.TRUTH.keys() - statements - keys - supers == set()
    for name, truth in pointing.TRUTH.items():
        assert set(truth.segments.split()) <= set(pointing.SEGMENTS) and set(truth.leads.split()) <= set(LEADS), name
        assert truth.source and (not truth.key or truth.key in keys), name


def test_shares_lifts_and_hits_by_hand():
    region = np.zeros((2, 1, 10), bool)
    region[:, 0, :2] = True
    scored = np.ones((2, 1, 10), bool)
    scored[:, 0, 8:] = False
    attribution = torch.ones(2, 1, 10)
    attribution[0, 0, 1], attribution[0, 0, 9] = -5, 100
    found = pointing.of_regions(attribution, region, scored)
    np.testing.assert_allclose(found["area"], [2 / 8, 2 / 8])
    np.testing.assert_allclose(found["share"], [6 / 12, 2 / 8])
    np.testing.assert_allclose(found["lift"], [2, 1])
    assert found["hit"].tolist() == [1, 1]
    outside = pointing.of_regions(1 - region.astype(np.float32), region, scored)
    assert outside["lift"].tolist() == [pointing.LEAST_LIFT] * 2 and outside["hit"].tolist() == [0, 0]
    assert np.isnan(pointing.of_regions(attribution, np.zeros_like(region), scored)["lift"]).all()
    assert np.isnan(pointing.of_regions(torch.zeros(2, 1, 10), region, scored)["lift"]).all()


def test_shares_of_the_segments_add_up():
    found = pointing.segments(table(WAVES), ["a"], ["I"], 80, 100.0)
    np.testing.assert_allclose(
        pointing.by_segment(torch.ones(1, 1, 80), found)[0] * 80, [29, 10, 6, 4, 6, 9, 16, 0, 0], rtol=1e-6
    )


def test_pointing_scores_each_record_by_its_own_statement():
    found = pointing.segments(table(WAVES), ["a"], list(LEADS), 80, 100.0).repeat(2, 0)
    asked = pd.DataFrame({"patient_id": ["p", "q"], "label": ["CRBBB", "AFIB"]})
    truth = np.stack([pointing.inside(label, found[k : k + 1], LEADS)[0] for k, label in enumerate(asked.label)])
    made = {"right": torch.from_numpy(truth.astype(np.float32)), "even": torch.ones(2, 12, 80)}
    scores = pointing.pointing(made, asked, found, LEADS).set_index(["what", "method", "pair"]).sort_index()
    right = scores.loc[pointing.BOTH, "right"]
    np.testing.assert_allclose(right.share, 1)
    np.testing.assert_allclose(right.log_lift, -np.log2(truth.mean((1, 2))))
    np.testing.assert_allclose(scores.xs("even", level="method").lift.dropna(), 1, rtol=1e-6)
    assert np.isnan(scores.loc[(pointing.LEAD, "even", 1), "lift"]), "any lead: nothing to point at"


def test_rank_correlations_are_spearmans():
    random = np.random.default_rng(0)
    one, other = random.normal(size=(3, 40)), random.integers(0, 4, (3, 40))
    expected = [spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(pointing.rank_correlation(one, other), expected)
    assert np.isnan(pointing.rank_correlation(one, np.ones((3, 40)))).all()


@pytest.fixture
def scores():
    random = np.random.default_rng(1)
    labels = ["A"] * 6 + ["B"] * 3
    patients = [f"p{k}" for k in (0, 1, 2, 3, 4, 5, 0, 1, 6)]
    rows = [
        dict(pair=pair, patient_id=patient, label=label, model=model, value=random.normal() + (model == "trained"))
        for model in ("trained", "untrained")
        for pair, (patient, label) in enumerate(zip(patients, labels, strict=True))
    ]
    return pd.DataFrame(rows)


def test_means_and_intervals_are_those_of_plain_loops(scores):
    found = pointing.drawn(scores, ["model"], "value", n=15, seed=3)
    for (model,), one in found.items():
        mine = scores[scores.model == model]
        assert one.point == pytest.approx(mine.groupby("label").value.mean().mean())
        random, names = np.random.default_rng(3), sorted(mine.patient_id.unique())
        for replicate in one.replicates:
            drawn = random.integers(0, len(names), len(names))
            resampled = pd.concat([mine[mine.patient_id == names[k]] for k in drawn])
            assert replicate == pytest.approx(resampled.groupby("label").value.mean().mean())


def test_differences_are_paired(scores):
    found = pointing.drawn(scores, ["model"], "value", n=200)
    row = pointing.differences(found, {("trained",): ("untrained",)}, ["model"]).iloc[0]
    wide = scores.pivot(index="pair", columns="model", values="value")
    both = scores[scores.model == "trained"].assign(value=(wide.trained - wide.untrained).to_numpy())
    direct = pointing.drawn(both, ["model"], "value", n=200)[("trained",)]
    np.testing.assert_allclose(row[["gain", "low", "high"]].astype(float), direct[:3])
    assert row.p == row.p_holm and 0 < row.p <= 1
    lifts = pointing.summary(found, ["model"], power=True)
    np.testing.assert_allclose(np.log2(lifts.point), [one.point for one in found.values()])


def test_records_are_drawn_one_a_patient():
    cohort = MemoryCohort(24)
    rows, labels = np.arange(24), ["AFIB", "CLBBB"]
    found = pointing.chosen(cohort, rows, cohort.states(labels, rows), labels, per_label=3, seed=1)
    assert found.label.value_counts().to_dict() == {"AFIB": 3, "CLBBB": 3}
    assert not found[found.label == "AFIB"].patient_id.duplicated().any()
    assert (cohort.states(labels, found.row)[np.arange(6), [labels.index(name) for name in found.label]] == 1).all()
    again = pointing.chosen(cohort, rows, cohort.states(labels, rows), labels, per_label=3, seed=1)
    assert found.equals(again)
    with pytest.raises(EcgError, match="no statement has 100 patients"):
        pointing.chosen(cohort, rows, cohort.states(labels, rows), labels, 3, least=100)
