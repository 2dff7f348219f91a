"""Models of intervals: they learn what is there, keep patients apart, and are kept as text."""

import json

import numpy as np
import pytest
import torch

from ecglib import EcgError
from ecglib.data.annotations import Interval
from ecglib.evaluation.classifiers import Linear
from ecglib.rhythm import days, episodes, rr_model, transfer
from ecglib.rhythm.days import Day
from ecglib.rhythm.rr_model import Model, Settings

SETTINGS = Settings(steps=50, step=20, batch=16)


def _day(number, n=1500, corpus="one", burden=0.4, spread=0.18):
    """Regular beats with a fibrillating middle, and the marks of both."""
    random = np.random.default_rng(number)
    start, length = int(random.uniform(0.1, 0.5) * n), int(burden * n)
    rr = 0.8 + 0.04 * np.sin(np.arange(n) / 5) + random.normal(0, 0.01, n)
    rr[start : start + length] = np.clip(random.normal(0.75, spread, length), 0.35, 1.6)
    beats = np.cumsum(rr)
    edges = [beats[0], *beats[[start, start + length]], beats[-1] + 1]
    marks = [Interval(a, b, c) for a, b, c in zip(edges, edges[1:], ("N", "AFIB", "N"), strict=False) if b > a]
    return Day(f"{corpus}{number}", f"{corpus}-{number // 2}", corpus, beats, np.full(n, "N"), marks, None)


@pytest.fixture(scope="module")
def corpora():
    home = [rr_model.prepare(_day(k), SETTINGS) for k in range(8)]
    away = [rr_model.prepare(_day(k, corpus="two", burden=0.3 * (k % 3)), SETTINGS) for k in range(20, 26)]
    return {"one": home, "two": away}


@pytest.fixture(scope="module")
def judgements(corpora):
    return transfer.judge(corpora, ["one"], list(rr_model.KINDS), 4, SETTINGS)


def test_every_kind_finds_the_episodes_in_both_corpora(corpora, judgements):
    table = transfer.table(judgements, corpora, n=50)
    point = table.set_index(["model", "test", "score"])["point"]
    for kind in rr_model.KINDS:
        for test in corpora:
            assert point[kind, test, "AUROC"] > 97, (kind, test)
            assert point[kind, test, "burden error"] < 6, (kind, test)
            assert point[kind, test, "episode sensitivity"] == 100, (kind, test)
        assert point[kind, "two", "false hours a day"] < 1
    assert (table["low"].fillna(0) <= table["point"].fillna(0)).all()


def test_folds_keep_patients_together_and_thresholds_come_from_other_patients(corpora, monkeypatch):
    records = corpora["one"]
    fold = rr_model.folds(records, 4)
    of_patient = {}
    for record, number in zip(records, fold, strict=True):
        assert of_patient.setdefault(record.day.patient_id, number) == number
    seen, asked = [], []
    constant = Model("entropy", Linear(np.zeros((1, 1)), np.zeros(1)), SETTINGS)
    monkeypatch.setattr(rr_model, "fit", lambda kind, some, settings: seen.append(some) or constant)
    monkeypatch.setattr(rr_model, "chosen_threshold", lambda some, p, rules: asked.append(some) or 0.5)
    rr_model.cross_fitted("entropy", records, 4, SETTINGS)
    for group in (seen, asked):
        for k, some in enumerate(group[:-1]):
            judged = {r.day.patient_id for r, f in zip(records, fold, strict=True) if f == k}
            assert judged and not judged & {r.day.patient_id for r in some}
        assert len(group[-1]) == len(records)


def test_the_threshold_is_that_of_the_smallest_burden_error(corpora):
    records = corpora["one"]
    p = [np.where(record.truth == 1, 0.62, 0.38) for record in records]
    assert 0.4 <= rr_model.chosen_threshold(records, p) <= 0.6
    shifted = [x / 2 for x in p]
    assert 0.2 <= rr_model.chosen_threshold(records, shifted) < 0.31


def test_unknown_rhythms_and_gaps_are_not_judged():
    day = _day(3)
    half = Day(day.record_id, day.patient_id, "one", day.beats, day.kinds, day.rhythms[:1], None)
    record = rr_model.prepare(half, SETTINGS)
    row = rr_model.judged(record, np.full(len(day.beats), 0.9), 0.5)
    known = day.rhythms[0].end - day.rhythms[0].start
    assert row["analysed_s"] == pytest.approx(known, abs=2) and row["burden"] == 0
    assert row["burden_called"] == pytest.approx(100, abs=2), "calls where nothing is known do not count"
    assert rr_model.judged(record, np.full(len(day.beats), np.nan), 0.5) is None


