"""2-D convolution (cross-correlation, as the field calls it): forward, input gradient, weight gradient.

Letters: N images, C input channels, O output channels, G groups, H W input size, KH KW kernel size,
PH PW output size, S stride, P padding, D dilation.

    y[n, o, i, j] = b[o] + sum over c, u, v of w[o, c, u, v] * x[n, c, i*S - P + u*D, j*S - P + v*D]

The gradients follow from the sum: w[o, c, u, v] meets x[.., i*S - P + u*D, ..] in y[.., i, ..] only, so
x receives w * gy from there, and w receives x * gy, summed over all n, i, j.

Read `_forward`, `_input_gradient` and `_weight_gradient` first: the plain loops, which say all of it. They
run for float64 (gradient checks) and where no vector unit is known. The same sums, many times as fast in
float32, are in conv_fast.py and conv_tile_weights.py; one filter a channel (C = G = O) is in depthwise.py.
tests/test_conv_tile.py holds them together.
"""

from __future__ import annotations

import numpy as np

import minidetect.kernels.conv_fast as conv_fast
import minidetect.kernels.conv_tile_weights as conv_tile_weights
from minidetect.kernels.depthwise import add_row, depthwise_backward, depthwise_forward, tap_range
from minidetect.kernels.device import on_either_device
from minidetect.kernels.dispatch import parallel_kernel, prange
from minidetect.kernels.simd import LANES


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How many positions a kernel has along an axis: every tap must lie inside the padded input."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


# ---------------------------------------------------------------------------------------- the plain loops


@parallel_kernel
def _forward(x, w, b, stride, padding, dilation, y):
    """x (N, C, H, W), w (O, C, KH, KW), b (O,) -> y (N, O, PH, PW)."""
    filters, channels, kernel_h, kernel_w = w.shape
    for plane in prange(y.shape[0] * filters):
        n, o = plane // filters, plane % filters
        y[n, o] = b[o]
        for c in range(channels):
            for u in range(kernel_h):
                i0, i1, top = tap_range(u, x.shape[2], y.shape[2], stride, padding, dilation)
                for v in range(kernel_w):
                    j0, j1, left = tap_range(v, x.shape[3], y.shape[3], stride, padding, dilation)
                    for i in range(i0, i1):
                        row = x[n, c, top + (i - i0) * stride]
                        add_row(y[n, o, i, j0:j1], w[o, c, u, v], row, left, stride)


@parallel_kernel
def _input_gradient(gy, w, stride, padding, dilation, gx):
    """gy (N, O, PH, PW) -> gx (N, C, H, W)."""
    filters, channels, kernel_h, kernel_w = w.shape
    for plane in prange(gx.shape[0] * channels):  # a plane is written by one iteration alone: no race
        n, c = plane // channels, plane % channels
        gx[n, c] = 0
        for o in range(filters):
            for u in range(kernel_h):
                i0, i1, top = tap_range(u, gx.shape[2], gy.shape[2], stride, padding, dilation)
                for v in range(kernel_w):
                    j0, j1, left = tap_range(v, gx.shape[3], gy.shape[3], stride, padding, dilation)
                    for i in range(i0, i1):
                        row, source = gx[n, c, top + (i - i0) * stride], gy[n, o, i, j0:j1]
                        for j in range(source.size):
                            row[left + j * stride] += w[o, c, u, v] * source[j]


@parallel_kernel
def _weight_gradient(gy, x, stride, padding, dilation, gw):
    """gy (N, O, PH, PW), x (N, C, H, W) -> gw (O, C, KH, KW)."""
    filters, channels, kernel_h, kernel_w = gw.shape
    for pair in prange(filters * channels):
        o, c = pair // channels, pair % channels
        for u in range(kernel_h):
            i0, i1, top = tap_range(u, x.shape[2], gy.shape[2], stride, padding, dilation)
            for v in range(kernel_w):
                j0, j1, left = tap_range(v, x.shape[3], gy.shape[3], stride, padding, dilation)
                total = gw.dtype.type(0)
                for n in range(len(x)):
                    for i in range(i0, i1):
                        row, source = x[n, c, top + (i - i0) * stride], gy[n, o, i, j0:j1]
                        for j in range(source.size):
                            total += source[j] * row[left + j * stride]
                gw[o, c, u, v] = total


# ------------------------------------------------------------------------------------------- entry points

# Of a 1x1 convolution: up to so many, what follows may be a pass of its own, since all is still in the cache.
MATRIX_POSITIONS = 2000


def _has_tiles(x: np.ndarray) -> bool:
    return LANES > 1 and x.dtype == np.float32


