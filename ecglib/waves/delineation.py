"""From probabilities to waves: thresholds, gaps and splinters, several leads as one; and waves by the median beat."""

import numpy as np

from ecglib.data import filters, handmade, rpeaks
from ecglib.waves.marked import FS, WAVES, Waves

CLOSED_S = 0.2  # s: gaps up to this length are closed (published: 50 samples)
SHORTEST_S = {"P": 0.02, "QRS": 0.04, "T": 0.06}  # s: what is shorter is no wave
AGREEING_S = 0.04  # s: boundaries of leads within this of their median
BLOCK_S = 10.0  # s: the median beat is taken over parts of this length
THRESHOLDS = dict.fromkeys(WAVES, 0.5)
LIKE_OTHERS = 0.6  # least likeness of the P waves of a block; settled on records 1 to 160 of LUDB
NEAR_P_S = 0.08  # s to both sides of the middle of a P wave: what is compared
FEW_P = 3  # P waves that can be compared
OTHERS = 0.7  # weight of all leads together beside a lead's own probability; settled on records 1 to 160 of LUDB


def runs(flags: np.ndarray) -> np.ndarray:
    """First and last position of each run of True in flags (time,): int (run, 2)."""
    edges = np.flatnonzero(np.diff(np.r_[0, flags.astype(np.int8), 0]))
    return edges.reshape(-1, 2) - [0, 1]


def waves(p: np.ndarray, thresholds: dict = THRESHOLDS) -> Waves:
    """Waves of one lead: name -> float (wave, 3), onset and offset in samples, no peak.

    p: probabilities (3, time) at FS; thresholds: of each wave. Gaps up to CLOSED_S are closed, then what is shorter
    than SHORTEST_S goes.
    """
    found = {}
    for row, wave in enumerate(WAVES):
        each = runs(p[row] >= thresholds[wave])
        if len(each):
            apart = each[1:, 0] - each[:-1, 1] - 1 > CLOSED_S * FS
            each = np.stack([each[np.r_[True, apart], 0], each[np.r_[apart, True], 1]], axis=1)
            each = each[each[:, 1] - each[:, 0] + 1 >= SHORTEST_S[wave] * FS]
        found[wave] = np.insert(each.astype(float).reshape(-1, 2), 1, np.nan, axis=1)
    return found


def with_other_leads(p: np.ndarray, share: float = OTHERS) -> np.ndarray:
    """Probabilities (lead, 3, time) of each lead, mixed with the mean over leads: one heart beats for all of them.

    share: weight of the mean, from 0 to 1.
    """
    return (1 - share) * p + share * p.mean(axis=0)


def fused(p: np.ndarray, thresholds: dict = THRESHOLDS) -> Waves:
    """Waves of all leads together, p (lead, 3, time): those of the mean probability.

    Each boundary is the median of the leads that have the wave, over those within AGREEING_S of their median.
    """
    of_leads, together = [waves(each, thresholds) for each in p], waves(p.mean(axis=0), thresholds)
    for wave, found in together.items():
        for row in found:
            seen = [lead[wave] for lead in of_leads]
            seen = [lead[(lead[:, 0] <= row[2]) & (lead[:, 2] >= row[0])] for lead in seen]
            seen = np.array([lead[0] for lead in seen if len(lead)])
            if len(seen):
                for column in (0, 2):
                    middle = np.median(seen[:, column])
                    near = seen[abs(seen[:, column] - middle) <= AGREEING_S * FS, column]
                    row[column] = np.median(near) if len(near) else middle
        found[:] = found[np.argsort(found[:, 0])]
    return together


def p_likeness(x: np.ndarray, found: np.ndarray) -> float:
    """Mean correlation of each P wave with the median of the others, leads joined; NaN for fewer than FEW_P.

    x: filtered leads (lead, time) in mV at FS; found: P waves of all leads together (wave, 3). P waves of one focus
    look alike, whether a beat follows each or not; what fibrillation leaves before a beat does not.
    """
    half = round(NEAR_P_S * FS)
    middle = np.round(found[:, [0, 2]].mean(axis=1)).astype(int)
    middle = middle[(middle >= half) & (middle + half <= x.shape[1])]
    if len(middle) < FEW_P:
        return np.nan
    each = x[:, middle[:, None] + np.arange(-half, half)].transpose(1, 0, 2)  # (wave, lead, time)
    others = [np.median(np.delete(each, k, axis=0), axis=0) for k in range(len(each))]
    alike = [handmade.p_consistency(each[[k]], other, slice(None))[0] for k, other in enumerate(others)]
    return float(np.mean(alike))


