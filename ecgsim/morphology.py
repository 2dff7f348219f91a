"""What one heartbeat looks like: P, QRS, ST and T of every record as Gaussian components of a dipole.

A component is a time, a width (ms) and a vector X to the left, Y to the feet, Z to the back (uV). The dipole model is
that of Sameni et al. 2007 (doi:10.1155/2007/43407); the templates and the lead matrix were recalibrated on normal
PTB-XL records. Labels change the components (bundle branch blocks, infarcts ...); `ecgsim.criteria` checks them.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ecgsim import arithmetic

INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
FINE = 6  # small components inside QRS: fragmentation that a smooth template lacks
MORPH = (
    *((s, 1) for s in "gain front horiz t_gain t_front t_horiz p_gain p_front p_dur qrs_dur terminal".split()),
    ("anatomy", 24),
    ("fine", 3 * FINE),
)
SLOTS = (
    *MORPH,
    *((s, FINE) for s in ("fine_mu", "fine_sigma")),
    *((s, 1) for s in "q_size st_size strain delta where u_wave pvc_site pvc_front pvc_gain pvc2_front".split()),
    *((s, 1) for s in "ect_front widen p_extra low spike spike_x spike_y atrial".split()),
)


@dataclass
class Wave:
    """Components of a wave: mu, sigma (record, component) and on, off, peak in ms; v (record, component, 3) in uV."""

    mu: np.ndarray
    sigma: np.ndarray
    v: np.ndarray
    on: np.ndarray | None = None
    off: np.ndarray | None = None
    peak: np.ndarray | None = None

    def plus(self, mu, sigma, v):
        """The wave with one more component (scalars or (record,); v (record, 3))."""
        n = len(self.mu)
        grow = [np.broadcast_to(np.asarray(x, np.float64), (n,))[:, None] for x in (mu, sigma)]
        return Wave(np.c_[self.mu, grow[0]], np.c_[self.sigma, grow[1]], np.concatenate([self.v, v[:, None]], 1))

    def measured(self, theta, phi, low, high, step=1.0):
        """The wave with on, off and peak: samples where the vector is at least max(theta uV, phi x its maximum)."""
        t = np.arange(low, high, step)
        u = np.abs(t - self.mu[..., None]) / self.sigma[..., None] * arithmetic.GAUSS_STEPS
        g = arithmetic.gauss_table()[np.minimum(u, 4 * arithmetic.GAUSS_STEPS + 1).astype(np.int64)].astype(np.float64)
        size = arithmetic.to_grid(self.v, 16).astype(np.float64).transpose(0, 2, 1)
        v = np.floor(np.matmul(size, g) / arithmetic.ONE)
        size = v[:, 0] * v[:, 0] + v[:, 1] * v[:, 1] + v[:, 2] * v[:, 2]
        limit = np.maximum(16.0 * theta, phi * np.sqrt(size.max(1)))
        inside = size >= np.minimum(limit * limit, size.max(1))[:, None]
        self.on, self.off = t[inside.argmax(1)], t[len(t) - 1 - inside[:, ::-1].argmax(1)]
        self.peak = t[size.argmax(1)]
        return self

    def measured_at(self, rows, *rule):
        """As `measured` for some rows, zeros elsewhere."""
        chosen = Wave(self.mu[rows], self.sigma[rows], self.v[rows])
        if len(rows):
            chosen.measured(*rule)
        for name in ("on", "off", "peak"):
            edge = np.zeros(len(self.mu))
            edge[rows] = getattr(chosen, name) if len(rows) else 0.0
            setattr(self, name, edge)


@cache
def templates():
    """(code, wave) -> array (component, 5) of mu, sigma, x, y, z, the composed codes included."""
    waves = {}
    for r in arithmetic.rows("templates.csv"):
        numbers = [float(r[k]) for k in ("mu_ms", "sigma_ms", "x_uv", "y_uv", "z_uv")]
        waves.setdefault((r["code"], r["wave"]), []).append(numbers)
    waves = {k: np.array(v) for k, v in waves.items()}
    normal, wide = waves["NORMAL", "QRS"], np.array([1.16, 1.16, 1, 1, 1])
    waves["WPW", "QRS"] = np.vstack([waves["WPW", "QRS"], normal * wide])
    waves["IRBBB", "QRS"] = np.vstack([normal[:5] * np.array([1.04, 1.04, 1, 1, 1]), waves["IRBBB", "QRS"]])
    half = np.array([1, 1, 0.5, 0.5, 0.5])
    waves["ILBBB", "QRS"] = np.vstack([normal * np.array([1.2, 1.2, 0.5, 0.5, 0.5]), waves["CLBBB", "QRS"] * half])
    waves["BIFASC", "QRS"] = np.vstack([waves["LAFB", "QRS"], waves["CRBBB", "QRS"][6:]])
    waves["BIFASC", "T"], waves["IVCD", "QRS"] = waves["CRBBB", "T"], normal
    return waves


def padded(codes, wave, which):
    """Wave of the templates named by codes[which] (normal where a code has none)."""
    lists = [templates().get((c, wave), templates()["NORMAL", wave]) for c in codes]
    table = np.zeros((len(codes), max(map(len, lists)), 5))
    table[..., 1] = 10.0
    for i, x in enumerate(lists):
        table[i, : len(x)] = x
    x = table[which]
    return Wave(x[..., 0], x[..., 1], x[..., 2:])


@cache
def native_ms(code):
    """QRS duration in ms of a template at its own scale."""
    w = padded((code,), "QRS", np.zeros(1, int)).measured(20, 0.03, -140, 160, 0.5)
    return float(w.off[0] - w.on[0])


@cache
def lead_tables():
    """Lead matrix (8, 3), factors of P and T (8,), matrix of atrial waves (8, 3)."""
    r = arithmetic.rows("leads.csv")
    m = np.array([[float(x[k]) for k in "xyz"] for x in r])
    f = np.array([[float(x[f"f_{k}"]) * float(x["f_gain"]) for k in "xyz"] for x in r])
    return m, np.array([float(x["p_factor"]) for x in r]), np.array([float(x["t_factor"]) for x in r]), f


def rotate(v, frontal=0.0, horizontal=0.0):
    """Turn vectors (record, ..., 3) by degrees in the frontal (X to Y) and horizontal (X to Z) plane."""
    shape = (-1,) + (1,) * (v.ndim - 2)
    for other, angle in ((1, frontal), (2, horizontal)):
        turns = np.asarray(angle, np.float64).reshape(shape) / 360.0
        c, s = arithmetic.cos(turns), arithmetic.sin(turns)
        x, y = v[..., 0], v[..., other]
        v = v.copy()
        v[..., 0], v[..., other] = c * x - s * y, s * x + c * y
    return v


QRS_CODES = "NORMAL IVCD LAFB LPFB RVH LVH IRBBB CRBBB BIFASC ILBBB CLBBB WPW PACE".split()  # later wins


def qrs_code(want):
    """Index into QRS_CODES of every record."""
    code = np.zeros(len(want["NORM"]), np.int64)
    for i, name in enumerate(QRS_CODES[1:], 1):
        code[want["CRBBB"] & want["LAFB"] if name == "BIFASC" else want[name]] = i
    return code


class Morphology:
    """Shapes of a batch: waves `p, p_early, p_back, qrs, st, t`, ectopic `pvc, pvc2, aberrant`, and lead matrices.

    want: label -> bool (record,); who: dict of age, male, bmi, hr (record,); patient, record: Draws with MORPH / SLOTS.
    """

    def __init__(self, want, who, patient, record, attempt, territory):
        self.want, self.who, self.patient, self.d, self.attempt = want, who, patient, record, attempt
        self.code, self.territory = qrs_code(want), territory
        self.no_p = np.any([want[k] for k in ("AFIB", "AFLT", "SVTAC", "3AVB")], axis=0)
        self._sizes()
        self._matrices()
        self._qrs()
        self._p()
        self._t()
        self._ectopic()

    def mix(self, slot):
        """Normal numbers that stay with the patient; a redraw leaves the patient's own value behind step by step."""
        w = (0.25, 0.6)[self.attempt] if self.attempt < 2 else 1.0
        shrink = 1.0 if self.attempt < 4 else 0.6
        return shrink * (np.sqrt(1.0 - w * w) * self.patient.n(slot) + w * self.d.n(slot))

    def _sizes(self):
        want, who = self.want, self.who
        self.plain = np.isin(self.code, (0, 1))
        young = np.where((who["age"] < 40) & (who["male"] == 1), 1.15, 1.0)
        fat = np.maximum(0.7, 1.0 - 0.01 * np.maximum(0.0, who["bmi"] - 25.0))
        gain = arithmetic.exp(np.where(self.plain, 0.25, 0.2) * self.mix("gain"))
        gain = gain * np.where(self.plain, young * fat, 1.0)
        self.gain = np.where(want["LVOLT"], self.d.u("low", 0.22, 0.4), gain)
        axis = np.where(who["male"] == 1, 35.0, 39.0) - 0.45 * (who["age"] - 52.0) + 16.0 * self.mix("front")
        narrow = np.isin(self.code, [QRS_CODES.index(c) for c in ("LAFB", "LPFB", "RVH", "BIFASC")])
        other = np.where(narrow, 6.0, 12.0) * self.mix("front")
        self.front = np.where(self.plain, np.minimum(np.maximum(axis, -15.0), 85.0) - 43.0, other)
        self.horiz = np.where(self.plain, 18.0, np.where(narrow, 10.0, 14.0)) * self.mix("horiz")

    def _matrices(self):
        """Lead matrices (record, 8 leads, 4 groups P QRS T atrial x 3 axes) in 1/1024."""
        m, p, t, f = lead_tables()
        own = m + (0.16 * np.abs(m) + 0.06) * self.mix("anatomy").reshape(-1, 8, 3)
        groups = [own * p[:, None], own, own * t[:, None], np.broadcast_to(f, own.shape)]
        self.leads = arithmetic.to_grid(np.concatenate(groups, 2), 1024).astype(np.float64)

    def _qrs(self):
        want, d = self.want, self.d
        w = padded(QRS_CODES, "QRS", self.code)
        native = np.array([native_ms(c) for c in QRS_CODES])[self.code]
        target = np.where(self.who["male"] == 1, 92.0, 86.0) + 8.0 * self.mix("qrs_dur")
        target = np.minimum(np.maximum(target, 72.0), 106.0)
        target = np.where(want["IVCD"], d.u("widen", 118.0, 138.0), target)
        target = np.where(self.plain, target, native * (1.0 + 0.025 * self.mix("qrs_dur")))
        target = np.where(self.code == QRS_CODES.index("ILBBB"), d.u("widen", 112.5, 117.5), target)
        s = arithmetic.to_grid(target / native, 4096)[:, None] / 4096.0
        size = np.ones((len(s), 1, 3)) * self.gain[:, None, None]
        size[..., 2] *= np.where((self.who["male"] == 0) & self.plain, 0.87, 1.0)[:, None]
        size[..., 1] *= np.where(self.plain, 1.06, 1.0)[:, None]
        v = w.v.copy()
        delta = np.where(self.code == QRS_CODES.index("WPW"), d.u("delta", -60.0, 60.0), 0.0)
        v[:, :3] = rotate(v[:, :3], delta)
        v[:, 5:7] *= np.where(self.plain, 1.0 + 0.5 * self.mix("terminal"), 1.0)[:, None, None]  # S waves vary most
        v = rotate(v * size, self.front, self.horiz)
        fine = 88.0 * np.minimum(self.gain, 1.2)[:, None, None] * self.mix("fine").reshape(-1, FINE, 3)
        fine = np.where((self.code == QRS_CODES.index("PACE"))[:, None, None], 0.0, fine)
        mu = d.u("fine_mu", -24.0, 24.0) * (target / 92.0)[:, None]
        w = Wave(np.c_[w.mu * s, mu], np.c_[w.sigma * s, d.u("fine_sigma", 2.6, 3.8)], np.concatenate([v, fine], 1))
        self.qrs = self._infarct(w).measured(20, 0.03, -140, 160)

    def _infarct(self, w):
        """Q waves: an old infarct takes a vector away from the wall, an acute one less of it."""
        r = arithmetic.rows("territories.csv")
        d = np.array([[float(x[k]) for k in "xyz"] for x in r])
        d = d / np.sqrt(d[:, 0] * d[:, 0] + d[:, 1] * d[:, 1] + d[:, 2] * d[:, 2])[:, None]
        self.wall = np.where((self.territory >= 0)[:, None], d[self.territory], 0.0)
        q = np.array([float(x["q_uv"]) for x in r])[self.territory] * self.d.u("q_size", 0.85, 1.25)
        acute = self.want["STE_"]
        q = np.where(acute, 0.3 * q, q * np.maximum(1.0, self.gain))
        late = self.territory == [x["label"] for x in r].index("PMI")
        mu = np.where(acute, -26.0, np.where(late, -2.0, -24.0))
        return w.plus(mu, np.where(acute, 9.0, 10.0), -q[:, None] * self.wall)

    def _p(self):
        want, d = self.want, self.d
        w = padded(("NORMAL",), "P", np.zeros(len(self.code), int))
        age = self.who["age"] - 52.0
        target = np.where(self.who["male"] == 1, 112.0, 108.0) + 0.15 * age + 10.0 * self.mix("p_dur")
        target = np.where(want["LAO/LAE"], d.u("p_extra", 126.0, 148.0), np.minimum(np.maximum(target, 80.0), 118.5))
        gain = arithmetic.exp(0.25 * self.mix("p_gain"))
        gain = np.where(want["RAO/RAE"], d.u("p_extra", 1.5, 1.9), np.minimum(gain, 1.7))
        gain = np.where(want["LVOLT"], 0.75, 1.0) * gain
        v = rotate(w.v, 14.0 * self.mix("p_front")) * gain[:, None, None]
        v[:, 1, 2] += np.where(want["LAO/LAE"], d.u("p_extra", 75.0, 125.0), 0.0)
        v[:, 0, 1] *= np.where(want["RAO/RAE"], 2.2, 1.0)
        s = target[:, None] / 100.0
        self.p = Wave(w.mu * s, w.sigma * s, v).measured(10, 0.05, -130, 130)
        turn = 70.0 * np.where(d.u("ect_front") < 0.5, 1.0, -1.0) * (0.5 + np.abs(d.u("ect_front") - 0.5))
        self.p_early = Wave(w.mu, w.sigma, 0.8 * rotate(v, turn)).measured(10, 0.05, -130, 130)
        back = np.broadcast_to(np.array([[-5.0, -30, -10], [-5, -30, -10]]), v.shape)
        self.p_back = Wave(w.mu, w.sigma, back).measured(10, 0.05, -130, 130)

    def _t(self):
        want, d, male = self.want, self.d, self.who["male"] == 1
        strain = (self.code == QRS_CODES.index("LVH")) & (d.u("strain") < 0.5)
        w = padded(QRS_CODES, "T", np.where((self.code == QRS_CODES.index("LVH")) & ~strain, 0, self.code))
        upright = np.isin(self.code, [QRS_CODES.index(c) for c in ("NORMAL", "IVCD", "LAFB", "LPFB", "LVH")]) & ~strain
        gain = arithmetic.exp(np.where(upright, 0.25, 0.2) * self.mix("t_gain"))
        gain = np.where(want["LOWT"], d.u("low", 0.1, 0.22), gain)
        follow = np.where(self.plain, 0.3 * self.front, 0.0)
        gain = np.where(want["LVOLT"], 0.5, 1.0) * gain
        v = rotate(w.v, follow + 8.0 * self.mix("t_front"), 12.0 * self.mix("t_horiz")) * gain[:, None, None]
        v[..., 2] *= np.where(upright, np.where(male, 1.65, 1.2), 1.0)[:, None]
        w = Wave(w.mu, w.sigma, v)
        lateral, inferior = np.array([0.774, 0.207, -0.619]), np.array([0.287, 0.958, 0.0])
        local = np.where((d.u("where") < 0.7)[:, None], lateral, inferior)
        size = d.u("st_size", 0.8, 1.5)
        old, acute = (self.territory >= 0) & ~want["STE_"], want["STE_"]
        change = np.where(old, -330.0, np.where(acute, 80.0, 0.0))[:, None] * self.wall
        lower = np.where(want["STD_"], 60.0, 0.0) + np.where(want["INVT"], 460.0 * size, 0.0)
        change = change - lower[:, None] * local
        w = w.plus(222.0, 40.0, change).plus(255.0, 26.0, 0.8 * change)
        st = np.where(acute, 280.0 * d.u("st_size", 0.8, 1.8), 0.0)[:, None] * self.wall
        st = st - np.where(want["STD_"], 170.0 * size, 0.0)[:, None] * local
        mu, sigma, share = np.array([[14, 42, 83, 133], [14, 22, 32, 38], [0.75, 0.8, 0.9, 0.8]])
        n = len(st)
        self.st = Wave(np.tile(mu, (n, 1)), np.tile(sigma, (n, 1)), st[:, None] * share[:, None])
        self.t = w.measured(15, 0.05, 20, 420, 2.0)
        u = np.where((d.u("u_wave") < 0.3) & (self.who["hr"] < 65) & self.plain, 1.0, 0.0)
        u = u[:, None] * np.array([30.0, 16.0, -25.0]) * (0.6 + d.u("u_wave"))[:, None]
        self.t_shape = w.plus(self.t.off + 60.0, 35.0, u)

    def _ectopic(self):
        """Ventricular foci, and the right bundle shape of an aberrant beat: QRS and T each."""
        d, site = self.d, (self.d.u("pvc_site") < 0.6).astype(int)
        gain, codes = d.u("pvc_gain", 0.8, 1.25)[:, None, None], ("PVC_APEX", "PVC_OUT")
        self.ectopic = []
        for which, turn in ((site, d.u("pvc_front", -15, 15)), (1 - site, d.u("pvc2_front", -15, 15))):
            pair = [padded(codes, w, which) for w in ("QRS", "T")]
            self.ectopic.append([Wave(w.mu, w.sigma, rotate(w.v, turn) * gain) for w in pair])
        pair = [padded(("CRBBB",), w, np.zeros(len(site), int)) for w in ("QRS", "T")]
        self.ectopic.append([Wave(w.mu, w.sigma, rotate(w.v, self.front, self.horiz)) for w in pair])
        used = np.flatnonzero(np.any([self.want[k] for k in ("PVC", "PAC", "3AVB")], axis=0))
        for qrs, t in self.ectopic:
            qrs.measured_at(used, 20, 0.03, -140, 160)
            t.measured_at(used, 15, 0.05, 20, 420, 2.0)
