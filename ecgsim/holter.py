"""Whole days: hospital D, two-lead Holter recordings with paroxysms of fibrillation whose beginning and end are known.

Every day is beats and rhythms; a few are waveforms too. Three groups of patients: `north` and `south`, with
paroxysms, where the south is older, slower and has more ectopic beats; `controls` without fibrillation. Shapes are
those of `morphology`; the filters of a device are left out, since a day would take minutes.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecglib.data import wfdb_io
from ecgsim import arithmetic, morphology, records, render, rhythm
from ecgsim.device import bank
from ecgsim.morphology import INDEPENDENT

FS, GAIN = 200, 200  # Hz, counts per mV
LEADS = ("II", "V1")
GROUPS = ("north", "south", "south", "north", "controls")  # in turn
FIRST_ID = 900_000  # of the random streams, apart from those of the hospitals
DAY, DAY_BEATS, DAY_NOISE = 7, 8, 9  # kinds of random streams
BLOCK = 300  # s drawn at a time
RUN = 256  # beats of fibrillation simulated side by side
_SETTINGS = "age male hr night burden median conduct rate pac pvc bouts breath runs noise".split()
_TONES = ((86400.0, 0.12), (11000.0, 0.04), (2500.0, 0.04), (430.0, 0.04))  # period (s), share of the mean interval
_CODES = {"N": 1, "V": 5, "A": 8}  # of the annotation format
_AUX, _SKIP, _RHYTHM = 63, 59, 28


@dataclass
class Day:
    """Truth of a day. t: ms (beat,) on a grid of 1/64; kind: N, A or V; af: bool (beat,); episodes: ms (episode, 2)."""

    who: dict
    t: np.ndarray
    kind: np.ndarray
    af: np.ndarray
    episodes: np.ndarray


def _uniform(seed: int, kind: int, number: int, n: int) -> np.ndarray:
    entropy = [int(seed), kind, FIRST_ID + int(number), arithmetic.SPEC_VERSION]
    words = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(n)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def patient(seed: int, number: int) -> dict:
    """Who wears the recorder: group and the settings of the day."""
    u = dict(zip(_SETTINGS, _uniform(seed, DAY, number, len(_SETTINGS)).tolist(), strict=True))
    group = GROUPS[number % len(GROUPS)]
    old = group == "south"
    age = float(np.floor((66 if old else 54) + 20 * u["age"]))
    return {
        "group": group,
        "age": age,
        "male": int(u["male"] < 0.55),
        "hr": 60.0 + 18.0 * u["hr"],
        "burden": 0.0 if group == "controls" else (0.05 + 0.75 * u["burden"] * u["burden"]) * (1.0 if old else 0.7),
        "median": 60.0 * (2.0 + 40.0 * u["median"] * u["median"]),  # s of an episode
        "conduct": (1.15 if old else 0.8) + 0.5 * u["conduct"],
        "rate": 4.0 + 5.0 * u["rate"],
        "pac": (0.04 if old else 0.012) * u["pac"] * u["pac"],
        "pvc": (0.05 if old else 0.01) * u["pvc"] * u["pvc"],
        "bouts": int(8 * u["bouts"]) if old else int(3 * u["bouts"]),  # of bigeminy
        "runs": int((12 if old else 5) * u["runs"]),  # stretches with many premature atrial beats
        "noise": 0.01 + 0.07 * u["noise"] * u["noise"],  # share of the interval, from beat to beat
        "breath": 0.01 + 0.05 * u["breath"] * (1.0 - (age - 50.0) / 60.0),
    }


def fibrillation(u, conduct: float, rate: float) -> np.ndarray:
    """Intervals in ms, as `rhythm` draws them, in runs side by side: a few less than the uniform numbers u (2, n)."""
    lead = 8  # the node forgets its start within a few beats
    runs = u.shape[1] // (RUN + lead)
    shape = (runs, RUN + lead)
    av, slow = (x[: runs * (RUN + lead)].reshape(shape) for x in u)
    wait, out, rr = -arithmetic.log(1.0 - av), np.empty(shape), np.full(runs, 0.8)
    c = conduct * (0.9 + 0.2 * u[0][-runs:])
    for k in range(RUN + lead):
        tau = c * (0.15 * rr + 0.25 + 0.2 * (slow[:, k] < 0.4))
        e = wait[:, k]
        x = np.where(e < 0.05 * rate, np.sqrt(e / (5.0 * rate)), 0.1 + (e - 0.05 * rate) / rate)
        rr = tau + x
        out[:, k] = 1000.0 * rr
    return out[:, lead:].reshape(-1)


def _sinus(who, phases, noise, n: int) -> np.ndarray:
    """n sinus intervals in ms: the clock of the day, slow and quick waves, and a little noise."""
    mean = 60000.0 / who["hr"]
    t = np.arange(n) * mean / 1000.0
    rr = np.ones(n)
    for j, (period, size) in enumerate(_TONES):
        rr = rr + size * arithmetic.sin(t / period + (phases[j] if j else 0.5))  # slowest at night
    rr = rr + who["breath"] * arithmetic.sin(0.25 * t + phases[5]) + 0.02 * arithmetic.sin(0.1 * t + phases[6])
    return mean * (rr + who["noise"] * arithmetic.normal(noise))


def _ectopic(who, rr, u, bouts):
    """Premature beats among sinus intervals `rr`, which change in place: kinds (beat,)."""
    n = len(rr)
    kind = np.full(n, "N", dtype="<U1")
    early = np.where(u[0] < who["pac"], 1, np.where(u[0] > 1.0 - who["pvc"], 2, 0))
    for k in range(who["bouts"]):  # bigeminy for 20 to 300 beats
        start, length = int(bouts[2 * k] * n), 20 + int(280 * bouts[2 * k + 1])
        early[start : start + length] = 2 * (np.arange(len(early[start : start + length])) % 2)
    for k in range(8, 8 + who["runs"]):  # one beat in three, for 60 to 1000 beats
        start, length = int(0.6 * bouts[2 * k] * n), 60 + int(940 * bouts[2 * k + 1])
        stretch = slice(start, start + length)
        early[stretch] = np.where(u[0][stretch] < 0.45, 1, early[stretch])
    early[:2] = early[-2:] = 0
    early[1:][(early[1:] > 0) & (early[:-1] > 0)] = 0
    for number, name, low, high in ((1, "A", 0.55, 0.8), (2, "V", 0.5, 0.75)):
        at = np.flatnonzero(early == number)
        kind[at] = name
        coupling = low + (high - low) * u[1][at]
        rest = (1.0 + 0.15 * u[1][at]) if name == "A" else 2.0 - coupling
        rr[at - 1], rr[at] = rr[at - 1] * coupling, rr[at] * rest
    return kind


def _stretches(who, u, seconds: float) -> list[tuple[float, float]]:
    """Beginning and end (s) of the paroxysms: log-normal lengths, exponential pauses that give the burden."""
    if not who["burden"]:
        return []
    mean = who["median"] * 1.8
    pause, at, out = mean * (1.0 - who["burden"]) / who["burden"], 0.0, []
    for k in range(len(u) // 2):
        at += 30.0 - pause * float(arithmetic.log(1.0 - u[2 * k]))
        length = 20.0 + who["median"] * float(arithmetic.exp(1.1 * arithmetic.normal(u[2 * k + 1])))
        if at > seconds - 60:
            break
        out.append((at, min(at + length, seconds)))
        at += length
    return out


def day(seed: int, number: int, hours: float = 24.0) -> Day:
    """Simulate the beats and rhythms of one patient's day."""
    who, seconds = patient(seed, number), 3600.0 * hours
    n = int(seconds * 2.6) + 4 * RUN  # enough beats for 156 per minute
    u = _uniform(seed, DAY_BEATS, number, 7 * n + 1000)
    many, few = u[: 7 * n].reshape(7, n), u[7 * n :]
    sinus = _sinus(who, few[:8], many[0], n)
    bouts, runs = (int(who[name] * hours / 24.0 + 0.5) for name in ("bouts", "runs"))
    kinds = _ectopic(who | {"bouts": bouts, "runs": runs}, sinus, many[1:3], few[8:48])
    irregular = fibrillation(many[3:5], who["conduct"], who["rate"])
    pieces, flags, names, used, spent, at = [], [], [], 0, 0, 0.0
    for start, end in [*_stretches(who, few[200:], seconds), (seconds, seconds)]:
        for source, until, af in ((sinus, start, False), (irregular, end, True)):
            first = spent if af else used
            count = int(np.searchsorted(np.cumsum(source[first:]), max(0.0, 1000.0 * (until - at)), "right"))
            piece = source[first : first + count]
            pieces.append(piece)
            flags.append(np.full(count, af))
            own = np.where(many[5, first : first + count] < who["pvc"], "V", "N")
            names.append(own if af else kinds[first : first + count])
            spent, used = (first + count, used) if af else (spent, first + count)
            at += float(piece.sum()) / 1000.0
    rr = arithmetic.to_grid(np.maximum(np.concatenate(pieces), 270.0), 64)
    t = (np.cumsum(rr) - rr + arithmetic.to_grid(400.0, 64)) / 64.0
    af, kind = np.concatenate(flags), np.concatenate(names)
    keep = t < 1000.0 * seconds - 500.0
    t, kind, af = t[keep], kind[keep], af[keep]
    starts = np.flatnonzero(af & ~np.r_[False, af[:-1]])
    ends = np.flatnonzero(af & ~np.r_[af[1:], False])
    stop = np.append(t, 1000.0 * seconds)[ends + 1]
    return Day(who, t, kind, af, np.column_stack([t[starts], stop]))


