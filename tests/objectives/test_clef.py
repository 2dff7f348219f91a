"""CLEF: SCORE2 against its published table, pair distances and weights, the two loss terms against loops."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ecglib import EcgError, objectives
from ecglib.objectives import clef
from ecglib.training import batches
from ecglib.training.augment import fixed_draws
from ecglib.training.losses import cosine, nt_xent

# sex, age, smoker, pressure, cholesterol, HDL; log hazard; percent uncalibrated, low, moderate, high, very high
GOLDEN = [
    ("male", 50, 1, 140, 5.5, 1.3, 0.231500, 4.9531, 5.9133, 7.5613, 8.1226, 14.0486),
    ("female", 50, 1, 140, 5.5, 1.3, 0.358200, 3.1894, 4.2155, 5.0740, 6.8755, 13.7005),
    ("male", 60, 0, 120, 6.0, 1.3, 0.0, 3.9500, 4.9974, 6.3230, 6.5937, 11.7451),
    ("female", 60, 0, 120, 6.0, 1.3, 0.0, 2.2400, 3.2940, 3.8749, 4.9650, 10.3572),
    ("male", 40, 0, 120, 5.0, 1.5, -1.931080, 0.5826, 1.2029, 1.3814, 1.1129, 2.4869),
    ("female", 40, 0, 120, 5.0, 1.5, -2.252120, 0.2380, 0.6870, 0.6951, 0.6155, 1.6615),
    ("male", 69, 1, 170, 7.0, 1.0, 1.929452, 24.2328, 19.4999, 26.3834, 33.9742, 46.1526),
    ("female", 69, 1, 170, 7.0, 1.0, 2.222976, 18.8776, 14.7382, 19.6613, 33.5507, 50.1635),
]
RISKS = torch.tensor([0.02, 0.05, 0.10, 0.30], dtype=torch.float64)
UNKNOWN = float("nan")


class Mean(nn.Module):
    """The first samples of a signal, weighted: an encoder whose embeddings are easy to follow."""

    def __init__(self, n_leads=1, dim=6):
        super().__init__()
        self.n_leads, self.dim = n_leads, dim
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, dim))

    def forward(self, x):
        return x[:, 0, : self.dim] * self.weight


def batch_of(n=6, n_leads=1, seed=0, **meta):
    x = torch.randn(n, n_leads, 60, generator=torch.Generator().manual_seed(seed))
    given = {"age": torch.linspace(42, 66, n), "sex": (torch.arange(n) % 2).float()} | meta
    given = {name: given.get(name, torch.full((n,), UNKNOWN)) for name in clef.META}
    there = torch.ones(n, n_leads, dtype=torch.bool)
    nothing = torch.full((n, 1), -1)
    return batches.Batch(x, there, torch.arange(n), given, [""] * n, None, nothing)


def build(name="clef", **params):
    return objectives.build(name, Mean(), **params)


@pytest.mark.parametrize("row", GOLDEN)
def test_score2_has_the_published_values(row):
    *given, lp, uncalibrated, low, moderate, high, very_high = row
    percent = {None: uncalibrated, "low": low, "moderate": moderate, "high": high, "very high": very_high}
    for region, expected in percent.items():
        risk = clef.score2(*given, region)
        assert isinstance(risk, float) and risk == pytest.approx(expected / 100, abs=1e-6)
    survival = 0.9605 if given[0] == "male" else 0.9776
    assert clef.score2(*given, None) == pytest.approx(1 - survival ** math.exp(lp), abs=1e-6)


@pytest.mark.parametrize("region", [None, *clef.REGIONS])
def test_scalars_arrays_and_tensors_agree(region):
    names, *columns = (np.array(column) for column in list(zip(*GOLDEN, strict=True))[:6])
    columns = [column.astype(float) for column in columns]
    scalar = [clef.score2(*row[:6], region) for row in GOLDEN]
    by_name = clef.score2(names, *columns, region)
    by_number = clef.score2((names == "male").astype(int), *columns, region)
    tensors = clef.score2(*(torch.from_numpy(c) for c in ((names == "male").astype(float), *columns)), region)
    assert isinstance(by_name, np.ndarray) and isinstance(tensors, torch.Tensor) and tensors.dtype == torch.float64
    for risk in (by_name, by_number, tensors.numpy()):
        np.testing.assert_allclose(risk, scalar, rtol=1e-12)
    np.testing.assert_allclose(clef.score2("male", columns[0], 0, 120, 6, 1.3)[2:4], clef.score2(1, 60, 0, 120, 6, 1.3))


def test_diabetes_counts_and_grows_less_important_with_age():
    for sex, c, product, survival in (("male", 0.6457, -0.0983, 0.9605), ("female", 0.8096, -0.1272, 0.9776)):
        for age in (50, 60, 65):
            a = (age - 60) / 5
            plain = math.log(-math.log(1 - clef.score2(sex, age, 0, 120, 6, 1.3, None)) / -math.log(survival))
            with_it = math.log(-math.log(1 - clef.score2(sex, age, 0, 120, 6, 1.3, None, 1)) / -math.log(survival))
            assert with_it - plain == pytest.approx(c + product * a, abs=1e-9)


def test_what_score2_cannot_tell_is_nan_or_refused():
    assert math.isnan(clef.score2(UNKNOWN, 50, 0, 120, 6, 1.3)) and math.isnan(clef.score2(0.5, 50, 0, 120, 6, 1.3))
    assert math.isnan(clef.score2(1, UNKNOWN, 0, 120, 6, 1.3))
    with pytest.raises(EcgError, match="male, female"):
        clef.score2("M", 50, 0, 120, 6, 1.3)
    with pytest.raises(EcgError, match="moderate"):
        clef.score2(1, 50, 0, 120, 6, 1.3, "mid")


def test_unknown_inputs_are_constants_and_count_as_missing():
    nan = UNKNOWN
    columns = {
        "age": [55, 55, 30, 90, nan, 55, 55], "sex": [1, 1, 0, 0, 1, nan, 0], "smoking": [1, nan, nan, nan, 1, 1, 0],
        "systolic": [150, nan, 130, nan, 150, 1, nan], "cholesterol": [7, nan, nan, nan, 7, 1, nan],
        "hdl": [1.0, nan, nan, nan, 1, 1, 1.6],
    }  # fmt: skip
    risk, missing = clef.risks({k: torch.tensor(v, dtype=torch.float32) for k, v in columns.items()})
    expected = [
        clef.score2("male", 55, 1, 150, 7, 1.0), clef.score2("male", 55, 0, 130, 5.5, 1.3),
        clef.score2("female", 40, 0, 130, 5.5, 1.3), clef.score2("female", 69, 0, 130, 5.5, 1.3), nan, nan,
        clef.score2("female", 55, 0, 130, 5.5, 1.6),
    ]  # fmt: skip
    np.testing.assert_allclose(risk, expected, rtol=1e-5)
    np.testing.assert_allclose(missing * 6, [0, 4, 3, 4, 1, 1, 2], rtol=1e-12)
    few, missing = clef.risks({"age": torch.tensor([55.0]), "sex": torch.tensor([1.0])})
    assert few.item() == pytest.approx(expected[1]) and missing.item() == pytest.approx(4 / 6)
    with pytest.raises(EcgError, match="no sex"):
        clef.risks({"age": torch.tensor([55.0])})


def test_weights_have_the_golden_values():
    d = clef.distances(RISKS)
    np.testing.assert_allclose(d[0], [0, 0.209184, 0.265306, 1], atol=1e-6)
    w = clef.pair_weights(d, "softmax").repeat(2, 2)
    assert w.shape == (8, 8)
    np.testing.assert_allclose(w[0], [0.079939, 0.098538, 0.104227, 0.217296] * 2, atol=1e-6)
    np.testing.assert_allclose(w[3], [0.172776, 0.146900, 0.116764, 0.063561] * 2, atol=1e-6)
    np.testing.assert_allclose(w.sum(1), 1, atol=1e-12)
    scaled = clef.pair_weights(d, "mean_one")
    off = ~torch.eye(4, dtype=torch.bool)
    np.testing.assert_allclose(scaled[off].reshape(4, 3).mean(1), 1, atol=1e-12)
    np.testing.assert_allclose(scaled / scaled[:, :1], w[:4, :4] / w[:4, :1], atol=1e-12)


def test_missing_factor():
    d = clef.distances(RISKS)
    torch.testing.assert_close(clef.distances(RISKS, torch.zeros(4, dtype=torch.float64)), d)
    torch.testing.assert_close(
        clef.distances(RISKS, torch.ones(4, dtype=torch.float64)), d * 0.367879, rtol=1e-5, atol=0
    )
    m = torch.tensor([0, 0.5, 1, 1], dtype=torch.float64)
    mixed = clef.distances(RISKS, m) / d.masked_fill(d == 0, 1)
    assert mixed[0, 3] == 1 and mixed[1, 2].item() == pytest.approx(math.exp(-0.5))


def test_equal_risks_have_the_smallest_distance():
    d = clef.distances(torch.full((3,), 0.1, dtype=torch.float64))
    torch.testing.assert_close(d, 0.2 * (1 - torch.eye(3, dtype=torch.float64)))


def test_pairs_of_unknown_risk_weigh_as_much_as_an_average_negative():
    risk = torch.tensor([0.02, UNKNOWN, 0.05, 0.30, UNKNOWN], dtype=torch.float64)
    known = [0, 2, 3]
    d = clef.distances(risk)
    torch.testing.assert_close(d[known][:, known], clef.distances(risk[known]))
    assert d[1].isnan().sum() == 4 and (d.diagonal() == 0).all()
    w = clef.pair_weights(d)
    torch.testing.assert_close(w[known][:, known], clef.pair_weights(clef.distances(risk[known])))
    assert (w[[1, 4]] == 1).all() and (w[:, [1, 4]] == 1).all()
    soft = clef.pair_weights(d, "softmax")
    torch.testing.assert_close(soft.repeat(2, 2)[1], torch.full((10,), 0.1, dtype=torch.float64))
    for i in known:
        negatives = [soft[i, j] for j in known if j != i]
        assert soft[i, 1].item() == pytest.approx(float(sum(negatives) / 2))
    alone = clef.pair_weights(clef.distances(torch.tensor([0.1, UNKNOWN])), "softmax")
    torch.testing.assert_close(alone, torch.full((2, 2), 0.25))


def test_permuting_patients_permutes_the_weights():
    order = torch.tensor([2, 0, 3, 1])
    for form in ("softmax", "mean_one"):
        w = clef.pair_weights(clef.distances(RISKS), form)
        torch.testing.assert_close(clef.pair_weights(clef.distances(RISKS[order]), form), w[order][:, order])


def test_alignment_is_zero_at_its_target_and_leaves_unknown_pairs_out():
    d = clef.distances(RISKS)
    target = (1 - d).repeat(2, 2)
    assert clef.alignment(0.3 * target - 0.1, d).item() == pytest.approx(0, abs=1e-12)
    assert clef.alignment(1 - target, d).item() > 0.1
    s = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scaled = ((s - s.min()) / (s.max() - s.min())).numpy()
    d[1, 2] = d[2, 1] = UNKNOWN
    errors = [
        (scaled[i, j] - (1 - d[i % 4, j % 4].item())) ** 2
        for i in range(8) for j in range(8) if not d[i % 4, j % 4].isnan()
    ]  # fmt: skip
    assert len(errors) == 56
    assert clef.alignment(s, d).item() == pytest.approx(np.mean(errors), rel=1e-9)


def plain_loss(z1, z2, risk, missing, form, temperature=0.07, floor=0.2, align=1.0):
    """Section 4.2 step by step, in numpy; all risks known."""
    n, m = len(risk), missing
    square = np.array([[(a - b) ** 2 for b in risk] for a in risk])
    d = (1 - floor) * (square - square.min()) / (square.max() - square.min()) + floor
    d = np.array([[0 if i == j else d[i, j] * math.exp(-m[i] * m[j]) for j in range(n)] for i in range(n)])
    tiled, z = np.tile(d, (2, 2)), np.concatenate([z1, z2])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    w = np.exp(tiled) / np.exp(tiled).sum(1, keepdims=True)
    s, total = z @ z.T, 0.0
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        negatives = [j for j in range(2 * n) if j not in (i, p)]
        scale = {"softmax": 1, "mean_one": 1 / np.mean([w[i, j] for j in negatives])}.get(form)
        row = sum((1 if form == "none" else w[i, j] * scale) * math.exp(s[i, j] / temperature) for j in negatives)
        total -= math.log(math.exp(s[i, p] / temperature) / (math.exp(s[i, p] / temperature) + row))
    error = np.mean(((s - s.min()) / (s.max() - s.min()) - (1 - tiled)) ** 2)
    return (total / (2 * n) + align * error) / (1 + align)


@pytest.mark.parametrize("form", clef.WEIGHTS)
@pytest.mark.parametrize("align", [0.0, 1.0])
@pytest.mark.parametrize("missing", [True, False])
def test_loss_equals_a_plain_computation(form, align, missing):
    """Fails, among others, when the weights of the negatives are left out."""
    batch = batch_of(systolic=torch.tensor([UNKNOWN, 120, 180, UNKNOWN, 150, 100]))
    objective = build(weights=form, align=align, missing=missing).eval()
    loss, logs = objective(batch)
    views = objective.views(batch.x, batch.lead_mask, False)[0].chunk(2)
    z1, z2 = (objective.encoder(v).detach().double().numpy() for v in views)
    risk, share = (v.numpy() for v in clef.risks(batch.meta))
    expected = plain_loss(z1, z2, risk, share * missing, form, align=align)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert logs["known"] == 1 and (logs["nce"] + align * logs["align"]).item() / (1 + align) == pytest.approx(
        expected, rel=1e-4
    )


def test_records_of_one_patient_do_not_count_in_weights_or_alignment():
    risk, patient = torch.tensor([0.02, 0.05, 0.05, 0.10, 0.30, UNKNOWN]).double(), torch.tensor([0, 1, 1, 2, 3, 1])
    d = clef.distances(risk)
    w = clef.pair_weights(d, "mean_one", patient)
    negative = patient[:, None] != patient
    torch.testing.assert_close((w * negative).sum(1) / negative.sum(1), torch.ones(6).double())
    without = clef.pair_weights(d)
    assert (without * negative).sum(1)[1] / negative.sum(1)[1] > 1.05  # the twin's low weight would be made up for
    torch.testing.assert_close(w[0], without[0])
    s = torch.rand(12, 12, generator=torch.Generator().manual_seed(0)).double()
    s[0, 1], s[0, 3] = -1.0, 2.0  # the range of the matrix
    changed = s.clone()
    changed[1, 2] = changed[7, 2] = changed[2, 5] = 0.9
    assert clef.alignment(s, d, patient) == clef.alignment(changed, d, patient)
    assert clef.alignment(s, d) != clef.alignment(changed, d)
    changed[1, 7] = 0.5  # two views of one record
    assert clef.alignment(s, d, patient) != clef.alignment(changed, d, patient)


def test_both_terms_of_the_loss_know_the_patients():
    batch, objective = batch_of()._replace(patient_id=torch.tensor([0, 0, 1, 2, 2, 2])), build().eval()
    _, logs = objective(batch)
    z1, z2 = (objective.encoder(v) for v in objective.views(batch.x, batch.lead_mask, False)[0].chunk(2))
    d, z = clef.distances(*clef.risks(batch.meta)), torch.cat([z1, z2])
    weights = clef.pair_weights(d, "mean_one", batch.patient_id)
    torch.testing.assert_close(logs["nce"], nt_xent(z1, z2, 0.07, weights, batch.patient_id).detach())
    torch.testing.assert_close(logs["align"], clef.alignment(cosine(z, z), d, batch.patient_id).detach())


def test_without_weights_clef_is_simclr_also_with_several_records_of_a_patient():
    batch = batch_of()._replace(patient_id=torch.tensor([0, 0, 1, 2, 2, 2]))
    simclr = loss_of(build("simclr"), batch)
    assert torch.equal(loss_of(build(weights="none", align=0.0), batch), simclr)
    assert not torch.isclose(loss_of(build("simclr"), batch_of()), simclr)


def loss_of(objective, batch, seed=0):
    torch.manual_seed(seed)
    return objective(batch)[0]


def test_equal_weights_without_alignment_are_simclr():
    batch = batch_of()
    simclr = loss_of(build("simclr"), batch)
    torch.testing.assert_close(loss_of(build(weights="none", align=0.0), batch), simclr, rtol=0, atol=0)
    assert not torch.isclose(loss_of(build(align=0.0), batch), simclr)
    nobody = batch_of(age=torch.full((6,), UNKNOWN))
    torch.testing.assert_close(loss_of(build(align=0.0), nobody), simclr)
    alike = batch_of(age=torch.full((6,), 50.0), sex=torch.ones(6))
    torch.testing.assert_close(loss_of(build(align=0.0), alike), simclr)
    assert loss_of(build(align=0.0, weights="softmax"), alike) < simclr - 0.5  # the discount of the released form


def test_shuffled_risks_are_those_of_other_records():
    batch = batch_of(n=16)
    plain, shuffled = build(), build(risk="shuffled")
    risk, missing = plain.risks(batch.meta)
    torch.manual_seed(0)
    other, _ = shuffled.risks(batch.meta)
    assert not torch.equal(other, risk) and torch.equal(other.sort().values, risk.sort().values)
    assert not torch.equal(shuffled.risks(batch.meta)[0], other)
    assert not torch.isclose(loss_of(shuffled, batch), loss_of(plain, batch))
    shuffled.eval()
    with fixed_draws(3):
        first = shuffled.risks(batch.meta)[0]
    assert torch.equal(shuffled.risks(batch.meta)[0], first)


def test_batches_without_any_risk_and_with_missing_records_are_finite():
    batch = batch_of(n_leads=12, age=torch.full((6,), UNKNOWN))
    batch.x[2], batch.lead_mask[2] = 0, False
    for form in clef.WEIGHTS:
        objective = build(weights=form)
        loss, logs = objective(batch)
        loss.backward()
        assert torch.isfinite(loss) and all(torch.isfinite(v) for v in logs.values()) and logs["known"] == 0
        assert torch.isfinite(objective.encoder.weight.grad).all()


def test_bad_choices_are_refused():
    for field, value in (("weights", "linear"), ("risk", "framingham"), ("region", "europe")):
        with pytest.raises(EcgError, match=field):
            build(**{field: value})
