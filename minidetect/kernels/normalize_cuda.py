"""Batch normalisation on the GPU, and sums of channels.

N: samples, C: channels, P: positions (all axes after the channel, flattened), M = N*P values a channel.

    xhat = (x - mean) / sqrt(var + eps),   y = gamma * xhat + beta

On the processor one thread does all the work on a channel, pass after pass. Here a channel belongs to many blocks
(planes_cuda.py), and no block can wait for another: what needs the sum of all is a launch of its own.

    1   each block: the sum of its share, or its two sums, written to memory
    2   one block a channel: adds these up, in a fixed order, and makes a scale and a shift of them
    3   each thread: its values, by that scale and shift

Where a channel is a single share (a map of 8x8 in a batch of 16, say), step 1 knows all of it, and makes the scale and
the shift itself: step 2 is a launch for nothing then, and left out.

The mean must be known before the squared distances from it are added up: sum(x**2) - M * mean**2 would lose all
digits where the mean is large. A block does so within its share, by the share's own mean, and reads it twice, the
second time from the cache. (That mean is rounded; the distances from it also add up to what it is off by, exactly.)
Shares of n values, of mean m and with squared distances s from it, make a channel's by

    mean = sum n*m / M,   var = sum (s + n * (m - mean)**2) / M            (Chan, Golub, LeVeque 1979)

so that x comes from memory twice for a forward pass, not three times. A thread adds its few numbers in the type of x,
four reads under way at once; all that follows, a few numbers a block, is float64.

Left out: step 1 reads maps of 1x1 (of a fully connected layer) with gaps. Memory delivers 32 bytes at a time, of which
one float32 is used.
"""

from __future__ import annotations

import math

import numpy as np

from minidetect.kernels.device import DeviceArray, empty, zeros
from minidetect.kernels.gpu import THREADS, cuda, grid_for
from minidetect.kernels.planes_cuda import as_planes, fold_sums, grid_2d, shares

# ------------------------------------------------------------------------------ step 1: each block its share


@cuda.jit
def _part_sums(x, deep, wide, parts):
    """x (N, C, P) -> parts (C, shares): each block adds up deep samples, wide positions."""
    room = cuda.shared.array(THREADS, np.float64)
    c, end, last = cuda.blockIdx.x, min((cuda.blockIdx.y + 1) * wide, x.shape[2]), _last(deep, x)
    total = x.dtype.type(0)
    n = cuda.blockIdx.z * deep + cuda.threadIdx.y
    while n < last:
        total += _sum(x[n, c], cuda.blockIdx.y * wide + cuda.threadIdx.x, end, cuda.blockDim.x)
        n += cuda.blockDim.y
    sum_of_block = _sum_of_block(total, room)
    if cuda.threadIdx.x == 0 and cuda.threadIdx.y == 0:
        parts[c, _share()] = sum_of_block


@cuda.jit
def _part_moments(x, deep, wide, parts, count, gamma, eps, mean, var, scales):
    """parts (3, C, shares): how many values, their sum, and the sum of their squared distances from their mean.

    The others are those of `_fold_moments`, and written where a channel has one share.
    """
    room = cuda.shared.array(THREADS, np.float64)
    c, end, last = cuda.blockIdx.x, min((cuda.blockIdx.y + 1) * wide, x.shape[2]), _last(deep, x)
    first, start = cuda.blockIdx.z * deep, cuda.blockIdx.y * wide
    total = x.dtype.type(0)
    n = first + cuda.threadIdx.y
    while n < last:
        total += _sum(x[n, c], start + cuda.threadIdx.x, end, cuda.blockDim.x)
        n += cuda.blockDim.y
    here = np.float64((last - first) * (end - start))
    centre = x.dtype.type(_sum_of_block(total, room) / here)
    away, squares = x.dtype.type(0), x.dtype.type(0)
    n = first + cuda.threadIdx.y
    while n < last:
        one, two = _sums_of_distances(x[n, c], centre, start + cuda.threadIdx.x, end, cuda.blockDim.x)
        away += one
        squares += two
        n += cuda.blockDim.y
    away_of_block = _sum_of_block(away, room)
    squares_of_block = _sum_of_block(squares, room)
    if cuda.threadIdx.x == 0 and cuda.threadIdx.y == 0:
        off = away_of_block / here  # the mean is centre + off
        of_share, squares_of_block = np.float64(centre) + off, squares_of_block - away_of_block * off
        if parts.shape[2] == 1:
            _write_scales(c, of_share, squares_of_block / count, gamma, eps, mean, var, scales)
        else:
            parts[0, c, _share()], parts[1, c, _share()] = here, here * of_share
            parts[2, c, _share()] = squares_of_block


