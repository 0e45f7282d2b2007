"""PReLU: x where positive, slope[c] * x elsewhere.

N: samples, C: channels, P: positions (all axes after the channel, flattened).
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.dispatch import parallel_kernel, prange


@parallel_kernel
def _forward(x, slope, y):
    channels = x.shape[1]
    for plane in prange(x.shape[0] * channels):
        n, c = plane // channels, plane % channels
        a = slope[c]
        for p in range(x.shape[2]):
            v = x[n, c, p]
            y[n, c, p] = v if v > 0 else a * v


@parallel_kernel
def _backward(gy, x, slope, gx, gslope):
    for c in prange(x.shape[1]):  # a channel's slope is written by one iteration alone
        a = slope[c]
        total = slope[c] * 0
        for n in range(x.shape[0]):
            for p in range(x.shape[2]):
                g, v = gy[n, c, p], x[n, c, p]
                if v > 0:
                    gx[n, c, p] = g
                else:
                    gx[n, c, p] = a * g
                    total += g * v
        gslope[c] = total


def _as_planes(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(*x.shape[:2], int(np.prod(x.shape[2:])))  # -> (N, C, P)


def prelu_forward(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """x (N, C, ...), slope (C,) -> y like x."""
    planes = _as_planes(x)
    y = np.empty_like(planes)
    _forward(planes, np.ascontiguousarray(slope), y)
    return y.reshape(x.shape)


def prelu_backward(gy: np.ndarray, x: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of x (like x) and of slope (C,)."""
    planes = _as_planes(x)
    gx, gslope = np.empty_like(planes), np.zeros_like(slope)
    _backward(_as_planes(gy), planes, np.ascontiguousarray(slope), gx, gslope)
    return gx.reshape(x.shape), gslope
