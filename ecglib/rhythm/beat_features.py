"""Features of a beat that tell it from the other beats of the same person: its rhythm and its shape beside a template.

Everything is relative to the recording itself (its usual RR interval, its usual beat), without any label: what is early
or wide for one person is usual for another. Positions of R peaks are taken as given.
"""

import numpy as np
import pandas as pd
from scipy import signal

from ecglib import require_known
from ecglib.rhythm.annotated import Annotated
from ecglib.rhythm.beats import first_lead, resampled, rr_ratios

FS = 100.0  # Hz of the shapes that are compared
BEFORE_S, AFTER_S = 0.28, 0.42
PARTS = {"p": (0.0, 0.2), "qrs": (0.2, 0.38), "t": (0.38, 0.7)}  # seconds from the start of a shape
_SHAPE = r"^(?:like|distance|height|area|width|wider|slope|up|down)_"
_RELATIVE = r"^(?:before|after|spread|usual|log|like_(?!before)|distance|wider|slope|height_qrs|step|two_before|around|"
_RELATIVE += r"rank|irregular|rr_-2_over|rr_-1_over|rr_0_over)"
_AROUND = ("like_p_0", "like_p_1", "like_qrs_0", "like_before_p_0", "before_10")
_RANKED = ("before_10", "like_p_0", "like_p_1", "like_qrs_0", "distance_qrs_0")
CONTEXTS = (3, 10, 50)  # intervals on each side that an interval is compared with


def shapes(one: Annotated, n_leads: int = 2) -> np.ndarray:
    """Each beat from 280 ms before to 420 ms after its R peak at 100 Hz, 0.5-35 Hz: float32 (beat, lead, 70).

    In units of the usual amplitude of the lead in this recording. The last lead is repeated where there are fewer.
    """
    rows = first_lead(one.leads)[:n_leads]
    rows += rows[-1:] * (n_leads - len(rows))
    sos = signal.butter(2, (0.5, min(35, 0.45 * one.fs)), "bandpass", fs=one.fs, output="sos")
    smooth = signal.sosfiltfilt(sos, one.signal[rows], axis=-1)
    first, last = one.r - BEFORE_S * one.fs, one.r + AFTER_S * one.fs
    x = resampled(smooth, first, last + 1, round((BEFORE_S + AFTER_S) * FS))
    usual = np.median(np.ptp(x, axis=2), axis=0)
    return x / np.maximum(usual, 1e-3)[None, :, None].astype(np.float32)


def rhythm(r: np.ndarray, fs: float) -> pd.DataFrame:
    """Intervals around each beat: in seconds, over the usual of its neighbours and of the recording; their spread."""
    rr = np.diff(r) / fs
    whole = float(np.median(rr)) if len(rr) else 1.0
    around = np.concatenate([np.full(4, whole), rr, np.full(4, whole)])  # around[k + 4]: from beat k to k + 1
    at = np.arange(len(r)) + 4
    near = {shift: around[np.clip(at + shift, 0, len(around) - 1)] for shift in range(-4, 4)}
    out = {f"rr_{shift}": values for shift, values in near.items() if -3 <= shift <= 2}
    out |= {f"rr_{shift}_over_all": values / whole for shift, values in near.items() if -3 <= shift <= 2}
    for width in CONTEXTS:
        pieces = [rr[max(0, k - width) : k + width] for k in range(len(r))]
        usual = np.array([np.median(piece) if len(piece) else whole for piece in pieces])
        spread = np.array([np.median(abs(np.diff(piece))) if len(piece) > 1 else 0.0 for piece in pieces])
        out |= {
            f"before_{width}": near[-1] / usual,
            f"after_{width}": near[0] / usual,
            f"spread_{width}": spread / usual,
        }
        out[f"usual_{width}_over_all"] = usual / whole
    out |= {f"log_{k}": column for k, column in enumerate(rr_ratios(r, fs).T[:3])}
    out["step"] = near[-1] / near[-2]
    out["two_before"] = (near[-1] + near[-2]) / (2 * whole)
    return pd.DataFrame(out)