def stray_p(signal: np.ndarray, together: Waves) -> list[tuple[int, int]]:
    """Blocks of BLOCK_S, (first, behind the last) sample, in which what was called P is none.

    There the calls are less alike than LIKE_OTHERS, or there are too few to compare among twice as many QRS complexes.
    signal: (lead, time) in mV at FS; together: waves of all leads together.
    """
    x = filters.bandpass(np.nan_to_num(signal), FS, 0.4, 40, order=2)
    blocks = []
    for start, stop in zip(*_edges(x.shape[1], max(1, round(x.shape[1] / (BLOCK_S * FS)))), strict=True):
        p, qrs = (together[wave][_within(together[wave], start, stop)] for wave in ("P", "QRS"))
        alike = p_likeness(x, p)
        if alike < LIKE_OTHERS or (len(p) < FEW_P and len(qrs) >= 2 * FEW_P):
            blocks.append((int(start), int(stop)))
    return blocks


def without_p(found: Waves, blocks: list[tuple[int, int]]) -> Waves:
    """Waves without the P waves whose middle lies in one of the blocks (first, behind the last)."""
    gone = np.zeros(len(found["P"]), bool)
    for start, stop in blocks:
        gone |= _within(found["P"], start, stop)
    return found | {"P": found["P"][~gone]}


def _within(found: np.ndarray, start: float, stop: float) -> np.ndarray:
    middle = found[:, [0, 2]].mean(axis=1)
    return (middle >= start) & (middle < stop)


def by_median_beat(signal: np.ndarray) -> Waves:
    """Waves without a network: the boundaries of the median beat (`handmade.landmarks`), set at every R peak.

    signal: (lead, time) in mV at FS. The median is taken over BLOCK_S; where single P waves are not like their median
    the block has none. Beats too near the ends for a whole beat have their waves all the same.
    """
    found = {wave: [] for wave in WAVES}
    size = round(BLOCK_S * FS)
    n_blocks = max(1, round(signal.shape[1] / size))
    for start, stop in zip(*_edges(signal.shape[1], n_blocks), strict=True):
        for wave, some in _of_block(signal[:, start:stop]).items():
            found[wave].append(some + start)
    return {wave: np.concatenate(parts).reshape(-1, 3) for wave, parts in found.items()}


def _edges(n_times: int, n_blocks: int):
    edges = np.linspace(0, n_times, n_blocks + 1).astype(int)
    return edges[:-1], edges[1:]


def _of_block(signal: np.ndarray) -> Waves:
    none = {wave: np.zeros((0, 3)) for wave in WAVES}
    r = rpeaks.r_peaks(signal, FS)
    pre, post = round(handmade.PRE_S * FS), round(handmade.POST_S * FS)
    whole = r[(r >= pre) & (r + post < signal.shape[1])]
    if not len(whole):
        return none
    x = filters.bandpass(np.nan_to_num(signal), FS, 0.4, 40, order=2)
    beats = x[:, whole[:, None] + np.arange(-pre, post)].transpose(1, 0, 2)
    rr = float(np.median(np.diff(r))) / FS if len(r) > 1 else 0.8
    middle = np.median(beats, axis=0)
    marks = handmade.landmarks(filters.resample(middle, FS, handmade.FINE), rr)
    place = {name: at / handmade.FINE * FS - pre for name, at in marks.items() if name != "p" and name != "p_share"}
    ends = {"P": ("p_on", "p_off"), "QRS": ("on", "off"), "T": ("off", "t_end")}
    found = {
        wave: np.stack([r + place[a], np.full(len(r), np.nan), r + place[b]], axis=1) for wave, (a, b) in ends.items()
    }
    found["T"][:, 0] = np.nan  # the median beat has no onset of T
    found["T"][:, 1] = r + place["t"]
    window = slice(*(round(at / handmade.FINE * FS) for at in marks["p"]))
    alike, *_ = handmade.p_consistency(beats, middle, window)
    found["P"] = found["P"] if alike >= handmade.LIKE_P else none["P"]
    return found
