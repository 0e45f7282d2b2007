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
NO_COMPILER = 77  # exit code of compile_kernels.py
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


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the processes note the kernels that they have started (cuda/conftest.py)."""
    return tmp_path_factory.mktemp("started")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_on_the_gpu_or_in_the_simulator(file, simulated, notes):
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = run(arguments, NUMBA_ENABLE_CUDASIM=simulated, MINIDETECT_STARTED=str(notes / file.stem))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "[100%]" in done.stdout, done.stdout[-1000:]


def test_every_kernel_was_started(simulated, notes):
    """By the tests above: a kernel that none of them starts is tested by nobody."""
    if simulated == "0" or len(list(notes.iterdir())) < len(FILES):
        pytest.skip("only after all files above, in the simulator, which can note what was started")
    sys.path.insert(0, str(FOLDER))
    from compile_kernels import ROOT, kernels_in

    started = {tuple(line.split(".")) for note in notes.iterdir() for line in note.read_text().split()}
    assert not kernels_in(ROOT) - started


def test_every_kernel_compiles():
    done = run([str(FOLDER / "compile_kernels.py")], NUMBA_ENABLE_CUDASIM="0")
    if done.returncode == NO_COMPILER:
        pytest.skip('no compiler for GPUs here (it comes with pip install "numba-cuda[cu12]")')
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
