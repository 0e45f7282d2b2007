"""Convolution with fewer multiplications: Winograd's method along the columns of an image (float32, stride 1).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.1; here F(4 x 1, r x 1).

Take four neighbouring outputs of one column and one filter column of r taps. The outputs are coefficients of a
product of two polynomials, and a product is known from its values at as many points as it has coefficients:

    evaluate   the r + 3 pixels and the r taps at n = r + 3 points        sums of rows; of the filter, once
    multiply   point by point                                             n products in place of 4 r
    return     from the n products to the 4 outputs                       sums of rows

3 taps: 6 products for 12, and 5 taps: 8 for 20. The sums over channels and over the columns of the filter are
taken before the return, by the same register tile as in conv_tile.py: at each point the rest is a convolution
with 1 x KW filters. So a row stays a row of numbers in memory, and nothing has to be shuffled.

Rounding: about twice that of the plain float32 sum, for 3 taps and for 5 (tests/test_conv_tile.py holds it under
four times).

Letters: N images, C input channels, O filters, H W input size, PH PW output size; Q groups of GROUP output rows
in a task, P points.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from minidetect.kernels.conv_tile import Geometry, Taps, full_tiles, pack_filters, pack_rows
from minidetect.kernels.dispatch import kernel, parallel_kernel, prange
from minidetect.kernels.simd import LANES, TILE_FILTERS, fma, load, splat, store, where_positive

GROUP = 4  # output rows that are computed together
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # and infinity: small ones, whose powers stay near 1
TASK_FLOATS = 160 << 10  # a task's rows and their values at the points: two thirds of a 1 MB level-two cache


@lru_cache
def transforms(taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices of F(GROUP, taps), float64: pixels (P, P), filter (P, taps) and outputs (GROUP, P).

    Rows of `filter` and columns of `outputs` hold the powers of a point; those of infinity the highest power
    alone. What the pixels' matrix must be follows from what all three together must do: for every filter tap t
    and output i, sum over p of outputs[i, p] * filter[p, t] * pixels[p, k] = 1 for k = i + t, 0 otherwise.
    """
    size = GROUP + taps - 1
    points = np.array(POINTS[: size - 1])
    outputs = np.zeros((GROUP, size))
    outputs[:, :-1] = points ** np.arange(GROUP)[:, None]
    outputs[-1, -1] = 1
    filters = np.zeros((size, taps))
    filters[:-1] = points[:, None] ** np.arange(taps)
    filters[-1, -1] = 1
    products = (outputs[:, None, :] * filters.T).reshape(GROUP * taps, size)  # (i, t) x point
    wanted = np.zeros((GROUP, taps, size))
    for i in range(GROUP):
        for t in range(taps):
            wanted[i, t, i + t] = 1
    pixels = np.linalg.lstsq(products, wanted.reshape(GROUP * taps, size), rcond=None)[0]
    scale = np.abs(pixels).max(axis=1)  # so that the values at all points are of one size
    pixels, filters = pixels / scale[:, None], filters * scale[:, None]
    pixels[np.abs(pixels) < 1e-12] = 0
    return pixels, filters, outputs


def suits_points(channels: int, filters: int, taps: Taps) -> bool:
    """Whether it pays: 3 or 5 rows of taps next to each other, and enough products to share the sums."""
    g, rows = taps.geometry, taps.row.size
    dense = rows in (3, 5) and g.step == 1 and int(taps.row.max()) == rows - 1
    return dense and channels * rows >= 80 and filters >= 16 and g.out_h >= GROUP and g.out_w >= LANES


def pack_points(w: np.ndarray, taps: Taps, turned: bool) -> np.ndarray:
    """w (O, C, KH, KW), or turned as in pack_filters -> (P, the order of `pack_filters` for 1 x KW), float32.

    Filters of zeros fill the last tile, so that one kind of tile does for all.
    """
    _, filters, _ = transforms(taps.row.size)
    sizes = list(w.shape[:2])
    sizes[turned] += -sizes[turned] % TILE_FILTERS
    at_points = np.zeros((len(filters), *sizes, 1, w.shape[3]), np.float32)
    _evaluate_filters(w, filters, taps.u[np.argsort(taps.row)], at_points)
    one_row = taps._replace(u=np.zeros(1, np.int64))
    return np.stack([pack_filters(w_p, one_row, turned=turned).weights for w_p in at_points])


@kernel
def _evaluate_filters(w, filters, order, at_points):
    """w (O, C, KH, KW) -> (P, O, C, 1, KW): the columns of each filter, top tap first, at all points."""
    for o in range(w.shape[0]):
        for c in range(w.shape[1]):
            for p in range(len(filters)):
                for v in range(w.shape[3]):
                    total = 0.0
                    for k in range(order.size):
                        total += filters[p, k] * w[o, c, order[k], v]
                    at_points[p, o, c, 0, v] = total


