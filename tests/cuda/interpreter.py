"""Kernels compiled for a GPU, run without one: their PTX is interpreted, all threads of some blocks at a time.

The simulator runs a kernel's Python, which has no types and wraps no integer, with blocks of a few threads. Here runs
what the compiler made of it, with as many threads as on a GPU, and every access to memory is looked at:

    outside of an array, or not aligned to the number's size         error
    memory that nobody has written yet is read                       error
    two threads at one number, one of them writes, no barrier        error, a race, in shared and in global memory
    threads of a block wait at different barriers, or for threads    error
    that have ended
    more blocks, or threads of a block, than a GPU launches          error

Each error names the line of the kernel's source. Threads run in the order of their instructions: those that are
furthest behind go on, together, until all wait at a barrier or have ended. ptx.py parses, ptx_steps.py makes functions
of the instructions, ptx_memory.py is the memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from ptx import Instruction, Program
from ptx_counts import WARP, Counts
from ptx_memory import GAP, UNWRITTEN, Memory
from ptx_steps import Registers, decoded

LANES = 8192  # threads that run at a time, about
ROOM = 1 << 32  # bytes of the GPU; the machine gives them when they are used
ALL = -(1 << 31)  # in place of the thread that has read: threads of several blocks have


class KernelError(RuntimeError):
    """A kernel did what a GPU would not forgive, or would not even notice."""


def check_limits(grid: Sequence[int], block: Sequence[int]) -> None:
    """Raise KernelError where a GPU would refuse to launch: of blocks (x, y, z) and of a block's threads, too many."""
    within = zip((*grid, *block), (2**31 - 1, 65535, 65535, 1024, 1024, 64), strict=True)
    if math.prod(block) > 1024 or any(not 0 < count <= most for count, most in within):
        raise KernelError(f"no GPU launches {tuple(grid)} blocks of {tuple(block)} threads")


