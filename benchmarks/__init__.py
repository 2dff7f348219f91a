"""Speed against what a user would pick, both timed in the same process. `make bench` runs all of them.

A file here has `run() -> list of rows`: {"name", "ours", "theirs", "ratio", "unit", "note"}, where ratio > 1 means that
ours is better, and optionally "target", the ratio that the project promises. A benchmark asserts that both compute the
same before it times them.
"""

import json
import resource
import sys
from pathlib import Path


def print_with_peak(facts: dict) -> None:
    """Print facts as JSON with the peak memory of this process, `mib`; for a child that was started to be measured."""
    status = Path("/proc/self/status")  # on Linux ru_maxrss counts the parent's memory too
    if status.is_file():
        mib = int(dict(line.split(":") for line in status.read_text().splitlines())["VmHWM"].split()[0]) / 1024
    else:
        mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps(facts | {"mib": mib}))
