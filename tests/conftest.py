"""Shared fixtures and settings: fixed thread counts, a clean place for caches, and the folder of real recordings."""

import os
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
