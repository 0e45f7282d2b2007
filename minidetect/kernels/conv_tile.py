"""Convolution at the speed of the machine: the sums of conv.py in register tiles (float32 only).

Any convolution, and its input gradient too, is one sum over channels c and taps t:

    y[n, o, i, j] = b[o] + sum over c, t of w[o, c, t] * x[n, c, i*S + dy[t], j*S + dx[t]]

A tile of simd.py computes it for a few filters o and a few vectors of positions at once: per (c, t) it
loads the vectors of x and multiplies them by one weight a filter. What is left to do here is to lay x out so
that LANES neighbouring outputs read LANES neighbouring numbers, for every tap. Two ways to do so, the first
of them here:

    rows    for large maps and few images. A band of rows is copied with its padding; one image row follows
            the other, so a vector may run over a row's end: the sums there mix two rows and are not copied
            out. Stride S: every S-th row and column goes to a plane of its own (a "phase"), in which
            neighbours are neighbours again.
    lanes   for batches of patches, however small: conv_lanes.py

Letters: N images, C input channels, O filters, T taps, K = C * T, H W input size, PH PW output size, S stride.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from minidetect.kernels.dispatch import kernel, parallel_kernel, prange
from minidetect.kernels.simd import LANES, TILE_FILTERS, TILE_VECTORS, make_outer_tile

# A task's packed band, in floats: a third of a 1 MB L2 cache, which also holds the weights and the sums.
BAND_FLOATS = 96 << 10

_wide = make_outer_tile(TILE_FILTERS, TILE_VECTORS)
_wide_end = make_outer_tile(TILE_FILTERS, 1)
_two = make_outer_tile(2, TILE_VECTORS)
_two_end = make_outer_tile(2, 1)
_one = make_outer_tile(1, TILE_VECTORS)
_one_end = make_outer_tile(1, 1)


class Geometry(NamedTuple):
    """Where the taps of the output position (i, j) lie: rows first_y + i*step + ..., columns likewise."""

    first_y: int
    first_x: int
    step: int
    phases_h: int
    phases_w: int
    halo_h: int  # rows that the taps reach below their first, within a phase
    halo_w: int
    out_h: int
    out_w: int


class Taps(NamedTuple):
    """A geometry and its taps: rows u and columns v of the kernel, and how far each lies from the first."""

    geometry: Geometry
    u: np.ndarray
    v: np.ndarray
    row: np.ndarray
    column: np.ndarray


def _taps(first_y: int, first_x: int, step: int, u, v, row, column, out_h: int, out_w: int) -> Taps:
    reach_h, reach_w = int(row.max()), int(column.max())
    phases = min(step, reach_h + 1), min(step, reach_w + 1)
    geometry = Geometry(first_y, first_x, step, *phases, reach_h // step, reach_w // step, out_h, out_w)
    return Taps(geometry, u, v, row, column)


@lru_cache(maxsize=512)
def forward_taps(kernel_h, kernel_w, stride, padding, dilation, out_h, out_w) -> Taps:
    """Output i takes from row i*stride - padding + u*dilation."""
    u, v = np.arange(kernel_h), np.arange(kernel_w)
    return _taps(-padding, -padding, stride, u, v, u * dilation, v * dilation, out_h, out_w)


@lru_cache(maxsize=512)
def input_gradient_taps(kernel_h, kernel_w, stride, padding, dilation, a, b, height, width) -> Taps | None:
    """The taps that reach the pixels (q*stride + a, r*stride + b), or None if there are none.

    y = i*stride - padding + u*dilation, solved for i: pixel row y takes from row (y + padding - u*dilation)
    / stride of gy, where that is whole. All rows of one remainder a = y % stride share their taps.
    """
    u, v = np.arange(kernel_h), np.arange(kernel_w)
    row, row_rest = np.divmod(a + padding - u * dilation, stride)
    column, column_rest = np.divmod(b + padding - v * dilation, stride)
    if row_rest.all() or column_rest.all():
        return None
    u, row, v, column = u[row_rest == 0], row[row_rest == 0], v[column_rest == 0], column[column_rest == 0]
    first = int(row.min()), int(column.min())
    out = -(-(height - a) // stride), -(-(width - b) // stride)
    return _taps(*first, 1, u, v, row - first[0], column - first[1], *out)


# --------------------------------------------------------------------------------------------- the weights


class Filters(NamedTuple):
    """Weights in the order in which the tile reads them; `widths` are the filters of each block of a tile."""

    widths: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    slope: np.ndarray


@lru_cache(maxsize=256)
def block_widths(filters: int) -> np.ndarray:
    """As many full tiles as fit, then pairs, then one: 28 = 8 + 8 + 8 + 2 + 2."""
    full, rest = divmod(filters, TILE_FILTERS)
    return np.array([TILE_FILTERS] * full + [2] * (rest // 2) + [1] * (rest % 2), np.int64)


@kernel
def _pack_filters(w, us, vs, turned, widths, packed):
    """For each block of m filters: (KH, channels, KW, m), from w (filters, channels, KH, KW) or the turned one."""
    start = first = 0
    channels = w.shape[0] if turned else w.shape[1]
    for m in widths:
        for i in range(m):
            for c in range(channels):
                taps = w[c, first + i] if turned else w[first + i, c]
                for k in range(us.size):
                    at = start + i + (k * channels + c) * vs.size * m
                    for v in vs:
                        packed[at] = taps[us[k], v]
                        at += m
        start += m * us.size * channels * vs.size
        first += m


def pack_filters(
    w: np.ndarray, taps: Taps, bias: np.ndarray | None = None, slope: np.ndarray | None = None, turned: bool = False
) -> Filters:
    """w (O, C, KH, KW), bias (O,), slope (O,); no bias is 0, no slope is 1. turned: the C take the O's place."""
    num, channels = (w.shape[1], w.shape[0]) if turned else w.shape[:2]
    widths = block_widths(num)
    weights = np.empty(num * channels * taps.u.size * taps.v.size, np.float32)
    _pack_filters(w, taps.u, taps.v, turned, widths, weights)
    bias = np.zeros(num, np.float32) if bias is None else np.array(bias)
    return Filters(widths, weights, bias, np.ones(num, np.float32) if slope is None else np.array(slope))


