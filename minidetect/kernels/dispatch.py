"""How a kernel is compiled, and who is told of it.

`kernel`, `parallel_kernel` and `exact_kernel` are lazy decorators: nothing is compiled at import, only at
the first call with arrays of a new type, and the machine code is kept on disk (cache.py). A kernel may call
helpers in its own file and in any file of minidetect/kernels: a change in one of those makes it anew.

Two threads may run kernels at once, but not with Numba's `workqueue` threading layer, which is what it falls
back to where it finds neither TBB nor OpenMP.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numba
from numba import prange, types
from numba.core import event
from numba.core.dispatcher import Dispatcher

from minidetect.kernels.cache import KernelCache
from minidetect.kernels.threads import get_num_threads, num_threads, set_num_threads

__all__ = [
    "CompileWatch", "FASTMATH", "exact_kernel", "get_num_threads", "kernel", "num_threads", "parallel_kernel",
    "prange", "set_num_threads",
]  # fmt: skip

# LLVM may re-associate sums and use fused multiply-add, but must keep NaN and infinity: with the full set
# (`fastmath=True`) `isnan` is compiled to False and a diverged training would go unnoticed.
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


def kernel(function: Callable) -> Callable:
    """Compile for one thread. About a second the first time that it is called with a type of arrays."""
    return _keep(numba.njit(fastmath=FASTMATH, nogil=True)(function))


def parallel_kernel(function: Callable) -> Callable:
    """Compile so that the iterations of its `prange` run in threads; takes longer to compile than `kernel`."""
    return _keep(numba.njit(fastmath=FASTMATH, nogil=True, parallel=True)(function))


def exact_kernel(function: Callable) -> Callable:
    """`kernel`, rounding exactly as written: nothing re-associated, no fused multiply-add."""
    return _keep(numba.njit(nogil=True)(function))


def _keep(compiled: Callable) -> Callable:
    """Keep a kernel's machine code on disk, and compile it once for whole numbers, not for 0, 1 and 16 each."""
    if not isinstance(compiled, Dispatcher):  # with NUMBA_DISABLE_JIT=1 it is the plain function
        return compiled
    compiled._cache = KernelCache(compiled.py_func)
    resolve = compiled.get_call_template

    def resolve_without_literals(args, kws):
        # A kernel that calls `helper(x, 0)` would get a helper of its own, compiled for Literal[int](0): the
        # convolution's were compiled up to four times. LLVM puts the number in all the same when it inlines.
        return resolve(tuple(map(types.unliteral, args)), {name: types.unliteral(kind) for name, kind in kws.items()})

    compiled.get_call_template = resolve_without_literals
    return compiled


class CompileWatch(event.Listener):
    """`with CompileWatch(tell): ...` calls tell(number, seconds) as the compilation of a kernel begins and ends.

    number: kernels so far, this one and the helpers that it calls included; seconds: spent compiling so far.
    Both go on counting if it is entered again. A kernel that is loaded from disk isn't told of: that takes
    milliseconds.
    """

    def __init__(self, tell: Callable[[int, float], None]) -> None:
        self.tell = tell
        self.number, self.seconds = 0, 0.0
        self._begun: list[float] = []  # a helper's compilation happens within its kernel's

    def __enter__(self) -> CompileWatch:
        event.register("numba:compile", self)
        return self

    def __exit__(self, *error: object) -> None:
        event.unregister("numba:compile", self)

    def on_start(self, event: event.Event) -> None:
        if _is_ours(event):
            self._begun.append(time.perf_counter())
            self.number += 1
            self.tell(self.number, self.seconds + time.perf_counter() - self._begun[0])

    def on_end(self, event: event.Event) -> None:
        if _is_ours(event):
            seconds = self.seconds + time.perf_counter() - self._begun[0]
            self._begun.pop()
            if not self._begun:
                self.seconds = seconds
            self.tell(self.number, seconds)


def _is_ours(event: event.Event) -> bool:
    """Numba compiles small functions of its own as well."""
    return isinstance(getattr(event.data["dispatcher"], "_cache", None), KernelCache)
