"""A GPU that isn't there: launching a kernel compiles it for the types of its arguments, and may interpret the result.

    pretend_a_gpu(run=False)      arrays "on the GPU" are NumPy's, nothing is computed: compile_kernels.py
    pretend_a_gpu(run=True)       arrays lie in the interpreter's memory, every access is looked at
    with counting() as counts:    of each launch some threads are run, to count what they take: count_work.py

Needs the compiler (NVVM), which comes with "numba-cuda[cu12]", and a process without the simulator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import ptx
from interpreter import ROOM, Kernel
from numba import cuda, from_dtype, types
from ptx_counts import Counts
from ptx_memory import UNWRITTEN, WRITTEN, Memory

COMPUTE = (8, 0)  # A100 and newer
SAMPLE = 4096  # threads of a launch that are run where work is counted

compiled: dict[tuple, str] = {}  # (kernel, types of its arguments) -> PTX
kernels: dict[tuple, Kernel] = {}
room: Memory | None = None  # the GPU's, where kernels run
counts: Counts | None = None  # while something is counted


class Pretended(np.ndarray):
    """An array "on the GPU"."""

    def copy_to_device(self, array: np.ndarray) -> None:
        self[...] = array
        if room is not None:
            room.mark(self, WRITTEN)

    def copy_to_host(self, array: np.ndarray) -> None:
        array[...] = self


def type_of(argument: object) -> types.Type:
    """Numba's type of a kernel's argument."""
    if isinstance(argument, np.ndarray):
        return types.Array(from_dtype(argument.dtype), argument.ndim, "C")
    if isinstance(argument, tuple):
        return types.BaseTuple.from_types([type_of(part) for part in argument])
    if isinstance(argument, (bool, np.bool_)):
        return types.boolean
    if isinstance(argument, np.generic):
        return from_dtype(argument.dtype)
    return {int: types.int64, float: types.float64}[type(argument)]


def flattened(argument: object) -> list:
    """An argument as the parameters of the PTX: an array is two pointers, its size, its address, shape and strides."""
    if isinstance(argument, np.ndarray):
        return [0, 0, argument.size, argument.itemsize, argument.ctypes.data, *argument.shape, *argument.strides]
    if isinstance(argument, tuple):
        return [number for part in argument for number in flattened(part)]
    return [argument]


@contextmanager
def counting() -> Iterator[Counts]:
    """What all launches inside take, of which SAMPLE threads each are run: what others would have written is 0."""
    global counts
    counts = Counts()
    try:
        yield counts
    finally:
        counts = None


def pretend_a_gpu(run: bool) -> None:
    """Let every launch of this process compile its kernel, and interpret it with `run`."""
    import numba.cuda.dispatcher as dispatcher

    from minidetect.kernels import gpu

    global room
    room = Memory(ROOM, "global") if run else None

    def start(kernel: object, grid: tuple) -> object:
        """What kernel[grid] gives."""

        def launch(*arguments: object) -> None:
            key = kernel, tuple(type_of(a) for a in arguments)
            if key not in compiled:
                compiled[key] = cuda.compile_ptx(kernel.py_func, key[1], cc=COMPUTE, lineinfo=run)[0]
            if run:
                if key not in kernels:
                    kernels[key] = Kernel(ptx.parse(compiled[key]))
                shapes = [np.atleast_1d(part).tolist() for part in grid]
                if counts is None:
                    kernels[key].run(*shapes, flattened(arguments), room)
                else:
                    kernels[key].run_some(*shapes, flattened(arguments), room, SAMPLE, counts)

        assert len(grid) == 2 and all(np.all(np.asarray(part) > 0) for part in grid), f"{kernel}[{grid}]"
        return launch

    def device_array(size: int, dtype: np.dtype) -> Pretended:
        if room is None:
            return np.zeros(size, dtype).view(Pretended)
        return room.allocate(int(size), dtype, Pretended)

    make = gpu.Memory.__init__

    def make_unwritten(self: gpu.Memory, size: int, dtype: np.dtype) -> None:
        """Memory that is used again holds no numbers: NaN, or -1."""
        make(self, size, dtype)
        room.mark(self.array, *((UNWRITTEN, 255) if counts is None else (WRITTEN, 0)))

    release = gpu.release_memory

    def give_back() -> None:
        for array in (array for arrays in gpu._kept.values() for array in arrays):
            room.give_back(array)
        release()

    if run:
        gpu.Memory.__init__, gpu.release_memory = make_unwritten, give_back
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=COMPUTE)
    dispatcher.CUDADispatcher.__getitem__ = start
    cuda.device_array = device_array
    gpu.require_gpu = lambda: None
    gpu.most_kept = lambda: 1 << 40


def kernel_name(function: object) -> tuple[str, str]:
    """(module, name)."""
    return function.__module__.rpartition(".")[2], function.__name__


def has_compiler() -> bool:
    """Whether a kernel of one line can be compiled: then any error of another is its own."""

    @cuda.jit
    def nothing(x):
        x[0] = 0

    try:
        cuda.compile_ptx(nothing.py_func, (types.float32[::1],), cc=COMPUTE)
    except Exception as error:  # each of Numba's targets has its own
        print(f"no compiler for GPUs: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return False
    return True
