"""Convolution of many small images: LANES of them side by side, pixel by pixel (float32 only).

A row of a small map is shorter than a vector. So here a vector is made of *images*: a block of LANES of them
is turned from (LANES, C, H, W) into (C, H, W, LANES), and a vector holds the same pixel of each. No width,
stride or tap ever breaks it, and the tile of conv_tile.py runs at full speed on a map of 1 x 1. It costs a
transpose on the way in and out; lanes.py stays in this layout for a whole net.

Letters: N images, C input channels, O filters, H W input size, PH PW output size.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.conv_tile import run_tiles
from minidetect.kernels.dispatch import kernel, parallel_kernel, prange
from minidetect.kernels.simd import LANES, TILE_FILTERS, transpose


@kernel
def transpose_all(x, x0, x_step, rows, columns, y, y0, y_step):
    """y[y0 + j*y_step + i] = x[x0 + i*x_step + j] for i < rows, j < columns: squares, then what is left over."""
    whole = rows // LANES * LANES, columns // LANES * LANES
    for i in range(0, whole[0], LANES):
        for j in range(0, whole[1], LANES):
            transpose(x, x0 + i * x_step + j, x_step, y, y0 + j * y_step + i, y_step)
        for j in range(whole[1], columns):
            for k in range(i, i + LANES):
                y[y0 + j * y_step + k] = x[x0 + k * x_step + j]
    for i in range(whole[0], rows):
        for j in range(columns):
            y[y0 + j * y_step + i] = x[x0 + i * x_step + j]


@kernel
def pack_lanes(x, first, unit, left, columns, packed):
    """Images first to first + unit of x (N, C, H, W) -> packed, flat: (C, H, columns, unit).

    `left` columns of zeros stand before the image (fewer than none cut it), and zeros fill the rest.
    """
    _, channels, height, width = x.shape
    flat, count, size = x.reshape(x.size), min(unit, len(x) - first), channels * height * width
    if count < unit:
        packed[:] = 0  # lanes without an image: not whatever was in memory, which might be NaN
    if left == 0 and columns == width:
        transpose_all(flat, first * size, size, count, size, packed, 0, unit)
        return
    whole = np.zeros(size * unit, np.float32)  # rows are too short for squares, the whole is not
    transpose_all(flat, first * size, size, count, size, whole, 0, unit)
    start, stop = max(left, 0), max(left, 0, min(columns, left + width))
    for line in range(channels * height):
        source = (line * width + start - left) * unit
        row = packed[line * columns * unit : (line + 1) * columns * unit]
        row[: start * unit] = 0
        for k in range((stop - start) * unit):
            row[start * unit + k] = whole[source + k]
        row[stop * unit :] = 0


@kernel
def lane_offsets(channels, tap_row, tap_column, rows, columns):
    """As row_offsets, for a packed block (C, rows, columns, LANES)."""
    offsets = np.empty((tap_row.size, channels, tap_column.size), np.int64)
    for u in range(tap_row.size):
        for c in range(channels):
            for v in range(tap_column.size):
                offsets[u, c, v] = ((c * rows + tap_row[u]) * columns + tap_column[v]) * LANES
    return offsets.reshape(offsets.size)


@kernel
def lane_row(packed, g, tap_row, rows, columns, offsets, i, w, w0, m, bias, slope, first, y, y0, y_step):
    """Row i of the sums of m filters for one block of LANES images: y[y0 + filter * y_step ...] (PW, LANES).

    Taps above or below the image are left out, so no row of zeros is ever multiplied.
    """
    top, row_taps = g.first_y + i * g.step, offsets.size // tap_row.size
    a, b = tap_row.size, 0  # the range of kernel rows inside; tap_row rises or falls steadily
    for u in range(tap_row.size):
        if 0 <= top + tap_row[u] < rows:
            a, b = min(a, u), max(b, u + 1)
    inside = offsets[a * row_taps : max(a, b) * row_taps]
    run_tiles(m, g.out_w, packed, top * columns * LANES, g.step * LANES, inside, w, w0 + a * row_taps * m, bias,
         slope, first, y, y0, y_step)


@parallel_kernel
def convolve_lanes(x, g, tap_row, tap_column, filters, y):
    """x (N, C, H, W) -> y (N, O, PH, PW), LANES images a task."""
    images, channels, rows = x.shape[:3]
    columns = (g.out_w - 1) * g.step + tap_column.max() + 1
    positions, flat = g.out_h * g.out_w, y.reshape(y.size)
    for task in prange((images + LANES - 1) // LANES):
        packed = np.empty(channels * rows * columns * LANES, np.float32)
        pack_lanes(x, task * LANES, LANES, -g.first_x, columns, packed)
        offsets = lane_offsets(channels, tap_row, tap_column, rows, columns)
        sums = np.empty(TILE_FILTERS * positions * LANES, np.float32)
        first = 0
        for m in filters.widths:
            for i in range(g.out_h):
                lane_row(packed, g, tap_row, rows, columns, offsets, i, filters.weights, first * offsets.size, m,
                         filters.bias, filters.slope, first, sums, i * g.out_w * LANES, positions * LANES)
            # (m, PH, PW, LANES) -> (LANES, m, PH, PW)
            count, start = min(LANES, images - task * LANES), (task * LANES * y.shape[1] + first) * positions
            transpose_all(sums, 0, LANES, m * positions, count, flat, start, y.shape[1] * positions)
            first += m
