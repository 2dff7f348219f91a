"""CLEF (arXiv 2512.02180): SimCLR whose negatives weigh more the more the two patients' cardiovascular risks differ,
and an embedding similarity that is aligned with the similarity of the risks. No ECG labels, only age, sex and the like.

Risk is SCORE2 (Eur Heart J 2021, doi 10.1093/eurheartj/ehab309). Where only age and sex are known it is an age-sex
proxy: the other inputs are then constants of the population, counted as missing.
"""

import math
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from ecglib import EcgError, models
from ecglib.training.augment import PairViews, fixed_draws
from ecglib.training.losses import accuracy, cosine, head, nt_xent, spread

PAPER = "CLEF, arXiv 2512.02180"
ENCODER = "net1d"
LEARNED = {"accuracy": (">", 0.5, "one"), "spread": (">", 0.1, "one")}
DRAWS_LEADS = True
META = ("age", "sex", "smoking", "systolic", "cholesterol", "hdl")
# What stands in for an unknown input; none for age and sex, without which there is no risk.
POPULATION = {"smoking": 0.0, "systolic": 130.0, "cholesterol": 5.5, "hdl": 1.3}
AGES = (40.0, 69.0)  # SCORE2 is valid between them
# Rows: women, men. Log hazard ratios of a (age), s (smoker), b (pressure), t (cholesterol), h (HDL), then of their
# products with a, of diabetes d and of d a; last the survival over ten years at the reference.
COEFFICIENTS = (
    (0.4648, 0.7744, 0.3131, 0.1002, -0.2606, -0.1088, -0.0277, -0.0226, 0.0613, 0.8096, -0.1272, 0.9776),
    (0.3742, 0.6012, 0.2777, 0.1458, -0.2698, -0.0755, -0.0255, -0.0281, 0.0426, 0.6457, -0.0983, 0.9605),
)
REGIONS = {  # (k1, k2) of women and men
    "low": ((-0.7380, 0.7019), (-0.5699, 0.7476)),
    "moderate": ((-0.3143, 0.7701), (-0.1565, 0.8009)),
    "high": ((0.5710, 0.9369), (0.3207, 0.9360)),
    "very high": ((0.9412, 0.8329), (0.5836, 0.8294)),
}
WEIGHTS = ("mean_one", "softmax", "none")
RISKS = ("score2", "shuffled")


def _choose(field: str, value, valid) -> None:
    if value not in valid:
        raise EcgError(f"{field}={value!r}", field=field, fix=f"use one of {', '.join(map(str, valid))}")


def score2(sex, age, smoker, sbp, cholesterol, hdl, region: str | None = "moderate", diabetes=0):
    """Ten-year risk of a cardiovascular event as a fraction, float64; NaN where an input is NaN or sex neither 0 nor 1.
    sex: 1 or "male", 0 or "female"; age in years, not checked; smoker, diabetes 0/1; sbp systolic pressure in mmHg;
    cholesterol and hdl in mmol/L; region: of REGIONS, or None for the uncalibrated risk. Tensors give a tensor, arrays
    an array, scalars a float."""
    _choose("region", region, (*REGIONS, None))
    if not isinstance(sex, torch.Tensor) and np.asarray(sex).dtype.kind in "UO":
        for value in np.unique(np.asarray(sex, str)):
            _choose("sex", str(value), ("male", "female"))
        sex = (np.asarray(sex, str) == "male").astype(np.float64)
    given = (sex, age, smoker, sbp, cholesterol, hdl, diabetes)
    tensors = [v for v in given if isinstance(v, torch.Tensor)]
    device = tensors[0].device if tensors else "cpu"
    sex, age, s, sbp, cholesterol, hdl, d = (torch.as_tensor(v, dtype=torch.float64, device=device) for v in given)
    risk = torch.where(sex == 1, 0.0, math.nan)
    a, b, t, h = (age - 60) / 5, (sbp - 120) / 20, cholesterol - 6, (hdl - 1.3) / 0.5
    terms = (a, s, b, t, h, s * a, b * a, t * a, h * a, d, d * a)
    for value, (*c, survival) in enumerate(COEFFICIENTS):
        hazard = sum(x * y for x, y in zip(c, terms, strict=True)) + math.log(-math.log(survival))  # ln(-ln(1 - r))
        if region is not None:
            k1, k2 = REGIONS[region][value]
            hazard = k1 + k2 * hazard
        risk = torch.where(sex == value, -torch.expm1(-torch.exp(hazard)), risk)
    if tensors:
        return risk
    return risk.item() if risk.ndim == 0 else risk.numpy()


def risks(meta: dict[str, torch.Tensor], region: str = "moderate") -> tuple[torch.Tensor, torch.Tensor]:
    """From a batch's meta: (risk float64 (batch,), NaN without age or sex; share of the META that are missing).
    EcgError where it names no age or no sex at all."""
    absent = [name for name in ("age", "sex") if name not in meta]
    if absent:
        raise EcgError(f"no {' and no '.join(absent)}", field=absent[0], fix=f"deliver the columns {', '.join(META)}")
    unknown = torch.full_like(meta["age"], math.nan)
    values = {name: meta.get(name, unknown).double() for name in META}
    missing = torch.stack([v.isnan() for v in values.values()]).double().mean(0)
    for name, value in POPULATION.items():
        values[name] = values[name].nan_to_num(nan=value)
    sex, age = values.pop("sex"), values.pop("age").clamp(*AGES)
    return score2(sex, age, *values.values(), region), missing


