"""Annotated recordings and judged beats that are written by hand."""

import numpy as np
import pandas as pd

from ecglib.rhythm import annotated


def one_recording(n_times=3600, fs=360.0, r=(300, 700, 1100), symbol="NVN", **changes):
    about = {"record_id": "x", "patient_id": "p", "half": "", "signal": np.zeros((1, n_times), np.float32), "fs": fs}
    about |= {"leads": ("II",), "r": np.array(r), "symbol": np.array(list(symbol))}
    return annotated.Annotated(**(about | changes))


def judged(seed=0, n_patients=8):
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), 100)
    truth = random.choice(list("NSVF"), len(patient), p=[0.7, 0.1, 0.15, 0.05])
    called = np.where(random.random(len(truth)) < 0.85, truth, random.choice(list("NSVF"), len(truth)))
    names = [f"r{k}" for k in patient]
    return pd.DataFrame({"record_id": names, "patient_id": names, "aami": truth, "called": called})
