"""CUDA kernels are tested in a process of their own (tests/test_cuda.py): on a GPU, or else in Numba's simulator."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from minidetect.kernels import gpu

sys.path.insert(0, str(Path(__file__).parent))

if gpu.SIMULATED:
    from simulator import quicken

    quicken()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not gpu.is_available():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="no GPU; tests/test_cuda.py runs these in the simulator"))
