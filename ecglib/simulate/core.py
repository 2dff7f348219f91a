"""A batch of records: plan in, clean signals and truth out."""

from dataclasses import dataclass

import numpy as np

from . import audit, fixed, heart, render, rhythm

LABELS = tuple(r["label"] for r in fixed.rows("labels.csv") if r["label"] != "MI")
TERRITORIES = tuple(r["label"] for r in fixed.rows("territories.csv"))
PATIENT, RECORD, NOISE, REPORT, PLAN, PERSON = range(6)  # kinds of random streams
SLOTS = (*rhythm.SLOTS, *heart.SLOTS, ("qt_n", 1))
PLAN_SLOTS = tuple((s, 1) for s in "hr pr qtcf stach block long_pr long_qt wall fast".split())
ATTEMPTS = 8
BLOCK = 16  # records rendered at a time, so that the arrays stay in cache


@dataclass
class Plan:
    """What a batch of records is to show. Arrays (record,); want: label -> bool; who: age, male, bmi, hr."""

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
        pick = {k: {n: v[rows] for n, v in getattr(self, k).items()} for k in ("want", "who")}
        rest = (self.pr[rows], self.qtcf[rows], self.territory[rows])
        return Plan(self.seed, self.ids[rows], self.patients[rows], pick["want"], pick["who"], *rest)

    def __len__(self):
        return len(self.ids)


def attempt(plan, number, seconds):
    """Draw schedule and shapes of a plan once: (draws, Schedule, Morphology)."""
    d = fixed.Draws(SLOTS, plan.seed, RECORD, plan.ids, number, rhythm.width(seconds))
    patient = fixed.Draws(heart.MORPH, plan.seed, PATIENT, plan.patients)
    sched = rhythm.schedule(plan.want, plan.who["hr"], plan.pr, plan.who["age"], d, seconds)
    return d, sched, heart.Morphology(plan.want, plan.who, patient, d, number, plan.territory)


def clean(plan, sched, shape, d, fs, n_times, rows):
    """Yield (rows, eight clean leads (row, 8, time)) by blocks of the rows; integers in 1/16 uV held in float64."""
    parts = render.components(sched, shape, plan.qtcf, d)
    for a in range(0, len(rows), BLOCK):
        block = rows[a : a + BLOCK]
        place = np.full(len(plan), -1)
        place[block] = np.arange(len(block))
        keep = np.flatnonzero(place[parts[0]] >= 0)
        part = [place[parts[0][keep]], *(c[keep] for c in parts[1:])]
        v = render.vectors(part, len(block), fs, n_times)
        render.atrial(sched, plan.want, d, fs, n_times, v, block)
        yield block, render.project(v, shape.leads[block])


def beats(plan, sched, shape, fs, n_times):
    """Beat truth: columns rec, r, p_on, p_off, qrs_on, qrs_off, t_on, t_peak, t_off (samples, -1 without) and kind."""
    rec, k = np.nonzero((sched.kind >= 0) & (sched.t >= 0) & (sched.t * fs < 1000.0 * (n_times - 1)))
    kind, at = sched.kind[rec, k], sched.t[rec, k]
    qrs = np.array([[getattr(w, e) for e in ("on", "off", "peak")] for w in _by_kind(shape, 0)])
    t = np.array([[getattr(w, e) for e in ("on", "off", "peak")] for w in _by_kind(shape, 1)])
    qrs, t = qrs[kind, :, rec].T, t[kind, :, rec].T
    qt = plan.qtcf[rec] * fixed.cbrt(sched.rre[rec, k] / 1000.0)
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
        sample = fixed.to_grid(x * fs / 1000.0, 1)
        inside = (sample >= 0) & (sample < n_times) & has_p.get(name, True)
        table[name] = np.where(inside, sample, -1)
    return {n: c[table["r"] >= 0] for n, c in table.items()}


