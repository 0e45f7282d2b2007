"""Depthwise convolution on the GPU. Letters and formulas: depthwise.py.

There is nothing to share between filters, so no tile: each thread makes a few numbers from the pixels under their taps,
and asks `my_pixel` which ones (planes_cuda.py). Neighbouring threads read neighbouring pixels. A 3x3 filter adds 9
products and moves 8 bytes, so what is to be saved is everything else: a GPU that adds a product an instruction has time
for about 9 of them a byte. Counted in the compiler's (PTX) instructions for each byte that must be moved
(tests/cuda/count_work.py), maps of 1x64x160x160 and 3x3 filters, with a thread for each number, which reads a pixel for
every tap, and as it is here:

                       stride 1        stride 2
    forward            19.3 -> 7.2      9.0 -> 4.4
    input gradient     22.1 -> 6.8     38.6 -> 6.2
    weight gradient    18.4 -> 7.1      7.0 -> 5.3

    strips                              a thread makes 8 numbers of a column: with stride 1 their windows overlap, and
                                        30 pixels that are in registers are the 72 under their taps
    a kernel for each filter size,      loops over taps are written out, sums and pixels are in registers, and what
    stride, padding and dilation        depends on a tap alone is known before the kernel runs
    no branch at the border             outside of the map the nearest pixel is read, and 0 taken: all loads of a strip
                                        are on their way at the same time
    places in 32 bits, without a sign   of one with a sign Numba asks whether it counts from the end, as x[-1] does;
                                        and 64 bits take two instructions where 32 take one

The input gradient gathers: with stride S a pixel was under every S-th tap only, and which ones depends on its row and
column modulo S. So a thread makes S columns, and rows in multiples of S, beginning at multiples of S: then it is known
which tap of which output belongs to which of its pixels, and nobody asks.

A filter's gradient is a sum over all positions of all images: some blocks a channel, each a part of them, and a second
launch that adds up the parts, in one order. Threads add along strips, with their sums in registers; at its end a block
has 128 of them for each tap, which it adds up in two steps. A tree, tap by tap, has seven, each with a barrier.

Left out: several columns a thread, vector loads. Filters of 7x7 and more have too many taps to be written out, and
their pixels are not in registers: right, but slower than memory.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import from_dtype

from minidetect.kernels.conv import output_size
from minidetect.kernels.device import DeviceArray, empty, empty_or, zeros
from minidetect.kernels.gpu import SIMULATED, cuda
from minidetect.kernels.planes_cuda import WARP, grid_of_planes, my_pixel
from minidetect.kernels.products_cuda import finished

STRIP = 2 if SIMULATED else 8  # numbers below each other that a thread makes
BLOCK = 2 if SIMULATED else 128  # threads that add up a filter's gradient together: few, so that there are more blocks
PART = 16 if SIMULATED else 2048  # positions of a channel that a block adds up, at least
MOST_PARTS = 65535 if SIMULATED else 256
AT_ONCE = 9  # taps whose sums the threads of a block show each other at a time


@cuda.jit(device=True)
def pixel_or_zero(pixels, first, y, x, height, width):
    """Pixel (y, x) of the plane that begins at `first`; outside of the map the nearest one is read, and 0 taken.

    That 0 is multiplied like a pixel: an inf in a weight, or in a gradient, makes NaN of it.
    """
    row = min(max(np.int32(y), np.int32(0)), np.int32(height - 1))
    column = min(max(np.int32(x), np.int32(0)), np.int32(width - 1))
    pixel = pixels[np.uint64(np.uint32(first + np.int32(row * width) + column))]  # below 2**32 in any array
    return pixel if (row == np.int32(y)) & (column == np.int32(x)) else pixels.dtype.type(0)


@functools.cache
def pixels_under_strip(count: int, kernel_h: int, kernel_w: int, stride: int, dilation: int) -> tuple[Any, int]:
    """A function that fetches the pixels under `count` outputs of a column, row by row, and how many there are."""
    rows = (count - 1) * stride + (kernel_h - 1) * dilation + 1

    @cuda.jit(device=True)
    def fetch(x, first, top, left, height, width, pixels):
        """(top, left): where the first output's first tap lies, perhaps outside of the map."""
        for r in range(rows):
            for v in range(kernel_w):
                pixels[r * kernel_w + v] = pixel_or_zero(x, first, top + r, left + v * dilation, height, width)

    return fetch, rows * kernel_w


