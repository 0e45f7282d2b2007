"""Checks of lesson 22: a map with a guard, a table of pairs, sums in shared memory, a tile, atomics, a bit mask.

Each exercise is the source of a numba.cuda kernel. It is run by `gpu_puzzle`, which needs no GPU and no Numba, and
judged by what it leaves in its output, by its faults and races, and where that is the point by how much it reads.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from minidetect.checks.case import Case, Check, Mistake, copied, difference, unchanged
from minidetect.checks.gpu_puzzle import Fault, Size, launch
from minidetect.reference import boxes as slow
from minidetect.reference import nn_ops

EVERY_BIT = np.iinfo(np.uint64).max


@dataclass(frozen=True)
class KernelCase(Case):
    """A launch, and what must be in its output afterwards; `given` are the kernel's arguments, output among them.

    output: the position in `given` of the array that the kernel fills. constants: as in `launch`.
    most_reads: (position of an array, how often it may be read; what a thread repeats is not counted).
    most_steps: how many accesses the busiest thread may make.
    """

    blocks: Size = 1
    threads: Size = 1
    output: int = -1
    most_reads: tuple[int, int] | None = None
    most_steps: int | None = None
    constants: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class KernelCheck(Check):
    """A check whose cases are launches."""

    def first_mistake(self, attempt: Callable) -> Mistake | None:
        mistakes = [m for m in (judge_launch(attempt, case) for case in self.cases()) if m is not None]
        return min(mistakes, key=lambda m: sum(np.size(v) for v in m.case.given), default=None)


def kernel_check(number: str) -> Callable[[Callable[[], Iterator[KernelCase]]], KernelCheck]:
    """Like `check`, of a function that yields KernelCases."""
    return lambda cases: KernelCheck(number, cases.__name__, cases)


def judge_launch(attempt: Callable, case: KernelCase) -> Mistake | None:
    """What is wrong with the attempt in this case, and how it was launched; None if it is right."""
    mistake = find_mistake(attempt, case)
    if mistake is None:
        return None
    settings = "".join(f", {name} = {value}" for name, value in case.constants.items())
    return replace(mistake, complaint=f"{mistake.complaint}\nLaunched as [{case.blocks}, {case.threads}]{settings}.")


def find_mistake(attempt: Callable, case: KernelCase) -> Mistake | None:
    """Launch the attempt; look for faults, races, changed inputs, a wrong output and too much work, in this order."""
    given = [copied(value) for value in case.given]
    try:
        report = launch(attempt, case.blocks, case.threads, *given, **case.constants)
    except NotImplementedError:
        raise
    except Fault as fault:
        return Mistake(case, None, f"A fault: {fault}.", fault)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == attempt.__code__.co_filename]
        where = f" (line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
        return Mistake(case, None, f"It stopped with {type(error).__name__}: {error}{where}", error)
    names, got = attempt.__code__.co_varnames, given[case.output]
    if races := report.races():
        cells = "a cell" if len(races) == 1 else f"{len(races)} cells, of which the first"
        return Mistake(case, got, f"A race for {cells}: {races[0]}.")
    for i, (value, old) in enumerate(zip(given, case.given, strict=True)):
        if i != case.output % len(given) and not unchanged(value, old):
            return Mistake(case, got, f"It wrote into `{names[i]}`, which is not its output.")
    complaint = case.accept(got) if case.accept else difference(got, case.want, case.rtol, case.atol)
    if complaint:
        return Mistake(case, got, complaint)
    if case.most_reads and (reads := report.once(names[case.most_reads[0]])) > case.most_reads[1]:
        read = f"`{names[case.most_reads[0]]}` is read {reads} times; {case.most_reads[1]} are enough"
        return Mistake(case, got, f"The numbers are right, but {read}.")
    if case.most_steps and (steps := report.busiest()) > case.most_steps:
        busy = f"one thread makes {steps} accesses to memory while others wait; {case.most_steps} are enough"
        return Mistake(case, got, f"The numbers are right, but {busy}.")
    return None


@kernel_check("22.1")
def prelu() -> Iterator[KernelCase]:
    """x (N,), slope -> out (N,): one thread an element, at least as many threads as elements."""
    for values, blocks, threads, why in (
        ([3.0, -2.0, 4.0, -1.0], 1, 4, "one block, a thread for each element"),
        ([3.0, -2.0, -4.0], 1, 4, "the fourth thread has no element"),
        ([-8.0], 1, 4, "one element, four threads"),
        ([-1.0, 2.0, -3.0, 4.0, -5.0, 6.0], 2, 3, "two blocks of three threads"),
        ([-1.0, 2.0, 0.0, 3.0, -5.0], 3, 2, "three blocks of two threads, one thread too many"),
        ([-1.0, 2.0, 0.0, 3.0, -5.0], 4, 4, "the last two blocks have nothing to do"),
    ):
        yield map_case(np.array(values, np.float32), blocks, threads, why)
    rng = np.random.default_rng(221)
    for num, blocks, threads in ((11, 3, 4), (29, 4, 8)):
        yield map_case(rng.normal(size=num).astype(np.float32), blocks, threads, "elements drawn at random")


def map_case(x: np.ndarray, blocks: int, threads: int, why: str) -> KernelCase:
    want = nn_ops.leaky_relu(x, 0.25)
    out = np.full(x.shape, np.nan, np.float32)
    return KernelCase((x, 0.25, out), want, why=why, blocks=blocks, threads=threads)


@kernel_check("22.2")
def iou_table() -> Iterator[KernelCase]:
    """a (N, 4), b (M, 4) -> out (N, M): x of the grid goes along the row."""
    one, below, aside, far = [0.0, 0, 4, 3], [0.0, 2, 4, 5], [4.0, 0, 8, 3], [5.0, 4, 9, 8]
    yield table_case([one], [below], (1, 1), "one pair: 4 of 20 are shared")
    yield table_case([one], [below, one], (2, 1), "one row of two")
    yield table_case([one], [far], (1, 1), "apart along both axes: two negative lengths make a positive product")
    yield table_case([one], [aside, far], (2, 1), "boxes that touch, and boxes that do not even touch, share nothing")
    yield table_case([one, aside], [below], (4, 4), "14 of the 16 threads have no pair")
    rng = np.random.default_rng(222)
    for rows, columns, threads in ((3, 2, (2, 2)), (2, 5, (4, 2)), (5, 7, (4, 4))):
        a, b = (np.floor(some_boxes(rng, n) * 4) / 4 for n in (rows, columns))
        yield table_case(a, b, threads, f"{rows} and {columns} boxes drawn at random")


def table_case(a: list | np.ndarray, b: list | np.ndarray, threads: tuple[int, int], why: str) -> KernelCase:
    a, b = np.array(a, np.float32), np.array(b, np.float32)
    want = np.array([[slow.iou(p, q) for q in b] for p in a])
    blocks = (-(-len(b) // threads[0]), -(-len(a) // threads[1]))
    out = np.full((len(a), len(b)), np.nan, np.float32)
    return KernelCase((a, b, out), want, why=why, blocks=blocks, threads=threads)


@kernel_check("22.3")
def block_sums() -> Iterator[KernelCase]:
    """x (N,) -> out (blocks,): the sum of the elements that each block's threads stand at. THREADS: of a block."""
    for values, threads, why in (
        ([5], 1, "one thread, one element"),
        ([5, 7], 2, "two threads"),
        ([5, 7, 1, 2], 4, "four threads"),
        ([5, 7, 1], 4, "the last thread has no element; it stands for a zero"),
        ([1, 2, 3, 4, 5, 6, 7, 8], 4, "two blocks, two sums"),
        ([1, 2, 3, 4, -5], 4, "of the second block only the first thread has an element"),
    ):
        yield sum_case(np.array(values, np.float32), threads, why)
    rng = np.random.default_rng(223)
    for num, threads in ((13, 8), (27, 8)):
        yield sum_case(rng.integers(-9, 9, num).astype(np.float32), threads, "whole numbers drawn at random")
    x = rng.integers(-9, 9, 59).astype(np.float32)
    yield sum_case(x, 32, "blocks of 32: five steps of a tree, or 32 steps of one thread", most_steps=24)


