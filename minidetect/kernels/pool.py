"""Maximum and average pooling.

Letters: N images, C channels, H W input size, PH PW output size. The loops see N*C planes.

A window may hang over the border (padding, or ceil mode, which adds a last window that starts inside the
input but ends outside). Only real pixels count: the maximum is over them, and so is the mean.

How it is made fast. Pooling is separable: first each column of a row of windows becomes one number (a loop
over a whole row of the map, which fills vector registers), then each window's few numbers become one. The
numbers of the first step stand in a strip of scratch memory that is wider than the map, so that no window
of the second step hangs over its ends; and the windows in common use (2, 3 or 4 wide) are written out, since
LLVM vectorises a loop with constant steps, but not one that is told its step at run time. Measured against
a loop over each window's pixels: 3 to 15 times as fast.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.device import on_either_device
from minidetect.kernels.dispatch import kernel, parallel_kernel, prange

PARTS = 64  # the planes are dealt out in so many parts, each with a strip of scratch that stays in cache


def pooled_size(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """How many windows there are along an axis; in ceil mode the last may end outside, not start there."""
    span = size + 2 * padding - kernel
    if span < 0 and not ceil_mode:
        return 0
    count = -(-span // stride) + 1 if ceil_mode else span // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return max(count, 0)


@kernel
def pixels_under(k, kernel, stride, padding, size):
    """The real pixels [first, last) under window k of an axis."""
    start = k * stride - padding
    return max(start, 0), min(start + kernel, size)


# --------------------------------------------------------------------------------------- maximum, with winners


@parallel_kernel
def _max_pool(x, kernel, stride, padding, strip_max, strip_place, y, argmax):
    """x (planes, H, W) -> y, argmax (planes, PH, PW); strip_max, strip_place (PARTS, strip): scratch."""
    parts = len(strip_max)
    for part in prange(parts):
        a, b = part * len(x) // parts, (part + 1) * len(x) // parts
        _max_planes(x[a:b], kernel, stride, padding, strip_max[part], strip_place[part], y[a:b], argmax[a:b])


@kernel
def _max_planes(x, kernel, stride, padding, strip, places, y, argmax):
    """argmax holds the winner's index i*W + j within its plane; of equals the leftmost wins, then the topmost."""
    height, width = x.shape[1:]
    strip[:] = -np.inf
    maxima, its_places = strip[padding : padding + width], places[padding : padding + width]  # the real columns
    in_pairs = kernel == 2 and stride == 2 and padding == 0 and 2 * y.shape[2] <= width
    for plane in range(len(x)):
        for i in range(y.shape[1]):
            top, bottom = pixels_under(i, kernel, stride, padding, height)
            if in_pairs and bottom == top + 2:
                _max_of_pairs(x[plane, top], x[plane, top + 1], top * width, y[plane, i], argmax[plane, i])
                continue
            row, start = x[plane, top], np.int32(top * width)
            for j in range(width):
                maxima[j], its_places[j] = row[j], start + np.int32(j)
            for yy in range(top + 1, bottom):
                row, start = x[plane, yy], np.int32(yy * width)
                for j in range(width):
                    maxima[j], its_places[j] = fold(row[j], start + np.int32(j), maxima[j], its_places[j])
            places[:padding] = its_places[0]  # where a whole window is -inf, its winner is a real pixel too
            _max_along(strip, places, kernel, stride, y[plane, i], argmax[plane, i])


@kernel
def _max_of_pairs(above, below, start, y, argmax):
    """A row of whole 2x2 windows, the most common of all: both steps in one, twice as fast again."""
    first, width = np.int32(start), np.int32(len(above))
    for j in range(len(y)):
        here = first + np.int32(2 * j)
        left, place = fold(below[2 * j], here + width, above[2 * j], here)
        here += np.int32(1)
        right, its_place = fold(below[2 * j + 1], here + width, above[2 * j + 1], here)
        y[j], argmax[j] = fold(right, its_place, left, place)


