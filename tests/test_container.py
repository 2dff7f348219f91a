"""The container and the check of a pull request call what the README calls, and the image gets no results."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_image_runs_the_commands_of_the_makefile():
    targets = re.findall(r"^(\S[^:=]*?):.*(?:##|requirements)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    used = re.findall(r"make (\S+)", re.sub(r"make:?\s+(the|\\)", "", DOCKERFILE.replace("git make", "")))
    assert {"test", "lab", "real", ".venv/.ready"} <= set(used) and 'CMD ["make", "repro"]' in DOCKERFILE
    assert {name for name in used if name.isidentifier()} <= set(targets), (used, targets)


def test_the_image_gets_no_data_and_no_results():
    left_out = (ROOT / ".dockerignore").read_text().split()
    ignored = [line.strip("/").split("*")[0] for line in (ROOT / ".gitignore").read_text().split()]
    assert {"data", "results", ".venv", "real/data"} <= set(left_out) & set(ignored)
    assert ".git" not in left_out  # DVC needs it


def test_a_pull_request_runs_the_check_of_a_fresh_clone():
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["fresh-clone"]
    assert job["steps"][-1] == {"run": ".ci/run"} and job["timeout-minutes"] <= 120
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_the_dockerfile_passes_the_linter():
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert not done.returncode, done.stdout