# ------------------------------------------------------------------------------------------------ the sums


@kernel
def run_tiles(m, vectors, x, x0, step, offsets, w, w0, bias, slope, first, y, y0, y_step):
    """The sums of m filters from `first` on, for `vectors` vectors of positions, in tiles of three and one."""
    if m == TILE_FILTERS:
        full_tiles(vectors, x, x0, step, offsets, w, w0, bias, slope, first, y, y0, y_step)
        return
    v = 0
    while v < vectors:
        a, b = x0 + v * step, y0 + v * LANES
        if vectors - v >= TILE_VECTORS:
            if m == 2:
                _two(x, a, step, offsets, offsets.size, w, w0, bias, slope, first, y, b, y_step)
            else:
                _one(x, a, step, offsets, offsets.size, w, w0, bias, slope, first, y, b, y_step)
            v += TILE_VECTORS
        else:
            if m == 2:
                _two_end(x, a, step, offsets, offsets.size, w, w0, bias, slope, first, y, b, y_step)
            else:
                _one_end(x, a, step, offsets, offsets.size, w, w0, bias, slope, first, y, b, y_step)
            v += 1


@kernel
def full_tiles(vectors, x, x0, step, offsets, w, w0, bias, slope, first, y, y0, y_step):
    """run_tiles for TILE_FILTERS filters."""
    whole = vectors // TILE_VECTORS * TILE_VECTORS
    for v in range(0, whole, TILE_VECTORS):
        _wide(x, x0 + v * step, step, offsets, offsets.size, w, w0, bias, slope, first, y, y0 + v * LANES, y_step)
    for v in range(whole, vectors):
        _wide_end(x, x0 + v * step, step, offsets, offsets.size, w, w0, bias, slope, first, y, y0 + v * LANES, y_step)


# ------------------------------------------------------------------------------------------------- as rows


