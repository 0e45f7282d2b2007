"""The tests of the CUDA kernels, tests/cuda, file by file, each in a process of its own.

On a GPU where one can be used; else in Numba's simulator, which must be switched on before Numba is imported. Where
there is a compiler for GPUs, also compiled and interpreted: with the types that the simulator does not know, and with
as many threads as on a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "cuda"
FILES = sorted(FOLDER.glob("test_*.py"))
NOT_INTERPRETED = {"test_cuda_simulator", "test_cuda_interpreter", "test_cuda_benchmark"}  # which measures time
ONLY_INTERPRETED = {"test_cuda_work"}  # which counts instructions
ONLY_MEASURE = {("cuda_timing", name) for name in ("idle", "copy_numbers", "multiply_add")}  # kernels of the benchmark
NO_COMPILER = 77  # exit code of compile_kernels.py
LOOK = "from minidetect.kernels import gpu; print(gpu.is_available())"
TRY = "import pretended; print(pretended.has_compiler())"
INSTALL = 'no compiler for GPUs here (it comes with pip install "numba-cuda[cu12]")'


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=1800, env=os.environ | environment
    )  # fmt: skip


@pytest.fixture(scope="module")
def simulated() -> str:
    """NUMBA_ENABLE_CUDASIM for the tests: "0" where a GPU can be used."""
    return "0" if run(["-c", LOOK], NUMBA_ENABLE_CUDASIM="0").stdout.strip() == "True" else "1"


@pytest.fixture(scope="module")
def compiler() -> bool:
    path = os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")])
    return run(["-c", TRY], NUMBA_ENABLE_CUDASIM="0", PYTHONPATH=path).stdout.strip().endswith("True")


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the processes note the kernels that they have started (cuda/conftest.py)."""
    return tmp_path_factory.mktemp("started")


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, simulated: str, compiler: bool, notes: Path) -> dict[tuple, Future]:
    """(way, file) -> its process, for all that were asked for; one a processor runs at a time."""
    environment = {
        "direct": {"NUMBA_ENABLE_CUDASIM": simulated},
        "interpreted": {"NUMBA_ENABLE_CUDASIM": "0", "MINIDETECT_INTERPRETED": "1"},
    }
    pool, futures = ThreadPoolExecutor(os.cpu_count()), {}
    for item in request.session.items:
        chosen = item.callspec.params if hasattr(item, "callspec") else {}
        way, file = chosen.get("way"), chosen.get("file")
        if item.path == Path(__file__) and file and (way == "direct" or compiler):
            note = str(notes / f"{file.stem}.{way}")
            arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
            futures[way, file] = pool.submit(run, arguments, **environment[way], MINIDETECT_STARTED=note)
    yield futures
    pool.shutdown(cancel_futures=True)


def test_there_are_tests():
    assert len(FILES) > 8


WAYS = [("direct", file) for file in FILES if file.stem not in ONLY_INTERPRETED]
WAYS += [("interpreted", file) for file in FILES if file.stem not in NOT_INTERPRETED]


@pytest.mark.parametrize(("way", "file"), WAYS, ids=lambda part: part if isinstance(part, str) else part.stem)
def test_on_the_gpu_or_without(way, file, runs):
    """direct: on the GPU, or in the simulator; interpreted: compiled, and what the compiler made is interpreted."""
    if (way, file) not in runs:
        pytest.skip(INSTALL)
    done = runs[way, file].result()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "[100%]" in done.stdout, done.stdout[-1000:]


@pytest.mark.parametrize("way", ["direct", "interpreted"])
def test_every_kernel_was_started(way, simulated, notes):
    """By the tests above: a kernel that none of them starts is tested by nobody."""
    files = list(notes.glob(f"*.{way}"))
    if len(files) < sum(way == its for its, _ in WAYS) or (way == "direct" and simulated == "0"):
        pytest.skip("only after all files above, and not on a GPU, where nobody notes what was started")
    sys.path.insert(0, str(FOLDER))
    from compile_kernels import ROOT, kernels_in

    started = {tuple(line.split(".")) for file in files for line in file.read_text().split()}
    expected = kernels_in(ROOT) - (ONLY_MEASURE if way == "interpreted" else set())
    assert not expected - started


def test_every_kernel_compiles():
    done = run([str(FOLDER / "compile_kernels.py")], NUMBA_ENABLE_CUDASIM="0")
    if done.returncode == NO_COMPILER:
        pytest.skip(INSTALL)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
