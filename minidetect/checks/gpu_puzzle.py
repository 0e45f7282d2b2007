"""A GPU that can be looked into: runs numba.cuda kernels in Python, one thread at a time, and notes every access.

    report = launch(kernel, blocks, threads, x, out)     # kernel: plain source of a numba.cuda kernel, not compiled
    report.count("read", "x"), report.heat("x"), report.lines("x"), report.races()

Numba's own simulator runs the same source, but it counts nothing and sees no race. This one knows grid, gridsize,
threadIdx, blockIdx, blockDim, gridDim, syncthreads, shared.array, local.array, atomic.add and atomic.max, and stops at
what a real GPU answers with wrong numbers or not at all: an index out of range, a cell of shared memory read before
it is written, a barrier that some threads of a block never reach.

It does not import Numba: while a kernel runs, the name `cuda` in it stands for this device. Where a kernel has
barriers (or with lockstep=True) each of its threads is a thread of Python, of which one at a time may go on; else they
are plain calls, one after the other. What is left out: warps that run ahead of each other, shuffles, streams, time.
"""

from __future__ import annotations

import linecache
import operator
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType, FunctionType, SimpleNamespace
from typing import Any

import numpy as np

from minidetect.checks.gpu_report import Access, Dim3, Report, place, short

SHARED_BYTES = 48 * 1024  # of a block
MOST_THREADS = 1024  # of a block

Size = int | tuple[int, ...]


class Fault(Exception):
    """What a GPU would not have forgiven, with the kernel's line."""


class Constant(int):
    """A global number, as a kernel finds it by its name; a sum with it is none, as in Numba."""


class Watched:
    """An array as a kernel sees it. known: which cells of shared memory were written; prefix: a[i] is a row of a."""

    def __init__(self, device: Device, name: str, values: np.ndarray, known: np.ndarray | None, prefix: tuple) -> None:
        self.device, self.name, self.values, self.known, self.prefix = device, name, values, known, prefix
        self.shape = values.shape[len(prefix) :]
        self.ndim, self.dtype = len(self.shape), values.dtype
        self.size = int(np.prod(self.shape, dtype=int))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        cell = self.cell(index)
        if len(cell) < self.values.ndim:
            return Watched(self.device, self.name, self.values, self.known, cell)
        return self.get("read", cell)

    def __setitem__(self, index: Any, value: Any) -> None:
        cell = self.cell(index)
        if len(cell) < self.values.ndim:
            raise Fault(f"{place(self.name, cell)} is a row; write its cells one by one ({line_of(caller())})")
        self.set("write", cell, value)

    def cell(self, index: Any) -> tuple[int, ...]:
        """The whole index as numbers that are in range."""
        index = index if isinstance(index, tuple) else (index,)
        try:
            cell = (*self.prefix, *(operator.index(i) for i in index))
        except TypeError:
            raise Fault(f"an index of {self.name} must be whole numbers, not {index} ({line_of(caller())})") from None
        if len(cell) > self.values.ndim or not all(0 <= i < n for i, n in zip(cell, self.values.shape, strict=False)):
            who = f"thread {short(self.device.thread.index)} of block {short(self.device.thread.block)}"
            where = f"{place(self.name, cell)}; its shape is {self.values.shape} ({line_of(caller())})"
            raise Fault(f"{who} reaches outside of the array: {where}")
        return cell

    def get(self, kind: str, cell: tuple[int, ...]) -> Any:
        if self.known is not None and not self.known[cell]:
            who = f"thread {short(self.device.thread.index)}"
            raise Fault(f"{who} reads {place(self.name, cell)}, and nobody has written there ({line_of(caller())})")
        value = self.values[cell]
        self.device.note(kind, self.name, cell)
        return value

    def set(self, kind: str, cell: tuple[int, ...], value: Any) -> None:
        self.values[cell] = value
        if self.known is not None:
            self.known[cell] = True
        self.device.note(kind, self.name, cell)


@dataclass(eq=False)
class Thread:
    """One thread of a block. waits: the line of the barrier that it stands at, "" while it runs."""

    block: Dim3
    index: Dim3
    phase: int = 0
    waits: str = ""
    done: bool = False
    error: BaseException | None = None
    asked: Counter = field(default_factory=Counter)  # for shared memory, by line
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class Stop(BaseException):
    """Ends the threads that still wait when another one has failed."""


