"""The loop: a hand-written loop as oracle, interruption at any moment, two processes, bad input."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort
from torch import nn

from ecglib import EcgError, models, objectives
from ecglib.training import batches, checkpoint, train

TINY = dict(stem=8, widths=(8, 8), blocks=(1, 1), group_width=4)


@pytest.fixture(scope="module")
def cohort():
    return MemoryCohort()


@pytest.fixture
def data(cohort):
    return batches.CohortData(cohort, cohort.rows("train"), labels=NAMES)


def toy(**params):
    encoder = models.build("net1d", "small", 12, seed=1, **TINY)
    return objectives.build("supervised", encoder, n_labels=len(NAMES), loss="bce", **params)


def files(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def test_learning_rate_warms_up_and_follows_half_a_cosine():
    rates = [train.learning_rate(s, 100, 0.4, 10) for s in range(100)]
    assert rates[0] == pytest.approx(0.04) and rates[9] == pytest.approx(0.4) == max(rates)
    assert rates[55] == pytest.approx(0.2) and rates[-1] < 1e-3
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_fit_equals_a_loop_written_out(data, tmp_path):
    """Oracle: plain PyTorch, the same order, learning rate, clipping and decay of matrices only."""
    objective, plain = toy(), toy()
    history = train.fit(
        objective,
        data,
        tmp_path,
        settings=train.Settings(steps=6, batch_size=8, lr=1e-2, weight_decay=0.1, warmup=2, clip=0.5),
    )
    matrices = [p for p in plain.parameters() if p.ndim > 1]
    vectors = [p for p in plain.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}])
    losses = []
    for step in range(6):
        order = np.random.default_rng([0, step // 3]).permutation(24)
        batch = data.batch(order[8 * (step % 3) : 8 * (step % 3) + 8])
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * ((step + 1) / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 4)))
        loss = nn.functional.binary_cross_entropy_with_logits(plain.logits(batch.x), batch.labels.float())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    for ours, theirs in zip(objective.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_fit_leaves_three_files_with_the_same_bytes_each_time(data, tmp_path):
    for folder in ("one", "two"):
        torch.rand(1)  # the caller's generator has no influence
        train.fit(
            toy(lead_dropout=0.2, shift=True),
            data,
            tmp_path / folder,
            settings=train.Settings(steps=4, batch_size=8, checkpoint_every=1),
        )
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert sorted(one) == ["encoder.json", "encoder.safetensors", "history.csv", "objective.safetensors"] and one == two
    assert list(pd.read_csv(tmp_path / "one/history.csv").columns) == ["step", "loss", "known", "lr"]
    assert json.loads(one["encoder.json"])["info"]["objective"]["objective"] == "supervised"


def test_the_moving_average_of_the_weights_is_what_remains(data):
    """Oracle: the average written out over the weights after each step; validation sees it, training does not."""
    after, validated, settings = [], [], dict(steps=6, batch_size=8, lr=1e-2)
    weights = {k: v.clone() for k, v in toy().state_dict().items()}

    def val(objective):
        validated.append({k: v.clone() for k, v in objective.state_dict().items()})
        return {"val_score": 0.0}

    for steps in range(1, 7):  # a plain training, stopped after each step of the same schedule
        plain = toy()
        schedule = train.learning_rate
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "learning_rate", lambda step, _, *rest, rate=schedule: rate(step, 6, *rest))
            train.fit(plain, data, settings=train.Settings(**settings | dict(steps=steps)))
        after.append(plain.state_dict())
    objective = toy()
    train.fit(objective, data, settings=train.Settings(**settings, average=0.8, val_every=2), val=val)
    expected = []
    for state in after:
        weights = {k: 0.8 * v + 0.2 * state[k] for k, v in weights.items()}
        expected.append(weights)
    for found, known in ((objective.state_dict(), expected[5]), (validated[0], expected[1])):
        for name, value in found.items():
            torch.testing.assert_close(value, known[name], rtol=1e-5, atol=1e-7)


def test_best_weights_on_validation_are_kept(data):
    scores = iter([0.1, 0.9, 0.3])
    seen = []

    def val(objective):
        seen.append({k: v.clone() for k, v in objective.state_dict().items()})
        return {"val_score": next(scores)}

    objective = toy()
    history = train.fit(
        objective, data, settings=train.Settings(steps=6, batch_size=8, lr=0.01, val_every=2, select="best"), val=val
    )
    assert history["val_score"].dropna().tolist() == [0.1, 0.9, 0.3]
    assert all(torch.equal(v, seen[1][k]) for k, v in objective.state_dict().items())
    assert not torch.equal(seen[1]["head.weight"], seen[2]["head.weight"])


def test_an_encoder_at_a_lower_rate_under_a_constant_schedule_equals_a_loop_written_out(data):
    objective, plain = toy(), toy()
    rates = dict(schedule="constant", encoder_rate=0.1, warmup=2)
    train.fit(objective, data, settings=train.Settings(steps=4, batch_size=24, lr=1e-2, weight_decay=0, **rates))
    head, encoder = plain.head.parameters(), plain.encoder.parameters()
    optimizer = torch.optim.AdamW([{"params": head, "share": 1}, {"params": encoder, "share": 0.1}], weight_decay=0)
    for step in range(4):
        batch = data.batch(np.random.default_rng([0, step]).permutation(24))
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * (5e-3 if step == 0 else 1e-2)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(plain.logits(batch.x), batch.labels.float()).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    for ours, theirs in zip(objective.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_training_ends_when_validation_has_not_improved_for_so_long(data):
    scores = iter([0.1, 0.5, 0.5, 0.4, 0.9])
    settings = train.Settings(steps=10, batch_size=8, val_every=2, select="best", patience=2)
    history = train.fit(toy(), data, settings=settings, val=lambda objective: {"val_score": next(scores)})
    assert len(history) == 8 and history["val_score"].dropna().tolist() == [0.1, 0.5, 0.5, 0.4]


def test_validation_loss_is_the_mean_over_records(cohort, data):
    val = batches.CohortData(cohort, cohort.rows("val"), labels=NAMES)
    objective = toy().eval()
    history = train.fit(objective, data, settings=train.Settings(steps=1, batch_size=8), val=val)
    assert history["val_loss"].item() == pytest.approx(
        objective.eval()(val.batch(np.arange(len(val))))[0].item(), rel=1e-5
    )


def test_validation_draws_the_same_every_time(cohort, data):
    """Else the curve would show the luck of the masks, and "best" would keep it."""
    objective = objectives.build("jepa", models.build("vit1d", "small", 12))
    validate = train.mean_loss(data)
    objective.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        first = validate(objective)
        after = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(1), after), "the caller's generator goes on as if nothing had been drawn"
        assert validate(objective) == first


KILLED = """
import sys, time, torch
sys.path[:0] = {tests!r}
from test_train import MemoryCohort, NAMES, batches, slow_fit
torch.set_num_threads(1)
cohort = MemoryCohort()
slow_fit(batches.CohortData(cohort, cohort.rows("train"), labels=NAMES), {out!r}, lambda row: time.sleep(0.2))
"""


def slow_fit(data, out, progress=None):
    objective = toy(lead_dropout=0.2)
    return train.fit(
        objective,
        data,
        out,
        settings=train.Settings(40, 8, lr=0.01, checkpoint_every=3, val_every=7, select="best", average=0.9),
        val=lambda o: {"val_score": -float(o.head.weight.abs().sum())},
        progress=progress,
    )


def test_a_killed_training_resumes_and_ends_with_the_same_bytes(data, tmp_path):
    torch.set_num_threads(1)
    code = KILLED.format(
        tests=[os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))], out=str(tmp_path / "killed")
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    partial = tmp_path / "killed" / train.CHECKPOINT
    while not partial.exists():
        assert process.poll() is None, "ended before the first checkpoint"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = checkpoint.read(partial)[1]["step"]
    assert 0 < step < 40 and not (tmp_path / "killed/history.csv").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slow_fit(data, tmp_path / "killed")
        slow_fit(data, tmp_path / "whole")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_checkpoint_of_another_training_is_not_continued(data, tmp_path):
    class Stop(Exception):
        pass

    def stop(row):
        if row["step"] == 3:
            raise Stop

    with pytest.raises(Stop):
        train.fit(
            toy(), data, tmp_path, settings=train.Settings(steps=4, batch_size=8, checkpoint_every=1), progress=stop
        )
    with pytest.warns(UserWarning, match="another training"):
        history = train.fit(toy(), data, tmp_path, settings=train.Settings(steps=4, batch_size=8, lr=0.5))
    assert len(history) == 4
    (tmp_path / train.CHECKPOINT).write_bytes(b"half")
    with pytest.raises(EcgError, match="not a checkpoint"):
        train.fit(toy(), data, tmp_path, settings=train.Settings(steps=4, batch_size=8))


def test_two_processes_follow_one_at_the_same_global_batch(cohort, data, tmp_path):
    one, two = toy(), toy()
    single = train.fit(one, data, tmp_path / "one", settings=train.Settings(steps=5, batch_size=8, lr=0.01))
    double = train.fit(
        two,
        data,
        tmp_path / "two",
        settings=train.Settings(steps=5, batch_size=8, lr=0.01, devices=2, strategy="ddp_spawn"),
    )
    np.testing.assert_allclose(double["loss"], single["loss"], rtol=1e-5)
    for ours, theirs in zip(two.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    with pytest.raises(EcgError, match="out_dir"):
        train.fit(toy(), data, settings=train.Settings(steps=1, devices=2))


class Poisoned:
    """Data in which record 5 is not finite."""

    def __init__(self, data):
        self.data, self.record_ids = data, data.record_ids

    def __len__(self):
        return len(self.data)

    def batch(self, index):
        batch = self.data.batch(index)
        bad = torch.from_numpy(np.asarray(index) == 5)[:, None, None]
        return batch._replace(x=batch.x.masked_fill(bad, math.nan))


def test_a_contrastive_task_that_is_solved_at_once_is_said(data):
    """Two identical views are told apart from the first step on; views that share nothing are not."""
    easy = dict(noise_rms=0.0, masked=0.0)
    encoder = models.build("net1d", "small", 12, seed=1, **TINY)
    settings = train.Settings(steps=20, batch_size=8, lr=1e-4)
    with pytest.warns(UserWarning, match="100% of the pairs are told apart at step 1 of 20.*harder") as seen:
        train.fit(objectives.build("simclr", encoder, **easy), data, settings=settings)
    assert len([w for w in seen if "told apart" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train.fit(toy(), data, settings=settings)


def test_a_loss_that_is_not_finite_stops_and_names_the_records(data, tmp_path):
    with pytest.raises(EcgError, match=data.record_ids[5]) as error:
        train.fit(toy(), Poisoned(data), tmp_path, settings=train.Settings(steps=9, batch_size=4, checkpoint_every=1))
    assert "loss" in str(error.value)
    assert not (tmp_path / "encoder.safetensors").exists()


class Infinite(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_gradient_that_is_not_finite_stops_and_names_the_records_of_its_batch(data, tmp_path, clip):
    objective = toy()
    terms, calls = objective.terms, []

    def poisoned(z, target):
        calls.append(1)
        return terms(Infinite.apply(z) if len(calls) == 3 else z, target)

    objective.terms = poisoned
    with pytest.raises(EcgError, match="gradient norm is .* at step 2") as error:
        train.fit(objective, data, tmp_path, settings=train.Settings(steps=9, batch_size=4, clip=clip))
    order = np.random.default_rng([0, 0]).permutation(24)
    named = {name for name in data.record_ids if name in str(error.value)}
    assert named == set(data.record_ids[order[8:12]])
    assert all(torch.isfinite(p).all() for p in objective.parameters())


def test_no_weights_are_best_when_the_score_is_not_a_number(data):
    for scores in ({"val_score": math.nan}, {"loss": 1.0}):
        with pytest.raises(EcgError, match="validation score is nan"):
            train.fit(
                toy(), data, settings=train.Settings(steps=2, batch_size=8, select="best"), val=lambda _, s=scores: s
            )
    train.fit(toy(), data, settings=train.Settings(steps=2, batch_size=8), val=lambda _: {"val_score": math.nan})


def test_arguments_that_do_not_fit_are_refused(cohort, data):
    with pytest.raises(EcgError, match="select"):
        train.fit(toy(), data, settings=train.Settings(steps=1, select="best"))
    with pytest.raises(EcgError, match="precision"):
        train.fit(toy(), data, settings=train.Settings(steps=1, precision="16-mixed"))


def test_progress_is_one_line_with_step_loss_and_time_left(data, capfd):
    history = train.fit(
        toy(), data, settings=train.Settings(steps=3, batch_size=8), progress=train.ProgressBar(3, "toy")
    )
    shown = capfd.readouterr()
    last = shown.err.rstrip().split("\r")[-1]
    assert "\n" not in shown.err.rstrip() and shown.out == ""
    assert "toy" in last and "3/3" in last and f"loss={history.loss.iloc[-1]:.4g}" in last
