"""How a cohort gets written: plan and checks, two parallel passes over the recordings, tables, atomic publication.

The first pass reads every record and decides whether it is kept and how many windows it gives; then the memory map has
its final size, and the second pass writes straight into it. Only row numbers, file names and R peaks travel between
processes, never signals. `ecglib.cohort.pack` is the way in and says what the settings mean.
"""

import hashlib
import inspect
import json
import os
import shutil
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ecglib import labels as vocabulary
from ecglib import splits
from ecglib import windows as rules
from ecglib.signals import EcgError, canonical

FORMAT = 1
CHUNK = 32  # records per task
WINDOWS = ("first", "all")
_PACKAGES = ("ecglib", "numpy", "scipy", "pandas", "pyarrow", "wfdb", "sleepecg")
_COMMON = ("record_id", "patient_id", "split", "age", "sex", "report")
FILES = ("signals.npy", "records.parquet", "labels.parquet", "beats.parquet", "rejected.csv")


def pack(
    name: str,
    dataset,
    root,
    out,
    *,
    fs: float = 100,
    seconds: float = 10,
    leads=None,
    windows: str = "first",
    workers: int = 2,
    backend: str | None = None,
    options: dict | None = None,
    labels=None,
    progress=None,
) -> None:
    """See `ecglib.cohort.pack`."""
    options = dict(options or {})
    provided = dataset.leads(**options) if hasattr(dataset, "leads") else dataset.LEADS
    layout = plan(fs, seconds, leads or provided, windows)
    records, states = _corpus(dataset, root, options, labels)
    run = _Runner(dataset.read, layout, workers, backend, progress, 2 * len(records))
    root, out = Path(root).resolve(), Path(out).absolute()
    partial = _fresh(out)
    try:
        found = run(rules.examine, records.to_dict("records"))
        kept, rejected = _sort_out(records, found, root)
        rows = _write_signals(kept, run, partial / "signals.npy")
        _write_tables(partial, kept, rows, states, rejected, root)
        source = _source(dataset, options) | {"notes": list(records.attrs.get("notes", []))}
        info = {"name": name, "dataset": source, "counts": _counts(records, kept, rows, rejected, layout)}
        info["labels"] = vocabulary.counts(states.loc[kept.record_id])
        _write_info(partial, layout, info)
        _publish(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    why = "".join(f", {n} {reason}" for reason, n in info["counts"]["rejected_by_reason"].items())
    print(f"{name}: {len(kept)} of {len(records)} records packed, {len(rejected)} rejected{why}")


def plan(fs, seconds, leads, windows: str) -> rules.Plan:
    """What is stored of each recording; EcgError for windows, lengths, rates and leads that cannot be."""
    if windows not in WINDOWS:
        raise EcgError(f"unknown windows {windows!r}", field="windows", fix=f"use one of {', '.join(WINDOWS)}")
    if not (fs > 0 and seconds > 0 and round(fs * seconds) > 0):
        raise EcgError(f"no window of {seconds} s at {fs} Hz", field="seconds")
    if fs < rules.MIN_FS:
        raise EcgError(f"{fs} Hz is too slow to find R peaks", field="fs", fix=f"take at least {rules.MIN_FS} Hz")
    leads = tuple(canonical(n) for n in ([leads] if isinstance(leads, str) else leads))
    if len(set(leads)) < len(leads):
        raise EcgError(f"a lead is named twice: {', '.join(leads)}", field="leads")
    return rules.Plan(fs, seconds, leads, windows)


def _corpus(dataset, root, options: dict, labels) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Records and label states of a corpus; raises EcgError for everything that would make the cohort wrong."""
    parameters = inspect.signature(dataset.records).parameters.values()
    valid = list(getattr(dataset, "OPTIONS", [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]))
    wrong = [o for o in options if o not in valid]
    if wrong:
        raise EcgError(f"unknown option {wrong[0]!r}", field="options", fix=f"use some of {', '.join(valid) or 'none'}")
    records = dataset.records(root, **options)
    if records.empty:
        raise EcgError(
            "the cohort is empty", file=root, field="records", fix="check the folder and the table of records"
        )
    splits.check(records)
    states = dataset.labels(root, records, **options)
    missing = [name for name in labels or () if name not in states]
    if missing:
        there = ", ".join(map(str, states.columns))
        raise EcgError(f"no label column {missing[0]!r}", file=root, field="labels", fix=f"labels there: {there}")
    states = states if labels is None else states[list(labels)]
    if list(states.index) != list(records.record_id):
        raise EcgError("labels and records do not list the same record ids", file=root, field="record_id")
    nobody = [str(c) for c in states if not (states[c] == vocabulary.PRESENT).any()]
    if nobody:
        fix = f"leave it out: labels={[str(c) for c in states if str(c) not in nobody]}"
        raise EcgError(f"no record has the label {', '.join(nobody)}", file=root, field="labels", fix=fix)
    return records.reset_index(drop=True), states


class _Runner:
    """Runs a function of `ecglib.windows` over chunks of records in parallel, results in order."""

    def __init__(self, read, plan, workers: int, backend, progress, total: int):
        self.read, self.plan, self.workers, self.backend = read, plan, workers, backend
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, function, rows: list[dict], *per_row: list, **fixed) -> list:
        starts = range(0, len(rows), CHUNK)
        tasks = (
            joblib.delayed(function)(
                self.read, self.plan, rows[s : s + CHUNK], *(v[s : s + CHUNK] for v in per_row), **fixed
            )
            for s in starts
        )
        out = []
        with joblib.parallel_config(backend=self.backend or "loky", n_jobs=self.workers):
            for start, part in zip(starts, joblib.Parallel(return_as="generator")(tasks), strict=True):
                out += part
                self.done += len(rows[start : start + CHUNK])
                if self.progress:
                    self.progress(self.done, self.total)
        return out


def _sort_out(records: pd.DataFrame, found: list[dict], root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split the examined records into those kept (with n_windows, fs_recorded) and those rejected (with the reason)."""
    good = np.array(["n_windows" in f for f in found])
    kept = records[good].reset_index(drop=True)
    kept["n_windows"] = np.array([f["n_windows"] for f in found if "n_windows" in f], int)
    kept["fs_recorded"] = np.array([f["fs"] for f in found if "n_windows" in f], float)
    lines = [
        {
            "record_id": i,
            "file": _relative(f["file"], root),
            "field": f["field"],
            "reason": _relative(f["reason"], root),
        }
        for i, f in zip(records.record_id, found, strict=True)
        if "n_windows" not in f
    ]
    rejected = pd.DataFrame(lines, columns=["record_id", "file", "field", "reason"])
    if kept.empty:
        first = rejected.iloc[0]
        reason = f"every one of {len(records)} records is refused; the first: {first.reason}"
        raise EcgError(reason, file=first.file, field=first.field or None, fix="check the folder and the options")
    return kept, rejected


def _relative(text, root: Path) -> str:
    """A path or message without the folder of the corpus, so that tables do not depend on where it lies."""
    return str(text).replace(f"{root.as_posix()}/", "")


def _write_signals(kept: pd.DataFrame, run: _Runner, path: Path) -> pd.DataFrame:
    """Write signals.npy and return one row of facts per window."""
    ends = kept.n_windows.cumsum()
    rules.allocate(path, (int(ends.iloc[-1]), len(run.plan.leads), run.plan.n_times))
    run.done = run.total // 2
    facts = run(rules.write_rows, kept.to_dict("records"), list(ends - kept.n_windows), signals_path=str(path))
    rows = pd.DataFrame(facts)
    rows.insert(0, "row", np.arange(len(rows)))
    rows.insert(1, "window", np.concatenate([np.arange(n) for n in kept.n_windows]))
    rows.insert(2, "record", np.repeat(np.arange(len(kept)), kept.n_windows))
    return rows


def _write_tables(folder: Path, kept, rows: pd.DataFrame, states, rejected: pd.DataFrame, root: Path) -> None:
    of_row = kept.iloc[rows.record].reset_index(drop=True)
    table = rows[["row", "window", "start_s", "n_valid"]].astype(
        {"row": np.int32, "window": np.int32, "n_valid": np.int32}
    )
    table.insert(1, "record_id", of_row.record_id)
    for column in _COMMON[1:]:
        table[column] = of_row[column]
    table["file"] = [Path(os.path.relpath(p, root)).as_posix() for p in of_row.path]
    table["fs_recorded"] = of_row.fs_recorded
    for column in ("lead_mask", "gap_mask", "clipped_mask"):
        table[column] = rows[column].astype(np.uint16)
    metadata = of_row.drop(columns=[*_COMMON, "path", "n_windows", "fs_recorded"])
    _write_parquet(pd.concat([table, metadata], axis=1), folder / "records.parquet")
    _write_parquet(states.loc[kept.record_id].rename_axis("record_id").reset_index(), folder / "labels.parquet")
    peaks = pd.DataFrame(
        {
            "row": np.repeat(np.arange(len(rows), dtype=np.int32), [len(p) for p in rows.peaks]),
            "sample": np.concatenate([*rows.peaks, np.zeros(0, np.int32)]).astype(np.int32),
        }
    )
    _write_parquet(peaks, folder / "beats.parquet")
    rejected.to_csv(folder / "rejected.csv", index=False, lineterminator="\n")


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Plain and uncompressed, without the writer's pandas metadata: the bytes depend on the values only."""
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(arrow, path, compression="none", version="2.6")


def _source(dataset, options: dict) -> dict:
    """Provenance of the corpus; an absolute path among the options is cut to its name."""
    plain = {k: Path(v).name if isinstance(v, str) and os.path.isabs(v) else v for k, v in options.items()}
    names = ("URL", "VERSION", "LICENCE", "CITATION", "VOCABULARY", "CORPUS", "N_RECORDS")
    module = dataset.__name__.rsplit(".", 1)[-1]
    facts = {n.lower(): getattr(dataset, n) for n in names}
    facts |= {name: options.get(name) or facts[name] for name in ("vocabulary", "corpus")}  # a folder's owner says them
    return {"module": module, "options": plain} | facts


def _counts(records, kept, rows: pd.DataFrame, rejected: pd.DataFrame, plan: rules.Plan) -> dict:
    all_leads = rules.bits(np.ones(len(plan.leads), bool))
    reasons = Counter(
        field or reason.split(":")[0] for field, reason in zip(rejected.field, rejected.reason, strict=True)
    )
    splits_of_rows = kept.split.iloc[rows.record]
    return {
        "records": len(records),
        "packed": len(kept),
        "rejected": len(rejected),
        "rejected_by_reason": dict(sorted(reasons.items())),
        "patients": int(kept.patient_id.nunique()),
        "rows": len(rows),
        "rows_by_split": {str(k): int(v) for k, v in splits_of_rows.value_counts().sort_index().items()},
        "rows_with_missing_lead": int((rows.lead_mask != all_leads).sum()),
        "rows_with_gap": int((rows.gap_mask > 0).sum()),
        "rows_clipped": int((rows.clipped_mask > 0).sum()),
        "rows_padded": int((rows.n_valid < plan.n_times).sum()),
        "beats": int(sum(map(len, rows.peaks))),
    }


def _write_info(folder: Path, plan: rules.Plan, info: dict) -> None:
    limits = ("MAX_NAN_SHARE", "MAX_PEAK_MV", "MIN_PEAK_MV", "PEAK_PERCENTILE")
    info |= {
        "format": FORMAT,
        "fs": plan.fs,
        "seconds": plan.seconds,
        "leads": list(plan.leads),
        "windows": plan.windows,
        "counts_per_mv": rules.COUNTS_PER_MV,
        "limits": {name.lower(): getattr(rules, name) for name in limits},
        "versions": {package: version(package) for package in _PACKAGES},
        "sha256": {file: sha256(folder / file) for file in FILES},
    }
    (folder / "cohort.json").write_text(json.dumps(info, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def sha256(path: Path) -> str:
    """Checksum of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(out: Path, tail: str) -> Path:
    return out.with_name(f".{out.name}.{tail}")


def _fresh(out: Path) -> Path:
    """An empty folder beside `out` to write into; puts right what a killed pack left behind."""
    partial, old = _beside(out, "partial"), _beside(out, "old")
    if old.exists() and not out.exists():
        os.rename(old, out)
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _publish(partial: Path, out: Path) -> None:
    """Bring the files to disk, then rename: under its final name a cohort is whole at any moment."""
    for file in partial.iterdir():
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
    old = _beside(out, "old")
    if out.exists():
        os.rename(out, old)
    os.rename(partial, out)
    shutil.rmtree(old, ignore_errors=True)
