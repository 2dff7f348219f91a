"""Whole simulated hospitals as WFDB files and CSV tables, the same bytes on every machine and with any worker count."""

import csv
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from .. import wfdb_io
from ..signals import EcgError
from . import core, device, fixed, patients, render, reports, rhythm
from .heart import INDEPENDENT

CHUNK = 128
SEED = 2025  # of 12 tried, the one in which every label of A and B occurs
ONE_LEAD = ("PACE AFIB AFLT SVTAC PSVT 3AVB 2AVB STACH SBRAD SARRH SR 1AVB PVC PAC BIGU TRIGU").split()
BEAT_CLASS = ("N", "V", "V", "A", "E", "A")  # by rhythm kind; an early beat with its own P wave is A


def generate(out, hospitals=patients.SITES, workers=2, seed=SEED, scale=1.0, progress=None):
    """Write the hospitals below the folder `out`, replacing it only when everything is there.

    scale: share of the patients (the first ones; their records do not change). progress: called with (done, total).
    Returns the manifest (dict), also written as manifest.json. Raises EcgError for unknown hospitals or a bad scale.
    """
    out, unknown = Path(out), [h for h in hospitals if h not in patients.SITES]
    if unknown or not hospitals or not 0 < scale <= 1:
        fix = f"hospitals among {', '.join(patients.SITES)}; 0 < scale <= 1"
        raise EcgError(f"cannot generate {list(hospitals)} at scale {scale}", field="hospitals", fix=fix)
    new = out.with_name(f".{out.name}.new{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        found = _write_all(new, hospitals, workers, seed, scale, progress)
        manifest = {"spec_version": fixed.SPEC_VERSION, "seed": seed, "scale": scale, "hospitals": found}
        _text(new / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        old = out.with_name(f".{out.name}.old{os.getpid()}")
        if out.exists():
            out.rename(old)
        new.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return manifest


def _write_all(folder, hospitals, workers, seed, scale, progress):
    """Simulate all chunks of all hospitals in `workers` processes and write the tables."""
    cohorts, jobs = {}, []
    for name in hospitals:
        plan, meta = cohorts[name] = patients.cohort(name, seed, scale)
        names, who = meta["record_id"].tolist(), list(zip(meta["age"].tolist(), meta["sex"].tolist(), strict=True))
        for first in range(0, len(plan), 1000):
            (folder / name / "records" / f"{first // 1000:03d}").mkdir(parents=True)
        for a in range(0, len(plan), CHUNK):
            rows = np.arange(a, min(a + CHUNK, len(plan)))
            paths = [str(folder / name / place(names[i])) for i in rows]
            jobs.append((name, plan.take(rows), paths, [who[i] for i in rows]))
    results, done = {name: [] for name in hospitals}, 0
    for job, result in zip(jobs, _map(jobs, workers), strict=True):
        results[job[0]].append(result)
        done += len(job[2])
        if progress:
            progress(done, sum(len(j[2]) for j in jobs))
    return {name: _tables(folder / name, name, *cohorts[name], results[name]) for name in hospitals}


def _map(jobs, workers):
    """Results of `chunk` in the order of the jobs; fresh processes, as a fork of a process with threads may hang."""
    if workers < 2:
        yield from (chunk(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        yield from pool.map(chunk, *zip(*jobs, strict=True))


def place(record_id):
    """Path of a record below its hospital's folder, without extension: 'records/000/A00001'."""
    return f"records/{(int(record_id[1:]) - 1) // 1000:03d}/{record_id}"


def recorded(name, plan):
    """Simulate a plan on a hospital's device: (Batch, counts (record, lead, time), intervals off, noise RMS)."""
    site = patients.site_row(name)
    fs, leads = int(site["fs"]), INDEPENDENT if len(site["leads"].split()) > 1 else ("I",)
    batch = core.simulate(plan, fs, fs * int(site["seconds"]))
    d = fixed.Draws(device.SLOTS, plan.seed, core.NOISE, plan.ids)
    taps = [int(x) for x in site["taps"].split()]
    counts, off, rms = device.record(batch.clean[:, : len(leads)], d, site, leads, fs, int(site["hp_shift"]), taps)
    return batch, render.twelve(counts) if len(leads) > 1 else counts, off, rms


def chunk(name, plan, paths, who):
    """Simulate and write the records of one chunk; returns their labels, truth, beats and dropped labels."""
    site = patients.site_row(name)
    batch, counts, off, rms = recorded(name, plan)
    leads = site["leads"].split()
    standard = [x.lower() for x in core.audit.LEADS]
    order = [standard.index(x.lower()) for x in leads] if len(leads) > 1 else [0]
    counts = counts.astype(np.int64)
    gain = int(site["gain"]) / (1000 if site["units"] == "uV" else 1)
    for i, path in enumerate(paths):
        comments = (f"age: {who[i][0]}", f"sex: {who[i][1]}")
        folder, record_id = os.path.split(path)
        options = {"units": site["units"], "fmt": site["fmt"], "comments": comments}
        options["adc_res"] = 12 if site["fmt"] == "212" else 16
        wfdb_io.write(folder, record_id, counts[i, order], int(site["fs"]), leads, gain, **options)
    truth = batch.truth | _quality(batch, off, rms, len(leads) > 1)
    return batch.labels, truth, batch.beats, batch.dropped


def _quality(batch, off, noise, twelve):
    """Noise and lead-off columns of the truth table: lead II, or the only lead, behind the filters."""
    clean = batch.clean[:, 1 if twelve else 0]
    peak = (clean.max(1) - clean.min(1)) / 16.0
    ratio = np.maximum(peak, 1.0) / np.maximum(8.0 * noise, 0.1)
    snr = fixed.to_grid(fixed.log(ratio) * 8.685889638065035, 10) / 10
    table = {"noise_uv": fixed.to_grid(noise, 10) / 10, "snr_db": snr}
    table["quality"] = np.array(["bad", "usable", "good"], dtype=object)[(snr >= 6).astype(int) + (snr >= 12)]
    where = {r: (INDEPENDENT[x] if twelve else "ECG", a, b) for r, x, a, b in off}
    for k, column in enumerate(("off_lead", "off_first", "off_last")):
        table[column] = np.array([where.get(r, ("", "", ""))[k] for r in range(len(noise))], dtype=object)
    return table


def _text(path, text):
    path.write_text(text, encoding="utf-8", newline="\n")


def _table(path, columns):
    """Columns (equal length) as CSV with Unix line ends."""
    with open(path, "w", newline="", encoding="utf-8") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(columns)
        out.writerows(zip(*(c.tolist() if hasattr(c, "tolist") else c for c in columns.values()), strict=True))


def _tables(folder, name, plan, meta, results):
    """Write RECORDS and the tables of a hospital; returns its part of the manifest."""
    labels = {k: np.concatenate([r[0][k] for r in results]) for k in core.LABELS}
    truth = {k: np.concatenate([r[1][k] for r in results]) for k in results[0][1]}
    ids = meta["record_id"]
    d = fixed.Draws(reports.SLOTS, plan.seed, core.REPORT, plan.ids)
    states = labels if name == "C" else reports.states(labels, d)
    written = [("", [])] * len(ids) if name == "C" else reports.reports(states, truth, meta["visit"], d, name == "B")
    if name == "C":
        states = {k: v if k in ONE_LEAD else np.full(len(ids), -1, np.int8) for k, v in states.items()}
    shown = [" ".join(k for k in core.LABELS if labels[k][i]) for i in range(len(ids))]
    paths = np.array([place(x) for x in ids], dtype=object)
    _text(folder / "RECORDS", "".join(f"{p}\n" for p in paths))
    _table(folder / "records.csv", meta | {"report": [w[0] for w in written], "path": paths})
    _table(folder / "labels.csv", {"record_id": ids} | states)
    _table(folder / "truth.csv", {"record_id": ids, "labels": shown} | truth)
    _beats(folder / "beats.csv", ids, [r[2] for r in results])
    spans = [(r, *s) for r, (_, found) in zip(ids, written, strict=True) for s in found]
    names = ("record_id", "start", "end", "concept", "assertion")
    _table(
        folder / "spans.csv",
        dict(zip(names, zip(*spans, strict=True), strict=True)) if spans else {n: [] for n in names},
    )
    dropped = {k: sum(r[3].get(k, 0) for r in results) for k in core.LABELS}
    count = {k: {s: int((v == c).sum()) for s, c in (("present", 1), ("possible", 2))} for k, v in states.items()}
    number = {"records": len(ids), "patients": len(set(meta["patient_id"]))}
    return number | {"labels": count, "dropped": {k: v for k, v in dropped.items() if v}}


def _beats(path, ids, parts):
    """Beat table: record, class (N A V E), samples of the waves (-1 without)."""
    start = np.cumsum([0] + [min(CHUNK, len(ids) - a) for a in range(0, len(ids), CHUNK)])
    rec = np.concatenate([p["rec"] + s for p, s in zip(parts, start, strict=False)])
    table = {k: np.concatenate([p[k] for p in parts]) for k in parts[0] if k != "rec"}
    kind = np.array(BEAT_CLASS, dtype=object)[table.pop("kind")]
    _table(path, {"record_id": ids[rec], "class": kind} | table)


assert len(BEAT_CLASS) == len(rhythm.KINDS) + 1
