"""How a kernel is compiled, and how many threads it may use.

Nothing here compiles at import: `kernel` and `parallel_kernel` are lazy decorators, and Numba keeps the
machine code of the first call in its cache on disk. Numba's cache watches only the file a kernel stands
in, so a kernel and the small helpers it calls live in one file.
"""

from __future__ import annotations

import numba
from numba import prange

__all__ = ["FASTMATH", "get_num_threads", "kernel", "parallel_kernel", "prange", "set_num_threads"]

# LLVM may re-associate sums and use fused multiply-add, but must keep NaN and infinity: with the full set
# (`fastmath=True`) `isnan` is compiled to False and a diverged training would go unnoticed.
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}

kernel = numba.njit(cache=True, fastmath=FASTMATH, nogil=True)
parallel_kernel = numba.njit(cache=True, fastmath=FASTMATH, nogil=True, parallel=True)


def set_num_threads(n: int) -> None:
    """Let Numba's parallel kernels use `n` threads (1 to the number the process started with)."""
    most = numba.config.NUMBA_NUM_THREADS
    if not 1 <= n <= most:
        raise ValueError(f"threads must be between 1 and {most} on this machine, got {n}")
    numba.set_num_threads(n)


def get_num_threads() -> int:
    return numba.get_num_threads()