def _words(samples, codes, notes: dict) -> bytes:
    """The annotation file of samples and type codes; notes: number of an annotation -> text."""
    out, last = bytearray(), 0
    for k, (sample, code) in enumerate(zip(samples.tolist(), codes.tolist(), strict=True)):
        gap = sample - last
        if gap > 1023:
            out += (_SKIP << 10).to_bytes(2, "little") + (gap >> 16).to_bytes(2, "little")
            out += (gap & 0xFFFF).to_bytes(2, "little")
            gap = 0
        out += (code << 10 | gap).to_bytes(2, "little")
        if k in notes:
            text = notes[k].encode()
            out += (_AUX << 10 | len(text)).to_bytes(2, "little") + text + b"\0" * (len(text) % 2)
        last = sample
    return bytes(out + b"\0\0")


def annotations(truth: Day) -> bytes:
    """The .atr file of a day: beats N, A, V and rhythm marks (N and (AFIB, each just before its first beat."""
    samples = arithmetic.to_grid(truth.t * FS / 1000.0, 1)
    change = np.flatnonzero(np.r_[True, truth.af[1:] != truth.af[:-1]])
    order = np.argsort(np.r_[np.arange(len(samples)) + 0.5, change], kind="stable")
    codes = np.r_[[_CODES[k] for k in truth.kind.tolist()], np.full(len(change), _RHYTHM)].astype(int)[order]
    marks = np.flatnonzero(codes == _RHYTHM).tolist()
    notes = {at: "(AFIB" if truth.af[k] else "(N" for at, k in zip(marks, change.tolist(), strict=True)}
    return _words(np.r_[samples, samples[change]][order], codes, notes)


