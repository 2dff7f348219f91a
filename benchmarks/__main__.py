"""`python -m benchmarks [NAME ...]`: run all files here (or those named), print a table, write docs/benchmarks.md.

Rows of benchmarks that are not named stay as they are; some run only by name (the whole study). Exits with 1 when a
measured ratio misses its target; the page is written all the same and says which.
"""

import importlib
import json
import os
import pkgutil
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import benchmarks

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "wfdb")
MET, MISSED = "met", "missed"
HEAD = ["what", "ours", "what a user would pick", "ratio", "target", "how"]


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_"))


def only_by_name(name: str) -> bool:
    """Whether a benchmark takes so long that it runs only when it is asked for."""
    return getattr(importlib.import_module(f"benchmarks.{name}"), "ONLY_BY_NAME", False)


def rows(name: str) -> list[list[str]]:
    """The measured rows of one benchmark as table cells."""
    out = []
    for row in importlib.import_module(f"benchmarks.{name}").run():
        numbers = [f"{shown(row[side])} {row['unit']}" for side in ("ours", "theirs")]
        out.append([row["name"], *numbers, f"{row['ratio']:.1f} x", verdict(row), row.get("note", "")])
    return out


def verdict(row: dict) -> str:
    """The target of a row and whether its ratio reaches it; empty for a row without one."""
    if row.get("target") is None:
        return ""
    return f"{row['target']:g} x: {MET if row['ratio'] >= row['target'] else MISSED}"


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def processor() -> str:
    """Model and number of cores of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


def page(table: list[list[str]]) -> str:
    """Markdown with the table, the machine and the command that made it."""
    software = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = ["# Benchmarks", "", "Made by `make bench`: ours and what a user would pick, timed in one process."]
    lines += [f"Machine: {processor()}. Python {platform.python_version()}, {software}.", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in [HEAD, ["---"] * len(HEAD), *table]]
    return "\n".join(lines) + "\n"


def merged(table: list[list[str]]) -> list[list[str]]:
    """The rows of the page, those measured now in the place of those of the same name, new ones at the end."""
    lines = [line[2:-2].split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    kept = {cells[0]: cells for cells in lines[2:]}
    return list((kept | {cells[0]: cells for cells in table}).values())


def main(wanted: list[str]) -> int:
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(names())}", file=sys.stderr)
        return 2
    table = []
    for name in wanted or [name for name in names() if not only_by_name(name)]:
        print(f"{name} ...", flush=True)
        # One process each: what one benchmark allocates or compiles does not slow or speed the next.
        code = f"import json; from benchmarks.__main__ import rows; print(json.dumps(rows({name!r})))"
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            return done.returncode
        for cells in json.loads(done.stdout.splitlines()[-1]):
            print("  " + " | ".join(cells), flush=True)
            table.append(cells)
    PAGE.write_text(page(merged(table)))
    print(f"written to {os.path.relpath(PAGE)}")
    missed = [cells[0] for cells in table if cells[HEAD.index("target")].endswith(MISSED)]
    if missed:
        print(f"target missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