@functools.cache
def forward_kernel(
    kernel_h: int, kernel_w: int, stride: int, padding: int, dilation: int, after: tuple[bool, ...], dtype: np.dtype
) -> Any:
    kind, zero, taps = from_dtype(dtype), dtype.type(0), kernel_h * kernel_w
    fetch, under = pixels_under_strip(STRIP, kernel_h, kernel_w, stride, dilation)

    @cuda.jit
    def forward(x, w, sizes, bias, slope, residual, last_slope, y):
        """x (N*C*H*W,), w (C*KH*KW,), y (N*C*PH*PW,); sizes: N*C, C, H, W, PH, PW."""
        pixels = cuda.local.array(under, kind)
        totals = cuda.local.array(STRIP, kind)
        planes, channels, height, width, out_h, out_w = sizes
        plane, strip, j = my_pixel()
        i = strip * STRIP
        if plane >= planes or i >= out_h or j >= out_w:
            return
        c, first = channel_of(plane, channels), plane * height * width
        fetch(x, first, i * stride - padding, j * stride - padding, height, width, pixels)
        for a in range(STRIP):
            total = zero
            for u in range(kernel_h):
                for v in range(kernel_w):
                    pixel = pixels[(a * stride + u * dilation) * kernel_w + v]
                    total += w[np.uint64(c * taps + u * kernel_w + v)] * pixel
            totals[a] = total
        rows, at = out_h - i, np.uint32((plane * out_h + i) * out_w + j)
        for a in range(STRIP):
            if a < rows:
                y[np.uint64(at)] = finished(totals[a], c, np.uint64(at), bias, slope, residual, last_slope, after)
            at = np.uint32(at + out_w)

    return forward


@cuda.jit(device=True)
def channel_of(plane, channels):
    """The one division that a thread can't do without; in 32 bits it takes fewer instructions than in 64."""
    return np.uint32(np.uint32(plane) % np.uint32(channels))


@functools.cache
def input_kernel(kernel_h: int, kernel_w: int, stride: int, padding: int, dilation: int, dtype: np.dtype) -> Any:
    kind, zero, taps = from_dtype(dtype), dtype.type(0), kernel_h * kernel_w
    tall = outputs_of_patch(stride)
    pixels = tall * stride**2

    @cuda.jit
    def input_gradient(gy, w, sizes, gx):
        """Each pixel asks which outputs took it: y = i*stride - padding + u*dilation, solved for i. sizes: as above.

        The thread's first pixel is (i*stride, j*stride), so that only a and b decide whether there is a solution. The
        compiler sees where two pixels ask for the same gradient, which is read once.
        """
        totals = cuda.local.array(pixels, kind)
        planes, channels, height, width, out_h, out_w = sizes
        plane, strip, j = my_pixel()
        i = strip * tall
        if plane >= planes or i * stride >= height or j * stride >= width:
            return
        c, first = channel_of(plane, channels), plane * out_h * out_w
        for a in range(tall * stride):
            for b in range(stride):
                total = zero
                for u in range(kernel_h):
                    down = a + padding - u * dilation
                    for v in range(kernel_w):
                        across = b + padding - v * dilation
                        if down % stride == 0 and across % stride == 0:
                            yy, xx = i + down // stride, j + across // stride
                            gradient = pixel_or_zero(gy, first, yy, xx, out_h, out_w)
                            total += w[np.uint64(c * taps + u * kernel_w + v)] * gradient
                totals[a * stride + b] = total
        y, x = i * stride, j * stride
        rows, columns, at = height - y, width - x, np.uint32((plane * height + y) * width + x)
        for a in range(tall * stride):
            for b in range(stride):
                if a < rows and b < columns:
                    gx[np.uint64(np.uint32(at + b))] = totals[a * stride + b]
            at = np.uint32(at + width)

    return input_gradient


