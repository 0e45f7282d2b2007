"""Fixtures shared by the tests: an explicit random generator, and the real photos where they exist."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real photos: MINIDETECT_DATA, or ../shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MINIDETECT_DATA", default))
    if not (folder / "fddb_reference").is_dir():
        pytest.skip(f"no real photos at {folder} (set MINIDETECT_DATA to a folder that has fddb_reference/)")
    return folder


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """tests/cuda runs in processes of its own (test_cuda.py), unless it is asked for by name."""
    is_asked_for = any("cuda" in str(argument) for argument in config.args)
    return True if collection_path.name == "cuda" and not is_asked_for else None