def distances(risk: torch.Tensor, missing: torch.Tensor | None = None, floor: float = 0.2) -> torch.Tensor:
    """Distance d (batch, batch) of every two risks (batch,): squared difference, min-max scaled over the known pairs to
    floor .. 1, times exp(-m_i m_j) of the missing shares; 0 on the diagonal, NaN where a risk is unknown."""
    square = (risk[:, None] - risk).square()
    known = ~square.isnan()
    low, high = torch.where(known, square, math.inf).min(), torch.where(known, square, -math.inf).max()
    # equal risks have no range: every pair is as near as can be
    scaled = torch.where(high > low, (square - low) / (high - low), square - low)
    d = (1 - floor) * scaled + floor
    if missing is not None:
        d = d * torch.exp(-missing[:, None] * missing)
    return d.masked_fill(torch.eye(len(risk), dtype=torch.bool, device=risk.device), 0.0)


def of_others(d: torch.Tensor, patient_id: torch.Tensor | None) -> torch.Tensor:
    """Distances d (batch, batch), NaN between different records of one patient (batch,): they are not compared."""
    if patient_id is None:
        return d
    itself = torch.eye(len(d), dtype=torch.bool, device=d.device)
    return d.masked_fill((patient_id[:, None] == patient_id) & ~itself, math.nan)


def pair_weights(d: torch.Tensor, form: str = "mean_one", patient_id: torch.Tensor | None = None) -> torch.Tensor:
    """Weights (batch, batch) of the negatives of `nt_xent`, which stand for all four combinations of views.
    "softmax", as released: softmax of each row of d tiled to (2 batch, 2 batch); "mean_one": the same with mean 1 over
    each row's negatives. A pair of unknown risk weighs as much as the average negative of its row; records of one
    patient_id (batch,) are no negatives."""
    n, d = len(d), of_others(d, patient_id)
    known = ~d.isnan()
    soft = torch.where(known, d, -math.inf).softmax(1)
    negative = known & ~torch.eye(n, dtype=torch.bool, device=d.device)
    count = negative.sum(1, keepdim=True)
    mean = (soft * negative).sum(1, keepdim=True) / count.clamp_min(1)
    known = known & (count > 0)
    relative = torch.where(known, soft / torch.where(count > 0, mean, 1.0), 1.0)
    if form == "mean_one":
        return relative
    # over 2n columns a row of the softmax sums to 1; with pairs unknown, the known ones share what is theirs of it
    return relative * torch.where(count > 0, mean * (count + 1) / (2 * n), 1 / (2 * n))


def alignment(s: torch.Tensor, d: torch.Tensor, patient_id: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared difference between similarities s (2 batch, 2 batch), min-max scaled over the matrix, and 1 - d for
    d (batch, batch) tiled; pairs of unknown distance and different records of one patient are left out."""
    scaled = (s - s.min()) / (s.max() - s.min()).clamp_min(1e-3)  # alike embeddings would have no bounded gradient
    target = (1 - of_others(d, patient_id)).to(s.dtype).repeat(2, 2)
    known = ~target.isnan()
    return ((scaled - target.nan_to_num()).square() * known).sum() / known.sum()


class Objective(nn.Module):
    """(weighted NT-Xent + align * alignment) / (1 + align) of two views per record; views: of `PairViews` (noise_rms
    0.1 mV in the paper, which has one lead)."""

    def __init__(
        self,
        encoder,
        weights: str = "mean_one",  # of the negatives: "softmax", as released; "none": all 1
        align: float = 1.0,  # weight of the alignment term (paper: 1; 0 = off)
        floor: float = 0.2,  # smallest distance of two records
        missing: bool = True,  # pairs that both lack metadata weigh less
        risk: str = "score2",  # "shuffled" among the records of a batch: the control
        region: str = "moderate",  # of REGIONS
        temperature: float = 0.07,  # of the softmax
        projection: int = 0,  # width of a head of two layers used in training only; 0 = none, as released
        **views,
    ):
        super().__init__()
        for field, value, valid in (("weights", weights, WEIGHTS), ("risk", risk, RISKS), ("region", region, REGIONS)):
            _choose(field, value, valid)
        self.encoder, self.temperature = encoder, temperature
        self.weights, self.align, self.floor, self.missing = weights, align, floor, missing
        self.risk, self.region = risk, region
        self.head = head(encoder.dim, projection)
        self.views = PairViews(encoder.n_leads, **views)

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        views = self.views(batch.x, batch.lead_mask, self.training)
        z1, z2 = self.head(models.embed(self.encoder, *views)).float().chunk(2)
        risk, missing = self.risks(batch.meta)
        d = distances(risk, missing if self.missing else None, self.floor)
        weights = None if self.weights == "none" else pair_weights(d, self.weights, batch.patient_id)
        nce = nt_xent(z1, z2, self.temperature, weights, batch.patient_id)
        z = torch.cat([z1, z2])
        align = alignment(cosine(z, z), d, batch.patient_id)
        logs = {"nce": nce, "align": align, "accuracy": accuracy(z1, z2), "spread": spread(z1)}
        logs["known"] = (~risk.isnan()).float().mean()
        return (nce + self.align * align) / (1 + self.align), {k: v.detach() for k, v in logs.items()}

    def risks(self, meta: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Risk and missing share of every record, or those of another record of the batch where they are shuffled."""
        risk, missing = risks(meta, self.region)
        if self.risk == "shuffled":
            with nullcontext() if self.training else fixed_draws():
                order = torch.randperm(len(risk)).to(risk.device)
            risk, missing = risk[order], missing[order]
        return risk, missing
