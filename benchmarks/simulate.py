"""How many records a second one core simulates: plan to stored counts, audits and redraws included, no file writing."""

import time

import numpy as np

from ecgsim import hospitals, patients

REQUIRED = 500.0  # records a second and core for 10 s of 12 leads
CHUNKS = 3


def run() -> list[dict]:
    """Return one row per hospital; `theirs` is the required rate for 10 s of 12 leads."""
    rows = []
    for name, what in (("A", "12 leads, 10 s, 250 Hz"), ("B", "12 leads, 10 s, 200 Hz"), ("C", "1 lead, 30 s, 300 Hz")):
        plan, _ = patients.cohort(name, hospitals.SEED)
        hospitals.recorded(name, plan.take(np.arange(8)))
        spent = []
        for a in range(0, CHUNKS * hospitals.CHUNK, hospitals.CHUNK):
            start = time.process_time()
            hospitals.recorded(name, plan.take(np.arange(a, a + hospitals.CHUNK)))
            spent.append(time.process_time() - start)
        rate = hospitals.CHUNK / min(spent)
        ratio = rate / REQUIRED
        row = {"name": f"simulate hospital {name}", "ours": rate, "theirs": REQUIRED, "ratio": ratio, "target": 1}
        rows.append(row | {"unit": "records/s/core", "note": f"{what}; noise, device, audits and redraws included"})
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
