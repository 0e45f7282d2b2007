"""Numba's CUDA simulator, made fit for a thousand launches: the threads of a block take turns.

The simulator starts all threads of a block at once and asks each of them, again and again, whether it waits at
`cuda.syncthreads`, which keeps them from running: the convolutions of test_cuda_conv.py would take many times as long.
Here one thread runs at a time, up to its next barrier, and hands over to the next. Their order is drawn anew for every
stretch between two barriers, so that a barrier which is missing shows in the result. And it is noted where each thread
waits: a barrier that not all of them reach, or that is another one for some, is an error that names the lines. A GPU
would say nothing: it may wait forever, or go on with numbers that are not there yet.
"""

from __future__ import annotations

import functools
import inspect
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba.cuda.simulator import kernel as simulator
from numba.cuda.simulator.cudadrv.devicearray import FakeWithinKernelCUDAArray

PACKAGE = str(Path(simulator.__file__).parent)


class BarrierError(RuntimeError):
    """The threads of a block do not all wait at the same barrier."""


class Turns:
    """Lets `threads` run one at a time. Each calls `wait` at a barrier and `leave` at its end.

    Where they disagree about the barrier, `error` says how, and all that wait are ended by it.
    """

    def __init__(self, threads: int, order: random.Random) -> None:
        self.baton = [threading.Semaphore(0) for _ in range(threads)]
        self.alive, self.queue, self.order = set(range(threads)), [], order
        self.places: dict[int, tuple] = {}  # of the threads that wait
        self.error: BarrierError | None = None
        self.done = threading.Event()

    def next(self) -> None:
        if not self.alive:
            self.done.set()
            return
        if not self.queue:  # the end of a stretch: all that are alive wait
            self.error = self.error or self.disagreement()
            self.queue = sorted(self.alive)
            self.order.shuffle(self.queue)
        self.baton[self.queue.pop()].release()

    def wait(self, me: int) -> None:
        self.places[me] = lines_of_kernel()
        self.next()
        self.baton[me].acquire()
        if self.error is not None:
            raise self.error

    def leave(self, me: int) -> None:
        self.alive.discard(me)
        self.places.pop(me, None)
        self.next()

    def disagreement(self) -> BarrierError | None:
        places, ended = Counter(self.places.values()), len(self.baton) - len(self.alive)
        if len(places) + (ended > 0) < 2:
            return None
        found = [f"{count} at {described(place)}" for place, count in places.items()]
        return BarrierError(f"of a block's threads {', '.join(found)} wait for the others, and {ended} have ended")


def lines_of_kernel() -> tuple[tuple[str, int], ...]:
    """File and line where the thread that waits is; in a device function also where that was called, and so on.

    For a device function that waits, and is called at two lines, is two barriers.
    """
    lines, frame = [], sys._getframe(3)  # without this function, `wait` and the lambda that called it
    while frame.f_code.co_filename != __file__:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            lines.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(lines)


def described(place: tuple[tuple[str, int], ...]) -> str:
    return ", called at ".join(f"{Path(file).name}:{line}" for file, line in place)


def run_block(manager: simulator.BlockManager, grid_point: tuple, *args: object) -> None:
    """What BlockManager.run does, in turns."""
    points = list(np.ndindex(*manager._block_dim))
    random.Random(repr(grid_point)).shuffle(points)
    if not has_barrier(manager._f):
        run_in_this_thread(manager, grid_point, points, args)
        return
    turns = Turns(len(points), random.Random(repr(grid_point)))

    def target(me: int) -> Callable[[], None]:
        def run() -> None:
            turns.baton[me].acquire()
            try:
                manager._f(*args)
            finally:
                turns.leave(me)

        return run

    threads = [
        simulator.BlockThread(target(me), manager, grid_point, point, manager._debug)
        for me, point in enumerate(points)
    ]
    for me, thread in enumerate(threads):
        thread.syncthreads = lambda me=me: turns.wait(me)
        thread.start()
    turns.next()
    turns.done.wait()
    errors = [thread.exception for thread in threads if thread.exception]
    if errors:  # one that is no BarrierError comes first: it may be the reason for them
        error, traceback = min(errors, key=lambda pair: isinstance(pair[0], BarrierError))
        raise error.with_traceback(traceback)


@functools.cache
def has_barrier(kernel: Callable) -> bool:
    """Whether a kernel, or a device function that it calls, waits for the other threads of its block."""
    inside = inspect.getclosurevars(kernel)
    values = {**inside.globals, **inside.nonlocals}.values()
    called = [value.fn for value in values if isinstance(value, simulator.FakeCUDAKernel)]
    return "syncthreads" in kernel.__code__.co_names or any(map(has_barrier, called))


def run_in_this_thread(manager: simulator.BlockManager, grid_point: tuple, points: list, args: tuple) -> None:
    """Without a barrier no thread waits for another: this one plays them all."""
    player = threading.current_thread()
    player.blockIdx, player._manager = simulator.Dim3(*grid_point), manager
    for point in points:
        player.threadIdx = simulator.Dim3(*point)
        manager._f(*args)


def attribute(array: FakeWithinKernelCUDAArray, name: str) -> object:
    """`x.size` in a kernel; the simulator lists all attributes of the array first, each time."""
    return getattr(array._item._ary, name)


def quicken() -> None:
    """Let all kernels of this process run so."""
    simulator.BlockManager.run = run_block
    FakeWithinKernelCUDAArray.__getattr__ = attribute