@cuda.jit
def _part_sums_and_products(gy, x, deep, wide, parts, count, gamma, mean, var, eps, fixed, ggamma, gbeta, scales):
    """parts (2, C, shares): the sums of gy and of gy * (x - mean). The others: of `_fold_gradients`, likewise."""
    room = cuda.shared.array(THREADS, np.float64)
    c, end, last = cuda.blockIdx.x, min((cuda.blockIdx.y + 1) * wide, x.shape[2]), _last(deep, x)
    centre = x.dtype.type(mean[c])
    total, product = x.dtype.type(0), x.dtype.type(0)
    n = cuda.blockIdx.z * deep + cuda.threadIdx.y
    while n < last:
        start = cuda.blockIdx.y * wide + cuda.threadIdx.x
        one, two = _sum_and_product(gy[n, c], x[n, c], centre, start, end, cuda.blockDim.x)
        total += one
        product += two
        n += cuda.blockDim.y
    sum_of_block = _sum_of_block(total, room)
    product_of_block = _sum_of_block(product, room)
    if cuda.threadIdx.x == 0 and cuda.threadIdx.y == 0:
        if parts.shape[2] == 1:
            _write_gradients(
                c, sum_of_block, product_of_block, count, gamma, mean, var, eps, fixed, ggamma, gbeta, scales
            )
        else:
            parts[0, c, _share()], parts[1, c, _share()] = sum_of_block, product_of_block


@cuda.jit(device=True)
def _last(deep, x):
    """Where the samples of this block's share end."""
    return min((cuda.blockIdx.z + 1) * deep, len(x))


@cuda.jit(device=True)
def _share():
    return cuda.blockIdx.z * cuda.gridDim.y + cuda.blockIdx.y


@cuda.jit(device=True)
def _sum(values, p, end, step):
    """The sum of every step-th value from p on."""
    total = values.dtype.type(0)
    while p + 3 * step < end:  # four reads that do not wait for each other
        total += (values[p] + values[p + step]) + (values[p + 2 * step] + values[p + 3 * step])
        p += 4 * step
    while p < end:
        total += values[p]
        p += step
    return total


@cuda.jit(device=True)
def _sums_of_distances(values, mean, p, end, step):
    """The sums of value - mean and of (value - mean)**2, likewise."""
    total, squares = values.dtype.type(0), values.dtype.type(0)
    while p + 3 * step < end:
        a, b = values[p] - mean, values[p + step] - mean
        c, d = values[p + 2 * step] - mean, values[p + 3 * step] - mean
        total += (a + b) + (c + d)
        squares += (a * a + b * b) + (c * c + d * d)
        p += 4 * step
    while p < end:
        a = values[p] - mean
        total += a
        squares += a * a
        p += step
    return total, squares


@cuda.jit(device=True)
def _sum_and_product(g, x, mean, p, end, step):
    """The sums of g and of g * (x - mean), likewise; two arrays, so two of each are under way."""
    total, product = g.dtype.type(0), g.dtype.type(0)
    while p + step < end:
        a, b, at_a, at_b = g[p], g[p + step], x[p], x[p + step]
        total += a + b
        product += a * (at_a - mean) + b * (at_b - mean)
        p += 2 * step
    if p < end:
        total += g[p]
        product += g[p] * (x[p] - mean)
    return total, product


@cuda.jit(device=True)
def _sum_of_block(value, room):
    """The sum of all threads' values, for all of them. room: shared, a float64 for each."""
    t = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    cuda.syncthreads()  # until nobody reads what was there before
    room[t] = value
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            room[t] += room[t + half]
        cuda.syncthreads()
        half //= 2
    return room[0]


# ------------------------------------------------------------------------- step 2: one block a channel, or a thread


