"""Sums of products on the GPU: the tile that convolution, its input gradient and the matrix product have in common.

    y[n, o, i, j] = sum over c, u, v of w[o, c, u, v] * x[n, c, i*S + dy[u], j*S + dx[v]]

is conv_tile.py's sum, and a product of two matrices: `rows` are the filters o, `columns` the positions (n, i, j) of all
images, and both are added up over the depth (u, v, c). The right matrix, im2col's, is never written down: a thread
knows where its numbers stand in x. A 1x1 convolution is a plain product, and a plain product a @ b is a 1x1 convolution
of an image of one row that has b's rows as channels.

How the work is dealt out. A block of threads computes a tile of y, ROWS x COLUMNS. Step by step it brings DEPTH columns
of w's and DEPTH rows of x's part into shared memory, where all of its threads can read them, and each thread adds to
the sums of (ROWS / DOWN) x (COLUMNS / ACROSS) outputs of its own, kept in registers: 16 numbers read, 64 products
added. Without the tile each product would take two numbers from memory.

What is not a product is kept out of the loops. A thread fetches pixels for one position, channel after channel, and
looks for its place in the image anew only with the next tap: once, in a 1x1 convolution. Where the outputs go is found
out once a column. What follows the sum is known when the kernel is compiled, as are all shapes of a tile: loops over
them are written out by the compiler, or else the sums, whose registers have no index, would have to stand in memory.

Each output belongs to one thread, which adds in one order: the result is the same in every run.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import boolean, from_dtype, int64

from minidetect.kernels.device import DeviceArray, empty_or, zeros
from minidetect.kernels.gpu import SIMULATED, cuda

DOWN, ACROSS = (2, 2) if SIMULATED else (8, 16)  # threads of a block
THREADS = DOWN * ACROSS
COLUMNS = THREADS  # of a tile: each thread fetches the numbers of one
DEPTH = 3 if SIMULATED else 8


def tile_rows(rows: int) -> int:
    """How many rows a tile should have: 64, or fewer where there are not so many."""
    return next(n for n in (2 * DOWN, 4 * DOWN, 8 * DOWN) if n >= rows or n == 8 * DOWN)


@functools.cache
def product_adder(tall: int, wide: int) -> Any:
    """What a thread does between two barriers: sums (tall, wide) += its rows of left times its columns of right."""

    @cuda.jit(device=True)
    def add_products(left, right, down, across, sums):
        for k in range(DEPTH):
            for a in range(tall):
                for b in range(wide):
                    of_row, of_column = down + np.uint32(a * DOWN), across + np.uint32(b * ACROSS)
                    sums[a, b] += left[np.uint32(k), of_row] * right[np.uint32(k), of_column]

    return add_products


@functools.cache
def convolution_kernel(rows: int, dtype: np.dtype, after: tuple[bool, bool, bool, bool]) -> Any:
    """The kernel for tiles of `rows` rows, and for what follows the sum; after: see `finished`.

    x (N*C*H*W,), w (K*O,): depth by depth, in the order u, v, c; sizes: N, C, H, W, O, and PH, PW, the positions.
    first: of the rows, of the columns; step: S; dys (KH,), dxs (KW,).
    y: an image of target[0] x target[1] for each filter; position (i, j) goes to target[2] * (i, j) + target[3:].
    """
    kind, zero = from_dtype(dtype), dtype.type(0)
    tall, wide = rows // DOWN, COLUMNS // ACROSS  # outputs of a thread
    of_left, of_right, of_sums = (DEPTH, rows), (DEPTH, COLUMNS), (tall, wide)  # shapes, known to the compiler
    each_w = DEPTH * rows // THREADS  # weights that a thread fetches at a step
    add_products = product_adder(tall, wide)

    @cuda.jit
    def convolve(x, w, sizes, first, step, dys, dxs, bias, slope, residual, last_slope, target, y):
        left = cuda.shared.array(of_left, kind)  # the simulator takes two on one line for the same
        right = cuda.shared.array(of_right, kind)
        goes_to = cuda.shared.array(COLUMNS, int64)
        sums = cuda.local.array(of_sums, kind)
        fetched = cuda.local.array(DEPTH, kind)
        fetched_w = cuda.local.array(each_w, kind)
        is_there = cuda.local.array(DEPTH, boolean)
        images, channels, height, width, filters, out_h, out_w = sizes
        depth, plane, target_plane = channels * dys.size * dxs.size, height * width, target[0] * target[1]
        t = cuda.threadIdx.x
        down, across = np.uint32(t // ACROSS), np.uint32(t % ACROSS)
        row0, column0 = cuda.blockIdx.y * rows, cuda.blockIdx.x * COLUMNS
        for a in range(tall):
            for b in range(wide):
                sums[a, b] = zero
        # Position n, i, j: this thread fetches its pixels, and tells the others where its outputs go.
        n, p = divided(column0 + t, out_h * out_w)
        i, j = divided(p, out_w)
        to_row, to_column = i * target[2] + target[3], j * target[2] + target[4]
        goes_to[t] = n * filters * target_plane + to_row * target[1] + to_column if n < images else -1
        cuda.syncthreads()
        top, start = i * step + first[0], j * step + first[1]
        u, v, c = 0, -1, channels  # the first number begins a tap
        inside, pixel = False, 0
        for k0 in range(0, depth, DEPTH):
            # First all loads, then all stores: a store waits for its number, and so would the loads behind it.
            for k in range(DEPTH):
                if c == channels:
                    c = 0
                    v += 1
                    if v == dxs.size:
                        v = 0
                        u += 1
                    inside, pixel = False, 0  # outside, x[0] is read and not used: a load without an if
                    if n < images and u < dys.size:
                        inside, pixel = pixel_at(top + dys[u], start + dxs[v], height, width, n * channels * plane)
                is_there[k] = inside
                fetched[k] = x[np.uint64(pixel)]  # unsigned: else each index is asked whether it counts from the end
                pixel += plane if inside else 0
                c += 1
            for s in range(each_w):
                k, r = (t + s * THREADS) // rows, (t + s * THREADS) % rows
                at = (k0 + k) * filters + row0 + r
                fetched_w[s] = w[np.uint64(at if k0 + k < depth and row0 + r < filters else 0)]
            for k in range(DEPTH):
                if is_there[k]:
                    right[k, t] = fetched[k]
                else:
                    right[k, t] = zero
            for s in range(each_w):
                k, r = (t + s * THREADS) // rows, (t + s * THREADS) % rows
                left[k, r] = fetched_w[s] if k0 + k < depth and row0 + r < filters else zero
            cuda.syncthreads()
            add_products(left, right, down, across, sums)
            cuda.syncthreads()  # before the next step writes over them
        for b in range(wide):
            image = goes_to[across + np.uint32(b * ACROSS)]
            for a in range(tall):
                o = row0 + down + a * DOWN
                if image >= 0 and o < filters:
                    at = np.uint64(image + o * target_plane)
                    y[at] = finished(sums[a, b], np.uint64(o), at, bias, slope, residual, last_slope, after)

    return convolve


@cuda.jit(device=True)
def pixel_at(y, x, height, width, first):
    """Whether a pixel is in the image, and its place in memory (0 if not); first: that of the image."""
    if y >= 0 and y < height and x >= 0 and x < width:
        return True, first + y * width + x
    return False, 0


@cuda.jit(device=True)
def divided(index, length):
    """index // length and index % length of numbers below 2**32: a division in 64 bits takes several times as long."""
    quotient = np.uint32(index) // np.uint32(length)
    return np.int64(quotient), index - np.int64(quotient) * length


