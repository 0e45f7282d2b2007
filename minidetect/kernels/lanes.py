"""A small net over a batch of patches in one kernel, for inference: LANES patches side by side all the way.

A cascade looks at hundreds of patches with nets of a few layers. Layer by layer over the whole batch, every
map goes out to memory and comes back, and is transposed for every convolution (conv_lanes.py). Here a block
of LANES patches goes through all layers while its maps are still in the cache, and never leaves the layout

    (C, S, S, LANES)    channel, row, column, patch

in which any layer works on whole vectors. A fully connected layer is a convolution as large as its map.

Letters: B blocks, C input channels, F filters, K kernel side, S map side; F' all features of a result.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from minidetect.kernels.conv_lanes import lane_offsets
from minidetect.kernels.conv_tile import forward_taps, full_tiles, pack_filters
from minidetect.kernels.dispatch import get_num_threads, kernel
from minidetect.kernels.simd import LANES, TILE_FILTERS, TILE_VECTORS, load, maximum, splat, store
from minidetect.kernels.winograd import SPAN, TILE, row_of_tiles, winograd_filters

RING = 6  # rows kept for pooling: three that are made at once, and three before them under the same window
WINOGRAD_CHANNELS = 16  # from so many on, the fewer multiplications pay for going to points and back


class Layer(NamedTuple):
    """Unpadded convolution of stride 1, activation, maximum pooling, in this order.

    w (F, C, K, K), b (F,); slope: of negative values, 0 for ReLU, 1 for no activation, (F,) for PReLU.
    pool: 0 for none, else the window's side; windows start every 2 pixels, the last may hang over the border.
    """

    w: np.ndarray
    b: np.ndarray
    slope: float | np.ndarray
    pool: int = 0

    def slopes(self) -> np.ndarray:
        """The slope of each filter, (F,)."""
        return np.full(len(self.w), self.slope, np.float32)


class Stack(NamedTuple):
    """Layers ready for `run_stack`.

    table: (layers, 7): channels, filters (a multiple of TILE_FILTERS), kernel, pool, first weight, first bias,
    whether by winograd.py. features: the filters of the last layer, without those that only fill its tile.
    """

    table: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    slope: np.ndarray
    features: int


def make_stack(layers: Sequence[Layer], side: int) -> Stack:
    """Put the weights in the order of the tiles, one layer after the other, for patches of `side` pixels."""
    rows, weights, bias, slope = [], [], [], []
    at = first = 0
    for layer in layers:
        _, channels, kernel, _ = layer.w.shape
        w, b = fill_tile(layer.w), fill_tile(layer.b)
        by_points = kernel == 3 and channels >= WINOGRAD_CHANNELS and side > kernel
        if by_points:
            packed = winograd_filters(w)
        else:
            packed = pack_filters(w, forward_taps(kernel, kernel, 1, 0, 1, 1, 1)).weights
        rows.append((channels, len(w), kernel, layer.pool, at, first, by_points))
        weights.append(packed)
        bias.append(b)
        slope.append(fill_tile(layer.slopes()))
        at, first = at + packed.size, first + len(w)
        side = pooled_side.py_func(side - kernel + 1, layer.pool)
    arrays = (np.concatenate(a).astype(np.float32) for a in (weights, bias, slope))
    return Stack(np.array(rows, np.int64), *arrays, features=len(layers[-1].w))


def fill_tile(a: np.ndarray) -> np.ndarray:
    """Filters (F, ...) and zeros after them, up to a multiple of TILE_FILTERS: one kind of tile then does for all."""
    return np.concatenate([a, np.zeros((-len(a) % TILE_FILTERS, *a.shape[1:]), a.dtype)])


@kernel
def pooled_side(side, pool):
    """Windows of `pool` pixels every 2: 2x2 drops an odd last pixel, 3x3 hangs over (ceil mode)."""
    if pool == 0:
        return side
    return side // 2 if pool == 2 else max((side - pool + 1) // 2 + 1, 1)


def rooms(table: np.ndarray, side: int) -> tuple[int, int]:
    """Floats of the largest map between two convolutions, and of the largest from which a connected layer reads."""
    maps = flat = int(table[0, 0]) * side * side * LANES
    flat = flat if table[0, 2] == side else 0
    for _, filters, size, pool, *_ in table.tolist():
        connected = size == side
        side = pooled_side.py_func(side - size + 1, pool)
        floats = filters * side * side * LANES
        maps, flat = (maps, max(flat, floats)) if connected else (max(maps, floats), floats)
    return maps, flat


@kernel
def _pool_row(x, maps, side, pool, i, y, y0, y_step):
    """Row i of the maxima. x, flat: the last RING rows of each map (maps, RING, side, LANES), row r in r % RING.

    y[y0 + map * y_step ...] (side', LANES); a NaN wins.
    """
    for c in range(maps):
        for j in range(pooled_side(side, pool)):
            first = j * 2 * LANES
            best = load(x, (c * RING + i * 2 % RING) * side * LANES + first)
            for row in range(i * 2, min(i * 2 + pool, side)):
                start = (c * RING + row % RING) * side * LANES
                for column in range(j * 2, min(j * 2 + pool, side)):
                    best = maximum(load(x, start + column * LANES), best)
            store(y, y0 + c * y_step + j * LANES, best)


@kernel
def _convolve(x, side, layer, weights, bias, slope, y):
    """A convolution and its pooling for one block: x (C, S, S, LANES) -> y (F, S', S', LANES), both flat.

    A row of maxima is taken as soon as the rows under it are there, so those need room for RING rows only
    and are read back from a near cache.
    """
    channels, filters, size, pool, w0, b0, _ = layer
    out = side - size + 1
    pooled = pooled_side(out, pool)
    taps = np.arange(size)
    offsets = lane_offsets(channels, taps, taps, side, side)
    plane = (RING if pool else out) * out * LANES
    ring = np.empty(TILE_FILTERS * plane if pool else 0, np.float32)
    for first in range(0, filters, TILE_FILTERS):
        done, target, w = 0, first * pooled * pooled * LANES, w0 + first * offsets.size
        for i in range(out):
            sums, at = (ring, i % RING * out * LANES) if pool else (y, target + i * out * LANES)
            full_tiles(out, x, i * side * LANES, LANES, offsets, weights, w, bias, slope, b0 + first, sums, at, plane)
            done = _pool_rows(ring, TILE_FILTERS, out, pool, done, i + 1, y, target)


@kernel
def _convolve_by_points(x, side, layer, weights, bias, slope, y):
    """`_convolve` for 3x3 filters by winograd.py: three rows of all filters at a time."""
    channels, filters, _, pool, w0, b0, _ = layer
    out, points = side - 2, SPAN * SPAN
    tiles = (out + TILE - 1) // TILE
    room = (
        np.empty(points * channels * tiles * LANES, np.float32),
        np.empty(points * filters * tiles * LANES, np.float32), np.empty(points * LANES, np.float32),
    )
    plane = (RING if pool else out) * out * LANES
    ring = np.empty(filters * plane if pool else 0, np.float32)
    done = 0
    for row in range(0, out, TILE):
        sums, at = (ring, row % RING * out * LANES) if pool else (y, row * out * LANES)
        row_of_tiles(x, side, channels, filters, row, weights, w0, bias, slope, b0, room, sums, at, plane)
        done = _pool_rows(ring, filters, out, pool, done, min(row + TILE, out), y, 0)


@kernel
def _pool_rows(ring, maps, side, pool, done, there, y, y0):
    """Take the rows of maxima from `done` on that the first `there` rows of the maps allow; how many there are now."""
    pooled = pooled_side(side, pool)
    while pool and done < pooled and min(done * 2 + pool, side) <= there:
        _pool_row(ring, maps, side, pool, done, y, y0 + done * pooled * LANES, pooled * pooled * LANES)
        done += 1
    return done


@kernel
def _connect(x, room, blocks, layer, weights, bias, slope, y):
    """A layer as large as its map, for `blocks` blocks at once, so that each weight serves more than one vector.

    x, flat: (blocks, room) of which (C, S, S, LANES) are used -> y, flat: (blocks, room), (F, LANES) used.
    """
    channels, filters, size, _, w0, b0, _ = layer
    taps = np.arange(size)
    offsets = lane_offsets(channels, taps, taps, size, size)
    sums = np.empty(TILE_FILTERS * blocks * LANES, np.float32)
    for first in range(0, filters, TILE_FILTERS):
        full_tiles(blocks, x, 0, room, offsets, weights, w0 + first * offsets.size, bias, slope, b0 + first, sums, 0,
                   blocks * LANES)
        for i in range(TILE_FILTERS):  # (m, blocks, LANES) -> (blocks, m, LANES)
            for block in range(blocks):
                for k in range(LANES):
                    y[block * room + (first + i) * LANES + k] = sums[(i * blocks + block) * LANES + k]


@kernel
def _run_groups(begin, end, x, side, table, weights, bias, slope, room, flat_room, features, y):
    """A group is TILE_VECTORS blocks: one after the other through the convolutions, together through what follows."""
    for group in range(begin, end):
        start = group * TILE_VECTORS
        blocks = min(TILE_VECTORS, len(x) - start)
        maps = np.empty(2 * room, np.float32)
        source, target = np.empty(blocks * flat_room, np.float32), np.empty(blocks * flat_room, np.float32)
        size, layers = side, 0
        while layers < len(table) and table[layers, 2] < size:  # the layers that are smaller than their map
            size = pooled_side(size - table[layers, 2] + 1, table[layers, 3])
            layers += 1
        for block in range(blocks):
            here = source[block * flat_room : (block + 1) * flat_room]
            if layers == 0:
                here[: x.shape[1]] = x[start + block]
            size = side
            for k in range(layers):
                before = x[start + block] if k == 0 else maps[(k - 1) % 2 * room : ((k - 1) % 2 + 1) * room]
                after = here if k == layers - 1 else maps[k % 2 * room : (k % 2 + 1) * room]
                if table[k, 6]:
                    _convolve_by_points(before, size, table[k], weights, bias, slope, after)
                else:
                    _convolve(before, size, table[k], weights, bias, slope, after)
                size = pooled_side(size - table[k, 2] + 1, table[k, 3])
        for k in range(layers, len(table)):
            _connect(source, flat_room, blocks, table[k], weights, bias, slope, target)
            source, target = target, source
        for block in range(blocks):
            for k in range(features * LANES):
                y[start + block, k] = source[block * flat_room + k]


@functools.cache
def _helpers(count: int) -> ThreadPoolExecutor:
    """Threads beside the caller's, kept for the next call."""
    return ThreadPoolExecutor(count, "minidetect")


def run_stack(stack: Stack, x: np.ndarray, side: int, y: np.ndarray) -> None:
    """x (B, C, side, side, LANES) -> the first F * LANES of each row of y (B, at least F * LANES), float32.

    F: stack.features; the last layer must leave a single pixel.
    """
    if len(x) == 0:
        return
    arguments = (x.reshape(len(x), -1), side, *stack[:4], *rooms(stack.table, side), stack.features, y)
    groups = -(-len(x) // TILE_VECTORS)
    workers = min(get_num_threads(), groups)
    if workers == 1:
        _run_groups(0, groups, *arguments)
        return
    # Python's threads rather than prange: waking them is slower, but a call takes milliseconds, and the kernel, which
    # is large, compiles seconds faster.
    edges = [groups * k // workers for k in range(workers + 1)]
    others = [
        _helpers(workers - 1).submit(_run_groups, edges[k], edges[k + 1], *arguments) for k in range(1, workers)
    ]
    _run_groups(edges[0], edges[1], *arguments)
    for other in others:
        other.result()


@kernel
def halve(x, side, y):
    """Mean of 2x2 pixels: x (B, 3 * side * side * LANES) -> y (B, 3 * (side // 2)**2 * LANES)."""
    half = side // 2
    quarter = splat(np.float32(0.25))
    for block in range(len(x)):
        source, target = x[block], y[block]
        for line in range(3 * half):
            for j in range(half):
                at = (line * 2 * side + j * 2) * LANES
                below = at + side * LANES
                total = load(source, at) + load(source, at + LANES) + load(source, below) + load(source, below + LANES)
                store(target, (line * half + j) * LANES, total * quarter)