@on_either_device
def conv2d_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: int, padding: int, dilation: int, groups: int, *,
    slope: np.ndarray | None = None, residual: np.ndarray | None = None, activate_last: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """x (N, C, H, W), w (O, C/G, KH, KW), b (O,) or None -> y (N, O, PH, PW).

    What often follows a convolution can be done on the way, while its output is still in a register:
    y = act(conv + b) + residual, or with activate_last y = act(conv + b + residual).

    slope: (O,), act(v) = v where positive, else slope[o] * v (zeros: ReLU, a PReLU's own: PReLU); None: act is
    nothing. residual: like y, or None. out: contiguous, like y, is filled and returned; None makes a new one.
    """
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    num_out, group_channels, kernel_h, kernel_w = w.shape
    out_h = output_size(x.shape[2], kernel_h, stride, padding, dilation)
    out_w = output_size(x.shape[3], kernel_w, stride, padding, dilation)
    y = np.empty((len(x), num_out, out_h, out_w), x.dtype) if out is None else out
    if y.size == 0:
        return y
    after = {"slope": slope, "residual": residual, "activate_last": activate_last}
    if group_channels == 1 and groups == num_out == x.shape[1]:
        return depthwise_forward(x, w, b, stride, padding, dilation, **after, out=y)
    if groups > 1:
        for inputs, outputs in channel_groups(x.shape[1], num_out, groups):
            b_g, slope_g = (None if a is None else a[outputs] for a in (b, slope))
            residual_g = None if residual is None else residual[:, outputs]
            y[:, outputs] = conv2d_forward(
                x[:, inputs], w[outputs], b_g, stride, padding, dilation, 1,
                slope=slope_g, residual=residual_g, activate_last=activate_last,
            )  # fmt: skip
        return y
    residual = None if residual is None else np.ascontiguousarray(residual)
    nothing_follows = b is None and slope is None and residual is None
    if not _has_tiles(x):
        _forward(x, w, np.zeros(num_out, x.dtype) if b is None else b, stride, padding, dilation, y)
        _finish(y, **after)
    elif conv_fast.is_matrix(x, w, stride, padding) and (nothing_follows or out_h * out_w <= MATRIX_POSITIONS):
        conv_fast.matrix_forward(x, w, b, y)
        if slope is not None or residual is not None:
            _finish(y, **after)
    else:
        conv_fast.forward(x, w, b, stride, padding, dilation, y, **after)
    return y


def _finish(y: np.ndarray, slope: np.ndarray | None, residual: np.ndarray | None, activate_last: bool) -> None:
    """The activation and the residual of conv2d_forward, in place."""
    if residual is not None and activate_last:
        y += residual
    if slope is not None:
        np.copyto(y, slope[:, None, None] * y, where=~(y > 0))
    if residual is not None and not activate_last:
        y += residual


@on_either_device
def conv2d_backward(
    gy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: int, dilation: int, groups: int,
    needs: tuple[bool, bool] = (True, True),
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """gy (N, O, PH, PW) -> the gradients of x and of w, None for one that is not needed."""
    gy, x, w = np.ascontiguousarray(gy), np.ascontiguousarray(x), np.ascontiguousarray(w)
    num_out, group_channels = w.shape[:2]
    if gy.size == 0:
        return np.zeros_like(x) if needs[0] else None, np.zeros_like(w) if needs[1] else None
    if group_channels == 1 and groups == num_out == x.shape[1]:
        return depthwise_backward(gy, x, w, stride, padding, dilation, needs)
    gx = np.empty_like(x) if needs[0] else None
    gw = np.empty_like(w) if needs[1] else None
    if groups > 1:
        for inputs, outputs in channel_groups(x.shape[1], num_out, groups):
            gx_g, gw_g = conv2d_backward(
                gy[:, outputs], x[:, inputs], w[outputs], stride, padding, dilation, 1, needs
            )
            if needs[0]:
                gx[:, inputs] = gx_g
            if needs[1]:
                gw[outputs] = gw_g
        return gx, gw
    if not _has_tiles(x):
        input_gradient, weight_gradient = _input_gradient, _weight_gradient
    elif conv_fast.is_matrix(x, w, stride, padding):
        input_gradient, weight_gradient = conv_fast.matrix_input_gradient, conv_fast.matrix_weight_gradient
    else:
        input_gradient, weight_gradient = conv_fast.input_gradient, conv_tile_weights.weight_gradient
    if needs[0]:
        input_gradient(gy, w, stride, padding, dilation, gx)
    if needs[1]:
        weight_gradient(gy, x, stride, padding, dilation, gw)
    return gx, gw


def channel_groups(channels: int, filters: int, groups: int) -> list[tuple[slice, slice]]:
    """The input and the output channels of each group."""
    c, o = channels // groups, filters // groups
    return [(slice(g * c, (g + 1) * c), slice(g * o, (g + 1) * o)) for g in range(groups)]
