"""What breaks a frozen encoder: its probe, fitted on clean signals, scored on noisy, incomplete and mistaken ones.

Noise, missing leads, the printed layout, swapped electrodes, lower rates, shorter recordings. Every method meets the
same damage, which a seed decides, after the signal chain; R peaks stay those of the clean recording. The probe is the
one that the study chose on clean validation records; nothing is chosen here.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError, models, require_known
from ecglib.data import notebook
from ecglib.data.filters import resample
from ecglib.evaluation import bootstrap, classifiers, embeddings, predictions
from ecglib.training.augment import noisy_view
from ecglib.training.masking import lead_subsets
from ecglib.training.noise import KINDS

CLEAN, NOISE, LEADS, BOTH = "clean", "noise", "leads", "noise + leads"
SUBSET, PAPER, SWAP, RATE, LENGTH = "lead subset", "paper", "swap", "rate", "length"
FAMILIES = (CLEAN, NOISE, LEADS, SUBSET, BOTH, PAPER, SWAP, RATE, LENGTH)
# Lead that is read in the place of each: right and left arm exchanged (I turns its sign), and two chest electrodes.
SWAPS = {
    "arms": {"I": ("I", -1), "II": ("III", 1), "III": ("II", 1), "aVR": ("aVL", 1), "aVL": ("aVR", 1)},
    "V1/V2": {"V1": ("V2", 1), "V2": ("V1", 1)},
}
COLUMNS = (("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6"))  # of a printed ECG
STRIP = "II"  # the lead that many printed ECGs show whole
CHUNK = 256  # records that are drawn together: part of the definition of the damage


@dataclass(frozen=True)
class Corruption:
    """One way in which a recording is not what the probe has learned from."""

    family: str  # of FAMILIES
    name: str  # in tables and figures
    level: float = np.nan  # dB, leads, Hz or seconds: the axis of its family, NaN where there is none
    kinds: tuple = ()  # of noise, added up
    snr: float = np.inf  # dB
    kept: int | None = None  # leads that are left, drawn for each record
    leads: tuple = ()  # leads that are left, by name
    swap: str = ""  # of SWAPS
    strip: bool = False  # of the printed layout: lead II is whole


@dataclass(frozen=True)
class Plan:
    """Which corruptions there are; the fields are the numbers of the study."""

    snrs: tuple = (24.0, 12.0, 6.0, 0.0)  # dB, of all kinds of noise together
    kind_snrs: tuple = (0.0,)  # dB, of each kind alone
    kept: tuple = (11, 9, 6, 3, 2, 1)  # numbers of leads
    subsets: dict = field(default_factory=dict)  # name -> leads
    both: tuple = ()  # (leads kept, SNR in dB)
    swaps: tuple = tuple(SWAPS)
    rates: tuple = (50.0,)  # Hz
    seconds: tuple = (5.0, 2.5)

    def corruptions(self, n_leads: int) -> list[Corruption]:
        """The clean recording and every corruption of it. EcgError for a swap or number of leads that there is not."""
        require_known("swap", self.swaps, list(SWAPS), "swaps")
        wrong = [k for k in (*self.kept, *(k for k, _ in self.both)) if not 1 <= k <= n_leads]
        if wrong:
            raise EcgError(f"{wrong[0]} of {n_leads} leads", field="kept", fix=f"a number from 1 to {n_leads}")
        made = [Corruption(CLEAN, CLEAN)]
        made += [Corruption(NOISE, f"all noise, {snr:g} dB", snr, tuple(KINDS), snr) for snr in self.snrs]
        made += [
            Corruption(NOISE, f"{kind}, {snr:g} dB", snr, (kind,), snr) for kind in KINDS for snr in self.kind_snrs
        ]
        made += [Corruption(LEADS, f"{k} lead{'s' * (k > 1)}", k, kept=k) for k in self.kept]
        made += [Corruption(SUBSET, name, len(leads), leads=tuple(leads)) for name, leads in self.subsets.items()]
        for k, snr in self.both:
            name = f"{k} lead{'s' * (k > 1)}, {snr:g} dB"
            made.append(Corruption(BOTH, name, k, tuple(KINDS), snr, k))
        made += [Corruption(PAPER, "3 x 4"), Corruption(PAPER, "3 x 4, II whole", strip=True)]
        made += [Corruption(SWAP, f"{name} swapped", swap=name) for name in self.swaps]
        made += [Corruption(RATE, f"{fs:g} Hz", fs) for fs in self.rates]
        return made + [Corruption(LENGTH, f"{seconds:g} s", seconds) for seconds in self.seconds]


def corrupted(corruption: Corruption, x, lead_mask, leads, *, fs: float = 100.0, seed: int = 42, noise: str = ""):
    """Signals and lead mask as the corruption leaves them, new tensors.

    x: float32 (record, lead, time); lead_mask: bool (record, lead), the leads that there are; leads: their names.
    fs: of x, Hz; seed: of noise and of the leads that go, which do not depend on each other; noise: path of packed
    recorded noise, "" = simulated. Leads without signal stay zero. Raises EcgError for leads that are not there.
    """
    c, leads = corruption, list(leads)
    if c.family == PAPER:
        return _printed(x, leads, c.strip), lead_mask
    if c.family == SWAP:
        order, sign, at = _exchanged(leads, c.swap)
        return x[:, order] * sign, lead_mask[:, at]
    if c.family == RATE:
        slow = resample(x.numpy(), fs, c.level)
        return torch.from_numpy(resample(slow, c.level, fs)[..., : x.shape[-1]]), lead_mask
    if c.family == LENGTH:
        return torch.where(torch.arange(x.shape[-1]) < round(c.level * fs), x, 0.0), lead_mask
    if c.leads:
        require_known("lead", c.leads, leads, "subsets")
        left = lead_mask & torch.tensor([name in c.leads for name in leads])
        return x * left.unsqueeze(-1), left
    x = add_noise(x, c.snr, kinds=c.kinds, seed=seed, fs=fs, noise=noise) if c.kinds else x
    return drop_leads(x, lead_mask, kept=c.kept, seed=seed) if c.kept else (x, lead_mask)


def _printed(x, leads, strip: bool):
    """A quarter of the time of each lead, in four columns; the rest was never printed."""
    require_known("lead", [name for column in COLUMNS for name in column], leads, "leads")
    n, out = x.shape[-1] // len(COLUMNS), torch.zeros_like(x)
    for k, column in enumerate(COLUMNS):
        for at in map(leads.index, column):
            out[:, at, k * n : (k + 1) * n] = x[:, at, k * n : (k + 1) * n]
    if strip:
        out[:, leads.index(STRIP)] = x[:, leads.index(STRIP)]
    return out


def _exchanged(leads, swap: str):
    """(rows of x in their new order, their signs (lead, 1), rows of the mask)."""
    moved = SWAPS[swap]
    require_known("lead", moved, leads, "leads")
    pairs = [moved.get(name, (name, 1)) for name in leads]
    order = [leads.index(name) for name, _ in pairs]
    return order, torch.tensor([[float(sign)] for _, sign in pairs]), order


def add_noise(x, snr: float, *, kinds=KINDS, seed: int = 42, fs: float = 100.0, noise: str = ""):
    """Noisy copy of x (record, lead, time), with the same noise at every snr; an infinite snr returns x.

    snr: in dB; kinds: of `training.noise`, added up in every lead; fs: of x in Hz; noise: path of a packed file, "" =
    simulated. The draws depend on the seed and the record's position alone.
    """
    if np.isinf(snr):
        return x
    view = dict(kinds=kinds, p=1.0, rate=1.0, low=float(snr), high=float(snr))
    return _chunks(lambda chunk: noisy_view(chunk, fs, noise, **view), seed, 0, x)


def drop_leads(x, lead_mask, *, kept: int, seed: int = 42):
    """Copy of x (record, lead, time) in which `kept` leads are left, and which those are, bool (record, lead).

    lead_mask bool (record, lead): the leads that there are; where none of those is left, all of them are. Subsets are
    uniform, those for fewer leads within those for more. Raises EcgError for `kept` outside 1 .. lead.
    """
    n_leads = x.shape[1]
    if not 1 <= kept <= n_leads:
        raise EcgError(f"kept={kept} of {n_leads} leads", field="kept", fix=f"a number from 1 to {n_leads}")

    def kept_leads(present):
        left = lead_subsets(len(present), n_leads, kept, kept) & present
        return torch.where(left.any(1, keepdim=True), left, present)

    left = _chunks(kept_leads, seed, 1, lead_mask)
    return x * left.unsqueeze(-1).to(x), left


def _chunks(function, seed: int, purpose: int, *tensors):
    """function over chunks of records, each with its own seed; the leads that go do not depend on the noise."""
    out = []
    with torch.random.fork_rng(devices=[]):
        for i, chunks in enumerate(zip(*(t.split(CHUNK) for t in tensors), strict=True)):
            torch.manual_seed(int(np.random.SeedSequence([seed, purpose, i]).generate_state(1)[0]))
            out.append(function(*chunks))
    return torch.cat(out)


def some_patients(cohort, rows, n: int, seed: int = 0) -> np.ndarray:
    """Rows of randomly drawn patients, all of each, until there are n of them or more; n = 0: all rows. Sorted."""
    rows = np.asarray(rows)
    if not 0 < n < len(rows):
        return rows
    patients = cohort.records["patient_id"].to_numpy()[rows]
    names, owner, count = np.unique(patients, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    last = int(np.searchsorted(np.cumsum(count[order]), n))
    return rows[np.isin(owner, order[: last + 1])]


class FrozenProbe(NamedTuple):
    """A frozen encoder and the linear probe on it."""

    encoder: torch.nn.Module
    pooling: str  # of embeddings.POOLINGS
    model: classifiers.Linear

    def features(self, x, lead_mask, peaks) -> np.ndarray:
        """Features float32 (record, dim) of x (record, lead, time); lead_mask, peaks: as of `models.embed`."""
        z = []
        self.encoder.eval()
        with torch.inference_mode():
            for some in torch.arange(len(x)).split(CHUNK):
                z.append(pooled(self.encoder, self.pooling, x[some], lead_mask[some], peaks[some]))
        return torch.cat(z).float().numpy()

    def __call__(self, x, lead_mask, peaks) -> np.ndarray:
        """Probabilities (record, label)."""
        return self.model(self.features(x, lead_mask, peaks))


def pooled(encoder, pooling: str, x, lead_mask, peaks) -> torch.Tensor:
    """Features of one batch by one of `embeddings.POOLINGS`, as a probe of the study reads them: (record, dim)."""
    if pooling == embeddings.OWN:
        return models.embed(encoder, x, lead_mask, peaks)
    parts = embeddings.of_batch(encoder, x, lead_mask, peaks)
    require_known("pooling", [pooling], list(parts), "pooling")
    middle = pooling == embeddings.MIDDLE  # stands beside the last layer, as in `embeddings.poolings`
    return torch.cat([parts[embeddings.SPREAD], parts[pooling]], 1) if middle else parts[pooling]


def fit_probe(encoder, data, choice) -> FrozenProbe:
    """The probe of the study, on clean training records: the cell of the grid that its validation records chose.

    data: CohortData of the training rows with labels; choice: the row of a probe's `choices.csv` for all labels, with
    pooling, standardise, C and class_weight ("none" or "balanced").
    """
    batch, pooling = data.batch(np.arange(len(data))), choice["pooling"]
    z = FrozenProbe(encoder, pooling, None).features(batch.x, batch.lead_mask, batch.peaks).astype(float)
    y = predictions.observed(batch.labels.numpy())
    cell = bool(choice["standardise"]), float(choice["C"]), choice["class_weight"] == "balanced"
    return FrozenProbe(encoder, pooling, classifiers.at_cell(z, y, *cell))


def study_choice(folder) -> dict:
    """What the study chose for a probe at all labels, its first seed: the row of `choices.csv` in a folder of probes.

    Raises EcgError where the file or the row is missing.
    """
    file = Path(folder) / "choices.csv"
    if not file.is_file():
        raise EcgError("no choices of a probe here", file=file, fix="run the probing stage first: `dvc repro`")
    table = pd.read_csv(file, keep_default_na=False)
    rows = table[(table["fraction"] == 1.0) & (table["seed"] == 0) & (table["fold"] == "")]
    if rows.empty or "pooling" not in rows:
        fix = "probe frozen features at fraction 1.0"
        raise EcgError("no linear probe at all labels", file=file, field="fraction", fix=fix)
    return rows.iloc[0].to_dict()


def predict(probes: dict, corruptions, data, **damage) -> dict:
    """Probabilities (record, label) of every probe for every corruption: {(method, name of the corruption): p}.

    probes: method -> FrozenProbe; data: CohortData of the rows to predict; damage: seed and noise of `corrupted`. Each
    corruption is drawn once, for all methods; windows of a record are averaged.
    """
    batch, found = data.batch(np.arange(len(data))), {}
    leads = data.leads or data.cohort.leads
    for corruption in notebook.track(list(corruptions), "corruptions", "corruption"):
        x, mask = corrupted(corruption, batch.x, batch.lead_mask, leads, fs=data.fs, **damage)
        for method, probe in probes.items():
            (p,) = predictions.per_record(data.record_ids, probe(x, mask, batch.peaks))
            found[method, corruption.name] = p
    return found


def truth(data) -> tuple[np.ndarray, np.ndarray]:
    """(y (record, label) as metrics count it, patients (record,)) of CohortData with labels, one row per record."""
    first = ~pd.Series(data.record_ids).duplicated().to_numpy()
    rows = data.rows[first]
    y = predictions.observed(predictions.label_states(data.cohort, rows, data.labels))
    return y, data.cohort.records["patient_id"].to_numpy()[rows]


def score(found: dict, data, *, n: int = 1000, seed: int = 0, min_positives: int = 0) -> dict:
    """Macro AUROC of all that `predict` found, on the same resamples of the patients: {key: bootstrap.Interval}."""
    y, patients = truth(data)
    use = (y == 1).sum(0) >= max(1, min_positives)
    if not use.any():
        raise EcgError(f"no label has {min_positives} positives", field="min_positives", fix="take more records")
    scores = {}
    for key, p in notebook.track(list(found.items()), "scores", "score"):
        drawn = bootstrap.replicates(y[:, use], p[:, use], patients, n, seed)
        scores[key] = bootstrap.macro(drawn, y[:, use])
    return scores


def table(scores: dict, corruptions) -> pd.DataFrame:
    """A row per method and corruption: method, family, corruption, level, auroc, low, high, n_labels, and the paired
    change from the clean recording: change, change_low, change_high."""
    rows, by_name = [], {c.name: c for c in corruptions}
    for (method, name), score in scores.items():
        change = _difference(score, scores[method, CLEAN])
        c, numbers = by_name[name], (*score[:3], score.n_labels, *change[:3])
        rows.append((method, c.family, name, c.level, *numbers))
    columns = ["method", "family", "corruption", "level", "auroc", "low", "high", "n_labels"]
    return pd.DataFrame(rows, columns=[*columns, "change", "change_low", "change_high"])


def _difference(one, other):
    return bootstrap.interval(one.point - other.point, one.replicates - other.replicates)


def areas(scores: dict, corruptions, n_leads: int, reference: str = "") -> pd.DataFrame:
    """Area under the AUROC of each method over SNR, and over the number of leads: its mean height along the axis.

    The axis of the leads ends with the clean recording, which has all `n_leads`; that of the noise runs over the SNR of
    all kinds together. reference: a method to compare with; then also the paired difference to it: gain,
    gain_low, gain_high and its two-sided p, adjusted by Holm within an axis as p_holm.
    Returns a row per axis and method: axis, method, area, low, high. Trapezoids (the rule is exact for what is drawn).
    """
    axes = {
        NOISE: [(c.level, c.name) for c in corruptions if c.family == NOISE and len(c.kinds) > 1],
        LEADS: [(c.level, c.name) for c in corruptions if c.family == LEADS] + [(n_leads, CLEAN)],
    }
    rows = []
    for axis, points in axes.items():
        if len(points) < 2:
            continue
        area = {method: _area(scores, method, sorted(points)) for method in dict.fromkeys(m for m, _ in scores)}
        gains = {m: _difference(each, area[reference]) for m, each in area.items()} if reference else {}
        p = {m: bootstrap.two_sided(gain.replicates) for m, gain in gains.items() if m != reference}
        adjusted = dict(zip(p, bootstrap.holm(list(p.values())), strict=True)) if p else {}
        for method, each in area.items():
            row = dict(axis=axis, method=method, area=each.point, low=each.low, high=each.high)
            if method in adjusted:
                gain = gains[method]
                row |= dict(gain=gain.point, gain_low=gain.low, gain_high=gain.high, p_holm=adjusted[method])
            rows.append(row)
    return pd.DataFrame(rows)


def _area(scores: dict, method: str, points):
    """Interval of the mean height over the rising levels of points (level, corruption)."""
    levels = np.array([level for level, _ in points], float)
    weights = np.zeros(len(levels))
    for k, (left, right) in enumerate(pairwise(levels)):
        weights[[k, k + 1]] += (right - left) / 2
    weights /= levels[-1] - levels[0]
    each = [scores[method, name] for _, name in points]
    drawn = sum(weight * score.replicates for weight, score in zip(weights, each, strict=True))
    return bootstrap.interval(float(weights @ [score.point for score in each]), drawn)