def sum_case(x: np.ndarray, threads: int, why: str, most_steps: int | None = None) -> KernelCase:
    blocks = -(-len(x) // threads)
    want = np.pad(x, (0, blocks * threads - len(x))).reshape(blocks, threads).sum(axis=1)
    given, setting = (x, np.full(blocks, np.nan, np.float32)), {"THREADS": threads}
    return KernelCase(
        given, want, why=why, blocks=blocks, threads=threads, most_reads=(0, len(x)), most_steps=most_steps,
        constants=setting,
    )  # fmt: skip


@kernel_check("22.4")
def conv_tile() -> Iterator[KernelCase]:
    """x (C, H, W), w (C, 3, 3) -> out (H - 2, W - 2). TILE: outputs of a block, down and across; SIDE: TILE + 2."""
    rng = np.random.default_rng(224)
    for channels, height, width, tile, why in (
        (1, 3, 3, 1, "one output; its block has one thread and must load nine cells"),
        (1, 4, 4, 2, "one block of four threads, 16 cells to load"),
        (1, 4, 6, 2, "two blocks side by side"),
        (1, 6, 4, 2, "two blocks, one above the other"),
        (2, 4, 4, 2, "two channels: the tile is used twice"),
        (1, 5, 4, 2, "the lower block reaches over the end of the map"),
        (2, 7, 8, 3, "two channels, blocks cut off at the right and below"),
        (3, 8, 7, 4, "three channels"),
    ):
        x = rng.normal(size=(channels, height, width)).astype(np.float32)
        yield tile_case(x, rng.normal(size=(channels, 3, 3)).astype(np.float32), tile, why)


def tile_case(x: np.ndarray, w: np.ndarray, tile: int, why: str) -> KernelCase:
    want = nn_ops.conv2d(x[None], w[None])[0, 0]
    blocks = tuple(-(-n // tile) for n in want.shape[::-1])
    # Along an axis each block reads its outputs and two cells more; the last one is cut off.
    reads = [n + 2 * b for n, b in zip(want.shape[::-1], blocks, strict=True)]
    given, setting = (x, w, np.full(want.shape, np.nan, np.float32)), {"TILE": tile, "SIDE": tile + 2}
    return KernelCase(
        given, want, why=why, blocks=blocks, threads=(tile, tile), most_reads=(0, len(x) * reads[0] * reads[1]),
        constants=setting, rtol=1e-4, atol=1e-5,
    )  # fmt: skip


@kernel_check("22.5")
def roi_scatter() -> Iterator[KernelCase]:
    """gy (K,), argmax (K,) -> gx (H * W,), zeros at first: each bin's gradient to the cell that won."""
    for gy, argmax, cells, threads, why in (
        ([2.0], [1], 3, 1, "one bin: its gradient goes to the cell that won"),
        ([2.0, 3.0], [0, 2], 3, 2, "two bins, two cells; cell 0 can win, too"),
        ([2.0, 3.0], [1, 1], 2, 2, "one cell is the highest of two bins: it gets both"),
        ([2.0, 3.0, 5.0], [1, -1, 0], 2, 3, "argmax -1: the bin was empty, nobody won"),
        ([2.0, 3.0, 5.0], [1, 1, 1], 2, 2, "the same cell in two blocks, and a thread too many"),
    ):
        yield scatter_case(gy, argmax, cells, threads, why)
    rng = np.random.default_rng(225)
    for num, cells, threads in ((7, 5, 4), (25, 6, 8)):
        gy = rng.integers(-20, 20, num) / 4
        yield scatter_case(gy, rng.integers(-1, cells, num), cells, threads, "bins drawn at random")


def scatter_case(gy: list | np.ndarray, argmax: list | np.ndarray, cells: int, threads: int, why: str) -> KernelCase:
    want = np.zeros(cells)
    for gradient, cell in zip(gy, argmax, strict=True):
        if cell >= 0:
            want[cell] += gradient
    given = (np.array(gy, np.float32), np.array(argmax, np.int64), np.zeros(cells, np.float32))
    return KernelCase(given, want, why=why, blocks=-(-len(gy) // threads), threads=threads)


@kernel_check("22.6")
def suppression_words() -> Iterator[KernelCase]:
    """boxes (N, 4) by falling score, threshold -> mask (N, words), bit b of word w for box w * WORD + b."""
    pair = [[0.0, 0, 4, 4], [0, 0, 4, 3]]  # IoU 0.75
    yield mask_case(pair[:1], 0.5, 4, "one box: nobody to strike")
    yield mask_case(pair, 0.5, 4, "box 0 strikes out box 1, and nobody itself or upwards")
    yield mask_case(pair, 0.75, 4, "an overlap of exactly the threshold is allowed")
    chain = [[0.0, 0, 4, 4], [1, 0, 5, 4], [2, 0, 6, 4]]  # neighbours 0.6, ends 0.33
    yield mask_case(chain, 0.5, 4, "that box 1 is struck out is for the walk to find out: its row is filled in")
    yield mask_case(chain, 0.5, 2, "two words; the second one has a single box")
    yield mask_case([*pair, *pair], 0.5, 2, "two words: the first one of rows 2 and 3 is 0, without a look at a box")
    rng = np.random.default_rng(226)
    for num, word in ((5, 4), (9, 4), (13, 8), (67, 64)):
        yield mask_case(some_boxes(rng, num), 0.2, word, f"{num} boxes drawn at random, {word} a word")


def mask_case(boxes: list | np.ndarray, threshold: float, word: int, why: str) -> KernelCase:
    boxes = np.array(boxes, np.float64)
    num, words = len(boxes), -(-len(boxes) // word)
    want = np.array([[j > i and slow.iou(boxes[i], boxes[j]) > threshold for j in range(num)] for i in range(num)])

    def accept(mask: np.ndarray) -> str:
        bits = np.array([[int(mask[i, j // word]) >> (j % word) & 1 for j in range(num)] for i in range(num)], bool)
        if (bits != want).any():
            i, j = (int(n) for n in np.argwhere(bits != want)[0])
            says = "is set" if bits[i, j] else "is not set"
            overlap = f"they overlap by {slow.iou(boxes[i], boxes[j]):.3f}, the threshold is {threshold:g}"
            return f"Row {i}: the bit of box {j} (word {j // word}, bit {j % word}) {says}; {overlap}."
        beyond = [i for i in range(num) if int(mask[i, -1]) >> (num - (words - 1) * word)]
        return f"Row {beyond[0]}: a bit is set for a box that does not exist." if beyond else ""

    # A thread may look at its own box before it finds that there is nothing to do.
    pairs = sum(max(min(word * w + word, num) - max(word * w, i + 1), 0) for i in range(num) for w in range(words))
    reads = 4 * (pairs + num * words)
    given = (boxes, threshold, np.full((num, words), EVERY_BIT))
    return KernelCase(
        given, accept=accept, why=why, blocks=(-(-words // 2), -(-num // 4)), threads=(2, 4), most_reads=(0, reads),
        constants={"WORD": word},
    )  # fmt: skip


def some_boxes(rng: np.random.Generator, num: int) -> np.ndarray:
    """(num, 4): corners within 0 to 6, up to 6 wide and high, so that many overlap."""
    corners = rng.uniform(0, 6, (num, 2))
    return np.concatenate([corners, corners + rng.uniform(1, 6, (num, 2))], axis=1)
