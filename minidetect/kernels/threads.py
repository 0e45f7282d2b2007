"""How many threads the arithmetic may use: Numba's parallel kernels and NumPy's matrix products, in one go.

They keep two pools of threads, each as large as the machine unless told otherwise. Numba has a function for
its own. NumPy has none: its products are done by a BLAS, in the wheels a copy of OpenBLAS, whose function is
called here by its name in the library file. OpenBLAS and, on Linux, MKL are found; for any other (Apple's
Accelerate) only an environment variable set before NumPy is imported helps, and `blas_threads` returns None.

Numba's number holds for the thread that sets it, OpenBLAS' for the whole process.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numba
import numpy as np

# (set, get), as the libraries that are around name them: NumPy's wheels, others' builds, Intel's.
FUNCTIONS = (
    ("scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"),
    ("scipy_openblas_set_num_threads", "scipy_openblas_get_num_threads"),
    ("openblas_set_num_threads64_", "openblas_get_num_threads64_"),
    ("openblas_set_num_threads", "openblas_get_num_threads"),
    ("MKL_Set_Num_Threads", "MKL_Get_Max_Threads"),
)


_lock = threading.Lock()  # of the two below
_inside = 0  # threads of Python that are inside `one_blas_thread`
_before: list[int] = []  # the BLAS libraries' numbers when the first of them entered


def set_num_threads(n: int) -> None:
    """Let kernels and matrix products use `n` threads, 1 to the number that the process started with."""
    if not 1 <= n <= max_threads():
        raise ValueError(f"threads must be between 1 and {max_threads()} on this machine, got {n}")
    numba.set_num_threads(n)
    for set_blas, _ in blas_functions():
        set_blas(n)


def get_num_threads() -> int:
    """How many threads kernels use."""
    return numba.get_num_threads()


def max_threads() -> int:
    """How many this process may use: one a processor, or what NUMBA_NUM_THREADS said when it started."""
    return numba.config.NUMBA_NUM_THREADS


def blas_threads() -> int | None:
    """How many threads NumPy's matrix products use; None for a BLAS that can't be asked."""
    return max((get_blas() for _, get_blas in blas_functions()), default=None)


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """`with num_threads(1): ...`, and afterwards as before."""
    kernels, products = get_num_threads(), [get_blas() for _, get_blas in blas_functions()]
    set_num_threads(n)
    try:
        yield
    finally:
        numba.set_num_threads(kernels)
        for (set_blas, _), before in zip(blas_functions(), products, strict=True):
            set_blas(before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's matrix products inside use one thread, and afterwards as many as before; about 3 us.

    Where several threads of Python are inside at once, the first to enter remembers the number, the last restores it.
    """
    global _inside, _before
    with _lock:
        _inside += 1
        if _inside == 1:
            _before = [get_blas() for _, get_blas in blas_functions()]
            _set_blas([1] * len(_before))
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _set_blas(_before)


def _set_blas(counts: list[int]) -> None:
    for (set_blas, _), count in zip(blas_functions(), counts, strict=True):
        set_blas(count)


@functools.cache
def blas_functions() -> tuple:
    """The pairs (set, get) of each BLAS that NumPy has loaded."""
    found = []
    for file in _blas_files():
        try:
            library = ctypes.CDLL(file)  # already loaded, so this only returns it
        except OSError:
            continue
        for names in FUNCTIONS:
            if all(hasattr(library, name) for name in names):
                found.append(tuple(getattr(library, name) for name in names))
                break
    return tuple(found)


def _blas_files() -> list[str]:
    """NumPy's own copy if it has one; else what this process has loaded under such a name (Linux tells)."""
    home = Path(np.__file__).parent
    bundled = [str(f) for d in (home.parent / "numpy.libs", home / ".dylibs") for f in d.glob("*openblas*")]
    if bundled or sys.platform != "linux":
        return bundled
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "/" in line}
    return sorted(path for path in paths if "openblas" in Path(path).name or "libmkl_rt" in Path(path).name)
