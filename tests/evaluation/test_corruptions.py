"""Each corruption does what it says; the refitted probe is the study's; areas are areas."""

import numpy as np
import pandas as pd
import pytest
import torch
from memory_cohort import NAMES, MemoryCohort
from torch import nn

from ecglib import EcgError
from ecglib.evaluation import bootstrap, classifiers, corruptions, embeddings, predictions
from ecglib.training.batches import CohortData

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
PLAN = corruptions.Plan(kept=(6, 1), subsets={"limb": ("I", "II")}, both=((3, 6.0),), rates=(50.0,))


def twelve(electrodes):
    """Twelve leads (record, lead, time) of the potentials {name: (record, time)} by their definitions."""
    ra, la, ll = (electrodes[name] for name in ("RA", "LA", "LL"))
    limb = [la - ra, ll - ra, ll - la, ra - (la + ll) / 2, la - (ra + ll) / 2, ll - (ra + la) / 2]
    centre = (ra + la + ll) / 3
    return torch.stack([*limb, *(electrodes[f"V{k}"] - centre for k in range(1, 7))], 1)


@pytest.fixture(scope="module")
def electrodes():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(5, 400, generator=generator) for name in ("RA", "LA", "LL", *LEADS[6:])}


def apply(name, x, **given):
    kind = next(kind for kind in PLAN.corruptions(12) if kind.name == name)
    return corruptions.corrupted(kind, x, torch.ones(x.shape[:2], dtype=torch.bool), LEADS, **given)


@pytest.mark.parametrize("name, pair", [("arms swapped", ("RA", "LA")), ("V1/V2 swapped", ("V1", "V2"))])
def test_swapped_electrodes_give_what_their_potentials_give(electrodes, name, pair):
    swapped = electrodes | {pair[0]: electrodes[pair[1]], pair[1]: electrodes[pair[0]]}
    found, mask = apply(name, twelve(electrodes))
    torch.testing.assert_close(found, twelve(swapped), atol=1e-5, rtol=0)
    assert mask.all()


def test_a_missing_lead_is_swapped_with_its_electrode(electrodes):
    x, mask = twelve(electrodes), torch.ones(5, 12, dtype=torch.bool)
    mask[0, LEADS.index("V1")] = False
    kind = next(kind for kind in PLAN.corruptions(12) if kind.swap == "V1/V2")
    _, after = corruptions.corrupted(kind, x, mask, LEADS)
    assert not after[0, LEADS.index("V2")] and after[0, LEADS.index("V1")] and after[1:].all()


def test_the_printed_layout_shows_a_quarter_of_each_lead(electrodes):
    x = twelve(electrodes)
    for name, whole in (("3 x 4", []), ("3 x 4, II whole", ["II"])):
        found = apply(name, x)[0]
        for k, lead in enumerate(LEADS):
            column = k // 3
            stretch = slice(0, 400) if lead in whole else slice(100 * column, 100 * column + 100)
            expected = torch.zeros_like(x[:, k])
            expected[:, stretch] = x[:, k, stretch]
            assert torch.equal(found[:, k], expected), (name, lead)


def test_leads_lengths_and_rates(electrodes):
    x = twelve(electrodes)
    found, mask = apply("limb", x)
    assert mask[:, :2].all() and not mask[:, 2:].any() and torch.equal(found, x * mask[..., None])
    found, mask = apply("6 leads", x)
    assert (mask.sum(1) == 6).all() and torch.equal(found, x * mask[..., None])
    found, mask = apply("3 leads, 6 dB", x)
    assert (
        (mask.sum(1) == 3).all()
        and not (found != 0).any(-1)[~mask].any()
        and not torch.equal(found, x * mask[..., None])
    )
    found = apply("2.5 s", x)[0]
    assert torch.equal(found[..., :250], x[..., :250]) and not found[..., 250:].any()
    t = torch.arange(1000) / 100
    tones = [torch.sin(2 * torch.pi * f * t).expand(1, 12, -1) for f in (5.0, 40.0)]  # below and above half of 50 Hz
    found = apply("50 Hz", tones[0] + tones[1])[0]
    torch.testing.assert_close(found[..., 200:-200], tones[0][..., 200:-200], atol=0.02, rtol=0)


def test_noise_has_its_strength(electrodes):
    x = twelve(electrodes)
    for name in ("all noise, 6 dB", "all noise, 24 dB"):
        noise = apply(name, x, seed=3)[0] - x
        found = 10 * torch.log10(x.var(-1, correction=0) / noise.square().mean(-1))
        assert (found - float(name.split()[2])).abs().max() < 0.05
        assert torch.equal(apply(name, x, seed=3)[0], apply(name, x, seed=3)[0])