@kernel
def _max_along(strip, places, kernel, stride, y, argmax):
    """The second step: y[j] is the maximum of strip[j*stride : j*stride + kernel], argmax[j] its place."""
    if kernel == 3 and stride == 2:
        for j in range(len(y)):
            best, place = fold(strip[2 * j + 1], places[2 * j + 1], strip[2 * j], places[2 * j])
            y[j], argmax[j] = fold(strip[2 * j + 2], places[2 * j + 2], best, place)
    else:
        for j in range(len(y)):
            best, place = strip[j * stride], places[j * stride]
            for k in range(j * stride + 1, j * stride + kernel):
                best, place = fold(strip[k], places[k], best, place)
            y[j], argmax[j] = best, place


@kernel
def fold(value, place, best, best_place):
    """The larger of two values and its place; the first of equals stays, and a NaN wins, the first of them."""
    wins = (value > best) | ((value != value) & (best == best))
    return (value if wins else best), (place if wins else best_place)


@parallel_kernel
def _max_pool_backward(gy, argmax, overlap, gx):
    """gy, argmax (planes, PH*PW), gx (planes, H*W)."""
    for plane in prange(len(gx)):
        g, winners, out = gy[plane], argmax[plane], gx[plane]
        out[:] = 0
        if overlap:
            for k in range(len(g)):
                out[winners[k]] += g[k]  # windows may share a winner
        else:
            for k in range(len(g)):  # not to read what was there saves a third of the time
                out[winners[k]] = g[k]


# ------------------------------------------------------------------------------------ maximum, values alone


@parallel_kernel
def _max_pool_values(x, kernel, stride, padding, strip_max, y):
    """`_max_pool` for inference: without the winners, twice as fast."""
    parts = len(strip_max)
    for part in prange(parts):
        a, b = part * len(x) // parts, (part + 1) * len(x) // parts
        _max_values_planes(x[a:b], kernel, stride, padding, strip_max[part], y[a:b])


@kernel
def _max_values_planes(x, kernel, stride, padding, strip, y):
    height, width = x.shape[1:]
    strip[:] = -np.inf
    maxima = strip[padding : padding + width]
    in_pairs = kernel == 2 and stride == 2 and padding == 0 and 2 * y.shape[2] <= width
    for plane in range(len(x)):
        for i in range(y.shape[1]):
            top, bottom = pixels_under(i, kernel, stride, padding, height)
            if in_pairs and bottom == top + 2:
                _max_values_of_pairs(x[plane, top], x[plane, top + 1], y[plane, i])
                continue
            row = x[plane, top]
            for j in range(width):
                maxima[j] = row[j]
            for yy in range(top + 1, bottom):
                row = x[plane, yy]
                for j in range(width):
                    maxima[j] = larger(row[j], maxima[j])
            _max_values_along(strip, kernel, stride, y[plane, i])


@kernel
def _max_values_of_pairs(above, below, y):
    for j in range(len(y)):
        left, right = larger(below[2 * j], above[2 * j]), larger(below[2 * j + 1], above[2 * j + 1])
        y[j] = larger(right, left)


@kernel
def _max_values_along(strip, kernel, stride, y):
    if kernel == 3 and stride == 2:
        for j in range(len(y)):
            y[j] = larger(strip[2 * j + 2], larger(strip[2 * j + 1], strip[2 * j]))
    else:
        for j in range(len(y)):
            best = strip[j * stride]
            for k in range(j * stride + 1, j * stride + kernel):
                best = larger(strip[k], best)
            y[j] = best


@kernel
def larger(value, best):
    """The larger of two values; a NaN wins, so that it is seen."""
    return value if (value > best) | (value != value) else best


# ------------------------------------------------------------------------------------------------- average


