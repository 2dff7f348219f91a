"""Whole simulated hospitals as WFDB files and CSV tables, the same bytes on every machine and with any worker count."""

import json
import os
from datetime import date
from numbers import Integral, Real

import joblib
import numpy as np
import pandas as pd
from joblib.externals import loky

from ecglib import EcgError, require_type, workers_started
from ecglib.data import wfdb_io
from ecglib.data.files import new_folder
from ecglib.data.recording import canonical
from ecgsim import arithmetic, criteria, device, holter, outcomes, patients, records, render, reports
from ecgsim.morphology import INDEPENDENT

CHUNK = 128
SEED = 2025  # of 12 tried, the one in which every label of A and B occurs
ONE_LEAD = "PACE AFIB AFLT SVTAC PSVT 3AVB 2AVB STACH SBRAD SARRH SR 1AVB PVC PAC BIGU TRIGU".split()
TABLES = ("records.csv", "labels.csv", "truth.csv", "beats.csv", "spans.csv")
BEAT_CLASS = ("N", "V", "V", "A", "E", "A")  # by rhythm kind; an early beat with its own P wave is A


def generate(out, hospitals=patients.SITES, workers=2, seed=SEED, scale=1.0, days=None, progress=None):
    """Write the hospitals below the folder `out`, replacing it only when everything is there.

    scale: share of the patients (the first ones; their records do not change). days: how many patients of hospital D
    wear a recorder, for how many hours, and whose signals are written (see `holter`): {patients: 30, hours: 24,
    signals: [1]}, none without. progress: called with (done, total).
    Returns the manifest (dict), also written as manifest.json. Raises EcgError for unknown hospitals, a bad scale or
    bad days.
    """
    require_type("hospitals", hospitals, (list, tuple), "list of names")
    require_type("workers", workers, Integral, "number of processes", least=1)
    require_type("seed", seed, Integral, "integer")
    require_type("scale", scale, Real, "number")
    unknown = [h for h in hospitals if h not in patients.SITES]
    if unknown or not hospitals or not 0 < scale <= 1:
        fix = f"hospitals among {', '.join(patients.SITES)}; 0 < scale <= 1"
        raise EcgError(f"cannot generate {list(hospitals)} at scale {scale}", field="hospitals", fix=fix)
    days = _checked_days(days)
    with new_folder(out, _written) as folder:
        counts = _write_all(folder, hospitals, workers, seed, scale, progress)
        manifest = {"spec_version": arithmetic.SPEC_VERSION, "seed": seed, "scale": scale, "hospitals": counts}
        if days:
            (folder / "D").mkdir()
            jobs = [(folder / "D", seed, k, days["hours"], k in days["signals"]) for k in range(days["patients"])]
            holter.table(folder / "D", list(_map(holter.write_day, jobs, workers)))
            manifest["days"] = days
        (folder / "manifest.json").write_bytes(f"{json.dumps(manifest, indent=1, sort_keys=True)}\n".encode())
    return manifest


def _checked_days(days) -> dict:
    """The days with a number for each patient whose signals are written; EcgError for what they cannot be."""
    if not days:
        return {}
    require_type("days", days, dict, "mapping")
    lacking = sorted({"patients", "hours", "signals"} ^ set(days))
    fix = "days: {patients: 30, hours: 24, signals: [1]}, the signals by number of patient"
    if lacking:
        raise EcgError(f"days with more or less than they need: {', '.join(lacking)}", field="days", fix=fix)
    require_type("patients", days["patients"], Integral, "number of patients", least=1)
    require_type("hours", days["hours"], Real, "number of hours", least=0.1)
    good = isinstance(days["signals"], list | tuple)
    good = good and all(isinstance(k, Integral) and 0 <= k < days["patients"] for k in days["signals"])
    if not good or days["hours"] > 24:
        raise EcgError(f"cannot write days {days}", field="days", fix=fix)
    return {"patients": int(days["patients"]), "hours": float(days["hours"]), "signals": list(days["signals"])}


