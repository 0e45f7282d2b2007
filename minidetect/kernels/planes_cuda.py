"""What the CUDA kernels over maps have in common: how the threads are dealt out, and the last step of a channel's sum.

N: samples, C: channels, P: positions (all axes after the channel, flattened); a plane is the P values of one sample
and channel.

Threads are dealt out in two dimensions, x along the positions and y along the planes. Neighbouring threads then read
neighbouring numbers, which the memory delivers together, and a thread asks once a plane which channel it is in, instead
of dividing its place by P and by C for every number. A block is as wide as a plane (a power of two, 256 at most) and
as high as its 256 threads allow: 1 x 256 for a fully connected layer, 64 x 4 for a map of 7x7, 256 x 1 from 129 on.
Kernels with windows need rows and columns as well: there each thread asks `my_pixel`.

A sum over a channel: 64 channels of 16x320x320 values each would keep 64 blocks busy, and a GPU runs a thousand at
once. So each block adds up a share of a channel and writes one number; `fold_sums` adds those. Shares are as small as
it takes to have a thousand blocks, but not below 512 values, two for each thread of a block, which then adds up
with the others in eight steps. A channel of 4096 values or fewer is one share: then nothing is left for a second launch
to add. Atomic additions would need none either, but their order changes from run to run, and a float's sum with it.
"""

from __future__ import annotations

import math

import numpy as np

from minidetect.kernels.device import DeviceArray
from minidetect.kernels.gpu import MOST_BLOCKS, SIMULATED, THREADS, cuda

VALUES = 8 if SIMULATED else 4096  # of a share at most: few enough to be still in the cache when read again
FEWEST_VALUES = 4 if SIMULATED else 512  # of a share, where a channel has more than one
BLOCKS = 8 if SIMULATED else 1024  # that there should be: an H100 has room for 132 * 8 of 256 threads at once
MOST_IN_Y = 65535  # blocks that a grid may have along y, and along z
WARP = 2 if SIMULATED else 32  # threads that run in step, and read side by side
ENOUGH_BLOCKS = 2 if SIMULATED else 2048  # where a thread takes several planes, and could take fewer


def block_shape(width: int) -> tuple[int, int]:
    """Threads of a block for rows of `width` numbers: so many along a row, and so many rows."""
    across = min(THREADS, 1 << max(width - 1, 0).bit_length())
    return across, THREADS // across


def grid_2d(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block for a kernel over (rows, columns): `column, row = cuda.grid(2)` is where a thread begins.

    It goes on in steps of cuda.gridsize(2): 4 columns and more a thread, for a thread is not started for nothing.
    """
    across, down = block_shape(columns)
    blocks_x = min(-(-columns // (4 * across)), MOST_BLOCKS)
    return (blocks_x, min(-(-rows // down), max(1, MOST_BLOCKS // blocks_x))), (across, down)


def shares(shape: tuple[int, int, int]) -> tuple[tuple[tuple, tuple], int, int]:
    """How blocks share (N, C, P): (grid, block), and how many samples and positions one block takes.

    The grid is (C, parts of the positions, parts of the samples).
    """
    samples, channels, positions = shape
    values = VALUES
    if samples * positions > VALUES:
        values = min(max(samples * channels * positions // BLOCKS, FEWEST_VALUES), VALUES)
    parts = min(-(-positions // values), MOST_IN_Y)
    wide = -(-positions // parts)
    deep = max(values // wide, 1, -(-samples // MOST_IN_Y))
    return ((channels, -(-positions // wide), -(-samples // deep)), block_shape(wide)), deep, wide


def as_planes(x: DeviceArray) -> DeviceArray:
    """(N, C, ...) -> (N, C, P)."""
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


@cuda.jit
def fold_sums(parts, sums):
    """parts (C, K), float64 -> sums (C,): one block a channel, in a fixed order."""
    room = cuda.shared.array(THREADS, np.float64)
    c, t = cuda.blockIdx.x, cuda.threadIdx.x
    total = 0.0
    for k in range(t, parts.shape[1], THREADS):
        total += parts[c, k]
    room[t] = total
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            room[t] += room[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        sums[c] = room[0]


# ---------------------------------------------------------------------------------------- a thread a pixel


def grid_of_planes(
    planes: int, height: int, width: int, most_each: int = 1
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Blocks and threads for a kernel in which each thread asks `my_pixel` which one is its own.

    A block is as wide as the map, up to a warp, and as high, and takes several planes where these are small: 32x8
    pixels of a large map, four planes of 7x7. With `most_each` a thread may have to take its pixel of so many planes,
    `planes_apart` from each other: it finds out only once where its pixel lies. Of small maps it takes fewer, so that
    there are blocks for the whole GPU.
    """
    x = min(next_power_of_two(width), WARP)
    y = min(next_power_of_two(height), THREADS // x)
    z = min(THREADS // (x * y), 64)  # the most that CUDA allows
    down, across = -(-height // y), -(-width // x)
    deep = -(-planes // z)
    each = max(1, min(most_each, deep * down * across // ENOUGH_BLOCKS))
    return (-(-deep // each), down, across), (x, y, z)  # of blocks, the first may be 2**31


@cuda.jit(device=True)
def my_pixel():
    """This thread's plane, row and column; it may lie outside at the last blocks."""
    return (
        np.int32(cuda.blockIdx.x * cuda.blockDim.z + cuda.threadIdx.z),
        np.int32(cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y),
        np.int32(cuda.blockIdx.z * cuda.blockDim.x + cuda.threadIdx.x),
    )


@cuda.jit(device=True)
def planes_apart():
    """From one plane of this thread to its next."""
    return np.int32(cuda.gridDim.x * cuda.blockDim.z)


def next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
