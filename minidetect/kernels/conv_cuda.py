"""2-D convolution on the GPU: forward, input gradient, weight gradient. Letters and formulas: conv.py.

    forward, input gradient    tiles of outputs, products_cuda.py; which pixels a tap reads is conv_tile.py's geometry
    weight gradient            the same kind of tile, of gw, here; its sums run over all positions of all images
    one filter a channel       depthwise_cuda.py

gw has few numbers, and each is a sum of many: so the positions are cut into parts, a block adds up one part of one
tile, and a second launch adds up the parts. Atomic additions to gw would save that launch, and add in another order
each time.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import from_dtype

from minidetect.kernels.conv import channel_groups, output_size
from minidetect.kernels.conv_tile import Taps, forward_taps, input_gradient_taps
from minidetect.kernels.depthwise_cuda import depthwise_backward, depthwise_forward
from minidetect.kernels.device import DeviceArray, empty, empty_or, to_device, zeros
from minidetect.kernels.gpu import SIMULATED, cuda
from minidetect.kernels.products_cuda import ACROSS, COLUMNS, DEPTH, DOWN, THREADS, convolve, tile_rows

MOST_BLOCKS = 6 if SIMULATED else 2048  # of the weight gradient
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


@functools.cache
def weight_kernel(rows: int, dtype: np.dtype) -> Any:
    """gy (N*O*PH*PW,), x (N*C*H*W,) -> partial (parts, O*E), E = C*KH*KW; positions q of all images, `length` a part.

    In a block, thread t fetches for depth t % DEPTH: neighbours read neighbouring positions.
    """
    kind, zero = from_dtype(dtype), dtype.type(0)
    tall, wide = rows // DOWN, COLUMNS // ACROSS
    of_left, of_right, of_sums = (DEPTH, rows + PAD), (DEPTH, COLUMNS + PAD), (tall, wide)
    apart = THREADS // DEPTH  # rows, or columns, between two numbers that a thread fetches
    fetching = apart * DEPTH  # threads that fetch

    @cuda.jit
    def weight_gradient(gy, x, sizes, first, step, dys, dxs, length, partial):
        left = cuda.shared.array(of_left, kind)
        right = cuda.shared.array(of_right, kind)
        sums = cuda.local.array(of_sums, kind)
        images, channels, height, width, filters, out_h, out_w = sizes
        taps = dys.size * dxs.size
        entries = channels * taps
        t = cuda.threadIdx.x
        down, across, k = t // ACROSS, t % ACROSS, t % DEPTH
        row0, column0, part = cuda.blockIdx.y * rows, cuda.blockIdx.x * COLUMNS, cuda.blockIdx.z
        last = min((part + 1) * length, images * out_h * out_w)
        for a in range(tall):
            for b in range(wide):
                sums[a, b] = zero
        q = part * length + k
        n, p = q // (out_h * out_w), q % (out_h * out_w)
        i, j = p // out_w, p % out_w
        for _ in range(part * length, last, DEPTH):
            if t < fetching:
                for r in range(t // DEPTH, rows, apart):
                    is_there = q < last and row0 + r < filters
                    left[k, r] = gy[((n * filters + row0 + r) * out_h + i) * out_w + j] if is_there else zero
                for s in range(t // DEPTH, COLUMNS, apart):
                    right[k, s] = zero
                    entry = column0 + s
                    if q < last and entry < entries:
                        c, tap = entry // taps, entry % taps
                        yy = i * step + first[0] + dys[tap // dxs.size]
                        xx = j * step + first[1] + dxs[tap % dxs.size]
                        if yy >= 0 and yy < height and xx >= 0 and xx < width:
                            right[k, s] = x[((n * channels + c) * height + yy) * width + xx]
                q += DEPTH
                j += DEPTH
                while j >= out_w:
                    j -= out_w
                    i += 1
                    if i == out_h:
                        i = 0
                        n += 1
            cuda.syncthreads()
            for depth in range(DEPTH):
                for a in range(tall):
                    for b in range(wide):
                        sums[a, b] += left[depth, down + a * DOWN] * right[depth, across + b * ACROSS]
            cuda.syncthreads()
        for a in range(tall):
            for b in range(wide):
                o, entry = row0 + down + a * DOWN, column0 + across + b * ACROSS
                if o < filters and entry < entries:
                    partial[part, o * entries + entry] = sums[a, b]

    return weight_gradient


def weight_gradient(
    gy: DeviceArray, x: DeviceArray, w_shape: tuple[int, ...], stride: int, padding: int, dilation: int
) -> DeviceArray:
    """gy (N, O, PH, PW), x (N, C, H, W) -> gw (O, C, KH, KW)."""
    filters, channels, kernel_h, kernel_w = w_shape
    taps = forward_taps(kernel_h, kernel_w, stride, padding, dilation, *gy.shape[2:])
    rows, positions = tile_rows(filters), gy.shape[0] * gy.shape[2] * gy.shape[3]
    tiles = -(-channels * kernel_h * kernel_w // COLUMNS), -(-filters // rows)
    parts = max(1, min(MOST_BLOCKS // (tiles[0] * tiles[1]), positions // (4 * DEPTH)))
    length = -(-positions // parts)
    parts = -(-positions // length)
    partial = empty((parts, filters * channels * kernel_h * kernel_w), x.dtype)
    first = taps.geometry.first_y, taps.geometry.first_x
    sizes = (*x.shape, filters, *gy.shape[2:])
    weight_kernel(rows, x.dtype)[(*tiles, parts), THREADS](
        gy.flat, x.flat, sizes, first, stride, *(a.flat for a in on_gpu(taps)), length, partial.nd
    )
    return partial.sum(axis=0).reshape(w_shape)


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
