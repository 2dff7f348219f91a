"""A batch of records: plan in, clean signals and truth out."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecglib import EcgError, require_known
from ecgsim import arithmetic, criteria, device, morphology, render, rhythm
from ecgsim.morphology import INDEPENDENT

LABELS = tuple(r["label"] for r in arithmetic.rows("labels.csv") if r["label"] != "MI")
TERRITORIES = tuple(r["label"] for r in arithmetic.rows("territories.csv"))
PATIENT, RECORD, NOISE, REPORT, PLAN, PERSON, OUTCOME = range(7)  # kinds of random streams
SLOTS = (*rhythm.SLOTS, *morphology.SLOTS, ("qt_n", 1))
PLAN_SLOTS = tuple((s, 1) for s in "hr pr qtcf stach block long_pr long_qt wall fast".split())
ATTEMPTS = 8
BLOCK = 16  # records rendered at a time, so that the arrays stay in cache


@dataclass
class Plan:
    """What a batch of records is to show. Arrays (record,); want: label -> bool; who: age, male, bmi, hr;
    of hospitals also smoking and hypertension, which shape no signal."""

    seed: int
    ids: np.ndarray
    patients: np.ndarray
    want: dict
    who: dict
    pr: np.ndarray
    qtcf: np.ndarray
    territory: np.ndarray  # row of territories.csv or -1

    def take(self, rows):
        """The plan of some rows."""
        want, who = ({k: v[rows] for k, v in table.items()} for table in (self.want, self.who))
        rest = (self.pr[rows], self.qtcf[rows], self.territory[rows])
        return Plan(self.seed, self.ids[rows], self.patients[rows], want, who, *rest)

    def __len__(self):
        return len(self.ids)


def attempt(plan, number, seconds):
    """Draw schedule and shapes of a plan once: (draws, Schedule, Morphology)."""
    d = arithmetic.Draws(SLOTS, plan.seed, RECORD, plan.ids, number, rhythm.width(seconds))
    patient = arithmetic.Draws(morphology.MORPH, plan.seed, PATIENT, plan.patients)
    sched = rhythm.schedule(plan.want, plan.who["hr"], plan.pr, plan.who["age"], d, seconds)
    return d, sched, morphology.Morphology(plan.want, plan.who, patient, d, number, plan.territory)


def clean(plan, sched, shape, d, fs, n_times, rows):
    """Yield (rows, eight clean leads (row, 8, time)) by blocks of the rows; integers in 1/16 uV held in float64."""
    parts = render.components(sched, shape, plan.qtcf, d)
    for a in range(0, len(rows), BLOCK):
        block = rows[a : a + BLOCK]
        position = np.full(len(plan), -1)
        position[block] = np.arange(len(block))
        keep = np.flatnonzero(position[parts[0]] >= 0)
        columns = [position[parts[0][keep]], *(c[keep] for c in parts[1:])]
        v = render.vectors(columns, len(block), fs, n_times)
        render.atrial(sched, plan.want, d, fs, n_times, v, block)
        yield block, render.project(v, shape.leads[block])


def beats(plan, sched, shape, fs, n_times):
    """Beat truth: columns rec, r, p_on, p_off, qrs_on, qrs_off, t_on, t_peak, t_off (samples, -1 without) and kind."""
    rec, k = np.nonzero((sched.kind >= 0) & (sched.t >= 0) & (sched.t * fs < 1000.0 * (n_times - 1)))
    kind, at = sched.kind[rec, k], sched.t[rec, k]
    waves = zip((shape.qrs, shape.t), *(shape.ectopic[i] for i in (0, 1, 2, 0)), strict=True)
    waves = [np.array([(w.on, w.off, w.peak) for w in of_kinds]) for of_kinds in waves]
    qrs, t = (w[kind, :, rec].T for w in waves)
    qt = plan.qtcf[rec] * arithmetic.cbrt(sched.rre[rec, k] / 1000.0)
    s = render.t_stretch(qt, qrs[0], qrs[1], t[1])
    t_on, t_off, t_peak = (at + qrs[1] + (x - 41.0) * s for x in t)
    early = sched.p_kind[rec, k] == 1
    edges = [np.where(early, getattr(shape.p_early, e)[rec], getattr(shape.p, e)[rec]) for e in ("on", "off")]
    p_on = at + qrs[0] - sched.pr[rec, k]
    ms = {"r": at + qrs[2], "p_on": p_on, "p_off": p_on - edges[0] + edges[1], "qrs_on": at + qrs[0]}
    ms |= {"qrs_off": at + qrs[1], "t_on": t_on, "t_peak": t_peak, "t_off": t_off}
    has_p = {"p_on": sched.pr[rec, k] > 0, "p_off": sched.pr[rec, k] > 0}
    table = {"rec": rec, "kind": np.where(early & (kind == 0), 5, kind)}
    for name, x in ms.items():
        sample = arithmetic.to_grid(x * fs / 1000.0, 1)
        inside = (sample >= 0) & (sample < n_times) & has_p.get(name, True)
        table[name] = np.where(inside, sample, -1)
    return {n: c[table["r"] >= 0] for n, c in table.items()}


def complete(seed, ids, patients, want, who, d, hr_shift=0.0):
    """Plan with heart rate, PR, QTcF and infarct territory drawn to fit the labels; d: Draws with PLAN_SLOTS.

    Normal values after ELSA-Brasil (Pinto-Filho et al. 2017) and Mason et al. 2007 (J Electrocardiol 40:228).
    Bradycardia is below 50 per minute (ACC/AHA/HRS 2018), so that a normal record may have 50 to 60.
    """
    male, a = who["male"] == 1, who["age"] - 52.0
    hr = np.where(male, 65.0, 68.0) + hr_shift + 11.0 * d.n("hr")
    hr = np.minimum(np.maximum(hr, 50.5 + 3.5 * d.u("fast")), 97.0)
    for name, low, high in (("STACH", 103, 150), ("SBRAD", 40, 49), ("PACE", 60, 75), ("2AVB", 65, 95)):
        hr = np.where(want[name], d.u("stach", low, high), hr)
    pr = np.where(male, 164.0, 158.0) + 0.4 * a + 20.0 * d.n("pr")
    pr = np.minimum(np.maximum(pr, 126.0), 193.0)
    pr = np.where(want["STACH"], 120.0 + 0.5 * (pr - 120.0) + 4.0, pr)
    for name, low, high in (("1AVB", 215, 320), ("WPW", 92, 114), ("PACE", 150, 180)):
        pr = np.where(want[name], d.u("long_pr", low, high), pr)
    qtcf = np.where(male, 402.0, 413.0) + 0.2 * np.maximum(0.0, a) + 16.0 * d.n("qtcf")
    qtcf = np.minimum(np.maximum(qtcf, 350.0), np.where(male, 444.0, 454.0))
    wide = 30.0 * (want["CLBBB"] | want["PACE"]) + 15.0 * (want["CRBBB"] | want["IVCD"] | want["WPW"])
    qtcf = np.where(want["LNGQT"], d.u("long_qt", 478.0, 560.0), qtcf + wide)
    territory = np.full(len(ids), -1)
    for i, name in enumerate(TERRITORIES):
        territory[want[name]] = i
    acute = d.pick("wall", [{"IMI": 45, "ASMI": 25, "AMI": 20, "LMI": 10}.get(t, 0) for t in TERRITORIES])
    territory = np.where(want["STE_"], acute, territory)
    grid = [arithmetic.to_grid(x, 64) / 64.0 for x in (pr, qtcf)]
    return Plan(seed, np.asarray(ids), np.asarray(patients), want, who | {"hr": hr}, *grid, territory)


@dataclass
class Batch:
    """Simulated records: clean leads, label states as 0/1, truth per record, beats."""

    plan: Plan
    clean: np.ndarray
    labels: dict
    truth: dict
    beats: dict
    dropped: dict  # label -> records that could not be made to show it


def simulate(plan, fs, n_times):
    """Simulate a batch (see `Plan`): redraw up to 8 times what fails its audit, then give the failing labels up.

    Clean leads are rendered at fs Hz with n_times samples; `labels` holds 0/1 of what is truly there.
    """
    n, left = len(plan), np.arange(len(plan))
    out = Batch(plan, np.empty((n, 8, n_times)), {k: v.astype(np.int8) for k, v in plan.want.items()}, {}, {}, {})
    pieces = []
    for number in range(ATTEMPTS + 1):
        todo = plan.take(left)
        d, sched, shape = attempt(todo, number, n_times / fs)
        numbers = criteria.rhythm_numbers(sched, n_times / fs)
        m = criteria.measure(todo, shape, numbers["hr"])
        seen, failed = criteria.check(todo, m, numbers)
        bad = np.any(list(failed.values()), axis=0)
        done = np.flatnonzero(~bad | (number == ATTEMPTS))
        _accept(out, todo, left, done, (d, sched, shape), fs)
        _note(out, left[done], *({k: v[done] for k, v in table.items()} for table in (failed, seen)))
        pieces.append((left[done], truth(todo, m, numbers, done)))
        left = left[bad] if number < ATTEMPTS else left[:0]
        if not len(left):
            break
    order = np.argsort(np.concatenate([p[0] for p in pieces]), kind="stable")
    out.truth = {k: np.concatenate([p[1][k] for p in pieces])[order] for k in pieces[0][1]}
    order = np.lexsort((out.beats["r"], out.beats["rec"]))
    out.beats = {k: v[order] for k, v in out.beats.items()}
    return out


def _accept(out, todo, left, done, drawn, fs):
    if not len(done):
        return
    d, sched, shape = drawn
    keep = np.isin(np.arange(len(todo)), done)
    sched.kind = np.where(keep[:, None], sched.kind, -1)
    sched.extra_p = [e for e in sched.extra_p if keep[e[0]]]
    n_times = out.clean.shape[2]
    for rows, x in clean(todo, sched, shape, d, fs, n_times, done):
        out.clean[left[rows]] = x
    table = beats(todo, sched, shape, fs, n_times)
    table["rec"] = left[table["rec"]]
    out.beats = {k: np.concatenate([out.beats[k], v]) if out.beats else v for k, v in table.items()}


def _note(out, rows, failed, seen):
    for name, bad in failed.items():
        out.labels[name][rows[bad]] = 0
        out.dropped[name] = out.dropped.get(name, 0) + int(bad.sum())
    want = {k: v[rows] for k, v in out.plan.want.items()}
    silent = np.any([want[k] for k in criteria.NO_VOLTAGE], axis=0)
    ischaemia = (want["STD_"] | want["INVT"]) & ~want["LVH"]
    out.labels["VCLVH"][rows[seen["LVH"] & ~silent]] = 1
    out.labels["NDT"][rows[want["LOWT"] & seen["LOWT"]]] = 1
    out.labels["ISCAL"][rows[ischaemia & seen["ISCAL"]]] = 1
    out.labels["ISCIN"][rows[ischaemia & seen["ISCIN"] & ~seen["ISCAL"]]] = 1


def truth(plan, m, n, rows):
    """Per-record truth: rate per minute, intervals in ms, axes in degrees; without P waves PR -1 and P axis -999."""
    table = {k: m[k] for k in ("pr", "qrs", "qt", "p_ms")} | {"qtcf": plan.qtcf}
    table |= {k: n[k] for k in ("hr", "rr_sd", "rr_cv")}
    table = {k: arithmetic.to_grid(v, 10) / 10 for k, v in table.items()}
    table["rr_cv"] = arithmetic.to_grid(n["rr_cv"], 1000) / 1000
    table |= {"axis_qrs": m["axis"], "axis_t": m["axis_t"], "axis_p": np.where(m["pr"] > 0, m["axis_p"], -999)}
    table |= {"n_beats": n["beats"], "n_pvc": n["pvc"] + n["pvc2"], "n_pac": n["pac"]}
    st = arithmetic.to_grid(m["j60"], 1)
    table |= {f"j60_{name}": st[:, i] for i, name in enumerate(criteria.LEADS)}
    return {k: v[rows] for k, v in table.items()}


MEMORY_BATCH = 64
# What an unspecified batch shows, in turn.
MIX = "NORM NORM AFIB NORM IMI LVH NORM CRBBB PVC NORM CLBBB STACH ASMI 1AVB NORM LAFB".split()


def plan_for(wanted, seed):
    """Plan of one record per entry; an entry is a label or several joined by '+' ('AFIB+CRBBB')."""
    n = len(wanted)
    want = {x: np.zeros(n, bool) for x in LABELS}
    for i, entry in enumerate(wanted):
        require_known("label", entry.split("+"), LABELS, "labels")
        for name in entry.split("+"):
            want[name][i] = True
    for name in ("BIGU", "TRIGU"):
        want["PVC"] = want["PVC"] | want[name]
    ids = np.arange(n)
    d = arithmetic.Draws((("age", 1), ("male", 1), ("bmi", 1), *PLAN_SLOTS), seed, PLAN, ids)
    age = np.minimum(np.maximum(np.floor(d.n("age", 60.0, 15.0)), 18), 95)
    who = {"age": age, "male": (d.u("male") < 0.5).astype(int), "bmi": 26.0 + 4.0 * d.n("bmi")}
    return complete(seed, ids, ids, want, who, d)


def ecgs(n, fs=100, seconds=10, seed=0, labels=None, leads=12, noise=1.0):
    """Simulate n ECGs in memory, byte-identical on every machine.

    labels: None for a mix of common statements, or a list of SCP acronyms used in turn ('NORM', 'LVH+AFIB' ...).
    leads: 12 (standard order) or 1 (lead I). noise: factor of the noise of hospital A, 0 for clean signals.
    Returns x float32 (n, leads, time) in mV, labels (DataFrame of 0/1, one column per acronym) and truth (DataFrame:
    hr per minute, pr, qrs, qt, qtcf in ms, axis in degrees, and `r`, the array of R-peak samples of every record).
    Raises EcgError for unknown labels and more than 40 seconds.
    """
    if seconds > 40 or leads not in (1, 12) or fs < 50:
        fix = "leads 1 or 12, seconds <= 40, fs >= 50"
        raise EcgError(f"cannot simulate {leads} leads, {seconds} s, {fs} Hz", fix=fix)
    cycle = MIX if labels is None else list(labels)
    plan = plan_for([cycle[i % len(cycle)] for i in range(n)], seed)
    n_times, site = int(round(fs * seconds)), dict(arithmetic.rows("sites.csv")[0])
    shift = next(k for k in range(1, 20) if fs < 6.2831853 * 0.055 * (1 << k))
    out, tables, truths = [], [], []
    for a in range(0, n, MEMORY_BATCH):
        batch = simulate(plan.take(np.arange(a, min(n, a + MEMORY_BATCH))), fs, n_times)
        names = INDEPENDENT if leads == 12 else ("I",)
        d = arithmetic.Draws(device.SLOTS, seed, NOISE, batch.plan.ids)
        x = batch.clean[:, : len(names)]
        counts, _, _ = device.record(x, d, site | {"lead_off": "0"}, names, fs, shift, (), noise)
        out.append(render.twelve(counts) if leads == 12 else counts)
        tables.append(pd.DataFrame(batch.labels, index=batch.plan.ids).astype(np.int8))
        r = [batch.beats["r"][batch.beats["rec"] == i] for i in range(len(batch.plan))]
        truths.append(pd.DataFrame(batch.truth | {"r": pd.Series(r, dtype=object)}).set_index(batch.plan.ids))
    x = (np.concatenate(out) / 1000.0).astype(np.float32)
    return x, pd.concat(tables), pd.concat(truths)