def _written(folder):
    """Files of the hospitals in a folder, as its manifest.json and their RECORDS tell."""
    manifest = json.loads((folder / "manifest.json").read_text())
    names, n_days = manifest["hospitals"], manifest.get("days", {}).get("patients", 0)
    of_days = {f"D/D{k + 1:03d}.{end}" for k in range(n_days) for end in ("atr", "hea", "dat")} | {"D/days.csv"}
    records = [f"{name}/{record}" for name in names for record in (folder / name / "RECORDS").read_text().split()]
    files = {f"{name}/{file}" for name in names for file in ("RECORDS", "outcomes.csv", *TABLES)}
    return (
        {"manifest.json"} | files | of_days | {f"{record}.{end}" for record in records for end in ("hea", "dat", "mat")}
    )


def _write_all(folder, hospitals, workers, seed, scale, progress):
    cohorts, jobs = {}, []
    for name in hospitals:
        plan, meta = cohorts[name] = patients.cohort(name, seed, scale)
        names, who = meta["record_id"].tolist(), list(zip(meta["age"].tolist(), meta["sex"].tolist(), strict=True))
        for first in range(0, len(plan), 1000):
            (folder / name / "records" / f"{first // 1000:03d}").mkdir(parents=True)
        for a in range(0, len(plan), CHUNK):
            rows = np.arange(a, min(a + CHUNK, len(plan)))
            paths = [str(folder / name / record_path(names[i])) for i in rows]
            jobs.append((name, plan.take(rows), paths, [who[i] for i in rows]))
    results, done = {name: [] for name in hospitals}, 0
    for job, result in zip(jobs, _map(chunk, jobs, workers), strict=True):
        results[job[0]].append(result)
        done += len(job[2])
        if progress:
            progress(done, sum(len(j[2]) for j in jobs))
    return {name: _tables(folder / name, name, *cohorts[name], results[name]) for name in hospitals}


def _map(function, jobs, workers):
    """Results of a function in the order of the jobs; fresh processes, as a fork of a process with threads may hang."""
    if workers < 2:
        yield from (function(*job) for job in jobs)
        return
    try:
        with workers_started():
            results = joblib.Parallel(workers, return_as="generator")(joblib.delayed(function)(*job) for job in jobs)
        yield from results
    finally:  # no thread of the pool stays: who called may fork
        loky.get_reusable_executor().shutdown(kill_workers=True)


def record_path(record_id):
    """Path of a record below its hospital's folder, without extension: 'records/000/A00001'."""
    return f"records/{(int(record_id[1:]) - 1) // 1000:03d}/{record_id}"


def recorded(name, plan):
    """Simulate a plan on a hospital's device: (Batch, counts (record, lead, time), intervals off, noise RMS)."""
    site = patients.site_row(name)
    fs, leads = int(site["fs"]), INDEPENDENT if len(site["leads"].split()) > 1 else ("I",)
    batch = records.simulate(plan, fs, fs * int(site["seconds"]))
    d = arithmetic.Draws(device.SLOTS, plan.seed, records.NOISE, plan.ids)
    taps = [int(x) for x in site["taps"].split()]
    counts, off, rms = device.record(batch.clean[:, : len(leads)], d, site, leads, fs, int(site["hp_shift"]), taps)
    return batch, render.twelve(counts) if len(leads) > 1 else counts, off, rms


def chunk(name, plan, paths, who):
    """Simulate and write the records of one chunk; returns their labels, truth, beats and dropped labels."""
    site = patients.site_row(name)
    batch, counts, off, rms = recorded(name, plan)
    leads = site["leads"].split()
    order = [criteria.LEADS.index(canonical(x)) for x in leads] if len(leads) > 1 else [0]
    counts = counts.astype(np.int64)
    gain = int(site["gain"]) / (1000 if site["units"] == "uV" else 1)
    for i, path in enumerate(paths):
        comments = (f"age: {who[i][0]}", f"sex: {who[i][1]}")
        folder, record_id = os.path.split(path)
        options = {"units": site["units"], "fmt": site["fmt"], "comments": comments}
        wfdb_io.write(folder, record_id, counts[i, order], int(site["fs"]), leads, gain, **options)
    truth = batch.truth | _quality(batch, off, rms, len(leads) > 1)
    return batch.labels, truth, batch.beats, batch.dropped