def _by_kind(shape, which):
    """QRS (0) or T (1) waves of the beat kinds of `rhythm.KINDS`."""
    return [(shape.qrs, shape.t)[which], *(shape.ectopic[i][which] for i in (0, 1, 2, 0))]


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
    grid = [fixed.to_grid(x, 64) / 64.0 for x in (pr, qtcf)]
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
        part = plan.take(left)
        d, sched, shape = attempt(part, number, n_times / fs)
        numbers = audit.rhythm_numbers(sched, n_times / fs)
        m = audit.measure(part, shape, numbers["hr"])
        seen, failed = audit.check(part, m, numbers)
        bad = np.any(list(failed.values()), axis=0)
        done = np.flatnonzero(~bad | (number == ATTEMPTS))
        _accept(out, part, left, done, (d, sched, shape), fs)
        _note(out, left[done], *({k: v[done] for k, v in found.items()} for found in (failed, seen)))
        pieces.append((left[done], truth(part, m, numbers, done)))
        left = left[bad] if number < ATTEMPTS else left[:0]
        if not len(left):
            break
    order = np.argsort(np.concatenate([p[0] for p in pieces]), kind="stable")
    out.truth = {k: np.concatenate([p[1][k] for p in pieces])[order] for k in pieces[0][1]}
    order = np.lexsort((out.beats["r"], out.beats["rec"]))
    out.beats = {k: v[order] for k, v in out.beats.items()}
    return out


def _accept(out, part, left, done, drawn, fs):
    """Render the accepted records of an attempt into `out`."""
    if not len(done):
        return
    d, sched, shape = drawn
    keep = np.isin(np.arange(len(part)), done)
    sched.kind = np.where(keep[:, None], sched.kind, -1)
    sched.extra_p = [e for e in sched.extra_p if keep[e[0]]]
    n_times = out.clean.shape[2]
    for rows, x in clean(part, sched, shape, d, fs, n_times, done):
        out.clean[left[rows]] = x
    found = beats(part, sched, shape, fs, n_times)
    found["rec"] = left[found["rec"]]
    out.beats = {k: np.concatenate([out.beats[k], v]) if out.beats else v for k, v in found.items()}


def _note(out, rows, failed, seen):
    """Take labels away where the audit failed for good; add the statements that follow from what is seen."""
    for name, bad in failed.items():
        out.labels[name][rows[bad]] = 0
        out.dropped[name] = out.dropped.get(name, 0) + int(bad.sum())
    want = {k: v[rows] for k, v in out.plan.want.items()}
    silent = np.any([want[k] for k in audit.NO_VOLTAGE], axis=0)
    ischaemia = (want["STD_"] | want["INVT"]) & ~want["LVH"]
    out.labels["VCLVH"][rows[seen["LVH"] & ~silent]] = 1
    out.labels["NDT"][rows[want["LOWT"] & seen["LOWT"]]] = 1
    out.labels["ISCAL"][rows[ischaemia & seen["ISCAL"]]] = 1
    out.labels["ISCIN"][rows[ischaemia & seen["ISCIN"] & ~seen["ISCAL"]]] = 1


def truth(part, m, n, rows):
    """Per-record truth: rate per minute, intervals in ms, axes in degrees; without P waves PR -1 and P axis -999."""
    table = {k: m[k] for k in ("pr", "qrs", "qt", "p_ms")} | {"qtcf": part.qtcf}
    table |= {k: n[k] for k in ("hr", "rr_sd", "rr_cv")}
    table = {
        k: fixed.to_grid(v, 1000 if k == "rr_cv" else 10) / (1000 if k == "rr_cv" else 10) for k, v in table.items()
    }
    table |= {"axis_qrs": m["axis"], "axis_t": m["axis_t"], "axis_p": np.where(m["pr"] > 0, m["axis_p"], -999)}
    table |= {"n_beats": n["beats"], "n_pvc": n["pvc"] + n["pvc2"], "n_pac": n["pac"]}
    st = fixed.to_grid(m["j60"], 1)
    table |= {f"j60_{name}": st[:, i] for i, name in enumerate(audit.LEADS)}
    return {k: v[rows] for k, v in table.items()}
