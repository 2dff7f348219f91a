"""Packed cohorts described before any model: patients, missing values, defects, leaks, differences between hospitals.

Every function takes {name: open Cohort} and gives a table; nothing is fitted or chosen by them. `who`, `missing`,
`defects`, `leaks` and `statements` count every record of every split. What looks at signals (`spectra`,
`signal_quality`, `examples`) leaves the split "test" out and reads no label of a closed split. The signals of external
cohorts are described, since how they differ from home is the question; `examples` leaves them out.
"""

import numpy as np
import pandas as pd
from scipy import signal as sps

from ecglib import EcgError, require_known
from ecglib.data import labels, notebook, quality
from ecglib.data import leaks as scan
from ecglib.data.packing import unpack_bits
from ecglib.data.recording import Recording
from ecglib.reporting.tables import with_interval

CONTRACT = {"einthoven": "III = II - I, error (95th)", "goldberger": "aVR, aVL, aVF, error (95th)"}
QUALITY = {"amplitude_mv": "amplitude (mV)", "drift_mv": "drift below 0.5 Hz (mV)"}


def who(cohorts: dict) -> pd.DataFrame:
    """One column per cohort: counts, rate, age, share of men; shares are of the records whose value is known."""
    return pd.DataFrame({name: _who(cohort) for name, cohort in cohorts.items()}).rename_axis("fact")


def _who(cohort) -> dict:
    table = cohort.records.drop_duplicates("record_id")
    ages = table.age.dropna()
    quartiles = ages.quantile([0.5, 0.25, 0.75])
    male = (table.sex == "male")[table.sex.isin(["male", "female"])]
    return {
        "records": len(table),
        "refused at packing": len(cohort.rejected),
        "windows": len(cohort),
        "patients": table.patient_id.nunique(),
        "records per patient, most": int(table.patient_id.value_counts().max()),
        "leads": ", ".join(cohort.leads) if len(cohort.leads) < 12 else "all 12",
        "recorded at (Hz)": ", ".join(f"{f:g}" for f in sorted(table.fs_recorded.unique())),
        "age, median (quartiles)": with_interval(*quartiles, digits=0) if len(ages) else "not known",
        "men": "not known" if male.empty else f"{male.mean():.0%}",
        "with a report": int((table.report.fillna("") != "").sum()),
    }


def missing(cohorts: dict, columns) -> pd.DataFrame:
    """Share of records without a value, by metadata column (rows) and cohort; 1 where the column is not there."""
    shares = {}
    for name, cohort in cohorts.items():
        table = cohort.records.drop_duplicates("record_id").reindex(columns=columns)
        shares[name] = table.replace("", np.nan).isna().mean()
    return pd.DataFrame(shares)


def defects(cohorts: dict) -> pd.DataFrame:
    """Windows kept and marked, by cohort: flat or missing leads, interpolated gaps, clipped samples, padding."""
    rows = {}
    for name, cohort in cohorts.items():
        table, n_leads = cohort.records, len(cohort.leads)
        rows[name] = {
            "windows": len(table),
            "a flat or missing lead": int((~unpack_bits(table.lead_mask, n_leads)).any(1).sum()),
            "a short gap, interpolated": int((table.gap_mask > 0).sum()),
            "clipped": int((table.clipped_mask > 0).sum()),
            "shorter than the window": int((table.n_valid < cohort.signals.shape[2]).sum()),
            "no R peak found": int((~table.row.isin(cohort.beats.row)).sum()),
        }
    return pd.DataFrame(rows)