@kernel
def pack_rows(x, first_row, g, rows, columns, packed):
    """x (C, H, W) -> packed, flat: (C, phases_h, phases_w, rows, columns), 0 outside the image.

    Row q of phase (a, b) is row first_row + a + q*step of the image, and its columns likewise.
    """
    channels, height, width = x.shape
    at = 0
    for c in range(channels):
        for a in range(g.phases_h):
            for b in range(g.phases_w):
                left = g.first_x + b
                start = min(columns, max(0, -(left // g.step)))  # columns before it lie left of the image
                stop = max(start, min(columns, -((left - width) // g.step)))
                for q in range(rows):
                    y = first_row + a + q * g.step
                    line = packed[at : at + columns]
                    at += columns
                    if y < 0 or y >= height or start == stop:
                        line[:] = 0
                        continue
                    line[:start] = 0
                    line[stop:] = 0
                    source, target = x[c, y, left + start * g.step :], line[start:stop]
                    if g.step == 1:
                        for r in range(target.size):
                            target[r] = source[r]
                    elif g.step == 2:  # a stride that the compiler knows, it can shuffle
                        for r in range(target.size):
                            target[r] = source[r * 2]
                    else:
                        for r in range(target.size):
                            target[r] = source[r * g.step]
    packed[at:] = 0


@kernel
def row_offsets(channels, tap_row, tap_column, g, rows, columns):
    """Where in the packed band each tap of the position 0 lies, in the order of the weights: (KH, C, KW)."""
    offsets = np.empty((tap_row.size, channels, tap_column.size), np.int64)
    plane = rows * columns
    for u in range(tap_row.size):
        for v in range(tap_column.size):
            y, x = tap_row[u], tap_column[v]
            first = (y % g.step * g.phases_w + x % g.step) * plane + y // g.step * columns + x // g.step
            for c in range(channels):
                offsets[u, c, v] = first + c * g.phases_h * g.phases_w * plane
    return offsets.reshape(offsets.size)


@kernel
def _finish_rows(sums, columns, has_residual, residual, slope, y):
    """y (rows, PW) = sums, or act(sums + residual); sums has rows of `columns`, the last ones superfluous."""
    width = y.shape[1]
    for i in range(len(y)):
        line, source = y[i], sums[i * columns : i * columns + width]
        if has_residual:
            other = residual[i]
            for j in range(width):
                v = source[j] + other[j]
                line[j] = v if v > 0 else slope * v
        else:
            for j in range(width):
                line[j] = source[j]


@kernel
def _finish_pooled(sums, columns, y):
    """y (rows, columns of y) = the maxima of 2x2 sums, which has rows of `columns`; a NaN wins."""
    for i in range(len(y)):
        line = y[i]
        upper = sums[2 * i * columns : 2 * i * columns + 2 * line.size]
        lower = sums[(2 * i + 1) * columns : (2 * i + 1) * columns + 2 * line.size]
        for j in range(line.size):
            a, b, c, d = upper[2 * j], upper[2 * j + 1], lower[2 * j], lower[2 * j + 1]
            a = a if (a > b) | (a != a) else b
            c = c if (c > d) | (c != c) else d
            line[j] = a if (a > c) | (a != a) else c


@parallel_kernel
def convolve_rows(x, g, tap_row, tap_column, band, filters, pool, has_residual, residual, last_slope, y):
    """x (N, C, H, W) -> y (N, O, PH, PW), a band of rows of an image a task.

    pool: y is (N, O, PH // 2, PW // 2), the maxima of 2x2; the band is even then, and there is no residual.
    """
    images, channels = x.shape[:2]
    bands = (g.out_h + band - 1) // band
    columns = g.out_w + g.halo_w
    for task in prange(images * bands):
        n, top = task // bands, task % bands * band
        bottom = min(top + band, g.out_h)
        rows = bottom - top + g.halo_h
        packed = np.empty(channels * g.phases_h * g.phases_w * rows * columns + TILE_VECTORS * LANES, np.float32)
        pack_rows(x[n], g.first_y + top * g.step, g, rows, columns, packed)
        offsets = row_offsets(channels, tap_row, tap_column, g, rows, columns)
        vectors = ((bottom - top - 1) * columns + g.out_w + LANES - 1) // LANES
        room = vectors * LANES
        sums = np.empty(TILE_FILTERS * room, np.float32)
        first = 0
        for m in filters.widths:
            run_tiles(m, vectors, packed, 0, LANES, offsets, filters.weights, first * offsets.size, filters.bias,
                 filters.slope, first, sums, 0, room)
            for i in range(m):
                o, own = first + i, sums[i * room : (i + 1) * room]
                if pool:
                    _finish_pooled(own, columns, y[n, o, top // 2 : bottom // 2])
                else:
                    _finish_rows(own, columns, has_residual, residual[n, o, top:bottom], last_slope[o],
                                 y[n, o, top:bottom])
            first += m


def band_rows(channels: int, g: Geometry) -> int:
    """How many output rows a task takes: their packed input should fill BAND_FLOATS."""
    line = channels * g.phases_h * g.phases_w * (g.out_w + g.halo_w)
    rows = max(1, min(g.out_h, BAND_FLOATS // line - g.halo_h))
    return rows + rows % 2  # even, for pooling
