"""Shared fixtures: strict numerics, and the folder of real recordings where one is given."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real PhysioNet recordings named by ECGLIB_REAL_DATA; tests that need it are skipped without it."""
    folder = os.environ.get("ECGLIB_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ECGLIB_REAL_DATA names no folder of real recordings")
    return Path(folder)