def test_what_cannot_be_is_refused():
    with pytest.raises(EcgError, match="did you mean 'arms'"):
        corruptions.Plan(swaps=("arm",)).corruptions(12)
    with pytest.raises(EcgError, match="13 of 12 leads"):
        corruptions.Plan(kept=(13,)).corruptions(12)
    with pytest.raises(EcgError, match="lead"):
        apply("limb", torch.zeros(2, 12, 100)) if False else corruptions.corrupted(
            corruptions.Corruption(corruptions.SUBSET, "a", leads=("V9",)),
            torch.zeros(2, 12, 100),
            torch.ones(2, 12, dtype=torch.bool),
            LEADS,
        )


class Spread(nn.Module):
    """Features of known meaning: log RMS of every lead, as vector and as two tokens."""

    dim, n_leads = 12, 12

    def tokens(self, x):
        return torch.stack([(half.square().mean(-1) + 1e-4).log() for half in x.chunk(2, -1)], 1)

    def forward(self, x):
        return (x.square().mean(-1) + 1e-4).log()


@pytest.fixture(scope="module")
def cohort():
    made = MemoryCohort(48, seconds=4, windows=2)
    made.peaks = lambda row: np.zeros(0, int)
    return made


@pytest.mark.parametrize("pooling", [embeddings.OWN, embeddings.SPREAD])
@pytest.mark.parametrize("cell", [(True, 0.1, "none"), (False, 1.0, "balanced")])
def test_the_probe_is_the_one_that_the_grid_has_in_this_cell(cohort, pooling, cell):
    rows, val = cohort.rows("train"), cohort.rows("val")
    z, z_val = (embeddings.poolings(Spread(), cohort, some)[pooling] for some in (rows, val))
    y, y_val = (predictions.observed(predictions.label_states(cohort, some, NAMES)) for some in (rows, val))
    whole = classifiers.linear(z, y, z_val, y_val)
    expected = whole.models[cell[0], cell[1], None if cell[2] == "none" else cell[2]](z_val)
    choice = dict(pooling=pooling, standardise=cell[0], C=cell[1], class_weight=cell[2])
    probe = corruptions.fit_probe(Spread(), CohortData(cohort, rows, labels=NAMES), choice)
    batch = CohortData(cohort, val).batch(np.arange(len(val)))
    np.testing.assert_allclose(probe(batch.x, batch.lead_mask, batch.peaks), expected, atol=0.01)


@pytest.fixture(scope="module")
def scored(cohort):
    choice = dict(pooling=embeddings.OWN, standardise=True, C=0.1, class_weight="none")
    probe = corruptions.fit_probe(Spread(), CohortData(cohort, cohort.rows("train"), labels=NAMES), choice)
    data, kinds = CohortData(cohort, cohort.test_rows(), labels=NAMES), PLAN.corruptions(12)
    found = corruptions.predict({"one": probe, "two": probe}, kinds, data)
    return data, kinds, found, corruptions.score(found, data, n=40)


def test_scores_are_of_records_over_patients_and_changes_are_paired(scored):
    data, kinds, found, scores = scored
    y, patients = corruptions.truth(data)
    assert len(y) == len(set(data.record_ids)) < len(data) and len(set(patients)) < len(patients)
    expected = bootstrap.bootstrap(y, found["one", "1 lead"], patients, n=40)
    assert scores["one", "1 lead"][:3] == pytest.approx(expected[:3])
    table = corruptions.table(scores, kinds)
    assert len(table) == 2 * len(kinds) and not table.isna().drop(columns="level").any().any()
    ours, clean = (bootstrap.replicates(y, found["one", name], patients, 40) for name in ("1 lead", "clean"))
    row = table[(table.method == "one") & (table.corruption == "1 lead")].iloc[0]
    paired = bootstrap.paired(ours, clean, y)
    assert [row.change, row.change_low, row.change_high] == pytest.approx(list(paired[:3]), abs=1e-6)
    assert (table[table.family == "clean"][["change", "change_low", "change_high"]] == 0).all().all()


def test_the_area_is_the_trapezoid_of_numpy_over_its_axis(scored):
    _, kinds, _, scores = scored
    table = corruptions.areas(scores, kinds, 12, reference="two").set_index(["axis", "method"])
    points = [scores["one", name].point for name in ("1 lead", "6 leads", "clean")]
    assert table.loc[("leads", "one"), "area"] == pytest.approx(np.trapezoid(points, [1, 6, 12]) / 11)
    drawn = np.stack([scores["one", name].replicates for name in ("1 lead", "6 leads", "clean")])
    low, high = np.quantile(np.trapezoid(drawn, [1, 6, 12], axis=0) / 11, [0.025, 0.975])
    assert table.loc[("leads", "one"), "low"] <= low + 1e-9 and table.loc[("leads", "one"), "high"] >= high - 1e-9
    assert table.loc[("noise", "one"), "gain"] == 0 and table.loc[("noise", "one"), "p_holm"] == 1


