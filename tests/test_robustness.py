"""Damage that a seed decides, and the tables of what a frozen encoder keeps."""

import numpy as np
import pandas as pd
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort
from torch import nn

from ecglib import metrics, probe, robustness, train
from ecglib.classifiers import linear
from ecglib.signals import EcgError


class Spread(nn.Module):
    """Frozen features: log RMS of every lead, and of its differences."""

    def forward(self, x):
        return torch.cat([(x.square().mean(-1) + 1e-4).log(), (x.diff(dim=-1).square().mean(-1) + 1e-4).log()], 1)


@pytest.fixture(scope="module")
def task():
    """A fitted probe, and data to try it on: two windows per record, one lead of the first record missing."""
    cohort = MemoryCohort(48, seconds=4, windows=2)
    cohort.peaks = lambda row: np.zeros(0, int)  # those of the fixture are of records, not of windows
    data = train.CohortData(cohort, cohort.rows("train"), labels=NAMES)
    z = robustness.features(Spread(), data.signals(np.arange(len(data))))
    y = probe.known(probe.truth(cohort, data.rows, NAMES))
    model = linear(z, y, z, y).model
    cohort.mask[cohort.test_rows()[0], 3] = False
    return model, train.CohortData(cohort, cohort.test_rows(), labels=NAMES)


@pytest.fixture(scope="module")
def x():
    return torch.randn(300, 12, 100, generator=torch.Generator().manual_seed(0))


def there(x):
    return torch.ones(x.shape[:2], dtype=torch.bool)


def snr_db(x, y):
    power = (x - x.mean(-1, keepdim=True)).double().square().mean(-1)
    return 10 * torch.log10(power / (y - x).double().square().mean(-1))


def test_noise_has_the_snr_asked_for_and_is_the_same_at_every_snr(x):
    loud, soft = robustness.add_noise(x, 0.0), robustness.add_noise(x, 12.0)
    assert (snr_db(x, loud) - 0).abs().max() < 0.05 and (snr_db(x, soft) - 12).abs().max() < 0.05
    torch.testing.assert_close((loud - x) * 10 ** (-12 / 20), soft - x, atol=1e-4, rtol=1e-3)
    assert robustness.add_noise(x, np.inf) is x
    spread = snr_db(x, robustness.add_noise(x, (-10.0, 0.0)))
    assert -10.05 < spread.min() < -9.9 and -0.1 < spread.max() < 0.05
    met = (robustness.add_noise(x, 0.0, kinds=("muscle",), rate=0.5) != x).any(-1)
    assert met.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_leads_left(x):
    before = torch.zeros(300, 12, dtype=torch.bool)
    for kept in (1, 2, 3, 6, 12):
        y = robustness.drop_leads(x, there(x), kept=kept)
        left = (y != 0).any(-1)
        assert (left.sum(1) == kept).all() and left.any(0).all()
        assert (before <= left).all(), "subsets lie within one another"
        assert torch.equal(y, x * left[..., None])
        before = left
    left = (robustness.drop_leads(x, there(x), drop=0.5) != 0).any(-1)
    assert left.any(1).all() and left.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(robustness.drop_leads(x, there(x)), x)


def test_missing_leads_stay_missing_and_no_record_is_emptied(x):
    mask = torch.rand(300, 12, generator=torch.Generator().manual_seed(1)) < 0.2
    mask[:, 5] |= ~mask.any(1)
    y = x * mask[..., None]
    for how in (dict(kept=2), dict(drop=0.5)):
        left = (robustness.drop_leads(y, mask, **how) != 0).any(-1)
        assert left.any(1).all() and not (left & ~mask).any()
    assert not (robustness.add_noise(y, 0.0) != 0).any(-1)[~mask].any()


def test_damage_is_decided_by_the_seed_and_leaves_the_generator_alone(x):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = [robustness.add_noise(x, 0.0, seed=1), robustness.drop_leads(x, there(x), drop=0.5, seed=1)]
    assert torch.equal(torch.rand(1), expected)
    again = [robustness.add_noise(x, 0.0, seed=1), robustness.drop_leads(x, there(x), drop=0.5, seed=1)]
    other = [robustness.add_noise(x, 0.0, seed=2), robustness.drop_leads(x, there(x), drop=0.5, seed=2)]
    assert all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))
    assert not torch.equal(first[1][:44] != 0, first[1][256:] != 0), "chunks have draws of their own"


def test_bad_numbers_of_leads_are_refused(x):
    for how in (dict(kept=0), dict(kept=13), dict(kept=3, drop=0.5)):
        with pytest.raises(EcgError, match="kept"):
            robustness.drop_leads(x, there(x), **how)


def test_four_conditions(task):
    model, data = task
    table = robustness.four(Spread(), model, data, n=50)
    assert list(table.condition) == ["clean", "mask", "noise", "mask + noise"]
    assert (table.low <= table.auroc).all() and (table.auroc <= table.high).all()
    assert (table.n_records == len(set(data.record_ids))).all() and (table.n_labels == 3).all()
    clean, mask, noise, both = table.auroc
    assert clean > 0.8 and clean > max(mask, noise) and min(mask, noise) > both - 0.1
    again = robustness.four(Spread(), model, data, n=50)
    pd.testing.assert_frame_equal(table, again)
    assert robustness.four(Spread(), model, data, n=50, seed=7).auroc[1] != mask


def test_the_score_is_that_of_records_with_intervals_over_patients(task):
    """Windows averaged by a loop, then the library's bootstrap over patients."""
    model, data = task
    p = model(robustness.features(Spread(), data.signals(np.arange(len(data)))))
    cohort, ids = data.cohort, list(dict.fromkeys(data.record_ids))
    mean = np.stack([np.mean([p[i] for i in range(len(p)) if data.record_ids[i] == one], 0) for one in ids])
    records = cohort.records.drop_duplicates("record_id").set_index("record_id").loc[ids]
    y, patients = cohort.labels.loc[ids].to_numpy(), records.patient_id.to_numpy()
    assert len(set(patients)) < len(ids) < len(p)
    expected = metrics.bootstrap(y, mean, patients, n=50)
    found = robustness.score(p, data, n=50)
    assert [found["auroc"], found["low"], found["high"]] == pytest.approx(list(expected[:3]))
    with pytest.raises(EcgError, match="positives"):
        robustness.score(p, data, n=50, min_positives=1000)


def test_grid(task):
    model, data = task
    kinds = (("wander", "muscle", "electrode"), ("muscle",))
    table = robustness.grid(Spread(), model, data, kept=(99, 12, 2), snrs=(np.inf, -10.0), kinds=kinds, n=20)
    assert len(table) == 2 * 2 * 2 and set(table.kinds) == {"wander + muscle + electrode", "muscle"}
    clean = robustness.four(Spread(), model, data, n=20).auroc[0]
    cells = table.set_index(["kinds", "kept", "snr"]).auroc
    for names in table.kinds.unique():
        assert cells[names, 12, np.inf] == clean > cells[names, 2, np.inf]
        assert clean > cells[names, 12, -10.0]
    assert (robustness.KEPT, robustness.SNRS[1:]) == ((12, 6, 3, 2, 1), (12, 6, 0, -6, -10))
