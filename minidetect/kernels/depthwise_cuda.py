"""Depthwise convolution on the GPU. Letters and formulas: depthwise.py.

There is nothing to share between filters, so no tile: each thread computes an output from the pixels under its taps,
and asks `my_pixel` which output (pool_cuda.py). Neighbouring threads read neighbouring pixels, first from memory, and
for the next tap from the cache. What can be saved is instructions about places: a 3x3 filter adds 9 products and moves
8 bytes, and written plainly an output of it takes 340 of the compiler's (PTX) instructions. It takes 116 with

    a kernel for each filter size, stride and dilation   loops over taps are written out, sums are in registers, and
                                                         a division by a known stride is a shift, or nothing at all
    a way without questions for the interior             of a map of 160x160, 97 of 100 outputs have no tap outside
    places without a sign (np.uint64)                    of one with a sign Numba asks whether it counts from the
                                                         end, as x[-1] does

A filter's gradient is a sum over all positions of all images: some blocks a channel, each a part of them, and a second
launch that adds up the parts, in one order.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import from_dtype

from minidetect.kernels.conv import output_size
from minidetect.kernels.device import DeviceArray, empty, empty_or, zeros
from minidetect.kernels.gpu import SIMULATED, cuda
from minidetect.kernels.pool_cuda import grid_of_planes, my_pixel
from minidetect.kernels.products_cuda import finished

BLOCK = 4 if SIMULATED else 256  # threads that add up a filter's gradient together; a power of 2
PART = 16 if SIMULATED else 4096  # positions of a channel that a block adds up
MOST_PARTS = 65535 if SIMULATED else 256


@functools.cache
def forward_kernel(kernel_h: int, kernel_w: int, stride: int, dilation: int, dtype: np.dtype) -> Any:
    zero, taps = dtype.type(0), kernel_h * kernel_w
    reach_h, reach_w = (kernel_h - 1) * dilation, (kernel_w - 1) * dilation  # from the first tap to the last

    @cuda.jit
    def forward(x, w, sizes, padding, bias, slope, residual, last_slope, after, y):
        """x (N*C*H*W,), w (C*KH*KW,), y (N*C*PH*PW,); sizes: N*C, C, H, W, PH, PW."""
        planes, channels, height, width, out_h, out_w = sizes
        plane, i, j = my_pixel()
        if plane >= planes or i >= out_h or j >= out_w:
            return
        c = channel_of(plane, channels)
        top, left, total = i * stride - padding, j * stride - padding, zero
        first = (plane * height + top) * width + left  # where the first tap's pixel stands, if there is one
        if top >= 0 and left >= 0 and top + reach_h < height and left + reach_w < width:
            for u in range(kernel_h):
                for v in range(kernel_w):
                    pixel = x[np.uint64(first + u * dilation * width + v * dilation)]
                    total += w[np.uint64(c * taps + u * kernel_w + v)] * pixel
        else:
            for u in range(kernel_h):
                yy = top + u * dilation
                for v in range(kernel_w):
                    xx = left + v * dilation
                    if yy >= 0 and yy < height and xx >= 0 and xx < width:
                        pixel = x[np.uint64(first + u * dilation * width + v * dilation)]
                        total += w[np.uint64(c * taps + u * kernel_w + v)] * pixel
        at = np.uint64((plane * out_h + i) * out_w + j)
        y[at] = finished(total, c, at, bias, slope, residual, last_slope, after)

    return forward


@cuda.jit(device=True)
def channel_of(plane, channels):
    """The one division that a thread can't do without; in 32 bits it takes fewer instructions than in 64."""
    return np.uint32(np.uint32(plane) % np.uint32(channels))