def test_patients_are_drawn_whole(cohort):
    rows = np.arange(len(cohort))
    some, patients = corruptions.some_patients(cohort, rows, 20, 1), cohort.records.patient_id.to_numpy()
    assert 20 <= len(some) < len(rows) and set(patients[some]).isdisjoint(patients[np.setdiff1d(rows, some)])
    assert np.array_equal(corruptions.some_patients(cohort, rows, 0), rows)


def test_the_choice_is_the_row_of_all_labels_and_the_official_split(tmp_path):
    columns = ["fold", "fraction", "seed", "pooling", "standardise", "C", "class_weight"]
    rows = [["", 0.1, 0, "own", True, 1, "none"], ["fold 1 of 3", 1.0, 0, "own", True, 2, "none"]]
    table = pd.DataFrame([*rows, ["", 1.0, 0, "mean+max+sd", False, 0.01, "balanced"]], columns=columns)
    table.to_csv(tmp_path / "choices.csv", index=False)
    assert corruptions.study_choice(tmp_path)["pooling"] == "mean+max+sd"
    table[:2].to_csv(tmp_path / "choices.csv", index=False)
    with pytest.raises(EcgError, match="no linear probe at all labels"):
        corruptions.study_choice(tmp_path)
    with pytest.raises(EcgError, match="probing stage"):
        corruptions.study_choice(tmp_path / "none")


@pytest.fixture(scope="module")
def draws():
    return torch.randn(300, 12, 100, generator=torch.Generator().manual_seed(0))


def there(x):
    return torch.ones(x.shape[:2], dtype=torch.bool)


def snr_db(x, y):
    power = (x - x.mean(-1, keepdim=True)).double().square().mean(-1)
    return 10 * torch.log10(power / (y - x).double().square().mean(-1))


def test_noise_has_the_snr_asked_for_and_is_the_same_at_every_snr(draws):
    x = draws
    loud, soft = corruptions.add_noise(x, 0.0), corruptions.add_noise(x, 12.0)
    assert (snr_db(x, loud) - 0).abs().max() < 0.05 and (snr_db(x, soft) - 12).abs().max() < 0.05
    torch.testing.assert_close((loud - x) * 10 ** (-12 / 20), soft - x, atol=1e-4, rtol=1e-3)
    assert corruptions.add_noise(x, np.inf) is x
    assert (corruptions.add_noise(x, 0.0, kinds=("muscle",)) != x).any(-1).all()


def test_leads_left(draws):
    x = draws
    before = torch.zeros(300, 12, dtype=torch.bool)
    for kept in (1, 2, 3, 6, 12):
        y, left = corruptions.drop_leads(x, there(x), kept=kept)
        assert torch.equal(left, (y != 0).any(-1))
        assert (left.sum(1) == kept).all() and left.any(0).all()
        assert (before <= left).all(), "subsets lie within one another"
        assert torch.equal(y, x * left[..., None])
        before = left


def test_missing_leads_stay_missing_and_no_record_is_emptied(draws):
    x = draws
    mask = torch.rand(300, 12, generator=torch.Generator().manual_seed(1)) < 0.2
    mask[:, 5] |= ~mask.any(1)
    y = x * mask[..., None]
    left = (corruptions.drop_leads(y, mask, kept=2)[0] != 0).any(-1)
    assert left.any(1).all() and not (left & ~mask).any()
    assert not (corruptions.add_noise(y, 0.0) != 0).any(-1)[~mask].any()


def test_damage_is_decided_by_the_seed_and_leaves_the_generator_alone(draws):
    x = draws
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = [corruptions.add_noise(x, 0.0, seed=1), corruptions.drop_leads(x, there(x), kept=4, seed=1)[0]]
    assert torch.equal(torch.rand(1), expected)
    again = [corruptions.add_noise(x, 0.0, seed=1), corruptions.drop_leads(x, there(x), kept=4, seed=1)[0]]
    other = [corruptions.add_noise(x, 0.0, seed=2), corruptions.drop_leads(x, there(x), kept=4, seed=2)[0]]
    assert all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))
    assert not torch.equal(first[1][:44] != 0, first[1][256:] != 0), "chunks have draws of their own"


def test_bad_numbers_of_leads_are_refused(draws):
    x = draws
    for kept in (0, 13):
        with pytest.raises(EcgError, match="kept"):
            corruptions.drop_leads(x, there(x), kept=kept)
