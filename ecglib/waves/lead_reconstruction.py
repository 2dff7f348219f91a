"""Twelve leads from a few: ridge regression and a network that hides leads, their errors, and what a classifier loses.

Only the independent leads are rebuilt; III, aVR, aVL and aVF follow from I and II, and given leads stay as they are.
After arXiv 2502.00559 (what each lead tells about the others) and WearECG, arXiv 2510.11442 (a fixed classifier on
rebuilt leads).
"""

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError, require_known
from ecglib.data.recording import INDEPENDENT, LEADS, limb
from ecglib.evaluation import bootstrap, lead_information

NAMES = tuple(LEADS[row] for row in INDEPENDENT)
BEFORE_S, NEAR_S = (0.12, 0.08), 0.06  # s: level before R; how far R peaks of other leads may be
T_S, UNTIL_NEXT = (0.16, 0.44), 0.7  # s after R that hold T, at most this share of RR
CHUNK = 128


def kept_leads(given) -> np.ndarray:
    """Which of the independent leads NAMES are given: bool (8,). EcgError for an unknown or derived lead, or none."""
    require_known("lead", list(given), NAMES, "subsets")
    if not len(given):
        raise EcgError("a subset without a lead", field="subsets", fix=f"name some of {', '.join(NAMES)}")
    return np.isin(NAMES, list(given))


def complete(x: np.ndarray) -> np.ndarray:
    """Twelve leads (record, 12, time) of the independent ones (record, 8, time), by Einthoven and Goldberger."""
    rows = {name: x[:, row] for row, name in enumerate(NAMES)} | limb(x[:, 0], x[:, 1])
    return np.stack([rows[name] for name in LEADS], axis=1)


