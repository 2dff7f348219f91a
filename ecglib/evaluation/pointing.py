"""Does an explanation point at the wave and lead that a statement is about? Attributions scored against known waves.

Every sample of a lead belongs to one of SEGMENTS, by the simulator's own wave boundaries or by those that readers drew.
TRUTH says which segments and leads a statement is read from. The score of an attribution is its lift: the share of its
absolute values that lies inside, over the share that a uniform map has there; 1 is what ignorance scores. Lifts are
averaged as logarithms, over the records of a statement and then over statements; patients are the unit of intervals.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError, datasets, require_known
from ecglib.data import annotations
from ecglib.data.labels import PRESENT
from ecglib.data.recording import LEADS
from ecglib.evaluation import bootstrap
from ecglib.evaluation.metrics import mean_known

# TQ: from the end of T to the next P wave or QRS. Q: the first 40 ms of QRS. V, A: the whole of a premature beat.
SEGMENTS = ("TQ", "P", "PR", "Q", "QRS", "ST", "T", "V", "A")
UNSCORED = -1  # before the first and behind the last wave that a reader has marked
Q_SECONDS = 0.04
ADJACENT = {("P", "QRS"): ("PR", 0.35), ("QRS", "T"): ("ST", 0.35)}  # what lies between two waves, seconds at most
LEAST_LIFT = 0.01  # a lower one counts as this: a logarithm has no zero
BOTH, WAVE, LEAD = "wave and lead", "wave", "lead"

LIMB = "I II III aVR aVL aVF"
BUNDLE = "Surawicz et al. 2009, doi:10.1161/CIRCULATIONAHA.108.191095"
CHAMBERS = "Hancock et al. 2009, doi:10.1161/CIRCULATIONAHA.108.191097"
INFARCT = "Thygesen et al. 2018, doi:10.1161/CIR.0000000000000617"
REPOLARISATION = "Rautaharju et al. 2009, doi:10.1161/CIRCULATIONAHA.108.191096"
ATRIAL = "January et al. 2014, doi:10.1161/CIR.0000000000000041"
PACE = "Kusumoto et al. 2019, doi:10.1161/CIR.0000000000000628"


class Truth(NamedTuple):
    """Where a statement is read."""

    segments: str  # names of SEGMENTS
    leads: str  # names, "" = any
    source: str
    key: str = ""  # name in the common vocabulary


TRUTH = {
    "AFIB": Truth("TQ P PR", "", ATRIAL, "atrial_fibrillation"),  # fibrillatory waves in the place of P waves
    "AFLT": Truth("TQ P PR", "", ATRIAL, "atrial_flutter"),
    "1AVB": Truth("P PR", "", PACE, "av_block_1"),
    "LAO/LAE": Truth("P", "II V1", CHAMBERS, "left_atrial_enlargement"),
    "RAO/RAE": Truth("P", "II III aVF V1", CHAMBERS, "right_atrial_enlargement"),
    "CLBBB": Truth("Q QRS", "I aVL V1 V2 V5 V6", BUNDLE, "lbbb"),
    "ILBBB": Truth("Q QRS", "I aVL V1 V2 V5 V6", BUNDLE, "lbbb_incomplete"),
    "CRBBB": Truth("Q QRS", "I V1 V2 V6", BUNDLE, "rbbb"),
    "IRBBB": Truth("Q QRS", "I V1 V2 V6", BUNDLE, "rbbb_incomplete"),
    "LAFB": Truth("Q QRS", "I II III aVL aVF", BUNDLE, "lafb"),
    "LPFB": Truth("Q QRS", "I II III aVL aVF", BUNDLE, "lpfb"),
    "IVCD": Truth("Q QRS", "", BUNDLE, "ivcd"),
    "WPW": Truth("PR Q QRS", "", BUNDLE, "wpw"),
    "LVH": Truth("Q QRS", "aVL V1 V3 V5 V6", CHAMBERS, "lvh"),
    "VCLVH": Truth("Q QRS", "aVL V1 V3 V5 V6", CHAMBERS, "lvh_voltage"),
    "RVH": Truth("Q QRS", "I V1 V5 V6", CHAMBERS, "rvh"),
    "LVOLT": Truth("Q QRS", LIMB, CHAMBERS, "low_qrs_voltage"),
    "IMI": Truth("Q T", "II III aVF", INFARCT, "mi_inferior"),  # Q waves, and T waves that turn with them
    "ASMI": Truth("Q T", "V1 V2 V3", INFARCT),
    "AMI": Truth("Q T", "V2 V3 V4", INFARCT),
    "ALMI": Truth("Q T", "V3 V4 V5 V6 I aVL", INFARCT),
    "LMI": Truth("Q T", "I aVL V5 V6", INFARCT, "mi_lateral"),
    "ILMI": Truth("Q T", "II III aVF I aVL V5 V6", INFARCT),
    "mi_anterior_any": Truth("Q T", "V1 V2 V3 V4", INFARCT),
    "ISCAL": Truth("ST T", "I aVL V3 V4 V5 V6", REPOLARISATION),
    "ISCIN": Truth("ST T", "II III aVF", REPOLARISATION),
    "STD_": Truth("ST", "", REPOLARISATION, "st_depression"),
    "STE_": Truth("ST", "", INFARCT, "st_elevation"),
    "INVT": Truth("T", "", REPOLARISATION, "t_wave_inversion"),
    "LOWT": Truth("T", "I II V4 V5 V6", REPOLARISATION),
    "LNGQT": Truth("ST T", "", REPOLARISATION, "long_qt"),
    "PVC": Truth("V", "", BUNDLE, "pvc"),
    "PAC": Truth("A", "", ATRIAL, "pac"),
    "CD": Truth("PR Q QRS", "", BUNDLE),
    "HYP": Truth("Q QRS", "", CHAMBERS),
    "MI": Truth("Q ST T", "", INFARCT),
    "STTC": Truth("ST T", "", REPOLARISATION),
}
BY_NAME = TRUTH | {truth.key: truth for truth in TRUTH.values() if truth.key}


def simulated_waves(folder, rates) -> pd.DataFrame:
    """The waves of a simulated hospital: record_id, lead ("" = all), wave (P, QRS, T), kind (N, V, A), on, off (s).

    folder: of the hospital in data/; rates: record_id -> Hz, only these records. EcgError where the truth is not there.
    """
    needs = ("record_id", "class", "p_on", "p_off", "qrs_on", "qrs_off", "t_on", "t_off")
    beats = datasets.table(Path(folder) / "beats.csv", needs, dtype={"record_id": str})
    beats = beats[beats.record_id.isin(rates)]
    fs, parts = beats.record_id.map(rates).to_numpy(float), []
    for wave in ("P", "QRS", "T"):
        on, off = (beats[f"{wave.lower()}_{end}"].to_numpy(float) for end in ("on", "off"))
        part = beats[["record_id"]].assign(lead="", wave=wave, kind=beats["class"].replace("E", "N"))
        parts.append(part.assign(on=np.maximum(on, 0) / fs, off=off / fs)[off >= 0])
    return pd.concat(parts).sort_values(["record_id", "on"], ignore_index=True)


def ludb_waves(folder, rates) -> pd.DataFrame:
    """As `simulated_waves`, of LUDB, whose readers marked each lead: one annotation file a lead, `data/1.v1`."""
    rows = []
    for record_id, fs in rates.items():
        for lead in LEADS:
            notes = annotations.read(Path(folder) / "data" / f"{record_id}.{lead.lower()}")
            rows += [(record_id, lead, *wave) for wave in _marked(notes, fs)]
    table = pd.DataFrame(rows, columns=["record_id", "lead", "wave", "on", "off"])
    return table.assign(kind="N").sort_values(["record_id", "lead", "on"], ignore_index=True)


def _marked(notes, fs: float):
    """(wave, on, off) in seconds of marks "(", peak, ")"; a peak without both of its ends is left out."""
    names = {"p": "P", "N": "QRS", "t": "T"}
    symbols = list(notes.symbols)
    for at in range(1, len(symbols) - 1):
        if symbols[at] in names and (symbols[at - 1], symbols[at + 1]) == ("(", ")"):
            yield names[symbols[at]], notes.samples[at - 1] / fs, notes.samples[at + 1] / fs


SOURCES = {"simulated": simulated_waves, "ludb": ludb_waves}


def waves(source: str, folder, rates) -> pd.DataFrame:
    """The table of `simulated_waves` or `ludb_waves`; source: of SOURCES."""
    require_known("source of waves", [source], SOURCES, "source")
    return SOURCES[source](folder, dict(rates))


def segments(table, record_ids, leads, n_times: int, fs: float, start_s=0.0) -> np.ndarray:
    """The number in SEGMENTS of every sample, or UNSCORED: int8 (record, lead, time).

    table: of `waves`; record_ids: in the order of the result; leads: names; fs: Hz; start_s: seconds of the record
    before the first sample, of each (record,) or of all.
    """
    leads, by_record = list(leads), dict(tuple(table.groupby("record_id", sort=False)))
    missing = [name for name in record_ids if name not in by_record]
    if missing:
        reason = f"no wave of {len(missing)} records, such as {missing[0]}"
        raise EcgError(reason, field="waves", fix="take records whose waves are known")
    starts = np.broadcast_to(np.asarray(start_s, float), len(record_ids))
    out = np.full((len(record_ids), len(leads), n_times), SEGMENTS.index("TQ"), np.int8)
    for record, start, signal in zip(record_ids, starts, out, strict=True):
        for lead, part in by_record[record].groupby("lead", sort=False):
            if lead and lead not in leads:
                continue
            rows = signal if not lead else signal[leads.index(lead)][None]
            _paint(rows, part, lambda seconds, start=start: int(round((seconds - start) * fs)))
    return out


def _paint(rows, part, at) -> None:
    """Write the segments of one lead, or of all where waves are the same in all, into rows (lead, time)."""
    code, n = SEGMENTS.index, rows.shape[1]
    found = part.sort_values("on")[["wave", "kind", "on", "off"]].to_numpy()
    if part["lead"].iloc[0]:  # a reader: what he has not reached says nothing
        rows[:, : max(0, at(found[0][2]))] = UNSCORED
        rows[:, min(n, at(found[-1][3]) + 1) :] = UNSCORED
    for (wave, kind, on, off), after in zip(found, [*found[1:], None], strict=True):
        first, last = max(0, at(on)), max(0, at(off) + 1)
        rows[:, first:last] = code(wave if kind == "N" else kind)
        if wave == "QRS" and kind == "N":
            rows[:, first : max(0, min(last, at(on + Q_SECONDS)))] = code("Q")
        between = ADJACENT.get((wave, after[0])) if after is not None and after[1] == kind else None
        if between and after[2] - off <= between[1]:
            rows[:, last : max(0, at(after[2]))] = code(between[0] if kind == "N" else kind)


def inside(statement: str, segments_of, leads, what: str = BOTH) -> np.ndarray:
    """Where a statement is read: bool (record, lead, time) of segments_of, as `segments` gives them.

    what: BOTH, or WAVE in whatever lead, or LEAD at whatever time. EcgError for a statement without an entry in TRUTH.
    """
    require_known("statement", [statement], BY_NAME, "statements")
    truth = BY_NAME[statement]
    in_wave = np.isin(segments_of, [SEGMENTS.index(name) for name in truth.segments.split()])
    in_lead = np.array([not truth.leads or name in truth.leads.split() for name in leads])[:, None]
    scored = segments_of != UNSCORED
    return scored & (in_wave if what != LEAD else True) & (in_lead if what != WAVE else True)


def states(cohort, rows, labels, corpus=None) -> np.ndarray:
    """States of statements int8 (row, label): of the cohort, or from its corpus where it was packed with others.

    labels: their names; corpus: {"dataset": name, "root": folder} and options of its `labels`, such as label_set.
    """
    if not corpus:
        return cohort.states(labels, rows)
    options = {name: value for name, value in corpus.items() if name not in ("dataset", "root")}
    records = cohort.records.iloc[np.asarray(rows)]
    table = datasets.get(corpus["dataset"]).labels(corpus["root"], records.drop_duplicates("record_id"), **options)
    require_known("statement", labels, list(table), "statements", cohort.name)
    return table.loc[list(records["record_id"]), list(labels)].to_numpy(np.int8)


def chosen(cohort, rows, truth, labels, per_label: int, seed: int = 0, least: int = 1) -> pd.DataFrame:
    """Records that have a statement, at most `per_label` of each, one of a patient: row, record_id, patient_id, label.

    rows: numbers of the cohort; truth: int8 (row, label) of `states`; labels: their names; least: one with fewer
    patients is left out. The draw depends on the seed and the rows alone. EcgError where nothing is left.
    """
    table, out = cohort.records.iloc[np.asarray(rows)], []
    for k, label in enumerate(labels):
        having = table[(np.asarray(truth)[:, k] == PRESENT)]
        having = having.sample(frac=1, random_state=seed).drop_duplicates("patient_id")
        if len(having) >= least:
            having = having.head(per_label)
            out.append(having[["record_id", "patient_id"]].assign(row=having.index, label=label).sort_values("row"))
    if not out:
        raise EcgError(f"no statement has {least} patients", field="least", fix="ask for fewer, or other statements")
    return pd.concat(out, ignore_index=True)


def of_regions(attribution, region, scored) -> dict:
    """How much of each attribution lies inside: name -> float (record,).

    attribution: (record, lead, time); region: bool, the true place; scored: bool, what counts at all. share: of the
    absolute values; area: share of the samples; lift: share / area, LEAST_LIFT at least; hit: whether the highest value
    lies inside (pointing game, Zhang et al. 2016, arXiv 1608.00507). NaN where the region is empty or all there is, or
    the attribution is zero.
    """
    size = torch.as_tensor(attribution).abs().numpy() * scored
    total, area = size.sum((1, 2), dtype=float), (region & scored).sum((1, 2)) / np.maximum(scored.sum((1, 2)), 1)
    usable = (area > 0) & (area < 1) & (total > 0)
    share = np.where(usable, (size * region).sum((1, 2), dtype=float) / np.where(total > 0, total, 1), np.nan)
    lift = np.maximum(share / np.where(usable, area, 1), LEAST_LIFT)
    highest = size.reshape(len(size), -1).argmax(1)
    hit = np.take_along_axis(region.reshape(len(size), -1), highest[:, None], 1)[:, 0]
    return {"share": share, "area": area, "lift": lift, "hit": np.where(usable, hit, np.nan)}


def pointing(made: dict, asked, segments_of, leads) -> pd.DataFrame:
    """The scores of `of_regions` for every attribution, record and WHAT: a row each.

    made: method -> (record, lead, time); asked: of `chosen`, a row per record of these; segments_of: of the same.
    Returns pair (the row of asked), patient_id, label, what, method, share, area, lift, hit, log_lift.
    """
    scored, parts = segments_of != UNSCORED, []
    for what in (BOTH, WAVE, LEAD):
        region = np.zeros(segments_of.shape, bool)
        for label, rows in asked.groupby("label").indices.items():
            region[rows] = inside(label, segments_of[rows], leads, what)
        for method, attribution in made.items():
            about = asked[["patient_id", "label"]].assign(pair=np.arange(len(asked)), what=what, method=method)
            parts.append(about.assign(**of_regions(attribution, region, scored)))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(log_lift=np.log2(table["lift"]))


def by_segment(attribution, segments_of) -> np.ndarray:
    """Which waves an attribution lies on: shares of its absolute values float (record, segment), in SEGMENTS' order."""
    size = torch.as_tensor(attribution).abs().numpy()
    sums = np.stack([(size * (segments_of == k)).sum((1, 2), dtype=float) for k in range(len(SEGMENTS))], 1)
    return sums / np.maximum(sums.sum(1, keepdims=True), np.finfo(float).tiny)