@cuda.jit
def _fold_moments(parts, count, gamma, eps, mean, var, scales):
    """parts of `_part_moments` -> mean, var (C,), float64, and scales (2, C): what to subtract, what to multiply by."""
    room = cuda.shared.array(THREADS, np.float64)
    c = cuda.blockIdx.x
    total = 0.0
    for k in range(cuda.threadIdx.x, parts.shape[2], THREADS):
        total += parts[1, c, k]
    centre = _sum_of_block(total, room) / count
    total = 0.0
    for k in range(cuda.threadIdx.x, parts.shape[2], THREADS):
        many = parts[0, c, k]
        away = parts[1, c, k] / many - centre
        total += parts[2, c, k] + many * away * away
    variance = _sum_of_block(total, room) / count
    if cuda.threadIdx.x == 0:
        _write_scales(c, centre, variance, gamma, eps, mean, var, scales)


@cuda.jit(device=True)
def _write_scales(c, centre, variance, gamma, eps, mean, var, scales):
    mean[c], var[c] = centre, variance
    scales[0, c], scales[1, c] = centre, np.float64(gamma[c]) / math.sqrt(variance + eps)


@cuda.jit
def _fixed_scales(mean, var, gamma, eps, scales):
    """The same scales, by statistics that are given."""
    for c in range(cuda.grid(1), len(mean), cuda.gridsize(1)):
        scales[0, c] = mean[c]
        scales[1, c] = np.float64(gamma[c]) / math.sqrt(np.float64(var[c]) + eps)


@cuda.jit
def _fold_gradients(parts, count, gamma, mean, var, eps, fixed, ggamma, gbeta, scales):
    """parts of `_part_sums_and_products` -> ggamma, gbeta (C,), and scales (4, C) for `_combine_planes`."""
    room = cuda.shared.array(THREADS, np.float64)
    c = cuda.blockIdx.x
    total, product = 0.0, 0.0
    for k in range(cuda.threadIdx.x, parts.shape[2], THREADS):
        total += parts[0, c, k]
        product += parts[1, c, k]
    total = _sum_of_block(total, room)
    product = _sum_of_block(product, room)
    if cuda.threadIdx.x == 0:
        _write_gradients(c, total, product, count, gamma, mean, var, eps, fixed, ggamma, gbeta, scales)


@cuda.jit(device=True)
def _write_gradients(c, total, product, count, gamma, mean, var, eps, fixed, ggamma, gbeta, scales):
    """total, product: a channel's sums of gy and of gy * (x - mean)."""
    inv_std = 1.0 / math.sqrt(np.float64(var[c]) + eps)
    gbeta[c], ggamma[c] = total, product * inv_std
    scale = np.float64(gamma[c]) * inv_std
    share = 0.0 if fixed else -scale / count  # constants have no gradient of their own
    scales[0, c], scales[1, c] = mean[c], scale
    scales[2, c], scales[3, c] = share * inv_std * inv_std * product, share * total


# ------------------------------------------------------------------------------------ step 3: each thread its values


@cuda.jit
def _scale_planes(x, centre, scale, shift, y):
    """x, y (N*C, P), the others (C,): y = (x - centre) * scale + shift."""
    channels = np.uint32(len(scale))
    start, plane = cuda.grid(2)
    width, height = cuda.gridsize(2)
    while plane < len(x):
        c = np.uint32(plane) % channels
        a, b, d = centre[c], scale[c], shift[c]
        p = start
        while p < x.shape[1]:
            y[plane, p] = (x[plane, p] - a) * b + d
            p += width
        plane += height


@cuda.jit
def _combine_planes(gy, x, scales, gx):
    """gx = gy * scale + (x - centre) * slope + shift; scales (4, C): centre, scale, slope, shift."""
    channels = np.uint32(scales.shape[1])
    start, plane = cuda.grid(2)
    width, height = cuda.gridsize(2)
    while plane < len(x):
        c = np.uint32(plane) % channels
        centre, scale, slope, shift = scales[0, c], scales[1, c], scales[2, c], scales[3, c]
        p = start
        while p < x.shape[1]:
            gx[plane, p] = gy[plane, p] * scale + ((x[plane, p] - centre) * slope + shift)
            p += width
        plane += height


# ------------------------------------------------------------------------------------ arrays in, arrays out


