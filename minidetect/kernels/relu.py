"""ReLU: max(x, 0). One pass over memory each way, at the speed of a copy; NumPy's `maximum` takes 2 to 5 times that."""

from __future__ import annotations

import numpy as np

from minidetect.kernels.device import on_either_device
from minidetect.kernels.dispatch import parallel_kernel, prange


@parallel_kernel
def _forward(x, y):
    zero = x.dtype.type(0)
    for k in prange(len(x)):
        y[k] = zero if x[k] <= 0 else x[k]  # a NaN is not <= 0, and so it stays


@parallel_kernel
def _backward(gy, y, gx):
    zero = gy.dtype.type(0)
    for k in prange(len(gy)):
        gx[k] = gy[k] if y[k] > 0 else zero


@on_either_device
def relu_forward(x: np.ndarray) -> np.ndarray:
    """x of any shape -> the same shape."""
    y = np.empty(x.shape, x.dtype)
    _forward(_flat(x), y.reshape(-1))
    return y


@on_either_device
def relu_backward(gy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """gy where the output y was positive, 0 elsewhere."""
    gx = np.empty(gy.shape, gy.dtype)
    _backward(_flat(gy), _flat(y), gx.reshape(-1))
    return gx


def _flat(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1)
