"""A recording of 24 h, two leads at 200 Hz: beats and burden block by block, and memory against that of an hour."""

import subprocess
import sys
import tempfile
from pathlib import Path

from ecglib.data import wfdb_io
from ecgsim import holter

FS, SEED, PATIENT = 200, 2025, 1
JUDGED = """
import resource, sys, time
from ecglib.data.long_recording import LongRecording
from ecglib.rhythm import holter, rr_model
path, whole = sys.argv[1:]
model, start = rr_model.default(), time.perf_counter()
recording = LongRecording(path)
if whole == "yes":  # what a user would pick: the day in memory, one call of a detector
    import sleepecg, wfdb
    signal = wfdb.rdsamp(path)[0]
    beats = sleepecg.detect_heartbeats(signal[:, 0], recording.fs) / recording.fs
    holter.judge("day", beats, recording.hours, model)
else:
    holter.analyse(recording, model)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def _judged(path, whole: bool) -> tuple[float, float]:
    """Seconds on one core and the highest memory in MB of a process that judges a recording."""
    code, words = ["-c", JUDGED], [str(path), "yes" if whole else "no"]
    done = subprocess.run([sys.executable, *code, *words], capture_output=True, text=True, check=True)
    seconds, memory = (float(word) for word in done.stdout.split())
    return seconds, memory


def run() -> list[dict]:
    """Seconds for a day, to be under 20, and memory for it, beside wfdb and sleepecg on the whole day."""
    with tempfile.TemporaryDirectory() as folder:
        for hours in (1.0, 24.0):
            counts = holter.signal(SEED, PATIENT, holter.day(SEED, PATIENT, hours), hours)
            wfdb_io.write(folder, f"h{hours:.0f}", counts, FS, holter.LEADS, holter.GAIN)
        _, of_an_hour = _judged(Path(folder) / "h1", False)
        ours, of_a_day = _judged(Path(folder) / "h24", False)
        theirs, of_the_whole = _judged(Path(folder) / "h24", True)
    note = "24 h, 2 leads, 200 Hz, one core, reading included; target: under 20 s"
    speed = dict(name="beats and burden of a day", ours=ours, theirs=theirs, ratio=20 / ours, unit="s", target=1)
    extra = f"an hour takes {of_an_hour:.0f} MB; at least twice as small as the whole day in memory"
    memory = dict(name="memory for a day", ours=of_a_day, theirs=of_the_whole, ratio=of_the_whole / of_a_day)
    return [speed | {"note": note}, memory | {"unit": "MB", "target": 2, "note": extra}]
