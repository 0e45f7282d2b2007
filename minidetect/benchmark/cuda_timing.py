"""Timing on a GPU: what it can do at most, and how long a call keeps it busy.

A GPU works by itself while Python goes on: a clock in Python would measure how quickly calls are handed in. So an event
is put into the GPU's queue before a batch of calls and one after it, and the GPU notes when it passes them.

To hand in a small kernel takes Python longer (some 20 us) than the GPU needs for it (some 5): between two events the
GPU would mostly wait for Python. So a batch begins with a kernel that does nothing for a while (`idle`), and all calls
are waiting in the queue when it ends:

    queue    idle ....... | event | call 1 | call 2 | ... | event
    Python   hands in all of them ........................ , then waits

Whether they were is checked: if the first event has passed by the time that all is handed in, the batch is repeated
with a longer pause, and a time that has gaps in it all the same says so (`gaps`). That is the time of the kernels. What
a program sees that does one call after the other is `call`: the clock in Python over a batch, waiting at its end alone.

Calls in a batch take turns with several sets of inputs, whose results are kept until their next turn: together more
than the GPU's cache holds, so that every call reads from memory.

In Numba's simulator nothing of this means anything: it is gone through, with the clock in Python, to be tested.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidetect.benchmark.timing import quartiles
from minidetect.kernels.device import DeviceArray, empty, full
from minidetect.kernels.gpu import SIMULATED, cuda, grid_for

Call = Callable[[], Any]

MOST_CALLS = 1 if SIMULATED else 32  # of a batch: the queue holds about a thousand launches
BATCH = 0.01  # seconds that a batch should keep the GPU, or Python, busy at most
LONGEST_PAUSE = 0.05  # seconds
COPY_BYTES = 64 if SIMULATED else 1 << 30  # of either array: far more than any cache
CACHE_BYTES = 50 << 20  # where the GPU doesn't say
MOST_SETS = 2 if SIMULATED else 16
MOST_SET_BYTES = 4 << 30
FMA_THREADS, FMA_STEPS = ((1, 4), 2) if SIMULATED else ((4096, 256), 256)
FMAS = 64  # of each thread in each step


# ------------------------------------------------------------------------------------------------- kernels


@cuda.jit
def idle(steps, out):
    """One thread's chain of multiply-adds, each waiting for the one before: some 2 ns a step, and nobody else works."""
    v = out[0]
    for _ in range(steps):
        v = v * np.float32(0.999) + np.float32(0.001)
    out[0] = v


@cuda.jit
def multiply_add(steps, factor, term, out):
    """FMAS multiply-adds a thread and step, in 8 chains that do not wait for each other; nothing is loaded."""
    start = out.dtype.type(cuda.threadIdx.x)
    a, b, c, d = start, start + term, start - term, start + factor
    e, f, g, h = -a, -b, -c, -d
    for _ in range(steps):
        for _ in range(8):
            a, b, c, d = a * factor + term, b * factor + term, c * factor + term, d * factor + term
            e, f, g, h = e * factor + term, f * factor + term, g * factor + term, h * factor + term
    out[cuda.grid(1)] = ((a + b) + (c + d)) + ((e + f) + (g + h))


@cuda.jit
def copy_numbers(x, y):
    for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        y[i] = x[i]


# ---------------------------------------------------------------------------------------------- the stopwatch


@dataclass
class Contestant:
    """A call for each set of inputs, and what makes its events: Numba's or PyTorch's, which have the same methods."""

    calls: Sequence[Call]
    new_event: Callable[[], Any] = cuda.event
    results: dict[int, Any] = field(default_factory=dict)
    turn: int = 0

    def run(self, count: int) -> None:
        """The next `count` calls. A result lives until its inputs' next turn, so that results take turns as well."""
        for _ in range(count):
            k = self.turn % len(self.calls)
            self.results[k] = self.calls[k]()
            self.turn += 1


@dataclass(frozen=True)
class Timing:
    """seconds: how long a call keeps the GPU busy, one number a batch; call: how long it takes in a row of calls.

    gaps: did the GPU wait for Python in between? Then `seconds` is what Python takes, not the kernels.
    """

    seconds: np.ndarray
    call: float
    gaps: bool

    def as_json(self) -> dict:
        return {
            "seconds": float(np.median(self.seconds)), "spread": quartiles(self.seconds), "call": self.call,
            "gaps": self.gaps, "batches": len(self.seconds),
        }  # fmt: skip