@functools.cache
def input_kernel(kernel_h: int, kernel_w: int, stride: int, dilation: int, dtype: np.dtype) -> Any:
    zero, taps = dtype.type(0), kernel_h * kernel_w

    @cuda.jit
    def input_gradient(gy, w, sizes, padding, gx):
        """Each pixel asks which outputs took it: y = i*stride - padding + u*dilation, solved for i. sizes: as above."""
        planes, channels, height, width, out_h, out_w = sizes
        plane, y, x = my_pixel()
        if plane >= planes or y >= height or x >= width:
            return
        c, total = channel_of(plane, channels), zero
        columns = cuda.local.array(kernel_w, np.int32)  # of gy, one for each v; below 0 where there is none
        for v in range(kernel_w):
            across = np.int32(x + padding - v * dilation)
            j = across // stride
            columns[v] = j if j * stride == across and j < out_w else -1
        for u in range(kernel_h):
            down = np.int32(y + padding - u * dilation)
            i = down // stride
            if i >= 0 and i * stride == down and i < out_h:
                for v in range(kernel_w):
                    if columns[v] >= 0:
                        gradient = gy[np.uint64((plane * out_h + i) * out_w + columns[v])]
                        total += w[np.uint64(c * taps + u * kernel_w + v)] * gradient
        gx[np.uint64((plane * height + y) * width + x)] = total

    return input_gradient


@functools.cache
def weight_kernel(kernel_h: int, kernel_w: int, stride: int, dilation: int, dtype: np.dtype) -> Any:
    kind, zero, taps = from_dtype(dtype), dtype.type(0), kernel_h * kernel_w

    @cuda.jit
    def weight_gradient(gy, x, images, sizes, padding, partial):
        """partial (parts, C, KH*KW): block (c, part) adds up its share of a channel's positions. sizes: as above."""
        shared = cuda.shared.array(BLOCK, kind)
        sums = cuda.local.array(taps, kind)
        _, channels, height, width, out_h, out_w = sizes
        t, c, part, parts = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y, cuda.gridDim.y
        count = images * out_h * out_w
        for tap in range(taps):
            sums[tap] = zero
        for q in range(part * count // parts + t, (part + 1) * count // parts, BLOCK):
            rest, j = split_index(q, out_w)
            n, i = split_index(rest, out_h)
            plane = n * channels + c
            g = gy[np.uint64((plane * out_h + i) * out_w + j)]
            for u in range(kernel_h):
                yy = i * stride - padding + u * dilation
                for v in range(kernel_w):
                    xx = j * stride - padding + v * dilation
                    if yy >= 0 and yy < height and xx >= 0 and xx < width:
                        sums[u * kernel_w + v] += g * x[np.uint64((plane * height + yy) * width + xx)]
        for tap in range(taps):
            shared[t] = sums[tap]
            cuda.syncthreads()
            half = BLOCK // 2
            while half > 0:
                if t < half:
                    shared[t] += shared[t + half]
                cuda.syncthreads()
                half //= 2
            if t == 0:
                partial[part, c, tap] = shared[0]
            cuda.syncthreads()  # before the next tap's sums are written

    return weight_gradient


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
    planes = y.shape[0] * y.shape[1]
    forward_kernel(*w.shape[2:], stride, dilation, x.dtype)[grid_of_planes(planes, *y.shape[2:])](
        x.flat, w.flat, (planes, *x.shape[1:], *y.shape[2:]), padding,
        *(w.flat if part is None else part.flat for part in parts), tuple(part is not None for part in parts), y.flat,
    )  # fmt: skip
    return y


def depthwise_backward(
    gy: DeviceArray, x: DeviceArray, w: DeviceArray, stride: int, padding: int, dilation: int,
    needs: tuple[bool, bool] = (True, True),
) -> tuple[DeviceArray | None, DeviceArray | None]:
    """As depthwise.depthwise_backward."""
    if gy.size == 0:
        return zeros(x.shape, x.dtype) if needs[0] else None, zeros(w.shape, w.dtype) if needs[1] else None
    gx = gw = None
    planes = x.shape[0] * x.shape[1]
    settings = (*w.shape[2:], stride, dilation, x.dtype)
    sizes = (planes, *x.shape[1:], *gy.shape[2:])
    if needs[0]:
        gx = empty(x.shape, x.dtype)
        input_kernel(*settings)[grid_of_planes(planes, *x.shape[2:])](gy.flat, w.flat, sizes, padding, gx.flat)
    if needs[1]:
        channels, taps = len(w), w.shape[2] * w.shape[3]
        parts = max(1, min(MOST_PARTS, gy.size // channels // PART))
        partial = empty((parts, channels, taps), x.dtype)
        weight_kernel(*settings)[(channels, parts), BLOCK](gy.flat, x.flat, len(x), sizes, padding, partial.nd)
        gw = (partial if parts == 1 else partial.sum(axis=0)).reshape(w.shape)
    return gx, gw
