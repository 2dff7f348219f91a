"""The whole simulated study, cold and again: this tree against another commit, one after the other on this machine.

Not part of `make bench`, since it takes half an hour: `python -m benchmarks study`. BEFORE names the other commit
(default: the last one before the packages). Both run with the packages installed here, on the same data/.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEFORE = os.environ.get("BEFORE", "1c9d623")
ONLY_BY_NAME = True


def timed(folder: Path) -> tuple[float, float]:
    """Seconds of a first and of a second `repro` in a clone."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PYTHONPATH": str(folder), "PATH": path, "DVC_SITE_CACHE_DIR": str(folder / ".site")}
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        command = [sys.executable, "-m", "ecglib", "repro"]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def run():
    """Two rows: the cold study and the call that has nothing to do."""
    with tempfile.TemporaryDirectory(dir=ROOT / "results") as folder:
        times = {}
        for commit in (BEFORE, "HEAD"):
            clone = Path(folder) / commit
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
            subprocess.run(["git", "checkout", "--quiet", git("rev-parse", commit)], cwd=clone, check=True)
            shutil.copytree(ROOT / "data", clone / "data")
            times[commit] = timed(clone)
    note = f"{os.cpu_count()} cores, data and packages there; against commit {BEFORE}"
    names = ("the whole study, cold", "the whole study, nothing to do")
    return [
        {"name": name, "ours": ours, "theirs": theirs, "unit": "s", "ratio": theirs / ours, "note": note}
        for name, ours, theirs in zip(names, times["HEAD"], times[BEFORE], strict=True)
    ]


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
