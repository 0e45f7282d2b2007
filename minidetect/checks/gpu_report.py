"""What a kernel did to memory: how often each cell was read and written, in which order, and who was in whose way.

The report of gpu_puzzle.py, which runs the kernel. An access is a race where another thread touches the same cell, one
of the two writes, and no barrier stands between them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

WARP = 32  # threads that run in step
LINE_BYTES = 128  # what memory hands out at once


class Dim3(NamedTuple):
    x: int
    y: int
    z: int


class Access(NamedTuple):
    """One access to memory: kind is read, write or atomic; phase counts the barriers that its thread has passed.

    line: of the kernel's source.
    """

    kind: str
    array: str
    cell: tuple[int, ...]
    block: Dim3
    thread: Dim3
    phase: int
    line: int

    @property
    def shared(self) -> bool:
        return self.array.startswith("shared")


@dataclass
class Report:
    """What a kernel did: log, all accesses in the order in which they were made; arrays, those that it was given."""

    log: list[Access]
    arrays: dict[str, np.ndarray]
    block: Dim3

    def count(self, kind: str, array: str) -> int:
        """Accesses of a kind ("read", "write", "atomic") to an array by its name, to all of "global" or "shared"."""
        wanted = {"global": lambda a: not a.shared, "shared": lambda a: a.shared}.get(array, lambda a: a.array == array)
        return sum(a.kind == kind and wanted(a) for a in self.log)

    def once(self, array: str) -> int:
        """Reads of an array, those that a thread repeats not counted: a compiler keeps such a number in a register."""
        return len({(a.block, a.thread, a.cell) for a in self.log if a.array == array and a.kind == "read"})

    def busiest(self) -> int:
        """The accesses of the thread that has most of them: the others wait for it."""
        return max(Counter((a.block, a.thread) for a in self.log).values(), default=0)

    def heat(self, array: str, kind: str = "read") -> np.ndarray:
        """How often each cell of an array was accessed, in the array's shape."""
        found = np.zeros(self.arrays[array].shape, int)
        for a in self.log:
            if a.array == array and a.kind == kind:
                found[a.cell] += 1
        return found

    def requests(self, array: str, kind: str = "read") -> list[list[Access]]:
        """What a warp asks for at once: the k-th access to the array in a line of the source, by all of its threads."""
        asked, times = defaultdict(list), Counter()
        for a in self.log:
            if a.array == array and a.kind == kind:
                times[a.block, a.thread, a.line] += 1
                turn = a.line, times[a.block, a.thread, a.line]
                asked[a.block, self.rank(a.thread) // WARP, turn].append(a)
        return list(asked.values())

    def lines(self, array: str, kind: str = "read") -> tuple[int, int]:
        """Lines of 128 bytes that move, and requests: a request moves each line in which it touches a cell."""
        values, moved, requests = self.arrays[array], 0, self.requests(array, kind)
        for request in requests:
            flat = np.ravel_multi_index(np.transpose([a.cell for a in request]), values.shape)
            moved += len(np.unique(flat * values.itemsize // LINE_BYTES))
        return moved, len(requests)

    def rank(self, thread: Dim3) -> int:
        """A thread's number in its block: x first."""
        return thread.x + self.block.x * (thread.y + self.block.y * thread.z)

    def races(self) -> list[str]:
        """For each cell that two threads access with nothing to order them, one of them writing: what they did."""
        cells = defaultdict(list)
        for a in self.log:
            cells[a.array, a.block if a.shared else None, a.cell].append(a)
        pairs = (conflict(accesses) for accesses in cells.values())
        return [f"{told(a)} and {told(b)}: nothing orders the two" for a, b in filter(None, pairs)]


def conflict(accesses: list[Access]) -> tuple[Access, Access] | None:
    """Of all accesses to one cell the first two that race: a barrier orders a block, and nothing orders two blocks."""
    if all(a.kind == "read" for a in accesses):
        return None
    for i, b in enumerate(accesses):
        for a in accesses[:i] if b.kind != "read" else [a for a in accesses[:i] if a.kind != "read"]:
            same = a.block == b.block and (a.thread == b.thread or a.phase != b.phase)
            if not same and not a.kind == b.kind == "atomic":
                return a, b
    return None


def told(a: Access) -> str:
    does = {"read": "reads", "write": "writes", "atomic": "adds to"}[a.kind]
    return f"thread {short(a.thread)} of block {short(a.block)} {does} {place(a.array, a.cell)} (line {a.line})"


def short(index: Dim3) -> int | tuple[int, ...]:
    """A thread's or a block's index without the axes that nobody uses."""
    return tuple(index) if index.z else tuple(index[:2]) if index.y else int(index.x)


def place(array: str, cell: Iterable[int]) -> str:
    return f"{array}[{', '.join(str(int(i)) for i in cell)}]"
