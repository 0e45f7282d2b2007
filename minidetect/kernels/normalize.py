"""Batch normalisation: Ioffe and Szegedy, "Batch Normalization" (2015), Algorithms 1 and 2; sums of channels.

N: samples, C: channels, P: positions (all axes after the channel, flattened), M = N*P values a channel.

    xhat = (x - mean) / sqrt(var + eps),   y = gamma * xhat + beta

How it is made fast. One iteration does all the work on a channel, pass after pass, while its values are still
in the cache: memory is read once and written once, though the mean, the variance and y need a pass each.
Where a plane has few positions (a 4x4 map 16, a fully connected layer 1), a loop over them is too short to
fill vector registers; there x is read as a matrix of N rows and C*P columns, with a mean, a scale and a shift
for every column: 2 to 4 times as fast at 4x4, on one thread, since such maps are small.

Sums are taken over stretches of 4096 values at most, and those are added up in float64.
"""

from __future__ import annotations

import math

import numpy as np

from minidetect.kernels.device import on_either_device
from minidetect.kernels.dispatch import kernel, parallel_kernel, prange

SHORT = 64  # planes of fewer positions are read as rows


# ------------------------------------------------------------------------------------------- long planes


@parallel_kernel
def _sums_of_planes(x, sums):
    for c in prange(x.shape[1]):
        total = 0.0
        for n in range(len(x)):
            total += _sum(x[n, c])
        sums[c] = total


@parallel_kernel
def _normalize_planes(x, gamma, beta, eps, mean, var, y):
    """x, y (N, C, P); mean and var (C,) are results, float64."""
    count = len(x) * x.shape[2]
    for c in prange(x.shape[1]):
        total = 0.0
        for n in range(len(x)):
            total += _sum(x[n, c])
        mean[c] = total / count
        centre = x.dtype.type(mean[c])
        total = 0.0
        for n in range(len(x)):
            total += _sum_of_squares(x[n, c], centre)
        var[c] = total / count
        scale = x.dtype.type(gamma[c] / np.sqrt(var[c] + eps))
        for n in range(len(x)):
            _scale(x[n, c], centre, scale, beta[c], y[n, c])


@parallel_kernel
def _normalize_planes_by(x, centre, scale, beta, y):
    """y = (x - centre) * scale + beta."""
    for plane in prange(len(x) * x.shape[1]):
        n, c = plane // x.shape[1], plane % x.shape[1]
        _scale(x[n, c], centre[c], scale[c], beta[c], y[n, c])


@parallel_kernel
def _planes_backward(gy, x, centre, inv_std, gamma, fixed, gx, ggamma, gbeta):
    """See `batch_norm_backward`; with gy * scale + (x - centre) * slope + shift, gx is one pass."""
    count = len(x) * x.shape[2]
    for c in prange(x.shape[1]):
        total, product = 0.0, 0.0
        for n in range(len(x)):
            one, two = _sum_and_product(gy[n, c], x[n, c], centre[c])
            total += one
            product += two
        gbeta[c], ggamma[c] = total, product * inv_std[c]
        scale = gamma[c] * inv_std[c]
        slope = x.dtype.type(-scale * inv_std[c] * inv_std[c] * product / count)
        shift = x.dtype.type(-scale * total / count)
        for n in range(len(x)):
            if fixed:
                _scale(gy[n, c], scale * 0, scale, scale * 0, gx[n, c])
            else:
                _combine(gy[n, c], x[n, c], centre[c], scale, slope, shift, gx[n, c])


@kernel
def _sum(values):
    total = 0.0
    for start in range(0, len(values), 4096):
        part, partial = values[start : start + 4096], values.dtype.type(0)
        for p in range(len(part)):
            partial += part[p]
        total += partial
    return total


@kernel
def _sum_of_squares(values, mean):
    """The sum of (value - mean)**2."""
    total = 0.0
    for start in range(0, len(values), 4096):
        part, partial = values[start : start + 4096], values.dtype.type(0)
        for p in range(len(part)):
            partial += (part[p] - mean) * (part[p] - mean)
        total += partial
    return total


