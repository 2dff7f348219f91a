"""Shared fixtures and settings: fixed thread counts, a clean place for caches, and the folder of real recordings."""

import os
import sys
from pathlib import Path

# Before numpy and torch are loaded, here and in every process that a test starts. Tests run side by side.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", MPLBACKEND="agg")

import pytest  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What the tests fetch and keep lies apart from what the user has."""
    os.environ["ECGLIB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real PhysioNet recordings named by ECGLIB_REAL_DATA; tests that need it are skipped without it."""
    folder = os.environ.get("ECGLIB_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ECGLIB_REAL_DATA names no folder of real recordings")
    return Path(folder)


@pytest.fixture
def hub(monkeypatch):
    """A server on this machine in the place of all that ecglib fetches from, without pauses between attempts."""
    from hub import Hub

    from ecglib.data import download

    monkeypatch.setattr(download, "PAUSE_S", 0)
    with Hub() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(autouse=True)
def same_draws():
    """Random numbers of a test do not depend on which tests ran before it in this process."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_open_figures():
    """Figures of one test do not count among those of the next."""
    yield
    if plt := sys.modules.get("matplotlib.pyplot"):
        plt.close("all")


# Files that take minutes come first, and not together, so that two processes (`--no-loadscope-reorder`) end together.
FIRST = ("test_notebooks.py", "test_own_study.py", "test_reproduce.py", "test_schedule.py", "test_command_line.py")
THEN = ("zoo", "data", "test_notebooks_in_lab.py")


def pytest_collection_modifyitems(items):
    def turn(item):
        names = item.path.parent.name, item.path.name
        places = [k for k, name in enumerate([*FIRST, *THEN]) if name in names]
        return places[0] if places else len(FIRST + THEN)

    items.sort(key=turn)
