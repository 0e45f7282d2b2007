"""The GPU, where there is one: the package that drives it, and how many threads a kernel is started with.

CUDA kernels are written with Numba, like those for the processor, and stand in files of their own beside them:
roi_pool_cuda.py beside roi_pool.py, with the index geometry (which cells a bin sees) taken from there. Nothing imports
these files until an array on the GPU asks for them (device.py).

Three things can stand behind `cuda` here, under one name:

    numba-cuda       NVIDIA's package, for CUDA 12 and 13: this package's extras cuda and cuda13
    numba.cuda       what Numba itself still brings along, deprecated
    the simulator    with NUMBA_ENABLE_CUDASIM=1 set before Numba is imported: Python plays the GPU's threads, one
                     after the other. For tests and lessons without a GPU; it knows no types, and no speed.

A grid is the threads of all blocks. A kernel for n things runs `for i in range(cuda.grid(1), n, cuda.gridsize(1))`:
each thread takes every gridsize-th, so that any number of threads does all of the work, and few do it in the simulator.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import config, types
from numba.extending import overload

try:
    from numba import cuda
except ImportError as error:  # a future Numba without its own
    raise ImportError('arrays on the GPU need the package numba-cuda: pip install "numba-cuda[cu12]"') from error

SIMULATED = bool(config.ENABLE_CUDASIM)
config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # a network ends in maps of a few cells: small grids are no mistake
THREADS = 4 if SIMULATED else 256  # of a block that walks over a list of things
MOST_BLOCKS = 2 if SIMULATED else 4096  # enough to fill any GPU of today several times over


class NoGPUError(OSError, RuntimeError):
    """There is no GPU that could be used: a device is missing (OSError), whatever the arguments were."""


@functools.cache
def require_gpu() -> None:
    """Raise NoGPUError that says what is missing, unless kernels can be run."""
    if config.CUDA_PER_THREAD_DEFAULT_STREAM:
        raise NoGPUError("memory is used again in the order of one queue: unset NUMBA_CUDA_PER_THREAD_DEFAULT_STREAM")
    if SIMULATED or cuda.is_available():
        return
    try:
        cuda.detect()
        reason = "Numba finds no usable device"
    except Exception as error:  # of the driver, of the toolkit: each has its own kind
        reason = " ".join(str(error).split()).rstrip(" :.") or type(error).__name__
    raise NoGPUError(
        f"no GPU can be used here: {reason}. It takes an NVIDIA driver, and Numba's CUDA package with its compiler: "
        'pip install "numba-cuda[cu12]" (or "numba-cuda[cu13]" for a driver of CUDA 13). Without a GPU everything else '
        "works, and NUMBA_ENABLE_CUDASIM=1, set before Python starts, runs the kernels in Numba's slow simulator"
    )


def is_available() -> bool:
    """Whether kernels can be run, on a GPU or in the simulator."""
    try:
        require_gpu()
    except NoGPUError:
        return False
    return True


def grid_for(count: int) -> tuple[int, int]:
    """Blocks and threads of a block for `count` things, at least 1, to write kernel[grid_for(n)](...)."""
    return min(-(-count // THREADS), MOST_BLOCKS), THREADS


def describe() -> str:
    """What `cuda` is here: "NVIDIA H100 80GB HBM3, compute capability 9.0", or the simulator."""
    require_gpu()
    if SIMULATED:
        return "Numba's CUDA simulator"
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    major, minor = device.compute_capability
    return f"{name}, compute capability {major}.{minor}"


# --------------------------------------------------------------------------------------------------------- memory

KEPT_SHARE = 0.8  # of the GPU's memory: so much that nobody uses is kept for the next array of the same size

_kept: dict[tuple[int, np.dtype], list[Any]] = {}  # what was asked for longest ago comes first
_kept_bytes = 0
_lock = threading.RLock()


@functools.cache
def most_kept() -> int:
    """KEPT_SHARE in bytes."""
    return 1 << 30 if SIMULATED else int(KEPT_SHARE * cuda.current_context().get_memory_info()[1])


class Memory:
    """Room for `size` numbers on the GPU: `array`, one of Numba's.

    To ask the driver for memory takes longer than many a kernel, and to give it back waits for all of them. A training
    step asks for the same sizes again and again: so what was given back is kept. It may be used at once, though a
    kernel that reads it may still be running: all kernels run in one queue, one after the other.
    """

    def __init__(self, size: int, dtype: np.dtype) -> None:
        global _kept_bytes
        require_gpu()
        self.key, self.array = (max(size, 1), dtype), None
        self.nbytes = self.key[0] * dtype.itemsize
        most_kept()
        with _lock:
            same = _kept.pop(self.key, [])
            if same:
                self.array = same.pop()
                _kept_bytes -= self.nbytes
            if same:
                _kept[self.key] = same  # now the last one asked for
        if self.array is None:
            self.array = self._ask()

    def _ask(self) -> Any:
        try:
            return cuda.device_array(*self.key)
        except cuda.cudadrv.driver.CudaAPIError:  # out of memory, perhaps for what is kept here
            release_memory()
            return cuda.device_array(*self.key)

    def __del__(self) -> None:
        global _kept_bytes
        array = getattr(self, "array", None)
        if array is None or self.nbytes > most_kept():  # which `__init__` has asked the driver for
            return
        with _lock:
            while _kept_bytes + self.nbytes > most_kept():
                size, dtype = oldest = next(iter(_kept))
                _kept_bytes -= size * dtype.itemsize * len(_kept.pop(oldest))
            _kept.setdefault(self.key, []).append(array)
            _kept_bytes += self.nbytes

    def __reduce__(self) -> tuple:
        raise TypeError("memory on the GPU is copied as a DeviceArray")


def release_memory() -> None:
    """Give all memory that nobody uses back to the driver, for other programs."""
    global _kept_bytes
    with _lock:
        _kept.clear()
        _kept_bytes = 0


# ---------------------------------------------------------------------------- what Numba's own numba.cuda lacks


def _pick(function: Callable, first_wins: Callable) -> None:
    def numbers(a, b):
        return first_wins if isinstance(a, types.Number) and isinstance(b, types.Number) else None

    overload(function, target="cuda")(numbers)


if not SIMULATED and getattr(cuda, "implementation", "") == "Built-in":  # of Numba 0.68 can't compile min(a, b)
    _pick(min, lambda a, b: a if a < b else b)
    _pick(max, lambda a, b: a if a > b else b)


# ------------------------------------------------------------------------------- arithmetic that is not contracted

# A GPU's compiler makes a * b + c one instruction that rounds once. Overlaps of boxes must be the same number on both
# targets, or one that equals a threshold falls on either side: these products round at once.
if SIMULATED:
    rounded_product = {"float32": cuda.jit(device=True)(lambda a, b: a * b)}
    rounded_product["float64"] = rounded_product["float32"]
else:
    from numba.cuda import libdevice

    rounded_product = {"float32": libdevice.fmul_rn, "float64": libdevice.dmul_rn}
