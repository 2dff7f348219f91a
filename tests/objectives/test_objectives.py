"""One contract for all objectives, found by their files. Their formulas are tested in test_objective_<name>.py."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ecglib import EcgError, models, objectives
from ecglib.pipeline import summary
from ecglib.training import checkpoint, train

N = 8
SAMPLES = {}


def sample(**options) -> summary.Sample:
    """Simulated ECGs, made once for all tests."""
    key = tuple(sorted(options.items()))
    if key not in SAMPLES:
        SAMPLES[key] = summary.Sample(N, **options)
    return SAMPLES[key]


@pytest.fixture(scope="module", params=objectives.names())
def name(request):
    return request.param


@pytest.fixture(scope="module")
def first(name, tmp_path_factory):
    """{number of leads: the artefact that the method starts from}, made when asked for."""
    made = {}

    def of(n_leads=12, fs=100.0):
        if (n_leads, fs) not in made:
            data = sample(leads=n_leads, fs=fs)
            folder = tmp_path_factory.mktemp("first")
            made[n_leads, fs] = summary.example_first(name, data, folder, n_leads=n_leads, fs=fs)
        return made[n_leads, fs]

    return of


def make(name, first, n_leads=12, fs=100.0, steps=30):
    data = sample(leads=n_leads, fs=fs)
    return summary.example(name, data, n_leads=n_leads, first=first(n_leads, fs), fs=fs, steps=steps), data


@pytest.fixture
def objective(name, first):
    return make(name, first)[0]


@pytest.fixture
def batch():
    return sample().batch(np.arange(N))


def loss_of(objective, batch, seed=0):
    torch.manual_seed(seed)
    return objective(batch)


def train_for(objective, batch, steps, lr=1e-3):
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=lr)
    losses = []
    for step in range(steps):
        loss, _ = loss_of(objective.train(), batch, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        if hasattr(objective, "after_step"):
            objective.after_step(step)
        losses.append(loss.item())
    return losses


def test_says_where_it_comes_from_and_what_it_is_for(name):
    source = objectives.module(name)
    assert source.PAPER and source.ENCODER in models.names() and source.__doc__
    assert all(isinstance(objectives.trait(name, what), type(default)) for what, default in objectives.OPTIONAL.items())
    assert not objectives.trait(name, "FIRST") or objectives.trait(name, "FIRST") in objectives.names()
    scalars = (bool, int, float, str, type(None))
    assert all(isinstance(default, scalars) for default in objectives.parameters(name).values())


def test_loss_is_a_finite_scalar_and_repeats_with_the_seed(objective, batch):
    start = copy.deepcopy(objective.state_dict())
    loss, logs = loss_of(objective, batch)
    assert loss.ndim == 0 and torch.isfinite(loss) and isinstance(logs, dict) and "loss" not in logs
    assert all(np.isfinite(float(v)) for v in logs.values())
    learned = objectives.trait(objective.config["objective"], "LEARNED")  # read from what is logged
    assert set(learned) <= {"loss", *logs} and all(what in {"one", "first", *logs} for *_, what in learned.values())
    objective.load_state_dict(start)
    assert torch.equal(loss_of(objective, batch)[0], loss)


def test_gradient_reaches_every_encoder_parameter_it_trains(objective, batch):
    loss_of(objective, batch)[0].backward()
    trained = {n: p for n, p in objective.encoder.named_parameters() if p.requires_grad}
    idle = set(getattr(objective, "idle", ()))  # what only the probe uses, named by the method itself
    assert trained and {n for n, p in trained.items() if p.grad is None or not p.grad.abs().sum() > 0} <= idle


def test_thirty_steps_lower_the_loss_and_embeddings_keep_spread(objective, batch):
    losses = train_for(objective, batch, 30)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    x = batch.x[:, : objective.encoder.n_leads]
    z = objective.eval().encoder(x)
    z = z / z.norm(dim=1, keepdim=True)
    assert z.std(0).square().sum().sqrt() > 1e-3


def test_validation_changes_nothing(objective, batch):
    train_for(objective, batch, 2)
    objective.eval()
    before = copy.deepcopy(objective.state_dict())
    with torch.no_grad():
        first, again = (loss_of(objective, batch)[0] for _ in range(2))
    assert torch.isfinite(first) and torch.equal(first, again)
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())


@pytest.mark.parametrize("n_leads", [1, 3, 12])
def test_takes_any_number_of_leads_that_its_paper_allows(name, first, n_leads):
    if n_leads < objectives.trait(name, "MIN_LEADS"):
        with pytest.raises(EcgError, match=f"{name} needs at least"):
            objectives.build(name, models.build(objectives.module(name).ENCODER, n_leads=n_leads))
        return
    objective, data = make(name, first, n_leads)
    assert torch.isfinite(loss_of(objective, data.batch(np.arange(N)))[0])


def test_missing_leads_are_zeros_with_a_mask(name, first, objective, batch):
    """A random subset of the leads of each record is there; the loss stays finite and so do the gradients."""
    kept = torch.rand(N, 12, generator=torch.Generator().manual_seed(1)) < 0.5
    kept[:, 1] = True
    loss = loss_of(objective, batch._replace(x=batch.x * kept.unsqueeze(-1), lead_mask=kept))[0]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


@pytest.mark.parametrize("fs", [250.0, 500.0])
def test_takes_other_sampling_rates(name, first, fs):
    objective, data = make(name, first, fs=fs)
    with torch.no_grad():
        assert torch.isfinite(loss_of(objective, data.batch(np.arange(4)))[0])
        assert objective.eval().encoder(data.batch(np.arange(2)).x).shape == (2, objective.encoder.dim)


def test_half_precision_is_finite(objective, batch):
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(objective, batch)[0]
    loss.backward()
    assert torch.isfinite(loss)


def test_an_interrupted_training_ends_as_an_uninterrupted_one(name, first, tmp_path):
    """State between steps (teachers, codebooks, counters) travels in the checkpoint."""
    data = sample()

    def run(folder, stop=None):
        objective = make(name, first, steps=4)[0]

        def progress(row):
            if row["step"] == stop:
                raise KeyboardInterrupt

        settings = train.Settings(steps=4, batch_size=4, lr=1e-3, checkpoint_every=1)
        train.fit(objective, data, tmp_path / folder, settings=settings, progress=progress)
        return objective.state_dict()

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop=3)
    assert checkpoint.read(tmp_path / "cut" / train.CHECKPOINT)[1]["step"] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = run("cut")
    assert all(torch.equal(value, whole[key]) for key, value in resumed.items())
    loaded = objectives.load(tmp_path / "whole")
    assert all(torch.equal(value, whole[key]) for key, value in loaded.state_dict().items())


def test_config_is_json_and_unknown_names_are_answered_with_the_valid_ones(objective):
    name = objective.config["objective"]
    with pytest.raises(EcgError, match="no parameter temprature"):
        objectives.build(name, objective.encoder, temprature=1)
    with pytest.raises(EcgError, match=name):
        objectives.build("superviced", objective.encoder)


def test_settings_that_an_objective_does_not_take_are_left_out(name):
    valid = objectives.parameters(name)
    assert objectives.accepted(name, **valid, temprature=1) == valid
    assert objectives.accepted(name, temprature=1) == {}


def test_whether_a_training_has_learned_is_read_from_its_last_steps(tmp_path):
    models.save(models.build("net1d", "small", 1), tmp_path, objective={"objective": "wcr"})
    assert objectives.learned(tmp_path) == ""  # no history
    for accuracy, said in (([0.05] * 18 + [0.12, 0.14], "yes"), ([0.3] * 18 + [0.09, 0.1], "no: accuracy 0.095, ")):
        rows = pd.DataFrame({"step": range(20), "loss": 1.0, "accuracy": accuracy, "chance": 0.05})
        rows.to_csv(tmp_path / "history.csv", index=False)
        assert objectives.learned(tmp_path).startswith(said)
    models.save(models.build("net1d", "small", 1), tmp_path, objective={"objective": "restore"})
    rows.assign(error=[2.0] * 5 + [1.0] * 15).to_csv(tmp_path / "history.csv", index=False)
    assert objectives.learned(tmp_path) == "no: error 1, wanted < 1"  # half of the first five
    rows.to_csv(tmp_path / "history.csv", index=False)
    assert objectives.learned(tmp_path) == ""  # nothing there says so
    models.save(models.build("net1d", "small", 1), tmp_path, objective={"objective": "elsewhere"})
    assert objectives.learned(tmp_path) == ""