@cuda.jit(device=True)
def finished(value, o, at, bias, slope, residual, last_slope, after):
    """act(act(sum + bias) + residual), as conv_fast.Weights; after: which of the four there are, bias first."""
    if after[0]:
        value += bias[o]
    if after[1] and not value > 0:
        value *= slope[o]
    if after[2]:
        value += residual[at]
        if after[3] and not value > 0:
            value *= last_slope[o]
    return value


def convolve(
    x: DeviceArray, w: DeviceArray, first: tuple[int, int], step: int, dys: DeviceArray, dxs: DeviceArray,
    size: tuple[int, int], y: DeviceArray, spread: tuple[int, int, int] = (1, 0, 0), bias: DeviceArray | None = None,
    slope: DeviceArray | None = None, residual: DeviceArray | None = None, last_slope: DeviceArray | None = None,
) -> None:
    """x (N, C, H, W), w (KH, KW, C, O) -> y (N, O, ...), of which size (PH, PW) positions are written.

    first, step, dys, dxs: as in conv_tile.Taps, KH and KW of them. spread: (S', a, b), position (i, j) is written to
    (S' * i + a, S' * j + b) of y. What follows the sum is conv_fast.Weights.convolve's.
    """
    filters, (images, channels, height, width) = w.shape[3], x.shape
    rows = tile_rows(filters)
    blocks = -(-(images * size[0] * size[1]) // COLUMNS), -(-filters // rows)
    after = bias, slope, residual, last_slope
    parts = [w.flat if part is None else part.flat for part in after]  # a kernel's argument can't be None
    convolution_kernel(rows, x.dtype, tuple(part is not None for part in after))[blocks, THREADS](
        x.flat, w.flat, (images, channels, height, width, filters, *size), first, step, dys.flat, dxs.flat,
        *parts, (*y.shape[2:], *spread), y.flat,
    )  # fmt: skip


@functools.cache
def single_tap() -> DeviceArray:
    """The taps of a 1x1 kernel along an axis: one, at 0."""
    return zeros(1, np.int64)


def product(a: DeviceArray, b: DeviceArray, *, out: DeviceArray | None = None) -> DeviceArray:
    """a (M, K) @ b (K, N) -> (M, N)."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"product needs a (M, K) and b (K, N), got {a.shape} and {b.shape}")
    (m, depth), n, dtype = a.shape, b.shape[1], np.result_type(a.dtype, b.dtype)
    a, b, y = a.astype(dtype, copy=False), b.astype(dtype, copy=False), empty_or(out, (m, n), dtype)
    if y.size and depth == 0:
        y[...] = 0
    elif y.size:
        w = a.T.reshape(1, 1, depth, m)  # (M, K) -> (K, M) -> (1, 1, K, M)
        image, result = b.reshape(1, depth, 1, n), y.reshape(1, m, 1, n)
        convolve(image, w, (0, 0), 1, single_tap(), single_tap(), (1, n), result)
    return y
