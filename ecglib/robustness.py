"""What is left of a frozen encoder when leads are missing and signals are noisy: the tables of TolerantECG.

Signals are damaged after the profile, alike for every encoder: the draws depend on the seed and the record's position
alone, so that models are compared on the same damage. Nothing is trained here: the encoder is frozen, the probe fitted.
"""

import numpy as np
import pandas as pd
import torch

from ecglib import metrics, probe
from ecglib.masking import lead_drop, lead_subsets
from ecglib.noise import KINDS
from ecglib.objectives.tolerant import noisy_view
from ecglib.signals import EcgError

CONDITIONS = ("clean", "mask", "noise", "mask + noise")
KEPT = (12, 6, 3, 2, 1)
SNRS = (np.inf, 12.0, 6.0, 0.0, -6.0, -10.0)  # dB; infinite = clean
CHUNK = 256  # records that are drawn together: part of the definition of the damage


def add_noise(x, snr, *, kinds=KINDS, rate: float = 1.0, seed: int = 42, fs: float = 100.0, noise: str = ""):
    """Noisy copy of x float32 (record, lead, time): snr in dB, a number or (low, high) of a uniform draw per lead.

    kinds: of `ecglib.noise`, added up; each of them meets each lead with chance `rate`. fs in Hz; noise: path of a
    packed file, "" = simulated. The same noise at every snr. An infinite snr returns x.
    """
    low, high = np.broadcast_to(snr, 2)
    if np.isinf(low) or np.isinf(high):
        return x
    view = dict(kinds=kinds, p=1.0, rate=rate, low=float(low), high=float(high))
    return _chunks(lambda part: noisy_view(part, fs, noise, **view), seed, 0, x)


def drop_leads(x, lead_mask, *, kept: int | None = None, drop: float = 0.0, seed: int = 42):
    """Copy of x (record, lead, time) in which `kept` leads are left, or each is gone with chance `drop`, but not all.

    lead_mask bool (record, lead): the leads that there are; where none of those is left, all of them are. Subsets of
    size `kept` are uniform, those for fewer leads within those for more. Raises EcgError for `kept` outside 1 .. lead.
    """
    n_leads = x.shape[1]
    if kept is not None and (drop or not 1 <= kept <= n_leads):
        raise EcgError(f"kept={kept} of {n_leads} leads, drop={drop}", field="kept", fix="use one of the two, in range")
    size = n_leads if kept is None else kept

    def one(part, there):
        n = len(part)
        left = (lead_drop(n, n_leads, drop, there) if drop else lead_subsets(n, n_leads, size, size)) & there
        return part * torch.where(left.any(1, keepdim=True), left, there).unsqueeze(-1).to(part)

    return _chunks(one, seed, 1, x, lead_mask)


def _chunks(function, seed: int, purpose: int, *tensors):
    """function over chunks of records, each with its own seed; the leads that go do not depend on the noise."""
    out = []
    with torch.random.fork_rng(devices=[]):
        for i, parts in enumerate(zip(*(t.split(CHUNK) for t in tensors), strict=True)):
            torch.manual_seed(int(np.random.SeedSequence([seed, purpose, i]).generate_state(1)[0]))
            out.append(function(*parts))
    return torch.cat(out)


def four(encoder, predict, data, *, rate=0.5, drop=0.5, snr=(-10.0, 0.0), seed=42, noise="", **scoring) -> pd.DataFrame:
    """The four-condition table: clean; leads dropped at random; noise on some leads; both. One row per condition.

    Columns: condition, then those of `score`. encoder: frozen; predict: features (window, dim) -> probabilities
    (window, label), a fitted probe (`classifiers.linear(..).model`); data: `CohortData` with labels, of rows that may
    be looked at. rate, snr: see `add_noise`; drop: see `drop_leads`; scoring: `n` and `min_positives` of `score`.
    """
    x, there = _signals(data)
    noisy, options = add_noise(x, snr, rate=rate, seed=seed, fs=data.fs, noise=noise), dict(drop=drop, seed=seed)
    damaged = x, drop_leads(x, there, **options), noisy, drop_leads(noisy, there, **options)
    rows = zip(CONDITIONS, damaged, strict=True)
    return pd.DataFrame({"condition": c, **score(predict(features(encoder, z)), data, **scoring)} for c, z in rows)


def grid(encoder, predict, data, *, kept=KEPT, snrs=SNRS, kinds=(KINDS,), seed=42, noise="", **scoring) -> pd.DataFrame:
    """Macro AUROC over kinds of noise (each entry: those added up) x leads kept x SNR, all leads noisy: row per cell.

    Columns: kinds, kept, snr, then those of `score`; sizes beyond the leads of the data are left out. See `four`.
    """
    (x, there), rows = _signals(data), []
    for names in kinds:
        for snr in snrs:
            noisy = add_noise(x, snr, kinds=names, seed=seed, fs=data.fs, noise=noise)
            for k in (k for k in kept if k <= x.shape[1]):
                p = predict(features(encoder, drop_leads(noisy, there, kept=k, seed=seed)))
                rows.append({"kinds": " + ".join(names), "kept": k, "snr": snr, **score(p, data, **scoring)})
    return pd.DataFrame(rows).sort_values(["kinds", "kept", "snr"], ascending=[True, False, False], ignore_index=True)


def score(p, data, n: int = 1000, min_positives: int = 0) -> dict:
    """Macro AUROC of probabilities p (window, label), windows of a record averaged: auroc, low, high, n_labels,
    n_records. The interval is drawn over patients (`metrics.bootstrap`: n, min_positives)."""
    first = ~pd.Series(data.record_ids).duplicated().to_numpy()
    y = probe.known(probe.truth(data.cohort, data.rows[first], data.labels))
    patients = data.cohort.records["patient_id"].to_numpy()[data.rows[first]]
    p = pd.DataFrame(p).groupby(data.record_ids, sort=False).mean().to_numpy()
    found = metrics.bootstrap(y, p, patients, n=n, min_positives=min_positives)
    used = ~np.isnan(metrics.auroc(y, p)) & (metrics.positives(y) >= min_positives)
    return dict(auroc=found[0], low=found[1], high=found[2], n_labels=int(used.sum()), n_records=len(y))


def features(encoder, x) -> np.ndarray:
    """Frozen features float32 (window, dim) of x (window, lead, time), on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = encoder.eval().to(device)
    with torch.inference_mode():
        return torch.cat([encoder(part.to(device)).float().cpu() for part in x.split(CHUNK)]).numpy()


def _signals(data):
    """All signals (window, lead, time) and lead masks (window, lead) of `data`."""
    batch = data.batch(np.arange(len(data)))
    return batch.x, batch.lead_mask
