"""Lead reconstruction: loss and information content by plain computation, lead algebra, the ridge anchor."""

import numpy as np
import pandas as pd
import pytest
import torch
from einthoven import einthoven_residual

from ecglib import EcgError, models, objectives
from ecglib.data import wfdb_io
from ecglib.data.recording import LEADS, limb
from ecglib.evaluation import lead_information
from ecglib.training import masking
from ecglib.training.batches import Batch

ROWS = [0, 1, 6, 7, 8, 9, 10, 11]


def batch_of(x, mask=None):
    mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    return Batch(
        x * mask.unsqueeze(-1), mask, torch.arange(len(x)), {}, [""] * len(x), None, torch.full((len(x), 1), -1)
    )


@pytest.fixture
def objective():
    return objectives.build("reconstruct", models.build("unet1d"), scale=1.5)


def test_loss_counts_hidden_leads_only(objective):
    """Against a loop over records and leads; leads that a record lacks are neither seen nor asked for."""
    mask = torch.ones(6, 12, dtype=torch.bool)
    mask[0, 1] = mask[3, 6:9] = False
    batch = batch_of(2 + 3 * torch.randn(6, 12, 100), mask)
    objective.eval()
    torch.manual_seed(4)
    loss, logs = objective(batch)
    torch.manual_seed(4)
    modelled = mask[:, ROWS]
    kept = masking.lead_subsets(6, 8, 1, modelled.sum(1) - 1, modelled)
    total, blind, count = 0.0, 0.0, 0
    for i in range(6):
        x = batch.x[i, ROWS].numpy()
        x = (x - x.mean(-1, keepdims=True)) / 1.5
        there = mask[i, ROWS].numpy()
        seen = kept[i].numpy() & there
        with torch.no_grad():
            y = objective.predict(torch.from_numpy(x * seen[:, None])[None], torch.from_numpy(seen)[None])[0].numpy()
        for lead in np.flatnonzero(there & ~kept[i].numpy()):
            total, blind, count = total + ((y[lead] - x[lead]) ** 2).mean(), blind + (x[lead] ** 2).mean(), count + 1
    assert 0 < count < 48
    assert loss.item() == pytest.approx(total / count, rel=1e-5)
    assert float(logs["information"]) == pytest.approx(1 - total / blind, rel=1e-4)


@pytest.mark.parametrize("n_there", [2, 3])
def test_records_with_few_leads_always_show_one_and_hide_one(objective, monkeypatch, n_there):
    shown = []
    predict = objective.predict
    monkeypatch.setattr(objective, "predict", lambda x, kept: shown.append(kept) or predict(x, kept))
    mask = torch.zeros(40, 12, dtype=torch.bool)
    for i, row in enumerate(mask):
        row[torch.tensor(ROWS)[torch.randperm(8, generator=torch.Generator().manual_seed(i))[:n_there]]] = True
    batch = batch_of(torch.randn(40, 12, 64), mask)
    with torch.no_grad():
        for seed in range(20):
            torch.manual_seed(seed)
            objective(batch)
    for kept in shown:
        assert not (kept & ~mask[:, ROWS]).any() and kept.any(1).all() and (kept.sum(1) < n_there).all()
    assert len({tuple(row.tolist()) for kept in shown for row in kept}) >= 8


def test_records_with_fewer_than_two_leads_do_not_count(objective):
    objective.eval()
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[0, [0, 7]] = mask[1, 0] = True  # two, one, none; III and aVF are no modelled leads
    mask[1:, [2, 5]] = True
    batch, losses = batch_of(torch.randn(3, 12, 100), mask), []
    for change in (1.0, 5.0):
        torch.manual_seed(0)
        losses.append(objective(batch._replace(x=batch.x * torch.tensor([1.0, change, change])[:, None, None]))[0])
    assert torch.equal(*losses) and losses[0] > 0
    objective.train()
    loss, logs = objective(batch._replace(x=batch.x[1:], lead_mask=mask[1:]))
    loss.backward()
    assert loss == 0 and float(logs["information"]) == 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in objective.parameters())


