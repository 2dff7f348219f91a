"""What one wants to know of packed cohorts before any model: who was recorded, what is missing, what leaks, what
differs. Every function takes {name: open Cohort} and gives a table.

These tables describe; nothing is fitted or chosen by them. `who`, `missing`, `defects`, `leaks` and `statements` count
every record of every split, as the description of a data set does. What looks at signals (`spectra`, `signal_quality`,
`examples`) leaves the split "test" out and reads no label of a closed split. External cohorts have the one split
"external": their signals are described, since how they differ from home is the question; `examples` leaves them out.
"""

import hashlib

import numpy as np
import pandas as pd
from scipy import signal as sps

from ecglib import labels, quality
from ecglib.signals import EcgError, Recording
from ecglib.windows import unpack_bits

QUALITY = {"amplitude_mv": "amplitude (mV)", "drift_mv": "drift below 0.5 Hz (mV)"}


def who(cohorts: dict) -> pd.DataFrame:
    """One column per cohort: counts, rate, length, age (median and quartiles), share of men, refused records.

    `cohorts`: name -> open Cohort. Shares are of the records in which the value is known.
    """
    return pd.DataFrame({name: _who(cohort) for name, cohort in cohorts.items()}).rename_axis("fact")


def _who(cohort) -> dict:
    table = cohort.records.drop_duplicates("record_id")
    quartiles = table.age.quantile([0.5, 0.25, 0.75]).to_list() if table.age.notna().any() else None
    male = (table.sex == "male")[table.sex.isin(["male", "female"])]
    return {
        "records": len(table),
        "refused at packing": len(cohort.rejected),
        "windows": len(cohort),
        "patients": table.patient_id.nunique(),
        "records per patient, most": int(table.patient_id.value_counts().max()),
        "leads": ", ".join(cohort.leads) if len(cohort.leads) < 12 else "all 12",
        "recorded at (Hz)": ", ".join(f"{f:g}" for f in sorted(table.fs_recorded.unique())),
        "age, median (quartiles)": "not known" if quartiles is None else "{:.0f} ({:.0f} to {:.0f})".format(*quartiles),
        "men": "not known" if male.empty else f"{male.mean():.0%}",
        "with a report": int((table.report.fillna("") != "").sum()),
    }


def missing(cohorts: dict, columns) -> pd.DataFrame:
    """Share of records without a value, by metadata column (rows) and cohort; 1 where the column is not there."""
    tables = {name: c.records.drop_duplicates("record_id") for name, c in cohorts.items()}
    return pd.DataFrame(
        {n: {c: t[c].replace("", np.nan).isna().mean() if c in t else 1.0 for c in columns} for n, t in tables.items()}
    )


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


def leaks(cohorts: dict, development: str) -> pd.DataFrame:
    """Leak scan: a row per question, with how many were found and among how many.

    Patients of the `development` cohort in more than one split; identical tracings (hash of the stored samples of a
    window) in different splits of it or in another cohort.
    """
    home = cohorts[development]
    table = home.records
    splits = table.groupby("patient_id")["split"].nunique()
    rows = [[f"patients of {development} in two splits", int((splits > 1).sum()), len(splits)]]
    prints = {name: _prints(c) for name, c in cohorts.items()}
    own = pd.DataFrame({"print": prints[development], "split": table.split.to_numpy()})
    crossing = own.groupby("print")["split"].nunique()
    rows.append([f"identical tracings in two splits of {development}", int((crossing > 1).sum()), len(own)])
    for name in cohorts:
        if name != development:
            shared = set(prints[name]) & set(prints[development])
            rows.append([f"tracings of {name} that are also in {development}", len(shared), len(prints[name])])
    return pd.DataFrame(rows, columns=["question", "found", "among"])


def _prints(cohort) -> list[str]:
    return [hashlib.sha256(np.ascontiguousarray(cohort.signals[i])).hexdigest() for i in range(len(cohort))]


def spectra(cohorts: dict, lead: str = "I", most: int = 400, seed: int = 0) -> pd.DataFrame:
    """Power spectral density of one lead by cohort: median and quartiles over at most `most` drawn windows.

    Columns cohort, hz, db, low, high (dB re 1 mV^2/Hz; Welch, 4 s windows). Windows without the lead and those of the
    split "test" are left out; the rows of an external cohort are all "external" and are used. No label is read.
    Raises EcgError for a cohort of which nothing is left.
    """
    frames = []
    for name, cohort in cohorts.items():
        rows = _drawn(name, cohort, [lead], most, seed)
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


def statements(cohorts: dict, min_positives: int = 0) -> pd.DataFrame:
    """How often each statement is present, over the records of all splits; see `labels.prevalence`.

    Columns cohort, label, positives, known (present or absent), prevalence = positives / known, possible, unknown
    (records that count in neither). Labels of which a cohort says nothing are left out. The closed splits are counted
    too, to describe the corpus: which labels are trained or probed is decided from the training rows elsewhere.
    """
    names = {"present": "positives", "share": "prevalence", "index": "label"}
    tables = []
    for name, cohort in cohorts.items():
        table = labels.prevalence(cohort.labels).reset_index().rename(columns=names)
        table.insert(0, "cohort", name)
        table["known"] = table.positives + table.absent
        tables.append(table[(table.known + table.possible > 0) & (table.positives >= min_positives)])
    columns = ["cohort", "label", "positives", "known", "prevalence", "possible", "unknown"]
    return pd.concat(tables, ignore_index=True)[columns]


def examples(cohort, wanted, seed: int = 0) -> dict[str, int]:
    """One row per wanted label that is present, with all leads recorded and outside the closed splits: label -> row."""
    open_rows = np.flatnonzero(~cohort.records.split.isin(["test", "external"]))
    whole = open_rows[cohort.lead_mask(open_rows).all(1)]
    rng, found = np.random.default_rng(seed), {}
    for label in wanted:
        if label in cohort.labels:
            rows = whole[cohort.states([label], whole)[:, 0] == labels.PRESENT]
            if len(rows):
                found[label] = int(rng.choice(rows))
    return found


def signal_quality(cohorts: dict, most: int = 400, seed: int = 0) -> pd.DataFrame:
    """Median and 5-95 % range of `quality.assess` over at most `most` drawn windows, a column per cohort.

    Windows of the split "test" are left out, external cohorts are used; no label is read. Raises EcgError for a cohort
    of which nothing is left.
    """
    columns = {}
    for name, cohort in cohorts.items():
        rows = _drawn(name, cohort, None, most, seed)
        facts = pd.DataFrame([quality.assess(_recording(cohort, row)) for row in rows])
        low, mid, high = facts[list(QUALITY)].quantile([0.05, 0.5, 0.95]).to_numpy()
        texts = [f"{m:.2f} ({a:.2f} to {b:.2f})" for m, a, b in zip(mid, low, high, strict=True)]
        columns[name] = dict(zip(QUALITY.values(), texts, strict=True))
        columns[name]["windows with a clipped lead"] = f"{(facts.n_clipped > 0).mean():.1%}"
    return pd.DataFrame(columns)


def _recording(cohort, row: int) -> Recording:
    mask = cohort.lead_mask([row])[0]
    return Recording(cohort.batch([row])[0], cohort.fs, cohort.leads, mask, str(cohort.records.record_id[row]))
