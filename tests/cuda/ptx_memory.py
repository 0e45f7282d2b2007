"""Memory of a GPU that is interpreted: bytes that know whether they were written, and by whom (interpreter.py).

A stretch is the time between two barriers of a block. Two threads may touch the same number in one launch if both read
it, if a barrier of their block lies between, if both add to it atomically, or if both write the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from interpreter import Launch

GAP = 512  # bytes between two arrays, which belong to none
NOBODYS, UNWRITTEN, WRITTEN = 0, 1, 2  # states of a byte


class Memory:
    """`space` ("global", "shared") is for errors; `base` is the address of the first byte, by default its real one."""

    def __init__(self, size: int, space: str, base: int | None = None) -> None:
        room = np.zeros(size + GAP, np.uint8)
        self.bytes = room[-room.ctypes.data % GAP :][:size]  # arrays begin at multiples of GAP, as those of a GPU
        self.state, self.space = np.zeros(size, np.uint8), space
        self.base = self.bytes.ctypes.data if base is None else base
        self.writer, self.reader = np.zeros(size, np.int32), np.zeros(size, np.int32)  # of the number that begins here
        self.written, self.read = np.zeros(size, np.int32), np.zeros(size, np.int32)  # in which stretch, from 1
        self.free = [(GAP, size)]  # ranges of bytes, in order

    def allocate(self, size: int, dtype: np.dtype, kind: type = np.ndarray) -> np.ndarray:
        """A new array (size,) of that kind: its bytes are NOBODYS until they are marked, and when it is given back."""
        nbytes = size * np.dtype(dtype).itemsize
        need = -(-nbytes // GAP) * GAP + GAP
        for k, (start, end) in enumerate(self.free):
            if end - start >= need:
                self.free[k : k + 1] = [(start + need, end)] if end - start > need else []
                return self.bytes[start : start + nbytes].view(dtype).view(kind)
        raise MemoryError("the interpreted GPU is full")

    def give_back(self, array: np.ndarray) -> None:
        self.mark(array, NOBODYS)
        start = array.ctypes.data - self.bytes.ctypes.data
        end = start + -(-array.nbytes // GAP) * GAP + GAP
        ranges = sorted([*self.free, (start, end)])
        self.free = [ranges[0]]
        for start, end in ranges[1:]:
            if start == self.free[-1][1]:
                self.free[-1] = self.free[-1][0], end
            else:
                self.free.append((start, end))

    def mark(self, array: np.ndarray, state: int, fill: int | None = None) -> None:
        """Give an array's bytes a state, and a value."""
        start = array.ctypes.data - self.bytes.ctypes.data
        self.state[start : start + array.nbytes] = state
        if fill is not None:
            self.bytes[start : start + array.nbytes] = fill

    def places(self, addresses: np.ndarray, dtype: np.dtype, launch: Launch) -> np.ndarray:
        """Addresses of the active threads -> places of bytes, looked at."""
        at, size = (addresses - np.uint64(self.base)).view(np.int64), dtype.itemsize
        launch.refuse((at < 0) | (at > len(self.bytes) - size), f"accesses an address outside of {self.space} memory")
        launch.refuse(at % size != 0, f"accesses a {dtype} in {self.space} memory at an address that is not aligned")
        nobodys = (self.state[at] == NOBODYS) | (self.state[at + (size - 1)] == NOBODYS)
        launch.refuse(nobodys, f"accesses {self.space} memory beyond an array")
        return at

    def load(self, addresses: np.ndarray, dtype: np.dtype, launch: Launch) -> np.ndarray:
        """What the active threads read."""
        at = self.places(addresses, dtype, launch)
        launch.refuse(self.state[at] != WRITTEN, f"reads {self.space} memory that nobody has written")
        raced = launch.races(self.written[at], self.writer[at])
        launch.refuse(raced, f"reads {self.space} memory that another thread wrote, with no barrier between")
        self.reader[at] = readers = launch.together(self.read[at], self.reader[at])
        self.read[at] = launch.stretch
        if (self.reader[at] != readers).any():  # several threads of this one instruction
            np.minimum.at(self.reader, at, launch.together(self.read[at], self.reader[at]))
        return self.bytes.view(dtype)[at // dtype.itemsize]

    def store(self, addresses: np.ndarray, values: np.ndarray, launch: Launch) -> None:
        """values: of the active threads."""
        dtype = values.dtype
        at = self.places(addresses, dtype, launch)
        numbers, index = self.bytes.view(dtype), at // dtype.itemsize
        raced = launch.races(self.read[at], self.reader[at])
        raced |= launch.races(self.written[at], self.writer[at]) & (numbers[index] != values)
        numbers[index] = values
        raced |= (numbers[index] != values) & (values == values)  # several threads of this one instruction; not NaN
        launch.refuse(raced, f"writes {self.space} memory that another thread uses, with no barrier between")
        self.writer[at], self.written[at] = launch.numbers, launch.stretch
        for byte in range(dtype.itemsize):
            self.state[at + byte] = WRITTEN

    def add(self, addresses: np.ndarray, values: np.ndarray, launch: Launch) -> np.ndarray:
        """Atomic additions, which are no races among themselves: so nothing is noted. Returns what was there before."""
        at = self.places(addresses, values.dtype, launch)
        launch.refuse(self.state[at] != WRITTEN, f"adds to {self.space} memory that nobody has written")
        raced = launch.races(self.written[at], self.writer[at]) | launch.races(self.read[at], self.reader[at])
        launch.refuse(raced, f"adds to {self.space} memory that another thread uses, with no barrier between")
        numbers, index = self.bytes.view(values.dtype), at // values.dtype.itemsize
        before = numbers[index]
        np.add.at(numbers, index, values)
        return before