def outputs_of_patch(stride: int) -> int:
    """A thread of the input gradient makes stride**2 pixels for each: together about as many as a strip has."""
    return max(1, STRIP // stride**2)


@functools.cache
def weight_kernel(kernel_h: int, kernel_w: int, stride: int, padding: int, dilation: int, dtype: np.dtype) -> Any:
    kind, zero, taps = from_dtype(dtype), dtype.type(0), kernel_h * kernel_w
    of_shared = AT_ONCE, BLOCK + 1  # not BLOCK: what stands below each other is then in different banks
    add_strip, add_row = (strip_adder(n, kernel_h, kernel_w, stride, padding, dilation, dtype) for n in (STRIP, 1))

    @cuda.jit
    def weight_gradient(gy, x, walks, images, sizes, partial):
        """partial (parts, C, KH*KW): block (c, part) adds up its part of a channel's positions. sizes: as above.

        A row of strips is as wide as the map. A row of threads walks along it, and along `walks` of them one by one.
        """
        shared = cuda.shared.array(of_shared, kind)
        sums = cuda.local.array(taps, kind)
        _, channels, height, width, out_h, out_w = sizes
        c, part, strips = cuda.blockIdx.x, cuda.blockIdx.y, (out_h + STRIP - 1) // STRIP
        for tap in range(taps):
            sums[tap] = zero
        for walk in range(part * walks, (part + 1) * walks):
            n, strip = split_index(walk * cuda.blockDim.y + cuda.threadIdx.y, strips)
            if n < images:
                plane, i, j = n * channels + c, strip * STRIP, np.int64(cuda.threadIdx.x)
                first_g, first_x = plane * out_h * out_w, plane * height * width
                while j < out_w:
                    if i + STRIP <= out_h:
                        add_strip(gy, x, first_g, first_x, i, j, height, width, out_w, sums)
                    else:  # the map's last rows: below them there is no gradient
                        for row in range(i, out_h):
                            add_row(gy, x, first_g, first_x, row, j, height, width, out_w, sums)
                    j += cuda.blockDim.x
        # A warp adds up a tap's sums, to one for each of its threads; then a single thread adds up these.
        t = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        for tap0 in range(0, taps, AT_ONCE):
            count = min(AT_ONCE, taps - tap0)
            for k in range(count):
                shared[k, t] = sums[tap0 + k]
            cuda.syncthreads()
            for k in range(t // WARP, count, BLOCK // WARP):
                total = zero
                for other in range(t % WARP, BLOCK, WARP):
                    total += shared[k, other]
                shared[k, t % WARP] = total
            cuda.syncthreads()
            for k in range(t, count, BLOCK):
                total = zero
                for lane in range(WARP):
                    total += shared[k, lane]
                partial[part, c, tap0 + k] = total
            cuda.syncthreads()  # before the next taps' sums are written

    return weight_gradient


@functools.cache
def strip_adder(
    count: int, kernel_h: int, kernel_w: int, stride: int, padding: int, dilation: int, dtype: np.dtype
) -> Any:
    """A function that adds to `sums` what `count` outputs of a column, from (i, j) on, took through each tap."""
    kind = from_dtype(dtype)
    fetch, under = pixels_under_strip(count, kernel_h, kernel_w, stride, dilation)

    @cuda.jit(device=True)
    def add_strip(gy, x, first_g, first_x, i, j, height, width, out_w, sums):
        pixels = cuda.local.array(under, kind)
        fetch(x, first_x, i * stride - padding, j * stride - padding, height, width, pixels)
        for a in range(count):
            g = gy[np.uint64(np.uint32(first_g + np.int32((i + a) * out_w + j)))]
            for u in range(kernel_h):
                for v in range(kernel_w):
                    sums[u * kernel_w + v] += g * pixels[(a * stride + u * dilation) * kernel_w + v]

    return add_strip


@cuda.jit(device=True)
def split_index(index, length):
    """index // length and index % length, in 32 bits, as in `channel_of`."""
    quotient = np.uint32(index) // np.uint32(length)
    return np.int64(quotient), index - np.int64(quotient) * length


# --------------------------------------------------------------------------------------------------- entry points


def depthwise_forward(
    x: DeviceArray, w: DeviceArray, b: DeviceArray | None, stride: int, padding: int, dilation: int, *,
    slope: DeviceArray | None = None, residual: DeviceArray | None = None, activate_last: bool = False,
    out: DeviceArray | None = None,
) -> DeviceArray:
    """As depthwise.depthwise_forward."""
    size = (output_size(n, k, stride, padding, dilation) for n, k in zip(x.shape[2:], w.shape[2:], strict=True))
    y = empty_or(out, (*x.shape[:2], *size), x.dtype)
    if y.size == 0:
        return y
    slope = None if slope is None else np.broadcast_to(slope, x.shape[1:2])
    later = activate_last and residual is not None
    parts = b, None if later else slope, residual, slope if later else None
    if x.size == 0:  # nothing but padding
        x = zeros((*x.shape[:2], *(max(n, 1) for n in x.shape[2:])), x.dtype)
    planes, (out_h, out_w) = y.shape[0] * y.shape[1], y.shape[2:]
    after = tuple(part is not None for part in parts)
    kernel = forward_kernel(*w.shape[2:], stride, padding, dilation, after, x.dtype)
    kernel[grid_of_planes(planes, -(-out_h // STRIP), out_w)](
        x.flat, w.flat, (planes, *x.shape[1:], out_h, out_w),
        *(w.flat if part is None else part.flat for part in parts), y.flat,
    )  # fmt: skip
    return y


def depthwise_backward(
    gy: DeviceArray, x: DeviceArray, w: DeviceArray, stride: int, padding: int, dilation: int,
    needs: tuple[bool, bool] = (True, True),
) -> tuple[DeviceArray | None, DeviceArray | None]:
    """As depthwise.depthwise_backward."""
    if gy.size == 0 or x.size == 0:
        return zeros(x.shape, x.dtype) if needs[0] else None, zeros(w.shape, w.dtype) if needs[1] else None
    gx = gw = None
    (images, channels, height, width), (out_h, out_w) = x.shape, gy.shape[2:]
    settings = (*w.shape[2:], stride, padding, dilation, x.dtype)
    sizes = (images * channels, channels, height, width, out_h, out_w)
    if needs[0]:
        gx = empty(x.shape, x.dtype)
        rows, columns = -(-height // (stride * outputs_of_patch(stride))), -(-width // stride)
        input_kernel(*settings)[grid_of_planes(sizes[0], rows, columns)](gy.flat, w.flat, sizes, gx.flat)
    if needs[1]:
        across = grid_of_planes(1, 1, out_w)[1][0]  # threads: as many as the map is wide, up to a warp
        block = across, BLOCK // across
        walks = -(-(images * -(-out_h // STRIP)) // block[1])  # of all rows of strips, as many as a block has at once
        each = -(-walks // max(1, min(MOST_PARTS, images * out_h * out_w // PART)))
        parts = -(-walks // each)
        partial = empty((parts, channels, w.shape[2] * w.shape[3]), x.dtype)
        weight_kernel(*settings)[(channels, parts), block](gy.flat, x.flat, each, images, sizes, partial.nd)
        gw = (partial if parts == 1 else partial.sum(axis=0)).reshape(w.shape)
    return gx, gw
