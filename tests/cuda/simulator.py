"""Numba's CUDA simulator, made fit for a thousand launches: the threads of a block take turns.

The simulator starts all threads of a block at once and asks each of them, again and again, whether it waits at
`cuda.syncthreads`, which keeps them from running: the convolutions of test_cuda_conv.py would take many times as long.
Here one thread runs at a time, up to its next barrier, and hands over to the next. Their order is drawn anew for every
stretch between two barriers, so that a barrier which is missing shows in the result.
"""

from __future__ import annotations

import functools
import inspect
import random
import threading
from collections.abc import Callable

import numpy as np
from numba.cuda.simulator import kernel as simulator
from numba.cuda.simulator.cudadrv.devicearray import FakeWithinKernelCUDAArray


class Turns:
    """Lets `threads` run one at a time. Each calls `wait` at a barrier and `leave` at its end."""

    def __init__(self, threads: int, order: random.Random) -> None:
        self.baton = [threading.Semaphore(0) for _ in range(threads)]
        self.alive, self.queue, self.order = set(range(threads)), [], order
        self.done = threading.Event()

    def next(self) -> None:
        if not self.alive:
            self.done.set()
            return
        if not self.queue:
            self.queue = sorted(self.alive)
            self.order.shuffle(self.queue)
        self.baton[self.queue.pop()].release()

    def wait(self, me: int) -> None:
        self.next()
        self.baton[me].acquire()

    def leave(self, me: int) -> None:
        self.alive.discard(me)
        self.next()


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
    for thread in threads:
        if thread.exception:
            raise thread.exception[0].with_traceback(thread.exception[1])


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
