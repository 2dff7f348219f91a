"""Realistic ECGs in memory, for tests and notebooks."""

import numpy as np
import pandas as pd

from ..signals import EcgError
from . import core, device, fixed
from .heart import INDEPENDENT

BATCH = 64
# What an unspecified batch shows, in turn.
MIX = "NORM NORM AFIB NORM IMI LVH NORM CRBBB PVC NORM CLBBB STACH ASMI 1AVB NORM LAFB".split()


def plan_for(wanted, seed):
    """Plan of one record per entry; an entry is a label or several joined by '+' ('AFIB+CRBBB')."""
    n = len(wanted)
    want = {x: np.zeros(n, bool) for x in core.LABELS}
    for i, entry in enumerate(wanted):
        for name in entry.split("+"):
            if name not in want:
                raise EcgError(f"unknown label {name!r}", field="labels", fix=f"one of {', '.join(core.LABELS)}")
            want[name][i] = True
    for name in ("BIGU", "TRIGU"):
        want["PVC"] = want["PVC"] | want[name]
    ids = np.arange(n)
    d = fixed.Draws((("age", 1), ("male", 1), ("bmi", 1), *core.PLAN_SLOTS), seed, core.PLAN, ids)
    age = np.minimum(np.maximum(np.floor(d.n("age", 60.0, 15.0)), 18), 95)
    who = {"age": age, "male": (d.u("male") < 0.5).astype(int), "bmi": 26.0 + 4.0 * d.n("bmi")}
    return core.complete(seed, ids, ids, want, who, d)


def ecgs(n, fs=100, seconds=10, seed=0, labels=None, leads=12, noise=1.0):
    """Simulate n ECGs in memory, byte-identical on every machine.

    labels: None for a mix of common statements, or a list of SCP acronyms used in turn ('NORM', 'LVH+AFIB' ...).
    leads: 12 (standard order) or 1 (lead I). noise: factor of the noise of hospital A, 0 for clean signals.
    Returns x float32 (n, leads, time) in mV, labels (DataFrame of 0/1, one column per acronym) and truth (DataFrame:
    hr per minute, pr, qrs, qt, qtcf in ms, axis in degrees, and `r`, the array of R-peak samples of every record).
    Raises EcgError for unknown labels and more than 40 seconds.
    """
    if seconds > 40 or leads not in (1, 12) or fs < 50:
        raise EcgError(
            f"cannot simulate {leads} leads, {seconds} s, {fs} Hz", fix="leads 1 or 12, seconds <= 40, fs >= 50"
        )
    cycle = MIX if labels is None else list(labels)
    plan = plan_for([cycle[i % len(cycle)] for i in range(n)], seed)
    n_times, site = int(round(fs * seconds)), dict(fixed.rows("sites.csv")[0])
    shift = next(k for k in range(1, 20) if fs < 6.2831853 * 0.055 * (1 << k))
    out, tables, truths = [], [], []
    for a in range(0, n, BATCH):
        batch = core.simulate(plan.take(np.arange(a, min(n, a + BATCH))), fs, n_times)
        names = INDEPENDENT if leads == 12 else ("I",)
        d = fixed.Draws(device.SLOTS, seed, core.NOISE, batch.plan.ids)
        x = batch.clean[:, : len(names)]
        counts, _, _ = device.record(x, d, site | {"lead_off": "0"}, names, fs, shift, (), noise)
        out.append(core.render.twelve(counts) if leads == 12 else counts)
        tables.append(pd.DataFrame(batch.labels, index=batch.plan.ids).astype(np.int8))
        r = [batch.beats["r"][batch.beats["rec"] == i] for i in range(len(batch.plan))]
        truths.append(pd.DataFrame(batch.truth | {"r": pd.Series(r, dtype=object)}).set_index(batch.plan.ids))
    x = (np.concatenate(out) / 1000.0).astype(np.float32)
    return x, pd.concat(tables), pd.concat(truths)
