"""The U-Net for waves: sizes, losses, what it learns; boundaries, their matching and errors; intervals."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from ecglib import EcgError, models
from ecglib.training.train import Settings
from ecglib.waves import delineation, delineation_net, delineation_scores, delineation_study, intervals, peers
from ecglib.waves.marked import FS, Marked

NONE = np.zeros((0, 3))


def test_sizes_and_lengths_are_those_of_the_papers_description():
    sizes = {size: models.n_parameters(delineation_net.DelNet(size)) for size in delineation_net.SIZES}
    assert sizes == {"published": 9_977_667, "small": 116_851, "tiny": 75_091}
    network = delineation_net.DelNet("tiny")
    assert [network(torch.zeros(2, 1, n)).shape for n in (2048, 1001)] == [(2, 3, 2048), (2, 3, 1001)]


def test_losses_are_overlap_over_union_and_ignore_what_nobody_marked(monkeypatch):
    monkeypatch.setattr(delineation_net, "EPS", 0.0)
    a, b = torch.zeros(1, 1, 10), torch.zeros(1, 1, 10)
    a[..., 2:6], b[..., 4:8] = 1, 1
    valid = torch.ones(1, 1, 10)
    assert delineation_net.jaccard_loss(a, b, valid).item() == pytest.approx(1 - 1 / 3)
    assert delineation_net.dice_loss(a, b, valid).item() == pytest.approx(1 - 1 / 2)
    valid[..., 2:4] = 0
    assert delineation_net.jaccard_loss(a, b, valid).item() == pytest.approx(1 - 2 / 4)


def test_runs_are_closed_over_short_gaps_and_splinters_go():
    p = np.zeros((3, 400), np.float32)
    p[0, 10:30], p[0, 50:60], p[0, 200:203] = 1, 1, 1  # a gap of 20 samples; 12 ms
    p[1, 40:60], p[1, 130:150] = 1, 1  # a gap of 70
    found = delineation.waves(p)
    assert found["P"][:, [0, 2]].tolist() == [[10, 59]]
    assert found["QRS"][:, [0, 2]].tolist() == [[40, 59], [130, 149]] and not len(found["T"])


def test_leads_together_give_the_median_of_those_that_agree():
    p = np.zeros((4, 3, 200), np.float32)
    for lead, (on, off) in enumerate([(50, 80), (52, 82), (54, 90), (20, 84)]):  # the last begins far too early
        p[lead, 1, on : off + 1] = 1
    assert delineation.fused(p)["QRS"][:, [0, 2]].tolist() == [[52.0, 83.0]]


def with_calls(p_at, shape_of, n_leads=2, n_beats=11):
    """A recording of ten seconds whose network has called P at the samples `p_at`, QRS at every beat, in each lead."""
    random, time = np.random.default_rng(0), np.arange(2500)
    x, p = 0.005 * random.normal(size=(n_leads, 2500)), np.zeros((n_leads, 3, 2500), np.float32)
    for at in 120 + 220 * np.arange(n_beats):
        x += np.exp(-0.5 * ((time - at) / 4) ** 2)
        p[:, 1, at - 12 : at + 13] = 1
    for number, at in enumerate(p_at):
        x[:, at - 20 : at + 20] += shape_of(number, random, n_leads)
        p[:, 0, at - 12 : at + 13] = 1
    waves = ({"P": NONE, "QRS": NONE, "T": NONE},) * n_leads
    spans = ([(0.0, 2500.0)],) * n_leads
    return Marked("r", "p", "", x.astype(np.float32), ("II", "V1")[:n_leads], waves, spans, True), p


def p_wave(number, random, n_leads):
    return 0.15 * np.exp(-0.5 * ((np.arange(40) - 20) / 6) ** 2)


def f_wave(number, random, n_leads):
    phase, bend = random.uniform(0, 2 * np.pi, 2)
    return 0.1 * np.sin(np.arange(40) * 2 * np.pi * 6 / FS + phase) * (1 + 0.5 * np.sin(np.arange(40) / 9 + bend))


@pytest.mark.parametrize("per_lead", [True, False])
def test_p_waves_that_are_unlike_one_another_are_none(per_lead):
    """What fibrillation leaves before a beat passes for a P wave in two seconds, not among ten others."""
    before = 80 + 220 * np.arange(11)
    free = np.arange(60, 2450, 157)  # another rate than that of the beats: a third-degree block
    for at, shape, n in ((before, p_wave, 11), (free, p_wave, len(free)), (before, f_wave, 0), (before[:2], p_wave, 0)):
        one, p = with_calls(at, shape)
        found = delineation_study.as_marked(replace(one, per_lead=per_lead), p, delineation.THRESHOLDS)
        assert len(found) == (2 if per_lead else 1)
        assert [len(each["P"]) for each in found] == [n] * len(found)
        assert all(len(each["QRS"]) == 11 for each in found)
    one, p = with_calls(before[:2], p_wave, n_beats=3)
    short = replace(one, signal=one.signal[:, :700])
    found = delineation_study.as_marked(short, p[..., :700], delineation.THRESHOLDS)
    assert [len(each["P"]) for each in found] == [2, 2]  # too short to say that others are missing


def test_only_the_part_that_fibrillates_loses_its_p_waves():
    (sinus, p), (fibrillation, q) = (with_calls(80 + 220 * np.arange(11), shape) for shape in (p_wave, f_wave))
    both = replace(sinus, signal=np.concatenate([sinus.signal, fibrillation.signal], axis=1))
    (found, _) = delineation_study.as_marked(both, np.concatenate([p, q], axis=2), delineation.THRESHOLDS)
    assert len(found["P"]) == 11 and found["P"][:, 2].max() < 2500 and len(found["QRS"]) == 22


def test_likeness_is_the_mean_correlation_with_the_median_of_the_others():
    x = np.random.default_rng(2).normal(size=(2, 1000)) + np.sin(np.arange(1000) / 9)
    middle = np.array([5, 100, 250, 420, 600, 990])  # the first and the last are cut off
    waves = np.stack([middle - 10.0, np.full(6, np.nan), middle + 10.0], axis=1)
    parts, by_hand = [x[:, at - 20 : at + 20] for at in middle[1:-1]], []
    for k, part in enumerate(parts):
        median = np.median([other for j, other in enumerate(parts) if j != k], axis=0)
        level = [each - each.mean(axis=1, keepdims=True) for each in (part, median)]
        by_hand.append(np.corrcoef(level[0].ravel(), level[1].ravel())[0, 1])
    assert delineation.p_likeness(x, waves) == pytest.approx(np.mean(by_hand), abs=1e-9)
    assert np.isnan(delineation.p_likeness(x, waves[[0, 1, 2]]))


def test_a_split_call_is_one_hit_and_one_false_and_late_is_positive():
    truth = np.array([[100.0, np.nan, 120]])
    calls = np.array([[90.0, np.nan, 104], [108, np.nan, 118]])
    marked_waves, called = {"P": NONE, "QRS": truth, "T": NONE}, {"P": NONE, "QRS": calls, "T": NONE}
    rows = delineation_scores.compared(marked_waves, called, [(0, 300)])
    by = {(row["wave"], row["rule"]): row for row in rows}
    for rule in delineation_scores.RULES:
        row = by["QRS", rule]
        assert (row["tp"], row["fn"], row["fp"]) == (1, 0, 1)
        assert (row["onset_sum"], row["offset_sum"]) == (8 * 4, -2 * 4)
    outside = delineation_scores.compared(marked_waves, called, [(110, 300)])
    assert [row["fp"] for row in outside if row["wave"] == "QRS"] == [
        0,
        0,
    ]  # the first call lies before the marked part


def test_an_unmarked_onset_is_not_asked_for_and_half_a_second_of_t_is_no_hit():
    truth = np.array([[np.nan, 200.0, 230]])
    near, wide = np.array([[150.0, np.nan, 236]]), np.array([[150.0, np.nan, 280]])
    for calls, hits in ((near, [1, 1]), (wide, [0, 1])):  # 150 ms, overlap
        assert [len(delineation_scores.matched(truth, calls, rule)[0]) for rule in delineation_scores.RULES] == hits


def test_pooled_statistics_are_those_of_all_errors_together():
    random, rows, errors = np.random.default_rng(0), [], []
    for record in range(6):
        qrs = np.arange(5)[:, None] * 200.0 + [100, 110, 120]
        error = random.integers(-5, 6, 5)
        calls = qrs + np.stack([error, error * 0, -error], axis=1)
        errors += (error * 4.0).tolist()
        waves, about = {"P": NONE, "QRS": qrs, "T": NONE}, (f"r{record}", f"p{record // 2}", "")
        one = Marked(*about, np.zeros((1, 1200)), ("II",), (waves,), ([(0, 1200)],), False)
        rows += delineation_scores.of_recording(one, [{"P": NONE, "QRS": calls, "T": NONE}])
    found = delineation_scores.pooled(pd.DataFrame(rows), ("wave", "rule"), n=50)
    row = found[(found.wave == "QRS") & (found.rule == "150 ms")].iloc[0]
    assert row.marked == 30 and row.patients == 3 and row.f1 == 1 and row.ppv == 1
    assert row.onset_mean == pytest.approx(np.mean(errors)) and row.onset_sd == pytest.approx(np.std(errors, ddof=1))
    assert row.onset_within == pytest.approx(np.mean(np.abs(errors) <= 6.5))
    assert row.onset_mean_low <= row.onset_mean <= row.onset_mean_high


def drawn(record: int, seed: int = 0) -> Marked:
    """Six seconds with bell-shaped P, QRS and T at known places."""
    random = np.random.default_rng(seed + record)
    time, rr = np.arange(1500), int(random.integers(170, 230))
    starts, x, waves = np.arange(60, 1380, rr), np.zeros(1500), {"P": [], "QRS": [], "T": []}
    for start in starts:
        for wave, at, width, height in (("P", 0, 14, 0.15), ("QRS", 40, 8, 1.0), ("T", 105, 28, 0.3)):
            x += height * np.exp(-0.5 * ((time - start - at) / (width / 2.5)) ** 2)
            waves[wave].append([start + at - width, start + at, start + at + width])
    waves = {wave: np.array(rows, float) for wave, rows in waves.items()}
    signal = (x + 0.01 * random.normal(size=1500)).astype(np.float32)[None]
    span = (waves["P"][0, 0], waves["T"][-1, 2])
    return Marked(f"r{record}", f"p{record}", "", signal, ("II",), (waves,), ([span],), True)


SOURCE = {"corpus": "simulated", "root": ".", "splits": ["train"]}
SETTINGS = Settings(steps=60, batch_size=6, lr=0.02, warmup=5)


@pytest.fixture(scope="module")
def trained():
    recordings = [drawn(k) for k in range(12)]
    return delineation_study.train(recordings[:5], recordings[5:6], SETTINGS, size="tiny"), recordings[6:]


def test_it_learns_where_waves_are(trained, tmp_path):
    network, recordings = trained
    rows = [row for one in recordings for row in delineation_study.scored(one, {"net": network.called(one)})]
    scores = delineation_scores.pooled(pd.DataFrame(rows), ("wave", "rule"), n=20).set_index(["wave", "rule"])
    assert (scores.loc[[("QRS", "150 ms"), ("P", "150 ms"), ("T", "150 ms")], "f1"] > 0.9).all()
    assert abs(scores.loc[("QRS", "150 ms"), "onset_mean"]) < 20
    delineation_net.save(network.network, network.thresholds, tmp_path / "d.safetensors")
    again, thresholds = delineation_net.load(tmp_path / "d.safetensors")
    x = recordings[0].signal
    np.testing.assert_array_equal(
        delineation_net.probabilities(again, x), delineation_net.probabilities(network.network, x)
    )
    assert thresholds == network.thresholds
    (tmp_path / "e.safetensors").write_bytes(b"no")
    with pytest.raises(EcgError, match="not a checkpoint"):
        delineation_net.load(tmp_path / "e.safetensors")


def test_a_network_goes_on_from_the_weights_of_an_earlier_one(trained):
    network, recordings = trained
    before = {name: tensor.clone() for name, tensor in network.network.state_dict().items()}
    plans = {"first": {}, "second": {"begins": "first", "steps": 1, "lr": 1e-9}}
    plans = {name: {"learned": SOURCE, "held": SOURCE} | plan for name, plan in plans.items()}
    few = {name: recordings[:2] for name in plans}
    settings = Settings(steps=2, batch_size=2, lr=0.02, warmup=1)
    both = delineation_study.train_all(plans, few, few, settings, size="tiny")
    first, second = (dict(both[name].network.named_parameters()) for name in plans)
    random = dict(delineation_net.DelNet("tiny").named_parameters())
    weights = [name for name in first if name.endswith("weight") and first[name].ndim == 4]
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in weights)
    assert not any(torch.allclose(first[name], random[name], atol=1e-6) for name in weights)
    tuned = delineation_study.train(recordings[:2], recordings[:1], settings, "tiny", begins=network.network)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.network.state_dict().items())
    assert not torch.equal(dict(tuned.network.named_parameters())[weights[0]], before[weights[0]])


@pytest.mark.parametrize(
    ("plans", "said"),
    [
        ({}, "no network"),
        ({"a": {"learned": SOURCE}}, "a has no held"),
        ({"a": {"learned": SOURCE, "held": SOURCE, "stpes": 3}}, "steps"),
        ({"a": {"learned": SOURCE, "held": SOURCE | {"corpus": "lubd"}}}, "ludb"),
        ({"a": {"learned": SOURCE, "held": SOURCE, "begins": "b"}, "b": {"learned": SOURCE, "held": SOURCE}}, "begins"),
    ],
)
def test_a_plan_that_cannot_be_trained_is_refused(plans, said):
    with pytest.raises(EcgError, match=said):
        delineation_study.check_plans(plans, {"A": SOURCE}, "small", "jaccard")


def test_nobody_is_judged_who_has_taught():
    plans, judged = {"a": {"learned": SOURCE, "held": SOURCE}}, {"A": SOURCE, "B": SOURCE | {"hospital": "B"}}
    met, others = [drawn(1), drawn(2)], [drawn(3)]
    delineation_study.check_apart(plans, {"a": met}, judged, {"A": others, "B": met})  # B is another hospital
    with pytest.raises(EcgError, match="1 patients of A .* p2"):
        delineation_study.check_apart(plans, {"a": met}, judged, {"A": [*others, drawn(2)], "B": met})


def test_all_leads_help_to_find_what_one_cannot_see():
    p = np.zeros((4, 3, 200), np.float32)
    p[:3, 2, 50:90] = 1  # the fourth lead does not see T
    mixed = delineation.with_other_leads(p, 0.8)
    assert mixed[3, 2, 60] == pytest.approx(0.8 * 3 / 4) and mixed[0, 2, 60] == pytest.approx(0.2 + 0.8 * 3 / 4)
    assert not mixed[..., :50].any() and delineation.waves(mixed[3])["T"][:, [0, 2]].tolist() == [[50, 89]]


def test_programs_of_others_are_asked_where_they_are_installed(monkeypatch):
    with pytest.raises(EcgError, match="neurokit2"):
        peers.installed(["neurokit"])
    monkeypatch.setattr(peers.util, "find_spec", lambda name: None if name == "ai_edge_litert" else name)
    assert peers.installed(["neurokit2", "openecg"]) == ["neurokit2"]
    ends = {"ECG_P_Onsets": [10, np.nan], "ECG_P_Offsets": [20, 70], "ECG_R_Onsets": [30, 90]}
    ends |= {"ECG_R_Offsets": [40, 99], "ECG_T_Onsets": [np.nan, 120], "ECG_T_Offsets": [60, 140]}
    named = {"ecg_clean": lambda x, **_: x, "ecg_peaks": lambda x, **_: (None, {"ECG_R_Peaks": [35, 95]})}
    named["ecg_delineate"] = lambda x, peaks, **_: (None, ends)
    monkeypatch.setitem(sys.modules, "neurokit2", SimpleNamespace(**named))
    one = drawn(0)
    said = delineation_study.calls(one, {}, ["neurokit2"])
    (found,), (alone,), (together,) = (said[name] for name in ("neurokit2", "median beat", "median beat, all leads"))
    np.testing.assert_array_equal(alone["QRS"], together["QRS"])  # it has one lead
    assert found["P"][:, [0, 2]].tolist() == [[10, 20]] and found["T"][:, [0, 2]].tolist() == [[120, 140]]
    assert found["QRS"][:, [0, 2]].tolist() == [[30, 99]]  # gaps up to 200 ms are closed, as for a network
    named["ecg_peaks"] = lambda x, **_: (None, {})
    monkeypatch.setitem(sys.modules, "neurokit2", SimpleNamespace(**named))
    assert not peers.masks("neurokit2", one.signal).any()
    parts = [[SimpleNamespace(name="P", start=5, end=9)], [SimpleNamespace(name="QRS", start=0, end=4)]]
    monkeypatch.setattr(peers, "_openecg", lambda: SimpleNamespace(predict=lambda x: parts))
    marks = peers.masks("openecg", np.zeros((1, 3000)))[0]
    assert np.flatnonzero(marks[0]).tolist() == [5, 6, 7, 8, 9]
    assert np.flatnonzero(marks[1]).tolist() == [2500, 2501, 2502, 2503, 2504] and not marks[2].any()


def test_the_median_beat_marks_every_beat():
    one = drawn(3)
    found = delineation.by_median_beat(one.signal)
    truth = one.waves[0]["QRS"]
    assert len(found["QRS"]) == len(truth) and abs(found["QRS"][:, [0, 2]] - truth[:, [0, 2]]).max() * 1000 / FS < 60
    assert delineation.by_median_beat(np.zeros((2, 2500)))["QRS"].shape == (0, 3)


def test_intervals_are_medians_over_beats_and_agreement_is_that_of_bland_and_altman():
    waves = one_beat = {"P": [[0, 5, 10]], "QRS": [[40, 50, 65]], "T": [[90, 110, 140]]}
    waves = {
        wave: np.concatenate([np.array(rows, float) + shift for shift in (0, 250, 500)])
        for wave, rows in one_beat.items()
    }
    waves["QRS"][1, 2] += 10
    assert intervals.measured(waves) == {"PR": 160, "QRS": 100, "QT": 400}
    assert np.isnan(intervals.measured({"P": NONE, "QRS": waves["QRS"], "T": NONE})["PR"])
    random = np.random.default_rng(1)
    truth, error = random.normal(400, 30, 40), random.normal(5, 10, 40)
    table = pd.DataFrame({"patient_id": np.arange(40).astype(str), "truth": truth, "measured": truth + error})
    table.loc[0, "measured"] = np.nan
    found = intervals.agreement(table.assign(method="a", interval="QT"), n=50).iloc[0]
    kept = error[1:]
    assert found.records == 39 and found.measured_share == 39 / 40 and found.bias == pytest.approx(kept.mean())
    assert found.loa_high == pytest.approx(kept.mean() + 1.96 * kept.std(ddof=1), rel=1e-3)