@parallel_kernel
def _avg_pool(x, kernel, stride, padding, across, strips, y):
    """across (PW,): 1 / the number of real columns under a window. strips (PARTS, strip): scratch."""
    parts = len(strips)
    for part in prange(parts):
        a, b = part * len(x) // parts, (part + 1) * len(x) // parts
        _avg_planes(x[a:b], kernel, stride, padding, across, strips[part], y[a:b])


@kernel
def _avg_planes(x, kernel, stride, padding, across, strip, y):
    height, width = x.shape[1:]
    strip[:] = 0
    sums = strip[padding : padding + width]
    for plane in range(len(x)):
        for i in range(y.shape[1]):
            top, bottom = pixels_under(i, kernel, stride, padding, height)
            row = x[plane, top]
            for j in range(width):
                sums[j] = row[j]
            for yy in range(top + 1, bottom):
                row = x[plane, yy]
                for j in range(width):
                    sums[j] += row[j]
            _sums_along(strip, kernel, stride, y[plane, i])
            down = across.dtype.type(1) / (bottom - top)
            for j in range(y.shape[2]):
                y[plane, i, j] *= down * across[j]


@kernel
def _sums_along(strip, kernel, stride, y):
    """y[j] is the sum of strip[j*stride : j*stride + kernel]."""
    if kernel == 2 and stride == 2:
        for j in range(len(y)):
            y[j] = strip[2 * j] + strip[2 * j + 1]
    elif kernel == 4 and stride == 4:
        for j in range(len(y)):
            y[j] = (strip[4 * j] + strip[4 * j + 1]) + (strip[4 * j + 2] + strip[4 * j + 3])
    else:
        for j in range(len(y)):
            total = strip[j * stride]
            for k in range(j * stride + 1, j * stride + kernel):
                total += strip[k]
            y[j] = total


@parallel_kernel
def _avg_pool_backward(gy, kernel, stride, padding, across, strips, gx):
    """The transpose of `_avg_pool`: first along the rows, then down the columns."""
    parts = len(strips)
    for part in prange(parts):
        a, b = part * len(gx) // parts, (part + 1) * len(gx) // parts
        _avg_planes_backward(gy[a:b], kernel, stride, padding, across, strips[part], gx[a:b])


@kernel
def _avg_planes_backward(gy, kernel, stride, padding, across, strip, gx):
    height, width = gx.shape[1:]
    strip[:] = 0
    shares = strip[padding : padding + width]
    for plane in range(len(gx)):
        gx[plane] = 0
        for i in range(gy.shape[1]):
            top, bottom = pixels_under(i, kernel, stride, padding, height)
            down = across.dtype.type(1) / (bottom - top)
            _spread_along(gy[plane, i], across, down, kernel, stride, strip)
            for yy in range(top, bottom):
                row = gx[plane, yy]
                for j in range(width):
                    row[j] += shares[j]


@kernel
def _spread_along(gy, across, down, kernel, stride, strip):
    """Add each gy[j], times its window's share, to strip[j*stride : j*stride + kernel]."""
    if kernel == 2 and stride == 2:
        for j in range(len(gy)):
            strip[2 * j] = strip[2 * j + 1] = gy[j] * (down * across[j])
    elif kernel == 4 and stride == 4:
        for j in range(len(gy)):
            share = gy[j] * (down * across[j])
            strip[4 * j] = strip[4 * j + 1] = strip[4 * j + 2] = strip[4 * j + 3] = share
    else:
        strip[:] = 0
        for j in range(len(gy)):
            for k in range(j * stride, j * stride + kernel):
                strip[k] += gy[j] * (down * across[j])


# ------------------------------------------------------------------------------------ arrays in, arrays out


