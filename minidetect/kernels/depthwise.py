"""Depthwise convolution: every channel has a filter of its own, and no sum runs over channels.

Letters: N images, C channels, H W input size, KH KW kernel, PH PW output size, S stride, P padding, D dilation.

    y[n, c, i, j] = b[c] + sum over u, v of w[c, u, v] * x[n, c, i*S - P + u*D, j*S - P + v*D]

The plain loops here take any setting and type. For 3x3 filters of float32, depthwise_tile.py has the same
several times as fast; tests/test_depthwise.py holds both against the slow twin.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels import depthwise_tile
from minidetect.kernels.device import on_either_device
from minidetect.kernels.dispatch import kernel, parallel_kernel, prange
from minidetect.kernels.simd import LANES

# ------------------------------------------------------------------------------------- the plain loops


@kernel
def tap_range(tap, length, out_length, stride, padding, dilation):
    """Outputs first ... last - 1 along an axis read a real pixel through `tap`; `first` reads pixel `start`."""
    shift = tap * dilation - padding
    first = max(0, -(shift // stride))  # the smallest i with i * stride + shift >= 0
    last = min(out_length, (length - 1 - shift) // stride + 1)
    return first, max(first, last), first * stride + shift


@kernel
def add_row(out, weight, row, start, stride):
    """out[j] += weight * row[start + j * stride]"""
    if stride == 1:
        pixels = row[start:]
        for j in range(len(out)):
            out[j] += weight * pixels[j]
    else:
        for j in range(len(out)):
            out[j] += weight * row[start + j * stride]


@parallel_kernel
def _plain_forward(x, w, b, stride, padding, dilation, y):
    """x (N, C, H, W), w (C, KH, KW), b (C,) -> y (N, C, PH, PW)."""
    channels, height, width = x.shape[1:]
    for plane in prange(x.shape[0] * channels):
        n, c = plane // channels, plane % channels
        for i in range(y.shape[2]):
            y[n, c, i] = b[c]
            for u in range(w.shape[1]):
                yy = i * stride - padding + u * dilation
                if 0 <= yy < height:
                    for v in range(w.shape[2]):
                        first, last, xx = tap_range(v, width, y.shape[3], stride, padding, dilation)
                        add_row(y[n, c, i, first:last], w[c, u, v], x[n, c, yy], xx, stride)


@parallel_kernel
def _plain_input_gradient(gy, w, stride, padding, dilation, gx):
    """The transpose: what y[i, j] took from a pixel, its gradient gives back to that pixel."""
    channels, height, width = gx.shape[1:]
    for plane in prange(gx.shape[0] * channels):
        n, c = plane // channels, plane % channels
        gx[n, c] = 0
        for i in range(gy.shape[2]):
            for u in range(w.shape[1]):
                yy = i * stride - padding + u * dilation
                if 0 <= yy < height:
                    for v in range(w.shape[2]):
                        first, last, xx = tap_range(v, width, gy.shape[3], stride, padding, dilation)
                        for j in range(last - first):
                            gx[n, c, yy, xx + j * stride] += w[c, u, v] * gy[n, c, i, first + j]


@parallel_kernel
def _plain_weight_gradient(gy, x, stride, padding, dilation, gw):
    """gw[c, u, v] = sum over n, i, j of gy[n, c, i, j] * the pixel that y[n, c, i, j] took through u, v."""
    height, width = x.shape[2:]
    for c in prange(x.shape[1]):  # all images share a channel's filter: one iteration owns it
        gw[c] = 0
        for n in range(x.shape[0]):
            for i in range(gy.shape[2]):
                for u in range(gw.shape[1]):
                    yy = i * stride - padding + u * dilation
                    if 0 <= yy < height:
                        for v in range(gw.shape[2]):
                            first, last, xx = tap_range(v, width, gy.shape[3], stride, padding, dilation)
                            for j in range(last - first):
                                gw[c, u, v] += gy[n, c, i, first + j] * x[n, c, yy, xx + j * stride]


@parallel_kernel
def _finish(slope, residual, has_residual, activate_last, y):
    """What follows the sum, in place: y (planes, C, positions); see `depthwise_forward`."""
    channels = y.shape[1]
    for plane in prange(y.shape[0] * channels):
        n, c = plane // channels, plane % channels
        a, out, added = slope[c], y[n, c], residual[n, c]
        for p in range(y.shape[2]):
            v = out[p]
            if has_residual and activate_last:
                v += added[p]
            v = v if v > 0 else a * v
            if has_residual and not activate_last:
                v += added[p]
            out[p] = v


# ---------------------------------------------------------------------------------------- entry points


def _is_fast(stride: int, padding: int, dilation: int, *arrays: np.ndarray) -> bool:
    """Whether the vectors can do it; arrays: x, w and any others. The padding of the gradient is 2 - padding."""
    return (
        LANES > 1 and stride <= 2 and padding <= 2 and dilation == 1 and arrays[1].shape[2:] == (3, 3)
        and all(a.dtype == np.float32 for a in arrays)
    )  # fmt: skip


@on_either_device
def depthwise_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: int, padding: int, dilation: int, *,
    slope: np.ndarray | None = None, residual: np.ndarray | None = None, activate_last: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """x (N, C, H, W), w (C, 1, KH, KW), b (C,) or None -> y (N, C, PH, PW).

    slope (C,) or (1,), residual (like y): y = act(conv + b) + residual, or act(conv + b + residual) with
    activate_last; act(v) = v where positive, slope[c] * v elsewhere. None leaves a part out.
    out: an array to write y into (contiguous, of x's dtype); it must not share memory with the inputs.
    """
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    channels = x.shape[1]
    size = tuple(
        (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(x.shape[2:], w.shape[2:], strict=True)
    )
    y = np.empty((x.shape[0], channels, *size), x.dtype) if out is None else out
    if y.shape != (x.shape[0], channels, *size) or y.dtype != x.dtype or not y.flags.c_contiguous:
        raise ValueError(f"out must be a contiguous {x.dtype} {(x.shape[0], channels, *size)}, got {y.dtype} {y.shape}")
    if y.size == 0:
        return y
    bias = np.zeros(channels, x.dtype) if b is None else np.ascontiguousarray(b, x.dtype)
    slopes = np.ones(channels, x.dtype)
    if slope is not None:
        slopes[:] = slope
    later = residual is not None and activate_last  # the activation waits for the residual
    if _is_fast(stride, padding, dilation, x, w):
        depthwise_tile.forward(x, w[:, 0], bias, np.ones_like(slopes) if later else slopes, stride, padding, 1, y)
        if residual is None:
            return y
        if not later:
            slopes[:] = 1
    else:
        _plain_forward(x, w[:, 0], bias, stride, padding, dilation, y)
    if slope is not None or residual is not None:
        planes = y.reshape(*y.shape[:2], -1)  # (N, C, PH*PW)
        added = planes if residual is None else np.ascontiguousarray(residual, x.dtype).reshape(planes.shape)
        _finish(slopes, added, residual is not None, activate_last, planes)
    return y


@on_either_device
def depthwise_backward(
    gy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: int, dilation: int,
    needs: tuple[bool, bool] = (True, True),
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """gy (N, C, PH, PW) -> the gradients of x (N, C, H, W) and w (C, 1, KH, KW), None for one not needed.

    The input gradient is again a depthwise convolution: of gy, with stride - 1 zeros between its pixels, by
    the filter turned by 180 degrees.
    """
    gy, x, w = np.ascontiguousarray(gy), np.ascontiguousarray(x), np.ascontiguousarray(w)
    if gy.size == 0:
        return np.zeros_like(x) if needs[0] else None, np.zeros_like(w) if needs[1] else None
    gx = np.empty_like(x) if needs[0] else None
    gw = np.empty_like(w) if needs[1] else None
    fast = _is_fast(stride, padding, dilation, x, w, gy)
    if needs[0] and fast:
        turned = np.ascontiguousarray(w[:, 0, ::-1, ::-1])
        none = np.zeros(x.shape[1], np.float32)
        depthwise_tile.forward(gy, turned, none, none + 1, 1, 2 - padding, stride, gx)
    elif needs[0]:
        _plain_input_gradient(gy, w[:, 0], stride, padding, dilation, gx)
    if needs[1] and fast:
        depthwise_tile.weight_gradient(gy, x, stride, padding, gw)
    elif needs[1]:
        _plain_weight_gradient(gy, x, stride, padding, dilation, gw[:, 0])
    return gx, gw