class Kernel:
    """A program, its instructions as functions."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.steps = [decoded(step, program) for step in program.instructions]
        self.leaders = set(program.labels.values())  # where threads may come together again

    def run(self, grid: Sequence[int], block: Sequence[int], arguments: list, gpu: Memory) -> None:
        """All blocks, some at a time. grid: blocks along x, y, z, those that are missing 1; block: its threads."""
        grid, block = ((*shape, 1, 1)[:3] for shape in (grid, block))
        check_limits(grid, block)
        each, count = max(1, LANES // math.prod(block)), math.prod(grid)
        first_stretch = Launch.stretches + 1
        for start in range(0, count, each):
            launch = Launch(self, np.arange(start, min(start + each, count)), grid, block, arguments, gpu)
            launch.first_stretch = first_stretch
            launch.run()

    def run_some(
        self, grid: Sequence[int], block: Sequence[int], arguments: list, gpu: Memory, threads: int, counts: Counts
    ) -> None:
        """Blocks of so many threads, evenly spread over the grid: counted, as if all had been run."""
        grid, block = ((*shape, 1, 1)[:3] for shape in (grid, block))
        check_limits(grid, block)
        count = math.prod(grid)
        some = np.unique(np.linspace(0, count - 1, max(1, threads // math.prod(block))).astype(np.int64))
        counts.launches, counts.scale = counts.launches + 1, count / len(some)
        Launch(self, some, grid, block, arguments, gpu, counts).run()


class Launch:
    """Some blocks of a launch: where their threads are, their registers and shared memory.

    mask: which threads execute the instruction at hand, the active ones; active: their places, numbers: their numbers
    over the whole grid.
    """

    stretches = 0  # between barriers, counted over all launches

    def __init__(
        self, kernel: Kernel, blocks: np.ndarray, grid: tuple, block: tuple, arguments: list, gpu: Memory,
        counts: Counts | None = None,
    ) -> None:  # fmt: skip
        """blocks: their numbers in the grid."""
        self.kernel, self.gpu, self.counts, self.per_block = kernel, gpu, counts, math.prod(block)
        threads = np.arange(self.per_block)
        self.threads = (blocks[:, None] * self.per_block + threads).reshape(-1).astype(np.int32)
        self.registers = Registers(kernel.program, len(self.threads))
        self.parameters = dict(zip(kernel.program.parameters, arguments, strict=True))
        self.slots: dict[str, np.ndarray] = {}  # parameters of a call
        for axis, letter in enumerate("xyz"):
            thread = threads // math.prod(block[:axis]) % block[axis]
            number = blocks // math.prod(grid[:axis]) % grid[axis]
            places = {"tid": np.tile(thread, len(blocks)), "ctaid": np.repeat(number, self.per_block)}
            sizes = {"ntid": np.array(block[axis]), "nctaid": np.array(grid[axis])}
            for name, values in (places | sizes).items():
                self.registers[f"%{name}.{letter}"] = np.broadcast_to(values, self.threads.shape).astype(np.uint32)
        warps = np.arange(len(blocks))[:, None] * -(-self.per_block // WARP) + threads // WARP
        self.warps = warps.reshape(-1)  # which one a thread belongs to
        self.address: dict[str, int] = {}  # of arrays of a block's, and of a thread's, own
        self.own = {"shared": self.make_own("shared", kernel.program.shared, len(blocks))}
        if kernel.program.local:
            self.own["local"] = self.make_own("local", kernel.program.local, len(self.threads))
        Launch.stretches += 1
        self.first_stretch = Launch.stretches  # of the whole launch
        self.now: Instruction = kernel.program.instructions[0]

    def make_own(self, space: str, sizes: dict[str, int], owners: int) -> tuple[int, Memory]:
        """The same arrays for every block (shared) or thread (local): how many bytes it has, and those of all."""
        start = GAP
        for name, size in sizes.items():
            self.address[name] = start
            start += -(-size // 16) * 16 + 64
        memory = Memory(start * owners, space, base=0)
        for name, size in sizes.items():
            memory.state.reshape(owners, start)[:, self.address[name] : self.address[name] + size] = UNWRITTEN
        return start, memory

    # ------------------------------------------------------------------------------------------------ looked at

    @property
    def stretch(self) -> int:
        return Launch.stretches

    def races(self, stretch: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Whether `other` did something in this launch, and no barrier came between: never, for another block."""
        here = (stretch >= self.first_stretch) & (other != self.numbers)
        return here & ((stretch == self.stretch) | (self.block_number(other) != self.block_number(self.numbers)))

    def together(self, stretch: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Who has read, where `other` has and now the active threads do: one thread, block b as -(b + 2), or ALL."""
        block = self.block_number(self.numbers)
        elsewhere = (stretch >= self.first_stretch) & (self.block_number(other) != block)
        here = (stretch == self.stretch) & (other != self.numbers)
        return np.where(elsewhere, ALL, np.where(here, -(block + 2), self.numbers)).astype(np.int32)

    def block_number(self, threads: np.ndarray) -> np.ndarray:
        return np.where(threads < 0, -threads.astype(np.int64) - 2, threads // self.per_block)

    def refuse(self, bad: np.ndarray, what: str) -> None:
        """Raise KernelError if that holds for any of the active threads."""
        if bad.any():
            block, thread = divmod(int(self.numbers[np.argmax(bad)]), self.per_block)
            raise KernelError(
                f"{self.now.line}: thread {thread} of block {block} {what} (so do {int(bad.sum()) - 1} others of "
                f"{len(bad)} threads at {self.now})"
            )

    # ---------------------------------------------------------------------------------------------------- runs

    def run(self) -> None:
        groups = {0: np.ones(len(self.threads), bool)}  # place of an instruction -> the threads that are there
        self.waits = np.full(len(self.threads), -1)  # behind which instruction, a barrier
        self.alive = np.ones(len(self.threads), bool)
        with np.errstate(all="ignore"):
            while groups or self.alive.any():
                groups = groups or self.pass_barriers()
                at = min(groups)
                self.run_from(at, groups.pop(at), groups)

    def run_from(self, at: int, mask: np.ndarray, groups: dict[int, np.ndarray]) -> None:
        """Up to a branch, a barrier, the end, or a place where others may be; then they are in `groups` again."""
        first = at
        self.set_active(mask)
        while at == first or at not in self.kernel.leaders:
            self.now = self.kernel.program.instructions[at]
            if self.counts is not None:
                self.counts.instruction(self)
            turn = self.kernel.steps[at](self)
            at += 1
            if turn is not None:
                self.split(*turn, at, groups)
                return
        join(groups, at, mask)

    def set_active(self, mask: np.ndarray) -> None:
        self.mask, everyone = mask, mask.all()
        self.active = np.arange(len(mask)) if everyone else np.flatnonzero(mask)
        self.numbers = self.threads[self.active]

    def split(self, what: str, target: int | None, taken: np.ndarray, after: int, groups: dict) -> None:
        """Threads that are `taken` branch to `target`, or wait, or end; the other active ones go on."""
        rest = self.mask & ~taken
        if rest.any():
            join(groups, after, rest)
        if what == "wait":
            self.waits[taken] = after
        elif what == "end":
            self.alive[taken] = False
        elif taken.any():
            join(groups, target, taken)

    def pass_barriers(self) -> dict[int, np.ndarray]:
        """All threads wait or have ended: those of a block must all wait, at the same barrier. Then they go on."""
        instructions = self.kernel.program.instructions
        waits, alive = (a.reshape(-1, self.per_block) for a in (self.waits, self.alive))
        for block in np.flatnonzero(alive.any(axis=1)):
            if not alive[block].all() or len(set(waits[block])) > 1:
                lines = sorted({instructions[at - 1].line for at in waits[block][alive[block]]})
                ended = self.per_block - int(alive[block].sum())
                raise KernelError(f"{', '.join(lines)}: a block's threads wait here, and {ended} of it have ended")
        groups = {int(at): self.alive & (self.waits == at) for at in np.unique(self.waits[self.alive])}
        for at, mask in groups.items():
            step = instructions[at - 1]
            if step.parts[1] == "red":  # bar.red.or.pred %p2, 0, %p1: whether %p1 holds for any thread of the block
                said = (self.registers[step.operands[2]] & mask).reshape(-1, self.per_block).any(axis=1)
                self.registers[step.operands[0]][mask] = np.repeat(said, self.per_block)[mask]
        self.waits[:] = -1
        Launch.stretches += 1
        return groups


def join(groups: dict[int, np.ndarray], at: int, mask: np.ndarray) -> None:
    groups[at] = groups[at] | mask if at in groups else mask