@kernel
def _sum_and_product(g, x, mean):
    """The sums of g and of g * (x - mean)."""
    total, product = 0.0, 0.0
    for start in range(0, len(g), 4096):
        part_g, part_x = g[start : start + 4096], x[start : start + 4096]
        sum_g, sum_gx = g.dtype.type(0), g.dtype.type(0)
        for p in range(len(part_g)):
            sum_g += part_g[p]
            sum_gx += part_g[p] * (part_x[p] - mean)
        total += sum_g
        product += sum_gx
    return total, product


@kernel
def _scale(x, centre, scale, shift, y):
    for p in range(len(x)):
        y[p] = (x[p] - centre) * scale + shift


@kernel
def _combine(g, x, centre, scale, slope, shift, gx):
    for p in range(len(g)):
        gx[p] = g[p] * scale + ((x[p] - centre) * slope + shift)


# --------------------------------------------------------------------------- short planes, as rows of columns


@kernel
def _sums_of_rows(x, totals, sums):
    """x (N, C*P); totals (C*P,): scratch, float64."""
    totals[:] = 0
    for n in range(len(x)):
        row = x[n]
        for k in range(len(row)):
            totals[k] += row[k]
    _fold(totals, sums)


@kernel
def _normalize_rows(x, gamma, beta, eps, totals, columns, mean, var, y):
    """`_normalize_planes` for x, y (N, C*P); totals (C*P,) and columns (3, C*P): scratch."""
    count = x.size // len(mean)
    _sums_of_rows(x, totals, mean)
    for c in range(len(mean)):
        mean[c] /= count
    centre = columns[0]
    _repeat(mean, centre)
    totals[:] = 0
    for n in range(len(x)):
        row = x[n]
        for k in range(len(row)):
            totals[k] += (row[k] - centre[k]) * (row[k] - centre[k])
    _fold(totals, var)
    for c in range(len(var)):
        var[c] /= count
    _normalize_rows_by(x, mean, gamma / np.sqrt(var + eps), beta, columns, y)


@kernel
def _normalize_rows_by(x, centre, scale, beta, columns, y):
    centres, scales, shifts = columns[0], columns[1], columns[2]
    _repeat(centre, centres)
    _repeat(scale, scales)
    _repeat(beta, shifts)
    for n in range(len(x)):
        row, out = x[n], y[n]
        for k in range(len(row)):
            out[k] = (row[k] - centres[k]) * scales[k] + shifts[k]


@kernel
def _rows_backward(gy, x, centre, inv_std, gamma, fixed, totals, columns, gx, ggamma, gbeta):
    """`_planes_backward` for (N, C*P); totals (2, C*P) and columns (3, C*P): scratch."""
    count = x.size // len(centre)
    centres, scales, slopes, shifts = columns[0], columns[1], columns[2], columns[3]
    _repeat(centre, centres)
    total, product = totals[0], totals[1]
    totals[:] = 0
    for n in range(len(x)):
        g, row = gy[n], x[n]
        for k in range(len(row)):
            total[k] += g[k]
            product[k] += g[k] * (row[k] - centres[k])
    _fold(total, gbeta)
    _fold(product, ggamma)
    ggamma *= inv_std
    scale = gamma * inv_std
    _repeat(scale, scales)
    _repeat(scale * inv_std * ggamma * (0 if fixed else -1) / count, slopes)
    _repeat(scale * gbeta * (0 if fixed else -1) / count, shifts)
    for n in range(len(x)):
        g, row, out = gy[n], x[n], gx[n]
        for k in range(len(row)):
            out[k] = g[k] * scales[k] + ((row[k] - centres[k]) * slopes[k] + shifts[k])


@kernel
def _fold(totals, sums):
    """(C*P,) -> (C,): add up each channel's columns."""
    positions = len(totals) // len(sums)
    for c in range(len(sums)):
        total = 0.0
        for k in range(c * positions, (c + 1) * positions):
            total += totals[k]
        sums[c] = total