class Device:
    """What a kernel finds under the name `cuda`; also the one who says which thread goes on."""

    def __init__(self, grid: Dim3, block: Dim3, lockstep: bool) -> None:
        self.gridDim, self.blockDim = grid, block
        self.lockstep, self.stopped, self.log = lockstep, False, []
        self.back = threading.Semaphore(0)
        self.thread: Thread | None = None
        self.kept: dict[Any, Watched] = {}  # the block's shared memory, by the line that asks for it
        self.shared = SimpleNamespace(array=self.shared_array)
        self.local = SimpleNamespace(array=local_array)
        self.atomic = SimpleNamespace(
            add=lambda array, index, value: self.change(array, index, lambda old: old + array.dtype.type(value)),
            max=lambda array, index, value: self.change(array, index, lambda old: max(old, array.dtype.type(value))),
        )

    threadIdx = property(lambda self: self.thread.index)
    blockIdx = property(lambda self: self.thread.block)

    def grid(self, axes: int) -> Size:
        """A thread's place among all threads of all blocks; (x, y) for two axes."""
        found = [b * n + t for b, n, t in zip(self.blockIdx, self.blockDim, self.threadIdx, strict=True)]
        return found[0] if axes == 1 else tuple(found[:axes])

    def gridsize(self, axes: int) -> Size:
        found = [b * n for b, n in zip(self.gridDim, self.blockDim, strict=True)]
        return found[0] if axes == 1 else tuple(found[:axes])

    def syncthreads(self) -> None:
        self.thread.waits = line_of(caller())
        self.pause()

    def shared_array(self, shape: Size, dtype: Any) -> Watched:
        frame, sizes = caller(), shape if isinstance(shape, tuple) else (shape,)
        if not all(isinstance(n, Constant) or n in numbers_in(frame.f_code.co_consts) for n in sizes):
            raise Fault(f"a size of shared memory must be a number or a global name, no expression ({line_of(frame)})")
        self.thread.asked[frame.f_lineno] += 1
        key = frame.f_code, frame.f_lineno, self.thread.asked[frame.f_lineno]
        if key not in self.kept:
            name = "shared" if not self.kept else f"shared {len(self.kept) + 1}"
            values = np.zeros(sizes, dtype_of(dtype))
            self.kept[key] = Watched(self, name, values, np.zeros(sizes, bool), ())
        if sum(w.values.nbytes for w in self.kept.values()) > SHARED_BYTES:
            raise Fault(f"a block has {SHARED_BYTES} bytes of shared memory ({line_of(frame)})")
        return self.kept[key]

    def change(self, array: Watched, index: Any, operation: Callable) -> Any:
        """Read, compute and write, with no other thread between."""
        cell = array.cell(index)
        if array.known is not None and not array.known[cell]:
            raise Fault(f"atomic on {place(array.name, cell)}, and nobody has written there ({line_of(caller())})")
        old = array.values[cell]
        array.set("atomic", cell, operation(old))
        return old

    def note(self, kind: str, array: str, cell: tuple[int, ...]) -> None:
        thread = self.thread
        self.log.append(Access(kind, array, cell, thread.block, thread.index, thread.phase, caller().f_lineno))
        if self.lockstep:
            self.pause()

    def pause(self) -> None:
        """In a thread: let the others go on until it is called up again."""
        thread = self.thread
        self.back.release()
        thread.go.acquire()
        if self.stopped:
            raise Stop

    def let_go(self, thread: Thread) -> None:
        """In the launch: let one thread run to its next pause or its end."""
        self.thread = thread
        thread.go.release()
        self.back.acquire()
        if thread.error is not None:
            raise thread.error

    def run_block(self, body: Callable[[], None], threads: list[Thread]) -> None:
        """All threads of a block, in the order given, from barrier to barrier."""

        def live(thread: Thread) -> None:
            thread.go.acquire()
            try:
                if not self.stopped:
                    body()
            except Stop:
                pass
            except BaseException as error:  # told in the launch's own thread
                thread.error = error
            thread.done = True
            self.back.release()

        for thread in threads:
            threading.Thread(target=live, args=(thread,), daemon=True).start()
        try:
            while not all(t.done for t in threads):
                while running := [t for t in threads if not t.done and not t.waits]:
                    for thread in running:
                        self.let_go(thread)
                pass_barrier(threads)
        finally:
            self.stopped = True
            for thread in threads:
                if not thread.done:
                    thread.go.release()
                    self.back.acquire()
            self.stopped = False


