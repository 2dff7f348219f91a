"""A kept model over a folder, against the plainest loop: wfdb, scipy, the network one record at a time.

The loop reads with wfdb.rdsamp, resamples with scipy.signal.resample_poly, filters forward and backward, and asks the
network, head included, for one record after the other; what `predict` says beside that (quality, what is out of
profile, calibration, calls) it leaves out. Memory is that of the folder once, and given ten times.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import signal
from scipy.special import expit

from ecglib import datasets, models
from ecglib.data import cohort, packing, wfdb_io
from ecglib.data.recording import LEADS
from ecglib.pipeline.environment import ENVIRONMENT
from ecglib.zoo import dummy, fit, kept

NUMBER, FS, LOOP = 200, 500, 60  # recordings of 10 s; those that the loop is timed on
ROUNDS = 2  # the fastest counts
CHILD = """
import sys, time
from benchmarks import print_with_peak
from ecglib.zoo import kept, predict
model, start = kept.load(sys.argv[1]), time.process_time()
done = predict.run(model, sys.argv[3:], sys.argv[2], progress=lambda line: None)
print_with_peak(done | {"core_s": time.process_time() - start})
"""


def folder_of_records(root: Path) -> Path:
    """Recordings with a table, fast ones being labelled."""
    root.mkdir()
    lines = ["record,patient,split,fast"]
    for i in range(NUMBER):
        fast = i % 2
        x = dummy.pseudo_ecg(i, 0.9 - 0.3 * fast, 0.2, FS, 10 * FS)
        wfdb_io.write(root, f"r{i:04d}", np.rint(1000 * x).astype(int), FS, LEADS, 1000)
        lines.append(f"r{i:04d},p{i},{('train', 'val', 'test')[i // 2 % 3]},{fast}")
    (root / "records.csv").write_text("\n".join(lines) + "\n")
    return root


def kept_model(records: Path, scratch: Path) -> Path:
    """A linear probe on the study's encoder, untrained: what it says does not matter here."""
    cohort.pack("bench", datasets.get("folder"), records, scratch / "cohort", workers=1)
    facts = dict(leads=list(LEADS), profile="study", cohorts=[], splits=[], objective={"objective": "none"})
    models.save(models.build("net1d"), scratch / "encoder", **facts)
    fit.run(scratch / "cohort", scratch / "model", fit.Settings(str(scratch / "encoder")), lambda line: None)
    return scratch / "model"


def loop(model: kept.Kept, paths: list[str]) -> tuple[float, float, np.ndarray]:
    """Records per second of the plain loop, its seconds of one core a record, its probabilities (record, label)."""
    import wfdb

    chain, network = model.profile, model.network

    def said(path):
        x, facts = wfdb.rdsamp(path)
        x = signal.resample_poly(x.T, round(chain.fs), facts["fs"], axis=1)
        x = signal.filtfilt(*signal.butter(chain.order, chain.band, "bandpass", fs=chain.fs), x)
        x = np.clip(x / chain.scale, -chain.clip, chain.clip)
        with torch.no_grad():
            z = network(torch.from_numpy(x[None].astype(np.float32))).numpy()
        return expit(z @ model.weight.T + model.bias)[0]

    start, core_s = time.perf_counter(), time.process_time()
    p = np.stack([said(path) for path in paths])
    return len(paths) / (time.perf_counter() - start), (time.process_time() - core_s) / len(paths), p


def predicted(model: Path, out: Path, folders: list[Path]) -> dict:
    words = [sys.executable, "-c", CHILD, str(model), str(out), *map(str, folders)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | ENVIRONMENT)
    return json.loads(done.stdout)


def fastest(rounds) -> dict:
    """Records per second of both in the same rounds, and their ratio; rounds: (`predicted`, `loop`)."""
    ours = max(done["records_per_s"] for done, _ in rounds)
    theirs = max(speed for _, (speed, *_) in rounds)
    return dict(ours=ours, theirs=theirs, ratio=ours / theirs)


def run() -> list[dict]:
    with tempfile.TemporaryDirectory() as scratch:
        records = folder_of_records(Path(scratch) / "records")
        place, out = kept_model(records, Path(scratch)), Path(scratch) / "scores.parquet"
        model = kept.load(place)
        paths = [str(path.with_suffix("")) for path in sorted(records.glob("*.hea"))[:LOOP]]
        often = predicted(place, out, [records] * 10)
        rounds = [(predicted(place, out, [records]), loop(model, paths)) for _ in range(ROUNDS)]
        p = pd.read_parquet(out)["p: fast"].to_numpy()[:LOOP]
    once, wanted = rounds[0][0], rounds[0][1][2][:, 0]
    core_ms = [1000 * min(s) for s in ([o["core_s"] / NUMBER for o, _ in rounds], [t[1] for _, t in rounds])]
    alike = np.corrcoef(p, wanted)[0, 1]
    assert alike > 0.99, alike  # the filters treat the edges of a recording in another way
    note = f"{NUMBER} records of 10 s, 12 leads, {FS} Hz, net1d small, {packing.cores()} cores; ours with quality, "
    note += "profile, calibration and calls; against wfdb.rdsamp, scipy's filters and the network one record at a time "
    note += f"(timed on {LOOP}; probabilities correlate at {alike:.4f}); peak memory {once['mib']:.0f} MiB, of the "
    note += f"folder given ten times {often['mib']:.0f} MiB; of one core a record {core_ms[0]:.1f} ms, the loop "
    note += f"{core_ms[1]:.1f} ms"
    row = dict(name="predict a folder, kept model") | fastest(rounds)
    return [row | dict(unit="records/s", target=2, note=note)]


if __name__ == "__main__":
    for row in run():
        print(row)
