"""How well a risk orders the times until an event, where some are only known to be longer than the follow-up.

Each statistic is a function of weights on records, as those of `metrics`: a resample of patients is a weight, so that
the intervals of `bootstrap` hold here too, and two models are compared on the same resamples.
"""

import numpy as np

from ecglib import EcgError, require_known
from ecglib.evaluation import bootstrap, metrics

PAIRS = 2**24  # entries of a table of event x record that is held at a time


FOLLOWED = {"died": "followup_days", "death": "followup_years"}  # event -> time, as the corpora name them


def followed(records):
    """(time, event) float (record,) of a table of records that has either pair of FOLLOWED; NaN: not followed.

    The unit of the time is that of its column. Raises EcgError for a table with neither pair.
    """
    for event, time in FOLLOWED.items():
        if event in records and time in records:
            known = records[[time, event]].astype(float)
            return known.where(known.notna().all(axis=1)).to_numpy().T
    pairs = " or ".join(f"{event} and {time}" for event, time in FOLLOWED.items())
    raise EcgError("nobody says who was followed for how long", field="death", fix=f"give the records {pairs}")


def _concordance(time, event, risk):
    """Harrell's C: share of the usable pairs in which the higher risk has the earlier event; a tied risk counts half.

    A pair is usable when the earlier time is an event; at equal times the one with the event comes first.
    """
    events = np.flatnonzero(event)
    step = max(1, PAIRS // max(1, len(time)))

    def kernel(weights):
        won, usable = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
        for first in range(0, len(events), step):
            rows = events[first : first + step]
            later = (time[rows, None] < time) | ((time[rows, None] == time) & ~event)
            score = later * (0.5 * (risk[rows, None] >= risk) + 0.5 * (risk[rows, None] > risk))
            own = weights[rows].astype(float)
            usable += (own * (later.astype(np.float32) @ weights)).sum(0)
            won += (own * (score.astype(np.float32) @ weights)).sum(0)
        return won / usable

    return kernel


def _time_auroc(time, event, risk, horizon):
    """Cumulative/dynamic AUROC at a time: who had the event by then against who was followed longer without one.

    Those lost before count through the others: a case weighs 1 / G(its time), G the share not yet lost (Kaplan-Meier of
    the censoring, in each resample anew; Uno et al. 2007, Hung and Chiang 2010).
    """
    case = np.flatnonzero(event & (time <= horizon))
    control = np.flatnonzero(time > horizon)
    control = control[np.argsort(risk[control], kind="stable")]
    below, upto = (np.searchsorted(risk[control], risk[case], side) for side in ("left", "right"))
    followed = _uncensored(time, event, time[case])

    def kernel(weights):
        own = weights[case] / followed(weights)
        total = np.vstack([np.zeros(weights.shape[1]), np.cumsum(weights[control], axis=0, dtype=float)])
        wins = (own * (total[below] + total[upto])).sum(0) / 2
        return wins / (own.sum(0) * total[-1])

    return kernel


def _uncensored(time, event, at):
    """Function of weights: share not lost before each time of `at`, (time, block), by Kaplan and Meier (1958)."""
    lost = np.unique(time[~event])
    inside = (time >= lost[:, None]).astype(np.float32)
    ends = ((time == lost[:, None]) & ~event).astype(np.float32)
    late = ((time == lost[:, None]) & event).astype(np.float32)  # an event at that time came before the loss
    position = np.searchsorted(lost, at, side="left")

    def share(weights):
        at_risk = (inside - late) @ weights
        step = 1 - np.divide(ends @ weights, at_risk, out=np.zeros(at_risk.shape), where=at_risk > 0)
        return np.vstack([np.ones(weights.shape[1]), np.cumprod(step, axis=0)])[position]

    return share


def replicates(time, event, risk, patients=None, n=1000, seed=0, horizon=None, indices=None):
    """Harrell's C, or with `horizon` the AUROC at that time, on the data and on every resample: bootstrap.Replicates.

    time: until the event or the end of follow-up (record,), any unit; event: whether it was the event (record,);
    risk: higher for an earlier event (record,); patients, n, seed, indices: as of bootstrap.resamples; horizon: a time.
    Raises EcgError for times that are none, and where no event or nobody without one is left to compare.
    """
    time, risk = (metrics._numbers(values, field) for values, field in ((time, "time"), (risk, "risk")))
    event = np.asarray(event)
    require_known("event", np.unique(event).tolist(), [0, 1, False, True])
    event = event.astype(bool)
    if time.ndim != 1 or not time.shape == event.shape == risk.shape or not len(time):
        reason = f"times {time.shape}, events {event.shape}, risks {risk.shape} must be equal (record,) shapes"
        raise EcgError(reason, field="time", fix="give one of each per record")
    if not (np.isfinite(time).all() and np.isfinite(risk).all() and (time >= 0).all()):
        raise EcgError("times below zero, NaN or infinity", field="time", fix="leave out who was not followed")
    if not event.any() or (horizon is not None and not ((event & (time <= horizon)).any() and (time > horizon).any())):
        raise EcgError("no pair of records can be compared", field="event", fix="choose a horizon within follow-up")
    answers = time, event, risk
    kernel = _concordance(*answers) if horizon is None else _time_auroc(*answers, horizon)
    with np.errstate(divide="ignore", invalid="ignore"):
        point = kernel(np.ones((len(time), 1)))
        drawn = [kernel(weights) for _, weights in bootstrap.resamples(len(time), patients, n, seed, indices)]
    return bootstrap.Replicates(point, np.concatenate(drawn)[:, None])
