"""Packs the MIT-BIH Noise Stress Test Database (doi 10.13026/C2HS3T) into the file that `ecglib.noise` reads."""

import io
import json
from pathlib import Path

import numpy as np

from ecglib import wfdb_io
from ecglib.checkpoint import write_atomic
from ecglib.preprocess import resample
from ecglib.signals import EcgError

RECORDS = {"wander": "bw", "muscle": "ma", "electrode": "em"}
# Shares of the time: noise that a model was trained with must not be what tests it.
PARTS = {"train": (0.0, 0.6), "test": (0.6, 1.0)}


def pack(root, out, fs: float = 100.0, part: str = "train") -> Path:
    """Write the noise records bw, ma and em of folder `root` at fs Hz to `out` (.npy), with a .json beside it.

    part: "train" = the first 60 % of every record, "test" = the rest. The .npy holds float32 (channel, time) in the
    records' mV, the .json fs, part, seconds (start and stop) and kinds: kind -> its channels.
    Returns `out`. Raises EcgError for an unknown part, another ending, a record that is missing or has invalid samples.
    """
    out = Path(out)
    if part not in PARTS:
        raise EcgError(f"part={part!r}", field="part", fix=f"use one of {', '.join(PARTS)}")
    if out.suffix != ".npy":
        raise EcgError("packed noise is a .npy file", file=out, field="out", fix="end its name in .npy")
    tracks, kinds, seconds = [], {}, None
    for kind, name in RECORDS.items():
        recording = wfdb_io.read(Path(root) / name)
        if not np.isfinite(recording.signal).all():
            raise EcgError("invalid samples", file=Path(root) / name, field="signal", fix="fetch the record again")
        first, last = (round(share * recording.signal.shape[1]) for share in PARTS[part])
        kinds[kind] = [len(tracks) + i for i in range(len(recording.signal))]
        # cut first: a resampling filter would carry noise of one part into the other
        tracks += list(resample(recording.signal[:, first:last], recording.fs, fs))
        seconds = [round(i / recording.fs, 3) for i in (first, last)]
    length = min(len(track) for track in tracks)
    payload = io.BytesIO()
    np.save(payload, np.stack([track[:length] for track in tracks]).astype(np.float32))
    info = {"fs": fs, "part": part, "seconds": seconds, "kinds": kinds, "records": RECORDS}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, payload.getvalue())
    write_atomic(out.with_suffix(".json"), (json.dumps(info, indent=1) + "\n").encode())
    return out
