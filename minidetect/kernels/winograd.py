"""Winograd's convolution: a 3x3 filter on 3x3 outputs with 25 multiplications a channel instead of 81.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.1, here F(3x3, 3x3).

Three outputs of a filter of three taps are the middle coefficients of a product of polynomials. Evaluate both
factors at five points (0, 1, -1, 2, infinity), multiply point by point, and interpolate: 5 products, not 9.
In two dimensions a tile of 5x5 pixels becomes 25 values, each a fixed sum of pixels, and so does the filter;
the sum over channels can be done before the interpolation, which then costs little:

    y = A.T [ sum over c of (G w[c] G.T) * (B.T x[c] B) ] A

Rounding: about twice that of the plain float32 sum (tests/test_lanes.py holds it under five times).

Everything is in lanes (lanes.py): a "value" below is a vector of LANES patches.
Letters: C input channels, F filters, S map side, P = 25 points, T tiles in a row of tiles.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.conv_tile import full_tiles
from minidetect.kernels.dispatch import kernel
from minidetect.kernels.simd import LANES, TILE_FILTERS, load, splat, store, where_positive

TILE = 3  # outputs of a tile along an axis
SPAN = 5  # inputs of a tile, and points

# The filter at the five points, (5, 3): w0, (w0 + w1 + w2) / -2, ... and the divisors of the interpolation.
FILTER_AT_POINTS = np.array(
    [[1 / 2, 0, 0], [-1 / 2, -1 / 2, -1 / 2], [-1 / 6, 1 / 6, -1 / 6], [1 / 6, 1 / 3, 2 / 3], [0, 0, 1]]
)


def winograd_filters(w: np.ndarray) -> np.ndarray:
    """w (F, C, 3, 3), F a multiple of TILE_FILTERS -> (P, F / TILE_FILTERS, C, TILE_FILTERS) float32, flat."""
    points = np.einsum("pu,fcuv,qv->pqfc", FILTER_AT_POINTS, w.astype(np.float64), FILTER_AT_POINTS)
    points = points.reshape(SPAN * SPAN, -1, TILE_FILTERS, w.shape[1])  # (5, 5, F, C) -> (25, blocks, m, C)
    return points.transpose(0, 1, 3, 2).astype(np.float32).ravel()


@kernel
def _pixels_at_points(a, b, c, d, e):
    """B.T of one line: five neighbouring pixels -> their polynomial's part at 0, 1, -1, 2, infinity."""
    d_b, twice_b = d - b, b + b
    return a + a - b - (c + c) + d, d - twice_b - c, twice_b - (c + c + c) + d, d_b, e - c - (d_b + d_b)


@kernel
def _to_points(x, x0, side, row, column, scratch, y, y0, y_step):
    """One tile of one channel, at (row, column): B.T x B -> y[y0 + point * y_step], point = 0 to 24.

    Pixels over the border stand for outputs that nobody uses; the last ones inside are read instead.
    """
    for i in range(SPAN):
        line = x0 + min(row + i, side - 1) * side
        a, b, c, d, e = _pixels_at_points(
            load(x, (line + column) * LANES), load(x, (line + column + 1) * LANES),
            load(x, (line + column + 2) * LANES), load(x, (line + min(column + 3, side - 1)) * LANES),
            load(x, (line + min(column + 4, side - 1)) * LANES),
        )
        store(scratch, i * LANES, a)
        store(scratch, (SPAN + i) * LANES, b)
        store(scratch, (2 * SPAN + i) * LANES, c)
        store(scratch, (3 * SPAN + i) * LANES, d)
        store(scratch, (4 * SPAN + i) * LANES, e)
    for j in range(SPAN):
        column_of = j * SPAN * LANES
        a, b, c, d, e = _pixels_at_points(
            load(scratch, column_of), load(scratch, column_of + LANES), load(scratch, column_of + 2 * LANES),
            load(scratch, column_of + 3 * LANES), load(scratch, column_of + 4 * LANES),
        )
        at = y0 + j * y_step
        store(y, at, a)
        store(y, at + SPAN * y_step, b)
        store(y, at + 2 * SPAN * y_step, c)
        store(y, at + 3 * SPAN * y_step, d)
        store(y, at + 4 * SPAN * y_step, e)


@kernel
def _interpolate(a, b, c, d, e):
    """A.T of one line: products at the five points -> three outputs."""
    total, difference, twice = b + c, b - c, d + d
    return a + total + d, difference + twice, total + twice + twice + e


@kernel
def _from_points(x, x0, x_step, bias, slope, scratch, y, y0, line_step, rows_left, columns_left):
    """One tile of one filter: A.T x A + bias and the activation -> y, of which only what lies inside is written."""
    for j in range(SPAN):
        at = x0 + j * x_step
        a, b, c = _interpolate(
            load(x, at), load(x, at + SPAN * x_step), load(x, at + 2 * SPAN * x_step), load(x, at + 3 * SPAN * x_step),
            load(x, at + 4 * SPAN * x_step),
        )
        store(scratch, j * LANES, a)
        store(scratch, (SPAN + j) * LANES, b)
        store(scratch, (2 * SPAN + j) * LANES, c)
    for i in range(min(TILE, rows_left)):
        line = i * SPAN * LANES
        a, b, c = _interpolate(
            load(scratch, line), load(scratch, line + LANES), load(scratch, line + 2 * LANES),
            load(scratch, line + 3 * LANES), load(scratch, line + 4 * LANES),
        )
        at = y0 + i * line_step
        a, b, c = a + bias, b + bias, c + bias
        store(y, at, where_positive(a, a, a * slope))
        if columns_left > 1:
            store(y, at + LANES, where_positive(b, b, b * slope))
        if columns_left > 2:
            store(y, at + 2 * LANES, where_positive(c, c, c * slope))


@kernel
def row_of_tiles(x, side, channels, filters, row, weights, w0, bias, slope, b0, room, y, y0, y_step):
    """Outputs `row` to row + 2 of all filters: x (C, S, S, LANES) -> y[y0 + filter * y_step ...] (3, S-2, LANES).

    room: (points, products, scratch), flat, for the largest such row: P*C*T, P*F*T and P values.
    """
    points, products, scratch = room
    out = side - 2
    tiles = (out + TILE - 1) // TILE
    offsets = np.arange(channels) * tiles * LANES
    for c in range(channels):
        for t in range(tiles):
            _to_points(x, c * side * side, side, row, t * TILE, scratch, points, (c * tiles + t) * LANES,
                       channels * tiles * LANES)
    zeros, ones = np.zeros(TILE_FILTERS, np.float32), np.ones(TILE_FILTERS, np.float32)
    for p in range(SPAN * SPAN):
        for first in range(0, filters, TILE_FILTERS):
            full_tiles(tiles, points, p * channels * tiles * LANES, LANES, offsets, weights,
                       w0 + (p * filters + first) * channels, zeros, ones, 0, products,
                       (p * filters + first) * tiles * LANES, tiles * LANES)
    for f in range(filters):
        b, a = splat(bias[b0 + f]), splat(slope[b0 + f])
        for t in range(tiles):
            _from_points(products, (f * tiles + t) * LANES, filters * tiles * LANES, b, a, scratch, y,
                         y0 + f * y_step + t * TILE * LANES, out * LANES, out - row, out - t * TILE)