@kernel
def _combine(matrix, row, x, x0, x_step):
    """A vector of the sum over k of matrix[row, k] * x[x0 + k * x_step ...]."""
    total = splat(np.float32(0))
    for k in range(matrix.shape[1]):
        if matrix[row, k] != 0:
            total = fma(splat(matrix[row, k]), load(x, x0 + k * x_step), total)
    return total


@kernel
def _evaluate(pixels, x, x0, columns, y, y0, y_step):
    """One group of rows of one channel at all points: rows of x from x0 on -> y[y0 + point * y_step ...].

    Where a row is no whole number of vectors, the last one begins earlier and repeats what is there.
    """
    for p in range(len(pixels)):
        for j in range(0, columns, LANES):
            j = min(j, columns - LANES)
            store(y, y0 + p * y_step + j, _combine(pixels, p, x, x0 + j, columns))


@kernel
def _return_row(products, p0, p_step, outputs, i, width, bias, slope, has_residual, residual, last_slope, y, y0):
    """Output row i of a group, of one filter, from its products at the points: act(sums + bias) into y from y0 on."""
    b, a, last = splat(bias), splat(slope), splat(last_slope)
    for j in range(0, width, LANES):
        j = min(j, width - LANES)
        v = _combine(outputs, i, products, p0 + j, p_step) + b
        v = where_positive(v, v, a * v)
        if has_residual:
            v = v + load(residual, y0 + j)
            v = where_positive(v, v, last * v)
        store(y, y0 + j, v)


@parallel_kernel
def _convolve(x, g, tap_column, groups, pixels, outputs, weights, bias, slope, has_residual, residual,
              last_slope, y):
    """x (N, C, H, W) -> y (N, O, PH, PW), `groups` groups of rows of an image a task."""
    images, channels = x.shape[:2]
    points, columns = len(pixels), g.out_w + g.halo_w
    tasks = (g.out_h + groups * GROUP - 1) // (groups * GROUP)
    flat, flat_residual = y.reshape(y.size), residual.reshape(residual.size)
    zeros, ones = np.zeros(TILE_FILTERS, np.float32), np.ones(TILE_FILTERS, np.float32)
    for task in prange(images * tasks):
        n, top = task // tasks, task % tasks * groups * GROUP
        bottom = min(top + groups * GROUP, g.out_h)
        q = (bottom - top + GROUP - 1) // GROUP
        rows = q * GROUP + points - GROUP
        packed = np.empty(channels * rows * columns, np.float32)
        pack_rows(x[n], g.first_y + top, g, rows, columns, packed)
        plane = channels * q * columns
        values = np.empty(points * plane + 4 * LANES + g.halo_w, np.float32)
        values[points * plane :] = 0
        for c in range(channels):
            for k in range(q):
                first = (c * rows + k * GROUP) * columns
                _evaluate(pixels, packed, first, columns, values, (c * q + k) * columns, plane)
        offsets = np.empty(channels * tap_column.size, np.int64)
        for c in range(channels):
            for v in range(tap_column.size):
                offsets[c * tap_column.size + v] = c * q * columns + tap_column[v]
        vectors = ((q - 1) * columns + g.out_w + LANES - 1) // LANES
        room = vectors * LANES
        products = np.empty(points * TILE_FILTERS * room, np.float32)
        for first in range(0, y.shape[1], TILE_FILTERS):
            for p in range(points):
                full_tiles(vectors, values, p * plane, LANES, offsets, weights[p], first * offsets.size, zeros,
                           ones, 0, products, p * TILE_FILTERS * room, room)
            for i in range(min(TILE_FILTERS, y.shape[1] - first)):
                o = first + i
                for row in range(bottom - top):
                    start = i * room + row // GROUP * columns
                    target = ((n * y.shape[1] + o) * g.out_h + top + row) * g.out_w
                    _return_row(products, start, TILE_FILTERS * room, outputs, row % GROUP, g.out_w, bias[o], slope[o],
                                has_residual, flat_residual, last_slope[o], flat, target)


def convolve_points(
    x: np.ndarray, taps: Taps, weights: np.ndarray, bias: np.ndarray, slope: np.ndarray,
    residual: np.ndarray | None, last_slope: np.ndarray, y: np.ndarray,
) -> None:
    """As conv_fast.Weights.convolve, where suits_points holds; weights from pack_points."""
    g = taps.geometry
    pixels, _, outputs = (a.astype(np.float32) for a in transforms(taps.row.size))
    has = residual is not None
    _convolve(
        x, g, taps.column, group_count(x.shape[1], g, len(pixels)), pixels, outputs, weights, bias, slope,
        has, residual if has else y, last_slope, y,
    )  # fmt: skip


def group_count(channels: int, g: Geometry, points: int) -> int:
    """How many groups of rows a task takes: what it packs should fill TASK_FLOATS."""
    floats = channels * (g.out_w + g.halo_w) * (points + GROUP)
    return max(1, min(-(-g.out_h // GROUP), TASK_FLOATS // floats))