def by_ridge(x_train: np.ndarray, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Independent leads of x (record, 8, time) rebuilt from the kept ones, sample by sample: float32, same shape.

    x_train: of other patients. Records are rebuilt around a mean of zero, as `lead_information.ridge` is fitted.
    """
    inputs, outputs = np.flatnonzero(kept), np.flatnonzero(~kept)
    out = x.copy()
    if len(outputs):
        weights, _ = lead_information.ridge(x_train, x[:1], inputs, outputs)
        given = x[:, inputs] - x[:, inputs].mean(axis=-1, keepdims=True)
        out[:, outputs] = np.einsum("io,rit->rot", weights, given)
    return out


def by_network(objective, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """As `by_ridge`, by a trained objective `reconstruct`."""
    signals, mask = torch.from_numpy(x), torch.from_numpy(kept)
    objective.eval()
    with torch.no_grad():
        parts = [objective.restore(some, mask.expand(len(some), -1)) for some in signals.split(CHUNK)]
    return torch.cat(parts).numpy()


def record_errors(x: np.ndarray, rebuilt: np.ndarray, fs: float, peaks: list[np.ndarray], mv: float) -> pd.DataFrame:
    """Errors of every rebuilt lead of every record: a row with record, lead, square and variance (mV squared), r, and
    the errors of the R and T amplitudes in mV (rebuilt minus true), NaN without a beat.

    x, rebuilt: (record, 8, time), rebuilt leads around a mean of zero; fs: Hz; peaks: R peaks of each record; mv:
    millivolt in one unit of x.
    """
    a, b = x - x.mean(axis=-1, keepdims=True), rebuilt
    square, variance = ((b - a) ** 2).mean(-1) * mv**2, (a**2).mean(-1) * mv**2
    norm = a.std(-1) * b.std(-1)
    r = np.divide((a * b).mean(-1), norm, out=np.zeros_like(norm), where=norm > 0)
    waves = [amplitudes(one, fs, at) for one, at in zip(x, peaks, strict=True)]
    again = [amplitudes(one, fs, at) for one, at in zip(rebuilt, peaks, strict=True)]
    gaps = (np.stack(again) - np.stack(waves)) * mv
    record, lead = np.meshgrid(np.arange(len(x)), NAMES, indexing="ij")
    columns = {"record": record, "lead": lead, "square": square, "variance": variance, "r": r}
    columns |= {"r_wave": gaps[..., 0], "t_wave": gaps[..., 1]}
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()})


def amplitudes(x: np.ndarray, fs: float, peaks: np.ndarray) -> np.ndarray:
    """Heights of R and T over the level before QRS, medians over beats: (lead, 2); NaN without a whole beat.

    x: (lead, time); peaks: samples of R. R is the highest point within 60 ms of them, T the point farthest from the
    level from 160 to 440 ms after R, at most 70 % of the way to the next.
    """
    rr = float(np.median(np.diff(peaks))) if len(peaks) > 1 else fs
    near, pre = round(NEAR_S * fs), [round(s * fs) for s in BEFORE_S]
    start, stop = round(T_S[0] * fs), round(min(T_S[1] * fs, UNTIL_NEXT * rr))
    whole = peaks[(peaks >= pre[0]) & (peaks + max(stop, near) < x.shape[1])]
    if not len(whole) or stop <= start:
        return np.full((len(x), 2), np.nan)
    level = x[:, whole[:, None] - np.arange(pre[1], pre[0] + 1)].mean(-1)
    top = x[:, whole[:, None] + np.arange(-near, near + 1)].max(-1) - level
    part = x[:, whole[:, None] + np.arange(start, stop)] - level[..., None]
    tall = np.take_along_axis(part, abs(part).argmax(-1)[..., None], -1)[..., 0]
    return np.stack([np.median(top, axis=1), np.median(tall, axis=1)], axis=1)


def per_lead(errors: pd.DataFrame, patients: np.ndarray, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """A row per lead: information content, rmse (mV), mean r, mean absolute errors of R and T (mV), with intervals.

    errors: rows of `record_errors`; patients: of each record. Information content: 1 - sum of squares / variance over
    all records, as `lead_information.information_content`.
    """
    rows = []
    for lead, group in errors.groupby("lead", sort=False):
        group = group.sort_values("record")
        columns = [group["square"], group["variance"], group["r"], abs(group["r_wave"]), abs(group["t_wave"])]
        values = [np.nan_to_num(column) for column in columns] + [column.notna() for column in columns]
        row = {"lead": lead, "records": len(group)}
        for name, found in bootstrap.of_sums(np.stack(values, 1), patients[group["record"]], _means, n, seed).items():
            row |= {name: found.point, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _means(sums: np.ndarray) -> dict[str, np.ndarray]:
    """From sums of the five columns of `per_lead`, then of how often each is known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        square, variance, r, r_wave, t_wave = (sums[:, :5] / sums[:, 5:]).T
        content = 1 - square / variance
    return {"information": content, "rmse": np.sqrt(square), "r": r, "r_error": r_wave, "t_error": t_wave}


def recorded(kept: np.ndarray) -> np.ndarray:
    """Which of the twelve LEADS there are where the independent ones in `kept` (8,) are given: bool (12,).

    III, aVR, aVL and aVF are there where I and II both are.
    """
    there = {name: bool(flag) for name, flag in zip(NAMES, kept, strict=True)}
    return np.array([there.get(name, there["I"] and there["II"]) for name in LEADS])


def classifier_table(scores: dict) -> pd.DataFrame:
    """A row per key (given, leads) of scores ({key: bootstrap.Interval} on the same resamples): auroc, low, high,
    n_labels, and the paired change from the first key with its interval."""
    rows, whole = [], next(iter(scores.values()))
    for (given, leads), score in scores.items():
        change = bootstrap.interval(score.point - whole.point, score.replicates - whole.replicates)
        rows.append((given, leads, *score[:3], score.n_labels, *change[:3]))
    columns = ["given", "leads", "auroc", "low", "high", "n_labels", "change", "change_low", "change_high"]
    return pd.DataFrame(rows, columns=columns)