def channel_sums(x: DeviceArray) -> DeviceArray:
    """x (N, C, ...) -> (C,): the gradient of a bias."""
    if x.size == 0:
        return zeros(x.shape[1], x.dtype)
    x = as_planes(x)
    launch, deep, wide = shares(x.shape)
    sums, parts = empty(x.shape[1], x.dtype), _room_for_parts(launch)
    alone = parts.shape[1] == 1
    _part_sums[launch](x.nd, deep, wide, (sums.reshape(parts.shape) if alone else parts).nd)
    if not alone:
        fold_sums[x.shape[1], THREADS](parts.nd, sums.nd)
    return sums


def batch_norm_forward(
    x: DeviceArray, gamma: DeviceArray, beta: DeviceArray, eps: float
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """x (N, C, ...), gamma, beta (C,) -> y like x; the batch's mean and biased variance (C,), float64.

    x must hold at least one value a channel.
    """
    planes, channels = as_planes(x), x.shape[1]
    launch, deep, wide = shares(planes.shape)
    parts, scales = _room_for_parts(launch, 3), empty((2, channels), x.dtype)
    mean, var = empty(channels, np.float64), empty(channels, np.float64)
    whole = parts.nd, x.size // channels, gamma.nd, float(eps), mean.nd, var.nd, scales.nd
    _part_moments[launch](planes.nd, deep, wide, *whole)
    if parts.shape[2] > 1:
        _fold_moments[channels, THREADS](*whole)
    return _scaled(x, scales.nd[0], scales.nd[1], beta.astype(x.dtype, copy=False).nd), mean, var


def batch_norm_fixed(
    x: DeviceArray, gamma: DeviceArray, beta: DeviceArray, mean: DeviceArray, var: DeviceArray, eps: float
) -> DeviceArray:
    """x (N, C, ...), the others (C,) -> y like x, normalised by mean and var as they are given."""
    if x.size == 0:
        return empty(x.shape, x.dtype)
    scales = empty((2, x.shape[1]), x.dtype)
    _fixed_scales[grid_for(x.shape[1])](mean.nd, var.nd, gamma.nd, float(eps), scales.nd)
    return _scaled(x, scales.nd[0], scales.nd[1], beta.astype(x.dtype, copy=False).nd)


def batch_norm_backward(
    gy: DeviceArray, x: DeviceArray, gamma: DeviceArray, mean: DeviceArray, var: DeviceArray, eps: float, fixed: bool
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """Gradients of x (like x), gamma (C,) and beta (C,). fixed: were mean and var constants?

    The equations are those of the function of this name in normalize.py.
    """
    channels = x.shape[1]
    if x.size == 0:
        return empty(x.shape, x.dtype), zeros(channels, x.dtype), zeros(channels, x.dtype)
    planes, g = as_planes(x), as_planes(gy)
    launch, deep, wide = shares(planes.shape)
    parts, scales = _room_for_parts(launch, 2), empty((4, channels), x.dtype)
    ggamma, gbeta = empty(channels, x.dtype), empty(channels, x.dtype)
    statistics = gamma.nd, mean.nd, var.nd, float(eps), fixed
    whole = parts.nd, x.size // channels, *statistics, ggamma.nd, gbeta.nd, scales.nd
    _part_sums_and_products[launch](g.nd, planes.nd, deep, wide, *whole)
    if parts.shape[2] > 1:
        _fold_gradients[channels, THREADS](*whole)
    if fixed:  # x need not be read again: slope and shift are 0, and so serve as what to subtract and to add
        return _scaled(gy, scales.nd[2], scales.nd[1], scales.nd[3]), ggamma, gbeta
    gx, rows = empty(x.shape, x.dtype), _rows(x)
    _combine_planes[grid_2d(*rows)](gy.reshape(rows).nd, x.reshape(rows).nd, scales.nd, gx.reshape(rows).nd)
    return gx, ggamma, gbeta


def _scaled(x: DeviceArray, centre: object, scale: object, shift: object) -> DeviceArray:
    y, rows = empty(x.shape, x.dtype), _rows(x)
    _scale_planes[grid_2d(*rows)](x.reshape(rows).nd, centre, scale, shift, y.reshape(rows).nd)
    return y


def _rows(x: DeviceArray) -> tuple[int, int]:
    """The shape of (N, C, ...) as (N*C, P)."""
    return x.shape[0] * x.shape[1], math.prod(x.shape[2:])


def _room_for_parts(launch: tuple, *rows: int) -> DeviceArray:
    """(rows, C, shares), float64: where each block writes what it found."""
    channels, across, down = launch[0]
    return empty((*rows, channels, across * down), np.float64)