@kernel
def _repeat(values, columns):
    """(C,) -> (C*P,)."""
    positions = len(columns) // len(values)
    for c in range(len(values)):
        for k in range(c * positions, (c + 1) * positions):
            columns[k] = values[c]


# ------------------------------------------------------------------------------------ arrays in, arrays out


@on_either_device
def channel_sums(x: np.ndarray) -> np.ndarray:
    """x (N, C, ...) -> (C,): the gradient of a bias."""
    sums = np.zeros(x.shape[1], x.dtype)
    if x.size == 0:
        return sums
    if _is_short(x):
        rows = _rows(x)
        _sums_of_rows(rows, np.empty(rows.shape[1]), sums)
    else:
        _sums_of_planes(_planes(x), sums)
    return sums


@on_either_device
def batch_norm_forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (N, C, ...), gamma, beta (C,) -> y like x; the batch's mean and biased variance (C,), float64.

    x must hold at least one value a channel.
    """
    y = np.empty(x.shape, x.dtype)
    mean, var = np.empty(x.shape[1]), np.empty(x.shape[1])
    gamma, beta = _vectors(x, gamma, beta)
    if _is_short(x):
        rows = _rows(x)
        totals, columns = np.empty(rows.shape[1]), np.empty((3, rows.shape[1]), x.dtype)
        _normalize_rows(rows, gamma, beta, float(eps), totals, columns, mean, var, _rows(y))
    else:
        _normalize_planes(_planes(x), gamma, beta, float(eps), mean, var, _planes(y))
    return y, mean, var


@on_either_device
def batch_norm_fixed(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float
) -> np.ndarray:
    """x (N, C, ...), the others (C,) -> y like x, normalised by mean and var as they are given."""
    y = np.empty(x.shape, x.dtype)
    if x.size == 0:
        return y
    centre, scale, beta = _vectors(x, mean, gamma / np.sqrt(var + eps), beta)
    if _is_short(x):
        rows = _rows(x)
        _normalize_rows_by(rows, centre, scale, beta, np.empty((3, rows.shape[1]), x.dtype), _rows(y))
    else:
        _normalize_planes_by(_planes(x), centre, scale, beta, _planes(y))
    return y


@on_either_device
def batch_norm_backward(
    gy: np.ndarray, x: np.ndarray, gamma: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float, fixed: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of x (like x), gamma (C,) and beta (C,). fixed: were mean and var constants?

    Where they are the batch's own, every x of a channel moves them, and through them every y of the channel:
    gx = gamma / std * (gy - mean(gy) - xhat * mean(gy * xhat)); else gx = gamma / std * gy.
    """
    gx, ggamma, gbeta = np.empty(x.shape, x.dtype), np.zeros(x.shape[1], x.dtype), np.zeros(x.shape[1], x.dtype)
    if x.size == 0:
        return gx, ggamma, gbeta
    vectors = _vectors(x, mean, 1 / np.sqrt(var + eps), gamma)
    if _is_short(x):
        g, rows = _rows(gy), _rows(x)
        totals, columns = np.empty((2, rows.shape[1])), np.empty((4, rows.shape[1]), x.dtype)
        _rows_backward(g, rows, *vectors, fixed, totals, columns, _rows(gx), ggamma, gbeta)
    else:
        _planes_backward(_planes(gy), _planes(x), *vectors, fixed, _planes(gx), ggamma, gbeta)
    return gx, ggamma, gbeta


def _is_short(x: np.ndarray) -> bool:
    return math.prod(x.shape[2:]) < SHORT


def _planes(x: np.ndarray) -> np.ndarray:
    """(N, C, ...) -> (N, C, P), a view where x is contiguous."""
    return np.ascontiguousarray(x).reshape(*x.shape[:2], math.prod(x.shape[2:]))


def _rows(x: np.ndarray) -> np.ndarray:
    """(N, C, ...) -> (N, C*P), a view where x is contiguous."""
    return np.ascontiguousarray(x).reshape(len(x), math.prod(x.shape[1:]))


def _vectors(x: np.ndarray, *vectors: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(v, x.dtype) for v in vectors]