def test_visible_leads_come_back_bit_equal_and_hidden_values_do_not_matter(objective):
    objective.eval()
    x, kept = torch.randn(5, 12, 333), masking.lead_subsets(5, 8, 1, 7)
    y = objective.restore(x, kept)
    assert y.shape == (5, 8, 333)
    assert torch.equal(y[kept], x[:, ROWS][kept])
    assert not torch.allclose(y[~kept], x[:, ROWS][~kept], atol=0.1)
    hidden = x[:, ROWS].masked_fill(~kept.unsqueeze(-1), 0)
    assert torch.equal(objective.restore(hidden, kept), y)
    objective.encoder.scale.fill_(3.0)  # units: twice the signal over twice the constant
    torch.testing.assert_close(objective.restore(2 * x, kept), 2 * y, atol=1e-4, rtol=1e-4)
    with pytest.raises(EcgError, match="no lead"):
        objective.restore(x, torch.zeros(5, 8, dtype=torch.bool))


def test_derived_leads_obey_einthoven_and_goldberger():
    x = torch.randn(3, 8, 50, dtype=torch.float64)
    rows = dict(zip((LEADS[row] for row in ROWS), x.unbind(1), strict=True)) | limb(x[:, 0], x[:, 1])
    full = torch.stack([rows[name] for name in LEADS], 1)
    assert full.shape == (3, 12, 50) and torch.equal(full[:, ROWS], x)
    assert max(einthoven_residual(record.numpy()) for record in full) < 1e-12
    for name, (a, b) in {"III": (-1, 1), "aVR": (-0.5, -0.5), "aVL": (1, -0.5), "aVF": (-0.5, 1)}.items():
        torch.testing.assert_close(full[:, LEADS.index(name)], a * x[:, 0] + b * x[:, 1], atol=1e-6, rtol=0)


def test_every_subset_is_reached():
    torch.manual_seed(0)
    kept = masking.lead_subsets(40_000, 8, 1, 7)
    code = (kept * 2 ** torch.arange(8)).sum(1)
    assert set(code.tolist()) == set(range(1, 255))
    sizes = torch.bincount(kept.sum(1))[1:].float() / len(kept)
    assert torch.allclose(sizes, torch.full((7,), 1 / 7), atol=0.01)


class Fixed(torch.nn.Module):
    """Predicts `factor` times the truth."""

    def __init__(self, factor):
        super().__init__()
        self.encoder, self.factor = models.build("unet1d", n_leads=3), factor

    def predict(self, x, kept):
        return self.factor * x


@pytest.mark.parametrize("factor, ic", [(1, 1), (0, 0), (-1, -3), (0.5, 0.75)])
def test_information_content_of_known_predictors(factor, ic):
    x, kept = 4 + torch.randn(7, 3, 40), torch.tensor([[True, False, False], [True, True, False]])
    found = lead_information.information_content(Fixed(factor), x, kept, batch_size=3)
    assert torch.equal(found.isnan(), kept)
    torch.testing.assert_close(found[~kept], torch.full((3,), float(ic)))


def test_information_content_equals_a_plain_computation(objective):
    objective.eval()
    x, kept = torch.randn(5, 12, 80), torch.tensor([[True] * 2 + [False] * 6])
    found = lead_information.information_content(objective, x, kept, batch_size=2)[0].numpy()
    clean = (x - x.mean(-1, keepdim=True))[:, ROWS].numpy()
    y = objective.restore(x, kept.expand(5, 8)).detach().numpy()
    for lead in range(2, 8):
        expected = 1 - ((y[:, lead] - clean[:, lead]) ** 2).mean() / (clean[:, lead] ** 2).mean()
        assert found[lead] == pytest.approx(expected, abs=1e-4)


def test_scale_comes_from_the_data_and_stays_with_the_encoder(tmp_path):
    mask = torch.ones(40, 12, dtype=torch.bool)
    mask[:, 5] = False
    full = batch_of(7 + 2.5 * torch.randn(40, 12, 300), mask)

    class Data:
        def __len__(self):
            return 40

        def batch(self, index):
            return full._replace(x=full.x[index], lead_mask=full.lead_mask[index])

    params = objectives.from_data("reconstruct", Data())
    clean = (full.x - full.x.mean(-1, keepdim=True)).numpy()[mask.numpy()]
    assert params["scale"] == pytest.approx(np.sqrt((clean**2).mean()), rel=1e-5)
    objective = objectives.build("reconstruct", models.build("unet1d"), **params)
    models.save(objective.encoder, tmp_path)
    loaded, _ = models.load(tmp_path)
    assert float(loaded.scale) == pytest.approx(params["scale"], rel=1e-6)