def pass_barrier(threads: list[Thread]) -> None:
    """All threads of a block stand still: let them pass if they all stand at the same barrier, or have all ended."""
    waiting = [t for t in threads if not t.done]
    ended = [t for t in threads if t.done]
    if waiting and ended:
        raise Fault(
            f"thread {short(waiting[0].index)} of block {short(waiting[0].block)} waits at the barrier "
            f"({waiting[0].waits}), but thread {short(ended[0].index)} has ended without coming there"
        )
    if len({t.waits for t in waiting}) > 1:
        other = next(t for t in waiting if t.waits != waiting[0].waits)
        raise Fault(
            f"threads {short(waiting[0].index)} and {short(other.index)} of block {short(other.block)} wait at two "
            f"different barriers ({waiting[0].waits}; {other.waits})"
        )
    for thread in waiting:
        thread.waits, thread.phase = "", thread.phase + 1


def numbers_in(constants: tuple) -> set[int]:
    """The whole numbers that stand in a function's source, those of its tuples included."""
    return {n for c in constants for n in (c if isinstance(c, tuple) else (c,)) if isinstance(n, int)}


def local_array(shape: Size, dtype: Any) -> np.ndarray:
    """A thread's own small array, full of what nobody should read."""
    kind = dtype_of(dtype)
    return np.full(shape, np.nan if kind.kind == "f" else 99, kind)


def dtype_of(dtype: Any) -> np.dtype:
    """NumPy's dtype of its own or of Numba's type, float32 or np.float32."""
    return np.dtype(dtype if isinstance(dtype, (type, np.dtype)) else str(dtype))


def caller() -> FrameType:
    """The kernel's frame: the nearest one that is not in this file."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame


def line_of(frame: FrameType) -> str:
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f"line {frame.f_lineno}: {text}" if text else f"line {frame.f_lineno}"


def rebound(function: Any, names: Mapping[str, Any], done: dict) -> Any:
    """The function with other meanings for some global names, in it and in the functions that it calls."""
    function = getattr(function, "py_func", function)  # compiled for the GPU: its source
    if not isinstance(function, FunctionType):
        return function
    if function in done:
        return done[function]
    scope = {**function.__globals__, **names}
    new = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    done[function] = new
    for name in (set(function.__code__.co_names) & set(scope)) - {"cuda"}:
        scope[name] = Constant(scope[name]) if type(scope[name]) is int else rebound(scope[name], names, done)
    return new


def dim3(size: Size, what: str) -> Dim3:
    sizes = tuple(size) if isinstance(size, (tuple, list)) else (size,)
    if not 1 <= len(sizes) <= 3 or not all(n >= 1 for n in sizes):
        raise ValueError(f"{what} must be one to three numbers of at least 1, got {size}")
    return Dim3(*map(int, sizes), *[1] * (3 - len(sizes)))


def everyone(size: Dim3, order: np.random.Generator | None) -> Iterator[Dim3]:
    """All indices below `size`, x first, or in an order drawn by chance."""
    found = [Dim3(x, y, z) for z in range(size.z) for y in range(size.y) for x in range(size.x)]
    return iter(found if order is None else [found[i] for i in order.permutation(len(found))])


def launch(
    kernel: Callable,
    blocks: Size,
    threads: Size,
    *arguments: Any,
    order: np.random.Generator | None = None,
    lockstep: bool = False,
    **constants: Any,
) -> Report:
    """Run a kernel as `cuda.jit(kernel)[blocks, threads](*arguments)` would; arrays are written to in place.

    order: blocks, and the threads of each, take their turns in an order drawn by chance instead of the numbers'.
    lockstep: every thread of a block makes one access, then every thread makes the next one, as the threads of a warp
        do; else each runs on to its next barrier. constants: global names that the kernel shall find changed.

    Raises Fault where a GPU would go wrong, and what the kernel itself raises; races are told by the report.
    """
    grid, block = dim3(blocks, "blocks"), dim3(threads, "threads")
    if np.prod(block) > MOST_THREADS:
        raise ValueError(f"a block has at most {MOST_THREADS} threads, got {threads}")
    code = getattr(kernel, "py_func", kernel).__code__
    named = list(code.co_varnames[: code.co_argcount])
    named += [f"argument {i}" for i in range(len(named), len(arguments))]
    arrays = {name: a for name, a in zip(named, arguments, strict=False) if isinstance(a, np.ndarray)}
    device, done = Device(grid, block, lockstep), {}
    new = rebound(kernel, {"cuda": device, **constants}, done)
    given = [
        Watched(device, name, a, None, ()) if isinstance(a, np.ndarray) else a
        for name, a in zip(named, arguments, strict=False)
    ]
    alone = not lockstep and not any("syncthreads" in f.__code__.co_names for f in done.values())
    for place_of_block in everyone(grid, order):
        device.kept = {}
        team = [Thread(place_of_block, index) for index in everyone(block, order)]
        if not alone:
            device.run_block(lambda: new(*given), team)
            continue
        for device.thread in team:
            new(*given)
    return Report(device.log, arrays, block)
