"""Maximum and average pooling on the GPU: the same functions as in pool.py, for arrays that are there.

Letters: N images, C channels, H W input size, PH PW output size. The kernels see N*C planes.

The processor goes along rows, so that its vector registers are filled with columns, and keeps a strip of scratch memory
for each of a few threads. Here a thread makes a window's number from the pixels under it. That reads pixels several
times over where windows overlap, but from the cache: the neighbour in the same row, which is another thread of the same
warp, has just asked for them. No thread writes what another writes, so every result is the same in every run.

A gradient is turned round for that. pool.py walks over the windows and adds to their pixels (it scatters), which many
threads at once could not do without getting in each other's way. Here each pixel asks the windows that contain it
whether it was their winner (it gathers): ceil(kernel / stride) ** 2 reads at most, one for windows side by side.

The memory should set the pace. In the time in which an H100 moves one byte, it executes about nine instructions of a
thread; so they were counted, as the compiler writes them (PTX), for each byte that must be moved
(tests/cuda/count_work.py). With 8x64x160x160, plainly, a thread for each number and loops that know no size, and here:

                                plainly     here
    maximum 3x3, stride 2          19.2      3.4
    with winners                   18.5      4.0
    its gradient                   50.8      4.3
    mean 2x2, stride 2             14.4      1.9
    its gradient                   49.0      2.1

Of small maps and few images it is up to 6.9, for 9 to 81. What made the difference:

    Places are found once for several planes. A thread makes the same output of up to 8 planes that follow each other.
    All that is asked about rows, columns and borders comes before the loop over the planes, and so does the division
    that takes a thread's number apart; a GPU has no instruction for one, and makes it of many others.

    A kernel for each window size and stride: loops over a window are written out, so that each of its pixels is at a
    known distance from the plane's start.

    No questions at the border: `_inside` replaces a pixel outside by the nearest inside. A window has that one anyway,
    which then counts twice: a maximum stays the same, and of equals the first still wins. In a sum it counts as 0.

    Pixels below each other lie in the same windows, or nearly. In the gradients a thread makes a strip of about 4,
    and reads a window once for all of them.

The same order of ties (`fold`) and table (`shares`) as in pool.py. Left out: several outputs below each other in the
forward kernels, vector loads.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import from_dtype

from minidetect.kernels.device import DeviceArray, empty, to_device, zeros
from minidetect.kernels.gpu import SIMULATED, THREADS, cuda
from minidetect.kernels.planes_cuda import MOST_IN_Y, next_power_of_two
from minidetect.kernels.pool import fold, larger, pooled_size, shares

BLOCKS = 1 if SIMULATED else 1024  # where threads take several planes; of up to 64 registers each, 132 * 4 fit
MOST_EACH = 8  # planes of a thread
STRIP = 4  # pixels below each other that a thread makes in the gradients, about: it takes whole strides

# -------------------------------------------------------------------------------------------- who makes what


def _grid(planes: int, places: int) -> tuple[tuple[tuple[int, int], tuple[int, int]], int]:
    """Blocks and threads, x along the places of a plane, y along the planes; and how many planes a thread takes.

    Places are counted row by row: a map of 23x23 fills 17 warps but for the last, where blocks of 32x8 fill 3 in 4.
    """
    x = min(next_power_of_two(places), THREADS)
    y = THREADS // x
    across, deep = -(-places // x), -(-planes // y)
    each = max(min(MOST_EACH, -(-deep * across // BLOCKS)), -(-deep // MOST_IN_Y))
    return ((across, -(-deep // each)), (x, y)), each


@cuda.jit(device=True)
def _my_planes(planes, each):
    """This thread's planes [first, last). They follow each other: a step of 1 needs no division to be counted."""
    first = np.int64(cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y) * each
    return first, min(first + each, np.int64(planes))


