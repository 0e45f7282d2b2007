"""Depthwise convolution on the GPU. Letters and formulas: depthwise.py.

There is nothing to share between filters, so no tile: each thread computes an output from the pixels under its taps.
Neighbouring threads read neighbouring pixels, first from memory, and for the next tap from the cache. A kernel is
compiled for each size of filter: its loops over the taps are written out, and its sums are in registers.

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
from minidetect.kernels.gpu import SIMULATED, cuda, grid_for
from minidetect.kernels.products_cuda import finished

BLOCK = 4 if SIMULATED else 256  # threads that add up a filter's gradient together; a power of 2
PART = 16 if SIMULATED else 4096  # positions of a channel that a block adds up
MOST_PARTS = 65535 if SIMULATED else 256


@functools.cache
def forward_kernel(kernel_h: int, kernel_w: int, dtype: np.dtype) -> Any:
    zero = dtype.type(0)

    @cuda.jit
    def forward(x, w, sizes, stride, padding, dilation, bias, slope, residual, last_slope, after, y):
        """x (N*C*H*W,), w (C*KH*KW,), y (N*C*PH*PW,); sizes: C, H, W, PH, PW."""
        channels, height, width, out_h, out_w = sizes
        for at in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            rest, j = split_index(at, out_w)
            plane, i = split_index(rest, out_h)
            c = plane % channels
            total = zero
            for u in range(kernel_h):
                yy = i * stride - padding + u * dilation
                for v in range(kernel_w):
                    xx = j * stride - padding + v * dilation
                    if yy >= 0 and yy < height and xx >= 0 and xx < width:
                        total += w[(c * kernel_h + u) * kernel_w + v] * x[(plane * height + yy) * width + xx]
            y[at] = finished(total, c, at, bias, slope, residual, last_slope, after)

    return forward


@cuda.jit(device=True)
def split_index(index, length):
    """index // length and index % length, in 32 bits: a division of 64 takes several times as long."""
    quotient = np.uint32(index) // np.uint32(length)
    return np.int64(quotient), index - np.int64(quotient) * length


@functools.cache
def input_kernel(kernel_h: int, kernel_w: int, dtype: np.dtype) -> Any:
    zero = dtype.type(0)

    @cuda.jit
    def input_gradient(gy, w, sizes, stride, padding, dilation, gx):
        """Each pixel asks which outputs took it: y = i*stride - padding + u*dilation, solved for i."""
        channels, height, width, out_h, out_w = sizes
        for at in range(cuda.grid(1), gx.size, cuda.gridsize(1)):
            rest, x = split_index(at, width)
            plane, y = split_index(rest, height)
            c = plane % channels
            total = zero
            for u in range(kernel_h):
                down = y + padding - u * dilation
                i = down // stride
                if down >= 0 and i * stride == down and i < out_h:
                    for v in range(kernel_w):
                        across = x + padding - v * dilation
                        j = across // stride
                        if across >= 0 and j * stride == across and j < out_w:
                            total += w[(c * kernel_h + u) * kernel_w + v] * gy[(plane * out_h + i) * out_w + j]
            gx[at] = total

    return input_gradient


@functools.cache
def weight_kernel(kernel_h: int, kernel_w: int, dtype: np.dtype) -> Any:
    kind, zero, taps = from_dtype(dtype), dtype.type(0), kernel_h * kernel_w

    @cuda.jit
    def weight_gradient(gy, x, images, sizes, stride, padding, dilation, partial):
        """partial (parts, C, KH*KW): block (c, part) adds up its share of a channel's positions."""
        shared = cuda.shared.array(BLOCK, kind)
        sums = cuda.local.array(taps, kind)
        channels, height, width, out_h, out_w = sizes
        t, c, part, parts = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y, cuda.gridDim.y
        count = images * out_h * out_w
        for tap in range(taps):
            sums[tap] = zero
        for q in range(part * count // parts + t, (part + 1) * count // parts, BLOCK):
            rest, j = split_index(q, out_w)
            n, i = split_index(rest, out_h)
            plane = n * channels + c
            g = gy[(plane * out_h + i) * out_w + j]
            for u in range(kernel_h):
                yy = i * stride - padding + u * dilation
                for v in range(kernel_w):
                    xx = j * stride - padding + v * dilation
                    if yy >= 0 and yy < height and xx >= 0 and xx < width:
                        sums[u * kernel_w + v] += g * x[(plane * height + yy) * width + xx]
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
    forward_kernel(*w.shape[2:], x.dtype)[grid_for(y.size)](
        x.flat, w.flat, (*x.shape[1:], *y.shape[2:]), stride, padding, dilation,
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
    settings = (*x.shape[1:], *gy.shape[2:]), stride, padding, dilation
    if needs[0]:
        gx = empty(x.shape, x.dtype)
        input_kernel(*w.shape[2:], x.dtype)[grid_for(gx.size)](gy.flat, w.flat, *settings, gx.flat)
    if needs[1]:
        channels, taps = len(w), w.shape[2] * w.shape[3]
        parts = max(1, min(MOST_PARTS, gy.size // channels // PART))
        partial = empty((parts, channels, taps), x.dtype)
        weight_kernel(*w.shape[2:], x.dtype)[(channels, parts), BLOCK](gy.flat, x.flat, len(x), *settings, partial.nd)
        gw = partial.sum(axis=0).reshape(w.shape)
    return gx, gw
