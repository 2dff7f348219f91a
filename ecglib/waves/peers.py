"""Programs of others that find waves, for the same scores: NeuroKit2 and OpenECG, where they are installed.

They are no dependency: `pip install neurokit2`, `pip install openecg ai-edge-litert`. Both read one lead at a time.
OpenECG has learned from LUDB and QTDB: it has met most of their patients, so that its numbers there are no test.
"""

from functools import cache
from importlib import util

import numpy as np

from ecglib import require_known
from ecglib.waves.marked import FS, WAVES

PEERS = {"neurokit2": ("neurokit2",), "openecg": ("openecg", "ai_edge_litert")}  # name -> what must be installed
WINDOW = 2500  # samples that OpenECG reads at a time
ENDS = {"P": "ECG_P", "QRS": "ECG_R", "T": "ECG_T"}  # of NeuroKit2


def installed(names: list[str]) -> list[str]:
    """Those of the names that are installed. Raises EcgError for a name that is none of PEERS."""
    require_known("peer", names, PEERS, "peers")
    return [name for name in names if all(util.find_spec(package) for package in PEERS[name])]


def masks(name: str, signal: np.ndarray) -> np.ndarray:
    """What a peer says of every lead: float32 (lead, 3, time), 1 from the onset to the offset of a wave of WAVES.

    signal: (lead, time) in mV at FS; a wave without one of the two is left out.
    """
    p = np.zeros((len(signal), len(WAVES), signal.shape[1]), np.float32)
    for lead, x in enumerate(np.nan_to_num(signal).astype(np.float64)):
        for wave, on, off in {"neurokit2": by_neurokit2, "openecg": by_openecg}[name](x):
            p[lead, WAVES.index(wave), max(0, round(on)) : round(off) + 1] = 1
    return p


def by_neurokit2(x: np.ndarray) -> list[tuple]:
    """Wave, onset and offset in samples of a lead (time,), by its default, the discrete wavelet transform.

    It raises plain errors where it finds too few beats: then there are no waves.
    """
    import neurokit2

    try:
        clean = neurokit2.ecg_clean(x, sampling_rate=FS)
        _, info = neurokit2.ecg_peaks(clean, sampling_rate=FS)
        _, found = neurokit2.ecg_delineate(clean, info["ECG_R_Peaks"], sampling_rate=FS, method="dwt")
    except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError):
        return []
    pairs = {wave: (found[f"{name}_Onsets"], found[f"{name}_Offsets"]) for wave, name in ENDS.items()}
    waves = [(wave, on, off) for wave, ends in pairs.items() for on, off in zip(*ends, strict=True)]
    return [(wave, on, off) for wave, on, off in waves if on <= off]  # not so where one of them is NaN


def by_openecg(x: np.ndarray) -> list[tuple]:
    """Wave, onset and offset in samples of a lead (time,), by the network that comes with the package."""
    parts = _openecg().predict(x.astype(np.float32))
    found = [(k * WINDOW, each) for k, part in enumerate(parts) for each in part]
    return [(each.name, start + each.start, start + each.end) for start, each in found]


@cache
def _openecg():
    from openecg.deploy import Inference

    return Inference()
