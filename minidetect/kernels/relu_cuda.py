"""ReLU on the GPU: every thread takes every gridsize-th number, so that neighbours read neighbouring memory.

Nothing can be gained but by reading and writing less: the time is that of a copy, as on the processor.
"""

from __future__ import annotations

from minidetect.kernels.device import DeviceArray, empty
from minidetect.kernels.gpu import cuda, grid_for


@cuda.jit
def _forward(x, y):
    zero = x.dtype.type(0)
    for k in range(cuda.grid(1), len(x), cuda.gridsize(1)):
        y[k] = zero if x[k] <= zero else x[k]  # a NaN is not <= 0, and so it stays


@cuda.jit
def _backward(gy, y, gx):
    zero = gy.dtype.type(0)
    for k in range(cuda.grid(1), len(gy), cuda.gridsize(1)):
        gx[k] = gy[k] if y[k] > zero else zero


def relu_forward(x: DeviceArray) -> DeviceArray:
    """x of any shape -> the same shape."""
    y = empty(x.shape, x.dtype)
    if x.size:
        _forward[grid_for(x.size)](x.flat, y.flat)
    return y


def relu_backward(gy: DeviceArray, y: DeviceArray) -> DeviceArray:
    """gy where the output y was positive, 0 elsewhere."""
    gx = empty(gy.shape, gy.dtype)
    if gy.size:
        _backward[grid_for(gy.size)](gy.flat, y.flat, gx.flat)
    return gx
