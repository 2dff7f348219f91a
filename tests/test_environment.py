"""One set of versions: requirements.lock, pyproject.toml, environment.yml, and what is installed here."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ecglib import pipeline

ROOT = Path(__file__).resolve().parent.parent
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line]
PINS = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LOCK}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]


def test_the_lock_holds_plain_pins_for_any_machine():
    assert [line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line)] == []
    assert len(PINS) == len(LOCK)
    assert [name for name in PINS if name.startswith(("nvidia", "cuda")) or name in ("triton", "ecglib", "pip")] == []


def test_every_direct_dependency_is_pinned_and_installed_in_that_version():
    for requirement in DIRECT:
        name = canonicalize_name(requirement.name)
        assert version(name).split("+")[0] == PINS[name], name
        assert requirement.specifier.contains(PINS[name]), name


def test_every_package_that_is_imported_is_a_direct_dependency():
    named = {canonicalize_name(requirement.name) for requirement in DIRECT} | {"pygments", "traitlets"}  # of nbconvert
    packages = {"sklearn": "scikit-learn", "yaml": "pyyaml", "ruamel": "ruamel-yaml", "packaging": "pytest"}
    code = "\n".join(p.read_text() for p in [*(ROOT / "ecglib").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")])
    found = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE)) - set(sys.stdlib_module_names)
    found = {canonicalize_name(packages.get(name, name)) for name in found if importable(name)} - {"ecglib"}
    assert found - named - {"benchmarks"} == set()


def importable(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


@pytest.mark.parametrize(
    "package", ["dvc", "dvc-s3", "aiobotocore", "moto", "boto3", "torch", "jupyterlab", "distributed"]
)
def test_what_a_package_needs_is_in_the_lock_in_a_version_it_accepts(package):
    """Among them: dvc's S3 remote and the test server for it agree on one botocore."""
    for requirement in map(Requirement, requires(package)):
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if not name.startswith(("nvidia", "cuda", "triton")):
            assert name in PINS, f"{package} needs {requirement}"
            assert requirement.specifier.contains(PINS[name], prereleases=True), f"{package} needs {requirement}"


def test_nothing_installed_contradicts_anything_else():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_conda_users_get_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert pip == ["-r requirements.lock", "-e ."]
    assert [re.split("=", item)[0] for item in conda] == ["python", "pip"]  # no second source of versions
    python = next(item for item in conda if item.startswith("python=")).split("=")[1]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)


def test_the_package_is_imported_from_this_tree():
    assert pipeline.ROOT == ROOT
