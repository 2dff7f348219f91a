"""Signal quality of one recording in numbers: clipping, size, drift; and whether its leads are what their names say."""

from itertools import permutations

import numpy as np
from scipy import signal as sps

from ecglib.data.filters import bandpass
from ecglib.data.recording import Recording, limb

# Size of a lead: real ones are 0.3 to 11 mV (wearables with motion), unit slips 1000 times. The limits of packing too.
PLAUSIBLE_MV = (0.02, 20.0)
KEPT = (
    0.05  # an identity between leads holds where its error is below this share of the limb leads, both root mean square
)
OPPOSITE = -0.6  # correlation of I with V6 below which the arms are swapped (or the heart lies on the right)
FLAT = 0.03  # a limb lead below this share of the largest: an arm or leg electrode is swapped with the right leg's
ORDERED = 0.3  # by how much a swap of two neighbours must raise the correlation along V1 to V6
LINE_DB, LINE_HZ = (
    20.0,
    30.0,
)  # a narrow line stands out of its surroundings by this much, and is looked for from here on
MAINS_HZ, NEAR_HZ = (50.0, 60.0), 1.0  # and their multiples
DERIVED = ("III", "aVR", "aVL", "aVF")
_PAIRS = {name: (limb(1.0, 0.0)[name], limb(0.0, 1.0)[name]) for name in DERIVED}
LIMB = ("I", "II", *DERIVED)
# Each limb lead as a sum of I and II: column 0 and 1 of LIMB.
_WEIGHTS = {n: np.concatenate([[float(v) for v in pair], np.zeros(4)]) for n, pair in _PAIRS.items()}
CHEST = ("V1", "V2", "V3", "V4", "V5", "V6")
CLIPPED_SHARE, CLIPPED_RUN = 0.002, 4  # share of samples at an extreme, in runs of at least this many


def assess(recording: Recording) -> dict:
    """Describe the leads of a recording that are neither constant nor without samples.

    n_clipped: how many have runs at their extreme values; amplitude_mv: median over leads of the range from the 0.1st
    to the 99.9th percentile (a gain that is wrong by 5, as in the PTB-XL part of CinC 2020, shows in its median over a
    corpus: 6 mV instead of 1.2); drift_mv: median over leads of the standard deviation below 0.5 Hz.
    """
    x = np.nan_to_num(recording.signal, posinf=0, neginf=0)
    x = x[np.ptp(x, axis=-1) > 0] if x.size else x[:0]
    if not len(x):
        return dict(n_clipped=0, amplitude_mv=0.0, drift_mv=0.0)
    drift = bandpass(x, recording.fs, None, 0.5, order=2).std(axis=-1) if recording.fs > 2 else 0.0
    return dict(
        n_clipped=sum(_is_clipped(row) for row in x),
        amplitude_mv=float(np.median(np.ptp(_quantiles(x, (0.001, 0.999)), axis=0))),
        drift_mv=float(np.median(drift)),
    )


def _quantiles(x: np.ndarray, shares) -> np.ndarray:
    """np.quantile(x, shares, axis=-1), bit for bit, of finite x (lead, time): one vectorised sort is faster than its
    partition."""
    ordered, at = np.sort(x, axis=-1), (x.shape[-1] - 1) * np.asarray(shares)
    below = at.astype(int)
    low, high, part = ordered[:, below], ordered[:, np.minimum(below + 1, x.shape[-1] - 1)], at - below
    step = high - low
    return np.where(part < 0.5, low + step * part, high - step * (1 - part)).T


def _is_clipped(row: np.ndarray) -> bool:
    """True where a telling share of the samples sits in runs at the lead's own largest or smallest value."""
    for extreme in (row.max(), row.min()):
        at = row == extreme
        if np.count_nonzero(at) / len(at) <= CLIPPED_SHARE:  # as nearly always: no run has to be measured
            continue
        edges = np.flatnonzero(np.diff(at, prepend=False, append=False))
        if (edges[1::2] - edges[::2]).max() >= CLIPPED_RUN:
            return True
    return False


