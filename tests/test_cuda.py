"""The tests of the CUDA kernels, tests/cuda, file by file, each in a process of its own.

On a GPU where one can be used; else in Numba's simulator, which must be switched on before Numba is imported. What the
simulator can't see, the types, is looked at by compiling every kernel, where there is a compiler.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "cuda"
FILES = sorted(FOLDER.glob("test_*.py"))
LOOK = "from minidetect.kernels import gpu; print(gpu.is_available())"


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=1800, env=os.environ | environment
    )  # fmt: skip


@pytest.fixture(scope="module")
def simulated() -> str:
    """NUMBA_ENABLE_CUDASIM for the tests: "0" where a GPU can be used."""
    return "0" if run(["-c", LOOK], NUMBA_ENABLE_CUDASIM="0").stdout.strip() == "True" else "1"


def test_there_are_tests():
    assert len(FILES) > 8


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_on_the_gpu_or_in_the_simulator(file, simulated):
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)], NUMBA_ENABLE_CUDASIM=simulated)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    summary = done.stdout.strip().splitlines()[-1]
    assert " passed" in summary or summary.endswith("[100%]"), done.stdout[-1000:]


def test_every_kernel_compiles():
    done = run([str(FOLDER / "compile_kernels.py")], NUMBA_ENABLE_CUDASIM="0")
    if "NVVM" in done.stderr or "No such file" in done.stderr:
        pytest.skip('no compiler for GPUs here (it comes with pip install "numba-cuda[cu12]")')
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "kernels compiled" in done.stdout
