"""Softmax and its logarithm on the GPU, along any axis: x is read as (O, K, I), K classes along the axis.

O: all axes before it, flattened, I: all after it; a row is the K numbers of one o and one i, I apart from each other.

What is done with a row is said once, in the functions softmax_row, log_softmax_row and their gradients. Who does it:

    row_a_thread   a thread, all of a row, as the processor. Its second and third pass find the row in the cache. Its
                   neighbours in the warp have the next i, and so the numbers beside its own.
    rows_staged    the same for short rows where I is 1. There the neighbours would read K numbers apart, and the memory
                   delivers 32 bytes at least: of rows of 21, eight times what was asked for. So a warp fetches its 32
                   rows together, number after number, into shared memory; then each thread does one of them there,
                   and the warp writes them together. A kernel for each K, so that its loops are written out.
    row_a_block    rows longer than SHORT and than I, a block each: a thread has every 256th number, and maxima and sums
                   are put together in shared memory, by 16 threads 16 numbers each, then those 16 by every thread.

Shared memory has 32 banks, and two threads of a warp that read different places of the same bank wait for each other.
Rows of 21 begin in 32 different banks, rows of 2 in 16: every K has bundles of WARP / gcd(K, WARP) rows that don't
collide, and one number is left free after each bundle, so that the next one begins a bank further on.

Instructions of the compiler (PTX) a byte that must be moved, of which an H100 has time for about 9, and sectors of 32
bytes that a warp touches, for each that it asks for (tests/cuda/count_work.py):

    rows                 forward        backward      sectors
    1,000,000 x 2        17.6 > 6.1     9.1 > 3.3     2 > 1       > : from a row a thread to rows staged
    1,000,000 x 21       10.8 > 5.9     4.7 > 1.9     8 > 1
    128 x 1000           17.0 > 11.7    7.9 > 4.0     1           a row a block; sums by a tree > in two steps

Every exponential is computed twice, once for the sum and once for y (of two classes it stays in a register): to keep it
would be one number more to write and to read again. Sums are in the type of x. Left out: more than 2**32 rows, and
blocks of fewer threads for rows of 129 to 500 classes.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import from_dtype

from minidetect.kernels.device import DeviceArray, empty
from minidetect.kernels.gpu import MOST_BLOCKS, SIMULATED, THREADS, cuda, grid_for
from minidetect.kernels.planes_cuda import WARP

SHORT = 8 if SIMULATED else 128  # rows of more classes are for a whole block, each
MOST_SHARED = 48 * 1024  # bytes of shared memory that a block may have
ENOUGH_SHARED = 24 * 1024  # that it takes for more than one warp: so an H100's multiprocessor has room for 9 blocks
SIDE = 2 if SIMULATED else 16  # numbers that a thread folds, in each of two steps: its square is THREADS
ROOM = THREADS + SIDE  # numbers

# ------------------------------------------------------------------------------- a row, or a thread's part of one


@cuda.jit(device=True)
def softmax_row(x, _, first, step, last, room, y):
    """The numbers x[first], x[first + step], ... before x[last].

    room: None, or the block's, in which its threads put together what they found.
    """
    largest = largest_of_row(x, first, step, last, room)
    share = x.dtype.type(1) / sum_of_exponentials(x, first, step, last, largest, room)
    at = first
    while at < last:
        y[np.uint64(at)] = math.exp(x[np.uint64(at)] - largest) * share
        at += step


@cuda.jit(device=True)
def log_softmax_row(x, _, first, step, last, room, y):
    largest = largest_of_row(x, first, step, last, room)
    amount = x.dtype.type(math.log(sum_of_exponentials(x, first, step, last, largest, room)))
    at = first
    while at < last:
        y[np.uint64(at)] = (x[np.uint64(at)] - largest) - amount
        at += step


@cuda.jit(device=True)
def softmax_gradient_row(y, gy, first, step, last, room, gx):
    at, dot = first, y.dtype.type(0)
    while at < last:
        dot += gy[np.uint64(at)] * y[np.uint64(at)]
        at += step
    if room is not None:
        dot = sum_of_block(dot, room)
    at = first
    while at < last:
        gx[np.uint64(at)] = y[np.uint64(at)] * (gy[np.uint64(at)] - dot)
        at += step


@cuda.jit(device=True)
def log_softmax_gradient_row(y, gy, first, step, last, room, gx):
    """y: the logarithms."""
    at, total = first, y.dtype.type(0)
    while at < last:
        total += gy[np.uint64(at)]
        at += step
    if room is not None:
        total = sum_of_block(total, room)
    at = first
    while at < last:
        gx[np.uint64(at)] = gy[np.uint64(at)] - math.exp(y[np.uint64(at)]) * total
        at += step


@cuda.jit(device=True)
def largest_of_row(x, first, step, last, room):
    """Where a row has a NaN, its largest may be another number: exp and the sum carry the NaN on."""
    at, largest = first, x.dtype.type(-np.inf)
    while at < last:
        largest = max(largest, x[np.uint64(at)])
        at += step
    if room is not None:
        largest = largest_of_block(largest, room)
    return largest


@cuda.jit(device=True)
def sum_of_exponentials(x, first, step, last, largest, room):
    at, total = first, x.dtype.type(0)
    while at < last:
        total += math.exp(x[np.uint64(at)] - largest)
        at += step
    if room is not None:
        total = sum_of_block(total, room)
    return total


def _folded_by(pick: Any) -> Any:
    """A function that gives all threads of a block what `pick` makes of their values, two at a time."""

    @cuda.jit(device=True)
    def fold(value, room):
        """room: shared, ROOM numbers. It may be used again at once."""
        t = np.uint32(cuda.threadIdx.x)
        room[t] = value
        cuda.syncthreads()
        if t < SIDE:
            part = room[t]
            for k in range(1, SIDE):
                part = pick(part, room[np.uint64(t + k * SIDE)])
            room[np.uint64(THREADS + t)] = part
        cuda.syncthreads()
        whole = room[THREADS]
        for k in range(1, SIDE):
            whole = pick(whole, room[THREADS + k])
        return whole

    return fold


largest_of_block = _folded_by(cuda.jit(device=True)(lambda a, b: max(a, b)))
sum_of_block = _folded_by(cuda.jit(device=True)(lambda a, b: a + b))

# --------------------------------------------------------------------------------------- who does which row


@functools.cache
def thread_kernel(row_function: Any) -> Any:
    @cuda.jit
    def row_a_thread(x, gy, rows, classes, inner, y):
        r = cuda.grid(1)
        while r < rows:
            first = first_of_row(r, classes, inner)
            row_function(x, gy, first, inner, first + classes * inner, None, y)
            r += cuda.gridsize(1)

    return row_a_thread


@functools.cache
def block_kernel(row_function: Any, dtype: np.dtype) -> Any:
    kind = from_dtype(dtype)

    @cuda.jit
    def row_a_block(x, gy, rows, classes, inner, y):
        """Thread t has the numbers t, t + THREADS, ... of the row."""
        room = cuda.shared.array(ROOM, kind)
        r = cuda.blockIdx.x
        while r < rows:
            first = first_of_row(r, classes, inner)
            last, own = first + classes * inner, first + cuda.threadIdx.x * inner
            row_function(x, gy, own, THREADS * inner, last, room, y)
            r += cuda.gridDim.x

    return row_a_block


@cuda.jit(device=True)
def first_of_row(r, classes, inner):
    """Row r is that of one o and one i. Numbers of 32 bits are divided by fewer instructions than those of 64."""
    o = np.int64(np.uint32(r) // np.uint32(inner))
    return o * classes * inner + (r - o * inner)


@functools.cache
def staged_kernel(row_function: Any, inputs: int, classes: int, dtype: np.dtype) -> tuple[Any, int]:
    """And the threads of a block, a row each. inputs: 1 if the row function reads x alone, 2 if gy too."""
    kind = from_dtype(dtype)
    bundles = math.gcd(classes, WARP)  # of a warp's rows
    rows_each = WARP // bundles
    numbers = rows_each * classes  # of a bundle: a multiple of WARP
    own = bundles * (numbers + 1)  # a warp's part of the shared memory
    warps = max(1, min(THREADS // WARP, ENOUGH_SHARED // (inputs * own * dtype.itemsize)))
    size = warps * own

    @cuda.jit(device=True)
    def copy(source, at, at_step, target, place, place_step, left):
        """Every WARP-th number of a warp's rows, while some are left; steps: from a bundle to the next."""
        bundle = 0
        while bundle < bundles:
            n = 0
            while n < numbers:
                if n < left:
                    target[np.uint64(place + n)] = source[np.uint64(at + n)]
                n += WARP
            at, place, left = at + at_step, place + place_step, left - numbers
            bundle += 1

    @cuda.jit(device=True)
    def fetch(x, at, room, place, left):
        if left > (classes - 1) * WARP:  # all of them, for all warps but the last: nothing to ask before each number
            copy(x, at, numbers, room, place, numbers + 1, classes * WARP)
        else:
            copy(x, at, numbers, room, place, numbers + 1, left)

    @cuda.jit
    def rows_staged(x, gy, rows, _, __, y):
        room = cuda.shared.array(size, kind)
        other = cuda.shared.array(size, kind) if inputs == 2 else room
        t = np.uint32(cuda.threadIdx.x)
        lane, warp = np.int64(t % WARP), np.int64(t // WARP)
        row = (np.int64(cuda.blockIdx.x) * warps + warp) * WARP  # the warp's first
        at, place, left = row * classes + lane, warp * own + lane, (rows - row) * classes - lane
        fetch(x, at, room, place, left)
        if inputs == 2:
            fetch(gy, at, other, place, left)
        cuda.syncthreads()
        if row + lane < rows:
            first = warp * own + lane * classes + lane // rows_each
            row_function(room, other, first, 1, first + classes, None, room)
        cuda.syncthreads()
        copy(room, place, numbers + 1, y, at, numbers, left)

    return rows_staged, warps * WARP


# ------------------------------------------------------------------------------------ arrays in, arrays out


def softmax_forward(x: DeviceArray, axis: int) -> DeviceArray:
    """exp(x_i) / sum_j exp(x_j) along `axis`."""
    return _run(softmax_row, axis, x)


def log_softmax_forward(x: DeviceArray, axis: int) -> DeviceArray:
    """x_i - log sum_j exp(x_j) along `axis`, without ever forming a probability that rounds to 0."""
    return _run(log_softmax_row, axis, x)


def softmax_backward(gy: DeviceArray, y: DeviceArray, axis: int) -> DeviceArray:
    """gx_j = y_j * (gy_j - sum_i gy_i * y_i), with y the softmax."""
    return _run(softmax_gradient_row, axis, y, gy)


def log_softmax_backward(gy: DeviceArray, y: DeviceArray, axis: int) -> DeviceArray:
    """gx_j = gy_j - exp(y_j) * sum_i gy_i, with y the logarithm of the softmax."""
    return _run(log_softmax_gradient_row, axis, y, gy)


def _run(row_function: Any, axis: int, x: DeviceArray, gy: DeviceArray | None = None) -> DeviceArray:
    """A result like x, with all arrays read as (O, K, I)."""
    axis = range(x.ndim)[axis]  # -1 is the last; one that isn't there is an IndexError
    if x.shape[axis] == 0:
        raise ValueError(f"softmax along axis {axis} of {x.shape}: there is nothing to share 1 out among")
    y = empty(x.shape, x.dtype)
    if y.size == 0:
        return y
    classes, inner = x.shape[axis], math.prod(x.shape[axis + 1 :])
    rows, inputs = x.size // classes, 1 if gy is None else 2
    if inner == 1 and classes <= SHORT and inputs * WARP * (classes + 1) * x.dtype.itemsize <= MOST_SHARED:
        kernel, threads = staged_kernel(row_function, inputs, classes, x.dtype)
        grid = -(-rows // threads), threads
    elif inner == 1 or classes > max(SHORT, inner):
        kernel, grid = block_kernel(row_function, x.dtype), (min(rows, MOST_BLOCKS), THREADS)
    else:
        kernel, grid = thread_kernel(row_function), grid_for(rows)
    kernel[grid](x.flat, x.flat if gy is None else gy.flat, rows, classes, inner, y.flat)
    return y