def _quality(batch, off, noise, twelve):
    clean = batch.clean[:, 1 if twelve else 0]
    peak = (clean.max(1) - clean.min(1)) / 16.0
    ratio = np.maximum(peak, 1.0) / np.maximum(8.0 * noise, 0.1)
    snr = arithmetic.to_grid(arithmetic.log(ratio) * 8.685889638065035, 10) / 10
    table = {"noise_uv": arithmetic.to_grid(noise, 10) / 10, "snr_db": snr}
    table["quality"] = np.array(["bad", "usable", "good"], dtype=object)[(snr >= 6).astype(int) + (snr >= 12)]
    where = {r: (INDEPENDENT[x] if twelve else "ECG", a, b) for r, x, a, b in off}
    rows = [where.get(r, ("", "", "")) for r in range(len(noise))]
    return table | dict(zip(("off_lead", "off_first", "off_last"), np.array(rows, dtype=object).T, strict=True))


def _table(path, columns):
    pd.DataFrame(columns).to_csv(path, index=False, lineterminator="\n")


def _tables(folder, name, plan, meta, results):
    labels = {k: np.concatenate([r[0][k] for r in results]) for k in records.LABELS}
    truth = {k: np.concatenate([r[1][k] for r in results]) for k in results[0][1]}
    ids = meta["record_id"]
    d = arithmetic.Draws(reports.SLOTS, plan.seed, records.REPORT, plan.ids)
    states = labels if name == "C" else reports.states(labels, d)
    written = [("", [])] * len(ids) if name == "C" else reports.reports(states, truth, meta["visit"], d, name == "B")
    if name == "C":
        states = {k: v if k in ONE_LEAD else np.full(len(ids), -1, np.int8) for k, v in states.items()}
    shown = [" ".join(k for k in records.LABELS if labels[k][i]) for i in range(len(ids))]
    paths = np.array([record_path(x) for x in ids], dtype=object)
    (folder / "RECORDS").write_bytes("".join(f"{p}\n" for p in paths).encode())
    _table(folder / "records.csv", meta | {"report": [w[0] for w in written], "path": paths})
    _table(folder / "labels.csv", {"record_id": ids} | states)
    if name != "C":  # nobody takes blood from who wears a watch
        days = [date.fromisoformat(day).toordinal() for day in meta["recording_date"]]
        _table(folder / "outcomes.csv", {"record_id": ids} | outcomes.table(plan, labels, truth, days))
    _table(folder / "truth.csv", {"record_id": ids, "labels": shown} | truth)
    _beats(folder / "beats.csv", ids, [r[2] for r in results])
    spans = [(r, *s) for r, (_, of_record) in zip(ids, written, strict=True) for s in of_record]
    _table(folder / "spans.csv", pd.DataFrame(spans, columns=["record_id", "start", "end", "concept", "assertion"]))
    dropped = {k: sum(r[3].get(k, 0) for r in results) for k in records.LABELS}
    count = {k: {s: int((v == c).sum()) for s, c in (("present", 1), ("possible", 2))} for k, v in states.items()}
    number = {"records": len(ids), "patients": len(set(meta["patient_id"]))}
    return number | {"labels": count, "dropped": {k: v for k, v in dropped.items() if v}}


def _beats(path, ids, parts):
    start = np.cumsum([0] + [min(CHUNK, len(ids) - a) for a in range(0, len(ids), CHUNK)])
    rec = np.concatenate([p["rec"] + s for p, s in zip(parts, start, strict=False)])
    table = {k: np.concatenate([p[k] for p in parts]) for k in parts[0] if k != "rec"}
    kind = np.array(BEAT_CLASS, dtype=object)[table.pop("kind")]
    _table(path, {"record_id": ids[rec], "class": kind} | table)