@cuda.jit(device=True)
def _my_row_and_column(width):
    place = np.int32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    row = np.int32(np.uint32(place) // np.uint32(width))  # the one division, in 32 bits, for fewer instructions
    return row, np.int32(place - row * width)


@cuda.jit(device=True)
def _inside(at, size):
    """The place on an axis that is nearest to `at`."""
    return np.int32(min(max(np.int32(at), np.int32(0)), np.int32(size - 1)))


@cuda.jit(device=True)
def _nearest(i, j, height, width):
    """Of the place in a plane that is nearest to (i, j): its index, and whether it is (i, j) itself."""
    row, column = _inside(i, height), _inside(j, width)
    return np.int32(row * width + column), (row == np.int32(i)) & (column == np.int32(j))


def _strip(kernel: int, stride: int) -> tuple[int, int, int]:
    """Pixels of a strip, how many windows begin in it, and how many begin before it and may reach into it.

    So many windows are before a single pixel's own one too, along its row.
    """
    own = max(1, STRIP // stride)
    return own * stride, own, -(-kernel // stride) - 1


@functools.cache
def _strip_functions(kernel: int, stride: int) -> tuple[Any, Any]:
    """What both gradients begin and end with: which strip is a thread's own, and its pixels written."""
    rows, own, before = _strip(kernel, stride)

    @cuda.jit(device=True)
    def my_strip(width, padding):
        """The strip's first row (it may lie in the padding) and its column; the first row and column of windows."""
        strip, j = _my_row_and_column(width)
        own_j = np.int32(np.uint32(j + padding) // np.uint32(stride))
        return np.int32(strip * rows - padding), j, np.int32(strip * own - before), np.int32(own_j - before)

    @cuda.jit(device=True)
    def write(totals, top, j, height, width, pixels):
        for r in range(rows):
            row = np.int32(top + r)
            if row >= 0 and row < height:
                pixels[np.uint64(row * width + j)] = totals[r]

    return my_strip, write


# --------------------------------------------------------------------------------------- maximum, with winners


@functools.cache
def max_kernel(kernel: int, stride: int) -> Any:
    @cuda.jit
    def max_pool(x, sizes, y, argmax):
        """x (planes, H*W) -> y, argmax (planes, PH*PW). Columns before rows: the leftmost wins, then the topmost."""
        planes, each, height, width, out_h, out_w, padding = sizes
        i, j = _my_row_and_column(out_w)
        if i >= out_h:
            return
        top, left = np.int32(i * stride - padding), np.int32(j * stride - padding)
        first, _ = _nearest(top, left, height, width)
        plane, last_plane = _my_planes(planes, each)
        while plane < last_plane:
            pixels = x[np.uint64(plane)]
            best, winner = pixels[np.uint64(first)], first
            for v in range(kernel):
                for u in range(kernel):
                    here, _ = _nearest(top + u, left + v, height, width)
                    best, winner = fold(pixels[np.uint64(here)], here, best, winner)
            at = np.uint64(i * out_w + j)
            y[np.uint64(plane), at], argmax[np.uint64(plane), at] = best, winner
            plane += 1

    return max_pool


@functools.cache
def max_backward_kernel(kernel: int, stride: int, dtype: np.dtype) -> Any:
    kind, zero = from_dtype(dtype), dtype.type(0)
    (rows, own, before), (my_strip, write) = _strip(kernel, stride), _strip_functions(kernel, stride)

    @cuda.jit
    def max_pool_backward(gy, argmax, sizes, gx):
        """gy, argmax (planes, PH*PW), gx (planes, H*W). Sums are in the order of the windows, as on the processor.

        A window that is not there is replaced by the nearest, and asked as if nobody had won it.
        """
        totals = cuda.local.array(rows, kind)
        planes, each, height, width, out_h, out_w, padding = sizes
        top, j, first_i, first_j = my_strip(width, padding)
        if top >= height:
            return
        plane, last_plane = _my_planes(planes, each)
        while plane < last_plane:
            gradients, winners, pixels = gy[np.uint64(plane)], argmax[np.uint64(plane)], gx[np.uint64(plane)]
            for r in range(rows):
                totals[r] = zero
            for a in range(before + own):
                for b in range(before + 1):
                    window, is_there = _nearest(first_i + a, first_j + b, out_h, out_w)
                    gradient, winner = gradients[np.uint64(window)], winners[np.uint64(window)]
                    winner = winner if is_there else np.int32(-1)
                    for r in range(rows):
                        if 0 <= r - (a - before) * stride < kernel:  # known when this is compiled
                            totals[r] += gradient if winner == np.int32((top + r) * width + j) else zero
            write(totals, top, j, height, width, pixels)
            plane += 1

    return max_pool_backward


# ------------------------------------------------------------------------------------ maximum, values alone


@functools.cache
def max_values_kernel(kernel: int, stride: int) -> Any:
    @cuda.jit
    def max_pool_values(x, sizes, y):
        """`max_pool` for inference, where no winners are written."""
        planes, each, height, width, out_h, out_w, padding = sizes
        i, j = _my_row_and_column(out_w)
        if i >= out_h:
            return
        top, left = np.int32(i * stride - padding), np.int32(j * stride - padding)
        first, _ = _nearest(top, left, height, width)
        plane, last_plane = _my_planes(planes, each)
        while plane < last_plane:
            pixels = x[np.uint64(plane)]
            best = pixels[np.uint64(first)]
            for u in range(kernel):
                for v in range(kernel):
                    here, _ = _nearest(top + u, left + v, height, width)
                    best = larger(pixels[np.uint64(here)], best)
            y[np.uint64(plane), np.uint64(i * out_w + j)] = best
            plane += 1

    return max_pool_values


# ------------------------------------------------------------------------------------------------- average


@functools.cache
def avg_kernel(kernel: int, stride: int, dtype: np.dtype) -> Any:
    zero = dtype.type(0)

    @cuda.jit
    def avg_pool(x, sizes, down, across, y):
        """down (PH,), across (PW,): 1 / the number of real pixels under a window, so that nobody divides."""
        planes, each, height, width, out_h, out_w, padding = sizes
        i, j = _my_row_and_column(out_w)
        if i >= out_h:
            return
        top, left = np.int32(i * stride - padding), np.int32(j * stride - padding)
        share = down[np.uint64(i)] * across[np.uint64(j)]
        plane, last_plane = _my_planes(planes, each)
        while plane < last_plane:
            pixels, total = x[np.uint64(plane)], zero
            for u in range(kernel):
                for v in range(kernel):
                    here, is_there = _nearest(top + u, left + v, height, width)
                    pixel = pixels[np.uint64(here)]
                    total += pixel if is_there else zero
            y[np.uint64(plane), np.uint64(i * out_w + j)] = total * share
            plane += 1

    return avg_pool


@functools.cache
def avg_backward_kernel(kernel: int, stride: int, dtype: np.dtype) -> Any:
    kind, zero = from_dtype(dtype), dtype.type(0)
    (rows, own, before), (my_strip, write) = _strip(kernel, stride), _strip_functions(kernel, stride)
    most_i, most_j = before + own, before + 1

    @cuda.jit
    def avg_pool_backward(gy, sizes, down, across, gx):
        """The transpose of `avg_pool`: each pixel adds up its share of the windows that contain it."""
        totals = cuda.local.array(rows, kind)
        shares_i, shares_j = cuda.local.array(most_i, kind), cuda.local.array(most_j, kind)
        planes, each, height, width, out_h, out_w, padding = sizes
        top, j, first_i, first_j = my_strip(width, padding)
        if top >= height:
            return
        for a in range(most_i):
            shares_i[a] = down[np.uint64(_inside(first_i + a, out_h))]
        for b in range(most_j):
            shares_j[b] = across[np.uint64(_inside(first_j + b, out_w))]
        plane, last_plane = _my_planes(planes, each)
        while plane < last_plane:
            gradients, pixels = gy[np.uint64(plane)], gx[np.uint64(plane)]
            for r in range(rows):
                totals[r] = zero
            for a in range(most_i):
                for b in range(most_j):
                    k = np.int32(first_j + b)
                    window, is_there = _nearest(first_i + a, k, out_h, out_w)
                    part = gradients[np.uint64(window)] * (shares_i[a] * shares_j[b])
                    part = part if is_there & (j + padding < np.int32(k * stride + kernel)) else zero
                    for r in range(rows):
                        if 0 <= r - (a - before) * stride < kernel:  # known when this is compiled
                            totals[r] += part
            write(totals, top, j, height, width, pixels)
            plane += 1

    return avg_pool_backward


# ------------------------------------------------------------------------------------ arrays in, arrays out


def max_pool_forward(
    x: DeviceArray, kernel: int, stride: int, padding: int, ceil_mode: bool
) -> tuple[DeviceArray, DeviceArray]:
    """x (N, C, H, W) -> y (N, C, PH, PW) and the winners' indices within their planes, int32."""
    y = _empty_output(x, kernel, stride, padding, ceil_mode)
    argmax = empty(y.shape, np.int32)
    if y.size:
        grid, sizes = _forward_grid(x, y, padding)
        max_kernel(kernel, stride)[grid](_planes(x), sizes, _planes(y), _planes(argmax))
    return y, argmax


def max_pool_values(x: DeviceArray, kernel: int, stride: int, padding: int, ceil_mode: bool) -> DeviceArray:
    """`max_pool_forward` where no backward will follow: x (N, C, H, W) -> y (N, C, PH, PW)."""
    y = _empty_output(x, kernel, stride, padding, ceil_mode)
    if y.size:
        grid, sizes = _forward_grid(x, y, padding)
        max_values_kernel(kernel, stride)[grid](_planes(x), sizes, _planes(y))
    return y


def max_pool_backward(
    gy: DeviceArray, argmax: DeviceArray, x_shape: tuple[int, ...], kernel: int, stride: int, padding: int
) -> DeviceArray:
    """gy, argmax (N, C, PH, PW) -> gx (N, C, H, W): each output's gradient goes to the pixel that won."""
    if gy.size == 0:
        return zeros(x_shape, gy.dtype)
    gx = empty(x_shape, gy.dtype)
    grid, sizes = _backward_grid(gy, gx, kernel, stride, padding)
    max_backward_kernel(kernel, stride, gx.dtype)[grid](_planes(gy), _planes(argmax), sizes, _planes(gx))
    return gx


def avg_pool_forward(x: DeviceArray, kernel: int, stride: int, padding: int, ceil_mode: bool) -> DeviceArray:
    """x (N, C, H, W) -> y (N, C, PH, PW), each the mean of its window's real pixels."""
    y = _empty_output(x, kernel, stride, padding, ceil_mode)
    if y.size:
        grid, sizes = _forward_grid(x, y, padding)
        down, across = (_shares(y.shape[k], x.shape[k], kernel, stride, padding, y.dtype) for k in (2, 3))
        avg_kernel(kernel, stride, y.dtype)[grid](_planes(x), sizes, down.flat, across.flat, _planes(y))
    return y


def avg_pool_backward(
    gy: DeviceArray, x_shape: tuple[int, ...], kernel: int, stride: int, padding: int
) -> DeviceArray:
    """gy (N, C, PH, PW) -> gx (N, C, H, W): each mean's gradient is shared by its real pixels."""
    if gy.size == 0:
        return zeros(x_shape, gy.dtype)
    gx = empty(x_shape, gy.dtype)
    grid, sizes = _backward_grid(gy, gx, kernel, stride, padding)
    down, across = (_shares(gy.shape[k], x_shape[k], kernel, stride, padding, gy.dtype) for k in (2, 3))
    avg_backward_kernel(kernel, stride, gx.dtype)[grid](_planes(gy), sizes, down.flat, across.flat, _planes(gx))
    return gx


def _empty_output(x: DeviceArray, kernel: int, stride: int, padding: int, ceil_mode: bool) -> DeviceArray:
    sizes = [pooled_size(n, kernel, stride, padding, ceil_mode) for n in x.shape[2:]]
    return empty((*x.shape[:2], *sizes), x.dtype)


def _forward_grid(x: DeviceArray, y: DeviceArray, padding: int) -> tuple:
    """A thread an output; and what kernels call sizes."""
    planes = x.shape[0] * x.shape[1]
    grid, each = _grid(planes, y.shape[2] * y.shape[3])
    return grid, tuple(map(np.int32, (planes, each, *x.shape[2:], *y.shape[2:], padding)))


def _backward_grid(gy: DeviceArray, gx: DeviceArray, kernel: int, stride: int, padding: int) -> tuple:
    """A thread a strip, of which the first begins with the padding; and the sizes, as above."""
    planes, rows = gx.shape[0] * gx.shape[1], _strip(kernel, stride)[0]
    grid, each = _grid(planes, -(-(gx.shape[2] + padding) // rows) * gx.shape[3])
    return grid, tuple(map(np.int32, (planes, each, *gx.shape[2:], *gy.shape[2:], padding)))


def _planes(x: DeviceArray):
    """(N, C, H, W) -> what kernels get, (N*C, H*W)."""
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2] * x.shape[3]).nd


@functools.lru_cache(maxsize=64)  # or each call would wait for two small copies
def _shares(count: int, size: int, kernel: int, stride: int, padding: int, dtype: np.dtype) -> DeviceArray:
    """`shares` on the GPU."""
    return to_device(shares(count, size, kernel, stride, padding, dtype))