class Heart:
    """The shapes of one patient's beats, and the two leads that see them."""

    def __init__(self, seed: int, number: int, who: dict):
        ids = np.array([FIRST_ID + number])
        want = {name: np.array([name in ("PVC", "PAC")]) for name in records.LABELS}
        person = {"age": np.array([who["age"]]), "male": np.array([who["male"]]), "bmi": np.array([26.0])}
        plan_draws = arithmetic.Draws(records.PLAN_SLOTS, seed, records.PLAN, ids)
        self.plan = records.complete(seed, ids, ids, want, person, plan_draws)
        self.d = arithmetic.Draws(records.SLOTS, seed, records.RECORD, ids, 0, rhythm.width(30))
        own = arithmetic.Draws(morphology.MORPH, seed, records.PATIENT, ids)
        self.shape = morphology.Morphology(want, self.plan.who, own, self.d, 0, self.plan.territory)
        self.leads = self.shape.leads[0, [INDEPENDENT.index(name) for name in LEADS]]

    def components(self, t, kind, af, rr) -> list[np.ndarray]:
        """Gaussian components (time, sigma, x, y, z, group; ms, uV) of beats at t ms with intervals rr before."""
        s, parts = self.shape, []
        qtcf, pr = float(self.plan.qtcf[0]), float(self.plan.pr[0])
        for name in ("N", "V", "A"):
            chosen = np.flatnonzero(kind == name)
            rec, start = np.zeros(len(chosen), int), t[chosen]
            qrs, wave = s.ectopic[0] if name == "V" else (s.qrs, s.t_shape)
            off = (wave if name == "V" else s.t).off[0]
            slow = np.minimum(np.maximum(0.5 * rr[chosen] + 425.0, 350.0), 1500.0)  # QT follows the interval with delay
            qt = qtcf * arithmetic.cbrt(slow / 1000.0)
            stretch = render.t_stretch(qt, qrs.on[0], qrs.off[0], off)
            gain = 1.0 + 0.05 * arithmetic.sin(0.25 * start / 1000.0)
            parts.append(render.wave_components(qrs, rec, start, 1, gain=gain))
            shift = qrs.off[0] - 41.0 * stretch
            parts.append(render.wave_components(wave, rec, start, 2, stretch=stretch, shift=shift, gain=gain))
            led = np.flatnonzero(~af[chosen]) if name != "V" else np.zeros(0, int)
            p = s.p_early if name == "A" else s.p
            parts.append(render.wave_components(p, rec[led], start[led] + qrs.on[0] - pr - p.on[0], 0, gain=gain[led]))
        return [np.concatenate(column) for column in zip(*parts, strict=True)][1:]

    def draw(self, parts, first: int, n_times: int) -> np.ndarray:
        """Samples first ... first + n_times of both leads from components: integers in 1/16 uV (lead, time)."""
        mu, sigma, x, y, z, group = parts
        wide = np.sqrt(sigma * sigma + (500.0 / FS) * (500.0 / FS))  # anti-alias filter, as in `render`
        own = self.leads.reshape(len(LEADS), -1, 3)[:, group]
        size = (own[..., 0] * x + own[..., 1] * y + own[..., 2] * z) * (sigma / wide) / 1024.0
        size = arithmetic.to_grid(size, 16).astype(np.float64)
        mu, sigma = arithmetic.to_grid(mu, 64), arithmetic.to_grid(wide, 64)
        table, out = arithmetic.gauss_table(), np.zeros((len(LEADS), n_times))
        order = np.argsort(sigma, kind="stable")
        for chosen in np.array_split(order, 8):  # of like widths
            reach = 4 * int(sigma[chosen].max(initial=0))
            start = (mu[chosen] - reach) * FS // 64000 + 1
            at = start[:, None] + np.arange(2 * reach * FS // 64000 + 2)
            u = np.abs(at * 64000 // FS - mu[chosen, None]) * arithmetic.GAUSS_STEPS // sigma[chosen, None]
            keep = (u <= 4 * arithmetic.GAUSS_STEPS) & (at >= first) & (at < first + n_times)
            g, place, count = table[u[keep]], at[keep] - first, keep.sum(1)
            for lead in range(len(LEADS)):
                out[lead] += np.bincount(place, np.repeat(size[lead, chosen], count) * g, n_times)
        return np.floor(out / arithmetic.ONE)

    def fibrillatory(self, who, first: int, n_times: int) -> np.ndarray:
        """The f waves of both leads at these samples: (lead, time) in 1/16 uV."""
        waves = render._f_wave(self.d, 0, who["rate"], FS, np.arange(first, first + n_times))
        return np.floor(self.leads[:, 9:12] @ waves / 1024.0)


def _noise(u, first: int, n_times: int) -> np.ndarray:
    """Muscle, wander and motion of both leads: (lead, time) in 1/16 uV; u: uniform, of the whole day."""
    tracks, length = bank(FS, 0), 1 << 17
    i = np.arange(first, first + n_times)
    minute, part = i // (60 * FS), (i % (60 * FS)) / (60.0 * FS)
    level = arithmetic.exp(0.5 * arithmetic.normal(u[100:])) * np.where(u[100:] > 0.97, 4.0, 1.0)  # bouts of motion
    night = 1.0 - 0.5 * (arithmetic.cos(minute / 1440.0) < -0.3)  # recorders are put on in the morning
    gain = night * (level[minute] * (1.0 - part) + level[minute + 1] * part)
    out = np.zeros((len(LEADS), n_times))
    for lead in range(len(LEADS)):
        for kind, uv in enumerate((8.0, 30.0, 12.0)):
            start = int(u[10 * lead + kind] * length)
            out[lead] += tracks[kind, (start + i) % length] * (16.0 * uv / 4096.0)
    return np.floor(out * gain)


def signal(seed: int, number: int, truth: Day, hours: float = 24.0) -> np.ndarray:
    """The two leads of a day as counts: int16 (lead, time)."""
    heart, n_times = Heart(seed, number, truth.who), int(3600 * hours) * FS
    u = _uniform(seed, DAY_NOISE, number, 100 + int(60 * hours) + 2)
    rr = np.diff(truth.t, prepend=truth.t[0] - 800.0)
    out = np.empty((len(LEADS), n_times), np.int16)
    for first in range(0, n_times, BLOCK * FS):
        n = min(BLOCK * FS, n_times - first)
        low, high = 1000.0 * first / FS, 1000.0 * (first + n) / FS
        a, b = np.searchsorted(truth.t, (low - 1200.0, high + 700.0))
        parts = heart.components(truth.t[a:b], truth.kind[a:b], truth.af[a:b], rr[a:b])
        x = heart.draw(parts, first, n) + _noise(u, first, n)
        for start, end in truth.episodes:
            left, right = max(int(start * FS / 1000), first), min(int(end * FS / 1000), first + n)
            if left < right:
                x[:, left - first : right - first] += heart.fibrillatory(truth.who, left, right - left)
        out[:, first : first + n] = np.clip(np.floor((x * GAIN + 8000.0) / 16000.0), -32000, 32000)
    return out


def write_day(folder, seed: int, number: int, hours: float, with_signal: bool) -> dict:
    """Write D001.atr and so on, .hea and .dat where the signal is wanted; returns the row of days.csv."""
    truth, name = day(seed, number, hours), f"D{number + 1:03d}"
    (folder / f"{name}.atr").write_bytes(annotations(truth))
    if with_signal:
        counts = signal(seed, number, truth, hours)
        wfdb_io.write(folder, name, counts, FS, LEADS, GAIN)
    who, length = truth.who, 3600.0 * hours
    burden = float((truth.episodes[:, 1] - truth.episodes[:, 0]).sum()) / 10.0 / length
    row = {"record_id": name, "patient_id": f"D-{number + 1:03d}", "group": who["group"], "age": int(who["age"])}
    row |= {"sex": "male" if who["male"] else "female", "hours": hours, "beats": len(truth.t)}
    ectopic = [int((truth.kind == k).sum()) for k in "AV"]
    row |= {"n_pac": ectopic[0], "n_pvc": ectopic[1], "n_episodes": len(truth.episodes)}
    return row | {"burden_percent": arithmetic.to_grid(burden, 100) / 100, "signal": int(with_signal)}


def table(folder, rows: list[dict]) -> None:
    """Write days.csv."""
    pd.DataFrame(rows).to_csv(folder / "days.csv", index=False, lineterminator="\n")