def test_refuses_what_it_cannot_do():
    with pytest.raises(EcgError, match="at least 2 leads"):
        objectives.build("reconstruct", models.build("unet1d", n_leads=1))
    with pytest.raises(EcgError, match="use encoder unet1d"):
        objectives.build("reconstruct", models.build("net1d"))
    with pytest.raises(EcgError, match="scale=0"):
        objectives.build("reconstruct", models.build("unet1d"), scale=0.0)


@pytest.mark.parametrize("n_leads, n_times", [(2, 1000), (3, 2500), (8, 333)])
def test_takes_any_number_of_leads_from_two_on(n_leads, n_times):
    objective = objectives.build("reconstruct", models.build("unet1d", n_leads=n_leads))
    loss, _ = objective(batch_of(torch.randn(3, n_leads, n_times)))
    loss.backward()
    assert torch.isfinite(loss)


def test_learns_that_one_lead_is_a_multiple_of_another():
    objective = objectives.build("reconstruct", models.build("unet1d", n_leads=2, widths=(8, 16)))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    torch.manual_seed(0)
    for _ in range(60):
        x = torch.randn(16, 1, 100).cumsum(-1) / 5
        loss, logs = objective(batch_of(torch.cat([x, -0.5 * x], 1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(logs["information"]) > 0.8
    objective.eval()
    x = torch.randn(16, 1, 100).cumsum(-1) / 5
    kept = torch.tensor([[True, False], [False, True]])
    ic = lead_information.information_content(objective, torch.cat([x, -0.5 * x], 1), kept)
    assert ic[0, 1] > 0.7 and ic[1, 0] > 0.7


def test_ridge_recovers_a_mixing_matrix():
    rng = np.random.default_rng(0)
    mix = np.array([[0.7, -0.4, 0.2], [0.1, 0.5, -0.9]])
    inputs = rng.normal(size=(30, 2, 500)) + 3
    x = np.concatenate([inputs, np.einsum("rit,io->rot", inputs, mix) - 1], 1)
    weights, ic = lead_information.ridge(x[:20], x[20:], (0, 1), (2, 3, 4))
    np.testing.assert_allclose(weights, mix, atol=1e-3)
    assert (ic > 0.999).all()
    noise = rng.normal(size=(30, 5, 500))
    weights, ic = lead_information.ridge(noise[:20], noise[20:], (0, 1), (2, 3, 4))
    z = noise[20:] - noise[20:].mean(-1, keepdims=True)
    y = np.einsum("rit,io->rot", z[:, :2], weights)
    expected = 1 - ((y - z[:, 2:]) ** 2).mean((0, 2)) / (z[:, 2:] ** 2).mean((0, 2))
    np.testing.assert_allclose(ic, expected, atol=1e-9)


ANCHOR = {  # lead-reconstruction.md section 6: IC of the hidden leads among I, V1 .. V6
    ("I", "II"): [0.254, 0.020, 0.041, 0.217, 0.347, 0.304],
    ("I", "II", "V2"): [0.528, 0.525, 0.361, 0.352, 0.308],
    ("I", "II", "V3"): [0.417, 0.518, 0.431, 0.365, 0.305],
    ("I", "II", "V2", "V5"): [0.527, 0.531, 0.443, 0.390],
    ("II", "V1", "V5"): [0.455, 0.359, 0.240, 0.353, 0.367],
}


def test_ridge_anchor_on_ptb_xl(real_data):
    table = pd.read_csv(real_data / "ptb-xl-2k" / "superclass.csv")
    x = np.stack([wfdb_io.read(real_data / "ptb-xl-2k" / name).signal for name in table["filename"]])
    train, test = ((table["split"] == split).to_numpy() for split in ("train", "test"))
    assert (train.sum(), test.sum()) == (1490, 255)
    for inputs, expected in ANCHOR.items():
        hidden = [i for i in ROWS if LEADS[i] not in inputs and LEADS[i] != "II"]
        ic = lead_information.ridge(x[train], x[test], [LEADS.index(name) for name in inputs], hidden)[1]
        np.testing.assert_allclose(ic, expected, atol=0.002)
