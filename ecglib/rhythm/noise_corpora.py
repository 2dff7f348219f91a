"""Windows of one lead with a known quality: of corpora that readers have graded, and of ECGs whose noise is known.

A `Strip` is a window with its true beats; `graded` and `known` make `Windows`, whose table has these columns: corpus,
patient_id, item (what is judged: a graded recording, or a window), part ("val": open to choices; "test": by patient),
start_s, lead, rhythm (one of RHYTHMS), snr_db (infinite: nothing added; NaN: not known), and three definitions of noisy
(1, 0, and -1 where one says nothing): by_reader, by_snr (below NOISY_DB), by_beats (the detector's F1 below NOISY_F1).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError, datasets, require_known
from ecglib.data import annotations, filters, labels, rpeaks, splits, wfdb_io
from ecglib.datasets import mitdb, nstdb, simulated
from ecglib.rhythm.noise_features import agreement
from ecglib.rhythm.stress_test import stressed
from ecglib.training import noise

NOISY_DB, NOISY_F1 = 6.0, 0.9
RHYTHMS = ("sinus", "atrial fibrillation", "frequent PVC", "bigeminy", "other")
SINUS, AF, PVC, BIGEMINY, OTHER = RHYTHMS
DEFINITIONS = ("by_reader", "by_snr", "by_beats")
FREQUENT = 3  # ventricular beats in a window
PARTS = {"val": 0.4, "test": 0.6}  # of the patients


@dataclass(frozen=True)
class Cut:
    """How windows are cut: `seconds` long, at `fs` Hz, at most `most` of a recording; seed: of noise and parts."""

    seconds: float = 10.0
    fs: float = 100.0
    most: int = 6
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Strip:
    """A window x (time,) mV of one lead that starts at start_s, with its true beats (beat,) in s from its start."""

    record_id: str
    patient_id: str
    start_s: float
    lead: str
    x: np.ndarray
    beats: np.ndarray
    rhythm: str
    snr_db: float


@dataclass(frozen=True, eq=False)
class Windows:
    """x: float32 (window, time) mV; fs: Hz; table: a row per window, see above."""

    x: np.ndarray
    fs: float
    table: pd.DataFrame


def starts(seconds: float, cut: Cut) -> np.ndarray:
    """Where windows of a recording of `seconds` begin, in s: side by side, at most `cut.most`, spread evenly.

    None crosses the end of the recording.
    """
    n = int(np.floor(seconds / cut.seconds + 1e-9))
    chosen = np.unique(np.linspace(0, n - 1, min(n, cut.most)).round().astype(int)) if n else np.zeros(0, int)
    return chosen * cut.seconds


def pieces(x: np.ndarray, cut: Cut) -> list[tuple[float, np.ndarray]]:
    """The windows of x (time,) at cut.fs Hz: (start in s, samples) each."""
    size = round(cut.seconds * cut.fs)
    begins = [(float(start), round(start * cut.fs)) for start in starts(len(x) / cut.fs, cut)]
    return [(start, x[first : first + size]) for start, first in begins if first + size <= len(x)]


def load(name: str, spec: dict, cut: Cut, folder) -> Windows:
    """The corpus `name` by its description in parameters.

    spec: `kind`, one of "graded" (dataset, root, noisy, rhythms: see `graded`), "stress" (root, noise_root: see
    `stress_strips`), "mitdb" (root) and "hospital" (root, hospital, split, limit: see `hospital_strips`), the last two
    with `noise`, a list of kinds that are added (`with_noise`), recorded ones where noise_root says where they lie;
    `lead`; `most`: windows of a recording. folder: where packed noise is kept. Raises EcgError for other words in spec.
    """
    words = {
        "graded": {"dataset", "root", "noisy", "rhythms"},
        "stress": {"root", "noise_root", "lead"},
        "mitdb": {"root", "lead", "noise", "noise_root"},
        "hospital": {"root", "hospital", "lead", "split", "limit", "noise", "noise_root"},
    }
    spec = dict(spec)
    kind, most = spec.pop("kind", ""), int(spec.pop("most", cut.most))
    require_known("kind of corpus", [kind], words, "kind", name)
    require_known("word", spec, words[kind], name)
    cut = replace(cut, most=most)
    if kind == "graded":
        return graded(spec["dataset"], spec["root"], spec["noisy"], cut, spec.get("rhythms"), name)
    if kind == "stress":
        return known(stress_strips(spec["root"], spec["noise_root"], cut, spec.get("lead", "II")), name, cut)
    kinds, recorded = spec.pop("noise", []), spec.pop("noise_root", "")
    strips = (mitdb_strips if kind == "mitdb" else hospital_strips)(cut=cut, **spec)
    if kinds:
        bank = noise.pack_bank(recorded, Path(folder) / "noise_bank.npy", cut.fs, "test") if recorded else ""
        strips = with_noise(strips, kinds, cut, bank)
    return known(strips, name, cut)


def graded(name: str, root, noisy: str, cut: Cut, rhythms: dict | None = None, corpus: str = "") -> Windows:
    """Windows of every lead of a corpus whose readers have graded whole recordings; the item is the recording.

    name: of `ecglib.datasets`; root: its folder; noisy: the label that says so; rhythms: {label: one of RHYTHMS}, where
    no label means "other"; corpus: its name in the table. Raises EcgError for an unknown label and as the dataset does.
    """
    module, x, rows = datasets.get(name), [], []
    records = module.records(root)
    states = module.labels(root, records)
    require_known("label", [noisy, *(rhythms or {})], list(states), "noisy", root)
    for row, state in zip(records.itertuples(), states.to_dict("records"), strict=True):
        recording = module.read(row)
        leads = filters.resample(np.nan_to_num(recording.signal), recording.fs, cut.fs)
        rhythm = next((to for label, to in (rhythms or {}).items() if state[label] == labels.PRESENT), OTHER)
        grade = int(state[noisy]) if state[noisy] in (labels.PRESENT, labels.ABSENT) else -1
        about = {"item": row.record_id, "patient_id": row.patient_id, "rhythm": rhythm, "snr_db": np.nan}
        about |= {"by_reader": grade, "by_snr": -1, "by_beats": -1}
        for lead, signal in zip(recording.leads, leads, strict=True):
            for start, piece in pieces(signal, cut):
                x.append(piece)
                rows.append(about | {"lead": lead, "start_s": start})
    return _windows(corpus or name, x, rows, cut)


def known(strips: list[Strip], corpus: str, cut: Cut) -> Windows:
    """Windows of strips whose beats and noise are known; the item is the window.

    corpus: its name in the table. Raises EcgError where there is no strip.
    """
    rows = []
    for strip in strips:
        true = (strip.beats * cut.fs).round().astype(int)
        f1 = agreement(true, rpeaks.r_peaks(strip.x, cut.fs), cut.fs)
        about = {"item": f"{strip.record_id} {strip.start_s:g}", "patient_id": strip.patient_id}
        about |= {"rhythm": strip.rhythm, "snr_db": strip.snr_db, "lead": strip.lead, "start_s": strip.start_s}
        about |= {"by_reader": -1, "by_snr": int(strip.snr_db < NOISY_DB), "by_beats": int(f1 < NOISY_F1)}
        rows.append(about)
    return _windows(corpus, [strip.x for strip in strips], rows, cut)


def _windows(corpus: str, x: list, rows: list, cut: Cut) -> Windows:
    if not rows:
        reason = f"no recording of {corpus} is {cut.seconds:g} s long"
        raise EcgError(reason, field="seconds", fix="cut shorter windows")
    table = pd.DataFrame(rows)
    stratum = pd.DataFrame({"noisy": (table[list(DEFINITIONS)] == 1).any(axis=1).astype(np.int8)})
    table["part"] = splits.assign(table, PARTS, cut.seed, stratum).to_numpy()
    table.insert(0, "corpus", corpus)
    return Windows(np.stack(x).astype(np.float32), cut.fs, table)


def mitdb_strips(root, cut: Cut, lead: str = "II") -> list[Strip]:
    """Windows of MIT-BIH, without 118 and 119, which the noise stress test has, and without what readers marked noisy.

    root: its folder; lead: records without it are left out.
    """
    rows, strips = mitdb.records(root), []
    for row in rows[~rows.record_id.isin(nstdb.PATIENTS)].itertuples():
        recording, marks = mitdb.read(row), _marks(row)
        if lead in recording.leads:
            x = np.nan_to_num(recording.signal[recording.leads.index(lead)])
            strips += _annotated(row, x, recording.fs, marks, cut, lead)
    return strips


def _annotated(row, x, fs: float, marks: pd.DataFrame, cut: Cut, lead: str) -> list[Strip]:
    """Windows of one lead x (time,) at fs Hz of a record of MIT-BIH that its readers did not mark as noisy."""
    beats, strips = _beats(marks) / fs, []
    marks = marks.assign(at=marks["sample"] / fs, named=marks.text.str.startswith("("))
    for start, piece in pieces(filters.resample(x, fs, cut.fs), cut):
        rhythm, inside = _rhythm(marks, start, start + cut.seconds), beats - start
        if rhythm:
            inside = inside[(inside >= 0) & (inside < cut.seconds)]
            strips.append(Strip(row.record_id, row.patient_id, start, lead, piece, inside, rhythm, np.inf))
    return strips


def _marks(row) -> pd.DataFrame:
    """What readers have marked in a record of MIT-BIH: sample, symbol, whether it is a beat, text."""
    read = annotations.read(f"{row.path}.atr")
    text = [read.notes.get(number, "") for number in range(len(read.samples))]
    return pd.DataFrame({"sample": read.samples, "symbol": read.symbols, "beat": read.is_beat, "text": text})


def _beats(marks: pd.DataFrame) -> np.ndarray:
    return marks["sample"].to_numpy()[marks.beat]


def _rhythm(marks: pd.DataFrame, start: float, end: float) -> str | None:
    """The rhythm from start to end (s); None where readers marked a change of signal quality (~), or no beat."""
    inside = marks[(marks["at"] >= start) & (marks["at"] < end)]
    symbols = inside.symbol
    if (symbols == "~").any() or not inside.beat.any():
        return None
    texts = {*marks.text[marks.named & (marks["at"] <= start)].tail(1), *inside.text[inside.named]}
    if "(AFIB" in texts:
        return AF
    if "(B" in texts:
        return BIGEMINY
    if (symbols == "V").sum() >= FREQUENT:
        return PVC
    return SINUS if texts <= {"(N"} else OTHER


def hospital_strips(root, hospital: str, cut: Cut, lead: str = "II", split: str = "", limit: int = 0) -> list[Strip]:
    """Windows of a simulated hospital as it recorded them: true beats, and the true ratio of signal and noise.

    root: the folder data/; hospital: A, B or C, which has lead I alone; split: whose patients ("": all); limit: how
    many records, spread evenly (0: all).
    """
    records, folder = simulated.records(root, hospital=hospital), Path(root) / hospital
    if split:
        require_known("split", [split], list(records.split.unique()))
        records = records[records.split == split]
    if limit:
        records = records.iloc[np.unique(np.linspace(0, len(records) - 1, min(limit, len(records))).astype(int))]
    by_record = {"dtype": {"record_id": str}, "index_col": "record_id"}
    truth = datasets.table(folder / "truth.csv", ("snr_db", "n_pvc", "labels"), **by_record)
    beats = datasets.table(folder / "beats.csv", ("record_id", "r"), dtype={"record_id": str}).groupby("record_id").r
    beats, strips = {name: of.to_numpy() for name, of in beats}, []
    for row in records.itertuples():
        recording, about = simulated.read(row), truth.loc[row.record_id]
        x = filters.resample(np.nan_to_num(recording.signal[recording.leads.index(lead)]), recording.fs, cut.fs)
        words = str(about.labels).split()
        rhythm = AF if "AFIB" in words else PVC if about.n_pvc >= FREQUENT else SINUS if "SR" in words else OTHER
        times = beats.get(row.record_id, np.zeros(0)) / recording.fs
        for start, piece in pieces(x, cut):
            inside = times[(times >= start) & (times < start + cut.seconds)] - start
            strips.append(Strip(row.record_id, row.patient_id, start, lead, piece, inside, rhythm, about.snr_db))
    return strips


def with_noise(strips: list[Strip], kinds: list[str], cut: Cut, bank="") -> list[Strip]:
    """Each strip as it is and with noise of one of `kinds` (of `noise.KINDS`) at one of the levels of the stress test.

    bank: packed noise of `noise.pack_bank` at cut.fs Hz; "": simulated noise. Kinds and levels take turns; a level is
    that of `noise.mix`: variance of the strip over power of the noise.
    """
    require_known("noise", kinds, noise.KINDS, "kinds")
    torch.manual_seed(cut.seed)
    both = []
    for number, strip in enumerate(strips):
        kind = kinds[number % len(kinds)]
        level = float(nstdb.SNR_DB[number // len(kinds) % len(nstdb.SNR_DB)])
        track = noise.draw(kind, (1, len(strip.x)), cut.fs, str(bank))
        x = noise.mix(torch.from_numpy(np.ascontiguousarray(strip.x))[None], track, level)[0].numpy()
        both += [strip, replace(strip, x=x, snr_db=level, record_id=f"{strip.record_id} {kind} {level:g} dB")]
    return both


def stress_strips(root, noise_root, cut: Cut, lead: str = "II") -> list[Strip]:
    """The noise stress test: records 118 and 119 of MIT-BIH, electrode motion added as `stressed` does.

    root: of MIT-BIH; noise_root: of NSTDB, for its record em. Of the clean parts, which are the same at all six levels,
    those of the highest are taken. Left out are windows across an edge of a part, and those after the first 60 % of the
    time, whose noise is that of `noise.pack_bank` (part "test").
    """
    rows, strips, share = mitdb.records(root), [], noise.PARTS["train"][1]
    track = wfdb_io.read(Path(noise_root) / noise.RECORDS["electrode"]).signal[0]
    for row in rows[rows.record_id.isin(nstdb.PATIENTS)].itertuples():
        recording, marks = mitdb.read(row), _marks(row)
        x = recording.signal[recording.leads.index(lead)]
        seconds = len(x) / recording.fs
        spans = nstdb.noisy_spans(seconds)
        for snr in nstdb.SNR_DB:
            noisy = stressed(x, _beats(marks), track, recording.fs, snr)
            for strip in _annotated(row, noisy, recording.fs, marks, cut, lead):
                stop = strip.start_s + cut.seconds
                level = _level(spans, strip.start_s, stop, snr) if stop <= share * seconds else None
                if level is not None and (level < np.inf or snr == max(nstdb.SNR_DB)):
                    strips.append(replace(strip, snr_db=level, record_id=f"{row.record_id} em {snr} dB"))
    return strips


def _level(spans, start: float, end: float, snr_db: float) -> float | None:
    """snr_db inside a noisy part, infinity outside all, None across an edge."""
    if any(first <= start and end <= last for first, last in spans):
        return float(snr_db)
    return np.inf if all(end <= first or last <= start for first, last in spans) else None
