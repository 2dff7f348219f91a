"""A folder of crude ECGs with one CSV, as a user would bring it, and how it is packed."""

import numpy as np

from ecglib import datasets
from ecglib.data import cohort, wfdb_io
from ecglib.data.recording import LEADS

FS, SECONDS = 200, 10
FOLDER = datasets.get("folder")


def crude_ecg(seed, fs=FS, seconds=SECONDS, n_leads=12):
    """A crude beat train in microvolt counts (lead, time), every lead with its own amplitude."""
    t = np.arange(int(fs * seconds)) / fs
    beat = np.exp(-(((t % 0.8 - 0.4) / 0.012) ** 2)) + 0.2 * np.exp(-(((t % 0.8 - 0.65) / 0.04) ** 2))
    gains = 0.5 + np.random.default_rng(seed).random(n_leads)
    return np.rint(1000 * gains[:, None] * beat).astype(int)


def corpus(root, n=6, leads=LEADS, **ecg):
    """A folder of WFDB records with one CSV; labels A and B, three patients with two records each."""
    root.mkdir(parents=True, exist_ok=True)
    lines = ["record,patient,split,age,A,B"]
    for i in range(n):
        wfdb_io.write(root, f"r{i}", crude_ecg(i, n_leads=len(leads), **ecg), ecg.get("fs", FS), leads, 1000)
        lines.append(
            f"r{i},p{i // 2},{('train', 'val', 'test')[i // 2 % 3]},{40 + i % 40},{i % 2},{'possible' if i == 0 else 1}"
        )
    (root / "records.csv").write_text("\n".join(lines) + "\n")
    return root


def pack(root, out, **settings):
    return cohort.pack("toy", FOLDER, root, out, **{"workers": 1, **settings})


def tall_or_not(root, n, fs=100):
    """Raw records and their cohort below root/raw and root/cohort: every second one is twice as tall, its label."""
    lines = ["record,patient,split,tall"]
    (root / "raw").mkdir(parents=True)
    for i in range(n):
        wfdb_io.write(root / "raw", f"r{i:02}", crude_ecg(i, fs) * (1 + i % 2), fs, LEADS, 1000)
        lines.append(f"r{i:02},p{i // 2},{('train', 'val', 'test')[i // 4 % 3]},{i % 2}")
    (root / "raw/records.csv").write_text("\n".join(lines) + "\n")
    pack(root / "raw", root / "cohort", options={"labels": ["tall"]})