def contract(recording: Recording) -> dict:
    """Whether the leads of a recording are what their names say.

    einthoven, goldberger: error of III = II - I, and the largest of aVR, aVL, aVF, as a share of the limb leads (root
    mean square above 0.5 Hz; Einthoven 1912, Goldberger 1942); NaN where a lead is not there. bandwidth_hz: 99.9 % of
    the power above 1 Hz lies below; far below fs / 2 where a recording was filtered or sampled up. line_hz: strongest
    narrow line from LINE_HZ on (NaN: none); the mains, or their place after an error in the sampling rate.
    suspects: list of words: "leads named I>aVR" (under other names the identities hold), "duplicate of V1: V2",
    "arms swapped?" (I against V6), "leg electrode?" (a limb lead without a signal), "chest order? V2/V3",
    "unit?" (size), "rate?" (a line that is no mains).
    """
    x = bandpass(np.nan_to_num(recording.signal), recording.fs, 0.5, None, order=2)
    there = dict(zip(recording.leads, x, strict=True))
    there = {name: row for name, row in there.items() if np.ptp(row) > 0}
    errors = _errors(there)
    goldberger = [errors[name] for name in DERIVED[1:] if name in errors]
    bandwidth, line = _spectrum(np.stack(list(there.values())), recording.fs) if there else (np.nan, np.nan)
    found = [*_misnamed(there, errors), *_duplicates(there), *_swapped(there), *_chest_order(there)]
    size = (
        float(np.median(np.ptp(np.quantile(list(there.values()), [0.001, 0.999], axis=-1), axis=0))) if there else 0.0
    )
    found += [] if PLAUSIBLE_MV[0] <= size <= PLAUSIBLE_MV[1] or not there else ["unit?"]
    found += ["rate?"] if line == line and not _is_mains(line) else []
    return {
        "einthoven": errors.get("III", np.nan),
        "goldberger": max(goldberger, default=np.nan),
        "bandwidth_hz": bandwidth,
        "line_hz": line,
        "suspects": found,
    }


def _is_mains(line: float) -> bool:
    """Whether a frequency (Hz) is that of the mains or a multiple."""
    return any(abs(line - mains * max(1, round(line / mains))) <= NEAR_HZ for mains in MAINS_HZ)


def _errors(there: dict) -> dict[str, float]:
    """Error of each derived limb lead that is there, as a share of the limb leads."""
    if not {"I", "II"} <= there.keys():
        return {}
    names = [name for name in LIMB if name in there]
    x = np.stack([there[name] for name in names]).astype(float)
    return _gram_errors(x @ x.T, names)


def _gram_errors(gram: np.ndarray, names) -> dict[str, float]:
    """The same from the products (lead, lead) of the leads `names`: an error is a sum of them."""
    scale = gram[names.index("I"), names.index("I")] + gram[names.index("II"), names.index("II")]
    errors = {}
    for name in names:
        if name in DERIVED:
            weights = -_WEIGHTS[name][[LIMB.index(n) for n in names]]
            weights[names.index(name)] += 1
            errors[name] = float(np.sqrt(max(weights @ gram @ weights, 0) / max(scale / 2, 1e-12)))
    return errors


def _misnamed(there: dict, errors: dict) -> list[str]:
    """Other names under which all identities hold, where under the given ones they do not."""
    if not set(LIMB) <= there.keys() or max(errors.values()) <= KEPT:
        return []
    x = np.stack([there[name] for name in LIMB]).astype(float)
    gram = x @ x.T
    for order in permutations(LIMB):
        if max(_gram_errors(gram, list(order)).values()) <= KEPT:
            moved = [f"{old}>{new}" for old, new in zip(LIMB, order, strict=True) if old != new]
            return [f"leads named {' '.join(moved)}"]
    return ["limb leads disagree"]


def _duplicates(there: dict) -> list[str]:
    names = list(there)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if np.array_equal(there[a], there[b])]
    return [f"duplicate of {a}: {b}" for a, b in pairs]


def _swapped(there: dict) -> list[str]:
    found = []
    if {"I", "V6"} <= there.keys() and np.corrcoef(there["I"], there["V6"])[0, 1] < OPPOSITE:
        found.append("arms swapped?")
    if {"I", "II", "III"} <= there.keys():
        sizes = [there[name].std() for name in ("I", "II", "III")]
        found += ["leg electrode?"] if min(sizes) < FLAT * max(sizes) else []
    return found


def _chest_order(there: dict) -> list[str]:
    """Neighbours of V1 to V6 that would follow each other better the other way round."""
    if not set(CHEST) <= there.keys():
        return []
    alike = np.corrcoef([there[name] for name in CHEST])

    def along(order) -> float:
        return float(sum(alike[a, b] for a, b in zip(order, order[1:], strict=False)))

    usual, best = list(range(6)), None
    for i in range(5):
        order = [*usual[:i], i + 1, i, *usual[i + 2 :]]
        gain = along(order) - along(usual)
        if gain > ORDERED and (best is None or gain > best[0]):
            best = gain, f"chest order? {CHEST[i]}/{CHEST[i + 1]}"
    return [best[1]] if best else []


def _spectrum(x: np.ndarray, fs: float) -> tuple[float, float]:
    """Bandwidth and strongest narrow line (Hz), from the mean spectrum of the leads (lead, time)."""
    hz, power = sps.welch(x, fs, nperseg=min(x.shape[-1], round(4 * fs)))
    power = power.mean(axis=0)
    above = np.where(hz > 1, power, 0).cumsum()
    bandwidth = float(hz[np.searchsorted(above, 0.999 * above[-1])]) if above[-1] > 0 else np.nan
    around = sps.medfilt(power, 2 * (int(3 / max(hz[1], 1e-9)) // 2) + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        height = 10 * np.log10(power / around)
    height[(hz < LINE_HZ) | ~np.isfinite(height) | (power < 1e-9)] = 0
    top = int(height.argmax())
    return bandwidth, float(hz[top]) if height[top] > LINE_DB else np.nan