class Stopwatch:
    """Knows how long `idle` takes. The first of a process starts the GPU and compiles that kernel."""

    def __init__(self) -> None:
        self.room, self.step = full(1, 1, np.float32), 0.0
        if not SIMULATED:
            self.pause(1000)
            steps = 2_000_000
            _, seconds = self.between_events(lambda: self.pause(steps), cuda.event)
            self.step = seconds / steps

    def pause(self, steps: int) -> None:
        idle[1, 1](steps, self.room.flat)

    def between_events(self, call: Callable[[], None], new_event: Callable[[], Any], pause: float = 0) -> tuple:
        """Whether the GPU was busy until all was handed in, and seconds between the events around it."""
        if SIMULATED:
            start = time.perf_counter()
            call()
            return True, time.perf_counter() - start
        first, last = new_event(), new_event()
        if pause:
            self.pause(int(pause / self.step))
        first.record()
        call()
        last.record()
        was_busy = not has_passed(first)
        last.synchronize()
        return was_busy, first.elapsed_time(last) / 1000

    def measure(self, contestants: Mapping[str, Contestant], budget: float, least: int = 5) -> dict[str, Timing]:
        """Batches in turn, ours and theirs, until `budget` seconds a contestant are spent; at least `least` of each."""
        least = 1 if SIMULATED else least
        plans = {name: self.plan(contestant) for name, contestant in contestants.items()}
        seconds: dict[str, list[float]] = {name: [] for name in plans}
        calls: dict[str, list[float]] = {name: [] for name in plans}
        collects = gc.isenabled()
        gc.disable()
        try:
            end = time.perf_counter() + budget * len(plans)
            while len(seconds[next(iter(plans))]) < least or time.perf_counter() < end:
                for name, plan in plans.items():
                    seconds[name].append(plan.batch(self))
                    if len(calls[name]) < least:
                        calls[name].append(by_clock(plan.contestant, plan.count))
        finally:
            if collects:
                gc.enable()
        return {
            name: Timing(np.array(seconds[name]), float(np.median(calls[name])), plan.gaps)
            for name, plan in plans.items()
        }

    def plan(self, contestant: Contestant) -> Plan:
        """How many calls make a batch, after a round of all sets that warms up."""
        contestant.run(len(contestant.calls))
        cuda.synchronize()
        once = by_clock(contestant, max(1, min(MOST_CALLS, len(contestant.calls))))
        count = max(1, min(MOST_CALLS, round(BATCH / max(once, 1e-7))))
        by_clock(contestant, count)  # as many arrays as a batch needs are there from now on
        start = time.perf_counter()
        contestant.run(count)
        handed_in = time.perf_counter() - start
        cuda.synchronize()
        return Plan(contestant, count, 1.5 * handed_in + 2e-4)


@dataclass
class Plan:
    """A contestant's batches: calls of each, seconds to pause before them; gaps: is there no pause long enough?"""

    contestant: Contestant
    count: int
    pause: float
    gaps: bool = False

    def batch(self, watch: Stopwatch) -> float:
        """Seconds a call."""
        while True:
            pause = 0 if self.gaps else min(self.pause, LONGEST_PAUSE)
            was_busy, seconds = watch.between_events(
                lambda: self.contestant.run(self.count), self.contestant.new_event, pause
            )
            if was_busy or self.gaps:
                return seconds / self.count
            self.gaps = self.pause > LONGEST_PAUSE  # a call that waits for the GPU can't be handed in ahead
            self.pause *= 3


def by_clock(contestant: Contestant, count: int) -> float:
    """Seconds a call by the clock in Python, in a row of `count`; the GPU is waited for at the end."""
    cuda.synchronize()
    start = time.perf_counter()
    contestant.run(count)
    cuda.synchronize()
    return (time.perf_counter() - start) / count


def has_passed(event: Any) -> bool:
    """Whether the GPU has reached the event. "Not yet" is one of the driver's error codes, and may arrive as such."""
    try:
        return bool(event.query())
    except Exception:
        return False


def sets_for(bytes_of_one: float) -> int:
    """How many sets of inputs and results are more than twice what the cache holds; no more than MOST_SETS."""
    enough = int(2 * cache_bytes() / max(bytes_of_one, 1)) + 1
    return max(2, min(enough, MOST_SETS, int(MOST_SET_BYTES / max(bytes_of_one, 1))))


def cache_bytes() -> int:
    """Of the GPU's last cache, which all of it shares."""
    try:
        return int(cuda.get_current_device().L2_CACHE_SIZE)
    except Exception:  # the simulator has no such thing
        return CACHE_BYTES


# ---------------------------------------------------------------------------------------------- the ceilings


def ceilings(watch: Stopwatch, budget: float = 0.2) -> dict[str, float]:
    """What this GPU can do at most, as measured.

    copy_gbytes: the driver's copy from one array on the GPU to another, bytes read plus bytes written, or the plain
    kernel's where that is quicker; kernel_copy_gbytes: of that kernel, a number a thread and turn.
    fma_gflops: float32 multiply-adds on registers, each counted as 2.
    launch_seconds: one after the other, launches of a kernel that does next to nothing; call_seconds: the same by the
    clock in Python.
    """
    x, y = (full(COPY_BYTES // 4, value, np.float32) for value in (1, 2))
    threads = FMA_THREADS[0] * FMA_THREADS[1]
    out = empty(threads, np.float32)
    factor, term = np.float32(0.999), np.float32(0.001)
    kinds = {
        "driver": lambda: y.flat.copy_to_device(x.flat),
        "kernel": lambda: copy_numbers[grid_for(y.size)](x.flat, y.flat),
        "fma": lambda: multiply_add[FMA_THREADS](FMA_STEPS, factor, term, out.flat),
        "launch": lambda: watch.pause(1),
    }
    times = {}
    for kind, call in kinds.items():
        times[kind] = watch.measure({kind: Contestant([call])}, budget)[kind]
    gbytes = {kind: 2 * x.nbytes / float(np.median(times[kind].seconds)) / 1e9 for kind in ("driver", "kernel")}
    return {
        "copy_gbytes": max(gbytes.values()), "driver_copy_gbytes": gbytes["driver"],
        "kernel_copy_gbytes": gbytes["kernel"],
        "fma_gflops": 2.0 * FMAS * FMA_STEPS * threads / float(times["fma"].seconds.min()) / 1e9,
        "launch_seconds": float(np.median(times["launch"].seconds)), "call_seconds": times["launch"].call,
    }  # fmt: skip


def copied(array: DeviceArray) -> DeviceArray:
    """The same numbers elsewhere on the GPU: a cache knows them by their place."""
    return array.copy() if array.size else array
