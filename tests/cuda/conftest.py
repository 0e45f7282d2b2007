"""CUDA kernels are tested in processes of their own (tests/test_cuda.py): on a GPU, or else without one, two ways.

In Numba's simulator, or with MINIDETECT_INTERPRETED=1 compiled, and the result interpreted (pretended.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minidetect.kernels import gpu

sys.path.insert(0, str(Path(__file__).parent))

INTERPRETED = os.environ.get("MINIDETECT_INTERPRETED") == "1"
started: set[str] = set()  # kernels, as module.name

if gpu.SIMULATED:
    from simulator import quicken, simulator

    quicken()
    make = simulator.BlockManager.__init__

    def note(self: simulator.BlockManager, kernel: Callable, *rest: object) -> None:
        started.add(f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}")
        make(self, kernel, *rest)

    simulator.BlockManager.__init__ = note
elif INTERPRETED:
    import pretended

    pretended.pretend_a_gpu(run=True)


def pytest_sessionfinish() -> None:
    """Tell tests/test_cuda.py, which starts a process for each file, which kernels this one has started."""
    if "MINIDETECT_STARTED" in os.environ:
        if INTERPRETED:
            started.update(".".join(pretended.kernel_name(kernel)) for kernel, _ in pretended.compiled)
        Path(os.environ["MINIDETECT_STARTED"]).write_text("\n".join(sorted(started)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not gpu.is_available():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="no GPU; tests/test_cuda.py runs these in the simulator"))