def test_a_window_of_which_half_is_fibrillation_is_none():
    """Of 61 beats 31 make it one, 30 do not; one beat of unknown rhythm makes it unknown."""
    truth = np.zeros(122, np.int8)
    truth[:30] = 1
    day = Day("r", "p", "c", np.arange(122) * 0.8, np.full(122, "N"), [], None)
    record = rr_model.Prepared(day, np.array([0, 61]), np.zeros((2, 10)), truth)
    assert record.share.tolist() == [30 / 61, 0] and not (record.share > 0.5).any()
    truth[30] = 1
    assert record.share[0] == 31 / 61 > 0.5
    truth[100] = days.UNKNOWN
    assert np.isnan(record.share[1])


def test_a_model_is_kept_as_text_and_says_the_same(corpora, judgements, tmp_path):
    for judgement in judgements:
        model, record = judgement.model, corpora["two"][1]
        path = tmp_path / f"{model.kind}.json"
        rr_model.save(model, path)
        again = rr_model.load(path)
        np.testing.assert_allclose(again.probabilities(record), model.probabilities(record), atol=1e-6)
        np.testing.assert_array_equal(again.episodes(record), model.episodes(record))
        assert again.threshold == model.threshold and again.settings.positive == model.settings.positive
    content = json.loads((tmp_path / "entropy.json").read_text())
    for wrong in ("", "[]", json.dumps(content | {"rules": {"x": 1}}), json.dumps({**content, "weights": {}})):
        path.write_text(wrong)
        with pytest.raises(EcgError, match="not a model of intervals"):
            rr_model.load(path)


def test_each_output_of_the_network_sees_61_intervals():
    network = rr_model.Network(4).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.fill_(0.1)  # so that nothing is cut off on the way
    x = torch.zeros(1, 2, 200)
    changed = x.clone()
    changed[0, 0, 100] = 3.0
    seen = torch.nonzero((network(x) != network(changed))[0])[:, 0]
    assert (seen.min(), seen.max()) == (70, 130)


def test_a_corpus_that_cannot_teach_is_refused(corpora):
    with pytest.raises(EcgError, match="4 patients in the corpus 'one', 5 folds"):
        transfer.judge(corpora, ["one"], ["entropy"], 5, SETTINGS)
    healthy = [rr_model.prepare(_day(k, burden=0.0), SETTINGS) for k in range(4)]
    for kind in rr_model.KINDS:
        with pytest.raises(EcgError, match="only one of fibrillation and none"):
            rr_model.fit(kind, healthy, SETTINGS)
    with pytest.raises(EcgError, match="unknown model 'oracle'"):
        rr_model.fit("oracle", healthy, SETTINGS)


def test_calls_by_rhythm_count_every_marked_hour(corpora, judgements):
    table = transfer.by_rhythm(judgements[0], corpora).set_index(["test", "rhythm"])
    assert table.loc[("one", "AFIB"), "percent called"] > 85 and table.loc[("one", "N"), "percent called"] < 10
    hours = sum(float(np.diff(episodes.from_beats(r.day.beats, r.truth == 1)).sum()) for r in corpora["one"]) / 3600
    assert table.loc[("one", "AFIB"), "hours"] == pytest.approx(hours)


def test_weighted_medians_equal_medians_of_repeated_values():
    random = np.random.default_rng(0)
    for n in (1, 2, 7, 8):
        values, weights = random.normal(size=n), random.integers(0, 4, n)
        repeated = np.repeat(values, weights)
        wanted = np.median(repeated) if len(repeated) else np.nan
        np.testing.assert_allclose(transfer._weighted_median(values, weights), wanted)


def test_days_without_any_rhythm_are_described(corpora):
    table = days.described({"one": [record.day for record in corpora["one"]]}, ("AFIB",))
    assert table["AF episodes"][0] == 8 and table["patients with AF"][0] == 4


def test_the_model_for_whoever_has_none_is_what_the_afdb_teaches(real_data):
    settings = Settings(step=15)
    records = [rr_model.prepare(day, settings) for day in days.days(real_data / "afdb", "afdb")]
    _, _, learned = rr_model.cross_fitted("entropy", records, 4, settings)
    ours = rr_model.default()
    np.testing.assert_allclose([ours.fitted.weight[0, 0], ours.fitted.bias[0]], [5.84, 8.27])
    np.testing.assert_allclose(learned.fitted.weight, ours.fitted.weight, atol=0.005)
    np.testing.assert_allclose(learned.fitted.bias, ours.fitted.bias, atol=0.005)
    assert learned.threshold == ours.threshold and ours.settings.step == settings.step