def leaks(cohorts: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Leak scan of all splits: a row per question (question, found, among), and the pairs of records that show one
    tracing, also where it was scaled, shifted or filtered (`ecglib.data.leaks`)."""
    corpora = [scan.of_cohort(c) for c in cohorts.values()]
    n_comparisons = len(corpora) * (len(corpora) + 1) // 2
    with notebook.bar("copies", n_comparisons, "comparison", delay=notebook.QUIET_S, leave=False) as bar:
        pairs = scan.copies(corpora, progress=lambda done, total: bar.update())
    return scan.summary(corpora, pairs), pairs


def spectra(cohorts: dict, lead: str = "I", most: int = 400, seed: int = 0) -> pd.DataFrame:
    """Power spectral density of one lead by cohort: median and quartiles over at most `most` drawn windows.

    Columns cohort, hz, db, low, high (dB re 1 mV^2/Hz; Welch, 4 s windows). Windows without the lead are left out. Of a
    corpus that never records it, its first lead is taken, and named behind the cohort. Raises EcgError for a cohort of
    which nothing is left.
    """
    frames, wanted = [], lead
    for name, cohort in cohorts.items():
        lead = wanted if wanted in cohort.leads else cohort.leads[0]
        rows = _drawn(name, cohort, [lead], most, seed)
        name = name if lead == wanted else f"{name} (lead {lead})"
        hz, power = sps.welch(cohort.batch(rows, [lead])[:, 0], cohort.fs, nperseg=round(4 * cohort.fs))
        db = 10 * np.log10(np.quantile(power, [0.5, 0.25, 0.75], axis=0) + 1e-12)
        frames.append(pd.DataFrame({"cohort": name, "hz": hz, "db": db[0], "low": db[1], "high": db[2]}).iloc[1:])
    return pd.concat(frames, ignore_index=True)


def _drawn(name: str, cohort, leads, most: int, seed: int) -> np.ndarray:
    """At most `most` random rows outside the split "test" in which all of `leads` were recorded, in order."""
    rows = np.flatnonzero(cohort.records.split != "test")
    rows = rows[cohort.lead_mask(rows, leads).all(1)] if leads else rows
    if not len(rows):
        lacks = f" has {', '.join(leads)}" if leads else ""
        raise EcgError(f"no row of {name} outside the split test{lacks}", field="split")
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def statements(cohorts: dict) -> pd.DataFrame:
    """How often each statement is present, over the records of all splits; see `labels.prevalence`.

    Columns cohort, label, positives, known (present or absent), prevalence = positives / known, possible, unknown
    (records that count in neither). Labels of which a cohort says nothing are left out.
    """
    names, tables = {"present": "positives", "share": "prevalence", "index": "label"}, []
    for name, cohort in cohorts.items():
        table = labels.prevalence(cohort.labels).reset_index().rename(columns=names)
        table.insert(0, "cohort", name)
        table["known"] = table.positives + table.absent
        tables.append(table[table.known + table.possible > 0])
    columns = ["cohort", "label", "positives", "known", "prevalence", "possible", "unknown"]
    return pd.concat(tables, ignore_index=True)[columns]


def examples(cohort, wanted, seed: int = 0) -> dict[str, int]:
    """One row per wanted label that is present, outside the closed splits and with all leads recorded: label -> row.

    Of a corpus whose records never have all of its leads, those with the most are taken, such as two of MIT-BIH's five.
    A label of which there is no such record is left out; EcgError for one that the cohort does not state at all.
    """
    require_known("statement", wanted, list(cohort.labels), "gallery", cohort.name)
    open_rows = np.flatnonzero(~cohort.records.split.isin(["test", "external"]))
    recorded = cohort.lead_mask(open_rows).sum(1)
    whole = open_rows[recorded == _most_leads(cohort)]
    rng, chosen = np.random.default_rng(seed), {}
    for label in wanted:
        rows = whole[cohort.states([label], whole)[:, 0] == labels.PRESENT]
        if len(rows):
            chosen[label] = int(rng.choice(rows))
    return chosen


def _most_leads(cohort) -> int:
    """How many of its leads a cohort has recorded at once, at most."""
    return int(cohort.lead_mask(np.arange(len(cohort))).sum(1).max())


def signal_quality(cohorts: dict, most: int = 400, seed: int = 0) -> pd.DataFrame:
    """Median and 5-95 % range of `quality.assess` over at most `most` drawn windows, a column per cohort."""
    columns = {}
    for name, cohort in cohorts.items():
        rows = _drawn(name, cohort, None, most, seed)
        facts = pd.DataFrame([quality.assess(_recording(cohort, row)) for row in rows])
        low, mid, high = facts[list(QUALITY)].quantile([0.05, 0.5, 0.95]).to_numpy()
        texts = [with_interval(*ends, digits=2) for ends in zip(mid, low, high, strict=True)]
        columns[name] = dict(zip(QUALITY.values(), texts, strict=True))
        columns[name]["windows with a clipped lead"] = f"{(facts.n_clipped > 0).mean():.1%}"
    return pd.DataFrame(columns)


def signal_contract(cohorts: dict, most: int = 200, seed: int = 0) -> pd.DataFrame:
    """Whether leads are what their names say (`quality.contract`), over `most` drawn windows, a column per cohort.

    Rows: median and 95th percentile of the errors of Einthoven's and Goldberger's identities as a share of the limb
    leads, windows that do not keep them, bandwidth, line in the spectrum, and what is suspected in how many windows.
    These are packed windows, at the rate of the cohort: a wrong rate is seen as far as their spectrum shows it.
    """
    columns = {}
    for name, cohort in cohorts.items():
        facts = [quality.contract(_recording(cohort, row)) for row in _drawn(name, cohort, None, most, seed)]
        table = pd.DataFrame(facts)
        column = {}
        for key, title in CONTRACT.items():
            known = table[key].dropna()
            shown = f"{known.median():.3f} ({known.quantile(0.95):.3f})"
            column[title] = shown if len(known) else "cannot be told"
        kept = table[["einthoven", "goldberger"]].max(axis=1).dropna() <= quality.KEPT
        column["windows that keep both"] = f"{kept.mean():.1%}" if len(kept) else "cannot be told"
        column["bandwidth (Hz), median"] = f"{table.bandwidth_hz.median():.0f}"
        line = table.line_hz.dropna()
        column["windows with a line"] = f"{len(line)}, at {line.median():.1f} Hz" if len(line) else "0"
        suspects = pd.Series([word.split(":")[0] for words in table.suspects for word in words]).value_counts()
        column["suspects"] = ", ".join(f"{word} {count}" for word, count in suspects.items()) or "none"
        column["windows looked at"] = str(len(table))
        columns[name] = column
    return pd.DataFrame(columns)


def _recording(cohort, row: int) -> Recording:
    mask = cohort.lead_mask([row])[0]
    return Recording(cohort.batch([row])[0], cohort.fs, cohort.leads, mask, str(cohort.records.record_id[row]))
