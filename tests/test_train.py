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

from ecglib import checkpoint, encoders, objectives, train
from ecglib.signals import EcgError

TINY = dict(stem=8, widths=(8, 8), blocks=(1, 1), group_width=4)


@pytest.fixture(scope="module")
def cohort():
    return MemoryCohort()


@pytest.fixture
def data(cohort):
    return train.CohortData(cohort, cohort.rows("train"), labels=NAMES)


def toy(**params):
    encoder = encoders.build("net1d", "small", 12, seed=1, **TINY)
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
    history = train.fit(objective, data, tmp_path, steps=6, batch_size=8, lr=1e-2, weight_decay=0.1, warmup=2, clip=0.5)
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
        train.fit(toy(lead_dropout=0.2, shift=True), data, tmp_path / folder, steps=4, batch_size=8, checkpoint_every=1)
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert sorted(one) == ["encoder.json", "encoder.safetensors", "history.csv", "objective.safetensors"] and one == two
    assert list(pd.read_csv(tmp_path / "one/history.csv").columns) == ["step", "loss", "known", "lr"]
    assert json.loads(one["encoder.json"])["info"]["objective"]["objective"] == "supervised"


def test_best_weights_on_validation_are_kept(data):
    scores = iter([0.1, 0.9, 0.3])
    seen = []

    def val(objective):
        seen.append({k: v.clone() for k, v in objective.state_dict().items()})
        return {"val_score": next(scores)}

    objective = toy()
    history = train.fit(objective, data, steps=6, batch_size=8, lr=0.01, val=val, val_every=2, select="best")
    assert history["val_score"].dropna().tolist() == [0.1, 0.9, 0.3]
    assert all(torch.equal(v, seen[1][k]) for k, v in objective.state_dict().items())
    assert not torch.equal(seen[1]["head.weight"], seen[2]["head.weight"])


def test_validation_loss_is_the_mean_over_records(cohort, data):
    val = train.CohortData(cohort, cohort.rows("val"), labels=NAMES)
    objective = toy().eval()
    history = train.fit(objective, data, steps=1, batch_size=8, val=val)
    assert history["val_loss"].item() == pytest.approx(
        objective.eval()(val.batch(np.arange(len(val))))[0].item(), rel=1e-5
    )


def test_validation_draws_the_same_every_time(cohort, data):
    """Else the curve would show the luck of the masks, and "best" would keep it."""
    objective = objectives.build("jepa", encoders.build("vit1d", "small", 12))
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
import sys, torch
sys.path[:0] = [{tests!r}]
from test_train import MemoryCohort, NAMES, slow_fit, train
torch.set_num_threads(1)
cohort = MemoryCohort()
slow_fit(train.CohortData(cohort, cohort.rows("train"), labels=NAMES), {out!r})
"""


def slow_fit(data, out):
    objective = toy(lead_dropout=0.2)
    return train.fit(objective, data, out, steps=40, batch_size=8, lr=0.01, checkpoint_every=3, val=lambda o: {
        "val_score": -float(o.head.weight.abs().sum())}, val_every=7, select="best")  # fmt: skip


def test_a_killed_training_resumes_and_ends_with_the_same_bytes(data, tmp_path):
    torch.set_num_threads(1)
    code = KILLED.format(tests=os.path.dirname(__file__), out=str(tmp_path / "killed"))
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
        train.fit(toy(), data, tmp_path, steps=4, batch_size=8, checkpoint_every=1, progress=stop)
    with pytest.warns(UserWarning, match="another training"):
        history = train.fit(toy(), data, tmp_path, steps=4, batch_size=8, lr=0.5)
    assert len(history) == 4
    (tmp_path / train.CHECKPOINT).write_bytes(b"half")
    with pytest.raises(EcgError, match="not a checkpoint"):
        train.fit(toy(), data, tmp_path, steps=4, batch_size=8)


def test_two_processes_follow_one_at_the_same_global_batch(cohort, data, tmp_path):
    one, two = toy(), toy()
    single = train.fit(one, data, tmp_path / "one", steps=5, batch_size=8, lr=0.01)
    double = train.fit(two, data, tmp_path / "two", steps=5, batch_size=8, lr=0.01, devices=2, strategy="ddp_spawn")
    np.testing.assert_allclose(double["loss"], single["loss"], rtol=1e-5)
    for ours, theirs in zip(two.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    with pytest.raises(EcgError, match="out_dir"):
        train.fit(toy(), data, steps=1, devices=2)


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


def test_a_loss_that_is_not_finite_stops_and_names_the_records(data, tmp_path):
    with pytest.raises(EcgError, match=data.record_ids[5]) as error:
        train.fit(toy(), Poisoned(data), tmp_path, steps=9, batch_size=4, checkpoint_every=1)
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
        train.fit(objective, data, tmp_path, steps=9, batch_size=4, clip=clip)
    order = np.random.default_rng([0, 0]).permutation(24)
    named = {name for name in data.record_ids if name in str(error.value)}
    assert named == set(data.record_ids[order[8:12]])
    assert all(torch.isfinite(p).all() for p in objective.parameters())


def test_no_weights_are_best_when_the_score_is_not_a_number(data):
    for scores in ({"val_score": math.nan}, {"loss": 1.0}):
        with pytest.raises(EcgError, match="validation score is nan"):
            train.fit(toy(), data, steps=2, batch_size=8, val=lambda _, s=scores: s, select="best")
    train.fit(toy(), data, steps=2, batch_size=8, val=lambda _: {"val_score": math.nan})


def test_arguments_that_do_not_fit_are_refused(cohort, data):
    with pytest.raises(EcgError, match="select"):
        train.fit(toy(), data, steps=1, select="best")
    with pytest.raises(EcgError, match="precision"):
        train.fit(toy(), data, steps=1, precision="16-mixed")
