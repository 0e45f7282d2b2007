"""Softmax and its logarithm along the last axis: x (R, K), R rows of K classes.

NumPy's sums and maxima along a short axis are slow (20,000 rows of 2: 1.4 ms), so those are loops here; the
exponentials and logarithms are NumPy's, which are vectorised, whereas Numba's call the C library for every number.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.device import on_either_device
from minidetect.kernels.dispatch import kernel


@kernel
def _shift(x, y):
    """y = x - the largest of its row: exp of it cannot overflow. Where a row has a NaN, exp carries it on."""
    for r in range(len(x)):
        largest = x[r, 0]
        for k in range(1, x.shape[1]):
            largest = max(largest, x[r, k])
        for k in range(x.shape[1]):
            y[r, k] = x[r, k] - largest


@kernel
def _row_sums(x, sums):
    for r in range(len(x)):
        total = x.dtype.type(0)
        for k in range(x.shape[1]):
            total += x[r, k]
        sums[r] = total


@kernel
def _divide(y, sums):
    for r in range(len(y)):
        share = 1 / sums[r]
        for k in range(y.shape[1]):
            y[r, k] *= share


@kernel
def _subtract(y, amounts):
    for r in range(len(y)):
        for k in range(y.shape[1]):
            y[r, k] -= amounts[r]


@kernel
def _softmax_backward(gy, y, gx):
    for r in range(len(y)):
        dot = y.dtype.type(0)
        for k in range(y.shape[1]):
            dot += gy[r, k] * y[r, k]
        for k in range(y.shape[1]):
            gx[r, k] = y[r, k] * (gy[r, k] - dot)


@kernel
def _log_softmax_backward(gy, probs, gx):
    for r in range(len(gy)):
        total = gy.dtype.type(0)
        for k in range(gy.shape[1]):
            total += gy[r, k]
        for k in range(gy.shape[1]):
            gx[r, k] = gy[r, k] - probs[r, k] * total


@on_either_device
def softmax_forward(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x_i) / sum_j exp(x_j) along `axis`."""
    if not _is_last(x, axis):
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)
    y = _shifted(x)
    np.exp(y, out=y)
    _divide(y, _summed(y))
    return y.reshape(x.shape)


@on_either_device
def log_softmax_forward(x: np.ndarray, axis: int) -> np.ndarray:
    """x_i - log sum_j exp(x_j) along `axis`, without ever forming a probability that rounds to 0."""
    if not _is_last(x, axis):
        shifted = x - x.max(axis=axis, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    y = _shifted(x)
    _subtract(y, np.log(_summed(np.exp(y))))
    return y.reshape(x.shape)


@on_either_device
def softmax_backward(gy: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """gx_j = y_j * (gy_j - sum_i gy_i * y_i), with y the softmax."""
    if not _is_last(y, axis):
        return y * (gy - (gy * y).sum(axis=axis, keepdims=True))
    gx = np.empty(y.shape, y.dtype)
    _softmax_backward(_rows(gy), _rows(y), _rows(gx))
    return gx


@on_either_device
def log_softmax_backward(gy: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """gx_j = gy_j - exp(y_j) * sum_i gy_i, with y the logarithm of the softmax."""
    if not _is_last(y, axis):
        return gy - np.exp(y) * gy.sum(axis=axis, keepdims=True)
    gx = np.empty(y.shape, y.dtype)
    _log_softmax_backward(_rows(gy), _rows(np.exp(y)), _rows(gx))
    return gx


def _is_last(x: np.ndarray, axis: int) -> bool:
    """Along other axes NumPy's own loops run through memory and are fast."""
    return axis in (-1, x.ndim - 1) and x.shape[-1] > 0


def _rows(x: np.ndarray) -> np.ndarray:
    """(..., K) -> (R, K), a view where x is contiguous."""
    return np.ascontiguousarray(x).reshape(x.size // x.shape[-1], x.shape[-1])


def _shifted(x: np.ndarray) -> np.ndarray:
    rows = _rows(x)
    y = np.empty(rows.shape, rows.dtype)
    _shift(rows, y)
    return y


def _summed(x: np.ndarray) -> np.ndarray:
    sums = np.empty(len(x), x.dtype)
    _row_sums(x, sums)
    return sums
