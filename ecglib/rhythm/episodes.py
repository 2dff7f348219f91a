"""Episodes of a rhythm in a recording: from beats to episodes, burden, and how well one list of them meets another.

An episode is [start, end) in seconds (any unit will do). Burden is the share of the analysable time that lies in
episodes. Matching follows the long-term ECG standard (ANSI/AAMI EC57: episode and duration sensitivity and PPV): an
episode is found where any part of it is called, and a call is right where any part of it is true.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.evaluation import bootstrap
from ecglib.rhythm.irregularity import LONGEST_RR

COUNTS = ("truth_episodes", "found", "called_episodes", "right", "truth_s", "called_s", "shared_s", "analysed_s")


class Rules(NamedTuple):
    """Which runs count as episodes, in seconds."""

    shortest: float = 30.0  # shorter episodes are dropped (30 s: the definition of the ESC guideline 2020)
    gap: float = 10.0  # shorter pauses between two episodes, such as three ectopic beats, do not part them


USUAL = Rules()


def from_beats(beats, flags, longest_rr: float = LONGEST_RR) -> np.ndarray:
    """Episodes of consecutive flagged beats, each until its next beat: float (episode, 2) in seconds.

    beats: seconds (beat,); flags: truth of each beat, anything but 1 is none; longest_rr: a longer interval ends an
    episode at its last beat.
    """
    beats, on = np.asarray(beats, float), np.asarray(flags) == 1
    if len(beats) != len(on):
        raise EcgError(f"{len(on)} flags for {len(beats)} beats", field="flags", fix="give one for each beat")
    gap = np.diff(beats) > longest_rr
    starts = on & np.r_[True, ~on[:-1] | gap]
    ends = on & np.r_[~on[1:] | gap, True]
    last = np.flatnonzero(ends)
    following = np.minimum(last + 1, len(beats) - 1)
    stop = np.where(np.r_[gap, True][last], beats[last], beats[following])
    return np.column_stack([beats[starts], stop]).reshape(-1, 2)


def tidied(episodes: np.ndarray, rules: Rules = USUAL) -> np.ndarray:
    """Episodes (episode, 2) with short pauses closed first and short episodes then dropped."""
    episodes = np.asarray(episodes, float).reshape(-1, 2)
    if len(episodes) == 0:
        return episodes
    parted = episodes[1:, 0] - episodes[:-1, 1] >= rules.gap
    joined = np.column_stack([episodes[np.r_[True, parted], 0], episodes[np.r_[parted, True], 1]])
    return joined[joined[:, 1] - joined[:, 0] >= rules.shortest]


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Time that each episode of `first` shares with those of `second` (each list free of overlaps): (episode,)."""
    first, second = (np.asarray(x, float).reshape(-1, 2) for x in (first, second))
    if not len(first) or not len(second):
        return np.zeros(len(first))
    before = np.r_[0.0, np.cumsum(second[:, 1] - second[:, 0])]

    def covered(at):  # time of `second` before a moment
        k = np.searchsorted(second[:, 0], at, "right")
        inside = np.minimum(at, second[np.maximum(k - 1, 0), 1]) - second[np.maximum(k - 1, 0), 0]
        return np.where(k > 0, before[np.maximum(k - 1, 0)] + inside, 0.0)

    return covered(first[:, 1]) - covered(first[:, 0])


class Match(NamedTuple):
    """How the called episodes of one recording meet the true ones."""

    found: np.ndarray  # which true episodes are touched by a call
    right: np.ndarray  # which calls touch a true episode
    shared: float  # seconds in both
    onset: np.ndarray  # s, first call minus true start, of the found episodes; negative: early
    offset: np.ndarray  # s, last call minus true end


def match(truth: np.ndarray, called: np.ndarray) -> Match:
    """Match called episodes (episode, 2) with true ones by overlap."""
    truth, called = (np.asarray(x, float).reshape(-1, 2) for x in (truth, called))
    shared = overlap(truth, called)
    found, right = shared > 0, overlap(called, truth) > 0
    first = np.searchsorted(called[:, 1], truth[found, 0], "right")
    last = np.searchsorted(called[:, 0], truth[found, 1], "left") - 1
    onset, offset = called[first, 0] - truth[found, 0], called[last, 1] - truth[found, 1]
    return Match(found, right, float(shared.sum()), onset, offset)


def scored(truth: np.ndarray, called: np.ndarray, analysed: float, rules: Rules = USUAL) -> dict:
    """Counts and seconds of one recording (COUNTS), burdens in percent, and the onset and offset errors (arrays).

    truth, called: episodes as marked and as called; analysed: seconds that could be judged. Seconds and burdens are of
    the episodes as they are, counts and errors of the tidied ones.
    """
    long, calls = tidied(truth, rules), tidied(called, rules)
    met = match(long, calls)
    true_s, called_s = (float(np.diff(np.asarray(x, float).reshape(-1, 2)).sum()) for x in (truth, called))
    row = dict(zip(COUNTS[:4], (len(long), int(met.found.sum()), len(calls), int(met.right.sum())), strict=True))
    row |= {"truth_s": true_s, "called_s": called_s, "shared_s": float(overlap(truth, called).sum())}
    row |= {"analysed_s": analysed, "burden": 100 * true_s / analysed, "burden_called": 100 * called_s / analysed}
    return row | {"onset": met.onset, "offset": met.offset}


def _ratio(part: str, whole: str):
    return lambda table, weights: _divided(weights, table[part], table[whole])


def _divided(weights, part, whole):
    total = weights.T @ np.asarray(whole, float)
    return np.where(total > 0, 100 * (weights.T @ np.asarray(part, float)) / np.where(total > 0, total, 1), np.nan)


STATISTICS = {  # of a table of recordings (one row each) under weights (recording, replicate)
    "episode sensitivity": _ratio("found", "truth_episodes"),
    "episode PPV": _ratio("right", "called_episodes"),
    "duration sensitivity": _ratio("shared_s", "truth_s"),
    "duration PPV": _ratio("shared_s", "called_s"),
}
OF_BURDEN = {  # of the called burden against the true one, in percent of the day: a key of `metrics.NUMBERS`
    "burden error": "mae",
    "burden bias": "bias",
    "lower limit of agreement": "loa_low",
    "upper limit of agreement": "loa_high",
}


def summary(rows: pd.DataFrame, patients, n: int = 1000, seed: int = 0) -> dict[str, bootstrap.Interval]:
    """Scores over recordings with 95 % intervals over patients.

    rows: one of `scored` per recording; patients: (recording,). Sensitivities and PPV in percent, over all episodes or
    seconds together; burden error (mean absolute), bias and limits of agreement (Bland and Altman 1986: bias -+ 1.96
    standard deviations of the differences) in percent of the day, called minus true.
    """
    blocks = [weights.astype(float) for _, weights in bootstrap.resamples(len(rows), patients, n, seed)]
    one = np.ones((len(rows), 1))
    found = {
        name: bootstrap.interval(statistic(rows, one)[0], np.concatenate([statistic(rows, w) for w in blocks]))
        for name, statistic in STATISTICS.items()
    }
    burdens = rows["burden"].to_numpy(float)[:, None], rows["burden_called"].to_numpy(float)[:, None]
    for name, statistic in OF_BURDEN.items():
        drawn = bootstrap.replicates(*burdens, patients, n, seed, statistic=statistic)
        found[name] = bootstrap.interval(float(drawn.point[0]), drawn.values[:, 0])
    return found