def segment_shares(made: dict, asked, segments_of, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """`by_segment` of every attribution and of a uniform map, averaged by statement, with intervals over patients.

    made, asked, segments_of: as of `pointing`. Returns label, method, segment, point, low, high, without the
    segments that no record has.
    """
    uniform = {"uniform": torch.ones(segments_of.shape)}
    seen = [k for k in range(len(SEGMENTS)) if (segments_of == k).any()]
    parts = []
    for method, attribution in (made | uniform).items():
        shares = by_segment(attribution, segments_of)
        about = asked[["patient_id", "label"]].assign(pair=np.arange(len(asked)), method=method)
        parts += [about.assign(segment=SEGMENTS[k], share=shares[:, k]) for k in seen]
    table, out = pd.concat(parts, ignore_index=True), []
    for label, mine in table.groupby("label", sort=False):
        found = drawn(mine, ["method", "segment"], "share", n, seed)
        out.append(summary(found, ["method", "segment"]).assign(label=label))
    return pd.concat(out, ignore_index=True)


def rank_correlation(one, other) -> np.ndarray:
    """Spearman's correlation of two attributions (record, cell), record by record: (record,); ties share their rank."""
    a, b = (pd.DataFrame(np.asarray(values)).rank(axis=1).to_numpy() for values in (one, other))
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (a, b))
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.where(size > 0, (a * b).sum(1) / np.where(size > 0, size, 1), np.nan)