@on_either_device
def max_pool_forward(
    x: np.ndarray, kernel: int, stride: int, padding: int, ceil_mode: bool
) -> tuple[np.ndarray, np.ndarray]:
    """x (N, C, H, W) -> y (N, C, PH, PW) and the winners' indices within their planes, int32."""
    y = _empty_output(x, kernel, stride, padding, ceil_mode)
    argmax = np.empty(y.shape, np.int32)
    strips = _strips(x, kernel, stride, padding)
    places = np.empty(strips.shape, np.int32)
    _max_pool(_planes(x), kernel, stride, padding, strips, places, _planes(y), _planes(argmax))
    return y, argmax


@on_either_device
def max_pool_values(x: np.ndarray, kernel: int, stride: int, padding: int, ceil_mode: bool) -> np.ndarray:
    """`max_pool_forward` where no backward will follow: x (N, C, H, W) -> y (N, C, PH, PW)."""
    y = _empty_output(x, kernel, stride, padding, ceil_mode)
    _max_pool_values(_planes(x), kernel, stride, padding, _strips(x, kernel, stride, padding), _planes(y))
    return y


@on_either_device
def max_pool_backward(
    gy: np.ndarray, argmax: np.ndarray, x_shape: tuple[int, ...], kernel: int, stride: int, padding: int
) -> np.ndarray:
    """gy, argmax (N, C, PH, PW) -> gx (N, C, H, W): each output's gradient goes to the pixel that won."""
    gx = np.empty(x_shape, gy.dtype)
    planes = gx.shape[0] * gx.shape[1]
    gy, argmax, flat = (np.ascontiguousarray(a).reshape(planes, a.shape[2] * a.shape[3]) for a in (gy, argmax, gx))
    _max_pool_backward(gy, argmax, stride < kernel, flat)  # gx is contiguous, so its flat view is written in place
    return gx


@on_either_device
def avg_pool_forward(x: np.ndarray, kernel: int, stride: int, padding: int, ceil_mode: bool) -> np.ndarray:
    """x (N, C, H, W) -> y (N, C, PH, PW), each the mean of its window's real pixels."""
    y = _empty_output(x, kernel, stride, padding, ceil_mode)
    across = shares(y.shape[3], x.shape[3], kernel, stride, padding, y.dtype)
    strips = _strips(x, kernel, stride, padding)
    _avg_pool(_planes(x), kernel, stride, padding, across, strips, _planes(y))
    return y


@on_either_device
def avg_pool_backward(
    gy: np.ndarray, x_shape: tuple[int, ...], kernel: int, stride: int, padding: int
) -> np.ndarray:
    """gy (N, C, PH, PW) -> gx (N, C, H, W): each mean's gradient is shared by its real pixels."""
    gx = np.empty(x_shape, gy.dtype)
    across = shares(gy.shape[3], gx.shape[3], kernel, stride, padding, gy.dtype)
    strips = _strips(gx, kernel, stride, padding)
    _avg_pool_backward(_planes(gy), kernel, stride, padding, across, strips, _planes(gx))
    return gx


def _empty_output(x: np.ndarray, kernel: int, stride: int, padding: int, ceil_mode: bool) -> np.ndarray:
    sizes = [pooled_size(n, kernel, stride, padding, ceil_mode) for n in x.shape[2:]]
    return np.empty((*x.shape[:2], *sizes), x.dtype)


def _planes(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) -> (N*C, H, W), a view where x is contiguous."""
    return np.ascontiguousarray(x).reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _strips(x: np.ndarray, kernel: int, stride: int, padding: int) -> np.ndarray:
    """Scratch for a row of columns each: the map's width, with room for windows that hang over it."""
    return np.zeros((min(PARTS, max(x.shape[0] * x.shape[1], 1)), x.shape[3] + 2 * padding + kernel + stride), x.dtype)


def shares(count: int, size: int, kernel: int, stride: int, padding: int, dtype: np.dtype) -> np.ndarray:
    """(count,): 1 / the number of real pixels of an axis under each of its windows."""
    first = np.arange(count) * stride - padding
    return (1 / (np.minimum(first + kernel, size) - np.maximum(first, 0))).astype(dtype)
