"""2-D convolution (cross-correlation, as the field calls it): forward, input gradient, weight gradient.

Letters: N images, C input channels, O output channels, G groups, H W input size, KH KW kernel size,
PH PW output size, S stride, P padding, D dilation; K = C/G * KH * KW, the inputs of one output.

    y[n, o, i, j] = b[o] + sum over c, u, v of w[o, c, u, v] * x[n, c, i*S - P + u*D, j*S - P + v*D]

Two ways to the same sum:
    im2col      copy each output's K inputs into a column, then one matrix product by BLAS. The columns
                are K times as large as the map, so they are made a band at a time, to stay in cache
    depthwise   one filter a channel (C = G = O): no sum over channels, so BLAS has nothing to do
The gradients follow from the sum: w[o, c, u, v] meets x[.., i*S - P + u*D, ..] in y[.., i, ..] only.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.dispatch import parallel_kernel, prange

Pair = tuple[int, int]
COLUMN_BYTES = 2 << 20  # columns made at a time: small enough to be still in cache for the product


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How many positions a kernel has along an axis: every tap must lie inside the padded input."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


# ----------------------------------------------------------------------------------------------- im2col


@parallel_kernel
def _im2col(x, kernel_h, kernel_w, stride, padding, dilation, first_row, out_h, out_w, columns):
    """x (N, C, H, W) -> columns (C*KH*KW, N*out_h*out_w), for `out_h` output rows from `first_row` on."""
    images, _, height, width = x.shape
    for k in prange(columns.shape[0]):
        c, u, v = k // (kernel_h * kernel_w), k // kernel_w % kernel_h, k % kernel_w
        for n in range(images):
            for i in range(out_h):
                out = columns[k, (n * out_h + i) * out_w : (n * out_h + i + 1) * out_w]
                yy = (first_row + i) * stride - padding + u * dilation
                if yy < 0 or yy >= height:
                    out[:] = 0
                elif padding == 0 and stride == 1:
                    row = x[n, c, yy, v * dilation : v * dilation + out_w]
                    for j in range(out_w):
                        out[j] = row[j]
                else:
                    for j in range(out_w):
                        xx = j * stride - padding + v * dilation
                        out[j] = x[n, c, yy, xx] if 0 <= xx < width else 0


@parallel_kernel
def _col2im(columns, kernel_h, kernel_w, stride, padding, dilation, out_h, out_w, gx):
    """The transpose of `_im2col`: columns (C*KH*KW, N*PH*PW) are added up into gx (N, C, H, W)."""
    images, channels, height, width = gx.shape
    for plane in prange(images * channels):  # a plane is written by one iteration alone: no race
        n, c = plane // channels, plane % channels
        gx[n, c] = 0
        for u in range(kernel_h):
            for v in range(kernel_w):
                k = (c * kernel_h + u) * kernel_w + v
                for i in range(out_h):
                    yy = i * stride - padding + u * dilation
                    if yy < 0 or yy >= height:
                        continue
                    source = columns[k, (n * out_h + i) * out_w : (n * out_h + i + 1) * out_w]
                    if padding == 0 and stride == 1:
                        row = gx[n, c, yy, v * dilation : v * dilation + out_w]
                        for j in range(out_w):
                            row[j] += source[j]
                    else:
                        for j in range(out_w):
                            xx = j * stride - padding + v * dilation
                            if 0 <= xx < width:
                                gx[n, c, yy, xx] += source[j]


def _pieces(length: int, bytes_each: int) -> list[slice]:
    """Cut range(length) so that a piece's columns take about COLUMN_BYTES."""
    step = max(1, COLUMN_BYTES // max(1, bytes_each))
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def _columns(
    x: np.ndarray, taps: Pair, rows: slice, out_w: int, stride: int, padding: int, dilation: int
) -> np.ndarray:
    out_h = rows.stop - rows.start
    columns = np.empty((x.shape[1] * taps[0] * taps[1], x.shape[0] * out_h * out_w), x.dtype)
    _im2col(x, *taps, stride, padding, dilation, rows.start, out_h, out_w, columns)
    return columns


def _channel_rows(y: np.ndarray) -> np.ndarray:
    """(N, O, PH, PW) -> (O, N*PH*PW)"""
    return np.ascontiguousarray(y.transpose(1, 0, 2, 3)).reshape(y.shape[1], -1)


# -------------------------------------------------------------------------------------------- depthwise


@parallel_kernel
def _depthwise(x, w, b, stride, padding, dilation, y):
    """x (N, C, H, W), w (C, KH, KW), b (C,) -> y (N, C, PH, PW)."""
    channels, height, width = x.shape[1:]
    kernel_h, kernel_w = w.shape[1:]
    for plane in prange(x.shape[0] * channels):
        n, c = plane // channels, plane % channels
        for i in range(y.shape[2]):
            y[n, c, i] = b[c]
            for u in range(kernel_h):
                yy = i * stride - padding + u * dilation
                if 0 <= yy < height:
                    for v in range(kernel_w):
                        for j in range(y.shape[3]):
                            xx = j * stride - padding + v * dilation
                            if 0 <= xx < width:
                                y[n, c, i, j] += w[c, u, v] * x[n, c, yy, xx]


@parallel_kernel
def _depthwise_backward(gy, x, w, stride, padding, dilation, gx, gw):
    channels, height, width = x.shape[1:]
    kernel_h, kernel_w = w.shape[1:]
    for c in prange(channels):  # a channel's filter is shared by all images: one iteration owns both
        gw[c] = 0
        for n in range(x.shape[0]):
            gx[n, c] = 0
            for i in range(gy.shape[2]):
                for u in range(kernel_h):
                    yy = i * stride - padding + u * dilation
                    if 0 <= yy < height:
                        for v in range(kernel_w):
                            for j in range(gy.shape[3]):
                                xx = j * stride - padding + v * dilation
                                if 0 <= xx < width:
                                    gx[n, c, yy, xx] += w[c, u, v] * gy[n, c, i, j]
                                    gw[c, u, v] += x[n, c, yy, xx] * gy[n, c, i, j]


# ---------------------------------------------------------------------------------------- entry points


def conv2d_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: int, padding: int, dilation: int, groups: int
) -> np.ndarray:
    """x (N, C, H, W), w (O, C/G, KH, KW), b (O,) or None -> y (N, O, PH, PW)."""
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    num_out, group_channels, *taps = w.shape
    out = tuple(output_size(n, k, stride, padding, dilation) for n, k in zip(x.shape[2:], taps, strict=True))
    y = np.empty((x.shape[0], num_out, *out), x.dtype)
    bias = np.zeros(num_out, x.dtype) if b is None else np.ascontiguousarray(b)
    if y.size == 0:
        return y
    if group_channels == 1 and groups == num_out == x.shape[1]:
        _depthwise(x, w[:, 0], bias, stride, padding, dilation, y)
        return y
    for g in range(groups):
        in_g = slice(g * group_channels, (g + 1) * group_channels)
        out_g = slice(g * num_out // groups, (g + 1) * num_out // groups)
        filters = w[out_g].reshape(num_out // groups, -1)  # (O/G, K)
        row_bytes = filters.shape[1] * out[1] * x.itemsize
        for part in _pieces(len(x), row_bytes * out[0]):
            x_g = np.ascontiguousarray(x[part, in_g])
            for rows in _pieces(out[0], row_bytes * len(x_g)):
                product = filters @ _columns(x_g, taps, rows, out[1], stride, padding, dilation)
                product += bias[out_g, None]
                # (O/G, n*rows*PW) -> (O/G, n, rows, PW) -> (n, O/G, rows, PW)
                product = product.reshape(len(filters), len(x_g), -1, out[1])
                y[part, out_g, rows] = product.transpose(1, 0, 2, 3)
    return y


def conv2d_backward(
    gy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: int, dilation: int, groups: int,
    needs: tuple[bool, bool] = (True, True),
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """gy (N, O, PH, PW) -> the gradients of x and of w, None for one that is not needed.

    With y = filters @ columns(x): d/d filters = gy @ columns.T, and d/d columns = filters.T @ gy, which the
    transpose of im2col adds back to the pixels that were copied.
    """
    gy, x, w = np.ascontiguousarray(gy), np.ascontiguousarray(x), np.ascontiguousarray(w)
    num_out, group_channels, *taps = w.shape
    out = gy.shape[2:]
    gx = np.zeros_like(x) if needs[0] else None
    gw = np.zeros_like(w) if needs[1] else None
    if gy.size == 0:
        return gx, gw
    if group_channels == 1 and groups == num_out == x.shape[1]:
        gx, gw = np.empty_like(x), np.empty_like(w)
        _depthwise_backward(gy, x, w[:, 0], stride, padding, dilation, gx, gw[:, 0])
        return gx if needs[0] else None, gw if needs[1] else None
    for g in range(groups):
        in_g = slice(g * group_channels, (g + 1) * group_channels)
        out_g = slice(g * num_out // groups, (g + 1) * num_out // groups)
        filters = w[out_g].reshape(num_out // groups, -1)  # (O/G, K)
        for part in _pieces(len(x), filters.shape[1] * out[0] * out[1] * x.itemsize):
            gy_rows = _channel_rows(gy[part, out_g])  # (O/G, n*PH*PW)
            if needs[1]:
                x_g = np.ascontiguousarray(x[part, in_g])
                columns = _columns(x_g, taps, slice(0, out[0]), out[1], stride, padding, dilation)
                gw[out_g] += (gy_rows @ columns.T).reshape(gw[out_g].shape)  # (O/G, K)
            if needs[0]:
                gx_g = np.empty((len(gy[part]), group_channels, *x.shape[2:]), x.dtype)
                _col2im(filters.T @ gy_rows, *taps, stride, padding, dilation, *out, gx_g)
                gx[part, in_g] = gx_g
    return gx, gw