def morphology(x: np.ndarray) -> pd.DataFrame:
    """Shape of each beat and its likeness to the usual beat of the recording and to its neighbours.

    x: `shapes` (beat, lead, time). The usual beat is the median of the beats that are most like the median of all.
    """
    out = {}
    for lead in range(x.shape[1]):
        mine = x[:, lead]
        usual = np.median(mine, axis=0)
        alike = _correlation(mine, usual)
        usual = np.median(mine[alike >= np.median(alike)], axis=0)
        for part, (begin, end) in PARTS.items():
            piece, model = (values[..., round(begin * FS) : round(end * FS)] for values in (mine, usual))
            name = f"{part}_{lead}"
            out[f"like_{name}"] = _correlation(piece, model)
            out[f"distance_{name}"] = np.sqrt(((piece - model) ** 2).mean(axis=1))
            out[f"height_{name}"] = np.ptp(piece, axis=1) / max(np.ptp(model), 0.05)
            out[f"area_{name}"] = piece.mean(axis=1) - model.mean()
            before = np.concatenate([piece[:1], piece[:-1]])
            out[f"like_before_{name}"] = _correlation(piece, before)
        out |= _qrs(mine, usual, lead)
    return pd.DataFrame(out)


def _qrs(mine: np.ndarray, usual: np.ndarray, lead: int) -> dict:
    """Width of the QRS complex (share of the window in which its energy lies), its slope and direction."""
    begin, end = (round(seconds * FS) for seconds in PARTS["qrs"])
    out, widths = {}, []
    for values in (mine, usual[None]):
        slope = np.diff(values[:, begin - 2 : end + 6], axis=1)
        energy = np.cumsum(slope**2, axis=1)
        energy /= np.maximum(energy[:, -1:], 1e-9)
        widths.append((energy < 0.9).sum(axis=1) - (energy < 0.1).sum(axis=1))
        top = abs(slope).max(axis=1)
    out[f"width_{lead}"], out[f"wider_{lead}"] = widths[0], widths[0] / max(int(widths[1][0]), 1)
    steep = abs(np.diff(mine[:, begin:end], axis=1)).max(axis=1)
    out[f"slope_{lead}"] = steep / max(float(top[0]), 1e-3)
    out[f"up_{lead}"], out[f"down_{lead}"] = mine[:, begin:end].max(axis=1), mine[:, begin:end].min(axis=1)
    return out


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation along the last axis (beat,), 0 where one is flat."""
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    size = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.divide((a * b).sum(axis=-1), size, out=np.zeros(len(a)), where=size > 1e-9)


def surroundings(table: pd.DataFrame) -> pd.DataFrame:
    """What is usual around each beat of a recording, and where the beat stands among all of it.

    table: columns of `rhythm` and `morphology`. Medians over 21 beats of the likeness of P waves and QRS complexes (no
    P wave is alike in fibrillation), irregularity over 31 beats, and ranks within the recording as shares.
    """
    around = table[list(_AROUND)].rolling(21, center=True, min_periods=1).median().add_prefix("around_")
    steps = np.log(table["step"]).abs().rolling(31, center=True, min_periods=1).median()
    ranks = table[list(_RANKED)].rank(pct=True).add_prefix("rank_")
    return pd.concat([around, steps.rename("irregular"), ranks], axis=1)


GROUPS = ("length", "rhythm", "shape", "relative", "all")


def of_group(table: pd.DataFrame, group: str) -> pd.DataFrame:
    """The columns of `features` that one question needs.

    group: of GROUPS; "length": the two intervals in seconds; "rhythm": intervals; "shape": the beat itself;
    "relative": all that is a ratio, a likeness or a rank, and no second or millivolt.
    """
    require_known("group of features", [group], GROUPS)
    shape = table.columns.str.contains(_SHAPE)
    around = table.columns.str.contains("^(?:around|rank)_")
    chosen = {"length": ["rr_-1", "rr_0"], "rhythm": table.columns[~shape & ~around], "shape": table.columns[shape]}
    chosen["relative"] = table.columns[table.columns.str.contains(_RELATIVE)]
    return table[list(chosen.get(group, table.columns))]


def features(one: Annotated) -> pd.DataFrame:
    """All features of the beats of one recording: rhythm, the shape in two leads, and what is usual around."""
    table = pd.concat([rhythm(one.r, one.fs), morphology(shapes(one))], axis=1)
    table = pd.concat([table, surroundings(table)], axis=1)
    return table.replace([np.inf, -np.inf], np.nan).fillna(0.0).astype(np.float32)