def drawn(table, keys, value: str, n: int = 1000, seed: int = 0) -> dict:
    """Mean of a score over statements, with its resamples: {key: bootstrap.Interval}, key a tuple of `keys`.

    table: pair, patient_id, label, columns `keys`, and the column `value`. A record's weight is one within its
    statement, a statement's one within the mean; one that lost all patients in a resample is left out of it. All keys
    share their resamples, so that their differences are paired.
    """
    wide = table.pivot(index="pair", columns=list(keys), values=value).sort_index()
    about = table.drop_duplicates("pair").set_index("pair").loc[wide.index]
    names, codes = np.unique(about["label"].astype(str), return_inverse=True)
    values, patients = wide.to_numpy(float), about["patient_id"].to_numpy()
    whole = _over_statements(values, codes, len(names), np.ones((len(values), 1)))[0]
    blocks = bootstrap.resamples(len(values), patients, n, seed)
    replicates = np.concatenate([_over_statements(values, codes, len(names), weights) for _, weights in blocks])
    columns = [key if isinstance(key, tuple) else (key,) for key in wide.columns]
    return {key: bootstrap.interval(whole[k], replicates[:, k]) for k, key in enumerate(columns)}


def _over_statements(values, codes, n_names: int, weights) -> np.ndarray:
    """(replicate, column) means over statements of weighted means of values (record, column) over their records."""
    known, means = ~np.isnan(values), []
    for code in range(n_names):
        rows = codes == code
        total = weights[rows].T @ np.where(known, values, 0)[rows]
        count = weights[rows].T @ known[rows].astype(float)
        means.append(np.where(count > 0, total / np.where(count > 0, count, 1), np.nan))
    means = np.stack(means, -1)
    return mean_known(means.reshape(-1, n_names)).reshape(means.shape[:2])


def summary(scores: dict, names, power: bool = False) -> pd.DataFrame:
    """Table of `drawn`: columns `names` for the key, then point, low, high; power: 2 to each, for logarithms."""
    rows = []
    for key, one in scores.items():
        numbers = np.array(one[:3])
        rows.append((*key, *(2**numbers if power else numbers)))
    return pd.DataFrame(rows, columns=[*names, "point", "low", "high"])


def differences(scores: dict, pairs: dict, names) -> pd.DataFrame:
    """Paired differences of scores of `drawn`: columns `names` for the key, then gain, low, high, p, p_holm.

    pairs: key -> key of what it is compared with; p: two-sided from the resamples, p_holm: adjusted for all of them.
    """
    rows = []
    for key, other in pairs.items():
        one = bootstrap.interval(
            scores[key].point - scores[other].point, scores[key].replicates - scores[other].replicates
        )
        rows.append((*key, *one[:3], bootstrap.two_sided(one.replicates)))
    table = pd.DataFrame(rows, columns=[*names, "gain", "low", "high", "p"])
    return table.assign(p_holm=bootstrap.holm(table["p"]))
