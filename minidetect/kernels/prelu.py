"""PReLU: x where positive, slope[c] * x elsewhere.

N: samples, C: channels, P: positions (all axes after the channel, flattened).

Where a plane has few positions, a loop over them is too short to fill vector registers; there x is read as a
matrix of N rows and C*P columns, with a slope for every column: twice as fast forward at 4x4 positions, and
4 times backward.
"""

from __future__ import annotations

import math

import numpy as np

from minidetect.kernels.device import on_either_device
from minidetect.kernels.dispatch import kernel, parallel_kernel, prange

SHORT = 64  # planes of fewer positions are read as rows


@parallel_kernel
def _planes_forward(x, slope, y):
    channels = x.shape[1]
    for plane in prange(len(x) * channels):
        n, c = plane // channels, plane % channels
        _line_forward(x[n, c], slope[c], y[n, c])


@kernel
def _line_forward(x, a, y):
    for p in range(len(x)):
        v = x[p]
        y[p] = v if v > 0 else a * v


@parallel_kernel
def _planes_backward(gy, x, slope, gx, gslope):
    for c in prange(x.shape[1]):  # a channel's slope is written by one iteration alone
        total = 0.0
        for n in range(len(x)):
            total += _line_backward(gy[n, c], x[n, c], slope[c], gx[n, c])
        gslope[c] = total


@kernel
def _line_backward(gy, x, a, gx):
    """Fills gx and returns the slope's gradient. Both choices are a select, not a branch, so it vectorises."""
    total = 0.0
    for start in range(0, len(x), 4096):  # a float32 sum of more would lose digits
        g, v, out = gy[start : start + 4096], x[start : start + 4096], gx[start : start + 4096]
        partial = a * 0
        for p in range(len(g)):
            out[p] = g[p] if v[p] > 0 else a * g[p]
            partial += a * 0 if v[p] > 0 else g[p] * v[p]
        total += partial
    return total


@kernel
def _rows_forward(x, slopes, y):
    """x, y (N, C*P), slopes (C*P,)."""
    for n in range(len(x)):
        row, out = x[n], y[n]
        for k in range(len(row)):
            out[k] = row[k] if row[k] > 0 else slopes[k] * row[k]


@kernel
def _rows_backward(gy, x, slopes, gx, totals):
    """totals (C*P,), float64: each column's part of its channel's slope."""
    totals[:] = 0
    for n in range(len(x)):
        g, row, out = gy[n], x[n], gx[n]
        for k in range(len(row)):
            out[k] = g[k] if row[k] > 0 else slopes[k] * g[k]
            totals[k] += 0 if row[k] > 0 else g[k] * row[k]


@on_either_device
def prelu_forward(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """x (N, C, ...), slope (C,) -> y like x."""
    y = np.empty(x.shape, x.dtype)
    positions = math.prod(x.shape[2:])
    if positions < SHORT:
        _rows_forward(_rows(x), np.repeat(slope, positions), _rows(y))
    else:
        _planes_forward(_planes(x), np.ascontiguousarray(slope), _planes(y))
    return y


@on_either_device
def prelu_backward(gy: np.ndarray, x: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of x (like x) and of slope (C,)."""
    gx, gslope = np.empty(x.shape, x.dtype), np.zeros_like(slope)
    positions = math.prod(x.shape[2:])
    if positions < SHORT:
        totals = np.empty(len(slope) * positions)
        _rows_backward(_rows(gy), _rows(x), np.repeat(slope, positions), _rows(gx), totals)
        gslope[:] = totals.reshape(len(slope), positions).sum(axis=1)
    else:
        _planes_backward(_planes(gy), _planes(x), np.ascontiguousarray(slope), _planes(gx), gslope)
    return gx, gslope


def _planes(x: np.ndarray) -> np.ndarray:
    """(N, C, ...) -> (N, C, P), a view where x is contiguous."""
    return np.ascontiguousarray(x).reshape(*x.shape[:2], math.prod(x.shape[2:]))


def _rows(x: np.ndarray) -> np.ndarray:
    """(N, C, ...) -> (N, C*P), a view where x is contiguous."""
    return np.ascontiguousarray(x).reshape(len(x), math.prod(x.shape[1:]))
