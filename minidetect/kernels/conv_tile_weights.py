"""The weight gradient of a convolution at the speed of the machine (float32 only).

    gw[o, c, t] = sum over n, i, j of gy[n, o, i, j] * x[n, c, i*S + dy[t], j*S + dx[t]]

Both factors run along the positions, so a tile of simd.py keeps the sums of a few filters and three taps
in registers, LANES partial sums each, and adds the lanes up at the end. x and gy are laid out as for the
forward pass, as rows (conv_tile.py) or as lanes (conv_lanes.py).

The positions are divided into CHUNKS, each with sums of its own that are added in order at the end: the
number of chunks depends on the shapes alone, so the result does not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.conv_fast import use_lanes
from minidetect.kernels.conv_lanes import lane_offsets, pack_lanes
from minidetect.kernels.conv_tile import Geometry, block_widths, forward_taps, pack_rows, row_offsets
from minidetect.kernels.dispatch import kernel, parallel_kernel, prange
from minidetect.kernels.simd import LANES, TILE_FILTERS, TILE_VECTORS, make_dot_tile

CHUNKS = 8
# x and gy of a task, in floats: four fifths of a 1 MB L2 cache. Long runs, since each run ends with adding lanes.
PACKED_FLOATS = 200 << 10

_wide = make_dot_tile(TILE_FILTERS, TILE_VECTORS)
_wide_end = make_dot_tile(TILE_FILTERS, 1)
_two = make_dot_tile(2, TILE_VECTORS)
_two_end = make_dot_tile(2, 1)
_one = make_dot_tile(1, TILE_VECTORS)
_one_end = make_dot_tile(1, 1)


@kernel
def _add_products(m, g, g0, g_step, g_row, x, x0, x_step, x_row, offsets, start, stop, height, width, out, out0):
    """Add to out (K, m), which begins at out0, the sums of taps start to stop."""
    k = start
    while k < stop:
        at = out0 + k * m
        if stop - k >= TILE_VECTORS:
            if m == TILE_FILTERS:
                _wide(g, g0, g_step, g_row, x, x0, x_step, x_row, offsets, k, height, width, out, at)
            elif m == 2:
                _two(g, g0, g_step, g_row, x, x0, x_step, x_row, offsets, k, height, width, out, at)
            else:
                _one(g, g0, g_step, g_row, x, x0, x_step, x_row, offsets, k, height, width, out, at)
            k += TILE_VECTORS
        else:
            if m == TILE_FILTERS:
                _wide_end(g, g0, g_step, g_row, x, x0, x_step, x_row, offsets, k, height, width, out, at)
            elif m == 2:
                _two_end(g, g0, g_step, g_row, x, x0, x_step, x_row, offsets, k, height, width, out, at)
            else:
                _one_end(g, g0, g_step, g_row, x, x0, x_step, x_row, offsets, k, height, width, out, at)
            k += 1


@kernel
def _pack_wide(gy, columns, room, packed):
    """gy (O, rows, PW) -> packed, flat: (O, room) with rows of `columns`, 0 where gy has none."""
    _, rows, width = gy.shape
    packed[:] = 0
    for o in range(len(gy)):
        for i in range(rows):
            line, target = gy[o, i], packed[o * room + i * columns : o * room + i * columns + width]
            for j in range(width):
                target[j] = line[j]


@parallel_kernel
def _by_rows(gy, x, g, tap_row, tap_column, band, chunks, widths, parts):
    """gy (N, O, PH, PW), x (N, C, H, W) -> parts (chunks, O*K): bands of rows, dealt out to the chunks."""
    images, channels = x.shape[:2]
    bands = (g.out_h + band - 1) // band
    columns, total = g.out_w + g.halo_w, images * bands
    for chunk in prange(chunks):
        part = parts[chunk]
        part[:] = 0
        for task in range(total * chunk // chunks, total * (chunk + 1) // chunks):
            n, top = task // bands, task % bands * band
            bottom = min(top + band, g.out_h)
            rows = bottom - top + g.halo_h
            slack = 2 * LANES + g.halo_w
            packed = np.empty(channels * g.phases_h * g.phases_w * rows * columns + slack, np.float32)
            pack_rows(x[n], g.first_y + top * g.step, g, rows, columns, packed)
            offsets = row_offsets(channels, tap_row, tap_column, g, rows, columns)
            room = ((bottom - top) * columns + LANES - 1) // LANES * LANES
            wide = np.empty(gy.shape[1] * room, np.float32)
            _pack_wide(gy[n, :, top:bottom], columns, room, wide)
            first = 0
            for m in widths:
                _add_products(m, wide, first * room, room, 0, packed, 0, LANES, 0, offsets, 0, offsets.size,
                              1, room, part, first * offsets.size)
                first += m


@parallel_kernel
def _by_lanes(gy, x, g, tap_row, tap_column, unit, chunks, widths, parts):
    """As _by_rows, `unit` images side by side at a time, dealt out to the chunks."""
    images, channels, height = x.shape[:3]
    columns = (g.out_w - 1) * g.step + tap_column.max() + 1
    positions, total = g.out_h * g.out_w, (images + unit - 1) // unit
    row_taps = channels * tap_column.size
    for chunk in prange(chunks):
        part = parts[chunk]
        part[:] = 0
        packed = np.empty(channels * height * columns * unit, np.float32)
        lanes = np.empty(gy.shape[1] * positions * unit, np.float32)
        offsets = lane_offsets(channels, tap_row, tap_column, height, columns) * (unit // LANES)
        for task in range(total * chunk // chunks, total * (chunk + 1) // chunks):
            pack_lanes(x, task * unit, unit, -g.first_x, columns, packed)
            pack_lanes(gy, task * unit, unit, 0, g.out_w, lanes)
            first = 0
            for m in widths:
                for u in range(tap_row.size):  # the rows of gy whose tap u lies inside the image
                    row = g.first_y + tap_row[u]
                    i0 = max(0, -(row // g.step))
                    i1 = max(i0, min(g.out_h, -((row - height) // g.step)))
                    _add_products(
                        m, lanes, (first * positions + i0 * g.out_w) * unit, positions * unit, g.out_w * unit,
                        packed, (g.first_y + i0 * g.step) * columns * unit, g.step * LANES, g.step * columns * unit,
                        offsets, u * row_taps, (u + 1) * row_taps, i1 - i0, g.out_w * unit, part, first * offsets.size,
                    )
                first += m


def weight_gradient(
    gy: np.ndarray, x: np.ndarray, stride: int, padding: int, dilation: int, gw: np.ndarray
) -> None:
    """gy (N, O, PH, PW), x (N, C, H, W), both contiguous -> gw (O, C, KH, KW)."""
    taps = forward_taps(*gw.shape[2:], stride, padding, dilation, *gy.shape[2:])
    g, widths = taps.geometry, block_widths(len(gw))
    if use_lanes(len(x), g):
        unit = lane_unit(gy.shape, x.shape, g)
        chunks = min(CHUNKS, -(-len(x) // unit))
        parts = np.empty((chunks, gw.size), np.float32)
        _by_lanes(gy, x, g, taps.row, taps.column, unit, chunks, widths, parts)
    else:
        band = gradient_band(gy.shape[1], x.shape[1], g)
        chunks = min(CHUNKS, len(x) * -(-g.out_h // band))
        parts = np.empty((chunks, gw.size), np.float32)
        _by_rows(gy, x, g, taps.row, taps.column, band, chunks, widths, parts)
    _collect(parts, widths, gw)


def lane_unit(gy: tuple[int, ...], x: tuple[int, ...], g: Geometry) -> int:
    """How many images side by side: more of tiny ones, so that a run is long, while x and gy fit PACKED_FLOATS."""
    if g.step > 1:
        return LANES
    floats = x[1] * x[2] * (x[3] + 2) + gy[1] * gy[2] * gy[3]
    units = min(PACKED_FLOATS // (floats * LANES), -(-x[0] // LANES) // 2)
    return LANES * max(1, units)


def gradient_band(filters: int, channels: int, g: Geometry) -> int:
    """How many rows of gy a task takes: x and gy packed should fill PACKED_FLOATS."""
    columns = g.out_w + g.halo_w
    line = (channels * g.phases_h * g.phases_w + filters) * columns
    return max(1, min(g.out_h, PACKED_FLOATS // line - g.halo_h))


@kernel
def _collect(parts, widths, gw):
    """The chunks' sums, each for every block of m filters (KH, C, KW, m), are added up into gw (O, C, KH, KW)."""
    at = first = 0
    for m in widths:
        for u in range(gw.shape[2]):
            for c in range(gw.shape[1]):
                for v in range(gw.shape[3]):
                    for i in range(m):
                        total = parts[0, at]
                        for chunk in range(1, len(parts)):
                            total += parts[chunk, at]
                        gw[first + i, c, u, v] = total
                        at += 1
        first += m
