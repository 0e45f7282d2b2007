"""PReLU on the GPU: x where positive, slope[c] * x elsewhere.

N: samples, C: channels, P: positions (all axes after the channel, flattened).

Forward, a thread reads its plane's slope once and then walks along the plane (planes_cuda.py). Backward, each block
takes a share of one channel: it writes that share's gx, and adds up what it contributes to the slope's gradient, so
that gy and x are read once for both. A second launch adds up the shares, if there are several, in a fixed order: the
result is the same in every run. A thread adds its few numbers in the type of x, everything after that is float64, as on
the processor.

Here there is no second way for short planes: a block that is narrower than 256 is higher instead.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.device import DeviceArray, empty, zeros
from minidetect.kernels.gpu import THREADS, cuda
from minidetect.kernels.planes_cuda import as_planes, fold_sums, grid_2d, shares


@cuda.jit
def _planes_forward(x, slope, y):
    """x, y (N*C, P)."""
    channels = np.uint32(len(slope))
    start, plane = cuda.grid(2)
    width, height = cuda.gridsize(2)
    while plane < len(x):
        a = slope[np.uint32(plane) % channels]
        p = start
        while p < x.shape[1]:
            v = x[plane, p]
            y[plane, p] = v if v > x.dtype.type(0) else a * v
            p += width
        plane += height


@cuda.jit
def _planes_backward(gy, x, slope, deep, wide, gx, parts):
    """gy, x, gx (N, C, P); parts (C, shares): each block's sum of gy * x over its x that are not positive."""
    room = cuda.shared.array(THREADS, np.float64)
    c, t = cuda.blockIdx.x, cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    zero, a = x.dtype.type(0), slope[c]
    end, last = min((cuda.blockIdx.y + 1) * wide, x.shape[2]), min((cuda.blockIdx.z + 1) * deep, len(x))
    total = zero
    n = cuda.blockIdx.z * deep + cuda.threadIdx.y
    while n < last:
        p = cuda.blockIdx.y * wide + cuda.threadIdx.x
        while p < end:
            g, v = gy[n, c, p], x[n, c, p]
            gx[n, c, p] = g if v > zero else a * g
            total += zero if v > zero else g * v
            p += cuda.blockDim.x
        n += cuda.blockDim.y
    room[t] = total
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            room[t] += room[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        parts[c, cuda.blockIdx.z * cuda.gridDim.y + cuda.blockIdx.y] = room[0]


def prelu_forward(x: DeviceArray, slope: DeviceArray) -> DeviceArray:
    """x (N, C, ...), slope (C,) -> y like x."""
    y = empty(x.shape, x.dtype)
    if x.size:
        samples, channels, positions = as_planes(x).shape
        rows = samples * channels, positions
        _planes_forward[grid_2d(*rows)](x.reshape(rows).nd, slope.nd, y.reshape(rows).nd)
    return y


def prelu_backward(gy: DeviceArray, x: DeviceArray, slope: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
    """Gradients of x (like x) and of slope (C,)."""
    gx = empty(x.shape, x.dtype)
    if x.size == 0:
        return gx, zeros(slope.shape, slope.dtype)
    x = as_planes(x)
    launch, deep, wide = shares(x.shape)
    many, gslope = launch[0][1] * launch[0][2], empty(slope.shape, slope.dtype)
    parts = empty((x.shape[1], many), np.float64) if many > 1 else gslope.reshape(x.shape[1], 1)
    _planes_backward[launch](gy.reshape(x.shape).nd, x.nd, slope.nd, deep, wide, gx.reshape(x.shape).nd, parts.nd)
    if many > 1:
        fold_sums[x.shape[1], THREADS](parts.nd, gslope.nd)
    return gx, gslope
