"""2-D convolution on the GPU: forward, input gradient, weight gradient. Letters and formulas: conv.py.

    forward, input gradient    tiles of outputs, products_cuda.py; which pixels a tap reads is conv_tile.py's geometry
    weight gradient            the same kind of tile, of gw, here; its sums run over all positions of all images
    one filter a channel       depthwise_cuda.py

gw has few numbers, and each is a sum of many: so the positions are cut into parts, a block adds up one part of one
tile, and where there are several parts, a second launch adds them up. Atomic additions to gw would save that launch,
and add in another order each time.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import boolean, from_dtype, int64

from minidetect.kernels.conv import channel_groups, output_size
from minidetect.kernels.conv_tile import Taps, forward_taps, input_gradient_taps
from minidetect.kernels.depthwise_cuda import depthwise_backward, depthwise_forward
from minidetect.kernels.device import DeviceArray, empty, empty_or, to_device, zeros
from minidetect.kernels.gpu import SIMULATED, cuda
from minidetect.kernels.products_cuda import (
    ACROSS,
    COLUMNS,
    DEPTH,
    DOWN,
    THREADS,
    convolve,
    divided,
    product,
    product_adder,
    tile_rows,
)

BLOCKS = 6 if SIMULATED else 400  # of the weight gradient, about: a few for each multiprocessor of a large GPU
PART = 4 * DEPTH if SIMULATED else 256  # positions that a block of it adds up, at the least
OUTSIDE = 1 << 30  # a row below any image
PAD = 4  # numbers between rows of shared memory, so that threads that write one column use different banks


@functools.lru_cache(maxsize=512)
def taps_on_gpu(offsets: tuple[int, ...]) -> DeviceArray:
    """How far each tap lies from the first, int64; the same few for every image, so copied over once."""
    return to_device(np.array(offsets, np.int64))


def on_gpu(taps: Taps) -> tuple[DeviceArray, DeviceArray]:
    return taps_on_gpu(tuple(taps.row.tolist())), taps_on_gpu(tuple(taps.column.tolist()))


# ------------------------------------------------------------------------------------------ forward, input gradient


def forward(
    x: DeviceArray, w: DeviceArray, b: DeviceArray | None, stride: int, padding: int, dilation: int, y: DeviceArray,
    slope: DeviceArray | None, residual: DeviceArray | None, activate_last: bool,
) -> None:
    """x (N, C, H, W), w (O, C, KH, KW) -> y (N, O, PH, PW)."""
    taps = forward_taps(*w.shape[2:], stride, padding, dilation, *y.shape[2:])
    g, later = taps.geometry, activate_last and residual is not None
    convolve(
        x, w.transpose(2, 3, 1, 0), (g.first_y, g.first_x), g.step, *on_gpu(taps), (g.out_h, g.out_w), y,
        bias=b, slope=None if later else slope, residual=residual, last_slope=slope if later else None,
    )  # fmt: skip


def input_gradient(
    gy: DeviceArray, w: DeviceArray, stride: int, padding: int, dilation: int, gx: DeviceArray
) -> None:
    """gy (N, O, PH, PW) -> gx (N, C, H, W): as conv_fast.input_gradient, the pixels of one remainder at a time."""
    if gy.shape[2:] == (1, 1) and w.shape[2:] == gx.shape[2:] and padding == 0:  # each weight meets one pixel only
        by_image = gx.reshape(len(gx), w.size // len(w))
        product(gy.reshape(*gy.shape[:2]), w.reshape(len(w), w.size // len(w)), out=by_image)  # (N, O) @ (O, C*KH*KW)
        return
    for a in range(min(stride, gx.shape[2])):
        for b in range(min(stride, gx.shape[3])):
            taps = input_gradient_taps(*w.shape[2:], stride, padding, dilation, a, b, *gx.shape[2:])
            if taps is None:  # pixels that the stride steps over
                gx[:, :, a::stride, b::stride] = 0
                continue
            g = taps.geometry
            turned = w if stride == 1 else w[:, :, steps(taps.u), steps(taps.v)]
            turned = turned.transpose(2, 3, 0, 1)  # (O, C, KH, KW) -> (KH, KW, O, C): O is the depth
            size, spread = (g.out_h, g.out_w), (stride, a, b)
            convolve(gy, turned, (g.first_y, g.first_x), g.step, *on_gpu(taps), size, gx, spread)


def steps(taps: np.ndarray) -> slice:
    """The taps of one remainder, which are evenly spaced, as a slice."""
    return slice(int(taps[0]), int(taps[-1]) + 1, int(taps[1] - taps[0]) if len(taps) > 1 else 1)


# ------------------------------------------------------------------------------------------------- weight gradient


def tile_columns(columns: int) -> int:
    """How many columns a tile of the weight gradient should have: few where a filter has no more weights."""
    return next(n for n in (2 * ACROSS, 4 * ACROSS, COLUMNS) if n >= columns or n == COLUMNS)


@functools.cache
def weight_kernel(rows: int, columns: int, plain: bool, dtype: np.dtype) -> Any:
    """gy (N*O*PH*PW,), x (N*C*H*W,) -> partial (parts, O*E), E = C*KH*KW; positions q of all images, `length` a part.

    In a block, thread t fetches for depth t % DEPTH: neighbours read neighbouring positions. Which pixel an entry of gw
    reads at a position is the same question for every position, so a table in shared memory answers it: (dy, dx), and
    `offset`, how far the pixel lies from the first tap of channel 0. A `plain` product, of a 1x1 convolution with
    stride 1, needs none of that: there an entry is a channel, and its pixel is the position.
    """
    kind, zero = from_dtype(dtype), dtype.type(0)
    tall, wide = rows // DOWN, columns // ACROSS
    of_left, of_right, of_sums, of_reads = (DEPTH, rows + PAD), (DEPTH, columns + PAD), (tall, wide), (3, columns)
    apart = THREADS // DEPTH  # rows, or columns, between two numbers that a thread fetches
    fetching = apart * DEPTH  # threads that fetch
    each_gy, each_x = rows // apart, columns // apart  # numbers that a thread fetches at a step
    add_products = product_adder(tall, wide)

    @cuda.jit
    def weight_gradient(gy, x, sizes, first, step, dys, dxs, length, partial):
        left = cuda.shared.array(of_left, kind)
        right = cuda.shared.array(of_right, kind)
        reads = cuda.shared.array(of_reads, int64)  # dy, dx and offset of each column
        sums = cuda.local.array(of_sums, kind)
        fetched_gy = cuda.local.array(each_gy, kind)
        fetched_x = cuda.local.array(each_x, kind)
        is_there = cuda.local.array(each_x, boolean)
        images, channels, height, width, filters, out_h, out_w = sizes
        taps, plane, out_plane = dys.size * dxs.size, height * width, out_h * out_w
        entries = channels * taps
        t = cuda.threadIdx.x
        down, across = np.uint32(t // ACROSS), np.uint32(t % ACROSS)
        k, r0 = t % DEPTH, t // DEPTH
        row0, column0, part = cuda.blockIdx.y * rows, cuda.blockIdx.x * columns, cuda.blockIdx.z
        last = min((part + 1) * length, images * out_plane)
        for a in range(tall):
            for b in range(wide):
                sums[a, b] = zero
        if not plain:
            for s in range(t, columns, THREADS):
                reads[0, s], reads[1, s], reads[2, s] = entry_taps(column0 + s, channels, height, width, dys, dxs)
            cuda.syncthreads()
        q = part * length + k
        n, p = divided(q, out_plane)
        i, j = divided(p, out_w)
        for _ in range(part * length, last, DEPTH):
            if t < fetching:
                # first all loads, then all stores; outside, the first number is read: as in products_cuda.py
                top, start = i * step + first[0], j * step + first[1]
                corner = n * channels * plane + top * width + start
                output = (n * filters + row0 + r0) * out_plane + i * out_w + j
                for m in range(each_gy):
                    is_output = q < last and row0 + r0 + m * apart < filters
                    fetched_gy[m] = gy[np.uint64(output + m * apart * out_plane if is_output else 0)]
                for m in range(each_x):
                    s = np.uint32(r0 + m * apart)
                    if plain:
                        at = corner + (column0 + r0 + m * apart) * plane
                        is_there[m] = (q < last) & (column0 + r0 + m * apart < channels)
                    else:
                        yy, xx, at = top + reads[0, s], start + reads[1, s], corner + reads[2, s]
                        # `and` would ask one after the other, with a jump each
                        is_there[m] = (q < last) & (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width)
                    fetched_x[m] = x[np.uint64(at if is_there[m] else 0)]
                for m in range(each_gy):
                    is_output = q < last and row0 + r0 + m * apart < filters
                    left[k, r0 + m * apart] = fetched_gy[m] if is_output else zero
                for m in range(each_x):
                    right[k, r0 + m * apart] = fetched_x[m] if is_there[m] else zero
                q += DEPTH
                n, i, j = moved_on(n, i, j + DEPTH, out_h, out_w)
            cuda.syncthreads()
            add_products(left, right, down, across, sums)
            cuda.syncthreads()
        for a in range(tall):
            for b in range(wide):
                o, entry = row0 + down + a * DOWN, column0 + across + b * ACROSS
                if o < filters and entry < entries:
                    partial[part, o * entries + entry] = sums[a, b]

    return weight_gradient


@cuda.jit(device=True)
def entry_taps(entry, channels, height, width, dys, dxs):
    """dy, dx and `offset` of an entry of gw; a dy outside of every image for a column beside gw."""
    c, tap = divided(entry, dys.size * dxs.size)
    u, v = divided(tap, dxs.size)
    offset = (c * height + dys[u]) * width + dxs[v]
    return dys[u] if c < channels else OUTSIDE, dxs[v], offset


@cuda.jit(device=True)
def moved_on(n, i, j, out_h, out_w):
    """Position (n, i, j) where j may be beyond its row."""
    while j >= out_w:
        j -= out_w
        i += 1
        if i == out_h:
            i = 0
            n += 1
    return n, i, j


def weight_gradient(
    gy: DeviceArray, x: DeviceArray, w_shape: tuple[int, ...], stride: int, padding: int, dilation: int
) -> DeviceArray:
    """gy (N, O, PH, PW), x (N, C, H, W) -> gw (O, C, KH, KW)."""
    filters, channels, kernel_h, kernel_w = w_shape
    taps = forward_taps(kernel_h, kernel_w, stride, padding, dilation, *gy.shape[2:])
    entries, positions = channels * kernel_h * kernel_w, gy.shape[0] * gy.shape[2] * gy.shape[3]
    rows, columns = tile_rows(filters), tile_columns(entries)
    tiles = -(-entries // columns), -(-filters // rows)
    parts = max(1, min(BLOCKS // (tiles[0] * tiles[1]), positions // PART))
    length = -(-positions // parts // DEPTH) * DEPTH  # so that a part begins where a sector of memory does
    parts = -(-positions // length)
    partial = empty((parts, filters * entries), x.dtype)
    first = taps.geometry.first_y, taps.geometry.first_x
    sizes = (*x.shape, filters, *gy.shape[2:])
    plain = (kernel_h, kernel_w, stride, padding) == (1, 1, 1, 0)
    weight_kernel(rows, columns, plain, x.dtype)[(*tiles, parts), THREADS](
        gy.flat, x.flat, sizes, first, stride, *(a.flat for a in on_gpu(taps)), length, partial.nd
    )
    return (partial if parts == 1 else partial.sum(axis=0)).reshape(w_shape)


# ------------------------------------------------------------------------------------------------- entry points


def conv2d_forward(
    x: DeviceArray, w: DeviceArray, b: DeviceArray | None, stride: int, padding: int, dilation: int, groups: int, *,
    slope: DeviceArray | None = None, residual: DeviceArray | None = None, activate_last: bool = False,
    out: DeviceArray | None = None,
) -> DeviceArray:
    """As conv.conv2d_forward."""
    num_out, group_channels, kernel_h, kernel_w = w.shape
    out_h = output_size(x.shape[2], kernel_h, stride, padding, dilation)
    out_w = output_size(x.shape[3], kernel_w, stride, padding, dilation)
    y = empty_or(out, (len(x), num_out, out_h, out_w), x.dtype)
    after = {"slope": slope, "residual": residual, "activate_last": activate_last}
    if y.size == 0:
        return y
    if group_channels == 1 and groups == num_out == x.shape[1]:
        return depthwise_forward(x, w, b, stride, padding, dilation, **after, out=y)
    if groups == 1:
        forward(x, w, b, stride, padding, dilation, y, **after)
        return y
    for inputs, outputs in channel_groups(x.shape[1], num_out, groups):
        b_g, slope_g = (None if a is None else a[outputs] for a in (b, slope))
        residual_g = None if residual is None else residual[:, outputs]
        y[:, outputs] = conv2d_forward(
            x[:, inputs], w[outputs], b_g, stride, padding, dilation, 1,
            slope=slope_g, residual=residual_g, activate_last=activate_last,
        )  # fmt: skip
    return y


def conv2d_backward(
    gy: DeviceArray, x: DeviceArray, w: DeviceArray, stride: int, padding: int, dilation: int, groups: int,
    needs: tuple[bool, bool] = (True, True),
) -> tuple[DeviceArray | None, DeviceArray | None]:
    """As conv.conv2d_backward."""
    num_out, group_channels = w.shape[:2]
    if gy.size == 0:
        return zeros(x.shape, x.dtype) if needs[0] else None, zeros(w.shape, w.dtype) if needs[1] else None
    if group_channels == 1 and groups == num_out == x.shape[1]:
        return depthwise_backward(gy, x, w, stride, padding, dilation, needs)
    gx = empty(x.shape, x.dtype) if needs[0] else None
    if groups == 1:
        if needs[0]:
            input_gradient(gy, w, stride, padding, dilation, gx)
        return gx, weight_gradient(gy, x, w.shape, stride, padding, dilation) if needs[1] else None
    gw = empty(w.shape, w.dtype) if needs[1] else None
    for inputs, outputs in channel_groups(x.shape[1], num_out, groups):
        gx_g, gw_g = conv2d_backward(
            gy[:, outputs], x[:, inputs], w[outputs], stride, padding, dilation, 1, needs
        )
        if needs[0]:
            gx[:, inputs] = gx_g
        if needs[1]:
            gw[outputs] = gw_g
    return gx, gw
