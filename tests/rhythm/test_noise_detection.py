"""Detectors of noise: no look across patients, few beats, several leads."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ecglib import EcgError
from ecglib.rhythm import noise_detection
from ecglib.rhythm.noise_corpora import Cut, Strip, Windows, known
from ecglib.rhythm.noise_detection import FEATURES, FEW_BEATS, GRIDS, RETAINED, Detector
from ecglib.rhythm.noise_features import GROUPS

ALL = [name for group in GROUPS.values() for name in group]


def described(n=240, corpus="made", seed=0, share=0.4, shift=0.0, leads=("II",)) -> pd.DataFrame:
    """Windows as `described` gives them, whose features are random but for one of each group that tells the class."""
    random = np.random.default_rng(seed)
    truth = (np.arange(n) % 10 < 10 * share).astype(int)
    rows = []
    for i in range(n):
        worst = random.integers(len(leads))
        for k, lead in enumerate(leads):
            bad = truth[i] and k == worst
            values = dict(zip(ALL, random.standard_normal(len(ALL)), strict=True))
            for name in ("cvsd", "longest_gap", "template_mean", "kurtosis"):
                values[name] += shift + 3.0 * bad
            about = {"corpus": corpus, "patient_id": f"p{i // 4}", "item": f"i{i}", "lead": lead, "start_s": 0.0}
            about |= {
                "part": "val" if i // 4 % 5 < 2 else "test",
                "rhythm": "sinus" if i % 3 else "atrial fibrillation",
            }
            about |= {"snr_db": 0.0, "by_reader": -1, "by_snr": truth[i], "by_beats": truth[i], "n_beats": 9}
            rows.append(about | values | {"spectral": random.random(), "flagged": 0.0})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("kind", GRIDS)
def test_every_classifier_learns_what_there_is_and_not_what_there_is_not(kind):
    table = described()
    detector = noise_detection.train(table, "HRV and morphology", classifiers=[kind])
    assert len(detector.tried) == len(GRIDS[kind][1]) and detector.tried.auprc.max() > 0.9
    other = described(seed=5, corpus="other")
    p, reasons = detector.probability(other)
    assert ((p >= 0) & (p <= 1)).all() and set(reasons) == {""}
    shuffled = table.assign(by_beats=np.random.default_rng(0).permutation(table.by_beats))
    assert noise_detection.train(shuffled, "HRV", classifiers=[kind]).tried.auprc.max() < 0.62


def test_out_of_fold_answers_know_nothing_of_the_patient():
    """Each patient has features of its own in all windows: only a look at the patient itself would tell its class."""
    random = np.random.default_rng(2)
    table = described(400)
    own = random.standard_normal(100) * 10
    for name in ALL:
        table[name] = own[np.arange(400) // 4]
    table["by_beats"] = random.integers(0, 2, 100)[np.arange(400) // 4]
    detector = noise_detection.train(table, "raw signal", classifiers=["tree", "forest"])
    area = roc_auc_score(detector.folds.truth, detector.folds.value)
    assert 0.3 < area < 0.7


def test_fewer_than_three_beats_are_noisy_with_a_reason():
    detector = noise_detection.train(described(), "HRV", classifiers=["logistic"])
    table = described(20, seed=9).assign(n_beats=[2, 9] * 10)
    table.loc[table.n_beats == 2, GROUPS["rr"]] = np.nan
    p, reasons = detector.probability(table)
    assert (p[::2] == 1).all() and (p[1::2] < 1).all()
    assert set(reasons[::2]) == {FEW_BEATS} and set(reasons[1::2]) == {""}
    assert detector.judge(table).called[::2].all()
    raw = noise_detection.train(described(), "raw signal", classifiers=["logistic"])
    assert set(raw.probability(table)[1]) == {""}, "the raw signal needs no beats"


def test_the_operating_point_lets_clean_items_pass_however_many_leads_there_are():
    for leads in (("II",), ("I", "II", "V1", "V2", "V3", "V4")):
        table = described(600, leads=leads, seed=len(leads))
        detector = noise_detection.train(table, "HRV and morphology", classifiers=["logistic"])
        fresh = described(1500, leads=leads, seed=50, corpus="fresh")
        items = noise_detection.cross([detector], {"fresh": fresh}, "by_beats", "test")
        clean = items[items.truth == 0]
        assert 1 - clean.called.mean() == pytest.approx(RETAINED, abs=0.03)
        assert items[items.truth == 1].called.mean() > 0.85
        assert (items.n_leads == len(leads)).all()


def test_the_rule_for_several_leads_by_hand():
    clean = np.arange(100) / 100
    items = pd.DataFrame({"value": [0.96, 0.97, 0.96, 0.995], "n_leads": [1, 1, 12, 12]})
    assert noise_detection._called(items, clean).called.tolist() == [True, True, False, True]
    assert 0.96**1 > 0.95 and 0.96**12 < 0.95


def test_an_item_is_its_worst_lead():
    table = described(2, leads=("I", "II"))
    table = pd.concat([table, table.assign(start_s=10.0)], ignore_index=True)
    values = [0.1, 0.9, 0.2, 0.4, 0.3, 0.5, 0.2, 0.8]
    assert noise_detection.per_item(table, values).value.tolist() == pytest.approx([0.7, 0.6])


def test_pairs_of_corpora_are_judged_on_patients_of_one_part_with_intervals_that_hold_the_point():
    tables = {name: described(seed=k, corpus=name, shift=0.3 * k) for k, name in enumerate("abc")}
    trained = [noise_detection.train(tables[name], "HRV", classifiers=["logistic"]) for name in tables]
    trained += [noise_detection.train(tables["a"], "spectral rule")]
    answers = noise_detection.cross(trained, tables, "by_beats", "test")
    assert set(answers.part) == {"test"} and len(answers) == 4 * 3 * 144
    scores = noise_detection.scores(answers, n=50)
    assert ((scores.low <= scores.point) & (scores.point <= scores.high)).all() and len(scores) == 4 * 3 * 7
    hrv = scores[(scores.detector == "HRV") & (scores.train != scores.test) & (scores.statistic == "AUROC")]
    means = noise_detection.off_diagonal(scores).set_index(["detector", "statistic"])
    mean = means.loc[("HRV", "AUROC")]
    assert mean.point == pytest.approx(hrv.point.mean()) and mean.pairs == 6 and mean.lowest == hrv.point.min()
    assert mean.point > 0.9 and abs(means.loc[("spectral rule", "AUROC")].point - 0.5) < 0.1
    assert mean.high - mean.low < (hrv.high - hrv.low).mean(), "a mean over pairs is surer than one of them"
    alone = noise_detection.scores(answers[answers.patient_id == answers.patient_id.iloc[0]], n=5)
    assert alone.point.notna().any() and alone[["low", "high"]].isna().all(axis=None), "one patient has no interval"
    alarms = noise_detection.false_alarms(answers, n=50)
    clean = answers[(answers.truth == 0) & (answers.train != answers.test) & (answers.detector == "HRV")]
    expected = clean[(clean.test == "b") & (clean.rhythm == "sinus")].called.mean()
    row = alarms[(alarms.detector == "HRV") & (alarms.corpus == "b") & (alarms.rhythm == "sinus")].iloc[0]
    assert row.share == pytest.approx(expected) and row.low <= row.share <= row.high


def test_readers_come_before_a_definition():
    table = described(4).assign(by_reader=[1, 0, -1, -1], by_snr=[0, 1, 1, 0], by_beats=[0, 1, 0, -1])
    assert noise_detection.noisy(table, "by_snr").tolist() == [1, 0, 1, 0]
    assert noise_detection.noisy(table, "by_beats").tolist() == [1, 0, 0, -1]


def test_what_cannot_be_trained_is_said():
    with pytest.raises(EcgError, match="of one patient only"):
        noise_detection.train(described().assign(by_beats=0), "HRV")
    with pytest.raises(EcgError, match="of one patient only"):
        noise_detection.train(described().assign(patient_id="p"), "HRV")
    with pytest.raises(EcgError, match="did you mean 'HRV'"):
        noise_detection.train(described(), "HRW")
    with pytest.raises(EcgError, match="did you mean 'boosting'"):
        noise_detection.train(described(), "HRV", classifiers=["bosting"])


def test_from_signal_to_answer_on_made_windows():
    """Clean and drowned windows of forty people: every detector but the flags tells them apart, the title says how."""
    random = np.random.default_rng(7)
    t, strips = np.arange(1000) / 100, []
    for i in range(80):
        beats = np.cumsum(np.full(14, 0.8) + 0.02 * random.standard_normal(14)) - 0.4
        beats = beats[beats < 9.8]
        x = sum(np.exp(-(((t - b) / 0.015) ** 2)) + 0.2 * np.exp(-(((t - b - 0.25) / 0.05) ** 2)) for b in beats)
        x = x + (2.0 if i % 2 else 0.02) * random.standard_normal(1000)
        strips.append(
            Strip(f"r{i}", f"p{i // 2}", 0.0, "II", x.astype(np.float32), beats, "sinus", -10.0 if i % 2 else 30.0)
        )
    table = noise_detection.described(known(strips, "made", Cut()))
    assert (table.by_snr == [i % 2 for i in range(80)]).all() and table.by_beats.corr(table.by_snr) > 0.9
    for name in FEATURES:
        detector = noise_detection.train(table, name, "by_snr", ["logistic", "tree"])
        assert isinstance(detector, Detector) and detector.tried.auprc.max() > 0.95, name
        assert detector.title == f"{name}, best of 2 classifiers"
    assert noise_detection.train(table, "flags of cohorts", "by_snr").title == "flags of cohorts"
    assert table.flagged.sum() == 0
    flat = noise_detection.described(Windows(np.zeros((1, 1000), np.float32), 100.0, table.iloc[[0]][list(table)[:11]]))
    assert flat.flagged.tolist() == [1] and flat.n_beats.tolist() == [0] and flat.spectral.tolist() == [0.65]
