"""A whole inverted residual a few rows at a time, so that its wide map never leaves the cache (inference).

    widen    1x1 convolution C -> T, activation       (may be left out: then T = C)
    filter   3x3 depthwise convolution, activation
    narrow   1x1 convolution T -> O, activation, plus the residual

Done one after the other on whole maps, the two maps of T channels are written to main memory and read back:
of 640x640 pixels, EXTD's widest (T = 128, 320x320) take 52 MB each, and waiting for them takes longer than the
sums. A band of rows of both stays in a second-level cache. The rows that the next band's filters see again are
kept, so nothing is computed twice.

Letters: N images, C T O channels in, inside and out, H W input size, PH PW output size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidetect.kernels.conv_tile import Filters, forward_taps, pack_filters, run_tiles
from minidetect.kernels.depthwise_tile import band_pitch, fill_band, filter_band
from minidetect.kernels.dispatch import get_num_threads, kernel, parallel_kernel, prange
from minidetect.kernels.simd import LANES, load, store

BAND_FLOATS = 256 << 10  # of both wide maps: 1 MB


class Block(NamedTuple):
    """The weights of a block, packed for the tiles. widen: of no filters if there is no such layer."""

    widen: Filters
    w: np.ndarray  # (T, 3, 3)
    bias: np.ndarray  # (T,)
    slope: np.ndarray  # (T,)
    narrow: Filters
    stride: int


@kernel
def _sums(m, count, x, x0, offsets, filters, first, y, y0, y_step):
    """m filters from `first` on, at `count` positions (at least LANES); the last vector overlaps the one before."""
    whole = count // LANES
    for part in range(2 if count % LANES else 1):
        at, vectors = (0, whole) if part == 0 else (count - LANES, 1)
        run_tiles(m, vectors, x, x0 + at, LANES, offsets, filters.weights, first * offsets.size, filters.bias,
                  filters.slope, first, y, y0 + at, y_step)


@kernel
def _filter_channel(x, start, height, width, c, top, count, stride, w, bias, slope, band, pitch, out, at, out_w):
    """`count` output rows of channel c from row `top` on; x[start] is, or would be, its first pixel."""
    fill_band(x, start, height, width, top * stride, (count - 1) * stride + 3, 1, 1, pitch, band)
    filter_band(band, pitch, stride, w, c, bias, slope, count, out_w, out, at)


@parallel_kernel
def _blocks(x, widen, w, bias, slope, narrow, stride, rows, parts, has_residual, residual, scratch, y):
    """x (N, C, H, W) -> y (N, O, PH, PW); `rows` output rows at a time, each image in `parts` parts.

    scratch: a row for each part of each image; see `scratch_shape`.
    """
    channels, height, width = x.shape[1:]
    num_out, out_h, out_w = y.shape[1:]
    pixels, flat, added = x.reshape(x.size), y.reshape(y.size), residual.reshape(residual.size)
    band_rows = (rows - 1) * stride + 3
    room, room_inner = band_rows * width, rows * out_w  # of a channel, in the two maps below
    wide_end = room * len(w) if widen.widths.size else 0
    inner_end = wide_end + room_inner * len(w)
    pitch = (scratch.shape[1] - inner_end) // band_rows
    x_offsets = np.arange(channels) * (height * width)
    inner_offsets = np.arange(len(w)) * room_inner
    for task in prange(len(scratch)):
        n, part = task // parts, task % parts
        wide, inner, band = scratch[task, :wide_end], scratch[task, wide_end:inner_end], scratch[task, inner_end:]
        band[:] = 0
        begin, end = part * out_h // parts, (part + 1) * out_h // parts
        low = have = max(0, begin * stride - 1)  # `wide` holds rows low ... have - 1 of its map
        for top in range(begin, end, rows):
            count = min(rows, end - top)
            shift = max(0, top * stride - 1) - low
            low += shift
            need = min(height, (top + count - 1) * stride + 2)
            if widen.widths.size == 0:
                for c in range(channels):
                    _filter_channel(pixels, (n * channels + c) * height * width, height, width, c, top, count, stride,
                                    w, bias, slope, band, pitch, inner, c * room_inner, out_w)
            first = 0
            for m in widen.widths:
                kept = (have - low) * width  # what the last band has left goes to the front, in vectors as in _sums
                for c in range(first, first + m):
                    for block in range(0, kept, LANES):
                        k = c * room + min(block, kept - LANES)
                        store(wide, k, load(wide, k + shift * width))
                _sums(m, (need - have) * width, pixels, (n * channels * height + have) * width, x_offsets, widen, first,
                      wide, first * room + (have - low) * width, room)
                for c in range(first, first + m):
                    _filter_channel(wide, c * room - low * width, height, width, c, top, count, stride,
                                    w, bias, slope, band, pitch, inner, c * room_inner, out_w)
                first += m
            have = need
            first = 0
            for m in narrow.widths:
                at = ((n * num_out + first) * out_h + top) * out_w
                _sums(m, count * out_w, inner, 0, inner_offsets, narrow, first, flat, at, out_h * out_w)
                if has_residual:
                    for o in range(m):
                        line = flat[at + o * out_h * out_w :][: count * out_w]
                        other = added[at + o * out_h * out_w :][: count * out_w]
                        for k in range(count * out_w):
                            line[k] += other[k]
                first += m


def pack_block(
    widen: tuple[np.ndarray, ...] | None, filters: tuple[np.ndarray, ...], narrow: tuple[np.ndarray, ...], stride: int
) -> Block:
    """Each of the three as (weight, bias or None, slope or None), as conv2d_forward takes them; all float32."""
    w, bias, slope = filters
    taps = forward_taps(1, 1, 1, 0, 1, 1, 1)
    nothing = np.empty((0, len(w), 1, 1), np.float32), None, None
    return Block(
        pack_filters((widen or nothing)[0], taps, *(widen or nothing)[1:]),
        np.ascontiguousarray(w[:, 0]),
        np.zeros(len(w), np.float32) if bias is None else bias,
        np.ones(len(w), np.float32) if slope is None else slope,
        pack_filters(narrow[0], taps, *narrow[1:]),
        stride,
    )


def suits(x: tuple[int, ...], stride: int) -> bool:
    """Whether `block_forward` can do it: a row of outputs must fill a vector."""
    return LANES > 1 and (x[3] - 1) // stride + 1 >= LANES and min(x) > 0


def image_parts(out_h: int, rows: int) -> int:
    """Into how many parts an image is cut for the threads. The first band of a part makes two rows anew."""
    threads = get_num_threads()
    return 1 if threads == 1 else max(1, min(2 * threads, out_h // (4 * rows)))


def scratch_shape(x: tuple[int, ...], block: Block) -> tuple[int, int, int]:
    """(output rows a band, tasks, floats a task): each holds the two wide maps of a band and `fill_band`'s buffer."""
    inside, stride = len(block.w), block.stride
    out_h, out_w = ((n - 1) // stride + 1 for n in x[2:])
    rows = max(2, min(out_h, BAND_FLOATS // (inside * (stride * x[3] + out_w))))
    band_rows = (rows - 1) * stride + 3
    wide = inside * band_rows * x[3] if block.widen.widths.size else 0
    inner, band = inside * rows * out_w, band_rows * band_pitch(out_w, x[3] + 2, stride)
    return rows, x[0] * image_parts(out_h, rows), wide + inner + band


def block_forward(
    x: np.ndarray, block: Block, residual: np.ndarray | None, out: np.ndarray, scratch: np.ndarray | None = None
) -> np.ndarray:
    """x (N, C, H, W) -> out (N, O, PH, PW), filled and returned. All contiguous float32; `out` is no input.

    scratch: flat float32 with room for tasks * floats numbers of `scratch_shape`, or None.
    """
    rows, tasks, floats = scratch_shape(x.shape, block)
    scratch = np.empty(tasks * floats, np.float32) if scratch is None else scratch[: tasks * floats]
    has = residual is not None
    _blocks(x, *block, rows, tasks // len(x), has, residual if has else out, scratch.reshape(tasks, floats), out)
    return out
